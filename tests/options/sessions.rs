//! Keywords about sessions, and how connections look from outside.

use std::fs;

use std::process::{Command, Stdio};

use super::{here, put_at_home, shown, shown_with, ssh, text, with_blocks};
use crate::support::account::Account;
use crate::support::{Gateway, run_ok, wait_for};

const TTY: &str = "RequestTTY=force";

#[test]
fn each_keyword_by_itself() {
    let (gateway, ports) = with_blocks(
        &["Subsystem own cat", "PermitUserEnvironment no"],
        &["PermitTTY no", "SetEnv A=1 B=two", "MaxSessions 0", "AcceptEnv TIDE_*", "Banner none"],
    );
    let terminal = shown(&mut ssh(&gateway, ports[0], &[TTY], &["echo in"]));
    assert!(terminal.err.contains("PTY allocation request failed"), "{terminal:?}");
    let set = shown(&mut ssh(&gateway, ports[1], &[], &["echo $A-$B"]));
    assert_eq!(set.out, "1-two\n");
    let none = shown(&mut ssh(&gateway, ports[2], &["LogLevel=INFO"], &["echo in"]));
    assert_eq!((none.code, &*none.out), (Some(255), ""), "{none:?}");
    assert!(none.err.contains("open failed"), "{none:?}");
    gateway.tells("Refused channel Session: MaxSessions permits no more");
    let mut sent = ssh(&gateway, ports[3], &["SendEnv=TIDE_X OTHER"], &["echo $TIDE_X-$OTHER"]);
    assert_eq!(shown(sent.env("TIDE_X", "x").env("OTHER", "y")).out, "x-\n");
}

/// Sessions of one connection at one time.
#[test]
fn max_sessions_counts_those_that_are_open() {
    let gateway = Gateway::start(&["MaxSessions 2"]);
    let socket = gateway.path("master");
    let path = format!("ControlPath={}", socket.display());
    let mut master = gateway
        .ssh(&[&path, "ControlMaster=yes"], &["echo ready; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("ssh starts");
    wait_for("the master", || socket.exists());
    let through = |words: &[&str]| shown(&mut here(&gateway, &[&path], words));
    assert_eq!(through(&["echo second"]).out, "second\n");
    let mut second = here(&gateway, &[&path], &["echo; cat"]);
    let mut second = second.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
    let mut line = [0];
    std::io::Read::read_exact(second.stdout.as_mut().expect("output"), &mut line).expect("a line");
    let third =
        here(&gateway, &[&path, "ControlMaster=no"], &["echo third"]).output().expect("ssh");
    assert!(text(&third.stderr).contains("Session open refused by peer"), "{third:?}");
    drop(second.stdin.take());
    let _ = second.wait();
    assert_eq!(through(&["echo again"]).out, "again\n", "one has gone");
    drop(master.stdin.take());
    let _ = master.wait();
}

#[test]
fn the_greeting_says_what_it_is_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let banner = folder.path().join("banner");
    fs::write(&banner, "Keep out.\nReally.\n").expect("a file");
    let line = format!("Banner {}", banner.display());
    let gateway = Gateway::start(&["VersionAddendum by the gate", "MaxAuthTries 2", &line]);
    let seen = shown(&mut here(&gateway, &["LogLevel=INFO"], &["true"]));
    assert!(
        seen.err.contains("Keep out.\r\nReally.\r\n") || seen.err.contains("Keep out.\nReally.")
    );
    let seen = shown(&mut here(&gateway, &["LogLevel=DEBUG1"], &["true"]));
    assert!(seen.err.contains(" by the gate"), "{seen:?}");
    // Two keys that are not known, then the one that is: too late.
    for kind in ["other1", "other2"] {
        crate::support::keygen(&gateway.path(kind), "ed25519", "");
    }
    let others =
        ["other1", "other2"].map(|n| format!("IdentityFile={}", gateway.path(n).display()));
    let seen = shown(&mut here(&gateway, &[&others[0], &others[1]], &["true"]));
    assert_eq!(seen.code, Some(255));
    assert!(seen.err.contains("Too many authentication failures"), "{seen:?}");
}

/// `ss` shows a socket's class of service and its timers.
fn socket_of(port: u16) -> String {
    let filter = format!("( sport = :{port} )");
    let arguments = ["-tinoH", "--tos", "state", "established", &filter];
    text(&run_ok(Command::new("ss").args(arguments)).stdout)
}

#[test]
fn sockets_are_marked_and_kept_alive() {
    if Command::new("ss").arg("-V").output().is_err() {
        println!("not run: ss (iproute2) is not installed");
        return;
    }
    let (gateway, ports) = with_blocks(&[], &["IPQoS af21 le", "IPQoS none"]);
    for (port, options, class) in [
        (gateway.port, [TTY], Some("0xb8")),
        (gateway.port, ["RequestTTY=no"], Some("0x20")),
        (ports[0], [TTY], Some("0x48")),
        (ports[0], ["RequestTTY=no"], Some("0x4")),
        (ports[1], [TTY], None),
    ] {
        let mut ssh = ssh(&gateway, port, &options, &["echo ready; cat"]);
        let streams = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = streams.spawn().expect("ssh starts");
        let mut line = [0; 5];
        let out = child.stdout.as_mut().expect("output");
        std::io::Read::read_exact(out, &mut line).expect("a line");
        let seen = socket_of(port);
        let tos = seen.split_whitespace().find_map(|word| word.strip_prefix("tos:"));
        assert_eq!(tos.filter(|tos| *tos != "0" && *tos != "0x0"), class, "{options:?}: {seen}");
        wait_for("a timer", || socket_of(port).contains("timer:(keepalive"));
        let _ = child.kill();
        let _ = child.wait();
        wait_for("the connection to end", || socket_of(port).is_empty());
    }
    let gateway = Gateway::start(&["TCPKeepAlive no"]);
    let mut child =
        here(&gateway, &[], &["cat"]).stdin(Stdio::piped()).spawn().expect("ssh starts");
    wait_for("a socket", || !socket_of(gateway.port).is_empty());
    assert!(!socket_of(gateway.port).contains("keepalive"));
    let _ = child.kill();
    let _ = child.wait();
}

/// `~/.ssh/rc`, /etc/motd and the rest of what comes before a shell need a home of their own.
#[test]
fn a_user_has_an_rc_file_if_he_may() {
    let Some(account) = Account::new() else { return };
    let user = format!("User={}", account.name);
    let (gateway, ports) = with_blocks(
        &["PermitUserEnvironment yes", "Subsystem own echo own"],
        &["PermitUserRC no", "ForceCommand echo forced"],
    );
    put_at_home(&account, ".ssh/rc", "echo rc-$USER-$0-$MINE; cat; echo err >&2\n");
    put_at_home(&account, ".ssh/environment", "# mine\nMINE=1\nbad line\nSHELL=/other\n");
    let run = |port, words: &[&str]| {
        shown_with(&mut ssh(&gateway, port, &[&user], words), "for the command alone\n")
    };
    let seen = run(gateway.port, &["echo $0-$SHELL; cat"]);
    let home = account.home.path().display();
    let rc = format!("rc-{}-{home}/.ssh/rc-1\n", account.name);
    assert_eq!(seen.out, format!("{rc}bash-/other\nfor the command alone\n"), "{seen:?}");
    let bad = format!("Bad line 3 in {}/.ssh/environment\n", account.home.path().display());
    assert_eq!(seen.err, format!("{bad}err\n"));
    assert_eq!(run(ports[0], &["echo main"]).out, "main\n");
    assert_eq!(run(ports[1], &["echo main"]).out, "forced\n");
    super::allow(&gateway, "no-user-rc");
    assert_eq!(run(gateway.port, &["echo main"]).out, "main\n");
    super::allow(&gateway, "restrict,user-rc");
    assert_eq!(run(gateway.port, &["echo main"]).out, format!("{rc}main\n"));
    super::allow(&gateway, "command=\"echo forced\"");
    assert_eq!(run(gateway.port, &["echo main"]).out, format!("{rc}forced\n"), "as in sshd");
    // A login shell behind it still knows that it is one.
    super::allow(&gateway, "");
    let mut login = ssh(&gateway, gateway.port, &[&user, "RequestTTY=no"], &[]);
    let seen = shown_with(&mut login, "echo $0; shopt -q login_shell && echo login\n");
    assert!(seen.out.ends_with("-bash\nlogin\n"), "{seen:?}");
    // It may take as long as it likes, and nobody else waits for it.
    put_at_home(&account, ".ssh/rc", "sleep 1000\n");
    let mut stuck: Vec<_> = (0..8)
        .map(|_| {
            let mut ssh = ssh(&gateway, gateway.port, &[&user], &["true"]);
            ssh.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("ssh starts")
        })
        .collect();
    wait_for("all of them", || account.processes("sleep").len() == 8);
    assert_eq!(run(ports[0], &["echo main"]).out, "main\n");
    for child in &mut stuck {
        let _ = child.kill();
        let _ = child.wait();
    }
    // As sshd does, it lets them go on.
    assert_eq!(account.processes("sleep").len(), 8);
}
