//! A client that keeps the rules of the transport as long as it is told to, over a real socket.

#![allow(dead_code)]

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::crypto::{CipherKind, KexKind, MacKind, PrivateKey, SignatureAlgorithm};
use tidegate::transport::{
    Answer, Carved, Client, ClientConfig, CompressionKind, Env, Error, Outbox, Preferences, Query,
    Transport,
};
use tidegate::wire::auth::{AuthMethod, PublicKeyAttempt, UserAuthRequest};
use tidegate::wire::channel::{
    ChannelNumber, ChannelOpen, ChannelOpenConfirmation, GlobalBody, GlobalRequest, OpenKind,
};
use tidegate::wire::request::{ChannelRequest, RequestBody};
use tidegate::wire::transport::ServiceRequest;
use tidegate::wire::{Message, Writer, number};

use crate::support::{DEFECT, Gateway};

/// Everybody who runs the tests may log in under the name of their own account.
pub const USER: &str = "root";
/// A server that has something to say, or an end to make, does so by then.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How the server ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// With DISCONNECT: the reason and the text.
    Said(u32, String),
    Closed,
}

/// What a client offers and how it writes.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub cipher: CipherKind,
    pub mac: MacKind,
    /// Ends its identification with LF alone.
    pub line_feed_only: bool,
    /// Writes one byte at a time.
    pub dribbles: bool,
    /// Wants compression from the login on.
    pub compresses: bool,
    /// What it identifies itself as.
    pub software: &'static str,
}

pub const PLAIN: Manner = Manner {
    cipher: CipherKind::Aes256Gcm,
    mac: MacKind::HmacSha256Etm,
    line_feed_only: false,
    dribbles: false,
    compresses: false,
    software: "Hostile_1",
};

pub struct Peer {
    pub stream: TcpStream,
    pub transport: Transport<Client>,
    manner: Manner,
    entropy: SeededEntropy,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    heard: VecDeque<Vec<u8>>,
    /// The host keys that the server has told of, encoded; nobody waits for them.
    pub told: Option<Vec<u8>>,
    farewell: Option<Farewell>,
    /// Which of our packets the server did not know (RFC 4253 §11.4), by their sequence numbers.
    pub unimplemented: Vec<u32>,
}

impl Peer {
    /// A connection whose keys are exchanged.
    pub fn connect(gateway: &Gateway) -> Peer {
        Peer::connect_as(gateway, PLAIN)
    }

    pub fn connect_as(gateway: &Gateway, manner: Manner) -> Peer {
        let mut preferences = Preferences::new(manner.software).expect("valid software");
        preferences.kex = vec![KexKind::Curve25519];
        preferences.ciphers = vec![manner.cipher];
        preferences.macs = vec![manner.mac];
        if manner.compresses {
            preferences.compression = vec![CompressionKind::Delayed];
        }
        let stream = gateway.connect().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_nodelay(true).expect("no delay");
        let mut peer = Peer {
            stream,
            transport: Transport::new(Arc::new(ClientConfig::new(preferences))),
            manner,
            entropy: SeededEntropy::new(5),
            inbox: Vec::new(),
            outbox: vec![0; 300 << 10],
            heard: VecDeque::new(),
            told: None,
            farewell: None,
            unimplemented: Vec::new(),
        };
        let mut hello = peer.with(|transport, env| transport.start(env).expect("starts"));
        if manner.line_feed_only {
            let at = hello.iter().position(|byte| *byte == b'\r').expect("a line end");
            hello.remove(at);
        }
        assert!(peer.write(&hello));
        while !peer.transport.is_established() {
            assert!(peer.listen(), "no key exchange: {:?}\n{}", peer.farewell, gateway.log());
        }
        peer
    }

    /// The same behind a login.
    pub fn login(gateway: &Gateway) -> Peer {
        let mut peer = Peer::connect(gateway);
        peer.log_in(gateway);
        peer
    }

    pub fn log_in(&mut self, gateway: &Gateway) {
        self.ask_service();
        let request = self.signed(&user_key(gateway), USER);
        self.send(&request);
        let answer = self.hear();
        assert_eq!(answer, Ok(vec![number::USERAUTH_SUCCESS]), "{}", gateway.log());
        self.transport.authenticated();
    }

    pub fn ask_service(&mut self) {
        self.say(&ServiceRequest { name: b"ssh-userauth" });
        let answer = self.hear().expect("an answer");
        assert_eq!(answer[0], number::SERVICE_ACCEPT);
    }

    /// A correct request for a login.
    pub fn signed(&self, key: &PrivateKey, user: &str) -> Vec<u8> {
        let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
        let mut attempt = probe_fields(key, algorithm);
        let session_id = self.transport.session_id();
        let mut space = vec![0; 40 << 10];
        let mut out = Writer::new(&mut space);
        attempt.write_signed(session_id, user, "ssh-connection", &mut out).expect("room");
        let signature = key.sign(algorithm, out.written()).expect("signs");
        attempt.signature = Some(&signature);
        let method = AuthMethod::PublicKey(attempt);
        encode(&UserAuthRequest { user, service: "ssh-connection", method })
    }

    /// Opens a session as the rules have it; answers the server's number for it.
    pub fn open_session(&mut self, ours: u32) -> u32 {
        self.say(&open(ours, 1 << 30, 32 << 10));
        let answer = self.hear().expect("an answer");
        ChannelOpenConfirmation::parse(&answer).expect("a confirmation").sender.0
    }

    /// Asks something of a channel; true when it was granted. Data on the way is dropped.
    pub fn ask(&mut self, channel: u32, body: RequestBody<'_>) -> bool {
        self.send(&channel_request(channel, body));
        loop {
            let answer = self.hear().expect("an answer");
            match answer[0] {
                number::CHANNEL_SUCCESS => return true,
                number::CHANNEL_FAILURE => return false,
                _ => {}
            }
        }
    }

    /// A session with a command started on it.
    pub fn exec(&mut self, ours: u32, command: &str) -> u32 {
        let channel = self.open_session(ours);
        assert!(self.ask(channel, RequestBody::Exec { command: command.as_bytes() }));
        channel
    }

    /// The server has handled everything sent so far, and is well. Only behind a login.
    pub fn assert_well(&mut self) {
        let request = GlobalBody::Other { name: "keepalive@openssh.com", rest: b"" };
        self.say(&GlobalRequest { want_reply: true, request });
        loop {
            match self.hear() {
                Ok(message) if message[0] == number::REQUEST_FAILURE => return,
                Ok(_) => {}
                Err(end) => panic!("ended: {end:?}"),
            }
        }
    }

    pub fn say<'m, M: Message<'m>>(&mut self, message: &M) {
        self.send(&encode(message));
    }

    /// Sends one message. False: the server reads no more.
    pub fn send(&mut self, payload: &[u8]) -> bool {
        let bytes = self.sealed(payload);
        self.write(&bytes)
    }

    /// Sends one message many times, many at a write. False: the server reads no more.
    pub fn flood(&mut self, payload: &[u8], times: usize) -> bool {
        let mut bytes = Vec::new();
        for n in 1..=times {
            bytes.extend(self.sealed(payload));
            if bytes.len() > 128 << 10 || n == times {
                if !self.write(&bytes) {
                    return false;
                }
                bytes.clear();
            }
        }
        true
    }

    /// New keys; or how the server ended the connection instead.
    pub fn rekey(&mut self) -> Result<(), Farewell> {
        let before = self.transport.exchanges();
        let bytes = self.with(|transport, env| transport.rekey(env).expect("it may begin"));
        self.write(&bytes);
        while self.transport.exchanges() == before || !self.transport.is_ready() {
            if !self.listen() {
                return Err(self.farewell.clone().unwrap_or(Farewell::Closed));
            }
        }
        Ok(())
    }

    /// One message as it would travel.
    pub fn sealed(&mut self, payload: &[u8]) -> Vec<u8> {
        let bytes = self.with(|transport, env| {
            transport.send_payload(payload, env).expect("our own transport holds");
        });
        assert!(!bytes.is_empty(), "a key exchange is in the way");
        bytes
    }

    pub fn write(&mut self, bytes: &[u8]) -> bool {
        if self.manner.dribbles {
            return bytes.chunks(1).all(|byte| self.stream.write_all(byte).is_ok());
        }
        self.stream.write_all(bytes).is_ok()
    }

    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    pub fn port(&self) -> u16 {
        self.stream.local_addr().expect("our address").port()
    }

    /// The next message for us, or how the connection ended.
    pub fn hear(&mut self) -> Result<Vec<u8>, Farewell> {
        loop {
            if let Some(message) = self.heard.pop_front() {
                return Ok(message);
            }
            if let Some(end) = &self.farewell {
                return Err(end.clone());
            }
            self.listen();
        }
    }

    /// How the connection ends; messages before that are of no interest.
    pub fn farewell(&mut self) -> Farewell {
        loop {
            if let Err(end) = self.hear() {
                return end;
            }
        }
    }

    /// The server ends the connection, gives the reason, and closes.
    pub fn assert_dropped(&mut self, reason: u32, what: &str) {
        let end = self.farewell();
        let Farewell::Said(said, _) = &end else { panic!("{what}: {end:?}") };
        assert_eq!(*said, reason, "{what}: {end:?}");
        let mut rest = [0; 64];
        assert!(matches!(self.stream.read(&mut rest), Ok(0)), "{what}: not closed");
    }

    /// Handles one packet, or receives. False: it is over.
    fn listen(&mut self) -> bool {
        if self.farewell.is_some() {
            return false;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut carved = None;
        let reply = self.with(|transport, env| carved = Some(transport.carve(env, &mut inbox)));
        let mut used = 0;
        let mut starved = false;
        match carved.expect("carved") {
            Ok(Carved::Need { .. }) => starved = true,
            Ok(Carved::Handled { used: bytes }) => {
                used = bytes;
                // It was opened where it lies: RFC 4253 §11.4 behind the lengths of §6.
                let payload = inbox.get(5..10).filter(|_| self.transport.is_established());
                if let Some([number::UNIMPLEMENTED, sequence @ ..]) = payload {
                    self.unimplemented.push(u32::from_be_bytes(sequence.try_into().expect("four")));
                }
            }
            Ok(Carved::Payload { used: bytes, payload }) => {
                self.take(payload.of(&inbox).expect("inside").to_vec());
                used = bytes;
            }
            Ok(Carved::Unpacked { used: bytes }) => {
                let message = self.transport.take_unpacked().to_vec();
                self.take(message);
                used = bytes;
            }
            Err(Error::Disconnected { code, text }) => {
                self.farewell = Some(Farewell::Said(code, text.into()));
            }
            Err(error) => panic!("the server broke a rule: {error}"),
        }
        inbox.drain(..used as usize);
        self.inbox = inbox;
        self.write(&reply);
        if let Some(Query::TrustHostKey { .. }) = self.transport.query() {
            let reply = self.with(|transport, env| {
                transport.answer(Answer::Trust(true), env).expect("answered");
            });
            self.write(&reply);
        }
        if starved {
            self.receive();
        }
        self.farewell.is_none()
    }

    fn take(&mut self, message: Vec<u8>) {
        match GlobalRequest::parse(&message).map(|message| message.request) {
            Ok(GlobalBody::Other { name: "hostkeys-00@openssh.com", rest }) => {
                assert!(self.told.is_none(), "told twice");
                self.told = Some(rest.to_vec());
            }
            _ => self.heard.push_back(message),
        }
    }

    fn receive(&mut self) {
        let mut bytes = vec![0; 64 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.farewell = Some(Farewell::Closed),
            Ok(count) => self.inbox.extend(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the server is silent"),
            Err(_) => self.farewell = Some(Farewell::Closed),
        }
    }

    fn with(&mut self, work: impl FnOnce(&mut Transport<Client>, &mut Env<'_>)) -> Vec<u8> {
        let out = Outbox::new(&mut self.outbox, 0);
        let now = Instant::from_nanos(1_000_000_000);
        let mut env = Env { now, entropy: &mut self.entropy, out };
        work(&mut self.transport, &mut env);
        let used = env.out.used();
        self.outbox[..used].to_vec()
    }
}

pub fn user_key(gateway: &Gateway) -> PrivateKey {
    let text = fs::read(gateway.path("user_ed25519")).expect("a key file");
    PrivateKey::from_openssh(text, None).expect("a key")
}

pub fn encode<'m, M: Message<'m>>(message: &M) -> Vec<u8> {
    let mut space = vec![0; 300 << 10];
    let mut out = Writer::new(&mut space);
    message.write(&mut out).expect("room");
    out.written().to_vec()
}

pub fn probe_fields(key: &PrivateKey, algorithm: SignatureAlgorithm) -> PublicKeyAttempt<'_> {
    PublicKeyAttempt {
        algorithm: algorithm.name(),
        key: key.public().blob(),
        host_key: None,
        signature: None,
    }
}

pub const fn open(ours: u32, window_bytes: u32, packet_bytes_max: u32) -> ChannelOpen<'static> {
    let sender = ChannelNumber(ours);
    ChannelOpen { sender, window_bytes, packet_bytes_max, kind: OpenKind::Session }
}

pub fn channel_request(channel: u32, body: RequestBody<'_>) -> Vec<u8> {
    encode(&ChannelRequest { recipient: ChannelNumber(channel), want_reply: true, body })
}

/// What a gateway looked like before it was attacked.
pub struct Watch<'a> {
    pub gateway: &'a Gateway,
    descriptors: usize,
    resident: u64,
}

impl<'a> Watch<'a> {
    pub fn begin(gateway: &'a Gateway) -> Watch<'a> {
        gateway.assert_alive();
        std::thread::sleep(Duration::from_millis(300));
        Watch { gateway, descriptors: open_files(gateway).len(), resident: resident(gateway) }
    }

    /// Bytes of memory the gateway has taken since.
    pub fn growth(&self) -> u64 {
        resident(self.gateway).saturating_sub(self.resident)
    }

    /// Nothing is left of the attack: the gateway lives, its descriptors are back, logins work.
    pub fn end(&self) {
        let mut open = open_files(self.gateway);
        for _ in 0..3000 {
            if open.len() <= self.descriptors {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            open = open_files(self.gateway);
        }
        assert!(open.len() <= self.descriptors, "not {} open: {open:?}", self.descriptors);
        self.gateway.assert_alive();
        let log = self.gateway.log();
        assert!(self.gateway.met_defects == log.contains(DEFECT), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("internal error"), "{log}");
        assert!(!log.contains('\x1b'), "an escape reached the log");
    }

    /// The line in the log that tells of the end of the connection from `port`. The system may have
    /// given the port to an earlier connection too; the last line is this one's.
    pub fn last_line(&self, port: u16) -> String {
        let wanted = format!(" port {port}: ");
        let lines = || -> Vec<String> {
            let log = self.gateway.log();
            let about = log.lines().filter(|line| line.contains(&wanted));
            about.filter(|line| line.contains("Disconnected ")).map(str::to_owned).collect()
        };
        crate::support::wait_for("the line in the log", || !lines().is_empty());
        lines().pop().expect("it was there a moment ago")
    }
}

/// What the gateway's descriptors name, but for what is made once when it is first needed.
fn open_files(gateway: &Gateway) -> Vec<PathBuf> {
    let folders = gateway.all_processes().into_iter().map(|pid| format!("/proc/{pid}/fd"));
    let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let reapers = Path::new("anon_inode:[eventpoll]");
    targets.filter(|target| target != reapers).collect()
}

fn resident(gateway: &Gateway) -> u64 {
    let pages = |pid: u32| {
        // It may just have ended.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/statm")) else { return 0 };
        let pages = text.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok());
        pages.expect("a number") * 4096
    };
    gateway.all_processes().into_iter().map(pages).sum()
}
