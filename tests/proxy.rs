//! Logins that go on at a host behind the gateway: Debian's sshd there, stock clients here.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use support::{Gateway, free_port, keygen, noise, wait_for};

const SSHD: &str = "/usr/sbin/sshd";
/// The quickest exchange for code that is not optimised.
const QUICK: &str = "KexAlgorithms=curve25519-sha256";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The system's own sshd; it ends with the value.
struct Host {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Host {
    /// `None`, and a line that says so, where it cannot run.
    fn start(lines: &str) -> Option<Host> {
        if !Path::new(SSHD).exists() || !nix::unistd::geteuid().is_root() {
            println!("not run: no sshd here, or not root");
            return None;
        }
        fs::create_dir_all("/run/sshd").expect("its folder");
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["host_key", "gateway_key"] {
            keygen(&folder.path().join(name), "ed25519", "");
        }
        let public = fs::read(folder.path().join("gateway_key.pub")).expect("a key");
        fs::write(folder.path().join("authorized_keys"), public).expect("its keys");
        let (child, port) = Host::run(folder.path(), lines);
        let host = Host { child, port, folder };
        host.know(&host.public());
        Some(host)
    }

    fn run(at: &Path, lines: &str) -> (Child, u16) {
        let port = free_port();
        let folder = at.display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\nStrictModes no\n\
             AuthorizedKeysFile {folder}/authorized_keys\nPermitRootLogin yes\nUsePAM no\n\
             PidFile none\nSubsystem sftp internal-sftp\nAcceptEnv *\nLogLevel VERBOSE\n\
             MaxStartups 100:30:200\nMaxSessions 300\n{lines}\n"
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
        (child, port)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn public(&self) -> String {
        fs::read_to_string(self.path("host_key.pub")).expect("a key")
    }

    /// Writes the file of known hosts: this key is the host's.
    fn know(&self, public: &str) {
        let line = format!("# hosts\n[127.0.0.1]:{} {public}\n", self.port);
        fs::write(self.path("known_hosts"), line).expect("known_hosts");
    }

    /// What a gateway needs to know of it.
    fn settings(&self) -> [String; 3] {
        [
            format!("TidegateUpstream 127.0.0.1:{}", self.port),
            format!("TidegateUpstreamIdentity {}", self.path("gateway_key").display()),
            format!("TidegateUpstreamKnownHosts {}", self.path("known_hosts").display()),
        ]
    }

    /// A gateway in front of it.
    fn gateway(&self, lines: &[&str]) -> Gateway {
        let settings = self.settings();
        let mut all: Vec<&str> = settings.iter().map(String::as_str).collect();
        all.extend(lines);
        Gateway::start(&all)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host and a gateway in front of it; the rest of the test where there can be one.
fn proxied(host_lines: &str, lines: &[&str], test: impl FnOnce(&Host, &Gateway)) {
    let Some(host) = Host::start(host_lines) else { return };
    let gateway = host.gateway(lines);
    test(&host, &gateway);
}

fn ssh(gateway: &Gateway, options: &[&str], words: &[&str]) -> Output {
    let all = [&[QUICK], options].concat();
    gateway.ssh(&all, words).output().expect("ssh starts")
}

fn said(gateway: &Gateway, output: &Output) -> String {
    format!("{output:?}\n{}", gateway.log())
}

// ---- Sessions ----------------------------------------------------------------------------------

#[test]
fn commands_run_at_the_host_and_end_as_they_do_there() {
    proxied("", &[], |host, gateway| {
        let output = ssh(gateway, &[], &["echo out; echo err >&2; exit 7"]);
        assert_eq!(output.status.code(), Some(7), "{}", said(gateway, &output));
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n".into(), "err\n".into()));
        assert!(host.log().contains("Starting session: command for root"), "{}", host.log());
        let output = ssh(gateway, &[], &["kill -TERM $$"]);
        assert_eq!(output.status.code(), Some(255), "{}", said(gateway, &output));

        let output = ssh(gateway, &["SetEnv=TIDE=high"], &["echo $TIDE"]);
        assert_eq!(text(&output.stdout), "high\n", "{}", said(gateway, &output));
        // The terminal is made there, and is as large as ours.
        let output = ssh(gateway, &["RequestTTY=force"], &["test -t 0 && echo $TERM; exit 3"]);
        assert_eq!(output.status.code(), Some(3), "{}", said(gateway, &output));
        // The input's end reaches the program, and what it says then reaches us.
        let mut command = gateway.ssh(&[QUICK], &["wc -c; echo done"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh starts");
        child.stdin.take().expect("its input").write_all(b"12345").expect("a write");
        let output = child.wait_with_output().expect("an end");
        assert_eq!(text(&output.stdout), "5\ndone\n", "{}", said(gateway, &output));
        assert!(gateway.log().contains(" goes on as root at 127.0.0.1 port "), "{}", gateway.log());
    });
}

#[test]
fn files_arrive_whole_while_both_sides_change_keys() {
    const BULK: usize = 24 << 20;
    proxied("RekeyLimit 1M", &["RekeyLimit 1M"], |host, gateway| {
        let bytes = noise(BULK, 3);
        fs::write(gateway.path("big"), &bytes).expect("a file");
        let [big, down, up] = [gateway.path("big"), gateway.path("down"), host.path("up")]
            .map(|path| path.display().to_string());
        let ciphers = ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr"];
        for cipher in ciphers {
            let (limit, cipher) = ("RekeyLimit=1M", format!("Ciphers={cipher}"));
            let batch = format!("put {big} {up}\nget {up} {down}\n");
            let output = gateway.sftp(&[QUICK, limit, &cipher], &batch);
            assert!(output.status.success(), "{cipher}: {}", said(gateway, &output));
            for path in [&up, &down] {
                assert!(fs::read(path).expect("a copy") == bytes, "{cipher}: {path} differs");
                fs::remove_file(path).expect("it was there");
            }
        }
        assert!(!gateway.log().contains("internal error"), "{}", gateway.log());
    });
}
