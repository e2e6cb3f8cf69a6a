//! Separation of rights, as an administrator and an attacker see it: the gateway as root, whose
//! processes are looked at, stopped and killed.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use support::account::Account;
use support::processes::{
    Session, assert_open, assert_without_rights, field, has, kill, part, seed, wait_for_the_end_of,
};
use support::silent::Silent;
use support::{Gateway, wait_for};

/// Only root has rights to separate.
fn gateway() -> Option<Gateway> {
    if !nix::unistd::geteuid().is_root() {
        println!("only root has rights to separate");
        return None;
    }
    Some(Gateway::start(&[]))
}

/// SECURITY cases 132 and 133: who hears strangers has no rights, no groups and no files.
#[test]
fn case_132_and_133_an_administrator_finds_the_edge_without_rights() {
    let Some(gateway) = gateway() else { return };
    gateway.assert_alive();
    let edge = part(&gateway, "edge");
    assert_without_rights(edge);
    // Sockets, a pipe for its log, and what drivers are made of.
    assert_open(edge, &["socket:", "pipe:", "anon_inode:", "/dev/null"]);
}

/// SECURITY cases 132 to 134: who signs has keys, one socket and one pipe.
#[test]
fn case_132_to_134_an_administrator_finds_the_signer_with_its_keys_alone() {
    let Some(gateway) = gateway() else { return };
    gateway.assert_alive();
    let signer = part(&gateway, "signer");
    assert_without_rights(signer);
    assert_ne!(field(signer, "Uid:"), field(part(&gateway, "edge"), "Uid:"), "it shares no number");
    // Its socket, its log, and a way for root's sessions; what it was started with leads nowhere.
    let count = assert_open(signer, &["socket:", "pipe:", "/dev/null"]);
    assert_eq!(count, 5);
}

/// The scheduling policies of its threads, by their names (proc_pid_stat(5)).
fn policies(pid: u32) -> Vec<(String, i32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    let of = |task: fs::DirEntry| {
        // Some end by themselves.
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once(") ").expect("a name");
        let policy = rest.split_whitespace().nth(38).expect("a policy").parse().expect("a number");
        Some((name.split_once('(').expect("a name").1.to_owned(), policy))
    };
    tasks.filter_map(of).collect()
}

/// Who is told of logins takes several at a waking, and does not interrupt who tells; all others,
/// programs of users among them, are scheduled as usual.
#[test]
fn those_who_hear_of_logins_are_woken_in_batches() {
    let Some(gateway) = gateway() else { return };
    let shown = gateway.ssh(&[], &["cat", "/proc/self/stat"]).output().expect("ssh runs");
    let stat = String::from_utf8(shown.stdout).expect("text");
    assert_eq!(stat.split_whitespace().nth(40), Some("0"), "{stat}");
    let batch = nix::libc::SCHED_BATCH;
    let root = policies(gateway.child.id());
    for name in ["edge's keeper", "signer's keeper", "broker"] {
        assert!(root.contains(&(name.to_owned(), batch)), "{name}: {root:?}");
    }
    for (name, expected) in [("signer", batch), ("edge", batch), ("delegate", 0)] {
        let all = policies(part(&gateway, name));
        assert!(all.iter().all(|(_, policy)| *policy == expected), "{name}: {all:?}");
    }
}

/// SECURITY case 135: the host's private keys are where signatures are made and nowhere else.
#[test]
fn case_135_private_keys_are_in_no_other_process() {
    let Some(gateway) = gateway() else { return };
    let account = Account::new().expect("root makes accounts");
    let mut session = Session::begin(&gateway, &account.name);
    gateway.assert_alive();
    let secret = seed(&gateway.path("host_ed25519"));
    let signer = part(&gateway, "signer");
    assert!(has(signer, &secret), "the search finds what is there");
    let root = vec![gateway.child.id()];
    let others = [root, gateway.parts("edge"), gateway.parts("delegate")].concat();
    assert_eq!(others.len(), 4, "root's, the edge, root's own and the account's: {others:?}");
    for pid in &others {
        assert!(!has(*pid, &secret), "{pid} has the key");
    }
    // Root's process opens the files again for another signer, and does not read them.
    kill("-9", signer);
    gateway.assert_alive();
    assert!(has(part(&gateway, "signer"), &secret));
    for pid in others {
        assert!(!has(pid, &secret), "{pid} has the key now");
    }
    session.assert_well();
}

/// SECURITY R3b: the signer is killed. What it was asked for is asked of the next one, which is there
/// within a moment; nobody who is logged in notices, one who exchanges keys just then included.
#[test]
fn r3b_a_killed_signer_is_replaced_and_key_exchanges_wait() {
    let Some(gateway) = gateway() else { return };
    let account = Account::new().expect("root makes accounts");
    let mut sessions = ["root", &account.name].map(|user| Session::begin(&gateway, user));
    let mut rekeying = Session::begin_with(&gateway, &account.name, &["RekeyLimit=64K"]);
    let signer = part(&gateway, "signer");
    kill("-STOP", signer);
    // One login and one later key exchange wait for the signer.
    let login = gateway.ssh(&[], &["echo waited"]).stdout(Stdio::piped()).spawn();
    let login = login.expect("ssh starts");
    let mut input = rekeying.0.stdin.take().expect("input");
    let pump = std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || input.write_all(&[b'x'; 256 << 10]).map(|()| input))
        .expect("a thread");
    sessions.iter_mut().for_each(Session::assert_well);
    kill("-9", signer);
    let mut back = vec![0; 256 << 10];
    rekeying.0.stdout.as_mut().expect("output").read_exact(&mut back).expect("all of it");
    rekeying.0.stdin = Some(pump.join().expect("no panic").expect("written"));
    rekeying.assert_well();
    let output = login.wait_with_output().expect("its output");
    assert_eq!(output.stdout, b"waited\n", "{}", gateway.log());
    sessions.iter_mut().for_each(Session::assert_well);
    assert_ne!(part(&gateway, "signer"), signer);
    let why = "The signer has ended: it ended with signal: 9";
    let log = gateway.tells(why);
    assert_eq!(log.matches(why).count(), 1, "{log}");
}

/// A signer that has no key any more: logins end with a clear word in the log, sessions go on, and all is
/// well when the file is back.
#[test]
fn r3b_a_signer_without_its_key_file_is_told_of() {
    let Some(gateway) = gateway() else { return };
    let mut session = Session::begin(&gateway, "root");
    let (key, away) = (gateway.path("host_ed25519"), gateway.path("away"));
    fs::rename(&key, &away).expect("taken away");
    kill("-9", part(&gateway, "signer"));
    let output = gateway.ssh(&[], &["true"]).output().expect("ssh starts");
    assert_eq!(output.status.code(), Some(255));
    gateway.tells(&format!("The signer has ended: host key {}", key.display()));
    gateway.tells("key exchanges end: there is no signer");
    session.assert_well();
    // Another key in its place is not taken for it.
    support::keygen(&key, "ed25519", "");
    gateway.tells("another key than before");
    fs::rename(&away, &key).expect("put back");
    wait_for("a signer", || !gateway.parts("signer").is_empty());
    wait_for("a login", || {
        gateway.ssh(&[], &["true"]).output().expect("ssh starts").status.success()
    });
    session.assert_well();
}

/// An edge that is killed takes along who has not logged in, and nobody else.
#[test]
fn r2_a_killed_edge_is_replaced_and_sessions_do_not_notice() {
    let Some(gateway) = gateway() else { return };
    let account = Account::new().expect("root makes accounts");
    let mut sessions = ["root", &account.name].map(|user| Session::begin(&gateway, user));
    for _ in 0..3 {
        let edge = part(&gateway, "edge");
        let mut stranger = gateway.connect().expect("a connection");
        stranger.read_exact(&mut [0; 8]).expect("an identification");
        kill("-9", edge);
        // What it accepts while it dies, dies with it.
        wait_for_the_end_of(edge);
        // Its port is root's process's too: the next connection waits for the next edge.
        gateway.assert_alive();
        assert_ne!(part(&gateway, "edge"), edge);
        // Who has not logged in has lost his connection.
        let _ = stranger.read_to_end(&mut Vec::new());
        sessions.iter_mut().for_each(Session::assert_well);
    }
    let why = "The edge has ended: it ended with signal: 9";
    let log = gateway.tells_times(why, 3);
    assert_eq!(log.matches(why).count(), 3, "{log}");
}

/// What a source has earned with one edge keeps it out of the next.
#[test]
fn penalties_outlive_an_edge() {
    if !nix::unistd::geteuid().is_root() {
        return println!("only root has rights to separate");
    }
    // Whoever waits for the gateway to listen says nothing.
    let gateway = Gateway::start(&["PerSourcePenalties noauth:600 min:1"]);
    gateway.tells("Keeping 127.0.0.1 out");
    let edge = part(&gateway, "edge");
    kill("-9", edge);
    wait_for("another edge", || gateway.parts("edge").iter().any(|pid| *pid != edge));
    let mut text = Vec::new();
    let mut connection = gateway.connect().expect("a connection");
    let _ = connection.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    assert!(!text.starts_with("SSH-"), "{text}");
}

/// An edge that has heard strangers for long is replaced; it hears the logins that it has begun.
#[test]
fn an_edge_that_has_heard_strangers_is_replaced() {
    if !nix::unistd::geteuid().is_root() {
        return println!("only root has rights to separate");
    }
    let change = |serve: &mut Command| {
        serve.env("TIDEGATE_TEST_EDGE_TIME", "1000");
    };
    let gateway = Gateway::start_with(&[], change);
    let mut stranger = gateway.connect().expect("a connection");
    stranger.read_exact(&mut [0; 8]).expect("an identification");
    // Nobody was heard yet, so none has taken its place.
    let first = part(&gateway, "edge");
    let mut session = Session::begin(&gateway, "root");
    gateway.tells("Another edge accepts");
    assert!(gateway.parts("edge").contains(&first), "it hears the stranger still");
    stranger.write_all(b"SSH-2.0-late\r\n").expect("said");
    stranger.read_exact(&mut [0; 256]).expect("an offer");
    gateway.assert_alive();
    drop(stranger);
    wait_for_the_end_of(first);
    gateway.assert_alive();
    session.assert_well();
    assert!(!gateway.log().contains("The edge has ended"), "{}", gateway.log());
}

/// Those that are stopped are found out and replaced; so is nobody who is logged in.
#[test]
fn a_stopped_edge_and_a_stopped_signer_are_replaced() {
    let Some(gateway) = gateway() else { return };
    let mut session = Session::begin(&gateway, "root");
    let [edge, signer] = ["edge", "signer"].map(|name| part(&gateway, name));
    [edge, signer].into_iter().for_each(|pid| kill("-STOP", pid));
    session.assert_well();
    for name in ["edge", "signer"] {
        let why = format!("The {name} has ended: it does not answer");
        gateway.tells(&why);
    }
    gateway.assert_alive();
    assert!(part(&gateway, "edge") != edge && part(&gateway, "signer") != signer);
    session.assert_well();
}

/// Root's process is held up for a moment: those who are logged in go on, and logins wait.
#[test]
fn a_stopped_broker_holds_up_logins_alone() {
    let Some(gateway) = gateway() else { return };
    let account = Account::new().expect("root makes accounts");
    let mut sessions = ["root", &account.name].map(|user| Session::begin(&gateway, user));
    kill("-STOP", gateway.child.id());
    // The edge still says who it is, and takes what a client sends.
    let mut stranger = gateway.connect().expect("a connection");
    stranger.read_exact(&mut [0; 8]).expect("an identification");
    let login = gateway.ssh(&[], &["echo waited"]).stdout(Stdio::piped()).spawn();
    let login = login.expect("ssh starts");
    sessions.iter_mut().for_each(Session::assert_well);
    kill("-CONT", gateway.child.id());
    let output = login.wait_with_output().expect("its output");
    assert_eq!(output.stdout, b"waited\n", "{}", gateway.log());
    sessions.iter_mut().for_each(Session::assert_well);
}

/// SECURITY R3: root's process is killed. Whoever is logged in goes on; whatever serves strangers or holds
/// keys ends, so that the next gateway has the port; and nothing is left when the sessions are over.
#[test]
fn r3_sessions_outlive_a_killed_broker_and_logins_come_back() {
    let Some(mut gateway) = gateway() else { return };
    let account = Account::new().expect("root makes accounts");
    let rekeying = ["RekeyLimit=64K"];
    let mut sessions =
        ["root", &account.name].map(|user| Session::begin_with(&gateway, user, &rekeying));
    let [edge, signer] = ["edge", "signer"].map(|name| part(&gateway, name));
    let delegates = gateway.parts("delegate");
    assert_eq!(delegates.len(), 2);
    // Somebody whose login waits for root's process holds the edge up no longer than anybody.
    kill("-STOP", gateway.child.id());
    let mut waiting = gateway.ssh(&[], &["-v", "true"]);
    let mut waiting = waiting.stderr(Stdio::piped()).spawn().expect("ssh starts");
    let told = BufReader::new(waiting.stderr.take().expect("piped"));
    let asked = |line: std::io::Result<String>| {
        line.is_ok_and(|line| line.contains("expecting SSH2_MSG_KEX"))
    };
    assert!(told.lines().any(asked), "{}", gateway.log());
    kill("-9", gateway.child.id());
    gateway.child.wait().expect("its end");
    wait_for_the_end_of(edge);
    waiting.wait().expect("its end");
    // The signer is there for them, and their keys change.
    sessions.iter_mut().for_each(|session| session.assert_moves(256 << 10));
    gateway.run_again();
    gateway.assert_alive();
    sessions.iter_mut().for_each(|session| session.assert_moves(256 << 10));
    let [root, own] = sessions;
    drop(root);
    // One that is told to end does, in order.
    let uid = account.uid.to_string();
    let pid = delegates.iter().find(|pid| field(**pid, "Uid:").starts_with(&uid));
    kill("-TERM", *pid.expect("the account's"));
    delegates.into_iter().for_each(wait_for_the_end_of);
    // It ends with the last of them.
    wait_for_the_end_of(signer);
    drop(own);
}

/// Logins as the account that the edge runs as could reach into it.
#[test]
fn nobody_logs_in_as_the_edges_account() {
    if !nix::unistd::geteuid().is_root() {
        return println!("only root has rights to separate");
    }
    let account = Account::new().expect("root makes accounts");
    let gateway = Gateway::start(&[&format!("TidegateEdgeUser {}", account.name)]);
    gateway.assert_alive();
    let ids = field(part(&gateway, "edge"), "Uid:");
    assert_eq!(ids, vec![account.uid.to_string(); 4].join(" "));
    let user = format!("User={}", account.name);
    let output = gateway.ssh(&[&user], &["true"]).output().expect("ssh starts");
    assert_eq!(output.status.code(), Some(255));
    gateway.tells("TidegateEdgeUser names another");
}

#[test]
fn settings_that_separate_nothing_are_refused() {
    let root = nix::unistd::geteuid().is_root();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    let bad: &[(&str, &str)] = if root {
        &[
            ("TidegateIsolation none", "is for a gateway without root's rights"),
            ("TidegateEdgeUser root", "has root's rights"),
            ("TidegateEdgeUser no-such-user", "there is no user no-such-user"),
            ("TidegateIsolation per-connection\nTidegateUpstreamShare yes", "has to go"),
            ("TidegateIsolation per-process", "not one of the legal values"),
            ("TidegateSignerUser root", "TidegateSignerUser root has root's rights"),
            (
                "TidegateEdgeUser nobody\nTidegateSignerUser nobody",
                "TidegateSignerUser names another",
            ),
            (
                "TidegateUpstream 127.0.0.1:9\nTidegateEdgeUser nobody\nTidegateRelayUser nobody",
                "TidegateRelayUser names another",
            ),
        ]
    } else {
        &[
            ("TidegateIsolation shared", "takes root's rights"),
            ("TidegateIsolation per-connection", "takes root's rights"),
        ]
    };
    support::keygen(&folder.path().join("key"), "ed25519", "");
    let key = folder.path().join("key");
    for (line, why) in bad {
        let port = support::free_port();
        let lines = format!("ListenAddress 127.0.0.1:{port}\nHostKey {}\n{line}\n", key.display());
        fs::write(&config, lines).expect("a configuration");
        let mut serve = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = serve.arg("serve").arg("-f").arg(&config).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{line}: {said}");
        // Who tests the configuration hears the same, as far as it is about how connections are kept apart.
        if line.starts_with("TidegateIsolation") {
            let tested = tested(&config, "-t");
            assert_eq!((tested.status.success(), text(&tested.stderr)), (false, said), "{line}");
        }
    }
    let isolation = if root { "per-connection" } else { "none" };
    let lines = format!("HostKey {}\nTidegateIsolation {isolation}\n", key.display());
    fs::write(&config, lines).expect("a configuration");
    let output = tested(&config, "-t");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let shown = text(&tested(&config, "-T").stdout);
    assert!(shown.lines().any(|l| l == format!("tidegateisolation {isolation}")), "{shown}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a test of the configuration says.
fn tested(config: &Path, flag: &str) -> Output {
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    serve.args(["serve", flag, "-f"]).arg(config).output().expect("it starts")
}

/// A gateway that looks for keys where each account may have made what is there, and two accounts.
fn gateway_with_folders() -> Option<(Gateway, tempfile::TempDir, [Account; 2])> {
    let accounts = [Account::new()?, Account::new()?];
    let folders = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folders.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let keys = format!("AuthorizedKeysFile {}/%u/keys", folders.path().display());
    let gateway = Gateway::start(&[&keys]);
    for account in &accounts {
        let folder = folders.path().join(&account.name);
        fs::create_dir(&folder).expect("a folder");
        fs::copy(gateway.path("authorized_keys"), folder.join("keys")).expect("keys");
        fs::set_permissions(folder.join("keys"), PermissionsExt::from_mode(0o644)).expect("a mode");
    }
    Some((gateway, folders, accounts))
}

fn log_in(gateway: &Gateway, account: &Account) -> Child {
    let user = format!("User={}", account.name);
    let mut ssh = gateway.ssh(&[&user], &["echo in"]);
    ssh.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ssh starts")
}

fn assert_in(login: Child) {
    assert_eq!(login.wait_with_output().expect("ssh ends").stdout, b"in\n");
}

/// SECURITY case 129: an account whose keys have let it in a moment ago makes the way to them one that nobody
/// answers on. Root's process looks at it again, and does not wait.
#[test]
fn case_129_a_way_to_keys_that_is_blocked_meanwhile_is_not_waited_for() {
    let Some((gateway, folders, [ann, bob])) = gateway_with_folders() else { return };
    let place = folders.path().join("silent");
    fs::create_dir(&place).expect("a folder");
    let folder = folders.path().join(&ann.name);
    // What has rested for a moment is remembered.
    std::thread::sleep(Duration::from_millis(2100));
    for mounted in [true, false] {
        assert_in(log_in(&gateway, &ann));
        let Some(silent) = Silent::over(if mounted { &folder } else { &place }) else { return };
        if !mounted {
            fs::rename(&folder, folders.path().join("before")).expect("renamed");
            std::os::unix::fs::symlink(&place, &folder).expect("a link");
        }
        let waits = log_in(&gateway, &ann);
        assert_in(log_in(&gateway, &bob));
        drop(silent);
        assert!(waits.wait_with_output().expect("ssh ends").stdout.is_empty(), "its keys are gone");
    }
}

/// SECURITY case 129: nobody answers where the keys of an account are. Those who ask for it in any number wait, and
/// nobody else.
#[test]
fn case_129_keys_that_are_never_read_hold_up_their_account_alone() {
    let Some((gateway, folders, [ann, bob])) = gateway_with_folders() else { return };
    let folder = folders.path().join(&ann.name);
    let Some(silent) = Silent::over(&folder) else { return };
    let waiting: Vec<Child> = (0..8).map(|_| log_in(&gateway, &ann)).collect();
    assert_in(log_in(&gateway, &bob));
    gateway.tells("an earlier try still waits for the account's");
    drop(silent);
    for login in waiting {
        assert!(login.wait_with_output().is_ok());
    }
    assert_in(log_in(&gateway, &ann));
    // Nor is it waited for at the end.
    let Some(_silent) = Silent::over(&folder) else { return };
    let mut waits = log_in(&gateway, &ann);
    std::thread::sleep(Duration::from_secs(1));
    kill("-TERM", gateway.child.id());
    wait_for_the_end_of(gateway.child.id());
    let _ = (waits.kill(), waits.wait());
}
