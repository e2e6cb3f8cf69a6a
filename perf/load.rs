//! Logs in to a server over and over, several at once, from one process: connection load without
//! the cost of a client program per login. Each login asks with `none`, asks about the key, signs,
//! opens a session, has the sftp subsystem start and end, and closes, one step at a time.
//!
//!     load ADDRESS USER KEY-FILE LOGINS AT-ONCE KEX CIPHER

#![expect(clippy::disallowed_methods, reason = "a program of its own, with a clock of its own")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time;

use anyhow::{Context, Result, anyhow, bail};
use tidegate::base::Instant;
use tidegate::connection::{
    Answer, ChannelRequest, ClientConnectionConfig, Connection, Event, Input, LoginMethod, Query,
};
use tidegate::crypto::{CipherKind, KexKind, PrivateKey, RandomPool, SignatureAlgorithm};
use tidegate::transport::{Client, ClientConfig, Env, Error, Outbox, Preferences};

struct Job {
    address: String,
    user: String,
    key: PrivateKey,
    config: Arc<ClientConnectionConfig>,
    left: AtomicI64,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or_else(|| anyhow!("{what} is missing"));
    let address = next("ADDRESS")?;
    let user = next("USER")?;
    let file = next("KEY-FILE")?;
    let text = std::fs::read(&file).with_context(|| file.clone())?;
    let key = PrivateKey::from_openssh(text, None).with_context(|| file.clone())?;
    let left = AtomicI64::new(next("LOGINS")?.parse().context("LOGINS")?);
    let at_once: usize = next("AT-ONCE")?.parse().context("AT-ONCE")?;
    let kex = KexKind::from_name(&next("KEX")?).context("KEX is not known")?;
    let cipher = CipherKind::from_name(&next("CIPHER")?).context("CIPHER is not known")?;
    let mut preferences = Preferences::default();
    preferences.kex = vec![kex];
    preferences.ciphers = vec![cipher];
    let config = Arc::new(ClientConnectionConfig::new(Arc::new(ClientConfig::new(preferences))));
    let job = Job { address, user, key, config, left };
    let started = time::Instant::now();
    std::thread::scope(|scope| {
        let run = || {
            while job.left.fetch_sub(1, Ordering::Relaxed) > 0 {
                Login::run(&job)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
    .inspect(|()| println!("{:.3} s", started.elapsed().as_secs_f64()))
}

/// One connection, from its beginning to its end.
struct Login<'a> {
    job: &'a Job,
    socket: TcpStream,
    conn: Connection<Client>,
    random: RandomPool,
    outbox: Vec<u8>,
    unsent: usize,
    closed: bool,
}

impl Login<'_> {
    fn run(job: &Job) -> Result<()> {
        let socket = TcpStream::connect(&job.address)?;
        socket.set_nodelay(true)?;
        let mut random = RandomPool::secure();
        let mut outbox = vec![0; 64 << 10];
        let mut env = Env { now: now(), entropy: &mut random, out: Outbox::new(&mut outbox, 0) };
        let conn = Connection::client(Arc::clone(&job.config), &mut env)?;
        let unsent = env.out.used();
        let mut login = Login { job, socket, conn, random, outbox, unsent, closed: false };
        let mut inbox = vec![0; 64 << 10];
        let mut have = 0;
        while !login.closed {
            login.send()?;
            let got = login.socket.read(&mut inbox[have..])?;
            if got == 0 {
                bail!("the server closed the connection");
            }
            have += got;
            let used = login.handle(&mut inbox[..have])?;
            inbox.copy_within(used..have, 0);
            have -= used;
        }
        login.call(|conn, env| {
            conn.disconnect(11, "done", env);
            Ok(())
        })?;
        login.send()
    }

    fn send(&mut self) -> Result<()> {
        self.socket.write_all(&self.outbox[..self.unsent])?;
        self.unsent = 0;
        Ok(())
    }

    fn call<T>(
        &mut self,
        work: impl FnOnce(&mut Connection<Client>, &mut Env<'_>) -> Result<T, Error>,
    ) -> Result<T> {
        let out = Outbox::new(&mut self.outbox, self.unsent);
        let mut env = Env { now: now(), entropy: &mut self.random, out };
        let answer = work(&mut self.conn, &mut env)?;
        self.unsent = env.out.used();
        Ok(answer)
    }

    /// Everything that is whole; answers how much that was.
    fn handle(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let mut at = 0;
        loop {
            let rest = &mut bytes[at..];
            match self.call(|conn, env| conn.handle_input(env, rest))? {
                Input::Need { .. } => return Ok(at),
                Input::Used { used, event } => {
                    at += used as usize;
                    if let Some(event) = event {
                        self.event(event)?;
                    }
                    while let Some(event) = self.conn.poll_event() {
                        self.event(event)?;
                    }
                }
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::KeyExchanged { first: true } => self.attempt(LoginMethod::None),
            Event::AuthFailed(failed) if &*failed.method == "none" => {
                let key = Box::new(self.job.key.public().clone());
                let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
                self.attempt(LoginMethod::PublicKey { key, algorithm })
            }
            Event::AuthFailed(_) => bail!("the login failed"),
            Event::Query(query) => {
                let answer = match query {
                    Query::TrustHostKey { .. } => Answer::Trust(true),
                    Query::SignLogin { algorithm, message, .. } => {
                        Answer::Signature(Some(self.job.key.sign(algorithm, &message)?.into()))
                    }
                    query => bail!("not a client's question: {query:?}"),
                };
                self.call(|conn, env| conn.answer(answer, env))
            }
            Event::Authenticated { .. } => {
                let opened = self.call(|conn, env| conn.open_session(env))?;
                opened.map(drop).context("no session could be asked for")
            }
            Event::Opened { id } => {
                let request = ChannelRequest::Subsystem { name: "sftp".into() };
                self.call(|conn, env| conn.request(id, &request, true, env)).map(drop)
            }
            Event::RequestDone { id, ok: true } => self.call(|conn, env| conn.send_eof(id, env)),
            Event::RequestDone { .. } | Event::OpenFailed { .. } => bail!("no sftp"),
            Event::PeerClosed(id) => {
                self.call(|conn, env| conn.close(id, env))?;
                self.closed = true;
                Ok(())
            }
            Event::Closed(_) => {
                self.closed = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn attempt(&mut self, method: LoginMethod) -> Result<()> {
        let user = self.job.user.as_str();
        self.call(|conn, env| conn.authenticate(user, method, env)).map(drop)
    }
}

fn now() -> Instant {
    static START: std::sync::OnceLock<time::Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(time::Instant::now);
    Instant::from_nanos(1 + start.elapsed().as_nanos() as u64)
}
