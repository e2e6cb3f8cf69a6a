//! Bytes to messages and back: what is read is written again and must read the same.

use crate::wire::agent::{AgentReply, frame_bytes};
use crate::wire::auth::{
    InfoRequest, InfoResponse, PublicKeyOk, UserAuthBanner, UserAuthFailure, UserAuthRequest,
    UserAuthSuccess,
};
use crate::wire::channel::{
    ChannelData, ChannelExtendedData, ChannelOpen, ChannelOpenConfirmation, ChannelOpenFailure,
    ChannelWindowAdjust, GlobalRequest, RequestFailure, RequestSuccess,
};
use crate::wire::proxy::{self, ProxyScan, ProxyVersion};
use crate::wire::request::{ChannelRequest, terminal_modes as modes_of};
use crate::wire::sftp::{Operation, Reply, Request, Response, WRITE_HEADER_BYTES_MAX, WriteHeader};
use crate::wire::transport::{
    Debug, Disconnect, ExtInfo, Ignore, KexEcdhInit, KexEcdhReply, KexInit, NewKeys, Ping, Pong,
    ServiceAccept, ServiceRequest, Unimplemented,
};
use crate::wire::{Message, Reader, Writer};

/// Reads `$data` as each message in turn; what can be read must survive the way back and forth.
macro_rules! round_trips {
    ($data:expr, $($message:ident),+ $(,)?) => {$(
        if let Ok(message) = $message::parse($data) {
            let mut space = vec![0; $data.len() + SLACK];
            let mut out = Writer::new(&mut space);
            message.write(&mut out).expect("a message is no longer than what it was read from");
            assert_eq!($message::parse(out.written()), Ok(message), "written and read again");
        }
    )+};
}

/// A message may grow by the fields a peer may leave out.
const SLACK: usize = 64;

/// Messages 1 to 49 and 192, 193 but for KEXINIT's own target.
pub fn transport_messages(data: &[u8]) {
    round_trips!(
        data,
        Disconnect,
        Ignore,
        Unimplemented,
        Debug,
        ServiceRequest,
        ServiceAccept,
        ExtInfo,
        KexInit,
        NewKeys,
        KexEcdhInit,
        KexEcdhReply,
        Ping,
        Pong
    );
    if let Ok(info) = ExtInfo::parse(data) {
        assert!(info.iter().count() <= crate::limits::EXT_INFO_COUNT_MAX as usize);
    }
}

/// What an agent sends: a length, then as much of a reply as is there.
pub fn agent(data: &[u8]) {
    let Ok(Some(len)) = frame_bytes(data) else { return };
    assert!((1..=crate::limits::AGENT_FRAME_BYTES_MAX).contains(&len));
    let body = data.get(4..).unwrap_or_default();
    let frame = body.get(..len as usize).unwrap_or(body);
    if let Ok(AgentReply::Identities(found)) = AgentReply::parse(frame) {
        assert_eq!(found.iter().count(), found.len() as usize);
    }
}

/// What a proxy tells, in either version.
pub fn proxy_header(data: &[u8]) {
    let Ok(ProxyScan::Header { used, origin }) = proxy::scan(data) else { return };
    assert!(used <= data.len());
    for version in [ProxyVersion::One, ProxyVersion::Two] {
        let written = proxy::encode(version, &origin);
        let used = written.len();
        let again = proxy::scan(&written);
        assert_eq!(again, Ok(ProxyScan::Header { used, origin }), "written and read again");
    }
}

/// Messages 50 to 79.
pub fn userauth(data: &[u8]) {
    round_trips!(
        data,
        UserAuthRequest,
        UserAuthFailure,
        UserAuthSuccess,
        UserAuthBanner,
        PublicKeyOk,
        InfoRequest,
        InfoResponse,
    );
    if let Ok(request) = InfoRequest::parse(data) {
        assert_eq!(request.prompts.iter().count(), request.prompts.len() as usize);
    }
    if let Ok(response) = InfoResponse::parse(data) {
        assert!(response.answers().count() <= crate::limits::AUTH_PROMPTS_MAX as usize);
    }
}

/// Messages 80 to 100.
pub fn channel(data: &[u8]) {
    round_trips!(
        data,
        GlobalRequest,
        RequestSuccess,
        RequestFailure,
        ChannelOpen,
        ChannelOpenConfirmation,
        ChannelOpenFailure,
        ChannelWindowAdjust,
        ChannelData,
        ChannelExtendedData,
        ChannelRequest,
    );
}

/// SFTP packets of both directions, without their length.
pub fn sftp(data: &[u8]) {
    if let Ok(request) = Request::parse(data) {
        let mut space = vec![0; data.len() + SLACK];
        let mut out = Writer::new(&mut space);
        request.write(&mut out).expect("no longer than what was read");
        let (length, packet) = out.written().split_first_chunk::<4>().expect("a length");
        assert_eq!(u32::from_be_bytes(*length) as usize, packet.len());
        assert_eq!(Request::parse(packet), Ok(request), "written and read again");
        if let Operation::Write { data, .. } = request.operation {
            let header = out.written().len() - data.len();
            let front = &out.written()[..header];
            assert_eq!(WriteHeader::total(&front[..13]), Ok(header));
            let header = WriteHeader::parse(front).expect("the front of a whole WRITE");
            assert_eq!((header.id, header.len as usize), (request.id, data.len()));
        }
    }
    if let Ok(response) = Response::parse(data) {
        let mut space = vec![0; data.len() + SLACK];
        let mut out = Writer::new(&mut space);
        response.write(&mut out).expect("no longer than what was read");
        assert_eq!(Response::parse(&out.written()[4..]), Ok(response), "written and read again");
        if let Reply::Names(names) = response.reply {
            assert_eq!(names.iter().count(), names.count() as usize);
        }
    }
    if data.len() >= 13
        && let Ok(total) = WriteHeader::total(data)
    {
        assert!(total <= WRITE_HEADER_BYTES_MAX);
        let _ = data.get(..total).map(WriteHeader::parse);
    }
}

/// The modes of a pty-req (RFC 4254 §8).
pub fn terminal_modes(data: &[u8]) {
    let read = modes_of(data).inspect(|(opcode, _)| assert!((1..160).contains(opcode))).count();
    assert!(read <= data.len() / 5);
}

/// The types of RFC 4251 §5, in an order the input chooses.
pub fn reader(data: &[u8]) {
    let Some((plan, bytes)) = data.split_at_checked(data.len().min(16)) else { return };
    let mut reader = Reader::new(bytes);
    for step in plan {
        let before = reader.rest().len();
        let limit = u32::from(step >> 3) * 8;
        let done = match step % 8 {
            0 => reader.byte().map(|_| 1),
            1 => reader.boolean().map(|_| 1),
            2 => reader.uint32().map(|_| 4),
            3 => reader.uint64().map(|_| 8),
            4 => reader.string(limit).map(|read| read.len() + 4),
            5 => reader.utf8(limit).map(|read| read.len() + 4),
            6 => reader.name_list(limit).map(|list| {
                assert!(list.iter().all(|name| !name.is_empty() && list.contains(name)));
                list.as_str().len() + 4
            }),
            _ => {
                let mut other = reader.clone();
                reader.mpint(limit).map(|magnitude| {
                    let raw = other.string(limit).expect("what holds an mpint");
                    let mut space = vec![0; raw.len() + 4];
                    let mut out = Writer::new(&mut space);
                    out.mpint(magnitude).expect("room");
                    assert_eq!(&out.written()[4..], raw, "mpints have one encoding");
                    raw.len() + 4
                })
            }
        };
        match done {
            Ok(used) => assert_eq!(before - reader.rest().len(), used),
            Err(_) => return,
        }
    }
}
