use aws_lc_rs::{cipher, constant_time, hmac, iv::FixedLength};

use super::{LENGTH_BYTES, Unsealed};
use crate::crypto::{
    BadTag, CipherKind, CryptoError, DirectionKeys, Geometry, MacKind, Provider, Stamp,
};

/// AES in counter mode (RFC 4344 §4) with an HMAC (RFC 4253 §6.4, RFC 6668), before or after encryption.
///
/// The library's streaming context carries its counter along, which would tie sealing to one
/// thread and one order. Here the counter of a packet's first block is computed from its place.
pub struct CtrMacKey {
    cipher: cipher::EncryptingKey,
    counter_start: u128,
    mac: hmac::Key,
    kind: MacKind,
}

impl CtrMacKey {
    pub(in crate::crypto) fn new(
        provider: Provider,
        keys: &DirectionKeys,
    ) -> Result<CtrMacKey, CryptoError> {
        if provider != Provider::AwsLc {
            return Err(CryptoError::Unsupported);
        }
        let algorithm = match keys.suite().cipher() {
            CipherKind::Aes128Ctr => &cipher::AES_128,
            CipherKind::Aes192Ctr => &cipher::AES_192,
            CipherKind::Aes256Ctr => &cipher::AES_256,
            _ => return Err(CryptoError::Unsupported),
        };
        let kind = keys.suite().mac();
        let digest = match kind {
            MacKind::HmacSha256 | MacKind::HmacSha256Etm => hmac::HMAC_SHA256,
            MacKind::HmacSha512 | MacKind::HmacSha512Etm => hmac::HMAC_SHA512,
            MacKind::HmacSha1 | MacKind::HmacSha1Etm => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            MacKind::Implicit => return Err(CryptoError::Unsupported),
        };
        let key = cipher::UnboundCipherKey::new(algorithm, keys.cipher_key())
            .and_then(cipher::EncryptingKey::ctr)
            .map_err(|_| CryptoError::Key)?;
        let iv = keys.iv().first_chunk::<16>().ok_or(CryptoError::Key)?;
        Ok(CtrMacKey {
            cipher: key,
            counter_start: u128::from_be_bytes(*iv),
            mac: hmac::Key::new(digest, keys.mac_key()),
            kind,
        })
    }

    pub(in crate::crypto) const fn geometry(&self) -> Geometry {
        Geometry { block: 16, tag: self.kind.tag_bytes(), length_is_padded: !self.kind.is_etm() }
    }

    pub(in crate::crypto) fn seal(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), Unsealed> {
        let (message, tag) = self.split_tag(packet).ok_or(Unsealed)?;
        if self.kind.is_etm() {
            let body = message.get_mut(LENGTH_BYTES..).ok_or(Unsealed)?;
            self.apply_keystream(stamp.block, body).map_err(|_| Unsealed)?;
            tag.copy_from_slice(self.tag(stamp.seq, message).as_ref());
            Ok(())
        } else {
            tag.copy_from_slice(self.tag(stamp.seq, message).as_ref());
            self.apply_keystream(stamp.block, message).map_err(|_| Unsealed)
        }
    }

    /// The length in the first four bytes of a packet that begins at `block`.
    pub(in crate::crypto) fn packet_length(&self, block: u64, first: [u8; 4]) -> [u8; 4] {
        let mut length = first;
        if !self.kind.is_etm() && self.apply_keystream(block, &mut length).is_err() {
            return [0xff; 4];
        }
        length
    }

    pub(in crate::crypto) fn open(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), BadTag> {
        let (message, tag) = self.split_tag(packet).ok_or(BadTag)?;
        if self.kind.is_etm() {
            self.check(stamp.seq, message, tag)?;
            let body = message.get_mut(LENGTH_BYTES..).ok_or(BadTag)?;
            self.apply_keystream(stamp.block, body).map_err(|_| BadTag)
        } else {
            self.apply_keystream(stamp.block, message).map_err(|_| BadTag)?;
            self.check(stamp.seq, message, tag)
        }
    }

    fn split_tag<'p>(&self, packet: &'p mut [u8]) -> Option<(&'p mut [u8], &'p mut [u8])> {
        let at = packet.len().checked_sub(self.kind.tag_bytes() as usize)?;
        packet.split_at_mut_checked(at)
    }

    /// RFC 4253 §6.4: over the sequence number and the packet, whole or encrypted.
    fn tag(&self, seq: u32, message: &[u8]) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&self.mac);
        mac.update(&seq.to_be_bytes());
        mac.update(message);
        mac.sign()
    }

    fn check(&self, seq: u32, message: &[u8], tag: &[u8]) -> Result<(), BadTag> {
        let expected = self.tag(seq, message);
        constant_time::verify_slices_are_equal(expected.as_ref(), tag).map_err(|_| BadTag)
    }

    /// RFC 4344 §4: the counter is a 128-bit big-endian number that wraps.
    fn apply_keystream(&self, block: u64, bytes: &mut [u8]) -> Result<(), CryptoError> {
        let counter = self.counter_start.wrapping_add(u128::from(block)).to_be_bytes();
        let context = cipher::EncryptionContext::Iv128(FixedLength::from(&counter));
        let done = self.cipher.less_safe_encrypt(bytes, context);
        done.map(|_| ()).map_err(|_| CryptoError::Library)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Suite;
    use crate::crypto::testing::{frame, keys_for, unhex};

    fn stamp(seq: u32, block: u64) -> Stamp {
        Stamp { seq, invocation: 0, block }
    }

    fn key(cipher: CipherKind, mac: MacKind, parts: [&[u8]; 3]) -> CtrMacKey {
        let suite = Suite::new(cipher, mac).expect("a MAC");
        let [cipher_key, iv, mac_key] = parts;
        let keys = DirectionKeys::new(suite, cipher_key, iv, mac_key).expect("exact lengths");
        CtrMacKey::new(Provider::AwsLc, &keys).expect("a key")
    }

    /// NIST SP 800-38A §F.5: the whole message, and its second half from its own block on.
    #[test]
    fn known_keystreams() {
        let vectors = [
            (
                CipherKind::Aes128Ctr,
                "2b7e151628aed2a6abf7158809cf4f3c",
                "874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff
                 5ae4df3edbd5d35e5b4f09020db03eab 1e031dda2fbe03d1792170a0f3009cee",
            ),
            (
                CipherKind::Aes192Ctr,
                "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
                "1abc932417521ca24f2b0459fe7e6e0b 090339ec0aa6faefd5ccc2c6f4ce8e94
                 1e36b26bd1ebc670d1bd1d665620abf7 4f78a7f6d29809585a97daec58c6b050",
            ),
            (
                CipherKind::Aes256Ctr,
                "603deb1015ca71be2b73aef0857d7781 1f352c073b6108d72d9810a30914dff4",
                "601ec313775789a5b7a7f504bbf3d228 f443e3ca4d62b59aca84e990cacaf5c5
                 2b0930daa23de94ce87017ba2d84988d dfc9c58db67aada613c2dd08457941a6",
            ),
        ];
        let counter = unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
        let plain = unhex(
            "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51
             30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710",
        );
        for (cipher, cipher_key, expected) in vectors {
            let expected = unhex(expected);
            for mac in [MacKind::HmacSha256, MacKind::HmacSha256Etm] {
                let key = key(cipher, mac, [&unhex(cipher_key), &counter, &[0; 32]]);
                let clear_bytes = if mac.is_etm() { 4 } else { 0 };
                for block in 0..4 {
                    let at = 16 * block;
                    let mut packet = vec![0; clear_bytes];
                    packet.extend_from_slice(&plain[at..]);
                    packet.extend([0; 32]);
                    key.seal(stamp(0, block as u64), &mut packet).expect("sealed");
                    assert_eq!(packet[clear_bytes..packet.len() - 32], expected[at..]);
                }
            }
        }
    }

    /// RFC 4344 §4: the counter is one number of 128 bits; carries go all the way and wrap.
    #[test]
    fn the_counter_carries() {
        let raw = [3; 16];
        let mac = MacKind::HmacSha256;
        for low_bytes in [4, 8, 12, 16] {
            let mut before = [0x11; 16];
            before[16 - low_bytes..].fill(0xff);
            let after = u128::from_be_bytes(before).wrapping_add(1).to_be_bytes();
            let stream = |iv: &[u8; 16], block, bytes| {
                let mut stream = vec![0; bytes];
                let key = key(CipherKind::Aes128Ctr, mac, [&raw, iv, &[0; 32]]);
                key.apply_keystream(block, &mut stream).expect("a keystream");
                stream
            };
            assert_eq!(stream(&before, 0, 96)[16..], stream(&after, 0, 80));
            assert_eq!(stream(&before, 1, 80), stream(&after, 0, 80));
        }
    }

    /// RFC 2202 §3, cases 1 and 2, as those of RFC 4231 below.
    #[test]
    fn known_sha1_tags() {
        let vectors: [(&[u8], &[u8], &str); 2] = [
            (&[0x0b; 20], b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
            (b"Jefe", b"what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ];
        for (mac_key, data, expected) in vectors {
            let mut padded = mac_key.to_vec();
            padded.resize(20, 0);
            let parts: [&[u8]; 3] = [&[1; 16], &[2; 16], &padded];
            let key = key(CipherKind::Aes128Ctr, MacKind::HmacSha1, parts);
            let (seq, message) = data.split_first_chunk().expect("four bytes");
            let mut packet = [message, &[0; 20]].concat();
            key.seal(stamp(u32::from_be_bytes(*seq), 0), &mut packet).expect("sealed");
            assert_eq!(packet[message.len()..], unhex(expected));
        }
    }

    /// RFC 4231 §4.2 and §4.3. Their first four bytes of data stand for the sequence number, and
    /// HMAC pads short keys with zeros, so the published tags come out of whole packets.
    #[test]
    fn known_tags() {
        let vectors: [(&[u8], &[u8], &str, &str); 2] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde
                 daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554
                 9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ];
        for (mac_key, data, short, long) in vectors {
            for (mac, expected) in [(MacKind::HmacSha256, short), (MacKind::HmacSha512, long)] {
                let mut padded = mac_key.to_vec();
                padded.resize(mac.key_bytes(), 0);
                let key = key(CipherKind::Aes128Ctr, mac, [&[1; 16], &[2; 16], &padded]);
                let (seq, message) = data.split_first_chunk().expect("four bytes");
                let mut packet = message.to_vec();
                packet.resize(message.len() + mac.key_bytes(), 0);
                key.seal(stamp(u32::from_be_bytes(*seq), 0), &mut packet).expect("sealed");
                assert_eq!(packet[message.len()..], unhex(expected));
            }
        }
    }

    /// What each kind of MAC covers: the plaintext packet, or the length in clear and the
    /// ciphertext (OpenSSH PROTOCOL §1.5).
    #[test]
    fn tags_cover_what_they_should() {
        for mac in MacKind::ALL {
            let suite = Suite::new(CipherKind::Aes256Ctr, *mac).expect("a MAC");
            let key = CtrMacKey::new(Provider::AwsLc, &keys_for(suite, 8)).expect("a key");
            let clear = frame(suite.geometry(), b"payload");
            let mut packet = clear.clone();
            key.seal(stamp(3, 70), &mut packet).expect("sealed");
            let end = packet.len() - mac.key_bytes();
            let covered = if mac.is_etm() { &packet[..end] } else { &clear[..end] };
            assert_eq!(packet[end..], *key.tag(3, covered).as_ref());
            assert_eq!(packet[..4] == clear[..4], mac.is_etm());
            assert!(packet[4..end].iter().zip(&clear[4..end]).filter(|(a, b)| a != b).count() > 8);
        }
    }
}
