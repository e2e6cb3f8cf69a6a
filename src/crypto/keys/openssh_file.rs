//! The `openssh-key-v1` file format (OpenSSH's PROTOCOL.key).
//!
//! ```text
//! "openssh-key-v1\0"  string cipher  string derivation  string options  uint32 keys
//! string public key   string private part, encrypted    [tag of an AEAD]
//!
//! private part: uint32 check  uint32 check  string type  the key's numbers  string comment  1 2 3 ..
//! ```

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::{
    KeyError, KeyKind, PublicKey, armour,
    file_cipher::{FileCipher, FileSecret, KeyBits},
    private::{Pair, PrivateKey},
    public::{Numbers, unsupported},
    rsa::RsaNumbers,
};
use crate::{
    limits::{
        HOST_KEY_BYTES_MAX, KEY_FILE_BYTES_MAX, KEY_FILE_COMMENT_BYTES_MAX,
        KEY_FILE_ROUNDS_DEFAULT, NAME_BYTES_MAX,
    },
    wire::{Malformed, NoSpace, Reader, Writer},
};

/// A file taken apart as far as that goes without the passphrase.
pub(super) struct Envelope<'a> {
    cipher: FileCipher,
    /// Salt and rounds of bcrypt; `None` where nothing is encrypted.
    derivation: Option<(&'a [u8], u32)>,
    public: PublicKey,
    /// The encrypted part, its tag behind it.
    sealed: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub(super) fn decode(file: &'a [u8]) -> Result<Envelope<'a>, KeyError> {
        let body = file.strip_prefix(MAGIC).ok_or(KeyError::NotAPrivateKey)?;
        let mut body = Reader::new(body);
        let cipher = FileCipher::from_name(body.string(NAME_BYTES_MAX)?)?;
        let derivation = body.string(NAME_BYTES_MAX)?;
        let options = body.string(BYTES_MAX)?;
        let derivation = decode_derivation(cipher, derivation, options)?;
        match body.uint32()? {
            1 => {}
            count => return Err(KeyError::Count(count)),
        }
        let public = PublicKey::from_blob(body.string(HOST_KEY_BYTES_MAX)?)?;
        let len = body.uint32()?;
        if len > BYTES_MAX {
            return Err(KeyError::TooLarge);
        }
        let len = len as usize;
        if !len.is_multiple_of(cipher.block_bytes()) {
            return Err(KeyError::Malformed(Malformed::Range));
        }
        let sealed = body.bytes(len + cipher.tag_bytes())?;
        body.end()?;
        Ok(Envelope { cipher, derivation, public, sealed })
    }

    /// The public half, which is never encrypted. Not proven to belong to the private one until
    /// the file is opened.
    pub(super) fn into_public(self) -> PublicKey {
        self.public
    }

    pub(super) fn open(&self, passphrase: Option<&[u8]>) -> Result<PrivateKey, KeyError> {
        let secret = match (self.derivation, passphrase) {
            (None, _) => FileSecret::none(),
            (Some(_), None | Some([])) => return Err(KeyError::PassphraseNeeded),
            (Some((salt, rounds)), Some(passphrase)) => {
                FileSecret::derive(self.cipher, passphrase, salt, rounds)?
            }
        };
        let mut section = Zeroizing::new(self.sealed.to_vec());
        self.cipher.open(&secret, &mut section)?;
        let len = section.len().saturating_sub(self.cipher.tag_bytes());
        let mut body = Reader::new(section.get(..len).unwrap_or(&[]));
        if body.uint32()? != body.uint32()? {
            return Err(match self.derivation {
                Some(_) => KeyError::WrongPassphrase,
                None => KeyError::Inconsistent,
            });
        }
        decode_section(&mut body, &self.public)
    }
}

/// Writes a key; encrypted with aes256-ctr under a passphrase that is not empty.
pub(super) fn encode(
    key: &PrivateKey,
    comment: &str,
    passphrase: &[u8],
) -> Result<Zeroizing<String>, KeyError> {
    if comment.len() > KEY_FILE_COMMENT_BYTES_MAX {
        return Err(KeyError::TooLarge);
    }
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| KeyError::Generation)?;
    let (cipher, secret) = if passphrase.is_empty() {
        (FileCipher::None, FileSecret::none())
    } else {
        let cipher = FileCipher::Ctr(KeyBits::Aes256);
        (cipher, FileSecret::derive(cipher, passphrase, &salt, KEY_FILE_ROUNDS_DEFAULT)?)
    };
    let mut space = Zeroizing::new(vec![0; SECTION_BYTES_MAX]);
    let len = encode_section(key, comment, cipher.block_bytes(), &mut space)?;
    let section = space.get_mut(..len).ok_or(KeyError::TooLarge)?;
    cipher.seal(&secret, section)?;

    let mut file = Zeroizing::new(vec![0; SECTION_BYTES_MAX + HOST_KEY_BYTES_MAX as usize + 256]);
    let mut out = Writer::new(&mut file);
    encode_envelope(&mut out, cipher, &salt, key.public().blob(), section)
        .map_err(|NoSpace| KeyError::TooLarge)?;
    armour::encode_openssh(out.written())
}

fn decode_derivation<'a>(
    cipher: FileCipher,
    name: &[u8],
    options: &'a [u8],
) -> Result<Option<(&'a [u8], u32)>, KeyError> {
    let mut options = Reader::new(options);
    let derivation = match (name, cipher) {
        (b"none", FileCipher::None) => None,
        (b"bcrypt", FileCipher::None) | (b"none", _) => return Err(KeyError::Inconsistent),
        (b"bcrypt", _) => Some((options.string(BYTES_MAX)?, options.uint32()?)),
        _ => {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(KeyError::UnsupportedDerivation(name.into()));
        }
    };
    options.end()?;
    Ok(derivation)
}

fn decode_section(body: &mut Reader<'_>, public: &PublicKey) -> Result<PrivateKey, KeyError> {
    let name = body.utf8(NAME_BYTES_MAX)?;
    let kind = KeyKind::from_name(name).ok_or_else(|| unsupported(name))?;
    if kind != public.kind() {
        return Err(KeyError::TypeMismatch);
    }
    let pair = decode_pair(kind, body)?;
    let comment = body.string(BYTES_MAX)?;
    // Padding counts up from one. Some writers use a larger block than the cipher's.
    let padding = body.rest();
    if padding.len() > u8::MAX as usize || !padding.iter().zip(1..).all(|(byte, n)| *byte == n) {
        return Err(KeyError::Malformed(Malformed::TrailingData));
    }
    let key = PrivateKey::new(pair, &String::from_utf8_lossy(comment))?;
    if key.public() == public { Ok(key) } else { Err(KeyError::Inconsistent) }
}

fn decode_pair(kind: KeyKind, body: &mut Reader<'_>) -> Result<Pair, KeyError> {
    if kind == KeyKind::Rsa {
        return Ok(Pair::Rsa(RsaNumbers::decode(body)?.key_pair()?));
    }
    match Numbers::decode_body(kind, body)? {
        Numbers::Ed25519 { point } => {
            // The seed and the public key once more.
            let both = body.string(64)?;
            let (seed, again) = both.split_at_checked(32).ok_or(Malformed::Truncated)?;
            if again != point {
                return Err(KeyError::Inconsistent);
            }
            Pair::ed25519(seed, point)
        }
        Numbers::Ecdsa { curve, point } => {
            let scalar = body.mpint(HOST_KEY_BYTES_MAX)?;
            Pair::ecdsa(curve, scalar, point)
        }
        // The private half is in the security key; the file has a handle of it.
        Numbers::SkEd25519 { .. } | Numbers::SkEcdsaP256 { .. } => Err(unsupported(kind.name())),
        Numbers::Rsa { .. } => Err(KeyError::TypeMismatch),
    }
}

/// Writes the private part and answers its length.
fn encode_section(
    key: &PrivateKey,
    comment: &str,
    block_bytes: usize,
    space: &mut [u8],
) -> Result<usize, KeyError> {
    let mut check = [0; 4];
    rand::fill(&mut check).map_err(|_| KeyError::Generation)?;
    let mut out = Writer::new(space);
    let full = |NoSpace| KeyError::TooLarge;
    out.bytes(&check).map_err(full)?;
    out.bytes(&check).map_err(full)?;
    out.string(key.public().type_name().as_bytes()).map_err(full)?;
    key.encode_numbers(&mut out)?;
    out.string(comment.as_bytes()).map_err(full)?;
    let mut padding = 1;
    while !out.len().is_multiple_of(block_bytes) {
        out.byte(padding).map_err(full)?;
        padding += 1;
    }
    Ok(out.len())
}

fn encode_envelope(
    out: &mut Writer<'_>,
    cipher: FileCipher,
    salt: &[u8],
    public: &[u8],
    section: &[u8],
) -> Result<(), NoSpace> {
    out.bytes(MAGIC)?;
    out.string(cipher.name().as_bytes())?;
    if cipher == FileCipher::None {
        out.string(b"none")?;
        out.string(b"")?;
    } else {
        out.string(b"bcrypt")?;
        let mut space = [0; 64];
        let mut options = Writer::new(&mut space);
        options.string(salt)?;
        options.uint32(KEY_FILE_ROUNDS_DEFAULT)?;
        out.string(options.written())?;
    }
    out.uint32(1)?;
    out.string(public)?;
    out.string(section)
}

const MAGIC: &[u8] = b"openssh-key-v1\0";
const BYTES_MAX: u32 = KEY_FILE_BYTES_MAX as u32;
/// The six numbers of the largest RSA key and a comment, with room to spare.
const SECTION_BYTES_MAX: usize = 8 * 1024;
