//! What an audit tells (TidegateAuditLog), of what OpenSSH's clients do, and what the
//! stock filter of fail2ban makes of the log.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "audit/banned.rs"]
mod banned;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use support::account::Account;
use support::processes::kill;
use support::{Gateway, make_executable, run_ok, wait_for};
use tempfile::TempDir;

/// Of "correct horse", by crypt(3).
const HASH: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";
const PASSWORD: &str = "correct horse";
const WRONG: &str = "incorrect zebra";

/// Whoever runs the tests; only he can log in where he is not root.
fn user() -> String {
    let output = run_ok(Command::new("id").arg("-un"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A gateway that keeps an audit in a file of `folder`, and lets whoever runs the tests in by password.
fn audited(folder: &TempDir, more: &[&str]) -> Gateway {
    audited_by(folder, more, |_| {})
}

fn audited_by(folder: &TempDir, more: &[&str], change: impl FnOnce(&mut Command)) -> Gateway {
    let at = |name: &str| folder.path().join(name).display().to_string();
    let log = format!("TidegateAuditLog {}", at("audit"));
    let passwords = format!("TidegatePasswordFile {}", at("passwords"));
    fs::write(folder.path().join("passwords"), format!("{}:{HASH}\n", user())).expect("a file");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.path().join("passwords"), mode).expect("a mode");
    let lines = [&*log, &*passwords, "PasswordAuthentication yes", "PermitOpen 127.0.0.1:1"];
    let gateway = Gateway::start_with(&[&lines[..], more].concat(), change);
    fs::write(gateway.path("types"), "#!/bin/sh\necho \"$PASSWORD\"\n").expect("a script");
    make_executable(&gateway.path("types"));
    gateway
}

/// A login by password alone.
fn with_password(gateway: &Gateway, password: &str, options: &[&str]) -> Output {
    let own = ["PreferredAuthentications=password", "BatchMode=no", "NumberOfPasswordPrompts=1"];
    let mut ssh = gateway.ssh(&[options, &own[..]].concat(), &["true"]);
    ssh.env("SSH_ASKPASS", gateway.path("types")).env("SSH_ASKPASS_REQUIRE", "force");
    ssh.env("PASSWORD", password).output().expect("ssh starts")
}

/// SECURITY R28: where the configuration says so, nobody gets in whom the audit does not hear.
#[test]
fn r28_nobody_gets_in_unheard_where_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit");
    let put = |at: &str| {
        let _ = fs::remove_file(&file);
        std::os::unix::fs::symlink(at, &file).expect("a link");
    };
    put("/dev/full");
    let gateway = audited(&folder, &["TidegateAuditOnFailure refuse"]);
    let reload = |times: usize| {
        kill("-HUP", gateway.child.id());
        gateway.tells_times("Received SIGHUP", times);
    };
    let key = || gateway.ssh(&["BatchMode=yes"], &["echo in"]).output().expect("ssh starts");
    // Its own attempts are what the audit fails at.
    wait_for("a login to be refused", || !key().status.success());
    for output in [key(), with_password(&gateway, PASSWORD, &[])] {
        assert!(!output.status.success(), "{output:?}");
    }
    gateway.tells("nobody gets in unheard");
    gateway.tells("No space left on device");
    let target = folder.path().join("written");
    put(&target.display().to_string());
    reload(1);
    wait_for("logins", || key().status.success());
    assert!(with_password(&gateway, PASSWORD, &[]).status.success(), "{}", gateway.log());
    let text = fs::read_to_string(&target).expect("lines");
    assert!(
        text.contains("\"result\":\"success\"") && text.contains("\"event\":\"lost\""),
        "{text}"
    );
    // Without that it goes on.
    let config = fs::read_to_string(gateway.path("tidegate_config")).expect("a configuration");
    let config = config.replace("OnFailure refuse", "OnFailure continue");
    fs::write(gateway.path("tidegate_config"), config).expect("a configuration");
    put("/dev/full");
    reload(2);
    wait_for("the new one", || {
        gateway.log().matches("is in force for new connections").count() > 0
    });
    for _ in 0..3 {
        assert!(key().status.success(), "{}", gateway.log());
    }
}

/// The lines so far, by session, each held to what all lines have.
struct Lines(BTreeMap<String, Vec<Value>>);

impl Lines {
    fn of(text: &str) -> Lines {
        let mut sessions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in text.lines() {
            let line: Value =
                serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
            let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("{name}: {line}"));
            assert!(
                text("time").ends_with('Z') && !text("event").is_empty() && !text("by").is_empty()
            );
            assert_eq!(text("ip"), "127.0.0.1");
            sessions.entry(text("session").to_owned()).or_default().push(line);
        }
        Lines(sessions)
    }

    /// Waits until the file tells of as many sessions, each from its connect to its disconnect.
    fn wait(path: &Path, count: usize) -> Lines {
        let ended =
            |lines: &[Value]| lines.last().is_some_and(|last| last["event"] == "disconnect");
        let mut lines = Lines(BTreeMap::new());
        wait_for("the audit", || {
            let text = fs::read_to_string(path).expect("the audit");
            // A line that is just being written may be there in part.
            lines = Lines::of(text.rsplit_once('\n').map_or("", |(whole, _)| whole));
            // The connection that waits for a gateway to listen never says anything.
            lines.0.retain(|_, lines| lines.iter().any(|line| line["event"] == "kex"));
            lines.0.values().filter(|lines| ended(lines)).count() >= count
        });
        for session in lines.0.values() {
            assert_eq!(session[0]["event"], "connect", "{session:#?}");
            assert!(session.iter().all(|line| line["port"] == session[0]["port"]), "{session:#?}");
            let ends = session.iter().filter(|line| line["event"] == "disconnect").count();
            assert!(ended(session) && ends == 1, "{session:#?}");
        }
        lines
    }

    /// The lines of the session that has one with this text in this field.
    fn with(&self, field: &str, text: &str) -> &[Value] {
        let has = |line: &Value| line[field].as_str().is_some_and(|found| found.contains(text));
        let mut found = self.0.values().filter(|session| session.iter().any(has));
        let one = found.next().unwrap_or_else(|| panic!("no {field} {text}: {:#?}", self.0));
        assert!(found.next().is_none(), "{field} {text} is ambiguous: {:#?}", self.0);
        one
    }
}

fn one<'a>(session: &'a [Value], event: &str) -> &'a Value {
    let mut found = session.iter().filter(|line| line["event"] == event);
    let line = found.next().unwrap_or_else(|| panic!("no {event}: {session:#?}"));
    assert!(found.next().is_none(), "two of {event}: {session:#?}");
    line
}

/// Operations on files, with their paths, and how they went.
fn operations(session: &[Value]) -> Vec<(&str, &str, &str)> {
    let files = session.iter().filter(|line| line["event"] == "file");
    files
        .map(|line| {
            let path = line["path"].as_str().expect("a path");
            (
                line["operation"].as_str().expect("an operation"),
                path.rsplit('/').next().unwrap_or(path),
                line["status"].as_str().expect("a status"),
            )
        })
        .collect()
}

/// A command, a key that nobody knows, passwords, a forbidden target, and copies.
fn do_things(gateway: &Gateway, folder: &TempDir) {
    assert_eq!(gateway.ssh(&[], &["exit 3"]).status().expect("ssh").code(), Some(3));
    support::keygen(&gateway.path("stranger"), "ed25519", "");
    let mut denied = Command::new("ssh");
    denied.args(["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
    denied.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    denied.args(["-o", "KexAlgorithms=curve25519-sha256"]);
    denied.args(["-o", "PreferredAuthentications=publickey", "-i"]).arg(gateway.path("stranger"));
    denied.args(["-p", &gateway.port.to_string(), "127.0.0.1", "true"]);
    assert!(!denied.output().expect("ssh").status.success());
    assert!(!with_password(gateway, WRONG, &[]).status.success());
    assert!(with_password(gateway, PASSWORD, &[]).status.success(), "{}", gateway.log());
    let forward = gateway.ssh(&[], &["-W", "127.0.0.1:9"]).output().expect("ssh");
    assert!(!forward.status.success(), "{forward:?}");
    fs::write(folder.path().join("here"), support::noise(100_000, 7)).expect("a file");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (here, there, back, new) = (at("here"), at("there"), at("back"), at("new \"one\""));
    let (dir, link) = (at("dir"), at("link"));
    let batch = format!(
        "put {here} {there}\nget {there} {back}\nrename {there} '{new}'\n-rm {there}\nmkdir {dir}\n\
         chmod 700 {dir}\nln -s {there} {link}\nrm {link}\nrmdir {dir}\n"
    );
    let done = gateway.sftp(&[], &batch);
    assert!(done.status.success(), "{done:?}\n{batch}\n{}", gateway.log());
    let mut scp = gateway.client("scp".as_ref(), &[]);
    scp.args(["-O", &here, &format!("127.0.0.1:{}", at("copied"))]);
    run_ok(&mut scp);
}

#[test]
fn every_event_is_a_line_of_its_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = audited(&folder, &[]);
    let audit = folder.path().join("audit");
    wait_for("the audit", || audit.exists());
    let mode = fs::metadata(&audit).expect("the audit").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    do_things(&gateway, &folder);
    let lines = Lines::wait(&audit, 7);
    assert_eq!(lines.0.len(), 7, "{:#?}", lines.0);
    for session in lines.0.values() {
        // Who has logged in is named from then on.
        let login = session.iter().position(|line| line["result"] == "success");
        let known = &session[login.unwrap_or(session.len())..];
        assert!(known.iter().all(|line| line["user"] == *user()), "{session:#?}");
    }
    assert_logins(&gateway, &lines);
    let copied = lines.with("what", "scp -t");
    let what = format!("scp -t {}", folder.path().join("copied").display());
    assert_eq!(one(copied, "session_start")["what"], what);
    assert_eq!(one(copied, "session_end")["what"], "scp -t: exit status 0");
    assert_files(lines.with("what", "sftp"));
    let text = fs::read_to_string(&audit).expect("the audit");
    for secret in [PASSWORD, WRONG, HASH] {
        assert!(!text.contains(secret), "a secret in the audit");
    }
}

fn assert_logins(gateway: &Gateway, lines: &Lines) {
    let ran = lines.with("what", "command exit 3");
    let login = one(ran, "auth");
    assert_eq!((&login["method"], &login["result"]), (&"publickey".into(), &"success".into()));
    let shown = run_ok(Command::new("ssh-keygen").arg("-lf").arg(gateway.path("user_ed25519.pub")));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(login["fingerprint"].as_str().expect("a key")), "{shown} {login}");
    assert!(login["source"].as_str().expect("a file").contains("authorized_keys:"), "{login}");
    let (start, end) = (one(ran, "session_start"), one(ran, "session_end"));
    assert_eq!(start["channel"], end["channel"]);
    assert_eq!(end["what"], "exit status 3");
    let bye = one(ran, "disconnect");
    assert!(bye["bytes_in"].as_u64() > Some(1000) && bye["bytes_out"].as_u64() > Some(1000));

    let config = gateway.path("tidegate_config").display().to_string();
    let text = fs::read_to_string(&config).expect("the configuration");
    let line_of = |keyword: &str| {
        let line = text.lines().position(|line| line.starts_with(keyword)).expect("its line");
        format!("{config}:{} {keyword}", line + 1)
    };
    let denied = one(lines.with("rule", "AuthorizedKeysFile"), "denied");
    assert_eq!(denied["rule"], line_of("AuthorizedKeysFile"));
    assert!(denied["what"].as_str().expect("a key").starts_with("Key SHA256:"), "{denied}");
    assert_eq!(denied["user"], *user());

    let wrong = lines.with("reason", "a password or a code is wrong");
    assert_eq!(one(wrong, "denied")["what"], "What was typed");
    let typed = wrong.iter().find(|line| line["method"] == "password").expect("an attempt");
    assert_eq!((&typed["event"], &typed["result"]), (&"auth".into(), &"failure".into()));
    assert_eq!(one(lines.with("source", "a password"), "session_start")["what"], "command true");

    let refused = one(lines.with("what", "direct-tcpip to 127.0.0.1 port 9"), "refused");
    assert_eq!(refused["reason"], "PermitOpen does not list it");
    assert_eq!(refused["rule"], line_of("PermitOpen"));
}

fn assert_files(session: &[Value]) {
    let expected = [
        ("open_write", "there", "Success"),
        ("close", "there", "Success"),
        ("open_read", "there", "Success"),
        ("close", "there", "Success"),
        ("rename", "there", "Success"),
        ("remove", "there", "No such file"),
        ("mkdir", "dir", "Success"),
        ("setstat", "dir", "Success"),
        ("symlink", "link", "Success"),
        ("remove", "link", "Success"),
        ("rmdir", "dir", "Success"),
    ];
    let mut operations = operations(session);
    // Some clients set the mode of what they have put.
    operations.retain(|operation| *operation != ("setstat", "there", "Success"));
    assert_eq!(operations, expected);
    let closed: Vec<_> = session.iter().filter(|line| line["operation"] == "close").collect();
    let moved = |line: &Value| [&line["bytes_read"], &line["bytes_written"]].map(|n| n.as_u64());
    assert_eq!(moved(closed[0]), [Some(0), Some(100_000)]);
    assert_eq!(moved(closed[1]), [Some(100_000), Some(0)]);
    let renamed = session.iter().find(|line| line["operation"] == "rename").expect("renamed");
    assert!(renamed["to"].as_str().expect("a path").ends_with("/new \\\"one\\\""), "{renamed}");
    assert_eq!(one(session, "session_start")["channel"], renamed["channel"]);
}

/// As root each speaker is named: the edge of strangers, the gateway of logins, the account of itself.
#[test]
fn accounts_speak_for_themselves_and_files_out_of_reach_are_told() {
    let Some(account) = Account::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let gateway =
        audited(&folder, &["Match User tidetest*\nForceCommand internal-sftp -R\nMatch all"]);
    let user = format!("User={}", account.name);
    let taken =
        gateway.sftp(&[&user], "get /etc/hostname /dev/null\n-mkdir /tmp/audit\n-rm /etc/shadow\n");
    assert!(taken.status.success(), "{taken:?}\n{}", gateway.log());
    let lines = Lines::wait(&folder.path().join("audit"), 1);
    let session = lines.with("what", "sftp");
    let by: Vec<_> = session.iter().map(|line| line["by"].as_str().expect("a speaker")).collect();
    let own = format!("account {}", account.name);
    let first = by.iter().position(|by| *by == own).expect("the account's lines");
    assert!(by[..first].contains(&"edge") && by[first..].iter().all(|by| *by == own), "{by:?}");
    assert_eq!(one(session, "auth")["by"], "gateway");
    let denied = "Permission denied";
    for operation in [
        ("open_read", "hostname", "Success"),
        ("mkdir", "audit", denied),
        ("remove", "shadow", denied),
    ] {
        assert!(operations(session).contains(&operation), "{operation:?}: {session:#?}");
    }

    // A process that is killed leaves no session without its end.
    let mut held = gateway.ssh(&[&user, "PermitLocalCommand=no"], &["-N"]).spawn().expect("ssh");
    wait_for("its process", || {
        !account.delegates().is_empty() && gateway.log().matches("Accepted publickey").count() >= 2
    });
    let audit = || fs::read_to_string(folder.path().join("audit")).expect("the audit");
    wait_for("its login", || audit().matches("\"result\":\"success\"").count() >= 2);
    let pids = account.delegates();
    run_ok(Command::new("kill").arg("-9").args(pids.iter().map(u32::to_string)));
    wait_for("its end", || audit().contains("its process has ended"));
    let _ = held.kill();
    let _ = held.wait();
}

/// Lines that come in datagrams, until one has this.
fn heard(socket: &UnixDatagram, what: &str) -> Vec<String> {
    let (mut lines, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let len =
            socket.recv(&mut buffer).unwrap_or_else(|why| panic!("{what}: {why}: {lines:#?}"));
        let line = String::from_utf8_lossy(&buffer[..len]).into_owned();
        lines.push(line);
        if lines.iter().any(|line| line.contains(what)) {
            return lines;
        }
    }
}

#[test]
fn the_systems_logs_hear_it_and_a_file_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    for (outlet, variable) in
        [("syslog", "TIDEGATE_TEST_SYSLOG"), ("journald", "TIDEGATE_TEST_JOURNAL")]
    {
        let path = folder.path().join(outlet);
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
        let line = format!("TidegateAuditLog {outlet}");
        let gateway = Gateway::start_with(&[&line, "SyslogFacility LOCAL3"], |command| {
            command.env(variable, &path);
        });
        run_ok(&mut gateway.ssh(&[], &["true"]));
        for text in heard(&socket, "\"event\":\"session_end\"") {
            let json = match outlet {
                // LOCAL3 is 19; INFO is 6.
                "syslog" => {
                    assert!(text.starts_with("<158>"), "{text}");
                    text.split_once("tidegate-audit[")
                        .and_then(|(_, rest)| rest.split_once("]: "))
                        .expect("a header")
                        .1
                }
                _ => {
                    assert!(text.contains("\nSYSLOG_IDENTIFIER=tidegate-audit\n"), "{text}");
                    text.strip_prefix("MESSAGE=")
                        .and_then(|rest| rest.lines().next())
                        .expect("a message")
                }
            };
            Lines::of(json);
        }
    }

    let gateway = audited(&folder, &[]);
    let (audit, old) = (folder.path().join("audit"), folder.path().join("audit.1"));
    run_ok(&mut gateway.ssh(&[], &["true"]));
    let before = Lines::wait(&audit, 1).0.len();
    fs::rename(&audit, &old).expect("moved");
    run_ok(Command::new("kill").args(["-HUP", &gateway.child.id().to_string()]));
    wait_for("a new file", || audit.exists());
    run_ok(&mut gateway.ssh(&[], &["true"]));
    assert_eq!(Lines::wait(&audit, 1).0.len(), 1);
    assert_eq!(Lines::wait(&old, 1).0.len(), before);
}

#[test]
fn a_file_that_cannot_be_had_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    let path = folder.path().join("no/such").display().to_string();
    support::keygen(&folder.path().join("host"), "ed25519", "");
    let text = format!(
        "Port {}\nListenAddress 127.0.0.1\nHostKey {}\nTidegateAuditLog {path}\n",
        support::free_port(),
        folder.path().join("host").display()
    );
    fs::write(&config, text).expect("a configuration");
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = gateway.arg("serve").arg("-f").arg(&config).output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains(&format!("TidegateAuditLog {path}: ")),
        "{told}"
    );
}
