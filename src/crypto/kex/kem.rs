//! Key encapsulation: ML-KEM-768 (FIPS 203) and Streamlined NTRU Prime 761.

use std::convert::Infallible;

use aws_lc_rs::kem;
use sntrup761::rand::{TryCryptoRng, TryRng};
use zeroize::Zeroizing;

use crate::base::Entropy;
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
            Kem::Sntrup761 => sntrup761::PUBLIC_KEY_SIZE,
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
                let key = sntrup761::EncapsulationKey::try_from(key);
                let key = key.map_err(|_| KexError::Length)?;
                let (ciphertext, secret) = key.encapsulate(SecureGenerator(RandomPool::secure()));
                Ok((ciphertext.as_ref().to_vec(), Zeroizing::new(secret.as_ref().to_vec())))
            }
        }
    }
}

/// A decapsulation key.
pub(super) enum KemSecret {
    MlKem768(kem::DecapsulationKey),
    Sntrup761(Box<sntrup761::DecapsulationKey>),
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
                let (key, secret) = sntrup761::generate_key(SecureGenerator(RandomPool::secure()));
                Ok((KemSecret::Sntrup761(Box::new(secret)), key.as_ref().to_vec()))
            }
        }
    }

    /// Bytes of the server's ciphertext.
    pub(super) const fn ciphertext_bytes(&self) -> usize {
        match self {
            KemSecret::MlKem768(_) => ML_KEM_768_CIPHERTEXT_BYTES,
            KemSecret::Sntrup761(_) => sntrup761::CIPHERTEXT_SIZE,
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
                let ciphertext = sntrup761::Ciphertext::try_from(ciphertext);
                let secret = key.decapsulate(&ciphertext.map_err(|_| KexError::Length)?);
                Ok(Zeroizing::new(secret.as_ref().to_vec()))
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

/// The library's generator in the shape the NTRU Prime crate asks for; pooled, because that crate
/// draws four bytes at a time.
struct SecureGenerator(RandomPool);

impl TryRng for SecureGenerator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for SecureGenerator {}
