//! Lists of revoked keys: OpenSSH's key revocation lists (PROTOCOL.krl), and files of public keys, one
//! a line.
//!
//! ```text
//! "SSHKRL\n\0"  uint32 1  uint64 version  uint64 date  uint64 flags  string reserved  string comment
//! then sections: byte type  string body
//! ```
//!
//! A list is walked to its end at every check, and one that cannot be understood as a whole is an
//! error: whoever asks must then take every key for revoked.

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Certificate, PublicKey};
use crate::{
    limits::{NAME_BYTES_MAX, REVOKED_KEYS_BYTES_MAX},
    wire::{Malformed, Reader},
};

#[cfg(test)]
mod tests;

const MAGIC: &[u8] = b"SSHKRL\n\0";
const FORMAT: u32 = 1;
/// Strings inside a list are no longer than the list.
const LEN_MAX: u32 = REVOKED_KEYS_BYTES_MAX as u32;

const CERTIFICATES: u8 = 1;
const EXPLICIT_KEY: u8 = 2;
const FINGERPRINT_SHA1: u8 = 3;
const SIGNATURE: u8 = 4;
const FINGERPRINT_SHA256: u8 = 5;
const EXTENSION: u8 = 255;

const SERIAL_LIST: u8 = 0x20;
const SERIAL_RANGE: u8 = 0x21;
const SERIAL_BITMAP: u8 = 0x22;
const KEY_ID: u8 = 0x23;
const CERTIFICATE_EXTENSION: u8 = 0x39;

/// Why a list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokedError {
    #[error("malformed key revocation list: {0}")]
    Malformed(#[from] Malformed),
    #[error("a key revocation list of format {0}; only 1 is known")]
    Format(u32),
    #[error("a section of type {0} in a key revocation list, which is not known")]
    Section(u8),
    #[error("a signed key revocation list, which is not supported: make one without `-s`")]
    Signed,
    #[error("a critical extension in a key revocation list, which is not known")]
    Extension,
    #[error("line {0}: a public key is expected")]
    Line(u32),
    #[error("larger than {REVOKED_KEYS_BYTES_MAX} bytes")]
    TooLarge,
}

/// Whether the text of a file revokes this key, or the certificate it is shown in, or that one's
/// authority.
pub fn is_revoked(
    file: &[u8],
    key: &PublicKey,
    certificate: Option<&Certificate>,
) -> Result<bool, RevokedError> {
    if file.len() as u64 > REVOKED_KEYS_BYTES_MAX {
        return Err(RevokedError::TooLarge);
    }
    let wanted = Wanted { key, authority: certificate.map(Certificate::authority), certificate };
    match file.strip_prefix(MAGIC) {
        Some(list) => wanted.in_list(list),
        None => wanted.in_lines(file),
    }
}

/// What is looked for.
struct Wanted<'a> {
    key: &'a PublicKey,
    authority: Option<&'a PublicKey>,
    certificate: Option<&'a Certificate>,
}

impl Wanted<'_> {
    fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        std::iter::once(self.key).chain(self.authority)
    }

    fn in_lines(&self, text: &[u8]) -> Result<bool, RevokedError> {
        let mut found = false;
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let number = u32::try_from(index.saturating_add(1)).unwrap_or(u32::MAX);
            let blob = blob_of(line).ok_or(RevokedError::Line(number))?;
            found |= self.keys().any(|key| *key.blob() == *blob);
        }
        Ok(found)
    }

    fn in_list(&self, list: &[u8]) -> Result<bool, RevokedError> {
        let mut body = Reader::new(list);
        let format = body.uint32()?;
        if format != FORMAT {
            return Err(RevokedError::Format(format));
        }
        body.bytes(3 * 8)?;
        body.string(LEN_MAX)?;
        body.string(LEN_MAX)?;
        let mut found = false;
        while !body.is_empty() {
            let kind = body.byte()?;
            let section = Reader::new(body.string(LEN_MAX)?);
            found |= match kind {
                CERTIFICATES => self.in_certificates(section)?,
                EXPLICIT_KEY => self.among(section, |key, item| *key.blob() == *item)?,
                FINGERPRINT_SHA1 => self.among(section, |key, item| {
                    digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, key.blob()).as_ref() == item
                })?,
                FINGERPRINT_SHA256 => self.among(section, |key, item| {
                    digest::digest(&SHA256, key.blob()).as_ref() == item
                })?,
                SIGNATURE => return Err(RevokedError::Signed),
                EXTENSION => pass_extension(section)?,
                other => return Err(RevokedError::Section(other)),
            };
        }
        Ok(found)
    }

    fn among(
        &self,
        mut section: Reader<'_>,
        is: impl Fn(&PublicKey, &[u8]) -> bool,
    ) -> Result<bool, Malformed> {
        let mut found = false;
        while !section.is_empty() {
            let item = section.string(LEN_MAX)?;
            found |= self.keys().any(|key| is(key, item));
        }
        Ok(found)
    }

    /// The certificates of one authority, or of any where none is named.
    fn in_certificates(&self, mut section: Reader<'_>) -> Result<bool, RevokedError> {
        let authority = section.string(LEN_MAX)?;
        section.string(LEN_MAX)?;
        let certificate = self
            .certificate
            .filter(|own| authority.is_empty() || *own.authority().blob() == *authority);
        // As with OpenSSH, zero is what a certificate has that was given no number.
        let serial = certificate.map(Certificate::serial).filter(|serial| *serial != 0);
        let is = |first, last| serial.is_some_and(|serial| (first..=last).contains(&serial));
        let mut found = false;
        while !section.is_empty() {
            let kind = section.byte()?;
            let mut items = Reader::new(section.string(LEN_MAX)?);
            match kind {
                SERIAL_LIST => {
                    while !items.is_empty() {
                        let number = items.uint64()?;
                        found |= is(number, number);
                    }
                }
                SERIAL_RANGE => {
                    let (first, last) = (items.uint64()?, items.uint64()?);
                    found |= is(first, last);
                }
                SERIAL_BITMAP => {
                    let offset = items.uint64()?;
                    let bits = items.mpint(LEN_MAX)?;
                    let bit = serial.and_then(|serial| serial.checked_sub(offset));
                    found |= bit.is_some_and(|bit| has_bit(bits, bit));
                }
                KEY_ID => {
                    while !items.is_empty() {
                        let id = items.string(LEN_MAX)?;
                        found |= certificate.is_some_and(|own| *own.key_id().as_bytes() == *id);
                    }
                }
                CERTIFICATE_EXTENSION => {
                    pass_extension(items.clone())?;
                    continue;
                }
                other => return Err(RevokedError::Section(other)),
            }
            items.end()?;
        }
        Ok(found)
    }
}

/// An extension that is not critical says nothing to us.
fn pass_extension(mut section: Reader<'_>) -> Result<bool, RevokedError> {
    section.string(LEN_MAX)?;
    let critical = section.boolean()?;
    section.string(LEN_MAX)?;
    section.end()?;
    if critical { Err(RevokedError::Extension) } else { Ok(false) }
}

/// Whether bit `bit` of a big-endian magnitude is set.
fn has_bit(magnitude: &[u8], bit: u64) -> bool {
    let byte = usize::try_from(bit / 8).ok().and_then(|at| magnitude.iter().rev().nth(at));
    byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
}

/// The blob of a line's key, of whatever type.
fn blob_of(line: &[u8]) -> Option<Vec<u8>> {
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let (declared, base64) = (words.next()?, words.next()?);
    let blob = STANDARD.decode(base64).ok()?;
    let inner = Reader::new(&blob).string(NAME_BYTES_MAX).ok()?;
    (*inner == *declared).then_some(blob)
}
