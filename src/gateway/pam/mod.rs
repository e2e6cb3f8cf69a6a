//! PAM (`UsePAM`, sshd_config(5)). Its modules are other people's code, run with root's rights, and may
//! take their time or never return. So each login is asked about in a process of its own (`tidegate
//! pam`), which root's process starts, tells what it has to know through a pipe, and kills when it is
//! late.

mod library;
pub mod porter;
mod words;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use self::library::{Library, Login};
pub use self::words::{Question, Stage, Step, Task};
use super::config::{Config, Who};
use super::program::{PATH, Running};
use crate::limits::{PAM_PASSWORD_BYTES_MAX, PAM_QUESTION_BYTES_MAX, PAM_TIME_MAX};
use crate::reactor;

/// Refuses to begin where PAM is to be asked and cannot be.
///
/// # Errors
/// We are not root, or libpam is missing.
pub fn check(config: &Config) -> anyhow::Result<()> {
    if !config.login.use_pam {
        return Ok(());
    }
    let place = config
        .place_of("UsePAM", &Who::default())
        .map_or(String::new(), |place| format!("{place}: "));
    if !geteuid().is_root() {
        bail!(
            "{place}UsePAM yes: only root can ask PAM about others; start the gateway as root, or write \
             UsePAM no"
        );
    }
    let question = Question { service: "", user: "", host: "", task: Task::Probe };
    ask(&question).map_err(|no| anyhow::anyhow!("{place}UsePAM yes: {}", no.why))
}

/// Asks about a login, for [`PAM_TIME_MAX`] at most.
///
/// # Errors
/// What PAM says no to, or why it could not be asked; the text is for the log.
pub fn ask(question: &Question<'_>) -> Result<(), Step> {
    let failed = |why: String| Step { stage: Stage::Process, why };
    let bytes = question.encode();
    let bytes =
        bytes.ok_or_else(|| failed("what PAM would have to hear is too long".to_owned()))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("tidegate")
        .arg("pam")
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|why| failed(format!("cannot start the process that asks PAM: {why}")))?;
    // It fits into the pipe, so this waits for nobody.
    let told = child.stdin.take().map(|mut pipe| pipe.write_all(&bytes));
    drop(bytes);
    let mut running = Running::new(child, PAM_TIME_MAX);
    if !matches!(told, Some(Ok(()))) {
        return Err(failed("the process that asks PAM has ended".to_owned()));
    }
    let answer = running.answer(reactor::now().after(PAM_TIME_MAX));
    words::decode(&answer.map_err(|why| failed(format!("the process that asks PAM: {why}")))?)
}

/// A password that is nobody's, in the place of one that must not let in: PAM is asked all the same, so
/// that it takes as long (SECURITY case 65).
pub fn fake(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let junk = b"\x08\n\r\x7fof nobody".iter().cycle();
    Zeroizing::new(junk.take(password.len().min(PAM_PASSWORD_BYTES_MAX)).copied().collect())
}

/// Whether a module could be given it as it is.
pub fn fits(password: &[u8]) -> bool {
    password.len() <= PAM_PASSWORD_BYTES_MAX && !password.contains(&0)
}

/// `tidegate pam`: reads one question, asks, and writes the answer.
///
/// # Errors
/// It was started by hand, or the pipe is gone.
pub fn run() -> anyhow::Result<()> {
    // No debugger and no core file sees the password.
    nix::sys::prctl::set_dumpable(false)?;
    let mut bytes = Zeroizing::new(vec![0; PAM_QUESTION_BYTES_MAX]);
    let len = read_all(&mut io::stdin().lock(), &mut bytes)?;
    let bytes = bytes.get(..len).unwrap_or_default();
    let question = Question::decode(bytes).ok().context(super::helper::NOT_BY_HAND)?;
    // Modules and what they start have neither pipe.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    let answer = consider(&question);
    out.write_all(&words::encode(&answer))?;
    Ok(())
}

fn read_all(from: &mut impl Read, space: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    loop {
        match from.read(space.get_mut(len..).unwrap_or_default()) {
            Ok(0) => return Ok(len),
            Ok(count) => len += count,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
}

fn consider(question: &Question<'_>) -> Result<(), Step> {
    let failed = |why| Step { stage: Stage::Process, why };
    let library = Library::load().map_err(failed)?;
    let (password, empty_permitted) = match question.task {
        Task::Probe => return Ok(()),
        Task::Account => (None, true),
        Task::Login { password, empty_permitted } => {
            let mut text = Zeroizing::new(Vec::with_capacity(password.len() + 1));
            text.extend(password.iter().copied().filter(|byte| *byte != 0));
            text.push(0);
            (Some(text), empty_permitted)
        }
    };
    let text = |text: &str| CString::new(text).map_err(|_| failed("a name with a NUL".to_owned()));
    library.ask(&Login {
        service: text(question.service)?,
        user: text(question.user)?,
        host: text(question.host)?,
        password,
        empty_permitted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_is_no_password_and_as_long() {
        for len in [0, 1, 12, 100] {
            let password = vec![b'x'; len];
            let fake = fake(&password);
            assert_eq!(fake.len(), len);
            assert!(fits(&fake) && (len == 0 || *fake != password));
        }
        assert!(!fits(b"a\0b") && !fits(&[b'x'; PAM_PASSWORD_BYTES_MAX + 1]));
        assert_eq!(fake(&[b'x'; PAM_PASSWORD_BYTES_MAX + 1]).len(), PAM_PASSWORD_BYTES_MAX);
    }
}
