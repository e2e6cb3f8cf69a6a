//! One file a construction: how a whole packet is sealed and opened in place.

pub(super) mod chacha;
pub(super) mod ctr_mac;
pub(super) mod gcm;
#[cfg(test)]
mod reference;
#[cfg(feature = "sim")]
pub(super) mod toy;

/// Bytes of the packet length field (RFC 4253 §6).
pub(super) const LENGTH_BYTES: usize = 4;
/// Bytes of an AEAD tag.
pub(super) const TAG_BYTES: usize = 16;

/// A packet that sealing cannot work on: shorter than its fixed parts, or refused by the library.
#[derive(Debug)]
pub(super) struct Unsealed;

/// Splits an AEAD packet into length field, body and tag.
pub(super) fn parts(packet: &mut [u8]) -> Option<(&mut [u8; 4], &mut [u8], &mut [u8; TAG_BYTES])> {
    let (length, rest) = packet.split_first_chunk_mut::<LENGTH_BYTES>()?;
    let (body, tag) = rest.split_last_chunk_mut::<TAG_BYTES>()?;
    Some((length, body, tag))
}
