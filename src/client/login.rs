//! One login: which ways in are tried, and in which order.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};

use super::hosts::HostCheck;
use super::identities::{Identities, Identity};
use super::voice::harmless;
use super::{Lone, Options, Person, Voice};
use crate::base::escape;
use crate::connection::{Answer, AuthFailed, Event, LoginMethod, Query};
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
        Login { link, options, person, voice, hosts, identities: None, untried, shown: None }
    }

    /// Acts on what the link tells.
    ///
    /// # Errors
    /// There is no way in, or the connection is lost: why, for the user.
    pub fn hear<D: Driver>(&mut self, shard: &mut Shard<D, Lone>, news: News) -> Result<Progress> {
        match news {
            News::Heard(Event::Query(query)) => self.answer(shard, query)?,
            News::Heard(Event::KeyExchanged { first: true }) => {
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
                bail!("Connection to {host} port {port} is lost: {}", escape(reason.as_bytes()));
            }
            _ => {}
        }
        Ok(Progress::Pending)
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
            Query::TrustHostKey { key, .. } => match self.hosts.judge(&key) {
                Ok(()) => Answer::Trust(true),
                Err(why) => {
                    // It hears that much before we leave.
                    shard.answer_client(self.link, Answer::Trust(false));
                    return Err(why);
                }
            },
            Query::SignLogin { algorithm, message, .. } => {
                let identity = self.shown.clone().context("a key that was not shown")?;
                let identities = self.identities.as_mut().context("no keys")?;
                match identities.sign(&identity, algorithm, &message, self.person) {
                    Ok(signature) => Answer::Signature(Some(signature)),
                    Err(why) => {
                        self.voice.error(format_args!("{why:#}"));
                        Answer::Signature(None)
                    }
                }
            }
            _ => bail!("a question that is no client's"),
        };
        shard.answer_client(self.link, answer);
        Ok(())
    }

    /// An attempt has failed, or has been the first of several that the server wants.
    fn next<D: Driver>(&mut self, shard: &mut Shard<D, Lone>, failed: &AuthFailed) -> Result<()> {
        self.shown = None;
        let methods = escape(failed.methods.as_bytes()).to_string();
        self.voice.debug(format_args!("Authentications that can continue: {methods}"));
        let takes = |name: &str| failed.methods.split(',').any(|method| method == name);
        if takes("publickey") && self.options.pubkey && self.show_next(shard)? {
            return Ok(());
        }
        let (user, host) = (escape(self.options.user.as_bytes()), &self.options.host_name);
        bail!("{user}@{host}: Permission denied ({methods}).")
    }

    /// Shows the next key. False: there is none.
    fn show_next<D: Driver>(&mut self, shard: &mut Shard<D, Lone>) -> Result<bool> {
        if self.identities.is_none() {
            let identities = Identities::gather(self.options, self.voice);
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
        match shard.log_in(self.link, &self.options.user, method) {
            true => Ok(()),
            false => bail!("the login cannot go on: the connection is lost, or memory is"),
        }
    }
}
