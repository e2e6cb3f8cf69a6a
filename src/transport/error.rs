use crate::crypto::KexError;
use crate::wire::{Malformed, number::disconnect};

/// Why a connection cannot go on. Fatal and sticky: every later call answers the same.
///
/// The text may quote what the peer sent (algorithm names are printable, a farewell's text need not
/// be); whoever shows it escapes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer broke a rule.
    #[error("{0}")]
    PeerMisbehaved(&'static str),
    /// The peer keeps the rules, but we share no way to talk.
    #[error("{0}")]
    PeerIncompatible(Box<str>),
    /// The same: of something both have lists, and nothing stands in both.
    #[error("{0}")]
    NothingInCommon(Box<Mismatch>),
    /// What should have been an identification line (RFC 4253 §4.2) is none of ours.
    #[error("{0}")]
    Identification(&'static str),
    #[error("malformed message {message}: {why}")]
    Malformed { message: u8, why: Malformed },
    #[error("packet integrity check failed")]
    BadTag,
    /// The key exchange method refused the peer's public value, or our library failed.
    #[error("key exchange failed: {0}")]
    KeyExchange(#[from] KexError),
    /// The server's signature of the exchange hash does not verify, or its key is none.
    #[error("host key verification failed: {0}")]
    HostKey(&'static str),
    /// The user, or the list of known hosts, does not accept the server's key.
    #[error("the host key was not accepted")]
    HostKeyRefused,
    /// The peer ended the connection (RFC 4253 §11.1).
    #[error("disconnected by the peer: {text} (reason {code})")]
    Disconnected { code: u32, text: Box<str> },
    #[error("timed out: {0}")]
    Deadline(&'static str),
    /// Our signer did not sign the exchange hash.
    #[error("the host key could not sign")]
    Signer,
    /// We ended the connection ourselves.
    #[error("closed")]
    Closed,
    /// Our own mistake; it costs this connection and nothing else.
    #[error("internal error: {0}")]
    Invariant(&'static str),
}

/// Two lists of algorithms that have no name in common.
// What the reader does not know comes first: a log line may cut the rest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no common {what}: the peer offers {theirs}, we {ours}")]
pub struct Mismatch {
    /// As in "no common cipher".
    pub what: &'static str,
    pub theirs: Box<str>,
    pub ours: Box<str>,
}

/// Whose fault an error is: it decides who is told, and what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Peer,
    Upstream,
    Us,
}

impl Error {
    /// The reason to give in DISCONNECT (RFC 4253 §11.1); `None` when there is nobody left to tell.
    pub const fn disconnect_code(&self) -> Option<u32> {
        match self {
            Error::PeerMisbehaved(_) | Error::Malformed { .. } | Error::Invariant(_) => {
                Some(disconnect::PROTOCOL_ERROR)
            }
            Error::KeyExchange(KexError::UnsafeGroup) => Some(disconnect::PROTOCOL_ERROR),
            Error::PeerIncompatible(_)
            | Error::NothingInCommon(_)
            | Error::KeyExchange(_)
            | Error::Signer => Some(disconnect::KEY_EXCHANGE_FAILED),
            Error::Identification(_) => Some(disconnect::PROTOCOL_VERSION_NOT_SUPPORTED),
            Error::BadTag => Some(disconnect::MAC_ERROR),
            Error::HostKey(_) | Error::HostKeyRefused => Some(disconnect::HOST_KEY_NOT_VERIFIABLE),
            Error::Deadline(_) => Some(disconnect::BY_APPLICATION),
            Error::Disconnected { .. } | Error::Closed => None,
        }
    }

    pub const fn blame(&self) -> Blame {
        match self {
            Error::Signer | Error::Closed | Error::Invariant(_) => Blame::Us,
            Error::KeyExchange(KexError::Ours(_)) => Blame::Us,
            _ => Blame::Peer,
        }
    }

    /// Makes a decoder's complaint about message `message` fatal.
    pub(super) const fn malformed(message: u8) -> impl Fn(Malformed) -> Error {
        move |why| Error::Malformed { message, why }
    }
}
