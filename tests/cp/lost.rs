//! Connections that are lost on the way, and those that are not to be had.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use crate::server::{Server, both, text};
use crate::support::noise;
use crate::{folder, here, parts, there};

const ALL: i64 = i64::MAX;

/// What becomes of a connection that has carried what it may.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Ends,
    StandsStill,
}

/// Carries connections to a server, each no more than so many bytes of both directions together; the
/// last number is that of all further ones. It ends with the test's process.
pub fn line(server: &Server, bytes: &'static [i64]) -> u16 {
    line_that(Then::Ends, server, bytes)
}

pub fn line_that(then: Then, server: &Server, bytes: &'static [i64]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it").port();
    let to = server.port();
    thread::spawn(move || {
        for (n, from) in listener.incoming().enumerate() {
            let left = bytes.get(n).or(bytes.last()).copied().unwrap_or(ALL);
            if left == 0 {
                continue;
            }
            let (Ok(from), Ok(to)) = (from, TcpStream::connect(("127.0.0.1", to))) else {
                continue;
            };
            let left = Arc::new(AtomicI64::new(left));
            for (from, to) in [(&from, &to), (&to, &from)] {
                let (from, to) = (from.try_clone().expect("it"), to.try_clone().expect("it"));
                let left = Arc::clone(&left);
                thread::spawn(move || carry(from, to, &left, then));
            }
        }
    });
    port
}

fn carry(mut from: TcpStream, mut to: TcpStream, left: &AtomicI64, then: Then) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(got @ 1..) = from.read(&mut bytes) {
        let rest = left.fetch_sub(got as i64, Ordering::Relaxed);
        if rest <= got as i64 && then == Then::StandsStill {
            continue;
        }
        if rest <= got as i64 || to.write_all(&bytes[..got]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

pub fn cp_over(server: &Server, port: u16, words: &[&str]) -> Command {
    let key = format!("IdentityFile={}", server.path("user_ed25519").display());
    let mut command = server.client("cp", &[&format!("Port={port}"), &key]);
    command.args(words);
    command
}

fn run_over(server: &Server, port: u16, words: &[&str]) -> Output {
    cp_over(server, port, words).output().expect("it runs")
}

/// The file goes on behind what had come, over a new connection.
#[test]
fn a_lost_connection_is_made_again_and_the_file_goes_on() {
    both(&[], |server| {
        let place = folder(server, "place");
        let from = server.path("from");
        let bytes = noise(44 << 20, 7);
        fs::write(&from, &bytes).expect("a file");
        let to = place.join("to");
        for (source, target) in [(here(&from), there(&to)), (there(&from), here(&to))] {
            let _ = fs::remove_file(&to);
            let port = line(server, &[40 << 20, ALL]);
            let output = run_over(server, port, &[&source, &target]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{said}");
            assert!(said.contains("try 1 of 6") && said.contains("connected again"), "{said}");
            assert!(said.contains("; 1 retry"), "{said}");
            assert!(fs::read(&to).expect("a file") == bytes);
            assert!(parts(&place).is_empty());
        }
    });
}

/// Every file comes once, though the listing began again.
#[test]
fn a_tree_goes_on_where_it_was() {
    both(&[], |server| {
        let (tree, home) = (folder(server, "tree"), folder(server, "home"));
        for n in 0..300 {
            let file = tree.join(format!("f{n}"));
            fs::write(&file, noise(1000 + n, n as u64)).expect("a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
        }
        for (source, target) in [
            (there(&tree), home.join("got").display().to_string()),
            (here(&tree), there(&home.join("put"))),
        ] {
            let port = line(server, &[90_000, 90_000, ALL]);
            let output = run_over(server, port, &["-r", &source, &target]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{said}");
            assert!(said.contains("300 files copied") && said.contains("; 2 retries"), "{said}");
        }
        for (name, n) in ["got", "put"].iter().flat_map(|name| (0..300).map(move |n| (name, n))) {
            let copy = fs::read(home.join(name).join(format!("f{n}"))).expect("a file");
            assert!(copy == noise(1000 + n, n as u64), "{name} {n}");
        }
        assert!(parts(&home.join("got")).is_empty() && parts(&home.join("put")).is_empty());
    });
}

#[test]
fn a_host_that_stays_away_is_given_up() {
    both(&[], |server| {
        let place = folder(server, "place");
        let from = server.path("from");
        fs::write(&from, noise(3 << 20, 7)).expect("a file");
        for (retries, expected) in [("0", "connection lost"), ("1", "try 1 of 1")] {
            let port = line(server, &[1 << 20, 0]);
            let words = ["--retries", retries, &here(&from), &there(&place)];
            let output = run_over(server, port, &words);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(expected) && said.contains("; 1 failed"), "{said}");
            assert!(!place.join("from").exists());
        }
    });
}

/// Sessions beyond the connections that a server lets in are opened on those; of fewer sessions as
/// many are used as there are. It is told.
#[test]
fn streams_are_as_many_as_the_server_takes() {
    let place_of = |server: &Server| {
        let place = folder(server, "place");
        fs::write(server.path("from"), noise(17 << 20, 7)).expect("a file");
        (here(&server.path("from")), there(&place), place)
    };
    both(&[], |server| {
        let (from, to, place) = place_of(server);
        for (lets_in, theirs) in [(&[ALL][..], 4), (&[ALL, ALL, 0], 2)] {
            let output = run_over(server, line(server, lets_in), &["--streams", "4", &from, &to]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{said}");
            let connections = if matches!(server, Server::Ours(_)) { 1 } else { theirs };
            let expected = format!("4 sessions of {connections} connections");
            assert!(said.contains(&expected), "{said}");
            assert_eq!(said.contains("4 were asked for"), connections == 2, "{said}");
            assert!(fs::read(place.join("from")).expect("a file") == noise(17 << 20, 7));
        }
    });
    let server = Server::Ours(crate::support::Gateway::start(&["MaxSessions 2"]));
    let (from, to, _) = place_of(&server);
    let output = run_over(&server, server.port(), &["--streams", "4", &from, &to]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains(
            "2 sessions of 1 connections (4 were asked for: the server opens no session: "
        ),
        "{said}"
    );
}
