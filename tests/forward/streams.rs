//! Very many forwarded connections, many of them at once. `TIDEGATE_STREAMS=100000` has as many, and
//! says what they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Without that.
const STREAMS: u64 = 240;
/// Under way at once.
const WORKERS: usize = 16;
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The same numbers for the same connection.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % end
    }
}

/// Gives back what comes, up to as many bytes as the first eight say; then it leaves.
fn echo_so_many(mut stream: TcpStream) {
    let mut head = [0; 8];
    if stream.read_exact(&mut head).is_err() {
        return;
    }
    let mut left = u64::from_be_bytes(head);
    let mut room = vec![0; MESSAGE_BYTES_MAX];
    while left > 0 {
        let got = match stream.read(&mut room) {
            Ok(0) | Err(_) => return,
            Ok(got) => got.min(usize::try_from(left).unwrap_or(got)),
        };
        if stream.write_all(&room[..got]).is_err() {
            return;
        }
        left -= got as u64;
    }
}

/// One connection: messages of random lengths, each of which comes back before the next goes, and one of
/// four ends. Answers the bytes that came back, each of which is what was sent.
fn converse(port: u16, n: u64, noise: &[u8]) -> u64 {
    let mut chance = Chance(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    let messages: Vec<&[u8]> = (0..1 + chance.below(4))
        .map(|_| {
            let len = 1024 + chance.below(MESSAGE_BYTES_MAX - 1024);
            let at = chance.below(noise.len() - len);
            &noise[at..at + len]
        })
        .collect();
    let all: usize = messages.iter().map(|message| message.len()).sum();
    // One of four targets leaves in the middle.
    let echoed = if n % 4 == 3 { chance.below(all) } else { usize::MAX };
    stream.write_all(&(echoed as u64).to_be_bytes()).expect("room");
    let mut back = vec![0; MESSAGE_BYTES_MAX];
    let mut came = 0;
    for message in &messages {
        let sent = stream.write_all(message);
        // One of four clients leaves in the middle.
        let wanted = if n % 4 == 2 { chance.below(message.len()) } else { message.len() };
        let mut got = 0;
        while sent.is_ok() && got < wanted {
            match stream.read(&mut back[got..wanted]) {
                Ok(0) | Err(_) => break,
                Ok(more) => got += more,
            }
        }
        assert!(back[..got] == message[..got], "connection {n} differs in {got} bytes");
        came += got as u64;
        if got < message.len() {
            assert!(n % 4 >= 2, "connection {n} ended after {got} of {} bytes", message.len());
            return came;
        }
    }
    if n % 4 == 1 {
        stream.shutdown(Shutdown::Write).expect("an end");
        assert_eq!(stream.read(&mut back).expect("the other end"), 0, "connection {n}");
    }
    came
}

/// A field of /proc/PID/status in KiB.
fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// SECURITY R18: messages of 1 to 64 KiB over very many forwarded connections of both directions, which
/// end in every way: not a byte is another's, and nothing is left of them.
#[test]
fn r18_many_streams_of_all_sizes_and_ends() {
    let streams = std::env::var("TIDEGATE_STREAMS").ok().and_then(|text| text.parse().ok());
    let streams = streams.unwrap_or(STREAMS);
    let gateway = Gateway::start(&[]);
    let target = serve(echo_so_many);
    let [to, back] = [free_port(), free_port()];
    let [to_words, back_words] = [to, back].map(|port| format!("{port}:127.0.0.1:{target}"));
    let clients = [["-L", &*to_words], ["-R", &*back_words]];
    let _clients = clients.map(|words| forwarding(&gateway, gateway.port, &words));
    wait_for("the port", || TcpStream::connect((Ipv4Addr::LOCALHOST, back)).is_ok());
    let quiet = || gateway.log().matches(" Forwarded ").count();
    wait_for("the first try to end", || quiet() == 1);
    let before = gateway.descriptors();
    let begun = Instant::now();
    let (next, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let noise: Arc<[u8]> = noise(1 << 20, 18).into();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= streams {
                        return;
                    }
                    let port = if n.is_multiple_of(8) { back } else { to };
                    bytes.fetch_add(converse(port, n, &noise), Ordering::Relaxed);
                }
            });
        }
    });
    let all = streams as usize + 1;
    wait_for("the last to end", || quiet() == all);
    wait_for("their descriptors to be closed", || gateway.descriptors() <= before);
    let (most, now) = (memory(gateway.serving(), "VmHWM"), memory(gateway.serving(), "VmRSS"));
    println!(
        "{streams} connections, {} MiB back, {:.0} s; the process that serves them has {now} KiB, {most} at most",
        bytes.load(Ordering::Relaxed) >> 20,
        begun.elapsed().as_secs_f64(),
    );
    gateway.assert_alive();
}
