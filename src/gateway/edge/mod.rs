//! The edge: the process that speaks with whoever has not logged in. It accepts, identifies, exchanges
//! keys and hears logins, with no rights to anything: what takes rights it asks root's process for.
//! A login that is over leaves for the process that acts for its account.
//!
//! All cores share one such process, with a shard a core: connections go to the shard that has the
//! least to do, and whoever counts them (MaxStartups, penalties) does so in one place. Under
//! `TidegateIsolation per-connection` there is one for each connection, which root's process accepts and
//! counts, and ends with it.

mod answers;
pub(super) mod confine;
pub mod line;
pub mod words;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::error;

use self::answers::Answers;
use self::line::Line;
use self::words::{Ask, Setup, Tell};
use super::audit::Remote;
use super::batch;
use super::config::Config;
use super::execute::{Executor, OwnKeys};
use super::figures::Figures;
use super::helper::{self, NOT_BY_HAND};
use super::mailbox::Mailbox;
use super::reports::Reports;
use super::server::{Server, Settings};
use super::signals::{SIGNALS, Signals};
use super::socket::Messenger;
use super::startups::{Refused, Standing, Startups};
use super::{generation, serve, upstream};
use crate::connection::ConnectionConfig;
use crate::limits::{EDGE_ENDING_TIME, EDGE_FILES_MAX, EDGE_FILES_SINGLE_MAX, PARCEL_BYTES_MAX};
use crate::services;

/// How often it is looked whether the last connection has ended, once nothing comes any more.
const RETIRED_CHECK: Duration = Duration::from_millis(20);

/// Serves until the other end says stop or is gone, or until it has retired and its last connection
/// has ended. `log` writes log lines.
///
/// # Errors
/// The process was not started by a gateway, or could not give its rights up or start its reactors.
pub fn run(log: fn(&Reports)) -> anyhow::Result<()> {
    nix::sys::prctl::set_name(c"tidegate")?;
    // Its shards hear what has come of many logins, and take the CPU from nobody who is in a session.
    batch::enter();
    let messenger = Arc::new(helper::parent()?);
    // Whoever ends all our processes at once ends root's too, which then says what is to become of this
    // one. Before any thread exists, so that all inherit the mask.
    let _held = Signals::catch(&SIGNALS)?;
    services::prepare().context("cannot prepare the process")?;
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let Begun { setup, listeners, mailboxes, figures, standings } =
        hear_setup(&messenger, &mut buffer)?;
    // Files are read now or never.
    let prepared = Prepared::new(&setup)?;
    let single = prepared.config.separates_connections();
    let files_max = if single { EDGE_FILES_SINGLE_MAX } else { EDGE_FILES_MAX };
    setup.cell.enter(files_max).context("cannot give root's rights up")?;
    standings.iter().for_each(|standing| prepared.startups.inherit(standing));
    let (mut server, reports) =
        prepared.start(&setup, (listeners, mailboxes, figures), &messenger)?;
    let log = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || log(&reports))
        .context("cannot start the log thread")?;
    // Every thread is there: from now on nothing but what serving takes, for all of them.
    confine::close(!single).context("cannot confine the edge")?;
    server.open();
    messenger.send(&Ask::Ready.encode())?;
    Serving { messenger, server: &server }.serve(&mut buffer);
    if server.stop_within(EDGE_ENDING_TIME) {
        let _ = log.join();
    }
    Ok(())
}

/// What an edge is started with.
struct Begun {
    setup: Setup,
    listeners: Vec<Arc<OwnedFd>>,
    mailboxes: Vec<Messenger>,
    figures: Arc<Figures>,
    standings: Vec<Standing>,
}

fn hear_setup(messenger: &Messenger, buffer: &mut [u8]) -> anyhow::Result<Begun> {
    let (mut setup, mut figures, mut standings) = (None, None, Vec::new());
    let (mut listeners, mut mailboxes) = (Vec::new(), Vec::new());
    loop {
        let (len, passenger) = messenger.receive(buffer).context(NOT_BY_HAND)?;
        match (Tell::decode(buffer.get(..len).unwrap_or_default()), passenger) {
            (Ok(Tell::Setup(told)), None) => setup = Some(*told),
            (Ok(Tell::Standings(some)), None) => standings.extend(some),
            (Ok(Tell::Listener), Some(socket)) => listeners.push(Arc::new(socket)),
            (Ok(Tell::Mailbox), Some(socket)) => mailboxes.push(Messenger::from_fd(socket)),
            (Ok(Tell::Figures), Some(memory)) => figures = Some(Figures::received(&memory)?),
            (Ok(Tell::Begin), None) => break,
            _ => bail!("the gateway sent no configuration"),
        }
    }
    let setup = setup.context("the gateway sent no configuration")?;
    let figures = Arc::new(figures.context("the gateway sent no memory for counts")?);
    Ok(Begun { setup, listeners, mailboxes, figures, standings })
}

/// What is made while files can be read.
struct Prepared {
    config: Config,
    connection: Arc<ConnectionConfig>,
    startups: Arc<Startups>,
}

impl Prepared {
    fn new(setup: &Setup) -> anyhow::Result<Prepared> {
        let (config, offers) = setup.terms.read()?;
        let mut connection = generation::connection_config(&config, offers, (setup.steers, true))?;
        let mut transport = (*connection.transport).clone();
        transport.user_algorithms.clone_from(&setup.algorithms);
        connection.transport = Arc::new(transport);
        connection.user_algorithms.clone_from(&setup.algorithms);
        connection.asks_users = setup.asks_users;
        connection.separators = upstream::separators(setup.takes_targets);
        // Root's process believes nobody else.
        connection.verifies_elsewhere = true;
        connection.banner.clone_from(&setup.banner);
        let startups = Arc::new(Startups::new(&config.global));
        serve::raise_open_files();
        Ok(Prepared { config, connection: Arc::new(connection), startups })
    }

    fn start(
        self,
        setup: &Setup,
        (listeners, mailboxes, figures): (Vec<Arc<OwnedFd>>, Vec<Messenger>, Arc<Figures>),
        messenger: &Arc<Messenger>,
    ) -> anyhow::Result<(Server, Reports)> {
        let executor = Executor::apart(Arc::new(OwnKeys::default()));
        let message = |entry| Ask::Audit(Box::new(entry)).encode().to_vec();
        let audit = Remote::wanted(&self.config, messenger, message);
        let (config, connection, reactors) =
            (self.config, self.connection, setup.reactors as usize);
        let answers =
            Answers { connection: Arc::clone(&connection), startups: Arc::clone(&self.startups) };
        let answers = Arc::new(answers);
        let mailbox = |messenger| Mailbox::new(messenger, Box::new(Arc::clone(&answers)));
        let single = config.separates_connections();
        let settings = Settings::apart(&config, connection, reactors, executor);
        let global = config.global;
        Server::start(Settings {
            listeners,
            first_serial: setup.first_serial,
            startups: self.startups,
            proxies: global.proxies.map(|all| (all, global.proxy_time)),
            line: Some(Line::new(Arc::clone(messenger), single)),
            mailboxes: mailboxes.into_iter().map(mailbox).collect(),
            alone: single,
            routes: setup.routes,
            audit,
            figures,
            ..settings
        })
    }
}

struct Serving<'a> {
    messenger: Arc<Messenger>,
    server: &'a Server,
}

impl Serving<'_> {
    fn serve(&self, buffer: &mut [u8]) {
        let mut retired = false;
        while !(retired && self.server.is_over()) {
            if retired {
                let socket = self.messenger.as_owned_fd().as_fd();
                let pause = PollTimeout::try_from(RETIRED_CHECK).unwrap_or(PollTimeout::ZERO);
                match poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], pause) {
                    Ok(0) | Err(Errno::EINTR) => continue,
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
            let (len, passenger) = match self.messenger.receive(buffer) {
                Ok((0, _)) => return,
                Ok(message) => message,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            match (Tell::decode(buffer.get(..len).unwrap_or_default()), passenger) {
                (Ok(Tell::Stop), _) => return,
                (Ok(Tell::Retire), _) => {
                    retired = true;
                    self.server.retire();
                }
                (Ok(Tell::Adopt { asks: false }), Some(socket)) => self.server.adopt(socket),
                (Ok(Tell::Adopt { asks: true }), Some(socket)) => {
                    if !self.server.ask(socket) {
                        return;
                    }
                }
                (Ok(Tell::Seated), None) => self.server.let_in(),
                (Ok(Tell::TurnedAway { penalised }), None) => {
                    let penalty = Refused::TooManyPenalties;
                    self.server.turn_away(if penalised { penalty } else { Refused::TooMany });
                    return;
                }
                (Ok(Tell::Ping), None) => {
                    self.server.tell_losses();
                    let _ = self.messenger.send(&Ask::Pong.encode());
                }
                _ => error!("the gateway sent something that is not for the edge"),
            }
        }
    }
}
