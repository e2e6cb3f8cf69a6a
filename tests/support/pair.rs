//! Two connections in memory, a client and a server, under virtual time. Shared by several test
//! programs and a benchmark, none of which uses all of it.

#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy, Span};
use tidegate::connection::{
    Answer, ChannelId, ClientConnectionConfig, Conn, Connection, ConnectionConfig,
    ConnectionRecord, Event, Input, LoginMethod, Query, Secret,
};
use tidegate::crypto::{
    CipherKind, KexKind, KexTask, KeyKind, PrivateKey, Provider, PublicKey, SignatureAlgorithm,
};
use tidegate::transport::{
    Client, ClientConfig, CompressionKind, Env, Error, HostKey, Outbox, Preferences, RekeyLimits,
    Server, ServerConfig,
};

pub const USER: &str = "me";

/// Keys are made once a test program: making them is slow, and sharing them harms nobody here.
pub fn host_key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(KeyKind::Ed25519).expect("a key"))
}

pub fn user_key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(KeyKind::Ed25519).expect("a key"))
}

/// What protects the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Toy,
    Gcm,
    Chacha,
    Ctr,
    /// As `Toy`, and compressed once the user is authenticated.
    Zlib,
}

pub fn preferences(flavour: Flavour) -> Preferences {
    let mut preferences = Preferences::new("Pair_1").expect("valid software");
    match flavour {
        Flavour::Toy | Flavour::Zlib => {
            preferences.provider = Provider::Toy;
            preferences.kex = vec![KexKind::Toy];
            preferences.ciphers = vec![CipherKind::Toy];
        }
        Flavour::Gcm => preferences.ciphers = vec![CipherKind::Aes256Gcm],
        Flavour::Chacha => preferences.ciphers = vec![CipherKind::Chacha20Poly1305],
        Flavour::Ctr => preferences.ciphers = vec![CipherKind::Aes128Ctr],
    }
    match flavour {
        Flavour::Toy => {}
        Flavour::Zlib => preferences.compression = vec![CompressionKind::Delayed],
        _ => preferences.kex = vec![KexKind::Curve25519],
    }
    preferences
}

pub struct Setup {
    pub server: ConnectionConfig,
    pub client: ClientConnectionConfig,
    pub seed: u64,
}

impl Setup {
    pub fn new(flavour: Flavour) -> Setup {
        Setup::with_rekey(flavour, RekeyLimits::default())
    }

    /// Both ends ask for new keys by these limits.
    pub fn with_rekey(flavour: Flavour, rekey: RekeyLimits) -> Setup {
        let mut preferences = preferences(flavour);
        preferences.rekey = rekey;
        let host_keys = vec![HostKey::new(host_key().public().clone())];
        let server = ServerConfig::new(preferences.clone(), host_keys);
        let client = ClientConfig::new(preferences);
        Setup {
            server: ConnectionConfig::new(Arc::new(server)),
            client: ClientConnectionConfig::new(Arc::new(client)),
            seed: 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// An event with its data copied, so that it can be kept.
#[derive(Debug)]
pub enum Seen {
    Data { id: ChannelId, extended: Option<u32>, bytes: Vec<u8> },
    Event(Event),
}

impl Seen {
    /// Comparable, and the same however the bytes were cut on their way.
    pub fn trace(&self) -> String {
        match self {
            Seen::Data { id, extended, bytes } => format!("{id:?} {extended:?} {bytes:?}"),
            Seen::Event(event) => format!("{event:?}"),
        }
    }
}

/// One end and what its owner would have around it.
pub struct End {
    pub conn: Conn,
    pub entropy: SeededEntropy,
    /// Received and not handled.
    pub inbox: Vec<u8>,
    /// Sealed and not delivered.
    pub sent: VecDeque<u8>,
    pub seen: Vec<Seen>,
    /// Received data by channel.
    pub received: BTreeMap<ChannelId, Vec<u8>>,
    pub error: Option<Error>,
    pub habits: Habits,
    /// Arithmetic that nobody has done yet.
    pub tasks: VecDeque<Box<KexTask>>,
    outbox: Vec<u8>,
}

/// What an owner does by itself.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub accepts: bool,
    pub replies: bool,
    pub consumes: bool,
    pub closes: bool,
    /// Server: answers key look-ups. Otherwise the test does.
    pub judges: bool,
    /// Client: does the arithmetic that it is asked for. Otherwise the test does.
    pub computes: bool,
}

impl Habits {
    pub const ALL: Habits = Habits {
        accepts: true,
        replies: true,
        consumes: true,
        closes: true,
        judges: true,
        computes: true,
    };
}

impl End {
    pub fn new(conn: Conn, seed: u64) -> End {
        End {
            conn,
            entropy: SeededEntropy::new(seed),
            inbox: Vec::new(),
            sent: VecDeque::new(),
            seen: Vec::new(),
            received: BTreeMap::new(),
            error: None,
            habits: Habits::ALL,
            tasks: VecDeque::new(),
            outbox: vec![0; 64 * 1024],
        }
    }

    /// Calls `work` with an environment; what it wrote is on its way afterwards.
    pub fn call<T>(&mut self, now: Instant, work: impl FnOnce(&mut Conn, &mut Env<'_>) -> T) -> T {
        let out = Outbox::new(&mut self.outbox, 0);
        let mut env = Env { now, entropy: &mut self.entropy, out };
        let answer = work(&mut self.conn, &mut env);
        let used = env.out.used();
        self.sent.extend(&self.outbox[..used]);
        answer
    }

    /// The same for calls that may fail for good.
    pub fn attempt<T>(
        &mut self,
        now: Instant,
        work: impl FnOnce(&mut Conn, &mut Env<'_>) -> Result<T, Error>,
    ) -> Option<T> {
        match self.call(now, work) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    /// Sends through a plan, as file data goes. Answers how many bytes left.
    pub fn send_planned(&mut self, id: ChannelId, extended: Option<u32>, data: &[u8]) -> usize {
        let mut lease = vec![0u8; 264 * 1024];
        let Some(plan) = self.conn.plan(id, extended, 50, lease.len() as u32, data.len() as u32)
        else {
            return 0;
        };
        let mut rest = data;
        for span in plan.spans(0).iter() {
            let (now, later) = rest.split_at((span.len as usize).min(rest.len()));
            lease[span.at as usize..span.at as usize + now.len()].copy_from_slice(now);
            rest = later;
        }
        let got = data.len() as u32 - rest.len() as u32;
        match self.conn.seal_plan(&plan, got, &mut lease, &mut self.entropy) {
            Ok(span) => {
                self.sent.extend(span.of(&lease).expect("inside the lease"));
                got as usize
            }
            Err(_) => {
                self.conn.drop_plan(plan);
                0
            }
        }
    }

    /// Handles what has been received, as far as it goes.
    pub fn handle(&mut self, now: Instant) {
        let mut at = 0;
        while self.error.is_none() && !self.conn.blocked() {
            let mut inbox = std::mem::take(&mut self.inbox);
            let input = self.attempt(now, |conn, env| conn.handle_input(env, &mut inbox[at..]));
            self.inbox = inbox;
            match input {
                None => break,
                Some(Input::Need { total }) => {
                    assert!(total as usize > self.inbox.len() - at, "enough is there");
                    break;
                }
                Some(Input::Used { used, event }) => {
                    let from = at;
                    at += used as usize;
                    if let Some(event) = event {
                        self.take(event, from, now);
                    }
                    self.poll(now);
                }
            }
        }
        self.inbox.drain(..at);
    }

    /// Takes the events that wait.
    pub fn poll(&mut self, now: Instant) {
        while let Some(event) = self.conn.poll_event() {
            self.take(event, 0, now);
        }
    }

    fn take(&mut self, event: Event, from: usize, now: Instant) {
        let habits = self.habits;
        let seen = match event {
            Event::Data { id, extended, data } => {
                let span = Span::new(data.at + from as u32, data.len);
                let bytes = span.of(&self.inbox).expect("inside the buffer").to_vec();
                self.received.entry(id).or_default().extend(&bytes);
                if habits.consumes {
                    self.attempt(now, |conn, env| conn.consumed(id, data.len, env));
                }
                Seen::Data { id, extended, bytes }
            }
            Event::Copied { id, extended, data } => {
                let bytes = data.into_vec();
                self.received.entry(id).or_default().extend(&bytes);
                if habits.consumes {
                    self.attempt(now, |conn, env| conn.consumed(id, bytes.len() as u32, env));
                }
                Seen::Data { id, extended, bytes }
            }
            Event::Query(Query::Compute(task)) => {
                self.tasks.push_back(task);
                if habits.computes {
                    self.compute(now);
                }
                return;
            }
            Event::Query(query) => {
                self.answer(&query, now);
                Seen::Event(Event::Query(query))
            }
            event => {
                match &event {
                    Event::Open { id, .. } if habits.accepts => {
                        self.attempt(now, |conn, env| conn.accept_open_default(*id, env));
                    }
                    Event::Request { id, want_reply: true, .. } if habits.replies => {
                        self.attempt(now, |conn, env| conn.reply(*id, true, env));
                    }
                    Event::Global { .. } if habits.replies => {
                        self.attempt(now, |conn, env| conn.reply_global(false, None, env));
                    }
                    Event::PeerClosed(id) if habits.closes => {
                        self.attempt(now, |conn, env| conn.close(*id, env));
                    }
                    _ => {}
                }
                Seen::Event(event)
            }
        };
        self.seen.push(seen);
    }

    /// Does the oldest piece of arithmetic that was asked for, and says what came of it.
    pub fn compute(&mut self, now: Instant) {
        let task = self.tasks.pop_front().expect("a task");
        let piece = task.run(&mut self.entropy);
        self.attempt(now, |conn, env| conn.answer(Answer::Computed(piece), env));
        self.poll(now);
    }

    fn answer(&mut self, query: &Query, now: Instant) {
        let sign = |key: &PrivateKey, algorithm, message: &[u8]| {
            Answer::Signature(key.sign(algorithm, message).ok().map(Into::into))
        };
        let answer = match query {
            Query::Ask(asked) => {
                let secret = |_| Secret::new(b"secret".to_vec().into());
                Answer::Said(Some(asked.prompts.iter().map(secret).collect()))
            }
            Query::Agree { group, client_public } => {
                let agreement = tidegate::crypto::kex::respond_in(group, client_public);
                Answer::Agreement(agreement.map(|(public, secret)| (public.into(), secret)))
            }
            Query::Sign { host_key: 0, algorithm, message, .. } => {
                sign(host_key(), *algorithm, message)
            }
            Query::Sign { .. } => Answer::Signature(None),
            Query::TrustHostKey { key, .. } => Answer::Trust(**key == *host_key().public()),
            Query::Greet { .. } | Query::Compute(_) => return,
            Query::CheckSecrets { .. } | Query::Converse { .. } => Answer::Key(false),
            Query::Admit { .. } => Answer::Admitted { allowed: true, text: Box::default() },
            Query::FindKey { .. } if !self.habits.judges => return,
            Query::FindKey { user, key, .. } => {
                Answer::Key(**user == *USER && **key == *user_key().public())
            }
            Query::SignLogin { algorithm, message, .. } => sign(user_key(), *algorithm, message),
        };
        self.attempt(now, |conn, env| conn.answer(answer, env));
    }

    /// Moves the connection to another process and back, so to speak. False: it is not quiet.
    pub fn hand_over(&mut self, setup: &Setup, now: Instant) -> bool {
        let Some(record) = self.conn.export() else { return false };
        let bytes = record.to_bytes().expect("room");
        let record = ConnectionRecord::from_bytes(&bytes).expect("what was written is read");
        assert_eq!(*record.to_bytes().expect("room"), *bytes);
        self.conn = match &self.conn {
            Conn::Server(_) => {
                let config = Arc::new(setup.server.clone());
                Conn::Server(Connection::<Server>::import(config, record, now).expect("imported"))
            }
            Conn::Client(_) => {
                let config = Arc::new(setup.client.clone());
                Conn::Client(Connection::<Client>::import(config, record, now).expect("imported"))
            }
        };
        true
    }

    pub fn traces(&self) -> Vec<String> {
        self.seen.iter().map(Seen::trace).collect()
    }

    pub fn saw(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        let events = self.seen.iter().filter(|seen| match seen {
            Seen::Event(event) => wanted(event),
            Seen::Data { .. } => false,
        });
        events.count()
    }
}

pub struct Pair {
    pub now: Instant,
    pub client: End,
    pub server: End,
    pub chance: SeededEntropy,
    /// Delivers in random pieces instead of all at once.
    pub splits: bool,
}

impl Pair {
    pub fn new(setup: &Setup) -> Pair {
        let now = Instant::from_nanos(1_000_000_000);
        let mut outbox = vec![0; 64 * 1024];
        let mut entropy = SeededEntropy::new(setup.seed);
        let mut start = |which: Side| {
            let out = Outbox::new(&mut outbox, 0);
            let mut env = Env { now, entropy: &mut entropy, out };
            let conn = match which {
                Side::Server => {
                    let config = Arc::new(setup.server.clone());
                    Conn::Server(Connection::server(config, &mut env).expect("starts"))
                }
                Side::Client => {
                    let config = Arc::new(setup.client.clone());
                    Conn::Client(Connection::client(config, &mut env).expect("starts"))
                }
            };
            let used = env.out.used();
            let seed = entropy.next_u64();
            let mut end = End::new(conn, seed);
            end.sent.extend(&outbox[..used]);
            end
        };
        let (client, server) = (start(Side::Client), start(Side::Server));
        let chance = SeededEntropy::new(setup.seed ^ 0x5eed);
        Pair { now, client, server, chance, splits: false }
    }

    /// Up to the end of the login.
    pub fn logged_in(setup: &Setup) -> Pair {
        let mut pair = Pair::new(setup);
        pair.run();
        pair.authenticate(user_key().public());
        pair.run();
        assert!(pair.client.conn.is_authenticated() && pair.server.conn.is_authenticated());
        pair
    }

    pub fn authenticate(&mut self, key: &PublicKey) {
        self.authenticate_as(USER, key);
    }

    pub fn authenticate_as(&mut self, user: &str, key: &PublicKey) {
        let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
        self.login(user, LoginMethod::PublicKey { key: Box::new(key.clone()), algorithm });
    }

    pub fn login(&mut self, user: &str, method: LoginMethod) {
        let now = self.now;
        let begun = self.client.attempt(now, |conn, env| match conn {
            Conn::Client(client) => client.authenticate(user, method, env),
            Conn::Server(_) => unreachable!("the client is a client"),
        });
        assert_eq!(begun, Some(true));
    }

    pub fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Delivers and handles until nothing moves any more; time stands still.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Moves some bytes one way or the other. False: there was nothing to move.
    pub fn step(&mut self) -> bool {
        let up = self.deliver(Side::Server);
        let down = self.deliver(Side::Client);
        up || down
    }

    fn deliver(&mut self, side: Side) -> bool {
        let Pair { now, client, server, chance, splits } = self;
        let (from, to) = match side {
            Side::Server => (client, server),
            Side::Client => (server, client),
        };
        let mut count = from.sent.len();
        if *splits {
            let bound = 1 + chance.below(40_000);
            count = count.min(1 + chance.below(bound) as usize);
        }
        to.inbox.extend(from.sent.drain(..count));
        let before = to.inbox.len();
        to.handle(*now);
        count > 0 || to.inbox.len() < before
    }

    /// Lets time pass, calling time-outs when they are due.
    pub fn advance(&mut self, time: Duration) {
        let until = self.now.after(time);
        loop {
            self.run();
            let due = [&self.client, &self.server]
                .iter()
                .filter(|end| end.error.is_none())
                .filter_map(|end| end.conn.poll_timeout())
                .min();
            let Some(due) = due.filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            self.time_out();
        }
        self.now = until;
    }

    /// Calls the time-outs that are due now.
    pub fn time_out(&mut self) {
        let now = self.now;
        for end in [&mut self.client, &mut self.server] {
            if end.error.is_none() && end.conn.poll_timeout().is_some_and(|at| at <= now) {
                end.attempt(now, |conn, env| conn.handle_timeout(env));
                end.poll(now);
            }
        }
    }

    /// A session open on both ends: the client's name for it, and the server's.
    pub fn session(&mut self) -> (ChannelId, ChannelId) {
        let now = self.now;
        let seen = self.server.seen.len();
        let ours = self.client.attempt(now, |conn, env| conn.open_session(env));
        let ours = ours.flatten().expect("a channel");
        self.run();
        let theirs = self.server.seen[seen..].iter().find_map(|seen| match seen {
            Seen::Event(Event::Open { id, .. }) => Some(*id),
            _ => None,
        });
        (ours, theirs.expect("asked for"))
    }
}

pub fn toy() -> Setup {
    Setup::new(Flavour::Toy)
}
