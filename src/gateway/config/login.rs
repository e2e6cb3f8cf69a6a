//! The keywords about methods of login: their parsers and how they are dumped.

use super::diagnostic::Wrong;
use super::dump::{View, one, path_or_none, yes_no};
use super::honour::{Done, first};
use super::keywords::Target;
use super::reader::Reading;
use super::settings::Effective;
use super::values::{Values, is_none};
use crate::connection::{Method, Presence};
use crate::limits::{AUTH_CHAIN_METHODS_MAX, AUTH_CHAINS_MAX};

/// Any one method is enough.
const ANY: &str = "any";
/// How sshd_config(5) names the device of a method; there is no other here.
const KEYBOARD_BY_PAM: &str = "keyboard-interactive:pam";

pub fn authentication_methods(target: &mut Target, values: &Values<'_>) -> Done {
    let words = values.many()?;
    if let [only] = words
        && only.eq_ignore_ascii_case(ANY)
    {
        return first(&mut target.login.authentication_methods, Vec::new());
    }
    if words.len() > AUTH_CHAINS_MAX {
        return Err(Wrong::new("", format!("more than {AUTH_CHAINS_MAX} lists")));
    }
    let chains = words.iter().map(|word| chain(word)).collect::<Result<_, _>>()?;
    first(&mut target.login.authentication_methods, chains)
}

fn chain(word: &str) -> Result<Box<[Method]>, Wrong> {
    if word.eq_ignore_ascii_case(ANY) {
        return Err(Wrong::new(word, "it stands alone, and means that one method is enough"));
    }
    let method = |name: &str| {
        let name = if name == KEYBOARD_BY_PAM { Method::KeyboardInteractive.name() } else { name };
        Method::from_name(name).ok_or_else(|| {
            let names = Method::ALL.map(Method::name).join(", ");
            Wrong::new(word, format!("{name:?} is no method that this server has"))
                .help(format!("it has {names}"))
        })
    };
    let methods = word.split(',').map(method).collect::<Result<Box<[_]>, _>>()?;
    if methods.len() > AUTH_CHAIN_METHODS_MAX {
        return Err(Wrong::new(word, format!("more than {AUTH_CHAIN_METHODS_MAX} methods")));
    }
    Ok(methods)
}

/// As sshd does, refuses lists none of which anybody can get through, whatever blocks say.
pub fn check_methods(reading: &mut Reading<'_>, login: &Effective) {
    let keyword = "AuthenticationMethods";
    let off = |list: &[Method]| list.iter().copied().find(|method| !login.offers(*method));
    let lists = &login.authentication_methods;
    let Some(method) = lists.iter().find_map(|list| off(list)) else { return };
    if lists.iter().any(|list| off(list).is_none()) {
        return;
    }
    let Some(place) = reading.places.first_of(keyword).cloned() else { return };
    let wrong = Wrong::new("", format!("nobody can get in: {} is not offered", method.name()));
    let help = match method {
        Method::PublicKey => "it takes PubkeyAuthentication yes",
        Method::Password => {
            "it takes PasswordAuthentication yes, and UsePAM yes, TidegatePasswordFile or TidegateAccounts"
        }
        Method::KeyboardInteractive => {
            "it takes KbdInteractiveAuthentication yes, and UsePAM yes, TidegatePasswordFile, TidegateTotpFile or \
             TidegateAccounts"
        }
    };
    reading.error(&place, keyword, wrong.help(help), None);
}

pub fn dump_authentication_methods(view: &View<'_>) -> Vec<String> {
    let chains = view.login.authentication_methods.iter();
    let words = chains.map(|chain| chain.iter().map(|m| m.name()).collect::<Vec<_>>().join(","));
    let words = words.collect::<Vec<_>>();
    one(if words.is_empty() { ANY.to_owned() } else { words.join(" ") })
}

pub fn pubkey_auth_options(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let mut options = Presence { touch: false, verify: false };
    for item in word.split(',').filter(|_| !is_none(word)) {
        match item {
            TOUCH => options.touch = true,
            VERIFY => options.verify = true,
            other => {
                let wrong = Wrong::new(word, format!("{other:?} is no such option"));
                return Err(
                    wrong.help(format!("there are {TOUCH} and {VERIFY}; none stands alone"))
                );
            }
        }
    }
    first(&mut target.login.pubkey_auth_options, options)
}

pub fn dump_pubkey_auth_options(view: &View<'_>) -> Vec<String> {
    one(match view.login.pubkey_auth_options {
        Presence { touch: false, verify: false } => "none".to_owned(),
        Presence { touch: true, verify: false } => TOUCH.to_owned(),
        Presence { touch: false, verify: true } => VERIFY.to_owned(),
        Presence { touch: true, verify: true } => format!("{TOUCH},{VERIFY}"),
    })
}

pub fn password_authentication(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.password_authentication, values.flag()?)
}

pub fn dump_password_authentication(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.password_authentication))
}

pub fn kbd_interactive_authentication(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.kbd_interactive_authentication, values.flag()?)
}

pub fn dump_kbd_interactive_authentication(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.kbd_interactive_authentication))
}

pub fn expose_auth_info(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.expose_auth_info, values.flag()?)
}

pub fn dump_expose_auth_info(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.expose_auth_info))
}

pub fn permit_empty_passwords(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.permit_empty_passwords, values.flag()?)
}

pub fn dump_permit_empty_passwords(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.permit_empty_passwords))
}

pub fn password_file(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.password_file, values.path_or_none()?)
}

pub fn dump_password_file(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.login.password_file.as_deref()))
}

pub fn totp_file(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.totp_file, values.path_or_none()?)
}

pub fn dump_totp_file(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.login.totp_file.as_deref()))
}

const TOUCH: &str = "touch-required";
const VERIFY: &str = "verify-required";
