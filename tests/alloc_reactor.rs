//! Moving bytes allocates nothing once a driver is warm, and costs few system calls: sockets, pipes
//! and files, on each driver.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use tidegate::base::Span;
use tidegate::reactor::either::{EitherDriver, Way};
use tidegate::reactor::{
    Chunk, Class, Completion, Driver, Errno, Fd, Gather, Op, PoolSizes, Spans, Target, Token,
};

/// What one operation moves at most.
const PIECE: u32 = 256 * 1024;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread.
struct Counting;

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes go round: out of the file, over the socket, through the pipe, and into another file.
struct Circle {
    driver: EitherDriver,
    out: Vec<Completion>,
    near: TcpStream,
    far: TcpStream,
    reader: File,
    writer: File,
    from: File,
    to: File,
    moved: u64,
    /// Reads and writes of files take turns, so that one helper is all that is ever started.
    in_turn: bool,
    /// Completions by tag.
    seen: [u32; 7],
}

impl Circle {
    fn new(way: Way) -> Circle {
        let pool = PoolSizes { small: 8, packet: 8, bulk: 16 };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("its address"));
        let (far, _) = listener.accept().expect("a connection");
        let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC;
        let (reader, writer) = nix::unistd::pipe2(flags).expect("a pipe");
        let file = || tempfile::tempfile().expect("a file");
        let circle = Circle {
            driver: EitherDriver::new(way, 64, pool).expect("the driver is available"),
            out: Vec::with_capacity(64),
            near: near.expect("a connection"),
            far,
            reader: reader.into(),
            writer: writer.into(),
            from: file(),
            to: file(),
            moved: 0,
            in_turn: way == Way::MioPlain,
            seen: [0; 7],
        };
        circle.from.set_len(u64::from(PIECE)).expect("a size");
        circle
    }

    fn gather(&mut self) -> Gather {
        let lease = self.driver.pool().take(Class::Bulk).expect("a lease");
        let mut gather = Gather::new();
        gather.push(Chunk { lease, span: Span::new(0, PIECE) }).expect("room");
        gather
    }

    fn owned(&mut self) -> Target {
        let lease = self.driver.pool().take(Class::Bulk).expect("a lease");
        let mut spans = Spans::new();
        spans.push(Span::new(0, PIECE)).expect("room");
        Target::Owned { lease, spans }
    }

    /// Starts the operation with this number.
    fn start(&mut self, tag: u16) {
        let raw = |of: &dyn AsRawFd| Fd(of.as_raw_fd());
        let op = match tag {
            0 => Op::Recv { into: self.owned(), fd: raw(&self.far) },
            1 => Op::Send { from: self.gather(), fd: raw(&self.near) },
            2 => Op::Recv { into: Target::Shared, fd: raw(&self.near) },
            3 => Op::Read { into: self.owned(), fd: raw(&self.reader) },
            4 => Op::Write { from: self.gather(), fd: raw(&self.writer) },
            5 => {
                let Target::Owned { lease, spans } = self.owned() else { unreachable!() };
                Op::ReadAt { fd: raw(&self.from), at: 0, lease, spans }
            }
            _ => Op::WriteAt { from: self.gather(), fd: raw(&self.to), at: 0 },
        };
        let token = Token { key: 0, generation: 0, tag };
        self.driver.submit(token, op).expect("room for one more");
    }

    /// Goes on until `bytes` have arrived over the socket.
    fn turn_until(&mut self, bytes: u64) {
        while self.moved < bytes {
            let until = self.driver.now().after(Duration::from_secs(5));
            let mut out = std::mem::take(&mut self.out);
            self.driver.wait(Some(until), &mut out).expect("a wait");
            assert!(!out.is_empty() || self.driver.now() < until, "nothing moves");
            for done in out.drain(..) {
                let tag = done.token.tag;
                if tag == 3 && done.result == Err(Errno(libc::EAGAIN)) {
                    done.op.dissolve(self.driver.pool());
                    let fd = Fd(self.reader.as_raw_fd());
                    self.driver.submit(done.token, Op::Readable { fd }).expect("room for one more");
                    continue;
                }
                let moved = done.result.unwrap_or_else(|why| panic!("{tag}: {why}"));
                self.seen[tag as usize] += 1;
                if tag == 0 {
                    self.moved += u64::from(moved);
                }
                done.op.dissolve(self.driver.pool());
                self.start(match tag {
                    5 if self.in_turn => 6,
                    6 if self.in_turn => 5,
                    tag => tag,
                });
            }
            self.out = out;
        }
    }
}

#[test]
fn steady_state_allocates_nothing() {
    for way in [Way::Uring, Way::Mio, Way::MioPlain] {
        let mut circle = Circle::new(way);
        (0..if circle.in_turn { 6 } else { 7 }).for_each(|tag| circle.start(tag));
        // Until everything but the receive of nothing has been done a few times, by helpers too.
        let is_cold = |circle: &Circle| (0..7).any(|tag| tag != 2 && circle.seen[tag] < 16);
        while is_cold(&circle) {
            circle.turn_until(circle.moved + 1);
        }
        let (before, allocated) = (circle.driver.stats(), ALLOCATIONS.get());
        let start = circle.moved;
        circle.turn_until(start + (64 << 20));
        let allocated = ALLOCATIONS.get() - allocated;
        let after = circle.driver.stats();
        println!("{way:?}, 64 MiB: {:?} to {:?}", before, after);
        assert_eq!(allocated, 0, "{way:?}");
    }
}

/// The shapes of a download: what was read is sent, and the other side takes it in large pieces.
#[test]
fn a_mebibyte_is_few_system_calls() {
    for way in [Way::Uring, Way::Mio] {
        let mut circle = Circle::new(way);
        for tag in [0, 1, 5] {
            circle.start(tag);
        }
        circle.turn_until(16 << 20);
        let before = circle.driver.stats();
        let start = circle.moved;
        circle.turn_until(start + (64 << 20));
        let after = circle.driver.stats();
        let (enters, submissions) =
            (after.enters - before.enters, after.submissions - before.submissions);
        let calls = if way == Way::Uring { enters } else { enters + submissions };
        println!(
            "{way:?}: {calls} system calls for 64 MiB ({enters} waits, {submissions} requests)"
        );
        let a_mebibyte = if way == Way::Uring { 8 } else { 24 };
        assert!(calls <= 64 * a_mebibyte, "{way:?}: {calls} for 64 MiB");
    }
}
