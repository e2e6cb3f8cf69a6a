//! OpenSSH's own server and agent, each ended with its value.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{DEEP, end_programs_of, free_port, run_ok, wait_for};

const SSHD: &str = "/usr/sbin/sshd";

/// The system's own sshd.
pub struct Sshd {
    pub child: Child,
    pub port: u16,
}

impl Sshd {
    /// Whether it can run here; a line says so when it cannot.
    pub fn is_here() -> bool {
        let here = Path::new(SSHD).exists() && nix::unistd::geteuid().is_root();
        if !here {
            println!("not run: no sshd here, or not root");
        }
        here
    }

    /// Starts it with this configuration and what every test wants; its lines go to `log` in the
    /// folder, which also has `authorized_keys`.
    pub fn start(at: &Path, config: &str) -> Sshd {
        fs::create_dir_all("/run/sshd").expect("its folder");
        let port = free_port();
        let config = format!(
            "{config}\nListenAddress 127.0.0.1:{port}\nStrictModes no\nPermitRootLogin yes\n\
             AuthorizedKeysFile {}/authorized_keys\nUsePAM no\nPidFile none\nLogLevel VERBOSE\n\
             KbdInteractiveAuthentication no\n{DEEP}\n",
            at.display()
        );
        fs::write(at.join("sshd_config"), config).expect("its configuration");
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(at.join("sshd_config"))
            .stdin(Stdio::null())
            .stderr(File::create(at.join("sshd_log")).expect("its log"))
            .spawn()
            .expect("sshd starts");
        let sshd = Sshd { child, port };
        wait_for("sshd to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        sshd
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        end_programs_of(self.port);
    }
}

/// An ssh-agent.
pub struct Agent {
    child: Child,
    pub socket: String,
}

impl Agent {
    pub fn start(socket: PathBuf) -> Agent {
        Agent::start_with(socket, |_| {})
    }

    /// The same with a change to how it is run.
    pub fn start_with(socket: PathBuf, change: impl FnOnce(&mut Command)) -> Agent {
        let socket = socket.display().to_string();
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).stderr(Stdio::null());
        change(&mut command);
        let agent = Agent { child: command.spawn().expect("ssh-agent starts"), socket };
        wait_for("the agent", || UnixStream::connect(&agent.socket).is_ok());
        agent
    }

    pub fn add(&self, key: &Path) {
        self.tell(&[], key);
    }

    /// `ssh-add` with these flags.
    pub fn tell(&self, flags: &[&str], key: &Path) {
        let mut add = Command::new("ssh-add");
        run_ok(add.arg("-q").args(flags).arg(key).env("SSH_AUTH_SOCK", &self.socket));
    }

    /// The option that makes a client use it.
    pub fn option(&self) -> String {
        format!("IdentityAgent={}", self.socket)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
