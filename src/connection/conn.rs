use std::sync::Arc;
use std::time::Duration;

use super::{
    Answer, ChannelId, ChannelKind, ChannelRequest, Connection, ConnectionConfig, Event,
    GlobalRequest, Input, Method, Plan,
};
use crate::base::{Entropy, Instant, Span};
use crate::transport::{Client, Deferred, Env, Error, Negotiated, Server, Stats};
use crate::wire::request::RequestBody;

/// A connection in either role, so that what is attached to its channels need not care. Each
/// method is that of [`Connection`] by the same name.
#[derive(Debug)]
pub enum Conn {
    Server(Connection<Server>),
    Client(Connection<Client>),
}

macro_rules! either {
    ($conn:ident.$method:ident($($arg:ident),*)) => {
        match $conn {
            Conn::Server(connection) => connection.$method($($arg),*),
            Conn::Client(connection) => connection.$method($($arg),*),
        }
    };
}

impl Conn {
    /// Whose login a client asks for, while it is not over.
    pub fn user_asked(&self) -> Option<&str> {
        match self {
            Conn::Server(connection) => connection.user_asked(),
            Conn::Client(_) => None,
        }
    }

    /// What stood behind the user in the login name: `:style`, or nothing.
    pub fn style_asked(&self) -> &str {
        match self {
            Conn::Server(connection) => connection.style_asked(),
            Conn::Client(_) => "",
        }
    }

    /// Whose password or code is being asked about here, and by which method it came.
    pub fn secrets_asked(&self) -> Option<(&str, Method)> {
        match self {
            Conn::Server(connection) => connection.secrets_asked(),
            Conn::Client(_) => None,
        }
    }

    /// [`Connection::handle_input`].
    pub fn handle_input(&mut self, env: &mut Env<'_>, buf: &mut [u8]) -> Result<Input, Error> {
        either!(self.handle_input(env, buf))
    }

    /// [`Connection::unpacked_len`].
    pub fn unpacked_len(&self) -> u32 {
        either!(self.unpacked_len())
    }

    /// [`Connection::poll_event`].
    pub fn poll_event(&mut self) -> Option<Event> {
        either!(self.poll_event())
    }

    /// [`Connection::blocked`].
    pub fn blocked(&self) -> bool {
        either!(self.blocked())
    }

    /// [`Connection::answer`].
    pub fn answer(&mut self, answer: Answer, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.answer(answer, env))
    }

    /// [`Connection::poll_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        either!(self.poll_timeout())
    }

    /// [`Connection::deadline`].
    pub fn deadline(&self) -> Option<(Instant, Error)> {
        either!(self.deadline())
    }

    /// [`Connection::handle_timeout`].
    pub fn handle_timeout(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.handle_timeout(env))
    }

    /// [`Connection::flush`].
    pub fn flush(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.flush(env))
    }

    /// [`Connection::is_ready`].
    pub fn is_ready(&self) -> bool {
        either!(self.is_ready())
    }

    /// [`Connection::is_authenticated`].
    pub fn is_authenticated(&self) -> bool {
        either!(self.is_authenticated())
    }

    /// [`Connection::rekey`].
    pub fn rekey(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.rekey(env))
    }

    /// [`Connection::follow`]; a client has nothing to follow.
    pub fn follow(&mut self, config: Arc<ConnectionConfig>, now: Instant) {
        if let Conn::Server(connection) = self {
            connection.follow(config, now);
        }
    }

    /// [`Connection::disconnect`].
    pub fn disconnect(&mut self, code: u32, text: &str, env: &mut Env<'_>) {
        either!(self.disconnect(code, text, env))
    }

    /// [`Connection::send_global`].
    pub fn send_global(
        &mut self,
        name: &str,
        want_reply: bool,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        either!(self.send_global(name, want_reply, env))
    }

    /// [`Connection::failure`].
    pub fn failure(&self) -> Option<&Error> {
        either!(self.failure())
    }

    /// [`Connection::session_id`].
    pub fn session_id(&self) -> &[u8] {
        either!(self.session_id())
    }

    /// [`Connection::own_ident`].
    pub fn own_ident(&self) -> &[u8] {
        either!(self.own_ident())
    }

    /// [`Connection::peer_ident`].
    pub fn peer_ident(&self) -> &[u8] {
        either!(self.peer_ident())
    }

    /// [`Connection::negotiated`].
    pub fn negotiated(&self) -> Option<&Negotiated> {
        either!(self.negotiated())
    }

    /// [`Connection::stats`].
    pub fn stats(&self) -> Stats {
        either!(self.stats())
    }

    /// [`Connection::channel_count`].
    pub fn channel_count(&self) -> usize {
        either!(self.channel_count())
    }

    /// [`Connection::begin_lingering`].
    pub fn begin_lingering(&mut self, bytes: u32) {
        either!(self.begin_lingering(bytes));
    }

    /// [`Connection::end_lingering`].
    pub fn end_lingering(&mut self, bytes: u32) {
        either!(self.end_lingering(bytes));
    }

    /// [`Connection::accept_open`].
    pub fn accept_open(
        &mut self,
        id: ChannelId,
        window_bytes: u32,
        packet_bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        either!(self.accept_open(id, window_bytes, packet_bytes, env))
    }

    /// [`Connection::accept_open_default`].
    pub fn accept_open_default(&mut self, id: ChannelId, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.accept_open_default(id, env))
    }

    /// [`Connection::reject_open`].
    pub fn reject_open(
        &mut self,
        id: ChannelId,
        reason: u32,
        text: &str,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        either!(self.reject_open(id, reason, text, env))
    }

    /// [`Connection::open`].
    pub fn open(
        &mut self,
        kind: &ChannelKind,
        env: &mut Env<'_>,
    ) -> Result<Option<ChannelId>, Error> {
        either!(self.open(kind, env))
    }

    /// [`Connection::open_session`].
    pub fn open_session(&mut self, env: &mut Env<'_>) -> Result<Option<ChannelId>, Error> {
        either!(self.open_session(env))
    }

    /// [`Connection::request`].
    pub fn request(
        &mut self,
        id: ChannelId,
        request: &ChannelRequest,
        want_reply: bool,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        either!(self.request(id, request, want_reply, env))
    }

    /// [`Connection::reply`].
    pub fn reply(&mut self, id: ChannelId, ok: bool, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.reply(id, ok, env))
    }

    /// [`Connection::reply_global`].
    pub fn reply_global(
        &mut self,
        ok: bool,
        port: Option<u32>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        either!(self.reply_global(ok, port, env))
    }

    /// [`Connection::tell_host_keys`]; a client has none.
    pub fn tell_host_keys(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        match self {
            Conn::Server(connection) => connection.tell_host_keys(env),
            Conn::Client(_) => Ok(()),
        }
    }

    /// [`Connection::prove_host_keys`]; a client has none.
    pub fn prove_host_keys(
        &mut self,
        signatures: Option<&[Box<[u8]>]>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        match self {
            Conn::Server(connection) => connection.prove_host_keys(signatures, env),
            Conn::Client(_) => Ok(()),
        }
    }

    /// [`Connection::send_eof`].
    pub fn send_eof(&mut self, id: ChannelId, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.send_eof(id, env))
    }

    /// [`Connection::exit_status`].
    pub fn exit_status(
        &mut self,
        id: ChannelId,
        code: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        either!(self.exit_status(id, code, env))
    }

    /// [`Connection::exit_signal`].
    pub fn exit_signal(
        &mut self,
        id: ChannelId,
        name: &str,
        core_dumped: bool,
        text: &str,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        either!(self.exit_signal(id, name, core_dumped, text, env))
    }

    /// [`Connection::close`].
    pub fn close(&mut self, id: ChannelId, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.close(id, env))
    }

    /// [`Connection::consumed`].
    pub fn consumed(&mut self, id: ChannelId, bytes: u32, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.consumed(id, bytes, env))
    }

    /// [`Connection::expect`].
    pub fn expect(
        &mut self,
        id: ChannelId,
        turn: Duration,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        either!(self.expect(id, turn, env))
    }

    /// [`Connection::credit`].
    pub fn credit(&self, id: ChannelId) -> u32 {
        either!(self.credit(id))
    }

    /// [`Connection::set_aside`].
    #[cfg(feature = "sim")]
    pub fn set_aside(&self, id: ChannelId) -> u32 {
        either!(self.set_aside(id))
    }

    /// [`Connection::windows_grown`].
    #[cfg(feature = "sim")]
    pub fn windows_grown(&self) -> u64 {
        either!(self.windows_grown())
    }

    /// [`Connection::packet_max`].
    pub fn packet_max(&self, id: ChannelId) -> u32 {
        either!(self.packet_max(id))
    }

    /// [`Connection::receive_window`].
    pub fn receive_window(&self, id: ChannelId) -> u32 {
        either!(self.receive_window(id))
    }

    /// [`Connection::held`].
    #[cfg(test)]
    pub fn held(&self, id: ChannelId) -> u32 {
        either!(self.held(id))
    }

    /// [`Connection::reserve`].
    pub fn reserve(&mut self, id: ChannelId, want: u32) -> u32 {
        either!(self.reserve(id, want))
    }

    /// [`Connection::refund`].
    pub fn refund(&mut self, id: ChannelId, bytes: u32) {
        either!(self.refund(id, bytes))
    }

    /// [`Connection::plan`].
    pub fn plan(
        &mut self,
        id: ChannelId,
        extended: Option<u32>,
        at: u32,
        room: u32,
        want: u32,
    ) -> Option<Plan> {
        either!(self.plan(id, extended, at, room, want))
    }

    /// [`Connection::plan_around`].
    pub fn plan_around(&mut self, id: ChannelId, extended: Option<u32>, data: Span) -> Plan {
        either!(self.plan_around(id, extended, data))
    }

    /// [`Connection::seal_plan`].
    pub fn seal_plan(
        &mut self,
        plan: &Plan,
        got: u32,
        buf: &mut [u8],
        entropy: &mut dyn Entropy,
    ) -> Result<Span, Deferred> {
        either!(self.seal_plan(plan, got, buf, entropy))
    }

    /// [`Connection::drop_plan`].
    pub fn drop_plan(&mut self, plan: Plan) {
        either!(self.drop_plan(plan))
    }

    /// [`Connection::write_data`].
    pub fn write_data(
        &mut self,
        id: ChannelId,
        extended: Option<u32>,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> bool {
        either!(self.write_data(id, extended, bytes, env))
    }

    /// [`Connection::relay`].
    pub const fn relay(&mut self) {
        either!(self.relay())
    }

    /// [`Connection::open_with`].
    pub fn open_with(
        &mut self,
        kind: &ChannelKind,
        window_bytes: u32,
        packet_bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<Option<ChannelId>, Error> {
        either!(self.open_with(kind, window_bytes, packet_bytes, env))
    }

    /// [`Connection::pass_request`].
    pub fn pass_request(
        &mut self,
        id: ChannelId,
        want_reply: bool,
        body: RequestBody<'_>,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        either!(self.pass_request(id, want_reply, body, env))
    }

    /// [`Connection::pass_reply`].
    pub fn pass_reply(&mut self, id: ChannelId, ok: bool, env: &mut Env<'_>) -> Result<(), Error> {
        either!(self.pass_reply(id, ok, env))
    }

    /// [`Connection::pass_global`].
    pub fn pass_global(
        &mut self,
        request: &GlobalRequest,
        env: &mut Env<'_>,
    ) -> Result<bool, Error> {
        either!(self.pass_global(request, env))
    }

    /// [`Connection::grant_up_to`].
    pub fn grant_up_to(
        &mut self,
        id: ChannelId,
        bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        either!(self.grant_up_to(id, bytes, env))
    }

    /// [`Connection::fits_around`].
    pub fn fits_around(&self, extended: Option<u32>, data: Span, room: u32) -> bool {
        either!(self.fits_around(extended, data, room))
    }

    /// [`Connection::owes_window`].
    pub fn owes_window(&self, id: ChannelId, bytes: u32) -> bool {
        either!(self.owes_window(id, bytes))
    }

    /// [`Connection::offered_window`].
    pub fn offered_window(&self, id: ChannelId) -> u32 {
        either!(self.offered_window(id))
    }

    /// [`Connection::accept_with`].
    pub fn accept_with(
        &mut self,
        id: ChannelId,
        window_bytes: u32,
        packet_bytes: u32,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        either!(self.accept_with(id, window_bytes, packet_bytes, env))
    }
}
