//! Floor 4: RFC 4252 and RFC 4254 over a transport. Knows no socket, no clock, no account and no
//! file; what it cannot decide leaves as a [`Query`].
//!
//! [`Connection::handle_input`] takes one packet at a time off a buffer the caller owns and answers
//! with at most one [`Event`]; channel data stays where it was opened and is named by a span. What
//! leaves is appended to the outbox of [`crate::transport::Env`], except bulk data: a [`Plan`] says
//! where in a lease it has to lie so that sealing makes packets of it without moving it.
//!
//! After any call, [`Connection::poll_event`] until it answers `None`.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::todo,
        clippy::unimplemented
    )
)]

mod channel;
mod client;
mod config;
mod conn;
mod data;
mod event;
mod half;
mod host_keys;
mod incoming;
mod machine;
mod methods;
mod outgoing;
mod plan;
mod record;
mod relay;
mod secret;
mod server;
mod side;
mod slots;
mod tuning;
mod window;

pub use client::LoginMethod;
pub use config::{ClientConnectionConfig, ConnectionConfig, LoginLimits};
pub use conn::Conn;
pub use event::{
    Answer, AuthFailed, ChannelKind, ChannelRequest, Event, GlobalRequest, Input, LoginSession,
    Presence, Proven, Query, Questions, Signed, Verified, WindowSize, X11Request,
};
pub use half::{Farewell, RecvHalf, RecvStep, SendHalf, SendStep};
pub use host_keys::{HostKeyProofs, host_key_proof, host_keys_hold};
pub use machine::Connection;
pub use methods::{Chains, Method, Progress, Step};
pub use plan::Plan;
pub use record::ConnectionRecord;
pub use secret::{Secret, Secrets};
pub use server::{SERVICE_CONNECTION, split_style};
pub use side::Side;
pub use slots::ChannelId;
pub use tuning::WindowBudget;
pub use window::{RecvWindow, SendWindow};
