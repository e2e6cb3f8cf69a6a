use aws_lc_rs::aead as aws;
#[cfg(feature = "ring")]
use ring::aead as ring;

use super::{Unsealed, parts};
use crate::crypto::{BadTag, CipherKind, CryptoError, DirectionKeys, Provider, Stamp};

/// AES-GCM as SSH uses it (RFC 5647 §7): the nonce is four fixed bytes and a 64-bit counter that
/// starts where key derivation put it; the length field travels in clear and is authenticated.
pub struct GcmKey {
    key: Backend,
    fixed: [u8; 4],
    counter_start: u64,
}

enum Backend {
    AwsLc(aws::LessSafeKey),
    /// Boxed because ring keeps half a kilobyte of tables inline.
    #[cfg(feature = "ring")]
    Ring(Box<ring::LessSafeKey>),
}

impl GcmKey {
    pub(in crate::crypto) fn new(
        provider: Provider,
        keys: &DirectionKeys,
    ) -> Result<GcmKey, CryptoError> {
        let iv = keys.iv();
        let (fixed, counter) = iv.split_first_chunk::<4>().ok_or(CryptoError::Key)?;
        let counter = counter.first_chunk::<8>().ok_or(CryptoError::Key)?;
        let wide = matches!(keys.suite().cipher(), CipherKind::Aes256Gcm);
        let key = match provider {
            Provider::AwsLc => {
                let algorithm = if wide { &aws::AES_256_GCM } else { &aws::AES_128_GCM };
                let key = aws::UnboundKey::new(algorithm, keys.cipher_key());
                Backend::AwsLc(aws::LessSafeKey::new(key.map_err(|_| CryptoError::Key)?))
            }
            #[cfg(feature = "ring")]
            Provider::Ring => {
                let algorithm = if wide { &ring::AES_256_GCM } else { &ring::AES_128_GCM };
                let key = ring::UnboundKey::new(algorithm, keys.cipher_key());
                Backend::Ring(Box::new(ring::LessSafeKey::new(key.map_err(|_| CryptoError::Key)?)))
            }
            _ => return Err(CryptoError::Unsupported),
        };
        Ok(GcmKey { key, fixed: *fixed, counter_start: u64::from_be_bytes(*counter) })
    }

    pub(in crate::crypto) fn seal(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), Unsealed> {
        let nonce = self.nonce(stamp);
        let (length, body, tag) = parts(packet).ok_or(Unsealed)?;
        match &self.key {
            Backend::AwsLc(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                let aad = aws::Aad::from(&*length);
                key.seal_in_place_scatter(nonce, aad, body, &[], tag).map_err(|_| Unsealed)
            }
            #[cfg(feature = "ring")]
            Backend::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let aad = ring::Aad::from(&*length);
                let sealed = key.seal_in_place_separate_tag(nonce, aad, body);
                tag.copy_from_slice(sealed.map_err(|_| Unsealed)?.as_ref());
                Ok(())
            }
        }
    }

    pub(in crate::crypto) fn open(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), BadTag> {
        let nonce = self.nonce(stamp);
        let (length, body, tag) = parts(packet).ok_or(BadTag)?;
        match &self.key {
            Backend::AwsLc(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                let aad = aws::Aad::from(&*length);
                let opened = key.open_in_place_separate_tag(nonce, aad, tag, body);
                opened.map(|_| ()).map_err(|_| BadTag)
            }
            #[cfg(feature = "ring")]
            Backend::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let aad = ring::Aad::from(&*length);
                let tag = ring::Tag::from(*tag);
                let opened = key.open_in_place_separate_tag(nonce, aad, tag, body, 0..);
                opened.map(|_| ()).map_err(|_| BadTag)
            }
        }
    }

    /// RFC 5647 §7.1: the invocation counter is increased by one a packet and wraps.
    fn nonce(&self, stamp: Stamp) -> [u8; 12] {
        let counter = self.counter_start.wrapping_add(stamp.invocation).to_be_bytes();
        let mut nonce = [0; 12];
        for (to, from) in nonce.iter_mut().zip(self.fixed.iter().chain(&counter)) {
            *to = *from;
        }
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use crate::crypto::testing::{frame, keys_for};
    use crate::crypto::{Counters, MacKind, Suite};

    const CIPHERS: [CipherKind; 2] = [CipherKind::Aes128Gcm, CipherKind::Aes256Gcm];

    fn suite(cipher: CipherKind) -> Suite {
        Suite::new(cipher, MacKind::Implicit).expect("an AEAD")
    }

    /// Nonces count up from the derived IV, and the length field is authenticated, not encrypted.
    #[test]
    fn agrees_with_the_reference() {
        for (cipher, provider) in
            CIPHERS.iter().flat_map(|c| Provider::ALL.iter().map(move |p| (*c, *p)))
        {
            let keys = keys_for(suite(cipher), 3);
            let key = GcmKey::new(provider, &keys).expect("a key");
            let (fixed, start) = keys.iv().split_at(4);
            let start = u64::from_be_bytes(start.try_into().expect("eight bytes"));
            let mut counters = Counters::from_parts(77, 0, 0);
            for invocation in 0..40u64 {
                let payload: Vec<u8> = (0..invocation as u8 * 5).collect();
                let clear = frame(suite(cipher).geometry(), &payload);
                let nonce = [fixed, &start.wrapping_add(invocation).to_be_bytes()].concat();
                let (length, body) = clear[..clear.len() - 16].split_at(4);
                let expected = reference::aes_gcm(keys.cipher_key(), &nonce, length, body);
                let mut packet = clear.clone();
                let stamp = counters.stamp(0).expect("fresh keys");
                key.seal(stamp, &mut packet).expect("sealed");
                assert_eq!(packet, [length, &expected].concat(), "{provider:?} {invocation}");
            }
        }
    }

    /// RFC 5647 §7.1: the counter wraps within its eight bytes and leaves the fixed field alone.
    #[test]
    fn the_invocation_counter_wraps() {
        for provider in Provider::ALL {
            let iv = [[0xab; 4].as_slice(), &[0xff; 8]].concat();
            let raw = [7; 16];
            let keys = DirectionKeys::new(suite(CipherKind::Aes128Gcm), &raw, &iv, &[]);
            let key = GcmKey::new(*provider, &keys.expect("exact lengths")).expect("a key");
            let stamp = |invocation| Stamp { seq: 0, invocation, block: 0 };
            assert_eq!(key.nonce(stamp(0))[..], iv);
            let wrapped = [[0xab; 4].as_slice(), &[0; 8]].concat();
            assert_eq!(key.nonce(stamp(1))[..], wrapped);
            assert_eq!(key.nonce(stamp(2))[11], 1);
        }
    }
}
