//! Our files and signatures against the system's `ssh-keygen`, in both directions.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use aws_lc_rs::digest::{SHA512, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use tempfile::TempDir;

use super::{KeyError, KeyKind, PrivateKey, PublicKey, SignatureAlgorithm};
use crate::wire::{Reader, Writer};

/// What `ssh-keygen -t .. -b ..` takes, and what we should see.
const TYPES: [(&str, &str, KeyKind); 7] = [
    ("ed25519", "256", KeyKind::Ed25519),
    ("ecdsa", "256", KeyKind::EcdsaP256),
    ("ecdsa", "384", KeyKind::EcdsaP384),
    ("ecdsa", "521", KeyKind::EcdsaP521),
    ("rsa", "2048", KeyKind::Rsa),
    ("rsa", "3072", KeyKind::Rsa),
    ("rsa", "4096", KeyKind::Rsa),
];

pub(super) struct Keygen(TempDir);

impl Keygen {
    pub(super) fn new() -> Keygen {
        Keygen(tempfile::tempdir().expect("a directory"))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn try_run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("ssh-keygen");
        command.current_dir(self.0.path()).args(arguments).stdin(std::process::Stdio::null());
        command.env("SSH_ASKPASS_REQUIRE", "never");
        command.output().expect("these tests need OpenSSH's ssh-keygen")
    }

    pub(super) fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "ssh-keygen {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    pub(super) fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        let output = command.current_dir(self.0.path()).args(arguments).output();
        let output = output.expect("this test needs openssl");
        assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
    }

    /// Makes a key; answers its private file and its public line.
    pub(super) fn make(&self, name: &str, arguments: &[&str]) -> (String, String) {
        self.run(&[&["-q", "-f", name, "-C", "me@here now"], arguments].concat());
        let read = |path: &Path| fs::read_to_string(path).expect("written");
        (read(&self.path(name)), read(&self.path(&format!("{name}.pub"))))
    }

    /// Puts a private file where ssh-keygen will read it.
    pub(super) fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    }

    /// Bits, fingerprint and family as `ssh-keygen -l` shows them.
    fn shown(&self, name: &str) -> (u32, String, String) {
        let line = self.run(&["-l", "-f", name]);
        let words = line.split_whitespace().collect::<Vec<_>>();
        let family = words.last().expect("a word").trim_matches(['(', ')']);
        (words[0].parse().expect("bits"), words[1].into(), family.into())
    }
}

fn assert_signs(key: &PrivateKey) {
    for &algorithm in SignatureAlgorithm::for_key(key.kind()) {
        let blob = key.sign(algorithm, b"message").expect("signs");
        assert_eq!(key.public().verify(algorithm, b"message", &blob), Ok(()));
    }
}

fn assert_shown(key: &PublicKey, shown: (u32, String, String)) {
    assert_eq!((key.bits(), key.fingerprint(), key.kind().family().to_owned()), shown);
}

#[test]
fn its_keys_are_ours() {
    let keygen = Keygen::new();
    for (family, bits, kind) in TYPES {
        let name = format!("{family}{bits}");
        let (private, line) = keygen.make(&name, &["-t", family, "-b", bits, "-N", ""]);
        let key = PrivateKey::from_openssh(&private, None).expect("reads");
        assert_eq!((key.kind(), key.comment()), (kind, "me@here now"));
        let (public, comment) = PublicKey::from_text(&line).expect("reads");
        assert_eq!((&public, comment), (key.public(), "me@here now"));
        assert_eq!(public.to_openssh_line(comment), line.trim_end());
        assert_eq!(PrivateKey::public_of_openssh(&private).as_ref(), Ok(&public));
        assert_shown(&public, keygen.shown(&name));
        assert_signs(&key);
    }
}

#[test]
fn our_keys_are_its() {
    let keygen = Keygen::new();
    for kind in KeyKind::ALL {
        let key = PrivateKey::generate(kind).expect("generates");
        let name = format!("{kind:?}");
        keygen.put(&name, &key.to_openssh("a comment").expect("writes"));
        let line = keygen.run(&["-y", "-f", &name]);
        assert_eq!(line.trim_end(), key.public().to_openssh_line("a comment"));
        assert_shown(key.public(), keygen.shown(&name));

        if !matches!(kind, KeyKind::Ed25519 | KeyKind::Rsa) {
            continue; // bcrypt is slow by design, and the kinds share all of it.
        }
        let locked = format!("{name}.locked");
        let text = key.to_openssh_encrypted("a comment", b"open sesame").expect("writes");
        keygen.put(&locked, &text);
        let line = keygen.run(&["-y", "-P", "open sesame", "-f", &locked]);
        assert_eq!(line.trim_end(), key.public().to_openssh_line("a comment"));
        assert!(!keygen.try_run(&["-y", "-P", "wrong", "-f", &locked]).status.success());
        let back = PrivateKey::from_openssh(&*text, Some(b"open sesame")).expect("reads");
        assert_eq!(back.public(), key.public());
    }
}

#[test]
fn its_ciphers_are_read() {
    let keygen = Keygen::new();
    for cipher in [
        "aes256-ctr",
        "aes192-ctr",
        "aes128-ctr",
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "aes256-cbc",
        "aes192-cbc",
        "aes128-cbc",
    ] {
        let options = ["-t", "ed25519", "-N", "open sesame", "-a", "2", "-Z", cipher];
        let (private, line) = keygen.make(cipher, &options);
        let read = |passphrase| PrivateKey::from_openssh(&private, passphrase);
        let key = read(Some(b"open sesame")).expect(cipher);
        assert_eq!(key.public().to_openssh_line(key.comment()), line.trim_end());
        assert_signs(&key);
        assert_eq!(read(None).map(drop), Err(KeyError::PassphraseNeeded));
        assert_eq!(read(Some(b"")).map(drop), Err(KeyError::PassphraseNeeded));
        assert_eq!(read(Some(b"sesame")).map(drop), Err(KeyError::WrongPassphrase));
        assert_eq!(PrivateKey::public_of_openssh(&private).as_ref(), Ok(key.public()));
    }
    // The advice in the error for the ones we do not read must work.
    let chacha = "chacha20-poly1305@openssh.com";
    let options = ["-t", "ed25519", "-N", "open sesame", "-a", "2", "-Z", chacha];
    let (private, line) = keygen.make("chacha", &options);
    let refused = PrivateKey::from_openssh(&private, Some(b"open sesame")).map(drop);
    assert_eq!(refused, Err(KeyError::UnsupportedCipher(chacha.into())));
    let passphrases = ["-P", "open sesame", "-N", "open sesame"];
    keygen.run(&[&["-q", "-p", "-Z", "aes256-ctr", "-f", "chacha"], &passphrases[..]].concat());
    let private = fs::read(keygen.path("chacha")).expect("reads");
    let key = PrivateKey::from_openssh(&private, Some(b"open sesame")).expect("reads");
    assert_eq!(key.public().to_openssh_line(key.comment()), line.trim_end());
}

#[test]
fn pem_is_read_when_open_and_explained_when_not() {
    let keygen = Keygen::new();
    for (family, bits, kind) in TYPES {
        for format in ["PEM", "PKCS8"] {
            if family == "ed25519" || bits == "4096" {
                continue; // The one is never written as PEM, the other takes seconds to make.
            }
            let name = format!("{family}{bits}.{format}");
            let options = ["-t", family, "-b", bits, "-m", format, "-N"];
            let (private, line) = keygen.make(&name, &[&options[..], &[""]].concat());
            assert!(!private.contains("OPENSSH"));
            let key = PrivateKey::from_openssh(&private, None).expect("reads");
            assert_eq!(key.kind(), kind);
            assert_eq!(key.public().to_openssh_line("me@here now"), line.trim_end());
            assert_signs(&key);
            assert_eq!(PrivateKey::public_of_openssh(&private).as_ref(), Ok(key.public()));
        }
    }
    for format in ["PEM", "PKCS8"] {
        let options = ["-t", "ecdsa", "-m", format, "-N", "open sesame"];
        let (private, line) = keygen.make(format, &options);
        let read =
            |passphrase: Option<&[u8]>| PrivateKey::from_openssh(&private, passphrase).map(drop);
        assert_eq!(read(Some(b"open sesame")), Ok(()));
        assert_eq!(read(None), Err(KeyError::PassphraseNeeded));
        assert_eq!(read(Some(b"")), Err(KeyError::PassphraseNeeded));
        for n in 0..300 {
            // Some leave a padding that looks right.
            let wrong = format!("sesame {n}");
            assert_eq!(read(Some(wrong.as_bytes())), Err(KeyError::WrongPassphrase));
        }
        keygen.run(&["-q", "-p", "-P", "open sesame", "-N", "open sesame", "-f", format]);
        let private = fs::read(keygen.path(format)).expect("reads");
        let key = PrivateKey::from_openssh(&private, Some(b"open sesame")).expect("converted");
        assert_eq!(key.public().to_openssh_line("me@here now"), line.trim_end());
    }
    let (_, line) = keygen.make("public", &["-t", "ed25519", "-N", ""]);
    assert_eq!(PrivateKey::from_openssh(&line, None).map(drop), Err(KeyError::PublicHalf));
}

/// Each cipher that a file in the way of before PKCS#8 may have; `ssh-keygen -m PEM` takes the first.
#[test]
fn pem_under_a_passphrase_is_read_whichever_cipher_it_has() {
    let keygen = Keygen::new();
    for family in ["rsa", "ecdsa"] {
        keygen.make(family, &["-t", family, "-m", "PEM", "-N", ""]);
        let open = fs::read(keygen.path(family)).expect("reads");
        let key = PrivateKey::from_openssh(&open, None).expect("a key");
        let tool = if family == "rsa" { &["rsa", "-traditional"][..] } else { &["ec"] };
        for cipher in ["-aes128", "-aes192", "-aes256", "-des3"] {
            let words = [cipher, "-in", family, "-out", "locked", "-passout", "pass:sesame"];
            keygen.openssl(&[tool, &words].concat());
            let locked = fs::read(keygen.path("locked")).expect("reads");
            match PrivateKey::from_openssh(&locked, Some(b"sesame")) {
                Ok(opened) => assert_eq!(opened.public(), key.public(), "{family} {cipher}"),
                Err(why) => assert_eq!((why, cipher), (KeyError::EncryptedPem, "-des3")),
            }
        }
    }
}

/// What openssl(1) writes besides what ssh-keygen does.
#[test]
fn pkcs8_under_a_passphrase_is_read_whichever_cipher_it_has() {
    let keygen = Keygen::new();
    keygen.openssl(&["genpkey", "-algorithm", "ed25519", "-out", "open"]);
    let key = fs::read(keygen.path("open")).expect("reads");
    let key = PrivateKey::from_openssh(&key, None).expect("a key");
    let mut refused = 0;
    for options in [
        &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"][..],
        &["-v2", "aes-192-cbc", "-iter", "100000"],
        &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"],
        &["-v2", "des3"],
        &["-scrypt"],
    ] {
        let words = ["pkcs8", "-topk8", "-in", "open", "-out", "locked", "-passout", "pass:sesame"];
        keygen.openssl(&[&words[..], options].concat());
        let locked = fs::read(keygen.path("locked")).expect("reads");
        match PrivateKey::from_openssh(&locked, Some(b"sesame")) {
            Ok(opened) => assert_eq!(opened.public(), key.public(), "{options:?}"),
            Err(why) => {
                assert_eq!(why, KeyError::EncryptedPem, "{options:?}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 2, "DES and scrypt");
}

#[test]
fn small_and_unsupported_keys_are_named() {
    let keygen = Keygen::new();
    let (private, _) = keygen.make("small", &["-t", "rsa", "-b", "1024", "-N", ""]);
    assert_eq!(PrivateKey::from_openssh(&private, None).map(drop), Err(KeyError::RsaSize(1024)));
    let options = ["-t", "rsa", "-b", "1024", "-m", "PEM", "-N", ""];
    let (private, _) = keygen.make("small.pem", &options);
    assert_eq!(PrivateKey::from_openssh(&private, None).map(drop), Err(KeyError::Unusable));
}

/// OpenSSH's PROTOCOL.sshsig: what is signed in the end.
fn sshsig_message(message: &[u8]) -> Vec<u8> {
    let mut space = [0; 256];
    let mut out = Writer::new(&mut space);
    out.bytes(b"SSHSIG").expect("room");
    for part in [&b"test"[..], b"", b"sha512", digest(&SHA512, message).as_ref()] {
        out.string(part).expect("room");
    }
    out.written().to_vec()
}

fn sshsig_text(key: &PrivateKey, message: &[u8]) -> String {
    let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
    let signature = key.sign(algorithm, &sshsig_message(message)).expect("signs");
    let mut space = [0; 8192];
    let mut out = Writer::new(&mut space);
    out.bytes(b"SSHSIG\0\0\0\x01").expect("room");
    for part in [key.public().blob(), b"test", b"", b"sha512", &signature] {
        out.string(part).expect("room");
    }
    let base64 = STANDARD.encode(out.written());
    let lines = base64.as_bytes().chunks(70).map(String::from_utf8_lossy).collect::<Vec<_>>();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}

#[test]
fn it_verifies_our_signatures_and_we_its() {
    let keygen = Keygen::new();
    let message = b"what is signed";
    fs::write(keygen.path("message"), message).expect("writes");
    for kind in KeyKind::ALL {
        let key = PrivateKey::generate(kind).expect("generates");
        let signers = format!("me {}\n", key.public().to_openssh_line(""));
        fs::write(keygen.path("signers"), signers).expect("writes");
        fs::write(keygen.path("ours.sig"), sshsig_text(&key, message)).expect("writes");
        let verify = |message: &str| {
            let mut command = Command::new("ssh-keygen");
            command.current_dir(keygen.0.path());
            command.args(["-Y", "verify", "-f", "signers", "-I", "me", "-n", "test"]);
            command.args(["-s", "ours.sig"]);
            command.stdin(fs::File::open(keygen.path(message)).expect("opens"));
            command.output().expect("runs").status.success()
        };
        assert!(verify("message"), "{kind:?}");
        assert!(!verify("signers"), "another message");

        let name = format!("{kind:?}");
        keygen.put(&name, &key.to_openssh("").expect("writes"));
        let _ = fs::remove_file(keygen.path("message.sig"));
        keygen.run(&["-q", "-Y", "sign", "-f", &name, "-n", "test", "message"]);
        let text = fs::read_to_string(keygen.path("message.sig")).expect("written");
        let base64 = text.lines().filter(|line| !line.starts_with('-')).collect::<String>();
        let file = STANDARD.decode(base64).expect("base64");
        let mut body = Reader::new(&file[10..]);
        assert_eq!(body.string(4096), Ok(key.public().blob()));
        for part in [&b"test"[..], b"", b"sha512"] {
            assert_eq!(body.string(64), Ok(part));
        }
        let blob = body.string(4096).expect("a signature");
        let algorithm = SignatureAlgorithm::for_key(kind)[0];
        assert_eq!(key.public().verify(algorithm, &sshsig_message(message), blob), Ok(()));
    }
}
