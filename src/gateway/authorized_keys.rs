//! authorized_keys(5): one key a line, with options in front of it (sshd(8), AUTHORIZED_KEYS FILE
//! FORMAT).
//!
//! A key is found by comparing text; options are read on the line that has the key. An option that
//! is unknown, misspelt, or not enforced yet refuses the line: none is ever skipped.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::key_options::Options;
use crate::base::escape;
use crate::crypto::keys::{CertificateRefused, Trust, UserUse};
use crate::crypto::{Certificate, PublicKey, SignatureAlgorithm};
use crate::limits::{
    AUTHORIZED_KEYS_BYTES_MAX, AUTHORIZED_KEYS_LINE_BYTES_MAX, HOST_KEY_BYTES_MAX, NAME_BYTES_MAX,
};
use crate::wire::Reader;

/// Refused lines told about in one search; the rest would only fill the log.
const REFUSED_MAX: usize = 8;

/// A line that holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub options: Options,
    pub key_type: String,
    pub blob: Vec<u8>,
}

/// Why a line does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("longer than {AUTHORIZED_KEYS_LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("not UTF-8 before the comment")]
    NotUtf8,
    #[error("no key type and key on it")]
    NoKey,
    #[error("the key is no base64 of a public key")]
    BadKey,
    #[error("the line says {declared} and the key is a {actual}")]
    TypeMismatch { declared: String, actual: String },
    #[error("option {0}: there is no such option")]
    UnknownOption(String),
    #[error("option {0} is not built yet, and no line is taken without all its options")]
    NotYet(&'static str),
    #[error("option {0}: a value in double quotes is missing")]
    NoValue(&'static str),
    #[error("option {0} takes no value")]
    NeedlessValue(&'static str),
    #[error("option {0} is there twice")]
    Twice(&'static str),
    #[error("option {name}: {problem}")]
    BadValue { name: &'static str, problem: String },
    #[error("the options are not followed by a comma or a blank")]
    Separator,
    #[error("from= does not allow {0}")]
    WrongAddress(IpAddr),
    #[error("its expiry-time {0} has passed")]
    Expired(String),
    #[error("cert-authority: the key certifies others and lets nobody in itself")]
    AuthorityAlone,
    #[error("the key signed the certificate and the line is not marked cert-authority")]
    NoAuthority,
    #[error("cert-authority means nothing here")]
    NeedlessAuthority,
    #[error("certificate {id}: {why}")]
    Certificate { id: String, why: CertificateRefused },
    #[error("the certificate and the line force two different commands")]
    TwoCommands,
    #[error("it asks for a security key that verifies its user, and this is none")]
    VerifyRequired,
}

/// Reads one line; `None` for empty ones and comments. Never panics: fuzzers start here.
pub fn parse_line(line: &[u8]) -> Result<Option<Entry>, LineError> {
    let Some(parts) = split(line)? else { return Ok(None) };
    let blob = STANDARD.decode(parts.base64).map_err(|_| LineError::BadKey)?;
    let inner = Reader::new(&blob).utf8(NAME_BYTES_MAX).map_err(|_| LineError::BadKey)?;
    if inner != parts.key_type || blob.len() > HOST_KEY_BYTES_MAX as usize {
        let (declared, actual) = (parts.key_type.to_owned(), inner.to_owned());
        return Err(LineError::TypeMismatch { declared, actual });
    }
    let options = Options::parse(parts.options)?;
    Ok(Some(Entry { options, key_type: parts.key_type.to_owned(), blob }))
}

/// What a file says about one key.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The first line that lets the key in, counted from 1, and what it permits.
    pub found: Option<(u32, Options)>,
    /// Lines that have the key and do not let it in.
    pub refused: Vec<(u32, LineError)>,
}

/// Who wants to use a key, and when.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// The account's name: the principal where none is named.
    pub user: &'a str,
    pub key: &'a PublicKey,
    /// The certificate that the key is shown in: then its authority is looked for.
    pub certificate: Option<&'a Certificate>,
    /// CASignatureAlgorithms.
    pub ca_algorithms: &'a [SignatureAlgorithm],
    pub peer: IpAddr,
    /// The peer's name, when one is known.
    pub host: Option<&'a str>,
    /// Seconds since 1970.
    pub now: u64,
}

impl Use<'_> {
    /// Checks the certificate under one authority and for any of these principals; answers what it
    /// and the line of these options both permit.
    pub fn certify(
        &self,
        certificate: &Certificate,
        authority: &PublicKey,
        principals: &[&str],
        options: Options,
    ) -> Result<Options, LineError> {
        let authorities = std::slice::from_ref(authority);
        let trust = Trust { authorities, algorithms: self.ca_algorithms };
        let used = UserUse { principals, peer: self.peer, now: self.now };
        let verified = certificate.verify_user(trust, used).map_err(|why| {
            let id = escape(certificate.key_id().as_bytes());
            LineError::Certificate { id: format!("{id:?}"), why }
        })?;
        options.under(&verified)
    }
}

/// Looks for a key in the text of a file, or for the authority of its certificate.
pub fn search(text: &[u8], wanted: Use<'_>) -> Search {
    let mut search = Search::default();
    let listed = wanted.certificate.map_or(wanted.key, Certificate::authority);
    let base64 = STANDARD.encode(listed.blob());
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let outcome = match split(line) {
            // Lines with other keys are nobody's business here, whatever is wrong with them.
            Ok(Some(parts)) if parts.base64 == base64 => judge(&parts, listed, wanted),
            _ => continue,
        };
        match outcome {
            Ok(options) => {
                search.found = Some((number, options));
                return search;
            }
            Err(why) if search.refused.len() < REFUSED_MAX => search.refused.push((number, why)),
            Err(_) => {}
        }
    }
    search
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {why}")]
    Io { path: PathBuf, why: io::Error },
    #[error("{0}: not a regular file")]
    NotAFile(PathBuf),
    #[error("{path}: larger than {bytes_max} bytes")]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error(
        "{path}: it must belong to {owner} or root, and belongs to uid {uid} \
         (StrictModes): chown {owner} '{path}'"
    )]
    Owner { path: PathBuf, owner: String, uid: u32 },
    #[error("{path}: its mode {mode:03o} lets others write it (StrictModes): chmod go-w '{path}'")]
    Mode { path: PathBuf, mode: u32 },
    #[error("{path}: its mode {mode:03o} lets others read or write it: chmod 600 '{path}'")]
    Open { path: PathBuf, mode: u32 },
}

impl FileError {
    /// The file is simply not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, FileError::Io { why, .. } if why.kind() == io::ErrorKind::NotFound)
    }
}

/// Whose file it has to be.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub name: &'a str,
    pub uid: u32,
    pub home: &'a Path,
}

/// Reads a file that an administrator named, whoever owns it.
pub fn read_any(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let (file, metadata) = open(path)?;
    take(path, file, &metadata, bytes_max)
}

/// Reads a file of keys. With `strict`, it and every directory above it, up to the home directory
/// if it is below, must belong to the owner or root and be writable by nobody else.
pub fn read(path: &Path, owner: Owner<'_>, strict: bool) -> Result<Vec<u8>, FileError> {
    read_seen(path, owner, strict).map(|(text, _)| text)
}

/// The same, and what the opened file said of itself before it was read.
pub fn read_seen(
    path: &Path,
    owner: Owner<'_>,
    strict: bool,
) -> Result<(Vec<u8>, Metadata), FileError> {
    let failed = |why| FileError::Io { path: path.to_owned(), why };
    let (file, metadata) = open(path)?;
    if strict {
        check_modes(path, &metadata, owner)?;
        let real = path.canonicalize().map_err(failed)?;
        let home = owner.home.canonicalize().ok();
        for directory in real.ancestors().skip(1) {
            let metadata = directory.symlink_metadata().map_err(failed)?;
            check_modes(directory, &metadata, owner)?;
            if home.as_deref() == Some(directory) {
                break;
            }
        }
    }
    let text = take(path, file, &metadata, AUTHORIZED_KEYS_BYTES_MAX)?;
    Ok((text, metadata))
}

fn open(path: &Path) -> Result<(File, Metadata), FileError> {
    let failed = |why| FileError::Io { path: path.to_owned(), why };
    // Opening must not wait for the other end of a FIFO, nor make a terminal ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() {
        Ok((file, metadata))
    } else {
        Err(FileError::NotAFile(path.to_owned()))
    }
}

fn take(
    path: &Path,
    file: File,
    metadata: &Metadata,
    bytes_max: u64,
) -> Result<Vec<u8>, FileError> {
    let failed = |why| FileError::Io { path: path.to_owned(), why };
    // Room for all of it and the end, so that one call reads it.
    let mut bytes = Vec::with_capacity(metadata.len().min(bytes_max) as usize + 1);
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(FileError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

fn check_modes(path: &Path, metadata: &Metadata, owner: Owner<'_>) -> Result<(), FileError> {
    let path = path.to_owned();
    if metadata.uid() != 0 && metadata.uid() != owner.uid {
        return Err(FileError::Owner { path, owner: owner.name.to_owned(), uid: metadata.uid() });
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(FileError::Mode { path, mode: metadata.mode() & 0o7777 });
    }
    Ok(())
}

fn judge(parts: &Parts<'_>, listed: &PublicKey, wanted: Use<'_>) -> Result<Options, LineError> {
    if parts.key_type != listed.type_name() {
        let (declared, actual) = (parts.key_type.to_owned(), listed.type_name().to_owned());
        return Err(LineError::TypeMismatch { declared, actual });
    }
    let options = Options::parse(parts.options)?;
    match (wanted.certificate, options.cert_authority) {
        (None, true) => return Err(LineError::AuthorityAlone),
        (Some(_), false) => return Err(LineError::NoAuthority),
        _ => {}
    }
    options.admit(wanted.peer, wanted.host, wanted.now)?;
    if options.verify && !wanted.key.kind().is_security() {
        return Err(LineError::VerifyRequired);
    }
    let Some(certificate) = wanted.certificate else { return Ok(options) };
    let names = options.principals.clone();
    let names = names.iter().flatten().map(String::as_str).collect::<Vec<_>>();
    let own = [wanted.user];
    let principals = if options.principals.is_some() { &*names } else { &own };
    wanted.certify(certificate, listed, principals, options)
}

/// A line cut into its fields, none of them read yet.
struct Parts<'a> {
    options: &'a str,
    key_type: &'a str,
    base64: &'a str,
}

fn split(line: &[u8]) -> Result<Option<Parts<'_>>, LineError> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    if line.len() > AUTHORIZED_KEYS_LINE_BYTES_MAX {
        return Err(LineError::TooLong);
    }
    // A comment may be in any encoding; what stands before it may not.
    let (text, whole) = match std::str::from_utf8(line) {
        Ok(text) => (text, true),
        Err(why) => {
            let valid = line.get(..why.valid_up_to()).unwrap_or_default();
            (std::str::from_utf8(valid).map_err(|_| LineError::NotUtf8)?, false)
        }
    };
    let first = text.split(is_blank).next().unwrap_or_default();
    let (options, rest) = match is_key_type(first) {
        true => ("", text),
        false => text.split_at(options_end(text)),
    };
    let rest = rest.trim_start_matches(is_blank);
    let (key_type, rest) = rest.split_once(is_blank).unwrap_or((rest, ""));
    let rest = rest.trim_start_matches(is_blank);
    let comment = rest.find(is_blank);
    if !whole && comment.is_none() {
        return Err(LineError::NotUtf8);
    }
    let base64 = comment.map_or(rest, |at| &rest[..at]);
    if !is_key_type(key_type) || base64.is_empty() {
        return Err(LineError::NoKey);
    }
    Ok(Some(Parts { options, key_type, base64 }))
}

/// Where the options end: at the first blank outside of quotes. As in sshd, `\"` is the only
/// escape there is.
fn options_end(text: &str) -> usize {
    let mut quoted = false;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if characters.next_if(|(_, next)| *next == '"').is_some() => {}
            '"' => quoted = !quoted,
            _ if !quoted && is_blank(character) => return at,
            _ => {}
        }
    }
    text.len()
}

/// Every type a key file may name, also those we do not take: a line that begins with one has no
/// options.
fn is_key_type(word: &str) -> bool {
    let types = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "rsa-sha2-", "webauthn-"];
    types.iter().any(|prefix| word.starts_with(prefix)) && !word.contains(['"', '=', ','])
}

const fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};

    const ED25519: &str = "ssh-ed25519 \
        AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    fn key() -> PublicKey {
        PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone()
    }

    fn wanted(key: &PublicKey) -> Use<'_> {
        Use {
            user: "ada",
            key,
            certificate: None,
            ca_algorithms: &SignatureAlgorithm::ALL,
            peer: peer(),
            host: None,
            now: 1_700_000_000,
        }
    }

    fn peer() -> IpAddr {
        IpAddr::from([192, 0, 2, 7])
    }

    #[test]
    fn lines_with_and_without_options() {
        for line in [
            ED25519.to_owned(),
            format!("  {ED25519}  a comment \"with a quote"),
            format!("\tno-pty {ED25519}\r"),
            format!("command=\"ls -l\" {ED25519}"),
        ] {
            let entry = parse_line(line.as_bytes()).expect(&line).expect("an entry");
            assert_eq!(entry.key_type, "ssh-ed25519");
            assert_eq!(entry.blob.len(), 51);
        }
        for line in ["", "  ", "# ssh-ed25519 AAAA", "\t#"] {
            assert_eq!(parse_line(line.as_bytes()), Ok(None));
        }
        let latin1 = [ED25519.as_bytes(), b" Andr\xe9"].concat();
        assert!(matches!(parse_line(&latin1), Ok(Some(_))));
        let early = [b"command=\"\xe9\" ".as_slice(), ED25519.as_bytes()].concat();
        assert_eq!(parse_line(&early), Err(LineError::NotUtf8));
    }

    #[test]
    fn from_limits_where_a_key_may_be_used() {
        let key = key();
        for (from, allowed) in [
            ("192.0.2.0/24", true),
            ("192.0.2.0/24,!192.0.2.7", false),
            ("192.0.2.*", true),
            ("198.51.100.1", false),
            ("*.example.org", false),
        ] {
            let text = format!("from=\"{from}\" {}", key.to_openssh_line(""));
            let search = search(text.as_bytes(), wanted(&key));
            assert_eq!(search.found.is_some(), allowed, "{from}");
            let refused = if allowed { vec![] } else { vec![(1, LineError::WrongAddress(peer()))] };
            assert_eq!(search.refused, refused);
        }
        let text = format!("from=\"192.0.2.7\" {}", key.to_openssh_line(""));
        let mapped = "::ffff:192.0.2.7".parse().expect("an address");
        assert!(search(text.as_bytes(), Use { peer: mapped, ..wanted(&key) }).found.is_some());
    }

    #[test]
    fn a_key_expires_behind_its_last_second() {
        let key = key();
        // 2023-11-14 22:13:20.
        for (time, alive) in [
            ("20231114221320Z", true),
            ("20231114221319Z", false),
            ("202311142213Z", false),
            ("20231115z", true),
            ("20231114UTC", false),
            ("21000101", true),
        ] {
            let text = format!("expiry-time=\"{time}\" {}", key.to_openssh_line(""));
            let search = search(text.as_bytes(), wanted(&key));
            assert_eq!(search.found.is_some(), alive, "{time}");
            let refused =
                if alive { vec![] } else { vec![(1, LineError::Expired(time.to_owned()))] };
            assert_eq!(search.refused, refused);
        }
    }

    #[test]
    fn a_search_passes_over_refused_lines_and_other_keys() {
        let (key, other) = (key(), key());
        let (line, other) = (key.to_openssh_line("x"), other.to_openssh_line("y"));
        let text = format!(
            "# mine\n{other}\ntunnel=\"0\" {line}\nfrobnicate {other}\nno-pty {line}\n{line}"
        );
        let search = search(text.as_bytes(), wanted(&key));
        let (number, options) = search.found.expect("line 5");
        assert_eq!((number, options.pty), (5, false));
        assert_eq!(search.refused, [(3, LineError::NotYet("tunnel"))]);
    }

    /// SECURITY case 76: the tail of an overlong line is never read as a line of its own.
    #[test]
    fn case_76_overlong_lines_and_wrong_types() {
        let key = key();
        let line = key.to_openssh_line("");
        let long = format!("command=\"{}\" {line}", "x".repeat(1024 * 1024));
        assert_eq!(search(long.as_bytes(), wanted(&key)), Search::default());
        let tail = format!("{} {line}", "x".repeat(AUTHORIZED_KEYS_LINE_BYTES_MAX));
        assert_eq!(search(tail.as_bytes(), wanted(&key)), Search::default());
        assert_eq!(parse_line(long.as_bytes()), Err(LineError::TooLong));

        let wrong = line.replacen("ssh-ed25519", "ecdsa-sha2-nistp256", 1);
        let found = search(wrong.as_bytes(), wanted(&key));
        assert!(matches!(found.refused.as_slice(), [(1, LineError::TypeMismatch { .. })]));
        assert_eq!(found.found, None);
        assert!(matches!(parse_line(wrong.as_bytes()), Err(LineError::TypeMismatch { .. })));
    }

    /// SECURITY case 76: what is no regular file of a sane size is not read.
    #[test]
    fn case_76_only_regular_files_of_bounded_size_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let owner = owner(directory.path());
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("a fifo");
        for path in [&fifo, Path::new("/dev/zero"), directory.path()] {
            assert!(matches!(read(path, owner, false), Err(FileError::NotAFile(_))), "{path:?}");
        }
        let large = directory.path().join("large");
        File::create(&large).expect("a file").set_len(1 << 30).expect("a sparse gigabyte");
        assert!(matches!(read(&large, owner, false), Err(FileError::TooLarge { .. })));
        let absent = read(&directory.path().join("absent"), owner, true).expect_err("not there");
        assert!(absent.is_absent());
    }

    #[test]
    fn strict_modes_look_at_the_file_and_every_directory_up_to_home() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().join("home");
        let below = home.join(".ssh");
        std::fs::create_dir_all(&below).expect("directories");
        let path = below.join("authorized_keys");
        std::fs::write(&path, "x").expect("a file");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("permissions");
        };
        // Above home anything goes.
        mode(directory.path(), 0o777);
        for path in [&home, &below] {
            mode(path, 0o755);
        }
        mode(&path, 0o644);
        let owner = owner(&home);
        assert_eq!(read(&path, owner, true).expect("fine"), b"x");
        for (loose, tight, wide) in
            [(&path, 0o600, 0o620), (&below, 0o700, 0o702), (&home, 0o700, 0o770)]
        {
            mode(loose, wide);
            let refused = read(&path, owner, true).expect_err("others may write");
            assert!(matches!(&refused, FileError::Mode { path, .. } if path == loose), "{refused}");
            assert!(refused.to_string().contains("chmod go-w"), "{refused}");
            assert!(read(&path, owner, false).is_ok(), "without StrictModes");
            mode(loose, tight);
        }
        let stranger = Owner { uid: owner.uid + 4242, ..owner };
        let expected = owner.uid == 0;
        assert_eq!(read(&path, stranger, true).is_ok(), expected, "root's files are always fine");
    }

    fn owner(home: &Path) -> Owner<'_> {
        Owner { name: "ada", uid: nix::unistd::geteuid().as_raw(), home }
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120)
        ) {
            let _ = parse_line(&bytes);
        }

    }
}
