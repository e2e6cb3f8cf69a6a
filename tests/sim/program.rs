//! A channel at a host, and what runs behind it.

use tidegate::base::SeededEntropy;
use tidegate::reactor::sim::SimWorld;
use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelExtendedData, ChannelNumber, ChannelOpen,
    ChannelOpenConfirmation, EXTENDED_STDERR,
};
use tidegate::wire::request::{ChannelRequest, RequestBody};
use tidegate::wire::{Message, Writer};

use crate::bytes::Flow;
use crate::calls::{Caller, Saying};
use crate::chance::one_in;
use crate::errand::{Habit, SessionPlan};
use crate::shelf::{Shelf, ShelfLie};

#[derive(Debug)]
pub enum Work {
    None,
    Program(Box<Program>),
    Files(Box<Shelf>),
    /// Nothing of a session: the channel is one that the host has opened.
    Caller(Box<Caller>),
}

/// A command that was started.
#[derive(Debug)]
pub struct Program {
    habit: Habit,
    code: u32,
    input: Flow,
    output: Flow,
    errors: Flow,
    /// Read, and to be said again.
    echo: Vec<u8>,
}

impl Program {
    pub fn new(plan: &SessionPlan) -> Program {
        let (input, output, errors) = plan.flows();
        Program { habit: plan.habit, code: plan.code, input, output, errors, echo: Vec::new() }
    }
}

#[derive(Debug)]
pub struct Channel {
    /// The client's name for it.
    pub theirs: ChannelNumber,
    /// The largest packet that the client takes.
    pub packet: u32,
    /// What may be sent to the client.
    credit: u32,
    /// What the client may send, and what of it was used and not granted again.
    granted: u32,
    owed: u32,
    window: u32,
    packet_max: u32,
    work: Work,
    eof_in: bool,
    eof_out: bool,
    status_out: bool,
    close_in: bool,
    close_out: bool,
    /// The client reads no more.
    deaf: bool,
    pub is_overrun: bool,
}

impl Channel {
    pub fn new(open: &ChannelOpen<'_>, window: u32, packet_max: u32) -> Channel {
        Channel {
            theirs: open.sender,
            packet: open.packet_bytes_max,
            credit: open.window_bytes,
            granted: window,
            owed: 0,
            window,
            packet_max,
            work: Work::None,
            eof_in: false,
            eof_out: false,
            status_out: false,
            close_in: false,
            close_out: false,
            deaf: false,
            is_overrun: false,
        }
    }

    /// One that the client is asked for; nothing is sent on it before it is [`Channel::confirmed`].
    pub const fn calling(caller: Box<Caller>, window: u32, packet_max: u32) -> Channel {
        Channel {
            theirs: ChannelNumber(0),
            packet: 0,
            credit: 0,
            granted: window,
            owed: 0,
            window,
            packet_max,
            work: Work::Caller(caller),
            eof_in: false,
            eof_out: false,
            status_out: false,
            close_in: false,
            close_out: false,
            deaf: false,
            is_overrun: false,
        }
    }

    pub fn confirmed(&mut self, open: &ChannelOpenConfirmation<'_>) {
        assert!(self.packet == 0 && matches!(self.work, Work::Caller(_)), "confirmed unasked");
        (self.theirs, self.packet) = (open.sender, open.packet_bytes_max);
        self.credit = open.window_bytes;
    }

    pub const fn caller(&self) -> Option<&Caller> {
        match &self.work {
            Work::Caller(caller) => Some(caller),
            _ => None,
        }
    }

    pub fn start(&mut self, work: Work) {
        assert!(matches!(self.work, Work::None), "a session starts one thing");
        self.work = work;
    }

    // ---- What the client says -----------------------------------------------------------------

    pub fn data(&mut self, data: &[u8]) {
        let len = data.len() as u32;
        assert!(!self.eof_in && !self.close_in, "data behind its end");
        assert!(len <= self.packet_max, "a packet of {len}, and {} is the most", self.packet_max);
        assert!(len <= self.granted, "{len} bytes, and {} were granted", self.granted);
        self.granted -= len;
        self.owed += len;
        match &mut self.work {
            Work::None => panic!("data before anything runs"),
            Work::Program(program) => {
                program.input.check(data, "our input");
                if program.habit == Habit::Echo {
                    program.echo.extend_from_slice(data);
                }
            }
            Work::Files(shelf) => shelf.data(data),
            Work::Caller(caller) => caller.data(data),
        }
    }

    pub fn adjusted(&mut self, bytes: u32) {
        assert!(!self.close_in, "a grant behind the end");
        self.credit = self.credit.checked_add(bytes).expect("no more window than there can be");
    }

    pub fn ended(&mut self) {
        assert!(!self.eof_in && !self.close_in, "an end twice");
        self.eof_in = true;
        if let Work::Caller(caller) = &mut self.work {
            caller.ended();
        }
    }

    /// True: we have not closed it yet, and have to.
    pub fn closed(&mut self, world: &SimWorld) -> bool {
        assert!(!self.close_in, "closed twice");
        self.close_in = true;
        if let Work::Caller(caller) = &mut self.work {
            caller.closed(world.now());
        }
        !std::mem::replace(&mut self.close_out, true)
    }

    pub const fn is_deaf(&mut self) {
        self.deaf = true;
    }

    // ---- What we say --------------------------------------------------------------------------

    /// Window that is to be granted again.
    pub fn grant(&mut self, at_once: bool) -> Option<u32> {
        let due = self.owed > 0 && (at_once || self.granted < self.window / 2);
        if !due || self.close_in || self.close_out {
            return None;
        }
        let bytes = std::mem::take(&mut self.owed);
        self.granted += bytes;
        Some(bytes)
    }

    /// A program runs that has not ended, on a channel that is open both ways.
    pub const fn runs(&self) -> bool {
        matches!(self.work, Work::Program(_)) && !self.eof_out && !self.close_in && !self.close_out
    }

    pub fn misread(&mut self, lie: ShelfLie) -> bool {
        match &mut self.work {
            Work::Files(shelf) if !self.close_in && !self.close_out => shelf.lie(lie),
            _ => false,
        }
    }

    pub fn overruns(&mut self) -> bool {
        let Work::Program(program) = &self.work else { return false };
        self.is_overrun = program.habit == Habit::Leave && program.output.left() > 500_000;
        self.is_overrun
    }

    /// The next message that may be sent.
    pub fn next(
        &mut self,
        piece: u32,
        chance: &mut SeededEntropy,
        world: &SimWorld,
    ) -> Option<Vec<u8>> {
        if self.close_in || self.close_out || self.is_overrun {
            return None;
        }
        let room = self.credit.min(self.packet).min(piece);
        let recipient = self.theirs;
        let (deaf, eof_in) = (self.deaf, self.eof_in);
        match &mut self.work {
            Work::None => None,
            Work::Files(shelf) => {
                let data = shelf.take(room as usize);
                if data.is_empty() {
                    return None;
                }
                self.credit -= data.len() as u32;
                Some(encode(&ChannelData { recipient, data: &data }))
            }
            // It is not open yet.
            Work::Caller(_) if self.packet == 0 => None,
            Work::Caller(caller) => match caller.say(room as usize, world)? {
                Saying::Data(data) => {
                    self.credit -= data.len() as u32;
                    Some(encode(&ChannelData { recipient, data: &data }))
                }
                Saying::End => {
                    self.eof_out = true;
                    Some(encode(&ChannelEof { recipient }))
                }
                Saying::Close => {
                    self.close_out = true;
                    Some(encode(&ChannelClose { recipient }))
                }
            },
            Work::Program(program) => {
                let mute = program.output.left() == 0;
                let errs = room > 0 && !deaf && program.errors.left() > 0;
                if errs && (mute || one_in(chance, 2)) {
                    let data = program.errors.peek(u64::from(room));
                    program.errors.advance(data.len());
                    self.credit -= data.len() as u32;
                    let data_type = EXTENDED_STDERR;
                    return Some(encode(&ChannelExtendedData {
                        recipient,
                        data_type,
                        data: &data,
                    }));
                }
                let data = program.take(room as usize, deaf);
                if !data.is_empty() {
                    self.credit -= data.len() as u32;
                    return Some(encode(&ChannelData { recipient, data: &data }));
                }
                if !program.is_done(eof_in, deaf) {
                    return None;
                }
                let code = program.code;
                Some(self.farewell(code))
            }
        }
    }

    /// The next output, whatever the window.
    pub fn without_window(&mut self, piece: u32) -> Option<Vec<u8>> {
        let Work::Program(program) = &mut self.work else { return None };
        let data = program.take(piece.min(self.packet) as usize, false);
        let recipient = self.theirs;
        (!data.is_empty()).then(|| encode(&ChannelData { recipient, data: &data }))
    }

    /// EOF, the status, CLOSE: one each call.
    fn farewell(&mut self, code: u32) -> Vec<u8> {
        let recipient = self.theirs;
        if !std::mem::replace(&mut self.eof_out, true) {
            return encode(&ChannelEof { recipient });
        }
        if !std::mem::replace(&mut self.status_out, true) {
            let body = RequestBody::ExitStatus { code };
            return encode(&ChannelRequest { recipient, want_reply: false, body });
        }
        self.close_out = true;
        encode(&ChannelClose { recipient })
    }
}

impl Program {
    fn take(&mut self, room: usize, deaf: bool) -> Vec<u8> {
        if deaf {
            self.echo.clear();
            return Vec::new();
        }
        if self.habit == Habit::Echo {
            let len = room.min(self.echo.len());
            return self.echo.drain(..len).collect();
        }
        let data = self.output.peek(room as u64);
        self.output.advance(data.len());
        data
    }

    fn is_done(&self, eof_in: bool, deaf: bool) -> bool {
        let said = match self.habit {
            Habit::Echo => self.echo.is_empty() && eof_in,
            Habit::Talk => self.output.left() == 0 && eof_in,
            Habit::Leave => self.output.left() == 0,
        };
        let heard = self.habit == Habit::Leave || self.input.left() == 0;
        assert!(!eof_in || heard, "the end of our input came before all of it");
        (said && self.errors.left() == 0) || (deaf && (eof_in || self.habit == Habit::Leave))
    }
}

pub fn encode<'m, M: Message<'m>>(message: &M) -> Vec<u8> {
    let mut space = vec![0; 300 << 10];
    let mut out = Writer::new(&mut space);
    message.write(&mut out).expect("room");
    let len = out.len();
    space.truncate(len);
    space
}
