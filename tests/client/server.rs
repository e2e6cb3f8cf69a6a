//! Servers to log in at: a gateway of ours, and the system's own sshd.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::openssh::Sshd;
use crate::support::{Gateway, HOST_KEYS, driver, keygen, put_key};

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub enum Server {
    Ours(Gateway),
    Theirs(Theirs),
}

/// The system's sshd.
pub struct Theirs {
    sshd: Sshd,
    folder: TempDir,
}

/// Runs a test against each server there is.
pub fn both(lines: &[&str], test: impl Fn(&Server)) {
    test(&Server::Ours(Gateway::start(lines)));
    if let Some(sshd) = Theirs::start(lines) {
        test(&Server::Theirs(sshd));
    }
}

impl Theirs {
    /// `None`, and a line that says so, where it cannot run.
    pub fn start(lines: &[&str]) -> Option<Theirs> {
        if !Sshd::is_here() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        keygen(&at.join("host_ed25519"), "ed25519", "");
        let mut authorized = String::new();
        for (kind, bits) in [HOST_KEYS[0], HOST_KEYS[4]] {
            put_key(at, &format!("user_{kind}{bits}"));
            let public = at.join(format!("user_{kind}{bits}.pub"));
            authorized += &fs::read_to_string(public).expect("a key");
        }
        fs::write(at.join("authorized_keys"), authorized).expect("its keys");
        let config = format!(
            "{}\nHostKey {}/host_ed25519\nSubsystem sftp internal-sftp",
            lines.join("\n"),
            at.display()
        );
        Some(Theirs { sshd: Sshd::start(at, &config), folder })
    }
}

impl Server {
    pub fn port(&self) -> u16 {
        match self {
            Server::Ours(gateway) => gateway.port,
            Server::Theirs(theirs) => theirs.sshd.port,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Server::Ours(gateway) => gateway.path(name),
            Server::Theirs(sshd) => sshd.folder.path().join(name),
        }
    }

    /// Our client with everything set but a key and what to do; `options` come first.
    pub fn bare(&self, options: &[&str]) -> Command {
        self.client("ssh", options)
    }

    /// The same of one of our clients.
    pub fn client(&self, name: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args([name, "-F", "none"]);
        for option in options {
            command.args(["-o", option]);
        }
        let driver = driver().unwrap_or_else(|| "uring".to_owned());
        let defaults = [
            format!("Port={}", self.port()),
            format!("TidegateDriver={driver}"),
            "KexAlgorithms=curve25519-sha256".to_owned(),
            "StrictHostKeyChecking=accept-new".to_owned(),
            format!("UserKnownHostsFile={}", self.path("known_hosts").display()),
            "GlobalKnownHostsFile=none".to_owned(),
            "IdentityAgent=none".to_owned(),
            "BatchMode=yes".to_owned(),
        ];
        for option in defaults {
            command.args(["-o", &option]);
        }
        // Nothing of whoever runs the tests counts.
        command.stdin(Stdio::null()).env("HOME", self.path(""));
        command
    }

    /// The same with a key that opens it.
    pub fn login(&self, options: &[&str]) -> Command {
        let key = format!("IdentityFile={}", self.path("user_ed25519").display());
        let mut options = options.to_vec();
        options.push(&key);
        self.bare(&options)
    }

    pub fn ssh(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.login(options);
        command.arg("127.0.0.1").args(words);
        command
    }
}
