//! What drivers over the real kernel have in common.

use std::time::Duration;

use nix::sys::socket::Shutdown;
use nix::time::{ClockId, clock_gettime};

use super::{Errno, Fd, Lease, Pool};
use crate::base::{Instant, Span};

/// The monotonic clock of every driver over the real kernel, for what they share and what outlives
/// them.
///
/// # Panics
/// When the kernel has no such clock.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has a monotonic clock");
    Instant::from_nanos(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Closes a descriptor that nothing is in flight on.
pub(super) fn close(fd: Fd) {
    let closed = nix::unistd::close(fd.0);
    debug_assert_ne!(closed, Err(nix::Error::EBADF), "{fd:?} was not open");
}

/// Ends one or both directions of a socket.
pub(super) fn shutdown(fd: Fd, how: Shutdown) {
    // Fails on a socket that is not connected any more, which is what was wanted.
    let _ = nix::sys::socket::shutdown(fd.0, how);
}

/// Errors of a connection that died in the queue, not of the listener (accept(2)).
pub(super) const ACCEPT_AGAIN: [i32; 10] = [
    libc::EINTR,
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::ENOPROTOOPT,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::EHOSTUNREACH,
    libc::EOPNOTSUPP,
    libc::ENETUNREACH,
];

/// Gives `each` the memory of `pieces` without the first `skip` bytes, in order. Nothing is given
/// for what is empty.
pub(super) fn each_place<'a>(
    pool: &Pool,
    pieces: impl Iterator<Item = (&'a Lease, Span)>,
    mut skip: u32,
    mut each: impl FnMut(libc::iovec),
) -> Result<(), Errno> {
    for (lease, span) in pieces {
        let rest = span.skip(skip);
        skip -= span.len - rest.len;
        let Some(start) = pool.place(lease, rest) else {
            debug_assert!(false, "{span:?} is outside {lease:?}");
            return Err(Errno(libc::EFAULT));
        };
        if !rest.is_empty() {
            each(libc::iovec { iov_base: start.as_ptr().cast(), iov_len: rest.len as usize });
        }
    }
    Ok(())
}

/// How long a driver being dropped waits for what it cannot take back.
pub(super) const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
