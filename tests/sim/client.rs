//! A client that keeps the rules, over our own client role.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy, Span};
use tidegate::connection::{
    Answer, ChannelId, ClientConnectionConfig, Connection, ConnectionRecord, Event, Input,
    LoginMethod, Query,
};
use tidegate::crypto::{PrivateKey, SignatureAlgorithm};
use tidegate::reactor::Fd;
use tidegate::reactor::sim::SimWorld;
use tidegate::transport::{Client as ClientRole, Env, Error};
use tidegate::wire::number::disconnect;

use crate::chance::hits;
use crate::keys;
use crate::line::{Line, Meddling, Reading};
use crate::office::Office;
use crate::tally::Tally;
use crate::task::{Task, TaskPlan};
use crate::times::{LEAD, SLACK};

/// How a client ends its own part before its tasks are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vanish {
    Close,
    Reset,
    /// It stops sending, as a program that was killed behind a pipe does.
    HalfClose,
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub starts_at: Instant,
    pub user: String,
    /// Keys it tries before its own.
    pub wrong_keys: u32,
    pub asks_none_first: bool,
    pub config: Arc<ClientConnectionConfig>,
    pub reading: Reading,
    pub meddling: Option<Meddling>,
    pub vanishes: Option<(Duration, Vanish)>,
    pub tasks: Vec<TaskPlan>,
    pub tasks_at_once: usize,
    /// Of a million, each step: asks for new keys; moves to another process, so to speak.
    pub rekeys: u32,
    pub rekeys_max: u32,
    pub moves: u32,
    /// Ends without a word.
    pub rude: bool,
    /// It stays when it has nothing more to do, until the gateway ends it after this time.
    pub lingers: Option<Duration>,
    /// Once it has fallen silent, the gateway ends it in this time.
    pub silence_max: Option<Duration>,
    /// It goes after this time if a bit of anything has flipped on its way.
    pub patience: Option<Duration>,
    pub seed: u64,
}

impl ClientPlan {
    /// Its login goes on at a host behind the gateway.
    pub fn is_proxied(&self) -> bool {
        self.user.starts_with('p')
    }
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Vanished,
    Refused,
    /// The connection ended before it was done: how, and why as far as we know.
    Lost(String),
}

pub struct Client {
    pub plan: ClientPlan,
    pub outcome: Option<Outcome>,
    moved: u32,
    rekeyed: u32,
    world: SimWorld,
    office: Rc<RefCell<Office>>,
    listener: Fd,
    chance: SeededEntropy,
    live: Option<Live>,
}

/// A client with a connection.
struct Live {
    line: Line,
    conn: Connection<ClientRole>,
    tries: u32,
    logged_in: bool,
    tasks: Vec<Task>,
    waiting: Vec<TaskPlan>,
    by_channel: BTreeMap<ChannelId, usize>,
    vanishes_at: Option<Instant>,
    patient_until: Option<Instant>,
    leaving: bool,
    /// It has nothing more to do and stays.
    idle_since: Option<Instant>,
    half_gone: bool,
    digests_at: Instant,
    /// It was told that the host behind the gateway is lost.
    host_lost: bool,
    /// Times channel data came while new keys were being agreed on.
    data_in_rekey: u64,
    /// Times it came compressed.
    unpacked: u64,
}

impl Client {
    pub fn new(
        plan: ClientPlan,
        world: SimWorld,
        office: Rc<RefCell<Office>>,
        listener: Fd,
    ) -> Client {
        world.wake_at(plan.starts_at);
        let chance = SeededEntropy::new(plan.seed);
        Client {
            plan,
            outcome: None,
            moved: 0,
            rekeyed: 0,
            world,
            office,
            listener,
            chance,
            live: None,
        }
    }

    pub fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    pub fn has_lost_its_host(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.host_lost)
    }

    /// What it is doing, for a failure's sake.
    pub fn describe(&self) -> String {
        let Some(live) = &self.live else { return format!("{:?}", self.outcome) };
        format!(
            "{}, logged in {}, leaving {}, {} waiting, blocked {}, ready {}, tasks {:#?}",
            live.line.describe(),
            live.logged_in,
            live.leaving,
            live.waiting.len(),
            live.conn.blocked(),
            live.conn.is_ready(),
            live.tasks.iter().filter(|task| !task.is_over()).collect::<Vec<_>>(),
        )
    }

    pub fn count(&self, tally: &mut Tally) {
        let how = match &self.outcome {
            Some(Outcome::Done) => "client done",
            Some(Outcome::Lost(_)) => "client lost",
            Some(Outcome::Refused) => "client refused",
            Some(Outcome::Vanished) => "client vanished",
            None => "client without end",
        };
        tally.count(how, 1);
        tally.count("client moved", u64::from(self.moved));
        tally.count("client began rekey", u64::from(self.rekeyed));
        let Some(live) = &self.live else { return };
        tally.count("data during a key exchange", live.data_in_rekey);
        tally.count("compressed data", live.unpacked);
        tally.count("host lost", u64::from(live.host_lost));
        tally.count("rest before reading", live.line.rested);
        if let Some(Meddling { how, .. }) =
            self.plan.meddling.as_ref().filter(|_| live.line.meddled_at.is_some())
        {
            tally.count(format!("meddled {how:?}"), 1);
        }
        for task in live.tasks.iter().filter(|task| task.is_over()) {
            task.count(tally);
        }
    }

    /// Goes on as far as it can now.
    pub fn step(&mut self) {
        if self.outcome.is_some() || self.world.now() < self.plan.starts_at {
            return;
        }
        if self.live.is_none() && !self.connect() {
            self.outcome = Some(Outcome::Refused);
            return;
        }
        if let Err(outcome) = self.act() {
            let outcome = self.judge(outcome);
            if let Some(live) = &mut self.live {
                live.line.close();
            }
            self.outcome = Some(outcome);
        }
    }

    /// Whether an end was what it waited for, and came in time.
    fn judge(&self, outcome: Outcome) -> Outcome {
        let Some(live) = &self.live else { return outcome };
        let now = self.world.now();
        if let Some(most) = self.plan.silence_max.filter(|_| live.line.meddled_at.is_some()) {
            let silent = now.since(live.line.meddled_at.unwrap_or(now));
            assert!(silent <= most, "silent for {silent:?}, and still served");
        }
        let (Some(time), Some(since), Outcome::Lost(_)) =
            (self.plan.lingers, live.idle_since, &outcome)
        else {
            return outcome;
        };
        let idle = now.since(since);
        assert!(idle <= time + SLACK, "idle for {idle:?}, and still served");
        if idle + LEAD >= time { Outcome::Done } else { outcome }
    }

    fn connect(&mut self) -> bool {
        let Ok(fd) = self.world.connect(self.listener) else { return false };
        let entropy = SeededEntropy::new(self.chance.next_u64());
        let (reading, meddling) = (self.plan.reading.clone(), self.plan.meddling.clone());
        let mut line = Line::new(self.world.clone(), fd, reading, meddling, entropy);
        let config = Arc::clone(&self.plan.config);
        let conn = line.call(|env| Connection::client(config, env)).expect("a client starts");
        let vanishes_at = self.plan.vanishes.map(|(time, _)| self.world.now().after(time));
        let patient_until = self.plan.patience.map(|time| self.world.now().after(time));
        for at in [vanishes_at, patient_until].into_iter().flatten() {
            self.world.wake_at(at);
        }
        let mut waiting = self.plan.tasks.clone();
        waiting.reverse();
        self.live = Some(Live {
            line,
            conn,
            tries: 0,
            logged_in: false,
            tasks: Vec::new(),
            waiting,
            by_channel: BTreeMap::new(),
            vanishes_at,
            patient_until,
            leaving: false,
            idle_since: None,
            half_gone: false,
            digests_at: Instant::ZERO,
            host_lost: false,
            data_in_rekey: 0,
            unpacked: 0,
        });
        true
    }

    fn act(&mut self) -> Result<(), Outcome> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let now = self.world.now();
        if live.vanishes_at.is_some_and(|at| at <= now) {
            match self.plan.vanishes {
                Some((_, Vanish::Reset)) => live.line.reset(),
                Some((_, Vanish::HalfClose)) => {
                    live.line.shutdown_send();
                    (live.leaving, live.half_gone) = (true, true);
                    live.vanishes_at = None;
                }
                _ => live.line.close(),
            }
            if live.vanishes_at.is_some() {
                return Err(Outcome::Vanished);
            }
        }
        if live.patient_until.is_some_and(|at| at <= now) && self.world.faults().flips > 0 {
            return Err(Outcome::Vanished);
        }
        if live.leaving {
            return live.leave();
        }
        // What has come before the end is handled first.
        let received = live.line.receive();
        live.handle(&self.plan).map_err(lost)?;
        received.map_err(Outcome::Lost)?;
        live.time_out(&self.plan, now).map_err(lost)?;
        if live.logged_in {
            live.work(&self.plan, &self.office, &mut self.chance).map_err(lost)?;
        }
        self.stir().map_err(lost)?;
        let Some(live) = &mut self.live else { return Ok(()) };
        live.leave_when_done(&self.plan);
        if let Err(how) = live.line.send() {
            // It may have said why.
            while live.line.receive().is_ok() && !live.line.inbox.is_empty() {
                let before = live.line.inbox.len();
                live.handle(&self.plan).map_err(lost)?;
                if live.line.inbox.len() == before {
                    break;
                }
            }
            return Err(Outcome::Lost(how));
        }
        if let Some(at) = live.conn.poll_timeout() {
            self.world.wake_at(at);
        }
        for task in live.tasks.iter().filter(|task| !task.is_over()) {
            if let Some(at) = task.wakes_at() {
                self.world.wake_at(at);
            }
        }
        let digesting = live.tasks.iter().any(|task| !task.is_over() && task.is_digesting());
        if digesting && live.digests_at <= now {
            live.digests_at = now.after(Duration::from_micros(500));
            self.world.wake_at(live.digests_at);
        }
        Ok(())
    }

    /// New keys, and a new process, now and then.
    fn stir(&mut self) -> Result<(), Error> {
        let Some(live) = &mut self.live else { return Ok(()) };
        if !live.logged_in {
            return Ok(());
        }
        if self.rekeyed < self.plan.rekeys_max && hits(&mut self.chance, self.plan.rekeys) {
            self.rekeyed += 1;
            let conn = &mut live.conn;
            live.line.call(|env| conn.rekey(env))?;
        }
        if hits(&mut self.chance, self.plan.moves)
            && let Some(record) = live.conn.export()
        {
            let bytes = record.to_bytes().expect("room for a record");
            let record = ConnectionRecord::from_bytes(&bytes).expect("what was written is read");
            let config = Arc::clone(&self.plan.config);
            let now = self.world.now();
            live.conn = Connection::<ClientRole>::import(config, record, now).expect("imported");
            self.moved += 1;
        }
        Ok(())
    }
}

fn lost(error: Error) -> Outcome {
    Outcome::Lost(error.to_string())
}

impl Live {
    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Connection<ClientRole>, &mut Env<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Live { line, conn, .. } = self;
        line.call(|env| work(conn, env))
    }

    /// Handles what has been received, as far as it goes.
    fn handle(&mut self, plan: &ClientPlan) -> Result<(), Error> {
        let mut at = 0;
        while !self.conn.blocked() && at < self.line.inbox.len() {
            let mut inbox = std::mem::take(&mut self.line.inbox);
            let input = self.with(|conn, env| conn.handle_input(env, &mut inbox[at..]));
            self.line.inbox = inbox;
            match input? {
                Input::Need { total } => {
                    let have = self.line.inbox.len() - at;
                    assert!(total as usize > have, "{total} bytes needed and {have} there");
                    break;
                }
                Input::Used { used, event } => {
                    let from = at;
                    at += used as usize;
                    if let Some(event) = event {
                        self.event(plan, event, from)?;
                    }
                    self.poll(plan)?;
                }
            }
        }
        self.line.inbox.drain(..at);
        self.poll(plan)
    }

    fn poll(&mut self, plan: &ClientPlan) -> Result<(), Error> {
        while let Some(event) = self.conn.poll_event() {
            self.event(plan, event, 0)?;
        }
        Ok(())
    }

    fn time_out(&mut self, plan: &ClientPlan, now: Instant) -> Result<(), Error> {
        if self.conn.poll_timeout().is_some_and(|at| at <= now) {
            self.with(|conn, env| conn.handle_timeout(env))?;
            self.poll(plan)?;
        }
        self.with(|conn, env| conn.flush(env))
    }

    fn event(&mut self, plan: &ClientPlan, event: Event, from: usize) -> Result<(), Error> {
        match event {
            Event::KeyExchanged { first: true } => self.log_in(plan),
            Event::Query(query) => self.answer(plan, &query),
            Event::AuthFailed(_) => self.log_in(plan),
            Event::Authenticated { .. } => {
                self.logged_in = true;
                Ok(())
            }
            Event::Data { id, extended, data } => {
                let span = Span::new(data.at + from as u32, data.len);
                let bytes = span.of(&self.line.inbox).expect("inside the buffer").to_vec();
                self.data_in_rekey += u64::from(!self.conn.is_ready());
                if self.is_news(plan, extended, &bytes) {
                    return Ok(());
                }
                let task = self.task(id).expect("data belongs to a task");
                task.data(extended, &bytes);
                Ok(())
            }
            Event::Copied { id, extended, data } => {
                self.unpacked += 1;
                if self.is_news(plan, extended, &data) {
                    return Ok(());
                }
                self.task(id).expect("data belongs to a task").data(extended, &data);
                Ok(())
            }
            Event::PeerClosed(id) => {
                self.task(id).expect("a task is closed").peer_closed();
                self.with(|conn, env| conn.close(id, env))
            }
            Event::Closed(id) | Event::OpenFailed { id, .. } => {
                let opened = matches!(event, Event::Closed(_));
                let session = self.task(id).expect("a task ends").is_session();
                self.host_lost |= plan.is_proxied() && session && !opened;
                // What a client that has fallen silent asked for has not all been heard.
                let excused = self.line.meddled_at.is_some() || self.host_lost;
                let now = self.line.now();
                self.task(id).expect("a task ends").closed(opened, now, excused, plan.is_proxied());
                self.by_channel.remove(&id);
                Ok(())
            }
            Event::Opened { id } => self.with_task(id, |task, conn, env| task.opened(conn, env)),
            Event::RequestDone { id, ok } => {
                self.with_task(id, |task, conn, env| task.request_done(ok, conn, env))
            }
            Event::Request { id, request, .. } => {
                self.task(id).expect("a request is about a task").told(&request);
                Ok(())
            }
            Event::Eof(id) => {
                self.task(id).expect("an end is a task's").ended();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A line on a session's standard error, perhaps in parts, that the host is lost.
    fn is_news(&mut self, plan: &ClientPlan, extended: Option<u32>, bytes: &[u8]) -> bool {
        if plan.is_proxied() && extended == Some(1) && bytes.starts_with(b"tidegate: ") {
            self.host_lost = true;
        }
        self.host_lost && extended == Some(1)
    }

    fn task(&mut self, id: ChannelId) -> Option<&mut Task> {
        let at = *self.by_channel.get(&id)?;
        self.tasks.get_mut(at)
    }

    fn with_task(
        &mut self,
        id: ChannelId,
        work: impl FnOnce(&mut Task, &mut Connection<ClientRole>, &mut Env<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Live { line, conn, tasks, by_channel, .. } = self;
        let at = by_channel.get(&id).expect("a channel has its task");
        let task = tasks.get_mut(*at).expect("and the task is there");
        line.call(|env| work(task, conn, env))
    }

    fn log_in(&mut self, plan: &ClientPlan) -> Result<(), Error> {
        let tries = self.tries;
        self.tries += 1;
        let wrong = tries.saturating_sub(u32::from(plan.asks_none_first)) < plan.wrong_keys;
        let method = match (tries, wrong) {
            (0, _) if plan.asks_none_first => LoginMethod::None,
            (_, true) => by_key(keys::stranger()),
            _ => by_key(keys::user()),
        };
        let user = plan.user.clone();
        self.with(|conn, env| conn.authenticate(&user, method, env)).map(|begun| {
            assert!(begun, "a login can begin");
        })
    }

    fn answer(&mut self, plan: &ClientPlan, query: &Query) -> Result<(), Error> {
        let answer = match query {
            Query::TrustHostKey { key, .. } => {
                let slow = || **key == *keys::slow_host().public();
                let known = **key == *keys::host().public();
                assert!(known || slow(), "the gateway proved to be itself");
                Answer::Trust(true)
            }
            Query::SignLogin { algorithm, message, .. } => {
                let signature = keys::user().sign(*algorithm, message).ok();
                Answer::Signature(signature.map(Into::into))
            }
            _ => panic!("{query:?} is no question for {}", plan.user),
        };
        self.with(|conn, env| conn.answer(answer, env))
    }

    /// Begins what can begin, and carries on with what has begun.
    fn work(
        &mut self,
        plan: &ClientPlan,
        office: &Rc<RefCell<Office>>,
        chance: &mut SeededEntropy,
    ) -> Result<(), Error> {
        let running = self.tasks.iter().filter(|task| !task.is_over()).count();
        if running < plan.tasks_at_once
            && let Some(next) = self.waiting.pop()
        {
            match self.with(|conn, env| conn.open(&next.channel(), env))? {
                Some(id) => {
                    self.by_channel.insert(id, self.tasks.len());
                    self.tasks.push(Task::new(next, id, Rc::clone(office)));
                }
                None => self.waiting.push(next),
            }
        }
        let Live { line, conn, tasks, .. } = self;
        for task in tasks.iter_mut().filter(|task| !task.is_over()) {
            for _ in 0..8 {
                if !line.has_room() || !line.call(|env| task.pump(conn, env, chance))? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn leave_when_done(&mut self, plan: &ClientPlan) {
        let done = self.logged_in && self.waiting.is_empty();
        if done && self.tasks.iter().all(Task::is_over) {
            if plan.lingers.is_some() {
                self.idle_since.get_or_insert(self.line.now());
                return;
            }
            self.leaving = true;
            if !plan.rude {
                let code = disconnect::BY_APPLICATION;
                let Live { line, conn, .. } = self;
                line.call(|env| conn.disconnect(code, "that is all", env));
            }
        }
    }

    /// Has its last words taken, and goes; or waits for the other end to, if it only half left.
    fn leave(&mut self) -> Result<(), Outcome> {
        self.line.inbox.clear();
        let gone = self.line.receive().and_then(|()| self.line.send()).is_err();
        if self.half_gone {
            return if gone { Err(Outcome::Vanished) } else { Ok(()) };
        }
        if gone || self.line.is_flushed() { Err(Outcome::Done) } else { Ok(()) }
    }
}

fn by_key(key: &PrivateKey) -> LoginMethod {
    let algorithm = SignatureAlgorithm::for_key(key.public().kind())[0];
    LoginMethod::PublicKey { key: Box::new(key.public().clone()), algorithm }
}
