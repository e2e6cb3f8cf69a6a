//! Elliptic-curve Diffie-Hellman: X25519 (RFC 8731) and the NIST curves (RFC 5656 §4).

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::rand::SystemRandom;
use zeroize::Zeroizing;

use crate::crypto::{CryptoError, KexError};

/// SEC 1 §2.3.3: the only point format RFC 5656 §4 obliges peers to send, and the only one we take.
const UNCOMPRESSED: u8 = 4;

/// The field prime of Curve25519, 2^255 - 19, little-endian.
const X25519_PRIME: [u8; 32] = {
    let mut prime = [0xff; 32];
    prime[0] = 0xed;
    prime[31] = 0x7f;
    prime
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    X25519,
    P256,
    P384,
    P521,
}

impl Curve {
    /// The exact length of a public value.
    pub(super) const fn public_bytes(self) -> usize {
        match self {
            Curve::X25519 => 32,
            Curve::P256 => 1 + 2 * 32,
            Curve::P384 => 1 + 2 * 48,
            Curve::P521 => 1 + 2 * 66,
        }
    }

    const fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Curve::X25519 => &agreement::X25519,
            Curve::P256 => &agreement::ECDH_P256,
            Curve::P384 => &agreement::ECDH_P384,
            Curve::P521 => &agreement::ECDH_P521,
        }
    }

    /// What can be said of a public value from its bytes. That a NIST point is on its curve is left
    /// to the library, which would also take other encodings; those end here.
    fn check_encoding(self, public: &[u8]) -> Result<(), KexError> {
        if public.len() != self.public_bytes() {
            return Err(KexError::Length);
        }
        let valid = match self {
            Curve::X25519 => is_reduced(public),
            _ => public.first() == Some(&UNCOMPRESSED),
        };
        if valid { Ok(()) } else { Err(KexError::Invalid) }
    }
}

/// An ephemeral private key.
pub(super) struct CurveSecret {
    curve: Curve,
    key: EphemeralPrivateKey,
}

impl CurveSecret {
    pub(super) fn generate(curve: Curve) -> Result<(CurveSecret, Vec<u8>), CryptoError> {
        let key = EphemeralPrivateKey::generate(curve.algorithm(), &SystemRandom::new())
            .map_err(|_| CryptoError::Library)?;
        let public = key.compute_public_key().map_err(|_| CryptoError::Library)?;
        let public = public.as_ref().to_vec();
        Ok((CurveSecret { curve, key }, public))
    }

    /// The x coordinate of the shared point: big-endian for the NIST curves, the function's own
    /// bytes for X25519.
    pub(super) fn agree(self, public: &[u8]) -> Result<Zeroizing<Vec<u8>>, KexError> {
        self.curve.check_encoding(public)?;
        let refusal = match self.curve {
            Curve::X25519 => KexError::LowOrder,
            _ => KexError::Invalid,
        };
        let public = UnparsedPublicKey::new(self.curve.algorithm(), public);
        let keep = |secret: &[u8]| Ok(Zeroizing::new(secret.to_vec()));
        let secret = agreement::agree_ephemeral(self.key, public, refusal, keep)?;
        // RFC 8731 §3 asks for this check; the library makes it too, and it costs nothing.
        if secret.iter().fold(0, |all, byte| all | byte) == 0 {
            return Err(refusal);
        }
        Ok(secret)
    }
}

/// Whether 32 little-endian bytes are below the prime. RFC 7748 §5 would have us reduce others, but
/// no implementation sends them: every honest public value is the reduced output of X25519.
fn is_reduced(public: &[u8]) -> bool {
    public.iter().rev().lt(X25519_PRIME.iter().rev())
}
