//! What a shard sees of the rest of the process: workers, the other shards, admission, the log.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use crossbeam::queue::SegQueue;
use nix::sys::socket::{
    MsgFlags, SockaddrStorage, getpeername, getsockname, getsockopt, send, setsockopt, sockopt,
};
use tracing::level_filters::LevelFilter;

use super::audit::{self, Auditor, Entry};
use super::config::{Proxies, Verdict};
use super::defects::Defects;
use super::drops::Drops;
use super::edge::line::Line;
use super::edge::words::Ticket;
use super::figures::{Figure, Figures, Sheet};
use super::mailbox::Mailbox;
use super::moving::Exit;
use super::recording::Recorders;
use super::relay;
use super::reports::Lines;
use super::startups::{Refused, Startups};
use super::workers::{Reply, Workers};
use crate::connection::ConnectionConfig;
use crate::reactor::{self, Fd, Token, Waker};
use crate::services::{self, Done, Grant, Job, Origin, RoutingDomain};
use crate::shard::{
    Admission, Asking, Ends, HandOver, Mail, Outside, Proof, Report, StartupEnd, What,
};

/// How other threads reach one shard. What waits in the inbox is bounded by what was admitted:
/// jobs in flight, accepted connections, connections handed over.
#[derive(Debug, Default)]
pub struct Door {
    inbox: SegQueue<Mail>,
    waker: OnceLock<Waker>,
    load: AtomicUsize,
}

impl Door {
    /// Called once, by the shard's own thread, when its driver exists. What was put in before has
    /// woken nobody, so the first wait is told not to sleep.
    pub fn open(&self, waker: Waker) {
        let _ = self.waker.set(waker.clone());
        waker.wake();
    }

    /// Connections of the shard, those on their way to it included.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Counts a connection that is about to be put in.
    pub fn enter(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    pub fn put(&self, mail: Mail) {
        self.inbox.push(mail);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

impl Reply for Door {
    fn deliver(&self, token: Token, done: Done) {
        self.put(Mail::Done { token, done });
    }
}

/// What all shards of a process share. Nothing here is touched on the data path.
pub struct Office {
    pub doors: Vec<Arc<Door>>,
    pub workers: Workers,
    /// Those that may wait for other machines, so that nobody else waits for them.
    pub greeters: Option<Workers>,
    /// The same for the connections of those who are logged in.
    pub resolvers: Option<Workers>,
    pub startups: Arc<Startups>,
    /// What is counted here, for whoever looks.
    pub figures: Arc<Figures>,
    /// Connections that were turned away.
    pub drops: Drops,
    /// Who is asked whose connection it passes on, and for how long.
    pub proxies: Option<(Proxies, Duration)>,
    /// Lines for the log.
    pub log: Lines,
    /// Who hears what is done here, if anybody.
    pub audit: Option<Arc<dyn Auditor>>,
    /// Who records sessions that are served here, if anybody does.
    pub recorders: Option<Arc<dyn Recorders>>,
    /// The account this process acts for; `None`: nobody logs in here to stay.
    pub uid: Option<u32>,
    /// The way to root's process, in an edge.
    pub line: Option<Line>,
    /// The same in a relay.
    pub relay: Option<Arc<relay::line::Line>>,
    pub tcp_keepalive: bool,
    pub greeting: Option<Greeting>,
    /// Somebody wants to know the routing domains of connections.
    pub routes: bool,
    pub defects: Defects,
    /// A connection that waits to hear whether it may come in.
    pub lobby: Mutex<Option<Visitor>>,
    /// Where connections are to go on, if they are.
    pub exit: Mutex<Option<Arc<Exit>>>,
    /// Connections that another process has passed on to this one.
    pub received: AtomicU64,
    /// Whom the end of each connection wakes.
    pub watcher: OnceLock<Thread>,
}

impl Office {
    /// This process has given up what it does not need.
    pub fn is_confined(&self) -> bool {
        self.line.is_some() || self.relay.is_some()
    }

    /// Whether a peer is asked whose connection it passes on.
    pub fn asking(&self, peer: IpAddr) -> Option<Asking> {
        let (proxies, time) = self.proxies.as_ref()?;
        let is_proxy = proxies.networks.verdict(peer, None) == Verdict::Matches;
        is_proxy.then_some(Asking { time: *time, required: proxies.required })
    }

    pub fn lobby(&self) -> MutexGuard<'_, Option<Visitor>> {
        self.lobby.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections go on there from now on.
    pub fn lead_on(&self, to: Arc<Exit>) {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
    }

    fn exit(&self) -> Option<Arc<Exit>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The way to root's process, where this one ends with its only connection.
    fn single_line(&self) -> Option<&Line> {
        self.line.as_ref().filter(|line| line.is_single())
    }
}

/// A proxy has told whose connection it is, and root's process was asked about that client.
#[derive(Debug)]
pub struct Visitor {
    pub socket: OwnedFd,
    pub ends: Ends,
    /// What has come behind the header.
    pub inbound: Vec<u8>,
}

/// What holds before a login where Match blocks ask for addresses.
pub type Greeting = Box<dyn Fn(Ends) -> Arc<ConnectionConfig> + Send + Sync>;

/// One shard's desk in the office.
pub struct Desk {
    office: Arc<Office>,
    shard: usize,
    sheet: Sheet,
    /// Where root's process answers it, in an edge, or passes connections on to the process of an account.
    mailbox: Option<Mailbox>,
    /// Connections that root's process has heard of.
    told: HashSet<u64>,
    /// Connections that end: the last that is said of them, for whoever keeps an audit.
    farewells: HashMap<u64, Entry>,
    /// What was found without a worker, and not collected yet.
    found: Vec<Mail>,
}

impl Desk {
    pub fn new(office: Arc<Office>, shard: usize, mailbox: Option<Mailbox>) -> Desk {
        Desk {
            sheet: Sheet::new(Arc::clone(&office.figures), shard),
            office,
            shard,
            mailbox,
            told: HashSet::new(),
            farewells: HashMap::new(),
            found: Vec::new(),
        }
    }

    fn dismissed(&self, why: &'static str, peer: Option<IpAddr>) {
        self.sheet.count(Figure::Refused);
        self.office.drops.count(why, peer);
    }

    fn door(&self) -> Option<&Door> {
        self.office.doors.get(self.shard).map(|door| &**door)
    }

    /// Tells whoever keeps an audit. Services may have more to say than that a connection ends: that
    /// is told when they have ended too.
    fn audit(&mut self, report: &Report) {
        let Some(audit) = &self.office.audit else { return };
        let entry = match &report.what {
            // Root's process says so once it has checked it.
            What::Authenticated { .. } if self.office.line.is_some() => None,
            _ => audit::entry_of(report),
        };
        match (entry, &report.what) {
            (Some(entry), What::Disconnected { .. }) => {
                self.farewells.insert(report.serial, entry);
            }
            (Some(entry), _) => audit.note(entry),
            (None, _) => {}
        }
    }

    /// Passes what has come for whoever has the least to do on, if that is another shard.
    fn seat(&self, mail: Mail) -> Option<Mail> {
        let to = self.least_loaded();
        let door = self.office.doors.get(to)?;
        door.enter();
        if to == self.shard {
            return Some(mail);
        }
        door.put(mail);
        None
    }

    fn least_loaded(&self) -> usize {
        let loads = self.office.doors.iter().map(|door| door.load());
        // On a tie the accepting shard keeps it: no hand-over, no wake-up.
        let own = self.shard;
        loads.enumerate().min_by_key(|(n, load)| (*load, *n != own)).map_or(own, |(n, _)| n)
    }
}

impl Outside for Desk {
    fn submit(&mut self, token: Token, job: Job) -> Result<(), Job> {
        if let Some(line) = self.office.line.as_ref().filter(|_| Line::takes(&job)) {
            // A case begins with the first signature.
            let link = if let Job::Sign { from, .. } = &job { Some(from.link) } else { None };
            line.ask(self.shard, token, job)?;
            self.told.extend(link);
            return Ok(());
        }
        if let Some(line) = self.office.relay.as_ref().filter(|_| relay::line::Line::takes(&job)) {
            if !line.is_closed() {
                return line.ask(self.shard, token, job);
            }
            self.door().iter().for_each(|door| door.deliver(token, Done::Lost));
            return Ok(());
        }
        let Office { greeters, resolvers, workers, doors, .. } = &*self.office;
        let apart = match &job {
            Job::Greet { .. } => greeters,
            Job::Resolve { .. } | Job::FindWay { .. } | Job::Listen { .. } => resolvers,
            _ => &None,
        };
        if let Some(done) = workers.try_at_once(&job) {
            self.found.push(Mail::Done { token, done });
            return Ok(());
        }
        let Some(door) = doors.get(self.shard) else { return Err(job) };
        let reply = Arc::clone(door) as Arc<dyn Reply>;
        apart.as_ref().unwrap_or(workers).try_submit(&reply, token, job)
    }

    fn ask_account(&mut self, token: Token, user: &str, from: Origin, proofs: &[Proof]) -> bool {
        let ticket = Ticket { shard: self.shard as u32, token };
        self.office.line.as_ref().is_some_and(|line| line.ask_account(ticket, user, from, proofs))
    }

    fn has_mail(&self) -> bool {
        !self.found.is_empty()
    }

    fn collect(&mut self, mail: &mut Vec<Mail>) {
        mail.append(&mut self.found);
        if let Some(door) = self.office.doors.get(self.shard) {
            while let Some(item) = door.inbox.pop() {
                mail.push(item);
            }
        }
    }

    fn mailbox(&self) -> Option<Fd> {
        self.mailbox.as_ref().map(Mailbox::fd)
    }

    fn empty_mailbox(&mut self, mail: &mut Vec<Mail>) -> bool {
        let begun = mail.len();
        let Some(count) = self.mailbox.as_mut().and_then(|mailbox| mailbox.empty(mail)) else {
            return false;
        };
        if count > 0 {
            let came = mail.split_off(begun);
            mail.extend(came.into_iter().filter_map(|mail| self.seat(mail)));
            // Whoever sees the count sees them open, but for those that were lost.
            self.office.received.fetch_add(count, Ordering::Release);
            self.office.watcher.get().into_iter().for_each(Thread::unpark);
        }
        true
    }

    fn greeting(&mut self, ends: Ends) -> Option<Arc<ConnectionConfig>> {
        self.office.greeting.as_ref().map(|greeting| greeting(ends))
    }

    fn admit(&mut self, socket: Fd) -> Admission {
        let Some(ends) = ends_of(socket) else {
            self.dismissed("being gone again", None);
            return Admission::Refused;
        };
        match self.office.asking(ends.peer.ip()) {
            Some(asking) => Admission::Ask(ends, asking),
            None => self.admit_as(socket, ends, &mut Vec::new()),
        }
    }

    fn admit_as(&mut self, socket: Fd, ends: Ends, inbound: &mut Vec<u8>) -> Admission {
        let peer = ends.peer.ip();
        if let Some(line) = self.office.single_line() {
            let ends = welcome(socket, self.office.tcp_keepalive, self.office.routes, Some(ends));
            // SAFETY: the shard gives the descriptor up to whoever admits its connection.
            let socket = unsafe { OwnedFd::from_raw_fd(socket.0) };
            let inbound = std::mem::take(inbound);
            *self.office.lobby() = Some(Visitor { socket, ends, inbound });
            if !line.announce(ends.peer) {
                line.leave();
            }
            return Admission::Elsewhere;
        }
        if let Err(why) = self.office.startups.admit(peer, reactor::now()) {
            self.dismissed(why.keyword(), Some(peer));
            tell(socket, why);
            return Admission::Refused;
        }
        prepare(socket, self.office.tcp_keepalive);
        let routing = if self.office.routes { routing_of(socket) } else { ends.routing };
        let ends = Ends { routing, ..ends };
        let to = self.least_loaded();
        let Some(door) = self.office.doors.get(to) else { return Admission::Refused };
        door.enter();
        if to == self.shard {
            return Admission::Here(ends);
        }
        door.put(Mail::Accepted { socket, ends, inbound: std::mem::take(inbound) });
        Admission::Elsewhere
    }

    fn untold(&mut self) {
        self.office.single_line().into_iter().for_each(Line::leave);
    }

    fn dropped(&mut self, socket: Fd, why: &'static str) {
        if let Some(line) = self.office.single_line() {
            return line.untold(why);
        }
        self.dismissed(why, ends_of(socket).map(|ends| ends.peer.ip()));
    }

    fn tell_drops(&mut self) {
        self.office.drops.tell();
    }

    fn startup_over(&mut self, ends: Ends, how: StartupEnd) {
        if let Some(line) = self.office.line.as_ref().filter(|_| self.office.startups.penalises()) {
            line.earned(ends.peer, how, self.office.startups.is_unknown_user(ends.peer));
            if line.is_single() {
                return;
            }
        }
        let kept_out = self.office.startups.over(ends.peer, how, reactor::now());
        kept_out.iter().for_each(|kept_out| kept_out.tell(ends.peer.ip()));
    }

    fn only_asked(&mut self, user: &str, from: Origin) {
        self.office.line.iter().for_each(|line| line.left(user, from));
    }

    fn ended(&mut self, link: Option<u64>) {
        if let (Some(recorders), Some(link)) = (&self.office.recorders, link) {
            recorders.ended(link);
        }
        if let (Some(line), Some(link)) = (&self.office.line, link)
            && self.told.remove(&link)
        {
            line.over(link);
        }
        let farewell = link.and_then(|link| self.farewells.remove(&link));
        if let (Some(audit), Some(farewell)) = (&self.office.audit, farewell) {
            audit.note(farewell);
        }
        // After the last that is said of it.
        if let (Some(line), Some(link)) = (&self.office.relay, link) {
            line.over(link);
        }
        if let Some(door) = self.door() {
            door.load.fetch_sub(1, Ordering::Relaxed);
        }
        self.office.watcher.get().into_iter().for_each(Thread::unpark);
        // There was no other.
        self.office.line.iter().filter(|line| line.is_single()).for_each(Line::leave);
    }

    fn serves(&self, grant: &Grant) -> bool {
        let here =
            |uid| uid == grant.account.uid && grant.place.chroot() == services::entered_root();
        self.office.uid.is_some_and(|uid| grant.upstream.is_some() || here(uid))
    }

    fn hand_over(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        if let Some(line) = &self.office.line {
            let link = connection.serial;
            line.hand_over(connection)?;
            self.told.remove(&link);
            return Ok(());
        }
        Err(connection)
    }

    fn move_on(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        match self.office.exit() {
            Some(exit) => exit.pass(connection),
            None => Err(connection),
        }
    }

    fn recorder(&mut self, link: u64, peer: SocketAddr, grant: &Grant) -> Result<OwnedFd, String> {
        match &self.office.recorders {
            Some(recorders) => recorders.recorder(link, peer, grant),
            None => Err("nothing is recorded here".to_owned()),
        }
    }

    fn set_class(&mut self, socket: Fd, class: u8) {
        // SAFETY: the shard that asks holds the descriptor open during this call.
        set_class(unsafe { BorrowedFd::borrow_raw(socket.0) }, class);
    }

    /// Only the first shard accepts. What it gave to the others is in their inboxes by now, before
    /// the word that they may end.
    fn accepting_is_over(&mut self) {
        if self.shard == 0 {
            self.office.doors.iter().skip(1).for_each(|door| door.put(Mail::Retire));
        }
    }

    fn met_defect(&mut self) {
        let many = self.office.defects.met(reactor::now());
        // Nobody here has logged in: another edge takes its place.
        self.office.line.iter().filter(|_| many).for_each(Line::leave);
    }

    fn turned(&mut self, traffic: (u64, u64)) {
        self.sheet.turned(traffic, self.door().map_or(0, Door::load));
    }

    fn report(&mut self, mut report: Report) {
        self.sheet.note(&report);
        self.audit(&report);
        report.what.shorten();
        if matches!(report.what, What::File(_)) {
            return;
        }
        if report.what.is_routine() && LevelFilter::current() < LevelFilter::INFO {
            return;
        }
        self.office.log.put(report);
    }
}

/// What stands for the addresses of a connection that has none, such as one through pipes; no
/// pattern but one for everybody matches it.
pub const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), u16::MAX);

/// Makes a connection ready that was accepted elsewhere. `routes`: it matters how it is routed. `told`: the
/// ends that a proxy tells.
pub fn welcome(socket: Fd, keepalive: bool, routes: bool, told: Option<Ends>) -> Ends {
    prepare(socket, keepalive);
    let routing = if routes { routing_of(socket) } else { RoutingDomain::default() };
    let unknown = Ends { peer: UNKNOWN, local: UNKNOWN, routing };
    let ends = told.or_else(|| ends_of(socket)).unwrap_or(unknown);
    Ends { routing, ..ends }
}

/// A line before the identification that never comes (RFC 4253 §4.2), in sshd's words. It fits the
/// buffer of a fresh socket; one that does not take it goes without.
pub fn tell(socket: Fd, why: Refused) {
    let line: &[u8] = match why.is_penalty() {
        false => b"Exceeded MaxStartups\r\n",
        true => b"Not allowed at this time\r\n",
    };
    let _ = send(socket.0, line, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

/// Both addresses of a connected socket; `None` when the peer has already gone.
pub fn ends_of(socket: Fd) -> Option<Ends> {
    let peer = address(&getpeername::<SockaddrStorage>(socket.0).ok()?)?;
    let local = address(&getsockname::<SockaddrStorage>(socket.0).ok()?)?;
    Some(Ends { peer, local, routing: RoutingDomain::default() })
}

/// A socket that was accepted is bound as its listener is.
pub fn routing_of(socket: Fd) -> RoutingDomain {
    // SAFETY: the shard that asks holds the descriptor open during this call.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.0) };
    let device = getsockopt(&socket, sockopt::BindToDevice).unwrap_or_default();
    RoutingDomain::new(device.as_bytes())
}

/// An IPv4 peer of a dual-stack listener is shown and matched as IPv4.
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let address = match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::from((v4.ip(), v4.port())),
        (None, Some(v6)) => SocketAddr::from((v6.ip(), v6.port())),
        (None, None) => return None,
    };
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Best effort, as in sshd: unmarked packets arrive too. An IPv4 peer of a dual-stack listener
/// heeds the first alone, and on an IPv4 socket the second fails.
fn set_class(socket: BorrowedFd<'_>, class: u8) {
    let _ = setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(class));
    let _ = setsockopt(&socket, sockopt::Ipv6TClass, &i32::from(class));
}

/// Best effort: a socket without these options still works.
fn prepare(socket: Fd, keepalive: bool) {
    // SAFETY: the descriptor was just accepted and is not closed during this call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket.0) };
    let _ = setsockopt(&borrowed, sockopt::TcpNoDelay, &true);
    if keepalive {
        let _ = setsockopt(&borrowed, sockopt::KeepAlive, &true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;
    use crate::reactor::either::{EitherDriver, Way};
    use crate::reactor::{Driver, PoolSizes};

    #[test]
    fn packets_are_marked_in_both_families() {
        use nix::sys::socket::getsockopt;
        use std::net::TcpListener;
        use std::os::fd::AsFd;

        let v4 = TcpListener::bind("127.0.0.1:0").expect("a socket");
        set_class(v4.as_fd(), 0x48);
        assert_eq!(getsockopt(&v4, sockopt::Ipv4Tos).expect("its class"), 0x48);
        let Ok(v6) = TcpListener::bind("[::1]:0") else { return };
        set_class(v6.as_fd(), 0x20);
        assert_eq!(getsockopt(&v6, sockopt::Ipv6TClass).expect("its class"), 0x20);
        assert_eq!(getsockopt(&v6, sockopt::Ipv4Tos).expect("its class"), 0x20);
    }

    #[test]
    fn mail_that_comes_before_the_door_opens_is_not_slept_over() {
        for way in Way::ALL {
            let door = Door::default();
            door.put(Mail::Stop);
            let mut driver = EitherDriver::new(way, 16, PoolSizes::default()).expect("a driver");
            door.open(driver.waker());
            let before = driver.now();
            let late = Instant::from_nanos(before.nanos() + 20_000_000_000);
            driver.wait(Some(late), &mut Vec::new()).expect("a wait");
            assert!(driver.now() < late, "the first wait slept");
            assert!(matches!(door.inbox.pop(), Some(Mail::Stop)));
        }
    }
}
