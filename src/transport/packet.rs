//! RFC 4253 §6: the two directions of a connection, packet by packet.

use super::compression::{Packer, Unpacker};
use super::{Error, Outbox};
use crate::base::{Entropy, Span};
use crate::crypto::{
    Counters, CryptoError, DirectionKeys, Exhausted, Geometry, OpenKey, Provider, SealKey,
};
use crate::limits::{
    PACKET_LENGTH_MAX, PACKET_LENGTH_PREAUTH_MAX, PADDING_MIN, REKEY_PACKETS_MAX, TAILROOM,
};
use crate::wire::{NoSpace, Writer};

/// Where a payload starts in its packet: behind the length and the padding length.
pub(super) const PAYLOAD_AT: usize = 5;

/// A key ready for use, and its raw bytes for the day the connection is handed over.
#[derive(Debug)]
pub(super) struct Ready<K> {
    pub key: K,
    pub raw: Box<DirectionKeys>,
}

impl Ready<SealKey> {
    pub(super) fn seal(
        provider: Provider,
        raw: DirectionKeys,
    ) -> Result<Ready<SealKey>, CryptoError> {
        Ok(Ready { key: SealKey::new(provider, &raw)?, raw: Box::new(raw) })
    }
}

impl Ready<OpenKey> {
    pub(super) fn open(
        provider: Provider,
        raw: DirectionKeys,
    ) -> Result<Ready<OpenKey>, CryptoError> {
        Ok(Ready { key: OpenKey::new(provider, &raw)?, raw: Box::new(raw) })
    }
}

/// How much one direction has carried under its present keys, and may.
#[derive(Clone, Debug)]
pub(super) struct Wear {
    pub counters: Counters,
    /// Wire bytes under the present keys.
    pub bytes: u64,
    pub bytes_max: u64,
    pub packets_max: u32,
}

impl Wear {
    pub(super) const fn new() -> Wear {
        Wear {
            counters: Counters::new(),
            bytes: 0,
            bytes_max: u64::MAX,
            packets_max: REKEY_PACKETS_MAX,
        }
    }

    /// RFC 4253 §9, RFC 4344 §3: new keys are due.
    pub(super) const fn is_due(&self) -> bool {
        self.bytes >= self.bytes_max
            || self.counters.packets() >= self.packets_max as u64
            || self.counters.rekey_due()
    }

    /// New keys start unworn. Under strict key exchange the sequence number starts again too,
    /// at every NEWKEYS (OpenSSH PROTOCOL §1.10).
    pub(super) const fn renew(&mut self, strict: bool) {
        self.counters.new_keys();
        if strict {
            self.counters.reset_sequence();
        }
        self.bytes = 0;
    }
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct Inbound {
    pub key: OpenKey,
    pub raw: Option<Box<DirectionKeys>>,
    pub wear: Wear,
    /// Once the peer compresses.
    pub unpacker: Option<Box<Unpacker>>,
    /// Bytes of the packet at the front of the caller's buffer; zero until its length is known.
    need: u32,
    length_max: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    Need(u32),
    Packet { used: u32, payload: Span },
}

impl Inbound {
    pub(super) const fn new() -> Inbound {
        Inbound {
            key: OpenKey::Plain,
            raw: None,
            wear: Wear::new(),
            unpacker: None,
            need: 0,
            length_max: PACKET_LENGTH_PREAUTH_MAX,
        }
    }

    pub(super) fn install(&mut self, ready: Ready<OpenKey>, strict: bool) {
        self.key = ready.key;
        self.raw = Some(ready.raw);
        self.wear.renew(strict);
    }

    /// After authentication larger packets are believed.
    pub(super) const fn authenticated(&mut self) {
        self.length_max = PACKET_LENGTH_MAX;
    }

    /// Opens the packet at the front of `buf` in place. A call that finds too few bytes looks at
    /// four of them at most, and only once.
    pub(super) fn open(&mut self, buf: &mut [u8]) -> Result<Opened, Error> {
        if self.need == 0 {
            let Some(first) = buf.first_chunk::<4>() else { return Ok(Opened::Need(4)) };
            let length = self.key.packet_length(&self.wear.counters, *first);
            self.need = self.wire_len(length)?;
        }
        let Some(packet) = buf.get_mut(..self.need as usize) else {
            return Ok(Opened::Need(self.need));
        };
        let used = std::mem::take(&mut self.need);
        let unsealed = used - u32::from(self.key.geometry().tag);
        let stamp = self.wear.counters.stamp(unsealed).map_err(|_| WORN)?;
        self.key.open(stamp, packet).map_err(|_| Error::BadTag)?;
        self.wear.bytes = self.wear.bytes.saturating_add(u64::from(used));
        let payload = payload_of(packet, unsealed)?;
        Ok(Opened::Packet { used, payload })
    }

    /// Bytes on the wire of a packet with this length field, if it may exist at all: the field is
    /// not authenticated, so nothing is done with it before this.
    fn wire_len(&self, length: u32) -> Result<u32, Error> {
        let geometry = self.key.geometry();
        let least = LENGTH_LEAST.max(match geometry.length_is_padded {
            true => u32::from(geometry.block).saturating_sub(4),
            false => u32::from(geometry.block),
        });
        if length < least || length > self.length_max || !geometry.fits(length) {
            return Err(Error::PeerMisbehaved("bad packet length"));
        }
        Ok(4 + length + u32::from(geometry.tag))
    }
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct Outbound {
    pub key: SealKey,
    pub raw: Option<Box<DirectionKeys>>,
    pub wear: Wear,
    /// Once we compress.
    pub packer: Option<Box<Packer>>,
    /// Our KEXINIT has left and our NEWKEYS has not, or there are no keys yet: only the key
    /// exchange itself may leave (RFC 4253 §7.1).
    pub blocked: bool,
}

impl Outbound {
    pub(super) const fn new() -> Outbound {
        Outbound { key: SealKey::Plain, raw: None, wear: Wear::new(), packer: None, blocked: true }
    }

    pub(super) fn install(&mut self, ready: Ready<SealKey>, strict: bool) {
        self.key = ready.key;
        self.raw = Some(ready.raw);
        self.wear.renew(strict);
    }

    pub(super) const fn geometry(&self) -> Geometry {
        self.key.geometry()
    }

    /// Frames and seals in place. `packet` is exactly as long as [`Geometry::wire_len`] says and
    /// holds its payload already.
    pub(super) fn seal(
        &mut self,
        packet: &mut [u8],
        payload_len: u32,
        entropy: &mut dyn Entropy,
    ) -> Result<(), Exhausted> {
        let geometry = self.geometry();
        let padding_len = geometry.padding(payload_len);
        let wire_len = packet.len() as u32;
        let unsealed = wire_len.saturating_sub(u32::from(geometry.tag));
        let stamp = self.wear.counters.stamp(unsealed)?;
        if let Some((head, body)) = packet.split_first_chunk_mut::<PAYLOAD_AT>() {
            let [a, b, c, d] = unsealed.saturating_sub(4).to_be_bytes();
            *head = [a, b, c, d, padding_len as u8];
            let padding = Span::new(payload_len, padding_len);
            entropy.fill(padding.of_mut(body).unwrap_or_default());
        }
        self.key.seal(stamp, packet);
        self.wear.bytes = self.wear.bytes.saturating_add(u64::from(wire_len));
        Ok(())
    }

    /// Writes one packet into the outbox: the payload by `fill`, the rest by us. Answers its length
    /// on the wire; when it does not fit, nothing has happened.
    pub(super) fn emit(
        &mut self,
        out: &mut Outbox<'_>,
        entropy: &mut dyn Entropy,
        fill: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>,
    ) -> Result<u32, NotSent> {
        let spare = out.spare();
        let mut writer = Writer::new(spare.get_mut(PAYLOAD_AT..).ok_or(NotSent::NoSpace)?);
        fill(&mut writer).map_err(|NoSpace| NotSent::NoSpace)?;
        let mut payload_len = writer.len() as u32;
        if let Some(packer) = &mut self.packer {
            payload_len = pack_in_place(packer, spare, payload_len)?;
        }
        let wire_len = self.geometry().wire_len(payload_len);
        let packet = spare.get_mut(..wire_len as usize).ok_or(NotSent::NoSpace)?;
        self.seal(packet, payload_len, entropy).map_err(|Exhausted| NotSent::Exhausted)?;
        out.commit(wire_len as usize);
        Ok(wire_len)
    }
}

/// Why a packet did not reach the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    NoSpace,
    Exhausted,
    Packer,
}

/// Compresses the payload in `spare`, behind the packet's head; answers its new length. Without room
/// for the worst case nothing has happened.
fn pack_in_place(packer: &mut Packer, spare: &mut [u8], len: u32) -> Result<u32, NotSent> {
    let body = spare.get_mut(PAYLOAD_AT..).unwrap_or_default();
    if body.len() < Packer::bound(len as usize) + TAILROOM as usize {
        return Err(NotSent::NoSpace);
    }
    let packed = packer.pack(body.get(..len as usize).unwrap_or(&[]));
    let packed = packed.map_err(|_| NotSent::Packer)?;
    let room = body.get_mut(..packed.len()).ok_or(NotSent::Packer)?;
    room.copy_from_slice(&packed);
    Ok(packed.len() as u32)
}

/// Padding length, one byte of payload and the least padding (RFC 4253 §6).
const LENGTH_LEAST: u32 = 1 + 1 + PADDING_MIN;

const WORN: Error = Error::PeerMisbehaved("the peer never renewed its keys");

/// The payload of an opened packet of `unsealed` bytes, once its padding is found legal.
fn payload_of(packet: &[u8], unsealed: u32) -> Result<Span, Error> {
    let padding = u32::from(packet.get(PAYLOAD_AT - 1).copied().unwrap_or(0));
    let body = unsealed.saturating_sub(PAYLOAD_AT as u32);
    match body.checked_sub(padding) {
        Some(len) if len > 0 && padding >= PADDING_MIN => Ok(Span::new(PAYLOAD_AT as u32, len)),
        _ => Err(Error::PeerMisbehaved("bad padding")),
    }
}
