//! Is this the host's key? What ssh(1) says under VERIFYING HOST KEYS.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::learning::Learner;
use super::{Options, Person, StrictHostKeys, UpdateHostKeys, Voice};
use crate::base::escape;
use crate::crypto::keys::known_hosts::{self, HostName, KnownHosts, Place, Verdict};
use crate::crypto::{Certificate, KeyAlgorithm, PublicKey};
use crate::limits::KNOWN_HOSTS_BYTES_MAX;

/// Other names of a key that are told, as many as ssh tells.
const OTHER_NAMES_MAX: usize = 8;

/// How far a host that we go on with is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// As somebody else has it: an authority, the system's files, whoever wants no questions.
    Known,
    /// By a line of the user's files for this very name, or by the user's own word: what it says of
    /// its other keys counts.
    ByUser,
    /// It is known by another key, and somebody wants to go on all the same.
    Doubtful,
}

/// How one connection judges its host.
pub struct HostCheck<'a> {
    options: &'a Options,
    person: Person,
    voice: &'a Voice,
    name: HostName,
    known: KnownHosts,
    /// The user's files alone.
    own: KnownHosts,
}

impl<'a> HostCheck<'a> {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, or the host's name cannot stand in one.
    pub fn new(options: &'a Options, person: Person, voice: &'a Voice) -> Result<HostCheck<'a>> {
        let (name, port) = options.known_as();
        let Some(name) = HostName::new(name, port) else {
            bail!("{name:?} cannot be the name of a host");
        };
        let mut known = KnownHosts::default();
        for path in &options.user_known_hosts {
            read_into(&mut known, path)?;
        }
        let own = known.clone();
        for path in &options.global_known_hosts {
            read_into(&mut known, path)?;
        }
        for (place, why) in known.skipped() {
            voice.debug(format_args!("{place}: {why}"));
        }
        Ok(HostCheck { options, person, voice, name, known, own })
    }

    /// The algorithms that the host may sign with, those of keys it is known by first: a host shows
    /// the first of its keys that we name. Certificates are asked for where an authority is trusted for
    /// it, and before all, as ssh does. A list that somebody chose stays as it is.
    pub fn algorithms(&self) -> Vec<KeyAlgorithm> {
        let mut algorithms = self.options.host_key_algorithms.clone();
        if self.options.host_keys_chosen {
            return algorithms;
        }
        let types = self.known.types(&self.name);
        algorithms.retain(|algorithm| types.certificates || !algorithm.certified);
        let known = |one: &KeyAlgorithm| types.kinds.contains(&one.signature.key_kind());
        algorithms.sort_by_key(|algorithm| (!algorithm.certified, !known(algorithm)));
        algorithms
    }

    /// Whether to go on with a host that shows this key. Asks, notes and warns as the settings want
    /// it.
    ///
    /// # Errors
    /// The host is not to be trusted: why, for the user.
    pub fn judge(&self, key: &PublicKey, certificate: Option<&Certificate>) -> Result<Trusted> {
        let (kind, fingerprint) = (key.kind().family(), key.fingerprint());
        self.voice.debug(format_args!("Server host key: {} {fingerprint}", key.type_name()));
        if self.options.no_localhost && is_here(&self.options.host_name) {
            return Ok(Trusted::Known);
        }
        let algorithms = &self.options.ca_algorithms;
        let verdict = match certificate {
            Some(shown) => self.known.check_certificate(&self.name, shown, algorithms, now()),
            None => self.known.check(&self.name, key),
        };
        match verdict {
            Verdict::Known(place) => {
                self.voice.debug(format_args!(
                    "Host '{}' is known and matches the {kind} host key (found in {place}).",
                    self.name
                ));
                let by_user = certificate.is_none() && self.own.has(&self.name, key);
                Ok(if by_user { Trusted::ByUser } else { Trusted::Known })
            }
            Verdict::ByCertificate { place, .. } => {
                self.voice.debug(format_args!(
                    "Host '{}' is known and matches the {kind} host certificate (found in {place}).",
                    self.name
                ));
                Ok(Trusted::Known)
            }
            Verdict::Unknown => self.meet(key),
            Verdict::Changed { place, .. } => self.changed(key, &place),
            Verdict::Revoked(place) => {
                self.warn("WARNING: REVOKED HOST KEY DETECTED!");
                bail!(
                    "The {kind} host key for {} is marked as revoked in {place}.\n\
                     This could mean that a stolen key is being used to impersonate this host.\n\
                     Host key verification failed.",
                    self.name
                )
            }
            Verdict::Unreadable { place, why } => bail!(
                "{place} names {} and cannot be read: {why}\n\
                 Mend or remove that line.\nHost key verification failed.",
                self.name
            ),
            Verdict::BadCertificate { place, why } => bail!(
                "The certificate of {} under {place} is no good: {why}\n\
                 Host key verification failed.",
                self.name
            ),
        }
    }

    /// Who learns of the host's other keys, where they are to be learned.
    pub fn learner(&self) -> Option<Learner> {
        Learner::new(self.options, &self.name, self.person)
    }

    /// A host that nobody knows.
    fn meet(&self, key: &PublicKey) -> Result<Trusted> {
        let kind = key.kind().family();
        let name = &self.name;
        let trusted = match self.options.strict {
            StrictHostKeys::Yes => bail!(
                "No {kind} host key is known for {name} and you have requested strict checking.\n\
                 Host key verification failed."
            ),
            StrictHostKeys::AcceptNew | StrictHostKeys::No => Trusted::Known,
            StrictHostKeys::Ask => {
                self.ask(key)?;
                Trusted::ByUser
            }
        };
        self.note(key);
        Ok(trusted)
    }

    /// The same machine may have another name, and somebody else's key may have been taken along.
    fn other_names(&self, key: &PublicKey) -> String {
        let all: Vec<String> = self.known.elsewhere(&self.name, key).collect();
        if all.is_empty() {
            return "This key is not known by any other names.".to_owned();
        }
        let mut text = "This host key is known by the following other names/addresses:".to_owned();
        for one in all.iter().take(OTHER_NAMES_MAX) {
            text.push_str(&format!("\n    {}", escape(one.as_bytes())));
        }
        match all.len().saturating_sub(OTHER_NAMES_MAX) {
            0 => text,
            more => format!("{text}\n    ({more} additional names omitted)"),
        }
    }

    fn ask(&self, key: &PublicKey) -> Result<()> {
        let (kind, fingerprint) = (key.kind().family(), key.fingerprint());
        let name = &self.name;
        let others = self.other_names(key);
        let mut question = format!(
            "The authenticity of host '{name}' can't be established.\n\
             {kind} key fingerprint is {fingerprint}.\n\
             {others}\n\
             Are you sure you want to continue connecting (yes/no/[fingerprint])? "
        );
        loop {
            let answer = match self.person.ask(&question) {
                Ok(answer) => answer,
                Err(why) => bail!(
                    "{name} is not known, and nobody can be asked about its {kind} key \
                     {fingerprint}: {why}.\nHost key verification failed."
                ),
            };
            match answer.as_str() {
                answer if answer.eq_ignore_ascii_case("yes") || answer == fingerprint => {
                    return Ok(());
                }
                answer if answer.eq_ignore_ascii_case("no") || answer.is_empty() => {
                    bail!("Host key verification failed.")
                }
                _ => "Please type 'yes', 'no' or the fingerprint: ".clone_into(&mut question),
            }
        }
    }

    fn changed(&self, key: &PublicKey, place: &Place) -> Result<Trusted> {
        let (kind, fingerprint) = (key.kind().family(), key.fingerprint());
        self.warn("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!");
        self.voice.error(format_args!(
            "IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\n\
             Someone could be eavesdropping on you right now (man-in-the-middle attack)!\n\
             It is also possible that a host key has just been changed.\n\
             The fingerprint for the {kind} key sent by the remote host is\n{fingerprint}.\n\
             Please contact your system administrator.\n\
             Offending key in {place}\n\
             If the host has a new key, remove that line: ssh-keygen -f '{}' -R '{}'",
            place.file, self.name
        ));
        if self.options.strict == StrictHostKeys::No {
            self.tell_what_is_withheld();
            return Ok(Trusted::Doubtful);
        }
        bail!(
            "Host key for {} has changed and you have requested strict checking.\n\
             Host key verification failed.",
            self.name
        )
    }

    /// What a host with another key than the known one does not get, of what it would.
    fn tell_what_is_withheld(&self) {
        let options = self.options;
        let methods = [
            ("Password", options.password),
            ("Keyboard-interactive", options.keyboard_interactive),
        ];
        for (method, _) in methods.iter().filter(|(_, offered)| *offered) {
            self.voice.error(format_args!(
                "{method} authentication is disabled to avoid man-in-the-middle attacks."
            ));
        }
        if options.update_host_keys != UpdateHostKeys::No {
            let told = "UpdateHostKeys is disabled because the host key is not trusted.";
            self.voice.error(told);
        }
    }

    fn warn(&self, text: &str) {
        let line = "@".repeat(59);
        self.voice.error(format_args!("{line}\n@    {text:^49}    @\n{line}"));
    }

    /// Adds the key to the first of the user's files. That it cannot be written is no reason not to
    /// go on.
    fn note(&self, key: &PublicKey) {
        let Some(path) = self.options.user_known_hosts.first() else { return };
        if path == Path::new("/dev/null") {
            return;
        }
        let line = match self.options.hash_known_hosts {
            true => known_hosts::hashed_line(&self.name, key, "").unwrap_or_default(),
            false => known_hosts::plain_line(&self.name, key, ""),
        };
        let noted = append(path, line.trim_end());
        match noted {
            Ok(()) => self.voice.info(format_args!(
                "Warning: Permanently added '{}' ({}) to the list of known hosts.",
                self.name,
                key.kind().family()
            )),
            Err(why) => self.voice.error(format_args!(
                "Failed to add the host to the list of known hosts ({}): {why}",
                path.display()
            )),
        }
    }
}

/// Seconds since 1970, by which certificates are valid or not.
#[expect(clippy::disallowed_methods, reason = "certificates expire by the calendar")]
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// This machine, by the names that always mean it.
fn is_here(host: &str) -> bool {
    let loopback = |address: std::net::IpAddr| address.to_canonical().is_loopback();
    host == "localhost" || host.parse().is_ok_and(loopback)
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = fs::DirBuilder::new().mode(0o700).create(folder);
        if let Err(why) = made
            && why.kind() != ErrorKind::AlreadyExists
        {
            return Err(why);
        }
    }
    // Somebody may have left the last line without an end.
    let text = fs::read(path).unwrap_or_default();
    let end = if text.last().is_some_and(|last| *last != b'\n') { "\n" } else { "" };
    let line = format!("{end}{line}\n");
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(line.as_bytes())
}

/// A file that is not there says nothing. One that cannot be read may have the key that the host does
/// not show any more, so nothing is believed without it.
fn read_into(known: &mut KnownHosts, path: &Path) -> Result<()> {
    let mut text = Vec::new();
    let file = File::open(path);
    let read = file.and_then(|file| file.take(KNOWN_HOSTS_BYTES_MAX + 1).read_to_end(&mut text));
    match read {
        Ok(_) => known.add_file(&path.to_string_lossy(), &text).map_err(anyhow::Error::from),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why.into()),
    }
    .with_context(|| format!("{}, a file of host keys", path.display()))
}
