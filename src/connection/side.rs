use super::{Answer, Connection, Event, HostKeyProofs};
use crate::base::Instant;
use crate::transport::{Env, Error, Role};
use crate::wire::channel::OpenKind;

/// What the two ends of a connection do differently on this floor. [`crate::transport::Server`] and
/// [`crate::transport::Client`] are the only ones.
pub trait Side: Role + Sized {
    /// Where the login stands.
    #[doc(hidden)]
    type Login: std::fmt::Debug;

    #[doc(hidden)]
    const IS_SERVER: bool;

    /// The login is over, with success.
    #[doc(hidden)]
    fn is_logged_in(login: &Self::Login) -> bool;

    /// The login waits for an answer, or for a refusal to become due.
    #[doc(hidden)]
    fn is_blocked(login: &Self::Login) -> bool;

    /// When the login wants [`Side::login_timeout`].
    #[doc(hidden)]
    fn login_deadline(login: &Self::Login) -> Option<Instant>;

    /// When a login that is not over ends the connection.
    #[doc(hidden)]
    fn login_grace(login: &Self::Login) -> Option<Instant>;

    #[doc(hidden)]
    fn login_timeout(connection: &mut Connection<Self>, env: &mut Env<'_>) -> Result<(), Error>;

    /// The first key exchange is over.
    #[doc(hidden)]
    fn keys_ready(connection: &mut Connection<Self>, env: &mut Env<'_>) -> Result<(), Error>;

    /// A message below the connection protocol's, or any before the login is over.
    #[doc(hidden)]
    fn login_message(
        connection: &mut Connection<Self>,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Event>, Error>;

    /// An answer to a question of the login.
    #[doc(hidden)]
    fn login_answer(
        connection: &mut Connection<Self>,
        answer: Answer,
        env: &mut Env<'_>,
    ) -> Result<(), Error>;

    /// Why a channel of this kind is never opened here: a reason of RFC 4254 §5.1 and its text.
    #[doc(hidden)]
    fn refuses(login: &Self::Login, kind: &OpenKind<'_>) -> Option<(u32, &'static str)>;

    /// Host keys that the peer wants proved; `None`: that is refused.
    #[doc(hidden)]
    fn proofs_wanted(_: &mut Connection<Self>, _rest: &[u8]) -> Option<HostKeyProofs> {
        None
    }

    /// The server's host keys, if they are wanted.
    #[doc(hidden)]
    fn host_keys_told(_: &Self::Login, _rest: &[u8]) -> Option<Box<[Box<[u8]>]>> {
        None
    }

    /// Sessions at one time, receive window and largest packet, as configured.
    #[doc(hidden)]
    fn limits(login: &Self::Login) -> Limits;
}

#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub sessions_max: u32,
    pub window_bytes: u32,
    pub window_bytes_max: u32,
    pub packet_bytes: u32,
}
