//! Links and services that wait for leases, and for how long they may.
//!
//! What waits for somebody else (a program or a socket that does not read) gives its memory back when
//! others find none. What cannot be had back in that way is a send that the peer
//! does not take, or a packet of which it sends only the beginning: when others have waited for too
//! long, the connection that has held some for the longest ends.

use super::*;
use crate::limits::{STARVED_TIME_MAX, YIELD_INTERVAL};
use crate::services::Service;

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn starve_link(&mut self, key: u32, lacks: Classes) {
        let now = self.driver.now();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.lacks.is_empty() {
            self.starved.push(key);
            link.starved_since = now;
        }
        link.lacks = link.lacks.and(lacks);
    }

    /// There are leases again: all that may have waited for one goes on.
    fn link_fed(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.lacks = Classes::NONE;
        self.mark_dirty(key);
        self.mark_ready(key);
        self.give_answer(key);
        self.resume(key);
        self.wake_services(key);
        self.resume_relay(key);
    }

    /// Leases have come back: whoever found none tries again, oldest first.
    pub(super) fn feed_starved(&mut self) {
        for key in std::mem::take(&mut self.starved) {
            let lacks = self.lacks(key);
            if lacks.is_empty() {
                continue;
            }
            if !self.driver.pool().has_any(lacks) {
                self.starved.push(key);
            } else {
                self.contained_for(key, |shard| match key & OF_ATTACHMENT {
                    0 => shard.link_fed(key),
                    _ => shard.attachment_fed(key & !OF_ATTACHMENT),
                });
            }
        }
        let waits = !self.starved.is_empty() || !self.arrivals.is_empty();
        match self.relief_at {
            None if waits => self.relief_at = Some(self.driver.now().after(YIELD_INTERVAL)),
            Some(_) if !waits => self.relief_at = None,
            _ => {}
        }
    }

    /// Memory has been lacking for a while.
    pub(super) fn relieve_starved(&mut self, now: Instant) {
        if self.relief_at.is_none_or(|at| at > now) {
            return;
        }
        self.relief_at = Some(now.after(YIELD_INTERVAL));
        for number in self.attachments.iter().map(|(number, _)| number as u32).collect::<Vec<_>>() {
            self.contained_for(number | OF_ATTACHMENT, |shard| {
                shard.with_service(number, |service, io| service.yield_memory(io));
            });
        }
        let (since, link) = self.longest_wait(now);
        if now.since(since) >= STARVED_TIME_MAX {
            match (self.longest_holder(now), link) {
                (Some(holder), _) => self.end_holder(holder),
                (None, Some(starving)) => {
                    self.close_link(starving, disconnect::BY_APPLICATION, STARVED_TOO_LONG);
                }
                (None, None) => self.turn_away_next(),
            }
        }
    }

    /// Who has waited for leases for the longest, and since when: a link, or the next arrival.
    fn longest_wait(&self, now: Instant) -> (Instant, Option<u32>) {
        let waits = |key: &u32| {
            let number = (key & !OF_ATTACHMENT) as usize;
            if key & OF_ATTACHMENT != 0 {
                let attachment = self.attachments.get(number).filter(|one| !one.lacks.is_empty());
                return attachment.map(|one| (one.starved_since, one.link));
            }
            let link = self.links.get(number).filter(|link| !link.lacks.is_empty());
            link.map(|link| (link.starved_since.max(link.moved), number as u32))
        };
        let starved = self.starved.iter().filter_map(waits).min();
        match (starved, self.arrivals.front()) {
            (Some((since, key)), arrival) if arrival.is_none_or(|(at, _)| since <= *at) => {
                (since, Some(key))
            }
            (_, Some((at, _))) => (*at, None),
            (_, None) => (now, None),
        }
    }

    /// The link that has held memory for the longest without getting anywhere, if any has for long.
    fn longest_holder(&self, now: Instant) -> Option<u32> {
        let stuck = |link: &Link| {
            let holds = link.outgoing.is_sending() || link.inbound.holds_lease();
            link.state == LinkState::Open && holds && now.since(link.moved) >= STARVED_TIME_MAX
        };
        let held = self.links.iter().filter(|(_, link)| stuck(link));
        held.min_by_key(|(_, link)| link.moved).map(|(key, _)| key as u32)
    }

    /// Its last words would stand behind what the peer does not take: it has none.
    fn end_holder(&mut self, key: u32) {
        self.peer_left(key, HELD_TOO_LONG, true);
        self.mark_dirty(key);
    }

    fn turn_away_next(&mut self) {
        match self.arrivals.pop_front() {
            Some((_, Arrival::Accepted(socket, ends, _))) => self.turn_away(socket, ends),
            Some((_, Arrival::HandOver(connection))) => self.cannot_take_over(&connection),
            None => {}
        }
    }

    /// What the time has come for on a link that lacks memory. Only what needs none is done: the rest
    /// follows as soon as there is some.
    pub(super) fn expire_starving(&mut self, key: u32, now: Instant) {
        let Some(link) = self.links.get(key as usize) else { return };
        match link.conn.deadline() {
            Some((at, why)) if at <= now => self.fail(key, why),
            _ => self.arm_timer(key),
        }
    }
}

const STARVED_TOO_LONG: &str = "there was no memory for it for too long";
const HELD_TOO_LONG: &str = "it held memory that others waited for, and its peer did nothing";
