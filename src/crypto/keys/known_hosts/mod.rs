//! known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): which keys hosts are known by.
//!
//! ```text
//! [@cert-authority|@revoked] names type base64 comment
//! names: host,[host]:port,*.pattern,!not.this   or   |1|base64 salt|base64 HMAC-SHA1 of the name
//! ```
//!
//! Files are bytes here; whoever reads and writes them stands higher. What is doubtful fails: a
//! host whose line cannot be read is not an unknown host, and a key of another type than the known
//! one is a changed key.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac, rand};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Certificate, CertificateRefused, KeyKind, PublicKey, SignatureAlgorithm, Trust, VerifiedHost,
    public,
};
use crate::{
    base::wildcard_match,
    crypto::CryptoError,
    limits::{
        HOST_BYTES_MAX, HOST_KEY_BYTES_MAX, KNOWN_HOSTS_BYTES_MAX, KNOWN_HOSTS_LINE_BYTES_MAX,
        KNOWN_HOSTS_SKIPPED_MAX, NAME_BYTES_MAX,
    },
    wire::Reader,
};

#[cfg(test)]
mod tests;
mod update;

pub use update::{NoUpdate, Update, updated};

/// The port that is not written.
const PORT: u16 = 22;
/// Bytes of salt and hash of a hashed name: both as long as SHA-1's digest.
const HASH_BYTES: usize = 20;

/// The name a host is known by: as the user wrote it, in lower case, and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    name: Box<str>,
    port: u16,
}

impl HostName {
    /// `None` for names that cannot stand in a known_hosts line: empty, too long, with blanks,
    /// control characters or what means something there.
    pub fn new(name: &str, port: u16) -> Option<HostName> {
        let special = |c: char| c.is_control() || c.is_whitespace() || ",*?!|#@[]".contains(c);
        let sound = !name.is_empty() && name.len() <= HOST_BYTES_MAX as usize;
        let name = name.to_ascii_lowercase().into_boxed_str();
        (sound && !name.contains(special)).then_some(HostName { name, port })
    }

    /// The name alone.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn without_port(&self) -> Option<HostName> {
        (self.port != PORT).then(|| HostName { name: self.name.clone(), port: PORT })
    }
}

impl fmt::Display for HostName {
    /// As it is written in the file: `host`, or `[host]:port`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            PORT => out.write_str(&self.name),
            port => write!(out, "[{}]:{port}", self.name),
        }
    }
}

/// A line, for messages: shown as `file:line`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Box<str>,
    /// Counted from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file, self.line)
    }
}

/// What the files say about a host's key.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The key is the host's.
    Known(Place),
    /// The host's certificate is good, under an authority that is trusted for it.
    ByCertificate { place: Place, verified: Box<VerifiedHost> },
    /// Nothing is known about the host.
    Unknown,
    /// The host is known by another key, of this type; the place is the first such line.
    Changed { place: Place, known: Box<str> },
    /// The key, or the authority of the certificate, must not be believed.
    Revoked(Place),
    /// An authority that is trusted for the host did sign, and the certificate is not good; nor is
    /// its key known for itself.
    BadCertificate { place: Place, why: CertificateRefused },
    /// A line names the host and cannot be read, so what is known is not known.
    Unreadable { place: Place, why: LineError },
}

/// Why a line does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("longer than {KNOWN_HOSTS_LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("not UTF-8 before the comment")]
    NotUtf8,
    #[error("there is no marker {0}; there are @cert-authority and @revoked")]
    Marker(Box<str>),
    #[error("names, a key type and a key are expected")]
    Fields,
    #[error("a hashed name is |1|SALT|HASH, and the only one of its line")]
    Hash,
    #[error("a key of SSH protocol 1")]
    Protocol1,
    #[error("the key is no base64 of a public key")]
    Key,
    #[error("the line says {declared} and the key is a {actual}")]
    Type { declared: Box<str>, actual: Box<str> },
}

/// A file larger than [`KNOWN_HOSTS_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("larger than {KNOWN_HOSTS_BYTES_MAX} bytes")]
pub struct TooLarge;

/// The lines of one or more files, in their order.
#[derive(Clone, Debug, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
    skipped: Vec<(Place, LineError)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    None,
    CertAuthority,
    Revoked,
}

#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    marker: Marker,
    names: Names,
    key: Result<Key, LineError>,
}

/// A key as it stands in a line, possibly of a type that is not supported.
#[derive(Clone, Debug)]
struct Key {
    type_name: Box<str>,
    blob: Box<[u8]>,
}

#[derive(Clone, Debug)]
enum Names {
    Patterns(Box<str>),
    Hashed { salt: [u8; HASH_BYTES], hash: [u8; HASH_BYTES] },
}

/// How a host is known, for the order in which its key types are asked for: a type that is known
/// leads to no surprise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownTypes {
    /// An authority is trusted for the host, so certificates come first.
    pub certificates: bool,
    /// In the order of the lines, each once.
    pub kinds: Vec<KeyKind>,
}

impl KnownHosts {
    /// Adds a file's lines. `file` names it in messages. Lines that cannot be read are kept for
    /// [`KnownHosts::skipped`]; those that name their hosts refuse these.
    pub fn add_file(&mut self, file: &str, text: &[u8]) -> Result<(), TooLarge> {
        if text.len() as u64 > KNOWN_HOSTS_BYTES_MAX {
            return Err(TooLarge);
        }
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let number = u32::try_from(index.saturating_add(1)).unwrap_or(u32::MAX);
            let place = Place { file: file.into(), line: number };
            match Entry::parse(&place, line) {
                Ok(entry) => {
                    if let Err(why) = &entry.key {
                        self.skip(place, why.clone());
                    }
                    self.entries.push(entry);
                }
                Err(why) => self.skip(place, why),
            }
        }
        Ok(())
    }

    /// The first lines that could not be read, and why; the rest would only fill the log.
    pub fn skipped(&self) -> &[(Place, LineError)] {
        &self.skipped
    }

    /// What is known about a plain key. A host on another port than 22 that is not known there may
    /// be known by its name alone, as with ssh.
    pub fn check(&self, host: &HostName, key: &PublicKey) -> Verdict {
        let Some(plain) = host.without_port() else { return self.check_at(host, key) };
        match (self.check_at(host, key), self.check_at(&plain, key)) {
            (Verdict::Unknown, known @ (Verdict::Known(_) | Verdict::Revoked(_))) => known,
            (verdict, _) => verdict,
        }
    }

    /// What is known about a host that shows a certificate: an authority that is trusted for it
    /// decides; without one, and when the certificate is no good, its key counts for itself.
    /// `now` is in seconds since 1970, `algorithms` those of CASignatureAlgorithms.
    pub fn check_certificate(
        &self,
        host: &HostName,
        certificate: &Certificate,
        algorithms: &[SignatureAlgorithm],
        now: u64,
    ) -> Verdict {
        let authority = certificate.authority();
        let mut bad = None;
        for name in [Some(host.clone()), host.without_port()].iter().flatten() {
            for key in [certificate.key(), authority] {
                if let Some(place) = self.line_with(name, Marker::Revoked, key) {
                    return Verdict::Revoked(place.clone());
                }
            }
            let Some(place) = self.line_with(name, Marker::CertAuthority, authority) else {
                continue;
            };
            let place = place.clone();
            let trust = Trust { authorities: std::slice::from_ref(authority), algorithms };
            match certificate.verify_host(trust, host.name(), now) {
                Ok(verified) => {
                    return Verdict::ByCertificate { place, verified: Box::new(verified) };
                }
                Err(why) => bad = Some(Verdict::BadCertificate { place, why }),
            }
        }
        match (self.check(host, certificate.key()), bad) {
            (Verdict::Unknown | Verdict::Changed { .. }, Some(bad)) => bad,
            (verdict, _) => verdict,
        }
    }

    /// The types of the keys that a host is known by.
    pub fn types(&self, host: &HostName) -> KnownTypes {
        let mut types = KnownTypes::default();
        let plain = host.without_port();
        let own = self.of(host).chain(plain.iter().flat_map(|plain| self.of(plain)));
        for entry in own {
            let Ok(key) = &entry.key else { continue };
            match (entry.marker, KeyKind::from_name(&key.type_name)) {
                (Marker::CertAuthority, _) => types.certificates = true,
                (Marker::None, Some(kind)) if !types.kinds.contains(&kind) => {
                    types.kinds.push(kind)
                }
                (Marker::None | Marker::Revoked, _) => {}
            }
        }
        types
    }

    fn check_at(&self, host: &HostName, key: &PublicKey) -> Verdict {
        if let Some(place) = self.line_with(host, Marker::Revoked, key) {
            return Verdict::Revoked(place.clone());
        }
        if let Some(place) = self.line_with(host, Marker::None, key) {
            return Verdict::Known(place.clone());
        }
        let mut other = Verdict::Unknown;
        for entry in self.of(host) {
            match (&entry.key, entry.marker, &other) {
                (Err(why), ..) => {
                    return Verdict::Unreadable { place: entry.place.clone(), why: why.clone() };
                }
                (Ok(known), Marker::None, Verdict::Unknown) => {
                    let (place, known) = (entry.place.clone(), known.type_name.clone());
                    other = Verdict::Changed { place, known };
                }
                _ => {}
            }
        }
        other
    }

    fn line_with(&self, host: &HostName, marker: Marker, key: &PublicKey) -> Option<&Place> {
        let has = |entry: &&Entry| {
            entry.marker == marker && entry.key.as_ref().is_ok_and(|own| *own.blob == *key.blob())
        };
        self.of(host).find(has).map(|entry| &entry.place)
    }

    fn of(&self, host: &HostName) -> impl Iterator<Item = &Entry> {
        let written = host.to_string();
        self.entries.iter().filter(move |entry| entry.names.include(&written))
    }

    fn skip(&mut self, place: Place, why: LineError) {
        if self.skipped.len() < KNOWN_HOSTS_SKIPPED_MAX {
            self.skipped.push((place, why));
        }
    }
}

/// The line that makes a key known, without a line end.
pub fn plain_line(host: &HostName, key: &PublicKey, comment: &str) -> String {
    format!("{host} {}", public::line(key.type_name(), key.blob(), comment))
}

/// The same with the name hashed under a random salt (HashKnownHosts), so that the file does not
/// tell which hosts it knows.
pub fn hashed_line(host: &HostName, key: &PublicKey, comment: &str) -> Result<String, CryptoError> {
    let mut salt = [0; HASH_BYTES];
    rand::fill(&mut salt).map_err(|_| CryptoError::Library)?;
    let hash = hash(&salt, &host.to_string());
    let (salt, hash) = (STANDARD.encode(salt), STANDARD.encode(hash));
    let key = public::line(key.type_name(), key.blob(), comment);
    Ok(format!("|1|{salt}|{hash} {key}"))
}

fn hash(salt: &[u8; HASH_BYTES], name: &str) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
    hmac::sign(&key, name.as_bytes())
}

impl Entry {
    /// Fails when not even the hosts are clear.
    fn parse(place: &Place, line: &[u8]) -> Result<Entry, LineError> {
        if line.len() > KNOWN_HOSTS_LINE_BYTES_MAX {
            return Err(LineError::TooLong);
        }
        // A comment may be in any encoding; what stands before it may not.
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|w| !w.is_empty());
        let mut next =
            || words.next().map(|w| std::str::from_utf8(w).map_err(|_| LineError::NotUtf8));
        let mut names = next().ok_or(LineError::Fields)??;
        let marker = match names {
            "@cert-authority" => Marker::CertAuthority,
            "@revoked" => Marker::Revoked,
            other if other.starts_with('@') => return Err(LineError::Marker(other.into())),
            _ => Marker::None,
        };
        if marker != Marker::None {
            names = next().ok_or(LineError::Fields)??;
        }
        let names = Names::parse(names)?;
        let key = match (next(), next()) {
            (Some(Ok(declared)), Some(Ok(base64))) => Key::parse(declared, base64),
            (None, _) | (_, None) => Err(LineError::Fields),
            _ => Err(LineError::NotUtf8),
        };
        if matches!(key, Err(LineError::Protocol1)) {
            return Err(LineError::Protocol1);
        }
        Ok(Entry { place: place.clone(), marker, names, key })
    }
}

impl Key {
    fn parse(declared: &str, base64: &str) -> Result<Key, LineError> {
        if declared.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(LineError::Protocol1);
        }
        let blob = STANDARD.decode(base64).map_err(|_| LineError::Key)?;
        let actual = Reader::new(&blob).utf8(NAME_BYTES_MAX).map_err(|_| LineError::Key)?;
        if blob.len() > HOST_KEY_BYTES_MAX as usize {
            return Err(LineError::Key);
        }
        if actual != declared {
            return Err(LineError::Type { declared: declared.into(), actual: actual.into() });
        }
        Ok(Key { type_name: declared.into(), blob: blob.into() })
    }
}

impl Names {
    fn parse(text: &str) -> Result<Names, LineError> {
        let Some(hashed) = text.strip_prefix('|') else {
            return Ok(Names::Patterns(text.to_ascii_lowercase().into()));
        };
        let read = || {
            let (salt, hash) = hashed.strip_prefix("1|")?.split_once('|')?;
            let bytes = |text| STANDARD.decode(text).ok()?.try_into().ok();
            Some(Names::Hashed { salt: bytes(salt)?, hash: bytes(hash)? })
        };
        read().ok_or(LineError::Hash)
    }

    /// A negated pattern that matches outweighs every other one.
    fn include(&self, written: &str) -> bool {
        match self {
            Names::Hashed { salt, hash: wanted } => {
                verify_slices_are_equal(hash(salt, written).as_ref(), wanted).is_ok()
            }
            Names::Patterns(list) => {
                let mut found = false;
                for item in list.split(',') {
                    let negated = item.strip_prefix('!');
                    let pattern = negated.unwrap_or(item);
                    if wildcard_match(pattern.as_bytes(), written.as_bytes()) {
                        if negated.is_some() {
                            return false;
                        }
                        found = true;
                    }
                }
                found
            }
        }
    }
}
