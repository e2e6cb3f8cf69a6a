//! From a configuration to a running gateway, through reloads, and to its end.

mod upgrades;

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{mem, process, thread};

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{SockFlag, accept4};
use nix::unistd::{chdir, geteuid};
use tracing::{error, info, warn};

use self::upgrades::Left;
use super::audit::{Audit, Outlet};
use super::chroot;
use super::cipher_speed;
use super::config::{AuditLog, Config, Facility, Isolation};
use super::control::{Control, Order};
use super::daemon::{self, Detach, Detached};
use super::figures::Figures;
use super::figures::roll::{Presence, ROOT, roll};
use super::figures::told::Program as Whole;
use super::front::{self, Line, Side};
use super::generation::{Generation, Plan};
use super::host_keys::{self, HostKeys};
use super::inetd::Streams;
use super::keyring;
use super::listen::Listeners;
use super::logbook::Logbook;
use super::moving::{Entrance, Porch};
use super::pam;
use super::passwords;
use super::pid_file::PidFile;
use super::reports::Reports;
use super::signals::{SIGNALS, Signals, Woken};
use super::startups::Standing;
use super::systemd::{self, Notifier};
use super::upgrade::{self, Attempt, Former, Inheritance, Program};
use crate::limits::{DELEGATE_IDLE_TIME, EDGE_TIME_MAX, GENERATIONS_MAX, RETIRED_IDLE_TIME};
use crate::reactor;
use crate::services;

/// What came of a reload.
const IN_FORCE: &str = "The configuration is in force for new connections";
const UNCHANGED: &str = "Nothing has changed";
/// How often it is looked whether an earlier generation has ended.
const RETIRED_CHECK: Duration = Duration::from_secs(1);
/// The same when the process ends with it.
const ONLY_CHECK: Duration = Duration::from_millis(20);

/// What the command line adds to a configuration.
pub struct Options {
    /// Called when everything listens, with the addresses and the host keys.
    pub ready: fn(&[SocketAddr], &HostKeys),
    /// Writes log lines until the gateway has ended.
    pub log: fn(&Reports),
    /// Where the processes of accounts log, if not to standard error.
    pub syslog: Option<Facility>,
    pub connections: Connections,
    pub keys: KeyRules,
    /// Go into the background before serving.
    pub detach: Option<Detach>,
    /// What SIGHUP does; without it, it ends the gateway.
    pub reload: Option<Reload>,
    /// A signal that ends a listening gateway leaves its connections to a process of their own.
    pub sessions_outlive: bool,
    /// What SIGUSR2 starts in our place.
    pub program: Program,
}

/// Where connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// As many as come.
    Listen,
    /// The first that comes, and no other.
    First,
    /// Standard input and output are one.
    Given,
}

/// Which host keys will do.
#[derive(Clone, Debug)]
pub enum KeyRules {
    /// Every one must be usable; those of the state directory are made when they are not there.
    All { state: Option<PathBuf> },
    /// sshd's rule: one is enough, the others are told about.
    Any,
}

/// How the configuration is read again.
pub struct Reload {
    pub read: Box<dyn Fn() -> anyhow::Result<Config>>,
    /// Called when the new one is in force.
    pub renewed: fn(&Config),
}

/// Why serving is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// There was nothing left to serve, or another process serves.
    Over,
    Signal(Signal),
    /// The process that served has ended, with this status.
    Status(u8),
}

/// Serves until SIGTERM, SIGINT or SIGQUIT, or until the only connection has ended.
///
/// # Errors
/// Something the configuration names cannot be had: a port, a host key, the driver.
pub fn run(config: Config, options: &Options) -> anyhow::Result<Ending> {
    let mut inheritance = upgrade::inherit()?;
    let outcome = run_with(config, options, &mut inheritance);
    if let (Err(why), Some(inheritance)) = (&outcome, &inheritance) {
        inheritance.fail(why);
    }
    outcome
}

fn run_with(
    config: Config,
    options: &Options,
    inheritance: &mut Option<Inheritance>,
) -> anyhow::Result<Ending> {
    check_isolation(&config)?;
    // The pid in LISTEN_PID is this process's, whatever it becomes later.
    let given = systemd::inherited_listeners()?;
    let signals = Signals::catch(&SIGNALS).context("cannot catch signals")?;
    services::restrict_umask();
    services::prepare().context("cannot prepare for starting programs")?;
    let start = Start {
        config: Arc::new(config),
        options,
        open_files: raise_open_files(),
        logbook: OnceCell::new(),
        audit: OnceCell::new(),
        control: None,
    };
    passwords::check_files(&start.config)?;
    let odd = pam::check(&start.config)?;
    chroot::check_places(&start.config)?;
    let keys = load_keys(&start.config, &options.keys)?;
    tell_warnings(&start.config, &keys, odd);
    match options.connections {
        Connections::Listen => start.listen(keys, given, &signals, inheritance),
        Connections::First => {
            let listeners = listeners(&start.config, given)?;
            (options.ready)(&listeners.addresses(), &keys);
            let socket = match first(&listeners, &signals)? {
                Ok(socket) => socket,
                Err(signal) => return Ok(Ending::Signal(signal)),
            };
            drop(listeners);
            start.serve_one(keys, socket, &signals)
        }
        Connections::Given => {
            let (socket, rest) = Streams::take()?.split();
            let outcome = start.serve_one(keys, socket, &signals);
            rest.wait();
            outcome
        }
    }
}

/// Root never parses what strangers send; nobody else has rights to give up.
///
/// # Errors
/// TidegateIsolation is not for whoever starts the gateway, or not beside what else is set.
pub fn check_isolation(config: &Config) -> anyhow::Result<()> {
    match (config.global.isolation, geteuid().is_root()) {
        (Isolation::None, true) => bail!(
            "TidegateIsolation none is for a gateway without root's rights: one process would hear \
             strangers with all of them; take auto"
        ),
        (Isolation::Shared, false) => bail!(
            "TidegateIsolation shared takes root's rights, to give them up; without them take auto"
        ),
        (Isolation::PerConnection, false) => bail!(
            "TidegateIsolation per-connection takes root's rights, to give them up in a process for \
             each connection; without them take auto"
        ),
        (Isolation::PerConnection, true) => check_together(config),
        _ => Ok(()),
    }
}

/// What connections have in common takes one process for several.
fn check_together(config: &Config) -> anyhow::Result<()> {
    if config.shares_upstreams() {
        bail!(
            "TidegateUpstreamShare has logins of one user go on over one connection, and \
             TidegateIsolation per-connection gives each a process of its own: one of them has to go"
        );
    }
    Ok(())
}

/// Reads the host keys that the configuration names.
///
/// # Errors
/// By the rules, there are not enough of them.
pub fn load_keys(config: &Config, rules: &KeyRules) -> anyhow::Result<HostKeys> {
    let least = config.login.required_rsa_size;
    Ok(match rules {
        KeyRules::All { state } => host_keys::load(&config.global, least, state.as_deref())?,
        KeyRules::Any => host_keys::load_usable(&config.global, least)?,
    })
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

/// What a gateway needs to begin.
struct Start<'a> {
    config: Arc<Config>,
    options: &'a Options,
    open_files: Option<u64>,
    logbook: OnceCell<Arc<Logbook>>,
    audit: OnceCell<Arc<Audit>>,
    /// Where it is asked how it is, once it serves; and root's process among those that are told of.
    control: Option<(Control, Option<Presence>)>,
}

impl<'a> Start<'a> {
    /// Answers administrators from now on, until the end. Late: it has a thread.
    fn open_control(&mut self, listeners: &Listeners) {
        let listeners = shown(listeners);
        let whole = Whole { since: reactor::now(), serves: true, listeners, generations: 1 };
        let mut control = Control::new(whole, self.options.reload.is_some());
        control.listen(&self.config.global.control);
        let figures = geteuid().is_root().then(|| Arc::new(Figures::own(1)));
        let root = figures.map(|own| roll().enter(ROOT, "", process::id(), Some(own)));
        self.control = Some((control, root));
    }

    /// What administrators are told from now on.
    fn tell(&self, change: impl FnOnce(&mut Whole)) {
        if let Some((control, _)) = &self.control {
            control.tell(change);
        }
    }

    /// What came of an order, for those who gave it.
    fn answer(&self, order: Order, outcome: impl FnOnce() -> Result<String, String>) {
        if let Some((control, _)) = &self.control {
            control.answer(order, outcome);
        }
    }

    /// What ended with us is recorded as ended.
    fn close_logs(&self) {
        self.logbook.get().into_iter().for_each(|logbook| logbook.close());
        self.audit.get().into_iter().for_each(|audit| audit.flush());
    }

    fn plan(&self, keys: HostKeys) -> anyhow::Result<Plan> {
        Ok(Plan {
            config: Arc::clone(&self.config),
            keys,
            listeners: Vec::new(),
            reactors: reactors(&self.config),
            number: 0,
            idle_time: time_or("TIDEGATE_TEST_IDLE_TIME", DELEGATE_IDLE_TIME),
            edge_time: time_or("TIDEGATE_TEST_EDGE_TIME", EDGE_TIME_MAX),
            open_files: self.open_files,
            log: self.options.log,
            syslog: self.options.syslog,
            logbook: self.logbook(),
            audit: self.audit()?,
            renews: self.options.reload.is_some(),
            standings: Vec::new(),
        })
    }

    /// Begun late, for the same reason, and once: it goes on where a later configuration says.
    fn audit(&self) -> anyhow::Result<Option<Arc<Audit>>> {
        let Some(outlet) = audit_outlet(&self.config)? else { return Ok(None) };
        if self.audit.get().is_none() {
            let _ = self.audit.set(Audit::start(outlet)?);
        }
        Ok(self.audit.get().cloned())
    }

    /// Opened late: it has a thread, and whoever goes into the background must have none.
    fn logbook(&self) -> Option<Arc<Logbook>> {
        if !geteuid().is_root() {
            return None;
        }
        if self.logbook.get().is_none() {
            match Logbook::open() {
                Ok(logbook) => drop(self.logbook.set(logbook)),
                Err(why) => warn!("logins are not recorded: {why:#}"),
            }
        }
        self.logbook.get().cloned()
    }

    /// Whoever rotates the file moves it away first.
    fn reopen_audit(&self, outlet: Option<Outlet>) {
        if let (Some(audit), Some(outlet)) = (self.audit.get(), outlet) {
            audit.replace(outlet);
        }
    }

    /// Serves whoever comes. Sockets are opened before going into the background, so that whoever
    /// started us learns what is wrong with them.
    fn listen(
        self,
        keys: HostKeys,
        given: Vec<OwnedFd>,
        signals: &Signals,
        inheritance: &mut Option<Inheritance>,
    ) -> anyhow::Result<Ending> {
        if inheritance.is_some() {
            return self.succeed(keys, signals, inheritance);
        }
        let listeners = listeners(&self.config, given)?;
        let herald = match self.options.detach {
            Some(how) if !daemon::is_detached() => match daemon::detach(how)? {
                Detached::Caller => return Ok(Ending::Over),
                Detached::Background(herald) => Some(herald),
            },
            Some(_) => chdir("/").map(|()| None)?,
            None => None,
        };
        let manager = if self.options.sessions_outlive || herald.is_some() {
            match front::split().context("cannot start a process for the sessions")? {
                Side::Front(front) => {
                    drop((keys, listeners));
                    let left = front.stand(herald).context("cannot wait for signals")?;
                    return Ok(match left {
                        front::Left::Signal(signal) => Ending::Signal(signal),
                        front::Left::Status(status) => Ending::Status(status),
                    });
                }
                Side::Serving(line) => {
                    // Whoever started us waits for the end of this.
                    drop(herald);
                    Manager::Front(line)
                }
            }
        } else {
            Manager::Direct(Notifier::from_environment())
        };
        match self.open(keys, listeners, (0, Vec::new())) {
            Ok(gateway) => gateway.begin(Vec::new(), signals, manager),
            Err(why) => {
                manager.failed(&format!("{why:#}"));
                Err(why)
            }
        }
    }

    /// `number`: generations that there have been, in earlier programs. `standings`: what sources have
    /// earned there.
    fn open(
        self,
        keys: HostKeys,
        listeners: Listeners,
        (number, standings): (u64, Vec<Standing>),
    ) -> anyhow::Result<Gateway<'a>> {
        let mut plan = self.plan(keys)?;
        (plan.listeners, plan.number, plan.standings) = (listeners.sockets(), number, standings);
        (self.options.ready)(&listeners.addresses(), &plan.keys);
        let fingerprints = fingerprints(&plan.keys, &plan.config);
        let current = Generation::start(plan)?;
        match self.config.separates_connections() {
            true => info!("Serving each connection with processes of its own"),
            false => info!("Serving with {} reactors", reactors(&self.config)),
        }
        info!("Ciphers: {}", cipher_speed::summary(&self.config.global));
        Ok(Gateway {
            current,
            retired: Vec::new(),
            started: number + 1,
            listeners,
            fingerprints,
            pid_file: None,
            pid: process::id(),
            formers: Vec::new(),
            attempt: None,
            reload_waits: false,
            porch: Porch::default(),
            entrances: Vec::new(),
            start: self,
        })
    }

    /// Serves one connection to its end.
    fn serve_one(
        self,
        keys: HostKeys,
        socket: OwnedFd,
        signals: &Signals,
    ) -> anyhow::Result<Ending> {
        let mut ending = Ending::Over;
        let plan =
            Plan { reactors: 1, idle_time: RETIRED_IDLE_TIME, renews: false, ..self.plan(keys)? };
        let mut only = Generation::start(plan)?;
        only.adopt(socket);
        only.retire();
        while !only.is_over() {
            match signals.wait(&[], Some(ONLY_CHECK)).context("cannot wait for signals")? {
                // ssh sends it to its ProxyCommand when the connection is over; its end comes too.
                Woken::Signal(Signal::SIGHUP) if self.options.connections == Connections::Given => {
                }
                Woken::Signal(Signal::SIGUSR2) => upgrades::refuse(),
                Woken::Signal(signal) => {
                    info!("Received signal {}; terminating.", signal as i32);
                    ending = Ending::Signal(signal);
                    break;
                }
                Woken::Ready(_) | Woken::TimedOut => {}
            }
        }
        only.end();
        self.close_logs();
        Ok(ending)
    }
}

/// Who is told what we are about.
pub enum Manager {
    /// The service manager, if there is one.
    Direct(Notifier),
    /// The process in front, which has the number that others know.
    Front(Line),
}

impl Manager {
    fn pid(&self) -> u32 {
        match self {
            Manager::Direct(_) => process::id(),
            Manager::Front(line) => line.front(),
        }
    }

    /// Readable when we are to give the port up.
    fn line(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Manager::Direct(_) => None,
            Manager::Front(line) => Some(line.as_fd()),
        }
    }

    /// Another process has our place.
    fn moved(&self, pid: u32) {
        match self {
            Manager::Direct(notifier) => notifier.moved(pid),
            Manager::Front(line) => line.moved(pid),
        }
    }

    fn ready(&self) {
        match self {
            Manager::Direct(notifier) => notifier.ready(None),
            Manager::Front(line) => line.ready(),
        }
    }

    fn reloading(&self) {
        match self {
            Manager::Direct(notifier) => notifier.reloading(),
            Manager::Front(line) => line.reloading(),
        }
    }

    fn failed(&self, why: &str) {
        if let Manager::Front(line) = self {
            line.failed(why);
        }
    }

    /// Nobody listens here any more.
    fn released(&self) {
        match self {
            Manager::Direct(notifier) => notifier.stopping(),
            Manager::Front(line) => line.released(),
        }
    }
}

/// A gateway that listens.
struct Gateway<'a> {
    start: Start<'a>,
    current: Generation,
    /// Earlier ones that still have connections.
    retired: Vec<Generation>,
    /// Generations that there have been.
    started: u64,
    listeners: Listeners,
    /// Of the host keys in use.
    fingerprints: Vec<String>,
    pid_file: Option<PidFile>,
    /// The number that others know us by.
    pid: u32,
    /// Earlier programs that still have sessions.
    formers: Vec<Former>,
    /// An upgrade that is under way, and whether SIGHUP came meanwhile.
    attempt: Option<Attempt>,
    reload_waits: bool,
    /// Where connections of earlier programs come in, and the ways of those that still have some.
    porch: Porch,
    entrances: Vec<Entrance>,
}

impl Gateway<'_> {
    /// Everything is ours from now on.
    fn begin(
        mut self,
        formers: Vec<Former>,
        signals: &Signals,
        manager: Manager,
    ) -> anyhow::Result<Ending> {
        (self.pid, self.formers) = (manager.pid(), formers);
        let path = self.start.config.global.pid_file.as_deref();
        self.pid_file = path.map(|path| PidFile::write(path, self.pid));
        self.start.open_control(&self.listeners);
        manager.ready();
        self.take_in();
        self.serve(signals, manager)
    }

    fn serve(mut self, signals: &Signals, manager: Manager) -> anyhow::Result<Ending> {
        let signal = loop {
            let woken = self.wait(signals, &manager)?;
            self.retired.retain_mut(|generation| !generation.is_over());
            self.look_after_formers();
            let generations = self.retired.len() + 1;
            self.start.tell(|whole| whole.generations = generations);
            match (woken, &self.start.options.reload) {
                (Woken::Signal(Signal::SIGHUP), Some(_)) if self.attempt.is_some() => {
                    self.reload_waits = true;
                }
                (Woken::Signal(Signal::SIGHUP), Some(reload)) => self.reload(reload, &manager),
                (Woken::Signal(Signal::SIGUSR2), _) => self.begin_upgrade(),
                (Woken::Signal(signal), _) => break Some(signal),
                (Woken::Ready(0), _) if manager.line().is_some() => break None,
                (Woken::Ready(_) | Woken::TimedOut, _) => {}
            }
            if let Some(heir) = self.step_upgrade(&manager) {
                return self.leave_to(heir, signals, manager);
            }
        };
        if let Some(signal) = signal {
            info!("Received signal {}; terminating.", signal as i32);
        }
        // No connection is to come in that is ended at once, and none to a program that is not there yet.
        self.attempt = None;
        self.close_porch();
        self.start.tell(|whole| whole.serves = false);
        self.listeners.close_except(&Listeners::default());
        drop(self.pid_file);
        let mut last: Vec<Generation> = self.retired.into_iter().chain([self.current]).collect();
        last.iter_mut().for_each(Generation::retire);
        manager.released();
        let (formers, start) = (self.formers, self.start);
        Left { sessions: last, formers, start, successor: None }.end(signal, signals)
    }

    /// Waits for something to do.
    fn wait(&mut self, signals: &Signals, manager: &Manager) -> anyhow::Result<Woken> {
        let renewal = self.current.renew_edge();
        let mut check = if self.retired.is_empty() { renewal } else { Some(RETIRED_CHECK) };
        let mut fds: Vec<_> = manager.line().into_iter().collect();
        fds.extend(self.formers.iter().map(Former::as_fd));
        if let Some(attempt) = &self.attempt {
            fds.extend(attempt.as_fd());
            check = Some(check.map_or(attempt.pause(), |check| check.min(attempt.pause())));
        }
        signals.wait(&fds, check).context("cannot wait for signals")
    }

    fn reload(&mut self, reload: &Reload, manager: &Manager) {
        info!("Received SIGHUP; reading the configuration again");
        self.formers.iter().for_each(Former::reopen);
        manager.reloading();
        let outcome = match self.renew(reload) {
            Ok(true) => Ok(IN_FORCE),
            Ok(false) => Ok(UNCHANGED),
            Err(why) => Err(format!("{why:#}")),
        };
        match &outcome {
            Ok(done) => info!("{done}"),
            Err(why) => {
                why.lines().for_each(|line| error!("{}", line.trim_start()));
                error!("The configuration from before stays in force");
            }
        }
        self.start.answer(Order::Reload, || outcome.map(str::to_owned));
        manager.ready();
    }

    /// Puts the configuration in force as it is now; answers whether it differs. Until the last
    /// step nothing is changed, so that an error leaves everything as it was.
    fn renew(&mut self, reload: &Reload) -> anyhow::Result<bool> {
        let config = (reload.read)()?;
        check_isolation(&config)?;
        passwords::check_files(&config)?;
        let odd = pam::check(&config)?;
        chroot::check_places(&config)?;
        let keys = load_keys(&config, &self.start.options.keys)?;
        let fingerprints = fingerprints(&keys, &config);
        let outlet = audit_outlet(&config)?;
        if config == *self.start.config && fingerprints == self.fingerprints {
            self.start.reopen_audit(outlet);
            return Ok(false);
        }
        if self.retired.len() >= GENERATIONS_MAX {
            bail!("connections under {GENERATIONS_MAX} earlier configurations are still open");
        }
        let listeners = self.listeners.renewed(&config.global)?;
        let former = mem::replace(&mut self.start.config, Arc::new(config));
        let former_control = former.global.control.clone();
        let (addresses, ready) = (listeners.addresses(), self.start.options.ready);
        let started = self.start.plan(keys).and_then(|mut plan| {
            (plan.listeners, plan.number) = (listeners.sockets(), self.started);
            tell_warnings(&self.start.config, &plan.keys, odd);
            ready(&addresses, &plan.keys);
            Generation::start(plan)
        });
        let next = match started {
            Ok(next) => next,
            Err(why) => {
                listeners.close_except(&self.listeners);
                self.listeners.resume();
                self.start.config = former;
                return Err(why);
            }
        };
        self.start.reopen_audit(outlet);
        // Both accept until the former one has heard.
        let mut former = mem::replace(&mut self.current, next);
        self.open_porch();
        former.retire();
        self.retired.push(former);
        mem::replace(&mut self.listeners, listeners).close_except(&self.listeners);
        self.fingerprints = fingerprints;
        self.started += 1;
        let (listeners, generations) = (shown(&self.listeners), self.retired.len() + 1);
        self.start.tell(|whole| (whole.listeners, whole.generations) = (listeners, generations));
        let at = self.start.config.global.control.clone();
        if let Some((control, _)) = self.start.control.as_mut().filter(|_| at != former_control) {
            control.listen(&at);
        }
        let path = self.start.config.global.pid_file.as_deref();
        if self.pid_file.as_ref().map(PidFile::path) != path {
            self.pid_file = path.map(|path| PidFile::write(path, self.pid));
        }
        (reload.renewed)(&self.start.config);
        Ok(true)
    }
}

fn shown(listeners: &Listeners) -> Vec<String> {
    listeners.addresses().iter().map(ToString::to_string).collect()
}

/// Where the audit goes, opened anew; `None`: there is none.
fn audit_outlet(config: &Config) -> anyhow::Result<Option<Outlet>> {
    let (log, facility) = (&config.global.audit_log, config.global.syslog_facility);
    let wanted = *log != AuditLog::None;
    Ok(wanted.then(|| Outlet::open(log, facility)).transpose()?)
}

fn tell_warnings(config: &Config, keys: &HostKeys, odd: Vec<String>) {
    let warnings = config.warnings.iter().map(ToString::to_string);
    for warning in warnings.chain(keys.warnings.clone()).chain(odd) {
        warn!("{warning}");
    }
}

fn listeners(config: &Config, given: Vec<OwnedFd>) -> anyhow::Result<Listeners> {
    if given.is_empty() { Listeners::open(&config.global) } else { Listeners::given(given) }
}

/// The first connection that comes, or the signal that came before it.
fn first(listeners: &Listeners, signals: &Signals) -> anyhow::Result<Result<OwnedFd, Signal>> {
    let sockets = listeners.sockets();
    let borrowed: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
    loop {
        let ready = match signals.wait(&borrowed, None).context("cannot wait for signals")? {
            Woken::Signal(signal) => return Ok(Err(signal)),
            Woken::Ready(n) => sockets.get(n),
            Woken::TimedOut => None,
        };
        let Some(socket) = ready else { continue };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match accept4(socket.as_raw_fd(), flags) {
            // SAFETY: the kernel has just made this descriptor for us alone.
            Ok(fd) => return Ok(Ok(unsafe { OwnedFd::from_raw_fd(fd) })),
            // It was gone again.
            Err(_) => continue,
        }
    }
}

/// Of all keys that a generation keeps from its start on; the others are read when they are needed.
fn fingerprints(keys: &HostKeys, config: &Config) -> Vec<String> {
    let mut all = keys.fingerprints();
    if nix::unistd::geteuid().is_root() {
        all.extend(keyring::fingerprints(config));
    }
    all
}

fn reactors(config: &Config) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    config.global.reactors.unwrap_or(cores).max(1)
}

/// A variable that tests set, in milliseconds; nobody else needs another time.
fn time_or(variable: &str, usual: Duration) -> Duration {
    let own = std::env::var(variable).ok().and_then(|text| text.parse().ok());
    own.map_or(usual, Duration::from_millis)
}
