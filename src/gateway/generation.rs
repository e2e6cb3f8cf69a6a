//! Everything that runs under one configuration. A reload starts the next generation; the one
//! before keeps the connections it has, under the configuration they began with, and ends with the
//! last of them.

mod privileged;

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, Sender, bounded};

use self::privileged::{Edges, Relaying};
use super::audit::{Audit, Auditor};
use super::broker::Running;
use super::cipher_speed::CipherSpeeds;
use super::config::{Config, Effective, Facility, Who};
use super::desk::Greeting;
use super::execute::{Executor, Greets, OwnKeys, Signer, Told};
use super::figures::Figures;
use super::figures::roll::{GATEWAY, Presence, roll};
use super::host_keys::{self, Half, HostKeys};
use super::logbook::Logbook;
use super::monitor::Keeper;
use super::monitor::hear::Clerk;
use super::moving::{Doorway, Exit, Room};
use super::names::{self, Resolver};
use super::pam::porter::Arrival;
use super::policy::Policy;
use super::recording::Studio;
use super::relay::destination::Destinations;
use super::relay::{self, Relays};
use super::reports::Reports;
use super::server::{Server, Settings};
use super::signer;
use super::startups::{Standing, Startups};
use super::upstream::{self, Files};
use super::{host_agent, moduli};
use crate::connection::{ConnectionConfig, WindowBudget};
use crate::crypto::{Certificate, PublicKey};
use crate::limits::WINDOW_BYTES;
use crate::reactor;
use crate::transport::{self, CompressionKind, HostKey, Preferences};

/// Our software version in the identification line (RFC 4253 §4.2).
const SOFTWARE: &str = concat!("Tidegate_", env!("CARGO_PKG_VERSION"));

/// What a generation is started with.
pub struct Plan {
    pub config: Arc<Config>,
    pub keys: HostKeys,
    pub listeners: Vec<Arc<OwnedFd>>,
    pub reactors: usize,
    /// Counted from 0: connections are numbered in the log so that no two have the same number.
    pub number: u64,
    /// How long the process of an account stays without a connection.
    pub idle_time: Duration,
    /// How long an edge hears strangers before another takes its place.
    pub edge_time: Duration,
    /// The soft limit of open files that programs get; ours is raised.
    pub open_files: Option<u64>,
    /// Writes log lines until there are no more.
    pub log: fn(&Reports),
    /// Where the processes of accounts log, if not to standard error.
    pub syslog: Option<Facility>,
    /// Where logins are recorded, by root.
    pub logbook: Option<Arc<Logbook>>,
    /// Where what is done is noted, if it is.
    pub audit: Option<Arc<Audit>>,
    /// SIGHUP starts the next one.
    pub renews: bool,
    /// What sources have earned with whoever served before.
    pub standings: Vec<Standing>,
}

/// A running generation.
pub struct Generation {
    /// As root: the processes that hear strangers. Absent once they have ended.
    edges: Option<Edges>,
    /// As root: the processes that serve logins which go on elsewhere. Absent once they have ended.
    relay: Option<Relaying>,
    /// Without root. Absent once every shard has ended.
    server: Option<Server>,
    /// Closed to end the processes of accounts.
    keep: Sender<Infallible>,
    /// They end when there is nothing left for them to do.
    helpers: Vec<JoinHandle<()>>,
    startups: Arc<Startups>,
    /// As root: the processes of accounts.
    running: Option<Arc<Running>>,
    /// The same: where connections that need one come in, as long as any may.
    accounts: Option<Sender<Arrival>>,
    /// As root: where logins come in that go on elsewhere, if there are any.
    relays: Option<Arc<dyn Relays>>,
    /// What it knows their hosts by.
    destinations: Option<Destinations>,
    /// The fingerprints of its host keys, which its connections change their keys with.
    host_keys: Vec<String>,
    /// Without root: what has been counted is not forgotten when it ends.
    _presence: Option<Presence>,
    /// As root: whoever holds the host keys. The last to end, for all of them have it sign.
    _signer: Option<signer::keeper::Keeper>,
}

impl Generation {
    /// # Errors
    /// The configuration cannot be put to work, or the system lacks threads, memory or the ring.
    pub fn start(plan: Plan) -> anyhow::Result<Generation> {
        if nix::unistd::geteuid().is_root() {
            privileged::start(plan)
        } else {
            Generation::start_alone(plan)
        }
    }

    /// One process does everything, for the account that started it. Root's gateways do not begin so.
    ///
    /// # Errors
    /// As [`Generation::start`].
    pub fn start_alone(plan: Plan) -> anyhow::Result<Generation> {
        let config = plan.config;
        let offers = plan.keys.keys.iter().map(host_keys::HostKey::offer).collect();
        let connection = Arc::new(connection_config(&config, offers, (steers(&config), false))?);
        let host_keys = plan.keys.fingerprints();
        let keys = own_keys(plan.keys.keys, &config);
        let private = Arc::clone(&keys.private);
        let startups = Arc::new(Startups::new(&config.global));
        plan.standings.iter().for_each(|standing| startups.inherit(standing));
        let recorders = Arc::new(Studio::new(plan.audit.clone()));
        let audit = plan.audit.map(|audit| audit as Arc<dyn Auditor>);
        let policy = Policy::new(Arc::clone(&config));
        let destinations = Some(policy.destinations());
        let executor = Executor {
            greets: Some(Greets { shared: Arc::clone(&connection), names: names(&config) }),
            startups: Some(Arc::clone(&startups)),
            policy: Some(policy),
            signer: Arc::new(keys) as Arc<dyn Signer>,
            login_keys: Arc::new(Files),
            open_files: plan.open_files,
            recorder: None,
            audit: audit.clone(),
            told: Told::default(),
        };
        let figures = Arc::new(Figures::own(plan.reactors));
        let presence = roll().enter(GATEWAY, "", std::process::id(), Some(Arc::clone(&figures)));
        let (server, reports) = Server::start(Settings {
            listeners: plan.listeners,
            first_serial: first_serial(plan.number),
            greeting: greeting(&config, &connection),
            connection,
            host_keys: private,
            reactors: plan.reactors,
            driver: config.global.driver,
            startups: Arc::clone(&startups),
            proxies: config.global.proxies.clone().map(|all| (all, config.global.proxy_time)),
            execute: Arc::new(executor),
            uid: Some(nix::unistd::geteuid().as_raw()),
            line: None,
            mailboxes: Vec::new(),
            relay: None,
            tcp_keepalive: config.global.tcp_keep_alive,
            looks_names_up: config.global.use_dns,
            routes: config.asks_routing(),
            audit,
            recorders: Some(recorders),
            figures,
            renews: plan.renews,
            alone: false,
        })?;
        let helpers = vec![start_log(plan.log, reports)?];
        let (keep, _) = bounded(0);
        Ok(Generation {
            server: Some(server),
            destinations,
            host_keys,
            _presence: Some(presence),
            ..Generation::begun(None, keep, helpers, startups)
        })
    }

    /// One that serves nobody yet.
    fn begun(
        relay: Option<Relaying>,
        keep: Sender<Infallible>,
        helpers: Vec<JoinHandle<()>>,
        startups: Arc<Startups>,
    ) -> Generation {
        Generation {
            edges: None,
            relay,
            server: None,
            keep,
            helpers,
            startups,
            running: None,
            accounts: None,
            relays: None,
            destinations: None,
            host_keys: Vec::new(),
            _presence: None,
            _signer: None,
        }
    }

    /// The way in for connections of the program whose place this one has, as long as any are taken.
    pub fn doorway(&self) -> Option<Doorway> {
        let to = match (&self.accounts, &self.server) {
            (Some(accounts), _) => Room::Apart(accounts.clone(), self.relays.clone()),
            (None, Some(server)) => Room::Here(Box::new(server.doorway())),
            (None, None) => return None,
        };
        Some(Doorway { to, destinations: self.destinations.clone()? })
    }

    /// Connections go on in the program at the other end as soon as they can, if it has these host keys and
    /// ours are among them. `onward`: so may logins that go on elsewhere. Answers whether they do.
    pub fn move_on(&self, exit: &Arc<Exit>, host_keys: &[String], onward: bool) -> bool {
        if !self.host_keys.iter().all(|key| host_keys.contains(key)) {
            return false;
        }
        self.running.iter().for_each(|running| running.move_on(exit));
        self.server.iter().for_each(|server| server.move_on(exit));
        self.relay.iter().filter(|_| onward).for_each(|relay| relay.move_on(exit));
        true
    }

    /// Logins that have gone on elsewhere may come in.
    pub const fn has_onward(&self) -> bool {
        self.relays.is_some() || self.server.is_some()
    }

    /// The fingerprints of its host keys.
    pub fn host_keys(&self) -> &[String] {
        &self.host_keys
    }

    /// Serves a connection that was accepted elsewhere.
    pub fn adopt(&self, socket: OwnedFd) {
        match (&self.edges, &self.server) {
            (Some(edges), _) => edges.adopt(socket),
            (None, Some(server)) => server.adopt(socket),
            (None, None) => {}
        }
    }

    /// Accepts no more connections; those it has go on.
    pub fn retire(&mut self) {
        self.accounts = None;
        match (&mut self.edges, &self.relay, &self.server) {
            (Some(edges), ..) => edges.retire(),
            (None, Some(relay), _) => relay.retire(),
            (None, None, Some(server)) => server.retire(),
            (None, None, None) => {}
        }
    }

    /// What sources have earned.
    pub fn standings(&self) -> Vec<Standing> {
        self.startups.standings(reactor::now())
    }

    /// Puts another edge in the place of one that has heard strangers for long. Answers when to look again.
    pub fn renew_edge(&mut self) -> Option<Duration> {
        self.edges.as_mut()?.renew()
    }

    /// A retired generation has served its last connection.
    pub fn is_over(&mut self) -> bool {
        if let Some(edges) = self.edges.take_if(Edges::is_over) {
            edges.stop();
            // Nothing comes from it any more.
            self.retire();
        }
        if self.edges.is_none()
            && let Some(relay) = self.relay.take_if(|relay| relay.is_over())
        {
            relay.stop();
        }
        if self.edges.is_none()
            && let Some(server) = self.server.take_if(|server| server.is_over())
        {
            server.stop();
        }
        let over = self.edges.is_none() && self.relay.is_none() && self.server.is_none();
        over && self.helpers.iter().all(JoinHandle::is_finished)
    }

    /// Ends every connection and waits until that is done.
    pub fn end(self) {
        let Generation {
            edges, relay, server, keep, helpers, accounts, _presence, _signer, ..
        } = self;
        // Whoever starts processes of accounts ends with the last way to it.
        drop((keep, accounts));
        if let Some(edges) = edges {
            edges.stop();
        }
        if let Some(relay) = relay {
            relay.stop();
        }
        if let Some(server) = server {
            server.stop();
        }
        for helper in helpers {
            let _ = helper.join();
        }
    }
}

fn start_log(log: fn(&Reports), reports: Reports) -> anyhow::Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name("log".to_owned()).spawn(move || log(&reports));
    thread.context("cannot start the log thread")
}

fn steers(config: &Config) -> bool {
    config.global.cipher_steering && CipherSpeeds::of_this_cpu().favour_aes_gcm()
}

/// Connections of two generations never have the same number in the log.
const fn first_serial(generation: u64) -> u64 {
    (generation << 48) + 1
}

/// What the protocol floors need of a configuration. `steers` and `signs_elsewhere`: as in
/// [`transport::ServerConfig`].
///
/// # Errors
/// The identification line would be malformed.
pub fn connection_config(
    config: &Config,
    host_keys: Vec<HostKey>,
    (steers, signs_elsewhere): (bool, bool),
) -> anyhow::Result<ConnectionConfig> {
    let (global, login) = (&config.global, &config.login);
    let version = global.software_version.as_deref().unwrap_or(SOFTWARE);
    let software = match &global.version_addendum {
        Some(addendum) => format!("{version} {addendum}"),
        None => version.to_owned(),
    };
    let Some(mut preferences) = Preferences::new(&software) else {
        bail!(
            "TidegateSoftwareVersion and VersionAddendum do not fit an identification line (printable ASCII, 255 bytes)"
        );
    };
    preferences.kex.clone_from(&global.kex_algorithms);
    preferences.ciphers.clone_from(&global.ciphers);
    preferences.macs.clone_from(&global.macs);
    if global.compression {
        preferences.compression = CompressionKind::ALL.to_vec();
    }
    preferences.rekey = login.limits().rekey;
    preferences.first_exchange_time_max = global.login_grace;
    let mut server = transport::ServerConfig::new(preferences, host_keys);
    (server.steers, server.signs_elsewhere) = (steers, signs_elsewhere);
    server.user_algorithms = config.pubkey_algorithms_offered();
    server.moduli = moduli::load(global);
    let mut connection = ConnectionConfig::new(Arc::new(server));
    connection.banner = login.banner.as_ref().map(|banner| banner.text.to_string());
    connection.auth_tries_max = login.max_auth_tries;
    connection.chains = login.chains();
    connection.asks_codes = login.asks_codes();
    connection.talks = login.talks();
    connection.asks_accounts = login.use_pam;
    connection.asks_users = config.asks_users();
    connection.separators = upstream::separators(config.takes_targets());
    connection.window_bytes_max = global.window_max;
    connection.window_bytes = WINDOW_BYTES.min(global.window_max);
    connection.window_budget = Arc::new(WindowBudget::new(global.window_budget));
    connection.login_grace = global.login_grace;
    connection.sessions_max = login.limits().sessions_max;
    connection.client_alive = login.limits().client_alive;
    connection.delay_secret = secret()?;
    Ok(connection)
}

/// Only where Match blocks exist can a connection differ from others before its login.
fn greeting(config: &Arc<Config>, shared: &Arc<ConnectionConfig>) -> Option<Greeting> {
    if !config.has_match_blocks() {
        return None;
    }
    let (config, shared) = (Arc::clone(config), Arc::clone(shared));
    Some(Box::new(move |ends| {
        let login = config.effective(&Who {
            user: None,
            account: None,
            groups: &[],
            peer: Some(ends.peer.ip()),
            host: None,
            local: Some(ends.local),
            rdomain: ends.routing.name(),
        });
        Arc::new(greeted(&shared, &login))
    }))
}

/// What of a login's settings matters before it is over.
pub(super) fn greeted(shared: &ConnectionConfig, login: &Effective) -> ConnectionConfig {
    let mut own = shared.with_limits(login.limits());
    own.banner = login.banner.as_ref().map(|banner| banner.text.to_string());
    own.auth_tries_max = login.max_auth_tries;
    own.chains = login.chains();
    own.asks_codes = login.asks_codes();
    own.talks = login.talks();
    own
}

/// The keys of a process that does everything itself.
fn own_keys(keys: Vec<host_keys::HostKey>, config: &Config) -> OwnKeys {
    let public = keys.iter().map(|key| key.public().clone()).collect();
    let private = keys.into_iter().map(|key| match key.half {
        Half::Here(private) => Some(private),
        Half::Agents(_) => None,
    });
    let agent = config.global.host_key_agent.as_deref().and_then(host_agent::socket_of);
    OwnKeys { public, private: private.collect(), agent }
}

fn names(config: &Config) -> Option<Box<dyn Resolver>> {
    config.global.use_dns.then(|| Box::new(names::System) as Box<dyn Resolver>)
}

/// Host keys of which only the public halves are here: somebody else signs.
pub fn offers(config: &Config, keys: &[PublicKey], certificates: &[Certificate]) -> Vec<HostKey> {
    let is_next = |public: &PublicKey| {
        keys.iter().find(|key| key.kind() == public.kind()).is_some_and(|first| first != public)
    };
    keys.iter()
        .map(|public| {
            let certificate = certificates.iter().find(|one| one.key() == public);
            let algorithms = match is_next(public) {
                true => Vec::new(),
                false => host_keys::algorithms(&config.global, public, certificate.is_some()),
            };
            HostKey { public: public.clone(), certificate: certificate.cloned(), algorithms }
        })
        .collect()
}

fn secret() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("the system has no randomness")?;
    Ok(u64::from_ne_bytes(bytes))
}
