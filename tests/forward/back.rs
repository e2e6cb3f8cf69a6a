//! Connections taken here for the client: `-R`.

use super::*;

/// A master client; others ask it to forward.
struct Master<'a> {
    gateway: &'a Gateway,
    port: u16,
    user: Option<&'a str>,
    name: String,
    child: Child,
}

impl<'a> Master<'a> {
    fn new(gateway: &'a Gateway, port: u16, user: Option<&'a str>) -> Master<'a> {
        let name = gateway.path(&format!("m{}", free_port())).display().to_string();
        let mut command = Master::client(gateway, port, user);
        command.args(["-M", "-N", "-S", &name, "127.0.0.1"]).stderr(Stdio::null());
        let child = command.spawn();
        let mut child = child.expect("ssh starts");
        wait_for("the master", || {
            assert!(child.try_wait().expect("its status").is_none(), "{}", gateway.log());
            Path::new(&name).exists()
        });
        Master { gateway, port, user, name, child }
    }

    fn client(gateway: &Gateway, port: u16, user: Option<&str>) -> Command {
        let user = user.map(|user| format!("User={user}"));
        client(gateway, port, &user.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn ask(&self, what: &str, words: &[&str]) -> Output {
        let mut command = Master::client(self.gateway, self.port, self.user);
        command.args(["-S", &self.name, "-O", what]).args(words).arg("127.0.0.1");
        command.output().expect("ssh starts")
    }

    /// Asks for a forward that must come to be. Answers the port that was chosen, if one was.
    fn forward(&self, words: &[&str]) -> u16 {
        let output = self.ask("forward", words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", self.gateway.log());
        text(&output.stdout).trim().parse().unwrap_or_default()
    }

    fn is_refused(&self, words: &[&str]) {
        let output = self.ask("forward", words);
        assert!(!output.status.success(), "{words:?}: {output:?}\n{}", self.gateway.log());
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes back when this is sent and nothing more.
fn echo(address: &str, port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((address, port)).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    stream.write_all(bytes).expect("room");
    stream.shutdown(Shutdown::Write).expect("an end");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("an answer");
    back
}

/// Whether the gateway does not, that is: a port that it has let go of may be taken by anybody.
fn nobody_listens(gateway: &Gateway, address: &str, port: u16) -> bool {
    TcpStream::connect((address, port)).is_err() || {
        let processes = gateway.processes();
        !processes.into_iter().any(|pid| holds_listener(pid, port))
    }
}

/// Whether this process, or one that it started, has a socket that listens on the port.
fn holds_listener(pid: u32, port: u16) -> bool {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/net/{name}")));
    let tables = tables.map(|table| table.expect("the kernel's table"));
    let lines = tables.iter().flat_map(|table| table.lines());
    let sockets: Vec<String> = lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, at) = fields.get(1)?.rsplit_once(':')?;
            let listens = fields.get(3) == Some(&"0A") && u16::from_str_radix(at, 16) == Ok(port);
            listens.then(|| format!("socket:[{}]", fields[9]))
        })
        .collect();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let pids = children.split_whitespace().map(str::to_owned).chain([pid.to_string()]);
    pids.filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok())
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| sockets.iter().any(|socket| target == Path::new(socket)))
}

/// What a client starts behind its requests finds all that they are about: sshd takes one after the other.
#[test]
fn programs_start_when_the_places_before_them_are_there() {
    let gateway = Gateway::start(&[]);
    let target = serve(answer_at_the_end);
    for _ in 0..8 {
        let ports: Vec<u16> = (0..12).map(|_| free_port()).collect();
        let mut command = client(&gateway, gateway.port, &["ExitOnForwardFailure=yes"]);
        for port in &ports {
            command.args(["-R", &format!("{port}:127.0.0.1:{target}")]);
        }
        let last = ports.last().expect("some");
        command.args(["127.0.0.1", &format!("bash -c ': <>/dev/tcp/127.0.0.1/{last}'")]);
        let output = command.output().expect("ssh starts");
        assert!(output.status.success(), "{output:?}\n{}", gateway.log());
    }
}

#[test]
fn ports_are_chosen_told_served_and_cancelled() {
    let gateway = Gateway::start(&[]);
    let target = serve(answer_at_the_end);
    let master = Master::new(&gateway, gateway.port, None);
    let chosen = master.forward(&["-R", &format!("0:127.0.0.1:{target}")]);
    assert!(chosen > 0);
    let bytes = noise(1 << 20, 7);
    assert!(echo("127.0.0.1", chosen, &bytes) == bytes);
    assert_eq!(echo("::1", chosen, b"over IPv6"), b"over IPv6");
    // One of the client's choice, and both at once.
    let own = free_port();
    master.forward(&["-R", &format!("127.0.0.1:{own}:127.0.0.1:{target}")]);
    assert_eq!(echo("127.0.0.1", own, b"abc"), b"abc");
    assert!(nobody_listens(&gateway, "::1", own), "it asked for one address");
    let taken = ["-R", &format!("{chosen}:127.0.0.1:{target}")[..]];
    let held = master.ask("forward", &taken);
    assert!(!held.status.success(), "{held:?}");
    // What is under way goes on when listening ends.
    let mut before = TcpStream::connect(("127.0.0.1", own)).expect("a connection");
    before.write_all(b"be").expect("room");
    let origin = before.local_addr().expect("an address").port();
    gateway.tells(&format!("port {origin} at port {own} for "));
    let output = master.ask("cancel", &["-R", &format!("127.0.0.1:{own}:127.0.0.1:{target}")]);
    assert!(output.status.success(), "{output:?}\n{}", gateway.log());
    wait_for("the end of listening", || nobody_listens(&gateway, "127.0.0.1", own));
    before.write_all(b"fore").expect("room");
    before.shutdown(Shutdown::Write).expect("an end");
    let mut back = String::new();
    before.read_to_string(&mut back).expect("an answer");
    assert_eq!(back, "before");
    assert_eq!(echo("127.0.0.1", chosen, b"still"), b"still");
    // The rest ends with the connection.
    drop(master);
    gateway.tells("Disconnected root from ");
    wait_for("the end of listening", || nobody_listens(&gateway, "127.0.0.1", chosen));
    assert!(nobody_listens(&gateway, "::1", chosen));
    let over = format!("Listening for root: no more forwarded-tcpip from 127.0.0.1 port {own}");
    gateway.tells(&over);
    gateway.tells(" bytes in, 9 out, both sides were done");
}

#[test]
fn bulk_and_many_connections_arrive_whole() {
    let gateway = Gateway::start(&[]);
    let target = serve(answer_at_the_end);
    let master = Master::new(&gateway, gateway.port, None);
    let port = master.forward(&["-R", &format!("0:127.0.0.1:{target}")]);
    let all: Vec<_> = (0..40)
        .map(|n| {
            thread::spawn(move || {
                let bytes = noise(if n == 0 { 8 << 20 } else { 50_000 }, n);
                assert!(echo("127.0.0.1", port, &bytes) == bytes, "connection {n}");
            })
        })
        .collect();
    for one in all {
        one.join().expect("every byte comes back");
    }
}

/// A client whose target is gone, and one that knows nothing of the port.
#[test]
fn connections_that_the_client_refuses_are_closed() {
    let gateway = Gateway::start(&[]);
    let master = Master::new(&gateway, gateway.port, None);
    let port = master.forward(&["-R", &format!("0:127.0.0.1:{}", free_port())]);
    assert_eq!(echo("127.0.0.1", port, b""), b"");
    gateway.tells("Cannot forward forwarded-tcpip from 127.0.0.1 port ");
    gateway.tells("the client refused it");
}

#[test]
fn sockets_are_made_in_the_file_system() {
    let (gateway, ports) = with_blocks(
        &[],
        &[
            "StreamLocalBindUnlink yes\nStreamLocalBindMask 0111".to_owned(),
            "AllowStreamLocalForwarding local".to_owned(),
            "PermitListen none".to_owned(),
            "AllowTcpForwarding local".to_owned(),
        ],
    );
    let target = serve(answer_at_the_end);
    let path = gateway.path("listens");
    let forward = format!("{}:127.0.0.1:{target}", path.display());
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&path).expect("somebody listens");
        stream.write_all(bytes).expect("room");
        stream.shutdown(Shutdown::Write).expect("an end");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("an answer");
        back
    };
    let mode = || fs::metadata(&path).expect("a socket").permissions().mode() & 0o777;
    let master = Master::new(&gateway, gateway.port, None);
    master.forward(&["-R", &forward]);
    assert_eq!((ask(b"abc"), mode()), (b"abc".to_vec(), 0o600));
    // It is in the way of another, unless that may remove it.
    let other = Master::new(&gateway, gateway.port, None);
    other.is_refused(&["-R", &forward]);
    let over = Master::new(&gateway, ports[0], None);
    over.forward(&["-R", &forward]);
    assert_eq!((ask(b"def"), mode()), (b"def".to_vec(), 0o666));
    let output = over.ask("cancel", &["-R", &forward]);
    assert!(output.status.success(), "{output:?}");
    wait_for("the end of listening", || UnixStream::connect(&path).is_err());
    fs::remove_file(&path).expect("it stays, as in sshd");
    Master::new(&gateway, ports[1], None).is_refused(&["-R", &forward]);
    // AllowTcpForwarding closes the way for sockets too, as in sshd; PermitListen is about ports.
    Master::new(&gateway, ports[3], None).is_refused(&["-R", &forward]);
    Master::new(&gateway, ports[2], None).forward(&["-R", &forward]);
}

#[test]
fn settings_and_keys_say_where_clients_may_listen() {
    let target = serve(answer_at_the_end);
    let (one, two) = (free_port(), free_port());
    let blocks = [
        "AllowTcpForwarding no".to_owned(),
        "AllowTcpForwarding local".to_owned(),
        "DisableForwarding yes".to_owned(),
        "PermitListen none".to_owned(),
        format!("PermitListen {one}"),
        format!("PermitListen localhost:{one} 127.0.0.*:*"),
        "GatewayPorts yes".to_owned(),
        "GatewayPorts clientspecified".to_owned(),
    ];
    let (gateway, ports) = with_blocks(&[], &blocks);
    let at = |bind: &str, port: u16| format!("{bind}{port}:127.0.0.1:{target}");
    for refusing in &ports[..4] {
        let master = Master::new(&gateway, *refusing, None);
        master.is_refused(&["-R", &at("", one)]);
        master.is_refused(&["-R", &at("", 0)]);
    }
    let master = Master::new(&gateway, ports[4], None);
    master.forward(&["-R", &at("", one)]);
    assert_eq!(echo("127.0.0.1", one, b"x"), b"x");
    master.is_refused(&["-R", &at("", two)]);
    master.is_refused(&["-R", &at("", 0)]);
    drop(master);
    wait_for("the port", || nobody_listens(&gateway, "127.0.0.1", one));
    let master = Master::new(&gateway, ports[5], None);
    master.is_refused(&["-R", &at("", two)]);
    master.is_refused(&["-R", &at("[::1]:", one)]);
    master.forward(&["-R", &at("127.0.0.1:", two)]);
    master.forward(&["-R", &at("", one)]);
    assert_eq!(echo("127.0.0.1", two, b"y"), b"y");
    drop(master);

    // Reached from elsewhere: 127.0.0.2 stands for another address of this machine.
    let master = Master::new(&gateway, gateway.port, None);
    let port = master.forward(&["-R", &at("*:", 0)]);
    assert_eq!(echo("127.0.0.1", port, b"z"), b"z");
    assert!(nobody_listens(&gateway, "127.0.0.2", port));
    let master = Master::new(&gateway, ports[6], None);
    let port = master.forward(&["-R", &at("", 0)]);
    assert_eq!(echo("127.0.0.2", port, b"z"), b"z");
    let master = Master::new(&gateway, ports[7], None);
    let port = master.forward(&["-R", &at("", 0)]);
    assert!(nobody_listens(&gateway, "127.0.0.2", port));
    let port = master.forward(&["-R", &at("127.0.0.2:", 0)]);
    assert_eq!(echo("127.0.0.2", port, b"z"), b"z");
    assert!(nobody_listens(&gateway, "127.0.0.1", port));
    let port = master.forward(&["-R", &at("*:", 0)]);
    assert_eq!(echo("127.0.0.2", port, b"z"), b"z");
    drop(master);

    for (options, permitted) in [
        (format!("permitlisten=\"{one}\""), true),
        (format!("permitlisten=\"localhost:{one}\""), true),
        (format!("permitlisten=\"127.0.0.1:{one}\""), false),
        ("restrict".to_owned(), false),
        ("restrict,port-forwarding".to_owned(), true),
    ] {
        allow(&gateway, &options);
        let master = Master::new(&gateway, gateway.port, None);
        match permitted {
            true => drop(master.forward(&["-R", &at("", one)])),
            false => master.is_refused(&["-R", &at("", one)]),
        }
        drop(master);
        wait_for("the port", || nobody_listens(&gateway, "127.0.0.1", one));
    }
    gateway.tells("PermitListen does not list it");
    gateway.tells("the key's permitlisten does not list it");
}

#[test]
fn case_99_accounts_listen_with_their_own_rights() {
    let Some(account) = Account::new() else { return };
    let gateway = Gateway::start(&[]);
    fs::set_permissions(gateway.folder.path(), Permissions::from_mode(0o755)).expect("a mode");
    let target = serve(answer_at_the_end);
    let master = Master::new(&gateway, gateway.port, Some(&account.name));
    let port = master.forward(&["-R", &format!("0:127.0.0.1:{target}")]);
    assert_eq!(echo("127.0.0.1", port, b"abc"), b"abc");
    master.is_refused(&["-R", &format!("1023:127.0.0.1:{target}")]);
    gateway.tells("ports below 1024 are root's");
    let at = |path: &Path| format!("{}:127.0.0.1:{target}", path.display());
    master.is_refused(&["-R", &at(&gateway.path("not-here"))]);
    gateway.tells("Permission denied");
    let path = account.at_home("here");
    master.forward(&["-R", &at(&path)]);
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).expect("a socket"));
    assert_eq!(owner, account.uid);
}

/// A gateway is out of descriptors just before it takes another configuration for new connections:
/// what it listens at for its clients goes on when there are some again.
#[test]
fn places_that_rest_outlive_a_reload() {
    let gateway = Gateway::start(&[]);
    let target = serve(answer_at_the_end);
    gateway.assert_alive();
    // A request to accept that is with the kernel has the limit of the time when it was made.
    let serving = gateway.serving().to_string();
    let limit = |most: usize| {
        let most = format!("--nofile={most}:");
        run_ok(Command::new("prlimit").args(["--pid", &serving, &most]));
    };
    limit(100);
    let master = Master::new(&gateway, gateway.port, None);
    let port = master.forward(&["-R", &format!("127.0.0.1:0:127.0.0.1:{target}")]);
    let config = gateway.path("tidegate_config");
    let more = fs::read_to_string(&config).expect("it") + "MaxAuthTries 5\n";
    fs::write(&config, more).expect("it");
    let open = || fs::read_dir(format!("/proc/{serving}/fd")).map_or(0, Iterator::count);
    let crowd: Vec<_> = (open()..120)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("the kernel takes it"))
        .collect();
    wait_for("no descriptor to be left", || open() >= 100);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the kernel takes it");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    stream.write_all(b"rests").expect("room");
    stream.shutdown(Shutdown::Write).expect("an end");
    // The attempt to take it is made meanwhile, and made again half a second later.
    thread::sleep(Duration::from_millis(50));
    drop(crowd);
    limit(1000);
    run_ok(Command::new("kill").args(["-HUP", &gateway.child.id().to_string()]));
    gateway.tells("is in force for new connections");
    let mut back = String::new();
    stream.read_to_string(&mut back).expect("an answer");
    assert_eq!(back, "rests", "{}", gateway.log());
}

/// `TIDEGATE_STORM=500` has as many.
#[test]
fn a_port_is_there_again_after_each_of_many_reconnections() {
    let rounds = std::env::var("TIDEGATE_STORM").ok().and_then(|text| text.parse().ok());
    let gateway = Gateway::start(&[]);
    let target = serve(answer_at_the_end);
    let port = free_port();
    let back = format!("127.0.0.1:{port}:127.0.0.1:{target}");
    for round in 0..rounds.unwrap_or(12) {
        let words = ["-R", &back];
        let client = forwarding(&gateway, gateway.port, &words);
        let mut heard = Vec::new();
        wait_for("the port", || {
            let there = TcpStream::connect(("127.0.0.1", port)).is_ok();
            if there {
                heard = echo("127.0.0.1", port, b"back");
            }
            there
        });
        assert_eq!(heard, b"back", "round {round}: {}", gateway.log());
        // Some are killed with a connection open, and their successors find the port free.
        let open = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        drop(client);
        drop(open);
        wait_for("the port to be free", || nobody_listens(&gateway, "127.0.0.1", port));
    }
    gateway.assert_alive();
}
