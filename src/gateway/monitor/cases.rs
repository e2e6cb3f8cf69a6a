//! What root's process knows of connections that have not logged in. What an edge says of one is held
//! against it: a session identifier is the first hash that was signed for the connection, a key counts
//! when it was found and has signed that identifier, and a login is over when its methods are.
//!
//! No call here looks anything up or waits.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::connection::{Method, Progress, SERVICE_CONNECTION, Signed, Step};
use crate::crypto::{Attestation, PublicKey, ShownKey};
use crate::gateway::helper::keeper::Lie;
use crate::limits::{
    AUTH_REQUESTS_MAX, SESSIONS_REMEMBERED_MAX, SIGNATURES_BEFORE_LOGIN_MAX,
    STARTUPS_MAX as CASES_MAX,
};
use crate::services::{About, Grant, Kept, Origin};
use crate::shard::Proof;
use crate::wire::Writer;
use crate::wire::auth::PublicKeyAttempt;

/// The identifier of a session.
pub type Session = Box<[u8]>;

/// The connections of one edge, by their names in the log.
#[derive(Debug, Default)]
pub struct Cases {
    open: HashMap<u64, Case>,
    /// Identifiers of their sessions.
    sessions: HashSet<Session>,
}

/// One connection.
#[derive(Debug)]
struct Case {
    from: Origin,
    session: Session,
    signatures: u32,
    /// One is being made: there is one at a time.
    signing: bool,
    /// Of the first question; it may not change (SECURITY case 54).
    user: Option<Box<str>>,
    /// What stood behind it where a key was asked about: clients sign both.
    style: Option<Box<str>>,
    about: About,
    /// A question of its login is open: there is one at a time.
    asking: bool,
    questions: u32,
    /// Keys that may log in, if they sign.
    keys: Vec<Found>,
    /// Secrets that were right.
    secrets: Vec<Right>,
    /// The login that its account was asked about, and whether it may be used.
    account: Option<(Vec<Proof>, bool)>,
}

/// A key that may log in.
#[derive(Debug)]
struct Found {
    shown: ShownKey,
    grant: Arc<Grant>,
    /// The last signature of it that was found to hold for this session.
    proved: Option<Signed>,
}

/// The first request may be asked about twice: who it is, and then about his key. Each may be followed by one about
/// the account.
const QUESTIONS_MAX: u32 = 2 * AUTH_REQUESTS_MAX + 1;

/// Secrets that are the user's.
#[derive(Clone, Debug)]
struct Right {
    password: bool,
    code: bool,
    grant: Arc<Grant>,
}

/// A login that is over.
#[derive(Debug)]
pub struct Admitted {
    pub from: Origin,
    /// The session's identifier: the first hash that was signed for it.
    pub session: Session,
    pub grant: Box<Grant>,
    pub about: About,
    /// The account of this very login was asked about, and may be used.
    pub vouched: bool,
}

impl Cases {
    /// A hash of a key exchange is to be signed for a connection: the first begins its case. `false`:
    /// its peer has had enough of them, or there are too many connections.
    ///
    /// # Errors
    /// It was signed before, another is being made, or the connection has changed its ends.
    pub fn sign(&mut self, from: &Origin, hash: &[u8]) -> Result<bool, Lie> {
        if let Some(case) = self.open.get_mut(&from.link) {
            case.check(from)?;
            if case.signing {
                return Err(Lie("two key exchanges of one connection"));
            }
            case.signatures += 1;
            case.signing = case.signatures <= SIGNATURES_BEFORE_LOGIN_MAX;
            return Ok(case.signing);
        }
        if self.open.len() >= CASES_MAX {
            return Ok(false);
        }
        if self.sessions.contains(hash) || Spent::lock().has(hash) {
            return Err(Lie("the session of another connection"));
        }
        let case = Case {
            from: *from,
            session: hash.into(),
            signatures: 1,
            signing: true,
            user: None,
            style: None,
            about: About::default(),
            asking: false,
            questions: 0,
            keys: Vec::new(),
            secrets: Vec::new(),
            account: None,
        };
        self.sessions.insert(hash.into());
        self.open.insert(from.link, case);
        Ok(true)
    }

    /// The signature is there, or there is none. `false`: the connection is gone.
    pub fn signed(&mut self, link: u64) -> bool {
        let Some(case) = self.open.get_mut(&link) else { return false };
        case.signing = false;
        true
    }

    /// A login asks something; answers what is known about its connection.
    ///
    /// # Errors
    /// There was no key exchange, another question is open, or the user's name has changed.
    pub fn ask(&mut self, from: &Origin, user: &str) -> Result<About, Lie> {
        let case = self.open.get_mut(&from.link).ok_or(Lie("a login before its key exchange"))?;
        case.check(from)?;
        if **case.user.get_or_insert_with(|| user.into()) != *user {
            return Err(Lie("the user's name has changed"));
        }
        case.questions += 1;
        if case.asking || case.questions > QUESTIONS_MAX {
            return Err(Lie("more questions than a login has"));
        }
        case.asking = true;
        Ok(case.about.clone())
    }

    /// The same about a key, which signs the user with what stands behind it in the login name (`:style`).
    ///
    /// # Errors
    /// As those of [`Cases::ask`], for that part too.
    pub fn ask_about_key(&mut self, from: &Origin, user: &str, style: &str) -> Result<About, Lie> {
        let about = self.ask(from, user)?;
        let case = self.open.get_mut(&from.link).ok_or(Lie("a login before its key exchange"))?;
        if **case.style.get_or_insert_with(|| style.into()) != *style {
            return Err(Lie("the user's style has changed"));
        }
        Ok(about)
    }

    /// A connection ends of which only the methods were asked for; answers what is known about it, or nothing
    /// where more was asked.
    ///
    /// # Errors
    /// There was no key exchange, or the connection has changed its ends or its user.
    pub fn left(&mut self, from: &Origin, user: &str) -> Result<Option<About>, Lie> {
        let case = self.open.get_mut(&from.link).ok_or(Lie("a login before its key exchange"))?;
        case.check(from)?;
        if case.user.as_deref().is_some_and(|known| known != user) {
            return Err(Lie("the user's name has changed"));
        }
        // Who it is may have been asked, and nothing behind that, once.
        let quiet = !case.asking && case.questions <= 1 && case.keys.is_empty();
        // It has no more.
        case.questions = QUESTIONS_MAX;
        Ok(quiet.then(|| case.about.clone()))
    }

    /// The question about who logs in is answered. `false`: the connection is gone.
    pub fn greeted(&mut self, link: u64, about: About) -> bool {
        let Some(case) = self.open.get_mut(&link) else { return false };
        case.asking = false;
        let kept = case.about.kept.take();
        case.about = About { kept, ..about };
        true
    }

    /// What is kept for a connection between its questions from now on.
    pub fn keep(&mut self, link: u64, make: impl FnOnce() -> Kept) {
        if let Some(case) = self.open.get_mut(&link) {
            case.about.kept.get_or_insert_with(make);
        }
    }

    /// The question about a key is answered.
    pub fn key_found(&mut self, link: u64, shown: &ShownKey, grant: Option<Arc<Grant>>) -> bool {
        let Some(case) = self.open.get_mut(&link) else { return false };
        case.asking = false;
        case.keys.retain(|known| known.shown != *shown);
        let found = |grant| Found { shown: shown.clone(), grant, proved: None };
        case.keys.extend(grant.map(found));
        true
    }

    /// What a key has to have signed for this connection, whoever's it is.
    pub fn statement(&self, link: u64) -> Option<Statement> {
        self.open.get(&link).map(Case::statement)
    }

    /// This key was found for the connection.
    pub fn is_found(&self, link: u64, shown: &ShownKey) -> bool {
        let case = self.open.get(&link);
        case.is_some_and(|case| case.keys.iter().any(|known| known.shown == *shown))
    }

    /// A key that was found is said to have signed, and `held` is what [`Statement::holds`] has found of that.
    /// The grant, if it has; whoever only passes the signature on hears no more than that. `None`: it was not
    /// found.
    pub fn prove(
        &mut self,
        link: u64,
        shown: &ShownKey,
        signed: &Signed,
        held: Option<Option<Attestation>>,
    ) -> Option<Option<&Grant>> {
        let case = self.open.get_mut(&link)?;
        let found = case.keys.iter_mut().find(|known| known.shown == *shown)?;
        case.asking = false;
        let lacks = |attestation| found.grant.presence.lacks(attestation);
        let proved = held.is_some_and(|attestation| attestation.and_then(lacks).is_none());
        found.proved = proved.then(|| signed.clone());
        Some(proved.then_some(&*found.grant))
    }

    /// The question about secrets is answered.
    pub fn secrets_checked(
        &mut self,
        link: u64,
        (password, code): (bool, bool),
        grant: Option<Arc<Grant>>,
    ) -> bool {
        let Some(case) = self.open.get_mut(&link) else { return false };
        case.asking = false;
        let right = |grant| Right { password, code, grant };
        case.secrets.extend(grant.map(right));
        true
    }

    /// A login has proved itself, says the edge, and its account is to be asked about: has it? Answers the
    /// login's grant. Nothing of it is used up.
    ///
    /// # Errors
    /// It has not.
    pub fn vouch(&mut self, link: u64, proofs: &[Proof], hosts: &[Vec<u8>]) -> Result<Grant, Lie> {
        let case = self.open.get_mut(&link).ok_or(Lie("a login of no connection"))?;
        let secrets = case.secrets.clone();
        let judged = case.judge(proofs, hosts);
        case.secrets = secrets;
        case.account = Some((proofs.to_vec(), false));
        judged.map(Arc::unwrap_or_clone)
    }

    /// The question about the account is answered.
    pub fn account_asked(&mut self, link: u64, allowed: bool) -> bool {
        let Some(case) = self.open.get_mut(&link) else { return false };
        case.asking = false;
        if let Some((_, known)) = &mut case.account {
            *known = allowed;
        }
        true
    }

    /// The question was lost.
    pub fn lost(&mut self, link: u64) -> bool {
        let Some(case) = self.open.get_mut(&link) else { return false };
        case.asking = false;
        true
    }

    /// The connection has ended. What was never begun here may end too.
    pub fn over(&mut self, link: u64) {
        if let Some(case) = self.open.remove(&link) {
            self.sessions.remove(&case.session);
            // A client may have signed for it: that is of no use to another connection.
            if !case.keys.is_empty() {
                Spent::lock().add(&case.session);
            }
        }
    }

    /// A login is over, says the edge: is it? `hosts`: what our host keys are shown as. Whatever the
    /// answer, the case is closed.
    ///
    /// # Errors
    /// It is not.
    pub fn admit(
        &mut self,
        link: u64,
        proofs: &[Proof],
        hosts: &[Vec<u8>],
    ) -> Result<Admitted, Lie> {
        let mut case = self.open.remove(&link).ok_or(Lie("a login of no connection"))?;
        self.sessions.remove(&case.session);
        let judged = case.judge(proofs, hosts);
        Spent::lock().add(&case.session);
        let Case { from, session, about, account, keys, .. } = case;
        // Nobody else has the grant then.
        drop(keys);
        let vouched = account.is_some_and(|(of, allowed)| allowed && of == proofs);
        let grant = Box::new(Arc::unwrap_or_clone(judged?));
        Ok(Admitted { from, session, grant, about, vouched })
    }
}

impl Case {
    fn check(&self, from: &Origin) -> Result<(), Lie> {
        if self.from == *from { Ok(()) } else { Err(Lie("the ends of a connection have changed")) }
    }

    fn judge(&mut self, proofs: &[Proof], hosts: &[Vec<u8>]) -> Result<Arc<Grant>, Lie> {
        let (mut progress, mut earned) = (Progress::default(), None::<Arc<Grant>>);
        let (mut used, mut over) = (Vec::<PublicKey>::new(), false);
        for proof in proofs {
            if over {
                return Err(Lie("a method after the last"));
            }
            let (method, grant) = match proof {
                Proof::Key { shown, host_bound, signature } => {
                    if used.contains(&shown.key) {
                        return Err(Lie("a key that counts twice"));
                    }
                    used.push((*shown.key).clone());
                    let signed = (*host_bound, &**signature);
                    (Method::PublicKey, self.key_signed(shown, signed, hosts)?)
                }
                Proof::Secrets { interactive } => {
                    self.secrets_told(*interactive, earned.is_some())?
                }
            };
            match progress.advance(&grant.demands.chains, method) {
                Step::NotNext => return Err(Lie("a method that was not asked for")),
                Step::Partial => {}
                Step::Over => over = true,
            }
            earned = Some(match earned {
                Some(before) => {
                    let both = Arc::unwrap_or_clone(grant).after(&before);
                    Arc::new(both.ok_or(Lie("methods of two accounts"))?)
                }
                None => grant,
            });
        }
        earned.filter(|_| over).ok_or(Lie("a login that is not over"))
    }

    /// The grant of a key that was found and has signed this very session. `hosts`: what it may have
    /// signed besides.
    fn key_signed(
        &self,
        shown: &ShownKey,
        (host_bound, signature): (bool, &[u8]),
        hosts: &[Vec<u8>],
    ) -> Result<Arc<Grant>, Lie> {
        let found = self.keys.iter().find(|known| known.shown == *shown);
        let Found { grant, proved, .. } = found.ok_or(Lie("a key that nobody has asked about"))?;
        let is_proved =
            |proved: &Signed| proved.host_bound == host_bound && *proved.signature == *signature;
        if proved.as_ref().is_some_and(is_proved) {
            return Ok(Arc::clone(grant));
        }
        let signed = Signed { host_bound, signature: signature.into() };
        let held = self.statement().holds(shown, &signed, hosts);
        let attestation = held.ok_or(Lie("a signature that does not hold"))?;
        match attestation.and_then(|attestation| grant.presence.lacks(attestation)) {
            None => Ok(Arc::clone(grant)),
            Some(_) => Err(Lie("a security key that nobody has touched")),
        }
    }

    fn statement(&self) -> Statement {
        let name = |part: &Option<Box<str>>| part.as_deref().unwrap_or_default().to_owned();
        Statement { session: self.session.clone(), user: name(&self.user) + &name(&self.style) }
    }

    /// The grant of secrets that were right, which count once. `partly`: something counted before.
    fn secrets_told(
        &mut self,
        interactive: bool,
        partly: bool,
    ) -> Result<(Method, Arc<Grant>), Lie> {
        let fits = |right: &Right| {
            let codes = right.grant.demands.codes;
            match interactive {
                false => right.password && !right.code,
                true => right.code == codes && right.password == (!codes || !partly),
            }
        };
        let at = self.secrets.iter().position(fits).ok_or(Lie("secrets that were not told"))?;
        let method = if interactive { Method::KeyboardInteractive } else { Method::Password };
        let right = self.secrets.remove(at);
        Ok((method, right.grant))
    }
}

/// What a client states with a signature: whose login it is, as it has named him, and of which session. It is verified without the
/// cases, for that takes as long as hundreds of other questions to them, and several threads ask.
#[derive(Debug)]
pub struct Statement {
    session: Session,
    user: String,
}

impl Statement {
    /// What a key says with a signature of it that holds. `hosts` as for [`Cases::admit`].
    pub fn holds(
        &self,
        shown: &ShownKey,
        signed: &Signed,
        hosts: &[Vec<u8>],
    ) -> Option<Option<Attestation>> {
        let Signed { host_bound, signature } = signed;
        match host_bound {
            false => self.verify(shown, signature, None),
            true => hosts.iter().find_map(|host| self.verify(shown, signature, Some(host))),
        }
    }

    /// RFC 4252 §7.
    fn verify(
        &self,
        shown: &ShownKey,
        signature: &[u8],
        host_key: Option<&[u8]>,
    ) -> Option<Option<Attestation>> {
        let (algorithm, key) = shown.offer();
        let attempt = PublicKeyAttempt { algorithm, key, signature: Some(signature), host_key };
        let (session, user) = (&self.session, &*self.user);
        let room = attempt.signed_bytes_max(session, user, SERVICE_CONNECTION);
        let mut message = vec![0; room];
        let mut out = Writer::new(&mut message);
        attempt.write_signed(session, user, SERVICE_CONNECTION, &mut out).ok()?;
        shown.key.verify_attested(shown.algorithm, out.written(), signature).ok()
    }
}

/// Identifiers of sessions that a client may have signed, the last of them: for the whole process,
/// whichever edge they were of.
#[derive(Debug)]
struct Spent {
    known: BTreeSet<Mark>,
    order: VecDeque<Mark>,
}

/// What is remembered of an identifier: as much of a hash as nobody finds another for.
type Mark = [u8; 32];

fn mark(session: &[u8]) -> Mark {
    let mut mark = [0; 32];
    mark.iter_mut().zip(session).for_each(|(to, from)| *to = *from);
    mark
}

static SPENT: Mutex<Spent> = Mutex::new(Spent { known: BTreeSet::new(), order: VecDeque::new() });

impl Spent {
    fn lock() -> MutexGuard<'static, Spent> {
        SPENT.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, session: &[u8]) -> bool {
        self.known.contains(&mark(session))
    }

    fn add(&mut self, session: &[u8]) {
        if self.order.len() >= SESSIONS_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.known.insert(mark(session)) {
            self.order.push_back(mark(session));
        }
    }
}

#[cfg(test)]
mod tests;
