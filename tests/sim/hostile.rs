//! Clients that break rules: noise instead of SSH, and a peer that keeps the transport's rules and
//! none above them.

use std::sync::Arc;
use std::time::Duration;

use tidegate::base::{Entropy, Instant, SeededEntropy};
use tidegate::crypto::SignatureAlgorithm;
use tidegate::reactor::Fd;
use tidegate::reactor::sim::SimWorld;
use tidegate::transport::{
    Answer, Carved, Client as ClientRole, ClientConfig, Env, Error, Query, Transport,
};
use tidegate::wire::auth::{AuthMethod, PublicKeyAttempt, UserAuthRequest};
use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelNumber, ChannelOpen, ChannelOpenConfirmation,
    ChannelWindowAdjust, GlobalBody, GlobalRequest, OpenKind,
};
use tidegate::wire::request::{ChannelRequest, RequestBody};
use tidegate::wire::transport::{Ignore, Ping, ServiceRequest};
use tidegate::wire::{Message, Writer, number};

use crate::keys;
use crate::line::{Line, Reading};

#[derive(Clone, Debug)]
pub struct HostilePlan {
    pub starts_at: Instant,
    pub user: String,
    pub config: Arc<ClientConfig>,
    pub reading: Reading,
    pub crime: Crime,
    /// It goes by itself then, if nobody has thrown it out.
    pub patience: Duration,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crime {
    /// Random bytes, behind an identification or not.
    Noise {
        introduces: bool,
        bytes: u32,
    },
    /// Connects and says nothing.
    Silence,
    /// Exchanges keys and never logs in.
    Loiter,
    AuthFlood,
    EarlyChannel,
    WindowOverrun,
    PacketTooLarge,
    UnknownChannel,
    DataAfterEof,
    CloseTwice,
    AdjustPastEnd,
    /// Asks for much and does not read the answers.
    GlobalFlood,
    PingFlood,
    /// The same, a packet at a time.
    PingDrip,
    OpenFlood,
    RequestFlood,
    IgnoreFlood,
    /// Begins a key exchange that it does not end.
    HalfRekey,
    SftpNoise,
    RandomMessages,
    /// Fills its window, a small packet at a time, for a program that reads nothing.
    Hoard,
    /// Fills its window with large packets for a program that reads nothing.
    Cram,
    /// Orders much output and reads none of it.
    Glut,
}

impl Crime {
    /// A gateway ends the connection over it; it does not have to wait for the criminal to go.
    const fn is_punished(self) -> bool {
        !matches!(
            self,
            Crime::GlobalFlood
                | Crime::PingFlood
                | Crime::PingDrip
                | Crime::OpenFlood
                | Crime::RequestFlood
                | Crime::IgnoreFlood
                | Crime::SftpNoise
                | Crime::RandomMessages
                | Crime::Hoard
                | Crime::Cram
                | Crime::Glut
                | Crime::Noise { .. }
        )
    }

    const fn reads(self) -> bool {
        !matches!(
            self,
            Crime::GlobalFlood
                | Crime::PingFlood
                | Crime::PingDrip
                | Crime::OpenFlood
                | Crime::Glut
        )
    }

    const fn needs_session(self) -> bool {
        matches!(
            self,
            Crime::WindowOverrun
                | Crime::PacketTooLarge
                | Crime::DataAfterEof
                | Crime::CloseTwice
                | Crime::AdjustPastEnd
                | Crime::RequestFlood
                | Crime::SftpNoise
                | Crime::Hoard
                | Crime::Cram
                | Crime::Glut
        )
    }
}

/// How far it has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Keys,
    Service,
    Login,
    /// In, and waiting for its session.
    Opening,
    /// Its number at the gateway, the largest packet it may send there, and what may still be
    /// sent before the gateway grants more.
    Acting {
        channel: u32,
        packet: u32,
        window: u32,
    },
}

pub struct Hostile {
    pub plan: HostilePlan,
    pub over: bool,
    world: SimWorld,
    listener: Fd,
    chance: SeededEntropy,
    line: Option<Line>,
    transport: Option<Transport<ClientRole>>,
    stage: Stage,
    goes_at: Instant,
    drips_at: Instant,
    done: u64,
    why: String,
}

impl Hostile {
    pub fn new(plan: HostilePlan, world: SimWorld, listener: Fd) -> Hostile {
        world.wake_at(plan.starts_at);
        let chance = SeededEntropy::new(plan.seed);
        Hostile {
            plan,
            over: false,
            world,
            listener,
            chance,
            line: None,
            transport: None,
            stage: Stage::Keys,
            goes_at: Instant::ZERO,
            drips_at: Instant::ZERO,
            done: 0,
            why: String::new(),
        }
    }

    pub fn crime_name(&self) -> String {
        let name = format!("crime {:?}", self.plan.crime);
        name.split(" {").next().unwrap_or_default().to_owned()
    }

    pub fn describe(&self) -> String {
        let line = self.line.as_ref().map(Line::describe).unwrap_or_default();
        let (crime, stage) = (self.plan.crime, self.stage);
        format!("{crime:?} at {stage:?}, {} done: {}; {line}", self.done, self.why)
    }

    pub fn step(&mut self) {
        if self.over || self.world.now() < self.plan.starts_at {
            return;
        }
        if self.line.is_none() && !self.connect() {
            self.over = true;
            return;
        }
        if let Err(why) = self.act() {
            self.why = why;
            if let Some(line) = &mut self.line {
                line.close();
            }
            self.over = true;
        }
    }

    fn connect(&mut self) -> bool {
        let Ok(fd) = self.world.connect(self.listener) else { return false };
        let entropy = SeededEntropy::new(self.chance.next_u64());
        let reading = self.plan.reading.clone();
        let mut line = Line::new(self.world.clone(), fd, reading, None, entropy);
        match self.plan.crime {
            Crime::Noise { introduces, bytes } => {
                let mut noise = vec![0; bytes as usize];
                self.chance.fill(&mut noise);
                if introduces {
                    line.push(b"SSH-2.0-Noise\r\n");
                    // A length that may be right, so that some of it looks like a packet.
                    noise.splice(..4.min(noise.len()), (4 + 8 * 30u32).to_be_bytes());
                }
                line.push(&noise);
            }
            Crime::Silence => {}
            _ => {
                let mut transport = Transport::new(Arc::clone(&self.plan.config));
                line.call(|env| transport.start(env)).expect("a client starts");
                self.transport = Some(transport);
            }
        }
        self.line = Some(line);
        self.goes_at = self.world.now().after(self.plan.patience);
        self.world.wake_at(self.goes_at);
        true
    }

    fn act(&mut self) -> Result<(), String> {
        let now = self.world.now();
        let acting = matches!(self.stage, Stage::Acting { .. });
        if !self.plan.crime.is_punished() && now >= self.goes_at {
            return Err("patience is over".to_owned());
        }
        let deaf = acting && !self.plan.crime.reads();
        if let Some(line) = self.line.as_mut().filter(|_| !deaf) {
            line.receive()?;
        }
        self.listen()?;
        if let (None, Some(line)) = (&self.transport, &mut self.line) {
            line.inbox.clear();
        }
        for _ in 0..16 {
            let room = self.line.as_ref().is_some_and(Line::has_room);
            if !room || !self.offend().map_err(|error| error.to_string())? {
                break;
            }
        }
        let Some(line) = &mut self.line else { return Ok(()) };
        let sent = line.send();
        if let Some(at) = self.transport.as_ref().and_then(Transport::poll_timeout) {
            if at <= now
                && let Some(transport) = &mut self.transport
                && self.plan.crime != Crime::HalfRekey
            {
                line.call(|env| transport.handle_timeout(env))
                    .map_err(|error| error.to_string())?;
            }
            self.world.wake_at(at);
        }
        sent
    }

    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Transport<ClientRole>, &mut Env<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (Some(line), Some(transport)) = (&mut self.line, &mut self.transport) else {
            return Err(Error::Closed);
        };
        line.call(|env| work(transport, env))
    }

    fn say<'m, M: Message<'m>>(&mut self, message: &M) -> Result<(), Error> {
        self.with(|transport, env| transport.send(message, env))
    }

    fn listen(&mut self) -> Result<(), String> {
        while self.transport.is_some() {
            let Some(line) = &mut self.line else { break };
            let mut inbox = std::mem::take(&mut line.inbox);
            let carved = self.with(|transport, env| transport.carve(env, &mut inbox));
            let carved = carved.map_err(|error| error.to_string())?;
            let (used, heard) = match carved {
                Carved::Need { .. } => (0, None),
                Carved::Handled { used } => (used, None),
                Carved::Unpacked { used } => {
                    let unpacked = self.transport.as_mut().map(Transport::take_unpacked);
                    (used, unpacked)
                }
                Carved::Payload { used, payload } => {
                    (used, Some(payload.of(&inbox).expect("inside").to_vec()))
                }
            };
            inbox.drain(..used as usize);
            if let Some(line) = &mut self.line {
                line.inbox = inbox;
            }
            self.answer_query().map_err(|error| error.to_string())?;
            if let Some(heard) = heard {
                self.hear(&heard).map_err(|error| error.to_string())?;
            }
            if used == 0 {
                break;
            }
        }
        Ok(())
    }

    fn answer_query(&mut self) -> Result<(), Error> {
        let asked = self.transport.as_ref().and_then(Transport::query);
        if matches!(asked, Some(Query::TrustHostKey { .. })) {
            self.with(|transport, env| transport.answer(Answer::Trust(true), env))?;
        }
        Ok(())
    }

    fn hear(&mut self, payload: &[u8]) -> Result<(), Error> {
        match (payload.first().copied().unwrap_or(0), self.stage) {
            (number::SERVICE_ACCEPT, Stage::Service) => {
                self.stage = Stage::Login;
                let request = self.login_request();
                self.with(|transport, env| transport.send_payload(&request, env))
            }
            (number::USERAUTH_FAILURE, _) if self.plan.crime == Crime::AuthFlood => {
                let request = self.login_request();
                self.with(|transport, env| transport.send_payload(&request, env))
            }
            (number::USERAUTH_SUCCESS, Stage::Login) => {
                if let Some(transport) = &mut self.transport {
                    transport.authenticated();
                }
                if !self.plan.crime.needs_session() {
                    self.stage = Stage::Acting { channel: 0, packet: 0, window: 0 };
                    return Ok(());
                }
                self.stage = Stage::Opening;
                self.say(&session(3))
            }
            (number::CHANNEL_OPEN_CONFIRMATION, Stage::Opening) => {
                let Ok(confirmed) = ChannelOpenConfirmation::parse(payload) else { return Ok(()) };
                let channel = confirmed.sender.0;
                let (packet, window) = (confirmed.packet_bytes_max, confirmed.window_bytes);
                self.stage = Stage::Acting { channel, packet, window };
                let body = match self.plan.crime {
                    Crime::SftpNoise => RequestBody::Subsystem { name: "sftp" },
                    // Its window is not granted again for ever.
                    Crime::WindowOverrun | Crime::Hoard | Crime::Cram => {
                        RequestBody::Exec { command: b"deaf" }
                    }
                    Crime::Glut => RequestBody::Exec { command: b"source 3 50000000 0 0" },
                    _ => RequestBody::Exec { command: b"wait" },
                };
                let recipient = confirmed.sender;
                self.say(&ChannelRequest { recipient, want_reply: false, body })
            }
            _ => Ok(()),
        }
    }

    fn login_request(&self) -> Vec<u8> {
        let flood = self.plan.crime == Crime::AuthFlood;
        let key = if flood { keys::stranger() } else { keys::user() };
        let algorithm = SignatureAlgorithm::for_key(key.public().kind())[0];
        let mut attempt = PublicKeyAttempt {
            algorithm: algorithm.name(),
            key: key.public().blob(),
            host_key: None,
            signature: None,
        };
        let session_id = self.transport.as_ref().map_or(&[][..], Transport::session_id);
        let (user, service) = (&*self.plan.user, "ssh-connection");
        let mut space = [0; 4096];
        let mut out = Writer::new(&mut space);
        attempt.write_signed(session_id, user, service, &mut out).expect("room");
        let signature = key.sign(algorithm, out.written()).expect("signs");
        attempt.signature = Some(&signature);
        encode(&UserAuthRequest { user, service, method: AuthMethod::PublicKey(attempt) })
    }

    /// One misdeed; false when there is no more to do now.
    fn offend(&mut self) -> Result<bool, Error> {
        let established = self.transport.as_ref().is_some_and(Transport::is_established);
        if !established {
            return Ok(false);
        }
        match (self.stage, self.plan.crime) {
            (_, Crime::Loiter) => Ok(false),
            (Stage::Keys, Crime::EarlyChannel) => {
                self.done += 1;
                self.stage = Stage::Service;
                self.say(&session(1)).map(|()| false)
            }
            (Stage::Keys, _) => {
                self.stage = Stage::Service;
                self.say(&ServiceRequest { name: b"ssh-userauth" }).map(|()| false)
            }
            (Stage::Acting { channel, packet, window }, Crime::Hoard) => {
                let len = packet.min(3_000);
                if window < len || !self.drips() {
                    return Ok(false);
                }
                self.done += 1;
                self.stage = Stage::Acting { channel, packet, window: window - len };
                let data = vec![7; len as usize];
                let recipient = ChannelNumber(channel);
                self.say(&ChannelData { recipient, data: &data }).map(|()| false)
            }
            (Stage::Acting { channel, packet, window }, Crime::Cram) if window > 0 => {
                let len = packet.min(window);
                self.stage = Stage::Acting { channel, packet, window: window - len };
                let data = vec![7; len as usize];
                let recipient = ChannelNumber(channel);
                self.say(&ChannelData { recipient, data: &data }).map(|()| true)
            }
            (Stage::Acting { channel, packet, .. }, crime) => {
                self.done += 1;
                self.misbehave(crime, channel, packet)
            }
            _ => Ok(false),
        }
    }

    fn misbehave(&mut self, crime: Crime, channel: u32, packet: u32) -> Result<bool, Error> {
        let recipient = ChannelNumber(channel);
        let once = self.done == 1;
        match crime {
            // Many windows, but not without end: in a calm world no time passes meanwhile.
            Crime::WindowOverrun if self.done <= 4096 => {
                let data = vec![7; packet.min(8192) as usize];
                self.say(&ChannelData { recipient, data: &data })?;
            }
            Crime::PacketTooLarge if once => {
                let data = vec![7; packet as usize + 1];
                self.say(&ChannelData { recipient, data: &data })?;
            }
            Crime::UnknownChannel if once => {
                let recipient = ChannelNumber(self.chance.next_u64() as u32 | 1 << 30);
                self.say(&ChannelData { recipient, data: b"x" })?;
            }
            Crime::DataAfterEof if once => {
                self.say(&ChannelEof { recipient })?;
                self.say(&ChannelData { recipient, data: b"x" })?;
            }
            Crime::CloseTwice if once => {
                self.say(&ChannelClose { recipient })?;
                self.say(&ChannelClose { recipient })?;
            }
            Crime::AdjustPastEnd if self.done <= 2 => {
                self.say(&ChannelWindowAdjust { recipient, bytes: u32::MAX })?;
            }
            Crime::HalfRekey if once => {
                self.with(|transport, env| transport.rekey(env))?;
                // What comes back is never carved again.
                self.transport = None;
            }
            _ => return self.flood(crime, recipient),
        }
        Ok(true)
    }

    /// Time for the next packet; one at a time, so that each is received by itself.
    fn drips(&mut self) -> bool {
        let now = self.world.now();
        let drips = self.drips_at <= now;
        if drips {
            self.drips_at = now.after(Duration::from_millis(1));
            self.world.wake_at(self.drips_at);
        }
        drips
    }

    fn flood(&mut self, crime: Crime, recipient: ChannelNumber) -> Result<bool, Error> {
        let ready = self.transport.as_ref().is_some_and(Transport::is_ready);
        if !ready || self.done > 2_000 {
            return Ok(false);
        }
        let n = self.done as u32;
        match crime {
            Crime::GlobalFlood => {
                let request = GlobalBody::Other { name: "nobody-knows", rest: &[] };
                self.say(&GlobalRequest { want_reply: true, request })?;
            }
            Crime::PingFlood => self.say(&Ping { data: &[9; 500] })?,
            Crime::PingDrip => {
                let drips = self.drips();
                self.done -= u64::from(!drips);
                return if drips {
                    self.say(&Ping { data: &[9; 1_000] }).map(|()| false)
                } else {
                    Ok(false)
                };
            }
            Crime::OpenFlood => {
                let kind = match n % 3 {
                    0 => OpenKind::Session,
                    1 => OpenKind::DirectTcpip {
                        host: "a.example",
                        port: n,
                        origin_host: "",
                        origin_port: 0,
                    },
                    _ => OpenKind::Other { name: "nobody-knows", rest: &[] },
                };
                self.say(&ChannelOpen { kind, ..session(n) })?;
            }
            Crime::RequestFlood => {
                let body = RequestBody::Env { name: b"LC_X", value: b"y" };
                self.say(&ChannelRequest { recipient, want_reply: n.is_multiple_of(2), body })?;
            }
            Crime::IgnoreFlood => self.say(&Ignore { data: &[1; 3000] })?,
            Crime::SftpNoise if n <= 3 => {
                let mut data = vec![0; 1 + self.chance.below(2000) as usize];
                self.chance.fill(&mut data);
                // INIT, so that it gets further now and then.
                data.splice(..9.min(data.len()), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
                self.say(&ChannelData { recipient, data: &data })?;
            }
            Crime::RandomMessages => {
                let mut payload = vec![0; 1 + self.chance.below(60) as usize];
                self.chance.fill(&mut payload);
                payload[0] = 80 + self.chance.below(25) as u8;
                self.with(|transport, env| transport.send_payload(&payload, env))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

const fn session(ours: u32) -> ChannelOpen<'static> {
    ChannelOpen {
        sender: ChannelNumber(ours),
        window_bytes: 1 << 20,
        packet_bytes_max: 32 << 10,
        kind: OpenKind::Session,
    }
}

fn encode<'m, M: Message<'m>>(message: &M) -> Vec<u8> {
    let mut space = vec![0; 64 << 10];
    let mut out = Writer::new(&mut space);
    message.write(&mut out).expect("room");
    out.written().to_vec()
}
