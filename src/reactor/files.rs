//! The system calls behind operations on files, for drivers that make them themselves.

use super::op::{chunks, pieces};
use super::places::Places;
use super::{DriverStats, Errno, Fd, Op, Pool};

/// Reads a file that lies in memory. `None` when there is nothing to read into.
pub(super) fn read_memory(
    op: &Op,
    pool: &Pool,
    stats: &mut DriverStats,
) -> Option<Result<u32, Errno>> {
    let Op::ReadAt { fd, at, lease, spans } = op else { return None };
    let places = Places::new(pool, pieces(lease, spans), 0).ok();
    let places = places.filter(|places| places.bytes() > 0)?;
    // SAFETY: the places are of the operation's own lease.
    Some(unsafe { read_slowly(*fd, *at, places, stats) })
}

/// Writes to a file that lies in memory. `None` for every other operation.
pub(super) fn write_memory(
    op: &Op,
    pool: &Pool,
    stats: &mut DriverStats,
) -> Option<Result<u32, Errno>> {
    let Op::WriteAt { fd, at, from } = op else { return None };
    let places = Places::new(pool, chunks(from), 0).ok();
    let places = places.filter(|places| places.bytes() > 0)?;
    if !is_in_memory(*fd, stats) {
        return None;
    }
    // SAFETY: the places are of the operation's own leases.
    Some(unsafe { write_slowly(*fd, *at, &places, stats) })
}

/// Reads all of `places` from the file at `at`, as far as it goes. Waits for the disk.
///
/// # Safety
/// The places are leased to the caller's operation, and to nobody else, during the call.
pub(super) unsafe fn read_slowly(
    fd: Fd,
    at: u64,
    mut places: Places,
    stats: &mut DriverStats,
) -> Result<u32, Errno> {
    let mut done = 0;
    while places.bytes() > 0 {
        // SAFETY: passed on to the caller.
        match unsafe { read_at(fd, at.saturating_add(u64::from(done)), &places, 0, stats) } {
            Ok(0) => break,
            Ok(moved) => {
                done += moved;
                places.skip(moved);
            }
            Err(errno) if done == 0 => return Err(errno),
            // What has been read is told first; the error comes again with the next read.
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Writes once to the file at `at`. Waits for the disk.
///
/// # Safety
/// As for [`read_slowly`].
pub(super) unsafe fn write_slowly(
    fd: Fd,
    at: u64,
    places: &Places,
    stats: &mut DriverStats,
) -> Result<u32, Errno> {
    // SAFETY: passed on to the caller.
    unsafe { write_at(fd, at, places, 0, stats) }
}

/// The file lies in memory (tmpfs, memfd) and has no disk to wait for. Only such files have seals;
/// unlike its type, they are known without asking the filesystem, which could be far away.
pub(super) fn is_in_memory(fd: Fd, stats: &mut DriverStats) -> bool {
    // SAFETY: takes two numbers.
    call(stats, || unsafe { libc::fcntl(fd.0, libc::F_GET_SEALS) } as isize).is_ok()
}

/// # Safety
/// The places are leased to the caller's operation, and to nobody else, during the call.
pub(super) unsafe fn read_at(
    fd: Fd,
    at: u64,
    places: &Places,
    flags: i32,
    stats: &mut DriverStats,
) -> Result<u32, Errno> {
    let (list, at) = (places.list(), offset(at)?);
    call(stats, || {
        // SAFETY: passed on to the caller; the list outlives the call.
        unsafe { libc::preadv2(fd.0, list.as_ptr(), list.len() as i32, at, flags) }
    })
}

/// # Safety
/// As for [`read_at`].
pub(super) unsafe fn write_at(
    fd: Fd,
    at: u64,
    places: &Places,
    flags: i32,
    stats: &mut DriverStats,
) -> Result<u32, Errno> {
    let (list, at) = (places.list(), offset(at)?);
    call(stats, || {
        // SAFETY: passed on to the caller; the list outlives the call.
        unsafe { libc::pwritev2(fd.0, list.as_ptr(), list.len() as i32, at, flags) }
    })
}

/// A negative offset would stand for the descriptor's own position.
fn offset(at: u64) -> Result<libc::off_t, Errno> {
    libc::off_t::try_from(at).map_err(|_| Errno(libc::EINVAL))
}

/// Makes a system call, again after an interruption.
pub(super) fn call(stats: &mut DriverStats, mut make: impl FnMut() -> isize) -> Result<u32, Errno> {
    loop {
        stats.submissions += 1;
        let result = make();
        if result >= 0 {
            stats.completions += 1;
            return Ok(result as u32);
        }
        match nix::errno::Errno::last_raw() {
            libc::EINTR => {}
            libc::EAGAIN => return Err(Errno(libc::EAGAIN)),
            errno => {
                stats.completions += 1;
                return Err(Errno(errno));
            }
        }
    }
}
