//! `-T` and `-C`: the settings that hold for a connection.

use crate::gateway::accounts;
use crate::gateway::config::{Config, Who};

use super::flags::Connection;

/// The settings as lines of a configuration: for the connection that was told about, or those that
/// hold where no Match block applies. What a Match line asks for and was not told does not match
/// (sshd's rule), or is an error if the answer is to be `complete`.
///
/// # Errors
/// The accounts cannot be looked up, or the connection lacks something.
pub fn dump(connection: &Connection, config: &Config, complete: bool) -> Result<String, String> {
    if !connection.is_given() {
        return Ok(config.dump(&config.login));
    }
    let account = match &connection.user {
        Some(user) => accounts::by_name(user).map_err(|why| format!("user {user}: {why}"))?,
        None => None,
    };
    let groups = account.as_ref().map(accounts::group_ids).unwrap_or_default();
    let who = Who {
        user: connection.user.as_deref(),
        account: connection.user.as_ref().map(|_| account.is_some()),
        groups: &accounts::group_names(&groups),
        peer: connection.address,
        host: connection.host.as_deref(),
        local: connection.local(),
    };
    match config.lacks(&who).filter(|_| complete) {
        Some(name) => Err(format!("a Match line asks for {name}; tell it with -C {name}=...")),
        None => Ok(config.dump(&config.effective(&who))),
    }
}
