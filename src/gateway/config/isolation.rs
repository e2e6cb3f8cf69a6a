//! Who speaks with whom, and in how many processes.

use super::diagnostic::Wrong;
use super::dump::{View, one};
use super::honour::{Done, choice, first};
use super::keywords::Target;
use super::lexer::quote;
use super::settings::Isolation;
use super::values::Values;

const NAMES: [(&str, Isolation); 4] = [
    ("auto", Isolation::Auto),
    ("shared", Isolation::Shared),
    ("per-connection", Isolation::PerConnection),
    ("none", Isolation::None),
];

pub fn edge_user(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.edge_user, user_or_auto(values)?)
}

pub fn signer_user(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.signer_user, user_or_auto(values)?)
}

pub fn relay_user(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.relay_user, user_or_auto(values)?)
}

fn user_or_auto(values: &Values<'_>) -> Result<Option<String>, Wrong> {
    match values.one()? {
        "" => Err(Wrong::new("", "not a user")),
        auto if auto.eq_ignore_ascii_case("auto") => Ok(None),
        user => Ok(Some(user.to_owned())),
    }
}

pub fn dump_edge_user(view: &View<'_>) -> Vec<String> {
    one(view.global.edge_user.as_deref().map_or_else(|| "auto".to_owned(), quote))
}

pub fn dump_signer_user(view: &View<'_>) -> Vec<String> {
    one(view.global.signer_user.as_deref().map_or_else(|| "auto".to_owned(), quote))
}

pub fn dump_relay_user(view: &View<'_>) -> Vec<String> {
    one(view.global.relay_user.as_deref().map_or_else(|| "auto".to_owned(), quote))
}

pub fn isolation(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.isolation, choice(values.one()?, &NAMES)?)
}

pub fn dump_isolation(view: &View<'_>) -> Vec<String> {
    let named = |(_, known): &&(&str, Isolation)| *known == view.global.isolation;
    one(NAMES.iter().find(named).map_or("auto", |(name, _)| *name))
}
