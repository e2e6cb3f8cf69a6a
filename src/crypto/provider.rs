use super::CipherKind;

/// Which library does the arithmetic of the packet path.
///
/// Key exchange, hashes and signatures always come from aws-lc-rs; the second provider is there so
/// that each can check the other and so that both can be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    #[default]
    AwsLc,
    #[cfg(feature = "ring")]
    Ring,
    /// Insecure and fast: the simulator's.
    #[cfg(feature = "sim")]
    Toy,
}

impl Provider {
    /// Every provider fit for a real connection.
    pub const ALL: &'static [Provider] = &[
        Provider::AwsLc,
        #[cfg(feature = "ring")]
        Provider::Ring,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Provider::AwsLc => "aws-lc-rs",
            #[cfg(feature = "ring")]
            Provider::Ring => "ring",
            #[cfg(feature = "sim")]
            Provider::Toy => "toy",
        }
    }

    pub fn from_name(name: &str) -> Option<Provider> {
        Provider::ALL.iter().copied().find(|provider| provider.name() == name)
    }

    /// What can be offered in negotiation under this provider.
    pub const fn supports(self, cipher: CipherKind) -> bool {
        match self {
            #[cfg(feature = "sim")]
            Provider::AwsLc => !matches!(cipher, CipherKind::Toy),
            #[cfg(not(feature = "sim"))]
            Provider::AwsLc => {
                let _ = cipher;
                true
            }
            #[cfg(feature = "ring")]
            Provider::Ring => matches!(
                cipher,
                CipherKind::Aes128Gcm | CipherKind::Aes256Gcm | CipherKind::Chacha20Poly1305
            ),
            #[cfg(feature = "sim")]
            Provider::Toy => matches!(cipher, CipherKind::Toy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_lc_offers_everything_and_ring_the_aeads() {
        assert!(CipherKind::ALL.iter().all(|cipher| Provider::AwsLc.supports(*cipher)));
        for provider in Provider::ALL {
            assert_eq!(Provider::from_name(provider.name()), Some(*provider));
        }
        #[cfg(feature = "ring")]
        for cipher in CipherKind::ALL {
            assert_eq!(Provider::Ring.supports(*cipher), cipher.is_aead());
        }
        #[cfg(feature = "sim")]
        {
            assert!(!Provider::AwsLc.supports(CipherKind::Toy));
            assert_eq!(Provider::from_name("toy"), None, "not by configuration");
        }
    }
}
