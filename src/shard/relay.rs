//! Two connections as one: the channels of a client's are coupled with channels of the connection to
//! the host that its login goes on at, and what is said about one is passed on to the other.
//!
//! Neither side is believed more than it would be alone: each half keeps the rules of RFC 4254 with
//! its own peer. Window is granted to one peer as far as the other has granted it, so what is on its
//! way here has been promised room for.

use std::collections::VecDeque;

use super::borrow::Borrowed;
use super::relay_pace::Pace;
use super::share::{Share, Trial, is_sharers};
use super::*;
use crate::connection::{ChannelId, ChannelKind, Event, GlobalRequest};
use crate::limits::{
    AGENT_LOGIN_PACKET_BYTES, HELD_REQUEST_BYTES_MAX, LINK_UNSENT_BYTES_MAX,
    RELAYED_REQUEST_BYTES_MAX, RELAYED_WAITING_MAX, REQUEST_FRAME_BYTES_MAX,
};
use crate::reactor::Chunk;
use crate::services::forward::{Place, Target};
use crate::services::upstream::{Trouble, Upstream, Way};
use crate::services::{Command, Grant};
use crate::wire::channel::{
    AGENT_CHANNEL, ChannelNumber, EXTENDED_STDERR, X11_CHANNEL, open_failure,
};
use crate::wire::request::{ChannelRequest, REFUSED, RequestBody};
use crate::wire::{Message, Writer};

const X11_REQUEST: &str = "x11-req";
const INTERNAL_SFTP: &str = "internal-sftp";

/// One link's part in a pair.
#[derive(Debug)]
pub(super) struct Relay {
    /// The link on which new channels of this one's peer are opened, while there is one. None for a
    /// host that several clients share: it opens none.
    pub other: Option<u32>,
    /// All links whose channels may be coupled with this one's: a client's are those to its host, and
    /// those of such a link are its clients.
    pub lines: Vec<u32>,
    /// Channels of this link and of the other, both open or being opened.
    pub couples: Vec<Couple>,
    /// Channels that this link's peer has asked for and the other's has not been asked for.
    pub asked: VecDeque<(ChannelId, ChannelKind)>,
    /// A request about the connection that has not been passed on, or has no answer yet.
    pub global: Option<(GlobalRequest, bool)>,
    /// Some of the channels are closed when they are idle.
    pub timed: bool,
    /// Its input waits for another link that it shares.
    pub held: bool,
    /// It has kept window back from a shared connection, because its own socket does not keep up.
    pub withholds: bool,
    pub end: End,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Couple {
    pub own: ChannelId,
    /// The other channel, and its link.
    pub link: u32,
    pub other: ChannelId,
    pub is_session: bool,
    pub is_open: bool,
    /// What ChannelTimeout calls it, until it is open.
    pub kind: &'static str,
    /// One of the two has been closed by its peer: no data passes any more.
    pub closing: bool,
    pub pace: Pace,
}

#[derive(Debug)]
pub(super) enum End {
    /// The client's link.
    Down(Box<Down>),
    /// The link to the host.
    Up(Box<Up>),
}

#[derive(Debug)]
pub(super) struct Down {
    pub upstream: Arc<Upstream>,
    /// Hosts that have not been tried.
    pub order: VecDeque<usize>,
    /// The one that is.
    pub host: usize,
    pub addresses: VecDeque<SocketAddr>,
    pub way: Option<Arc<Way>>,
    pub dial: Dial,
    /// When the way to it was last asked for.
    pub asked_at: Instant,
    /// With the host tried last.
    pub trouble: Option<Trouble>,
    /// Its connection to the host is for it alone.
    pub private: bool,
    /// Sessions on a shared connection in which nothing runs yet.
    pub trials: Vec<Trial>,
    /// Places where the host listens for the client, and what else the client has asked it for.
    pub listening: u32,
    pub x11: bool,
    pub agent: bool,
    /// The client's agent, where the login goes on with its keys.
    pub borrowed: Option<Box<Borrowed>>,
    /// Sessions that have not been told yet that the host is lost.
    pub untold: Vec<ChannelId>,
}

#[derive(Debug)]
pub(super) struct Up {
    pub upstream: Arc<Upstream>,
    pub host: usize,
    pub way: Arc<Way>,
    /// For an agent.
    pub proof: Option<HostProof>,
    pub trouble: Option<Trouble>,
    /// Logins of one user go on over it.
    pub share: Option<Box<Share>>,
}

/// How a host has proved itself.
#[derive(Debug)]
pub(super) struct HostProof {
    /// Its key as it was shown.
    pub host_key: Box<[u8]>,
    /// Over the session's identifier.
    pub signature: Box<[u8]>,
}

/// How far the way to the host has come.
#[derive(Debug)]
pub(super) enum Dial {
    /// A worker looks for it.
    Asking,
    /// The login of this link, of the same user, makes a connection that may do for this one.
    Waiting(u32),
    Connecting,
    /// Connected, not logged in.
    Shaking,
    Ready,
    /// It has ended, or there is none.
    Lost(Arc<str>),
}

impl Relay {
    pub const fn new(end: End) -> Relay {
        Relay {
            other: None,
            lines: Vec::new(),
            couples: Vec::new(),
            asked: VecDeque::new(),
            global: None,
            timed: false,
            held: false,
            withholds: false,
            end,
        }
    }

    /// The other channel and its link.
    fn partner(&self, own: ChannelId) -> Option<(u32, ChannelId)> {
        let couple = self.couples.iter().find(|couple| couple.own == own)?;
        Some((couple.link, couple.other))
    }

    pub fn couple_mut(&mut self, own: ChannelId) -> Option<&mut Couple> {
        self.couples.iter_mut().find(|couple| couple.own == own)
    }

    /// The client's part: whether it has got through to the host.
    const fn is_through(&self) -> bool {
        match &self.end {
            End::Down(down) => matches!(down.dial, Dial::Ready),
            End::Up(_) => true,
        }
    }

    const fn is_down(&self) -> bool {
        matches!(self.end, End::Down(_))
    }

    /// It is a connection to a host that clients share.
    pub const fn is_shared(&self) -> bool {
        matches!(&self.end, End::Up(up) if up.share.is_some())
    }

    /// No channel is open or wanted.
    pub fn is_unused(&self) -> bool {
        self.couples.is_empty() && self.asked.is_empty()
    }
}

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn relay(&mut self, key: u32) -> Option<&mut Relay> {
        self.links.get_mut(key as usize)?.relay.as_deref_mut()
    }

    pub(super) fn partner(&self, key: u32, id: ChannelId) -> Option<(u32, ChannelId)> {
        self.links.get(key as usize)?.relay.as_ref()?.partner(id)
    }

    /// Input of this link would only wait: for its recorder, for the socket of the other one, or for its keys. While
    /// this link exchanges keys it is read all the same, or each could wait for the other; window
    /// bounds what then waits. What clients share waits for none of them, for the same reason.
    pub(super) fn is_held_back(&self, link: &Link) -> bool {
        if link.recording.as_ref().is_some_and(|recording| recording.is_opening()) {
            return true;
        }
        let Some(relay) = link.relay.as_ref().filter(|relay| !relay.is_shared()) else {
            return false;
        };
        let others = relay.lines.iter().filter_map(|line| self.links.get(*line as usize));
        others.into_iter().any(|other| {
            let waits = other.outgoing.passing() > LINK_UNSENT_BYTES_MAX
                || other.outgoing.waiting() > RELAYED_WAITING_MAX
                || other.outgoing.asking() > RELAYED_REQUEST_BYTES_MAX as u32;
            run::is_behind(other) || (waits && link.conn.is_ready())
        })
    }

    /// Something has changed that the other links may have waited for.
    pub(super) fn wake_others(&mut self, key: u32) {
        let Some(relay) = self.relay(key) else { return };
        let shared = relay.is_shared();
        for n in 0..relay.lines.len() {
            let line = self.relay(key).and_then(|relay| relay.lines.get(n).copied());
            let Some(line) = line else { return };
            // One that clients share has many to wake, and waits for none of them itself.
            let held = |relay: &mut Relay| std::mem::take(&mut relay.held);
            let waits = match shared {
                true => self.relay(line).is_some_and(held),
                false => !self.is_shared(line),
            };
            if waits {
                self.mark_ready(line);
            }
        }
        self.grant_withheld(key);
    }

    /// The link has new keys, memory, or a way to its host: what waited for that goes on.
    pub(super) fn resume_relay(&mut self, key: u32) {
        let Some(relay) = self.relay(key) else { return };
        for n in 0..relay.couples.len() {
            let couple = self.relay(key).and_then(|relay| relay.couples.get(n)).copied();
            if let Some(couple) = couple {
                self.pass_window(couple.link, couple.other);
            }
        }
        self.say_farewells(key);
        self.flush_borrowed(key);
        self.open_asked(key);
        self.pass_global(key);
        for line in self.relay(key).map(|relay| relay.lines.clone()).unwrap_or_default() {
            self.open_asked(line);
            self.pass_global(line);
            self.mark_ready(line);
        }
    }

    pub(super) fn relay_event(&mut self, key: u32, event: Event) {
        if self.agent_event(key, &event) {
            return;
        }
        match event {
            Event::Open { id, kind } => self.relay_open(key, id, kind),
            Event::Opened { id } => self.relay_opened(key, id),
            Event::OpenFailed { id, .. } if self.overflows(key, id) => {}
            Event::OpenFailed { id, reason, text } => {
                if let Some((other, id)) = self.uncouple(key, id) {
                    let text = String::from(text);
                    self.end_early(other, id, &text);
                    self.end_moving(other, id, &text);
                    let text = text.into();
                    self.command(other, Command::Reject { id, reason, text });
                }
            }
            Event::Asked { id, request } => self.relay_request(key, id, request),
            Event::RequestDone { id, ok } => {
                if let Some((other, id)) = self.partner(key, id) {
                    self.note_answer(other, id);
                    self.command(other, Command::Answer { id, ok });
                }
            }
            Event::WindowOpened(id) => {
                self.pass_window(key, id);
                self.say_farewells(key);
            }
            Event::Eof(id) => match self.partner(key, id) {
                Some((other, to)) if !self.is_early(key, id) => {
                    self.note_eof(key, id);
                    self.command(other, Command::Eof(to))
                }
                _ => {
                    self.note_eof(key, id);
                    self.hold_eof(key, id);
                }
            },
            Event::PeerClosed(id) => self.relay_close(key, id),
            Event::Closed(id) => {
                if let Some((other, id)) = self.uncouple(key, id) {
                    self.command(other, Command::Close(id));
                }
            }
            _ => {}
        }
    }

    // ---- Data --------------------------------------------------------------------------------

    /// Channel data goes on in the bytes it came in.
    pub(super) fn pass_data(
        &mut self,
        key: u32,
        id: ChannelId,
        extended: Option<u32>,
        data: Chunk,
    ) {
        let Some((other, to)) = self.partner(key, id) else {
            self.agent_data(key, id, &data);
            self.driver.pool().give_back(data.lease);
            return;
        };
        let Some(link) = self.links.get_mut(other as usize) else { return };
        let len = data.span.len;
        let reserved = link.conn.reserve(to, len);
        if reserved < len {
            link.conn.refund(to, reserved);
            self.driver.pool().give_back(data.lease);
            if self.is_closing(key, id) {
                return;
            }
            let why = "data for which the other side has no window";
            self.close_link(key, disconnect::BY_APPLICATION, why);
            return;
        }
        let of_many = self.is_shared(key);
        self.command(other, Command::Pass { id: to, extended, data, of_many });
        if of_many && self.takes_too_little(other) {
            return;
        }
        self.note_relayed([(key, id), (other, to)]);
        // What the other side takes may be more than is granted at a time.
        self.pass_window(other, to);
    }

    /// The peer of `key` takes more on channel `id`: so may the other peer send.
    pub(super) fn pass_window(&mut self, key: u32, id: ChannelId) {
        let Some((other, to)) = self.partner(key, id) else { return };
        let Some(credit) = self.passable(key, id, (other, to)) else { return };
        let Some(link) = self.links.get(other as usize) else { return };
        // What came compressed and waits for a lease has yet to take its part.
        let credit = credit.saturating_sub(link.owed_on(to));
        // Whoever exchanges keys is told afterwards.
        if link.conn.is_ready() && link.conn.owes_window(to, credit) {
            self.with_env(other, |conn, env| conn.grant_up_to(to, credit, env));
        }
    }

    // ---- Channels ----------------------------------------------------------------------------

    fn relay_open(&mut self, key: u32, id: ChannelId, kind: ChannelKind) {
        match self.may_relay(key, &kind) {
            Ok(()) => {
                if kind == ChannelKind::Session {
                    self.accept_early(key, id);
                }
                if let Some(relay) = self.relay(key) {
                    relay.asked.push_back((id, kind));
                }
                self.open_asked(key);
            }
            Err((reason, why)) => {
                let text = match reason {
                    open_failure::ADMINISTRATIVELY_PROHIBITED => "forwarding is not permitted",
                    _ => &why,
                };
                let text = text.to_owned().into();
                self.command(key, Command::Reject { id, reason, text });
                self.report(key, What::Refused { what: format!("channel {kind:?}"), why });
            }
        }
    }

    /// Whether a peer may have a channel of this kind opened on the other side: asked for every one
    /// (SECURITY case 101).
    fn may_relay(&self, key: u32, kind: &ChannelKind) -> Result<(), (u32, String)> {
        let prohibited =
            |why: &str| Err((open_failure::ADMINISTRATIVELY_PROHIBITED, why.to_owned()));
        let Some(link) = self.links.get(key as usize) else { return prohibited("no connection") };
        let Some(relay) = &link.relay else { return prohibited("no connection") };
        let down = match &relay.end {
            End::Down(down) => down,
            End::Up(_) => return self.may_come_back(relay.other, kind),
        };
        if let Dial::Lost(why) = &down.dial {
            return Err((open_failure::CONNECT_FAILED, why.to_string()));
        }
        let Some(grant) = &link.grant else { return prohibited("no login") };
        let target = match kind {
            ChannelKind::Session => return Ok(()),
            ChannelKind::DirectTcpip { host, port, .. } => {
                Target::Tcp { host: host.clone(), port: *port }
            }
            ChannelKind::DirectStreamlocal { path } => Target::Path(path.clone()),
            _ => {
                let text = "unknown channel type".to_owned();
                return Err((open_failure::UNKNOWN_CHANNEL_TYPE, text));
            }
        };
        target.check(&grant.rules.forwarding).or_else(prohibited)
    }

    /// What a host opens must have been asked for (SECURITY case 94).
    fn may_come_back(&self, client: Option<u32>, kind: &ChannelKind) -> Result<(), (u32, String)> {
        let client = client.and_then(|key| self.links.get(key as usize));
        let asked = match client.and_then(|link| link.relay.as_ref()).map(|relay| &relay.end) {
            Some(End::Down(down)) => match kind {
                ChannelKind::ForwardedTcpip { .. } | ChannelKind::ForwardedStreamlocal { .. } => {
                    down.listening > 0
                }
                ChannelKind::Other { name, .. } => match &**name {
                    X11_CHANNEL => down.x11,
                    AGENT_CHANNEL => down.agent,
                    _ => false,
                },
                _ => false,
            },
            _ => false,
        };
        let why = "the client has not asked for it".to_owned();
        if asked { Ok(()) } else { Err((open_failure::ADMINISTRATIVELY_PROHIBITED, why)) }
    }

    /// Asks the other peer for what this one wants, as far as that can be said now.
    pub(super) fn open_asked(&mut self, key: u32) {
        loop {
            let Some(link) = self.links.get(key as usize) else { return };
            let Some(relay) = link.relay.as_ref().filter(|relay| relay.is_through()) else {
                return;
            };
            let (Some(other), Some((id, _))) = (relay.other, relay.asked.front()) else { return };
            let id = *id;
            let window = self.part(key, other, link.conn.offered_window(id));
            let packet = link.conn.packet_max(id);
            if !self.links.get(other as usize).is_some_and(|link| link.conn.is_ready()) {
                return;
            }
            let Some((_, kind)) = self.relay(key).and_then(|relay| relay.asked.pop_front()) else {
                return;
            };
            let opened =
                self.with_env(other, |conn, env| conn.open_with(&kind, window, packet, env));
            match opened {
                Some(Some(to)) => self.couple((key, id), (other, to), &kind),
                Some(None) => {
                    let (reason, text) = (open_failure::RESOURCE_SHORTAGE, "too many channels");
                    self.command(key, Command::Reject { id, reason, text: text.into() });
                }
                None => {
                    if let Some(relay) = self.relay(key) {
                        relay.asked.push_front((id, kind));
                    }
                    return;
                }
            }
        }
    }

    fn couple(&mut self, one: (u32, ChannelId), two: (u32, ChannelId), kind: &ChannelKind) {
        let is_session = *kind == ChannelKind::Session;
        for ((key, own), (link, other)) in [(one, two), (two, one)] {
            if let Some(relay) = self.relay(key) {
                let (is_open, closing, pace) = (false, false, Pace::default());
                let kind = relay_pace::type_name(kind);
                let couple = Couple { own, link, other, is_session, is_open, kind, closing, pace };
                relay.couples.push(couple);
            }
        }
        if is_session {
            self.begin_trial(one, two.0);
        }
    }

    /// Answers the other link and its channel, which go their own way now.
    pub(super) fn uncouple(&mut self, key: u32, id: ChannelId) -> Option<(u32, ChannelId)> {
        let (other, to) = self.partner(key, id)?;
        for (key, own) in [(key, id), (other, to)] {
            if let Some(relay) = self.relay(key) {
                relay.couples.retain(|couple| couple.own != own);
            }
        }
        for (key, own, line) in [(key, id, other), (other, to, key)] {
            let down = self.relay(key).filter(|relay| relay.is_down());
            if let Some(unused) = down.map(|relay| relay.is_unused()) {
                self.end_trial(key, own);
                self.mark_relayed(key);
                if unused {
                    self.begin_idle(key);
                }
                self.channel_gone(key, line);
            }
        }
        Some((other, to))
    }

    /// A peer closes. The other one is told, and this one is answered when that one has closed too: it
    /// may still have something to say, like how a command ended.
    pub(super) fn relay_close(&mut self, key: u32, id: ChannelId) {
        let Some((other, to)) = self.partner(key, id) else {
            if let Some(relay) = self.relay(key) {
                relay.asked.retain(|(asked, _)| *asked != id);
            }
            self.end_trial(key, id);
            self.command(key, Command::Close(id));
            return;
        };
        for (key, own) in [(key, id), (other, to)] {
            if let Some(couple) = self.relay(key).and_then(|relay| relay.couple_mut(own)) {
                couple.closing = true;
            }
        }
        self.command(other, Command::Close(to));
    }

    fn is_closing(&self, key: u32, id: ChannelId) -> bool {
        let relay = self.links.get(key as usize).and_then(|link| link.relay.as_ref());
        let couples = relay.map_or(&[][..], |relay| &relay.couples);
        couples.iter().any(|couple| couple.own == id && couple.closing)
    }

    fn relay_opened(&mut self, key: u32, id: ChannelId) {
        let Some((other, to)) = self.partner(key, id) else {
            // Whoever wanted it has left.
            self.command(key, Command::Close(id));
            return;
        };
        let mut closing = false;
        for (key, id) in [(key, id), (other, to)] {
            if let Some(couple) = self.relay(key).and_then(|relay| relay.couple_mut(id)) {
                couple.is_open = true;
                closing |= couple.closing;
            }
        }
        if closing {
            // It was open here already, and has been closed meanwhile.
            self.command(key, Command::Close(id));
            return;
        }
        let Some(link) = self.links.get(key as usize) else { return };
        let packet_bytes = link.conn.packet_max(id);
        // One that may still move takes no data.
        let window_bytes = if self.is_on_trial(other, to) { 0 } else { link.conn.credit(id) };
        if self.is_early(other, to) && packet_bytes < AGENT_LOGIN_PACKET_BYTES {
            let why = "the host takes smaller packets than its client was promised";
            self.close_link(key, disconnect::BY_APPLICATION, why);
            return;
        }
        if !self.is_moving(other, to) {
            self.command(other, Command::AcceptWith { id: to, window_bytes, packet_bytes });
        }
        for (key, id) in [(key, id), (other, to)] {
            let down = self.relay(key).filter(|relay| relay.is_down());
            if let Some(kind) = down.and_then(|relay| relay.couple_mut(id)).map(|c| c.kind) {
                self.time_relayed(key, id, kind);
                self.mark_relayed(key);
            }
        }
        if self.is_early(other, to) {
            self.pass_window(key, id);
            self.release_held(other, to);
        }
        self.moved(other, to, packet_bytes);
    }

    /// The host is gone: whatever the client has or wants there ends.
    pub(super) fn end_couples(&mut self, key: u32, said: &str) {
        let Some(relay) = self.relay(key) else { return };
        let couples = std::mem::take(&mut relay.couples);
        for couple in couples {
            let (id, reason) = (couple.own, open_failure::CONNECT_FAILED);
            // This means something while the channel is being opened, the rest when it is open.
            self.command(key, Command::Reject { id, reason, text: said.to_owned().into() });
            match couple.is_session {
                true => self.say_and_close(key, id, said),
                false => self.command(key, Command::Close(id)),
            }
        }
        self.end_asked(key, said);
    }

    /// What the client wants of its host cannot be had.
    pub(super) fn end_asked(&mut self, key: u32, said: &str) {
        let Some(relay) = self.relay(key) else { return };
        let asked = std::mem::take(&mut relay.asked);
        let global = relay.global.take();
        for (id, _) in asked {
            self.end_early(key, id, said);
            self.end_moving(key, id, said);
            let (reason, text) = (open_failure::CONNECT_FAILED, said.to_owned().into());
            self.command(key, Command::Reject { id, reason, text });
        }
        if global.is_some() {
            self.command(key, Command::ReplyGlobal { ok: false, port: None });
        }
    }

    /// Ends a session with a line; one that has no room for it is told when it has, or with all the
    /// rest.
    pub(super) fn say_and_close(&mut self, key: u32, id: ChannelId, said: &str) {
        if self.say_on(key, id, said) {
            self.command(key, Command::Close(id));
        } else if let Some(End::Down(down)) = self.relay(key).map(|relay| &mut relay.end) {
            down.untold.push(id);
        }
    }

    /// A line on a session's standard error; false if it cannot be said now.
    pub(super) fn say_on(&mut self, key: u32, id: ChannelId, text: &str) -> bool {
        let Some(link) = self.links.get(key as usize) else { return false };
        if link.outgoing.has_waiting() {
            return false;
        }
        let line = format!("tidegate: {text}\r\n");
        let written = self.with_env(key, |conn, env| {
            Ok(conn.write_data(id, Some(EXTENDED_STDERR), line.as_bytes(), env))
        });
        written.unwrap_or(false)
    }

    /// Tells those sessions that could not be told before.
    fn say_farewells(&mut self, key: u32) {
        let Some(End::Down(down)) = self.relay(key).map(|relay| &mut relay.end) else { return };
        let Dial::Lost(why) = &down.dial else { return };
        let (why, untold) = (Arc::clone(why), std::mem::take(&mut down.untold));
        let mut left = Vec::new();
        for id in untold {
            match self.say_on(key, id, &why) {
                true => self.command(key, Command::Close(id)),
                false => left.push(id),
            }
        }
        if let Some(End::Down(down)) = self.relay(key).map(|relay| &mut relay.end) {
            down.untold = left;
        }
    }

    // ---- Requests ----------------------------------------------------------------------------

    pub(super) fn relay_request(&mut self, key: u32, id: ChannelId, request: Box<[u8]>) {
        let Some(request) = self.hold_if_moving(key, id, request) else { return };
        let coupled = self.partner(key, id).filter(|_| !self.is_early(key, id));
        let Some((other, to)) = coupled else {
            self.hold_request(key, id, request);
            return;
        };
        let Some(request) = self.recorded_relay(key, id, request) else { return };
        let Ok(asked) = ChannelRequest::parse(&request) else { return };
        let waiting = self.links.get(other as usize).map_or(0, |link| link.outgoing.asking());
        if waiting as usize > HELD_REQUEST_BYTES_MAX {
            let why = "too many requests while the other side exchanges keys";
            let to_blame = if self.is_shared(key) { other } else { key };
            self.close_link(to_blame, disconnect::PROTOCOL_ERROR, why);
            return;
        }
        let down = self.relay(key).is_some_and(|relay| relay.is_down());
        let starts = asked.body.starts();
        let request = match down {
            false => Some(request),
            true => match self.judge_request(key, id, &asked) {
                Verdict::Passes if !is_sharers(&asked.body) && !self.may_stay(key, id) => {
                    self.move_session(key, id, request);
                    return;
                }
                Verdict::Passes => Some(request),
                Verdict::Replaced(command) => {
                    let body = RequestBody::Exec { command: command.as_bytes() };
                    encoded(asked.want_reply, body)
                }
                verdict @ (Verdict::Refused(_) | Verdict::Dropped) => {
                    if let Verdict::Refused(why) = verdict {
                        let what = asked.body.name().to_owned();
                        self.report(key, What::Refused { what, why: why.to_owned() });
                    }
                    let body = RequestBody::Other { name: REFUSED, rest: &[] };
                    encoded(asked.want_reply, body).filter(|_| asked.want_reply)
                }
            },
        };
        if let Some(request) = request {
            self.note_asked(key, id, &request);
            self.command(other, Command::Ask { id: to, request });
        }
        if down && starts && self.end_trial(key, id) {
            self.pass_window(other, to);
        }
    }

    /// What becomes of a client's request, by its grant.
    fn judge_request(&mut self, key: u32, id: ChannelId, asked: &ChannelRequest<'_>) -> Verdict {
        let late = !self.is_on_trial(key, id) && self.is_on_shared(key, id);
        let Some(link) = self.links.get_mut(key as usize) else { return Verdict::Passes };
        let Some(grant) = link.grant.clone() else { return Verdict::Refused("no login") };
        let Some(End::Down(down)) = link.relay.as_mut().map(|relay| &mut relay.end) else {
            return Verdict::Passes;
        };
        match asked.body {
            RequestBody::PtyReq { .. } if !grant.pty => {
                Verdict::Refused("terminals are not permitted (PermitTTY, or the key's options)")
            }
            RequestBody::PtyReq { .. } => {
                let other = self.partner(key, id);
                for (key, id) in [Some((key, id)), other].into_iter().flatten() {
                    if let Some(couple) = self.relay(key).and_then(|relay| relay.couple_mut(id)) {
                        couple.pace.terminal = true;
                    }
                }
                self.mark_relayed(key);
                Verdict::Passes
            }
            // Where no variable is named here, the host alone decides.
            RequestBody::Env { name, .. } => {
                let name = std::str::from_utf8(name).unwrap_or_default();
                match grant.accept_env.is_empty() || grant.accepts_variable(name) {
                    true => Verdict::Passes,
                    false => Verdict::Dropped,
                }
            }
            RequestBody::AgentForward | RequestBody::Other { name: X11_REQUEST, .. } if late => {
                Verdict::Refused("on a shared connection it is asked for before a program starts")
            }
            RequestBody::AgentForward => match grant.rules.forwarding.agent {
                true => {
                    down.agent = true;
                    Verdict::Passes
                }
                false => {
                    Verdict::Refused("AllowAgentForwarding, DisableForwarding or the key's options")
                }
            },
            RequestBody::Other { name: X11_REQUEST, .. } => match grant.rules.forwarding.x11 {
                true => {
                    down.x11 = true;
                    Verdict::Passes
                }
                false => Verdict::Refused("X11Forwarding, DisableForwarding or the key's options"),
            },
            RequestBody::Shell | RequestBody::Exec { .. } | RequestBody::Subsystem { .. } => {
                self.start_relayed(key, id, &grant, asked)
            }
            _ => Verdict::Passes,
        }
    }

    fn start_relayed(
        &mut self,
        key: u32,
        id: ChannelId,
        grant: &Grant,
        asked: &ChannelRequest<'_>,
    ) -> Verdict {
        let what = match asked.body {
            RequestBody::Exec { command } => {
                format!("command {}", String::from_utf8_lossy(command))
            }
            RequestBody::Subsystem { name } => format!("subsystem {name}"),
            _ => "shell".to_owned(),
        };
        if grant.rules.no_login.is_some() {
            return Verdict::Refused("/etc/nologin exists");
        }
        let kind = match asked.body {
            RequestBody::Exec { .. } => "session:command".to_owned(),
            RequestBody::Subsystem { name } => format!("session:subsystem:{name}"),
            _ => "session:shell".to_owned(),
        };
        self.time_relayed(key, id, &kind);
        self.set_variables(key, id, grant);
        let Some(forced) = grant.forced_command.clone() else {
            let user = grant.account.name.clone();
            self.report(key, What::SessionStarted { user, what });
            return Verdict::Passes;
        };
        let what = format!("forced command for {what}");
        let user = grant.account.name.clone();
        if forced.split_whitespace().next() == Some(INTERNAL_SFTP) {
            if !matches!(asked.body, RequestBody::Subsystem { name: "sftp" }) {
                return Verdict::Refused("ForceCommand allows sftp connections only");
            }
            self.report(key, What::SessionStarted { user, what });
            return Verdict::Passes;
        }
        self.report(key, What::SessionStarted { user, what });
        Verdict::Replaced(forced)
    }

    /// SetEnv: the host is asked for these, and decides by its AcceptEnv.
    fn set_variables(&mut self, key: u32, id: ChannelId, grant: &Grant) {
        let Some((other, to)) = self.partner(key, id) else { return };
        for (name, value) in &grant.set_env {
            let body = RequestBody::Env { name: name.as_bytes(), value: value.as_bytes() };
            if let Some(request) = encoded(false, body) {
                self.command(other, Command::Ask { id: to, request });
            }
        }
    }

    // ---- The connection ----------------------------------------------------------------------

    /// A client's request about its connection. The next is heard of when this one is answered.
    pub(super) fn relay_global(&mut self, key: u32, want_reply: bool, request: GlobalRequest) {
        if self.relay(key).is_some_and(|relay| !relay.is_down()) {
            // A host has nothing to ask; the protocol has refused it.
            return;
        }
        if let Err(why) = self.may_listen_there(key, want_reply, &request) {
            self.command(key, Command::ReplyGlobal { ok: false, port: None });
            self.report(key, What::Refused { what: format!("{request:?}"), why });
            return;
        }
        if let Some(relay) = self.relay(key) {
            relay.global = Some((request, false));
        }
        // Who has asked for what a host opens is known where one client is alone with it.
        self.go_private(key);
        self.pass_global(key);
    }

    fn may_listen_there(
        &self,
        key: u32,
        want_reply: bool,
        request: &GlobalRequest,
    ) -> Result<(), String> {
        let link = self.links.get(key as usize).ok_or("no connection")?;
        let grant = link.grant.as_ref().ok_or("no login")?;
        if let Some(End::Down(down)) = link.relay.as_ref().map(|relay| &relay.end)
            && let Dial::Lost(why) = &down.dial
        {
            return Err(why.to_string());
        }
        let place = match request {
            GlobalRequest::TcpipForward { port: 0, .. } if !want_reply => {
                return Err("nobody wants to hear which port it is".to_owned());
            }
            GlobalRequest::TcpipForward { address, port } => {
                Place::Tcp { address: address.clone(), port: *port }
            }
            GlobalRequest::StreamlocalForward { path } => Place::Path(path.clone()),
            // The host knows what is its own to end.
            _ => return Ok(()),
        };
        // Which ports are root's is the host's business.
        place.check(&grant.rules.forwarding, 0).map_err(str::to_owned)
    }

    fn pass_global(&mut self, key: u32) {
        let Some(relay) = self.relay(key).filter(|relay| relay.is_through()) else { return };
        let (Some(other), Some((request, false))) = (relay.other, &relay.global) else { return };
        let request = request.clone();
        let ready = self.links.get(other as usize).is_some_and(|link| link.conn.is_ready());
        if !ready || self.is_shared(other) {
            return;
        }
        let passed = self.with_env(other, |conn, env| conn.pass_global(&request, env));
        match passed {
            Some(true) => {
                if let Some(relay) = self.relay(key) {
                    relay.global = Some((request, true));
                }
            }
            Some(false) => {
                if let Some(relay) = self.relay(key) {
                    relay.global = None;
                }
                self.command(key, Command::ReplyGlobal { ok: false, port: None });
            }
            None => {}
        }
    }

    /// The host has answered.
    pub(super) fn relay_global_done(&mut self, key: u32, ok: bool, port: Option<u32>) {
        let Some(other) = self.relay(key).and_then(|relay| relay.other) else { return };
        let Some(relay) = self.relay(other) else { return };
        let Some((request, _)) = relay.global.take_if(|(_, passed)| *passed) else { return };
        if let End::Down(down) = &mut relay.end
            && ok
        {
            down.listening += u32::from(matches!(
                request,
                GlobalRequest::TcpipForward { .. } | GlobalRequest::StreamlocalForward { .. }
            ));
        }
        let chosen = matches!(request, GlobalRequest::TcpipForward { port: 0, .. });
        self.command(other, Command::ReplyGlobal { ok, port: port.filter(|_| chosen) });
    }
}

/// What becomes of a request.
enum Verdict {
    Passes,
    /// A command is asked for in place of it.
    Replaced(String),
    Refused(&'static str),
    /// Refused without a line in the log: clients ask for what they always ask for.
    Dropped,
}

/// A request as it would have come; its channel is named when it is passed on.
pub(super) fn encoded(want_reply: bool, body: RequestBody<'_>) -> Option<Box<[u8]>> {
    let mut space = vec![0; body.text_bytes() + REQUEST_FRAME_BYTES_MAX];
    let mut out = Writer::new(&mut space);
    let request = ChannelRequest { recipient: ChannelNumber(0), want_reply, body };
    request.write(&mut out).ok()?;
    Some(out.written().into())
}
