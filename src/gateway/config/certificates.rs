//! The keywords about certificates and about revoked keys: their parsers and how they are dumped.

use super::algorithms::{self, names_of};
use super::diagnostic::Wrong;
use super::dump::{View, one, path_or_none};
use super::honour::{Done, check_tokens, first, from_home};
use super::keywords::Target;
use super::lexer::quote;
use super::values::{Values, is_none};
use crate::gateway::host_agent::FROM_ENVIRONMENT;

pub fn host_certificate(target: &mut Target, values: &Values<'_>) -> Done {
    let list = &mut target.global.host_certificates;
    match values.path_or_none()? {
        Some(path) if !list.contains(&path) => list.push(path),
        _ => {}
    }
    Ok(())
}

pub fn dump_host_certificate(view: &View<'_>) -> Vec<String> {
    view.global.host_certificates.iter().map(|path| quote(&path.to_string_lossy())).collect()
}

pub fn host_key_agent(target: &mut Target, values: &Values<'_>) -> Done {
    let agent = match values.one()? {
        word @ FROM_ENVIRONMENT => Some(word.into()),
        _ => values.path_or_none()?,
    };
    first(&mut target.global.host_key_agent, agent)
}

pub fn dump_host_key_agent(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.global.host_key_agent.as_deref()))
}

pub fn authorized_principals_file(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let file = match word {
        "" => return Err(Wrong::new(word, "not a path")),
        none if is_none(none) => None,
        template => {
            check_tokens(template)?;
            Some(from_home(template, values)?)
        }
    };
    first(&mut target.login.authorized_principals_file, file)
}

pub fn dump_authorized_principals_file(view: &View<'_>) -> Vec<String> {
    let file = view.login.authorized_principals_file.as_deref();
    one(file.map_or_else(|| "none".to_owned(), quote))
}

pub fn ca_signature_algorithms(target: &mut Target, values: &Values<'_>) -> Done {
    let list = algorithms::parse(values.one()?, &mut target.warnings)?;
    first(&mut target.login.ca_algorithms, list)
}

pub fn dump_ca_signature_algorithms(view: &View<'_>) -> Vec<String> {
    one(names_of(&view.login.ca_algorithms))
}

pub fn trusted_user_ca_keys(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.trusted_user_ca_keys, values.path_or_none()?)
}

pub fn dump_trusted_user_ca_keys(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.login.trusted_user_ca_keys.as_deref()))
}

pub fn revoked_keys(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.revoked_keys, values.path_or_none()?)
}

pub fn dump_revoked_keys(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.login.revoked_keys.as_deref()))
}
