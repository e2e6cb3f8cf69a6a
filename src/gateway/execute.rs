//! What worker threads do for the shards of this process.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::bounded;
use tracing::{error, info, warn};

use super::audit::{self, Auditor};
use super::logbook::{Begun, Recorder};
use super::names::Resolver;
use super::pam::Seat;
use super::policy::{Comer, Policy, Reason, Refusal, Request, Talked};
use super::signer::bureau::Bureau;
use super::signer::words::Order;
use super::startups::Startups;
use super::upstream::{Files, LoginKeys};
use super::workers::Execute;
use super::{generation, host_agent, log_level, names, upstream};
use crate::base::escape;
use crate::connection::{ConnectionConfig, Secret, Secrets, host_key_proof};
use crate::crypto::{Certificate, PrivateKey, PublicKey, RandomPool, SignatureAlgorithm, kex};
use crate::limits::{REKEY_TIME_MAX, STRANGERS_TOLD_MAX};
use crate::services::upstream::{Credential, Trouble};
use crate::services::{
    About, AccountAnswer, AuthInfo, Child, Done, Grant, Greeted, Job, Kept, Origin, Program,
    SpawnFailed, SpawnSpec, forward, open_terminal, scp, sftp, spawn,
};
use crate::shard::KeyTold;
use crate::transport::SignableExchange;

/// Makes the slow signatures of key exchanges.
pub trait Signer: Send + Sync {
    /// Signs the hash of a key exchange, or makes it of `exchange` itself where it is told that. `None`
    /// when the key cannot sign; the cause has been logged.
    fn sign(
        &self,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        hash: &[u8],
        exchange: Option<SignableExchange>,
    ) -> Option<Box<[u8]>>;

    /// Proves to the client of a session that we hold the key. What is signed is made by whoever
    /// signs, of the session and the key.
    fn prove(
        &self,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        session: &[u8],
    ) -> Option<Box<[u8]>>;
}

/// The host keys of a gateway that is one process, in the order of the connection's list.
#[derive(Default)]
pub struct OwnKeys {
    pub public: Vec<PublicKey>,
    /// `None` of those that an agent has.
    pub private: Arc<[Option<PrivateKey>]>,
    /// Its socket.
    pub agent: Option<PathBuf>,
}

impl OwnKeys {
    fn sign_with(
        &self,
        (private, public): (Option<&PrivateKey>, &PublicKey),
        algorithm: SignatureAlgorithm,
        hash: &[u8],
    ) -> Result<Vec<u8>, String> {
        if let Some(private) = private {
            return private.sign(algorithm, hash).map_err(|why| why.to_string());
        }
        let agent = self.agent.as_deref().ok_or(host_agent::GONE)?;
        let agent = host_agent::reach(agent).map_err(|why| why.to_string())?;
        Ok(host_agent::sign(&agent, public, algorithm, hash)?)
    }
}

impl Signer for OwnKeys {
    fn sign(
        &self,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        hash: &[u8],
        _exchange: Option<SignableExchange>,
    ) -> Option<Box<[u8]>> {
        let (private, public) = (self.private.get(host_key)?, self.public.get(host_key)?);
        let tell = |why: &String| {
            let fingerprint = public.fingerprint();
            error!(fingerprint, %why, "host key {fingerprint} could not sign: {why}");
        };
        let signed = self.sign_with((private.as_ref(), public), algorithm, hash);
        signed.inspect_err(tell).ok().map(Vec::into_boxed_slice)
    }

    fn prove(
        &self,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        session: &[u8],
    ) -> Option<Box<[u8]>> {
        let key = self.public.get(host_key)?;
        self.sign(host_key, algorithm, &host_key_proof(session, key), None)
    }
}

/// Somebody else signs what is ordered of him, and makes the bytes himself.
pub trait Orders: Send + Sync {
    /// Orders, and waits. `None`: it was not signed; the cause has been logged.
    fn order(&self, order: Order) -> Option<Box<[u8]>>;
}

impl<T: Orders> Signer for T {
    fn sign(
        &self,
        host_key: usize,
        _algorithm: SignatureAlgorithm,
        _hash: &[u8],
        exchange: Option<SignableExchange>,
    ) -> Option<Box<[u8]>> {
        self.order(Order::exchange(host_key, exchange)?)
    }

    fn prove(
        &self,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        session: &[u8],
    ) -> Option<Box<[u8]>> {
        self.order(Order::proof(host_key, algorithm, session)?)
    }
}

/// For shards of the process that started the signer.
impl Orders for Arc<Bureau> {
    fn order(&self, order: Order) -> Option<Box<[u8]>> {
        wait_for(self, order)
    }
}

/// Has something signed, and waits for it.
pub fn wait_for(bureau: &Bureau, order: Order) -> Option<Box<[u8]>> {
    let (answer, answered) = bounded(1);
    bureau.sign(order, Box::new(move |signature| drop(answer.send(signature))));
    answered.recv_timeout(REKEY_TIME_MAX).ok()?.map(Vec::into_boxed_slice)
}

/// The work of a process: of the one that listens, or of one that acts for an account.
pub struct Executor {
    /// Who may log in; a process that only takes logins over has none.
    pub policy: Option<Policy>,
    /// What connections hear before their login; a process that only takes logins over has none.
    pub greets: Option<Greets>,
    /// Hears of users who do not exist.
    pub startups: Option<Arc<Startups>>,
    pub signer: Arc<dyn Signer>,
    /// The keys that open hosts behind the gateway.
    pub login_keys: Arc<dyn LoginKeys>,
    /// The soft limit of open files that programs get; ours is raised.
    pub open_files: Option<u64>,
    /// Hears of sessions at terminals; without root's rights nobody can record them.
    pub recorder: Option<Arc<dyn Recorder>>,
    /// Hears who was not let in, and why.
    pub audit: Option<Arc<dyn Auditor>>,
    /// What the log has been told of users in sshd's words.
    pub told: Told,
}

/// The connections of which the log was told that their user will not get in, the last of them: once for
/// each, as with sshd, for ban lists count lines.
#[derive(Debug, Default)]
pub struct Told(Mutex<VecDeque<u64>>);

impl Told {
    fn is_first(&self, link: u64) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !told.contains(&link);
        if first {
            if told.len() >= STRANGERS_TOLD_MAX {
                told.pop_front();
            }
            told.push_back(link);
        }
        first
    }
}

impl Execute for Executor {
    fn asks_programs(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.config().asks_programs())
    }

    fn run_at_once(&self, job: &Job) -> Option<Done> {
        let Job::FindKey { user, key, algorithm, certificate, signed: None, from, about, .. } = job
        else {
            return None;
        };
        let (comer, policy) = (comer(user, from, about.host.as_deref()), self.policy.as_ref()?);
        let request = comer.with(key, *algorithm, certificate.as_deref());
        log_level::about(from.link, about.verbosity, || {
            let grant = policy.permit_at_once(&request)?;
            Some(self.permitted(policy, Ok(grant), (from.link, &comer), None))
        })
    }

    fn run(&self, job: Job) -> Done {
        match job {
            // Nothing is verified here: the answer would be a yes to a signature that nobody has looked at.
            Job::FindKey { signed: Some(_), .. } => Done::Key(None),
            Job::FindKey {
                user, key, algorithm, certificate, signed: None, from, about, ..
            } => {
                let comer = comer(&user, &from, about.host.as_deref());
                let request = comer.with(&key, algorithm, certificate.as_deref());
                log_level::about(from.link, about.verbosity, || self.find_key(&request, from.link))
            }
            Job::CheckSecrets { user, secrets, from, about } => {
                let comer = comer(&user, &from, about.host.as_deref());
                log_level::about(from.link, about.verbosity, || {
                    self.check_secrets(&comer, &secrets, (from.link, about.kept.as_ref()))
                })
            }
            Job::Converse { user, answers, from, about } => {
                self.converse(&user, answers, &from, &about)
            }
            Job::Admit { grant, from, about } => self.admit(&grant, &from, &about),
            Job::Left { user, from, about } => {
                self.left(&comer(&user, &from, about.host.as_deref()), from.link, &about);
                Done::Lost
            }
            Job::Greet { user, from } => {
                let host = self.name_of(from.peer.ip());
                self.greet(&comer(&user, &from, host.as_deref()), host.clone(), from.link)
            }
            Job::Agree { group, client_public } => {
                let agreement = kex::respond_in(&group, &client_public);
                Done::Agreement(agreement.map(|(public, secret)| (public.into(), secret)))
            }
            Job::Compute(task) => Done::Computed(task.run(&mut RandomPool::secure())),
            Job::Sign { host_key, algorithm, message, exchange, .. } => {
                Done::Signature(self.signer.sign(host_key, algorithm, &message, exchange))
            }
            Job::ProveHostKeys { session, keys } => {
                let prove = |(key, algorithm): &(usize, SignatureAlgorithm)| {
                    self.signer.prove(*key, *algorithm, &session)
                };
                Done::HostKeysProved(keys.iter().map(prove).collect())
            }
            Job::Terminal(spec) => Done::Terminal(open_terminal(&spec)),
            Job::Spawn(spec) => Done::Spawned(self.start(*spec)),
            Job::Fs(root, job) => Done::Fs(Box::new(sftp::fs::run(&root, *job))),
            Job::Scp(root, job) => Done::Scp(Box::new(scp::jobs::run(&root, *job))),
            Job::Resolve { host, port, .. } => Done::Resolved(forward::resolve(&host, port)),
            job @ (Job::FindHosts { .. }
            | Job::FindWay { .. }
            | Job::JudgeHost { .. }
            | Job::HaveLoginSigned { .. }) => self.go_on(job),
            Job::SignLogin { key, algorithm, message } => {
                let signature = key.sign(algorithm, &message).ok();
                Done::Signature(signature.map(Vec::into_boxed_slice))
            }
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
            Job::ConnectPath(path) => Done::Connected(forward::connect_to_path(&path)),
            // A gateway has no agent of its own to lend.
            Job::ConnectAgent { .. } => Done::Lost,
        }
    }
}

/// What PAM has said of a connection's login.
fn seat_of(kept: Option<&Kept>) -> Option<&Seat> {
    kept?.0.downcast_ref()
}

fn comer<'a>(user: &'a str, from: &'a Origin, host: Option<&'a str>) -> Comer<'a> {
    let Origin { peer, local, routing, .. } = from;
    Comer { user, peer: *peer, host, local: *local, rdomain: routing.name() }
}

/// What it takes to say what holds for a login before it is over.
pub struct Greets {
    /// What connections begin with.
    pub shared: Arc<ConnectionConfig>,
    /// Who knows the names of clients, where they matter.
    pub names: Option<Box<dyn Resolver>>,
}

impl Executor {
    /// Of a process that has logins from others and decides on none. `signer`: of later key exchanges.
    pub fn apart(signer: Arc<dyn Signer>) -> Executor {
        Executor {
            policy: None,
            greets: None,
            startups: None,
            signer,
            login_keys: Arc::new(Files),
            open_files: None,
            recorder: None,
            audit: None,
            told: Told::default(),
        }
    }

    /// What logins take that go on elsewhere.
    fn go_on(&self, job: Job) -> Done {
        match job {
            Job::FindHosts { upstream, .. } => Done::Hosts(match &self.policy {
                Some(policy) => policy.find_hosts(&upstream).map(Box::new),
                None => Err(Trouble::plain("no login goes on elsewhere here")),
            }),
            Job::FindWay { upstream, host, subject, .. } => {
                let subject = subject.as_deref();
                let way = upstream::find_way(&upstream, host, subject, &*self.login_keys);
                Done::Way(way.map(Box::new))
            }
            Job::JudgeHost { upstream, host, shown, .. } => {
                let certificate = shown.certificate.as_deref();
                Done::Judged(upstream::judge_host(&upstream, host, &shown.key, certificate))
            }
            Job::HaveLoginSigned { upstream, algorithm, session, .. } => {
                Done::Signature(match &upstream.credential {
                    Credential::Identity(path) => {
                        self.login_keys.sign(path, &upstream.user, algorithm, session)
                    }
                    Credential::Authority(_) | Credential::Agent => None,
                })
            }
            _ => Done::Lost,
        }
    }

    /// The name of a client, where names are looked up. Records of its logins have it.
    fn name_of(&self, peer: IpAddr) -> Option<Arc<str>> {
        let names = self.greets.as_ref().and_then(|greets| greets.names.as_deref())?;
        let host = names::of_peer(names, peer)?;
        self.recorder.iter().for_each(|recorder| recorder.named(peer, &host));
        Some(host)
    }

    fn find_key(&self, request: &Request<'_>, link: u64) -> Done {
        let Some(policy) = &self.policy else { return Done::Key(None) };
        let shown = Some((request.key, request.certificate));
        self.permitted(policy, policy.permit(request), (link, &request.comer()), shown)
    }

    fn check_secrets(
        &self,
        comer: &Comer<'_>,
        secrets: &Secrets,
        (link, kept): (u64, Option<&Kept>),
    ) -> Done {
        let Some(policy) = &self.policy else { return Done::Key(None) };
        let nowhere = Seat::default();
        let verdict = policy.permit_secrets(comer, secrets, seat_of(kept).unwrap_or(&nowhere));
        self.record_failure(&verdict, comer);
        self.permitted(policy, verdict, (link, comer), None)
    }

    /// As sshd does, of what was typed alone.
    fn record_failure(&self, verdict: &Result<Grant, Box<Refusal>>, comer: &Comer<'_>) {
        if let (Err(_), Some(recorder)) = (verdict, &self.recorder) {
            recorder.failed(comer.user, comer.peer.ip(), comer.host);
        }
    }

    /// Goes on with what modules ask.
    fn converse(
        &self,
        user: &str,
        answers: Option<Vec<Secret>>,
        from: &Origin,
        about: &About,
    ) -> Done {
        let (Some(policy), Some(seat)) = (&self.policy, seat_of(about.kept.as_ref())) else {
            return Done::Key(None);
        };
        let (link, comer) = (from.link, comer(user, from, about.host.as_deref()));
        log_level::about(link, about.verbosity, || {
            let verdict = match policy.converse(&comer, answers, seat) {
                Ok(Talked::Asks(asks)) => return Done::Asks(Box::new(asks)),
                Ok(Talked::In(grant)) => Ok(*grant),
                Err(refusal) => Err(refusal),
            };
            self.record_failure(&verdict, &comer);
            self.permitted(policy, verdict, (link, &comer), None)
        })
    }

    /// May the account of a login that has proved itself be used?
    fn admit(&self, grant: &Grant, from: &Origin, about: &About) -> Done {
        let (Some(policy), Some(seat)) = (&self.policy, seat_of(about.kept.as_ref())) else {
            return Done::Lost;
        };
        let (link, comer) = (from.link, comer(&grant.account.name, from, about.host.as_deref()));
        log_level::about(link, about.verbosity, || {
            let (outcome, text) = policy.check_account(&comer, seat);
            if let Err(why) = &outcome {
                let Comer { user, peer, .. } = comer;
                if let Some(audit) = &self.audit {
                    let (about, why) = ((link, peer), why.to_string());
                    audit.note(audit::denied(about, user, ("The account", None), &why, None));
                }
                let user = escape(user.as_bytes());
                // In sshd's words.
                info!(
                    link, %user, %peer,
                    "Access denied for user {user} by PAM account configuration: {why}"
                );
            }
            Done::Admitted(AccountAnswer { allowed: outcome.is_ok(), text: text.into() })
        })
    }

    /// Nobody gets in unheard where the configuration says so.
    fn heard(&self, policy: &Policy, grant: Grant) -> Result<Grant, Box<Refusal>> {
        let needed = self.audit.as_ref().filter(|_| policy.config().global.audit_refuses);
        match needed.and_then(|audit| audit.trouble()) {
            Some(why) => Err(Box::new(Refusal { reason: Reason::Unheard(why), notes: Vec::new() })),
            None => Ok(grant),
        }
    }

    /// `shown`: the key and what it is shown in; without, something was typed.
    fn permitted(
        &self,
        policy: &Policy,
        verdict: Result<Grant, Box<Refusal>>,
        (link, comer): (u64, &Comer<'_>),
        shown: Option<(&PublicKey, Option<&Certificate>)>,
    ) -> Done {
        match verdict.and_then(|grant| self.heard(policy, grant)) {
            Ok(mut grant) => {
                grant.open_files = self.open_files;
                if self.audit.is_some() {
                    (grant.rules.audited, grant.rules.places) = (true, policy.places(comer));
                }
                Done::Key(Some(Box::new(grant)))
            }
            Err(refusal) => {
                let Comer { user, peer, .. } = *comer;
                if let (Reason::UnknownUser, Some(startups)) = (&refusal.reason, &self.startups) {
                    startups.note_unknown_user(peer);
                }
                let told = shown.map(|(key, certificate)| KeyTold::new(key, certificate));
                let what = match &told {
                    Some(told) => format!("Key {}", told.fingerprint),
                    None => "What was typed".to_owned(),
                };
                let certified = told.as_ref().filter(|told| told.certificate.is_some());
                if let Some(audit) = &self.audit {
                    let (why, rule) = (refusal.to_string(), policy.rule_of(&refusal.reason, comer));
                    let what = (&*what, certified.and_then(|told| told.certificate.as_ref()));
                    audit.note(audit::denied((link, peer), user, what, &why, rule.as_deref()));
                }
                // With all that its certificate says.
                let what = certified.map_or(what, |told| format!("Key {}", told.text));
                self.tell_in_sshds_words(&refusal.reason, comer, link);
                let user = escape(user.as_bytes());
                info!(%user, what, %peer, "{what} does not let {user} in: {refusal}");
                Done::Key(None)
            }
        }
    }

    /// Once for each connection, whatever it tries.
    fn tell_in_sshds_words(&self, reason: &Reason, comer: &Comer<'_>, link: u64) {
        let Some(line) = reason.in_sshds_words(comer).filter(|_| self.told.is_first(link)) else {
            return;
        };
        info!(link, "{line}");
        if let (Reason::UnknownUser, Some(recorder)) = (reason, &self.recorder) {
            // Sshd does so too, and once more for what is typed.
            recorder.failed(comer.user, comer.peer.ip(), comer.host);
        }
    }

    /// Sshd knows whose login it is when the first request comes. What a client asks first, the methods, costs
    /// no look-up here; where it goes no further, that is done when it leaves.
    fn left(&self, comer: &Comer<'_>, link: u64, about: &About) {
        let Some(policy) = &self.policy else { return };
        log_level::about(link, about.verbosity, || {
            if let Err(reason) = policy.may_come(comer) {
                self.tell_in_sshds_words(&reason, comer, link);
            }
        });
    }

    fn start(&self, mut spec: SpawnSpec) -> Result<Child, SpawnFailed> {
        match spec.auth_info.as_ref().map(AuthInfo::file) {
            Some(Ok(Some(path))) => {
                spec.env.add("SSH_USER_AUTH", path.as_os_str().as_encoded_bytes());
            }
            Some(Err(why)) => {
                let user = escape(spec.account.name.as_bytes());
                warn!(%user, %why, "ExposeAuthInfo: no file can be made for {user}: {why}");
            }
            _ => {}
        }
        let child = spawn(&spec)?;
        let is_told = matches!(spec.program, Program::Notice(_));
        let terminal = spec.pty.as_ref().filter(|_| !is_told).and_then(|path| path.to_str().ok());
        if let (Some(recorder), Some(terminal)) = (&self.recorder, terminal) {
            let pid = child.pid() as u32;
            recorder.begun(&Begun { pid, terminal, account: &spec.account, peer: spec.peer });
        }
        Ok(child)
    }

    fn greet(&self, comer: &Comer<'_>, host: Option<Arc<str>>, link: u64) -> Done {
        let (Some(policy), Some(Greets { shared, .. })) = (&self.policy, &self.greets) else {
            return Done::Lost;
        };
        let (login, exists) = policy.greeting(comer);
        let own_level = policy.config().own_log_level().is_some();
        let verbosity = own_level.then(|| login.log_level.number());
        let about = About { host, verbosity, kept: None };
        if !login.refuse_connection {
            let config = Some(Arc::new(generation::greeted(shared, &login)));
            return Done::Greeted(Greeted { config, about });
        }
        if let Some(audit) = &self.audit {
            let (reason, what) = (Reason::RefuseConnection, "The connection");
            let (why, rule) = (reason.to_string(), policy.rule_of(&reason, comer));
            let about = (link, comer.peer);
            audit.note(audit::denied(about, comer.user, (what, None), &why, rule.as_deref()));
        }
        // In sshd's words, which ban lists look for.
        let Comer { user, peer, .. } = comer;
        let (user, ip, port) = (escape(user.as_bytes()), peer.ip(), peer.port());
        let invalid = if exists { "" } else { "invalid user " };
        log_level::about(link, verbosity, || {
            info!(
                %user, %ip, port,
                "administratively prohibited connection for {invalid}{user} from {ip} port {port}"
            );
        });
        Done::Greeted(Greeted { config: None, about })
    }
}
