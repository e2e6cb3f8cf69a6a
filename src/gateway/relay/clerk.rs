//! What root's process does for a relay: asks programs, connects to hosts, judges their keys, has logins
//! signed. It keeps what each login that was handed over may have, and nothing a relay says is believed.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slab::Slab;
use tracing::error;

use super::dial::Dialer;
use super::words::{Ask, Found, Handed, Passage, Proof, Tell};
use super::{Relays, destination};
use crate::base::Instant;
use crate::connection::{LoginMethod, LoginSession};
use crate::crypto::{KeyKind, PublicKey, ShownKey, SignatureAlgorithm};
use crate::gateway::audit::book::AccountBook;
use crate::gateway::audit::{Audit, Entry, Event, Field, Speaker};
use crate::gateway::broker::{exchanges_max, proofs_max};
use crate::gateway::edge::words::Ticket;
use crate::gateway::helper::keeper::Lie;
use crate::gateway::monitor::hear::Staff;
use crate::gateway::moving::{Exit, Moving};
use crate::gateway::recording::{self, Recorders};
use crate::gateway::signer::bureau::{Bureau, Heir};
use crate::gateway::signer::words::{Order, Signable};
use crate::gateway::socket::Messenger;
use crate::gateway::workers::Reply;
use crate::limits::{
    LINKS_MAX, PARCEL_BYTES_MAX, RELAY_OUTBOX_MAX, RELAY_PAST_MAX, RELAY_WAYS_MAX,
};
use crate::reactor::{self, Fd, Token};
use crate::services::upstream::{Credential, Trouble, Upstream, Way};
use crate::services::{Done, Job};
use crate::shard::HandOver;

/// What it takes to answer relays, one after the other.
pub struct Clerk {
    bureau: Arc<Bureau>,
    /// Where what is done is noted, if it is.
    audit: Option<Arc<Audit>>,
    /// Who records sessions.
    recorders: Arc<dyn Recorders>,
    dialer: Arc<Dialer>,
    /// It answers a relay that has one login, and ends with it.
    single: bool,
    onward: Onward,
    state: Mutex<State>,
}

/// Where logins go on when another program has this one's place: the same for all.
type Onward = Arc<Mutex<Option<Arc<Exit>>>>;

/// What is known of the relay that there is now.
struct State {
    /// Counts relays: answers to what an earlier one asked are for nobody.
    number: u16,
    /// The way to it, once it serves.
    messenger: Option<Arc<Messenger>>,
    /// What it has not been told yet, in order.
    outbox: VecDeque<Parcel>,
    logins: BTreeMap<u64, Login>,
    /// Logins that are over: questions about them may be on their way still.
    past: VecDeque<u64>,
    questions: Slab<Question>,
    /// What it may speak of in an audit.
    book: AccountBook,
    since: Instant,
    /// Logins that it was given, and key exchanges that were signed for them.
    given: u64,
    exchanges: u64,
    /// It does not read what it is told.
    stuck: bool,
    /// No login comes any more.
    retired: bool,
    stopped: bool,
}

/// A message, and what it brings.
struct Parcel {
    bytes: Vec<u8>,
    passenger: Option<OwnedFd>,
    /// The login that it hands over.
    login: Option<(u64, Login)>,
    /// The way to that one's recorder, which is told ahead of it, and what else belongs to a login.
    recorder: Option<OwnedFd>,
    pieces: Option<(u64, Vec<OwnedFd>)>,
}

impl Parcel {
    /// Never waits.
    fn send(&self, messenger: &Messenger) -> std::io::Result<()> {
        if let (Some(recorder), Some((link, _))) = (&self.recorder, &self.login) {
            let tell = Tell::Recorder { link: *link };
            messenger.try_send(&tell.encode(), Some(recorder.as_fd()))?;
        }
        if let Some((link, pieces)) = &self.pieces {
            for (number, piece) in (0..).zip(pieces) {
                let tell = Tell::Piece { link: *link, number };
                messenger.try_send(&tell.encode(), Some(piece.as_fd()))?;
            }
        }
        messenger.try_send(&self.bytes, self.passenger.as_ref().map(AsFd::as_fd))
    }
}

/// What a login may have.
struct Login {
    upstream: Arc<Upstream>,
    user: String,
    peer: SocketAddr,
    local: SocketAddr,
    /// Of the client's connection.
    session: Box<[u8]>,
    /// What it may, in its own encoding: it goes on with the login.
    grant: Vec<u8>,
    /// It has gone on in the program that has this one's place.
    left: bool,
    /// So often it could not, and came back: that many ends of it are none.
    came_back: u32,
    /// Proofs of host keys that were made for its client.
    proofs: usize,
    /// A question about the way is open: there is one at a time.
    finding: bool,
    /// Connections that were asked for.
    ways: u32,
    /// Hosts that it was connected to and whose keys were not judged yet.
    connected: Vec<u32>,
    /// Sessions with hosts whose keys were found to be theirs, and the keys as they were shown. Each is
    /// good for one signature.
    trusted: Vec<LoginSession>,
}

/// Something that is being found out.
struct Question {
    ticket: Ticket,
    link: u64,
    about: Subject,
}

enum Subject {
    Hosts,
    Way { host: u32 },
    Host { session: LoginSession },
    Signature,
}

impl State {
    fn new(number: u16) -> State {
        State {
            number,
            messenger: None,
            outbox: VecDeque::new(),
            logins: BTreeMap::new(),
            past: VecDeque::new(),
            questions: Slab::new(),
            book: AccountBook::of_a_relay(),
            since: reactor::now(),
            given: 0,
            exchanges: 0,
            stuck: false,
            retired: false,
            stopped: false,
        }
    }

    fn tell(&mut self, tell: &Tell, passenger: Option<OwnedFd>) {
        let bytes = tell.encode();
        let (login, recorder, pieces) = (None, None, None);
        self.outbox.push_back(Parcel { bytes, passenger, login, recorder, pieces });
        self.stuck |= self.outbox.len() > RELAY_OUTBOX_MAX;
        self.flush();
    }

    /// Tells as much as it takes.
    fn flush(&mut self) {
        let Some(messenger) = self.messenger.clone() else { return };
        while let Some(parcel) = self.outbox.pop_front() {
            if let Err(why) = parcel.send(&messenger) {
                // Gone is seen where it is heard; a login waits for the next then.
                let gone = matches!(why.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
                if !gone || parcel.login.is_some() {
                    self.outbox.push_front(parcel);
                }
                return;
            }
            if let Some((link, login)) = parcel.login {
                self.given += 1;
                self.book.enter(link, login.peer, &login.user);
                self.logins.insert(link, login);
            }
        }
    }

    /// The login of this number. `None`: its connection has ended, and the question was on its way.
    fn login(&mut self, link: u64) -> Result<Option<&mut Login>, Lie> {
        match self.logins.get_mut(&link) {
            Some(login) => Ok(Some(login)),
            None if self.past.contains(&link) => Ok(None),
            None => Err(Lie("a login that it does not have")),
        }
    }

    fn knows(&self, link: u64) -> bool {
        let waits = |parcel: &Parcel| parcel.login.as_ref().is_some_and(|(its, _)| *its == link);
        self.logins.contains_key(&link) || self.outbox.iter().any(waits)
    }

    /// One more proof of a host key for the client of this session.
    fn may_prove(&mut self, session: &[u8]) -> bool {
        let Some(login) = self.logins.values_mut().find(|login| *login.session == *session) else {
            return false;
        };
        login.proofs += 1;
        login.proofs <= proofs_max()
    }

    /// One more later key exchange of a client.
    fn may_exchange(&mut self) -> bool {
        self.exchanges += 1;
        self.exchanges <= exchanges_max(self.given, self.since)
    }

    /// Keeps a question until it is answered under this name.
    fn note(&mut self, question: Question) -> Token {
        let key = self.questions.insert(question) as u32;
        Token { key, generation: self.number, tag: 0 }
    }
}

impl Clerk {
    /// # Errors
    /// There is no thread left.
    pub fn new(
        bureau: Arc<Bureau>,
        audit: Option<Arc<Audit>>,
        recorders: Arc<dyn Recorders>,
    ) -> std::io::Result<Clerk> {
        let (dialer, state) = (Arc::new(Dialer::start()?), Mutex::new(State::new(0)));
        let onward = Onward::default();
        Ok(Clerk { bureau, audit, recorders, dialer, single: false, onward, state })
    }

    /// One that answers a relay of one login.
    pub fn for_one(&self) -> Clerk {
        Clerk {
            bureau: Arc::clone(&self.bureau),
            audit: self.audit.clone(),
            recorders: Arc::clone(&self.recorders),
            dialer: Arc::clone(&self.dialer),
            single: true,
            onward: Arc::clone(&self.onward),
            state: Mutex::new(State::new(0)),
        }
    }

    pub const fn is_single(&self) -> bool {
        self.single
    }

    /// The way to the signer of a relay whose gateway is gone.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn heir(&self) -> std::io::Result<(Messenger, Heir)> {
        self.bureau.heir()
    }

    /// A login is over and goes on elsewhere. It waits where there is no relay just now.
    ///
    /// # Errors
    /// Its number is that of another login.
    pub fn hand_over(&self, connection: HandOver) -> Result<(), Lie> {
        let HandOver {
            socket,
            ends,
            serial: link,
            session,
            record,
            inbound,
            outbound,
            grant,
            luggage,
            ..
        } = connection;
        // SAFETY: the descriptor was given up to the connection, and nobody has taken it from there.
        let owned = |fd: Fd| unsafe { OwnedFd::from_raw_fd(fd.0) };
        let socket = owned(socket);
        let luggage = luggage.map(|its| {
            let pieces: Vec<OwnedFd> = its.descriptors.into_iter().map(owned).collect();
            (its.bytes, pieces)
        });
        let (luggage, pieces) = match luggage {
            Some((bytes, pieces)) => (Some((bytes, pieces.len() as u32)), Some((link, pieces))),
            None => (None, None),
        };
        let Some(upstream) = grant.upstream.clone() else { return Ok(()) };
        let handed = Handed {
            link,
            peer: ends.peer,
            local: ends.local,
            record,
            inbound,
            outbound,
            grant: grant.encode(),
            upstream: destination::encode(&upstream),
            luggage,
        };
        let login = Login {
            upstream,
            user: grant.account.name.clone(),
            peer: ends.peer,
            local: ends.local,
            session,
            grant: handed.grant.clone(),
            left: false,
            came_back: 0,
            proofs: 0,
            finding: false,
            ways: 0,
            connected: Vec::new(),
            trusted: Vec::new(),
        };
        let bytes = Tell::HandOver(Box::new(handed)).encode();
        let recorder = recording::way(&*self.recorders, link, ends.peer, &grant);
        let mut state = self.state();
        if state.knows(link) {
            return Err(Lie("the number of another login"));
        }
        let full = state.outbox.len() >= RELAY_OUTBOX_MAX || state.logins.len() >= LINKS_MAX;
        if state.stopped || full || bytes.len() > PARCEL_BYTES_MAX as usize {
            drop(state);
            self.turn_away(link, &login);
            return Ok(());
        }
        let (passenger, login) = (Some(socket), Some((link, login)));
        state.outbox.push_back(Parcel { bytes, passenger, login, recorder, pieces });
        state.flush();
        Ok(())
    }

    /// Logins go on in the program at the other end, as soon as each can.
    pub fn move_on(&self, exit: &Arc<Exit>) {
        *self.onward.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(exit));
        let mut state = self.state();
        if state.messenger.is_some() {
            state.tell(&Tell::MoveOn, None);
        }
    }

    fn exit(&self) -> Option<Arc<Exit>> {
        self.onward.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It was told to pass logins on.
    pub fn may_pass_on(&self) -> bool {
        self.exit().is_some()
    }

    /// A login goes on in the program that has this one's place, with what is known of it here. It comes back where
    /// that takes nothing now.
    ///
    /// # Errors
    /// It is none that this relay has, or not one that goes on.
    pub fn pass_on(
        &self,
        moving: Moving,
        (socket, pieces): (OwnedFd, Vec<OwnedFd>),
    ) -> Result<(), Lie> {
        let exit = self.exit().ok_or(Lie("a login that goes on, and nobody has told it to"))?;
        let mut state = self.state();
        let link = moving.serial;
        let login = state.logins.get_mut(&link).filter(|login| !login.left);
        let login = login.ok_or(Lie("a login that goes on, and is not here"))?;
        let is_whole = moving.luggage.is_some() && moving.kept.is_none();
        if !is_whole || login.upstream.finder.is_some() {
            return Err(Lie("a login that goes on before it has begun"));
        }
        let moving = Moving {
            peer: login.peer,
            local: login.local,
            session: login.session.to_vec(),
            grant: login.grant.clone(),
            upstream: Some(destination::encode(&login.upstream)),
            token: Vec::new(),
            ..moving
        };
        if exit.send(&moving, &socket, &pieces).is_ok() {
            login.left = true;
            state.book.leave(link);
            return Ok(());
        }
        login.came_back += 1;
        let Moving { peer, local, record, inbound, outbound, grant, upstream, luggage, .. } =
            moving;
        let upstream = upstream.unwrap_or_default();
        let handed =
            Handed { link, peer, local, record, inbound, outbound, grant, upstream, luggage };
        state.outbox.push_back(Parcel {
            bytes: Tell::HandOver(Box::new(handed)).encode(),
            passenger: Some(socket),
            login: None,
            recorder: None,
            pieces: Some((link, pieces)),
        });
        state.flush();
        Ok(())
    }

    fn turn_away(&self, link: u64, login: &Login) {
        let Login { user, peer, .. } = login;
        error!(link, user, "the login of {user} cannot go on: there is no relay for it");
        if let Some(audit) = &self.audit {
            let entry = Entry::new(Event::Disconnect, link, *peer).of_user(user);
            audit.note(Speaker::Gateway, entry.text(Field::Reason, "there is no relay for it"));
        }
    }

    /// A relay serves.
    pub fn begin(&self, messenger: &Arc<Messenger>) {
        let mut state = self.state();
        state.messenger = Some(Arc::clone(messenger));
        state.since = reactor::now();
        state.flush();
        if self.may_pass_on() {
            state.tell(&Tell::MoveOn, None);
        }
        // What was wished while there was none.
        if state.stopped {
            state.tell(&Tell::Stop, None);
        } else if state.retired {
            state.tell(&Tell::Retire, None);
        }
    }

    /// There is no relay now: what it had is lost. Logins that it was not given yet wait for the next,
    /// unless it never served. Answers how many were lost.
    pub fn end(&self, served: bool) -> usize {
        let (mut before, waiting) = {
            let mut state = self.state();
            let next = State::new(state.number.wrapping_add(1));
            let (retired, stopped) = (state.retired, state.stopped);
            let mut before = std::mem::replace(&mut *state, State { retired, stopped, ..next });
            let outbox = std::mem::take(&mut before.outbox).into_iter();
            let waiting: Vec<Parcel> = outbox.filter(|parcel| parcel.login.is_some()).collect();
            if served && !stopped {
                state.outbox.extend(waiting);
                (before, Vec::new())
            } else {
                (before, waiting)
            }
        };
        if let Some(audit) = &self.audit {
            let left = before.book.close().into_iter();
            left.for_each(|entry| audit.note(Speaker::Gateway, entry));
        }
        for parcel in waiting {
            parcel.login.iter().for_each(|(link, login)| self.turn_away(*link, login));
        }
        before.logins.len()
    }

    /// No login comes any more; the relay ends with its last connection.
    pub fn retire(&self) {
        let mut state = self.state();
        state.retired = true;
        if state.messenger.is_some() {
            state.tell(&Tell::Retire, None);
        }
    }

    /// Ends the relay, and whatever it waits for.
    pub fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        let questions = std::mem::take(&mut state.questions);
        for (_, Question { ticket, .. }) in questions {
            state.tell(&Tell::Lost { ticket }, None);
        }
        if let Some(messenger) = state.messenger.clone() {
            state.tell(&Tell::Stop, None);
            // One that does not listen is given some time to end, and no more.
            messenger.hang_up();
        }
    }

    /// Nothing is wanted of a relay any more.
    pub fn is_done(&self) -> bool {
        let state = self.state();
        state.stopped || (state.retired || self.single) && state.outbox.is_empty()
    }

    /// Tells what there was no room for. `true`: there is still none.
    pub fn retry(&self) -> bool {
        let mut state = self.state();
        state.flush();
        !state.outbox.is_empty()
    }

    /// It has not read what it was told, and there is no room for more.
    pub fn is_stuck(&self) -> bool {
        self.state().stuck
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a relay asks for.
    ///
    /// # Errors
    /// It asks for what no relay asks for.
    pub fn hear(self: &Arc<Clerk>, staff: &mut Staff, ask: Ask) -> Result<(), Lie> {
        match ask {
            // These are the keeper's.
            Ask::Ready | Ask::Pong | Ask::Piece { .. } | Ask::Moves(_) => Ok(()),
            Ask::FindHosts { ticket, link } => self.find_hosts(staff, ticket, link),
            Ask::FindWay { ticket, link, host, subject } => {
                self.find_way(staff, ticket, link, (host, &subject))
            }
            Ask::JudgeHost { ticket, link, host, shown, session, signature } => {
                self.judge_host(staff, (ticket, link), host, shown, (&session, &signature))
            }
            Ask::SignLogin { ticket, link, algorithm, session } => {
                self.sign_login(staff, ticket, link, algorithm, session)
            }
            Ask::Sign { ticket, order } => self.sign(ticket, order),
            Ask::Over { link } => {
                let mut state = self.state();
                if let Some(login) = state.logins.get_mut(&link).filter(|its| its.came_back > 0) {
                    login.came_back -= 1;
                    return Ok(());
                }
                if state.logins.remove(&link).is_none() {
                    return Err(Lie("the end of a login that it does not have"));
                }
                if state.past.len() >= RELAY_PAST_MAX {
                    state.past.pop_front();
                }
                state.past.push_back(link);
                drop(state);
                if self.single {
                    self.stop();
                }
                Ok(())
            }
            Ask::Audit(entry) => self.note_event(*entry),
        }
    }

    /// What a relay says for the audit, as far as it may.
    fn note_event(&self, entry: Entry) -> Result<(), Lie> {
        let Some(audit) = &self.audit else { return Ok(()) };
        let heard = self.state().book.hear(entry, reactor::now()).map_err(|why| Lie(why.0))?;
        match heard {
            Some(entry) => audit.note(Speaker::Relay, entry),
            None => audit.lose(1),
        }
        Ok(())
    }

    fn find_hosts(&self, staff: &mut Staff, ticket: Ticket, link: u64) -> Result<(), Lie> {
        let mut state = self.state();
        let Some(login) = state.login(link)? else {
            state.tell(&Tell::Lost { ticket }, None);
            return Ok(());
        };
        if login.finding || login.upstream.finder.is_none() {
            return Err(Lie("hosts that no program is asked for"));
        }
        login.finding = true;
        let (upstream, asker) = (Arc::clone(&login.upstream), login.user.as_str().into());
        let token = state.note(Question { ticket, link, about: Subject::Hosts });
        drop(state);
        staff.submit(token, Job::FindHosts { link, upstream, asker });
        Ok(())
    }

    fn find_way(
        &self,
        staff: &mut Staff,
        ticket: Ticket,
        link: u64,
        (host, subject): (u32, &[u8]),
    ) -> Result<(), Lie> {
        let mut state = self.state();
        let Some(login) = state.login(link)? else {
            state.tell(&Tell::Lost { ticket }, None);
            return Ok(());
        };
        let upstream = Arc::clone(&login.upstream);
        if upstream.finder.is_some() || upstream.fleet.host(host as usize).is_none() {
            return Err(Lie("a host that is none of its login's"));
        }
        if login.finding {
            return Err(Lie("two ways at a time"));
        }
        let subject = subject_of(&upstream, subject)?;
        login.ways += 1;
        if login.ways > RELAY_WAYS_MAX {
            let found = Err(Trouble::plain("one login has had too many connections to hosts"));
            state.tell(&Tell::Way { ticket, found }, None);
            return Ok(());
        }
        login.finding = true;
        let (host_number, asker) = (host as usize, login.user.as_str().into());
        let token = state.note(Question { ticket, link, about: Subject::Way { host } });
        drop(state);
        staff.submit(token, Job::FindWay { link, upstream, host: host_number, subject, asker });
        Ok(())
    }

    /// The host has to have signed the session: what is signed for it later is of no use at another.
    fn judge_host(
        &self,
        staff: &mut Staff,
        (ticket, link): (Ticket, u64),
        host: u32,
        shown: ShownKey,
        (session, signature): (&[u8], &[u8]),
    ) -> Result<(), Lie> {
        if shown.key.verify(shown.algorithm, session, signature).is_err() {
            return Err(Lie("a host that has not signed its session"));
        }
        let mut state = self.state();
        let Some(login) = state.login(link)? else {
            state.tell(&Tell::Lost { ticket }, None);
            return Ok(());
        };
        let at = login.connected.iter().position(|connected| *connected == host);
        let at = at.ok_or(Lie("the key of a host that it was not connected to"))?;
        login.connected.remove(at);
        let upstream = Arc::clone(&login.upstream);
        let known = LoginSession { id: session.into(), host_key: shown.blob().into() };
        let token = state.note(Question { ticket, link, about: Subject::Host { session: known } });
        drop(state);
        let (session, signature) = (session.into(), signature.into());
        let host = host as usize;
        staff.submit(token, Job::JudgeHost { link, upstream, host, shown, session, signature });
        Ok(())
    }

    fn sign_login(
        &self,
        staff: &mut Staff,
        ticket: Ticket,
        link: u64,
        algorithm: SignatureAlgorithm,
        session: LoginSession,
    ) -> Result<(), Lie> {
        let mut state = self.state();
        let Some(login) = state.login(link)? else {
            state.tell(&Tell::Lost { ticket }, None);
            return Ok(());
        };
        let fits = |known: &LoginSession| {
            known.id == session.id
                && (session.host_key.is_empty() || known.host_key == session.host_key)
        };
        let at = login.trusted.iter().position(fits);
        let at = at.ok_or(Lie("a session that no host of its login has proved"))?;
        login.trusted.remove(at);
        if !matches!(login.upstream.credential, Credential::Identity(_)) {
            return Err(Lie("a login that no key of ours opens"));
        }
        let upstream = Arc::clone(&login.upstream);
        let token = state.note(Question { ticket, link, about: Subject::Signature });
        drop(state);
        staff.submit(token, Job::HaveLoginSigned { link, upstream, algorithm, session });
        Ok(())
    }

    /// A later key exchange with a client, or a proof for one.
    fn sign(self: &Arc<Clerk>, ticket: u64, order: Order) -> Result<(), Lie> {
        let mut state = self.state();
        let allowed = match &order.what {
            Signable::Exchange(_) => state.may_exchange(),
            Signable::Proof { session, .. } => state.may_prove(session),
            Signable::Login { .. } | Signable::Certificate { .. } => false,
        };
        if !allowed {
            return Err(Lie("a signature that it has no use for"));
        }
        let number = state.number;
        drop(state);
        let clerk = Arc::clone(self);
        let answer = move |signature: Option<Vec<u8>>| {
            let signature = signature.unwrap_or_default();
            clerk.tell(number, &Tell::Signed { ticket, signature });
        };
        self.bureau.sign(order, Box::new(answer));
        Ok(())
    }

    /// Tells the relay of this number something, if it is there still.
    fn tell(&self, number: u16, tell: &Tell) {
        let mut state = self.state();
        if state.number == number {
            state.tell(tell, None);
        }
    }

    /// The question of this name, if it is the present relay's.
    fn take(&self, token: Token) -> Option<Question> {
        let mut state = self.state();
        let current = state.number == token.generation;
        current.then(|| state.questions.try_remove(token.key as usize)).flatten()
    }

    /// Somebody has found something out for the relay of this number.
    fn answer(self: &Arc<Clerk>, number: u16, question: Question, done: Done) {
        let Question { ticket, link, about } = question;
        match (about, done) {
            (about @ Subject::Way { .. }, Done::Way(Ok(way))) => {
                self.dial(number, Question { ticket, link, about }, *way);
            }
            (Subject::Way { .. }, Done::Way(Err(trouble))) => {
                self.found(number, link, |_| (Tell::Way { ticket, found: Err(trouble) }, None));
            }
            (Subject::Hosts, Done::Hosts(Ok(upstream))) => {
                let hosts = upstream.fleet.hosts().map(|(name, port)| (name.to_owned(), port));
                let found = Ok(Found { hosts: hosts.collect(), user: upstream.user.clone() });
                self.found(number, link, |login| {
                    login.upstream = Arc::from(upstream);
                    (Tell::Hosts { ticket, found }, None)
                });
            }
            (Subject::Hosts, Done::Hosts(Err(trouble))) => {
                self.found(number, link, |_| (Tell::Hosts { ticket, found: Err(trouble) }, None));
            }
            (Subject::Host { session }, Done::Judged(verdict)) => {
                let mut state = self.state();
                if state.number != number {
                    return;
                }
                if let (Some(login), Ok(())) = (state.logins.get_mut(&link), &verdict) {
                    login.trusted.push(session);
                }
                state.tell(&Tell::Judged { ticket, verdict }, None);
            }
            (Subject::Signature, Done::Signature(signature)) => {
                let signature = signature.unwrap_or_default().into_vec();
                self.tell(number, &Tell::LoginSigned { ticket, signature });
            }
            (Subject::Way { .. } | Subject::Hosts, _) => {
                self.found(number, link, |_| (Tell::Lost { ticket }, None));
            }
            _ => self.tell(number, &Tell::Lost { ticket }),
        }
    }

    /// The way of a login is found, or there is none. A connection ends when its own questions are
    /// answered, so the login is there, unless the relay has lied.
    fn found(
        &self,
        number: u16,
        link: u64,
        answer: impl FnOnce(&mut Login) -> (Tell, Option<OwnedFd>),
    ) {
        let mut state = self.state();
        if state.number != number {
            return;
        }
        if let Some(login) = state.logins.get_mut(&link) {
            login.finding = false;
            let (tell, socket) = answer(login);
            state.tell(&tell, socket);
        }
    }

    /// The host's addresses are known.
    fn dial(self: &Arc<Clerk>, number: u16, question: Question, way: Way) {
        let clerk = Arc::clone(self);
        let Way { addresses, config, method, .. } = way;
        let token = {
            let mut state = self.state();
            if state.number != number {
                return;
            }
            state.note(question)
        };
        let answer = move |result: Result<(OwnedFd, SocketAddr), String>| {
            let Some(Question { ticket, link, about: Subject::Way { host } }) = clerk.take(token)
            else {
                return;
            };
            clerk.found(number, link, |login| match result {
                Ok((socket, at)) => {
                    login.connected.push(host);
                    let host_key_algorithms = config.transport.host_key_algorithms.clone();
                    let proof = proof_of(&method);
                    let found = Ok(Passage { at, host_key_algorithms, proof });
                    (Tell::Way { ticket, found }, Some(socket))
                }
                Err(why) => {
                    let host = login.upstream.fleet.host(host as usize);
                    let told = host.map(|host| host.unreached(&why)).unwrap_or(why);
                    let found = Err(Trouble::plain(told));
                    (Tell::Way { ticket, found }, None)
                }
            });
        };
        self.dialer.dial(addresses, Box::new(answer));
    }
}

fn proof_of(method: &LoginMethod) -> Proof {
    match method {
        LoginMethod::PublicKey { key, .. } => Proof::Key(key.blob().to_vec()),
        LoginMethod::Certificate { certificate, .. } => {
            Proof::Certificate(certificate.blob().to_vec())
        }
        _ => Proof::Agent,
    }
}

/// The key that a relay has made for a login, where it is to be certified.
fn subject_of(upstream: &Upstream, blob: &[u8]) -> Result<Option<Box<PublicKey>>, Lie> {
    let certified = matches!(upstream.credential, Credential::Authority(_));
    if !certified {
        return if blob.is_empty() { Ok(None) } else { Err(Lie("a key that nobody certifies")) };
    }
    match PublicKey::from_blob(blob) {
        Ok(key) if key.kind() == KeyKind::Ed25519 => Ok(Some(Box::new(key))),
        _ => Err(Lie("no key that was made for one login")),
    }
}

impl Relays for Clerk {
    fn take(&self, connection: HandOver) -> Result<(), Lie> {
        self.hand_over(connection)
    }

    fn is_crowded(&self) -> bool {
        let state = self.state();
        !state.stopped && state.outbox.len() >= RELAY_OUTBOX_MAX / 2
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
        if let Some(question) = clerk.take(token) {
            clerk.answer(token.generation, question, done);
        }
    }
}

#[cfg(test)]
mod tests;
