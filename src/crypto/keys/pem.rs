//! PEM under a passphrase in OpenSSL's way from before PKCS#8, which `ssh-keygen -m PEM` still writes: headers as
//! RFC 1421 §4.6 has them, AES in CBC mode, and a key that MD5 makes of the passphrase.
//!
//! MD5 is here for reading what is there. It hashes the passphrase once, so that a stolen file is guessed at fast:
//! `ssh-keygen -p -f FILE` encrypts it anew.

use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::KeyError;
use super::der::{self, SEQUENCE};
use super::file_cipher::{FileCipher, FileSecret, KeyBits, unpad};
use crate::base::unhex;
use crate::wire::Reader;

const IV_BYTES: usize = 16;
const HASH_BYTES: usize = 16;
/// Of the start vector, behind the passphrase in what is hashed.
const SALT_BYTES: usize = 8;
/// DES, which keys of the years before 2010 may have, is not read.
const CIPHERS: [(&[u8], KeyBits); 3] = [
    (b"AES-128-CBC", KeyBits::Aes128),
    (b"AES-192-CBC", KeyBits::Aes192),
    (b"AES-256-CBC", KeyBits::Aes256),
];

/// What `DEK-Info` says (RFC 1421 §4.6.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encryption {
    bits: KeyBits,
    iv: [u8; IV_BYTES],
}

impl Encryption {
    /// Takes a header line in.
    ///
    /// # Errors
    /// It says that the file is protected in another way.
    pub(super) fn read(line: &[u8], known: &mut Option<Encryption>) -> Result<(), KeyError> {
        if line == b"Proc-Type: 4,ENCRYPTED" && known.is_none() {
            return Ok(());
        }
        let info = line.strip_prefix(b"DEK-Info: ").ok_or(KeyError::EncryptedPem)?;
        let (name, iv) = info
            .iter()
            .position(|byte| *byte == b',')
            .and_then(|at| Some((info.get(..at)?, info.get(at + 1..)?)))
            .ok_or(KeyError::EncryptedPem)?;
        let cipher = CIPHERS.iter().find(|(known, _)| *known == name);
        let (_, bits) = *cipher.ok_or(KeyError::EncryptedPem)?;
        let iv = unhex(iv).and_then(|iv| iv.try_into().ok()).ok_or(KeyError::EncryptedPem)?;
        *known = Some(Encryption { bits, iv });
        Ok(())
    }

    /// Decrypts what stands between the lines: a key is a SEQUENCE, which a wrong passphrase hardly leaves.
    ///
    /// # Errors
    /// There is no passphrase, or it is the wrong one.
    pub(super) fn open(
        &self,
        data: &[u8],
        passphrase: Option<&[u8]>,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let passphrase =
            passphrase.filter(|word| !word.is_empty()).ok_or(KeyError::PassphraseNeeded)?;
        let secret = FileSecret::of(&self.derive(passphrase), &self.iv);
        let mut data = Zeroizing::new(data.to_vec());
        FileCipher::Cbc(self.bits).open(&secret, &mut data)?;
        unpad(&mut data)?;
        let mut whole = Reader::new(&data);
        let is_key = der::element(&mut whole, SEQUENCE).and_then(|_| whole.end());
        is_key.map_err(|_| KeyError::WrongPassphrase)?;
        Ok(data)
    }

    /// EVP_BytesToKey(3) of OpenSSL, with one round: each hash is of the one before it, the passphrase and the salt.
    fn derive(&self, passphrase: &[u8]) -> Zeroizing<Vec<u8>> {
        let wanted = self.bits.bytes();
        // Reserved at full size: a buffer that grows leaves unwiped copies behind.
        let mut secret = Zeroizing::new(Vec::with_capacity(wanted.next_multiple_of(HASH_BYTES)));
        while secret.len() < wanted {
            let mut md5 = Md5::new();
            md5.update(secret.get(secret.len().saturating_sub(HASH_BYTES)..).unwrap_or_default());
            md5.update(passphrase);
            md5.update(&self.iv[..SALT_BYTES]);
            secret.extend_from_slice(&Zeroizing::new(<[u8; HASH_BYTES]>::from(md5.finalize()))[..]);
        }
        secret.truncate(wanted);
        secret
    }
}
