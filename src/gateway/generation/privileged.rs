//! A generation of root's: the edge accepts and hears logins, this process answers it, the processes
//! of accounts serve them. Nothing that a peer has sent is parsed here before a login.

use std::{mem, path};

use tracing::{error, info};

use super::*;
use crate::base::Instant;
use crate::gateway::audit::Auditor;
use crate::gateway::broker::{self, BrokerConfig};
use crate::gateway::confine::Cell;
use crate::gateway::edge::words::Setup;
use crate::gateway::helper::Logs;
use crate::gateway::keyring::{Keyring, Signers};
use crate::gateway::logbook::Recorder;
use crate::gateway::monitor;
use crate::gateway::monitor::hear::{Bench, Post, Single, Staff};
use crate::gateway::monitor::reception::Reception;
use crate::gateway::pam::porter::Porter;
use crate::gateway::recording::{Recorders, Studio};
use crate::gateway::signer::bureau::Bureau;
use crate::gateway::signer::words::KnownKey;
use crate::gateway::terms::Terms;
use crate::gateway::upstream;
use crate::gateway::workers::{Execute, Workers};
use crate::limits::{
    EDGE_CHECK, EDGE_CONNECTIONS_MAX, EDGES_DRAINING_MAX, GREETERS, HAND_OVERS_MAX, JOBS_MAX,
    PAM_CONVERSATIONS_MAX, RELAY_RESOLVERS, STARTUPS_MAX, WORKERS_DEFAULT,
};

pub(super) fn start(mut plan: Plan) -> anyhow::Result<Generation> {
    let config = Arc::clone(&plan.config);
    let cells = Cells::find(&config)?;
    let offers: Vec<HostKey> = plan.keys.keys.iter().map(host_keys::HostKey::offer).collect();
    let (setup, logs) = (setup(&plan, &cells.edge, &offers), logs(&plan));
    let connection = Arc::new(connection_config(&config, offers, (setup.steers, true))?);
    let ident = connection.transport.preferences.ident().to_string();
    let (ring, host_keys) = (Arc::new(Keyring::read(&config)), plan.keys.fingerprints());
    let Signing { keeper: signer, bureau, known } =
        start_signer(&mut plan, &cells.signer, ident, &ring)?;
    let login_keys = Arc::new(Signers { ring, bureau: Arc::clone(&bureau) });
    let (keep, kept) = bounded(0);
    let recorders: Arc<dyn Recorders> = Arc::new(Studio::new(plan.audit.clone()));
    let broker = BrokerConfig {
        terms: setup.terms.clone(),
        bureau: Arc::clone(&bureau),
        reactors: plan.reactors,
        logs,
        idle_time: plan.idle_time,
        logbook: plan.logbook.clone(),
        audit: plan.audit.clone(),
        recorders: Arc::clone(&recorders),
        apart: config.separates_connections(),
    };
    let running = Arc::<Running>::default();
    let (accounts, broker) = start_broker(broker, Arc::clone(&running), kept)?;
    let startups = startups(&plan);
    let policy = Policy::new(Arc::clone(&config)).beside(cells.uids());
    let destinations = policy.destinations();
    let porter = config.login.use_pam.then(|| Porter::start(accounts.clone(), plan.audit.as_ref()));
    let porter = porter.transpose().context("cannot start threads that ask PAM")?;
    let executor: Arc<dyn Execute> = Arc::new(Executor {
        greets: Some(Greets { shared: Arc::clone(&connection), names: names(&config) }),
        startups: Some(Arc::clone(&startups)),
        policy: Some(policy),
        signer: Arc::new(Arc::clone(&bureau)) as Arc<dyn Signer>,
        login_keys,
        open_files: plan.open_files,
        recorder: plan.logbook.map(|logbook| logbook as Arc<dyn Recorder>),
        audit: plan.audit.clone().map(|audit| audit as Arc<dyn Auditor>),
        told: Told::default(),
    });
    let mut clerk = Clerk::new(bureau, known, accounts.clone(), Arc::clone(&startups));
    clerk.running = Arc::clone(&running);
    clerk.proxies.clone_from(&config.global.proxies);
    clerk.porter = porter.map(Arc::new);
    clerk.routes = config.asks_routing();
    clerk.separators = upstream::separators(config.takes_targets());
    clerk.audit = plan.audit;
    let relays = |cell: Cell| {
        let plan = relay::keeper::Plan { setup: relay_setup(&setup, cell), logs };
        start_relays(&config, &mut clerk, plan, &executor, recorders)
    };
    let (relay, helpers) = (cells.relay.map(relays).transpose()?, vec![broker]);
    let edge = monitor::Plan { setup, listeners: plan.listeners, logs, started: Arc::default() };
    let mut generation = Generation::begun(relay, keep, helpers, startups);
    (generation.running, generation.accounts) = (Some(running), Some(accounts));
    (generation.relays, generation.destinations) = (clerk.relay.clone(), Some(destinations));
    generation.host_keys = host_keys;
    let served = bench(&config, executor).and_then(|bench| {
        let maker = Maker { clerk, bench, plan: edge, edge_time: plan.edge_time };
        generation.edges = Some(Edges::start(&config, maker)?);
        signer.wait().context("the signer does not serve")
    });
    match served {
        Ok(()) => Ok(Generation { _signer: Some(signer), ..generation }),
        Err(why) => {
            generation.end();
            Err(why)
        }
    }
}

/// Who the processes of a generation are.
struct Cells {
    edge: Cell,
    signer: Cell,
    /// Where some login may go on elsewhere.
    relay: Option<Cell>,
}

impl Cells {
    fn find(config: &Config) -> anyhow::Result<Cells> {
        let global = &config.global;
        let edge = Cell::find(global.edge_user.as_deref())?;
        let signer = Cell::find_apart(global.signer_user.as_deref(), &edge)?;
        let relay = || Cell::find_for_relay(global.relay_user.as_deref(), &edge, &signer);
        let relay = config.goes_on_elsewhere().then(relay).transpose()?;
        Ok(Cells { edge, signer, relay })
    }

    fn uids(&self) -> Vec<u32> {
        [&self.edge, &self.signer].into_iter().chain(&self.relay).map(|cell| cell.uid).collect()
    }
}

/// A process that accepts and hears logins, or only hears those that it has begun; and what answers it.
struct Edge {
    keeper: Keeper,
    clerk: Arc<Clerk>,
    since: Instant,
}

/// What edges are made of.
struct Maker {
    clerk: Clerk,
    bench: Bench,
    plan: monitor::Plan,
    /// How long one hears strangers.
    edge_time: Duration,
}

impl Maker {
    fn make(&self) -> anyhow::Result<Edge> {
        let clerk = Arc::new(self.clerk.another());
        let staff = Staff::new(self.bench.clone(), Arc::new(Post::to(&clerk)));
        let keeper = Keeper::start(self.plan.clone(), Arc::clone(&clerk), staff);
        let keeper = keeper.context("the edge does not serve; its own words are in the log")?;
        Ok(Edge { keeper, clerk, since: reactor::now() })
    }

    /// It has heard enough.
    fn is_worn(&self, edge: &Edge) -> bool {
        let (heard, time) = (edge.clerk.heard(), reactor::now().since(edge.since));
        heard >= EDGE_CONNECTIONS_MAX || heard > 0 && time >= self.edge_time
    }
}

/// All edges of a generation.
pub(super) enum Edges {
    /// One hears all.
    Shared(Box<Shared>),
    /// One for each connection.
    Each(Reception),
}

impl Edges {
    fn start(config: &Config, mut maker: Maker) -> anyhow::Result<Edges> {
        if config.separates_connections() {
            let (grace, asking) = (config.global.login_grace, config.global.proxy_time);
            maker.clerk.single = Some(Single { grace, asking });
            maker.plan.setup.reactors = 1;
            let reception = Reception::start(maker.plan, maker.clerk, maker.bench);
            let reception = reception.context("no edge serves; its own words are in the log")?;
            return Ok(Edges::Each(reception));
        }
        let current = maker.make()?;
        let shared = Shared { current, draining: Vec::new(), maker: Some(maker) };
        Ok(Edges::Shared(Box::new(shared)))
    }

    /// Passes a connection on that was accepted elsewhere.
    pub(super) fn adopt(&self, socket: OwnedFd) {
        match self {
            Edges::Shared(shared) => shared.current.keeper.adopt(&shared.current.clerk, &socket),
            Edges::Each(reception) => reception.adopt(socket),
        }
    }

    /// Accepts no more.
    pub(super) fn retire(&mut self) {
        match self {
            Edges::Shared(shared) => shared.retire(),
            Edges::Each(reception) => reception.retire(),
        }
    }

    pub(super) fn is_over(&mut self) -> bool {
        match self {
            Edges::Shared(shared) => shared.is_over(),
            Edges::Each(reception) => reception.is_over(),
        }
    }

    pub(super) fn stop(self) {
        match self {
            Edges::Shared(shared) => shared.stop(),
            Edges::Each(reception) => reception.stop(),
        }
    }

    /// Puts another edge in the place of one that has heard many. Answers when to look again.
    pub(super) fn renew(&mut self) -> Option<Duration> {
        let Edges::Shared(shared) = self else { return None };
        shared.renew();
        shared.check()
    }
}

/// One that accepts, and others that only hear those that they have begun.
pub(super) struct Shared {
    current: Edge,
    draining: Vec<Edge>,
    /// Absent once nothing is accepted any more.
    maker: Option<Maker>,
}

impl Shared {
    fn retire(&mut self) {
        self.maker = None;
        self.current.keeper.retire();
    }

    fn is_over(&mut self) -> bool {
        for edge in self.draining.extract_if(.., |edge| edge.keeper.is_over()) {
            edge.keeper.stop();
        }
        self.draining.is_empty() && self.current.keeper.is_over()
    }

    fn stop(self) {
        for Edge { keeper, .. } in self.draining.into_iter().chain([self.current]) {
            keeper.stop();
        }
    }

    /// How often it is to be looked whether the edge is worn.
    fn check(&self) -> Option<Duration> {
        self.maker.as_ref().map(|maker| maker.edge_time.min(EDGE_CHECK))
    }

    /// Puts another edge in the place of one that is worn. That one hears the logins it has begun.
    fn renew(&mut self) {
        self.is_over();
        let Some(maker) = &self.maker else { return };
        if self.draining.len() >= EDGES_DRAINING_MAX || !maker.is_worn(&self.current) {
            return;
        }
        match maker.make() {
            Ok(next) => {
                let former = mem::replace(&mut self.current, next);
                let heard = former.clerk.heard();
                info!(heard, "Another edge accepts; the last has heard {heard} connections");
                former.keeper.retire();
                self.draining.push(former);
            }
            Err(why) => {
                error!("No other edge can be started, the last goes on: {why:#}");
                self.current.since = reactor::now();
            }
        }
    }
}

fn logs(plan: &Plan) -> Logs {
    let config = &plan.config;
    Logs {
        format: config.global.log_format,
        level: config.login.log_level,
        own_level: config.own_log_level(),
        syslog: plan.syslog,
    }
}

/// What it takes to have things signed.
struct Signing {
    keeper: signer::keeper::Keeper,
    bureau: Arc<Bureau>,
    known: Vec<KnownKey>,
}

/// Starts a signer for the host keys. From here on it alone has the private halves: what was read here
/// is wiped.
fn start_signer(
    plan: &mut Plan,
    cell: &Cell,
    ident: String,
    ring: &Keyring,
) -> anyhow::Result<Signing> {
    let keys = std::mem::take(&mut plan.keys.keys);
    let known: Vec<KnownKey> = keys.iter().map(known).collect();
    let own = keys.iter().filter(|key| !key.is_agents());
    let files = own.map(|key| path::absolute(&key.path)).collect::<Result<_, _>>()?;
    let agents = (0..).zip(&keys).filter(|(_, key)| key.is_agents()).map(|(n, _)| n).collect();
    let publics = keys.iter().map(|key| key.public().clone()).collect();
    drop(keys);
    let setup = signer::words::Setup {
        cell: cell.clone(),
        ident,
        keys: known.clone(),
        upstream_keys: ring.known(),
        slow_threads: (plan.reactors / 2).max(1) as u32,
    };
    let mut bureau = Bureau::new(publics, ring.publics());
    let agent = plan.config.global.host_key_agent.as_deref().and_then(host_agent::socket_of);
    if let Some(agent) = agent {
        bureau = bureau.with_agent(&agent, agents);
    }
    let bureau = Arc::new(bureau);
    let plan =
        signer::keeper::Plan { setup, files, upstream_files: ring.files(), logs: logs(plan) };
    let keeper = signer::keeper::Keeper::start(plan, Arc::clone(&bureau))?;
    Ok(Signing { keeper, bureau, known })
}

fn startups(plan: &Plan) -> Arc<Startups> {
    let startups = Startups::new(&plan.config.global);
    plan.standings.iter().for_each(|standing| startups.inherit(standing));
    Arc::new(startups)
}

/// All that an edge is to know.
fn setup(plan: &Plan, cell: &Cell, offers: &[HostKey]) -> Setup {
    let config = &plan.config;
    let blob = |offer: &HostKey| offer.public.blob().to_vec();
    let certificate = |offer: &HostKey| offer.certificate.as_ref().map(|one| one.blob().to_vec());
    let terms = Terms {
        config: config.dump(&config.login).into_bytes(),
        host_keys: offers.iter().map(blob).collect(),
        certificates: offers.iter().filter_map(certificate).collect(),
    };
    Setup {
        terms,
        banner: config.login.banner.as_ref().map(|banner| banner.text.to_string()),
        algorithms: config.pubkey_algorithms_offered(),
        reactors: plan.reactors as u32,
        first_serial: first_serial(plan.number),
        cell: cell.clone(),
        steers: steers(config),
        // It has none of the Match blocks.
        asks_users: config.asks_users() || config.has_match_blocks(),
        takes_targets: config.takes_targets(),
        routes: config.asks_routing(),
    }
}

/// What a host key is shown as.
fn known(key: &host_keys::HostKey) -> KnownKey {
    let certificate = key.certificate.as_ref().map(|one| one.blob().to_vec());
    let public = key.public().blob().to_vec();
    let is_agents = key.is_agents();
    KnownKey { public, certificate: certificate.unwrap_or_default(), is_agents }
}

/// Who serves logins that go on elsewhere.
pub(super) enum Relaying {
    /// One relay.
    Shared(relay::keeper::Keeper),
    /// One for each login.
    Each(Arc<relay::keeper::Each>),
}

impl Relaying {
    /// No login comes any more.
    pub(super) fn retire(&self) {
        if let Relaying::Shared(relay) = self {
            relay.retire();
        }
    }

    /// Logins go on in the program at the other end.
    pub(super) fn move_on(&self, exit: &Arc<Exit>) {
        match self {
            Relaying::Shared(relay) => relay.move_on(exit),
            Relaying::Each(relays) => relays.move_on(exit),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            Relaying::Shared(relay) => relay.is_over(),
            Relaying::Each(relays) => relays.is_over(),
        }
    }

    pub(super) fn stop(self) {
        match self {
            Relaying::Shared(relay) => relay.stop(),
            Relaying::Each(relays) => relays.stop(),
        }
    }
}

/// Starts those to whom the clerk then passes logins that go on elsewhere.
fn start_relays(
    config: &Config,
    clerk: &mut Clerk,
    mut plan: relay::keeper::Plan,
    execute: &Arc<dyn Execute>,
    recorders: Arc<dyn Recorders>,
) -> anyhow::Result<Relaying> {
    let (bureau, audit) = (Arc::clone(&clerk.bureau), clerk.audit.clone());
    let relays = relay::clerk::Clerk::new(bureau, audit, recorders);
    let relays = relays.context("cannot start the thread that connects to hosts")?;
    let bench = relay_bench(execute)?;
    if config.separates_connections() {
        plan.setup.reactors = 1;
        let relays = Arc::new(relay::keeper::Each::new(plan, relays, bench));
        clerk.relay = Some(Arc::clone(&relays) as Arc<dyn Relays>);
        return Ok(Relaying::Each(relays));
    }
    let relays = Arc::new(relays);
    let staff = Staff::new(bench, Arc::new(relay::clerk::Post::to(&relays)));
    let keeper = relay::keeper::Keeper::start(plan, Arc::clone(&relays), staff);
    clerk.relay = Some(relays);
    keeper.map(Relaying::Shared).context("the relay does not serve; its own words are in the log")
}

/// What a relay is to know, of what an edge is.
fn relay_setup(edge: &Setup, cell: Cell) -> relay::words::Setup {
    let (terms, reactors, steers) = (edge.terms.clone(), edge.reactors, edge.steers);
    relay::words::Setup { terms, reactors, cell, steers }
}

/// Those who find things out for a relay. Names may wait for name servers.
fn relay_bench(execute: &Arc<dyn Execute>) -> anyhow::Result<Bench> {
    let failed = "cannot start worker threads";
    let resolvers = Workers::start_resolvers(RELAY_RESOLVERS, JOBS_MAX, Arc::clone(execute));
    let workers = Workers::start(WORKERS_DEFAULT, JOBS_MAX, Arc::clone(execute));
    let greeters = Some(Arc::new(resolvers.context(failed)?));
    Ok(Bench { workers: Arc::new(workers.context(failed)?), greeters })
}

/// The same for edges.
fn bench(config: &Config, execute: Arc<dyn Execute>) -> anyhow::Result<Bench> {
    let apart = || {
        Workers::start(GREETERS, STARTUPS_MAX, Arc::clone(&execute))
            .map(Workers::left_behind)
            .context("cannot start threads that look names up")
    };
    let greeters = config.global.use_dns.then(apart).transpose()?;
    // Half of them are for passwords. A module that hangs is not waited for at the end.
    let threads = if config.login.use_pam { 2 * PAM_CONVERSATIONS_MAX } else { WORKERS_DEFAULT };
    let workers = Workers::start(threads, JOBS_MAX, Arc::clone(&execute))
        .map(|workers| if config.login.use_pam { workers.left_behind() } else { workers })
        .context("cannot start worker threads")?;
    Ok(Bench { workers: Arc::new(workers), greeters: greeters.map(Arc::new) })
}

type Broker = (Sender<Arrival>, JoinHandle<()>);

fn start_broker(
    settings: BrokerConfig,
    running: Arc<Running>,
    kept: Receiver<Infallible>,
) -> anyhow::Result<Broker> {
    let (sender, connections) = bounded(HAND_OVERS_MAX);
    let thread = thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || broker::run(&settings, &connections, &running, &kept))
        .context("cannot start the broker thread")?;
    Ok((sender, thread))
}
