//! What sshd does in a session's process before the shell runs: the last login, /etc/motd,
//! `~/.ssh/rc`, /etc/ssh/sshrc.
//!
//! These may take as long as they like, so they run in the new process itself: `tidegate session`
//! does them there and then becomes the program. It is started only where there is such a file.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::job::{Program, SpawnSpec};
use super::lastlog;

const MOTD: &str = "/etc/motd";
const HUSH: &str = ".hushlogin";
/// Below the home directory.
const USER_RC: &str = ".ssh/rc";
const SYSTEM_RC: &str = "/etc/ssh/sshrc";
const SHELL: &str = "/bin/sh";

const SAY: &str = "--say=";
const SHOW_MOTD: &CStr = c"--motd";
const RUN_USER_RC: &str = "--user-rc=";
const RUN_SYSTEM_RC: &CStr = c"--system-rc";

/// The words for `tidegate session` before those of the program; `None` when there is nothing to
/// do.
pub(super) fn words(spec: &SpawnSpec) -> Option<Vec<CString>> {
    let wanted = spec.prelude;
    let home = &spec.account.home;
    let login_shell = matches!(spec.program, Program::Shell) && spec.pty.is_some();
    let talks = login_shell && !home.join(HUSH).exists();
    let last_login =
        if talks && wanted.last_login { lastlog::message(spec.account.uid) } else { None };
    let last_step = format!("{SAY}{}", last_login.as_deref().unwrap_or_default());
    let last_step = CString::new(last_step).unwrap_or_default();
    let motd = wanted.motd && talks && Path::new(MOTD).exists();
    let user_rc = wanted.user_rc && home.join(USER_RC).exists();
    let system_rc = !user_rc && wanted.system_rc && Path::new(SYSTEM_RC).exists();
    let user_step = CString::new(format!("{RUN_USER_RC}{}", rc_of(home))).unwrap_or_default();
    let system_step = RUN_SYSTEM_RC.to_owned();
    let steps = [
        (last_login.is_some(), last_step),
        (motd, SHOW_MOTD.to_owned()),
        (user_rc, user_step),
        (system_rc, system_step),
    ];
    let steps = steps.into_iter().filter(|(due, _)| *due).map(|(_, word)| word);
    let steps = steps.collect::<Vec<_>>();
    if steps.is_empty() {
        return None;
    }
    let front = [c"tidegate".to_owned(), c"session".to_owned()];
    Some(front.into_iter().chain(steps).chain([c"--".to_owned()]).collect())
}

/// As sshd writes it, where no shell can misread that: the process has entered the home directory.
fn rc_of(home: &Path) -> String {
    let path = home.join(USER_RC);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    match path.to_str().filter(|path| path.chars().all(plain)) {
        Some(path) => path.to_owned(),
        None => USER_RC.to_owned(),
    }
}

/// `tidegate session`: does what its words say, then becomes the program named behind `--`, whose
/// first word is a path and whose second is the name it is to go by. Answers only if it cannot.
pub fn run_prelude(words: impl Iterator<Item = OsString>) -> io::Error {
    let mut words = words;
    let mut steps = Vec::new();
    for word in words.by_ref() {
        if word == "--" {
            break;
        }
        steps.push(word);
    }
    let (Some(program), Some(name)) = (words.next(), words.next()) else {
        return io::Error::other("started by a gateway, not by hand");
    };
    let is = |step: &CStr| steps.iter().any(|known| known.as_encoded_bytes() == step.to_bytes());
    for text in steps.iter().filter_map(|step| step.to_str()?.strip_prefix(SAY)) {
        let _ = io::stdout().lock().write_all(text.as_bytes());
    }
    if is(SHOW_MOTD) {
        // As in sshd, a text that cannot be shown is no reason to do without the shell.
        let _ = File::open(MOTD).and_then(|mut motd| io::copy(&mut motd, &mut io::stdout().lock()));
    }
    let user_rc = steps.iter().find_map(|step| step.to_str()?.strip_prefix(RUN_USER_RC));
    if let Some(path) = user_rc {
        run_rc(Command::new(&program).arg("-c").arg(format!("{SHELL} {path}")), path);
    } else if is(RUN_SYSTEM_RC) {
        run_rc(Command::new(SHELL).arg(SYSTEM_RC), SYSTEM_RC);
    }
    let why = Command::new(&program).arg0(name).args(words).exec();
    io::Error::new(why.kind(), format!("{}: {why}", program.display()))
}

/// Runs it to its end. On its standard input sshd writes what X11 forwarding needs, which is
/// nothing where nothing is forwarded.
fn run_rc(command: &mut Command, path: &str) {
    let started = command.stdin(Stdio::null()).status();
    if started.is_err() {
        // OpenSSH's words, where the user sees them.
        eprintln!("Could not run {path}");
    }
}
