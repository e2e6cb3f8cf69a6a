//! How often a copy waits for the server before the first byte of a file moves, and behind the last that goes
//! there: over a long way that is what a small copy takes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::{Server, both, text};
use crate::support::noise;
use crate::{folder, here, there};

/// Each way, the first time. What one side says at once arrives within less.
const DELAY: Duration = Duration::from_millis(20);
/// A machine that is busy breaks off what is said at once, and never joins what is not: the busier it is, the
/// longer the way has to be. So many times that delay.
const WAYS: [u32; 9] = [1, 2, 3, 4, 5, 6, 12, 25, 50];
/// More than anything but a file.
const BULK: usize = 48 << 10;

/// When something came, whether of the client, and how much.
type Heard = Arc<Mutex<Vec<(Instant, bool, usize)>>>;

/// Carries one connection to the server, each byte with that delay.
fn long_way(server: &Server, delay: Duration) -> (u16, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it").port();
    let (to, heard) = (server.port(), Heard::default());
    let told = Arc::clone(&heard);
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let server = TcpStream::connect(("127.0.0.1", to)).expect("the server");
        for (up, from, to) in [(true, &client, &server), (false, &server, &client)] {
            to.set_nodelay(true).expect("no delay of others");
            let (mut from, mut to) = (from.try_clone().expect("it"), to.try_clone().expect("it"));
            let (told, (sender, receiver)) = (Arc::clone(&told), channel::<(Instant, Vec<u8>)>());
            thread::spawn(move || {
                for (due, bytes) in receiver {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if to.write_all(&bytes).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(got @ 1..) = from.read(&mut bytes) {
                    let now = Instant::now();
                    told.lock().expect("it").push((now, up, got));
                    if sender.send((now + delay, bytes[..got].to_vec())).is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, heard)
}

/// How often the client has said something and waited for what comes of it before bulk moved.
fn waits(heard: &Heard, delay: Duration) -> usize {
    let heard = heard.lock().expect("it");
    let (mut bursts, mut last, mut bulk) = (0, None, [0, 0]);
    for (at, up, bytes) in heard.iter() {
        if *up {
            if last.is_none_or(|last: Instant| at.duration_since(last) > delay) {
                bursts += 1;
                bulk = [0, 0];
            }
            last = Some(*at);
        }
        bulk[usize::from(*up)] += bytes;
        if bulk[0] > BULK {
            return bursts;
        }
        if bulk[1] > BULK {
            return bursts - 1;
        }
    }
    panic!("nothing moved: {heard:?}");
}

/// In how many bursts the client has sent bulk, and how often it has said something behind the last of them.
fn waits_behind(heard: &Heard, delay: Duration) -> (usize, usize) {
    let heard = heard.lock().expect("it");
    let (mut last, mut burst, mut bulk, mut behind) = (None, 0, 0, 0);
    for (at, _, bytes) in heard.iter().filter(|(_, up, _)| *up) {
        if last.is_none_or(|last: Instant| at.duration_since(last) > delay) {
            (burst, behind) = (0, behind + 1);
        }
        last = Some(*at);
        bulk += usize::from(burst <= BULK && burst + bytes > BULK);
        burst += bytes;
        if burst > BULK {
            behind = 0;
        }
    }
    (bulk, behind)
}

/// A server that does what is asked of a file in order is asked behind the last WRITE how long it is, and to close
/// it; then it is renamed, and the client leaves. One that an interrupted copy may have left takes no round trip
/// more to be begun, and our own server opens the window as it is: of a file of 34 MiB the first 16 leave at
/// once, and then the rest.
#[test]
fn a_file_is_finished_with_in_the_round_trip_of_its_last_byte() {
    both(&[], |server| {
        let place = folder(server, "place");
        let from = server.path("from");
        let (small, large) = ((256 << 10, 1, (1, 2)), (34 << 20, 2, (3, 2)));
        // Of a large file sshd gets the pieces by several sessions.
        let large = if matches!(server, Server::Ours(_)) { large } else { (34 << 20, 2, (99, 4)) };
        for (length, nearest, (bulk, behind)) in [small, large] {
            fs::write(&from, noise(length, 7)).expect("a file");
            let count = |delay| {
                let (port, heard) = long_way(server, delay);
                let key = format!("IdentityFile={}", server.path("user_ed25519").display());
                let mut command = server.client("cp", &[&format!("Port={port}"), &key]);
                let output = command.args(["-q", &here(&from), &there(&place)]).output();
                let output = output.expect("it runs");
                assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
                assert_eq!(fs::metadata(place.join("from")).expect("there").len(), length as u64);
                (waits(&heard, delay), waits_behind(&heard, delay))
            };
            let ways = WAYS.iter().filter(|n| **n >= nearest);
            let counts = ways.map(|n| count(*n * DELAY)).inspect(|c| println!("{length}: {c:?}"));
            let few = |counts: &(usize, (usize, usize))| {
                counts.0 <= 12 && counts.1.0 <= bulk && counts.1.1 <= behind
            };
            assert!({ counts }.any(|counts| few(&counts)), "{length} bytes: more round trips");
        }
    });
}

#[test]
fn the_first_byte_moves_after_few_round_trips() {
    both(&[], |server| {
        let place = folder(server, "place");
        let from = server.path("from");
        fs::write(&from, noise(256 << 10, 7)).expect("a file");
        for (source, target, most) in
            [(here(&from), there(&place), 12), (there(&from), here(&place), 13)]
        {
            let count = |delay| {
                let (port, heard) = long_way(server, delay);
                let key = format!("IdentityFile={}", server.path("user_ed25519").display());
                let mut command = server.client("cp", &[&format!("Port={port}"), &key]);
                let output = command.args(["-q", &source, &target]).output().expect("it runs");
                assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
                waits(&heard, delay)
            };
            let least = WAYS.iter().map(|n| count(*n * DELAY)).find(|count| *count <= most);
            let least = least.unwrap_or_else(|| panic!("{source}: more than {most} round trips"));
            println!("{source}: {least} round trips before the first byte");
        }
    });
}
