//! Public and private keys, their signatures and their files.
//!
//! Everything a peer or a file supplies is decoded strictly: the declared type must be the type of
//! the contents, points must lie on their curve, RSA sizes are bounded, trailing bytes are an
//! error. Only current algorithms exist here: no DSA, and no `ssh-rsa` signature (RSA with SHA-1),
//! so there is no setting that could enable them.

mod armour;
mod curve;
mod der;
mod error;
mod file_cipher;
mod openssh_file;
mod private;
mod public;
mod rsa;
mod signature;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod keygen_tests;
#[cfg(test)]
mod vector_tests;

pub use error::{BadSignature, KeyError};
pub use private::PrivateKey;
pub use public::PublicKey;

use curve::Curve;

/// What a key is, whatever algorithm it signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    Ed25519,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Rsa,
}

impl KeyKind {
    /// Every kind, in the order we prefer them.
    pub const ALL: [KeyKind; 5] = [
        KeyKind::Ed25519,
        KeyKind::EcdsaP256,
        KeyKind::EcdsaP384,
        KeyKind::EcdsaP521,
        KeyKind::Rsa,
    ];

    /// The name at the front of a public key blob (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4).
    /// For RSA it is `ssh-rsa` even though no signature of that name is ever made or accepted
    /// (RFC 8332 §3).
    pub const fn name(self) -> &'static str {
        match self {
            KeyKind::Ed25519 => "ssh-ed25519",
            KeyKind::EcdsaP256 => "ecdsa-sha2-nistp256",
            KeyKind::EcdsaP384 => "ecdsa-sha2-nistp384",
            KeyKind::EcdsaP521 => "ecdsa-sha2-nistp521",
            KeyKind::Rsa => "ssh-rsa",
        }
    }

    /// The kind a blob's name stands for.
    pub fn from_name(name: &str) -> Option<KeyKind> {
        KeyKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The short word people use: what `ssh-keygen -t` takes and `ssh-keygen -l` prints.
    pub const fn family(self) -> &'static str {
        match self {
            KeyKind::Ed25519 => "ED25519",
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::EcdsaP521 => "ECDSA",
            KeyKind::Rsa => "RSA",
        }
    }

    const fn curve(self) -> Option<Curve> {
        match self {
            KeyKind::EcdsaP256 => Some(Curve::P256),
            KeyKind::EcdsaP384 => Some(Curve::P384),
            KeyKind::EcdsaP521 => Some(Curve::P521),
            KeyKind::Ed25519 | KeyKind::Rsa => None,
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
    RsaSha512,
    RsaSha256,
}

impl SignatureAlgorithm {
    /// Every algorithm, in the order we prefer them.
    pub const ALL: [SignatureAlgorithm; 6] = [
        SignatureAlgorithm::Ed25519,
        SignatureAlgorithm::EcdsaP256,
        SignatureAlgorithm::EcdsaP384,
        SignatureAlgorithm::EcdsaP521,
        SignatureAlgorithm::RsaSha512,
        SignatureAlgorithm::RsaSha256,
    ];

    /// The name on the wire (RFC 8709 §4, RFC 5656 §3.1, RFC 8332 §3).
    pub const fn name(self) -> &'static str {
        match self {
            SignatureAlgorithm::Ed25519 => "ssh-ed25519",
            SignatureAlgorithm::EcdsaP256 => "ecdsa-sha2-nistp256",
            SignatureAlgorithm::EcdsaP384 => "ecdsa-sha2-nistp384",
            SignatureAlgorithm::EcdsaP521 => "ecdsa-sha2-nistp521",
            SignatureAlgorithm::RsaSha512 => "rsa-sha2-512",
            SignatureAlgorithm::RsaSha256 => "rsa-sha2-256",
        }
    }

    /// The algorithm of this name. `ssh-rsa` is none.
    pub fn from_name(name: &str) -> Option<SignatureAlgorithm> {
        SignatureAlgorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The kind of key that signs this way.
    pub const fn key_kind(self) -> KeyKind {
        match self {
            SignatureAlgorithm::Ed25519 => KeyKind::Ed25519,
            SignatureAlgorithm::EcdsaP256 => KeyKind::EcdsaP256,
            SignatureAlgorithm::EcdsaP384 => KeyKind::EcdsaP384,
            SignatureAlgorithm::EcdsaP521 => KeyKind::EcdsaP521,
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
            KeyKind::Rsa => &[SignatureAlgorithm::RsaSha512, SignatureAlgorithm::RsaSha256],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_map_back() {
        for kind in KeyKind::ALL {
            assert_eq!(KeyKind::from_name(kind.name()), Some(kind));
            for algorithm in SignatureAlgorithm::for_key(kind) {
                assert_eq!(algorithm.key_kind(), kind);
            }
        }
        for algorithm in SignatureAlgorithm::ALL {
            assert_eq!(SignatureAlgorithm::from_name(algorithm.name()), Some(algorithm));
            assert!(SignatureAlgorithm::for_key(algorithm.key_kind()).contains(&algorithm));
        }
    }

    #[test]
    fn sha1_signatures_and_dsa_have_no_name_here() {
        for name in ["ssh-rsa", "ssh-dss", "rsa-sha2-512-cert-v01@openssh.com", "", "SSH-ED25519"] {
            assert_eq!(SignatureAlgorithm::from_name(name), None, "{name}");
        }
        assert_eq!(KeyKind::from_name("ssh-dss"), None);
        assert_eq!(KeyKind::from_name("rsa-sha2-512"), None);
    }
}
