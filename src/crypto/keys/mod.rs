//! Public and private keys, their signatures and their files.
//!
//! Everything a peer or a file supplies is decoded strictly: the declared type must be the type of
//! the contents, points must lie on their curve, RSA sizes are bounded, trailing bytes are an
//! error. Only current algorithms exist here: no DSA, and no `ssh-rsa` signature (RSA with SHA-1),
//! so there is no setting that could enable them.

mod armour;
mod certificate;
mod curve;
mod der;
mod error;
mod file_cipher;
pub mod known_hosts;
mod openssh_file;
mod pbes2;
mod pem;
mod private;
mod public;
pub mod revoked;
mod rsa;
mod security;
mod shown;
mod signature;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod keygen_tests;
#[cfg(test)]
mod vector_tests;

pub use certificate::{
    Certificate, CertificateError, CertificateKind, CertificateRefused, Certification, Extensions,
    LoginCertificate, Trust, UserUse, VerifiedHost, VerifiedUser,
};
pub use error::{BadSignature, KeyError};
pub use private::PrivateKey;
pub use public::PublicKey;
pub use security::Attestation;
pub use shown::ShownKey;

use crate::wire::agent::{SIGN_RSA_SHA2_256, SIGN_RSA_SHA2_512};
use curve::Curve;

/// What a key is, whatever algorithm it signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    Ed25519,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    /// Of a security key, which signs with Ed25519 (OpenSSH PROTOCOL.u2f).
    SkEd25519,
    /// Of a security key, which signs with ECDSA over P-256.
    SkEcdsaP256,
    Rsa,
}

impl KeyKind {
    /// Every kind whose private half can be here, in the order we prefer them.
    pub const ALL: [KeyKind; 5] = [
        KeyKind::Ed25519,
        KeyKind::EcdsaP256,
        KeyKind::EcdsaP384,
        KeyKind::EcdsaP521,
        KeyKind::Rsa,
    ];

    /// Kinds whose private half stays in a security key.
    pub const SECURITY: [KeyKind; 2] = [KeyKind::SkEd25519, KeyKind::SkEcdsaP256];

    fn every() -> impl Iterator<Item = KeyKind> {
        KeyKind::ALL.into_iter().chain(KeyKind::SECURITY)
    }

    /// The private half stays in a security key.
    pub const fn is_security(self) -> bool {
        matches!(self, KeyKind::SkEd25519 | KeyKind::SkEcdsaP256)
    }

    /// The name at the front of a public key blob (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4).
    /// For RSA it is `ssh-rsa` even though no signature of that name is ever made or accepted
    /// (RFC 8332 §3).
    pub const fn name(self) -> &'static str {
        match self {
            KeyKind::Ed25519 => "ssh-ed25519",
            KeyKind::EcdsaP256 => "ecdsa-sha2-nistp256",
            KeyKind::EcdsaP384 => "ecdsa-sha2-nistp384",
            KeyKind::EcdsaP521 => "ecdsa-sha2-nistp521",
            KeyKind::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            KeyKind::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
            KeyKind::Rsa => "ssh-rsa",
        }
    }

    /// The kind a blob's name stands for.
    pub fn from_name(name: &str) -> Option<KeyKind> {
        KeyKind::every().find(|kind| kind.name() == name)
    }

    /// The name at the front of a certificate of such a key (OpenSSH PROTOCOL.certkeys). RSA has one
    /// here too, though its signatures have two algorithms.
    pub const fn certificate_name(self) -> &'static str {
        match self {
            KeyKind::Ed25519 => "ssh-ed25519-cert-v01@openssh.com",
            KeyKind::EcdsaP256 => "ecdsa-sha2-nistp256-cert-v01@openssh.com",
            KeyKind::EcdsaP384 => "ecdsa-sha2-nistp384-cert-v01@openssh.com",
            KeyKind::EcdsaP521 => "ecdsa-sha2-nistp521-cert-v01@openssh.com",
            KeyKind::SkEd25519 => "sk-ssh-ed25519-cert-v01@openssh.com",
            KeyKind::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
            KeyKind::Rsa => "ssh-rsa-cert-v01@openssh.com",
        }
    }

    /// The kind of key in a certificate whose blob begins with this name.
    pub fn from_certificate_name(name: &str) -> Option<KeyKind> {
        KeyKind::every().find(|kind| kind.certificate_name() == name)
    }

    /// The short word people use: what `ssh-keygen -t` takes and `ssh-keygen -l` prints.
    pub const fn family(self) -> &'static str {
        match self {
            KeyKind::Ed25519 => "ED25519",
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::EcdsaP521 => "ECDSA",
            KeyKind::SkEd25519 => "ED25519-SK",
            KeyKind::SkEcdsaP256 => "ECDSA-SK",
            KeyKind::Rsa => "RSA",
        }
    }

    const fn curve(self) -> Option<Curve> {
        match self {
            KeyKind::EcdsaP256 => Some(Curve::P256),
            KeyKind::EcdsaP384 => Some(Curve::P384),
            KeyKind::EcdsaP521 => Some(Curve::P521),
            KeyKind::Ed25519 | KeyKind::SkEd25519 | KeyKind::SkEcdsaP256 | KeyKind::Rsa => None,
        }
    }
}

/// How a signature is made: the name in KEXINIT, in a publickey request and inside the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignatureAlgorithm {
    Ed25519,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    SkEd25519,
    SkEcdsaP256,
    RsaSha512,
    RsaSha256,
}

impl SignatureAlgorithm {
    /// Every algorithm that keys here can sign with, in the order we prefer them.
    pub const ALL: [SignatureAlgorithm; 6] = [
        SignatureAlgorithm::Ed25519,
        SignatureAlgorithm::EcdsaP256,
        SignatureAlgorithm::EcdsaP384,
        SignatureAlgorithm::EcdsaP521,
        SignatureAlgorithm::RsaSha512,
        SignatureAlgorithm::RsaSha256,
    ];

    /// Those and the ones of security keys: every algorithm whose signatures are understood.
    pub const EVERY: [SignatureAlgorithm; 8] = [
        SignatureAlgorithm::Ed25519,
        SignatureAlgorithm::EcdsaP256,
        SignatureAlgorithm::EcdsaP384,
        SignatureAlgorithm::EcdsaP521,
        SignatureAlgorithm::SkEd25519,
        SignatureAlgorithm::SkEcdsaP256,
        SignatureAlgorithm::RsaSha512,
        SignatureAlgorithm::RsaSha256,
    ];

    /// The flags of a request to an agent that signs like this.
    pub const fn agent_flags(self) -> u32 {
        match self {
            SignatureAlgorithm::RsaSha256 => SIGN_RSA_SHA2_256,
            SignatureAlgorithm::RsaSha512 => SIGN_RSA_SHA2_512,
            _ => 0,
        }
    }

    /// The name on the wire (RFC 8709 §4, RFC 5656 §3.1, RFC 8332 §3).
    pub const fn name(self) -> &'static str {
        match self {
            SignatureAlgorithm::Ed25519 => "ssh-ed25519",
            SignatureAlgorithm::EcdsaP256 => "ecdsa-sha2-nistp256",
            SignatureAlgorithm::EcdsaP384 => "ecdsa-sha2-nistp384",
            SignatureAlgorithm::EcdsaP521 => "ecdsa-sha2-nistp521",
            SignatureAlgorithm::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            SignatureAlgorithm::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
            SignatureAlgorithm::RsaSha512 => "rsa-sha2-512",
            SignatureAlgorithm::RsaSha256 => "rsa-sha2-256",
        }
    }

    /// The algorithm of this name. `ssh-rsa` is none.
    pub fn from_name(name: &str) -> Option<SignatureAlgorithm> {
        SignatureAlgorithm::EVERY.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// What stands in KEXINIT and in a publickey request when the key is shown inside a
    /// certificate. The signature itself bears [`SignatureAlgorithm::name`].
    pub const fn certificate_name(self) -> &'static str {
        match self {
            SignatureAlgorithm::RsaSha512 => "rsa-sha2-512-cert-v01@openssh.com",
            SignatureAlgorithm::RsaSha256 => "rsa-sha2-256-cert-v01@openssh.com",
            plain => plain.key_kind().certificate_name(),
        }
    }

    /// The algorithm of a certified key by this name. `ssh-rsa-cert-v01@openssh.com` is none: it
    /// stands for RSA with SHA-1.
    pub fn from_certificate_name(name: &str) -> Option<SignatureAlgorithm> {
        let all = SignatureAlgorithm::EVERY.into_iter();
        all.into_iter().find(|algorithm| algorithm.certificate_name() == name)
    }

    /// The kind of key that signs this way.
    pub const fn key_kind(self) -> KeyKind {
        match self {
            SignatureAlgorithm::Ed25519 => KeyKind::Ed25519,
            SignatureAlgorithm::EcdsaP256 => KeyKind::EcdsaP256,
            SignatureAlgorithm::EcdsaP384 => KeyKind::EcdsaP384,
            SignatureAlgorithm::EcdsaP521 => KeyKind::EcdsaP521,
            SignatureAlgorithm::SkEd25519 => KeyKind::SkEd25519,
            SignatureAlgorithm::SkEcdsaP256 => KeyKind::SkEcdsaP256,
            SignatureAlgorithm::RsaSha512 | SignatureAlgorithm::RsaSha256 => KeyKind::Rsa,
        }
    }

    /// What a key of this kind signs with, in the order we prefer.
    pub const fn for_key(kind: KeyKind) -> &'static [SignatureAlgorithm] {
        match kind {
            KeyKind::Ed25519 => &[SignatureAlgorithm::Ed25519],
            KeyKind::EcdsaP256 => &[SignatureAlgorithm::EcdsaP256],
            KeyKind::EcdsaP384 => &[SignatureAlgorithm::EcdsaP384],
            KeyKind::EcdsaP521 => &[SignatureAlgorithm::EcdsaP521],
            KeyKind::SkEd25519 => &[SignatureAlgorithm::SkEd25519],
            KeyKind::SkEcdsaP256 => &[SignatureAlgorithm::SkEcdsaP256],
            KeyKind::Rsa => &[SignatureAlgorithm::RsaSha512, SignatureAlgorithm::RsaSha256],
        }
    }
}

/// How a key is shown and signs: by itself, or inside a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyAlgorithm {
    pub signature: SignatureAlgorithm,
    pub certified: bool,
}

impl KeyAlgorithm {
    /// Every algorithm, in the order we prefer them.
    pub const ALL: [KeyAlgorithm; 16] = [
        KeyAlgorithm::certified(SignatureAlgorithm::Ed25519),
        KeyAlgorithm::certified(SignatureAlgorithm::EcdsaP256),
        KeyAlgorithm::certified(SignatureAlgorithm::EcdsaP384),
        KeyAlgorithm::certified(SignatureAlgorithm::EcdsaP521),
        KeyAlgorithm::certified(SignatureAlgorithm::SkEd25519),
        KeyAlgorithm::certified(SignatureAlgorithm::SkEcdsaP256),
        KeyAlgorithm::certified(SignatureAlgorithm::RsaSha512),
        KeyAlgorithm::certified(SignatureAlgorithm::RsaSha256),
        KeyAlgorithm::plain(SignatureAlgorithm::Ed25519),
        KeyAlgorithm::plain(SignatureAlgorithm::EcdsaP256),
        KeyAlgorithm::plain(SignatureAlgorithm::EcdsaP384),
        KeyAlgorithm::plain(SignatureAlgorithm::EcdsaP521),
        KeyAlgorithm::plain(SignatureAlgorithm::SkEd25519),
        KeyAlgorithm::plain(SignatureAlgorithm::SkEcdsaP256),
        KeyAlgorithm::plain(SignatureAlgorithm::RsaSha512),
        KeyAlgorithm::plain(SignatureAlgorithm::RsaSha256),
    ];

    pub const fn plain(signature: SignatureAlgorithm) -> KeyAlgorithm {
        KeyAlgorithm { signature, certified: false }
    }

    pub const fn certified(signature: SignatureAlgorithm) -> KeyAlgorithm {
        KeyAlgorithm { signature, certified: true }
    }

    /// The name in KEXINIT and in a publickey request.
    pub const fn name(self) -> &'static str {
        match self.certified {
            true => self.signature.certificate_name(),
            false => self.signature.name(),
        }
    }

    pub fn from_name(name: &str) -> Option<KeyAlgorithm> {
        KeyAlgorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_of_shown_keys_are_twice_those_of_signatures() {
        for algorithm in KeyAlgorithm::ALL {
            assert_eq!(KeyAlgorithm::from_name(algorithm.name()), Some(algorithm));
        }
        assert_eq!(KeyAlgorithm::from_name("ssh-rsa-cert-v01@openssh.com"), None);
    }

    #[test]
    fn names_are_distinct_and_map_back() {
        for kind in KeyKind::every() {
            assert_eq!(KeyKind::from_name(kind.name()), Some(kind));
            assert_eq!(KeyKind::from_certificate_name(kind.certificate_name()), Some(kind));
            for algorithm in SignatureAlgorithm::for_key(kind) {
                assert_eq!(algorithm.key_kind(), kind);
            }
        }
        for algorithm in SignatureAlgorithm::EVERY {
            assert_eq!(SignatureAlgorithm::from_name(algorithm.name()), Some(algorithm));
            assert!(SignatureAlgorithm::for_key(algorithm.key_kind()).contains(&algorithm));
            let certified = algorithm.certificate_name();
            assert_eq!(SignatureAlgorithm::from_certificate_name(certified), Some(algorithm));
            assert_eq!(SignatureAlgorithm::from_name(certified), None);
        }
    }

    #[test]
    fn sha1_signatures_and_dsa_have_no_name_here() {
        for name in ["ssh-rsa", "ssh-dss", "rsa-sha2-512-cert-v01@openssh.com", "", "SSH-ED25519"] {
            assert_eq!(SignatureAlgorithm::from_name(name), None, "{name}");
        }
        let sha1 = KeyKind::Rsa.certificate_name();
        assert_eq!(SignatureAlgorithm::from_certificate_name(sha1), None);
        assert_eq!(KeyKind::from_name("ssh-dss"), None);
        assert_eq!(KeyKind::from_name("rsa-sha2-512"), None);
    }
}
