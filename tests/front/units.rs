//! Under a service manager: Debian's unit, and sockets that were opened for us. What a real systemd
//! makes of it is tried by tests/clients/systemd.sh.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::{run_ok, wait_for};
use super::{Running, SSHD, Site, is_root, is_there, kill, run, serving, skip, text};

const UNIT: &str = "/lib/systemd/system/ssh.service";

#[test]
fn sockets_of_a_service_manager_are_served() {
    let site = Site::new(&["Port 1"]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).expect("the port");
    let config = site.path("config");
    let log = site.path("log");
    // What systemd does: the sockets from number 3 on, and the number of the process.
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tidegate"), "sshd", "-D"]);
    let given = listener.try_clone().expect("a copy");
    command.arg("-f").arg(&config).arg("-E").arg(&log).stdin(OwnedFd::from(given));
    let mut running = Running(command.spawn().expect("it starts"));
    drop(command);
    site.wait_for_log(&format!("Server listening on 127.0.0.1 port {}.", site.port), 1);
    site.assert_serves();
    site.configure(&["Port 1", "SetEnv ROUND=2"]);
    kill("-HUP", running.pid());
    site.wait_for_log("is in force for new connections", 1);
    let output = run_ok(&mut site.ssh(&[], "echo $ROUND"));
    assert_eq!(text(&output.stdout), "2\n");
    kill("-TERM", running.pid());
    assert_eq!(running.end().code(), Some(0));
    // The manager's socket goes on listening, for the next start.
    let waits = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("a connection");
    listener.set_nonblocking(true).expect("a flag");
    let (_, peer) = listener.accept().expect("it is for the manager");
    assert_eq!(waits.local_addr().expect("an address"), peer);
    // A socket of another kind is a slip in somebody's unit.
    let (one, _other) = UnixStream::pair().expect("a pair");
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tidegate"), "sshd", "-De"]);
    let (status, _, told) = run(command.arg("-f").arg(&config).stdin(OwnedFd::from(one)));
    assert!(status == 255 && told.contains("LISTEN_FDS: it does not listen"), "{status} {told}");
}

/// The commands of a unit's lines of one kind, with its variables filled in.
fn commands(unit: &str, kind: &str, variables: &[(&str, &str)]) -> Vec<Vec<String>> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix('='));
    let word = |word: &str| -> Vec<String> {
        match word.strip_prefix('$') {
            Some(name) => {
                let found = variables.iter().find(|(known, _)| *known == name);
                let (_, value) = found.unwrap_or_else(|| panic!("what is ${name}?"));
                value.split_whitespace().map(str::to_owned).collect()
            }
            None => vec![word.to_owned()],
        }
    };
    lines.map(|line| line.split_whitespace().flat_map(word).collect()).collect()
}

#[test]
fn the_unit_of_debian_starts_reloads_and_stops_it_with_only_the_path_changed() {
    let Ok(unit) = fs::read_to_string(UNIT) else {
        return skip("there is no ssh.service here");
    };
    if !is_root() || !Path::new("/etc/ssh/ssh_host_ed25519_key").exists() {
        return skip("the unit runs as root, with host keys in /etc/ssh");
    }
    assert!(unit.contains("\nType=notify\n") && unit.contains("\nKillMode=process\n"), "{unit}");
    let site = Site::new(&[]);
    // Only the path: a link by the name that the unit uses.
    let name = site.path("sshd");
    symlink(env!("CARGO_BIN_EXE_tidegate"), &name).expect("a link");
    let unit = unit.replace(SSHD, name.to_str().expect("UTF-8"));
    let manager = UnixDatagram::bind(site.path("notify")).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let hear = || {
        let mut buffer = [0; 500];
        let len = manager.recv(&mut buffer).expect("a word of the service");
        text(&buffer[..len])
    };
    let at = site.folder.path().display();
    // What /etc/default/ssh may set, so that the test stays by itself.
    let options = format!(
        "-p {} -oListenAddress=127.0.0.1 -oPidFile={at}/pid -oAuthorizedKeysFile={at}/authorized_keys \
         -oStrictModes=no -oPermitRootLogin=yes",
        site.port
    );
    let command = |words: &[String]| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).env("NOTIFY_SOCKET", site.path("notify"));
        command.env("TIDEGATE_TEST_SYSLOG", site.path("syslog"));
        command.env("TIDEGATE_TEST_LOGINS", site.path("none"));
        command
    };
    let mut variables = vec![("SSHD_OPTS", options.as_str())];
    let before = commands(&unit, "ExecStartPre", &variables);
    assert!(!before.is_empty());
    for words in before {
        run_ok(&mut command(&words));
    }
    let [start] = &commands(&unit, "ExecStart", &variables)[..] else { panic!("{unit}") };
    let mut running = Running(command(start).spawn().expect("it starts"));
    assert_eq!(hear(), "READY=1");
    site.assert_serves();
    let mut session = site.session(&[]);
    let pid = running.pid().to_string();
    variables.push(("MAINPID", &pid));
    let reload = commands(&unit, "ExecReload", &variables);
    assert!(reload.iter().any(|words| words[0].ends_with("kill")), "{unit}");
    for words in reload {
        run_ok(&mut command(&words));
    }
    let word = hear();
    let time = word.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&word);
    assert!(time.parse::<u64>().expect("a time") > 0);
    assert_eq!(hear(), "READY=1");
    session.assert_alive();
    site.assert_serves();
    // `systemctl stop` with KillMode=process: a SIGTERM to this process alone.
    kill("-TERM", running.pid());
    assert_eq!(hear(), "STOPPING=1");
    assert_eq!(running.end().code(), Some(0));
    TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).expect("the port is free at once");
    session.assert_alive();
    assert_eq!(session.end().code(), Some(0), "sessions go on, as with sshd");
}

/// An upgrade over ssh must not cut the session that runs it.
#[test]
fn sessions_outlive_the_gateway_and_another_one_takes_the_port() {
    for signal in ["-TERM", "-KILL"] {
        let site = Site::new(&["SyslogFacility LOCAL0"]);
        let mut first = site.running(&[]);
        let behind = serving(first.pid());
        // Keys change all the time, for which the host keys must still be at hand.
        let mut session = site.session(&["RekeyLimit=16K"]);
        let mut silent = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("a guest");
        silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        silent.read_exact(&mut [0; 8]).expect("its identification");
        kill(signal, first.pid());
        let status = first.end();
        assert_eq!(status.code(), if signal == "-TERM" { Some(0) } else { None });
        if signal == "-TERM" {
            // The port was given up before the end.
            drop(TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).expect("the port is free"));
            assert!(site.pid().is_none(), "the PidFile goes");
        }
        wait_for("the port to be free", || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).is_ok()
        });
        fs::remove_file(site.path("log")).expect("the first log");
        let second = site.running(&[]);
        site.assert_serves();
        for _ in 0..2000 {
            session.assert_alive();
        }
        assert!(is_there(behind), "it serves what it had");
        // Another number is in the PidFile by now, and what is left leaves it alone.
        drop(silent);
        if signal == "-TERM" {
            assert_eq!(session.end().code(), Some(0));
        } else {
            kill("-TERM", behind);
            let status = session.child.end();
            assert_eq!(status.code(), Some(255), "whoever ends that process ends it all");
        }
        wait_for("its end", || !is_there(behind));
        assert_eq!(site.pid(), Some(second.pid()));
    }
}

#[test]
fn a_serving_process_that_ends_takes_the_one_in_front_with_it() {
    let site = Site::new(&[]);
    for (signal, status) in [("-KILL", 128 + 9), ("-TERM", 0)] {
        let _ = fs::remove_file(site.path("log"));
        let mut running = site.running(&[]);
        kill(signal, serving(running.pid()));
        assert_eq!(running.end().code(), Some(status), "{signal}");
    }
    assert!(site.pid().is_none());
}
