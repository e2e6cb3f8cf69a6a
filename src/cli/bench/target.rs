//! The server that is measured: where it is, who it is, and the key that opens it, where it is to open.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::flags::ServerFlags;
use super::proof::{self, Proof};
use super::usage;
use crate::base::escape;
use crate::cli::ssh::{self, SshFlags};
use crate::client::{Client, Options, Person, Voice, config, connection_config};
use crate::connection::{Answer, ClientConnectionConfig, Connection, Event, Query};
use crate::crypto::{KeyAlgorithm, PublicKey};
use crate::gateway::config::Disk;
use crate::reactor::{Driver, Fd};
use crate::services::forward::resolve;
use crate::shard::News;
use crate::transport::Client as Role;

/// How long one address may take to answer before the next is tried.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// What is told of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub address: String,
    /// As it identifies itself.
    pub software: String,
    /// Key exchange, host key and ciphers.
    pub algorithms: String,
    /// Its process, where that is here and can be seen.
    pub pid: Option<u32>,
}

impl Told {
    /// `pid`: its process, if somebody said.
    pub fn new(connection: &Connection<Role>, address: SocketAddr, pid: Option<u32>) -> Told {
        let is_here = address.ip().to_canonical().is_loopback();
        Told {
            address: address.to_string(),
            software: escape(connection.peer_ident()).to_string(),
            algorithms: connection.negotiated().map(ToString::to_string).unwrap_or_default(),
            pid: pid.or_else(|| usage::listener(address.port()).filter(|_| is_here)),
        }
    }
}

/// A server that has been met once.
pub struct Target {
    pub options: Options,
    pub address: SocketAddr,
    pub host_key: PublicKey,
    /// What it has let us in by; `None`: it was not asked to.
    pub proof: Option<Proof>,
    pub config: Arc<ClientConnectionConfig>,
    pub told: Told,
}

/// What the command line and the files say about the host; nothing is connected to yet.
///
/// # Errors
/// What is wrong with them.
pub fn read(server: &ServerFlags, voice: &Voice) -> Result<Options> {
    let flags = SshFlags {
        destination: server.destination.clone(),
        lines: server.lines.clone(),
        file: server.config.clone(),
        ..SshFlags::default()
    };
    let settled = config::read(&ssh::request(&flags)?, &Disk)?;
    voice.set_level(settled.options.level);
    settled.warnings.iter().for_each(|warning| voice.info(warning));
    let mut options = settled.options;
    if let Some(from) = &server.secret {
        options.secret = Some(proof::password(from, &options)?);
        // What is measured is what was asked for.
        options.pubkey = false;
    }
    if options.via.is_some() || options.proxy_command.is_some() {
        bail!("ProxyJump and ProxyCommand are in the way: a bench connects to the host itself");
    }
    Ok(options)
}

/// The address that answers. Only this machine's own, unless `allowed`.
///
/// # Errors
/// There is none, or it is somebody else's.
pub fn find(options: &Options, allowed: bool) -> Result<SocketAddr> {
    let (host, port) = (&options.host_name, options.port);
    let found = resolve(host, port).with_context(|| format!("{host} cannot be resolved"))?;
    let wanted = |at: &SocketAddr| if at.is_ipv4() { options.ipv4 } else { options.ipv6 };
    let mut why = anyhow::anyhow!("{host} has no address of the wanted family");
    for address in found.into_iter().filter(wanted) {
        if !allowed && !address.ip().to_canonical().is_loopback() {
            let named = named(host, &address.ip().to_string());
            bail!(
                "{named} is not this machine; if you may put load on it, say --i-may-load-this-host"
            );
        }
        match TcpStream::connect_timeout(&address, ANSWER_TIME) {
            Ok(_) => return Ok(address),
            // In the words of `tidegate ssh`.
            Err(error) => {
                let place = named(host, &address.ip().to_string());
                why = anyhow::anyhow!("connect to host {place} port {port}: {error}");
            }
        }
    }
    Err(why)
}

/// A host and its address, once where they are the same.
pub fn named(host: &str, address: &str) -> String {
    if host == address { host.to_owned() } else { format!("{host} ({address})") }
}

impl Target {
    /// Agrees on keys once, which tells who it is, and leaves: no user, key or permission is needed, and
    /// nothing is said that is worth a host that is known.
    ///
    /// # Errors
    /// It does not get that far.
    pub fn greet<D: Driver>(
        client: &mut Client<D>,
        options: Options,
        address: SocketAddr,
        (pid, patience): (Option<u32>, Duration),
    ) -> Result<Target> {
        let lost = |why: &str| anyhow::anyhow!("no key exchange with {address}: {why}");
        let plain = options.host_key_algorithms.iter().copied().filter(|one| !one.certified);
        let config = Arc::new(connection_config(&options, plain.collect())?);
        let socket = TcpStream::connect_timeout(&address, ANSWER_TIME)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let socket = Fd(socket.into_raw_fd());
        let link = client.shard().begin_client(socket, config);
        let link = link.context("no memory here")?;
        let until = client.now().after(patience);
        loop {
            client.turn(Some(until))?;
            while let Some((_, news)) = client.next_news() {
                match news {
                    News::Heard(Event::Query(Query::TrustHostKey { .. })) => {
                        client.shard().answer_client(link, Answer::Trust(true));
                    }
                    News::Heard(Event::KeyExchanged { first: true }) => {
                        let connection = client.shard().client(link).context("it has gone")?;
                        let told = Told::new(connection, address, pid);
                        let host_key =
                            connection.host_key().context("it has shown no key")?.clone();
                        client.leave(link, "it agrees on keys");
                        return Target::new(options, address, (host_key, None), told);
                    }
                    News::Ended { reason } => return Err(lost(&reason)),
                    _ => {}
                }
            }
            if client.now() >= until {
                return Err(lost("it takes too long"));
            }
        }
    }

    /// Logs in as `tidegate ssh` does, which finds the key that opens the server, or sees that the password
    /// does, and makes sure who it is. The login is ended again.
    ///
    /// # Errors
    /// It does not let us in, or not by what can be used again.
    pub fn meet<D: Driver>(
        client: &mut Client<D>,
        options: Options,
        address: SocketAddr,
        (pid, voice): (Option<u32>, &Voice),
    ) -> Result<Target> {
        let person = Person::new(options.batch);
        let (link, identity) = client.log_in_and_tell(&options, person, voice)?;
        let proof = Proof::new(&options, identity, person)?;
        let connection = client.shard().client(link).context("the server has gone")?;
        let host_key = connection.host_key().context("it has shown no key")?.clone();
        let told = Told::new(connection, address, pid);
        client.leave(link, "it lets us in");
        Target::new(options, address, (host_key, Some(proof)), told)
    }

    fn new(
        options: Options,
        address: SocketAddr,
        (host_key, proof): (PublicKey, Option<Proof>),
        told: Told,
    ) -> Result<Target> {
        // It shows the first of its keys that is asked for: this one, and no certificate.
        let own =
            |one: &KeyAlgorithm| !one.certified && one.signature.key_kind() == host_key.kind();
        let algorithms = options.host_key_algorithms.iter().copied().filter(own).collect();
        let config = Arc::new(connection_config(&options, algorithms)?);
        Ok(Target { options, address, host_key, proof, config, told })
    }
}
