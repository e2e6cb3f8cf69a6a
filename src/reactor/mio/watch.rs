use std::io;

use ::mio::event::Event;
use ::mio::unix::SourceFd;
use ::mio::{Interest, Registry};

use super::calls;
use super::flight::Way;
use crate::limits::QUEUE_ENTRIES_FIRST;
use crate::reactor::flights::Id;
use crate::reactor::{DriverStats, Errno, Fd};

/// What is known of descriptors that operations wait for, and the kernel's list of them.
///
/// The kernel tells of changes only (edges), so a descriptor counts as ready until an attempt has
/// found that it is not. It is on the kernel's list only while something waits for it: what nobody
/// asks for wakes nobody, and a number that is closed and used again elsewhere means nothing here.
#[derive(Debug)]
pub(super) struct Watches {
    registry: Registry,
    /// By number.
    list: Vec<Watch>,
    /// Numbers that nothing waited for when last looked at.
    resting: Vec<Fd>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// What the kernel was asked to tell of; neither: it is not on the kernel's list.
    asked: Ways,
    /// What may be ready, of what was asked for.
    maybe: Ways,
    /// The peer has ended its direction, or something is wrong with it: no more edges may come.
    ended: bool,
    /// A short receive has emptied it (see [`calls::is_tcp`]).
    short_is_empty: bool,
    /// It is among `resting`.
    rests: bool,
    /// Head of the chain of operations that wait for it.
    first: Option<Id>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ways {
    into: bool,
    out: bool,
}

impl Watches {
    pub(super) fn new(registry: Registry) -> Watches {
        let resting = Vec::with_capacity(QUEUE_ENTRIES_FIRST);
        Watches { registry, list: Vec::with_capacity(NUMBERS_FIRST), resting }
    }

    /// Whether an attempt in this direction could succeed, as far as is known.
    pub(super) fn is_worth_trying(&self, fd: Fd, way: Way) -> bool {
        self.get(fd).is_none_or(|watch| !watch.asked.has(way) || watch.maybe.has(way))
    }

    /// The kernel has told that this direction is ready, and nobody has found otherwise yet.
    pub(super) fn is_known_ready(&self, fd: Fd, way: Way) -> bool {
        self.get(fd).is_some_and(|watch| watch.asked.has(way) && watch.maybe.has(way))
    }

    /// A receive brought less than there was room for.
    pub(super) fn was_short(&mut self, fd: Fd) {
        if let Some(watch) = self.get_mut(fd)
            && watch.asked.into
            && watch.short_is_empty
            && !watch.ended
        {
            watch.maybe.into = false;
        }
    }

    /// From now on [`Watches::note`] hears when this direction is ready, if it is not yet: at once
    /// when it has become ready since it was tried.
    pub(super) fn ask(
        &mut self,
        fd: Fd,
        way: Way,
        receives: bool,
        stats: &mut DriverStats,
    ) -> Result<(), Errno> {
        let before = self.get(fd).copied().unwrap_or_default();
        if !before.asked.has(way) {
            let mut asked = before.asked;
            asked.set(way, true);
            self.tell_kernel(fd, before.asked, asked, stats)?;
            let at = usize::try_from(fd.0).map_err(|_| Errno(libc::EBADF))?;
            if at >= self.list.len() {
                self.list.resize(at + 1, Watch::default());
            }
            self.list[at].asked = asked;
            if receives {
                self.list[at].short_is_empty = calls::is_tcp(fd, stats);
            }
        }
        if let Some(watch) = self.get_mut(fd) {
            watch.maybe.set(way, false);
        }
        Ok(())
    }

    pub(super) fn first(&self, fd: Fd) -> Option<Id> {
        self.get(fd).and_then(|watch| watch.first)
    }

    /// `None`: nothing waits any more.
    pub(super) fn set_first(&mut self, fd: Fd, first: Option<Id>) {
        let Some(watch) = self.get_mut(fd) else { return };
        watch.first = first;
        if first.is_none() && watch.asked != Ways::default() && !watch.rests {
            watch.rests = true;
            self.resting.push(fd);
        }
    }

    /// Takes in what the kernel says of a descriptor.
    pub(super) fn note(&mut self, fd: Fd, event: &Event) {
        let Some(watch) = self.get_mut(fd) else { return };
        let (read_over, wrong) = (event.is_read_closed(), event.is_error());
        watch.maybe.into |= event.is_readable() || read_over || wrong;
        watch.maybe.out |= event.is_writable() || event.is_write_closed() || wrong;
        watch.ended |= read_over || wrong;
        // A receive stops in front of urgent data, and is short though there is more behind them.
        watch.short_is_empty &= !event.is_priority();
    }

    /// Takes descriptors that nothing waits for off the kernel's list. Called after everything that
    /// was submitted has been tried, so a stream that is read again and again stays on it.
    pub(super) fn release_resting(&mut self, stats: &mut DriverStats) {
        while let Some(fd) = self.resting.pop() {
            if let Some(watch) = self.get_mut(fd) {
                watch.rests = false;
                if watch.first.is_none() {
                    self.release(fd, stats);
                }
            }
        }
    }

    /// Takes one descriptor off the kernel's list now: it is about to be closed, or to be somebody
    /// else's, who could close it without our hearing of it.
    pub(super) fn release(&mut self, fd: Fd, stats: &mut DriverStats) {
        let Some(watch) = self.get_mut(fd) else { return };
        let asked = std::mem::take(&mut watch.asked);
        (watch.maybe, watch.ended, watch.short_is_empty) = (Ways::default(), false, false);
        if asked != Ways::default() {
            stats.submissions += 1;
            // Fails on one that is closed already, which is what was wanted.
            let _ = self.registry.deregister(&mut SourceFd(&fd.0));
        }
    }

    fn tell_kernel(
        &self,
        fd: Fd,
        before: Ways,
        asked: Ways,
        stats: &mut DriverStats,
    ) -> Result<(), Errno> {
        let Some(interest) = asked.interest() else { return Ok(()) };
        let (fd, token) = (fd.0, ::mio::Token(fd.0 as usize));
        let mut source = SourceFd(&fd);
        stats.submissions += 1;
        let told = match before == Ways::default() {
            true => self.registry.register(&mut source, token, interest),
            false => self.registry.reregister(&mut source, token, interest),
        };
        told.map_err(|why: io::Error| Errno(why.raw_os_error().unwrap_or(libc::EIO)))
    }

    fn get(&self, fd: Fd) -> Option<&Watch> {
        self.list.get(usize::try_from(fd.0).ok()?)
    }

    fn get_mut(&mut self, fd: Fd) -> Option<&mut Watch> {
        self.list.get_mut(usize::try_from(fd.0).ok()?)
    }
}

impl Ways {
    const fn has(self, way: Way) -> bool {
        match way {
            Way::In => self.into,
            Way::Out => self.out,
        }
    }

    const fn set(&mut self, way: Way, on: bool) {
        match way {
            Way::In => self.into = on,
            Way::Out => self.out = on,
        }
    }

    const fn interest(self) -> Option<Interest> {
        match (self.into, self.out) {
            (true, true) => Some(IN.add(Interest::WRITABLE)),
            (true, false) => Some(IN),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }
}

/// Descriptor numbers that there is room for from the start: some 40 KiB, touched as they are used.
const NUMBERS_FIRST: usize = 1024;
/// Urgent data are asked for only to know of them.
const IN: Interest = Interest::READABLE.add(Interest::PRIORITY);
