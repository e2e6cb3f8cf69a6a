//! The server's end of connections that a client of ours makes: it keeps the rules of the transport,
//! holds the client to those above it, and breaks one of them where it is told to.

use std::sync::Arc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::crypto::{SignatureAlgorithm, kex};
use tidegate::reactor::Fd;
use tidegate::reactor::sim::SimWorld;
use tidegate::transport::{
    Answer, Carved, Env, Error, HostKey, Query, Server, ServerConfig, Transport,
};
use tidegate::wire::auth::{
    AuthMethod, PublicKeyAttempt, PublicKeyOk, UserAuthFailure, UserAuthRequest, UserAuthSuccess,
};
use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelNumber, ChannelOpen, ChannelOpenConfirmation,
    ChannelSuccess, ChannelWindowAdjust, GlobalBody, GlobalRequest, OpenKind, RequestFailure,
    RequestSuccess,
};
use tidegate::wire::request::{ChannelRequest, RequestBody};
use tidegate::wire::transport::ServiceAccept;
use tidegate::wire::{Message, NameList, number};

use crate::calls::{CallPlan, Caller};
use crate::chance::{hits, one_in};
use crate::client::Vanish;
use crate::errand::Orders;
use crate::keys;
use crate::line::{Line, Meddling, Reading};
use crate::program::{Channel, Work};
use crate::shelf::{SharedFiles, Shelf, ShelfLie};

#[derive(Clone, Debug)]
pub struct HostPlan {
    pub config: Arc<ServerConfig>,
    /// Of every channel.
    pub window: u32,
    pub packet: u32,
    /// The largest piece of data that it sends.
    pub piece: u32,
    /// Grants what was used at once, or when half is gone.
    pub grants_at_once: bool,
    pub reading: Reading,
    pub meddling: Option<Meddling>,
    pub vanishes: Option<(Duration, Vanish)>,
    /// Of a million, each step: new keys.
    pub rekeys: u32,
    /// Answers are given in another order than requests came.
    pub shuffles: bool,
    /// With how many messages it has sent on channels before.
    pub lie: Option<(Lie, u64)>,
    /// Who comes to the port that it listens at for the client.
    pub calls: Vec<CallPlan>,
    pub seed: u64,
}

/// What a host does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Shows a key that is not the known one.
    AnotherKey,
    /// The same in a later exchange, and signs with it.
    AnotherKeyLater,
    /// Signs a later exchange with a key that it does not show.
    ForgedLater,
    /// Sends on without window.
    OverrunsWindow,
    PacketTooLarge,
    AdjustsPastEnd,
    UnknownChannel,
    DataBehindEof,
    CloseTwice,
    /// Answers what was not asked.
    AnswersUnasked,
    /// Begins a key exchange that it does not end.
    HalfRekey,
    /// Says nothing more.
    Mute,
    /// Reads nothing more.
    Deaf,
    /// Grants no window any more; goes at last.
    Withholds,
    /// In its answers to requests for files.
    Files(ShelfLie),
}

impl Lie {
    pub const ALL: [Lie; 19] = [
        Lie::AnotherKey,
        Lie::AnotherKeyLater,
        Lie::ForgedLater,
        Lie::OverrunsWindow,
        Lie::PacketTooLarge,
        Lie::AdjustsPastEnd,
        Lie::UnknownChannel,
        Lie::DataBehindEof,
        Lie::CloseTwice,
        Lie::AnswersUnasked,
        Lie::HalfRekey,
        Lie::Mute,
        Lie::Deaf,
        Lie::Withholds,
        Lie::Files(ShelfLie::TooMuch),
        Lie::Files(ShelfLie::NothingAsked),
        Lie::Files(ShelfLie::SuccessForData),
        Lie::Files(ShelfLie::TooLong),
        Lie::Files(ShelfLie::VersionTwice),
    ];

    /// A part of what the client's user is told; one of these.
    pub const fn told(self) -> &'static [&'static str] {
        match self {
            Lie::AnotherKey => &["the host key was not accepted"],
            Lie::AnotherKeyLater => &["the server changed its key"],
            Lie::ForgedLater => &["signature does not verify"],
            Lie::OverrunsWindow => &["channel data past the window"],
            Lie::PacketTooLarge => &["channel data over the packet limit"],
            Lie::AdjustsPastEnd => &["window adjusted past its maximum"],
            Lie::UnknownChannel | Lie::CloseTwice => &["channel"],
            Lie::DataBehindEof => &["EOF"],
            Lie::AnswersUnasked => &["asked"],
            Lie::HalfRekey => &["timed out"],
            Lie::Mute | Lie::Deaf => &["timed out"],
            Lie::Withholds => &["closed", "reset"],
            Lie::Files(lie) => lie.told(),
        }
    }

    /// Nothing but time ends it.
    pub const fn is_silent(self) -> bool {
        matches!(self, Lie::HalfRekey | Lie::Mute | Lie::Deaf)
    }
}

/// One connection, from its beginning to its end.
pub struct Host {
    pub plan: HostPlan,
    pub over: bool,
    /// The lie has been told, and when.
    pub lied_at: Option<Instant>,
    pub rekeyed: u64,
    world: SimWorld,
    line: Line,
    transport: Transport<Server>,
    orders: Arc<Orders>,
    files: SharedFiles,
    chance: SeededEntropy,
    exchanges: u32,
    /// Its key is another from now on.
    shows_another: bool,
    logged_in: bool,
    vanishes_at: Option<Instant>,
    /// Messages sent on channels.
    said: u64,
    channels: Vec<Channel>,
    /// It listens since then, and so many have come.
    listens_since: Option<Instant>,
    called: usize,
    why: String,
}

impl Host {
    pub fn new(
        plan: HostPlan,
        (world, fd): (SimWorld, Fd),
        orders: Arc<Orders>,
        files: SharedFiles,
    ) -> Host {
        let mut chance = SeededEntropy::new(plan.seed);
        let entropy = SeededEntropy::new(chance.next_u64());
        let (reading, meddling) = (plan.reading.clone(), plan.meddling.clone());
        let mut line = Line::new(world.clone(), fd, reading, meddling, entropy);
        let mut config = Arc::clone(&plan.config);
        if plan.lie.is_some_and(|(lie, _)| lie == Lie::AnotherKey) {
            config = another_key(&config);
        }
        let mut transport = Transport::new(config);
        line.call(|env| transport.start(env)).expect("a server starts");
        let vanishes_at = plan.vanishes.map(|(time, _)| world.now().after(time));
        vanishes_at.into_iter().for_each(|at| world.wake_at(at));
        Host {
            plan,
            over: false,
            lied_at: None,
            rekeyed: 0,
            world,
            line,
            transport,
            orders,
            files,
            chance,
            exchanges: 0,
            shows_another: false,
            logged_in: false,
            vanishes_at,
            said: 0,
            channels: Vec::new(),
            listens_since: None,
            called: 0,
            why: String::new(),
        }
    }

    /// Those who have come, on channels that are open or were.
    pub fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.channels.iter().filter_map(Channel::caller)
    }

    /// It has changed what it sent, gone, or told its lie: whatever comes of that is its doing.
    pub fn is_to_blame(&self) -> bool {
        self.lied_at.is_some() || self.line.meddled_at.is_some() || self.vanishes_at.is_some()
    }

    /// Only its lie is.
    pub fn only_lied(&self) -> Option<Lie> {
        let otherwise = self.line.meddled_at.is_some() || self.vanishes_at.is_some();
        let told = self.plan.lie.filter(|_| self.lied_at.is_some() && !otherwise);
        told.map(|(lie, _)| lie)
    }

    /// One that reads nothing does not notice that it has been left.
    pub fn go_if_deaf(&mut self) {
        if self.lied_at.is_some() && self.plan.lie.is_some_and(|(lie, _)| lie == Lie::Deaf) {
            self.line.close();
            self.over = true;
        }
    }

    /// Why it is over.
    pub fn why(&self) -> &str {
        &self.why
    }

    pub fn rested(&self) -> u64 {
        self.line.rested
    }

    pub fn vanished(&self) -> bool {
        self.vanishes_at.is_some_and(|at| at <= self.world.now()) && self.over
    }

    pub fn describe(&self) -> String {
        let (line, channels) = (self.line.describe(), &self.channels);
        format!(
            "over {}: {}, {} said, lied at {:?}, ready {}, {line}\n  {channels:?}\n  {:?}",
            self.over,
            self.why,
            self.said,
            self.lied_at,
            self.transport.is_ready(),
            self.plan,
        )
    }

    pub fn step(&mut self) {
        if self.over {
            return;
        }
        if let Err(why) = self.act() {
            self.why = why;
            self.line.close();
            self.over = true;
        }
    }

    fn act(&mut self) -> Result<(), String> {
        let now = self.world.now();
        if self.vanishes_at.is_some_and(|at| at <= now) {
            self.vanish();
            return Err("gone by itself".to_owned());
        }
        let told = self.plan.lie.filter(|_| self.lied_at.is_some()).map(|(lie, _)| lie);
        let (mute, deaf) = (told == Some(Lie::Mute), told == Some(Lie::Deaf));
        let stuck = matches!(told, Some(Lie::HalfRekey | Lie::Deaf));
        if !deaf {
            let received = self.line.receive();
            match stuck {
                // What comes of the exchange is not looked at.
                true => self.line.inbox.clear(),
                false => self.listen()?,
            }
            received?;
        }
        if !mute && !stuck {
            self.work().map_err(|error| error.to_string())?;
            self.lie().map_err(|error| error.to_string())?;
        }
        if mute {
            return Ok(());
        }
        if let Some(at) = self.transport.poll_timeout().filter(|_| !stuck) {
            if at <= now {
                self.with(|transport, env| transport.handle_timeout(env))
                    .map_err(|e| e.to_string())?;
            }
            self.world.wake_at(at);
        }
        self.line.send()
    }

    fn vanish(&mut self) {
        match self.plan.vanishes {
            Some((_, Vanish::Reset)) => self.line.reset(),
            Some((_, Vanish::HalfClose)) => {
                self.line.shutdown_send();
                self.line.close();
            }
            _ => self.line.close(),
        }
    }

    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Transport<Server>, &mut Env<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Host { line, transport, .. } = self;
        line.call(|env| work(transport, env))
    }

    fn say<'m, M: Message<'m>>(&mut self, message: &M) -> Result<(), Error> {
        self.with(|transport, env| transport.send(message, env))
    }

    fn listen(&mut self) -> Result<(), String> {
        loop {
            let mut inbox = std::mem::take(&mut self.line.inbox);
            let carved = self.with(|transport, env| transport.carve(env, &mut inbox));
            let (used, heard) = match carved.map_err(|error| error.to_string())? {
                Carved::Need { .. } => (0, None),
                Carved::Handled { used } => (used, None),
                Carved::Unpacked { used } => (used, Some(self.transport.take_unpacked())),
                Carved::Payload { used, payload } => {
                    (used, Some(payload.of(&inbox).expect("inside").to_vec()))
                }
            };
            inbox.drain(..used as usize);
            self.line.inbox = inbox;
            self.sign().map_err(|error| error.to_string())?;
            if let Some(heard) = heard {
                self.hear(&heard).map_err(|error| error.to_string())?;
            }
            if used == 0 {
                return Ok(());
            }
        }
    }

    /// Does its part of a key exchange.
    fn sign(&mut self) -> Result<(), Error> {
        if let Some(Query::Agree { group, client_public }) = self.transport.query() {
            let agreed = kex::respond_in(group, client_public);
            let agreed = agreed.map(|(public, secret)| (public.into(), secret));
            self.with(|transport, env| transport.answer(Answer::Agreement(agreed), env))?;
        }
        let Some(Query::Sign { algorithm, message, .. }) = self.transport.query() else {
            return Ok(());
        };
        self.exchanges += 1;
        let later = self.exchanges > 1;
        self.rekeyed += u64::from(later);
        let another = match self.plan.lie {
            Some((Lie::AnotherKey, _)) => true,
            Some((Lie::AnotherKeyLater, _)) => self.shows_another,
            Some((Lie::ForgedLater, _)) => later,
            _ => false,
        };
        if another {
            self.lied_at.get_or_insert(self.world.now());
        }
        let key = if another { keys::stranger() } else { keys::host() };
        let signature = key.sign(*algorithm, message.as_ref()).expect("signs");
        self.with(|transport, env| transport.answer(Answer::Signature(Some(signature.into())), env))
    }

    fn hear(&mut self, payload: &[u8]) -> Result<(), Error> {
        let bad = |_| Error::Invariant("the client said what cannot be read");
        match payload.first().copied().unwrap_or(0) {
            number::SERVICE_REQUEST => self.say(&ServiceAccept { name: b"ssh-userauth" }),
            number::USERAUTH_REQUEST => self.judge(payload),
            number::GLOBAL_REQUEST => {
                let request = GlobalRequest::parse(payload).map_err(bad)?;
                if matches!(request.request, GlobalBody::TcpipForward { .. }) {
                    self.listens_since = Some(self.world.now());
                    return self.say(&RequestSuccess { rest: &[] });
                }
                if request.want_reply { self.say(&RequestFailure) } else { Ok(()) }
            }
            number::CHANNEL_OPEN_CONFIRMATION => {
                let open = ChannelOpenConfirmation::parse(payload).map_err(bad)?;
                self.channel(open.recipient).confirmed(&open);
                Ok(())
            }
            number::CHANNEL_OPEN_FAILURE => panic!("a client takes every caller: {payload:?}"),
            number::CHANNEL_OPEN => {
                let open = ChannelOpen::parse(payload).map_err(bad)?;
                let (window, packet) = (self.plan.window, self.plan.packet);
                let sender = ChannelNumber(self.channels.len() as u32);
                self.channels.push(Channel::new(&open, window, packet));
                self.say(&ChannelOpenConfirmation {
                    recipient: open.sender,
                    sender,
                    window_bytes: window,
                    packet_bytes_max: packet,
                    rest: &[],
                })
            }
            number::CHANNEL_REQUEST => self.asked(payload),
            number::CHANNEL_DATA => {
                let data = ChannelData::parse(payload).map_err(bad)?;
                self.channel(data.recipient).data(data.data);
                Ok(())
            }
            number::CHANNEL_WINDOW_ADJUST => {
                let adjust = ChannelWindowAdjust::parse(payload).map_err(bad)?;
                self.channel(adjust.recipient).adjusted(adjust.bytes);
                Ok(())
            }
            number::CHANNEL_EOF => {
                let recipient = ChannelEof::parse(payload).map_err(bad)?.recipient;
                self.channel(recipient).ended();
                Ok(())
            }
            number::CHANNEL_CLOSE => {
                let recipient = ChannelClose::parse(payload).map_err(bad)?.recipient;
                let world = self.world.clone();
                let channel = self.channel(recipient);
                let (theirs, first) = (channel.theirs, channel.closed(&world));
                if first { self.say(&ChannelClose { recipient: theirs }) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn channel(&mut self, number: ChannelNumber) -> &mut Channel {
        self.channels.get_mut(number.0 as usize).expect("a client names channels that are there")
    }

    fn judge(&mut self, payload: &[u8]) -> Result<(), Error> {
        let bad = |_| Error::Invariant("a login that cannot be read");
        let request = UserAuthRequest::parse(payload).map_err(bad)?;
        match request.method {
            AuthMethod::PublicKey(PublicKeyAttempt { algorithm, key, signature, .. }) => {
                assert_eq!(key, keys::user().public().blob(), "the key it has");
                let known = SignatureAlgorithm::from_name(algorithm);
                assert!(known.is_some(), "{algorithm}");
                if signature.is_none() {
                    return self.say(&PublicKeyOk { algorithm, key });
                }
                self.say(&UserAuthSuccess)?;
                self.transport.authenticated();
                self.logged_in = true;
                Ok(())
            }
            _ => {
                let methods = NameList::new(b"publickey").expect("a list");
                self.say(&UserAuthFailure { methods, partial: false })
            }
        }
    }

    fn asked(&mut self, payload: &[u8]) -> Result<(), Error> {
        let bad = |_| Error::Invariant("a request that cannot be read");
        let request = ChannelRequest::parse(payload).map_err(bad)?;
        let work = match request.body {
            RequestBody::Exec { command } => {
                let number = String::from_utf8_lossy(command).parse().expect("an order");
                Some(self.orders.program(number))
            }
            RequestBody::Subsystem { .. } => {
                let seed = self.chance.next_u64();
                let shelf = Shelf::new(self.files.clone(), self.plan.shuffles, seed);
                Some(Work::Files(Box::new(shelf)))
            }
            RequestBody::EndOfWrite => {
                self.channel(request.recipient).is_deaf();
                None
            }
            _ => None,
        };
        let channel = self.channel(request.recipient);
        let recipient = channel.theirs;
        if let Some(work) = work {
            channel.start(work);
        }
        if request.want_reply { self.say(&ChannelSuccess { recipient }) } else { Ok(()) }
    }

    /// Grants, and sends what programs and files have to say.
    fn work(&mut self) -> Result<(), Error> {
        if !self.logged_in {
            return Ok(());
        }
        if self.rekeyed < 4 && self.transport.is_ready() && hits(&mut self.chance, self.plan.rekeys)
        {
            self.with(|transport, env| transport.rekey(env))?;
        }
        self.call()?;
        let before = self.said;
        let withholds =
            self.lied_at.is_some() && self.plan.lie.is_some_and(|(lie, _)| lie == Lie::Withholds);
        for at in 0..self.channels.len() {
            let Some(channel) = self.channels.get_mut(at) else { break };
            if !withholds && let Some(bytes) = channel.grant(self.plan.grants_at_once) {
                let recipient = channel.theirs;
                self.say(&ChannelWindowAdjust { recipient, bytes })?;
            }
            for _ in 0..4 {
                let room = self.line.has_room() && self.transport.is_ready();
                let Some(channel) = self.channels.get_mut(at).filter(|_| room) else { break };
                let next = channel.next(self.plan.piece, &mut self.chance, &self.world);
                let Some(message) = next else { break };
                self.said += 1;
                self.with(|transport, env| transport.send_payload(&message, env))?;
            }
        }
        // There may be more, and nothing else need happen before it is said.
        if self.said > before {
            self.world.wake_at(self.world.now().after(Duration::from_nanos(1)));
        }
        Ok(())
    }

    /// Asks the client for a channel for whoever has come to its port.
    fn call(&mut self) -> Result<(), Error> {
        let now = self.world.now();
        while let (Some(since), Some(plan)) = (self.listens_since, self.plan.calls.get(self.called))
        {
            let at = since.after(plan.starts_after);
            if now < at {
                self.world.wake_at(at);
                return Ok(());
            }
            if !self.line.has_room() || !self.transport.is_ready() {
                return Ok(());
            }
            let caller = Box::new(Caller::new(plan, now));
            let (window, packet) = (self.plan.window, self.plan.packet);
            let sender = ChannelNumber(self.channels.len() as u32);
            self.channels.push(Channel::calling(caller, window, packet));
            self.called += 1;
            let kind = OpenKind::ForwardedTcpip {
                address: "localhost",
                port: u32::from(PORT),
                origin_host: "192.0.2.3",
                origin_port: 4_000,
            };
            self.say(&ChannelOpen {
                sender,
                window_bytes: window,
                packet_bytes_max: packet,
                kind,
            })?;
        }
        Ok(())
    }

    fn lie(&mut self) -> Result<(), Error> {
        let Some((lie, after)) = self.plan.lie else { return Ok(()) };
        if self.lied_at.is_some() && lie == Lie::OverrunsWindow {
            return self.overrun();
        }
        let ready = self.logged_in && self.transport.is_ready() && self.line.has_room();
        if self.lied_at.is_some() || !ready || self.said < after {
            return Ok(());
        }
        let told = self.tell(lie)?;
        self.lied_at = told.then(|| self.world.now());
        if lie == Lie::Withholds && told {
            let time = Duration::from_secs(60);
            self.vanishes_at.get_or_insert(self.world.now().after(time));
            self.world.wake_at(self.world.now().after(time));
        }
        Ok(())
    }

    /// False: there is no occasion for it yet.
    fn tell(&mut self, lie: Lie) -> Result<bool, Error> {
        let running = self.channels.iter_mut().find(|channel| channel.runs());
        if let Lie::Files(lie) = lie {
            return Ok(self.channels.iter_mut().any(|channel| channel.misread(lie)));
        }
        if matches!(lie, Lie::AnotherKeyLater | Lie::ForgedLater | Lie::HalfRekey) {
            if lie == Lie::AnotherKeyLater {
                let config = another_key(&self.plan.config);
                self.transport.follow(config);
                self.shows_another = true;
            }
            self.with(|transport, env| transport.rekey(env))?;
            // The others are told where the exchange is signed.
            return Ok(lie == Lie::HalfRekey);
        }
        let Some(channel) = running else { return Ok(false) };
        let (recipient, packet) = (channel.theirs, channel.packet as usize);
        match lie {
            Lie::OverrunsWindow => return Ok(channel.overruns()),
            Lie::PacketTooLarge => {
                let data = vec![0; packet + 1];
                self.say(&ChannelData { recipient, data: &data })?;
            }
            Lie::AdjustsPastEnd => {
                self.say(&ChannelWindowAdjust { recipient, bytes: u32::MAX })?;
            }
            Lie::UnknownChannel => {
                let recipient = ChannelNumber(recipient.0 + 4_000);
                self.say(&ChannelData { recipient, data: b"x" })?;
            }
            Lie::DataBehindEof => {
                self.say(&ChannelEof { recipient })?;
                self.say(&ChannelData { recipient, data: b"x" })?;
            }
            Lie::CloseTwice => {
                self.say(&ChannelClose { recipient })?;
                self.say(&ChannelClose { recipient })?;
            }
            Lie::AnswersUnasked => self.say(&ChannelSuccess { recipient })?,
            _ => {}
        }
        Ok(true)
    }

    fn overrun(&mut self) -> Result<(), Error> {
        while self.line.has_room() && self.transport.is_ready() {
            let piece = self.plan.piece;
            let Some(channel) = self.channels.iter_mut().find(|one| one.is_overrun) else { break };
            let Some(message) = channel.without_window(piece) else { break };
            self.with(|transport, env| transport.send_payload(&message, env))?;
        }
        Ok(())
    }
}

/// Where hosts listen for clients.
pub const PORT: u16 = 1_080;

/// The same host with a key that nobody knows.
fn another_key(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.host_keys = vec![HostKey::new(keys::stranger().public().clone())];
    Arc::new(config)
}

/// Seldom, and then one of all.
pub fn draw_lie(chance: &mut SeededEntropy) -> Option<(Lie, u64)> {
    let lie = Lie::ALL[chance.below(Lie::ALL.len() as u64) as usize];
    one_in(chance, 3).then(|| (lie, crate::chance::size(chance, 40)))
}
