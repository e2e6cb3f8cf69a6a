//! SIGUSR2 to `tidegate sshd`: the process in front stays.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::wait_for;
use super::{Running, Site, children, is_there, kill, serving, stat, text};

const TAKEN: &str = "has taken this one's place";

/// Not counting what has ended, which nobody else waits for.
fn all_children(parent: u32) -> usize {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter(|pid| stat(*pid, 1) == Some(parent.to_string())).count()
}

#[test]
fn the_number_of_a_service_stays_while_programs_change() {
    let site = Site::new(&[]);
    let mut running = site.running(&[]);
    let front = running.pid();
    let first = serving(front);
    let mut session = site.session(&["RekeyLimit=16K"]);
    for n in 1..3 {
        kill("-USR2", front);
        site.wait_for_log(TAKEN, n);
        site.assert_serves();
    }
    wait_for("the earlier ones to end", || children(front).len() == 1);
    assert!(!children(front).contains(&first) && site.pid() == Some(front));
    for _ in 0..2000 {
        session.assert_alive();
    }
    // A reload reaches the one that serves.
    site.configure(&["SetEnv ROUND=2"]);
    kill("-HUP", front);
    site.wait_for_log("is in force for new connections", 1);
    let output = site.ssh(&[], "echo $ROUND").output().expect("ssh starts");
    assert_eq!(text(&output.stdout), "2\n");
    assert_eq!(session.end().code(), Some(0));
    wait_for("those of before the reload to end", || all_children(front) == 1);
    // Sessions outlive whichever program they are in.
    let mut session = site.session(&[]);
    kill("-USR2", front);
    site.wait_for_log(TAKEN, 3);
    let mut last = site.session(&["RekeyLimit=16K"]);
    kill("-TERM", front);
    assert_eq!(running.end().code(), Some(0));
    drop(TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).expect("the port is free at once"));
    session.assert_alive();
    for _ in 0..1000 {
        last.assert_alive();
    }
    assert_eq!((session.end().code(), last.end().code()), (Some(0), Some(0)));
}

/// The one in front ends with the program that serves, not with one that has served before.
#[test]
fn the_one_in_front_ends_as_the_last_program_does() {
    let site = Site::new(&[]);
    let mut running = site.running(&[]);
    let front = running.pid();
    let first = serving(front);
    let session = site.session(&[]);
    kill("-USR2", front);
    site.wait_for_log(TAKEN, 1);
    site.assert_serves();
    kill("-KILL", first);
    wait_for("its end", || children(front).len() == 1);
    site.assert_serves();
    kill("-KILL", serving(front));
    assert_eq!(running.end().code(), Some(128 + 9));
    drop(session);
}

#[test]
fn a_gateway_in_the_background_is_upgraded() {
    let site = Site::new(&[]);
    let log = site.path("log");
    let status =
        site.sshd(&[]).arg("-E").arg(&log).stderr(Stdio::null()).status().expect("it starts");
    assert_eq!(status.code(), Some(0));
    let pid = site.pid().expect("a PidFile");
    let mut session = site.session(&[]);
    kill("-USR2", pid);
    site.wait_for_log(TAKEN, 1);
    site.assert_serves();
    session.assert_alive();
    assert_eq!(site.pid(), Some(pid));
    let serves = children(pid);
    assert!(serves.iter().all(|pid| stat(*pid, 4).as_deref() == Some("0")), "without a terminal");
    assert_eq!(session.end().code(), Some(0));
}

#[test]
fn sockets_of_a_service_manager_are_passed_on() {
    let site = Site::new(&[]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, site.port)).expect("the port");
    // The port of its configuration is none of ours.
    site.configure(&["Port 1"]);
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tidegate"), "sshd", "-D"]);
    let given = listener.try_clone().expect("a copy");
    command.arg("-f").arg(site.path("config")).arg("-E").arg(site.path("log"));
    let mut running = Running(command.stdin(OwnedFd::from(given)).spawn().expect("it starts"));
    drop(command);
    site.wait_for_log("Serving with", 1);
    let mut session = site.session(&[]);
    for n in 1..3 {
        kill("-USR2", running.pid());
        site.wait_for_log(TAKEN, n);
        site.assert_serves();
    }
    session.assert_alive();
    kill("-TERM", running.pid());
    assert_eq!(running.end().code(), Some(0));
    session.assert_alive();
}

/// `tidegate serve` has no process in front: the service manager is told which one to watch.
#[test]
fn a_service_manager_is_told_of_another_process() {
    let site = Site::new(&[]);
    let manager = UnixDatagram::bind(site.path("notify")).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let hear = || {
        let mut buffer = [0; 500];
        let len = manager.recv(&mut buffer).expect("a word of the service");
        text(&buffer[..len])
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").arg("-f").arg(site.path("config")).arg("--log-file").arg(site.path("log"));
    command
        .env("NOTIFY_SOCKET", site.path("notify"))
        .env("TIDEGATE_TEST_LOGINS", site.path("none"));
    let mut running = Running(command.spawn().expect("it starts"));
    assert_eq!(hear(), "READY=1");
    let before = running.pid();
    kill("-USR2", before);
    let mut words = [hear(), hear()];
    words.sort();
    let pid = words[0].strip_prefix("MAINPID=").and_then(|pid| pid.parse().ok()).expect("a number");
    assert_eq!(words[1], "READY=1");
    assert!(pid != before);
    assert_eq!(running.end().code(), Some(0));
    wait_for("the PidFile", || site.pid() == Some(pid));
    site.assert_serves();
    kill("-TERM", pid);
    assert_eq!(hear(), "STOPPING=1");
    wait_for("its end", || !is_there(pid));
}
