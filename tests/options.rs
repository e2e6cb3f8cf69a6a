//! Options of keys and keywords about users and sessions, one by one, with OpenSSH's client; where
//! sshd is installed, beside it.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "options/beside.rs"]
mod beside;
#[path = "options/hostkeys.rs"]
mod hostkeys;
#[path = "options/keys.rs"]
mod keys;
#[path = "options/matched.rs"]
mod matched;
#[path = "options/sessions.rs"]
mod sessions;
mod support;
#[path = "options/times.rs"]
mod times;
#[path = "options/users.rs"]
mod users;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::account::Account;
use support::{Gateway, free_port};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a client showed, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Shown {
    fn from(output: Output) -> Shown {
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Shown { code: output.status.code(), out, err }
    }
}

fn shown(command: &mut Command) -> Shown {
    command.output().expect("ssh starts").into()
}

/// The same with something to read.
fn shown_with(command: &mut Command, input: &str) -> Shown {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().expect("ssh starts");
    let mut stdin = child.stdin.take().expect("its input");
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("ssh ends").into()
}

/// A gateway that listens on one more port for each block, which holds for logins there alone.
fn with_blocks(lines: &[&str], blocks: &[&str]) -> (Gateway, Vec<u16>) {
    let ports: Vec<u16> = blocks.iter().map(|_| free_port()).collect();
    let listen = ports.iter().map(|port| format!("ListenAddress 127.0.0.1:{port}"));
    let listen = listen.collect::<Vec<_>>();
    let mut all = lines.to_vec();
    all.extend(listen.iter().map(String::as_str));
    let gateway = Gateway::start_with(&all, |command| {
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let mut file = OpenOptions::new().append(true).open(config).expect("the configuration");
        for (block, port) in blocks.iter().zip(&ports) {
            writeln!(file, "Match LocalPort {port}\n{block}").expect("a block");
        }
    });
    open_to_all(&gateway);
    (gateway, ports)
}

/// Files of keys are read with the rights of the account.
fn open_to_all(gateway: &Gateway) {
    fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
}

/// The client's key with these options in front of it is the one that counts.
fn allow(gateway: &Gateway, options: &str) {
    let key = fs::read_to_string(gateway.path("user_ed25519.pub")).expect("a key");
    let line = if options.is_empty() { key } else { format!("{options} {key}") };
    fs::write(gateway.path("authorized_keys"), line).expect("authorized_keys");
}

/// A client that is quick at exchanging keys: there are many logins here.
fn client(gateway: &Gateway, options: &[&str]) -> Command {
    let mut all = options.to_vec();
    all.push("KexAlgorithms=curve25519-sha256");
    gateway.client(Path::new("ssh"), &all)
}

fn ssh(gateway: &Gateway, port: u16, options: &[&str], words: &[&str]) -> Command {
    let port = format!("Port={port}");
    let mut all = vec![&*port];
    all.extend(options);
    let mut ssh = client(gateway, &all);
    ssh.arg("127.0.0.1").args(words);
    ssh
}

fn here(gateway: &Gateway, options: &[&str], words: &[&str]) -> Command {
    ssh(gateway, gateway.port, options, words)
}

/// A file of the account's own, with the directories it needs.
fn put_at_home(account: &Account, name: &str, content: &str) {
    let path = account.at_home(name);
    let parent = path.parent().expect("a directory");
    fs::create_dir_all(parent).expect("a directory");
    fs::write(&path, content).expect("a file");
    for path in [parent, &path] {
        own(account, path);
    }
}

fn own(account: &Account, path: &Path) {
    std::os::unix::fs::chown(path, Some(account.uid), None).expect("its owner");
}
