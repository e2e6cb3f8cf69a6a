//! Timeouts: what is idle, unused, silent or slow.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{client, here, shown, ssh, with_blocks};
use crate::support::processes::kill;
use crate::support::{Gateway, drain, driver, wait_for};

/// Runs to its end; how long that took.
fn timed(command: &mut Command) -> (super::Shown, Duration) {
    let start = Instant::now();
    (shown(command), start.elapsed())
}

fn within(what: &str, time: Duration, from: u64, to: u64) {
    let range = Duration::from_secs(from)..Duration::from_secs(to);
    assert!(range.contains(&time), "{what}: {time:?}");
}

#[test]
fn case_79_idle_channels_are_closed_by_their_kind() {
    let (gateway, ports) = with_blocks(
        &["Subsystem own sleep 1000"],
        &[
            "ChannelTimeout session:command=2",
            "ChannelTimeout session:shell=2 session:*=0",
            "ChannelTimeout session:subsystem:own=2",
            "ChannelTimeout global=2",
            "ChannelTimeout direct-tcpip=2 x11-connection=2",
        ],
    );
    std::thread::scope(|scope| {
        let gateway = &gateway;
        for (port, words, closed) in [
            (ports[0], vec!["sleep 6; echo done"], true),
            (ports[1], vec!["sleep 6; echo done"], false),
            (ports[2], vec!["own"], true),
            (ports[2], vec!["sleep 6; echo done"], false),
            (ports[3], vec!["sleep 6; echo done"], true),
            (ports[4], vec!["sleep 6; echo done"], false),
            // Traffic either way keeps it open.
            (
                ports[0],
                vec!["for n in 1 2 3 4 5 6 7 8 9; do echo $n; sleep .5; done; echo done"],
                false,
            ),
        ] {
            scope.spawn(move || {
                let mut ssh = ssh(gateway, port, &[], &words);
                if words == ["own"] {
                    ssh = client(gateway, &[&format!("Port={port}")]);
                    ssh.args(["-s", "127.0.0.1", "own"]);
                }
                let (seen, time) = timed(&mut ssh);
                assert_eq!(!seen.out.contains("done"), closed, "{words:?}: {seen:?}");
                if closed {
                    assert!(time >= Duration::from_secs(2), "{words:?}: {time:?}");
                    assert_ne!(seen.code, Some(0), "{seen:?}");
                }
            });
        }
        scope.spawn(|| {
            let mut shell = ssh(gateway, ports[1], &[], &[]);
            let mut shell = shell.stdin(Stdio::piped()).spawn().expect("ssh starts");
            let start = Instant::now();
            // Waiting would close it, and the shell would end by itself.
            let _input = shell.stdin.take();
            let _ = shell.wait();
            within("a shell", start.elapsed(), 2, 20);
        });
    });
    gateway.tells("closed after 2 s without traffic (ChannelTimeout)");
    gateway.assert_alive();
}

#[test]
fn unused_silent_and_slow_connections_end() {
    let (gateway, ports) = with_blocks(
        &["LoginGraceTime 2"],
        &["UnusedConnectionTimeout 1", "ClientAliveInterval 1\nClientAliveCountMax 2"],
    );
    std::thread::scope(|scope| {
        let gateway = &gateway;
        scope.spawn(|| {
            let port = format!("Port={}", ports[0]);
            let (seen, time) =
                timed(client(gateway, &[&port, "LogLevel=INFO"]).args(["-N", "127.0.0.1"]));
            within("unused", time, 1, 20);
            assert!(seen.err.contains("UnusedConnectionTimeout"), "{seen:?}");
            // A session counts as use, however quiet.
            let (seen, _) = timed(&mut ssh(gateway, ports[0], &[], &["sleep 3; echo done"]));
            assert_eq!(seen.out, "done\n");
        });
        scope.spawn(|| {
            let mut silent = ssh(gateway, ports[1], &[], &["echo ready; sleep 1000"]);
            let streams = silent.stdout(Stdio::piped()).stderr(Stdio::null());
            let mut silent = streams.spawn().expect("ssh starts");
            let mut ready = [0; 5];
            let out = silent.stdout.as_mut().expect("output");
            std::io::Read::read_exact(out, &mut ready).expect("a line");
            // One that answers stays.
            std::thread::sleep(Duration::from_millis(3500));
            assert_eq!(silent.try_wait().expect("a status"), None);
            kill("-STOP", silent.id());
            let start = Instant::now();
            gateway.tells("the peer does not answer");
            within("silent", start.elapsed(), 1, 30);
            kill("-CONT", silent.id());
            let _ = silent.kill();
            let _ = silent.wait();
        });
        scope.spawn(|| {
            let start = Instant::now();
            let mut stream = gateway.connect().expect("a connection");
            drain(&mut stream);
            within("slow", start.elapsed(), 2, 30);
        });
    });
}

/// SECURITY case 67: ten thousand that never log in end together, in time, and cost nobody else
/// anything, nor the gateway anything that lasts.
#[test]
fn case_67_those_that_never_log_in_end_together() {
    const COUNT: u64 = 10_000;
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a wider limit");
    // Where a process may not have so many descriptors: as many as it may; fewer on the second driver.
    let most = if driver().is_some() { COUNT / 5 } else { COUNT };
    let count = most.min(hard.saturating_sub(600));
    let grace = 5;
    let grace_line = format!("LoginGraceTime {grace}");
    let folder = tempfile::tempdir().expect("a folder");
    let audit = folder.path().join("audit");
    let audit_line = format!("TidegateAuditLog {}", audit.display());
    let gateway = Gateway::start(&["MaxStartups 16000", &grace_line, &audit_line]);
    // Listening comes before the reactors' own descriptors.
    gateway.assert_alive();
    let before = gateway.descriptors();
    let mut session = here(&gateway, &[], &["cat"]);
    let mut session = session.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
    let start = Instant::now();
    let mut silent = (0..count).map(|_| gateway.connect().expect("room")).collect::<Vec<_>>();
    let connected = start.elapsed();
    for stream in &mut silent {
        // Until the gateway has had enough; the stream's own limit is longer.
        assert!(drain(stream).starts_with(b"SSH-2.0-"));
    }
    // Each is some work, as connecting it was.
    within("all of them", start.elapsed(), grace - 1, grace * 4 + 10 * connected.as_secs());
    // The reactors wait for neither the log nor the audit, which have room for a line of each at once.
    wait_for("a line for each", || {
        let late = gateway.log().lines().filter(|line| line.contains(": timed out: ")).count();
        late as u64 == count
    });
    wait_for("an event for each", || {
        let text = std::fs::read_to_string(&audit).expect("an audit");
        assert!(!text.contains(r#""event":"lost""#), "{text}");
        text.matches(r#""reason":"timed out: "#).count() as u64 == count
    });
    // Who is logged in has noticed nothing.
    let (input, output) = (session.stdin.take(), session.stdout.take());
    input.expect("its input").write_all(b"still here").expect("written");
    let mut echo = String::new();
    std::io::Read::read_to_string(&mut output.expect("its output"), &mut echo).expect("text");
    assert_eq!(echo, "still here");
    let _ = session.wait();
    wait_for("descriptors", || gateway.descriptors() <= before + 4);
    gateway.assert_alive();
}

/// SECURITY case 79: RekeyLimit holds for the logins that its block is about.
#[test]
fn case_79_keys_change_as_often_as_the_login_is_told() {
    let (gateway, ports) = with_blocks(&[], &["RekeyLimit 1M"]);
    let script = "head -c 8000000 /dev/zero";
    assert_eq!(shown(&mut here(&gateway, &[], &[script])).out.len(), 8_000_000);
    assert_eq!(gateway.tells("Session ended: ").matches("Rekeyed").count(), 0);
    assert_eq!(shown(&mut ssh(&gateway, ports[0], &[], &[script])).out.len(), 8_000_000);
    gateway.tells_times("Rekeyed", 4);
}
