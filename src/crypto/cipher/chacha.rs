use aws_lc_rs::aead::chacha20_poly1305_openssh as aws;
#[cfg(feature = "ring")]
use ring::aead::chacha20_poly1305_openssh as ring;

use super::{TAG_BYTES, Unsealed};
use crate::crypto::{BadTag, CryptoError, DirectionKeys, Provider, Stamp};

/// chacha20-poly1305@openssh.com (OpenSSH PROTOCOL.chacha20poly1305): of the 64 key bytes the first
/// half keys body and tag, the second half the length field; the nonce is the sequence number.
pub enum ChachaSealKey {
    AwsLc(aws::SealingKey),
    #[cfg(feature = "ring")]
    Ring(ring::SealingKey),
}

impl ChachaSealKey {
    pub(in crate::crypto) fn new(
        provider: Provider,
        keys: &DirectionKeys,
    ) -> Result<ChachaSealKey, CryptoError> {
        let key = keys.cipher_key().first_chunk::<64>().ok_or(CryptoError::Key)?;
        match provider {
            Provider::AwsLc => Ok(ChachaSealKey::AwsLc(aws::SealingKey::new(key))),
            #[cfg(feature = "ring")]
            Provider::Ring => Ok(ChachaSealKey::Ring(ring::SealingKey::new(key))),
            _ => Err(CryptoError::Unsupported),
        }
    }

    pub(in crate::crypto) fn seal(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), Unsealed> {
        let (sealed, tag) = packet.split_last_chunk_mut::<TAG_BYTES>().ok_or(Unsealed)?;
        if sealed.len() < 4 {
            return Err(Unsealed);
        }
        match self {
            ChachaSealKey::AwsLc(key) => key.seal_in_place(stamp.seq, sealed, tag),
            #[cfg(feature = "ring")]
            ChachaSealKey::Ring(key) => key.seal_in_place(stamp.seq, sealed, tag),
        }
        Ok(())
    }
}

/// The other half of [`ChachaSealKey`].
pub enum ChachaOpenKey {
    AwsLc(aws::OpeningKey),
    #[cfg(feature = "ring")]
    Ring(ring::OpeningKey),
}

impl ChachaOpenKey {
    pub(in crate::crypto) fn new(
        provider: Provider,
        keys: &DirectionKeys,
    ) -> Result<ChachaOpenKey, CryptoError> {
        let key = keys.cipher_key().first_chunk::<64>().ok_or(CryptoError::Key)?;
        match provider {
            Provider::AwsLc => Ok(ChachaOpenKey::AwsLc(aws::OpeningKey::new(key))),
            #[cfg(feature = "ring")]
            Provider::Ring => Ok(ChachaOpenKey::Ring(ring::OpeningKey::new(key))),
            _ => Err(CryptoError::Unsupported),
        }
    }

    pub(in crate::crypto) fn packet_length(&self, seq: u32, first: [u8; 4]) -> [u8; 4] {
        match self {
            ChachaOpenKey::AwsLc(key) => key.decrypt_packet_length(seq, first),
            #[cfg(feature = "ring")]
            ChachaOpenKey::Ring(key) => key.decrypt_packet_length(seq, first),
        }
    }

    /// The libraries check the tag first and leave the length field as it came.
    pub(in crate::crypto) fn open(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), BadTag> {
        let seq = stamp.seq;
        let (sealed, tag) = packet.split_last_chunk_mut::<TAG_BYTES>().ok_or(BadTag)?;
        let first = *sealed.first_chunk::<4>().ok_or(BadTag)?;
        let opened = match self {
            ChachaOpenKey::AwsLc(key) => key.open_in_place(seq, sealed, tag).map_err(|_| BadTag),
            #[cfg(feature = "ring")]
            ChachaOpenKey::Ring(key) => key.open_in_place(seq, sealed, tag).map_err(|_| BadTag),
        };
        opened?;
        let length = self.packet_length(seq, first);
        sealed.first_chunk_mut::<4>().map(|to| *to = length).ok_or(BadTag)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use crate::crypto::testing::{frame, keys_for};
    use crate::crypto::{CipherKind, MacKind, Suite};

    /// Both libraries against the construction written out: which half of the key does what, the
    /// nonce, the block counters, and what the tag covers.
    #[test]
    fn agrees_with_the_reference() {
        let suite = Suite::new(CipherKind::Chacha20Poly1305, MacKind::Implicit).expect("an AEAD");
        for provider in Provider::ALL {
            let keys = keys_for(suite, 5);
            let sealing = ChachaSealKey::new(*provider, &keys).expect("a key");
            let opening = ChachaOpenKey::new(*provider, &keys).expect("a key");
            for (seq, payload_len) in [(0, 0), (1, 1), (255, 58), (256, 300), (u32::MAX, 1000)] {
                let clear = frame(suite.geometry(), &vec![0x5a; payload_len]);
                let expected = reference::chacha20_poly1305_openssh(keys.cipher_key(), seq, &clear);
                let stamp = || Stamp { seq, invocation: 9, block: 9 };
                let mut packet = clear.clone();
                sealing.seal(stamp(), &mut packet).expect("sealed");
                assert_eq!(packet, expected, "{provider:?} {seq}");
                let first = *packet.first_chunk().expect("a length");
                assert_eq!(opening.packet_length(seq, first), clear[..4]);
                opening.open(stamp(), &mut packet).expect("opened");
                assert_eq!(packet[..packet.len() - 16], clear[..clear.len() - 16]);
            }
        }
    }
}
