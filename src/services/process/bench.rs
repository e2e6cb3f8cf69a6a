//! A test's stand-in for the shard: one real connection in memory, the real driver, real children.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Login, Process, Start};
use crate::base::{Entropy, Instant, Span};
use crate::connection::{
    Answer, ChannelId, ChannelRequest, ClientConnectionConfig, Conn, Connection, ConnectionConfig,
    Event, Input, LoginMethod, Query, WindowSize,
};
use crate::crypto::{KeyKind, PrivateKey, RandomPool, SignatureAlgorithm};
use crate::limits::{CHANNEL_PACKET_BYTES_MAX, HEADROOM, SERVICE_PAUSE};
use crate::reactor::either::{EitherDriver, Way};
use crate::reactor::{Chunk, Class, Driver, Gather, Lease, PoolSizes, Token};
use crate::services::{
    Account, Done, Io, Job, Outgoing, Prelude, Program, Rules, Service, Surroundings, Wishes,
    open_terminal, spawn,
};
use crate::transport::{
    Client, ClientConfig, Env, HostKey, Outbox, Preferences, RekeyLimits, ServerConfig,
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the client saw, and in which order.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub said: Vec<Said>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Reply(bool),
    Status(u32),
    Signal(String),
    Eof,
    Close,
}

/// How a bench differs from an ordinary one.
pub(super) struct Setting {
    pub home: String,
    pub window: u32,
    pub packet: u32,
    pub rekey_bytes: Option<u64>,
    pub driver: Way,
    /// Large leases of each kind.
    pub leases: u32,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting {
            home: "/".to_owned(),
            window: 2 << 20,
            packet: CHANNEL_PACKET_BYTES_MAX,
            rekey_bytes: None,
            driver: Way::under_test(),
            leases: 96,
        }
    }
}

pub(super) struct Bench {
    pub process: Process,
    pub seen: Seen,
    /// The client reads nothing and grants nothing while set.
    pub deaf: bool,
    /// Data the client has read is granted again.
    pub granting: bool,
    /// The program's process number once it was started.
    pub pid: i32,
    /// Descriptors opened for the process and not closed yet, but for its watch.
    opened: BTreeSet<i32>,
    watch: Option<i32>,
    /// Jobs wait while set.
    pub jobs_held: bool,
    pub released: bool,
    driver: EitherDriver,
    conn: Conn,
    outgoing: Outgoing,
    wishes: Wishes,
    /// When the process wants to be called.
    paused: Option<Instant>,
    id: ChannelId,
    in_flight: usize,
    gone: bool,
    jobs: Vec<(u16, Job)>,
    entropy: RandomPool,
    host_key: PrivateKey,
    client: Connection<Client>,
    client_id: ChannelId,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    sends: Vec<Gather>,
}

/// What a test leaves running ends with it.
impl Drop for Bench {
    fn drop(&mut self) {
        if self.pid > 0 {
            let group = nix::unistd::Pid::from_raw(self.pid);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Bench {
    pub fn new(setting: &Setting) -> Bench {
        let pool = PoolSizes { small: 8, packet: setting.leases, bulk: setting.leases / 4 };
        let driver = EitherDriver::new(setting.driver, 256, pool).unwrap();
        let host_key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
        let mut preferences = Preferences::default();
        preferences.rekey = RekeyLimits { bytes: setting.rekey_bytes, ..RekeyLimits::default() };
        let server = ServerConfig::new(preferences, vec![HostKey::new(host_key.public().clone())]);
        let server = ConnectionConfig::new(Arc::new(server));
        let client = ClientConfig::new(Preferences::default());
        let mut client = ClientConnectionConfig::new(Arc::new(client));
        client.window_bytes = setting.window;
        client.packet_bytes = setting.packet;
        let (mut entropy, now) = (RandomPool::secure(), driver.now());
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let client = with_env(&mut to_server, &mut entropy, now, |env| {
            Connection::client(Arc::new(client), env).unwrap()
        });
        let conn = with_env(&mut to_client, &mut entropy, now, |env| {
            Conn::Server(Connection::server(Arc::new(server), env).unwrap())
        });
        let mut pair = Pair { conn, client, to_server, to_client, entropy, now, host_key };
        let (id, client_id) = pair.log_in();
        let Pair { conn, client, to_server, to_client, entropy, host_key, .. } = pair;
        Bench {
            process: Process::new(Arc::new(login(&setting.home))),
            seen: Seen::default(),
            deaf: false,
            granting: true,
            pid: 0,
            opened: BTreeSet::new(),
            watch: None,
            jobs_held: false,
            released: false,
            driver,
            conn,
            outgoing: Outgoing::default(),
            wishes: Wishes::default(),
            paused: None,
            id,
            in_flight: 0,
            gone: false,
            jobs: Vec::new(),
            entropy,
            host_key,
            client,
            client_id,
            to_server,
            to_client,
            sends: Vec::new(),
        }
    }

    /// Runs a command to the channel's end and answers what the client saw.
    pub fn exec(command: &str) -> Seen {
        let mut bench = Bench::new(&Setting::default());
        bench.ask(exec(command));
        bench.finish()
    }

    /// The account's shell does not exist.
    pub fn spoil_shell(&mut self) {
        let mut login = login("/");
        login.account.shell = "/no/such/shell".into();
        self.process = Process::new(Arc::new(login));
    }

    /// As when another service takes the channel over.
    pub fn make_way(&mut self) {
        self.call(|process, io| process.make_way(io));
    }

    /// The client asks something of the channel and wants an answer.
    pub fn ask(&mut self, request: ChannelRequest) {
        self.request(request, true);
    }

    /// The client asks something of the channel.
    pub fn request(&mut self, request: ChannelRequest, want_reply: bool) {
        let (client, id) = (&mut self.client, self.client_id);
        let now = self.driver.now();
        let sent = with_env(&mut self.to_server, &mut self.entropy, now, |env| {
            client.request(id, &request, want_reply, env).unwrap()
        });
        assert!(sent);
    }

    /// As much of `bytes` as the window takes.
    pub fn say(&mut self, bytes: &[u8]) -> usize {
        let credit = self.client.credit(self.client_id).min(CHANNEL_PACKET_BYTES_MAX) as usize;
        let count = bytes.len().min(credit);
        let (client, id) = (&mut self.client, self.client_id);
        let now = self.driver.now();
        let sent = with_env(&mut self.to_server, &mut self.entropy, now, |env| {
            client.write_data(id, None, &bytes[..count], env)
        });
        if sent { count } else { 0 }
    }

    /// All of `bytes`, unless the channel ends before.
    pub fn say_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.released {
            let count = self.say(bytes);
            bytes = &bytes[count..];
            self.turn();
        }
    }

    pub fn say_eof(&mut self) {
        let (client, id) = (&mut self.client, self.client_id);
        let now = self.driver.now();
        with_env(&mut self.to_server, &mut self.entropy, now, |env| {
            client.send_eof(id, env).unwrap();
        });
    }

    pub fn say_close(&mut self) {
        let (client, id) = (&mut self.client, self.client_id);
        let now = self.driver.now();
        with_env(&mut self.to_server, &mut self.entropy, now, |env| {
            client.close(id, env).unwrap();
        });
    }

    /// The connection breaks off.
    pub fn vanish(&mut self) {
        self.detach();
    }

    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Bench) -> bool) {
        let end = self.driver.now().after(PATIENCE);
        while !holds(self) {
            self.turn();
            let late = self.driver.now() > end;
            assert!(!late, "{what} did not come true: {:?} {:?}", self.process, self.seen.said);
        }
    }

    /// Goes on for a while without expecting anything.
    pub fn idle(&mut self, time: Duration) {
        let end = self.driver.now().after(time);
        while self.driver.now() < end {
            self.turn();
        }
    }

    /// Until the process is over, the channel closed and everything given back.
    pub fn finish(&mut self) -> Seen {
        self.until("the end", |bench| bench.released);
        self.check_rest();
        std::mem::take(&mut self.seen)
    }

    /// The process table has forgotten the program.
    pub fn is_reaped(&self) -> bool {
        assert!(self.pid > 0);
        let pid = nix::unistd::Pid::from_raw(self.pid);
        nix::sys::signal::kill(pid, None) == Err(nix::errno::Errno::ESRCH)
    }

    /// Leases out now.
    pub fn leases(&mut self) -> u64 {
        self.driver.pool().stats().outstanding()
    }

    pub fn begin_rekey(&mut self) {
        self.serve(|conn, env| conn.rekey(env).unwrap());
    }

    /// All leases that a service can have, a small one last.
    pub fn take_all(&mut self) -> Vec<Lease> {
        let pool = self.driver.pool();
        let mut all: Vec<Lease> = std::iter::from_fn(|| pool.take_spare(Class::Packet)).collect();
        while pool.free(Class::Small) > 0 {
            all.extend(pool.take(Class::Small));
        }
        all
    }

    pub fn give_back(&mut self, leases: Vec<Lease>) {
        leases.into_iter().for_each(|lease| self.driver.pool().give_back(lease));
    }

    /// As if a shared read had brought it.
    pub fn send_shared(&mut self, bytes: &[u8], mut lease: Lease) {
        let data = Span::new(HEADROOM, bytes.len() as u32);
        data.of_mut(self.driver.pool().bytes(&mut lease)).unwrap().copy_from_slice(bytes);
        self.call(|_, io| {
            assert!(io.reserve_shared() && !io.is_ready());
            io.send_shared(None, lease, data);
        });
    }

    /// Nothing in flight, no descriptor open, no lease out.
    fn check_rest(&mut self) {
        assert_eq!((self.in_flight, self.opened.len()), (0, 0));
        self.outgoing.abandon(self.driver.pool());
        for gather in std::mem::take(&mut self.sends) {
            self.outgoing.sent(gather, self.driver.pool());
        }
        assert_eq!(self.driver.pool().stats().outstanding(), 0);
    }

    /// One round of everything.
    pub fn turn(&mut self) {
        let before = (self.to_server.len(), self.to_client.len(), self.sends.len());
        self.hear_client();
        self.run_jobs();
        self.send();
        self.hear_server();
        let quiet = before == (0, 0, self.sends.len())
            && self.to_server.is_empty()
            && self.to_client.is_empty();
        let now = self.driver.now();
        let until = if quiet { now.after(Duration::from_millis(20)) } else { now };
        let mut completions = Vec::new();
        self.driver.wait(Some(until), &mut completions).unwrap();
        for completion in completions {
            self.in_flight -= 1;
            let tag = completion.token.tag;
            self.call(|process, io| {
                process.on_completion(tag, completion.op, completion.result, io);
            });
        }
        if self.paused.is_some_and(|at| at <= self.driver.now()) {
            self.paused = None;
            self.call(|process, io| process.on_ready(io));
        }
        self.resume();
        self.poll_events();
        self.release();
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Process, &mut Io<'_>) -> T) -> T {
        let mut failed = None;
        let mut io = Io {
            id: self.id,
            conn: &mut self.conn,
            outgoing: &mut self.outgoing,
            around: Surroundings {
                now: self.driver.now(),
                pool: self.driver.pool(),
                entropy: &mut self.entropy,
            },
            wishes: &mut self.wishes,
            failed: &mut failed,
        };
        let answer = call(&mut self.process, &mut io);
        assert!(failed.is_none(), "{failed:?}");
        self.grant_wishes();
        answer
    }

    fn grant_wishes(&mut self) {
        let wishes = std::mem::take(&mut self.wishes);
        let token = |tag| Token { key: 0, generation: 0, tag };
        self.in_flight += wishes.ops.len() + wishes.jobs.len();
        for tag in wishes.cancels {
            self.driver.cancel(token(tag));
        }
        for (tag, op) in wishes.ops {
            self.driver.submit(token(tag), op).unwrap();
        }
        if wishes.paused {
            self.paused = Some(self.driver.now().after(SERVICE_PAUSE));
        }
        if let Some(at) = wishes.wake_at {
            self.paused = Some(at);
        }
        self.jobs.extend(wishes.jobs);
        for fd in wishes.closes {
            let ours = self.watch.take_if(|watch| *watch == fd.0).is_some();
            assert!(self.opened.remove(&fd.0) || ours, "closed twice");
            self.driver.close(fd);
        }
    }

    fn run_jobs(&mut self) {
        if self.jobs_held {
            return;
        }
        for (tag, job) in std::mem::take(&mut self.jobs) {
            let done = match job {
                Job::Terminal(spec) => {
                    let terminal = open_terminal(&spec);
                    self.opened.extend(terminal.iter().map(|terminal| terminal.master().0));
                    Done::Terminal(terminal)
                }
                Job::Spawn(spec) => {
                    let child = spawn(&spec);
                    if let Ok(child) = &child {
                        self.opened.extend(child.pipes().into_iter().flatten().map(|fd| fd.0));
                        self.watch = Some(child.watch().0);
                        self.pid = child.pid();
                    }
                    Done::Spawned(child)
                }
                _ => panic!("an unexpected job"),
            };
            self.in_flight -= 1;
            self.call(|process, io| process.on_done(tag, done, io));
        }
    }

    /// Packets of the client, each in a lease of its own as far as the pool goes.
    fn hear_client(&mut self) {
        let mut failed = false;
        while !self.gone && !self.to_server.is_empty() && !failed {
            let Some(mut lease) = self.driver.pool().take(Class::Packet) else { break };
            let count = self.to_server.len().min(lease.len() as usize);
            let pool = self.driver.pool();
            pool.bytes(&mut lease)[..count].copy_from_slice(&self.to_server[..count]);
            let mut around =
                Surroundings { now: Instant::from_nanos(1), pool, entropy: &mut self.entropy };
            let conn = &mut self.conn;
            let input = self.outgoing.with_env(&mut around, |env, pool| {
                conn.handle_input(env, &mut pool.bytes(&mut lease)[..count]).unwrap()
            });
            let mut event = None;
            match input {
                Some(Input::Used { used, event: found }) => {
                    self.to_server.drain(..used as usize);
                    event = found;
                }
                Some(Input::Need { .. }) | None => failed = true,
            }
            if let Some(Event::Data { extended, data, .. }) = event {
                let chunk = Chunk { lease, span: data };
                self.call(|process, io| process.on_data(chunk, extended, io));
            } else {
                self.driver.pool().give_back(lease);
                self.on_event(event);
            }
            self.poll_events();
        }
    }

    /// What an answer has set free: requests that waited behind it.
    fn poll_events(&mut self) {
        while let Some(event) = self.conn.poll_event() {
            self.on_event(Some(event));
        }
    }

    fn on_event(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Request { request, want_reply, .. }) => {
                self.on_request(request, want_reply)
            }
            Some(Event::Eof(_)) => self.call(|process, io| process.on_eof(io)),
            Some(Event::WindowOpened(_) | Event::KeyExchanged { .. }) => {
                self.call(|process, io| process.on_ready(io));
            }
            Some(Event::PeerClosed(id)) => {
                self.detach();
                self.serve(|conn, env| conn.close(id, env).unwrap());
            }
            Some(Event::Closed(_)) => self.detach(),
            Some(Event::Query(Query::Sign { algorithm, message, .. })) => {
                let signature = self.host_key.sign(algorithm, &message).ok().map(Into::into);
                self.serve(|conn, env| conn.answer(Answer::Signature(signature), env).unwrap());
            }
            _ => {}
        }
    }

    /// Something of the connection itself; it leaves in order with the data.
    fn serve(&mut self, call: impl FnOnce(&mut Conn, &mut Env<'_>)) {
        let mut around = Surroundings {
            now: self.driver.now(),
            pool: self.driver.pool(),
            entropy: &mut self.entropy,
        };
        let conn = &mut self.conn;
        self.outgoing.with_env(&mut around, |env, _| call(conn, env)).unwrap();
    }

    fn on_request(&mut self, request: ChannelRequest, want_reply: bool) {
        let ok = self.call(|process, io| match request {
            ChannelRequest::PtyReq { term, size, modes } => {
                process.request_terminal(&term, size, modes, want_reply, io);
                None
            }
            ChannelRequest::Shell => {
                process.start(plain(Program::Shell), want_reply, io);
                None
            }
            ChannelRequest::Exec { command } => {
                let program = Program::Command(std::ffi::CString::new(&*command).unwrap());
                process.start(plain(program), want_reply, io);
                None
            }
            ChannelRequest::Env { name, value } => Some(process.set_variable(&name, &value)),
            ChannelRequest::WindowChange(size) => Some(process.resize(size)),
            ChannelRequest::Signal { name } => Some(process.signal(&name)),
            ChannelRequest::Break { .. } => Some(process.send_break()),
            _ => Some(false),
        });
        if let (Some(ok), true) = (ok, want_reply) {
            self.call(|_, io| io.answer_request(ok));
        }
    }

    fn detach(&mut self) {
        if !std::mem::replace(&mut self.gone, true) {
            self.outgoing.forget_channel(self.id, self.driver.pool());
            self.call(|process, io| process.on_close(io));
        }
    }

    fn release(&mut self) {
        let busy = !self.gone || self.in_flight > 0 || self.process.lingers();
        if !busy && !std::mem::replace(&mut self.released, true) {
            self.call(|process, io| process.release(io));
        }
    }

    fn resume(&mut self) {
        let mut around = Surroundings {
            now: self.driver.now(),
            pool: self.driver.pool(),
            entropy: &mut self.entropy,
        };
        self.outgoing.resume(&mut self.conn, &mut around).unwrap();
        if !self.gone {
            self.call(|process, io| process.on_ready(io));
        }
    }

    fn send(&mut self) {
        if self.deaf {
            self.sends.extend(self.outgoing.next_send());
            return;
        }
        let mut sends = std::mem::take(&mut self.sends);
        while let Some(gather) = sends.pop().or_else(|| self.outgoing.next_send()) {
            for chunk in gather.iter() {
                let bytes = self.driver.pool().view(&chunk.lease);
                self.to_client.extend_from_slice(chunk.span.of(bytes).unwrap());
            }
            self.outgoing.sent(gather, self.driver.pool());
        }
    }

    fn hear_server(&mut self) {
        let now = self.driver.now();
        let mut input = std::mem::take(&mut self.to_client);
        let mut at = 0;
        while at < input.len() {
            let client = &mut self.client;
            let heard = with_env(&mut self.to_server, &mut self.entropy, now, |env| {
                client.handle_input(env, &mut input[at..]).unwrap()
            });
            let Input::Used { used, event } = heard else { break };
            if let Some(Event::Data { extended, data, .. }) = &event {
                let bytes = data.of(&input[at..]).unwrap();
                match extended {
                    None => self.seen.stdout.extend_from_slice(bytes),
                    Some(1) => self.seen.stderr.extend_from_slice(bytes),
                    Some(other) => panic!("extended data of type {other}"),
                }
            }
            at += used as usize;
            self.client_event(event, now);
            while let Some(event) = self.client.poll_event() {
                self.client_event(Some(event), now);
            }
        }
        input.drain(..at);
        self.to_client = input;
    }

    fn client_event(&mut self, event: Option<Event>, now: Instant) {
        let (client, id) = (&mut self.client, self.client_id);
        let said = match event {
            Some(Event::Data { data, .. }) if self.granting => {
                return with_env(&mut self.to_server, &mut self.entropy, now, |env| {
                    client.consumed(id, data.len, env).unwrap();
                });
            }
            Some(Event::Query(Query::TrustHostKey { .. })) => {
                return with_env(&mut self.to_server, &mut self.entropy, now, |env| {
                    client.answer(Answer::Trust(true), env).unwrap();
                });
            }
            Some(Event::RequestDone { ok, .. }) => Said::Reply(ok),
            Some(Event::Request { request: ChannelRequest::ExitStatus { code }, .. }) => {
                Said::Status(code)
            }
            Some(Event::Request { request: ChannelRequest::ExitSignal { name, .. }, .. }) => {
                Said::Signal(name.into())
            }
            Some(Event::Eof(_)) => Said::Eof,
            Some(Event::PeerClosed(_) | Event::Closed(_)) => {
                with_env(&mut self.to_server, &mut self.entropy, now, |env| {
                    client.close(id, env).unwrap();
                });
                Said::Close
            }
            _ => return,
        };
        if self.seen.said.last() != Some(&Said::Close) {
            self.seen.said.push(said);
        }
    }
}

/// The two ends until there is a channel.
struct Pair {
    conn: Conn,
    client: Connection<Client>,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    entropy: RandomPool,
    now: Instant,
    host_key: PrivateKey,
}

impl Pair {
    fn log_in(&mut self) -> (ChannelId, ChannelId) {
        let user_key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
        let (mut ours, mut theirs) = (None, None);
        while ours.is_none() || theirs.is_none() {
            self.serve(&mut ours);
            self.ask(&user_key, &mut theirs);
        }
        (ours.unwrap(), theirs.unwrap())
    }

    fn serve(&mut self, channel: &mut Option<ChannelId>) {
        let (conn, now) = (&mut self.conn, self.now);
        while !self.to_server.is_empty() {
            let heard = with_env(&mut self.to_client, &mut self.entropy, now, |env| {
                conn.handle_input(env, &mut self.to_server).unwrap()
            });
            let Input::Used { used, event } = heard else { return };
            self.to_server.drain(..used as usize);
            with_env(&mut self.to_client, &mut self.entropy, now, |env| match event {
                Some(Event::Query(Query::Sign { message, algorithm, .. })) => {
                    let signature = self.host_key.sign(algorithm, &message).ok();
                    conn.answer(Answer::Signature(signature.map(Into::into)), env).unwrap();
                }
                Some(Event::Query(Query::FindKey { .. })) => {
                    conn.answer(Answer::Key(true), env).unwrap();
                }
                Some(Event::Open { id, .. }) => {
                    conn.accept_open_default(id, env).unwrap();
                    *channel = Some(id);
                }
                _ => {}
            });
        }
    }

    fn ask(&mut self, key: &PrivateKey, channel: &mut Option<ChannelId>) {
        let (client, now) = (&mut self.client, self.now);
        while !self.to_client.is_empty() {
            let heard = with_env(&mut self.to_server, &mut self.entropy, now, |env| {
                client.handle_input(env, &mut self.to_client).unwrap()
            });
            let Input::Used { used, event } = heard else { return };
            self.to_client.drain(..used as usize);
            with_env(&mut self.to_server, &mut self.entropy, now, |env| match event {
                Some(Event::Query(Query::TrustHostKey { .. })) => {
                    client.answer(Answer::Trust(true), env).unwrap();
                }
                Some(Event::Query(Query::SignLogin { message, algorithm, .. })) => {
                    let signature = key.sign(algorithm, &message).ok();
                    client.answer(Answer::Signature(signature.map(Into::into)), env).unwrap();
                }
                Some(Event::KeyExchanged { first: true }) => {
                    let (key, algorithm) = (key.public().clone(), SignatureAlgorithm::Ed25519);
                    let method = LoginMethod::PublicKey { key: Box::new(key), algorithm };
                    assert!(client.authenticate("somebody", method, env).unwrap());
                }
                Some(Event::Authenticated { .. }) => {
                    client.open_session(env).unwrap();
                }
                Some(Event::Opened { id }) => *channel = Some(id),
                _ => {}
            });
        }
    }
}

pub(super) fn exec(command: &str) -> ChannelRequest {
    ChannelRequest::Exec { command: command.as_bytes().into() }
}

pub(super) fn pty(columns: u32, rows: u32, modes: &[u8]) -> ChannelRequest {
    let size = WindowSize { columns, rows, ..WindowSize::default() };
    ChannelRequest::PtyReq { term: "vt220".into(), size, modes: modes.into() }
}

fn plain(program: Program) -> Start {
    Start { program, original_command: None, signals: true, prelude: Prelude::default() }
}

fn login(home: &str) -> Login {
    Login {
        account: Account {
            name: "somebody".to_owned(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            home: home.into(),
            shell: "/bin/bash".into(),
        },
        client: "192.0.2.7:50022".parse().unwrap(),
        server: "192.0.2.1:22".parse().unwrap(),
        set_env: vec![("SET".to_owned(), "by us".to_owned())],
        open_files: None,
        rules: Rules::default(),
    }
}

fn with_env<T>(
    to: &mut Vec<u8>,
    entropy: &mut dyn Entropy,
    now: Instant,
    call: impl FnOnce(&mut Env<'_>) -> T,
) -> T {
    let mut space = vec![0; 256 * 1024];
    let mut env = Env { now, entropy, out: Outbox::new(&mut space, 0) };
    let answer = call(&mut env);
    let used = env.out.used();
    to.extend_from_slice(&space[..used]);
    answer
}
