//! The SFTP service on a channel of a real connection, over files that do not exist: jobs and
//! operations are carried out when the script says so, and end as it says.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use super::Input;
use super::fixtures::private_key;
use super::puppet::{Puppet, payload_of};
use super::rig::Rig;
use crate::base::{Instant, SeededEntropy, Span};
use crate::connection::{Answer, ChannelId, Conn, Event, Input as Taken, Query};
use crate::crypto::KeyKind;
use crate::limits::{HEADROOM, PACKET_SLOT, SFTP_HANDLES_MAX, SFTP_PACKET_BYTES_MAX};
use crate::reactor::{Chunk, Class, Gather, Lease, Op, Pool, PoolSizes};
use crate::services::sftp::{FsJob, Options, Sftp};
use crate::services::{Io, Job, Outgoing, Root, Service, Surroundings, Wishes};
use crate::transport::{Env, Error, Outbox};
use crate::wire::Writer;
use crate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelNumber, ChannelOpen, ChannelWindowAdjust,
    OpenKind,
};
use crate::wire::sftp::{Attributes, Extensions, Operation, Reply, Request, Response};

/// A script of requests, of what becomes of them, and of everything that can come in between.
pub fn sftp_server(data: &[u8]) {
    let mut input = Input::new(data);
    let mut desk = Desk::new(input.byte());
    desk.ask(Operation::Init { version: 3, extensions: Extensions::NONE });
    for _ in 0..STEPS_MAX {
        if input.is_empty() || desk.over || desk.moved > MOVED_MAX {
            break;
        }
        step(&mut desk, &mut input);
    }
    desk.finish();
}

pub(super) const STEPS_MAX: usize = 400;
/// Bytes both ways in one run; more only take longer.
pub(super) const MOVED_MAX: usize = 4 << 20;
/// What a packet counts for at least, for single bytes take as long.
const PACKET_WORTH: usize = 256;
const PACKETS_A_REQUEST: usize = 1024;
/// What the client lets the server send at first.
const WINDOW: u32 = 1 << 20;

fn step(desk: &mut Desk, input: &mut Input<'_>) {
    match input.byte() % 16 {
        0 => {
            let bytes = input.string();
            desk.honest = false;
            desk.send(bytes);
        }
        1..=6 => desk.request(input),
        7 => desk.fate = input.byte(),
        8 => desk.do_job(),
        9 => desk.do_op(usize::from(input.byte())),
        10 => desk.settle(),
        11 => desk.frozen = !desk.frozen,
        12 => {
            let bytes = u32::from(input.uint16()) << 4;
            desk.adjust(bytes);
        }
        13 => desk.exchange(input.byte()),
        14 => desk.hoard(input.byte()),
        _ => match input.byte() % 8 {
            0 => desk.end_of_input(),
            1 => desk.close(),
            2 => desk.piece = usize::from(input.byte()).max(1),
            3 => desk.size = u64::from(input.uint32()) << (input.byte() % 32),
            _ => desk.flush(),
        },
    }
}

/// A service that is played with here.
pub(super) trait Played: Service + Sized {
    /// What it has said is in `desk.puppet.data`.
    fn heard(desk: &mut Desk<Self>);
}

/// Everything round one session.
pub(super) struct Desk<S: Played = Sftp> {
    conn: Conn,
    pub puppet: Puppet,
    id: ChannelId,
    pub sftp: S,
    outgoing: Outgoing,
    pub pool: Pool,
    entropy: SeededEntropy,
    pub jobs: VecDeque<(u16, FsJob)>,
    pub ops: VecDeque<(u16, Op)>,
    /// Descriptors that are open; the service closes each of them once.
    pub open: BTreeMap<i32, u64>,
    pub next_fd: i32,
    /// How jobs and operations end: zero is well.
    pub fate: u8,
    /// How large files are when they are opened.
    pub size: u64,
    /// Nothing is carried out by itself.
    pub frozen: bool,
    /// Bytes of SFTP in one channel packet.
    pub piece: usize,
    /// Leases somebody else has.
    hoarded: Vec<Lease>,
    /// Only requests we know have been sent: every one of them is owed one reply.
    pub honest: bool,
    asked: BTreeMap<u32, u32>,
    next_id: u32,
    handles: Vec<Vec<u8>>,
    ended: bool,
    /// Bytes of SFTP both ways.
    pub moved: usize,
    /// The channel is gone.
    pub over: bool,
}

impl Desk {
    fn new(seed: u8) -> Desk {
        Desk::with(seed, Sftp::new(Root::System, Path::new("/home/me"), "me", Options::default()))
    }
}

impl<S: Played> Desk<S> {
    pub(super) fn with(seed: u8, sftp: S) -> Desk<S> {
        let mut rig = Rig::authenticated(true);
        rig.say(&payload_of(&ChannelOpen {
            sender: ChannelNumber(0),
            window_bytes: WINDOW,
            packet_bytes_max: if seed & 1 == 0 { 32 * 1024 } else { 300 },
            kind: OpenKind::Session,
        }));
        let id = rig.channels[0];
        let sizes = PoolSizes { small: 24, packet: 12, bulk: 6 };
        Desk {
            conn: rig.conn,
            puppet: rig.puppet,
            id,
            sftp,
            outgoing: Outgoing::default(),
            pool: Pool::new(sizes).expect("memory"),
            entropy: SeededEntropy::new(seed.into()),
            jobs: VecDeque::new(),
            ops: VecDeque::new(),
            open: BTreeMap::new(),
            next_fd: 1000,
            fate: 0,
            size: 100_000,
            frozen: false,
            piece: 32 * 1024,
            hoarded: Vec::new(),
            honest: true,
            asked: BTreeMap::new(),
            next_id: 0,
            handles: Vec::new(),
            ended: false,
            moved: 0,
            over: false,
        }
    }

    // ---- What the client does ----------------------------------------------------------------

    fn request(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let choice = usize::from(input.byte());
        let unknown = [0xff; 4].to_vec();
        let handle = match self.handles.get(choice % 8) {
            Some(handle) if choice < 250 => handle.clone(),
            _ => unknown,
        };
        let other = self.handles.first().cloned().unwrap_or_default();
        let (handle, path) = (&*handle, &b"/tmp/a"[..]);
        let attributes = match input.byte() {
            0 => Attributes { size: Some(9), permissions: Some(0o644), ..Attributes::EMPTY },
            _ => Attributes::EMPTY,
        };
        let data = vec![0x77; usize::from(input.uint16()) << (kind % 3)];
        let offset = u64::from(input.byte()) << (8 * (kind % 8));
        let operation = match kind % 32 {
            0..=3 => Operation::Open { path, flags: u32::from(input.byte()), attributes },
            4 => Operation::OpenDirectory { path },
            5 | 6 => Operation::Close { handle },
            7..=11 => Operation::Read { handle, offset, len: input.uint32() },
            12..=16 => Operation::Write { handle, offset, data: &data },
            17 => Operation::ReadDirectory { handle },
            18 => Operation::HandleStat { handle },
            19 => Operation::HandleSetStat { handle, attributes },
            20 => Operation::Fsync { handle },
            21 => Operation::HandleVfsStat { handle },
            22 => Operation::CopyData {
                from: handle,
                from_offset: offset,
                len: u64::from(input.uint16()),
                to: &other,
                to_offset: 0,
            },
            23 => Operation::Stat { path: input.string() },
            24 => Operation::LinkSetStat { path, attributes },
            25 => Operation::RealPath { path: input.string() },
            26 => Operation::Rename { from: path, to: input.string() },
            27 => Operation::Limits,
            28 => Operation::ExpandPath { path: b"~me/x" },
            29 => Operation::NamesById { users: input.string(), groups: &[] },
            30 => Operation::Extended { name: b"x@y", data: input.string() },
            _ => Operation::Unknown { kind: 99, data: input.string() },
        };
        self.ask(operation);
    }

    fn ask(&mut self, operation: Operation<'_>) {
        let id = self.next_id;
        self.next_id += 1;
        *self.asked.entry(id).or_default() += 1;
        let mut space = vec![0; 270 * 1024];
        let mut out = Writer::new(&mut space);
        Request { id, operation }.write(&mut out).expect("room");
        let bytes = out.written().to_vec();
        // One that is too long ends the session.
        self.honest &= bytes.len() <= 4 + SFTP_PACKET_BYTES_MAX as usize;
        self.send(&bytes);
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        let piece = self.piece.clamp(bytes.len() / PACKETS_A_REQUEST, 32 * 1024).max(1);
        self.moved += bytes.len().max(bytes.len() / piece * PACKET_WORTH);
        for data in bytes.chunks(piece) {
            let recipient = ChannelNumber(self.id.number());
            let packet = self.puppet.packet(&payload_of(&ChannelData { recipient, data }));
            self.deliver(packet);
        }
    }

    pub(super) fn adjust(&mut self, bytes: u32) {
        let recipient = ChannelNumber(self.id.number());
        let packet = self.puppet.packet(&payload_of(&ChannelWindowAdjust { recipient, bytes }));
        self.deliver(packet);
    }

    pub(super) fn end_of_input(&mut self) {
        let recipient = ChannelNumber(self.id.number());
        if !std::mem::replace(&mut self.ended, true) {
            let packet = self.puppet.packet(&payload_of(&ChannelEof { recipient }));
            self.deliver(packet);
        }
    }

    pub(super) fn close(&mut self) {
        let recipient = ChannelNumber(self.id.number());
        let packet = self.puppet.packet(&payload_of(&ChannelClose { recipient }));
        self.deliver(packet);
    }

    /// Parts of a key exchange of the server's; data waits for its end.
    pub(super) fn exchange(&mut self, part: u8) {
        if part.is_multiple_of(2) {
            self.call(|conn, env| drop(conn.rekey(env)));
            self.flush();
        } else {
            for step in 0..3 {
                let packet = match step {
                    0 => self.puppet.offer(),
                    1 => self.puppet.half(),
                    _ => self.puppet.new_keys(),
                };
                self.deliver(packet);
                self.flush();
            }
        }
    }

    // ---- What the shard does -----------------------------------------------------------------

    fn call<T>(&mut self, work: impl FnOnce(&mut Conn, &mut Env<'_>) -> T) -> T {
        let mut target = vec![0; PACKET_SLOT as usize];
        // What the service has sealed comes first, and what it seals because there is room again.
        self.flush();
        self.hear_sealed();
        let out = Outbox::new(&mut target, 0);
        let mut env = Env { now: NOW, entropy: &mut self.entropy, out };
        let answer = work(&mut self.conn, &mut env);
        let used = env.out.used();
        self.puppet.hear(&target[..used]);
        answer
    }

    fn deliver(&mut self, mut packet: Vec<u8>) {
        if self.over {
            return;
        }
        if self.conn.blocked() {
            // Only the signature of an exchange is ever asked for here, and it is given at once.
            self.cut();
            return;
        }
        match self.call(|conn, env| conn.handle_input(env, &mut packet)) {
            Ok(Taken::Used { event: Some(event), .. }) => self.event(event, &packet),
            Ok(_) => {}
            Err(error) => {
                assert!(!matches!(error, Error::Invariant(_)), "{error}");
                self.cut();
            }
        }
        while let Some(event) = self.conn.poll_event() {
            self.event(event, &[]);
        }
        if !self.frozen {
            self.settle();
        }
    }

    fn event(&mut self, event: Event, bytes: &[u8]) {
        match event {
            Event::Query(Query::Sign { algorithm, message, .. }) => {
                let key = private_key(KeyKind::Ed25519);
                let signature = key.sign(algorithm, &message).expect("a working key");
                let answer = Answer::Signature(Some(signature.into()));
                self.call(|conn, env| conn.answer(answer, env)).expect("answered");
            }
            Event::Data { data, extended, .. } => {
                let data = data.of(bytes).expect("inside the buffer");
                let class = if data.len() > 4096 { Class::Packet } else { Class::Small };
                // Without a buffer nothing is received; here that is the end.
                let Some(mut lease) = self.pool.take(class) else { return self.cut() };
                let span = Span::new(HEADROOM, data.len() as u32);
                span.of_mut(self.pool.bytes(&mut lease)).expect("room").copy_from_slice(data);
                self.serve(|sftp, io| sftp.on_data(Chunk { lease, span }, extended, io));
            }
            Event::Eof(_) => self.serve(|sftp, io| sftp.on_eof(io)),
            Event::PeerClosed(id) => {
                self.cut();
                self.call(|conn, env| drop(conn.close(id, env)));
            }
            Event::Closed(_) => self.cut(),
            Event::WindowOpened(_) | Event::KeyExchanged { .. } => {
                let now = NOW;
                let mut around =
                    Surroundings { now, pool: &mut self.pool, entropy: &mut self.entropy };
                let resumed = self.outgoing.resume(&mut self.conn, &mut around);
                resumed.expect("no mistake of ours");
                self.serve(|sftp, io| sftp.on_ready(io));
            }
            _ => {}
        }
    }

    pub(super) fn serve(&mut self, call: impl FnOnce(&mut S, &mut Io<'_>)) {
        let mut wishes = Wishes::default();
        let mut failed = None;
        let mut io = Io {
            id: self.id,
            conn: &mut self.conn,
            outgoing: &mut self.outgoing,
            around: Surroundings { now: NOW, pool: &mut self.pool, entropy: &mut self.entropy },
            wishes: &mut wishes,
            failed: &mut failed,
        };
        call(&mut self.sftp, &mut io);
        // A connection that has failed says so again.
        assert!(failed.is_none() || self.over, "{failed:?}");
        for (tag, op) in wishes.ops {
            assert!(self.open.contains_key(&op.fd().0), "an operation on a closed file");
            assert!(self.ops.iter().all(|(other, _)| *other != tag), "a tag twice in flight");
            self.ops.push_back((tag, op));
        }
        for (tag, job) in wishes.jobs {
            let Job::Fs(_, job) = job else { panic!("a job that is not SFTP's") };
            assert!(self.jobs.iter().all(|(other, _)| *other != tag), "a tag twice in flight");
            self.jobs.push_back((tag, *job));
        }
        for fd in wishes.closes {
            assert!(self.open.remove(&fd.0).is_some(), "a file closed twice");
            assert!(self.ops.iter().all(|(_, op)| op.fd() != fd), "a file closed in use");
        }
        assert!(self.open.len() <= SFTP_HANDLES_MAX, "too many files");
    }

    /// What is sealed reaches the client, and the service hears that there is room again.
    pub(super) fn flush(&mut self) {
        let moved = self.hear_sealed();
        S::heard(self);
        if moved && !self.over {
            self.serve(|sftp, io| sftp.on_ready(io));
        }
    }

    /// `true`: there was something.
    fn hear_sealed(&mut self) -> bool {
        let mut moved = false;
        while let Some(mut gather) = self.outgoing.next_send() {
            let mut again = Gather::new();
            while let Some(chunk) = gather.pop() {
                let bytes = chunk.span.of(self.pool.view(&chunk.lease)).expect("inside");
                self.puppet.hear(bytes);
                again.push(chunk).expect("as many as before");
            }
            self.outgoing.sent(again, &mut self.pool);
            moved = true;
        }
        moved
    }

    /// Until nothing moves.
    pub(super) fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 100_000, "it never ends");
            let idle = self.jobs.is_empty() && self.ops.is_empty();
            self.do_job();
            self.do_op(0);
            self.flush();
            if idle {
                return;
            }
        }
    }

    pub(super) fn hoard(&mut self, choice: u8) {
        let class = [Class::Small, Class::Packet, Class::Bulk][usize::from(choice) % 3];
        if choice < 128 {
            self.hoarded.extend(self.pool.take(class));
        } else {
            while let Some(lease) = self.hoarded.pop() {
                self.pool.give_back(lease);
            }
            if !self.over {
                self.serve(|sftp, io| sftp.on_ready(io));
            }
        }
    }

    /// The channel is gone: everything in flight completes, and nothing may be left.
    pub(super) fn cut(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.serve(|sftp, io| sftp.on_close(io));
        while !self.jobs.is_empty() || !self.ops.is_empty() {
            self.do_job();
            self.do_op(0);
        }
        self.serve(|sftp, io| sftp.release(io));
        self.outgoing.abandon(&mut self.pool);
        assert!(self.open.is_empty(), "files left open: {:?}", self.open);
    }

    pub(super) fn finish(&mut self) {
        self.hoard(255);
        (self.frozen, self.fate) = (false, 0);
        if !self.over && !self.puppet.astray {
            // Whatever held it up is gone: what was asked is answered.
            self.exchange(1);
            for _ in 0..64 {
                self.adjust(1 << 20);
                self.settle();
                if self.moved > 16 * MOVED_MAX {
                    return self.cut();
                }
            }
            let owed: Vec<u32> = self.asked.values().copied().filter(|count| *count > 0).collect();
            let quiet = self.over || self.ended || !self.honest;
            assert!(quiet || owed.is_empty(), "{} requests without a reply", owed.len());
        }
        self.cut();
        assert_eq!(self.pool.stats().outstanding(), 0, "leases are missing");
    }
}

impl Played for Sftp {
    fn heard(desk: &mut Desk<Sftp>) {
        let heard = std::mem::take(&mut desk.puppet.data);
        let mut rest = heard.as_slice();
        while let Some((len, body)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            let Some((packet, behind)) = body.split_at_checked(len) else { break };
            let response = Response::parse(packet).expect("a proper reply");
            if desk.honest {
                let id =
                    if matches!(response.reply, Reply::Version { .. }) { 0 } else { response.id };
                let owed = desk.asked.get_mut(&id).expect("a reply to a request");
                *owed = owed.checked_sub(1).expect("one reply to a request");
            }
            if let Reply::Handle(handle) = response.reply {
                desk.handles.push(handle.to_vec());
            }
            desk.moved += len;
            rest = behind;
        }
        desk.puppet.data = rest.to_vec();
    }
}

const NOW: Instant = Instant::from_nanos(1_000_000_007);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_works() {
        let mut desk = Desk::new(0);
        desk.ask(Operation::Init { version: 3, extensions: Extensions::NONE });
        desk.ask(Operation::Open { path: b"/a", flags: 1, attributes: Attributes::EMPTY });
        let handle = desk.handles.pop().expect("a handle");
        desk.ask(Operation::Read { handle: &handle, offset: 0, len: 90_000 });
        desk.ask(Operation::Write { handle: &handle, offset: 0, data: &[7; 50_000] });
        assert!(desk.moved > 140_000, "{} bytes moved", desk.moved);
        assert!(desk.asked.values().all(|owed| *owed == 0) && desk.open.len() == 1);
        desk.finish();
    }
}
