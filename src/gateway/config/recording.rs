//! The keywords about recordings of sessions, and of what there is where one fails: their parsers and how they
//! are dumped.

use super::diagnostic::Wrong;
use super::dump::{View, one};
use super::honour::{Done, choice, first};
use super::keywords::Target;
use super::lexer::quote;
use super::settings::Effective;
use super::values::Values;
use crate::services::{Record, Recorded};

/// Where recordings are kept unless the configuration says otherwise.
pub const DIRECTORY: &str = "/var/log/tidegate/recordings";
const NAMES: [(&str, Recorded); 3] =
    [("no", Recorded::No), ("shells", Recorded::Shells), ("sessions", Recorded::Sessions)];
const CONTINUES: [(&str, bool); 2] = [("refuse", false), ("continue", true)];

pub fn record(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.recorded, choice(values.one()?, &NAMES)?)
}

pub fn dump_record(view: &View<'_>) -> Vec<String> {
    one(name(&NAMES, view.login.recorded))
}

pub fn directory(target: &mut Target, values: &Values<'_>) -> Done {
    match values.one()? {
        path if path.starts_with('/') => first(&mut target.login.record_directory, path.to_owned()),
        path => Err(Wrong::new(path, "not an absolute path")),
    }
}

pub fn dump_directory(view: &View<'_>) -> Vec<String> {
    one(quote(&view.login.record_directory))
}

pub fn on_failure(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.record_continues, choice(values.one()?, &CONTINUES)?)
}

pub fn dump_on_failure(view: &View<'_>) -> Vec<String> {
    one(name(&CONTINUES, view.login.record_continues))
}

pub fn audit_on_failure(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.audit_refuses, !choice(values.one()?, &CONTINUES)?)
}

pub fn dump_audit_on_failure(view: &View<'_>) -> Vec<String> {
    one(name(&CONTINUES, !view.global.audit_refuses))
}

impl Effective {
    /// What is recorded of a login's sessions.
    pub fn record(&self) -> Record {
        Record {
            what: self.recorded,
            directory: self.record_directory.clone(),
            continues: self.record_continues,
        }
    }
}

fn name<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, one)| *one == value).map_or("", |(name, _)| name)
}
