//! `tidegate ssh` against our own gateway and, where it can run, Debian's sshd.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "client/hosts.rs"]
mod hosts;
#[path = "client/load.rs"]
mod load;
#[path = "client/server.rs"]
mod server;
mod support;
#[path = "client/terminal.rs"]
mod terminal;
#[path = "client/ways.rs"]
mod ways;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use server::{Server, both, text};
use support::openssh::Agent;
use support::{noise, wait_for};

/// What is moved through standard streams; the whole of it is many windows.
const BYTES: usize = 8 << 20;

fn fed(command: &mut Command, input: Vec<u8>) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("the writer");
    output
}

#[test]
fn commands_streams_and_exit_statuses() {
    both(&[], |server| {
        let output = server.ssh(&[], &["echo out; echo err >&2; exit 7"]).output().expect("runs");
        assert_eq!(text(&output.stdout), "out\n", "{}", text(&output.stderr));
        assert!(text(&output.stderr).ends_with("err\n"), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(7));

        let output = server.ssh(&[], &["kill -TERM $$"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(255), "ended by a signal");

        // Words are one command, for the shell there.
        let output = server.ssh(&[], &["echo", "'a  b'", "$((1+1))"]).output().expect("runs");
        assert_eq!(text(&output.stdout), "a  b 2\n");
    });
}

#[test]
fn bulk_goes_through_unharmed_both_ways() {
    both(&[], |server| {
        let bytes = noise(BYTES, 7);
        // A pipe on both sides, then files on both sides.
        let output = fed(&mut server.ssh(&[], &["cat"]), bytes.clone());
        assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
        let (from, to) = (server.path("from"), server.path("to"));
        fs::write(&from, &bytes).expect("a file");
        let status = server
            .ssh(&[], &["cat"])
            .stdin(fs::File::open(&from).expect("a file"))
            .stdout(fs::File::create(&to).expect("a file"))
            .status();
        assert!(status.expect("runs").success());
        assert!(fs::read(&to).expect("a file") == bytes);
    });
}

/// A reader that has had enough ends what is written for it, there as well.
#[test]
fn a_reader_that_leaves_ends_the_program() {
    both(&[], |server| {
        let mut child = server
            .ssh(&[], &["cat /dev/zero"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        drop(child.stdout.take());
        let mut status = None;
        wait_for("the client to end", || {
            status = child.try_wait().expect("a status");
            status.is_some()
        });
    });
}

#[test]
fn our_own_failures_are_255() {
    both(&[], |server| {
        let output = server.ssh(&["IdentityFile=/nonexistent"], &["true"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "the usual key follows");
        let mut command = server.bare(&[]);
        let output = command.args(["127.0.0.1", "true"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(255));
        assert!(text(&output.stderr).contains("Permission denied ("), "{}", text(&output.stderr));
        let mut command = server.bare(&["Port=1"]);
        let output = command.args(["127.0.0.1", "true"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(255), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("connect to host"), "{}", text(&output.stderr));
    });
}

/// Keys that only an agent has, and the agent's refusal of others.
#[test]
fn the_agent_signs() {
    both(&[], |server| {
        let agent = Agent::start(server.path("agent"));
        let login = |server: &Server| {
            let mut command = server.bare(&[&agent.option()]);
            command.args(["127.0.0.1", "echo in"]).output().expect("runs")
        };
        assert_eq!(login(server).status.code(), Some(255), "it has no keys");
        for key in ["user_ed25519", "user_rsa3072"] {
            agent.add(&server.path(key));
            let output = login(server);
            assert_eq!(text(&output.stdout), "in\n", "{key}: {}", text(&output.stderr));
            agent.tell(&["-d"], &server.path(key));
        }
    });
}
