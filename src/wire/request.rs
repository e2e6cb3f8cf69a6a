//! Message 98 and the bodies it carries: RFC 4254 §5.4 and §6, RFC 4335, OpenSSH PROTOCOL §2.1.

use super::channel::ChannelNumber;
use super::{Malformed, Message, NoSpace, Reader, Writer, number};
use crate::limits::{
    COMMAND_BYTES_MAX, ENV_NAME_BYTES_MAX, ENV_VALUE_BYTES_MAX, LANGUAGE_BYTES_MAX,
    OPEN_FAILURE_TEXT_BYTES_MAX, PTY_MODES_BYTES_MAX, REQUEST_NAME_BYTES_MAX,
    SIGNAL_NAME_BYTES_MAX, TERM_BYTES_MAX, X11_COOKIE_BYTES_MAX, X11_PROTOCOL_BYTES_MAX,
};

/// RFC 4254 §5.4: a request about one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelRequest<'a> {
    pub recipient: ChannelNumber,
    pub want_reply: bool,
    pub body: RequestBody<'a>,
}

/// What of a request can be told without its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    pub recipient: ChannelNumber,
    pub name: &'a str,
    pub want_reply: bool,
}

/// The name of a request that nobody knows. It goes on, also to a host behind the gateway, in the place of one
/// that is refused, so that answers keep their order.
pub const REFUSED: &str = "refused@tidegate.invalid";

/// What is asked of the channel, and the fields that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody<'a> {
    /// RFC 4254 §6.2. `modes` is the encoded list of §8, still encoded but known to be whole.
    PtyReq {
        term: &'a str,
        columns: u32,
        rows: u32,
        width_pixels: u32,
        height_pixels: u32,
        modes: &'a [u8],
    },
    /// RFC 4254 §6.4.
    Env {
        name: &'a [u8],
        value: &'a [u8],
    },
    /// RFC 4254 §6.5.
    Shell,
    Exec {
        command: &'a [u8],
    },
    Subsystem {
        name: &'a str,
    },
    /// RFC 4254 §6.7.
    WindowChange {
        columns: u32,
        rows: u32,
        width_pixels: u32,
        height_pixels: u32,
    },
    /// RFC 4254 §6.8: may the client do ^S and ^Q itself?
    XonXoff {
        client_can_do: bool,
    },
    /// RFC 4254 §6.9: the name without "SIG".
    Signal {
        name: &'a str,
    },
    /// RFC 4335: a break of that many milliseconds.
    Break {
        milliseconds: u32,
    },
    /// RFC 4254 §6.10.
    ExitStatus {
        code: u32,
    },
    ExitSignal {
        name: &'a str,
        core_dumped: bool,
        text: &'a str,
        language: &'a str,
    },
    /// OpenSSH PROTOCOL §2.1: the peer will read no more; sending may stop early.
    EndOfWrite,
    /// OpenSSH's own name for RFC draft-ietf-secsh-agent: programs may use the client's agent.
    AgentForward,
    /// Anything else: x11-req and names nobody knows.
    Other {
        name: &'a str,
        rest: &'a [u8],
    },
}

/// What an `x11-req` brings behind its name (RFC 4254 §6.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X11Fields<'a> {
    pub single: bool,
    pub protocol: &'a str,
    pub cookie: &'a str,
    pub screen: u32,
}

impl<'a> X11Fields<'a> {
    pub const NAME: &'static str = "x11-req";

    /// # Errors
    /// They are malformed, or longer than they need to be.
    pub fn read(fields: &'a [u8]) -> Result<X11Fields<'a>, Malformed> {
        let mut body = Reader::new(fields);
        let fields = X11Fields {
            single: body.boolean()?,
            protocol: body.utf8(X11_PROTOCOL_BYTES_MAX)?,
            cookie: body.utf8(X11_COOKIE_BYTES_MAX)?,
            screen: body.uint32()?,
        };
        body.end()?;
        Ok(fields)
    }
}

impl<'a> RequestBody<'a> {
    /// A program starts with it, of which a session has one (RFC 4254 §6.5).
    pub const fn starts(&self) -> bool {
        matches!(
            self,
            RequestBody::Shell | RequestBody::Exec { .. } | RequestBody::Subsystem { .. }
        )
    }

    /// Bytes of the strings in it that may be long.
    pub const fn text_bytes(&self) -> usize {
        match self {
            RequestBody::PtyReq { term, modes, .. } => term.len() + modes.len(),
            RequestBody::Env { name, value } => name.len() + value.len(),
            RequestBody::Exec { command } => command.len(),
            RequestBody::ExitSignal { text, .. } => text.len(),
            RequestBody::Other { rest, .. } => rest.len(),
            _ => 0,
        }
    }

    pub const fn name(&self) -> &'a str {
        match self {
            RequestBody::PtyReq { .. } => "pty-req",
            RequestBody::Env { .. } => "env",
            RequestBody::Shell => "shell",
            RequestBody::Exec { .. } => "exec",
            RequestBody::Subsystem { .. } => "subsystem",
            RequestBody::WindowChange { .. } => "window-change",
            RequestBody::XonXoff { .. } => "xon-xoff",
            RequestBody::Signal { .. } => "signal",
            RequestBody::Break { .. } => "break",
            RequestBody::ExitStatus { .. } => "exit-status",
            RequestBody::ExitSignal { .. } => "exit-signal",
            RequestBody::EndOfWrite => "eow@openssh.com",
            RequestBody::AgentForward => "auth-agent-req@openssh.com",
            RequestBody::Other { name, .. } => name,
        }
    }

    fn decode(name: &'a str, body: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match name {
            "pty-req" => {
                let term = body.utf8(TERM_BYTES_MAX)?;
                let (columns, rows) = (body.uint32()?, body.uint32()?);
                let (width_pixels, height_pixels) = (body.uint32()?, body.uint32()?);
                let modes = body.string(PTY_MODES_BYTES_MAX)?;
                check_modes(modes)?;
                RequestBody::PtyReq { term, columns, rows, width_pixels, height_pixels, modes }
            }
            "env" => {
                let name = body.string(ENV_NAME_BYTES_MAX)?;
                RequestBody::Env { name, value: body.string(ENV_VALUE_BYTES_MAX)? }
            }
            "shell" => RequestBody::Shell,
            "exec" => RequestBody::Exec { command: body.string(COMMAND_BYTES_MAX)? },
            "subsystem" => RequestBody::Subsystem { name: body.utf8(REQUEST_NAME_BYTES_MAX)? },
            "window-change" => {
                let (columns, rows) = (body.uint32()?, body.uint32()?);
                let (width_pixels, height_pixels) = (body.uint32()?, body.uint32()?);
                RequestBody::WindowChange { columns, rows, width_pixels, height_pixels }
            }
            "xon-xoff" => RequestBody::XonXoff { client_can_do: body.boolean()? },
            "signal" => RequestBody::Signal { name: body.utf8(SIGNAL_NAME_BYTES_MAX)? },
            "break" => RequestBody::Break { milliseconds: body.uint32()? },
            "exit-status" => RequestBody::ExitStatus { code: body.uint32()? },
            "exit-signal" => {
                let name = body.utf8(SIGNAL_NAME_BYTES_MAX)?;
                let core_dumped = body.boolean()?;
                let text = body.utf8(OPEN_FAILURE_TEXT_BYTES_MAX)?;
                let language = body.utf8(LANGUAGE_BYTES_MAX)?;
                RequestBody::ExitSignal { name, core_dumped, text, language }
            }
            "eow@openssh.com" => RequestBody::EndOfWrite,
            "auth-agent-req@openssh.com" => RequestBody::AgentForward,
            name => RequestBody::Other { name, rest: body.bytes(body.rest().len())? },
        })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        match self {
            RequestBody::PtyReq { term, columns, rows, width_pixels, height_pixels, modes } => {
                out.string(term.as_bytes())?;
                encode_sides(out, [columns, rows, width_pixels, height_pixels])?;
                out.string(modes)
            }
            RequestBody::Env { name, value } => {
                out.string(name)?;
                out.string(value)
            }
            RequestBody::Shell | RequestBody::EndOfWrite | RequestBody::AgentForward => Ok(()),
            RequestBody::Exec { command } => out.string(command),
            RequestBody::Subsystem { name } | RequestBody::Signal { name } => {
                out.string(name.as_bytes())
            }
            RequestBody::WindowChange { columns, rows, width_pixels, height_pixels } => {
                encode_sides(out, [columns, rows, width_pixels, height_pixels])
            }
            RequestBody::XonXoff { client_can_do } => out.boolean(*client_can_do),
            RequestBody::Break { milliseconds } => out.uint32(*milliseconds),
            RequestBody::ExitStatus { code } => out.uint32(*code),
            RequestBody::ExitSignal { name, core_dumped, text, language } => {
                out.string(name.as_bytes())?;
                out.boolean(*core_dumped)?;
                out.string(text.as_bytes())?;
                out.string(language.as_bytes())
            }
            RequestBody::Other { rest, .. } => out.bytes(rest),
        }
    }
}

impl<'a> RequestHead<'a> {
    /// The head of a message that is a [`ChannelRequest`] by its number.
    ///
    /// # Errors
    /// Not even that much of it can be read.
    pub fn of(payload: &'a [u8]) -> Result<RequestHead<'a>, Malformed> {
        let mut body = Reader::new(payload);
        body.byte()?;
        RequestHead::decode(&mut body)
    }

    fn decode(body: &mut Reader<'a>) -> Result<RequestHead<'a>, Malformed> {
        let recipient = ChannelNumber(body.uint32()?);
        let name = body.utf8(REQUEST_NAME_BYTES_MAX)?;
        Ok(RequestHead { recipient, name, want_reply: body.boolean()? })
    }
}

impl<'a> Message<'a> for ChannelRequest<'a> {
    const NUMBER: u8 = number::CHANNEL_REQUEST;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let RequestHead { recipient, name, want_reply } = RequestHead::decode(body)?;
        Ok(ChannelRequest { recipient, want_reply, body: RequestBody::decode(name, body)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.recipient.0)?;
        out.string(self.body.name().as_bytes())?;
        out.boolean(self.want_reply)?;
        self.body.encode(out)
    }
}

/// RFC 4254 §8: opcodes 1 to 159 carry a uint32, 0 ends the list, 160 and up stop its reading. A
/// list may lack its end; an argument may not be cut.
pub fn terminal_modes(encoded: &[u8]) -> impl Iterator<Item = (u8, u32)> {
    let mut rest = Reader::new(encoded);
    std::iter::from_fn(move || match rest.byte() {
        Ok(opcode @ 1..=159) => Some((opcode, rest.uint32().ok()?)),
        _ => None,
    })
}

fn check_modes(encoded: &[u8]) -> Result<(), Malformed> {
    let mut rest = Reader::new(encoded);
    while let Ok(opcode @ 1..=159) = rest.byte() {
        let _ = opcode;
        rest.uint32()?;
    }
    Ok(())
}

fn encode_sides(out: &mut Writer<'_>, sides: [&u32; 4]) -> Result<(), NoSpace> {
    for side in sides {
        out.uint32(*side)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies() -> Vec<RequestBody<'static>> {
        let (columns, rows, width_pixels, height_pixels) = (80, 24, u32::MAX, 0);
        vec![
            RequestBody::PtyReq {
                term: "xterm",
                columns,
                rows,
                width_pixels,
                height_pixels,
                modes: b"\x03\0\0\0\x7f\x80\0\0\x96\0\0",
            },
            RequestBody::Env { name: b"LANG", value: b"C\0" },
            RequestBody::Shell,
            RequestBody::Exec { command: b"ls -l" },
            RequestBody::Subsystem { name: "sftp" },
            RequestBody::WindowChange { columns, rows, width_pixels, height_pixels },
            RequestBody::XonXoff { client_can_do: true },
            RequestBody::Signal { name: "TERM" },
            RequestBody::Break { milliseconds: 500 },
            RequestBody::ExitStatus { code: 255 },
            RequestBody::ExitSignal { name: "KILL", core_dumped: true, text: "x", language: "" },
            RequestBody::EndOfWrite,
            RequestBody::AgentForward,
            RequestBody::Other { name: "hostkeys-req@example.org", rest: b"" },
            RequestBody::Other { name: "x11-req", rest: b"\0\0" },
        ]
    }

    #[test]
    fn every_body_round_trips_and_ends_where_it_ends() {
        for body in bodies() {
            let request = ChannelRequest { recipient: ChannelNumber(3), want_reply: true, body };
            let mut space = vec![0; 1024];
            let mut out = Writer::new(&mut space);
            request.write(&mut out).expect("room");
            let bytes = out.written().to_vec();
            assert_eq!(ChannelRequest::parse(&bytes), Ok(request));
            let open_ended = matches!(body, RequestBody::Other { .. });
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(ChannelRequest::parse(&longer).is_ok(), open_ended, "{body:?}");
            for cut in 0..bytes.len() {
                if !open_ended {
                    assert!(ChannelRequest::parse(&bytes[..cut]).is_err(), "{body:?} at {cut}");
                }
            }
        }
    }

    #[test]
    fn case_90_cut_terminal_modes_are_an_error() {
        assert_eq!(check_modes(b"\x03\0\0\0"), Err(Malformed::Truncated));
        for whole in [&b""[..], b"\0", b"\xa0anything", b"\x03\0\0\0\x01", b"\x9f\0\0\0\x01\0zz"] {
            assert_eq!(check_modes(whole), Ok(()), "{whole:?}");
        }
        let modes = terminal_modes(b"\x03\0\0\0\x7f\x80\0\0\x96\0\0\x05\0\0\0\x01");
        assert_eq!(modes.collect::<Vec<_>>(), [(3, 0x7f), (128, 0x9600)]);
    }

    #[test]
    fn case_89_limits_hold() {
        let command = vec![b'x'; COMMAND_BYTES_MAX as usize + 1];
        let body = RequestBody::Exec { command: &command };
        let request = ChannelRequest { recipient: ChannelNumber(0), want_reply: false, body };
        let mut space = vec![0; command.len() + 64];
        let mut out = Writer::new(&mut space);
        request.write(&mut out).expect("room");
        assert_eq!(ChannelRequest::parse(out.written()), Err(Malformed::OverLimit));
        let head = RequestHead { recipient: ChannelNumber(0), name: "exec", want_reply: false };
        assert_eq!(RequestHead::of(out.written()), Ok(head), "it can be refused by name");
    }
}
