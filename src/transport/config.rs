use std::sync::Arc;
use std::time::Duration;

use super::{CompressionKind, ident};
use crate::crypto::kex::Moduli;
use crate::crypto::{
    Certificate, CipherKind, KexKind, KeyAlgorithm, MacKind, Provider, PublicKey, ShownKey,
    SignatureAlgorithm, Suite,
};
use crate::limits::{
    LOGIN_GRACE_DEFAULT, REKEY_BYTES_DEFAULT, REKEY_BYTES_MAX, REKEY_BYTES_MIN,
    REKEY_CHACHA_BYTES_DEFAULT, REKEY_PACKETS_MAX,
};

/// When a side asks for new keys on its own account (RFC 4253 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RekeyLimits {
    /// Wire bytes in one direction under one set of keys. `None`: what suits the cipher.
    pub bytes: Option<u64>,
    /// Age of the keys. `None`: they do not age.
    pub time: Option<Duration>,
    /// Packets in one direction under one set of keys; never more than [`REKEY_PACKETS_MAX`].
    pub packets: u32,
}

impl Default for RekeyLimits {
    fn default() -> RekeyLimits {
        RekeyLimits { bytes: None, time: None, packets: REKEY_PACKETS_MAX }
    }
}

impl RekeyLimits {
    pub(super) fn bytes_max(&self, suite: Suite) -> u64 {
        let default = match suite.cipher() {
            CipherKind::Chacha20Poly1305 => REKEY_CHACHA_BYTES_DEFAULT,
            _ => REKEY_BYTES_DEFAULT,
        };
        self.bytes.unwrap_or(default).clamp(REKEY_BYTES_MIN, REKEY_BYTES_MAX)
    }

    pub(super) fn packets_max(&self) -> u32 {
        self.packets.clamp(1, REKEY_PACKETS_MAX)
    }
}

/// What both roles may do, most wanted first.
#[derive(Clone, Debug)]
pub struct Preferences {
    ident: Arc<str>,
    pub kex: Vec<KexKind>,
    /// Those the provider does not support are left out of the offer.
    pub ciphers: Vec<CipherKind>,
    pub macs: Vec<MacKind>,
    /// A client gets the first of its own that the server has too.
    pub compression: Vec<CompressionKind>,
    pub provider: Provider,
    pub rekey: RekeyLimits,
    /// Lets a peer without strict key exchange use ChaCha20-Poly1305, which it then uses exposed to
    /// prefix truncation (CVE-2023-48795). Off by default.
    pub allow_exposed_chacha: bool,
    /// Ends a first key exchange that takes longer. `None` where somebody else watches the clock,
    /// as a login's grace time does on a server.
    pub first_exchange_time_max: Option<Duration>,
}

impl Preferences {
    /// Defaults under `software`, which follows `SSH-2.0-` in the identification. `None` when it
    /// may not stand there (RFC 4253 §4.2).
    pub fn new(software: &str) -> Option<Preferences> {
        let valid = ident::is_valid_software(software);
        valid.then(|| Preferences {
            ident: format!("{}{software}", ident::VERSION_2).into(),
            ..Preferences::default()
        })
    }

    /// Our identification, without its line end.
    pub fn ident(&self) -> &Arc<str> {
        &self.ident
    }
}

impl Default for Preferences {
    fn default() -> Preferences {
        Preferences {
            ident: concat!("SSH-2.0-Tidegate_", env!("CARGO_PKG_VERSION")).into(),
            kex: KexKind::DEFAULT.to_vec(),
            ciphers: CipherKind::ALL.to_vec(),
            macs: MacKind::DEFAULT.to_vec(),
            compression: vec![CompressionKind::None],
            provider: Provider::default(),
            rekey: RekeyLimits::default(),
            allow_exposed_chacha: false,
            first_exchange_time_max: None,
        }
    }
}

/// A key a server proves itself with, and how it may sign.
#[derive(Clone, Debug)]
pub struct HostKey {
    pub public: PublicKey,
    /// Shown in place of the key where a certified algorithm is agreed on.
    pub certificate: Option<Certificate>,
    /// Certified ones count only with a certificate. Empty: clients are told of the key, and no key
    /// exchange uses it.
    pub algorithms: Vec<KeyAlgorithm>,
}

impl HostKey {
    /// Shows itself, and signs in every way this kind of key can.
    pub fn new(public: PublicKey) -> HostKey {
        let signatures = SignatureAlgorithm::for_key(public.kind()).iter().copied();
        let algorithms = signatures.map(KeyAlgorithm::plain).collect();
        HostKey { public, certificate: None, algorithms }
    }

    /// What is offered of it.
    pub(super) fn offered(&self) -> impl Iterator<Item = KeyAlgorithm> + Clone {
        let certified = self.certificate.is_some();
        self.algorithms.iter().copied().filter(move |algorithm| certified || !algorithm.certified)
    }

    /// As it is shown under this algorithm.
    pub(super) fn shown(&self, algorithm: KeyAlgorithm) -> ShownKey {
        let certificate = self.certificate.as_ref().filter(|_| algorithm.certified);
        ShownKey {
            key: Box::new(self.public.clone()),
            algorithm: algorithm.signature,
            certificate: certificate.cloned().map(Box::new),
        }
    }
}

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub preferences: Preferences,
    /// In order of preference. [`super::Query::Sign`] names them by their place here.
    pub host_keys: Vec<HostKey>,
    /// What we accept in a user's signature: our `server-sig-algs` (RFC 8308 §3.1).
    pub user_algorithms: Vec<SignatureAlgorithm>,
    /// What group exchange (RFC 4419) chooses from; empty: the fixed groups of RFC 3526.
    pub moduli: Arc<Moduli>,
    /// Lead clients to AES-GCM, which is the faster cipher on this machine: wait for the client's
    /// first KEXINIT and leave ChaCha20-Poly1305 out of ours where it offers AES-GCM too. A client
    /// that stays silent gets the full list after [`crate::limits::KEXINIT_WAIT_MAX`].
    pub steers: bool,
    /// Whoever signs makes the exchange hash himself: [`super::Query::Sign`] tells him of what.
    pub signs_elsewhere: bool,
}

impl ServerConfig {
    pub fn new(preferences: Preferences, host_keys: Vec<HostKey>) -> ServerConfig {
        ServerConfig {
            preferences,
            host_keys,
            user_algorithms: SignatureAlgorithm::ALL.to_vec(),
            moduli: Arc::default(),
            steers: false,
            signs_elsewhere: false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub preferences: Preferences,
    /// How the server may show its key and sign; put first what is known of it.
    pub host_key_algorithms: Vec<KeyAlgorithm>,
    /// Arithmetic of milliseconds leaves as [`super::Query::Compute`]; otherwise it is done in place,
    /// for an owner that has nothing else to do meanwhile.
    pub defers: bool,
}

impl ClientConfig {
    /// Asks for keys; certificates are for those who have authorities to check them by.
    pub fn new(preferences: Preferences) -> ClientConfig {
        let first_exchange_time_max = Some(LOGIN_GRACE_DEFAULT);
        ClientConfig {
            preferences: Preferences { first_exchange_time_max, ..preferences },
            host_key_algorithms: SignatureAlgorithm::ALL.map(KeyAlgorithm::plain).to_vec(),
            defers: false,
        }
    }
}
