//! Channel data costs no allocation, in either direction, once a connection is warm.
//!
//! The C library's allocation functions are replaced for this test program, so that allocations
//! made by C code count as well. Rust's own allocator ends in the same functions.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "support/pair.rs"]
mod support;

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use support::{Flavour, Pair, Setup};

use tidegate::connection::{ChannelId, Conn, Event, Input};
use tidegate::transport::{Env, Outbox};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

/// Allocations this thread makes during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own allocator under its other name; same contract.
    unsafe { __libc_malloc(size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(items: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above.
    unsafe { __libc_calloc(items, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above; `old` came from the same allocator.
    unsafe { __libc_realloc(old, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    count();
    // SAFETY: as above; `out` is valid for one pointer by the function's contract.
    unsafe {
        let block = __libc_memalign(alignment, size);
        if block.is_null() {
            return 12;
        }
        out.write(block);
    }
    0
}

/// The memory a shard would own.
struct Lane {
    lease: Vec<u8>,
    outbox: Vec<u8>,
    /// What the receiver sends back: window adjustments.
    back: Vec<u8>,
}

impl Lane {
    /// Sends up to `want` bytes of data, receives them, grants them again. Answers how many.
    fn turn(&mut self, pair: &mut Pair, (from, to): (ChannelId, ChannelId), want: u32) -> u32 {
        let Lane { lease, outbox, back } = self;
        let now = pair.now;
        let (sender, receiver) = (&mut pair.client, &mut pair.server);
        let room = lease.len() as u32;
        let plan = sender.conn.plan(from, None, 50, room, want).expect("credit");
        assert!(!plan.spans(0).is_empty());
        let total = plan.total();
        let packets =
            sender.conn.seal_plan(&plan, total, lease, &mut sender.entropy).expect("ready");
        let out = Outbox::new(outbox, 0);
        let mut env = Env { now, entropy: &mut receiver.entropy, out };
        let bytes = packets.of_mut(lease).expect("inside");
        assert_eq!(take(&mut receiver.conn, to, bytes, &mut env), total);
        // A status as SFTP sends it, the other way.
        assert!(receiver.conn.write_data(to, None, &[1; 40], &mut env));
        let used = env.out.used();
        back[..used].copy_from_slice(&outbox[..used]);
        let out = Outbox::new(outbox, 0);
        let mut env = Env { now, entropy: &mut sender.entropy, out };
        assert_eq!(take(&mut sender.conn, from, &mut back[..used], &mut env), 40);
        assert_eq!(env.out.used(), 0, "forty bytes are not granted again at once");
        total
    }
}

/// Handles packets of data and window adjustments; answers the data bytes.
fn take(conn: &mut Conn, id: ChannelId, bytes: &mut [u8], env: &mut Env<'_>) -> u32 {
    let (mut at, mut received) = (0, 0);
    while at < bytes.len() {
        match conn.handle_input(env, &mut bytes[at..]).expect("no error") {
            Input::Need { .. } => panic!("whole packets were handed in"),
            Input::Used { used, event } => {
                at += used as usize;
                match event {
                    Some(Event::Data { id: on, extended: None, data }) => {
                        assert_eq!(on, id);
                        received += data.len;
                        conn.consumed(id, data.len, env).expect("no error");
                    }
                    None | Some(Event::WindowOpened(_)) => {}
                    event => panic!("{event:?}"),
                }
            }
        }
        assert!(conn.poll_event().is_none());
    }
    received
}

#[test]
fn steady_state_allocates_nothing() {
    for flavour in [Flavour::Toy, Flavour::Gcm, Flavour::Chacha, Flavour::Ctr] {
        let mut pair = Pair::logged_in(&Setup::new(flavour));
        let channel = pair.session();
        let mut lane = Lane {
            lease: vec![0; 264 * 1024],
            outbox: vec![0; 64 * 1024],
            back: vec![0; 64 * 1024],
        };
        for _ in 0..20 {
            lane.turn(&mut pair, channel, 256 * 1024);
        }
        let mut moved = 0u64;
        let made = allocations(|| {
            for turn in 0..100 {
                let want = [256 * 1024, 1, 32 * 1024, 100_000][turn % 4];
                moved += u64::from(lane.turn(&mut pair, channel, want));
            }
        });
        assert_eq!(made, 0, "{flavour:?}");
        assert!(moved > 8_000_000, "{flavour:?}: {moved}");
    }
}

/// The counter counts: a test of nothing would pass the other.
#[test]
fn allocations_are_seen() {
    assert!(allocations(|| drop(std::hint::black_box(Box::new(7)))) > 0);
}
