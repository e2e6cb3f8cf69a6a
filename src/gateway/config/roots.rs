//! The keywords about where the files of logins are: their parsers and how they are dumped.

use super::diagnostic::Wrong;
use super::dump::{View, one, path_or_none};
use super::honour::{Done, check_tokens, first};
use super::keywords::Target;
use super::lexer::quote;
use super::values::{Values, is_none};
use crate::gateway::chroot::template_is_legal;

pub fn accounts(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.accounts_file, values.path_or_none()?)
}

pub fn dump_accounts(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.login.accounts_file.as_deref()))
}

pub fn accounts_user(target: &mut Target, values: &Values<'_>) -> Done {
    let name = values.one()?;
    let user = if is_none(name) { None } else { Some(name.to_owned()) };
    first(&mut target.login.accounts_user, user)
}

pub fn dump_accounts_user(view: &View<'_>) -> Vec<String> {
    let user = view.login.accounts_user.as_deref();
    one(user.map_or_else(|| "none".to_owned(), quote))
}

pub fn chroot_directory(target: &mut Target, values: &Values<'_>) -> Done {
    let template = values.one()?;
    if is_none(template) {
        return first(&mut target.login.chroot_directory, None);
    }
    check_tokens(template)?;
    if !template_is_legal(template) {
        return Err(Wrong::new(template, "not an absolute path")
            .help("it begins with / or with %h, the home directory of whoever logs in"));
    }
    first(&mut target.login.chroot_directory, Some(template.to_owned()))
}

pub fn dump_chroot_directory(view: &View<'_>) -> Vec<String> {
    let directory = view.login.chroot_directory.as_deref();
    one(directory.map_or_else(|| "none".to_owned(), quote))
}
