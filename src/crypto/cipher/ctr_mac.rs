use aws_lc_rs::{cipher, constant_time, hmac, iv::FixedLength};

use super::{LENGTH_BYTES, Unsealed};
use crate::crypto::{
    BadTag, CipherKind, CryptoError, DirectionKeys, Geometry, MacKind, Provider, Stamp,
};

/// AES in counter mode (RFC 4344 §4) with an HMAC (RFC 6668), before or after encryption.
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
