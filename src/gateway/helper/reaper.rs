//! Waits for processes of ours that were killed, so that nobody else has to: one that is in the kernel and
//! does not come back, as from a file server that is gone, ends when it does.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tracing::{error, info};

use crate::base::{Instant, escape};
use crate::limits::{REAPER_CHECK_MAX, REAPER_CHECK_MIN, REAPER_TIME};
use crate::reactor;

/// Of this process. Its thread is there while somebody is waited for.
static REAPER: Reaper = Reaper::new();

/// Takes a child of ours that was just killed, and that nobody else waits for. Never waits. `what`: what
/// it does, for the log; `user`: for which account, if for one.
pub fn take(pid: u32, what: &'static str, user: &str) {
    REAPER.take(pid, what, user);
}

/// How many have not ended yet.
pub fn pending() -> usize {
    REAPER.state().killed.len()
}

struct Reaper {
    state: Mutex<State>,
    come: Condvar,
}

struct State {
    killed: Vec<Killed>,
    /// There is a thread.
    runs: bool,
}

struct Killed {
    pid: Pid,
    what: &'static str,
    user: String,
    since: Instant,
    /// The log has been told that it takes long.
    told: bool,
}

impl Reaper {
    const fn new() -> Reaper {
        let state = State { killed: Vec::new(), runs: false };
        Reaper { state: Mutex::new(state), come: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&'static self, pid: u32, what: &'static str, user: &str) {
        let (pid, user) = (Pid::from_raw(pid.cast_signed()), user.to_owned());
        let mut state = self.state();
        state.killed.push(Killed { pid, what, user, since: reactor::now(), told: false });
        if state.runs {
            self.come.notify_one();
            return;
        }
        // Where there is none, the next that comes may have one.
        match thread::Builder::new().name("reaper".to_owned()).spawn(|| self.reap()) {
            Ok(_) => state.runs = true,
            Err(why) => error!(%why, "no thread waits for processes that were killed: {why}"),
        }
    }

    fn reap(&self) {
        let (mut state, mut pause) = (self.state(), REAPER_CHECK_MIN);
        loop {
            state.killed.retain_mut(|killed| !killed.is_over());
            if state.killed.is_empty() {
                state.runs = false;
                return;
            }
            let woken = self.come.wait_timeout(state, pause);
            let (next, waited) = woken.unwrap_or_else(PoisonError::into_inner);
            state = next;
            pause = match waited.timed_out() {
                true => (pause * 2).min(REAPER_CHECK_MAX),
                false => REAPER_CHECK_MIN,
            };
        }
    }
}

impl Killed {
    fn is_over(&mut self) -> bool {
        let Killed { pid, what, user, since, told } = self;
        let whose = match user.as_str() {
            "" => String::new(),
            user => format!(" for {}", escape(user.as_bytes())),
        };
        match waitpid(*pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {
                if !*told && reactor::now().since(*since) >= REAPER_TIME {
                    *told = true;
                    let text = "was killed and does not end: it hangs in the kernel";
                    error!(%pid, user, "Process {pid}, which {what}{whose}, {text}");
                }
                false
            }
            Ok(_) | Err(_) => {
                if *told {
                    info!(%pid, user, "Process {pid}, which {what}{whose}, has ended");
                }
                true
            }
        }
    }
}
