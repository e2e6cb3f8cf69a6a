//! Key exchange methods: what the two public values are and how a shared secret comes of them.
//!
//! Every method is two steps. The client makes a [`KexSecret`] and a public value; the server
//! answers it with [`respond`]; the client finishes. A public value that no honest peer makes is
//! refused before any secret touches it.

mod curve;
mod kem;
mod modp;
mod moduli;
mod primes;
mod sntrup;
mod task;

pub use modp::Group;
pub use moduli::{BadModulus, Moduli};
pub use task::{KexPiece, KexTask};

use std::fmt;

use zeroize::Zeroizing;

use self::curve::{Curve, CurveSecret};
use self::kem::{Kem, KemSecret};
use self::modp::ModpSecret;
use super::{CryptoError, HashKind, KexError};
use crate::base::Entropy;
use crate::wire::Writer;

/// A key exchange method (RFC 4253 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KexKind {
    /// draft-ietf-sshm-mlkem-hybrid-kex: ML-KEM-768 and X25519.
    MlKem768X25519,
    /// draft-ietf-sshm-ntruprime-ssh: Streamlined NTRU Prime 761 and X25519.
    Sntrup761X25519,
    /// RFC 8731.
    Curve25519,
    /// RFC 5656 §4.
    EcdhP256,
    /// RFC 5656 §4.
    EcdhP384,
    /// RFC 5656 §4.
    EcdhP521,
    /// RFC 8268: the 2048-bit group of RFC 3526.
    DhGroup14,
    /// RFC 8268: the 4096-bit group.
    DhGroup16,
    /// RFC 8268: the 8192-bit group.
    DhGroup18,
    /// RFC 4419: a group of the server's choice.
    DhGroupExchange,
    /// Two nonces hashed together, for the simulator alone.
    #[cfg(feature = "sim")]
    Toy,
}

impl KexKind {
    /// What a client offers unless configured otherwise, in our order of preference: the ones that
    /// resist a quantum computer first, and of equals the cheaper first. Finite-field
    /// Diffie-Hellman is not among them, as in OpenSSH's server since 10.0: it makes us work for
    /// milliseconds at the price of a random number (CVE-2002-20001), and most peers have better.
    pub const DEFAULT: &'static [KexKind] = &[
        KexKind::MlKem768X25519,
        KexKind::Sntrup761X25519,
        KexKind::Curve25519,
        KexKind::EcdhP256,
        KexKind::EcdhP384,
        KexKind::EcdhP521,
    ];

    /// What a server offers unless configured otherwise: [`KexKind::DEFAULT`] without the NIST
    /// curves, whose constants nobody has explained. A client may meet servers with nothing else; a
    /// server meets no client that has nothing else and is fit for use.
    pub const SERVER_DEFAULT: &'static [KexKind] =
        &[KexKind::MlKem768X25519, KexKind::Sntrup761X25519, KexKind::Curve25519];

    /// Every method fit for a real connection.
    pub const ALL: &'static [KexKind] = &[
        KexKind::MlKem768X25519,
        KexKind::Sntrup761X25519,
        KexKind::Curve25519,
        KexKind::EcdhP256,
        KexKind::EcdhP384,
        KexKind::EcdhP521,
        KexKind::DhGroupExchange,
        KexKind::DhGroup16,
        KexKind::DhGroup18,
        KexKind::DhGroup14,
    ];

    /// The names used in negotiation; the standard one first, then older spellings of the same.
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            KexKind::MlKem768X25519 => &["mlkem768x25519-sha256"],
            KexKind::Sntrup761X25519 => {
                &["sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com"]
            }
            KexKind::Curve25519 => &["curve25519-sha256", "curve25519-sha256@libssh.org"],
            KexKind::EcdhP256 => &["ecdh-sha2-nistp256"],
            KexKind::EcdhP384 => &["ecdh-sha2-nistp384"],
            KexKind::EcdhP521 => &["ecdh-sha2-nistp521"],
            KexKind::DhGroup14 => &["diffie-hellman-group14-sha256"],
            KexKind::DhGroup16 => &["diffie-hellman-group16-sha512"],
            KexKind::DhGroup18 => &["diffie-hellman-group18-sha512"],
            KexKind::DhGroupExchange => &["diffie-hellman-group-exchange-sha256"],
            #[cfg(feature = "sim")]
            KexKind::Toy => &["toy@tidegate.invalid"],
        }
    }

    pub fn from_name(name: &str) -> Option<KexKind> {
        #[cfg(feature = "sim")]
        if KexKind::Toy.names().contains(&name) {
            return Some(KexKind::Toy);
        }
        KexKind::ALL.iter().copied().find(|kind| kind.names().contains(&name))
    }

    /// The hash of the exchange and of key derivation.
    pub const fn hash(self) -> HashKind {
        match self {
            KexKind::MlKem768X25519
            | KexKind::Curve25519
            | KexKind::EcdhP256
            | KexKind::DhGroup14
            | KexKind::DhGroupExchange => HashKind::Sha256,
            KexKind::EcdhP384 => HashKind::Sha384,
            KexKind::Sntrup761X25519
            | KexKind::EcdhP521
            | KexKind::DhGroup16
            | KexKind::DhGroup18 => HashKind::Sha512,
            #[cfg(feature = "sim")]
            KexKind::Toy => HashKind::Sha256,
        }
    }

    /// The fixed group of a finite-field method; `None` for the others, and for group exchange,
    /// where the server chooses one.
    pub fn group(self) -> Option<Group> {
        match self {
            KexKind::DhGroup14 => Group::of_2048_bits(),
            KexKind::DhGroup16 => Group::of_4096_bits(),
            KexKind::DhGroup18 => Group::of_8192_bits(),
            _ => None,
        }
    }

    const fn scheme(self) -> Scheme {
        match self {
            KexKind::MlKem768X25519 => Scheme::Hybrid(Kem::MlKem768),
            KexKind::Sntrup761X25519 => Scheme::Hybrid(Kem::Sntrup761),
            KexKind::Curve25519 => Scheme::Curve(Curve::X25519),
            KexKind::EcdhP256 => Scheme::Curve(Curve::P256),
            KexKind::EcdhP384 => Scheme::Curve(Curve::P384),
            KexKind::EcdhP521 => Scheme::Curve(Curve::P521),
            KexKind::DhGroup14
            | KexKind::DhGroup16
            | KexKind::DhGroup18
            | KexKind::DhGroupExchange => Scheme::Modp,
            #[cfg(feature = "sim")]
            KexKind::Toy => Scheme::Toy,
        }
    }
}

/// How a method is put together.
enum Scheme {
    /// One Diffie-Hellman exchange; K is its result as an mpint.
    Curve(Curve),
    /// A KEM beside X25519; K is the hash of both results, as a string.
    Hybrid(Kem),
    /// Modulo a prime: K is an mpint.
    Modp,
    #[cfg(feature = "sim")]
    Toy,
}

/// The client's half of a key exchange, waiting for the server's public value. Used up by
/// [`KexSecret::finish`]; an ephemeral secret serves once.
pub struct KexSecret {
    hash: HashKind,
    secret: Secret,
}

enum Secret {
    Curve(CurveSecret),
    Hybrid(KemSecret, CurveSecret),
    Modp(ModpSecret),
    #[cfg(feature = "sim")]
    Toy([u8; TOY_BYTES]),
}

impl KexSecret {
    /// Makes an ephemeral secret and the public value to send. Real methods draw on the library's
    /// own generator whatever `entropy` is; only the simulator's method uses `entropy`. Group
    /// exchange needs a group first: [`KexSecret::generate_in`].
    pub fn generate(
        kind: KexKind,
        entropy: &mut dyn Entropy,
    ) -> Result<(KexSecret, Vec<u8>), CryptoError> {
        let (secret, public) = match kind.scheme() {
            Scheme::Curve(curve) => {
                let (secret, public) = CurveSecret::generate(curve)?;
                (Secret::Curve(secret), public)
            }
            Scheme::Hybrid(kem) => {
                let (kem_secret, mut public) = KemSecret::generate(kem)?;
                let (curve_secret, curve_public) = CurveSecret::generate(Curve::X25519)?;
                public.extend_from_slice(&curve_public);
                (Secret::Hybrid(kem_secret, curve_secret), public)
            }
            Scheme::Modp => {
                return KexSecret::generate_in(
                    kind,
                    &kind.group().ok_or(CryptoError::Unsupported)?,
                );
            }
            #[cfg(feature = "sim")]
            Scheme::Toy => {
                let nonce = toy_nonce(entropy);
                (Secret::Toy(nonce), nonce.to_vec())
            }
        };
        let _ = entropy;
        Ok((KexSecret { hash: kind.hash(), secret }, public))
    }

    /// The same in a group that the server chose. Takes milliseconds, as does its end.
    pub fn generate_in(kind: KexKind, group: &Group) -> Result<(KexSecret, Vec<u8>), CryptoError> {
        let (secret, public) = ModpSecret::generate(group)?;
        Ok((KexSecret { hash: kind.hash(), secret: Secret::Modp(secret) }, public))
    }

    fn is_finite_field(&self) -> bool {
        matches!(self.secret, Secret::Modp(_))
    }

    /// Takes the server's public value.
    pub fn finish(self, server_public: &[u8]) -> Result<SharedSecret, KexError> {
        match self.secret {
            Secret::Curve(secret) => SharedSecret::mpint(&secret.agree(server_public)?),
            Secret::Hybrid(kem, curve) => {
                let (ciphertext, point) = split_hybrid(server_public, kem.ciphertext_bytes())?;
                let classical = curve.agree(point)?;
                let post_quantum = kem.decapsulate(ciphertext)?;
                SharedSecret::combined(self.hash, &post_quantum, &classical)
            }
            Secret::Modp(secret) => SharedSecret::mpint(&secret.agree(server_public)?),
            #[cfg(feature = "sim")]
            Secret::Toy(nonce) => toy_secret(&nonce, server_public, server_public),
        }
    }
}

impl fmt::Debug for KexSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KexSecret")
    }
}

/// The server's whole part: checks the client's public value, answers the public value to send back
/// and the shared secret.
pub fn respond(
    kind: KexKind,
    client_public: &[u8],
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, SharedSecret), KexError> {
    let answer = match kind.scheme() {
        Scheme::Curve(curve) => {
            let (secret, public) = CurveSecret::generate(curve)?;
            (public, SharedSecret::mpint(&secret.agree(client_public)?)?)
        }
        Scheme::Hybrid(kem) => {
            let (key, point) = split_hybrid(client_public, kem.key_bytes())?;
            let (secret, curve_public) = CurveSecret::generate(Curve::X25519)?;
            let classical = secret.agree(point)?;
            let (mut public, post_quantum) = kem.encapsulate(key)?;
            public.extend_from_slice(&curve_public);
            (public, SharedSecret::combined(kind.hash(), &post_quantum, &classical)?)
        }
        Scheme::Modp => {
            let group = kind.group().ok_or(CryptoError::Unsupported)?;
            return respond_in(&group, client_public);
        }
        #[cfg(feature = "sim")]
        Scheme::Toy => {
            let nonce = toy_nonce(entropy);
            (nonce.to_vec(), toy_secret(client_public, &nonce, client_public)?)
        }
    };
    let _ = entropy;
    Ok(answer)
}

/// The same in a finite-field group. Takes milliseconds: not for a thread that others wait for.
pub fn respond_in(
    group: &Group,
    client_public: &[u8],
) -> Result<(Vec<u8>, SharedSecret), KexError> {
    // What is refused is refused before any work is done for it.
    group.check(client_public)?;
    let (secret, public) = ModpSecret::generate(group)?;
    Ok((public, SharedSecret::mpint(&secret.agree(client_public)?)?))
}

/// The shared secret K, encoded as the method hashes it: an mpint for plain Diffie-Hellman, a
/// string for the hybrids (which hash a fixed-length value). Wiped when dropped.
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// K as it enters the exchange hash and key derivation, length field included.
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    /// RFC 8731 §3.1, RFC 5656 §4: the bytes are a big-endian number.
    fn mpint(magnitude: &[u8]) -> Result<SharedSecret, KexError> {
        SharedSecret::write(magnitude.len(), |out| out.mpint(magnitude))
    }

    /// K = HASH(post-quantum secret || classical secret).
    fn combined(
        hash: HashKind,
        post_quantum: &[u8],
        classical: &[u8],
    ) -> Result<SharedSecret, KexError> {
        let mut hasher = hash.hasher();
        hasher.update(post_quantum);
        hasher.update(classical);
        let digest = Zeroizing::new(hasher.finish());
        SharedSecret::write(digest.len(), |out| out.string((*digest).as_ref()))
    }

    fn write(
        len: usize,
        encode: impl FnOnce(&mut Writer<'_>) -> Result<(), crate::wire::NoSpace>,
    ) -> Result<SharedSecret, KexError> {
        // A length and a sign byte besides.
        let mut bytes = Zeroizing::new(vec![0; len + 4 + 1]);
        let mut out = Writer::new(&mut bytes);
        encode(&mut out).map_err(|_| CryptoError::Library)?;
        let len = out.len();
        bytes.truncate(len);
        Ok(SharedSecret(bytes))
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret")
    }
}

/// Cuts a hybrid public value at `kem_bytes`; what follows must be one X25519 point.
fn split_hybrid(public: &[u8], kem_bytes: usize) -> Result<(&[u8], &[u8]), KexError> {
    let (kem, point) = public.split_at_checked(kem_bytes).ok_or(KexError::Length)?;
    if point.len() == Curve::X25519.public_bytes() {
        Ok((kem, point))
    } else {
        Err(KexError::Length)
    }
}

#[cfg(feature = "sim")]
const TOY_BYTES: usize = 32;

#[cfg(feature = "sim")]
fn toy_nonce(entropy: &mut dyn Entropy) -> [u8; TOY_BYTES] {
    let mut nonce = [0; TOY_BYTES];
    entropy.fill(&mut nonce);
    nonce
}

#[cfg(feature = "sim")]
fn toy_secret(client: &[u8], server: &[u8], peer: &[u8]) -> Result<SharedSecret, KexError> {
    if peer.len() != TOY_BYTES {
        return Err(KexError::Length);
    }
    SharedSecret::combined(HashKind::Sha256, client, server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SeededEntropy;

    const ALL: &[KexKind] = &[
        KexKind::MlKem768X25519,
        KexKind::Sntrup761X25519,
        KexKind::Curve25519,
        KexKind::EcdhP256,
        KexKind::EcdhP384,
        KexKind::EcdhP521,
        KexKind::DhGroup14,
        #[cfg(feature = "sim")]
        KexKind::Toy,
    ];

    fn entropy() -> SeededEntropy {
        SeededEntropy::new(7)
    }

    fn client(kind: KexKind) -> (KexSecret, Vec<u8>) {
        KexSecret::generate(kind, &mut entropy()).expect("a secret")
    }

    #[test]
    fn names_round_trip() {
        for kind in ALL {
            for name in kind.names() {
                assert_eq!(KexKind::from_name(name), Some(*kind));
            }
        }
        for name in ["", "none", "diffie-hellman-group1-sha1", "kex-strict-s-v00@openssh.com"] {
            assert_eq!(KexKind::from_name(name), None);
        }
    }

    #[test]
    fn both_sides_come_to_the_same_secret() {
        for kind in ALL {
            let (secret, public) = client(*kind);
            let (reply, ours) = respond(*kind, &public, &mut entropy()).expect("a reply");
            let theirs = secret.finish(&reply).expect("a secret");
            assert_eq!(ours.encoded(), theirs.encoded(), "{kind:?}");
            let (again, _) = client(*kind);
            let other = again.finish(&reply).map(|secret| secret.encoded().to_vec());
            if kind.names() != ["toy@tidegate.invalid"] {
                assert_ne!(other, Ok(ours.encoded().to_vec()), "{kind:?}");
            }
        }
    }

    const HYBRIDS: [(KexKind, usize, usize); 2] =
        [(KexKind::MlKem768X25519, 1184, 1088), (KexKind::Sntrup761X25519, 1158, 1039)];

    #[test]
    fn public_values_have_the_lengths_the_drafts_give() {
        for (kind, key_bytes, ciphertext_bytes) in HYBRIDS {
            let (_, public) = client(kind);
            let (reply, secret) = respond(kind, &public, &mut entropy()).expect("a reply");
            assert_eq!((public.len(), reply.len()), (key_bytes + 32, ciphertext_bytes + 32));
            assert_eq!(secret.encoded().len(), 4 + kind.hash().digest_bytes());
            assert_eq!(secret.encoded()[..3], [0, 0, 0]);
        }
    }

    /// RFC 8731 §3.1, SECURITY case 30: leading zeros go, and a set top bit gets one byte of zero.
    #[test]
    fn case_30_secrets_are_minimal_mpints() {
        let encoded = |bytes: &[u8]| SharedSecret::mpint(bytes).map(|s| s.encoded().to_vec());
        assert_eq!(encoded(&[0, 0, 0x7f, 1]), Ok(vec![0, 0, 0, 2, 0x7f, 1]));
        assert_eq!(encoded(&[0, 0x80, 1]), Ok(vec![0, 0, 0, 3, 0, 0x80, 1]));
        assert_eq!(encoded(&[0x80; 66]).map(|bytes| bytes.len()), Ok(4 + 1 + 66));
        // A hybrid's K is a string: nothing is stripped and nothing is added.
        let combined = SharedSecret::combined(HashKind::Sha256, b"post", b"classical");
        let expected = HashKind::Sha256.digest(b"postclassical");
        let expected = [&[0, 0, 0, 32], expected.as_ref()].concat();
        assert_eq!(combined.map(|s| s.encoded().to_vec()), Ok(expected));
    }

    /// SECURITY case 26: each half is checked on each side.
    #[test]
    fn case_26_hybrids_refuse_either_bad_half() {
        for (kind, key_bytes, ciphertext_bytes) in HYBRIDS {
            let (_, public) = client(kind);
            let refused = |public: &[u8]| respond(kind, public, &mut entropy()).map(|_| ());
            let mut low_order = public.clone();
            low_order[key_bytes..].fill(0);
            assert_eq!(refused(&low_order), Err(KexError::LowOrder));
            for wrong in wrong_lengths(&public, key_bytes) {
                assert_eq!(refused(&wrong), Err(KexError::Length), "{} bytes", wrong.len());
            }
            let (reply, _) = respond(kind, &public, &mut entropy()).expect("a reply");
            let refused = |reply: &[u8]| client(kind).0.finish(reply).map(|_| ());
            let mut low_order = reply.clone();
            low_order[ciphertext_bytes..].fill(0);
            assert_eq!(refused(&low_order), Err(KexError::LowOrder));
            for wrong in wrong_lengths(&reply, ciphertext_bytes) {
                assert_eq!(refused(&wrong), Err(KexError::Length), "{} bytes", wrong.len());
            }
        }
        let (_, mut public) = client(KexKind::MlKem768X25519);
        public[..2].fill(0xff);
        let refused = respond(KexKind::MlKem768X25519, &public, &mut entropy()).map(|_| ());
        assert_eq!(refused, Err(KexError::Invalid));
    }

    fn wrong_lengths(value: &[u8], cut: usize) -> Vec<Vec<u8>> {
        let longer = [value, &[0]].concat();
        let shorter = &value[..value.len() - 1];
        let (kem, point) = value.split_at(cut);
        [&[], &[0][..], kem, point, shorter, &longer].map(<[u8]>::to_vec).to_vec()
    }

    /// SECURITY cases 24 and 25 through the front door: no method takes an empty value, a zero, or
    /// what another method sends.
    #[test]
    fn no_method_takes_another_ones_values() {
        // To finite-field Diffie-Hellman any bytes are a number, most of them in range.
        let others = || ALL.iter().filter(|kind| kind.group().is_none());
        for kind in others() {
            let (_, public) = client(*kind);
            for other in others() {
                let toy_takes_any = other.names() == ["toy@tidegate.invalid"] && public.len() == 32;
                let mixed = respond(*other, &public, &mut entropy());
                let same_shape = public.len() == 32 && *other == KexKind::Curve25519;
                if kind != other && !toy_takes_any && !same_shape {
                    assert!(mixed.is_err(), "{kind:?} to {other:?}");
                }
            }
            let empty = respond(*kind, &[], &mut entropy()).map(|_| ());
            assert_eq!(empty, Err(KexError::Length));
        }
    }

    #[test]
    fn secrets_do_not_show_in_logs() {
        let (secret, public) = client(KexKind::Curve25519);
        let (_, shared) = respond(KexKind::Curve25519, &public, &mut entropy()).expect("a reply");
        assert_eq!(format!("{secret:?} {shared:?}"), "KexSecret SharedSecret");
    }
}
