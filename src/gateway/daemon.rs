//! Leaving the terminal and the caller behind, while the caller still learns how the start went.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::process;

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpid, getppid, getsid,
    setsid,
};

use super::{systemd, upgrade};

/// What the process in the background says once it serves; anything else is why it does not.
const SERVING: &[u8] = b"\0serving";

/// How to go into the background.
#[derive(Clone, Copy, Debug, Default)]
pub struct Detach {
    /// Standard error is a log file, and stays.
    pub keep_stderr: bool,
    /// A descriptor through which the caller is still told what goes wrong. The process in the
    /// background must not hold it: somebody may wait for its end.
    pub forget: Option<RawFd>,
}

/// Where this process is after [`detach`].
#[derive(Debug)]
pub enum Detached {
    /// In the foreground still: the other one serves.
    Caller,
    /// In the background; the caller waits to hear how the start goes.
    Background(Herald),
}

/// Tells the caller how the start went. Dropped without a word it counts as a failure.
#[derive(Debug)]
pub struct Herald {
    caller: PipeWriter,
}

impl Herald {
    pub fn serving(mut self) {
        let _ = self.caller.write_all(SERVING);
    }

    pub fn failed(mut self, why: &str) {
        let _ = self.caller.write_all(why.as_bytes());
    }
}

/// Goes on in a process that has no terminal, is no session's leader and stands in `/` (daemon(7)),
/// with /dev/null for standard streams. To be called before any thread exists.
///
/// # Errors
/// In the caller: the system refused, or the other process says why it could not start.
pub fn detach(how: Detach) -> io::Result<Detached> {
    let (hears, tells) = io::pipe()?;
    // SAFETY: there are no other threads whose locks the child could find taken.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(tells);
            listen(hears, child).map(|()| Detached::Caller)
        }
        ForkResult::Child => {
            drop(hears);
            let herald = Herald { caller: tells };
            match leave(how) {
                Ok(()) => Ok(Detached::Background(herald)),
                Err(why) => {
                    herald.failed(&format!("cannot go into the background: {why}"));
                    process::exit(255);
                }
            }
        }
    }
}

/// Somebody has made us a daemon already: init started us without a terminal.
pub fn is_detached() -> bool {
    let leads = getsid(None).is_ok_and(|session| session == getpid());
    let terminal = OpenOptions::new().read(true).open("/dev/tty").is_ok();
    getppid() == Pid::from_raw(1) && leads && !terminal
}

fn listen(mut hears: PipeReader, child: Pid) -> io::Result<()> {
    // The process in the middle ends at once.
    let _ = waitpid(child, None);
    let mut word = Vec::new();
    hears.read_to_end(&mut word)?;
    match word.as_slice() {
        SERVING => Ok(()),
        b"" => Err(io::Error::other("the process in the background ended while it started")),
        why => Err(io::Error::other(String::from_utf8_lossy(why).into_owned())),
    }
}

fn leave(how: Detach) -> io::Result<()> {
    setsid()?;
    // A session's leader could get a terminal again by opening one.
    // SAFETY: as above.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        process::exit(0);
    }
    chdir("/")?;
    let null = null()?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    if !how.keep_stderr {
        dup2_stderr(&null)?;
    }
    if let Some(fd) = how.forget {
        // SAFETY: takes two numbers; whoever owns `fd` still owns a descriptor of that number.
        Errno::result(unsafe { libc::dup3(null.as_raw_fd(), fd, libc::O_CLOEXEC) })?;
    }
    Ok(())
}

/// Closes descriptors that the caller left open, as sshd does, but for those of a service manager and the
/// way to the program whose place this one takes: what somebody waits for the end of must not stay open in the background.
///
/// To be called first of all, while this process has opened nothing itself.
pub fn close_inherited() {
    let kept = if upgrade::is_heir() { 1 } else { systemd::inherited_count() };
    let first = systemd::FIRST_FD as libc::c_uint + kept;
    // SAFETY: takes three numbers; nobody owns these descriptors yet.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

/// What reads as empty and swallows what is written.
pub(super) fn null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}
