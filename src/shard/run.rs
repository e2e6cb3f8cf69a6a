//! The life of a link: begin, receive, run, send, end.

use super::agent::Agent;
use super::contain::meet_ordered_defect;
use super::linger::Flow;
use super::link::{Asked, Owed};
use super::login::proof_of;
use super::report::{Ending, TOO_LONG};
use super::*;
use crate::base::Span;
use crate::base::tally::{self, Cost};
use crate::connection::{Answer, Conn, Connection, ConnectionRecord, Event, Input, Proven, Query};
use crate::limits::{
    BULK_SLOT, HAND_OVER_UNSENT_BYTES_MAX, HEADROOM, LINK_TURN_BYTES_MAX, LINK_TURN_PACKET_BYTES,
    LINK_UNSENT_BYTES_MAX, MOVING_RETRY_MIN, PACKET_SLOT, RECEIVE_LEASE_TIME,
};
use crate::reactor::{Chunk, Class, Target};
use crate::services::{
    About, AccountAnswer, Command, Grant, Greeted, Origin, Outgoing, Surroundings,
};
use crate::transport::{Blame, Error, Server};
use crate::wire::number::disconnect;

/// Unsent bytes past which a link's input rests. Above what data may reach, so that a download
/// never holds back the window adjustments and requests behind it.
const UNSENT_BYTES_MAX: u32 = LINK_UNSENT_BYTES_MAX + 2 * BULK_SLOT;

/// What a link does after one packet.
enum Step {
    Again {
        used: u32,
    },
    /// Nothing more to do until more bytes, an answer, room or a lease come.
    Wait,
    /// One of these leases is needed and none could be had.
    Starved(Classes),
}

impl<D: Driver, O: Outside> Shard<D, O> {
    /// A freshly accepted connection.
    pub(super) fn begin(&mut self, socket: Fd, ends: Ends, inbound: Vec<u8>) {
        if self.stopping {
            self.turn_away(socket, ends);
            return;
        }
        let mut outgoing = Outgoing::default();
        let own = self.outside.greeting(ends);
        let config = own.unwrap_or_else(|| Arc::clone(&self.config.connection));
        let mut around = Surroundings {
            now: self.driver.now(),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        let begun = outgoing.with_env(&mut around, |env, _| Connection::server(config, env));
        let Some(Ok(connection)) = begun else {
            outgoing.abandon(self.driver.pool());
            self.turn_away(socket, ends);
            return;
        };
        let serial = self.serial;
        self.serial += self.config.serial_step;
        let key = self.insert(Conn::Server(connection), outgoing, socket, ends, serial);
        if let Some(link) = self.links.get_mut(key as usize) {
            link.inbound = Inbound::with(inbound);
        }
        self.report(key, What::Connected { local: ends.local });
        self.mark_dirty(key);
        self.mark_ready(key);
    }

    /// An admitted connection that cannot begin.
    pub(super) fn turn_away(&mut self, socket: Fd, ends: Ends) {
        self.outside.startup_over(ends, StartupEnd::Ours);
        self.outside.ended(None);
        self.driver.close(socket);
    }

    /// An authenticated connection from the process that accepted it.
    pub(super) fn take_over(&mut self, from: HandOver) {
        let config = Arc::clone(&self.config.connection);
        let now = self.now();
        let (limits, moves) = (from.grant.limits, from.luggage.is_some());
        let upstream = from.grant.upstream.clone().filter(|_| !moves);
        // Whatever its sender believed, rights are those of this process.
        let ours = self.outside.serves(&from.grant) && !self.stopping;
        let conn = if ours { import(config, &from.record, now) } else { None };
        let mut outgoing = Outgoing::default();
        let told = outgoing.begin_with(&from.outbound, self.driver.pool());
        let Some(conn) = conn.filter(|_| told) else {
            outgoing.abandon(self.driver.pool());
            self.cannot_take_over(&from);
            return;
        };
        let key = self.insert(conn, outgoing, from.socket, from.ends, from.serial);
        if let Some(link) = self.links.get_mut(key as usize) {
            link.authenticated = true;
            link.follow(limits, &self.config.connection, now);
            link.about.verbosity = from.grant.verbosity;
            link.grant = Some(Arc::new(*from.grant));
            link.inbound = Inbound::with(from.inbound);
            link.token = from.token;
        }
        self.begin_idle(key);
        match from.luggage {
            Some(luggage) => self.settle_down(key, &luggage),
            None => self.command(key, Command::TellHostKeys),
        }
        if let Some(upstream) = upstream {
            self.begin_relay(key, upstream);
        }
        self.mark_ready(key);
        self.may_move(key);
    }

    pub(super) fn cannot_take_over(&mut self, from: &HandOver) {
        self.driver.close(from.socket);
        for fd in from.luggage.iter().flat_map(|luggage| &luggage.descriptors) {
            self.driver.close(*fd);
        }
        let what = What::Disconnected {
            user: Some(from.grant.account.name.clone()),
            asked: None,
            ending: Ending::Other,
            reason: "the connection could not be taken over".to_owned(),
            ours: true,
            bytes_in: 0,
            bytes_out: 0,
            after: Duration::ZERO,
        };
        let (serial, peer, verbosity) = (from.serial, from.ends.peer, from.grant.verbosity);
        let (grant, channel) = (None, None);
        self.outside.report(Report { serial, peer, verbosity, what, grant, channel });
        self.outside.ended(Some(serial));
    }

    pub(super) fn insert(
        &mut self,
        conn: Conn,
        outgoing: Outgoing,
        socket: Fd,
        ends: Ends,
        serial: u64,
    ) -> u32 {
        let generation = self.next_generation();
        let link = Link {
            conn,
            state: LinkState::Open,
            socket: Some(socket),
            ends,
            serial,
            generation,
            since: self.now(),
            inbound: Inbound::default(),
            outgoing,
            in_flight: 0,
            queued: false,
            dirty: false,
            authenticated: false,
            attempted: false,
            defects: 0,
            ended: false,
            reason: None,
            client: false,
            identified: false,
            relay: None,
            recording: None,
            deadline: None,
            lacks: Classes::NONE,
            starved_since: self.now(),
            moved: self.now(),
            owed: None,
            answer: None,
            grant: None,
            earned: None,
            asked: None,
            about: About::default(),
            proofs: Vec::new(),
            channels: Vec::new(),
            asked_to_listen: None,
            agent: Agent::None,
            attachments: 0,
            used: self.now(),
            idle_check: None,
            class: None,
            mark: 1,
            mark_until: None,
            flow: Flow::default(),
            lease_until: None,
            token: Box::default(),
            move_at: None,
            move_pause: MOVING_RETRY_MIN,
        };
        self.links.insert(link) as u32
    }

    /// Calls into the protocol with room for its replies. An error ends the link; without memory
    /// nothing is called.
    pub(super) fn with_env<T>(
        &mut self,
        key: u32,
        call: impl FnOnce(&mut Conn, &mut crate::transport::Env<'_>) -> Result<T, Error>,
    ) -> Option<T> {
        let link = self.links.get_mut(key as usize)?;
        let mut around = Surroundings {
            now: self.moment.unwrap_or_else(|| self.driver.now()),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        let conn = &mut link.conn;
        let outcome = link.outgoing.with_env(&mut around, |env, _| call(conn, env));
        self.mark_dirty(key);
        match outcome {
            Some(Ok(value)) => Some(value),
            Some(Err(error)) => {
                self.fail(key, error);
                None
            }
            None => {
                self.starve_link(key, Classes::OUTBOX);
                None
            }
        }
    }

    /// Answers the protocol's open question, as soon as there is memory for what it then says.
    pub(super) fn answer(&mut self, key: u32, answer: Answer) {
        if let Some(link) = self.links.get_mut(key as usize) {
            link.answer = Some(answer);
            self.give_answer(key);
        }
    }

    pub(super) fn give_answer(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.answer.is_none() {
            return;
        }
        if !link.outgoing.has_room(self.driver.pool()) {
            self.starve_link(key, Classes::OUTBOX);
        } else if let Some(answer) = link.answer.take() {
            self.with_env(key, |conn, env| conn.answer(answer, env));
        }
    }

    // ---- Completions -------------------------------------------------------------------------

    pub(super) fn link_completed(&mut self, key: u32, completion: Completion) {
        let now = self.now();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.in_flight = link.in_flight.saturating_sub(1);
        if completion.result.is_ok_and(|bytes| bytes > 0) {
            link.moved = now;
        }
        let room = completion.op.total();
        match completion.op {
            Op::Recv { into, .. } => {
                link.inbound.armed = false;
                let bytes = completion.result.unwrap_or(0);
                self.traffic.0 += u64::from(bytes);
                let since =
                    link.lease_until.map(|at| RECEIVE_LEASE_TIME.saturating_sub(at.since(now)));
                link.flow.received(bytes, room, since);
                (link.mark_until, link.lease_until) = (None, None);
                link.inbound.received(into, bytes, self.driver.pool());
                match completion.result {
                    Ok(0) => self.peer_left(key, CLOSED_BY_PEER, false),
                    Ok(_) => self.mark_ready(key),
                    Err(errno) if errno.0 == libc::ECANCELED => self.mark_ready(key),
                    Err(errno) => self.peer_left(key, &errno.to_string(), true),
                }
            }
            Op::Connect { fd, to } => self.upstream_attempted(key, fd, to, completion.result),
            Op::Send { from, .. } => {
                link.outgoing.sent(from, self.driver.pool());
                match completion.result {
                    Ok(bytes) => {
                        self.traffic.1 += u64::from(bytes);
                        self.send_completed(key);
                    }
                    Err(errno) => self.peer_left(key, &errno.to_string(), true),
                }
            }
            Op::Readable { .. } => self.tape_readable(key),
            _ => {}
        }
        self.mark_dirty(key);
    }

    fn send_completed(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.state == LinkState::Open {
            self.resume(key);
            self.wake_services(key);
            self.wake_others(key);
            self.mark_ready(key);
        }
    }

    pub(super) fn link_job_done(&mut self, token: Token, done: Done) {
        let key = token.key;
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.generation != token.generation {
            return;
        }
        link.in_flight = link.in_flight.saturating_sub(1);
        self.mark_dirty(key);
        match token.tag {
            TAG_LISTEN => return self.listening(key, done),
            TAG_AGENT => return self.agent_made(key, done),
            TAG_AGENT_GONE => return,
            TAG_WAY => return self.way_found(key, done),
            TAG_DISPLAY => return self.display_made(key, done),
            TAG_PROOFS => return self.host_keys_proved(key, done),
            _ => {}
        }
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.state != LinkState::Open {
            return;
        }
        let answer = match done {
            Done::Signature(signature) => Answer::Signature(signature),
            Done::Judged(verdict) => match self.host_judged(key, verdict) {
                Some(answer) => answer,
                None => return,
            },
            Done::Agreement(agreement) => Answer::Agreement(agreement),
            Done::Asks(asks) => Answer::Asks(asks),
            Done::Admitted(AccountAnswer { allowed, text }) => Answer::Admitted { allowed, text },
            Done::Computed(piece) => Answer::Computed(piece),
            Done::Greeted(Greeted { config: Some(config), about }) => {
                link.about = about;
                Answer::Greeted(config)
            }
            Done::Greeted(Greeted { config: None, about }) => {
                link.about = about;
                let why = "RefuseConnection is yes";
                self.report_end(key, why, false, (Some(StartupEnd::Refused), Ending::Dismissed));
                self.say_goodbye(key, disconnect::BY_APPLICATION, "connection refused");
                return;
            }
            Done::Key(grant) => {
                let joined = grant.and_then(|grant| match &link.earned {
                    Some(earned) => grant.after(earned),
                    None => Some(*grant),
                });
                link.grant = joined.map(Arc::new);
                key_answer(link.grant.as_deref())
            }
            _ => {
                self.close_link(key, disconnect::BY_APPLICATION, "a worker failed");
                return;
            }
        };
        self.answer(key, answer);
        // The end of a login is heard before more is received for it: it leaves with nothing in flight.
        self.drain_events(key);
        self.mark_ready(key);
    }

    pub(super) fn link_timer(&mut self, key: u32, now: Instant) {
        self.mark_dirty(key);
        let is_open = |link: &Link| link.state == LinkState::Open;
        if self.links.get(key as usize).is_some_and(is_open) {
            self.expire_idle(key, now);
            self.expire_deadline(key);
            self.expire_tape(key, now);
            self.expire_move(key, now);
            // The time that has come is not that of its last words.
            if !self.links.get(key as usize).is_some_and(is_open) {
                return;
            }
        }
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.mark_until.is_some_and(|at| at <= now) {
            self.set_receive_mark(key, 1);
        }
        self.take_lease_back(key, now);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        match link.state {
            LinkState::Open if !link.lacks.is_empty() => self.expire_starving(key, now),
            LinkState::Open if link.conn.poll_timeout().is_some_and(|at| at <= now) => {
                self.with_env(key, |conn, env| conn.handle_timeout(env));
                self.mark_ready(key);
            }
            LinkState::Open => self.arm_timer(key),
            LinkState::Packing => self.give_up_leaving(key),
            LinkState::Closing | LinkState::Leaving => {
                self.peer_left(key, "the peer did not take what was sent to it", true);
            }
            LinkState::Terminating => {}
        }
    }

    // ---- Running -----------------------------------------------------------------------------

    pub(super) fn run_link(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.queued = false;
        self.mark_dirty(key);
        self.moment = Some(self.driver.now());
        match self.run_packets(key) {
            Step::Again { .. } => self.mark_ready(key),
            Step::Wait => {
                self.tell_ident(key);
                self.rest(key);
            }
            Step::Starved(lacks) => {
                if let Some(link) = self.links.get_mut(key as usize) {
                    link.inbound.step_back(self.driver.pool());
                }
                self.starve_link(key, lacks);
            }
        }
    }

    /// As many packets as a turn has for one link, or as there are.
    fn run_packets(&mut self, key: u32) -> Step {
        let mut spent = 0;
        while spent < LINK_TURN_BYTES_MAX {
            match self.step(key) {
                Step::Again { used } => spent += used.max(LINK_TURN_PACKET_BYTES),
                last => return last,
            }
        }
        Step::Again { used: spent }
    }

    /// Opens and handles one packet.
    fn step(&mut self, key: u32) -> Step {
        let Some(link) = self.links.get_mut(key as usize) else { return Step::Wait };
        if let Some(owed) = link.owed.take_if(|_| link.state == LinkState::Open) {
            return self.deliver(key, owed);
        }
        if link.state != LinkState::Open
            || link.conn.blocked()
            || is_behind(link)
            || !link.inbound.is_workable()
        {
            return Step::Wait;
        }
        if (link.relay.is_some() || link.recording.is_some())
            && self.links.get(key as usize).is_some_and(|link| self.is_held_back(link))
        {
            return Step::Wait;
        }
        let Some(link) = self.links.get_mut(key as usize) else { return Step::Wait };
        if !link.inbound.settle_in(self.driver.pool()) {
            return Step::Starved(link.inbound.lacks());
        }
        let mut around = Surroundings {
            now: self.moment.unwrap_or_else(|| self.driver.now()),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        let (conn, inbound) = (&mut link.conn, &mut link.inbound);
        let outcome = link
            .outgoing
            .with_env(&mut around, |env, pool| conn.handle_input(env, inbound.bytes(pool)));
        meet_ordered_defect(link, "packet");
        match outcome {
            None => Step::Starved(Classes::OUTBOX),
            Some(Err(error)) => {
                self.fail(key, error);
                Step::Wait
            }
            Some(Ok(Input::Need { total })) => {
                link.inbound.need = total;
                Step::Wait
            }
            Some(Ok(Input::Used { used, event })) => {
                let work = used.max(link.conn.unpacked_len());
                self.used(key, used, event);
                Step::Again { used: work }
            }
        }
    }

    /// Data that came compressed goes into a lease, which services expect it in.
    fn deliver(&mut self, key: u32, owed: Box<Owed>) -> Step {
        let Some(link) = self.links.get_mut(key as usize) else { return Step::Wait };
        let span = Span::new(HEADROOM, owed.data.len() as u32);
        let class = if span.end() <= PACKET_SLOT { Class::Packet } else { Class::Bulk };
        let pool = self.driver.pool();
        let Some(mut lease) = pool.take_spare(class) else {
            link.owed = Some(owed);
            return Step::Starved(Classes::NONE.with(class));
        };
        if let Some(room) = span.of_mut(pool.bytes(&mut lease)) {
            tally::copy(room, &owed.data);
        }
        self.channel_data(key, owed.id, owed.extended, Chunk { lease, span });
        Step::Again { used: 0 }
    }

    fn used(&mut self, key: u32, used: u32, event: Option<Event>) {
        self.note_flow(key, event.as_ref());
        let Some(link) = self.links.get_mut(key as usize) else { return };
        match event {
            None => link.inbound.consume(used),
            Some(Event::Data { id, extended, data }) => {
                let chunk = link.inbound.take_chunk(used, data, self.driver.pool());
                if let Some(chunk) = chunk {
                    self.channel_data(key, id, extended, chunk);
                }
            }
            Some(Event::Copied { id, extended, data }) => {
                link.inbound.consume(used);
                link.owed = Some(Box::new(Owed { id, extended, data }));
            }
            Some(event) => {
                link.inbound.consume(used);
                self.event(key, event);
            }
        }
    }

    /// Nothing to do for now: receive more, unless something else has to come first.
    fn rest(&mut self, key: u32) {
        let held_back = self.links.get(key as usize).is_some_and(|link| self.is_held_back(link));
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if let Some(relay) = &mut link.relay {
            relay.held = held_back;
        }
        let closing = link.state == LinkState::Closing;
        if closing {
            // What still comes is not read as SSH; taking it keeps the kernel from answering
            // with a reset that would overtake our last words.
            let len = link.inbound.len();
            link.inbound.consume(len);
        }
        let wanted =
            link.state == LinkState::Open && !link.conn.blocked() && !is_behind(link) && !held_back;
        if !wanted && !closing {
            // Until something else has happened, which others may have to receive first.
            link.inbound.step_back(self.driver.pool());
        } else if !link.inbound.armed {
            match link.inbound.next_target(self.driver.pool()) {
                Some(into) => {
                    let Some(fd) = link.socket else { return };
                    link.inbound.armed = true;
                    link.in_flight += 1;
                    let token = Token { key, generation: link.generation, tag: TAG_RECV };
                    let owned = matches!(into, Target::Owned { .. });
                    link.lease_until = owned.then(|| self.driver.now().after(RECEIVE_LEASE_TIME));
                    let op = Op::Recv { fd, into };
                    self.choose_receive_mark(key, op.total());
                    self.lingers |= self.flows(key);
                    self.submit(token, op);
                }
                None => {
                    let lacks = link.inbound.lacks();
                    self.starve_link(key, lacks);
                }
            }
        }
    }

    /// A link that has nothing to receive any more waits on the shared buffers again.
    fn take_lease_back(&mut self, key: u32, now: Instant) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.lease_until.is_none_or(|at| at > now) {
            return;
        }
        link.lease_until = None;
        link.inbound.calm_down();
        let token = Token { key, generation: link.generation, tag: TAG_RECV };
        self.cancel(token);
    }

    /// Commands that wait while no key exchange runs wait for memory.
    pub(super) fn note_waiting(&mut self, key: u32) {
        let waits = |link: &&mut Link| link.outgoing.has_waiting() && link.conn.is_ready();
        if let Some(lacks) =
            self.links.get_mut(key as usize).filter(waits).map(|l| l.outgoing.lacks())
        {
            self.starve_link(key, lacks);
        }
    }

    /// While memory is lacking, what has to say something is done as soon as there is some.
    pub(super) fn arm_timer(&mut self, key: u32) {
        let Some(link) = self.links.get(key as usize) else { return };
        let at = match link.lacks.is_empty() {
            true => link.poll_timeout(),
            false => link.poll_deadline(),
        };
        match at {
            _ if link.state != LinkState::Open => {}
            Some(at) => self.timers.set(key, at),
            // What was waited for has come: nobody wakes for the time it would have taken at most.
            None => self.timers.clear(key),
        }
    }

    /// Sends what has been sealed, all of one turn together.
    pub(super) fn flush(&mut self, key: u32) {
        self.arm_timer(key);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.state == LinkState::Terminating {
            return;
        }
        let Some(fd) = link.socket else { return };
        let leaves = match link.state {
            LinkState::Leaving => self.leave(key),
            LinkState::Packing => self.move_on(key),
            _ => false,
        };
        if leaves || self.holds_answers(key) {
            return;
        }
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if let Some(from) = link.outgoing.next_send() {
            link.in_flight += 1;
            let token = Token { key, generation: link.generation, tag: TAG_SEND };
            tally::add(Cost::Sends, 1);
            self.submit(token, Op::Send { fd, from });
        } else if link.state == LinkState::Closing && !link.outgoing.is_sending() {
            // The last words are out. A peer that sees the end behind them leaves, and need not
            // wait until our patience is over.
            self.driver.shutdown_send(fd);
        }
    }

    /// Commands can lead to events too: those are heard at the end of the turn.
    pub(super) fn drain_events(&mut self, key: u32) {
        while let Some(link) = self.links.get_mut(key as usize) {
            if !link.state.goes_on() {
                break;
            }
            let Some(event) = link.conn.poll_event() else { break };
            self.event(key, event);
        }
    }

    /// What the protocol wants done at once: an EOF or CLOSE that waited for data to be sealed, a
    /// rekey that is due.
    pub(super) fn keep_appointments(&mut self, key: u32) {
        let now = self.now();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let due = link.conn.poll_timeout().is_some_and(|at| at <= now);
        if due && link.state.goes_on() && link.lacks.is_empty() {
            self.with_env(key, |conn, env| conn.handle_timeout(env));
        }
    }

    // ---- Events ------------------------------------------------------------------------------

    fn event(&mut self, key: u32, event: Event) {
        if self.is_client(key) {
            self.client_event(key, event);
            return;
        }
        match event {
            Event::KeyExchanged { first } => self.key_exchanged(key, first),
            Event::Query(query) if self.is_upstream(key) => self.ask_upstream(key, query),
            Event::Query(query) => self.ask(key, query),
            Event::Authenticated { .. } if self.is_upstream(key) => self.upstream_ready(key),
            Event::AuthFailed(failed) if self.is_upstream(key) => {
                self.upstream_refused_us(key, &failed);
            }
            Event::Authenticated { user, method, key: public, verified } => {
                self.authenticated(key, user, Proven { method, key: public, verified });
            }
            Event::Partial { user, method, key: public, verified } => {
                self.partly_authenticated(key, user, Proven { method, key: public, verified });
            }
            Event::AuthFailed(failed) => self.login_refused(key, *failed),
            Event::Global { want_reply, request } if self.is_relayed(key) => {
                self.relay_global(key, want_reply, request);
            }
            Event::Global { want_reply, request } => self.global(key, want_reply, request),
            Event::ProveHostKeys { keys } => self.prove_host_keys(key, keys),
            Event::GlobalDone { ok, port } => self.relay_global_done(key, ok, port),
            Event::TooLong { what } => self.report_refused(key, &what, TOO_LONG),
            Event::TooMany { session: true } => {
                self.report_refused(key, "channel Session", "MaxSessions permits no more");
            }
            Event::TooMany { .. } => self.report_refused(key, "a channel", "it has too many"),
            event if self.is_relayed(key) => self.relay_event(key, event),
            channel => self.channel_event(key, channel),
        }
    }

    pub(super) fn is_upstream(&self, key: u32) -> bool {
        self.links.get(key as usize).is_some_and(|link| matches!(link.conn, Conn::Client(_)))
    }

    pub(super) fn is_relayed(&self, key: u32) -> bool {
        self.links.get(key as usize).is_some_and(|link| link.relay.is_some())
    }

    fn key_exchanged(&mut self, key: u32, first: bool) {
        if self.is_upstream(key) {
            if first {
                self.log_in_upstream(key);
            }
            self.resume(key);
            self.resume_relay(key);
            return;
        }
        let now = self.now();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let peer_ident = String::from_utf8_lossy(link.conn.peer_ident()).into_owned();
        let algorithms = link.conn.negotiated().map(ToString::to_string).unwrap_or_default();
        let after = now.since(link.since);
        self.report(key, What::KeyExchanged { first, peer_ident, algorithms, after });
        self.resume(key);
        self.wake_services(key);
        self.resume_relay(key);
    }

    /// Carries out what waited for the end of a key exchange or for an outbox.
    pub(super) fn resume(&mut self, key: u32) {
        self.flush_protocol(key);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if !link.outgoing.has_waiting() {
            return;
        }
        let mut around = Surroundings {
            now: self.driver.now(),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        if let Err(error) = link.outgoing.resume(&mut link.conn, &mut around) {
            self.fail(key, error);
        }
        self.note_waiting(key);
        self.mark_dirty(key);
    }

    /// What the protocol kept back may take more than one outbox.
    fn flush_protocol(&mut self, key: u32) {
        while let Some(link) = self.links.get_mut(key as usize) {
            let before = link.outgoing.backlog();
            if link.state != LinkState::Open || link.conn.is_ready() {
                return;
            }
            self.with_env(key, |conn, env| conn.flush(env));
            let moved = |link: &Link| link.outgoing.backlog() > before;
            if !self.links.get(key as usize).is_some_and(moved) {
                return;
            }
        }
    }

    /// Work that is slow or needs rights leaves as a job; quick signatures are made here.
    fn ask(&mut self, key: u32, query: Query) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let token = Token { key, generation: link.generation, tag: TAG_JOB };
        let Ends { peer, local, routing } = link.ends;
        let from = Origin { link: link.serial, peer, local, routing };
        match query {
            Query::Sign { host_key, algorithm, message, exchange } => {
                let held = self.config.host_keys.get(host_key).and_then(Option::as_ref);
                if let Some(private) = held.filter(|key| !key.is_slow()) {
                    let signature = private.sign(algorithm, &message).ok();
                    self.answer(key, Answer::Signature(signature.map(Vec::into_boxed_slice)));
                    return;
                }
                link.in_flight += 1;
                self.submit_job(token, Job::Sign { from, host_key, algorithm, message, exchange });
            }
            Query::Greet { user } => {
                link.in_flight += 1;
                self.submit_job(token, Job::Greet { user, from });
            }
            Query::Agree { group, client_public } => {
                link.in_flight += 1;
                self.submit_job(token, Job::Agree { group, client_public });
            }
            Query::FindKey { user, key: public, algorithm, certificate, signed } => {
                let asked =
                    Asked { user: user.clone(), algorithm, certificate: certificate.clone() };
                if signed.is_none() && link.knows(&asked, &public) {
                    let answer = key_answer(link.grant.as_deref());
                    self.answer(key, answer);
                    return;
                }
                link.in_flight += 1;
                link.grant = None;
                link.asked = Some(asked);
                let (about, key) = (link.about.clone(), public);
                let style = link.conn.style_asked().into();
                let job =
                    Job::FindKey { user, style, key, algorithm, certificate, signed, from, about };
                self.submit_job(token, job);
            }
            Query::Converse { user, answers } => {
                link.in_flight += 1;
                (link.grant, link.asked) = (None, None);
                let about = link.about.clone();
                self.submit_job(token, Job::Converse { user, answers, from, about });
            }
            Query::Admit { user, proven } => {
                let mut proofs = link.proofs.clone();
                proofs.push(proof_of(&proven, link.asked.clone()));
                link.in_flight += 1;
                if !self.outside.ask_account(token, &user, from, &proofs) {
                    self.close_link(key, disconnect::BY_APPLICATION, "nobody can be asked");
                }
            }
            Query::CheckSecrets { user, secrets } => {
                link.in_flight += 1;
                (link.grant, link.asked) = (None, None);
                let about = link.about.clone();
                let job = Job::CheckSecrets { user, secrets, from, about };
                self.submit_job(token, job);
            }
            _ => self.close_link(key, disconnect::BY_APPLICATION, "no such question in a server"),
        }
    }

    /// Hands a connection at rest to the process that acts for its account, and with it the last words of
    /// its login, which leave in one send with that one's first. `false`: it is still here.
    fn leave(&mut self, key: u32) -> bool {
        let Some(link) = self.links.get_mut(key as usize) else { return false };
        if link.in_flight > 0 {
            return false;
        }
        let outbound = link.outgoing.unsent(self.driver.pool(), HAND_OVER_UNSENT_BYTES_MAX);
        let Some(outbound) = outbound else { return false };
        let record = link.conn.export().and_then(|record| record.to_bytes().ok());
        let (Some(record), Some(grant), Some(socket)) = (record, link.grant.clone(), link.socket)
        else {
            self.close_link(key, disconnect::BY_APPLICATION, "connection could not be handed over");
            return false;
        };
        let inbound = link.inbound.bytes(self.driver.pool()).to_vec();
        let user = grant.account.name.clone();
        let parcel = HandOver {
            socket,
            ends: link.ends,
            serial: link.serial,
            session: link.conn.session_id().into(),
            record: record.to_vec(),
            inbound,
            outbound,
            grant: Box::new((*grant).clone()),
            proofs: std::mem::take(&mut link.proofs),
            token: Box::default(),
            luggage: None,
        };
        // The process that takes it closes it.
        self.driver.release(socket);
        match self.outside.hand_over(Box::new(parcel)) {
            Ok(()) => {
                // The socket is no longer ours to close.
                link.socket = None;
                self.report(key, What::HandedOver { user });
                self.terminate(key);
                true
            }
            Err(_) => {
                let why = "the process of this account could not be started";
                self.close_link(key, disconnect::BY_APPLICATION, why);
                false
            }
        }
    }

    // ---- Ending ------------------------------------------------------------------------------

    /// The protocol gave up, and has told the peer why if there is a code for it.
    pub(super) fn fail(&mut self, key: u32, error: Error) {
        let reason = error.to_string();
        let ours = error.blame() == Blame::Us;
        let how = match (&error, ours) {
            (Error::Deadline(_), _) => Some(StartupEnd::Late),
            (_, true) => Some(StartupEnd::Ours),
            _ => None,
        };
        let Some(local) = self.links.get(key as usize).map(|link| link.ends.local) else { return };
        if how == Some(StartupEnd::Late) {
            self.tell_unheard(key);
        }
        self.report_end(key, &reason, ours, (how, Ending::of(&error, local)));
        self.set_closing(key);
    }

    /// We end a healthy connection.
    pub(super) fn close_link(&mut self, key: u32, code: u32, text: &str) {
        self.report_end(key, text, true, (Some(StartupEnd::Ours), Ending::Dismissed));
        self.say_goodbye(key, code, text);
    }

    fn say_goodbye(&mut self, key: u32, code: u32, text: &str) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if !matches!(link.state, LinkState::Open | LinkState::Leaving | LinkState::Packing) {
            return;
        }
        let mut around = Surroundings {
            now: self.driver.now(),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        let conn = &mut link.conn;
        link.outgoing.with_env(&mut around, |env, _| conn.disconnect(code, text, env));
        self.set_closing(key);
    }

    fn set_closing(&mut self, key: u32) {
        self.stay_to_end(key);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if !matches!(link.state, LinkState::Open | LinkState::Leaving | LinkState::Packing) {
            return;
        }
        link.state = LinkState::Closing;
        self.end_services(key);
        self.end_relay(key);
        self.timers.set(key, self.driver.now().after(CLOSING_TIME));
        self.mark_dirty(key);
        self.mark_ready(key);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.outgoing.is_idle() {
            self.terminate(key);
        }
    }

    /// We cannot go on with it, and have nothing to say.
    pub(super) fn end_for(&mut self, key: u32, reason: &str) {
        self.report_end(key, reason, true, (Some(StartupEnd::Ours), Ending::Other));
        self.terminate(key);
    }

    /// `reset`: in whatever way but by closing it.
    pub(super) fn peer_left(&mut self, key: u32, reason: &str, reset: bool) {
        let link = self.links.get(key as usize);
        let greeted = link.is_some_and(|link| !link.conn.peer_ident().is_empty());
        self.report_end(key, reason, false, (None, Ending::Left { reset, greeted }));
        self.terminate(key);
    }

    pub(super) fn terminate(&mut self, key: u32) {
        self.stay_to_end(key);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.state == LinkState::Terminating {
            return;
        }
        let services_live = !matches!(link.state, LinkState::Closing);
        link.state = LinkState::Terminating;
        let generation = link.generation;
        let (armed, sending) = (link.inbound.armed, link.outgoing.is_sending());
        let taping = link.recording.as_ref().is_some_and(|recording| recording.is_armed());
        for (tag, live) in [(TAG_RECV, armed), (TAG_SEND, sending), (TAG_TAPE, taping)] {
            if live {
                self.cancel(Token { key, generation, tag });
            }
        }
        if services_live {
            self.end_services(key);
            self.end_relay(key);
        }
    }

    /// Frees a terminated link once nothing of it is in flight.
    pub(super) fn settle(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.state != LinkState::Terminating || link.in_flight > 0 {
            return;
        }
        link.inbound.release(self.driver.pool());
        link.outgoing.abandon(self.driver.pool());
        if let Some(socket) = link.socket.take() {
            self.driver.close(socket);
        }
        self.close_tape(key);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.is_spent() {
            let (ours, serial) = (matches!(link.conn, Conn::Client(_)), link.serial);
            self.links.remove(key as usize);
            self.timers.clear(key);
            if !ours {
                self.outside.ended(Some(serial));
            }
        }
    }
}

/// What the protocol hears of a key: a grant says what a security key has to attest.
fn key_answer(grant: Option<&Grant>) -> Answer {
    grant.map_or(Answer::Key(false), |grant| Answer::KeyIf(grant.presence))
}

/// So much is unsent, or a place is being made ready, that nothing more is to be provoked.
pub(super) const fn is_behind(link: &Link) -> bool {
    let crowded = link.outgoing.backlog() > UNSENT_BYTES_MAX || link.outgoing.is_crowded();
    crowded || link.asked_to_listen.is_some()
}

/// What another process exported.
fn import(config: Arc<ConnectionConfig>, record: &[u8], now: Instant) -> Option<Conn> {
    let record = ConnectionRecord::from_bytes(record).ok()?;
    Connection::<Server>::import(config, record, now).ok().map(Conn::Server)
}
