//! What is told of panics, and what many of them lead to.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::error;

use crate::base::Instant;
use crate::limits::{DEFECTS_MAX, DEFECTS_TIME};

/// From now on panics are lines of the log rather than of standard error, which a daemon has not.
pub fn tell_in_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let at = info.location().map_or_else(String::new, |at| format!(" at {at}"));
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            let what = text.unwrap_or("no message");
            error!("A defect of this program{at}: {what}. Please report it");
            let trace = Backtrace::capture();
            if trace.status() == BacktraceStatus::Captured {
                error!("{trace}");
            }
        }));
    });
}

/// The defects that the shards of a process have met lately.
#[derive(Debug, Default)]
pub struct Defects {
    recent: Mutex<VecDeque<Instant>>,
    /// SIGHUP makes this process put new shards in the place of the old ones.
    renews: bool,
}

impl Defects {
    pub fn new(renews: bool) -> Defects {
        Defects { recent: Mutex::default(), renews }
    }

    /// One more. When they are too many, the shards retire: their connections go on, new ones go to
    /// others. Answers whether they are.
    pub fn met(&self, now: Instant) -> bool {
        if !self.are_too_many(now) {
            return false;
        }
        let seconds = DEFECTS_TIME.as_secs();
        match self.renews {
            true => {
                error!("{DEFECTS_MAX} defects in {seconds} s: new reactors take the place of these")
            }
            false => {
                error!("{DEFECTS_MAX} defects in {seconds} s: this process should be replaced")
            }
        }
        if self.renews {
            let _ = kill(Pid::this(), Signal::SIGHUP);
        }
        true
    }

    fn are_too_many(&self, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|at| now.since(*at) < DEFECTS_TIME);
        recent.push_back(now);
        let many = recent.len() >= DEFECTS_MAX;
        if many {
            recent.clear();
        }
        many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_so_much_time_are_too_many() {
        let second = |n: u64| Instant::from_nanos(n * 1_000_000_000);
        let defects = Defects::new(false);
        let met: Vec<bool> =
            [0, 1, 61, 62, 63, 64].map(|at| defects.are_too_many(second(at))).to_vec();
        assert_eq!(met, [false, false, false, false, true, false]);
    }
}
