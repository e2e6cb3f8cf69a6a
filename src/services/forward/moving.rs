//! A forwarded connection that goes on in another process of ours.

use super::*;
use crate::services::{Luggage, Unpacking};
use crate::wire::Malformed;

impl Forward {
    /// It is open, and both ends have said what they have to say first.
    pub const fn may_move(&self) -> bool {
        let open = matches!(self.phase, Phase::Open) && !self.gone && self.socket.is_some();
        open && self.gate.is_none() && self.caller.is_none()
    }

    /// Begins nothing more.
    pub fn halt(&mut self, io: &mut Io<'_>) {
        self.input.halt(io);
        self.output.halt(io);
    }

    /// Goes on, here or where it has come to.
    pub fn go_on(&mut self, io: &mut Io<'_>) {
        self.output.go_on();
        self.input.go_on(io);
        self.pump(io);
    }

    /// What has halted, with nothing in flight.
    pub fn pack(&mut self, out: &mut Luggage) {
        out.string(self.kind.as_bytes());
        out.string(self.what.as_bytes());
        out.descriptor(self.socket.take());
        [self.eof_heard, self.eof_sent, self.close_sent].into_iter().for_each(|is| out.boolean(is));
        [self.bytes_in, self.bytes_out].into_iter().for_each(|bytes| out.uint64(bytes));
        out.uint32(self.broken.map_or(0, |errno| errno.0.cast_unsigned()));
        self.input.pack(out);
        self.output.pack(out);
        // Nothing more is told of it here.
        self.phase = Phase::Failed;
        self.gone = true;
    }

    /// What [`Forward::pack`] packed; [`Forward::go_on`] is to be called.
    pub fn unpack(from: &mut Unpacking<'_>) -> Result<Forward, Malformed> {
        let kind = from.string()?;
        let kind = KINDS.into_iter().find(|known| known.as_bytes() == kind);
        let kind = kind.ok_or(Malformed::Range)?;
        let what = String::from_utf8_lossy(from.string()?).into_owned();
        let socket = from.open_descriptor()?;
        let [eof_heard, eof_sent, close_sent] = [from.boolean()?, from.boolean()?, from.boolean()?];
        let (bytes_in, bytes_out) = (from.uint64()?, from.uint64()?);
        let broken = Some(Errno(from.uint32()?.cast_signed())).filter(|errno| errno.0 != 0);
        let (end, shared) = (End::Socket, Some(socket));
        Ok(Forward {
            input: Input::unpack((TAG_INPUT, end), shared, from)?,
            output: Output::unpack(Output::new(TAG_OUTPUT, None), end, shared, from)?,
            eof_heard,
            eof_sent,
            close_sent,
            bytes_in,
            bytes_out,
            broken,
            ..Forward::with(kind, what, Phase::Open, Some(socket))
        })
    }
}

/// As [`Forward::kind`] has them.
const KINDS: [&str; 7] = [
    "direct-tcpip",
    "direct-streamlocal@openssh.com",
    "forwarded-tcpip",
    "forwarded-streamlocal@openssh.com",
    "agent-connection",
    "x11-connection",
    AGENT_CHANNEL,
];
