use std::sync::Arc;
use std::time::Duration;

use super::channel::{Channel, Channels};
use super::side::Side;
use super::tuning::WindowBudget;
use super::{Answer, Event, Input, Query};
use crate::base::{Few, Instant, Span};
use crate::crypto::PublicKey;
use crate::limits::GLOBAL_PENDING_MAX;
use crate::transport::{
    self, Carved, Env, Error, Negotiated, PeerExtensions, Query as TransportQuery, Server, Stats,
    Transport,
};
use crate::wire::channel::{GlobalBody, GlobalRequest};
use crate::wire::{Malformed, number};

/// One end of an SSH connection above its sockets: transport, login and channels.
#[derive(Debug)]
pub struct Connection<R: Side> {
    pub(super) transport: Transport<R>,
    pub(super) login: R::Login,
    pub(super) channels: Channels,
    alive: Option<Alive>,
    /// Our global requests that the peer has not answered, oldest first.
    pub(super) globals: Few<Asker, GLOBAL_PENDING_MAX>,
    failed: Option<Error>,
}

/// Who wants to know the answer to a global request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    Owner,
    /// Whoever wants host keys proved.
    Proofs,
    /// Any answer will do, and any other message would have done.
    KeepAlive,
}

/// Watches for a peer that has gone without a word.
#[derive(Debug)]
struct Alive {
    interval: Duration,
    count_max: u32,
    /// Questions since the peer was last heard of.
    asked: u32,
    at: Instant,
}

// DESIGN §6: 1 KiB for link, transport and login; 0.8 KiB for a channel, its service and timers.
const _: () = assert!(size_of::<Connection<Server>>() <= 816);
const _: () = assert!(size_of::<Channel>() <= 96);
const _: () = assert!(size_of::<Event>() <= 64);

impl Alive {
    fn new(alive: Option<(Duration, u32)>, now: Instant) -> Option<Alive> {
        let (interval, count_max) = alive.filter(|(interval, _)| !interval.is_zero())?;
        Some(Alive { interval, count_max, asked: 0, at: now.after(interval) })
    }

    /// The peer has not answered any of our questions by then, and is given up.
    fn given_up_at(&self) -> Option<Instant> {
        (self.asked >= self.count_max).then_some(self.at)
    }
}

pub(super) const LOGIN_TOO_LONG: &str = "the login took too long";
const NO_ANSWER: &str = "the peer does not answer";

impl<R: Side> Connection<R> {
    /// The same as before changes nothing: a silence goes on.
    pub(super) fn set_alive(&mut self, alive: Option<(Duration, u32)>, now: Instant) {
        let same = |old: &Alive| alive == Some((old.interval, old.count_max));
        if !self.alive.as_ref().is_some_and(same) {
            self.alive = Alive::new(alive, now);
        }
    }

    /// How often the peer has been asked for a sign of life since it was last heard of, and when it
    /// is to be asked again or given up.
    pub(super) fn silence(&self) -> Option<(u32, Instant)> {
        self.alive.as_ref().map(|alive| (alive.asked, alive.at))
    }

    /// A silence that began elsewhere goes on.
    pub(super) fn resume_silence(&mut self, asked: u32, at: Instant) {
        if let Some(alive) = &mut self.alive {
            (alive.asked, alive.at) = (asked.min(alive.count_max), at.min(alive.at));
        }
    }

    pub(super) fn with(
        transport: Transport<R>,
        login: R::Login,
        alive: Option<(Duration, u32)>,
        budget: Arc<WindowBudget>,
        now: Instant,
    ) -> Connection<R> {
        let alive = Alive::new(alive, now);
        Connection {
            transport,
            login,
            channels: Channels::new(budget),
            alive,
            globals: Few::new(),
            failed: None,
        }
    }

    /// Takes one line or packet off the front of `buf`, opening it in place. Not to be called while
    /// [`blocked`](Connection::blocked), and only with
    /// [`OUTBOX_RESERVE`](crate::limits::OUTBOX_RESERVE) bytes free in the outbox. Errors are
    /// final; the peer has been told where that makes sense.
    pub fn handle_input(&mut self, env: &mut Env<'_>, buf: &mut [u8]) -> Result<Input, Error> {
        self.check()?;
        if let Some(event) = self.channels.events.pop_front() {
            return Ok(Input::Used { used: 0, event: Some(event) });
        }
        if self.blocked() {
            return Err(self.fail(Error::Invariant("input while a question is open"), env));
        }
        let exchanges = self.transport.exchanges();
        let carved = self.transport.carve(env, buf);
        let carved = carved.map_err(|error| self.fail(error, env))?;
        let (used, event) = match carved {
            Carved::Need { total } => return Ok(Input::Need { total }),
            Carved::Handled { used } => (used, self.handled(exchanges, env)),
            Carved::Payload { used, payload } => (used, self.receive(payload, buf, env)),
            Carved::Unpacked { used } => {
                let bytes = self.transport.take_unpacked();
                let all = Span::new(0, bytes.len() as u32);
                (
                    used,
                    self.receive(all, &bytes, env)
                        .map(|event| event.map(|event| event.copied(&bytes))),
                )
            }
        };
        if let Some(alive) = &mut self.alive {
            (alive.asked, alive.at) = (0, env.now.after(alive.interval));
        }
        let event = event.map_err(|error| self.fail(error, env))?;
        Ok(Input::Used { used, event })
    }

    /// Bytes that the packet handled last was compressed from; zero where the peer does not compress.
    pub fn unpacked_len(&self) -> u32 {
        self.transport.unpacked_len()
    }

    /// Events that did not come out of a packet's handling. Owners call this after every other call
    /// until it answers `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.channels.events.pop_front()
    }

    /// Nothing may be handed in: a question is open, or a refusal waits to become due.
    pub fn blocked(&self) -> bool {
        self.transport.query().is_some() || R::is_blocked(&self.login)
    }

    /// Answers the question that is open. An answer to none, or of another kind, changes nothing:
    /// it was late, or came twice.
    pub fn answer(&mut self, answer: Answer, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        let outcome = match (self.transport.query(), answer) {
            (Some(TransportQuery::Agree { .. }), Answer::Agreement(agreement)) => {
                let answered = self.transport.answer(transport::Answer::Agreement(agreement), env);
                // One question leads to the next: the exchange is to be signed.
                let next = question(&mut self.transport).map(Event::Query);
                self.channels.events.extend(next);
                answered
            }
            (Some(TransportQuery::Compute), Answer::Computed(piece)) => {
                let answered = self.transport.answer(transport::Answer::Computed(piece), env);
                let next = question(&mut self.transport).map(Event::Query);
                self.channels.events.extend(next);
                answered
            }
            (Some(TransportQuery::Sign { .. }), Answer::Signature(signature)) => {
                self.transport.answer(transport::Answer::Signature(signature), env)
            }
            (Some(TransportQuery::TrustHostKey { .. }), Answer::Trust(trust)) => {
                self.transport.answer(transport::Answer::Trust(trust), env)
            }
            (Some(_), _) => Ok(()),
            (None, answer) => R::login_answer(self, answer, env),
        };
        outcome.map_err(|error| self.fail(error, env))
    }

    /// When [`handle_timeout`](Connection::handle_timeout) wants to be called. A time that has
    /// passed already means at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.failed.is_some() {
            return None;
        }
        let alive = self.alive.as_ref().filter(|_| self.is_authenticated()).map(|alive| alive.at);
        let drained = (!self.channels.drained.is_empty()).then_some(Instant::ZERO);
        let login = R::login_deadline(&self.login);
        [self.transport.poll_timeout(), login, alive, drained].into_iter().flatten().min()
    }

    /// The first of the deadlines that end the connection whatever can be said about it, and the
    /// error that [`handle_timeout`](Connection::handle_timeout) has from then on: for an owner that
    /// has no outbox to call it with.
    pub fn deadline(&self) -> Option<(Instant, Error)> {
        let exchange = self.transport.deadline().map(|at| (at, transport::EXCHANGE_TOO_LONG));
        let login = R::login_grace(&self.login).map(|at| (at, LOGIN_TOO_LONG));
        let alive = self.alive.as_ref().filter(|_| self.is_authenticated());
        let alive = alive.and_then(Alive::given_up_at).map(|at| (at, NO_ANSWER));
        let first = [exchange, login, alive].into_iter().flatten().min_by_key(|(at, _)| *at);
        first.filter(|_| self.failed.is_none()).map(|(at, why)| (at, Error::Deadline(why)))
    }

    pub fn handle_timeout(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        self.try_timeout(env).map_err(|error| self.fail(error, env))
    }

    /// Moves what waits into the outbox as far as there is room: messages kept during a key
    /// exchange, and EOF or CLOSE behind the last plan of a channel.
    pub fn flush(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        let flushed = self.transport.flush(env).and_then(|()| self.say_farewells(env));
        flushed.map_err(|error| self.fail(error, env))
    }

    /// Data may be sealed: no key exchange of ours is running and nothing older waits.
    pub fn is_ready(&self) -> bool {
        self.transport.is_ready()
    }

    pub fn is_authenticated(&self) -> bool {
        R::is_logged_in(&self.login)
    }

    /// Starts a key exchange, unless one is running.
    pub fn rekey(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        self.transport.rekey(env).map_err(|error| self.fail(error, env))
    }

    /// Ends the connection: DISCONNECT is the last thing that leaves (RFC 4253 §11.1).
    pub fn disconnect(&mut self, code: u32, text: &str, env: &mut Env<'_>) {
        self.transport.disconnect(code, text, env);
        self.failed.get_or_insert(Error::Closed);
    }

    /// Asks something of the connection that has no fields of its own. False, and nothing sent,
    /// when too many are unanswered or the login is not over.
    pub fn send_global(
        &mut self,
        name: &str,
        want_reply: bool,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        self.check()?;
        self.ask(name, want_reply, Asker::Owner, env).map_err(|error| self.fail(error, env))
    }

    /// Why the connection has ended.
    pub const fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    pub fn session_id(&self) -> &[u8] {
        self.transport.session_id()
    }

    /// Our own identification, as the peer has it.
    pub fn own_ident(&self) -> &[u8] {
        self.transport.own_ident()
    }

    /// The peer's identification as sent: escape it before showing it.
    pub fn peer_ident(&self) -> &[u8] {
        self.transport.peer_ident()
    }

    /// The server's host key, on both sides.
    pub fn host_key(&self) -> Option<&PublicKey> {
        self.transport.host_key()
    }

    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.transport.negotiated()
    }

    pub fn peer_extensions(&self) -> Option<&PeerExtensions> {
        self.transport.peer_extensions()
    }

    pub const fn stats(&self) -> Stats {
        self.transport.stats()
    }

    /// The owner of a channel that is gone still holds so many bytes of it: as much less is granted to
    /// the next ones, until [`Connection::end_lingering`] has the same number.
    pub const fn begin_lingering(&mut self, bytes: u32) {
        self.channels.begin_lingering(bytes);
    }

    /// What a channel that is gone brought is written or given up.
    pub const fn end_lingering(&mut self, bytes: u32) {
        self.channels.end_lingering(bytes);
    }

    /// Channels there are, those being opened included.
    pub fn channel_count(&self) -> usize {
        self.channels.slots.len()
    }
}

// ---- Inside ------------------------------------------------------------------------------------

impl<R: Side> Connection<R> {
    pub(super) fn check(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Makes an error final and tells the peer, unless the transport has done so.
    pub(super) fn fail(&mut self, error: Error, env: &mut Env<'_>) -> Error {
        match error.disconnect_code() {
            Some(code) => self.fail_with(code, error, env),
            None => self.failed.get_or_insert(error).clone(),
        }
    }

    /// The same under a reason of its own.
    pub(super) fn fail_with(&mut self, code: u32, error: Error, env: &mut Env<'_>) -> Error {
        if self.failed.is_none() {
            self.transport.disconnect(code, &error.to_string(), env);
        }
        self.failed.get_or_insert(error).clone()
    }

    /// Our own mistake in a call that cannot answer with an error; the next call does.
    pub(super) fn fail_later(&mut self, why: &'static str) {
        self.failed.get_or_insert(Error::Invariant(why));
    }

    /// A packet that the transport took care of.
    fn handled(&mut self, exchanges: u32, env: &mut Env<'_>) -> Result<Option<Event>, Error> {
        if let Some(query) = question(&mut self.transport) {
            return Ok(Some(Event::Query(query)));
        }
        let finished = self.transport.exchanges();
        if finished == exchanges {
            return Ok(None);
        }
        let first = finished == 1;
        if first {
            R::keys_ready(self, env)?;
        }
        Ok(Some(Event::KeyExchanged { first }))
    }

    fn receive(
        &mut self,
        payload: Span,
        buf: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let bytes = payload.of(buf).unwrap_or(&[]);
        let number = bytes.first().copied().unwrap_or(0);
        if number >= number::GLOBAL_REQUEST && R::is_logged_in(&self.login) {
            self.connection_message(number, payload, bytes, env)
        } else {
            R::login_message(self, bytes, env)
        }
    }

    fn try_timeout(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        self.transport.handle_timeout(env)?;
        self.say_farewells(env)?;
        if R::login_deadline(&self.login).is_some_and(|at| at <= env.now) {
            R::login_timeout(self, env)?;
        }
        if !self.is_authenticated() {
            return Ok(());
        }
        let Some(alive) = self.alive.as_mut().filter(|alive| alive.at <= env.now) else {
            return Ok(());
        };
        if alive.given_up_at().is_some() {
            return Err(Error::Deadline(NO_ANSWER));
        }
        alive.asked += 1;
        alive.at = env.now.after(alive.interval);
        self.ask(GlobalBody::KeepAlive.name(), true, Asker::KeepAlive, env).map(|_| ())
    }

    fn ask(
        &mut self,
        name: &str,
        want_reply: bool,
        asker: Asker,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        if !self.is_authenticated() || (want_reply && self.globals.push(asker).is_err()) {
            return Ok(false);
        }
        let request = GlobalBody::Other { name, rest: &[] };
        self.transport.send(&GlobalRequest { want_reply, request }, env)?;
        Ok(true)
    }
}

/// Makes a decoder's complaint about message `message` final.
pub(super) const fn malformed(message: u8) -> impl Fn(Malformed) -> Error {
    move |why| Error::Malformed { message, why }
}

/// The open question, to be taken away.
fn question<R: Side>(transport: &mut Transport<R>) -> Option<Query> {
    Some(match transport.query()? {
        TransportQuery::Compute => Query::Compute(Box::new(transport.take_task()?)),
        TransportQuery::Agree { group, client_public } => {
            Query::Agree { group: Box::new(group.clone()), client_public: client_public.clone() }
        }
        TransportQuery::Sign { host_key, algorithm, message, exchange } => Query::Sign {
            host_key: *host_key,
            algorithm: *algorithm,
            message: message.as_ref().into(),
            exchange: exchange.clone(),
        },
        TransportQuery::TrustHostKey { key, algorithm, certificate, session, signature } => {
            Query::TrustHostKey {
                key: Box::new(key.clone()),
                algorithm: *algorithm,
                certificate: certificate.clone(),
                session: session.clone(),
                signature: signature.clone(),
            }
        }
    })
}
