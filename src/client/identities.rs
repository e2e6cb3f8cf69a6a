//! The keys that a user can log in with, and what signs with them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

use super::agent::{Agent, HostProof};
use super::options::AddKeys;
use super::{Options, Person, Voice};
use crate::base::escape;
use crate::connection::LoginMethod;
use crate::crypto::{
    Certificate, KeyAlgorithm, KeyError, PrivateKey, PublicKey, ShownKey, SignatureAlgorithm,
};
use crate::limits::KEY_FILE_BYTES_MAX;

/// A key that may open the server.
#[derive(Clone, Debug)]
pub struct Identity {
    pub key: PublicKey,
    /// It is shown inside this.
    pub certificate: Option<Certificate>,
    holder: Holder,
    /// For the user: the file, or the agent's comment.
    pub name: String,
}

/// Who has the private half.
#[derive(Clone, Debug)]
enum Holder {
    Agent {
        /// Under which it is asked to sign.
        blob: Vec<u8>,
    },
    File(PathBuf),
}

/// Every identity, in the order in which they are tried (ssh_config(5), IdentityFile): those of the
/// agent that a file names, the agent's others, then those of files alone.
pub struct Identities {
    agent: Option<Agent>,
    list: Vec<Identity>,
    /// How often the passphrase of a file is asked for: NumberOfPasswordPrompts.
    tries: u32,
    /// What is done with a key whose file was opened.
    add_keys: Option<AddKeys>,
}

impl Identities {
    /// Looks at the agent and at the files; asks nobody for a passphrase.
    /// The agent is told whom it will sign for: `proof`, and the session's identifier.
    pub fn gather(
        options: &Options,
        proof: Option<(&HostProof, &[u8])>,
        voice: &Voice,
    ) -> Identities {
        let mut agent = options.agent.as_deref().and_then(|path| match Agent::connect(path) {
            Ok(agent) => Some(agent),
            Err(why) => {
                voice.debug(format_args!("{why:#}"));
                None
            }
        });
        if let (Some(agent), Some((proof, session_id))) = (&mut agent, proof) {
            match agent.bind(proof, session_id) {
                Ok(true) => voice.debug("agent bound to the host's key"),
                Ok(false) => voice.debug("the agent does not know session-bind@openssh.com"),
                Err(why) => voice.debug(format_args!("{why:#}")),
            }
        }
        let held = match agent.as_mut().map(Agent::identities) {
            Some(Ok(held)) => held,
            Some(Err(why)) => {
                voice.debug(format_args!("{why:#}"));
                Vec::new()
            }
            None => Vec::new(),
        };
        let held: Vec<Identity> = held.into_iter().filter_map(of_agent).collect();
        let files: Vec<Identity> =
            options.identity_files.iter().filter_map(|path| of_file(path, voice)).collect();
        let named = |identity: &Identity| files.iter().any(|file| file.key == identity.key);
        let (first, others): (Vec<_>, Vec<_>) = held.into_iter().partition(named);
        let mut list = first;
        if !options.identities_only {
            list.extend(others);
        }
        for file in files {
            let is_held = list.iter().any(|one| one.key == file.key && one.certificate.is_none());
            if !is_held {
                list.push(file);
            }
        }
        let certified = certified(options, &list, voice);
        let list = certified.into_iter().chain(list).collect();
        let (tries, add_keys) = (options.password_prompts, options.add_keys);
        Identities { agent, list, tries, add_keys }
    }

    pub fn list(&self) -> &[Identity] {
        &self.list
    }

    /// Gives a key to the agent where that is wanted (AddKeysToAgent).
    fn add(&mut self, key: &PrivateKey, name: &str, (person, voice): (Person, &Voice)) {
        let (Some(how), Some(agent)) = (self.add_keys, &mut self.agent) else { return };
        let comment = if key.comment().is_empty() { name } else { key.comment() };
        if how.ask {
            let shown = escape(comment.as_bytes());
            let answer = person.ask(&format!("Add key {name} ({shown}) to agent? (yes/no) "));
            if !answer.is_ok_and(|answer| answer.eq_ignore_ascii_case("yes")) {
                return;
            }
        }
        match agent.add(key, comment, how) {
            Ok(()) => voice.debug(format_args!("identity added to agent: {name}")),
            Err(why) => voice.error(format_args!("{name} is not added to the agent: {why:#}")),
        }
    }

    /// Signs what a login is proved with. May ask for a passphrase.
    ///
    /// # Errors
    /// The key cannot be had: why, for the user.
    pub fn sign(
        &mut self,
        identity: &Identity,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        (person, voice): (Person, &Voice),
    ) -> Result<Box<[u8]>> {
        match &identity.holder {
            Holder::Agent { blob } => {
                let agent = self.agent.as_mut().context("the agent has gone")?;
                agent.sign(blob, message, algorithm.agent_flags())
            }
            Holder::File(path) => {
                let private = open(path, person, self.tries)?;
                if private.public() != &identity.key {
                    bail!("{} is not the private half of {}.pub", path.display(), path.display());
                }
                let signature = private.sign(algorithm, message)?.into();
                self.add(&private, &path.display().to_string(), (person, voice));
                Ok(signature)
            }
        }
    }
}

/// What signs with one key, for somebody who does so often.
pub enum Signer {
    /// It is here.
    Own(Box<PrivateKey>),
    /// An agent has it, under this name.
    Agent(Agent, Vec<u8>),
}

impl Signer {
    /// An agent is waited for.
    ///
    /// # Errors
    /// The key cannot, or the agent does not.
    pub fn sign(&mut self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Box<[u8]>> {
        match self {
            Signer::Own(key) => Ok(key.sign(algorithm, message)?.into()),
            Signer::Agent(agent, blob) => agent.sign(blob, message, algorithm.agent_flags()),
        }
    }
}

impl Identity {
    /// Opens the private half, or the way to it. May ask for its passphrase.
    ///
    /// # Errors
    /// It cannot be read, or the agent has gone: why, for the user.
    pub fn signer(&self, options: &Options, person: Person) -> Result<Signer> {
        match &self.holder {
            Holder::Agent { blob } => {
                let path = options.agent.as_deref().context("the agent has gone")?;
                Ok(Signer::Agent(Agent::connect(path)?, blob.clone()))
            }
            Holder::File(path) => {
                let key = open(path, person, options.password_prompts)?;
                Ok(Signer::Own(Box::new(key)))
            }
        }
    }

    /// How it is shown to a server. `None`: it could only sign in ways that are not wanted.
    pub fn method(&self, allowed: &[KeyAlgorithm]) -> Option<LoginMethod> {
        let algorithms = SignatureAlgorithm::for_key(self.key.kind());
        let certified = self.certificate.is_some();
        let is_allowed = |one: &SignatureAlgorithm| {
            allowed.contains(&KeyAlgorithm { signature: *one, certified })
        };
        let algorithm = algorithms.iter().copied().find(is_allowed)?;
        Some(match &self.certificate {
            None => LoginMethod::PublicKey { key: Box::new(self.key.clone()), algorithm },
            Some(certificate) => {
                LoginMethod::Certificate { certificate: Box::new(certificate.clone()), algorithm }
            }
        })
    }
}

/// The same keys inside the certificates that files have for them: those named, and those beside the
/// keys' own files.
fn certified(options: &Options, list: &[Identity], voice: &Voice) -> Vec<Identity> {
    let beside = options.identity_files.iter().map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push("-cert.pub");
        PathBuf::from(name)
    });
    let mut found: Vec<Identity> = Vec::new();
    for path in options.certificate_files.iter().cloned().chain(beside) {
        let name = path.display().to_string();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => continue,
            Err(why) => {
                voice.error(format_args!("{name}: {why}"));
                continue;
            }
        };
        let certificate = match Certificate::from_text(text.trim()) {
            Ok((certificate, _)) => certificate,
            Err(why) => {
                voice.error(format_args!("{name}: {why}"));
                continue;
            }
        };
        let own = |one: &&Identity| one.key == *certificate.key() && one.certificate.is_none();
        let known = found.iter().any(|one| one.certificate.as_ref() == Some(&certificate));
        if let Some(identity) = list.iter().find(own).filter(|_| !known) {
            let identity = identity.clone();
            found.push(Identity { certificate: Some(certificate), name, ..identity });
        } else if !known {
            voice.debug(format_args!("{name}: its private key is nowhere"));
        }
    }
    found
}

/// `None` for keys of kinds that we do not know.
fn of_agent((blob, comment): (Vec<u8>, String)) -> Option<Identity> {
    let ShownKey { key, certificate, .. } = ShownKey::of_blob(&blob)?;
    let (key, certificate) = (*key, certificate.map(|one| *one));
    Some(Identity { key, certificate, holder: Holder::Agent { blob }, name: comment })
}

fn of_file(path: &Path, voice: &Voice) -> Option<Identity> {
    let name = path.display().to_string();
    match public_half(path) {
        Ok(Some(key)) => {
            let holder = Holder::File(path.to_owned());
            Some(Identity { key, certificate: None, holder, name })
        }
        Ok(None) => {
            voice.debug(format_args!("no such identity: {name}"));
            None
        }
        Err(why) => {
            voice.error(format_args!("{name}: {why:#}"));
            None
        }
    }
}

/// What the file beside the private one says, or the private one itself. `None`: there is no file.
fn public_half(path: &Path) -> Result<Option<PublicKey>> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    if let Ok(text) = fs::read_to_string(&beside)
        && let Ok((key, _)) = PublicKey::from_text(text.trim())
    {
        return Ok(Some(key));
    }
    let Some(text) = read_private(path)? else { return Ok(None) };
    match PublicKey::from_text(String::from_utf8_lossy(&text).trim()) {
        // The agent has the private half.
        Ok((key, _)) => Ok(Some(key)),
        Err(_) => match PrivateKey::public_of_openssh(&*text) {
            Err(KeyError::PassphraseNeeded) => bail!(
                "its public half is not beside it, and it is encrypted as a whole; \
                 `ssh-keygen -y -f {0} > {0}.pub` puts it there",
                path.display()
            ),
            key => Ok(Some(key?)),
        },
    }
}

/// `None`: there is no such file.
fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    match fs::metadata(path) {
        Ok(about) if about.len() > KEY_FILE_BYTES_MAX => {
            bail!("larger than {KEY_FILE_BYTES_MAX} bytes")
        }
        Ok(_) => Ok(Some(Zeroizing::new(fs::read(path)?))),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why.into()),
    }
}

/// Reads a private key that is the user's alone; asks for its passphrase.
fn open(path: &Path, person: Person, tries: u32) -> Result<PrivateKey> {
    use std::os::unix::fs::MetadataExt;

    let name = path.display();
    let about = fs::metadata(path).with_context(|| name.to_string())?;
    let mode = about.mode() & 0o777;
    // As in ssh: what others may read is not ours alone. Files of others are their own affair.
    if about.uid() == nix::unistd::getuid().as_raw() && mode & 0o077 != 0 {
        bail!(
            "Permissions {mode:04o} for '{name}' are too open: it must not be accessible by others \
             (chmod 600 '{name}'). This private key is ignored."
        );
    }
    let text = read_private(path)?.with_context(|| format!("{name} is not there"))?;
    let mut opened = PrivateKey::from_openssh(&*text, None);
    for _ in 0..tries {
        if !matches!(opened, Err(KeyError::PassphraseNeeded | KeyError::WrongPassphrase)) {
            break;
        }
        let question = format!("Enter passphrase for key '{name}': ");
        let passphrase = person.ask_secret(&question).with_context(|| {
            format!("the key {name} is encrypted, and its passphrase cannot be asked for")
        })?;
        if passphrase.is_empty() {
            break;
        }
        opened = PrivateKey::from_openssh(&*text, Some(&passphrase));
    }
    opened.with_context(|| name.to_string())
}
