//! From a configuration to a running gateway, and to its end.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, bounded};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use tracing::{info, warn};

use super::broker::{self, BrokerConfig};
use super::config::{Config, Effective, Who};
use super::desk::Greeting;
use super::execute::{Executor, Signer};
use super::host_keys::{self, HostKeys};
use super::listen;
use super::policy::Policy;
use super::server::{Server, Settings, addresses};
use super::startups::Startups;
use crate::connection::ConnectionConfig;
use crate::crypto::{PrivateKey, PublicKey};
use crate::limits::{DELEGATE_IDLE_TIME, HAND_OVERS_MAX};
use crate::services;
use crate::shard::Report;
use crate::transport::{self, HostKey, Preferences};

/// Our software version in the identification line (RFC 4253 §4.2).
const SOFTWARE: &str = concat!("Tidegate_", env!("CARGO_PKG_VERSION"));

/// What the command line adds to a configuration.
pub struct Options {
    /// Called once when everything listens, with the addresses and the host keys.
    pub ready: fn(&[SocketAddr], &HostKeys),
    /// Writes log lines until the gateway has ended.
    pub log: fn(&Receiver<Report>),
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Something the configuration names cannot be had: a port, a host key, the driver.
pub fn run(config: Config, options: &Options) -> anyhow::Result<()> {
    // Before any thread exists, so that all inherit the mask and none is interrupted.
    let signals = block_signals()?;
    services::prepare().context("cannot prepare for starting programs")?;
    let config = Arc::new(config);
    let state = host_keys::state_directory(is_root(), |name| std::env::var_os(name));
    let mut keys =
        host_keys::load(&config.global, config.login.required_rsa_size, state.as_deref())?;
    for warning in config.warnings.iter().map(ToString::to_string).chain(keys.warnings.drain(..)) {
        warn!("{warning}");
    }
    let offers = keys.keys.iter().map(host_keys::HostKey::offer).collect();
    let connection = Arc::new(connection_config(&config, &config.login, offers)?);
    let greeting = greeting(&config, &connection);
    let listeners = listen_all(&config)?;
    let _pid_file = config.global.pid_file.as_deref().map(PidFile::write);
    let open_files = raise_open_files();
    let addresses = addresses(&listeners);
    (options.ready)(&addresses, &keys);
    let private: Arc<[PrivateKey]> = keys.keys.into_iter().map(|key| key.private).collect();
    let reactors = reactors(&config);
    let policy = Policy::new(Arc::clone(&config));
    let (broker, broker_thread) = start_broker(&config, &private, reactors)?;
    let executor = Executor {
        policy: Some(policy),
        signer: Arc::new(Arc::clone(&private)) as Arc<dyn Signer>,
        open_files,
    };
    let startups = config.global.max_startups;
    let (server, reports) = Server::start(Settings {
        listeners,
        connection,
        host_keys: private,
        reactors,
        driver: config.global.driver,
        startups: Startups::new(startups.start, startups.rate, startups.full),
        execute: Arc::new(executor),
        broker,
        tcp_keepalive: config.global.tcp_keep_alive,
        greeting,
    })?;
    let log = options.log;
    let log = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || log(&reports))
        .context("cannot start the log thread")?;
    info!("Serving with {reactors} reactors");
    let signal = signals.wait().context("cannot wait for signals")?;
    info!("{signal}: ending all connections");
    server.stop();
    let _ = log.join();
    if let Some(thread) = broker_thread {
        let _ = thread.join();
    }
    Ok(())
}

/// What the protocol floors need of a configuration.
///
/// # Errors
/// The identification line would be malformed.
pub fn connection_config(
    config: &Config,
    login: &Effective,
    host_keys: Vec<HostKey>,
) -> anyhow::Result<ConnectionConfig> {
    let global = &config.global;
    let software = match &global.version_addendum {
        Some(addendum) => format!("{SOFTWARE} {addendum}"),
        None => SOFTWARE.to_owned(),
    };
    let Some(mut preferences) = Preferences::new(&software) else {
        bail!("VersionAddendum does not fit an identification line (printable ASCII, 255 bytes)");
    };
    preferences.kex.clone_from(&global.kex_algorithms);
    preferences.ciphers.clone_from(&global.ciphers);
    preferences.macs.clone_from(&global.macs);
    preferences.rekey = login.limits().rekey;
    preferences.first_exchange_time_max = global.login_grace;
    let mut server = transport::ServerConfig::new(preferences, host_keys);
    server.user_algorithms = config.pubkey_algorithms_offered();
    let mut connection = ConnectionConfig::new(Arc::new(server));
    connection.banner = login.banner.as_ref().map(|banner| banner.text.to_string());
    connection.auth_tries_max = login.max_auth_tries;
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
        });
        let mut own = shared.with_limits(login.limits());
        own.banner = login.banner.as_ref().map(|banner| banner.text.to_string());
        own.auth_tries_max = login.max_auth_tries;
        Arc::new(own)
    }))
}

/// Host keys of which only the public halves are here: somebody else signs.
pub fn offers(config: &Config, keys: &[PublicKey]) -> Vec<HostKey> {
    keys.iter()
        .map(|public| {
            let allowed = config.global.host_key_algorithms.iter().copied();
            let algorithms = allowed.filter(|a| a.key_kind() == public.kind()).collect();
            HostKey { public: public.clone(), algorithms }
        })
        .collect()
}

/// Raises our soft limit of open files to the hard one; answers what it was, for programs.
pub fn raise_open_files() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft >= hard {
        return None;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some(soft)
}

/// PidFile; it goes when the gateway ends. As with sshd, one that cannot be written is told and
/// stops nothing.
struct PidFile(Option<PathBuf>);

impl PidFile {
    fn write(path: &Path) -> PidFile {
        // Whoever can write the directory could have put a link there.
        let _ = fs::remove_file(path);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o644).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{}", std::process::id()));
        match written {
            Ok(()) => PidFile(Some(path.to_owned())),
            Err(why) => {
                let path = path.display();
                warn!(%path, %why, "PidFile {path}: {why}");
                PidFile(None)
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn secret() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("the system has no randomness")?;
    Ok(u64::from_ne_bytes(bytes))
}

fn reactors(config: &Config) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    config.global.reactors.unwrap_or(cores).max(1)
}

fn listen_all(config: &Config) -> anyhow::Result<Vec<OwnedFd>> {
    let mut listeners = Vec::new();
    let addresses = config.global.sockets()?;
    let only = addresses.len() == 1;
    for address in addresses {
        match listen::open(address) {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 still serves IPv4, as sshd does.
            Err(why) if !only && why.kind() == io::ErrorKind::AddrNotAvailable => warn!("{why}"),
            Err(why) => return Err(why.into()),
        }
    }
    if listeners.is_empty() {
        bail!("no address to listen on could be opened");
    }
    Ok(listeners)
}

type BrokerParts = (
    Option<crossbeam::channel::Sender<Box<crate::shard::HandOver>>>,
    Option<thread::JoinHandle<()>>,
);

/// Only root can act for other accounts.
fn start_broker(
    config: &Arc<Config>,
    host_keys: &Arc<[PrivateKey]>,
    reactors: usize,
) -> anyhow::Result<BrokerParts> {
    if !is_root() {
        return Ok((None, None));
    }
    let (sender, connections) = bounded(HAND_OVERS_MAX);
    let broker = BrokerConfig {
        settings: config.dump(&config.login).into_bytes(),
        host_keys: Arc::clone(host_keys),
        reactors,
        log_format: config.global.log_format,
        log_level: config.global.log_level,
        idle_time: idle_time(),
    };
    let thread = thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || broker::run(&broker, &connections))
        .context("cannot start the broker thread")?;
    Ok((Some(sender), Some(thread)))
}

/// A variable that tests set, in milliseconds; nobody else needs another time.
fn idle_time() -> Duration {
    let own = std::env::var("TIDEGATE_TEST_IDLE_TIME").ok().and_then(|text| text.parse().ok());
    own.map_or(DELEGATE_IDLE_TIME, Duration::from_millis)
}

/// SIGTERM and SIGINT end a process in order: a thread waits for them.
pub(super) fn block_signals() -> anyhow::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("cannot block signals")?;
    Ok(signals)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
