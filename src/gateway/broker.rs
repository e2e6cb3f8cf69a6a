//! Root's side of the processes that act for accounts: starts one per account at its first login,
//! passes connections to it, and makes the signatures that its rekeys need.
//!
//! Nothing here waits for such a process to read: an account that stops its own process must not
//! hold up the logins of others.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, select};
use nix::errno::Errno;
use nix::unistd::{Gid, getgrouplist};
use tracing::{error, info};
use zeroize::Zeroize;

use super::audit::book::AccountBook;
use super::audit::{Audit, Entry, Event, Field, Speaker};
use super::batch;
use super::config::LogFormat;
use super::figures::Figures;
use super::figures::roll::{Presence, roll};
use super::helper::process::Process;
use super::helper::{self, Logs};
use super::logbook::{self, Logbook, Login};
use super::moving::{self, Exit, Moving, Pieces, Stamp};
use super::pam::porter::Arrival;
use super::pam::{Dialogue, Order as PamOrder};
use super::parcel::Parcel;
use super::recording::{self, Recorders};
use super::signer::bureau::{Bureau, Heir};
use super::signer::words::{Order, Signable};
use super::socket::Messenger;
use super::syslog;
use super::terms::Terms;
use crate::base::Instant;
use crate::limits::{
    DELEGATE_ENDING_TIME, DELEGATE_SIGNATURES_A_MILLI, DELEGATE_SIGNATURES_OWED_MAX,
    HOST_KEY_PROOFS_MAX, HOST_KEYS_TOLD_MAX, PARCEL_BYTES_MAX, SENT_REMEMBERED_MAX,
};
use crate::reactor::{self, Fd};
use crate::services::{self, Account, Grant, Place, lastlog};
use crate::shard::HandOver;

/// The descriptor number at which a delegate finds its end of the socket pair.
pub const DELEGATE_FD: i32 = 3;
const NOT_REACHED: &str = "no process of its account could be reached";

/// What a new delegate is told and what its requests are answered with.
pub struct BrokerConfig {
    pub terms: Terms,
    /// Has our host keys sign.
    pub bureau: Arc<Bureau>,
    pub reactors: usize,
    pub logs: Logs,
    /// How long a delegate stays without a connection.
    pub idle_time: Duration,
    /// Where their logins are recorded.
    pub logbook: Option<Arc<Logbook>>,
    /// Where what is done is noted, if it is.
    pub audit: Option<Arc<Audit>>,
    /// Who records sessions.
    pub recorders: Arc<dyn Recorders>,
    /// Each connection has a process of its own.
    pub apart: bool,
}

/// Serves hand-overs until every shard is gone: those that no process in `running` could be passed yet.
/// Then waits until every delegate has ended by itself; from the moment that `keep` is closed, ends them.
pub fn run(
    config: &BrokerConfig,
    connections: &Receiver<Arrival>,
    running: &Running,
    keep: &Receiver<Infallible>,
) {
    batch::enter();
    let (alive, ended) = bounded(0);
    let broker = Broker { config, running, alive };
    for Arrival { connection, kept } in connections {
        broker.deliver(*connection, kept);
    }
    let Broker { alive, .. } = broker;
    drop(alive);
    // Nothing comes any more: none has to wait for it. They may still be told to pass on what they have.
    for delegate in running.delegates().values() {
        let _ = delegate.messenger.try_send(&Parcel::Retire.encode(), None);
    }
    // Nothing is ever sent on either: `ended` closes when the last listener has seen the end of its
    // process.
    select! {
        recv(ended) -> _ => return,
        recv(keep) -> _ => {}
    }
    let delegates = std::mem::take(&mut *running.delegates());
    for delegate in delegates.into_values() {
        let _ = delegate.messenger.try_send(&Parcel::Stop.encode(), None);
        delegate.messenger.hang_up();
    }
    let _ = ended.recv();
}

/// The processes of accounts that run already. Whoever has heard that a login is over passes it on
/// himself; only what a process has to be started for, or a recorder, is the broker's.
#[derive(Debug, Default)]
pub struct Running {
    delegates: Mutex<BTreeMap<Key, Arc<Delegate>>>,
    onward: Arc<Onward>,
}

/// Where connections of accounts' processes go on when another program has this one's place.
#[derive(Debug, Default)]
struct Onward {
    stamp: Stamp,
    exit: Mutex<Option<Arc<Exit>>>,
}

impl Onward {
    fn exit(&self) -> Option<Arc<Exit>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Running {
    /// Connections are to go on in the program at the other end, as soon as they can.
    pub fn move_on(&self, exit: &Arc<Exit>) {
        let to = Some(Arc::clone(exit));
        *self.onward.exit.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.delegates().values().for_each(|delegate| delegate.tell_to_move());
    }

    /// Never waits. The connection comes back where the broker is to see to it.
    ///
    /// # Errors
    /// There is no such process, it takes nothing now, or its sessions are recorded.
    pub fn pass(&self, mut connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        let Grant { account, place, rules, .. } = &*connection.grant;
        let key = (account.uid, place.chroot().map(Path::to_owned), None);
        let delegate = self.delegates().get(&key).map(Arc::clone);
        let Some(delegate) = delegate.filter(|_| !rules.record.is_on()) else {
            return Err(connection);
        };
        let sent = Sent::new(&connection, None);
        let mut moving = Moving::of(&mut connection);
        // SAFETY: the shard gave this descriptor up when it handed the connection over.
        let socket = unsafe { OwnedFd::from_raw_fd(connection.socket.0) };
        if matches!(delegate.pass(sent, &mut moving, (&socket, &[])), Passed::Yes) {
            return Ok(());
        }
        connection.socket = Fd(socket.into_raw_fd());
        moving.give_back(&mut connection);
        Err(connection)
    }

    fn delegates(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Delegate>>> {
        self.delegates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Broker<'a> {
    config: &'a BrokerConfig,
    running: &'a Running,
    /// Every listener holds a copy as long as its process exists.
    alive: Sender<Infallible>,
}

/// The uid, the root directory, and the connection whose session a process is for.
type Key = (u32, Option<PathBuf>, Option<u64>);

/// A running process of one account.
#[derive(Debug)]
struct Delegate {
    user: String,
    uid: u32,
    messenger: Messenger,
    /// Where its first shard hears of connections.
    mailbox: Messenger,
    started: Instant,
    /// Its connections do not go on elsewhere.
    stays: bool,
    onward: Arc<Onward>,
    door: Mutex<Door>,
}

/// Locked while a connection is sent and while a farewell is answered, so that no connection is
/// sent to a process that has just been let go.
#[derive(Debug, Default)]
struct Door {
    /// Connections that were sent.
    sent: u64,
    /// Those that have gone on elsewhere.
    left: u64,
    /// Signatures of key exchanges that it has had.
    signatures: u64,
    /// The last of them.
    last: VecDeque<Sent>,
    /// What it may speak of in an audit.
    book: AccountBook,
    /// It was let go, or it has ended.
    closed: bool,
}

/// What is known of a connection that was sent.
#[derive(Debug)]
struct Sent {
    /// Its number in the log.
    link: u64,
    user: String,
    /// Its client.
    peer: SocketAddr,
    /// The session's identifier.
    session: Box<[u8]>,
    /// Proofs of host keys that were made for its client.
    proofs: usize,
    /// The way to its recorder, until it is sent.
    recorder: Option<OwnedFd>,
}

impl Sent {
    fn new(connection: &HandOver, recorder: Option<OwnedFd>) -> Sent {
        Sent {
            link: connection.serial,
            user: connection.grant.account.name.clone(),
            peer: connection.ends.peer,
            session: connection.session.clone(),
            recorder,
            proofs: 0,
        }
    }
}

enum Passed {
    Yes,
    /// The process has ended or is ending: another one is needed.
    Gone(Sent),
    No(io::Error),
}

impl Broker<'_> {
    fn deliver(&self, mut connection: HandOver, kept: Option<Dialogue>) {
        // SAFETY: the shard gave this descriptor up when it handed the connection over.
        let socket = unsafe { OwnedFd::from_raw_fd(connection.socket.0) };
        let (link, peer) = (connection.serial, connection.ends.peer);
        let recorder = recording::way(&*self.config.recorders, link, peer, &connection.grant);
        let sent = Sent::new(&connection, recorder);
        let pieces = connection.luggage.as_mut().map(|one| std::mem::take(&mut one.descriptors));
        // SAFETY: they came with the connection, and nobody else has them.
        let owned = |fd: Fd| unsafe { OwnedFd::from_raw_fd(fd.0) };
        let pieces: Vec<OwnedFd> = pieces.unwrap_or_default().into_iter().map(owned).collect();
        let mut moving = Moving::of(&mut connection);
        moving.luggage = moving.luggage.map(|(bytes, _)| (bytes, pieces.len() as u32));
        let Grant { account, place, .. } = &*connection.grant;
        let user = &account.name;
        let descriptors = (&socket, &*pieces);
        if let Err(why) = self.pass((account, place, kept), sent, &mut moving, descriptors) {
            if let Some(audit) = &self.config.audit {
                let entry = Entry::new(Event::Disconnect, link, peer).of_user(user);
                audit.note(Speaker::Gateway, entry.text(Field::Reason, NOT_REACHED));
            }
            error!(link, user, %why, "a connection did not reach the process of {user}: {why}");
        }
    }

    fn pass(
        &self,
        (account, place, kept): (&Account, &Place, Option<Dialogue>),
        mut sent: Sent,
        moving: &mut Moving,
        descriptors: Descriptors<'_>,
    ) -> io::Result<()> {
        let alone = (self.config.apart || kept.is_some()).then_some(sent.link);
        let key = (account.uid, place.chroot().map(Path::to_owned), alone);
        let known = self.running.delegates().get(&key).map(Arc::clone);
        if let Some(delegate) = known {
            match delegate.pass(sent, moving, descriptors) {
                Passed::Yes => return Ok(()),
                Passed::No(why) => return Err(why),
                Passed::Gone(back) => sent = back,
            }
        }
        self.running.delegates().retain(|_, delegate| !delegate.door().closed);
        let delegate = self.start(account, place, kept)?;
        let passed = delegate.pass(sent, moving, descriptors);
        self.running.delegates().insert(key, Arc::clone(&delegate));
        // Whoever was told before it was among them has not told it.
        if self.running.onward.exit().is_some() {
            delegate.tell_to_move();
        }
        match passed {
            Passed::Yes => Ok(()),
            Passed::No(why) => Err(why),
            Passed::Gone(_) => Err(io::Error::other("it ended at its start")),
        }
    }

    fn start(
        &self,
        account: &Account,
        place: &Place,
        kept: Option<Dialogue>,
    ) -> io::Result<Arc<Delegate>> {
        let BrokerConfig { reactors, idle_time, apart, .. } = *self.config;
        let shape =
            if apart || kept.is_some() { (1, Duration::ZERO) } else { (reactors, idle_time) };
        // Many exist here alone, and share one account of the system and its process.
        let name = place.service().unwrap_or(&account.name);
        let (ours, theirs) = Messenger::pair()?;
        let child = match kept {
            None => {
                let who = (account, name, place.chroot());
                let child = spawn(self.config, who, shape, &theirs)?;
                Served::Own(Process::new(child, "acts", name))
            }
            Some(dialogue) => {
                let words = words(self.config, (account.uid, place.chroot()), shape);
                let words = words.into_iter().map(OsStringExt::into_vec).collect();
                let variables = variables().map(|(name, value)| {
                    [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat()
                });
                let order =
                    PamOrder::Start { gid: account.gid, words, variables: variables.collect() };
                dialogue.start(&order, &theirs)?;
                Served::Kept(dialogue)
            }
        };
        drop(theirs);
        let setup = Parcel::Setup(self.config.terms.clone());
        let (way, heir) = self.config.bureau.heir()?;
        ours.try_send(&setup.encode(), Some(way.as_owned_fd().as_fd()))?;
        let (mailbox, its) = Messenger::pair()?;
        ours.try_send(&Parcel::Mailbox.encode(), Some(its.as_owned_fd().as_fd()))?;
        let (user, pid) = (name, child.pid());
        let (figures, theirs) = Figures::shared(shape.0)?;
        let presence = roll().enter("account", name, pid, Some(Arc::new(figures)));
        ours.try_send(&Parcel::Figures.encode(), Some(theirs.as_fd()))?;
        info!(user, pid, "Started process {pid} for {user}");
        let delegate = Arc::new(Delegate {
            user: name.to_owned(),
            uid: account.uid,
            messenger: ours,
            mailbox,
            started: reactor::now(),
            // Who goes on with a session has to learn how it ends.
            stays: matches!(child, Served::Kept(_)) && !services::kernel_tells_ends(),
            onward: Arc::clone(&self.running.onward),
            door: Mutex::default(),
        });
        let listener = Listener {
            delegate: Arc::clone(&delegate),
            child,
            bureau: Arc::clone(&self.config.bureau),
            logbook: self.config.logbook.clone(),
            audit: self.config.audit.clone(),
            _heir: heir,
            _presence: presence,
            _alive: self.alive.clone(),
        };
        thread::Builder::new()
            .name(format!("for {name}"))
            .stack_size(256 * 1024)
            .spawn(move || listener.listen())?;
        Ok(delegate)
    }
}

/// The socket of a connection, and what else belongs to it.
type Descriptors<'a> = (&'a OwnedFd, &'a [OwnedFd]);

impl Delegate {
    /// Its connections are to go on elsewhere.
    fn tell_to_move(&self) {
        if !self.stays {
            let _ = self.messenger.try_send(&Parcel::MoveOn.encode(), None);
        }
    }

    fn pass(
        &self,
        mut sent: Sent,
        moving: &mut Moving,
        (socket, pieces): Descriptors<'_>,
    ) -> Passed {
        if moving.token.is_empty() {
            moving.token = self.onward.stamp.token(self.uid, moving);
            moving.session.clear();
        }
        let mut door = self.door();
        if door.closed {
            return Passed::Gone(sent);
        }
        let passed = match &sent.recorder {
            Some(recorder) => {
                let parcel = Parcel::Recorder { serial: sent.link };
                self.mailbox.try_send(&parcel.encode(), Some(recorder.as_fd()))
            }
            None => Ok(()),
        };
        let passed = passed.and_then(|()| moving::send(&self.mailbox, moving, socket, pieces));
        match passed {
            Ok(()) => {
                sent.recorder = None;
                door.sent += 1;
                door.book.enter(sent.link, sent.peer, &sent.user);
                if door.last.len() >= SENT_REMEMBERED_MAX {
                    door.last.pop_front();
                }
                door.last.push_back(sent);
                Passed::Yes
            }
            Err(why) => match why.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    door.closed = true;
                    Passed::Gone(sent)
                }
                _ => Passed::No(why),
            },
        }
    }

    /// It was told to pass connections on.
    fn may_pass_on(&self) -> bool {
        !self.stays && self.onward.exit().is_some()
    }

    /// A connection of its goes on in the program that has this one's place, with what keeps its session.
    /// `false`: it goes on here.
    ///
    /// # Errors
    /// It is none that was passed to this process.
    fn pass_on(
        &self,
        mut moving: Moving,
        (socket, mut pieces): (&OwnedFd, Vec<OwnedFd>),
        kept: Option<&Dialogue>,
    ) -> io::Result<bool> {
        let exit = self.onward.exit().filter(|_| !self.stays);
        let exit = exit.ok_or_else(|| io::Error::other("it was not told to pass anything on"))?;
        // What goes on elsewhere is a relay's, and nobody else's word opens a host.
        let known = moving.upstream.is_none() && self.onward.stamp.is_known(self.uid, &moving);
        {
            let mut door = self.door();
            door.left += 1;
            if !known || moving.kept.is_some() || door.left > door.sent {
                return Err(io::Error::other("it passes a connection on that was not its"));
            }
        }
        let (serial, user, packed) = (moving.serial, &self.user, pieces.len());
        // The next one has a mark of its own.
        moving.token.clear();
        let mut door = self.door();
        let sent = kept.map_or(Ok(()), |kept| {
            // Before anybody there could have it start another.
            kept.expect(true)?;
            pieces.extend(kept.pieces()?);
            moving.kept = Some(kept.pid());
            Ok(())
        });
        if sent.and_then(|()| exit.send(&moving, socket, &pieces)).is_ok() {
            door.book.leave(serial);
            return Ok(true);
        }
        // It is tried again there.
        kept.into_iter().for_each(|kept| drop(kept.expect(false)));
        pieces.truncate(packed);
        door.sent += 1;
        let token = self.onward.stamp.token(self.uid, &moving);
        let moving = Moving { token, session: Vec::new(), kept: None, ..moving };
        if let Err(why) = moving::send(&self.mailbox, &moving, socket, &pieces) {
            error!(link = serial, %user, %why, "a connection of {user} is lost: {why}");
        }
        Ok(false)
    }

    /// Waits until it has ended, for some time and no more.
    fn see_off(&self) -> io::Result<ExitStatus> {
        let until = reactor::now().after(DELEGATE_ENDING_TIME);
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        loop {
            let left = until.since(reactor::now());
            if left.is_zero() {
                return Err(io::Error::other("it does not end"));
            }
            let said = helper::is_readable(&self.messenger, left).map_err(io::Error::other)?;
            if said && helper::next_message(&self.messenger, &mut buffer)?.is_none() {
                return Ok(ExitStatus::default());
            }
        }
    }

    /// Lets an idle process end, unless a connection is on its way to it.
    fn let_go(&self, received: u64) -> bool {
        let mut door = self.door();
        if door.sent != received {
            return false;
        }
        door.closed = true;
        let _ = self.messenger.try_send(&Parcel::Stop.encode(), None);
        true
    }

    /// One more proof of a host key for the client of this session, which has to be of a connection
    /// that was passed to the process.
    fn may_prove(&self, session: &[u8]) -> bool {
        let mut door = self.door();
        let mut known = door.last.iter_mut().rev();
        let Some(sent) = known.find(|sent| *sent.session == *session) else { return false };
        sent.proofs += 1;
        sent.proofs <= proofs_max()
    }

    /// One more key exchange, unless it has had more than its connections can have a use for. Bytes pay
    /// for key exchanges too, and are not counted here: what they can pay for in a second is.
    fn may_exchange(&self) -> bool {
        let mut door = self.door();
        door.signatures += 1;
        door.signatures <= exchanges_max(door.sent, self.started)
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Proofs of host keys that one client can have a use for.
pub fn proofs_max() -> usize {
    usize::from(HOST_KEY_PROOFS_MAX) * HOST_KEYS_TOLD_MAX
}

/// Key exchanges that a process may have had signed for so many connections that were passed to it.
pub fn exchanges_max(connections: u64, started: Instant) -> u64 {
    let since = reactor::now().since(started).as_millis();
    let paid = u64::try_from(since).unwrap_or(u64::MAX).saturating_mul(DELEGATE_SIGNATURES_A_MILLI);
    connections.saturating_mul(DELEGATE_SIGNATURES_OWED_MAX.saturating_add(paid))
}

/// The new process still has root's uid when it begins, and gives it up itself before it does
/// anything else: a process that has given root up cannot be traced by its account, one that was
/// started as the account could be, and with it our signatures be had for the asking.
fn spawn(
    config: &BrokerConfig,
    (account, name, root): (&Account, &str, Option<&Path>),
    shape: (usize, Duration),
    theirs: &Messenger,
) -> io::Result<Child> {
    let gid = account.gid;
    let name = CString::new(name)?;
    let groups = getgrouplist(&name, Gid::from_raw(gid))?;
    let groups: Vec<libc::gid_t> = groups.into_iter().map(Gid::as_raw).collect();
    let socket = theirs.as_owned_fd().as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("tidegate")
        .args(words(config, (account.uid, root), shape))
        .env_clear()
        .envs(variables())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, on memory that was prepared before
    // the fork. They are made bare: the C library's changes of groups are for whole processes.
    unsafe {
        command.pre_exec(move || {
            set_out(socket)?;
            let groups = (groups.len(), groups.as_ptr());
            Errno::result(libc::syscall(libc::SYS_setgroups, groups.0, groups.1))?;
            Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            Ok(())
        });
    }
    command.spawn()
}

/// What such a process is told when it is started.
fn words(
    config: &BrokerConfig,
    (uid, root): (u32, Option<&Path>),
    (reactors, idle_time): (usize, Duration),
) -> Vec<OsString> {
    let Logs { format, level, own_level, syslog } = config.logs;
    let format = if format == LogFormat::Json { "json" } else { "text" };
    let (uid, reactors) = (uid.to_string(), reactors.to_string());
    let idle_time = idle_time.as_millis().to_string();
    let known = ["delegate", "--uid", &uid, "--reactors", &reactors, "--idle-time", &idle_time];
    let logs = ["--log-format", format, "--log-level", level.name()];
    let own_level = own_level.iter().flat_map(|level| ["--own-log-level", level.name()]);
    let syslog = syslog.iter().flat_map(|facility| ["--syslog", facility.name()]);
    let mut words: Vec<OsString> =
        known.into_iter().chain(logs).chain(own_level).chain(syslog).map(OsString::from).collect();
    words.extend(root.iter().flat_map(|root| ["--root".into(), root.as_os_str().to_owned()]));
    words
}

/// What it has of our environment.
fn variables() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| name == syslog::TEST_VARIABLE || name == lastlog::TEST_VARIABLE)
}

/// What a process of ours does between fork and exec, by system calls alone: the socket to us gets its
/// number, and a session of its own keeps it from whoever controls our terminal.
pub fn set_out(socket: RawFd) -> io::Result<()> {
    batch::leave();
    // SAFETY: takes numbers.
    let placed = unsafe {
        // Copying a descriptor onto itself would leave it close-on-exec.
        match socket {
            DELEGATE_FD => libc::fcntl(socket, libc::F_SETFD, 0),
            _ => libc::dup2(socket, DELEGATE_FD),
        }
    };
    Errno::result(placed)?;
    // SAFETY: takes nothing.
    Errno::result(unsafe { libc::setsid() })?;
    Ok(())
}

/// The process of an account: one that we have started, or one that keeps its session has.
enum Served {
    Own(Process),
    Kept(Dialogue),
    /// Another program goes on with what keeps its session, and this one is about to end.
    Left(u32),
}

impl Served {
    fn pid(&self) -> u32 {
        match self {
            Served::Own(process) => process.id(),
            Served::Kept(dialogue) => dialogue.pid(),
            Served::Left(pid) => *pid,
        }
    }

    /// One that has none any more is killed by who keeps its session, when it does not end.
    fn kill(&mut self) {
        match self {
            Served::Own(process) => process.kill(),
            Served::Kept(dialogue) => dialogue.kill(),
            Served::Left(_) => {}
        }
    }

    const fn dialogue(&self) -> Option<&Dialogue> {
        match self {
            Served::Kept(dialogue) => Some(dialogue),
            Served::Own(_) | Served::Left(_) => None,
        }
    }

    fn let_go(&mut self) {
        let left = Served::Left(self.pid());
        if let Served::Kept(dialogue) = std::mem::replace(self, left) {
            dialogue.let_go();
        }
    }

    /// Gives it some time to end, and its session some to be closed.
    fn end(&mut self, delegate: &Delegate) -> io::Result<ExitStatus> {
        let dialogue = match self {
            Served::Own(process) => return process.end(),
            Served::Left(_) => return delegate.see_off(),
            Served::Kept(dialogue) => dialogue,
        };
        if let Some(status) = dialogue.end(DELEGATE_ENDING_TIME)? {
            return Ok(status);
        }
        dialogue.kill();
        let late = || io::Error::other("PAM does not close its session");
        dialogue.end(DELEGATE_ENDING_TIME)?.ok_or_else(late)
    }
}

/// Hears one delegate until it ends.
struct Listener {
    delegate: Arc<Delegate>,
    child: Served,
    bureau: Arc<Bureau>,
    logbook: Option<Arc<Logbook>>,
    audit: Option<Arc<Audit>>,
    _heir: Heir,
    _presence: Presence,
    _alive: Sender<Infallible>,
}

impl Listener {
    fn listen(mut self) {
        let user = self.delegate.user.clone();
        let fault = self.hear().err();
        self.delegate.door().closed = true;
        if let Some(why) = fault {
            error!(user, %why, "killing the process of {user}: {why}");
            self.child.kill();
        }
        match self.child.end(&self.delegate) {
            Ok(status) if status.success() => info!(user, "The process of {user} has ended"),
            Ok(status) => error!(user, %status, "The process of {user} ended with {status}"),
            Err(why) => error!(user, %why, "the process of {user} cannot be waited for: {why}"),
        }
        if let Some(audit) = &self.audit {
            let left = self.delegate.door().book.close();
            left.into_iter().for_each(|entry| audit.note(Speaker::Gateway, entry));
        }
    }

    /// Answers until the process leaves, which is in order, or does what it may not do.
    fn hear(&mut self) -> io::Result<()> {
        let delegate = Arc::clone(&self.delegate);
        let messenger = &delegate.messenger;
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let mut pieces = Pieces::default();
        loop {
            let Some((len, passenger)) = helper::next_message(messenger, &mut buffer)? else {
                return Ok(());
            };
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            let message = Parcel::decode(bytes);
            // It may have held a shared secret.
            bytes.zeroize();
            match (message, passenger) {
                (Ok(Parcel::Piece { serial, number }), piece) => {
                    if !self.delegate.may_pass_on() || !pieces.put((serial, number), piece) {
                        return Err(io::Error::other("it sends pieces of nothing"));
                    }
                }
                (Ok(Parcel::Connection(moving)), Some(socket)) => {
                    let missing = || io::Error::other("a connection without all its pieces");
                    let its = pieces.take(&moving).ok_or_else(missing)?;
                    if matches!(self.child, Served::Left(_)) {
                        return Err(io::Error::other("it has passed its connection on already"));
                    }
                    let kept = self.child.dialogue();
                    if self.delegate.pass_on(*moving, (&socket, its), kept)? && kept.is_some() {
                        self.child.let_go();
                    }
                }
                (Ok(Parcel::Sign { ticket, order }), None) => self.sign(ticket, order),
                (Ok(Parcel::Login { pid, terminal, peer }), None) => {
                    self.record(pid, &terminal, peer)
                }
                (Ok(Parcel::Audit(entry)), None) => self.note(*entry)?,
                (Ok(Parcel::Idle { received }), None) => {
                    if self.delegate.let_go(received) {
                        return Ok(());
                    }
                }
                _ => return Err(io::Error::other("it sent something it may not send")),
            }
        }
    }

    /// What the process says for the audit, as far as it may.
    fn note(&self, entry: Entry) -> io::Result<()> {
        let Some(audit) = &self.audit else { return Ok(()) };
        let heard = self.delegate.door().book.hear(entry, reactor::now());
        match heard.map_err(|why| io::Error::other(why.0))? {
            Some(entry) => audit.note(Speaker::Account(self.delegate.user.as_str().into()), entry),
            None => audit.lose(1),
        }
        Ok(())
    }

    /// The account's word counts for what is its own: a terminal that it owns, and a client that
    /// was passed to it.
    fn record(&self, pid: u32, terminal: &str, peer: SocketAddr) {
        let Delegate { user, uid, .. } = &*self.delegate;
        let line = logbook::line_of(terminal, *uid);
        let (Some(logbook), Some(line)) = (&self.logbook, line) else { return };
        let known = self.delegate.door().last.iter().any(|sent| sent.peer == peer);
        let peer = known.then(|| peer.ip());
        logbook.begin(Login { pid, line, user: user.clone(), uid: *uid, peer, host: None });
    }

    /// The signer makes what it signs itself: hashes of key exchanges, and proofs for the clients of
    /// sessions that were passed to the process.
    fn sign(&self, ticket: u64, order: Order) {
        let delegate = Arc::clone(&self.delegate);
        let answer = move |signature: Option<Vec<u8>>| {
            let signature = signature.unwrap_or_default();
            let answer = Parcel::Signature { ticket, signature }.encode();
            match delegate.messenger.try_send(&answer, None) {
                Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
                    let user = &delegate.user;
                    error!(%user, %why, "the process of {user} does not take its signature: {why}");
                    delegate.messenger.hang_up();
                }
                _ => {}
            }
        };
        let allowed = match &order.what {
            Signable::Exchange(_) => self.delegate.may_exchange(),
            Signable::Proof { session, .. } => self.delegate.may_prove(session),
            Signable::Login { .. } | Signable::Certificate { .. } => false,
        };
        if allowed {
            self.bureau.sign(order, Box::new(answer));
        } else {
            let user = &self.delegate.user;
            error!(%user, "the process of {user} asks for signatures that it has no use for");
            answer(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delegate(messenger: Messenger, mailbox: Messenger, started: Instant) -> Delegate {
        let (user, door) = ("ann".to_owned(), Mutex::default());
        let (onward, stays) = (Arc::default(), false);
        Delegate { user, uid: 1, messenger, mailbox, started, stays, onward, door }
    }

    fn moving() -> Moving {
        let address = "192.0.2.1:5".parse().expect("it");
        Moving {
            serial: 1,
            peer: address,
            local: address,
            session: vec![1; 32],
            record: vec![2],
            inbound: Vec::new(),
            outbound: Vec::new(),
            grant: vec![3],
            upstream: None,
            token: Vec::new(),
            luggage: None,
            kept: None,
            apart: false,
        }
    }

    /// SECURITY case 136: a process passes on what was passed to it, each once, and only once it was told to.
    #[test]
    fn case_136_only_connections_that_were_passed_to_a_process_go_on_elsewhere() {
        let [(messenger, _other), (mailbox, shard), (ours, next)] =
            [(); 3].map(|()| Messenger::pair().expect("a pair"));
        let delegate = delegate(messenger, mailbox, reactor::now());
        let (socket, _end) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let socket = OwnedFd::from(socket);
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let mut passed = || {
            let (user, peer) = ("ann".to_owned(), "192.0.2.1:5".parse().expect("it"));
            let session = Box::default();
            let sent = Sent { link: 1, user, peer, session, recorder: None, proofs: 0 };
            let mut moving = moving();
            assert!(matches!(delegate.pass(sent, &mut moving, (&socket, &[])), Passed::Yes));
            shard.receive(&mut buffer).expect("it arrives");
            Moving { session: vec![1; 32], ..moving }
        };
        let its = passed();
        let on = |moving: &Moving| {
            let copy = Parcel::decode(&moving.message(false)).expect("itself");
            let Parcel::Connection(copy) = copy else { panic!("another") };
            let piece = socket.try_clone().expect("a copy");
            delegate.pass_on(*copy, (&socket, vec![piece]), None)
        };
        assert!(on(&its).is_err(), "it was not told to");
        let exit = Arc::new(Exit::new(Arc::new(ours)));
        *delegate.onward.exit.lock().expect("no panic") = Some(exit);
        assert!(on(&Moving { grant: vec![4], ..moving() }).is_err(), "another grant");
        delegate.door().left = 0;
        let copy = || {
            delegate.door().left = 0;
            let copy = Parcel::decode(&its.message(false)).expect("itself");
            let Parcel::Connection(copy) = copy else { panic!("another") };
            *copy
        };
        assert!(on(&Moving { upstream: Some(vec![5]), ..copy() }).is_err(), "a host");
        assert!(on(&Moving { kept: Some(7), ..copy() }).is_err(), "what nobody keeps");
        delegate.door().left = 0;
        assert!(on(&its).expect("its own"));
        let mut piece = [0; 200];
        let (len, fd) = next.receive(&mut piece).expect("a piece");
        assert_eq!(Parcel::decode(&piece[..len]), Ok(Parcel::Piece { serial: 1, number: 0 }));
        assert!(fd.is_some());
        let (len, fd) = next.receive(&mut piece).expect("the connection");
        let came = Moving { token: Vec::new(), ..Moving { session: vec![1; 32], ..moving() } };
        assert_eq!(Parcel::decode(&piece[..len]), Ok(Parcel::Connection(Box::new(came))));
        assert!(fd.is_some());
        assert!(on(&its).is_err(), "once");
        // Nobody takes it any more: it comes back.
        delegate.door().left = 0;
        drop(next);
        let before = delegate.door().sent;
        assert!(!on(&its).expect("its own"));
        assert_eq!(delegate.door().sent, before + 1);
    }

    #[test]
    fn host_keys_are_proved_for_sessions_that_were_passed_on_and_not_without_end() {
        let (messenger, _other) = Messenger::pair().expect("a pair");
        let (mailbox, other) = Messenger::pair().expect("a pair");
        let delegate = delegate(messenger, mailbox, reactor::now());
        let (socket, _end) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let socket = OwnedFd::from(socket);
        let pass = |session: u16| {
            let session = session.to_be_bytes().into();
            let (user, peer) = ("ann".to_owned(), "192.0.2.1:5".parse().expect("it"));
            let sent = Sent { link: 1, user, peer, session, recorder: None, proofs: 0 };
            assert!(matches!(delegate.pass(sent, &mut moving(), (&socket, &[])), Passed::Yes));
            other.receive(&mut [0; 200]).expect("it arrives");
        };
        assert!(!delegate.may_prove(&[0, 1]));
        pass(1);
        let most = usize::from(HOST_KEY_PROOFS_MAX) * HOST_KEYS_TOLD_MAX;
        assert!((0..most).all(|_| delegate.may_prove(&[0, 1])));
        assert!(!delegate.may_prove(&[0, 1]) && !delegate.may_prove(&[0, 2]));
        // One that many have followed is forgotten.
        (2..=SENT_REMEMBERED_MAX as u16 + 2).for_each(pass);
        assert!(!delegate.may_prove(&[0, 1]) && !delegate.may_prove(&[0, 2]));
        assert!(delegate.may_prove(&[0, 3]));
    }

    /// SECURITY case 134: nobody has his process ask for signatures by the million.
    #[test]
    fn case_134_key_exchanges_are_signed_as_often_as_connections_can_have_any() {
        let [(messenger, _other), (mailbox, _another)] =
            [(); 2].map(|()| Messenger::pair().expect("a pair"));
        let started = reactor::now();
        let delegate = delegate(messenger, mailbox, started);
        assert!(!delegate.may_exchange(), "it has no connection");
        delegate.door().sent = 1;
        let most = 2 * DELEGATE_SIGNATURES_OWED_MAX + 3600;
        let made = (0..most).take_while(|_| delegate.may_exchange()).count() as u64;
        assert!((DELEGATE_SIGNATURES_OWED_MAX - 1..most).contains(&made), "{made}");
    }
}
