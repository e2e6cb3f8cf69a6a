//! Logins at hosts by the keys of the client's agent (TidegateUpstreamAgent).
//!
//! A client offers its agent with a request on a session (`auth-agent-req@openssh.com`), and a
//! session is the host's to open, where we are not in yet. So the client's first session is
//! accepted at once and without window, and what is asked on it is held until the host has opened
//! its own. The agent is asked for its keys and for one signature a try, over a channel that is
//! closed when the login is over.

use std::collections::VecDeque;

use super::relay::{End, HostProof};
use super::*;
use crate::connection::{Answer, ChannelId, ChannelKind, Event, LoginMethod};
use crate::crypto::{PublicKey, ShownKey, SignatureAlgorithm};
use crate::limits::{
    AGENT_FRAME_BYTES_MAX, AGENT_KEYS_TRIED_MAX, AGENT_LOGIN_PACKET_BYTES, AGENT_SIGN_TIME,
    HELD_REQUEST_BYTES_MAX, UPSTREAM_LOGIN_TIME_MAX,
};
use crate::reactor::Chunk;
use crate::services::Command;
use crate::services::upstream::Trouble;
use crate::wire::agent::{AgentReply, AgentRequest, frame_bytes};
use crate::wire::channel::AGENT_CHANNEL;
use crate::wire::request::{ChannelRequest, RequestBody};
use crate::wire::{Message, Writer};

/// What is said to a client that has no agent for us.
const NO_AGENT: &str = "this login goes on with the keys of your agent, and none is forwarded; \
                        use ssh -A";

/// A client's agent, as far as a login needs it.
#[derive(Debug, Default)]
pub(super) struct Borrowed {
    stage: Stage,
    /// The session that was accepted before the host has opened one, and what it has said since.
    early: Option<ChannelId>,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Of the agent, short of a whole frame.
    received: Vec<u8>,
    /// For the agent, until there is a window or new keys.
    unsent: Vec<u8>,
    keys: Vec<AgentKey>,
    /// The next of them to be tried at the host.
    next: usize,
    /// Answers that are owed to a host which is tried no more.
    stale: u32,
    /// A request to sign that follows when it is bound to the connection.
    behind: Vec<u8>,
    /// The connection that it was bound to; nothing else can be bound on its channel.
    bound: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// For the client to offer it.
    #[default]
    Waiting,
    Opening(ChannelId),
    Listing(ChannelId),
    /// Its keys are known, and nothing is asked of it.
    Ready(ChannelId),
    /// It has been told which connection the signature is for.
    Binding(ChannelId),
    /// It owes a signature.
    Signing(ChannelId),
    Over,
}

#[derive(Debug)]
enum Held {
    Request(Box<[u8]>),
    Eof,
}

#[derive(Clone, Debug)]
struct AgentKey {
    /// As the agent knows it.
    blob: Box<[u8]>,
    method: LoginMethod,
}

impl Borrowed {
    /// The login is over, and nothing of it is kept any more.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Over && self.early.is_none() && self.held.is_empty()
    }

    /// The channel to the agent.
    const fn channel(&self) -> Option<ChannelId> {
        match self.stage {
            Stage::Opening(id)
            | Stage::Listing(id)
            | Stage::Ready(id)
            | Stage::Binding(id)
            | Stage::Signing(id) => Some(id),
            Stage::Waiting | Stage::Over => None,
        }
    }

    /// The whole frame that has come first, behind its length.
    fn frame(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let Some(len) = frame_bytes(&self.received).map_err(|_| ())? else { return Ok(None) };
        let end = len as usize + 4;
        if self.received.len() < end {
            return Ok(None);
        }
        let frame = self.received.drain(..end).skip(4).collect();
        Ok(Some(frame))
    }
}

/// The keys of an agent that can be shown to a host, the one that the client has logged in with here
/// before the others.
fn usable(reply: &AgentReply<'_>, own: Option<&PublicKey>) -> Vec<AgentKey> {
    let AgentReply::Identities(found) = reply else { return Vec::new() };
    let mut keys: Vec<(bool, AgentKey)> = Vec::new();
    for (blob, _) in found.iter() {
        let Some(shown) = ShownKey::of_blob(blob) else { continue };
        let is_own = Some(&*shown.key) == own;
        keys.push((!is_own, AgentKey { blob: blob.into(), method: shown.into() }));
    }
    keys.sort_by_key(|(other, _)| *other);
    keys.into_iter().map(|(_, key)| key).take(AGENT_KEYS_TRIED_MAX).collect()
}

/// Empty where it is longer than any agent reads.
fn framed(request: &AgentRequest<'_>) -> Vec<u8> {
    let mut space = vec![0; AGENT_FRAME_BYTES_MAX as usize + 4];
    let mut out = Writer::new(&mut space);
    match request.write(&mut out) {
        Ok(()) => out.written().to_vec(),
        Err(_) => Vec::new(),
    }
}

impl<D: Driver, O: Outside> Shard<D, O> {
    fn borrowed(&mut self, key: u32) -> Option<&mut Borrowed> {
        match &mut self.links.get_mut(key as usize)?.relay.as_deref_mut()?.end {
            End::Down(down) => down.borrowed.as_deref_mut(),
            End::Up(_) => None,
        }
    }

    /// A client wants a session, and its agent is waited for.
    pub(super) fn accept_early(&mut self, key: u32, id: ChannelId) {
        let Some(borrowed) = self.borrowed(key) else { return };
        if borrowed.stage == Stage::Waiting && borrowed.early.is_none() {
            borrowed.early = Some(id);
            let packet_bytes = AGENT_LOGIN_PACKET_BYTES;
            self.command(key, Command::AcceptWith { id, window_bytes: 0, packet_bytes });
        }
    }

    pub(super) fn is_early(&mut self, key: u32, id: ChannelId) -> bool {
        self.borrowed(key).is_some_and(|borrowed| borrowed.early == Some(id))
    }

    /// What is asked on a session that the host has not opened yet.
    pub(super) fn hold_request(&mut self, key: u32, id: ChannelId, request: Box<[u8]>) {
        if !self.is_early(key, id) {
            return;
        }
        let Ok(asked) = ChannelRequest::parse(&request) else { return };
        let offers = matches!(asked.body, RequestBody::AgentForward);
        let starts = asked.body.starts();
        let Some(borrowed) = self.borrowed(key) else { return };
        let waits = borrowed.stage == Stage::Waiting;
        borrowed.held_bytes += request.len();
        if borrowed.held_bytes > HELD_REQUEST_BYTES_MAX {
            let why = "too many requests before its session is open";
            self.close_link(key, disconnect::PROTOCOL_ERROR, why);
            return;
        }
        borrowed.held.push_back(Held::Request(request));
        if waits && offers {
            self.open_agent(key);
        } else if waits && starts {
            self.agent_failed(key, NO_AGENT);
        }
    }

    pub(super) fn hold_eof(&mut self, key: u32, id: ChannelId) {
        if self.is_early(key, id)
            && let Some(borrowed) = self.borrowed(key)
        {
            borrowed.held.push_back(Held::Eof);
        }
    }

    /// The host has opened the session: what was held goes there.
    pub(super) fn release_held(&mut self, key: u32, id: ChannelId) {
        if !self.is_early(key, id) {
            return;
        }
        let Some(borrowed) = self.borrowed(key) else { return };
        borrowed.early = None;
        for held in std::mem::take(&mut borrowed.held) {
            match held {
                Held::Request(request) => self.relay_event(key, Event::Asked { id, request }),
                Held::Eof => self.relay_event(key, Event::Eof(id)),
            }
        }
    }

    fn open_agent(&mut self, key: u32) {
        let kind = ChannelKind::Other { name: AGENT_CHANNEL.into(), rest: Box::default() };
        let opened = self.with_env(key, |conn, env| conn.open(&kind, env));
        match (opened.flatten(), self.borrowed(key)) {
            (Some(id), Some(borrowed)) => borrowed.stage = Stage::Opening(id),
            _ => self.agent_failed(key, "the gateway cannot reach your agent"),
        }
    }

    /// The agent is of no use: nothing goes on.
    pub(super) fn agent_failed(&mut self, key: u32, said: &str) {
        let host = self.signs_for(key).unwrap_or_else(|| "unknown".to_owned());
        self.agent_over(key);
        let why = said.to_owned();
        self.report(key, What::UpstreamFailed { host, why });
        self.upstream_lost(key, said);
    }

    /// The client has offered no agent in time, or that says nothing or does not sign.
    pub(super) fn agent_is_late(&mut self, key: u32) -> bool {
        let stage = self.borrowed(key).map(|borrowed| borrowed.stage);
        let said = match stage {
            Some(Stage::Waiting) => NO_AGENT.to_owned(),
            Some(Stage::Opening(_) | Stage::Listing(_)) => "your agent does not answer".to_owned(),
            Some(Stage::Binding(_) | Stage::Signing(_)) => {
                let host = self.signs_for(key).unwrap_or_default();
                let seconds = AGENT_SIGN_TIME.as_secs();
                format!("your agent has not signed the login at {host} within {seconds} s")
            }
            _ => return false,
        };
        self.agent_failed(key, &said);
        true
    }

    /// The host at which the agent is to sign a login.
    fn signs_for(&mut self, key: u32) -> Option<String> {
        let End::Down(down) = &self.links.get(key as usize)?.relay.as_deref()?.end else {
            return None;
        };
        let stage = down.borrowed.as_ref()?.stage;
        matches!(stage, Stage::Binding(_) | Stage::Signing(_)).then(|| down.host())
    }

    /// It is needed no more.
    pub(super) fn agent_over(&mut self, key: u32) {
        let Some(borrowed) = self.borrowed(key) else { return };
        let id = borrowed.channel();
        borrowed.stage = Stage::Over;
        (borrowed.received, borrowed.unsent) = (Vec::new(), Vec::new());
        if let Some(id) = id {
            self.command(key, Command::Close(id));
        }
    }

    /// Whether an event was about the channel to the agent.
    pub(super) fn agent_event(&mut self, key: u32, event: &Event) -> bool {
        let Some(own) = self.borrowed(key).and_then(|borrowed| borrowed.channel()) else {
            return false;
        };
        match event {
            Event::Opened { id } if *id == own => {
                if let Some(borrowed) = self.borrowed(key) {
                    borrowed.stage = Stage::Listing(own);
                }
                self.tell_borrowed(key, &framed(&AgentRequest::Identities));
            }
            Event::WindowOpened(id) if *id == own => self.flush_borrowed(key),
            Event::OpenFailed { id, .. }
            | Event::Eof(id)
            | Event::PeerClosed(id)
            | Event::Closed(id)
                if *id == own =>
            {
                self.agent_failed(key, "your agent cannot be reached any more");
            }
            _ => return false,
        }
        true
    }

    fn tell_borrowed(&mut self, key: u32, frame: &[u8]) {
        if let Some(borrowed) = self.borrowed(key) {
            borrowed.unsent.extend_from_slice(frame);
        }
        self.flush_borrowed(key);
    }

    /// Sends what the agent is asked, if it can be sent now.
    pub(super) fn flush_borrowed(&mut self, key: u32) {
        let Some(borrowed) = self.borrowed(key) else { return };
        let Some(id) = borrowed.channel().filter(|_| !borrowed.unsent.is_empty()) else { return };
        let bytes = std::mem::take(&mut borrowed.unsent);
        let sent = self.with_env(key, |conn, env| Ok(conn.write_data(id, None, &bytes, env)));
        if sent != Some(true)
            && let Some(borrowed) = self.borrowed(key)
        {
            borrowed.unsent = bytes;
        }
    }

    /// Whether data was the agent's; it is done with then.
    pub(super) fn agent_data(&mut self, key: u32, id: ChannelId, data: &Chunk) -> bool {
        if self.borrowed(key).and_then(|borrowed| borrowed.channel()) != Some(id) {
            return false;
        }
        let bytes = data.span.of(self.driver.pool().view(&data.lease)).map(<[u8]>::to_vec);
        if let Some(borrowed) = self.borrowed(key) {
            borrowed.received.extend(bytes.unwrap_or_default());
        }
        self.command(key, Command::Consumed { id, bytes: data.span.len });
        while let Some(borrowed) = self.borrowed(key) {
            match borrowed.frame() {
                Ok(Some(frame)) => self.agent_answers(key, &frame),
                Ok(None) => break,
                Err(()) => return self.agent_is_odd(key),
            }
        }
        true
    }

    fn agent_is_odd(&mut self, key: u32) -> bool {
        self.agent_failed(key, "your agent breaks the rules of its protocol");
        true
    }

    fn agent_answers(&mut self, key: u32, frame: &[u8]) {
        let Ok(reply) = AgentReply::parse(frame) else {
            self.agent_is_odd(key);
            return;
        };
        let Some(link) = self.links.get(key as usize) else { return };
        let (Some(grant), Some(relay)) = (&link.grant, &link.relay) else { return };
        let (own, other) = (grant.key.clone(), relay.other);
        let Some(borrowed) = self.borrowed(key) else { return };
        match (borrowed.stage, &reply) {
            (Stage::Listing(id), AgentReply::Identities(_) | AgentReply::Failure) => {
                borrowed.keys = usable(&reply, own.as_ref());
                borrowed.stage = Stage::Ready(id);
                if borrowed.keys.is_empty() {
                    self.agent_failed(key, "your agent has no key that the gateway can use");
                    return;
                }
                self.set_deadline(key, None);
                self.find_host(key);
            }
            // What was asked for another host has come to nothing.
            _ if borrowed.stale > 0 => borrowed.stale -= 1,
            // One that knows nothing of connections signs all the same.
            (Stage::Binding(id), AgentReply::Success | AgentReply::Failure) => {
                borrowed.stage = Stage::Signing(id);
                let request = std::mem::take(&mut borrowed.behind);
                self.tell_borrowed(key, &request);
            }
            (Stage::Signing(id), AgentReply::Signature(_) | AgentReply::Failure) => {
                borrowed.stage = Stage::Ready(id);
                let signature = match reply {
                    AgentReply::Signature(blob) => Some(blob.into()),
                    _ => None,
                };
                self.set_deadline(key, None);
                if let Some(other) = other {
                    let until = self.driver.now().after(UPSTREAM_LOGIN_TIME_MAX);
                    self.set_deadline(other, Some(until));
                    self.answer(other, Answer::Signature(signature));
                    self.mark_ready(other);
                }
            }
            _ => {
                self.agent_is_odd(key);
            }
        }
    }

    /// Another host is tried: with all keys.
    pub(super) fn rewind_agent(&mut self, key: u32) {
        let Some(borrowed) = self.borrowed(key) else { return };
        borrowed.next = 0;
        if let Stage::Binding(id) | Stage::Signing(id) = borrowed.stage {
            borrowed.stage = Stage::Ready(id);
            borrowed.stale += 1;
        }
    }

    /// How the next of the agent's keys is shown.
    pub(super) fn next_agent_key(&mut self, key: u32) -> Option<LoginMethod> {
        let borrowed = self.borrowed(key)?;
        let method = borrowed.keys.get(borrowed.next)?.method.clone();
        borrowed.next += 1;
        Some(method)
    }

    /// None of the agent's keys is left to be tried.
    pub(super) fn is_last_agent_key(&mut self, key: u32) -> bool {
        self.borrowed(key).is_none_or(|borrowed| borrowed.next >= borrowed.keys.len())
    }

    /// The agent signs a login with the key that is being tried. `host`: the link to the host, which
    /// the agent hears of first.
    pub(super) fn sign_by_agent(
        &mut self,
        key: u32,
        host: u32,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) {
        let proof = self.proof_of_host(host);
        let Some(borrowed) = self.borrowed(key) else { return };
        let tried = borrowed.next.checked_sub(1).and_then(|tried| borrowed.keys.get(tried));
        let (Some(tried), Stage::Ready(id)) = (tried.cloned(), borrowed.stage) else { return };
        let until = self.driver.now().after(AGENT_SIGN_TIME);
        self.set_deadline(host, None);
        self.set_deadline(key, Some(until));
        let Some(borrowed) = self.borrowed(key) else { return };
        let flags = algorithm.agent_flags();
        let request = framed(&AgentRequest::Sign { key: &tried.blob, data: message, flags });
        match proof.filter(|_| !borrowed.bound) {
            Some(proof) => {
                borrowed.bound = true;
                borrowed.behind = request;
                borrowed.stage = Stage::Binding(id);
                self.tell_borrowed(key, &proof);
            }
            None => {
                borrowed.stage = Stage::Signing(id);
                self.tell_borrowed(key, &request);
            }
        }
    }

    /// OpenSSH PROTOCOL.agent, session-bind: which host signatures are for, as the host has proved
    /// itself. Agents sign with keys that are bound to hosts then. We log in there and pass the agent
    /// on to nobody.
    fn proof_of_host(&self, host: u32) -> Option<Vec<u8>> {
        let link = self.links.get(host as usize)?;
        let End::Up(up) = &link.relay.as_ref()?.end else { return None };
        let HostProof { host_key, signature } = up.proof.as_ref()?;
        let session_id = link.conn.session_id();
        let bind = AgentRequest::Bind { host_key, session_id, signature, forwarding: false };
        Some(framed(&bind))
    }

    /// The client's session was never the host's: it is told and closed.
    pub(super) fn end_early(&mut self, key: u32, id: ChannelId, said: &str) {
        if !self.is_early(key, id) {
            return;
        }
        if let Some(borrowed) = self.borrowed(key) {
            borrowed.early = None;
            borrowed.held.clear();
        }
        self.say_and_close(key, id, said);
    }

    /// What a host says of our login when it has refused the last of the agent's keys.
    pub(super) fn agent_refused(host: &str, user: &str, methods: &str) -> Trouble {
        let said = format!("{host} does not let {user} in with the keys of your agent");
        let logged = format!("{said}; it takes {methods}");
        Trouble { said, logged }
    }
}
