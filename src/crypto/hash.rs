use std::fmt;

use aws_lc_rs::digest;
use zeroize::Zeroize;

/// The longest digest: SHA-512.
const DIGEST_BYTES_MAX: usize = 64;

/// The hash of a key exchange method (RFC 4253 §7, RFC 5656 §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashKind {
    Sha256,
    Sha384,
    Sha512,
}

impl HashKind {
    pub const fn digest_bytes(self) -> usize {
        match self {
            HashKind::Sha256 => 32,
            HashKind::Sha384 => 48,
            HashKind::Sha512 => 64,
        }
    }

    /// The hash of one contiguous message.
    pub fn digest(self, message: &[u8]) -> Digest {
        Digest::from_library(digest::digest(self.algorithm(), message))
    }

    /// The hash of a message that arrives in pieces.
    pub fn hasher(self) -> Hasher {
        Hasher(digest::Context::new(self.algorithm()))
    }

    const fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            HashKind::Sha256 => &digest::SHA256,
            HashKind::Sha384 => &digest::SHA384,
            HashKind::Sha512 => &digest::SHA512,
        }
    }
}

/// A hash under way.
#[derive(Clone)]
pub struct Hasher(digest::Context);

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// RFC 4251 §5: a length and the bytes.
    pub fn update_string(&mut self, bytes: &[u8]) {
        // A longer string cannot be encoded, and the hash of a wrong length matches nothing.
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.update(&len.to_be_bytes());
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest::from_library(self.0.finish())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// A hash value, stored inline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    bytes: [u8; DIGEST_BYTES_MAX],
    len: u8,
}

impl Digest {
    /// `None` when longer than any digest. For values carried over from another process.
    pub fn from_bytes(bytes: &[u8]) -> Option<Digest> {
        let mut digest =
            Digest { bytes: [0; DIGEST_BYTES_MAX], len: u8::try_from(bytes.len()).ok()? };
        digest.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(digest)
    }

    pub const fn len(&self) -> usize {
        self.len as usize
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn from_library(value: digest::Digest) -> Digest {
        let mut digest = Digest { bytes: [0; DIGEST_BYTES_MAX], len: 0 };
        for (to, from) in digest.bytes.iter_mut().zip(value.as_ref()) {
            *to = *from;
            digest.len += 1;
        }
        digest
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len as usize).unwrap_or(&[])
    }
}

/// Some digests are secrets (the key a hybrid method hashes together).
impl Zeroize for Digest {
    fn zeroize(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::unhex;

    /// FIPS 180-4 examples for "abc".
    #[test]
    fn known_digests() {
        let abc = [
            (HashKind::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                HashKind::Sha384,
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
                 8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                HashKind::Sha512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ];
        for (kind, expected) in abc {
            let digest = kind.digest(b"abc");
            assert_eq!(digest.as_ref(), unhex(expected));
            assert_eq!(digest.len(), kind.digest_bytes());
            let mut hasher = kind.hasher();
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish(), digest);
            assert_eq!(Digest::from_bytes(digest.as_ref()), Some(digest));
        }
        assert_eq!(Digest::from_bytes(&[0; 65]), None);
        let mut hasher = HashKind::Sha256.hasher();
        hasher.update_string(b"abc");
        assert_eq!(hasher.finish(), HashKind::Sha256.digest(b"\0\0\0\x03abc"));
    }
}
