//! The keywords about programs that answer questions about logins: their parsers, how they are dumped,
//! and what they need beside them.

use super::diagnostic::Wrong;
use super::dump::{View, one};
use super::honour::{Done, first};
use super::keywords::Target;
use super::lexer::quote;
use super::reader::Reading;
use super::settings::Effective;
use super::values::{Values, is_none};
use crate::gateway::program::{self, KEYS, PRINCIPALS, TARGETS, Tokens};

pub fn authorized_keys_command(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.authorized_keys_command, command(values, KEYS)?)
}

pub fn dump_authorized_keys_command(view: &View<'_>) -> Vec<String> {
    words(&view.login.authorized_keys_command)
}

pub fn authorized_keys_command_user(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.authorized_keys_command_user, user_template(values)?)
}

pub fn dump_authorized_keys_command_user(view: &View<'_>) -> Vec<String> {
    word(view.login.authorized_keys_command_user.as_deref())
}

pub fn authorized_principals_command(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.authorized_principals_command, command(values, PRINCIPALS)?)
}

pub fn dump_authorized_principals_command(view: &View<'_>) -> Vec<String> {
    words(&view.login.authorized_principals_command)
}

pub fn authorized_principals_command_user(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.authorized_principals_command_user, user_template(values)?)
}

pub fn dump_authorized_principals_command_user(view: &View<'_>) -> Vec<String> {
    word(view.login.authorized_principals_command_user.as_deref())
}

pub fn upstream_command(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.upstream_command, command(values, TARGETS)?)
}

pub fn dump_upstream_command(view: &View<'_>) -> Vec<String> {
    words(&view.login.upstream_command)
}

pub fn upstream_command_user(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let user = (!is_none(word)).then(|| word.to_owned());
    first(&mut target.login.upstream_command_user, user)
}

pub fn dump_upstream_command_user(view: &View<'_>) -> Vec<String> {
    word(view.login.upstream_command_user.as_deref())
}

/// As sshd does, refuses a program of the whole server without the account it runs as; and one of a
/// block where no line anywhere names such an account.
pub fn check_users(reading: &mut Reading<'_>, login: &Effective) {
    let blocks = reading.blocks.iter().map(|block| &block.draft);
    let in_blocks = |command: &Option<Vec<String>>| command.as_ref().is_some_and(|c| !c.is_empty());
    let keys = blocks.clone().any(|draft| in_blocks(&draft.authorized_keys_command));
    let keys_user = blocks.clone().any(|draft| draft.authorized_keys_command_user.is_some());
    let names = blocks.clone().any(|draft| in_blocks(&draft.authorized_principals_command));
    let names_user = blocks.clone().any(|draft| draft.authorized_principals_command_user.is_some());
    let (keys_account, names_account) = (
        login.authorized_keys_command_user.is_some(),
        login.authorized_principals_command_user.is_some(),
    );
    let needs = [
        (
            "AuthorizedKeysCommand",
            !keys_account && (!login.authorized_keys_command.is_empty() || keys && !keys_user),
        ),
        (
            "AuthorizedPrincipalsCommand",
            !names_account
                && (!login.authorized_principals_command.is_empty() || names && !names_user),
        ),
    ];
    for (keyword, _) in needs.into_iter().filter(|(_, lacks)| *lacks) {
        let Some(place) = reading.places.first_of(keyword).cloned() else { continue };
        let wrong =
            Wrong::new("", format!("{keyword}User is missing: the account that it runs as"));
        let help = format!("write {keyword}User and an account that does nothing else");
        reading.error(&place, keyword, wrong.help(help), None);
    }
}

fn command(values: &Values<'_>, tokens: Tokens) -> Result<Vec<String>, Wrong> {
    let words = values.many()?;
    if let [only] = words
        && is_none(only)
    {
        return Ok(Vec::new());
    }
    if let Some(program) = words.first().filter(|word| !word.starts_with('/')) {
        return Err(Wrong::new(program, "not an absolute path"));
    }
    if let Some(word) = words.iter().find(|word| !program::has_known_tokens(word, tokens)) {
        let wrong = Wrong::new(word, "a token without a meaning");
        return Err(wrong.help(format!("there are {tokens}")));
    }
    Ok(words.to_vec())
}

/// `%u` is the user's name.
fn user_template(values: &Values<'_>) -> Result<Option<String>, Wrong> {
    let word = values.one()?;
    if !program::has_known_tokens(word, program::USER) {
        let wrong = Wrong::new(word, "a token without a meaning");
        return Err(wrong.help(format!("there are {}", program::USER)));
    }
    Ok((!is_none(word)).then(|| word.to_owned()))
}

fn words(words: &[String]) -> Vec<String> {
    let words = words.iter().map(|word| quote(word)).collect::<Vec<_>>();
    one(if words.is_empty() { "none".to_owned() } else { words.join(" ") })
}

fn word(word: Option<&str>) -> Vec<String> {
    one(word.map_or_else(|| "none".to_owned(), quote))
}
