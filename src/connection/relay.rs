//! One half of a relayed connection: what a peer says about its channels is passed on to another
//! connection, whose peer answers. The two are coupled by their owner; here is what each half needs.

use super::machine::Asker;
use super::plan::Layout;
use super::side::Side;
use super::{ChannelId, ChannelKind, Connection, GlobalRequest};
use crate::base::Span;
use crate::limits::TAILROOM;
use crate::transport::{Env, Error};
use crate::wire::channel::{self, ChannelFailure, ChannelSuccess, ChannelWindowAdjust};
use crate::wire::request::RequestBody;

impl<R: Side> Connection<R> {
    /// From now on the owner hears of every request about a channel as it came
    /// ([`Event::Asked`](super::Event::Asked)) and answers with [`Connection::pass_reply`]; none is
    /// judged or held back here. A client also hears of whatever channel its server opens.
    pub const fn relay(&mut self) {
        self.channels.relays = true;
    }

    /// [`Connection::open`] with the packet limit of another channel and as much of the window as
    /// that one takes for now.
    pub fn open_with(
        &mut self,
        kind: &ChannelKind,
        window_bytes: u32,
        packet_bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<Option<ChannelId>, Error> {
        self.open_part(kind, packet_bytes, window_bytes, env)
    }

    /// [`Connection::accept_open`] in the same way.
    pub fn accept_with(
        &mut self,
        id: ChannelId,
        window_bytes: u32,
        packet_bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let whole = R::limits(&self.login).window_bytes;
        self.accept_part(id, whole, packet_bytes, window_bytes, env)
    }

    /// Asks of a channel what was asked of another one. False, and nothing sent, when the channel
    /// takes no more or too many requests on it are unanswered.
    pub fn pass_request(
        &mut self,
        id: ChannelId,
        want_reply: bool,
        body: RequestBody<'_>,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        self.check()?;
        self.say_request(id, want_reply, body, env)
    }

    /// Answers the oldest request that wants an answer and has none.
    pub fn pass_reply(&mut self, id: ChannelId, ok: bool, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        let Some(channel) = self.channels.get(id).filter(|channel| channel.may_speak()) else {
            return Ok(());
        };
        let recipient = channel.recipient;
        match ok {
            true => self.say(&ChannelSuccess { recipient }, env),
            false => self.say(&ChannelFailure { recipient }, env),
        }
    }

    /// Asks the peer for what was asked of us. False, and nothing sent, when too many requests are
    /// unanswered. [`Event::GlobalDone`](super::Event::GlobalDone) follows.
    pub fn pass_global(
        &mut self,
        request: &GlobalRequest,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        self.check()?;
        if !self.is_authenticated() || self.globals.push(Asker::Owner).is_err() {
            return Ok(false);
        }
        let request = request.to_wire();
        self.say(&channel::GlobalRequest { want_reply: true, request }, env).map(|()| true)
    }

    /// Grants window until the peer may send `bytes`, or as many as the channel had at first if that
    /// is less. Small steps wait until the peer could not send a full packet without them.
    pub fn grant_up_to(
        &mut self,
        id: ChannelId,
        bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.check()?;
        let Some(channel) = self.channels.get_mut(id).filter(|channel| channel.hears_data()) else {
            return Ok(());
        };
        let recipient = channel.recipient;
        match channel.recv_window.grant_up_to(bytes) {
            Some(bytes) => self.say(&ChannelWindowAdjust { recipient, bytes }, env),
            None => Ok(()),
        }
    }

    /// Whether [`Connection::grant_up_to`] would say anything.
    pub fn owes_window(&self, id: ChannelId, bytes: u32) -> bool {
        let channel = self.channels.get(id).filter(|channel| channel.hears_data());
        let mut window = channel.map(|channel| channel.recv_window).unwrap_or_default();
        window.grant_up_to(bytes).is_some()
    }

    /// What the peer takes at first on a channel that it has asked for.
    pub fn offered_window(&self, id: ChannelId) -> u32 {
        self.channels.get(id).map_or(0, |channel| channel.send_window.remaining())
    }

    /// Whether `data`, which lies in a lease of `room` bytes, can be made a packet where it is.
    pub fn fits_around(&self, extended: Option<u32>, data: Span, room: u32) -> bool {
        let layout = Layout::around(data, extended.is_some(), self.transport.geometry());
        let end = match self.transport.packs() {
            true => data.end().saturating_add(TAILROOM),
            false => layout.end(data.len),
        };
        layout.holds(data) && end <= room
    }
}
