//! `-T` and `-C`: the settings that hold for a connection.

use std::path::Path;

use crate::gateway::config::{Config, Who};
use crate::gateway::{accounts, residents};

use super::flags::Connection;

/// How much has to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// What a Match line asks for has to be told; whether the user exists is looked up.
    Asked,
    /// sshd's rule: what was not told does not match, and every user exists whom `invalid-user`
    /// does not deny.
    AsGiven,
}

/// The settings as lines of a configuration: for the connection that was told about, or those that
/// hold where no Match block applies.
///
/// # Errors
/// The accounts cannot be looked up, or the connection lacks something.
pub fn dump(
    connection: &Connection,
    config: &Config,
    completeness: Completeness,
) -> Result<String, String> {
    if !connection.is_given() {
        return Ok(config.dump(&config.login));
    }
    let account = match &connection.user {
        Some(user) => accounts::by_name(user).map_err(|why| format!("user {user}: {why}"))?,
        None => None,
    };
    let residents = residents::check(config)?;
    let resident = connection.user.as_ref().and_then(|user| residents.find(user));
    let groups = account.as_ref().map(accounts::group_ids).unwrap_or_default();
    let exists = match completeness {
        _ if connection.invalid_user => Some(false),
        Completeness::AsGiven => Some(true),
        Completeness::Asked => {
            connection.user.as_ref().map(|_| account.is_some() || resident.is_some())
        }
    };
    let who = Who {
        user: connection.user.as_deref(),
        account: exists,
        groups: &accounts::group_names(&groups),
        peer: connection.address,
        host: connection.host.as_deref(),
        local: connection.local(),
        rdomain: connection.rdomain.as_deref(),
    };
    match config.lacks(&who).filter(|_| completeness == Completeness::Asked) {
        Some(name) => Err(format!("a Match line asks for {name}; tell it with -C {name}=...")),
        None => {
            let path = config.login.accounts_file.as_deref().unwrap_or(Path::new(""));
            let told = resident.map(|resident| resident.tell(path)).unwrap_or_default();
            Ok(config.dump(&config.effective(&who)) + &told)
        }
    }
}
