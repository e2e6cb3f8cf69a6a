//! A running gateway: threads, their doors, and how they end.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use anyhow::Context;
use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{debug, error, info, warn};

use super::audit::Auditor;
use super::config::{Config, DriverChoice, Proxies};
use super::defects::{self, Defects};
use super::desk::{self, Desk, Door, Greeting, Office, Visitor};
use super::drivers::{self, Manner, Opened};
use super::drops::Drops;
use super::edge::line::Line;
use super::execute::Executor;
use super::figures::Figures;
use super::mailbox::Mailbox;
use super::moving::Exit;
use super::recording::Recorders;
use super::relay;
use super::reports::{self, Reports};
use super::startups::{Refused, Startups};
use super::workers::{Execute, Workers};
use crate::connection::ConnectionConfig;
use crate::crypto::{PrivateKey, RandomPool};
use crate::limits::{
    ENDING_CHECK, EVENTS_ALONE_MAX, EVENTS_MAX, GREETERS, JOBS_ALONE_MAX, JOBS_MAX, LINKS_MAX,
    RESOLVERS, STARTUPS_MAX, WORKERS_ALONE, WORKERS_DEFAULT,
};
use crate::reactor::{self, Driver, Fd, Token};
use crate::services::Done;
use crate::shard::{HandOver, Mail, Shard, ShardConfig};

/// What a process of shards is started with.
pub struct Settings {
    pub listeners: Vec<Arc<OwnedFd>>,
    /// Connections are numbered in the log from here.
    pub first_serial: u64,
    pub connection: Arc<ConnectionConfig>,
    pub host_keys: Arc<[Option<PrivateKey>]>,
    pub reactors: usize,
    pub driver: DriverChoice,
    pub startups: Arc<Startups>,
    /// Who is asked whose connection it passes on, and for how long.
    pub proxies: Option<(Proxies, Duration)>,
    pub execute: Arc<dyn Execute>,
    /// The account it acts for; `None`: nobody logs in here to stay.
    pub uid: Option<u32>,
    /// The way to root's process, in an edge: it is asked whatever takes rights, and nothing is served
    /// until [`Server::open`].
    pub line: Option<Line>,
    /// Those of its shards, in order.
    pub mailboxes: Vec<Mailbox>,
    /// The same in a relay.
    pub relay: Option<Arc<relay::line::Line>>,
    pub tcp_keepalive: bool,
    pub greeting: Option<Greeting>,
    /// Greetings wait for answers of others, and are given by threads of their own.
    pub looks_names_up: bool,
    pub routes: bool,
    /// Who hears what is done here, if anybody.
    pub audit: Option<Arc<dyn Auditor>>,
    /// Who records sessions that are served here, if anybody does.
    pub recorders: Option<Arc<dyn Recorders>>,
    /// Where it is counted what is done.
    pub figures: Arc<Figures>,
    /// SIGHUP puts new shards in the place of these.
    pub renews: bool,
    /// There is one connection, and no other comes.
    pub alone: bool,
}

impl Settings {
    /// Of a process beside root's, which has connections from others: numbers, clients and limits of
    /// logins that have begun are none of its business.
    pub fn apart(
        config: &Config,
        connection: Arc<ConnectionConfig>,
        reactors: usize,
        execute: Executor,
    ) -> Settings {
        Settings {
            listeners: Vec::new(),
            // Connections bring their numbers along.
            first_serial: 1,
            connection,
            host_keys: Arc::from([]),
            reactors,
            driver: config.global.driver,
            startups: Arc::new(Startups::unbounded()),
            proxies: None,
            execute: Arc::new(execute),
            uid: None,
            line: None,
            mailboxes: Vec::new(),
            relay: None,
            tcp_keepalive: config.global.tcp_keep_alive,
            greeting: None,
            looks_names_up: false,
            routes: false,
            audit: None,
            recorders: None,
            figures: Arc::new(Figures::own(reactors)),
            renews: false,
            alone: false,
        }
    }
}

/// A process's shards, running.
pub struct Server {
    office: Arc<Office>,
    shards: Vec<JoinHandle<()>>,
    /// Held while nothing is to be served yet.
    gate: Option<Sender<Infallible>>,
    /// Held so that listening sockets close after the last shard.
    _listeners: Vec<Arc<OwnedFd>>,
    alone: bool,
}

impl Server {
    /// Starts the shards. Their reports come out of the receiver.
    ///
    /// # Errors
    /// A thread or a driver could not be made; nothing is left running.
    pub fn start(settings: Settings) -> anyhow::Result<(Server, Reports)> {
        defects::tell_in_log();
        let room = if settings.alone { EVENTS_ALONE_MAX } else { EVENTS_MAX };
        let (log, reports) = reports::channel(room);
        let doors: Vec<Arc<Door>> = (0..settings.reactors.max(1)).map(|_| Arc::default()).collect();
        let execute = settings.execute;
        let apart = |threads, jobs_max| {
            Workers::start_resolvers(threads, jobs_max, Arc::clone(&execute))
                .context("cannot start threads that look names up")
        };
        let greeters = settings.looks_names_up.then(|| apart(GREETERS, STARTUPS_MAX));
        let greeters = greeters.transpose()?;
        let (threads, resolvers, jobs_max) = match settings.alone {
            true => (WORKERS_ALONE, 1, JOBS_ALONE_MAX),
            false => (WORKERS_DEFAULT, RESOLVERS, JOBS_MAX),
        };
        // Who has not logged in has no names looked up.
        let resolvers = settings.line.is_none().then(|| apart(resolvers, jobs_max)).transpose()?;
        let workers =
            Workers::start(threads, jobs_max, execute).context("cannot start worker threads")?;
        let office = Arc::new(Office {
            doors,
            workers,
            greeters,
            resolvers,
            startups: settings.startups,
            figures: settings.figures,
            drops: Drops::default(),
            proxies: settings.proxies,
            log,
            audit: settings.audit,
            recorders: settings.recorders,
            uid: settings.uid,
            line: settings.line,
            relay: settings.relay,
            tcp_keepalive: settings.tcp_keepalive,
            greeting: settings.greeting,
            routes: settings.routes,
            defects: Defects::new(settings.renews),
            lobby: Mutex::default(),
            exit: Mutex::default(),
            received: AtomicU64::new(0),
            watcher: OnceLock::new(),
        });
        let confined = office.is_confined();
        let (gate, opened) = bounded(0);
        let mut server = Server {
            office,
            shards: Vec::new(),
            gate: Some(gate),
            _listeners: settings.listeners,
            alone: settings.alone,
        };
        let (mut driver, mut mailboxes) = (settings.driver, settings.mailboxes.into_iter());
        for n in 0..settings.reactors.max(1) {
            let config = ShardConfig {
                connection: Arc::clone(&settings.connection),
                host_keys: Arc::clone(&settings.host_keys),
                listeners: match n {
                    0 => server._listeners.iter().map(|fd| Fd(fd.as_raw_fd())).collect(),
                    _ => Vec::new(),
                },
                serial_base: settings.first_serial + n as u64,
                serial_step: settings.reactors.max(1) as u64,
            };
            let parts = (config, mailboxes.next());
            driver = server.start_shard(n, parts, driver, opened.clone())?;
        }
        if !confined {
            server.open();
        }
        Ok((server, reports))
    }

    /// Begins to serve, where that was not done at once.
    pub fn open(&mut self) {
        self.gate = None;
    }

    /// Passes a connection that another process has authenticated to the least loaded shard, or to
    /// that of its user, whose logins may go on over one connection where they meet.
    pub fn take_over(&self, connection: Box<HandOver>) {
        take_over(&self.office, connection);
    }

    /// The same for whoever outlives this.
    pub fn doorway(&self) -> impl Fn(Box<HandOver>) + Send + 'static {
        let office = Arc::clone(&self.office);
        move |connection| take_over(&office, connection)
    }

    /// Connections go on elsewhere, as soon as each can.
    pub fn move_on(&self, exit: &Arc<Exit>) {
        self.office.lead_on(Arc::clone(exit));
        self.office.doors.iter().for_each(|door| door.put(Mail::MoveOn));
    }

    /// The outcome of a job that another process has done, for the shard that has asked.
    pub fn deliver(&self, shard: usize, token: Token, done: Done) {
        if let Some(door) = self.office.doors.get(shard) {
            door.put(Mail::Done { token, done });
        }
    }

    /// Serves a connection that was accepted elsewhere, as if it had been accepted here.
    pub fn adopt(&self, socket: OwnedFd) {
        let Office { tcp_keepalive, routes, .. } = *self.office;
        let ends = desk::welcome(Fd(socket.as_raw_fd()), tcp_keepalive, routes, None);
        self.seat(Visitor { socket, ends, inbound: Vec::new() });
    }

    fn seat(&self, Visitor { socket, ends, inbound }: Visitor) {
        let Some(door) = self.office.doors.first() else { return };
        // Its slot is given back when it has logged in or ended.
        self.office.startups.adopt(ends.peer.ip());
        door.enter();
        door.put(Mail::Accepted { socket: Fd(socket.into_raw_fd()), ends, inbound });
    }

    /// The same for a proxy's connection, which waits in the lobby once it was told whose it is. `false`: it is
    /// gone again.
    pub fn ask(&self, socket: OwnedFd) -> bool {
        let ends = desk::ends_of(Fd(socket.as_raw_fd()));
        let asked = ends.and_then(|ends| Some((ends, self.office.asking(ends.peer.ip())?)));
        let (Some((ends, asking)), Some(door)) = (asked, self.office.doors.first()) else {
            return false;
        };
        door.put(Mail::Passed { socket: Fd(socket.into_raw_fd()), ends, asking });
        true
    }

    /// Serves the connection that waits in the lobby.
    pub fn let_in(&self) {
        let visitor = self.office.lobby().take();
        visitor.into_iter().for_each(|visitor| self.seat(visitor));
    }

    /// Turns it away.
    pub fn turn_away(&self, why: Refused) {
        if let Some(Visitor { socket, .. }) = self.office.lobby().take() {
            desk::tell(Fd(socket.as_raw_fd()), why);
        }
    }

    /// Accepts no more; each shard ends when its last connection has ended by itself.
    pub fn retire(&self) {
        if let Some(door) = self.office.doors.first() {
            door.put(Mail::Retire);
        }
    }

    /// Every shard has ended.
    pub fn is_over(&self) -> bool {
        self.shards.iter().all(JoinHandle::is_finished)
    }

    /// Connections open now.
    pub fn links(&self) -> usize {
        self.office.doors.iter().map(|door| door.load()).sum()
    }

    /// Connections that have come by a mailbox. Those that are counted are open, or have ended.
    pub fn received(&self) -> u64 {
        self.office.received.load(Ordering::Acquire)
    }

    /// The end of each connection wakes this thread, which looks what is left.
    pub fn watch(&self, watcher: Thread) {
        let _ = self.office.watcher.set(watcher);
    }

    /// Tells whoever keeps an audit how many events were lost on the way there, now that nothing else may
    /// come to tell.
    pub fn tell_losses(&self) {
        self.office.audit.iter().for_each(|audit| audit.tell_losses());
    }

    /// Ends every connection, then the shards, and waits for them.
    pub fn stop(mut self) {
        self.close();
        self.wait();
    }

    /// The same, but waits so long at most: a connection may wait for an answer that never comes. `false`: one
    /// does, and its shard is there until the process ends.
    pub fn stop_within(mut self, patience: Duration) -> bool {
        self.close();
        let until = reactor::now().after(patience);
        while !self.shards.iter().all(JoinHandle::is_finished) {
            if reactor::now() >= until {
                return false;
            }
            thread::sleep(ENDING_CHECK);
        }
        self.wait();
        true
    }

    fn close(&self) {
        for door in &self.office.doors {
            door.put(Mail::Stop);
        }
    }

    fn wait(&mut self) {
        for shard in std::mem::take(&mut self.shards) {
            if shard.join().is_err() {
                error!("a reactor thread ended with a panic");
            }
        }
        self.office.drops.tell();
        self.tell_losses();
    }

    /// Answers what the next shard is to be started with.
    fn start_shard(
        &mut self,
        n: usize,
        parts: (ShardConfig, Option<Mailbox>),
        driver: DriverChoice,
        gate: Receiver<Infallible>,
    ) -> anyhow::Result<DriverChoice> {
        let office = Arc::clone(&self.office);
        let manner = Manner { confined: office.is_confined(), alone: self.alone };
        // The driver belongs to the thread that makes it; it says here whether it could.
        let (ready, started) = bounded(1);
        let thread = thread::Builder::new()
            .name(format!("reactor-{n}"))
            .spawn(move || run_shard(n, parts, office, (driver, manner), &ready, &gate))
            .context("cannot start a reactor thread")?;
        self.shards.push(thread);
        let started = started.recv().context("a reactor thread ended at its start")??;
        let Started { about, is_warning, choice } = started;
        match is_warning {
            true => warn!("{about}"),
            // Each connection brings one.
            false if self.alone => debug!("{about}"),
            false if n == 0 => info!("{about}"),
            false => {}
        }
        // Where io_uring was asked for, every shard has to have it.
        Ok(if driver == DriverChoice::Uring { driver } else { choice })
    }
}

fn take_over(office: &Office, connection: Box<HandOver>) {
    let doors = &office.doors;
    let shares = connection.grant.upstream.as_ref().is_some_and(|to| to.is_shareable());
    let door = match shares {
        true => doors.get(place_of(&connection.grant.account.name, doors.len())),
        false => doors.iter().min_by_key(|door| door.load()),
    };
    if let Some(door) = door {
        door.enter();
        door.put(Mail::HandOver(connection));
    }
}

/// Always the same of `count` places for a user.
fn place_of(user: &str, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    (hasher.finish() % count.max(1) as u64) as usize
}

/// How a shard has started.
struct Started {
    about: String,
    is_warning: bool,
    choice: DriverChoice,
}

fn run_shard(
    n: usize,
    parts: (ShardConfig, Option<Mailbox>),
    office: Arc<Office>,
    (driver, manner): (DriverChoice, Manner),
    ready: &Sender<io::Result<Started>>,
    gate: &Receiver<Infallible>,
) {
    let opened = match drivers::open_as(driver, manner) {
        Ok(opened) => opened,
        Err(why) => {
            let _ = ready.send(Err(why));
            return;
        }
    };
    let ((about, is_warning), choice) = (opened.about(), opened.choice());
    let ready = || {
        let _ = ready.send(Ok(Started { about, is_warning, choice }));
        // Nothing is ever sent: it ends when the gate is opened.
        let _ = gate.recv();
    };
    match opened {
        Opened::Uring(driver) => run_shard_on(driver, n, parts, office, ready),
        Opened::Mio(driver, _) => run_shard_on(driver, n, parts, office, ready),
    }
}

fn run_shard_on<D: Driver>(
    driver: D,
    n: usize,
    (config, mailbox): (ShardConfig, Option<Mailbox>),
    office: Arc<Office>,
    ready: impl FnOnce(),
) {
    if let Some(door) = office.doors.get(n) {
        door.open(driver.waker());
    }
    ready();
    let desk = Desk::new(office, n, mailbox);
    let mut shard = Shard::new(driver, desk, config, Box::new(RandomPool::secure()));
    while !shard.is_done() {
        if let Err(why) = shard.turn(None) {
            error!(%why, "reactor {n} cannot go on: {why}");
            return;
        }
    }
}

const _: () = assert!(LINKS_MAX <= u32::MAX as usize >> 2);
