//! Bounds of `tidegate ctl`: the gateway's side and the command's.

use std::time::Duration;

/// Administrators who may ask at once; what one may say, has time for, and waits for the outcome of a reload or
/// an upgrade; and sockets of ended programs that one which starts takes away at most.
pub const CONTROL_CALLERS_MAX: usize = 8;
pub const CONTROL_LINE_BYTES_MAX: usize = 64;
pub const CONTROL_TALK_TIME_MAX: Duration = Duration::from_secs(5);
pub const CONTROL_OUTCOME_TIME_MAX: Duration = Duration::from_secs(90);
pub const CONTROL_STALE_MAX: usize = 256;

/// Shards whose counts are kept apart; what more there are count together with the last of them.
pub const FIGURE_SHEETS_MAX: usize = 128;

/// What a gateway may answer: figures of some thousand processes have room in it.
pub const CTL_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Until somebody takes the connection to a control socket; its queue may be full.
pub const CTL_CONNECT_TIME: Duration = Duration::from_secs(2);
/// Until figures are there.
pub const CTL_ANSWER_TIME: Duration = Duration::from_secs(5);
/// Until a reload, an upgrade or a stop is through: the gateway says after [`CONTROL_OUTCOME_TIME_MAX`] that it is late.
pub const CTL_DEED_TIME: Duration = Duration::from_secs(100);
/// Control sockets of one directory that are looked at.
pub const CTL_GATEWAYS_MAX: usize = 64;
/// Of one word of an answer, such as a name, as it is shown.
pub const CTL_WORD_BYTES_MAX: usize = 64;
/// Of one line of an answer that is text, such as an error.
pub const CTL_LINE_BYTES_MAX: usize = 4096;
/// Scrapers that are answered at one time; each has a thread, and others wait in the socket's queue.
pub const EXPORTER_CONNECTIONS_MAX: usize = 16;
/// A request with its headers.
pub const EXPORTER_REQUEST_BYTES_MAX: usize = 8 * 1024;
/// For the request to come.
pub const EXPORTER_REQUEST_TIME: Duration = Duration::from_secs(2);
/// For the answer to be taken.
pub const EXPORTER_ANSWER_TIME: Duration = Duration::from_secs(5);
/// For what comes behind the request.
pub const EXPORTER_DRAIN_TIME: Duration = Duration::from_millis(500);

const _: () = assert!(CTL_DEED_TIME.as_secs() > CONTROL_OUTCOME_TIME_MAX.as_secs());
