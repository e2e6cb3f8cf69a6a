use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, squeue};

use crate::limits::LINGER_COMPLETIONS;
use crate::reactor::DriverStats;

/// How long an entry to the kernel may sleep for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    None,
    For(Duration),
    /// So long unless several come.
    Linger(Duration),
    Forever,
}

/// The queues shared with the kernel.
pub(super) struct Ring {
    uring: IoUring,
    flags: EnterFlags,
}

impl Ring {
    pub(super) fn new(uring: IoUring, no_iowait: bool) -> Ring {
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if no_iowait {
            flags |= EnterFlags::NO_IOWAIT;
        }
        Ring { uring, flags }
    }

    pub(super) fn has_room(&mut self) -> bool {
        !self.uring.submission().is_full()
    }

    /// Whether the kernel has consumed every submission entry.
    pub(super) fn is_submitted(&mut self) -> bool {
        self.uring.submission().is_empty()
    }

    /// # Safety
    /// What the entry points to stays valid until its completion, lists until it is consumed.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: passed on to the caller.
        let pushed = unsafe { self.uring.submission().push(entry) };
        assert!(pushed.is_ok(), "the caller has seen room");
    }

    /// Submits what is queued and sleeps for the first completion. Ends early on a signal. With
    /// nothing to submit, nothing to collect and no time to sleep it stays out of the kernel.
    pub(super) fn enter(&mut self, pause: Pause, stats: &mut DriverStats) -> io::Result<()> {
        let queue = self.uring.submission();
        let queued = queue.len() as u32;
        let (overflow, task_work) = (queue.cq_overflow(), queue.taskrun());
        drop(queue);
        stats.overflows += u64::from(overflow);
        let deferred = self.uring.params().is_setup_single_issuer();
        if pause == Pause::None && queued == 0 && !overflow && !task_work && deferred {
            return Ok(());
        }
        let time = match pause {
            Pause::For(time) | Pause::Linger(time) => Timespec::from(time),
            _ => Timespec::new(),
        };
        let args = SubmitArgs::new();
        let timed = matches!(pause, Pause::For(_) | Pause::Linger(_));
        let args = if timed { args.timespec(&time) } else { args };
        let least = match pause {
            Pause::None => 0,
            Pause::For(_) | Pause::Forever => 1,
            Pause::Linger(_) => LINGER_COMPLETIONS,
        };
        stats.enters += 1;
        // SAFETY: `args` and `time` live until the call returns; the flags say that they are given.
        let entered =
            unsafe { self.uring.submitter().enter(queued, least, self.flags.bits(), Some(&args)) };
        match entered {
            Ok(submitted) => {
                stats.submissions += submitted as u64;
                Ok(())
            }
            Err(error) => self.forgive(error),
        }
    }

    /// Passes every completion to `each`.
    pub(super) fn drain(&mut self, each: impl FnMut(cqueue::Entry)) {
        self.uring.completion().for_each(each);
    }

    fn forgive(&mut self, error: io::Error) -> io::Result<()> {
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            // The completion queue is full or memory is short: collecting helps.
            Some(libc::EBUSY | libc::EAGAIN) if !self.uring.completion().is_empty() => Ok(()),
            Some(libc::EBUSY | libc::EAGAIN) => {
                std::thread::sleep(SHORT_OF_MEMORY_PAUSE);
                Ok(())
            }
            _ => Err(error),
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("params", self.uring.params()).finish_non_exhaustive()
    }
}

/// Kernel memory for requests comes back without our doing; asking again at once would spin.
const SHORT_OF_MEMORY_PAUSE: Duration = Duration::from_millis(1);
