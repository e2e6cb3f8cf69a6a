//! What `tidegate sftp-server` logs: the lines of OpenSSH's sftp-server, at its levels.

use std::collections::HashMap;

use crate::base::escape;
use crate::gateway::config::Facility;
use crate::gateway::syslog::{Severity, Syslog};
use crate::services::sftp::{Answer, Flags, Note, day_and_time};
use crate::wire::sftp::{Attributes, Operation, StatusCode, open};

/// The name in front of lines in syslog.
const TAG: &str = "sftp-server";

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Info,
    Verbose,
    Debug,
}

/// Syslog, or standard error.
pub struct Log {
    level: Option<Level>,
    /// Unless lines go to standard error.
    syslog: Option<Syslog>,
    asked: Asked,
    /// What is open, by handle: as many as the server lets be open.
    files: HashMap<Box<[u8]>, File>,
}

/// What the answer to a request will tell more about.
enum Asked {
    Open(File),
    Read(Box<[u8]>),
    Write(Box<[u8]>, u64),
    Other,
}

struct File {
    path: String,
    is_directory: bool,
    bytes_read: u64,
    bytes_written: u64,
}

impl File {
    fn new(path: &[u8], is_directory: bool) -> File {
        File { path: escape(path).to_string(), is_directory, bytes_read: 0, bytes_written: 0 }
    }

    fn closed(&self) -> String {
        let File { path, is_directory, bytes_read, bytes_written } = self;
        match is_directory {
            true => format!("closedir \"{path}\""),
            false => format!("close \"{path}\" bytes read {bytes_read} written {bytes_written}"),
        }
    }
}

impl Log {
    pub fn new(flags: &Flags) -> Log {
        let level = match flags.level.as_deref() {
            Some("QUIET") => None,
            None | Some("FATAL" | "ERROR") => Some(Level::Error),
            Some("INFO") => Some(Level::Info),
            Some("VERBOSE") => Some(Level::Verbose),
            Some(_) => Some(Level::Debug),
        };
        let facility = flags.facility.and_then(Facility::of_number).unwrap_or(Facility::Auth);
        let syslog = (!flags.to_stderr).then(|| Syslog::new(TAG, facility));
        Log { level, syslog, asked: Asked::Other, files: HashMap::new() }
    }

    fn tells(&self, level: Level) -> bool {
        self.level >= Some(level)
    }

    pub fn write(&mut self, level: Level, text: &str) {
        if !self.tells(level) {
            return;
        }
        let (severity, mark) = match level {
            Level::Error => (Severity::Error, "error: "),
            Level::Info | Level::Verbose => (Severity::Info, ""),
            Level::Debug => (Severity::Debug, "debug1: "),
        };
        match &self.syslog {
            Some(syslog) => syslog.send(severity, format!("{mark}{text}").as_bytes()),
            None => eprint_line(&format!("{mark}{text}")),
        }
    }

    pub fn note(&mut self, note: Note<'_>) {
        if !self.tells(Level::Info) {
            return;
        }
        match note {
            Note::Asked(operation) => self.asked(operation),
            Note::Refused(words) => self.write(Level::Verbose, words),
            Note::Answered(answer) => self.answered(answer),
        }
    }

    fn asked(&mut self, operation: &Operation<'_>) {
        self.asked = match *operation {
            Operation::Open { path, .. } => Asked::Open(File::new(path, false)),
            Operation::OpenDirectory { path } => Asked::Open(File::new(path, true)),
            Operation::Read { handle, .. } => Asked::Read(handle.into()),
            Operation::Write { handle, data, .. } => Asked::Write(handle.into(), data.len() as u64),
            _ => Asked::Other,
        };
        if let Operation::Close { handle } = *operation
            && let Some(file) = self.files.remove(handle)
        {
            return self.write(Level::Info, &file.closed());
        }
        let changed = match *operation {
            Operation::SetStat { path, attributes }
            | Operation::LinkSetStat { path, attributes } => {
                Some((escape(path).to_string(), attributes))
            }
            Operation::HandleSetStat { handle, attributes } => {
                Some((self.path(handle), attributes))
            }
            _ => None,
        };
        match changed {
            Some((path, attributes)) => {
                for change in changes(&attributes) {
                    self.write(Level::Info, &format!("set \"{path}\" {change}"));
                }
            }
            None => {
                if let Some((level, text)) = self.line(operation) {
                    self.write(level, &text);
                }
            }
        }
    }

    /// A request in OpenSSH's words. Lines that nobody wants of what comes with every packet are
    /// not made.
    fn line(&self, operation: &Operation<'_>) -> Option<(Level, String)> {
        let (level, text) = named(operation);
        if !text.is_empty() {
            return Some((level, text));
        }
        if let Operation::Fsync { handle } = operation {
            return Some((Level::Verbose, format!("fsync \"{}\"", self.path(handle))));
        }
        if !self.tells(Level::Debug) {
            return None;
        }
        let text = match *operation {
            Operation::Read { handle, offset, len } => {
                format!("read \"{}\" off {offset} len {len}", self.path(handle))
            }
            Operation::Write { handle, offset, data } => {
                format!("write \"{}\" off {offset} len {}", self.path(handle), data.len())
            }
            Operation::Close { handle } => format!("close \"{}\"", self.path(handle)),
            Operation::ReadDirectory { handle } => format!("readdir \"{}\"", self.path(handle)),
            Operation::HandleStat { handle } => format!("fstat \"{}\"", self.path(handle)),
            Operation::HandleVfsStat { handle } => format!("fstatvfs \"{}\"", self.path(handle)),
            Operation::CopyData { from, from_offset, len, to, to_offset } => format!(
                "copy-data from \"{}\" off {from_offset} len {len} to \"{}\" off {to_offset}",
                self.path(from),
                self.path(to)
            ),
            Operation::Limits => "limits".to_owned(),
            Operation::HomeDirectory { user } => format!("home-directory \"{}\"", escape(user)),
            Operation::Extended { name, .. } => format!("extension \"{}\"", escape(name)),
            Operation::Unknown { kind, .. } => format!("unknown request {kind}"),
            _ => "request".to_owned(),
        };
        Some((Level::Debug, text))
    }

    fn path(&self, handle: &[u8]) -> String {
        self.files
            .get(handle)
            .map_or_else(|| "(no such handle)".to_owned(), |file| file.path.clone())
    }

    fn answered(&mut self, answer: Answer<'_>) {
        match (std::mem::replace(&mut self.asked, Asked::Other), answer) {
            (Asked::Open(file), Answer::Handle(handle)) => {
                self.files.insert(handle.into(), file);
            }
            (Asked::Read(handle), Answer::Data { bytes }) => {
                if let Some(file) = self.files.get_mut(&handle) {
                    file.bytes_read += u64::from(bytes);
                }
            }
            (Asked::Write(handle, bytes), Answer::Status(StatusCode::Ok)) => {
                if let Some(file) = self.files.get_mut(&handle) {
                    file.bytes_written += bytes;
                }
            }
            _ => {}
        }
        if let Answer::Status(code) = answer {
            let usual = matches!(code, StatusCode::Ok | StatusCode::Eof);
            let level = if usual { Level::Debug } else { Level::Info };
            self.write(level, &format!("sent status {}", code.text()));
        }
    }

    /// The session is over; what is still open is closed.
    pub fn end(&mut self) {
        for (_, file) in std::mem::take(&mut self.files) {
            self.write(Level::Info, &format!("forced {}", file.closed()));
        }
    }
}

/// OpenSSH's lines end as terminals want it: an sshd hands them to its client.
fn eprint_line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}\r");
}

/// What names its paths: what changes or opens something at INFO, what looks at VERBOSE. Empty for
/// all else.
fn named(operation: &Operation<'_>) -> (Level, String) {
    let text = match *operation {
        Operation::Open { path, flags, attributes } => {
            let mode = attributes.permissions.unwrap_or(0o666);
            format!("open \"{}\" flags {} mode 0{mode:o}", escape(path), flag_names(flags))
        }
        Operation::OpenDirectory { path } => one("opendir", path),
        Operation::Remove { path } => one("remove name", path),
        Operation::MakeDirectory { path, attributes } => {
            let mode = attributes.permissions.unwrap_or(0o777);
            format!("mkdir name \"{}\" mode 0{mode:o}", escape(path))
        }
        Operation::RemoveDirectory { path } => one("rmdir name", path),
        Operation::Rename { from, to } => two("rename", from, to),
        Operation::PosixRename { from, to } => two("posix-rename", from, to),
        Operation::SymbolicLink { target, path } => two("symlink", target, path),
        Operation::HardLink { existing, path } => two("hardlink", existing, path),
        Operation::VfsStat { path } => one("statvfs", path),
        _ => return (Level::Verbose, looked(operation)),
    };
    (Level::Info, text)
}

fn looked(operation: &Operation<'_>) -> String {
    match *operation {
        Operation::Init { version, .. } => format!("received client version {version}"),
        Operation::Stat { path } => one("stat name", path),
        Operation::LinkStat { path } => one("lstat name", path),
        Operation::RealPath { path } => one("realpath", path),
        Operation::ReadLink { path } => one("readlink", path),
        Operation::ExpandPath { path } => one("expand", path),
        Operation::NamesById { users, groups } => {
            let (users, groups) = (users.len() / 4, groups.len() / 4);
            format!("users-groups-by-id: {users} users, {groups} groups")
        }
        _ => String::new(),
    }
}

fn changes(attributes: &Attributes) -> Vec<String> {
    let size = attributes.size.map(|size| format!("size {size}"));
    let mode = attributes.permissions.map(|mode| format!("mode {mode:04o}"));
    let times = attributes.times.map(|(_, at)| format!("modtime {}", day_and_time(i64::from(at))));
    let owner = attributes.owner.map(|(user, group)| format!("owner {user} group {group}"));
    [size, mode, times, owner].into_iter().flatten().collect()
}

fn one(what: &str, path: &[u8]) -> String {
    format!("{what} \"{}\"", escape(path))
}

fn two(what: &str, from: &[u8], to: &[u8]) -> String {
    format!("{what} old \"{}\" new \"{}\"", escape(from), escape(to))
}

fn flag_names(flags: u32) -> String {
    let names = [
        (open::READ, "READ"),
        (open::WRITE, "WRITE"),
        (open::APPEND, "APPEND"),
        (open::CREATE, "CREATE"),
        (open::TRUNCATE, "TRUNCATE"),
        (open::EXCLUSIVE, "EXCL"),
    ];
    let set = names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name);
    set.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_so_that_a_line_stays_one() {
        let path = &b"a\"\n"[..];
        let flags = open::WRITE | open::CREATE;
        let operation = Operation::Open { path, flags, attributes: Default::default() };
        let expected = (Level::Info, r#"open "a\"\n" flags WRITE,CREATE mode 0666"#.to_owned());
        assert_eq!(named(&operation), expected);
        let operation = Operation::Rename { from: b"a", to: b"b" };
        assert_eq!(named(&operation).1, "rename old \"a\" new \"b\"");
        assert_eq!(named(&Operation::Limits).1, "");
    }

    #[test]
    fn nothing_is_logged_unless_asked_for() {
        let log = |words: &[&str]| Log::new(&Flags::parse(words.iter().copied()).expect("flags"));
        assert_eq!(log(&["-e"]).level, Some(Level::Error));
        assert_eq!(log(&["-e", "-l", "quiet"]).level, None);
        assert_eq!(log(&["-e", "-l", "VERBOSE"]).level, Some(Level::Verbose));
        assert!(log(&["-e"]).syslog.is_none() && log(&[]).syslog.is_some());
        let read = Operation::Read { handle: b"h", offset: 0, len: 1 };
        assert_eq!(log(&["-e", "-l", "VERBOSE"]).line(&read), None);
        let expected = "read \"(no such handle)\" off 0 len 1".to_owned();
        assert_eq!(log(&["-e", "-l", "DEBUG"]).line(&read), Some((Level::Debug, expected)));
    }
}
