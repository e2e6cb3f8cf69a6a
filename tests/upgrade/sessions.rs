//! What goes on across an upgrade, and how it ends.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::*;
use crate::support::openssh::Agent;
use crate::support::{free_port, noise, sha256};

/// The login shell of a session with a terminal: what is computed there tells it from an echo.
struct Shell {
    child: Session,
    output: BufReader<std::process::ChildStdout>,
}

impl Shell {
    fn begin(site: &Site) -> Shell {
        let mut command = site.ssh(&["RequestTTY=force", "RekeyLimit=16K"], &["exec sh -i"]);
        command.stderr(Stdio::null());
        let mut child = Session::begin(command);
        let output = BufReader::new(child.0.stdout.take().expect("its output"));
        let mut shell = Shell { child, output };
        shell.assert_computes(1);
        shell
    }

    fn assert_computes(&mut self, number: u32) {
        let input = self.child.0.stdin.as_mut().expect("its input");
        writeln!(input, "echo $(({number} + 1))th word").expect("typed");
        let wanted = format!("{}th word", number + 1);
        self.read_until(&wanted);
    }

    fn read_until(&mut self, wanted: &str) {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            let len = self.output.read_line(&mut line).expect("a line of the shell");
            assert!(len > 0, "the shell has ended before it said {wanted}");
        }
    }
}

/// Answers every connection with what it says.
pub fn echo_server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::Builder::new()
        .name("echo".to_owned())
        .spawn(move || {
            for stream in listener.incoming().take(8).flatten() {
                std::thread::Builder::new()
                    .name("echo".to_owned())
                    .spawn(move || {
                        let (mut from, mut to) = (&stream, &stream);
                        let _ = std::io::copy(&mut from, &mut to);
                    })
                    .expect("a thread");
            }
        })
        .expect("a thread");
    port
}

pub fn assert_echoes(stream: &mut TcpStream, len: usize) {
    let bytes = noise(len, 3);
    let mut back = vec![0; len];
    let mut to = stream.try_clone().expect("a copy");
    std::thread::scope(|scope| {
        scope.spawn(|| to.write_all(&bytes).expect("sent"));
        stream.read_exact(&mut back).expect("an echo");
    });
    assert!(back == bytes);
}

pub fn connect(port: u16) -> TcpStream {
    let mut stream = None;
    wait_for("a forwarded port", || {
        stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
        stream.is_some()
    });
    stream.expect("a connection")
}

/// A client without a session, which forwards one port each way.
pub fn forwarding(site: &Site, echo: u16, [there, back]: [u16; 2]) -> Session {
    let mut command = site.ssh(&["RekeyLimit=16K", "ExitOnForwardFailure=yes"], &[]);
    let to = |port: u16| format!("127.0.0.1:{port}:127.0.0.1:{echo}");
    command.args(["-N", "-L", &to(there), "-R", &to(back)]);
    Session::begin(command)
}

/// What a program finds.
fn surroundings(site: &Site) -> String {
    let output = run_ok(&mut site.ssh(&[], &["ulimit -n; env | grep TIDEGATE; pwd; umask"]));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn every_kind_lives_on(site: &Site) {
    let gateway = &site.gateway;
    let before = surroundings(site);
    let (size, echo, ports) = (3 << 20, echo_server(), [free_port(), free_port()]);
    fs::write(gateway.path("big"), noise(size, 5)).expect("a file");
    fs::set_permissions(gateway.path("big"), PermissionsExt::from_mode(0o644)).expect("a mode");
    fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let agent = Agent::start(gateway.path("agent"));
    agent.add(&gateway.path("user_ecdsa256"));

    let mut shell = Shell::begin(site);
    let mut exec = site.session();
    let mut with_agent = site.ssh(
        &["ForwardAgent=yes", &agent.option(), "RekeyLimit=16K"],
        &["while read line; do ssh-add -l; head -c 60000 /dev/zero | tr '\\0' z; echo; done"],
    );
    with_agent.stderr(Stdio::null());
    let mut with_agent = Session::begin(with_agent);
    let mut listed = BufReader::new(with_agent.0.stdout.take().expect("its output"));
    let mut keys = |session: &mut Session| {
        writeln!(session.0.stdin.as_mut().expect("input"), "keys?").expect("typed");
        let mut lines = [String::new(), String::new()];
        for line in &mut lines {
            listed.read_line(line).expect("a line");
        }
        assert!(lines[0].contains("(ECDSA)") && lines[1].len() > 60_000, "{lines:?}");
    };
    keys(&mut with_agent);
    let forwarding = forwarding(site, echo, ports);
    let mut streams = ports.map(connect);
    streams.iter_mut().for_each(|stream| assert_echoes(stream, 1000));
    fs::write(
        gateway.path("batch"),
        format!("get {} {}\n", gateway.path("big").display(), gateway.path("copy").display()),
    )
    .expect("a batch");
    let user = format!("User={}", site.user);
    let mut sftp = gateway.client(Path::new("sftp"), &[&user, "RekeyLimit=128K"]);
    sftp.args(["-l", "12000", "-b"]).arg(gateway.path("batch")).arg("127.0.0.1");
    let sftp = Session::begin(sftp);
    let arrived = || gateway.path("copy").metadata().map_or(0, |meta| meta.len());
    wait_for("the transfer", || arrived() > 0);
    // However long the upgrades take, it is in its middle.
    kill("-STOP", sftp.0.id());
    assert!(arrived() < size as u64);

    let first = site.upgrade();
    let second = site.upgrade();
    // All of them change keys now, and more than once.
    shell.assert_computes(41);
    writeln!(shell.child.0.stdin.as_mut().expect("input"), "seq 1 20000").expect("typed");
    shell.read_until("19999");
    exec.assert_well(4000);
    keys(&mut with_agent);
    streams.iter_mut().for_each(|stream| assert_echoes(stream, 200_000));
    let mut later = ports.map(connect);
    later.iter_mut().for_each(|stream| assert_echoes(stream, 100_000));
    kill("-CONT", sftp.0.id());
    sftp.end();
    assert_eq!(sha256(&gateway.path("copy")), sha256(&gateway.path("big")));
    assert_eq!(surroundings(site), before);
    // None has to go by the one in the middle.
    wait_for_the_end_of(second);
    drop((streams, later, forwarding));
    writeln!(shell.child.0.stdin.as_mut().expect("input"), "exit 0").expect("typed");
    shell.child.end();
    exec.end();
    with_agent.end();
    wait_for_the_end_of(first);
    site.assert_serves();
}

#[test]
fn sessions_of_every_kind_live_on_and_change_keys() {
    every_kind_lives_on(&Site::new(&[]));
}

#[test]
fn sessions_of_one_process_live_on_and_change_keys() {
    let Some(account) = Account::new() else { return };
    every_kind_lives_on(&Site::of(&account, &[]));
}

/// As root, an account has a process of each program where it has sessions, and sessions leave for the last.
#[test]
fn processes_of_accounts_end_when_their_sessions_have_left() {
    let Some(account) = Account::new() else { return };
    let site = Site::new(&[]);
    let user = format!("User={}", account.name);
    let begin = || {
        let command = site.gateway.ssh(&[&user, "RekeyLimit=16K"], &["cat"]);
        let mut session = Session::begin(command);
        session.assert_well(1);
        session
    };
    let mut session = begin();
    let [delegate] = account.delegates()[..] else { panic!("one process of the account") };
    site.moves();
    session.assert_well(2000);
    wait_for_the_end_of(delegate);
    let [delegate] = account.delegates()[..] else { panic!("one process of the account") };
    let mut other = begin();
    assert_eq!(account.delegates(), [delegate], "it has both");
    session.end();
    other.assert_well(1);
    other.end();
}

/// What cannot move stays as long as it is, with the program that it began with.
#[test]
fn sessions_that_are_recorded_stay() {
    let Some(account) = Account::new() else { return };
    for site in [Site::new(&STAY), Site::of(&account, &STAY)] {
        let mut session = site.session();
        let (first, second) = (site.upgrade(), site.upgrade());
        wait_for_the_end_of(second);
        session.assert_well(2000);
        assert!(is_there(first), "it is recorded there");
        session.end();
        wait_for_the_end_of(first);
        let [recording] = &fs::read_dir(site.folder.path().join("recordings"))
            .expect("a folder")
            .flatten()
            .map(|entry| entry.path())
            .collect::<Vec<_>>()[..]
        else {
            panic!("one recording\n{}", site.gateway.log())
        };
        let text = fs::read_to_string(recording).expect("a recording");
        assert!(
            text.matches("still here").count() > 1900 && text.contains(",\"x\","),
            "to its end"
        );
    }
}

/// Clients were told the host keys of the program that they began with, and hold it to them.
#[test]
fn sessions_stay_where_the_next_program_has_other_host_keys() {
    let Some(account) = Account::new() else { return };
    for site in [Site::new(&[]), Site::of(&account, &[])] {
        let session = site.session();
        let config = site.gateway.path("tidegate_config");
        let text = fs::read_to_string(&config).expect("a configuration");
        let less = text.lines().filter(|line| !line.ends_with("host_rsa3072"));
        let less: String = less.map(|line| format!("{line}\n")).collect();
        assert_ne!(less, text);
        fs::write(&config, less).expect("a configuration");
        let first = site.upgrade();
        site.gateway.tells("Connections stay here: the next program has not all of our host keys");
        let other = site.session();
        // One that has more than the second takes what that has.
        fs::write(&config, text).expect("a configuration");
        site.moves();
        wait_for_the_end_of(first);
        for mut session in [session, other] {
            session.assert_well(2000);
            session.end();
        }
    }
}

/// What is compressed has a past that only its own program knows.
#[test]
fn compressed_connections_stay() {
    let site = Site::new(&["Compression yes"]);
    let mut session = Session::begin(site.ssh(&["Compression=yes", "RekeyLimit=16K"], &["cat"]));
    session.assert_well(1);
    let first = site.upgrade();
    session.assert_well(2000);
    assert!(is_there(first));
    session.end();
    wait_for_the_end_of(first);
}

/// Whoever rotates the audit tells the program that takes connections, and the others hear of it.
#[test]
fn an_audit_is_opened_again_by_every_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let [audit, away] = ["audit", "away"].map(|name| folder.path().join(name));
    let site =
        Site::new(&[&[&*format!("TidegateAuditLog {}", audit.display())], &STAY[..]].concat());
    let session = site.session();
    let first = site.upgrade();
    fs::rename(&audit, &away).expect("moved");
    kill("-HUP", site.now());
    wait_for("the file", || audit.exists());
    // It is there as soon as one of them has opened it.
    wait_for("the other", || {
        let links = fs::read_dir(format!("/proc/{first}/fd")).expect("descriptors").flatten();
        links.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == audit)
    });
    session.end();
    wait_for_the_end_of(first);
    let text = fs::read_to_string(&audit).expect("lines");
    assert!(text.contains("\"event\":\"disconnect\""), "{text}");
}

/// What a source has earned with one program keeps it out of the next.
#[test]
fn penalties_outlive_a_program() {
    let site = Site::new(&["PerSourcePenalties noauth:600 min:1"]);
    wait_for("a penalty", || site.told("Keeping 127.0.0.1 out") > 0);
    site.upgrade();
    let mut text = Vec::new();
    let _ = site.gateway.connect().expect("a connection").read_to_end(&mut text);
    assert!(!text.starts_with(b"SSH-"), "{}", String::from_utf8_lossy(&text));
}

/// Whoever logs in while the gateway is upgraded does so at the program he began with.
#[test]
fn logins_that_have_begun_go_on() {
    let site = Site::new(&[]);
    let mut guest = site.gateway.connect().expect("a connection");
    guest.read_exact(&mut [0; 8]).expect("an identification");
    let first = site.upgrade();
    guest.write_all(b"SSH-2.0-late\r\n").expect("said");
    guest.read_exact(&mut [0; 256]).expect("an offer");
    assert!(is_there(first));
    drop(guest);
    wait_for_the_end_of(first);
    site.assert_serves();
}

/// The end of the program that takes connections is the end of the earlier ones too, and their sessions
/// have the time to finish.
#[test]
fn an_end_after_upgrades_reaches_every_session() {
    let Some(account) = Account::new() else { return };
    let lines = [&["TidegateDrainTime 30"], &STAY[..]].concat();
    for site in [Site::new(&lines), Site::of(&account, &lines)] {
        let mut finishing = site.ssh(&[], &["echo begun; sleep 2; echo finished"]);
        let mut finishing = finishing.stdout(Stdio::piped()).spawn().expect("ssh starts");
        let begun = finishing.stdout.as_mut().expect("its output").read_exact(&mut [0; 6]);
        begun.expect("its session");
        let mut session = site.session();
        let first = site.upgrade();
        let mut other = site.session();
        let second = site.upgrade();
        let third = site.now();
        kill("-TERM", third);
        let output = finishing.wait_with_output().expect("its output");
        assert_eq!(output.stdout, b"finished\n", "{}", site.gateway.log());
        session.assert_well(1);
        other.assert_well(1);
        let there = [first, second, third].map(is_there);
        assert_eq!(there, [true; 3], "sessions are open\n{}", site.gateway.log());
        wait_for("it to accept no more", || site.gateway.connect().is_err());
        // Whoever does not want to wait says so again.
        kill("-TERM", third);
        [first, second, third].into_iter().for_each(wait_for_the_end_of);
        for mut session in [session, other] {
            assert_eq!(session.0.wait().expect("an end").code(), Some(255));
        }
    }
}

/// A program that is killed leaves its predecessor's sessions alone, and nobody keeps its port.
#[test]
fn the_port_of_a_program_that_is_killed_is_free() {
    let Some(account) = Account::new() else { return };
    for mut site in [Site::new(&STAY), Site::of(&account, &STAY)] {
        let mut session = site.session();
        let first = site.upgrade();
        kill("-KILL", site.now());
        let port = site.gateway.port;
        wait_for("the port", || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
        session.assert_well(2000);
        session.end();
        wait_for_the_end_of(first);
        fs::remove_file(site.folder.path().join("pid")).expect("a PidFile that was left");
        let _ = site.gateway.child.wait();
        if site.user == "root" {
            site.gateway.run_again();
            site.gateway.assert_alive();
        }
    }
}

/// A signal for the gateway that reaches the program before, which whoever sent it takes for the one that
/// serves, is passed on.
#[test]
fn a_reload_that_comes_just_after_an_upgrade_is_not_lost() {
    let site = Site::new(&STAY);
    let mut session = site.session();
    let before = site.upgrade();
    let config = site.gateway.path("tidegate_config");
    let text = fs::read_to_string(&config).expect("a configuration");
    fs::write(&config, format!("Banner none\nMaxAuthTries 3\n{text}")).expect("a configuration");
    kill("-HUP", before);
    let now = site.now();
    site.gateway.tells(&format!("Received SIGHUP; passing it on to process {now}"));
    site.gateway.tells("The configuration is in force for new connections");
    site.assert_serves();
    session.assert_well(1);
    session.end();
    wait_for_the_end_of(before);
}

/// The number is where the configuration of the program that serves says, and nowhere else.
#[test]
fn a_pid_file_that_an_upgrade_moves_leaves_none_behind() {
    let site = Site::new(&STAY);
    let mut session = site.session();
    let (config, old) = (site.gateway.path("tidegate_config"), site.folder.path().join("pid"));
    let text = fs::read_to_string(&config).expect("a configuration");
    let moved = site.folder.path().join("moved");
    let other = format!("PidFile {}", moved.display());
    let changed = text.replace(&format!("PidFile {}", old.display()), &other);
    assert_ne!(changed, text);
    fs::write(&config, changed).expect("a configuration");
    let first = site.now();
    kill("-USR2", first);
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u32>().ok();
    wait_for("another program", || number(&moved).is_some_and(|pid| pid != first));
    assert!(!old.exists(), "it names a process that takes no connections");
    // One that somebody else has written is his; and back it goes.
    let second = number(&moved).expect("a number");
    fs::write(&moved, "1\n").expect("written");
    fs::write(&config, &text).expect("a configuration");
    kill("-USR2", second);
    wait_for("the third program", || number(&old).is_some_and(|pid| pid != second));
    assert_eq!(number(&moved), Some(1));
    wait_for_the_end_of(second);
    site.assert_serves();
    session.assert_well(1);
    session.end();
    wait_for_the_end_of(first);
}
