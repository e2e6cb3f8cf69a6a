//! `TidegateIsolation per-connection`, as an administrator and an attacker see it: each connection has
//! processes of its own, before its login and after it.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use support::account::Account;
use support::load::Load;
use support::openssh::Agent;
use support::processes::{
    Session, assert_open, assert_without_rights, field_if_there, kill, wait_for_the_end_of,
};
use support::{Gateway, free_port, make_executable, run_ok, wait_for};
use tempfile::TempDir;
use tidegate::limits::EDGES_SPARE;

const APART: &str = "TidegateIsolation per-connection";
/// Of "correct horse", by crypt(3).
const HASH: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";

/// Only root has rights to separate.
fn gateway(lines: &[&str]) -> Option<Gateway> {
    if !nix::unistd::geteuid().is_root() {
        println!("only root has rights to separate");
        return None;
    }
    Some(Gateway::start(&[&[APART], lines].concat()))
}

/// A stranger who says nothing, once he was greeted. The place of one before him is free once root's process
/// has seen the end of its edge.
fn stranger(gateway: &Gateway) -> TcpStream {
    let mut found = None;
    wait_for("a place", || {
        let stream = gateway.connect().expect("a connection");
        is_greeted(found.insert(stream))
    });
    found.expect("one")
}

fn is_greeted(stream: &mut TcpStream) -> bool {
    let mut head = [0; 4];
    stream.read_exact(&mut head).expect("an identification, or a refusal");
    &head == b"SSH-"
}

/// The socket's number at the gateway's end of a connection from this port (proc_net_tcp(5)).
fn inode(gateway: &Gateway, port: u16) -> String {
    let table = fs::read_to_string("/proc/net/tcp").expect("connections");
    let ends = [(1, gateway.port), (2, port)].map(|(at, port)| (at, format!(":{port:04X}")));
    let ours = |fields: &Vec<&str>| ends.iter().all(|(at, end)| fields[*at].ends_with(end));
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(ours).expect("the connection")[9].to_owned()
}

/// The processes of the gateway that have this connection.
fn holders(gateway: &Gateway, stream: &TcpStream) -> Vec<u32> {
    let port = stream.local_addr().expect("its address").port();
    let socket = format!("socket:[{}]", inode(gateway, port));
    let has = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to.ends_with(&socket))
    };
    let parts = ["edge", "signer", "delegate", "relay"].map(|part| gateway.parts(part)).concat();
    [vec![gateway.child.id()], parts].concat().into_iter().filter(has).collect()
}

/// Its only process, once root's has passed it on.
fn holder(gateway: &Gateway, stream: &TcpStream) -> u32 {
    let mut found = Vec::new();
    wait_for("one process", || {
        found = holders(gateway, stream);
        found.len() == 1
    });
    found[0]
}

/// Edges that wait for somebody, and no others: the sockets of theirs are the ways to root's process, the edge's
/// and its shard's.
fn wait_for_calm(gateway: &Gateway) {
    let sockets = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let to = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok());
        to.filter(|to| to.to_string_lossy().starts_with("socket:")).count()
    };
    wait_for("edges to end", || {
        let edges = gateway.parts("edge");
        edges.len() == EDGES_SPARE && edges.iter().all(|pid| sockets(pid) == 2)
    });
}

/// SECURITY cases 132 and 133: no stranger shares a process with another, and none has rights.
#[test]
fn case_132_and_133_strangers_have_processes_of_their_own() {
    let Some(gateway) = gateway(&[]) else { return };
    let [mut first, mut second] = [stranger(&gateway), stranger(&gateway)];
    let edges = [&first, &second].map(|stream| holder(&gateway, stream));
    assert_ne!(edges[0], edges[1]);
    let all = gateway.parts("edge");
    for edge in edges {
        assert!(all.contains(&edge), "{edge} of {all:?}");
        assert_without_rights(edge);
        // No listening socket: the only one with a peer is its connection.
        assert_open(edge, &["socket:", "pipe:", "anon_inode:", "/dev/null"]);
    }
    // Whoever has one of them has one connection.
    kill("-9", edges[0]);
    assert_ends(&mut first);
    second.write_all(b"SSH-2.0-x\r\n").expect("room");
    wait_for("its key exchange to begin", || {
        let mut some = [0; 4096];
        second.read(&mut some).expect("more of it") > 256
    });
    assert_eq!(holder(&gateway, &second), edges[1]);
    gateway.tells("The edge has ended: it ended with signal: 9");
    gateway.assert_alive();
    drop(second);
    wait_for_calm(&gateway);
}

/// The gateway closes it.
fn assert_ends(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    let reset = std::io::ErrorKind::ConnectionReset;
    assert!(end.is_ok() || end.is_err_and(|why| why.kind() == reset), "it goes on");
}

/// The processes that serve logins of this account.
fn delegates(gateway: &Gateway, account: &Account) -> BTreeSet<u32> {
    let uid = vec![account.uid.to_string(); 4].join(" ");
    let is_its = |pid: &u32| field_if_there(*pid, "Uid:").is_some_and(|found| found == uid);
    gateway.parts("delegate").into_iter().filter(is_its).collect()
}

/// The process of the account that none of `before` is.
fn another(gateway: &Gateway, account: &Account, before: &[u32]) -> u32 {
    let all = delegates(gateway, account);
    let mut new = all.iter().filter(|pid| !before.contains(pid));
    let found = *new.next().expect("one more process");
    assert_eq!(new.next(), None, "{all:?}");
    found
}

/// Logins of one account share no process either: whoever ends one ends one session.
#[test]
fn logins_of_one_account_have_processes_of_their_own() {
    let Some(gateway) = gateway(&[]) else { return };
    let account = Account::new().expect("root makes accounts");
    let mut sessions = Vec::new();
    let mut pids = Vec::new();
    for _ in 0..3 {
        sessions.push(Session::begin(&gateway, &account.name));
        pids.push(another(&gateway, &account, &pids));
    }
    // Nobody who is logged in is heard by an edge.
    wait_for_calm(&gateway);
    kill("-9", pids[1]);
    let ended = sessions.remove(1).0.wait().expect("its end");
    assert_eq!(ended.code(), Some(255));
    sessions.iter_mut().for_each(Session::assert_well);
    gateway.tells(&format!("The process of {} ended with signal: 9", account.name));
    // One that ends by itself takes its process along, and no other.
    drop(sessions.remove(0));
    wait_for_the_end_of(pids[0]);
    sessions[0].assert_well();
    assert_eq!(delegates(&gateway, &account), BTreeSet::from([pids[2]]));
    drop(sessions);
    wait_for("all of them to end", || delegates(&gateway, &account).is_empty());
    gateway.assert_alive();
}

/// What a login can have it has: commands, a shell, files, forwarded connections, several at a time.
#[test]
fn a_login_has_all_that_it_has_otherwise() {
    let Some(gateway) = gateway(&["RekeyLimit 256K"]) else { return };
    let account = Account::new().expect("root makes accounts");
    let user = format!("User={}", account.name);
    let shown = run_ok(&mut gateway.ssh(&[&user], &["id -u; tr '\\0' ' ' < /proc/$PPID/cmdline"]));
    let shown = String::from_utf8(shown.stdout).expect("text");
    let (uid, words) = shown.split_once('\n').expect("two lines");
    assert_eq!(uid, account.uid.to_string());
    assert!(words.contains("--reactors 1 --idle-time 0"), "{words}");
    let mut shell = gateway.ssh(&[&user, "RequestTTY=force"], &["tty"]);
    let shown = run_ok(&mut shell).stdout;
    assert!(shown.starts_with(b"/dev/pts/"), "{}", String::from_utf8_lossy(&shown));

    let bytes = support::noise(3 << 20, 5);
    fs::write(gateway.path("big"), &bytes).expect("a file");
    let [from, to] = ["big", "back"].map(|name| gateway.path(name));
    let batch = format!("put {} big\nls -l big\nget big {}\n", from.display(), to.display());
    let output = gateway.sftp(&[&user], &batch);
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(&to).expect("the copy") == bytes);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (behind, near) = (listener.local_addr().expect("its address").port(), free_port());
    let forward = format!("LocalForward={near} 127.0.0.1:{behind}");
    let options = [&*forward, "ExitOnForwardFailure=yes"];
    let mut session = Session::begin_with(&gateway, &account.name, &options);
    let mut through = TcpStream::connect((Ipv4Addr::LOCALHOST, near)).expect("forwarded");
    let (mut target, _) = listener.accept().expect("a connection");
    through.write_all(b"there").expect("room");
    let mut word = [0; 5];
    target.read_exact(&mut word).expect("it arrives");
    target.write_all(b"again").expect("room");
    through.read_exact(&mut word).expect("it comes back");
    assert_eq!(&word, b"again");
    session.assert_moves(2 << 20);
}

/// A root that only root can change, all the way up, with a folder that the account may write to.
fn cage(account: &Account) -> TempDir {
    let cage = tempfile::tempdir_in("/var").expect("a folder");
    fs::set_permissions(cage.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    fs::create_dir(cage.path().join("in")).expect("a folder");
    std::os::unix::fs::chown(cage.path().join("in"), Some(account.uid), None).expect("its folder");
    cage
}

/// What other processes have a part in is there as with shared ones: names of clients, forced commands, roots,
/// chains of methods, recordings, agents.
#[test]
fn settings_hold_in_processes_of_their_own() {
    if gateway(&[]).is_none() {
        return;
    }
    let [forced, caged, both] = [(); 3].map(|()| Account::new().expect("root makes accounts"));
    let (cage, tapes) = (cage(&caged), tempfile::tempdir().expect("a folder"));
    fs::set_permissions(tapes.path(), PermissionsExt::from_mode(0o700)).expect("a mode");
    let hashes = tapes.path().with_extension("hashes");
    fs::write(&hashes, format!("{}:{HASH}\n", both.name)).expect("a file");
    fs::set_permissions(&hashes, PermissionsExt::from_mode(0o600)).expect("a mode");
    let lines = [
        "UseDNS yes".to_owned(),
        format!("TidegateRecordDirectory {}", tapes.path().display()),
        format!("TidegatePasswordFile {}", hashes.display()),
        "PasswordAuthentication yes".to_owned(),
        format!("Match User {} Host localhost", forced.name),
        "ForceCommand echo \"forced: $SSH_ORIGINAL_COMMAND\"".to_owned(),
        "TidegateRecord sessions".to_owned(),
        format!("Match User {}", caged.name),
        format!("ChrootDirectory {}", cage.path().display()),
        "ForceCommand internal-sftp".to_owned(),
        format!("Match User {}", both.name),
        "AuthenticationMethods publickey,password".to_owned(),
        "Match all".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let gateway = gateway(&lines).expect("root");

    let user = format!("User={}", forced.name);
    let shown = run_ok(&mut gateway.ssh(&[&user], &["anything"])).stdout;
    assert_eq!(String::from_utf8_lossy(&shown), "forced: anything\n");
    wait_for("a recording", || {
        let tapes = fs::read_dir(tapes.path()).expect("a folder").flatten();
        let tapes = tapes.filter_map(|tape| fs::read_to_string(tape.path()).ok());
        tapes.into_iter().any(|tape| tape.contains("forced: anything"))
    });

    let user = format!("User={}", caged.name);
    fs::write(gateway.path("here"), "some\n").expect("a file");
    let batch = format!("pwd\nput {} in/there\nls -1 /\n", gateway.path("here").display());
    let output = gateway.sftp(&[&user], &batch);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}\n{}", gateway.log());
    assert!(said.contains("Remote working directory: /\n") && said.contains("/in\n"), "{said}");
    assert_eq!(fs::read(cage.path().join("in/there")).expect("the copy"), b"some\n");
    let refused = gateway.ssh(&[&user], &["id"]).output().expect("ssh starts");
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");

    // The key alone is not enough, nor is the password.
    fs::write(gateway.path("types"), "#!/bin/sh\necho 'correct horse'\n").expect("a script");
    make_executable(&gateway.path("types"));
    let user = format!("User={}", both.name);
    for (methods, gets_in) in
        [("publickey", false), ("password", false), ("publickey,password", true)]
    {
        let methods = format!("PreferredAuthentications={methods}");
        let options = [&*user, &*methods, "BatchMode=no", "NumberOfPasswordPrompts=1"];
        let mut ssh = gateway.ssh(&options, &["echo in"]);
        ssh.env("SSH_ASKPASS", gateway.path("types")).env("SSH_ASKPASS_REQUIRE", "force");
        let output = ssh.output().expect("ssh starts");
        assert_eq!(output.stdout == b"in\n", gets_in, "{methods}: {output:?}\n{}", gateway.log());
    }

    let agent = Agent::start(gateway.path("agent"));
    agent.add(&gateway.path("user_ecdsa256"));
    let output = run_ok(&mut gateway.ssh(&[&agent.option(), "ForwardAgent=yes"], &["ssh-add -l"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("(ECDSA)"), "{output:?}");
    wait_for("all of them to end", || gateway.parts("delegate").is_empty());
    wait_for_calm(&gateway);
}

/// MaxStartups bounds the processes: who comes beyond it is refused as sshd does, and who comes within it
/// has one, all of them at once too.
#[test]
fn a_storm_has_as_many_processes_as_it_may() {
    let most = 12;
    let limit = format!("MaxStartups {most}:100:{most}");
    let Some(gateway) = gateway(&[&limit, "PerSourceMaxStartups none"]) else { return };
    wait_for_calm(&gateway);
    let mut held: Vec<TcpStream> = (0..most).map(|_| gateway.connect().expect("one")).collect();
    for stream in &mut held {
        if !is_greeted(stream) {
            *stream = stranger(&gateway);
        }
    }
    let mut beyond = gateway.connect().expect("a connection");
    assert_eq!(support::drain(&mut beyond), b"Exceeded MaxStartups\r\n");
    let pids: BTreeSet<u32> = held.iter().map(|stream| holder(&gateway, stream)).collect();
    assert_eq!(pids.len(), most);
    let edges = gateway.parts("edge").len();
    assert!(edges <= most + EDGES_SPARE, "{edges}");
    gateway.tells("for MaxStartups; the last from 127.0.0.1");
    drop(held);
    wait_for_calm(&gateway);
    // Far more than there are at a time, some of them at once.
    let words = ["--scenario", "auth", "--connections", "10", "--duration", "3"];
    let run = Load::start(&gateway, &words).report();
    assert_eq!(run["errors"], serde_json::json!({}), "{run}\n{}", gateway.log());
    wait_for_calm(&gateway);
    wait_for("sessions to end", || gateway.parts("delegate").is_empty());
}

/// However many rings there are at a time: some kernels count them by the locked memory of a user. Programs
/// have the limit that they had.
#[test]
fn strangers_who_say_nothing_leave_rings_to_others() {
    let lines = ["MaxStartups 200:100:200", "PerSourceMaxStartups none"];
    let Some(gateway) = gateway(&lines) else { return };
    let account = Account::new().expect("root makes accounts");
    let silent: Vec<TcpStream> = (0..120).map(|_| stranger(&gateway)).collect();
    let user = format!("User={}", account.name);
    let ours = run_ok(Command::new("sh").args(["-c", "ulimit -l"]));
    let theirs = run_ok(&mut gateway.ssh(&[&user], &["ulimit -l"]));
    assert_eq!(theirs.stdout, ours.stdout);
    let many: Vec<Session> = (0..60).map(|_| Session::begin(&gateway, &account.name)).collect();
    assert!(!gateway.log().contains("going on with mio"), "{}", gateway.log());
    drop((silent, many));
    wait_for_calm(&gateway);
}

/// An edge that was made to keep its connection does not keep its place.
#[test]
fn a_place_is_kept_no_longer_than_a_login_may_take() {
    // So long that whoever is stopped is found before it ends by itself.
    let Some(gateway) = gateway(&["LoginGraceTime 5", "MaxStartups 1:100:1"]) else { return };
    wait_for_calm(&gateway);
    let mut first = stranger(&gateway);
    assert_ends(&mut first);
    wait_for_calm(&gateway);
    // It hears neither its connection nor root's process.
    let mut stuck = stranger(&gateway);
    kill("-STOP", holder(&gateway, &stuck));
    assert_ends(&mut stuck);
    gateway.tells("The edge has ended: it ");
    wait_for_calm(&gateway);
    gateway.assert_alive();
}

/// Sessions go on while the gateway drains, and hear that it ends.
#[test]
fn a_drain_waits_for_processes_of_their_own() {
    let Some(mut gateway) = gateway(&["TidegateDrainTime 60"]) else { return };
    let account = Account::new().expect("root makes accounts");
    let mut session = Session::begin(&gateway, &account.name);
    let late = stranger(&gateway);
    kill("-TERM", gateway.child.id());
    wait_for("it to accept no more", || gateway.connect().is_err());
    session.assert_moves(1 << 20);
    drop(late);
    wait_for("edges to end", || gateway.parts("edge").is_empty());
    session.assert_well();
    drop(session);
    wait_for("the gateway to end", || gateway.child.try_wait().expect("a status").is_some());
    gateway.tells("All sessions have ended");
}

/// A reload changes how connections are kept apart; those that are there stay as they are.
#[test]
fn a_reload_changes_it_for_new_connections() {
    let Some(gateway) = gateway(&[]) else { return };
    let account = Account::new().expect("root makes accounts");
    let mut apart = [(); 2].map(|()| Session::begin(&gateway, &account.name));
    let config = gateway.path("tidegate_config");
    let text = fs::read_to_string(&config).expect("its configuration");
    fs::write(&config, text.replace(APART, "TidegateIsolation shared")).expect("another");
    kill("-HUP", gateway.child.id());
    gateway.tells("is in force for new connections");
    let mut shared = [(); 2].map(|()| Session::begin(&gateway, &account.name));
    assert_eq!(delegates(&gateway, &account).len(), 3);
    wait_for("the edges of before to end", || gateway.parts("edge").len() == 1);
    // And back, with a line that is refused beside it first.
    for (line, said) in [
        ("TidegateUpstreamShare yes", "one of them has to go"),
        ("SetEnv AGAIN=yes", "is in force for new connections"),
    ] {
        fs::write(&config, format!("{line}\n{text}")).expect("another");
        let before = gateway.log().matches(said).count();
        kill("-HUP", gateway.child.id());
        gateway.tells_times(said, before + 1);
    }
    let mut again = Session::begin(&gateway, &account.name);
    assert_eq!(delegates(&gateway, &account).len(), 4);
    apart.iter_mut().chain(&mut shared).for_each(Session::assert_well);
    again.assert_well();
}
