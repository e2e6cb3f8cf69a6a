//! Algorithm lists: `a,b`, `+a`, `-a*`, `^a` (Ciphers, MACs, KexAlgorithms, HostKeyAlgorithms,
//! PubkeyAcceptedAlgorithms).

use super::diagnostic::{Wrong, did_you_mean};
use crate::base::wildcard_match;
use crate::crypto::{CipherKind, KexKind, KeyAlgorithm, MacKind, SignatureAlgorithm};

/// A family of algorithms that can be listed.
pub trait Listed: Copy + PartialEq + 'static {
    /// What one of the family is called in messages.
    const NOUN: &'static str;
    /// Everything this server can do.
    const ALL: &'static [Self];
    /// What it offers unless it is told otherwise, most wanted first: lists that begin with `+`,
    /// `-` or `^` start from here.
    const DEFAULT: &'static [Self] = Self::ALL;
    /// Names that OpenSSH knows and this server does not, and why not.
    const ABSENT: &'static [(&'static str, &'static str)];
    /// sshd reads `*` and `?` in these lists.
    const PATTERNS: bool;

    /// Every spelling; the first is the one we write.
    fn names(self) -> Vec<&'static str>;
}

const CBC: &str = "CBC ciphers are not offered";
const OLD_MAC: &str = "truncated, MD5 and UMAC codes are not offered";
const SHA1_KEX: &str = "key exchange under SHA-1 is never used";
const CERTIFICATE: &str = "authorities sign with plain keys";
const WEBAUTHN: &str = "signatures of browsers are not built yet";
const SHA1: &str = "SHA-1 signatures are never used";
const DSA: &str = "DSA is never used";

impl Listed for CipherKind {
    const NOUN: &'static str = "cipher";
    // Where both sides are indifferent the order matters little: the client's order decides.
    const ALL: &'static [Self] = CipherKind::ALL;
    const ABSENT: &'static [(&'static str, &'static str)] = &[
        ("aes128-cbc", CBC),
        ("aes192-cbc", CBC),
        ("aes256-cbc", CBC),
        ("rijndael-cbc@lysator.liu.se", CBC),
        ("3des-cbc", CBC),
    ];
    const PATTERNS: bool = false;

    fn names(self) -> Vec<&'static str> {
        vec![self.name()]
    }
}

impl Listed for MacKind {
    const NOUN: &'static str = "MAC";
    const ALL: &'static [Self] = MacKind::ALL;
    const DEFAULT: &'static [Self] = MacKind::DEFAULT;
    const ABSENT: &'static [(&'static str, &'static str)] = &[
        ("hmac-sha1-96", OLD_MAC),
        ("hmac-md5", OLD_MAC),
        ("hmac-md5-96", OLD_MAC),
        ("umac-64@openssh.com", OLD_MAC),
        ("umac-128@openssh.com", OLD_MAC),
        ("hmac-sha1-96-etm@openssh.com", OLD_MAC),
        ("hmac-md5-etm@openssh.com", OLD_MAC),
        ("hmac-md5-96-etm@openssh.com", OLD_MAC),
        ("umac-64-etm@openssh.com", OLD_MAC),
        ("umac-128-etm@openssh.com", OLD_MAC),
    ];
    const PATTERNS: bool = false;

    fn names(self) -> Vec<&'static str> {
        vec![self.name()]
    }
}

impl Listed for KexKind {
    const NOUN: &'static str = "key exchange method";
    const ALL: &'static [Self] = KexKind::ALL;
    const DEFAULT: &'static [Self] = KexKind::SERVER_DEFAULT;
    const ABSENT: &'static [(&'static str, &'static str)] = &[
        ("diffie-hellman-group1-sha1", SHA1_KEX),
        ("diffie-hellman-group14-sha1", SHA1_KEX),
        ("diffie-hellman-group-exchange-sha1", SHA1_KEX),
        ("mlkem768nistp256-sha256", "this hybrid is not built yet"),
        ("mlkem1024nistp384-sha384", "this hybrid is not built yet"),
    ];
    const PATTERNS: bool = false;

    fn names(self) -> Vec<&'static str> {
        KexKind::names(self).to_vec()
    }
}

impl Listed for SignatureAlgorithm {
    const NOUN: &'static str = "signature algorithm";
    const ALL: &'static [Self] = &SignatureAlgorithm::EVERY;
    const ABSENT: &'static [(&'static str, &'static str)] = &[
        ("ssh-ed25519-cert-v01@openssh.com", CERTIFICATE),
        ("ecdsa-sha2-nistp256-cert-v01@openssh.com", CERTIFICATE),
        ("ecdsa-sha2-nistp384-cert-v01@openssh.com", CERTIFICATE),
        ("ecdsa-sha2-nistp521-cert-v01@openssh.com", CERTIFICATE),
        ("rsa-sha2-512-cert-v01@openssh.com", CERTIFICATE),
        ("rsa-sha2-256-cert-v01@openssh.com", CERTIFICATE),
        ("sk-ssh-ed25519-cert-v01@openssh.com", CERTIFICATE),
        ("sk-ecdsa-sha2-nistp256-cert-v01@openssh.com", CERTIFICATE),
        ("ssh-rsa-cert-v01@openssh.com", SHA1),
        ("ssh-dss-cert-v01@openssh.com", DSA),
        ("webauthn-sk-ecdsa-sha2-nistp256@openssh.com", WEBAUTHN),
        ("ssh-rsa", SHA1),
        ("ssh-dss", DSA),
    ];
    const PATTERNS: bool = true;

    fn names(self) -> Vec<&'static str> {
        vec![self.name()]
    }
}

impl Listed for KeyAlgorithm {
    const NOUN: &'static str = "signature algorithm";
    const ALL: &'static [Self] = &KeyAlgorithm::ALL;
    const ABSENT: &'static [(&'static str, &'static str)] = &[
        ("ssh-rsa-cert-v01@openssh.com", SHA1),
        ("ssh-dss-cert-v01@openssh.com", DSA),
        ("webauthn-sk-ecdsa-sha2-nistp256@openssh.com", WEBAUTHN),
        ("ssh-rsa", SHA1),
        ("ssh-dss", DSA),
    ];
    const PATTERNS: bool = true;

    fn names(self) -> Vec<&'static str> {
        vec![self.name()]
    }
}

/// Reads a list. What OpenSSH knows and we lack is left out with a word in `warnings`; a name that
/// nobody knows is an error, and so is a list that leaves nothing.
pub fn parse<T: Listed>(text: &str, warnings: &mut Vec<String>) -> Result<Vec<T>, Wrong> {
    parse_onto(text, T::DEFAULT, warnings)
}

/// The same for whoever has another default.
///
/// # Errors
/// As [`parse`].
pub fn parse_onto<T: Listed>(
    text: &str,
    default: &[T],
    warnings: &mut Vec<String>,
) -> Result<Vec<T>, Wrong> {
    let (mode, items) = match text.as_bytes().first() {
        Some(b'+' | b'-' | b'^') => text.split_at(1),
        _ => ("", text),
    };
    let named = items.split(',').filter(|name| !name.is_empty());
    let list = match mode {
        "-" => without(default, named, warnings),
        "+" => union(default, &listed(named, warnings)?),
        "^" => union(&listed(named, warnings)?, default),
        _ => listed(named, warnings)?,
    };
    if list.is_empty() {
        let wrong = Wrong::new(text, format!("no {} is left", T::NOUN));
        return Err(wrong.help(format!("there are {}", names_of(T::ALL))));
    }
    Ok(list)
}

/// The comma-separated names of a list, as it is dumped and shown.
pub fn names_of<T: Listed>(list: &[T]) -> String {
    list.iter().filter_map(|kind| kind.names().first().copied()).collect::<Vec<_>>().join(",")
}

fn listed<'a, T: Listed>(
    names: impl Iterator<Item = &'a str>,
    warnings: &mut Vec<String>,
) -> Result<Vec<T>, Wrong> {
    let mut list = Vec::new();
    for name in names {
        let mut found = matching::<T>(name, T::PATTERNS).peekable();
        if found.peek().is_some() {
            found.for_each(|kind| push_new(&mut list, kind));
            continue;
        }
        match absent::<T>(name, T::PATTERNS) {
            Some(reason) => warnings.push(format!("{name} is left out: {reason}")),
            None => return Err(unknown::<T>(name)),
        }
    }
    Ok(list)
}

fn without<'a, T: Listed>(
    default: &[T],
    patterns: impl Iterator<Item = &'a str>,
    warnings: &mut Vec<String>,
) -> Vec<T> {
    let mut list = default.to_vec();
    for pattern in patterns {
        let known = matching::<T>(pattern, true).next().is_some();
        list.retain(|kind| !matching::<T>(pattern, true).any(|removed| removed == *kind));
        if !known && absent::<T>(pattern, true).is_none() {
            let meant = did_you_mean(pattern, every_name::<T>());
            let meant = meant.map_or(String::new(), |name| format!("; did you mean {name}?"));
            warnings
                .push(format!("-{pattern} removes nothing: no {} is so called{meant}", T::NOUN));
        }
    }
    list
}

fn union<T: Listed>(first: &[T], second: &[T]) -> Vec<T> {
    let mut list = first.to_vec();
    second.iter().for_each(|kind| push_new(&mut list, *kind));
    list
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn matching<T: Listed>(name: &str, patterns: bool) -> impl Iterator<Item = T> {
    T::ALL
        .iter()
        .copied()
        .filter(move |kind| kind.names().into_iter().any(|known| is_named(name, known, patterns)))
}

fn absent<T: Listed>(name: &str, patterns: bool) -> Option<&'static str> {
    let found = T::ABSENT.iter().find(|(known, _)| is_named(name, known, patterns));
    found.map(|(_, reason)| *reason)
}

fn is_named(name: &str, known: &str, patterns: bool) -> bool {
    name == known || (patterns && wildcard_match(name.as_bytes(), known.as_bytes()))
}

fn unknown<T: Listed>(name: &str) -> Wrong {
    let wrong = Wrong::new(name, format!("no {} is called {name:?}", T::NOUN));
    // Nobody is led to what is off for a reason.
    let names = T::DEFAULT.iter().flat_map(|kind| kind.names());
    wrong.help(match did_you_mean(name, names) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("there are {}", names_of(T::ALL)),
    })
}

fn every_name<T: Listed>() -> Vec<&'static str> {
    T::ALL.iter().flat_map(|kind| kind.names()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ciphers(text: &str) -> (Vec<CipherKind>, Vec<String>) {
        let mut warnings = Vec::new();
        (parse(text, &mut warnings).expect("a list"), warnings)
    }

    #[test]
    fn plain_lists_keep_their_order_and_lose_duplicates() {
        let (list, warnings) = ciphers("aes256-ctr,aes128-gcm@openssh.com,aes256-ctr,");
        assert_eq!(list, [CipherKind::Aes256Ctr, CipherKind::Aes128Gcm]);
        assert!(warnings.is_empty());
    }

    #[test]
    fn plus_minus_and_caret_start_from_the_default() {
        assert_eq!(ciphers("+aes128-ctr").0, CipherKind::ALL);
        let (list, _) = ciphers("^aes256-ctr,chacha20-poly1305@openssh.com");
        assert_eq!(list[..2], [CipherKind::Aes256Ctr, CipherKind::Chacha20Poly1305]);
        assert_eq!(list.len(), CipherKind::ALL.len());
        let (list, warnings) = ciphers("-*-ctr,*cbc,aes*gcm*");
        assert_eq!(list, [CipherKind::Chacha20Poly1305]);
        assert!(warnings.is_empty());
    }

    #[test]
    fn what_we_lack_is_left_out_and_told() {
        let (list, warnings) = ciphers("3des-cbc,aes256-ctr");
        assert_eq!(list, [CipherKind::Aes256Ctr]);
        assert_eq!(warnings, ["3des-cbc is left out: CBC ciphers are not offered"]);
        let (_, warnings) = ciphers("-chacha20-poly1305");
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("did you mean chacha20-poly1305@openssh.com?"),
            "{warnings:?}"
        );
    }

    /// Old algorithms are there for who names them and for nobody else.
    #[test]
    fn old_algorithms_come_by_name_alone() {
        let kex = |text| parse::<KexKind>(text, &mut Vec::new()).expect("a list");
        assert_eq!(kex("-ecdh-*"), KexKind::SERVER_DEFAULT);
        assert_eq!(
            kex("+ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521"),
            KexKind::DEFAULT
        );
        let list = kex("+diffie-hellman-group14-sha256");
        assert_eq!(list.split_last(), Some((&KexKind::DhGroup14, KexKind::SERVER_DEFAULT)));
        assert_eq!(kex("diffie-hellman-group-exchange-sha256"), [KexKind::DhGroupExchange]);
        let macs = |text| parse::<MacKind>(text, &mut Vec::new()).expect("a list");
        assert_eq!(macs("-*sha1*"), MacKind::DEFAULT);
        assert_eq!(macs("^hmac-sha1").first(), Some(&MacKind::HmacSha1));
        assert!(parse::<KexKind>("diffie-hellman-group1-sha1", &mut Vec::new()).is_err());
    }

    #[test]
    fn unknown_names_and_empty_lists_are_errors() {
        let wrong = parse::<CipherKind>("aes265-ctr", &mut Vec::new()).expect_err("unknown");
        assert_eq!(wrong.help.as_deref(), Some("did you mean aes256-ctr?"));
        for bad in ["", "3des-cbc", "-*", "aes*", "none", "toy@tidegate.invalid"] {
            assert!(parse::<CipherKind>(bad, &mut Vec::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn signature_lists_take_patterns_and_kex_lists_take_old_names() {
        let list = parse::<SignatureAlgorithm>("rsa-sha2-*,ssh-ed25519*", &mut Vec::new());
        let expected = [
            SignatureAlgorithm::RsaSha512,
            SignatureAlgorithm::RsaSha256,
            SignatureAlgorithm::Ed25519,
        ];
        assert_eq!(list.expect("a list"), expected);
        let list = parse::<KexKind>("curve25519-sha256@libssh.org", &mut Vec::new());
        assert_eq!(list.expect("a list"), [KexKind::Curve25519]);
    }

    #[test]
    fn no_family_lists_a_name_twice_or_both_as_present_and_absent() {
        fn check<T: Listed>() {
            let mut names = every_name::<T>();
            names.extend(T::ABSENT.iter().map(|(name, _)| *name));
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", T::NOUN);
        }
        check::<CipherKind>();
        check::<MacKind>();
        check::<KexKind>();
        check::<SignatureAlgorithm>();
        check::<KeyAlgorithm>();
    }
}
