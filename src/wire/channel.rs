//! Messages 80 to 100: RFC 4254. The bodies of channel requests are in [`super::request`].

use super::{Malformed, Message, NoSpace, Reader, Writer, number};
use crate::limits::{
    ASKED_HOST_BYTES_MAX, CHANNEL_TYPE_BYTES_MAX, HOST_BYTES_MAX, LANGUAGE_BYTES_MAX,
    OPEN_FAILURE_TEXT_BYTES_MAX, PACKET_LENGTH_MAX, REQUEST_NAME_BYTES_MAX, SOCKET_PATH_BYTES_MAX,
};

/// A channel as its receiver numbers it (RFC 4254 §5). Untrusted; never an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelNumber(pub u32);

/// RFC 4254 §5.1: why an open was refused.
pub mod open_failure {
    pub const ADMINISTRATIVELY_PROHIBITED: u32 = 1;
    pub const CONNECT_FAILED: u32 = 2;
    pub const UNKNOWN_CHANNEL_TYPE: u32 = 3;
    pub const RESOURCE_SHORTAGE: u32 = 4;
}

/// The type of a channel to the client's agent (OpenSSH PROTOCOL.agent).
pub const AGENT_CHANNEL: &str = "auth-agent@openssh.com";
/// RFC 4254 §6.3.2: to the client's X server.
pub const X11_CHANNEL: &str = "x11";

/// RFC 4254 §5.2: the one extended data type with a meaning.
pub const EXTENDED_STDERR: u32 = 1;

/// Bytes of a CHANNEL_DATA payload before its data: number, recipient, length.
pub const DATA_HEADER_BYTES: u32 = 9;
/// Bytes of a CHANNEL_EXTENDED_DATA payload before its data: one more field, the type.
pub const EXTENDED_HEADER_BYTES: u32 = 13;

/// RFC 4254 §4: a request about the connection as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalRequest<'a> {
    pub want_reply: bool,
    pub request: GlobalBody<'a>,
}

/// What is asked; names that are not ours keep their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalBody<'a> {
    /// RFC 4254 §7.1. Ports over 65,535 are kept for the policy to refuse, never cut short.
    TcpipForward {
        address: &'a str,
        port: u32,
    },
    CancelTcpipForward {
        address: &'a str,
        port: u32,
    },
    /// OpenSSH PROTOCOL §2.4.
    StreamlocalForward {
        path: &'a [u8],
    },
    CancelStreamlocalForward {
        path: &'a [u8],
    },
    /// OpenSSH PROTOCOL §2.2: the client will open no more sessions.
    NoMoreSessions,
    /// Is anybody there? Any answer will do.
    KeepAlive,
    Other {
        name: &'a str,
        rest: &'a [u8],
    },
}

impl<'a> GlobalBody<'a> {
    pub const fn name(&self) -> &'a str {
        match self {
            GlobalBody::TcpipForward { .. } => "tcpip-forward",
            GlobalBody::CancelTcpipForward { .. } => "cancel-tcpip-forward",
            GlobalBody::StreamlocalForward { .. } => "streamlocal-forward@openssh.com",
            GlobalBody::CancelStreamlocalForward { .. } => "cancel-streamlocal-forward@openssh.com",
            GlobalBody::NoMoreSessions => "no-more-sessions@openssh.com",
            GlobalBody::KeepAlive => "keepalive@openssh.com",
            GlobalBody::Other { name, .. } => name,
        }
    }

    fn decode(name: &'a str, body: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match name {
            "tcpip-forward" => {
                let address = body.utf8(HOST_BYTES_MAX)?;
                GlobalBody::TcpipForward { address, port: body.uint32()? }
            }
            "cancel-tcpip-forward" => {
                let address = body.utf8(HOST_BYTES_MAX)?;
                GlobalBody::CancelTcpipForward { address, port: body.uint32()? }
            }
            "streamlocal-forward@openssh.com" => {
                GlobalBody::StreamlocalForward { path: body.string(SOCKET_PATH_BYTES_MAX)? }
            }
            "cancel-streamlocal-forward@openssh.com" => {
                GlobalBody::CancelStreamlocalForward { path: body.string(SOCKET_PATH_BYTES_MAX)? }
            }
            "no-more-sessions@openssh.com" => GlobalBody::NoMoreSessions,
            "keepalive@openssh.com" => GlobalBody::KeepAlive,
            name => GlobalBody::Other { name, rest: body.bytes(body.rest().len())? },
        })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        match self {
            GlobalBody::TcpipForward { address, port }
            | GlobalBody::CancelTcpipForward { address, port } => {
                out.string(address.as_bytes())?;
                out.uint32(*port)
            }
            GlobalBody::StreamlocalForward { path }
            | GlobalBody::CancelStreamlocalForward { path } => out.string(path),
            GlobalBody::NoMoreSessions | GlobalBody::KeepAlive => Ok(()),
            GlobalBody::Other { rest, .. } => out.bytes(rest),
        }
    }
}

impl<'a> GlobalRequest<'a> {
    /// The name of what a message asks that is one of these by its number, and whether it wants an
    /// answer.
    ///
    /// # Errors
    /// Not even that much of it can be read.
    pub fn head(payload: &'a [u8]) -> Result<(&'a str, bool), Malformed> {
        let mut body = Reader::new(payload);
        body.byte()?;
        Ok((body.utf8(REQUEST_NAME_BYTES_MAX)?, body.boolean()?))
    }
}

impl<'a> Message<'a> for GlobalRequest<'a> {
    const NUMBER: u8 = number::GLOBAL_REQUEST;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let name = body.utf8(REQUEST_NAME_BYTES_MAX)?;
        let want_reply = body.boolean()?;
        Ok(GlobalRequest { want_reply, request: GlobalBody::decode(name, body)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.request.name().as_bytes())?;
        out.boolean(self.want_reply)?;
        self.request.encode(out)
    }
}

/// RFC 4254 §4: the oldest unanswered global request was granted. What follows depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSuccess<'a> {
    pub rest: &'a [u8],
}

impl<'a> Message<'a> for RequestSuccess<'a> {
    const NUMBER: u8 = number::REQUEST_SUCCESS;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(RequestSuccess { rest: body.bytes(body.rest().len())? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.bytes(self.rest)
    }
}

/// RFC 4254 §4: the oldest unanswered global request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFailure;

impl<'a> Message<'a> for RequestFailure {
    const NUMBER: u8 = number::REQUEST_FAILURE;

    fn decode(_: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(RequestFailure)
    }

    fn encode(&self, _: &mut Writer<'_>) -> Result<(), NoSpace> {
        Ok(())
    }
}

/// RFC 4254 §5.1: asks for a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelOpen<'a> {
    pub sender: ChannelNumber,
    /// Bytes the receiver of this message may send at once.
    pub window_bytes: u32,
    /// Largest data packet the receiver of this message may send.
    pub packet_bytes_max: u32,
    pub kind: OpenKind<'a>,
}

/// Who asks for a channel of which type, whatever else is in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenHead<'a> {
    pub name: &'a str,
    pub sender: ChannelNumber,
}

impl<'a> OpenHead<'a> {
    /// The head of a message that is a [`ChannelOpen`] by its number.
    ///
    /// # Errors
    /// Not even that much of it can be read.
    pub fn of(payload: &'a [u8]) -> Result<OpenHead<'a>, Malformed> {
        let mut body = Reader::new(payload);
        body.byte()?;
        let name = body.utf8(CHANNEL_TYPE_BYTES_MAX)?;
        Ok(OpenHead { name, sender: ChannelNumber(body.uint32()?) })
    }
}

/// The type of a channel and its own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenKind<'a> {
    /// RFC 4254 §6.1.
    Session,
    /// RFC 4254 §7.2: connect there for me.
    DirectTcpip {
        host: &'a str,
        port: u32,
        origin_host: &'a str,
        origin_port: u32,
    },
    /// RFC 4254 §7.2: somebody connected to the port you asked me to listen on.
    ForwardedTcpip {
        address: &'a str,
        port: u32,
        origin_host: &'a str,
        origin_port: u32,
    },
    /// OpenSSH PROTOCOL §2.4; its two reserved fields are not kept.
    DirectStreamlocal {
        path: &'a [u8],
    },
    /// OpenSSH PROTOCOL §2.4; its reserved field is not kept.
    ForwardedStreamlocal {
        path: &'a [u8],
    },
    Other {
        name: &'a str,
        rest: &'a [u8],
    },
}

impl<'a> OpenKind<'a> {
    pub const fn name(&self) -> &'a str {
        match self {
            OpenKind::Session => "session",
            OpenKind::DirectTcpip { .. } => "direct-tcpip",
            OpenKind::ForwardedTcpip { .. } => "forwarded-tcpip",
            OpenKind::DirectStreamlocal { .. } => "direct-streamlocal@openssh.com",
            OpenKind::ForwardedStreamlocal { .. } => "forwarded-streamlocal@openssh.com",
            OpenKind::Other { name, .. } => name,
        }
    }

    fn decode(name: &'a str, body: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match name {
            "session" => OpenKind::Session,
            "direct-tcpip" => {
                let (host, port) = (body.utf8(ASKED_HOST_BYTES_MAX)?, body.uint32()?);
                let (origin_host, origin_port) = (body.utf8(HOST_BYTES_MAX)?, body.uint32()?);
                OpenKind::DirectTcpip { host, port, origin_host, origin_port }
            }
            "forwarded-tcpip" => {
                let (address, port) = (body.utf8(HOST_BYTES_MAX)?, body.uint32()?);
                let (origin_host, origin_port) = (body.utf8(HOST_BYTES_MAX)?, body.uint32()?);
                OpenKind::ForwardedTcpip { address, port, origin_host, origin_port }
            }
            "direct-streamlocal@openssh.com" => {
                let path = body.string(SOCKET_PATH_BYTES_MAX)?;
                body.string(HOST_BYTES_MAX)?;
                body.uint32()?;
                OpenKind::DirectStreamlocal { path }
            }
            "forwarded-streamlocal@openssh.com" => {
                let path = body.string(SOCKET_PATH_BYTES_MAX)?;
                body.string(HOST_BYTES_MAX)?;
                OpenKind::ForwardedStreamlocal { path }
            }
            name => OpenKind::Other { name, rest: body.bytes(body.rest().len())? },
        })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        match self {
            OpenKind::Session => Ok(()),
            OpenKind::DirectTcpip { host, port, origin_host, origin_port }
            | OpenKind::ForwardedTcpip { address: host, port, origin_host, origin_port } => {
                out.string(host.as_bytes())?;
                out.uint32(*port)?;
                out.string(origin_host.as_bytes())?;
                out.uint32(*origin_port)
            }
            OpenKind::DirectStreamlocal { path } => {
                out.string(path)?;
                out.string(b"")?;
                out.uint32(0)
            }
            OpenKind::ForwardedStreamlocal { path } => {
                out.string(path)?;
                out.string(b"")
            }
            OpenKind::Other { rest, .. } => out.bytes(rest),
        }
    }
}

impl<'a> Message<'a> for ChannelOpen<'a> {
    const NUMBER: u8 = number::CHANNEL_OPEN;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let name = body.utf8(CHANNEL_TYPE_BYTES_MAX)?;
        let sender = ChannelNumber(body.uint32()?);
        let (window_bytes, packet_bytes_max) = (body.uint32()?, body.uint32()?);
        let kind = OpenKind::decode(name, body)?;
        Ok(ChannelOpen { sender, window_bytes, packet_bytes_max, kind })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.kind.name().as_bytes())?;
        out.uint32(self.sender.0)?;
        out.uint32(self.window_bytes)?;
        out.uint32(self.packet_bytes_max)?;
        self.kind.encode(out)
    }
}

/// RFC 4254 §5.1: the channel is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelOpenConfirmation<'a> {
    pub recipient: ChannelNumber,
    pub sender: ChannelNumber,
    pub window_bytes: u32,
    pub packet_bytes_max: u32,
    /// Fields of the channel's type; the types we know have none.
    pub rest: &'a [u8],
}

impl<'a> Message<'a> for ChannelOpenConfirmation<'a> {
    const NUMBER: u8 = number::CHANNEL_OPEN_CONFIRMATION;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (recipient, sender) = (ChannelNumber(body.uint32()?), ChannelNumber(body.uint32()?));
        let (window_bytes, packet_bytes_max) = (body.uint32()?, body.uint32()?);
        let rest = body.bytes(body.rest().len())?;
        Ok(ChannelOpenConfirmation { recipient, sender, window_bytes, packet_bytes_max, rest })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.recipient.0)?;
        out.uint32(self.sender.0)?;
        out.uint32(self.window_bytes)?;
        out.uint32(self.packet_bytes_max)?;
        out.bytes(self.rest)
    }
}

/// RFC 4254 §5.1: the channel is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelOpenFailure<'a> {
    pub recipient: ChannelNumber,
    /// One of [`open_failure`], or anything else.
    pub reason: u32,
    pub text: &'a str,
    pub language: &'a str,
}

impl<'a> Message<'a> for ChannelOpenFailure<'a> {
    const NUMBER: u8 = number::CHANNEL_OPEN_FAILURE;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (recipient, reason) = (ChannelNumber(body.uint32()?), body.uint32()?);
        let text = body.utf8(OPEN_FAILURE_TEXT_BYTES_MAX)?;
        let language = body.utf8(LANGUAGE_BYTES_MAX)?;
        Ok(ChannelOpenFailure { recipient, reason, text, language })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.recipient.0)?;
        out.uint32(self.reason)?;
        out.string(self.text.as_bytes())?;
        out.string(self.language.as_bytes())
    }
}

/// RFC 4254 §5.2: that many more bytes may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelWindowAdjust {
    pub recipient: ChannelNumber,
    pub bytes: u32,
}

impl<'a> Message<'a> for ChannelWindowAdjust {
    const NUMBER: u8 = number::CHANNEL_WINDOW_ADJUST;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let recipient = ChannelNumber(body.uint32()?);
        Ok(ChannelWindowAdjust { recipient, bytes: body.uint32()? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.recipient.0)?;
        out.uint32(self.bytes)
    }
}

/// RFC 4254 §5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'a> {
    pub recipient: ChannelNumber,
    pub data: &'a [u8],
}

impl<'a> Message<'a> for ChannelData<'a> {
    const NUMBER: u8 = number::CHANNEL_DATA;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let recipient = ChannelNumber(body.uint32()?);
        Ok(ChannelData { recipient, data: body.string(PACKET_LENGTH_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.recipient.0)?;
        out.string(self.data)
    }
}

/// RFC 4254 §5.2: data beside the main stream; it spends the same window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelExtendedData<'a> {
    pub recipient: ChannelNumber,
    /// [`EXTENDED_STDERR`], or something nobody has defined.
    pub data_type: u32,
    pub data: &'a [u8],
}

impl<'a> Message<'a> for ChannelExtendedData<'a> {
    const NUMBER: u8 = number::CHANNEL_EXTENDED_DATA;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (recipient, data_type) = (ChannelNumber(body.uint32()?), body.uint32()?);
        let data = body.string(PACKET_LENGTH_MAX)?;
        Ok(ChannelExtendedData { recipient, data_type, data })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.recipient.0)?;
        out.uint32(self.data_type)?;
        out.string(self.data)
    }
}

macro_rules! recipient_alone {
    ($($(#[$doc:meta])* $name:ident = $number:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            pub recipient: ChannelNumber,
        }

        impl<'a> Message<'a> for $name {
            const NUMBER: u8 = number::$number;

            fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
                Ok($name { recipient: ChannelNumber(body.uint32()?) })
            }

            fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
                out.uint32(self.recipient.0)
            }
        }
    )*};
}

recipient_alone! {
    /// RFC 4254 §5.3: the sender will send no more data.
    ChannelEof = CHANNEL_EOF;
    /// RFC 4254 §5.3: the sender will send nothing more on this channel.
    ChannelClose = CHANNEL_CLOSE;
    /// RFC 4254 §5.4: the oldest unanswered request of the channel was granted.
    ChannelSuccess = CHANNEL_SUCCESS;
    /// RFC 4254 §5.4: the oldest unanswered request of the channel was refused.
    ChannelFailure = CHANNEL_FAILURE;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<'a, M>(message: M, open_ended: bool)
    where
        M: Message<'a> + PartialEq + std::fmt::Debug,
    {
        let mut space = vec![0; 4096];
        let mut out = Writer::new(&mut space);
        message.write(&mut out).expect("room");
        let bytes: &'static [u8] = Vec::leak(out.written().to_vec());
        assert_eq!(M::parse(bytes).as_ref(), Ok(&message));
        let longer: &'static [u8] = Vec::leak([bytes, &[0]].concat());
        assert_eq!(M::parse(longer).is_err(), !open_ended, "{message:?}");
        if !open_ended {
            for cut in 0..bytes.len() {
                assert!(M::parse(&bytes[..cut]).is_err(), "{message:?} at {cut}");
            }
        }
    }

    const TO: ChannelNumber = ChannelNumber(7);

    #[test]
    fn messages_round_trip_and_end_where_they_end() {
        check(RequestSuccess { rest: b"\0\0\0\x16" }, true);
        check(RequestFailure, false);
        check(ChannelWindowAdjust { recipient: TO, bytes: u32::MAX }, false);
        check(ChannelData { recipient: TO, data: b"abc" }, false);
        check(ChannelExtendedData { recipient: TO, data_type: 1, data: b"" }, false);
        check(ChannelEof { recipient: TO }, false);
        check(ChannelClose { recipient: TO }, false);
        check(ChannelSuccess { recipient: TO }, false);
        check(ChannelFailure { recipient: TO }, false);
        check(ChannelOpenFailure { recipient: TO, reason: 4, text: "full", language: "" }, false);
        let (window_bytes, packet_bytes_max) = (1 << 21, 1 << 15);
        let sender = ChannelNumber(9);
        let rest = &b""[..];
        check(
            ChannelOpenConfirmation { recipient: TO, sender, window_bytes, packet_bytes_max, rest },
            true,
        );
    }

    #[test]
    fn every_channel_type_round_trips() {
        let (origin_host, origin_port) = ("::1", 99);
        let kinds = [
            OpenKind::Session,
            OpenKind::DirectTcpip { host: "h", port: 22, origin_host, origin_port },
            OpenKind::ForwardedTcpip { address: "", port: 70_000, origin_host, origin_port },
            OpenKind::DirectStreamlocal { path: b"/run/x" },
            OpenKind::ForwardedStreamlocal { path: b"/run/x" },
            OpenKind::Other { name: "x11", rest: b"\0\0\0\0" },
        ];
        for kind in kinds {
            let open =
                ChannelOpen { sender: TO, window_bytes: 1, packet_bytes_max: u32::MAX, kind };
            check(open, matches!(kind, OpenKind::Other { .. }));
        }
    }

    #[test]
    fn every_global_request_round_trips() {
        let bodies = [
            GlobalBody::TcpipForward { address: "localhost", port: 70_000 },
            GlobalBody::CancelTcpipForward { address: "", port: 0 },
            GlobalBody::StreamlocalForward { path: b"/s" },
            GlobalBody::CancelStreamlocalForward { path: b"/s" },
            GlobalBody::NoMoreSessions,
            GlobalBody::KeepAlive,
            GlobalBody::Other { name: "hostkeys-00@openssh.com", rest: b"zz" },
        ];
        for request in bodies {
            for want_reply in [false, true] {
                let open_ended = matches!(request, GlobalBody::Other { .. });
                check(GlobalRequest { want_reply, request }, open_ended);
            }
        }
    }

    #[test]
    fn data_headers_are_as_long_as_they_say() {
        let mut space = [0; 64];
        let mut out = Writer::new(&mut space);
        ChannelData { recipient: TO, data: b"" }.write(&mut out).expect("room");
        assert_eq!(out.len() as u32, DATA_HEADER_BYTES);
        let mut out = Writer::new(&mut space);
        ChannelExtendedData { recipient: TO, data_type: 1, data: b"" }
            .write(&mut out)
            .expect("room");
        assert_eq!(out.len() as u32, EXTENDED_HEADER_BYTES);
    }
}
