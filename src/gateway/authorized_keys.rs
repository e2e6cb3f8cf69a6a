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

use super::config::{HostList, Verdict, check_internal_sftp};
use crate::base::escape;
use crate::crypto::PublicKey;
use crate::limits::{
    AUTHORIZED_KEYS_BYTES_MAX, AUTHORIZED_KEYS_LINE_BYTES_MAX, HOST_KEY_BYTES_MAX, NAME_BYTES_MAX,
};
use crate::wire::Reader;

/// Refused lines told about in one search; the rest would only fill the log.
const REFUSED_MAX: usize = 8;

/// What a line permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `command=`: runs instead of whatever the client asks for.
    pub command: Option<String>,
    /// `from=`: the addresses the key may be used from.
    pub from: Option<HostList>,
    pub pty: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { command: None, from: None, pty: true }
    }
}

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
    let options = parse_options(parts.options)?;
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

/// Looks for `key`, used from `peer`, in the text of a file.
pub fn search(text: &[u8], key: &PublicKey, peer: IpAddr) -> Search {
    let mut search = Search::default();
    let base64 = STANDARD.encode(key.blob());
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let outcome = match split(line) {
            // Lines with other keys are nobody's business here, whatever is wrong with them.
            Ok(Some(parts)) if parts.base64 == base64 => judge(&parts, key, peer),
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
    #[error("{0}: larger than {AUTHORIZED_KEYS_BYTES_MAX} bytes")]
    TooLarge(PathBuf),
    #[error(
        "{path}: it must belong to {owner} or root, and belongs to uid {uid} \
         (StrictModes): chown {owner} '{path}'"
    )]
    Owner { path: PathBuf, owner: String, uid: u32 },
    #[error("{path}: its mode {mode:03o} lets others write it (StrictModes): chmod go-w '{path}'")]
    Mode { path: PathBuf, mode: u32 },
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

/// Reads a file of keys. With `strict`, it and every directory above it, up to the home directory
/// if it is below, must belong to the owner or root and be writable by nobody else.
pub fn read(path: &Path, owner: Owner<'_>, strict: bool) -> Result<Vec<u8>, FileError> {
    let failed = |why| FileError::Io { path: path.to_owned(), why };
    // Opening must not wait for the other end of a FIFO, nor make a terminal ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
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
    let mut bytes = Vec::new();
    file.take(AUTHORIZED_KEYS_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > AUTHORIZED_KEYS_BYTES_MAX {
        return Err(FileError::TooLarge(path.to_owned()));
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

fn judge(parts: &Parts<'_>, key: &PublicKey, peer: IpAddr) -> Result<Options, LineError> {
    if parts.key_type != key.type_name() {
        let (declared, actual) = (parts.key_type.to_owned(), key.type_name().to_owned());
        return Err(LineError::TypeMismatch { declared, actual });
    }
    let options = parse_options(parts.options)?;
    match &options.from {
        Some(from) if from.verdict(peer, None) != Verdict::Matches => {
            Err(LineError::WrongAddress(peer))
        }
        _ => Ok(options),
    }
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

fn parse_options(text: &str) -> Result<Options, LineError> {
    let mut options = Options::default();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let option = known(name)?;
        let (value, behind) = match behind.strip_prefix('=') {
            Some(behind) => dequote(option, behind).map(|(value, rest)| (Some(value), rest))?,
            None => (None, behind),
        };
        apply(option, value, &mut options)?;
        rest = match behind.strip_prefix(',') {
            // A comma announces another option.
            Some("") => return Err(LineError::Separator),
            Some(behind) => behind,
            None if behind.is_empty() => behind,
            None => return Err(LineError::Separator),
        };
    }
    Ok(options)
}

/// Options of sshd(8): those we enforce, those that ask for nothing we would do, and the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Command,
    From,
    Pty,
    NoPty,
    Restrict,
    /// It grants or denies what does not exist here yet: forwarding, ~/.ssh/rc.
    Nothing,
    NotYet,
}

type Known = (&'static str, Meaning);

const OPTIONS: &[Known] = &[
    ("agent-forwarding", Meaning::Nothing),
    ("cert-authority", Meaning::NotYet),
    ("command", Meaning::Command),
    ("environment", Meaning::NotYet),
    ("expiry-time", Meaning::NotYet),
    ("from", Meaning::From),
    ("no-agent-forwarding", Meaning::Nothing),
    ("no-port-forwarding", Meaning::Nothing),
    ("no-pty", Meaning::NoPty),
    ("no-touch-required", Meaning::NotYet),
    ("no-user-rc", Meaning::Nothing),
    ("no-X11-forwarding", Meaning::Nothing),
    ("permitlisten", Meaning::NotYet),
    ("permitopen", Meaning::NotYet),
    ("port-forwarding", Meaning::Nothing),
    ("principals", Meaning::NotYet),
    ("pty", Meaning::Pty),
    ("restrict", Meaning::Restrict),
    ("tunnel", Meaning::NotYet),
    ("user-rc", Meaning::Nothing),
    ("verify-required", Meaning::NotYet),
    ("X11-forwarding", Meaning::Nothing),
];

fn known(name: &str) -> Result<Known, LineError> {
    let found = OPTIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    match found.copied() {
        Some((name, Meaning::NotYet)) => Err(LineError::NotYet(name)),
        Some(option) => Ok(option),
        None => Err(LineError::UnknownOption(format!("{:?}", escape(name.as_bytes())))),
    }
}

/// A value in double quotes, in which `\"` is a quote, and what follows it.
fn dequote((name, _): Known, text: &str) -> Result<(String, &str), LineError> {
    let text = text.strip_prefix('"').ok_or(LineError::NoValue(name))?;
    let mut value = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok((value, characters.as_str())),
            '\\' if characters.as_str().starts_with('"') => value.extend(characters.next()),
            _ => value.push(character),
        }
    }
    Err(LineError::NoValue(name))
}

fn apply(
    (name, meaning): Known,
    value: Option<String>,
    options: &mut Options,
) -> Result<(), LineError> {
    let takes_value = matches!(meaning, Meaning::Command | Meaning::From);
    let value = match (takes_value, value) {
        (true, None) => return Err(LineError::NoValue(name)),
        (false, Some(_)) => return Err(LineError::NeedlessValue(name)),
        (_, value) => value.unwrap_or_default(),
    };
    let bad = |problem: String| LineError::BadValue { name, problem };
    match meaning {
        Meaning::Command if options.command.is_some() => return Err(LineError::Twice(name)),
        Meaning::Command => {
            if value.contains('\0') {
                return Err(bad("a NUL in the command".to_owned()));
            }
            check_internal_sftp(&value, &mut Vec::new()).map_err(|wrong| {
                bad(format!("{} {}", escape(wrong.value.as_bytes()), wrong.problem))
            })?;
            options.command = Some(value);
        }
        Meaning::From if options.from.is_some() => return Err(LineError::Twice(name)),
        Meaning::From => {
            let list = HostList::new(&value).map_err(|wrong| {
                bad(format!("{}: {:?}", wrong.problem, escape(wrong.item.as_bytes())))
            })?;
            options.from = Some(list);
        }
        Meaning::Pty => options.pty = true,
        Meaning::NoPty | Meaning::Restrict => options.pty = false,
        Meaning::Nothing | Meaning::NotYet => {}
    }
    Ok(())
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

    fn options(text: &str) -> Result<Options, LineError> {
        parse_line(format!("{text} {ED25519} ada@home").as_bytes())
            .map(|entry| entry.expect("a line with a key").options)
    }

    fn key() -> PublicKey {
        PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone()
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
    fn commands_keep_blanks_commas_and_quotes() {
        for (text, command) in [
            ("command=\"ls -l /tmp\"", "ls -l /tmp"),
            ("COMMAND=\"a,b\",no-pty", "a,b"),
            (r#"command="say \"hi there\"""#, r#"say "hi there""#),
            (r#"command="a \\n \b""#, r"a \\n \b"),
            ("command=\"\"", ""),
            ("command=\"x # y\"", "x # y"),
        ] {
            assert_eq!(options(text).expect(text).command.as_deref(), Some(command), "{text}");
        }
        // As sshd reads it: the backslash belongs to the quote, so the value never ends.
        assert!(options(r#"command="a\\""#).is_err());
    }

    #[test]
    fn restrictions_apply_in_order() {
        for (text, pty) in [
            ("no-pty", false),
            ("restrict", false),
            ("restrict,pty", true),
            ("pty,restrict", false),
            ("no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-user-rc", true),
            ("restrict,port-forwarding,x11-forwarding,agent-forwarding,user-rc", false),
        ] {
            assert_eq!(options(text).expect(text).pty, pty, "{text}");
        }
    }

    /// SECURITY case 77: what is unknown, misspelt or not built yet refuses the line.
    #[test]
    fn case_77_every_other_option_refuses_the_line() {
        for text in [
            "no-ptty",
            "no_pty",
            "permitopen=\"10.0.0.1:65536\"",
            "permitlisten=\"4294967295\"",
            "environment=\"A=b\"",
            "expiry-time=\"20300101\"",
            "cert-authority",
            "principals=\"a\"",
            "tunnel=\"1\"",
            "verify-required",
            "no-touch-required",
            "command",
            "command=ls",
            "command=\"ls",
            "command=\"a\",command=\"a\"",
            "command=\"internal-sftp -R\"",
            "no-pty=\"yes\"",
            "from=\"\"",
            "from=\"10.0.0.1/8\"",
            "from=\"::1\",from=\"::1\"",
            "no-pty,",
            ",no-pty",
            "no-pty,,pty",
            "command=\"a\"no-pty",
            "command=\"a\"x",
        ] {
            assert!(options(text).is_err(), "{text}");
        }
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
            let search = search(text.as_bytes(), &key, peer());
            assert_eq!(search.found.is_some(), allowed, "{from}");
            let refused = if allowed { vec![] } else { vec![(1, LineError::WrongAddress(peer()))] };
            assert_eq!(search.refused, refused);
        }
        let text = format!("from=\"192.0.2.7\" {}", key.to_openssh_line(""));
        let mapped = "::ffff:192.0.2.7".parse().expect("an address");
        assert!(search(text.as_bytes(), &key, mapped).found.is_some());
    }

    #[test]
    fn a_search_passes_over_refused_lines_and_other_keys() {
        let (key, other) = (key(), key());
        let (line, other) = (key.to_openssh_line("x"), other.to_openssh_line("y"));
        let text = format!(
            "# mine\n{other}\ntunnel=\"0\" {line}\nfrobnicate {other}\nno-pty {line}\n{line}"
        );
        let search = search(text.as_bytes(), &key, peer());
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
        assert_eq!(search(long.as_bytes(), &key, peer()), Search::default());
        let tail = format!("{} {line}", "x".repeat(AUTHORIZED_KEYS_LINE_BYTES_MAX));
        assert_eq!(search(tail.as_bytes(), &key, peer()), Search::default());
        assert_eq!(parse_line(long.as_bytes()), Err(LineError::TooLong));

        let wrong = line.replacen("ssh-ed25519", "ecdsa-sha2-nistp256", 1);
        let found = search(wrong.as_bytes(), &key, peer());
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
        assert!(matches!(read(&large, owner, false), Err(FileError::TooLarge(_))));
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

        #[test]
        fn no_option_text_makes_the_parser_panic(
            text in "(command|from|restrict|no-pty|[a-z-]{1,5}|=|\"|\\\\|,| |é|\\*|!){0,20}"
        ) {
            let _ = options(&text);
        }

        #[test]
        fn any_quoted_command_comes_out_as_it_went_in(command in "[^\"\\\\\0\n]{0,40}") {
            proptest::prop_assume!(!command.starts_with("internal-sftp"));
            let read = options(&format!("command=\"{command}\""));
            proptest::prop_assert_eq!(read.map(|o| o.command), Ok(Some(command)));
        }
    }
}
