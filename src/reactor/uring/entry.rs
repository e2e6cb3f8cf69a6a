use std::cell::UnsafeCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use super::flight::{Flight, Stage};
use super::shared::GROUP;
use crate::base::Span;
use crate::limits::{FRAMES_MAX, GATHER_MAX, HEADROOM, SMALL_BYTES};
use crate::reactor::op::{chunks, pieces};
use crate::reactor::system::{self, each_place};
use crate::reactor::{Class, Errno, Fd, Lease, Op, Pool, Target};

/// What comes of asking for a flight's next request.
#[allow(clippy::large_enum_variant, reason = "a submission entry is passed on at once")]
pub(super) enum Request {
    Submit(Entry),
    /// Nothing to ask the kernel for.
    Finish(Result<u32, Errno>),
    /// No small lease to receive into.
    Starved,
}

/// How requests are put together on this ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Shared receives pick from the buffer ring; without one they poll first.
    pub(super) buffer_ring: bool,
    pub(super) multishot_accept: bool,
}

/// Lists of places for requests that have several. The kernel reads them while it consumes the
/// submission entry, so they are reused as soon as the submission queue is empty again.
#[derive(Debug)]
pub(super) struct Scatter {
    places: Box<[libc::iovec]>,
    headers: Box<[libc::msghdr]>,
    /// Of receives. The kernel has read one when its entry is consumed, and writes flags and lengths of
    /// no interest to it when the receive is over, whatever it is used for by then.
    receives: Box<[UnsafeCell<libc::msghdr>]>,
    addresses: Box<[SockaddrStorage]>,
    places_used: usize,
    headers_used: usize,
    receives_used: usize,
    addresses_used: usize,
}

impl Scatter {
    pub(super) fn new(submissions: usize) -> Scatter {
        let place = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a msghdr of zeroes is one without address, data and control bytes.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Scatter {
            places: vec![place; submissions.max(1) * 2 + FRAMES_MAX].into_boxed_slice(),
            headers: vec![header; submissions.max(1)].into_boxed_slice(),
            receives: (0..RECEIVES_A_SUBMISSION).map(|_| UnsafeCell::new(header)).collect(),
            addresses: vec![SockaddrStorage::from(NOWHERE); CONNECTS_A_SUBMISSION]
                .into_boxed_slice(),
            places_used: 0,
            headers_used: 0,
            receives_used: 0,
            addresses_used: 0,
        }
    }

    /// Whether any one request's list still fits.
    pub(super) const fn has_room(&self) -> bool {
        self.places.len() - self.places_used >= FRAMES_MAX
            && self.headers_used < self.headers.len()
            && self.receives_used < self.receives.len()
            && self.addresses_used < self.addresses.len()
    }

    /// To be called only when the kernel has consumed every submission entry.
    pub(super) const fn reset(&mut self) {
        self.places_used = 0;
        self.headers_used = 0;
        self.receives_used = 0;
        self.addresses_used = 0;
    }

    /// The headers that the kernel may still write to, which are never freed then.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.receives));
    }

    /// Lists the bytes of `pieces` without the first `skip`. One piece needs no list.
    fn list<'a>(
        &mut self,
        pool: &Pool,
        pieces: impl Iterator<Item = (&'a Lease, Span)>,
        skip: u32,
    ) -> Result<Places, Errno> {
        let first = self.places_used;
        each_place(pool, pieces, skip, |place| {
            self.places[self.places_used] = place;
            self.places_used += 1;
        })?;
        match self.places_used - first {
            0 => Ok(Places::None),
            1 => {
                self.places_used = first;
                let place = self.places[first];
                Ok(Places::One(place.iov_base.cast(), place.iov_len as u32))
            }
            count => Ok(Places::Many(&raw const self.places[first], count)),
        }
    }

    fn address(&mut self, to: &SocketAddr) -> (*const libc::sockaddr, libc::socklen_t) {
        let address = &mut self.addresses[self.addresses_used];
        self.addresses_used += 1;
        *address = SockaddrStorage::from(*to);
        (address.as_ptr(), address.len())
    }

    fn header(&mut self, places: *const libc::iovec, count: usize) -> *const libc::msghdr {
        let header = &mut self.headers[self.headers_used];
        self.headers_used += 1;
        header.msg_iov = places.cast_mut();
        header.msg_iovlen = count as _;
        &raw const *header
    }

    fn receive_header(&mut self, places: *const libc::iovec, count: usize) -> *mut libc::msghdr {
        let header = self.receives[self.receives_used].get();
        self.receives_used += 1;
        // SAFETY: it is ours alone but for flags and lengths of earlier receives, which the kernel writes
        // as this thread's own work, never beside it, and nothing refers to them.
        unsafe {
            (*header).msg_iov = places.cast_mut();
            (*header).msg_iovlen = count as _;
        }
        header
    }
}

enum Places {
    None,
    One(*mut u8, u32),
    Many(*const libc::iovec, usize),
}

/// The next request of `flight`.
pub(super) fn request(
    flight: &mut Flight,
    style: Style,
    pool: &mut Pool,
    scatter: &mut Scatter,
) -> Request {
    if needs_poll_first(flight, style) {
        flight.stage = Stage::Poll;
    }
    if let (Op::Connect { fd, .. }, Stage::Polled) = (&flight.op, flight.stage) {
        return Request::Finish(system::connected(*fd));
    }
    if flight.stage == Stage::Poll {
        return Request::Submit(poll(flight.op.fd(), poll_events(&flight.op)));
    }
    if flight.op.is_shared() && !style.buffer_ring && !borrow(flight, pool) {
        return Request::Starved;
    }
    match direct(flight, style, pool, scatter) {
        Ok(Some(entry)) => Request::Submit(entry),
        Ok(None) => Request::Finish(match &flight.op {
            Op::Send { .. } | Op::Write { .. } | Op::WriteAt { .. } => Ok(0),
            _ => Err(Errno(libc::EINVAL)),
        }),
        Err(errno) => Request::Finish(Err(errno)),
    }
}

/// `None` when there is not one byte to move.
fn direct(
    flight: &mut Flight,
    style: Style,
    pool: &Pool,
    scatter: &mut Scatter,
) -> Result<Option<Entry>, Errno> {
    let done = flight.done;
    let entry = match &flight.op {
        Op::Accept { listener } => Some(accept(*listener, style)),
        Op::Connect { fd, to } => {
            let (address, len) = scatter.address(to);
            Some(opcode::Connect::new(types::Fd(fd.0), address, len).build())
        }
        Op::Recv { fd, into: Target::Shared } => Some(shared(
            opcode::Recv::new(types::Fd(fd.0), std::ptr::null_mut(), SMALL_BYTES)
                .ioprio(POLL_FIRST)
                .buf_group(GROUP)
                .build(),
        )),
        Op::Read { fd, into: Target::Shared } => Some(shared(
            opcode::Read::new(types::Fd(fd.0), std::ptr::null_mut(), SMALL_BYTES)
                .offset(STREAM)
                .buf_group(GROUP)
                .build(),
        )),
        Op::Recv { fd, into: Target::Owned { lease, spans } } => {
            let places = scatter.list(pool, pieces(lease, spans), 0)?;
            receive(*fd, places, style, scatter)
        }
        Op::Read { fd, into: Target::Owned { lease, spans } } => {
            let flags = if flight.knows_no_haste { 0 } else { libc::RWF_NOWAIT };
            read(*fd, scatter.list(pool, pieces(lease, spans), 0)?, STREAM, flags)
        }
        Op::ReadAt { fd, at, lease, spans } => {
            let at = at.checked_add(u64::from(done)).ok_or(Errno(libc::EINVAL))?;
            read(*fd, scatter.list(pool, pieces(lease, spans), done)?, at, 0)
        }
        Op::Send { fd, from } => send(*fd, scatter.list(pool, chunks(from), done)?, scatter),
        Op::Write { fd, from } => write(*fd, scatter.list(pool, chunks(from), 0)?, STREAM),
        Op::WriteAt { fd, at, from } => write(*fd, scatter.list(pool, chunks(from), 0)?, *at),
        Op::Fsync { fd } => Some(opcode::Fsync::new(types::Fd(fd.0)).build()),
        Op::Readable { fd } => Some(poll(*fd, libc::POLLIN)),
        Op::Writable { fd } => Some(poll(*fd, libc::POLLOUT)),
    };
    Ok(entry)
}

fn needs_poll_first(flight: &Flight, style: Style) -> bool {
    flight.stage == Stage::Direct && !style.buffer_ring && flight.op.is_shared()
}

fn borrow(flight: &mut Flight, pool: &mut Pool) -> bool {
    let Some(lease) = pool.lend() else { return false };
    flight.op.lend(lease, SMALL_BYTES);
    flight.borrowed = true;
    true
}

fn accept(listener: Fd, style: Style) -> Entry {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let listener = types::Fd(listener.0);
    if style.multishot_accept {
        opcode::AcceptMulti::new(listener).flags(flags).build()
    } else {
        let nowhere = std::ptr::null_mut();
        opcode::Accept::new(listener, nowhere, nowhere.cast()).flags(flags).build()
    }
}

fn shared(entry: Entry) -> Entry {
    entry.flags(Flags::BUFFER_SELECT)
}

fn receive(fd: Fd, into: Places, style: Style, scatter: &mut Scatter) -> Option<Entry> {
    let (fd, priority) = (types::Fd(fd.0), if style.buffer_ring { POLL_FIRST } else { 0 });
    match into {
        Places::None => None,
        Places::One(start, len) => Some(opcode::Recv::new(fd, start, len).ioprio(priority).build()),
        Places::Many(places, count) => {
            let header = scatter.receive_header(places, count);
            Some(opcode::RecvMsg::new(fd, header).ioprio(priority).build())
        }
    }
}

fn read(fd: Fd, into: Places, at: u64, flags: libc::c_int) -> Option<Entry> {
    let fd = types::Fd(fd.0);
    match into {
        Places::None => None,
        Places::One(start, len) => {
            Some(opcode::Read::new(fd, start, len).offset(at).rw_flags(flags).build())
        }
        Places::Many(places, count) => {
            let read = opcode::Readv::new(fd, places, count as u32).offset(at);
            Some(read.rw_flags(flags).build())
        }
    }
}

fn write(fd: Fd, from: Places, at: u64) -> Option<Entry> {
    let fd = types::Fd(fd.0);
    match from {
        Places::None => None,
        Places::One(start, len) => Some(opcode::Write::new(fd, start, len).offset(at).build()),
        Places::Many(places, count) => {
            Some(opcode::Writev::new(fd, places, count as u32).offset(at).build())
        }
    }
}

fn send(fd: Fd, from: Places, scatter: &mut Scatter) -> Option<Entry> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    let fd = types::Fd(fd.0);
    match from {
        Places::None => None,
        Places::One(start, len) => Some(opcode::Send::new(fd, start, len).flags(flags).build()),
        Places::Many(places, count) => {
            let header = scatter.header(places, count);
            Some(opcode::SendMsg::new(fd, header).flags(flags as u32).build())
        }
    }
}

fn poll(fd: Fd, events: i16) -> Entry {
    opcode::PollAdd::new(types::Fd(fd.0), events as u32).build()
}

const fn poll_events(op: &Op) -> i16 {
    match op {
        Op::Connect { .. } | Op::Send { .. } | Op::Write { .. } | Op::WriteAt { .. } => {
            libc::POLLOUT
        }
        _ => libc::POLLIN,
    }
}

/// IORING_RECVSEND_POLL_FIRST: a receive follows one that emptied the socket, so that a first attempt
/// would find nothing, or less than the socket's receive mark. As old as buffer rings.
const POLL_FIRST: u16 = 1;

/// Connects put into one submission, and receives in several places; more of them make another.
const CONNECTS_A_SUBMISSION: usize = 64;
const RECEIVES_A_SUBMISSION: usize = 64;
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The offset that stands for a stream's own position.
const STREAM: u64 = u64::MAX;

const _: () = assert!(GATHER_MAX <= FRAMES_MAX);
const _: () = assert!(Class::Small.bytes() > HEADROOM + SMALL_BYTES);
