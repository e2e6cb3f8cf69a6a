//! Processes of a gateway that runs as root, as an administrator looks at them; and sessions beside.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use super::{Gateway, run_ok, wait_for};

/// Sends a signal to one that may have ended. One that is told to stop has when this returns: until its
/// turn comes, a thread that took the signal leaves the others running.
pub fn kill(signal: &str, pid: u32) {
    let mut kill = Command::new("kill");
    let _ = kill.args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
    if signal == "-STOP" {
        wait_for("it to stand still", || is_still(pid));
    }
}

/// None of its threads runs, if there are any.
fn is_still(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let states = tasks.flatten().map(|task| fs::read_to_string(task.path().join("status")));
    states.flatten().all(|status| {
        ["T", "Z", "X"].iter().any(|state| status.contains(&format!("State:\t{state}")))
    })
}

/// The only process that does this part.
pub fn part(gateway: &Gateway, name: &str) -> u32 {
    let found = gateway.parts(name);
    assert_eq!(found.len(), 1, "{name}: {found:?}\n{}", gateway.log());
    found[0]
}

pub fn field(pid: u32, name: &str) -> String {
    field_if_there(pid, name).expect("its status")
}

/// `None`: it has ended.
pub fn field_if_there(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A session in which what is typed comes back.
pub struct Session(pub Child);

impl Session {
    pub fn begin(gateway: &Gateway, user: &str) -> Session {
        Session::begin_with(gateway, user, &[])
    }

    pub fn begin_with(gateway: &Gateway, user: &str, options: &[&str]) -> Session {
        let user = format!("User={user}");
        let mut ssh = gateway.ssh(&[&[&*user], options].concat(), &["cat"]);
        let ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut session = Session(ssh.expect("ssh starts"));
        session.assert_well();
        session
    }

    pub fn assert_well(&mut self) {
        self.0.stdin.as_mut().expect("input").write_all(b"still here\n").expect("typed");
        let mut back = [0; 11];
        self.0.stdout.as_mut().expect("output").read_exact(&mut back).expect("an echo");
        assert_eq!(&back, b"still here\n");
    }
}

impl Session {
    /// So many bytes go and come back.
    pub fn assert_moves(&mut self, len: usize) {
        let (input, output) = (self.0.stdin.as_mut(), self.0.stdout.as_mut());
        let (input, output) = (input.expect("input"), output.expect("output"));
        let (sent, mut back) = (vec![b'x'; len], vec![0; len]);
        std::thread::scope(|scope| {
            scope.spawn(|| input.write_all(&sent).expect("typed"));
            output.read_exact(&mut back).expect("all of it");
        });
        assert!(back == sent);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that has no account's rights, no group's, and no way to get any.
pub fn assert_without_rights(pid: u32) {
    let ids = field(pid, "Uid:");
    let ids: BTreeSet<&str> = ids.split(' ').collect();
    assert!(ids.len() == 1 && !ids.contains("0"), "{ids:?}");
    assert!(!field(pid, "Gid:").split(' ').any(|id| id == "0"));
    assert_eq!(field(pid, "Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!((field(pid, "NoNewPrivs:"), field(pid, "Seccomp:")), ("1".into(), "2".into()));
    // Every thread, not the first alone.
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten() {
        // Some end by themselves.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
        for line in ["Seccomp:\t2\n", "NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n"] {
            assert!(status.contains(line), "{status}");
        }
    }
    let root = fs::read_link(format!("/proc/{pid}/root")).expect("its root");
    assert_ne!(root, std::path::Path::new("/"));
    assert_eq!(fs::read_dir(&root).expect("a directory").count(), 0, "{}", root.display());
    assert_limits(pid, &["Max processes", "Max file size", "Max core file size"]);
    let shown = run_ok(Command::new("ps").args(["-o", "user=", "-p", &pid.to_string()]));
    assert_ne!(String::from_utf8_lossy(&shown.stdout).trim(), "root");
}

/// It may have none of these.
pub fn assert_limits(pid: u32, of: &[&str]) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    for what in of {
        let line = limits.lines().find(|line| line.starts_with(what)).expect("a limit");
        let words: Vec<&str> = line[what.len()..].split_whitespace().collect();
        assert_eq!(&words[..2], ["0", "0"], "{line}");
    }
}

/// Nothing is open but what begins with these.
pub fn assert_open(pid: u32, plain: &[&str]) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let to = |fd: fs::DirEntry| fs::read_link(fd.path()).unwrap_or_default().display().to_string();
    let all: Vec<String> = descriptors.map(to).collect();
    let odd = all.iter().find(|to| !plain.iter().any(|start| to.starts_with(start)));
    assert_eq!(odd, None);
    all.len()
}

fn contains(bytes: &[u8], secret: &[u8]) -> bool {
    let (at, wanted) = (bytes.as_ptr().cast(), secret.as_ptr().cast());
    // SAFETY: both are read, within their lengths.
    let found = unsafe { nix::libc::memmem(at, bytes.len(), wanted, secret.len()) };
    !found.is_null()
}

/// Whether a process has these bytes in its memory.
pub fn has(pid: u32, secret: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its map");
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    maps.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        let (start, end) = range.split_once('-').expect("a range");
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("an address"));
        // What nobody has touched is not there; large pools are read in pieces.
        rights.starts_with('r')
            && (start..end).step_by(1 << 20).any(|at| {
                let len = (end - at).min((1 << 20) + secret.len() as u64);
                let mut piece = vec![0; len as usize];
                memory.read_exact_at(&mut piece, at).is_ok() && contains(&piece, secret)
            })
    })
}

/// The seed of an Ed25519 key in OpenSSH's format: it stands before the public half, the second time
/// that one comes.
pub fn seed(path: &std::path::Path) -> Vec<u8> {
    let key = fs::read_to_string(path).expect("a key");
    let text: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let mut decode = Command::new("base64");
    let decode = decode.arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut decode = decode.spawn().expect("base64 starts");
    decode.stdin.take().expect("input").write_all(text.as_bytes()).expect("written");
    let bytes = decode.wait_with_output().expect("its output").stdout;
    let mark = b"\0\0\0\x20";
    let at = bytes.windows(4).position(|window| window == mark).expect("a public half") + 4;
    let public = &bytes[at..at + 32];
    let last = bytes.windows(32).rposition(|window| window == public).expect("the pair");
    bytes[last - 32..last].to_vec()
}

pub fn wait_for_the_end_of(pid: u32) {
    wait_for("a part to end", || {
        let state = fs::read_to_string(format!("/proc/{pid}/status"));
        state.is_ok_and(|state| state.contains("State:\tZ")) || !is_there(pid)
    });
}

fn is_there(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}
