//! Streamlined NTRU Prime 761 (RFC 9941, and the specification at ntruprime.cr.yp.to):
//! compiled for AVX2 besides and chosen at run time, because a server encapsulates for every login of a
//! stock client, and a client makes a pair of keys for every server of some years.

mod coding;
mod key;
mod ring;
mod short;

use zeroize::{Zeroize, Zeroizing};

pub(super) use self::key::generate;

use self::coding::{SMALL_BYTES, decode, decode_small, encode, encode_small};
use self::ring::{HALF_Q, modulo_3, modulo_q, multiply, rounded, unrounded};
use crate::base::{Entropy, Wide, run_wide};
use crate::crypto::HashKind;

/// Coefficients of a polynomial.
const P: usize = 761;
/// The modulus of a public key's coefficients.
const Q: u16 = 4591;
/// Residues that are left of [`Q`] by rounding to multiples of three.
const Q_ROUNDED: u16 = Q.div_ceil(3);
/// Coefficients of a short polynomial that are not zero.
const WEIGHT: usize = 286;

/// An encapsulation key.
pub(super) const KEY_BYTES: usize = 1158;
/// A rounded polynomial and a hash that confirms it.
pub(super) const CIPHERTEXT_BYTES: usize = ROUNDED_BYTES + HASH_BYTES;
/// A decapsulation key: f, 1/g, the encapsulation key, the secret of failures, the key's hash.
pub(super) const SECRET_BYTES: usize = 3 * SMALL_BYTES + KEY_BYTES + HASH_BYTES;

const ROUNDED_BYTES: usize = 1007;
const HASH_BYTES: usize = 32;

pub(super) type Shared = Zeroizing<[u8; HASH_BYTES]>;

/// Makes a secret and the ciphertext that tells it to the key's owner. Every key can be encapsulated
/// to: coefficients out of range are taken modulo, as in the reference code.
pub(super) fn encapsulate(key: &[u8; KEY_BYTES], entropy: &mut dyn Entropy) -> (Vec<u8>, Shared) {
    let short = run_wide(Short(&short::draw(entropy)));
    let sealed = seal(&short, key, hash(4, &[key]).as_slice());
    let secret = session(1, &sealed.small, &sealed.ciphertext);
    (sealed.ciphertext, secret)
}

/// The secret in a ciphertext; in one that nobody made for this key, an unrelated secret (implicit
/// rejection), in the same time.
pub(super) fn decapsulate(secret: &[u8; SECRET_BYTES], ciphertext: &[u8]) -> Shared {
    let (f, rest) = secret.split_at(SMALL_BYTES);
    let (g_inverse, rest) = rest.split_at(SMALL_BYTES);
    let (key, rest) = rest.split_at(KEY_BYTES);
    let (failure, key_hash) = rest.split_at(SMALL_BYTES);
    let counts = decode(ciphertext.get(..ROUNDED_BYTES).unwrap_or(&[]), Q_ROUNDED, P);
    let short = run_wide(Decrypt { counts: &counts, f, g_inverse });
    let sealed = seal(&short, key, key_hash);
    let same = aws_lc_rs::constant_time::verify_slices_are_equal(&sealed.ciphertext, ciphertext);
    // All ones where the ciphertext is another; a byte of it chooses between the two secrets.
    let other = 0u8.wrapping_sub(u8::from(same.is_err()));
    let mut chosen = Zeroizing::new([0; SMALL_BYTES]);
    for ((chosen, small), failure) in chosen.iter_mut().zip(sealed.small.iter()).zip(failure) {
        *chosen = small ^ (other & (small ^ failure));
    }
    session(1 & !other, &chosen, ciphertext)
}

/// A short polynomial as bytes, and sealed to a key.
struct Sealed {
    small: Zeroizing<[u8; SMALL_BYTES]>,
    ciphertext: Vec<u8>,
}

/// Deterministic, so that a decapsulation can check what it was sent.
fn seal(short: &[i16; P], key: &[u8], key_hash: &[u8]) -> Sealed {
    let numbers = decode(key, Q, P);
    let counts = run_wide(Encrypt { numbers: &numbers, short });
    let small = Zeroizing::new(encode_small(short));
    let mut ciphertext = encode(counts.as_slice(), Q_ROUNDED);
    ciphertext.extend_from_slice(
        hash(2, &[hash(3, &[small.as_slice()]).as_slice(), key_hash]).as_slice(),
    );
    Sealed { small, ciphertext }
}

/// The shared secret of a session, or under prefix 0 what stands for one.
fn session(prefix: u8, small: &[u8; SMALL_BYTES], ciphertext: &[u8]) -> Shared {
    hash(prefix, &[hash(3, &[small]).as_slice(), ciphertext])
}

/// The first half of SHA-512 over a prefix and the parts.
fn hash(prefix: u8, parts: &[&[u8]]) -> Shared {
    let mut hasher = HashKind::Sha512.hasher();
    hasher.update(&[prefix]);
    parts.iter().for_each(|part| hasher.update(part));
    let mut digest = hasher.finish();
    let mut half = Zeroizing::new([0; HASH_BYTES]);
    for (to, from) in half.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    digest.zeroize();
    half
}

struct Short<'a>(&'a [u32; P]);

impl Wide for Short<'_> {
    type Output = Zeroizing<[i16; P]>;

    #[inline(always)]
    fn run(self) -> Zeroizing<[i16; P]> {
        short::short(self.0)
    }
}

/// The key's numbers times a short polynomial, rounded.
struct Encrypt<'a> {
    numbers: &'a [u16],
    short: &'a [i16; P],
}

impl Wide for Encrypt<'_> {
    type Output = Zeroizing<[u16; P]>;

    #[inline(always)]
    fn run(self) -> Zeroizing<[u16; P]> {
        let mut key = [0; P];
        for (coefficient, number) in key.iter_mut().zip(self.numbers) {
            *coefficient = (i32::from(*number) - HALF_Q) as i16;
        }
        let mut counts = Zeroizing::new([0; P]);
        for (count, sum) in counts.iter_mut().zip(multiply(&key, self.short).iter()) {
            *count = rounded(modulo_q(*sum));
        }
        counts
    }
}

/// The short polynomial in a rounded one: ((3 f c) mod q) / g mod 3, and one of a fixed shape where
/// its weight is wrong.
struct Decrypt<'a> {
    counts: &'a [u16],
    f: &'a [u8],
    g_inverse: &'a [u8],
}

impl Wide for Decrypt<'_> {
    type Output = Zeroizing<[i16; P]>;

    #[inline(always)]
    fn run(self) -> Zeroizing<[i16; P]> {
        let mut rounded = [0; P];
        for (coefficient, count) in rounded.iter_mut().zip(self.counts) {
            *coefficient = unrounded(*count);
        }
        let f = Zeroizing::new(decode_small(self.f));
        let mut thirds = Zeroizing::new([0; P]);
        for (third, sum) in thirds.iter_mut().zip(multiply(&rounded, &f).iter()) {
            *third = modulo_3(i32::from(modulo_q(3 * i32::from(modulo_q(*sum)))));
        }
        let g_inverse = Zeroizing::new(decode_small(self.g_inverse));
        let mut short = Zeroizing::new([0; P]);
        for (coefficient, sum) in short.iter_mut().zip(multiply(&thirds, &g_inverse).iter()) {
            *coefficient = modulo_3(*sum);
        }
        let weight: i16 = short.iter().map(|coefficient| coefficient & 1).sum();
        // All ones where the weight is wrong.
        let excess = weight - WEIGHT as i16;
        let wrong = (excess | -excess) >> 15;
        for (place, coefficient) in short.iter_mut().enumerate() {
            let instead = i16::from(place < WEIGHT);
            *coefficient ^= wrong & (*coefficient ^ instead);
        }
        short
    }
}

#[cfg(test)]
mod tests;
