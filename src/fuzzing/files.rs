//! Text that an administrator or a user wrote: configuration and authorized_keys.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::fixtures::private_key;
use crate::crypto::keys::known_hosts::{HostName, KnownHosts, Verdict};
use crate::crypto::keys::revoked::is_revoked;
use crate::crypto::{KeyKind, PublicKey, SignatureAlgorithm};
use crate::gateway::authorized_keys::{Use, parse_line, search};
use crate::gateway::config::{Config, Effective, Who, parse};
use crate::gateway::residents::Residents;

/// A configuration file. What is accepted and printed is accepted again and means the same.
pub fn sshd_config(data: &[u8]) {
    let config = match parse(data) {
        Ok(config) => config,
        Err(errors) => {
            assert!(!errors.to_string().is_empty(), "an error without words");
            return;
        }
    };
    let mut logins = vec![config.login.clone()];
    let groups = ["staff".to_owned(), "wheel".to_owned()];
    for user in [None, Some("root"), Some("me"), Some("")] {
        for peer in [None, Some(PEER), Some("::1".parse().expect("an address"))] {
            let local = peer.map(|ip| SocketAddr::new(ip, 2222));
            let (account, host) = (user.map(|user| !user.is_empty()), Some("host.example"));
            let who = Who { user, account, groups: &groups, peer, host, local, rdomain: user };
            let _ = config.lacks(&who);
            let login = config.effective(&who);
            if !logins.contains(&login) {
                logins.push(login);
            }
        }
    }
    let _ = config.pubkey_algorithms_offered();
    logins.iter().take(3).for_each(|login| reads_back(&config, login));
}

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

fn reads_back(config: &Config, login: &Effective) {
    let text = config.dump(login);
    let again = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(again.global, config.global, "{text}");
    assert_eq!(&again.login, login, "{text}");
    assert_eq!(again.dump(&again.login), text);
}

/// In 2023.
const NOW: u64 = 1_700_000_000;

/// A file of keys, or one line of it. `KEY` stands for the key that is looked for, so that a
/// fuzzer need not learn base64.
pub fn authorized_keys(data: &[u8]) {
    let key = private_key(KeyKind::Ed25519).public();
    let line = key.to_openssh_line("");
    let text = replace(data, b"KEY", line.as_bytes());
    for line in text.split(|byte| *byte == b'\n').take(64) {
        match parse_line(line) {
            Ok(Some(entry)) => drop(PublicKey::from_blob(&entry.blob)),
            Ok(None) => {}
            Err(error) => assert!(!error.to_string().is_empty(), "an error without words"),
        }
    }
    let wanted = Use {
        user: "ada",
        key,
        certificate: None,
        ca_algorithms: &SignatureAlgorithm::ALL,
        peer: PEER,
        host: None,
        now: NOW,
    };
    let found = search(&text, wanted);
    if let Some((number, options)) = found.found {
        let line = text.split(|byte| *byte == b'\n').nth(number as usize - 1);
        let entry = parse_line(line.expect("a line of the text")).expect("a line that counts");
        let entry = entry.expect("a line with a key");
        assert_eq!((&*entry.blob, entry.options), (key.blob(), options));
    }
}

/// A list of revoked keys, of either form. `KEY` stands for the key that is asked about.
pub fn revoked_keys(data: &[u8]) {
    let key = private_key(KeyKind::Ed25519).public();
    let text = replace(data, b"KEY", key.to_openssh_line("").as_bytes());
    let Ok(found) = is_revoked(&text, key, None) else { return };
    // A line more revokes it, whatever stands before; a list has no lines.
    if !text.starts_with(b"SSHKRL\n\0") {
        let more = [&text[..], b"\n", key.to_openssh_line("").as_bytes()].concat();
        assert_eq!(is_revoked(&more, key, None), Ok(true));
        assert!(!found || text.windows(4).any(|word| word == b"AAAA"));
    }
}

/// A file of accounts; `KEY` stands for a key.
pub fn accounts(data: &[u8]) {
    let key = private_key(KeyKind::Ed25519).public();
    let text = replace(data, b"KEY", key.to_openssh_line("").as_bytes());
    let Ok(text) = std::str::from_utf8(&text) else { return };
    match Residents::parse(text) {
        Err(wrong) => {
            assert!(wrong.line > 0 && wrong.line <= text.lines().count());
            assert!(!wrong.problem.is_empty());
        }
        Ok(residents) => {
            let names = residents.hashes();
            for (name, _) in names.lines().filter_map(|line| line.split_once(':')) {
                let Some(one) = residents.find(name) else { panic!("{name} is lost") };
                assert!(one.files.root.is_absolute());
                assert!(
                    one.tell(std::path::Path::new("f")).lines().all(|line| line.starts_with('#'))
                );
                one.files.rights_in(b"/in/deep");
            }
        }
    }
}

/// A known_hosts file. `KEY` stands for the key that a host shows, as above.
pub fn known_hosts(data: &[u8]) {
    let key = private_key(KeyKind::Ed25519).public();
    let text = replace(data, b"KEY", key.to_openssh_line("").as_bytes());
    let mut known = KnownHosts::default();
    if known.add_file("f", &text).is_err() {
        return;
    }
    for (place, why) in known.skipped() {
        assert!(!why.to_string().is_empty() && place.line > 0);
    }
    for (name, port) in [("gate", 22), ("gate", 2222), ("a.example.org", 22)] {
        let Some(host) = HostName::new(name, port) else { panic!("a plain name") };
        let types = known.types(&host);
        if let Verdict::Known(place) = known.check(&host, key) {
            assert!(types.kinds.contains(&KeyKind::Ed25519));
            let line = text.split(|byte| *byte == b'\n').nth(place.line as usize - 1);
            assert!(line.is_some_and(|line| line.windows(4).any(|w| w == b"AAAA")));
        }
        let other = private_key(KeyKind::EcdsaP256).public();
        let verdict = known.check(&host, other);
        assert!(types.kinds.is_empty() || !matches!(verdict, Verdict::Unknown) || port != 22);
    }
}

fn replace(data: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(data.len());
    let mut rest = data;
    while let Some((first, behind)) = rest.split_first() {
        match rest.strip_prefix(what) {
            // Enough of them to show anything, and not so many that they cost all the time.
            Some(behind) if text.len() < 16 * 1024 => {
                text.extend_from_slice(with);
                rest = behind;
            }
            _ => {
                text.push(*first);
                rest = behind;
            }
        }
    }
    text
}
