use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use super::Tape;
use crate::base::{Entropy, Instant, Span, tally};
use crate::connection::{ChannelId, Conn, Plan};
use crate::limits::{
    GATHER_MAX, HEADROOM, LINK_UNSENT_BYTES_MAX, OUTBOX_RESERVE, OUTBOXES_UNSENT_MAX,
    RELAYED_WAITING_MAX, REQUEST_IN_OUTBOX_BYTES_MAX, SHARED_UNSENT_BYTES_MAX, SMALL_BYTES,
    SMALL_SLOT,
};
use crate::reactor::{Chunk, Class, Classes, Gather, Lease, Pool};
use crate::transport::{Env, Error, Outbox};
use crate::wire::Message;
use crate::wire::request::ChannelRequest;

/// What a service asks of the protocol. Kept in order while a key exchange runs or no outbox can
/// be had, because data, EOF and CLOSE of a channel must leave in order.
#[derive(Debug)]
pub enum Command {
    Data {
        plan: Plan,
        got: u32,
        lease: Lease,
    },
    Accept(ChannelId),
    Reject {
        id: ChannelId,
        reason: u32,
        text: Cow<'static, str>,
    },
    Consumed {
        id: ChannelId,
        bytes: u32,
    },
    /// Much is about to come from a peer whose answers take `turn`.
    Expect {
        id: ChannelId,
        turn: Duration,
    },
    Reply {
        id: ChannelId,
        ok: bool,
    },
    Eof(ChannelId),
    ExitStatus {
        id: ChannelId,
        code: u32,
    },
    ExitSignal {
        id: ChannelId,
        name: &'static str,
        core_dumped: bool,
    },
    Close(ChannelId),
    /// Data of another connection's channel, whose credit is reserved: it becomes a packet where it
    /// lies if that has the room.
    Pass {
        id: ChannelId,
        extended: Option<u32>,
        data: Chunk,
        /// That connection brings other clients' data too, perhaps in the same lease.
        of_many: bool,
    },
    /// The same outside of any lease: what waits for the end of a key exchange must not hold the buffer
    /// that this is received in, nor what is small a whole one for itself.
    Kept {
        id: ChannelId,
        extended: Option<u32>,
        bytes: Box<[u8]>,
    },
    /// A request about another connection's channel, as it came.
    Ask {
        id: ChannelId,
        request: Box<[u8]>,
    },
    /// To the oldest request that has no answer.
    Answer {
        id: ChannelId,
        ok: bool,
    },
    /// With what the other connection's channel takes.
    AcceptWith {
        id: ChannelId,
        window_bytes: u32,
        packet_bytes: u32,
    },
    /// To a request about the connection; with the port that was chosen, if one was.
    ReplyGlobal {
        ok: bool,
        port: Option<u32>,
    },
    /// A login is over.
    TellHostKeys,
    /// The signatures that a client has asked for, or a refusal.
    ProveHostKeys(Option<Box<[Box<[u8]>]>>),
}

/// The sending half of a connection: what has been sealed and not sent, in order, and what could
/// not be sealed yet.
///
/// Small packets gather in an outbox; data sealed in its own lease goes behind them. One send takes
/// as many chunks as fit one operation, so replies of one turn leave together.
#[derive(Debug, Default)]
pub struct Outgoing {
    outbox: Option<OutboxLease>,
    sealed: VecDeque<Sealed>,
    waiting: VecDeque<Command>,
    /// Bytes of data and requests of another connection that wait.
    passing: u32,
    /// Those of requests among them.
    asking: u32,
    unsent: u32,
    /// Outboxes among what is unsent, and among what is being sent.
    outboxes: u16,
    outboxes_sending: u16,
    sending: bool,
    /// Where sessions are recorded, if some are.
    tape: Option<Box<Tape>>,
}

#[derive(Debug)]
struct Sealed {
    chunk: Chunk,
    is_outbox: bool,
}

#[derive(Debug)]
struct OutboxLease {
    lease: Lease,
    used: u32,
}

/// The link's surroundings that every command needs.
pub struct Surroundings<'a> {
    pub now: Instant,
    pub pool: &'a mut Pool,
    pub entropy: &'a mut dyn Entropy,
}

impl Outgoing {
    /// Bytes sealed whose send has not completed.
    pub const fn backlog(&self) -> u32 {
        self.unsent
    }

    /// The peer does not read what it provoked: enough has been said for now.
    pub const fn is_crowded(&self) -> bool {
        self.outboxes > OUTBOXES_UNSENT_MAX
    }

    /// All there is to be sent are small packets that gather.
    pub fn has_words_alone(&self) -> bool {
        self.outbox.is_some() && self.sealed.is_empty() && !self.sending
    }

    pub const fn is_sending(&self) -> bool {
        self.sending
    }

    /// Nothing sealed, nothing waiting, nothing in flight: no lease is held.
    pub fn is_idle(&self) -> bool {
        !self.sending && self.sealed.is_empty() && self.waiting.is_empty() && self.outbox.is_none()
    }

    /// Commands wait for the end of a key exchange or for an outbox.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Commands that wait, each perhaps with a lease.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of another connection that wait for the end of a key exchange, for memory or a recorder.
    pub fn passing(&self) -> u32 {
        self.passing.saturating_add(self.tape.as_ref().map_or(0, |tape| tape.held_bytes()))
    }

    /// The same of requests alone, which no window bounds.
    pub fn asking(&self) -> u32 {
        self.asking.saturating_add(self.tape.as_ref().map_or(0, |tape| tape.held_requests()))
    }

    pub const fn tape(&mut self) -> &mut Option<Box<Tape>> {
        &mut self.tape
    }

    /// So much of this channel waits for its recorder that no more is to be read for it.
    pub fn is_recorder_behind(&self, id: ChannelId) -> bool {
        self.tape.as_ref().is_some_and(|tape| tape.is_behind(id))
    }

    /// When a recorder has taken too long.
    pub fn recorder_due(&self) -> Option<Instant> {
        self.tape.as_ref().and_then(|tape| tape.due())
    }

    /// Carries out what a recorder has taken.
    pub fn deliver_recorded(
        &mut self,
        conn: &mut Conn,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Error> {
        while let Some(command) = self.tape.as_mut().and_then(|tape| tape.release()) {
            self.carry_out(command, conn, around)?;
        }
        Ok(())
    }

    /// The memory that the first command in line waits for, if no key exchange is in its way.
    pub fn lacks(&self) -> Classes {
        match self.waiting.front() {
            None => Classes::NONE,
            Some(Command::Pass { data, .. }) if !repays(data) => Classes::NONE.with(Class::Packet),
            Some(Command::Kept { bytes, .. }) if !is_small(bytes) => {
                Classes::NONE.with(Class::Packet)
            }
            Some(Command::Ask { request, .. }) if is_long(request) => {
                Classes::NONE.with(Class::Bulk)
            }
            Some(_) => Classes::OUTBOX,
        }
    }

    /// [`Outgoing::with_env`] would find or get an outbox.
    pub fn has_room(&self, pool: &Pool) -> bool {
        let roomy = self.outbox.as_ref().is_some_and(OutboxLease::is_roomy);
        roomy || pool.free(Class::Packet) > 0
    }

    /// Runs `call` with an environment whose outbox has room for the largest reply to one packet.
    /// `None`, and nothing was called, when no outbox can be had now.
    pub fn with_env<T>(
        &mut self,
        around: &mut Surroundings<'_>,
        call: impl FnOnce(&mut Env<'_>, &Pool) -> T,
    ) -> Option<T> {
        let OutboxLease { mut lease, used } = self.roomy_outbox(around.pool)?;
        let pool = &*around.pool;
        let out = Outbox::new(pool.bytes(&mut lease), used as usize);
        let mut env = Env { now: around.now, entropy: around.entropy, out };
        let answer = call(&mut env, pool);
        let after = env.out.used() as u32;
        self.unsent = self.unsent.saturating_add(after.saturating_sub(used));
        if after == 0 {
            around.pool.give_back(lease);
        } else {
            self.outbox = Some(OutboxLease { lease, used: after });
        }
        Some(answer)
    }

    /// Carries out `command`, or keeps it in order behind those that already wait.
    pub fn command(
        &mut self,
        command: Command,
        conn: &mut Conn,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Error> {
        let command = match &mut self.tape {
            None => Some(command),
            Some(tape) => tape.take(command, conn, around.pool),
        };
        command.map_or(Ok(()), |command| self.carry_out(command, conn, around))
    }

    fn carry_out(
        &mut self,
        command: Command,
        conn: &mut Conn,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Error> {
        let waits = match self.waiting.is_empty() {
            true => self.attempt(command, conn, around)?,
            false => Some(command),
        };
        if let Some(command) = waits {
            let crowded = self.waiting.len() >= RELAYED_WAITING_MAX;
            let command = command.out_of_lease(crowded, around.pool);
            self.count_waiting(&command, true);
            self.waiting.push_back(command);
        }
        Ok(())
    }

    /// Carries out what waited, as far as it goes now.
    pub fn resume(&mut self, conn: &mut Conn, around: &mut Surroundings<'_>) -> Result<(), Error> {
        while let Some(command) = self.waiting.pop_front() {
            self.count_waiting(&command, false);
            if let Some(command) = self.attempt(command, conn, around)? {
                self.count_waiting(&command, true);
                self.waiting.push_front(command);
                break;
            }
        }
        Ok(())
    }

    /// A copy of what was sealed and not sent, for whoever goes on with the connection. `None`: it is more
    /// than `bytes_max`, a send is in flight, or something waits to be sealed.
    pub fn unsent(&mut self, pool: &Pool, bytes_max: u32) -> Option<Vec<u8>> {
        if self.sending || self.unsent > bytes_max || !self.waiting.is_empty() {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.unsent as usize);
        for Sealed { chunk: Chunk { lease, span }, .. } in &mut self.sealed {
            bytes.extend_from_slice(span.of(pool.bytes(lease))?);
        }
        if let Some(OutboxLease { lease, used }) = &mut self.outbox {
            bytes.extend_from_slice(Span::new(0, *used).of(pool.bytes(lease))?);
        }
        Some(bytes)
    }

    /// What another process has sealed and not sent, which leaves before anything else. `false`: there is
    /// no outbox for it.
    pub fn begin_with(&mut self, sealed: &[u8], pool: &mut Pool) -> bool {
        if sealed.is_empty() {
            return true;
        }
        let Some(OutboxLease { mut lease, used }) = self.roomy_outbox(pool) else { return false };
        let place = Span::new(used, sealed.len() as u32);
        let Some(room) = place.of_mut(pool.bytes(&mut lease)) else {
            pool.give_back(lease);
            return false;
        };
        tally::copy(room, sealed);
        self.unsent = self.unsent.saturating_add(place.len);
        self.outbox = Some(OutboxLease { lease, used: place.end() });
        true
    }

    /// The next send, if none is in flight and there is something to say.
    pub fn next_send(&mut self) -> Option<Gather> {
        if self.sending {
            return None;
        }
        if self.sealed.len() < GATHER_MAX {
            self.seal_outbox();
        }
        let mut gather = Gather::new();
        while !gather.is_full() {
            let Some(Sealed { chunk, is_outbox }) = self.sealed.pop_front() else { break };
            if let Err(chunk) = gather.push(chunk) {
                self.sealed.push_front(Sealed { chunk, is_outbox });
                break;
            }
            self.outboxes_sending += u16::from(is_outbox);
        }
        if gather.is_empty() {
            return None;
        }
        self.sending = true;
        Some(gather)
    }

    /// A send has completed; its leases go back.
    pub fn sent(&mut self, mut gather: Gather, pool: &mut Pool) {
        self.sending = false;
        self.outboxes = self.outboxes.saturating_sub(std::mem::take(&mut self.outboxes_sending));
        while let Some(chunk) = gather.pop() {
            self.unsent = self.unsent.saturating_sub(chunk.span.len);
            pool.give_back(chunk.lease);
        }
    }

    /// The connection is over: nothing more will be sent, every lease goes back.
    pub fn abandon(&mut self, pool: &mut Pool) {
        while let Some(Sealed { chunk, .. }) = self.sealed.pop_front() {
            pool.give_back(chunk.lease);
        }
        while let Some(command) = self.waiting.pop_front() {
            command.drop_into(pool);
        }
        (self.passing, self.asking) = (0, 0);
        if let Some(OutboxLease { lease, .. }) = self.outbox.take() {
            pool.give_back(lease);
        }
        self.unsent = 0;
    }

    /// The channel is gone: what it still had waiting has no meaning any more.
    pub fn forget_channel(&mut self, gone: ChannelId, pool: &mut Pool) {
        if let Some(tape) = &mut self.tape {
            tape.forget(gone);
        }
        let mut kept = VecDeque::new();
        while let Some(command) = self.waiting.pop_front() {
            // An answer to the peer's open is owed whatever becomes of our side.
            if command.channel() != Some(gone) || matches!(command, Command::Reject { .. }) {
                kept.push_back(command);
            } else {
                self.count_waiting(&command, false);
                command.drop_into(pool);
            }
        }
        self.waiting = kept;
    }

    /// Answers the command back when it has to wait.
    fn attempt(
        &mut self,
        command: Command,
        conn: &mut Conn,
        around: &mut Surroundings<'_>,
    ) -> Result<Option<Command>, Error> {
        if let Command::Data { plan, got, mut lease } = command {
            let bytes = around.pool.bytes(&mut lease);
            return Ok(match conn.seal_plan(&plan, got, bytes, around.entropy) {
                Ok(span) if span.is_empty() => {
                    around.pool.give_back(lease);
                    None
                }
                Ok(span) => {
                    self.push_sealed(Chunk { lease, span });
                    None
                }
                Err(_deferred) => Some(Command::Data { plan, got, lease }),
            });
        }
        let command = match command {
            Command::Pass { id, extended, data, of_many } => {
                return self.pass((id, extended, of_many), data, conn, around);
            }
            Command::Kept { id, extended, bytes } => {
                if !conn.is_ready() {
                    return Ok(Some(Command::Kept { id, extended, bytes }));
                }
                if is_small(&bytes) {
                    let written = self.write((id, extended), Small::Kept(&bytes), conn, around);
                    return Ok((!written).then_some(Command::Kept { id, extended, bytes }));
                }
                return match in_lease(&bytes, around.pool) {
                    Some(data) => self.pass((id, extended, false), data, conn, around),
                    None => Ok(Some(Command::Kept { id, extended, bytes })),
                };
            }
            // A whole command may be too much for what is kept during a key exchange.
            Command::Ask { .. } if !conn.is_ready() => return Ok(Some(command)),
            Command::Ask { id, request } if is_long(&request) => {
                return self.ask_at_length(id, request, conn, around);
            }
            command => command,
        };
        let done = self.with_env(around, |env, _| match &command {
            Command::Data { .. } | Command::Pass { .. } | Command::Kept { .. } => Ok(()),
            Command::Ask { id, request } => ask(conn, *id, request, env),
            Command::Answer { id, ok } => conn.pass_reply(*id, *ok, env),
            Command::AcceptWith { id, window_bytes, packet_bytes } => {
                conn.accept_with(*id, *window_bytes, *packet_bytes, env)
            }
            Command::Accept(id) => conn.accept_open_default(*id, env),
            Command::Reject { id, reason, text } => conn.reject_open(*id, *reason, text, env),
            Command::Consumed { id, bytes } => conn.consumed(*id, *bytes, env),
            Command::Expect { id, turn } => conn.expect(*id, *turn, env),
            Command::Reply { id, ok } => conn.reply(*id, *ok, env),
            Command::Eof(id) => conn.send_eof(*id, env),
            Command::ExitStatus { id, code } => conn.exit_status(*id, *code, env),
            Command::ExitSignal { id, name, core_dumped } => {
                conn.exit_signal(*id, name, *core_dumped, "", env)
            }
            Command::Close(id) => conn.close(*id, env),
            Command::ReplyGlobal { ok, port } => conn.reply_global(*ok, *port, env),
            Command::TellHostKeys => conn.tell_host_keys(env),
            Command::ProveHostKeys(signatures) => conn.prove_host_keys(signatures.as_deref(), env),
        });
        match done {
            None => Ok(Some(command)),
            Some(outcome) => outcome.map(|()| None),
        }
    }

    /// A request that an outbox may have no room for gets a lease of its own.
    fn ask_at_length(
        &mut self,
        id: ChannelId,
        request: Box<[u8]>,
        conn: &mut Conn,
        around: &mut Surroundings<'_>,
    ) -> Result<Option<Command>, Error> {
        let Some(mut lease) = around.pool.take(Class::Bulk) else {
            return Ok(Some(Command::Ask { id, request }));
        };
        let out = Outbox::new(around.pool.bytes(&mut lease), 0);
        let mut env = Env { now: around.now, entropy: around.entropy, out };
        let outcome = ask(conn, id, &request, &mut env);
        match env.out.used() as u32 {
            0 => around.pool.give_back(lease),
            used => self.push_sealed(Chunk { lease, span: Span::new(0, used) }),
        }
        outcome.map(|()| None)
    }

    /// Seals data of another connection where it lies; elsewhere when that is too narrow for our
    /// padding and tag, or when a peer that does not read would hold a buffer that all receive in.
    /// What is small goes to the outbox then: many such pieces share a lease. A lease that has data of
    /// several clients is held by none that does not keep up.
    fn pass(
        &mut self,
        (id, extended, of_many): (ChannelId, Option<u32>, bool),
        data: Chunk,
        conn: &mut Conn,
        around: &mut Surroundings<'_>,
    ) -> Result<Option<Command>, Error> {
        if !conn.is_ready() {
            return Ok(Some(Command::Pass { id, extended, data, of_many }));
        }
        let of_all = data.lease.len() <= SMALL_SLOT || (of_many && data.span.len <= SMALL_BYTES);
        let lags = self.unsent >= SHARED_UNSENT_BYTES_MAX && of_all
            || of_many && self.unsent >= LINK_UNSENT_BYTES_MAX;
        // More small data than one send takes would hold a lease each until the peer reads.
        let many = self.sealed.len() >= GATHER_MAX && data.span.len <= SMALL_BYTES;
        let fits = conn.fits_around(extended, data.span, data.lease.len());
        let in_place = !lags && !many && fits;
        if !in_place && data.span.len <= SMALL_BYTES {
            return Ok(self.pass_small((id, extended, of_many), data, conn, around));
        }
        let data = match in_place {
            true => data,
            false => match moved(data, around.pool) {
                Ok(data) => data,
                Err(data) => return Ok(Some(Command::Pass { id, extended, data, of_many })),
            },
        };
        let Chunk { mut lease, span } = data;
        let plan = conn.plan_around(id, extended, span);
        let bytes = around.pool.bytes(&mut lease);
        match conn.seal_plan(&plan, span.len, bytes, around.entropy) {
            Ok(sealed) if sealed.is_empty() => around.pool.give_back(lease),
            Ok(sealed) => self.push_sealed(Chunk { lease, span: sealed }),
            Err(_deferred) => {
                conn.drop_plan(plan);
                conn.reserve(id, span.len);
                let data = Chunk { lease, span };
                return Ok(Some(Command::Pass { id, extended, data, of_many }));
            }
        }
        Ok(None)
    }

    /// Answers the command back when it has to wait.
    fn pass_small(
        &mut self,
        (id, extended, of_many): (ChannelId, Option<u32>, bool),
        data: Chunk,
        conn: &mut Conn,
        around: &mut Surroundings<'_>,
    ) -> Option<Command> {
        let roomy = self.outbox.as_ref().is_some_and(OutboxLease::is_roomy);
        let spare = around.pool.has_any(Classes::NONE.with(Class::Packet));
        if !roomy && !spare && !repays(&data) {
            return Some(Command::Pass { id, extended, data, of_many });
        }
        if self.write((id, extended), Small::Leased(&data), conn, around) {
            around.pool.give_back(data.lease);
            return None;
        }
        Some(Command::Pass { id, extended, data, of_many })
    }

    /// Seals reserved data in the outbox. False: it has to wait.
    fn write(
        &mut self,
        (id, extended): (ChannelId, Option<u32>),
        data: Small<'_>,
        conn: &mut Conn,
        around: &mut Surroundings<'_>,
    ) -> bool {
        let len = match data {
            Small::Leased(chunk) => chunk.span.len,
            Small::Kept(bytes) => bytes.len() as u32,
        };
        conn.refund(id, len);
        let written = self.with_env(around, |env, pool| {
            let bytes = match data {
                Small::Leased(chunk) => chunk.span.of(pool.view(&chunk.lease)).unwrap_or_default(),
                Small::Kept(bytes) => bytes,
            };
            conn.write_data(id, extended, bytes, env)
        });
        // A channel that takes no more has no credit either.
        written == Some(true) || conn.reserve(id, len) < len
    }

    const fn count_waiting(&mut self, command: &Command, more: bool) {
        let (passing, asking) = match command {
            Command::Pass { data, .. } => (data.span.len, 0),
            Command::Kept { bytes, .. } => (bytes.len() as u32, 0),
            Command::Ask { request, .. } => (request.len() as u32, request.len() as u32),
            _ => return,
        };
        if more {
            self.passing = self.passing.saturating_add(passing);
            self.asking = self.asking.saturating_add(asking);
        } else {
            self.passing = self.passing.saturating_sub(passing);
            self.asking = self.asking.saturating_sub(asking);
        }
    }

    fn push_sealed(&mut self, chunk: Chunk) {
        self.seal_outbox();
        self.unsent = self.unsent.saturating_add(chunk.span.len);
        self.sealed.push_back(Sealed { chunk, is_outbox: false });
    }

    /// Moves the outbox's bytes behind what is already sealed, keeping the order of sealing.
    fn seal_outbox(&mut self) {
        if let Some(OutboxLease { lease, used }) = self.outbox.take() {
            self.outboxes = self.outboxes.saturating_add(1);
            let chunk = Chunk { lease, span: Span::new(0, used) };
            self.sealed.push_back(Sealed { chunk, is_outbox: true });
        }
    }

    fn roomy_outbox(&mut self, pool: &mut Pool) -> Option<OutboxLease> {
        match self.outbox.take() {
            Some(outbox) if outbox.is_roomy() => Some(outbox),
            full => {
                self.outbox = full;
                self.seal_outbox();
                Some(OutboxLease { lease: pool.take(Class::Packet)?, used: 0 })
            }
        }
    }
}

impl OutboxLease {
    const fn is_roomy(&self) -> bool {
        self.lease.len() - self.used >= OUTBOX_RESERVE
    }
}

impl Command {
    pub(super) const fn channel(&self) -> Option<ChannelId> {
        Some(match self {
            Command::ReplyGlobal { .. } | Command::TellHostKeys | Command::ProveHostKeys(_) => {
                return None;
            }
            Command::Data { plan, .. } => plan.channel,
            Command::Accept(id)
            | Command::Pass { id, .. }
            | Command::Kept { id, .. }
            | Command::Ask { id, .. }
            | Command::Answer { id, .. }
            | Command::AcceptWith { id, .. }
            | Command::Reject { id, .. }
            | Command::Consumed { id, .. }
            | Command::Expect { id, .. }
            | Command::Reply { id, .. }
            | Command::Eof(id)
            | Command::ExitStatus { id, .. }
            | Command::ExitSignal { id, .. }
            | Command::Close(id) => *id,
        })
    }

    /// What waits leaves its lease where that is much more than it needs, or, while much waits, where it
    /// came with other clients' data.
    fn out_of_lease(self, crowded: bool, pool: &mut Pool) -> Command {
        match self {
            Command::Pass { id, extended, data, of_many }
                if data.span.len <= SMALL_BYTES || of_many && crowded =>
            {
                let bytes = data.span.of(pool.view(&data.lease)).unwrap_or_default().into();
                tally::add(tally::Cost::Copied, u64::from(data.span.len));
                pool.give_back(data.lease);
                Command::Kept { id, extended, bytes }
            }
            command => command,
        }
    }

    /// It is not to be carried out any more.
    fn drop_into(self, pool: &mut Pool) {
        match self {
            Command::Data { lease, .. } | Command::Pass { data: Chunk { lease, .. }, .. } => {
                pool.give_back(lease);
            }
            _ => {}
        }
    }
}

/// Data that goes to the outbox.
#[derive(Clone, Copy)]
enum Small<'a> {
    Leased(&'a Chunk),
    Kept(&'a [u8]),
}

const fn is_small(bytes: &[u8]) -> bool {
    bytes.len() <= SMALL_BYTES as usize
}

const fn is_long(request: &[u8]) -> bool {
    request.len() > REQUEST_IN_OUTBOX_BYTES_MAX
}

fn ask(conn: &mut Conn, id: ChannelId, request: &[u8], env: &mut Env<'_>) -> Result<(), Error> {
    match ChannelRequest::parse(request) {
        Ok(asked) => conn.pass_request(id, asked.want_reply, asked.body, env).map(|_| ()),
        Err(_) => Ok(()),
    }
}

/// Small data in a lease of its own: passing it on by way of an outbox costs no lease in the end, so
/// it may take one of the last.
const fn repays(data: &Chunk) -> bool {
    data.span.len <= SMALL_BYTES && data.lease.len() > SMALL_SLOT
}

/// Data from outside of any lease, in one of its own.
fn in_lease(bytes: &[u8], pool: &mut Pool) -> Option<Chunk> {
    let mut lease = pool.take_spare(Class::Packet)?;
    let span = Span::new(HEADROOM, bytes.len() as u32);
    if let Some(to) = span.of_mut(pool.bytes(&mut lease)) {
        tally::copy(to, bytes);
    }
    Some(Chunk { lease, span })
}

/// The same data in a lease that has room for whatever surrounds it; as it was when there is none.
fn moved(data: Chunk, pool: &mut Pool) -> Result<Chunk, Chunk> {
    let Some(mut fresh) = pool.take_spare(Class::Packet) else { return Err(data) };
    let span = Span::new(HEADROOM, data.span.len);
    let from = data.span.of(pool.view(&data.lease)).unwrap_or_default();
    if let Some(to) = span.of_mut(pool.bytes(&mut fresh)) {
        tally::copy(to, from);
    }
    pool.give_back(data.lease);
    Ok(Chunk { lease: fresh, span })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ChannelId;
    use crate::reactor::PoolSizes;

    /// A lease is for much: one that somebody else may wait for is not held by a few bytes that wait.
    #[test]
    fn what_is_small_waits_outside_of_its_lease() {
        let mut pool = Pool::new(PoolSizes { small: 1, packet: 1, bulk: 1 }).expect("memory");
        for (class, len, of_many, crowded, leaves) in [
            (Class::Packet, 30, false, false, true),
            (Class::Small, 30, false, false, true),
            (Class::Packet, SMALL_BYTES, true, false, true),
            (Class::Packet, SMALL_BYTES + 1, false, true, false),
            (Class::Packet, SMALL_BYTES + 1, true, false, false),
            (Class::Bulk, SMALL_BYTES + 1, true, true, true),
        ] {
            let mut lease = pool.take(class).expect("one");
            let span = Span::new(HEADROOM, len);
            span.of_mut(pool.bytes(&mut lease)).expect("room").fill(7);
            let (id, extended, data) = (ChannelId::from_number(0), Some(1), Chunk { lease, span });
            let command = Command::Pass { id, extended, data, of_many };
            let command = command.out_of_lease(crowded, &mut pool);
            let kept = match &command {
                Command::Kept { bytes, .. } => Some(bytes.to_vec()),
                _ => None,
            };
            assert_eq!(kept, leaves.then(|| vec![7; len as usize]), "{class:?} {len}");
            assert_eq!(pool.free(class) == 1, leaves, "{class:?} {len}");
            command.drop_into(&mut pool);
            assert_eq!(pool.free(class), 1);
        }
    }
    /// What one process has sealed and not sent is sent by the next, in order and before its own.
    #[test]
    fn what_is_unsent_goes_along() {
        let mut pool = Pool::new(PoolSizes { small: 0, packet: 3, bulk: 0 }).expect("memory");
        let (mut from, mut to) = (Outgoing::default(), Outgoing::default());
        assert_eq!(from.unsent(&pool, 0), Some(Vec::new()));
        assert!(from.begin_with(b"first", &mut pool));
        from.seal_outbox();
        assert!(from.begin_with(b", second", &mut pool));
        assert_eq!(from.unsent(&pool, 12), None, "more than may travel");
        let unsent = from.unsent(&pool, 13).expect("all of it");
        assert_eq!(unsent, b"first, second");
        assert!(to.begin_with(&unsent, &mut pool));
        assert_eq!((to.backlog(), to.unsent(&pool, 13)), (13, Some(unsent)));
        let gather = from.next_send().expect("something to say");
        assert_eq!(from.unsent(&pool, 13), None, "it is being sent");
        from.sent(gather, &mut pool);
        let mut waiting = Outgoing::default();
        assert!(waiting.begin_with(b"x", &mut pool) && from.begin_with(b"y", &mut pool));
        assert!(!Outgoing::default().begin_with(b"z", &mut pool), "there is no outbox left");
        [from, to, waiting].iter_mut().for_each(|outgoing| outgoing.abandon(&mut pool));
        assert_eq!(pool.free(Class::Packet), 3);
    }
}
