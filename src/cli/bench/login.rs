//! A whole login in memory, both roles in one thread: what each of them computes until the client
//! is authenticated, without sockets and files.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::sample;
use crate::base::Instant;
use crate::connection::{
    Answer, ClientConnectionConfig, Conn, Connection, ConnectionConfig, Event, Input, LoginMethod,
    Query,
};
use crate::crypto::{KexKind, KeyAlgorithm, PrivateKey, RandomPool, SignatureAlgorithm, kex};
use crate::transport::{ClientConfig, Env, HostKey, Outbox, Preferences, ServerConfig};

const USER: &str = "bench";
/// Room for what one end says at a time: a key exchange of the largest group, with much to spare.
const OUTBOX_BYTES: usize = 64 << 10;
/// Exchanges between the two ends until something must have gone wrong.
const ROUNDS_MAX: u32 = 100;

/// Who logs in where, and how.
pub struct Plan<'a> {
    pub kex: KexKind,
    pub host_key: &'a PrivateKey,
    pub host_algorithm: SignatureAlgorithm,
    pub user_key: &'a PrivateKey,
    pub user_algorithm: SignatureAlgorithm,
}

/// What one login cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub client: Duration,
    pub server: Duration,
}

/// Runs one login from the first byte to the answer that the user is let in.
///
/// # Errors
/// The two ends did not get along.
pub fn run(plan: &Plan<'_>) -> Result<Cost> {
    let mut preferences = Preferences::default();
    preferences.kex = vec![plan.kex];
    let mut host_key = HostKey::new(plan.host_key.public().clone());
    host_key.algorithms = vec![KeyAlgorithm::plain(plan.host_algorithm)];
    let server = ServerConfig::new(preferences.clone(), vec![host_key]);
    let server = Arc::new(ConnectionConfig::new(Arc::new(server)));
    let client = Arc::new(ClientConnectionConfig::new(Arc::new(ClientConfig::new(preferences))));
    let mut client = End::new(plan, |env| Ok(Conn::Client(Connection::client(client, env)?)))?;
    let mut server = End::new(plan, |env| Ok(Conn::Server(Connection::server(server, env)?)))?;
    for _ in 0..ROUNDS_MAX {
        let to_server = std::mem::take(&mut client.sent);
        server.receive(&to_server)?;
        let to_client = std::mem::take(&mut server.sent);
        client.receive(&to_client)?;
        if client.conn.is_authenticated() {
            return Ok(Cost { client: client.took, server: server.took });
        }
    }
    bail!("the login did not end")
}

/// One end and its owner.
struct End<'a> {
    plan: &'a Plan<'a>,
    conn: Conn,
    random: RandomPool,
    /// Received and not handled.
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Sealed and not delivered.
    sent: Vec<u8>,
    took: Duration,
}

impl<'a> End<'a> {
    fn new(plan: &'a Plan<'a>, make: impl FnOnce(&mut Env<'_>) -> Result<Conn>) -> Result<End<'a>> {
        let started = sample::now();
        let (mut random, mut outbox) = (RandomPool::secure(), vec![0; OUTBOX_BYTES]);
        let out = Outbox::new(&mut outbox, 0);
        let mut env = Env { now: now(), entropy: &mut random, out };
        let conn = make(&mut env)?;
        let used = env.out.used();
        let sent = outbox.get(..used).unwrap_or_default().to_vec();
        let took = started.elapsed();
        Ok(End { plan, conn, random, inbox: Vec::new(), outbox, sent, took })
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<()> {
        let started = sample::now();
        self.inbox.extend_from_slice(bytes);
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut at = 0;
        while let Some(rest) = inbox.get_mut(at..) {
            match self.call(|conn, env| Ok(conn.handle_input(env, rest)?))? {
                Input::Need { .. } => break,
                Input::Used { used, event } => {
                    at += used as usize;
                    event.map(|event| self.event(event)).transpose()?;
                    while let Some(event) = self.conn.poll_event() {
                        self.event(event)?;
                    }
                }
            }
        }
        self.inbox = inbox.split_off(at.min(inbox.len()));
        self.took += started.elapsed();
        Ok(())
    }

    fn call<T>(&mut self, work: impl FnOnce(&mut Conn, &mut Env<'_>) -> Result<T>) -> Result<T> {
        let out = Outbox::new(&mut self.outbox, 0);
        let mut env = Env { now: now(), entropy: &mut self.random, out };
        let answer = work(&mut self.conn, &mut env)?;
        let used = env.out.used();
        self.sent.extend_from_slice(self.outbox.get(..used).unwrap_or_default());
        Ok(answer)
    }

    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::KeyExchanged { first: true } => self.authenticate(),
            Event::AuthFailed(_) => bail!("the login was refused"),
            Event::Query(query) => {
                let answer = self.answer(&query)?;
                self.call(|conn, env| Ok(conn.answer(answer, env)?))
            }
            _ => Ok(()),
        }
    }

    /// The client asks as soon as it can; the server has nothing to ask.
    fn authenticate(&mut self) -> Result<()> {
        let key = Box::new(self.plan.user_key.public().clone());
        let method = LoginMethod::PublicKey { key, algorithm: self.plan.user_algorithm };
        self.call(|conn, env| match conn {
            Conn::Client(client) => Ok(client.authenticate(USER, method, env).map(drop)?),
            Conn::Server(_) => Ok(()),
        })
    }

    fn answer(&self, query: &Query) -> Result<Answer> {
        let sign = |key: &PrivateKey, algorithm, message: &[u8]| -> Result<Answer> {
            Ok(Answer::Signature(Some(key.sign(algorithm, message)?.into())))
        };
        match query {
            Query::Sign { algorithm, message, .. } => sign(self.plan.host_key, *algorithm, message),
            Query::SignLogin { algorithm, message, .. } => {
                sign(self.plan.user_key, *algorithm, message)
            }
            Query::Agree { group, client_public } => {
                let agreement = kex::respond_in(group, client_public);
                Ok(Answer::Agreement(agreement.map(|(public, secret)| (public.into(), secret))))
            }
            Query::TrustHostKey { .. } => Ok(Answer::Trust(true)),
            Query::FindKey { .. } => Ok(Answer::Key(true)),
            query => None.with_context(|| format!("nobody expected {query:?}")),
        }
    }
}

/// Nothing here waits, so one time will do.
const fn now() -> Instant {
    Instant::from_nanos(1_000_000_000)
}
