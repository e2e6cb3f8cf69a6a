//! What the owner has us say about channels.

use std::time::Duration;

use super::channel::{Channel, Stage};
use super::half::{Farewell, RecvHalf, SendStep};
use super::side::Side;
use super::{ChannelId, ChannelKind, ChannelRequest, Connection, Event};
use crate::limits::{REQUESTS_UNANSWERED_MAX, WINDOW_BYTES_MAX, WINDOW_BYTES_OPENSSH_MAX};
use crate::transport::{self, Env, Error};
use crate::wire::Message;
use crate::wire::channel::{
    ChannelClose, ChannelEof, ChannelFailure, ChannelNumber, ChannelOpen, ChannelOpenConfirmation,
    ChannelOpenFailure, ChannelSuccess, ChannelWindowAdjust, RequestFailure, RequestSuccess,
};
use crate::wire::request::{self, RequestBody};

/// Every call about a channel that is gone, or in a state where it makes no sense, does nothing:
/// the peer may have closed the channel in the meantime.
impl<R: Side> Connection<R> {
    /// Opens a channel the peer asked for. The window may turn out smaller when the connection has
    /// many (see [`crate::limits::LINK_WINDOW_BYTES_MAX`]).
    pub fn accept_open(
        &mut self,
        id: ChannelId,
        window_bytes: u32,
        packet_bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.accept_part(id, window_bytes, packet_bytes, window_bytes, env)
    }

    /// The same where the peer may send only `first` bytes of the window for now.
    pub(super) fn accept_part(
        &mut self,
        id: ChannelId,
        window_bytes: u32,
        packet_bytes: u32,
        first: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let Some(channel) = self.channels.get_mut(id) else { return self.check() };
        if channel.stage != Stage::Asked {
            return self.check();
        }
        channel.stage = Stage::Open;
        let recipient = channel.recipient;
        let window_bytes = self.channels.grant_part(id, window_bytes, packet_bytes, first);
        let granted = self.channels.get(id).map_or(0, |c| c.recv_window.packet_bytes_max());
        let confirmation = ChannelOpenConfirmation {
            recipient,
            sender: ChannelNumber(id.number()),
            window_bytes,
            packet_bytes_max: granted,
            rest: &[],
        };
        self.say(&confirmation, env)
    }

    /// The same with the configured window and packet size.
    pub fn accept_open_default(&mut self, id: ChannelId, env: &mut Env<'_>) -> Result<(), Error> {
        let limits = R::limits(&self.login);
        self.accept_open(id, limits.window_bytes, limits.packet_bytes, env)
    }

    /// Refuses a channel the peer asked for; `reason` is one of
    /// [`crate::wire::channel::open_failure`]. `id` is dead.
    pub fn reject_open(
        &mut self,
        id: ChannelId,
        reason: u32,
        text: &str,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let Some(channel) = self.channels.get(id) else { return self.check() };
        if channel.stage != Stage::Asked {
            return self.check();
        }
        let recipient = channel.recipient;
        self.channels.remove(id);
        self.say(&ChannelOpenFailure { recipient, reason, text, language: "" }, env)
    }

    /// Asks the peer for a channel. `None` when there are too many or the login is not over.
    pub fn open(
        &mut self,
        kind: &ChannelKind,
        env: &mut Env<'_>,
    ) -> Result<Option<ChannelId>, Error> {
        let limits = R::limits(&self.login);
        self.open_part(kind, limits.packet_bytes, limits.window_bytes, env)
    }

    /// The same where the peer may send only `first` bytes of the window for now.
    pub(super) fn open_part(
        &mut self,
        kind: &ChannelKind,
        packet_bytes: u32,
        first: u32,
        env: &mut Env<'_>,
    ) -> Result<Option<ChannelId>, Error> {
        self.check()?;
        if !self.is_authenticated() {
            return Ok(None);
        }
        let is_session = matches!(kind, ChannelKind::Session);
        let channel = Channel::new(Stage::Asking, ChannelNumber(0), is_session);
        let Some(id) = self.channels.insert(channel) else { return Ok(None) };
        let window_bytes = R::limits(&self.login).window_bytes;
        let window_bytes = self.channels.grant_part(id, window_bytes, packet_bytes, first);
        let granted = self.channels.get(id).map_or(0, |c| c.recv_window.packet_bytes_max());
        let open = ChannelOpen {
            sender: ChannelNumber(id.number()),
            window_bytes,
            packet_bytes_max: granted,
            kind: kind.to_wire(),
        };
        self.say(&open, env).map(|()| Some(id))
    }

    /// [`Connection::open`] of a session.
    pub fn open_session(&mut self, env: &mut Env<'_>) -> Result<Option<ChannelId>, Error> {
        self.open(&ChannelKind::Session, env)
    }

    /// Asks something of a channel. False, and nothing sent, when the channel is not open or has
    /// too many unanswered requests.
    pub fn request(
        &mut self,
        id: ChannelId,
        request: &ChannelRequest,
        want_reply: bool,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        self.check()?;
        self.say_request(id, want_reply, request.to_wire(), env)
    }

    /// Answers the request that waits for it. Those that came behind it are taken up: their events
    /// come out of [`Connection::poll_event`].
    pub fn reply(&mut self, id: ChannelId, ok: bool, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        let Some(channel) = self.channels.get_mut(id) else { return Ok(()) };
        let Some(due) = channel.due.take() else { return Ok(()) };
        channel.started |= ok && due.starts;
        if !channel.may_speak() || channel.recv == RecvHalf::Closed {
            return Ok(());
        }
        let recipient = channel.recipient;
        match ok {
            true => self.say(&ChannelSuccess { recipient }, env)?,
            false => self.say(&ChannelFailure { recipient }, env)?,
        }
        self.take_up_held(id, env).map_err(|error| self.fail(error, env))
    }

    /// The global request that was heard of has been carried out, or not; the peer is told if it
    /// wants to know. `port`: the one that was chosen for a peer that
    /// left the choice to us (RFC 4254 §7.1). Requests that came behind it are taken up.
    pub fn reply_global(
        &mut self,
        ok: bool,
        port: Option<u32>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.check()?;
        let due = self.channels.global.as_mut().and_then(|globals| globals.due.take());
        let Some(want_reply) = due else { return Ok(()) };
        let port = port.map(u32::to_be_bytes);
        let rest = port.as_ref().map_or(&[][..], |port| port);
        match (want_reply, ok) {
            (true, true) => self.say(&RequestSuccess { rest }, env)?,
            (true, false) => self.say(&RequestFailure, env)?,
            (false, _) => {}
        }
        self.take_up_globals(env).map_err(|error| self.fail(error, env))
    }

    /// Says that no more data will come, behind what is laid out already.
    pub fn send_eof(&mut self, id: ChannelId, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        self.step(id, SendStep::Eof, env)
    }

    /// RFC 4254 §6.10: how the command ended.
    pub fn exit_status(
        &mut self,
        id: ChannelId,
        code: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.check()?;
        self.say_request(id, false, RequestBody::ExitStatus { code }, env).map(|_| ())
    }

    /// RFC 4254 §6.10: which signal ended the command; `name` without "SIG".
    pub fn exit_signal(
        &mut self,
        id: ChannelId,
        name: &str,
        core_dumped: bool,
        text: &str,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.check()?;
        let body = RequestBody::ExitSignal { name, core_dumped, text, language: "" };
        self.say_request(id, false, body, env).map(|_| ())
    }

    /// Closes our side, behind what is laid out already; at once when the peer has closed its own.
    /// [`Event::Closed`] follows when both have.
    pub fn close(&mut self, id: ChannelId, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        self.step(id, SendStep::Close, env)
    }

    /// Received bytes have left for good: their window may be granted again.
    pub fn consumed(&mut self, id: ChannelId, bytes: u32, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        let Some(channel) = self.channels.get_mut(id) else { return Ok(()) };
        // A peer that sends no more data needs no window.
        if !channel.hears_data() {
            return Ok(());
        }
        let recipient = channel.recipient;
        let max = self.window_bytes_max();
        match self.channels.consumed(id, bytes, max, env.now) {
            Some(bytes) => self.say(&ChannelWindowAdjust { recipient, bytes }, env),
            None => Ok(()),
        }
    }

    /// Much is about to come on the channel, and the peer's answers take `turn`: over a long way its window grows
    /// before the peer has had to wait for it, within the same bounds as ever.
    pub fn expect(
        &mut self,
        id: ChannelId,
        turn: Duration,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.check()?;
        let Some(channel) = self.channels.get_mut(id).filter(|channel| channel.hears_data()) else {
            return Ok(());
        };
        let recipient = channel.recipient;
        let max = self.window_bytes_max();
        match self.channels.expect(id, turn, max) {
            Some(bytes) => self.say(&ChannelWindowAdjust { recipient, bytes }, env),
            None => Ok(()),
        }
    }

    /// What a window may grow to, by the configuration and by what the peer can make use of.
    fn window_bytes_max(&self) -> u32 {
        let is_openssh = transport::is_openssh(self.transport.peer_ident());
        let useful = if is_openssh { WINDOW_BYTES_OPENSSH_MAX } else { WINDOW_BYTES_MAX };
        R::limits(&self.login).window_bytes_max.min(useful)
    }

    /// EOF and CLOSE of channels whose last plan is gone.
    pub(super) fn say_farewells(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        while let Some(id) = self.channels.drained.pop() {
            self.step(id, SendStep::Drained, env)?;
        }
        Ok(())
    }

    fn step(&mut self, id: ChannelId, step: SendStep, env: &mut Env<'_>) -> Result<(), Error> {
        let Some(channel) = self.channels.get_mut(id) else { return Ok(()) };
        if !channel.is_open() {
            return Ok(());
        }
        let peer_closed = channel.recv == RecvHalf::Closed;
        // What the peer will not take any more is not waited for.
        let busy = channel.plans > 0 && !peer_closed;
        let (next, farewell) = channel.send.step(step, busy);
        channel.send = next;
        let recipient = channel.recipient;
        match farewell {
            None => Ok(()),
            Some(Farewell::Eof) => self.say(&ChannelEof { recipient }, env),
            Some(Farewell::Close) => {
                let held = std::mem::take(&mut channel.held);
                self.channels.forget_held(held);
                self.say(&ChannelClose { recipient }, env)?;
                if peer_closed {
                    self.channels.remove(id);
                    self.channels.events.push_back(Event::Closed(id));
                }
                Ok(())
            }
        }
    }

    pub(super) fn say_request(
        &mut self,
        id: ChannelId,
        want_reply: bool,
        body: RequestBody<'_>,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        let Some(channel) = self.channels.get_mut(id) else { return Ok(false) };
        if !channel.may_speak() || (want_reply && channel.unanswered >= REQUESTS_UNANSWERED_MAX) {
            return Ok(false);
        }
        channel.unanswered += u32::from(want_reply);
        let recipient = channel.recipient;
        self.say(&request::ChannelRequest { recipient, want_reply, body }, env)?;
        Ok(true)
    }

    pub(super) fn say<'m, M: Message<'m>>(
        &mut self,
        message: &M,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.check()?;
        self.transport.send(message, env).map_err(|error| self.fail(error, env))
    }
}
