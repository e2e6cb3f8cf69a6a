//! PKCS#8 under a passphrase: EncryptedPrivateKeyInfo (RFC 5208 §6) with PBES2 (RFC 8018 §6.2), as
//! `ssh-keygen -m PKCS8` and openssl-pkcs8(1) write it: PBKDF2 and AES in CBC mode.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2::{
    self, PBKDF2_HMAC_SHA1, PBKDF2_HMAC_SHA256, PBKDF2_HMAC_SHA384, PBKDF2_HMAC_SHA512,
};
use zeroize::Zeroizing;

use super::KeyError;
use super::der::{self, INTEGER, OCTET_STRING, OID, SEQUENCE};
use super::file_cipher::{FileCipher, FileSecret, KeyBits, unpad};
use crate::limits::KEY_FILE_PBKDF2_ROUNDS_MAX;
use crate::wire::Reader;

const PBES2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";
const PBKDF2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c";
/// RFC 8018 §B.1.2; the first is meant where none is named.
const HMACS: [(&[u8], pbkdf2::Algorithm); 4] = [
    (b"\x2a\x86\x48\x86\xf7\x0d\x02\x07", PBKDF2_HMAC_SHA1),
    (b"\x2a\x86\x48\x86\xf7\x0d\x02\x09", PBKDF2_HMAC_SHA256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x02\x0a", PBKDF2_HMAC_SHA384),
    (b"\x2a\x86\x48\x86\xf7\x0d\x02\x0b", PBKDF2_HMAC_SHA512),
];
/// RFC 8018 §B.2.5
const CIPHERS: [(&[u8], KeyBits); 3] = [
    (b"\x60\x86\x48\x01\x65\x03\x04\x01\x02", KeyBits::Aes128),
    (b"\x60\x86\x48\x01\x65\x03\x04\x01\x16", KeyBits::Aes192),
    (b"\x60\x86\x48\x01\x65\x03\x04\x01\x2a", KeyBits::Aes256),
];

/// A document taken apart as far as that goes without the passphrase.
struct Sealed<'a> {
    hmac: pbkdf2::Algorithm,
    salt: &'a [u8],
    rounds: NonZeroU32,
    bits: KeyBits,
    iv: &'a [u8],
    data: &'a [u8],
}

/// The PrivateKeyInfo inside.
///
/// # Errors
/// There is no passphrase, it is the wrong one, or the document is encrypted in another way.
pub(super) fn open(
    document: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let sealed = Sealed::read(document)?;
    let passphrase =
        passphrase.filter(|word| !word.is_empty()).ok_or(KeyError::PassphraseNeeded)?;
    let mut secret = Zeroizing::new(vec![0; sealed.bits.bytes()]);
    pbkdf2::derive(sealed.hmac, sealed.rounds, sealed.salt, passphrase, &mut secret);
    let secret = FileSecret::of(&secret, sealed.iv);
    let mut data = Zeroizing::new(sealed.data.to_vec());
    FileCipher::Cbc(sealed.bits).open(&secret, &mut data)?;
    unpad(&mut data)?;
    der::pkcs8_private_key(&data).map_err(|_| KeyError::WrongPassphrase)?;
    Ok(data)
}

impl<'a> Sealed<'a> {
    fn read(document: &'a [u8]) -> Result<Sealed<'a>, KeyError> {
        let mut outer = Reader::new(document);
        let mut info = Reader::new(der::element(&mut outer, SEQUENCE)?);
        outer.end()?;
        let mut scheme = Reader::new(der::element(&mut info, SEQUENCE)?);
        let data = der::element(&mut info, OCTET_STRING)?;
        if der::element(&mut scheme, OID)? != PBES2 {
            return Err(KeyError::EncryptedPem);
        }
        let mut scheme = Reader::new(der::element(&mut scheme, SEQUENCE)?);
        let mut derivation = Reader::new(der::element(&mut scheme, SEQUENCE)?);
        let mut cipher = Reader::new(der::element(&mut scheme, SEQUENCE)?);
        if der::element(&mut derivation, OID)? != PBKDF2 {
            return Err(KeyError::EncryptedPem);
        }
        let (hmac, salt, rounds) = derivation_of(der::element(&mut derivation, SEQUENCE)?)?;
        let bits = named(&CIPHERS, der::element(&mut cipher, OID)?)?;
        let iv = der::element(&mut cipher, OCTET_STRING)?;
        Ok(Sealed { hmac, salt, rounds, bits, iv, data })
    }
}

/// PBKDF2-params (RFC 8018 §A.2). The length of the key is the cipher's.
fn derivation_of(params: &[u8]) -> Result<(pbkdf2::Algorithm, &[u8], NonZeroU32), KeyError> {
    let mut params = Reader::new(params);
    let salt = der::element(&mut params, OCTET_STRING)?;
    let digits = der::integer(&mut params)?;
    let rounds = digits
        .iter()
        .try_fold(0u32, |sum, digit| sum.checked_mul(256).map(|sum| sum | u32::from(*digit)));
    let rounds = rounds.filter(|rounds| *rounds <= KEY_FILE_PBKDF2_ROUNDS_MAX);
    let rounds = rounds.and_then(NonZeroU32::new).ok_or(KeyError::EncryptedPem)?;
    let mut rest = params.rest();
    if rest.first() == Some(&INTEGER) {
        let mut params = Reader::new(rest);
        der::integer(&mut params)?;
        rest = params.rest();
    }
    let hmac = match rest {
        [] => PBKDF2_HMAC_SHA1,
        rest => {
            let mut prf = Reader::new(der::element(&mut Reader::new(rest), SEQUENCE)?);
            named(&HMACS, der::element(&mut prf, OID)?)?
        }
    };
    Ok((hmac, salt, rounds))
}

fn named<T: Copy>(known: &[(&[u8], T)], name: &[u8]) -> Result<T, KeyError> {
    let found = known.iter().find(|(oid, _)| *oid == name);
    found.map(|(_, value)| *value).ok_or(KeyError::EncryptedPem)
}
