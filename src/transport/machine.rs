use std::sync::Arc;
use std::{fmt, mem};

use super::exchange::{Exchange, Step};
use super::ident::Scanner;
use super::role::Role;
use super::session::Session;
use super::wires::Wires;
use super::{
    Answer, Client, Env, Error, Negotiated, PeerExtensions, Query, Server, ServerConfig, Stats,
};
use crate::base::{Entropy, Instant, Span};
use crate::crypto::{Geometry, KexTask, PublicKey, ShownKey};
use crate::limits::REKEY_TIME_MAX;
use crate::wire::Message;
use crate::wire::transport::{Disconnect, Unimplemented};

/// One end of a connection, as far as RFC 4253 goes.
pub struct Transport<R: Role> {
    pub(super) config: Arc<R::Config>,
    /// Sticky once it is an error.
    pub(super) stage: Result<Stage<R>, Error>,
    pub(super) wires: Wires,
    /// A rekey was asked for and waits for room in the outbox.
    pub(super) rekey_wanted: bool,
    farewell_sent: bool,
}

/// What became of the bytes at the front of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carved {
    /// Call again when the buffer holds this many bytes from its front.
    Need { total: u32 },
    /// These bytes are done with.
    Handled { used: u32 },
    /// A payload for the floors above, opened in place; its packet took `used` bytes.
    Payload { used: u32, payload: Span },
    /// The same where the peer compresses: [`Transport::take_unpacked`] has the payload.
    Unpacked { used: u32 },
}

/// Data may not leave now: a key exchange runs, or older messages wait. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key exchange is under way")]
pub struct Deferred;

/// One struct a state, holding only what that state knows. Boxed until established; then nothing
/// is, except a key exchange while it runs.
pub(super) enum Stage<R: Role> {
    /// Before [`Transport::start`].
    Fresh,
    Greeting(Box<Greeting<R>>),
    First(Box<First<R>>),
    Established(Established<R>),
}

/// Waits for the peer's identification.
pub(super) struct Greeting<R: Role> {
    pub scanner: Scanner,
    pub exchange: Exchange<R>,
}

/// The first key exchange.
pub(super) struct First<R: Role> {
    pub peer_ident: Box<[u8]>,
    pub exchange: Exchange<R>,
    /// When our KEXINIT is held back no longer.
    pub offer_at: Option<Instant>,
}

pub(super) struct Established<R: Role> {
    pub session: Session,
    pub exchange: Option<Box<Exchange<R>>>,
}

// The inline part of an idle connection (DESIGN §6 budgets 1 KiB for it and the floors around it).
const _: () = assert!(mem::size_of::<Transport<Server>>() <= 700);
const _: () = assert!(mem::size_of::<Transport<Client>>() <= 700);

impl<R: Role> Transport<R> {
    pub fn new(config: Arc<R::Config>) -> Transport<R> {
        Transport {
            config,
            stage: Ok(Stage::Fresh),
            wires: Wires::new(),
            rekey_wanted: false,
            farewell_sent: false,
        }
    }

    /// A connection taken over from elsewhere, past its first key exchange.
    pub(super) fn resume(
        config: Arc<R::Config>,
        session: Session,
        wires: Wires,
        authenticated: bool,
    ) -> Transport<R> {
        let stage = Ok(Stage::Established(Established { session, exchange: None }));
        let mut transport = Transport { stage, wires, ..Transport::new(config) };
        transport.worn_in();
        if authenticated {
            transport.authenticated();
        }
        transport
    }

    /// Sends our identification and, unless the configuration holds it back, our KEXINIT.
    pub fn start(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        if !matches!(self.stage, Ok(Stage::Fresh)) {
            return Err(self.fail(Error::Invariant("started twice"), env));
        }
        let preferences = R::preferences(&self.config);
        let line = [preferences.ident().as_bytes(), b"\r\n"].concat();
        let deadline = preferences.first_exchange_time_max.map(|max| env.now.after(max));
        let exchange = Exchange::new(deadline);
        self.stage =
            Ok(Stage::Greeting(Box::new(Greeting { scanner: Scanner::default(), exchange })));
        if !env.out.append(&line) {
            return Err(self.fail(Error::Invariant("the outbox is full"), env));
        }
        self.wires.stats.bytes_out += line.len() as u64;
        if R::steers(&self.config) {
            return Ok(());
        }
        let begun = self.step(env, Exchange::begin);
        begun.map_err(|error| self.fail(error, env))
    }

    /// Takes one line or one packet off the front of `buf`, opening it in place. Not called while
    /// [`query`](Transport::query) is open, and only with
    /// [`OUTBOX_RESERVE`](crate::limits::OUTBOX_RESERVE) bytes free in the outbox.
    pub fn carve(&mut self, env: &mut Env<'_>, buf: &mut [u8]) -> Result<Carved, Error> {
        match self.try_carve(env, buf) {
            Ok(carved) => Ok(carved),
            Err(error) => Err(self.fail(error, env)),
        }
    }

    /// The question that is open.
    pub fn query(&self) -> Option<&Query> {
        match &self.exchange()?.step {
            Step::Question(question) => Some(R::query(question)),
            _ => None,
        }
    }

    /// The work of an open [`Query::Compute`]: once, and to be answered.
    pub fn take_task(&mut self) -> Option<KexTask> {
        let exchange = match self.stage.as_mut().ok()? {
            Stage::Fresh | Stage::Greeting(_) => return None,
            Stage::First(first) => &mut first.exchange,
            Stage::Established(established) => established.exchange.as_deref_mut()?,
        };
        match &mut exchange.step {
            Step::Question(question) => R::take_task(question),
            _ => None,
        }
    }

    /// Answers the open question, with as much room in the outbox as [`carve`](Transport::carve) asks.
    pub fn answer(&mut self, answer: Answer, env: &mut Env<'_>) -> Result<(), Error> {
        let answered = self.step(env, |exchange, cx| {
            let Step::Question(question) = exchange.step else {
                return Err(Error::Invariant("an answer without a question"));
            };
            let step = R::answer(question, answer, cx)?;
            // A human may have been asked; the clock goes on from here.
            let deadline = exchange.deadline.map(|_| cx.env.now.after(REKEY_TIME_MAX));
            Ok(Exchange { step, deadline, ..exchange })
        });
        answered.map_err(|error| self.fail(error, env))
    }

    /// Sends a message of the floors above, or keeps it in order while a key exchange runs or the
    /// outbox has no room.
    pub fn send<'m, M: Message<'m>>(
        &mut self,
        message: &M,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.check()?;
        self.wires.send(message, env).map_err(|error| self.fail(error, env))
    }

    /// The same for a payload that is encoded already.
    pub fn send_payload(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        self.wires.send_payload(payload, env).map_err(|error| self.fail(error, env))
    }

    /// Tells the peer that the payload carved last means nothing to us (RFC 4253 §11.4).
    pub fn unimplemented(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        let sequence = self.wires.inbound.wear.counters.seq().wrapping_sub(1);
        self.send(&Unimplemented { sequence }, env)
    }

    /// Whether data may be sealed: established, our side in no key exchange, nothing older waiting.
    pub fn is_ready(&self) -> bool {
        self.wires.is_clear() && self.is_established()
    }

    /// Moves what waits into the outbox as far as there is room. For whoever has made room.
    pub fn flush(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        self.maintain(env).map_err(|error| self.fail(error, env))
    }

    /// How packets that we send are cut at present.
    pub const fn geometry(&self) -> Geometry {
        self.wires.outbound.geometry()
    }

    /// Whether payloads are compressed on their way out: what is handed to
    /// [`seal`](Transport::seal) has been through [`pack`](Transport::pack) then.
    pub const fn packs(&self) -> bool {
        self.wires.outbound.packer.is_some()
    }

    /// Compresses a payload that is sealed next. Nothing may be sent in between, and what was packed
    /// must be sealed: the peer unpacks it as part of one stream.
    pub fn pack(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        match &mut self.wires.outbound.packer {
            Some(packer) => packer.pack(payload),
            None => Err(Error::Invariant("compression is not in force")),
        }
    }

    /// The payload that [`carve`](Transport::carve) unpacked last.
    pub fn take_unpacked(&mut self) -> Vec<u8> {
        let unpacker = self.wires.inbound.unpacker.as_mut();
        unpacker.map(|unpacker| mem::take(&mut unpacker.payload)).unwrap_or_default()
    }

    /// Bytes that the packet carved last took as a payload where the peer compresses, otherwise
    /// zero: work to be counted beside its bytes on the wire.
    pub fn unpacked_len(&self) -> u32 {
        self.wires.inbound.unpacker.as_ref().map_or(0, |unpacker| unpacker.len)
    }

    /// Frames and seals bulk data in place. `packet` is exactly
    /// [`wire_len(payload_len)`](Geometry::wire_len) bytes with the payload at offset 5.
    pub fn seal(
        &mut self,
        packet: &mut [u8],
        payload_len: u32,
        entropy: &mut dyn Entropy,
    ) -> Result<(), Deferred> {
        if !self.is_ready() {
            return Err(Deferred);
        }
        if packet.len() as u64 != u64::from(self.geometry().wire_len(payload_len)) {
            self.stage = Err(Error::Invariant("a packet cut to a wrong length"));
            return Err(Deferred);
        }
        self.wires.outbound.seal(packet, payload_len, entropy).map_err(|_| Deferred)?;
        self.wires.stats.packets_out += 1;
        self.wires.stats.bytes_out += packet.len() as u64;
        Ok(())
    }

    /// Empty before the first key exchange is over, the same bytes ever after.
    pub fn session_id(&self) -> &[u8] {
        self.session().map_or(&[], |session| session.id.as_ref())
    }

    /// The first key exchange is over.
    pub const fn is_established(&self) -> bool {
        matches!(self.stage, Ok(Stage::Established(_)))
    }

    /// Neither side is in a key exchange; true from the peer's NEWKEYS on.
    pub const fn is_exchanging(&self) -> bool {
        match &self.stage {
            Ok(Stage::Established(established)) => established.exchange.is_some(),
            _ => true,
        }
    }

    /// Our own identification, without its line end.
    pub fn own_ident(&self) -> &[u8] {
        R::preferences(&self.config).ident().as_bytes()
    }

    /// The peer's identification without its line end, as sent: escape it before showing it.
    pub fn peer_ident(&self) -> &[u8] {
        match &self.stage {
            Ok(Stage::First(first)) => &first.peer_ident,
            Ok(Stage::Established(established)) => &established.session.peer_ident,
            _ => &[],
        }
    }

    /// What the latest key exchange settled.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        Some(&self.session()?.negotiated)
    }

    /// The server's host key, on both sides.
    pub fn host_key(&self) -> Option<&PublicKey> {
        Some(&self.session()?.host_key.key)
    }

    /// The same as it was shown in the first key exchange, which is what logins are bound to.
    pub fn shown_host_key(&self) -> Option<&ShownKey> {
        Some(&self.session()?.host_key)
    }

    /// What the peer said in EXT_INFO.
    pub fn peer_extensions(&self) -> Option<&PeerExtensions> {
        self.session()?.extensions.as_deref()
    }

    /// Key exchanges finished so far; it changes inside [`carve`](Transport::carve) alone.
    pub fn exchanges(&self) -> u32 {
        self.session().map_or(0, |session| session.exchanges)
    }

    pub const fn stats(&self) -> Stats {
        self.wires.stats
    }

    /// The peer is authenticated: larger packets are believed and more bytes taken.
    pub fn authenticated(&mut self) {
        self.wires.authenticated = true;
        self.wires.inbound.authenticated();
        // A server's compression begins behind the message that says so, which may still wait.
        if !R::SERVER {
            self.wires.start_compression();
        }
    }

    /// Starts a key exchange; nothing happens when one runs already.
    pub fn rekey(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        self.rekey_wanted = self.is_established();
        self.maintain(env).map_err(|error| self.fail(error, env))
    }

    /// When [`handle_timeout`](Transport::handle_timeout) wants to be called. A time that has
    /// passed already means at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage.as_ref().ok()? {
            Stage::Fresh => None,
            Stage::Greeting(greeting) => greeting.exchange.deadline,
            Stage::First(first) => {
                [first.exchange.expires_at(), first.offer_at].into_iter().flatten().min()
            }
            Stage::Established(Established { exchange: Some(exchange), .. }) => {
                exchange.expires_at()
            }
            Stage::Established(_) if self.rekey_wanted => None,
            Stage::Established(established) => self.rekey_at(&established.session),
        }
    }

    /// When a key exchange that is still going on then ends the connection.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Ok(Stage::Greeting(greeting)) => greeting.exchange.deadline,
            _ => self.exchange().and_then(Exchange::expires_at),
        }
    }

    pub fn handle_timeout(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        self.try_timeout(env).map_err(|error| self.fail(error, env))
    }

    /// Ends the connection: DISCONNECT is the last thing that leaves (RFC 4253 §11.1).
    pub fn disconnect(&mut self, code: u32, text: &str, env: &mut Env<'_>) {
        if self.stage.is_ok() {
            self.farewell(code, text, env);
            self.stage = Err(Error::Closed);
        }
    }
}

impl Transport<Server> {
    /// Goes on under another configuration: one login's limits can differ from another's. What was
    /// negotiated stays, and the host keys must be the same.
    pub fn follow(&mut self, config: Arc<ServerConfig>) {
        self.config = config;
        self.worn_in();
    }
}

impl Transport<Client> {
    /// The signature algorithms the server accepts from a user (RFC 8308 §3.1), as a name-list.
    pub fn peer_server_sig_algs(&self) -> Option<&str> {
        self.peer_extensions()?.server_sig_algs.as_deref()
    }
}

impl<R: Role> Exchange<R> {
    /// While a human decides whether to trust a key, no clock runs.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        match &self.step {
            Step::Question(question)
                if matches!(R::query(question), Query::TrustHostKey { .. }) =>
            {
                None
            }
            _ => self.deadline,
        }
    }
}

impl<R: Role> Transport<R> {
    fn check(&self) -> Result<(), Error> {
        self.stage.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    pub(super) fn exchange(&self) -> Option<&Exchange<R>> {
        match self.stage.as_ref().ok()? {
            Stage::Fresh | Stage::Greeting(_) => None,
            Stage::First(first) => Some(&first.exchange),
            Stage::Established(established) => established.exchange.as_deref(),
        }
    }

    const fn session(&self) -> Option<&Session> {
        match &self.stage {
            Ok(Stage::Established(established)) => Some(&established.session),
            _ => None,
        }
    }

    /// Makes an error sticky and tells the peer, once.
    fn fail(&mut self, error: Error, env: &mut Env<'_>) -> Error {
        if let Err(first) = &self.stage
            && *first != MOVING
        {
            return first.clone();
        }
        if let Error::Identification(_) = &error {
            // The peer may not speak SSH: a server says so in words, a client just leaves.
            if R::SERVER {
                self.farewell_sent = env.out.append(b"Invalid SSH identification string.\r\n");
            }
        } else if let Some(code) = error.disconnect_code() {
            self.farewell(code, &error.to_string(), env);
        }
        self.stage = Err(error.clone());
        error
    }

    fn farewell(&mut self, code: u32, text: &str, env: &mut Env<'_>) {
        // Before the peer's identification there is nobody to read a packet.
        if self.farewell_sent || matches!(self.stage, Ok(Stage::Fresh | Stage::Greeting(_))) {
            return;
        }
        let end = FAREWELL_BYTES_MAX.min(text.len());
        let end = (0..=end).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let description = text.get(..end).unwrap_or_default().as_bytes();
        // Without room it goes unsaid; the connection ends all the same.
        let said = self.wires.emit(&Disconnect { reason: code, description }, env);
        self.farewell_sent = said.is_ok();
    }
}

impl<R: Role> fmt::Debug for Transport<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Err(_) => "failed",
            Ok(Stage::Fresh) => "fresh",
            Ok(Stage::Greeting(_)) => "greeting",
            Ok(Stage::First(_)) => "first key exchange",
            Ok(Stage::Established(_)) => "established",
        };
        let mut out = f.debug_struct("Transport");
        out.field("stage", &stage).field("wires", &self.wires).finish_non_exhaustive()
    }
}

/// Stands where a stage was while it is being left by value; seen again only if that failed.
pub(super) const MOVING: Error = Error::Invariant("a stage was left and not taken up");
/// Our own words in a DISCONNECT.
const FAREWELL_BYTES_MAX: usize = 512;
