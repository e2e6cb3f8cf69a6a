//! Diffie-Hellman modulo a safe prime (RFC 4253 §8, RFC 8268, RFC 4419), by constant-time Montgomery
//! exponentiation. Public values are mpints without their length.

use std::fmt;

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use zeroize::{Zeroize, Zeroizing};

use super::primes::{PRIME_2048, PRIME_4096, PRIME_8192};
use crate::base::{Entropy, unhex};
use crate::crypto::{CryptoError, KexError, RandomPool};
use crate::limits::{DH_BITS_MAX, DH_BITS_MIN, DH_SECRET_BITS};
use crate::wire::mpint_magnitude;

/// Random bases that a prime of the server's must pass. A composite passes one with a chance of at
/// most one in four, if it was made for that, and otherwise never.
const WITNESSES: usize = 2;

/// A prime modulus and a generator.
#[derive(Clone)]
pub struct Group {
    params: BoxedMontyParams,
    generator: BoxedUint,
    bits: u32,
}

impl Group {
    /// RFC 3526 §3.
    pub fn of_2048_bits() -> Option<Group> {
        Group::new(&unhex(PRIME_2048)?, &[2])
    }

    /// RFC 3526 §5.
    pub fn of_4096_bits() -> Option<Group> {
        Group::new(&unhex(PRIME_4096)?, &[2])
    }

    /// RFC 3526 §7.
    pub fn of_8192_bits() -> Option<Group> {
        Group::new(&unhex(PRIME_8192)?, &[2])
    }

    /// From magnitudes, big-endian. `None` unless the modulus is odd and has between
    /// [`DH_BITS_MIN`] and [`DH_BITS_MAX`] bits, and the generator lies between 1 and it less 1.
    /// That the modulus is prime is not looked at.
    pub fn new(prime: &[u8], generator: &[u8]) -> Option<Group> {
        let zeros = prime.iter().take_while(|byte| **byte == 0).count();
        let prime = prime.get(zeros..)?;
        let bits = (8 * prime.len() as u32).checked_sub(prime.first()?.leading_zeros())?;
        if !(DH_BITS_MIN..=DH_BITS_MAX).contains(&bits) {
            return None;
        }
        let precision = 8 * prime.len() as u32;
        let modulus = BoxedUint::from_be_slice(prime, precision).ok()?;
        let params = BoxedMontyParams::new_vartime(Odd::new(modulus).into_option()?);
        let generator = BoxedUint::from_be_slice(generator, precision).ok()?;
        let group = Group { params, generator, bits };
        group.is_inside(&group.generator).then_some(group)
    }

    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// The modulus, big-endian without leading zeros.
    pub fn prime(&self) -> Vec<u8> {
        magnitude(&self.params.modulus().as_ref().to_be_bytes())
    }

    /// The generator, big-endian without leading zeros.
    pub fn generator(&self) -> Vec<u8> {
        magnitude(&self.generator.to_be_bytes())
    }

    /// Whether the modulus is what a safe prime looks like: 3 modulo 4, and a strong probable prime
    /// to a few random bases (Miller and Rabin, whose loop is one step for such a number). Takes up
    /// to a second: for a client whose server chose the group.
    pub fn looks_safe(&self, entropy: &mut dyn Entropy) -> bool {
        let prime = self.params.modulus().as_ref();
        if self.prime().last().is_none_or(|last| last & 3 != 3) {
            return false;
        }
        let half = prime.shr(1);
        let minus_one = prime.wrapping_sub(BoxedUint::one());
        (0..WITNESSES).all(|_| {
            // A byte shorter than the modulus, so below it; odd, so not zero.
            let mut base = vec![0; self.bits as usize / 8 - 1];
            entropy.fill(&mut base);
            if let Some(last) = base.last_mut() {
                *last |= 1;
            }
            let Ok(base) = BoxedUint::from_be_slice(&base, self.precision()) else { return false };
            let power = BoxedMontyForm::new(base, &self.params).pow(&half).retrieve();
            power == minus_one || power == BoxedUint::one_with_precision(self.precision())
        })
    }

    /// Whether this can be a peer's public value: to be asked before time is spent on it.
    pub fn check(&self, public: &[u8]) -> Result<(), KexError> {
        self.check_public(public).map(|_| ())
    }

    /// RFC 4253 §8: 1 < y < p - 1. And as OpenSSH has it, more than a few bits are set, because a
    /// power of two would give its exponent away.
    pub(super) fn check_public(&self, public: &[u8]) -> Result<BoxedUint, KexError> {
        let magnitude = mpint_magnitude(public).map_err(|_| KexError::Invalid)?;
        let value = BoxedUint::from_be_slice(magnitude, self.precision());
        let value = value.map_err(|_| KexError::Length)?;
        let set: u32 = magnitude.iter().map(|byte| byte.count_ones()).sum();
        if set < PUBLIC_ONES_MIN || !self.is_inside(&value) {
            return Err(KexError::Invalid);
        }
        Ok(value)
    }

    /// 1 < value < p - 1.
    fn is_inside(&self, value: &BoxedUint) -> bool {
        let prime = self.params.modulus().as_ref();
        let one = BoxedUint::one_with_precision(self.precision());
        *value > one && *value < prime.wrapping_sub(&one)
    }

    fn precision(&self) -> u32 {
        self.params.bits_precision()
    }

    /// Constant time but for the length of `exponent`.
    fn power(&self, base: BoxedUint, exponent: &BoxedUint) -> Zeroizing<BoxedUint> {
        let mut base = BoxedMontyForm::new(base, &self.params);
        let mut power = base.pow_bounded_exp(exponent, DH_SECRET_BITS);
        let result = Zeroizing::new(power.retrieve());
        base.as_montgomery_mut().zeroize();
        power.as_montgomery_mut().zeroize();
        result
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({} bits)", self.bits)
    }
}

/// Fewer bits than this set in a public value, and its exponent is all but known.
const PUBLIC_ONES_MIN: u32 = 4;

/// An ephemeral exponent and its group: [`ModpSecret::agree`] uses it up.
pub(super) struct ModpSecret {
    group: Group,
    exponent: Zeroizing<BoxedUint>,
}

impl ModpSecret {
    /// The exponent is short, as RFC 3526 §8 and OpenSSH have it: in a group of a safe prime that
    /// is as hard as its bits halved, and saves most of the work.
    pub(super) fn generate(group: &Group) -> Result<(ModpSecret, Vec<u8>), CryptoError> {
        let mut bytes = Zeroizing::new([0; DH_SECRET_BITS as usize / 8]);
        RandomPool::secure().fill(bytes.as_mut_slice());
        ModpSecret::from_exponent(group, bytes.as_slice())
    }

    fn from_exponent(group: &Group, bytes: &[u8]) -> Result<(ModpSecret, Vec<u8>), CryptoError> {
        let exponent = BoxedUint::from_be_slice(bytes, DH_SECRET_BITS);
        let exponent = Zeroizing::new(exponent.map_err(|_| CryptoError::Key)?);
        let public = group.power(group.generator.clone(), &exponent);
        let public = mpint(&public.to_be_bytes());
        Ok((ModpSecret { group: group.clone(), exponent }, public))
    }

    /// The shared number, big-endian, as long as the modulus.
    pub(super) fn agree(self, public: &[u8]) -> Result<Zeroizing<Vec<u8>>, KexError> {
        let public = self.group.check_public(public)?;
        let shared = self.group.power(public, &self.exponent);
        Ok(Zeroizing::new(shared.to_be_bytes().into_vec()))
    }
}

fn magnitude(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
}

/// RFC 4251 §5, without the length.
fn mpint(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = magnitude(bytes);
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        bytes.insert(0, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SeededEntropy;

    fn group() -> Group {
        Group::of_2048_bits().expect("group 14")
    }

    fn plus(bytes: &[u8], change: i16) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let last = bytes.last_mut().expect("bytes");
        *last = u8::try_from(i16::from(*last) + change).expect("no carry");
        bytes
    }

    /// Numbers from an independent implementation: g^x and g^(xy) in group 14.
    #[test]
    fn known_agreement() {
        let text = include_str!("modp_vector.txt");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let [x, y, public_x, public_y, shared] = lines[..] else { panic!("five numbers") };
        let bytes = |text| unhex(text).expect("hexadecimal");
        for (ours, our_public, their_public) in [(x, public_x, public_y), (y, public_y, public_x)] {
            let (secret, public) = ModpSecret::from_exponent(&group(), &bytes(ours)).expect("made");
            assert_eq!(magnitude(&public), bytes(our_public));
            let agreed = secret.agree(&mpint(&bytes(their_public))).expect("agreed");
            assert_eq!(magnitude(&agreed), bytes(shared));
        }
    }

    #[test]
    fn fixed_groups_have_their_sizes() {
        let sizes = [Group::of_2048_bits(), Group::of_4096_bits(), Group::of_8192_bits()];
        let bits: Vec<u32> = sizes.iter().flatten().map(Group::bits).collect();
        assert_eq!(bits, [2048, 4096, 8192]);
        assert!(group().looks_safe(&mut SeededEntropy::new(3)));
    }

    /// SECURITY case 27: what is no public value, at both edges and in every wrong spelling.
    #[test]
    fn case_27_public_values_out_of_range() {
        let group = group();
        let prime = group.prime();
        let refused = |public: &[u8]| group.check_public(public).map(|_| ()).expect_err("refused");
        for magnitude in [
            vec![],
            vec![1],
            plus(&prime, -1),
            prime.clone(),
            vec![0xff; 256],
            // 2^k for a small k: the exponent can be read off.
            vec![2],
            vec![1, 0, 0, 0],
        ] {
            assert_eq!(refused(&mpint(&magnitude)), KexError::Invalid, "{magnitude:02x?}");
        }
        let longer = [&[0x7f][..], &prime].concat();
        assert_eq!(refused(&longer), KexError::Length);
        let honest = ModpSecret::generate(&group).expect("a secret").1;
        assert!(group.check_public(&honest).is_ok());
        assert!(group.check_public(&mpint(&plus(&prime, -2))).is_ok());
        // Not minimal, and negative (RFC 4251 §5).
        assert_eq!(refused(&[&[0, 0], &honest[..]].concat()), KexError::Invalid);
        assert_eq!(refused(&[0]), KexError::Invalid);
        let mut negative = vec![0x80];
        negative.extend_from_slice(&honest[honest.len() - 200..]);
        assert_eq!(refused(&negative), KexError::Invalid);
    }

    /// SECURITY case 28: a server's group that is small, even, composite or trivially generated.
    #[test]
    fn case_28_groups_that_are_none() {
        let prime = group().prime();
        assert!(Group::new(&prime[..255], &[2]).is_none(), "2040 bits");
        assert!(Group::new(&plus(&prime, -1), &[2]).is_none(), "even");
        assert!(Group::new(&[0xff; 1025], &[2]).is_none(), "8200 bits");
        assert!(Group::new(&[], &[2]).is_none() && Group::new(&[0; 300], &[2]).is_none());
        for generator in [&[][..], &[0], &[1], &plus(&prime, -1), &prime] {
            assert!(Group::new(&prime, generator).is_none(), "{generator:02x?}");
        }
        let mut entropy = SeededEntropy::new(1);
        // Odd, 3 modulo 4 and composite; and a prime's neighbour that is 1 modulo 4.
        for change in [-4, -2] {
            let composite = Group::new(&plus(&prime, change), &[2]).expect("the right size");
            assert!(!composite.looks_safe(&mut entropy), "p{change}");
        }
    }
}
