//! What of a link's life is timed beside its protocol (ChannelTimeout, UnusedConnectionTimeout),
//! and how its packets are marked (IPQoS).
//!
//! Traffic only notes the time. A link is looked at when the earliest of its times could have come;
//! what has been used since then is given a later one.

use super::*;
use crate::connection::ChannelId;
use crate::services::{Command, Rules};

impl<D: Driver, O: Outside> Shard<D, O> {
    /// The login is over: from now on the connection may be unused.
    pub(super) fn begin_idle(&mut self, key: u32) {
        let now = self.now();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.used = now;
        let unused = link.grant.as_ref().and_then(|grant| grant.rules.unused_timeout);
        if let Some(timeout) = unused {
            link.check_idle_at(now.after(timeout));
        }
    }

    /// The channel is of this type from now on, as ChannelTimeout names types.
    pub(super) fn time_channel(&mut self, number: u32, kind: &str) {
        let now = self.now();
        let Some(attachment) = self.attachments.get_mut(number as usize) else { return };
        let Some(link) = self.links.get_mut(attachment.link as usize) else { return };
        let Some(rules) = link.grant.as_ref().map(|grant| &grant.rules) else { return };
        let (own, all) = (rules.channel_timeout(kind), rules.all_channels_timeout());
        attachment.timeout = own;
        attachment.timed = own.is_some() || all.is_some();
        (attachment.used, link.used) = (now, now);
        for timeout in [own, all].into_iter().flatten() {
            link.check_idle_at(now.after(timeout));
        }
    }

    /// Bytes of the channel have come or gone.
    pub(super) fn note_traffic(&mut self, number: u32) {
        let Some(attachment) = self.attachments.get_mut(number as usize) else { return };
        if !attachment.timed {
            return;
        }
        let now = self.moment.unwrap_or_else(|| self.driver.now());
        attachment.used = now;
        if let Some(link) = self.links.get_mut(attachment.link as usize) {
            link.used = now;
        }
    }

    /// A channel of the link has gone.
    pub(super) fn note_departure(&mut self, key: u32) {
        let left = self.links.get(key as usize).is_some_and(|link| link.channels.is_empty());
        match left {
            true => self.begin_idle(key),
            false => self.mark_class(key),
        }
    }

    /// Closes what has been idle for too long, if it is time to look.
    pub(super) fn expire_idle(&mut self, key: u32, now: Instant) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.idle_check.is_none_or(|at| at > now) {
            return;
        }
        link.idle_check = None;
        let Some(grant) = link.grant.clone() else { return };
        if link.relay.as_ref().is_some_and(|relay| !relay.is_unused()) {
            self.expire_relayed(key, &grant.rules, now);
            return;
        }
        if link.channels.is_empty() {
            let due = grant.rules.unused_timeout.map(|timeout| link.used.after(timeout));
            match due {
                Some(at) if at <= now => self.close_link(key, disconnect::BY_APPLICATION, UNUSED),
                Some(at) => link.check_idle_at(at),
                None => {}
            }
            return;
        }
        for (id, idle) in self.idle_channels(key, &grant.rules, now) {
            self.expire_channel(key, id, idle);
        }
    }

    /// The channels whose time has come, and what it was; the others' is noted.
    fn idle_channels(
        &mut self,
        key: u32,
        rules: &Rules,
        now: Instant,
    ) -> Vec<(ChannelId, Duration)> {
        let Some(link) = self.links.get_mut(key as usize) else { return Vec::new() };
        let mut idle = Vec::new();
        if let Some(timeout) = rules.all_channels_timeout() {
            let at = link.used.after(timeout);
            if at <= now {
                return link.channels.iter().map(|(id, _)| (*id, timeout)).collect();
            }
            link.check_idle_at(at);
        }
        for n in 0..link.channels.len() {
            let Some((id, number)) = link.channels.get(n).copied() else { break };
            let Some(attachment) = self.attachments.get(number as usize) else { continue };
            let Some(timeout) = attachment.timeout else { continue };
            let at = attachment.used.after(timeout);
            match at <= now {
                true => idle.push((id, timeout)),
                false => link.check_idle_at(at),
            }
        }
        idle
    }

    fn expire_channel(&mut self, key: u32, id: ChannelId, idle: Duration) {
        // What is not open yet has times of its own.
        let number = self.links.get(key as usize).and_then(|link| link.attachment_of(id));
        let attachment = number.and_then(|number| self.attachments.get(number as usize));
        if attachment.is_some_and(|attachment| attachment.service.is_pending()) {
            return;
        }
        let seconds = idle.as_secs();
        let what = format!("closed after {seconds} s without traffic (ChannelTimeout)");
        self.report(key, What::SessionEnded { what });
        self.detach(key, id);
        self.command(key, Command::Close(id));
    }

    /// Marks the connection's packets by what it does: interactive while a session has a terminal.
    pub(super) fn mark_class(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Some(grant) = &link.grant else { return };
        let interactive = link.channels.iter().any(|(_, number)| {
            let attachment = self.attachments.get(*number as usize);
            attachment.is_some_and(|attachment| attachment.service.has_terminal())
        });
        let class = match interactive {
            true => grant.rules.interactive_class,
            false => grant.rules.bulk_class,
        };
        self.set_class(key, class);
    }

    /// Marks the packets of a connection from now on.
    pub(super) fn set_class(&mut self, key: u32, class: Option<u8>) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Some(socket) = link.socket else { return };
        // Where none is wanted, an earlier mark is taken back.
        let class = class.or(link.class.map(|_| 0));
        if let Some(value) = class.filter(|_| class != link.class) {
            link.class = class;
            self.outside.set_class(socket, value);
        }
    }
}

const UNUSED: &str = "no channel was open for too long (UnusedConnectionTimeout)";
