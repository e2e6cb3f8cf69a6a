use crate::{
    limits::{KEY_FILE_BYTES_MAX, KEY_FILE_ROUNDS_MAX, RSA_BITS_MAX, RSA_BITS_MIN},
    wire::Malformed,
};

/// The signature is not one that this key made over this message with this algorithm. Says no
/// more: which check failed is nobody's business but the forger's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// Why a key could not be read. The text of those that a user can mend says how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("malformed key: {0}")]
    Malformed(#[from] Malformed),
    #[error("malformed base64 in a key")]
    Base64,
    #[error("not a public key: expected `TYPE BASE64 COMMENT`")]
    NotAPublicKey,
    #[error("keys of type {0:?} are not supported")]
    UnsupportedType(Box<str>),
    #[error("the key is not of the type it declares")]
    TypeMismatch,
    #[error("the public key is not a usable point of its curve")]
    Point,
    #[error(
        "an RSA key of {0} bits; {min} to {max} are accepted",
        min = RSA_BITS_MIN,
        max = RSA_BITS_MAX
    )]
    RsaSize(u32),
    #[error("the RSA modulus or exponent is not one an RSA key can have")]
    RsaNumbers,

    #[error("larger than a key file may be ({max} bytes)", max = KEY_FILE_BYTES_MAX)]
    TooLarge,
    #[error("not a private key file")]
    NotAPrivateKey,
    #[error("this is the public half of a key; the private one is the file without `.pub`")]
    PublicHalf,
    #[error("the key file is encrypted and needs its passphrase")]
    PassphraseNeeded,
    #[error("wrong passphrase for the key file")]
    WrongPassphrase,
    #[error(
        "a key file that is encrypted in a way of PEM's that is not read here; \
         `ssh-keygen -p -f FILE` converts it in place"
    )]
    EncryptedPem,
    #[error("a PuTTY key file; `puttygen FILE -O private-openssh-new -o NEWFILE` converts it")]
    Putty,
    #[error(
        "a key file encrypted with {0:?}, which is not read here; \
         `ssh-keygen -p -Z aes256-ctr -f FILE` encrypts it anew"
    )]
    UnsupportedCipher(Box<str>),
    #[error("a key file protected by {0:?}; only bcrypt is read here")]
    UnsupportedDerivation(Box<str>),
    #[error(
        "a key file that asks for {0} rounds of bcrypt; at most {max} are accepted",
        max = KEY_FILE_ROUNDS_MAX
    )]
    Rounds(u32),
    #[error("a key file with {0} keys; exactly one is accepted")]
    Count(u32),
    #[error("the key file is damaged: its parts do not belong together")]
    Inconsistent,
    #[error("the key file holds no key of a supported type and size")]
    Unusable,
    #[error("the key could not be generated")]
    Generation,
}
