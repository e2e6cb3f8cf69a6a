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
