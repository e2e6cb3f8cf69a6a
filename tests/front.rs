//! `tidegate sshd` in the place of sshd: its flags, its life as a service, and reloads, with
//! OpenSSH's own client and, where it is installed, sshd itself beside it.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

mod support;
#[path = "front/units.rs"]
mod units;
#[path = "front/upgrades.rs"]
mod upgrades;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::processes::kill;
use support::{free_port, keygen, log_with, noise, run_ok, sha256, wait_for};
use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";
const STOCK: &str = "/usr/share/openssh/sshd_config";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says that a test cannot run here, and why.
fn skip(why: &str) {
    println!("not run: {why}");
}

/// A folder with keys and a configuration, and the port that it names.
struct Site {
    folder: TempDir,
    port: u16,
}

impl Site {
    fn new(lines: &[&str]) -> Site {
        let site = Site { folder: tempfile::tempdir().expect("a folder"), port: free_port() };
        keygen(&site.path("host"), "ed25519", "");
        keygen(&site.path("user"), "ed25519", "");
        fs::copy(site.path("user.pub"), site.path("authorized_keys")).expect("a copy");
        // The file of keys is read with the account's rights.
        fs::set_permissions(site.folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
        site.configure(lines);
        site
    }

    /// Match lines, and what follows them, go to the end.
    fn configure(&self, lines: &[&str]) {
        let blocks = lines.iter().position(|line| line.starts_with("Match"));
        let (lines, blocks) = lines.split_at(blocks.unwrap_or(lines.len()));
        let at = self.folder.path().display();
        let text = format!(
            "{}\nPort {}\nListenAddress 127.0.0.1\nHostKey {at}/host\nStrictModes no\n\
             AuthorizedKeysFile {at}/authorized_keys\nPermitRootLogin yes\nPidFile {at}/pid\n\
             PerSourcePenalties no\n\
             Subsystem sftp internal-sftp\nTidegateReactors 2\nTidegateDriver {}\n{}\n",
            lines.join("\n"),
            self.port,
            support::driver().unwrap_or("auto".to_owned()),
            blocks.join("\n")
        );
        fs::write(self.path("config"), text).expect("a configuration");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with nothing but its environment set.
    fn bare(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("sshd").args(words).stdin(Stdio::null());
        command.env("TIDEGATE_TEST_SYSLOG", self.path("syslog"));
        // There are no records in it, so none are written to this machine's.
        command.env("TIDEGATE_TEST_LOGINS", self.folder.path());
        command.env("TIDEGATE_TEST_IDLE_TIME", "300");
        command
    }

    fn sshd(&self, words: &[&str]) -> Command {
        let mut command = self.bare(words);
        command.arg("-f").arg(self.path("config"));
        command
    }

    /// In the foreground, serving; its lines go to the file `log`.
    fn running(&self, words: &[&str]) -> Running {
        let log = self.path("log");
        let child = self.sshd(words).arg("-DE").arg(&log).stderr(Stdio::null()).spawn();
        let mut running = Running(child.expect("the program starts"));
        wait_for("the gateway to listen", || {
            assert!(running.0.try_wait().expect("its state").is_none(), "{}", self.log());
            // The PidFile comes after the line.
            self.log().contains("Serving with") && self.pid().is_some()
        });
        running
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn wait_for_log(&self, line: &str, times: usize) {
        log_with(line, times, || self.log());
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.path("pid")).ok()?.trim().parse().ok()
    }

    fn client(&self, program: &str, options: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(["-F", "/dev/null"]);
        for option in options {
            command.args(["-o", option]);
        }
        for option in [
            format!("Port={}", self.port),
            format!("IdentityFile={}", self.path("user").display()),
            format!("UserKnownHostsFile={}", self.path("known").display()),
        ] {
            command.args(["-o", &option]);
        }
        for option in [
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=no",
            "LogLevel=ERROR",
            "BatchMode=yes",
            "ConnectTimeout=20",
        ] {
            command.args(["-o", option]);
        }
        command.stdin(Stdio::null());
        command
    }

    fn ssh(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.client("ssh", options);
        command.args(["127.0.0.1", script]);
        command
    }

    fn assert_serves(&self) {
        let output = self.ssh(&[], "echo served").output().expect("ssh starts");
        assert_eq!(text(&output.stdout), "served\n", "{output:?}\n{}", self.log());
    }

    /// A session that answers each line with the same line.
    fn session(&self, options: &[&str]) -> Session {
        let mut command = self.ssh(options, "cat");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh starts");
        let reader = BufReader::new(child.stdout.take().expect("its output"));
        let mut session = Session { child: Running(child), reader };
        session.assert_alive();
        session
    }
}

impl Drop for Site {
    /// What is still in the background ends, by its number.
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            kill("-TERM", pid);
            let start = Instant::now();
            while is_there(pid) && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A child that ends with the value.
struct Running(Child);

impl Running {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("its state") {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            kill("-TERM", self.0.id());
            for _ in 0..200 {
                if let Ok(Some(_)) = self.0.try_wait() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

struct Session {
    child: Running,
    reader: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn assert_alive(&mut self) {
        let input = self.child.0.stdin.as_mut().expect("its input");
        input.write_all(b"still there?\n").expect("the session takes input");
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the session answers");
        assert_eq!(line, "still there?\n");
    }

    fn end(mut self) -> ExitStatus {
        drop(self.child.0.stdin.take());
        self.child.end()
    }
}

/// A field of /proc/PID/stat behind the name, counted from the state.
fn stat(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(field).map(str::to_owned)
}

/// Not counting one that only waits to be reaped by whoever took it on.
fn is_there(pid: u32) -> bool {
    stat(pid, 0).is_some_and(|state| state != "Z")
}

fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let ours = |pid: &u32| stat(*pid, 1) == Some(parent.to_string());
    pids.filter(ours).filter(|pid| is_there(*pid)).collect()
}

/// The process that serves behind the one that was started.
fn serving(front: u32) -> u32 {
    let [serving] = children(front)[..] else { panic!("{front} has one child") };
    serving
}

/// The processes that it has started for accounts.
fn of_accounts(serving: u32) -> Vec<u32> {
    let words = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_one = |pid: &u32| words(pid).split('\0').nth(1) == Some("delegate");
    children(serving).into_iter().filter(is_one).collect()
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    (status.code().unwrap_or(-1), text(&stdout), text(&stderr))
}

/// Everything a datagram socket has received.
fn received(socket: &UnixDatagram) -> Vec<String> {
    socket.set_nonblocking(true).expect("a flag");
    let mut buffer = [0; 9000];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|len| text(&buffer[..len]))).collect()
}

#[test]
fn command_lines_end_with_the_status_of_sshd() {
    let site = Site::new(&[]);
    fs::write(site.path("wrong"), "Port 22\nFrobnicate yes\n").expect("a file");
    fs::write(site.path("value"), "MaxAuthTries lots\n").expect("a file");
    fs::write(site.path("device"), "ListenAddress 127.0.0.1 rdomain no-such\n").expect("a file");
    fs::write(site.path("bound"), "ListenAddress ::1 rdomain lo\nMatch RDomain lo\n")
        .expect("a file");
    fs::write(site.path("match"), "Match User ann\nPermitTTY no\n").expect("a file");
    let at = site.folder.path().display().to_string();
    let cases = [
        "-t -h AT/host -f none",
        "-T -h AT/host -f none",
        "-tdqD -e -i -r -Q -4 -6 -u0 -b 768 -k 1h -g 2m -hAT/host -fnone",
        "-x",
        "-p 0",
        "-p 65536",
        "-p nonsense",
        "-t -p ssh -h AT/host -f none",
        "-t -h AT/host -f none -oPort=ssh -oListenAddress=127.0.0.1:ssh",
        "-t -h AT/host -f none -oPort=nonsense",
        "-p",
        "-t extra -h AT/host",
        "-t -f AT/absent",
        "-t -f AT/wrong -h AT/host",
        "-t -f AT/value -h AT/host",
        "-t -f AT/device -h AT/host",
        "-T -f AT/bound -h AT/host -C user=a,host=h,addr=192.0.2.1,laddr=192.0.2.2,lport=22,rdomain=lo",
        "-t -h AT/absent -f none",
        "-t -h AT/absent -h AT/host -f none",
        "-t -f none -h AT/host -oFrobnicate=yes",
        "-t -f none -h AT/host -oPort=99999",
        "-t -f none -h AT/host -o Port=2200 -oX11Forwarding=no",
        "-t -g soon -f none -h AT/host",
        "-C user=ann -f none",
        "-T -f AT/match -h AT/host -C user=ann,host=h,addr=192.0.2.1,laddr=192.0.2.2,lport=22",
        "-T -f AT/match -h AT/host -C addr=192.0.2.1",
        "-T -f AT/match -h AT/host -C user=ann,host=h,addr=192.0.2.1,laddr=192.0.2.2,lport=ssh",
        "-T -f AT/match -h AT/host -C nonsense=1",
        "-T -f AT/match -h AT/host -C lport=0x",
        "-R",
    ];
    // sshd wants its directory, which root can make; others cannot judge by it.
    let judge = Path::new(SSHD).exists() && is_root() && Path::new("/run/sshd").exists();
    if !judge {
        skip("the comparison with sshd, which is not here or needs root and /run/sshd");
    }
    for case in cases {
        let words: Vec<String> = case.split(' ').map(|word| word.replace("AT", &at)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (ours, out, told) = run(&mut site.bare(&words));
        assert_eq!(ours == 0, told.lines().all(|l| l.contains("warning: ")), "{case}: {told}");
        if judge {
            let mut sshd = Command::new(SSHD);
            let (theirs, _, reason) = run(sshd.args(&words).stdin(Stdio::null()));
            assert_eq!(ours, theirs, "{case}: {told}\nsshd: {reason}");
        }
        assert_eq!(out.is_empty(), !(ours == 0 && case.starts_with("-T")), "{case}: {out}");
    }
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    let site = Site::new(&["LogLevel INFO", "PermitTTY perhaps"]);
    let (status, _, told) = run(&mut site.sshd(&["-t"]));
    let place = format!("{}:2: PermitTTY perhaps: ", site.path("config").display());
    assert!(status == 255 && told.contains(&place), "{status} {told}");
    // The same when it would serve, in the background or not.
    for words in [[].as_slice(), &["-D"], &["-d"]] {
        let (status, _, told) = run(&mut site.sshd(words));
        assert!(status == 255 && told.contains(&place), "{words:?}: {status} {told}");
    }
    // As sshd, which says nothing at all then.
    let (status, _, told) = run(&mut site.sshd(&["-q"]));
    assert!(status == 255 && told.is_empty(), "{status} {told}");
}

#[test]
fn settings_are_printed_for_a_connection() {
    let site = Site::new(&[
        "Match User ann Address 192.0.2.0/24",
        "PermitTTY no",
        "Match invalid-user",
        "PermitTTY no",
    ]);
    for (words, tty) in [
        (["-T", "-C", "user=ann,addr=192.0.2.7"], "no"),
        (["-T", "-C", "user=bob,addr=192.0.2.7"], "yes"),
        (["-G", "-C", "user=ann,addr=192.0.2.7,rdomain=x"], "no"),
        (["-G", "-C", "user=ann,addr=198.51.100.7"], "yes"),
        (["-G", "-C", "user=bob,invalid-user"], "no"),
        (["-G", "-C", "invalid-user"], "no"),
        // Whether a user exists is for whoever asks to say.
        (["-G", "-C", "user=no-such-user"], "yes"),
    ] {
        let (status, out, told) = run(&mut site.sshd(&words));
        assert_eq!((status, told.as_str()), (0, ""));
        assert!(out.contains(&format!("permittty {tty}\n")), "{words:?}: {out}");
        assert!(out.contains(&format!("port {}\n", site.port)), "{out}");
    }
    // Only -G does without host keys.
    fs::remove_file(site.path("host")).expect("the key goes");
    assert_eq!(run(&mut site.sshd(&["-G"])).0, 0);
    let (status, _, told) = run(&mut site.sshd(&["-T"]));
    assert!(status == 1 && told.contains("no host key can be used"), "{status} {told}");
}

#[test]
fn the_name_sshd_is_enough() {
    let site = Site::new(&[]);
    let name = site.path("sshd");
    symlink(env!("CARGO_BIN_EXE_tidegate"), &name).expect("a link");
    let (status, out, told) = run(Command::new(&name).arg("-V"));
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(told.starts_with("Tidegate_"), "{told}");
    assert_eq!(run(Command::new(&name).arg("-t").arg("-f").arg(site.path("config"))).0, 0);
    // What would be a command of tidegate is no word for sshd.
    let (status, _, told) = run(Command::new(&name).arg("serve"));
    assert!(status == 1 && told.contains("extra argument serve"), "{status} {told}");
}

#[test]
fn without_d_it_goes_into_the_background_and_logs_to_syslog() {
    let site = Site::new(&["SyslogFacility LOCAL3"]);
    let syslog = UnixDatagram::bind(site.path("syslog")).expect("a logger");
    // A descriptor that is not ours must not be kept open: somebody may wait for its end.
    let (mut hears, tells) = std::io::pipe().expect("a pipe");
    let mut command = site.sshd(&[]);
    let status = command.stdout(tells.try_clone().expect("a copy")).stderr(tells).status();
    assert_eq!(status.expect("the program starts").code(), Some(0));
    drop(command);
    let mut told = String::new();
    hears.read_to_string(&mut told).expect("the end");
    assert_eq!(told, "");
    let pid = site.pid().expect("a PidFile once the caller has ended");
    assert_ne!(stat(pid, 1), Some(std::process::id().to_string()), "it is nobody's child");
    assert_eq!(stat(pid, 4).as_deref(), Some("0"), "it has no terminal");
    assert_ne!(stat(pid, 3), Some(pid.to_string()), "it cannot get one either");
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).expect("a link");
    assert_eq!(link("cwd"), PathBuf::from("/"));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(fd), PathBuf::from("/dev/null"));
    }
    site.assert_serves();
    let mut lines = Vec::new();
    wait_for("the log", || {
        lines.extend(received(&syslog));
        lines.iter().any(|line| line.contains("Accepted publickey"))
    });
    // LOCAL3 is 19; INFO is 6.
    let behind = serving(pid);
    let listening = format!(" sshd[{behind}]: Server listening on 127.0.0.1 port {}.", site.port);
    let line = lines.iter().find(|line| line.ends_with(&listening)).expect("the first line");
    assert!(line.starts_with("<158>") && line.len() == 5 + 15 + listening.len(), "{line}");
    kill("-TERM", pid);
    wait_for("its end", || !is_there(pid));
    assert!(site.pid().is_none(), "the PidFile goes");
    assert!(
        received(&syslog).iter().any(|line| line.ends_with("Received signal 15; terminating."))
    );
}

#[test]
fn a_start_that_fails_is_told_to_whoever_started_it() {
    let site = Site::new(&[]);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).expect("the port");
    let (status, _, told) = run(&mut site.sshd(&[]));
    assert_eq!(status, 255, "{told}");
    assert!(told.contains(&format!("cannot listen on 127.0.0.1:{}", site.port)), "{told}");
    assert!(site.pid().is_none());
    let log = site.path("log");
    let (status, _, told) = run(site.sshd(&[]).arg("-E").arg(&log));
    assert!(status == 255 && told.contains("cannot listen on"), "{status} {told}");
    drop(taken);
    assert_eq!(run(site.sshd(&[]).arg("-E").arg(&log)).0, 0);
    site.assert_serves();
    site.wait_for_log("Accepted publickey", 1);
}

#[test]
fn with_d_it_stays_and_with_e_it_logs_to_standard_error() {
    let site = Site::new(&[]);
    let mut running = site.running(&[]);
    assert_eq!(site.pid(), Some(running.pid()), "-D has a PidFile too");
    assert_eq!(stat(running.pid(), 1), Some(std::process::id().to_string()));
    site.assert_serves();
    kill("-TERM", running.pid());
    assert_eq!(running.end().code(), Some(0));
    assert!(site.pid().is_none());

    let child = site.sshd(&["-De", "-oPidFile=none"]).stderr(Stdio::piped()).spawn();
    let mut running = Running(child.expect("it starts"));
    let mut lines = BufReader::new(running.0.stderr.take().expect("its log")).lines();
    let listening = format!("Server listening on 127.0.0.1 port {}.", site.port);
    assert!(lines.any(|line| line.expect("a line").ends_with(&listening)));
    kill("-INT", running.pid());
    assert!(lines.any(|line| line.expect("a line").ends_with("Received signal 2; terminating.")));
    running.end();
    assert!(site.pid().is_none());

    let syslog = UnixDatagram::bind(site.path("syslog")).expect("a logger");
    let mut quiet = site.sshd(&["-Dq"]);
    let mut quiet = Running(quiet.stderr(Stdio::piped()).spawn().expect("it starts"));
    wait_for("the gateway to listen", || site.pid().is_some());
    site.assert_serves();
    kill("-TERM", quiet.pid());
    quiet.end();
    let mut told = String::new();
    quiet.0.stderr.take().expect("its log").read_to_string(&mut told).expect("its end");
    assert_eq!((told.as_str(), received(&syslog).len()), ("", 0));
}

#[test]
fn debugging_serves_one_connection_and_ends() {
    let site = Site::new(&["LoginGraceTime 1"]);
    for letters in ["-d", "-ddd"] {
        let log = fs::File::create(site.path("log")).expect("a log");
        let mut running = Running(site.sshd(&[letters]).stderr(log).spawn().expect("it starts"));
        site.wait_for_log("Server listening on", 1);
        site.assert_serves();
        assert_eq!(running.end().code(), Some(0), "{}", site.log());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).is_err());
        assert!(site.pid().is_none(), "debugging has no PidFile");
        site.wait_for_log("Accepted publickey", 1);
    }
    // Somebody who looks for what is wrong is not thrown out: the grace time does not count.
    let log = fs::File::create(site.path("log")).expect("a log");
    let mut running = Running(site.sshd(&["-d"]).stderr(log).spawn().expect("it starts"));
    site.wait_for_log("Server listening on", 1);
    let mut idle = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("a connection");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(running.0.try_wait().expect("its state").is_none(), "{}", site.log());
    let mut begin = [0; 8];
    idle.read_exact(&mut begin).expect("its identification");
    assert_eq!(&begin, b"SSH-2.0-");
    drop(idle);
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn standard_streams_are_a_connection() {
    let site = Site::new(&[]);
    let proxy = format!(
        "ProxyCommand={} sshd -i -f {}",
        env!("CARGO_BIN_EXE_tidegate"),
        site.path("config").display()
    );
    // Two pipes, as ssh makes them.
    let output = site.ssh(&[&proxy], "echo out; echo err >&2; exit 7").output().expect("ssh");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n".into(), "err\n".into()));
    fs::write(site.path("in"), noise(8 << 20, 3)).expect("a file");
    let input = fs::File::open(site.path("in")).expect("the file");
    let output = run_ok(site.ssh(&[&proxy], "cat").stdin(input));
    assert!(output.stdout == fs::read(site.path("in")).expect("the file"));
    let batch = format!("get {} {}\n", site.path("in").display(), site.path("out").display());
    fs::write(site.path("batch"), batch).expect("a batch");
    let mut sftp = site.client("sftp", &[&proxy]);
    run_ok(sftp.arg("-b").arg(site.path("batch")).arg("x"));
    assert_eq!(sha256(&site.path("in")), sha256(&site.path("out")));
    assert!(site.pid().is_none(), "no PidFile");
}

#[test]
fn a_socket_as_inetd_gives_it_is_a_connection() {
    let site = Site::new(&[]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).expect("the port");
    let client = site.ssh(&[], "echo $SSH_CONNECTION").stdout(Stdio::piped()).spawn();
    let mut client = Running(client.expect("ssh starts"));
    let (socket, peer) = listener.accept().expect("a connection");
    let socket = OwnedFd::from(socket);
    let mut command = site.sshd(&["-ie"]);
    command.stdin(socket.try_clone().expect("a copy")).stdout(socket).stderr(Stdio::null());
    let mut server = Running(command.spawn().expect("it starts"));
    drop(command);
    let mut out = String::new();
    client.0.stdout.take().expect("its output").read_to_string(&mut out).expect("its end");
    assert_eq!(out, format!("127.0.0.1 {} 127.0.0.1 {}\n", peer.port(), site.port));
    assert_eq!((client.end().code(), server.end().code()), (Some(0), Some(0)));

    // A pair of sockets without addresses; what is wrong is not said into the connection.
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let theirs = OwnedFd::from(theirs);
    let mut command = site.sshd(&["-i", "-oPort=nonsense"]);
    let copies = [theirs.try_clone().expect("a copy"), theirs.try_clone().expect("a copy")];
    let [input, output] = copies;
    let child = command.stdin(input).stdout(output).stderr(theirs).spawn();
    assert_eq!(Running(child.expect("it starts")).end().code(), Some(255));
    drop(command);
    let mut said = String::new();
    ours.read_to_string(&mut said).expect("the end");
    assert_eq!(said, "");
}

#[test]
fn a_reload_keeps_sessions_and_counts_for_new_ones() {
    // So many connections that come to nothing would draw a penalty.
    let calm = "PerSourcePenalties no";
    let site = Site::new(&[calm]);
    let running = site.running(&[]);
    let mut early = site.session(&[]);
    let refused = AtomicUsize::new(0);
    let (over, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // Not one connection is refused, and each is greeted, whenever it comes.
        scope.spawn(|| {
            // The limit is for a test that fails: its panic must not wait for us.
            let start = Instant::now();
            while !over.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(120) {
                tries.fetch_add(1, Ordering::Relaxed);
                // Not all the time of the processors, which others test on.
                std::thread::sleep(Duration::from_millis(2));
                let greeted =
                    TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).and_then(|mut s| {
                        s.set_read_timeout(Some(Duration::from_secs(20)))?;
                        s.read_exact(&mut [0; 4])
                    });
                if greeted.is_err() {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for n in 1..=10 {
            site.configure(&[calm, &format!("SetEnv ROUND={n}")]);
            kill("-HUP", running.pid());
            site.wait_for_log("is in force for new connections", n);
            let output = run_ok(&mut site.ssh(&[], "echo $ROUND"));
            assert_eq!(text(&output.stdout), format!("{n}\n"), "{}", site.log());
            early.assert_alive();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(tries.load(Ordering::Relaxed) > 20);
    assert_eq!(refused.load(Ordering::Relaxed), 0, "of {tries:?}");
    assert_eq!(site.pid(), Some(running.pid()), "the same process, as systemd wants it");

    // Nothing new is no reason for anything.
    kill("-HUP", running.pid());
    site.wait_for_log("Nothing has changed", 1);
    // What is wrong leaves everything as it was, and says so.
    for (n, line) in
        ["Frobnicate yes", "HostKey /nonexistent", "ListenAddress 192.0.2.1"].iter().enumerate()
    {
        site.configure(&[line, calm, "SetEnv ROUND=never"]);
        if n > 0 {
            let config = fs::read_to_string(site.path("config")).expect("the configuration");
            let host = format!("HostKey {}\n", site.path("host").display());
            let config = config.replace(&host, "").replace("ListenAddress 127.0.0.1\n", "");
            let config = config + if n == 2 { &host } else { "ListenAddress 127.0.0.1\n" };
            fs::write(site.path("config"), config).expect("a file");
        }
        kill("-HUP", running.pid());
        site.wait_for_log("The configuration from before stays in force", n + 1);
        let output = run_ok(&mut site.ssh(&[], "echo $ROUND"));
        assert_eq!(text(&output.stdout), "10\n", "{line}: {}", site.log());
    }
    let log = site.log();
    let place =
        format!("{}:1: Frobnicate: there is no such keyword", site.path("config").display());
    assert!(log.contains(&place) && log.contains("/nonexistent: No such file"), "{log}");
    early.assert_alive();
    assert_eq!(early.end().code(), Some(0));
    // Earlier generations end with their connections: the threads of one are left.
    let threads = || {
        fs::read_dir(format!("/proc/{}/task", serving(running.pid()))).map_or(0, Iterator::count)
    };
    wait_for("earlier generations to end", || threads() < 20);
}

#[test]
fn sessions_outlive_the_host_key_and_the_port_they_came_by() {
    let mut site = Site::new(&[]);
    let running = site.running(&[]);
    // It agrees on new keys all the time, for which the key that it knows must still be there.
    let mut early = site.session(&["RekeyLimit=64K"]);
    let old_port = site.port;
    fs::remove_file(site.path("host")).expect("the old key");
    keygen(&site.path("host"), "ecdsa", "256");
    site.port = free_port();
    site.configure(&[]);
    kill("-HUP", running.pid());
    site.wait_for_log("is in force for new connections", 1);
    wait_for("the old port to close", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, old_port)).is_err()
    });
    fs::remove_file(site.path("known")).expect("the old host");
    site.assert_serves();
    let known = fs::read_to_string(site.path("known")).expect("the new host");
    assert!(known.contains("ecdsa-sha2-nistp256"), "{known}");
    let line = [b"x".repeat(300_000).as_slice(), b"\n"].concat();
    let mut input = early.child.0.stdin.take().expect("its input");
    let sent = line.clone();
    let sender = std::thread::spawn(move || {
        input.write_all(&sent).expect("the session takes input");
        input
    });
    let mut back = Vec::new();
    early.reader.read_until(b'\n', &mut back).expect("the session answers");
    assert!(back == line, "{} bytes", back.len());
    early.child.0.stdin = Some(sender.join().expect("no panic"));
    site.wait_for_log("Rekeyed: ", 1);
    drop(running);
    early.assert_alive();
    assert_eq!(early.end().code(), Some(0), "and it outlives the gateway");
}

#[test]
fn serve_reloads_its_file_and_ends_without_one() {
    let site = Site::new(&[]);
    let serve = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let log = fs::File::create(site.path("log")).expect("a log");
        command.arg("serve").args(words).stdin(Stdio::null()).stderr(log);
        command.env("XDG_STATE_HOME", site.path("state")).env("HOME", site.folder.path());
        let running = Running(command.spawn().expect("it starts"));
        site.wait_for_log("Serving with", 1);
        running
    };
    let config = site.path("config");
    let mut running = serve(&["-f", config.to_str().expect("UTF-8")]);
    site.configure(&["SetEnv ROUND=2"]);
    kill("-HUP", running.pid());
    site.wait_for_log("is in force for new connections", 1);
    let output = run_ok(&mut site.ssh(&[], "echo $ROUND"));
    assert_eq!(text(&output.stdout), "2\n");
    // The level counts at once, for better or worse.
    site.wait_for_log("Accepted publickey", 1);
    site.configure(&["LogLevel ERROR", "SetEnv ROUND=3"]);
    kill("-HUP", running.pid());
    wait_for("the third round", || run_ok(&mut site.ssh(&[], "echo $ROUND")).stdout == b"3\n");
    let login = run_ok(&mut site.ssh(&[], "echo $SSH_CONNECTION"));
    let unheard = text(&login.stdout).split(' ').nth(1).expect("its port").to_owned();
    site.configure(&["SetEnv ROUND=4"]);
    kill("-HUP", running.pid());
    wait_for("the fourth round", || run_ok(&mut site.ssh(&[], "echo $ROUND")).stdout == b"4\n");
    let login = run_ok(&mut site.ssh(&[], "echo $SSH_CONNECTION"));
    let heard = text(&login.stdout).split(' ').nth(1).expect("its port").to_owned();
    let accepted = |port: &str| {
        let port = format!(" port {port} ");
        site.log().lines().any(|line| line.contains("Accepted") && line.contains(&port))
    };
    wait_for("the later login to be told", || accepted(&heard));
    assert!(!accepted(&unheard), "{}", site.log());
    kill("-TERM", running.pid());
    assert_eq!(running.end().code(), Some(0));

    let port = site.port.to_string();
    let key = site.path("host");
    let mut running = serve(&["-p", &port, "-h", key.to_str().expect("UTF-8")]);
    site.wait_for_log("Try: ssh -p ", 1);
    kill("-HUP", running.pid());
    assert_eq!(running.end().code(), Some(0), "a closed terminal ends it");
}

#[test]
fn the_stock_configuration_of_debian_starts_without_a_word() {
    if !Path::new(STOCK).exists() {
        return skip("there is no /usr/share/openssh/sshd_config");
    }
    let site = Site::new(&[]);
    let at = site.folder.path().display();
    let (host, keys, pid) = (
        format!("{at}/host"),
        format!("-oAuthorizedKeysFile={at}/authorized_keys"),
        format!("-oPidFile={at}/pid"),
    );
    let (status, _, told) = run(&mut site.bare(&["-t", "-f", STOCK, "-h", &host]));
    assert_eq!(status, 0, "{told}");
    let stock = fs::read_to_string(STOCK).expect("the file");
    assert!(stock.lines().any(|line| line == "UsePAM yes"), "PAM is asked");
    // Who is not root cannot try whether it works.
    let untried = told.starts_with("warning: ") && told.contains(": UsePAM yes: only root");
    assert!(
        if is_root() { told.is_empty() } else { untried && told.lines().count() == 1 },
        "{told}"
    );
    // It serves, and files go through the sftp-server that it names.
    let port = site.port.to_string();
    let words = [
        "-f",
        STOCK,
        "-h",
        &host,
        "-p",
        &port,
        &keys,
        &pid,
        "-oStrictModes=no",
        "-oListenAddress=127.0.0.1",
        "-oPermitRootLogin=yes",
        // Only root can ask PAM; the first value counts.
        if is_root() { "-oUsePAM=yes" } else { "-oUsePAM=no" },
    ];
    assert_eq!(run(&mut site.bare(&words)).0, 0);
    site.assert_serves();
    if Path::new("/usr/lib/openssh/sftp-server").exists() {
        fs::write(site.path("batch"), format!("get {at}/config {at}/copy\n")).expect("a batch");
        run_ok(site.client("sftp", &[]).arg("-b").arg(site.path("batch")).arg("127.0.0.1"));
        assert_eq!(sha256(&site.path("config")), sha256(&site.path("copy")));
    } else {
        skip("the transfer, as there is no /usr/lib/openssh/sftp-server");
    }
    // What would weaken it when ignored still stops it.
    let (status, _, told) = run(&mut site.bare(&[&words[..], &["-oFingerprintHash=md5"]].concat()));
    assert!(status == 255 && told.contains("FingerprintHash"), "{status} {told}");
}

#[test]
fn signals_end_it_with_the_status_of_sshd() {
    for (signal, status) in [("-TERM", 0), ("-QUIT", 255)] {
        let site = Site::new(&[]);
        let mut running = site.running(&["-D"]);
        kill(signal, running.pid());
        assert_eq!(running.end().code(), Some(status), "{signal}");
        assert!(!site.path("pid").exists(), "{signal}");
    }
}

/// As root, other accounts have processes of their own, and these outlive a reload as well.
#[test]
fn processes_of_accounts_outlive_a_reload() {
    if !is_root() {
        return skip("only root acts for other accounts");
    }
    // An account of every system; it has no shell, but files need none.
    let site = Site::new(&["SyslogFacility DAEMON"]);
    let running = site.running(&[]);
    let open = |options: &[&str]| {
        let mut sftp = site.client("sftp", options);
        let mut child = sftp
            .arg("daemon@127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sftp starts");
        let reader = BufReader::new(child.stdout.take().expect("its output"));
        (Running(child), reader)
    };
    let ask = |session: &mut (Running, BufReader<std::process::ChildStdout>)| {
        let input = session.0.0.stdin.as_mut().expect("its input");
        input.write_all(b"cd /usr\npwd\n").expect("sftp takes input");
        let mut line = String::new();
        while !line.contains("working directory: /usr") {
            line.clear();
            let len = session.1.read_line(&mut line).expect("sftp answers");
            assert!(len > 0, "sftp has ended\n{}", site.log());
        }
    };
    let mut early = open(&["RekeyLimit=16K"]);
    ask(&mut early);
    let serving = serving(running.pid());
    assert_eq!(of_accounts(serving).len(), 1, "{}", site.log());
    fs::remove_file(site.path("host")).expect("the old key");
    keygen(&site.path("host"), "ecdsa", "256");
    site.configure(&["SyslogFacility LOCAL0"]);
    kill("-HUP", running.pid());
    site.wait_for_log("is in force for new connections", 1);
    let _ = fs::remove_file(site.path("known"));
    let mut late = open(&[]);
    ask(&mut late);
    assert_eq!(of_accounts(serving).len(), 2, "the new configuration has its own");
    // Long enough for the first one to have ended, had nobody been there.
    std::thread::sleep(Duration::from_millis(700));
    for _ in 0..200 {
        ask(&mut early);
    }
    drop(early.0.0.stdin.take());
    assert_eq!(early.0.end().code(), Some(0), "{}", site.log());
    wait_for("its process to end", || of_accounts(serving).len() == 1);
    ask(&mut late);
    drop(late);
    drop(running);
}

/// One connection through pipes, for an account that is not ours: everything ends with it.
#[test]
fn an_only_connection_of_another_account_has_a_process_of_its_own() {
    if !is_root() {
        return skip("only root acts for other accounts");
    }
    let site = Site::new(&["SyslogFacility LOCAL0"]);
    let proxy = format!(
        "ProxyCommand={} sshd -i -f {}",
        env!("CARGO_BIN_EXE_tidegate"),
        site.path("config").display()
    );
    fs::write(site.path("batch"), "ls /\n").expect("a batch");
    let syslog = UnixDatagram::bind(site.path("syslog")).expect("a logger");
    // As the system's: every account may write to it.
    fs::set_permissions(site.path("syslog"), PermissionsExt::from_mode(0o666)).expect("a mode");
    let mut sftp = site.client("sftp", &[&proxy]);
    sftp.env("TIDEGATE_TEST_SYSLOG", site.path("syslog"));
    let output = run_ok(sftp.arg("-b").arg(site.path("batch")).arg("daemon@x"));
    assert!(text(&output.stdout).contains("etc"), "{output:?}");
    // Both processes log to syslog, under the number of the connection; LOCAL0 is 16.
    let mut lines = Vec::new();
    let number = |lines: &[String], what: &str| {
        let line = lines.iter().find(|line| line.starts_with("<134>") && line.contains(what))?;
        Some(line.split_once("sshd[")?.1.split_once("]: ")?.0.to_owned())
    };
    wait_for("both logs", || {
        lines.extend(received(&syslog));
        number(&lines, "]: Starting session: ").is_some()
    });
    let accepted = number(&lines, "]: Accepted publickey").expect("a line of the first process");
    assert_eq!(number(&lines, "]: Starting session: "), Some(accepted), "{lines:?}");
}
