//! The keywords about PAM.

use super::diagnostic::Wrong;
use super::dump::{View, one, yes_no};
use super::honour::{Done, first};
use super::keywords::Target;
use super::reader::Reading;
use super::values::Values;
use crate::limits::PAM_SERVICE_BYTES_MAX;

pub fn use_pam(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.use_pam, values.flag()?)
}

pub fn dump_use_pam(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.use_pam))
}

/// It is the name of a file.
pub fn pam_service_name(target: &mut Target, values: &Values<'_>) -> Done {
    let name = values.one()?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_name) {
        return Err(Wrong::new(name, "not the name of a file in /etc/pam.d"));
    }
    if name.len() > PAM_SERVICE_BYTES_MAX {
        return Err(Wrong::new(name, format!("longer than {PAM_SERVICE_BYTES_MAX} bytes")));
    }
    first(&mut target.login.pam_service, name.to_owned())
}

pub fn dump_pam_service_name(view: &View<'_>) -> Vec<String> {
    one(view.login.pam_service.clone())
}

/// With PAM there are passwords to ask for, so that they are asked for by default, as by sshd.
pub fn settle(reading: &mut Reading<'_>) {
    if reading.login.use_pam != Some(true) {
        return;
    }
    reading.login.password_authentication.get_or_insert(true);
    reading.login.kbd_interactive_authentication.get_or_insert(true);
}
