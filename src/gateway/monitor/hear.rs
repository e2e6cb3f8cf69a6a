//! What root's process does for an edge: makes signatures, finds keys, checks secrets, and passes on
//! the connections of logins that are over. Nothing an edge says is believed.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crossbeam::channel::Sender;
use slab::Slab;
use tracing::error;

use super::cases::{Admitted, Cases};
use super::ways::Ways;
use crate::base::Instant;
use crate::connection::{ConnectionConfig, Method, Secrets, Signed, split_style};
use crate::crypto::{Attestation, KeyAlgorithm, ShownKey};
use crate::gateway::audit::book::EdgeBook;
use crate::gateway::audit::{self, Audit, Entry, Event, Field, Speaker};
use crate::gateway::broker::Running;
use crate::gateway::config::{Proxies, Verdict};
use crate::gateway::desk::{UNKNOWN, ends_of, routing_of};
use crate::gateway::edge::words::{Ask, Greeting, Tell, Ticket};
use crate::gateway::helper::keeper::Lie;
use crate::gateway::pam::Seat;
use crate::gateway::pam::porter::{self, Arrival, Entrant, Porter};
use crate::gateway::relay::Relays;
use crate::gateway::signer::bureau::Bureau;
use crate::gateway::signer::words::{KnownKey, Order, Signable};
use crate::gateway::startups::{Refused, Startups};
use crate::gateway::workers::{Reply, Workers};
use crate::limits::HELPER_PING_INTERVAL;
use crate::reactor::{self, Fd, Token};
use crate::services::{
    Account, AccountAnswer, AuthInfo, Demands, Done, Grant, Greeted, Job, Kept, Origin, Rules,
};
use crate::shard::{Ends, HandOver, KeyTold, Proof, StartupEnd};
use crate::transport::SignableExchange;

/// What it takes to answer edges, one after the other.
pub struct Clerk {
    /// Has our host keys sign.
    pub bureau: Arc<Bureau>,
    /// The host keys, in order, by themselves and in certificates.
    known: Vec<KnownKey>,
    /// The same: all that they are shown as.
    hosts: Vec<Vec<u8>>,
    /// Takes logins to the processes of their accounts.
    pub accounts: Sender<Arrival>,
    /// Those that run, which logins are passed to at once.
    pub running: Arc<Running>,
    /// Takes those that go on elsewhere.
    pub relay: Option<Arc<dyn Relays>>,
    /// Hears of users who do not exist, for whoever counts.
    pub startups: Arc<Startups>,
    /// Who may say whose connection it passes on.
    pub proxies: Option<Proxies>,
    /// Opens the sessions of logins that are served here through PAM.
    pub porter: Option<Arc<Porter>>,
    /// It matters how connections are routed.
    pub routes: bool,
    /// What ends the user, and whatever style there is, in a login name.
    pub separators: &'static [char],
    /// A connection through pipes was passed on to the edge.
    pub pipes: AtomicBool,
    /// Each edge has one connection, which was accepted and counted for it.
    pub single: Option<Single>,
    /// Where what is done is noted, if it is.
    pub audit: Option<Arc<Audit>>,
    /// Connections that were heard to the end of their login, or of themselves.
    heard: AtomicU64,
    state: Mutex<State>,
}

/// What holds for an edge that hears one connection.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    /// How long its login may take, if that is bounded.
    pub grace: Option<Duration>,
    /// How long a proxy may take to say whose connection it is.
    pub asking: Duration,
}

/// The only connection of an edge, which is named by its number and its ends alone.
#[derive(Debug)]
struct Guest {
    ends: Ends,
    since: Instant,
    /// Until it has logged in or ended.
    place: Place,
}

/// What a connection counts as.
#[derive(Debug)]
pub enum Place {
    /// A client's.
    Client(Slot),
    /// A proxy's, which has not told whose it is; how many there are is how often this is held.
    Proxy(Arc<()>),
}

impl Place {
    pub const fn is_proxys(&self) -> bool {
        matches!(self, Place::Proxy(_))
    }
}

/// One of MaxStartups and PerSourceMaxStartups, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    pub startups: Arc<Startups>,
    pub peer: SocketAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // What the source has earned is told apart.
        self.startups.over(self.peer, StartupEnd::Ours, reactor::now());
    }
}

/// What is known of the edge that there is now.
#[derive(Default)]
struct State {
    /// Counts edges: answers to what an earlier one asked are for nobody.
    number: u16,
    ways: Option<Ways>,
    cases: Cases,
    questions: Slab<Question>,
    /// What it may speak of in an audit.
    book: EdgeBook,
    /// Of an edge that hears one connection: what that is called, the connection, and whether its login is
    /// over or it has ended.
    only: Option<u64>,
    guest: Option<Guest>,
    left: bool,
    handed_over: bool,
}

/// Something that a worker finds out.
struct Question {
    ticket: Ticket,
    from: Origin,
    about: Subject,
}

enum Subject {
    Signature,
    Greeting,
    /// Of a login that has proved itself.
    Account,
    /// Of one that tries nothing; nobody waits.
    Left,
    /// And what it is to have signed.
    Key(ShownKey, Option<Box<Signed>>),
    /// What modules want to know.
    Talk,
    /// A password, a code.
    Secrets(bool, bool),
}

/// Those who find things out.
pub struct Staff {
    workers: Bench,
    /// Whom they answer.
    post: Arc<dyn Reply>,
    /// What there was no room for.
    pub waiting: VecDeque<(Token, Job)>,
}

/// The threads of a generation that find things out, for whoever asks.
#[derive(Clone)]
pub struct Bench {
    pub workers: Arc<Workers>,
    /// Those that may wait for name servers.
    pub greeters: Option<Arc<Workers>>,
}

impl Staff {
    pub fn new(workers: Bench, post: Arc<dyn Reply>) -> Staff {
        Staff { workers, post, waiting: VecDeque::new() }
    }

    /// What no thread has to be woken for.
    fn at_once(&self, job: &Job) -> Option<Done> {
        self.workers.workers.try_at_once(job)
    }

    pub fn submit(&mut self, token: Token, job: Job) {
        self.waiting.push_back((token, job));
        self.retry();
    }

    /// Gives the workers what they have room for, in order.
    pub fn retry(&mut self) {
        self.workers.workers.relieve();
        while let Some((token, job)) = self.waiting.pop_front() {
            let workers = match (&job, &self.workers.greeters) {
                (Job::Greet { .. } | Job::FindWay { .. }, Some(greeters)) => greeters,
                _ => &self.workers.workers,
            };
            if let Err(job) = workers.try_submit(&self.post, token, job) {
                self.waiting.push_front((token, job));
                return;
            }
        }
    }
}

impl Clerk {
    pub fn new(
        bureau: Arc<Bureau>,
        known: Vec<KnownKey>,
        accounts: Sender<Arrival>,
        startups: Arc<Startups>,
    ) -> Clerk {
        let (state, running) = (Mutex::default(), Arc::default());
        let (relay, proxies, porter, routes, audit) = (None, None, None, false, None);
        let (pipes, single, heard) = (AtomicBool::new(false), None, AtomicU64::new(0));
        let both = |key: &KnownKey| [key.public.clone(), key.certificate.clone()];
        let hosts = known.iter().flat_map(both).filter(|blob| !blob.is_empty()).collect();
        Clerk {
            bureau,
            known,
            hosts,
            accounts,
            running,
            relay,
            startups,
            proxies,
            porter,
            routes,
            separators: &[],
            pipes,
            single,
            audit,
            heard,
            state,
        }
    }

    /// One that answers another edge, beside this one.
    pub fn another(&self) -> Clerk {
        Clerk {
            bureau: Arc::clone(&self.bureau),
            known: self.known.clone(),
            hosts: self.hosts.clone(),
            accounts: self.accounts.clone(),
            running: Arc::clone(&self.running),
            relay: self.relay.clone(),
            startups: Arc::clone(&self.startups),
            proxies: self.proxies.clone(),
            porter: self.porter.clone(),
            routes: self.routes,
            separators: self.separators,
            pipes: AtomicBool::new(false),
            single: self.single,
            audit: self.audit.clone(),
            heard: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Another edge takes the place of the one before; its shards number connections from `first` on.
    pub fn begin(&self, ways: Ways, first: u64) {
        let mut state = self.state();
        let number = state.number.wrapping_add(1);
        let book = EdgeBook::new(first, ways.shards() as u32);
        let only = self.single.map(|_| first);
        *state = State { number, ways: Some(ways), book, only, ..State::default() };
    }

    /// Each edge that it answers hears one connection.
    pub const fn is_single(&self) -> bool {
        self.single.is_some()
    }

    /// The only connection of the edge is about to be passed on to it.
    pub fn expect(&self, ends: Ends, place: Place) {
        let since = reactor::now();
        self.state().guest = Some(Guest { ends, since, place });
    }

    /// It was not; its place is free again.
    pub fn forget(&self) -> Option<Place> {
        self.state().guest.take().map(|guest| guest.place)
    }

    /// A proxy has told whose the only connection of the edge is, and the edge hears whether that client may
    /// come in.
    ///
    /// # Errors
    /// Nobody was asked, or it was told before.
    pub fn announced(&self, peer: SocketAddr) -> Result<Result<(), Refused>, Lie> {
        let mut state = self.state();
        let guest = state.guest.as_mut().filter(|guest| guest.place.is_proxys());
        let guest = guest.ok_or(Lie("whose a connection is that no proxy passes on"))?;
        let (startups, now) = (Arc::clone(&self.startups), reactor::now());
        let admitted = startups.admit(peer.ip(), now);
        if admitted.is_ok() {
            guest.place = Place::Client(Slot { startups, peer });
            (guest.ends.peer, guest.since) = (peer, now);
        } else {
            // It has one to tell of, and ends.
            state.guest = None;
            (state.left, state.handed_over) = (true, true);
        }
        state.tell(&match admitted {
            Ok(()) => Tell::Seated,
            Err(why) => Tell::TurnedAway { penalised: why.is_penalty() },
        });
        Ok(admitted)
    }

    /// The address of the proxy that the edge's only connection comes from, while that has not told.
    pub fn proxy(&self) -> Option<IpAddr> {
        let state = self.state();
        let guest = state.guest.as_ref().filter(|guest| guest.place.is_proxys());
        guest.map(|guest| guest.ends.peer.ip())
    }

    /// The edge has handed its only connection over, or was told to turn it away.
    pub fn is_spent(&self) -> bool {
        self.state().handed_over
    }

    /// It keeps its only connection for longer than it would if it did as it should.
    fn is_late(&self, now: Instant) -> bool {
        let Some(Single { grace, asking }) = self.single else { return false };
        self.state().guest.as_ref().is_some_and(|guest| {
            let most = if guest.place.is_proxys() { Some(asking) } else { grace };
            most.is_some_and(|most| now.since(guest.since) > most + 2 * HELPER_PING_INTERVAL)
        })
    }

    /// There is no edge now.
    pub fn end(&self) {
        let mut state = self.state();
        if let Some(audit) = &self.audit {
            let left = state.book.close().into_iter();
            left.for_each(|entry| audit.note(Speaker::Gateway, entry));
        }
        *state = State { number: state.number, ..State::default() };
    }

    /// From now on answers wait until [`Clerk::let_out`], or until there are many.
    pub fn hold_back(&self) {
        self.state().ways.iter_mut().for_each(Ways::hold_back);
    }

    /// Some answers wait.
    pub fn holds_back(&self) -> bool {
        self.state().ways.as_ref().is_some_and(Ways::holds_back)
    }

    /// Tells all that waits, and from now on every answer at once.
    pub fn let_out(&self) {
        self.state().ways.iter_mut().for_each(Ways::let_out);
    }

    /// Does what an edge asks for.
    ///
    /// # Errors
    /// It asks for what no edge asks for.
    pub fn hear(
        self: &Arc<Clerk>,
        staff: &mut Staff,
        ask: Ask,
        passenger: Option<OwnedFd>,
    ) -> Result<(), Lie> {
        if matches!(ask, Ask::HandOver { .. } | Ask::Over { .. }) {
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
        match ask {
            // These are the keeper's.
            Ask::Ready | Ask::Pong => {}
            Ask::Sign { ticket, from, host_key, exchange } => {
                self.sign(ticket, from, host_key, exchange)?;
            }
            Ask::Greet { ticket, from, user } => {
                self.state().cases.ask(&from, &user)?;
                let job = Job::Greet { user: user.into(), from };
                self.find_out(staff, Question { ticket, from, about: Subject::Greeting }, job);
            }
            Ask::FindKey { ticket, from, name, shown, signed } => {
                self.find_key(staff, (ticket, from), &name, (shown, signed))?;
            }
            Ask::CheckSecrets { ticket, from, user, secrets } => {
                let about = self.state().cases.ask(&from, &user)?;
                let Secrets { password, code, .. } = &secrets;
                let subject = Subject::Secrets(password.is_some(), code.is_some());
                let secrets = Box::new(secrets);
                let job = Job::CheckSecrets { user: user.into(), secrets, from, about };
                self.find_out(staff, Question { ticket, from, about: subject }, job);
            }
            Ask::Converse { ticket, from, user, answers } => {
                let about = self.state().cases.ask(&from, &user)?;
                let job = Job::Converse { user: user.into(), answers, from, about };
                self.find_out(staff, Question { ticket, from, about: Subject::Talk }, job);
            }
            Ask::Admit { ticket, from, user, proofs } => {
                self.ask_account(staff, (ticket, from, &user), &proofs)?;
            }
            Ask::HandOver { link, proofs, record, inbound, outbound } => {
                let Some(socket) = passenger else {
                    // It was lost on the way: we may have no more of them.
                    self.state().cases.over(link);
                    error!(link, "a login is lost: there is no descriptor left for it");
                    return Ok(());
                };
                self.hand_over(link, &proofs, (record, inbound, outbound), socket)?;
            }
            Ask::Left { from, user } => self.left(staff, from, user)?,
            Ask::Over { link } => self.state().over(link),
            // A lie about a source costs it no more than its penalties may be, as the edge could itself.
            Ask::Earned { peer, how, unknown_user } => self.earned(peer, how, unknown_user)?,
            Ask::Audit(entry) => self.note_event(*entry)?,
            Ask::Announced { .. } | Ask::Untold { .. } => {
                return Err(Lie("whose a connection is that no proxy passes on"));
            }
        }
        Ok(())
    }

    /// What is wrong with it, if anything is.
    pub fn complaint(&self, now: Instant) -> Option<&'static str> {
        let stuck = self.state().ways.as_ref().is_some_and(Ways::is_stuck);
        match stuck {
            true => Some("it does not read what it is told"),
            false if self.is_late(now) => Some("it keeps its connection beyond LoginGraceTime"),
            false => None,
        }
    }

    /// Of an edge that hears one connection, which is the source's then: nobody else counts.
    fn earned(&self, peer: SocketAddr, how: StartupEnd, unknown_user: bool) -> Result<(), Lie> {
        if self.is_single() && self.state().client().map(|ends| ends.peer) != Some(peer) {
            return Err(Lie("what another's source has earned"));
        }
        let kept_out = self.startups.earn(peer.ip(), how, unknown_user, reactor::now());
        if let Some(kept_out) = kept_out.filter(|_| self.is_single()) {
            kept_out.tell(peer.ip());
        }
        Ok(())
    }

    /// An edge that hears one connection speaks of no other.
    fn check_guest(&self, from: &Origin) -> Result<(), Lie> {
        let state = self.state();
        let Some(only) = state.only else { return Ok(()) };
        let known = state.client();
        let said = Ends { peer: from.peer, local: from.local, routing: from.routing };
        if state.left || from.link != only || known != Some(said) {
            return Err(Lie("a connection that it was not given"));
        }
        Ok(())
    }

    /// What an edge says for the audit, as far as it may.
    fn note_event(&self, entry: Entry) -> Result<(), Lie> {
        if self.state().only.is_some_and(|only| entry.link != only && entry.event != Event::Lost) {
            return Err(Lie("a connection that it was not given"));
        }
        let Some(audit) = &self.audit else { return Ok(()) };
        let heard = self.state().book.hear(entry, reactor::now()).map_err(|why| Lie(why.0))?;
        match heard {
            Some(entry) => audit.note(Speaker::Edge, entry),
            None => audit.lose(1),
        }
        Ok(())
    }

    /// A login was checked, and its connection leaves the edge.
    fn note_login(&self, from: &Origin, grant: &Grant, proof: Option<&Proof>) {
        let Some(audit) = &self.audit else { return };
        self.state().book.leave(from.link);
        let (method, key) = match proof {
            Some(Proof::Key { shown, .. }) => {
                let told = KeyTold::new(&shown.key, shown.certificate.as_deref());
                (Method::PublicKey, Some(told))
            }
            Some(Proof::Secrets { interactive: true }) => (Method::KeyboardInteractive, None),
            _ => (Method::Password, None),
        };
        let (user, source) = (&grant.account.name, &grant.source);
        let entry = audit::login(from, user, method.name(), key.as_ref(), source);
        audit.note(Speaker::Gateway, entry);
    }

    /// A login came to nothing here.
    fn note_end(&self, from: &Origin, user: &str, reason: &str) {
        if let Some(audit) = &self.audit {
            let entry = Entry::new(Event::Disconnect, from.link, from.peer).of_user(user);
            audit.note(Speaker::Gateway, entry.text(Field::Reason, reason));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The signer makes the hash itself. It is made here too: the first is the session's identifier.
    fn sign(
        self: &Arc<Clerk>,
        ticket: Ticket,
        from: Origin,
        host_key: u32,
        exchange: SignableExchange,
    ) -> Result<(), Lie> {
        self.check_guest(&from)?;
        let number = host_key as usize;
        let (Some(known), Some(key)) = (self.known.get(number), self.bureau.keys().get(number))
        else {
            return Err(Lie("a host key that is not ours"));
        };
        let fields = exchange.fields().map_err(|_| Lie("a key exchange that does not parse"))?;
        let KeyAlgorithm { signature, certified } = fields.host_key;
        if signature.key_kind() != key.kind() {
            return Err(Lie("an algorithm that is not the host key's"));
        }
        let shown = if certified { &known.certificate } else { &known.public };
        if shown.is_empty() {
            return Err(Lie("a certificate that is not ours"));
        }
        let hash = fields.hash(shown);
        let signs = {
            let mut state = self.state();
            let signs = state.cases.sign(&from, hash.as_ref())?;
            if self.porter.is_some() {
                state.cases.keep(from.link, || Kept(Arc::new(Seat::default())));
            }
            signs
        };
        if !signs {
            self.state().tell(&Tell::Signature { ticket, signature: Vec::new() });
            return Ok(());
        }
        let token = self.note(Question { ticket, from, about: Subject::Signature });
        let post = Post::to(self);
        let order = Order { key: host_key, what: Signable::Exchange(exchange) };
        let answer = move |signature: Option<Vec<u8>>| {
            post.deliver(token, Done::Signature(signature.map(Vec::into_boxed_slice)));
        };
        self.bureau.sign(order, Box::new(answer));
        Ok(())
    }

    /// A login has proved itself: may its account be used? That of one that goes on elsewhere, or that
    /// exists here alone, is no matter of PAM's.
    fn ask_account(
        &self,
        staff: &mut Staff,
        (ticket, from, user): (Ticket, Origin, &str),
        proofs: &[Proof],
    ) -> Result<(), Lie> {
        let mut state = self.state();
        let about = state.cases.ask(&from, user)?;
        let grant = state.cases.vouch(from.link, proofs, &self.hosts)?;
        if self.porter.is_none() || !is_pams(&grant) {
            state.cases.account_asked(from.link, true);
            let answer = AccountAnswer { allowed: true, text: Box::default() };
            state.tell(&Tell::Admitted { ticket, answer });
            return Ok(());
        }
        drop(state);
        let job = Job::Admit { grant: Box::new(grant), from, about };
        self.find_out(staff, Question { ticket, from, about: Subject::Account }, job);
        Ok(())
    }

    /// A connection ends of which only the methods were asked for. The answer is for nobody, so where the workers
    /// have no room for it at once nobody is asked: strangers may end as many connections as they like.
    fn left(&self, staff: &mut Staff, from: Origin, user: String) -> Result<(), Lie> {
        let about = self.state().cases.left(&from, &user)?;
        if let Some(about) = about.filter(|_| staff.waiting.is_empty()) {
            let job = Job::Left { user: user.into(), from, about };
            let ticket = Ticket { shard: 0, token: Token { key: 0, generation: 0, tag: 0 } };
            self.find_out(staff, Question { ticket, from, about: Subject::Left }, job);
        }
        Ok(())
    }

    fn find_out(&self, staff: &mut Staff, question: Question, job: Job) {
        staff.submit(self.note(question), job);
    }

    /// Keeps a question until it is answered under this name.
    fn note(&self, question: Question) -> Token {
        let mut state = self.state();
        let key = state.questions.insert(question) as u32;
        Token { key, generation: state.number, tag: 0 }
    }

    /// A login is over: its connection goes to whoever acts for its account, if all of it is true.
    fn hand_over(
        &self,
        link: u64,
        proofs: &[Proof],
        (record, inbound, outbound): (Vec<u8>, Vec<u8>, Vec<u8>),
        socket: OwnedFd,
    ) -> Result<(), Lie> {
        let admitted = self.state().cases.admit(link, proofs, &self.hosts);
        {
            let mut state = self.state();
            (state.left, state.handed_over) = (true, self.is_single());
            state.guest = None;
        }
        let admitted = admitted?;
        let Admitted { from, session, grant, about, vouched } = admitted;
        let seat = about.kept.and_then(|kept| kept.0.downcast::<Seat>().ok());
        if self.porter.is_some() && is_pams(&grant) && !vouched {
            return Err(Lie("an account that was not asked about"));
        }
        self.note_login(&from, &grant, proofs.last());
        if !self.is_its_socket(&from, &socket)? {
            self.note_end(&from, &grant.account.name, "the peer is gone");
            return Ok(());
        }
        let Origin { peer, local, routing, .. } = from;
        let upstream = grant.upstream.is_some();
        let user = grant.account.name.clone();
        let connection = Box::new(HandOver {
            socket: Fd(socket.into_raw_fd()),
            ends: Ends { peer, local, routing },
            serial: link,
            session,
            record,
            inbound,
            outbound,
            grant,
            proofs: Vec::new(),
            token: Box::default(),
            luggage: None,
        });
        match (&self.relay, &self.porter, seat) {
            (Some(relay), ..) if upstream => relay.take(*connection)?,
            (_, Some(porter), Some(seat)) if is_pams(&connection.grant) => {
                porter.admit(Entrant { connection, seat, auth_info: auth_info(proofs) });
            }
            _ => {
                let Err(connection) = self.running.pass(connection) else { return Ok(()) };
                let arrival = Arrival { connection, kept: None };
                if let Err(arrival) = self.accounts.try_send(arrival) {
                    porter::close(&arrival.into_inner().connection);
                    self.note_end(&from, &user, "no process of its account could be reached");
                    error!(link, user, "no process of {user} could be reached");
                }
            }
        }
        Ok(())
    }

    /// The ends that an edge has told of a connection are its socket's, or a proxy's to tell. `false`:
    /// the peer has gone again.
    fn is_its_socket(&self, from: &Origin, socket: &OwnedFd) -> Result<bool, Lie> {
        let fd = Fd(socket.as_raw_fd());
        let Some(ends) = ends_of(fd) else {
            return Ok(from.peer == UNKNOWN && self.pipes.load(Ordering::Relaxed));
        };
        let proxied = |peer: IpAddr| {
            let proxies = self.proxies.as_ref();
            proxies.is_some_and(|all| all.networks.verdict(peer, None) == Verdict::Matches)
        };
        if (ends.peer, ends.local) != (from.peer, from.local) && !proxied(ends.peer.ip()) {
            return Err(Lie("a socket that is not the connection's"));
        }
        if self.routes && routing_of(fd) != from.routing {
            return Err(Lie("a socket that is routed otherwise"));
        }
        Ok(true)
    }

    /// The answer to what an edge has asked.
    fn answer(&self, question: Question, done: Done) {
        let Question { ticket, from, about } = question;
        if matches!(about, Subject::Left) {
            return;
        }
        let held = match (&about, &done) {
            (Subject::Key(shown, Some(signed)), Done::Key(Some(_))) => {
                self.holds(from.link, shown, signed)
            }
            _ => None,
        };
        let mut state = self.state();
        let (link, cases) = (from.link, &mut state.cases);
        let (known, tell) = match (about, done) {
            (Subject::Signature, Done::Signature(signature)) => {
                let signature = signature.map(Vec::from).unwrap_or_default();
                (cases.signed(link), Tell::Signature { ticket, signature })
            }
            (Subject::Greeting, Done::Greeted(Greeted { config, about })) => {
                let verbosity = about.verbosity;
                let greeting = config.map(|config| Box::new(greeting(&config)));
                (cases.greeted(link, about), Tell::Greeted { ticket, greeting, verbosity })
            }
            (Subject::Key(shown, signed), Done::Key(grant)) => {
                let grant = grant.map(Arc::from);
                let known = cases.key_found(link, &shown, grant.clone());
                let grant = match signed {
                    Some(signed) => cases.prove(link, &shown, &signed, held).flatten(),
                    None => grant.as_deref(),
                };
                (known, self.verdict(ticket, from.peer, grant))
            }
            (Subject::Secrets(password, code), Done::Key(grant)) => {
                let grant = grant.map(Arc::from);
                let known = cases.secrets_checked(link, (password, code), grant.clone());
                (known, self.verdict(ticket, from.peer, grant.as_deref()))
            }
            (Subject::Talk, Done::Asks(asks)) => {
                (cases.lost(link), Tell::Asks { ticket, asks: *asks })
            }
            (Subject::Talk, Done::Key(grant)) => {
                let grant = grant.map(Arc::from);
                let known = cases.secrets_checked(link, (true, false), grant.clone());
                (known, self.verdict(ticket, from.peer, grant.as_deref()))
            }
            (Subject::Account, Done::Admitted(answer)) => {
                let known = cases.account_asked(link, answer.allowed);
                (known, Tell::Admitted { ticket, answer })
            }
            (_, _) => (cases.lost(link), Tell::Lost { ticket }),
        };
        if known {
            state.tell(&tell);
        }
    }

    /// May this key log in, and has it signed?
    fn find_key(
        self: &Arc<Clerk>,
        staff: &mut Staff,
        (ticket, from): (Ticket, Origin),
        name: &str,
        (shown, signed): (ShownKey, Option<Box<Signed>>),
    ) -> Result<(), Lie> {
        let (user, style) = split_style(name, self.separators);
        let about = self.state().cases.ask_about_key(&from, user, style)?;
        if let Some(signed) = &signed
            && self.state().cases.is_found(from.link, &shown)
        {
            let held = self.holds(from.link, &shown, signed);
            let mut state = self.state();
            if let Some(grant) = state.cases.prove(from.link, &shown, signed, held) {
                let tell = self.verdict(ticket, from.peer, grant);
                state.tell(&tell);
                return Ok(());
            }
        }
        let ShownKey { key, algorithm, certificate } = shown.clone();
        let subject = Subject::Key(shown, signed);
        let (user, style, signed) = (user.into(), style.into(), None);
        let job = Job::FindKey { user, style, key, algorithm, certificate, signed, from, about };
        let question = Question { ticket, from, about: subject };
        match staff.at_once(&job) {
            Some(done) => self.answer(question, done),
            None => self.find_out(staff, question, job),
        }
        Ok(())
    }

    /// What a key says with a signature for this connection that holds. Nobody waits for it but whoever asks.
    fn holds(&self, link: u64, shown: &ShownKey, signed: &Signed) -> Option<Option<Attestation>> {
        let statement = self.state().cases.statement(link)?;
        statement.holds(shown, signed, &self.hosts)
    }

    /// What an edge hears of a login.
    fn verdict(&self, ticket: Ticket, peer: SocketAddr, grant: Option<&Grant>) -> Tell {
        let stranger = self.startups.take_unknown_user(peer).then_some(peer);
        Tell::Key { ticket, grant: grant.map(|grant| Box::new(outline(grant))), stranger }
    }
}

impl State {
    /// The ends of the edge's only connection, once it is known whose it is.
    fn client(&self) -> Option<Ends> {
        let guest = self.guest.as_ref().filter(|guest| !guest.place.is_proxys());
        guest.map(|guest| guest.ends)
    }

    fn over(&mut self, link: u64) {
        self.left = true;
        self.cases.over(link);
    }

    fn tell(&mut self, tell: &Tell) {
        self.ways.iter_mut().for_each(|ways| ways.tell(tell));
    }
}

/// Where the workers' answers go. It keeps nobody: a worker may never come back.
pub struct Post(Weak<Clerk>);

impl Post {
    pub fn to(clerk: &Arc<Clerk>) -> Post {
        Post(Arc::downgrade(clerk))
    }
}

impl Reply for Post {
    fn deliver(&self, token: Token, done: Done) {
        let Some(clerk) = self.0.upgrade() else { return };
        let question = {
            let mut state = clerk.state();
            let current = state.number == token.generation;
            current.then(|| state.questions.try_remove(token.key as usize)).flatten()
        };
        if let Some(question) = question {
            clerk.answer(question, done);
        }
    }
}

/// PAM knows the account: it is not one that exists here alone, and the login is served here.
fn is_pams(grant: &Grant) -> bool {
    grant.upstream.is_none() && !grant.place.is_files()
}

/// How a login has proved itself, as ExposeAuthInfo tells it.
fn auth_info(proofs: &[Proof]) -> String {
    let line = |proof: &Proof| match proof {
        Proof::Key { shown, .. } => {
            AuthInfo::new(Method::PublicKey.name(), Some(&shown.key), shown.certificate.as_deref())
        }
        Proof::Secrets { interactive: true } => {
            AuthInfo::new(Method::KeyboardInteractive.name(), None, None)
        }
        Proof::Secrets { interactive: false } => AuthInfo::new(Method::Password.name(), None, None),
    };
    proofs.iter().map(|proof| line(proof).text().to_owned()).collect()
}

/// What holds before a login.
fn greeting(config: &ConnectionConfig) -> Greeting {
    Greeting {
        banner: config.banner.clone(),
        tries_max: config.auth_tries_max,
        chains: config.chains.clone(),
        codes: config.asks_codes,
        talks: config.talks,
        limits: config.limits(),
    }
}

/// As much of a grant as whoever only passes it on has to know.
fn outline(grant: &Grant) -> Grant {
    Grant {
        account: Account {
            gid: u32::MAX,
            home: "/".into(),
            shell: "/".into(),
            ..grant.account.clone()
        },
        key: grant.key.clone(),
        forced_command: grant.forced_command.clone(),
        pty: false,
        accept_env: Vec::new(),
        set_env: Vec::new(),
        subsystems: Vec::new(),
        scp: false,
        open_files: None,
        limits: grant.limits,
        source: grant.source.clone(),
        verbosity: grant.verbosity,
        rules: Rules::default(),
        presence: grant.presence,
        place: grant.place.clone(),
        upstream: None,
        demands: Demands::default(),
    }
}

#[cfg(test)]
mod tests;
