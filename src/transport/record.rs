//! Handing a connection to another process: everything a quiet transport knows, as bytes.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::exchange::{ExchangeProven, Outcome};
use super::machine::{Established, Stage};
use super::packet::{Ready, Wear};
use super::session::Session;
use super::wires::Wires;
use super::{
    CompressionKind, Error, Negotiated, PeerExtensions, Role, Stats, Transport, compression,
    proposal,
};
use crate::base::Instant;
use crate::crypto::{
    CipherKind, Counters, Digest, DirectionKeys, KexError, KeyAlgorithm, MacKind, ShownKey,
    SignatureAlgorithm, Suite,
};
use crate::limits::{
    EXT_INFO_VALUE_BYTES_MAX, HOST_KEY_BYTES_MAX, IDENT_BYTES_MAX, NAME_BYTES_MAX,
    TRANSPORT_RECORD_BYTES_MAX,
};
use crate::wire::{Malformed, NoSpace, Reader, Writer};

/// A transport at a quiet point: no key exchange, nothing waiting to leave.
///
/// Whoever takes a record must be the only one to go on with the connection, or nonces repeat.
/// Times are not carried, because another process may count them from elsewhere: the age of the
/// keys starts again.
#[derive(Debug)]
pub struct TransportRecord {
    serves: bool,
    authenticated: bool,
    session_id: Digest,
    our_ident: Box<[u8]>,
    peer_ident: Box<[u8]>,
    negotiated: Negotiated,
    host_key: ShownKey,
    extensions: Option<PeerExtensions>,
    ext_infos: u8,
    exchanges: u32,
    stats: Stats,
    inbound: Direction,
    outbound: Direction,
}

#[derive(Debug)]
struct Direction {
    keys: DirectionKeys,
    counters: Counters,
    bytes: u64,
}

impl<R: Role> Transport<R> {
    /// No key exchange runs, of which the peer would have to say more, and no packet has been compressed: a
    /// stream's window would have to travel too; before the first packet there is none.
    pub fn can_travel(&self) -> bool {
        let Wires { inbound, outbound, .. } = &self.wires;
        let at_rest =
            matches!(&self.stage, Ok(Stage::Established(Established { exchange: None, .. })));
        at_rest && compression::are_fresh(outbound.packer.as_deref(), inbound.unpacker.as_deref())
    }

    /// What another process needs to go on with this connection. `None` unless it is quiet and
    /// [`Transport::can_travel`].
    pub fn export(&self) -> Option<TransportRecord> {
        let Ok(Stage::Established(Established { session, .. })) = &self.stage else {
            return None;
        };
        if !self.wires.is_clear() || !self.can_travel() {
            return None;
        }
        let direction = |keys: &Option<Box<DirectionKeys>>, wear: &Wear| {
            let keys = DirectionKeys::clone(keys.as_deref()?);
            Some(Direction { keys, counters: wear.counters.clone(), bytes: wear.bytes })
        };
        let Wires { inbound, outbound, .. } = &self.wires;
        Some(TransportRecord {
            serves: R::SERVER,
            authenticated: self.wires.authenticated,
            session_id: session.id,
            our_ident: session.our_ident.as_bytes().into(),
            peer_ident: session.peer_ident.clone(),
            negotiated: session.negotiated,
            host_key: session.host_key.clone(),
            extensions: session.extensions.as_deref().cloned(),
            ext_infos: session.ext_infos,
            exchanges: session.exchanges,
            stats: self.wires.stats,
            inbound: direction(&inbound.raw, &inbound.wear)?,
            outbound: direction(&outbound.raw, &outbound.wear)?,
        })
    }

    /// Goes on where the exporter stopped.
    pub fn import(
        config: Arc<R::Config>,
        record: TransportRecord,
        now: Instant,
    ) -> Result<Transport<R>, Error> {
        if record.serves != R::SERVER {
            return Err(Error::Invariant("a record of the other role"));
        }
        let provider = R::preferences(&config).provider;
        let our_ident = std::str::from_utf8(&record.our_ident);
        let our_ident = our_ident.map_err(|_| Error::Invariant("a record's identification"))?;
        let mut wires = Wires::new();
        wires.strict = record.negotiated.strict;
        let Direction { keys, counters, bytes } = record.inbound;
        wires.inbound.install(Ready::open(provider, keys).map_err(KexError::from)?, false);
        (wires.inbound.wear.counters, wires.inbound.wear.bytes) = (counters, bytes);
        let Direction { keys, counters, bytes } = record.outbound;
        wires.outbound.install(Ready::seal(provider, keys).map_err(KexError::from)?, false);
        (wires.outbound.wear.counters, wires.outbound.wear.bytes) = (counters, bytes);
        wires.outbound.blocked = false;
        let agreed = &record.negotiated;
        let (to_server, to_client) = (agreed.compression_to_server, agreed.compression_to_client);
        wires.compression = if R::SERVER { [to_client, to_server] } else { [to_server, to_client] };
        if record.authenticated {
            wires.start_compression();
        }
        wires.stats = record.stats;
        let outcome = Outcome {
            session_id: record.session_id,
            negotiated: record.negotiated,
            host_key: record.host_key,
            _proven: ExchangeProven::by_signature(),
        };
        let mut session = Session::new(outcome, our_ident.into(), record.peer_ident, now);
        session.extensions = record.extensions.map(Box::new);
        session.ext_infos = record.ext_infos;
        session.exchanges = record.exchanges;
        Ok(Transport::resume(config, session, wires, record.authenticated))
    }
}

impl TransportRecord {
    /// The record as bytes. They hold the keys: wiped when dropped, and for no one else's eyes.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, NoSpace> {
        let mut bytes = Zeroizing::new(vec![0; TRANSPORT_RECORD_BYTES_MAX]);
        let mut out = Writer::new(&mut bytes);
        out.byte(VERSION)?;
        out.boolean(self.serves)?;
        out.boolean(self.authenticated)?;
        out.string(self.session_id.as_ref())?;
        out.string(&self.our_ident)?;
        out.string(&self.peer_ident)?;
        out.string(self.negotiated.kex_name.as_bytes())?;
        out.string(self.negotiated.host_key.name().as_bytes())?;
        out.string(self.negotiated.rsa.name().as_bytes())?;
        out.string(self.negotiated.compression_to_server.name().as_bytes())?;
        out.string(self.negotiated.compression_to_client.name().as_bytes())?;
        out.boolean(self.negotiated.strict)?;
        out.string(self.host_key.blob())?;
        write_extensions(&mut out, self.extensions.as_ref())?;
        out.byte(self.ext_infos)?;
        out.uint32(self.exchanges)?;
        let Stats { bytes_in, bytes_out, packets_in, packets_out } = self.stats;
        for count in [bytes_in, bytes_out, packets_in, packets_out] {
            out.uint64(count)?;
        }
        self.inbound.write(&mut out)?;
        self.outbound.write(&mut out)?;
        let len = out.len();
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Reads what [`TransportRecord::to_bytes`] made, and nothing else.
    pub fn from_bytes(bytes: &[u8]) -> Result<TransportRecord, Malformed> {
        let mut body = Reader::new(bytes);
        if body.byte()? != VERSION {
            return Err(Malformed::Number);
        }
        let serves = boolean(&mut body)?;
        let authenticated = boolean(&mut body)?;
        let session_id = body.string(64).map(Digest::from_bytes)?.ok_or(Malformed::Range)?;
        if session_id.is_empty() {
            return Err(Malformed::Range);
        }
        let our_ident = body.string(IDENT_BYTES_MAX as u32)?.into();
        let peer_ident = body.string(IDENT_BYTES_MAX as u32)?.into();
        let (kex, kex_name) = name(&mut body, proposal::kex_from_name)?;
        let host_key_algorithm = name(&mut body, KeyAlgorithm::from_name)?;
        let rsa = name(&mut body, SignatureAlgorithm::from_name)?;
        let compression_to_server = name(&mut body, CompressionKind::from_name)?;
        let compression_to_client = name(&mut body, CompressionKind::from_name)?;
        let strict = boolean(&mut body)?;
        let host_key = ShownKey::read(host_key_algorithm, body.string(HOST_KEY_BYTES_MAX)?);
        let host_key = host_key.ok_or(Malformed::Range)?;
        let extensions = read_extensions(&mut body)?;
        let ext_infos = body.byte()?;
        let exchanges = body.uint32()?;
        let stats = Stats {
            bytes_in: total(&mut body)?,
            bytes_out: total(&mut body)?,
            packets_in: total(&mut body)?,
            packets_out: total(&mut body)?,
        };
        let inbound = Direction::read(&mut body)?;
        let outbound = Direction::read(&mut body)?;
        body.end()?;
        if exchanges == 0 {
            return Err(Malformed::Range);
        }
        let (inward, outward) = (inbound.keys.suite(), outbound.keys.suite());
        let (to_server, to_client) = if serves { (inward, outward) } else { (outward, inward) };
        let negotiated = Negotiated {
            kex,
            kex_name,
            host_key: host_key_algorithm,
            rsa,
            to_server,
            to_client,
            compression_to_server,
            compression_to_client,
            strict,
        };
        Ok(TransportRecord {
            serves,
            authenticated,
            session_id,
            our_ident,
            peer_ident,
            negotiated,
            host_key,
            extensions,
            ext_infos,
            exchanges,
            stats,
            inbound,
            outbound,
        })
    }
}

/// A running total: what no connection lives to reach is no total, and would overflow soon.
fn total(body: &mut Reader<'_>) -> Result<u64, Malformed> {
    match body.uint64()? {
        total if total <= u64::MAX / 2 => Ok(total),
        _ => Err(Malformed::Range),
    }
}

impl Direction {
    fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        let suite = self.keys.suite();
        let mac = match suite.mac() {
            MacKind::Implicit => "",
            mac => mac.name(),
        };
        out.string(suite.cipher().name().as_bytes())?;
        out.string(mac.as_bytes())?;
        out.string(self.keys.cipher_key())?;
        out.string(self.keys.iv())?;
        out.string(self.keys.mac_key())?;
        out.uint32(self.counters.seq())?;
        out.uint64(self.counters.packets())?;
        out.uint64(self.counters.blocks())?;
        out.uint64(self.bytes)
    }

    fn read(body: &mut Reader<'_>) -> Result<Direction, Malformed> {
        let cipher = name(body, CipherKind::from_name)?;
        let mac = name(body, |name| match name {
            "" => Some(MacKind::Implicit),
            name => MacKind::from_name(name),
        })?;
        let suite = Suite::new(cipher, mac).filter(|suite| suite.mac() == mac);
        let suite = suite.ok_or(Malformed::Range)?;
        let key = body.string(KEY_BYTES_MAX)?;
        let iv = body.string(KEY_BYTES_MAX)?;
        let mac_key = body.string(KEY_BYTES_MAX)?;
        let keys = DirectionKeys::new(suite, key, iv, mac_key).map_err(|_| Malformed::Range)?;
        let (seq, packets, blocks) = (body.uint32()?, body.uint64()?, body.uint64()?);
        // Past these a key is never used, so no exporter can have counted so far.
        if packets > COUNT_MAX || blocks > COUNT_MAX {
            return Err(Malformed::Range);
        }
        let counters = Counters::from_parts(seq, packets, blocks);
        Ok(Direction { keys, counters, bytes: body.uint64()? })
    }
}

/// The record's layout. Another process may be another version of this program.
const VERSION: u8 = 3;
/// The longest of the raw keys.
const KEY_BYTES_MAX: u32 = 64;
/// 2^32 packets is the end of any key; with the largest packets that is 2^46 blocks.
const COUNT_MAX: u64 = 1 << 46;

/// Strict, unlike RFC 4251 booleans: these bytes are our own.
fn boolean(body: &mut Reader<'_>) -> Result<bool, Malformed> {
    match body.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Range),
    }
}

fn name<T>(body: &mut Reader<'_>, known: impl Fn(&str) -> Option<T>) -> Result<T, Malformed> {
    known(body.utf8(NAME_BYTES_MAX)?).ok_or(Malformed::Range)
}

fn write_extensions(
    out: &mut Writer<'_>,
    extensions: Option<&PeerExtensions>,
) -> Result<(), NoSpace> {
    out.boolean(extensions.is_some())?;
    let Some(PeerExtensions { server_sig_algs, ping, hostbound }) = extensions else {
        return Ok(());
    };
    out.boolean(*ping)?;
    out.boolean(*hostbound)?;
    out.boolean(server_sig_algs.is_some())?;
    out.string(server_sig_algs.as_deref().unwrap_or_default().as_bytes())
}

fn read_extensions(body: &mut Reader<'_>) -> Result<Option<PeerExtensions>, Malformed> {
    if !boolean(body)? {
        return Ok(None);
    }
    let (ping, hostbound, has_algorithms) = (boolean(body)?, boolean(body)?, boolean(body)?);
    let algorithms = body.utf8(EXT_INFO_VALUE_BYTES_MAX)?;
    let server_sig_algs = has_algorithms.then(|| algorithms.into());
    Ok(Some(PeerExtensions { server_sig_algs, ping, hostbound }))
}
