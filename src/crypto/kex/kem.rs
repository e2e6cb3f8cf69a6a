//! Key encapsulation: ML-KEM-768 (FIPS 203) and Streamlined NTRU Prime 761.

use aws_lc_rs::kem;
use zeroize::Zeroizing;

use super::sntrup;
use crate::crypto::{CryptoError, KexError, RandomPool};

const ML_KEM_768_KEY_BYTES: usize = 1184;
const ML_KEM_768_CIPHERTEXT_BYTES: usize = 1088;
/// The part of an ML-KEM key that holds coefficients, twelve bits each; a 32-byte seed follows.
const ML_KEM_768_COEFFICIENTS_BYTES: usize = 1152;
/// The modulus of ML-KEM.
const ML_KEM_Q: u16 = 3329;

#[derive(Clone, Copy)]
pub(super) enum Kem {
    MlKem768,
    Sntrup761,
}

impl Kem {
    /// Bytes of the client's encapsulation key.
    pub(super) const fn key_bytes(self) -> usize {
        match self {
            Kem::MlKem768 => ML_KEM_768_KEY_BYTES,
            Kem::Sntrup761 => sntrup::KEY_BYTES,
        }
    }

    /// Answers the ciphertext to send and the secret inside it.
    pub(super) fn encapsulate(self, key: &[u8]) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), KexError> {
        match self {
            Kem::MlKem768 => {
                if key.len() != ML_KEM_768_KEY_BYTES {
                    return Err(KexError::Length);
                }
                if !has_reduced_coefficients(key) {
                    return Err(KexError::Invalid);
                }
                let key = kem::EncapsulationKey::new(&kem::ML_KEM_768, key);
                let key = key.map_err(|_| KexError::Invalid)?;
                let (ciphertext, secret) = key.encapsulate().map_err(|_| KexError::Invalid)?;
                Ok((ciphertext.as_ref().to_vec(), Zeroizing::new(secret.as_ref().to_vec())))
            }
            Kem::Sntrup761 => {
                let key = key.try_into().map_err(|_| KexError::Length)?;
                let (ciphertext, secret) = sntrup::encapsulate(key, &mut RandomPool::secure());
                Ok((ciphertext, Zeroizing::new(secret.to_vec())))
            }
        }
    }
}

/// A decapsulation key.
pub(super) enum KemSecret {
    MlKem768(kem::DecapsulationKey),
    Sntrup761(Box<Zeroizing<[u8; sntrup::SECRET_BYTES]>>),
}

impl KemSecret {
    /// Answers the encapsulation key to send as well.
    pub(super) fn generate(kem: Kem) -> Result<(KemSecret, Vec<u8>), CryptoError> {
        match kem {
            Kem::MlKem768 => {
                let secret = kem::DecapsulationKey::generate(&kem::ML_KEM_768)
                    .map_err(|_| CryptoError::Library)?;
                let key = secret.encapsulation_key().and_then(|key| key.key_bytes());
                let key = key.map_err(|_| CryptoError::Library)?.as_ref().to_vec();
                Ok((KemSecret::MlKem768(secret), key))
            }
            Kem::Sntrup761 => {
                let (key, secret) = sntrup::generate(&mut RandomPool::secure());
                Ok((KemSecret::Sntrup761(secret), key.to_vec()))
            }
        }
    }

    /// Bytes of the server's ciphertext.
    pub(super) const fn ciphertext_bytes(&self) -> usize {
        match self {
            KemSecret::MlKem768(_) => ML_KEM_768_CIPHERTEXT_BYTES,
            KemSecret::Sntrup761(_) => sntrup::CIPHERTEXT_BYTES,
        }
    }

    /// A damaged ciphertext gives an unrelated secret, not an error; the exchange hash then differs
    /// and the server's signature does not verify.
    pub(super) fn decapsulate(self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, KexError> {
        if ciphertext.len() != self.ciphertext_bytes() {
            return Err(KexError::Length);
        }
        match self {
            KemSecret::MlKem768(key) => {
                let secret = key.decapsulate(kem::Ciphertext::from(ciphertext));
                let secret = secret.map_err(|_| CryptoError::Library)?;
                Ok(Zeroizing::new(secret.as_ref().to_vec()))
            }
            KemSecret::Sntrup761(key) => {
                Ok(Zeroizing::new(sntrup::decapsulate(&key, ciphertext).to_vec()))
            }
        }
    }
}

/// FIPS 203 §7.2, the modulus check: every 12-bit coefficient of the key is below q.
fn has_reduced_coefficients(key: &[u8]) -> bool {
    let coefficients = key.get(..ML_KEM_768_COEFFICIENTS_BYTES).unwrap_or(&[]);
    let (triples, rest) = coefficients.as_chunks::<3>();
    rest.is_empty()
        && triples.iter().all(|[low, middle, high]| {
            let first = u16::from(*low) | (u16::from(*middle & 0x0f) << 8);
            let second = u16::from(*middle >> 4) | (u16::from(*high) << 4);
            first < ML_KEM_Q && second < ML_KEM_Q
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEMS: [Kem; 2] = [Kem::MlKem768, Kem::Sntrup761];

    #[test]
    fn round_trips_and_lengths() {
        for kem in KEMS {
            let (secret, key) = KemSecret::generate(kem).expect("a key");
            assert_eq!(key.len(), kem.key_bytes());
            let (ciphertext, ours) = kem.encapsulate(&key).expect("a ciphertext");
            assert_eq!(ciphertext.len(), secret.ciphertext_bytes());
            assert_eq!(ours.len(), 32);
            assert_eq!(secret.decapsulate(&ciphertext), Ok(ours));
        }
    }

    /// SECURITY case 26: a damaged ciphertext gives a secret that nobody else has.
    #[test]
    fn case_26_damaged_ciphertext() {
        for kem in KEMS {
            let (secret, key) = KemSecret::generate(kem).expect("a key");
            let (mut ciphertext, ours) = kem.encapsulate(&key).expect("a ciphertext");
            ciphertext[500] ^= 1;
            let theirs = secret.decapsulate(&ciphertext).expect("implicit rejection");
            assert_ne!(*ours, *theirs);
        }
    }

    #[test]
    fn case_26_lengths() {
        for kem in KEMS {
            for wrong in [0, 32, kem.key_bytes() - 1, kem.key_bytes() + 1] {
                let refused = kem.encapsulate(&vec![0; wrong]).map(|_| ());
                assert_eq!(refused, Err(KexError::Length));
            }
            for change in [-1, 1] {
                let (secret, _) = KemSecret::generate(kem).expect("a key");
                let wrong = secret.ciphertext_bytes().checked_add_signed(change).expect("small");
                let refused = secret.decapsulate(&vec![0; wrong]).map(|_| ());
                assert_eq!(refused, Err(KexError::Length));
            }
        }
    }

    /// SECURITY case 26: 3328 is the largest coefficient of a key, at every place in it.
    #[test]
    fn case_26_unreduced_coefficients() {
        let (_, key) = KemSecret::generate(Kem::MlKem768).expect("a key");
        assert!(has_reduced_coefficients(&key));
        for place in [0, 1, 2, 255, 256, 400, 766, 767] {
            for (value, reduced) in [(0, true), (3328, true), (3329, false), (4095, false)] {
                let mut key = key.clone();
                set_coefficient(&mut key, place, value);
                assert_eq!(has_reduced_coefficients(&key), reduced, "{value} at {place}");
                let answer = Kem::MlKem768.encapsulate(&key).map(|_| ());
                assert_eq!(answer, if reduced { Ok(()) } else { Err(KexError::Invalid) });
            }
        }
    }

    fn set_coefficient(key: &mut [u8], place: usize, value: u16) {
        let at = place / 2 * 3;
        if place.is_multiple_of(2) {
            key[at] = value as u8;
            key[at + 1] = key[at + 1] & 0xf0 | (value >> 8) as u8;
        } else {
            key[at + 1] = key[at + 1] & 0x0f | (value << 4) as u8;
            key[at + 2] = (value >> 4) as u8;
        }
    }
}
