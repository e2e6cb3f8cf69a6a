//! Floor 3: RFC 4253. Identification, key exchange, packets and rekeying; knows no socket, no clock
//! and no channel.
//!
//! A [`Transport`] is fed the bytes that arrive by [`carve`](Transport::carve), which opens one
//! packet in place and answers it or hands its payload up. What leaves is appended to the
//! [`Outbox`] in [`Env`], except bulk data, which [`seal`](Transport::seal) frames and seals where
//! it lies. Slow or privileged work (a signature, trust in a host key) leaves as a [`Query`].

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

mod backlog;
mod client;
mod compression;
mod config;
mod error;
mod exchange;
mod gex;
mod ident;
mod input;
mod machine;
mod outbox;
mod packet;
mod progress;
mod proposal;
mod record;
mod role;
mod server;
mod session;
mod signable;
mod verdict;
mod wires;

pub use client::Client;
pub use compression::CompressionKind;
pub use config::{ClientConfig, HostKey, Preferences, RekeyLimits, ServerConfig};
pub use error::{Blame, Error, Mismatch};
pub use ident::{OTHER_VERSION, is_openssh, is_ours};
pub use machine::{Carved, Deferred, Transport};
pub use outbox::{Env, Outbox};
pub(crate) use progress::EXCHANGE_TOO_LONG;
pub use proposal::Negotiated;
pub use record::TransportRecord;
pub use role::Role;
pub use server::Server;
pub use session::PeerExtensions;
#[cfg(test)]
pub(crate) use signable::samples;
pub use signable::{ExchangeFields, SignableExchange};
pub use wires::Stats;

use crate::crypto::kex::Group;
use crate::crypto::{
    Certificate, Digest, KexError, KexPiece, PublicKey, SharedSecret, SignatureAlgorithm,
};

/// Work that is not done here. While one is open nothing is carved.
#[derive(Debug)]
pub enum Query {
    /// Answer the client's public value in this group: [`kex::respond_in`]. Takes milliseconds.
    ///
    /// [`kex::respond_in`]: crate::crypto::kex::respond_in
    Agree { group: Group, client_public: Box<[u8]> },
    /// Sign the exchange hash with the host key at this place of [`ServerConfig::host_keys`].
    Sign {
        host_key: usize,
        algorithm: SignatureAlgorithm,
        message: Digest,
        /// What the hash was made of, where [`ServerConfig::signs_elsewhere`] asks for it.
        exchange: Option<SignableExchange>,
    },
    /// The server proved that it holds this key; is it the right one? A certificate that it came in
    /// is unchecked.
    TrustHostKey {
        key: PublicKey,
        algorithm: SignatureAlgorithm,
        certificate: Option<Box<Certificate>>,
        /// The session's identifier, which in the first exchange is its hash, and the server's signature
        /// over it.
        session: Box<[u8]>,
        signature: Box<[u8]>,
    },
    /// Client: a slow piece of the key exchange, which [`Transport::take_task`] hands out. Asked
    /// only where [`ClientConfig::defers`] is set.
    Compute,
}

/// What comes of a [`Query`].
#[derive(Debug)]
pub enum Answer {
    /// Our public value and the shared secret.
    Agreement(Result<(Box<[u8]>, SharedSecret), KexError>),
    /// The signature blob, or `None` when the key could not sign.
    Signature(Option<Box<[u8]>>),
    Trust(bool),
    /// Of the task that was taken.
    Computed(Result<KexPiece, KexError>),
}

#[cfg(test)]
mod tests;
