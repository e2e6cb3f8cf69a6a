//! The system calls behind operations. None of them waits.

use std::ptr::null_mut;

use super::flight::Flight;
use crate::limits::SMALL_BYTES;
use crate::reactor::files::{call, is_in_memory, read_at, write_at};
use crate::reactor::op::{chunks, pieces};
use crate::reactor::places::Places;
use crate::reactor::system;
use crate::reactor::{DriverStats, Errno, Fd, Op, Pool, Target};

/// What an attempt at an operation came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done(Result<u32, Errno>),
    /// To be tried again when the descriptor is ready. What was moved is in the flight.
    NotReady,
    /// There is no small lease to receive into.
    Starved,
    /// It could wait for a disk. What was moved is in the flight.
    Slow,
}

/// Goes as far with the operation as it goes without waiting. Connections are accepted by
/// [`accept`].
pub(super) fn attempt(flight: &mut Flight, pool: &mut Pool, stats: &mut DriverStats) -> Outcome {
    match flight.op {
        Op::Accept { .. } => Outcome::Done(Err(Errno(libc::EINVAL))),
        Op::Connect { .. } => connect(flight, stats),
        Op::Recv { fd, .. } => take_in(flight, pool, |places| receive(fd, places, stats)),
        Op::Read { fd, .. } => take_in(flight, pool, |places| read(fd, places, stats)),
        Op::Send { fd, .. } => send_all(fd, flight, pool, stats),
        Op::Write { fd, ref from } => match Places::new(pool, chunks(from), 0) {
            Ok(places) if places.bytes() > 0 => outcome(write(fd, &places, stats)),
            empty => Outcome::Done(empty.map(|_| 0)),
        },
        Op::ReadAt { .. } => read_file(flight, pool, stats),
        Op::WriteAt { fd, at, ref from } => {
            write_file(fd, at, Places::new(pool, chunks(from), 0), stats)
        }
        Op::Fsync { .. } => Outcome::Slow,
        Op::Readable { fd } => outcome(ready(fd, stats)),
        Op::Writable { fd } => outcome(writable(fd, stats)),
    }
}

/// One connection. `EAGAIN` when none waits.
pub(super) fn accept(listener: Fd, stats: &mut DriverStats) -> Result<u32, Errno> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: both pointers may be null when the address is not wanted.
    call(stats, || unsafe { libc::accept4(listener.0, null_mut(), null_mut(), flags) } as isize)
}

/// Whether the socket is a TCP one. There, unlike on others, a receive that brings less than there
/// is room for has emptied the socket.
pub(super) fn is_tcp(fd: Fd, stats: &mut DriverStats) -> bool {
    let option = |name, stats: &mut DriverStats| {
        let (mut value, mut len) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: `value` and `len` live during the call, which writes no more than `len` bytes.
        let asked = call(stats, || unsafe {
            libc::getsockopt(fd.0, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut len)
        } as isize);
        asked.map(|_| value)
    };
    option(libc::SO_PROTOCOL, stats) == Ok(libc::IPPROTO_TCP)
}

/// Waits until the file is on stable storage.
pub(super) fn sync_slowly(fd: Fd, stats: &mut DriverStats) -> Result<u32, Errno> {
    // SAFETY: takes a number.
    call(stats, || unsafe { libc::fsync(fd.0) } as isize)
}

/// Starts to connect, or asks what has come of it.
fn connect(flight: &mut Flight, stats: &mut DriverStats) -> Outcome {
    let Op::Connect { fd, to } = flight.op else { return Outcome::NotReady };
    stats.submissions += 1;
    if flight.begun {
        return match writable(fd, stats) {
            Ok(_) => Outcome::Done(system::connected(fd)),
            waits => outcome(waits),
        };
    }
    flight.begun = true;
    match system::connect(fd, &to) {
        Ok(()) => Outcome::Done(Ok(0)),
        // It goes on, interrupted or not.
        Err(Errno(libc::EINPROGRESS | libc::EINTR)) => Outcome::NotReady,
        Err(errno) => Outcome::Done(Err(errno)),
    }
}

/// Bytes from a stream, into the operation's own memory or a small lease of our choice.
fn take_in(
    flight: &mut Flight,
    pool: &mut Pool,
    take: impl FnOnce(&Places) -> Result<u32, Errno>,
) -> Outcome {
    if flight.op.is_shared() {
        let Some(lease) = pool.lend() else { return Outcome::Starved };
        flight.op.lend(lease, SMALL_BYTES);
        flight.borrowed = true;
    }
    let (Op::Recv { into, .. } | Op::Read { into, .. }) = &flight.op else {
        return Outcome::Done(Err(Errno(libc::EINVAL)));
    };
    let Target::Owned { lease, spans } = into else { return Outcome::Starved };
    let taken = match Places::new(pool, pieces(lease, spans), 0) {
        Ok(places) if places.bytes() > 0 => outcome(take(&places)),
        // Room for nothing is not an end of file.
        empty => Outcome::Done(empty.and(Err(Errno(libc::EINVAL)))),
    };
    if taken == Outcome::NotReady && std::mem::take(&mut flight.borrowed) {
        flight.op.unlend(pool);
    }
    taken
}

fn send_all(fd: Fd, flight: &mut Flight, pool: &Pool, stats: &mut DriverStats) -> Outcome {
    let Op::Send { from, .. } = &flight.op else { return Outcome::NotReady };
    let mut places = match Places::new(pool, chunks(from), flight.done) {
        Ok(places) => places,
        Err(errno) => return Outcome::Done(Err(errno)),
    };
    while places.bytes() > 0 {
        match send(fd, &places, stats) {
            // No socket takes nothing of something; going on could go on for ever.
            Ok(0) => return Outcome::Done(Err(Errno(libc::EIO))),
            Ok(moved) => {
                flight.done += moved;
                places.skip(moved);
            }
            Err(errno) => return outcome(Err(errno)),
        }
    }
    Outcome::Done(Ok(flight.done))
}

/// From the page cache, as far as it has the bytes.
fn read_file(flight: &mut Flight, pool: &Pool, stats: &mut DriverStats) -> Outcome {
    let Op::ReadAt { fd, at, lease, spans } = &flight.op else { return Outcome::Slow };
    let (fd, at) = (*fd, *at);
    let mut places = match Places::new(pool, pieces(lease, spans), flight.done) {
        Ok(places) if places.bytes() > 0 => places,
        empty => return Outcome::Done(empty.and(Err(Errno(libc::EINVAL)))),
    };
    let mut flags = libc::RWF_NOWAIT;
    while places.bytes() > 0 {
        // SAFETY: the places are of the flight's own lease.
        let read = unsafe {
            read_at(fd, at.saturating_add(u64::from(flight.done)), &places, flags, stats)
        };
        match read {
            Ok(0) => break,
            Ok(moved) => {
                flight.done += moved;
                places.skip(moved);
            }
            Err(errno) if flags != 0 && refuses_haste(errno) => {
                if errno.0 == libc::EAGAIN || !is_in_memory(fd, stats) {
                    return Outcome::Slow;
                }
                flags = 0;
            }
            Err(errno) if flight.done == 0 => return Outcome::Done(Err(errno)),
            // What has been read is told first; the error comes again with the next read.
            Err(_) => break,
        }
    }
    Outcome::Done(Ok(flight.done))
}

/// Into the page cache, where the filesystem can say that it would have to wait.
fn write_file(fd: Fd, at: u64, places: Result<Places, Errno>, stats: &mut DriverStats) -> Outcome {
    let places = match places {
        Ok(places) if places.bytes() > 0 => places,
        empty => return Outcome::Done(empty.map(|_| 0)),
    };
    // SAFETY: the places are of the flight's own leases.
    match unsafe { write_at(fd, at, &places, libc::RWF_NOWAIT, stats) } {
        Err(errno) if refuses_haste(errno) => {
            if errno.0 == libc::EAGAIN || !is_in_memory(fd, stats) {
                return Outcome::Slow;
            }
            // SAFETY: as above.
            Outcome::Done(unsafe { write_at(fd, at, &places, 0, stats) })
        }
        written => Outcome::Done(written),
    }
}

/// It would wait, or the file, the kernel or a sandbox knows no way not to.
const fn refuses_haste(errno: Errno) -> bool {
    matches!(errno.0, libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS)
}

const fn outcome(result: Result<u32, Errno>) -> Outcome {
    match result {
        Err(Errno(libc::EAGAIN)) => Outcome::NotReady,
        result => Outcome::Done(result),
    }
}

fn receive(fd: Fd, places: &Places, stats: &mut DriverStats) -> Result<u32, Errno> {
    let flags = libc::MSG_DONTWAIT;
    match places.list() {
        // SAFETY: the places are of the flight's own lease; nobody else refers to them.
        [one] => call(stats, || unsafe { libc::recv(fd.0, one.iov_base, one.iov_len, flags) }),
        several => {
            let mut header = header(several);
            // SAFETY: as above; the list outlives the call.
            call(stats, || unsafe { libc::recvmsg(fd.0, &raw mut header, flags) })
        }
    }
}

fn send(fd: Fd, places: &Places, stats: &mut DriverStats) -> Result<u32, Errno> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    match places.list() {
        // SAFETY: the places are of the flight's own leases; nobody writes to them meanwhile.
        [one] => call(stats, || unsafe { libc::send(fd.0, one.iov_base, one.iov_len, flags) }),
        several => {
            let header = header(several);
            // SAFETY: as above; the list outlives the call.
            call(stats, || unsafe { libc::sendmsg(fd.0, &raw const header, flags) })
        }
    }
}

fn header(list: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: a msghdr of zeroes is one without address, data and control bytes.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = list.as_ptr().cast_mut();
    header.msg_iovlen = list.len() as _;
    header
}

fn read(fd: Fd, places: &Places, stats: &mut DriverStats) -> Result<u32, Errno> {
    let list = places.list();
    // SAFETY: the places are of the flight's own lease; nobody else refers to them.
    call(stats, || unsafe { libc::readv(fd.0, list.as_ptr(), list.len() as i32) })
}

fn write(fd: Fd, places: &Places, stats: &mut DriverStats) -> Result<u32, Errno> {
    let list = places.list();
    // SAFETY: the places are of the flight's own leases; nobody writes to them meanwhile.
    call(stats, || unsafe { libc::writev(fd.0, list.as_ptr(), list.len() as i32) })
}

/// The poll events of a descriptor that is readable, at its end or broken.
fn ready(fd: Fd, stats: &mut DriverStats) -> Result<u32, Errno> {
    poll(fd, libc::POLLIN, stats)
}

/// The same of one that can be written to, or is broken.
fn writable(fd: Fd, stats: &mut DriverStats) -> Result<u32, Errno> {
    poll(fd, libc::POLLOUT, stats)
}

fn poll(fd: Fd, events: i16, stats: &mut DriverStats) -> Result<u32, Errno> {
    let mut poll = libc::pollfd { fd: fd.0, events, revents: 0 };
    // SAFETY: one entry, which lives during the call.
    match call(stats, || unsafe { libc::poll(&raw mut poll, 1, 0) } as isize)? {
        0 => Err(Errno(libc::EAGAIN)),
        _ if poll.revents & libc::POLLNVAL != 0 => Err(Errno(libc::EBADF)),
        _ => Ok(poll.revents as u32),
    }
}
