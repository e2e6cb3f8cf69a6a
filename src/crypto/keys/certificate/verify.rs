//! The whole check of a certificate, as sshd and ssh make it.

use std::net::IpAddr;

use super::{
    Certificate, CertificateKind, Extensions, PublicKey, SignatureAlgorithm,
    options::{BadCritical, Critical},
};
use crate::base::{Utc, escape, wildcard_match};

/// Whose signature counts, and made how (CASignatureAlgorithms).
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    pub authorities: &'a [PublicKey],
    pub algorithms: &'a [SignatureAlgorithm],
}

/// The use somebody makes of a user certificate.
#[derive(Clone, Copy, Debug)]
pub struct UserUse<'a> {
    /// The names it may be for: the user's, or those of AuthorizedPrincipalsFile or `principals=`.
    pub principals: &'a [&'a str],
    pub peer: IpAddr,
    /// Seconds since 1970.
    pub now: u64,
}

/// Why a certificate does not count. The text is for the log; it names what the authority has to
/// mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefused {
    #[error("it is a {0} certificate")]
    Kind(CertificateKind),
    #[error("its authority {0} is not trusted here")]
    Authority(String),
    #[error("it is signed with {}, which CASignatureAlgorithms does not list", .0.name())]
    Algorithm(SignatureAlgorithm),
    #[error("it certifies the key that signed it")]
    SelfSigned,
    #[error("its signature is not one of its authority")]
    Signature,
    #[error("not yet valid: it begins at {begins}, and it is {now}", begins = Utc(*.begins), now = Utc(*.now))]
    NotYet { begins: u64, now: u64 },
    #[error("expired: it ended at {ended}, and it is {now}", ended = Utc(*.ended), now = Utc(*.now))]
    Expired { ended: u64, now: u64 },
    #[error("it lists no principals")]
    NoPrincipals,
    #[error("name is not a listed principal")]
    Principal,
    #[error("its critical option {0} is not understood")]
    UnknownOption(String),
    #[error("its critical option {0} is there twice")]
    RepeatedOption(&'static str),
    #[error("its critical option {0} has a bad value")]
    OptionValue(&'static str),
    #[error("its source-address does not allow {0}")]
    SourceAddress(IpAddr),
}

impl From<BadCritical> for CertificateRefused {
    fn from(bad: BadCritical) -> CertificateRefused {
        match bad {
            BadCritical::Unknown(name) => CertificateRefused::unknown_option(&name),
            BadCritical::Repeated(name) => CertificateRefused::RepeatedOption(name),
            BadCritical::Value(name) => CertificateRefused::OptionValue(name),
        }
    }
}

impl CertificateRefused {
    fn unknown_option(name: &str) -> CertificateRefused {
        CertificateRefused::UnknownOption(escape(name.as_bytes()).to_string())
    }
}

/// A user certificate that passed every check for one use. Made by [`Certificate::verify_user`]
/// alone. That its key signs is still to be shown.
#[derive(Clone, Debug)]
pub struct VerifiedUser {
    certificate: Certificate,
    critical: Critical,
    extensions: Extensions,
}

impl VerifiedUser {
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The one command that it may run.
    pub fn force_command(&self) -> Option<&str> {
        self.critical.force_command.as_deref()
    }

    /// Signatures of a security key count only when it has verified its user.
    pub const fn verify_required(&self) -> bool {
        self.critical.verify_required
    }

    pub const fn extensions(&self) -> Extensions {
        self.extensions
    }
}

/// A host certificate that passed every check for one host. Made by [`Certificate::verify_host`]
/// alone.
#[derive(Clone, Debug)]
pub struct VerifiedHost {
    certificate: Certificate,
}

impl VerifiedHost {
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

impl Certificate {
    /// Whether a user certificate names this principal. Names are compared as they are: there are
    /// no wildcards, and an empty name or one with a comma, which lists elsewhere would take apart,
    /// is nobody's.
    pub fn names_user(&self, principal: &str) -> bool {
        let sound = !principal.is_empty() && !principal.contains([',', '*', '?']);
        sound && self.principals().any(|named| named == principal)
    }

    /// Checks everything there is to a user certificate but whether it was revoked: kind,
    /// authority, its signature and algorithm, validity, principals, critical options and the
    /// address it is used from.
    pub fn verify_user(
        &self,
        trust: Trust<'_>,
        used: UserUse<'_>,
    ) -> Result<VerifiedUser, CertificateRefused> {
        self.verify_origin(trust, used.now)?;
        if !used.principals.iter().any(|name| self.names_user(name)) {
            return Err(self.without_principal());
        }
        let critical = Critical::read(&self.contents.critical)?;
        if critical.source_address.as_ref().is_some_and(|networks| !networks.allows(used.peer)) {
            return Err(CertificateRefused::SourceAddress(used.peer));
        }
        let extensions = Extensions::read(&self.contents.extensions);
        Ok(VerifiedUser { certificate: self.clone(), critical, extensions })
    }

    /// Checks what does not depend on who uses a user certificate: kind, authority, its signature and
    /// algorithm, validity. It says nothing about a login yet.
    pub fn verify_origin(&self, trust: Trust<'_>, now: u64) -> Result<(), CertificateRefused> {
        self.check_authority(CertificateKind::User, trust)?;
        self.check_time(now)
    }

    /// Checks everything there is to a host certificate but whether it was revoked. `host` is the
    /// name that was connected to, without a port; the principals may be patterns. `now` is in
    /// seconds since 1970.
    pub fn verify_host(
        &self,
        trust: Trust<'_>,
        host: &str,
        now: u64,
    ) -> Result<VerifiedHost, CertificateRefused> {
        self.check_authority(CertificateKind::Host, trust)?;
        self.check_time(now)?;
        let host = host.to_ascii_lowercase();
        let names = |named: &str| {
            let named = named.to_ascii_lowercase();
            !named.contains(',') && wildcard_match(named.as_bytes(), host.as_bytes())
        };
        if host.is_empty() || !self.principals().any(names) {
            return Err(self.without_principal());
        }
        // There are no critical options for hosts.
        match self.contents.critical.first() {
            Some(name) => Err(CertificateRefused::unknown_option(name)),
            None => Ok(VerifiedHost { certificate: self.clone() }),
        }
    }

    fn check_authority(
        &self,
        kind: CertificateKind,
        trust: Trust<'_>,
    ) -> Result<(), CertificateRefused> {
        if self.kind() != kind {
            return Err(CertificateRefused::Kind(self.kind()));
        }
        if !trust.authorities.contains(self.authority()) {
            return Err(CertificateRefused::Authority(self.authority().fingerprint()));
        }
        if self.key() == self.authority() {
            return Err(CertificateRefused::SelfSigned);
        }
        if !trust.algorithms.contains(&self.signed_with()) {
            return Err(CertificateRefused::Algorithm(self.signed_with()));
        }
        let signature = self.signature().map_err(|_| CertificateRefused::Signature)?;
        self.authority()
            .verify(self.signed_with(), self.signed(), signature)
            .map_err(|_| CertificateRefused::Signature)
    }

    fn check_time(&self, now: u64) -> Result<(), CertificateRefused> {
        let (begins, ended) = (self.contents.valid_after, self.contents.valid_before);
        if now < begins {
            return Err(CertificateRefused::NotYet { begins, now });
        }
        if now >= ended && ended != u64::MAX {
            return Err(CertificateRefused::Expired { ended, now });
        }
        Ok(())
    }

    /// An empty list is good for nobody, not for everybody.
    fn without_principal(&self) -> CertificateRefused {
        match self.principals().len() {
            0 => CertificateRefused::NoPrincipals,
            _ => CertificateRefused::Principal,
        }
    }
}
