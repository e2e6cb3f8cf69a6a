use zeroize::Zeroize;

use super::backlog::Backlog;
use super::compression::{Packer, Unpacker};
use super::packet::{Inbound, NotSent, Outbound};
use super::{CompressionKind, Env, Error};
use crate::limits::PACKET_SLOT;
use crate::wire::{Message, NoSpace, Writer, number};

/// Plain counters; whoever runs the connection reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub packets_in: u64,
    pub packets_out: u64,
}

/// Both directions and what waits to leave: everything of a connection that is not a state.
#[derive(Debug)]
pub(super) struct Wires {
    pub inbound: Inbound,
    pub outbound: Outbound,
    pub backlog: Option<Box<Backlog>>,
    /// Both sides follow strict key exchange.
    pub strict: bool,
    pub authenticated: bool,
    /// What was agreed for our direction and for the peer's.
    pub compression: [CompressionKind; 2],
    /// Authentication is over on the wire: what was agreed is in force.
    pub compressing: bool,
    /// Our NEWKEYS has left and the peer's has not come: it is under what was in force before.
    pub awaits_keys: bool,
    pub stats: Stats,
}

impl Wires {
    pub(super) const fn new() -> Wires {
        Wires {
            inbound: Inbound::new(),
            outbound: Outbound::new(),
            backlog: None,
            strict: false,
            authenticated: false,
            compression: [CompressionKind::None; 2],
            compressing: false,
            awaits_keys: false,
            stats: Stats { bytes_in: 0, bytes_out: 0, packets_in: 0, packets_out: 0 },
        }
    }

    /// Nothing keeps a message of the floors above from leaving at once.
    pub(super) const fn is_clear(&self) -> bool {
        !self.outbound.blocked && self.backlog.is_none()
    }

    /// A message that leaves now, whatever waits: the key exchange itself, or RFC 4253 §11.
    pub(super) fn emit<'m, M: Message<'m>>(
        &mut self,
        message: &M,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.write(env, |out| message.write(out)).map_err(not_sent)
    }

    /// The same for a payload that is encoded already.
    pub(super) fn emit_payload(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), Error> {
        self.write(env, |out| out.bytes(payload)).map_err(not_sent)
    }

    /// A message that leaves in its turn: now, or behind the key exchange that runs.
    pub(super) fn send<'m, M: Message<'m>>(
        &mut self,
        message: &M,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        if self.is_clear() && self.write(env, |out| message.write(out)).is_ok() {
            self.has_left(M::NUMBER);
            return Ok(());
        }
        let mut scratch = vec![0; PACKET_SLOT as usize];
        let mut out = Writer::new(&mut scratch);
        let encoded = message.write(&mut out);
        let kept = match encoded {
            Ok(()) => self.defer(out.written()),
            Err(NoSpace) => Err(Error::Invariant("a message too long")),
        };
        // A password may have been in it. Wiping the rest as well, which is zeroes, would be most
        // of what a peer costs that asks for much during a key exchange.
        let used = out.len();
        scratch.get_mut(..used).unwrap_or_default().zeroize();
        kept
    }

    /// The same for a payload that is encoded already.
    pub(super) fn send_payload(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), Error> {
        if self.is_clear() && self.write(env, |out| out.bytes(payload)).is_ok() {
            self.has_left(payload.first().copied().unwrap_or(0));
            return Ok(());
        }
        self.defer(payload)
    }

    /// Moves what waits into the outbox, as far as it has room.
    pub(super) fn flush(&mut self, env: &mut Env<'_>) {
        if self.outbound.blocked {
            return;
        }
        while let Some(mut backlog) = self.backlog.take() {
            let Some(payload) = backlog.front() else { return };
            let number = payload.first().copied().unwrap_or(0);
            let sent = self.write(env, |out| out.bytes(payload)).is_ok();
            if sent {
                self.has_left(number);
                backlog.pop();
            }
            if !backlog.is_empty() {
                self.backlog = Some(backlog);
            }
            if !sent {
                return;
            }
        }
    }

    /// New keys in our direction: the stream of compressed packets starts again with them.
    pub(super) fn compress_outbound(&mut self, kind: CompressionKind) {
        self.compression[0] = kind;
        let packs = self.compressing && kind == CompressionKind::Delayed;
        self.outbound.packer = packs.then(|| Box::new(Packer::new()));
    }

    /// The same for the peer's.
    pub(super) fn compress_inbound(&mut self, kind: CompressionKind) {
        self.compression[1] = kind;
        let unpacks = self.compressing && kind == CompressionKind::Delayed;
        self.inbound.unpacker = unpacks.then(|| Box::new(Unpacker::new()));
    }

    /// Authentication is over on the wire: what was agreed begins (OpenSSH PROTOCOL §1.2).
    pub(super) fn start_compression(&mut self) {
        self.compressing = true;
        let [outbound, inbound] = self.compression;
        self.compress_outbound(outbound);
        if !self.awaits_keys {
            self.compress_inbound(inbound);
        }
    }

    /// A server's success is the last packet of either side that is not compressed.
    fn has_left(&mut self, number: u8) {
        if number == number::USERAUTH_SUCCESS {
            self.start_compression();
        }
    }

    fn defer(&mut self, payload: &[u8]) -> Result<(), Error> {
        // What waits here was provoked by the peer, who keeps us from sending it.
        match self.backlog.get_or_insert_default().push(payload) {
            true => Ok(()),
            false => Err(Error::PeerMisbehaved("too much waits for a key exchange to end")),
        }
    }

    fn write(
        &mut self,
        env: &mut Env<'_>,
        fill: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>,
    ) -> Result<(), NotSent> {
        let wire_len = self.outbound.emit(&mut env.out, env.entropy, fill)?;
        self.stats.packets_out += 1;
        self.stats.bytes_out += u64::from(wire_len);
        Ok(())
    }
}

const fn not_sent(why: NotSent) -> Error {
    match why {
        NotSent::NoSpace => Error::Invariant("the outbox is full"),
        NotSent::Exhausted => Error::Invariant("the keys are used up"),
        NotSent::Packer => Error::Invariant("compression failed"),
    }
}
