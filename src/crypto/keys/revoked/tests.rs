use super::*;
use crate::crypto::{
    KeyKind, PrivateKey,
    keys::{CertificateKind, Certification, Extensions, keygen_tests::Keygen},
};

struct Scene {
    keygen: Keygen,
    authority: PrivateKey,
    key: PrivateKey,
    other: PrivateKey,
}

impl Scene {
    fn new() -> Scene {
        let key = || PrivateKey::generate(KeyKind::Ed25519).expect("generates");
        let scene = Scene { keygen: Keygen::new(), authority: key(), key: key(), other: key() };
        for (name, key) in
            [("ca.pub", &scene.authority), ("key.pub", &scene.key), ("other.pub", &scene.other)]
        {
            scene.keygen.put(name, &key.public().to_openssh_line(""));
        }
        scene
    }

    fn certificate(&self, serial: u64, key_id: &str) -> Certificate {
        let certification = Certification {
            kind: CertificateKind::User,
            serial,
            key_id,
            principals: &["ada"],
            valid_after: 0,
            valid_before: u64::MAX,
            force_command: None,
            source_address: None,
            verify_required: false,
            extensions: Extensions::USUAL,
        };
        certification.issue(self.key.public(), &self.authority).expect("issues")
    }

    /// What ssh-keygen makes of a specification.
    fn list(&self, arguments: &[&str], specification: &str) -> Vec<u8> {
        self.keygen.put("specification", specification);
        self.keygen.run(&[&["-q", "-k", "-f", "krl"], arguments, &["specification"]].concat());
        std::fs::read(self.keygen.path("krl")).expect("a list")
    }

    /// Our verdict about a certificate, which must be that of `ssh-keygen -Q`.
    fn verdict(&self, list: &[u8], certificate: &Certificate) -> bool {
        let ours = is_revoked(list, certificate.key(), Some(certificate)).expect("a good list");
        self.keygen.put("asked.pub", &certificate.to_openssh_line(""));
        let theirs = self.keygen.try_run(&["-Q", "-f", "krl", "asked.pub"]);
        assert_eq!(ours, !theirs.status.success(), "{theirs:?}");
        ours
    }
}

/// SECURITY case 75: by serial number, range, identity, key, fingerprint and authority.
#[test]
fn case_75_lists_of_keygen_revoke_what_it_says() {
    let scene = Scene::new();
    let fingerprint = scene.key.public().fingerprint();
    for (specification, serial, key_id, revoked) in [
        ("serial: 7", 7, "a", true),
        ("serial: 7", 8, "a", false),
        ("serial: 7-9\nserial: 1000000-2000000", 8, "a", true),
        ("serial: 7-9\nserial: 1000000-2000000", 1_500_000, "a", true),
        ("serial: 7-9\nserial: 1000000-2000000", 10, "a", false),
        // Close together: a bitmap.
        ("serial: 1\nserial: 3\nserial: 5\nserial: 64\nserial: 100\nserial: 130", 5, "a", true),
        ("serial: 1\nserial: 3\nserial: 5\nserial: 64\nserial: 100\nserial: 130", 130, "a", true),
        ("serial: 1\nserial: 3\nserial: 5\nserial: 64\nserial: 100\nserial: 130", 4, "a", false),
        ("serial: 18446744073709551615", u64::MAX, "a", true),
        ("id: a", 7, "a", true),
        ("id: a", 7, "ab", false),
        ("serial: 1-100", 0, "a", false),
    ] {
        let list = scene.list(&["-s", "ca.pub"], &format!("{specification}\n"));
        let found = scene.verdict(&list, &scene.certificate(serial, key_id));
        assert_eq!(found, revoked, "{specification} and {serial}");
        assert!(!is_revoked(&list, scene.key.public(), None).expect("good"), "the key is not");
    }
    // Of another authority.
    let list = scene.list(&["-s", "other.pub"], "serial: 7\nid: a\n");
    assert!(!scene.verdict(&list, &scene.certificate(7, "a")));

    let line = |key: &PrivateKey| key.public().to_openssh_line("");
    for (specification, by_certificate, plain) in [
        (format!("key: {}", line(&scene.key)), true, true),
        (format!("sha1: {}", line(&scene.key)), true, true),
        (format!("sha256: {}", line(&scene.key)), true, true),
        (format!("hash: {fingerprint}"), true, true),
        (format!("key: {}", line(&scene.authority)), true, false),
        (format!("sha256: {}", line(&scene.authority)), true, false),
        (format!("key: {}", line(&scene.other)), false, false),
    ] {
        let list = scene.list(&[], &format!("{specification}\n"));
        let found = scene.verdict(&list, &scene.certificate(7, "a"));
        assert_eq!(found, by_certificate, "{specification}");
        let found = is_revoked(&list, scene.key.public(), None).expect("good");
        assert_eq!(found, plain, "{specification}");
    }
}

#[test]
fn case_75_plain_files_of_keys() {
    let scene = Scene::new();
    let line = |key: &PrivateKey| key.public().to_openssh_line("c");
    let certificate = scene.certificate(7, "a");
    for (text, revoked) in [
        (String::new(), false),
        (format!("# gone\n\n{}\n", line(&scene.key)), true),
        (format!("{}\r\n{}", line(&scene.other), line(&scene.authority)), true),
        (line(&scene.other), false),
        ("ssh-dss AAAAB3NzaC1kc3MAAAAB".to_owned(), false),
    ] {
        let found = is_revoked(text.as_bytes(), scene.key.public(), Some(&certificate));
        assert_eq!(found, Ok(revoked), "{text}");
    }
    for bad in ["garbage", "ssh-ed25519", "ssh-ed25519 !!", "ssh-rsa AAAAB3NzaC1kc3MAAAAB"] {
        let text = format!("{}\n{bad}\n", line(&scene.key));
        let found = is_revoked(text.as_bytes(), scene.other.public(), None);
        assert_eq!(found, Err(RevokedError::Line(2)), "{bad}");
    }
}

/// SECURITY case 75: what is damaged or not understood is an error, wherever in the list it is.
#[test]
fn case_75_bad_lists_are_errors() {
    let scene = Scene::new();
    let specification = format!(
        "serial: 7\nserial: 9-20\nid: b\nkey: {}\nsha256: {}\n",
        scene.key.public().to_openssh_line(""),
        scene.other.public().to_openssh_line("")
    );
    let list = scene.list(&["-s", "ca.pub"], &specification);
    let certificate = scene.certificate(7, "a");
    let check = |list: &[u8]| is_revoked(list, certificate.key(), Some(&certificate));
    assert_eq!(check(&list), Ok(true));
    // Sections end where a cut may be; every other one shows.
    let whole = (MAGIC.len()..list.len()).filter(|cut| check(&list[..*cut]).is_ok()).count();
    assert!(whole <= 4, "{whole} cuts went unnoticed");
    let head = {
        let mut head = [MAGIC, &FORMAT.to_be_bytes()].concat();
        head.extend([0; 3 * 8 + 2 * 4]);
        head
    };
    let section = |kind: u8, body: &[u8]| {
        let len = u32::try_from(body.len()).expect("short").to_be_bytes();
        check(&[&head[..], &[kind], &len, body].concat())
    };
    assert_eq!(check(&head), Ok(false));
    assert_eq!(section(9, b""), Err(RevokedError::Section(9)));
    assert_eq!(section(SIGNATURE, b""), Err(RevokedError::Signed));
    assert_eq!(section(EXTENSION, b"\0\0\0\x01x\x01\0\0\0\0"), Err(RevokedError::Extension));
    assert_eq!(section(EXTENSION, b"\0\0\0\x01x\0\0\0\0\0"), Ok(false));
    let inner = |kind: u8, body: &[u8]| {
        let len = u32::try_from(body.len()).expect("short").to_be_bytes();
        section(CERTIFICATES, &[&[0; 8][..], &[kind], &len, body].concat())
    };
    let seven = 7_u64.to_be_bytes();
    assert_eq!(inner(SERIAL_LIST, &seven), Ok(true), "of any authority");
    assert_eq!(inner(SERIAL_LIST, &seven[..7]), Err(Malformed::Truncated.into()));
    assert_eq!(inner(0x24, b""), Err(RevokedError::Section(0x24)));
    assert_eq!(inner(CERTIFICATE_EXTENSION, b"\0\0\0\0\x01\0\0\0\0"), Err(RevokedError::Extension));
    assert_eq!(inner(CERTIFICATE_EXTENSION, b"\0\0\0\0\0\0\0\0\0"), Ok(false));
    let range = [seven, seven, seven].concat();
    assert_eq!(inner(SERIAL_RANGE, &range), Err(Malformed::TrailingData.into()));
    let mut format = list.clone();
    format[11] = 2;
    assert_eq!(check(&format), Err(RevokedError::Format(2)));
    let huge = vec![b'\n'; REVOKED_KEYS_BYTES_MAX as usize + 1];
    assert_eq!(check(&huge), Err(RevokedError::TooLarge));
}
