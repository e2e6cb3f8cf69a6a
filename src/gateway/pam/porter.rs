//! Stands between a login that is over and whoever serves it: PAM says whether the account may be used,
//! however its user has shown who he is.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::{io, thread};

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{error, info};

use crate::base::escape;
use crate::gateway::audit::{Audit, Entry, Event, Field, Speaker};
use crate::gateway::policy::{Comer, Policy};
use crate::limits::{HAND_OVERS_MAX, PAM_CONVERSATIONS_MAX};
use crate::shard::HandOver;

/// A login that waits for its account to be asked about.
pub struct Entrant {
    pub connection: Box<HandOver>,
    /// The client's name, where names matter.
    pub host: Option<Arc<str>>,
    /// It was with a password.
    pub by_password: bool,
}

/// A few threads that ask. They end when it is dropped and all who have come were asked about; nobody
/// waits for that.
pub struct Porter {
    queue: Sender<Waiting>,
    accounts: Accounts,
}

/// Each who waits has the way on with him: it is there as long as somebody may need it.
type Waiting = (Entrant, Accounts);
type Accounts = Sender<Box<HandOver>>;

impl Porter {
    /// Logins of accounts that may be used go to `accounts`.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        policy: &Policy,
        accounts: Accounts,
        audit: Option<&Arc<Audit>>,
    ) -> io::Result<Porter> {
        let (queue, entrants) = bounded(HAND_OVERS_MAX);
        for n in 0..PAM_CONVERSATIONS_MAX {
            let (policy, entrants, audit) = (policy.clone(), entrants.clone(), audit.cloned());
            let name = format!("porter-{n}");
            let work = move || serve(&policy, &entrants, audit.as_deref());
            thread::Builder::new().name(name).spawn(work)?;
        }
        Ok(Porter { queue, accounts })
    }

    /// Never waits: where too many do, the login is lost.
    pub fn admit(&self, entrant: Entrant) {
        if let Err(entrant) = self.queue.try_send((entrant, self.accounts.clone())) {
            let connection = entrant.into_inner().0.connection;
            let (link, user) =
                (connection.serial, escape(connection.grant.account.name.as_bytes()));
            error!(link, %user, "too many logins wait for PAM; the one of {user} is lost");
            close(&connection);
        }
    }
}

fn serve(policy: &Policy, entrants: &Receiver<Waiting>, audit: Option<&Audit>) {
    for (Entrant { connection, host, by_password }, accounts) in entrants {
        let (name, link) = (connection.grant.account.name.clone(), connection.serial);
        let comer = Comer {
            user: &name,
            peer: connection.ends.peer,
            host: host.as_deref(),
            local: connection.ends.local,
            rdomain: connection.ends.routing.name(),
        };
        let (user, peer) = (escape(name.as_bytes()), comer.peer);
        if let Err(why) = policy.check_account(&comer, by_password) {
            // In sshd's words.
            info!(
                link, %user, %peer,
                "Access denied for user {user} by PAM account configuration: {why}"
            );
            if let Some(audit) = audit {
                let entry = Entry::new(Event::Disconnect, link, peer).of_user(&name);
                audit.note(Speaker::Gateway, entry.text(Field::Reason, why.to_string()));
            }
            close(&connection);
        } else if let Err(connection) = accounts.try_send(connection) {
            error!(link, %user, "no process of {user} could be reached");
            close(&connection.into_inner());
        }
    }
}

/// Gives up the socket of a login that nobody serves.
pub fn close(connection: &HandOver) {
    // SAFETY: the descriptor was given up to the connection, and nobody has taken it from there.
    drop(unsafe { OwnedFd::from_raw_fd(connection.socket.0) });
}
