use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use aws_lc_rs::{
    digest,
    signature::{ParsedPublicKey, RsaPublicKeyComponents},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};

use super::{
    Attestation, BadSignature, KeyError, KeyKind, SignatureAlgorithm, curve::Curve, signature,
};
use crate::{
    limits::{HOST_KEY_BYTES_MAX, NAME_BYTES_MAX, RSA_BITS_MAX, RSA_BITS_MIN},
    wire::{NoSpace, Reader, Writer},
};

/// A public key that passed every check: its type is known, its point is on its curve or its
/// modulus within bounds. Cheap to clone.
#[derive(Clone)]
pub struct PublicKey {
    kind: KeyKind,
    blob: Arc<[u8]>,
}

impl PublicKey {
    /// Reads a blob as it travels in key exchange replies and publickey requests (RFC 4253 §6.6).
    pub fn from_blob(blob: &[u8]) -> Result<PublicKey, KeyError> {
        if blob.len() > HOST_KEY_BYTES_MAX as usize {
            return Err(KeyError::TooLarge);
        }
        let numbers = Numbers::decode(blob)?;
        numbers.check()?;
        Ok(PublicKey { kind: numbers.kind(), blob: Arc::from(blob) })
    }

    /// Reads the two words of a public key line. The declared type must be the blob's.
    pub fn from_base64(type_name: &str, base64: &str) -> Result<PublicKey, KeyError> {
        if base64.len() > HOST_KEY_BYTES_MAX as usize * 4 / 3 + 4 {
            return Err(KeyError::TooLarge);
        }
        let kind = KeyKind::from_name(type_name).ok_or_else(|| unsupported(type_name))?;
        let blob = STANDARD.decode(base64).map_err(|_| KeyError::Base64)?;
        let key = PublicKey::from_blob(&blob)?;
        if key.kind == kind { Ok(key) } else { Err(KeyError::TypeMismatch) }
    }

    /// Reads a `.pub` file's line: `TYPE BASE64 COMMENT`; answers the key and its comment, which
    /// may be empty. Options in front of the type belong to the reader of authorized_keys.
    pub fn from_text(line: &str) -> Result<(PublicKey, &str), KeyError> {
        let line = line.trim_matches([' ', '\t', '\r', '\n']);
        if line.contains('\n') {
            return Err(KeyError::NotAPublicKey);
        }
        let (type_name, rest) = line.split_once([' ', '\t']).ok_or(KeyError::NotAPublicKey)?;
        let rest = rest.trim_start_matches([' ', '\t']);
        let (base64, comment) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        let key = PublicKey::from_base64(type_name, base64)?;
        Ok((key, comment.trim_start_matches([' ', '\t'])))
    }

    /// The blob, exactly as it was read.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The name in front of the blob and of the text form: [`KeyKind::name`].
    pub const fn type_name(&self) -> &'static str {
        self.kind.name()
    }

    /// Bits of the modulus or of the curve: what `ssh-keygen -l` prints first.
    pub fn bits(&self) -> u32 {
        match (self.kind, Numbers::decode(&self.blob)) {
            (KeyKind::EcdsaP384, _) => 384,
            (KeyKind::EcdsaP521, _) => 521,
            (KeyKind::Rsa, Ok(Numbers::Rsa { modulus, .. })) => bits(modulus),
            _ => 256,
        }
    }

    /// `SHA256:` and the unpadded base64 of the blob's hash, as OpenSSH shows it.
    pub fn fingerprint(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.blob);
        let mut text = String::from("SHA256:");
        STANDARD_NO_PAD.encode_string(hash, &mut text);
        text
    }

    /// The line of a `.pub` or authorized_keys file, without a line end. Control characters in the
    /// comment become spaces, so that it stays one line.
    pub fn to_openssh_line(&self, comment: &str) -> String {
        line(self.type_name(), &self.blob, comment)
    }

    /// Checks a signature blob (RFC 4253 §6.6: algorithm name, then signature). The name inside
    /// must be the algorithm asked for, and that one must fit this key: nothing in the blob
    /// chooses how it is checked.
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature_blob: &[u8],
    ) -> Result<(), BadSignature> {
        self.verify_attested(algorithm, message, signature_blob).map(drop)
    }

    /// As [`PublicKey::verify`]; answers what a security key says about its signature, `None` for
    /// keys of other kinds. What it has to say is for the caller to judge.
    pub fn verify_attested(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature_blob: &[u8],
    ) -> Result<Option<Attestation>, BadSignature> {
        if algorithm.key_kind() != self.kind {
            return Err(BadSignature);
        }
        let numbers = Numbers::decode(&self.blob).map_err(|_| BadSignature)?;
        let Some(application) = numbers.application() else {
            let raw = signature::unwrap(algorithm, signature_blob)?;
            return signature::check(&numbers, algorithm, message, raw).map(|()| None);
        };
        let (attestation, raw) = Attestation::read(algorithm, signature_blob)?;
        let signed = attestation.signed(application, message);
        signature::check(&numbers, algorithm, &signed, raw).map(|()| Some(attestation))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &PublicKey) -> bool {
        self.blob == other.blob
    }
}

impl Eq for PublicKey {}

impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.blob.hash(state);
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.type_name(), self.fingerprint())
    }
}

/// What a blob holds behind its name.
pub(super) enum Numbers<'a> {
    /// RFC 8709 §4: the 32 bytes of RFC 8032 §5.1.5.
    Ed25519 {
        point: &'a [u8; 32],
    },
    /// RFC 5656 §3.1: an uncompressed point; the compressed form is optional and never used.
    Ecdsa {
        curve: Curve,
        point: &'a [u8],
    },
    /// OpenSSH PROTOCOL.u2f: the same points, and what the key was made for (`ssh:`).
    SkEd25519 {
        point: &'a [u8; 32],
        application: &'a [u8],
    },
    SkEcdsaP256 {
        point: &'a [u8],
        application: &'a [u8],
    },
    /// RFC 4253 §6.6: magnitudes without leading zeros.
    Rsa {
        exponent: &'a [u8],
        modulus: &'a [u8],
    },
}

impl<'a> Numbers<'a> {
    /// Reads the encoding alone; [`Numbers::check`] judges the values.
    pub(super) fn decode(blob: &'a [u8]) -> Result<Numbers<'a>, KeyError> {
        let mut body = Reader::new(blob);
        let name = body.utf8(NAME_BYTES_MAX)?;
        let kind = KeyKind::from_name(name).ok_or_else(|| unsupported(name))?;
        let numbers = Numbers::decode_body(kind, &mut body)?;
        body.end()?;
        Ok(numbers)
    }

    /// Reads what follows the name. Private key files repeat these fields for some kinds.
    pub(super) fn decode_body(
        kind: KeyKind,
        body: &mut Reader<'a>,
    ) -> Result<Numbers<'a>, KeyError> {
        if let Some(curve) = kind.curve() {
            if body.string(NAME_BYTES_MAX)? != curve.name().as_bytes() {
                return Err(KeyError::TypeMismatch);
            }
            return Ok(Numbers::Ecdsa { curve, point: body.string(HOST_KEY_BYTES_MAX)? });
        }
        if kind == KeyKind::Rsa {
            let exponent = body.mpint(HOST_KEY_BYTES_MAX)?;
            let modulus = body.mpint(HOST_KEY_BYTES_MAX)?;
            return Ok(Numbers::Rsa { exponent, modulus });
        }
        if kind == KeyKind::SkEcdsaP256 {
            if body.string(NAME_BYTES_MAX)? != Curve::P256.name().as_bytes() {
                return Err(KeyError::TypeMismatch);
            }
            let point = body.string(HOST_KEY_BYTES_MAX)?;
            return Ok(Numbers::SkEcdsaP256 {
                point,
                application: body.string(HOST_KEY_BYTES_MAX)?,
            });
        }
        let point = body.string(HOST_KEY_BYTES_MAX)?.try_into().map_err(|_| KeyError::Point)?;
        if kind == KeyKind::SkEd25519 {
            return Ok(Numbers::SkEd25519 { point, application: body.string(HOST_KEY_BYTES_MAX)? });
        }
        Ok(Numbers::Ed25519 { point })
    }

    /// What a security key's key was made for.
    pub(super) const fn application(&self) -> Option<&'a [u8]> {
        match *self {
            Numbers::SkEd25519 { application, .. } | Numbers::SkEcdsaP256 { application, .. } => {
                Some(application)
            }
            _ => None,
        }
    }

    pub(super) const fn kind(&self) -> KeyKind {
        match self {
            Numbers::Ed25519 { .. } => KeyKind::Ed25519,
            Numbers::Ecdsa { curve, .. } => curve.kind(),
            Numbers::SkEd25519 { .. } => KeyKind::SkEd25519,
            Numbers::SkEcdsaP256 { .. } => KeyKind::SkEcdsaP256,
            Numbers::Rsa { .. } => KeyKind::Rsa,
        }
    }

    /// The blob of these numbers.
    pub(super) fn encode(&self) -> Result<Vec<u8>, KeyError> {
        let mut space = [0; HOST_KEY_BYTES_MAX as usize];
        let mut out = Writer::new(&mut space);
        self.write(&mut out).map_err(|NoSpace| KeyError::TooLarge)?;
        Ok(out.written().to_vec())
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.kind().name().as_bytes())?;
        match self {
            Numbers::Ed25519 { point } => out.string(*point),
            Numbers::Ecdsa { curve, point } => {
                out.string(curve.name().as_bytes())?;
                out.string(point)
            }
            Numbers::SkEd25519 { point, application } => {
                out.string(*point)?;
                out.string(application)
            }
            Numbers::SkEcdsaP256 { point, application } => {
                out.string(Curve::P256.name().as_bytes())?;
                out.string(point)?;
                out.string(application)
            }
            Numbers::Rsa { exponent, modulus } => {
                out.mpint(exponent)?;
                out.mpint(modulus)
            }
        }
    }

    fn check(&self) -> Result<(), KeyError> {
        match self {
            Numbers::Ed25519 { point } | Numbers::SkEd25519 { point, .. } => {
                check_edwards_point(point)
            }
            Numbers::Ecdsa { curve, point } => check_point(*curve, point),
            Numbers::SkEcdsaP256 { point, .. } => check_point(Curve::P256, point),
            Numbers::Rsa { exponent, modulus } => check_rsa(exponent, modulus),
        }
    }

    /// An RSA key as the library takes it.
    pub(super) const fn rsa_components(
        exponent: &'a [u8],
        modulus: &'a [u8],
    ) -> RsaPublicKeyComponents<&'a [u8]> {
        RsaPublicKeyComponents { n: modulus, e: exponent }
    }
}

/// RFC 5656 §3.1 with SEC 1 §2.3.3: the uncompressed form. The library alone would also take a
/// compressed point or a whole X.509 structure here, so the shape is judged first.
fn check_point(curve: Curve, point: &[u8]) -> Result<(), KeyError> {
    if point.len() != 1 + 2 * curve.field_bytes() || point.first() != Some(&4) {
        return Err(KeyError::Point);
    }
    match ParsedPublicKey::new(curve.verification(), point) {
        Ok(_) => Ok(()),
        Err(_) => Err(KeyError::Point),
    }
}

/// Refuses the points of small order: under such a key, signatures need no private half. Points
/// off the curve are left to verification, which rejects them.
fn check_edwards_point(point: &[u8; 32]) -> Result<(), KeyError> {
    let mut unsigned = *point;
    if let Some(last) = unsigned.last_mut() {
        *last &= 0x7f;
    }
    if SMALL_ORDER_POINTS.contains(&unsigned) { Err(KeyError::Point) } else { Ok(()) }
}

fn check_rsa(exponent: &[u8], modulus: &[u8]) -> Result<(), KeyError> {
    let size = bits(modulus);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&size) {
        return Err(KeyError::RsaSize(size));
    }
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    // The upper bound is the library's; it keeps verification cheap.
    if !odd(modulus) || !odd(exponent) || !(2..=RSA_EXPONENT_BITS_MAX).contains(&bits(exponent)) {
        return Err(KeyError::RsaNumbers);
    }
    Ok(())
}

/// Bits of a magnitude without leading zeros.
pub(super) fn bits(magnitude: &[u8]) -> u32 {
    let top = magnitude.first().map_or(0, |byte| byte.leading_zeros());
    u32::try_from(magnitude.len()).unwrap_or(u32::MAX).saturating_mul(8).saturating_sub(top)
}

/// A line of a file of keys or certificates, without a line end. Control characters in the comment
/// become spaces, so that it stays one line.
pub(super) fn line(type_name: &str, blob: &[u8], comment: &str) -> String {
    let mut line = String::from(type_name);
    line.push(' ');
    STANDARD.encode_string(blob, &mut line);
    if !comment.is_empty() {
        line.push(' ');
        line.extend(comment.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    line
}

pub(super) fn unsupported(name: &str) -> KeyError {
    let shown = name.chars().take(NAME_BYTES_MAX as usize).collect::<String>();
    KeyError::UnsupportedType(shown.into_boxed_str())
}

const RSA_EXPONENT_BITS_MAX: u32 = 33;

/// The encodings of Edwards25519's points of order 1, 2, 4 and 8, sign bit cleared: y = 0, 1, the
/// two of order 8, p-1, and the unreduced p and p+1.
const SMALL_ORDER_POINTS: [[u8; 32]; 7] = [
    [0; 32],
    little(1),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    near_prime(0xec),
    near_prime(0xed),
    near_prime(0xee),
];

const fn little(low: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = low;
    bytes
}

/// 2^255 - 256 + `low`: numbers next to p, which ends in 0xed.
const fn near_prime(low: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = low;
    bytes[31] = 0x7f;
    bytes
}
