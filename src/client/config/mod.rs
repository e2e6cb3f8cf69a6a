//! The language of ssh_config(5): what a command line and a user's files say about one host.
//!
//! Lines are read in their order and the first value of a keyword counts, so the command line comes
//! first, then the user's file, then the system's. [`keywords`] knows every keyword; `reader` the
//! blocks; `settle` makes [`Options`] of what was read, tokens expanded.

mod draft;
mod dump;
pub mod keywords;
mod reader;
mod settle;
mod tokens;

use std::path::{Path, PathBuf};

pub use draft::{Forwards, Jump, Proxy, RequestTty, SessionType, parse_destination};

use super::Options;
use crate::gateway::config::{ConfigErrors, Diagnostic, Source, Surroundings};
use crate::limits::JUMPS_MAX;
use draft::Draft;
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
    /// Those that count for hosts on the way as well.
    pub way_lines: Vec<String>,
    pub files: Files,
    /// `-W`: `host:port` or a path.
    pub stdio_forward: Option<String>,
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
    said: Said,
}

/// What was said, where it is shown as it was written.
#[derive(Clone, Debug)]
struct Said {
    draft: Draft,
    jumps: Vec<Jump>,
    ignored: Vec<String>,
}

/// Reads what there is to read about a host.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn read(request: &Request, source: &dyn Source) -> Result<Settled, ConfigErrors> {
    read_at(request, source, 0)
}

/// `depth`: so many hosts are reached over this one.
fn read_at(request: &Request, source: &dyn Source, depth: usize) -> Result<Settled, ConfigErrors> {
    let surroundings = Surroundings { home: request.home.clone(), ..Surroundings::default() };
    let mut reading = read_once(request, source, &surroundings, Pass::First);
    if reading.wants_final && reading.errors.is_empty() {
        // As in ssh: the files are read again, for the name that was found, and fill up what is open.
        let mut again = Reading::new(request, source, &surroundings, Pass::Final);
        (again.draft, again.ignored) = (reading.draft, reading.ignored);
        read_files(&mut again, request);
        reading = again;
    }
    let Reading { mut draft, mut errors, mut warnings, ignored, .. } = reading;
    let jumps = match draft.proxy.take() {
        Some(Proxy::Jump(jumps)) => jumps,
        other => {
            draft.proxy = other;
            Vec::new()
        }
    };
    let said = Said { draft: draft.clone(), jumps: jumps.clone(), ignored };
    let options = settle::settle(draft, request, &jumps, &mut errors);
    let Some(mut options) = options.filter(|_| errors.is_empty()) else {
        return Err(ConfigErrors { errors });
    };
    if let Some(way) = way(request, jumps, &options) {
        if depth >= JUMPS_MAX {
            let why = "does ProxyJump lead in a circle?";
            errors.push(settle::wrong("ProxyJump", &format!("{depth} hosts on the way; {why}")));
            return Err(ConfigErrors { errors });
        }
        let before = read_at(&way, source, depth + 1)?;
        warnings.extend(before.warnings);
        let mut via = before.options;
        // It is gone over: it may open nothing of what the files have for sessions there.
        via.forward_nothing();
        options.via = Some(Box::new(via));
    }
    Ok(Settled { options, warnings, said })
}

/// What is to be read about the last host on the way; those before it lead to that. `None`: there is
/// none, or it is the host itself (a file says so for every host).
fn way(request: &Request, mut jumps: Vec<Jump>, options: &Options) -> Option<Request> {
    let last = jumps.pop()?;
    let same = last.host.eq_ignore_ascii_case(&request.host)
        || last.host.eq_ignore_ascii_case(&options.host_name);
    if same && last.port.unwrap_or(options.port) == options.port {
        return None;
    }
    let mut lines = request.way_lines.clone();
    lines.extend(last.port.map(|port| format!("Port {port}")));
    if !jumps.is_empty() {
        lines.push(format!("ProxyJump {}", draft::jump_text(&jumps)));
    }
    Some(Request {
        host: last.host,
        user: last.user,
        lines,
        command: None,
        stdio_forward: None,
        ..request.clone()
    })
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
        Files::Only(path) => reading.file(path, (true, false)),
        Files::Usual => {
            if let Some(home) = &request.home {
                reading.file(&home.join(".ssh/config"), (false, true));
            }
            reading.file(Path::new("/etc/ssh/ssh_config"), (false, false));
        }
    }
}

#[cfg(test)]
mod tests;
