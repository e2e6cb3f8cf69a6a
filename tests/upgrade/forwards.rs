//! Forwarded connections behind an upgrade.

use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver, Sender};

use super::moving::{Bulk, Script, on_each};
use super::sessions::{assert_echoes, connect, echo_server};
use super::*;
use crate::support::{free_port, noise};

/// A client that forwards, and has no session; it is there once `port` is.
fn client(site: &Site, options: &[&str], words: &[&str]) -> Session {
    let mut command = site.ssh(&[options, &["ExitOnForwardFailure=yes"]].concat(), &[]);
    command.arg("-N").args(words);
    Session::begin(command)
}

/// Asks a SOCKS server of the client for a port of this machine.
fn by_socks(proxy: u16, port: u16) -> TcpStream {
    let mut stream = connect(proxy);
    let [high, low] = port.to_be_bytes();
    stream.write_all(&[5, 1, 0]).expect("asked");
    stream.read_exact(&mut [0; 2]).expect("an answer");
    stream.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low]).expect("asked");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer[1], 0, "it is connected");
    stream
}

#[test]
fn forwarded_ports_move() {
    on_each(&[], |site| {
        let (echo, [there, socks]) = (echo_server(), [free_port(), free_port()]);
        let to = format!("127.0.0.1:{there}:127.0.0.1:{echo}");
        let by = format!("127.0.0.1:{socks}");
        let forwarding = client(site, &["RekeyLimit=64K"], &["-L", &to, "-D", &by]);
        let mut through = site.ssh(&[], &[]);
        through.arg("-W").arg(format!("127.0.0.1:{echo}"));
        let mut through = Session::begin(through);
        let mut streams = [connect(there), by_socks(socks, echo)];
        streams.iter_mut().for_each(|stream| assert_echoes(stream, 1000));
        through.assert_well(1);
        for _ in 0..2 {
            site.moves();
            streams.iter_mut().for_each(|stream| assert_echoes(stream, 300_000));
            through.assert_well(3000);
        }
        let mut later = [connect(there), by_socks(socks, echo)];
        later.iter_mut().for_each(|stream| assert_echoes(stream, 100_000));
        through.end();
        drop((streams, later));
        // One without a channel moves too, and forwards again.
        site.moves();
        assert_echoes(&mut connect(there), 1000);
        drop(forwarding);
    });
}

/// Bytes as fast as they go, on their way at the moment of the upgrade.
#[test]
fn bulk_of_a_forwarded_port_moves_byte_by_byte() {
    on_each(&[], |site| {
        let (echo, there) = (echo_server(), free_port());
        let to = format!("127.0.0.1:{there}:127.0.0.1:{echo}");
        let forwarding = client(site, &[], &["-L", &to]);
        let stream = connect(there);
        let from = stream.try_clone().expect("a copy");
        let bulk = Bulk::begin(stream, from, |to| to.shutdown(Shutdown::Write).expect("an end"));
        for _ in 0..2 {
            bulk.wait_for_more();
            site.moves();
        }
        bulk.wait_for_more();
        bulk.finish();
        drop(forwarding);
    });
}

/// Reads all, and answers with it when it is told to.
fn patient_server() -> (u16, Sender<()>, Receiver<usize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let ((go, may), (told, heard)) = (mpsc::channel(), mpsc::channel());
    let serve = move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("all");
        told.send(all.len()).expect("somebody");
        let _ = may.recv();
        stream.write_all(&all).expect("an answer");
    };
    thread::Builder::new().name("patient".to_owned()).spawn(serve).expect("a thread");
    (port, go, heard)
}

/// One way is over before the connection moves, the other one goes on behind it.
#[test]
fn connections_that_are_half_closed_move() {
    on_each(&[], |site| {
        let ((server, go, heard), there) = (patient_server(), free_port());
        let to = format!("127.0.0.1:{there}:127.0.0.1:{server}");
        let forwarding = client(site, &[], &["-L", &to]);
        let mut stream = connect(there);
        let bytes = noise(200_000, 4);
        stream.write_all(&bytes).expect("sent");
        stream.shutdown(Shutdown::Write).expect("an end");
        assert_eq!(heard.recv().expect("all of it"), bytes.len());
        site.moves();
        go.send(()).expect("it waits");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("all");
        assert!(back == bytes);
        drop(forwarding);
    });
}

#[test]
fn forwarded_unix_sockets_move() {
    on_each(&[], |site| {
        let [server, here] = ["server", "here"].map(|name| site.gateway.path(name));
        let listener = UnixListener::bind(&server).expect("a socket");
        fs::set_permissions(&server, PermissionsExt::from_mode(0o777)).expect("a mode");
        let serve = move || {
            for stream in listener.incoming().take(2).flatten() {
                let (mut from, mut to) = (&stream, &stream);
                let _ = std::io::copy(&mut from, &mut to);
            }
        };
        thread::Builder::new().name("echo".to_owned()).spawn(serve).expect("a thread");
        let to = format!("{}:{}", here.display(), server.display());
        let forwarding = client(site, &[], &["-L", &to]);
        // It is there a moment before anybody listens.
        let mut stream = None;
        wait_for("the socket", || {
            stream = UnixStream::connect(&here).ok();
            stream.is_some()
        });
        let mut stream = stream.expect("a connection");
        let mut assert_echoes = |bytes: &[u8]| {
            stream.write_all(bytes).expect("sent");
            let mut back = vec![0; bytes.len()];
            stream.read_exact(&mut back).expect("an echo");
            assert!(back == bytes);
        };
        assert_echoes(b"before");
        site.moves();
        assert_echoes(&noise(50_000, 2));
        drop(stream);
        let mut later = UnixStream::connect(&here).expect("a connection");
        later.write_all(b"after").expect("sent");
        let mut back = [0; 5];
        later.read_exact(&mut back).expect("an echo");
        assert_eq!(&back, b"after");
        drop(forwarding);
    });
}

/// A session and forwarded connections of one client.
#[test]
fn what_a_client_has_beside_its_session_moves_with_it() {
    on_each(&[], |site| {
        let (echo, there) = (echo_server(), free_port());
        let to = format!("LocalForward=127.0.0.1:{there} 127.0.0.1:{echo}");
        let mut script = Script::begin(site, &[&to], "cat; exit 2");
        let mut streams = [connect(there), connect(there)];
        streams.iter_mut().for_each(|stream| assert_echoes(stream, 1000));
        for _ in 0..2 {
            site.moves();
            streams.iter_mut().for_each(|stream| assert_echoes(stream, 100_000));
            script.assert_echoes(&"x".repeat(10_000));
        }
        drop(streams);
        script.finish(2);
    });
}
