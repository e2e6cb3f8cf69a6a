//! Cipher steering with the clients that people have, and with one that waits.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Gateway, newer_openssh, run_ok, wait_for};
use tidegate::base::SeededEntropy;
use tidegate::transport::{Client, ClientConfig, Env, Outbox, Preferences, Transport};
use tidegate::wire::Message;
use tidegate::wire::transport::KexInit;

const CHACHA: &str = "chacha20-poly1305@openssh.com";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn user() -> String {
    text(&run_ok(Command::new("id").arg("-un")).stdout).trim().to_owned()
}

/// What the gateway has found out about this CPU.
fn steers(gateway: &Gateway) -> bool {
    gateway.tells("Ciphers: ");
    let steers = gateway.log().contains("clients that know AES-GCM are led to it");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq") {
        let off = gateway.log().contains("TidegateCipherSteering or Ciphers says so");
        assert!(steers || off, "{}", gateway.log());
    }
    steers
}

fn is_aes_gcm(name: &str) -> bool {
    name.ends_with("-gcm@openssh.com")
}

/// What a client's KEXINIT says about ciphers, to the server and from it. `None`: it sends none
/// before it has seen the server's.
fn offer(mut client: Command, listener: &TcpListener) -> Option<[Vec<String>; 2]> {
    client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = client.spawn().expect("the client starts");
    listener.set_nonblocking(true).expect("non-blocking");
    let mut stream = None;
    wait_for("a client to connect", || {
        stream = listener.accept().ok();
        stream.is_some()
    });
    let (mut stream, _) = stream.expect("a connection");
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    stream.write_all(b"SSH-2.0-Nobody_1\r\n").expect("said");
    let ciphers = first_packet(&mut stream).map(|payload| ciphers_of(&payload));
    drop(stream);
    let _ = client.kill();
    let _ = client.wait();
    ciphers
}

fn ciphers_of(payload: &[u8]) -> [Vec<String>; 2] {
    let offer = KexInit::parse(payload).expect("a KEXINIT");
    [offer.cipher_to_server, offer.cipher_to_client]
        .map(|list| list.iter().map(str::to_owned).collect())
}

/// Reads an identification line and the packet in clear behind it.
fn first_packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    read_line(stream)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut packet = vec![0; u32::from_be_bytes(length).min(64 << 10) as usize];
    stream.read_exact(&mut packet).ok()?;
    let padding = usize::from(packet[0]);
    Some(packet[1..packet.len() - padding].to_vec())
}

fn read_line(stream: &mut TcpStream) -> Option<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" {
        stream.read_exact(&mut byte).ok()?;
        line.extend(byte);
    }
    Some(text(&line))
}

fn exchanges(gateway: &Gateway) -> usize {
    gateway.log().matches("Key exchange: ").count()
}

/// The cipher of the latest login, as the gateway's log has it. The log may come behind the client's
/// end: there were `before` exchanges until then.
fn agreed(gateway: &Gateway, before: usize) -> String {
    wait_for("the exchange in the log", || exchanges(gateway) > before);
    let log = gateway.log();
    let line = log.lines().rfind(|line| line.contains("Key exchange: ")).expect("a login");
    let named =
        |word: &&str| word.contains("-gcm") || word.contains("-ctr") || word.contains("chacha");
    line.split(' ').find(named).unwrap_or_default().trim_end_matches(',').to_owned()
}

/// One client with its own defaults: which cipher it ends on, and what it had offered. `client`
/// makes it run `true` on a port.
fn check(gateway: &Gateway, name: &str, client: impl Fn(u16) -> Command) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let offered = offer(client(port), &listener);
    let [to_server, _] = offered.unwrap_or_else(|| panic!("{name} waits for the server's KEXINIT"));
    let before = exchanges(gateway);
    run_ok(client(gateway.port).stdin(Stdio::null()));
    let agreed = agreed(gateway, before);
    if steers(gateway) && to_server.iter().any(|name| is_aes_gcm(name)) {
        assert!(is_aes_gcm(&agreed), "{name} ends on {agreed}: {to_server:?}");
    }
    assert!(agreed.split('+').next().is_some_and(|cipher| to_server.iter().any(|n| n == cipher)));
    println!("{name}: {agreed} of {to_server:?}");
    agreed
}

#[test]
fn openssh_ends_on_aes_gcm_and_can_insist_on_chacha20() {
    let gateway = Gateway::start(&[]);
    let steers = steers(&gateway);
    let newer = newer_openssh().map(|folder| folder.join("ssh"));
    for program in [Some(Path::new("ssh").to_owned()), newer].into_iter().flatten() {
        let ssh = |port: u16, options: &[&str]| {
            let port = format!("Port={port}");
            let options = [&[port.as_str(), "KexAlgorithms=curve25519-sha256"], options].concat();
            let mut command = gateway.client(&program, &options);
            command.args(["127.0.0.1", "true"]);
            command
        };
        let cipher = check(&gateway, "OpenSSH", |port| ssh(port, &[]));
        assert_eq!(cipher, if steers { "aes128-gcm@openssh.com" } else { CHACHA });
        let insists = ["Ciphers=chacha20-poly1305@openssh.com"];
        assert_eq!(check(&gateway, "OpenSSH -c chacha20", |port| ssh(port, &insists)), CHACHA);
        let rekeys = ["RekeyLimit=16K"];
        // More than the client's window holds, so that it ends behind new keys and not before.
        run_ok(ssh(gateway.port, &rekeys).arg("&& head -c 4000000 /dev/zero"));
        let log = gateway.log();
        let rekeyed: Vec<_> = log.lines().filter(|line| line.contains("Rekeyed: ")).collect();
        assert!(!rekeyed.is_empty());
        assert!(rekeyed.iter().all(|line| line.contains(&cipher)), "{rekeyed:?}");
    }
    gateway.tells("Ciphers: aes128-gcm ");
}

#[test]
fn other_clients_end_on_aes_gcm_where_they_have_it() {
    let gateway = Gateway::start(&[]);
    let has = |program: &str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        found.is_ok_and(|output| output.status.success())
    };
    let (key, user) = (gateway.path("user_ecdsa256"), user());
    if has("dbclient") {
        let db_key = gateway.path("db_key");
        run_ok(
            Command::new("dropbearconvert").args(["openssh", "dropbear"]).arg(&key).arg(&db_key),
        );
        check(&gateway, "dropbear", |port| {
            let mut command = Command::new("dbclient");
            command.args(["-y", "-y", "-i"]).arg(&db_key).args(["-p", &port.to_string(), "-l"]);
            command.args([&user, "127.0.0.1", "true"]).env("HOME", gateway.folder.path());
            command
        });
    }
    if has("plink") {
        let ppk = gateway.path("user.ppk");
        run_ok(Command::new("puttygen").arg(&key).args(["-O", "private", "-o"]).arg(&ppk));
        let public = gateway.path("host_ed25519.pub");
        let line = text(&run_ok(Command::new("ssh-keygen").arg("-lf").arg(public)).stdout);
        let fingerprint = line.split(' ').nth(1).expect("a fingerprint").to_owned();
        check(&gateway, "PuTTY", |port| {
            let mut command = Command::new("plink");
            command.args(["-batch", "-hostkey", &fingerprint, "-P", &port.to_string(), "-i"]);
            command.arg(&ppk).arg(format!("{user}@127.0.0.1")).arg("true");
            command.env("HOME", gateway.folder.path());
            command
        });
    }
    if text(&run_ok(Command::new("curl").arg("-V")).stdout).contains(" sftp") {
        check(&gateway, "curl", |port| {
            let mut command = Command::new("curl");
            command.args(["-sS", "--insecure", "--max-time", "30", "-u", &format!("{user}:")]);
            command.arg("--key").arg(&key).arg("--pubkey").arg(key.with_extension("pub"));
            let url = format!("sftp://127.0.0.1:{port}{}/", gateway.folder.path().display());
            command.args(["-l", &url]);
            command
        });
    }
    let python = |script: &str, port: u16| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-W", "ignore", "-c", script, &port.to_string(), &user]).arg(&key);
        command
    };
    for (name, script) in [("paramiko", PARAMIKO), ("asyncssh", ASYNCSSH)] {
        let import = Command::new("/usr/bin/python3")
            .args(["-W", "ignore", "-c", &format!("import {name}")])
            .output();
        if import.is_ok_and(|output| output.status.success()) {
            check(&gateway, name, |port| python(script, port));
        }
    }
}

const PARAMIKO: &str = "
import sys, paramiko
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect('127.0.0.1', int(sys.argv[1]), sys.argv[2], key_filename=sys.argv[3],
               allow_agent=False, look_for_keys=False, timeout=20)
sys.exit(client.exec_command('true')[1].channel.recv_exit_status())
";

const ASYNCSSH: &str = "
import sys, asyncio, asyncssh
async def main():
    async with asyncssh.connect('127.0.0.1', int(sys.argv[1]), username=sys.argv[2],
                                client_keys=[sys.argv[3]], known_hosts=None, agent_path=None,
                                config=None) as connection:
        sys.exit((await connection.run('true')).exit_status)
asyncio.run(main())
";

/// Says its identification and nothing more until the server's KEXINIT has come, which then names
/// every cipher. The rest is our own client's, with that order.
#[test]
fn a_client_that_waits_for_our_kexinit_is_served() {
    let gateway = Gateway::start(&[]);
    let mut stream = gateway.connect().expect("connected");
    let mut entropy = SeededEntropy::new(5);
    let mut client = Transport::<Client>::new(ClientConfig::new(Preferences::default()).into());
    let mut space = vec![0; 64 << 10];
    let now = tidegate::base::Instant::from_nanos(1);
    let mut env = Env { now, entropy: &mut entropy, out: Outbox::new(&mut space, 0) };
    client.start(&mut env).expect("starts");
    let used = env.out.used();
    let line = space[..used].iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    stream.write_all(&space[..line]).expect("our identification");
    let payload = first_packet(&mut stream).expect("the server's KEXINIT");
    for list in ciphers_of(&payload) {
        assert!(list.iter().any(|name| name == CHACHA) && list.iter().any(|name| is_aes_gcm(name)));
    }
    // And the exchange goes on: the answer to our own KEXINIT is no second one.
    stream.write_all(&space[line..used]).expect("our KEXINIT");
    stream.write_all(&[0, 0, 0, 12, 10, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).expect("UNIMPLEMENTED");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end");
    let rest = text(&rest);
    assert!(rest.contains("strict key exchange"), "{rest:?}");
}

/// A client that speaks first gets a KEXINIT without what is slower here; with `no`, or with Ciphers
/// of the administrator's own, it gets everything at once.
#[test]
fn the_configuration_switches_it_off() {
    let kexinit = |lines: &[&str], first: bool| {
        let gateway = Gateway::start(lines);
        let mut stream = gateway.connect().expect("connected");
        let mut entropy = SeededEntropy::new(6);
        let mut client = Transport::<Client>::new(ClientConfig::new(Preferences::default()).into());
        let mut space = vec![0; 64 << 10];
        let now = tidegate::base::Instant::from_nanos(1);
        let mut env = Env { now, entropy: &mut entropy, out: Outbox::new(&mut space, 0) };
        client.start(&mut env).expect("starts");
        let used = env.out.used();
        if first {
            stream.write_all(&space[..used]).expect("our KEXINIT");
        }
        let ciphers = ciphers_of(&first_packet(&mut stream).expect("the server's KEXINIT"));
        (ciphers, steers(&gateway))
    };
    let (lists, steers) = kexinit(&[], true);
    for list in lists {
        assert_eq!(list.iter().all(|name| is_aes_gcm(name)), steers, "{list:?}");
    }
    // Without a word from the client: nothing is waited for.
    for lines in ["TidegateCipherSteering no", "Ciphers ^aes256-ctr"] {
        for list in kexinit(&[lines], false).0 {
            assert_eq!(list.len(), 6, "{lines}: {list:?}");
        }
    }
    let (folder, config) = (
        tempfile::tempdir().expect("a folder"),
        "Ciphers aes256-ctr\nTidegateCipherSteering yes\n",
    );
    fs::write(folder.path().join("config"), config).expect("a file");
    let mut check = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    check.args(["serve", "-t", "-f"]).arg(folder.path().join("config"));
    let told = text(&check.output().expect("it starts").stderr);
    assert!(told.contains("TidegateCipherSteering: not in effect, Ciphers chooses"), "{told}");
}
