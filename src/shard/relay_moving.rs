//! Pairs that go on in the program that has this one's place: a client's connection, and the one to the host where its
//! login goes on. Both stand still together, and leave as one. A connection that clients share stays, and so do
//! those that share it.

use super::relay::{Couple, Dial, Down, End, Relay, Up};
use super::relay_pace::Pace;
use super::*;
use crate::connection::{
    ChannelId, ClientConnectionConfig, Conn, Connection, ConnectionRecord, LoginMethod,
};
use crate::crypto::KeyAlgorithm;
use crate::limits::{MOVING_UNOPENED_BYTES_MAX, RELAY_LUGGAGE_BYTES_MAX};
use crate::services::upstream::{LoginKey, Upstream, Way};
use crate::services::{Luggage, Outgoing, RoutingDomain, Unpacking};
use crate::transport::Client;
use crate::wire::Malformed;

/// What is kept of a pair that has moved, but for its connections.
struct Kept {
    host: usize,
    listening: u32,
    x11: bool,
    agent: bool,
    timed: bool,
    couples: Vec<Couple>,
}

/// The host's side of it.
struct Far {
    at: SocketAddr,
    since: Instant,
    conn: Connection<Client>,
    config: Arc<ClientConnectionConfig>,
    inbound: Vec<u8>,
}

impl<D: Driver, O: Outside> Shard<D, O> {
    /// The link with which this one moves: of a pair, the client's.
    pub(super) fn leader(&self, key: u32) -> u32 {
        let relay = self.links.get(key as usize).and_then(|link| link.relay.as_deref());
        let leader = relay.filter(|relay| matches!(relay.end, End::Up(_)) && !relay.is_shared());
        leader.and_then(|relay| relay.other).unwrap_or(key)
    }

    /// A client's link, and the one to its host, if there is one for it alone.
    pub(super) fn together(&self, key: u32) -> impl Iterator<Item = u32> + Clone + use<D, O> {
        [Some(key), self.host_of(key)].into_iter().flatten()
    }

    fn host_of(&self, key: u32) -> Option<u32> {
        let relay = self.links.get(key as usize)?.relay.as_deref()?;
        let other = relay.other.filter(|_| matches!(relay.end, End::Down(_)))?;
        (!self.is_shared(other)).then_some(other)
    }

    /// Nothing of a pair is only here, and nothing that one side has said waits for the other.
    pub(super) fn could_move_together(&self, key: u32) -> bool {
        let link = self.links.get(key as usize);
        let host = self.host_of(key).and_then(|host| self.links.get(host as usize));
        let (Some(link), Some(host)) = (link, host) else { return false };
        let (Some(near), Some(far)) = (&link.relay, &host.relay) else { return false };
        let End::Down(down) = &near.end else { return false };
        let plain = matches!(down.dial, Dial::Ready) && !down.upstream.is_shareable();
        let told = down.untold.is_empty() && down.trials.is_empty();
        let over = down.borrowed.as_ref().is_none_or(|borrowed| borrowed.is_done());
        let alone = near.lines.len() == 1 && far.lines.len() == 1;
        let passed = |relay: &Relay| relay.asked.is_empty() && relay.global.is_none();
        let open = near.couples.iter().all(|couple| couple.is_open);
        let still = |link: &Link| {
            let fits = link.inbound.len() <= MOVING_UNOPENED_BYTES_MAX;
            let waits = link.outgoing.has_waiting();
            link.is_calm() && fits && !waits && link.conn.export().is_some()
        };
        let pair = host.state == LinkState::Open && [link, host].into_iter().all(still);
        plain && told && over && alone && passed(near) && passed(far) && open && pair
    }

    /// What the host is to hear is with the kernel, and nothing comes from it.
    pub(super) fn is_host_quiet(&self, key: u32) -> bool {
        let host = self.host_of(key).and_then(|host| self.links.get(host as usize));
        host.is_none_or(|host| host.in_flight == 0 && host.outgoing.is_idle())
    }

    /// Where a client's login has gone on. A program may have said so.
    pub(super) fn upstream_of(&self, key: u32) -> Option<Arc<Upstream>> {
        match &self.links.get(key as usize)?.relay.as_deref()?.end {
            End::Down(down) => Some(Arc::clone(&down.upstream)),
            End::Up(_) => None,
        }
    }

    /// Sessions at the host of a client, and its other channels there.
    pub(super) fn count_couples(&self, key: u32) -> (u32, u32) {
        let relay = self.links.get(key as usize).and_then(|link| link.relay.as_deref());
        let couples = relay.map_or(&[][..], |relay| &relay.couples);
        let sessions = couples.iter().filter(|couple| couple.is_session).count();
        (sessions as u32, (couples.len() - sessions) as u32)
    }

    // ---- Leaving -----------------------------------------------------------------------------

    /// Packs what a client's link has beside its services. `None`: too much has come from the host, or something is
    /// open that was not.
    pub(super) fn pack_pair(&mut self, key: u32, out: &mut Luggage) -> Option<()> {
        let host = self.host_of(key);
        out.boolean(host.is_some());
        let Some(host) = host else { return Some(()) };
        self.pack_relay(key, out)?;
        let pool = self.driver.pool();
        let link = self.links.get_mut(host as usize)?;
        if link.inbound.len() > MOVING_UNOPENED_BYTES_MAX {
            return None;
        }
        out.string(link.ends.peer.to_string().as_bytes());
        out.uint64(link.since.nanos());
        out.string(&link.conn.export()?.to_bytes().ok()?);
        out.string(link.inbound.bytes(pool));
        let End::Up(up) = &link.relay.as_ref()?.end else { return None };
        let algorithms = &up.way.config.transport.host_key_algorithms;
        out.uint32(algorithms.len() as u32);
        algorithms.iter().for_each(|one| out.string(one.name().as_bytes()));
        if out.bytes.len() > RELAY_LUGGAGE_BYTES_MAX {
            return None;
        }
        out.descriptor(link.socket);
        Some(())
    }

    fn pack_relay(&mut self, key: u32, out: &mut Luggage) -> Option<()> {
        let relay = self.relay(key)?;
        let End::Down(down) = &relay.end else { return None };
        out.uint32(down.host as u32);
        out.uint32(down.listening);
        [down.x11, down.agent, relay.timed].into_iter().for_each(|flag| out.boolean(flag));
        out.uint32(relay.couples.len() as u32);
        for couple in &relay.couples {
            let Couple { own, other, is_session, closing, pace, .. } = *couple;
            out.uint32(own.number());
            out.uint32(other.number());
            let flags = [is_session, closing, pace.terminal, pace.timed];
            flags.into_iter().for_each(|flag| out.boolean(flag));
            out.uint64(pace.used.nanos());
            out.uint64(pace.timeout.map_or(0, |time| time.as_nanos() as u64));
        }
        Some(())
    }

    /// The pair is in other hands: the host's link ends here without a word, and nobody hears of it.
    pub(super) fn part_from_pair(&mut self, key: u32) {
        let host = self.host_of(key);
        if let Some(link) = self.links.get_mut(key as usize) {
            link.relay = None;
        }
        let Some(host) = host else { return };
        let Some(link) = self.links.get_mut(host as usize) else { return };
        link.socket = None;
        if let Some(End::Up(up)) = link.relay.take().map(|relay| relay.end)
            && let Some(its) = up.upstream.fleet.host(up.host)
        {
            its.leave();
        }
        self.mark_dirty(host);
        self.terminate(host);
    }

    // ---- Arriving ----------------------------------------------------------------------------

    /// Takes up what [`Shard::pack_pair`] has packed.
    pub(super) fn unpack_pair(
        &mut self,
        key: u32,
        from: &mut Unpacking<'_>,
    ) -> Result<(), Malformed> {
        if !from.boolean()? {
            return Ok(());
        }
        let link = self.links.get(key as usize).ok_or(Malformed::Range)?;
        let grant = link.grant.as_ref().ok_or(Malformed::Range)?;
        let upstream = grant.upstream.clone().ok_or(Malformed::Range)?;
        let kept = Kept::unpack(key, from)?;
        let far = Far::unpack(from, &upstream, self.now())?;
        let socket = from.open_descriptor()?;
        let host = self.insert_host(key, far, socket, (&upstream, kept.host));
        self.join_again(key, host, upstream, kept);
        Ok(())
    }

    fn insert_host(
        &mut self,
        key: u32,
        far: Far,
        socket: Fd,
        (upstream, host): (&Arc<Upstream>, usize),
    ) -> u32 {
        let link = self.links.get(key as usize);
        let (local, serial) = link.map_or((far.at, 0), |link| (link.ends.local, link.serial));
        let ends = Ends { peer: far.at, local, routing: RoutingDomain::default() };
        let mut conn = Conn::Client(far.conn);
        conn.relay();
        let other = self.insert(conn, Outgoing::default(), socket, ends, serial);
        // The login there is over: what opened the host is not asked for again.
        let way = Way {
            addresses: VecDeque::new(),
            socket: None,
            config: far.config,
            key: LoginKey::Agent,
            method: LoginMethod::None,
        };
        let (upstream, way) = (Arc::clone(upstream), Arc::new(way));
        if let Some(host) = upstream.fleet.host(host) {
            host.enter();
        }
        let up = Up { upstream, host, way, proof: None, trouble: None, share: None };
        if let Some(link) = self.links.get_mut(other as usize) {
            (link.authenticated, link.since) = (true, far.since);
            link.inbound = Inbound::with(far.inbound);
            link.relay = Some(Box::new(Relay::new(End::Up(Box::new(up)))));
        }
        other
    }

    fn join_again(&mut self, key: u32, host: u32, upstream: Arc<Upstream>, kept: Kept) {
        let Kept { host: number, listening, x11, agent, timed, couples } = kept;
        let down = Down::new(upstream, VecDeque::new());
        let dial = Dial::Ready;
        let down = Down { host: number, dial, listening, x11, agent, ..down };
        if let Some(link) = self.links.get_mut(key as usize) {
            link.conn.relay();
            link.relay = Some(Box::new(Relay::new(End::Down(Box::new(down)))));
            for pace in couples.iter().map(|couple| couple.pace).filter(|pace| pace.timed) {
                link.used = link.used.max(pace.used);
                link.check_idle_at(pace.used);
            }
        }
        for (one, other) in [(key, host), (host, key)] {
            let Some(relay) = self.relay(one) else { continue };
            (relay.other, relay.timed) = (Some(other), timed);
            relay.lines.push(other);
            relay.couples = match one == key {
                true => couples.iter().map(|couple| Couple { link: host, ..*couple }).collect(),
                false => couples.iter().map(|couple| couple.turned(key)).collect(),
            };
        }
        self.mark_ready(host);
    }
}

impl Couple {
    /// As the host's link has it.
    fn turned(&self, client: u32) -> Couple {
        let pace = Pace { terminal: self.pace.terminal, ..Pace::default() };
        Couple { own: self.other, link: client, other: self.own, pace, ..*self }
    }
}

impl Kept {
    /// The other link of couples is not known yet.
    fn unpack(key: u32, from: &mut Unpacking<'_>) -> Result<Kept, Malformed> {
        let (host, listening) = (from.uint32()? as usize, from.uint32()?);
        let (x11, agent, timed) = (from.boolean()?, from.boolean()?, from.boolean()?);
        let count = from.uint32()?;
        let mut couples = Vec::new();
        for _ in 0..count {
            let own = ChannelId::from_number(from.uint32()?);
            let other = ChannelId::from_number(from.uint32()?);
            let (is_session, closing) = (from.boolean()?, from.boolean()?);
            let (terminal, timed) = (from.boolean()?, from.boolean()?);
            let used = Instant::from_nanos(from.uint64()?);
            let timeout = Some(from.uint64()?).filter(|time| *time > 0).map(Duration::from_nanos);
            let pace = Pace { terminal, timed, used, timeout };
            let (link, is_open, kind) = (key, true, "");
            couples.push(Couple { own, link, other, is_session, is_open, kind, closing, pace });
        }
        Ok(Kept { host, listening, x11, agent, timed, couples })
    }
}

impl Far {
    /// Keys are exchanged again as this program is configured to, and the host is asked for the key that is known.
    fn unpack(
        from: &mut Unpacking<'_>,
        upstream: &Upstream,
        now: Instant,
    ) -> Result<Far, Malformed> {
        let at = text(from.string()?)?.parse().map_err(|_| Malformed::Range)?;
        let since = Instant::from_nanos(from.uint64()?);
        let record = ConnectionRecord::from_bytes(from.string()?)?;
        let inbound = from.string()?.to_vec();
        let mut transport = (*upstream.config.transport).clone();
        transport.host_key_algorithms.clear();
        for _ in 0..from.uint32()? {
            let algorithm = KeyAlgorithm::from_name(text(from.string()?)?);
            transport.host_key_algorithms.push(algorithm.ok_or(Malformed::Range)?);
        }
        let transport = Arc::new(transport);
        let config = Arc::new(ClientConnectionConfig { transport, ..(*upstream.config).clone() });
        let conn = Connection::<Client>::import(Arc::clone(&config), record, now);
        let conn = conn.map_err(|_| Malformed::Range)?;
        Ok(Far { at, since, conn, config, inbound })
    }
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::Range)
}
