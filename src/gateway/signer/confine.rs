//! The system calls of a signer: messages on the sockets that root's process has sent, lines for the log, and
//! what every process takes.

use std::os::fd::AsRawFd;

use seccompiler::SeccompCmpOp;

use crate::gateway::broker::DELEGATE_FD;
use crate::gateway::confine::{Calls, all, calls_of_all, close as close_to};

/// Once every thread is there: see [`close_to`].
///
/// # Errors
/// The kernel has no seccomp; the process must end.
pub fn close() -> anyhow::Result<()> {
    close_to(calls()?)
}

fn calls() -> anyhow::Result<Calls> {
    let mut calls = calls_of_all()?;
    let on = |descriptor: i32| all([(0, SeccompCmpOp::Eq, descriptor as u64)]);
    calls.insert(libc::SYS_shutdown, vec![on(DELEGATE_FD)?]);
    // Of those who go on without root's process too. It opens none itself.
    for call in [libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_ppoll, libc::SYS_close] {
        calls.insert(call, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    calls.insert(libc::SYS_poll, Vec::new());
    // Lines for the log.
    calls.insert(libc::SYS_write, vec![on(std::io::stderr().as_raw_fd())?]);
    Ok(calls)
}

#[cfg(test)]
mod tests;
