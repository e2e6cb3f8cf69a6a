//! What stands before a gateway and how it leaves: proxies that tell whose connections they pass on
//! (HAProxy among them), storms that are turned away, and an end that lets sessions finish.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "edge/logins.rs"]
mod logins;
#[path = "edge/storms.rs"]
mod storms;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::account::Account;
use support::{Gateway, free_port, run_ok, wait_for};
use tidegate::wire::proxy::{ProxyOrigin, ProxyVersion, encode};

const QUICK: &str = "KexAlgorithms=curve25519-sha256";
const VERSIONS: [ProxyVersion; 2] = [ProxyVersion::One, ProxyVersion::Two];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn header(version: ProxyVersion, client: &str) -> Vec<u8> {
    let [client, server] = [client, "198.51.100.1:22"].map(|text| text.parse().expect("one"));
    encode(version, &ProxyOrigin::Client { client, server })
}

/// Sends this as a proxy would and reads the answer up to the end of a line, if one comes.
fn answer(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = gateway.connect().expect("a connection");
    // A gateway that refuses need not read all of it.
    let _ = stream.write_all(bytes);
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") && matches!(stream.read(&mut byte), Ok(1)) {
        line.push(byte[0]);
    }
    text(&line)
}

/// The ways to keep connections apart that there are here; only root has rights to separate.
fn isolations() -> Vec<&'static str> {
    let apart = nix::unistd::geteuid().is_root().then_some("TidegateIsolation per-connection");
    apart.into_iter().chain(["TidegateIsolation auto"]).collect()
}

fn is_greeting(line: &str) -> bool {
    line.starts_with("SSH-2.0-Tidegate")
}

// ---- The PROXY protocol --------------------------------------------------------------------

#[test]
fn whose_a_connection_is_decides_before_it_begins() {
    isolations().into_iter().for_each(whose_a_connection_is);
}

fn whose_a_connection_is(isolation: &str) {
    let gateway = Gateway::start(&[
        isolation,
        "TidegateProxyProtocol 127.0.0.1",
        "TidegateProxyProtocolTimeout 2",
        "PerSourceMaxStartups 2",
    ]);
    // A place may be given back late: each has clients of its own.
    let clients = [("192.0.2.7:4711", "[2001:db8::7]:1"), ("192.0.2.8:4711", "[2001:db8::8]:1")];
    for (version, (four, six)) in VERSIONS.into_iter().zip(clients) {
        let (four, six) = (header(version, four), header(version, six));
        for bytes in [&four, &six] {
            assert!(is_greeting(&answer(&gateway, bytes)), "{version}: {}", gateway.log());
        }
        // The identification may come with it, and it may come in pieces.
        let whole = [&four[..], b"SSH-2.0-x\r\n"].concat();
        let mut stream = gateway.connect().expect("a connection");
        stream.set_nodelay(true).expect("an option");
        for byte in &whole {
            stream.write_all(&[*byte]).expect("room");
        }
        let mut head = [0; 4];
        stream.read_exact(&mut head).expect("an identification");
        let itself = encode(version, &ProxyOrigin::Itself);
        assert!(is_greeting(&answer(&gateway, &itself)), "{version}");
    }
    for from in ["192.0.2.7 port 4711", "2001:db8::7 port 1", "192.0.2.8 port 4711"] {
        gateway.tells(&format!("Connection from {from} on"));
    }

    // The bounds of a source are those of the client, not of the proxy.
    let hold = |client: &str| {
        let mut stream = gateway.connect().expect("a connection");
        stream.write_all(&header(ProxyVersion::Two, client)).expect("room");
        let mut head = [0; 4];
        stream.read_exact(&mut head).expect("an answer");
        (stream, head)
    };
    let held = [hold("203.0.113.1:1"), hold("203.0.113.1:2"), hold("203.0.113.2:1")];
    assert!(held.iter().all(|(_, head)| head == b"SSH-"));
    let refused = answer(&gateway, &header(ProxyVersion::One, "203.0.113.1:3"));
    assert_eq!(refused, "Exceeded MaxStartups\r\n");
    gateway.tells("1 for PerSourceMaxStartups; the last from 203.0.113.1");
    drop(held);
}

#[test]
fn what_is_no_header_is_refused_unless_it_may_be_absent() {
    isolations().into_iter().for_each(what_is_no_header);
}

fn what_is_no_header(isolation: &str) {
    let mut long = header(ProxyVersion::Two, "192.0.2.7:1");
    long[14] = 0xff;
    let bad = [
        b"SSH-2.0-x\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1 99999\r\n".to_vec(),
        [b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
        long,
        // The rest never comes.
        header(ProxyVersion::Two, "192.0.2.7:1")[..20].to_vec(),
        Vec::new(),
    ];
    let time = "TidegateProxyProtocolTimeout 1";
    let lines = [isolation, "TidegateProxyProtocol 127.0.0.0/8 required", time];
    let gateway = Gateway::start(&lines);
    for bytes in &bad {
        assert_eq!(answer(&gateway, bytes), "", "{}", text(bytes));
    }
    for why in ["no PROXY header", "a malformed PROXY header", "no PROXY header in time"] {
        gateway.tells(why);
    }
    drop(gateway);

    let lines = [isolation, "TidegateProxyProtocol 127.0.0.0/8 optional", time];
    let gateway = Gateway::start(&lines);
    assert!(is_greeting(&answer(&gateway, b"SSH-2.0-x\r\n")));
    assert!(is_greeting(&answer(&gateway, b"")), "after the time is over");
    assert!(is_greeting(&answer(&gateway, &header(ProxyVersion::One, "192.0.2.7:1"))));
    assert_eq!(answer(&gateway, &bad[1]), "", "a bad header is worse than none");
    gateway.assert_alive();
    drop(gateway);

    // Whoever is no proxy has nothing to tell: it speaks SSH or nothing.
    let lines = [isolation, "TidegateProxyProtocol 192.0.2.0/24,!127.0.0.1"];
    let gateway = Gateway::start(&lines);
    for version in VERSIONS {
        let line = answer(&gateway, &header(version, "203.0.113.9:1"));
        assert!(is_greeting(&line) || line.is_empty(), "{line}");
    }
    gateway.assert_alive();
    assert!(!gateway.log().contains("203.0.113.9"), "{}", gateway.log());
}

/// HAProxy in the foreground, ended by its pid.
struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A frontend for each version, on ports of its own.
fn haproxy(gateway: &Gateway) -> (Haproxy, [u16; 2]) {
    let ports = [free_port(), free_port()];
    let mut config = "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n \
                      timeout server 60s\n"
        .to_owned();
    let ways = ["send-proxy", "send-proxy-v2 proxy-v2-options crc32c,unique-id"];
    for (n, (port, way)) in ports.iter().zip(ways).enumerate() {
        let to = gateway.port;
        config += &format!(
            "listen v{n}\n bind 127.0.0.1:{port}\n unique-id-format %Ts-%rt\n \
             server gateway 127.0.0.1:{to} {way}\n"
        );
    }
    let path = gateway.path("haproxy.cfg");
    fs::write(&path, config).expect("its configuration");
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(path).stdin(Stdio::null());
    let log = fs::File::create(gateway.path("haproxy.log")).expect("a log");
    command.stdout(log.try_clone().expect("a handle")).stderr(log);
    let mut running = Haproxy(command.spawn().expect("haproxy starts; it is Debian's haproxy"));
    wait_for("haproxy to listen", || {
        let over = running.0.try_wait().expect("its status");
        let said = fs::read_to_string(gateway.path("haproxy.log")).unwrap_or_default();
        assert!(over.is_none(), "{said}");
        ports.iter().all(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok())
    });
    (running, ports)
}

#[test]
fn clients_behind_haproxy_are_known_by_their_own_addresses() {
    isolations().into_iter().for_each(clients_behind_haproxy);
}

fn clients_behind_haproxy(isolation: &str) {
    let gateway = Gateway::start(&[
        isolation,
        "TidegateProxyProtocol 127.0.0.1 required",
        "SetEnv FROM=elsewhere",
        "Match Address 127.0.0.3",
        "SetEnv FROM=three",
        "Match all",
    ]);
    // The last key may only be used from one address.
    let keys = fs::read_to_string(gateway.path("authorized_keys")).expect("keys");
    let limited = keys.replacen("ssh-ed25519", "from=\"127.0.0.3\" ssh-ed25519", 1);
    fs::write(gateway.path("authorized_keys"), limited).expect("written");
    let (_haproxy, ports) = haproxy(&gateway);
    for port in ports {
        let port = format!("Port={port}");
        let ssh = |from: &str| {
            let from = format!("BindAddress={from}");
            let mut command = gateway.ssh(&[&port, &from, QUICK], &["echo $FROM $SSH_CLIENT"]);
            command.output().expect("ssh starts")
        };
        let output = ssh("127.0.0.3");
        let said = text(&output.stdout);
        assert!(said.starts_with("three 127.0.0.3 "), "{said} {output:?}\n{}", gateway.log());
        // Refused by the key's own list, which names no proxy.
        let output = ssh("127.0.0.4");
        assert_eq!(output.status.code(), Some(255), "{output:?}");
    }
    gateway.tells("Connection from 127.0.0.4 port");
    let log = gateway.log();
    assert!(!log.contains("publickey for root from 127.0.0.1 port"), "{log}");
}

// ---- Storms --------------------------------------------------------------------------------

/// Every connection that is turned away is counted, and a storm of them is a line a second.
#[test]
fn a_storm_is_told_in_one_line_a_second() {
    const STORM: usize = 300;
    let gateway = Gateway::start(&["MaxStartups 5:100:5"]);
    let begin = Instant::now();
    let streams: Vec<TcpStream> =
        (0..STORM).map(|_| gateway.connect().expect("a connection")).collect();
    let mut refused = 0;
    for mut stream in streams.iter() {
        let mut head = [0; 4];
        stream.read_exact(&mut head).expect("a greeting or a refusal");
        refused += usize::from(&head == b"Exce");
    }
    assert!(refused >= STORM - 5, "{refused}");
    let told = || -> (usize, usize) {
        let log = gateway.log();
        let lines = log.lines().filter_map(|line| line.split_once(" for MaxStartups"));
        let counts = lines.filter_map(|(front, _)| front.rsplit(' ').next()?.parse().ok());
        let counts: Vec<usize> = counts.collect();
        (counts.len(), counts.iter().sum())
    };
    wait_for("all of them to be told", || told().1 == refused);
    let seconds = begin.elapsed().as_secs() as usize + 1;
    assert!(told().0 <= seconds, "{} lines in {seconds} s", told().0);
    // Those who were let in are served on.
    drop(streams);
    wait_for("the slots to come back", || {
        let output = gateway.ssh(&[QUICK], &["true"]).output().expect("ssh starts");
        output.status.success()
    });
}

// ---- The end -------------------------------------------------------------------------------

/// A client that runs a command as the account, its output kept.
fn session(gateway: &Gateway, user: &str, command: &str) -> Child {
    let user = format!("User={user}");
    let mut ssh = gateway.ssh(&[&user, QUICK], &[command]);
    ssh.stdout(Stdio::piped()).stderr(Stdio::piped());
    ssh.spawn().expect("ssh starts")
}

fn terminate(gateway: &Gateway) {
    run_ok(Command::new("kill").arg(gateway.child.id().to_string()));
}

fn is_closed(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_err()
}

fn sessions_end_by_themselves_as(user: &str) {
    let mut gateway = Gateway::start(&["TidegateDrainTime 60"]);
    let file = gateway.path("go on");
    let command =
        format!("echo ready; while [ ! -e '{}' ]; do sleep 0.1; done; echo done", file.display());
    fs::set_permissions(gateway.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a mode");
    let mut client = session(&gateway, user, &command);
    let mut stdout = client.stdout.take().expect("its output");
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap_or_else(|_| panic!("{}", gateway.log()));
    terminate(&gateway);
    wait_for("it to accept no more", || is_closed(gateway.address()));
    assert!(gateway.child.try_wait().expect("its status").is_none(), "{}", gateway.log());
    fs::write(&file, "").expect("a file");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "done\n", "{}", gateway.log());
    assert!(client.wait().expect("its status").success());
    wait_for("the gateway to end", || gateway.child.try_wait().expect("a status").is_some());
    let log = gateway.log();
    assert!(log.contains("All sessions have ended"), "{log}");
}

#[test]
fn sessions_may_finish_when_the_gateway_ends() {
    sessions_end_by_themselves_as("root");
}

/// The process of the account does not hold the end up either.
#[test]
fn sessions_of_other_accounts_may_finish_too() {
    let Some(account) = Account::new() else { return };
    sessions_end_by_themselves_as(&account.name);
}

#[test]
fn sessions_that_do_not_end_are_told_why() {
    for (signal, line) in [("-TERM", "TidegateDrainTime 1"), ("-INT", "TidegateDrainTime 600")] {
        let mut gateway = Gateway::start(&[line]);
        let mut client = gateway.ssh(&[QUICK, "LogLevel=INFO"], &["echo ready; sleep 600"]);
        client.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = client.spawn().expect("ssh starts");
        let mut stdout = client.stdout.take().expect("its output");
        stdout.read_exact(&mut [0; 6]).expect("a session");
        run_ok(Command::new("kill").args([signal, &gateway.child.id().to_string()]));
        let output = client.wait_with_output().expect("its end");
        assert_eq!(output.status.code(), Some(255));
        // RFC 4253 §11.1: by application.
        let said = text(&output.stderr);
        assert!(said.contains(":11: server shutting down"), "{said}\n{}", gateway.log());
        wait_for("the gateway to end", || gateway.child.try_wait().expect("a status").is_some());
    }
}

// ---- What is written about it --------------------------------------------------------------

/// Each configuration in the documents is one, where its files exist.
#[test]
fn configurations_in_the_documents_are_configurations() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    support::keygen(&folder.path().join("ssh_host_ed25519_key"), "ed25519", "");
    let mut checked = 0;
    for name in ["docs/gateway.md", "docs/proxy.md"] {
        let document = fs::read_to_string(root.join(name)).expect("a document");
        let blocks =
            document.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next());
        let ours = |block: &&str| {
            block.lines().any(|line| line.starts_with("Port ") || line.starts_with("Match "))
        };
        for block in blocks.filter(ours) {
            let here = block.replace("/etc/tidegate", &folder.path().display().to_string());
            let path = folder.path().join("config");
            fs::write(&path, &here).expect("a file");
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
            command.args(["serve", "-t", "-f"]).arg(&path).env("HOME", folder.path());
            let output = command.env("XDG_STATE_HOME", folder.path()).output().expect("it runs");
            let said = text(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{name}:\n{block}\n{said}");
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked}");
}
