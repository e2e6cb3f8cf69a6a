//! What is written of logins, field by field beside what the system's sshd writes of the same: utmp, wtmp,
//! lastlog and btmp. Each server has records of its own, in a mount namespace that nobody else is in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::text;
use crate::support::account::Account;
use crate::support::{Gateway, free_port, is_run_again, make_executable, run_ok, wait_for};

const SSHD: &str = "/usr/sbin/sshd";
/// glibc's `struct utmpx` on x86_64 and aarch64: type, pid, line, id, user, host, exit, session, time, address.
const RECORD_BYTES: usize = size_of::<libc::utmpx>();
/// `struct lastlog`: time, line, host.
const LINE_BYTES: usize = 32;
const HOST_BYTES: usize = 256;

/// A record without what differs from login to login: when it was, and the terminal's number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    kind: i16,
    line: String,
    /// The end of the line, as it should be.
    id_is_the_lines: bool,
    user: String,
    host: String,
    address: [i32; 4],
    session: i32,
    exit: (i16, i16),
}

/// All records of a file, and their processes.
fn records(path: &Path) -> Vec<(Record, i32)> {
    let bytes = fs::read(path).expect("the file");
    assert_eq!(bytes.len() % RECORD_BYTES, 0);
    let words = |field: &[libc::c_char]| {
        let bytes: Vec<u8> = field.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
        text(&bytes)
    };
    let record = |bytes: &[u8]| {
        // SAFETY: as many bytes as the structure has, all of whose fields are numbers.
        let found: libc::utmpx = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
        let (line, id) = (words(&found.ut_line), words(&found.ut_id));
        let record = Record {
            kind: found.ut_type,
            id_is_the_lines: !id.is_empty() && line.ends_with(&id) && (id.len() == 4 || id == line),
            line: line.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
            user: words(&found.ut_user),
            host: words(&found.ut_host),
            address: found.ut_addr_v6,
            session: found.ut_session as i32,
            exit: (found.ut_exit.e_termination, found.ut_exit.e_exit),
        };
        let is_dated = found.ut_tv.tv_sec != 0;
        assert!(is_dated, "{record:?}");
        (record, found.ut_pid)
    };
    bytes.chunks(RECORD_BYTES).map(record).collect()
}

/// A server with its records, and how to log in there.
struct Site {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
    gateway: Option<Gateway>,
}

/// `/run`, `/var/log` and `/etc/pam.d` of a server's own.
fn place() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fs::set_permissions(at, PermissionsExt::from_mode(0o755)).expect("a mode");
    fs::create_dir_all(at.join("run/sshd")).expect("a folder");
    fs::create_dir_all(at.join("pam.d")).expect("a folder");
    fs::create_dir_all(at.join("log")).expect("a folder");
    for name in ["run/utmp", "log/wtmp", "log/lastlog", "log/btmp"] {
        fs::write(at.join(name), "").expect("a file");
    }
    fs::set_permissions(at.join("log/btmp"), PermissionsExt::from_mode(0o600)).expect("a mode");
    let service = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n\
                   session required pam_permit.so\n";
    fs::write(at.join("pam.d/sshd"), service).expect("a service");
    folder
}

fn within(command: &Command, at: &Path) -> Command {
    let mut inner = Command::new("unshare");
    // Terminals too: one that somebody else has had since is in no record.
    let mounts = "mount --bind \"$0/run\" /run && mount --bind \"$0/log\" /var/log && \
                  mount --bind \"$0/pam.d\" /etc/pam.d && \
                  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /dev/pts && \
                  mount --bind /dev/pts/ptmx /dev/ptmx && exec \"$@\"";
    inner.args(["-m", "sh", "-c", mounts]).arg(at);
    inner.arg(command.get_program()).args(command.get_args());
    inner.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inner
}

impl Site {
    fn ours(lines: &[&str]) -> Site {
        let folder = place();
        let gateway = Gateway::start_with(lines, |command| {
            command.env_remove("TIDEGATE_TEST_LOGINS");
            *command = within(command, folder.path());
            command.env("TZ", "UTC");
        });
        fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755)).expect("mode");
        fs::write(gateway.path("types"), "#!/bin/sh\necho wrong\n").expect("a script");
        make_executable(&gateway.path("types"));
        Site { folder, port: gateway.port, child: None, gateway: Some(gateway) }
    }

    fn sshds(ours: &Gateway, lines: &[&str]) -> Site {
        let (folder, port) = (place(), free_port());
        let at = ours.folder.path().display();
        let lines: Vec<&str> =
            lines.iter().filter(|line| !line.starts_with("Tidegate")).copied().collect();
        let config = format!(
            "{}\nListenAddress 127.0.0.1:{port}\nHostKey {at}/host_ed25519\nPermitRootLogin yes\n\
             AuthorizedKeysFile {at}/authorized_keys\nStrictModes no\nPidFile none\nPrintMotd no\n",
            lines.join("\n")
        );
        fs::write(folder.path().join("config"), config).expect("a configuration");
        let mut command = Command::new(SSHD);
        command.args(["-D", "-e", "-f"]).arg(folder.path().join("config")).env("TZ", "UTC");
        let mut command = within(&command, folder.path());
        let log = fs::File::create(folder.path().join("sshd.log")).expect("a log");
        let child = command.stdin(Stdio::null()).stderr(log).spawn().expect("sshd starts");
        let site = Site { folder, port, child: Some(child), gateway: None };
        wait_for("sshd to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(if name == "utmp" { "run" } else { "log" }).join(name)
    }

    fn records(&self, name: &str) -> Vec<Record> {
        records(&self.file(name)).into_iter().map(|(record, _)| record).collect()
    }

    /// The last login of an account: its line and host.
    fn last(&self, uid: u32) -> Option<(String, String)> {
        let bytes = fs::read(self.file("lastlog")).expect("the file");
        let size = if cfg!(target_arch = "x86_64") { 4 } else { 8 } + LINE_BYTES + HOST_BYTES;
        let record = bytes.get(uid as usize * size..)?.get(..size)?;
        let rest = &record[size - LINE_BYTES - HOST_BYTES..];
        let field = |bytes: &[u8]| text(bytes).trim_end_matches('\0').to_owned();
        record.iter().any(|byte| *byte != 0).then(|| {
            let line = field(&rest[..LINE_BYTES]);
            (
                line.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
                field(&rest[LINE_BYTES..]),
            )
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Both servers, and a client for either.
struct Pair {
    ours: Site,
    theirs: Site,
}

impl Pair {
    fn new(lines: &[&str]) -> Pair {
        let ours = Site::ours(lines);
        let theirs = Site::sshds(ours.gateway.as_ref().expect("it"), lines);
        Pair { ours, theirs }
    }

    fn gateway(&self) -> &Gateway {
        self.ours.gateway.as_ref().expect("it")
    }

    fn client(&self, port: u16, user: &str, options: &[&str], words: &[&str]) -> Command {
        let (port, user) = (format!("Port={port}"), format!("User={user}"));
        let mut all = vec![&*port, &*user];
        all.extend(options);
        self.gateway().ssh(&all, words)
    }

    /// The same at both; the ends of sessions are waited for, so that records have one order.
    fn both(&self, user: &str, options: &[&str], words: &[&str], input: &str) -> [String; 2] {
        [&self.ours, &self.theirs].map(|site| {
            let begun = || site.records("wtmp").len();
            let before = begun();
            let mut ssh = self.client(site.port, user, options, words);
            ssh.env("SSH_ASKPASS", self.gateway().path("types"));
            ssh.env("SSH_ASKPASS_REQUIRE", "force").stdin(Stdio::piped());
            let mut child = ssh.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ssh");
            let mut typed = child.stdin.take().expect("input");
            std::io::Write::write_all(&mut typed, input.as_bytes()).expect("room");
            drop(typed);
            let output = child.wait_with_output().expect("its end");
            if options.contains(&TTY) && output.status.success() {
                wait_for("both ends of the session", || begun() == before + 2);
            }
            text(&output.stdout)
        })
    }

    /// The records of both are equal, and there are so many.
    fn assert_same(&self, name: &str, count: usize) {
        // Either may write the last one when its client has ended.
        let both = || [&self.ours, &self.theirs].map(|site| site.records(name));
        wait_for(name, || both().iter().all(|records| records.len() == count));
        let [ours, theirs] = both();
        for (one, other) in ours.iter().zip(&theirs) {
            assert_eq!(one, other, "{name}, ours and sshd's\n{}", self.gateway().log());
        }
    }
}

const TTY: &str = "RequestTTY=force";

fn can_compare() -> bool {
    let can_mount = Command::new("unshare").args(["-m", "true"]).status();
    let can = Path::new(SSHD).exists() && can_mount.is_ok_and(|status| status.success());
    if !can {
        println!("not run: no sshd here, or no mount namespaces");
    }
    can && !is_run_again()
}

/// With a terminal and without, of root and of another, let in and not; and what the tools make of it.
fn records_are_those_of_sshd(lines: &[&str], denied: &[&str]) {
    let Some(account) = Account::new() else { return };
    if !can_compare() {
        return;
    }
    let pair = Pair::new(lines);
    for (user, uid) in [(&*account.name, account.uid), ("root", 0)] {
        let words: [&[&str]; 3] = [&["echo main"], &[], &["true"]];
        let input = "exit\n";
        pair.both(user, &[TTY], words[0], "");
        // What is said of that, to the shell that starts next.
        let said = pair.both(user, &[TTY], words[1], input).map(|said| {
            let line = said.lines().find(|line| line.starts_with("Last login: "));
            let line = line.unwrap_or_else(|| panic!("{user}: {said}")).trim_end().to_owned();
            // The day, and from where.
            let words: Vec<&str> = line.split_whitespace().collect();
            [&words[..5], &words[6..]].concat().join(" ")
        });
        assert_eq!(said[0], said[1], "{user}");
        assert!(
            said[0].ends_with(" from 127.0.0.1") || said[0].ends_with(" from localhost"),
            "{said:?}"
        );
        // No session at a terminal, no record.
        pair.both(user, &[], words[2], "");
        assert_eq!(pair.ours.last(uid), pair.theirs.last(uid), "{user}");
        assert_eq!(pair.ours.last(uid).expect("a record").0, "pts/");
    }
    pair.assert_same("wtmp", 8);
    let utmp = || [&pair.ours, &pair.theirs].map(|site| site.records("utmp"));
    assert!(
        utmp().iter().flatten().all(|record| record.kind == libc::DEAD_PROCESS),
        "{:?}",
        utmp()
    );
    // Terminals are numbered by whoever takes the next: both may have used one place or several.
    assert_eq!(utmp()[0].first(), utmp()[1].first());
    for method in denied {
        let method = format!("PreferredAuthentications={method}");
        for user in
            [&*account.name, "root", "no-such-user", "a-name-that-is-longer-than-a-field-has-room"]
        {
            let options = ["BatchMode=no", "NumberOfPasswordPrompts=1", &method];
            pair.both(user, &options, &["true"], "");
        }
    }
    // A key that does not let in is noted for users who do not exist alone.
    let by_key = "PreferredAuthentications=publickey";
    let stranger = format!("IdentityFile={}", pair.gateway().path("host_rsa3072").display());
    pair.both(&account.name, &[by_key, &stranger, "NumberOfPasswordPrompts=0"], &["true"], "");
    pair.both("no-such-user", &[by_key], &["true"], "");
    // Whoever asks for the methods alone is too.
    let nothing = "PreferredAuthentications=none";
    for user in [&*account.name, "root", "nobody-here"] {
        pair.both(user, &[nothing, "PubkeyAuthentication=no"], &["true"], "");
    }
    // Each method is tried by two who exist and two who do not; those are noted when they ask, too.
    let count = 6 * denied.len() + 2;
    pair.assert_same("btmp", count);
    let shown =
        run_ok(Command::new("lastb").arg("-w").arg("-f").arg(pair.ours.file("btmp"))).stdout;
    let shown = text(&shown);
    assert_eq!(shown.lines().filter(|line| line.contains("ssh:notty")).count(), count, "{shown}");
    let from = ["127.0.0.1", "localhost"].iter().any(|from| shown.contains(from));
    assert!(shown.contains("no-such-user") && from, "{shown}");
    let shown =
        text(&run_ok(Command::new("last").arg("-w").arg("-f").arg(pair.ours.file("wtmp"))).stdout);
    assert_eq!(shown.lines().filter(|line| line.contains("pts/")).count(), 4, "{shown}");
    assert!(!shown.contains("still logged in"), "{shown}");
}

#[test]
fn records_without_pam_are_those_of_sshd() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("passwords");
    fs::write(&file, "").expect("a file");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("a mode");
    let file = format!("TidegatePasswordFile {}", file.display());
    let lines = [
        "UsePAM no",
        "UseDNS no",
        "PrintLastLog yes",
        "PasswordAuthentication yes",
        "KbdInteractiveAuthentication no",
        &*file,
    ];
    records_are_those_of_sshd(&lines, &["password"]);
}

/// UseDNS puts names in the place of addresses.
#[test]
fn records_with_names_are_those_of_sshd() {
    let lines = [
        "UsePAM yes",
        "UseDNS yes",
        "PrintLastLog yes",
        "PasswordAuthentication yes",
        "KbdInteractiveAuthentication no",
    ];
    records_are_those_of_sshd(&lines, &["password"]);
}

#[test]
fn records_with_pam_are_those_of_sshd() {
    let lines = [
        "UsePAM yes",
        "UseDNS no",
        "PrintLastLog yes",
        "PasswordAuthentication yes",
        "KbdInteractiveAuthentication yes",
    ];
    records_are_those_of_sshd(&lines, &["password", "keyboard-interactive"]);
}
