//! Questions to whoever sits at the terminal, or before a program that asks in its place. Answers that are secrets are never shown, and are
//! wiped when they are done with.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::askpass;
use crate::gateway::signals::{Signals, Woken};
use crate::limits::PASSWORD_BYTES_MAX;

/// Somebody who can be asked, if there is anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// `BatchMode`: nobody is asked anything.
    batch: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("BatchMode is yes")]
    Batch,
    #[error("there is no terminal")]
    NoTerminal,
    #[error("nothing was answered")]
    Nothing,
}

impl Person {
    pub const fn new(batch: bool) -> Person {
        Person { batch }
    }

    /// Asks for a line; what is typed is shown.
    ///
    /// # Errors
    /// There is nobody to ask, or the terminal was closed instead.
    pub fn ask(self, question: &str) -> Result<String, NoAnswer> {
        let answer = self.converse(question, false)?;
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    }

    /// Asks for a secret; what is typed is not shown.
    ///
    /// # Errors
    /// As [`Person::ask`].
    pub fn ask_secret(self, question: &str) -> Result<Zeroizing<Vec<u8>>, NoAnswer> {
        self.converse(question, true)
    }

    fn converse(self, question: &str, hidden: bool) -> Result<Zeroizing<Vec<u8>>, NoAnswer> {
        if self.batch {
            return Err(NoAnswer::Batch);
        }
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
        if let Some(program) = askpass::program(terminal.is_ok()) {
            return askpass::ask(&program, question).map_err(|_| NoAnswer::Nothing);
        }
        let mut terminal = terminal.map_err(|_| NoAnswer::NoTerminal)?;
        let answer = match hidden {
            true => converse_hidden(&mut terminal, question),
            false => terminal
                .write_all(question.as_bytes())
                .and_then(|()| read_line(&mut terminal, |_| Ok(true))),
        };
        answer.map_err(|_| NoAnswer::Nothing)
    }
}

/// Asks without showing what is typed. A signal meanwhile finds the terminal as it was; if it only
/// stopped us, the question is asked again.
fn converse_hidden(terminal: &mut File, question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    loop {
        let caught = Caught::new()?;
        let hidden = Hidden::new(terminal)?;
        terminal.write_all(question.as_bytes())?;
        let mut signal = None;
        let line = read_line(terminal, |terminal| {
            signal = caught.before(terminal)?;
            Ok(signal.is_none())
        });
        drop(hidden);
        // The line end that was typed was not shown either.
        let _ = terminal.write_all(b"\n");
        caught.release()?;
        let Some(signal) = signal else { return line };
        // As it would have come: most end us here.
        raise(signal)?;
    }
}

/// The signals that end or stop somebody who types, held back so that the terminal can be put right
/// first.
struct Caught {
    signals: Signals,
    before: SigSet,
}

impl Caught {
    fn new() -> io::Result<Caught> {
        let before = SigSet::thread_get_mask()?;
        let all =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP];
        // Whoever had them held back has his reasons.
        let ours: Vec<Signal> = all.into_iter().filter(|one| !before.contains(*one)).collect();
        Ok(Caught { signals: Signals::catch(&ours)?, before })
    }

    /// The signal that comes before the terminal has something to read.
    fn before(&self, terminal: &File) -> io::Result<Option<Signal>> {
        match self.signals.wait(&[terminal.as_fd()], None)? {
            Woken::Signal(signal) => Ok(Some(signal)),
            Woken::Ready(_) | Woken::TimedOut => Ok(None),
        }
    }

    /// They come as they did before.
    fn release(self) -> io::Result<()> {
        Ok(self.before.thread_set_mask()?)
    }
}

/// A terminal that does not show what is typed, for as long as this lasts.
struct Hidden {
    terminal: OwnedFd,
    before: Termios,
}

impl Hidden {
    fn new(terminal: &File) -> io::Result<Hidden> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ECHOK | LocalFlags::ECHONL);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden)?;
        Ok(Hidden { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

/// A line without its end, byte by byte: what follows it is for somebody else. `goes_on` is asked
/// before each byte.
pub(super) fn read_line(
    terminal: &mut File,
    mut goes_on: impl FnMut(&File) -> io::Result<bool>,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let room = PASSWORD_BYTES_MAX as usize;
    // It never grows, so nothing of it is left behind elsewhere.
    let mut line = Zeroizing::new(Vec::with_capacity(room));
    let mut byte = Zeroizing::new([0]);
    loop {
        if !goes_on(terminal)? {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match terminal.read(&mut *byte) {
            Ok(0) if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(line),
            Ok(_) if byte[0] == b'\n' => return Ok(line),
            Ok(_) if line.len() < room => line.push(byte[0]),
            Ok(_) => {}
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
}
