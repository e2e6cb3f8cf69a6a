//! Files, blocks and includes, line by line.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::Request;
use super::draft::{Draft, push_new};
use super::keywords::{self, Keyword, Status};
use super::tokens::{Tokens, USUAL};
use crate::base::{escape, wildcard_match};
use crate::gateway::config::{
    Diagnostic, Place, Source, Surroundings, Unclosed, Values, Wrong, glob, split_keyword, words,
};
use crate::limits::{
    CONFIG_BYTES_MAX, CONFIG_ERRORS_MAX, CONFIG_FILES_MAX, CONFIG_INCLUDE_DEPTH_MAX,
    CONFIG_LINE_BYTES_MAX,
};

/// Where the system's file is.
const SYSTEM: &str = "/etc/ssh";

/// How often the files have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    First,
    /// For what stands under `Match final` and `Match canonical`.
    Final,
}

/// Configuration text on its way to options.
pub struct Reading<'a> {
    request: &'a Request,
    source: &'a dyn Source,
    surroundings: &'a Surroundings,
    pass: Pass,
    pub draft: Draft,
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
    /// A Match line asks for a second pass.
    pub wants_final: bool,
    /// Keywords that need not be known.
    pub ignored: Vec<String>,
    /// Lines count.
    active: bool,
    /// The file was included where lines do not count, so no block of it does.
    never: bool,
    files: usize,
}

impl<'a> Reading<'a> {
    pub fn new(
        request: &'a Request,
        source: &'a dyn Source,
        surroundings: &'a Surroundings,
        pass: Pass,
    ) -> Reading<'a> {
        Reading {
            request,
            source,
            surroundings,
            pass,
            draft: Draft::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
            wants_final: false,
            ignored: Vec::new(),
            active: true,
            never: false,
            files: 0,
        }
    }

    /// One line of the command line.
    pub fn option(&mut self, line: &str) {
        let place = Place { file: "command line".into(), line: 0 };
        self.active = true;
        self.line(line, &place, Path::new(""), 0);
    }

    /// One file; a usual one need not be there. `own`: whoever else could write to it would say what this
    /// user runs, so nobody may.
    pub fn file(&mut self, path: &Path, (must_be, own): (bool, bool)) {
        self.active = true;
        match self.file_at(path, own, 0) {
            Err(why) if must_be || why.kind() != io::ErrorKind::NotFound => {
                let place = Place { file: path.to_string_lossy().into(), line: 0 };
                self.error(&place, "", Wrong::new("", format!("cannot be read: {why}")));
            }
            _ => {}
        }
        self.active = true;
    }

    fn file_at(&mut self, path: &Path, own: bool, depth: usize) -> io::Result<()> {
        self.files += 1;
        if self.files > CONFIG_FILES_MAX {
            let why = format!("more than {CONFIG_FILES_MAX} files; do some include each other?");
            return Err(io::Error::other(why));
        }
        let bytes = match own {
            true => self.source.read_own(path, CONFIG_BYTES_MAX)?,
            false => self.source.read(path, CONFIG_BYTES_MAX)?,
        };
        let file: Arc<str> = path.to_string_lossy().into();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let place = Place { file: Arc::clone(&file), line: index as u32 + 1 };
            let comment = matches!(line.trim_ascii().first(), None | Some(b'#'));
            if comment || self.errors.len() >= CONFIG_ERRORS_MAX {
                continue;
            }
            if line.len() > CONFIG_LINE_BYTES_MAX {
                let wrong = format!("longer than {CONFIG_LINE_BYTES_MAX} bytes");
                self.error(&place, "", Wrong::new("", wrong));
                continue;
            }
            match std::str::from_utf8(line.trim_ascii()) {
                Ok(line) if !line.chars().any(|c| c.is_control() && c != '\t') => {
                    self.line(line, &place, path.parent().unwrap_or(Path::new("")), depth);
                }
                Ok(_) => self.error(&place, "", Wrong::new("", "a control character")),
                Err(_) => self.error(&place, "", Wrong::new("", "not UTF-8")),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str, place: &Place, folder: &Path, depth: usize) {
        let unclosed = || Wrong::new("", "a quotation mark is not closed");
        let (name, rest) = match split_keyword(line) {
            Ok(Some(split)) => split,
            Ok(None) => return,
            Err(Unclosed) => return self.error(place, "", unclosed()),
        };
        let Some(keyword) = keywords::find(name) else {
            return self.unknown(name, place);
        };
        let takes_line = matches!(keyword.name, "ProxyCommand" | "RemoteCommand" | "LocalCommand");
        let words = match words(rest) {
            Ok(words) => words,
            Err(Unclosed) if takes_line => Vec::new(),
            Err(Unclosed) => return self.error(place, keyword.name, unclosed()),
        };
        let values = Values { words, rest, surroundings: self.surroundings };
        match &keyword.status {
            Status::Structure => self.structure(keyword, &values, place, folder, depth),
            Status::Harmless(_) => {}
            Status::Honoured(parse) => {
                // What does not count is read all the same, and has to be right.
                let mut idle = Draft::default();
                let draft = if self.active { &mut self.draft } else { &mut idle };
                let parsed = parse(draft, &values);
                for problem in std::mem::take(&mut self.draft.left_out) {
                    self.warnings.push(diagnostic(place, keyword.name, Wrong::new("", problem)));
                }
                if let Err(wrong) = parsed {
                    self.error(place, keyword.name, wrong);
                }
            }
            Status::Absent { harmless, reason } => {
                let value = values.words.join(" ");
                let is = |one: &&str| {
                    one.eq_ignore_ascii_case(&value)
                        || *one == "no" && value.eq_ignore_ascii_case("false")
                };
                if !harmless.iter().any(is) {
                    let mut wrong = Wrong::new(value, *reason);
                    if let Some(first) = harmless.first() {
                        wrong = wrong.help(format!("write {} {first}", keyword.name));
                    }
                    self.error(place, keyword.name, wrong);
                }
            }
        }
    }

    fn unknown(&mut self, name: &str, place: &Place) {
        let is = |pattern: &String| {
            let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
            wildcard_match(pattern.as_bytes(), name.as_bytes())
        };
        if keywords::is_former(name) || self.ignored.iter().any(is) {
            return;
        }
        let mut wrong = Wrong::new("", "there is no such keyword");
        wrong = match keywords::nearest(name) {
            Some(meant) => wrong.help(format!("did you mean {meant}?")),
            None => wrong.help("IgnoreUnknown above it makes ssh programs pass over it"),
        };
        let shown = escape(name.as_bytes()).to_string();
        self.error(place, &shown, wrong);
    }

    fn structure(
        &mut self,
        keyword: &Keyword,
        values: &Values<'_>,
        place: &Place,
        folder: &Path,
        depth: usize,
    ) {
        let words = match values.many() {
            Ok(words) => words.to_vec(),
            Err(wrong) => return self.error(place, keyword.name, wrong),
        };
        match keyword.name {
            "Host" => {
                self.active = match self.pass {
                    Pass::First => matches_list(&words, &self.request.host),
                    Pass::Final => matches_list(&words, &self.host().to_ascii_lowercase()),
                } && !self.never;
            }
            "Match" => match self.holds(&words) {
                Ok(holds) => self.active = holds && !self.never,
                Err(wrong) => {
                    self.active = false;
                    self.error(place, keyword.name, wrong);
                }
            },
            "IgnoreUnknown" => {
                for pattern in words.iter().flat_map(|word| word.split(',')) {
                    push_new(&mut self.ignored, pattern.to_owned());
                }
            }
            _ => self.include(&words, place, folder, depth),
        }
    }

    /// What stands in an included file counts where the Include does.
    fn include(&mut self, patterns: &[String], place: &Place, folder: &Path, depth: usize) {
        if depth >= CONFIG_INCLUDE_DEPTH_MAX {
            let wrong = Wrong::new("", format!("{depth} files deep already"));
            return self.error(place, "Include", wrong.help("do some include each other?"));
        }
        let was_active = self.active;
        let was_never = std::mem::replace(&mut self.never, !self.active);
        for pattern in patterns {
            let home = self.surroundings.home.as_ref();
            let base = match home {
                // As in ssh: relative ones start where the system's file is for that one and what it
                // includes, and where the user's is for all others.
                Some(home) if !folder.starts_with(SYSTEM) => home.join(".ssh"),
                _ => SYSTEM.into(),
            };
            let path = base.join(super::draft::at_home(pattern, home));
            for file in glob(&path, self.source, |_, _| ()) {
                self.active = was_active;
                if let Err(why) = self.file_at(&file, true, depth + 1)
                    && why.kind() != io::ErrorKind::NotFound
                {
                    let wrong = Wrong::new("", format!("{} cannot be read: {why}", file.display()));
                    self.error(place, "Include", wrong);
                }
            }
        }
        (self.active, self.never) = (was_active, was_never);
    }

    // ---- Match -------------------------------------------------------------------------------

    fn holds(&mut self, words: &[String]) -> Result<bool, Wrong> {
        let mut all = true;
        let mut alone = true;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (negated, word) = match word.strip_prefix('!') {
                Some(word) => (true, word),
                None => (false, word.as_str()),
            };
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word, None),
            };
            let name = name.to_ascii_lowercase();
            let holds = match name.as_str() {
                "all" if alone && words.len() == 0 => true,
                "all" => {
                    let wrong = Wrong::new(word, "it stands alone, or behind final or canonical");
                    return Err(wrong);
                }
                "canonical" | "final" => {
                    self.wants_final |= self.pass == Pass::First && name == "final";
                    self.pass == Pass::Final
                }
                _ => {
                    let argument = inline.or_else(|| words.next().cloned());
                    let argument = argument
                        .ok_or_else(|| Wrong::new(word, "a criterion without its argument"))?;
                    alone = false;
                    // A command is only run where everything before it holds.
                    self.criterion(&name, &argument, all && !self.never)?
                }
            };
            all &= holds != negated;
        }
        Ok(all)
    }

    /// The host's name, as far as it has been found.
    fn host(&self) -> String {
        let original = &self.request.host;
        self.draft.host_name.as_ref().unwrap_or(original).replace("%h", original)
    }

    fn criterion(&self, name: &str, argument: &str, so_far: bool) -> Result<bool, Wrong> {
        let original = &self.request.host;
        let host = self.host();
        let user = self.request.user.as_ref().or(self.draft.user.as_ref());
        let list = |text: &str| {
            let patterns: Vec<String> = argument.split(',').map(str::to_owned).collect();
            matches_list(&patterns, text)
        };
        Ok(match name {
            "host" => names_host(argument, &host),
            "originalhost" => names_host(argument, original),
            "user" => list(user.unwrap_or(&self.request.local_user)),
            "localuser" => list(&self.request.local_user),
            "tagged" => list(self.draft.tag.as_deref().unwrap_or_default()),
            "sessiontype" => list(if self.request.command.is_some() { "exec" } else { "shell" }),
            "command" => {
                let command = self.request.command.as_deref().unwrap_or_default();
                list(&String::from_utf8_lossy(command))
            }
            "exec" => so_far && self.succeeds(argument, &host, user)?,
            _ => {
                let known = "all, canonical, final, host, originalhost, user, localuser, tagged, \
                             command, sessiontype and exec";
                return Err(Wrong::new(name, format!("no criterion; there are {known}")));
            }
        })
    }

    /// The command's exit status is zero.
    fn succeeds(&self, command: &str, host: &str, user: Option<&String>) -> Result<bool, Wrong> {
        let alias = self.draft.host_key_alias.as_ref().unwrap_or(&self.request.host).clone();
        let tokens = Tokens {
            host: host.to_owned(),
            alias,
            port: self.draft.port.unwrap_or(22),
            remote_user: user.unwrap_or(&self.request.local_user).clone(),
            ..Tokens::of(self.request)
        };
        let command = tokens.expand(command, USUAL).map_err(|why| Wrong::new(command, why))?;
        let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        let mut process = Command::new(shell);
        process.arg("-c").arg(&command).stdin(Stdio::null()).stdout(Stdio::null());
        let status = process.status().map_err(|why| Wrong::new(&command, why.to_string()))?;
        Ok(status.success())
    }

    fn error(&mut self, place: &Place, subject: &str, wrong: Wrong) {
        if self.errors.len() < CONFIG_ERRORS_MAX {
            self.errors.push(diagnostic(place, subject, wrong));
        }
    }
}

fn diagnostic(place: &Place, subject: &str, wrong: Wrong) -> Diagnostic {
    let subject = match wrong.value.as_str() {
        "" => subject.to_owned(),
        value => format!("{subject} {}", escape(value.as_bytes())),
    };
    let (problem, help) = (wrong.problem, wrong.help);
    Diagnostic { place: place.clone(), subject, problem, legal: None, help }
}

/// Names of hosts are the same in capitals.
fn names_host(patterns: &str, host: &str) -> bool {
    let patterns = patterns.to_ascii_lowercase();
    let patterns: Vec<String> = patterns.split(',').map(str::to_owned).collect();
    matches_list(&patterns, &host.to_ascii_lowercase())
}

/// One of the patterns matches and no negated one does.
fn matches_list(patterns: &[String], text: &str) -> bool {
    let mut matches = false;
    for pattern in patterns {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern.as_str()),
        };
        if wildcard_match(pattern.as_bytes(), text.as_bytes()) {
            if negated {
                return false;
            }
            matches = true;
        }
    }
    matches
}
