//! Reads lines into drafts: files, includes, Match blocks; collects every error it meets.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::condition::Condition;
use super::diagnostic::{Diagnostic, Place, Surroundings, Wrong};
use super::keywords::{self, Keyword, Scope, Status, Target, quoted_list};
use super::lexer;
use super::places::Places;
use super::settings::{EffectiveDraft, GlobalDraft};
use super::source::{self, Source};
use super::values::{self, Values};
use crate::base::escape;
use crate::limits::{
    CONFIG_BYTES_MAX, CONFIG_ERRORS_MAX, CONFIG_FILES_MAX, CONFIG_INCLUDE_DEPTH_MAX,
    CONFIG_LINE_BYTES_MAX,
};

/// The lines under one Match line. Order decides, so a block that an Include interrupts goes on
/// as a new one.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub condition: Condition,
    /// The block whose Include brought this one in: it must apply as well.
    pub within: Option<usize>,
    pub draft: EffectiveDraft,
}

/// Configuration text on its way to a [`super::Config`].
pub struct Reading<'s> {
    pub source: &'s dyn Source,
    pub surroundings: &'s Surroundings,
    /// Relative includes start here.
    pub directory: PathBuf,
    pub global: GlobalDraft,
    pub login: EffectiveDraft,
    pub blocks: Vec<Block>,
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read.
    pub files: Vec<PathBuf>,
    /// Where the ListenAddress lines stood, in their order.
    pub listen_places: Vec<Place>,
    /// Where everything else stood.
    pub places: Places,
    block: Option<usize>,
    /// The block in force where the current file was included.
    outer: Option<usize>,
}

impl<'s> Reading<'s> {
    pub fn new(
        source: &'s dyn Source,
        surroundings: &'s Surroundings,
        directory: PathBuf,
    ) -> Reading<'s> {
        Reading {
            source,
            surroundings,
            directory,
            global: GlobalDraft::default(),
            login: EffectiveDraft::default(),
            blocks: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            files: Vec::new(),
            listen_places: Vec::new(),
            places: Places::default(),
            block: None,
            outer: None,
        }
    }

    /// One `-o Keyword=Value`.
    pub fn option(&mut self, text: &str) {
        let place = Place { file: "command line".into(), line: 0 };
        self.bytes_of_line(text.as_bytes(), &place, 0, true);
    }

    /// One file and what it includes.
    pub fn file(&mut self, path: &Path) {
        if let Err(why) = self.file_at(path, 0) {
            let place = Place { file: path.to_string_lossy().into(), line: 0 };
            self.error(&place, "", Wrong::new("", format!("cannot be read: {why}")), None);
        }
    }

    /// Text that stands for a file.
    pub fn text(&mut self, bytes: &[u8], name: &str, depth: usize) {
        let file: Arc<str> = name.into();
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if self.errors.len() >= CONFIG_ERRORS_MAX {
                return;
            }
            let place = Place { file: Arc::clone(&file), line: index as u32 + 1 };
            self.bytes_of_line(line, &place, depth, false);
        }
    }

    pub fn error(&mut self, place: &Place, subject: &str, wrong: Wrong, legal: Option<&str>) {
        if self.errors.len() < CONFIG_ERRORS_MAX {
            self.errors.push(diagnostic(place, subject, wrong, legal));
        }
    }

    pub fn warning(&mut self, place: &Place, subject: &str, problem: String) {
        if self.warnings.len() < CONFIG_ERRORS_MAX {
            self.warnings.push(diagnostic(place, subject, Wrong::new("", problem), None));
        }
    }

    /// Reads one file; says why when it cannot be read.
    fn file_at(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        if self.files.len() >= CONFIG_FILES_MAX {
            let why = format!("more than {CONFIG_FILES_MAX} files; do some include each other?");
            return Err(io::Error::other(why));
        }
        let bytes = self.source.read(path, CONFIG_BYTES_MAX)?;
        self.files.push(path.to_owned());
        self.text(&bytes, &path.to_string_lossy(), depth);
        Ok(())
    }

    fn bytes_of_line(&mut self, bytes: &[u8], place: &Place, depth: usize, is_option: bool) {
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if matches!(first, None | Some(b'#')) {
            return;
        }
        if bytes.len() > CONFIG_LINE_BYTES_MAX {
            let wrong = Wrong::new("", format!("longer than {CONFIG_LINE_BYTES_MAX} bytes"));
            return self.error(place, "", wrong, None);
        }
        let bytes = bytes.trim_ascii_end();
        let Ok(line) = std::str::from_utf8(bytes) else {
            let wrong = Wrong::new("", "not UTF-8 outside of a comment");
            return self.error(place, "", wrong, None);
        };
        if let Some(control) = line.chars().find(|c| c.is_control() && *c != '\t') {
            let wrong = Wrong::new("", format!("a control character, {control:?}"));
            return self.error(place, "", wrong, None);
        }
        self.line(line, place, depth, is_option);
    }

    fn line(&mut self, line: &str, place: &Place, depth: usize, is_option: bool) {
        let unclosed = || Wrong::new("", "a quotation mark is not closed");
        let (word, rest) = match lexer::split_keyword(line) {
            Ok(Some(split)) => split,
            Ok(None) => return,
            Err(lexer::Unclosed) => return self.error(place, "", unclosed(), None),
        };
        let Some(keyword) = keywords::find(word) else {
            let mut wrong = Wrong::new("", "there is no such keyword");
            if let Some(meant) = keywords::nearest(word) {
                wrong = wrong.help(format!("did you mean {meant}?"));
            }
            let shown = escape(word.as_bytes()).to_string();
            return self.error(place, &shown, wrong, None);
        };
        // Keywords that take the rest of the line as it is have no quotes to close.
        let words = match lexer::words(rest) {
            Ok(words) => words,
            Err(lexer::Unclosed) if takes_line(keyword) => Vec::new(),
            Err(lexer::Unclosed) => return self.error(place, keyword.name, unclosed(), None),
        };
        let values = Values { words, rest, surroundings: self.surroundings };
        match &keyword.status {
            Status::Structure { .. } if keyword.name == "Match" => {
                self.match_line(keyword, &values, place, is_option);
            }
            Status::Structure { .. } => self.include(keyword, &values, place, depth),
            _ if !self.may_stand_here(keyword, place) => {}
            Status::Honoured { legal, parse, .. } => {
                self.honoured(keyword, *parse, legal, &values, place);
            }
            Status::AcceptedWithWarning { silent, reason } => {
                let value = values.words.join(" ");
                if !silent.iter().any(|known| known.eq_ignore_ascii_case(&value)) {
                    self.warning(place, keyword.name, format!("it changes nothing: {reason}"));
                }
            }
            Status::NotYet { accepted, offers, reason } => {
                let value = values.words.join(" ");
                if offers.iter().any(|known| known.eq_ignore_ascii_case(&value)) {
                    let subject = format!("{} {value}", keyword.name);
                    return self.warning(place, &subject, format!("not in effect: {reason}"));
                }
                self.not_yet(keyword, accepted, reason, &values, place);
            }
        }
    }

    fn honoured(
        &mut self,
        keyword: &Keyword,
        parse: keywords::Parse,
        legal: &str,
        values: &Values<'_>,
        place: &Place,
    ) {
        let mut login = EffectiveDraft::default();
        std::mem::swap(&mut login, self.draft());
        let mut target =
            Target { global: std::mem::take(&mut self.global), login, warnings: Vec::new() };
        let listening = target.global.listen.len();
        let outcome = parse(&mut target, values);
        self.places.note(self.block, keyword.name, place);
        if target.global.listen.len() > listening {
            self.listen_places.push(place.clone());
        }
        self.global = target.global;
        *self.draft() = target.login;
        for warning in target.warnings {
            self.warning(place, keyword.name, warning);
        }
        if let Err(wrong) = outcome {
            let subject = subject(keyword, &wrong);
            self.error(place, &subject, wrong, Some(legal));
        }
    }

    fn not_yet(
        &mut self,
        keyword: &Keyword,
        accepted: &[&str],
        reason: &str,
        values: &Values<'_>,
        place: &Place,
    ) {
        let value = values.words.join(" ");
        if accepted.iter().any(|known| known.eq_ignore_ascii_case(&value)) {
            return;
        }
        let wrong = Wrong::new(value, reason);
        let (wrong, legal) = match accepted {
            [] => (wrong.help("remove the line"), None),
            [first, ..] => (
                wrong.help(format!("remove the line or write {} {first}", keyword.name)),
                Some(quoted_list(accepted)),
            ),
        };
        let subject = subject(keyword, &wrong);
        self.error(place, &subject, wrong, legal.as_deref());
    }

    fn may_stand_here(&mut self, keyword: &Keyword, place: &Place) -> bool {
        let (problem, help) = match (self.block, keyword.scope) {
            (None, _) | (_, Scope::Match) => return true,
            // `Match all` is how a file says that a block is over.
            (Some(block), _) if self.chain(block, Condition::is_all) => return true,
            (_, Scope::Global) => {
                ("it may not stand inside a Match block", "move it above the first Match line")
            }
        };
        self.error(place, keyword.name, Wrong::new("", problem).help(help), None);
        false
    }

    /// Whether it holds for the block and for those whose includes brought it in.
    fn chain(&self, block: usize, holds: impl Fn(&Condition) -> bool) -> bool {
        let mut next = Some(block);
        while let Some(block) = next.and_then(|block| self.blocks.get(block)) {
            if !holds(&block.condition) {
                return false;
            }
            next = block.within;
        }
        true
    }

    fn match_line(
        &mut self,
        keyword: &Keyword,
        values: &Values<'_>,
        place: &Place,
        is_option: bool,
    ) {
        if is_option {
            let wrong = Wrong::new("", "a block cannot be opened on the command line");
            return self.error(place, keyword.name, wrong.help("write it into a file"), None);
        }
        let condition = Condition::new(&values.words, self.surroundings).unwrap_or_else(|wrong| {
            let subject = subject(keyword, &wrong);
            self.error(place, &subject, wrong, legal_of(keyword));
            Condition::never()
        });
        self.open_block(condition, self.outer);
    }

    fn include(&mut self, keyword: &Keyword, values: &Values<'_>, place: &Place, depth: usize) {
        let patterns = match values.many() {
            Ok(patterns) => patterns,
            Err(wrong) => return self.error(place, keyword.name, wrong, legal_of(keyword)),
        };
        if depth >= CONFIG_INCLUDE_DEPTH_MAX {
            let wrong = Wrong::new("", format!("{depth} files deep already"));
            let wrong = wrong.help("look for files that include each other");
            return self.error(place, keyword.name, wrong, None);
        }
        let outer = self.outer;
        for pattern in patterns {
            let path = match values::path(pattern, self.surroundings) {
                Ok(_) if !pattern.starts_with("~/") => self.directory.join(pattern),
                Ok(path) => path,
                Err(wrong) => {
                    self.error(place, keyword.name, wrong, legal_of(keyword));
                    continue;
                }
            };
            let mut unlisted = Vec::new();
            let files = source::glob(&path, self.source, |directory, why| {
                // Of what is no directory no name fits the pattern.
                if !matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
                    unlisted.push((directory.to_owned(), why));
                }
            });
            for (directory, why) in unlisted {
                self.unread(place, &directory, &why);
            }
            for file in files {
                if let Err(why) = self.included(&file, depth + 1) {
                    self.unread(place, &file, &why);
                }
            }
        }
        self.outer = outer;
    }

    /// What an Include names could not be read. As in sshd, what is not there and what is a directory is no error;
    /// it may be a slip, though.
    fn unread(&mut self, place: &Place, path: &Path, why: &io::Error) {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
        let shown = escape(path.as_os_str().as_encoded_bytes());
        let subject = format!("Include {shown}");
        match why.kind() {
            IsADirectory => {
                let problem =
                    format!("a directory, of which nothing is read; {shown}/* are its files");
                self.warning(place, &subject, problem);
            }
            NotFound | NotADirectory if !self.source.is_there(path) => {
                self.warning(place, &subject, format!("cannot be read: {why}"));
            }
            _ => {
                let problem = format!("cannot be read: {why}");
                self.error(place, &subject, Wrong::new("", problem), None);
            }
        }
    }

    /// A Match block of the included file ends with the file and needs ours to apply. What follows
    /// it comes after it, so our block goes on as a new one.
    fn included(&mut self, file: &Path, depth: usize) -> io::Result<()> {
        let (block, blocks) = (self.block, self.blocks.len());
        self.outer = block;
        let outcome = self.file_at(file, depth);
        self.block = block;
        if let (Some(interrupted), true) = (block, self.blocks.len() > blocks) {
            self.open_block(Condition::ALL, Some(interrupted));
        }
        outcome
    }

    fn open_block(&mut self, condition: Condition, within: Option<usize>) {
        self.block = Some(self.blocks.len());
        self.blocks.push(Block { condition, within, draft: EffectiveDraft::default() });
    }

    /// Where settings of a login go now.
    fn draft(&mut self) -> &mut EffectiveDraft {
        match self.block.and_then(|block| self.blocks.get_mut(block)) {
            Some(block) => &mut block.draft,
            None => &mut self.login,
        }
    }
}

fn diagnostic(place: &Place, subject: &str, wrong: Wrong, legal: Option<&str>) -> Diagnostic {
    Diagnostic {
        place: place.clone(),
        subject: subject.to_owned(),
        problem: wrong.problem,
        legal: legal.map(str::to_owned),
        help: wrong.help,
    }
}

/// The keyword and the part of its value that is wrong.
fn subject(keyword: &Keyword, wrong: &Wrong) -> String {
    match wrong.value.as_str() {
        "" => keyword.name.to_owned(),
        value => format!("{} {}", keyword.name, escape(value.as_bytes())),
    }
}

const fn legal_of(keyword: &Keyword) -> Option<&'static str> {
    match &keyword.status {
        Status::Honoured { legal, .. } | Status::Structure { legal } => Some(legal),
        Status::AcceptedWithWarning { .. } | Status::NotYet { .. } => None,
    }
}

/// Keywords that sshd reads to the end of the line, quotes, comments and all.
fn takes_line(keyword: &Keyword) -> bool {
    matches!(keyword.name, "ForceCommand" | "VersionAddendum")
}
