use std::fmt;

use zeroize::Zeroize;

use crate::base::Entropy;
use crate::base::tally::{self, Cost};

/// Bytes drawn from the generator at a time.
const POOL_BYTES: usize = 4096;

/// Random bytes for padding, cookies and seeds, drawn from aws-lc-rs 4 KiB at a time because one
/// draw costs about as much as sealing a small packet.
///
/// Bytes are wiped as they are handed out, and the rest when the pool is dropped. Make a pool after
/// forking, never before: two processes must not hand out the same bytes.
pub struct RandomPool {
    bytes: Box<[u8; POOL_BYTES]>,
    /// Everything before this has been handed out.
    at: usize,
}

impl RandomPool {
    /// An empty pool over the system-seeded generator; the first use fills it.
    pub fn secure() -> RandomPool {
        RandomPool { bytes: Box::new([0; POOL_BYTES]), at: POOL_BYTES }
    }

    /// Forgets what is left. For a process that finds itself forked.
    pub fn clear(&mut self) {
        self.bytes.zeroize();
        self.at = POOL_BYTES;
    }

    /// Hands out at most what is left in the pool; answers how much that was.
    fn take(&mut self, to: &mut [u8]) -> usize {
        let left = self.bytes.get_mut(self.at..).unwrap_or(&mut []);
        let len = left.len().min(to.len());
        for (to, from) in to.iter_mut().zip(left.iter_mut()) {
            *to = *from;
        }
        left.get_mut(..len).unwrap_or(&mut []).zeroize();
        self.at += len;
        len
    }
}

impl Entropy for RandomPool {
    fn fill(&mut self, bytes: &mut [u8]) {
        if bytes.len() >= POOL_BYTES {
            return draw(bytes);
        }
        let mut rest = bytes;
        loop {
            let len = self.take(rest);
            rest = rest.get_mut(len..).unwrap_or(&mut []);
            if rest.is_empty() {
                return;
            }
            draw(self.bytes.as_mut_slice());
            self.at = 0;
        }
    }
}

impl Drop for RandomPool {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for RandomPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomPool")
    }
}

/// A generator that fails leaves nothing safe to do: predictable keys are worse than a dead process.
fn draw(bytes: &mut [u8]) {
    tally::add(Cost::Draws, 1);
    if aws_lc_rs::rand::fill(bytes).is_err() {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_every_byte_once_and_wipes_it() {
        let mut pool = RandomPool::secure();
        let mut first = [0u8; 1000];
        pool.fill(&mut first);
        assert_eq!(pool.at, 1000);
        assert!(pool.bytes[..1000].iter().all(|b| *b == 0));
        let kept = pool.bytes[1000..1032].to_vec();
        assert_ne!(kept, [0; 32]);
        let mut next = [0u8; 32];
        pool.fill(&mut next);
        assert_eq!(next[..], kept[..]);
    }

    #[test]
    fn crosses_refills_and_serves_large_requests() {
        let mut pool = RandomPool::secure();
        for len in [0, 1, 4095, 4096, 4097, 10_000, 3, 2500] {
            let mut bytes = vec![0u8; len];
            pool.fill(&mut bytes);
            // A run of 16 zero bytes in random output is a part that was not filled.
            let longest = bytes.split(|b| *b != 0).map(<[u8]>::len).max().unwrap_or(0);
            assert!(longest < 16, "{len}");
        }
        pool.clear();
        assert!(pool.bytes.iter().all(|b| *b == 0));
    }
}
