use std::fmt;

use super::cipher::chacha::ChachaSealKey;
use super::cipher::ctr_mac::CtrMacKey;
use super::cipher::gcm::GcmKey;
#[cfg(feature = "sim")]
use super::cipher::toy::ToyKey;
use super::suite::AEAD_TAG_BYTES;
use super::{CipherKind, CryptoError, DirectionKeys, Geometry, Provider, Stamp};

/// The sending half of one direction's keys. Immutable and `Sync`: any thread may seal any stamped
/// packet, in any order.
pub enum SealKey {
    /// Before the first NEWKEYS.
    Plain,
    Gcm(GcmKey),
    Chacha(ChachaSealKey),
    CtrMac(Box<CtrMacKey>),
    #[cfg(feature = "sim")]
    Toy(ToyKey),
}

impl SealKey {
    /// Sets the keys up for use; the raw bytes are the caller's to keep or to drop.
    pub fn new(provider: Provider, keys: &DirectionKeys) -> Result<SealKey, CryptoError> {
        let cipher = keys.suite().cipher();
        if !provider.supports(cipher) {
            return Err(CryptoError::Unsupported);
        }
        let provider = provider.library(cipher);
        Ok(match cipher {
            CipherKind::Aes128Gcm | CipherKind::Aes256Gcm => {
                SealKey::Gcm(GcmKey::new(provider, keys)?)
            }
            CipherKind::Chacha20Poly1305 => SealKey::Chacha(ChachaSealKey::new(provider, keys)?),
            CipherKind::Aes128Ctr | CipherKind::Aes192Ctr | CipherKind::Aes256Ctr => {
                SealKey::CtrMac(Box::new(CtrMacKey::new(provider, keys)?))
            }
            #[cfg(feature = "sim")]
            CipherKind::Toy => SealKey::Toy(ToyKey::new(keys)?),
        })
    }

    /// How packets under this key are cut.
    pub const fn geometry(&self) -> Geometry {
        match self {
            SealKey::Plain => Geometry::PLAIN,
            SealKey::Gcm(_) => GCM_GEOMETRY,
            SealKey::Chacha(_) => CHACHA_GEOMETRY,
            SealKey::CtrMac(key) => key.geometry(),
            #[cfg(feature = "sim")]
            SealKey::Toy(_) => CHACHA_GEOMETRY,
        }
    }

    /// Seals one packet in place. `packet` is exactly length field, padding length, payload,
    /// padding and room for the tag, as [`Geometry::wire_len`] counts them.
    ///
    /// A packet that is not so cut is a bug of ours. It leaves as zeros, which the peer refuses:
    /// that costs one connection and lets no plaintext out.
    pub fn seal(&self, stamp: Stamp, packet: &mut [u8]) {
        let sealed = match self {
            SealKey::Plain => Ok(()),
            SealKey::Gcm(key) => key.seal(stamp, packet),
            SealKey::Chacha(key) => key.seal(stamp, packet),
            SealKey::CtrMac(key) => key.seal(stamp, packet),
            #[cfg(feature = "sim")]
            SealKey::Toy(key) => key.seal(stamp, packet),
        };
        if sealed.is_err() {
            packet.fill(0);
        }
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({:?})", self.geometry())
    }
}

pub(super) const GCM_GEOMETRY: Geometry =
    Geometry { block: 16, tag: AEAD_TAG_BYTES, length_is_padded: false };
pub(super) const CHACHA_GEOMETRY: Geometry =
    Geometry { block: 8, tag: AEAD_TAG_BYTES, length_is_padded: false };
