use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Fd;

/// Ends the sleep of the driver it came from, from any thread.
///
/// A wake-up is never lost: one that comes while the driver is awake makes its next `wait` return
/// at once. However many come, at most one system call is made until the driver has slept again.
#[derive(Clone, Debug)]
pub struct Waker {
    bell: Arc<Bell>,
}

impl Waker {
    pub fn wake(&self) {
        if self.bell.state.swap(RUNG, Ordering::AcqRel) == ASLEEP
            && let Some(eventfd) = &self.bell.eventfd
        {
            // It cannot fail: the counter would have to reach 2^64 - 1.
            let _ = eventfd.write(1);
        }
    }
}

/// The driver's side of its wakers.
#[derive(Debug)]
pub(super) struct Sleeper {
    bell: Arc<Bell>,
}

impl Sleeper {
    /// For a driver that sleeps in the kernel and watches [`Sleeper::fd`].
    pub(super) fn new() -> io::Result<Sleeper> {
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        Ok(Sleeper { bell: Arc::new(Bell { state: AtomicU8::new(AWAKE), eventfd: Some(eventfd) }) })
    }

    /// For a driver that never sleeps.
    #[cfg(feature = "sim")]
    pub(super) fn without_kernel() -> Sleeper {
        Sleeper { bell: Arc::new(Bell { state: AtomicU8::new(AWAKE), eventfd: None }) }
    }

    /// Whether a waker has rung since the last [`Sleeper::wake_up`].
    #[cfg(feature = "sim")]
    pub(super) fn is_rung(&self) -> bool {
        self.bell.state.load(Ordering::Acquire) == RUNG
    }

    pub(super) fn waker(&self) -> Waker {
        Waker { bell: self.bell.clone() }
    }

    /// Becomes readable when a waker rings while the driver sleeps.
    pub(super) fn fd(&self) -> Option<Fd> {
        self.bell.eventfd.as_ref().map(|eventfd| Fd(eventfd.as_fd().as_raw_fd()))
    }

    /// Whether the driver may sleep; not when a waker has rung since the last [`Sleeper::wake_up`].
    pub(super) fn fall_asleep(&self) -> bool {
        self.bell.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Must precede the owner's look at whatever wakers point to. Answers whether one has rung.
    pub(super) fn wake_up(&self) -> bool {
        self.bell.state.swap(AWAKE, Ordering::AcqRel) == RUNG
    }
}

#[derive(Debug)]
struct Bell {
    state: AtomicU8,
    eventfd: Option<EventFd>,
}

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const RUNG: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ringing_writes_only_to_a_sleeper_and_only_once() {
        let sleeper = Sleeper::new().unwrap();
        let waker = sleeper.waker();
        waker.wake();
        waker.wake();
        assert!(!sleeper.fall_asleep(), "rung while awake");
        assert!(sleeper.wake_up());
        assert!(!sleeper.wake_up());
        assert!(sleeper.fall_asleep());
        for _ in 0..100 {
            waker.clone().wake();
        }
        assert!(sleeper.wake_up());
        let mut count = [0; 8];
        let eventfd = sleeper.bell.eventfd.as_ref().unwrap();
        assert_eq!(nix::unistd::read(eventfd, &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
