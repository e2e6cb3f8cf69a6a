//! Where root's process has things signed. What was asked for is kept until it is answered, so that
//! nothing is lost with a signer that ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{error, trace};
use zeroize::Zeroizing;

use super::words::{Order, Say, Tell};
use crate::base::escape;
use crate::crypto::{KeyKind, PublicKey};
use crate::gateway::helper::keeper::Lie;
use crate::gateway::host_agent;
use crate::gateway::socket::Messenger;
use crate::limits::{SIGNATURE_TRIES_MAX, SIGNATURES_WAITING_MAX, SLOW_SIGNATURES_MAX};

/// Hears the signature, or that there is none. Called once, by whichever thread; must not wait.
pub type Answer = Box<dyn FnOnce(Option<Vec<u8>>) + Send>;

/// The way to the signer, whichever there is at the time.
#[derive(Debug)]
pub struct Bureau {
    keys: Vec<PublicKey>,
    /// Of those that open hosts.
    upstream_keys: Vec<PublicKey>,
    /// The socket of the agent that has some of the host keys, and which.
    agent: Option<(Arc<Path>, BTreeSet<u32>)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// To the signer that there is.
    messenger: Option<Arc<Messenger>>,
    next: u64,
    /// By ticket: all that is not answered yet.
    open: BTreeMap<u64, Waiting>,
    /// Those that no signer was told of yet; of slow ones a signer is told a few at a time.
    quick: VecDeque<u64>,
    slow: VecDeque<u64>,
    slow_told: usize,
    /// By number: the signer's ends of the ways of those who go on without us.
    heirs: BTreeMap<u64, Messenger>,
    /// Of them, those that the signer was not told of yet, and those that have ended since.
    heirs_untold: VecDeque<u64>,
    heirs_ended: VecDeque<u64>,
    /// No signer comes any more.
    closed: bool,
}

struct Waiting {
    message: Zeroizing<Vec<u8>>,
    slow: bool,
    /// The signer is given a way to this agent along with it.
    agent: Option<Arc<Path>>,
    /// The signer that there is has it.
    told: bool,
    tries: u32,
    answer: Answer,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waiting({} bytes, {} tries)", self.message.len(), self.tries)
    }
}

/// A process that goes on with its sessions where root's process is gone, and then asks the signer itself.
/// While there is this, the signer knows of it.
#[derive(Debug)]
pub struct Heir {
    bureau: Arc<Bureau>,
    number: u64,
}

impl Drop for Heir {
    fn drop(&mut self) {
        let mut state = self.bureau.state();
        state.heirs.remove(&self.number);
        state.heirs_ended.push_back(self.number);
        state.tell();
    }
}

impl Bureau {
    /// A way past root's process for when it is gone: its end for the process that is to have it.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn heir(self: &Arc<Bureau>) -> io::Result<(Messenger, Heir)> {
        let (signers, its) = Messenger::pair()?;
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.heirs.insert(number, signers);
        state.heirs_untold.push_back(number);
        state.tell();
        Ok((its, Heir { bureau: Arc::clone(self), number }))
    }

    /// For these host keys, and keys that open hosts behind the gateway.
    pub fn new(keys: Vec<PublicKey>, upstream_keys: Vec<PublicKey>) -> Bureau {
        Bureau { keys, upstream_keys, agent: None, state: Mutex::default() }
    }

    /// Has the host keys of these numbers sign by the agent at this socket.
    pub fn with_agent(self, socket: &Path, keys: BTreeSet<u32>) -> Bureau {
        Bureau { agent: Some((socket.into(), keys)), ..self }
    }

    /// The public halves of the host keys, in order.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Has something signed. Never waits: `answer` is called when it is, or cannot be.
    pub fn sign(&self, order: Order, answer: Answer) {
        let keys = if order.what.is_upstreams() { &self.upstream_keys } else { &self.keys };
        let agents = |(_, keys): &&(_, BTreeSet<u32>)| {
            !order.what.is_upstreams() && keys.contains(&order.key)
        };
        let agent = self.agent.as_ref().filter(agents).map(|(socket, _)| Arc::clone(socket));
        let is_rsa = keys.get(order.key as usize).is_some_and(|key| key.kind() == KeyKind::Rsa);
        let slow = is_rsa || agent.is_some();
        let refused = {
            let mut state = self.state();
            if state.closed || state.open.len() >= SIGNATURES_WAITING_MAX {
                Some(answer)
            } else {
                let ticket = state.next;
                state.next += 1;
                let message = Tell::Sign { ticket, order }.encode();
                let waiting = Waiting { message, slow, agent, told: false, tries: 0, answer };
                state.open.insert(ticket, waiting);
                if slow {
                    state.slow.push_back(ticket)
                } else {
                    state.quick.push_back(ticket)
                }
                state.tell();
                None
            }
        };
        if let Some(answer) = refused {
            error!("no signature is made: too many wait for the signer, or there is none any more");
            answer(None);
        }
    }

    /// A signer serves.
    pub fn begin(&self, messenger: &Arc<Messenger>) {
        let mut state = self.state();
        state.messenger = Some(Arc::clone(messenger));
        state.heirs_ended.clear();
        state.heirs_untold = state.heirs.keys().copied().collect();
        state.tell();
    }

    /// What it says.
    ///
    /// # Errors
    /// No signer of ours says that.
    pub fn hear(&self, say: Say) -> Result<(), Lie> {
        let (ticket, signature) = match say {
            Say::Signed { ticket, signature } if !signature.is_empty() => (ticket, Some(signature)),
            Say::Signed { .. } => return Err(Lie("an empty signature")),
            Say::Refused { ticket, why } => {
                let why = escape(why.as_bytes());
                error!(%why, "The signer signs no such thing: {why}");
                (ticket, None)
            }
            // These are the keeper's.
            Say::Ready | Say::Pong => return Ok(()),
        };
        let waiting = {
            let mut state = self.state();
            let told = state.open.get(&ticket).is_some_and(|waiting| waiting.told);
            let waiting = if told { state.open.remove(&ticket) } else { None };
            let waiting = waiting.ok_or(Lie("a signature that nobody has asked for"))?;
            state.slow_told -= usize::from(waiting.slow);
            state.tell();
            waiting
        };
        trace!(ticket, made = signature.is_some(), "The signer has answered");
        (waiting.answer)(signature);
        Ok(())
    }

    /// The signer has ended: the next one is told of what is not answered, but for what ended two.
    pub fn end(&self) {
        let given_up = self.state().end();
        if !given_up.is_empty() {
            let count = given_up.len();
            error!(count, "{count} signatures are given up: the signer ended with them twice");
        }
        given_up.into_iter().for_each(|waiting| (waiting.answer)(None));
    }

    /// Nothing that waits is answered any more. `for_good`: nor is what comes.
    pub fn give_up(&self, for_good: bool) {
        let all = {
            let mut state = self.state();
            let closed = state.closed || for_good;
            let next = state.next;
            let heirs = std::mem::take(&mut state.heirs);
            let empty = State { closed, next, heirs, ..State::default() };
            std::mem::replace(&mut *state, empty).open
        };
        if !all.is_empty() && !for_good {
            let count = all.len();
            error!(count, "{count} key exchanges end: there is no signer for them");
        }
        all.into_values().for_each(|waiting| (waiting.answer)(None));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reach(agent: &Path) -> Option<OwnedFd> {
    let tell = |why: &io::Error| {
        let path = escape(agent.as_os_str().as_encoded_bytes());
        error!(%path, %why, "HostKeyAgent {path} cannot be asked: {why}");
    };
    host_agent::reach(agent).inspect_err(tell).ok()
}

impl State {
    /// Tells the signer of as much as it takes.
    fn tell(&mut self) {
        self.tell_of_heirs();
        while let Some(ticket) = self.quick.front().copied()
            && self.tell_of(ticket)
        {
            self.quick.pop_front();
        }
        while self.slow_told < SLOW_SIGNATURES_MAX
            && let Some(ticket) = self.slow.front().copied()
            && self.tell_of(ticket)
        {
            self.slow.pop_front();
            self.slow_told += 1;
        }
    }

    /// In order, so that none is told of who has ended.
    fn tell_of_heirs(&mut self) {
        let Some(messenger) = &self.messenger else { return };
        while let Some(number) = self.heirs_untold.front().copied() {
            let told = self.heirs.get(&number).is_none_or(|way| {
                let tell = Tell::Heir { number }.encode();
                messenger.try_send(&tell, Some(way.as_owned_fd().as_fd())).is_ok()
            });
            if !told {
                return;
            }
            self.heirs_untold.pop_front();
        }
        while let Some(number) = self.heirs_ended.front().copied() {
            if messenger.try_send(&Tell::NoHeir { number }.encode(), None).is_err() {
                return;
            }
            self.heirs_ended.pop_front();
        }
    }

    /// `false`: there is none, or it has not read what it was told; it is told when it answers.
    fn tell_of(&mut self, ticket: u64) -> bool {
        let (Some(messenger), Some(waiting)) = (&self.messenger, self.open.get_mut(&ticket)) else {
            return false;
        };
        // A signer that gets none says that.
        let agent = waiting.agent.as_deref().and_then(reach);
        let agent = agent.as_ref().map(|socket| socket.as_fd());
        waiting.told = messenger.try_send(&waiting.message, agent).is_ok();
        waiting.tries += u32::from(waiting.told);
        waiting.told
    }

    fn end(&mut self) -> Vec<Waiting> {
        self.messenger = None;
        self.slow_told = 0;
        self.quick.clear();
        self.slow.clear();
        let mut given_up = Vec::new();
        for (ticket, mut waiting) in std::mem::take(&mut self.open) {
            waiting.told = false;
            if waiting.tries >= SIGNATURE_TRIES_MAX {
                given_up.push(waiting);
                continue;
            }
            if waiting.slow {
                self.slow.push_back(ticket)
            } else {
                self.quick.push_back(ticket)
            }
            self.open.insert(ticket, waiting);
        }
        given_up
    }
}
