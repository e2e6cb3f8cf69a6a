use super::CipherKind;

/// Which library does the arithmetic of the packet path.
///
/// Key exchange, hashes and signatures always come from aws-lc-rs. For packets there is a second
/// library where it is faster, and so that each can check the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// For each cipher the library that is fastest on this CPU; see [`Provider::library`].
    #[default]
    Fastest,
    AwsLc,
    #[cfg(feature = "ring")]
    Ring,
    /// Insecure and fast: the simulator's.
    #[cfg(feature = "sim")]
    Toy,
}

impl Provider {
    /// Every single library fit for a real connection.
    pub const ALL: &'static [Provider] = &[
        Provider::AwsLc,
        #[cfg(feature = "ring")]
        Provider::Ring,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Provider::Fastest => "fastest",
            Provider::AwsLc => "aws-lc-rs",
            #[cfg(feature = "ring")]
            Provider::Ring => "ring",
            #[cfg(feature = "sim")]
            Provider::Toy => "toy",
        }
    }

    /// Finds [`Provider::Fastest`] and the libraries of [`Provider::ALL`].
    pub fn from_name(name: &str) -> Option<Provider> {
        let all = [Provider::Fastest].into_iter().chain(Provider::ALL.iter().copied());
        all.into_iter().find(|provider| provider.name() == name)
    }

    /// What can be offered in negotiation under this provider.
    pub const fn supports(self, cipher: CipherKind) -> bool {
        match self {
            #[cfg(feature = "sim")]
            Provider::Fastest | Provider::AwsLc => !matches!(cipher, CipherKind::Toy),
            #[cfg(not(feature = "sim"))]
            Provider::Fastest | Provider::AwsLc => {
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

    /// The one library that will protect packets of `cipher` on this CPU.
    pub fn library(self, cipher: CipherKind) -> Provider {
        match (self, cipher) {
            #[cfg(feature = "ring")]
            (Provider::Fastest, CipherKind::Aes128Gcm | CipherKind::Aes256Gcm)
                if vector_aes_without_avx512() =>
            {
                Provider::Ring
            }
            (Provider::Fastest, _) => Provider::AwsLc,
            (chosen, _) => chosen,
        }
    }
}

/// The CPUs on which ring's AES-GCM is about twice as fast (`benches/seal.rs`): those with vector
/// AES and without AVX-512, such as Zen 3 and client Intel. There aws-lc has no vector kernel and
/// works a block at a time; with AVX-512 it is the faster of the two, and so it is elsewhere.
#[cfg(all(feature = "ring", target_arch = "x86_64"))]
fn vector_aes_without_avx512() -> bool {
    let vector_aes = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    vector_aes && !avx512
}

#[cfg(all(feature = "ring", not(target_arch = "x86_64")))]
const fn vector_aes_without_avx512() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_lc_offers_everything_and_ring_the_aeads() {
        for cipher in CipherKind::ALL {
            assert!(Provider::AwsLc.supports(*cipher) && Provider::Fastest.supports(*cipher));
        }
        for provider in Provider::ALL {
            assert_eq!(Provider::from_name(provider.name()), Some(*provider));
        }
        assert_eq!(Provider::from_name("fastest"), Some(Provider::default()));
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

    #[test]
    fn the_fastest_is_always_one_that_can() {
        for cipher in CipherKind::ALL {
            let library = Provider::Fastest.library(*cipher);
            assert!(Provider::ALL.contains(&library) && library.supports(*cipher));
            for chosen in Provider::ALL {
                assert_eq!(chosen.library(*cipher), *chosen);
            }
        }
    }
}
