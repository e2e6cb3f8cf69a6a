//! The relay: the process that serves logins which go on at hosts behind the gateway. It speaks with both
//! sides of each, with no rights to anything: hosts are found and connected, their keys judged and logins
//! signed by root's process, which it asks.

pub mod clerk;
pub mod destination;
mod dial;
pub mod keeper;
pub mod line;
pub mod words;

use std::cell::RefCell;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use tracing::{error, warn};

use self::line::{Asked, Line};
use self::words::{Ask, Found, Handed, Passage, Proof, Setup, Tell};
use super::audit::Remote;
use super::config::Config;
use super::delegate::RemoteSigner;
use super::edge::confine;
use super::edge::words::Ticket;
use super::execute::{Executor, Signer};
use super::figures::Figures;
use super::helper::keeper::Lie;
use super::helper::{self, NOT_BY_HAND};
use super::moving::{Exit, Pieces};
use super::recording::{Received, Recorders};
use super::reports::Reports;
use super::server::{Server, Settings};
use super::signals::{Signals, Woken};
use super::socket::Messenger;
use super::upstream::{self, Fleets};
use super::{generation, serve};
use crate::connection::{ConnectionConfig, LoginMethod};
use crate::crypto::{Certificate, PrivateKey, PublicKey};
use crate::limits::{PARCEL_BYTES_MAX, RELAY_FILES_MAX};
use crate::reactor::Fd;
use crate::services::upstream::{LoginKey, Trouble, Upstream, Way};
use crate::services::{self, Done, Grant, Luggage, RoutingDomain};
use crate::shard::{Ends, HandOver};

/// Takes logins that go on elsewhere.
pub trait Relays: Send + Sync {
    /// Never waits.
    ///
    /// # Errors
    /// Its number is that of another login.
    fn take(&self, connection: HandOver) -> Result<(), Lie>;

    /// Many wait for one to read: whoever can wait does.
    fn is_crowded(&self) -> bool {
        false
    }
}

/// How often it is looked whether the last connection has ended, once nothing comes any more.
const RETIRED_CHECK: Duration = Duration::from_millis(20);

/// The same where root's process is gone.
const ORPHAN_CHECK: Duration = Duration::from_millis(200);

/// Serves until the other end says stop, or until it has retired or is alone and its last connection has
/// ended. `log` writes log lines.
///
/// # Errors
/// The process was not started by a gateway, or could not give its rights up or start its reactors.
pub fn run(log: fn(&Reports)) -> anyhow::Result<()> {
    nix::sys::prctl::set_name(c"tidegate")?;
    let messenger = Arc::new(helper::parent()?);
    // Whoever ends all our processes at once ends root's too, which then says what is to become of this
    // one. Before any thread exists, so that all inherit the mask.
    let signals = Signals::catch(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])?;
    services::prepare().context("cannot prepare the process")?;
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let (len, heirloom) = messenger.receive(&mut buffer).context(NOT_BY_HAND)?;
    let Ok(Tell::Setup(setup)) = Tell::decode(buffer.get(..len).unwrap_or_default()) else {
        bail!("the gateway sent no configuration");
    };
    let figures = match messenger.receive(&mut buffer).context(NOT_BY_HAND)? {
        (len, Some(memory)) if buffer.get(..len) == Some(&*Tell::Figures.encode()) => {
            Arc::new(Figures::received(&memory)?)
        }
        _ => bail!("the gateway sent no memory for counts"),
    };
    // Files are read now or never.
    let (config, offers) = setup.terms.read()?;
    let connection = generation::connection_config(&config, offers, (setup.steers, true))?;
    serve::raise_open_files();
    setup.cell.enter(RELAY_FILES_MAX).context("cannot give root's rights up")?;
    let order = |ticket, order| Ask::Sign { ticket, order }.encode();
    let signer = Arc::new(RemoteSigner::new(Arc::clone(&messenger), order));
    let line = Arc::new(Line::new(Arc::clone(&messenger)));
    let recorders = Arc::new(Received::default());
    let ways = (Arc::clone(&signer) as _, Arc::clone(&recorders) as _, figures);
    let connection = Arc::new(connection);
    let (mut server, reports) = start(&setup, &config, connection, (&messenger, &line), ways)?;
    let log = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || log(&reports))
        .context("cannot start the log thread")?;
    // Every thread is there: from now on nothing but what serving takes, for all of them.
    confine::close(false).context("cannot confine the relay")?;
    server.open();
    messenger.send(&Ask::Ready.encode())?;
    let fleets = Fleets::default();
    let (exit, pieces) = (Arc::new(Exit::of_a_relay(Arc::clone(&messenger))), RefCell::default());
    let serving = Serving {
        messenger,
        server: &server,
        line,
        config,
        fleets,
        signer,
        recorders,
        exit,
        pieces,
    };
    let end = serving.serve(&mut buffer);
    serving.close();
    if end == End::Alone {
        serving.signer.inherit(heirloom);
        serving.outlive(&signals, &mut buffer);
    }
    serving.signer.close();
    server.stop();
    let _ = log.join();
    Ok(())
}

fn start(
    setup: &Setup,
    config: &Config,
    connection: Arc<ConnectionConfig>,
    (messenger, line): (&Arc<Messenger>, &Arc<Line>),
    (signer, recorders, figures): (Arc<dyn Signer>, Arc<dyn Recorders>, Arc<Figures>),
) -> anyhow::Result<(Server, Reports)> {
    let message = |entry| Ask::Audit(Box::new(entry)).encode().to_vec();
    let (reactors, executor) = (setup.reactors as usize, Executor::apart(signer));
    Server::start(Settings {
        uid: Some(setup.cell.uid),
        relay: Some(Arc::clone(line)),
        audit: Remote::wanted(config, messenger, message),
        alone: config.separates_connections(),
        recorders: Some(recorders),
        figures,
        ..Settings::apart(config, connection, reactors, executor)
    })
}

/// Why serving is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was told to, or has nothing left to serve.
    Told,
    /// Root's process is gone without a word.
    Alone,
}

struct Serving<'a> {
    messenger: Arc<Messenger>,
    server: &'a Server,
    line: Arc<Line>,
    config: Config,
    /// What is known of hosts, shared by all logins that go on at them.
    fleets: Fleets,
    signer: Arc<RemoteSigner>,
    /// Those of logins that have come or are about to.
    recorders: Arc<Received>,
    /// The way of logins to the program that has this one's place.
    exit: Arc<Exit>,
    /// Those of a login that is about to come.
    pieces: RefCell<Pieces>,
}

impl Serving<'_> {
    fn serve(&self, buffer: &mut [u8]) -> End {
        let mut retired = false;
        while !(retired && self.server.is_over()) {
            let pause = if retired { PollTimeout::try_from(RETIRED_CHECK) } else { Ok(NEVER) };
            let mut fds = [PollFd::new(self.messenger.as_owned_fd().as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, pause.unwrap_or(NEVER)) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(_) => return End::Alone,
            }
            let Ok(Some((len, passenger))) = helper::next_message(&self.messenger, buffer) else {
                return End::Alone;
            };
            match (Tell::decode(buffer.get(..len).unwrap_or_default()), passenger) {
                (Ok(Tell::Stop), _) => return End::Told,
                (Ok(Tell::Retire), _) => {
                    retired = true;
                    self.server.retire();
                }
                (Ok(tell), passenger) => self.told(tell, passenger),
                (Err(_), _) => error!("the gateway sent something that is not for the relay"),
            }
        }
        End::Told
    }

    /// Nobody answers any more.
    fn close(&self) {
        for ticket in self.line.close() {
            self.deliver(ticket, Done::Lost);
        }
    }

    /// Sessions are none of that end's: they go on until they end by themselves. The signer, which is there
    /// for them too, is heard meanwhile.
    fn outlive(&self, signals: &Signals, buffer: &mut [u8]) {
        if self.server.links() > 0 {
            warn!("The gateway's own process is gone; connections that are open go on");
        }
        while self.server.links() > 0 {
            let way = self.signer.messenger();
            let socket = way.iter().map(|way| way.as_owned_fd().as_fd()).collect::<Vec<_>>();
            match (signals.wait(&socket, Some(ORPHAN_CHECK)), &way) {
                (Ok(Woken::Signal(_)) | Err(_), _) => return,
                (Ok(Woken::Ready(_)), Some(way)) => self.signer.hear(way, buffer),
                _ => {}
            }
        }
    }

    fn told(&self, tell: Tell, passenger: Option<OwnedFd>) {
        match (tell, passenger) {
            (Tell::Ping, _) => {
                self.server.tell_losses();
                let _ = self.messenger.send(&Ask::Pong.encode());
            }
            (Tell::Recorder { link }, Some(socket)) => self.recorders.add(link, socket),
            (Tell::MoveOn, _) => self.server.move_on(&self.exit),
            // Where some are missing, so is the login.
            (Tell::Piece { link, number }, piece) => {
                let _ = self.pieces.borrow_mut().put((link, number), piece);
            }
            (Tell::HandOver(handed), socket) => {
                let (link, count) = (handed.link, handed.luggage.as_ref().map_or(0, |its| its.1));
                let pieces = self.pieces.borrow_mut().take_for(link, count);
                match socket.zip(pieces) {
                    Some((socket, pieces)) => self.take_over(*handed, socket, pieces),
                    None => {
                        error!(link, "a login is lost: there is no descriptor left for it");
                        self.line.over(link);
                    }
                }
            }
            (Tell::Signed { ticket, signature }, _) => self.signer.answer(ticket, signature),
            (Tell::Hosts { ticket, found }, _) => self.answer(ticket, |asked| {
                Done::Hosts(found.map(|found| Box::new(self.hosts(found, &asked.upstream))))
            }),
            (Tell::Way { ticket, found }, socket) => self.answer(ticket, |asked| {
                Done::Way(found.and_then(|passage| way(passage, socket, asked)).map(Box::new))
            }),
            (Tell::Judged { ticket, verdict }, _) => {
                self.answer(ticket, |_| Done::Judged(verdict));
            }
            (Tell::LoginSigned { ticket, signature }, _) => self.answer(ticket, |_| {
                let signature = Some(signature).filter(|bytes| !bytes.is_empty());
                Done::Signature(signature.map(Vec::into_boxed_slice))
            }),
            (Tell::Lost { ticket }, _) => self.answer(ticket, |_| Done::Lost),
            _ => error!("the gateway sent something that is not for the relay"),
        }
    }

    fn answer(&self, ticket: Ticket, done: impl FnOnce(Asked) -> Done) {
        if let Some(asked) = self.line.answered(ticket) {
            self.deliver(ticket, done(asked));
        }
    }

    fn deliver(&self, ticket: Ticket, done: Done) {
        let Ticket { shard, token } = ticket;
        self.server.deliver(shard as usize, token, done);
    }

    fn hosts(&self, found: Found, asked: &Upstream) -> Upstream {
        let Found { hosts, user } = found;
        Upstream { fleet: self.fleets.of(hosts), finder: None, user, ..asked.clone() }
    }

    fn take_over(&self, handed: Handed, socket: OwnedFd, pieces: Vec<OwnedFd>) {
        let Handed { link, peer, local, record, inbound, outbound, grant, upstream, luggage } =
            handed;
        let upstream = destination::decode(&upstream, &self.config, &self.fleets);
        let (Some(mut grant), Ok(upstream)) = (Grant::decode(&grant), upstream) else {
            error!(link, "a login came without a readable grant");
            self.line.over(link);
            return;
        };
        grant.upstream = Some(Arc::new(upstream));
        self.server.take_over(Box::new(HandOver {
            socket: Fd(socket.into_raw_fd()),
            ends: Ends { peer, local, routing: RoutingDomain::default() },
            serial: link,
            session: Box::default(),
            record,
            inbound,
            outbound,
            grant: Box::new(grant),
            proofs: Vec::new(),
            token: Box::default(),
            luggage: luggage.map(|(bytes, _)| {
                let descriptors = pieces.into_iter().map(|fd| Fd(fd.into_raw_fd())).collect();
                Box::new(Luggage { bytes, descriptors })
            }),
        }));
    }
}

/// The way to a host, as a shard wants it.
fn way(passage: Passage, socket: Option<OwnedFd>, asked: Asked) -> Result<Way, Trouble> {
    let Passage { at, host_key_algorithms, proof } = passage;
    let socket = socket.ok_or_else(|| Trouble::plain("the gateway has no descriptor left"))?;
    let (key, method) = credentials(proof, asked.made).map_err(|why| Trouble {
        said: "the gateway cannot use its key".to_owned(),
        logged: format!("{}: {why}", asked.upstream.credential.place()),
    })?;
    let mut config = (*asked.upstream.config).clone();
    let mut transport = (*config.transport).clone();
    transport.host_key_algorithms = host_key_algorithms;
    config.transport = Arc::new(transport);
    let (addresses, config) = (Default::default(), Arc::new(config));
    Ok(Way { addresses, socket: Some((socket, at)), config, key, method })
}

fn credentials(proof: Proof, made: Option<PrivateKey>) -> Result<upstream::Proof, String> {
    match (proof, made) {
        (Proof::Agent, None) => Ok((LoginKey::Agent, LoginMethod::None)),
        (Proof::Key(blob), None) => {
            let public = PublicKey::from_blob(&blob).map_err(|why| why.to_string())?;
            upstream::shown(LoginKey::Elsewhere(Box::new(public)))
        }
        (Proof::Certificate(blob), Some(key)) => {
            let certificate = Certificate::from_blob(&blob).map_err(|why| why.to_string())?;
            let (certificate, public) = (Box::new(certificate), key.public());
            let algorithm = upstream::algorithm_of(public)?;
            let method = LoginMethod::Certificate { certificate, algorithm };
            Ok((LoginKey::Here(Arc::new(key)), method))
        }
        _ => Err("another kind of key than was asked for".to_owned()),
    }
}

const NEVER: PollTimeout = PollTimeout::NONE;
