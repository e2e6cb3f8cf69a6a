//! `tidegate sftp-server`: SFTP on standard input and output, as the Subsystem of any sshd. Takes the
//! flags of OpenSSH's sftp-server, under whose name it can be called.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{User, getuid};

use super::sftp_log::{Level, Log};
use super::{EXIT_USAGE, complain, print};
use crate::services::sftp::{self, Flags, Note, Setting, request_names};

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
    log.end();
    log.write(Level::Info, &format!("session closed for local user {name} from [{client}]"));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// A stream without the standard library's buffer in front of it.
fn own(stream: impl AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}
