//! Many connections on one shard: begun when they are due, driven by what is heard of them, timed by
//! phase, and counted by how they ended.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use slab::Slab;

use super::super::flags::{LoadFlags, Scenario};
use super::super::histogram::Histogram;
use super::super::target::Target;
use super::super::usage::{Meter, Spent, Usage};
use super::dial::Dial;
use super::visit::{Phase, Script, Visit};
use crate::base::{Instant, escape};
use crate::client::Client;
use crate::connection::{Answer, ChannelId, ChannelRequest, Event, LoginMethod, Query};
use crate::reactor::{Driver, Fd};
use crate::services::Attached;
use crate::services::forward::Note;
use crate::shard::{ClientLink, News};
use crate::wire::number::disconnect;

/// Between two looks at connections that are being made.
const DIAL_INTERVAL: Duration = Duration::from_millis(1);
/// How long connections that were left may take to end.
const LEAVING_TIME: Duration = Duration::from_secs(5);
/// Kinds of errors that are told apart; the rest are counted together.
const ERROR_KINDS_MAX: usize = 32;
/// Connections that `idle` holds unless it is told otherwise.
const HELD_DEFAULT: u64 = 1000;

/// What has become of one scenario.
pub struct Outcome {
    pub scenario: Scenario,
    pub started: u64,
    pub completed: u64,
    /// Most connections at one time.
    pub live_max: u64,
    pub errors: BTreeMap<String, u64>,
    pub time: Duration,
    pub phases: Vec<Histogram>,
    pub own: Spent,
    pub server: Option<Spent>,
}

pub struct Engine<'a, D: Driver> {
    client: &'a mut Client<D>,
    target: &'a Target,
    flags: &'a LoadFlags,
    script: Script,
    meter: &'a Meter,
    dial: Dial,
    visits: Slab<Visit>,
    of_link: HashMap<ClientLink, usize>,
    /// When each is late, oldest first: place and number of the visit.
    late: VecDeque<(Instant, usize, u64)>,
    begun_at: Instant,
    /// When this round began: what is due is judged by it alone.
    round: Instant,
    /// Connections held at one time, at most.
    room: usize,
    started: u64,
    /// Logged in, and staying.
    held: u64,
    outcome: Outcome,
    before: (Usage, Option<Usage>),
    /// Of `idle`: until when they are held, once all are there.
    hold_until: Option<Instant>,
}

impl<'a, D: Driver> Engine<'a, D> {
    /// `room`: connections that this process may have at one time.
    ///
    /// # Errors
    /// The flags make no sense for this scenario, or the system refused.
    pub fn new(
        client: &'a mut Client<D>,
        target: &'a Target,
        (scenario, flags): (Scenario, &'a LoadFlags),
        (meter, room): (&'a Meter, usize),
    ) -> Result<Engine<'a, D>> {
        let script = Script::new(scenario, flags, target.address.port());
        let script = script.map_err(anyhow::Error::msg)?;
        let outcome = Outcome {
            scenario,
            started: 0,
            completed: 0,
            live_max: 0,
            errors: BTreeMap::new(),
            time: Duration::ZERO,
            phases: Phase::ALL.iter().map(|_| Histogram::new()).collect(),
            own: Spent::default(),
            server: None,
        };
        let begun_at = client.shard().driver().now();
        Ok(Engine {
            client,
            target,
            flags,
            script,
            meter,
            dial: Dial::new()?,
            visits: Slab::new(),
            of_link: HashMap::new(),
            late: VecDeque::new(),
            begun_at,
            round: begun_at,
            room,
            started: 0,
            held: 0,
            outcome,
            before: (Usage::default(), None),
            hold_until: None,
        })
    }

    /// From the first connection to the end of the last.
    ///
    /// # Errors
    /// The driver failed, or nothing could be measured.
    pub fn run(mut self) -> Result<Outcome> {
        if self.is_idle() && self.wanted().is_some_and(|wanted| wanted > self.room as u64) {
            bail!("no more than {} connections can be held (see ulimit -n)", self.room);
        }
        self.before = (self.meter.own(), self.meter.of_server());
        self.begun_at = self.now();
        self.round = self.begun_at;
        while !self.is_over() {
            self.begin_due();
            self.look_at_dial()?;
            let until = self.wake_at();
            self.client.turn(until)?;
            while let Some((link, news)) = self.client.next_news() {
                if let Some(place) = self.of_link.get(&link).copied() {
                    self.hear(place, link, news);
                }
            }
            self.round = self.now();
            self.expire();
            self.hold();
        }
        self.finish()?;
        Ok(self.outcome)
    }

    fn now(&mut self) -> Instant {
        self.client.shard().driver().now()
    }

    const fn is_idle(&self) -> bool {
        matches!(self.script.scenario, Scenario::Idle)
    }

    /// Connections to be begun; `None`: as many as there is time for.
    fn wanted(&self) -> Option<u64> {
        match self.flags.connections {
            None if self.is_idle() => Some(HELD_DEFAULT),
            wanted => wanted,
        }
    }

    // ---- When ---------------------------------------------------------------------------------

    fn end_of_beginning(&self) -> Instant {
        self.begun_at.after(self.flags.duration)
    }

    /// No more are begun.
    fn is_enough(&self) -> bool {
        let counted = self.wanted().is_some_and(|wanted| self.started >= wanted);
        let timed =
            !self.is_idle() && self.next_due().is_none_or(|at| at >= self.end_of_beginning());
        counted || timed
    }

    /// When the next is to begin. `None`: when another has ended, but not past the end.
    fn next_due(&self) -> Option<Instant> {
        match self.flags.rate {
            Some(rate) => {
                Some(self.begun_at.after(Duration::from_secs_f64(self.started as f64 / rate)))
            }
            None => {
                let goes_on = self.round < self.end_of_beginning() || self.is_idle();
                goes_on.then_some(self.round)
            }
        }
    }

    fn begin_due(&mut self) {
        while !self.is_enough() {
            let busy = self.visits.len() - self.held as usize;
            let Some(due) = self.next_due().filter(|due| *due <= self.round) else { break };
            let at_once = if self.flags.rate.is_some() { self.room } else { self.flags.concurrent };
            // Those that were left still have their descriptors.
            if busy >= at_once || self.client.shard().links().max(self.visits.len()) >= self.room {
                break;
            }
            self.begin(due);
        }
    }

    fn begin(&mut self, due: Instant) {
        self.started += 1;
        let number = self.started;
        let place = self.visits.insert(Visit {
            number,
            intended: due,
            phase: Phase::Tcp,
            since: due,
            link: None,
            channel: None,
            rounds: self.script.rounds,
            shown: false,
            status: None,
        });
        self.outcome.live_max = self.outcome.live_max.max(self.visits.len() as u64);
        let late = self.now().after(self.flags.timeout);
        self.late.push_back((late, place, number));
        self.dial.begin(self.target.address, place);
    }

    fn wake_at(&mut self) -> Option<Instant> {
        let now = self.now();
        if self.is_over() {
            return Some(now);
        }
        // One that is due and has no room waits for another to end.
        let due = self.next_due().filter(|due| !self.is_enough() && *due > self.round);
        let end = (!self.is_idle()).then(|| self.end_of_beginning()).filter(|at| *at > self.round);
        let dial = (!self.dial.is_idle()).then(|| now.after(DIAL_INTERVAL));
        let late = self.late.front().map(|(at, ..)| *at);
        [due, end, dial, late, self.hold_until].into_iter().flatten().min()
    }

    fn is_over(&self) -> bool {
        match self.hold_until {
            Some(until) => self.round >= until || self.visits.is_empty(),
            None => self.visits.is_empty() && self.is_enough(),
        }
    }

    /// All are there: what they take is looked at, and they stay for a while.
    fn hold(&mut self) {
        let all = self.is_idle() && self.held > 0 && self.held as usize == self.visits.len();
        if all && self.hold_until.is_none() && self.is_enough() {
            self.weigh();
            self.hold_until = Some(self.now().after(self.flags.duration));
        }
    }

    fn expire(&mut self) {
        let now = self.now();
        while let Some((_, place, number)) =
            self.late.front().filter(|(at, ..)| *at <= now).copied()
        {
            self.late.pop_front();
            let same = |visit: &&Visit| visit.number == number && visit.phase != Phase::Held;
            if self.visits.get(place).filter(same).is_some() {
                self.fail(place, "time out");
            }
        }
    }

    // ---- What is heard ------------------------------------------------------------------------

    fn look_at_dial(&mut self) -> io::Result<()> {
        self.dial.look()?;
        while let Some((place, outcome)) = self.dial.next() {
            match outcome {
                Ok(socket) => self.connected(place, socket),
                Err(why) => self.fail(place, &why.to_string()),
            }
        }
        Ok(())
    }

    fn connected(&mut self, place: usize, socket: Fd) {
        self.pass(place, Phase::Version);
        let config = Arc::clone(&self.target.config);
        match self.client.shard().begin_client(socket, config) {
            Some(link) => {
                self.of_link.insert(link, place);
                if let Some(visit) = self.visits.get_mut(place) {
                    visit.link = Some(link);
                }
            }
            None => self.fail(place, "no memory here"),
        }
    }

    /// A phase is over, and the next begins.
    fn pass(&mut self, place: usize, next: Phase) {
        let now = self.now();
        let Some(visit) = self.visits.get_mut(place) else { return };
        if let Some(histogram) = self.outcome.phases.get_mut(visit.phase as usize) {
            histogram.record(now.since(visit.since));
        }
        (visit.phase, visit.since) = (next, now);
    }

    fn hear(&mut self, place: usize, link: ClientLink, news: News) {
        match news {
            News::Identified => self.pass(place, Phase::Kex),
            News::Ended { reason } => self.fail(place, &reason),
            News::Told { note: Note::Reached, .. } => self.answered(place, link),
            News::Told { .. } | News::Finished(_) => {}
            News::Heard(event) => self.event(place, link, event),
        }
    }

    fn event(&mut self, place: usize, link: ClientLink, event: Event) {
        match event {
            Event::KeyExchanged { first: true } => {
                self.pass(place, Phase::Auth);
                match self.script.scenario {
                    Scenario::Connect => self.done(place),
                    _ => self.attempt(place, link, LoginMethod::None),
                }
            }
            Event::Query(query) => self.answer(place, link, &query),
            Event::AuthFailed(failed) => self.prove(place, link, &failed.methods),
            Event::Authenticated { .. } => self.logged_in(place, link),
            Event::Opened { id } => self.opened(place, link, id),
            Event::OpenFailed { text, .. } => {
                self.fail(place, &escape(text.as_bytes()).to_string());
            }
            Event::RequestDone { ok: true, .. } => self.started(place, link),
            Event::RequestDone { ok: false, .. } => self.fail(place, "the server refuses it"),
            Event::Request { request: ChannelRequest::ExitStatus { code }, .. } => {
                if let Some(visit) = self.visits.get_mut(place) {
                    visit.status = Some(code);
                }
            }
            Event::PeerClosed(_) | Event::Closed(_) => self.closed(place),
            _ => {}
        }
    }

    fn attempt(&mut self, place: usize, link: ClientLink, method: LoginMethod) {
        if !self.client.shard().log_in(link, &self.target.options.user, method) {
            self.fail(place, "no memory here");
        }
    }

    fn answer(&mut self, place: usize, link: ClientLink, query: &Query) {
        let answer = match query {
            Query::TrustHostKey { key, .. } => {
                if **key != self.target.host_key {
                    self.fail(place, "another host key than at first");
                    return;
                }
                Answer::Trust(true)
            }
            Query::SignLogin { algorithm, message, .. } => {
                let proof = self.target.proof.as_ref();
                Answer::Signature(proof.and_then(|proof| proof.sign(*algorithm, message)))
            }
            Query::Ask(questions) => {
                let proof = self.target.proof.as_ref();
                Answer::Said(proof.and_then(|proof| proof.say(questions)))
            }
            _ => {
                self.fail(place, "a question that is no client's");
                return;
            }
        };
        self.client.shard().answer_client(link, answer);
    }

    /// The server has said what it takes: once it is given that.
    fn prove(&mut self, place: usize, link: ClientLink, methods: &str) {
        let Some(visit) = self.visits.get_mut(place) else { return };
        let before = std::mem::replace(&mut visit.shown, true);
        let proof = self.target.proof.as_ref().filter(|_| !before);
        match proof.and_then(|proof| proof.method(methods, &self.target.options)) {
            Some(method) => self.attempt(place, link, method),
            None => self.fail(place, "the login is refused"),
        }
    }

    fn logged_in(&mut self, place: usize, link: ClientLink) {
        let Some(kind) = self.script.kind.clone() else {
            let next = if self.is_idle() { Phase::Held } else { Phase::Total };
            self.pass(place, next);
            match self.is_idle() {
                true => self.stay(place),
                false => self.done(place),
            }
            return;
        };
        self.pass(place, Phase::Channel);
        let service = self.script.talk().map(|talk| Attached::Guest(Box::new(talk)));
        match self.client.shard().open_channel(link, &kind, service) {
            Some(id) => {
                if let Some(visit) = self.visits.get_mut(place) {
                    visit.channel = Some(id);
                }
            }
            None => self.fail(place, "no channel can be asked for"),
        }
    }

    fn opened(&mut self, place: usize, link: ClientLink, id: ChannelId) {
        match &self.script.request {
            Some(request) => {
                let asked = self.client.shard().ask_channel(link, id, request, true);
                self.pass(place, Phase::Start);
                if !asked {
                    self.fail(place, "nothing can be asked for");
                }
            }
            None => {
                self.pass(place, Phase::Work);
                self.go_on(place, link);
            }
        }
    }

    /// What runs there runs.
    fn started(&mut self, place: usize, link: ClientLink) {
        if !self.script.starts_with_an_answer() {
            self.pass(place, Phase::Work);
        }
        if self.script.rounds > 0 {
            self.go_on(place, link);
        }
    }

    fn go_on(&mut self, place: usize, link: ClientLink) {
        let channel = self.visits.get(place).and_then(|visit| visit.channel);
        if let Some(id) = channel {
            self.client.shard().with_channel(link, id, Attached::begin);
        }
    }

    fn answered(&mut self, place: usize, link: ClientLink) {
        let Some(visit) = self.visits.get_mut(place) else { return };
        if visit.phase == Phase::Work {
            visit.rounds = visit.rounds.saturating_sub(1);
        }
        let more = visit.rounds > 0;
        self.pass(place, Phase::Work);
        match more {
            true => self.go_on(place, link),
            false => self.done(place),
        }
    }

    /// The channel is closed: so it should be when a command has ended, and not before.
    fn closed(&mut self, place: usize) {
        let Some(visit) = self.visits.get(place) else { return };
        match (self.script.scenario, visit.status) {
            (Scenario::Exec, Some(0)) => {
                self.pass(place, Phase::Total);
                self.done(place);
            }
            (Scenario::Exec, Some(status)) => self.fail(place, &format!("exit status {status}")),
            (Scenario::Exec, None) => self.fail(place, "ended by a signal"),
            _ => self.fail(place, "the server has closed the channel"),
        }
    }

    // ---- How it ends --------------------------------------------------------------------------

    fn stay(&mut self, place: usize) {
        self.held += 1;
        self.outcome.completed += 1;
        self.record_total(place);
    }

    fn done(&mut self, place: usize) {
        self.outcome.completed += 1;
        self.record_total(place);
        self.leave(place);
    }

    fn record_total(&mut self, place: usize) {
        let now = self.now();
        let Some(visit) = self.visits.get(place) else { return };
        if let Some(histogram) = self.outcome.phases.get_mut(Phase::Total as usize) {
            histogram.record(now.since(visit.intended));
        }
    }

    /// `why`: fit to be shown.
    fn fail(&mut self, place: usize, why: &str) {
        let Some(visit) = self.visits.get(place) else { return };
        let held = visit.phase == Phase::Held;
        let kind = format!("{}: {why}", visit.phase);
        let errors = &mut self.outcome.errors;
        let known = errors.contains_key(&kind) || errors.len() < ERROR_KINDS_MAX;
        *errors.entry(if known { kind } else { "other".to_owned() }).or_default() += 1;
        if held {
            self.held = self.held.saturating_sub(1);
        }
        self.leave(place);
    }

    fn leave(&mut self, place: usize) {
        let Some(visit) = self.visits.try_remove(place) else { return };
        match visit.link {
            Some(link) => {
                self.of_link.remove(&link);
                self.client.shard().leave_server(link, disconnect::BY_APPLICATION, "measured");
            }
            None => self.dial.give_up(place),
        }
    }

    /// What it took up to now; the first time counts.
    fn weigh(&mut self) {
        if self.outcome.time.is_zero() {
            let (own, server) = self.before;
            self.outcome.time = self.now().since(self.begun_at);
            self.outcome.own = self.meter.own().since(&own);
            let now = self.meter.of_server();
            self.outcome.server = now.zip(server).map(|(now, before)| now.since(&before));
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.weigh();
        self.outcome.started = self.started;
        let places: Vec<usize> = self.visits.iter().map(|(place, _)| place).collect();
        places.into_iter().for_each(|place| self.leave(place));
        let until = self.now().after(LEAVING_TIME);
        while self.client.shard().links() > 0 && self.now() < until {
            self.client.turn(Some(until))?;
            while self.client.next_news().is_some() {}
        }
        Ok(())
    }
}
