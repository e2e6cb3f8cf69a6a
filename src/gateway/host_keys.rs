//! Host keys: read from the files the configuration names; made once, in the state directory, when
//! it names none.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::config::Global;
use super::host_agent;
use crate::crypto::keys::{CertificateError, CertificateKind};
use crate::crypto::{Certificate, KeyAlgorithm, KeyError, KeyKind, PrivateKey, PublicKey};
use crate::limits::KEY_FILE_BYTES_MAX;
use crate::transport;

/// Where sshd keeps its keys; with a configuration file and root's rights they are ours too, so
/// that clients meet the host they know.
const SSHD_KEYS: [&str; 3] =
    ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_rsa_key"];
/// What is made when there is no key: what, and under which name. No ECDSA: whoever wants such a key
/// names it.
const OWN_KEYS: [(KeyKind, &str); 2] =
    [(KeyKind::Ed25519, "ssh_host_ed25519_key"), (KeyKind::Rsa, "ssh_host_rsa_key")];
const ROOT_STATE: &str = "/var/lib/tidegate";

/// Where the private half of a key is.
#[derive(Debug)]
pub enum Half {
    Here(PrivateKey),
    /// The agent of HostKeyAgent has it; this is the public one.
    Agents(PublicKey),
}

impl Half {
    pub const fn public(&self) -> &PublicKey {
        match self {
            Half::Here(private) => private.public(),
            Half::Agents(public) => public,
        }
    }
}

/// One key the server can prove itself with.
#[derive(Debug)]
pub struct HostKey {
    pub path: PathBuf,
    pub half: Half,
    /// What HostCertificate has for it.
    pub certificate: Option<Certificate>,
    /// How it may be shown and sign: HostKeyAlgorithms, in its order. Empty: another of its type is in
    /// use, and clients are only told of this one, for the day that it takes the other's place.
    pub algorithms: Vec<KeyAlgorithm>,
    /// It did not exist until now.
    pub is_new: bool,
}

impl HostKey {
    pub const fn public(&self) -> &PublicKey {
        self.half.public()
    }

    /// Whether the agent of HostKeyAgent has to sign.
    pub const fn is_agents(&self) -> bool {
        matches!(self.half, Half::Agents(_))
    }

    /// What the transport needs to know of it.
    pub fn offer(&self) -> transport::HostKey {
        let public = self.public().clone();
        let (certificate, algorithms) = (self.certificate.clone(), self.algorithms.clone());
        transport::HostKey { public, certificate, algorithms }
    }
}

/// The host keys of a server, most wanted first, and what is to be told about them.
#[derive(Debug, Default)]
pub struct HostKeys {
    pub keys: Vec<HostKey>,
    pub warnings: Vec<String>,
}

impl HostKeys {
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.public().fingerprint()).collect()
    }
}

/// Why the server cannot have a host key. The text names the file and the next step.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    #[error("host key {path}: {why}")]
    Io { path: PathBuf, why: io::Error },
    #[error(
        "host key {path}: its mode {mode:03o} lets others read it; \
         chmod 600 '{path}' once you are sure that nobody has"
    )]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("host key {path}: {why}{}", advice(.why, .path))]
    Key { path: PathBuf, why: KeyError },
    #[error("host key {path}: an RSA key of {bits} bits, and RequiredRSASize is {least}")]
    RsaSize { path: PathBuf, bits: u32, least: u32 },
    #[error(
        "host key {path}: HostKeyAgent {agent} has its private half, and cannot be asked: {why}; \
         start the agent first"
    )]
    Agent { path: PathBuf, agent: PathBuf, why: io::Error },
    #[error("host certificate {path}: {why}")]
    CertificateFile { path: PathBuf, why: io::Error },
    #[error("host certificate {path}: {why}")]
    Certificate { path: PathBuf, why: CertificateError },
    #[error("host certificate {0}: a certificate for users; `ssh-keygen -h` makes those of hosts")]
    UserCertificate(PathBuf),
    #[error("host certificate {path}: it is for {key}, and no HostKey in use is that key")]
    StrangeCertificate { path: PathBuf, key: String },
    #[error("no host key is left; name one with HostKey, one that HostKeyAlgorithms allows")]
    None,
    #[error(
        "no place for host keys: neither XDG_STATE_HOME nor HOME is set; name one with HostKey"
    )]
    NoState,
}

/// The state directory: `/var/lib/tidegate` for root, else `$XDG_STATE_HOME/tidegate`, else
/// `~/.local/state/tidegate`.
pub fn state_directory(
    is_root: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from(ROOT_STATE));
    }
    // The specification of XDG_STATE_HOME wants relative paths ignored.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("tidegate"))
}

/// The keys of a configuration without a HostKey line. As root with a configuration file: sshd's
/// own, if there are any. Else ours in the state directory.
pub fn defaults(is_root: bool, has_file: bool, state: Option<&Path>) -> Vec<PathBuf> {
    if is_root && has_file {
        let found: Vec<_> = SSHD_KEYS.iter().map(PathBuf::from).filter(|p| p.exists()).collect();
        if !found.is_empty() {
            return found;
        }
    }
    let state = state.into_iter();
    state.flat_map(|state| OWN_KEYS.iter().map(|(_, name)| state.join(name))).collect()
}

/// sshd's three keys: those that exist, or all when none does.
pub fn of_sshd() -> Vec<PathBuf> {
    let all = SSHD_KEYS.map(PathBuf::from).to_vec();
    let found: Vec<_> = all.iter().filter(|path| path.exists()).cloned().collect();
    if found.is_empty() { all } else { found }
}

/// Reads the keys that the configuration names, as sshd does: those that cannot be used are told
/// about, and one that can be is enough. None is made.
pub fn load_usable(global: &Global, required_rsa_size: u32) -> Result<HostKeys, HostKeyError> {
    let (mut host_keys, mut broken) = (Vec::new(), Vec::new());
    for path in &global.host_keys {
        let host_certificates = Vec::new();
        let alone = Global { host_keys: vec![path.clone()], host_certificates, ..global.clone() };
        match load(&alone, required_rsa_size, None) {
            Ok(_) | Err(HostKeyError::None) => host_keys.push(path.clone()),
            Err(why) => broken.push(why),
        }
    }
    if host_keys.is_empty() {
        return Err(broken.into_iter().next().unwrap_or(HostKeyError::None));
    }
    let mut usable = Global { host_keys, host_certificates: Vec::new(), ..global.clone() };
    for path in &global.host_certificates {
        usable.host_certificates.push(path.clone());
        if let Err(why) = load(&usable, required_rsa_size, None) {
            broken.push(why);
            usable.host_certificates.pop();
        }
    }
    let mut loaded = load(&usable, required_rsa_size, None)?;
    loaded.warnings.extend(broken.iter().map(|why| format!("not used: {why}")));
    Ok(loaded)
}

/// Reads the keys that the configuration names. Those of the state directory are made when they
/// are not there yet; any other must exist.
pub fn load(
    global: &Global,
    required_rsa_size: u32,
    state: Option<&Path>,
) -> Result<HostKeys, HostKeyError> {
    if global.host_keys.is_empty() {
        return Err(HostKeyError::NoState);
    }
    let mut loaded = HostKeys::default();
    let certificates = global.host_certificates.iter();
    let certificates = certificates.map(|path| read_certificate(path));
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>()?;
    for path in &global.host_keys {
        let (half, is_new) = match agents_key(global, path) {
            Some(public) => (Half::Agents(public), false),
            None => load_or_make(path, state).map(|(private, new)| (Half::Here(private), new))?,
        };
        let (kind, bits) = (half.public().kind(), half.public().bits());
        if kind == KeyKind::Rsa && bits < required_rsa_size {
            let least = required_rsa_size;
            return Err(HostKeyError::RsaSize { path: path.clone(), bits, least });
        }
        if loaded.keys.iter().any(|key| key.public() == half.public()) {
            loaded.warnings.push(format!(
                "host key {} is not used: it is the key of another file",
                path.display()
            ));
            continue;
        }
        let is_next = loaded.keys.iter().any(|key| key.public().kind() == kind);
        let certificate = certificates.iter().find(|one| one.key() == half.public()).cloned();
        let algorithms = algorithms(global, half.public(), certificate.is_some());
        if algorithms.is_empty() {
            loaded.warnings.push(format!(
                "host key {} is not used: HostKeyAlgorithms has no algorithm for {}",
                path.display(),
                kind.name()
            ));
            continue;
        }
        let algorithms = if is_next { Vec::new() } else { algorithms };
        let path = path.clone();
        loaded.keys.push(HostKey { path, half, certificate, algorithms, is_new });
    }
    if loaded.keys.is_empty() {
        return Err(HostKeyError::None);
    }
    for (path, certificate) in global.host_certificates.iter().zip(&certificates) {
        let is_ours = |key: &HostKey| key.public() == certificate.key();
        if !loaded.keys.iter().any(is_ours) {
            let (path, key) = (path.clone(), certificate.key().fingerprint());
            return Err(HostKeyError::StrangeCertificate { path, key });
        }
    }
    let place = |key: &HostKey| {
        let place = |first| global.host_key_algorithms.iter().position(|known| known == first);
        key.algorithms.first().and_then(place).unwrap_or(usize::MAX)
    };
    loaded.keys.sort_by_key(place);
    look_at_agent(global, &mut loaded)?;
    Ok(loaded)
}

/// As sshd: where there is an agent, a file may hold a public key, or one stands beside a file that is
/// not there or cannot be opened.
fn agents_key(global: &Global, path: &Path) -> Option<PublicKey> {
    global.host_key_agent.as_ref()?;
    let public = |path: &Path| {
        let mut text = String::new();
        let (file, _) = open_plain(path).ok()?;
        file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
        PublicKey::from_text(&text).ok().map(|(key, _)| key)
    };
    public(path).or_else(|| match read(path) {
        Ok(_) | Err(HostKeyError::TooOpen { .. }) => None,
        Err(_) => public(&beside(path)),
    })
}

/// Where the public half of a key is.
fn beside(path: &Path) -> PathBuf {
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    PathBuf::from(public)
}

/// Keys of an agent that cannot be reached are none; those that it does not have yet are told of.
fn look_at_agent(global: &Global, loaded: &mut HostKeys) -> Result<(), HostKeyError> {
    let mut agents = loaded.keys.iter().filter(|key| key.is_agents()).peekable();
    let (Some(first), Some(named)) = (agents.peek(), &global.host_key_agent) else { return Ok(()) };
    let unreachable =
        |why| HostKeyError::Agent { path: first.path.clone(), agent: named.clone(), why };
    let none = || io::Error::other("the environment has no such variable");
    let socket = host_agent::socket_of(named).ok_or_else(none).map_err(unreachable)?;
    let agent = host_agent::reach(&socket).map_err(unreachable)?;
    let has = host_agent::keys(&agent).map_err(|why| unreachable(io::Error::other(why)))?;
    let missing = agents.filter(|key| !has.iter().any(|blob| blob == key.public().blob()));
    let told = missing.map(|key| {
        let (path, agent) = (key.path.display(), socket.display());
        let print = key.public().fingerprint();
        format!("host key {path}: the agent at {agent} does not have {print}; `ssh-add` it there")
    });
    loaded.warnings.extend(told.collect::<Vec<_>>());
    Ok(())
}

/// What HostKeyAlgorithms allows for a key, in its order.
pub fn algorithms(global: &Global, key: &PublicKey, has_certificate: bool) -> Vec<KeyAlgorithm> {
    let fits = |algorithm: &KeyAlgorithm| {
        algorithm.signature.key_kind() == key.kind() && (has_certificate || !algorithm.certified)
    };
    global.host_key_algorithms.iter().copied().filter(fits).collect()
}

fn read_certificate(path: &Path) -> Result<Certificate, HostKeyError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|why| HostKeyError::CertificateFile { path: path.to_owned(), why })?;
    let certificate = Certificate::from_text(&text);
    let (certificate, _) =
        certificate.map_err(|why| HostKeyError::Certificate { path: path.to_owned(), why })?;
    match certificate.kind() {
        CertificateKind::Host => Ok(certificate),
        CertificateKind::User => Err(HostKeyError::UserCertificate(path.to_owned())),
    }
}

/// What [`load`] would say, without making anything: keys of ours that are not there yet are fine.
pub fn check(
    global: &Global,
    required_rsa_size: u32,
    state: Option<&Path>,
) -> Result<Vec<String>, HostKeyError> {
    let is_to_be_made = |path: &&PathBuf| own_kind(path, state).is_some() && !path.exists();
    let (absent, present): (Vec<_>, Vec<_>) = global.host_keys.iter().partition(is_to_be_made);
    if present.is_empty() && !absent.is_empty() && global.host_certificates.is_empty() {
        return Ok(Vec::new());
    }
    let host_keys = present.into_iter().cloned().collect();
    let present = Global { host_keys, ..global.clone() };
    load(&present, required_rsa_size, None).map(|loaded| loaded.warnings)
}

/// What belongs at this path, when it is one of those we make keys for.
fn own_kind(path: &Path, state: Option<&Path>) -> Option<KeyKind> {
    let state = state?;
    OWN_KEYS.iter().find(|(_, name)| state.join(name) == path).map(|(kind, _)| *kind)
}

fn load_or_make(path: &Path, state: Option<&Path>) -> Result<(PrivateKey, bool), HostKeyError> {
    match read(path) {
        Ok(key) => Ok((key, false)),
        Err(HostKeyError::Io { why, .. }) if why.kind() == io::ErrorKind::NotFound => {
            let Some(kind) = own_kind(path, state) else {
                return Err(HostKeyError::Io { path: path.to_owned(), why });
            };
            let is_new = make(path, kind)?;
            read(path).map(|key| (key, is_new))
        }
        Err(why) => Err(why),
    }
}

fn read(path: &Path) -> Result<PrivateKey, HostKeyError> {
    read_open(open(path)?).map_err(|why| match why {
        Unreadable::Io(why) => HostKeyError::Io { path: path.to_owned(), why },
        Unreadable::Key(why) => HostKeyError::Key { path: path.to_owned(), why },
    })
}

/// Why an open file is no key.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Key(KeyError),
}

/// The key in a file.
///
/// # Errors
/// It cannot be read, or is no key without a passphrase.
pub fn read_open(file: File) -> Result<PrivateKey, Unreadable> {
    let mut text = Zeroizing::new(Vec::new());
    file.take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(Unreadable::Io)?;
    PrivateKey::from_openssh(text.as_slice(), None).map_err(Unreadable::Key)
}

/// Opens a file that may hold a key.
///
/// # Errors
/// It is not there, or others than its owner may read it.
pub fn open(path: &Path) -> Result<File, HostKeyError> {
    let failed = |why| HostKeyError::Io { path: path.to_owned(), why };
    let (file, metadata) = open_plain(path).map_err(failed)?;
    // sshd's rule: what belongs to somebody else is that one's to protect.
    let mode = metadata.mode() & 0o777;
    if metadata.uid() == nix::unistd::geteuid().as_raw() && mode & 0o077 != 0 {
        return Err(HostKeyError::TooOpen { path: path.to_owned(), mode });
    }
    Ok(file)
}

/// Opens a file that is one, without waiting for anybody.
pub fn open_plain(path: &Path) -> io::Result<(File, Metadata)> {
    let options = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(options).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Makes a key and its public half beside it. `false`: another process was faster, and its key is
/// the one that counts.
fn make(path: &Path, kind: KeyKind) -> Result<bool, HostKeyError> {
    let failed = |why| HostKeyError::Io { path: path.to_owned(), why };
    let broken = |why| HostKeyError::Key { path: path.to_owned(), why };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let host = nix::unistd::gethostname().unwrap_or_default();
    let comment = format!("tidegate@{}", host.to_string_lossy());
    let key = PrivateKey::generate(kind).map_err(broken)?;
    let text = key.to_openssh(&comment).map_err(broken)?;
    if !write_new(path, text.as_bytes(), 0o600).map_err(failed)? {
        return Ok(false);
    }
    let line = format!("{}\n", key.public().to_openssh_line(&comment));
    // A leftover public half of a key that is gone would only mislead.
    let public = beside(path);
    let _ = fs::remove_file(&public);
    write_new(&public, line.as_bytes(), 0o644).map_err(failed)?;
    Ok(true)
}

/// Writes a file that appears whole or not at all. `false` when one of that name exists already.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        // Unlike a rename, a link never replaces what another process has just put there.
        .and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match written {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(why) => return Err(why),
    }
    removed?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(true)
}

fn advice(why: &KeyError, path: &Path) -> String {
    match why {
        KeyError::PassphraseNeeded => format!(
            ", and a server cannot ask for it; `ssh-keygen -p -N '' -f '{}'` takes it off",
            path.display()
        ),
        // The same command converts the file.
        KeyError::EncryptedPem => format!(
            "; for a host key, which must have no passphrase, `ssh-keygen -p -N '' -f '{}'`",
            path.display()
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::crypto::SignatureAlgorithm;

    fn global(host_keys: Vec<PathBuf>) -> Global {
        Global { host_keys, ..Global::default() }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").mode() & 0o777
    }

    #[test]
    fn keys_are_made_once_and_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("deep/tidegate");
        // RSA is left out: making one takes a good part of a second.
        let paths = defaults(false, false, Some(&state))[..1].to_vec();
        let first = load(&global(paths.clone()), 2048, Some(&state)).expect("keys");
        let second = load(&global(paths.clone()), 2048, Some(&state)).expect("keys");
        let print = |keys: &HostKeys| -> Vec<String> {
            keys.keys.iter().map(|key| key.public().fingerprint()).collect()
        };
        assert_eq!(print(&first), print(&second));
        assert!(first.keys.iter().all(|key| key.is_new));
        assert!(second.keys.iter().all(|key| !key.is_new));
        assert_eq!(mode(&state), 0o700);
        for path in &paths {
            assert_eq!(mode(path), 0o600);
            let public = fs::read_to_string(format!("{}.pub", path.display())).expect("a line");
            let (public, _) = crate::crypto::PublicKey::from_text(&public).expect("a key");
            assert!(second.keys.iter().any(|key| *key.public() == public));
        }
        assert_eq!(fs::read_dir(&state).expect("a directory").count(), 2, "nothing is left over");
    }

    #[test]
    fn checking_makes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state");
        let mut keys = defaults(false, false, Some(&state));
        assert_eq!(check(&global(keys.clone()), 2048, Some(&state)).expect("fine"), [""; 0]);
        assert!(!state.exists());
        keys.push(directory.path().join("absent"));
        assert!(check(&global(keys), 2048, Some(&state)).is_err());
    }

    /// What ssh-keygen writes in each format: read, or refused with the command that mends it.
    #[test]
    fn old_formats_are_read_and_passphrases_are_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let formats =
            [("ecdsa", "PEM"), ("ecdsa", "PKCS8"), ("rsa", "PEM"), ("ed25519", "RFC4716")];
        for (kind, format) in formats {
            for passphrase in ["", "secret"] {
                let path = directory.path().join(format!("{kind}-{format}-{passphrase}"));
                let made = std::process::Command::new("ssh-keygen")
                    .args(["-q", "-t", kind, "-m", format, "-N", passphrase, "-f"])
                    .arg(&path)
                    .status();
                assert!(made.expect("ssh-keygen").success());
                let loaded = load(&global(vec![path.clone()]), 2048, None);
                if passphrase.is_empty() {
                    assert_eq!(loaded.expect("a key").keys.len(), 1, "{kind} {format}");
                    continue;
                }
                let error = loaded.expect_err("encrypted").to_string();
                let command = format!("`ssh-keygen -p -N '' -f '{}'`", path.display());
                assert!(error.starts_with(&format!("host key {}: ", path.display())), "{error}");
                assert!(error.contains(&command), "{error}");
            }
        }
    }

    #[test]
    fn only_our_own_names_are_made() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["other_key", "sub/ssh_host_rsa_key"] {
            let path = directory.path().join(name);
            let error = load(&global(vec![path.clone()]), 2048, Some(directory.path()));
            let text = error.expect_err("it is not there").to_string();
            assert!(text.contains(name) && text.contains("No such file"), "{text}");
            assert!(!path.exists());
        }
        assert!(matches!(load(&global(vec![]), 2048, None), Err(HostKeyError::NoState)));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let paths = defaults(false, false, Some(directory.path()))[..1].to_vec();
        load(&global(paths.clone()), 2048, Some(directory.path())).expect("a key");
        for wide in [0o640, 0o604, 0o660] {
            fs::set_permissions(&paths[0], PermissionsExt::from_mode(wide)).expect("permissions");
            let error = load(&global(paths.clone()), 2048, Some(directory.path()));
            let text = error.expect_err("too open").to_string();
            assert!(
                text.contains(&format!("mode {wide:o}")) && text.contains("chmod 600"),
                "{text}"
            );
        }
    }

    #[test]
    fn files_that_are_no_usable_key_say_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        let write = |text: &str| {
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("permissions");
        };
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        let encrypted = key.to_openssh_encrypted("x", b"secret").expect("a file");
        for (text, says) in [
            ("nonsense", "not a private key"),
            (key.public().to_openssh_line("x").as_str(), "public half"),
            (encrypted.as_str(), "ssh-keygen -p -N ''"),
        ] {
            write(text);
            let error = load(&global(vec![path.clone()]), 2048, None).expect_err(says).to_string();
            assert!(error.contains(says) && error.contains("key: "), "{error}");
        }
        let error = load(&global(vec!["/dev/null".into()]), 2048, None).expect_err("a device");
        assert!(error.to_string().ends_with("not a regular file"), "{error}");
    }

    #[test]
    fn host_key_algorithms_choose_and_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let paths = defaults(false, false, Some(directory.path()))[..2].to_vec();
        let mut global = global(paths);
        let plain =
            |list: &[SignatureAlgorithm]| list.iter().copied().map(KeyAlgorithm::plain).collect();
        global.host_key_algorithms =
            plain(&[SignatureAlgorithm::RsaSha512, SignatureAlgorithm::Ed25519]);
        let keys = load(&global, 2048, Some(directory.path())).expect("keys");
        let kinds: Vec<_> = keys.keys.iter().map(|key| key.public().kind()).collect();
        assert_eq!(kinds, [KeyKind::Rsa, KeyKind::Ed25519]);
        global.host_key_algorithms = plain(&[SignatureAlgorithm::Ed25519]);
        let keys = load(&global, 2048, Some(directory.path())).expect("keys");
        assert_eq!((keys.keys.len(), keys.warnings.len()), (1, 1));
        global.host_key_algorithms = plain(&[SignatureAlgorithm::EcdsaP256]);
        let error = load(&global, 2048, Some(directory.path())).expect_err("none is left");
        assert!(matches!(error, HostKeyError::None));
    }

    #[test]
    fn the_second_key_of_a_type_is_only_told_of() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let path = |directory: &tempfile::TempDir| {
            let path = defaults(false, false, Some(directory.path())).swap_remove(0);
            load(&global(vec![path.clone()]), 2048, Some(directory.path())).expect("a key");
            path
        };
        let paths = vec![path(&first), path(&second), path(&first)];
        let keys = load(&global(paths.clone()), 2048, None).expect("keys");
        assert_eq!(
            keys.keys.iter().map(|key| &key.path).collect::<Vec<_>>(),
            [&paths[0], &paths[1]]
        );
        let in_use: Vec<_> = keys.keys.iter().map(|key| !key.algorithms.is_empty()).collect();
        assert_eq!((in_use, keys.warnings.len()), (vec![true, false], 1), "{:?}", keys.warnings);
    }

    #[test]
    fn certificates_belong_to_keys_and_to_hosts() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let run = |arguments: &[&str]| {
            let mut command = std::process::Command::new("ssh-keygen");
            command.current_dir(directory.path()).arg("-q").args(arguments);
            assert!(command.status().expect("ssh-keygen").success(), "{arguments:?}");
        };
        for name in ["key", "other", "ca"] {
            run(&["-t", "ed25519", "-N", "", "-f", name]);
        }
        let load_with = |certificate: &str| {
            let host_certificates = vec![at(certificate)];
            load(&Global { host_certificates, ..global(vec![at("key")]) }, 2048, None)
        };
        run(&["-h", "-s", "ca", "-I", "x", "-n", "h", "key.pub"]);
        let loaded = load_with("key-cert.pub").expect("keys");
        let offer = loaded.keys[0].offer();
        assert!(offer.certificate.is_some() && offer.algorithms.len() == 2, "{offer:?}");
        run(&["-h", "-s", "ca", "-I", "x", "-n", "h", "other.pub"]);
        let error = load_with("other-cert.pub").expect_err("another's");
        assert!(matches!(error, HostKeyError::StrangeCertificate { .. }), "{error}");
        run(&["-s", "ca", "-I", "x", "-n", "h", "key.pub"]);
        let error = load_with("key-cert.pub").expect_err("a user's");
        assert!(matches!(error, HostKeyError::UserCertificate(_)), "{error}");
        assert!(matches!(load_with("key.pub"), Err(HostKeyError::Certificate { .. })));
        assert!(matches!(load_with("none"), Err(HostKeyError::CertificateFile { .. })));
        // As sshd: one that cannot be used is told about.
        let host_certificates = vec![at("other-cert.pub")];
        let sloppy = Global { host_certificates, ..global(vec![at("key")]) };
        let loaded = load_usable(&sloppy, 2048).expect("keys");
        assert_eq!((loaded.keys.len(), loaded.warnings.len()), (1, 1), "{:?}", loaded.warnings);
    }

    #[test]
    fn the_state_directory_follows_the_environment() {
        let with = |pairs: &'static [(&str, &str)]| {
            state_directory(false, |name| {
                pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into())
            })
        };
        assert_eq!(with(&[("HOME", "/home/ada")]), Some("/home/ada/.local/state/tidegate".into()));
        assert_eq!(
            with(&[("HOME", "/home/ada"), ("XDG_STATE_HOME", "/s")]),
            Some("/s/tidegate".into())
        );
        assert_eq!(
            with(&[("HOME", "/home/ada"), ("XDG_STATE_HOME", "relative")]),
            Some("/home/ada/.local/state/tidegate".into())
        );
        assert_eq!(with(&[]), None);
        assert_eq!(state_directory(true, |_| None), Some(ROOT_STATE.into()));
    }
}
