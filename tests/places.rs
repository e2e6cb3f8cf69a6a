//! Places where a connection listens for its client go with it to another program: here to another shard, on the
//! real drivers, with real sockets.

#[path = "support/pair.rs"]
mod support;

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use support::{End, Flavour, Pair, Seen, Setup};
use tidegate::base::SeededEntropy;
use tidegate::connection::{
    ChannelId, ChannelKind, ChannelRequest, ConnectionConfig, Event, GlobalRequest, X11Request,
};
use tidegate::limits::OPS_IN_FLIGHT_MAX;
use tidegate::reactor::either::{EitherDriver, Way};
use tidegate::reactor::{Driver, Fd, PoolSizes, Token, now};
use tidegate::services::{
    Account, Done, Grant, Job, Place, Prelude, Rules, forward, prepare, spawn,
};
use tidegate::shard::{
    Admission, Ends, HandOver, Mail, Outside, Report, Shard, ShardConfig, StartupEnd,
};

const POOL: PoolSizes = PoolSizes { small: 32, packet: 16, bulk: 16 };
const PATIENCE: Duration = Duration::from_secs(60);
const SHARDS: usize = 4;

/// Descriptors are counted: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What the shards have in common.
#[derive(Default)]
struct Office {
    mail: [Vec<Mail>; SHARDS],
    /// The next one takes nothing.
    refuses: bool,
    refused: u32,
    moved: u32,
}

/// Outside of one shard: work is done on the spot, and the next shard is the next program.
struct Desk {
    me: usize,
    office: Rc<RefCell<Office>>,
}

fn work(job: Job) -> Done {
    match job {
        Job::Listen { spec, .. } => Done::Listening(forward::listen_at(&spec)),
        Job::MakeDisplay(spec) => {
            let made = forward::listen_as_display(&spec);
            Done::Display(spec, made)
        }
        Job::MakeAgentSocket => Done::AgentSocket(forward::make_agent_socket()),
        Job::RemoveAgentSocket(path) => {
            forward::remove_agent_socket(&path);
            Done::Removed
        }
        Job::Spawn(mut spec) => {
            // Those are for the program itself, which a test is not.
            (spec.display, spec.prelude) = (None, Prelude::default());
            Done::Spawned(spawn(&spec))
        }
        job => panic!("{job:?} is for nobody"),
    }
}

impl Outside for Desk {
    fn submit(&mut self, token: Token, job: Job) -> Result<(), Job> {
        let done = work(job);
        self.office.borrow_mut().mail[self.me].push(Mail::Done { token, done });
        Ok(())
    }

    fn has_mail(&self) -> bool {
        !self.office.borrow().mail[self.me].is_empty()
    }

    fn collect(&mut self, mail: &mut Vec<Mail>) {
        mail.append(&mut self.office.borrow_mut().mail[self.me]);
    }

    fn greeting(&mut self, _ends: Ends) -> Option<Arc<ConnectionConfig>> {
        None
    }

    fn admit(&mut self, _socket: Fd) -> Admission {
        Admission::Refused
    }

    fn startup_over(&mut self, _ends: Ends, _how: StartupEnd) {}

    fn ended(&mut self, _link: Option<u64>) {}

    fn serves(&self, _grant: &Grant) -> bool {
        true
    }

    fn hand_over(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        Err(connection)
    }

    fn move_on(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        let office = &mut *self.office.borrow_mut();
        if office.refuses {
            office.refused += 1;
            return Err(connection);
        }
        office.moved += 1;
        office.mail[self.me + 1].push(Mail::HandOver(connection));
        Ok(())
    }

    fn met_defect(&mut self) {
        panic!("a defect")
    }

    fn report(&mut self, _report: Report) {}
}

fn grant() -> Grant {
    let mut rules = Rules::default();
    rules.forwarding.display.xauth = Some("/bin/true".to_owned());
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    Grant {
        account: Account {
            name: support::USER.to_owned(),
            uid,
            gid,
            home: "/".into(),
            shell: "/bin/sh".into(),
        },
        key: None,
        forced_command: None,
        pty: false,
        accept_env: Vec::new(),
        set_env: Vec::new(),
        subsystems: Vec::new(),
        scp: false,
        open_files: None,
        limits: None,
        rules,
        verbosity: None,
        source: "a test".to_owned(),
        presence: tidegate::connection::Presence::TOUCH,
        place: Place::System,
        upstream: None,
        demands: Default::default(),
    }
}

/// Some shards, and the client of a connection that is the first one's.
struct Town {
    office: Rc<RefCell<Office>>,
    shards: Vec<Shard<EitherDriver, Desk>>,
    client: Option<(End, TcpStream)>,
    /// Its events that the test has not looked at begin here.
    looked: usize,
    /// The same of those who call.
    served: usize,
}

impl Town {
    fn new(way: Way) -> Town {
        let mut setup = Setup::new(Flavour::Gcm);
        let client = &mut setup.client;
        (client.takes_forwarded, client.takes_agent, client.takes_x11) = (true, true, true);
        let Pair { client, server, .. } = Pair::logged_in(&setup);
        let office = Rc::new(RefCell::new(Office::default()));
        let shard = |me: usize| {
            let driver = EitherDriver::new(way, OPS_IN_FLIGHT_MAX, POOL).expect("a driver");
            let config = ShardConfig {
                connection: Arc::new(setup.server.clone()),
                host_keys: Arc::from([None]),
                listeners: Vec::new(),
                serial_base: me as u64 + 1,
                serial_step: SHARDS as u64,
            };
            let desk = Desk { me, office: Rc::clone(&office) };
            Shard::new(driver, desk, config, Box::new(SeededEntropy::new(7)))
        };
        let shards = (0..SHARDS).map(shard).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("open");
        let (far, peer) = listener.accept().expect("somebody");
        far.set_nonblocking(true).expect("a socket");
        near.set_nonblocking(true).expect("a socket");
        let ends =
            Ends { peer, local: near.peer_addr().expect("a peer"), routing: Default::default() };
        let record = server.conn.export().expect("it is quiet").to_bytes().expect("room");
        let connection = HandOver {
            socket: Fd(far.into_raw_fd()),
            ends,
            serial: 1,
            session: server.conn.session_id().into(),
            record: record.to_vec(),
            inbound: server.inbox.clone(),
            outbound: Vec::new(),
            grant: Box::new(grant()),
            proofs: Vec::new(),
            token: Box::default(),
            luggage: None,
        };
        office.borrow_mut().mail[0].push(Mail::HandOver(Box::new(connection)));
        let mut town = Town { office, shards, client: Some((client, near)), looked: 0, served: 0 };
        town.until("it has begun", |town| town.links() == [1, 0, 0, 0]);
        town
    }

    fn links(&self) -> [usize; SHARDS] {
        std::array::from_fn(|which| self.shards[which].links())
    }

    fn post(&self, to: usize, mail: Mail) {
        self.office.borrow_mut().mail[to].push(mail);
    }

    fn turn(&mut self, which: usize) {
        let until = now().after(Duration::from_millis(1));
        self.shards[which].turn(Some(until)).expect("the driver works");
    }

    /// Everybody once.
    fn tick(&mut self) {
        (0..SHARDS).for_each(|which| self.turn(which));
        let at = now();
        let Some((end, stream)) = &mut self.client else { return };
        let mut buffer = [0; 16 * 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => panic!("the gateway has closed the connection: {:?}", end.traces()),
                Ok(len) => end.inbox.extend(&buffer[..len]),
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) => panic!("{why}"),
            }
        }
        end.handle(at);
        assert!(end.error.is_none(), "{:?}", end.error);
        let sent: Vec<u8> = end.sent.drain(..).collect();
        stream.write_all(&sent).expect("there is room");
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Town) -> bool) {
        let end = now().after(PATIENCE);
        while !done(self) {
            assert!(now() < end, "it does not come to: {what}");
            self.tick();
        }
    }

    /// A shard's connection is on its way, and the next one knows nothing of it yet.
    fn leave(&mut self, from: usize) {
        let (end, moved) = (now().after(PATIENCE), self.office.borrow().moved);
        while self.office.borrow().moved == moved {
            assert!(now() < end, "it does not leave");
            self.turn(from);
        }
    }

    fn client(&mut self) -> &mut End {
        &mut self.client.as_mut().expect("it is here").0
    }

    /// The first event since the last one looked for that is one of these.
    fn event<T>(&mut self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let (at, value) = self.event_since(self.looked, what, wanted);
        self.looked = at + 1;
        value
    }

    /// The first event with this number or a later one that is one of these, and its number.
    fn event_since<T>(
        &mut self,
        since: usize,
        what: &str,
        wanted: impl Fn(&Event) -> Option<T>,
    ) -> (usize, T) {
        let end = now().after(PATIENCE);
        loop {
            let seen = self.client().seen.iter().enumerate().skip(since);
            let mut found = seen.filter_map(|(at, seen)| match seen {
                Seen::Event(event) => Some((at, wanted(event)?)),
                Seen::Data { .. } => None,
            });
            if let Some(found) = found.next() {
                return found;
            }
            assert!(now() < end, "nothing is heard of {what}: {:?}", self.client().traces());
            self.tick();
        }
    }

    /// Asks to listen, or to end that; answers the port.
    fn ask(&mut self, request: &GlobalRequest) -> u32 {
        let at = now();
        let asked = self.client().attempt(at, |conn, env| conn.pass_global(request, env));
        assert_eq!(asked, Some(true));
        let done = |event: &Event| match event {
            Event::GlobalDone { ok, port } => Some((*ok, *port)),
            _ => None,
        };
        let (ok, port) = self.event("an answer", done);
        assert!(ok, "{request:?} is refused");
        port.unwrap_or(0)
    }

    fn request(&mut self, id: ChannelId, request: &ChannelRequest) {
        let at = now();
        let asked = self.client().attempt(at, |conn, env| conn.request(id, request, true, env));
        assert_eq!(asked, Some(true));
        let done = |event: &Event| match event {
            Event::RequestDone { ok, .. } => Some(*ok),
            _ => None,
        };
        assert!(self.event("an answer", done), "{request:?} is refused");
    }

    fn received(&mut self, id: ChannelId) -> Vec<u8> {
        self.client().received.get(&id).cloned().unwrap_or_default()
    }

    /// Somebody has connected: the client is told of it, and they can talk.
    fn serve(&mut self, mut caller: Caller, kind: &str) {
        caller.0.write_all(b"ping").expect("room");
        let opened = |event: &Event| match event {
            Event::Open { id, kind } => Some((*id, kind.clone())),
            _ => None,
        };
        let (at, (id, opened)) = self.event_since(self.served, "a caller", opened);
        self.served = at + 1;
        assert_eq!(name_of(&opened), kind);
        self.until("his words", |town| town.received(id) == b"ping");
        let at = now();
        let end = self.client();
        assert!(end.call(at, |conn, env| conn.write_data(id, None, b"pong", env)));
        end.attempt(at, |conn, env| conn.close(id, env));
        let mut heard = Vec::new();
        self.until("the answer", |_| {
            let mut buffer = [0; 16];
            match caller.0.read(&mut buffer) {
                Ok(0) => return true,
                Ok(len) => heard.extend_from_slice(&buffer[..len]),
                Err(why) => assert_eq!(why.kind(), ErrorKind::WouldBlock),
            }
            false
        });
        assert_eq!(heard, b"pong");
        let closed = |event: &Event| matches!(event, Event::Closed(of) if *of == id).then_some(());
        self.event_since(self.served, "the end", closed);
    }

    fn visit(&mut self, place: &Spot) {
        let caller = place.call();
        self.serve(caller, place.kind());
    }

    /// Everything ends, and nothing is left.
    fn close(mut self) {
        self.client = None;
        self.until("the end", |town| town.links() == [0; SHARDS]);
        (0..SHARDS).for_each(|which| self.post(which, Mail::Retire));
        self.until("nothing is left", |town| town.shards.iter().all(Shard::is_done));
        for shard in &mut self.shards {
            assert_eq!(shard.driver().pool().stats().outstanding(), 0);
        }
    }
}

fn name_of(kind: &ChannelKind) -> &str {
    match kind {
        ChannelKind::ForwardedTcpip { .. } => "forwarded-tcpip",
        ChannelKind::ForwardedStreamlocal { .. } => "forwarded-streamlocal",
        ChannelKind::Other { name, .. } => name,
        other => panic!("{other:?} is nothing that a server opens"),
    }
}

trait Talks: Read + Write {}

impl<T: Read + Write> Talks for T {}

struct Caller(Box<dyn Talks>);

/// Where callers connect.
enum Spot {
    Tcp(u16),
    Path(PathBuf),
    Agent(PathBuf),
    Display(u16),
}

impl Spot {
    fn call(&self) -> Caller {
        match self {
            Spot::Tcp(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).expect("it listens");
                stream.set_nonblocking(true).expect("a socket");
                Caller(Box::new(stream))
            }
            Spot::Display(number) => Spot::Tcp(6000 + number).call(),
            Spot::Path(path) | Spot::Agent(path) => {
                let stream = UnixStream::connect(path).expect("it listens");
                stream.set_nonblocking(true).expect("a socket");
                Caller(Box::new(stream))
            }
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Spot::Tcp(_) => "forwarded-tcpip",
            Spot::Path(_) => "forwarded-streamlocal",
            Spot::Agent(_) => "auth-agent@openssh.com",
            Spot::Display(_) => "x11",
        }
    }
}

fn listening(port: u16) -> bool {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&at, PATIENCE).is_ok()
}

/// Open ones, but for that of the thread that waits for children.
fn descriptors() -> usize {
    let all = std::fs::read_dir("/proc/self/fd").expect("it is there").flatten();
    let targets = all.filter_map(|one| std::fs::read_link(one.path()).ok());
    targets.filter(|target| !target.ends_with("anon_inode:[eventpoll]")).count()
}

/// Each way, with the same descriptors before and after.
fn on_all(test: impl Fn(Way)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for way in Way::ALL {
        println!("{way:?}");
        let before = descriptors();
        test(way);
        let end = now().after(PATIENCE);
        // Who waits for children that were let go of closes what names them in its own time.
        while descriptors() != before {
            assert!(now() < end, "{way:?}: {before} descriptors before, {} now", descriptors());
            std::thread::yield_now();
        }
    }
}

fn any_port() -> GlobalRequest {
    GlobalRequest::TcpipForward { address: "127.0.0.1".into(), port: 0 }
}

/// A program that runs until its standard input ends, with the client's agent and X server; where they are.
fn start_program(town: &mut Town, single: bool) -> (ChannelId, Spot, Spot) {
    let at = now();
    let id = town.client().attempt(at, |conn, env| conn.open_session(env));
    let id = id.flatten().expect("a channel");
    town.event("a session", |event| matches!(event, Event::Opened { .. }).then_some(()));
    town.request(id, &ChannelRequest::AgentForward);
    let name = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    let fields = [
        &[u8::from(single)][..],
        &name("MIT-MAGIC-COOKIE-1"),
        &name("00112233445566778899aabbccddeeff"),
        &0_u32.to_be_bytes(),
    ]
    .concat();
    let asked = X11Request::new(&fields).expect("well formed");
    town.request(id, &ChannelRequest::X11Forward(asked));
    let command = &b"echo $DISPLAY $SSH_AUTH_SOCK; exec cat"[..];
    town.request(id, &ChannelRequest::Exec { command: command.into() });
    town.until("the program speaks", |town| town.received(id).ends_with(b"\n"));
    let said = String::from_utf8(town.received(id)).expect("text");
    let (display, agent) = said.trim().split_once(' ').expect("two words");
    let number = display.strip_prefix("localhost:").and_then(|rest| rest.strip_suffix(".0"));
    let number = number.and_then(|number| number.parse().ok()).expect("a display");
    (id, Spot::Display(number), Spot::Agent(agent.into()))
}

#[test]
fn all_places_listen_on_elsewhere() {
    prepare().expect("children can be waited for");
    let directory = std::env::temp_dir().join(format!("tidegate-places-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    on_all(|way| {
        let mut town = Town::new(way);
        let port = town.ask(&any_port());
        let path = directory.join(format!("{way:?}"));
        let bytes = path.as_os_str().as_encoded_bytes();
        town.ask(&GlobalRequest::StreamlocalForward { path: bytes.into() });
        let (session, display, agent) = start_program(&mut town, false);
        let at_agent = match &agent {
            Spot::Agent(path) => path.clone(),
            _ => unreachable!("it is one"),
        };
        let at_display = match &display {
            Spot::Display(number) => 6000 + number,
            _ => unreachable!("it is one"),
        };
        let spots = [Spot::Tcp(port as u16), Spot::Path(path.clone()), agent, display];
        spots.iter().for_each(|spot| town.visit(spot));

        // Nobody takes it: everything goes on where it is.
        town.office.borrow_mut().refuses = true;
        town.post(0, Mail::MoveOn);
        town.until("it was tried", |town| town.office.borrow().refused > 0);
        spots.iter().for_each(|spot| town.visit(spot));
        town.office.borrow_mut().refuses = false;

        // Those who come while nobody accepts wait until somebody does.
        town.leave(0);
        let callers: Vec<(Caller, &str)> = spots.iter().map(|it| (it.call(), it.kind())).collect();
        callers.into_iter().for_each(|(caller, kind)| town.serve(caller, kind));
        assert_eq!(town.links(), [0, 1, 0, 0]);
        spots.iter().for_each(|spot| town.visit(spot));

        // What the client asks for there is done there.
        let second = town.ask(&any_port()) as u16;
        town.visit(&Spot::Tcp(second));
        town.ask(&GlobalRequest::CancelTcpipForward { address: "127.0.0.1".into(), port });
        assert!(!listening(port as u16));
        let gone = GlobalRequest::CancelStreamlocalForward { path: bytes.into() };
        town.ask(&gone);
        assert!(UnixStream::connect(&path).is_err());
        assert!(at_agent.exists() && listening(at_display));
        end_session(&mut town, session);
        town.until("the display is gone", |_| !listening(at_display));
        town.close();
        assert!(!at_agent.exists() && !at_agent.parent().is_some_and(Path::exists));
        assert!(!listening(second));
    });
    std::fs::remove_dir_all(&directory).expect("it was made");
}

/// The client closes its session, whose program ends.
fn end_session(town: &mut Town, id: ChannelId) {
    let at = now();
    town.client().attempt(at, |conn, env| conn.send_eof(id, env));
    let closed = |event: &Event| matches!(event, Event::Closed(of) if *of == id).then_some(());
    town.event("the session's end", closed);
}

/// However often a connection moves on, whoever calls is answered.
#[test]
fn callers_are_answered_while_a_connection_moves_and_moves() {
    on_all(|way| {
        let mut town = Town::new(way);
        let spot = Spot::Tcp(town.ask(&any_port()) as u16);
        for from in 0..SHARDS - 1 {
            // Some come before it is told, some while it gets ready, and some together.
            let early = spot.call();
            town.post(from, Mail::MoveOn);
            let callers = [early, spot.call(), spot.call()];
            callers.into_iter().for_each(|caller| town.serve(caller, spot.kind()));
            while town.office.borrow().moved <= from as u32 {
                town.visit(&spot);
            }
        }
        town.close();
        assert!(!listening(match spot {
            Spot::Tcp(port) => port,
            _ => unreachable!("it is one"),
        }));
    });
}

/// A place that rests because the process has no descriptor left does not keep its connection, and its callers
/// are answered where there are some.
#[test]
fn a_place_that_rests_moves_as_well() {
    on_all(|way| {
        let mut town = Town::new(way);
        let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
        let caller = socket(AddressFamily::Inet, kind, flags, None).expect("a socket");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits");
        let free = caller.try_clone().expect("one more").as_raw_fd() as u64;
        // The socket that listens is the last one.
        setrlimit(Resource::RLIMIT_NOFILE, free + 1, hard).expect("less is permitted");
        let port = town.ask(&any_port()) as u16;
        connect(caller.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).expect("it listens");
        for _ in 0..20 {
            town.turn(0);
        }
        town.post(0, Mail::MoveOn);
        town.leave(0);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as much as before");
        let caller = TcpStream::from(caller);
        caller.set_nonblocking(true).expect("a socket");
        town.serve(Caller(Box::new(caller)), "forwarded-tcpip");
        assert_eq!(town.links(), [0, 1, 0, 0]);
        town.close();
    });
}
