//! Random polynomials of weight 286, by sorting: constant time, because which numbers are compared
//! with which depends on nothing but how many there are.

use zeroize::Zeroizing;

use super::{P, WEIGHT};
use crate::base::Entropy;

/// Random bytes that one short polynomial takes.
const SEED_BYTES: usize = 4 * P;

/// Draws the randomness of a short polynomial.
pub(super) fn draw(entropy: &mut dyn Entropy) -> Zeroizing<[u32; P]> {
    let mut bytes = Zeroizing::new([0; SEED_BYTES]);
    entropy.fill(bytes.as_mut_slice());
    let mut numbers = Zeroizing::new([0; P]);
    for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *number = u32::from_le_bytes(*bytes);
    }
    numbers
}

/// A polynomial with exactly [`WEIGHT`] coefficients of 1 or -1 and the rest zero. The two low bits
/// of each number say what the coefficient is, the others where it goes.
#[inline(always)]
pub(super) fn short(seed: &[u32; P]) -> Zeroizing<[i16; P]> {
    let mut numbers = Zeroizing::new(*seed);
    let (weighty, zeros) = numbers.split_at_mut(WEIGHT);
    weighty.iter_mut().for_each(|number| *number &= !1);
    zeros.iter_mut().for_each(|number| *number = *number & !2 | 1);
    sort(numbers.as_mut_slice());
    let mut coefficients = Zeroizing::new([0; P]);
    for (coefficient, number) in coefficients.iter_mut().zip(numbers.iter()) {
        *coefficient = (number & 3) as i16 - 1;
    }
    coefficients
}

/// Batcher's merge exchange (Knuth, TAOCP 5.2.2, algorithm M), block by block.
#[inline(always)]
fn sort(numbers: &mut [u32]) {
    let mut top = 1;
    while top < numbers.len().saturating_sub(top) {
        top *= 2;
    }
    let mut near = top;
    while near > 0 {
        for block in numbers.chunks_mut(2 * near) {
            if let Some((low, high)) = block.split_at_mut_checked(near) {
                order(low, high);
            }
        }
        let mut far = top;
        while far > near {
            for at in (near..numbers.len().saturating_sub(far - near)).step_by(2 * near) {
                if let Some((front, high)) = numbers.split_at_mut_checked(at + far - near) {
                    let low = front.get_mut(at..at + near).unwrap_or_default();
                    order(low, high);
                }
            }
            far /= 2;
        }
        near /= 2;
    }
}

/// Puts the smaller of each two numbers into `low`, as far as both go.
#[inline(always)]
fn order(low: &mut [u32], high: &mut [u32]) {
    for (low, high) in low.iter_mut().zip(high) {
        // The borrow of high - low, spread over a mask: no comparison that could become a branch.
        let difference = *low ^ *high;
        let less = (!*high & *low) | (!difference & high.wrapping_sub(*low));
        let swap = difference & 0u32.wrapping_sub(less >> 31);
        *low ^= swap;
        *high ^= swap;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::SeededEntropy;

    #[test]
    fn short_polynomials_have_their_weight() {
        for seed in 0..20 {
            let polynomial = short(&draw(&mut SeededEntropy::new(seed)));
            let count = |wanted: i16| polynomial.iter().filter(|got| **got == wanted).count();
            assert_eq!(count(0), P - WEIGHT);
            assert_eq!(count(1) + count(-1), WEIGHT);
            assert!(count(1) > 90 && count(-1) > 90);
        }
    }

    proptest! {
        #[test]
        fn sorts(mut numbers in proptest::collection::vec(any::<u32>(), 0..900)) {
            let mut expected = numbers.clone();
            expected.sort_unstable();
            sort(&mut numbers);
            prop_assert_eq!(numbers, expected);
        }

        #[test]
        fn orders_every_two(a in any::<u32>(), b in any::<u32>(), near in 0u32..3) {
            for (a, b) in [(a, b), (a, a.wrapping_add(near)), (a ^ 1 << 31, a), (0, a), (a, !0)] {
                let (mut low, mut high) = ([a], [b]);
                order(&mut low, &mut high);
                prop_assert_eq!((low[0], high[0]), (a.min(b), a.max(b)));
            }
        }
    }
}
