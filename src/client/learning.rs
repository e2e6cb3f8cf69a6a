//! Host keys that a server tells after the login (UpdateHostKeys): the user's files follow, by ssh's
//! rules. A key is noted once the server has proved that it holds it (SECURITY case 123).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::options::UpdateHostKeys;
use super::{Level, Options, Person, Voice};
use crate::crypto::keys::known_hosts::{HostName, KnownHosts, Update, updated};
use crate::crypto::{KeyKind, PublicKey};
use crate::limits::{KNOWN_HOSTS_BYTES_MAX, KNOWN_HOSTS_TRIES_MAX, QUESTIONS_MAX};

/// What one connection may still learn of its host.
#[derive(Debug)]
pub struct Learner {
    name: HostName,
    files: Vec<PathBuf>,
    /// Of keys that may be shown.
    kinds: Vec<KeyKind>,
    hashed: bool,
    asks: Option<Person>,
    /// All keys of the host, and what they change.
    told: Option<(Vec<PublicKey>, Update)>,
}

impl Learner {
    /// `None`: the settings want none.
    pub fn new(options: &Options, name: &HostName, person: Person) -> Option<Learner> {
        let asks = match options.update_host_keys {
            UpdateHostKeys::No => return None,
            _ if options.user_known_hosts.is_empty() => return None,
            UpdateHostKeys::Ask if options.batch => return None,
            UpdateHostKeys::Ask => Some(person),
            UpdateHostKeys::Yes => None,
        };
        let plain = options.host_key_algorithms.iter().filter(|algorithm| !algorithm.certified);
        let kinds = plain.map(|algorithm| algorithm.signature.key_kind());
        Some(Learner {
            name: name.clone(),
            files: options.user_known_hosts.clone(),
            kinds: kinds.collect(),
            hashed: options.hash_known_hosts,
            asks,
            told: None,
        })
    }

    /// Somebody is asked before anything changes.
    pub const fn asks(&self) -> bool {
        self.asks.is_some()
    }

    pub const fn name(&self) -> &HostName {
        &self.name
    }

    /// The server says which keys it has. Answers those that it has to prove; none: it is done.
    pub fn told(&mut self, blobs: &[Box<[u8]>], voice: &Voice) -> Vec<PublicKey> {
        let keys = match self.usable(blobs) {
            Ok(keys) => keys,
            Err(why) => {
                voice.error(format_args!("The server's host keys are not noted: {why:#}"));
                return Vec::new();
            }
        };
        match self.compare(&keys) {
            Ok(update) => {
                let new = update.new.clone();
                self.told = Some((keys, update));
                if new.is_empty() {
                    self.finish(voice);
                }
                new
            }
            Err(why) => {
                voice.debug(format_args!("UpdateHostKeys: {why:#}"));
                Vec::new()
            }
        }
    }

    /// The keys that the server has to prove.
    pub fn wanted(&self) -> &[PublicKey] {
        self.told.as_ref().map_or(&[], |(_, update)| &update.new)
    }

    /// Whether the server has proved them all.
    pub fn proved(&mut self, holds: bool, voice: &Voice) {
        match holds {
            true => self.finish(voice),
            false => voice.error(
                "The server told of host keys and did not prove that it holds them: none is noted.",
            ),
        }
    }

    fn usable(&self, blobs: &[Box<[u8]>]) -> Result<Vec<PublicKey>> {
        let mut keys = Vec::new();
        for blob in blobs {
            // Certificates and types that we do not know are none of ours.
            let Ok(key) = PublicKey::from_blob(blob) else { continue };
            if keys.contains(&key) {
                bail!("one is told twice");
            }
            if self.kinds.contains(&key.kind()) {
                keys.push(key);
            }
        }
        match keys.is_empty() {
            true => bail!("there is none that we would use"),
            false => Ok(keys),
        }
    }

    fn compare(&self, keys: &[PublicKey]) -> Result<Update> {
        let mut known = KnownHosts::default();
        for path in &self.files {
            let text = read(path).map(|(text, _)| text);
            match text {
                Ok(text) => known.add_file(&path.to_string_lossy(), &text)?,
                Err(why) if why.kind() == ErrorKind::NotFound => {}
                Err(why) => return Err(anyhow!(why).context(path.display().to_string())),
            }
        }
        Ok(known.compare(&self.name, keys, &self.kinds)?)
    }

    /// What is known changes, if nobody minds.
    fn finish(&mut self, voice: &Voice) {
        let Some((keys, update)) = self.told.take() else { return };
        let level = if self.asks.is_some() { Level::Info } else { Level::Verbose };
        if self.asks.is_some() {
            let text = "The server has updated its host keys.\n\
                        These changes were verified by the server's existing trusted key.";
            voice.say(level, text);
        }
        for (what, keys) in
            [("Learned new hostkey", &update.new), ("Deprecating obsolete hostkey", &update.old)]
        {
            for key in keys {
                let (kind, fingerprint) = (key.kind().family(), key.fingerprint());
                voice.say(level, format_args!("{what}: {kind} {fingerprint}"));
            }
        }
        if self.asks.is_some_and(|person| !agreed(person, voice)) {
            return;
        }
        for (number, path) in self.files.iter().enumerate() {
            // The first file has all of them from now on.
            let keys = if number == 0 { keys.as_slice() } else { &[] };
            let changed = self.rewrite(path, keys);
            if let Err(why) = changed.with_context(|| path.display().to_string()) {
                voice.error(format_args!("The host keys of {} are not noted: {why:#}", self.name));
                return;
            }
        }
    }

    /// Whoever reads the file finds it as it was or as it is to be. What it was stays beside it, with
    /// `.old` behind its name.
    fn rewrite(&self, path: &Path, keys: &[PublicKey]) -> Result<()> {
        // A link goes on leading where it led.
        let path = match fs::canonicalize(path) {
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
            path => path?,
        };
        for _ in 0..KNOWN_HOSTS_TRIES_MAX {
            let (text, before) = read(&path)?;
            // Nobody wants /dev/null replaced.
            if !before.is_file() {
                return Ok(());
            }
            let Some(text) = updated(&text, &self.name, keys, &self.kinds, self.hashed)? else {
                return Ok(());
            };
            let beside = |end: &str| {
                let mut name = path.as_os_str().to_owned();
                name.push(end);
                PathBuf::from(name)
            };
            let (new, old) = (beside(&format!(".{}.new", std::process::id())), beside(".old"));
            let written = write_new(&new, &text, before.mode());
            let replaced = written.and_then(|()| {
                if is_other(&before, &path.metadata()?) {
                    return Ok(false);
                }
                match fs::remove_file(&old) {
                    Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
                    _ => fs::hard_link(&path, &old)?,
                }
                fs::rename(&new, &path).map(|()| true)
            });
            match replaced {
                Ok(true) => return Ok(()),
                Ok(false) => drop(fs::remove_file(&new)),
                Err(why) => {
                    let _ = fs::remove_file(&new);
                    return Err(why.into());
                }
            }
        }
        bail!("somebody else changes it all the time")
    }
}

fn agreed(person: Person, voice: &Voice) -> bool {
    for _ in 0..QUESTIONS_MAX {
        match person.ask("Accept updated hostkeys? (yes/no): ") {
            Ok(answer) if answer.eq_ignore_ascii_case("yes") => return true,
            Ok(answer) if !answer.is_empty() && !answer.eq_ignore_ascii_case("no") => {
                voice.info("Please enter \"yes\" or \"no\"");
            }
            _ => return false,
        }
    }
    false
}

fn read(path: &Path) -> io::Result<(Vec<u8>, fs::Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut text = Vec::new();
    file.take(KNOWN_HOSTS_BYTES_MAX + 1).read_to_end(&mut text)?;
    match text.len() as u64 > KNOWN_HOSTS_BYTES_MAX {
        true => Err(io::Error::other("larger than a file of host keys may be")),
        false => Ok((text, metadata)),
    }
}

fn write_new(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    file.write_all(text)?;
    file.sync_all()
}

/// Somebody has written to it or put another in its place.
fn is_other(before: &fs::Metadata, now: &fs::Metadata) -> bool {
    let marks =
        |one: &fs::Metadata| (one.dev(), one.ino(), one.size(), one.mtime(), one.mtime_nsec());
    marks(before) != marks(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::PrivateKey;
    use crate::crypto::keys::known_hosts::plain_line;

    /// SECURITY case 123: what the server does not prove is not noted, and what it has proved comes with
    /// the whole file or not at all.
    #[test]
    fn case_123_keys_that_are_not_proved_leave_the_file_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("known_hosts");
        let mut options = Options::new("web", "ann", None);
        options.update_host_keys = UpdateHostKeys::Yes;
        options.user_known_hosts = vec![path.clone(), folder.path().join("absent")];
        let name = HostName::new("web", 22).expect("a name");
        let [first, second, third] = [(); 3]
            .map(|()| PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone());
        let before = format!("# mine\n{}", plain_line(&name, &first, "first"));
        fs::write(&path, &before).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("permissions");
        let (voice, person) = (Voice::new(Level::Quiet), Person::new(true));
        let blob = |key: &PublicKey| Box::from(key.blob());
        let told = |keys: &[&PublicKey], holds: bool| {
            let mut learner = Learner::new(&options, &name, person).expect("it learns");
            let keys: Vec<Box<[u8]>> = keys.iter().copied().map(blob).collect();
            let wanted = learner.told(&keys, &voice);
            if !wanted.is_empty() {
                learner.proved(holds, &voice);
            }
            (wanted, fs::read_to_string(&path).expect("the file"))
        };
        let (wanted, after) = told(&[&first, &second], false);
        assert_eq!((wanted, &after), (vec![second.clone()], &before));
        for odd in [vec![&second, &second], vec![]] {
            assert_eq!(told(&odd, true), (Vec::new(), before.clone()));
        }
        let (_, after) = told(&[&first, &second], true);
        let noted = format!("{before}\n{}\n", plain_line(&name, &second, "").trim_end());
        assert_eq!(after, noted);
        // Taking one away needs no proof; what was stays beside it, and nothing else does.
        let (wanted, after) = told(&[&second], false);
        assert!(wanted.is_empty() && !after.contains("first") && after.starts_with("# mine\n"));
        let old = folder.path().join("known_hosts.old");
        assert_eq!(fs::read_to_string(old).expect("the old one"), noted);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
        assert_eq!(path.metadata().expect("it").mode() & 0o777, 0o644);
        // One that is a host's elsewhere too is for a person to judge.
        let text = format!("{after}db {}\n", third.to_openssh_line(""));
        fs::write(&path, &text).expect("a file");
        assert_eq!(told(&[&second, &third], true), (Vec::new(), text));
        options.update_host_keys = UpdateHostKeys::No;
        assert!(Learner::new(&options, &name, person).is_none());
        (options.update_host_keys, options.batch) = (UpdateHostKeys::Ask, true);
        assert!(Learner::new(&options, &name, person).is_none());
    }
}
