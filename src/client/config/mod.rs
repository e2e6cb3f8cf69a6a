//! The language of ssh_config(5): what a command line and a user's files say about one host.
//!
//! Lines are read in their order and the first value of a keyword counts, so the command line comes
//! first, then the user's file, then the system's. [`keywords`] knows every keyword; `reader` the
//! blocks; `settle` makes [`Options`] of what was read, tokens expanded.

mod draft;
pub mod keywords;
mod reader;
mod settle;
mod tokens;

use std::path::{Path, PathBuf};

pub use draft::{Forwards, Jump, Proxy, parse_destination};

use super::Options;
use crate::gateway::config::{ConfigErrors, Diagnostic, Source, Surroundings};
use reader::{Pass, Reading};

/// Where the options of a connection come from.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// As it stands on the command line, without the user and the port.
    pub host: String,
    /// From `user@host`: counts before every line.
    pub user: Option<String>,
    /// `Keyword value` of the command line, in the order in which they count.
    pub lines: Vec<String>,
    pub files: Files,
    /// What is to run there, on the command line.
    pub command: Option<Vec<u8>>,
    /// Who starts it, and where he lives.
    pub local_user: String,
    pub home: Option<PathBuf>,
}

/// Which files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Files {
    /// `~/.ssh/config` and /etc/ssh/ssh_config, where they are.
    #[default]
    Usual,
    /// `-F`: this one alone.
    Only(PathBuf),
    /// `-F none`
    None,
}

/// Options, and things to tell the user once.
#[derive(Clone, Debug)]
pub struct Settled {
    pub options: Options,
    pub warnings: Vec<Diagnostic>,
}

/// Reads what there is to read about a host.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn read(request: &Request, source: &dyn Source) -> Result<Settled, ConfigErrors> {
    let surroundings = Surroundings { home: request.home.clone(), ..Surroundings::default() };
    let mut reading = read_once(request, source, &surroundings, Pass::First);
    if reading.wants_final && reading.errors.is_empty() {
        // As in ssh: the files are read again, for the name that was found, and fill up what is open.
        let mut again = Reading::new(request, source, &surroundings, Pass::Final);
        again.draft = reading.draft;
        read_files(&mut again, request);
        reading = again;
    }
    let Reading { draft, mut errors, warnings, .. } = reading;
    let options = settle::settle(draft, request, &mut errors);
    match options {
        Some(options) if errors.is_empty() => Ok(Settled { options, warnings }),
        _ => Err(ConfigErrors { errors }),
    }
}

fn read_once<'a>(
    request: &'a Request,
    source: &'a dyn Source,
    surroundings: &'a Surroundings,
    pass: Pass,
) -> Reading<'a> {
    let mut reading = Reading::new(request, source, surroundings, pass);
    for line in &request.lines {
        reading.option(line);
    }
    read_files(&mut reading, request);
    reading
}

fn read_files(reading: &mut Reading<'_>, request: &Request) {
    match &request.files {
        Files::None => {}
        Files::Only(path) => reading.file(path, true),
        Files::Usual => {
            if let Some(home) = &request.home {
                reading.file(&home.join(".ssh/config"), false);
            }
            reading.file(Path::new("/etc/ssh/ssh_config"), false);
        }
    }
}

#[cfg(test)]
mod tests;
