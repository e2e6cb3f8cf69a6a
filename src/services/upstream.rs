//! Where a login goes on that is not served here: the hosts behind the gateway, the way into them,
//! and what is known of their keys.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::base::Instant;
use crate::connection::{ClientConnectionConfig, LoginMethod};
use crate::crypto::{PrivateKey, PublicKey, SignatureAlgorithm};
use crate::limits::UPSTREAM_REST_TIME;
use crate::wire::proxy::ProxyVersion;

/// Where one login goes on. Made by policy alone.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Any of these will do.
    pub fleet: Arc<Fleet>,
    /// Who says which those are; until then there are none.
    pub finder: Option<Finder>,
    /// Who logs in there.
    pub user: String,
    pub credential: Credential,
    /// Who logs in here and from where, for the host's log.
    pub on_behalf_of: String,
    /// The client's address.
    pub client: IpAddr,
    /// The file of host keys.
    pub known_hosts: PathBuf,
    pub host_keys: HostKeyPolicy,
    /// How authorities may have signed certificates of hosts.
    pub ca_algorithms: Vec<SignatureAlgorithm>,
    /// The host is told for whom we come, before SSH begins.
    pub announces: Option<ProxyVersion>,
    /// Logins of one user may go on over one connection, which is kept for so long without any.
    pub share: Option<Duration>,
    /// What the connection is made with.
    pub config: Arc<ClientConnectionConfig>,
}

impl PartialEq for Upstream {
    fn eq(&self, other: &Upstream) -> bool {
        self.user == other.user
            && self.credential == other.credential
            && self.finder == other.finder
            && self.fleet.has_hosts_of(&other.fleet)
    }
}

impl Eq for Upstream {}

impl Upstream {
    /// Other logins may go on over its connection: that is wanted, the credential is the gateway's
    /// own, and the host was not told for which client the connection is.
    pub fn is_shareable(&self) -> bool {
        self.share.is_some() && self.credential != Credential::Agent && self.announces.is_none()
    }

    /// A login of the same user may go on over the connection that was made for this one: it is to
    /// the same hosts, under the same name, with the same credential and by the same settings. A
    /// certificate names the login that it was made for, so that must look the same too.
    pub fn shares_with(&self, other: &Upstream) -> bool {
        let same_name = self.on_behalf_of == other.on_behalf_of;
        let (own, its) = (&self.config, &other.config);
        self.is_shareable()
            && other.is_shareable()
            && self.user == other.user
            && self.credential == other.credential
            && (same_name || matches!(self.credential, Credential::Identity(_)))
            && self.fleet.has_hosts_of(&other.fleet)
            && self.share == other.share
            && self.known_hosts == other.known_hosts
            && self.host_keys == other.host_keys
            && self.ca_algorithms == other.ca_algorithms
            && own.server_alive == its.server_alive
            && own.transport.preferences.rekey == its.transport.preferences.rekey
    }
}

/// A program that knows where a login goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finder {
    /// Its path and its arguments.
    pub words: Vec<String>,
    /// The account that it runs as.
    pub user: String,
}

/// What opens the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The key in this file.
    Identity(PathBuf),
    /// A fresh key, and a certificate for it that the key in this file signs for one login.
    Authority(PathBuf),
    /// The client's agent has the key.
    Agent,
}

impl Credential {
    /// Where the key is, for the log.
    pub fn place(&self) -> String {
        match self {
            Credential::Identity(path) | Credential::Authority(path) => path.display().to_string(),
            Credential::Agent => "the client's agent".to_owned(),
        }
    }
}

/// What becomes of a host whose key is in no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeyPolicy {
    /// It is refused.
    Strict,
    /// Its key is noted. One that has changed is refused all the same.
    AcceptNew,
}

impl HostKeyPolicy {
    pub const NAMES: [(&'static str, HostKeyPolicy); 2] =
        [("strict", HostKeyPolicy::Strict), ("accept-new", HostKeyPolicy::AcceptNew)];
}

/// Hosts that are as good as each other. All logins to them share what is known of their state.
#[derive(Debug)]
pub struct Fleet {
    hosts: Vec<Host>,
    turn: AtomicUsize,
}

/// One of them.
#[derive(Debug)]
pub struct Host {
    /// A name or an address.
    pub name: String,
    pub port: u16,
    /// Connections to it.
    live: AtomicUsize,
    /// When it was last found out of order, in nanoseconds; zero: never.
    failed_at: AtomicU64,
}

impl Fleet {
    pub fn new(hosts: impl IntoIterator<Item = (String, u16)>) -> Fleet {
        let hosts = hosts.into_iter().map(|(name, port)| Host {
            name,
            port,
            live: AtomicUsize::new(0),
            failed_at: AtomicU64::new(0),
        });
        Fleet { hosts: hosts.collect(), turn: AtomicUsize::new(0) }
    }

    /// The same hosts, whatever their state.
    fn has_hosts_of(&self, other: &Fleet) -> bool {
        let same =
            |(one, another): (&Host, &Host)| one.name == another.name && one.port == another.port;
        self.hosts.len() == other.hosts.len() && self.hosts.iter().zip(&other.hosts).all(same)
    }

    /// Their names and ports.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, u16)> {
        self.hosts.iter().map(|host| (host.name.as_str(), host.port))
    }

    pub fn host(&self, number: usize) -> Option<&Host> {
        self.hosts.get(number)
    }

    /// The hosts' numbers in the order in which they are to be tried: the one with the fewest
    /// connections first, by turns where that is the same, and those that failed a moment ago last.
    pub fn order(&self, now: Instant) -> VecDeque<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.hosts.len().max(1);
        let mut order: Vec<usize> = (0..self.hosts.len()).map(|n| (n + turn) % count).collect();
        order.sort_by_key(|n| self.hosts.get(*n).map(|host| host.rank(now)));
        order.into()
    }
}

impl Host {
    fn rank(&self, now: Instant) -> (bool, usize) {
        let failed = Instant::from_nanos(self.failed_at.load(Ordering::Relaxed));
        let failing = failed > Instant::ZERO && failed.after(UPSTREAM_REST_TIME) > now;
        (failing, self.live.load(Ordering::Relaxed))
    }

    /// What is told where it cannot be connected to; of `why` without the address, if that is its name.
    pub fn unreached(&self, why: &str) -> String {
        let is_own = |(at, _): &(&str, &str)| {
            let at = at.parse::<SocketAddr>();
            at.is_ok_and(|at| at.ip().to_string() == self.name && at.port() == self.port)
        };
        let why = why.split_once(": ").filter(is_own).map_or(why, |(_, rest)| rest);
        format!("cannot connect to {self}: {why}")
    }

    /// A connection to it begins.
    pub fn enter(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    /// One has ended.
    pub fn leave(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// It could not be reached; the next logins try others first.
    pub fn failed(&self, now: Instant) {
        self.failed_at.store(now.nanos(), Ordering::Relaxed);
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} port {}", self.name, self.port)
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, host) in self.hosts.iter().enumerate() {
            write!(out, "{}{host}", if n > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What it takes to connect to one host.
#[derive(Debug)]
pub struct Way {
    pub addresses: VecDeque<SocketAddr>,
    /// The host is connected already, at this address.
    pub socket: Option<(OwnedFd, SocketAddr)>,
    pub config: Arc<ClientConnectionConfig>,
    pub key: LoginKey,
    /// How it is shown.
    pub method: LoginMethod,
}

/// Who has the key of our login at a host.
#[derive(Clone, Debug)]
pub enum LoginKey {
    Here(Arc<PrivateKey>),
    /// Whoever signs for the gateway.
    Elsewhere(Box<PublicKey>),
    /// The client's agent.
    Agent,
}

impl LoginKey {
    /// `None`: nobody knows yet which key of the agent it is.
    pub fn public(&self) -> Option<&PublicKey> {
        match self {
            LoginKey::Here(key) => Some(key.public()),
            LoginKey::Elsewhere(key) => Some(key),
            LoginKey::Agent => None,
        }
    }
}

/// Why a host is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One line for the user.
    pub said: String,
    /// All of it, for the log.
    pub logged: String,
}

impl Trouble {
    /// The user hears what the log does.
    pub fn plain(text: impl Into<String>) -> Trouble {
        let said = text.into();
        Trouble { logged: said.clone(), said }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{ClientConfig, Preferences};

    #[test]
    fn an_address_that_cannot_be_reached_is_told_once() {
        let fleet = Fleet::new([
            ("192.0.2.1".to_owned(), 22),
            ("::1".to_owned(), 22),
            ("web".to_owned(), 22),
        ]);
        for (host, why, told) in [
            (0, "192.0.2.1:22: no", "cannot connect to 192.0.2.1 port 22: no"),
            (0, "192.0.2.1:23: no", "cannot connect to 192.0.2.1 port 22: 192.0.2.1:23: no"),
            (1, "[::1]:22: no", "cannot connect to ::1 port 22: no"),
            (2, "192.0.2.1:22: no", "cannot connect to web port 22: 192.0.2.1:22: no"),
            (2, "not known: no", "cannot connect to web port 22: not known: no"),
        ] {
            assert_eq!(fleet.host(host).expect("it").unreached(why), told);
        }
    }

    #[test]
    fn fleets_are_the_same_by_their_hosts() {
        let fleet = |hosts: &[(&str, u16)]| {
            Fleet::new(hosts.iter().map(|(name, port)| ((*name).to_owned(), *port)))
        };
        let one = fleet(&[("a", 22), ("b", 22)]);
        one.host(0).expect("a host").enter();
        assert!(one.has_hosts_of(&fleet(&[("a", 22), ("b", 22)])));
        for other in [&[("a", 22)][..], &[("a", 22), ("b", 23)], &[("b", 22), ("a", 22)], &[]] {
            assert!(!one.has_hosts_of(&fleet(other)) && !fleet(other).has_hosts_of(&one));
        }
    }

    /// SECURITY case 107.
    #[test]
    fn case_107_connections_are_for_logins_that_would_make_the_same() {
        let fleet = |name: &str| Arc::new(Fleet::new([(name.to_owned(), 22)]));
        let preferences = Preferences::new("Test_1").expect("valid software");
        let config = ClientConnectionConfig::new(Arc::new(ClientConfig::new(preferences)));
        let one = Upstream {
            fleet: fleet("a"),
            finder: None,
            user: "deploy".into(),
            credential: Credential::Identity("/key".into()),
            on_behalf_of: "ann from 192.0.2.1".into(),
            client: IpAddr::from([192, 0, 2, 1]),
            known_hosts: "/known".into(),
            host_keys: HostKeyPolicy::Strict,
            ca_algorithms: Vec::new(),
            announces: None,
            share: Some(Duration::from_secs(60)),
            config: Arc::new(config.clone()),
        };
        let elsewhere = IpAddr::from([192, 0, 2, 2]);
        let far = Upstream { client: elsewhere, on_behalf_of: "ann, there".into(), ..one.clone() };
        assert!(one.shares_with(&one.clone()) && one.shares_with(&far));
        // A certificate would bear another's name.
        let authority = Credential::Authority("/key".into());
        let certified = Upstream { credential: authority.clone(), ..one.clone() };
        assert!(certified.shares_with(&certified.clone()));
        assert!(!certified.shares_with(&Upstream { credential: authority, ..far }));
        let silent = ClientConnectionConfig { server_alive: Some((Duration::ZERO, 1)), ..config };
        let others = [
            Upstream { fleet: fleet("b"), ..one.clone() },
            Upstream { user: "root".into(), ..one.clone() },
            Upstream { credential: Credential::Identity("/other".into()), ..one.clone() },
            Upstream { known_hosts: "/other".into(), ..one.clone() },
            Upstream { host_keys: HostKeyPolicy::AcceptNew, ..one.clone() },
            Upstream { ca_algorithms: SignatureAlgorithm::ALL.to_vec(), ..one.clone() },
            Upstream { config: Arc::new(silent), ..one.clone() },
            Upstream { share: Some(Duration::ZERO), ..one.clone() },
            Upstream { share: None, ..one.clone() },
            certified,
        ];
        for other in &others {
            assert!(!one.shares_with(other) && !other.shares_with(&one), "{other:?}");
        }
        // What is the client's own, or is said of it, is nobody else's.
        let agent = Upstream { credential: Credential::Agent, ..one.clone() };
        let told = Upstream { announces: Some(ProxyVersion::Two), ..one };
        assert!(!agent.shares_with(&agent.clone()) && !told.shares_with(&told.clone()));
    }

    #[test]
    fn the_least_busy_healthy_host_comes_first() {
        let fleet = Fleet::new(["a", "b", "c"].map(|name| (name.to_owned(), 22)));
        let now = Instant::from_nanos(1_000_000_000_000);
        let host = |n: usize| fleet.host(n).expect("a host");
        let firsts: Vec<usize> = (0..3).filter_map(|_| fleet.order(now).front().copied()).collect();
        assert_eq!(firsts, [0, 1, 2], "by turns");
        host(0).enter();
        host(1).enter();
        assert_eq!(fleet.order(now).front(), Some(&2));
        host(2).failed(now);
        assert_eq!(fleet.order(now).back(), Some(&2));
        let later = now.after(UPSTREAM_REST_TIME).after(Duration::from_nanos(1));
        assert_eq!(fleet.order(later).front(), Some(&2), "it is tried again");
        host(0).leave();
        host(2).enter();
        assert_eq!(fleet.order(later).front(), Some(&0));
        assert_eq!(fleet.to_string(), "a port 22, b port 22, c port 22");
    }
}
