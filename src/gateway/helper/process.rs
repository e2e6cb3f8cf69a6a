//! A child of ours, which leaves no zombie behind.

use std::io;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::reaper;
use crate::limits::{DELEGATE_ENDING_TIME, ENDING_CHECK};
use crate::services;

/// Killed when this goes, and nobody waits then: one that does not end at once is the reaper's.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it does, and for which account, if for one.
    what: &'static str,
    user: String,
    /// It is killed with all that it has started.
    leads: bool,
    /// Somebody else ends it.
    left: bool,
}

impl Process {
    /// `what` goes on after "which": "acts", "asks PAM". `user`: for which account, if for one.
    pub fn new(child: Child, what: &'static str, user: &str) -> Process {
        Process { child, what, user: user.to_owned(), leads: false, left: false }
    }

    /// One that has a process group of its own.
    pub fn leader(child: Child, what: &'static str, user: &str) -> Process {
        let mut process = Process::new(child, what, user);
        process.leads = true;
        process
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Leaves it alone; whoever goes on with it may ask how it ended, for it is waited for here.
    pub fn let_go(mut self) {
        self.left = true;
        // Where there is no descriptor left, it is waited for when we have ended.
        services::watch_process(self.id().cast_signed()).into_iter().for_each(services::adopt);
    }

    /// Does nothing to one that has been waited for.
    pub fn kill(&mut self) {
        let group = i32::try_from(self.id()).map(Pid::from_raw);
        match (self.leads, self.child.try_wait(), group) {
            (true, Ok(None), Ok(group)) => drop(killpg(group, Signal::SIGKILL)),
            _ => drop(self.child.kill()),
        }
    }

    /// Waits so long for its end, and no longer. `None`: it is still there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self, time: Duration) -> io::Result<Option<ExitStatus>> {
        for _ in 0..time.as_millis() / ENDING_CHECK.as_millis() {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(ENDING_CHECK);
        }
        Ok(None)
    }

    /// Gives it some time to end, and no more.
    ///
    /// # Errors
    /// The kernel's, or it does not end although it was killed.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.wait(DELEGATE_ENDING_TIME)? {
            return Ok(status);
        }
        self.kill();
        let late = || io::Error::other("it was killed and does not end");
        self.wait(DELEGATE_ENDING_TIME)?.ok_or_else(late)
    }
}

impl Drop for Process {
    /// Does nothing to one that has been waited for.
    fn drop(&mut self) {
        if self.left {
            return;
        }
        if let Ok(None) = self.child.try_wait() {
            self.kill();
            reaper::take(self.id(), self.what, &self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::ptr;
    use std::sync::mpsc;

    use nix::errno::Errno;
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};

    use super::*;

    /// A process group that only sleeps.
    fn sleeper() -> Child {
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").stdin(Stdio::null()).process_group(0);
        // SAFETY: between fork and exec only a system call is made, on numbers.
        unsafe {
            sleep.pre_exec(|| {
                // Whoever is not root may hold it too. Where nobody restricts that, there is no such call.
                libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
                Ok(())
            });
        }
        sleep.spawn().expect("it starts")
    }

    /// Somebody who traces a process: its parent does not see its end while he is there, as with one that
    /// hangs in the kernel.
    struct Holder(Pid);

    impl Holder {
        /// `None` where nobody may.
        fn of(pid: u32) -> Option<Holder> {
            let (mut heard, tells) = io::pipe().expect("a pipe");
            // SAFETY: the new process makes system calls alone.
            match unsafe { fork() }.expect("a process") {
                ForkResult::Child => hold(pid, tells.as_raw_fd()),
                ForkResult::Parent { child } => {
                    drop(tells);
                    let (holder, mut answer) = (Holder(child), [0]);
                    heard.read_exact(&mut answer).expect("an answer");
                    (answer == [1]).then_some(holder)
                }
            }
        }
    }

    /// Alone in its memory: nothing but system calls.
    fn hold(pid: u32, tells: RawFd) -> ! {
        // SAFETY: numbers, and one byte that is there.
        unsafe {
            let held = libc::ptrace(libc::PTRACE_SEIZE, pid, ptr::null_mut::<u8>(), 0_usize);
            let answer = u8::from(held == 0);
            libc::write(tells, (&raw const answer).cast(), 1);
            // Other tests wait for ends of what it has a copy of.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
            loop {
                libc::pause();
            }
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = nix::sys::signal::kill(self.0, Signal::SIGKILL);
            let _ = waitpid(self.0, None);
        }
    }

    /// Until then nothing but this fails.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_that_does_not_end_is_waited_for_by_nobody() {
        for leads in [false, true] {
            let child = sleeper();
            let pid = child.id();
            let process = match leads {
                true => Process::leader(child, "sleeps", "ann"),
                false => Process::new(child, "sleeps", "ann"),
            };
            let Some(holder) = Holder::of(pid) else {
                return println!("not run: nobody may trace here");
            };
            let (over, heard) = mpsc::channel();
            let dropping = thread::Builder::new().spawn(move || {
                drop(process);
                over.send(()).expect("heard");
            });
            let dropping = dropping.expect("a thread");
            heard.recv_timeout(LONG).expect("it is waited for");
            dropping.join().expect("no panic");
            assert!(reaper::pending() > 0, "the reaper has it");
            drop(holder);
            // Its end is seen now: it is no child of ours any more.
            let mut checks = LONG.as_millis() / ENDING_CHECK.as_millis();
            while nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), None)
                != Err(Errno::ESRCH)
            {
                checks = checks.checked_sub(1).expect("it was never waited for");
                thread::sleep(ENDING_CHECK);
            }
        }
    }
}
