//! Elliptic-curve Diffie-Hellman: X25519 (RFC 8731) and the NIST curves (RFC 5656 §4).

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
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

/// An ephemeral private key: [`CurveSecret::agree`] uses it up.
pub(super) struct CurveSecret {
    curve: Curve,
    key: PrivateKey,
}

impl CurveSecret {
    pub(super) fn generate(curve: Curve) -> Result<(CurveSecret, Vec<u8>), CryptoError> {
        let key = PrivateKey::generate(curve.algorithm()).map_err(|_| CryptoError::Library)?;
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
        let secret = agreement::agree(&self.key, public, refusal, keep)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::unhex;

    fn known(curve: Curve, private: &str) -> (CurveSecret, Vec<u8>) {
        let key = PrivateKey::from_private_key(curve.algorithm(), &unhex(private));
        let key = key.expect("a valid private key");
        let public = key.compute_public_key().expect("its public key").as_ref().to_vec();
        (CurveSecret { curve, key }, public)
    }

    /// RFC 7748 §6.1 and RFC 5903 §8: both private keys, and the x coordinate they agree on.
    #[test]
    fn known_agreements() {
        let vectors = [
            (
                Curve::X25519,
                "77076d0a7318a57d3c16c17251b26645 df4c2f87ebc0992ab177fba51db92c2a",
                "5dab087e624a8a4b79e17f8b83800ee6 6f3bb1292618b6fd1c2f8b27ff88e0eb",
                "4a5d9d5ba4ce2de1728e3bf480350f25 e07e21c947d19e3376f09b3c1e161742",
            ),
            (
                Curve::P256,
                "c88f01f510d9ac3f70a292daa2316de5 44e9aab8afe84049c62a9c57862d1433",
                "c6ef9c5d78ae012a011164acb397ce20 88685d8f06bf9be0b283ab46476bee53",
                "d6840f6b42f6edafd13116e0e1256520 2fef8e9ece7dce03812464d04b9442de",
            ),
            (
                Curve::P384,
                "099f3c7034d4a2c699884d73a375a67f 7624ef7c6b3c0f160647b67414dce655
                 e35b538041e649ee3faef896783ab194",
                "41cb0779b4bdb85d47846725fbec3c94 30fab46cc8dc5060855cc9bda0aa2942
                 e0308312916b8ed2960e4bd55a7448fc",
                "11187331c279962d93d604243fd592cb 9d0a926f422e47187521287e7156c5c4
                 d603135569b9e9d09cf5d4a270f59746",
            ),
            (
                Curve::P521,
                "0037ade9319a89f4dabdb3ef411aaccc a5123c61acab57b5393dce47608172a0
                 95aa85a30fe1c2952c6771d937ba9777 f5957b2639bab072462f68c27a57382d
                 4a52",
                "0145ba99a847af43793fdd0e872e7cdf a16be30fdc780f97bccc3f078380201e
                 9c677d600b343757a3bdbf2a3163e4c2 f869cca7458aa4a4effc311f5cb15168
                 5eb9",
                "01144c7d79ae6956bc8edb8e7c787c45 21cb086fa64407f97894e5e6b2d79b04
                 d1427e73ca4baa240a34786859810c06 b3c715a3a8cc3151f2bee417996d19f3
                 ddea",
            ),
        ];
        for (curve, first, second, shared) in vectors {
            let (first, first_public) = known(curve, first);
            let (second, second_public) = known(curve, second);
            assert_eq!(first_public.len(), curve.public_bytes());
            let shared = unhex(shared);
            assert_eq!(first.agree(&second_public).map(|s| s.to_vec()), Ok(shared.clone()));
            assert_eq!(second.agree(&first_public).map(|s| s.to_vec()), Ok(shared));
        }
    }

    fn refusal(curve: Curve, public: &[u8]) -> KexError {
        let (secret, _) = CurveSecret::generate(curve).expect("a secret");
        secret.agree(public).map(|_| ()).expect_err("refused")
    }

    /// SECURITY case 24: points of low order, in every encoding there is.
    #[test]
    fn case_24_x25519_low_order() {
        let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        let order_8_too = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157";
        let minus_one = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
        let mut one = vec![0; 32];
        one[0] = 1;
        for point in [vec![0; 32], one, unhex(order_8), unhex(order_8_too), unhex(minus_one)] {
            assert_eq!(refusal(Curve::X25519, &point), KexError::LowOrder, "{point:02x?}");
            // The same number with the bit set that RFC 7748 has receivers ignore.
            let mut masked = point;
            masked[31] |= 0x80;
            assert_eq!(refusal(Curve::X25519, &masked), KexError::Invalid, "{masked:02x?}");
        }
        // p, p + 1 and every other number from p to 2^255.
        for low in 0xed..=0xff {
            let mut point = vec![0xff; 32];
            point[0] = low;
            point[31] = 0x7f;
            assert_eq!(refusal(Curve::X25519, &point), KexError::Invalid);
        }
    }

    #[test]
    fn case_24_x25519_lengths() {
        for len in [0, 1, 31, 33, 64] {
            assert_eq!(refusal(Curve::X25519, &vec![9; len]), KexError::Length);
        }
    }

    const NIST: [Curve; 3] = [Curve::P256, Curve::P384, Curve::P521];

    fn honest(curve: Curve) -> Vec<u8> {
        CurveSecret::generate(curve).expect("a secret").1
    }

    /// SECURITY case 25: off the curve, at infinity, out of range.
    #[test]
    fn case_25_nist_points_that_are_none() {
        for curve in NIST {
            for at in 1..curve.public_bytes() {
                let mut off_curve = honest(curve);
                off_curve[at] ^= 1;
                assert_eq!(refusal(curve, &off_curve), KexError::Invalid, "byte {at}");
            }
            let mut origin = vec![0; curve.public_bytes()];
            assert_eq!(refusal(curve, &origin), KexError::Invalid);
            origin[0] = UNCOMPRESSED;
            assert_eq!(refusal(curve, &origin), KexError::Invalid);
            let mut large_x = honest(curve);
            large_x[1..=curve.public_bytes() / 2].fill(0xff);
            assert_eq!(refusal(curve, &large_x), KexError::Invalid);
        }
    }

    /// SECURITY case 25: x + p names the same point of P-521 and fits its field; it is refused.
    #[test]
    fn case_25_unreduced_coordinate() {
        let mut point = honest(Curve::P521);
        // p = 2^521 - 1, so x + p is x - 1 with bit 521 set.
        for byte in point[1..67].iter_mut().rev() {
            *byte = byte.wrapping_sub(1);
            if *byte != 0xff {
                break;
            }
        }
        point[1] |= 2;
        assert_eq!(refusal(Curve::P521, &point), KexError::Invalid);
    }

    /// SECURITY case 25: encodings the library would take and RFC 5656 does not ask us to.
    #[test]
    fn case_25_other_encodings() {
        for curve in NIST {
            let point = honest(curve);
            let x = &point[1..=curve.public_bytes() / 2];
            for prefix in [2, 3] {
                let compressed = [&[prefix], x].concat();
                assert_eq!(refusal(curve, &compressed), KexError::Length);
            }
            for prefix in [0, 2, 3, 5, 6, 7, 0x44] {
                let mut hybrid = point.clone();
                hybrid[0] = prefix;
                assert_eq!(refusal(curve, &hybrid), KexError::Invalid);
            }
            assert_eq!(refusal(curve, &[]), KexError::Length);
            assert_eq!(refusal(curve, &[0]), KexError::Length);
            assert_eq!(refusal(curve, &point[..point.len() - 1]), KexError::Length);
            assert_eq!(refusal(curve, &[&point[..], &[0]].concat()), KexError::Length);
            for other in NIST.into_iter().filter(|other| *other != curve) {
                assert_eq!(refusal(curve, &honest(other)), KexError::Length);
            }
        }
    }
}
