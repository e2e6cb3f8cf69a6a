//! The process that was started, in front of the one that serves. Its number is the one that others
//! know (PidFile, a service manager), and it can end before the last session does, as the listening
//! process of sshd can.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, setsid};
use tracing::{error, info};

use super::daemon::Herald;
use super::signals::{SIGNALS, Signals, Woken};
use super::systemd::Notifier;
use crate::limits::RELEASE_TIME;

// What the serving process says, a byte each.
const READY: u8 = b'+';
const RELOADING: u8 = b'~';
const RELEASED: u8 = b'-';
/// Behind it comes why it does not serve, to the end.
const FAILED: u8 = b'!';
/// Behind it comes the number of the process that serves from now on, in four bytes.
const MOVED: u8 = b'>';

/// Which of the two processes this is after [`split`].
pub enum Side {
    Front(Front),
    Serving(Line),
}

/// Goes on in two processes. To be called before any thread exists.
///
/// # Errors
/// The system refused.
pub fn split() -> io::Result<Side> {
    let (front, line) = UnixStream::pair()?;
    let number = getpid();
    // SAFETY: there are no other threads whose locks the child could find taken.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Side::Front(Front { child, line: front })),
        ForkResult::Child => {
            // What a terminal does to the one in front is not done to sessions.
            let _ = setsid();
            Ok(Side::Serving(Line { line, front: number.as_raw().cast_unsigned() }))
        }
    }
}

/// How the process in front ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// This signal came, and no new connection is taken.
    Signal(Signal),
    /// The serving process has ended, with this status.
    Status(u8),
}

/// The process in front.
pub struct Front {
    child: Pid,
    line: UnixStream,
}

impl Front {
    /// Passes on what is said, until a signal ends it or the serving process has ended. The latter
    /// gives its port up before a signal's end is reported, and keeps the connections it has.
    ///
    /// # Errors
    /// The system refused to wait.
    pub fn stand(mut self, mut herald: Option<Herald>) -> io::Result<Left> {
        let signals = Signals::catch(&[&SIGNALS[..], &[Signal::SIGCHLD]].concat())?;
        let notifier = Notifier::from_environment();
        let mut moved = herald.is_some().then(process::id);
        loop {
            match signals.wait(&[self.line.as_fd()], None)? {
                Woken::Signal(signal @ (Signal::SIGHUP | Signal::SIGUSR2)) => {
                    let _ = kill(self.child, signal);
                }
                Woken::Signal(Signal::SIGCHLD) => self.reap(),
                Woken::Signal(signal) => {
                    info!("Received signal {}; terminating.", signal as i32);
                    notifier.stopping();
                    self.release(&signals)?;
                    return Ok(Left::Signal(signal));
                }
                Woken::Ready(_) => match self.hear()? {
                    Some(READY) => {
                        notifier.ready(moved.take());
                        herald.take().into_iter().for_each(Herald::serving);
                    }
                    Some(RELOADING) => notifier.reloading(),
                    Some(MOVED) => {
                        let mut pid = [0; 4];
                        self.line.read_exact(&mut pid)?;
                        self.child = Pid::from_raw(i32::from_be_bytes(pid));
                    }
                    Some(FAILED) => {
                        let mut why = Vec::new();
                        self.line.read_to_end(&mut why)?;
                        let why = String::from_utf8_lossy(&why);
                        herald.take().into_iter().for_each(|herald| herald.failed(&why));
                    }
                    Some(_) => {}
                    None => return Ok(Left::Status(self.status()?)),
                },
                Woken::TimedOut => {}
            }
        }
    }

    /// The next word, or nothing when the serving process is gone.
    fn hear(&mut self) -> io::Result<Option<u8>> {
        let mut word = [0];
        match self.line.read(&mut word) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(word.first().copied()),
            Err(why) if why.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Waits until the port is free for whoever comes next.
    fn release(&mut self, signals: &Signals) -> io::Result<()> {
        self.line.shutdown(std::net::Shutdown::Write)?;
        loop {
            match signals.wait(&[self.line.as_fd()], Some(RELEASE_TIME))? {
                Woken::Ready(_) if matches!(self.hear()?, Some(RELEASED) | None) => return Ok(()),
                // Another signal, or a word from before.
                Woken::Ready(_) | Woken::Signal(_) => {}
                Woken::TimedOut => {
                    error!("the serving process does not answer; its port may still be taken");
                    return Ok(());
                }
            }
        }
    }

    /// After an upgrade there are others: the process that served before, and one that came to nothing.
    /// The one that serves is waited for when it has left the line.
    fn reap(&self) {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(ended) = waitid(Id::All, look)
            && let Some(pid) = ended.pid()
            && pid != self.child
            && waitpid(pid, None).is_ok()
        {}
    }

    /// As a shell tells it: a signal counts from 128.
    fn status(&self) -> io::Result<u8> {
        loop {
            match waitpid(self.child, None) {
                Ok(WaitStatus::Exited(_, status)) => return Ok(status as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    error!("The serving process was ended by {signal}");
                    return Ok(128 | signal as u8);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(why) => return Err(why.into()),
            }
        }
    }
}

/// The serving process's end of the line to the one in front.
#[derive(Debug)]
pub struct Line {
    line: UnixStream,
    front: u32,
}

impl Line {
    /// The one that another serving process has had.
    pub fn inherited(line: OwnedFd, front: u32) -> Line {
        Line { line: line.into(), front }
    }

    /// The number of the process in front.
    pub const fn front(&self) -> u32 {
        self.front
    }

    /// Another process serves, on the same line.
    pub fn moved(&self, pid: u32) {
        let [a, b, c, d] = pid.to_be_bytes();
        self.tell(&[MOVED, a, b, c, d]);
    }

    /// Connections are served under the configuration that was read last.
    pub fn ready(&self) {
        self.tell(&[READY]);
    }

    pub fn reloading(&self) {
        self.tell(&[RELOADING]);
    }

    /// It does not serve, for this reason.
    pub fn failed(&self, why: &str) {
        self.tell(&[FAILED]);
        self.tell(why.as_bytes());
    }

    /// Nobody listens here any more.
    pub fn released(&self) {
        self.tell(&[RELEASED]);
    }

    /// Readable once the process in front wants an end, or is gone.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// The other end may be gone, and then nothing is to be told.
    fn tell(&self, words: &[u8]) {
        let _ = (&self.line).write_all(words);
    }
}
