//! One connection to a host for several logins of one user (TidegateUpstreamShare).
//!
//! What is shared is a link to a host whose relay has many clients. It carries what belongs to one
//! channel: sessions in which programs run, and connections that the client has made (`-L`). What is
//! about a connection as a whole, like an agent, an X server or a port that the host listens on,
//! would come back without a word about whose it is; so a client that asks for any of these gets a
//! connection of its own, and whatever a host opens on a shared one is refused.
//!
//! A session may ask for an agent when it is open already. Until a program starts in it, it is *on
//! trial*: it has no window, and what it has asked for is kept, so that it can be opened again
//! elsewhere and asked for the same.

use super::relay::{Dial, End, encoded};
use super::*;
use crate::connection::{ChannelId, ChannelKind};
use crate::limits::{
    HELD_REQUEST_BYTES_MAX, LINK_UNSENT_BYTES_MAX, UPSTREAM_CERTIFICATE_TIME,
    UPSTREAM_SHARE_CLIENT_BYTES, UPSTREAM_SHARE_TIME_MAX, UPSTREAM_SHARE_UNSENT_BYTES_MAX,
    UPSTREAM_SHARE_WINDOW_BYTES_MAX, UPSTREAM_SHARE_WINDOW_BYTES_MIN,
};
use crate::services::Command;
use crate::services::upstream::Credential;
use crate::wire::Message;
use crate::wire::request::{ChannelRequest, RequestBody};

/// A shard's connections that logins share.
#[derive(Debug, Default)]
pub(super) struct Commons {
    /// Links to hosts.
    ups: Vec<u32>,
    /// Clients whose connection will be one, and those that wait for it.
    dialing: Vec<u32>,
    waiting: Vec<u32>,
}

impl Commons {
    pub fn forget(&mut self, up: u32) {
        self.ups.retain(|known| *known != up);
    }
}

/// What a connection that is shared is like.
#[derive(Debug)]
pub(super) struct Share {
    /// Whose logins these are.
    owner: Box<str>,
    /// Only one of them has ever used it.
    alone: bool,
    /// The host has refused a session on it, and no channel has gone since.
    full: bool,
    /// No login goes on over it from then on.
    until: Instant,
}

/// A session on a shared connection before a program has started in it.
#[derive(Debug, Default)]
pub(super) struct Trial {
    id: Option<ChannelId>,
    /// The largest packet that its client was told of.
    packet_bytes: u32,
    /// What the host was asked, and how much of what wants an answer has one.
    sent: Vec<Box<[u8]>>,
    answered: usize,
    bytes: usize,
    /// It is being opened elsewhere; what is asked meanwhile waits.
    moving: bool,
    held: Vec<Box<[u8]>>,
    /// Its client sends nothing more.
    eof: bool,
}

impl<D: Driver, O: Outside> Shard<D, O> {
    // ---- Which connection --------------------------------------------------------------------

    /// The hosts that a login may go on at are known: over a connection that there is, or a new one.
    pub(super) fn go_on(&mut self, key: u32) {
        if !self.shares(key) {
            return self.try_next_host(key);
        }
        let (ups, dialing) = (&self.commons.ups, &self.commons.dialing);
        let up = ups.iter().copied().find(|up| self.may_join(key, *up));
        let leader = dialing.iter().copied().find(|other| self.is_alike(key, *other));
        match (up, leader) {
            (Some(up), _) => self.join(key, up),
            (None, Some(leader)) => {
                if let Some((down, ..)) = self.down(key) {
                    down.dial = Dial::Waiting(leader);
                }
                self.commons.waiting.push(key);
            }
            (None, None) => {
                self.commons.dialing.push(key);
                self.try_next_host(key);
            }
        }
    }

    /// The client's connection to the host may be one with others'.
    fn shares(&mut self, key: u32) -> bool {
        self.down(key).is_some_and(|(down, ..)| down.upstream.is_shareable() && !down.private)
    }

    fn owner(&self, key: u32) -> Option<&str> {
        Some(&self.links.get(key as usize)?.grant.as_ref()?.account.name)
    }

    /// What the one connects to would do for the other.
    fn is_alike(&self, key: u32, other: u32) -> bool {
        let of = |key: u32| match &self.links.get(key as usize)?.relay.as_ref()?.end {
            End::Down(down) => Some(&down.upstream),
            End::Up(_) => None,
        };
        let same = of(key).zip(of(other)).is_some_and(|(own, its)| own.shares_with(its));
        same && key != other && self.owner(key).is_some() && self.owner(key) == self.owner(other)
    }

    fn may_join(&self, key: u32, up: u32) -> bool {
        let relays = |key: u32| {
            let link = self.links.get(key as usize).filter(|link| link.state == LinkState::Open)?;
            Some(&link.relay.as_ref()?.end)
        };
        let (Some(End::Down(down)), Some(End::Up(at))) = (relays(key), relays(up)) else {
            return false;
        };
        at.share.as_ref().is_some_and(|share| {
            !share.full
                && share.until > self.driver.now()
                && self.owner(key) == Some(&*share.owner)
                && at.upstream.shares_with(&down.upstream)
        })
    }

    fn join(&mut self, key: u32, up: u32) {
        self.set_deadline(up, None);
        let Some(link) = self.links.get_mut(up as usize) else { return };
        let serial = link.serial;
        let Some(relay) = &mut link.relay else { return };
        let End::Up(at) = &relay.end else { return };
        let (host, user, name) = (at.host, at.upstream.user.clone(), at.host());
        if !relay.lines.contains(&key) {
            relay.lines.push(key);
        }
        if let End::Up(at) = &mut relay.end
            && let Some(share) = &mut at.share
        {
            share.alone = false;
        }
        if let Some(relay) = self.relay(key) {
            relay.other = Some(up);
            if !relay.lines.contains(&up) {
                relay.lines.push(up);
            }
        }
        if let Some((down, ..)) = self.down(key) {
            (down.dial, down.host) = (Dial::Ready, host);
        }
        let what = format!("{user} at {name} over the connection of link {serial}");
        self.report(key, What::Upstream { what });
        self.resume_relay(key);
    }

    /// We are in: others may go on over this connection too.
    pub(super) fn offer_to_share(&mut self, up: u32, client: u32) {
        let now = self.driver.now();
        let Some(owner) = self.owner(client).map(Box::from).filter(|_| self.shares(client)) else {
            return;
        };
        let asked_at = self.down(client).map_or(now, |(down, ..)| down.asked_at);
        let Some(relay) = self.relay(up) else { return };
        let End::Up(at) = &mut relay.end else { return };
        // A certificate was made since then, and counts from a moment before.
        let until = match at.upstream.credential {
            Credential::Authority(_) => asked_at.after(UPSTREAM_CERTIFICATE_TIME),
            _ => now.after(UPSTREAM_SHARE_TIME_MAX),
        };
        at.share = Some(Box::new(Share { owner, alone: true, full: false, until }));
        relay.other = None;
        self.commons.ups.push(up);
    }

    /// A client has a connection or needs none any more: those that wait for it look again.
    pub(super) fn dial_over(&mut self, key: u32) {
        for waiting in self.take_waiting(key) {
            self.go_on(waiting);
        }
    }

    fn take_waiting(&mut self, leader: u32) -> Vec<u32> {
        self.commons.dialing.retain(|known| *known != leader);
        let mut those = Vec::new();
        for key in std::mem::take(&mut self.commons.waiting) {
            match self.down(key).map(|(down, ..)| &down.dial) {
                Some(Dial::Waiting(of)) if *of == leader => those.push(key),
                Some(Dial::Waiting(_)) => self.commons.waiting.push(key),
                _ => {}
            }
        }
        those
    }

    /// No host can be reached, for this client and for those that have waited for it.
    pub(super) fn given_up(&mut self, key: u32, said: &str) {
        for waiting in self.take_waiting(key) {
            let host = self.down(waiting).map(|(down, ..)| down.host()).unwrap_or_default();
            self.report(waiting, What::UpstreamFailed { host, why: said.to_owned() });
            self.fall_back(waiting, said);
        }
        self.fall_back(key, said);
    }

    /// What a client has on other connections goes on.
    fn fall_back(&mut self, key: u32, said: &str) {
        let line = self.relay(key).and_then(|relay| relay.lines.first().copied());
        let Some(line) = line.filter(|line| self.is_shared(*line)) else {
            return self.upstream_lost(key, said);
        };
        if let Some(relay) = self.relay(key) {
            relay.other = Some(line);
        }
        if let Some((down, ..)) = self.down(key) {
            (down.dial, down.private) = (Dial::Ready, false);
        }
        self.end_asked(key, said);
    }

    // ---- Another connection ------------------------------------------------------------------

    /// The client needs a connection to the host that is its own.
    pub(super) fn go_private(&mut self, key: u32) {
        if !self.shares(key) {
            return;
        }
        if let Some((down, ..)) = self.down(key) {
            down.private = true;
        }
        let other = self.relay(key).and_then(|relay| relay.other);
        if other.is_none_or(|up| !self.unshare(up)) {
            self.renew(key);
        }
    }

    /// The connection is its client's alone, if it has never been anybody else's.
    fn unshare(&mut self, up: u32) -> bool {
        let Some(relay) = self.relay(up) else { return false };
        let End::Up(at) = &mut relay.end else { return false };
        if at.share.take_if(|share| share.alone).is_none() {
            return false;
        }
        relay.other = relay.lines.first().copied();
        self.commons.forget(up);
        true
    }

    /// The session may ask for what is about its connection where it is.
    pub(super) fn may_stay(&mut self, key: u32, id: ChannelId) -> bool {
        if !self.is_on_shared(key, id) || !self.is_on_trial(key, id) {
            return true;
        }
        if self.shares(key) {
            self.go_private(key);
        }
        !self.is_on_shared(key, id)
    }

    /// New channels of the client go to another connection, to the same host.
    fn renew(&mut self, key: u32) {
        let Some((down, ..)) = self.down(key) else { return };
        if !matches!(down.dial, Dial::Ready) {
            return;
        }
        (down.dial, down.order) = (Dial::Asking, [down.host].into());
        let old = self.relay(key).and_then(|relay| relay.other.take());
        self.go_on(key);
        if let Some(old) = old {
            self.leave_unused(key, old);
        }
    }

    /// A host refuses a session where others are open: it allows so many a connection. The session is
    /// asked for on another one.
    pub(super) fn overflows(&mut self, up: u32, id: ChannelId) -> bool {
        let Some(relay) = self.relay(up).filter(|relay| relay.is_shared()) else { return false };
        let refused = relay.couples.iter().any(|couple| couple.own == id && couple.is_session);
        let others = relay.couples.iter().any(|couple| couple.is_session && couple.is_open);
        if !refused || !others {
            return false;
        }
        let Some((client, to)) = self.uncouple(up, id) else { return false };
        if let Some(End::Up(at)) = self.relay(up).map(|relay| &mut relay.end)
            && let Some(share) = &mut at.share
        {
            share.full = true;
        }
        let Some(relay) = self.relay(client) else { return true };
        relay.asked.push_front((to, ChannelKind::Session));
        match relay.other == Some(up) {
            true => self.renew(client),
            false => self.open_asked(client),
        }
        true
    }

    /// A channel of the client on this line is over.
    pub(super) fn channel_gone(&mut self, client: u32, line: u32) {
        if let Some(End::Up(at)) = self.relay(line).map(|relay| &mut relay.end)
            && let Some(share) = &mut at.share
        {
            share.full = false;
            self.leave_unused(client, line);
        }
    }

    fn leave_unused(&mut self, client: u32, line: u32) {
        let shared = self.is_shared(line);
        let Some(relay) = self.relay(client).filter(|_| shared) else { return };
        let used = relay.couples.iter().any(|couple| couple.link == line);
        if !used && relay.other != Some(line) && relay.lines.contains(&line) {
            relay.lines.retain(|known| *known != line);
            self.leave_host(line, client);
        }
    }

    /// The client is lost, and those that it has shared a connection with are not.
    pub(super) fn leave_shared(&mut self, client: u32) {
        for line in self.relay(client).map(|relay| relay.lines.clone()).unwrap_or_default() {
            if self.is_shared(line)
                && let Some(relay) = self.relay(client)
            {
                relay.lines.retain(|known| *known != line);
                self.leave_host(line, client);
            }
        }
    }

    /// A client needs this connection no more. Its channels there end.
    pub(super) fn leave_host(&mut self, up: u32, client: u32) {
        let keeps = !self.retiring && !self.stopping;
        let Some(relay) = self.relay(up) else { return };
        relay.lines.retain(|line| *line != client);
        let kept = match &relay.end {
            End::Up(at) if at.share.is_some() => at.upstream.share.filter(|_| keeps),
            _ => return self.close_link(up, disconnect::BY_APPLICATION, "the client has left"),
        };
        let (unused, couples) = (relay.lines.is_empty(), std::mem::take(&mut relay.couples));
        let (its, rest): (Vec<_>, Vec<_>) = couples.into_iter().partition(|c| c.link == client);
        relay.couples = rest;
        if let End::Up(at) = &mut relay.end
            && let Some(share) = &mut at.share
        {
            share.full &= its.is_empty();
        }
        for couple in its {
            self.command(up, Command::Close(couple.own));
        }
        match kept.filter(|kept| *kept > Duration::ZERO) {
            _ if !unused => {}
            Some(kept) => {
                let at = self.driver.now().after(kept);
                self.set_deadline(up, Some(at));
            }
            None => self.close_link(up, disconnect::BY_APPLICATION, "no login goes on over it"),
        }
    }

    /// Nothing new comes: connections that wait for logins end.
    pub(super) fn close_unused(&mut self) {
        for up in self.commons.ups.clone() {
            if self.relay(up).is_some_and(|relay| relay.lines.is_empty()) {
                self.close_link(up, disconnect::BY_APPLICATION, "no login goes on over it");
            }
        }
    }

    // ---- Windows -----------------------------------------------------------------------------

    pub(super) fn is_shared(&self, key: u32) -> bool {
        let relay = self.links.get(key as usize).and_then(|link| link.relay.as_ref());
        relay.is_some_and(|relay| relay.is_shared())
    }

    pub(super) fn is_on_shared(&self, key: u32, id: ChannelId) -> bool {
        self.partner(key, id).is_some_and(|(other, _)| self.is_shared(other))
    }

    /// What of a window that the client takes may be granted to a host on a shared connection.
    pub(super) fn part(&self, client: u32, host: u32, window: u32) -> u32 {
        if !self.is_shared(host) {
            return window;
        }
        let relay = self.links.get(client as usize).and_then(|link| link.relay.as_ref());
        let channels = relay.map_or(1, |relay| relay.couples.len().max(1) as u32);
        let part = UPSTREAM_SHARE_CLIENT_BYTES / channels;
        window.min(part.clamp(UPSTREAM_SHARE_WINDOW_BYTES_MIN, UPSTREAM_SHARE_WINDOW_BYTES_MAX))
    }

    /// What the other peer may send because this one takes it. A shared connection is read whatever
    /// its clients' sockets do, so the window alone holds it back.
    pub(super) fn passable(
        &mut self,
        key: u32,
        id: ChannelId,
        (other, to): (u32, ChannelId),
    ) -> Option<u32> {
        if self.is_on_trial(other, to) {
            return None;
        }
        let link = self.links.get(key as usize)?;
        let credit = link.conn.credit(id);
        if link.outgoing.is_recorder_behind(id) {
            return None;
        }
        if !self.is_shared(other) {
            return Some(credit);
        }
        if self.unsent(key) > LINK_UNSENT_BYTES_MAX {
            self.relay(key)?.withholds = true;
            return None;
        }
        Some(self.part(key, other, credit))
    }

    fn unsent(&self, key: u32) -> u32 {
        let outgoing = self.links.get(key as usize).map(|link| &link.outgoing);
        outgoing.map_or(0, |outgoing| outgoing.backlog().saturating_add(outgoing.passing()))
    }

    /// The socket of a client has taken something.
    pub(super) fn grant_withheld(&mut self, key: u32) {
        let over = self.unsent(key) <= LINK_UNSENT_BYTES_MAX;
        let Some(relay) = self.relay(key).filter(|relay| relay.withholds && over) else { return };
        relay.withholds = false;
        for n in 0..relay.couples.len() {
            let couple = self.relay(key).and_then(|relay| relay.couples.get(n)).copied();
            if let Some(couple) = couple {
                self.pass_window(key, couple.own);
            }
        }
    }

    /// More waits for one client than others can bear with. It ends.
    pub(super) fn takes_too_little(&mut self, key: u32) -> bool {
        let much = self.unsent(key) > UPSTREAM_SHARE_UNSENT_BYTES_MAX;
        if much {
            let why = "it takes too little of what comes over a shared connection";
            self.close_link(key, disconnect::BY_APPLICATION, why);
        }
        much
    }

    // ---- Trials ------------------------------------------------------------------------------

    fn trial(&mut self, key: u32, id: ChannelId) -> Option<&mut Trial> {
        match &mut self.relay(key)?.end {
            End::Down(down) => down.trials.iter_mut().find(|trial| trial.id == Some(id)),
            End::Up(_) => None,
        }
    }

    pub(super) fn is_on_trial(&self, key: u32, id: ChannelId) -> bool {
        self.peek(key, id).is_some()
    }

    pub(super) fn is_moving(&self, key: u32, id: ChannelId) -> bool {
        self.peek(key, id).is_some_and(|trial| trial.moving)
    }

    fn peek(&self, key: u32, id: ChannelId) -> Option<&Trial> {
        match &self.links.get(key as usize)?.relay.as_ref()?.end {
            End::Down(down) => down.trials.iter().find(|trial| trial.id == Some(id)),
            End::Up(_) => None,
        }
    }

    /// A client's session is asked for at a host.
    pub(super) fn begin_trial(&mut self, (key, id): (u32, ChannelId), host: u32) {
        if !self.is_shared(host) || self.is_on_trial(key, id) {
            return;
        }
        if let Some(End::Down(down)) = self.relay(key).map(|relay| &mut relay.end) {
            down.trials.push(Trial { id: Some(id), ..Trial::default() });
        }
    }

    pub(super) fn end_trial(&mut self, key: u32, id: ChannelId) -> bool {
        self.take_trial(key, id).is_some()
    }

    fn take_trial(&mut self, key: u32, id: ChannelId) -> Option<Trial> {
        let End::Down(down) = &mut self.relay(key)?.end else { return None };
        let at = down.trials.iter().position(|trial| trial.id == Some(id))?;
        Some(down.trials.swap_remove(at))
    }

    /// The host is asked this on a session.
    pub(super) fn note_asked(&mut self, key: u32, id: ChannelId, request: &[u8]) {
        let Some(trial) = self.trial(key, id) else { return };
        trial.bytes += request.len();
        trial.sent.push(request.into());
        if trial.bytes > HELD_REQUEST_BYTES_MAX {
            let why = "too many requests before a program starts";
            self.close_link(key, disconnect::PROTOCOL_ERROR, why);
        }
    }

    /// And has answered the oldest question.
    pub(super) fn note_answer(&mut self, key: u32, id: ChannelId) {
        if let Some(trial) = self.trial(key, id) {
            trial.answered += 1;
        }
    }

    pub(super) fn note_eof(&mut self, key: u32, id: ChannelId) {
        if let Some(trial) = self.trial(key, id) {
            trial.eof = true;
        }
    }

    /// Answers the request back unless it has to wait for the host to open the session elsewhere.
    pub(super) fn hold_if_moving(
        &mut self,
        key: u32,
        id: ChannelId,
        request: Box<[u8]>,
    ) -> Option<Box<[u8]>> {
        let Some(trial) = self.trial(key, id).filter(|trial| trial.moving) else {
            return Some(request);
        };
        trial.bytes += request.len();
        let much = trial.bytes > HELD_REQUEST_BYTES_MAX;
        trial.held.push(request);
        if much {
            let why = "too many requests before its session is open";
            self.close_link(key, disconnect::PROTOCOL_ERROR, why);
        }
        None
    }

    /// A session asks for what it cannot have on a shared connection: it goes on on its client's own.
    pub(super) fn move_session(&mut self, key: u32, id: ChannelId, request: Box<[u8]>) {
        let Some(mut trial) = self.take_trial(key, id) else { return };
        trial.moving = true;
        trial.bytes += request.len();
        trial.held.push(request);
        if let Some((up, to)) = self.partner(key, id) {
            self.command(up, Command::Close(to));
        }
        self.uncouple(key, id);
        let Some(relay) = self.relay(key) else { return };
        relay.asked.push_front((id, ChannelKind::Session));
        if let End::Down(down) = &mut relay.end {
            down.trials.push(trial);
        }
        self.open_asked(key);
    }

    /// A host has opened a session: it is asked what was asked of the one before.
    pub(super) fn moved(&mut self, key: u32, id: ChannelId, packet_bytes: u32) {
        let Some(trial) = self.trial(key, id) else { return };
        if !trial.moving {
            trial.packet_bytes = packet_bytes;
            return;
        }
        let (Some(trial), Some((host, to))) = (self.take_trial(key, id), self.partner(key, id))
        else {
            return;
        };
        if packet_bytes < trial.packet_bytes {
            let why = "the host takes smaller packets than its client was promised";
            self.close_link(key, disconnect::BY_APPLICATION, why);
            return;
        }
        let mut answered = trial.answered;
        for request in trial.sent {
            let Ok(asked) = ChannelRequest::parse(&request) else { continue };
            let known = asked.want_reply && answered > 0;
            answered -= usize::from(known);
            let again = if known { encoded(false, asked.body) } else { Some(request) };
            if let Some(request) = again {
                self.command(host, Command::Ask { id: to, request });
            }
        }
        self.pass_window(host, to);
        for request in trial.held {
            self.relay_request(key, id, request);
        }
        if trial.eof && self.partner(key, id) == Some((host, to)) {
            self.command(host, Command::Eof(to));
        }
    }

    /// A session that was to be opened elsewhere is told why it is not.
    pub(super) fn end_moving(&mut self, key: u32, id: ChannelId, said: &str) {
        if self.is_moving(key, id) {
            self.end_trial(key, id);
            self.say_on(key, id, said);
            self.command(key, Command::Close(id));
        }
    }
}

/// What sessions ask for on a connection that is shared. Anything else may be about the connection as
/// a whole, as an agent and an X server are.
pub(super) fn is_sharers(body: &RequestBody<'_>) -> bool {
    use RequestBody::{Break, Env, Other, PtyReq, Signal, WindowChange};
    match body {
        PtyReq { .. } | Env { .. } | WindowChange { .. } | Signal { .. } | Break { .. } => true,
        // PuTTY's: it opens nothing but this session; it measures windows.
        Other { name, .. } => name.ends_with("@putty.projects.tartarus.org"),
        body => body.starts(),
    }
}
