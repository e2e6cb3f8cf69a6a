//! What relayed channels are timed by (ChannelTimeout), and how the packets of both connections are
//! marked (IPQoS): for logins that go on elsewhere what `idle` is for those that are served here.

use super::relay::Relay;
use super::*;
use crate::connection::{ChannelId, ChannelKind};
use crate::services::{Command, Rules};
use crate::wire::channel::{AGENT_CHANNEL, X11_CHANNEL};

/// One of the client's channels, as far as that matters here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// It has a terminal.
    pub terminal: bool,
    /// It is open, and some time is set for it.
    pub timed: bool,
    /// When bytes of it were last seen, and how long ago that may be at most.
    pub used: Instant,
    pub timeout: Option<Duration>,
}

/// What ChannelTimeout calls a channel of this kind.
pub(super) fn type_name(kind: &ChannelKind) -> &'static str {
    match kind {
        ChannelKind::Session => "session",
        ChannelKind::DirectTcpip { .. } => "direct-tcpip",
        ChannelKind::ForwardedTcpip { .. } => "forwarded-tcpip",
        ChannelKind::DirectStreamlocal { .. } => "direct-streamlocal@openssh.com",
        ChannelKind::ForwardedStreamlocal { .. } => "forwarded-streamlocal@openssh.com",
        ChannelKind::Other { name, .. } => match &**name {
            X11_CHANNEL => "x11-connection",
            AGENT_CHANNEL => "agent-connection",
            _ => "",
        },
    }
}

impl<D: Driver, O: Outside> Shard<D, O> {
    fn pace(&mut self, key: u32, id: ChannelId) -> Option<&mut Pace> {
        let relay = self.links.get_mut(key as usize)?.relay.as_deref_mut()?;
        relay.couple_mut(id).map(|couple| &mut couple.pace)
    }

    /// A client's channel is open, or is of this type from now on, as ChannelTimeout names types.
    pub(super) fn time_relayed(&mut self, key: u32, id: ChannelId, kind: &str) {
        let now = self.driver.now();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Some(rules) = link.grant.as_ref().map(|grant| &grant.rules) else { return };
        let (own, all) = (rules.channel_timeout(kind), rules.all_channels_timeout());
        let Some(pace) = self.pace(key, id) else { return };
        (pace.timeout, pace.used) = (own, now);
        pace.timed = own.is_some() || all.is_some();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.used = now;
        for timeout in [own, all].into_iter().flatten() {
            link.check_idle_at(now.after(timeout));
        }
        let other = self.partner(key, id).map(|(other, _)| other);
        for key in [Some(key), other].into_iter().flatten() {
            if let Some(relay) = self.links.get_mut(key as usize).and_then(|l| l.relay.as_mut()) {
                relay.timed |= own.is_some() || all.is_some();
            }
        }
    }

    /// Bytes have passed between these two.
    pub(super) fn note_relayed(&mut self, ends: [(u32, ChannelId); 2]) {
        let is_timed = |link: &Link| link.relay.as_ref().is_some_and(|relay| relay.timed);
        if !ends.iter().any(|(key, _)| self.links.get(*key as usize).is_some_and(is_timed)) {
            return;
        }
        let now = self.driver.now();
        for (key, id) in ends {
            if let Some(pace) = self.pace(key, id).filter(|pace| pace.timed) {
                pace.used = now;
                if let Some(link) = self.links.get_mut(key as usize) {
                    link.used = now;
                }
            }
        }
    }

    /// Closes the client's channels that have been idle for too long.
    pub(super) fn expire_relayed(&mut self, key: u32, rules: &Rules, now: Instant) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Some(relay) = link.relay.as_deref() else { return };
        let mut idle = Vec::new();
        let mut next: Option<Instant> = None;
        let all = rules.all_channels_timeout().map(|timeout| (link.used, timeout));
        for couple in relay.couples.iter().filter(|couple| couple.pace.timed && !couple.closing) {
            let own = couple.pace.timeout.map(|timeout| (couple.pace.used, timeout));
            for (used, timeout) in [own, all].into_iter().flatten() {
                let at = used.after(timeout);
                match at <= now {
                    true => idle.push((couple.own, timeout)),
                    false => next = Some(next.map_or(at, |earlier| earlier.min(at))),
                }
            }
        }
        if let Some(at) = next {
            link.check_idle_at(at);
        }
        for (id, timeout) in idle {
            let seconds = timeout.as_secs();
            let what = format!("closed after {seconds} s without traffic (ChannelTimeout)");
            self.report(key, What::SessionEnded { what });
            self.relay_close(key, id);
            self.command(key, Command::Close(id));
        }
    }

    /// Marks the packets of both connections by what the client's does: interactive while a session
    /// has a terminal.
    pub(super) fn mark_relayed(&mut self, key: u32) {
        let Some(link) = self.links.get(key as usize) else { return };
        let (Some(grant), Some(relay)) = (&link.grant, &link.relay) else { return };
        let class = match relay.has_terminal() {
            true => grant.rules.interactive_class,
            false => grant.rules.bulk_class,
        };
        let rules = [grant.rules.interactive_class, grant.rules.bulk_class];
        let lines = relay.lines.clone();
        self.set_class(key, class);
        for line in lines {
            // Others may have a terminal there.
            let [interactive, bulk] = rules;
            let terminal = self.relay(line).is_some_and(|relay| relay.has_terminal());
            self.set_class(line, if terminal { interactive } else { bulk });
        }
    }
}

impl Relay {
    fn has_terminal(&self) -> bool {
        self.couples.iter().any(|couple| couple.pace.terminal)
    }
}
