//! Logins that go on at a host behind the gateway: Debian's sshd there, stock clients here.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "proxy/agent.rs"]
mod agent;
#[path = "proxy/announced.rs"]
mod announced;
#[path = "proxy/asked.rs"]
mod asked;
#[path = "proxy/certified.rs"]
mod certified;
#[path = "proxy/exchanges.rs"]
mod exchanges;
#[path = "proxy/fleet.rs"]
mod fleet;
#[path = "proxy/impostor.rs"]
mod impostor;
#[path = "proxy/liar.rs"]
mod liar;
#[path = "proxy/programs.rs"]
mod programs;
#[path = "proxy/recorded.rs"]
mod recorded;
#[path = "proxy/separated.rs"]
mod separated;
#[path = "proxy/settings.rs"]
mod settings;
#[path = "proxy/shared.rs"]
mod shared;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use support::openssh::Sshd;
use support::processes::kill;
use support::{Gateway, HOST_KEYS, free_port, keygen, noise, run_ok, wait_for};
use tidegate::limits::COMMAND_BYTES_MAX;

/// The quickest exchange for code that is not optimised.
const QUICK: &str = "KexAlgorithms=curve25519-sha256";
const AES: &str = "Ciphers=aes128-gcm@openssh.com";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The system's own sshd; it ends with the value.
struct Host {
    sshd: Sshd,
    port: u16,
    folder: TempDir,
}

impl Host {
    /// `None`, and a line that says so, where it cannot run.
    fn start(lines: &str) -> Option<Host> {
        if !Sshd::is_here() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["host_key", "gateway_key"] {
            keygen(&folder.path().join(name), "ed25519", "");
        }
        let public = fs::read(folder.path().join("gateway_key.pub")).expect("a key");
        fs::write(folder.path().join("authorized_keys"), public).expect("its keys");
        let sshd = Host::run(folder.path(), lines);
        let host = Host { port: sshd.port, sshd, folder };
        host.know(&host.public());
        Some(host)
    }

    fn run(at: &Path, lines: &str) -> Sshd {
        let folder = at.display();
        let config = format!(
            "HostKey {folder}/host_key\nSubsystem sftp internal-sftp\nAcceptEnv *\n\
             MaxStartups 100:30:200\nMaxSessions 300\nSetEnv HOME={folder}\n{lines}"
        );
        Sshd::start(at, &config.replace("FOLDER", &folder.to_string()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("sshd_log")).unwrap_or_default()
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

    /// Has sshd read its keys and certificates again.
    fn reload(&self) {
        let started = || self.log().matches("Server listening").count();
        let before = started();
        run_ok(Command::new("kill").args(["-HUP", &self.sshd.child.id().to_string()]));
        wait_for("sshd to start again", || started() > before);
    }

    /// Ends the processes of sshd that serve connections, and not the one that listens.
    fn kill_sessions(&self) {
        self.signal_sessions("-9");
    }

    fn signal_sessions(&self, signal: &str) {
        let pid = self.sshd.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.expect("its children").split_whitespace() {
            // It may have ended by itself a moment ago.
            kill(signal, child.parse().expect("a number"));
        }
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
        gateway.tells(" goes on as root at 127.0.0.1 port ");
    });
}

/// The host hears all of it, also behind much else and while keys change.
#[test]
fn long_commands_run_at_the_host() {
    proxied("AcceptEnv LONG\nRekeyLimit 16K\n", &["AcceptEnv LONG"], |_, gateway| {
        let front = "echo $((${#LONG}+1));:";
        let command = |len: usize| ["x".repeat(70_000), "y".repeat(len - front.len() - 70_002)];
        let longest = COMMAND_BYTES_MAX as usize;
        for (len, said_there) in
            [(40_000 + 70_000, "100001\n"), (longest, "100001\n"), (longest + 1, "")]
        {
            let [one, two] = command(len);
            let mut ssh = gateway.ssh(&[QUICK, "SendEnv=LONG"], &[front, &one, &two]);
            let output = ssh.env("LONG", "z".repeat(100_000)).output().expect("ssh starts");
            assert_eq!(text(&output.stdout), said_there, "{len}: {}", said(gateway, &output));
        }
        gateway.tells("exec: it is too long");
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

/// A client of the gateway's has nothing to do with the host's keys.
#[test]
fn clients_learn_the_gateways_host_keys_and_not_the_hosts() {
    proxied("", &[], |_, gateway| {
        let keys = HOST_KEYS.map(|(kind, bits)| gateway.public_key(&format!("host_{kind}{bits}")));
        let keys = keys.each_ref().map(String::as_str);
        gateway.know(&keys[..1]);
        let options = [QUICK, "UpdateHostKeys=yes", "StrictHostKeyChecking=yes"];
        gateway.assert_learns(&mut gateway.ssh(&options, &["cat"]), &keys);
        gateway.tells(" goes on as root at 127.0.0.1 port ");
    });
}

// ---- What goes wrong ---------------------------------------------------------------------------

/// One line for the user, and one in the log that says the rest.
fn refused(gateway: &Gateway, said_line: &str, logged: &[&str]) {
    let output = ssh(gateway, &["LogLevel=INFO"], &["true"]);
    assert_eq!(output.status.code(), Some(255), "{}", said(gateway, &output));
    let lines = text(&output.stderr);
    assert!(lines.contains(said_line), "{lines}\n{}", gateway.log());
    for what in logged {
        gateway.tells(what);
    }
}

#[test]
fn case_103_a_host_with_another_key_is_refused_with_file_line_and_fingerprint() {
    proxied("", &[], |host, gateway| {
        keygen(&host.path("other"), "ecdsa", "256");
        let other = fs::read_to_string(host.path("other.pub")).expect("a key");
        host.know(&other);
        let place = format!("{}:2 has another key", host.path("known_hosts").display());
        let output = run_ok(Command::new("ssh-keygen").arg("-lf").arg(host.path("host_key.pub")));
        let fingerprint = text(&output.stdout).split(' ').nth(1).expect("it").to_owned();
        refused(gateway, " has changed", &[&place, &fingerprint]);
        // One that nobody has noted is no better.
        fs::write(host.path("known_hosts"), "").expect("an empty file");
        refused(gateway, " is not known", &["known_hosts does not name [127.0.0.1]:"]);
        fs::remove_file(host.path("known_hosts")).expect("it was there");
        refused(gateway, " is not known", &["known_hosts does not exist, and so does not name "]);
        let broken = format!("[127.0.0.1]:{} ssh-ed25519\n", host.port);
        fs::write(host.path("known_hosts"), broken).expect("a broken line");
        refused(gateway, " cannot be verified", &["known_hosts:1 "]);
        assert!(!host.log().contains("Accepted"), "{}", host.log());
    });
}

/// SECURITY case 102: under the host's own name, not the gateway's or the first hop's.
#[test]
fn case_102_new_keys_are_noted_under_the_name_of_their_host() {
    proxied("", &["TidegateUpstreamHostKeyPolicy accept-new"], |host, gateway| {
        fs::remove_file(host.path("known_hosts")).expect("it was there");
        for _ in 0..2 {
            let output = ssh(gateway, &[], &["echo in"]);
            assert_eq!(text(&output.stdout), "in\n", "{}", said(gateway, &output));
        }
        let noted = fs::read_to_string(host.path("known_hosts")).expect("it is noted");
        let key = host.public().split(' ').take(2).collect::<Vec<_>>().join(" ");
        assert_eq!(noted.trim_end(), format!("[127.0.0.1]:{} {key}", host.port));
        keygen(&host.path("other"), "ed25519", "");
        host.know(&fs::read_to_string(host.path("other.pub")).expect("a key"));
        refused(gateway, " has changed", &["known_hosts:2 has another key"]);
    });
}

#[test]
fn a_host_that_is_down_or_refuses_the_key_is_one_clear_line() {
    proxied("", &[], |host, gateway| {
        fs::write(host.path("authorized_keys"), "").expect("no keys");
        let logged = format!("({})", host.path("gateway_key").display());
        refused(gateway, " does not let root in with the gateway's key", &[&logged]);
        let without = Host::start("").expect("another host");
        let closed = free_port();
        let settings = without.settings();
        // The next is tried before anybody hears of the first.
        let both = format!("TidegateUpstream 127.0.0.1:{closed} 127.0.0.1:{}", without.port);
        let two = Gateway::start(&[&both, &settings[1], &settings[2]]);
        for _ in 0..3 {
            let output = ssh(&two, &[], &["echo in"]);
            assert_eq!(text(&output.stdout), "in\n", "{}", said(&two, &output));
            assert_eq!(text(&output.stderr), "", "{}", two.log());
        }
        let none = format!("TidegateUpstream 127.0.0.1:{closed}");
        let none = Gateway::start(&[&none, &settings[1], &settings[2]]);
        let why = format!("cannot connect to 127.0.0.1 port {closed}: Connection refused");
        refused(&none, &why, &[&why]);
        let missing = Gateway::start(&[&settings[0], "TidegateUpstreamIdentity /nonexistent/key"]);
        refused(&missing, "the gateway cannot use its key", &["/nonexistent/key"]);
        // Somebody is there who speaks no SSH, and leaves.
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let port = stranger.local_addr().expect("its address").port();
        std::thread::spawn(move || {
            for mut stream in stranger.incoming().flatten() {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
        });
        let none = format!("TidegateUpstream 127.0.0.1:{port}");
        let none = Gateway::start(&[&none, &settings[1], &settings[2]]);
        refused(&none, &format!("the login at 127.0.0.1 port {port} has failed: "), &[]);
    });
}

#[test]
fn r17_what_a_host_said_before_it_died_arrives() {
    proxied("", &[], |host, gateway| {
        let mut command = gateway.ssh(&[QUICK], &["head -c 3000000 /dev/zero; sleep 60"]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ssh starts");
        let mut stdout = child.stdout.take().expect("its output");
        let mut bytes = vec![0; 3_000_000];
        stdout.read_exact(&mut bytes[..2_000_000]).expect("most of it");
        stdout.read_exact(&mut bytes[2_000_000..]).expect("the rest");
        host.kill_sessions();
        let killed = Instant::now();
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).expect("the end");
        let output = child.wait_with_output().expect("an end");
        assert!(killed.elapsed() < Duration::from_secs(20), "{}", said(gateway, &output));
        assert_eq!((rest.len(), output.status.code()), (0, Some(255)));
        let line = text(&output.stderr);
        assert!(line.contains("the connection to 127.0.0.1 port "), "{line}\n{}", gateway.log());
        // The next login does not suffer from it.
        let output = ssh(gateway, &[], &["echo in"]);
        assert_eq!(text(&output.stdout), "in\n", "{}", said(gateway, &output));
    });
}

/// One that says nothing any more is asked as often as a client would be.
#[test]
fn r5_a_host_that_falls_silent_is_given_up() {
    let lines = ["ClientAliveInterval 1", "ClientAliveCountMax 2"];
    proxied("", &lines, |host, gateway| {
        let mut command = gateway.ssh(&[QUICK], &["echo in; sleep 60"]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ssh starts");
        child.stdout.as_mut().expect("its output").read_exact(&mut [0; 3]).expect("a session");
        host.signal_sessions("-STOP");
        let output = child.wait_with_output().expect("an end");
        host.kill_sessions();
        assert_eq!(output.status.code(), Some(255), "{}", said(gateway, &output));
        let line = text(&output.stderr);
        assert!(line.contains(" is lost: "), "{line}\n{}", gateway.log());
        assert!(line.contains("the peer does not answer"), "{line}\n{}", gateway.log());
    });
}

// ---- Who goes where ----------------------------------------------------------------------------

#[test]
fn case_104_and_107_names_choose_their_host_and_no_other() {
    let (Some(one), Some(two)) = (Host::start(""), Host::start("")) else { return };
    let known = [&one, &two].map(|host| format!("[127.0.0.1]:{} {}", host.port, host.public()));
    fs::write(one.path("known_hosts"), known.join("\n")).expect("both");
    fs::copy(one.path("authorized_keys"), two.path("authorized_keys")).expect("one key");
    for (host, name) in [(&one, "one"), (&two, "two")] {
        let line = fs::read_to_string(host.path("authorized_keys")).expect("a key");
        let line = format!("command=\"echo {name}\" {line}");
        fs::write(host.path("authorized_keys"), line).expect("its keys");
    }
    let targets = format!("TidegateUpstreamTargets 127.0.0.1:{} 127.0.0.1:{}", one.port, two.port);
    let settings = one.settings();
    let user = "TidegateUpstreamUser root";
    let gateway = Gateway::start(&[&targets, user, &settings[1], &settings[2]]);
    let attempt = |name: &str| ssh(&gateway, &[&format!("User={name}")], &["x"]);
    // Neither of the users has an account here; both at once.
    let names = [
        (format!("ann%127.0.0.1:{}", one.port), "one\n"),
        (format!("bob+127.0.0.1:{}", two.port), "two\n"),
    ];
    std::thread::scope(|scope| {
        for (name, expected) in names.iter().cycle().take(6) {
            scope.spawn(|| {
                let output = attempt(name);
                assert_eq!(text(&output.stdout), *expected, "{}", said(&gateway, &output));
            });
        }
    });
    let answers = [
        "ann".to_owned(),
        "ann%127.0.0.1:1".to_owned(),
        "ann%nowhere".to_owned(),
        "ann%".to_owned(),
        format!("%127.0.0.1:{}", one.port),
        format!("ann%%127.0.0.1:{}", one.port),
        format!("ann%127.0.0.1:{}%x", one.port),
        format!("ann+bob%127.0.0.1:{}", one.port),
    ]
    .map(|name| {
        let output = attempt(&name);
        assert_eq!(output.status.code(), Some(255), "{name}: {}", said(&gateway, &output));
        text(&output.stderr).replace(&name, "NAME")
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[test]
fn case_101_each_channel_and_request_is_judged() {
    let lines =
        ["PermitOpen 127.0.0.1:1", "PermitTTY no", "AllowAgentForwarding no", "PermitListen none"];
    proxied("", &lines, |host, gateway| {
        let to = format!("127.0.0.1:{}", host.port);
        let mut command = gateway.ssh(&[QUICK, "LogLevel=INFO"], &[]);
        let output = command.args(["-W", &to]).output().expect("ssh starts");
        assert!(!output.status.success(), "{}", said(gateway, &output));
        assert!(text(&output.stderr).contains("forwarding is not permitted"), "{output:?}");
        let output = ssh(gateway, &["RequestTTY=force"], &["true"]);
        assert!(text(&output.stderr).contains("PTY allocation"), "{}", said(gateway, &output));
        let output = ssh(
            gateway,
            &["ExitOnForwardFailure=yes", "RemoteForward=0 127.0.0.1:1"],
            &["echo never"],
        );
        assert_eq!(text(&output.stdout), "", "{}", said(gateway, &output));
        for why in ["PermitOpen does not list it", "PermitTTY", "PermitListen does not list it"] {
            gateway.tells(why);
        }
    });
    proxied("", &["ForceCommand echo forced"], |_, gateway| {
        for words in [&["echo mine"][..], &[]] {
            let output = ssh(gateway, &[], words);
            assert_eq!(text(&output.stdout), "forced\n", "{}", said(gateway, &output));
        }
    });
}

// ---- Many and slow -----------------------------------------------------------------------------

#[test]
fn two_hundred_channels_share_a_connection_and_a_slow_one_delays_none() {
    proxied("", &["MaxSessions 300"], |_, gateway| {
        let control = gateway.path("control");
        let control = format!("ControlPath={}", control.display());
        let mut master = gateway.ssh(&[QUICK, AES, &control, "ControlMaster=yes"], &[]);
        let mut master = master.arg("-N").spawn().expect("ssh starts");
        wait_for("the master", || gateway.path("control").exists());
        let start = |words: &str| {
            let mut command = gateway.ssh(&[&control], &[words]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh starts")
        };
        // It is not read from while the others run, and its window is full.
        let mut slow = start("head -c 20000000 /dev/zero");
        let mut first = [0; 1];
        slow.stdout.as_mut().expect("its output").read_exact(&mut first).expect("a byte");
        let mut all: Vec<Child> =
            (0..200).map(|n| start(&format!("cat; exit {}", n % 100))).collect();
        for (n, child) in all.iter_mut().enumerate() {
            let mut input = child.stdin.take().expect("its input");
            writeln!(input, "number {n}").expect("a write");
        }
        for (n, child) in all.into_iter().enumerate() {
            let output = child.wait_with_output().expect("an end");
            assert_eq!(text(&output.stdout), format!("number {n}\n"), "{}", gateway.log());
            assert_eq!(output.status.code(), Some(n as i32 % 100));
        }
        let rest = slow.wait_with_output().expect("its end");
        assert_eq!(rest.stdout.len(), 20_000_000 - 1);
        master.kill().expect("it runs");
        master.wait().expect("its end");
    });
}

// ---- Other ways and other clients --------------------------------------------------------------

#[test]
fn connections_are_forwarded_from_and_to_the_host() {
    proxied("X11Forwarding yes\nX11DisplayOffset 30", &[], |host, gateway| {
        // From the client to the host's side: its own sshd greets.
        let to = format!("127.0.0.1:{}", host.port);
        let mut command = gateway.ssh(&[QUICK], &[]);
        let output = command.args(["-W", &to]).output().expect("ssh starts");
        assert!(text(&output.stdout).starts_with("SSH-2.0-"), "{}", said(gateway, &output));
        // Back from the host: a port of its choice leads to the gateway's greeting.
        let back = format!("RemoteForward=0 127.0.0.1:{}", gateway.port);
        let mut command = gateway.ssh(&[QUICK, &back, "LogLevel=INFO"], &[]);
        let mut child = command.arg("-N").stderr(Stdio::piped()).spawn().expect("ssh starts");
        let mut heard = String::new();
        let mut stderr = child.stderr.take().expect("its words");
        let mut byte = [0];
        while !heard.contains("remote forward to") {
            assert_eq!(stderr.read(&mut byte).expect("a byte"), 1, "{heard}\n{}", gateway.log());
            heard.push(char::from(byte[0]));
        }
        let port = heard.split("Allocated port ").nth(1).and_then(|rest| rest.split(' ').next());
        let port: u16 = port.and_then(|port| port.parse().ok()).expect("a port");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let mut greeting = [0; 16];
        stream.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(text(&greeting), "SSH-2.0-Tidegate");
        child.kill().expect("it runs");
        child.wait().expect("its end");
    });
}

#[test]
fn other_clients_go_on_too() {
    proxied("", &[], |host, gateway| {
        let port = gateway.port.to_string();
        for program in ["dbclient", "plink"] {
            if Command::new(program).arg("-V").output().is_err() {
                println!("not run: no {program} here");
                return;
            }
        }
        let key = gateway.path("dropbear_key");
        run_ok(
            Command::new("dropbearconvert")
                .args(["openssh", "dropbear"])
                .arg(gateway.path("user_ecdsa256"))
                .arg(&key),
        );
        // It closes as soon as it has heard the end of the output, and wants the exit code then.
        for _ in 0..10 {
            let output = Command::new("dbclient")
                .args(["-y", "-y", "-p", &port, "-i"])
                .arg(&key)
                .args(["root@127.0.0.1", "echo dropbear; exec >&- 2>&-; sleep 0.1; exit 5"])
                .stdin(Stdio::null())
                .output()
                .expect("dbclient starts");
            let seen = (text(&output.stdout), output.status.code());
            assert_eq!(seen, ("dropbear\n".into(), Some(5)), "{}", said(gateway, &output));
        }

        let ppk = gateway.path("user.ppk");
        let user = gateway.path("user_ed25519");
        run_ok(Command::new("puttygen").arg(&user).args(["-O", "private", "-o"]).arg(&ppk));
        let mut print = Command::new("ssh-keygen");
        print.arg("-lf").arg(gateway.path("host_ed25519.pub"));
        let print = text(&run_ok(&mut print).stdout);
        let output = Command::new("plink")
            .args(["-batch", "-P", &port, "-hostkey", print.split(' ').nth(1).expect("it"), "-i"])
            .arg(&ppk)
            .args(["root@127.0.0.1", "echo putty; exit 6"])
            .stdin(Stdio::null())
            .output()
            .expect("plink starts");
        let seen = (text(&output.stdout), output.status.code());
        assert_eq!(seen, ("putty\n".into(), Some(6)), "{}", said(gateway, &output));
        assert_eq!(host.log().matches("Starting session: command for root").count(), 11);
    });
}

#[test]
fn a_certificate_is_made_for_each_login() {
    let Some(host) = Host::start("") else { return };
    keygen(&host.path("authority"), "ed25519", "");
    fs::write(host.path("authorized_keys"), "").expect("no keys");
    let trusted = format!("TrustedUserCAKeys {}", host.path("authority.pub").display());
    let trusting = Host::run(host.folder.path(), &trusted);
    let port = trusting.port;
    let line = format!("[127.0.0.1]:{port} {}", host.public());
    fs::write(host.path("known_hosts"), line).expect("known_hosts");
    let gateway = Gateway::start(&[
        &format!("TidegateUpstream 127.0.0.1:{port}"),
        &format!("TidegateUpstreamCA {}", host.path("authority").display()),
        &host.settings()[2],
    ]);
    for _ in 0..2 {
        let output = ssh(&gateway, &[], &["echo certified"]);
        assert_eq!(text(&output.stdout), "certified\n", "{}", said(&gateway, &output));
    }
    let log = host.log();
    let accepted: Vec<&str> =
        log.lines().filter(|line| line.contains("Accepted publickey")).collect();
    assert!(
        accepted.iter().all(|line| line.contains("ID root from 127.0.0.1 with SHA256:")),
        "{log}"
    );
    let key = |line: &str| line.split("ED25519-CERT ").nth(1).map(str::to_owned);
    assert_ne!(key(accepted[0]), key(accepted[1]), "a fresh key each time\n{log}");
    drop(trusting);
}
