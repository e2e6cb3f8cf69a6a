//! Public keys, signatures and private key files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Input;
use super::fixtures::private_key as fixture;
use crate::base::SeededEntropy;
use crate::crypto::keys::{Certificate, Trust, UserUse};
use crate::crypto::{KexKind, KexSecret};
use crate::crypto::{KeyKind, PrivateKey, PublicKey, SignatureAlgorithm, kex};
use crate::wire::Reader;

/// A public key blob as it comes in a KEX reply or a publickey request, or the text of a line.
pub fn public_key(data: &[u8]) {
    if let Ok(key) = PublicKey::from_blob(data) {
        assert_eq!(key.blob(), data);
        assert!(key.fingerprint().starts_with("SHA256:") && key.bits() >= 256);
        let line = key.to_openssh_line("a comment");
        assert_eq!(PublicKey::from_text(&line), Ok((key.clone(), "a comment")));
        for algorithm in SignatureAlgorithm::ALL {
            assert!(key.verify(algorithm, MESSAGE, data).is_err(), "a key is no signature");
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok((key, comment)) = PublicKey::from_text(text)
    {
        assert!(!comment.contains('\n'));
        assert_eq!(PublicKey::from_blob(key.blob()), Ok(key));
    }
}

/// A certificate's blob, or the text of its line. Nobody but the fixture signs, so whatever counts
/// is what it has signed.
pub fn certificate(data: &[u8]) {
    let read = Certificate::from_blob(data).ok().or_else(|| {
        let text = std::str::from_utf8(data).ok()?;
        Some(Certificate::from_text(text).ok()?.0)
    });
    let Some(certificate) = read else { return };
    let line = certificate.to_openssh_line("a comment");
    assert_eq!(Certificate::from_text(&line), Ok((certificate.clone(), "a comment")));
    assert!(PublicKey::from_blob(certificate.blob()).is_err(), "a certificate is no key");
    let authorities = [fixture(KeyKind::Ed25519).public().clone()];
    let trust = Trust { authorities: &authorities, algorithms: &SignatureAlgorithm::ALL };
    let peer = [192, 0, 2, 7].into();
    let used = UserUse { principals: &["ada"], peer, now: 1_700_000_000 };
    if let Ok(verified) = certificate.verify_user(trust, used) {
        assert!(certificate.principals().any(|name| name == "ada"));
        assert_eq!(verified.certificate().authority(), &authorities[0]);
        assert!(certificate.verify_host(trust, "ada", used.now).is_err());
    }
    if let Err(why) = certificate.verify_host(trust, "gate.example.org", used.now) {
        assert!(!why.to_string().is_empty());
    }
}

/// What every signature here is about.
pub const MESSAGE: &[u8] = b"what is signed";

/// A signature blob, behind a byte that picks the key and one that picks the algorithm.
///
/// Ed25519 and RSA signatures are unique: any other bytes that verify are a forgery.
pub fn signature(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = KeyKind::ALL[usize::from(input.byte()) % KeyKind::ALL.len()];
    let algorithms = SignatureAlgorithm::ALL;
    let algorithm = algorithms[usize::from(input.byte()) % algorithms.len()];
    let key = fixture(kind);
    if key.public().verify(algorithm, MESSAGE, input.rest()).is_err() {
        return;
    }
    assert_eq!(algorithm.key_kind(), kind);
    assert!(key.public().verify(algorithm, b"another message", input.rest()).is_err());
    if matches!(kind, KeyKind::Ed25519 | KeyKind::Rsa) {
        let ours = key.sign(algorithm, MESSAGE).expect("a working key");
        assert_eq!(input.rest(), ours, "a second signature of the same message");
    }
}

/// A private key file: whole, or (behind a zero byte) its binary body, which we armour, so that a
/// fuzzer need not learn base64.
pub fn private_key(data: &[u8]) {
    match data.split_first() {
        Some((0, body)) => {
            let text = armoured(body);
            private_key_file(text.as_bytes(), is_quick(body));
        }
        // Rounds are hidden by the armour here, so no passphrase is tried.
        _ => private_key_file(data, false),
    }
}

fn private_key_file(file: &[u8], with_passphrase: bool) {
    let _ = PrivateKey::public_of_openssh(file);
    let mut found = PrivateKey::from_openssh(file, None);
    if found.is_err() && with_passphrase {
        found = PrivateKey::from_openssh(file, Some(PASSPHRASE));
    }
    let Ok(key) = found else { return };
    assert_eq!(PublicKey::from_blob(key.public().blob()).as_ref(), Ok(key.public()));
    // A key that can be read can sign, and its halves belong together.
    for algorithm in SignatureAlgorithm::for_key(key.kind()) {
        let signature = key.sign(*algorithm, MESSAGE).expect("a key that was read signs");
        key.public().verify(*algorithm, MESSAGE, &signature).expect("with its own public half");
    }
    let again = key.to_openssh("").expect("a key that was read can be written");
    let again = PrivateKey::from_openssh(again.as_bytes(), None).expect("and read again");
    assert_eq!(again.public(), key.public());
}

/// The passphrase that encrypted seeds are under.
pub const PASSPHRASE: &[u8] = b"fuzz";

/// A key file's armour round `body`.
pub fn armoured(body: &[u8]) -> String {
    let mut text = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    STANDARD.encode_string(body, &mut text);
    text.push_str("\n-----END OPENSSH PRIVATE KEY-----\n");
    text
}

/// Whether the body asks for so few rounds of bcrypt that a fuzzer may try a passphrase.
fn is_quick(body: &[u8]) -> bool {
    let rounds = |body: &[u8]| {
        let mut body = Reader::new(body.get(15..)?);
        body.string(64).ok()?;
        body.string(64).ok()?;
        let mut options = Reader::new(body.string(4096).ok()?);
        options.string(4096).ok()?;
        options.uint32().ok()
    };
    rounds(body).is_some_and(|rounds| rounds <= 2)
}

/// A public value of a key exchange, behind a byte that picks the method and the side.
pub fn kex_public(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = usize::from(input.byte());
    let kind = KexKind::DEFAULT[choice / 2 % KexKind::DEFAULT.len()];
    let mut entropy = SeededEntropy::new(1);
    if choice.is_multiple_of(2) {
        if let Ok((public, secret)) = kex::respond(kind, input.rest(), &mut entropy) {
            assert!(!public.is_empty() && secret.encoded().len() > 4);
        }
    } else {
        let made = KexSecret::generate(kind, &mut entropy);
        let (secret, _) = made.expect("the library makes keys");
        if let Ok(secret) = secret.finish(input.rest()) {
            assert!(secret.encoded().len() > 4);
        }
    }
}
