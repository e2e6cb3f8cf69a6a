//! The way of a login to a host behind the gateway: which one, over which address, whose key it
//! has, and our own login there. What then passes between the two connections is in `relay`.

use std::collections::VecDeque;
use std::os::fd::IntoRawFd;

use super::relay::{Dial, Down, End, HostProof, Relay, Up};
use super::*;
use crate::connection::{Answer, AuthFailed, Conn, Connection, LoginMethod, Query};
use crate::crypto::ShownKey;
use crate::limits::{
    AGENT_OFFER_TIME, CONNECT_TIME_MAX, UPSTREAM_LOGIN_TIME_MAX, UPSTREAM_NEWS_TIME,
};
use crate::reactor::Errno;
use crate::services::upstream::{Credential, Host, LoginKey, Trouble, Upstream};
use crate::services::{Outgoing, RoutingDomain, Surroundings};
use crate::transport::Error;
use crate::wire::proxy::{self, ProxyOrigin};

impl<D: Driver, O: Outside> Shard<D, O> {
    /// The login is over and goes on elsewhere.
    pub(super) fn begin_relay(&mut self, key: u32, upstream: Arc<Upstream>) {
        let order = upstream.fleet.order(self.driver.now());
        let waits = upstream.credential == Credential::Agent;
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.conn.relay();
        link.relay = Some(Box::new(Relay::new(End::Down(Box::new(Down::new(upstream, order))))));
        if !waits {
            return self.find_host(key);
        }
        let deadline = self.driver.now().after(AGENT_OFFER_TIME);
        if let Some((down, ..)) = self.down(key) {
            down.borrowed = Some(Box::default());
        }
        self.set_deadline(key, Some(deadline));
    }

    /// All that a login needs is here: it goes on.
    pub(super) fn find_host(&mut self, key: u32) {
        let asks = self.down(key).is_some_and(|(down, ..)| down.upstream.finder.is_some());
        match asks {
            true => self.ask_for_hosts(key),
            false => self.go_on(key),
        }
    }

    /// A program knows where the login goes on.
    fn ask_for_hosts(&mut self, key: u32) {
        let link = self.serial(key);
        let Some((down, in_flight, generation)) = self.down(key) else { return };
        *in_flight += 1;
        let upstream = Arc::clone(&down.upstream);
        let token = Token { key, generation, tag: TAG_WAY };
        let asker = self.asker(key);
        self.submit_job(token, Job::FindHosts { link, upstream, asker });
    }

    fn hosts_found(&mut self, key: u32, found: Result<Box<Upstream>, Trouble>) {
        let now = self.driver.now();
        let Some((down, ..)) = self.down(key) else { return };
        match found {
            Ok(upstream) => {
                down.order = upstream.fleet.order(now);
                down.upstream = Arc::from(upstream);
                self.go_on(key);
            }
            Err(trouble) => {
                let (host, why) = ("unknown".to_owned(), trouble.logged.clone());
                down.trouble = Some(trouble);
                self.report(key, What::UpstreamFailed { host, why });
                self.try_next_host(key);
            }
        }
    }

    pub(super) fn down(&mut self, key: u32) -> Option<(&mut Down, &mut u16, u16)> {
        let link = self.links.get_mut(key as usize)?;
        let open = link.state == LinkState::Open;
        match &mut link.relay.as_mut().filter(|_| open)?.end {
            End::Down(down) => Some((down, &mut link.in_flight, link.generation)),
            End::Up(_) => None,
        }
    }

    pub(super) fn try_next_host(&mut self, key: u32) {
        let (now, link) = (self.driver.now(), self.serial(key));
        let Some((down, in_flight, generation)) = self.down(key) else { return };
        let Some(host) = down.order.pop_front() else {
            let said = match &down.trouble {
                Some(trouble) => trouble.said.clone(),
                None => "there is no host to go on to".to_owned(),
            };
            self.given_up(key, &said);
            return;
        };
        down.host = host;
        down.asked_at = now;
        down.dial = Dial::Asking;
        *in_flight += 1;
        let upstream = Arc::clone(&down.upstream);
        let token = Token { key, generation, tag: TAG_WAY };
        let asker = self.asker(key);
        self.submit_job(token, Job::FindWay { link, upstream, host, subject: None, asker });
    }

    /// The number of a login in the log; of a connection to a host, that of the login it was made for.
    fn serial(&self, key: u32) -> u64 {
        self.links.get(key as usize).map_or(0, |link| link.serial)
    }

    /// A worker has found the way to a host, or not.
    pub(super) fn way_found(&mut self, key: u32, done: Done) {
        let Some((down, ..)) = self.down(key) else { return };
        if !matches!(down.dial, Dial::Asking) {
            // A connection that the client had before is lost, and the client with it.
            return;
        }
        match done {
            Done::Hosts(found) => self.hosts_found(key, found),
            Done::Way(Ok(mut way)) => {
                let socket = way.socket.take();
                down.addresses.clone_from(&way.addresses);
                down.way = Some(Arc::from(way));
                match socket {
                    Some((socket, at)) => self.begin_upstream(key, Fd(socket.into_raw_fd()), at),
                    None => self.try_next_address(key, "it has no address"),
                }
            }
            Done::Way(Err(trouble)) => self.host_failed(key, trouble),
            _ => self.host_failed(key, Trouble::plain("a worker failed")),
        }
    }

    /// `why`: the address before it was of no use.
    fn try_next_address(&mut self, key: u32, why: &str) {
        let deadline = self.driver.now().after(CONNECT_TIME_MAX);
        let Some((down, in_flight, generation)) = self.down(key) else { return };
        let Some(at) = down.addresses.pop_front() else {
            let host = down.upstream.fleet.host(down.host);
            let told = host.map_or_else(|| why.to_owned(), |host| host.unreached(why));
            let trouble = Trouble::plain(told);
            self.host_failed(key, trouble);
            return;
        };
        down.dial = Dial::Connecting;
        *in_flight += 1;
        let token = Token { key, generation, tag: TAG_CONNECT };
        self.connect_for(token, at);
        self.set_deadline(key, Some(deadline));
    }

    /// An attempt to connect is over; the socket is ours again.
    pub(super) fn upstream_attempted(
        &mut self,
        key: u32,
        fd: Fd,
        at: SocketAddr,
        result: Result<u32, Errno>,
    ) {
        let now = self.driver.now();
        let late = self.links.get(key as usize).is_some_and(|link| link.is_late(now));
        self.set_deadline(key, None);
        let wanted = self.down(key).is_some_and(|(down, ..)| matches!(down.dial, Dial::Connecting));
        match result {
            Ok(_) if wanted => self.begin_upstream(key, fd, at),
            Err(errno) if wanted => {
                self.close_socket(fd);
                let why = match late {
                    true => format!("{at}: no answer in time"),
                    false => format!("{at}: {errno}"),
                };
                self.try_next_address(key, &why);
            }
            _ => self.close_socket(fd),
        }
    }

    fn close_socket(&mut self, fd: Fd) {
        if fd.0 >= 0 {
            self.driver.close(fd);
        }
    }

    /// The host is connected: our side of the protocol begins.
    fn begin_upstream(&mut self, key: u32, fd: Fd, at: SocketAddr) {
        self.rewind_agent(key);
        let mut outgoing = Outgoing::default();
        let mut around = Surroundings {
            now: self.driver.now(),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let (client, local, serial) = (link.ends.peer, link.ends.local, link.serial);
        let Some(End::Down(down)) = link.relay.as_mut().map(|relay| &mut relay.end) else { return };
        let Some(way) = down.way.clone() else { return };
        let config = Arc::clone(&way.config);
        let origin = ProxyOrigin::Client { client, server: local };
        let header = down.upstream.announces.map(|version| proxy::encode(version, &origin));
        let begun = outgoing.with_env(&mut around, |env, _| match header {
            Some(header) if !env.out.append(&header) => Err(Error::Invariant("no room")),
            _ => Connection::client(config, env),
        });
        let (upstream, host) = (Arc::clone(&down.upstream), down.host);
        let Some(Ok(connection)) = begun else {
            outgoing.abandon(self.driver.pool());
            self.driver.close(fd);
            self.host_failed(key, Trouble::plain("the gateway is out of memory"));
            return;
        };
        down.dial = Dial::Shaking;
        let ends = Ends { peer: at, local, routing: RoutingDomain::default() };
        let other = self.insert(Conn::Client(connection), outgoing, fd, ends, serial);
        if let Some(host) = upstream.fleet.host(host) {
            host.enter();
        }
        let up = Up { upstream, host, way, proof: None, trouble: None, share: None };
        if let Some(link) = self.links.get_mut(other as usize) {
            let mut relay = Relay::new(End::Up(Box::new(up)));
            relay.other = Some(key);
            relay.lines.push(key);
            link.relay = Some(Box::new(relay));
        }
        if let Some(relay) = self.links.get_mut(key as usize).and_then(|link| link.relay.as_mut()) {
            relay.other = Some(other);
            relay.lines.push(other);
        }
        let deadline = self.driver.now().after(UPSTREAM_LOGIN_TIME_MAX);
        self.set_deadline(other, Some(deadline));
        self.mark_ready(other);
    }

    pub(super) fn set_deadline(&mut self, key: u32, at: Option<Instant>) {
        if let Some(link) = self.links.get_mut(key as usize) {
            link.deadline = at;
            self.mark_dirty(key);
        }
    }

    /// The time for what a link was about has come.
    pub(super) fn expire_deadline(&mut self, key: u32) {
        let now = self.driver.now();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if !link.is_late(now) {
            return;
        }
        if self.agent_is_late(key) {
            return;
        }
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let generation = link.generation;
        let lost = match link.relay.as_ref().map(|relay| &relay.end) {
            Some(End::Down(down)) => match &down.dial {
                Dial::Connecting => {
                    self.cancel(Token { key, generation, tag: TAG_CONNECT });
                    return;
                }
                Dial::Lost(why) => why.to_string(),
                _ => return,
            },
            Some(End::Up(up)) if up.share.is_some() => "no login goes on over it".to_owned(),
            Some(End::Up(_)) => "the login took too long".to_owned(),
            None => return,
        };
        link.deadline = None;
        self.close_link(key, disconnect::BY_APPLICATION, &lost);
    }

    // ---- Our login ---------------------------------------------------------------------------

    fn up(&mut self, key: u32) -> Option<(&mut Up, &mut u16, u16)> {
        let link = self.links.get_mut(key as usize)?;
        match &mut link.relay.as_mut()?.end {
            End::Up(up) => Some((up, &mut link.in_flight, link.generation)),
            End::Down(_) => None,
        }
    }

    /// What the protocol wants to know of a client's owner.
    pub(super) fn ask_upstream(&mut self, key: u32, query: Query) {
        let link = self.serial(key);
        let Some((up, in_flight, generation)) = self.up(key) else { return };
        let token = Token { key, generation, tag: TAG_JOB };
        let job = match query {
            Query::TrustHostKey { key: public, algorithm, certificate, session, signature } => {
                let shown = ShownKey { key: public, algorithm, certificate };
                if up.upstream.credential == Credential::Agent {
                    let (host_key, signature) = (shown.blob().into(), signature.clone());
                    up.proof = Some(HostProof { host_key, signature });
                }
                let (upstream, host) = (Arc::clone(&up.upstream), up.host);
                Job::JudgeHost { link, upstream, host, shown, session, signature }
            }
            Query::SignLogin { algorithm, message, session, .. } => match up.way.key.clone() {
                LoginKey::Here(key) => Job::SignLogin { key, algorithm, message },
                LoginKey::Elsewhere(_) => {
                    let upstream = Arc::clone(&up.upstream);
                    Job::HaveLoginSigned { link, upstream, algorithm, session: *session }
                }
                LoginKey::Agent => {
                    let other = self.links.get(key as usize).and_then(|l| l.relay.as_ref()?.other);
                    if let Some(other) = other {
                        self.sign_by_agent(other, key, algorithm, &message);
                    }
                    return;
                }
            },
            Query::Compute(task) => Job::Compute(task),
            _ => {
                let why = "no such question in a client";
                self.close_link(key, disconnect::BY_APPLICATION, why);
                return;
            }
        };
        *in_flight += 1;
        self.submit_job(token, job);
    }

    /// What a worker thinks of the host's key; `None`: the link is over.
    pub(super) fn host_judged(&mut self, key: u32, verdict: Result<(), Trouble>) -> Option<Answer> {
        let Err(trouble) = verdict else { return Some(Answer::Trust(true)) };
        let logged = trouble.logged.clone();
        if let Some((up, ..)) = self.up(key) {
            up.trouble = Some(trouble);
        }
        self.close_link(key, disconnect::HOST_KEY_NOT_VERIFIABLE, &logged);
        None
    }

    /// The keys of the connection are agreed on: we log in.
    pub(super) fn log_in_upstream(&mut self, key: u32) {
        let Some((up, ..)) = self.up(key) else { return };
        let user = up.upstream.user.clone();
        let (with_agent, mut method) = (up.way.key.public().is_none(), up.way.method.clone());
        let other = self.links.get(key as usize).and_then(|link| link.relay.as_ref()?.other);
        if with_agent {
            let next = other.and_then(|other| self.next_agent_key(other));
            method = next.unwrap_or(LoginMethod::None);
        }
        self.with_env(key, |conn, env| match conn {
            Conn::Client(connection) => connection.authenticate(&user, method, env),
            Conn::Server(_) => Ok(false),
        });
    }

    pub(super) fn upstream_refused_us(&mut self, key: u32, failed: &AuthFailed) {
        let other = self.links.get(key as usize).and_then(|link| link.relay.as_ref()?.other);
        let is_last = other.is_none_or(|other| self.is_last_agent_key(other));
        let Some((up, ..)) = self.up(key) else { return };
        if up.way.key.public().is_none() && !is_last {
            return self.log_in_upstream(key);
        }
        let (host, user) = (up.host(), &up.upstream.user);
        let Some(public) = up.way.key.public() else {
            let trouble = Self::agent_refused(&host, user, &failed.methods);
            let logged = trouble.logged.clone();
            up.trouble = Some(trouble);
            self.close_link(key, disconnect::NO_MORE_AUTH_METHODS_AVAILABLE, &logged);
            return;
        };
        let said = format!("{host} does not let {user} in with the gateway's key");
        let logged = format!(
            "{host} does not let {user} in with {} ({}); it takes {}",
            public.fingerprint(),
            up.upstream.credential.place(),
            failed.methods
        );
        up.trouble = Some(Trouble { said, logged: logged.clone() });
        self.close_link(key, disconnect::NO_MORE_AUTH_METHODS_AVAILABLE, &logged);
    }

    /// We are in: what the client has asked for meanwhile is passed on.
    pub(super) fn upstream_ready(&mut self, key: u32) {
        self.set_deadline(key, None);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.authenticated = true;
        link.conn.relay();
        let Some(relay) = &mut link.relay else { return };
        let (Some(other), End::Up(up)) = (relay.other, &relay.end) else { return };
        let (host, user) = (up.host(), &up.upstream.user);
        let with = match up.way.key.public() {
            Some(public) => public.fingerprint(),
            None => up.upstream.credential.place(),
        };
        let what = format!("{user} at {host} with {with}");
        self.agent_over(other);
        match self.down(other) {
            Some((down, ..)) if matches!(down.dial, Dial::Shaking) => down.dial = Dial::Ready,
            _ => return,
        }
        self.offer_to_share(key, other);
        self.report(other, What::Upstream { what });
        self.resume_relay(other);
        self.dial_over(other);
    }

    // ---- Its end -----------------------------------------------------------------------------

    fn host_failed(&mut self, key: u32, trouble: Trouble) {
        let now = self.driver.now();
        self.rewind_agent(key);
        self.set_deadline(key, None);
        let Some((down, ..)) = self.down(key) else { return };
        let host = down.host();
        if let Some(host) = down.upstream.fleet.host(down.host) {
            host.failed(now);
        }
        let why = trouble.logged.clone();
        down.trouble = Some(trouble);
        self.report(key, What::UpstreamFailed { host, why });
        self.try_next_host(key);
    }

    /// The connection to the host is over; its trouble may be known better than by the reason that the
    /// connection ended for.
    pub(super) fn upstream_over(
        &mut self,
        key: u32,
        is_current: bool,
        trouble: Option<Trouble>,
        reason: &str,
    ) {
        let Some((down, ..)) = self.down(key) else { return };
        match down.dial {
            Dial::Lost(_) => {}
            Dial::Shaking if is_current => {
                let said = format!("the login at {} has failed: {reason}", down.host());
                // A host that takes the header for an identification says so in the clear.
                let hint = match down.upstream.announces {
                    Some(_) => "; TidegateUpstreamProxyProtocol is set, does the host read it?",
                    None => "",
                };
                let known = || Trouble { said, logged: format!("{reason}{hint}") };
                self.host_failed(key, trouble.unwrap_or_else(known));
            }
            _ => {
                let trouble = trouble.unwrap_or_else(|| Trouble::plain(reason));
                let said = format!("the connection to {} is lost: {}", down.host(), trouble.said);
                let (host, why) = (down.host(), trouble.logged);
                self.report(key, What::UpstreamFailed { host, why });
                self.upstream_lost(key, &said);
            }
        }
    }

    /// Nothing goes on any more: the client is told where it waits for something, and a moment
    /// later the connection ends.
    pub(super) fn upstream_lost(&mut self, key: u32, said: &str) {
        let Some((down, ..)) = self.down(key) else { return };
        down.dial = Dial::Lost(said.into());
        self.end_couples(key, said);
        self.leave_shared(key);
        self.dial_over(key);
        let at = self.driver.now().after(UPSTREAM_NEWS_TIME);
        self.set_deadline(key, Some(at));
    }

    /// A link of a pair is over, whichever it is. `why`: what was reported.
    pub(super) fn end_relay(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let generation = link.generation;
        let Some(relay) = link.relay.take() else { return };
        let why = link.reason.take();
        for line in &relay.lines {
            if let Some(partner) = self.relay(*line) {
                partner.lines.retain(|line| *line != key);
            }
        }
        match relay.end {
            End::Down(down) => {
                if matches!(down.dial, Dial::Connecting) {
                    self.cancel(Token { key, generation, tag: TAG_CONNECT });
                }
                for line in relay.lines {
                    self.leave_host(line, key);
                }
                self.dial_over(key);
            }
            End::Up(up) => {
                if let Some(host) = up.upstream.fleet.host(up.host) {
                    host.leave();
                }
                self.commons.forget(key);
                let reason = why.unwrap_or_else(|| "it has ended".to_owned());
                for client in relay.lines {
                    let current = self.relay(client).and_then(|relay| relay.other) == Some(key);
                    if let Some(relay) = self.relay(client).filter(|_| current) {
                        relay.other = None;
                    }
                    self.upstream_over(client, current, up.trouble.clone(), &reason);
                }
            }
        }
    }
}

impl Down {
    pub(super) fn new(upstream: Arc<Upstream>, order: VecDeque<usize>) -> Down {
        Down {
            upstream,
            order,
            host: 0,
            addresses: VecDeque::new(),
            way: None,
            dial: Dial::Asking,
            asked_at: Instant::ZERO,
            trouble: None,
            private: false,
            trials: Vec::new(),
            listening: 0,
            x11: false,
            agent: false,
            borrowed: None,
            untold: Vec::new(),
        }
    }

    pub(super) fn host(&self) -> String {
        self.upstream.fleet.host(self.host).map(Host::to_string).unwrap_or_default()
    }
}

impl Up {
    pub(super) fn host(&self) -> String {
        self.upstream.fleet.host(self.host).map(Host::to_string).unwrap_or_default()
    }
}
