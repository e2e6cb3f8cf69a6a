//! One connection of a client, driven by whoever waits for what it hears.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time;

use anyhow::{Context, Result, bail};
use tidegate::base::Instant;
use tidegate::connection::{
    Answer, ChannelId, ChannelKind, ChannelRequest, ClientConnectionConfig, Connection, Event,
    Input, LoginMethod, Query,
};
use tidegate::crypto::{CipherKind, KexKind, PrivateKey, RandomPool, SignatureAlgorithm};
use tidegate::transport::{Client as Role, ClientConfig, Env, Error, Outbox, Preferences};

/// The most that is read at once: with less, a bulk flow costs its client more than the server.
const INBOX_BYTES: usize = 256 * 1024;
const OUTBOX_BYTES: usize = 256 * 1024;

/// Where to log in, as whom and how.
pub struct Target {
    address: String,
    user: String,
    key: PrivateKey,
    config: Arc<ClientConnectionConfig>,
}

impl Target {
    pub fn new(
        address: String,
        user: String,
        key_file: &str,
        (kex, cipher): (&str, &str),
    ) -> Result<Target> {
        let text = std::fs::read(key_file).with_context(|| key_file.to_owned())?;
        let key = PrivateKey::from_openssh(text, None).with_context(|| key_file.to_owned())?;
        let mut preferences = Preferences::default();
        preferences.kex = vec![KexKind::from_name(kex).context("KEX is not known")?];
        preferences.ciphers = vec![CipherKind::from_name(cipher).context("CIPHER is not known")?];
        let transport = Arc::new(ClientConfig::new(preferences));
        let config = Arc::new(ClientConnectionConfig::new(transport));
        Ok(Target { address, user, key, config })
    }
}

/// What is left of a connection's events for those who use it.
pub enum Heard {
    Authenticated,
    Opened(ChannelId),
    Done { ok: bool },
    Data { bytes: Box<[u8]> },
    Closed,
    Other,
}

pub struct Client<'a> {
    target: &'a Target,
    socket: TcpStream,
    conn: Connection<Role>,
    random: RandomPool,
    outbox: Vec<u8>,
    unsent: usize,
    inbox: Vec<u8>,
    /// What of the inbox has been read from the socket and not been opened.
    waiting: std::ops::Range<usize>,
}

impl<'a> Client<'a> {
    pub fn connect(target: &'a Target) -> Result<Client<'a>> {
        let socket = TcpStream::connect(&target.address)?;
        socket.set_nodelay(true)?;
        let mut random = RandomPool::secure();
        let mut outbox = vec![0; OUTBOX_BYTES];
        let mut env = Env { now: now(), entropy: &mut random, out: Outbox::new(&mut outbox, 0) };
        let conn = Connection::client(Arc::clone(&target.config), &mut env)?;
        let unsent = env.out.used();
        let inbox = vec![0; INBOX_BYTES];
        Ok(Client { target, socket, conn, random, outbox, unsent, inbox, waiting: 0..0 })
    }

    /// Connects and logs in.
    pub fn login(target: &'a Target) -> Result<Client<'a>> {
        let mut client = Client::connect(target)?;
        client.wait(|heard| matches!(heard, Heard::Authenticated).then_some(()))?;
        Ok(client)
    }

    /// A session channel on which these requests have been granted.
    pub fn session(&mut self, requests: &[ChannelRequest]) -> Result<ChannelId> {
        let id = self.open(&ChannelKind::Session)?;
        for request in requests {
            self.call(|conn, env| conn.request(id, request, true, env))?;
            let ok = self.wait(|heard| match heard {
                Heard::Done { ok } => Some(ok),
                _ => None,
            })?;
            if !ok {
                bail!("the server refuses {request:?}");
            }
        }
        Ok(id)
    }

    /// A channel that leads to a port of this machine.
    pub fn direct_tcpip(&mut self, port: u16) -> Result<ChannelId> {
        let (host, origin_host) = ("127.0.0.1".into(), "127.0.0.1".into());
        self.open(&ChannelKind::DirectTcpip {
            host,
            port: port.into(),
            origin_host,
            origin_port: 1,
        })
    }

    fn open(&mut self, kind: &ChannelKind) -> Result<ChannelId> {
        let opened = self.call(|conn, env| conn.open(kind, env))?;
        opened.context("no channel could be asked for")?;
        self.wait(|heard| match heard {
            Heard::Opened(id) => Some(id),
            _ => None,
        })
    }

    /// Sends so many bytes, as the window allows; what the channel brings meanwhile is dropped.
    pub fn put(&mut self, id: ChannelId, mut left: u64) -> Result<()> {
        let piece = vec![0; self.conn.packet_max(id) as usize];
        while left > 0 {
            let some = left.min(self.conn.credit(id).into()).min(piece.len() as u64) as usize;
            if some == 0 {
                self.hear()?;
            } else if self.call(|conn, env| Ok(conn.write_data(id, None, &piece[..some], env)))? {
                left -= some as u64;
            } else if self.unsent > 0 {
                self.send()?;
            } else {
                self.hear()?;
            }
        }
        Ok(())
    }

    pub fn eof(&mut self, id: ChannelId) -> Result<()> {
        self.call(|conn, env| conn.send_eof(id, env))
    }

    pub fn close(&mut self, id: ChannelId) -> Result<()> {
        self.call(|conn, env| conn.close(id, env))
    }

    /// Ends a session and waits until the server has.
    pub fn finish(&mut self, id: ChannelId) -> Result<()> {
        self.eof(id)?;
        self.wait(|heard| matches!(heard, Heard::Closed).then_some(()))?;
        self.close(id)?;
        self.disconnect()
    }

    pub fn disconnect(&mut self) -> Result<()> {
        self.call(|conn, env| {
            conn.disconnect(11, "done", env);
            Ok(())
        })?;
        self.send()
    }

    /// Puts bytes on a channel that has credit for them; they leave with the next wait or `send`.
    pub fn write(&mut self, id: ChannelId, bytes: &[u8]) -> Result<()> {
        let written = self.call(|conn, env| Ok(conn.write_data(id, None, bytes, env)))?;
        if written { Ok(()) } else { bail!("the channel takes no {} bytes now", bytes.len()) }
    }

    /// Listens until `wanted` finds something.
    pub fn wait<T>(&mut self, mut wanted: impl FnMut(Heard) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = wanted(self.hear()?) {
                return Ok(found);
            }
        }
    }

    pub fn send(&mut self) -> Result<()> {
        self.socket.write_all(&self.outbox[..self.unsent])?;
        self.unsent = 0;
        Ok(())
    }

    fn call<T>(
        &mut self,
        work: impl FnOnce(&mut Connection<Role>, &mut Env<'_>) -> Result<T, Error>,
    ) -> Result<T> {
        let out = Outbox::new(&mut self.outbox, self.unsent);
        let mut env = Env { now: now(), entropy: &mut self.random, out };
        let answer = work(&mut self.conn, &mut env)?;
        self.unsent = env.out.used();
        Ok(answer)
    }

    /// The next that is heard; sends what waits before it reads.
    pub fn hear(&mut self) -> Result<Heard> {
        loop {
            if let Some(event) = self.conn.poll_event() {
                return self.event(event, &[]);
            }
            let mut inbox = std::mem::take(&mut self.inbox);
            let rest = &mut inbox[self.waiting.clone()];
            let input = self.call(|conn, env| conn.handle_input(env, rest));
            let heard = match input? {
                Input::Need { .. } => None,
                Input::Used { used, event } => {
                    let bytes = &inbox[self.waiting.clone()];
                    let heard = event.map(|event| self.event(event, bytes));
                    self.waiting.start += used as usize;
                    Some(heard.unwrap_or(Ok(Heard::Other)))
                }
            };
            self.inbox = inbox;
            match heard {
                Some(heard) => return heard,
                None => self.receive()?,
            }
        }
    }

    fn receive(&mut self) -> Result<()> {
        self.send()?;
        self.inbox.copy_within(self.waiting.clone(), 0);
        self.waiting = 0..self.waiting.len();
        match self.socket.read(&mut self.inbox[self.waiting.end..])? {
            0 => bail!("the server closed the connection"),
            got => self.waiting.end += got,
        }
        Ok(())
    }

    fn event(&mut self, event: Event, bytes: &[u8]) -> Result<Heard> {
        match event {
            Event::KeyExchanged { first: true } => self.attempt(LoginMethod::None)?,
            Event::AuthFailed(failed) if &*failed.method == "none" => {
                let key = Box::new(self.target.key.public().clone());
                let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
                self.attempt(LoginMethod::PublicKey { key, algorithm })?;
            }
            Event::AuthFailed(_) => bail!("the login failed"),
            Event::Query(query) => {
                let answer = match query {
                    Query::TrustHostKey { .. } => Answer::Trust(true),
                    Query::SignLogin { algorithm, message, .. } => {
                        Answer::Signature(Some(self.target.key.sign(algorithm, &message)?.into()))
                    }
                    query => bail!("not a client's question: {query:?}"),
                };
                self.call(|conn, env| conn.answer(answer, env))?;
            }
            Event::Data { id, data, .. } => {
                self.call(|conn, env| conn.consumed(id, data.len, env))?;
                return Ok(Heard::Data { bytes: data.of(bytes).unwrap_or_default().into() });
            }
            Event::Authenticated { .. } => return Ok(Heard::Authenticated),
            Event::Opened { id } => return Ok(Heard::Opened(id)),
            Event::OpenFailed { text, .. } => bail!("no channel: {text}"),
            Event::RequestDone { ok, .. } => return Ok(Heard::Done { ok }),
            Event::PeerClosed(_) | Event::Closed(_) => return Ok(Heard::Closed),
            _ => {}
        }
        Ok(Heard::Other)
    }

    fn attempt(&mut self, method: LoginMethod) -> Result<()> {
        let user = self.target.user.as_str();
        self.call(|conn, env| conn.authenticate(user, method, env)).map(drop)
    }
}

pub fn now() -> Instant {
    static START: OnceLock<time::Instant> = OnceLock::new();
    let start = *START.get_or_init(time::Instant::now);
    Instant::from_nanos(1 + start.elapsed().as_nanos() as u64)
}
