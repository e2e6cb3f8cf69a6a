//! Keeps a relay running, or one for each login.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tracing::error;
use zeroize::Zeroizing;

use super::Relays;
use super::clerk::{Clerk, Post};
use super::words::{Ask, Setup, Tell};
use crate::gateway::helper::Logs;
use crate::gateway::helper::keeper::{self, Lie, Side, Sign, Spoken};
use crate::gateway::monitor::hear::{Bench, Staff};
use crate::gateway::signer::bureau::Heir;
use crate::gateway::socket::Messenger;
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
        let relay = Relay { plan, clerk: Arc::clone(&clerk), staff, heir: None };
        let keeper = keeper::Keeper::start(relay)?;
        keeper.wait()?;
        Ok(Keeper { clerk, keeper })
    }

    /// No login comes any more; the relay ends with its last connection.
    pub fn retire(&self) {
        self.clerk.retire();
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
    fn take(&self, connection: HandOver) -> Result<(), Lie> {
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
        let staff = Staff::new(self.bench.clone(), Arc::new(Post(Arc::clone(&clerk))));
        let relay = Relay { plan: self.plan.clone(), clerk: Arc::clone(&clerk), staff, heir: None };
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

struct Relay {
    plan: Plan,
    clerk: Arc<Clerk>,
    staff: Staff,
    /// Its way to the signer, for when we are gone.
    heir: Option<Heir>,
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

    fn set_up(&mut self, way: &Arc<Messenger>) -> anyhow::Result<()> {
        let setup = Tell::Setup(Box::new(self.plan.setup.clone())).encode();
        let (past_us, heir) = self.clerk.heir().context("cannot make a socket pair")?;
        self.heir = Some(heir);
        Ok(way.try_send(&setup, Some(past_us.as_owned_fd().as_fd()))?)
    }

    fn begin(&mut self, way: &Arc<Messenger>) {
        self.clerk.begin(way);
    }

    fn hear(&mut self, ask: Ask, _passenger: Option<OwnedFd>) -> Result<(), Lie> {
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
        self.heir = None;
        let lost = self.clerk.end(served);
        if let Some(why) = fault {
            let what = "logins that went on at other hosts are lost";
            error!(lost, "The relay has ended: {why:#}. {lost} {what}");
        }
    }
}
