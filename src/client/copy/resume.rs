//! Where an interrupted copy goes on.
//!
//! Answers come in any order, so a part file may have holes before its end, but no further back than
//! what can be under way. What is before that is looked at: its last mebibyte whole, and a few blocks
//! of the rest, against the source. No server of OpenSSH's can compute hashes of blocks; where
//! anything differs, the copy starts anew.

use anyhow::Result;

use super::file::Opened;
use crate::limits::{COPY_IN_FLIGHT_BYTES_MAX, COPY_SPOT_BYTES, COPY_SPOTS, COPY_TAIL_BYTES};

/// Smaller files are copied anew.
pub fn is_worth_it(size: u64) -> bool {
    size > u64::from(COPY_IN_FLIGHT_BYTES_MAX) + COPY_TAIL_BYTES
}

/// How many bytes of the target are the source's.
pub async fn start(source: &Opened, target: &Opened, size: u64) -> Result<u64> {
    let there = target.about().await?.size;
    let sure = there.min(size).saturating_sub(u64::from(COPY_IN_FLIGHT_BYTES_MAX));
    if sure <= COPY_TAIL_BYTES {
        return Ok(0);
    }
    for (at, len) in looks(sure) {
        if source.read(at, len).await? != target.read(at, len).await? {
            return Ok(0);
        }
    }
    Ok(sure)
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
