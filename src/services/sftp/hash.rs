use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::uio::pread;

use super::fs::{FsDone, borrow, retry};
use crate::crypto::HashKind;
use crate::limits::{SFTP_COPY_STEP_BYTES, SFTP_HASH_BYTES_MAX, SFTP_HASHES_MAX};
use crate::reactor::Fd;

/// Hashes of the blocks of a range of a file (draft-ietf-secsh-filexfer-13 §9.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub fd: Fd,
    pub offset: u64,
    /// Bytes; zero: up to the end of the file.
    pub len: u64,
    /// Bytes; zero: the range is one block.
    pub block: u32,
}

pub fn run(range: &Range) -> Result<FsDone, Errno> {
    hash_blocks(borrow(range.fd), (range.offset, range.len), range.block).map(FsDone::Hashes)
}

/// The hashes of a range's blocks back to back; the last block may be shorter, and what is behind the end
/// of the file has none. Zeros as in [`Range`].
///
/// # Errors
/// The file cannot be read, or it is more than one request may ask for: EFBIG.
pub fn hash_blocks(
    fd: BorrowedFd<'_>,
    (offset, len): (u64, u64),
    block: u32,
) -> Result<Vec<u8>, Errno> {
    // One more than may be read tells a range that is too long from one that fits.
    let most = SFTP_HASH_BYTES_MAX + 1;
    let len = if len == 0 { most } else { len.min(most) };
    let block = if block == 0 { most } else { u64::from(block) };
    let size = HashKind::Sha256.digest_bytes();
    let mut space = vec![0; SFTP_COPY_STEP_BYTES];
    let mut hashes = Vec::new();
    let mut hasher = HashKind::Sha256.hasher();
    let (mut done, mut in_block) = (0, 0);
    while done < len {
        let want = (len - done).min(block - in_block).min(SFTP_COPY_STEP_BYTES as u64);
        let at = offset.checked_add(done).and_then(|at| i64::try_from(at).ok());
        let at = at.ok_or(Errno::EINVAL)?;
        let Some(room) = space.get_mut(..want as usize) else { return Err(Errno::EINVAL) };
        let got = retry(|| pread(fd, &mut *room, at))?;
        if got == 0 {
            break;
        }
        hasher.update(space.get(..got).unwrap_or_default());
        done += got as u64;
        in_block += got as u64;
        if in_block == block {
            let whole = std::mem::replace(&mut hasher, HashKind::Sha256.hasher());
            hashes.extend_from_slice(whole.finish().as_ref());
            in_block = 0;
            if hashes.len() > SFTP_HASHES_MAX * size {
                return Err(Errno::EFBIG);
            }
        }
    }
    if in_block > 0 {
        hashes.extend_from_slice(hasher.finish().as_ref());
    }
    let fits = done <= SFTP_HASH_BYTES_MAX && hashes.len() <= SFTP_HASHES_MAX * size;
    if fits { Ok(hashes) } else { Err(Errno::EFBIG) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn blocks_have_their_hashes_and_ranges_their_bounds() {
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..1000u32).flat_map(u32::to_be_bytes).collect();
        file.write_all(&bytes).expect("bytes");
        let hash = |range, block| hash_blocks(file.as_fd(), range, block);
        let expected = |from: usize, to: usize, block: usize| -> Vec<u8> {
            let blocks = bytes[from..to].chunks(block);
            blocks.flat_map(|one| HashKind::Sha256.digest(one).as_ref().to_vec()).collect()
        };
        assert_eq!(hash((0, 0), 0), Ok(expected(0, 4000, 4000)));
        assert_eq!(hash((0, 1000), 256), Ok(expected(0, 1000, 256)));
        assert_eq!(hash((100, 512), 256), Ok(expected(100, 612, 256)));
        // Behind the end there is nothing to hash.
        assert_eq!(hash((3000, 5000), 256), Ok(expected(3000, 4000, 256)));
        assert_eq!((hash((4000, 10), 1), hash((u64::MAX, 0), 0)), (Ok(vec![]), Err(Errno::EINVAL)));
        assert_eq!(hash((0, 0), 1), Err(Errno::EFBIG), "too many hashes");
        file.set_len(SFTP_HASH_BYTES_MAX + 1).expect("a length");
        assert_eq!(hash((0, 0), 0), Err(Errno::EFBIG), "too many bytes");
        assert!(hash((1, 0), 1 << 20).is_ok());
    }
}
