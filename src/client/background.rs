//! Into the background once logged in (ssh(1), -f).
//!
//! Nothing is forked in the middle: what goes to the background is a process of its own from the
//! beginning, and the one that was started waits until it is told that the other is logged in. So the
//! shell's job ends then, and rings and threads stay where they were made.

use std::env;
use std::fs::File;
use std::io::{Read, Write, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

/// Set for the one that goes to the background; its standard input is where it tells.
const MARK: &str = "TIDEGATE_SSH_BACKGROUND";
/// What is told.
const LOGGED_IN: u8 = b'1';

/// Runs these words again in a process of its own, and waits until that is logged in. Its exit status
/// if it ends before.
///
/// # Errors
/// It cannot be started.
pub fn start(words: &[std::ffi::OsString]) -> Result<u8> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let program = env::current_exe().context("our own program")?;
    let mut child = Command::new(program)
        .arg("ssh")
        .args(words)
        .env(MARK, "1")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .context("a process for the background")?;
    let mut told = [0];
    match ours.read(&mut told) {
        Ok(1) if told == [LOGGED_IN] => Ok(0),
        _ => Ok(child.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255)),
    }
}

/// Whether this process is the one that goes there.
pub fn is_it() -> bool {
    env::var_os(MARK).is_some()
}

/// Tells whoever waits, and leaves the terminal's session: what is typed there is not for us. Of our standard
/// streams nothing is held that a command there does not use: whoever reads them to their end waits for no more.
/// `talks`: there is still something to tell on standard error.
///
/// # Errors
/// They cannot be let go.
pub fn go(talks: bool) -> Result<()> {
    let mut front = File::from(stdin().as_fd().try_clone_to_owned()?);
    // Who waits may have been ended.
    let _ = setsid();
    let nothing = File::options().read(true).write(true).open("/dev/null").context("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    if !talks {
        dup2_stderr(&nothing)?;
    }
    let _ = front.write_all(&[LOGGED_IN]);
    Ok(())
}
