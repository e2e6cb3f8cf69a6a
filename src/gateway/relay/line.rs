//! A relay's way to root's process: what shards ask that takes rights goes out, and shards never wait for
//! the answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::words::Ask;
use crate::crypto::{KeyKind, PrivateKey};
use crate::gateway::edge::words::Ticket;
use crate::gateway::helper::Owed;
use crate::gateway::socket::Messenger;
use crate::reactor::Token;
use crate::services::Job;
use crate::services::upstream::{Credential, Upstream};

/// The relay's end. What does not fit into the socket's queue waits in the shard that asks; what must
/// not be lost waits here.
#[derive(Debug)]
pub struct Line {
    messenger: Arc<Messenger>,
    state: Mutex<State>,
    /// Logins that are over, and nobody was told yet.
    owed: Owed,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<Number, Asked>,
    /// Nobody answers any more.
    closed: bool,
}

/// A ticket, in an order.
type Number = (u32, u32, u16, u16);

/// What it takes to make something of an answer.
#[derive(Debug)]
pub struct Asked {
    pub upstream: Arc<Upstream>,
    /// The key that was made for the login.
    pub made: Option<PrivateKey>,
}

const fn number(ticket: Ticket) -> Number {
    let Token { key, generation, tag } = ticket.token;
    (ticket.shard, key, generation, tag)
}

impl Line {
    pub fn new(messenger: Arc<Messenger>) -> Line {
        Line { messenger, state: Mutex::default(), owed: Owed::default() }
    }

    /// Whether a job is root's process's to do.
    pub const fn takes(job: &Job) -> bool {
        matches!(
            job,
            Job::FindHosts { .. }
                | Job::FindWay { .. }
                | Job::JudgeHost { .. }
                | Job::HaveLoginSigned { .. }
        )
    }

    /// Asks for what only root's process can do. The job comes back when that has no room for it.
    pub fn ask(&self, shard: usize, token: Token, job: Job) -> Result<(), Job> {
        if !self.pay() {
            return Err(job);
        }
        let ticket = Ticket { shard: shard as u32, token };
        let Some((ask, asked)) = question(ticket, &job) else { return Err(job) };
        // Before it is sent: its answer may be here before this call is over.
        self.state().open.insert(number(ticket), asked);
        self.messenger.try_send(&ask.encode(), None).map_err(|_| {
            self.state().open.remove(&number(ticket));
            job
        })
    }

    /// An answer has come. `None`: to nothing that was asked.
    pub fn answered(&self, ticket: Ticket) -> Option<Asked> {
        self.state().open.remove(&number(ticket))
    }

    /// A login's connection has ended.
    pub fn over(&self, link: u64) {
        self.owed.add(link);
        self.pay();
    }

    /// No answers come any more. Those to which there were none yet.
    pub fn close(&self) -> Vec<Ticket> {
        let mut state = self.state();
        state.closed = true;
        let ticket =
            |(shard, key, generation, tag)| Ticket { shard, token: Token { key, generation, tag } };
        std::mem::take(&mut state.open).into_keys().map(ticket).collect()
    }

    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Tells what is owed. `false`: some is left.
    fn pay(&self) -> bool {
        self.owed.pay(&self.messenger, |link| Ask::Over { link }.encode())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None`: this cannot be asked, or there is no randomness for a key.
fn question(ticket: Ticket, job: &Job) -> Option<(Ask, Asked)> {
    let (ask, upstream, made) = match job {
        Job::FindHosts { link, upstream, .. } => {
            (Ask::FindHosts { ticket, link: *link }, upstream, None)
        }
        Job::FindWay { link, upstream, host, .. } => {
            let certified = matches!(upstream.credential, Credential::Authority(_));
            let made = match certified {
                true => Some(PrivateKey::generate(KeyKind::Ed25519).ok()?),
                false => None,
            };
            let subject = made.as_ref().map_or(&[][..], |key| key.public().blob()).to_vec();
            let host = *host as u32;
            (Ask::FindWay { ticket, link: *link, host, subject }, upstream, made)
        }
        Job::JudgeHost { link, upstream, host, shown, session, signature } => {
            let (host, session, signature) = (*host as u32, session.to_vec(), signature.to_vec());
            let shown = shown.clone();
            let ask = Ask::JudgeHost { ticket, link: *link, host, shown, session, signature };
            (ask, upstream, None)
        }
        Job::HaveLoginSigned { link, upstream, algorithm, session } => {
            let (algorithm, session) = (*algorithm, session.clone());
            (Ask::SignLogin { ticket, link: *link, algorithm, session }, upstream, None)
        }
        _ => return None,
    };
    Some((ask, Asked { upstream: Arc::clone(upstream), made }))
}
