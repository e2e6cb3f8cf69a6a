use std::sync::Arc;
use std::time::Duration;

use super::Inbound;
use super::agent::Agent;
use super::linger::Flow;
use super::outside::{Ends, Proof};
use super::relay::Relay;
use super::tape::Recording;
use crate::base::Instant;
use crate::connection::{Answer, ChannelId, Conn, ConnectionConfig, LoginLimits};
use crate::crypto::{Certificate, PublicKey, SignatureAlgorithm};
use crate::reactor::{Classes, Fd};
use crate::services::forward::Place;
use crate::services::{About, Attached, Grant, Outgoing};

/// One connection of a shard.
#[derive(Debug)]
pub(super) struct Link {
    pub conn: Conn,
    pub state: LinkState,
    /// Absent once closed or handed over.
    pub socket: Option<Fd>,
    pub ends: Ends,
    pub serial: u64,
    pub generation: u16,
    pub since: Instant,
    pub inbound: Inbound,
    pub outgoing: Outgoing,
    /// Operations and jobs of the link itself whose completion is still to come.
    pub in_flight: u16,
    /// On one of the shard's ready queues.
    pub queued: bool,
    /// On the shard's list of links to be flushed at the end of the turn.
    pub dirty: bool,
    pub authenticated: bool,
    /// The peer has tried to log in, and failed.
    pub attempted: bool,
    /// Panics that it has met.
    pub defects: u8,
    /// Its end has been reported, and why it came.
    pub ended: bool,
    pub reason: Option<String>,
    /// It is a client's own: whoever turns the shard hears of it.
    pub client: bool,
    /// A client has heard that its server identified itself.
    pub identified: bool,
    /// It is one of a pair.
    pub relay: Option<Box<Relay>>,
    /// Some of its sessions are recorded.
    pub recording: Option<Box<Recording>>,
    /// Until when the way to the other one of the pair may take.
    pub deadline: Option<Instant>,
    /// It waits for one of these leases, and is on the shard's list of those that do.
    pub lacks: Classes,
    /// Since when, if it does.
    pub starved_since: Instant,
    /// When bytes of it last came or went.
    pub moved: Instant,
    /// Data that came compressed and waits for a lease.
    pub owed: Option<Box<Owed>>,
    /// To the protocol's open question, while no outbox can be had.
    pub answer: Option<Answer>,
    /// What the key that was asked about last permits; binding once authentication succeeds.
    pub grant: Option<Arc<Grant>>,
    /// What the methods that have succeeded permit, while others are still asked for.
    pub earned: Option<Arc<Grant>>,
    /// The question that `grant` answers. A client asks whether a key would do and then signs with
    /// it: the second time the answer is known.
    pub asked: Option<Asked>,
    pub about: About,
    /// The methods that have succeeded, until it goes on somewhere.
    pub proofs: Vec<Proof>,
    /// Channels and the attachments that serve them.
    pub channels: Vec<(ChannelId, u32)>,
    /// Where the client wants us to listen, while a worker sees to it. What the client sent behind the request
    /// waits: a program that it starts finds the place, as with sshd.
    pub asked_to_listen: Option<Place>,
    pub agent: Agent,
    /// Attachments not yet released, those without a channel included.
    pub attachments: u32,
    /// When bytes of any channel were last seen, or the last channel went.
    pub used: Instant,
    /// When something of it could have been idle for too long; `None`: nothing is timed.
    pub idle_check: Option<Instant>,
    /// How its packets are marked, once they are.
    pub class: Option<u8>,
    /// The socket's receive mark, and until when what lies below it may wait.
    pub mark: u32,
    pub mark_until: Option<Instant>,
    pub flow: Flow,
    /// When the lease of the receive in flight is taken back, unless something comes.
    pub lease_until: Option<Instant>,
    /// By what root's process knows it again.
    pub token: Box<[u8]>,
    /// When it is to move to another program, if it is, and how long after that it is tried again.
    pub move_at: Option<Instant>,
    pub move_pause: Duration,
}

/// A question about a key, but for the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub user: Box<str>,
    pub algorithm: SignatureAlgorithm,
    /// The same key inside another certificate is another question.
    pub certificate: Option<Box<Certificate>>,
}

/// Channel data that lies in no lease yet.
#[derive(Debug)]
pub(super) struct Owed {
    pub id: ChannelId,
    pub extended: Option<u32>,
    pub data: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Open,
    /// Nothing is begun on it: it goes on in another program once nothing is in flight.
    Packing,
    /// Authenticated; leaves for the process of its account once nothing is in flight.
    Leaving,
    /// Says its last words, then ends.
    Closing,
    /// Over: waits until nothing is in flight.
    Terminating,
}

impl LinkState {
    /// The protocol still has its say.
    pub const fn goes_on(self) -> bool {
        matches!(self, LinkState::Open | LinkState::Packing)
    }
}

/// A service and the channel it is attached to.
#[derive(Debug)]
pub(super) struct Attachment {
    pub link: u32,
    pub id: ChannelId,
    pub generation: u16,
    pub service: Attached,
    pub in_flight: u16,
    /// The channel still exists.
    pub open: bool,
    /// As [`Link::lacks`]: `on_ready` is owed once there are some.
    pub lacks: Classes,
    /// Since when, without anything of it having moved.
    pub starved_since: Instant,
    /// The time of its traffic is noted.
    pub timed: bool,
    /// When bytes of it were last seen, and how long ago that may be at most.
    pub used: Instant,
    pub timeout: Option<Duration>,
    /// Bytes of the channel that must come before it has anything to do with them.
    pub awaited: u32,
    /// It is among those that are called at the end of the turn.
    pub late: bool,
    /// What of a channel that is gone counts among the link's windows until it is written.
    pub lingering: u32,
}

impl Link {
    /// Who has logged in. A key that was known makes a grant, and no login without its signature.
    pub fn user(&self) -> Option<String> {
        let grant = self.grant.as_ref().filter(|_| self.authenticated);
        grant.map(|grant| grant.account.name.clone())
    }

    /// Bytes of a channel's data that came compressed and wait for a lease.
    pub fn owed_on(&self, id: ChannelId) -> u32 {
        let owed = self.owed.as_ref().filter(|owed| owed.id == id);
        owed.map_or(0, |owed| owed.data.len() as u32)
    }

    /// The same question has been answered with a grant on this connection.
    pub fn knows(&self, asked: &Asked, key: &PublicKey) -> bool {
        self.asked.as_ref() == Some(asked)
            && self.grant.as_ref().is_some_and(|grant| grant.key.as_ref() == Some(key))
    }

    /// Takes on the limits of a login that has its own.
    pub fn follow(&mut self, own: Option<LoginLimits>, shared: &ConnectionConfig, now: Instant) {
        if let Some(limits) = own {
            self.conn.follow(Arc::new(shared.with_limits(limits)), now);
        }
    }

    /// The time for what it was about has passed.
    pub fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }

    pub fn check_idle_at(&mut self, at: Instant) {
        self.idle_check = Some(self.idle_check.map_or(at, |earlier| earlier.min(at)));
    }

    /// When the protocol or the times beside it want attention.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = [self.idle_check, self.mark_until, self.lease_until, self.deadline, self.move_at];
        let recorder = self.outgoing.recorder_due();
        own.into_iter().chain([self.conn.poll_timeout(), recorder]).flatten().min()
    }

    /// As [`Link::poll_timeout`], of what can be done without memory.
    pub fn poll_deadline(&self) -> Option<Instant> {
        let end = self.conn.deadline().map(|(at, _)| at);
        let own = [self.idle_check, self.mark_until, self.lease_until, self.deadline];
        own.into_iter().chain([end, self.outgoing.recorder_due()]).flatten().min()
    }

    pub fn attachment_of(&self, id: ChannelId) -> Option<u32> {
        self.channels.iter().find(|(of, _)| *of == id).map(|(_, key)| *key)
    }

    /// Nothing more happens to it: it can be freed.
    pub const fn is_spent(&self) -> bool {
        matches!(self.state, LinkState::Terminating) && self.in_flight == 0 && self.attachments == 0
    }
}
