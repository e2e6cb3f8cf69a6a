use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
#[cfg(feature = "sim")]
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::reaper;
use crate::limits::PIPE_BYTES;
use crate::reactor::Fd;

/// `pidfd_send_signal` to the whole process group (Linux 6.9).
const TO_PROCESS_GROUP: libc::c_uint = 1 << 2;
/// RFC 4254 §6.10 lists the names; everything else has to be somebody's own.
const OTHER_SIGNAL: &str = "SIG@openssh.com";

/// Our ends of a child's standard streams; non-blocking and close-on-exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pipes {
    pub stdin: Fd,
    pub stdout: Fd,
    pub stderr: Fd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Status(u32),
    /// `name` without the SIG prefix (RFC 4254 §6.10).
    Signal {
        name: &'static str,
        core_dumped: bool,
    },
}

/// A started process, leader of its own session and process group.
///
/// Dropping one whose end has not been seen hangs its group up and leaves it to the reaper, so that
/// no path, however odd, leaves a zombie behind.
#[derive(Debug)]
pub struct Child {
    handle: Handle,
    pid: i32,
    pipes: Option<Pipes>,
    exit: Option<Exit>,
}

#[derive(Debug)]
enum Handle {
    System(OwnedFd),
    #[cfg(feature = "sim")]
    Scripted(Fd, Arc<Mutex<Script>>),
    Retired,
}

/// A simulated process: what it was sent, and how it ended once it has.
#[cfg(feature = "sim")]
#[derive(Debug, Default)]
pub struct Script {
    pub signals: Vec<Signal>,
    pub exit: Option<Exit>,
}

impl Child {
    pub(super) const fn system(pid: i32, pidfd: OwnedFd, pipes: Option<Pipes>) -> Child {
        Child { handle: Handle::System(pidfd), pid, pipes, exit: None }
    }

    /// For the simulator: `watch` becomes readable when the script has an exit.
    #[cfg(feature = "sim")]
    pub const fn scripted(watch: Fd, pipes: Option<Pipes>, script: Arc<Mutex<Script>>) -> Child {
        Child { handle: Handle::Scripted(watch, script), pid: 0, pipes, exit: None }
    }

    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Becomes readable when the process has ended.
    pub fn watch(&self) -> Fd {
        match &self.handle {
            Handle::System(pidfd) => Fd(pidfd.as_raw_fd()),
            #[cfg(feature = "sim")]
            Handle::Scripted(fd, _) => *fd,
            Handle::Retired => Fd(-1),
        }
    }

    /// Absent with a terminal. Whoever takes them closes them.
    pub const fn take_pipes(&mut self) -> Option<Pipes> {
        self.pipes.take()
    }

    #[cfg(test)]
    pub(super) fn pipes(&self) -> Option<[Fd; 3]> {
        self.pipes.map(|pipes| [pipes.stdin, pipes.stdout, pipes.stderr])
    }

    /// Sends `signal` to the process and everything that it started and did not detach.
    pub fn signal(&self, signal: Signal) -> bool {
        match &self.handle {
            Handle::System(pidfd) => signal_group(pidfd, self.pid, self.exit.is_some(), signal),
            #[cfg(feature = "sim")]
            Handle::Scripted(_, script) => script.lock().is_ok_and(|mut script| {
                script.signals.push(signal);
                true
            }),
            Handle::Retired => false,
        }
    }

    /// What a lost terminal does to its processes. Stopped ones have to run to hear of it.
    pub fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
        self.signal(Signal::SIGCONT);
    }

    /// `None` while it runs. The process is gone from the process table once this has answered.
    pub fn reap(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = match &self.handle {
                Handle::System(pidfd) => reap(pidfd),
                #[cfg(feature = "sim")]
                Handle::Scripted(_, script) => script.lock().ok().and_then(|script| script.exit),
                Handle::Retired => None,
            };
        }
        self.exit
    }

    /// Makes one of its pipes hold more, for a stream that moves bulk. A pipe of 64 KiB costs up to
    /// a quarter more processor time and twice the wall time than one of 256 KiB when both ends are
    /// busy. Best effort: the kernel bounds what one account may have.
    pub fn widen(&self, pipe: Fd) {
        if let Handle::System(pidfd) = &self.handle {
            widen(pidfd, pipe);
        }
    }

    /// Ends the hold on the process: the watch to be closed by the caller, or nothing when the
    /// process still runs and is the reaper's now.
    pub fn retire(mut self) -> Option<Fd> {
        let over = self.reap().is_some();
        if matches!(self.handle, Handle::System(_)) {
            self.close_pipes();
        }
        match std::mem::replace(&mut self.handle, Handle::Retired) {
            Handle::System(pidfd) if over => Some(Fd(pidfd.into_raw_fd())),
            Handle::System(pidfd) => {
                reaper::adopt(pidfd);
                None
            }
            #[cfg(feature = "sim")]
            Handle::Scripted(fd, _) => Some(fd),
            Handle::Retired => None,
        }
    }
}

impl Child {
    fn close_pipes(&mut self) {
        if let Some(pipes) = self.pipes.take() {
            for fd in [pipes.stdin, pipes.stdout, pipes.stderr] {
                let _ = nix::unistd::close(fd.0);
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Handle::System(_) = &self.handle else { return };
        self.close_pipes();
        let over = self.reap().is_some();
        if !over {
            self.hang_up();
        }
        if let Handle::System(pidfd) = std::mem::replace(&mut self.handle, Handle::Retired)
            && !over
        {
            reaper::adopt(pidfd);
        }
    }
}

/// RFC 4254 §6.9: the signals that a client may send, by name without the SIG prefix.
pub fn signal_by_name(name: &[u8]) -> Option<Signal> {
    NAMES.iter().find(|(_, known)| known.as_bytes() == name).map(|(signal, _)| *signal)
}

/// `None` while the process runs. The status is lost when the kernel was told to discard it
/// (SIGCHLD ignored); that counts as a failure.
pub(super) fn reap(pidfd: &OwnedFd) -> Option<Exit> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    match waitid(Id::PIDFd(pidfd.as_fd()), flags) {
        Ok(WaitStatus::Exited(_, code)) => Some(Exit::Status((code & 0xff) as u32)),
        Ok(WaitStatus::Signaled(_, signal, core_dumped)) => {
            Some(Exit::Signal { name: name_of(signal), core_dumped })
        }
        Ok(_) | Err(Errno::EINTR) => None,
        // A real-time signal has no name in nix, but the process was waited for.
        Err(Errno::EINVAL) => Some(Exit::Signal { name: OTHER_SIGNAL, core_dumped: false }),
        Err(_) => Some(Exit::Status(255)),
    }
}

const NAMES: [(Signal, &str); 13] = [
    (Signal::SIGABRT, "ABRT"),
    (Signal::SIGALRM, "ALRM"),
    (Signal::SIGFPE, "FPE"),
    (Signal::SIGHUP, "HUP"),
    (Signal::SIGILL, "ILL"),
    (Signal::SIGINT, "INT"),
    (Signal::SIGKILL, "KILL"),
    (Signal::SIGPIPE, "PIPE"),
    (Signal::SIGQUIT, "QUIT"),
    (Signal::SIGSEGV, "SEGV"),
    (Signal::SIGTERM, "TERM"),
    (Signal::SIGUSR1, "USR1"),
    (Signal::SIGUSR2, "USR2"),
];

fn name_of(signal: Signal) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == signal).map_or(OTHER_SIGNAL, |(_, name)| name)
}

/// Through the pidfd a number used again cannot be hit, even after the leader was reaped. Older
/// kernels only know the number, which is safe exactly until then.
fn signal_group(pidfd: &OwnedFd, pid: i32, reaped: bool, signal: Signal) -> bool {
    // SAFETY: the siginfo pointer may be null; nothing else is passed by address.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            std::ptr::null::<libc::siginfo_t>(),
            TO_PROCESS_GROUP,
        )
    };
    match Errno::result(sent) {
        Ok(_) => true,
        Err(Errno::EINVAL | Errno::ENOSYS) if !reaped => {
            nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), signal).is_ok()
        }
        Err(_) => false,
    }
}

fn widen(_alive: &OwnedFd, pipe: Fd) {
    // SAFETY: the caller holds the pipe open; it is borrowed for this call alone.
    let pipe = unsafe { std::os::fd::BorrowedFd::borrow_raw(pipe.0) };
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_the_rfc_are_signals() {
        for (signal, name) in NAMES {
            assert_eq!(signal_by_name(name.as_bytes()), Some(signal));
        }
        for odd in ["", "SIGTERM", "term", "STOP", "TERM\n", "9"] {
            assert_eq!(signal_by_name(odd.as_bytes()), None, "{odd:?}");
        }
    }

    #[test]
    fn a_scripted_process_keeps_to_its_script() {
        let script = Arc::new(Mutex::new(Script::default()));
        let pipes = Pipes { stdin: Fd(901), stdout: Fd(902), stderr: Fd(903) };
        let mut child = Child::scripted(Fd(900), Some(pipes), Arc::clone(&script));
        assert_eq!((child.watch(), child.take_pipes()), (Fd(900), Some(pipes)));
        assert_eq!(child.reap(), None);
        child.hang_up();
        script.lock().unwrap().exit = Some(Exit::Status(3));
        assert_eq!(child.reap(), Some(Exit::Status(3)));
        assert_eq!(child.retire(), Some(Fd(900)), "the watch is the caller's to close");
        assert_eq!(script.lock().unwrap().signals, [Signal::SIGHUP, Signal::SIGCONT]);
    }
}
