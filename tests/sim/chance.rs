//! Drawing from a seed.

use std::time::Duration;

use tidegate::base::SeededEntropy;

/// A stream of draws for one purpose, so that one purpose's draws do not move another's.
pub fn stream(seed: u64, purpose: &str) -> SeededEntropy {
    let hash = purpose.bytes().fold(seed, |hash, byte| crate::bytes::mix(hash ^ u64::from(byte)));
    SeededEntropy::new(hash)
}

pub const fn one_in(entropy: &mut SeededEntropy, n: u64) -> bool {
    entropy.below(n) == 0
}

/// Parts of a million.
pub const fn hits(entropy: &mut SeededEntropy, chance: u32) -> bool {
    chance > 0 && entropy.below(1_000_000) < chance as u64
}

pub fn pick<T: Copy, const N: usize>(entropy: &mut SeededEntropy, from: [T; N]) -> T {
    from[entropy.below(N as u64) as usize]
}

/// Small numbers as often as large ones: its number of bits is drawn first.
pub const fn size(entropy: &mut SeededEntropy, max: u64) -> u64 {
    let bits = entropy.below(64 - max.leading_zeros() as u64 + 1);
    let size = entropy.below(1 << bits);
    if size > max { max } else { size }
}

pub fn up_to(entropy: &mut SeededEntropy, most: Duration) -> Duration {
    Duration::from_nanos(entropy.below(most.as_nanos() as u64 + 1))
}
