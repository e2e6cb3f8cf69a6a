//! A program that asks in the terminal's place (ssh(1), SSH_ASKPASS and SSH_ASKPASS_REQUIRE).

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::person::read_line;

/// Debian's choice, where nobody has named one.
const USUAL: &str = "/usr/bin/ssh-askpass";

/// The program, if one is to ask; `terminal`: there is one.
pub fn program(terminal: bool) -> Option<OsString> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let screen = set("DISPLAY").or_else(|| set("WAYLAND_DISPLAY")).is_some();
    let require = set("SSH_ASKPASS_REQUIRE").unwrap_or_default().to_ascii_lowercase();
    let asks = match require.to_str() {
        Some("never") => false,
        Some("force") => true,
        Some("prefer") => screen,
        _ => screen && !terminal,
    };
    asks.then(|| set("SSH_ASKPASS").unwrap_or_else(|| USUAL.into()))
}

/// What the program says, up to the end of its line.
///
/// # Errors
/// It cannot be run, says nothing or fails, as one does that somebody has cancelled.
pub fn ask(program: &OsStr, question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut command = Command::new(program);
    command.arg(question).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let said = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut said = File::from(OwnedFd::from(said));
    let line = read_line(&mut said, |_| Ok(true));
    // It may have more to say, and is not to fail for that.
    io::copy(&mut said, &mut io::sink())?;
    match child.wait()?.success() {
        true => line,
        false => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}
