//! What drivers over the real kernel have in common.

use std::time::Duration;

use nix::sys::socket::Shutdown;
use nix::time::{ClockId, clock_gettime};

use super::Fd;
use crate::base::Instant;

/// The monotonic clock.
pub(super) fn now() -> Instant {
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

/// How long a driver being dropped waits for what it cannot take back.
pub(super) const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
