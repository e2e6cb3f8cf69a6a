//! What a security key signs (OpenSSH PROTOCOL.u2f).
//!
//! ```text
//! signature: string algorithm  string signature  byte flags  uint32 counter
//! signed:    SHA-256 of the application  byte flags  uint32 counter  SHA-256 of the message
//! ```

use aws_lc_rs::digest::{SHA256, digest};

use super::{BadSignature, SignatureAlgorithm};
use crate::limits::{NAME_BYTES_MAX, SIGNATURE_BYTES_MAX};
use crate::wire::{Malformed, Reader};

/// What a security key says about a signature it made, inside of what it signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestation {
    flags: u8,
    /// Signatures made so far, by many makes; others always say zero.
    pub counter: u32,
}

impl Attestation {
    const TOUCHED: u8 = 0x01;
    const VERIFIED: u8 = 0x04;
    /// The application's hash, flags, counter and the message's hash.
    const SIGNED_BYTES: usize = 32 + 1 + 4 + 32;

    /// Somebody has touched the key.
    pub const fn touched(self) -> bool {
        self.flags & Attestation::TOUCHED != 0
    }

    /// Somebody has proved to the key who he is, by a PIN or a finger.
    pub const fn verified(self) -> bool {
        self.flags & Attestation::VERIFIED != 0
    }

    /// The attestation of a signature blob and the bytes of the signature, if it is one by `algorithm`.
    pub(super) fn read(
        algorithm: SignatureAlgorithm,
        blob: &[u8],
    ) -> Result<(Attestation, &[u8]), BadSignature> {
        let read = || -> Result<(&[u8], &[u8], Attestation), Malformed> {
            let mut body = Reader::new(blob);
            let name = body.string(NAME_BYTES_MAX)?;
            let raw = body.string(SIGNATURE_BYTES_MAX)?;
            let attestation = Attestation { flags: body.byte()?, counter: body.uint32()? };
            body.end()?;
            Ok((name, raw, attestation))
        };
        match read() {
            Ok((name, raw, attestation)) if name == algorithm.name().as_bytes() => {
                Ok((attestation, raw))
            }
            _ => Err(BadSignature),
        }
    }

    /// What the key has signed in place of the message.
    pub(super) fn signed(self, application: &[u8], message: &[u8]) -> Vec<u8> {
        let mut signed = Vec::with_capacity(Attestation::SIGNED_BYTES);
        signed.extend_from_slice(digest(&SHA256, application).as_ref());
        signed.push(self.flags);
        signed.extend_from_slice(&self.counter.to_be_bytes());
        signed.extend_from_slice(digest(&SHA256, message).as_ref());
        signed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::{KeyKind, PrivateKey, PublicKey};

    fn string(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
    }

    /// The fields of a blob, each a string.
    fn fields(blob: &[u8]) -> Vec<Vec<u8>> {
        let mut body = Reader::new(blob);
        let mut fields = Vec::new();
        while let Ok(field) = body.string(1024) {
            fields.push(field.to_vec());
        }
        fields
    }

    /// A plain key in the place of the one in a security key, as that shows and uses it.
    struct Software {
        plain: PrivateKey,
        plain_algorithm: SignatureAlgorithm,
        algorithm: SignatureAlgorithm,
        public: PublicKey,
    }

    const APPLICATION: &[u8] = b"ssh:";

    impl Software {
        fn both() -> [Software; 2] {
            let make = |kind, plain_algorithm, algorithm: SignatureAlgorithm| {
                let plain = PrivateKey::generate(kind).expect("a key");
                let mut parts = fields(plain.public().blob());
                parts[0] = algorithm.name().into();
                parts.push(APPLICATION.to_vec());
                let blob = parts.iter().map(|part| string(part)).collect::<Vec<_>>().concat();
                let public = PublicKey::from_blob(&blob).expect("a security key's");
                Software { plain, plain_algorithm, algorithm, public }
            };
            [
                make(KeyKind::Ed25519, SignatureAlgorithm::Ed25519, SignatureAlgorithm::SkEd25519),
                make(
                    KeyKind::EcdsaP256,
                    SignatureAlgorithm::EcdsaP256,
                    SignatureAlgorithm::SkEcdsaP256,
                ),
            ]
        }

        fn sign(&self, application: &[u8], attestation: Attestation, message: &[u8]) -> Vec<u8> {
            let signed = attestation.signed(application, message);
            let plain = self.plain.sign(self.plain_algorithm, &signed).expect("signs");
            let [_, raw] = &fields(&plain)[..] else { panic!("two fields") };
            let mut blob = [string(self.algorithm.name().as_bytes()), string(raw)].concat();
            blob.push(attestation.flags);
            blob.extend(attestation.counter.to_be_bytes());
            blob
        }
    }

    #[test]
    fn case_69_the_attestation_is_signed_too() {
        for key in Software::both() {
            let attestation = Attestation { flags: 0, counter: 7 };
            let verify = |blob: &[u8]| key.public.verify_attested(key.algorithm, b"message", blob);
            let good = key.sign(APPLICATION, attestation, b"message");
            assert_eq!(verify(&good), Ok(Some(attestation)));
            assert!(!attestation.touched() && !attestation.verified());
            // A flag or a counter that is put in afterwards, and every other change.
            for at in 0..good.len() {
                let mut spoilt = good.clone();
                spoilt[at] ^= 1;
                assert_eq!(verify(&spoilt), Err(BadSignature), "byte {at}");
            }
            for cut in 0..good.len() {
                assert_eq!(verify(&good[..cut]), Err(BadSignature), "cut at {cut}");
            }
            assert_eq!(verify(&[&good[..], &[0]].concat()), Err(BadSignature));
            assert_eq!(verify(&key.sign(b"https:", attestation, b"message")), Err(BadSignature));
            assert_eq!(verify(&key.sign(APPLICATION, attestation, b"another")), Err(BadSignature));
            // The plain key's own signature over the message is none of a security key.
            let plain = key.plain.sign(key.plain_algorithm, b"message").expect("signs");
            assert_eq!(verify(&plain), Err(BadSignature));
        }
    }

    #[test]
    fn security_keys_have_names_of_their_own() {
        for key in Software::both() {
            assert!(key.public.kind().is_security());
            assert_eq!(key.public.bits(), 256);
            let line = key.public.to_openssh_line("x");
            let (again, comment) = PublicKey::from_text(&line).expect("reads");
            assert_eq!((again, comment), (key.public.clone(), "x"));
            assert!(PrivateKey::generate(key.public.kind()).is_err());
            let cut = &key.public.blob()[..key.public.blob().len() - 8];
            assert!(PublicKey::from_blob(cut).is_err(), "without its application");
        }
    }
}
