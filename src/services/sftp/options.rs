use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::services::{Luggage, Unpacking};
use crate::wire::Malformed;
use crate::wire::sftp::{Operation, extension, kind, open};

/// What a session may do, by the options of OpenSSH's sftp-server(8). `internal-sftp` in a
/// configuration and `tidegate sftp-server` read the same ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-R`: nothing may be changed.
    pub read_only: bool,
    /// `-P`: requests that are refused, whatever else is said.
    denied: Names,
    /// `-p`: the only requests that are carried out.
    allowed: Option<Names>,
    /// `-u`: instead of the account's own.
    pub umask: Option<u32>,
    /// `-d`: where relative paths start instead of the home; `%d` is the home, `%u` the user.
    pub start: Option<String>,
    /// This client gives SYMLINK's paths in the draft's order, not in OpenSSH's.
    pub link_first: bool,
}

/// How clients begin their identification that follow the draft (§6.10: the link, then what it points
/// to) with every server that does not call itself OpenSSH, which expects the two the other way round.
const LINK_FIRST: [&str; 2] = ["SSH-2.0-libssh_", "SSH-2.0-AsyncSSH_"];

impl Options {
    /// Copies within the server are not offered: nothing tells beforehand what they would come to.
    pub fn deny_copies(&mut self) {
        self.denied.0 |= position("copy-data").map_or(0, |at| 1 << at);
    }

    /// For another process, by the names of requests: it may know more of them.
    pub fn pack(&self, out: &mut Luggage) {
        out.boolean(self.read_only);
        out.boolean(self.link_first);
        out.string(self.denied.list().as_bytes());
        out.boolean(self.allowed.is_some());
        if let Some(allowed) = self.allowed {
            out.string(allowed.list().as_bytes());
        }
        out.boolean(self.umask.is_some());
        out.uint32(self.umask.unwrap_or(0));
        out.boolean(self.start.is_some());
        out.string(self.start.as_deref().unwrap_or_default().as_bytes());
    }

    /// What [`Options::pack`] packed.
    pub fn unpack(from: &mut Unpacking<'_>) -> Result<Options, Malformed> {
        let (read_only, link_first) = (from.boolean()?, from.boolean()?);
        let denied = Names::unpack(from)?;
        let allowed = if from.boolean()? { Some(Names::unpack(from)?) } else { None };
        let umask = (from.boolean()?, from.uint32()?);
        let umask = umask.0.then_some(umask.1);
        let start = (from.boolean()?, from.string()?);
        let words = String::from_utf8(start.1.to_vec()).map_err(|_| Malformed::Range)?;
        let start = start.0.then_some(words);
        Ok(Options { read_only, denied, allowed, umask, start, link_first })
    }

    /// The client identified itself so.
    pub fn know_client(&mut self, ident: &[u8]) {
        self.link_first = LINK_FIRST.iter().any(|start| ident.starts_with(start.as_bytes()));
    }
}

/// What the words behind the program's name say. The first problem ends the reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub options: Options,
    /// `-e`: log to standard error.
    pub to_stderr: bool,
    /// `-f`: the syslog facility's number.
    pub facility: Option<u8>,
    /// `-l`: how much is logged, one of the words of sshd_config's LogLevel.
    pub level: Option<String>,
    /// `-Q`: print what the server knows of this.
    pub query: Option<String>,
    /// `-h`.
    pub help: bool,
}

/// What is wrong with a word of the options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word}: {problem}")]
pub struct BadOption {
    pub word: String,
    pub problem: String,
}

/// Every request by OpenSSH's name for it, and whether it changes anything.
const REQUESTS: [(&str, bool); 30] = [
    ("open", false),
    ("close", false),
    ("read", false),
    ("write", true),
    ("lstat", false),
    ("fstat", false),
    ("setstat", true),
    ("fsetstat", true),
    ("opendir", false),
    ("readdir", false),
    ("remove", true),
    ("mkdir", true),
    ("rmdir", true),
    ("realpath", false),
    ("stat", false),
    ("rename", true),
    ("readlink", false),
    ("symlink", true),
    ("posix-rename", true),
    ("statvfs", false),
    ("fstatvfs", false),
    ("hardlink", true),
    ("fsync", true),
    ("lsetstat", true),
    ("limits", false),
    ("expand-path", false),
    ("copy-data", true),
    ("home-directory", false),
    ("users-groups-by-id", false),
    ("check-file-handle", false),
];

const FACILITIES: [(&str, u8); 12] = [
    ("DAEMON", 3),
    ("USER", 1),
    ("AUTH", 4),
    ("AUTHPRIV", 10),
    ("LOCAL0", 16),
    ("LOCAL1", 17),
    ("LOCAL2", 18),
    ("LOCAL3", 19),
    ("LOCAL4", 20),
    ("LOCAL5", 21),
    ("LOCAL6", 22),
    ("LOCAL7", 23),
];

const LEVELS: [&str; 9] =
    ["QUIET", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3"];

/// A set of requests, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Names(u32);

const _: () = assert!(REQUESTS.len() <= 32);

impl Names {
    fn parse(list: &str) -> Result<Names, String> {
        let mut names = Names::default();
        for name in list.split(',').filter(|name| !name.is_empty()) {
            let at = position(name).ok_or_else(|| {
                format!(
                    "there is no request {name:?}; `tidegate sftp-server -Q requests` lists them"
                )
            })?;
            names.0 |= 1 << at;
        }
        Ok(names)
    }

    const fn has(self, at: usize) -> bool {
        self.0 & (1 << at) != 0
    }

    /// What [`Names::parse`] reads.
    fn list(self) -> String {
        let here = REQUESTS.iter().enumerate().filter(|(at, _)| self.has(*at));
        here.map(|(_, (name, _))| *name).collect::<Vec<_>>().join(",")
    }

    fn unpack(from: &mut Unpacking<'_>) -> Result<Names, Malformed> {
        let list = std::str::from_utf8(from.string()?).map_err(|_| Malformed::Range)?;
        Names::parse(list).map_err(|_| Malformed::Range)
    }
}

impl Options {
    /// Whether a request may be carried out, by OpenSSH's name for it.
    pub fn permit(&self, name: &str) -> bool {
        let Some(at) = position(name) else { return false };
        let changes = REQUESTS.get(at).is_none_or(|(_, changes)| *changes);
        let refused = (self.read_only && changes) || self.denied.has(at);
        !refused && self.allowed.is_none_or(|allowed| allowed.has(at))
    }

    /// Whether this very request may be. INIT and what we do not know always: they change nothing.
    pub fn permit_operation(&self, operation: &Operation<'_>) -> bool {
        if let Operation::Open { flags, .. } = operation
            && self.read_only
            && flags & (open::WRITE | open::APPEND | open::CREATE | open::TRUNCATE) != 0
        {
            return false;
        }
        name_of(operation).is_none_or(|name| self.permit(name))
    }

    /// What OpenSSH's server says when it does not carry this request out.
    pub fn refusal(&self, operation: &Operation<'_>) -> Option<String> {
        let name = name_of(operation).filter(|_| !self.permit_operation(operation))?;
        let changes = position(name).and_then(|at| REQUESTS.get(at)).is_none_or(|row| row.1);
        let denied = position(name).is_none_or(|at| self.denied.has(at));
        Some(match (self.read_only && (changes || self.permit(name)), denied) {
            (true, _) => format!("Refusing {name} request in read-only mode"),
            (false, true) => format!("Refusing denylisted {name} request"),
            (false, false) => format!("Refusing non-allowlisted {name} request"),
        })
    }

    /// The extensions that a session with these options offers.
    pub fn offered(&self) -> Vec<(&'static [u8], &'static [u8])> {
        let short = |name: &'static [u8]| {
            let end = name.iter().position(|byte| *byte == b'@').unwrap_or(name.len());
            name.get(..end).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
        };
        let permitted = |(name, _): &(&'static [u8], &[u8])| self.permit(short(name));
        extension::OFFERED.into_iter().filter(permitted).collect()
    }

    /// `-d` with its tokens replaced. `None` when there is none, or when it can be no path.
    pub fn start_directory(&self, home: &Path, user: &str) -> Option<CString> {
        let mut path = Vec::new();
        let mut rest = self.start.as_deref()?.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'%' => match rest.next()? {
                    b'%' => path.push(b'%'),
                    b'd' => path.extend_from_slice(home.as_os_str().as_bytes()),
                    b'u' => path.extend_from_slice(user.as_bytes()),
                    _ => return None,
                },
                byte => path.push(byte),
            }
        }
        CString::new(path).ok()
    }
}

impl Flags {
    /// Reads words as getopt(3) does: flags may stand together, values directly behind theirs.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Flags, BadOption> {
        let mut flags = Flags::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let bad = |problem: String| BadOption { word: word.to_owned(), problem };
            let mut letters = word.strip_prefix('-').filter(|rest| !rest.is_empty());
            if letters.is_none() {
                return Err(bad("belongs to no option".to_owned()));
            }
            while let Some(rest) = letters {
                let mut rest = rest.chars();
                let Some(letter) = rest.next() else { break };
                let rest = rest.as_str();
                if !"dflPpQu".contains(letter) {
                    flags.set(letter).map_err(bad)?;
                    letters = Some(rest);
                    continue;
                }
                let value = match rest {
                    "" => words.next().ok_or_else(|| bad("a value is missing".to_owned()))?,
                    value => value,
                };
                flags.set_value(letter, value).map_err(bad)?;
                break;
            }
        }
        Ok(flags)
    }

    /// The words behind `internal-sftp` in a configuration.
    pub fn of_internal(command: &str) -> Result<Flags, BadOption> {
        let mut words = command.split([' ', '\t']).filter(|word| !word.is_empty());
        words.next();
        if let Some(word) = command.split([' ', '\t']).find(|word| word.contains(['"', '\''])) {
            let problem = "quotes have no meaning in the options of internal-sftp".to_owned();
            return Err(BadOption { word: word.to_owned(), problem });
        }
        let flags = Flags::parse(words)?;
        if flags.help || flags.query.is_some() {
            let problem = "-h and -Q are for the command line".to_owned();
            return Err(BadOption { word: command.to_owned(), problem });
        }
        Ok(flags)
    }

    fn set(&mut self, letter: char) -> Result<(), String> {
        match letter {
            'e' => self.to_stderr = true,
            'R' => self.options.read_only = true,
            'h' => self.help = true,
            _ => return Err(format!("there is no option -{letter}")),
        }
        Ok(())
    }

    fn set_value(&mut self, letter: char, value: &str) -> Result<(), String> {
        match letter {
            'd' => {
                check_tokens(value)?;
                self.options.start = Some(value.to_owned());
            }
            'f' => self.facility = Some(facility(value)?),
            'l' => {
                let known = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(value));
                self.level = Some(value.to_ascii_uppercase());
                known.then_some(()).ok_or_else(|| format!("there is no log level {value:?}"))?;
            }
            'P' => self.options.denied = Names::parse(value)?,
            'p' => self.options.allowed = Some(Names::parse(value)?),
            'Q' => self.query = Some(value.to_owned()),
            _ => self.options.umask = Some(umask(value)?),
        }
        Ok(())
    }
}

/// The names of all requests, as `-Q requests` lists them.
pub fn request_names() -> impl Iterator<Item = &'static str> {
    REQUESTS.iter().map(|(name, _)| *name)
}

/// OpenSSH's name for a request; `None` for INIT and for what we do not know.
pub const fn name_of(operation: &Operation<'_>) -> Option<&'static str> {
    Some(match operation {
        Operation::PosixRename { .. } => "posix-rename",
        Operation::VfsStat { .. } => "statvfs",
        Operation::HandleVfsStat { .. } => "fstatvfs",
        Operation::HardLink { .. } => "hardlink",
        Operation::Fsync { .. } => "fsync",
        Operation::LinkSetStat { .. } => "lsetstat",
        Operation::Limits => "limits",
        Operation::ExpandPath { .. } => "expand-path",
        Operation::CopyData { .. } => "copy-data",
        Operation::HomeDirectory { .. } => "home-directory",
        Operation::NamesById { .. } => "users-groups-by-id",
        Operation::CheckFile { .. } => "check-file-handle",
        Operation::Extended { .. } | Operation::Init { .. } => return None,
        plain => match plain.kind() {
            kind::OPEN => "open",
            kind::CLOSE => "close",
            kind::READ => "read",
            kind::WRITE => "write",
            kind::LSTAT => "lstat",
            kind::FSTAT => "fstat",
            kind::SETSTAT => "setstat",
            kind::FSETSTAT => "fsetstat",
            kind::OPENDIR => "opendir",
            kind::READDIR => "readdir",
            kind::REMOVE => "remove",
            kind::MKDIR => "mkdir",
            kind::RMDIR => "rmdir",
            kind::REALPATH => "realpath",
            kind::STAT => "stat",
            kind::RENAME => "rename",
            kind::READLINK => "readlink",
            kind::SYMLINK => "symlink",
            _ => return None,
        },
    })
}

fn position(name: &str) -> Option<usize> {
    REQUESTS.iter().position(|(known, _)| *known == name)
}

fn facility(value: &str) -> Result<u8, String> {
    let found = FACILITIES.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
    found.map(|(_, number)| *number).ok_or_else(|| format!("there is no log facility {value:?}"))
}

fn umask(value: &str) -> Result<u32, String> {
    let octal = !value.is_empty() && value.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mask = u32::from_str_radix(value, 8).ok().filter(|mask| octal && *mask <= 0o777);
    mask.ok_or_else(|| format!("{value:?} is no umask; three octal digits are, like 027"))
}

fn check_tokens(value: &str) -> Result<(), String> {
    let mut rest = value.chars();
    while let Some(character) = rest.next() {
        if character == '%' && !matches!(rest.next(), Some('%' | 'd' | 'u')) {
            return Err("%d (the home), %u (the user) and %% are the tokens there are".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        Flags::parse(line.split_whitespace()).expect(line).options
    }

    #[test]
    fn words_are_read_as_getopt_reads_them() {
        let flags = Flags::parse(["-eR", "-u077", "-d", "/a b", "-f", "auth", "-lDEBUG2"]);
        let flags = flags.expect("flags");
        assert!(flags.to_stderr && flags.options.read_only);
        assert_eq!(flags.options.umask, Some(0o77));
        assert_eq!(flags.options.start.as_deref(), Some("/a b"));
        assert_eq!((flags.facility, flags.level.as_deref()), (Some(4), Some("DEBUG2")));
        for bad in ["-x", "x", "-", "-u", "-u 8", "-u 1777", "-u +7", "-f MAIL", "-l LOUD"] {
            assert!(Flags::parse(bad.split(' ')).is_err(), "{bad}");
        }
        assert!(
            Flags::parse(["-P", "read,wriet"]).expect_err("misspelt").to_string().contains("wriet")
        );
        assert!(Flags::parse(["-d", "%h"]).is_err());
        assert!(Flags::of_internal("internal-sftp -d \"/a b\"").is_err());
        assert!(Flags::of_internal("internal-sftp -Q requests").is_err());
        let long = format!("internal-sftp{} -R", " -P read".repeat(20));
        assert!(Flags::of_internal(&long).expect("many words").options.read_only, "case 79");
    }

    /// SECURITY 114: read-only refuses every request that changes something.
    #[test]
    fn case_114_lists_and_read_only() {
        let free = Options::default();
        assert!(request_names().all(|name| free.permit(name)));
        assert_eq!(free.offered(), extension::OFFERED);
        let reader = options("-R");
        let left: Vec<_> = request_names().filter(|name| !reader.permit(name)).collect();
        let changing = [
            "write",
            "setstat",
            "fsetstat",
            "remove",
            "mkdir",
            "rmdir",
            "rename",
            "symlink",
            "posix-rename",
            "hardlink",
            "fsync",
            "lsetstat",
            "copy-data",
        ];
        assert_eq!(left, changing);
        assert!(reader.offered().iter().all(|(name, _)| !name.starts_with(b"posix")));
        let open = |flags| Operation::Open { path: b"x", flags, attributes: Default::default() };
        assert!(reader.permit_operation(&open(open::READ)));
        for flags in [open::WRITE, open::READ | open::CREATE, open::TRUNCATE, open::APPEND] {
            assert!(!reader.permit_operation(&open(flags)), "{flags}");
        }
        let some = options("-p open,read,close -P read");
        assert!(some.permit("open") && !some.permit("read") && !some.permit("stat"));
        assert!(!free.permit("shell"));
    }

    #[test]
    fn tokens_of_the_start_directory() {
        let start = |text: &str| {
            let options = Options { start: Some(text.to_owned()), ..Options::default() };
            options.start_directory(Path::new("/home/ann"), "ann").map(|p| p.into_string().unwrap())
        };
        assert_eq!(start("%d/in/%u%%"), Some("/home/ann/in/ann%".to_owned()));
        assert_eq!(start("/x%"), None);
        assert_eq!(Options::default().start_directory(Path::new("/"), "x"), None);
    }
}
