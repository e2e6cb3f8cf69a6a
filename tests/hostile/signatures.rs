//! Logins with signatures that are not quite what they should be, and with somebody else's.

use std::fs;
use std::process::Command;

use aws_lc_rs::digest;
use base64::Engine;
use crypto_bigint::{BoxedUint, Odd};
use tidegate::crypto::{Certificate, PrivateKey, SignatureAlgorithm};
use tidegate::wire::auth::{AuthMethod, PublicKeyAttempt, UserAuthRequest};
use tidegate::wire::{Reader, Writer, number};

use crate::PROTOCOL_ERROR;
use crate::peer::{Farewell, Peer, USER, Watch, encode, probe_fields, user_key};
use crate::support::{Gateway, run_ok};

fn key(gateway: &Gateway, name: &str) -> PrivateKey {
    let text = fs::read(gateway.path(name)).expect("a key file");
    PrivateKey::from_openssh(text, None).expect("a key")
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// A positive number with one byte of zero where its top bit is set.
fn mpint(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => string(&[&[0][..], bytes].concat()),
        _ => string(bytes),
    }
}

/// How a login is asked for.
struct Claim<'a> {
    user: &'a str,
    service: &'a str,
    algorithm: &'a str,
    blob: &'a [u8],
}

impl Claim<'_> {
    fn fields(&self) -> PublicKeyAttempt<'_> {
        PublicKeyAttempt {
            algorithm: self.algorithm,
            key: self.blob,
            host_key: None,
            signature: None,
        }
    }

    /// What an honest client would sign.
    fn signed(&self, session_id: &[u8]) -> Vec<u8> {
        let mut space = vec![0; 4096];
        let mut out = Writer::new(&mut space);
        let written = self.fields().write_signed(session_id, self.user, self.service, &mut out);
        written.expect("room");
        out.written().to_vec()
    }

    fn with(&self, signature: &[u8]) -> Vec<u8> {
        let method =
            AuthMethod::PublicKey(PublicKeyAttempt { signature: Some(signature), ..self.fields() });
        encode(&UserAuthRequest { user: self.user, service: self.service, method })
    }
}

fn assert_refused(peer: &mut Peer, what: &str) {
    match peer.hear() {
        Ok(answer) => assert_eq!(answer[0], number::USERAUTH_FAILURE, "{what}"),
        Err(Farewell::Said(PROTOCOL_ERROR, _)) => {}
        Err(end) => panic!("{what}: {end:?}"),
    }
}

fn ready(gateway: &Gateway) -> Peer {
    let mut peer = Peer::connect(gateway);
    peer.ask_service();
    peer
}

/// The number inside a signature, without its algorithm's name.
fn raw(blob: &[u8]) -> Vec<u8> {
    let mut fields = Reader::new(blob);
    fields.string(64).expect("a name");
    fields.string(4096).expect("a signature").to_vec()
}

/// Without its first byte that counts: zeros in front may be left out, and one signature in 256 has some.
fn shortened(raw: &[u8]) -> Vec<u8> {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw[zeros + 1..].to_vec()
}

/// S + L in the place of S: the same number to the curve (RFC 8032 §5.1.7 forbids it).
fn shifted(raw: &[u8]) -> Vec<u8> {
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut raw = raw.to_vec();
    let mut carry = 0;
    for (byte, add) in raw[32..].iter_mut().zip(order) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry as u8;
        carry >>= 8;
    }
    raw
}

/// A way to spoil the number inside a signature.
type Form = fn(&[u8]) -> Vec<u8>;

#[test]
fn cases_42_43_signatures_with_another_form() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let rows: [(&str, SignatureAlgorithm); 3] = [
        ("user_ed25519", SignatureAlgorithm::Ed25519),
        ("user_ecdsa256", SignatureAlgorithm::EcdsaP256),
        ("user_rsa3072", SignatureAlgorithm::RsaSha512),
    ];
    for (name, algorithm) in rows {
        let key = key(&gateway, name);
        let claim = Claim {
            user: USER,
            service: "ssh-connection",
            algorithm: algorithm.name(),
            blob: key.public().blob(),
        };
        let mut forms: Vec<Form> = vec![
            |_| Vec::new(),
            |raw| vec![0; raw.len()],
            |raw| [raw, &[0]].concat(),
            |raw| raw[..raw.len() - 1].to_vec(),
            |raw| [&[0][..], raw].concat(),
        ];
        match name {
            "user_ed25519" => forms.push(shifted),
            "user_ecdsa256" => forms.extend([
                // Both numbers zero, one, or past the order; one number alone.
                (|_| [mpint(&[]), mpint(&[])].concat()) as Form,
                |_| [mpint(&[1]), mpint(&[1])].concat(),
                |_| [mpint(&[0xff; 32]), mpint(&[0xff; 32])].concat(),
                |raw| raw[..4 + usize::from(raw[3])].to_vec(),
            ]),
            _ => forms.extend([
                (|_| [vec![0; 383], vec![1]].concat()) as Form,
                |_| vec![0xff; 384],
                shortened,
            ]),
        }
        let unspoilt: Form = <[u8]>::to_vec;
        forms.push(unspoilt);
        let last = forms.len() - 1;
        for (at, form) in forms.into_iter().enumerate() {
            let mut peer = ready(&gateway);
            let data = claim.signed(peer.transport.session_id());
            let spoilt = form(&raw(&key.sign(algorithm, &data).expect("signs")));
            let blob = [string(algorithm.name().as_bytes()), string(&spoilt)].concat();
            peer.send(&claim.with(&blob));
            if at == last {
                assert_eq!(peer.hear(), Ok(vec![number::USERAUTH_SUCCESS]), "{name}: the control");
            } else {
                assert_refused(&mut peer, &format!("{name}, form {at}"));
            }
        }
    }
    watch.end();
}

/// An RSA key's modulus and private exponent, read from its file.
fn rsa_numbers(gateway: &Gateway) -> (BoxedUint, BoxedUint) {
    let text = fs::read_to_string(gateway.path("user_rsa3072")).expect("a key file");
    let lines: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(lines).expect("base64");
    let mut file = Reader::new(bytes.strip_prefix(b"openssh-key-v1\0").expect("its mark"));
    for _ in 0..3 {
        file.string(64).expect("a name of ciphers");
    }
    assert_eq!(file.uint32(), Ok(1));
    file.string(4096).expect("the public key");
    let mut section = Reader::new(file.string(1 << 16).expect("the private part"));
    section.bytes(8).expect("check numbers");
    assert_eq!(section.string(64), Ok(&b"ssh-rsa"[..]));
    let mut number = || {
        let bytes = section.string(1024).expect("a number");
        let digits = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        BoxedUint::from_be_slice(digits, 3072).expect("fits")
    };
    let modulus = number();
    number();
    (modulus, number())
}

/// A correct signature by SHA-1, which nothing of ours makes.
fn sign_by_sha1(gateway: &Gateway, data: &[u8]) -> Vec<u8> {
    const INFO: [u8; 15] = [0x30, 0x21, 0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 20];
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data);
    let padding = vec![0xff; 384 - 3 - INFO.len() - 20];
    let block = [&[0, 1][..], &padding, &[0], &INFO, hash.as_ref()].concat();
    let (modulus, exponent) = rsa_numbers(gateway);
    let modulus = Odd::new(modulus).expect("odd");
    let block = BoxedUint::from_be_slice(&block, 3072).expect("fits");
    block.pow_mod(&exponent, &modulus).to_be_bytes().into_vec()
}

#[test]
fn cases_45_46_algorithms_are_not_confused() {
    // A list that names it is understood, and still nobody verifies SHA-1.
    for lines in [&[][..], &["PubkeyAcceptedAlgorithms +ssh-rsa"]] {
        let gateway = Gateway::start(lines);
        let watch = Watch::begin(&gateway);
        let (ed25519, p384, rsa) = (
            key(&gateway, "user_ed25519"),
            key(&gateway, "user_ecdsa384"),
            key(&gateway, "user_rsa3072"),
        );
        let service = "ssh-connection";
        let claim = |algorithm, key| Claim { user: USER, service, algorithm, blob: blob(key) };
        fn blob(key: &PrivateKey) -> &[u8] {
            key.public().blob()
        }
        // What is claimed, the name in the signature, who signs and how.
        let rows = [
            (
                claim("rsa-sha2-512", &ed25519),
                "rsa-sha2-512",
                &ed25519,
                SignatureAlgorithm::Ed25519,
            ),
            (claim("ssh-ed25519", &ed25519), "ssh-rsa", &ed25519, SignatureAlgorithm::Ed25519),
            (
                claim("ecdsa-sha2-nistp256", &p384),
                "ecdsa-sha2-nistp256",
                &p384,
                SignatureAlgorithm::EcdsaP384,
            ),
            (claim("rsa-sha2-512", &rsa), "rsa-sha2-256", &rsa, SignatureAlgorithm::RsaSha256),
            (claim("rsa-sha2-256", &rsa), "rsa-sha2-256", &rsa, SignatureAlgorithm::RsaSha512),
            (claim("rsa-sha2-512", &rsa), "ssh-rsa", &rsa, SignatureAlgorithm::RsaSha512),
            (claim("ssh-rsa", &rsa), "rsa-sha2-512", &rsa, SignatureAlgorithm::RsaSha512),
            (
                claim("ssh-ed25519-cert-v01@openssh.com", &ed25519),
                "ssh-ed25519",
                &ed25519,
                SignatureAlgorithm::Ed25519,
            ),
        ];
        for (claim, name, key, algorithm) in &rows {
            let mut peer = ready(&gateway);
            let data = claim.signed(peer.transport.session_id());
            let signature = raw(&key.sign(*algorithm, &data).expect("signs"));
            peer.send(&claim.with(&[string(name.as_bytes()), string(&signature)].concat()));
            assert_refused(&mut peer, &format!("45: {} signed as {name}", claim.algorithm));
        }
        for claimed in ["ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"] {
            for name in ["ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"] {
                let mut peer = ready(&gateway);
                let claim = claim(claimed, &rsa);
                let signature = sign_by_sha1(&gateway, &claim.signed(peer.transport.session_id()));
                peer.send(&claim.with(&[string(name.as_bytes()), string(&signature)].concat()));
                assert_refused(&mut peer, &format!("46: SHA-1 under {claimed} and {name}"));
            }
        }
        // Nor does asking first get an answer that looks like a way in.
        let mut peer = ready(&gateway);
        let asked = claim("ssh-rsa", &rsa);
        let probe = AuthMethod::PublicKey(asked.fields());
        peer.send(&encode(&UserAuthRequest { user: USER, service, method: probe }));
        assert_refused(&mut peer, "46: a question about ssh-rsa");
        drop(peer);
        watch.end();
    }
}

#[test]
fn case_46_the_signature_would_be_right() {
    let gateway = Gateway::start(&[]);
    let signature = sign_by_sha1(&gateway, b"message");
    let key = key(&gateway, "user_rsa3072");
    let mut fields = Reader::new(key.public().blob());
    assert_eq!(fields.string(16), Ok(&b"ssh-rsa"[..]));
    let (exponent, modulus) = (fields.string(16).expect("e"), fields.string(1024).expect("n"));
    let public = aws_lc_rs::signature::RsaPublicKeyComponents { n: &modulus[1..], e: exponent };
    let sha1 = &aws_lc_rs::signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY;
    assert!(public.verify(sha1, b"message", &signature).is_ok());
}

#[test]
fn cases_54_55_56_another_user_service_session_or_key() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let service = "ssh-connection";
    let none = |user: &str, service: &str| {
        encode(&UserAuthRequest { user, service, method: AuthMethod::None })
    };
    // 54: the first request binds the others.
    for (user, service) in [("nobody", "ssh-connection"), (USER, "ssh-userauth")] {
        let mut peer = ready(&gateway);
        peer.send(&none(USER, "ssh-connection"));
        assert_refused(&mut peer, "54: the first");
        peer.send(&none(user, service));
        assert!(matches!(peer.hear(), Err(Farewell::Said(..))), "54: {user} {service}");
    }
    // 55: a key that is welcome, a signature by another, either way round.
    let (known, stranger) = (user_key(&gateway), key(&gateway, "host_ed25519"));
    let algorithm = SignatureAlgorithm::Ed25519;
    for (shown, signer) in [(&known, &stranger), (&stranger, &stranger), (&stranger, &known)] {
        let mut peer = ready(&gateway);
        let probe = AuthMethod::PublicKey(probe_fields(&known, algorithm));
        peer.send(&encode(&UserAuthRequest { user: USER, service, method: probe }));
        assert_eq!(peer.hear().map(|answer| answer[0]), Ok(number::USERAUTH_PK_OK));
        let blob = shown.public().blob();
        let claim = Claim { user: USER, service, algorithm: algorithm.name(), blob };
        let data = claim.signed(peer.transport.session_id());
        peer.send(&claim.with(&signer.sign(algorithm, &data).expect("signs")));
        assert_refused(&mut peer, "55");
    }
    // 56: the right key over something else.
    let other_id = ready(&gateway).transport.session_id().to_vec();
    let rows: [(&str, Option<&[u8]>, &str, &str); 4] = [
        ("session", Some(&other_id), USER, "ssh-connection"),
        ("no session", Some(b""), USER, "ssh-connection"),
        ("user", None, "nobody", "ssh-connection"),
        ("service", None, USER, "ssh-userauth"),
    ];
    let blob = known.public().blob();
    let claim = |user, service| Claim { user, service, algorithm: algorithm.name(), blob };
    for (what, session, user, signed_service) in rows {
        let mut peer = ready(&gateway);
        let session = session.unwrap_or_else(|| peer.transport.session_id());
        let data = claim(user, signed_service).signed(session);
        peer.send(&claim(USER, service).with(&known.sign(algorithm, &data).expect("signs")));
        assert_refused(&mut peer, &format!("56: {what}"));
    }
    watch.end();
}

/// What a key may do comes from the key that logged in, whatever was tried before it.
#[test]
fn case_57_nothing_is_left_of_a_key_that_failed() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let line = |name: &str| {
        fs::read_to_string(gateway.path(&format!("{name}.pub"))).expect("a public key")
    };
    let forced = format!("restrict,command=\"echo forced\" {}", line("user_ed25519"));
    let both = format!("{forced}{}", line("user_ecdsa256"));
    fs::write(gateway.path("authorized_keys"), both).expect("authorized_keys");
    let tied = (key(&gateway, "user_ed25519"), SignatureAlgorithm::Ed25519);
    let free = (key(&gateway, "user_ecdsa256"), SignatureAlgorithm::EcdsaP256);
    let service = "ssh-connection";
    for (first, second, expected) in [(&tied, &free, &b"free\n"[..]), (&free, &tied, b"forced\n")] {
        // The first is welcome, and then fails, or is never signed with.
        for spoilt in [false, true] {
            let mut peer = ready(&gateway);
            let probe = AuthMethod::PublicKey(probe_fields(&first.0, first.1));
            peer.send(&encode(&UserAuthRequest { user: USER, service, method: probe }));
            assert_eq!(peer.hear().map(|answer| answer[0]), Ok(number::USERAUTH_PK_OK));
            if spoilt {
                let blob = first.0.public().blob();
                let claim = Claim { user: USER, service, algorithm: first.1.name(), blob };
                let other = first.0.sign(first.1, b"something else").expect("signs");
                peer.send(&claim.with(&other));
                assert_refused(&mut peer, "57: not signed");
            }
            let request = peer.signed(&second.0, USER);
            peer.send(&request);
            assert_eq!(peer.hear(), Ok(vec![number::USERAUTH_SUCCESS]));
            peer.transport.authenticated();
            peer.exec(0, "echo free");
            assert_eq!(output(&mut peer), expected);
        }
    }
    // One method is all there is: success is never partial.
    let mut peer = ready(&gateway);
    let stranger = key(&gateway, "host_ed25519");
    let request = peer.signed(&stranger, USER);
    peer.send(&request);
    let answer = peer.hear().expect("an answer");
    assert_eq!(answer.last(), Some(&0), "not partial");
    drop(peer);
    fs::write(gateway.path("authorized_keys"), line("user_ed25519")).expect("authorized_keys");
    watch.end();
}

/// Where two keys are needed, they are two: neither itself again nor itself in a certificate.
#[test]
fn case_57_needed_keys_are_distinct() {
    let gateway = Gateway::start(&["AuthenticationMethods publickey,publickey"]);
    let first = key(&gateway, "user_ed25519");
    let second = key(&gateway, "user_ecdsa256");
    let line = |name: &str| fs::read_to_string(gateway.path(name)).expect("a public key");
    let authority = line("user_ecdsa384.pub");
    let lines = [line("user_ed25519.pub"), line("user_ecdsa256.pub")].concat();
    let trusted = format!("{lines}cert-authority {authority}");
    fs::write(gateway.path("authorized_keys"), trusted).expect("authorized_keys");
    run_ok(
        Command::new("ssh-keygen")
            .args(["-q", "-I", "x", "-n", USER, "-s"])
            .arg(gateway.path("user_ecdsa384"))
            .arg(gateway.path("user_ed25519.pub")),
    );
    let certificate = Certificate::from_text(&line("user_ed25519-cert.pub")).expect("one").0;
    let partial = |peer: &mut Peer| {
        let answer = peer.hear().expect("an answer");
        assert_eq!(answer[0], number::USERAUTH_FAILURE);
        answer.last() == Some(&1)
    };
    for again in [false, true] {
        let mut peer = ready(&gateway);
        let request = peer.signed(&first, USER);
        peer.send(&request);
        assert!(partial(&mut peer), "one of two");
        let request = peer.signed(&first, USER);
        peer.send(&request);
        assert!(!partial(&mut peer), "the same key again");
        let (service, algorithm) = ("ssh-connection", certificate.type_name());
        let claim = Claim { user: USER, service, algorithm, blob: certificate.blob() };
        let session = peer.transport.session_id().to_vec();
        let algorithm = SignatureAlgorithm::Ed25519;
        let signature = first.sign(algorithm, &claim.signed(&session)).expect("signs");
        peer.send(&claim.with(&signature));
        assert!(!partial(&mut peer), "the same key, certified");
        if again {
            // Nothing runs after one of two.
            peer.send(&encode(&UserAuthRequest { user: USER, service, method: AuthMethod::None }));
            assert!(!partial(&mut peer));
            peer.send(&[number::CHANNEL_OPEN]);
            peer.assert_dropped(PROTOCOL_ERROR, "a channel after a part of a login");
            continue;
        }
        let request = peer.signed(&second, USER);
        peer.send(&request);
        assert_eq!(peer.hear(), Ok(vec![number::USERAUTH_SUCCESS]));
    }
}

/// What a program printed.
fn output(peer: &mut Peer) -> Vec<u8> {
    use tidegate::wire::Message;
    let mut bytes = Vec::new();
    loop {
        let message = peer.hear().expect("the session");
        match message[0] {
            number::CHANNEL_DATA => {
                let data = tidegate::wire::channel::ChannelData::parse(&message).expect("whole");
                bytes.extend_from_slice(data.data);
            }
            number::CHANNEL_CLOSE => return bytes,
            _ => {}
        }
    }
}
