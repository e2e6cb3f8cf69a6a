//! What drivers over the real kernel have in common.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};
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

/// [`super::Driver::socket`].
pub(super) fn socket(to: &SocketAddr) -> Result<Fd, Errno> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = nix::sys::socket::socket(family, SockType::Stream, flags, None)
        .map_err(|errno| Errno(errno as i32))?;
    // Without it, little that is forwarded would wait for more.
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
    Ok(Fd(socket.into_raw_fd()))
}

/// [`super::Driver::welcome`].
pub(super) fn welcome(fd: Fd) -> Option<SocketAddr> {
    // SAFETY: whoever asks has it open, and it is borrowed for this call alone.
    let socket = unsafe { BorrowedFd::borrow_raw(fd.0) };
    let peer: SockaddrStorage = nix::sys::socket::getpeername(fd.0).ok()?;
    let peer = match (peer.as_sockaddr_in(), peer.as_sockaddr_in6()) {
        (Some(peer), _) => SocketAddr::V4((*peer).into()),
        (None, Some(peer)) => SocketAddr::V6((*peer).into()),
        (None, None) => return None,
    };
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
    Some(peer)
}

/// Starts to connect: done at once, or EINPROGRESS.
pub(super) fn connect(fd: Fd, to: &SocketAddr) -> Result<(), Errno> {
    let address = SockaddrStorage::from(*to);
    nix::sys::socket::connect(fd.0, &address).map_err(|errno| Errno(errno as i32))
}

/// How connecting has ended, once the socket is writable.
pub(super) fn connected(fd: Fd) -> Result<u32, Errno> {
    // SAFETY: whoever asks has it open, and it is borrowed for this call alone.
    let socket = unsafe { BorrowedFd::borrow_raw(fd.0) };
    match nix::sys::socket::getsockopt(&socket, sockopt::SocketError) {
        Ok(0) => Ok(0),
        Ok(errno) => Err(Errno(errno)),
        Err(errno) => Err(Errno(errno as i32)),
    }
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

/// Lets a socket wake its reader only when so many bytes are there (SO_RCVLOWAT of socket(7)).
pub(super) fn set_receive_mark(fd: Fd, bytes: u32) {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    let (at, len) = ((&raw const bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
    // SAFETY: `at` points to `len` bytes that outlive the call. It fails on what is not a socket,
    // which then wakes its reader for every byte.
    unsafe { libc::setsockopt(fd.0, libc::SOL_SOCKET, libc::SO_RCVLOWAT, at, len) };
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
