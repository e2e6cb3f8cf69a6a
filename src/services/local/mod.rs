//! The near end of a session that we asked a server for: our standard streams behind its channel.

mod escapes;

pub use escapes::{Escape, Escapes};

use super::forward::Note;
use super::stream::{End, Input, Output};
use super::{Io, Service};
use crate::base::Span;
use crate::limits::SMALL_BYTES;
use crate::reactor::{Chunk, Errno, Fd, Op, Target};

const TAG_OUT: u16 = 0;
const TAG_ERRORS: u16 = 1;
const TAG_IN: u16 = 2;

/// RFC 4254 §5.2: SSH_EXTENDED_DATA_STDERR.
const STDERR: u32 = 1;

/// Descriptors that become the session's, each non-blocking where reading or writing it could wait.
/// They are closed when they are done with.
#[derive(Debug, Default)]
pub struct Stdio {
    pub input: Option<Fd>,
    pub output: Option<Fd>,
    pub errors: Option<Fd>,
}

/// Our standard streams and a session's channel.
///
/// What the channel brings is written even when it is closed already, however long that takes:
/// whoever reads our output decides when he has had enough.
#[derive(Debug)]
pub struct Local {
    out: Input,
    errors: Input,
    source: Source,
    /// The session runs: what we have to send may go.
    begun: bool,
    eof_sent: bool,
    told_deaf: bool,
    gone: bool,
}

/// Where what we send comes from.
#[derive(Debug)]
enum Source {
    Stream(Output),
    Keyboard(Keyboard),
}

/// A person's keyboard: little comes, and some of it is meant for us.
#[derive(Debug)]
struct Keyboard {
    fd: Option<Fd>,
    escapes: Escapes,
    /// Typed, and not sent yet.
    pending: Vec<u8>,
    reading: bool,
}

impl Local {
    /// `escapes`: what is typed is looked through for commands to us.
    pub fn new(stdio: &Stdio, escapes: Option<Escapes>) -> Local {
        let open = |tag, fd: Option<Fd>| {
            let mut stream = Input::new(tag);
            if let Some(fd) = fd {
                stream.open(fd, End::Pipe);
            }
            stream
        };
        let source = match escapes {
            Some(escapes) => Source::Keyboard(Keyboard {
                fd: stdio.input,
                escapes,
                pending: Vec::new(),
                reading: false,
            }),
            None => {
                let mut stream = Output::new(TAG_IN, None);
                if let Some(fd) = stdio.input {
                    stream.open(fd, End::Pipe);
                }
                Source::Stream(stream)
            }
        };
        Local {
            out: open(TAG_OUT, stdio.output),
            errors: open(TAG_ERRORS, stdio.errors),
            source,
            begun: false,
            eof_sent: false,
            told_deaf: false,
            gone: false,
        }
    }

    /// The channel is gone, and what it brought has not all been written.
    pub fn lingers(&self) -> bool {
        self.gone && (self.out.is_busy() || self.errors.is_busy())
    }

    /// Reads what is there to be sent, from now on.
    pub fn begin(&mut self, io: &mut Io<'_>) {
        self.begun = true;
        self.pump(io);
    }

    fn pump(&mut self, io: &mut Io<'_>) {
        if self.gone || self.eof_sent || !self.begun {
            return;
        }
        let done = match &mut self.source {
            Source::Stream(stream) => {
                stream.pump(io);
                stream.is_done()
            }
            Source::Keyboard(keyboard) => keyboard.pump(io),
        };
        if done {
            self.eof_sent = true;
            io.eof();
        }
    }

    /// Nobody reads our output any more: the server may stop to send.
    fn tell_if_deaf(&mut self, io: &mut Io<'_>) {
        if self.out.is_done() && !self.gone && !std::mem::replace(&mut self.told_deaf, true) {
            io.note(Note::Deaf);
        }
    }

    fn read(&mut self, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        match &mut self.source {
            Source::Stream(stream) if self.gone => stream.abandoned(op, io),
            Source::Stream(stream) => stream.completed(op, result, None, io),
            Source::Keyboard(keyboard) => keyboard.read(op, result, io),
        }
        self.pump(io);
    }
}

impl Keyboard {
    /// Sends what was typed and waits for more. True: nothing more will come.
    fn pump(&mut self, io: &mut Io<'_>) -> bool {
        while !self.pending.is_empty() {
            let room = io.credit().min(io.packet_max()).min(SMALL_BYTES) as usize;
            let part = self.pending.get(..room.min(self.pending.len())).unwrap_or_default();
            if part.is_empty() || !io.reply(part) {
                return false;
            }
            let sent = part.len();
            self.pending.drain(..sent);
        }
        let Some(fd) = self.fd else { return !self.reading };
        if !self.reading {
            self.reading = true;
            io.submit(TAG_IN, Op::Read { fd, into: Target::Shared });
        }
        false
    }

    fn read(&mut self, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        self.reading = false;
        if let Op::Read { into: Target::Owned { mut lease, mut spans }, .. } = op {
            let at = spans.pop().map_or(0, |span| span.at);
            let span = Span::new(at, result.unwrap_or(0));
            let typed = span.of(io.bytes(&mut lease)).unwrap_or_default();
            let commands = self.escapes.filter(typed, &mut self.pending);
            commands.into_iter().for_each(|escape| io.note(Note::Typed(escape)));
            io.give_back(lease);
        }
        let passing = |errno: Errno| {
            matches!(errno.0, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
        };
        let over = match result {
            Ok(bytes) => bytes == 0,
            Err(errno) => !passing(errno),
        };
        if let Some(fd) = self.fd.take_if(|_| over) {
            io.close_fd(fd);
        }
    }
}

impl Service for Local {
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        match extended {
            None => self.out.data(data, io),
            Some(STDERR) => self.errors.data(data, io),
            Some(_) => io.discard(data),
        }
    }

    fn on_eof(&mut self, io: &mut Io<'_>) {
        self.out.end(io);
        self.errors.end(io);
        // It was not broken.
        self.told_deaf = true;
    }

    fn on_completion(&mut self, tag: u16, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        let stream = if tag == TAG_OUT { &mut self.out } else { &mut self.errors };
        match (tag, op) {
            (TAG_IN, op) => self.read(op, result, io),
            (_, Op::Write { from, .. }) => {
                stream.written(from, result, None, false, io);
                self.tell_if_deaf(io);
            }
            (_, Op::Writable { .. }) => stream.may_write(false, io),
            _ => {}
        }
    }

    fn on_ready(&mut self, io: &mut Io<'_>) {
        self.out.resume(io);
        self.errors.resume(io);
        self.tell_if_deaf(io);
        self.pump(io);
    }

    fn on_turn_over(&mut self, io: &mut Io<'_>) {
        self.out.resume(io);
        self.errors.resume(io);
        self.tell_if_deaf(io);
    }

    fn yield_memory(&mut self, io: &mut Io<'_>) {
        self.out.yield_memory(io);
        self.errors.yield_memory(io);
    }

    fn on_close(&mut self, io: &mut Io<'_>) {
        self.gone = true;
        match &self.source {
            Source::Stream(stream) => stream.cancel(io),
            Source::Keyboard(Keyboard { reading: true, .. }) => io.cancel(TAG_IN),
            Source::Keyboard(_) => {}
        }
        self.out.write_out(io);
        self.errors.write_out(io);
    }

    fn release(&mut self, io: &mut Io<'_>) {
        self.out.abandon(io);
        self.errors.abandon(io);
        let source = match &mut self.source {
            Source::Stream(stream) => stream.take_fd(),
            Source::Keyboard(keyboard) => keyboard.fd.take(),
        };
        let streams = [self.out.take_fd(), self.errors.take_fd(), source];
        streams.into_iter().flatten().for_each(|fd| io.close_fd(fd));
    }
}
