//! Logins that go on at a host behind the gateway. The host is the gateway itself, by another
//! address: so whatever clients do and check is done and checked through the proxy too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate::base::SeededEntropy;
use tidegate::connection::{ClientConnectionConfig, LoginMethod};
use tidegate::crypto::{PublicKey, SignatureAlgorithm};
use tidegate::reactor::Fd;
use tidegate::reactor::sim::SimWorld;
use tidegate::services::Done;
use tidegate::services::upstream::{
    Credential, Fleet, HostKeyPolicy, LoginKey, Trouble, Upstream, Way,
};
use tidegate::transport::{ClientConfig, Preferences, RekeyLimits};

use crate::chance::{one_in, pick};
use crate::keys;

/// The gateway, as it is reached by itself, and an address where nobody listens.
const HERE: ([u8; 4], u16) = ([10, 9, 9, 9], 22);
const NOBODY: ([u8; 4], u16) = ([10, 9, 9, 8], 22);

/// How logins go on.
#[derive(Clone, Debug)]
pub struct Onward {
    config: Arc<ClientConnectionConfig>,
    /// What is in the way of the first host: it has no name, nobody listens, or nothing.
    first: Obstacle,
    /// Logins of one user share a connection, which is kept for so long without any.
    pub share: Option<Duration>,
    pub credential: Credential,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    None,
    Unknown,
    Refuses,
}

impl Onward {
    /// `packets`: about how many the busiest client exchanges.
    pub fn draw(chance: &mut SeededEntropy, mut preferences: Preferences, packets: u64) -> Onward {
        if one_in(chance, 3) {
            let packets = (packets / (1 + chance.below(4))).max(80);
            preferences.rekey = RekeyLimits { packets: packets as u32, ..RekeyLimits::default() };
        }
        let transport = Arc::new(ClientConfig::new(preferences));
        let mut config = ClientConnectionConfig::new(transport);
        config.window_bytes = pick(chance, [20_000, 300_000, 2 << 20, 2 << 20]);
        config.packet_bytes = pick(chance, [2_000, 32 << 10, 32 << 10]);
        let first =
            pick(chance, [Obstacle::None, Obstacle::None, Obstacle::Unknown, Obstacle::Refuses]);
        let kept = Duration::from_secs(3);
        let share = pick(chance, [None, Some(Duration::ZERO), Some(kept), Some(kept)]);
        let credential = Credential::Identity("/key".into());
        Onward { config: Arc::new(config), first, share, credential }
    }

    /// Without obstacles; connections are shared.
    pub fn sharing(preferences: Preferences, kept: Duration) -> Onward {
        let config = ClientConnectionConfig::new(Arc::new(ClientConfig::new(preferences)));
        let credential = Credential::Identity("/key".into());
        let (first, share) = (Obstacle::None, Some(kept));
        Onward { config: Arc::new(config), first, share, credential }
    }

    /// Makes the gateway one that can be reached by itself.
    pub fn publish(world: &SimWorld, listener: Fd) {
        world.publish(HERE.into(), listener);
        let nobody = world.listen();
        world.publish(NOBODY.into(), nobody);
        world.close(nobody);
    }

    pub fn fleet() -> Arc<Fleet> {
        Arc::new(Fleet::new(["first", "second"].map(|name| (name.to_owned(), 22))))
    }

    /// Where a login as `p0-name` goes on: as `u0-name`.
    pub fn of(&self, user: &str, fleet: &Arc<Fleet>) -> Option<Arc<Upstream>> {
        let rest = user.strip_prefix('p')?;
        Some(Arc::new(Upstream {
            fleet: Arc::clone(fleet),
            user: format!("u{rest}"),
            credential: self.credential.clone(),
            on_behalf_of: user.to_owned(),
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            known_hosts: "/known".into(),
            host_keys: HostKeyPolicy::Strict,
            finder: None,
            ca_algorithms: Vec::new(),
            announces: None,
            share: self.share,
            config: Arc::clone(&self.config),
        }))
    }

    /// What a worker answers who looks for the way.
    pub fn way(&self, host: usize) -> Done {
        let at = match (host, self.first) {
            (0, Obstacle::Unknown) => return Done::Way(Err(Trouble::plain("no such host"))),
            (0, Obstacle::Refuses) => NOBODY,
            _ => HERE,
        };
        let public = keys::user().public();
        let algorithm = SignatureAlgorithm::for_key(public.kind())[0];
        Done::Way(Ok(Box::new(Way {
            addresses: [SocketAddr::from(at)].into(),
            config: Arc::clone(&self.config),
            socket: None,
            key: LoginKey::Here(Arc::new(keys::user_again())),
            method: LoginMethod::PublicKey { key: Box::new(public.clone()), algorithm },
        })))
    }

    pub fn judge(key: &PublicKey) -> Done {
        let known = key == keys::host().public() || key == keys::slow_host().public();
        Done::Judged(if known { Ok(()) } else { Err(Trouble::plain("another key")) })
    }
}
