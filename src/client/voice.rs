use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::escape;

/// How much is told (ssh_config(5), LogLevel).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Quiet,
    Fatal,
    Error,
    Info,
    Verbose,
    Debug1,
    Debug2,
    Debug3,
}

impl Level {
    /// Of several of one level the first is the one that is shown.
    pub const NAMES: [(&'static str, Level); 10] = [
        ("SILENT", Level::Quiet),
        ("QUIET", Level::Quiet),
        ("FATAL", Level::Fatal),
        ("ERROR", Level::Error),
        ("INFO", Level::Info),
        ("VERBOSE", Level::Verbose),
        ("DEBUG", Level::Debug1),
        ("DEBUG1", Level::Debug1),
        ("DEBUG2", Level::Debug2),
        ("DEBUG3", Level::Debug3),
    ];

    const ALL: [Level; 8] = [
        Level::Quiet,
        Level::Fatal,
        Level::Error,
        Level::Info,
        Level::Verbose,
        Level::Debug1,
        Level::Debug2,
        Level::Debug3,
    ];

    /// What ssh_config(5) calls it.
    pub fn name(self) -> &'static str {
        let known = Level::NAMES.iter().find(|(_, level)| *level == self);
        known.map_or("INFO", |(name, _)| name)
    }

    /// One step more talkative.
    #[must_use]
    pub fn louder(self) -> Level {
        *Level::ALL.get(self as usize + 1).unwrap_or(&Level::Debug3)
    }

    /// One step less.
    #[must_use]
    pub fn quieter(self) -> Level {
        *Level::ALL.get((self as usize).saturating_sub(1)).unwrap_or(&Level::Quiet)
    }
}

/// What a client tells whoever started it: lines on standard error, or in a file.
///
/// Nothing secret is ever handed to it, and what a peer has said comes to it escaped.
#[derive(Debug)]
pub struct Voice {
    level: AtomicU8,
    /// The terminal is raw: a line end alone does not return to the first column.
    raw: AtomicBool,
    out: Mutex<Out>,
}

#[derive(Debug)]
enum Out {
    Stderr,
    File(File),
}

impl Voice {
    pub const fn new(level: Level) -> Voice {
        let (level, raw) = (AtomicU8::new(level as u8), AtomicBool::new(false));
        Voice { level, raw, out: Mutex::new(Out::Stderr) }
    }

    /// Lines go to the end of this file from now on.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn redirect(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        *self.out.lock().unwrap_or_else(PoisonError::into_inner) = Out::File(file);
        Ok(())
    }

    pub fn level(&self) -> Level {
        let number = self.level.load(Ordering::Relaxed);
        *Level::ALL.get(usize::from(number)).unwrap_or(&Level::Info)
    }

    pub fn set_level(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    pub fn set_raw(&self, raw: bool) {
        self.raw.store(raw, Ordering::Relaxed);
    }

    /// One or more lines at this level.
    pub fn say(&self, level: Level, text: impl fmt::Display) {
        if level > self.level() {
            return;
        }
        let prefix = match level {
            Level::Debug1 => "debug1: ",
            Level::Debug2 => "debug2: ",
            Level::Debug3 => "debug3: ",
            _ => "",
        };
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let to_terminal = matches!(*out, Out::Stderr) && self.raw.load(Ordering::Relaxed);
        let end = if to_terminal { "\r\n" } else { "\n" };
        let mut lines = String::new();
        for line in text.to_string().lines() {
            lines.push_str(prefix);
            lines.push_str(line);
            lines.push_str(end);
        }
        // Whoever does not want to hear is not told.
        let _ = match &mut *out {
            Out::Stderr => io::stderr().lock().write_all(lines.as_bytes()),
            Out::File(file) => file.write_all(lines.as_bytes()),
        };
    }

    /// What somebody at the terminal has asked to be told: at every level.
    pub fn answer(&self, text: impl fmt::Display) {
        self.say(Level::Quiet, text);
    }

    pub fn error(&self, text: impl fmt::Display) {
        self.say(Level::Error, text);
    }

    pub fn info(&self, text: impl fmt::Display) {
        self.say(Level::Info, text);
    }

    pub fn debug(&self, text: impl fmt::Display) {
        self.say(Level::Debug1, text);
    }
}

/// Text of a server's for a terminal: its lines and what a person can read in them. Everything else is
/// shown as an escape (SECURITY case 120).
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut bytes = [0; 4];
    for character in text.chars() {
        match character {
            '\n' | '\t' | '\\' | '"' => shown.push(character),
            '\r' => {}
            character => {
                shown.push_str(&escape(character.encode_utf8(&mut bytes).as_bytes()).to_string());
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_120_a_servers_text_cannot_write_to_the_terminal_as_it_likes() {
        assert_eq!(harmless("two\r\nlines\t\"ok\" \\o/"), "two\nlines\t\"ok\" \\o/");
        let hostile = harmless("\x1b]0;title\x07\u{9b}31m\u{202e}evil\x08");
        assert!(hostile.chars().all(|c| c.is_ascii_graphic()), "{hostile}");
    }

    #[test]
    fn levels_have_neighbours() {
        assert_eq!(Level::Info.louder(), Level::Verbose);
        assert_eq!(Level::Debug3.louder(), Level::Debug3);
        assert_eq!(Level::Quiet.quieter(), Level::Quiet);
        assert_eq!(Level::Info.quieter(), Level::Error);
    }
}
