//! Somebody at a terminal: questions, raw mode, window changes and what is typed to us.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::server::{Server, Theirs, both};
use crate::support::account::Account;
use crate::support::{keygen, run_ok, terminal, wait_for};

/// A client at a terminal of its own.
struct Session {
    child: Child,
    master: File,
    /// Kept so that its settings can be looked at.
    slave: OwnedFd,
    seen: String,
}

impl Session {
    fn start(mut command: Command) -> Session {
        command.env("TERM", "xterm");
        let (child, master, slave) = terminal::start(command, (24, 80));
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(flags)).expect("flags");
        Session { child, master, slave, seen: String::new() }
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = self.master.read(&mut bytes) {
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    /// Waits until this has been shown, and forgets everything up to its end.
    fn expect(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            self.read();
            if let Some(at) = self.seen.find(text) {
                self.seen = self.seen[at + text.len()..].to_owned();
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "no {text:?} in {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn say(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("it is typed");
    }

    fn is_raw(&self) -> bool {
        let settings = tcgetattr(self.slave.as_fd()).expect("settings");
        !settings.local_flags.contains(LocalFlags::ICANON)
    }

    fn is_silent(&self) -> bool {
        let settings = tcgetattr(self.slave.as_fd()).expect("settings");
        !settings.local_flags.contains(LocalFlags::ECHO)
    }

    fn end(&mut self) -> Option<i32> {
        let mut status = None;
        wait_for("the client to end", || {
            self.read();
            status = self.child.try_wait().expect("a status");
            status.is_some()
        });
        assert!(!self.is_raw() && !self.is_silent(), "the terminal is as it was");
        status.and_then(|status| status.code())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shell(server: &Server, options: &[&str]) -> Session {
    let mut all = vec!["BatchMode=no"];
    all.extend(options);
    let mut session = Session::start(server.ssh(&all, &["-tt", "exec sh"]));
    session.say("PS1='ready''> '\r");
    session.expect("ready> ");
    session
}

#[test]
fn a_shell_at_a_terminal_and_what_is_typed_to_us() {
    both(&[], |server| {
        let mut session = shell(server, &[]);
        assert!(session.is_raw());
        session.say("stty size; echo $TERM\r");
        session.expect("24 80");
        session.expect("xterm");
        // The window changes.
        terminal::resize(&session.master, (33, 101));
        session.say("until test \"$(stty size)\" = '33 101'; do sleep 0.1; done; echo seen\r");
        session.expect("\nseen");
        // ^C is the program's there.
        // What it prints is not what was typed, so it runs by then.
        session.say("sh -c 'echo be''gun; exec sleep 60'\r");
        session.expect("\nbegun");
        session.say("\x03");
        session.expect("ready> ");
        session.say("\r~?");
        session.expect("terminate connection");
        session.say("\r~#");
        session.expect("connections are open");
        session.expect("#0 client-session");
        session.say("\r~R\recho still $((40+2))\r");
        session.expect("still 42");
        session.say("\r~~.echo not us\r");
        session.expect("ready> ");
        session.say("exit 5\r");
        assert_eq!(session.end(), Some(5));

        let mut session = shell(server, &[]);
        session.say("\r~.");
        session.expect("closed.");
        assert_eq!(session.end(), Some(255));

        // Whoever asks is answered, however little he wants to be told otherwise.
        let mut session = shell(server, &["LogLevel=QUIET"]);
        session.say("\r~?");
        session.expect("terminate connection");
        session.say("\r~#");
        session.expect("#0 client-session");
        session.say("\r~v\r~v");
        session.expect("[LogLevel ERROR]");
        session.say("\r~C");
        session.expect("no such command");
        session.say("\r~.");
        assert_eq!(session.end(), Some(255));

        let mut session = shell(server, &[]);
        assert!(session.is_raw());
        run_ok(Command::new("kill").arg(session.child.id().to_string()));
        assert_eq!(session.end(), Some(255), "ended by a signal, and all put back");
    });
}

#[test]
fn a_new_host_is_asked_about() {
    both(&[], |server| {
        let file = server.path("known_hosts");
        let _ = fs::remove_file(&file);
        let ask = || {
            let options = ["BatchMode=no", "StrictHostKeyChecking=ask"];
            let mut session = Session::start(server.ssh(&options, &["echo in"]));
            session.expect("can't be established");
            session.expect("SHA256:");
            session.expect("(yes/no/[fingerprint])? ");
            session
        };
        let mut session = ask();
        session.say("no\r");
        session.expect("verification failed");
        assert_eq!(session.end(), Some(255));
        assert!(!file.exists());
        // The same machine by another name, as far as the user can tell.
        let own = fs::read_to_string(server.path("host_ed25519.pub")).expect("a key");
        fs::write(&file, format!("elsewhere {own}")).expect("a file");
        let options =
            ["BatchMode=no", "StrictHostKeyChecking=ask", "HostKeyAlgorithms=ssh-ed25519"];
        let mut session = Session::start(server.ssh(&options, &["true"]));
        session.expect("known by the following other names/addresses:");
        session.expect("known_hosts:1: elsewhere");
        session.say("no\r");
        assert_eq!(session.end(), Some(255));
        fs::remove_file(&file).expect("it is there");
        let mut session = ask();
        session.say("maybe\r");
        session.expect("'yes', 'no' or the fingerprint: ");
        session.say("yes\r");
        session.expect("in\r\n");
        assert_eq!(session.end(), Some(0));
        assert!(file.exists());
    });
}

#[test]
fn a_passphrase_is_asked_for_and_not_shown() {
    both(&[], |server| {
        let key = server.path("sealed");
        let _ = fs::remove_file(&key);
        keygen(&key, "ed25519", "");
        let mut keys = fs::read_to_string(server.path("authorized_keys")).expect("keys");
        keys += &fs::read_to_string(server.path("sealed.pub")).expect("a key");
        fs::write(server.path("authorized_keys"), keys).expect("keys");
        run_ok(
            Command::new("ssh-keygen")
                .args(["-q", "-p", "-P", "", "-N", "open it", "-f"])
                .arg(&key),
        );
        let mut command = server.bare(&["BatchMode=no"]);
        command.arg("-i").arg(&key).args(["127.0.0.1", "echo in"]);
        let mut session = Session::start(command);
        session.expect("Enter passphrase for key");
        assert!(session.is_silent());
        session.say("wrong\r");
        session.expect("Enter passphrase for key");
        session.say("open it\r");
        session.expect("in\r\n");
        assert!(!session.seen.contains("open it"));
        assert_eq!(session.end(), Some(0));

        let once =
            ["BatchMode=no", "NumberOfPasswordPrompts=1", "PreferredAuthentications=publickey"];
        let mut command = server.bare(&once);
        command.arg("-i").arg(&key).args(["127.0.0.1", "echo in"]);
        let mut session = Session::start(command);
        session.expect("Enter passphrase for key");
        session.say("wrong\r");
        // Asked again, it would wait.
        session.expect("Permission denied");
        assert_eq!(session.end(), Some(255));

        // Whoever has had enough, or ends us from elsewhere, finds his terminal as it was.
        for by_hand in [true, false] {
            let mut command = server.bare(&["BatchMode=no"]);
            command.arg("-i").arg(&key).args(["127.0.0.1", "echo in"]);
            let mut session = Session::start(command);
            session.expect("Enter passphrase for key");
            assert!(session.is_silent());
            if by_hand {
                session.say("half\x03");
            } else {
                run_ok(Command::new("kill").arg(session.child.id().to_string()));
            }
            assert_eq!(session.end(), None, "ended by the signal");
        }
    });
}

/// sshd has the account's password; nobody else does.
#[test]
fn passwords_are_asked_for_and_not_shown() {
    let Some(account) = Account::new() else { return };
    let Some(sshd) = Theirs::start(&[]) else { return };
    let server = Server::Theirs(sshd);
    let mut change = Command::new("chpasswd").stdin(Stdio::piped()).spawn().expect("chpasswd");
    let line = format!("{}:open it\n", account.name);
    change.stdin.take().expect("a pipe").write_all(line.as_bytes()).expect("it is taken");
    assert!(change.wait().expect("its end").success());
    let start = |options: &[&str]| {
        let mut all = vec!["BatchMode=no"];
        all.extend(options);
        let mut command = server.bare(&all);
        command.args(["-vl", &account.name, "127.0.0.1", "id -un"]);
        Session::start(command)
    };
    let mut session = start(&[]);
    for (said, then) in [("wrong", "try again."), ("open it", &account.name)] {
        session.expect("'s password: ");
        assert!(session.is_silent());
        session.say(&format!("{said}\r"));
        session.expect(then);
        assert!(!session.seen.contains(said));
    }
    assert_eq!(session.end(), Some(0));

    // To a host whose key has changed no password is sent, whatever is set.
    let other = server.path("other");
    keygen(&other, "ed25519", "");
    let public = fs::read_to_string(server.path("other.pub")).expect("a key");
    let line = format!("[127.0.0.1]:{} {public}", server.port());
    fs::write(server.path("known_hosts"), line).expect("a file");
    let mut session = start(&["StrictHostKeyChecking=no"]);
    session.expect("HAS CHANGED");
    session.expect("Password authentication is disabled");
    session.expect("Permission denied");
    assert_eq!(session.end(), Some(255));
}

/// UpdateHostKeys ask: before the session has the terminal.
#[test]
fn host_keys_are_noted_when_somebody_agrees() {
    let folder = tempfile::tempdir().expect("a folder");
    let more = folder.path().join("more");
    keygen(&more, "ecdsa", "256");
    both(&[&format!("HostKey {}", more.display())], |server| {
        let own = fs::read_to_string(server.path("host_ed25519.pub")).expect("a key");
        let line = format!("[127.0.0.1]:{} {own}", server.port());
        for (answer, noted) in [("no\r", false), ("perhaps\ryes\r", true)] {
            fs::write(server.path("known_hosts"), &line).expect("a file");
            let options = ["BatchMode=no", "UpdateHostKeys=ask", "HostKeyAlgorithms=ssh-ed25519,*"];
            let mut session = Session::start(server.ssh(&options, &["-tt", "exec sh"]));
            session.expect("Learned new hostkey: ECDSA SHA256:");
            session.expect("Accept updated hostkeys? (yes/no): ");
            session.say(answer);
            if noted {
                session.expect("Please enter \"yes\" or \"no\"");
            }
            session.say("echo in''side; exit 5\r");
            session.expect("inside");
            assert_eq!(session.end(), Some(5));
            let after = fs::read_to_string(server.path("known_hosts")).expect("a file");
            assert!(after.starts_with(&line) && (after.len() > line.len()) == noted, "{after}");
        }
    });
}

/// Of everything there is to copy, not of what has been begun.
#[test]
fn a_copy_tells_how_far_it_is() {
    both(&[], |server| {
        let tree = server.path("tree");
        for n in 0..80 {
            let folder = tree.join(format!("{}/{}", n % 3, n % 2));
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(n.to_string()), [b'x'; 16 << 10]).expect("a file");
        }
        let key = format!("IdentityFile={}", server.path("user_ed25519").display());
        let mut command = server.client("cp", &[&key]);
        let source = format!("127.0.0.1:{}", tree.display());
        command.args(["-r", "--limit-rate", "2M", &source]).arg(server.path("copy"));
        let mut session = Session::start(command);
        session.expect(" of 80 files, ");
        session.expect(" of 1.2 MiB, ");
        session.expect("80 files copied");
    });
}
