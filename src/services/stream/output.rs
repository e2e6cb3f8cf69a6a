use super::{End, flows_on};
use crate::base::{Instant, Span};
use crate::connection::Plan;
use crate::limits::{CHANNEL_PACKET_BYTES_MAX, FRAMES_MAX, SMALL_BYTES, STREAM_LEASE_TIME};
use crate::reactor::{Class, Errno, Fd, Op, Spans, Target};
use crate::services::luggage::{Luggage, Unpacking};
use crate::services::{Child, Io};
use crate::wire::Malformed;

/// Window that must be there before some of it is tied to a read that may wait for long: both
/// streams of a program do so, and neither may keep the other one from being heard.
const SPARE_CREDIT: u32 = 4 * SMALL_BYTES;
/// Data bytes of a bulk lease.
const BULK_BYTES: u32 = 8 * CHANNEL_PACKET_BYTES_MAX;
/// Small reads in a row after which a stream waits without memory of its own again.
const CALM_READS: u8 = 2;

/// The bytes of a program's output stream or of a socket on their way to the peer.
///
/// While little comes it waits on the shard's shared buffers and owns none. When reads fill those,
/// it waits for the descriptor to be readable and then reads into packets laid out in a lease of
/// its own, large or very large by what the last read brought. A pipe that brings much is read
/// again without waiting: its writer is seldom slower than we are, and a wait costs as much as the
/// bytes of a small read. So is a socket, where the read itself waits, for a while.
#[derive(Debug)]
pub struct Output {
    tag: u16,
    extended: Option<u32>,
    fd: Option<Fd>,
    end: End,
    flight: Flight,
    /// The descriptor has something for us, or very likely so.
    readable: bool,
    size: Size,
    calm: u8,
    widened: bool,
    stopped: bool,
    /// Nothing is to be begun.
    halted: bool,
    /// More of a stream is about to come.
    flows: bool,
    /// When the read in flight was asked for.
    asked: Instant,
}

#[derive(Debug)]
enum Flight {
    None,
    /// Waits until the descriptor is readable; holds neither memory nor window.
    Waiting,
    /// Waits for a shared buffer's worth of bytes; holds that much window, unless it was asked to
    /// let go of it.
    Shared {
        yielding: bool,
    },
    Planned(Plan),
}

/// How much the next read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Small,
    Packet,
    Bulk,
}

impl Output {
    pub const fn new(tag: u16, extended: Option<u32>) -> Output {
        Output {
            tag,
            extended,
            fd: None,
            end: End::Pipe,
            flight: Flight::None,
            readable: false,
            size: Size::Small,
            calm: 0,
            widened: false,
            stopped: false,
            halted: false,
            flows: false,
            asked: Instant::ZERO,
        }
    }

    pub const fn open(&mut self, fd: Fd, end: End) {
        (self.fd, self.end) = (Some(fd), end);
    }

    /// Everything has been read.
    pub const fn is_done(&self) -> bool {
        self.fd.is_none()
    }

    /// Starts the next read if one makes sense now.
    pub fn pump(&mut self, io: &mut Io<'_>) {
        let Some(fd) = self.fd else { return };
        if !matches!(self.flight, Flight::None) || self.halted || !io.may_send() {
            return;
        }
        if self.flows {
            io.linger();
        }
        if self.readable {
            self.read_planned(fd, io);
        } else if self.size == Size::Small && io.credit() >= SPARE_CREDIT && io.reserve_shared() {
            self.flight = Flight::Shared { yielding: false };
            io.submit(self.tag, self.take_in(fd, Target::Shared));
        } else {
            self.wait(fd, io);
        }
    }

    /// It has something to read and nothing of the window is left for it.
    pub fn lacks_credit(&self, io: &Io<'_>) -> bool {
        self.readable && matches!(self.flight, Flight::None) && io.credit() == 0
    }

    /// Lets go of window that an idle read holds: a peer may grant more only once all is used.
    pub fn yield_credit(&mut self, io: &mut Io<'_>) {
        if let Flight::Shared { yielding } = &mut self.flight
            && !std::mem::replace(yielding, true)
        {
            io.cancel(self.tag);
        }
    }

    /// A read that has brought nothing for [`STREAM_LEASE_TIME`] waits on without memory.
    pub fn expire(&mut self, io: &mut Io<'_>) {
        let waits = self.end == End::Socket && matches!(self.flight, Flight::Planned(_));
        if waits && io.now().since(self.asked) >= STREAM_LEASE_TIME {
            io.cancel(self.tag);
        }
    }

    /// Memory is wanted elsewhere: a read that waits for a socket lets go of its own.
    pub fn yield_memory(&mut self, io: &mut Io<'_>) {
        if self.end == End::Socket && matches!(self.flight, Flight::Planned(_)) {
            io.cancel(self.tag);
        }
    }

    /// A wait or a read is over; [`Output::pump`] is to be called behind it.
    pub fn completed(
        &mut self,
        op: Op,
        result: Result<u32, Errno>,
        child: Option<&Child>,
        io: &mut Io<'_>,
    ) {
        let room = op.total();
        self.flows = false;
        match (std::mem::replace(&mut self.flight, Flight::None), op) {
            (
                Flight::Shared { .. },
                Op::Read { into: Target::Owned { lease, mut spans }, .. }
                | Op::Recv { into: Target::Owned { lease, mut spans }, .. },
            ) => {
                let bytes = result.unwrap_or(0);
                match spans.pop() {
                    Some(span) if bytes > 0 => {
                        io.send_shared(self.extended, lease, Span::new(span.at, bytes));
                    }
                    _ => {
                        io.refund_shared();
                        io.give_back(lease);
                    }
                }
            }
            (Flight::Shared { .. }, _) => io.refund_shared(),
            (
                Flight::Planned(plan),
                Op::Read { into: Target::Owned { lease, .. }, .. }
                | Op::Recv { into: Target::Owned { lease, .. }, .. },
            ) => match result {
                Ok(bytes) if bytes > 0 => io.send(plan, bytes, lease),
                _ => io.drop_plan(plan, lease),
            },
            // A wait that failed is no reason to lose bytes: the read will tell.
            _ if !self.stopped => {
                self.readable = true;
                return;
            }
            _ => {}
        }
        if self.stopped {
            self.stop(io);
            return;
        }
        match result {
            Ok(bytes) if bytes > 0 => {
                self.adapt(bytes, child);
                let bulk = self.size == Size::Bulk;
                let is_socket = self.end == End::Socket;
                self.flows = bulk && is_socket && flows_on(bytes, io.now().since(self.asked));
                self.readable = bulk && (!is_socket || self.flows || bytes == room);
            }
            Err(errno) if is_passing(errno) => {
                if let Some(fd) = self.fd.filter(|_| !self.halted) {
                    self.wait(fd, io);
                }
            }
            // A terminal whose last user has gone fails with EIO; that is its end of file.
            _ => {
                if let Some(fd) = self.take_fd() {
                    io.close_fd(fd);
                }
            }
        }
    }

    /// As `completed`, for a channel that exists no more.
    pub fn abandoned(&mut self, op: Op, io: &mut Io<'_>) {
        let flight = std::mem::replace(&mut self.flight, Flight::None);
        if let Op::Read { into: Target::Owned { lease, .. }, .. }
        | Op::Recv { into: Target::Owned { lease, .. }, .. } = op
        {
            match flight {
                Flight::Planned(plan) => io.drop_plan(plan, lease),
                _ => io.give_back(lease),
            }
        }
        if self.stopped {
            self.stop(io);
        }
    }

    /// Nobody hears it any more: reads nothing more and closes the descriptor.
    pub fn stop(&mut self, io: &mut Io<'_>) {
        self.stopped = true;
        self.cancel(io);
        if matches!(self.flight, Flight::None)
            && let Some(fd) = self.take_fd()
        {
            io.close_fd(fd);
        }
    }

    /// Asks for what is in flight to end.
    pub fn cancel(&self, io: &mut Io<'_>) {
        if !matches!(self.flight, Flight::None) {
            io.cancel(self.tag);
        }
    }

    /// Begins nothing more, and waits for nothing; [`Output::go_on`] and [`Output::pump`] end that.
    pub fn halt(&mut self, io: &mut Io<'_>) {
        self.halted = true;
        self.cancel(io);
    }

    pub const fn go_on(&mut self) {
        self.halted = false;
    }

    /// As [`super::Input::pack`].
    pub fn pack(&mut self, out: &mut Luggage) {
        match self.end {
            End::Pipe => out.descriptor(self.fd.take()),
            End::Terminal | End::Socket => out.boolean(self.fd.take().is_some()),
        }
    }

    /// As [`super::Input::unpack`].
    pub fn unpack(
        empty: Output,
        end: End,
        shared: Option<Fd>,
        from: &mut Unpacking<'_>,
    ) -> Result<Output, Malformed> {
        let fd = match end {
            End::Pipe => from.descriptor()?,
            End::Terminal | End::Socket => {
                if from.boolean()? {
                    shared
                } else {
                    None
                }
            }
        };
        Ok(Output { fd, end, ..empty })
    }

    /// The descriptor, if it is ours and still open; nothing is in flight on it.
    pub fn take_fd(&mut self) -> Option<Fd> {
        let owned = self.end == End::Pipe;
        self.fd.take().filter(|_| owned)
    }

    const fn take_in(&self, fd: Fd, into: Target) -> Op {
        match self.end {
            End::Pipe | End::Terminal => Op::Read { fd, into },
            End::Socket => Op::Recv { fd, into },
        }
    }

    fn wait(&mut self, fd: Fd, io: &mut Io<'_>) {
        self.flight = Flight::Waiting;
        io.submit(self.tag, Op::Readable { fd });
    }

    fn read_planned(&mut self, fd: Fd, io: &mut Io<'_>) {
        let bulk = self.size == Size::Bulk && io.credit() > CHANNEL_PACKET_BYTES_MAX;
        let planned = if bulk { io.plan(self.extended, BULK_BYTES, Class::Bulk) } else { None };
        // Less at a time is better than waiting for a large lease.
        let smaller = [Class::Packet, Class::Bulk].into_iter();
        let planned = planned.or_else(|| {
            smaller
                .into_iter()
                .find_map(|class| io.plan(self.extended, CHANNEL_PACKET_BYTES_MAX, class))
        });
        let Some((plan, lease)) = planned else { return };
        self.readable = false;
        let spans: Spans = plan.spans(0);
        self.flight = Flight::Planned(plan);
        self.asked = io.now();
        if self.end == End::Socket {
            io.wake_at(self.asked.after(STREAM_LEASE_TIME));
        }
        io.submit(self.tag, self.take_in(fd, Target::Owned { lease, spans }));
    }

    fn adapt(&mut self, bytes: u32, child: Option<&Child>) {
        if self.end == End::Terminal {
            return;
        }
        self.calm = if bytes < SMALL_BYTES { self.calm.saturating_add(1) } else { 0 };
        self.size = match self.size {
            Size::Small if bytes >= SMALL_BYTES => Size::Packet,
            Size::Packet if bytes >= CHANNEL_PACKET_BYTES_MAX => Size::Bulk,
            Size::Bulk if bytes <= CHANNEL_PACKET_BYTES_MAX => Size::Packet,
            _ if self.calm >= CALM_READS => Size::Small,
            same => same,
        };
        if self.size == Size::Bulk
            && self.end == End::Pipe
            && !self.widened
            && let (Some(child), Some(fd)) = (child, self.fd)
        {
            self.widened = true;
            child.widen(fd);
        }
    }
}

/// Nothing is wrong with the stream; it is to be tried again when there is something.
const fn is_passing(errno: Errno) -> bool {
    matches!(errno.0, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM | libc::ECANCELED)
}

const _: () = assert!(BULK_BYTES.div_ceil(CHANNEL_PACKET_BYTES_MAX) as usize <= FRAMES_MAX);
