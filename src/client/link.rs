use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::connect::connect;
use super::hosts::HostCheck;
use super::login::{Login, Progress};
use super::{Lone, Options, Person, Voice};
use crate::base::Instant;
use crate::connection::{ClientConnectionConfig, ConnectionConfig};
use crate::crypto::{KeyAlgorithm, RandomPool};
use crate::reactor::Driver;
use crate::shard::{ClientLink, News, Shard, ShardConfig};
use crate::transport::{ClientConfig, Preferences, ServerConfig};
use crate::wire::number::disconnect;

/// How long a server may take to hear our last words.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

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
        Client { shard, kept: VecDeque::new() }
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
        let hosts = HostCheck::new(options, person, voice)?;
        let config = Arc::new(connection_config(options, &hosts)?);
        let socket = connect(options, voice)?;
        let link = self.shard.begin_client(socket, config).context("out of memory")?;
        let mut login = Login::new(link, options, hosts, person, voice);
        let ended = loop {
            if let Err(why) = self.turn(None) {
                break Err(why.into());
            }
            match self.hear_login(link, &mut login) {
                Ok(Progress::Pending) => {}
                Ok(Progress::LoggedIn) => break Ok(link),
                Err(why) => break Err(why),
            }
        };
        if ended.is_err() {
            self.leave(link, "the login has failed");
        }
        ended
    }

    fn hear_login(&mut self, link: ClientLink, login: &mut Login<'_>) -> Result<Progress> {
        while let Some((of, news)) = self.shard.next_news() {
            if of != link {
                self.kept.push_back((of, news));
                continue;
            }
            if login.hear(&mut self.shard, news)? == Progress::LoggedIn {
                return Ok(Progress::LoggedIn);
            }
        }
        Ok(Progress::Pending)
    }

    /// One round of the shard: [`Shard::turn`].
    ///
    /// # Errors
    /// The driver failed; nothing can go on.
    pub fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.shard.turn(until)
    }

    /// The oldest news that nobody has taken.
    pub fn next_news(&mut self) -> Option<(ClientLink, News)> {
        self.kept.pop_front().or_else(|| self.shard.next_news())
    }

    pub const fn shard(&mut self) -> &mut Shard<D, Lone> {
        &mut self.shard
    }

    /// Ends one connection; what its channels have brought is still written.
    pub fn leave(&mut self, link: ClientLink, text: &str) {
        self.shard.leave_server(link, disconnect::BY_APPLICATION, text);
    }

    /// Turns until every connection has said its last words.
    ///
    /// # Errors
    /// The driver failed.
    pub fn finish(&mut self) -> io::Result<()> {
        let until = self.shard.driver().now().after(FAREWELL_TIME);
        while self.shard.links() > 0 && self.shard.driver().now() < until {
            self.turn(Some(until))?;
        }
        Ok(())
    }
}

/// What the protocol is told of these options.
fn connection_config(options: &Options, hosts: &HostCheck<'_>) -> Result<ClientConnectionConfig> {
    let software = concat!("Tidegate_", env!("CARGO_PKG_VERSION"));
    let Some(mut preferences) = Preferences::new(software) else {
        bail!("{software:?} cannot be our name");
    };
    preferences.kex.clone_from(&options.kex);
    preferences.ciphers.clone_from(&options.ciphers);
    preferences.macs.clone_from(&options.macs);
    let mut transport = ClientConfig::new(preferences);
    transport.host_key_algorithms =
        hosts.algorithms().into_iter().map(KeyAlgorithm::plain).collect();
    let mut config = ClientConnectionConfig::new(Arc::new(transport));
    config.server_alive = options.server_alive;
    Ok(config)
}
