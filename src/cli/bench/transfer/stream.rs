//! A command's standard input and output with nothing behind them here.

use std::rc::Rc;

use super::out::Out;
use super::runner::Moved;
use crate::reactor::Chunk;
use crate::services::forward::Note;
use crate::services::{Guest, Io, Service};

/// Waits for a byte that says that the command runs, which it tells; then sends or takes so many. Nothing
/// of what comes is kept.
#[derive(Debug)]
pub struct Stream {
    out: Out,
    begun: bool,
    greeted: bool,
    /// The end of what is sent is to be sent, and has not been.
    ends: bool,
    /// Bytes that are still to come before it is done; it tells of the last.
    awaited: u64,
    moved: Rc<Moved>,
}

impl Stream {
    /// Sends so many bytes, and their end.
    pub fn sending(bytes: u64, moved: Rc<Moved>) -> Stream {
        let mut out = Out::default();
        out.push(Vec::new(), bytes);
        Stream { out, begun: false, greeted: false, ends: true, awaited: 0, moved }
    }

    /// Sends a line, and takes so many bytes.
    pub fn taking(bytes: u64, moved: Rc<Moved>) -> Stream {
        let mut out = Out::default();
        out.push(b"\n".to_vec(), 0);
        Stream { out, begun: false, greeted: false, ends: false, awaited: bytes, moved }
    }

    fn pump(&mut self, io: &mut Io<'_>) {
        if !self.begun {
            return;
        }
        let sent = self.out.pump(io);
        self.moved.carried(sent);
        if self.ends {
            self.moved.done(sent);
        }
        if self.ends && self.out.is_empty() {
            self.ends = false;
            io.eof();
        }
    }
}

impl Guest for Stream {
    fn begin(&mut self, io: &mut Io<'_>) {
        self.begun = true;
        self.pump(io);
    }
}

impl Service for Stream {
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        let bytes = u64::from(data.span.len);
        io.discard(data);
        self.moved.carried(bytes);
        if extended.is_some() || bytes == 0 {
            return;
        }
        if !std::mem::replace(&mut self.greeted, true) {
            io.note(Note::Reached);
        } else if self.awaited > 0 {
            self.awaited = self.awaited.saturating_sub(bytes);
            self.moved.done(bytes);
            match self.awaited {
                0 => io.note(Note::Reached),
                more => io.awaits(u32::try_from(more).unwrap_or(u32::MAX)),
            }
        }
    }

    fn on_eof(&mut self, _io: &mut Io<'_>) {}

    fn on_ready(&mut self, io: &mut Io<'_>) {
        self.pump(io);
    }

    fn on_close(&mut self, _io: &mut Io<'_>) {}

    fn release(&mut self, _io: &mut Io<'_>) {}
}
