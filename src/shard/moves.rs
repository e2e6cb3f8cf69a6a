//! For the simulator: connections that move under their services, and when a shard may sleep.

use super::*;
use crate::connection::{Conn, Connection, ConnectionRecord};
use crate::transport::Server;

impl<D: Driver, O: Outside> Shard<D, O> {
    /// Until when the next turn's wait would sleep if nothing completes and nobody rings.
    pub fn sleeps_until(&mut self) -> Option<Instant> {
        self.wait_until(None)
    }

    /// A time that has come since `since`, the last turn, and for which nobody was woken: a wait was
    /// to end no later.
    pub fn overslept(&mut self, since: Instant) -> Option<Instant> {
        let now = self.driver.now();
        let pause = self.paused.front().map(|(at, ..)| *at);
        let services = self.service_timers.earliest();
        let times = [self.timers.earliest(), services, self.rested, pause, self.relief_at];
        times.into_iter().flatten().find(|at| since < *at && *at < now)
    }

    /// What the receive windows of all links have grown by, in bytes.
    pub fn windows_grown(&self) -> u64 {
        self.links.iter().map(|(_, link)| link.conn.windows_grown()).sum()
    }

    /// What could be done now and would be slept over, or window that nobody will ever use again:
    /// a wake-up or a refund was forgotten.
    pub fn forgotten(&mut self) -> Option<String> {
        let now = self.driver.now();
        let queued = [self.ready.len(), self.handshakes.len(), self.withdrawn.len()];
        let sleeps = self.wait_until(None).is_none_or(|until| until > now);
        if sleeps && (queued != [0; 3] || self.can_feed()) {
            return Some(format!("queues of {queued:?}, and those who wait for leases"));
        }
        let forgets = |(key, link): (usize, &Link)| {
            let what = link.forgets(self.is_held_back(link))?;
            Some(format!("link {key}: {what}"))
        };
        let kept = |(number, attachment): (usize, &Attachment)| {
            let link = self.links.get(attachment.link as usize)?;
            let may = attachment.in_flight > 0 || link.outgoing.has_waiting();
            let bytes = link.conn.set_aside(attachment.id);
            (!may && bytes > 0).then(|| format!("{bytes} bytes of window, attachment {number}"))
        };
        let moves = self.links.iter().find_map(|(key, link)| {
            // Of a pair, either may be waited for.
            let mut both = self.together(self.leader(key as u32));
            let stands = link.state == LinkState::Packing && both.all(|one| self.stands(one));
            stands.then(|| format!("link {key}: it is to leave, and waits for nothing"))
        });
        let forgotten = self.links.iter().find_map(forgets).or(moves);
        forgotten.or_else(|| self.attachments.iter().find_map(kept))
    }

    /// Nothing of the link is under way, nor is looked at in the next turn.
    fn stands(&self, key: u32) -> bool {
        let idle = |(_, one): (usize, &Attachment)| one.link != key || one.in_flight == 0;
        let link = self.links.get(key as usize);
        link.is_none_or(|link| !link.dirty && link.in_flight == 0)
            && self.attachments.iter().all(idle)
    }

    /// Takes every connection that is quiet through its record, as a hand-over to another process
    /// does, at whatever its channels are just doing. Answers how many there were.
    ///
    /// # Panics
    /// When a record cannot be written, read or gone on from.
    pub fn move_quiet_links(&mut self) -> u32 {
        let now = self.driver.now();
        let mut moved = 0;
        let keys: Vec<u32> = self.links.iter().map(|(key, _)| key as u32).collect();
        for key in keys {
            let Some(link) = self.links.get_mut(key as usize) else { continue };
            // Those of a pair stay where they are.
            let open = link.state == LinkState::Open && link.answer.is_none();
            let open = open && link.relay.is_none();
            let Some(record) = link.conn.export().filter(|_| open) else { continue };
            let bytes = record.to_bytes().expect("a record can be written");
            let record = ConnectionRecord::from_bytes(&bytes).expect("what was written is read");
            let shared = &self.config.connection;
            let limits = link.grant.as_ref().and_then(|grant| grant.limits);
            let config = limits.map(|limits| Arc::new(shared.with_limits(limits)));
            let config = config.unwrap_or_else(|| Arc::clone(shared));
            let conn = Connection::<Server>::import(config, record, now).expect("it goes on");
            link.conn = Conn::Server(conn);
            self.mark_dirty(key);
            moved += 1;
        }
        moved
    }
}

impl Link {
    /// `held_back`: its other half takes no more.
    fn forgets(&self, held_back: bool) -> Option<&'static str> {
        // The end of a send wakes everything, and memory whoever lacks it.
        let waits = self.outgoing.is_sending() || !self.lacks.is_empty();
        if self.state != LinkState::Open || waits {
            return None;
        }
        let could =
            self.outgoing.backlog() > 0 || self.outgoing.has_waiting() && self.conn.is_ready();
        // What is marked leaves in the next turn, which comes at once.
        if could && !self.dirty {
            return Some("what could be sent is not");
        }
        let may_read = !self.queued && !self.conn.blocked() && !run::is_behind(self);
        let may_read = may_read && !held_back;
        if !self.queued && self.owed.is_some() || may_read && self.inbound.is_workable() {
            return Some("what has come is not looked at");
        }
        if may_read && !self.inbound.armed {
            return Some("nothing is received");
        }
        None
    }
}
