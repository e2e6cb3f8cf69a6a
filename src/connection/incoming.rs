//! Messages of RFC 4254 from the peer.

use super::channel::{Channel, Due, Stage};
use super::half::{RecvHalf, RecvStep, SendHalf};
use super::host_keys::{HOST_KEYS, PROVE};
use super::machine::{Asker, malformed};
use super::side::Side;
use super::{ChannelId, ChannelKind, ChannelRequest, Connection, Event, GlobalRequest};
use crate::base::{Instant, Span};
use crate::limits::{
    CHANNEL_PACKET_BYTES_MIN, GLOBALS_HELD_MAX, HELD_REQUEST_BYTES_MAX, NAME_BYTES_MAX,
    RELAYED_REQUEST_BYTES_MAX, REPLIES_PENDING_MAX,
};
use crate::transport::{Env, Error};
use crate::wire::channel::{
    self, ChannelClose, ChannelData, ChannelEof, ChannelExtendedData, ChannelFailure,
    ChannelNumber, ChannelOpen, ChannelOpenConfirmation, ChannelOpenFailure, ChannelSuccess,
    ChannelWindowAdjust, DATA_HEADER_BYTES, EXTENDED_HEADER_BYTES, GlobalBody, OpenHead, OpenKind,
    RequestFailure, RequestSuccess, open_failure,
};
use crate::wire::request::{self, RequestBody, RequestHead};
use crate::wire::{Malformed, Message, Writer, number};

impl<R: Side> Connection<R> {
    /// One message of the connection protocol. `payload` is where `bytes` lie in the buffer.
    pub(super) fn connection_message(
        &mut self,
        number: u8,
        payload: Span,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let bad = malformed(number);
        match number {
            number::CHANNEL_DATA => {
                let ChannelData { recipient, .. } = ChannelData::parse(bytes).map_err(bad)?;
                self.data(recipient, None, payload.skip(DATA_HEADER_BYTES), env.now)
            }
            number::CHANNEL_WINDOW_ADJUST => {
                let adjust = ChannelWindowAdjust::parse(bytes).map_err(bad)?;
                self.window_adjust(adjust)
            }
            number::CHANNEL_EXTENDED_DATA => {
                let message = ChannelExtendedData::parse(bytes).map_err(bad)?;
                let data = payload.skip(EXTENDED_HEADER_BYTES);
                self.data(message.recipient, Some(message.data_type), data, env.now)
            }
            number::CHANNEL_OPEN => {
                let open = ChannelOpen::parse(bytes);
                if open == Err(Malformed::OverLimit) {
                    return self.long_open(OpenHead::of(bytes).map_err(bad)?, env).map(|()| None);
                }
                self.open_asked(&open.map_err(bad)?, env)
            }
            number::CHANNEL_OPEN_CONFIRMATION => {
                let message = ChannelOpenConfirmation::parse(bytes).map_err(bad)?;
                self.open_confirmed(&message)
            }
            number::CHANNEL_OPEN_FAILURE => {
                let message = ChannelOpenFailure::parse(bytes).map_err(bad)?;
                self.open_failed(&message)
            }
            number::CHANNEL_EOF => self.eof(ChannelEof::parse(bytes).map_err(bad)?.recipient),
            number::CHANNEL_CLOSE => {
                self.peer_closes(ChannelClose::parse(bytes).map_err(bad)?.recipient)
            }
            number::CHANNEL_REQUEST => {
                let request = request::ChannelRequest::parse(bytes);
                if request == Err(Malformed::OverLimit) {
                    return self.long_request(RequestHead::of(bytes).map_err(bad)?, env);
                }
                self.request_or_hold(&request.map_err(bad)?, bytes, env)
            }
            number::CHANNEL_SUCCESS => {
                let ChannelSuccess { recipient } = ChannelSuccess::parse(bytes).map_err(bad)?;
                self.answered(recipient, true)
            }
            number::CHANNEL_FAILURE => {
                let ChannelFailure { recipient } = ChannelFailure::parse(bytes).map_err(bad)?;
                self.answered(recipient, false)
            }
            number::GLOBAL_REQUEST => {
                let request = channel::GlobalRequest::parse(bytes);
                if request == Err(Malformed::OverLimit) {
                    let (name, want_reply) = channel::GlobalRequest::head(bytes).map_err(bad)?;
                    return self.long_global(name, want_reply, env);
                }
                self.global_or_hold(&request.map_err(bad)?, bytes, env)
            }
            number::REQUEST_SUCCESS => {
                let RequestSuccess { rest } = RequestSuccess::parse(bytes).map_err(bad)?;
                Ok(self.global_answered(Some(rest)))
            }
            number::REQUEST_FAILURE => {
                RequestFailure::parse(bytes).map_err(bad)?;
                Ok(self.global_answered(None))
            }
            _ => self.transport.unimplemented(env).map(|()| None),
        }
    }

    /// A string in it is longer than any we take: it fails, and nothing else does. Answers keep their
    /// order.
    fn long_request(
        &mut self,
        head: RequestHead<'_>,
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let RequestHead { recipient, name, want_reply } = head;
        self.channels.open(recipient)?;
        self.channels.events.push_back(Event::TooLong { what: name.into() });
        if !want_reply {
            return Ok(None);
        }
        let body = RequestBody::Other { name: request::REFUSED, rest: &[] };
        let request = request::ChannelRequest { recipient, want_reply, body };
        let mut space = [0; NAME_BYTES_MAX as usize];
        let bytes = written(&request, &mut space)?;
        self.request_or_hold(&request, bytes, env)
    }

    /// The same of a request about the connection.
    fn long_global(
        &mut self,
        name: &str,
        want_reply: bool,
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        self.channels.events.push_back(Event::TooLong { what: name.into() });
        let request = GlobalBody::Other { name: request::REFUSED, rest: &[] };
        let request = channel::GlobalRequest { want_reply, request };
        let mut space = [0; NAME_BYTES_MAX as usize];
        let bytes = written(&request, &mut space)?;
        self.global_or_hold(&request, bytes, env)
    }

    /// The same of a channel that is asked for.
    fn long_open(&mut self, head: OpenHead<'_>, env: &mut Env<'_>) -> Result<(), Error> {
        self.channels.events.push_back(Event::TooLong { what: head.name.into() });
        let (reason, text) = (open_failure::ADMINISTRATIVELY_PROHIBITED, "a name is too long");
        let failure = ChannelOpenFailure { recipient: head.sender, reason, text, language: "" };
        self.transport.send(&failure, env)
    }

    fn data(
        &mut self,
        recipient: ChannelNumber,
        extended: Option<u32>,
        data: Span,
        now: Instant,
    ) -> Result<Option<Event>, Error> {
        let (id, channel) = self.channels.open(recipient)?;
        channel.recv = channel.recv.step(RecvStep::Data)?;
        channel.recv_window.receive(data.len)?;
        if let Some(tuning) = &mut channel.tuning {
            tuning.received(data.len, &channel.recv_window, now);
        }
        // Behind our CLOSE nobody listens; the window is not granted again, so this ends soon.
        let heard = !data.is_empty() && channel.send != SendHalf::Closed;
        Ok(heard.then_some(Event::Data { id, extended, data }))
    }

    fn window_adjust(&mut self, adjust: ChannelWindowAdjust) -> Result<Option<Event>, Error> {
        let (id, channel) = self.channels.open(adjust.recipient)?;
        channel.recv.step(RecvStep::Other)?;
        channel.send_window.adjust(adjust.bytes)?;
        let useful = adjust.bytes > 0 && channel.takes_data();
        Ok(useful.then_some(Event::WindowOpened(id)))
    }

    fn open_asked(
        &mut self,
        open: &ChannelOpen<'_>,
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let is_session = matches!(open.kind, OpenKind::Session);
        if is_session && self.channels.no_more_sessions {
            // OpenSSH PROTOCOL §2.2: somebody else speaks over this connection.
            return Err(Error::PeerMisbehaved("a session after it asked for no more"));
        }
        if let Some((reason, text)) = self.refusal(open, is_session) {
            let (recipient, language) = (open.sender, "");
            let failure = ChannelOpenFailure { recipient, reason, text, language };
            self.transport.send(&failure, env)?;
            let told = R::IS_SERVER && reason == open_failure::RESOURCE_SHORTAGE;
            return Ok(told.then_some(Event::TooMany { session: is_session }));
        }
        let mut channel = Channel::new(Stage::Asked, open.sender, is_session);
        channel.open_sending(open.window_bytes, open.packet_bytes_max);
        match self.channels.insert(channel) {
            Some(id) => Ok(Some(Event::Open { id, kind: ChannelKind::from(&open.kind) })),
            None => Err(Error::Invariant("no slot for a channel")),
        }
    }

    fn refusal(&self, open: &ChannelOpen<'_>, is_session: bool) -> Option<(u32, &'static str)> {
        // Whoever relays for a server has passed on what it was asked for, and judges by that.
        let judged = self.channels.relays && !R::IS_SERVER;
        if let Some(refusal) = R::refuses(&self.login, &open.kind).filter(|_| !judged) {
            return Some(refusal);
        }
        if open.packet_bytes_max < CHANNEL_PACKET_BYTES_MIN {
            return Some((open_failure::ADMINISTRATIVELY_PROHIBITED, "packet limit too small"));
        }
        if is_session && self.channels.sessions() >= R::limits(&self.login).sessions_max {
            return Some((open_failure::RESOURCE_SHORTAGE, "too many sessions"));
        }
        if self.channels.slots.is_full() {
            return Some((open_failure::RESOURCE_SHORTAGE, "too many channels"));
        }
        None
    }

    fn open_confirmed(
        &mut self,
        message: &ChannelOpenConfirmation<'_>,
    ) -> Result<Option<Event>, Error> {
        let id = self.channels.asking(message.recipient)?;
        if message.packet_bytes_max < CHANNEL_PACKET_BYTES_MIN {
            return Err(Error::PeerIncompatible("packet limit of a channel too small".into()));
        }
        if let Some(channel) = self.channels.get_mut(id) {
            channel.stage = Stage::Open;
            channel.recipient = message.sender;
            channel.open_sending(message.window_bytes, message.packet_bytes_max);
        }
        Ok(Some(Event::Opened { id }))
    }

    fn open_failed(&mut self, message: &ChannelOpenFailure<'_>) -> Result<Option<Event>, Error> {
        let id = self.channels.asking(message.recipient)?;
        self.channels.remove(id);
        Ok(Some(Event::OpenFailed { id, reason: message.reason, text: message.text.into() }))
    }

    fn eof(&mut self, recipient: ChannelNumber) -> Result<Option<Event>, Error> {
        let (id, channel) = self.channels.open(recipient)?;
        let first = channel.recv == RecvHalf::Open;
        channel.recv = channel.recv.step(RecvStep::Eof)?;
        let heard = first && channel.send != SendHalf::Closed;
        Ok(heard.then_some(Event::Eof(id)))
    }

    fn peer_closes(&mut self, recipient: ChannelNumber) -> Result<Option<Event>, Error> {
        let (id, channel) = self.channels.open(recipient)?;
        channel.recv = channel.recv.step(RecvStep::Close)?;
        if channel.send == SendHalf::Closed {
            self.channels.remove(id);
            return Ok(Some(Event::Closed(id)));
        }
        let held = std::mem::take(&mut channel.held);
        self.channels.forget_held(held);
        Ok(Some(Event::PeerClosed(id)))
    }

    fn answered(&mut self, recipient: ChannelNumber, ok: bool) -> Result<Option<Event>, Error> {
        let (id, channel) = self.channels.open(recipient)?;
        channel.recv.step(RecvStep::Other)?;
        // Case 87: answers to nothing are let pass.
        let Some(left) = channel.unanswered.checked_sub(1) else { return Ok(None) };
        channel.unanswered = left;
        let heard = channel.send != SendHalf::Closed;
        Ok(heard.then_some(Event::RequestDone { id, ok }))
    }

    fn request_or_hold(
        &mut self,
        request: &request::ChannelRequest<'_>,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let (held_bytes, relays) = (self.channels.held_bytes, self.channels.relays);
        let (id, channel) = self.channels.open(request.recipient)?;
        channel.recv.step(RecvStep::Other)?;
        // What a relayed peer says last may be on its way while the other one closes.
        if channel.send == SendHalf::Closed && !relays {
            return Ok(None);
        }
        if relays {
            return match bytes.len() <= RELAYED_REQUEST_BYTES_MAX {
                true => Ok(Some(Event::Asked { id, request: bytes.into() })),
                false => Err(Error::PeerMisbehaved("a request too long to be passed on")),
            };
        }
        if channel.due.is_none() && channel.held.is_empty() {
            return self.take_request(id, request.want_reply, &request.body, env);
        }
        if channel.held.len() >= REPLIES_PENDING_MAX
            || held_bytes + bytes.len() > HELD_REQUEST_BYTES_MAX
        {
            return Err(Error::PeerMisbehaved("too many requests behind one that is under way"));
        }
        channel.held.push_back(bytes.into());
        self.channels.held_bytes += bytes.len();
        Ok(None)
    }

    fn take_request(
        &mut self,
        id: ChannelId,
        want_reply: bool,
        body: &RequestBody<'_>,
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let Some(channel) = self.channels.get_mut(id) else { return Ok(None) };
        let request = ChannelRequest::from_wire(body).filter(|request| {
            let for_us = match R::IS_SERVER {
                true => channel.is_session && !request.is_from_server(),
                false => request.is_from_server(),
            };
            let ends_writing = matches!(request, ChannelRequest::EndOfWrite);
            // Case 88: a channel starts once.
            (for_us || ends_writing) && !(request.starts() && channel.started)
        });
        let Some(request) = request else {
            let recipient = channel.recipient;
            if want_reply {
                self.transport.send(&ChannelFailure { recipient }, env)?;
            }
            return Ok(None);
        };
        if want_reply {
            channel.due = Some(Due { starts: request.starts() });
        } else {
            channel.started |= request.starts();
        }
        Ok(Some(Event::Request { id, want_reply, request }))
    }

    /// Takes up what was held back, up to the next request that waits for our owner.
    pub(super) fn take_up_held(&mut self, id: ChannelId, env: &mut Env<'_>) -> Result<(), Error> {
        while let Some(channel) = self.channels.get_mut(id)
            && channel.due.is_none()
            && let Some(payload) = channel.held.pop_front()
        {
            self.channels.held_bytes = self.channels.held_bytes.saturating_sub(payload.len());
            let bad = malformed(number::CHANNEL_REQUEST);
            let request = request::ChannelRequest::parse(&payload).map_err(bad)?;
            let event = self.take_request(id, request.want_reply, &request.body, env)?;
            self.channels.events.extend(event);
        }
        Ok(())
    }

    fn global_or_hold(
        &mut self,
        message: &channel::GlobalRequest<'_>,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let Some(globals) = &mut self.channels.global else { return self.global(message, env) };
        let bytes_held = self.channels.held_bytes + bytes.len();
        if globals.held.len() >= GLOBALS_HELD_MAX || bytes_held > HELD_REQUEST_BYTES_MAX {
            return Err(Error::PeerMisbehaved("too many requests behind one that is under way"));
        }
        globals.held.push_back(bytes.into());
        self.channels.held_bytes = bytes_held;
        Ok(None)
    }

    /// Takes up what was held back, up to the next request that waits for our owner.
    pub(super) fn take_up_globals(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        while let Some(globals) = &mut self.channels.global
            && globals.due.is_none()
        {
            let Some(payload) = globals.held.pop_front() else {
                self.channels.global = None;
                break;
            };
            self.channels.held_bytes = self.channels.held_bytes.saturating_sub(payload.len());
            let bad = malformed(number::GLOBAL_REQUEST);
            let request = channel::GlobalRequest::parse(&payload).map_err(bad)?;
            let event = self.global(&request, env)?;
            self.channels.events.extend(event);
        }
        Ok(())
    }

    fn global(
        &mut self,
        message: &channel::GlobalRequest<'_>,
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error> {
        let want_reply = message.want_reply;
        if R::IS_SERVER && matches!(message.request, GlobalBody::NoMoreSessions) {
            self.channels.no_more_sessions = true;
            if want_reply {
                self.transport.send(&RequestSuccess { rest: &[] }, env)?;
            }
            return Ok(None);
        }
        if let GlobalBody::Other { name: PROVE, rest } = message.request
            && want_reply
            && let Some(keys) = R::proofs_wanted(self, rest)
        {
            self.channels.global.get_or_insert_default().due = Some(true);
            return Ok(Some(Event::ProveHostKeys { keys }));
        }
        if let GlobalBody::Other { name: HOST_KEYS, rest } = message.request
            && let Some(keys) = R::host_keys_told(&self.login, rest)
        {
            return Ok(Some(Event::HostKeys { keys }));
        }
        let request = GlobalRequest::from_wire(&message.request);
        // Nobody forwards for a server.
        if R::IS_SERVER && request.is_some() {
            self.channels.global.get_or_insert_default().due = Some(want_reply);
        } else if want_reply {
            self.transport.send(&RequestFailure, env)?;
        }
        Ok(request.map(|request| Event::Global { want_reply, request }))
    }

    /// `answer`: what a success comes with.
    fn global_answered(&mut self, answer: Option<&[u8]>) -> Option<Event> {
        match self.globals.pop() {
            Some(Asker::Owner) => {
                let port = answer.and_then(|rest| rest.first_chunk::<4>());
                let port = port.map(|port| u32::from_be_bytes(*port));
                Some(Event::GlobalDone { ok: answer.is_some(), port })
            }
            Some(Asker::Proofs) => Some(Event::HostKeysProved { answer: answer.map(Into::into) }),
            Some(Asker::KeepAlive) | None => None,
        }
    }
}

fn written<'s, 'm, M: Message<'m>>(message: &M, space: &'s mut [u8]) -> Result<&'s [u8], Error> {
    let mut out = Writer::new(space);
    message.write(&mut out).map_err(|_| Error::Invariant("a message too long"))?;
    let len = out.len();
    Ok(space.get(..len).unwrap_or_default())
}
