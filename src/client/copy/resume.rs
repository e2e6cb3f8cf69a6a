//! Where an interrupted copy goes on.
//!
//! Answers come in any order, so a part file may have holes before its end, but no further back than
//! what can be under way. A server that can hash blocks (`check-file-handle`; OpenSSH's cannot) has all of it
//! compared, and the copy goes on behind the last block that is the same. On others a command hashes what
//! is before the part that may have holes, and that block by block. Where none can be run, what is before is
//! looked at: its last mebibyte whole, and a few blocks of the rest, against the source. Where anything
//! differs, the copy starts anew.

use anyhow::Result;

use super::Copy;
use super::desk::both;
use super::file::Opened;
use crate::crypto::HashKind;
use crate::limits::{
    COPY_HASH_BLOCK_BYTES, COPY_IN_FLIGHT_BYTES_MAX, COPY_SPOT_BYTES, COPY_SPOTS, COPY_TAIL_BYTES,
    SFTP_HASH_BYTES_MAX,
};

/// What of a part file is kept, and why it is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub bytes: u64,
    pub how: How,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// Every block has the hash of the source's.
    Hashes,
    /// All of it together has.
    Hash,
    /// Its tail and samples were read and are the source's.
    #[default]
    Looks,
}

/// Smaller files are copied anew.
pub fn is_worth_it(size: u64) -> bool {
    size > u64::from(COPY_IN_FLIGHT_BYTES_MAX) + COPY_TAIL_BYTES
}

/// How many bytes of the target are the source's. `size`: the source's, and the target's if it is known.
///
/// # Errors
/// One of them cannot be read.
pub async fn start(
    copy: &Copy,
    (source, from): (&Opened, &[u8]),
    (target, to): (&Opened, &[u8]),
    (size, there): (u64, Option<u64>),
) -> Result<Kept> {
    if there.is_some_and(|there| there <= COPY_TAIL_BYTES) {
        return Ok(Kept::default());
    }
    let there = target.about(copy).await?.size.min(size);
    if there <= COPY_TAIL_BYTES {
        return Ok(Kept::default());
    }
    if source.can_hash() && target.can_hash() {
        let bytes = hashed(copy, source, target, there).await?;
        return Ok(Kept { bytes, how: How::Hashes });
    }
    let block = u64::from(COPY_HASH_BLOCK_BYTES);
    let sure = there.saturating_sub(u64::from(COPY_IN_FLIGHT_BYTES_MAX)) / block * block;
    let blocks = (there - sure) / block;
    let sums = (source.sums(copy, from, (sure, blocks)), target.sums(copy, to, (sure, blocks)));
    let sums = both(sums.0, sums.1).await;
    if let (Some(ours), Some(theirs)) = (sums.0?, sums.1?) {
        let same = ours.iter().zip(theirs).take_while(|(one, other)| *one == other).count();
        let bytes = (same as u64).checked_sub(1).map_or(0, |blocks| sure + blocks * block);
        return Ok(Kept { bytes, how: How::Hash });
    }
    if sure <= COPY_TAIL_BYTES {
        return Ok(Kept::default());
    }
    for (at, len) in looks(sure) {
        if source.read(copy, at, len).await? != target.read(copy, at, len).await? {
            return Ok(Kept::default());
        }
    }
    Ok(Kept { bytes: sure, how: How::Looks })
}

/// How many of the first bytes have the same hashes, block by block. What is not hashed is not believed.
async fn hashed(copy: &Copy, source: &Opened, target: &Opened, there: u64) -> Result<u64> {
    let block = u64::from(COPY_HASH_BLOCK_BYTES);
    let size = HashKind::Sha256.digest_bytes();
    let whole = there / block * block;
    let mut at = 0;
    while at < whole {
        let len = (whole - at).min(SFTP_HASH_BYTES_MAX);
        let ours = source.hashes(copy, at, len).await?;
        let theirs = target.hashes(copy, at, len).await?;
        let pairs = ours.chunks(size).zip(theirs.chunks(size));
        let same = pairs.take_while(|(one, other)| one == other && one.len() == size).count();
        at += same as u64 * block;
        if (same as u64) < len / block {
            break;
        }
    }
    Ok(at.min(whole))
}

/// What is compared of the first `sure` bytes.
fn looks(sure: u64) -> impl Iterator<Item = (u64, usize)> {
    let tail = sure.saturating_sub(COPY_TAIL_BYTES);
    let step = COPY_SPOT_BYTES as u64;
    let tail_blocks = (tail..sure).step_by(COPY_SPOT_BYTES).map(move |at| {
        let len = (sure - at).min(step);
        (at, len as usize)
    });
    let spots = (0..COPY_SPOTS).map(move |n| (tail / COPY_SPOTS * n, COPY_SPOT_BYTES));
    spots.chain(tail_blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_compared_whole_and_the_rest_in_spots() {
        let sure = 100 << 20;
        let all: Vec<_> = looks(sure).collect();
        assert!(all.iter().all(|(at, len)| at + *len as u64 <= sure));
        let last: u64 =
            all.iter().filter(|(at, _)| *at >= sure - COPY_TAIL_BYTES).map(|l| l.1 as u64).sum();
        assert_eq!(last, COPY_TAIL_BYTES);
        assert!(all.iter().any(|(at, _)| *at == 0));
    }
}
