//! `tidegate ssh` against our own gateway and, where it can run, Debian's sshd.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "client/effective.rs"]
mod effective;
#[path = "client/hostkeys.rs"]
mod hostkeys;
#[path = "client/hosts.rs"]
mod hosts;
#[path = "client/load.rs"]
mod load;
#[path = "client/rogue.rs"]
mod rogue;
#[path = "client/server.rs"]
mod server;
mod support;
#[path = "client/terminal.rs"]
mod terminal;
#[path = "client/ways.rs"]
mod ways;
#[path = "client/x11.rs"]
mod x11;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use server::{Server, both, text};
use support::openssh::Agent;
use support::{noise, run_ok, wait_for};
use tidegate::limits::COMMAND_BYTES_MAX;

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
fn a_command_is_as_long_as_programs_are_started_with() {
    both(&["AcceptEnv LONG"], |server| {
        let front = "echo ${#LONG};:";
        let longest = COMMAND_BYTES_MAX as usize;
        let command = |len: usize| ["x".repeat(70_000), "y".repeat(len - front.len() - 70_002)];
        for (len, said) in [(100_000, "100000\n"), (longest, "100000\n"), (longest + 1, "")] {
            let [one, two] = command(len);
            let mut ssh = server.ssh(&["SendEnv=LONG"], &[front, &one, &two]);
            let output = ssh.env("LONG", "z".repeat(100_000)).output().expect("runs");
            assert_eq!(text(&output.stdout), said, "{len}: {}", text(&output.stderr));
            assert_eq!(output.status.code(), Some(if len > longest { 255 } else { 0 }), "{len}");
        }
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
        let output = server.ssh(&[], &[]).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "a shell without input");
        let said = text(&output.stderr);
        assert!(said.contains("Pseudo-terminal will not be allocated"), "{said}");
        let mut command = server.bare(&["Port=1"]);
        let output = command.args(["127.0.0.1", "true"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(255), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("connect to host"), "{}", text(&output.stderr));
    });
}

/// Whoever is told that nobody listens there is told once where.
#[test]
fn a_refused_connection_is_told_once() {
    let closed = support::free_port();
    let tidegate = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let port = closed.to_string();
        let output = command.args(words).args(["-F", "none", "-o", &format!("Port={port}")]);
        let output = output.stdin(Stdio::null()).output().expect("runs");
        assert_eq!(output.status.code().map(|code| code > 0), Some(true), "{words:?}");
        (text(&output.stderr), port)
    };
    for words in [
        &["ssh", "127.0.0.1"][..],
        &["cp", "127.0.0.1:/a", "b"],
        &["bench", "load", "127.0.0.1", "--scenario", "connect"],
        &["bench", "transfer", "127.0.0.1"],
    ] {
        let (told, port) = tidegate(words);
        let expected = format!("connect to host 127.0.0.1 port {port}: Connection refused");
        assert!(told.contains(&expected), "{words:?}: {told}");
        assert_eq!(told.matches("127.0.0.1").count(), 1, "{words:?}: {told}");
    }
}

/// A key that an agent restricts to a host logs in there, and nowhere else.
#[test]
fn the_agent_knows_whom_it_signs_for() {
    both(&[], |server| {
        let agent = Agent::start(server.path("bound"));
        let shown = |names: &str| {
            let noted = fs::read_to_string(server.path("known_hosts")).expect("noted");
            let key = noted.lines().next().and_then(|line| line.split_once(' ')).expect("a key").1;
            format!("{names} {key}\n")
        };
        assert_eq!(server.ssh(&[], &["true"]).status().expect("runs").code(), Some(0));
        let other = "elsewhere ssh-ed25519 \
                     AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n";
        fs::write(server.path("bound_hosts"), shown("here") + other).expect("a file");
        for (host, expected) in [("here", "in\n"), ("elsewhere", "")] {
            let hosts = server.path("bound_hosts").display().to_string();
            agent.tell(&["-H", &hosts, "-h", host], &server.path("user_ed25519"));
            let mut command = server.bare(&[&agent.option()]);
            let output = command.args(["127.0.0.1", "echo in"]).output().expect("runs");
            assert_eq!(text(&output.stdout), expected, "{host}: {}", text(&output.stderr));
            agent.tell(&["-d"], &server.path("user_ed25519"));
        }
    });
}

/// The command that was started ends when the other is logged in, and that one goes on.
#[test]
fn into_the_background_and_from_an_address() {
    both(&[], |server| {
        let done = server.path("done");
        let _ = fs::remove_file(&done);
        let wait = format!(
            "while [ ! -e {0}.go ]; do sleep 0.05; done; echo $SSH_CLIENT >{0}",
            done.display()
        );
        let mut command = server.login(&["BindAddress=127.0.0.2"]);
        command.args(["-f", "127.0.0.1", &wait]).stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(command.status().expect("runs").code(), Some(0));
        assert!(!done.exists(), "it goes on");
        fs::write(format!("{}.go", done.display()), "").expect("a file");
        wait_for("the command to end", || fs::read(&done).is_ok_and(|from| !from.is_empty()));
        assert!(fs::read_to_string(&done).expect("it").starts_with("127.0.0.2 "));
        // Whoever reads what it says to the end waits for nothing that goes on in the background.
        let (said, end) = (server.path("said"), || fs::File::create(server.path("said")));
        let mut command = server.login(&["ExitOnForwardFailure=yes"]);
        command.args(["-fN", "-R", "0:127.0.0.1:1", "127.0.0.1"]);
        command.stdout(end().expect("a file")).stderr(end().expect("a file"));
        let status = command.status().expect("runs");
        assert_eq!(status.code(), Some(0), "{}", fs::read_to_string(&said).expect("it"));
        let words = format!("UserKnownHostsFile={} .*-fN", server.path("known_hosts").display());
        let found = Command::new("pgrep").args(["-f", &words]).output().expect("pgrep");
        let found = text(&found.stdout);
        assert!(found.lines().count() == 1, "it goes on: {found}");
        for stream in [1, 2] {
            let held = fs::read_link(format!("/proc/{}/fd/{stream}", found.trim()));
            assert_eq!(held.expect("a stream"), Path::new("/dev/null"));
        }
        run_ok(Command::new("kill").arg(found.trim()));
        // What fails before is told as ever; a shell needs a terminal.
        let mut command = server.bare(&[]);
        let output = command.args(["-f", "127.0.0.1", "true"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(255), "{}", text(&output.stderr));
        let output = server.login(&[]).args(["-f", "127.0.0.1"]).output().expect("runs");
        assert!(text(&output.stderr).contains("without a command"), "{}", text(&output.stderr));
        for (line, expected) in [
            ("BindAddress=192.0.2.1", "BindAddress 192.0.2.1: "),
            ("BindInterface=none-such", "BindInterface none-such: "),
        ] {
            let output = server.ssh(&[line], &["true"]).output().expect("runs");
            assert_eq!(output.status.code(), Some(255));
            assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
        }
    });
}

/// Without a terminal a program is asked, or in its place.
#[test]
fn a_program_asks_for_the_passphrase() {
    both(&[], |server| {
        let key = server.path("sealed");
        let _ = fs::remove_file(&key);
        fs::copy(server.path("user_rsa3072"), &key).expect("a key");
        fs::copy(server.path("user_rsa3072.pub"), server.path("sealed.pub")).expect("its half");
        run_ok(
            Command::new("ssh-keygen")
                .args(["-q", "-p", "-P", "", "-N", "open it", "-m", "PKCS8", "-f"])
                .arg(&key),
        );
        let (program, asked) = (server.path("askpass"), server.path("asked"));
        for (says, expected) in [("open it", "in\n"), ("wrong", ""), ("", "")] {
            let script =
                format!("#!/bin/sh\necho \"$1\" >>{}\necho '{says}'\necho more\n", asked.display());
            fs::write(&program, script).expect("a program");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
            let mut command = server.bare(&["BatchMode=no", "PreferredAuthentications=publickey"]);
            command.arg("-i").arg(&key).args(["127.0.0.1", "echo in"]);
            command.env("SSH_ASKPASS", &program).env("SSH_ASKPASS_REQUIRE", "force");
            let output = command.output().expect("runs");
            assert_eq!(text(&output.stdout), expected, "{says}: {}", text(&output.stderr));
        }
        let asked = fs::read_to_string(&asked).expect("it was asked");
        assert!(asked.starts_with("Enter passphrase for key "), "{asked}");
    });
}

/// A key whose file was opened is the agent's then, where that is asked for.
#[test]
fn keys_are_given_to_the_agent() {
    both(&[], |server| {
        let agent = Agent::start(server.path("keeps"));
        let kept = || {
            let mut command = Command::new("ssh-add");
            let output = command.arg("-l").env("SSH_AUTH_SOCK", &agent.socket).output();
            text(&output.expect("ssh-add").stdout).contains("SHA256:")
        };
        for (key, how, expected) in [
            ("user_ed25519", "no", false),
            ("user_ed25519", "ask", false),
            ("user_ed25519", "yes", true),
            ("user_rsa3072", "1h", true),
        ] {
            let key = server.path(key);
            let option = agent.option();
            let file = format!("IdentityFile={}", key.display());
            let add = format!("AddKeysToAgent={how}");
            let mut command = server.bare(&[&option, &file, &add]);
            let output = command.args(["127.0.0.1", "echo in"]).output().expect("runs");
            assert_eq!(text(&output.stdout), "in\n", "{how}: {}", text(&output.stderr));
            assert_eq!(kept(), expected, "{how}: {}", text(&output.stderr));
            if expected {
                let mut command = server.bare(&[&option]);
                let output = command.args(["127.0.0.1", "echo in"]).output().expect("runs");
                assert_eq!(text(&output.stdout), "in\n", "by the agent");
                agent.tell(&["-d"], &key);
            }
        }
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
