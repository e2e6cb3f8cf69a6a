//! RFC 4252, the server's side.

mod secrets;

use std::sync::Arc;
use std::time::Duration;

use super::machine::{LOGIN_TOO_LONG, malformed};
use super::methods::{Progress, Step};
use super::side::{Limits, Side};
use super::{
    Answer, AuthFailed, Connection, ConnectionConfig, Event, HostKeyProofs, Method, Presence,
    Proven, Query, Secret, Signed, Verified,
};
use crate::base::Instant;
use crate::crypto::{Certificate, CertificateError, KeyAlgorithm, KeyError, PublicKey, ShownKey};
use crate::limits::{
    AUTH_CHAIN_METHODS_MAX, AUTH_FAILURE_DELAY, AUTH_REQUESTS_MAX, BANNER_SENT_BYTES_MAX,
    RSA_BITS_MAX, RSA_BITS_MIN,
};
use crate::transport::{Env, Error, HostKey, Server, Transport};
use crate::wire::auth::{
    AuthMethod, InfoResponse, METHOD_INTERACTIVE, METHOD_PUBLIC_KEY, METHOD_PUBLIC_KEY_HOST_BOUND,
    PublicKeyAttempt, PublicKeyOk, UserAuthBanner, UserAuthFailure, UserAuthRequest,
    UserAuthSuccess,
};
use crate::wire::channel::{OpenKind, open_failure};
use crate::wire::number::disconnect;
use crate::wire::transport::{ServiceAccept, ServiceRequest};
use crate::wire::{Message, NameList, Writer, number};
use secrets::Prompted;

impl Connection<Server> {
    /// Whose login was asked for, while it is not over.
    pub fn user_asked(&self) -> Option<&str> {
        self.login.user()
    }

    /// What stood behind the user in the login name, `:style` or nothing: keys sign it with the user.
    pub fn style_asked(&self) -> &str {
        let Stage::Trying(trying) = &self.login.stage else { return "" };
        &trying.style
    }

    /// Whose password or code is being asked about, and by which method it came.
    pub fn secrets_asked(&self) -> Option<(&str, Method)> {
        let Stage::Trying(trying) = &self.login.stage else { return None };
        let Some(Waits::Secrets { method, .. }) = trying.waits else { return None };
        Some((trying.user.as_deref()?, method))
    }

    /// Sends our identification and, unless the configuration holds it back, our KEXINIT.
    pub fn server(
        config: Arc<ConnectionConfig>,
        env: &mut Env<'_>,
    ) -> Result<Connection<Server>, Error> {
        let mut transport = Transport::new(Arc::clone(&config.transport));
        transport.start(env)?;
        let alive = config.client_alive;
        let budget = Arc::clone(&config.window_budget);
        let grace = config.login_grace.map(|grace| env.now.after(grace));
        let login = ServerLogin { config, grace, stage: Stage::ExpectService };
        Ok(Connection::with(transport, login, alive, budget, env.now))
    }

    /// Goes on under another configuration, as a login's own settings may want it (Match).
    pub fn follow(&mut self, config: Arc<ConnectionConfig>, now: Instant) {
        self.transport.follow(Arc::clone(&config.transport));
        self.set_alive(config.client_alive, now);
        self.login.config = config;
    }

    pub(super) fn server_over(
        transport: Transport<Server>,
        config: Arc<ConnectionConfig>,
        now: Instant,
    ) -> Connection<Server> {
        let alive = config.client_alive;
        let budget = Arc::clone(&config.window_budget);
        let login = ServerLogin { config, grace: None, stage: Stage::Done };
        Connection::with(transport, login, alive, budget, now)
    }
}

/// Where a client's login stands.
#[derive(Debug)]
pub struct ServerLogin {
    config: Arc<ConnectionConfig>,
    /// The login must be over by then.
    grace: Option<Instant>,
    stage: Stage,
}

impl ServerLogin {
    pub(super) fn host_keys(&self) -> &[HostKey] {
        &self.config.transport.host_keys
    }

    /// Whose login was asked for, while it is not over.
    fn user(&self) -> Option<&str> {
        let Stage::Trying(trying) = &self.stage else { return None };
        trying.user.as_deref()
    }

    const fn is_prompted(&self) -> bool {
        matches!(&self.stage, Stage::Trying(trying) if trying.prompted.is_some())
    }
}

#[derive(Debug)]
enum Stage {
    /// RFC 4252 §4: the service must be asked for first.
    ExpectService,
    Trying(Box<Trying>),
    /// Over, with success. Nothing of the login is kept.
    Done,
}

#[derive(Debug, Default)]
struct Trying {
    /// Of the first request; it may not change (case 54).
    user: Option<Box<str>>,
    /// What stood behind it.
    style: Box<str>,
    requests: u32,
    failures: u32,
    waits: Option<Waits>,
    progress: Progress,
    /// Keys that have counted; none counts twice (case 57).
    used: Vec<PublicKey>,
    /// Some method has succeeded.
    partly: bool,
    /// Prompts that wait for their answers; another request takes them back (RFC 4256 §3.1).
    prompted: Option<Prompted>,
}

#[derive(Debug)]
enum Waits {
    /// For somebody to say whether the key may log in.
    Key(Box<KeyAttempt>),
    /// For somebody to say whether a password or a code is right.
    Secrets { asked_at: Instant, method: Method },
    /// For a refusal to become due, whatever its cause.
    Refusal { at: Instant },
    /// For somebody to say whether the account may be used. Until then nothing of the last method counts.
    Account { asked_at: Instant, proven: Box<Proven>, before: Progress },
    /// For what holds for this user; the request that named it is answered then.
    Greeting { asked_at: Instant, request: Secret },
}

#[derive(Debug)]
struct KeyAttempt {
    asked_at: Instant,
    shown: ShownKey,
    method: &'static str,
    /// What was signed, and the signature; a probe has none.
    proof: Option<Proof>,
}

#[derive(Debug)]
struct Proof {
    /// None where whoever answers has verified it.
    message: Option<Box<[u8]>>,
    signature: Box<[u8]>,
}

impl Side for Server {
    type Login = ServerLogin;

    const IS_SERVER: bool = true;

    fn is_logged_in(login: &ServerLogin) -> bool {
        matches!(login.stage, Stage::Done)
    }

    fn is_blocked(login: &ServerLogin) -> bool {
        matches!(&login.stage, Stage::Trying(trying) if trying.waits.is_some())
    }

    fn login_deadline(login: &ServerLogin) -> Option<Instant> {
        let refusal = match &login.stage {
            Stage::Done => return None,
            Stage::Trying(trying) => match trying.waits {
                Some(Waits::Refusal { at }) => Some(at),
                _ => None,
            },
            Stage::ExpectService => None,
        };
        [login.grace, refusal].into_iter().flatten().min()
    }

    fn login_grace(login: &ServerLogin) -> Option<Instant> {
        login.grace.filter(|_| !matches!(login.stage, Stage::Done))
    }

    fn login_timeout(connection: &mut Connection<Server>, env: &mut Env<'_>) -> Result<(), Error> {
        if connection.login.grace.is_some_and(|at| at <= env.now) {
            return Err(Error::Deadline(LOGIN_TOO_LONG));
        }
        if let Stage::Trying(trying) = &mut connection.login.stage
            && matches!(trying.waits, Some(Waits::Refusal { at }) if at <= env.now)
        {
            trying.waits = None;
            return connection.refuse_now(env);
        }
        Ok(())
    }

    fn keys_ready(_: &mut Connection<Server>, _: &mut Env<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn login_message(
        connection: &mut Connection<Server>,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let number = payload.first().copied().unwrap_or(0);
        let done = Server::is_logged_in(&connection.login);
        match number {
            number::SERVICE_REQUEST if !done => {
                let request = ServiceRequest::parse(payload).map_err(malformed(number))?;
                connection.service_asked(&request, env).map(|()| None)
            }
            number::USERAUTH_REQUEST if !done => {
                let request = UserAuthRequest::parse(payload).map_err(malformed(number))?;
                connection.attempt(&request, payload, env)
            }
            // RFC 4252 §5.1: further requests after success are silently ignored.
            number::USERAUTH_REQUEST => Ok(None),
            number::SERVICE_REQUEST => connection.transport.unimplemented(env).map(|()| None),
            number::USERAUTH_INFO_RESPONSE if connection.login.is_prompted() => {
                let response = InfoResponse::parse(payload).map_err(malformed(number))?;
                connection.prompts_answered(&response, env.now)
            }
            // Messages only a server sends (case 52), answers to nothing we asked (case 60), and
            // the connection protocol before there is a user (case 51).
            number::SERVICE_ACCEPT | 51..=79 => {
                Err(Error::PeerMisbehaved("a message that a client does not send"))
            }
            number::GLOBAL_REQUEST..=number::CHANNEL_FAILURE => {
                Err(Error::PeerMisbehaved("a message before the login is over"))
            }
            _ => connection.transport.unimplemented(env).map(|()| None),
        }
    }

    fn login_answer(
        connection: &mut Connection<Server>,
        answer: Answer,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let Stage::Trying(trying) = &mut connection.login.stage else { return Ok(()) };
        match (trying.waits.take(), answer) {
            (Some(Waits::Key(attempt)), Answer::Key(found)) => {
                connection.key_judged(*attempt, found.then_some(Presence::TOUCH), env)
            }
            (Some(Waits::Key(attempt)), Answer::KeyIf(presence)) => {
                connection.key_judged(*attempt, Some(presence), env)
            }
            (Some(Waits::Secrets { asked_at, method }), Answer::Key(right)) => {
                connection.secrets_judged(method, right, asked_at, env)
            }
            (
                Some(Waits::Secrets { method: Method::KeyboardInteractive, .. }),
                Answer::Asks(asks),
            ) => connection.ask_on(&asks, env),
            (Some(Waits::Secrets { asked_at, method }), Answer::KeyIf(_)) => {
                connection.secrets_judged(method, true, asked_at, env)
            }
            (
                Some(Waits::Account { asked_at, proven, before }),
                Answer::Admitted { allowed, text },
            ) => connection.admitted(*proven, (allowed, &text), (asked_at, before), env),
            (Some(Waits::Greeting { asked_at, request }), Answer::Greeted(config)) => {
                connection.login.config = config;
                connection.greeted(asked_at, request.bytes(), env)
            }
            (waits, _) => {
                trying.waits = waits;
                Ok(())
            }
        }
    }

    fn refuses(_: &ServerLogin, kind: &OpenKind<'_>) -> Option<(u32, &'static str)> {
        match kind {
            OpenKind::Session
            | OpenKind::DirectTcpip { .. }
            | OpenKind::DirectStreamlocal { .. } => None,
            _ => Some((open_failure::UNKNOWN_CHANNEL_TYPE, "unknown channel type")),
        }
    }

    fn proofs_wanted(connection: &mut Connection<Server>, rest: &[u8]) -> Option<HostKeyProofs> {
        connection.proofs_wanted(rest)
    }

    fn limits(login: &ServerLogin) -> Limits {
        Limits {
            sessions_max: login.config.sessions_max,
            window_bytes: login.config.window_bytes,
            window_bytes_max: login.config.window_bytes_max,
            packet_bytes: login.config.packet_bytes,
        }
    }
}

impl Connection<Server> {
    fn service_asked(
        &mut self,
        request: &ServiceRequest<'_>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        match &mut self.login.stage {
            stage @ Stage::ExpectService => *stage = Stage::Trying(Box::default()),
            // Asking again is odd and costs a request.
            Stage::Trying(trying) => trying.requests += 1,
            Stage::Done => {}
        }
        if request.name != SERVICE_USERAUTH.as_bytes() {
            let error = Error::PeerMisbehaved("this service is not offered");
            return Err(self.fail_with(disconnect::SERVICE_NOT_AVAILABLE, error, env));
        }
        self.check_requests()?;
        self.transport.send(&ServiceAccept { name: request.name }, env)
    }

    /// RFC 4252 §5: one request. Whether the user exists is not known here and decides nothing but
    /// the answer to [`Query::FindKey`].
    fn attempt(
        &mut self,
        request: &UserAuthRequest<'_>,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let asks = self.login.config.asks_users;
        let Stage::Trying(trying) = &mut self.login.stage else {
            return Err(Error::PeerMisbehaved("a login before its service was asked for"));
        };
        trying.requests += 1;
        trying.prompted = None;
        let (user, style) = split_style(request.user, self.login.config.separators);
        let first = trying.user.is_none();
        if first {
            (trying.user, trying.style) = (Some(user.into()), style.into());
        }
        if trying.user.as_deref() != Some(user) || *trying.style != *style {
            return Err(Error::PeerMisbehaved(NAME_CHANGED));
        }
        if first && asks {
            trying.waits =
                Some(Waits::Greeting { asked_at: env.now, request: Secret::copy(payload) });
        }
        self.check_requests()?;
        if request.service != SERVICE_CONNECTION {
            let error = Error::PeerMisbehaved("this service is not offered");
            return Err(self.fail_with(disconnect::SERVICE_NOT_AVAILABLE, error, env));
        }
        if first && asks {
            return Ok(Some(Event::Query(Query::Greet { user: user.into() })));
        }
        if first {
            self.send_banner(env)?;
            // Nothing is looked up for it, so there is nothing to hide. The first one is how a
            // client asks which methods there are, and is no failure.
            if matches!(request.method, AuthMethod::None) {
                return self.send_failure(false, env).map(|()| None);
            }
        }
        self.method_asked(request, env)
    }

    /// The first request, once it is known what holds for its user. Accounts were looked up for
    /// that, so no answer to it leaves at once.
    fn greeted(
        &mut self,
        asked_at: Instant,
        request: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let parsed = UserAuthRequest::parse(request);
        let request = parsed.map_err(malformed(number::USERAUTH_REQUEST))?;
        self.send_banner(env)?;
        if matches!(request.method, AuthMethod::None) {
            self.refuse_later(asked_at, env.now);
            return Ok(());
        }
        let event = self.method_asked(&request, env)?;
        self.channels.events.extend(event);
        Ok(())
    }

    fn method_asked(
        &mut self,
        request: &UserAuthRequest<'_>,
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        match &request.method {
            AuthMethod::None => {
                self.count_failure("none", None, false);
                self.refuse_now(env).map(|()| None)
            }
            AuthMethod::PublicKey(attempt) if self.allows(Method::PublicKey) => {
                self.key_attempt(request, attempt, env.now)
            }
            AuthMethod::Password { password, new } if self.allows(Method::Password) => {
                Ok(self.password_attempt(password, new.is_some(), env.now))
            }
            AuthMethod::Other { name: METHOD_INTERACTIVE, rest }
                if self.allows(Method::KeyboardInteractive) =>
            {
                self.interactive_attempt(rest, env)
            }
            method => {
                self.count_failure(method.name(), None, false);
                self.refuse_later(env.now, env.now);
                Ok(None)
            }
        }
    }

    fn key_attempt(
        &mut self,
        request: &UserAuthRequest<'_>,
        attempt: &PublicKeyAttempt<'_>,
        now: Instant,
    ) -> Result<Option<Event>, Error> {
        let method = AuthMethod::PublicKey(*attempt).name();
        let probe = attempt.signature.is_none();
        let shown = match self.usable_key(attempt) {
            Ok(shown) => shown,
            Err(why) => {
                self.count_failure_of(method, None, probe, Some(why));
                self.refuse_later(now, now);
                return Ok(None);
            }
        };
        let (user, _) = split_style(request.user, self.login.config.separators);
        if user.is_empty() || request.user.contains(|c: char| c.is_control()) {
            self.count_failure(method, Some(shown), probe);
            self.refuse_later(now, now);
            return Ok(None);
        }
        let elsewhere = self.login.config.verifies_elsewhere && !shown.key.kind().is_security();
        let proof = attempt.signature.map(|signature| {
            if elsewhere {
                return Proof { message: None, signature: signature.into() };
            }
            let session_id = self.transport.session_id();
            let (name, service) = (request.user, request.service);
            let mut message = vec![0; attempt.signed_bytes_max(session_id, name, service)];
            let mut out = Writer::new(&mut message);
            // On the impossible lack of room the message is cut short and verifies nothing.
            let _ = attempt.write_signed(session_id, name, service, &mut out);
            let len = out.len();
            message.truncate(len);
            Proof { message: Some(message.into()), signature: signature.into() }
        });
        let host_bound = attempt.host_key.is_some();
        let signed = attempt.signature.filter(|_| elsewhere);
        let signed =
            signed.map(|signature| Box::new(Signed { host_bound, signature: signature.into() }));
        let method = if host_bound { METHOD_PUBLIC_KEY_HOST_BOUND } else { METHOD_PUBLIC_KEY };
        let ShownKey { key, algorithm, certificate } = shown.clone();
        if let Stage::Trying(trying) = &mut self.login.stage {
            let attempt = KeyAttempt { asked_at: now, shown, method, proof };
            trying.waits = Some(Waits::Key(Box::new(attempt)));
        }
        let user = user.into();
        Ok(Some(Event::Query(Query::FindKey { user, key, algorithm, certificate, signed })))
    }

    /// The key of an attempt, if it is one we would take from somebody: well formed, signing in a
    /// way we accept, and in the host-bound method bound to the host key in use. Otherwise why not.
    fn usable_key(&self, attempt: &PublicKeyAttempt<'_>) -> Result<ShownKey, &'static str> {
        let algorithm = KeyAlgorithm::from_name(attempt.algorithm).ok_or(UNKNOWN_ALGORITHM)?;
        let shown =
            ShownKey::read(algorithm, attempt.key).ok_or_else(|| unreadable(attempt.key))?;
        if !self.login.config.user_algorithms.contains(&shown.algorithm) {
            return Err(UNKNOWN_ALGORITHM);
        }
        if self.is_used(&shown.key) {
            return Err("the key has counted for this login already");
        }
        let ours = || self.transport.shown_host_key().map(|ours| ours.blob());
        match attempt.host_key {
            Some(host_key) if ours() != Some(host_key) => Err("it is bound to another host key"),
            _ => Ok(shown),
        }
    }

    /// The key has counted for an earlier method of the same login, in whatever certificate.
    fn is_used(&self, key: &PublicKey) -> bool {
        matches!(&self.login.stage, Stage::Trying(trying) if trying.used.contains(key))
    }

    /// `found`: the key may log in, if it attests this.
    fn key_judged(
        &mut self,
        attempt: KeyAttempt,
        found: Option<Presence>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let KeyAttempt { asked_at, shown, method, proof } = attempt;
        let (Some(presence), Some(proof)) = (found, &proof) else {
            if found.is_some() {
                let (algorithm, key) = shown.offer();
                return self.transport.send(&PublicKeyOk { algorithm, key }, env);
            }
            self.count_failure(method, Some(shown), proof.is_none());
            self.refuse_later(asked_at, env.now);
            return Ok(());
        };
        // Case 55: what is judged is the key that signed, here and nowhere else.
        let verified = match &proof.message {
            Some(message) => shown.key.verify_attested(shown.algorithm, message, &proof.signature),
            None => Ok(None),
        };
        let lacks = verified
            .ok()
            .map(|attestation| attestation.and_then(|attestation| presence.lacks(attestation)));
        match (verified, lacks) {
            (Ok(attestation), Some(None)) => {
                let signature = proof.signature.clone();
                let verified = Some(Box::new(Verified { signature, attestation }));
                let proven = Proven { method, key: Some(shown.key), verified };
                self.succeeded(Method::PublicKey, proven, asked_at, env)
            }
            (_, lacks) => {
                self.count_failure_of(method, Some(shown), false, lacks.flatten());
                self.refuse_later(asked_at, env.now);
                Ok(())
            }
        }
    }

    /// A method has succeeded: the login is over, or goes on with others.
    fn succeeded(
        &mut self,
        method: Method,
        proven: Proven,
        asked_at: Instant,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let Stage::Trying(trying) = &mut self.login.stage else { return Ok(()) };
        let before = trying.progress.clone();
        match trying.progress.advance(&self.login.config.chains, method) {
            Step::NotNext => {
                self.count_failure(proven.method, None, false);
                self.refuse_later(asked_at, env.now);
                Ok(())
            }
            Step::Partial => {
                trying.partly = true;
                let Proven { method, key, verified } = proven;
                trying.used.extend(key.as_deref().cloned());
                let user = trying.user.clone().unwrap_or_default();
                let event = Event::Partial { user, method, key, verified };
                self.channels.events.push_back(event);
                self.send_failure(true, env)
            }
            Step::Over if self.login.config.asks_accounts => {
                let user = trying.user.clone().unwrap_or_default();
                let proven = Box::new(proven);
                let query = Query::Admit { user, proven: proven.clone() };
                trying.waits = Some(Waits::Account { asked_at, proven, before });
                self.channels.events.push_back(Event::Query(query));
                Ok(())
            }
            Step::Over => self.let_in(proven, env),
        }
    }

    fn let_in(&mut self, proven: Proven, env: &mut Env<'_>) -> Result<(), Error> {
        let Stage::Trying(trying) = &mut self.login.stage else { return Ok(()) };
        let user = trying.user.take().unwrap_or_default();
        self.transport.send(&UserAuthSuccess, env)?;
        self.transport.authenticated();
        self.login.stage = Stage::Done;
        let Proven { method, key, verified } = proven;
        let event = Event::Authenticated { user, method, key, verified };
        self.channels.events.push_back(event);
        Ok(())
    }

    /// Somebody has said whether the account may be used. If not, the last method has failed.
    fn admitted(
        &mut self,
        proven: Proven,
        (allowed, text): (bool, &str),
        (asked_at, before): (Instant, Progress),
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        if !text.is_empty() {
            self.send_text(text, env)?;
        }
        if allowed {
            return self.let_in(proven, env);
        }
        if let Stage::Trying(trying) = &mut self.login.stage {
            trying.progress = before;
        }
        let shown = proven.key.and_then(|key| ShownKey::of_blob(key.blob()));
        self.count_failure_of(proven.method, shown, false, Some("the account may not be used"));
        self.refuse_later(asked_at, env.now);
        Ok(())
    }

    fn check_requests(&self) -> Result<(), Error> {
        match &self.login.stage {
            Stage::Trying(trying) if trying.requests > AUTH_REQUESTS_MAX => Err(TOO_MANY),
            _ => Ok(()),
        }
    }

    fn count_failure(&mut self, method: &str, shown: Option<ShownKey>, probe: bool) {
        self.count_failure_of(method, shown, probe, None);
    }

    fn count_failure_of(
        &mut self,
        method: &str,
        shown: Option<ShownKey>,
        probe: bool,
        why: Option<&'static str>,
    ) {
        let Stage::Trying(trying) = &mut self.login.stage else { return };
        trying.failures += 1;
        let (key, certificate) = shown.map(|shown| (shown.key, shown.certificate)).unzip();
        let failed = AuthFailed {
            user: trying.user.clone().unwrap_or_default(),
            method: method.into(),
            key,
            certificate: certificate.flatten(),
            probe,
            why,
            failures: trying.failures,
            last: trying.failures >= self.login.config.auth_tries_max,
            methods: Box::default(),
            partial: false,
        };
        self.channels.events.push_back(Event::AuthFailed(Box::new(failed)));
    }

    /// A refusal leaves at a time that depends on the user's name and on nothing that was found
    /// out about it. Work that took longer than the delay doubles it, so that what an observer
    /// sees stays coarse.
    fn refuse_later(&mut self, asked_at: Instant, now: Instant) {
        let secret = self.login.config.delay_secret;
        let Stage::Trying(trying) = &mut self.login.stage else { return };
        let user = trying.user.as_deref().unwrap_or_default();
        let mut delay = AUTH_FAILURE_DELAY + jitter(secret, user);
        while asked_at.after(delay) < now && delay < DELAY_MAX {
            delay *= 2;
        }
        trying.waits = Some(Waits::Refusal { at: asked_at.after(delay) });
    }

    fn refuse_now(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        match &self.login.stage {
            Stage::Trying(trying) if trying.failures >= self.login.config.auth_tries_max => {
                Err(TOO_MANY)
            }
            _ => self.send_failure(false, env),
        }
    }

    /// Says which methods may go on. `partial`: the last one succeeded.
    fn send_failure(&mut self, partial: bool, env: &mut Env<'_>) -> Result<(), Error> {
        let Stage::Trying(trying) = &self.login.stage else { return Ok(()) };
        let next = trying.progress.next(&self.login.config.chains).map(Method::name);
        let names = next.collect::<Vec<_>>().join(",");
        let methods = NameList::new(names.as_bytes()).unwrap_or(NameList::EMPTY);
        self.transport.send(&UserAuthFailure { methods, partial }, env)
    }

    fn allows(&self, method: Method) -> bool {
        let Stage::Trying(trying) = &self.login.stage else { return false };
        trying.progress.allows(&self.login.config.chains, method)
    }

    fn send_banner(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        let Some(banner) = self.login.config.banner.clone() else { return Ok(()) };
        self.send_text(&banner, env)
    }

    /// RFC 4252 §5.4.
    fn send_text(&mut self, banner: &str, env: &mut Env<'_>) -> Result<(), Error> {
        let end = (0..=banner.len().min(BANNER_SENT_BYTES_MAX)).rev();
        let text = end.into_iter().find_map(|end| banner.get(..end)).unwrap_or_default();
        let banner = UserAuthBanner { text, language: "" };
        self.transport.send(&banner, env)
    }
}

/// The user of a login name, and what stands behind him: `:style`, as for sshd up to the end, or nothing. Styles were for
/// BSD's ways to authenticate; there are none here, and whoever names one logs in as without.
pub fn split_style<'a>(name: &'a str, separators: &[char]) -> (&'a str, &'a str) {
    match name.find(|c: char| c == ':' || separators.contains(&c)) {
        Some(at) if name.get(at..).is_some_and(|rest| rest.starts_with(':')) => name.split_at(at),
        _ => (name, ""),
    }
}

/// What is wrong with a key that cannot be read.
fn unreadable(blob: &[u8]) -> &'static str {
    let certified = Certificate::from_blob(blob).err();
    match (PublicKey::from_blob(blob).err(), certified) {
        (Some(KeyError::RsaSize(_)), _) => RSA_SIZE,
        (_, Some(CertificateError::Key(KeyError::RsaSize(_)))) => RSA_SIZE,
        (_, Some(CertificateError::SignedWith(_))) => {
            "its certificate is signed in a way that never counts, as with SHA-1 (ssh-rsa)"
        }
        (_, Some(CertificateError::Authority(KeyError::RsaSize(_)))) => {
            "its certificate's authority has an RSA key of fewer than 2048 bits, or of more than 8192"
        }
        _ => "it is damaged, or not of the type that it is offered as",
    }
}

/// Up to four milliseconds, the same for a name every time.
fn jitter(secret: u64, user: &str) -> Duration {
    let start = 0xcbf2_9ce4_8422_2325 ^ secret;
    let hash = user
        .bytes()
        .fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    Duration::from_nanos(hash.rotate_left(23).wrapping_mul(secret | 1) % 4_000_000)
}

/// RFC 4253 §10.
pub(super) const SERVICE_USERAUTH: &str = "ssh-userauth";
/// RFC 4253 §10.
pub const SERVICE_CONNECTION: &str = "ssh-connection";

/// A login remembers no more keys than a chain has methods.
const _: () = assert!(AUTH_CHAIN_METHODS_MAX <= u8::MAX as usize);
const TOO_MANY: Error = Error::PeerMisbehaved("Too many authentication failures");
/// In sshd's words, which ban lists know.
const NAME_CHANGED: &str = "Change of username or service not allowed: another name than at first";
const UNKNOWN_ALGORITHM: &str = "its algorithm is not known, or not accepted";
const RSA_SIZE: &str = "an RSA key of fewer than 2048 bits, or of more than 8192";
const _: () = assert!(RSA_BITS_MIN == 2048 && RSA_BITS_MAX == 8192);
/// Past this much work for one refusal its time gives nothing away any more.
const DELAY_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_end_before_targets() {
        let plain = |name| split_style(name, &[]);
        assert_eq!((plain("ann"), plain("")), (("ann", ""), ("", "")));
        assert_eq!((plain("ann:a:b"), plain(":a")), (("ann", ":a:b"), ("", ":a")));
        assert_eq!((plain("ann:"), plain("ann%a:b")), (("ann", ":"), ("ann%a", ":b")));
        let names = |name| split_style(name, &['%', '+']);
        assert_eq!(
            (names("ann%web1:22"), names("ann+[::1]:22")),
            (("ann%web1:22", ""), ("ann+[::1]:22", ""))
        );
        assert_eq!((names("ann:a%web1"), names("ann:a")), (("ann", ":a%web1"), ("ann", ":a")));
    }

    #[test]
    fn delays_depend_on_the_name_and_the_secret_alone() {
        for user in ["", "root", "a-user-that-is-not-there"] {
            assert_eq!(jitter(7, user), jitter(7, user));
            assert!(jitter(7, user) < Duration::from_millis(4));
        }
        let spread: std::collections::BTreeSet<_> =
            (0..64).map(|n| jitter(7, &format!("user{n}")).as_micros() / 500).collect();
        assert!(spread.len() >= 6, "{spread:?}");
        assert_ne!(jitter(7, "root"), jitter(8, "root"));
    }
}
