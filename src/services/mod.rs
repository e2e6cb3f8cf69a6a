//! Floor 6: what a channel is attached to. Sans-I/O cores that ask for [`crate::reactor::Op`]s and
//! [`Job`]s and hear their outcome; the shard carries both.

mod attached;
mod auth_info;
mod birth;
mod child;
mod credit;
mod file_event;
mod files;
pub mod forward;
mod io;
mod job;
mod join;
mod judge;
pub mod lastlog;
mod ledger;
pub mod local;
mod luggage;
mod modes;
mod outgoing;
mod place;
mod prelude;
pub mod process;
mod pty;
mod reaper;
mod root;
mod routing_domain;
mod rules;
pub mod scp;
pub mod sftp;
pub mod sftp_client;
mod spawn;
mod stream;
pub mod tape;
mod umask;
pub mod upstream;
mod user_environment;

pub use attached::{Attached, Noted};
pub use auth_info::AuthInfo;
#[cfg(feature = "sim")]
pub use child::Script;
pub use child::{Child, Exit, Pipes, kernel_tells_ends, signal_by_name, told_status};
pub use file_event::FileEvent;
pub use files::{Files, Folder, Quota, Rights};
pub use io::{Io, Wishes};
pub use job::{
    About, Account, AccountAnswer, Demands, Done, Grant, Greeted, Job, Kept, Notice, Origin,
    Prelude, Program, SpawnFailed, SpawnSpec, Subsystem, decode_limits, encode_limits,
};
pub use luggage::{Luggage, Unpacking};
pub use modes::encode_modes;
pub use outgoing::{Command, Outgoing, Surroundings};
pub use place::{Place, enter_root, entered_root};
pub use prelude::run_prelude;
pub use process::is_variable;
pub use pty::{Terminal, TerminalSpec, open_terminal, window_size};
pub use reaper::{adopt, orphans};
pub use root::{Root, check_fences};
pub use routing_domain::RoutingDomain;
pub use rules::{Record, Recorded, Rules, is_listed};
pub use spawn::{prepare, restrict_umask, spawn, watch_process};
pub use stream::flows_on;
pub use tape::Tape;

use crate::reactor::{Chunk, Errno, Op};

/// What every service answers to. Called by the shard, never from inside a driver.
///
/// `on_ready` is the one place where a service makes progress on output: it is called whenever
/// something that may have blocked it has changed (window opened, key exchange finished, send queue
/// drained, leases returned) and may be called without cause.
pub trait Service {
    /// Bytes of the channel. The service owns the chunk: it passes it on in an operation or gives
    /// the lease back, and calls [`Io::consumed`] for its length when the bytes have left for good.
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>);

    /// The peer will send no more data.
    fn on_eof(&mut self, io: &mut Io<'_>);

    /// An operation asked for through [`Io::submit`] has completed. For those that ask for none, there is
    /// nothing to do.
    fn on_completion(&mut self, _tag: u16, op: Op, _result: Result<u32, Errno>, io: &mut Io<'_>) {
        io.dissolve(op);
    }

    /// A job asked for through [`Io::job`] is done.
    fn on_done(&mut self, _tag: u16, _done: Done, _io: &mut Io<'_>) {}

    fn on_ready(&mut self, io: &mut Io<'_>);

    /// Everything that has come in this turn has been handed out; asked for by [`Io::call_late`].
    fn on_turn_over(&mut self, io: &mut Io<'_>) {
        self.on_ready(io);
    }

    /// Others find no memory: what waits for somebody else lets go of its own.
    fn yield_memory(&mut self, _io: &mut Io<'_>) {}

    /// The channel is gone (closed by the peer, or its connection ended): stop, cancel what is in
    /// flight with [`Io::cancel`], keep no lease. Completions still in flight will come.
    fn on_close(&mut self, io: &mut Io<'_>);

    /// Nothing is in flight any more and the channel is gone: close descriptors, release the rest.
    fn release(&mut self, io: &mut Io<'_>);
}

/// A service that somebody on a higher floor attaches to a channel that he has opened as a client. It
/// tells him what there is by [`forward::Note::Reached`].
pub trait Guest: Service + std::fmt::Debug {
    /// What was asked of the channel is granted: begin, or go on with the next.
    fn begin(&mut self, io: &mut Io<'_>);
}
