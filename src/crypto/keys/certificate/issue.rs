//! Making certificates.

use std::{net::IpAddr, time::Duration};

use aws_lc_rs::rand;

use super::{
    Certificate, CertificateError, CertificateKind, Extensions, PublicKey, SignatureAlgorithm,
    options::{FORCE_COMMAND, SOURCE_ADDRESS, VERIFY_REQUIRED},
};
use crate::{
    crypto::PrivateKey,
    limits::{CERTIFICATE_BYTES_MAX, CERTIFICATE_CLOCK_SKEW, CERTIFICATE_PRINCIPALS_MAX},
    wire::{NoSpace, Reader, Writer},
};

/// Bytes of the random value that makes every certificate another; OpenSSH's figure.
const NONCE_BYTES: usize = 32;

/// What a certificate is to say.
#[derive(Clone, Copy, Debug)]
pub struct Certification<'a> {
    pub kind: CertificateKind,
    pub serial: u64,
    pub key_id: &'a str,
    /// At least one.
    pub principals: &'a [&'a str],
    /// Seconds since 1970; the last is the first that does not count, `u64::MAX` is for ever.
    pub valid_after: u64,
    pub valid_before: u64,
    pub force_command: Option<&'a str>,
    /// Networks, separated by commas.
    pub source_address: Option<&'a str>,
    pub verify_required: bool,
    /// For users alone.
    pub extensions: Extensions,
}

/// A user certificate for one login that is about to happen.
#[derive(Clone, Copy, Debug)]
pub struct LoginCertificate<'a> {
    /// The account it is for.
    pub principal: &'a str,
    /// What the server's log will show.
    pub key_id: &'a str,
    pub serial: u64,
    /// Where the login comes from, as its server sees it.
    pub source: Option<IpAddr>,
    /// Seconds since 1970.
    pub now: u64,
    pub lifetime: Duration,
    pub extensions: Extensions,
}

impl Certification<'_> {
    /// Certifies `subject` under the authority's key, which signs with the algorithm we prefer for
    /// it. RSA authorities take milliseconds.
    pub fn issue(
        &self,
        subject: &PublicKey,
        authority: &PrivateKey,
    ) -> Result<Certificate, CertificateError> {
        if self.principals.is_empty() {
            return Err(CertificateError::NoPrincipals);
        }
        if self.principals.len() > CERTIFICATE_PRINCIPALS_MAX {
            return Err(CertificateError::TooLarge);
        }
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce).map_err(|_| CertificateError::Signing)?;
        let mut space = [0; CERTIFICATE_BYTES_MAX as usize];
        let mut out = Writer::new(&mut space);
        self.write(subject, authority.public(), &nonce, &mut out)?;
        let algorithm = SignatureAlgorithm::for_key(authority.kind()).first().copied();
        let algorithm = algorithm.ok_or(CertificateError::Signing)?;
        let signature = authority.sign(algorithm, out.written());
        out.string(&signature.map_err(|_| CertificateError::Signing)?)?;
        Certificate::from_blob(out.written())
    }

    fn write(
        &self,
        subject: &PublicKey,
        authority: &PublicKey,
        nonce: &[u8],
        out: &mut Writer<'_>,
    ) -> Result<(), NoSpace> {
        out.string(subject.kind().certificate_name().as_bytes())?;
        out.string(nonce)?;
        // The key's numbers are its blob without the name in front.
        let mut numbers = Reader::new(subject.blob());
        numbers.string(CERTIFICATE_BYTES_MAX).map_err(|_| NoSpace)?;
        out.bytes(numbers.rest())?;
        out.uint64(self.serial)?;
        out.uint32(self.kind.number())?;
        out.string(self.key_id.as_bytes())?;
        packed(out, |out| self.principals.iter().try_for_each(|name| out.string(name.as_bytes())))?;
        out.uint64(self.valid_after)?;
        out.uint64(self.valid_before)?;
        packed(out, |out| self.write_critical(out))?;
        packed(out, |out| match self.kind {
            CertificateKind::User => self.extensions.write(out),
            CertificateKind::Host => Ok(()),
        })?;
        out.string(b"")?;
        out.string(authority.blob())
    }

    /// In the order of their names, as PROTOCOL.certkeys asks.
    fn write_critical(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        for (name, value) in
            [(FORCE_COMMAND, self.force_command), (SOURCE_ADDRESS, self.source_address)]
        {
            if let Some(value) = value {
                out.string(name.as_bytes())?;
                packed(out, |out| out.string(value.as_bytes()))?;
            }
        }
        if self.verify_required {
            out.string(VERIFY_REQUIRED.as_bytes())?;
            out.string(b"")?;
        }
        Ok(())
    }
}

impl LoginCertificate<'_> {
    /// Certifies `subject` for this login. It counts from a little before `now`, for clocks that
    /// are behind ours, until `lifetime` has passed.
    pub fn issue(
        &self,
        subject: &PublicKey,
        authority: &PrivateKey,
    ) -> Result<Certificate, CertificateError> {
        let source = self.source.map(|address| address.to_canonical().to_string());
        let certification = Certification {
            kind: CertificateKind::User,
            serial: self.serial,
            key_id: self.key_id,
            principals: &[self.principal],
            valid_after: self.now.saturating_sub(CERTIFICATE_CLOCK_SKEW.as_secs()),
            valid_before: self.now.saturating_add(self.lifetime.as_secs()),
            force_command: None,
            source_address: source.as_deref(),
            verify_required: false,
            extensions: self.extensions,
        };
        certification.issue(subject, authority)
    }
}

/// A string that holds what `write` writes.
fn packed(
    out: &mut Writer<'_>,
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>,
) -> Result<(), NoSpace> {
    let length_at = out.len();
    out.uint32(0)?;
    write(out)?;
    let len = u32::try_from(out.len() - length_at - 4).map_err(|_| NoSpace)?;
    out.patch_uint32(length_at, len)
}
