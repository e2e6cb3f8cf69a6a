//! Root's side of the edge: starts one, answers it, and starts another when it ends or lies. The
//! listening sockets are root's too, so that connections wait meanwhile.

pub mod cases;
pub mod hear;
pub mod reception;
mod ways;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::error;
use zeroize::Zeroizing;

use self::hear::{Clerk, Staff};
use self::reception::{Hall, Spare};
use self::ways::Ways;
use super::desk;
use super::edge::words::{Ask, Setup, Tell};
use super::figures::Figures;
use super::figures::roll::{Presence, roll};
use super::helper::Logs;
use super::helper::keeper::{self, Lie, Side, Sign, Spoken};
use super::socket::Messenger;
use crate::limits::STANDINGS_A_MESSAGE;
use crate::reactor::{self, Fd};
use crate::wire::Malformed;

/// What an edge is started with, each time.
#[derive(Clone)]
pub struct Plan {
    pub setup: Setup,
    pub listeners: Vec<Arc<OwnedFd>>,
    pub logs: Logs,
    /// Edges of the generation that there have been.
    pub started: Arc<AtomicU64>,
}

/// Keeps an edge running until it is told otherwise.
pub struct Keeper {
    wishes: Arc<Wishes>,
    keeper: keeper::Keeper,
}

/// What is to become of the edge; shared with the thread that keeps it.
#[derive(Default)]
struct Wishes(Mutex<Wish>);

#[derive(Default)]
struct Wish {
    /// The way to the edge, once it serves.
    messenger: Option<Arc<Messenger>>,
    retired: bool,
    stopped: bool,
}

impl Keeper {
    /// Starts the first edge and waits until it serves.
    ///
    /// # Errors
    /// It does not; the text says why.
    pub fn start(plan: Plan, clerk: Arc<Clerk>, staff: Staff) -> anyhow::Result<Keeper> {
        let wishes = Arc::new(Wishes::default());
        let (ways, presence) = (Arc::clone(&wishes), None);
        let edge = Edge { plan, clerk, staff, wishes: ways, hall: None, presence };
        let keeper = keeper::Keeper::start(edge)?;
        keeper.wait()?;
        Ok(Keeper { wishes, keeper })
    }

    /// Passes a connection on that was accepted elsewhere.
    pub fn adopt(&self, clerk: &Clerk, socket: &OwnedFd) {
        if desk::ends_of(Fd(socket.as_raw_fd())).is_none() {
            clerk.pipes.store(true, Ordering::Relaxed);
        }
        if !self.wishes.adopt(socket, false) {
            error!("the connection could not be passed on to the edge");
        }
    }

    /// Accepts no more; the edge ends with its last connection.
    pub fn retire(&self) {
        let mut wish = self.wishes.lock();
        wish.retired = true;
        wish.tell(&Tell::Retire);
    }

    pub fn is_over(&self) -> bool {
        self.keeper.is_over()
    }

    /// Ends the edge, if it has not ended, and waits for that.
    pub fn stop(self) {
        self.wishes.stop();
        self.keeper.join();
    }
}

impl Wishes {
    /// Passes a connection on. `asks`: it is a proxy's. `false`: there is no edge that takes it.
    fn adopt(&self, socket: &OwnedFd, asks: bool) -> bool {
        let wish = self.lock();
        let messenger = wish.messenger.as_ref().filter(|_| !wish.stopped);
        let message = Tell::Adopt { asks }.encode();
        messenger.is_some_and(|to| to.try_send(&message, Some(socket.as_fd())).is_ok())
    }

    fn stop(&self) {
        let mut wish = self.lock();
        (wish.retired, wish.stopped) = (true, true);
        wish.tell(&Tell::Stop);
        // One that does not listen is given some time to end, and no more.
        wish.messenger.iter().for_each(|messenger| messenger.hang_up());
    }

    fn lock(&self) -> MutexGuard<'_, Wish> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wish {
    /// One that does not read is found out otherwise.
    fn tell(&self, tell: &Tell) {
        if let Some(messenger) = &self.messenger {
            let _ = messenger.try_send(&tell.encode(), None);
        }
    }
}

struct Edge {
    plan: Plan,
    clerk: Arc<Clerk>,
    staff: Staff,
    wishes: Arc<Wishes>,
    /// Where one that hears one connection waits for it.
    hall: Option<Arc<Hall>>,
    presence: Option<Presence>,
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

impl Side for Edge {
    type Said = Ask;

    const NAME: &'static str = "edge";
    const DOES: &'static str = "hears logins";

    fn logs(&self) -> &Logs {
        &self.plan.logs
    }

    fn ping(&self) -> Zeroizing<Vec<u8>> {
        Tell::Ping.encode().into()
    }

    fn set_up(&mut self, way: &Arc<Messenger>, pid: u32) -> anyhow::Result<()> {
        let plan = &self.plan;
        let mut setup = plan.setup.clone();
        // No two connections have the same number in the log.
        let shift = if self.clerk.is_single() { 0 } else { 24 };
        setup.first_serial += plan.started.fetch_add(1, Ordering::Relaxed) << shift;
        let (first, reactors) = (setup.first_serial, setup.reactors.max(1));
        way.try_send(&Tell::Setup(Box::new(setup)).encode(), None)?;
        let (figures, theirs) = Figures::shared(reactors as usize)?;
        self.presence = Some(roll().enter(Edge::NAME, "", pid, Some(Arc::new(figures))));
        way.try_send(&Tell::Figures.encode(), Some(theirs.as_fd()))?;
        let mut shards = Vec::new();
        for _ in 0..reactors {
            let (ours, theirs) = Messenger::pair()?;
            way.try_send(&Tell::Mailbox.encode(), Some(theirs.as_owned_fd().as_fd()))?;
            shards.push(ours);
        }
        self.clerk.begin(Ways::new(way, shards), first);
        // Where it counts connections itself.
        let counts = !self.clerk.is_single();
        let standings = counts.then(|| self.clerk.startups.standings(reactor::now()));
        for some in standings.unwrap_or_default().chunks(STANDINGS_A_MESSAGE) {
            way.try_send(&Tell::Standings(some.to_vec()).encode(), None)?;
        }
        for listener in &plan.listeners {
            way.try_send(&Tell::Listener.encode(), Some(listener.as_fd()))?;
        }
        Ok(way.try_send(&Tell::Begin.encode(), None)?)
    }

    fn begin(&mut self, way: &Arc<Messenger>) {
        let mut wish = self.wishes.lock();
        wish.messenger = Some(Arc::clone(way));
        // What was wished while there was none.
        if wish.stopped {
            wish.tell(&Tell::Stop);
        } else if wish.retired {
            wish.tell(&Tell::Retire);
        }
        drop(wish);
        if let Some(hall) = &self.hall {
            hall.serves(Spare::new(&self.wishes, &self.clerk));
        }
    }

    fn hear(&mut self, ask: Ask, passenger: Option<OwnedFd>) -> Result<(), Lie> {
        self.clerk.hold_back();
        match (ask, &self.hall) {
            (Ask::Announced { peer }, Some(hall)) => hall.announced(&self.clerk, peer),
            (Ask::Untold { why }, Some(hall)) => hall.untold(&self.clerk, why),
            (ask, _) => self.clerk.hear(&mut self.staff, ask, passenger),
        }
    }

    fn holds_back(&self) -> bool {
        self.clerk.holds_back()
    }

    fn let_out(&mut self) {
        self.clerk.let_out();
    }

    fn go_on(&mut self) -> bool {
        self.staff.retry();
        !self.staff.waiting.is_empty()
    }

    fn complaint(&self) -> Option<&'static str> {
        self.clerk.complaint(reactor::now())
    }

    fn is_through(&self) -> bool {
        self.clerk.is_spent()
    }

    fn is_one_of_many(&self) -> bool {
        self.hall.is_some()
    }

    fn is_wanted(&self) -> bool {
        self.hall.is_none() && !self.wishes.lock().retired
    }

    fn end(&mut self, served: bool, fault: Option<&anyhow::Error>) {
        self.wishes.lock().messenger = None;
        self.presence = None;
        self.clerk.end();
        if let Some(hall) = self.hall.as_ref().filter(|_| !served) {
            hall.failed();
        }
        if let Some(why) = fault {
            error!("The edge has ended: {why:#}");
        }
    }
}
