//! The process that acts for one account: takes authenticated connections over from the process
//! that accepted them as root, and serves them with nothing but the account's own rights.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, setresuid, setuid};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::audit::Remote;
use super::confine::raise_locked_memory;
use super::execute::{Executor, Orders, Signer};
use super::figures::Figures;
use super::helper::{self, NOT_BY_HAND};
use super::logbook::{Begun, Recorder};
use super::mailbox::{Mailbox, Reads};
use super::moving::{Exit, Moving, Pieces};
use super::parcel::Parcel;
use super::recording::{Received, Recorders};
use super::reports::Reports;
use super::server::{Server, Settings};
use super::signals::{SIGNALS, Signals, Woken};
use super::signer::words::{Order, Say, Tell};
use super::socket::Messenger;
use super::terms::Terms;
use super::{generation, serve};
use crate::base::escape;
use crate::limits::{PARCEL_BYTES_MAX, REKEY_TIME_MAX, RETIRED_IDLE_TIME};
use crate::services;
use crate::shard::{HandOver, Mail};

/// Looks in a row that must find nothing open before the process is idle.
const IDLE_CHECKS: u32 = 6;

/// How often a process whose gateway is gone looks whether its last connection has ended.
const ORPHAN_CHECK: Duration = Duration::from_millis(200);

/// What the process is started with.
pub struct Options {
    /// The account it acts for.
    pub uid: u32,
    /// The directory that is to be its root.
    pub root: Option<PathBuf>,
    pub reactors: usize,
    /// How long it stays without a connection. Zero: it is there for a single one, and ends with it.
    pub idle_time: Duration,
    /// Writes log lines until the process ends.
    pub log: fn(&Reports),
}

/// Serves until the other end says stop or is gone, or a signal comes.
///
/// # Errors
/// The process was not started by a gateway, or could not start its reactors.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(root) = &options.root {
        services::enter_root(root)
            .with_context(|| format!("cannot enter the root {}", root.display()))?;
    }
    let locked_memory = raise_locked_memory();
    become_account(options.uid).context("cannot give up root's rights")?;
    // It was started by a path that names it otherwise.
    nix::sys::prctl::set_name(c"tidegate")?;
    let messenger = Arc::new(helper::parent()?);
    // Before any thread exists, so that all inherit the mask and none is interrupted.
    let signals = Signals::catch(&SIGNALS)?;
    // The parent's socket among others must not reach the programs of the account.
    services::prepare().context("cannot prepare for starting programs")?;
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let (len, heirloom) = messenger.receive(&mut buffer).context(NOT_BY_HAND)?;
    let Ok(Parcel::Setup(terms)) = Parcel::decode(buffer.get(..len).unwrap_or(&[])) else {
        bail!("the gateway sent no configuration");
    };
    let mailbox = match messenger.receive(&mut buffer).context(NOT_BY_HAND)? {
        (len, Some(socket)) if buffer.get(..len) == Some(&*Parcel::Mailbox.encode()) => {
            Messenger::from_fd(socket)
        }
        _ => bail!("the gateway sent no way for connections"),
    };
    let figures = match messenger.receive(&mut buffer).context(NOT_BY_HAND)? {
        (len, Some(memory)) if buffer.get(..len) == Some(&*Parcel::Figures.encode()) => {
            Arc::new(Figures::received(&memory)?)
        }
        _ => bail!("the gateway sent no memory for counts"),
    };
    let message = |ticket, order| Zeroizing::new(Parcel::Sign { ticket, order }.encode());
    let signer = Arc::new(RemoteSigner::new(Arc::clone(&messenger), message));
    let remote = Arc::clone(&signer) as Arc<dyn Signer>;
    let clerk = Arc::new(Clerk(Arc::clone(&messenger)));
    let shape = (options.reactors, options.idle_time.is_zero());
    let recorders = Arc::new(Received::default());
    let mailbox = Mailbox::new(
        mailbox,
        Box::new(Arrivals { recorders: Arc::clone(&recorders), pieces: Pieces::default() }),
    );
    let ways = Ways { signer: remote, recorder: clerk, recorders, mailbox, figures };
    let (server, reports) = start(&terms, shape, ways, &messenger)?;
    // The rings are made; programs of the account have its own limits.
    if let Some((soft, hard)) = locked_memory {
        setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard).context("cannot limit locked memory")?;
    }
    let log = options.log;
    let log = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || log(&reports))
        .context("cannot start the log thread")?;
    let post = Post(Arc::new(Mutex::new(Some(server))));
    let (retire, retired) = bounded(1);
    match options.idle_time {
        Duration::ZERO => watch_the_only(Arc::clone(&messenger), post.clone())?,
        time => watch_idleness(Arc::clone(&messenger), post.clone(), time, retired)?,
    }
    let (end, ended) = bounded(1);
    watch_signals(Arc::clone(&messenger), signals, end)?;
    let exit = Arc::new(Exit::new(Arc::clone(&messenger)));
    let told_to = hear(&messenger, &signer, (&retire, &post, &exit), &mut buffer);
    if !told_to && ended.is_empty() {
        signer.inherit(heirloom);
        post.outlive(&signer, &ended, &mut buffer);
    }
    // Workers that wait for a signature wait for nothing now.
    signer.close();
    let last = post.open().take();
    if let Some(server) = last {
        server.stop();
    }
    let _ = log.join();
    Ok(())
}

/// Gives root's uid up for good; the groups are the account's already. From then on the kernel
/// refuses debuggers of the account, and with them access to the parent's socket.
fn become_account(uid: u32) -> anyhow::Result<()> {
    let account = Uid::from_raw(uid);
    setresuid(account, account, account)?;
    nix::sys::prctl::set_dumpable(false)?;
    if !account.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        bail!("they came back");
    }
    Ok(())
}

/// Serves what the parent sends, until it sends no more: because it has said so, or without a word.
fn hear(
    messenger: &Messenger,
    signer: &RemoteSigner,
    (retire, post, exit): (&Sender<()>, &Post, &Arc<Exit>),
    buffer: &mut [u8],
) -> bool {
    loop {
        let Ok(Some((len, _))) = helper::next_message(messenger, buffer) else {
            return false;
        };
        match Parcel::decode(buffer.get(..len).unwrap_or(&[])) {
            Ok(Parcel::Stop) => return true,
            Ok(Parcel::Retire) => drop(retire.try_send(())),
            Ok(Parcel::MoveOn) => {
                post.open().iter().for_each(|server| server.move_on(exit));
            }
            Ok(Parcel::Signature { ticket, signature }) => signer.answer(ticket, signature),
            _ => error!("the gateway sent something that is not for this process"),
        }
    }
}

/// Has the process that holds the host keys sign, and hands its answers to whoever waits for them.
pub struct RemoteSigner(Mutex<Questions>);

struct Questions {
    /// `None`: no answers come any more.
    way: Option<Way>,
    next: u64,
    waiting: BTreeMap<u64, Sender<Vec<u8>>>,
}

/// Who is asked: root's process, or where that is gone the signer itself.
#[derive(Clone)]
struct Way {
    messenger: Arc<Messenger>,
    /// The message that carries an order.
    message: fn(u64, Order) -> Zeroizing<Vec<u8>>,
}

impl RemoteSigner {
    pub fn new(
        messenger: Arc<Messenger>,
        message: fn(u64, Order) -> Zeroizing<Vec<u8>>,
    ) -> RemoteSigner {
        let way = Some(Way { messenger, message });
        RemoteSigner(Mutex::new(Questions { way, next: 0, waiting: BTreeMap::new() }))
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn answer(&self, ticket: u64, signature: Vec<u8>) {
        if let Some(answer) = self.questions().waiting.remove(&ticket) {
            let _ = answer.send(signature);
        }
    }

    /// No answers come any more.
    pub fn close(&self) {
        self.ask_by(None);
    }

    /// Root's process is gone: whoever waits asks the signer itself, if there is a way to it.
    pub fn inherit(&self, heirloom: Option<OwnedFd>) {
        let message = |ticket, order| Tell::Sign { ticket, order }.encode();
        let way = |socket| Way { messenger: Arc::new(Messenger::from_fd(socket)), message };
        self.ask_by(heirloom.map(way));
    }

    fn ask_by(&self, way: Option<Way>) {
        let mut questions = self.questions();
        questions.way = way;
        questions.waiting.clear();
    }

    /// The way to whoever is asked.
    pub fn messenger(&self) -> Option<Arc<Messenger>> {
        self.questions().way.as_ref().map(|way| Arc::clone(&way.messenger))
    }

    /// Takes one answer of a signer that is asked itself, which has something to say or is gone.
    pub fn hear(&self, messenger: &Messenger, buffer: &mut [u8]) {
        let Ok(Some((len, _))) = helper::next_message(messenger, buffer) else {
            warn!("The signer is gone too: connections end when their keys have to be changed");
            return self.close();
        };
        match Say::decode(buffer.get(..len).unwrap_or_default()) {
            Ok(Say::Signed { ticket, signature }) => self.answer(ticket, signature),
            Ok(Say::Refused { ticket, why }) => {
                let why = escape(why.as_bytes());
                error!(%why, "The signer signs no such thing: {why}");
                self.answer(ticket, Vec::new());
            }
            _ => error!("the signer sent something that is not for this process"),
        }
    }

    fn begin(&self) -> Option<(Way, u64, Receiver<Vec<u8>>)> {
        let (answer, answered) = bounded(1);
        let mut questions = self.questions();
        let way = questions.way.clone()?;
        let ticket = questions.next;
        questions.next += 1;
        questions.waiting.insert(ticket, answer);
        Some((way, ticket, answered))
    }
}

impl Orders for RemoteSigner {
    /// Asks, and waits for the answer; once more where somebody else is to be asked meanwhile.
    fn order(&self, order: Order) -> Option<Box<[u8]>> {
        for _ in 0..2 {
            let (Way { messenger, message }, ticket, answered) = self.begin()?;
            // Who is gone is found out where he is heard.
            let _ = messenger.send(&message(ticket, order.clone()));
            match answered.recv_timeout(REKEY_TIME_MAX) {
                Ok(signature) => {
                    return Some(signature.into_boxed_slice()).filter(|bytes| !bytes.is_empty());
                }
                Err(RecvTimeoutError::Disconnected) => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.questions().waiting.remove(&ticket);
                    return None;
                }
            }
        }
        None
    }
}

/// Has the process that may record logins record them.
struct Clerk(Arc<Messenger>);

impl Recorder for Clerk {
    fn begun(&self, session: &Begun<'_>) {
        let Begun { pid, terminal, peer, .. } = *session;
        let parcel = Parcel::Login { pid, terminal: terminal.to_owned(), peer };
        // Where it does not get through, a record is missing.
        let _ = self.0.send(&parcel.encode());
    }

    /// Nothing that is typed is judged here.
    fn failed(&self, _user: &str, _peer: IpAddr, _host: Option<&str>) {}

    /// Nor is anybody's name looked up.
    fn named(&self, _peer: IpAddr, _host: &Arc<str>) {}
}

/// What serves connections, until the process ends.
#[derive(Clone)]
struct Post(Arc<Mutex<Option<Server>>>);

impl Post {
    /// Root's process is gone without a word, and sessions are none of its end's: they go on until they
    /// end by themselves. The signer, which is there for them too, is heard meanwhile.
    fn outlive(&self, signer: &RemoteSigner, ended: &Receiver<()>, buffer: &mut [u8]) {
        let links = || self.open().as_ref().map_or(0, Server::links);
        if links() > 0 {
            warn!("The gateway's own process is gone; connections that are open go on");
        }
        while links() > 0 && ended.is_empty() {
            match signer.messenger() {
                Some(way) if helper::is_readable(&way, ORPHAN_CHECK).unwrap_or(true) => {
                    signer.hear(&way, buffer);
                }
                Some(_) => {}
                None => drop(ended.recv_timeout(ORPHAN_CHECK)),
            }
        }
    }

    /// Connections that have come, and of them those that are open. `None`: the process ends.
    fn count(&self) -> Option<(u64, usize)> {
        let open = self.open();
        let server = open.as_ref()?;
        // In this order: what is counted is open by then.
        let received = server.received();
        Some((received, server.links()))
    }

    fn open(&self) -> MutexGuard<'_, Option<Server>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who does what this process may not.
struct Ways {
    signer: Arc<dyn Signer>,
    /// Of logins.
    recorder: Arc<dyn Recorder>,
    /// Of sessions.
    recorders: Arc<dyn Recorders>,
    /// Where connections come.
    mailbox: Mailbox,
    /// Where it is counted what is done.
    figures: Arc<Figures>,
}

fn start(
    terms: &Terms,
    (reactors, alone): (usize, bool),
    ways: Ways,
    messenger: &Arc<Messenger>,
) -> anyhow::Result<(Server, Reports)> {
    let (config, offers) = terms.read()?;
    // Keys are agreed on again here, never for the first time: the family of ciphers stays.
    let steers = config.global.cipher_steering;
    let connection = Arc::new(generation::connection_config(&config, offers, (steers, true))?);
    // Where it is there for one connection, limits are those of its session.
    let open_files = if alone { None } else { serve::raise_open_files() };
    let Ways { signer, recorder, recorders, mailbox, figures } = ways;
    let recorder = Some(recorder);
    let executor = Executor { open_files, recorder, ..Executor::apart(signer) };
    let message = |entry| Parcel::Audit(Box::new(entry)).encode();
    Server::start(Settings {
        uid: Some(nix::unistd::geteuid().as_raw()),
        audit: Remote::wanted(&config, messenger, message),
        recorders: Some(recorders),
        mailboxes: vec![mailbox],
        figures,
        alone,
        ..Settings::apart(&config, connection, reactors, executor)
    })
}

/// Reads what comes about connections.
struct Arrivals {
    recorders: Arc<Received>,
    pieces: Pieces,
}

impl Reads for Arrivals {
    fn read(&mut self, message: &[u8], socket: Option<OwnedFd>, mail: &mut Vec<Mail>) -> u64 {
        match (Parcel::decode(message), socket) {
            (Ok(Parcel::Recorder { serial }), Some(socket)) => self.recorders.add(serial, socket),
            // Sessions of the connection that follows are not recorded.
            (Ok(Parcel::Recorder { .. }), None) => {}
            (Ok(Parcel::Piece { serial, number }), piece) => {
                // Where some are missing, so is the connection.
                let _ = self.pieces.put((serial, number), piece);
            }
            (Ok(Parcel::Connection(moving)), socket) => {
                let pieces = self.pieces.take(&moving);
                mail.extend(arrived(*moving, socket.zip(pieces)).map(Mail::HandOver));
                return 1;
            }
            _ => error!("the gateway sent something that is no connection"),
        }
        0
    }
}

fn arrived(moving: Moving, descriptors: Option<(OwnedFd, Vec<OwnedFd>)>) -> Option<Box<HandOver>> {
    let link = moving.serial;
    let Some((socket, pieces)) = descriptors else {
        error!(link, "a login is lost: there is no descriptor left for it");
        return None;
    };
    let connection = moving.into_connection((socket, pieces), None);
    if connection.is_none() {
        error!(link, "a connection came with a grant or luggage that cannot be read");
    }
    connection
}

/// Tells the parent when nothing has been open for a while; it answers with a farewell unless
/// another connection is on its way. Once it was told to retire, a moment is enough.
fn watch_idleness(
    messenger: Arc<Messenger>,
    post: Post,
    idle_time: Duration,
    retired: Receiver<()>,
) -> anyhow::Result<()> {
    let mut check = idle_time / IDLE_CHECKS;
    let watch = move || {
        let (mut calm, mut before) = (0, 0);
        loop {
            match retired.recv_timeout(check) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) => check = check.min(RETIRED_IDLE_TIME / IDLE_CHECKS),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Some((received, links)) = post.count() else { return };
            calm = if links == 0 && received == before { calm + 1 } else { 0 };
            before = received;
            if calm >= IDLE_CHECKS {
                calm = 0;
                info!("Idle: asking to end");
                if messenger.send(&Parcel::Idle { received }.encode()).is_err() {
                    return;
                }
            }
        }
    };
    start_idle(watch)
}

/// Tells the parent when the only connection has ended, or has left.
fn watch_the_only(messenger: Arc<Messenger>, post: Post) -> anyhow::Result<()> {
    let watch = move || {
        if let Some(server) = &*post.open() {
            server.watch(thread::current());
        }
        let mut told = 0;
        loop {
            let Some((received, links)) = post.count() else { return };
            // One that has left may come back.
            if links > 0 || received == told {
                thread::park();
            } else {
                told = received;
                let _ = messenger.send(&Parcel::Idle { received }.encode());
            }
        }
    };
    start_idle(watch)
}

fn start_idle(watch: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let started = thread::Builder::new().name("idle".to_owned()).spawn(watch);
    started.map(|_| ()).context("cannot start the idle thread")
}

/// Whoever ends all our processes at once ends this one in order too.
fn watch_signals(
    messenger: Arc<Messenger>,
    signals: Signals,
    end: Sender<()>,
) -> anyhow::Result<()> {
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            // What else is said to a gateway is said to its first process.
            while let Ok(woken) = signals.wait(&[], None) {
                if matches!(woken, Woken::Signal(Signal::SIGTERM | Signal::SIGINT)) {
                    let _ = end.try_send(());
                    return messenger.hang_up();
                }
            }
        })
        .map(|_| ())
        .context("cannot start the signal thread")
}
