//! Keys that protect nothing, and what a run needs besides.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::base::{Entropy, SeededEntropy};
use crate::connection::{ClientConnectionConfig, ConnectionConfig};
use crate::crypto::{
    CipherKind, DirectionKeys, KexKind, KeyKind, MacKind, PrivateKey, Provider, SignatureAlgorithm,
    Suite,
};
use crate::transport::{ClientConfig, HostKey, Preferences, ServerConfig};

/// One private key of each kind, the same in every run.
pub fn private_key(kind: KeyKind) -> &'static PrivateKey {
    static KEYS: OnceLock<Vec<PrivateKey>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let read = |text: &str| PrivateKey::from_openssh(text, None).expect("a key of ours");
        TEXTS.iter().map(|text| read(text)).collect()
    });
    keys.iter().find(|key| key.kind() == kind).expect("one of each kind")
}

const TEXTS: [&str; 5] = [
    include_str!("keys/ed25519"),
    include_str!("keys/ecdsa-256"),
    include_str!("keys/ecdsa-384"),
    include_str!("keys/ecdsa-521"),
    include_str!("keys/rsa-2048"),
];

/// What the Ed25519 key signs with.
pub const HOST_KEY_ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::Ed25519;

/// Every suite under every provider that has it; the simulator's comes first.
pub fn suites() -> &'static [(Provider, Suite)] {
    static SUITES: OnceLock<Vec<(Provider, Suite)>> = OnceLock::new();
    SUITES.get_or_init(|| {
        let toy = Suite::new(CipherKind::Toy, MacKind::Implicit).expect("the toy authenticates");
        let mut all = vec![(Provider::Toy, toy)];
        for provider in Provider::ALL {
            let supported = Suite::all().filter(|suite| provider.supports(suite.cipher()));
            all.extend(supported.map(|suite| (*provider, suite)));
        }
        all
    })
}

/// Keys that depend on `seed` alone.
pub fn direction_keys(suite: Suite, seed: u64) -> DirectionKeys {
    let mut entropy = SeededEntropy::new(seed);
    let mut part = |len: usize| {
        let mut bytes = vec![0; len];
        entropy.fill(&mut bytes);
        bytes
    };
    let cipher_key = part(suite.cipher().key_bytes());
    let iv = part(suite.cipher().iv_bytes());
    let mac_key = part(suite.mac().key_bytes());
    DirectionKeys::new(suite, &cipher_key, &iv, &mac_key).expect("exact lengths")
}

/// A server with an Ed25519 host key and the real ciphers.
pub fn server_config(kex: &[KexKind]) -> ServerConfig {
    let host_key = HostKey::new(private_key(KeyKind::Ed25519).public().clone());
    ServerConfig::new(preferences(kex), vec![host_key])
}

/// A client with the real ciphers.
pub fn client_config(kex: &[KexKind]) -> ClientConfig {
    ClientConfig::new(preferences(kex))
}

/// A whole server whose cryptography costs nothing and can be played along by a puppet.
pub fn toy_server() -> ConnectionConfig {
    let mut transport = server_config(&[KexKind::Toy]);
    transport.preferences.provider = Provider::Toy;
    transport.preferences.ciphers = vec![CipherKind::Toy];
    transport.preferences.rekey.packets = 200;
    let mut config = ConnectionConfig::new(Arc::new(transport));
    config.banner = Some("Nothing here is real.\r\n".into());
    config.client_alive = Some((Duration::from_secs(30), 2));
    config
}

/// A whole client to go with it.
pub fn toy_client() -> ClientConnectionConfig {
    let mut transport = client_config(&[KexKind::Toy]);
    transport.preferences.provider = Provider::Toy;
    transport.preferences.ciphers = vec![CipherKind::Toy];
    transport.preferences.rekey.packets = 200;
    let mut config = ClientConnectionConfig::new(Arc::new(transport));
    config.server_alive = Some((Duration::from_secs(30), 2));
    config.takes_forwarded = true;
    config
}

fn preferences(kex: &[KexKind]) -> Preferences {
    let mut preferences = Preferences::default();
    preferences.kex = kex.to_vec();
    preferences
}
