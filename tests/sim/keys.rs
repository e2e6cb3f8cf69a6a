//! Keys that are the same in every run, so that a seed means the same everywhere.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tidegate::crypto::{KeyKind, PrivateKey};

pub fn host() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| fixed(1))
}

pub fn user() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| fixed(2))
}

/// The same, for an owner of its own.
pub fn user_again() -> PrivateKey {
    fixed(2)
}

/// Nobody's: it lets no one in.
pub fn stranger() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| fixed(3))
}

/// A host key that workers sign with. Not fixed: only for runs that compare no traces.
pub fn slow_host() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(KeyKind::Rsa).expect("a key"))
}

/// A gateway's keys, in order of preference: its own, or a slow one before it.
pub fn gateway(slow: bool) -> Arc<[Option<PrivateKey>]> {
    static QUICK: OnceLock<Arc<[Option<PrivateKey>]>> = OnceLock::new();
    static BOTH: OnceLock<Arc<[Option<PrivateKey>]>> = OnceLock::new();
    let kept = match slow {
        false => QUICK.get_or_init(|| [Some(fixed(1))].into()),
        true => BOTH.get_or_init(|| {
            let text = slow_host().to_openssh("").expect("a key file");
            let slow = PrivateKey::from_openssh(text.as_bytes(), None).expect("the same key");
            [Some(slow), Some(fixed(1))].into()
        }),
    };
    Arc::clone(kept)
}

/// An Ed25519 key made of its number alone, by way of the file format.
fn fixed(number: u8) -> PrivateKey {
    let seed = [number; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any seed will do");
    let public = pair.public_key().as_ref();
    let mut blob = Vec::new();
    put(&mut blob, b"ssh-ed25519");
    put(&mut blob, public);
    let mut secret = vec![number; 8];
    secret.extend_from_slice(&blob);
    put(&mut secret, &[&seed[..], public].concat());
    put(&mut secret, b"");
    let padding = secret.len().next_multiple_of(8) - secret.len();
    secret.extend((1..=padding as u8).collect::<Vec<_>>());
    let mut file = b"openssh-key-v1\0".to_vec();
    put(&mut file, b"none");
    put(&mut file, b"none");
    put(&mut file, b"");
    file.extend(1u32.to_be_bytes());
    put(&mut file, &blob);
    put(&mut file, &secret);
    let (begin, end) = ("-----BEGIN ", "-----END ");
    let kind = "OPENSSH PRIVATE KEY-----";
    let text = format!("{begin}{kind}\n{}\n{end}{kind}\n", STANDARD.encode(file));
    PrivateKey::from_openssh(text.as_bytes(), None).expect("a key file")
}

fn put(out: &mut Vec<u8>, string: &[u8]) {
    out.extend((string.len() as u32).to_be_bytes());
    out.extend_from_slice(string);
}
