//! Ways to a server and through it: hosts on the way, commands in between, forwarded connections.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::server::{Server, Theirs, both, text};
use crate::support::openssh::Agent;
use crate::support::{Gateway, free_port, noise, wait_for};

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
