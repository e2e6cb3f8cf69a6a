//! The two directions of a byte stream behind a channel: a pipe, a terminal or a socket. Data goes
//! between the descriptor and the packets' own memory; the channel's windows are the only brake.

mod input;
mod output;

pub use input::Input;
pub use output::Output;

use std::time::Duration;

use crate::limits::{CHANNEL_PACKET_BYTES_MAX, LINGER_BYTES, LINGER_TIME};

/// What a channel's bytes go to or come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A pipe of our own: closed at the end of its data, widened for bulk.
    Pipe,
    /// Stays open: it has no end of file but the character that says so, and sending that is the
    /// client's. It never gives more than a page at a time.
    Terminal,
    /// Both directions share it, and each ends on its own. Its owner closes it.
    Socket,
}

/// Whether more of a stream is about to come, of which a receive brought `bytes` so long after it was
/// asked for: at that rate another packet comes within [`LINGER_TIME`], and this one did not bring so
/// much that more must lie there already.
pub fn flows_on(bytes: u32, after: Duration) -> bool {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let by_then = u64::from(bytes).saturating_mul(nanos(LINGER_TIME));
    let packet_time = u64::from(CHANNEL_PACKET_BYTES_MAX).saturating_mul(nanos(after));
    bytes < LINGER_BYTES && by_then >= packet_time
}
