//! Stands between a login that is over and whoever serves it: opens its session through PAM.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::{io, thread};

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{error, info};

use super::{Dialogue, Known, Opened, Order, Seat, Stage, Step, failed};
use crate::base::escape;
use crate::gateway::audit::{Audit, Entry, Event, Field, Speaker};
use crate::limits::{HAND_OVERS_MAX, PAM_CONVERSATIONS_MAX};
use crate::services::Grant;
use crate::shard::HandOver;

/// A login that waits for its session.
pub struct Entrant {
    pub connection: Box<HandOver>,
    /// What PAM has said of it.
    pub seat: Arc<Seat>,
    /// How it has proved itself, as ExposeAuthInfo tells it.
    pub auth_info: String,
}

/// A login on its way to the process that serves it.
pub struct Arrival {
    pub connection: Box<HandOver>,
    /// What keeps its session, and starts a process for it alone.
    pub kept: Option<Dialogue>,
}

/// A few threads that open sessions. They end when it is dropped and all who have come have theirs;
/// nobody waits for that.
pub struct Porter {
    queue: Sender<Waiting>,
    accounts: Accounts,
}

/// Each who waits has the way on with him: it is there as long as somebody may need it.
type Waiting = (Entrant, Accounts);
type Accounts = Sender<Arrival>;

impl Porter {
    /// Logins go to `accounts`.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(accounts: Accounts, audit: Option<&Arc<Audit>>) -> io::Result<Porter> {
        let (queue, entrants) = bounded(HAND_OVERS_MAX);
        for n in 0..PAM_CONVERSATIONS_MAX {
            let (entrants, audit) = (entrants.clone(), audit.cloned());
            let work = move || serve(&entrants, audit.as_deref());
            thread::Builder::new().name(format!("porter-{n}")).spawn(work)?;
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

fn serve(entrants: &Receiver<Waiting>, audit: Option<&Audit>) {
    for (Entrant { mut connection, seat, auth_info }, accounts) in entrants {
        let (name, link) = (connection.grant.account.name.clone(), connection.serial);
        let (user, peer) = (escape(name.as_bytes()), connection.ends.peer);
        let opened = open(&mut connection.grant, &seat, &auth_info);
        match opened {
            Ok(kept) => {
                let arrival = Arrival { connection, kept: Some(kept) };
                if let Err(arrival) = accounts.try_send(arrival) {
                    error!(link, %user, "no process of {user} could be reached");
                    close(&arrival.into_inner().connection);
                }
            }
            Err(Step { why, .. }) => {
                let why = escape(why.as_bytes());
                error!(link, %user, %peer, "PAM: no session for {user}: {why}");
                if let Some(audit) = audit {
                    let entry = Entry::new(Event::Disconnect, link, peer).of_user(&name);
                    audit.note(Speaker::Gateway, entry.text(Field::Reason, format!("PAM: {why}")));
                }
                close(&connection);
            }
        }
    }
}

/// What is then known goes into the grant. As with sshd, a module that denies the session ends no
/// connection: whatever is asked of it is answered with that module's words, and nothing is forwarded.
fn open(grant: &mut Grant, seat: &Seat, auth_info: &str) -> Result<Dialogue, Step> {
    let Known { dialogue, verdict, .. } = std::mem::take(&mut *seat.known());
    let nobody = || failed("PAM was not asked about the account".to_owned());
    let (dialogue, verdict) = dialogue.zip(verdict).ok_or_else(nobody)?;
    let (uid, gid) = (grant.account.uid, grant.account.gid);
    // Without a number of its own it is what the gateway has.
    let open_files = grant.open_files.unwrap_or(u64::MAX);
    let auth_info = auth_info.as_bytes();
    let opened = dialogue.open(&Order::Open { uid, gid, open_files, auth_info })?;
    let Opened { outcome, text, variables } = opened;
    // What modules have made of it is what its process has, and that raises nothing.
    grant.open_files = None;
    match outcome {
        Err(Step { stage: Stage::Session, why }) => {
            let (user, why) = (escape(grant.account.name.as_bytes()), escape(why.as_bytes()));
            // In sshd's words.
            error!(%user, "PAM: pam_open_session(): {why}");
            grant.rules.no_session = Some(text);
            grant.rules.forwarding.forbid();
            return Ok(dialogue);
        }
        outcome => outcome?,
    }
    if verdict.must_change {
        let user = escape(grant.account.name.as_bytes());
        info!(%user, "The password of {user} has expired: he may change it, and nothing else");
        grant.rules.must_change = true;
        grant.rules.forwarding.forbid();
        grant.rules.user_rc = false;
    }
    grant.rules.session_text = text;
    grant.rules.session_variables = variables;
    Ok(dialogue)
}

/// Gives up the socket of a login that nobody serves.
pub fn close(connection: &HandOver) {
    // SAFETY: the descriptor was given up to the connection, and nobody has taken it from there.
    drop(unsafe { OwnedFd::from_raw_fd(connection.socket.0) });
}
