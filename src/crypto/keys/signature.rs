//! Signature blobs: the algorithm's name, then its bytes (RFC 4253 §6.6, RFC 5656 §3.1.2,
//! RFC 8332 §3, RFC 8709 §6).

use aws_lc_rs::signature::{
    ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
};

use super::{
    BadSignature, SignatureAlgorithm,
    curve::{Curve, FIELD_BYTES_MAX},
    public::Numbers,
};
use crate::{
    limits::{NAME_BYTES_MAX, RSA_BITS_MAX, SIGNATURE_BYTES_MAX},
    wire::{Malformed, NoSpace, Reader, Writer},
};

/// A blob around what the library made; `raw` is r then s at full width for ECDSA.
pub(super) fn wrap(algorithm: SignatureAlgorithm, raw: &[u8]) -> Result<Vec<u8>, NoSpace> {
    let mut space = [0; SIGNATURE_BYTES_MAX as usize];
    let mut out = Writer::new(&mut space);
    out.string(algorithm.name().as_bytes())?;
    match algorithm.key_kind().curve() {
        None => out.string(raw)?,
        Some(curve) => {
            let (r, s) = raw.split_at_checked(curve.field_bytes()).ok_or(NoSpace)?;
            let mut inner = [0; 2 * (FIELD_BYTES_MAX + 5)];
            let mut pair = Writer::new(&mut inner);
            pair.mpint(r)?;
            pair.mpint(s)?;
            out.string(pair.written())?;
        }
    }
    Ok(out.written().to_vec())
}

/// The bytes behind the name, which must be the algorithm's own.
pub(super) fn unwrap(algorithm: SignatureAlgorithm, blob: &[u8]) -> Result<&[u8], BadSignature> {
    let read = || -> Result<(&[u8], &[u8]), Malformed> {
        let mut body = Reader::new(blob);
        let name = body.string(NAME_BYTES_MAX)?;
        let raw = body.string(SIGNATURE_BYTES_MAX)?;
        body.end()?;
        Ok((name, raw))
    };
    match read() {
        Ok((name, raw)) if name == algorithm.name().as_bytes() => Ok(raw),
        _ => Err(BadSignature),
    }
}

/// Checks what [`unwrap`] gave. `numbers` come from a key that was checked when it was read.
pub(super) fn check(
    numbers: &Numbers<'_>,
    algorithm: SignatureAlgorithm,
    message: &[u8],
    raw: &[u8],
) -> Result<(), BadSignature> {
    let verified = match *numbers {
        Numbers::Ed25519 { point } | Numbers::SkEd25519 { point, .. } => {
            UnparsedPublicKey::new(&ED25519, point).verify(message, raw).is_ok()
        }
        Numbers::Ecdsa { curve, point } => verifies_on(curve, point, message, raw),
        Numbers::SkEcdsaP256 { point, .. } => verifies_on(Curve::P256, point, message, raw),
        Numbers::Rsa { exponent, modulus } => {
            let parameters = match algorithm {
                SignatureAlgorithm::RsaSha512 => &RSA_PKCS1_2048_8192_SHA512,
                SignatureAlgorithm::RsaSha256 => &RSA_PKCS1_2048_8192_SHA256,
                _ => return Err(BadSignature),
            };
            // RFC 4253 §6.6 calls the signature an integer "without padding": some peers drop
            // leading zeros, so a short one is filled up. A long one is refused.
            let mut full = [0; RSA_BITS_MAX as usize / 8];
            let full = full.get_mut(..modulus.len()).ok_or(BadSignature)?;
            place(full, raw).ok_or(BadSignature)?;
            Numbers::rsa_components(exponent, modulus).verify(parameters, message, full).is_ok()
        }
    };
    if verified { Ok(()) } else { Err(BadSignature) }
}

fn verifies_on(curve: Curve, point: &[u8], message: &[u8], raw: &[u8]) -> bool {
    let mut fixed = [0; 2 * FIELD_BYTES_MAX];
    fix_width(curve, raw, &mut fixed).is_some_and(|fixed| {
        UnparsedPublicKey::new(curve.verification(), point).verify(message, fixed).is_ok()
    })
}

/// RFC 5656 §3.1.2: two mpints, each put at the curve's full width. Values of zero or beyond the
/// group's order are the library's to refuse, and it does.
fn fix_width<'a>(
    curve: Curve,
    raw: &[u8],
    fixed: &'a mut [u8; 2 * FIELD_BYTES_MAX],
) -> Option<&'a [u8]> {
    let width = curve.field_bytes();
    let len_max = u32::try_from(width).ok()?.checked_add(1)?;
    let mut body = Reader::new(raw);
    let (r, s) = (body.mpint(len_max).ok()?, body.mpint(len_max).ok()?);
    body.end().ok()?;
    let fixed = fixed.get_mut(..2 * width)?;
    let (r_place, s_place) = fixed.split_at_mut_checked(width)?;
    place(r_place, r)?;
    place(s_place, s)?;
    Some(fixed)
}

/// Puts a magnitude at the low end of a zeroed field; `None` when it is too wide.
fn place(field: &mut [u8], magnitude: &[u8]) -> Option<()> {
    let at = field.len().checked_sub(magnitude.len())?;
    field.get_mut(at..)?.copy_from_slice(magnitude);
    Some(())
}
