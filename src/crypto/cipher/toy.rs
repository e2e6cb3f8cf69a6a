use super::{Unsealed, parts};
use crate::crypto::{BadTag, CryptoError, DirectionKeys, Stamp};

/// The simulator's cipher: plaintext under a keyed checksum. It catches every mistake a real AEAD
/// would catch (a flipped bit, a wrong key, a packet out of place) and protects nothing.
pub struct ToyKey(u64);

impl ToyKey {
    pub(in crate::crypto) fn new(keys: &DirectionKeys) -> Result<ToyKey, CryptoError> {
        let key = keys.cipher_key().first_chunk::<16>().ok_or(CryptoError::Key)?;
        let key = u128::from_be_bytes(*key);
        Ok(ToyKey(mix(key as u64) ^ (key >> 64) as u64))
    }

    pub(in crate::crypto) fn seal(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), Unsealed> {
        let (length, body, tag) = parts(packet).ok_or(Unsealed)?;
        *tag = self.checksum(&stamp, *length, body);
        Ok(())
    }

    pub(in crate::crypto) fn open(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), BadTag> {
        let (length, body, tag) = parts(packet).ok_or(BadTag)?;
        if self.checksum(&stamp, *length, body) == *tag { Ok(()) } else { Err(BadTag) }
    }

    /// The invocation is mixed in as well, so that counters out of step are noticed.
    fn checksum(&self, stamp: &Stamp, length: [u8; 4], body: &[u8]) -> [u8; 16] {
        let place = (u64::from(stamp.seq) << 32) | u64::from(u32::from_be_bytes(length));
        let mut state = mix(self.0 ^ mix(place) ^ stamp.invocation.rotate_left(17));
        let (words, rest) = body.as_chunks::<8>();
        for word in words {
            state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            state ^= state >> 29;
        }
        for byte in rest {
            state = mix(state ^ u64::from(*byte));
        }
        let low = mix(state);
        let high = mix(low ^ self.0);
        ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
    }
}

/// The finalizer of splitmix64: one-to-one, and every input bit reaches every output bit.
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
