//! RSA keys between the forms: OpenSSH's six numbers and the library's nine.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeyPairComponents},
};
use crypto_bigint::{BoxedUint, NonZero};
use zeroize::Zeroizing;

use super::{KeyError, der, public::Numbers};
use crate::{
    limits::RSA_BITS_MAX,
    wire::{Malformed, NoSpace, Reader, Writer},
};

/// The numbers of an OpenSSH private key, in the order of its file: magnitudes without leading
/// zeros, borrowed from a buffer that somebody else wipes.
#[derive(Clone, Copy)]
pub(super) struct RsaNumbers<'a> {
    pub(super) modulus: &'a [u8],
    pub(super) public_exponent: &'a [u8],
    pub(super) private_exponent: &'a [u8],
    /// The inverse of q modulo p.
    pub(super) coefficient: &'a [u8],
    pub(super) p: &'a [u8],
    pub(super) q: &'a [u8],
}

impl<'a> RsaNumbers<'a> {
    pub(super) fn decode(body: &mut Reader<'a>) -> Result<RsaNumbers<'a>, Malformed> {
        let mut next = || body.mpint(RSA_BITS_MAX / 8 + 1);
        Ok(RsaNumbers {
            modulus: next()?,
            public_exponent: next()?,
            private_exponent: next()?,
            coefficient: next()?,
            p: next()?,
            q: next()?,
        })
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.mpint(self.modulus)?;
        out.mpint(self.public_exponent)?;
        out.mpint(self.private_exponent)?;
        out.mpint(self.coefficient)?;
        out.mpint(self.p)?;
        out.mpint(self.q)
    }

    /// Reads them out of the library's own encoding (RFC 8017 §A.1.2).
    pub(super) fn from_pkcs8(document: &'a [u8]) -> Result<RsaNumbers<'a>, Malformed> {
        let mut outer = Reader::new(der::pkcs8_private_key(document)?);
        let mut fields = Reader::new(der::element(&mut outer, der::SEQUENCE)?);
        outer.end()?;
        der::integer(&mut fields)?;
        let modulus = der::integer(&mut fields)?;
        let public_exponent = der::integer(&mut fields)?;
        let private_exponent = der::integer(&mut fields)?;
        let p = der::integer(&mut fields)?;
        let q = der::integer(&mut fields)?;
        der::integer(&mut fields)?;
        der::integer(&mut fields)?;
        let coefficient = der::integer(&mut fields)?;
        fields.end()?;
        Ok(RsaNumbers { modulus, public_exponent, private_exponent, coefficient, p, q })
    }

    /// The public half.
    pub(super) const fn public(&self) -> Numbers<'a> {
        Numbers::Rsa { exponent: self.public_exponent, modulus: self.modulus }
    }

    /// A key that signs. The library checks that all numbers belong together.
    pub(super) fn key_pair(&self) -> Result<KeyPair, KeyError> {
        let components = KeyPairComponents {
            public_key: Numbers::rsa_components(self.public_exponent, self.modulus),
            d: self.private_exponent,
            p: self.p,
            q: self.q,
            dP: &*residue(self.private_exponent, self.p)?,
            dQ: &*residue(self.private_exponent, self.q)?,
            qInv: self.coefficient,
        };
        KeyPair::from_components(&components).map_err(|_| KeyError::Inconsistent)
    }
}

/// The library's encoding of a key, wiped when dropped.
pub(super) fn to_pkcs8(pair: &KeyPair) -> Result<Pkcs8V1Der<'static>, KeyError> {
    pair.as_der().map_err(|_| KeyError::Inconsistent)
}

/// `exponent` modulo `prime - 1`: the file leaves these two out (RFC 8017 §3.2 calls them dP and
/// dQ). Constant time in the values; the lengths are public.
fn residue(exponent: &[u8], prime: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    // A prime of the key is odd, so taking one away is clearing the lowest bit; were it even,
    // the library would refuse the key.
    let mut less_one = Zeroizing::new(prime.to_vec());
    if let Some(low) = less_one.last_mut() {
        *low &= 0xfe;
    }
    let exponent = Zeroizing::new(number(exponent)?);
    let modulus = number(&less_one)?;
    let modulus = Option::<NonZero<BoxedUint>>::from(NonZero::new(modulus));
    let modulus = Zeroizing::new(modulus.ok_or(KeyError::Inconsistent)?);
    let (quotient, remainder) = exponent.div_rem(&*modulus);
    let (_quotient, remainder) = (Zeroizing::new(quotient), Zeroizing::new(remainder));
    Ok(Zeroizing::new(remainder.to_be_bytes().into_vec()))
}

fn number(magnitude: &[u8]) -> Result<BoxedUint, KeyError> {
    let precision = u32::try_from(magnitude.len()).map_err(|_| KeyError::Inconsistent)? * 8;
    BoxedUint::from_be_slice(magnitude, precision).map_err(|_| KeyError::Inconsistent)
}
