//! Servers to log in at: a gateway of ours, and the system's own sshd.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{Gateway, HOST_KEYS, driver, free_port, keygen, wait_for};

const SSHD: &str = "/usr/sbin/sshd";

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub enum Server {
    Ours(Gateway),
    Theirs(Sshd),
}

/// It ends with the value.
pub struct Sshd {
    child: Child,
    port: u16,
    folder: TempDir,
}

/// Runs a test against each server there is.
pub fn both(lines: &[&str], test: impl Fn(&Server)) {
    test(&Server::Ours(Gateway::start(lines)));
    if let Some(sshd) = Sshd::start(lines) {
        test(&Server::Theirs(sshd));
    }
}

impl Sshd {
    /// `None`, and a line that says so, where it cannot run.
    pub fn start(lines: &[&str]) -> Option<Sshd> {
        if !Path::new(SSHD).exists() || !nix::unistd::geteuid().is_root() {
            println!("not run: no sshd here, or not root");
            return None;
        }
        fs::create_dir_all("/run/sshd").expect("its folder");
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        keygen(&at.join("host_ed25519"), "ed25519", "");
        let mut authorized = String::new();
        for (kind, bits) in [HOST_KEYS[0], HOST_KEYS[4]] {
            keygen(&at.join(format!("user_{kind}{bits}")), kind, bits);
            let public = at.join(format!("user_{kind}{bits}.pub"));
            authorized += &fs::read_to_string(public).expect("a key");
        }
        fs::write(at.join("authorized_keys"), authorized).expect("its keys");
        let (port, place) = (free_port(), at.display());
        let config = format!(
            "{}\nListenAddress 127.0.0.1:{port}\nHostKey {place}/host_ed25519\nStrictModes no\n\
             AuthorizedKeysFile {place}/authorized_keys\nPermitRootLogin yes\nUsePAM no\n\
             PidFile none\nSubsystem sftp internal-sftp\nLogLevel VERBOSE\n\
             KbdInteractiveAuthentication no\n",
            lines.join("\n")
        );
        fs::write(at.join("sshd_config"), config).expect("its configuration");
        let log = File::create(at.join("log")).expect("its log");
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(at.join("sshd_config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd starts");
        wait_for("sshd to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Some(Sshd { child, port, folder })
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub fn port(&self) -> u16 {
        match self {
            Server::Ours(gateway) => gateway.port,
            Server::Theirs(sshd) => sshd.port,
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
