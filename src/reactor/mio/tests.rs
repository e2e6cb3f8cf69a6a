use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use super::*;
use crate::base::{Few, Span};
use crate::limits::BULK_SLOT;
use crate::reactor::{Chunk, Lease, Spans, Target};

struct Bench {
    driver: MioDriver,
    out: Vec<Completion>,
}

impl Bench {
    fn new() -> Bench {
        let pool = PoolSizes { small: 8, packet: 8, bulk: 8 };
        let driver = MioDriver::new(MioConfig { pool, ..MioConfig::default() }).unwrap();
        Bench { driver, out: Vec::new() }
    }

    fn submit(&mut self, tag: u16, op: Op) -> Token {
        let token = Token { key: 0, generation: 0, tag };
        self.driver.submit(token, op).unwrap();
        token
    }

    fn receive(&mut self, tag: u16, fd: &impl AsRawFd) -> Token {
        self.submit(tag, Op::Recv { fd: raw(fd), into: Target::Shared })
    }

    fn turn(&mut self, millis: u64) -> Vec<Completion> {
        let until = self.driver.now().after(Duration::from_millis(millis));
        self.driver.wait(Some(until), &mut self.out).unwrap();
        std::mem::take(&mut self.out)
    }

    fn one(&mut self) -> Completion {
        let end = self.driver.now().after(Duration::from_secs(10));
        loop {
            assert!(self.driver.now() < end, "nothing completed");
            let mut done = self.turn(500);
            assert!(done.len() <= 1, "{done:?}");
            if let Some(done) = done.pop() {
                return done;
            }
        }
    }

    /// The bytes of a shared receive; its lease goes back.
    fn bytes(&mut self, done: Completion) -> Vec<u8> {
        let len = done.result.unwrap() as usize;
        let Op::Recv { into, .. } = done.op else { panic!() };
        let Target::Owned { lease, spans } = into else { return Vec::new() };
        let bytes = spans.front().unwrap().of(self.driver.pool().view(&lease)).unwrap().to_vec();
        self.driver.pool().give_back(lease);
        assert_eq!(bytes.len(), len);
        bytes
    }

    fn bulk(&mut self) -> Lease {
        self.driver.pool().take(Class::Bulk).unwrap()
    }

    fn read_at(&mut self, file: &File, len: u32) -> Op {
        let mut spans = Spans::new();
        spans.push(Span::new(0, len)).unwrap();
        Op::ReadAt { fd: raw(file), at: 0, lease: self.bulk(), spans }
    }

    fn write_at(&mut self, file: &File, len: u32) -> Op {
        let mut from = Few::new();
        from.push(Chunk { lease: self.bulk(), span: Span::new(0, len) }).unwrap();
        Op::WriteAt { fd: raw(file), at: 0, from }
    }

    fn calls(&self) -> u64 {
        self.driver.stats().submissions
    }

    fn finish(mut self) {
        assert_eq!(self.driver.stats().in_flight, 0);
        assert_eq!(self.driver.pool().stats().outstanding(), 0);
    }
}

fn raw(fd: &impl AsRawFd) -> Fd {
    Fd(fd.as_raw_fd())
}

fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

#[test]
fn a_message_costs_one_wait_and_one_receive() {
    let mut bench = Bench::new();
    let (near, mut far) = loopback();
    bench.receive(1, &near);
    assert!(bench.turn(0).is_empty());
    let before = bench.calls();
    for _ in 0..100 {
        far.write_all(b"ping").unwrap();
        let done = bench.one();
        assert_eq!(bench.bytes(done), b"ping");
        bench.receive(1, &near);
    }
    let calls = bench.calls() - before;
    assert!(calls <= 105, "{calls} calls for 100 messages");
    drop(far);
    let done = bench.one();
    assert_eq!(done.result, Ok(0));
    bench.finish();
}

/// The end of the stream may come with the last bytes, and then no edge follows.
#[test]
fn an_end_that_comes_with_the_last_bytes_is_seen() {
    let mut bench = Bench::new();
    for round in 0..200 {
        let (near, mut far) = loopback();
        bench.receive(1, &near);
        if round % 2 == 0 {
            assert!(bench.turn(0).is_empty());
        }
        far.write_all(b"bye").unwrap();
        if round % 3 == 0 {
            drop(far);
        } else {
            let _ = far.shutdown(std::net::Shutdown::Write);
        }
        let done = bench.one();
        assert_eq!(bench.bytes(done), b"bye");
        bench.receive(1, &near);
        assert_eq!(bench.one().result, Ok(0));
        // And still is, for who asks again.
        bench.receive(1, &near);
        assert_eq!(bench.one().result, Ok(0));
        bench.driver.close(Fd(near.into_raw_fd()));
    }
    bench.finish();
}

/// A receive stops in front of urgent data; what is behind them must not be left there.
#[test]
fn bytes_behind_urgent_ones_are_not_forgotten() {
    let mut bench = Bench::new();
    let (near, mut far) = loopback();
    bench.receive(1, &near);
    assert!(bench.turn(0).is_empty());
    far.write_all(b"before").unwrap();
    // SAFETY: one byte of a constant.
    let sent = unsafe { libc::send(far.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
    far.write_all(b"behind").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let mut got = Vec::new();
    while got.len() < 12 {
        let done = bench.one();
        got.extend(bench.bytes(done));
        bench.receive(1, &near);
    }
    assert_eq!(got, b"beforebehind");
    far.write_all(b"x").unwrap();
    let done = bench.one();
    assert_eq!(bench.bytes(done), b"x");
    bench.finish();
}

/// Who asks for nothing is not woken, and is not watched either.
#[test]
fn a_stream_that_rests_wakes_nobody() {
    let mut bench = Bench::new();
    let (near, mut far) = loopback();
    let token = bench.receive(1, &near);
    assert!(bench.turn(0).is_empty());
    bench.driver.cancel(token);
    assert_eq!(bench.one().result, Err(Errno(libc::ECANCELED)));
    far.write_all(b"wait").unwrap();
    let start = bench.driver.now();
    assert!(bench.turn(30).is_empty());
    assert!(bench.driver.now().since(start) >= Duration::from_millis(25), "woken");
    bench.receive(1, &near);
    let done = bench.one();
    assert_eq!(bench.bytes(done), b"wait");
    // Nor after a completion that nothing followed.
    bench.turn(0);
    far.write_all(b"more").unwrap();
    let start = bench.driver.now();
    assert!(bench.turn(30).is_empty());
    assert!(bench.driver.now().since(start) >= Duration::from_millis(25), "woken");
    bench.finish();
}

/// A number that was given up is another descriptor when it comes back.
#[test]
fn numbers_come_back_as_others() {
    let mut bench = Bench::new();
    let (near, mut far) = loopback();
    bench.receive(1, &near);
    assert!(bench.turn(0).is_empty());
    far.write_all(b"one").unwrap();
    let done = bench.one();
    assert_eq!(bench.bytes(done), b"one");
    // The socket lives on elsewhere, as when another process has it.
    let elsewhere = near.try_clone().unwrap();
    bench.driver.release(raw(&near));
    let (other, mut other_far) = loopback();
    let number = near.into_raw_fd();
    // SAFETY: both are ours; the first is closed by this.
    assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
    // SAFETY: just made, and nobody else's.
    let other = unsafe { OwnedFd::from_raw_fd(number) };
    bench.receive(2, &other);
    assert!(bench.turn(0).is_empty());
    far.write_all(b"not for us").unwrap();
    let start = bench.driver.now();
    assert!(bench.turn(30).is_empty());
    assert!(bench.driver.now().since(start) >= Duration::from_millis(25), "woken");
    other_far.write_all(b"two").unwrap();
    let done = bench.one();
    assert_eq!(bench.bytes(done), b"two");
    drop(elsewhere);
    bench.finish();
}

#[test]
fn both_directions_of_one_socket_wait_apart() {
    let mut bench = Bench::new();
    let (near, mut far) = loopback();
    bench.receive(1, &near);
    let mut from = Few::new();
    for _ in 0..8 {
        let lease = bench.bulk();
        from.push(Chunk { lease, span: Span::new(0, BULK_SLOT) }).unwrap();
    }
    let total = 8 * BULK_SLOT as usize;
    // More than the buffers of both sides hold.
    nix::sys::socket::setsockopt(&near, nix::sys::socket::sockopt::SndBuf, &65536).unwrap();
    bench.submit(2, Op::Send { fd: raw(&near), from });
    assert!(bench.turn(1).is_empty());
    far.write_all(b"meanwhile").unwrap();
    let done = bench.one();
    assert_eq!(done.token.tag, 1);
    assert_eq!(bench.bytes(done), b"meanwhile");
    let reader = std::thread::Builder::new()
        .spawn(move || {
            let mut got = vec![0; total];
            far.read_exact(&mut got).unwrap();
            far
        })
        .unwrap();
    let done = bench.one();
    assert_eq!((done.token.tag, done.result), (2, Ok(total as u32)));
    done.op.dissolve(bench.driver.pool());
    drop(reader.join().unwrap());
    bench.finish();
}

#[test]
fn a_blocking_listener_does_not_block() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let token = bench.submit(1, Op::Accept { listener: raw(&listener) });
    let address = listener.local_addr().unwrap();
    let clients: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut accepted = 0;
    while accepted < clients.len() {
        let done = bench.turn(1000);
        assert!(done.len() <= ACCEPTS_A_TURN as usize + 1);
        for done in done {
            assert!(done.more);
            bench.driver.close(Fd(done.result.unwrap() as i32));
            accepted += 1;
        }
    }
    bench.driver.cancel(token);
    assert_eq!(bench.one().result, Err(Errno(libc::ECANCELED)));
    bench.finish();
}

#[test]
fn what_the_page_cache_has_is_read_on_the_spot() {
    let mut bench = Bench::new();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![7; 256 * 1024]).unwrap();
    let op = bench.read_at(&file, 256 * 1024);
    bench.submit(1, op);
    let before = bench.calls();
    let mut done = bench.turn(0);
    let done = done.pop().expect("at the first wait");
    assert_eq!(done.result, Ok(256 * 1024));
    assert_eq!(bench.calls() - before, 1);
    done.op.dissolve(bench.driver.pool());
    // And what has to come from the disk arrives too, wherever that is.
    file.sync_all().unwrap();
    // SAFETY: takes numbers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let op = bench.read_at(&file, 256 * 1024);
    bench.submit(2, op);
    let done = bench.one();
    assert_eq!(done.result, Ok(256 * 1024));
    done.op.dissolve(bench.driver.pool());
    bench.finish();
}

#[test]
fn files_in_memory_need_no_helper() {
    let mut bench = Bench::new();
    let memory = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let file = File::from(memory.unwrap());
    let op = bench.write_at(&file, 100_000);
    bench.submit(1, op);
    let done = bench.turn(0).pop().expect("at the first wait");
    assert_eq!(done.result, Ok(100_000));
    done.op.dissolve(bench.driver.pool());
    let op = bench.read_at(&file, 200_000);
    bench.submit(2, op);
    let done = bench.turn(0).pop().expect("at the first wait");
    assert_eq!(done.result, Ok(100_000), "short only at the end");
    done.op.dissolve(bench.driver.pool());
    bench.finish();
}

/// Whatever a helper has begun is finished; the rest is taken back. Each completes once.
#[test]
fn cancelling_what_helpers_have() {
    let mut bench = Bench::new();
    let file = tempfile::tempfile().unwrap();
    let count = 64;
    let tokens: Vec<Token> =
        (0..count).map(|tag| bench.submit(tag, Op::Fsync { fd: raw(&file) })).collect();
    let mut done = bench.turn(0);
    for token in tokens {
        bench.driver.cancel(token);
    }
    while done.len() < count as usize {
        done.extend(bench.turn(1000));
    }
    done.sort_by_key(|done| done.token.tag);
    for (tag, done) in done.iter().enumerate() {
        assert_eq!(done.token.tag as usize, tag);
        assert!(matches!(done.result, Ok(0) | Err(Errno(libc::ECANCELED))), "{done:?}");
    }
    bench.finish();
}

#[test]
fn an_offset_past_the_largest_file_is_an_error() {
    let mut bench = Bench::new();
    let file = tempfile::tempfile().unwrap();
    for at in [u64::MAX, i64::MAX as u64 + 1] {
        let Op::ReadAt { fd, lease, spans, .. } = bench.read_at(&file, 10) else { panic!() };
        bench.submit(1, Op::ReadAt { fd, at, lease, spans });
        let done = bench.one();
        assert_eq!(done.result, Err(Errno(libc::EINVAL)), "{at}");
        done.op.dissolve(bench.driver.pool());
    }
    bench.finish();
}
