//! Questions to whoever sits at the terminal. Answers that are secrets are never shown, and are
//! wiped when they are done with.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::limits::PASSWORD_BYTES_MAX;

/// Somebody who can be asked, if there is anybody.
#[derive(Clone, Copy, Debug)]
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
        let mut terminal = terminal.map_err(|_| NoAnswer::NoTerminal)?;
        let before = if hidden { hide(&terminal).ok() } else { None };
        let answer = terminal
            .write_all(question.as_bytes())
            .and_then(|()| read_line(&mut terminal))
            .map_err(|_| NoAnswer::Nothing);
        if let Some(before) = before {
            let _ = tcsetattr(terminal.as_fd(), SetArg::TCSAFLUSH, &before);
            // The line end that was typed was not shown either.
            let _ = terminal.write_all(b"\n");
        }
        answer
    }
}

/// Stops the terminal from showing what is typed; answers how it was.
fn hide(terminal: &File) -> nix::Result<Termios> {
    let before = tcgetattr(terminal.as_fd())?;
    let mut hidden = before.clone();
    hidden
        .local_flags
        .remove(LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ECHOK | LocalFlags::ECHONL);
    tcsetattr(terminal.as_fd(), SetArg::TCSAFLUSH, &hidden)?;
    Ok(before)
}

/// A line without its end, byte by byte: what follows it is for somebody else.
fn read_line(terminal: &mut File) -> io::Result<Zeroizing<Vec<u8>>> {
    let room = PASSWORD_BYTES_MAX as usize;
    // It never grows, so nothing of it is left behind elsewhere.
    let mut line = Zeroizing::new(Vec::with_capacity(room));
    let mut byte = Zeroizing::new([0]);
    loop {
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
