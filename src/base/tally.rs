//! What the data path should hardly ever do, counted over all threads of the process, for tests.
//! Builds that are shipped count nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether this build counts.
pub const COUNTS: bool = cfg!(any(debug_assertions, feature = "sim"));

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Bytes of channel data that were copied from one place in user space to another.
    Copied,
    /// Draws from the system-seeded random generator.
    Draws,
    /// Rounds of all shards.
    Turns,
    /// Operations on streams and files that shards asked their drivers for.
    Operations,
    /// Those of them that send to an SSH connection's socket.
    Sends,
    /// System calls that io_uring drivers made, and that mio drivers made to wait.
    Enters,
    /// Requests given to rings, and system calls that mio drivers made for operations.
    Requests,
    /// Leases that are out now.
    Leases,
}

/// What has been counted since the process began.
pub fn total(cost: Cost) -> u64 {
    counter(cost).load(Ordering::Relaxed)
}

/// Counts `count` more.
pub fn add(cost: Cost, count: u64) {
    if COUNTS {
        counter(cost).fetch_add(count, Ordering::Relaxed);
    }
}

/// What was `before` is `now`: counts the difference, which may be negative.
pub fn change(cost: Cost, before: u64, now: u64) {
    add(cost, now.wrapping_sub(before));
}

/// Copies channel data, and counts it. Every such copy is made here or by [`append`]. Both slices
/// are equally long; if not, what fits is copied.
pub fn copy(to: &mut [u8], from: &[u8]) {
    debug_assert_eq!(to.len(), from.len());
    let len = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
    add(Cost::Copied, len as u64);
}

/// Copies channel data behind what `to` has, and counts it.
pub fn append(to: &mut Vec<u8>, from: &[u8]) {
    to.extend_from_slice(from);
    add(Cost::Copied, from.len() as u64);
}

fn counter(cost: Cost) -> &'static AtomicU64 {
    static COUNTERS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
    let [copied, draws, turns, operations, sends, enters, requests, leases] = &COUNTERS;
    match cost {
        Cost::Copied => copied,
        Cost::Draws => draws,
        Cost::Turns => turns,
        Cost::Operations => operations,
        Cost::Sends => sends,
        Cost::Enters => enters,
        Cost::Requests => requests,
        Cost::Leases => leases,
    }
}
