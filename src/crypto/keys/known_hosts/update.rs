//! What a host's own word about its keys (OpenSSH PROTOCOL §2.5) changes in a user's files: ssh's rules
//! under UpdateHostKeys. Whether the host holds its new keys is for others to see to.

use super::{Entry, HostName, KnownHosts, Marker, Names, Place, plain_line};
use crate::crypto::{CryptoError, KeyKind, PublicKey};

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Keys of the host that no line has; to be proved before they are believed.
    pub new: Vec<PublicKey>,
    /// Keys of lines of the host's that it has no more.
    pub old: Vec<PublicKey>,
}

/// Why the files stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoUpdate {
    #[error("no new or deprecated keys from the server")]
    Nothing,
    #[error("{0} has a marker, a pattern or a list of names, and is somebody's to change by hand")]
    Complex(Place),
    #[error("{0} has the same key under another name")]
    OtherName(Place),
}

impl KnownHosts {
    /// Whether a line of this very name and port, without a marker, has the key.
    pub fn has(&self, host: &HostName, key: &PublicKey) -> bool {
        self.line_with(host, Marker::None, key).is_some()
    }

    /// Lines that have the key under other names than this, in their order.
    pub fn elsewhere(&self, host: &HostName, key: &PublicKey) -> impl Iterator<Item = String> {
        let written = host.to_string();
        self.entries.iter().filter_map(move |entry| {
            let other = entry.marker == Marker::None && !entry.names.include(&written);
            let named = match &entry.names {
                Names::Patterns(names) => names,
                Names::Hashed { .. } => "[hashed name]",
            };
            let same = other && entry.key().as_ref() == Some(key);
            same.then(|| format!("{}: {named}", entry.place))
        })
    }

    /// What is to be done when the host says that these are all its keys. Lines with keys of other
    /// kinds than `kinds` are not judged by it: they were not heard of.
    ///
    /// # Errors
    /// Nothing is: why.
    pub fn compare(
        &self,
        host: &HostName,
        keys: &[PublicKey],
        kinds: &[KeyKind],
    ) -> Result<Update, NoUpdate> {
        let written = host.to_string();
        let (mut found, mut old): (Vec<PublicKey>, Vec<PublicKey>) = (Vec::new(), Vec::new());
        let (mut complex, mut other) = (None, None);
        for (entry, key) in self.entries.iter().filter_map(|entry| Some((entry, entry.key()?))) {
            let told = keys.contains(&key);
            match entry.names.include(&written) {
                false if told => other = other.or(Some(&entry.place)),
                false => {}
                true if entry.is_complex() => complex = complex.or(Some(&entry.place)),
                true if told => found.push(key),
                true if kinds.contains(&key.kind()) => old.push(key),
                true => {}
            }
        }
        let new: Vec<_> = keys.iter().filter(|key| !found.contains(key)).cloned().collect();
        if new.is_empty() && old.is_empty() {
            return Err(NoUpdate::Nothing);
        }
        if let Some(place) = complex {
            return Err(NoUpdate::Complex(place.clone()));
        }
        let elsewhere = |entry: &&Entry| {
            let strange = entry.key().is_some_and(|key| old.contains(&key));
            strange && !entry.names.include(&written)
        };
        let other = other.or_else(|| self.entries.iter().find(elsewhere).map(|one| &one.place));
        match other {
            Some(place) => Err(NoUpdate::OtherName(place.clone())),
            None => Ok(Update { new, old }),
        }
    }
}

/// A file's text after an update: lines of the host's that have a key of `keys` stay as they are, those
/// with another one of these kinds go, and so do all in a file that is not to have them (`keys` is
/// empty there). What other lines there are, comments and broken ones too, stays byte for byte.
/// Keys that no line has come behind them. `None`: nothing changes.
///
/// # Errors
/// There is no randomness for a hashed name.
pub fn updated(
    text: &[u8],
    host: &HostName,
    keys: &[PublicKey],
    kinds: &[KeyKind],
    hashed: bool,
) -> Result<Option<Vec<u8>>, CryptoError> {
    let written = host.to_string();
    let (mut out, mut found) = (Vec::with_capacity(text.len()), Vec::new());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let nowhere = Place { file: "".into(), line: 0 };
        let entry = Entry::parse(&nowhere, line.trim_ascii()).ok();
        let own =
            entry.filter(|entry| entry.marker == Marker::None && entry.names.include(&written));
        match own.and_then(|entry| entry.key()) {
            Some(key) if keys.contains(&key) => found.push(key),
            Some(key) if kinds.contains(&key.kind()) => continue,
            _ => {}
        }
        out.extend_from_slice(line);
    }
    for key in keys.iter().filter(|key| !found.contains(key)) {
        if out.last().is_some_and(|last| *last != b'\n') {
            out.push(b'\n');
        }
        let line = match hashed {
            true => super::hashed_line(host, key, "")?,
            false => plain_line(host, key, ""),
        };
        out.extend_from_slice(line.trim_end().as_bytes());
        out.push(b'\n');
    }
    Ok(Some(out).filter(|out| *out != text))
}

impl Entry {
    /// The key, if it can be read and is of a kind that we know.
    fn key(&self) -> Option<PublicKey> {
        PublicKey::from_blob(&self.key.as_ref().ok()?.blob).ok()
    }

    /// More than the name of one host and its address.
    fn is_complex(&self) -> bool {
        let listed = |list: &str| list.contains(['*', '?', '!']) || list.matches(',').count() > 1;
        self.marker != Marker::None || matches!(&self.names, Names::Patterns(list) if listed(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::PrivateKey;
    use crate::crypto::keys::known_hosts::hashed_line;

    const KINDS: [KeyKind; 2] = [KeyKind::Ed25519, KeyKind::EcdsaP256];

    fn key(kind: KeyKind) -> PublicKey {
        PrivateKey::generate(kind).expect("a key").public().clone()
    }

    fn keys() -> [PublicKey; 4] {
        [(); 4].map(|()| key(KeyKind::Ed25519))
    }

    fn host() -> HostName {
        HostName::new("web", 2222).expect("a name")
    }

    fn known(text: &str) -> KnownHosts {
        let mut known = KnownHosts::default();
        known.add_file("f", text.as_bytes()).expect("small");
        known
    }

    fn line(names: &str, key: &PublicKey) -> String {
        format!("{names} {}\n", key.to_openssh_line(""))
    }

    #[test]
    fn new_keys_are_added_and_old_ones_go() {
        let [first, second, third, other] = keys();
        let hashed = hashed_line(&host(), &first, "mine").expect("a line");
        let ecdsa = key(KeyKind::EcdsaP256);
        let text = format!(
            "# hosts\n\n  {hashed}\n{}{}broken line\n{}[web]:2222 ssh-dss AAAA\nno end",
            line("[web]:2222,[192.0.2.1]:2222", &second),
            line("db", &other),
            line("[web]:2222", &ecdsa),
        );
        let told = [first.clone(), third.clone()];
        let update = known(&text).compare(&host(), &told, &KINDS).expect("an update");
        assert_eq!(update.new, std::slice::from_ref(&third));
        assert_eq!(update.old, [second.clone(), ecdsa.clone()]);
        let after = updated(text.as_bytes(), &host(), &told, &KINDS, false).expect("room");
        let after = String::from_utf8(after.expect("a change")).expect("text");
        let expected = format!(
            "# hosts\n\n  {hashed}\n{}broken line\n[web]:2222 ssh-dss AAAA\nno end\n{}",
            line("db", &other),
            line("[web]:2222", &third),
        );
        assert_eq!(after, expected);
        assert_eq!(updated(after.as_bytes(), &host(), &told, &KINDS, true), Ok(None));
        assert_eq!(known(&after).compare(&host(), &told, &KINDS), Err(NoUpdate::Nothing));
        // What was not heard of is not judged.
        let update = known(&text).compare(&host(), &told, &[KeyKind::Ed25519]).expect("an update");
        assert_eq!(update.old, [second]);
        // A file that is not to have them.
        let emptied = updated(after.as_bytes(), &host(), &[], &KINDS, false).expect("room");
        let emptied = String::from_utf8(emptied.expect("a change")).expect("text");
        assert!(!emptied.contains("[web]:2222 ssh-ed") && emptied.contains("db "), "{emptied}");
        // Hashed on request.
        let hashed = updated(b"", &host(), &told, &KINDS, true).expect("room").expect("a change");
        let hashed = String::from_utf8(hashed).expect("text");
        assert!(hashed.lines().all(|line| line.starts_with("|1|")), "{hashed}");
        assert_eq!(known(&hashed).compare(&host(), &told, &KINDS), Err(NoUpdate::Nothing));
    }

    #[test]
    fn what_somebody_wrote_with_care_is_left_alone() {
        let [first, second, third, _] = keys();
        let told = [first.clone(), second.clone()];
        let own = line("[web]:2222", &first);
        let verdict = |more: String| known(&(own.clone() + &more)).compare(&host(), &told, &KINDS);
        assert!(verdict(String::new()).is_ok());
        for names in
            ["[web]:*", "@revoked [web]:2222", "@cert-authority [web]:2222", "a,b,[web]:2222"]
        {
            let complex = verdict(line(names, &third));
            assert!(matches!(complex, Err(NoUpdate::Complex(_))), "{names}: {complex:?}");
        }
        // A key of the host's, or one that it has no more, under another name.
        assert!(matches!(verdict(line("web", &first)), Err(NoUpdate::OtherName(_))));
        let old = line("[web]:2222", &third) + &line("db", &third);
        assert!(matches!(verdict(old), Err(NoUpdate::OtherName(_))));
        assert!(known(&own).has(&host(), &first) && !known(&own).has(&host(), &second));
        let plain = HostName::new("web", 22).expect("a name");
        assert!(!known(&own).has(&plain, &first));
        let others = known(&(own.clone() + &line("db,web", &first) + &line("@revoked x", &first)));
        let others: Vec<String> = others.elsewhere(&host(), &first).collect();
        assert!(others.len() == 1 && others[0].ends_with(":2: db,web"), "{others:?}");
    }
}
