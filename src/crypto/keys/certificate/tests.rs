use std::{net::IpAddr, sync::LazyLock, time::Duration};

use super::*;
use crate::{crypto::PrivateKey, limits::CERTIFICATE_OPTIONS_MAX, wire::Writer};

const NOW: u64 = 1_700_000_000;
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

static AUTHORITY: LazyLock<PrivateKey> = LazyLock::new(key);
static KEY: LazyLock<PrivateKey> = LazyLock::new(key);

fn key() -> PrivateKey {
    PrivateKey::generate(KeyKind::Ed25519).expect("generates")
}

const ADA: Certification<'_> = Certification {
    kind: CertificateKind::User,
    serial: 7,
    key_id: "ada's",
    principals: &["ada"],
    valid_after: NOW - 60,
    valid_before: NOW + 60,
    force_command: None,
    source_address: None,
    verify_required: false,
    extensions: Extensions::USUAL,
};

const HOST: Certification<'_> =
    Certification { kind: CertificateKind::Host, principals: &["gate.example.org"], ..ADA };

impl Certification<'_> {
    fn make(&self) -> Certificate {
        self.issue(KEY.public(), &AUTHORITY).expect("issues")
    }
}

fn used<'a>(principals: &'a [&'a str]) -> UserUse<'a> {
    UserUse { principals, peer: PEER, now: NOW }
}

/// The verdict under the authority that issues here, for ada.
fn verdict(certificate: &Certificate) -> Result<VerifiedUser, CertificateRefused> {
    verdict_for(certificate, used(&["ada"]))
}

fn verdict_for(
    certificate: &Certificate,
    used: UserUse<'_>,
) -> Result<VerifiedUser, CertificateRefused> {
    let authorities = [AUTHORITY.public().clone()];
    let trust = Trust { authorities: &authorities, algorithms: &SignatureAlgorithm::ALL };
    certificate.verify_user(trust, used)
}

fn host_verdict(certificate: &Certificate, host: &str) -> Result<VerifiedHost, CertificateRefused> {
    let authorities = [AUTHORITY.public().clone()];
    let trust = Trust { authorities: &authorities, algorithms: &SignatureAlgorithm::ALL };
    certificate.verify_host(trust, host, NOW)
}

/// The fields of an Ed25519 certificate that a test puts together by hand.
struct Raw {
    principals: Vec<u8>,
    critical: Vec<u8>,
    extensions: Vec<u8>,
    authority: Vec<u8>,
}

impl Raw {
    fn new() -> Raw {
        Raw {
            principals: strings(&[b"ada"]),
            critical: Vec::new(),
            extensions: Vec::new(),
            authority: AUTHORITY.public().blob().to_vec(),
        }
    }

    /// Signed by the authority whatever it holds.
    fn blob(&self) -> Vec<u8> {
        let signed = [
            strings(&[KeyKind::Ed25519.certificate_name().as_bytes(), b"nonce"]),
            KEY.public().blob()[4 + 11..].to_vec(),
            7_u64.to_be_bytes().to_vec(),
            1_u32.to_be_bytes().to_vec(),
            strings(&[b"id", &self.principals]),
            0_u64.to_be_bytes().to_vec(),
            u64::MAX.to_be_bytes().to_vec(),
            strings(&[&self.critical, &self.extensions, b"", &self.authority]),
        ]
        .concat();
        let signature = AUTHORITY.sign(SignatureAlgorithm::Ed25519, &signed).expect("signs");
        [signed, strings(&[&signature])].concat()
    }

    fn read(&self) -> Result<Certificate, CertificateError> {
        Certificate::from_blob(&self.blob())
    }
}

fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut space = vec![0; 64 * 1024];
    let mut out = Writer::new(&mut space);
    parts.iter().for_each(|part| out.string(part).expect("room"));
    out.written().to_vec()
}

#[test]
fn every_kind_of_key_certifies_every_kind() {
    let keys = KeyKind::ALL.map(|kind| PrivateKey::generate(kind).expect("generates"));
    for authority in &keys {
        for key in keys.iter().filter(|key| key.kind() != authority.kind()) {
            let certificate = ADA.issue(key.public(), authority).expect("issues");
            assert_eq!(certificate.key(), key.public());
            assert_eq!(certificate.type_name(), key.kind().certificate_name());
            let authorities = [authority.public().clone()];
            let trust = Trust { authorities: &authorities, algorithms: &SignatureAlgorithm::ALL };
            let verified = certificate.verify_user(trust, used(&["ada"])).expect("verifies");
            assert_eq!(verified.certificate(), &certificate);
            let line = certificate.to_openssh_line("x");
            assert_eq!(Certificate::from_text(&line), Ok((certificate, "x")));
        }
    }
}

#[test]
fn a_certificate_for_one_login() {
    let login = LoginCertificate {
        principal: "ada",
        key_id: "ada from 192.0.2.7",
        serial: 1,
        source: Some("::ffff:192.0.2.7".parse().expect("an address")),
        now: NOW,
        lifetime: Duration::from_secs(300),
        extensions: Extensions { pty: true, ..Extensions::default() },
    };
    let certificate = login.issue(KEY.public(), &AUTHORITY).expect("issues");
    assert_eq!((certificate.valid_after(), certificate.valid_before()), (NOW - 60, NOW + 300));
    let verified = verdict(&certificate).expect("verifies");
    assert_eq!(verified.extensions(), login.extensions);
    assert_eq!((verified.force_command(), verified.verify_required()), (None, false));
    let elsewhere = UserUse { peer: [192, 0, 2, 8].into(), ..used(&["ada"]) };
    let refused = CertificateRefused::SourceAddress(elsewhere.peer);
    assert_eq!(verdict_for(&certificate, elsewhere).err(), Some(refused));
    let another = login.issue(KEY.public(), &AUTHORITY).expect("issues");
    assert_ne!(certificate, another, "a nonce makes each another");
}

/// SECURITY case 71: a name is compared as a whole and as it is.
#[test]
fn case_71_principals_are_plain_names() {
    let none = Raw { principals: Vec::new(), ..Raw::new() }.read().expect("reads");
    assert_eq!(verdict(&none).err(), Some(CertificateRefused::NoPrincipals));
    assert_eq!(
        Certification { principals: &[], ..ADA }.issue(KEY.public(), &AUTHORITY).err(),
        Some(CertificateError::NoPrincipals)
    );
    for (names, wanted, fits) in [
        (&["ada"][..], "ada", true),
        (&["bob", "ada"], "ada", true),
        (&["ada,root"], "root", false),
        (&["ada,root"], "ada,root", false),
        (&["*"], "root", false),
        (&["*"], "*", false),
        (&["a?a"], "ada", false),
        (&[""], "", false),
        (&["ada"], "", false),
        (&["Ada"], "ada", false),
        (&["ada "], "ada", false),
        (&["ada\0"], "ada", false),
    ] {
        let certificate = Certification { principals: names, ..ADA }.make();
        let verdict = verdict_for(&certificate, used(&[wanted]));
        assert_eq!(verdict.is_ok(), fits, "{names:?} for {wanted:?}");
        assert!(fits || verdict.err() == Some(CertificateRefused::Principal));
    }
    let certificate = ADA.make();
    assert!(verdict_for(&certificate, used(&["bob", "ada"])).is_ok(), "any of them");
    assert_eq!(verdict_for(&certificate, used(&[])).err(), Some(CertificateRefused::Principal));

    let hosts = Certification { principals: &["*.example.org", "a,b"], ..HOST }.make();
    for (host, fits) in
        [("gate.example.org", true), ("example.org", false), ("a", false), ("", false)]
    {
        assert_eq!(host_verdict(&hosts, host).is_ok(), fits, "{host:?}");
    }
}

/// SECURITY case 72: times, kinds and authorities.
#[test]
fn case_72_validity_has_two_edges() {
    let at = |now| verdict_for(&ADA.make(), UserUse { now, ..used(&["ada"]) }).err();
    let (begins, ended) = (NOW - 60, NOW + 60);
    let (early, late) = (begins - 1, ended);
    assert_eq!(at(early), Some(CertificateRefused::NotYet { begins, now: early }));
    assert_eq!((at(begins), at(ended - 1)), (None, None));
    assert_eq!(at(late), Some(CertificateRefused::Expired { ended, now: late }));
    let text = at(late).map(|why| why.to_string());
    let expected = "expired: it ended at 2023-11-14T22:14:20Z, and it is 2023-11-14T22:14:20Z";
    assert_eq!(text.as_deref(), Some(expected));

    for (valid_after, valid_before, now, valid) in [
        (0, 0, 0, false),
        (0, 0, NOW, false),
        (0, 1, 0, true),
        (0, u64::MAX, u64::MAX, true),
        (u64::MAX, u64::MAX, NOW, false),
        (NOW + 60, NOW - 60, NOW, false),
    ] {
        let certificate = Certification { valid_after, valid_before, ..ADA }.make();
        let verdict = verdict_for(&certificate, UserUse { now, ..used(&["ada"]) });
        assert_eq!(verdict.is_ok(), valid, "{valid_after} {valid_before} at {now}");
    }
    let login = LoginCertificate {
        principal: "ada",
        key_id: "",
        serial: 0,
        source: None,
        now: u64::MAX - 1,
        lifetime: Duration::MAX,
        extensions: Extensions::default(),
    };
    assert!(login.issue(KEY.public(), &AUTHORITY).is_ok(), "no sum overflows");
}

/// SECURITY case 72.
#[test]
fn case_72_kinds_and_authorities_are_not_confused() {
    let kind = CertificateRefused::Kind;
    assert_eq!(verdict(&HOST.make()).err(), Some(kind(CertificateKind::Host)));
    let user = Certification { principals: &["gate.example.org"], ..ADA }.make();
    let host = host_verdict(&user, "gate.example.org");
    assert_eq!(host.err(), Some(kind(CertificateKind::User)));
    assert!(host_verdict(&HOST.make(), "gate.example.org").is_ok());

    let stranger = key();
    let foreign = ADA.issue(KEY.public(), &stranger).expect("issues");
    let untrusted = CertificateRefused::Authority(stranger.public().fingerprint());
    assert_eq!(verdict(&foreign).err(), Some(untrusted));
    let own = ADA.issue(KEY.public(), &KEY).expect("issues");
    let untrusted = CertificateRefused::Authority(KEY.public().fingerprint());
    assert_eq!(verdict(&own).err(), Some(untrusted), "nobody vouches for himself");
    let authoritys = ADA.issue(AUTHORITY.public(), &AUTHORITY).expect("issues");
    assert_eq!(verdict(&authoritys).err(), Some(CertificateRefused::SelfSigned));

    // A certificate is no authority, and no plain key.
    let middle = ADA.make();
    let nested = Raw { authority: middle.blob().to_vec(), ..Raw::new() }.read();
    let nested_key = KeyError::UnsupportedType(KeyKind::Ed25519.certificate_name().into());
    assert_eq!(nested.err(), Some(CertificateError::Authority(nested_key)));
    assert!(PublicKey::from_blob(middle.blob()).is_err());
    assert!(Certificate::from_blob(KEY.public().blob()).is_err());
    // Signed by a key that was only certified.
    let by_certified = ADA.issue(stranger.public(), &KEY).expect("issues");
    let untrusted = CertificateRefused::Authority(KEY.public().fingerprint());
    assert_eq!(verdict(&by_certified).err(), Some(untrusted));
}

/// SECURITY case 72: a signature by an algorithm that is switched off, or is none.
#[test]
fn case_72_signature_algorithms_are_restricted() {
    let authority = PrivateKey::generate(KeyKind::Rsa).expect("generates");
    let certificate = ADA.issue(KEY.public(), &authority).expect("issues");
    assert_eq!(certificate.signed_with(), SignatureAlgorithm::RsaSha512);
    let authorities = [authority.public().clone()];
    let under = |algorithms: &[SignatureAlgorithm]| {
        let trust = Trust { authorities: &authorities, algorithms };
        certificate.verify_user(trust, used(&["ada"])).err()
    };
    assert_eq!(under(&[SignatureAlgorithm::RsaSha512]), None);
    let refused = CertificateRefused::Algorithm(SignatureAlgorithm::RsaSha512);
    assert_eq!(under(&[SignatureAlgorithm::RsaSha256, SignatureAlgorithm::Ed25519]), Some(refused));
    let mut sha1 = certificate.blob().to_vec();
    let at = certificate.contents.signature_at;
    sha1.truncate(at);
    sha1.extend(strings(&[&strings(&[b"ssh-rsa", &[0; 384]])]));
    let refused = Certificate::from_blob(&sha1).err();
    assert_eq!(refused, Some(CertificateError::SignedWith("ssh-rsa".into())));
}

/// SECURITY case 73: what is critical and not understood refuses.
#[test]
fn case_73_critical_options_bite() {
    let option = |name: &str, data: &[u8]| strings(&[name.as_bytes(), data]);
    let command = |text: &str| option("force-command", &strings(&[text.as_bytes()]));
    let with = |critical: Vec<u8>| verdict(&Raw { critical, ..Raw::new() }.read().expect("reads"));
    assert_eq!(with(command("ls")).expect("verifies").force_command(), Some("ls"));
    assert!(with(option("verify-required", b"")).expect("verifies").verify_required());

    let unknown = with([command("ls"), option("new\x1b-option@example.org", b"")].concat());
    let name = "new\\x1b-option@example.org".to_owned();
    assert_eq!(unknown.err(), Some(CertificateRefused::UnknownOption(name)));
    let twice = with([command("ls"), command("rm")].concat());
    assert_eq!(twice.err(), Some(CertificateRefused::RepeatedOption("force-command")));
    let twice = with([option("verify-required", b""), option("verify-required", b"")].concat());
    assert_eq!(twice.err(), Some(CertificateRefused::RepeatedOption("verify-required")));
    for bad in
        [&b""[..], b"ls", &strings(&[b"ls", b"x"]), &strings(&[b"l\0s"]), &strings(&[b"\xff"])]
    {
        let refused = with(option("force-command", bad)).err();
        assert_eq!(refused, Some(CertificateRefused::OptionValue("force-command")), "{bad:?}");
    }
    let refused = with(option("verify-required", b"x")).err();
    assert_eq!(refused, Some(CertificateRefused::OptionValue("verify-required")));
    // None is meant for hosts, so every one is unknown there.
    let host = Certification { force_command: Some("ls"), ..HOST }.make();
    let refused = CertificateRefused::UnknownOption("force-command".into());
    assert_eq!(host_verdict(&host, "gate.example.org").err(), Some(refused));

    // Extensions only permit: an unknown one is passed over.
    let extensions = [option("new@example.org", b"x"), option("permit-pty", b"")].concat();
    let some = verdict(&Raw { extensions, ..Raw::new() }.read().expect("reads"));
    let expected = Extensions { pty: true, ..Extensions::default() };
    assert_eq!(some.expect("verifies").extensions(), expected);
    let none = verdict(&Raw::new().read().expect("reads")).expect("verifies");
    assert_eq!(none.extensions(), Extensions::default());
}

/// SECURITY case 74: where from, in every way an address can be written.
#[test]
fn case_74_source_addresses_are_networks() {
    for (list, peer, verdict) in [
        ("192.0.2.7", "192.0.2.7", Some(true)),
        ("192.0.2.0/24", "192.0.2.7", Some(true)),
        ("192.0.2.0/24", "::ffff:192.0.2.7", Some(true)),
        ("::ffff:192.0.2.7", "192.0.2.7", Some(true)),
        ("192.0.2.0/24", "::192.0.2.7", Some(false)),
        ("198.51.100.1,2001:db8::/32", "2001:db8::9", Some(true)),
        ("198.51.100.1,2001:db8::/32", "192.0.2.7", Some(false)),
        ("0.0.0.0/0", "2001:db8::9", Some(false)),
        ("0.0.0.0/0", "::ffff:192.0.2.7", Some(true)),
        ("::/0", "192.0.2.7", Some(false)),
        // Present and empty, or no list of networks.
        ("", "192.0.2.7", None),
        (",", "192.0.2.7", None),
        ("192.0.2.7,", "192.0.2.7", None),
        ("192.0.2.7/24", "192.0.2.7", None),
        ("192.0.2.0/33", "192.0.2.7", None),
        ("!192.0.2.8,192.0.2.7", "192.0.2.7", None),
        ("192.0.2.*", "192.0.2.7", None),
        ("192.0.2.7 ", "192.0.2.7", None),
        ("localhost", "127.0.0.1", None),
    ] {
        let certificate = Certification { source_address: Some(list), ..ADA }.make();
        let peer = peer.parse().expect("an address");
        let found = verdict_for(&certificate, UserUse { peer, ..used(&["ada"]) }).err();
        let expected = match verdict {
            Some(true) => None,
            Some(false) => Some(CertificateRefused::SourceAddress(peer)),
            None => Some(CertificateRefused::OptionValue("source-address")),
        };
        assert_eq!(found, expected, "{list:?} from {peer}");
    }
    // Without a string inside, it is no list either.
    let critical = strings(&[b"source-address", b""]);
    let empty = Raw { critical, ..Raw::new() }.read().expect("reads");
    assert_eq!(verdict(&empty).err(), Some(CertificateRefused::OptionValue("source-address")));
}

#[test]
fn every_byte_counts() {
    let certificate = Certification { force_command: Some("ls"), ..ADA }.make();
    for at in 0..certificate.blob().len() {
        let mut blob = certificate.blob().to_vec();
        blob[at] ^= 1;
        let verdict = Certificate::from_blob(&blob).map(|changed| verdict(&changed).is_ok());
        assert!(!matches!(verdict, Ok(true)), "byte {at}");
        assert!(Certificate::from_blob(&blob[..at]).is_err(), "cut to {at}");
    }
    let longer = [certificate.blob(), &[0]].concat();
    let trailing = CertificateError::Malformed(Malformed::TrailingData);
    assert_eq!(Certificate::from_blob(&longer).err(), Some(trailing));
}

#[test]
fn counts_and_sizes_are_bounded() {
    let over = CertificateError::Malformed(Malformed::OverLimit);
    for (count, fits) in
        [(CERTIFICATE_PRINCIPALS_MAX, true), (CERTIFICATE_PRINCIPALS_MAX + 1, false)]
    {
        let principals = strings(&vec![&b"x"[..]; count]);
        let read = Raw { principals, ..Raw::new() }.read();
        assert_eq!(read.is_ok(), fits);
        assert!(fits || read.err() == Some(over.clone()));
        let made = Certification { principals: &vec!["x"; count], ..ADA };
        assert_eq!(made.issue(KEY.public(), &AUTHORITY).is_ok(), fits);
    }
    for (count, fits) in [(CERTIFICATE_OPTIONS_MAX, true), (CERTIFICATE_OPTIONS_MAX + 1, false)] {
        let options = strings(&[b"x", b""]).repeat(count);
        for read in [
            Raw { critical: options.clone(), ..Raw::new() }.read(),
            Raw { extensions: options, ..Raw::new() }.read(),
        ] {
            assert_eq!(read.is_ok(), fits);
        }
    }
    let long = "x".repeat(CERTIFICATE_BYTES_MAX as usize);
    let made = Certification { key_id: &long, ..ADA }.issue(KEY.public(), &AUTHORITY);
    assert_eq!(made.err(), Some(CertificateError::TooLarge));
    let huge = vec![0; CERTIFICATE_BYTES_MAX as usize + 1];
    assert_eq!(Certificate::from_blob(&huge).err(), Some(CertificateError::TooLarge));
    assert!(Certificate::from_text(&format!("x {}", "A".repeat(20_000))).is_err());
}

#[test]
fn lines_say_what_they_hold() {
    let line = ADA.make().to_openssh_line("me");
    let relabelled = line.replacen("ssh-ed25519-", "ssh-rsa-", 1);
    let mismatch = CertificateError::Key(KeyError::TypeMismatch);
    assert_eq!(Certificate::from_text(&relabelled).err(), Some(mismatch));
    for bad in ["", "ssh-ed25519-cert-v01@openssh.com", "x AAAA\ny", "a !!"] {
        assert!(Certificate::from_text(bad).is_err(), "{bad:?}");
    }
    assert!(Certificate::is_type_name("sk-ssh-ed25519-cert-v01@openssh.com"));
    assert!(!Certificate::is_type_name("ssh-ed25519"));
}
