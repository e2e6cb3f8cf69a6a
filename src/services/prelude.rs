//! What sshd does in a session's process before the shell runs: the last login, /etc/motd,
//! `~/.ssh/rc`, /etc/ssh/sshrc, xauth.
//!
//! These may take as long as they like, so they run in the new process itself: `tidegate session`
//! does them there and then becomes the program. It is started only where there is such a file.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::forward::Display;
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
/// Tells what xauth is to know. Anybody can read the words of a process, its environment only the
/// account; what it becomes does not get this variable.
const DISPLAY: &str = "TIDEGATE_DISPLAY";
/// What PAM's modules tell the user, which is nobody else's business either.
const TEXT: &str = "TIDEGATE_TEXT";

/// The words for `tidegate session` before those of the program; `None` when there is nothing to
/// do.
pub(super) fn words(spec: &SpawnSpec) -> Option<Vec<CString>> {
    let wanted = spec.prelude;
    let home = &spec.account.home;
    let talks = talks(spec);
    let last_login =
        if talks && wanted.last_login { lastlog::message(spec.account.uid) } else { None };
    let text = says(spec);
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
    if steps.is_empty() && spec.display.is_none() && !text {
        return None;
    }
    let front = [c"tidegate".to_owned(), c"session".to_owned()];
    Some(front.into_iter().chain(steps).chain([c"--".to_owned()]).collect())
}

/// A shell starts at a terminal, and wants to hear of things.
fn talks(spec: &SpawnSpec) -> bool {
    let login_shell = matches!(spec.program, Program::Shell) && spec.pty.is_some();
    login_shell && !spec.account.home.join(HUSH).exists()
}

fn says(spec: &SpawnSpec) -> bool {
    spec.prelude.text && !spec.text.is_empty() && talks(spec)
}

/// The variables that go with the words.
pub(super) fn variables(spec: &SpawnSpec) -> Vec<CString> {
    let text = says(spec).then(|| CString::new(format!("{TEXT}={}", spec.text)).ok()).flatten();
    text.into_iter().chain(spec.display.as_ref().and_then(variable)).collect()
}

fn variable(display: &Display) -> Option<CString> {
    let Display { auth_name, protocol, cookie, xauth, .. } = display;
    CString::new(format!("{DISPLAY}={auth_name}\n{protocol}\n{cookie}\n{xauth}")).ok()
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
    if let Some(text) = std::env::var_os(TEXT) {
        let _ = io::stdout().lock().write_all(text.as_encoded_bytes());
    }
    for text in steps.iter().filter_map(|step| step.to_str()?.strip_prefix(SAY)) {
        let _ = io::stdout().lock().write_all(text.as_bytes());
    }
    if is(SHOW_MOTD) {
        // As in sshd, a text that cannot be shown is no reason to do without the shell.
        let _ = File::open(MOTD).and_then(|mut motd| io::copy(&mut motd, &mut io::stdout().lock()));
    }
    let told = std::env::var(DISPLAY).unwrap_or_default();
    let auth = Auth::read(&told);
    let rc_input = auth.as_ref().map(|auth| format!("{} {}\n", auth.protocol, auth.cookie));
    let user_rc = steps.iter().find_map(|step| step.to_str()?.strip_prefix(RUN_USER_RC));
    if let Some(path) = user_rc {
        let mut shell = Command::new(&program);
        run_fed(shell.arg("-c").arg(format!("{SHELL} {path}")), path, rc_input.as_deref());
    } else if is(RUN_SYSTEM_RC) {
        let mut shell = Command::new(SHELL);
        run_fed(shell.arg(SYSTEM_RC), SYSTEM_RC, rc_input.as_deref());
    } else if let Some(auth) = auth {
        auth.tell();
    }
    let why =
        Command::new(&program).arg0(name).args(words).env_remove(DISPLAY).env_remove(TEXT).exec();
    io::Error::new(why.kind(), format!("{}: {why}", program.display()))
}

/// What xauth is to be told of a display.
struct Auth<'a> {
    name: &'a str,
    protocol: &'a str,
    cookie: &'a str,
    xauth: &'a str,
}

impl Auth<'_> {
    /// What [`variable`] wrote.
    fn read(text: &str) -> Option<Auth<'_>> {
        let mut parts = text.splitn(4, '\n');
        let [name, protocol, cookie, xauth] = [(); 4].map(|()| parts.next().unwrap_or_default());
        (!xauth.is_empty()).then_some(Auth { name, protocol, cookie, xauth })
    }

    /// In sshd's words; an entry from before goes first.
    fn tell(&self) {
        let Auth { name, protocol, cookie, xauth } = self;
        let lines = format!("remove {name}\nadd {name} {protocol} {cookie}\n");
        run_fed(Command::new(xauth).args(["-q", "-"]), xauth, Some(&lines));
    }
}

/// Runs it to its end, with this on its standard input. What sshrc(5) gets is the protocol and the
/// cookie where X11 is forwarded, else nothing.
fn run_fed(command: &mut Command, path: &str, input: Option<&str>) {
    command.env_remove(DISPLAY).env_remove(TEXT);
    let ran = match input {
        None => command.stdin(Stdio::null()).status().map(|_| ()),
        Some(text) => command.stdin(Stdio::piped()).spawn().and_then(|mut child| {
            // Whoever does not read it, or not all, has its reasons.
            child.stdin.take().map(|mut pipe| pipe.write_all(text.as_bytes()));
            child.wait().map(|_| ())
        }),
    };
    if ran.is_err() {
        // OpenSSH's words, where the user sees them.
        eprintln!("Could not run {path}");
    }
}
