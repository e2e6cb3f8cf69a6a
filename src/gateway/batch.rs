//! Threads that many messages of logins wake. Woken as usual, each would take the CPU from whoever has just
//! sent it one, and do one message's work; woken in a batch (sched(7), SCHED_BATCH) it has the same share
//! of the CPU and begins when the sender waits, with all that has come by then.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether any thread of ours has entered: only then do children leave.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// This thread is such a one, and those that it starts. One that an administrator has given another
/// policy keeps it.
pub fn enter() {
    // SAFETY: takes a number, of this thread.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if policy == libc::SCHED_OTHER && set(libc::SCHED_BATCH) {
        ENTERED.store(true, Ordering::Relaxed);
    }
}

/// Between fork and exec: a process that such a thread starts is none.
pub fn leave() {
    if ENTERED.load(Ordering::Relaxed) {
        set(libc::SCHED_OTHER);
    }
}

/// Where that is refused, wake-ups are as they were.
fn set(policy: i32) -> bool {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter is there for the call.
    unsafe { libc::sched_setscheduler(0, policy, &raw const param) == 0 }
}
