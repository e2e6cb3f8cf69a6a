//! A connection of ours before a puppet: an owner as the shard would be, with habits a script sets.

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use super::fixtures::{
    HOST_KEY_ALGORITHM, client_config, private_key, server_config, toy_client, toy_server,
};
use super::puppet::{Puppet, payload_of};
use crate::base::{Instant, SeededEntropy, Span};
use crate::connection::{
    Answer, ChannelId, ChannelRequest, ClientConnectionConfig, Conn, Connection, ConnectionConfig,
    ConnectionRecord, Event, Input, LoginMethod, Plan, Query, Questions, Secret,
};
use crate::crypto::{KexKind, KeyKind, kex};
use crate::limits::{CHANNELS_MAX, OUTBOX_RESERVE, PACKET_LENGTH_MAX, PACKET_SLOT};
use crate::transport::{Client, Env, Error, Outbox, Server};
use crate::wire::auth::{
    AuthMethod, PublicKeyAttempt, PublicKeyOk, UserAuthRequest, UserAuthSuccess,
};
use crate::wire::transport::{Disconnect, ServiceAccept, ServiceRequest};
use crate::wire::{Message, Writer, number};

/// When everything begins.
pub(super) const START: Instant = Instant::from_nanos(1_000_000_000);
const USER: &str = "me";
const SERVICE: &str = "ssh-connection";
/// Events a single packet may lead to: its own, and those of requests that were held behind it.
const EVENTS_A_CALL_MAX: usize = 64;

/// What the owner does without being told, one bit each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits(pub u8);

impl Habits {
    const fn accepts(self) -> bool {
        self.0 & 1 == 0
    }
    const fn replies(self) -> bool {
        self.0 & 2 == 0
    }
    const fn consumes(self) -> bool {
        self.0 & 4 == 0
    }
    const fn closes(self) -> bool {
        self.0 & 8 == 0
    }
    /// Answers questions at once.
    const fn answers(self) -> bool {
        self.0 & 16 == 0
    }
    /// Says yes to what it is asked.
    const fn agrees(self) -> bool {
        self.0 & 32 == 0
    }
    /// Lets the outbox fill up before it sends.
    const fn hoards(self) -> bool {
        self.0 & 64 != 0
    }
}

/// One connection and everything round it.
pub(super) struct Rig {
    pub conn: Conn,
    pub puppet: Puppet,
    pub habits: Habits,
    /// Bytes more that the subject sees at each look; zero: all there are.
    pub step: usize,
    pub error: Option<Error>,
    /// The error was one to tell the peer.
    farewell: bool,
    /// Every channel there ever was.
    pub channels: Vec<ChannelId>,
    /// Plans not sealed yet, each with its lease.
    pub plans: Vec<(Plan, Vec<u8>)>,
    now: Instant,
    entropy: SeededEntropy,
    target: Box<[u8]>,
    used: usize,
    inbox: Vec<u8>,
    /// What the subject has been shown of it.
    shown: usize,
    questions: Vec<Query>,
    authentications: u32,
    /// A request that deserves a login has been made.
    vouched: bool,
    /// Mistakes of ours are forgiven: the connection began with a lie.
    lenient: bool,
}

static SERVER: LazyLock<Arc<ConnectionConfig>> = LazyLock::new(|| Arc::new(toy_server()));
static CLIENT: LazyLock<Arc<ClientConnectionConfig>> = LazyLock::new(|| Arc::new(toy_client()));
static REAL_SERVER: LazyLock<Arc<ConnectionConfig>> = LazyLock::new(|| {
    Arc::new(ConnectionConfig::new(Arc::new(server_config(&[KexKind::EcdhP256]))))
});
static REAL_CLIENT: LazyLock<Arc<ClientConnectionConfig>> = LazyLock::new(|| {
    Arc::new(ClientConnectionConfig::new(Arc::new(client_config(&[KexKind::EcdhP256]))))
});

impl Rig {
    /// A server of ours that has said its first words, or a client.
    pub(super) fn fresh(serves: bool) -> Rig {
        let mut entropy = SeededEntropy::new(5);
        let mut target = vec![0; PACKET_SLOT as usize].into_boxed_slice();
        let now = START;
        let mut env = Env { now, entropy: &mut entropy, out: Outbox::new(&mut target, 0) };
        let conn = if serves {
            Conn::Server(Connection::server(Arc::clone(&SERVER), &mut env).expect("a start"))
        } else {
            Conn::Client(Connection::client(Arc::clone(&CLIENT), &mut env).expect("a start"))
        };
        let used = env.out.used();
        let mut rig = Rig::around(conn, Puppet::new(!serves), entropy);
        (rig.target, rig.used) = (target, used);
        rig
    }

    fn around(conn: Conn, puppet: Puppet, entropy: SeededEntropy) -> Rig {
        Rig {
            conn,
            puppet,
            habits: Habits(0),
            step: 0,
            error: None,
            farewell: false,
            channels: Vec::new(),
            plans: Vec::new(),
            now: START,
            entropy,
            target: vec![0; PACKET_SLOT as usize].into_boxed_slice(),
            used: 0,
            inbox: Vec::new(),
            shown: 0,
            questions: Vec::new(),
            authentications: 0,
            vouched: false,
            lenient: false,
        }
    }

    /// A connection that came out of a record nobody vouches for: it may fail in any way but one
    /// that harms us.
    pub(super) fn taken_over(conn: Conn) -> Rig {
        let mut puppet = Puppet::new(matches!(conn, Conn::Client(_)));
        puppet.astray = true;
        let rig = Rig::around(conn, puppet, SeededEntropy::new(9));
        Rig { lenient: true, ..rig }
    }

    /// The same with the first key exchange done.
    pub(super) fn established(serves: bool) -> Rig {
        let mut rig = Rig::fresh(serves);
        let hello = rig.puppet.identify();
        rig.deliver(&hello);
        rig.exchange();
        rig.expect_well("the first key exchange");
        assert!(!rig.conn.session_id().is_empty(), "established");
        rig
    }

    /// The same with the login done. The way there is gone once; later rigs take it up from an
    /// export, as another process would.
    pub(super) fn authenticated(serves: bool) -> Rig {
        static SERVED: OnceLock<Snapshot> = OnceLock::new();
        static CLIENTS: OnceLock<Snapshot> = OnceLock::new();
        let snapshot = if serves { &SERVED } else { &CLIENTS };
        let snapshot = snapshot.get_or_init(|| {
            let mut rig = Rig::established(serves);
            if serves {
                rig.log_in()
            } else {
                rig.let_in()
            }
            rig.expect_well("the login");
            rig.flush();
            Snapshot { record: rig.record().expect("a quiet point"), puppet: rig.puppet }
        });
        let conn = import_bytes(serves, &snapshot.record, START);
        Rig::around(conn, snapshot.puppet.fork(), SeededEntropy::new(9))
    }

    fn expect_well(&self, what: &str) {
        assert!(self.error.is_none() && !self.puppet.astray, "{what}: {:?}", self.error);
    }

    /// The puppet logs in with a key the owner agrees to.
    fn log_in(&mut self) {
        self.say(&payload_of(&ServiceRequest { name: b"ssh-userauth" }));
        let request = self.signed_request();
        self.say(&request);
        assert_eq!(self.puppet.last, [number::USERAUTH_SUCCESS]);
    }

    /// The puppet lets the subject in; it has asked of its own accord.
    fn let_in(&mut self) {
        self.say(&payload_of(&ServiceAccept { name: b"ssh-userauth" }));
        let key = private_key(KeyKind::Ed25519).public().blob();
        self.say(&payload_of(&PublicKeyOk { algorithm: HOST_KEY_ALGORITHM.name(), key }));
        self.say(&payload_of(&UserAuthSuccess));
        assert!(self.conn.is_authenticated());
    }

    /// A request that a server lets in.
    pub(super) fn signed_request(&mut self) -> Vec<u8> {
        self.vouched = true;
        let key = private_key(KeyKind::Ed25519);
        let mut attempt = PublicKeyAttempt {
            algorithm: HOST_KEY_ALGORITHM.name(),
            key: key.public().blob(),
            host_key: None,
            signature: None,
        };
        let mut space = [0; 1024];
        let mut out = Writer::new(&mut space);
        attempt.write_signed(self.puppet.session_id(), USER, SERVICE, &mut out).expect("room");
        let signature = key.sign(HOST_KEY_ALGORITHM, out.written()).expect("a working key");
        attempt.signature = Some(&signature);
        let method = AuthMethod::PublicKey(attempt);
        payload_of(&UserAuthRequest { user: USER, service: SERVICE, method })
    }

    // ---- The puppet's side -------------------------------------------------------------------

    /// The puppet says something by the rules.
    pub(super) fn say(&mut self, payload: &[u8]) {
        let packet = self.puppet.packet(payload);
        self.deliver(&packet);
    }

    /// A whole key exchange, begun by the puppet.
    pub(super) fn exchange(&mut self) {
        let offer = self.puppet.offer();
        self.deliver(&offer);
        let half = self.puppet.half();
        self.deliver(&half);
        let new_keys = self.puppet.new_keys();
        self.deliver(&new_keys);
    }

    /// Bytes reach the subject, who takes what it can; what it says reaches the puppet.
    pub(super) fn deliver(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        self.run();
    }

    // ---- The subject's side ------------------------------------------------------------------

    /// Calls the subject with an environment round it, and makes a failure final.
    pub(super) fn call<T>(
        &mut self,
        work: impl FnOnce(&mut Conn, &mut Env<'_>) -> Result<T, Error>,
    ) -> Option<T> {
        if self.target.len() - self.used < OUTBOX_RESERVE as usize {
            self.flush();
        }
        let out = Outbox::new(&mut self.target, self.used);
        let mut env = Env { now: self.now, entropy: &mut self.entropy, out };
        let result = work(&mut self.conn, &mut env);
        self.used = env.out.used();
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(error);
                None
            }
        }
    }

    fn note(&mut self, error: Error) {
        let ours = matches!(error, Error::Invariant(_));
        assert!(!ours || self.lenient, "the peer brought about: {error}");
        match &self.error {
            Some(first) => assert_eq!(*first, error, "errors stay what they were"),
            None => {
                // Before the peer's identification there is nobody to read a farewell.
                self.farewell = self.puppet.introduced && error.disconnect_code().is_some();
                self.error = Some(error);
            }
        }
    }

    /// What the outbox holds leaves.
    pub(super) fn flush(&mut self) {
        self.puppet.hear(&self.target[..self.used]);
        self.used = 0;
    }

    /// Until the subject has taken all it can.
    pub(super) fn run(&mut self) {
        while self.error.is_none() && !self.conn.blocked() && self.take_one() {}
        self.poll();
        if !self.habits.hoards() {
            self.flush();
            self.call(|conn, env| conn.flush(env));
            self.flush();
        }
    }

    /// One look at the inbox. False when there is nothing more to be seen.
    fn take_one(&mut self) -> bool {
        let more = if self.step == 0 { usize::MAX } else { self.step };
        self.shown = self.shown.max(more.min(self.inbox.len()));
        let mut inbox = std::mem::take(&mut self.inbox);
        let shown = self.shown;
        let input = self.call(|conn, env| conn.handle_input(env, &mut inbox[..shown]));
        let mut seen_all = false;
        match input {
            None => seen_all = true,
            Some(Input::Need { total }) => {
                let total = total as usize;
                assert!(total > shown, "it asks for {total} bytes and has {shown}");
                assert!(total <= PACKET_LENGTH_MAX as usize + 256, "it asks for {total} bytes");
                seen_all = shown == inbox.len();
                self.shown = shown.saturating_add(more).min(inbox.len());
            }
            Some(Input::Used { used, event }) => {
                assert!(used as usize <= shown, "it used {used} bytes of {shown}");
                assert!(used > 0 || event.is_some(), "nothing used and nothing told");
                if let Some(event) = event {
                    self.owner(event, &inbox);
                }
                self.poll();
                inbox.drain(..used as usize);
                self.shown -= used as usize;
            }
        }
        self.inbox = inbox;
        !seen_all
    }

    fn poll(&mut self) {
        for count in 0.. {
            let Some(event) = self.conn.poll_event() else { return };
            assert!(count < EVENTS_A_CALL_MAX, "events without end");
            self.owner(event, &[]);
        }
    }

    /// What the owner of the connection makes of an event.
    fn owner(&mut self, event: Event, buf: &[u8]) {
        assert!(self.conn.channel_count() <= CHANNELS_MAX);
        let of_the_login = matches!(
            event,
            Event::KeyExchanged { .. }
                | Event::Query(_)
                | Event::Banner { .. }
                | Event::AuthFailed(_)
        );
        assert!(of_the_login || self.conn.is_authenticated(), "before the login: {event:?}");
        match event {
            Event::Query(query) => {
                self.questions.push(query);
                if self.habits.answers() {
                    self.answer();
                }
            }
            Event::KeyExchanged { first: true } => self.begin_login(),
            Event::AuthFailed(_) if self.authentications < 3 => self.begin_login(),
            Event::Authenticated { user, .. } => {
                assert_eq!(&*user, USER, "somebody we never let in");
                let serves = matches!(self.conn, Conn::Server(_));
                assert!(!serves || self.vouched, "nobody has signed for this login");
            }
            Event::Open { id, .. } => {
                self.channels.push(id);
                if self.habits.accepts() {
                    self.call(|conn, env| conn.accept_open_default(id, env));
                }
            }
            Event::Data { id, data, .. } => {
                assert!(!data.is_empty() && data.of(buf).is_some(), "data inside the buffer");
                if self.habits.consumes() {
                    self.call(|conn, env| conn.consumed(id, data.len, env));
                }
            }
            Event::Copied { .. } => panic!("nobody agreed to compress"),
            Event::Request { id, want_reply, request } => {
                if let ChannelRequest::PtyReq { modes, .. } = &request {
                    crate::wire::request::terminal_modes(modes).for_each(drop);
                }
                if want_reply && self.habits.replies() {
                    let ok = self.habits.agrees();
                    self.call(|conn, env| conn.reply(id, ok, env));
                }
            }
            Event::PeerClosed(id) if self.habits.closes() => {
                self.call(|conn, env| conn.close(id, env));
            }
            _ => {}
        }
    }

    fn begin_login(&mut self) {
        self.authentications += 1;
        let key = Box::new(private_key(KeyKind::Ed25519).public().clone());
        let method = match self.authentications {
            2 => LoginMethod::None,
            _ => LoginMethod::PublicKey { key, algorithm: HOST_KEY_ALGORITHM },
        };
        self.call(|conn, env| match conn {
            Conn::Server(_) => Ok(false),
            Conn::Client(client) => client.authenticate(USER, method, env),
        });
    }

    /// Answers the open question. Late and needless answers must do no harm either.
    pub(super) fn answer(&mut self) {
        let agrees = self.habits.agrees();
        let sign = |algorithm, message: &[u8]| {
            let signature = private_key(KeyKind::Ed25519).sign(algorithm, message);
            Answer::Signature(agrees.then(|| signature.expect("a working key").into()))
        };
        let answer = match self.questions.pop() {
            None => Answer::Key(agrees),
            Some(Query::Agree { group, client_public }) => {
                let agreement = kex::respond_in(&group, &client_public);
                Answer::Agreement(agreement.map(|(public, secret)| (public.into(), secret)))
            }
            Some(Query::Compute(task)) => Answer::Computed(task.run(&mut SeededEntropy::new(1))),
            Some(Query::Sign { algorithm, message, .. }) => sign(algorithm, &message),
            Some(Query::SignLogin { algorithm, message, .. }) => sign(algorithm, &message),
            Some(Query::TrustHostKey { key, .. }) => {
                assert_eq!(*key, *private_key(KeyKind::Ed25519).public());
                Answer::Trust(agrees)
            }
            Some(Query::Ask(asked)) => {
                let secret = |_| Secret::new(zeroize::Zeroizing::new(b"secret".to_vec()));
                Answer::Said(agrees.then(|| asked.prompts.iter().map(secret).collect()))
            }
            Some(Query::Greet { .. }) => Answer::Greeted(Arc::clone(&SERVER)),
            Some(Query::Converse { answers: None, .. }) => {
                let prompts = vec![("Name: ".into(), true), ("Code: ".into(), false)];
                let (name, instruction) = (Box::default(), "told\n".into());
                Answer::Asks(Box::new(Questions { name, instruction, prompts }))
            }
            Some(Query::Converse { .. }) => Answer::Key(false),
            Some(Query::Admit { .. }) => {
                Answer::Admitted { allowed: agrees, text: "told\n".into() }
            }
            // What is typed is never right here.
            Some(Query::CheckSecrets { .. }) => Answer::Key(false),
            Some(Query::FindKey { user, key, .. }) => {
                let ours = *key == *private_key(KeyKind::Ed25519).public();
                Answer::Key(agrees && ours && &*user == USER)
            }
        };
        self.call(|conn, env| conn.answer(answer, env));
        self.poll();
    }

    /// Time passes; whatever falls due is done.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
        for calls in 0.. {
            let due = self.conn.poll_timeout().is_some_and(|at| at <= self.now);
            if self.error.is_some() || !due {
                break;
            }
            assert!(calls < 8, "a timeout that comes back at once");
            self.flush();
            self.call(|conn, env| conn.handle_timeout(env));
            self.poll();
        }
        self.run();
    }

    // ---- The owner's own commands ------------------------------------------------------------

    /// Reads `want` bytes into a plan.
    pub(super) fn plan(&mut self, id: ChannelId, extended: Option<u32>, want: u32) {
        const AT: u32 = 50;
        let mut lease = vec![0xee; PACKET_SLOT as usize];
        let Some(plan) = self.conn.plan(id, extended, AT, PACKET_SLOT, want) else { return };
        assert!(plan.total() <= want && plan.end() <= PACKET_SLOT, "a plan past its lease");
        let mut planned = 0;
        for span in plan.spans(0).iter() {
            span.of_mut(&mut lease).expect("inside the lease").fill(0xda);
            planned += span.len;
        }
        assert_eq!(planned, plan.total());
        self.plans.push((plan, lease));
    }

    /// Seals the oldest plan with `got` bytes of data, if that can be done now.
    pub(super) fn seal(&mut self, got: u32) {
        if self.plans.is_empty() {
            return;
        }
        self.flush();
        let (plan, mut lease) = self.plans.remove(0);
        let got = got.min(plan.total());
        match self.conn.seal_plan(&plan, got, &mut lease, &mut self.entropy) {
            Ok(sealed) => self.puppet.hear(sealed.of(&lease).expect("inside the lease")),
            Err(_) => self.plans.insert(0, (plan, lease)),
        }
    }

    pub(super) fn drop_plan(&mut self) {
        if !self.plans.is_empty() {
            let (plan, _) = self.plans.remove(0);
            self.conn.drop_plan(plan);
        }
    }

    pub(super) fn write_data(&mut self, id: ChannelId, extended: Option<u32>, len: usize) {
        let bytes = vec![0xad; len];
        self.call(|conn, env| Ok(conn.write_data(id, extended, &bytes, env)));
    }

    /// Data around which a packet is built where it lies.
    pub(super) fn send_around(&mut self, id: ChannelId, len: u32) {
        const AT: u32 = 64;
        let len = len.min(self.conn.packet_max(id)).min(4096);
        if len == 0 || self.conn.reserve(id, len) != len {
            return;
        }
        let plan = self.conn.plan_around(id, None, Span::new(AT, len));
        self.plans.push((plan, vec![0xda; PACKET_SLOT as usize]));
    }

    /// The connection as bytes, if it is quiet.
    pub(super) fn record(&self) -> Option<Vec<u8>> {
        let record = self.conn.export()?;
        Some(record.to_bytes().expect("a record fits").to_vec())
    }

    /// Hands the connection to another process, if it is quiet, and goes on there.
    pub(super) fn hand_over(&mut self) {
        if self.error.is_some() || !self.plans.is_empty() || !self.questions.is_empty() {
            return;
        }
        self.flush();
        let Some(record) = self.record() else { return };
        let serves = matches!(self.conn, Conn::Server(_));
        // Both processes have the same clock.
        self.conn = import_bytes(serves, &record, self.now);
        assert_eq!(self.record().as_deref(), Some(&*record), "exported again");
        self.shown = 0;
    }

    /// The end of a run: what must hold whatever has happened.
    pub(super) fn finish(mut self) {
        self.habits = Habits(0);
        self.flush();
        while !self.plans.is_empty() {
            self.drop_plan();
        }
        self.run();
        self.flush();
        let Some(error) = self.error.clone() else {
            // Grants wait while keys are exchanged: the subject counts with them before the puppet has heard.
            let all_told = self.inbox.is_empty() && self.conn.is_ready();
            let all_taken = all_told && !self.puppet.astray;
            assert!(!all_taken || !self.puppet.ledger.overran(), "more data than was granted");
            return;
        };
        assert_eq!(self.conn.failure(), Some(&error));
        assert_eq!(self.conn.poll_timeout(), None, "a dead connection wants nothing");
        if self.farewell && !self.puppet.astray && !matches!(error, Error::Identification(_)) {
            assert!(Disconnect::parse(&self.puppet.last).is_ok(), "not told: {error}");
        }
    }
}

/// How a login went once, to be taken up again and again.
struct Snapshot {
    record: Vec<u8>,
    puppet: Puppet,
}

/// A connection out of a record, in either role; under real cryptography or the toy's.
pub(super) fn import(
    serves: bool,
    real: bool,
    record: ConnectionRecord,
    now: Instant,
) -> Result<Conn, Error> {
    if serves {
        let config = if real { &REAL_SERVER } else { &SERVER };
        Connection::<Server>::import(Arc::clone(config), record, now).map(Conn::Server)
    } else {
        let config = if real { &REAL_CLIENT } else { &CLIENT };
        Connection::<Client>::import(Arc::clone(config), record, now).map(Conn::Client)
    }
}

fn import_bytes(serves: bool, record: &[u8], now: Instant) -> Conn {
    let record = ConnectionRecord::from_bytes(record).expect("a record of ours");
    import(serves, false, record, now).expect("a record of ours")
}
