//! The process that acts for one account: takes authenticated connections over from the process
//! that accepted them as root, and serves them with nothing but the account's own rights.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{error, info};

use super::broker::DELEGATE_FD;
use super::config;
use super::execute::{Executor, Signer};
use super::parcel::Parcel;
use super::serve;
use super::server::{Server, Settings};
use super::socket::Messenger;
use super::startups::Startups;
use crate::crypto::{PublicKey, SignatureAlgorithm};
use crate::limits::{PARCEL_BYTES_MAX, REKEY_TIME_MAX};
use crate::reactor::Fd;
use crate::services::Grant;
use crate::shard::{Ends, HandOver, Report};

/// How long a process stays without a connection.
const IDLE_TIME: Duration = Duration::from_secs(30);
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// Asks the process that holds the host keys, and hands its answers to whoever waits for them.
struct RemoteSigner {
    messenger: Messenger,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Sender<Vec<u8>>>>,
}

impl Signer for RemoteSigner {
    fn sign(
        &self,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Option<Box<[u8]>> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = bounded(1);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, answer);
        let parcel = Parcel::Sign {
            ticket,
            host_key: u32::try_from(host_key).ok()?,
            algorithm: algorithm.name().to_owned(),
            message: message.to_vec(),
        };
        let sent = self.messenger.send(&parcel.encode(), None);
        let signature = sent.ok().and_then(|()| answered.recv_timeout(REKEY_TIME_MAX).ok());
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&ticket);
        signature.filter(|signature| !signature.is_empty()).map(Vec::into_boxed_slice)
    }
}

/// Serves until the other end says stop or is gone.
///
/// # Errors
/// The process was not started by a gateway, or could not start its reactors.
pub fn run(reactors: usize, log: fn(&Receiver<Report>)) -> anyhow::Result<()> {
    // SAFETY: the parent has put its socket there for us and nothing else in this process knows
    // the number.
    let socket = unsafe { OwnedFd::from_raw_fd(DELEGATE_FD) };
    let messenger = Messenger::from_fd(socket);
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let (len, _) = messenger
        .receive(&mut buffer)
        .context("this command is started by a gateway that runs as root, not by hand")?;
    let Ok(Parcel::Setup { config, host_keys }) = Parcel::decode(buffer.get(..len).unwrap_or(&[]))
    else {
        bail!("the gateway sent no configuration");
    };
    let signer = Arc::new(RemoteSigner {
        messenger: messenger.try_clone()?,
        next: AtomicU64::new(0),
        waiting: Mutex::new(BTreeMap::new()),
    });
    let remote = Arc::clone(&signer) as Arc<dyn Signer>;
    let (server, reports) = start(&config, &host_keys, reactors, remote)?;
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || log(&reports))
        .context("cannot start the log thread")?;
    let server = Arc::new(Mutex::new(Some(server)));
    let received = Arc::new(AtomicU64::new(0));
    watch_idleness(messenger.try_clone()?, Arc::clone(&server), Arc::clone(&received))?;
    loop {
        let (len, passenger) = match messenger.receive(&mut buffer) {
            Ok((0, _)) => break,
            Ok(message) => message,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        match (Parcel::decode(buffer.get(..len).unwrap_or(&[])), passenger) {
            (Ok(Parcel::Stop), _) => break,
            (Ok(Parcel::Signature { ticket, signature }), _) => {
                let mut waiting = signer.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = waiting.remove(&ticket) {
                    let _ = answer.send(signature);
                }
            }
            (Ok(connection @ Parcel::Connection { .. }), Some(socket)) => {
                received.fetch_add(1, Ordering::AcqRel);
                let server = server.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(server) = &*server {
                    take_over(server, connection, socket);
                }
            }
            _ => error!("the gateway sent something that is not for this process"),
        }
    }
    let last = server.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(server) = last {
        server.stop();
    }
    Ok(())
}

fn start(
    config: &[u8],
    host_keys: &[Vec<u8>],
    reactors: usize,
    signer: Arc<dyn Signer>,
) -> anyhow::Result<(Server, Receiver<Report>)> {
    let config = config::parse(config).context("the gateway's configuration does not parse")?;
    let keys = host_keys
        .iter()
        .map(|blob| PublicKey::from_blob(blob))
        .collect::<Result<Vec<_>, _>>()
        .context("the gateway's host keys do not parse")?;
    let offers = serve::offers(&config, &keys);
    let connection = serve::connection_config(&config, &config.login, offers)?;
    let open_files = serve::raise_open_files();
    let executor = Executor { policy: None, signer, open_files };
    let settings = Settings {
        listeners: Vec::new(),
        connection: Arc::new(connection),
        host_keys: Arc::from([]),
        reactors,
        startups: Startups::new(usize::MAX, 0, usize::MAX),
        execute: Arc::new(executor),
        broker: None,
        tcp_keepalive: config.global.tcp_keep_alive,
        greeting: None,
    };
    Server::start(settings)
}

fn take_over(server: &Server, parcel: Parcel, socket: OwnedFd) {
    let Parcel::Connection { serial, peer, local, record, inbound, grant } = parcel else { return };
    let Some(grant) = Grant::decode(&grant) else {
        error!(link = serial, "a connection came without a readable grant");
        return;
    };
    server.take_over(Box::new(HandOver {
        socket: Fd(socket.into_raw_fd()),
        ends: Ends { peer, local },
        serial,
        record,
        inbound,
        grant: Box::new(grant),
    }));
}

/// Tells the parent when nothing has been open for a while; it answers with a farewell unless
/// another connection is on its way.
fn watch_idleness(
    messenger: Messenger,
    server: Arc<Mutex<Option<Server>>>,
    received: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let watch = move || {
        let mut idle = Duration::ZERO;
        loop {
            thread::sleep(IDLE_CHECK);
            let links = match &*server.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(server) => server.links(),
                None => return,
            };
            idle = if links == 0 { idle + IDLE_CHECK } else { Duration::ZERO };
            if idle >= IDLE_TIME {
                idle = Duration::ZERO;
                let received = received.load(Ordering::Acquire);
                info!("Idle: asking to end");
                if messenger.send(&Parcel::Idle { received }.encode(), None).is_err() {
                    return;
                }
            }
        }
    };
    thread::Builder::new()
        .name("idle".to_owned())
        .spawn(watch)
        .map(|_| ())
        .context("cannot start the idle thread")
}
