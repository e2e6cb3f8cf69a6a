//! Edges that hear one connection each, for `TidegateIsolation per-connection`: root's process accepts,
//! counts, and passes each socket on to an edge that has heard nobody. It reads nothing from any of them: where
//! a proxy is to say whose a connection is, the edge hears that, and the client is counted then.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{SockFlag, accept4};
use tracing::{debug, error};

use super::hear::{Bench, Clerk, Place, Post, Slot, Staff};
use super::{Edge, Keeper, Lie, Plan, Wishes};
use crate::base::Instant;
use crate::gateway::config::Verdict;
use crate::gateway::desk::{self, UNKNOWN, ends_of, routing_of};
use crate::gateway::drops::Drops;
use crate::gateway::figures::Figure;
use crate::gateway::figures::roll::roll;
use crate::gateway::helper::keeper;
use crate::limits::{
    ACCEPT_REST, ACCEPTS_A_TURN, DROPS_INTERVAL, EDGE_CHECK, EDGES_SPARE, ENDING_CHECK,
    PREFACES_APART_MAX, STARTUPS_MAX,
};
use crate::reactor::{self, Fd};
use crate::services::RoutingDomain;
use crate::shard::{Ends, UNTOLD};

/// Accepts, and has an edge for each connection, until it is told otherwise.
pub struct Reception {
    hall: Arc<Hall>,
    acceptor: JoinHandle<()>,
}

/// What the thread that accepts shares with those that keep edges.
pub(super) struct Hall {
    plan: Plan,
    /// What those that answer edges are made of.
    clerk: Clerk,
    bench: Bench,
    listeners: Vec<Arc<OwnedFd>>,
    drops: Drops,
    /// Held by each connection of a proxy that has not told whose it is.
    asked: Arc<()>,
    /// Wakes the thread that accepts.
    bell: EventFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that serve and have heard nobody.
    spare: VecDeque<Spare>,
    /// Edges that do not serve yet.
    starting: usize,
    /// Connections for which there was none.
    waiting: VecDeque<Guest>,
    /// All that there are, and some that have ended.
    edges: Vec<Keeper>,
    retired: bool,
    stopped: bool,
}

/// An edge that waits for its connection.
pub(super) struct Spare {
    wishes: Arc<Wishes>,
    clerk: Arc<Clerk>,
}

/// A connection that was counted.
struct Guest {
    socket: OwnedFd,
    ends: Ends,
    place: Place,
}

impl Reception {
    /// Starts the first edge, waits until it serves, and begins to accept. `clerk`: what those that answer
    /// edges are like.
    ///
    /// # Errors
    /// It does not serve; the text says why.
    pub fn start(mut plan: Plan, clerk: Clerk, bench: Bench) -> anyhow::Result<Reception> {
        leave_buffers_untouched();
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let hall = Arc::new(Hall {
            listeners: std::mem::take(&mut plan.listeners),
            plan,
            clerk,
            bench,
            drops: Drops::default(),
            asked: Arc::default(),
            bell: bell.context("cannot make an eventfd")?,
            state: Mutex::default(),
        });
        hall.state().starting = 1;
        let served = hall.start_first();
        let for_thread = Arc::clone(&hall);
        let accepting = served.and_then(|()| {
            let thread = thread::Builder::new().name("acceptor".to_owned()).stack_size(256 * 1024);
            thread
                .spawn(move || for_thread.accept())
                .context("cannot start the thread that accepts")
        });
        match accepting {
            Ok(acceptor) => Ok(Reception { hall, acceptor }),
            Err(why) => {
                hall.stop();
                Err(why)
            }
        }
    }

    /// Gives a connection that was accepted elsewhere to an edge.
    pub fn adopt(&self, socket: OwnedFd) {
        let startups = Arc::clone(&self.hall.clerk.startups);
        let unknown = Ends { peer: UNKNOWN, local: UNKNOWN, routing: RoutingDomain::default() };
        let ends = ends_of(Fd(socket.as_raw_fd())).unwrap_or(unknown);
        startups.adopt(ends.peer.ip());
        let place = Place::Client(Slot { startups, peer: ends.peer });
        self.hall.seat(Guest { ends: self.hall.routed(&socket, ends), socket, place });
        self.hall.top_up();
    }

    /// Accepts no more; edges end with their connections.
    pub fn retire(&self) {
        self.hall.retire();
    }

    /// It was retired, and the last edge has ended.
    pub fn is_over(&self) -> bool {
        self.acceptor.is_finished() && self.hall.is_empty()
    }

    /// Ends every edge, and waits for that.
    pub fn stop(self) {
        self.hall.stop();
        if self.acceptor.join().is_err() {
            error!("the thread that accepts ended with a panic");
        }
        // Those that it was starting.
        while self.hall.stop() {
            thread::sleep(ENDING_CHECK);
        }
    }
}

impl Hall {
    /// Until it is retired.
    fn accept(self: &Arc<Hall>) {
        let (mut rested, mut told) = (None::<Instant>, reactor::now());
        loop {
            self.top_up();
            if self.state().retired {
                break;
            }
            let now = reactor::now();
            rested = rested.filter(|until| *until > now);
            if now.since(told) >= DROPS_INTERVAL {
                self.drops.tell();
                told = now;
            }
            for listener in self.wait(rested.is_some()) {
                if let Err(errno) = self.accept_from(listener) {
                    // Out of descriptors or memory, or nobody listens any more.
                    rested = Some(reactor::now().after(ACCEPT_REST));
                    debug!(%errno, "accepting rests: {errno}");
                }
            }
        }
        self.drops.tell();
    }

    /// The listening sockets that somebody waits at; none while that rests.
    fn wait(&self, rests: bool) -> Vec<&OwnedFd> {
        let listeners: &[Arc<OwnedFd>] = if rests { &[] } else { &self.listeners };
        let pause = if self.drops.is_empty() && !rests { EDGE_CHECK } else { ACCEPT_REST };
        let pause = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
        let mut polled = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        polled.extend(listeners.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        if !matches!(poll(&mut polled, pause), Ok(1..)) {
            return Vec::new();
        }
        let _ = self.bell.read();
        let told = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let each = listeners.iter().zip(polled.iter().skip(1));
        each.filter(|(_, fd)| told(fd)).map(|(listener, _)| &**listener).collect()
    }

    /// Takes those who wait, so many at most. Errors are none of one connection.
    fn accept_from(self: &Arc<Hall>, listener: &OwnedFd) -> Result<(), Errno> {
        for _ in 0..ACCEPTS_A_TURN {
            match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
                // SAFETY: the kernel has just made this descriptor for us alone.
                Ok(fd) => self.welcome(unsafe { OwnedFd::from_raw_fd(fd) }),
                Err(Errno::EAGAIN) => break,
                Err(
                    errno @ (Errno::EMFILE
                    | Errno::ENFILE
                    | Errno::ENOMEM
                    | Errno::ENOBUFS
                    | Errno::EINVAL),
                ) => return Err(errno),
                // It was gone before it was accepted.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Turns a connection away, or has an edge for it.
    fn welcome(self: &Arc<Hall>, socket: OwnedFd) {
        let Some(ends) = ends_of(Fd(socket.as_raw_fd())) else {
            return self.dismissed("being gone again", None);
        };
        let peer = ends.peer.ip();
        if self.state().edges.len() >= STARTUPS_MAX {
            return self.dismissed(TOO_MANY_EDGES, Some(peer));
        }
        let place = if self.is_proxys(peer) {
            if Arc::strong_count(&self.asked) > PREFACES_APART_MAX {
                return self.dismissed(TOO_MANY_UNTOLD, Some(peer));
            }
            Place::Proxy(Arc::clone(&self.asked))
        } else {
            let startups = Arc::clone(&self.clerk.startups);
            if let Err(why) = startups.admit(peer, reactor::now()) {
                self.dismissed(why.keyword(), Some(peer));
                return desk::tell(Fd(socket.as_raw_fd()), why);
            }
            Place::Client(Slot { startups, peer: ends.peer })
        };
        self.seat(Guest { ends: self.routed(&socket, ends), socket, place });
    }

    /// Whoever connects from there is asked whose connection it passes on.
    fn is_proxys(&self, peer: IpAddr) -> bool {
        let proxies = self.clerk.proxies.as_ref();
        proxies.is_some_and(|all| all.networks.verdict(peer, None) == Verdict::Matches)
    }

    /// A proxy has told an edge whose its connection is.
    pub(super) fn announced(&self, clerk: &Clerk, client: SocketAddr) -> Result<(), Lie> {
        if let Err(why) = clerk.announced(client)? {
            self.turned_away(why.keyword(), client.ip());
        }
        Ok(())
    }

    /// A proxy has not told it, or not as it should.
    pub(super) fn untold(&self, clerk: &Clerk, why: u8) -> Result<(), Lie> {
        let proxy = clerk.proxy().ok_or(Lie("that nobody said what nobody was asked"))?;
        let why = UNTOLD.get(usize::from(why)).ok_or(Lie("no reason that there is"))?;
        self.turned_away(why, proxy);
        Ok(())
    }

    fn dismissed(&self, why: &'static str, peer: Option<IpAddr>) {
        roll().count(Figure::Refused);
        self.drops.count(why, peer);
    }

    /// Whoever accepts tells it soon.
    fn turned_away(&self, why: &'static str, peer: IpAddr) {
        let is_first = self.drops.is_empty();
        self.dismissed(why, Some(peer));
        if is_first {
            self.ring();
        }
    }

    fn routed(&self, socket: &OwnedFd, ends: Ends) -> Ends {
        let routing = self.clerk.routes.then(|| routing_of(Fd(socket.as_raw_fd())));
        Ends { routing: routing.unwrap_or_default(), ..ends }
    }

    /// Gives a connection to an edge that has none, or to the next that serves.
    fn seat(self: &Arc<Hall>, mut guest: Guest) {
        let mut state = self.state();
        while let Some(spare) = state.spare.pop_front() {
            match spare.take(guest) {
                Ok(()) => return,
                Err(back) => guest = back,
            }
        }
        state.waiting.push_back(guest);
    }

    /// Starts as many edges as are missing.
    fn top_up(self: &Arc<Hall>) {
        let missing = {
            let mut state = self.state();
            state.edges.retain(|edge| !edge.is_over());
            state.spare.retain(Spare::is_there);
            let spare = if state.retired { 0 } else { EDGES_SPARE };
            let wanted = if state.stopped { 0 } else { state.waiting.len() + spare };
            let missing = wanted.saturating_sub(state.spare.len() + state.starting);
            state.starting += missing;
            missing
        };
        (0..missing).for_each(|_| self.start_edge());
    }

    /// What keeps one more edge.
    fn edge(self: &Arc<Hall>) -> Edge {
        let clerk = Arc::new(self.clerk.another());
        let staff = Staff::new(self.bench.clone(), Arc::new(Post::to(&clerk)));
        let (plan, wishes, hall) = (self.plan.clone(), Arc::default(), Some(Arc::clone(self)));
        Edge { plan, clerk, staff, wishes, hall, presence: None }
    }

    /// Starts one that was counted, and waits until it serves.
    fn start_first(self: &Arc<Hall>) -> anyhow::Result<()> {
        let edge = self.edge();
        let wishes = Arc::clone(&edge.wishes);
        let keeper = keeper::Keeper::start(edge).inspect_err(|_| self.failed())?;
        let served = keeper.wait();
        self.state().edges.push(Keeper { wishes, keeper });
        served
    }

    /// Starts one that was counted.
    fn start_edge(self: &Arc<Hall>) {
        let edge = self.edge();
        let wishes = Arc::clone(&edge.wishes);
        match keeper::Keeper::start_unawaited(edge) {
            Ok(keeper) => self.state().edges.push(Keeper { wishes, keeper }),
            Err(why) => {
                error!("No edge can be started: {why:#}");
                self.failed();
            }
        }
    }

    /// One that was counted serves.
    pub(super) fn serves(&self, spare: Spare) {
        let mut state = self.state();
        state.starting -= 1;
        if let Some(guest) = state.waiting.pop_front() {
            if let Err(back) = spare.take(guest) {
                state.waiting.push_front(back);
                self.ring();
            }
        } else if state.retired {
            spare.wishes.stop();
        } else {
            state.spare.push_back(spare);
        }
    }

    /// One that was counted does not serve: nor is whoever has waited longest, unless others are starting.
    pub(super) fn failed(&self) {
        let guest = {
            let mut state = self.state();
            state.starting -= 1;
            if state.waiting.len() > state.starting { state.waiting.pop_front() } else { None }
        };
        if let Some(Guest { ends, .. }) = guest {
            let peer = ends.peer;
            error!(%peer, "A connection from {peer} is turned away: no process could be had for it");
        }
    }

    fn retire(&self) {
        let spare = {
            let mut state = self.state();
            state.retired = true;
            std::mem::take(&mut state.spare)
        };
        spare.iter().for_each(|spare| spare.wishes.stop());
        self.ring();
    }

    /// Ends every edge. `false`: there is none left, and none is starting.
    fn stop(&self) -> bool {
        let (edges, starting, waiting) = {
            let mut state = self.state();
            (state.retired, state.stopped) = (true, true);
            state.spare.clear();
            let State { edges, starting, waiting, .. } = &mut *state;
            (std::mem::take(edges), *starting, std::mem::take(waiting))
        };
        self.ring();
        drop(waiting);
        let some = starting > 0 || !edges.is_empty();
        edges.iter().for_each(|edge| edge.wishes.stop());
        edges.into_iter().for_each(Keeper::stop);
        some
    }

    fn is_empty(&self) -> bool {
        let state = self.state();
        state.starting == 0 && state.waiting.is_empty() && state.edges.iter().all(Keeper::is_over)
    }

    fn ring(&self) {
        let _ = self.bell.write(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spare {
    pub(super) fn new(wishes: &Arc<Wishes>, clerk: &Arc<Clerk>) -> Spare {
        Spare { wishes: Arc::clone(wishes), clerk: Arc::clone(clerk) }
    }

    /// It has not ended meanwhile.
    fn is_there(&self) -> bool {
        self.wishes.lock().messenger.is_some()
    }

    /// Gives it its connection, which comes back where it has ended.
    fn take(&self, guest: Guest) -> Result<(), Guest> {
        let Guest { socket, ends, place } = guest;
        let asked = if let Place::Proxy(asked) = &place { Some(Arc::clone(asked)) } else { None };
        if ends.peer == UNKNOWN {
            self.clerk.pipes.store(true, Ordering::Relaxed);
        }
        // It may speak of it at once.
        self.clerk.expect(ends, place);
        if self.wishes.adopt(&socket, asked.is_some()) {
            return Ok(());
        }
        // Whoever keeps it may have seen it end, and given the place back.
        let place = self.clerk.forget().unwrap_or_else(|| match asked {
            Some(asked) => Place::Proxy(asked),
            None => {
                self.clerk.startups.adopt(ends.peer.ip());
                let startups = Arc::clone(&self.clerk.startups);
                Place::Client(Slot { startups, peer: ends.peer })
            }
        });
        Err(Guest { socket, ends, place })
    }
}

/// Each process that there is has a buffer here for the longest of its messages, which are mostly short. The
/// C library would begin to reuse memory for it, and to wipe it each time, once it has seen one go: a
/// mebibyte each that the system never gets back.
fn leave_buffers_untouched() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
    }
}

/// Allocations from this size on are the system's to begin with; what the C library has unless it adapts.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: i32 = 128 * 1024;

const TOO_MANY_EDGES: &str = "too many connections";
const TOO_MANY_UNTOLD: &str = "too many connections of proxies that tell nothing";
