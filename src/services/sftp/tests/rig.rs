//! A session over a real pair of connections, with real files and no threads: jobs and operations
//! are carried out in between, and faults put in, so that every run is repeatable.

use std::collections::VecDeque;
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::uio::{pread, pwrite};
use nix::unistd::fsync;

use super::super::fs::borrow;
use super::super::*;
use crate::base::{Instant, SeededEntropy, Span};
use crate::connection::{
    Answer, ChannelId, ChannelKind, ChannelRequest, ClientConnectionConfig, Conn, Connection,
    ConnectionConfig, Event, Input as Carved, LoginMethod, Query,
};
use crate::crypto::{CipherKind, KeyKind, PrivateKey, SignatureAlgorithm};
use crate::limits::{HEADROOM, OUTBOX_RESERVE, SERVICE_PAUSE};
use crate::reactor::{Class, Fd, Gather, Pool, PoolSizes};
use crate::services::{Job, Luggage, Outgoing, Surroundings, Wishes};
use crate::transport::{
    Client, ClientConfig, Env, HostKey, Outbox, Preferences, RekeyLimits, ServerConfig,
};
use crate::wire::sftp::{Operation, Reply, Request, Response};
use crate::wire::{Malformed, Writer};

/// What is done to the operations of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Transfers end early at random.
    pub short: bool,
    /// EINTR, EAGAIN and ECANCELED at random.
    pub interrupt: bool,
    /// Completions come in another order.
    pub shuffle: bool,
    /// The errno of every write behind this many bytes of file.
    pub full_at: Option<(u64, i32)>,
    /// The errno of fsync.
    pub sync: Option<i32>,
}

pub struct Rig {
    pub pool: Pool,
    pub sftp: Sftp,
    pub faults: Faults,
    /// The client takes nothing off the wire while this is set.
    pub deaf: bool,
    /// Jobs and operations stay where they are while this is set.
    pub frozen: bool,
    /// Operations alone do.
    pub ops_frozen: bool,
    /// Bytes of SFTP that have reached the client.
    pub received: Vec<u8>,
    pub exit: Option<u32>,
    pub ended: bool,
    pub ops: VecDeque<(u16, Op)>,
    pub jobs: VecDeque<(u16, Job)>,
    /// The most operations and jobs that were in flight at once.
    pub ops_peak: usize,
    pub jobs_peak: usize,
    /// What the log was told.
    pub notes: Vec<forward::Note>,
    pub client: Connection<Client>,
    pub client_channel: Option<ChannelId>,
    entropy: SeededEntropy,
    now: Instant,
    /// When the pause ends that the service asked for.
    paused: Option<Instant>,
    /// Received bytes that the client will not grant again: its window shrinks by so much.
    pub withheld: u32,
    /// When it wants to be called, whatever happens before.
    wakes_at: Option<Instant>,
    /// Operations carried out.
    pub ops_done: usize,
    conn: Conn,
    outgoing: Outgoing,
    channel: Option<ChannelId>,
    user_key: PrivateKey,
    host_key: PrivateKey,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    next_id: u32,
    closed: bool,
    root: Root,
    home: PathBuf,
}

/// How a rig is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    pub window_bytes: u32,
    pub packet_bytes: u32,
    pub rekey: RekeyLimits,
    pub sizes: PoolSizes,
    pub seed: u64,
    pub options: Options,
    pub root: Root,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            window_bytes: 2 << 20,
            packet_bytes: 32 << 10,
            rekey: RekeyLimits::default(),
            sizes: PoolSizes { small: 64, packet: 128, bulk: 24 },
            seed: 7,
            options: Options::default(),
            root: Root::System,
        }
    }
}

impl Rig {
    pub fn with(home: &Path, setup: Setup) -> Rig {
        let host_key = PrivateKey::generate(KeyKind::Ed25519).expect("key");
        let user_key = PrivateKey::generate(KeyKind::Ed25519).expect("key");
        let mut preferences = Preferences::default();
        preferences.ciphers = vec![CipherKind::Aes128Gcm];
        preferences.rekey = setup.rekey;
        let server =
            ServerConfig::new(preferences.clone(), vec![HostKey::new(host_key.public().clone())]);
        let server = Arc::new(ConnectionConfig::new(Arc::new(server)));
        let client = Arc::new(ClientConfig::new(preferences));
        let client = Arc::new(ClientConnectionConfig {
            window_bytes: setup.window_bytes,
            packet_bytes: setup.packet_bytes,
            ..ClientConnectionConfig::new(client)
        });
        let mut entropy = SeededEntropy::new(setup.seed);
        let now = Instant::from_nanos(1_000_000_007);
        let mut out = Wire::new(now, &mut entropy);
        let conn = Conn::Server(out.call(|env| Connection::server(server, env)).expect("server"));
        let to_client = out.bytes;
        let mut out = Wire::new(now, &mut entropy);
        let client = out.call(|env| Connection::client(client, env)).expect("client");
        let to_server = out.bytes;
        let mut rig = Rig {
            pool: Pool::new(setup.sizes).expect("pool"),
            sftp: Sftp::new(setup.root.clone(), home, "me", setup.options),
            faults: Faults::default(),
            deaf: false,
            frozen: false,
            ops_frozen: false,
            received: Vec::new(),
            exit: None,
            ended: false,
            ops: VecDeque::new(),
            jobs: VecDeque::new(),
            ops_peak: 0,
            jobs_peak: 0,
            notes: Vec::new(),
            client,
            client_channel: None,
            entropy,
            now,
            paused: None,
            withheld: 0,
            wakes_at: None,
            ops_done: 0,
            conn,
            outgoing: Outgoing::default(),
            channel: None,
            user_key,
            host_key,
            to_server,
            to_client,
            next_id: 1,
            closed: false,
            root: setup.root,
            home: home.to_owned(),
        };
        rig.settle();
        assert!(rig.client_channel.is_some() && rig.channel.is_some(), "the channel is open");
        rig
    }

    /// A rig whose client has said INIT and heard VERSION.
    pub fn greeted(home: &Path) -> Rig {
        Rig::greeted_with(home, Setup::default())
    }

    pub fn greeted_with(home: &Path, setup: Setup) -> Rig {
        let mut rig = Rig::with(home, setup);
        rig.send(&init());
        rig.settle();
        assert!(matches!(rig.take_replies().as_slice(), [(0, Got::Version)]));
        rig
    }

    /// Sends a request; answers its id.
    pub fn ask(&mut self, operation: Operation<'_>) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&encode(id, operation));
        id
    }

    /// The client does nothing for so long.
    pub fn rest(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// What the client may send.
    pub fn client_credit(&self) -> u32 {
        self.client.credit(self.client_channel.expect("open"))
    }

    /// Asks, and waits for the reply.
    pub fn call(&mut self, operation: Operation<'_>) -> Got {
        let id = self.ask(operation);
        self.settle();
        let mut replies = self.take_replies();
        assert_eq!(replies.len(), 1, "{replies:?}");
        let (of, got) = replies.remove(0);
        assert_eq!(of, id);
        got
    }

    pub fn open(&mut self, path: &str, flags: u32) -> Vec<u8> {
        let attributes = Default::default();
        match self.call(Operation::Open { path: path.as_bytes(), flags, attributes }) {
            Got::Handle(handle) => handle,
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Sends bytes as the window allows, carrying out everything in between.
    pub fn send(&mut self, bytes: &[u8]) {
        self.send_in(bytes, 24 * 1024);
    }

    /// The same, in packets of at most `piece` bytes.
    pub fn send_in(&mut self, mut bytes: &[u8], piece: usize) {
        let mut idle = 0;
        while !bytes.is_empty() && !self.ended {
            let channel = self.client_channel.expect("open");
            let credit = self.client.credit(channel) as usize;
            let len = bytes.len().min(piece).min(credit);
            let (now, id) = (self.now, self.client_channel.expect("open"));
            let mut out = Wire::new(now, &mut self.entropy);
            let client = &mut self.client;
            let sent = len > 0 && out.call(|env| client.write_data(id, None, &bytes[..len], env));
            self.to_server.extend(out.bytes);
            if sent {
                bytes = &bytes[len..];
                idle = 0;
            } else {
                idle += 1;
                assert!(idle < 1_000, "the window does not open: {} left", bytes.len());
            }
            self.turn();
        }
    }

    pub fn end_of_input(&mut self) {
        let (now, id) = (self.now, self.client_channel.expect("open"));
        let mut out = Wire::new(now, &mut self.entropy);
        let client = &mut self.client;
        out.call(|env| client.send_eof(id, env)).expect("sent");
        self.to_server.extend(out.bytes);
    }

    /// The channel is gone, as when the connection is cut; then everything in flight completes.
    pub fn cut(&mut self) {
        self.serve(|sftp, io| sftp.on_close(io));
        self.closed = true;
        (self.frozen, self.ops_frozen) = (false, false);
        while self.carry_out() {}
        self.serve(|sftp, io| sftp.release(io));
        self.outgoing.abandon(&mut self.pool);
        assert_eq!(self.pool.stats().outstanding(), 0, "leases are back");
    }

    /// The session halts; what is under way ends, while nothing that the client sends is read. Then it is packed.
    pub fn pack(&mut self) -> Luggage {
        assert!(self.sftp.may_move(), "{:?}", self.sftp);
        (self.frozen, self.ops_frozen) = (false, false);
        self.serve(|sftp, io| sftp.halt(io));
        while self.carry_out() | self.flush() {}
        assert!(self.sftp.may_move(), "{:?}", self.sftp);
        let mut luggage = Luggage::default();
        let held = self.held();
        assert_eq!(held, self.sftp.input.held_bytes() + self.sftp.input.unreported());
        self.serve(|sftp, io| sftp.pack(&mut luggage, io));
        self.serve(|sftp, io| sftp.release(io));
        assert_eq!(self.held(), held, "packing grants no window");
        // What was asked for is asked for no more.
        (self.paused, self.wakes_at) = (None, None);
        luggage
    }

    /// Bytes of the channel whose window is to be granted again.
    pub fn held(&self) -> u32 {
        self.conn.held(self.channel.expect("open"))
    }

    pub fn unpack(&mut self, luggage: &Luggage) -> Result<(), Malformed> {
        let mut from = luggage.open();
        let close = |fd: Fd| nix::unistd::close(fd.0).expect("closed once");
        match Sftp::unpack(self.root.clone(), (&self.home, "me"), &mut from) {
            Ok(sftp) => self.sftp = sftp,
            Err(why) => {
                luggage.descriptors.iter().copied().for_each(close);
                return Err(why);
            }
        }
        if let Err(why) = from.end() {
            from.rest().for_each(close);
            self.serve(|sftp, io| sftp.release(io));
            return Err(why);
        }
        self.serve(|sftp, io| sftp.go_on(io));
        Ok(())
    }

    /// The session goes on in another process, where descriptors have other numbers.
    pub fn move_on(&mut self) {
        let mut luggage = self.pack();
        for fd in &mut luggage.descriptors {
            let other = borrow(*fd).try_clone_to_owned().expect("another");
            nix::unistd::close(fd.0).expect("closed");
            *fd = Fd(other.into_raw_fd());
        }
        self.unpack(&luggage).expect("what was packed");
    }

    /// Until nothing moves.
    pub fn settle(&mut self) {
        let mut turns = 0;
        while self.turn() {
            turns += 1;
            assert!(turns < 1_000_000, "it never ends");
        }
    }

    /// Lets so much time pass that a pause is over, then settles.
    pub fn pause(&mut self) {
        self.now = self.now.after(SERVICE_PAUSE);
        if self.paused.take_if(|at| *at <= self.now).is_some() {
            self.serve(|sftp, io| sftp.on_ready(io));
        }
        self.settle();
    }

    /// Lets so much time pass that an awaited time has come; how much it was.
    pub fn sleep(&mut self) -> Duration {
        let at = self.wakes_at.take().expect("a time is awaited");
        let time = at.since(self.now);
        self.now = self.now.max(at);
        self.serve(|sftp, io| sftp.on_ready(io));
        self.settle();
        time
    }

    /// One round of everything; false when nothing happened.
    pub fn turn(&mut self) -> bool {
        let mut moved = self.serve_input();
        moved |= !self.frozen && self.carry_out();
        moved |= self.flush();
        moved | (!self.deaf && self.client_input())
    }

    /// What the client has received, parsed; incomplete packets stay.
    pub fn take_replies(&mut self) -> Vec<(u32, Got)> {
        let mut replies = Vec::new();
        let received = std::mem::take(&mut self.received);
        let mut rest = received.as_slice();
        while let Some((len, body)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            if body.len() < len {
                break;
            }
            let response = Response::parse(&body[..len]).expect("a proper reply");
            replies.push((response.id, Got::from(response.reply)));
            rest = &body[len..];
        }
        self.received = rest.to_vec();
        replies
    }

    pub fn leases_out(&self) -> u64 {
        self.pool.stats().outstanding()
    }

    fn serve(&mut self, call: impl FnOnce(&mut Sftp, &mut Io<'_>)) {
        let mut wishes = Wishes::default();
        let mut failed = None;
        let mut io = Io {
            id: self.channel.expect("open"),
            conn: &mut self.conn,
            outgoing: &mut self.outgoing,
            around: Surroundings {
                now: self.now,
                pool: &mut self.pool,
                entropy: &mut self.entropy,
            },
            wishes: &mut wishes,
            failed: &mut failed,
        };
        call(&mut self.sftp, &mut io);
        assert!(failed.is_none(), "{failed:?}");
        assert!(self.conn.failure().is_none(), "{:?}", self.conn.failure());
        if wishes.paused {
            assert!(self.paused.is_none(), "one pause at a time");
            self.paused = Some(self.now.after(SERVICE_PAUSE));
        }
        self.wakes_at = wishes.wake_at.or(self.wakes_at);
        self.ops.extend(wishes.ops);
        self.jobs.extend(wishes.jobs);
        self.notes.extend(wishes.notes);
        self.ops_peak = self.ops_peak.max(self.ops.len());
        self.jobs_peak = self.jobs_peak.max(self.jobs.len());
        for fd in wishes.closes {
            assert!(nix::unistd::close(fd.0).is_ok(), "closed once");
        }
    }

    /// The server reads what has come.
    fn serve_input(&mut self) -> bool {
        let mut moved = false;
        let mut bytes = std::mem::take(&mut self.to_server);
        let mut at = 0;
        while !self.conn.blocked() && !self.closed {
            let mut out = Wire::new(self.now, &mut self.entropy);
            let conn = &mut self.conn;
            let input = out.call(|env| conn.handle_input(env, &mut bytes[at..])).expect("input");
            self.to_client.extend(out.bytes);
            let Carved::Used { used, event } = input else { break };
            moved = true;
            if let Some(event) = event {
                self.server_event(event, &bytes[at..]);
            }
            at += used as usize;
        }
        self.to_server = bytes.split_off(at);
        moved
    }

    fn server_event(&mut self, event: Event, bytes: &[u8]) {
        match event {
            Event::Query(Query::Sign { algorithm, message, .. }) => {
                let signature = self.host_key.sign(algorithm, &message).expect("signed");
                self.answer_server(Answer::Signature(Some(signature.into())));
            }
            Event::Query(Query::FindKey { .. }) => self.answer_server(Answer::Key(true)),
            Event::Open { id, kind: ChannelKind::Session } => {
                self.channel = Some(id);
                let mut out = Wire::new(self.now, &mut self.entropy);
                let conn = &mut self.conn;
                out.call(|env| conn.accept_open_default(id, env)).expect("accepted");
                self.to_client.extend(out.bytes);
            }
            Event::Data { extended, data, .. } => {
                let data = data.of(bytes).expect("within").to_vec();
                let class = if data.len() > 4096 { Class::Packet } else { Class::Small };
                let mut lease = self.pool.take(class).expect("a lease");
                let span = Span::new(HEADROOM, data.len() as u32);
                span.of_mut(self.pool.bytes(&mut lease)).expect("room").copy_from_slice(&data);
                let chunk = Chunk { lease, span };
                self.serve(|sftp, io| sftp.on_data(chunk, extended, io));
            }
            Event::Eof(_) => self.serve(|sftp, io| sftp.on_eof(io)),
            Event::WindowOpened(_) | Event::KeyExchanged { .. } => {
                self.resume();
                if self.channel.is_some() {
                    self.serve(|sftp, io| sftp.on_ready(io));
                }
            }
            Event::Authenticated { .. } | Event::AuthFailed(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn resume(&mut self) {
        let mut around =
            Surroundings { now: self.now, pool: &mut self.pool, entropy: &mut self.entropy };
        self.outgoing.resume(&mut self.conn, &mut around).expect("resumed");
    }

    fn answer_server(&mut self, answer: Answer) {
        let mut out = Wire::new(self.now, &mut self.entropy);
        let conn = &mut self.conn;
        out.call(|env| conn.answer(answer, env)).expect("answered");
        self.to_client.extend(out.bytes);
    }

    /// Carries out one job and one operation.
    fn carry_out(&mut self) -> bool {
        let mut moved = false;
        if let Some((tag, Job::Fs(root, job))) = self.jobs.pop_front() {
            let done = Done::Fs(Box::new(fs::run(&root, *job)));
            self.serve(|sftp, io| sftp.on_done(tag, done, io));
            moved = true;
        }
        let at = match self.faults.shuffle {
            true => self.entropy.below(self.ops.len() as u64) as usize,
            false => 0,
        };
        if !self.ops_frozen
            && let Some((tag, mut op)) = self.ops.remove(at)
        {
            self.ops_done += 1;
            let result = self.perform(&mut op).map_err(reactor::Errno);
            self.serve(|sftp, io| sftp.on_completion(tag, op, result, io));
            moved = true;
        }
        moved
    }

    fn perform(&mut self, op: &mut Op) -> Result<u32, i32> {
        if self.faults.interrupt && self.entropy.below(3) == 0 {
            let all = [Errno::EINTR, Errno::EAGAIN, Errno::ECANCELED];
            return Err(all[self.entropy.below(3) as usize] as i32);
        }
        match op {
            Op::ReadAt { fd, at, lease, spans } => {
                let bytes = self.pool.bytes(lease);
                let mut done = 0;
                for span in spans.iter() {
                    let place = span.of_mut(bytes).expect("inside the lease");
                    let got = pread(borrow(*fd), place, (*at + done) as i64);
                    done += got.map_err(|errno| errno as i32)? as u64;
                    if done == 0 {
                        break;
                    }
                }
                Ok(done as u32)
            }
            Op::WriteAt { fd, at, from } => {
                let (fd, at) = (*fd, *at);
                self.write_some(fd, at, from)
            }
            Op::Fsync { fd } => match self.faults.sync {
                Some(errno) => Err(errno),
                None => fsync(borrow(*fd)).map(|()| 0).map_err(|errno| errno as i32),
            },
            other => panic!("{other:?}"),
        }
    }

    fn write_some(&mut self, fd: Fd, at: u64, from: &mut Gather) -> Result<u32, i32> {
        let total: u32 = from.iter().map(|chunk| chunk.span.len).sum();
        assert!(total > 0, "nothing to write is not written");
        let mut left = match self.faults.short {
            true => 1 + self.entropy.below(total.into()) as u32,
            false => total,
        };
        if let Some((full_at, errno)) = self.faults.full_at {
            left = left.min(full_at.saturating_sub(at) as u32);
            if left == 0 {
                return Err(errno);
            }
        }
        let mut bytes = Vec::new();
        for chunk in from.iter() {
            let more = left.min(chunk.span.len);
            let span = Span::new(chunk.span.at, more);
            bytes.extend_from_slice(span.of(self.pool.view(&chunk.lease)).expect("inside"));
            left -= more;
        }
        let written = pwrite(borrow(fd), &bytes, at as i64).map_err(|errno| errno as i32)?;
        Ok(written as u32)
    }

    /// What is sealed travels; then the service hears that there is room again.
    fn flush(&mut self) -> bool {
        let mut moved = false;
        while let Some(mut gather) = self.outgoing.next_send() {
            let mut again = Gather::new();
            while let Some(chunk) = gather.pop() {
                let bytes = chunk.span.of(self.pool.view(&chunk.lease)).expect("inside");
                self.to_client.extend_from_slice(bytes);
                again.push(chunk).expect("as many as before");
            }
            self.outgoing.sent(again, &mut self.pool);
            moved = true;
        }
        if moved && !self.closed && self.channel.is_some() {
            self.serve(|sftp, io| sftp.on_ready(io));
        }
        moved
    }

    fn client_input(&mut self) -> bool {
        let mut moved = false;
        let mut bytes = std::mem::take(&mut self.to_client);
        let mut at = 0;
        while !self.client.blocked() {
            let mut out = Wire::new(self.now, &mut self.entropy);
            let client = &mut self.client;
            let input = out.call(|env| client.handle_input(env, &mut bytes[at..])).expect("input");
            self.to_server.extend(out.bytes);
            let Carved::Used { used, event } = input else { break };
            moved = true;
            if let Some(event) = event {
                self.client_event(event, &bytes[at..]);
            }
            at += used as usize;
        }
        let rest = bytes.split_off(at);
        self.to_client = [rest, std::mem::take(&mut self.to_client)].concat();
        moved
    }

    fn client_event(&mut self, event: Event, bytes: &[u8]) {
        let (now, user_key) = (self.now, &self.user_key);
        let mut out = Wire::new(now, &mut self.entropy);
        let client = &mut self.client;
        let algorithm = SignatureAlgorithm::Ed25519;
        match event {
            Event::Query(Query::TrustHostKey { .. }) => {
                out.call(|env| client.answer(Answer::Trust(true), env)).expect("answered");
            }
            Event::KeyExchanged { first: true } => {
                let key = Box::new(user_key.public().clone());
                let method = LoginMethod::PublicKey { key, algorithm };
                assert!(out.call(|env| client.authenticate("me", method, env)).expect("tried"));
            }
            Event::Query(Query::SignLogin { message, .. }) => {
                let signature = user_key.sign(algorithm, &message).expect("signed");
                let answer = Answer::Signature(Some(signature.into()));
                out.call(|env| client.answer(answer, env)).expect("answered");
            }
            Event::Authenticated { .. } => {
                let id = out.call(|env| client.open_session(env)).expect("asked");
                assert!(id.is_some(), "room for a channel");
            }
            Event::Data { data, .. } => {
                let data = data.of(bytes).expect("within");
                self.received.extend_from_slice(data);
                let (id, len) = (self.client_channel.expect("open"), data.len() as u32);
                let kept = len.min(self.withheld);
                self.withheld -= kept;
                out.call(|env| client.consumed(id, len - kept, env)).expect("consumed");
            }
            Event::Request { request: ChannelRequest::ExitStatus { code }, .. } => {
                self.exit = Some(code);
            }
            Event::PeerClosed(_) => self.ended = true,
            Event::Opened { id } => self.client_channel = Some(id),
            Event::Eof(_) | Event::WindowOpened(_) | Event::KeyExchanged { .. } => {}
            other => panic!("{other:?}"),
        }
        self.to_server.extend(out.bytes);
    }
}

/// Collects what one call writes.
struct Wire<'a> {
    bytes: Vec<u8>,
    now: Instant,
    entropy: &'a mut SeededEntropy,
}

impl<'a> Wire<'a> {
    fn new(now: Instant, entropy: &'a mut SeededEntropy) -> Wire<'a> {
        Wire { bytes: Vec::new(), now, entropy }
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Env<'_>) -> T) -> T {
        let at = self.bytes.len();
        self.bytes.resize(at + 4 * OUTBOX_RESERVE as usize, 0);
        let out = Outbox::new(&mut self.bytes[at..], 0);
        let mut env = Env { now: self.now, entropy: self.entropy, out };
        let outcome = call(&mut env);
        let used = env.out.used();
        self.bytes.truncate(at + used);
        outcome
    }
}

/// A reply that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Version,
    Status(u32, String),
    Handle(Vec<u8>),
    Data(Vec<u8>),
    Names(Vec<(Vec<u8>, Vec<u8>, crate::wire::sftp::Attributes)>),
    Attributes(crate::wire::sftp::Attributes),
    Extended(Vec<u8>),
}

impl Got {
    pub fn code(&self) -> u32 {
        match self {
            Got::Status(code, _) => *code,
            other => panic!("not a status: {other:?}"),
        }
    }
}

impl From<Reply<'_>> for Got {
    fn from(reply: Reply<'_>) -> Got {
        match reply {
            Reply::Version { .. } => Got::Version,
            Reply::Status { code, text } => {
                Got::Status(code.number(), String::from_utf8_lossy(text).into_owned())
            }
            Reply::Handle(handle) => Got::Handle(handle.to_vec()),
            Reply::Data(data) => Got::Data(data.to_vec()),
            Reply::Names(names) => Got::Names(
                names.iter().map(|(name, line, all)| (name.to_vec(), line.to_vec(), all)).collect(),
            ),
            Reply::Attributes(attributes) => Got::Attributes(attributes),
            Reply::Extended(data) => Got::Extended(data.to_vec()),
        }
    }
}

pub fn encode(id: u32, operation: Operation<'_>) -> Vec<u8> {
    let room = match operation {
        Operation::Write { data, .. } | Operation::Unknown { data, .. } => data.len() + 512,
        Operation::Stat { path } => path.len() + 512,
        _ => 2 * 1024,
    };
    let mut space = vec![0; room];
    let mut out = Writer::new(&mut space);
    Request { id, operation }.write(&mut out).expect("room");
    out.written().to_vec()
}

pub fn init() -> Vec<u8> {
    let extensions = crate::wire::sftp::Extensions::NONE;
    encode(0, Operation::Init { version: 3, extensions })
}
