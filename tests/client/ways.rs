//! Ways to a server and through it: hosts on the way, commands in between, forwarded connections.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::server::{Server, Theirs, both, text};
use crate::support::openssh::Agent;
use crate::support::{Gateway, free_port, log_with, noise, wait_for};

/// A client that forwards until it is dropped.
struct Forwarding(Child);

impl Forwarding {
    fn start(server: &Server, options: &[&str], flags: &[&str]) -> Forwarding {
        let mut command = server.login(options);
        command.arg("-N").args(flags).arg("127.0.0.1");
        Forwarding(command.stderr(Stdio::null()).spawn().expect("the client starts"))
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers every connection with what it says.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(64).flatten() {
            std::thread::spawn(move || {
                let mut back = stream.try_clone().expect("a descriptor");
                let mut from = stream;
                let _ = std::io::copy(&mut from, &mut back);
                let _ = back.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    port
}

fn comes_back(mut stream: TcpStream) {
    let bytes = noise(1 << 20, 3);
    let sent = bytes.clone();
    let mut writing = stream.try_clone().expect("a descriptor");
    let writer = std::thread::spawn(move || {
        writing.write_all(&sent).expect("it is taken");
        writing.shutdown(std::net::Shutdown::Write).expect("an end");
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("it comes back");
    writer.join().expect("the writer");
    assert!(back == bytes, "{} bytes came back", back.len());
}

fn reach(port: u16) -> TcpStream {
    wait_for("the forwarded port", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens")
}

#[test]
fn connections_are_forwarded_from_here_and_from_there() {
    both(&[], |server| {
        let (target, here, there, socks) = (echo(), free_port(), free_port(), free_port());
        let path = server.path("socket");
        let flags = [
            format!("-L{here}:127.0.0.1:{target}"),
            format!("-L{}:127.0.0.1:{target}", path.display()),
            format!("-R{there}:127.0.0.1:{target}"),
            format!("-D{socks}"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let _forwarding = Forwarding::start(server, &["ExitOnForwardFailure=yes"], &flags);
        comes_back(reach(here));
        comes_back(reach(there));
        let mut stream = UnixStream::connect(&path).expect("it listens");
        stream.write_all(b"over a path").expect("it is taken");
        stream.shutdown(std::net::Shutdown::Write).expect("an end");
        let mut back = String::new();
        stream.read_to_string(&mut back).expect("it comes back");
        assert_eq!(back, "over a path");
        for version in [4, 5] {
            let mut stream = reach(socks);
            let [high, low] = target.to_be_bytes();
            let mut answer = vec![0; if version == 4 { 8 } else { 12 }];
            if version == 4 {
                // 4a: the server looks the name up.
                stream.write_all(&[4, 1, high, low, 0, 0, 0, 1, 0]).expect("said");
                stream.write_all(b"localhost\0").expect("said");
            } else {
                stream.write_all(&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, high, low]).expect("said");
            }
            stream.read_exact(&mut answer).expect("an answer");
            comes_back(stream);
        }
    });
}

/// One of two addresses is enough, and the other one is told.
#[test]
fn a_port_that_somebody_has_is_told() {
    let server = Server::Ours(Gateway::start(&[]));
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = held.local_addr().expect("its address").port();
    let forward = format!("{port}:127.0.0.1:1");
    let output = server.ssh(&[], &["-L", &forward, "true"]).output().expect("runs");
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("Warning: cannot listen at "), "{said}");
    // One that the server chooses is told, with what it leads to.
    let output = server.ssh(&[], &["-R", "0:127.0.0.1:7", "true"]).output().expect("runs");
    let said = text(&output.stderr);
    assert!(said.contains("Allocated port ") && said.contains(" to 127.0.0.1 port 7"), "{said}");
}

#[test]
fn standard_streams_can_be_a_connection_or_go_over_hosts_on_the_way() {
    both(&[], |server| {
        let target = echo();
        let mut child = server
            .login(&[])
            .args(["-W", &format!("127.0.0.1:{target}"), "127.0.0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client starts");
        child.stdin.take().expect("a pipe").write_all(b"through").expect("it is taken");
        let output = child.wait_with_output().expect("its output");
        assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("through", Some(0)));

        // The usual: a file knows the way, over itself, twice. `-W` of the other client does as well.
        let config = server.path("config");
        let common = format!(
            "Host *\n HostName 127.0.0.1\n Port {}\n KexAlgorithms curve25519-sha256\n \
             IdentityFile {}\n IdentityAgent none\n UserKnownHostsFile {}\n BatchMode yes\n \
             StrictHostKeyChecking accept-new\n",
            server.port(),
            server.path("user_ed25519").display(),
            server.path("known_hosts").display(),
        );
        let tidegate = env!("CARGO_BIN_EXE_tidegate");
        let proxy =
            format!("{tidegate} ssh -F {} -W 127.0.0.1:{} first", config.display(), server.port());
        let text_of = format!(
            "Host third\n ProxyJump first,second\nHost other\n ProxyCommand {proxy}\n\
             Match host nowhere exec \"false\"\n Port 1\n{common}"
        );
        fs::write(&config, text_of).expect("a file");
        for host in ["third", "other"] {
            let mut command = Command::new(tidegate);
            command.args(["ssh", "-F"]).arg(&config).args([host, "echo in"]);
            let driver = crate::support::driver().unwrap_or_else(|| "uring".to_owned());
            command.args(["-o", &format!("TidegateDriver={driver}")]);
            let output = command.stdin(Stdio::null()).output().expect("runs");
            assert!(text(&output.stdout).starts_with("in"), "{host}: {}", text(&output.stderr));
        }
    });
}

#[test]
fn the_agent_is_lent_to_programs_there() {
    both(&[], |server| {
        let agent = Agent::start(server.path("lent"));
        agent.add(&server.path("user_ed25519"));
        let list = "ssh-add -l | cut -d' ' -f2";
        let ours = agent.option();
        let output = server.ssh(&[&ours], &["-A", list]).output().expect("runs");
        assert!(text(&output.stdout).starts_with("SHA256:"), "{}", text(&output.stderr));
        let output = server.ssh(&[&ours], &[list]).output().expect("runs");
        assert_eq!(text(&output.stdout), "", "not unless it is asked for");
        // One that is not there is not lent, and nobody there is led to believe so.
        let gone = format!("ForwardAgent={}", server.path("nobody").display());
        let output = server.ssh(&[&gone], &["echo \"<$SSH_AUTH_SOCK>\""]).output().expect("runs");
        assert_eq!(text(&output.stdout), "<>\n");
        let said = text(&output.stderr);
        assert!(
            said.contains("Cannot forward agent socket path") && said.contains("nobody"),
            "{said}"
        );
    });
}

/// `ssh-add -h`: an agent that is lent is told whose programs ask it, so that its keys sign there for the
/// hosts that they may go on to from there, and for no others.
#[test]
fn keys_that_are_bound_to_hosts_sign_where_they_are_lent() {
    let Some(up) = Theirs::start(&[]).map(Server::Theirs) else { return };
    both(&[], |gate| {
        let key = gate.path("user_ed25519");
        fs::copy(gate.path("user_ed25519.pub"), up.path("authorized_keys")).expect("its keys");
        let mut known = String::new();
        for (name, server) in [("gate", gate), ("up", &up)] {
            let folder = fs::read_dir(server.path("")).expect("a folder");
            for path in folder.map(|entry| entry.expect("a file").path()) {
                let file = path.file_name().expect("a name").to_string_lossy();
                if file.starts_with("host_") && file.ends_with(".pub") {
                    known += &format!("{name} {}", fs::read_to_string(&path).expect("a key"));
                }
            }
        }
        let hosts = gate.path("bound_hosts");
        fs::write(&hosts, known).expect("a file");
        let hosts = hosts.display().to_string();
        let onward = |client: &str| {
            format!(
                "{client} -F none -p {} -o BatchMode=yes -o StrictHostKeyChecking=no -o \
                 UserKnownHostsFile=/dev/null -o IdentityFile=none -o LogLevel=ERROR 127.0.0.1 echo in",
                up.port()
            )
        };
        let agent = Agent::start(gate.path("bound"));
        let ours = agent.option();
        let tidegate = concat!(env!("CARGO_BIN_EXE_tidegate"), " ssh");
        for (there, expected) in [("gate>up", "in\n"), ("gate>gate", "")] {
            agent.tell(&["-D"], &key);
            agent.tell(&["-H", &hosts, "-h", "gate", "-h", there], &key);
            for client in ["ssh", tidegate] {
                let mut command = gate.bare(&[&ours]);
                command.args(["-A", "127.0.0.1", &onward(client)]);
                let output = command.output().expect("runs");
                assert_eq!(text(&output.stdout), expected, "{client} {there}: {output:?}");
            }
        }
        // A host on the way has nothing to do with the agent: it is asked here.
        agent.tell(&["-D"], &key);
        agent.tell(&["-H", &hosts, "-h", "gate", "-h", "up"], &key);
        let known = format!("UserKnownHostsFile={}", up.path("known").display());
        let port = format!("Port={}", up.port());
        let way = format!("127.0.0.1:{}", gate.port());
        let mut command = gate.bare(&[&port, &ours, &known]);
        let config = format!(
            "Host *\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n {}\n",
            ours.replace('=', " ")
        );
        fs::write(gate.path("way"), config).expect("a file");
        command.arg("-F").arg(gate.path("way")).args(["-J", &way, "127.0.0.1", "echo in"]);
        let output = command.output().expect("runs");
        assert_eq!(text(&output.stdout), "in\n", "{output:?}");
    });
}

#[test]
fn compression_variables_and_subsystems() {
    both(&["AcceptEnv A LC_*"], |server| {
        let output = server
            .ssh(&["SetEnv=A=one", "SendEnv=LC_*"], &["-C", "echo $A $LC_TEST"])
            .env("LC_TEST", "two")
            .output()
            .expect("runs");
        assert_eq!(text(&output.stdout), "one two\n", "{}", text(&output.stderr));
        let mut child = server
            .ssh(&[], &["-s", "sftp"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        // SSH_FXP_INIT, version 3.
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).expect("it is taken");
        let mut answer = [0; 9];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[4..], [2, 0, 0, 0, 3]);
        drop(stdin);
        child.wait().expect("it ends");
    });
}

/// Whoever reads that the connection is lost reads which command has ended, and how.
#[test]
fn a_proxy_command_that_ends_is_named() {
    both(&[], |server| {
        for (command, how) in [("false", "exit status: 1"), ("sh -c 'kill -9 $$'", "SIGKILL")] {
            let proxy = format!("ProxyCommand={command}");
            let output = server.ssh(&[&proxy], &["true"]).output().expect("it runs");
            let said = text(&output.stderr);
            let named = format!("ProxyCommand \"{command}\" has ended");
            assert!(said.contains(&named) && said.contains(how), "{said:?}");
            assert_eq!(output.status.code(), Some(255), "{said:?}");
        }
    });
}

/// Answers each request as a web server would that has one page.
fn web() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().take(64).flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabcde");
        }
    });
    port
}

/// What comes back for these bytes.
fn said(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = reach(port);
    stream.write_all(bytes).expect("it is taken");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("an end");
    back
}

/// A request of version 5 for this host.
fn socks_5(kind: u8, host: &[u8], port: u16) -> Vec<u8> {
    [&[5, 1, 0, 5, 1, 0, kind][..], host, &port.to_be_bytes()].concat()
}

#[test]
fn a_port_there_leads_to_where_socks_says() {
    both(&[], |server| {
        let (page, echo, there, closed) = (web(), echo(), free_port(), free_port());
        let log = server.path("log").display().to_string();
        let _ = fs::remove_file(&log);
        let flags = [format!("-R{there}")];
        let flags = [&flags[0], "-E", &log];
        let _forwarding = Forwarding::start(server, &["ExitOnForwardFailure=yes"], &flags);
        drop(reach(there));
        for (version, host) in [
            ("--socks4", "127.0.0.1"),
            ("--socks4a", "localhost"),
            ("--socks5", "127.0.0.1"),
            ("--socks5-hostname", "localhost"),
        ] {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--noproxy", "", "-m", "60", version, &format!("127.0.0.1:{there}")]);
            let output = curl.arg(format!("http://{host}:{page}/")).output().expect("curl");
            assert_eq!(text(&output.stdout), "abcde", "{version}: {}", text(&output.stderr));
        }
        // What is said right behind where to is not lost, and neither is what comes later.
        let mut stream = reach(there);
        let [high, low] = echo.to_be_bytes();
        stream.write_all(&[4, 1, high, low, 127, 0, 0, 1, 0, b'm', b'o']).expect("said");
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [0, 90, 0, 0, 0, 0, 0, 0, b'm', b'o']);
        comes_back(stream);
        // Who is not connected is told why, in his version's words.
        let four = [&[4, 1][..], &closed.to_be_bytes(), &[127, 0, 0, 1, 0]].concat();
        assert_eq!(said(there, &four), [0, 91, 0, 0, 0, 0, 0, 0]);
        let refused = socks_5(1, &[127, 0, 0, 1], closed);
        assert_eq!(said(there, &refused), [5, 0, 5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
        let hostile = socks_5(3, b"\x09no..\x1b]0;x", 80);
        assert_eq!(said(there, &hostile), [5, 0, 5, 4, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(said(there, &[5, 1, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0])[..4], [5, 0, 5, 7]);
        assert_eq!(said(there, &[5, 1, 2]), [5, 0xff]);
        assert!(said(there, b"GET / HTTP/1.1\r\n\r\n").is_empty());
        // Half a request, and the end.
        let mut stream = reach(there);
        stream.write_all(&[5, 1]).expect("said");
        stream.shutdown(std::net::Shutdown::Write).expect("an end");
        assert_eq!(stream.read(&mut [0; 8]).expect("an end"), 0);
        let told = || fs::read_to_string(&log).expect("a log");
        let told = log_with("SOCKS: it ends before", 1, told);
        // Those who have said nothing are no news.
        assert_eq!(told.matches("SOCKS: it ends before").count(), 1, "{told}");
        let why = format!("SOCKS to 127.0.0.1 port {closed}: Connection refused");
        assert!(told.contains(&why) && told.contains("SOCKS: it speaks no SOCKS"), "{told}");
        assert!(told.contains("\\x1b]0;x port 80") && !told.contains('\x1b'), "{told}");
    });
}

#[test]
fn case_98_a_port_there_leads_only_to_where_it_is_permitted() {
    both(&[], |server| {
        let (page, other) = (web(), web());
        for (permitted, to_page, to_other) in [
            (format!("localhost:1 127.0.0.1:{page}"), 0, 2),
            ("127.0.0.1:*".to_owned(), 0, 0),
            ("any".to_owned(), 0, 0),
            ("none".to_owned(), 2, 2),
            // Names are not looked up for it.
            (format!("localhost:{page}"), 2, 2),
        ] {
            let there = free_port();
            let log = server.path("log").display().to_string();
            let _ = fs::remove_file(&log);
            let lines = [format!("PermitRemoteOpen={permitted}"), format!("RemoteForward={there}")];
            let lines = [&lines[0], &lines[1], "ExitOnForwardFailure=yes"];
            let _forwarding = Forwarding::start(server, &lines, &["-E", &log]);
            for (port, code) in [(page, to_page), (other, to_other)] {
                let mut request = socks_5(1, &[127, 0, 0, 1], port);
                request.extend_from_slice(b"GET / HTTP/1.0\r\n\r\n");
                let back = said(there, &request);
                assert_eq!(back[..4], [5, 0, 5, code], "{permitted}: {back:?}");
                assert_eq!(back.ends_with(b"abcde"), code == 0, "{permitted}: {back:?}");
                let why =
                    format!("SOCKS to 127.0.0.1 port {port}: PermitRemoteOpen does not list it");
                // What the client says comes a moment after what it does.
                let told = || fs::read_to_string(&log).unwrap_or_default();
                let told = log_with(&why, usize::from(code == 2), told);
                assert_eq!(told.contains(&why), code == 2, "{permitted}: {told}");
            }
        }
    });
}

/// One connection to a server that can be cut.
struct Line {
    port: u16,
    ends: std::sync::mpsc::Receiver<TcpStream>,
}

impl Line {
    fn to(server: u16) -> Line {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (tell, ends) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (near, _) = listener.accept().expect("somebody");
            let far = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).expect("the server");
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (mut from, mut to) =
                    (from.try_clone().expect("it"), to.try_clone().expect("it"));
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
            tell.send(near).expect("heard");
        });
        Line { port, ends }
    }

    fn cut(&self) {
        let near = self.ends.recv().expect("a connection");
        near.shutdown(std::net::Shutdown::Both).expect("it ends");
    }
}

/// What a client says whose session has begun before `cut` cuts it off.
fn cut_off(mut command: Command, cut: impl FnOnce()) -> String {
    command.args(["127.0.0.1", "echo up; cat; sleep 600"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client starts");
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it is up");
    cut();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(255));
    text(&output.stderr)
}

/// Whoever reads in the middle of a session that it is lost reads what it went through, and how that ended.
#[test]
fn what_a_lost_session_went_through_is_named() {
    both(&[], |server| {
        let (config, to) = (server.path("way"), server.port());
        let way = format!(
            "Host *\n Port {to}\n IdentityFile {}\n IdentityAgent none\n UserKnownHostsFile {}\n \
             StrictHostKeyChecking accept-new\n KexAlgorithms curve25519-sha256\n BatchMode yes\n",
            server.path("user_ed25519").display(),
            server.path("known_hosts").display()
        );
        fs::write(&config, way).expect("a file");

        // A command.
        let pid = server.path("pid");
        let _ = fs::remove_file(&pid);
        let proxy = format!(
            "ProxyCommand=sh -c 'echo $$ >{}; exec {} ssh -F {} -W 127.0.0.1:{to} 127.0.0.1'",
            pid.display(),
            env!("CARGO_BIN_EXE_tidegate"),
            config.display()
        );
        let told = cut_off(server.login(&[&proxy]), || {
            let of = fs::read_to_string(&pid).expect("its number");
            let of = of.trim().parse().expect("a number");
            let signal = nix::sys::signal::Signal::SIGKILL;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(of), signal).expect("it ends");
        });
        assert!(
            told.contains("ProxyCommand \"") && told.contains("has ended (signal: 9"),
            "{told}"
        );

        // A host on the way.
        let line = Line::to(to);
        let over = |port: u16| {
            let mut command = server.login(&[]);
            command.arg("-F").arg(&config).args(["-J", &format!("127.0.0.1:{port}")]);
            command
        };
        let told = cut_off(over(line.port), || line.cut());
        let port = line.port;
        let expected = format!(
            "Connection to 127.0.0.1 is lost: the connection to 127.0.0.1 port {port} on the way is lost: "
        );
        assert!(told.contains(&expected), "{told}");
    });
}
