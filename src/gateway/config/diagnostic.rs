use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::escape;

/// Where a directive stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path as it was given, or `command line`.
    pub file: Arc<str>,
    /// Counted from 1; 0 where lines mean nothing (the command line, a whole file).
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = escape(self.file.as_bytes());
        if self.line == 0 { write!(out, "{file}") } else { write!(out, "{file}:{}", self.line) }
    }
}

/// One thing wrong with a configuration: where, what, what would be right, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub place: Place,
    /// The keyword and the value that is wrong, as far as they are known.
    pub subject: String,
    pub problem: String,
    /// What the keyword accepts.
    pub legal: Option<String>,
    /// The next step.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.place)?;
        if !self.subject.is_empty() {
            write!(out, "{}: ", self.subject)?;
        }
        write!(out, "{}", self.problem)?;
        if let Some(legal) = &self.legal {
            write!(out, "\n    legal: {legal}")?;
        }
        if let Some(help) = &self.help {
            write!(out, "\n    help: {help}")?;
        }
        Ok(())
    }
}

/// Everything wrong with a configuration, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    pub errors: Vec<Diagnostic>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What a keyword's parser has against a value; [`Diagnostic`] adds the place and the keyword.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The offending part of the line.
    pub value: String,
    pub problem: String,
    pub help: Option<String>,
}

impl Wrong {
    pub fn new(value: impl Into<String>, problem: impl Into<String>) -> Wrong {
        Wrong { value: value.into(), problem: problem.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Wrong {
        self.help = Some(help.into());
        self
    }
}

/// Relative paths of the command line and of keywords like HostKey start here.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The working directory of the process.
    pub directory: PathBuf,
    /// What `~/` stands for.
    pub home: Option<PathBuf>,
    /// The host keys when no HostKey line says otherwise.
    pub host_keys: Vec<PathBuf>,
    /// The file for the process's number when no PidFile line says otherwise.
    pub pid_file: Option<PathBuf>,
    /// The TCP port of a service that is written by its name; none: names are no ports.
    pub service: Option<fn(&str) -> Option<u16>>,
    /// Whether a network device exists; none: nobody looks.
    pub device: Option<fn(&str) -> bool>,
}

/// The candidate that `word` is most likely a misspelling or the beginning of.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let allowed = (word.len() / 3).clamp(1, 4);
    let nearness = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        let begun = word.len() >= 4 && candidate.starts_with(&word);
        distance(&word, &candidate).min(if begun { allowed } else { usize::MAX })
    };
    candidates
        .into_iter()
        .map(|candidate| (nearness(candidate), candidate))
        .filter(|(nearness, _)| *nearness <= allowed)
        .min_by_key(|(nearness, _)| *nearness)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    // A word this long is no keyword; the table below must stay small.
    if from.len() > 128 || to.len() > 128 {
        return usize::MAX;
    }
    let width = to.len() + 1;
    let mut table = vec![0; (from.len() + 1) * width];
    for i in 0..=from.len() {
        for j in 0..width {
            table[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(from[i - 1] != to[j - 1]);
                let replaced = table[(i - 1) * width + j - 1] + same;
                let dropped = table[(i - 1) * width + j] + 1;
                let added = table[i * width + j - 1] + 1;
                let swapped =
                    i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
                let swap = if swapped { table[(i - 2) * width + j - 2] + 1 } else { usize::MAX };
                replaced.min(dropped).min(added).min(swap)
            };
        }
    }
    table[from.len() * width + to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, expected) in
            [("", "", 0), ("a", "", 1), ("port", "prot", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let names = ["Port", "PermitTTY", "PermitRootLogin"];
        assert_eq!(did_you_mean("PermitRotLogin", names), Some("PermitRootLogin"));
        assert_eq!(did_you_mean("permittyt", names), Some("PermitTTY"));
        assert_eq!(did_you_mean("permitr", names), Some("PermitRootLogin"));
        assert_eq!(did_you_mean("Frobnicate", names), None);
        assert_eq!(did_you_mean(&"x".repeat(5000), names), None);
    }

    #[test]
    fn a_diagnostic_names_place_subject_and_next_step() {
        let diagnostic = Diagnostic {
            place: Place { file: "a.conf".into(), line: 3 },
            subject: "Port 99999".into(),
            problem: "out of range".into(),
            legal: Some("a port".into()),
            help: Some("use 22".into()),
        };
        let expected = "a.conf:3: Port 99999: out of range\n    legal: a port\n    help: use 22";
        assert_eq!(diagnostic.to_string(), expected);
    }
}
