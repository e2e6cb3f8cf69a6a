//! Handing a connection to another process: everything a quiet one knows, as bytes.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::channel::{Channel, Stage};
use super::half::{RecvHalf, SendHalf};
use super::machine::Asker;
use super::side::Side;
use super::window::{RecvWindow, SendWindow};
use super::{ChannelId, ClientConnectionConfig, Conn, Connection, ConnectionConfig};
use crate::base::Instant;
use crate::limits::{
    CHANNEL_PACKET_BYTES_MAX, CHANNELS_MAX, GLOBAL_PENDING_MAX, LINK_WINDOW_BYTES_MAX,
    REQUESTS_UNANSWERED_MAX, TRANSPORT_RECORD_BYTES_MAX, WINDOW_BYTES_MAX,
};
use crate::transport::{Client, Error, Server, Transport, TransportRecord};
use crate::wire::channel::ChannelNumber;
use crate::wire::{Malformed, NoSpace, Reader, Writer};

/// A connection at a quiet point, after its login: no key exchange, no open question, nothing
/// waiting to leave, no credit reserved, no event untaken, every channel open on both sides and no
/// answer owed on it.
///
/// Channels keep their numbers, and an importer's [`ChannelId`]s are the exporter's. What a channel
/// is attached to travels by other means. Whoever takes a record must be the only one to go on with
/// the connection.
#[derive(Debug)]
pub struct ConnectionRecord {
    transport: TransportRecord,
    held: Held,
}

/// What this floor adds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    no_more_sessions: bool,
    /// Our global requests without an answer, oldest first. True: the owner asked.
    globals: Vec<bool>,
    /// How often the peer was asked for a sign of life since it was last heard of, and when that is
    /// due again, by the clock that all processes of this machine have.
    silence: Option<(u32, Instant)>,
    channels: Vec<ChannelRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ChannelRecord {
    number: u32,
    recipient: u32,
    is_session: bool,
    started: bool,
    send: SendHalf,
    recv: RecvHalf,
    send_window: SendWindow,
    recv_window: RecvWindow,
    unanswered: u32,
}

impl<R: Side> Connection<R> {
    /// What another process needs to go on with this connection. `None` unless it is quiet.
    pub fn export(&self) -> Option<ConnectionRecord> {
        let quiet = self.failure().is_none()
            && self.is_authenticated()
            && !self.blocked()
            && self.channels.events.is_empty()
            && self.channels.global.is_none()
            && !self.globals.iter().any(|asker| *asker == Asker::Proofs)
            && self.channels.drained.is_empty();
        if !quiet {
            return None;
        }
        let channels = self.channels.slots.iter();
        let held = Held {
            no_more_sessions: self.channels.no_more_sessions,
            globals: self.globals.iter().map(|asker| *asker == Asker::Owner).collect(),
            silence: self.silence(),
            channels: channels
                .map(|(id, channel)| ChannelRecord::of(id, channel))
                .collect::<Option<_>>()?,
        };
        Some(ConnectionRecord { transport: self.transport.export()?, held })
    }

    fn resume(mut self, held: Held) -> Result<Connection<R>, Error> {
        self.channels.no_more_sessions = held.no_more_sessions;
        for owner in held.globals {
            let asker = if owner { Asker::Owner } else { Asker::KeepAlive };
            let _ = self.globals.push(asker);
        }
        if let Some((asked, at)) = held.silence {
            self.resume_silence(asked, at);
        }
        for channel in held.channels {
            let id = ChannelId::from_number(channel.number);
            if !self.channels.restore(id, channel.into_channel()) {
                return Err(Error::Invariant("a record names a channel twice"));
            }
        }
        Ok(self)
    }
}

impl Connection<Server> {
    /// Goes on where the exporter stopped.
    pub fn import(
        config: Arc<ConnectionConfig>,
        record: ConnectionRecord,
        now: Instant,
    ) -> Result<Connection<Server>, Error> {
        let ConnectionRecord { transport, held } = record;
        let transport = Transport::import(Arc::clone(&config.transport), transport, now)?;
        Connection::server_over(transport, config, now).resume(held)
    }
}

impl Connection<Client> {
    /// Goes on where the exporter stopped.
    pub fn import(
        config: Arc<ClientConnectionConfig>,
        record: ConnectionRecord,
        now: Instant,
    ) -> Result<Connection<Client>, Error> {
        let ConnectionRecord { transport, held } = record;
        let transport = Transport::import(Arc::clone(&config.transport), transport, now)?;
        Connection::client_over(transport, config, now).resume(held)
    }
}

impl ConnectionRecord {
    /// The channels there are. An importer attaches each to what it belongs to.
    pub fn channels(&self) -> impl Iterator<Item = ChannelId> {
        self.held.channels.iter().map(|channel| ChannelId::from_number(channel.number))
    }

    /// The record as bytes. They hold the keys: wiped when dropped, and for no one else's eyes.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, NoSpace> {
        let transport = self.transport.to_bytes()?;
        let channels = self.held.channels.len() * CHANNEL_RECORD_BYTES;
        let room = transport.len() + GLOBAL_PENDING_MAX + channels + 48;
        let mut bytes = Zeroizing::new(vec![0; room]);
        let mut out = Writer::new(&mut bytes);
        out.byte(VERSION)?;
        out.string(&transport)?;
        self.held.write(&mut out)?;
        let len = out.len();
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Reads what [`ConnectionRecord::to_bytes`] made, and nothing else.
    pub fn from_bytes(bytes: &[u8]) -> Result<ConnectionRecord, Malformed> {
        let mut body = Reader::new(bytes);
        if body.byte()? != VERSION {
            return Err(Malformed::Number);
        }
        let transport = body.string(TRANSPORT_RECORD_BYTES_MAX as u32)?;
        let transport = TransportRecord::from_bytes(transport)?;
        let held = Held::read(&mut body)?;
        body.end()?;
        Ok(ConnectionRecord { transport, held })
    }
}

impl Held {
    fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.boolean(self.no_more_sessions)?;
        out.uint32(self.globals.len() as u32)?;
        for owner in &self.globals {
            out.boolean(*owner)?;
        }
        out.boolean(self.silence.is_some())?;
        if let Some((asked, at)) = self.silence {
            out.uint32(asked)?;
            out.uint64(at.nanos())?;
        }
        out.uint32(self.channels.len() as u32)?;
        self.channels.iter().try_for_each(|channel| channel.write(out))
    }

    fn read(body: &mut Reader<'_>) -> Result<Held, Malformed> {
        let no_more_sessions = boolean(body)?;
        let count = count(body, GLOBAL_PENDING_MAX)?;
        let globals = (0..count).map(|_| boolean(body)).collect::<Result<_, _>>()?;
        let silence = match boolean(body)? {
            true => Some((body.uint32()?, Instant::from_nanos(body.uint64()?))),
            false => None,
        };
        let count = self::count(body, CHANNELS_MAX)?;
        let channels: Vec<ChannelRecord> =
            (0..count).map(|_| ChannelRecord::read(body)).collect::<Result<_, _>>()?;
        let windows: u64 = channels.iter().map(|c| u64::from(c.recv_window.target())).sum();
        if windows > u64::from(LINK_WINDOW_BYTES_MAX) + u64::from(WINDOW_BYTES_MAX) {
            return Err(Malformed::Range);
        }
        Ok(Held { no_more_sessions, globals, silence, channels })
    }
}

impl ChannelRecord {
    /// `None` for a channel that is not quiet.
    fn of(id: ChannelId, channel: &Channel) -> Option<ChannelRecord> {
        let quiet = channel.stage == Stage::Open
            && channel.plans == 0
            && channel.send_window.reserved() == 0
            && channel.due.is_none()
            && channel.held.is_empty();
        quiet.then_some(ChannelRecord {
            number: id.number(),
            recipient: channel.recipient.0,
            is_session: channel.is_session,
            started: channel.started,
            send: channel.send,
            recv: channel.recv,
            send_window: channel.send_window,
            recv_window: channel.recv_window,
            unanswered: channel.unanswered,
        })
    }

    fn into_channel(self) -> Channel {
        let recipient = ChannelNumber(self.recipient);
        Channel {
            started: self.started,
            send: self.send,
            recv: self.recv,
            send_window: self.send_window,
            recv_window: self.recv_window,
            tuning: None,
            unanswered: self.unanswered,
            ..Channel::new(Stage::Open, recipient, self.is_session)
        }
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        let (send, recv) = (&self.send_window, &self.recv_window);
        out.uint32(self.number)?;
        out.uint32(self.recipient)?;
        out.boolean(self.is_session)?;
        out.boolean(self.started)?;
        out.byte(match self.send {
            SendHalf::Open => 0,
            SendHalf::EofSent => 1,
            SendHalf::Closed => 2,
            // Only with a plan, and then the channel is not quiet.
            SendHalf::Draining | SendHalf::Closing => return Err(NoSpace),
        })?;
        out.byte(match self.recv {
            RecvHalf::Open => 0,
            RecvHalf::EofReceived => 1,
            RecvHalf::Closed => 2,
        })?;
        let amounts = [
            send.remaining(),
            send.packet_bytes_max(),
            recv.granted(),
            recv.consumed(),
            recv.target(),
            recv.packet_bytes_max(),
            self.unanswered,
        ];
        amounts.into_iter().try_for_each(|amount| out.uint32(amount))
    }

    fn read(body: &mut Reader<'_>) -> Result<ChannelRecord, Malformed> {
        let (number, recipient) = (body.uint32()?, body.uint32()?);
        let (is_session, started) = (boolean(body)?, boolean(body)?);
        let send = match body.byte()? {
            0 => SendHalf::Open,
            1 => SendHalf::EofSent,
            2 => SendHalf::Closed,
            _ => return Err(Malformed::Range),
        };
        let recv = match body.byte()? {
            0 => RecvHalf::Open,
            1 => RecvHalf::EofReceived,
            2 => RecvHalf::Closed,
            _ => return Err(Malformed::Range),
        };
        let (remaining, send_packet) = (body.uint32()?, packet_bytes(body)?);
        let (granted, consumed, target) = (body.uint32()?, body.uint32()?, body.uint32()?);
        let recv_packet = packet_bytes(body)?;
        let recv_window = RecvWindow::from_parts(granted, consumed, target, recv_packet);
        let unanswered = body.uint32()?;
        // A channel that both have closed is none.
        if unanswered > REQUESTS_UNANSWERED_MAX
            || (send == SendHalf::Closed && recv == RecvHalf::Closed)
        {
            return Err(Malformed::Range);
        }
        Ok(ChannelRecord {
            number,
            recipient,
            is_session,
            started,
            send,
            recv,
            send_window: SendWindow::new(remaining, send_packet),
            recv_window: recv_window.ok_or(Malformed::Range)?,
            unanswered,
        })
    }
}

impl Conn {
    /// What is in the way of [`Conn::export`] comes to rest by itself: nothing of it is the peer's.
    pub fn can_travel(&self) -> bool {
        match self {
            Conn::Server(connection) => connection.transport.can_travel(),
            Conn::Client(connection) => connection.transport.can_travel(),
        }
    }

    /// [`Connection::export`].
    pub fn export(&self) -> Option<ConnectionRecord> {
        match self {
            Conn::Server(connection) => connection.export(),
            Conn::Client(connection) => connection.export(),
        }
    }
}

/// The record's layout. Another process may be another version of this program.
const VERSION: u8 = 2;
/// Two numbers, four bytes of state, seven amounts.
const CHANNEL_RECORD_BYTES: usize = 2 * 4 + 4 + 7 * 4;

/// Strict, unlike RFC 4251 booleans: these bytes are our own.
fn boolean(body: &mut Reader<'_>) -> Result<bool, Malformed> {
    match body.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Range),
    }
}

fn count(body: &mut Reader<'_>, max: usize) -> Result<u32, Malformed> {
    let count = body.uint32()?;
    if count as usize > max { Err(Malformed::OverLimit) } else { Ok(count) }
}

fn packet_bytes(body: &mut Reader<'_>) -> Result<u32, Malformed> {
    match body.uint32()? {
        bytes @ 1..=CHANNEL_PACKET_BYTES_MAX => Ok(bytes),
        _ => Err(Malformed::Range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::WINDOW_BYTES;

    fn held() -> impl Strategy<Value = Held> {
        let half = prop::sample::select(vec![
            (SendHalf::Open, RecvHalf::Open),
            (SendHalf::EofSent, RecvHalf::Closed),
            (SendHalf::Closed, RecvHalf::EofReceived),
        ]);
        let numbers = (any::<u32>(), any::<u32>(), any::<bool>(), any::<bool>());
        let windows = (any::<u32>(), 0..WINDOW_BYTES / 2, 0..WINDOW_BYTES / 2);
        let channel = (numbers, half, windows, 0..=REQUESTS_UNANSWERED_MAX).prop_map(
            |((number, recipient, is_session, started), (send, recv), windows, unanswered)| {
                let (remaining, granted, consumed) = windows;
                let packet = CHANNEL_PACKET_BYTES_MAX;
                let recv_window = RecvWindow::from_parts(granted, consumed, WINDOW_BYTES, packet);
                ChannelRecord {
                    number,
                    recipient,
                    is_session,
                    started,
                    send,
                    recv,
                    send_window: SendWindow::new(remaining, packet),
                    recv_window: recv_window.expect("a sum that holds"),
                    unanswered,
                }
            },
        );
        let globals = prop::collection::vec(any::<bool>(), 0..=GLOBAL_PENDING_MAX);
        let silence = prop::option::of((any::<u32>(), any::<u64>().prop_map(Instant::from_nanos)));
        (any::<bool>(), globals, silence, prop::collection::vec(channel, 0..20)).prop_map(
            |(no_more_sessions, globals, silence, channels)| Held {
                no_more_sessions,
                globals,
                silence,
                channels,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(held in held()) {
            let mut space = vec![0; 64 + held.channels.len() * CHANNEL_RECORD_BYTES];
            let mut out = Writer::new(&mut space);
            held.write(&mut out).expect("room");
            let mut body = Reader::new(out.written());
            prop_assert_eq!(Held::read(&mut body), Ok(held));
            prop_assert!(body.is_empty());
        }

        #[test]
        fn case_136_other_bytes_are_an_error_and_no_more(
            held in held(),
            at in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut space = vec![0; 64 + held.channels.len() * CHANNEL_RECORD_BYTES];
            let mut out = Writer::new(&mut space);
            held.write(&mut out).expect("room");
            let mut bytes = out.written().to_vec();
            let cut = cut.index(bytes.len());
            prop_assert!(Held::read(&mut Reader::new(&bytes[..cut])).is_err());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(held) = Held::read(&mut Reader::new(&bytes)) {
                for channel in held.channels {
                    let window = channel.recv_window;
                    prop_assert!(window.granted() + window.consumed() <= window.target());
                }
            }
        }
    }
}
