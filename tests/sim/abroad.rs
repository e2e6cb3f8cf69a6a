//! One seed of the client's role: a shard as `tidegate ssh` and `tidegate cp` have one, its connections
//! to hosts that keep the rules or break one, and the same faults.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::{
    Answer, ChannelId, ClientConnectionConfig, ConnectionConfig, Event, GlobalRequest, LoginMethod,
    Query,
};
use tidegate::crypto::SignatureAlgorithm;
use tidegate::limits::SOCKS_TIME_MAX;
use tidegate::reactor::sim::{SimDriver, SimWorld};
use tidegate::reactor::{Driver, Fd, Token, Waker};
use tidegate::services::forward::Note;
use tidegate::services::{Attached, Done, Grant, Job};
use tidegate::shard::{
    Admission, ClientLink, Ends, HandOver, Mail, News, Outside, Report, Shard, ShardConfig,
    StartupEnd,
};
use tidegate::transport::{Preferences, ServerConfig};
use tidegate::wire::number::disconnect;

use crate::calls::{self, Caller};
use crate::chance::{hits, stream, up_to};
use crate::draw::Weather;
use crate::errand::{Errand, Loop, Orders};
use crate::host::{Host, HostPlan, Lie, PORT};
use crate::journey::Journey;
use crate::keys;
use crate::run::{CLOSING, LIVENESS, TICKS_AT_ONCE_MAX, TICKS_MAX, count_faults};
use crate::shelf::SharedFiles;
use crate::tally::Tally;
use crate::town::Town;

/// A client is alone: nobody connects to it.
pub struct Alone {
    workers: Rc<RefCell<Workers>>,
}

/// Those who look names up for a client.
pub struct Workers {
    plan: WorkersPlan,
    world: SimWorld,
    waker: Waker,
    jobs: Vec<Queued>,
    lost: u64,
    chance: SeededEntropy,
}

#[derive(Clone, Debug)]
pub struct WorkersPlan {
    pub time: Duration,
    /// Of a million: those who die of it.
    pub lost: u32,
}

struct Queued {
    due: Instant,
    rung: bool,
    token: Token,
    port: u16,
}

impl Workers {
    fn ring(&mut self) {
        let now = self.world.now();
        for queued in self.jobs.iter_mut().filter(|queued| !queued.rung && queued.due <= now) {
            queued.rung = true;
            self.waker.wake();
        }
    }
}

impl Outside for Alone {
    fn submit(&mut self, token: Token, job: Job) -> Result<(), Job> {
        let Job::Resolve { port, .. } = job else { panic!("{job:?} is for nobody") };
        let workers = &mut *self.workers.borrow_mut();
        let due = workers.world.now().after(up_to(&mut workers.chance, workers.plan.time));
        workers.world.wake_at(due.max(workers.world.now().after(Duration::from_nanos(1))));
        workers.jobs.push(Queued { due, rung: false, token, port });
        Ok(())
    }

    fn collect(&mut self, mail: &mut Vec<Mail>) {
        let workers = &mut *self.workers.borrow_mut();
        let now = workers.world.now();
        for Queued { token, port, .. } in workers.jobs.extract_if(.., |queued| queued.due <= now) {
            let lost = hits(&mut workers.chance, workers.plan.lost);
            workers.lost += u64::from(lost);
            let done = match Town::resolve(crate::town::NAME, u32::from(port)) {
                _ if lost => Done::Lost,
                found => Done::Resolved(found.ok_or_else(|| std::io::ErrorKind::NotFound.into())),
            };
            mail.push(Mail::Done { token, done });
        }
    }

    fn greeting(&mut self, _ends: Ends) -> Option<Arc<ConnectionConfig>> {
        None
    }

    fn admit(&mut self, _socket: Fd) -> Admission {
        Admission::Refused
    }

    fn startup_over(&mut self, _ends: Ends, _how: StartupEnd) {}

    fn ended(&mut self, _link: Option<u64>) {}

    fn serves(&self, _grant: &Grant) -> bool {
        false
    }

    fn hand_over(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        Err(connection)
    }

    fn met_defect(&mut self) {
        panic!("a defect")
    }

    fn report(&mut self, _report: Report) {}
}

/// One connection that is made.
#[derive(Clone, Debug)]
pub struct TripPlan {
    pub starts_at: Instant,
    pub config: Arc<ClientConnectionConfig>,
    /// The first of its errands, and how many it has; so many are begun at a time.
    pub errands: (usize, usize),
    pub at_once: usize,
    /// Of a million, each step: new keys.
    pub rekeys: u32,
    pub host: HostPlan,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By ourselves, with everything done.
    Done,
    /// The host was not there.
    Refused,
    /// What the user is told.
    Lost(String),
}

struct Trip {
    plan: TripPlan,
    /// The host's.
    listener: Fd,
    link: Option<ClientLink>,
    host: Option<Host>,
    logged_in: bool,
    asked_none: bool,
    errands: Vec<Errand>,
    next: usize,
    by_channel: BTreeMap<ChannelId, usize>,
    /// It has asked the host to listen.
    listens: bool,
    /// Channels that the host has asked for, when it did, and those of them that are over.
    called: BTreeMap<ChannelId, Instant>,
    calls_over: usize,
    rekeyed: u32,
    left: bool,
    ended: Option<Ended>,
}

pub struct Abroad {
    journey: Journey,
    world: SimWorld,
    shard: Loop,
    nap: Option<Instant>,
    turned_at: Instant,
    orders: Arc<Orders>,
    files: SharedFiles,
    town: Town,
    workers: Rc<RefCell<Workers>>,
    trips: Vec<Trip>,
    chance: SeededEntropy,
    healed: bool,
    ticks: u64,
    at_once: u64,
}

/// What has become a longer packet on its way is waited for before a login as long as somebody likes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs a seed.
///
/// # Panics
/// When anything at all is not as it should be.
pub fn run(seed: u64) -> Tally {
    Abroad::new(Journey::new(seed)).finish()
}

impl Abroad {
    pub fn new(journey: Journey) -> Abroad {
        let world = SimWorld::new(journey.seed, journey.swarm.clone());
        let driver = world.driver(journey.pool);
        let nobody = ServerConfig::new(Preferences::default(), Vec::new());
        let config = ShardConfig {
            connection: Arc::new(ConnectionConfig::new(Arc::new(nobody))),
            host_keys: Arc::new([]),
            listeners: Vec::new(),
            serial_base: 0,
            serial_step: 1,
        };
        let entropy = Box::new(stream(journey.seed, "abroad"));
        let workers = Rc::new(RefCell::new(Workers {
            plan: journey.workers.clone(),
            world: world.clone(),
            waker: driver.waker(),
            jobs: Vec::new(),
            lost: 0,
            chance: stream(journey.seed, "workers"),
        }));
        let alone = Alone { workers: Rc::clone(&workers) };
        let shard: Shard<SimDriver, Alone> = Shard::new(driver, alone, config, entropy);
        let mut town = Town::default();
        for call in journey.trips.iter().flat_map(|trip| &trip.host.calls) {
            town.build(&call.to, &world);
        }
        let orders = Arc::new(Orders(journey.errands.clone()));
        let files = Rc::new(RefCell::new(journey.files.clone()));
        let trips = journey.trips.iter().map(|plan| Trip::new(plan.clone(), &orders, &world));
        let trips = trips.collect();
        for plan in &journey.trips {
            world.wake_at(plan.starts_at);
        }
        world.wake_at(journey.heals_at);
        let chance = stream(journey.seed, "trips");
        Abroad {
            journey,
            world,
            shard,
            nap: Some(Instant::ZERO),
            turned_at: Instant::ZERO,
            orders,
            files,
            town,
            workers,
            trips,
            chance,
            healed: false,
            ticks: 0,
            at_once: 0,
        }
    }

    pub fn finish(mut self) -> Tally {
        self.until("everybody is back", LIVENESS, |run| run.trips.iter().all(Trip::is_over));
        self.heal();
        self.trips.iter_mut().filter_map(|trip| trip.host.as_mut()).for_each(Host::go_if_deaf);
        self.until("every host is left", CLOSING, |run| {
            run.shard.links() == 0
                && run.shard.driver().is_idle()
                && run.town.is_quiet()
                && run.trips.iter().all(|trip| trip.host.as_ref().is_none_or(|host| host.over))
        });
        self.check()
    }

    fn until(&mut self, what: &str, time: Duration, done: impl Fn(&mut Abroad) -> bool) {
        let from = self.world.now().max(self.journey.heals_at);
        let deadline = from.after(time);
        while !done(self) {
            let stuck = !self.tick() && !done(self);
            let late = self.world.now() > deadline && !done(self);
            assert!(!stuck, "{what}: nothing will ever happen again\n{}", self.describe());
            assert!(!late, "{what}: not in {time:?}\n{}", self.describe());
            let spins = self.at_once > TICKS_AT_ONCE_MAX;
            assert!(!spins, "{what}: the clock stands still\n{}", self.describe());
            let endless = self.ticks > TICKS_MAX;
            assert!(!endless, "{what}: no end in sight\n{}", self.describe());
        }
    }

    fn tick(&mut self) -> bool {
        self.ticks += 1;
        if !self.healed && self.world.now() >= self.journey.heals_at {
            self.heal();
        }
        self.workers.borrow_mut().ring();
        self.turn();
        self.greet();
        self.town.step(&self.world);
        for trip in &mut self.trips {
            trip.step((&mut self.shard, &self.world), &mut self.chance);
            if let Some(host) = &mut trip.host {
                host.step();
            }
        }
        // What the trips asked of the shard is done before it sleeps.
        self.nap = self.shard.sleeps_until();
        if !self.world.busy() {
            self.turn();
        }
        if self.world.busy() {
            self.at_once += 1;
            return true;
        }
        self.at_once = 0;
        self.world.advance_to_next_event()
    }

    /// Turns the shard if it would not sleep on, and hears what it has to tell.
    fn turn(&mut self) {
        if !self.shard.driver().is_due(self.nap) {
            return;
        }
        let overslept = self.shard.overslept(self.turned_at);
        assert!(overslept.is_none(), "slept past {overslept:?}: {:#?}", self.shard);
        self.turned_at = self.world.now();
        self.shard.turn(None).expect("the simulated driver does not fail");
        let forgotten = self.shard.forgotten();
        assert!(forgotten.is_none(), "forgets {forgotten:?}: {:#?}", self.shard);
        while let Some((link, news)) = self.shard.next_news() {
            let trip = self.trips.iter_mut().find(|trip| trip.link == Some(link));
            trip.expect("news of a trip").hear(news, &mut self.shard, &self.world);
        }
        self.nap = self.shard.sleeps_until();
    }

    /// Hosts take their connections.
    fn greet(&mut self) {
        for trip in self.trips.iter_mut().filter(|trip| trip.host.is_none()) {
            if let Ok(fd) = self.world.accept(trip.listener) {
                let (plan, world) = (trip.plan.host.clone(), self.world.clone());
                let (orders, files) = (Arc::clone(&self.orders), Rc::clone(&self.files));
                trip.host = Some(Host::new(plan, (world, fd), orders, files));
            }
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        self.world.heal();
        self.workers.borrow_mut().plan.lost = 0;
    }

    fn describe(&mut self) -> String {
        let mut text = format!("at {:?}\n", self.world.now());
        for (n, trip) in self.trips.iter().enumerate() {
            let _ = writeln!(
                text,
                "trip {n}: {:?}, in {}, left {}",
                trip.ended, trip.logged_in, trip.left
            );
            for errand in trip.errands.iter().filter(|errand| !errand.is_over()) {
                let _ = writeln!(text, "  {errand:?}");
            }
            if let Some(host) = &trip.host {
                let _ = writeln!(text, "  host {}", host.describe());
            }
        }
        let _ = writeln!(text, "{:#?}", self.shard);
        let _ = writeln!(text, "in flight: {:#?}", self.shard.driver());
        text
    }

    fn check(mut self) -> Tally {
        self.check_outcomes();
        self.check_calls();
        self.town.close(&self.world);
        self.trips.iter().for_each(|trip| self.world.close(trip.listener));
        self.shard.driver().check();
        self.world.check();
        let open = self.world.open_descriptors();
        assert!(open.is_empty(), "left open: {open:?}");
        self.tally()
    }

    fn check_outcomes(&self) {
        let faults = self.world.faults();
        let excused = faults.resets + faults.flips + faults.refused > 0;
        let disk = faults.disk_errors + faults.disk_full > 0;
        assert!(self.journey.weather != Weather::Calm || !(excused || disk));
        for (n, trip) in self.trips.iter().enumerate() {
            let blamed = trip.host.as_ref().is_some_and(Host::is_to_blame);
            for errand in &trip.errands[..trip.next] {
                // Even what is lost is not lied about.
                let verdict = errand.verdict(&self.world, &self.files);
                let fine = trip.ended == Some(Ended::Done) || disk;
                assert!(verdict.is_ok() || !fine || disk, "trip {n}: {verdict:?}");
            }
            let fine = trip.ended == Some(Ended::Done);
            let why = trip.host.as_ref().map(Host::why);
            let seen = format!("trip {n}: {:?}, {:?}, {why:?}", trip.ended, trip.plan.host.lie);
            assert!(fine || blamed || excused || disk, "{seen}");
            let Some(Ended::Lost(reason)) = &trip.ended else { continue };
            assert!(!reason.contains("internal error"), "{seen}");
            if let Some(lie) =
                trip.host.as_ref().and_then(Host::only_lied).filter(|_| !excused && !disk)
            {
                let told = lie.told().iter().any(|part| reason.contains(part));
                assert!(told, "{seen}");
            }
        }
    }

    /// Who comes to a port at a host is led to where he wants to go, or told that he is not.
    fn check_calls(&mut self) {
        let (faults, lost) = (self.world.faults(), self.workers.borrow().lost);
        let excused = faults.resets + faults.refused + lost > 0;
        for (n, trip) in self.trips.iter().enumerate() {
            if trip.ended != Some(Ended::Done) || excused {
                continue;
            }
            for caller in trip.host.iter().flat_map(Host::callers) {
                let verdict = caller.verdict(self.journey.weather == Weather::Calm);
                assert!(verdict.is_ok(), "trip {n}: {verdict:?}");
                caller.delivered_to().into_iter().for_each(|port| self.town.complete(port));
            }
        }
    }

    fn tally(&mut self) -> Tally {
        let mut tally = Tally::default();
        tally.seeds = 1;
        let mut text = String::new();
        for trip in &self.trips {
            let _ = write!(text, "{:?}", trip.ended);
            trip.count(&mut tally);
        }
        let digest = text.bytes().fold(0, |hash, byte| crate::bytes::mix(hash ^ u64::from(byte)));
        tally.trace = self.world.trace() ^ digest;
        let refused = self.shard.driver().pool().stats().refused;
        tally.count("lease refused", refused);
        count_faults(&self.world.faults(), &mut tally);
        tally.count("worker lost", self.workers.borrow().lost);
        let seconds = self.world.now().since(Instant::ZERO).as_secs();
        tally.count("virtual seconds", seconds);
        tally.count("ticks", self.ticks);
        tally.peak("ticks", self.journey.seed, self.ticks);
        tally
    }
}

impl Trip {
    fn new(plan: TripPlan, orders: &Orders, world: &SimWorld) -> Trip {
        let (first, count) = plan.errands;
        let errands: Vec<Errand> =
            (first..first + count).map(|n| Errand::new(&orders.0[n], n, world)).collect();
        Trip {
            plan,
            listener: world.listen(),
            link: None,
            host: None,
            logged_in: false,
            asked_none: false,
            errands,
            next: 0,
            by_channel: BTreeMap::new(),
            listens: false,
            called: BTreeMap::new(),
            calls_over: 0,
            rekeyed: 0,
            left: false,
            ended: None,
        }
    }

    /// The connection is over, and what it has brought has been read.
    fn is_over(&self) -> bool {
        self.ended.is_some() && self.errands[..self.next].iter().all(Errand::is_quiet)
    }

    fn step(&mut self, (shard, world): (&mut Loop, &SimWorld), chance: &mut SeededEntropy) {
        if world.now() < self.plan.starts_at {
            return;
        }
        if self.link.is_none() && self.ended.is_none() {
            self.set_out(shard, world);
        }
        let gone = self.ended.is_some();
        for errand in &mut self.errands[..self.next] {
            errand.step(gone, world, chance);
        }
        let (Some(link), false) = (self.link, gone) else { return };
        let host = self.host.as_ref().is_some_and(Host::is_to_blame);
        let patient_until = self.plan.starts_at.after(PATIENCE);
        if host && !self.logged_in && !self.left {
            world.wake_at(patient_until);
            if world.now() >= patient_until {
                self.left = true;
                shard.leave_server(link, disconnect::BY_APPLICATION, "disconnected by user");
                self.ended = Some(Ended::Lost("patience is over".to_owned()));
            }
        }
        if self.left || !self.logged_in {
            return;
        }
        let calls = self.plan.host.calls.len();
        if calls > 0 && !self.listens {
            let request =
                GlobalRequest::TcpipForward { address: "localhost".into(), port: u32::from(PORT) };
            self.listens = shard.ask_server(link, &request);
        }
        let under_way = self.errands[..self.next].iter().filter(|one| !one.is_over()).count();
        if under_way < self.plan.at_once
            && let Some(errand) = self.errands.get_mut(self.next)
            && let Some(id) = errand.begin(link, shard, world)
        {
            self.by_channel.insert(id, self.next);
            self.next += 1;
        }
        if self.rekeyed < 3 && crate::chance::hits(chance, self.plan.rekeys) {
            self.rekeyed += 1;
            shard.renew_keys(link);
        }
        let done = self.next == self.errands.len() && self.errands.iter().all(Errand::is_over);
        if done && self.calls_over == calls {
            self.left = true;
            shard.leave_server(link, disconnect::BY_APPLICATION, "disconnected by user");
            self.ended = Some(self.how_it_went());
        }
    }

    /// It leaves because nothing is left to be done there; not all of it may have worked.
    fn how_it_went(&self) -> Ended {
        for errand in &self.errands {
            if let Errand::Files(files) = errand
                && let Some(why) = &files.broken
            {
                return Ended::Lost(why.clone());
            }
        }
        Ended::Done
    }

    fn set_out(&mut self, shard: &mut Loop, world: &SimWorld) {
        let Ok(socket) = world.connect(self.listener) else {
            self.ended = Some(Ended::Refused);
            return;
        };
        let config = Arc::clone(&self.plan.config);
        self.link = shard.begin_client(socket, config);
        if self.link.is_none() {
            self.ended = Some(Ended::Refused);
        }
    }

    fn hear(&mut self, news: News, shard: &mut Loop, world: &SimWorld) {
        let Some(link) = self.link else { return };
        match news {
            News::Heard(Event::Query(query)) => self.answer(&query, shard),
            News::Heard(Event::KeyExchanged { first: true } | Event::AuthFailed(_)) => {
                let method = match std::mem::replace(&mut self.asked_none, true) {
                    false => LoginMethod::None,
                    true => by_key(),
                };
                let begun = shard.log_in(link, "me", method);
                assert!(begun || shard.client(link).is_none(), "a login can begin");
            }
            News::Heard(Event::Authenticated { .. }) => self.logged_in = true,
            News::Heard(Event::Open { id, .. }) => {
                self.called.insert(id, world.now());
                shard.serve_channel(link, id, Attached::socks(calls::permits()));
            }
            News::Heard(event) => {
                let id = match &event {
                    Event::Opened { id }
                    | Event::RequestDone { id, .. }
                    | Event::Request { id, .. } => *id,
                    _ => return,
                };
                if let Some(errand) = self.errand(id) {
                    errand.hear((link, id), &event, shard);
                }
            }
            News::Told { id, note } => {
                if let Some(at) = self.called.get(&id) {
                    judge_time(*at, world.now(), &note);
                }
                if let Some(errand) = self.errand(id) {
                    errand.told((link, id), note, shard, world);
                }
            }
            News::Finished(id) => {
                self.calls_over += usize::from(self.called.contains_key(&id));
                if let Some(errand) = self.errand(id) {
                    errand.finished();
                }
            }
            News::Ended { reason } => {
                self.ended.get_or_insert(Ended::Lost(reason));
            }
            News::Identified => {}
        }
    }

    fn errand(&mut self, id: ChannelId) -> Option<&mut Errand> {
        let at = *self.by_channel.get(&id)?;
        self.errands.get_mut(at)
    }

    fn answer(&self, query: &Query, shard: &mut Loop) {
        let Some(link) = self.link else { return };
        let answer = match query {
            Query::TrustHostKey { key, .. } => Answer::Trust(**key == *keys::host().public()),
            Query::SignLogin { algorithm, message, .. } => {
                let signature = keys::user().sign(*algorithm, message).ok();
                Answer::Signature(signature.map(Into::into))
            }
            _ => panic!("{query:?} is no question for a client"),
        };
        shard.answer_client(link, answer);
    }

    fn count(&self, tally: &mut Tally) {
        let how = match &self.ended {
            Some(Ended::Done) => "abroad done",
            Some(Ended::Refused) => "abroad refused a connection",
            _ => "abroad lost",
        };
        tally.count(how, 1);
        tally.count("abroad began rekey", u64::from(self.rekeyed));
        if let Some(host) = &self.host {
            tally.count("abroad rekeyed", host.rekeyed);
            tally.count("host rests", host.rested());
            if host.lied_at.is_some()
                && let Some((lie, _)) = host.plan.lie
            {
                tally.count(format!("lie {lie:?}"), 1);
            }
            if host.vanished() {
                tally.count("host vanished", 1);
            }
        }
        for errand in &self.errands[..self.next] {
            errand.count(tally);
        }
        for caller in self.host.iter().flat_map(Host::callers) {
            Caller::count(caller, tally);
        }
    }
}

/// Nobody is given up who has time left, and nobody is kept whose time is over.
fn judge_time(at: Instant, now: Instant, note: &Note) {
    if matches!(note, Note::Failed { why, .. } if why == "it has not said in time where to") {
        assert_eq!(now.since(at), SOCKS_TIME_MAX, "a caller is given up");
    }
}

fn by_key() -> LoginMethod {
    let key = keys::user().public();
    let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
    LoginMethod::PublicKey { key: Box::new(key.clone()), algorithm }
}

/// Whether a plan may need the host's silence to be timed.
pub const fn may_fall_silent(plan: &HostPlan) -> bool {
    plan.meddling.is_some()
        || plan.vanishes.is_some()
        || matches!(plan.lie, Some((lie, _)) if lie.is_silent() || matches!(lie, Lie::Withholds))
}
