use super::flight::{Flight, Stage};
use super::shared::SharedBuffers;
use crate::reactor::{Errno, Op, Pool};

/// What becomes of a flight after a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Finish(Result<u32, Errno>),
    /// Ask again: for the rest, or after an interruption.
    Continue,
    /// Ask again when the descriptor is ready.
    AwaitReadiness,
    /// Ask again when there are shared buffers.
    Park,
}

/// Decides what a result means for the operation as a whole.
pub(super) fn judge(flight: &mut Flight, result: Result<u32, Errno>) -> Verdict {
    if flight.stage == Stage::Poll {
        return match result {
            Ok(_) => {
                flight.stage = Stage::Polled;
                Verdict::Continue
            }
            Err(Errno(libc::EINTR)) => Verdict::Continue,
            Err(_) => Verdict::Finish(result),
        };
    }
    match result {
        Ok(moved) => judge_progress(flight, moved),
        Err(Errno(libc::EINTR)) => Verdict::Continue,
        Err(Errno(libc::EOPNOTSUPP)) if flight.op.is_hasty() && !flight.knows_no_haste => {
            flight.knows_no_haste = true;
            Verdict::Continue
        }
        Err(Errno(libc::ENOBUFS)) if flight.op.is_shared() => Verdict::Park,
        Err(Errno(libc::EAGAIN)) if is_stream(&flight.op) => {
            match flight.op.is_hasty() && !flight.borrowed {
                true => Verdict::Finish(result),
                false => Verdict::AwaitReadiness,
            }
        }
        Err(Errno(libc::EINPROGRESS | libc::EALREADY | libc::EAGAIN)) if is_connect(&flight.op) => {
            Verdict::AwaitReadiness
        }
        Err(Errno(libc::EISCONN)) if is_connect(&flight.op) => Verdict::Finish(Ok(0)),
        // What has been read is told first; the error comes again with the next read.
        Err(errno) if matches!(flight.op, Op::ReadAt { .. }) => match (errno, flight.done) {
            (Errno(libc::ECANCELED), _) | (_, 0) => Verdict::Finish(result),
            (_, done) => Verdict::Finish(Ok(done)),
        },
        Err(_) => Verdict::Finish(result),
    }
}

/// The kernel picked shared buffer `buffer` for this flight.
pub(super) fn receive_shared(
    flight: &mut Flight,
    buffer: u16,
    result: Result<u32, Errno>,
    shared: Option<&mut SharedBuffers>,
    pool: &mut Pool,
) {
    let picked = shared.and_then(|shared| shared.picked(buffer));
    let Some(lease) = picked else {
        unreachable!("the kernel picked a buffer that was not on offer");
    };
    match result {
        Ok(len) if len > 0 => {
            pool.claim(&lease);
            flight.op.lend(lease, len);
        }
        _ => pool.unlend(lease),
    }
}

fn judge_progress(flight: &mut Flight, moved: u32) -> Verdict {
    match flight.op {
        Op::Send { .. } | Op::ReadAt { .. } => {}
        _ => return Verdict::Finish(Ok(moved)),
    }
    flight.done += moved;
    if flight.done == flight.op.total() {
        return Verdict::Finish(Ok(flight.done));
    }
    match (&flight.op, moved) {
        (Op::ReadAt { .. }, 0) => Verdict::Finish(Ok(flight.done)),
        // No socket takes nothing of something; going on could go on for ever.
        (_, 0) => Verdict::Finish(Err(Errno(libc::EIO))),
        _ => Verdict::Continue,
    }
}

const fn is_connect(op: &Op) -> bool {
    matches!(op, Op::Connect { .. })
}

const fn is_stream(op: &Op) -> bool {
    matches!(op, Op::Recv { .. } | Op::Send { .. } | Op::Read { .. } | Op::Write { .. })
}
