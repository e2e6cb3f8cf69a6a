use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::sys::uio::{pread, pwrite};

use super::fs::{FsDone, borrow, retry};
use crate::limits::{SFTP_COPY_JOB_BYTES_MAX, SFTP_COPY_STEP_BYTES};
use crate::reactor::Fd;

/// A piece of a copy-data request. The service asks for the next piece until the whole has been
/// copied, so that a worker is never held for long and a client that leaves ends the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    pub from: Fd,
    pub from_offset: u64,
    pub to: Fd,
    pub to_offset: u64,
    /// Bytes; at most [`SFTP_COPY_JOB_BYTES_MAX`] of them are copied.
    pub len: u64,
}

/// Copies inside the kernel where it can.
pub fn run(copy: &Copy) -> Result<FsDone, Errno> {
    let want = copy.len.min(SFTP_COPY_JOB_BYTES_MAX);
    let mut done = 0;
    while done < want {
        match step(copy, done, want - done) {
            Ok(0) => return Ok(FsDone::Copied { bytes: done, ended: true }),
            Ok(copied) => done += copied,
            Err(errno) => return Err(errno),
        }
    }
    Ok(FsDone::Copied { bytes: done, ended: false })
}

fn step(copy: &Copy, done: u64, want: u64) -> Result<u64, Errno> {
    let (mut from_at, mut to_at) = (offset(copy.from_offset, done)?, offset(copy.to_offset, done)?);
    let (from, to) = (borrow(copy.from), borrow(copy.to));
    let want = want.min(SFTP_COPY_JOB_BYTES_MAX) as usize;
    let copied = retry(|| copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), want));
    match copied {
        Ok(copied) if copied > 0 => Ok(copied as u64),
        // Not between these file systems, not onto an appending descriptor, or a file that claims
        // to be empty: what plain reads and writes say is the answer.
        _ => plain_step(copy, done, want),
    }
}

fn plain_step(copy: &Copy, done: u64, want: usize) -> Result<u64, Errno> {
    let (from_at, to_at) = (offset(copy.from_offset, done)?, offset(copy.to_offset, done)?);
    let mut space = vec![0; want.min(SFTP_COPY_STEP_BYTES)];
    let got = retry(|| pread(borrow(copy.from), &mut space, from_at))?;
    let mut written = 0;
    while let Some(rest) = space.get(written..got).filter(|rest| !rest.is_empty()) {
        match retry(|| pwrite(borrow(copy.to), rest, to_at.saturating_add(written as i64)))? {
            0 => return Err(Errno::EIO),
            more => written += more,
        }
    }
    Ok(written as u64)
}

fn offset(start: u64, done: u64) -> Result<i64, Errno> {
    start.checked_add(done).and_then(|at| i64::try_from(at).ok()).ok_or(Errno::EINVAL)
}
