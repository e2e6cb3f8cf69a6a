//! A generation of root's: the edge accepts and hears logins, this process answers it, the processes
//! of accounts serve them. Nothing that a peer has sent is parsed here before a login.

use super::*;
use crate::gateway::broker::{self, BrokerConfig};
use crate::gateway::edge::Cell;
use crate::gateway::edge::words::Setup;
use crate::gateway::logbook::Recorder;
use crate::gateway::monitor::hear::{Post, Staff};
use crate::gateway::monitor::{self, root_bytes};
use crate::gateway::workers::{Execute, Reply, Workers};
use crate::limits::{GREETERS, HAND_OVERS_MAX, JOBS_MAX, STARTUPS_MAX, WORKERS_DEFAULT};
use crate::shard::HandOver;

pub(super) fn start(plan: Plan) -> anyhow::Result<Generation> {
    let config = Arc::clone(&plan.config);
    let cell = Cell::find(config.global.edge_user.as_deref())?;
    let offers: Vec<HostKey> = plan.keys.keys.iter().map(host_keys::HostKey::offer).collect();
    let setup = setup(&plan, &cell, &offers);
    let hosts = hosts(&offers);
    let connection = Arc::new(connection_config(&config, offers, setup.steers)?);
    let certificates = plan.keys.keys.iter().filter_map(|key| key.certificate.clone()).collect();
    let private: Arc<[PrivateKey]> = plan.keys.keys.into_iter().map(|k| k.private).collect();
    let (keep, kept) = bounded(0);
    let (accounts, broker) = start_broker(
        BrokerConfig {
            settings: setup.config.clone(),
            host_keys: Arc::clone(&private),
            certificates,
            reactors: plan.reactors,
            log_format: config.global.log_format,
            log_level: config.login.log_level,
            own_log_level: config.own_log_level(),
            syslog: plan.syslog,
            idle_time: plan.idle_time,
            logbook: plan.logbook.clone(),
        },
        kept,
    )?;
    let startups = Arc::new(Startups::new(&config.global));
    let executor: Arc<dyn Execute> = Arc::new(Executor {
        greets: Some(Greets { shared: Arc::clone(&connection), names: names(&config) }),
        startups: Some(Arc::clone(&startups)),
        policy: Some(Policy::new(Arc::clone(&config)).beside(cell.uid)),
        signer: Arc::new(Arc::clone(&private)) as Arc<dyn Signer>,
        open_files: plan.open_files,
        recorder: plan.logbook.map(|logbook| logbook as Arc<dyn Recorder>),
    });
    let mut helpers = vec![broker];
    let mut clerk = Clerk::new(Arc::clone(&private), hosts, accounts, startups);
    clerk.proxies.clone_from(&config.global.proxies);
    clerk.routes = config.asks_routing();
    let mut server = None;
    if config.goes_on_elsewhere() {
        let mut settings =
            relay(&config, plan.reactors, connection, private, Arc::clone(&executor));
        settings.renews = plan.renews;
        let (started, reports) = Server::start(settings)?;
        helpers.push(start_log(plan.log, reports)?);
        clerk.relay = Some(started.intake());
        server = Some(started);
    }
    let clerk = Arc::new(clerk);
    let staff = staff(&config, &clerk, executor)?;
    let plan = monitor::Plan {
        setup,
        listeners: plan.listeners,
        log_format: config.global.log_format,
        log_level: config.login.log_level,
        own_log_level: config.own_log_level(),
        syslog: plan.syslog,
    };
    let keeper = Keeper::start(plan, Arc::clone(&clerk), staff);
    let keeper = keeper.context("the edge does not serve; its own words are in the log")?;
    Ok(Generation { edge: Some(Edge { keeper, clerk }), server, keep, helpers })
}

/// All that an edge is to know.
fn setup(plan: &Plan, cell: &Cell, offers: &[HostKey]) -> Setup {
    let config = &plan.config;
    let blob = |offer: &HostKey| offer.public.blob().to_vec();
    let certificate = |offer: &HostKey| offer.certificate.as_ref().map(|one| one.blob().to_vec());
    Setup {
        config: config.dump(&config.login).into_bytes(),
        host_keys: offers.iter().map(blob).collect(),
        certificates: offers.iter().filter_map(certificate).collect(),
        banner: config.login.banner.as_ref().map(|banner| banner.text.to_string()),
        algorithms: config.pubkey_algorithms_offered(),
        reactors: plan.reactors as u32,
        first_serial: first_serial(plan.number),
        uid: cell.uid,
        gid: cell.gid,
        root: root_bytes(&cell.root),
        steers: steers(config),
        // It has none of the Match blocks.
        asks_users: config.asks_users() || config.has_match_blocks(),
        routes: config.asks_routing(),
    }
}

/// What our host keys are shown as.
fn hosts(offers: &[HostKey]) -> Vec<Vec<u8>> {
    let certificates = offers.iter().filter_map(|offer| offer.certificate.as_ref());
    let blobs = offers.iter().map(|offer| offer.public.blob());
    blobs.chain(certificates.map(|one| one.blob())).map(<[u8]>::to_vec).collect()
}

/// The shards of logins that go on at hosts behind the gateway. They are in this process still: they
/// connect, and the keys that open those hosts are root's. They accept nothing.
fn relay(
    config: &Config,
    reactors: usize,
    connection: Arc<ConnectionConfig>,
    host_keys: Arc<[PrivateKey]>,
    execute: Arc<dyn Execute>,
) -> Settings {
    Settings {
        listeners: Vec::new(),
        // Connections bring their numbers along.
        first_serial: 1,
        connection,
        host_keys,
        reactors,
        driver: config.global.driver,
        startups: Arc::new(Startups::unbounded()),
        execute,
        uid: Some(nix::unistd::geteuid().as_raw()),
        line: None,
        broker: None,
        tcp_keepalive: config.global.tcp_keep_alive,
        proxies: None,
        greeting: None,
        renews: false,
        looks_names_up: false,
        routes: false,
    }
}

fn staff(config: &Config, clerk: &Arc<Clerk>, execute: Arc<dyn Execute>) -> anyhow::Result<Staff> {
    let replies = || vec![Arc::new(Post(Arc::clone(clerk))) as Arc<dyn Reply>];
    let apart = || {
        Workers::start(GREETERS, STARTUPS_MAX, Arc::clone(&execute), replies())
            .map(Workers::left_behind)
            .context("cannot start threads that look names up")
    };
    let greeters = config.global.use_dns.then(apart).transpose()?;
    let workers = Workers::start(WORKERS_DEFAULT, JOBS_MAX, Arc::clone(&execute), replies())
        .context("cannot start worker threads")?;
    Ok(Staff { workers, greeters, waiting: Default::default() })
}

type Broker = (Sender<Box<HandOver>>, JoinHandle<()>);

fn start_broker(settings: BrokerConfig, kept: Receiver<Infallible>) -> anyhow::Result<Broker> {
    let (sender, connections) = bounded(HAND_OVERS_MAX);
    let thread = thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || broker::run(&settings, &connections, &kept))
        .context("cannot start the broker thread")?;
    Ok((sender, thread))
}
