//! The terminal while `ctl top` has it: another screen without a cursor, and as it was on every way out.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::client::Raw;
use crate::services::window_size;

/// The other screen, no cursor, no wrapping of lines that are longer than they look.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Columns and rows of a terminal that does not tell.
const USUAL: (usize, usize) = (80, 24);

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    Nothing,
    End,
    Suspend,
}

/// A terminal that is drawn on.
pub struct Screen {
    /// `None`: nobody types at it.
    keys: Option<Raw>,
}

impl Screen {
    /// Takes standard output's terminal, and keys from standard input's, if it is one.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn enter() -> io::Result<Screen> {
        let keys = if io::stdin().is_terminal() { Some(Raw::enter()?) } else { None };
        let screen = Screen { keys };
        write(ENTER)?;
        Ok(screen)
    }

    /// What is readable when a key was pressed.
    pub fn keys<'a>(&self, input: &'a io::Stdin) -> Option<BorrowedFd<'a>> {
        self.keys.as_ref().map(|_| input.as_fd())
    }

    /// What was typed, once something is there. The end of all typing is one too.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn typed(&self) -> io::Result<Typed> {
        let mut bytes = [0; 64];
        let len = nix::unistd::read(io::stdin(), &mut bytes)?;
        let typed = bytes.get(..len).unwrap_or_default();
        let has = |wanted: &[u8]| typed.iter().any(|byte| wanted.contains(byte));
        // Ctrl-C, Ctrl-D and Ctrl-Z are bytes here.
        Ok(match () {
            () if len == 0 || has(b"qQ\x03\x04") => Typed::End,
            () if has(b"\x1a") => Typed::Suspend,
            () => Typed::Nothing,
        })
    }

    /// Stops this process until somebody lets it go on, with the terminal as it was.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn suspend(&self) -> io::Result<()> {
        if let Some(keys) = &self.keys {
            write(LEAVE)?;
            keys.suspend();
            write(ENTER)?;
        }
        Ok(())
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        let size = window_size(io::stdout().as_fd());
        let size = size.map(|size| (size.columns as usize, size.rows as usize));
        size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or(USUAL)
    }

    /// Shows these lines and nothing else; what does not fit is left out.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn draw(&self, lines: &[String]) -> io::Result<()> {
        let (columns, rows) = self.size();
        let lines: Vec<String> =
            lines.iter().take(rows).map(|line| line.chars().take(columns).collect()).collect();
        write(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(LEAVE);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
