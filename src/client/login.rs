//! One login: which ways in are tried, and in which order.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

use super::agent::HostProof;
use super::hosts::{HostCheck, Trusted};
use super::identities::{Identities, Identity};
use super::learning::Learner;
use super::voice::harmless;
use super::{Lone, Options, Person, Voice};
use crate::base::escape;
use crate::connection::{
    Answer, AuthFailed, Connection, Event, LoginMethod, Query, Questions, Secret,
};
use crate::reactor::Driver;
use crate::shard::{ClientLink, News, Shard};

/// Whether a login goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Pending,
    LoggedIn,
}

/// A login under way on a link. It hears all of the link's news until it is over.
pub struct Login<'a> {
    link: ClientLink,
    options: &'a Options,
    person: Person,
    voice: &'a Voice,
    hosts: HostCheck<'a>,
    identities: Option<Identities>,
    untried: VecDeque<Identity>,
    /// The one that the server thinks about.
    shown: Option<Identity>,
    /// What the server takes, as it said last.
    methods: String,
    /// How far the key that it showed is believed.
    trusted: Trusted,
    /// How often a password was asked for, and how often the server was let ask.
    passwords: u32,
    conversations: u32,
    has_keys: bool,
    /// As the server has shown it first.
    proof: Option<HostProof>,
}

impl<'a> Login<'a> {
    pub fn new(
        link: ClientLink,
        options: &'a Options,
        hosts: HostCheck<'a>,
        person: Person,
        voice: &'a Voice,
    ) -> Login<'a> {
        let untried = VecDeque::new();
        Login {
            link,
            options,
            person,
            voice,
            hosts,
            identities: None,
            untried,
            shown: None,
            methods: String::new(),
            trusted: Trusted::Known,
            passwords: 0,
            conversations: 0,
            has_keys: false,
            proof: None,
        }
    }

    /// Whether keys have been agreed on.
    pub const fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Who learns of the server's other host keys, if it is believed so far.
    pub fn learner(&self) -> Option<Learner> {
        self.hosts.learner().filter(|_| self.trusted == Trusted::ByUser)
    }

    /// It is known by another key, and somebody wants to go on all the same.
    pub fn is_doubtful(&self) -> bool {
        self.trusted == Trusted::Doubtful
    }

    /// How the server has proved who it is.
    pub const fn take_proof(&mut self) -> Option<HostProof> {
        self.proof.take()
    }

    /// The key that the server has taken, if it was one.
    pub fn into_identity(self) -> Option<Identity> {
        self.shown
    }

    /// Acts on what the link tells.
    ///
    /// # Errors
    /// There is no way in, or the connection is lost: why, for the user.
    pub fn hear<D: Driver>(&mut self, shard: &mut Shard<D, Lone>, news: News) -> Result<Progress> {
        match news {
            News::Heard(Event::Query(query)) => self.answer(shard, query)?,
            News::Heard(Event::KeyExchanged { first: true }) => {
                self.has_keys = true;
                self.tell_of_keys(shard);
                self.attempt(shard, LoginMethod::None)?;
            }
            News::Heard(Event::Banner { text }) => {
                self.voice.info(harmless(&text).trim_end_matches('\n'));
            }
            News::Heard(Event::AuthFailed(failed)) => self.next(shard, &failed)?,
            News::Heard(Event::Authenticated { method, .. }) => {
                let host = &self.options.host_name;
                self.voice.say(
                    super::Level::Verbose,
                    format_args!("Authenticated to {host} using \"{method}\"."),
                );
                return Ok(Progress::LoggedIn);
            }
            News::Ended { reason } => {
                let (host, port) = (&self.options.host_name, self.options.port);
                bail!("Connection to {host} port {port} is lost: {reason}");
            }
            _ => {}
        }
        Ok(Progress::Pending)
    }

    /// The server has been waited for too long, for the user; `over`: for which time.
    pub fn late<D: Driver>(&self, shard: &Shard<D, Lone>, over: &str) -> String {
        let (host, port) = (&self.options.host_name, self.options.port);
        let asked = shard.client(self.link).and_then(Connection::login_asks);
        match asked {
            None => format!("Connection to {host} port {port}: no key exchange {over}"),
            Some(asked) => format!("Connection to {host} port {port}: no answer to {asked} {over}"),
        }
    }

    fn tell_of_keys<D: Driver>(&self, shard: &Shard<D, Lone>) {
        let Some(connection) = shard.client(self.link) else { return };
        self.voice.debug(format_args!("Remote: {}", escape(connection.peer_ident())));
        if let Some(agreed) = connection.negotiated() {
            self.voice.debug(format_args!("kex: {agreed}"));
        }
        let user = escape(self.options.user.as_bytes());
        self.voice.debug(format_args!(
            "Authenticating to {}:{} as '{user}'",
            self.options.host_name, self.options.port
        ));
    }

    fn answer<D: Driver>(&mut self, shard: &mut Shard<D, Lone>, query: Query) -> Result<()> {
        let answer = match query {
            Query::TrustHostKey { key, certificate, signature, .. } => {
                let shown = certificate.as_ref().map_or(key.blob(), |c| c.blob());
                self.proof.get_or_insert(HostProof { host_key: shown.into(), signature });
                match self.hosts.judge(&key, certificate.as_deref()) {
                    Ok(trusted) => {
                        self.trusted = trusted;
                        Answer::Trust(true)
                    }
                    Err(why) => {
                        // It hears that much before we leave.
                        shard.answer_client(self.link, Answer::Trust(false));
                        return Err(why);
                    }
                }
            }
            Query::SignLogin { algorithm, message, .. } => {
                let identity = self.shown.clone().context("a key that was not shown")?;
                let identities = self.identities.as_mut().context("no keys")?;
                let around = (self.person, self.voice);
                match identities.sign(&identity, algorithm, &message, around) {
                    Ok(signature) => Answer::Signature(Some(signature)),
                    Err(why) => {
                        self.voice.error(format_args!("{why:#}"));
                        Answer::Signature(None)
                    }
                }
            }
            Query::Ask(questions) => Answer::Said(self.answer_questions(&questions)),
            _ => bail!("a question that is no client's"),
        };
        shard.answer_client(self.link, answer);
        Ok(())
    }

    /// An attempt has failed, or has been the first of several that the server wants.
    fn next<D: Driver>(&mut self, shard: &mut Shard<D, Lone>, failed: &AuthFailed) -> Result<()> {
        self.shown = None;
        // An attempt that we gave up ourselves says nothing of what the server takes.
        if failed.methods != failed.method || self.methods.is_empty() {
            self.methods = failed.methods.to_string();
        }
        let methods = escape(self.methods.as_bytes()).to_string();
        self.voice.debug(format_args!("Authentications that can continue: {methods}"));
        if failed.partial {
            self.voice.debug(format_args!(
                "Authenticated using \"{}\" with partial success.",
                failed.method
            ));
        }
        for name in &self.options.preferred {
            if !self.methods.split(',').any(|method| method == name) {
                continue;
            }
            let options = self.options;
            let tried = match name.as_str() {
                "publickey" if options.pubkey => self.show_next(shard)?,
                "password" if options.password => self.ask_password(shard)?,
                "keyboard-interactive" if options.keyboard_interactive => self.converse(shard)?,
                _ => false,
            };
            if tried {
                return Ok(());
            }
        }
        let (user, host) = (escape(self.options.user.as_bytes()), &self.options.host_name);
        bail!("{user}@{host}: Permission denied ({methods}).")
    }

    /// Asks for the password. False: nobody can be asked, or often enough was.
    fn ask_password<D: Driver>(&mut self, shard: &mut Shard<D, Lone>) -> Result<bool> {
        if self.passwords >= self.tries() || !self.may_ask() {
            return Ok(false);
        }
        if self.passwords > 0 {
            self.voice.error("Permission denied, please try again.");
        }
        self.passwords += 1;
        let (user, host) = (escape(self.options.user.as_bytes()), &self.options.host_name);
        let question = format!("{user}@{host}'s password: ");
        let password = match &self.options.secret {
            Some(secret) => secret.clone(),
            None => {
                let Ok(password) = self.person.ask_secret(&question) else { return Ok(false) };
                Secret::new(password)
            }
        };
        self.attempt(shard, LoginMethod::Password(password))?;
        Ok(true)
    }

    /// Has the server ask. False: often enough it has.
    fn converse<D: Driver>(&mut self, shard: &mut Shard<D, Lone>) -> Result<bool> {
        if self.conversations >= self.tries() || !self.may_ask() {
            return Ok(false);
        }
        self.conversations += 1;
        self.attempt(shard, LoginMethod::Interactive)?;
        Ok(true)
    }

    /// Secrets are for hosts that are known: with StrictHostKeyChecking no, a host whose key has
    /// changed may be somebody in between.
    fn may_ask(&self) -> bool {
        let doubtful = self.trusted == Trusted::Doubtful;
        if doubtful {
            self.voice
                .error("Password authentication is disabled to avoid man-in-the-middle attacks.");
        }
        !doubtful && (!self.options.batch || self.options.secret.is_some())
    }

    /// What is known does not become another by being asked for again.
    fn tries(&self) -> u32 {
        if self.options.secret.is_some() { 1 } else { self.options.password_prompts }
    }

    /// The server's questions; what it says is shown as text and nothing else (SECURITY cases 61,
    /// 120).
    fn answer_questions(&mut self, questions: &Questions) -> Option<Vec<Secret>> {
        if let Some(secret) = &self.options.secret {
            return questions.answered_by(secret);
        }
        for text in [&questions.name, &questions.instruction] {
            if !text.is_empty() {
                self.voice.info(harmless(text).trim_end_matches('\n'));
            }
        }
        let (user, host) = (escape(self.options.user.as_bytes()), &self.options.host_name);
        let mut said = Vec::new();
        for (prompt, shown) in &questions.prompts {
            let question = format!("({user}@{host}) {}", harmless(prompt));
            let answer = match shown {
                true => self.person.ask(&question).map(|text| Zeroizing::new(text.into_bytes())),
                false => self.person.ask_secret(&question),
            };
            said.push(Secret::new(answer.ok()?));
        }
        Some(said)
    }

    /// Shows the next key. False: there is none.
    fn show_next<D: Driver>(&mut self, shard: &mut Shard<D, Lone>) -> Result<bool> {
        if self.identities.is_none() {
            let session_id = shard.client(self.link).map_or(&[][..], |client| client.session_id());
            let proof = self.proof.as_ref().map(|proof| (proof, session_id));
            let identities = Identities::gather(self.options, proof, self.voice);
            self.untried = identities.list().to_vec().into();
            self.identities = Some(identities);
        }
        while let Some(identity) = self.untried.pop_front() {
            let Some(method) = identity.method(&self.options.user_algorithms) else { continue };
            let (kind, fingerprint) = (identity.key.kind().family(), identity.key.fingerprint());
            let name = escape(identity.name.as_bytes());
            self.voice.debug(format_args!("Offering public key: {name} {kind} {fingerprint}"));
            self.shown = Some(identity);
            self.attempt(shard, method)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn attempt<D: Driver>(&self, shard: &mut Shard<D, Lone>, method: LoginMethod) -> Result<()> {
        // Of one that has ended meanwhile it is told why.
        match shard.log_in(self.link, &self.options.user, method) {
            false if shard.client(self.link).is_some() => {
                bail!("the login cannot go on: too much is under way")
            }
            _ => Ok(()),
        }
    }
}
