//! Connections that go on in the program that has this one's place, with all that their channels are attached to.
//!
//! One that is to move hears nothing more, and its services stand still. As soon as nothing of it is in flight,
//! it is packed and leaves; where that takes too long it goes on here, and is tried again later.

use super::*;
use crate::connection::ChannelId;
use crate::limits::{
    HAND_OVER_UNSENT_BYTES_MAX, LUGGAGE_BYTES_MAX, LUGGAGE_CHANNEL_BYTES, MOVES_A_TURN,
    MOVING_LOOK_AGAIN, MOVING_RETRY_MAX, MOVING_RETRY_MIN, MOVING_TIME_MAX,
    MOVING_UNOPENED_BYTES_MAX,
};
use crate::services::{Attached, Grant, Luggage, Unpacking};
use crate::wire::Malformed;

/// A channel's place in a luggage.
#[derive(Debug)]
struct Piece {
    id: ChannelId,
    timed: bool,
    used: Instant,
    timeout: Option<Duration>,
    service: Attached,
}

impl<D: Driver, O: Outside> Shard<D, O> {
    /// Every connection that can is to go on in another program, and so are those that come.
    pub(super) fn begin_moving(&mut self) {
        self.moving = true;
        self.moves = self.links.iter().map(|(key, _)| key as u32).collect();
    }

    /// If others do, it is to move as well.
    pub(super) fn may_move(&mut self, key: u32) {
        if self.moving {
            self.moves.push_back(key);
        }
    }

    /// It is tried again.
    pub(super) fn expire_move(&mut self, key: u32, now: Instant) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.move_at.take_if(|at| *at <= now).is_some() {
            self.moves.push_back(key);
        }
    }

    /// Gets some of those ready whose time has come.
    pub(super) fn move_some(&mut self) {
        for _ in 0..MOVES_A_TURN {
            let Some(key) = self.moves.pop_front() else { return };
            self.contained(key, |shard| shard.get_ready(key));
        }
    }

    fn get_ready(&mut self, key: u32) {
        // One to a host moves with its client's.
        if self.is_upstream(key) {
            return;
        }
        let (now, may) = (self.now(), self.could_move(key));
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.state != LinkState::Open {
            return;
        }
        if !may {
            // It may be in the middle of something that is over in a moment.
            link.move_at = Some(now.after(MOVING_LOOK_AGAIN));
            self.mark_dirty(key);
            return;
        }
        link.move_at = None;
        for one in self.together(key) {
            self.stand_still(one, now);
        }
        self.for_each_service(key, |service, io| service.halt(io));
        self.halt_places(key);
    }

    /// The link hears nothing more for now.
    fn stand_still(&mut self, key: u32, now: Instant) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.state = LinkState::Packing;
        let (generation, armed) = (link.generation, link.inbound.armed);
        self.timers.set(key, now.after(MOVING_TIME_MAX));
        if armed {
            self.cancel(Token { key, generation, tag: TAG_RECV });
        }
        // Whoever goes on with the socket knows of no mark.
        self.set_receive_mark(key, 1);
        self.mark_dirty(key);
    }

    /// Nothing of it is only here, but for what comes to rest by itself.
    fn could_move(&self, key: u32) -> bool {
        let Some(link) = self.links.get(key as usize) else { return false };
        let Some(grant) = &link.grant else { return false };
        let plain = link.authenticated && !self.is_client(key) && !grant.rules.record.is_on();
        let plain = plain
            && match (&link.relay, &grant.upstream) {
                (None, None) => true,
                (Some(_), _) => self.could_move_together(key),
                (None, Some(_)) => false,
            };
        let moves = |(_, number): &(ChannelId, u32)| {
            let attachment = self.attachments.get(*number as usize);
            attachment.is_some_and(|one| one.lacks.is_empty() && one.service.may_move())
        };
        let all = link.attachments as usize == link.channels.len();
        let calm = link.is_calm() && self.places_may_move(key);
        plain && calm && all && self.is_light(link) && link.channels.iter().all(moves)
    }

    /// What its channels have not been able to pass on can travel.
    fn is_light(&self, link: &Link) -> bool {
        let burden = |(_, number): &(ChannelId, u32)| {
            let attachment = self.attachments.get(*number as usize);
            attachment.map_or(0, |one| one.service.burden().saturating_add(LUGGAGE_CHANNEL_BYTES))
        };
        link.channels.iter().map(burden).fold(0, u32::saturating_add) <= LUGGAGE_BYTES_MAX
    }

    fn for_each_service(
        &mut self,
        key: u32,
        mut call: impl FnMut(&mut Attached, &mut crate::services::Io<'_>),
    ) {
        let channels = self.links.get(key as usize).map(|link| link.channels.clone());
        for (_, number) in channels.unwrap_or_default() {
            self.with_service(number, &mut call);
        }
    }

    /// It could not leave in time: it goes on here for now, and the next try comes later than the last.
    pub(super) fn give_up_leaving(&mut self, key: u32) {
        // Somebody has come at one of its places, and it was not waited for anything.
        if !self.places_may_move(key) {
            return self.stay(key);
        }
        let (now, key) = (self.now(), self.leader(key));
        if let Some(link) = self.links.get_mut(key as usize) {
            link.put_move_off(now);
        }
        self.go_on_here(key);
    }

    /// Something has come between: it goes on here, and is tried again as soon as at first. Nobody has waited.
    pub(super) fn stay(&mut self, key: u32) {
        let (now, key) = (self.now(), self.leader(key));
        if let Some(link) = self.links.get_mut(key as usize) {
            link.move_at = Some(now.after(MOVING_RETRY_MIN));
        }
        self.go_on_here(key);
    }

    fn go_on_here(&mut self, key: u32) {
        let both = self.together(key);
        for one in both.clone() {
            let packing = |link: &&mut Link| link.state == LinkState::Packing;
            if let Some(link) = self.links.get_mut(one as usize).filter(packing) {
                link.state = LinkState::Open;
            }
        }
        self.for_each_service(key, |service, io| service.go_on(io));
        self.go_on_places(key);
        for one in both {
            self.resume(one);
            self.mark_ready(one);
        }
    }

    /// One of a pair ends while both stand still: the other hears of it as ever.
    pub(super) fn stay_to_end(&mut self, key: u32) {
        let paired = |link: &&Link| link.state == LinkState::Packing && link.relay.is_some();
        if self.links.get(key as usize).filter(paired).is_some() {
            self.stay(key);
        }
    }

    /// Leaves, if nothing is in flight any more. `false`: it is still here, and goes on if that alone is not
    /// enough.
    pub(super) fn move_on(&mut self, key: u32) -> bool {
        let key = self.leader(key);
        if !self.has_halted(key) || !self.is_host_quiet(key) {
            return false;
        }
        let Some(mut connection) = self.packed(key) else {
            self.stay(key);
            return false;
        };
        let mut luggage = self.pack_services(key);
        // A pair has no services that would have to be unpacked again.
        if self.pack_pair(key, &mut luggage).is_none() {
            self.stay(key);
            return false;
        }
        let (sessions, forwards) = self.count_services(key);
        connection.luggage = Some(Box::new(luggage));
        let Some(link) = self.links.get_mut(key as usize) else { return false };
        // The process that takes them closes them.
        self.driver.release(connection.socket);
        for fd in connection.luggage.iter().flat_map(|luggage| &luggage.descriptors) {
            self.driver.release(*fd);
        }
        let user = connection.grant.account.name.clone();
        let fits = connection.luggage.as_ref().is_some_and(|luggage| luggage.fits());
        let moved = if fits { self.outside.move_on(connection) } else { Err(connection) };
        if let Err(back) = moved {
            self.unpack_again(key, &back);
            self.give_up_leaving(key);
            return false;
        }
        link.socket = None;
        self.leave_places(key);
        let Some(link) = self.links.get_mut(key as usize) else { return false };
        for (_, number) in std::mem::take(&mut link.channels) {
            if let Some(attachment) = self.attachments.get_mut(number as usize) {
                attachment.open = false;
            }
            self.release(number);
        }
        self.part_from_pair(key);
        self.report(key, What::MovedOn { user, sessions, forwards });
        self.terminate(key);
        true
    }

    /// Nothing of it is in flight, nor is to be sent first.
    fn has_halted(&self, key: u32) -> bool {
        let Some(link) = self.links.get(key as usize) else { return false };
        let at_rest = |(_, number): &(ChannelId, u32)| {
            self.attachments.get(*number as usize).is_none_or(|one| one.in_flight == 0)
        };
        let sent = link.outgoing.backlog() <= HAND_OVER_UNSENT_BYTES_MAX;
        let halted = link.in_flight == 0 && sent && link.channels.iter().all(at_rest);
        halted && self.places_have_halted(key)
    }

    /// The connection without its luggage, if it is quiet.
    fn packed(&mut self, key: u32) -> Option<Box<HandOver>> {
        if !self.places_may_move(key) {
            return None;
        }
        let upstream = self.upstream_of(key);
        let link = self.links.get(key as usize)?;
        let moves = |(_, number): &(ChannelId, u32)| {
            let attachment = self.attachments.get(*number as usize);
            attachment.is_some_and(|one| one.service.may_move())
        };
        let all = link.attachments as usize == link.channels.len();
        let fits = link.inbound.len() <= MOVING_UNOPENED_BYTES_MAX && self.is_light(link);
        if !all || !fits || !link.channels.iter().all(moves) {
            return None;
        }
        let link = self.links.get_mut(key as usize)?;
        let outbound = link.outgoing.unsent(self.driver.pool(), HAND_OVER_UNSENT_BYTES_MAX)?;
        let record = link.conn.export()?.to_bytes().ok()?.to_vec();
        let mut grant = Box::new((*link.grant.clone()?).clone());
        grant.upstream = upstream;
        Some(Box::new(HandOver {
            socket: link.socket?,
            ends: link.ends,
            serial: link.serial,
            session: link.conn.session_id().into(),
            record,
            inbound: link.inbound.bytes(self.driver.pool()).to_vec(),
            outbound,
            grant,
            proofs: Vec::new(),
            token: link.token.clone(),
            luggage: None,
        }))
    }

    fn pack_services(&mut self, key: u32) -> Luggage {
        let mut out = Luggage::default();
        let Some(link) = self.links.get(key as usize) else { return out };
        out.uint64(link.since.nanos());
        out.uint64(link.used.nanos());
        let channels = link.channels.clone();
        out.uint32(channels.len() as u32);
        for (id, number) in channels {
            let Some(attachment) = self.attachments.get(number as usize) else { continue };
            out.uint32(id.number());
            out.boolean(attachment.timed);
            out.uint64(attachment.used.nanos());
            let timeout = attachment.timeout.map_or(0, |time| time.as_nanos() as u64);
            out.uint64(timeout);
            self.with_service(number, |service, io| {
                service.pack(&mut out, io);
            });
        }
        self.pack_places(key, &mut out);
        out
    }

    /// Sessions, and forwarded connections.
    fn count_services(&self, key: u32) -> (u32, u32) {
        let link = self.links.get(key as usize);
        let numbers = link.iter().flat_map(|link| link.channels.iter().map(|(_, number)| *number));
        let services = numbers.filter_map(|number| self.attachments.get(number as usize));
        services.fold(self.count_couples(key), |(sessions, forwards), one| match one.service {
            Attached::Forward(_) => (sessions, forwards + 1),
            _ => (sessions + 1, forwards),
        })
    }

    /// What was packed is here still: the other program took nothing.
    fn unpack_again(&mut self, key: u32, connection: &HandOver) {
        let Some(luggage) = &connection.luggage else { return };
        let mut from = luggage.open();
        let (client, server) = (connection.ends.peer, connection.ends.local);
        let Ok((_, _, count)) = begin(&mut from) else { return };
        for _ in 0..count {
            let piece = Piece::unpack(&mut from, &connection.grant, (client, server));
            debug_assert!(piece.is_ok(), "what was packed here is unpacked: {piece:?}");
            let Ok(Piece { id, service, .. }) = piece else { break };
            let number = self.links.get(key as usize).and_then(|link| link.attachment_of(id));
            let attachment = number.and_then(|number| self.attachments.get_mut(number as usize));
            if let Some(one) = attachment {
                one.service = service;
            }
        }
    }

    /// A connection has come from another program: its channels go on.
    pub(super) fn settle_down(&mut self, key: u32, luggage: &Luggage) {
        let mut from = luggage.open();
        let unpacked = self.unpack(key, &mut from);
        if unpacked.is_err() {
            from.rest().for_each(|fd| self.driver.close(fd));
            let why = "what belongs to the connection could not be taken over";
            self.close_link(key, disconnect::BY_APPLICATION, why);
            return;
        }
        let (sessions, forwards) = self.count_services(key);
        let Some(link) = self.links.get(key as usize) else { return };
        let user = link.grant.as_ref().map(|grant| grant.account.name.clone()).unwrap_or_default();
        self.report(key, What::MovedIn { user, sessions, forwards });
        match self.is_relayed(key) {
            true => self.mark_relayed(key),
            false => self.mark_class(key),
        }
        self.for_each_service(key, |service, io| service.go_on(io));
    }

    fn unpack(&mut self, key: u32, from: &mut Unpacking<'_>) -> Result<(), Malformed> {
        let (since, used, count) = begin(from)?;
        let link = self.links.get_mut(key as usize).ok_or(Malformed::Range)?;
        (link.since, link.used) = (since, used);
        // Whatever is timed is looked at, and runs on.
        link.check_idle_at(used);
        let grant = link.grant.clone().ok_or(Malformed::Range)?;
        let ends = (link.ends.peer, link.ends.local);
        for _ in 0..count {
            let before = from.clone();
            let piece = Piece::unpack(from, &grant, ends);
            // What it has asked for and could not use is left over.
            let piece = piece.inspect_err(|_| *from = before)?;
            let Piece { id, timed, used, timeout, service } = piece;
            let number = self.attach(key, id, service).ok_or(Malformed::Range)?;
            let attachment = self.attachments.get_mut(number as usize).ok_or(Malformed::Range)?;
            (attachment.timed, attachment.used, attachment.timeout) = (timed, used, timeout);
        }
        self.unpack_places(key, from)?;
        self.unpack_pair(key, from)?;
        from.end()
    }
}

/// When the connection began, when it was last used, and how many channels it has.
fn begin(from: &mut Unpacking<'_>) -> Result<(Instant, Instant, u32), Malformed> {
    let [since, used] = [from.uint64()?, from.uint64()?].map(Instant::from_nanos);
    Ok((since, used, from.uint32()?))
}

impl Piece {
    fn unpack(
        from: &mut Unpacking<'_>,
        grant: &Grant,
        ends: (SocketAddr, SocketAddr),
    ) -> Result<Piece, Malformed> {
        Ok(Piece {
            id: ChannelId::from_number(from.uint32()?),
            timed: from.boolean()?,
            used: Instant::from_nanos(from.uint64()?),
            timeout: Some(from.uint64()?).filter(|time| *time > 0).map(Duration::from_nanos),
            service: Attached::unpack(from, grant, ends)?,
        })
    }
}

impl Link {
    /// Nothing is under way but what comes to rest by itself.
    pub(super) fn is_calm(&self) -> bool {
        let under_way = u16::from(self.inbound.armed) + u16::from(self.outgoing.is_sending());
        let calm = self.in_flight == under_way && self.answer.is_none() && self.owed.is_none();
        let calm = calm && self.conn.is_ready() && !self.conn.blocked() && self.lacks.is_empty();
        calm && self.conn.can_travel()
    }

    fn put_move_off(&mut self, now: Instant) {
        self.move_at = Some(now.after(self.move_pause));
        self.move_pause = (2 * self.move_pause).min(MOVING_RETRY_MAX);
    }
}
