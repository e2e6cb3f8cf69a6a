//! `tidegate sftp-server`: SFTP on standard input and output, as the Subsystem of any sshd. Takes the
//! flags of OpenSSH's sftp-server, under whose name it can be called.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{User, getuid};

use super::{EXIT_USAGE, complain, print};
use crate::base::escape;
use crate::services::sftp::{self, Flags, Note, Setting, request_names};
use crate::wire::sftp::{Operation, StatusCode, open};

const USAGE: &str = "\
Usage: tidegate sftp-server [-ehR] [-d START_DIRECTORY] [-f FACILITY] [-l LEVEL]
                            [-P REQUESTS] [-p REQUESTS] [-u UMASK]
       tidegate sftp-server -Q requests

Serves SFTP version 3 on standard input and output; an sshd starts it:
  Subsystem sftp /usr/local/bin/tidegate sftp-server

  -d START_DIRECTORY  relative paths start here; %d is the home, %u the user
  -e                  log to standard error instead of syslog
  -f FACILITY         of syslog: DAEMON, USER, AUTH (the default), LOCAL0 to LOCAL7
  -l LEVEL            QUIET, FATAL, ERROR (the default), INFO, VERBOSE, DEBUG, DEBUG2, DEBUG3
  -P REQUESTS         refuse these, separated by commas
  -p REQUESTS         refuse all but these
  -Q requests         print the names of all requests
  -R                  refuse everything that changes something
  -u UMASK            of new files and directories, in octal
  -h                  print this
";

/// Syslog's numbers for AUTH, and for an event worth telling.
const AUTH: u8 = 4;
const INFO: u8 = 6;

/// Runs `sftp-server` with the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    if words.iter().any(|word| word == "--help") {
        return print(USAGE);
    }
    let flags = match Flags::parse(words.iter().map(String::as_str)) {
        Ok(flags) => flags,
        Err(why) => {
            complain(&format!("sftp-server: {why}\n\n{USAGE}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if flags.help {
        return print(USAGE);
    }
    match flags.query.as_deref() {
        None => serve(flags),
        Some(query) if query.eq_ignore_ascii_case("requests") => {
            print(&request_names().map(|name| format!("{name}\n")).collect::<String>())
        }
        Some(query) => {
            complain(&format!("sftp-server: -Q {query}: only `-Q requests` is known\n"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn serve(mut flags: Flags) -> ExitCode {
    // Others of the account shall not reach what this process has open beyond their rights.
    let _ = prctl::set_dumpable(false);
    // This process has one thread, so the umask can be its own.
    if let Some(mask) = flags.options.umask.take() {
        umask(Mode::from_bits_truncate(mask));
    }
    let user = User::from_uid(getuid()).ok().flatten();
    let (name, home) = user.map(|user| (user.name, user.dir)).unwrap_or_default();
    let start = flags.options.start_directory(&home, &name);
    let here = std::env::current_dir().unwrap_or(home);
    let here = CString::new(here.as_os_str().as_bytes()).unwrap_or_default();
    let client = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let client = client.split(' ').next().filter(|word| !word.is_empty()).unwrap_or("UNKNOWN");
    let mut log = Log::new(&flags);
    log.write(Level::Info, &format!("session opened for local user {name} from [{client}]"));
    let streams = own(io::stdin()).and_then(|input| Ok((input, own(io::stdout())?)));
    let code = match streams {
        Ok((mut input, mut output)) => {
            let mut hear = |note: Note<'_>| log.note(note);
            let setting = Setting {
                home: &here,
                start: start.as_deref(),
                options: flags.options,
                log: &mut hear,
            };
            sftp::serve(&mut input, &mut output, setting)
        }
        Err(_) => 1,
    };
    log.write(Level::Info, &format!("session closed for local user {name} from [{client}]"));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// A stream without the standard library's buffer in front of it.
fn own(stream: impl AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Error,
    Info,
    Verbose,
    Debug,
}

/// Syslog, or standard error.
struct Log {
    level: Option<Level>,
    facility: u8,
    syslog: Option<UnixDatagram>,
}

impl Log {
    fn new(flags: &Flags) -> Log {
        let level = match flags.level.as_deref() {
            Some("QUIET") => None,
            None | Some("FATAL" | "ERROR") => Some(Level::Error),
            Some("INFO") => Some(Level::Info),
            Some("VERBOSE") => Some(Level::Verbose),
            Some(_) => Some(Level::Debug),
        };
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            // A log that is not read shall not hold the session up.
            socket.set_nonblocking(true)?;
            socket.connect("/dev/log").map(|()| socket)
        };
        let wanted = !flags.to_stderr && level > Some(Level::Error);
        let syslog = if wanted { connect().ok() } else { None };
        let level = level.filter(|_| flags.to_stderr || syslog.is_some());
        Log { level, facility: flags.facility.unwrap_or(AUTH), syslog }
    }

    fn write(&mut self, level: Level, text: &str) {
        if self.level < Some(level) {
            return;
        }
        match &self.syslog {
            Some(socket) => {
                let priority = self.facility * 8 + INFO;
                let line = format!("<{priority}>sftp-server[{}]: {text}", std::process::id());
                let _ = socket.send(line.as_bytes());
            }
            None => complain(&format!("sftp-server: {text}\n")),
        }
    }

    fn note(&mut self, note: Note<'_>) {
        if self.level < Some(Level::Info) {
            return;
        }
        match note {
            Note::Asked(operation) => {
                let (level, text) = asked(operation);
                self.write(level, &text);
            }
            Note::Answered(code) => {
                let usual = matches!(code, StatusCode::Ok | StatusCode::Eof);
                let level = if usual { Level::Debug } else { Level::Info };
                self.write(level, &format!("sent status {}", code.text()));
            }
        }
    }
}

/// A request in OpenSSH's words: what changes something or opens something at INFO, all else below.
fn asked(operation: &Operation<'_>) -> (Level, String) {
    let text = match *operation {
        Operation::Open { path, flags, attributes } => {
            let mode = attributes.permissions.unwrap_or(0o666);
            format!("open \"{}\" flags {} mode 0{mode:o}", escape(path), flag_names(flags))
        }
        Operation::OpenDirectory { path } => format!("opendir \"{}\"", escape(path)),
        Operation::Remove { path } => format!("remove name \"{}\"", escape(path)),
        Operation::MakeDirectory { path, attributes } => {
            let mode = attributes.permissions.unwrap_or(0o777);
            format!("mkdir name \"{}\" mode 0{mode:o}", escape(path))
        }
        Operation::RemoveDirectory { path } => format!("rmdir name \"{}\"", escape(path)),
        Operation::SetStat { path, .. } => format!("set \"{}\"", escape(path)),
        Operation::LinkSetStat { path, .. } => format!("lset \"{}\"", escape(path)),
        Operation::Rename { from, to } => two("rename", from, to),
        Operation::PosixRename { from, to } => two("posix-rename", from, to),
        Operation::SymbolicLink { target, path } => two("symlink", target, path),
        Operation::HardLink { existing, path } => two("hardlink", existing, path),
        Operation::Write { data, .. } => {
            return (Level::Debug, format!("write {} bytes", data.len()));
        }
        ref other => return (Level::Debug, format!("{other:?}")),
    };
    (Level::Info, text)
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
    fn log_lines_read_as_openssh_s() {
        let path = &b"a\"\n"[..];
        let flags = open::WRITE | open::CREATE;
        let operation = Operation::Open { path, flags, attributes: Default::default() };
        let expected = (Level::Info, r#"open "a\"\n" flags WRITE,CREATE mode 0666"#.to_owned());
        assert_eq!(asked(&operation), expected);
        let operation = Operation::Rename { from: b"a", to: b"b" };
        assert_eq!(asked(&operation).1, "rename old \"a\" new \"b\"");
        assert_eq!(asked(&Operation::Limits).0, Level::Debug);
    }

    #[test]
    fn nothing_is_logged_unless_asked_for() {
        let log = |words: &[&str]| Log::new(&Flags::parse(words.iter().copied()).expect("flags"));
        assert_eq!(log(&["-e"]).level, Some(Level::Error));
        assert_eq!(log(&["-e", "-l", "quiet"]).level, None);
        assert_eq!(log(&["-e", "-l", "VERBOSE"]).level, Some(Level::Verbose));
        assert!(log(&[]).syslog.is_none());
    }
}
