//! Lists of small numbers as bytes: four thirds to a byte, and the mixed radix of NTRU Prime (the
//! specification's Encode and Decode). What goes through the second is public.

use super::P;

/// Pairs of numbers give off bytes until their joint modulus is below this.
const MODULUS_END: u32 = 1 << 14;

/// A short polynomial's bytes: coefficients -1, 0 and 1, four to a byte, lowest first.
pub(super) const SMALL_BYTES: usize = P.div_ceil(4);

#[inline(always)]
pub(super) fn encode_small(coefficients: &[i16; P]) -> [u8; SMALL_BYTES] {
    let mut bytes = [0; SMALL_BYTES];
    for (byte, four) in bytes.iter_mut().zip(coefficients.chunks(4)) {
        *byte = four.iter().rev().fold(0, |byte, third| byte << 2 | (third + 1) as u8);
    }
    bytes
}

#[inline(always)]
pub(super) fn decode_small(bytes: &[u8]) -> [i16; P] {
    let mut coefficients = [0; P];
    for (four, byte) in coefficients.chunks_mut(4).zip(bytes) {
        for (place, third) in four.iter_mut().enumerate() {
            *third = i16::from(byte >> (2 * place) & 3) - 1;
        }
    }
    coefficients
}

/// The moduli of a list of numbers: all the same but the last.
#[derive(Clone, Copy)]
struct Moduli {
    each: u32,
    last: u32,
}

impl Moduli {
    /// The moduli of the list of pairs, where a lone last number is a pair by itself.
    fn paired(self, count: usize) -> Moduli {
        let last = match count.is_multiple_of(2) {
            true => Pair::of(self.each, self.last).modulus,
            false => self.last,
        };
        Moduli { each: Pair::of(self.each, self.each).modulus, last }
    }
}

/// Two numbers as one, after its low bytes have left.
#[derive(Clone, Copy)]
struct Pair {
    bytes: u32,
    modulus: u32,
}

impl Pair {
    fn of(low: u32, high: u32) -> Pair {
        let mut pair = Pair { bytes: 0, modulus: low * high };
        while pair.modulus >= MODULUS_END {
            pair = Pair { bytes: pair.bytes + 1, modulus: pair.modulus.div_ceil(256) };
        }
        pair
    }
}

/// Encodes numbers below `modulus` each.
pub(super) fn encode(numbers: &[u16], modulus: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * numbers.len());
    let mut numbers = numbers.to_vec();
    let mut moduli = Moduli { each: u32::from(modulus), last: u32::from(modulus) };
    while numbers.len() > 1 {
        let pairs = numbers.len().div_ceil(2);
        let mut next = Vec::with_capacity(pairs);
        for (place, pair) in numbers.chunks(2).enumerate() {
            next.push(match pair {
                [low, high] => {
                    let is_last = place + 1 == pairs;
                    let bytes =
                        Pair::of(moduli.each, if is_last { moduli.last } else { moduli.each })
                            .bytes;
                    let joint = u32::from(*low) + u32::from(*high) * moduli.each;
                    let (spilt, joint) = spill(joint, bytes);
                    out.extend_from_slice(spilt.get(..bytes as usize).unwrap_or(&spilt));
                    joint
                }
                _ => pair.first().copied().unwrap_or(0),
            });
        }
        moduli = moduli.paired(numbers.len());
        numbers = next;
    }
    if let Some(last) = numbers.first() {
        let bytes = last_bytes(moduli.last);
        out.extend_from_slice(last.to_le_bytes().get(..bytes).unwrap_or(&[]));
    }
    out
}

/// The low bytes that leave, and what stays.
#[inline(always)]
const fn spill(joint: u32, bytes: u32) -> ([u8; 4], u16) {
    (joint.to_le_bytes(), (joint >> (8 * bytes)) as u16)
}

/// Bytes of a last number below `modulus`.
fn last_bytes(modulus: u32) -> usize {
    match modulus {
        0 | 1 => 0,
        2..=256 => 1,
        _ => 2,
    }
}

/// Decodes `count` numbers below `modulus` each. Any bytes give such numbers.
pub(super) fn decode(bytes: &[u8], modulus: u16, count: usize) -> Vec<u16> {
    decode_list(bytes, Moduli { each: u32::from(modulus), last: u32::from(modulus) }, count)
}

/// Halves the list each time, so ten calls deep is the most for 761 numbers.
fn decode_list(bytes: &[u8], moduli: Moduli, count: usize) -> Vec<u16> {
    if count <= 1 {
        let little =
            bytes.iter().take(2).rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        return vec![(little % moduli.last.max(1)) as u16; count];
    }
    let full = count.div_ceil(2) - 1;
    let each = Pair::of(moduli.each, moduli.each);
    let last = match count.is_multiple_of(2) {
        true => Pair::of(moduli.each, moduli.last),
        false => Pair { bytes: 0, modulus: moduli.last },
    };
    let (bottoms, rest) = bytes.split_at(bytes.len().min(full * each.bytes as usize));
    let (bottom, rest) = rest.split_at(rest.len().min(last.bytes as usize));
    let joints = decode_list(rest, moduli.paired(count), count.div_ceil(2));
    let mut numbers = Vec::with_capacity(count + 1);
    let by_each = Divisor::new(moduli.each);
    let mut bottoms = bottoms.chunks(each.bytes.max(1) as usize);
    for joint in joints.iter().take(full) {
        let bottom = if each.bytes == 0 { &[] } else { bottoms.next().unwrap_or(&[]) };
        let (high, low) = by_each.divide(joined(*joint, bottom));
        numbers.extend([low as u16, by_each.divide(high).1 as u16]);
    }
    let joint = joints.last().copied().unwrap_or(0);
    if count.is_multiple_of(2) {
        let (high, low) = by_each.divide(joined(joint, bottom));
        numbers.extend([low as u16, (high % moduli.last.max(1)) as u16]);
    } else {
        numbers.push(joint);
    }
    numbers
}

/// A number and the bytes that left it, lowest first.
#[inline(always)]
fn joined(top: u16, bottom: &[u8]) -> u32 {
    bottom.iter().rev().fold(u32::from(top), |number, byte| number << 8 | u32::from(*byte))
}

/// Division by a number below 2^14 as a multiplication, for dividends below 2^30 and quotients below
/// 2^18: with r = ceil(2^44 / m) the error of `n * r / 2^44` is below n / 2^44 <= 1 / 2^14 < 1 / m.
struct Divisor {
    modulus: u32,
    reciprocal: u64,
}

impl Divisor {
    fn new(modulus: u32) -> Divisor {
        let modulus = modulus.max(1);
        Divisor { modulus, reciprocal: (1u64 << 44).div_ceil(u64::from(modulus)) }
    }

    /// Quotient and remainder.
    #[inline(always)]
    fn divide(&self, number: u32) -> (u32, u32) {
        let quotient = ((u64::from(number) * self.reciprocal) >> 44) as u32;
        (quotient, number.wrapping_sub(quotient.wrapping_mul(self.modulus)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_those_of_the_specification() {
        assert_eq!(encode(&[0; P], 4591).len(), 1158);
        assert_eq!(encode(&[0; P], 1531).len(), 1007);
        assert_eq!(SMALL_BYTES, 191);
    }

    #[test]
    fn division_is_exact_at_every_edge() {
        for modulus in [2u32, 3, 322, 406, 1531, 4591, 16_383] {
            let by = Divisor::new(modulus);
            for quotient in [0, 1, 2, 16_383, (0x3fff_ffff / modulus).min(0x3ffff)] {
                for change in [-1i64, 0, 1] {
                    let number = i64::from(quotient * modulus) + change;
                    let Ok(number) = u32::try_from(number) else { continue };
                    assert_eq!(by.divide(number), (number / modulus, number % modulus));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn numbers_survive(seed in any::<u64>(), count in 1usize..800) {
            for modulus in [4591u16, 1531] {
                let number = |i: usize| {
                    let mixed = seed.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    (mixed >> 40) as u16 % modulus
                };
                let numbers: Vec<u16> = (0..count).map(number).collect();
                let bytes = encode(&numbers, modulus);
                prop_assert_eq!(decode(&bytes, modulus, count), numbers);
            }
        }

        /// A peer chooses the bytes: whatever they are, the numbers stay below the modulus.
        #[test]
        fn any_bytes_give_numbers_below_the_modulus(
            bytes in proptest::collection::vec(any::<u8>(), 0..1300),
        ) {
            for modulus in [4591u16, 1531] {
                let numbers = decode(&bytes, modulus, P);
                prop_assert_eq!(numbers.len(), P);
                prop_assert!(numbers.iter().all(|number| *number < modulus));
            }
        }
    }
}
