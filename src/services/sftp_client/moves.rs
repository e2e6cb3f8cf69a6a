use std::cell::Cell;
use std::rc::Rc;

use nix::errno::Errno;
use slab::Slab;

use super::answer::{Behind, Moved, Stretch, Way};
use super::window::Ranges;
use crate::reactor::Fd;
use crate::wire::sftp::StatusCode;

/// A stretch of a file under way. It owns its descriptor.
#[derive(Debug)]
pub struct Move {
    pub ticket: u32,
    pub way: Way,
    pub handle: Box<[u8]>,
    pub fd: Fd,
    pub stretch: Stretch,
    /// Within the stretch.
    pub ranges: Ranges,
    /// Requests without an answer, and reads of our file.
    pub requests: u32,
    /// Writes to our file.
    pub writes: u32,
    /// Where the file that is read has ended.
    pub ended_at: Option<u64>,
    /// Where bytes are counted that are moved for good: written here, or confirmed by the server.
    pub moved: Rc<Cell<u64>>,
    pub failed: Option<Moved>,
    /// What is to be asked behind the last WRITE.
    pub behind: Behind,
}

impl Move {
    /// Nothing more is begun; what is under way is waited for.
    pub fn fail(&mut self, why: Moved) {
        self.failed.get_or_insert(why);
        self.ranges.end_at(0);
    }

    pub fn count(&self, bytes: u32) {
        self.moved.set(self.moved.get() + u64::from(bytes));
    }

    pub fn fail_here(&mut self, errno: Errno) {
        self.fail(Moved::Here(errno));
    }

    pub fn end_at(&mut self, at: u64) {
        self.ended_at = Some(self.ended_at.map_or(at, |before| before.min(at)));
        self.ranges.end_at(at);
    }

    pub fn refused(&mut self, code: StatusCode, text: &[u8]) {
        self.fail(Moved::There { code, text: text.into() });
    }

    /// Everything that was begun is over, but for what waits to be written here.
    pub fn is_quiet(&self) -> bool {
        self.ranges.is_spent() && self.requests == 0
    }

    pub fn outcome(&self) -> Moved {
        match (&self.failed, self.ended_at) {
            (Some(failed), _) => failed.clone(),
            (None, Some(at)) => Moved::Short(at),
            (None, None) => Moved::Whole,
        }
    }
}

/// The moves of one session, and their turn.
#[derive(Debug, Default)]
pub struct Moves {
    pub all: Slab<Move>,
    turn: usize,
}

impl Moves {
    /// The next piece to be begun of those that go this way: the move, its place, its length.
    pub fn take(&mut self, way: Way, most: u32) -> Option<(usize, u64, u32)> {
        let turn = self.turn;
        let ready = |(key, one): &(usize, &mut Move)| {
            one.way == way && !one.ranges.is_spent() && *key >= turn
        };
        let key = match self.all.iter_mut().find(ready) {
            Some((key, _)) => key,
            None => self.all.iter().find(|(_, one)| one.way == way && !one.ranges.is_spent())?.0,
        };
        self.turn = key + 1;
        let (at, len) = self.all.get_mut(key)?.ranges.take(most)?;
        Some((key, at, len))
    }
}
