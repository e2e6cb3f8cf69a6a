//! The two directions of a byte stream behind a channel: a pipe, a terminal or a socket. Data goes
//! between the descriptor and the packets' own memory; the channel's windows are the only brake.

mod input;
mod output;

pub use input::Input;
pub use output::Output;

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
