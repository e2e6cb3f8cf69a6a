use super::Preferences;
use super::exchange::{Agreed, Context, Step};
use super::{Answer, Error, Query};
use crate::crypto::KexTask;

/// Which end of the connection we are. [`Server`](super::Server) and [`Client`](super::Client) are
/// the only ones.
pub trait Role: sealed::Steps {}

pub(super) mod sealed {
    use super::*;

    /// What differs between the roles in a key exchange.
    pub trait Steps: Sized + 'static {
        type Config: std::fmt::Debug;
        /// Waits for the peer's public value, or for what comes before it.
        type PeerHalf;
        /// Waits for the answer to a [`Query`].
        type Question;

        const SERVER: bool;
        /// Names of ours that only look like key exchange methods.
        const MARKERS: &'static [&'static str];
        const STRICT: &'static str;
        const PEER_STRICT: &'static str;
        const PEER_EXT_INFO: &'static str;

        fn preferences(config: &Self::Config) -> &Preferences;

        /// The host key algorithms we offer, most wanted first.
        fn host_key_names(
            config: &Self::Config,
        ) -> impl Iterator<Item = &'static str> + Clone + use<'_, Self>;

        /// Whether our first KEXINIT waits for the peer's, and AES-GCM is preferred to
        /// ChaCha20-Poly1305.
        fn steers(config: &Self::Config) -> bool;

        /// The number of the message that `half` waits for.
        fn expects(half: &Self::PeerHalf) -> u8;

        fn agreed(agreed: Agreed, cx: &mut Context<'_, '_, Self>) -> Result<Step<Self>, Error>
        where
            Self: Role;

        fn peer_half(
            half: Self::PeerHalf,
            payload: &[u8],
            cx: &mut Context<'_, '_, Self>,
        ) -> Result<Step<Self>, Error>
        where
            Self: Role;

        fn query(question: &Self::Question) -> &Query;

        /// Hands out the work of an open [`Query::Compute`]; once.
        fn take_task(_question: &mut Self::Question) -> Option<KexTask> {
            None
        }

        fn answer(
            question: Self::Question,
            answer: Answer,
            cx: &mut Context<'_, '_, Self>,
        ) -> Result<Step<Self>, Error>
        where
            Self: Role;
    }
}
