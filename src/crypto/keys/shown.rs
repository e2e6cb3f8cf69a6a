//! Keys as their owners show them.

use super::{Certificate, KeyAlgorithm, PublicKey, SignatureAlgorithm};

/// A key as a user or a host shows it: by itself or inside a certificate, which nobody has checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownKey {
    pub key: Box<PublicKey>,
    /// How it signs.
    pub algorithm: SignatureAlgorithm,
    pub certificate: Option<Box<Certificate>>,
}

impl ShownKey {
    /// `None` for one that nobody would take: of an unknown type, damaged, or not of the type that
    /// its algorithm says.
    pub fn read(algorithm: KeyAlgorithm, blob: &[u8]) -> Option<ShownKey> {
        let KeyAlgorithm { signature: algorithm, certified } = algorithm;
        let certificate = match certified {
            true => Some(Box::new(Certificate::from_blob(blob).ok()?)),
            false => None,
        };
        let key = match &certificate {
            Some(certificate) => certificate.key().clone(),
            None => PublicKey::from_blob(blob).ok()?,
        };
        let fits = key.kind() == algorithm.key_kind();
        fits.then(|| ShownKey { key: Box::new(key), algorithm, certificate })
    }

    /// The same where the blob alone says what it is, as in an agent's list; it signs as is best for
    /// its kind.
    pub fn of_blob(blob: &[u8]) -> Option<ShownKey> {
        let (key, certificate) = match PublicKey::from_blob(blob) {
            Ok(key) => (key, None),
            Err(_) => {
                let certificate = Certificate::from_blob(blob).ok()?;
                (certificate.key().clone(), Some(Box::new(certificate)))
            }
        };
        let algorithm = *SignatureAlgorithm::for_key(key.kind()).first()?;
        Some(ShownKey { key: Box::new(key), algorithm, certificate })
    }

    /// The name of the algorithm and the blob, as they travel.
    pub fn offer(&self) -> (&'static str, &[u8]) {
        match &self.certificate {
            Some(certificate) => (self.algorithm.certificate_name(), certificate.blob()),
            None => (self.algorithm.name(), self.key.blob()),
        }
    }

    /// What stands for the key wherever it is named: its own blob or its certificate's.
    pub fn blob(&self) -> &[u8] {
        self.offer().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::{CertificateKind, Certification, Extensions};
    use crate::crypto::{KeyKind, PrivateKey};

    #[test]
    fn a_blob_says_what_it_is() {
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        let plain = ShownKey::of_blob(key.public().blob()).expect("a key");
        assert_eq!((&*plain.key, plain.algorithm), (key.public(), SignatureAlgorithm::Ed25519));
        assert_eq!(plain.certificate, None);
        let certification = Certification {
            kind: CertificateKind::User,
            serial: 1,
            key_id: "ann",
            principals: &["ann"],
            valid_after: 0,
            valid_before: u64::MAX,
            force_command: None,
            source_address: None,
            verify_required: false,
            extensions: Extensions::USUAL,
        };
        let certificate = certification.issue(key.public(), &key).expect("a certificate");
        let shown = ShownKey::of_blob(certificate.blob()).expect("a certificate");
        assert_eq!((&*shown.key, shown.blob()), (key.public(), certificate.blob()));
        for odd in [&b""[..], b"\0\0\0\x03odd", &key.public().blob()[1..]] {
            assert_eq!(ShownKey::of_blob(odd), None);
        }
    }

    #[test]
    fn agents_are_told_what_rsa_keys_hash_with() {
        let flags = SignatureAlgorithm::ALL.map(SignatureAlgorithm::agent_flags);
        assert_eq!(flags, [0, 0, 0, 0, 4, 2]);
    }
}
