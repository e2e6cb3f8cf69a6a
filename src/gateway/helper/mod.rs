//! Processes of ours that are started as root, give all rights up and answer through a socket pair: how
//! they are started, kept, found to be gone or stuck, and where their lines go.

pub mod keeper;
pub mod lines;
mod owed;
pub mod process;
pub mod reaper;

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use self::owed::Owed;
use super::broker::{DELEGATE_FD, set_out};
use super::config::{Facility, LogFormat, LogLevel};
use super::socket::Messenger;
use crate::base::Instant;
use crate::limits::{HELPER_PING_INTERVAL, HELPER_PINGS_MAX, HELPER_START_TIME_MAX};
use crate::reactor;

pub const NOT_BY_HAND: &str = "this command is started by a gateway that runs as root, not by hand";

/// How such a process writes its lines.
#[derive(Clone, Copy, Debug)]
pub struct Logs {
    pub format: LogFormat,
    pub level: LogLevel,
    /// The most talkative level of single connections, if some have their own.
    pub own_level: Option<LogLevel>,
    /// They go to the system's log instead of standard error.
    pub syslog: Option<Facility>,
}

/// Starts this program to do another part, with one end of a socket pair and of a pipe for its lines.
pub fn command(part: &str, logs: &Logs, theirs: &Messenger, lines: PipeWriter) -> Command {
    let socket = theirs.as_owned_fd().as_raw_fd();
    let format = if logs.format == LogFormat::Json { "json" } else { "text" };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("tidegate")
        .arg(part)
        .args(["--log-format", format])
        .args(["--log-level", logs.level.name()])
        .args(logs.own_level.iter().flat_map(|level| ["--own-log-level", level.name()]))
        .args(logs.syslog.iter().map(|_| "--marked"))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(lines);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || set_out(socket));
    }
    command
}

/// In such a process: the way to the one that started it.
///
/// # Errors
/// It was started otherwise.
pub fn parent() -> anyhow::Result<Messenger> {
    // SAFETY: takes two numbers.
    let flags = unsafe { libc::fcntl(DELEGATE_FD, libc::F_GETFD) };
    Errno::result(flags).context(NOT_BY_HAND)?;
    // SAFETY: it is open, and nothing else in this process knows the number.
    Ok(Messenger::from_fd(unsafe { OwnedFd::from_raw_fd(DELEGATE_FD) }))
}

/// Sees to it that such a process is there.
pub struct Watch {
    due: Instant,
    /// Since it serves: how often it was asked in vain.
    pings: Option<u32>,
}

impl Watch {
    /// Over one that was just started.
    pub fn new() -> Watch {
        Watch { due: reactor::now().after(HELPER_START_TIME_MAX), pings: None }
    }

    /// It serves from now on.
    pub fn begin(&mut self) {
        *self = Watch { due: reactor::now().after(HELPER_PING_INTERVAL), pings: Some(0) };
    }

    pub const fn serves(&self) -> bool {
        self.pings.is_some()
    }

    pub fn answered(&mut self) {
        self.pings = self.pings.map(|_| 0);
    }

    /// Asks it whether it is there when it is time to.
    ///
    /// # Errors
    /// It is not.
    pub fn look(&mut self, ours: &Messenger, ping: &[u8]) -> anyhow::Result<()> {
        let now = reactor::now();
        if now < self.due {
            return Ok(());
        }
        match self.pings {
            None => return Err(anyhow!("it did not begin to serve")),
            Some(HELPER_PINGS_MAX) => return Err(anyhow!("it does not answer")),
            Some(pings) => {
                self.pings = Some(pings + 1);
                let _ = ours.try_send(ping, None);
            }
        }
        self.due = now.after(HELPER_PING_INTERVAL);
        Ok(())
    }
}

/// When workers that had no room are asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// What came of waiting for a message.
pub enum Heard {
    Message(usize, Option<OwnedFd>),
    /// None, for [`HELPER_PING_INTERVAL`] or as long as was wanted.
    Nothing,
    /// The other end is gone.
    Gone,
}

/// The next message into `buffer`, by one call of the system. `busy`: something else is to be looked
/// after soon. The messenger's patience is [`HELPER_PING_INTERVAL`].
///
/// # Errors
/// The kernel's.
pub fn hear(messenger: &Messenger, buffer: &mut [u8], busy: bool) -> anyhow::Result<Heard> {
    if busy && !is_readable(messenger, BUSY_PAUSE)? {
        return Ok(Heard::Nothing);
    }
    heard(next_message(messenger, buffer))
}

/// The same without waiting.
///
/// # Errors
/// The kernel's.
pub fn hear_now(messenger: &Messenger, buffer: &mut [u8]) -> anyhow::Result<Heard> {
    heard(next_of(|| messenger.receive_now(buffer)))
}

type Message = (usize, Option<OwnedFd>);

fn heard(next: io::Result<Option<Message>>) -> anyhow::Result<Heard> {
    match next {
        Ok(Some((len, passenger))) => Ok(Heard::Message(len, passenger)),
        Ok(None) => Ok(Heard::Gone),
        Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Nothing),
        Err(why) => Err(why).context("it cannot be heard"),
    }
}

/// Waits for a message, for so long at most.
///
/// # Errors
/// The kernel's.
pub fn is_readable(messenger: &Messenger, pause: Duration) -> anyhow::Result<bool> {
    let mut fds = [PollFd::new(messenger.as_owned_fd().as_fd(), PollFlags::POLLIN)];
    // Rounded up: a pause of less than a millisecond is one.
    let pause = PollTimeout::try_from(pause.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, pause) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(why) => Err(why).context("poll"),
    }
}

/// The next message into `buffer`, and what came with it; `None` when the other end is gone.
///
/// # Errors
/// The kernel's.
pub fn next_message(
    messenger: &Messenger,
    buffer: &mut [u8],
) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
    next_of(|| messenger.receive(buffer))
}

fn next_of(mut receive: impl FnMut() -> io::Result<Message>) -> io::Result<Option<Message>> {
    loop {
        match receive() {
            Ok((0, _)) => return Ok(None),
            Ok(message) => return Ok(Some(message)),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            // It ended with something of ours unread.
            Err(why) if why.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(why) => return Err(why),
        }
    }
}
