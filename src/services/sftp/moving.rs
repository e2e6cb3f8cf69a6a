//! A session that goes on in another process.
//!
//! It stands still at once: what has come and has not been begun travels, and what is under way ends by itself.
//! The client's handles keep their names, files and directories their descriptors and so their places. A session
//! whose files have a quota stays: their sum is kept where it was counted.

use std::os::fd::IntoRawFd;

use super::watch::Watch;
use super::*;
use crate::limits::SFTP_MOVING_BYTES_MAX;
use crate::reactor::Fd;
use crate::services::{Luggage, Unpacking};
use crate::wire::Malformed;

impl Sftp {
    /// It serves, or has not begun to, and what it would leave behind is nothing.
    pub fn may_move(&self) -> bool {
        let plain = matches!(self.state, State::Fresh | State::Serving);
        let root = &self.desk.root;
        let has_directory = self.directory.is_some() == root.is_open();
        let calm = self.is_idle() && self.writes.stand_still() && has_directory;
        plain && !root.accounts() && (!self.halted || calm)
    }

    /// Begins nothing more.
    pub fn halt(&mut self, io: &mut Io<'_>) {
        self.halted = true;
        self.directory = self.desk.root.directory().ok();
        self.advance(io);
    }

    /// Goes on, here or where it has come to.
    pub fn go_on(&mut self, io: &mut Io<'_>) {
        (self.halted, self.directory) = (false, None);
        self.advance(io);
    }

    /// It has halted, and nothing is begun, unless so much has come that it could not travel.
    pub(super) fn stands_still(&self) -> bool {
        self.halted && self.input.held_bytes() <= SFTP_MOVING_BYTES_MAX
    }

    /// What has halted, with nothing in flight. Nothing is left here but to be released.
    pub fn pack(&mut self, out: &mut Luggage, io: &mut Io<'_>) {
        out.boolean(self.state == State::Serving);
        out.boolean(self.input_over);
        out.descriptor(self.directory.take().map(|directory| Fd(directory.into_raw_fd())));
        self.desk.options.pack(out);
        out.string(&self.desk.base);
        self.desk.handles.pack(out);
        self.writes.pack(&self.desk.handles, out);
        let handles = std::mem::take(&mut self.desk.handles);
        let mut watch = self.desk.watch.take();
        out.boolean(watch.is_some());
        if let Some(watch) = &mut watch {
            handles.descriptors().for_each(|fd| watch.pack(fd, out));
        }
        self.desk.replies.pack(out);
        self.reads.pack(out);
        self.pack_waiting(out);
        let (reading, left) = match self.reading {
            Reading::Request => (REQUEST, 0),
            Reading::WriteData { trailing } => (WRITE_DATA, trailing),
            Reading::Skip(left) => (SKIP, left),
        };
        out.byte(reading);
        out.uint32(left);
        self.input.pack(out, io);
        for time in [self.rests_since.map(Instant::nanos), self.turn.map(nanos)] {
            out.boolean(time.is_some());
            out.uint64(time.unwrap_or(0));
        }
        self.state = State::Ended;
    }

    /// As the client sent them, more or less: whoever takes them reads them again.
    fn pack_waiting(&mut self, out: &mut Luggage) {
        out.uint32(self.waiting.len() as u32);
        for waiting in self.waiting.iter() {
            let request = intake::unread(waiting, &self.desk.base, &self.desk.options);
            out.boolean(request.is_some());
            match (request, &waiting.what) {
                (Some(request), _) => out.string(&request),
                (None, What::Status(code)) => {
                    out.uint32(waiting.id);
                    out.uint32(code.number());
                }
                (None, other) => {
                    debug_assert!(false, "it waits: {other:?}");
                    out.uint32(waiting.id);
                    out.uint32(StatusCode::Failure.number());
                }
            }
        }
        self.waiting.clear();
    }

    /// What [`Sftp::pack`] packed of a session of this account, whose paths begin at `root`;
    /// [`Sftp::go_on`] is to be called.
    ///
    /// # Errors
    /// It makes no sense; the descriptors are nobody's.
    pub fn unpack(
        root: Root,
        (home, user): (&Path, &str),
        from: &mut Unpacking<'_>,
    ) -> Result<Sftp, Malformed> {
        let (serving, input_over) = (from.boolean()?, from.boolean()?);
        let directory = from.descriptor()?;
        if directory.is_none() && serving && matches!(root, Root::Unopened(_)) {
            return Err(Malformed::Range);
        }
        let mut sftp = Sftp::new(root, home, user, Options::unpack(from)?);
        (sftp.halted, sftp.input_over) = (true, input_over);
        sftp.state = if serving { State::Serving } else { State::Fresh };
        sftp.unpack_rest(from)?;
        if let Some(directory) = directory {
            sftp.desk.root = sftp.desk.root.opened_on(directory).ok_or(Malformed::Range)?;
        }
        Ok(sftp)
    }

    fn unpack_rest(&mut self, from: &mut Unpacking<'_>) -> Result<(), Malformed> {
        self.desk.base = from.string()?.into();
        self.desk.handles.unpack(from)?;
        self.writes = Writes::unpack(&mut self.desk.handles, from)?;
        if from.boolean()? {
            let mut watch = Box::<Watch>::default();
            for fd in self.desk.handles.descriptors() {
                watch.unpack(fd, from)?;
            }
            self.desk.watch = Some(watch);
        }
        self.desk.replies = Replies::unpack(from)?;
        self.reads = Reads::unpack(from)?;
        self.unpack_waiting(from)?;
        self.reading = match (from.byte()?, from.uint32()?) {
            (REQUEST, 0) => Reading::Request,
            (WRITE_DATA, trailing) => Reading::WriteData { trailing },
            (SKIP, left) => Reading::Skip(left),
            _ => return Err(Malformed::Range),
        };
        self.input = Input::unpack(from)?;
        let mut time = || Ok(Some((from.boolean()?, from.uint64()?)).filter(|time| time.0));
        self.rests_since = time()?.map(|(_, nanos)| Instant::from_nanos(nanos));
        self.turn = time()?.map(|(_, nanos)| Duration::from_nanos(nanos));
        Ok(())
    }

    fn unpack_waiting(&mut self, from: &mut Unpacking<'_>) -> Result<(), Malformed> {
        for _ in 0..from.uint32()? {
            if from.boolean()? {
                let packet = from.string()?;
                let request = Request::parse(packet.get(4..).ok_or(Malformed::Range)?)?;
                let waiting = intake::wait(&request, &self.desk.base, &self.desk.options);
                self.waiting.push(waiting, packet.len());
            } else {
                let (id, code) = (from.uint32()?, StatusCode::from_number(from.uint32()?));
                self.waiting.push(Waiting { id, what: What::Status(code) }, FRONT_BYTES);
            }
        }
        Ok(())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What is read next.
const REQUEST: u8 = 0;
const WRITE_DATA: u8 = 1;
const SKIP: u8 = 2;
