//! One seed from beginning to end.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::LoginLimits;
use tidegate::reactor::sim::{Faults, SimDriver, SimWorld};
use tidegate::reactor::{Driver, Fd};
use tidegate::shard::{Mail, Shard, ShardConfig};

use crate::bytes::content;
use crate::chance::{hits, stream};
use crate::client::{Client, Outcome};
use crate::draw::{Draw, Weather};
use crate::hostile::Hostile;
use crate::office::{Office, SimOutside, own_faults};
use crate::onward::Onward;
use crate::tally::Tally;
use crate::task::TaskPlan;

/// Virtual time that a world without faults may take to get everything done. Login grace and a key
/// exchange that never ends are part of it.
pub const LIVENESS: Duration = Duration::from_secs(900);
/// Virtual time from the last client's end to the last link's.
pub const CLOSING: Duration = Duration::from_secs(10);
/// Turns of everybody that a run may take at one moment, and in all. Several times what the most
/// eventful seed takes: somebody calls for the next turn without getting anywhere.
pub const TICKS_AT_ONCE_MAX: u64 = 10_000;
pub const TICKS_MAX: u64 = 400_000;

pub struct Run {
    draw: Draw,
    world: SimWorld,
    office: Rc<RefCell<Office>>,
    shards: Vec<Shard<SimDriver, SimOutside>>,
    /// Until when each of them sleeps if nothing wakes it.
    naps: Vec<Option<Instant>>,
    /// When each of them was turned last.
    turned_at: Vec<Instant>,
    listener: Fd,
    listening: bool,
    pub clients: Vec<Client>,
    pub hostiles: Vec<Hostile>,
    chance: SeededEntropy,
    /// When connections are called to another program.
    calls: SeededEntropy,
    stopped: bool,
    /// It was told to stop with connections open.
    cut_short: bool,
    healed: bool,
    /// Connections that moved under their services.
    moved: u64,
    /// What receive windows may grow by, and the most that they had.
    window_budget: u64,
    grown: u64,
    ticks: u64,
    /// How often a shard was woken.
    pub turns: u64,
    /// Ticks since the clock moved, and the most of any moment.
    at_once: u64,
    most_at_once: u64,
}

/// Runs a seed.
///
/// # Panics
/// When anything at all is not as it should be.
pub fn run(seed: u64) -> Tally {
    Run::new(Draw::new(seed)).finish()
}

/// Files, targets of forwarded connections, and the way on of logins.
fn furnish(office: &mut Office, draw: &Draw, listener: Fd) {
    let world = office.world.clone();
    office.onward.clone_from(&draw.onward);
    Onward::publish(&world, listener);
    for (path, seed, len) in &draw.files {
        let mut contents = vec![0; *len as usize];
        content(*seed, 0, &mut contents);
        office.files.put(path, contents, &world);
    }
    for plan in draw.clients.iter().flat_map(|client| &client.tasks) {
        if let TaskPlan::Forward(plan) = plan {
            office.town.build(plan, &world);
        }
    }
}

impl Run {
    pub fn new(draw: Draw) -> Run {
        let world = SimWorld::new(draw.seed, draw.swarm.clone());
        let listener = world.listen();
        let manners = draw.manners.clone();
        let mut office = Office::new(world.clone(), manners, stream(draw.seed, "office"));
        let client_alive = draw.manners.times.alive;
        office.limits = Some(LoginLimits { client_alive, ..draw.gateway.limits() });
        furnish(&mut office, &draw, listener);
        let office = Rc::new(RefCell::new(office));
        let shards = (0..draw.manners.shards)
            .map(|n| {
                let config = ShardConfig {
                    connection: draw.gateway.clone(),
                    host_keys: draw.host_keys.clone(),
                    listeners: if n == 0 { vec![listener] } else { Vec::new() },
                    serial_base: n as u64 + 1,
                    serial_step: draw.manners.shards as u64,
                };
                let outside = SimOutside { office: Rc::clone(&office), shard: n };
                let entropy = Box::new(stream(draw.seed, if n == 0 { "left" } else { "right" }));
                let driver = world.driver(draw.pools[n]);
                office.borrow_mut().wakers.push(driver.waker());
                Shard::new(driver, outside, config, entropy)
            })
            .collect();
        let shards_count = draw.manners.shards;
        let naps = vec![Some(Instant::ZERO); shards_count];
        let clients = draw
            .clients
            .iter()
            .map(|plan| Client::new(plan.clone(), world.clone(), Rc::clone(&office), listener));
        let clients = clients.collect();
        let hostiles = draw.hostiles.iter();
        let hostiles =
            hostiles.map(|plan| Hostile::new(plan.clone(), world.clone(), listener)).collect();
        world.wake_at(draw.heals_at);
        if let Some(at) = draw.stops_at {
            world.wake_at(at);
        }
        let (chance, calls) = (stream(draw.seed, "run"), stream(draw.seed, "calls"));
        let window_budget = draw.gateway.window_budget.left();
        Run {
            draw,
            world,
            office,
            shards,
            naps,
            turned_at: vec![Instant::ZERO; shards_count],
            listener,
            listening: true,
            clients,
            hostiles,
            chance,
            calls,
            stopped: false,
            cut_short: false,
            healed: false,
            moved: 0,
            window_budget,
            grown: 0,
            ticks: 0,
            turns: 0,
            at_once: 0,
            most_at_once: 0,
        }
    }

    /// Logins that went on at the host behind, and those of them for which no connection was made.
    pub fn gone_on(&self) -> (u64, u64) {
        let office = self.office.borrow();
        (office.gone_on(), office.sharing())
    }

    /// Connections whose end was reported with these words.
    pub fn ended_for(&self, why: &str) -> u64 {
        self.office.borrow().ended_for(why)
    }

    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// Until everybody is done, every link is gone and the gateway has stopped.
    pub fn finish(mut self) -> Tally {
        self.until("everybody is done", LIVENESS, |run| {
            run.clients.iter().all(Client::is_over) && run.hostiles.iter().all(|h| h.over)
        });
        self.heal();
        self.until("every link is gone", CLOSING, |run| {
            run.shards.iter().all(|shard| shard.links() == 0) && run.office.borrow().waiting() == 0
        });
        self.stop();
        self.until("the gateway has stopped", CLOSING, |run| {
            run.shards.iter_mut().all(|shard| shard.is_done() && shard.driver().is_idle())
                && run.office.borrow().waiting() == 0
        });
        self.check()
    }

    /// Lets things happen until they have, in so much virtual time after the faults have ended.
    pub fn until(&mut self, what: &str, time: Duration, done: impl Fn(&mut Run) -> bool) {
        let from = self.world.now().max(self.draw.heals_at);
        let deadline = from.after(time);
        while !done(self) {
            // The clock may have leapt over the deadline to the next thing that happens.
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

    /// The socket that clients come to listens no more, and nobody has said so.
    pub fn silence(&self) {
        self.world.silence(self.listener);
    }

    /// False: nothing will ever happen again.
    fn tick(&mut self) -> bool {
        let now = self.world.now();
        self.ticks += 1;
        if !self.healed && now >= self.draw.heals_at {
            self.heal();
        }
        if self.draw.stops_at.is_some_and(|at| at <= now) {
            self.stop();
        }
        self.turn_shards();
        let stopping = self.office.borrow().stopping;
        if self.listening && stopping && !self.world.is_in_use(self.listener) {
            // As the end of the process would.
            self.listening = false;
            self.world.close(self.listener);
        }
        self.office.borrow_mut().step_children();
        for client in &mut self.clients {
            client.step();
        }
        for hostile in &mut self.hostiles {
            hostile.step();
        }
        if !self.world.busy() {
            // What this turn decided to wait for is known to the driver only at the next.
            self.turn_shards();
        }
        if self.world.busy() {
            self.at_once += 1;
            self.most_at_once = self.most_at_once.max(self.at_once);
            return true;
        }
        self.at_once = 0;
        self.world.advance_to_next_event()
    }

    /// Turns the shards that would not sleep on: whatever else happens in the world, a shard that
    /// was not woken up for it does not notice.
    fn turn_shards(&mut self) {
        self.office.borrow_mut().ring();
        let first = self.chance.below(self.shards.len() as u64) as usize;
        for n in 0..self.shards.len() {
            let at = (first + n) % self.shards.len();
            let shard = &mut self.shards[at];
            let moves = hits(&mut self.chance, self.draw.moves);
            if moves {
                self.moved += u64::from(shard.move_quiet_links());
            }
            let moving = &mut self.draw.manners.moving;
            let asked = moving.calls > 0 && hits(&mut self.calls, moving.asked);
            if asked && !self.stopped && shard.links() > 0 {
                moving.calls -= 1;
                self.office.borrow_mut().post(at, Mail::MoveOn);
            }
            if shard.driver().is_due(self.naps[at]) || moves {
                let overslept = shard.overslept(self.turned_at[at]);
                assert!(overslept.is_none(), "shard {at} slept past {overslept:?}: {shard:#?}");
                self.turned_at[at] = self.world.now();
                self.turns += 1;
                shard.turn(None).expect("the simulated driver does not fail");
                self.naps[at] = shard.sleeps_until();
                let forgotten = shard.forgotten();
                assert!(forgotten.is_none(), "shard {at} forgets {forgotten:?}: {shard:#?}");
            }
        }
        let grown = self.shards.iter().map(Shard::windows_grown).sum();
        let taken = self.window_budget - self.draw.gateway.window_budget.left();
        assert!(grown <= taken, "windows grew by {grown}, and {taken} was taken for it");
        self.grown = self.grown.max(grown);
    }

    fn heal(&mut self) {
        self.healed = true;
        self.world.heal();
        self.office.borrow_mut().heal();
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        self.cut_short = self.shards.iter().any(|shard| shard.links() > 0);
        for shard in 0..self.shards.len() {
            self.office.borrow_mut().post(shard, Mail::Stop);
        }
    }

    fn describe(&mut self) -> String {
        let mut text = format!("at {:?}\n", self.world.now());
        for (n, client) in self.clients.iter().enumerate().filter(|(_, c)| !c.is_over()) {
            let _ = writeln!(text, "client {n}: {}", client.describe());
        }
        for hostile in self.hostiles.iter().filter(|hostile| !hostile.over) {
            let _ = writeln!(text, "hostile: {}", hostile.describe());
        }
        for (n, shard) in self.shards.iter_mut().enumerate() {
            let _ = writeln!(text, "shard {n}: {shard:#?}");
            let _ = writeln!(text, "in flight: {:#?}", shard.driver());
        }
        let office = self.office.borrow();
        let _ = writeln!(text, "{} programs, {} waiting", office.children.len(), office.waiting());
        text
    }

    fn check(mut self) -> Tally {
        self.check_outcomes();
        self.office.borrow_mut().close_slaves();
        let world = self.world.clone();
        for child in &mut self.office.borrow_mut().children {
            child.end_if_it_outlives_its_client(&world);
        }
        // Programs whose pipes are closed end by themselves.
        for _ in 0..200 {
            self.tick();
        }
        self.office.borrow_mut().town.close(&world);
        for shard in &mut self.shards {
            shard.driver().check();
        }
        self.world.check();
        self.check_office();
        assert!(!self.listening, "still accepting");
        let left = self.draw.gateway.window_budget.left();
        assert_eq!(left, self.window_budget, "what windows had grown by has come back");
        let open = self.world.open_descriptors();
        let reports = std::mem::take(&mut self.office.borrow_mut().reports);
        assert!(open.is_empty(), "left open: {open:?}: {reports:#?}");
        self.office.borrow_mut().reports = reports;
        self.tally()
    }

    fn check_outcomes(&self) {
        let faults = self.world.faults();
        let office = self.office.borrow();
        let arranged = office.arranged;
        let excuses = faults.resets
            + faults.flips
            + faults.refused
            + arranged.lost
            + arranged.hand_overs
            + arranged.spoilt
            + arranged.refused;
        let excused = excuses > 0 || self.draw.stops_at.is_some();
        for (n, client) in self.clients.iter().enumerate() {
            let own = client.plan.meddling.is_some() || client.plan.vanishes.is_some();
            let fine = client.outcome == Some(Outcome::Done) && !client.has_lost_its_host();
            let reports = &office.reports;
            assert!(fine || own || excused, "client {n}: {:?}: {reports:#?}", client.outcome);
        }
        assert!(self.draw.weather != Weather::Calm || excuses == 0);
        let ours = own_faults(&office.reports);
        let arranged = arranged.lost + arranged.hand_overs + arranged.spoilt > 0
            || self.draw.stops_at.is_some();
        assert!(ours.is_empty() || arranged, "called our own doing: {ours:?}");
    }

    fn check_office(&self) {
        let office = self.office.borrow();
        assert!(office.children.is_empty(), "still running: {:?}", office.children);
        assert_eq!(office.startups, 0, "startups taken and not given back");
        assert!(office.load.iter().all(|load| *load == 0), "load: {:?}", office.load);
    }

    fn tally(&mut self) -> Tally {
        let mut tally = Tally::default();
        tally.seeds = 1;
        tally.trace = self.world.trace() ^ self.digest();
        for client in &self.clients {
            client.count(&mut tally);
        }
        for hostile in &self.hostiles {
            tally.count(hostile.crime_name(), 1);
        }
        for shard in &mut self.shards {
            tally.count("lease refused", shard.driver().pool().stats().refused);
        }
        self.office.borrow().count(&mut tally);
        count_faults(&self.world.faults(), &mut tally);
        tally.count("gateway moved", self.moved);
        crate::moving::count(&self.office.borrow().reports, &mut tally);
        tally.count("receive windows grew", u64::from(self.grown > 0));
        let pressed = self.grown > self.window_budget / 3;
        tally.count("receive windows took most of their budget", u64::from(pressed));
        tally.count("stopped in the middle", u64::from(self.cut_short));
        let seconds = self.world.now().since(Instant::ZERO).as_secs();
        tally.count("virtual seconds", seconds);
        tally.count("ticks", self.ticks);
        tally.peak("virtual seconds", self.draw.seed, seconds);
        tally.peak("ticks", self.draw.seed, self.ticks);
        tally.peak("ticks at one moment", self.draw.seed, self.most_at_once);
        tally
    }

    /// Outcomes and reports in order.
    fn digest(&self) -> u64 {
        let mut text = String::new();
        for client in &self.clients {
            let _ = write!(text, "{:?}", client.outcome);
        }
        for report in &self.office.borrow().reports {
            let _ = write!(text, "{report:?}");
        }
        text.bytes().fold(0, |hash, byte| crate::bytes::mix(hash ^ u64::from(byte)))
    }
}

pub fn count_faults(faults: &Faults, tally: &mut Tally) {
    let all = [
        ("short transfer", faults.shorts),
        ("reset", faults.resets),
        ("stall", faults.stalls),
        ("flipped bit", faults.flips),
        ("no shared buffer", faults.starved),
        ("below the receive mark", faults.below_mark),
        ("full ring", faults.full),
        ("cancel lost", faults.cancels_lost),
        ("interrupt", faults.interrupts),
        ("accept error", faults.accept_errors),
        ("connection refused", faults.refused),
        ("disk error", faults.disk_errors),
        ("disk full", faults.disk_full),
    ];
    for (what, times) in all {
        tally.count(what, times);
    }
}
