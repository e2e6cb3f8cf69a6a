//! Floor 7: one thread's worth of gateway. A shard owns a driver, its connections (links), their
//! services, timers and every lease; nothing of it is shared, so it needs no lock.
//!
//! The shard runs at its own pace: a completion only files its result and marks a link ready;
//! links then run one after the other for a bounded number of bytes each.

mod agent;
mod borrow;
mod client;
mod contain;
mod departure;
mod display;
mod forward;
mod host_keys;
mod idle;
mod inbound;
mod linger;
mod link;
mod listen;
mod login;
mod mark;
#[cfg(feature = "sim")]
mod moves;
mod outside;
mod places;
mod preface;
mod relay;
mod relay_moving;
mod relay_pace;
mod report;
mod run;
mod session;
mod share;
mod starve;
mod tape;
mod upstream;

pub use client::{CLOSED_BY_PEER, ClientLink, News};
pub use outside::{Admission, Ends, HandOver, Mail, Outside, Proof, StartupEnd};
pub use preface::{Asking, UNTOLD};
pub use report::{CertificateTold, Ending, KeyTold, Report, What};

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use slab::Slab;

use crate::base::tally::{self, Cost};
use crate::base::{Entropy, Instant};
use crate::connection::ConnectionConfig;
use crate::crypto::PrivateKey;
use crate::limits::{ACCEPT_REST, DROPS_INTERVAL, HANDSHAKE_STEPS_A_TURN, LINKS_MAX};
use crate::reactor::{
    Classes, Completion, Driver, DriverStats, Errno, Fd, Full, Op, Timers, Token,
};
use crate::services::{Done, Job, Wishes};
use crate::wire::number::disconnect;
use inbound::Inbound;
use link::{Attachment, Link, LinkState};
use listen::{Listener, Offer};
use preface::Preface;
use share::Commons;

/// How long a closing connection may take to say its last words.
const CLOSING_TIME: Duration = Duration::from_secs(1);
const TOO_MANY_LINKS: &str = "the reactor has as many connections as it may";
/// Between two looks at memory that could go back to the system.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// How long a connection may take to be ready for the process of its account: until the peer has
/// taken the last words of its login.
const LEAVING_TIME: Duration = Duration::from_secs(30);
/// When jobs that the workers had no room for are tried again.
const JOBS_RETRY: Duration = Duration::from_millis(1);

/// Token keys: the top bits say whose the operation is, the rest is a slab key.
const OF_ATTACHMENT: u32 = 1 << 31;
const OF_LISTENER: u32 = 1 << 30;
const OF_PLACE: u32 = 1 << 29;
const OF_PREFACE: u32 = 1 << 28;
const OF_MAILBOX: u32 = 1 << 27;
/// Operations of a link by tag.
const TAG_RECV: u16 = 0;
const TAG_SEND: u16 = 1;
const TAG_JOB: u16 = 2;
const TAG_LISTEN: u16 = 3;
const TAG_AGENT: u16 = 4;
const TAG_AGENT_GONE: u16 = 5;
const TAG_WAY: u16 = 6;
const TAG_CONNECT: u16 = 7;
const TAG_DISPLAY: u16 = 8;
const TAG_PROOFS: u16 = 9;
const TAG_TAPE: u16 = 10;

/// A connection that is this shard's and has not begun here.
#[derive(Debug)]
enum Arrival {
    /// With what it has brought already.
    Accepted(Fd, Ends, Vec<u8>),
    HandOver(Box<HandOver>),
}

impl Arrival {
    /// What it takes to begin: a lease of one of these, or nothing.
    const fn needs(&self) -> Classes {
        match self {
            Arrival::HandOver(connection) if connection.outbound.is_empty() => Classes::NONE,
            Arrival::Accepted(..) | Arrival::HandOver(_) => Classes::OUTBOX,
        }
    }
}

/// What every shard of a process is started with.
#[derive(Clone)]
pub struct ShardConfig {
    pub connection: Arc<ConnectionConfig>,
    /// In the order of the connection's host key list; `None` of those that somebody else signs with.
    pub host_keys: Arc<[Option<PrivateKey>]>,
    /// Sockets to accept from; one shard has them all.
    pub listeners: Vec<Fd>,
    /// Serials of this shard's links: `serial_base + n * serial_step`.
    pub serial_base: u64,
    pub serial_step: u64,
}

/// One event loop. `D` is the way to the kernel or the simulated world, `O` to the other threads.
pub struct Shard<D: Driver, O: Outside> {
    driver: D,
    outside: O,
    config: ShardConfig,
    entropy: Box<dyn Entropy>,
    links: Slab<Link>,
    attachments: Slab<Attachment>,
    /// Sockets that listen for clients of links.
    listeners: Slab<Listener>,
    /// Connections that were taken for clients who have not been asked about them.
    offers: VecDeque<Offer>,
    generation: u16,
    serial: u64,
    /// Authenticated links with something to do, oldest first.
    ready: VecDeque<u32>,
    /// The same before authentication; only a few run in one turn, so that a storm of logins
    /// cannot starve live sessions.
    handshakes: VecDeque<u32>,
    /// Links whose output is to be sent at the end of the turn.
    dirty: Vec<u32>,
    /// Those whose output waits for the next turn.
    held: Vec<u32>,
    /// Links and attachments that wait for leases, oldest first.
    starved: Vec<u32>,
    /// Attachments that are to be called at the end of the turn.
    late: Vec<u32>,
    /// Attachments (by number and generation) that are to be called, and when; soonest first, for
    /// all pauses are equally long.
    paused: VecDeque<(Instant, u32, u16)>,
    /// Connections of proxies that have not told whose they are.
    prefaces: Slab<Preface>,
    preface_timers: Timers,
    /// When those who hold leases for nothing are asked for them, because others wait for some.
    relief_at: Option<Instant>,
    /// Connections that wait to begin, and since when.
    arrivals: VecDeque<(Instant, Arrival)>,
    timers: Timers,
    /// When attachments want to be called whatever happens, by number.
    service_timers: Timers,
    completions: Vec<Completion>,
    /// Operations cancelled before the driver had room for them.
    withdrawn: Vec<Completion>,
    mail: Vec<Mail>,
    /// Wishes of the service call under way; kept for its allocations.
    wishes: Wishes,
    /// What the driver or the workers had no room for.
    ops_waiting: VecDeque<(Token, Op)>,
    jobs_waiting: VecDeque<(Token, Job)>,
    /// Listeners that rest because the process is out of descriptors, and until when.
    resting: Vec<Token>,
    /// Those of links.
    resting_places: Vec<(Token, Op)>,
    rested: Option<Instant>,
    /// When memory that stays unused goes back to the system, and the leases taken when that was
    /// last looked at.
    trim_at: Option<Instant>,
    trimmed_at_taken: u64,
    /// When it is told what was turned away; `None`: nothing was.
    drops_at: Option<Instant>,
    /// A stream is under way: the next sleep may last a little whatever comes of it, unless something
    /// else has come of late.
    lingers: bool,
    hurried_until: Instant,
    /// The time since a turn has woken, or since it began to run its last link: a look at the clock costs as much
    /// as a hundredth of opening a link's packets.
    moment: Option<Instant>,
    stopping: bool,
    retiring: bool,
    /// Connections go on in another program as soon as they can, and those that are tried next.
    moving: bool,
    moves: VecDeque<u32>,
    /// Accepts in flight.
    accepting: usize,
    /// Connections to hosts that logins share.
    commons: Commons,
    /// What whoever turns the shard has not heard of its own connections.
    news: VecDeque<(ClientLink, News)>,
    /// Bytes that have come and left on connections in this turn.
    traffic: (u64, u64),
    /// What the process's counts have been told.
    told: (DriverStats, u64),
}

impl<D: Driver, O: Outside> fmt::Debug for Shard<D, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("links", &self.links)
            .field("attachments", &self.attachments)
            .field("ready", &self.ready)
            .field("handshakes", &self.handshakes)
            .field("dirty", &self.dirty)
            .field("starved", &self.starved)
            .field("arrivals", &self.arrivals.len())
            .field("ops_waiting", &self.ops_waiting)
            .field("jobs_waiting", &self.jobs_waiting)
            .field("rested", &self.rested)
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}

impl<D: Driver, O: Outside> Shard<D, O> {
    pub fn new(driver: D, outside: O, config: ShardConfig, entropy: Box<dyn Entropy>) -> Self {
        let serial = config.serial_base;
        let mut shard = Shard {
            driver,
            outside,
            config,
            entropy,
            links: Slab::new(),
            attachments: Slab::new(),
            listeners: Slab::new(),
            offers: VecDeque::new(),
            generation: 0,
            serial,
            ready: VecDeque::new(),
            handshakes: VecDeque::new(),
            dirty: Vec::new(),
            held: Vec::new(),
            starved: Vec::new(),
            late: Vec::new(),
            paused: VecDeque::new(),
            prefaces: Slab::new(),
            preface_timers: Timers::new(),
            relief_at: None,
            arrivals: VecDeque::new(),
            timers: Timers::new(),
            service_timers: Timers::new(),
            completions: Vec::new(),
            withdrawn: Vec::new(),
            mail: Vec::new(),
            wishes: Wishes::default(),
            ops_waiting: VecDeque::new(),
            jobs_waiting: VecDeque::new(),
            resting: Vec::new(),
            resting_places: Vec::new(),
            rested: None,
            trim_at: None,
            trimmed_at_taken: 0,
            drops_at: None,
            lingers: false,
            hurried_until: Instant::default(),
            moment: None,
            stopping: false,
            retiring: false,
            moving: false,
            moves: VecDeque::new(),
            accepting: 0,
            commons: Commons::default(),
            news: VecDeque::new(),
            traffic: (0, 0),
            told: (DriverStats::default(), 0),
        };
        shard.accept();
        shard.watch_mailbox();
        shard
    }

    /// Connections of this shard, ending ones included.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// The shard was told to end and has nothing left.
    pub fn is_done(&self) -> bool {
        let told = self.stopping || self.retiring && self.accepting == 0;
        let told = told && self.prefaces.is_empty();
        let idle = self.listeners.is_empty() && self.offers.is_empty();
        told && self.links.is_empty() && self.arrivals.is_empty() && idle
    }

    pub const fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    pub const fn outside(&mut self) -> &mut O {
        &mut self.outside
    }

    /// One round: waits for completions (not past `until`), files them, runs what is ready, sends.
    ///
    /// # Errors
    /// The driver itself failed; the shard cannot go on.
    pub fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        let until = self.wait_until(until);
        self.linger();
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.wait(until, &mut completions)?;
        self.moment = Some(self.driver.now());
        completions.append(&mut self.withdrawn);
        for completion in completions.drain(..) {
            self.completed(completion);
        }
        self.completions = completions;
        self.read_mail();
        self.welcome();
        self.expire_timers();
        self.retry_waiting();
        self.move_some();
        self.run_ready();
        self.feed_starved();
        self.run_late();
        self.flush_dirty();
        self.tend_pool();
        self.outside.turned(std::mem::take(&mut self.traffic));
        self.tell_costs();
        self.moment = None;
        Ok(())
    }

    /// The time, as exactly as a turn has to know it.
    fn now(&self) -> Instant {
        self.moment.unwrap_or_else(|| self.driver.now())
    }

    fn wait_until(&mut self, until: Option<Instant>) -> Option<Instant> {
        let now = self.driver.now();
        // What was asked between two turns is sent at the end of this one.
        let busy = !self.ready.is_empty() || !self.handshakes.is_empty() || !self.dirty.is_empty();
        let busy = busy || !self.late.is_empty() || self.outside.has_mail();
        let busy = busy || !self.moves.is_empty();
        if busy || !self.withdrawn.is_empty() || self.can_feed() {
            return Some(now);
        }
        // The workers' queue is full of others' jobs: nothing says when that changes.
        let retry = (!self.jobs_waiting.is_empty()).then(|| now.after(JOBS_RETRY));
        let pause = self.paused.front().map(|(at, ..)| *at);
        let services = self.service_timers.earliest();
        let own = [self.timers.earliest(), services, self.rested, self.trim_at, retry, pause];
        let own = own.into_iter().chain([self.preface_timers.earliest(), self.drops_at]);
        let own = own.chain([self.relief_at]);
        own.chain([until]).flatten().min()
    }

    /// Somebody waits for leases that are there.
    fn can_feed(&mut self) -> bool {
        let lacks = self.starved.iter().fold(Classes::NONE, |all, key| all.and(self.lacks(*key)));
        let needs = self.arrivals.front().map(|(_, arrival)| arrival.needs());
        let pool = self.driver.pool();
        pool.has_any(lacks) || needs.is_some_and(|needs| needs.is_empty() || pool.has_any(needs))
    }

    /// What the link or attachment waits for.
    fn lacks(&self, key: u32) -> Classes {
        let number = (key & !OF_ATTACHMENT) as usize;
        if key & OF_ATTACHMENT != 0 {
            self.attachments.get(number).map_or(Classes::NONE, |attachment| attachment.lacks)
        } else {
            self.links.get(number).map_or(Classes::NONE, |link| link.lacks)
        }
    }

    fn completed(&mut self, completion: Completion) {
        let key = completion.token.key;
        if key & OF_ATTACHMENT != 0 {
            self.contained_for(key, |shard| {
                shard.attachment_completed(key & !OF_ATTACHMENT, completion);
            });
        } else if key & OF_LISTENER != 0 {
            self.accepted(completion);
        } else if key & OF_PLACE != 0 {
            self.place_completed(completion);
        } else if key & OF_PREFACE != 0 {
            self.preface_completed(completion);
        } else if key & OF_MAILBOX != 0 {
            self.mail_came(completion);
        } else {
            self.contained(key, |shard| shard.link_completed(key, completion));
        }
    }

    fn watch_mailbox(&mut self) {
        if let Some(fd) = self.outside.mailbox() {
            self.submit(Token { key: OF_MAILBOX, generation: 0, tag: 0 }, Op::Readable { fd });
        }
    }

    /// It is read with what other threads have put in.
    fn mail_came(&mut self, completion: Completion) {
        if completion.result.is_ok() && self.outside.empty_mailbox(&mut self.mail) {
            self.watch_mailbox();
        }
    }

    fn read_mail(&mut self) {
        let (mut mail, now) = (std::mem::take(&mut self.mail), self.now());
        self.outside.collect(&mut mail);
        for item in mail.drain(..) {
            match item {
                Mail::Done { token, done } => self.job_done(token, done),
                Mail::Accepted { socket, ends, inbound } => {
                    self.arrivals.push_back((now, Arrival::Accepted(socket, ends, inbound)));
                }
                Mail::Passed { socket, .. } if self.stopping => self.driver.close(socket),
                Mail::Passed { socket, ends, asking } => self.ask_whose(socket, ends, asking),
                Mail::HandOver(connection) => {
                    self.arrivals.push_back((now, Arrival::HandOver(connection)));
                }
                Mail::Stop => self.stop(),
                Mail::Retire => self.retire(),
                Mail::MoveOn => self.begin_moving(),
            }
        }
        self.mail = mail;
    }

    /// New connections begin when there is memory to answer them.
    fn welcome(&mut self) {
        while let Some((since, arrival)) = self.arrivals.pop_front() {
            let needs = arrival.needs();
            if !self.stopping && !needs.is_empty() && !self.driver.pool().has_any(needs) {
                self.arrivals.push_front((since, arrival));
                break;
            }
            match arrival {
                Arrival::Accepted(socket, ends, inbound) => self.begin(socket, ends, inbound),
                Arrival::HandOver(connection) => self.take_over(*connection),
            }
        }
    }

    fn job_done(&mut self, token: Token, done: Done) {
        self.contained_for(token.key, |shard| match token.key & OF_ATTACHMENT {
            0 => shard.link_job_done(token, done),
            _ => shard.attachment_job_done(token.key & !OF_ATTACHMENT, token, done),
        });
    }

    fn expire_timers(&mut self) {
        let now = self.now();
        while let Some(key) = self.timers.pop(now) {
            self.contained(key, |shard| shard.link_timer(key, now));
        }
        while let Some((at, number, generation)) = self.paused.front().copied()
            && at <= now
        {
            self.paused.pop_front();
            self.contained_for(number | OF_ATTACHMENT, |shard| {
                shard.attachment_pause_over(number, generation);
            });
        }
        self.expire_service_timers(now);
        self.expire_prefaces(now);
        if self.drops_at.take_if(|at| *at <= now).is_some() {
            self.outside.tell_drops();
        }
        self.relieve_starved(now);
        if self.rested.is_some_and(|at| at <= now) {
            self.rested = None;
            self.wake_places();
            for token in std::mem::take(&mut self.resting) {
                self.accept_from(token);
            }
        }
    }

    fn retry_waiting(&mut self) {
        self.make_offers();
        while let Some((token, op)) = self.ops_waiting.pop_front() {
            if let Err(Full(op)) = self.driver.submit(token, op) {
                self.ops_waiting.push_front((token, op));
                break;
            }
        }
        while let Some((token, job)) = self.jobs_waiting.pop_front() {
            if let Err(job) = self.outside.submit(token, job) {
                self.jobs_waiting.push_front((token, job));
                break;
            }
        }
    }

    fn run_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            self.contained(key, |shard| shard.run_link(key));
        }
        for _ in 0..self.handshakes.len().min(HANDSHAKE_STEPS_A_TURN as usize) {
            let Some(key) = self.handshakes.pop_front() else { break };
            self.contained(key, |shard| shard.run_link(key));
        }
    }

    fn flush_dirty(&mut self) {
        while let Some(key) = self.dirty.pop() {
            if let Some(link) = self.links.get_mut(key as usize) {
                link.dirty = false;
            }
            self.contained(key, |shard| {
                shard.keep_appointments(key);
                shard.drain_events(key);
                shard.run_tape(key);
                shard.flush(key);
                shard.settle(key);
            });
        }
        self.end_hold();
    }

    /// A second after leases were last taken, and each second while that brings something, memory
    /// goes back to the system. An idle shard is not woken.
    fn tend_pool(&mut self) {
        let taken = self.driver.pool().stats().taken;
        match self.trim_at {
            None if taken != self.trimmed_at_taken => {
                self.trim_at = Some(self.now().after(TRIM_INTERVAL));
            }
            Some(at) if at <= self.now() => {
                let more = self.driver.pool().trim() > 0 || taken != self.trimmed_at_taken;
                self.trimmed_at_taken = taken;
                self.trim_at = more.then(|| self.now().after(TRIM_INTERVAL));
            }
            _ => {}
        }
    }

    /// For tests: what the shard has cost since it last said so.
    fn tell_costs(&mut self) {
        if tally::COUNTS {
            let (stats, leases) = (self.driver.stats(), self.driver.pool().stats().outstanding());
            let (before, leases_before) = std::mem::replace(&mut self.told, (stats, leases));
            tally::add(Cost::Turns, 1);
            tally::change(Cost::Enters, before.enters, stats.enters);
            tally::change(Cost::Requests, before.submissions, stats.submissions);
            tally::change(Cost::Leases, leases_before, leases);
        }
    }

    fn mark_ready(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if !link.queued {
            link.queued = true;
            if link.authenticated {
                self.ready.push_back(key);
            } else {
                self.handshakes.push_back(key);
            }
        }
    }

    fn mark_dirty(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if !link.dirty {
            link.dirty = true;
            self.dirty.push(key);
        }
    }

    fn submit(&mut self, token: Token, op: Op) {
        tally::add(Cost::Operations, 1);
        if !self.ops_waiting.is_empty() {
            self.ops_waiting.push_back((token, op));
        } else if let Err(Full(op)) = self.driver.submit(token, op) {
            self.ops_waiting.push_back((token, op));
        }
    }

    /// Asks for an operation to end early, wherever it is.
    fn cancel(&mut self, token: Token) {
        let waiting = self.ops_waiting.iter().position(|(of, _)| *of == token);
        match waiting.and_then(|at| self.ops_waiting.remove(at)) {
            Some((token, op)) => {
                let result = Err(Errno(libc::ECANCELED));
                self.withdrawn.push(Completion { token, op, result, more: false });
            }
            None => self.driver.cancel(token),
        }
    }

    /// The user of a link, who may have a share of those who look names up.
    fn asker(&self, key: u32) -> Arc<str> {
        let grant = self.links.get(key as usize).and_then(|link| link.grant.as_ref());
        grant.map(|grant| grant.account.name.as_str().into()).unwrap_or_default()
    }

    fn submit_job(&mut self, token: Token, job: Job) {
        if !self.jobs_waiting.is_empty() {
            self.jobs_waiting.push_back((token, job));
        } else if let Err(job) = self.outside.submit(token, job) {
            self.jobs_waiting.push_back((token, job));
        }
    }

    fn next_generation(&mut self) -> u16 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    // ---- Accepting ---------------------------------------------------------------------------

    fn accept(&mut self) {
        for n in 0..self.config.listeners.len() {
            self.accept_from(Token { key: OF_LISTENER | n as u32, generation: 0, tag: 0 });
        }
    }

    fn accept_from(&mut self, token: Token) {
        let listener = self.config.listeners.get((token.key & !OF_LISTENER) as usize).copied();
        if let Some(listener) = listener.filter(|_| !self.stopping && !self.retiring) {
            self.accepting += 1;
            self.submit(token, Op::Accept { listener });
        }
    }

    fn accepted(&mut self, completion: Completion) {
        if let Ok(socket) = completion.result {
            self.admit(Fd(socket as i32));
        }
        if completion.more {
            return;
        }
        self.accepting = self.accepting.saturating_sub(1);
        if self.retiring {
            self.tell_when_accepting_is_over();
            return;
        }
        // Out of descriptors or memory, or the socket listens no more and we are to be told so: live sessions
        // go on, accepting rests. What is one connection's affair alone the driver has dealt with.
        if completion.result.is_err() {
            self.resting.push(completion.token);
            self.rested = Some(self.driver.now().after(ACCEPT_REST));
        } else {
            self.accept_from(completion.token);
        }
    }

    fn admit(&mut self, socket: Fd) {
        if self.stopping {
            self.driver.close(socket);
            return;
        }
        if self.links.len() + self.arrivals.len() >= LINKS_MAX {
            self.drop_connection(socket, TOO_MANY_LINKS);
            return;
        }
        match self.outside.admit(socket) {
            Admission::Here(ends) => {
                self.arrivals
                    .push_back((self.driver.now(), Arrival::Accepted(socket, ends, Vec::new())));
            }
            Admission::Ask(ends, asking) => self.ask_whose(socket, ends, asking),
            Admission::Elsewhere => {}
            Admission::Refused => self.refused(socket),
        }
    }

    /// Turns a connection away before it has begun.
    fn drop_connection(&mut self, socket: Fd, why: &'static str) {
        self.outside.dropped(socket, why);
        self.refused(socket);
    }

    /// It was turned away, and counted.
    fn refused(&mut self, socket: Fd) {
        self.driver.close(socket);
        self.drops_at.get_or_insert(self.driver.now().after(DROPS_INTERVAL));
    }

    /// Connections that the kernel has accepted meanwhile are served: an accept that ends says so.
    fn retire(&mut self) {
        if self.retiring {
            return;
        }
        self.retiring = true;
        // Listeners of links rest on: the time at which they go on stands.
        self.resting.clear();
        self.cancel_accepts();
        self.close_unused();
        self.tell_when_accepting_is_over();
    }

    fn tell_when_accepting_is_over(&mut self) {
        if self.accepting == 0 && self.prefaces.is_empty() {
            self.outside.accepting_is_over();
        }
    }

    fn cancel_accepts(&mut self) {
        for n in 0..self.config.listeners.len() {
            self.cancel(Token { key: OF_LISTENER | n as u32, generation: 0, tag: 0 });
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.cancel_accepts();
        self.cancel_prefaces();
        let keys: Vec<u32> = self.links.iter().map(|(key, _)| key as u32).collect();
        for key in keys {
            self.close_link(key, disconnect::BY_APPLICATION, "server shutting down");
        }
    }
}
