use std::ffi::CStr;

use nix::errno::Errno;
use nix::libc;

use super::attrs::attributes;
use super::fs::{FsDone, borrow};
use super::longname::{AccountNames, LONG_NAME_EXTRA_BYTES_MAX, long_name};
use crate::limits::SFTP_NAMES_BYTES_MAX;
use crate::reactor::Fd;
use crate::services::root::Root;
use crate::wire::Writer;
use crate::wire::sftp::put_name;

/// Length, kind, id and count, which the service puts before the entries.
pub const NAME_HEADER_BYTES: usize = 13;
/// A directory entry as the kernel writes it: inode, offset, length, type, then the name.
const RECORD_HEADER_BYTES: usize = 19;
/// The shortest record: a name of one byte, its NUL, rounded up.
const RECORD_BYTES_MIN: usize = 24;
/// A record with the longest name that Linux file systems have.
const RECORD_BYTES_MAX: usize = 280;
/// The most a record of the shortest kind becomes in a reply: two strings and full attributes.
/// Longer names grow by two bytes in the reply for one in the record, which is less.
const ENTRY_BYTES_MAX: usize = 4 + 4 + LONG_NAME_EXTRA_BYTES_MAX + 32 + 2 * 8;
/// How many times a record's size its entry can be.
const GROWTH: usize = ENTRY_BYTES_MAX.div_ceil(RECORD_BYTES_MIN);

/// The next batch of entries of an open directory, or its end. The kernel keeps the place; asking
/// it for no more records than surely fit the reply means that none has to be kept or read twice.
pub fn read(root: &Root, fd: Fd, mut accounts: Box<AccountNames>) -> Result<FsDone, Errno> {
    let now = wall_seconds();
    accounts.nameless = root.is_fenced();
    let mut encoded = vec![0; SFTP_NAMES_BYTES_MAX - NAME_HEADER_BYTES];
    let mut out = Writer::new(&mut encoded);
    let mut records = [0; (SFTP_NAMES_BYTES_MAX / GROWTH).next_multiple_of(8)];
    let mut line = Vec::new();
    let mut count = 0;
    loop {
        let room = (SFTP_NAMES_BYTES_MAX - NAME_HEADER_BYTES - out.len()) / GROWTH;
        if room < RECORD_BYTES_MAX {
            break;
        }
        let Some(space) = records.get_mut(..room) else { break };
        let len = match next_records(fd, space) {
            Ok(0) if count == 0 => return Ok(FsDone::EndOfDirectory { accounts }),
            Ok(0) => break,
            Ok(len) => len,
            // What has been read is delivered; the next call meets the error again.
            Err(_) if count > 0 => break,
            Err(errno) => return Err(errno),
        };
        for name in names(space.get(..len).unwrap_or(&[])) {
            // A file that vanished meanwhile is left out, as is one that may not be looked at.
            let Ok(stat) = root.stat_entry(borrow(fd), name) else { continue };
            let name = name.to_bytes();
            line.clear();
            long_name(&mut line, name, &stat, &mut accounts, now);
            put_name(&mut out, name, &line, &attributes(&stat)).map_err(|_| Errno::EOVERFLOW)?;
            count += 1;
        }
    }
    let len = out.len();
    encoded.truncate(len);
    Ok(FsDone::Entries { count, encoded, accounts })
}

/// The next names of an open directory, dots included; `None` at its end.
pub(in crate::services) fn records(
    fd: Fd,
    space: &mut [u8],
) -> Result<Option<impl Iterator<Item = &CStr>>, Errno> {
    let len = next_records(fd, space)?;
    Ok((len > 0).then(|| names(space.get(..len).unwrap_or(&[]))))
}

fn next_records(fd: Fd, space: &mut [u8]) -> Result<usize, Errno> {
    let (to, len) = (space.as_mut_ptr(), space.len());
    // SAFETY: the kernel writes at most `len` bytes to `to`, which is exclusively borrowed for the
    // call. glibc's own reader would read ahead and lose our place between calls.
    let result = unsafe { libc::syscall(libc::SYS_getdents64, fd.0, to, len) };
    Errno::result(result).map(|len| len as usize)
}

/// The names in the kernel's records; stops at a record that makes no sense.
fn names(mut records: &[u8]) -> impl Iterator<Item = &CStr> {
    std::iter::from_fn(move || {
        let len = records.get(16..18)?;
        let len = usize::from(u16::from_ne_bytes([*len.first()?, *len.get(1)?]));
        let name = CStr::from_bytes_until_nul(records.get(RECORD_HEADER_BYTES..len)?).ok()?;
        records = records.get(len..)?;
        Some(name)
    })
}

/// Seconds since 1970.
fn wall_seconds() -> i64 {
    // A worker runs outside the deterministic floors, and a listing tells recent files from old
    // ones by the time of day.
    #[allow(clippy::disallowed_methods)]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

const _: () = assert!(RECORD_BYTES_MAX * GROWTH < SFTP_NAMES_BYTES_MAX - NAME_HEADER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_records_end_the_iteration() {
        assert_eq!(names(&[]).count(), 0);
        assert_eq!(names(&[0; 40]).count(), 0);
        let mut record = [0u8; 48];
        record[16..18].copy_from_slice(&24u16.to_ne_bytes());
        record[19] = b'a';
        record[24 + 16..24 + 18].copy_from_slice(&200u16.to_ne_bytes());
        assert_eq!(names(&record).map(CStr::to_bytes).collect::<Vec<_>>(), [b"a"]);
    }
}
