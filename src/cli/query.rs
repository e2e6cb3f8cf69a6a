//! `tidegate ssh -Q`: the algorithms there are, a name a line, as ssh(1) lists its own.

use crate::crypto::{CipherKind, KexKind, KeyAlgorithm, KeyKind, MacKind, SignatureAlgorithm};

type Answer = fn() -> Vec<&'static str>;

/// What may be asked for, and what answers it.
const QUERIES: &[(&str, Answer)] = &[
    ("cipher", || CipherKind::ALL.iter().map(|kind| kind.name()).collect()),
    ("cipher-auth", || aead().map(|kind| kind.name()).collect()),
    ("compression", || vec!["none", "zlib@openssh.com"]),
    ("kex", || KexKind::ALL.iter().flat_map(|kind| kind.names()).copied().collect()),
    ("key", || keys().flat_map(|kind| [kind.name(), kind.certificate_name()]).collect()),
    ("key-cert", || keys().map(KeyKind::certificate_name).collect()),
    ("key-plain", || keys().map(KeyKind::name).collect()),
    ("key-sig", || KeyAlgorithm::ALL.iter().map(|one| one.name()).collect()),
    ("mac", || MacKind::ALL.iter().map(|kind| kind.name()).collect()),
    ("protocol-version", || vec!["2"]),
    ("sig", || SignatureAlgorithm::EVERY.iter().map(|one| one.name()).collect()),
];

/// Keywords of the configuration that stand for a query, capitals or not.
const KEYWORDS: &[(&str, &str)] = &[
    ("CASignatureAlgorithms", "sig"),
    ("Ciphers", "cipher"),
    ("HostbasedAcceptedAlgorithms", "key-sig"),
    ("HostbasedKeyTypes", "key-sig"),
    ("HostKeyAlgorithms", "key-sig"),
    ("KexAlgorithms", "kex"),
    ("MACs", "mac"),
    ("PubkeyAcceptedAlgorithms", "key-sig"),
    ("PubkeyAcceptedKeyTypes", "key-sig"),
];

fn aead() -> impl Iterator<Item = CipherKind> {
    CipherKind::ALL.iter().copied().filter(|kind| kind.is_aead())
}

fn keys() -> impl Iterator<Item = KeyKind> {
    KeyKind::ALL.into_iter().chain(KeyKind::SECURITY)
}

/// The lines that answer `-Q what`.
///
/// # Errors
/// Nothing is known by that name: one line that says so.
pub fn answer(what: &str) -> Result<String, String> {
    let keyword = KEYWORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(what));
    let asked = keyword.map_or(what, |(_, query)| query);
    let names = match QUERIES.iter().find(|(name, _)| *name == asked) {
        Some((_, names)) => names(),
        None if what == "help" => QUERIES.iter().map(|(name, _)| *name).collect(),
        None => return Err(format!("Unsupported query \"{what}\"")),
    };
    Ok(names.join("\n") + "\n")
}
