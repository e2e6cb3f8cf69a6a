//! Places where links listen for their clients (RFC 4254 §7.1, OpenSSH PROTOCOL §2.4), and the
//! channels that come of it.

use std::os::fd::{IntoRawFd, OwnedFd};

use super::places::Taking;
use super::*;
use crate::connection::{ChannelId, ChannelKind, GlobalRequest};
use crate::limits::{FORWARDS_MAX, LISTENERS_OF_LINK_MAX};
use crate::services::forward::{ListenSpec, Listening, Place, Target};
use crate::services::{Attached, Command};
use crate::wire::channel::AGENT_CHANNEL;

/// One socket that listens for a link's client.
#[derive(Debug)]
pub(super) struct Listener {
    pub link: u32,
    /// Of the link: its slab key may be another's when the last word of the socket comes.
    generation: u16,
    place: Place,
    /// The port it has; zero for a path.
    pub port: u16,
    pub socket: Fd,
    /// Of its accepts.
    pub token: Token,
    /// It was told to end.
    pub ending: bool,
    pub taking: Taking,
}

/// A connection that was taken and that the client has not been asked about.
#[derive(Debug)]
pub(super) struct Offer {
    link: u32,
    generation: u16,
    kind: ChannelKind,
    name: &'static str,
    what: String,
    socket: Fd,
}

impl Offer {
    pub(super) const fn is_of(&self, link: u32) -> bool {
        self.link == link
    }
}

impl Listener {
    pub(super) const fn is_of(&self, link: u32) -> bool {
        self.link == link
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }
}

impl<D: Driver, O: Outside> Shard<D, O> {
    /// What the client asks of the connection. The next such request is heard of when this one has
    /// been answered.
    pub(super) fn global(&mut self, key: u32, want_reply: bool, request: GlobalRequest) {
        match request {
            GlobalRequest::TcpipForward { address, port } => {
                self.listen(key, Place::Tcp { address, port }, want_reply);
            }
            GlobalRequest::StreamlocalForward { path } => {
                self.listen(key, Place::Path(path), want_reply);
            }
            GlobalRequest::CancelTcpipForward { address, port } => {
                self.stop_listening(key, &Place::Tcp { address, port });
            }
            GlobalRequest::CancelStreamlocalForward { path } => {
                self.stop_listening(key, &Place::Path(path));
            }
        }
    }

    fn listen(&mut self, key: u32, place: Place, want_reply: bool) {
        if let Err(why) = self.may_listen(key, &place, want_reply) {
            self.answer_global(key, false, None);
            let what = format!("listening at {place}");
            self.report(key, What::Refused { what, why: why.to_owned() });
            return;
        }
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Some(grant) = &link.grant else { return };
        let rules = &grant.rules.forwarding;
        let spec = ListenSpec {
            place: place.clone(),
            gateway_ports: rules.gateway_ports,
            inet: rules.inet,
            inet6: rules.inet6,
            mask: rules.bind_mask,
            unlink: rules.bind_unlink,
        };
        link.in_flight += 1;
        link.asked_to_listen = Some(place);
        let token = Token { key, generation: link.generation, tag: TAG_LISTEN };
        let asker = self.asker(key);
        self.submit_job(token, Job::Listen { spec: Box::new(spec), asker });
    }

    fn may_listen(&self, key: u32, place: &Place, want_reply: bool) -> Result<(), &'static str> {
        let link = self.links.get(key as usize).ok_or("no connection")?;
        let grant = link.grant.as_ref().ok_or("no login")?;
        place.check(&grant.rules.forwarding, grant.account.uid)?;
        if matches!(place, Place::Tcp { port: 0, .. }) && !want_reply {
            return Err("nobody wants to hear which port it is");
        }
        let own = self.listeners.iter().filter(|(_, one)| one.link == key && !one.ending);
        if own.count() >= LISTENERS_OF_LINK_MAX {
            return Err("too many places");
        }
        Ok(())
    }

    /// A worker has made a place ready, or could not.
    pub(super) fn listening(&mut self, key: u32, done: Done) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Some(place) = link.asked_to_listen.take() else { return };
        self.mark_ready(key);
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let user = link.grant.as_ref().map(|grant| grant.account.name.clone()).unwrap_or_default();
        // A link that has ended meanwhile listens no more: the sockets close by themselves.
        if link.state != LinkState::Open {
            return;
        }
        let what = format!("{} from {place}", place.kind());
        match done {
            Done::Listening(Ok(Listening { sockets, port, .. })) => {
                let chosen = matches!(place, Place::Tcp { port: 0, .. });
                let chosen = chosen.then_some(u32::from(port));
                for socket in sockets {
                    self.accept_for(key, place.clone(), port, socket);
                }
                self.answer_global(key, true, chosen);
                let what = chosen.map_or(what.clone(), |port| format!("{what} (which is {port})"));
                self.report(key, What::Listening { user, what });
            }
            failed => {
                self.answer_global(key, false, None);
                let why = match failed {
                    Done::Listening(Err(why)) => why.to_string(),
                    _ => "a worker failed".to_owned(),
                };
                self.report(key, What::NotForwarded { user, what, why });
            }
        }
    }

    pub(super) fn accept_for(&mut self, key: u32, place: Place, port: u16, socket: OwnedFd) {
        self.accept_at(key, place, port, Fd(socket.into_raw_fd()));
    }

    /// The same for one that is the shard's already.
    pub(super) fn accept_at(&mut self, key: u32, place: Place, port: u16, socket: Fd) {
        let generation = self.next_generation();
        let Some(link) = self.links.get(key as usize) else {
            self.driver.close(socket);
            return;
        };
        let entry = self.listeners.vacant_entry();
        let token = Token { key: entry.key() as u32 | OF_PLACE, generation, tag: 0 };
        let (generation, ending, taking) = (link.generation, false, Taking::On);
        let link = key;
        entry.insert(Listener { link, generation, place, port, socket, token, ending, taking });
        self.submit(token, Op::Accept { listener: socket });
    }

    fn stop_listening(&mut self, key: u32, place: &Place) {
        let named = |one: &Listener| match (&one.place, place) {
            // A client that left the port to us names the one it was told.
            (Place::Tcp { address, .. }, Place::Tcp { address: asked, port }) => {
                address == asked && u32::from(one.port) == *port
            }
            (own, asked) => own == asked,
        };
        let found = self.end_listeners(key, named);
        self.answer_global(key, found > 0, None);
        if found == 0 {
            let what = format!("an end of listening at {place}");
            let why = "this connection does not listen there".to_owned();
            self.report(key, What::Refused { what, why });
            return;
        }
        let what = format!("no more {} from {place}", place.kind());
        let user = self.links.get(key as usize).and_then(|link| link.grant.as_ref());
        let user = user.map(|grant| grant.account.name.clone()).unwrap_or_default();
        self.report(key, What::Listening { user, what });
    }

    /// Ends the link's listeners that `which` names, and answers how many there were.
    pub(super) fn end_listeners(&mut self, key: u32, which: impl Fn(&Listener) -> bool) -> usize {
        let ours = |one: &Listener| one.link == key && !one.ending && which(one);
        let found = self.listeners.iter().filter(|(_, one)| ours(one));
        let found: Vec<u32> = found.map(|(number, _)| number as u32).collect();
        for number in &found {
            if let Some(one) = self.listeners.get_mut(*number as usize) {
                one.ending = true;
                // From now on nobody gets in; what is in flight ends by itself.
                self.driver.shutdown(one.socket);
                let (token, taking) = (one.token, one.taking);
                match taking {
                    Taking::On | Taking::AskedBack => self.cancel(token),
                    Taking::Off => self.forget_listener(*number),
                }
            }
        }
        found.len()
    }

    /// Somebody connects, or listening is over.
    pub(super) fn place_completed(&mut self, completion: Completion) {
        let Completion { token, op, result, more } = completion;
        let number = token.key & !OF_PLACE;
        let Some(one) = self.listeners.get(number as usize) else { return };
        let (ending, asked_back) = (one.ending, one.taking == Taking::AskedBack);
        if let Ok(socket) = result {
            let socket = Fd(socket as i32);
            match ending {
                false => self.offer(number, socket),
                true => self.driver.close(socket),
            }
        }
        if more {
            return;
        }
        // A connection that was just taken may have been the only one that was wanted.
        if asked_back && self.listeners.get(number as usize).is_some_and(|one| !one.ending) {
            return self.place_halted(number);
        }
        let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
        match (ending, result) {
            (false, Ok(_)) => self.submit(token, op),
            // Nothing to accept with: it is tried again when accepting is.
            (false, Err(errno)) if exhausted.contains(&errno.0) => {
                self.resting_places.push((token, op));
                self.rested = Some(self.driver.now().after(ACCEPT_REST));
            }
            _ => self.forget_listener(number),
        }
    }

    fn forget_listener(&mut self, number: u32) {
        if self.listeners.contains(number as usize) {
            let one = self.listeners.remove(number as usize);
            self.driver.close(one.socket);
        }
    }

    /// Listeners that rested because the process was out of descriptors go on, or end.
    pub(super) fn wake_places(&mut self) {
        for (token, op) in std::mem::take(&mut self.resting_places) {
            let number = token.key & !OF_PLACE;
            match self.listeners.get(number as usize) {
                Some(one) if !one.ending => self.submit(token, op),
                _ => self.forget_listener(number),
            }
        }
    }

    // ---- Channels ----------------------------------------------------------------------------

    fn offer(&mut self, number: u32, socket: Fd) {
        let origin = self.driver.welcome(socket);
        let Some(one) = self.listeners.get(number as usize) else {
            self.driver.close(socket);
            return;
        };
        let (link, generation, name) = (one.link, one.generation, one.place.kind());
        let (kind, from) = match &one.place {
            Place::Tcp { address, .. } => {
                let (host, origin_port) = match origin {
                    Some(peer) => (peer.ip().to_canonical().to_string(), u32::from(peer.port())),
                    None => ("UNKNOWN".to_owned(), 0),
                };
                let from = format!("{host} port {origin_port} at port {}", one.port);
                let (address, port) = (address.clone(), u32::from(one.port));
                let origin_host = host.into();
                (ChannelKind::ForwardedTcpip { address, port, origin_host, origin_port }, from)
            }
            Place::Agent(_) => {
                let kind = ChannelKind::Other { name: AGENT_CHANNEL.into(), rest: Box::default() };
                (kind, one.place.to_string())
            }
            Place::Display { .. } => {
                let (host, port) = match origin {
                    Some(peer) => (peer.ip().to_canonical().to_string(), u32::from(peer.port())),
                    None => ("UNKNOWN".to_owned(), 0),
                };
                let from = format!("{host} port {port} at {}", one.place);
                (ChannelKind::x11(&host, port), from)
            }
            Place::Near(target) => {
                let what = target.to_string();
                (direct(target, origin), what)
            }
            Place::Path(path) => {
                (ChannelKind::ForwardedStreamlocal { path: path.clone() }, one.place.to_string())
            }
        };
        let what = format!("{name} from {from}");
        if let Place::Display { channel, single: true, .. } = one.place {
            self.end_display(link, channel);
        }
        self.offers.push_back(Offer { link, generation, kind, name, what, socket });
        self.make_offers();
        self.stay_for_offer(link);
    }

    /// Asks clients to open channels for what was taken for them, as far as there is memory to.
    pub(super) fn make_offers(&mut self) {
        for _ in 0..self.offers.len() {
            let Some(offer) = self.offers.pop_front() else { return };
            let key = offer.link;
            let lives = |link: &Link| {
                let state = matches!(link.state, LinkState::Open | LinkState::Packing);
                state && link.generation == offer.generation
            };
            let Some(link) = self.links.get(key as usize).filter(|link| lives(link)) else {
                self.driver.close(offer.socket);
                continue;
            };
            if link.state == LinkState::Packing {
                self.offers.push_back(offer);
                continue;
            }
            if link.attachments as usize >= FORWARDS_MAX {
                self.turn_offer_down(&offer, "too many forwarded connections");
                continue;
            }
            match self.with_env(key, |conn, env| conn.open(&offer.kind, env)) {
                Some(Some(id)) => {
                    let Offer { name, what, socket, .. } = offer;
                    self.attach(key, id, Attached::offered(name, what, socket));
                }
                Some(None) => self.turn_offer_down(&offer, "too many channels"),
                None => self.offers.push_back(offer),
            }
        }
    }

    /// Takes connections at a client's own socket, for a target behind its server.
    pub fn listen_near(&mut self, link: ClientLink, socket: OwnedFd, port: u16, place: Place) {
        if self.client(link).is_some() {
            self.accept_for(link.key(), place, port, socket);
        }
    }

    /// Asks the server to connect a client's socket to a target.
    pub fn send_on(
        &mut self,
        link: ClientLink,
        socket: Fd,
        target: &Target,
        origin: Option<SocketAddr>,
    ) {
        let Some(generation) = self.own(link).map(|own| own.generation) else {
            self.driver.close(socket);
            return;
        };
        let (kind, what) = (direct(target, origin), target.to_string());
        let offer = Offer { link: link.key(), generation, kind, name: target.kind(), what, socket };
        self.offers.push_back(offer);
        self.make_offers();
    }

    fn turn_offer_down(&mut self, offer: &Offer, why: &str) {
        self.driver.close(offer.socket);
        let (what, why) = (offer.what.clone(), why.to_owned());
        self.report(offer.link, What::Refused { what, why });
    }

    /// The client has opened the channel that it was asked for.
    pub(super) fn offer_taken(&mut self, key: u32, id: ChannelId) {
        self.on_channel(key, id, |service, io| service.opened(io));
    }

    /// It has not. The channel is gone already.
    pub(super) fn offer_refused(&mut self, key: u32, id: ChannelId, why: &str) {
        self.on_channel(key, id, |service, io| service.refused(why, io));
        self.detach(key, id);
    }

    fn answer_global(&mut self, key: u32, ok: bool, port: Option<u32>) {
        self.command(key, Command::ReplyGlobal { ok, port });
    }
}

/// The channel that a target behind the server is reached by, for somebody who connects here.
fn direct(target: &Target, origin: Option<SocketAddr>) -> ChannelKind {
    match target {
        Target::Tcp { host, port } => {
            let (origin_host, origin_port) = match origin {
                Some(peer) => (peer.ip().to_canonical().to_string().into(), peer.port().into()),
                None => ("127.0.0.1".into(), 65_535),
            };
            ChannelKind::DirectTcpip { host: host.clone(), port: *port, origin_host, origin_port }
        }
        Target::Path(path) => ChannelKind::DirectStreamlocal { path: path.clone() },
    }
}
