//! RFC 4252, the client's side.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::host_keys::strings;
use super::machine::malformed;
use super::server::{SERVICE_CONNECTION, SERVICE_USERAUTH};
use super::side::{Limits, Side};
use super::{
    Answer, AuthFailed, ClientConnectionConfig, Connection, Event, LoginSession, Query, Questions,
    Secret,
};
use crate::base::Instant;
use crate::crypto::keys::Certificate;
use crate::crypto::{PublicKey, ShownKey, SignatureAlgorithm};
use crate::limits::{AUTH_ROUNDS_MAX, HOST_KEYS_TOLD_MAX};
use crate::transport::{self, Client, Env, Error, Transport};
use crate::wire::auth::{
    AuthMethod, INTERACTIVE_PLAINLY, InfoRequest, InfoResponse, METHOD_INTERACTIVE,
    METHOD_PASSWORD, METHOD_PUBLIC_KEY, METHOD_PUBLIC_KEY_HOST_BOUND, PublicKeyAttempt,
    PublicKeyOk, UserAuthBanner, UserAuthFailure, UserAuthRequest, UserAuthSuccess,
};
use crate::wire::channel::{AGENT_CHANNEL, OpenKind, X11_CHANNEL, open_failure};
use crate::wire::transport::{ServiceAccept, ServiceRequest};
use crate::wire::{Message, Writer, number};

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub enum LoginMethod {
    /// Proves nothing and learns which methods there are.
    None,
    /// Asks whether the key would do, then has the owner sign ([`Query::SignLogin`]).
    PublicKey { key: Box<PublicKey>, algorithm: SignatureAlgorithm },
    /// The same with the key shown inside its certificate. What is signed, and by which key, are as
    /// without.
    Certificate { certificate: Box<Certificate>, algorithm: SignatureAlgorithm },
    /// Sends the password (RFC 4252 §8).
    Password(Secret),
    /// Has the server ask its owner ([`Query::Ask`], RFC 4256).
    Interactive,
}

impl From<ShownKey> for LoginMethod {
    fn from(shown: ShownKey) -> LoginMethod {
        let ShownKey { key, algorithm, certificate } = shown;
        match certificate {
            Some(certificate) => LoginMethod::Certificate { certificate, algorithm },
            None => LoginMethod::PublicKey { key, algorithm },
        }
    }
}

impl Connection<Client> {
    /// Sends our identification and KEXINIT.
    pub fn client(
        config: Arc<ClientConnectionConfig>,
        env: &mut Env<'_>,
    ) -> Result<Connection<Client>, Error> {
        let mut transport = Transport::new(Arc::clone(&config.transport));
        transport.start(env)?;
        let alive = config.server_alive;
        let budget = Arc::clone(&config.window_budget);
        let login = ClientLogin { config, stage: Stage::Idle { served: false } };
        Ok(Connection::with(transport, login, alive, budget, env.now))
    }

    pub(super) fn client_over(
        transport: Transport<Client>,
        config: Arc<ClientConnectionConfig>,
        now: Instant,
    ) -> Connection<Client> {
        let alive = config.server_alive;
        let budget = Arc::clone(&config.window_budget);
        let login = ClientLogin { config, stage: Stage::Done };
        Connection::with(transport, login, alive, budget, now)
    }

    /// Tries to log in as `user`. [`Event::Authenticated`] or [`Event::AuthFailed`] follows; after
    /// a failure another method may be tried. False when the first key exchange is not over, a try
    /// is under way, or the login is.
    pub fn authenticate(
        &mut self,
        user: &str,
        method: LoginMethod,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        self.check()?;
        let Stage::Idle { served } = self.login.stage else { return Ok(false) };
        if !self.transport.is_established() {
            return Ok(false);
        }
        let user = Box::from(user);
        // What a key's request says may be in extensions that come with the answer.
        let early = matches!(method, LoginMethod::None) && self.reads_on();
        let step = if served { method.first_step() } else { Step::Service { early } };
        self.login.stage = Stage::Trying(Box::new(Trying { user, method, step, rounds: 0 }));
        let asked = match served {
            true => Ok(()),
            false => {
                self.transport.send(&ServiceRequest { name: SERVICE_USERAUTH.as_bytes() }, env)
            }
        };
        let sent = asked.and_then(|()| match served || early {
            true => self.send_request(None, env),
            false => Ok(()),
        });
        sent.map(|()| true).map_err(|error| self.fail(error, env))
    }

    /// What a login has asked the server for, which has not answered, for the user. `None`: nothing.
    pub fn login_asks(&self) -> Option<&'static str> {
        let Stage::Trying(trying) = &self.login.stage else { return None };
        Some(match (trying.step, &trying.method) {
            (Step::Service { .. }, _) => "the request for ssh-userauth",
            (_, LoginMethod::None) => "authentication by none",
            (_, LoginMethod::PublicKey { .. } | LoginMethod::Certificate { .. }) => {
                "authentication by publickey"
            }
            (_, LoginMethod::Password(_)) => "authentication by password",
            (_, LoginMethod::Interactive) => "authentication by keyboard-interactive",
        })
    }

    /// The server is known to take a request of the service behind the one for it, a round trip before it has
    /// been given.
    fn reads_on(&self) -> bool {
        let ident = self.transport.peer_ident();
        transport::is_openssh(ident) || transport::is_ours(ident)
    }
}

/// Where our login stands.
#[derive(Debug)]
pub struct ClientLogin {
    config: Arc<ClientConnectionConfig>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// No try is under way. `served`: the service has been accepted.
    Idle {
        served: bool,
    },
    Trying(Box<Trying>),
    Done,
}

#[derive(Debug)]
struct Trying {
    user: Box<str>,
    method: LoginMethod,
    step: Step,
    /// Rounds of questions so far.
    rounds: u32,
}

/// What the server owes us, or our owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The service; the request for it may be followed by that of the method already (`early`).
    Service { early: bool },
    /// An opinion of the key.
    Probe,
    /// Our owner signs.
    Signature,
    /// Our owner answers so many questions.
    Answers(u32),
    /// A verdict.
    Verdict,
}

impl LoginMethod {
    const fn first_step(&self) -> Step {
        match self {
            LoginMethod::None | LoginMethod::Password(_) | LoginMethod::Interactive => {
                Step::Verdict
            }
            LoginMethod::PublicKey { .. } | LoginMethod::Certificate { .. } => Step::Probe,
        }
    }
}

impl Side for Client {
    type Login = ClientLogin;

    const IS_SERVER: bool = false;

    fn is_logged_in(login: &ClientLogin) -> bool {
        matches!(login.stage, Stage::Done)
    }

    fn is_blocked(login: &ClientLogin) -> bool {
        let waits = |step| matches!(step, Step::Signature | Step::Answers(_));
        matches!(&login.stage, Stage::Trying(trying) if waits(trying.step))
    }

    fn login_deadline(_: &ClientLogin) -> Option<Instant> {
        None
    }

    fn login_grace(_: &ClientLogin) -> Option<Instant> {
        None
    }

    fn login_timeout(_: &mut Connection<Client>, _: &mut Env<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn keys_ready(_: &mut Connection<Client>, _: &mut Env<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn login_message(
        connection: &mut Connection<Client>,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let number = payload.first().copied().unwrap_or(0);
        let bad = malformed(number);
        let step = match &connection.login.stage {
            Stage::Trying(trying) => Some(trying.step),
            Stage::Idle { .. } | Stage::Done => None,
        };
        match (number, step) {
            (number::SERVICE_ACCEPT, Some(Step::Service { .. })) => {
                let accept = ServiceAccept::parse(payload).map_err(bad)?;
                connection.service_accepted(&accept, env).map(|()| None)
            }
            (number::USERAUTH_BANNER, Some(_)) => {
                let banner = UserAuthBanner::parse(payload).map_err(bad)?;
                Ok(Some(Event::Banner { text: banner.text.into() }))
            }
            (number::USERAUTH_PK_OK, Some(Step::Probe)) => {
                let ok = PublicKeyOk::parse(payload).map_err(bad)?;
                connection.key_would_do(&ok).map(Some)
            }
            // The number is the method's own (RFC 4252 §8, RFC 4256 §3.2).
            (number::USERAUTH_PK_OK, Some(Step::Verdict)) => connection.asked(payload).map(Some),
            (number::USERAUTH_FAILURE, Some(Step::Probe | Step::Verdict)) => {
                let failure = UserAuthFailure::parse(payload).map_err(bad)?;
                Ok(connection.login_failed(&failure))
            }
            // Case 53: only in answer to an attempt that could succeed.
            (number::USERAUTH_SUCCESS, Some(Step::Verdict)) => {
                UserAuthSuccess::parse(payload).map_err(bad)?;
                Ok(connection.login_succeeded())
            }
            (number::SERVICE_REQUEST..=number::SERVICE_ACCEPT | 50..=79, _) => {
                Err(Error::PeerMisbehaved("a login message that answers nothing"))
            }
            // OpenSSH announces its other host keys before the login is over in no version we
            // know; everything of the connection protocol waits for its user.
            (number::GLOBAL_REQUEST..=number::CHANNEL_FAILURE, _) => {
                Err(Error::PeerMisbehaved("a message before the login is over"))
            }
            _ => connection.transport.unimplemented(env).map(|()| None),
        }
    }

    fn login_answer(
        connection: &mut Connection<Client>,
        answer: Answer,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let Stage::Trying(trying) = &mut connection.login.stage else { return Ok(()) };
        match (trying.step, answer) {
            (Step::Signature, Answer::Signature(Some(signature))) => {
                trying.step = Step::Verdict;
                connection.send_request(Some(&signature), env)
            }
            (Step::Answers(count), Answer::Said(Some(said))) if said.len() == count as usize => {
                trying.step = Step::Verdict;
                connection.say_answers(&said, env)
            }
            (Step::Signature, Answer::Signature(None)) | (Step::Answers(_), Answer::Said(_)) => {
                connection.give_up_attempt();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn refuses(login: &ClientLogin, kind: &OpenKind<'_>) -> Option<(u32, &'static str)> {
        // Case 94: a server opens what it was asked for and nothing else.
        match kind {
            OpenKind::ForwardedTcpip { .. } | OpenKind::ForwardedStreamlocal { .. }
                if login.config.takes_forwarded =>
            {
                None
            }
            OpenKind::Other { name: AGENT_CHANNEL, .. } if login.config.takes_agent => None,
            OpenKind::Other { name: X11_CHANNEL, .. } if login.config.takes_x11 => None,
            _ => Some((open_failure::ADMINISTRATIVELY_PROHIBITED, "not asked for")),
        }
    }

    fn host_keys_told(login: &ClientLogin, rest: &[u8]) -> Option<Box<[Box<[u8]>]>> {
        let keys = login.config.hears_host_keys.then(|| strings(rest, HOST_KEYS_TOLD_MAX))?.ok()?;
        Some(keys.into_iter().map(Box::from).collect())
    }

    fn limits(login: &ClientLogin) -> Limits {
        Limits {
            sessions_max: u32::MAX,
            window_bytes: login.config.window_bytes,
            window_bytes_max: login.config.window_bytes_max,
            packet_bytes: login.config.packet_bytes,
        }
    }
}

impl Connection<Client> {
    fn service_accepted(
        &mut self,
        accept: &ServiceAccept<'_>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        if accept.name != SERVICE_USERAUTH.as_bytes() {
            return Err(Error::PeerMisbehaved("a service we did not ask for"));
        }
        let Stage::Trying(trying) = &mut self.login.stage else { return Ok(()) };
        let early = trying.step == Step::Service { early: true };
        trying.step = trying.method.first_step();
        if early { Ok(()) } else { self.send_request(None, env) }
    }

    fn send_request(&mut self, signature: Option<&[u8]>, env: &mut Env<'_>) -> Result<(), Error> {
        let Stage::Trying(trying) = &self.login.stage else { return Ok(()) };
        let host_key = self.bound_host_key();
        let method = match (&trying.method, trying.method.offer()) {
            (LoginMethod::Password(password), _) => {
                AuthMethod::Password { password: password.bytes(), new: None }
            }
            (LoginMethod::Interactive, _) => {
                AuthMethod::Other { name: METHOD_INTERACTIVE, rest: INTERACTIVE_PLAINLY }
            }
            (_, None) => AuthMethod::None,
            (_, Some(offer)) => AuthMethod::PublicKey(PublicKeyAttempt {
                algorithm: offer.name,
                key: offer.blob,
                host_key: host_key.as_ref().map(ShownKey::blob),
                signature,
            }),
        };
        let request = UserAuthRequest { user: &trying.user, service: SERVICE_CONNECTION, method };
        self.transport.send(&request, env)
    }

    /// The server's host key, when it knows the host-bound method (OpenSSH PROTOCOL §3.1).
    fn bound_host_key(&self) -> Option<ShownKey> {
        let known = self.transport.peer_extensions().is_some_and(|known| known.hostbound);
        self.transport.shown_host_key().filter(|_| known).cloned()
    }

    fn key_would_do(&mut self, ok: &PublicKeyOk<'_>) -> Result<Event, Error> {
        let host_key = self.bound_host_key();
        let session_id = self.transport.session_id();
        let Stage::Trying(trying) = &mut self.login.stage else {
            return Err(Error::Invariant("no login under way"));
        };
        let Some(offer) = trying.method.offer() else {
            return Err(Error::PeerMisbehaved("a login message that answers nothing"));
        };
        if ok.algorithm != offer.name || ok.key != offer.blob {
            return Err(Error::PeerMisbehaved("an opinion of a key we did not offer"));
        }
        let attempt = PublicKeyAttempt {
            algorithm: offer.name,
            key: offer.blob,
            host_key: host_key.as_ref().map(ShownKey::blob),
            signature: None,
        };
        let message = attempt
            .signed_bytes(session_id, &trying.user, SERVICE_CONNECTION)
            .map_err(|_| Error::Invariant("no room for what is signed"))?;
        let (key, algorithm) = (Box::new(offer.key.clone()), offer.algorithm);
        let session = Box::new(LoginSession {
            id: session_id.into(),
            host_key: attempt.host_key.unwrap_or_default().into(),
        });
        trying.step = Step::Signature;
        Ok(Event::Query(Query::SignLogin { key, algorithm, message: message.into(), session }))
    }

    /// The server wants something else before its verdict.
    fn asked(&mut self, payload: &[u8]) -> Result<Event, Error> {
        let Stage::Trying(trying) = &mut self.login.stage else {
            return Err(Error::Invariant("no login under way"));
        };
        match trying.method {
            LoginMethod::Interactive => {}
            LoginMethod::Password(_) => {
                let why = "the server wants a new password, which is not asked for here";
                return Err(Error::PeerIncompatible(why.into()));
            }
            _ => return Err(Error::PeerMisbehaved("a login message that answers nothing")),
        }
        let request = InfoRequest::parse(payload).map_err(malformed(number::USERAUTH_PK_OK))?;
        trying.rounds += 1;
        // Case 61: prompts without end.
        if trying.rounds > AUTH_ROUNDS_MAX {
            return Err(Error::PeerMisbehaved("questions without end"));
        }
        trying.step = Step::Answers(request.prompts.len());
        Ok(Event::Query(Query::Ask(Box::new(Questions {
            name: request.name.into(),
            instruction: request.instruction.into(),
            prompts: request.prompts.iter().map(|(text, shown)| (text.into(), shown)).collect(),
        }))))
    }

    fn say_answers(&mut self, said: &[Secret], env: &mut Env<'_>) -> Result<(), Error> {
        let bytes: usize = said.iter().map(|answer| answer.bytes().len() + 4).sum();
        let mut encoded = Zeroizing::new(vec![0; bytes]);
        let mut out = Writer::new(&mut encoded);
        for answer in said {
            out.string(answer.bytes()).map_err(|_| Error::Invariant("no room for answers"))?;
        }
        let response = InfoResponse::new(said.len() as u32, &encoded);
        self.transport.send(&response, env)
    }

    /// Our owner cannot go on with it. The server is left to forget it: the next request does that.
    fn give_up_attempt(&mut self) {
        let before = std::mem::replace(&mut self.login.stage, Stage::Idle { served: true });
        let Stage::Trying(trying) = before else { return };
        let failed = AuthFailed {
            key: trying.method.key(),
            certificate: None,
            user: trying.user,
            method: trying.method.name().into(),
            probe: false,
            why: None,
            failures: 0,
            last: false,
            methods: trying.method.name().into(),
            partial: false,
        };
        self.channels.events.push_back(Event::AuthFailed(Box::new(failed)));
    }

    fn login_failed(&mut self, failure: &UserAuthFailure<'_>) -> Option<Event> {
        let before = std::mem::replace(&mut self.login.stage, Stage::Idle { served: true });
        let Stage::Trying(trying) = before else { return None };
        let failed = AuthFailed {
            key: trying.method.key(),
            certificate: None,
            user: trying.user,
            method: trying.method.name().into(),
            probe: false,
            why: None,
            failures: 0,
            last: false,
            methods: failure.methods.as_str().into(),
            partial: failure.partial,
        };
        Some(Event::AuthFailed(Box::new(failed)))
    }

    fn login_succeeded(&mut self) -> Option<Event> {
        let host_bound = self.bound_host_key().is_some();
        self.transport.authenticated();
        let before = std::mem::replace(&mut self.login.stage, Stage::Done);
        let Stage::Trying(trying) = before else { return None };
        let method = match trying.method.name() {
            METHOD_PUBLIC_KEY if host_bound => METHOD_PUBLIC_KEY_HOST_BOUND,
            name => name,
        };
        Some(Event::Authenticated {
            user: trying.user,
            method,
            key: trying.method.key(),
            verified: None,
        })
    }
}

impl LoginMethod {
    const fn name(&self) -> &'static str {
        match self {
            LoginMethod::None => "none",
            LoginMethod::Password(_) => METHOD_PASSWORD,
            LoginMethod::Interactive => METHOD_INTERACTIVE,
            LoginMethod::PublicKey { .. } | LoginMethod::Certificate { .. } => METHOD_PUBLIC_KEY,
        }
    }

    fn key(&self) -> Option<Box<PublicKey>> {
        self.offer().map(|offer| Box::new(offer.key.clone()))
    }

    fn offer(&self) -> Option<Offer<'_>> {
        match self {
            LoginMethod::None | LoginMethod::Password(_) | LoginMethod::Interactive => None,
            LoginMethod::PublicKey { key, algorithm } => {
                Some(Offer { name: algorithm.name(), blob: key.blob(), key, algorithm: *algorithm })
            }
            LoginMethod::Certificate { certificate, algorithm } => Some(Offer {
                name: algorithm.certificate_name(),
                blob: certificate.blob(),
                key: certificate.key(),
                algorithm: *algorithm,
            }),
        }
    }
}

/// A key as it is shown to the server.
struct Offer<'a> {
    name: &'static str,
    blob: &'a [u8],
    /// The key that signs, and how.
    key: &'a PublicKey,
    algorithm: SignatureAlgorithm,
}
