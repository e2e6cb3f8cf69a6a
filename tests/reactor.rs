//! The drivers against real sockets, pipes and files: io_uring in full and stepped down to what
//! Linux 5.11 offers, mio with and without reading files on the spot. Every test ends with the ledger: all operations completed, all leases back.

#[path = "support/bench.rs"]
mod bench;
#[path = "reactor/waits.rs"]
mod waits;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bench::*;
use tidegate::base::Span;
use tidegate::limits::{BULK_SLOT, FILE_READS_A_WAIT_BYTES, HEADROOM, SMALL_BYTES};
use tidegate::reactor::either::{EitherDriver, Way};
use tidegate::reactor::{
    Class, Completion, Driver, DriverStats, Errno, Fd, Gather, Op, PoolSizes, Spans, Target, Token,
    UringConfig, UringDriver,
};

#[test]
fn features_are_found_and_stepped_down() {
    let make = |plain| UringDriver::new(UringConfig { pool: POOL, plain, ..Default::default() });
    let (full, plain) = (make(false).unwrap(), make(true).unwrap());
    assert!(!plain.features().buffer_ring && !plain.features().deferred_task_work);
    println!("{}", full.features());
}

#[test]
fn receives_into_a_shared_buffer_with_headroom() {
    on_all(|mut bench| {
        let (near, mut far) = pair();
        bench.submit(1, Op::Recv { fd: raw(&near), into: Target::Shared });
        bench.quiet();
        assert_eq!(bench.driver.pool().stats().outstanding(), 0, "waiting owns no memory");
        far.write_all(b"one packet").unwrap();
        let done = bench.one();
        assert_eq!((done.result, done.more), (Ok(10), false));
        let Op::Recv { into: Target::Owned { spans, .. }, .. } = &done.op else { panic!() };
        assert_eq!(spans.iter().copied().collect::<Vec<_>>(), [Span::new(HEADROOM, 10)]);
        assert_eq!(bench.bytes(&done.op, 10), b"one packet");
        bench.give_all(done.op);

        far.write_all(&pattern(10_000, 3)).unwrap();
        let mut got = Vec::new();
        while got.len() < 10_000 {
            bench.submit(1, Op::Recv { fd: raw(&near), into: Target::Shared });
            let done = bench.one();
            let len = done.result.unwrap();
            assert!(len <= SMALL_BYTES);
            got.extend(bench.bytes(&done.op, len));
            bench.give_all(done.op);
        }
        assert_eq!(got, pattern(10_000, 3));

        drop(far);
        bench.submit(1, Op::Recv { fd: raw(&near), into: Target::Shared });
        let done = bench.one();
        assert_eq!(done.result, Ok(0));
        assert!(matches!(done.op, Op::Recv { into: Target::Shared, .. }));
        bench.finish();
    });
}

#[test]
fn reads_a_pipe_into_a_shared_buffer() {
    on_all(|mut bench| {
        let (reader, writer) = pipe();
        let mut writer = File::from(writer);
        bench.submit(1, Op::Read { fd: raw(&reader), into: Target::Shared });
        bench.quiet();
        writer.write_all(b"output").unwrap();
        let done = bench.one();
        assert_eq!(done.result, Ok(6));
        assert_eq!(bench.bytes(&done.op, 6), b"output");
        bench.give_all(done.op);
        bench.submit(1, Op::Read { fd: raw(&reader), into: Target::Shared });
        bench.quiet();
        drop(writer);
        let done = bench.one();
        assert_eq!(done.result, Ok(0));
        assert!(matches!(done.op, Op::Read { into: Target::Shared, .. }));
        bench.finish();
    });
}

/// Whoever brings memory of its own gets it back at once when there is nothing to read.
#[test]
fn a_read_into_own_memory_does_not_wait() {
    on_all(|mut bench| {
        let (reader, writer) = pipe();
        let mut writer = File::from(writer);
        for (text, result) in [
            (&b""[..], Err(Errno(libc::EAGAIN))),
            (b"output", Ok(6)),
            (b"", Err(Errno(libc::EAGAIN))),
        ] {
            writer.write_all(text).unwrap();
            let into = Target::Owned { lease: bench.bulk(), spans: spans(&[(64, 4096)]) };
            bench.submit(1, Op::Read { fd: raw(&reader), into });
            let done = bench.one();
            assert_eq!(done.result, result);
            if let Ok(len) = result {
                assert_eq!(bench.bytes(&done.op, len), text);
            }
            bench.give_all(done.op);
        }
        // The next wait hears of what comes.
        bench.submit(1, Op::Readable { fd: raw(&reader) });
        bench.quiet();
        writer.write_all(b"more").unwrap();
        assert!(bench.one().result.is_ok());
        drop(writer);
        for result in [Ok(4), Ok(0)] {
            let into = Target::Owned { lease: bench.bulk(), spans: spans(&[(64, 4096)]) };
            bench.submit(1, Op::Read { fd: raw(&reader), into });
            let done = bench.one();
            assert_eq!(done.result, result);
            bench.give_all(done.op);
        }
        bench.finish();
    });
}

#[test]
fn a_terminal_is_a_stream() {
    on_all(|mut bench| {
        let pty = nix::pty::openpty(None, None).unwrap();
        nix::fcntl::fcntl(
            &pty.master,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )
        .unwrap();
        let mut slave = File::from(pty.slave);
        bench.submit(1, Op::Read { fd: raw(&pty.master), into: Target::Shared });
        bench.quiet();
        slave.write_all(b"prompt").unwrap();
        let done = bench.one();
        assert_eq!(done.result, Ok(6));
        assert_eq!(bench.bytes(&done.op, 6), b"prompt");
        bench.give_all(done.op);
        let mut lease = bench.packet();
        bench.driver.pool().bytes(&mut lease)[..3].copy_from_slice(b"hi\n");
        bench.submit(
            2,
            Op::Write { fd: raw(&pty.master), from: gather([(lease, Span::new(0, 3))]) },
        );
        let done = bench.one();
        assert_eq!(done.result, Ok(3));
        bench.give_all(done.op);
        let mut line = [0; 3];
        slave.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hi\n");
        bench.submit(3, Op::Read { fd: raw(&pty.master), into: Target::Shared });
        let echo = bench.one();
        bench.give_all(echo.op);
        bench.submit(4, Op::Read { fd: raw(&pty.master), into: Target::Shared });
        drop(slave);
        let done = bench.one();
        assert!(matches!(done.result, Ok(0) | Err(Errno(libc::EIO))), "{done:?}");
        bench.finish();
    });
}

#[test]
fn receives_into_several_spans() {
    on_all(|mut bench| {
        let (near, mut far) = pair();
        let lease = bench.bulk();
        let into = Target::Owned { lease, spans: spans(&[(64, 100), (1000, 50), (5000, 4000)]) };
        bench.submit(1, Op::Recv { fd: raw(&near), into });
        bench.quiet();
        far.write_all(&pattern(3000, 9)).unwrap();
        let done = bench.one();
        assert_eq!(done.result, Ok(3000));
        assert_eq!(bench.bytes(&done.op, 3000), pattern(3000, 9));
        bench.give_all(done.op);

        let lease = bench.bulk();
        let into = Target::Owned { lease, spans: spans(&[(10, 5)]) };
        far.write_all(b"short").unwrap();
        bench.submit(1, Op::Recv { fd: raw(&near), into });
        let done = bench.one();
        assert_eq!(bench.bytes(&done.op, 5), b"short");
        bench.give_all(done.op);
        bench.finish();
    });
}

#[test]
fn a_receive_mark_keeps_quiet_until_enough_is_there() {
    /// What lets the receive complete.
    type Then<'a> = &'a dyn Fn(&mut Bench, &mut TcpStream, Fd);
    let more: Then<'_> = &|_, far, _| far.write_all(&pattern(1500, 0)[400..]).unwrap();
    let lower: Then<'_> = &|bench, _, fd| bench.driver.set_receive_mark(fd, 1);
    let end: Then<'_> = &|_, far, _| far.shutdown(std::net::Shutdown::Write).unwrap();
    on_all(|mut bench| {
        let (near, mut far) = loopback();
        let fd = raw(&near);
        for (then, len) in [(more, 1500), (lower, 400), (end, 400)] {
            let into = Target::Owned { lease: bench.packet(), spans: spans(&[(0, 4096)]) };
            bench.driver.set_receive_mark(fd, 1000);
            bench.submit(1, Op::Recv { fd, into });
            bench.quiet();
            far.write_all(&pattern(400, 0)).unwrap();
            bench.quiet();
            then(&mut bench, &mut far, fd);
            let done = bench.one();
            assert_eq!(done.result, Ok(len));
            assert_eq!(bench.bytes(&done.op, len), pattern(len as usize, 0));
            bench.give_all(done.op);
        }
        bench.finish();
    });
}

#[test]
fn sends_everything_however_slow_the_reader() {
    on_all(|mut bench| {
        let (near, mut far) = pair();
        let total = 8 * BULK_SLOT as usize;
        let reader = std::thread::Builder::new()
            .spawn(move || {
                let (mut got, mut buffer) = (Vec::new(), vec![0; 50_000]);
                while got.len() < total {
                    std::thread::sleep(Duration::from_millis(1));
                    let len = far.read(&mut buffer).unwrap();
                    assert_ne!(len, 0);
                    got.extend_from_slice(&buffer[..len]);
                }
                got
            })
            .unwrap();
        let chunks: Vec<_> =
            (0..8).map(|seed| (bench.filled(Class::Bulk, seed), Span::new(0, BULK_SLOT))).collect();
        bench.submit(1, Op::Send { fd: raw(&near), from: gather(chunks) });
        let done = bench.one();
        assert_eq!(done.result, Ok(8 * BULK_SLOT));
        bench.give_all(done.op);
        let got = reader.join().unwrap();
        for (seed, part) in got.chunks(BULK_SLOT as usize).enumerate() {
            assert!(part == pattern(BULK_SLOT as usize, seed as u8), "chunk {seed}");
        }
        bench.finish();
    });
}

#[test]
fn one_chunk_and_parts_of_chunks_are_sent_as_asked() {
    on_all(|mut bench| {
        let (near, mut far) = pair();
        let one = bench.filled(Class::Packet, 1);
        bench.submit(1, Op::Send { fd: raw(&near), from: gather([(one, Span::new(100, 50))]) });
        let done = bench.one();
        assert_eq!(done.result, Ok(50));
        bench.give_all(done.op);
        let mut front = bench.filled(Class::Packet, 2);
        let back = bench.driver.pool().split(&mut front, 1000);
        let from = gather([(front, Span::new(990, 10)), (back, Span::new(0, 10))]);
        bench.submit(2, Op::Send { fd: raw(&near), from });
        let done = bench.one();
        assert_eq!(done.result, Ok(20));
        bench.give_all(done.op);
        bench.submit(3, Op::Send { fd: raw(&near), from: Gather::new() });
        assert_eq!(bench.one().result, Ok(0));
        let mut got = [0; 70];
        far.read_exact(&mut got).unwrap();
        assert_eq!(got[..50], pattern(200, 1)[100..150]);
        assert_eq!(got[50..], pattern(2000, 2)[990..1010]);
        bench.finish();
    });
}

#[test]
fn files_at_offsets() {
    on_all(|mut bench| {
        let mut file = tempfile::tempfile().unwrap();
        let fd = raw(&file);
        let (first, second) = (bench.filled(Class::Bulk, 5), bench.filled(Class::Bulk, 6));
        let from = gather([(first, Span::new(0, 200_000)), (second, Span::new(7, 100_000))]);
        bench.submit(1, Op::WriteAt { fd, at: 1000, from });
        let done = bench.one();
        assert_eq!(done.result, Ok(300_000));
        bench.give_all(done.op);
        bench.submit(2, Op::Fsync { fd });
        assert_eq!(bench.one().result, Ok(0));
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut all).unwrap();
        let mut want = vec![0; 1000];
        want.extend(pattern(200_000, 5));
        want.extend(&pattern(100_007, 6)[7..]);
        assert!(all == want);

        let lease = bench.bulk();
        let list = [(64, 32_000), (33_000, 32_000), (70_000, 32_000)];
        bench.submit(3, Op::ReadAt { fd, at: 500, lease, spans: spans(&list) });
        let done = bench.one();
        assert_eq!(done.result, Ok(96_000));
        assert!(bench.bytes(&done.op, 96_000) == want[500..96_500]);
        bench.give_all(done.op);

        let lease = bench.bulk();
        bench.submit(4, Op::ReadAt { fd, at: 300_990, lease, spans: spans(&list) });
        let done = bench.one();
        assert_eq!(done.result, Ok(10), "short only at the end");
        bench.give_all(done.op);
        let lease = bench.bulk();
        bench.submit(5, Op::ReadAt { fd, at: 400_000, lease, spans: spans(&list) });
        let done = bench.one();
        assert_eq!(done.result, Ok(0));
        bench.give_all(done.op);
        bench.finish();
    });
}

/// What is read is sealed and sent while the CPU's cache has it: reads come behind sends, and no more
/// at a time than a lease takes, however many links have some under way.
#[test]
fn files_are_read_a_lease_at_a_time_and_behind_what_is_sent() {
    on_all(|mut bench| {
        let memory = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile());
        let (near, mut far) = pair();
        let mut file = memory.unwrap();
        file.write_all(&vec![7; 8 * FILE_READS_A_WAIT_BYTES as usize]).unwrap();
        let list = [(64, FILE_READS_A_WAIT_BYTES)];
        for n in 0..8 {
            let (fd, lease) = (raw(&file), bench.bulk());
            let at = u64::from(n) * u64::from(FILE_READS_A_WAIT_BYTES);
            bench.submit(n, Op::ReadAt { fd, at, lease, spans: spans(&list) });
        }
        let from = gather([(bench.packet(), Span::new(0, 1000))]);
        bench.submit(9, Op::Send { fd: raw(&near), from });
        let (mut left, mut turns, mut sent) = (8, 0, false);
        while left > 0 {
            let done = bench.turn(1000);
            turns += 1;
            for done in done {
                assert!(sent || done.token.tag == 9, "what is sent comes first");
                if done.token.tag == 9 {
                    sent = true;
                } else {
                    left -= 1;
                    assert_eq!(done.result, Ok(FILE_READS_A_WAIT_BYTES));
                }
                bench.give_all(done.op);
            }
            assert!(8 - left <= turns, "{turns} turns, {} reads", 8 - left);
        }
        far.read_exact(&mut [0; 1000]).unwrap();
        bench.finish();
    });
}

/// What has been opened or sealed leaves while the CPU's cache has it, and before more comes.
#[test]
fn what_leaves_goes_before_what_comes() {
    on_all(|mut bench| {
        let ((near, mut far), (out, mut heard)) = (pair(), pair());
        far.write_all(&[1; 100]).unwrap();
        let into = Target::Owned { lease: bench.bulk(), spans: spans(&[(64, 4096)]) };
        bench.submit(1, Op::Recv { fd: raw(&near), into });
        let from = gather([(bench.packet(), Span::new(0, 1000))]);
        bench.submit(2, Op::Send { fd: raw(&out), from });
        let done = bench.collect(2);
        let results: Vec<_> = done.iter().map(|done| (done.token.tag, done.result)).collect();
        assert_eq!(results, [(2, Ok(1000)), (1, Ok(100))]);
        done.into_iter().for_each(|done| bench.give_all(done.op));
        heard.read_exact(&mut [0; 1000]).unwrap();
        bench.finish();
    });
}

#[test]
fn errors_are_the_kernels() {
    on_all(|mut bench| {
        let (near, far) = pair();
        drop(far);
        let lease = bench.filled(Class::Packet, 0);
        bench.submit(1, Op::Send { fd: raw(&near), from: gather([(lease, Span::new(0, 100))]) });
        let done = bench.one();
        assert_eq!(done.result, Err(Errno(libc::EPIPE)));
        bench.give_all(done.op);

        let (near, far) = loopback();
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&far, nix::sys::socket::sockopt::Linger, &linger).unwrap();
        bench.submit(2, Op::Recv { fd: raw(&near), into: Target::Shared });
        bench.quiet();
        drop(far);
        let done = bench.one();
        assert_eq!(done.result, Err(Errno(libc::ECONNRESET)));
        assert!(matches!(done.op, Op::Recv { into: Target::Shared, .. }));

        let full = File::options().write(true).open("/dev/full").unwrap();
        let lease = bench.filled(Class::Packet, 0);
        let from = gather([(lease, Span::new(0, 100))]);
        bench.submit(3, Op::Write { fd: raw(&full), from });
        let done = bench.one();
        assert_eq!(done.result, Err(Errno(libc::ENOSPC)));
        bench.give_all(done.op);
        let lease = bench.filled(Class::Packet, 0);
        let from = gather([(lease, Span::new(0, 100))]);
        bench.submit(4, Op::WriteAt { fd: raw(&full), at: 5, from });
        let done = bench.one();
        assert_eq!(done.result, Err(Errno(libc::ENOSPC)));
        bench.give_all(done.op);

        for into_shared in [true, false] {
            let into = if into_shared {
                Target::Shared
            } else {
                Target::Owned { lease: bench.packet(), spans: spans(&[(0, 10)]) }
            };
            bench.submit(5, Op::Recv { fd: Fd(900_000), into });
            let done = bench.one();
            assert_eq!(done.result, Err(Errno(libc::EBADF)));
            bench.give_all(done.op);
        }
        let lease = bench.packet();
        bench.submit(6, Op::ReadAt { fd: Fd(900_000), at: 0, lease, spans: spans(&[(0, 10)]) });
        let done = bench.one();
        assert_eq!(done.result, Err(Errno(libc::EBADF)));
        bench.give_all(done.op);
        let lease = bench.packet();
        let into = Target::Owned { lease, spans: Spans::new() };
        bench.submit(7, Op::Recv { fd: raw(&near), into });
        let done = bench.one();
        assert_eq!(done.result, Err(Errno(libc::EINVAL)), "room for nothing is not an end of file");
        bench.give_all(done.op);
        bench.finish();
    });
}

#[test]
fn writes_to_a_full_pipe_wait_and_may_be_short() {
    on_all(|mut bench| {
        let (reader, writer) = pipe();
        let mut reader = File::from(reader);
        let lease = bench.filled(Class::Bulk, 4);
        let from = gather([(lease, Span::new(0, 200_000))]);
        bench.submit(1, Op::Write { fd: raw(&writer), from });
        let done = bench.one();
        let written = done.result.unwrap();
        assert!(written > 0 && written < 200_000, "{written}");
        bench.give_all(done.op);
        let lease = bench.filled(Class::Packet, 4);
        let from = gather([(lease, Span::new(0, 3000))]);
        bench.submit(2, Op::Write { fd: raw(&writer), from });
        bench.quiet();
        let mut got = vec![0; written as usize];
        reader.read_exact(&mut got).unwrap();
        assert!(got == pattern(written as usize, 4));
        let done = bench.one();
        assert_eq!(done.result, Ok(3000));
        bench.give_all(done.op);
        bench.finish();
    });
}

#[test]
fn accepts_until_cancelled() {
    on_all(|mut bench| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let token = bench.submit(1, Op::Accept { listener: raw(&listener) });
        bench.quiet();
        let clients: Vec<TcpStream> =
            (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        for done in bench.collect(5) {
            assert!(done.more && done.token == token);
            let fd = Fd(done.result.unwrap() as i32);
            // SAFETY: just accepted, and closed below.
            let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd.0) };
            let flags = nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_GETFL);
            assert!(flags.unwrap() & libc::O_NONBLOCK != 0);
            bench.driver.close(fd);
        }
        drop(clients);
        bench.driver.cancel(token);
        let done = bench.one();
        assert_eq!((done.result, done.more), (Err(Errno(libc::ECANCELED)), false));
        bench.finish();
    });
}

#[test]
fn accepting_on_no_listener_fails() {
    on_all(|mut bench| {
        let (near, _far) = pair();
        bench.submit(1, Op::Accept { listener: raw(&near) });
        let done = bench.one();
        assert!(done.result.is_err() && !done.more);
        bench.finish();
    });
}

#[test]
fn connects_are_made_refused_and_taken_back() {
    on_all(|mut bench| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let to = listener.local_addr().expect("an address");
        let fd = bench.driver.socket(&to).expect("a socket");
        bench.submit(1, Op::Connect { fd, to });
        assert_eq!(bench.one().result, Ok(0));
        let (mut peer, _) = listener.accept().expect("a connection");
        peer.write_all(b"hello").expect("a write");
        bench.submit(1, Op::Recv { fd, into: Target::Shared });
        let done = bench.one();
        assert_eq!(bench.bytes(&done.op, 5), b"hello");
        bench.give_all(done.op);
        bench.driver.close(fd);

        drop(listener);
        let fd = bench.driver.socket(&to).expect("a socket");
        bench.submit(2, Op::Connect { fd, to });
        assert_eq!(bench.one().result, Err(Errno(libc::ECONNREFUSED)));
        bench.driver.close(fd);

        // Nobody answers where the line of those who wait is full.
        let (_full, to) = full_listener();
        let fd = bench.driver.socket(&to).expect("a socket");
        let token = bench.submit(3, Op::Connect { fd, to });
        bench.quiet();
        bench.driver.cancel(token);
        assert_eq!(bench.one().result, Err(Errno(libc::ECANCELED)));
        bench.driver.close(fd);
        bench.finish();
    });
}

/// A listener whose queue is full, and what fills it.
fn full_listener() -> ((OwnedFd, Vec<OwnedFd>), SocketAddr) {
    use nix::sys::socket::*;
    let stream =
        |flags| socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    let listener = stream(SockFlag::empty());
    bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a port");
    listen(&listener, Backlog::new(0).expect("a backlog")).expect("a listener");
    let name: SockaddrIn = getsockname(listener.as_raw_fd()).expect("its address");
    let fill = (0..4).map(|_| {
        let socket = stream(SockFlag::SOCK_NONBLOCK);
        let _ = connect(socket.as_raw_fd(), &name);
        socket
    });
    let fill = fill.collect();
    ((listener, fill), SocketAddr::from((name.ip(), name.port())))
}

#[test]
fn readable_reports_a_childs_end() {
    on_all(|mut bench| {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        // SAFETY: a system call without pointers.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) } as i32;
        assert!(pidfd >= 0);
        bench.submit(1, Op::Readable { fd: Fd(pidfd) });
        bench.quiet();
        drop(child.stdin.take());
        let done = bench.one();
        assert_eq!(done.result.unwrap() & libc::POLLIN as u32, libc::POLLIN as u32);
        child.wait().unwrap();
        bench.driver.close(Fd(pidfd));
        bench.finish();
    });
}

#[test]
fn writable_waits_for_room_and_for_the_end() {
    on_all(|mut bench| {
        let (reader, writer) = pipe();
        let fd = raw(&writer);
        let (mut reader, mut writer) = (File::from(reader), File::from(writer));
        bench.submit(1, Op::Writable { fd });
        assert!(bench.one().result.is_ok());
        while writer.write(&[7; 4096]).is_ok() {}
        bench.submit(1, Op::Writable { fd });
        bench.quiet();
        reader.read_exact(&mut [0; 8192]).unwrap();
        let events = bench.one().result.unwrap();
        assert_eq!(events & libc::POLLOUT as u32, libc::POLLOUT as u32);
        while writer.write(&[7; 4096]).is_ok() {}
        let token = bench.submit(1, Op::Writable { fd });
        bench.quiet();
        bench.driver.cancel(token);
        assert_eq!(bench.one().result, Err(Errno(libc::ECANCELED)));
        bench.submit(1, Op::Writable { fd });
        bench.quiet();
        drop(reader);
        assert!(bench.one().result.is_ok());
        bench.finish();
    });
}

#[test]
fn cancelling_ends_what_waits_wherever_it_is() {
    on_all(|mut bench| {
        let (near, _far) = pair();
        let (reader, _writer) = pipe();
        let ops: [fn(Fd, Fd) -> Op; 3] = [
            |socket, _| Op::Recv { fd: socket, into: Target::Shared },
            |_, pipe| Op::Read { fd: pipe, into: Target::Shared },
            |_, pipe| Op::Readable { fd: pipe },
        ];
        for turns_before in 0..3 {
            for make in ops {
                let token = bench.submit(1, make(raw(&near), raw(&reader)));
                (0..turns_before).for_each(|_| assert!(bench.turn(1).is_empty()));
                bench.driver.cancel(token);
                bench.driver.cancel(token);
                let done = bench.one();
                assert_eq!(done.result, Err(Errno(libc::ECANCELED)));
                bench.driver.cancel(token);
            }
            let lease = bench.packet();
            let into = Target::Owned { lease, spans: spans(&[(0, 100)]) };
            let token = bench.submit(2, Op::Recv { fd: raw(&near), into });
            (0..turns_before).for_each(|_| assert!(bench.turn(1).is_empty()));
            bench.driver.cancel(token);
            let done = bench.one();
            assert_eq!(done.result, Err(Errno(libc::ECANCELED)));
            bench.give_all(done.op);
        }
        bench.finish();
    });
}

#[test]
fn cancelling_a_stuck_send_gives_its_leases_back() {
    on_all(|mut bench| {
        let (near, _far) = pair();
        let chunks: Vec<_> =
            (0..8).map(|seed| (bench.filled(Class::Bulk, seed), Span::new(0, BULK_SLOT))).collect();
        let token = bench.submit(1, Op::Send { fd: raw(&near), from: gather(chunks) });
        bench.quiet();
        bench.driver.cancel(token);
        let done = bench.one();
        assert_eq!(done.result, Err(Errno(libc::ECANCELED)));
        bench.give_all(done.op);
        bench.finish();
    });
}

#[test]
fn shutting_down_ends_a_receive() {
    on_all(|mut bench| {
        let (near, _far) = loopback();
        bench.submit(1, Op::Recv { fd: raw(&near), into: Target::Shared });
        bench.quiet();
        bench.driver.shutdown(raw(&near));
        assert_eq!(bench.one().result, Ok(0));
        bench.finish();
    });
}

/// Data and cancellation race; whichever wins, no byte is lost and each operation completes once.
#[test]
fn cancel_races_lose_no_bytes() {
    on_all(|mut bench| {
        let (near, mut far) = pair();
        let rounds = 2000u32;
        let writer = std::thread::Builder::new()
            .spawn(move || {
                for round in 0..rounds {
                    far.write_all(&round.to_be_bytes()).unwrap();
                    if round % 7 == 0 {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
            })
            .unwrap();
        let (mut got, mut cancelled, mut attempts) = (Vec::new(), 0, 0);
        while got.len() < rounds as usize * 4 {
            let token = bench.submit(1, Op::Recv { fd: raw(&near), into: Target::Shared });
            let mut done = bench.turn(0);
            // Stepped down, a receive takes two turns: one to poll and one to read.
            for _ in 0..attempts % 4 {
                done.extend(bench.turn(0));
            }
            attempts += 1;
            bench.driver.cancel(token);
            while done.is_empty() {
                done = bench.turn(1000);
            }
            let done = done.pop().unwrap();
            match done.result {
                Ok(len) => got.extend(bench.bytes(&done.op, len)),
                Err(errno) => {
                    assert_eq!(errno, Errno(libc::ECANCELED));
                    cancelled += 1;
                }
            }
            bench.give_all(done.op);
        }
        writer.join().unwrap();
        let want: Vec<u8> = (0..rounds).flat_map(u32::to_be_bytes).collect();
        assert!(got == want);
        println!("{cancelled} cancelled");
        bench.finish();
    });
}

/// R14: far more sockets with data than shared buffers, and owners that hold on to them.
#[test]
fn shared_buffers_run_out_and_nothing_is_lost() {
    on_all(|mut bench| {
        let count = 300usize;
        let mut pairs: Vec<(UnixStream, UnixStream)> = (0..count).map(|_| pair()).collect();
        for (tag, (near, _)) in pairs.iter().enumerate() {
            bench.submit(tag as u16, Op::Recv { fd: raw(near), into: Target::Shared });
        }
        bench.quiet();
        for (tag, (_, far)) in pairs.iter_mut().enumerate() {
            far.write_all(&pattern(5000, tag as u8)).unwrap();
        }
        let mut got: Vec<Vec<u8>> = vec![Vec::new(); count];
        let mut held: Vec<Completion> = Vec::new();
        let mut idle_turns = 0;
        while got.iter().any(|bytes| bytes.len() < 5000) {
            let done = bench.turn(0);
            idle_turns = if done.is_empty() { idle_turns + 1 } else { 0 };
            assert!(idle_turns < 1000);
            held.extend(done);
            // Nothing new comes, or all of it is held: only then give back.
            if held.len() < 20 && idle_turns < 5 {
                continue;
            }
            for done in std::mem::take(&mut held) {
                let (tag, len) = (done.token.tag, done.result.unwrap());
                let bytes = &mut got[tag as usize];
                bytes.extend(bench.bytes(&done.op, len));
                bench.give_all(done.op);
                if bytes.len() < 5000 {
                    let fd = raw(&pairs[tag as usize].0);
                    bench.submit(tag, Op::Recv { fd, into: Target::Shared });
                }
            }
        }
        for (tag, bytes) in got.iter().enumerate() {
            assert!(*bytes == pattern(5000, tag as u8), "socket {tag}");
        }
        assert!(bench.driver.stats().enobufs > 0);
        bench.finish();
    });
}

/// Receives armed while every buffer is out must still be served once buffers return.
#[test]
fn receives_armed_without_buffers_are_served_later() {
    on_all(|mut bench| {
        let mut holders: Vec<_> =
            (0..32).filter_map(|_| bench.driver.pool().take(Class::Small)).collect();
        let mut pairs: Vec<(UnixStream, UnixStream)> = (0..64).map(|_| pair()).collect();
        for (tag, (near, _)) in pairs.iter().enumerate() {
            bench.submit(tag as u16, Op::Recv { fd: raw(near), into: Target::Shared });
        }
        bench.quiet();
        let cancelled = Token { key: 5, generation: 0, tag: 5 };
        bench.driver.cancel(cancelled);
        assert_eq!(bench.one().result, Err(Errno(libc::ECANCELED)));
        for lease in holders.drain(..2) {
            bench.give(lease);
        }
        pairs[63].1.write_all(b"last").unwrap();
        let done = bench.one();
        assert_eq!((done.token.tag, done.result), (63, Ok(4)));
        bench.give_all(done.op);
        pairs[0].1.write_all(b"first").unwrap();
        let done = bench.one();
        assert_eq!((done.token.tag, done.result), (0, Ok(5)));
        bench.give_all(done.op);
        for tag in (0..63).filter(|tag| *tag != 0 && *tag != 5) {
            bench.driver.cancel(Token { key: tag, generation: 0, tag: tag as u16 });
        }
        bench.collect(61);
        holders.into_iter().for_each(|lease| bench.give(lease));
        bench.finish();
    });
}

/// R15: a tiny completion queue under many more events than it holds.
#[test]
fn a_small_completion_queue_overflows_without_loss() {
    for way in Way::ALL {
        let pool = PoolSizes { small: 64, packet: 4, bulk: 4 };
        let mut bench = Bench::sized(way, 1500, pool);
        if let Way::Uring | Way::UringPlain = way {
            let plain = way == Way::UringPlain;
            let config = UringConfig {
                submissions: 16,
                completions: 32,
                in_flight_max: 1500,
                pool,
                plain,
                confined: false,
            };
            bench.driver = EitherDriver::Uring(Box::new(UringDriver::new(config).unwrap()));
        }
        let file = tempfile::tempfile().unwrap();
        let mut pipes = Vec::new();
        for tag in 0..1000u16 {
            let (reader, writer) = pipe();
            bench.submit(tag, Op::Readable { fd: raw(&reader) });
            pipes.push((reader, File::from(writer)));
        }
        for tag in 1000..1500u16 {
            bench.submit(tag, Op::Fsync { fd: raw(&file) });
        }
        let token = Token { key: 7777, generation: 0, tag: 0 };
        let refused = bench.driver.submit(token, Op::Fsync { fd: raw(&file) });
        assert!(refused.is_err(), "in-flight operations are bounded");
        bench.collect(500);
        for (_, writer) in &mut pipes {
            writer.write_all(b"x").unwrap();
        }
        let mut seen = vec![0; 1000];
        for done in bench.collect(1000) {
            seen[done.token.tag as usize] += 1;
            assert!(done.result.is_ok());
        }
        assert!(seen.iter().all(|count| *count == 1));
        let stats = bench.driver.stats();
        println!("{stats:?}");
        bench.finish();
    }
}

#[test]
fn dropping_a_driver_takes_everything_back() {
    on_all(|mut bench| {
        let (near, _far) = pair();
        let (reader, _writer) = pipe();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let lease = bench.packet();
        let into = Target::Owned { lease, spans: spans(&[(0, 100)]) };
        bench.submit(1, Op::Recv { fd: raw(&near), into });
        bench.submit(2, Op::Read { fd: raw(&reader), into: Target::Shared });
        bench.submit(3, Op::Accept { listener: raw(&listener) });
        let chunks: Vec<_> =
            (0..8).map(|seed| (bench.filled(Class::Bulk, seed), Span::new(0, BULK_SLOT))).collect();
        bench.submit(4, Op::Send { fd: raw(&near), from: gather(chunks) });
        bench.turn(5);
        let lease = bench.packet();
        bench.submit(5, Op::ReadAt { fd: raw(&near), at: 0, lease, spans: spans(&[(0, 10)]) });
        let waker = bench.driver.waker();
        let lost = tidegate::reactor::leases_lost();
        let Bench { driver, .. } = bench;
        drop(driver);
        assert_eq!(tidegate::reactor::leases_lost(), lost);
        waker.wake();
    });
}

/// 64 MiB over loopback with the shapes the shard uses; prints what it cost.
#[test]
fn bulk_over_loopback_is_few_system_calls() {
    for way in [Way::Uring, Way::Mio] {
        let mut bench = Bench::new(way);
        let waits = move_bulk(&mut bench, 64 << 20);
        let stats: DriverStats = bench.driver.stats();
        println!("64 MiB over loopback, {way:?}: {waits} waits, {stats:?}");
        assert!(stats.enters <= waits + 8, "one system call a turn: {stats:?}");
        match way {
            Way::Uring => assert!(stats.submissions <= 64 * 16, "{stats:?}"),
            // A call for each attempt, and the vain ones.
            _ => assert!(stats.submissions + stats.enters <= 64 * 64, "{stats:?}"),
        }
        bench.finish();
    }
}

/// Sends `total` bytes to itself; answers how often it waited.
fn move_bulk(bench: &mut Bench, total: usize) -> u64 {
    let (near, far) = loopback();
    far.set_nonblocking(true).unwrap();
    let packet = 256 * 1024;
    let (mut sent, mut received, mut in_flight) = (0usize, 0usize, 0);
    let lease = bench.bulk();
    let into = Target::Owned { lease, spans: spans(&[(0, BULK_SLOT)]) };
    bench.submit(0, Op::Recv { fd: raw(&far), into });
    let mut waits = 0u64;
    while received < total {
        if in_flight == 0 && sent < total {
            let lease = bench.bulk();
            let from = gather([(lease, Span::new(0, packet as u32))]);
            bench.submit(1, Op::Send { fd: raw(&near), from });
            in_flight += 1;
        }
        waits += 1;
        for done in bench.turn(5000) {
            let moved = done.result.unwrap() as usize;
            if done.token.tag == 1 {
                sent += moved;
                in_flight -= 1;
                bench.give_all(done.op);
                continue;
            }
            received += moved;
            let Op::Recv { into: Target::Owned { lease, .. }, .. } = done.op else { panic!() };
            if received < total {
                let into = Target::Owned { lease, spans: spans(&[(0, BULK_SLOT)]) };
                bench.submit(0, Op::Recv { fd: raw(&far), into });
            } else {
                bench.give(lease);
            }
        }
    }
    while in_flight > 0 {
        for done in bench.turn(1000) {
            in_flight -= 1;
            bench.give_all(done.op);
        }
    }
    waits
}

#[test]
fn the_driver_closes_what_it_is_told_to() {
    on_all(|mut bench| {
        let (near, mut far) = pair();
        let fd = Fd(near.into_raw_fd());
        bench.driver.close(fd);
        assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
        bench.finish();
    });
}
