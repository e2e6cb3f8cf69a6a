//! Keeps a relay running, or one for each login.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tracing::error;
use zeroize::Zeroizing;

use super::Relays;
use super::clerk::{Clerk, Post};
use super::words::{Ask, Setup, Tell};
use crate::gateway::figures::Figures;
use crate::gateway::figures::roll::{Presence, roll};
use crate::gateway::helper::Logs;
use crate::gateway::helper::keeper::{self, Lie, Side, Sign, Spoken};
use crate::gateway::monitor::hear::{Bench, Staff};
use crate::gateway::moving::{Exit, Pieces};
use crate::gateway::signer::bureau::Heir;
use crate::gateway::socket::Messenger;
use crate::reactor;
use crate::services::upstream::{Fleet, Host, Upstream};
use crate::shard::HandOver;
use crate::wire::Malformed;

/// What a relay is started with, each time.
#[derive(Clone)]
pub struct Plan {
    pub setup: Setup,
    pub logs: Logs,
}

/// Keeps a relay running until it is told otherwise.
pub struct Keeper {
    clerk: Arc<Clerk>,
    keeper: keeper::Keeper,
}

impl Keeper {
    /// Starts the first relay and waits until it serves.
    ///
    /// # Errors
    /// It does not; the text says why.
    pub fn start(plan: Plan, clerk: Arc<Clerk>, staff: Staff) -> anyhow::Result<Keeper> {
        let relay = Relay::new(plan, &clerk, staff, None);
        let keeper = keeper::Keeper::start(relay)?;
        keeper.wait()?;
        Ok(Keeper { clerk, keeper })
    }

    /// No login comes any more; the relay ends with its last connection.
    pub fn retire(&self) {
        self.clerk.retire();
    }

    /// Logins go on in the program at the other end, as soon as each can.
    pub fn move_on(&self, exit: &Arc<Exit>) {
        self.clerk.move_on(exit);
    }

    pub fn is_over(&self) -> bool {
        self.keeper.is_over()
    }

    /// Ends the relay, if it has not ended, and waits for that.
    pub fn stop(self) {
        self.clerk.stop();
        self.keeper.join();
    }
}

/// A relay for each login, for `TidegateIsolation per-connection`.
pub struct Each {
    plan: Plan,
    /// What those that answer relays are made of.
    clerk: Clerk,
    bench: Bench,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    /// Some of them may have ended.
    relays: Vec<Keeper>,
    stopped: bool,
}

impl Each {
    pub fn new(plan: Plan, clerk: Clerk, bench: Bench) -> Each {
        Each { plan, clerk, bench, running: Mutex::default() }
    }

    /// As [`Keeper::move_on`].
    pub fn move_on(&self, exit: &Arc<Exit>) {
        self.clerk.move_on(exit);
        self.running().relays.iter().for_each(|relay| relay.clerk.move_on(exit));
    }

    /// Every relay has ended. To be asked when no login comes any more.
    pub fn is_over(&self) -> bool {
        self.running().relays.iter().all(Keeper::is_over)
    }

    /// Ends every relay and waits for that.
    pub fn stop(&self) {
        let relays = {
            let mut running = self.running();
            running.stopped = true;
            std::mem::take(&mut running.relays)
        };
        relays.iter().for_each(|relay| relay.clerk.stop());
        relays.into_iter().for_each(Keeper::stop);
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relays for Each {
    fn take(&self, mut connection: HandOver) -> Result<(), Lie> {
        // One that has moved has its host, and knows it by its number.
        let comes = connection.luggage.is_none();
        let upstream = connection.grant.upstream.as_mut().filter(|_| comes);
        let berth = upstream.and_then(|upstream| Berth::choose(Arc::make_mut(upstream)));
        let clerk = Arc::new(self.clerk.for_one());
        let mut running = self.running();
        running.relays.retain(|relay| !relay.is_over());
        if running.stopped {
            clerk.stop();
        }
        clerk.hand_over(connection)?;
        // It was turned away.
        if clerk.is_done() {
            return Ok(());
        }
        let staff = Staff::new(self.bench.clone(), Arc::new(Post::to(&clerk)));
        let relay = Relay::new(self.plan.clone(), &clerk, staff, berth);
        match keeper::Keeper::start_unawaited(relay) {
            Ok(keeper) => running.relays.push(Keeper { clerk, keeper }),
            Err(why) => {
                error!("No relay can be started: {why:#}");
                clerk.end(false);
            }
        }
        Ok(())
    }
}

/// The place of a login at one of several hosts. Relays that have one login each know nothing of others: what
/// hosts have, and which failed, is known here.
struct Berth {
    fleet: Arc<Fleet>,
    /// Its hosts in the order in which the relay tries them.
    order: Vec<usize>,
    at: usize,
}

impl Berth {
    /// Has the hosts of a login come in the order in which they are to be tried.
    fn choose(upstream: &mut Upstream) -> Option<Berth> {
        let fleet = Arc::clone(&upstream.fleet);
        let order = Vec::from(fleet.order(reactor::now()));
        let hosts = order.iter().filter_map(|number| fleet.host(*number));
        upstream.fleet = Arc::new(Fleet::new(hosts.map(|host| (host.name.clone(), host.port))));
        let berth = Berth { fleet, order, at: 0 };
        berth.host().map(Host::enter)?;
        Some(berth)
    }

    fn host(&self) -> Option<&Host> {
        self.fleet.host(*self.order.get(self.at)?)
    }

    /// The relay tries this one of them: the one before did not do. A lie about that makes others begin at
    /// another host for a while, and no more.
    fn goes_to(&mut self, number: usize) {
        if number == self.at || number >= self.order.len() {
            return;
        }
        if let Some(host) = self.host() {
            host.leave();
            host.failed(reactor::now());
        }
        self.at = number;
        self.host().into_iter().for_each(Host::enter);
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.host().into_iter().for_each(Host::leave);
    }
}

struct Relay {
    plan: Plan,
    clerk: Arc<Clerk>,
    staff: Staff,
    /// Its way to the signer, for when we are gone.
    heir: Option<Heir>,
    /// Of one that has one login.
    berth: Option<Berth>,
    presence: Option<Presence>,
    /// Those of a login that is about to leave.
    pieces: Pieces,
}

impl Relay {
    fn new(plan: Plan, clerk: &Arc<Clerk>, staff: Staff, berth: Option<Berth>) -> Relay {
        let (clerk, pieces) = (Arc::clone(clerk), Pieces::default());
        Relay { plan, clerk, staff, heir: None, berth, presence: None, pieces }
    }
}

impl Spoken for Ask {
    fn decode(bytes: &[u8]) -> Result<Ask, Malformed> {
        Ask::decode(bytes)
    }

    fn sign(&self) -> Option<Sign> {
        match self {
            Ask::Ready => Some(Sign::Ready),
            Ask::Pong => Some(Sign::Pong),
            _ => None,
        }
    }
}

impl Side for Relay {
    type Said = Ask;

    const NAME: &'static str = "relay";
    const DOES: &'static str = "serves logins at other hosts";

    fn logs(&self) -> &Logs {
        &self.plan.logs
    }

    fn ping(&self) -> Zeroizing<Vec<u8>> {
        Tell::Ping.encode().into()
    }

    fn set_up(&mut self, way: &Arc<Messenger>, pid: u32) -> anyhow::Result<()> {
        let setup = Tell::Setup(Box::new(self.plan.setup.clone())).encode();
        let (figures, theirs) = Figures::shared(self.plan.setup.reactors as usize)?;
        self.presence = Some(roll().enter(Relay::NAME, "", pid, Some(Arc::new(figures))));
        let (past_us, heir) = self.clerk.heir().context("cannot make a socket pair")?;
        self.heir = Some(heir);
        way.try_send(&setup, Some(past_us.as_owned_fd().as_fd()))?;
        Ok(way.try_send(&Tell::Figures.encode(), Some(theirs.as_fd()))?)
    }

    fn begin(&mut self, way: &Arc<Messenger>) {
        self.clerk.begin(way);
    }

    fn hear(&mut self, ask: Ask, passenger: Option<OwnedFd>) -> Result<(), Lie> {
        let ask = match ask {
            Ask::Piece { link, number } => {
                let fits = self.clerk.may_pass_on() && self.pieces.put((link, number), passenger);
                return fits.then_some(()).ok_or(Lie("pieces of nothing"));
            }
            Ask::Moves(moving) => {
                let its = passenger.zip(self.pieces.take(&moving));
                return self.clerk.pass_on(*moving, its.ok_or(Lie("a login without its pieces"))?);
            }
            ask => ask,
        };
        match (&ask, &mut self.berth) {
            (Ask::FindWay { host, .. }, Some(berth)) => berth.goes_to(*host as usize),
            (Ask::Over { .. }, _) => self.berth = None,
            _ => {}
        }
        self.clerk.hear(&mut self.staff, ask)
    }

    fn go_on(&mut self) -> bool {
        self.staff.retry();
        self.clerk.retry() || !self.staff.waiting.is_empty()
    }

    fn complaint(&self) -> Option<&'static str> {
        self.clerk.is_stuck().then_some("it does not read what it is told")
    }

    fn is_one_of_many(&self) -> bool {
        self.clerk.is_single()
    }

    fn is_wanted(&self) -> bool {
        !self.clerk.is_done()
    }

    fn end(&mut self, served: bool, fault: Option<&anyhow::Error>) {
        (self.heir, self.presence) = (None, None);
        let lost = self.clerk.end(served);
        if let Some(why) = fault {
            let what = "logins that went on at other hosts are lost";
            error!(lost, "The relay has ended: {why:#}. {lost} {what}");
        }
    }
}
