use std::net::SocketAddr;
use std::time::Duration;

use super::Job;
use super::forward::Note;
use super::outgoing::{Command, Outgoing, Surroundings};
use crate::base::{Instant, Span, tally};
use crate::connection::{ChannelId, Conn, Plan};
use crate::limits::{
    BULK_SLOTS_BUSY, HEADROOM, LINK_UNSENT_BYTES_BUSY, LINK_UNSENT_BYTES_MAX,
    SHARED_UNSENT_BYTES_MAX, SMALL_BYTES, SMALL_SLOT,
};
use crate::reactor::{Chunk, Class, Classes, Fd, Lease, Op};
use crate::transport::Error;

/// Where the first packet of a plan starts in its lease, so that its data is 64-byte aligned.
const PLAN_AT: u32 = HEADROOM - 14;

/// What a service asked of the shard during one call.
#[derive(Debug, Default)]
pub struct Wishes {
    pub ops: Vec<(u16, Op)>,
    pub jobs: Vec<(u16, Job)>,
    pub cancels: Vec<u16>,
    pub closes: Vec<Fd>,
    /// Sockets whose sending direction ends.
    pub shut_downs: Vec<Fd>,
    /// Connections to be made, each on a socket of its own.
    pub connects: Vec<(u16, SocketAddr)>,
    pub notes: Vec<Note>,
    /// Call `on_ready` then, whatever happens before.
    pub wake_at: Option<Instant>,
    /// The channel that the peer asked for is refused, and the service is over.
    pub reject: Option<(u32, &'static str)>,
    /// Leases were wanted and none were there: call `on_ready` when some have come back.
    pub starved: Classes,
    /// Call `on_ready` after [`crate::limits::SERVICE_PAUSE`].
    pub paused: bool,
    /// Bytes of the channel without which nothing can be done with what has come.
    pub awaited: u32,
    /// Call `on_turn_over` at the end of this turn.
    pub late: bool,
    /// It is in the middle of a stream: see [`Io::linger`].
    pub lingers: bool,
}

impl Wishes {
    /// Something is wished for besides what the shard looks at behind every call.
    pub const fn ask_for_more(&self) -> bool {
        // All are named: a new one has to be thought of here.
        let Wishes {
            ops,
            jobs,
            cancels,
            closes,
            shut_downs,
            connects,
            notes,
            wake_at,
            reject,
            paused,
            starved: _,
            awaited: _,
            late: _,
            lingers: _,
        } = self;
        let work = !(ops.is_empty() && jobs.is_empty() && connects.is_empty());
        let ends = !(cancels.is_empty() && closes.is_empty() && shut_downs.is_empty());
        work || ends || !notes.is_empty() || wake_at.is_some() || reject.is_some() || *paused
    }
}

/// A service's view of its channel, its connection and the shard, for one call.
pub struct Io<'a> {
    pub(crate) id: ChannelId,
    pub(crate) conn: &'a mut Conn,
    pub(crate) outgoing: &'a mut Outgoing,
    pub(crate) around: Surroundings<'a>,
    pub(crate) wishes: &'a mut Wishes,
    /// The first error of the connection; it ends the link after the call.
    pub(crate) failed: &'a mut Option<Error>,
}

impl Io<'_> {
    pub const fn now(&self) -> Instant {
        self.around.now
    }

    pub const fn id(&self) -> ChannelId {
        self.id
    }

    /// Peer window not reserved yet, in bytes.
    pub fn credit(&self) -> u32 {
        self.conn.credit(self.id)
    }

    /// Our receive window on this channel, in bytes.
    pub fn receive_window(&self) -> u32 {
        self.conn.receive_window(self.id)
    }

    /// The largest data packet the peer takes on this channel.
    pub fn packet_max(&self) -> u32 {
        self.conn.packet_max(self.id)
    }

    /// Data can be sealed now: no key exchange is running and nothing waits before it.
    pub fn is_ready(&self) -> bool {
        self.conn.is_ready() && !self.outgoing.has_waiting()
    }

    /// Unsent bytes of the whole connection.
    pub const fn backlog(&self) -> u32 {
        self.outgoing.backlog()
    }

    /// Reading more for this channel makes sense: it can be sealed, and socket and recorder keep up.
    pub fn may_send(&self) -> bool {
        let keeps_up = self.outgoing.backlog() < self.unsent_max();
        self.is_ready() && keeps_up && !self.outgoing.is_recorder_behind(self.id)
    }

    /// Unsent bytes of the connection past which nothing more is read for it.
    pub fn unsent_max(&self) -> u32 {
        let used = self.around.pool.slots(Class::Bulk) - self.around.pool.free(Class::Bulk);
        if used > BULK_SLOTS_BUSY { LINK_UNSENT_BYTES_BUSY } else { LINK_UNSENT_BYTES_MAX }
    }

    /// `None` is back-pressure: `on_ready` is called again when leases have come back.
    pub fn take(&mut self, class: Class) -> Option<Lease> {
        let lease = self.around.pool.take_spare(class);
        if lease.is_none() {
            self.wishes.starved = self.wishes.starved.with(class);
        }
        lease
    }

    /// Few leases of some class are left: what does not move should not hold any.
    pub fn is_scarce(&self) -> bool {
        Class::ALL.iter().any(|class| self.around.pool.is_scarce(*class))
    }

    /// Few of the buffers are left in which everybody receives.
    pub fn is_receiving_scarce(&self) -> bool {
        self.around.pool.is_scarce(Class::Small)
    }

    pub fn give_back(&mut self, lease: Lease) {
        self.around.pool.give_back(lease);
    }

    pub fn bytes<'b>(&'b mut self, lease: &'b mut Lease) -> &'b mut [u8] {
        self.around.pool.bytes(lease)
    }

    /// Cuts `lease` at `at`; it keeps the front and the rest is returned.
    pub fn split(&mut self, lease: &mut Lease, at: u32) -> Lease {
        self.around.pool.split(lease, at)
    }

    /// Takes a lease and lays out packets in it for up to `want` data bytes, reserving credit.
    /// `None` when either is lacking.
    pub fn plan(
        &mut self,
        extended: Option<u32>,
        want: u32,
        class: Class,
    ) -> Option<(Plan, Lease)> {
        if self.credit() == 0 {
            return None;
        }
        let lease = self.take(class)?;
        match self.conn.plan(self.id, extended, PLAN_AT, lease.len(), want) {
            Some(plan) => Some((plan, lease)),
            None => {
                self.give_back(lease);
                None
            }
        }
    }

    /// Sends the first `got` data bytes of a plan, now or when the key exchange is over, in order
    /// with everything sent before. The rest of its credit is refunded.
    pub fn send(&mut self, plan: Plan, got: u32, lease: Lease) {
        self.command(Command::Data { plan, got, lease });
    }

    /// Refunds the plan's credit and gives the lease back.
    pub fn drop_plan(&mut self, plan: Plan, lease: Lease) {
        self.conn.drop_plan(plan);
        self.give_back(lease);
    }

    /// Reserves credit for a read into a shared buffer, whose size is only known afterwards.
    /// `false`, and nothing reserved, when the window or the peer's packets are too small for one;
    /// read with a plan instead.
    pub fn reserve_shared(&mut self) -> bool {
        if self.credit() < SMALL_BYTES || self.packet_max() < SMALL_BYTES {
            return false;
        }
        self.conn.reserve(self.id, SMALL_BYTES) == SMALL_BYTES
    }

    /// Gives back what `reserve_shared` reserved, when its read brought nothing.
    pub fn refund_shared(&mut self) {
        self.conn.refund(self.id, SMALL_BYTES);
    }

    /// Sends what a shared read brought: the packet is built around the bytes where they are.
    /// Spends the reservation of `reserve_shared`.
    ///
    /// When the socket does not keep up, the bytes are copied instead, so that a slow peer holds
    /// few large outboxes and not every shared buffer of the shard.
    pub fn send_shared(&mut self, extended: Option<u32>, lease: Lease, data: Span) {
        if self.backlog() >= SHARED_UNSENT_BYTES_MAX {
            self.refund_shared();
            if self.write_copy(extended, &lease, data) {
                self.give_back(lease);
                return;
            }
            self.conn.reserve(self.id, SMALL_BYTES);
        }
        self.conn.refund(self.id, SMALL_BYTES.saturating_sub(data.len));
        let lease = self.spare_shared(lease, data);
        if lease.len() <= SMALL_SLOT && !self.is_ready() && self.is_receiving_scarce() {
            return self.keep_shared(extended, lease, data);
        }
        let plan = self.conn.plan_around(self.id, extended, data);
        self.command(Command::Data { plan, got: data.len, lease });
    }

    /// The data waits for the end of a key exchange, and no other lease can be had: outside of any,
    /// since each stream of a channel brings this much at most before the exchange is over.
    fn keep_shared(&mut self, extended: Option<u32>, lease: Lease, data: Span) {
        let bytes = data.of(self.around.pool.view(&lease)).unwrap_or_default().into();
        tally::add(tally::Cost::Copied, u64::from(data.len));
        self.give_back(lease);
        self.command(Command::Kept { id: self.id, extended, bytes });
    }

    /// Moves the data elsewhere if buffers for receiving are scarce: the end of the key exchange
    /// that it may have to wait for is received in one.
    fn spare_shared(&mut self, lease: Lease, data: Span) -> Lease {
        if !self.is_receiving_scarce() {
            return lease;
        }
        let Some(mut other) = self.around.pool.take_spare(Class::Packet) else { return lease };
        let from = data.of(self.around.pool.view(&lease)).unwrap_or_default();
        if let Some(to) = data.of_mut(self.around.pool.bytes(&mut other)) {
            tally::copy(to, from);
        }
        self.give_back(lease);
        other
    }

    /// Small channel data, copied and sealed at once. `false`, and nothing done, when credit,
    /// readiness or an outbox is lacking: try again in `on_ready`.
    pub fn reply(&mut self, bytes: &[u8]) -> bool {
        self.write(None, bytes)
    }

    /// The same, on the stream that `extended` names (RFC 4254 §5.2).
    pub fn write(&mut self, extended: Option<u32>, bytes: &[u8]) -> bool {
        if !self.is_ready() {
            return false;
        }
        let (id, conn) = (self.id, &mut *self.conn);
        let written = self
            .outgoing
            .with_env(&mut self.around, |env, _| conn.write_data(id, extended, bytes, env));
        if written.is_none() {
            self.wishes.starved = self.wishes.starved.and(Classes::OUTBOX);
        }
        written.unwrap_or(false)
    }

    /// The bytes have left for good; their window may be granted again.
    pub fn consumed(&mut self, bytes: u32) {
        if bytes > 0 {
            self.command(Command::Consumed { id: self.id, bytes });
        }
    }

    /// Much is about to come on this channel, and an answer of the peer's takes `turn`: a peer that is far away
    /// need not wait until its window has grown.
    pub fn expect(&mut self, turn: Duration) {
        self.command(Command::Expect { id: self.id, turn });
    }

    /// Gives a chunk of channel data back and counts it as consumed.
    pub fn discard(&mut self, data: Chunk) {
        let bytes = data.span.len;
        self.give_back(data.lease);
        self.consumed(bytes);
    }

    /// Answers the request that started the service.
    pub fn answer_request(&mut self, ok: bool) {
        self.command(Command::Reply { id: self.id, ok });
    }

    pub fn eof(&mut self) {
        self.command(Command::Eof(self.id));
    }

    pub fn exit_status(&mut self, code: u32) {
        self.command(Command::ExitStatus { id: self.id, code });
    }

    /// `name` without the SIG prefix (RFC 4254 §6.10).
    pub fn exit_signal(&mut self, name: &'static str, core_dumped: bool) {
        self.command(Command::ExitSignal { id: self.id, name, core_dumped });
    }

    pub fn close(&mut self) {
        self.command(Command::Close(self.id));
    }

    /// Asks for an `on_ready` when [`crate::limits::SERVICE_PAUSE`] has passed.
    pub const fn pause(&mut self) {
        self.wishes.paused = true;
    }

    /// Asks for an `on_turn_over` when all that has come in this turn has been handed out.
    pub const fn call_late(&mut self) {
        self.wishes.late = true;
    }

    /// More of a stream is about to come, and what comes together costs least: nothing needs to be woken
    /// for the first of it.
    pub const fn linger(&mut self) {
        self.wishes.lingers = true;
    }

    /// So many more bytes of the channel must come before anything can be done with them: there is no
    /// need to be told of fewer at once. Holds until the next call.
    pub const fn awaits(&mut self, bytes: u32) {
        self.wishes.awaited = bytes;
    }

    /// Asks for an operation; its completion comes to `on_completion` with this tag. A tag has one
    /// operation in flight at a time.
    pub fn submit(&mut self, tag: u16, op: Op) {
        self.wishes.ops.push((tag, op));
    }

    /// Asks for the operation with this tag to end early. Its completion still comes.
    pub fn cancel(&mut self, tag: u16) {
        self.wishes.cancels.push(tag);
    }

    /// Gives every lease of an operation back that nobody waits for any more.
    pub fn dissolve(&mut self, op: Op) {
        op.dissolve(self.around.pool);
    }

    /// Asks for a connection. The completion brings the socket, connected or not; its number is
    /// negative when there could not be one.
    pub fn connect(&mut self, tag: u16, to: SocketAddr) {
        self.wishes.connects.push((tag, to));
    }

    /// Ends the sending direction of a socket.
    pub fn shut_down(&mut self, fd: Fd) {
        self.wishes.shut_downs.push(fd);
    }

    /// Asks for an `on_ready` at that time, in place of what was asked for before.
    pub const fn wake_at(&mut self, at: Instant) {
        self.wishes.wake_at = Some(at);
    }

    /// Tells the log.
    pub fn note(&mut self, note: Note) {
        self.wishes.notes.push(note);
    }

    /// Opens the channel that the peer asked for.
    pub fn accept(&mut self) {
        self.command(Command::Accept(self.id));
    }

    /// Refuses it, for a reason of RFC 4254 §5.1. The service is closed and released.
    pub const fn reject(&mut self, reason: u32, text: &'static str) {
        self.wishes.reject = Some((reason, text));
    }

    /// Asks for a job; its outcome comes to `on_done` with this tag.
    pub fn job(&mut self, tag: u16, job: Job) {
        self.wishes.jobs.push((tag, job));
    }

    /// Closes a descriptor on which nothing is in flight.
    pub fn close_fd(&mut self, fd: Fd) {
        self.wishes.closes.push(fd);
    }

    fn write_copy(&mut self, extended: Option<u32>, lease: &Lease, data: Span) -> bool {
        if !self.is_ready() {
            return false;
        }
        let (id, conn) = (self.id, &mut *self.conn);
        let written = self.outgoing.with_env(&mut self.around, |env, pool| {
            let bytes = data.of(pool.view(lease)).unwrap_or_default();
            conn.write_data(id, extended, bytes, env)
        });
        written.unwrap_or(false)
    }

    fn command(&mut self, command: Command) {
        if let Err(error) = self.outgoing.command(command, self.conn, &mut self.around) {
            self.failed.get_or_insert(error);
        }
    }
}
