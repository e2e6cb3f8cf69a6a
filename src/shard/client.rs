//! Connections of the client's own: whoever turns the shard makes them, hears what comes of them as
//! [`News`] between two turns, and says what is to be done next. What is attached to their channels
//! is served as on any other link.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::connection::{
    Answer, ChannelId, ChannelKind, ChannelRequest, ClientConnectionConfig, Conn, Connection,
    Event, GlobalRequest, LoginMethod,
};
use crate::crypto::PublicKey;
use crate::limits::{REQUEST_FRAME_BYTES_MAX, REQUEST_IN_OUTBOX_BYTES_MAX};
use crate::services::forward::Note;
use crate::services::{Attached, Command, Io, Outgoing, RoutingDomain, Service, Surroundings};
use crate::transport::{Client, Env, Error};
use crate::wire::channel::{ChannelNumber, open_failure};
use crate::wire::{self, Message, Writer};

/// The reason of an end that the peer has given none for.
pub const CLOSED_BY_PEER: &str = "connection closed by peer";

/// One connection of a client's, for as long as it lasts; the name of one that is over names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientLink {
    key: u32,
    generation: u16,
}

impl ClientLink {
    pub(super) const fn key(self) -> u32 {
        self.key
    }
}

/// What has become of a client's connection.
#[derive(Debug)]
pub enum News {
    /// What the protocol tells, but for data, which goes to what the channel is attached to. A
    /// [`Event::Query`] is to be answered ([`Shard::answer_client`]), a [`Event::Open`] accepted or
    /// refused.
    Heard(Event),
    /// The server's identification has come.
    Identified,
    /// What is attached to the channel tells something.
    Told { id: ChannelId, note: Note },
    /// What was attached to the channel is over: all that the channel brought is written.
    Finished(ChannelId),
    /// The connection is over. Nothing more is heard of it but what its channels have still to write.
    Ended { reason: String },
}

impl<D: Driver, O: Outside> Shard<D, O> {
    /// Begins a connection in the client's role over a connected stream socket, which becomes the
    /// shard's. `None`, and the socket is closed, when there is no memory for it or there are too
    /// many.
    pub fn begin_client(
        &mut self,
        socket: Fd,
        config: Arc<ClientConnectionConfig>,
    ) -> Option<ClientLink> {
        let mut outgoing = Outgoing::default();
        let mut around = Surroundings {
            now: self.driver.now(),
            pool: self.driver.pool(),
            entropy: &mut *self.entropy,
        };
        let begun = outgoing.with_env(&mut around, |env, _| Connection::client(config, env));
        let room = self.links.len() < LINKS_MAX;
        let Some(Ok(connection)) = begun.filter(|_| room) else {
            outgoing.abandon(self.driver.pool());
            self.driver.close(socket);
            return None;
        };
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let ends = Ends { peer: nowhere, local: nowhere, routing: RoutingDomain::default() };
        let serial = self.serial;
        self.serial += self.config.serial_step;
        let key = self.insert(Conn::Client(connection), outgoing, socket, ends, serial);
        self.mark_dirty(key);
        self.mark_ready(key);
        let link = self.links.get_mut(key as usize)?;
        link.client = true;
        Some(ClientLink { key, generation: link.generation })
    }

    /// The oldest news that nobody has taken.
    pub fn next_news(&mut self) -> Option<(ClientLink, News)> {
        self.news.pop_front()
    }

    /// The protocol's own state, to be looked at. `None`: it is over.
    pub fn client(&self, link: ClientLink) -> Option<&Connection<Client>> {
        match &self.own(link)?.conn {
            Conn::Client(connection) => Some(connection),
            Conn::Server(_) => None,
        }
    }

    /// Answers the question that is open.
    pub fn answer_client(&mut self, link: ClientLink, answer: Answer) {
        if self.own(link).is_some() {
            self.answer(link.key, answer);
            self.mark_ready(link.key);
        }
    }

    /// [`Connection::authenticate`]. False as well when the connection is over.
    pub fn log_in(&mut self, link: ClientLink, user: &str, method: LoginMethod) -> bool {
        self.tell(link, |connection, env| connection.authenticate(user, method, env))
            .unwrap_or(false)
    }

    /// Asks for a channel. `service` is attached to it from the beginning; without one, what the
    /// channel brings is lost. `None`: there are too many, or the connection is not logged in.
    /// [`Event::Opened`] or [`Event::OpenFailed`] follows.
    pub fn open_channel(
        &mut self,
        link: ClientLink,
        kind: &ChannelKind,
        service: Option<Attached>,
    ) -> Option<ChannelId> {
        let id = self.tell(link, |connection, env| connection.open(kind, env))??;
        if let Some(service) = service {
            self.attach(link.key, id, service);
        }
        Some(id)
    }

    /// [`Connection::request`]; a request that lacks memory leaves when there is some. False as well
    /// when the connection is over.
    pub fn ask_channel(
        &mut self,
        link: ClientLink,
        id: ChannelId,
        request: &ChannelRequest,
        want_reply: bool,
    ) -> bool {
        let Some(own) = self.own(link) else { return false };
        let body = request.to_wire();
        if !own.outgoing.has_waiting()
            && body.text_bytes() < REQUEST_IN_OUTBOX_BYTES_MAX
            && let Some(asked) =
                self.tell(link, |connection, env| connection.request(id, request, want_reply, env))
        {
            return asked;
        }
        let mut space = vec![0; body.text_bytes() + REQUEST_FRAME_BYTES_MAX];
        let mut out = Writer::new(&mut space);
        let recipient = ChannelNumber(id.number());
        let fits = wire::request::ChannelRequest { recipient, want_reply, body }.write(&mut out);
        if fits.is_err() || self.own(link).is_none() {
            return false;
        }
        self.command(link.key, Command::Ask { id, request: out.written().into() });
        true
    }

    /// Asks for something about the connection; [`Event::GlobalDone`] follows. False: too many such
    /// requests are unanswered.
    pub fn ask_server(&mut self, link: ClientLink, request: &GlobalRequest) -> bool {
        self.tell(link, |connection, env| connection.pass_global(request, env)).unwrap_or(false)
    }

    /// The same of a request without fields. Without a wish for a reply no answer is heard of.
    pub fn ask_server_plainly(&mut self, link: ClientLink, name: &str, want_reply: bool) -> bool {
        self.tell(link, |connection, env| connection.send_global(name, want_reply, env))
            .unwrap_or(false)
    }

    /// [`Connection::ask_proofs`].
    pub fn ask_proofs(&mut self, link: ClientLink, keys: &[PublicKey]) -> bool {
        self.tell(link, |connection, env| connection.ask_proofs(keys, env)).unwrap_or(false)
    }

    /// Opens a channel that the server asks for and attaches `service`, which accepts or refuses it
    /// by itself if it has to connect first.
    pub fn serve_channel(&mut self, link: ClientLink, id: ChannelId, service: Attached) {
        if self.own(link).is_none() {
            return;
        }
        if let Some(number) = self.attach(link.key, id, service) {
            self.with_service(number, |service, io| service.begin(io));
        }
    }

    /// Refuses a channel that the server asks for.
    pub fn refuse_channel(&mut self, link: ClientLink, id: ChannelId, text: &'static str) {
        if self.own(link).is_some() {
            let reason = open_failure::ADMINISTRATIVELY_PROHIBITED;
            self.command(link.key, Command::Reject { id, reason, text: text.into() });
        }
    }

    /// Closes a channel behind what is laid out for it already.
    pub fn close_channel(&mut self, link: ClientLink, id: ChannelId) {
        if self.own(link).is_some() {
            self.command(link.key, Command::Close(id));
        }
    }

    /// Calls what is attached to the channel.
    pub fn with_channel(
        &mut self,
        link: ClientLink,
        id: ChannelId,
        call: impl FnOnce(&mut Attached, &mut Io<'_>),
    ) {
        if self.own(link).is_some() {
            self.on_channel(link.key, id, call);
        }
    }

    /// Agrees on new keys now.
    pub fn renew_keys(&mut self, link: ClientLink) {
        self.tell(link, |connection, env| connection.rekey(env));
    }

    /// Ends a healthy connection.
    pub fn leave_server(&mut self, link: ClientLink, code: u32, text: &str) {
        if self.own(link).is_some() {
            self.close_link(link.key, code, text);
        }
    }

    pub(super) fn own(&self, link: ClientLink) -> Option<&Link> {
        let own = self.links.get(link.key as usize)?;
        let same = own.generation == link.generation && own.state == LinkState::Open;
        same.then_some(own)
    }

    fn tell<T>(
        &mut self,
        link: ClientLink,
        call: impl FnOnce(&mut Connection<Client>, &mut Env<'_>) -> Result<T, Error>,
    ) -> Option<T> {
        self.own(link)?;
        self.with_env(link.key, |conn, env| match conn {
            Conn::Client(connection) => call(connection, env).map(Some),
            Conn::Server(_) => Ok(None),
        })
        .flatten()
    }

    // ---- For the shard -----------------------------------------------------------------------

    /// The link is a client's own, not a gateway's way to a host behind it.
    pub(super) fn is_client(&self, key: u32) -> bool {
        self.links.get(key as usize).is_some_and(|link| link.client)
    }

    /// Says once that the server has identified itself.
    pub(super) fn tell_ident(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.client && !link.identified && !link.conn.peer_ident().is_empty() {
            link.identified = true;
            self.publish(key, News::Identified);
        }
    }

    pub(super) fn publish(&mut self, key: u32, news: News) {
        if let Some(link) = self.links.get(key as usize) {
            self.news.push_back((ClientLink { key, generation: link.generation }, news));
        }
    }

    pub(super) fn client_event(&mut self, key: u32, event: Event) {
        match &event {
            Event::KeyExchanged { .. } => {
                self.resume(key);
                self.wake_services(key);
            }
            Event::Authenticated { .. } => {
                if let Some(link) = self.links.get_mut(key as usize) {
                    link.authenticated = true;
                }
            }
            Event::WindowOpened(id) => {
                let id = *id;
                return self.on_channel(key, id, |service, io| service.on_ready(io));
            }
            Event::Eof(id) => self.on_channel(key, *id, |service, io| service.on_eof(io)),
            Event::PeerClosed(id) => {
                self.detach(key, *id);
                self.command(key, Command::Close(*id));
            }
            Event::Closed(id) => self.detach(key, *id),
            Event::Opened { id } => self.on_channel(key, *id, |service, io| service.opened(io)),
            Event::OpenFailed { id, text, .. } => {
                self.on_channel(key, *id, |service, io| service.refused(text, io));
                self.detach(key, *id);
            }
            Event::Request { id, want_reply: true, .. } => {
                self.command(key, Command::Reply { id: *id, ok: false });
            }
            _ => {}
        }
        self.publish(key, News::Heard(event));
    }
}
