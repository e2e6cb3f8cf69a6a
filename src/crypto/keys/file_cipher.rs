//! The ciphers that private key files are encrypted with, and the passphrase behind them.

use aws_lc_rs::{
    aead::{self, AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{
        self, AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey,
        EncryptionContext, UnboundCipherKey,
    },
    iv::FixedLength,
};
use zeroize::Zeroizing;

use super::KeyError;
use crate::limits::KEY_FILE_ROUNDS_MAX;

/// How the private part of a file is encrypted. `aes256-ctr` is what `ssh-keygen` writes, and the
/// only one we write; it wrote `aes256-cbc` until OpenSSH 7.6.
///
/// `chacha20-poly1305@openssh.com` is missing: in files it authenticates no length field, a shape
/// the crypto library does not offer. Nobody gets it without asking for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileCipher {
    None,
    Ctr(KeyBits),
    Cbc(KeyBits),
    Gcm128,
    Gcm256,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyBits {
    Aes128,
    Aes192,
    Aes256,
}

/// Takes off what fills the last block of a CBC mode (RFC 8018 §6.1.1): as many bytes as each of them says.
///
/// # Errors
/// There is no such padding: the passphrase is wrong. One wrong one in 256 leaves one that looks right.
pub(super) fn unpad(data: &mut Vec<u8>) -> Result<(), KeyError> {
    let padding = data.last().copied().unwrap_or(0);
    let len = data.len().checked_sub(padding.into()).ok_or(KeyError::WrongPassphrase)?;
    let tail = data.get(len..).unwrap_or_default();
    if !(1..=16).contains(&padding) || tail.iter().any(|byte| *byte != padding) {
        return Err(KeyError::WrongPassphrase);
    }
    data.truncate(len);
    Ok(())
}

impl FileCipher {
    pub(super) fn from_name(name: &[u8]) -> Result<FileCipher, KeyError> {
        NAMES
            .iter()
            .find(|(known, _)| known.as_bytes() == name)
            .map(|(_, cipher)| *cipher)
            .ok_or_else(|| {
                KeyError::UnsupportedCipher(String::from_utf8_lossy(name).into_owned().into())
            })
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, cipher)| *cipher == self).map_or("none", |(name, _)| *name)
    }

    /// What the private part's length is a multiple of.
    pub(super) const fn block_bytes(self) -> usize {
        match self {
            FileCipher::None => 8,
            _ => 16,
        }
    }

    /// Bytes of the tag behind the private part.
    pub(super) const fn tag_bytes(self) -> usize {
        match self {
            FileCipher::Gcm128 | FileCipher::Gcm256 => 16,
            _ => 0,
        }
    }

    const fn key_bytes(self) -> usize {
        match self {
            FileCipher::None => 0,
            FileCipher::Ctr(bits) | FileCipher::Cbc(bits) => bits.bytes(),
            FileCipher::Gcm128 => 16,
            FileCipher::Gcm256 => 32,
        }
    }

    const fn iv_bytes(self) -> usize {
        match self {
            FileCipher::None => 0,
            FileCipher::Ctr(_) | FileCipher::Cbc(_) => 16,
            FileCipher::Gcm128 | FileCipher::Gcm256 => 12,
        }
    }

    /// Decrypts in place; `data` ends with the tag where there is one. Only the AEADs can tell a
    /// wrong key here; for the others the check numbers inside do.
    pub(super) fn open(self, secret: &FileSecret, data: &mut [u8]) -> Result<(), KeyError> {
        let (key, iv) = secret.split(self)?;
        let wrong = |_| KeyError::WrongPassphrase;
        match self {
            FileCipher::None => {}
            FileCipher::Ctr(bits) => {
                let iv = DecryptionContext::Iv128(FixedLength::<16>::try_from(iv).map_err(wrong)?);
                let key = UnboundCipherKey::new(bits.algorithm(), key).map_err(wrong)?;
                DecryptingKey::ctr(key)
                    .and_then(|key| key.decrypt(data, iv).map(drop))
                    .map_err(wrong)?;
            }
            FileCipher::Cbc(bits) => {
                let iv = DecryptionContext::Iv128(FixedLength::<16>::try_from(iv).map_err(wrong)?);
                let key = UnboundCipherKey::new(bits.algorithm(), key).map_err(wrong)?;
                DecryptingKey::cbc(key)
                    .and_then(|key| key.decrypt(data, iv).map(drop))
                    .map_err(wrong)?;
            }
            FileCipher::Gcm128 | FileCipher::Gcm256 => {
                let algorithm: &aead::Algorithm =
                    if self == FileCipher::Gcm128 { &AES_128_GCM } else { &AES_256_GCM };
                let key = LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(wrong)?);
                let nonce = Nonce::try_assume_unique_for_key(iv).map_err(wrong)?;
                key.open_in_place(nonce, Aad::empty(), data).map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// Encrypts in place. Only for what we write: `None` and the CTR modes.
    pub(super) fn seal(self, secret: &FileSecret, data: &mut [u8]) -> Result<(), KeyError> {
        let FileCipher::Ctr(bits) = self else {
            return if self == FileCipher::None { Ok(()) } else { Err(KeyError::Generation) };
        };
        let (key, iv) = secret.split(self)?;
        let failed = |_| KeyError::Generation;
        let iv = EncryptionContext::Iv128(FixedLength::<16>::try_from(iv).map_err(failed)?);
        let key = UnboundCipherKey::new(bits.algorithm(), key).map_err(failed)?;
        let key = EncryptingKey::ctr(key).map_err(failed)?;
        key.less_safe_encrypt(data, iv).map(drop).map_err(failed)
    }
}

impl KeyBits {
    pub(super) const fn bytes(self) -> usize {
        match self {
            KeyBits::Aes128 => 16,
            KeyBits::Aes192 => 24,
            KeyBits::Aes256 => 32,
        }
    }

    const fn algorithm(self) -> &'static cipher::Algorithm {
        match self {
            KeyBits::Aes128 => &AES_128,
            KeyBits::Aes192 => &AES_192,
            KeyBits::Aes256 => &AES_256,
        }
    }
}

/// Key and initialization vector, derived from a passphrase; wiped when dropped.
pub(super) struct FileSecret(Zeroizing<Vec<u8>>);

impl FileSecret {
    /// What was derived elsewhere.
    pub(super) fn of(key: &[u8], iv: &[u8]) -> FileSecret {
        FileSecret(Zeroizing::new([key, iv].concat()))
    }

    /// What an unencrypted file needs.
    pub(super) fn none() -> FileSecret {
        FileSecret(Zeroizing::new(Vec::new()))
    }

    /// bcrypt_pbkdf: deliberately slow, about ten milliseconds a round.
    pub(super) fn derive(
        cipher: FileCipher,
        passphrase: &[u8],
        salt: &[u8],
        rounds: u32,
    ) -> Result<FileSecret, KeyError> {
        if rounds == 0 || rounds > KEY_FILE_ROUNDS_MAX {
            return Err(KeyError::Rounds(rounds));
        }
        let mut secret = Zeroizing::new(vec![0; cipher.key_bytes() + cipher.iv_bytes()]);
        // Left to itself the library would work in memory that it does not wipe.
        let mut space = Zeroizing::new(vec![0; secret.len().next_multiple_of(BCRYPT_BLOCK_BYTES)]);
        bcrypt_pbkdf::bcrypt_pbkdf_with_memory(passphrase, salt, rounds, &mut secret, &mut space)
            .map_err(|_| KeyError::Inconsistent)?;
        Ok(FileSecret(secret))
    }

    fn split(&self, cipher: FileCipher) -> Result<(&[u8], &[u8]), KeyError> {
        let parts = self.0.split_at_checked(cipher.key_bytes());
        parts.filter(|(_, iv)| iv.len() == cipher.iv_bytes()).ok_or(KeyError::Inconsistent)
    }
}

/// bcrypt_pbkdf makes this much at a time.
const BCRYPT_BLOCK_BYTES: usize = 32;

const NAMES: [(&str, FileCipher); 9] = [
    ("none", FileCipher::None),
    ("aes256-ctr", FileCipher::Ctr(KeyBits::Aes256)),
    ("aes192-ctr", FileCipher::Ctr(KeyBits::Aes192)),
    ("aes128-ctr", FileCipher::Ctr(KeyBits::Aes128)),
    ("aes256-gcm@openssh.com", FileCipher::Gcm256),
    ("aes128-gcm@openssh.com", FileCipher::Gcm128),
    ("aes256-cbc", FileCipher::Cbc(KeyBits::Aes256)),
    ("aes192-cbc", FileCipher::Cbc(KeyBits::Aes192)),
    ("aes128-cbc", FileCipher::Cbc(KeyBits::Aes128)),
];
