//! OpenSSH certificates (PROTOCOL.certkeys): a key, who it is for and what it may, signed by an
//! authority.
//!
//! ```text
//! string type  string nonce  the key's numbers  uint64 serial  uint32 kind  string key id
//! string principals  uint64 valid after  uint64 valid before  string critical options
//! string extensions  string reserved  string authority's key  |  string signature of all before
//! ```
//!
//! [`Certificate`] is what was read and proves nothing. [`Certificate::verify_user`] and
//! [`Certificate::verify_host`] check it as a whole, and they alone make the types that let
//! somebody in.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    KeyError, KeyKind, PublicKey, SignatureAlgorithm,
    public::{Numbers, unsupported},
};
use crate::{
    base::escape,
    limits::{
        CERTIFICATE_BYTES_MAX, CERTIFICATE_PRINCIPALS_MAX, HOST_KEY_BYTES_MAX, NAME_BYTES_MAX,
        SIGNATURE_BYTES_MAX,
    },
    wire::{Malformed, NoSpace, Reader},
};

mod issue;
mod options;
mod verify;

#[cfg(test)]
mod keygen_tests;
#[cfg(test)]
mod tests;

pub use issue::{Certification, LoginCertificate};
pub use options::Extensions;
pub use verify::{CertificateRefused, Trust, UserUse, VerifiedHost, VerifiedUser};

use options::Options;

/// What a certificate is for. One kind is never taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateKind {
    User,
    Host,
}

impl CertificateKind {
    const ALL: [CertificateKind; 2] = [CertificateKind::User, CertificateKind::Host];

    const fn number(self) -> u32 {
        match self {
            CertificateKind::User => 1,
            CertificateKind::Host => 2,
        }
    }
}

impl fmt::Display for CertificateKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            CertificateKind::User => "user",
            CertificateKind::Host => "host",
        })
    }
}

/// Why bytes are no certificate, or why one could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("malformed certificate: {0}")]
    Malformed(#[from] Malformed),
    #[error("the key in the certificate: {0}")]
    Key(KeyError),
    /// A certificate in the place of the authority's key ends here too, so nothing recurses.
    #[error("the key of the certificate's authority: {0}")]
    Authority(KeyError),
    #[error("a certificate of kind {0}; there are only users' (1) and hosts' (2)")]
    Kind(u32),
    #[error("not a certificate: expected `TYPE BASE64 COMMENT`")]
    NotACertificate,
    #[error("the certificate is signed with {0:?}, which is not accepted")]
    SignedWith(Box<str>),
    #[error("larger than a certificate may be ({CERTIFICATE_BYTES_MAX} bytes)")]
    TooLarge,
    #[error("a certificate without names would be good for nobody")]
    NoPrincipals,
    #[error("the authority's key did not sign")]
    Signing,
}

impl From<NoSpace> for CertificateError {
    fn from(NoSpace: NoSpace) -> CertificateError {
        CertificateError::TooLarge
    }
}

/// A certificate that could be read: its parts are well-formed and its keys usable. Neither its
/// signature nor anything it claims has been checked. Cheap to clone.
#[derive(Clone)]
pub struct Certificate {
    blob: Arc<[u8]>,
    contents: Arc<Contents>,
}

struct Contents {
    kind: CertificateKind,
    key: PublicKey,
    authority: PublicKey,
    signed_with: SignatureAlgorithm,
    /// Where the signature begins; it covers what stands before.
    signature_at: usize,
    serial: u64,
    key_id: Box<str>,
    principals: Box<[Box<str>]>,
    valid_after: u64,
    valid_before: u64,
    critical: Options,
    extensions: Options,
}

impl Certificate {
    /// Reads a blob as it travels in key exchange replies and publickey requests, up to
    /// [`CERTIFICATE_BYTES_MAX`].
    pub fn from_blob(blob: &[u8]) -> Result<Certificate, CertificateError> {
        if blob.len() > CERTIFICATE_BYTES_MAX as usize {
            return Err(CertificateError::TooLarge);
        }
        let contents = Contents::decode(blob)?;
        Ok(Certificate { blob: Arc::from(blob), contents: Arc::new(contents) })
    }

    /// Reads the line of a `-cert.pub` file; answers the certificate and its comment.
    pub fn from_text(line: &str) -> Result<(Certificate, &str), CertificateError> {
        let blank = [' ', '\t'];
        let line = line.trim_matches([' ', '\t', '\r', '\n']);
        let (declared, rest) = line.split_once(blank).ok_or(CertificateError::NotACertificate)?;
        let rest = rest.trim_start_matches(blank);
        let (base64, comment) = rest.split_once(blank).unwrap_or((rest, ""));
        if line.contains('\n') || base64.len() > CERTIFICATE_BYTES_MAX as usize * 4 / 3 + 4 {
            return Err(CertificateError::NotACertificate);
        }
        let blob = STANDARD.decode(base64).map_err(|_| CertificateError::NotACertificate)?;
        let certificate = Certificate::from_blob(&blob)?;
        if certificate.type_name() != declared {
            return Err(CertificateError::Key(KeyError::TypeMismatch));
        }
        Ok((certificate, comment.trim_start_matches(blank)))
    }

    /// Whether a blob or a line of this type is a certificate, also one of a kind of key that is
    /// not supported.
    pub fn is_type_name(name: &str) -> bool {
        name.ends_with("-cert-v01@openssh.com") || name.ends_with("-cert-v00@openssh.com")
    }

    /// The line of a `-cert.pub` file, without a line end. Control characters in the comment become
    /// spaces.
    pub fn to_openssh_line(&self, comment: &str) -> String {
        super::public::line(self.type_name(), &self.blob, comment)
    }

    /// The blob, exactly as it was read.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The name in front of the blob: [`KeyKind::certificate_name`].
    pub fn type_name(&self) -> &'static str {
        self.key().kind().certificate_name()
    }

    /// The key that is certified; it is the one that signs in a login or a key exchange.
    pub fn key(&self) -> &PublicKey {
        &self.contents.key
    }

    /// The key of the authority that is said to have signed.
    pub fn authority(&self) -> &PublicKey {
        &self.contents.authority
    }

    /// The algorithm of the authority's signature.
    pub fn signed_with(&self) -> SignatureAlgorithm {
        self.contents.signed_with
    }

    pub fn kind(&self) -> CertificateKind {
        self.contents.kind
    }

    pub fn serial(&self) -> u64 {
        self.contents.serial
    }

    /// What the authority calls it, for logs: any text at all, so escape it.
    pub fn key_id(&self) -> &str {
        &self.contents.key_id
    }

    /// The users or hosts it is for, as they are written.
    pub fn principals(&self) -> impl ExactSizeIterator<Item = &str> {
        self.contents.principals.iter().map(AsRef::as_ref)
    }

    /// The first second of its validity, since 1970.
    pub fn valid_after(&self) -> u64 {
        self.contents.valid_after
    }

    /// The second behind its validity; `u64::MAX` for ever.
    pub fn valid_before(&self) -> u64 {
        self.contents.valid_before
    }

    /// Key, identity and authority as sshd logs them. The identity is escaped.
    pub fn log_text(&self) -> String {
        let key = self.key();
        let authority = self.authority();
        format!(
            "{}-CERT {} ID {} (serial {}) CA {} {}",
            key.kind().family(),
            key.fingerprint(),
            escape(self.key_id().as_bytes()),
            self.serial(),
            authority.kind().family(),
            authority.fingerprint()
        )
    }

    /// What the authority signed.
    fn signed(&self) -> &[u8] {
        self.blob.get(..self.contents.signature_at).unwrap_or(&[])
    }

    /// The authority's signature blob.
    fn signature(&self) -> Result<&[u8], Malformed> {
        let rest = self.blob.get(self.contents.signature_at..).unwrap_or(&[]);
        Reader::new(rest).string(SIGNATURE_BYTES_MAX)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Certificate) -> bool {
        self.blob == other.blob
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?} {} of {:?})", self.key_id(), self.serial(), self.key())
    }
}

impl Contents {
    fn decode(blob: &[u8]) -> Result<Contents, CertificateError> {
        let mut body = Reader::new(blob);
        let name = body.utf8(NAME_BYTES_MAX)?;
        let key_kind = KeyKind::from_certificate_name(name)
            .ok_or_else(|| CertificateError::Key(unsupported(name)))?;
        body.string(CERTIFICATE_BYTES_MAX)?;
        let key = certified_key(key_kind, &mut body)?;
        let serial = body.uint64()?;
        let number = body.uint32()?;
        let kind = CertificateKind::ALL.into_iter().find(|kind| kind.number() == number);
        let kind = kind.ok_or(CertificateError::Kind(number))?;
        let key_id = Box::from(body.utf8(CERTIFICATE_BYTES_MAX)?);
        let principals = principals(body.string(CERTIFICATE_BYTES_MAX)?)?;
        let (valid_after, valid_before) = (body.uint64()?, body.uint64()?);
        let critical = Options::decode(body.string(CERTIFICATE_BYTES_MAX)?)?;
        let extensions = Options::decode(body.string(CERTIFICATE_BYTES_MAX)?)?;
        body.string(CERTIFICATE_BYTES_MAX)?;
        let authority = PublicKey::from_blob(body.string(HOST_KEY_BYTES_MAX)?);
        let authority = authority.map_err(CertificateError::Authority)?;
        let signature_at = blob.len().saturating_sub(body.rest().len());
        let signed_with = signed_with(body.string(SIGNATURE_BYTES_MAX)?)?;
        body.end()?;
        Ok(Contents {
            kind,
            key,
            authority,
            signed_with,
            signature_at,
            serial,
            key_id,
            principals,
            valid_after,
            valid_before,
            critical,
            extensions,
        })
    }
}

/// The plain key whose numbers stand in the certificate, checked like any other.
fn certified_key(kind: KeyKind, body: &mut Reader<'_>) -> Result<PublicKey, CertificateError> {
    let numbers = Numbers::decode_body(kind, body).map_err(CertificateError::Key)?;
    let blob = numbers.encode().map_err(CertificateError::Key)?;
    PublicKey::from_blob(&blob).map_err(CertificateError::Key)
}

fn principals(packed: &[u8]) -> Result<Box<[Box<str>]>, Malformed> {
    let mut list = Vec::new();
    let mut body = Reader::new(packed);
    while !body.is_empty() {
        if list.len() == CERTIFICATE_PRINCIPALS_MAX {
            return Err(Malformed::OverLimit);
        }
        list.push(Box::from(body.utf8(CERTIFICATE_BYTES_MAX)?));
    }
    Ok(list.into())
}

/// The name inside a signature blob; the rest is read when it is verified.
fn signed_with(signature: &[u8]) -> Result<SignatureAlgorithm, CertificateError> {
    let name = Reader::new(signature).utf8(NAME_BYTES_MAX)?;
    SignatureAlgorithm::from_name(name).ok_or_else(|| CertificateError::SignedWith(name.into()))
}
