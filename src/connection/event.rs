//! What a connection tells its owner, and what it asks of it.

use std::sync::Arc;

use crate::base::Span;
use crate::connection::{ChannelId, ConnectionConfig, HostKeyProofs, Secret, Secrets};
use crate::crypto::kex::Group;
use crate::crypto::{
    Attestation, Certificate, KexError, KexPiece, KexTask, PublicKey, SharedSecret,
    SignatureAlgorithm,
};
use crate::limits::{PTY_MODES_BYTES_MAX, PTY_SIDE_MAX};
use crate::transport::SignableExchange;
use crate::wire::channel::{GlobalBody, OpenKind, X11_CHANNEL};
use crate::wire::request::{REFUSED, RequestBody, X11Fields};

/// What became of the bytes at the front of a buffer.
#[derive(Debug)]
pub enum Input {
    /// Call again when the buffer holds this many bytes from its front.
    Need { total: u32 },
    /// These bytes are done with. A [`Event::Data`] names some of them.
    Used { used: u32, event: Option<Event> },
}

/// Something the owner of the connection acts on.
#[derive(Debug)]
pub enum Event {
    /// A key exchange is over; data may flow again.
    KeyExchanged { first: bool },
    /// Nothing more is read until [`crate::connection::Connection::answer`] is called.
    Query(Query),
    /// Text of the server's to show before the login goes on; escape it. Client role.
    Banner { text: Box<str> },
    /// The login is over. `key` is the one whose signature was verified (server role) or accepted
    /// (client role).
    Authenticated {
        user: Box<str>,
        method: &'static str,
        key: Option<Box<PublicKey>>,
        /// The key's signature. Server role.
        verified: Option<Box<Verified>>,
    },
    /// Server role: a method has succeeded, and others are still asked for. As with
    /// `Authenticated`, `key` is the one whose signature was verified.
    Partial {
        user: Box<str>,
        method: &'static str,
        key: Option<Box<PublicKey>>,
        /// What a security key said about its signature.
        verified: Option<Box<Verified>>,
    },
    /// Server role: an attempt failed; for the log. Client role: try something else.
    AuthFailed(Box<AuthFailed>),
    /// The peer asks for a channel: accept or reject it.
    Open { id: ChannelId, kind: ChannelKind },
    /// The peer has opened the channel we asked for.
    Opened { id: ChannelId },
    /// The peer has refused the channel we asked for; `id` is dead.
    OpenFailed { id: ChannelId, reason: u32, text: Box<str> },
    /// Bytes of the channel, in the buffer that was handed in. `extended`: beside the main stream
    /// (RFC 4254 §5.2; 1 is standard error). Their window is granted again by `consumed`.
    Data { id: ChannelId, extended: Option<u32>, data: Span },
    /// The same from a peer that compresses: the bytes themselves.
    Copied { id: ChannelId, extended: Option<u32>, data: Box<[u8]> },
    /// The peer asks something of the channel. If it wants a reply, call `reply`; later requests
    /// of the channel wait until then.
    Request { id: ChannelId, want_reply: bool, request: ChannelRequest },
    /// The same on a connection that is relayed: the message as it came
    /// ([`ChannelRequest::parse`](crate::wire::request::ChannelRequest)). If it wants a reply, pass
    /// one on with `pass_reply`, in the order of the requests.
    Asked { id: ChannelId, request: Box<[u8]> },
    /// The peer asked for something in more words than we take. It has been refused; this is for the log.
    TooLong { what: Box<str> },
    /// The peer asked for one channel more than it may have, or for one session. It has been refused; this
    /// is for the log. Server role.
    TooMany { session: bool },
    /// The peer has answered our oldest unanswered request.
    RequestDone { id: ChannelId, ok: bool },
    /// The peer takes more data.
    WindowOpened(ChannelId),
    /// The peer will send no more data.
    Eof(ChannelId),
    /// The peer has closed its side and we have not: finish and call `close`.
    PeerClosed(ChannelId),
    /// Both sides are closed; `id` is dead. Nothing is heard of it again.
    Closed(ChannelId),
    /// The peer asked something of the connection. Server role: call `reply_global` whether or not it
    /// wants a reply; later global requests wait until then. Client role: it has been refused.
    Global { want_reply: bool, request: GlobalRequest },
    /// Client role, where [`super::ClientConnectionConfig::hears_host_keys`] is set: all keys that the
    /// server says it has, encoded; nothing of it is proved.
    HostKeys { keys: Box<[Box<[u8]>]> },
    /// The server's answer to [`Connection::ask_proofs`](super::Connection::ask_proofs), encoded, for
    /// [`super::host_keys_hold`]. `None`: a refusal.
    HostKeysProved { answer: Option<Box<[u8]>> },
    /// Server role: the client wants proofs that we hold these host keys, in this order: call
    /// `prove_host_keys`; later global requests wait until then.
    ProveHostKeys { keys: HostKeyProofs },
    /// The peer has answered our oldest unanswered global request. `port`: the one it chose, if it
    /// was asked to (RFC 4254 §7.1).
    GlobalDone { ok: bool, port: Option<u32> },
}

/// A signature that a key has made of the session's identifier and the request.
#[derive(Clone, Debug)]
pub struct Verified {
    /// For whoever has to see for himself.
    pub signature: Box<[u8]>,
    /// What a security key says about it.
    pub attestation: Option<Attestation>,
}

impl Event {
    /// An event whose bytes lie in `buf`, which is not the owner's.
    pub(super) fn copied(self, buf: &[u8]) -> Event {
        match self {
            Event::Data { id, extended, data } => {
                Event::Copied { id, extended, data: data.of(buf).unwrap_or_default().into() }
            }
            event => event,
        }
    }
}

/// One attempt that came to nothing.
#[derive(Debug)]
pub struct AuthFailed {
    /// As the peer wrote it: escape it.
    pub user: Box<str>,
    /// As the peer wrote it (server role), or as we did.
    pub method: Box<str>,
    pub key: Option<Box<PublicKey>>,
    /// The certificate that the key was shown in; not checked.
    pub certificate: Option<Box<Certificate>>,
    /// Server role: the attempt only asked whether the key would do.
    pub probe: bool,
    /// Server role: what is wrong, where the client is told no more than that it failed.
    pub why: Option<&'static str>,
    /// Failures counted so far, this one included.
    pub failures: u32,
    /// Server role: they are too many, and the connection ends.
    pub last: bool,
    /// Client role: methods that may go on, comma-separated.
    pub methods: Box<str>,
    /// Client role: the attempt succeeded, but more is asked.
    pub partial: bool,
}

/// Work that is not done here: slow, privileged, or somebody else's to decide.
#[derive(Debug)]
pub enum Query {
    /// Server: answer the client's public value in this group
    /// ([`respond_in`](crate::crypto::kex::respond_in)), which takes milliseconds.
    Agree { group: Box<Group>, client_public: Box<[u8]> },
    /// Server: sign the exchange hash with this host key of the configuration.
    Sign {
        host_key: usize,
        algorithm: SignatureAlgorithm,
        message: Box<[u8]>,
        /// What the hash was made of, where
        /// [`ServerConfig::signs_elsewhere`](crate::transport::ServerConfig::signs_elsewhere) is set.
        exchange: Option<SignableExchange>,
    },
    /// Client: the server has proved that it holds this key; is it the right one?
    TrustHostKey {
        key: Box<PublicKey>,
        algorithm: SignatureAlgorithm,
        /// The certificate that holds the key, if it was shown inside one; not checked.
        certificate: Option<Box<Certificate>>,
        /// The session's identifier, and the server's signature over it.
        session: Box<[u8]>,
        signature: Box<[u8]>,
    },
    /// Client: a slow piece of the key exchange ([`KexTask::run`]). Asked only where
    /// [`ClientConfig::defers`](crate::transport::ClientConfig::defers) is set.
    Compute(Box<KexTask>),
    /// Server: may this key log in as this user? Nothing has been proved yet: the answer may not
    /// be acted on before [`Event::Authenticated`] or [`Event::Partial`] names the same key.
    FindKey {
        user: Box<str>,
        key: Box<PublicKey>,
        algorithm: SignatureAlgorithm,
        /// The certificate that holds the key, if it was shown inside one; not checked.
        certificate: Option<Box<Certificate>>,
        /// Where [`super::ConnectionConfig::verifies_elsewhere`] is set: what the key is to have signed
        /// as well. Yes is then for both.
        signed: Option<Box<Signed>>,
    },
    /// Server: are these this user's? Answered as `FindKey` is; a grant that is made for them is for
    /// no key.
    CheckSecrets { user: Box<str>, secrets: Box<Secrets> },
    /// Server: somebody logs in by keyboard-interactive where others ask
    /// ([`super::ConnectionConfig::talks`]). `answers`: to what was asked last; `None`: he begins. Answered
    /// by the next questions, or as `CheckSecrets` is.
    Converse { user: Box<str>, answers: Option<Vec<Secret>> },
    /// Server: every method has succeeded, the last of them this; may the account be used? Asked where
    /// [`super::ConnectionConfig::asks_accounts`] is set, before the client hears of it.
    Admit { user: Box<str>, proven: Box<Proven> },
    /// Server: what holds for whoever logs in under this name? Asked once, before anything about
    /// the login is answered, where [`super::ConnectionConfig::asks_users`] is set.
    Greet { user: Box<str> },
    /// Client: the server asks whoever logs in.
    Ask(Box<Questions>),
    /// Client: sign a login with this key. The message is made of the session, the user, the algorithm
    /// and the key.
    SignLogin {
        key: Box<PublicKey>,
        algorithm: SignatureAlgorithm,
        message: Box<[u8]>,
        session: Box<LoginSession>,
    },
}

/// What binds a login that a key signs to one connection (RFC 4252 §7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSession {
    /// The session's identifier.
    pub id: Box<[u8]>,
    /// The host's key as it was shown, in the host-bound method; empty in the other.
    pub host_key: Box<[u8]>,
}

/// A method that has succeeded.
#[derive(Clone, Debug)]
pub struct Proven {
    pub method: &'static str,
    /// The key whose signature was verified.
    pub key: Option<Box<PublicKey>>,
    pub verified: Option<Box<Verified>>,
}

/// A signature over the request of a login (RFC 4252 §7), not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// It is over the host key as well (OpenSSH PROTOCOL §1.8).
    pub host_bound: bool,
    pub signature: Box<[u8]>,
}

/// One round of keyboard-interactive (RFC 4256 §3.2). Texts are the server's: show them escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Questions {
    pub name: Box<str>,
    pub instruction: Box<str>,
    /// Each prompt, and whether what is typed may be shown.
    pub prompts: Vec<(Box<str>, bool)>,
}

impl Questions {
    /// The answers of somebody who knows a password and nothing else: it is for the one prompt whose
    /// answer is not shown. `None`: something else is asked.
    pub fn answered_by(&self, secret: &Secret) -> Option<Vec<Secret>> {
        match self.prompts.as_slice() {
            [] => Some(Vec::new()),
            [(_, false)] => Some(vec![secret.clone()]),
            _ => None,
        }
    }
}

/// What comes of a [`Query`].
#[derive(Debug)]
pub enum Answer {
    /// To `Ask`: one for each prompt; `None` when nobody answers.
    Said(Option<Vec<Secret>>),
    /// To `Agree`: our public value and the shared secret.
    Agreement(Result<(Box<[u8]>, SharedSecret), KexError>),
    /// To `Sign` and `SignLogin`: the signature blob, or `None` when the key could not sign.
    Signature(Option<Box<[u8]>>),
    /// To `TrustHostKey`.
    Trust(bool),
    /// To `Compute`.
    Computed(Result<KexPiece, KexError>),
    /// To `FindKey` and `CheckSecrets`. A security key has to be touched.
    Key(bool),
    /// To `FindKey`: yes, if the signature comes with this, where a security key makes it.
    KeyIf(Presence),
    /// To `Converse`: what is to be asked next. Without prompts it is only to be shown.
    Asks(Box<Questions>),
    /// To `Admit`, and what the client is to be told before it hears whether it is in.
    Admitted { allowed: bool, text: Box<str> },
    /// To `Greet`.
    Greeted(Arc<ConnectionConfig>),
}

/// What a security key has to attest for its signature to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Somebody has touched it.
    pub touch: bool,
    /// Somebody has proved to it who he is.
    pub verify: bool,
}

impl Presence {
    pub const TOUCH: Presence = Presence { touch: true, verify: false };

    /// What the attestation lacks, in sshd's words.
    pub const fn lacks(self, attestation: Attestation) -> Option<&'static str> {
        if self.touch && !attestation.touched() {
            Some("user presence (authenticator touch) requirement not met")
        } else if self.verify && !attestation.verified() {
            Some("user verification requirement not met")
        } else {
            None
        }
    }
}

/// What a channel is for (RFC 4254 §6.1, §7.2, OpenSSH PROTOCOL §2.4). Texts are the peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    Session,
    /// Ports are as the peer wrote them and may pass 65,535.
    DirectTcpip {
        host: Box<str>,
        port: u32,
        origin_host: Box<str>,
        origin_port: u32,
    },
    ForwardedTcpip {
        address: Box<str>,
        port: u32,
        origin_host: Box<str>,
        origin_port: u32,
    },
    DirectStreamlocal {
        path: Box<[u8]>,
    },
    ForwardedStreamlocal {
        path: Box<[u8]>,
    },
    /// A type we do not know, and its fields.
    Other {
        name: Box<str>,
        rest: Box<[u8]>,
    },
}

impl From<&OpenKind<'_>> for ChannelKind {
    fn from(kind: &OpenKind<'_>) -> ChannelKind {
        match *kind {
            OpenKind::Session => ChannelKind::Session,
            OpenKind::DirectTcpip { host, port, origin_host, origin_port } => {
                let (host, origin_host) = (host.into(), origin_host.into());
                ChannelKind::DirectTcpip { host, port, origin_host, origin_port }
            }
            OpenKind::ForwardedTcpip { address, port, origin_host, origin_port } => {
                let (address, origin_host) = (address.into(), origin_host.into());
                ChannelKind::ForwardedTcpip { address, port, origin_host, origin_port }
            }
            OpenKind::DirectStreamlocal { path } => {
                ChannelKind::DirectStreamlocal { path: path.into() }
            }
            OpenKind::ForwardedStreamlocal { path } => {
                ChannelKind::ForwardedStreamlocal { path: path.into() }
            }
            OpenKind::Other { name, rest } => {
                ChannelKind::Other { name: name.into(), rest: rest.into() }
            }
        }
    }
}

impl ChannelKind {
    /// A program, there, wants to speak with the client's X server (RFC 4254 §6.3.2).
    pub fn x11(host: &str, port: u32) -> ChannelKind {
        let len = (host.len() as u32).to_be_bytes();
        let rest = [&len[..], host.as_bytes(), &port.to_be_bytes()].concat().into();
        ChannelKind::Other { name: X11_CHANNEL.into(), rest }
    }

    pub(super) fn to_wire(&self) -> OpenKind<'_> {
        match self {
            ChannelKind::Session => OpenKind::Session,
            ChannelKind::DirectTcpip { host, port, origin_host, origin_port } => {
                let (port, origin_port) = (*port, *origin_port);
                OpenKind::DirectTcpip { host, port, origin_host, origin_port }
            }
            ChannelKind::ForwardedTcpip { address, port, origin_host, origin_port } => {
                let (port, origin_port) = (*port, *origin_port);
                OpenKind::ForwardedTcpip { address, port, origin_host, origin_port }
            }
            ChannelKind::DirectStreamlocal { path } => OpenKind::DirectStreamlocal { path },
            ChannelKind::ForwardedStreamlocal { path } => OpenKind::ForwardedStreamlocal { path },
            ChannelKind::Other { name, rest } => OpenKind::Other { name, rest },
        }
    }
}

/// What is asked of a channel (RFC 4254 §6). Free of NUL where a C string may be made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelRequest {
    PtyReq {
        /// Printable ASCII without spaces.
        term: Box<str>,
        size: WindowSize,
        /// RFC 4254 §8, encoded and whole: [`crate::wire::request::terminal_modes`] reads it.
        modes: Box<[u8]>,
    },
    Env {
        /// Not empty, no `=`.
        name: Box<str>,
        value: Box<[u8]>,
    },
    Shell,
    Exec {
        command: Box<[u8]>,
    },
    Subsystem {
        name: Box<str>,
    },
    WindowChange(WindowSize),
    /// The name without "SIG"; as the peer wrote it.
    Signal {
        name: Box<str>,
    },
    Break {
        milliseconds: u32,
    },
    ExitStatus {
        code: u32,
    },
    ExitSignal {
        name: Box<str>,
        core_dumped: bool,
        text: Box<str>,
    },
    /// The peer reads no more: sending may stop early.
    EndOfWrite,
    /// Programs may use the client's agent.
    AgentForward,
    /// Programs may use the client's X server.
    X11Forward(X11Request),
    /// Anything else, without its fields.
    Other {
        name: Box<str>,
    },
}

/// RFC 4254 §6.3.1. Protocol and cookie are such that xauth and a shell read them as one word each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X11Request {
    /// One connection only.
    pub single: bool,
    pub protocol: Box<str>,
    pub cookie: Box<str>,
    pub screen: u32,
    /// All of it, as it travels.
    fields: Box<[u8]>,
}

impl X11Request {
    /// `None` for fields that are malformed or not such words.
    pub fn new(fields: &[u8]) -> Option<X11Request> {
        let X11Fields { single, protocol, cookie, screen } = X11Fields::read(fields).ok()?;
        // OpenSSH's rule: a line end would be a command to xauth.
        let plain = |text: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b".:/-_".contains(&b);
            !text.is_empty() && text.bytes().all(fits)
        };
        if !plain(protocol) || !plain(cookie) {
            return None;
        }
        let (protocol, cookie, fields) = (protocol.into(), cookie.into(), fields.into());
        Some(X11Request { single, protocol, cookie, screen, fields })
    }
}

/// A terminal's size. Sides are at most [`PTY_SIDE_MAX`], whatever the peer wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    pub columns: u32,
    pub rows: u32,
    pub width_pixels: u32,
    pub height_pixels: u32,
}

impl WindowSize {
    fn new(columns: u32, rows: u32, width_pixels: u32, height_pixels: u32) -> WindowSize {
        WindowSize {
            columns: columns.min(PTY_SIDE_MAX),
            rows: rows.min(PTY_SIDE_MAX),
            width_pixels: width_pixels.min(PTY_SIDE_MAX),
            height_pixels: height_pixels.min(PTY_SIDE_MAX),
        }
    }
}

impl ChannelRequest {
    /// `None` for what is well formed and still never granted: NUL in a command or a variable, a
    /// terminal type that is not a word.
    pub(super) fn from_wire(body: &RequestBody<'_>) -> Option<ChannelRequest> {
        Some(match *body {
            RequestBody::PtyReq { term, columns, rows, width_pixels, height_pixels, modes } => {
                if !term.bytes().all(|b| b.is_ascii_graphic()) {
                    return None;
                }
                let size = WindowSize::new(columns, rows, width_pixels, height_pixels);
                ChannelRequest::PtyReq { term: term.into(), size, modes: modes.into() }
            }
            RequestBody::Env { name, value } => {
                let name = std::str::from_utf8(name).ok()?;
                if name.is_empty() || name.contains(['=', '\0']) || value.contains(&0) {
                    return None;
                }
                ChannelRequest::Env { name: name.into(), value: value.into() }
            }
            RequestBody::Shell => ChannelRequest::Shell,
            RequestBody::Exec { command } if command.contains(&0) => return None,
            RequestBody::Exec { command } => ChannelRequest::Exec { command: command.into() },
            RequestBody::Subsystem { name } => ChannelRequest::Subsystem { name: name.into() },
            RequestBody::WindowChange { columns, rows, width_pixels, height_pixels } => {
                let size = WindowSize::new(columns, rows, width_pixels, height_pixels);
                ChannelRequest::WindowChange(size)
            }
            RequestBody::Signal { name } => ChannelRequest::Signal { name: name.into() },
            RequestBody::Break { milliseconds } => ChannelRequest::Break { milliseconds },
            RequestBody::ExitStatus { code } => ChannelRequest::ExitStatus { code },
            RequestBody::ExitSignal { name, core_dumped, text, .. } => {
                let (name, text) = (name.into(), text.into());
                ChannelRequest::ExitSignal { name, core_dumped, text }
            }
            RequestBody::EndOfWrite => ChannelRequest::EndOfWrite,
            RequestBody::AgentForward => ChannelRequest::AgentForward,
            RequestBody::Other { name: X11Fields::NAME, rest } => {
                ChannelRequest::X11Forward(X11Request::new(rest)?)
            }
            RequestBody::Other { name: REFUSED, .. } => return None,
            RequestBody::XonXoff { .. } | RequestBody::Other { .. } => {
                ChannelRequest::Other { name: body.name().into() }
            }
        })
    }

    pub(crate) fn to_wire(&self) -> RequestBody<'_> {
        match self {
            ChannelRequest::PtyReq { term, size, modes } => {
                let WindowSize { columns, rows, width_pixels, height_pixels } = *size;
                let modes = modes.get(..PTY_MODES_BYTES_MAX as usize).unwrap_or(modes);
                RequestBody::PtyReq { term, columns, rows, width_pixels, height_pixels, modes }
            }
            ChannelRequest::Env { name, value } => {
                RequestBody::Env { name: name.as_bytes(), value }
            }
            ChannelRequest::Shell => RequestBody::Shell,
            ChannelRequest::Exec { command } => RequestBody::Exec { command },
            ChannelRequest::Subsystem { name } => RequestBody::Subsystem { name },
            ChannelRequest::WindowChange(size) => {
                let WindowSize { columns, rows, width_pixels, height_pixels } = *size;
                RequestBody::WindowChange { columns, rows, width_pixels, height_pixels }
            }
            ChannelRequest::Signal { name } => RequestBody::Signal { name },
            ChannelRequest::Break { milliseconds } => {
                RequestBody::Break { milliseconds: *milliseconds }
            }
            ChannelRequest::ExitStatus { code } => RequestBody::ExitStatus { code: *code },
            ChannelRequest::ExitSignal { name, core_dumped, text } => {
                RequestBody::ExitSignal { name, core_dumped: *core_dumped, text, language: "" }
            }
            ChannelRequest::EndOfWrite => RequestBody::EndOfWrite,
            ChannelRequest::AgentForward => RequestBody::AgentForward,
            ChannelRequest::X11Forward(X11Request { fields: rest, .. }) => {
                RequestBody::Other { name: X11Fields::NAME, rest }
            }
            ChannelRequest::Other { name } => RequestBody::Other { name, rest: &[] },
        }
    }

    /// Starts what the channel is attached to; a channel starts once (RFC 4254 §6.5).
    pub const fn starts(&self) -> bool {
        matches!(
            self,
            ChannelRequest::Shell | ChannelRequest::Exec { .. } | ChannelRequest::Subsystem { .. }
        )
    }

    /// Only a server sends it, about a command that has ended or listens no more.
    pub(super) const fn is_from_server(&self) -> bool {
        matches!(
            self,
            ChannelRequest::ExitStatus { .. }
                | ChannelRequest::ExitSignal { .. }
                | ChannelRequest::EndOfWrite
        )
    }
}

/// What is asked of the connection, of what we recognise (RFC 4254 §7.1, OpenSSH PROTOCOL §2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GlobalRequest {
    TcpipForward { address: Box<str>, port: u32 },
    CancelTcpipForward { address: Box<str>, port: u32 },
    StreamlocalForward { path: Box<[u8]> },
    CancelStreamlocalForward { path: Box<[u8]> },
}

impl GlobalRequest {
    /// `None` for what is nobody's business but the connection's.
    pub(super) fn from_wire(body: &GlobalBody<'_>) -> Option<GlobalRequest> {
        Some(match *body {
            GlobalBody::TcpipForward { address, port } => {
                GlobalRequest::TcpipForward { address: address.into(), port }
            }
            GlobalBody::CancelTcpipForward { address, port } => {
                GlobalRequest::CancelTcpipForward { address: address.into(), port }
            }
            GlobalBody::StreamlocalForward { path } => {
                GlobalRequest::StreamlocalForward { path: path.into() }
            }
            GlobalBody::CancelStreamlocalForward { path } => {
                GlobalRequest::CancelStreamlocalForward { path: path.into() }
            }
            GlobalBody::NoMoreSessions | GlobalBody::KeepAlive | GlobalBody::Other { .. } => {
                return None;
            }
        })
    }

    pub(super) fn to_wire(&self) -> GlobalBody<'_> {
        match self {
            GlobalRequest::TcpipForward { address, port } => {
                GlobalBody::TcpipForward { address, port: *port }
            }
            GlobalRequest::CancelTcpipForward { address, port } => {
                GlobalBody::CancelTcpipForward { address, port: *port }
            }
            GlobalRequest::StreamlocalForward { path } => GlobalBody::StreamlocalForward { path },
            GlobalRequest::CancelStreamlocalForward { path } => {
                GlobalBody::CancelStreamlocalForward { path }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_89_and_90_what_is_never_granted() {
        let refused = |body| assert_eq!(ChannelRequest::from_wire(&body), None, "{body:?}");
        refused(RequestBody::Exec { command: b"ls\0-l" });
        refused(RequestBody::Env { name: b"", value: b"" });
        refused(RequestBody::Env { name: b"A=B", value: b"" });
        refused(RequestBody::Env { name: b"A\0", value: b"" });
        refused(RequestBody::Env { name: b"\xff", value: b"" });
        refused(RequestBody::Env { name: b"A", value: b"x\0" });
        let (columns, rows, width_pixels, height_pixels) = (u32::MAX, 24, 1 << 31, 0);
        let pty = |term| RequestBody::PtyReq {
            term,
            columns,
            rows,
            width_pixels,
            height_pixels,
            modes: b"\0",
        };
        refused(pty("xterm\x1b[2J"));
        refused(pty("x term"));
        let Some(ChannelRequest::PtyReq { size, .. }) = ChannelRequest::from_wire(&pty("xterm"))
        else {
            panic!("an ordinary terminal is refused")
        };
        assert_eq!(
            size,
            WindowSize { columns: 10_000, rows: 24, width_pixels: 10_000, height_pixels: 0 }
        );
    }

    #[test]
    fn requests_and_kinds_survive_the_wire() {
        let requests = [
            ChannelRequest::Shell,
            ChannelRequest::Exec { command: (*b"ls").into() },
            ChannelRequest::Subsystem { name: "sftp".into() },
            ChannelRequest::Env { name: "A".into(), value: (*b"1").into() },
            ChannelRequest::PtyReq {
                term: "xterm".into(),
                size: WindowSize::new(1, 2, 3, 4),
                modes: (*b"\0").into(),
            },
            ChannelRequest::WindowChange(WindowSize::new(4, 3, 2, 1)),
            ChannelRequest::Signal { name: "INT".into() },
            ChannelRequest::Break { milliseconds: 7 },
            ChannelRequest::ExitStatus { code: 3 },
            ChannelRequest::ExitSignal { name: "KILL".into(), core_dumped: true, text: "".into() },
            ChannelRequest::EndOfWrite,
            ChannelRequest::AgentForward,
            ChannelRequest::Other { name: "winadj".into() },
        ];
        for request in requests {
            assert_eq!(ChannelRequest::from_wire(&request.to_wire()).as_ref(), Some(&request));
        }
        let kinds = [
            ChannelKind::Session,
            ChannelKind::DirectTcpip {
                host: "h".into(),
                port: 1,
                origin_host: "o".into(),
                origin_port: 2,
            },
            ChannelKind::ForwardedTcpip {
                address: "a".into(),
                port: 1,
                origin_host: "o".into(),
                origin_port: 2,
            },
            ChannelKind::DirectStreamlocal { path: (*b"/s").into() },
            ChannelKind::ForwardedStreamlocal { path: (*b"/s").into() },
            ChannelKind::Other { name: "x11".into(), rest: (*b"\0\0").into() },
        ];
        for kind in kinds {
            assert_eq!(ChannelKind::from(&kind.to_wire()), kind);
        }
    }
}
