//! Forwarded connections, with OpenSSH's client and curl: what gets through, what is refused and why.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "forward/agent.rs"]
mod agent;
#[path = "forward/back.rs"]
mod back;
#[path = "forward/streams.rs"]
mod streams;
mod support;
#[path = "forward/x11.rs"]
mod x11;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::account::Account;
use support::{Gateway, free_port, noise, run_ok, sha256, wait_for};

const BULK: u64 = 64 << 20;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A client that is quick at exchanging keys.
fn client(gateway: &Gateway, port: u16, options: &[&str]) -> Command {
    let port = format!("Port={port}");
    let mut all = vec![&*port, "KexAlgorithms=curve25519-sha256", "ExitOnForwardFailure=yes"];
    all.extend(options);
    gateway.client(Path::new("ssh"), &all)
}

/// `ssh -W`: the client's own streams are the connection.
fn through(gateway: &Gateway, port: u16, to: &str) -> Command {
    let mut command = client(gateway, port, &["LogLevel=INFO"]);
    command.args(["-W", to, "127.0.0.1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn refusal(gateway: &Gateway, port: u16, to: &str) -> String {
    let output = through(gateway, port, to).output().expect("ssh starts");
    assert!(!output.status.success(), "{to}: {output:?}\n{}", gateway.log());
    text(&output.stderr)
}

fn reaches(gateway: &Gateway, port: u16, to: &str) {
    let output = through(gateway, port, to).output().expect("ssh starts");
    let log = gateway.log();
    assert_eq!(text(&output.stdout), "hello\n", "{to}: {}\n{log}", text(&output.stderr));
}

/// A client in the background, ended by its pid.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that does nothing but forward, once it does.
fn forwarding(gateway: &Gateway, port: u16, words: &[&str]) -> Background {
    let log = gateway.path(&format!("client{}", free_port()));
    let mut command = client(gateway, port, &["LogLevel=DEBUG1"]);
    command.arg("-N").args(words).arg("127.0.0.1");
    command.stderr(File::create(&log).expect("a log"));
    let mut child = Background(command.spawn().expect("ssh starts"));
    let said = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("the client to forward", || {
        let over = child.0.try_wait().expect("its status");
        assert!(over.is_none(), "{words:?}: {}\n{}", said(), gateway.log());
        said().contains("Entering interactive session")
    });
    child
}

/// Answers every connection in a thread of its own.
fn serve(answer: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), answer) = (stream, answer.clone()) else { return };
            stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
            thread::spawn(move || answer(stream));
        }
    });
    port
}

fn greeter() -> u16 {
    serve(|mut stream| drop(stream.write_all(b"hello\n")))
}

/// Gives back what came, when there is no more.
fn answer_at_the_end(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the end");
    stream.write_all(&bytes).expect("room");
}

/// Gateways with a block of configuration for each of more ports.
fn with_blocks(lines: &[&str], blocks: &[String]) -> (Gateway, Vec<u16>) {
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
    fs::set_permissions(gateway.folder.path(), Permissions::from_mode(0o755)).expect("a mode");
    (gateway, ports)
}

/// The client's key with these options in front of it is the one that counts.
fn allow(gateway: &Gateway, options: &str) {
    let key = fs::read_to_string(gateway.path("user_ed25519.pub")).expect("a key");
    fs::write(gateway.path("authorized_keys"), format!("{options} {key}")).expect("the keys");
}

// ---- What gets through -------------------------------------------------------------------------

#[test]
fn r6_each_direction_ends_on_its_own() {
    let gateway = Gateway::start(&[]);
    // The client is done first, and is answered then.
    let port = serve(answer_at_the_end);
    let mut child = through(&gateway, gateway.port, &format!("127.0.0.1:{port}"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("ssh starts");
    child.stdin.take().expect("its input").write_all(b"question").expect("a write");
    let output = child.wait_with_output().expect("an end");
    assert_eq!(text(&output.stdout), "question", "{output:?}\n{}", gateway.log());

    // The target is done first, and goes on listening.
    let (heard, hearing) = std::sync::mpsc::channel();
    let port = serve(move |mut stream| {
        stream.write_all(b"greeting").expect("a write");
        stream.shutdown(Shutdown::Write).expect("a half-close");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the rest");
        heard.send(bytes).expect("the test listens");
    });
    let own = free_port();
    let _client = forwarding(&gateway, gateway.port, &["-L", &format!("{own}:127.0.0.1:{port}")]);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, own)).expect("the client listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).expect("to its end");
    assert_eq!(greeting, "greeting");
    thread::sleep(Duration::from_millis(100));
    stream.write_all(b"afterwards").expect("the other direction");
    drop(stream);
    assert_eq!(text(&hearing.recv_timeout(Duration::from_secs(20)).expect("bytes")), "afterwards");

    gateway.tells_times(" Forwarded direct-tcpip to ", 2);
    gateway.tells(&format!("Forwarding direct-tcpip to 127.0.0.1 port {port} for "));
    gateway.tells(": 10 bytes in, 8 out, both sides were done");
}

#[test]
fn bulk_arrives_whole_both_ways_at_once() {
    let gateway = Gateway::start(&[]);
    for name in ["up", "down"] {
        let mut file = File::create(gateway.path(name)).expect("a file");
        let random = File::open("/dev/urandom").expect("noise");
        std::io::copy(&mut random.take(BULK), &mut file).expect("a file of it");
    }
    let [theirs, ours] = ["theirs", "ours"].map(|name| gateway.path(name));
    let (down, into) = (gateway.path("down"), theirs.clone());
    let (done, over) = std::sync::mpsc::channel();
    let port = serve(move |stream| {
        exchange(stream, &down, &into);
        done.send(()).expect("the test waits");
    });
    let own = free_port();
    let _client = forwarding(&gateway, gateway.port, &["-L", &format!("{own}:127.0.0.1:{port}")]);
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, own)).expect("the client listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    exchange(stream, &gateway.path("up"), &ours);
    over.recv_timeout(Duration::from_secs(20)).expect("the target is done");
    assert_eq!(sha256(&ours), sha256(&gateway.path("down")));
    assert_eq!(sha256(&theirs), sha256(&gateway.path("up")));
}

/// Sends one file while another comes.
fn exchange(stream: TcpStream, from: &Path, into: &Path) {
    let mut reader = stream.try_clone().expect("a second handle");
    let mut file = File::create(into).expect("a file");
    let reading = thread::spawn(move || std::io::copy(&mut reader, &mut file).expect("all of it"));
    let (mut stream, mut file) = (stream, File::open(from).expect("a file"));
    std::io::copy(&mut file, &mut stream).expect("room");
    stream.shutdown(Shutdown::Write).expect("an end");
    reading.join().expect("all read");
}

#[test]
fn a_hundred_connections_at_once() {
    let gateway = Gateway::start(&[]);
    let port = serve(answer_at_the_end);
    let own = free_port();
    let _client = forwarding(&gateway, gateway.port, &["-L", &format!("{own}:127.0.0.1:{port}")]);
    let mut streams: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, own)).expect("the client listens"))
        .collect();
    for (n, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&noise(20_000, n as u64)).expect("room");
    }
    for (n, mut stream) in streams.into_iter().enumerate() {
        stream.shutdown(Shutdown::Write).expect("an end");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        assert!(bytes == noise(20_000, n as u64), "connection {n}: {} bytes", bytes.len());
    }
    let before = gateway.descriptors();
    gateway.tells_times(" Forwarded direct-tcpip to ", 100);
    assert!(gateway.descriptors() <= before);
}

#[test]
fn a_slow_reader_delays_nobody_else_on_its_connection() {
    const BULK: usize = 20_000_000;
    let gateway = Gateway::start(&[]);
    let source = serve(|mut stream| drop(stream.write_all(&vec![7; BULK])));
    let echo = serve(answer_at_the_end);
    let [bulk, own] = [free_port(), free_port()];
    let [slow, quick] =
        [(bulk, source), (own, echo)].map(|(at, to)| format!("{at}:127.0.0.1:{to}"));
    let _client = forwarding(&gateway, gateway.port, &["-L", &slow, "-L", &quick]);
    let mut slow = TcpStream::connect((Ipv4Addr::LOCALHOST, bulk)).expect("it listens");
    slow.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    slow.read_exact(&mut [0]).expect("a byte");
    for n in 0..50 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, own)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        stream.write_all(&noise(9_000, n)).expect("room");
        stream.shutdown(Shutdown::Write).expect("an end");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        assert!(bytes == noise(9_000, n), "connection {n}: {} bytes", bytes.len());
    }
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the rest");
    assert_eq!(rest.len(), BULK - 1);
}

#[test]
fn dynamic_forwarding_and_jumps() {
    let gateway = Gateway::start(&[]);
    let web = serve(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabcde");
    });
    let own = free_port();
    let _client = forwarding(&gateway, gateway.port, &["-D", &own.to_string()]);
    for (option, host) in
        [("--socks5-hostname", "localhost"), ("--socks5", "127.0.0.1"), ("--socks4", "127.0.0.1")]
    {
        let output = run_ok(
            Command::new("curl")
                .args(["-sS", "--noproxy", "", "-m", "20", option, &format!("127.0.0.1:{own}")])
                .arg(format!("http://{host}:{web}/")),
        );
        assert_eq!(text(&output.stdout), "abcde", "{option}");
    }
    // As a browser would: many short connections, many at once.
    let output = run_ok(
        Command::new("curl")
            .args(["-sS", "--noproxy", "", "-m", "60", "-Z", "--parallel-max", "50"])
            .args(["--no-keepalive", "--socks5-hostname", &format!("127.0.0.1:{own}")])
            .arg(format!("http://localhost:{web}/[1-200]")),
    );
    assert_eq!(text(&output.stdout).matches("abcde").count(), 200);
    // Through us, and another, to us.
    let second = Gateway::start(&[]);
    let mut file = format!("Host *\nPort {}\nBatchMode yes\nLogLevel ERROR\n", gateway.port);
    for gateway in [&gateway, &second] {
        file += &format!("IdentityFile {}\n", gateway.path("user_ed25519").display());
    }
    file += "IdentitiesOnly yes\n";
    file += "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nIdentityAgent none\n";
    fs::write(gateway.path("config"), file).expect("a configuration");
    let output = run_ok(
        Command::new("ssh")
            .arg("-F")
            .arg(gateway.path("config"))
            .args([
                "-J",
                &format!("127.0.0.1,127.0.0.1:{}", second.port),
                "localhost",
                "echo there",
            ])
            .stdin(Stdio::null()),
    );
    assert_eq!(text(&output.stdout), "there\n");
    gateway.tells(&format!(" Forwarding direct-tcpip to 127.0.0.1 port {}", second.port));
    second.tells(&format!(" Forwarding direct-tcpip to localhost port {}", gateway.port));
}

#[test]
fn sockets_of_the_file_system() {
    let gateway = Gateway::start(&[]);
    let path = gateway.path("target");
    let listener = UnixListener::bind(&path).expect("a socket");
    let answering = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("the end");
            bytes.reverse();
            stream.write_all(&bytes).expect("room");
        }
    });
    let own = gateway.path("own");
    let forward = format!("{}:{}", own.display(), path.display());
    let port = free_port();
    let other = format!("{port}:{}", path.display());
    let _client = forwarding(&gateway, gateway.port, &["-L", &forward, "-L", &other]);
    let mut stream = UnixStream::connect(&own).expect("the client listens");
    stream.write_all(b"abc").expect("room");
    stream.shutdown(Shutdown::Write).expect("an end");
    let mut back = String::new();
    stream.read_to_string(&mut back).expect("an answer");
    assert_eq!(back, "cba");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the client listens");
    stream.write_all(b"def").expect("room");
    stream.shutdown(Shutdown::Write).expect("an end");
    back.clear();
    stream.read_to_string(&mut back).expect("an answer");
    assert_eq!(back, "fed");
    answering.join().expect("both were answered");
    // Nobody listens any more.
    let mut stream = UnixStream::connect(&own).expect("the client listens");
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    gateway.tells("Cannot forward direct-streamlocal@openssh.com to ");
}

#[test]
fn a_setting_for_tcp_closes_the_way_for_sockets_too() {
    // As in sshd, whose AllowTcpForwarding many a file trusts to end all forwarding to elsewhere.
    let blocks = ["AllowTcpForwarding no".to_owned(), "AllowTcpForwarding remote".to_owned()];
    let (gateway, ports) = with_blocks(&[], &blocks);
    let path = gateway.path("target");
    let _listener = UnixListener::bind(&path).expect("a socket");
    for at in ports {
        let own = gateway.path(&format!("own-{at}"));
        let forward = format!("{}:{}", own.display(), path.display());
        let _client = forwarding(&gateway, at, &["-L", &forward]);
        let mut stream = UnixStream::connect(&own).expect("the client listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let read = stream.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(read, Ok(0) | Err(ErrorKind::ConnectionReset)), "{read:?}");
    }
    gateway.tells("(AllowStreamLocalForwarding, AllowTcpForwarding, ");
}

// ---- What does not -----------------------------------------------------------------------------

#[test]
fn targets_that_cannot_be_reached_are_told_apart_from_those_that_may_not() {
    let gateway = Gateway::start(&[]);
    let closed = free_port();
    let said = refusal(&gateway, gateway.port, &format!("127.0.0.1:{closed}"));
    assert!(said.contains("connect failed: Connection refused"), "{said}");
    // A slip costs its channel, and not the connection with all others.
    let said = refusal(&gateway, gateway.port, &format!("{}:80", "long.".repeat(60)));
    assert!(said.contains("administratively prohibited"), "{said}");
    gateway.tells("the name of a host is too long");
    let said = refusal(&gateway, gateway.port, "no..such..name:80");
    assert!(said.contains("connect failed: Name or service not known"), "{said}");
    let log = gateway.tells(&format!("to 127.0.0.1 port {closed} for "));
    assert!(
        log.contains(": Connection refused") && !log.contains(&format!("127.0.0.1:{closed}")),
        "{log}"
    );
    gateway.tells("Cannot forward direct-tcpip to no..such..name port 80 for ");
}

/// As in sshd, no address of the other family is connected to, nor listened at, however it is written.
#[test]
fn address_family_holds_for_forwarding() {
    let Ok(six) = TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)) else {
        println!("not run: no IPv6 here");
        return;
    };
    let to = format!("[::1]:{}", six.local_addr().expect("its address").port());
    let gateway = Gateway::start(&["AddressFamily inet"]);
    let said = refusal(&gateway, gateway.port, &to);
    assert!(said.contains("connect failed"), "{said}");
    gateway.tells("AddressFamily does not allow addresses of this family");
    let mut listening = client(&gateway, gateway.port, &["LogLevel=INFO"]);
    listening.args(["-R", "[::1]:0:127.0.0.1:1", "127.0.0.1", "true"]);
    let output = listening.output().expect("ssh");
    assert!(text(&output.stderr).contains("remote port forwarding failed"), "{output:?}");
}

/// A listener whose queue is full answers nobody.
#[test]
fn a_silent_target_is_given_up() {
    use nix::sys::socket::*;
    use std::os::fd::AsRawFd;
    let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None);
    let listener = listener.expect("a socket");
    bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a port");
    listen(&listener, Backlog::new(0).expect("a backlog")).expect("a listener");
    let name: SockaddrIn = getsockname(listener.as_raw_fd()).expect("its address");
    let to = SocketAddr::from((name.ip(), name.port()));
    let _fill: Vec<_> =
        (0..4).map(|_| TcpStream::connect_timeout(&to, Duration::from_millis(50))).collect();
    let gateway = Gateway::start(&[]);
    let start = Instant::now();
    let said = refusal(&gateway, gateway.port, &to.to_string());
    assert!(said.contains("connect failed: no route to that host, or no answer in time"), "{said}");
    let took = start.elapsed();
    assert!((10..60).contains(&took.as_secs()), "{took:?}");
    gateway.tells(": no answer in time");
}

#[test]
fn case_98_settings_say_what_may_be_reached() {
    let port = greeter();
    let blocks = [
        "AllowTcpForwarding no".to_owned(),
        "AllowTcpForwarding remote".to_owned(),
        "AllowTcpForwarding local\nAllowStreamLocalForwarding no".to_owned(),
        "DisableForwarding yes\nAllowTcpForwarding yes".to_owned(),
        "PermitOpen none".to_owned(),
        format!("PermitOpen 127.0.0.1:{port}"),
        format!("PermitOpen localhost:{port}"),
        format!("PermitOpen *:{}", free_port()),
        "PermitOpen 127.0.0.1:*".to_owned(),
    ];
    let (gateway, ports) = with_blocks(&[], &blocks);
    let [none, remote, local, disabled, nowhere, address, name, other, any_port] = ports[..] else {
        panic!("{ports:?}");
    };
    let by_address = format!("127.0.0.1:{port}");
    let by_name = format!("localhost:{port}");
    let mapped = format!("[::ffff:127.0.0.1]:{port}");
    for at in [local, address, any_port] {
        reaches(&gateway, at, &by_address);
    }
    // The same address, written as one of IPv6.
    reaches(&gateway, address, &mapped);
    reaches(&gateway, name, &by_name);
    for (at, to) in [
        (none, &by_address),
        (remote, &by_address),
        (disabled, &by_address),
        (nowhere, &by_address),
        // A name leads where the list says, but is not on it; and the other way round.
        (address, &by_name),
        (name, &by_address),
        (other, &by_address),
        (name, &mapped),
        (address, &format!("2130706433:{port}")),
        (address, &format!("0x7f.1:{port}")),
        (address, &format!("0177.0.0.1:{port}")),
        (address, &format!("127.1:{port}")),
        (address, &format!("localhost.:{port}")),
        (address, &format!("[::]:{port}")),
        (address, &format!("0.0.0.0:{port}")),
        (address, &format!("[::1]:{port}")),
        (any_port, &format!("169.254.169.254:{port}")),
        (any_port, &format!("[fe80::1%lo]:{port}")),
    ] {
        let said = refusal(&gateway, at, to);
        assert!(said.contains("administratively prohibited"), "{to}: {said}");
    }
    for why in ["PermitOpen does not list it", "forwarding is not permitted (Allow"] {
        gateway.tells(why);
    }
}

#[test]
fn keys_say_what_may_be_reached() {
    let port = greeter();
    let (gateway, ports) = with_blocks(&[], &[format!("PermitOpen *:{port}")]);
    let to = format!("127.0.0.1:{port}");
    for (options, permitted) in [
        ("no-port-forwarding", false),
        ("restrict", false),
        ("restrict,port-forwarding", true),
        ("no-agent-forwarding,no-X11-forwarding", true),
        (&format!("permitopen=\"127.0.0.1:{port}\""), true),
        (&format!("permitopen=\"localhost:1\",permitopen=\"127.0.0.1:{port}\""), true),
        ("permitopen=\"127.0.0.1:1\"", false),
    ] {
        allow(&gateway, options);
        match permitted {
            true => reaches(&gateway, gateway.port, &to),
            false => {
                let said = refusal(&gateway, gateway.port, &to);
                assert!(said.contains("administratively prohibited"), "{options}: {said}");
            }
        }
    }
    // Both the settings and the key have to permit it.
    allow(&gateway, "permitopen=\"127.0.0.1:*\"");
    reaches(&gateway, ports[0], &to);
    let said = refusal(&gateway, ports[0], &format!("127.0.0.1:{}", gateway.port));
    assert!(said.contains("administratively prohibited"), "{said}");
}

#[test]
fn idle_connections_end_by_channel_timeout() {
    let port = serve(|mut stream| drop(stream.read(&mut [0])));
    let gateway = Gateway::start(&["ChannelTimeout direct-tcpip=1"]);
    let start = Instant::now();
    let mut child = through(&gateway, gateway.port, &format!("127.0.0.1:{port}"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("ssh starts");
    let _held = child.stdin.take();
    child.wait().expect("an end");
    assert!((1..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    gateway.tells("closed after 1 s without traffic");
}

// ---- As root -----------------------------------------------------------------------------------

#[test]
fn sockets_are_opened_with_the_rights_of_the_account() {
    let Some(account) = Account::new() else { return };
    let gateway = Gateway::start(&[]);
    fs::set_permissions(gateway.folder.path(), Permissions::from_mode(0o755)).expect("a mode");
    let user = format!("User={}", account.name);
    let ask = |path: &Path| -> Output {
        let own = gateway.path(&format!("own{}", free_port()));
        let forward = format!("{}:{}", own.display(), path.display());
        let mut command = client(&gateway, gateway.port, &[&user]);
        command.args(["-N", "-L", &forward, "127.0.0.1"]).stderr(Stdio::piped());
        let mut child = Background(command.spawn().expect("ssh starts"));
        let mut open = None;
        wait_for("the client to listen", || {
            open = UnixStream::connect(&own).ok();
            open.is_some()
        });
        let mut stream = open.expect("the client listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let mut stdout = Vec::new();
        let _ = stream.read_to_end(&mut stdout);
        let _ = child.0.kill();
        Output { status: child.0.wait().expect("an end"), stdout, stderr: Vec::new() }
    };
    let listen = |path: &Path, mode: u32| {
        let listener = UnixListener::bind(path).expect("a socket");
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.expect("a connection").write_all(b"hello");
            }
        });
    };
    let (secret, open) = (gateway.path("secret"), gateway.path("open"));
    listen(&secret, 0o600);
    listen(&open, 0o666);
    assert_eq!(text(&ask(&open).stdout), "hello", "{}", gateway.log());
    assert_eq!(text(&ask(&secret).stdout), "");
    gateway.tells("Permission denied");
    // And TCP from the process of the account.
    let port = greeter();
    let output = client(&gateway, gateway.port, &[&user])
        .args(["-W", &format!("localhost:{port}"), "127.0.0.1"])
        .output()
        .expect("ssh starts");
    assert_eq!(text(&output.stdout), "hello\n", "{output:?}\n{}", gateway.log());
}
