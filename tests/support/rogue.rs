//! A peer that keeps the rules of the transport and none above it.

#![allow(dead_code)]

use std::sync::Arc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::{Conn, Connection, Event, LoginMethod};
use tidegate::crypto::{PrivateKey, SignatureAlgorithm};
use tidegate::transport::{
    Answer, Carved, Client, Env, Error, Outbox, Query, Role, Server, Transport,
};
use tidegate::wire::auth::{
    AuthMethod, PublicKeyAttempt, PublicKeyOk, UserAuthRequest, UserAuthSuccess,
};
use tidegate::wire::channel::{ChannelNumber, ChannelOpen, ChannelOpenConfirmation, OpenKind};
use tidegate::wire::transport::{ServiceAccept, ServiceRequest};
use tidegate::wire::{Message, Writer, number};

use crate::support::{End, Setup, USER, host_key, user_key};

/// The rogue and its victim.
pub struct Stage<R: Role> {
    pub now: Instant,
    pub rogue: Transport<R>,
    pub victim: End,
    /// What the victim said, message by message.
    pub heard: Vec<Vec<u8>>,
    /// How the rogue's side ended: with the reason the victim gave.
    pub farewell: Option<Error>,
    entropy: SeededEntropy,
    to_rogue: Vec<u8>,
}

impl Stage<Client> {
    /// A server of ours before a hostile client, keys exchanged.
    pub fn server(setup: &Setup) -> Stage<Client> {
        let rogue = Transport::new(Arc::clone(&setup.client.transport));
        let config = Arc::new(setup.server.clone());
        let mut stage =
            Stage::new(rogue, |env| Conn::Server(Connection::server(config, env).expect("starts")));
        stage.run();
        assert!(stage.rogue.is_established());
        stage
    }

    /// The same after a login that went by the rules.
    pub fn server_logged_in(setup: &Setup) -> Stage<Client> {
        let mut stage = Stage::server(setup);
        stage.ask_service();
        let request = stage.signed(user_key(), USER, "ssh-connection");
        stage.say_raw(&request);
        assert_eq!(stage.heard.pop(), Some(vec![number::USERAUTH_SUCCESS]));
        stage.rogue.authenticated();
        stage.heard.clear();
        stage
    }

    pub fn ask_service(&mut self) {
        self.say(&ServiceRequest { name: b"ssh-userauth" });
        assert_eq!(self.heard.pop(), Some(encode(&ServiceAccept { name: b"ssh-userauth" })));
    }

    /// A correct request signed by `key`.
    pub fn signed(&self, key: &PrivateKey, user: &str, service: &str) -> Vec<u8> {
        self.signed_over(key, user, service, self.rogue.session_id(), (user, service))
    }

    /// A request whose signature may be over something else.
    pub fn signed_over(
        &self,
        key: &PrivateKey,
        user: &str,
        service: &str,
        session_id: &[u8],
        (signed_user, signed_service): (&str, &str),
    ) -> Vec<u8> {
        let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
        let mut attempt = attempt(key, algorithm);
        let mut space = [0; 4096];
        let mut out = Writer::new(&mut space);
        attempt.write_signed(session_id, signed_user, signed_service, &mut out).expect("room");
        let signature = key.sign(algorithm, out.written()).expect("signs");
        attempt.signature = Some(&signature);
        encode(&UserAuthRequest { user, service, method: AuthMethod::PublicKey(attempt) })
    }

    /// Opens a session as the rules have it; answers the victim's number for it.
    pub fn open_session(&mut self, ours: u32) -> u32 {
        self.say(&open(ours, 1 << 20, 32 << 10, OpenKind::Session));
        let answer = self.heard.pop().expect("an answer");
        ChannelOpenConfirmation::parse(&answer).expect("a confirmation").sender.0
    }
}

impl Stage<Server> {
    /// A client of ours before a hostile server, keys exchanged.
    pub fn client(setup: &Setup) -> Stage<Server> {
        let rogue = Transport::new(Arc::clone(&setup.server.transport));
        let config = Arc::new(setup.client.clone());
        let mut stage =
            Stage::new(rogue, |env| Conn::Client(Connection::client(config, env).expect("starts")));
        stage.run();
        assert!(stage.victim.saw(|event| matches!(event, Event::KeyExchanged { .. })) == 1);
        stage
    }

    /// The same after a login that went by the rules.
    pub fn client_logged_in(setup: &Setup) -> Stage<Server> {
        let mut stage = Stage::client(setup);
        stage.begin_login();
        stage.say(&ServiceAccept { name: b"ssh-userauth" });
        let algorithm = SignatureAlgorithm::for_key(user_key().kind())[0].name();
        stage.say(&PublicKeyOk { algorithm, key: user_key().public().blob() });
        stage.say(&UserAuthSuccess);
        assert!(stage.victim.conn.is_authenticated());
        stage.rogue.authenticated();
        stage.heard.clear();
        stage
    }

    pub fn begin_login(&mut self) {
        let key = Box::new(user_key().public().clone());
        let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
        self.begin_login_by(LoginMethod::PublicKey { key, algorithm });
    }

    pub fn begin_login_by(&mut self, method: LoginMethod) {
        self.victim.attempt(self.now, |conn, env| match conn {
            Conn::Client(client) => client.authenticate(USER, method, env),
            Conn::Server(_) => unreachable!("a client"),
        });
        self.run();
    }

    /// A session the victim opens and the rogue confirms; the victim's number for it.
    pub fn open_session(&mut self, ours: u32) -> u32 {
        let opened = self.victim.attempt(self.now, |conn, env| conn.open_session(env));
        let id = opened.flatten().expect("a channel");
        self.run();
        self.say(&confirmation(id.number(), ours, 1 << 20, 32 << 10));
        self.heard.clear();
        id.number()
    }
}

impl<R: Role> Stage<R> {
    fn new(mut rogue: Transport<R>, victim: impl FnOnce(&mut Env<'_>) -> Conn) -> Stage<R> {
        let now = Instant::from_nanos(1_000_000_000);
        let mut entropy = SeededEntropy::new(7);
        let mut bytes = vec![0; 64 << 10];
        let mut env = Env { now, entropy: &mut entropy, out: Outbox::new(&mut bytes, 0) };
        let conn = victim(&mut env);
        let used = env.out.used();
        let mut victim = End::new(conn, 8);
        victim.sent.extend(&bytes[..used]);
        let mut env = Env { now, entropy: &mut entropy, out: Outbox::new(&mut bytes, 0) };
        rogue.start(&mut env).expect("starts");
        let used = env.out.used();
        victim.inbox.extend(&bytes[..used]);
        let (heard, to_rogue) = (Vec::new(), Vec::new());
        Stage { now, rogue, victim, heard, farewell: None, entropy, to_rogue }
    }

    /// Says one message and lets it be handled.
    pub fn say<'m, M: Message<'m>>(&mut self, message: &M) {
        self.say_raw(&encode(message));
    }

    pub fn say_raw(&mut self, payload: &[u8]) {
        self.queue(payload);
        self.run();
    }

    /// Says one message that is handled later.
    pub fn queue(&mut self, payload: &[u8]) {
        if self.farewell.is_some() {
            return;
        }
        let used = self.with(|rogue, env| {
            rogue.send_payload(payload, env).expect("the rogue's own transport holds");
            env.out.used()
        });
        assert!(used > 0, "a key exchange is in the way");
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Transport<R>, &mut Env<'_>) -> T) -> T {
        let mut bytes = vec![0; 300 << 10];
        let out = Outbox::new(&mut bytes, 0);
        let mut env = Env { now: self.now, entropy: &mut self.entropy, out };
        let answer = work(&mut self.rogue, &mut env);
        let used = env.out.used();
        self.victim.inbox.extend(&bytes[..used]);
        answer
    }

    /// Until nothing moves.
    pub fn run(&mut self) {
        loop {
            let before = self.victim.inbox.len();
            self.victim.handle(self.now);
            let moved = self.victim.inbox.len() < before || !self.victim.sent.is_empty();
            self.to_rogue.extend(self.victim.sent.drain(..));
            self.listen();
            if !moved {
                return;
            }
        }
    }

    fn listen(&mut self) {
        while self.farewell.is_none() {
            let mut bytes = std::mem::take(&mut self.to_rogue);
            let carved = self.with(|rogue, env| rogue.carve(env, &mut bytes));
            let used = match carved {
                Ok(Carved::Need { .. }) => 0,
                Ok(Carved::Handled { used }) => used,
                Ok(Carved::Payload { used, payload }) => {
                    self.heard.push(payload.of(&bytes).expect("inside").to_vec());
                    used
                }
                Ok(Carved::Unpacked { .. }) => panic!("nobody agreed to compress"),
                Err(error) => {
                    self.farewell = Some(error);
                    0
                }
            };
            bytes.drain(..used as usize);
            self.to_rogue = bytes;
            self.answer_query();
            if used == 0 {
                return;
            }
        }
    }

    fn answer_query(&mut self) {
        let answer = match self.rogue.query() {
            None => return,
            Some(Query::Sign { algorithm, message, .. }) => {
                let signature = host_key().sign(*algorithm, message.as_ref()).expect("signs");
                Answer::Signature(Some(signature.into()))
            }
            Some(Query::TrustHostKey { .. }) => Answer::Trust(true),
            Some(Query::Agree { .. } | Query::Compute) => {
                panic!("only quick methods are offered")
            }
        };
        self.with(|rogue, env| rogue.answer(answer, env)).expect("answered");
    }

    /// Lets time pass for the victim.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now.after(time);
        while self.victim.error.is_none()
            && let Some(due) = self.victim.conn.poll_timeout().filter(|due| *due <= until)
        {
            self.now = self.now.max(due);
            let now = self.now;
            self.victim.attempt(now, |conn, env| conn.handle_timeout(env));
            self.victim.poll(now);
            self.run();
        }
        self.now = until;
    }

    /// The reason in the victim's DISCONNECT.
    pub fn code(&self) -> Option<u32> {
        match &self.farewell {
            Some(Error::Disconnected { code, .. }) => Some(*code),
            _ => None,
        }
    }
}

pub fn encode<'m, M: Message<'m>>(message: &M) -> Vec<u8> {
    let mut space = vec![0; 300 << 10];
    let mut out = Writer::new(&mut space);
    message.write(&mut out).expect("room");
    out.written().to_vec()
}

/// A probe's fields for `key`.
pub fn attempt(key: &PrivateKey, algorithm: SignatureAlgorithm) -> PublicKeyAttempt<'_> {
    PublicKeyAttempt {
        algorithm: algorithm.name(),
        key: key.public().blob(),
        host_key: None,
        signature: None,
    }
}

pub fn open(
    ours: u32,
    window_bytes: u32,
    packet_bytes_max: u32,
    kind: OpenKind<'_>,
) -> ChannelOpen<'_> {
    ChannelOpen { sender: ChannelNumber(ours), window_bytes, packet_bytes_max, kind }
}

pub fn confirmation(
    to: u32,
    ours: u32,
    window_bytes: u32,
    packet_bytes_max: u32,
) -> ChannelOpenConfirmation<'static> {
    ChannelOpenConfirmation {
        recipient: ChannelNumber(to),
        sender: ChannelNumber(ours),
        window_bytes,
        packet_bytes_max,
        rest: &[],
    }
}
