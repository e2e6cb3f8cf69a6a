use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that tell a gateway what to do, as something that can be waited for.
#[derive(Debug)]
pub struct Signals(SignalFd);

/// Those of a gateway.
pub const SIGNALS: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR2];

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    Signal(Signal),
    /// The descriptor of this number in the list has something.
    Ready(usize),
    TimedOut,
}

impl Signals {
    /// To be called before any thread exists, so that all inherit the mask and none is interrupted.
    ///
    /// # Errors
    /// The system refused.
    pub fn catch(signals: &[Signal]) -> io::Result<Signals> {
        let set = signals.iter().copied().collect::<SigSet>();
        set.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Waits for a signal, for one of `others` to be readable, or for the time to be over.
    ///
    /// # Errors
    /// The system refused.
    pub fn wait(&self, others: &[BorrowedFd<'_>], time: Option<Duration>) -> io::Result<Woken> {
        let timeout = match time {
            None => PollTimeout::NONE,
            Some(time) => PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX),
        };
        let mut polled = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        polled.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
        loop {
            match poll(&mut polled, timeout) {
                Ok(0) => return Ok(Woken::TimedOut),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(why) => return Err(why.into()),
            }
            let told = self.0.read_signal()?;
            let signal = told.and_then(|told| Signal::try_from(told.ssi_signo as i32).ok());
            if let Some(signal) = signal {
                return Ok(Woken::Signal(signal));
            }
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            if let Some(n) = polled.iter().skip(1).position(ready) {
                return Ok(Woken::Ready(n));
            }
        }
    }
}

/// For programs of others, between fork and exec or in a process that starts some: what we have blocked
/// would be blocked in them too, and nobody could end them in good order.
///
/// # Errors
/// The system refused.
pub fn unblock() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_wait_ends_with_whatever_comes_first() {
        // This thread's own signal: other tests' threads must not be hit.
        let signals = Signals::catch(&[Signal::SIGURG]).expect("a descriptor");
        let brief = Some(Duration::from_millis(1));
        assert_eq!(signals.wait(&[], brief).expect("a wait"), Woken::TimedOut);
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let (silent, _open) = io::pipe().expect("a pipe");
        writer.write_all(b"x").expect("room");
        let both = [silent.as_fd(), reader.as_fd()];
        assert_eq!(signals.wait(&both, None).expect("a wait"), Woken::Ready(1));
        nix::sys::signal::raise(Signal::SIGURG).expect("a signal");
        assert_eq!(signals.wait(&both, None).expect("a wait"), Woken::Signal(Signal::SIGURG));
    }
}
