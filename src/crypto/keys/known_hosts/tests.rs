use super::*;
use crate::crypto::{
    PrivateKey,
    keys::{CertificateKind, Certification, Extensions, keygen_tests::Keygen},
};

const NOW: u64 = 1_700_000_000;

fn private() -> PrivateKey {
    PrivateKey::generate(KeyKind::Ed25519).expect("generates")
}

fn key() -> PublicKey {
    private().public().clone()
}

fn line(names: &str, key: &PublicKey) -> String {
    format!("{names} {}\n", key.to_openssh_line("a comment"))
}

fn read(text: impl AsRef<[u8]>) -> KnownHosts {
    let mut known = KnownHosts::default();
    known.add_file("known_hosts", text.as_ref()).expect("not too large");
    known
}

fn host(name: &str, port: u16) -> HostName {
    HostName::new(name, port).expect("a name")
}

/// The verdict in short: a letter and the line.
fn short(verdict: Verdict) -> (char, u32) {
    match verdict {
        Verdict::Known(place) => ('k', place.line),
        Verdict::ByCertificate { place, .. } => ('c', place.line),
        Verdict::Unknown => ('u', 0),
        Verdict::Changed { place, .. } => ('x', place.line),
        Verdict::Revoked(place) => ('r', place.line),
        Verdict::BadCertificate { place, .. } => ('b', place.line),
        Verdict::Unreadable { place, .. } => ('?', place.line),
    }
}

fn check(text: impl AsRef<[u8]>, name: &str, port: u16, key: &PublicKey) -> (char, u32) {
    short(read(text).check(&host(name, port), key))
}

#[test]
fn names_patterns_ports_and_negation() {
    let (key, other) = (key(), key());
    let unrelated = line("elsewhere", &other);
    for (names, name, port, known) in [
        ("gate", "gate", 22, true),
        ("gate", "GATE", 22, true),
        ("Gate", "gate", 22, true),
        ("gate", "gate2", 22, false),
        ("a,gate,b", "gate", 22, true),
        ("*.example.org", "gate.example.org", 22, true),
        ("*.example.org", "example.org", 22, false),
        ("g?te", "gate", 22, true),
        ("*.example.org,!gate.example.org", "gate.example.org", 22, false),
        ("!gate.example.org,*.example.org", "door.example.org", 22, true),
        ("[gate]:2222", "gate", 2222, true),
        ("[gate]:2222", "gate", 22, false),
        ("[gate]:2222", "gate", 2223, false),
        ("[*.example.org]:2222", "gate.example.org", 2222, true),
        // As with ssh, a key that is known by the name alone will do on any port.
        ("gate", "gate", 2222, true),
        ("192.0.2.7,2001:db8::7", "2001:db8::7", 22, true),
        ("!gate", "gate", 22, false),
    ] {
        let text = format!("# hosts\n\n{unrelated}{}", line(names, &key));
        let expected = if known { ('k', 4) } else { ('u', 0) };
        assert_eq!(check(&text, name, port, &key), expected, "{names} for {name}:{port}");
        let changed = if known && port == 2222 && !names.starts_with('[') { 'u' } else { 'x' };
        let expected = if known && changed == 'x' { ('x', 4) } else { ('u', 0) };
        assert_eq!(check(&text, name, port, &other), expected, "{names} for {name}:{port}");
    }
}

#[test]
fn names_that_mean_something_else_are_none() {
    let long = "a".repeat(HOST_BYTES_MAX as usize + 1);
    for bad in ["", "a b", "a,b", "*", "a?", "!a", "|1|a|b", "#a", "@revoked", "[a]", "a\n", &long]
    {
        assert_eq!(HostName::new(bad, 22), None, "{bad:?}");
    }
    assert_eq!(host("Gate", 22).to_string(), "gate");
    assert_eq!(host("2001:db8::7", 2222).to_string(), "[2001:db8::7]:2222");
}

#[test]
fn several_keys_and_files() {
    let (first, second, third) = (key(), key(), key());
    let mut known = read(format!("{}{}", line("gate", &first), line("gate", &second)));
    known.add_file("/etc/known", line("gate", &third).as_bytes()).expect("not too large");
    let gate = host("gate", 22);
    assert_eq!(short(known.check(&gate, &second)), ('k', 2));
    let Verdict::Known(place) = known.check(&gate, &third) else { panic!("not known") };
    assert_eq!(place.to_string(), "/etc/known:1");
    let Verdict::Changed { place, known } = known.check(&gate, &key()) else {
        panic!("not changed")
    };
    assert_eq!((place.to_string().as_str(), &*known), ("known_hosts:1", "ssh-ed25519"));
    let huge = vec![b'\n'; KNOWN_HOSTS_BYTES_MAX as usize + 1];
    assert_eq!(KnownHosts::default().add_file("x", &huge), Err(TooLarge));
}

/// SECURITY case 103: whoever controls the way to a host cannot choose a type that is not known.
#[test]
fn case_103_another_type_is_a_changed_key() {
    let ed25519 = key();
    let ecdsa = PrivateKey::generate(KeyKind::EcdsaP256).expect("generates");
    assert_eq!(check(line("gate", &ed25519), "gate", 22, ecdsa.public()), ('x', 1));
    // Also where the known type is one that is not supported.
    let old = "gate ssh-dss AAAAB3NzaC1kc3MAAAAB\n";
    let Verdict::Changed { known, .. } = read(old).check(&host("gate", 22), &ed25519) else {
        panic!("not changed")
    };
    assert_eq!(&*known, "ssh-dss");
    assert_eq!(read(old).types(&host("gate", 22)), KnownTypes::default());
    let text = format!("{old}{}{}", line("gate", &ed25519), line("*", ecdsa.public()));
    let types = read(&text).types(&host("gate", 22));
    let kinds = vec![KeyKind::Ed25519, KeyKind::EcdsaP256];
    assert_eq!(types, KnownTypes { certificates: false, kinds });
}

/// SECURITY case 103.
#[test]
fn case_103_what_cannot_be_read_is_not_unknown() {
    let key = key();
    let good = key.to_openssh_line("");
    let base64 = good.split(' ').nth(1).expect("base64");
    for (rest, why) in [
        ("".to_owned(), LineError::Fields),
        (" ssh-ed25519".to_owned(), LineError::Fields),
        (format!(" ssh-ed25519 {}", &base64[..18]), LineError::Key),
        (format!(" ssh-ed25519 !{base64}"), LineError::Key),
        (
            format!(" ssh-rsa {base64}"),
            LineError::Type { declared: "ssh-rsa".into(), actual: "ssh-ed25519".into() },
        ),
    ] {
        let known = read(format!("gate{rest}\n"));
        let verdict = known.check(&host("gate", 22), &key);
        assert!(matches!(&verdict, Verdict::Unreadable { why: found, .. } if *found == why));
        assert_eq!(known.skipped()[0].1, why);
        assert_eq!(short(known.check(&host("door", 22), &key)), ('u', 0));
        // A line that can be read and has the key is enough.
        assert_eq!(check(format!("gate{rest}\ngate {good}"), "gate", 22, &key), ('k', 2));
    }
    let long = format!("{} {good}\n{good}", "x".repeat(KNOWN_HOSTS_LINE_BYTES_MAX));
    for (text, why) in [
        (format!("@trusted gate {good}"), LineError::Marker("@trusted".into())),
        ("@revoked".to_owned(), LineError::Fields),
        ("gate 2048 35 1234567".to_owned(), LineError::Protocol1),
        (format!("|1|AAAA|AAAA {good}"), LineError::Hash),
        (format!("|2|x|y {good}"), LineError::Hash),
        (long, LineError::TooLong),
    ] {
        let known = read(&text);
        assert_eq!(known.skipped()[0].1, why, "{text:.60}");
        assert_eq!(short(known.check(&host("gate", 22), &key)), ('u', 0));
    }
    let latin1 = [b"gate ", good.as_bytes(), b" Andr\xe9\n"].concat();
    assert_eq!(check(&latin1, "gate", 22, &key), ('k', 1));
    let many = "@x a b c\n".repeat(100);
    assert_eq!(read(many).skipped().len(), KNOWN_HOSTS_SKIPPED_MAX);
}

#[test]
fn revoked_keys_are_never_known() {
    let key = key();
    let text = format!("{}@revoked {}", line("gate", &key), line("*", &key));
    assert_eq!(check(&text, "gate", 22, &key), ('r', 2));
    assert_eq!(check(&text, "door", 2222, &key), ('r', 2));
    // A revoked key alone makes no host known.
    assert_eq!(check(format!("@revoked {}", line("*", &key)), "gate", 22, &self::key()), ('u', 0));
}

#[test]
fn certificates_count_under_their_authority() {
    let (authority, host_key, other) = (private(), private(), private());
    let certification = Certification {
        kind: CertificateKind::Host,
        serial: 1,
        key_id: "gate",
        principals: &["gate"],
        valid_after: 0,
        valid_before: NOW + 1,
        force_command: None,
        source_address: None,
        verify_required: false,
        extensions: Extensions::default(),
    };
    let certificate = certification.issue(host_key.public(), &authority).expect("issues");
    let verdict = |text: &str, name: &str, port, now| {
        let (host, all) = (host(name, port), SignatureAlgorithm::ALL);
        short(read(text).check_certificate(&host, &certificate, &all, now))
    };
    let trusted =
        format!("@cert-authority {}", line("*.example.org,gate,door", authority.public()));
    assert_eq!(verdict(&trusted, "gate", 22, NOW), ('c', 1));
    assert_eq!(verdict(&trusted, "gate", 2222, NOW), ('c', 1), "by the name alone");
    assert_eq!(verdict(&trusted, "gate", 22, NOW + 1), ('b', 1), "expired");
    assert_eq!(verdict(&trusted, "door", 22, NOW), ('b', 1), "for another host");
    assert_eq!(verdict(&trusted, "elsewhere", 22, NOW), ('u', 0));
    assert!(read(&trusted).types(&host("gate", 22)).certificates);

    // The key counts for itself where the certificate does not.
    let plain = line("gate,door", host_key.public());
    assert_eq!(verdict(&plain, "gate", 22, NOW), ('k', 1));
    assert_eq!(verdict(&format!("{trusted}{plain}"), "gate", 22, NOW + 1), ('k', 2));
    assert_eq!(verdict(&line("gate", other.public()), "gate", 22, NOW), ('x', 1));
    let both = format!("{trusted}{}", line("gate", other.public()));
    assert_eq!(verdict(&both, "gate", 22, NOW), ('c', 1));
    // An authority's line is no key of a host, and a host's line no authority.
    assert_eq!(check(&trusted, "gate", 22, authority.public()), ('u', 0));
    assert_eq!(verdict(&line("gate", authority.public()), "gate", 22, NOW), ('x', 1));

    for revoked in [authority.public(), host_key.public()] {
        let text = format!("{trusted}{plain}@revoked {}", line("*", revoked));
        assert_eq!(verdict(&text, "gate", 22, NOW), ('r', 3));
    }
}

#[test]
fn lines_of_ours_are_known_to_keygen_and_its_to_us() {
    let keygen = Keygen::new();
    let (key, other) = (key(), key());
    let (gate, door) = (host("gate", 22), host("door.example.org", 2222));
    let hashed = hashed_line(&door, &key, "").expect("a salt");
    let another = hashed_line(&door, &key, "").expect("a salt");
    assert_ne!(hashed, another, "a salt each");
    assert!(!hashed.contains("door"));
    let text = format!("{}\n{hashed}\n", plain_line(&gate, &key, "a\nb"));
    assert_eq!(
        (check(&text, "gate", 22, &key), check(&text, "door.example.org", 2222, &key)),
        (('k', 1), ('k', 2))
    );
    keygen.put("known", &text);
    for (name, number) in [("gate", 1), ("[door.example.org]:2222", 2)] {
        let found = keygen.run(&["-F", name, "-f", "known"]);
        assert!(found.starts_with(&format!("# Host {name} found: line {number}")), "{found}");
    }
    assert!(!keygen.try_run(&["-F", "door.example.org", "-f", "known"]).status.success());
    keygen.run(&["-R", "[door.example.org]:2222", "-f", "known"]);
    let left = std::fs::read_to_string(keygen.path("known")).expect("a file");
    assert_eq!(check(&left, "door.example.org", 2222, &key), ('u', 0));
    assert_eq!(check(&left, "gate", 22, &key), ('k', 1));

    keygen.put("theirs", &format!("{}{}", line("gate,[door]:2222", &key), line("*.x", &other)));
    keygen.run(&["-q", "-H", "-f", "theirs"]);
    let theirs = std::fs::read_to_string(keygen.path("theirs")).expect("a file");
    assert!(theirs.starts_with("|1|"));
    assert_eq!(check(&theirs, "gate", 22, &key).0, 'k');
    assert_eq!(check(&theirs, "door", 2222, &key).0, 'k');
    assert_eq!(check(&theirs, "door", 22, &key).0, 'u');
    assert_eq!(check(&theirs, "a.x", 22, &other).0, 'k', "patterns stay as they are");
}
