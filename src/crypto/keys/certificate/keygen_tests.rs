//! Certificates against the system's `ssh-keygen`, in both directions.

use super::*;
use crate::crypto::{PrivateKey, keys::keygen_tests::Keygen};

const NOW: u64 = 1_700_000_000;

const KINDS: [(&str, &str); 5] =
    [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048")];

fn read(keygen: &Keygen, name: &str) -> Certificate {
    let line = std::fs::read_to_string(keygen.path(name)).expect("a certificate");
    let (certificate, comment) = Certificate::from_text(&line).expect("reads");
    assert_eq!(certificate.to_openssh_line(comment), line.trim_end());
    certificate
}

fn used<'a>(principals: &'a [&'a str]) -> UserUse<'a> {
    UserUse { principals, peer: [192, 0, 2, 7].into(), now: NOW }
}

#[test]
fn its_certificates_are_ours() {
    let keygen = Keygen::new();
    for (family, bits) in KINDS {
        keygen.make(&format!("ca-{family}{bits}"), &["-t", family, "-b", bits, "-N", ""]);
        keygen.make(&format!("key-{family}{bits}"), &["-t", family, "-b", bits, "-N", ""]);
    }
    let span = format!("0x{:x}:0x{:x}", NOW - 60, NOW + 60);
    for (at, (family, bits)) in KINDS.iter().enumerate() {
        // Every kind signs once and is certified once.
        let (signer, signer_bits) = KINDS[(at + 1) % KINDS.len()];
        let (ca, key) = (format!("ca-{signer}{signer_bits}"), format!("key-{family}{bits}"));
        let public = format!("{key}.pub");
        let user = [
            "-q",
            "-s",
            &ca,
            "-I",
            "id of it",
            "-n",
            "ada,bob",
            "-z",
            "77",
            "-V",
            &span,
            "-O",
            "force-command=ls -l",
            "-O",
            "source-address=192.0.2.0/24,2001:db8::1",
            "-O",
            "no-x11-forwarding",
            "-O",
            "no-port-forwarding",
            "-O",
            "critical:verify-required",
        ];
        keygen.run(&[&user[..], &[&public]].concat());
        let certificate = read(&keygen, &format!("{key}-cert.pub"));
        let plain = |name: &str| {
            let line = std::fs::read_to_string(keygen.path(name)).expect("a key");
            PublicKey::from_text(&line).expect("reads").0
        };
        assert_eq!(certificate.key(), &plain(&public));
        let authorities = [plain(&format!("{ca}.pub"))];
        assert_eq!(certificate.authority(), &authorities[0]);
        assert_eq!((certificate.kind(), certificate.serial()), (CertificateKind::User, 77));
        assert_eq!(certificate.key_id(), "id of it");
        assert_eq!(certificate.principals().collect::<Vec<_>>(), ["ada", "bob"]);
        assert_eq!((certificate.valid_after(), certificate.valid_before()), (NOW - 60, NOW + 60));

        let trust = Trust { authorities: &authorities, algorithms: &SignatureAlgorithm::ALL };
        let verified = certificate.verify_user(trust, used(&["bob"])).expect("verifies");
        assert_eq!(verified.force_command(), Some("ls -l"));
        assert!(verified.verify_required());
        let expected =
            Extensions { x11_forwarding: false, port_forwarding: false, ..Extensions::USUAL };
        assert_eq!(verified.extensions(), expected);

        let host = ["-q", "-s", &ca, "-I", "h", "-h", "-n", "*.example.org,gate", "-V", &span];
        keygen.run(&[&host[..], &[&public]].concat());
        let certificate = read(&keygen, &format!("{key}-cert.pub"));
        assert_eq!(certificate.kind(), CertificateKind::Host);
        for (name, fits) in [("A.Example.org", true), ("gate", true), ("other", false)] {
            assert_eq!(certificate.verify_host(trust, name, NOW).is_ok(), fits, "{name}");
        }
    }
}

/// `ssh-keygen -L` verifies the signature before it shows anything.
#[test]
fn our_certificates_are_its() {
    let keygen = Keygen::new();
    for (at, kind) in KeyKind::ALL.into_iter().enumerate() {
        let authority = PrivateKey::generate(KeyKind::ALL[(at + 1) % 5]).expect("generates");
        let key = PrivateKey::generate(kind).expect("generates");
        let certification = Certification {
            kind: CertificateKind::User,
            serial: u64::MAX,
            key_id: "for ada's login",
            principals: &["ada", "root"],
            valid_after: NOW,
            valid_before: u64::MAX,
            force_command: Some("true"),
            source_address: Some("192.0.2.7"),
            verify_required: true,
            extensions: Extensions { no_touch_required: true, ..Extensions::USUAL },
        };
        let user = certification.issue(key.public(), &authority).expect("issues");
        keygen.put("user-cert.pub", &user.to_openssh_line("a comment"));
        let shown = keygen.run(&["-L", "-f", "user-cert.pub"]);
        for line in [
            format!("Type: {} user certificate", kind.certificate_name()),
            format!("-CERT {}", key.public().fingerprint()),
            format!(
                "Signing CA: {} {}",
                authority.kind().family(),
                authority.public().fingerprint()
            ),
            "Key ID: \"for ada's login\"".to_owned(),
            format!("Serial: {}", u64::MAX),
            "Valid: after 2023-11-14T".to_owned(),
            "ada\n                root\n".to_owned(),
            "force-command true".to_owned(),
            "source-address 192.0.2.7".to_owned(),
            "verify-required".to_owned(),
            "no-touch-required".to_owned(),
            "permit-user-rc".to_owned(),
        ] {
            assert!(shown.contains(&line), "{line} in {shown}");
        }

        let host = Certification {
            kind: CertificateKind::Host,
            force_command: None,
            source_address: None,
            verify_required: false,
            ..certification
        };
        let host = host.issue(key.public(), &authority).expect("issues");
        keygen.put("host-cert.pub", &host.to_openssh_line(""));
        let shown = keygen.run(&["-L", "-f", "host-cert.pub"]);
        for line in ["host certificate", "Critical Options: (none)", "Extensions: (none)"] {
            assert!(shown.contains(line), "{line} in {shown}");
        }
    }
}
