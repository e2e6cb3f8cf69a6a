use std::fmt;

use aws_lc_rs::{
    encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der},
    rand::SystemRandom,
    rsa,
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512},
};
use zeroize::Zeroizing;

use super::{
    KeyError, KeyKind, PublicKey, SignatureAlgorithm,
    armour::{self, Armoured, Form},
    curve::{Curve, FIELD_BYTES_MAX},
    der,
    openssh_file::{self, Envelope},
    pbes2,
    public::Numbers,
    rsa::{RsaNumbers, to_pkcs8},
    signature,
};
use crate::{
    crypto::CryptoError,
    limits::KEY_FILE_BYTES_MAX,
    wire::{NoSpace, Reader, Writer},
};

/// A private key, ready to sign from any thread. The secret numbers live in the crypto library's
/// memory, which it wipes when the key is dropped; every copy made on the way is wiped too.
pub struct PrivateKey {
    public: PublicKey,
    pair: Pair,
    comment: Box<str>,
}

impl PrivateKey {
    /// Reads a private key file: OpenSSH's own format, PKCS#8 and PEM of the other kinds (PKCS#1, SEC 1), encrypted
    /// or not. With a passphrase this takes as long as the file asks for, up to
    /// [`KEY_FILE_ROUNDS_MAX`](crate::limits::KEY_FILE_ROUNDS_MAX) rounds: never call it from a
    /// shard. A passphrase that is not needed is ignored.
    pub fn from_openssh(
        text: impl AsRef<[u8]>,
        passphrase: Option<&[u8]>,
    ) -> Result<PrivateKey, KeyError> {
        let Armoured { form, encryption, bytes } = armour::decode(text.as_ref())?;
        if let Some(encryption) = encryption {
            let opened = encryption.open(&bytes, passphrase)?;
            return PrivateKey::new(Pair::from_pem(form, &opened)?, "");
        }
        let pair = match form {
            Form::OpenSsh => return Envelope::decode(&bytes)?.open(passphrase),
            Form::Pkcs8 => Pair::from_pkcs8(&bytes)?,
            Form::Pkcs8Encrypted => Pair::from_pkcs8(&pbes2::open(&bytes, passphrase)?)?,
            Form::Pkcs1 | Form::Sec1 => Pair::from_pem(form, &bytes)?,
        };
        PrivateKey::new(pair, "")
    }

    /// The public half of a file in OpenSSH's format, which needs no passphrase: enough to offer
    /// the key to a server before asking for one. The file only claims that the halves belong
    /// together; [`PrivateKey::from_openssh`] checks it.
    pub fn public_of_openssh(text: impl AsRef<[u8]>) -> Result<PublicKey, KeyError> {
        let Armoured { form, bytes, .. } = armour::decode(text.as_ref())?;
        match form {
            Form::OpenSsh => Ok(Envelope::decode(&bytes)?.into_public()),
            _ => Ok(PrivateKey::from_openssh(text, None)?.public),
        }
    }

    /// A new key; RSA ones have 3072 bits, which take a good part of a second.
    pub fn generate(kind: KeyKind) -> Result<PrivateKey, KeyError> {
        let pair = match kind.curve() {
            Some(curve) => EcdsaKeyPair::generate(curve.signing())
                .map(|pair| Pair::Ecdsa(curve, pair))
                .map_err(|_| KeyError::Generation)?,
            None if kind.is_security() => return Err(KeyError::Generation),
            None if kind == KeyKind::Rsa => rsa::KeyPair::generate(rsa::KeySize::Rsa3072)
                .map(Pair::Rsa)
                .map_err(|_| KeyError::Generation)?,
            None => {
                Ed25519KeyPair::generate().map(Pair::Ed25519).map_err(|_| KeyError::Generation)?
            }
        };
        PrivateKey::new(pair, "")
    }

    /// Writes the key in OpenSSH's format, unencrypted. The comment may have up to
    /// [`KEY_FILE_COMMENT_BYTES_MAX`](crate::limits::KEY_FILE_COMMENT_BYTES_MAX) bytes.
    pub fn to_openssh(&self, comment: &str) -> Result<Zeroizing<String>, KeyError> {
        openssh_file::encode(self, comment, b"")
    }

    /// Writes the key in OpenSSH's format, encrypted with aes256-ctr under a key that bcrypt
    /// derives from the passphrase. An empty passphrase is refused.
    pub fn to_openssh_encrypted(
        &self,
        comment: &str,
        passphrase: &[u8],
    ) -> Result<Zeroizing<String>, KeyError> {
        if passphrase.is_empty() {
            return Err(KeyError::PassphraseNeeded);
        }
        openssh_file::encode(self, comment, passphrase)
    }

    /// The key's type and numbers, as an agent takes them in (draft-ietf-sshm-ssh-agent §3.2).
    pub fn to_agent(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let mut space = Zeroizing::new(vec![0; KEY_FILE_BYTES_MAX as usize]);
        let mut out = Writer::new(&mut space);
        out.string(self.public.type_name().as_bytes()).map_err(|NoSpace| KeyError::TooLarge)?;
        self.encode_numbers(&mut out)?;
        Ok(Zeroizing::new(out.written().to_vec()))
    }

    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    pub const fn kind(&self) -> KeyKind {
        self.public.kind()
    }

    /// The comment its file had.
    pub const fn comment(&self) -> &str {
        &self.comment
    }

    /// Whether a signature takes milliseconds rather than microseconds, so that it is worth a
    /// worker.
    pub const fn is_slow(&self) -> bool {
        matches!(self.pair, Pair::Rsa(_))
    }

    /// Signs, and answers the blob that goes on the wire (RFC 4253 §6.6).
    ///
    /// ECDSA and RSA signatures are verified before they leave: a computation that went wrong
    /// would otherwise give the key away (one faulty RSA-CRT signature factors the modulus).
    /// Ed25519 ones are not: recovering that key takes two signatures over one message, a good
    /// and a faulty one, and everything signed in this protocol holds an exchange hash or session
    /// identifier that never comes twice; and the check would cost four times the signature.
    pub fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        if algorithm.key_kind() != self.kind() {
            return Err(CryptoError::Key);
        }
        let raw = self.pair.sign(algorithm, message)?;
        let blob = signature::wrap(algorithm, &raw).map_err(|NoSpace| CryptoError::Library)?;
        if self.kind() != KeyKind::Ed25519 {
            self.public.verify(algorithm, message, &blob).map_err(|_| CryptoError::Library)?;
        }
        Ok(blob)
    }

    pub(super) fn new(pair: Pair, comment: &str) -> Result<PrivateKey, KeyError> {
        Ok(PrivateKey { public: pair.public()?, pair, comment: comment.into() })
    }

    #[cfg(test)]
    pub(super) const fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The key's numbers in the order of an OpenSSH file.
    pub(super) fn encode_numbers(&self, out: &mut Writer<'_>) -> Result<(), KeyError> {
        let full = |NoSpace| KeyError::TooLarge;
        match &self.pair {
            Pair::Ed25519(pair) => {
                let document: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Inconsistent)?;
                let mut inner = Reader::new(der::pkcs8_private_key(document.as_ref())?);
                let seed = der::element(&mut inner, der::OCTET_STRING)?;
                let point = pair.public_key().as_ref();
                out.string(point).map_err(full)?;
                let mut both = Zeroizing::new([0; 64]);
                let mut parts = Writer::new(&mut *both);
                parts.bytes(seed).and_then(|()| parts.bytes(point)).map_err(full)?;
                out.string(parts.written()).map_err(full)
            }
            Pair::Ecdsa(curve, pair) => {
                let scalar: EcPrivateKeyBin<'_> =
                    pair.private_key().as_be_bytes().map_err(|_| KeyError::Inconsistent)?;
                out.string(curve.name().as_bytes()).map_err(full)?;
                out.string(pair.public_key().as_ref()).map_err(full)?;
                out.mpint(scalar.as_ref()).map_err(full)
            }
            Pair::Rsa(pair) => {
                RsaNumbers::from_pkcs8(to_pkcs8(pair)?.as_ref())?.encode(out).map_err(full)
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {:?})", self.public)
    }
}

/// A key inside the crypto library.
pub(super) enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

impl Pair {
    /// RFC 8032 §5.1.5. The library checks that the halves belong together.
    pub(super) fn ed25519(seed: &[u8], point: &[u8]) -> Result<Pair, KeyError> {
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, point);
        pair.map(Pair::Ed25519).map_err(|_| KeyError::Inconsistent)
    }

    /// The scalar is a magnitude of any width up to the curve's. The library checks that the
    /// halves belong together.
    pub(super) fn ecdsa(curve: Curve, scalar: &[u8], point: &[u8]) -> Result<Pair, KeyError> {
        let mut space = Zeroizing::new([0; FIELD_BYTES_MAX]);
        let fixed = space.get_mut(..curve.field_bytes()).ok_or(KeyError::Inconsistent)?;
        let at = fixed.len().checked_sub(scalar.len()).ok_or(KeyError::Inconsistent)?;
        fixed.get_mut(at..).ok_or(KeyError::Inconsistent)?.copy_from_slice(scalar);
        let pair = EcdsaKeyPair::from_private_key_and_public_key(curve.signing(), fixed, point);
        pair.map(|pair| Pair::Ecdsa(curve, pair)).map_err(|_| KeyError::Inconsistent)
    }

    /// PKCS#8 says what it holds, so the wrong readers refuse it.
    fn from_pkcs8(document: &[u8]) -> Result<Pair, KeyError> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(document) {
            return Ok(Pair::Ed25519(pair));
        }
        for curve in Curve::ALL {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.signing(), document) {
                return Ok(Pair::Ecdsa(curve, pair));
            }
        }
        let pair = rsa::KeyPair::from_pkcs8(document);
        pair.map(Pair::Rsa).map_err(|_| KeyError::Unusable)
    }

    /// The documents of PEM's that name their kind outside (RFC 8017 §A.1.2, RFC 5915).
    fn from_pem(form: Form, document: &[u8]) -> Result<Pair, KeyError> {
        if form == Form::Sec1 {
            return Pair::from_sec1(document);
        }
        rsa::KeyPair::from_der(document).map(Pair::Rsa).map_err(|_| KeyError::Unusable)
    }

    fn from_sec1(document: &[u8]) -> Result<Pair, KeyError> {
        for curve in Curve::ALL {
            if let Ok(pair) = EcdsaKeyPair::from_private_key_der(curve.signing(), document) {
                return Ok(Pair::Ecdsa(curve, pair));
            }
        }
        Err(KeyError::Unusable)
    }

    #[cfg(test)]
    pub(super) fn to_der(&self) -> Vec<u8> {
        match self {
            Pair::Ed25519(pair) => pair.to_pkcs8v1().expect("encodes").as_ref().to_vec(),
            Pair::Ecdsa(_, pair) => pair.to_pkcs8v1().expect("encodes").as_ref().to_vec(),
            Pair::Rsa(pair) => to_pkcs8(pair).expect("encodes").as_ref().to_vec(),
        }
    }

    fn public(&self) -> Result<PublicKey, KeyError> {
        let blob = match self {
            Pair::Ed25519(pair) => {
                let point = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Point)?;
                Numbers::Ed25519 { point }.encode()?
            }
            Pair::Ecdsa(curve, pair) => {
                Numbers::Ecdsa { curve: *curve, point: pair.public_key().as_ref() }.encode()?
            }
            Pair::Rsa(pair) => {
                RsaNumbers::from_pkcs8(to_pkcs8(pair)?.as_ref())?.public().encode()?
            }
        };
        PublicKey::from_blob(&blob)
    }

    /// The bare signature; the algorithm is known to fit.
    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let failed = |_| CryptoError::Library;
        let entropy = SystemRandom::new();
        match self {
            Pair::Ed25519(pair) => Ok(pair.try_sign(message).map_err(failed)?.as_ref().to_vec()),
            Pair::Ecdsa(_, pair) => {
                Ok(pair.sign(&entropy, message).map_err(failed)?.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let padding = match algorithm {
                    SignatureAlgorithm::RsaSha256 => &RSA_PKCS1_SHA256,
                    _ => &RSA_PKCS1_SHA512,
                };
                let mut raw = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &entropy, message, &mut raw).map_err(failed)?;
                Ok(raw)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::BadSignature;

    const fn assert_shared_between_threads<T: Send + Sync>() {}
    const _: () = assert_shared_between_threads::<PrivateKey>();
    const _: () = assert_shared_between_threads::<PublicKey>();

    #[test]
    fn every_kind_signs_and_verifies() {
        for kind in KeyKind::ALL {
            let key = PrivateKey::generate(kind).expect("generates");
            assert_eq!((key.kind(), key.is_slow()), (kind, kind == KeyKind::Rsa));
            for &algorithm in SignatureAlgorithm::for_key(kind) {
                let blob = key.sign(algorithm, b"message").expect("signs");
                assert_eq!(key.public().verify(algorithm, b"message", &blob), Ok(()));
                let other = key.public().verify(algorithm, b"massage", &blob);
                assert_eq!(other, Err(BadSignature));
            }
            for algorithm in SignatureAlgorithm::ALL {
                let fits = algorithm.key_kind() == kind;
                assert_eq!(key.sign(algorithm, b"message").is_ok(), fits, "{kind:?}");
            }
        }
    }

    /// SECURITY case 47: a signature that came out wrong stays here. The pair of another key stands
    /// for a computation that failed.
    #[test]
    fn case_47_a_faulty_signature_does_not_leave() {
        for kind in [KeyKind::EcdsaP256, KeyKind::EcdsaP521, KeyKind::Rsa] {
            let (key, other) = (PrivateKey::generate(kind), PrivateKey::generate(kind));
            let (key, other) = (key.expect("generates"), other.expect("generates"));
            let faulty = PrivateKey { public: key.public, pair: other.pair, comment: "".into() };
            for &algorithm in SignatureAlgorithm::for_key(kind) {
                assert_eq!(faulty.sign(algorithm, b"message"), Err(CryptoError::Library));
            }
        }
    }

    #[test]
    fn files_round_trip() {
        for kind in KeyKind::ALL {
            let key = PrivateKey::generate(kind).expect("generates");
            let file = key.to_openssh("me@here").expect("writes");
            let back = PrivateKey::from_openssh(&*file, Some(b"not needed")).expect("reads");
            assert_eq!((back.public(), back.comment()), (key.public(), "me@here"));
            assert_eq!(&PrivateKey::public_of_openssh(&*file).expect("reads"), key.public());
            let algorithm = SignatureAlgorithm::for_key(kind)[0];
            let blob = back.sign(algorithm, b"message").expect("signs");
            assert_eq!(key.public().verify(algorithm, b"message", &blob), Ok(()));
        }
    }
}
