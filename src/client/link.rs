use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::agent::HostProof;
use super::connect::{Proxy, connect, spawn_proxy};
use super::hosts::HostCheck;
use super::identities::Identity;
use super::learning::Learner;
use super::login::{Login, Progress};
use super::patience::Patience;
use super::voice::harmless;
use super::{Lone, Options, Person, UpdateHostKeys, Voice};
use crate::base::{Instant, escape};
use crate::connection::{
    ChannelKind, ClientConnectionConfig, ConnectionConfig, Event, host_keys_hold,
};
use crate::crypto::{KeyAlgorithm, RandomPool};
use crate::limits::{CLIENT_NEWS_KEPT_MAX, FAREWELL_TIME};
use crate::reactor::{Driver, Fd};
use crate::services::Attached;
use crate::shard::{CLOSED_BY_PEER, ClientLink, News, Shard, ShardConfig};
use crate::transport::{ClientConfig, CompressionKind, Preferences, ServerConfig};
use crate::wire::channel::GlobalBody;
use crate::wire::number::disconnect;

/// One thread's worth of client: a shard, and logins on it.
///
/// ```text
/// let mut client = Client::new(driver);
/// let link = client.log_in(&options, person, &voice)?;
/// let channel = client.shard().open_channel(link, &ChannelKind::Session, Some(service));
/// loop {
///     client.turn(None)?;
///     while let Some((link, news)) = client.next_news() { … }
/// }
/// ```
///
/// Any number of links may be open at a time. What is attached to a channel
/// ([`crate::services::Attached`]) moves its bytes on the shard; everything else is news.
pub struct Client<D: Driver> {
    shard: Shard<D, Lone>,
    /// News of other links that came while one logged in.
    kept: VecDeque<(ClientLink, News)>,
    /// Every link there has been.
    links: Vec<ClientLink>,
    /// Those of them whose hosts may tell of their keys.
    learners: BTreeMap<ClientLink, Learner>,
    /// How the hosts of those that are logged in have proved who they are.
    proofs: BTreeMap<ClientLink, HostProof>,
    /// Those whose hosts may be somebody in between.
    doubtful: BTreeSet<ClientLink>,
    /// What some of them go through.
    ways: BTreeMap<ClientLink, Way>,
    /// How those have ended that others go over.
    ends: BTreeMap<ClientLink, String>,
}

/// What a connection goes through that is none of our own to the host itself.
enum Way {
    Command(Proxy),
    /// A connection to this host.
    Over(ClientLink, String),
}

impl<D: Driver> Client<D> {
    pub fn new(driver: D) -> Client<D> {
        let outside = Lone::new(driver.waker());
        let nobody = ServerConfig::new(Preferences::default(), Vec::new());
        let config = ShardConfig {
            connection: Arc::new(ConnectionConfig::new(Arc::new(nobody))),
            host_keys: Arc::new([]),
            listeners: Vec::new(),
            serial_base: 0,
            serial_step: 1,
        };
        let shard = Shard::new(driver, outside, config, Box::new(RandomPool::secure()));
        Client {
            shard,
            kept: VecDeque::new(),
            links: Vec::new(),
            learners: BTreeMap::new(),
            proofs: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            ways: BTreeMap::new(),
            ends: BTreeMap::new(),
        }
    }

    /// Connects, checks who is there, and logs in; asks the person what has to be asked.
    ///
    /// # Errors
    /// It could not be done: why, for the user.
    pub fn log_in(
        &mut self,
        options: &Options,
        person: Person,
        voice: &Voice,
    ) -> Result<ClientLink> {
        self.log_in_and_tell(options, person, voice).map(|(link, _)| link)
    }

    /// The same, and the key that the server took, if it was one.
    ///
    /// # Errors
    /// As [`Client::log_in`].
    pub fn log_in_and_tell(
        &mut self,
        options: &Options,
        person: Person,
        voice: &Voice,
    ) -> Result<(ClientLink, Option<Identity>)> {
        let hosts = HostCheck::new(options, person, voice)?;
        let config = Arc::new(connection_config(options, hosts.algorithms())?);
        let mut patience = Patience::new(options);
        let (socket, way) = match (&options.via, &options.proxy_command) {
            (Some(via), _) => {
                let before = self.log_in(via, person, voice)?;
                let name = format!("{} port {}", via.host_name, via.port);
                let socket = self.reach_over((before, &name), options, &mut patience)?;
                (socket, Some(Way::Over(before, name)))
            }
            (None, Some(command)) => {
                let (socket, proxy) = spawn_proxy(command, voice)?;
                (socket, Some(Way::Command(proxy)))
            }
            (None, None) => (connect(options, voice)?, None),
        };
        let link = self.shard.begin_client(socket, config).context("out of memory")?;
        self.ways.extend(way.map(|way| (link, way)));
        self.links.push(link);
        let mut login = Login::new(link, options, hosts, person, voice);
        let ended = self.wait_for_login(link, &mut login, &mut patience);
        if ended.is_err() {
            self.leave(link, "the login has failed");
        }
        if let Some(learner) = login.learner().filter(|_| ended.is_ok()) {
            let asks = learner.asks();
            self.learners.insert(link, learner);
            if asks {
                self.learn_first(link, voice)?;
            }
        }
        self.doubtful.extend(login.is_doubtful().then_some(link));
        self.proofs.extend(login.take_proof().map(|proof| (link, proof)));
        ended.map(|link| (link, login.into_identity()))
    }

    /// The host is known by another key than it has shown.
    pub fn is_doubtful(&self, link: ClientLink) -> bool {
        self.doubtful.contains(&link)
    }

    /// News as the shard has them. A connection that goes through something is cut off when that has
    /// ended: then this is what is told, in words that may stand in a line for the user.
    fn shard_news(&mut self) -> Option<(ClientLink, News)> {
        let (link, news) = self.shard.next_news()?;
        let News::Ended { reason } = news else { return Some((link, news)) };
        let reason = self.why_lost(link, &reason);
        let leads_on = |way: &Way| matches!(way, Way::Over(before, _) if *before == link);
        if self.ways.values().any(leads_on) {
            self.ends.insert(link, reason.clone());
        }
        Some((link, News::Ended { reason }))
    }

    fn why_lost(&mut self, link: ClientLink, reason: &str) -> String {
        let plain = escape(reason.as_bytes()).to_string();
        let is_cut = reason.ends_with(CLOSED_BY_PEER) || reason.contains("(os error ");
        let way = self.ways.get_mut(&link).filter(|_| is_cut);
        match way {
            None => plain,
            Some(Way::Command(proxy)) => proxy.end().unwrap_or(plain),
            Some(Way::Over(before, host)) => match self.ends.get(before) {
                Some(end) => format!("the connection to {host} on the way is lost: {end}"),
                None => format!("{plain} (over {host}, which is still connected)"),
            },
        }
    }

    /// What an agent is told that is lent to programs at this link's host.
    pub fn lend(&self, link: ClientLink) -> Option<Box<[u8]>> {
        self.proofs.get(&link)?.lend(self.shard.client(link)?.session_id())
    }

    fn wait_for_login(
        &mut self,
        link: ClientLink,
        login: &mut Login<'_>,
        patience: &mut Patience<'_>,
    ) -> Result<ClientLink> {
        loop {
            self.turn_patiently(link, patience)?;
            if self.hear_login(link, login)? == Progress::LoggedIn {
                return Ok(link);
            }
            if login.has_keys() {
                patience.has_keys();
            }
            if let Some(over) = patience.over() {
                bail!(login.late(&self.shard, &over));
            }
        }
    }

    /// One round in which this link's server is waited for.
    fn turn_patiently(&mut self, link: ClientLink, patience: &mut Patience<'_>) -> io::Result<()> {
        let (begun, before) = (self.now(), self.bytes_heard(link));
        self.turn(patience.left().map(|left| begun.after(left)))?;
        let waited = self.now().since(begun);
        patience.spend(waited, self.bytes_heard(link) != before);
        Ok(())
    }

    /// In whole packets.
    fn bytes_heard(&self, link: ClientLink) -> Option<u64> {
        self.shard.client(link).map(|connection| connection.stats().bytes_in)
    }

    /// Whoever is to be asked about host keys is asked before a session reads what is typed. Servers
    /// tell them first of all, so an answer to anything says that there is nothing to wait for.
    fn learn_first(&mut self, link: ClientLink, voice: &Voice) -> io::Result<()> {
        let mut waits = self.shard.ask_server_plainly(link, GlobalBody::KeepAlive.name(), true);
        while waits || self.learners.get(&link).is_some_and(|one| !one.wanted().is_empty()) {
            self.turn(None)?;
            while let Some((of, news)) = self.shard_news() {
                match news {
                    News::Heard(Event::GlobalDone { .. }) if of == link => waits = false,
                    News::Ended { reason } if of == link => {
                        self.kept.push_back((of, News::Ended { reason }));
                        return Ok(());
                    }
                    news if of == link => {
                        let news = self.learn(of, news, voice);
                        if let Some(news) = news {
                            self.keep(of, news);
                        }
                    }
                    news => self.keep(of, news),
                }
            }
        }
        self.learners.remove(&link);
        Ok(())
    }

    /// A socket whose other end is a channel to the host, over a connection that is there.
    fn reach_over(
        &mut self,
        (before, via): (ClientLink, &str),
        options: &Options,
        patience: &mut Patience<'_>,
    ) -> Result<Fd> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let (host, port) = (options.host_name.as_str(), u32::from(options.port));
        let kind = ChannelKind::DirectTcpip {
            host: host.into(),
            port,
            origin_host: "127.0.0.1".into(),
            origin_port: 65_535,
        };
        let what = format!("{host} port {port}, on the way there");
        let theirs = Fd(OwnedFd::from(theirs).into_raw_fd());
        let service = Attached::offered("direct-tcpip", what, theirs);
        let channel = self.shard.open_channel(before, &kind, Some(service));
        let channel = channel.with_context(|| format!("{via}, on the way, opens no channel"))?;
        loop {
            self.turn_patiently(before, patience)?;
            while let Some((of, news)) = self.shard_news() {
                match news {
                    News::Heard(Event::Opened { id }) if of == before && id == channel => {
                        return Ok(Fd(OwnedFd::from(ours).into_raw_fd()));
                    }
                    News::Heard(Event::OpenFailed { id, text, .. })
                        if of == before && id == channel =>
                    {
                        let text = harmless(&text);
                        bail!("{host} port {port} cannot be reached from {via}: {text}");
                    }
                    News::Ended { reason } if of == before => {
                        bail!("Connection to {via}, on the way to {host}, is lost: {reason}");
                    }
                    news => self.keep(of, news),
                }
            }
            if let Some(over) = patience.over() {
                bail!("{host} port {port} cannot be reached from {via}: no answer {over}");
            }
        }
    }

    fn hear_login(&mut self, link: ClientLink, login: &mut Login<'_>) -> Result<Progress> {
        while let Some((of, news)) = self.shard_news() {
            if of != link {
                self.keep(of, news);
                continue;
            }
            if login.hear(&mut self.shard, news)? == Progress::LoggedIn {
                return Ok(Progress::LoggedIn);
            }
        }
        Ok(Progress::Pending)
    }

    /// News that nobody takes before something else has come. A server has little to say meanwhile, and one that goes
    /// on is left: what is kept is memory.
    fn keep(&mut self, of: ClientLink, news: News) {
        let is_heard = |news: &News| matches!(news, News::Heard(_));
        if is_heard(&news) {
            let heard = self.kept.iter().filter(|(kept, news)| *kept == of && is_heard(news));
            if heard.count() >= CLIENT_NEWS_KEPT_MAX {
                return self.leave(of, "it says more than anybody has asked for");
            }
        }
        self.kept.push_back((of, news));
    }

    /// One round of the shard: [`Shard::turn`].
    ///
    /// # Errors
    /// The driver failed; nothing can go on.
    pub fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.shard.turn(until)
    }

    /// The oldest news that nobody has taken. The reason of an end is fit to be shown.
    pub fn next_news(&mut self) -> Option<(ClientLink, News)> {
        self.kept.pop_front().or_else(|| self.shard_news())
    }

    /// Takes what a server tells of its host keys and acts on it; gives other news back.
    pub fn learn(&mut self, link: ClientLink, news: News, voice: &Voice) -> Option<News> {
        let Some(learner) = self.learners.get_mut(&link) else { return Some(news) };
        match news {
            News::Heard(Event::HostKeys { keys }) => {
                // Of several connections to a host one is enough.
                let name = learner.name().clone();
                self.learners.retain(|other, one| *other == link || *one.name() != name);
                let learner = self.learners.get_mut(&link)?;
                let new = learner.told(&keys, voice);
                if new.is_empty() || !self.shard.ask_proofs(link, &new) {
                    self.learners.remove(&link);
                }
            }
            News::Heard(Event::HostKeysProved { answer }) => {
                let connection = self.shard.client(link);
                let holds = connection.zip(answer).is_some_and(|(connection, answer)| {
                    host_keys_hold(connection, learner.wanted(), &answer)
                });
                learner.proved(holds, voice);
                self.learners.remove(&link);
            }
            News::Ended { .. } => {
                self.learners.remove(&link);
                return Some(news);
            }
            news => return Some(news),
        }
        None
    }

    /// Waits a moment for proofs of host keys that were asked for, so that short sessions learn too.
    /// Other news are lost.
    ///
    /// # Errors
    /// The driver failed.
    pub fn learn_last(&mut self, voice: &Voice) -> io::Result<()> {
        let until = self.now().after(FAREWELL_TIME);
        let waits = |learner: &Learner| !learner.wanted().is_empty();
        while self.learners.values().any(waits) && self.now() < until {
            self.turn(Some(until))?;
            while let Some((link, news)) = self.next_news() {
                let _ = self.learn(link, news, voice);
            }
        }
        Ok(())
    }

    /// The driver's clock.
    pub fn now(&mut self) -> Instant {
        self.shard.driver().now()
    }

    pub const fn shard(&mut self) -> &mut Shard<D, Lone> {
        &mut self.shard
    }

    /// Ends one connection; what its channels have brought is still written.
    pub fn leave(&mut self, link: ClientLink, text: &str) {
        self.shard.leave_server(link, disconnect::BY_APPLICATION, text);
    }

    /// Ends every connection, and turns until each has said its last words.
    ///
    /// # Errors
    /// The driver failed.
    pub fn finish(&mut self) -> io::Result<()> {
        // The last one may be reached over those before it.
        while let Some(link) = self.links.pop() {
            self.leave(link, "disconnected by user");
        }
        let until = self.shard.driver().now().after(FAREWELL_TIME);
        while self.shard.links() > 0 && self.shard.driver().now() < until {
            self.turn(Some(until))?;
        }
        Ok(())
    }
}

/// What the protocol is told of these options; the host signs with one of `algorithms`.
///
/// # Errors
/// Our own name is none that can be told.
pub fn connection_config(
    options: &Options,
    algorithms: Vec<KeyAlgorithm>,
) -> Result<ClientConnectionConfig> {
    let software = concat!("Tidegate_", env!("CARGO_PKG_VERSION"));
    let Some(mut preferences) = Preferences::new(software) else {
        bail!("{software:?} cannot be our name");
    };
    preferences.kex.clone_from(&options.kex);
    preferences.ciphers.clone_from(&options.ciphers);
    preferences.macs.clone_from(&options.macs);
    if options.compression {
        preferences.compression = vec![CompressionKind::Delayed, CompressionKind::None];
    }
    (preferences.rekey.bytes, preferences.rekey.time) = options.rekey;
    let mut transport = ClientConfig::new(preferences);
    transport.host_key_algorithms = algorithms;
    let mut config = ClientConnectionConfig::new(Arc::new(transport));
    config.server_alive = options.server_alive;
    config.takes_forwarded = !options.remote_forwards.is_empty();
    config.takes_agent = options.forward_agent.is_some();
    config.takes_x11 = options.forward_x11.is_some();
    config.hears_host_keys = options.update_host_keys != UpdateHostKeys::No;
    Ok(config)
}
