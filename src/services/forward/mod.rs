//! A connection made for the client (`direct-tcpip`, RFC 4254 §7.2) or taken for it
//! (`forwarded-tcpip`, §7.1), or either of a Unix socket (OpenSSH PROTOCOL §2.4).

mod agent;
mod caller;
mod display;
mod gate;
mod listen;
mod moving;
mod permits;
mod race;
mod resolve;
pub(crate) mod socks;

pub use agent::{make_agent_socket, remove_agent_socket};
pub use display::{Display, DisplayRules, DisplaySpec, Listened, listen_as_display};
pub use gate::Cookies;
pub use listen::{ListenSpec, Listening, Place, listen_at};
pub use permits::{BIND_MASK, Forwarding, GatewayPorts, Permit, Permits, Ways};
pub use resolve::{connect_to_path, resolve};
pub use socks::{Outcome, Socks, Step};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::IntoRawFd;

use super::local::Escape;
use super::sftp_client::SftpNote;
use super::stream::{End, Input, Output};
use caller::Caller;
use gate::{Gate, Verdict};
use permits::Lists;
use race::Race;

use super::{Done, FileEvent, Io, Job, Service};
use crate::base::Instant;
use crate::limits::{CHANNEL_LINGER_TIME, HOST_BYTES_MAX};
use crate::reactor::{Chunk, Errno, Fd, Op};
use crate::wire::channel::{AGENT_CHANNEL, open_failure};

const TAG_INPUT: u16 = 0;
const TAG_OUTPUT: u16 = 1;
const TAG_LOOK_UP: u16 = 2;
/// Of the first attempt to connect; those of the others follow.
const TAG_CONNECT: u16 = 3;

/// Where a client wants to be connected to; as it wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Tcp { host: Box<str>, port: u32 },
    Path(Box<[u8]>),
}

/// What is to be told about a forwarded connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It is connected.
    Opened { what: String },
    /// It could not be.
    Failed { what: String, why: String },
    /// It is over: what came from the client, what went to it, and how it ended.
    Ended { what: String, bytes_in: u64, bytes_out: u64, reason: &'static str },
    /// An audit is to hear of a file.
    File(FileEvent),
    /// Somebody at our terminal wants something of us.
    Typed(Escape),
    /// Nobody reads our standard output any more.
    Deaf,
    /// A [`super::Guest`] has what it waited for.
    Reached,
    /// A server's files have something to tell us.
    Sftp(Box<SftpNote>),
}

/// A channel with a socket behind it. Each direction ends on its own; the channel is closed when
/// both have.
#[derive(Debug)]
pub struct Forward {
    /// The channel's type, as ChannelTimeout names it.
    kind: &'static str,
    /// What it is about, for the log.
    what: String,
    phase: Phase,
    input: Input,
    output: Output,
    socket: Option<Fd>,
    /// What the target is told before all, where it is an agent.
    bind: Option<Box<[u8]>>,
    /// It leads to a name: which of its addresses is told.
    named: bool,
    /// What its first bytes have to pass.
    gate: Option<Box<Gate>>,
    /// Whoever says on it where it is to lead, until he is told that it does.
    caller: Option<Box<Caller>>,
    /// What the addresses of a name are judged by.
    lists: Option<Box<Lists>>,
    /// AddressFamily: it may go over IPv4, over IPv6.
    families: [bool; 2],
    /// Until when writing what a channel brought before it was closed may take.
    deadline: Option<Instant>,
    eof_heard: bool,
    eof_sent: bool,
    close_sent: bool,
    /// The channel exists no more.
    gone: bool,
    bytes_in: u64,
    bytes_out: u64,
    /// The target broke the connection, or stopped to listen.
    broken: Option<Errno>,
}

#[derive(Debug)]
enum Phase {
    /// To be begun.
    New(Target),
    /// Somebody says where to.
    Asking,
    /// The name is being looked up, or the path connected to.
    LookingUp,
    /// Addresses are being tried.
    Connecting(Race),
    /// The client was offered a connection that was taken for it.
    Offered,
    Open,
    /// It never came to be.
    Failed,
}

/// Says which settings may forbid forwarding of TCP, or of Unix sockets.
const fn forbidden(is_tcp: bool) -> &'static str {
    if is_tcp {
        "forwarding is not permitted (AllowTcpForwarding, DisableForwarding, the key's options, or an \
         account without it)"
    } else {
        "forwarding is not permitted (AllowStreamLocalForwarding, AllowTcpForwarding, \
         DisableForwarding, the key's options, or an account without it)"
    }
}

impl Target {
    /// The channel's type, as ChannelTimeout names it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Target::Tcp { .. } => "direct-tcpip",
            Target::Path(_) => "direct-streamlocal@openssh.com",
        }
    }

    /// Whether a login may be connected to it; if not, why.
    ///
    /// # Errors
    /// The setting or the option that forbids it.
    pub fn check(&self, rules: &Forwarding) -> Result<(), &'static str> {
        let (ways, [open, key_open]) = match self {
            Target::Tcp { host, port } => {
                let port = u16::try_from(*port).map_err(|_| "a port is at most 65535")?;
                if host.len() > HOST_BYTES_MAX as usize {
                    return Err("the name of a host is too long");
                }
                let lists = [&rules.open, &rules.key_open];
                (rules.tcp, lists.map(|list| list.permits(host, port)))
            }
            Target::Path(path) => {
                let lists = [&rules.open, &rules.key_open];
                (rules.streamlocal, lists.map(|list| list.permits_path(path)))
            }
        };
        match () {
            () if !ways.local => Err(forbidden(matches!(self, Target::Tcp { .. }))),
            () if !open => Err("PermitOpen does not list it"),
            () if !key_open => Err("the key's permitopen does not list it"),
            () => Ok(()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp { host, port } => write!(out, "{host} port {port}"),
            Target::Path(path) => out.write_str(&String::from_utf8_lossy(path)),
        }
    }
}

impl Forward {
    /// To a target that these rules permit.
    pub fn new(target: Target, rules: &Forwarding) -> Forward {
        let what = format!("{} to {target}", target.kind());
        let lists = Lists::about(&target, rules);
        let forward = Forward::with(target.kind(), what, Phase::New(target), None);
        Forward { lists, families: [rules.inet, rules.inet6], ..forward }
    }

    /// To an X server, for whoever has the fake one of these cookies.
    pub fn display(target: Target, cookies: Cookies) -> Forward {
        let what = format!("x11 to {target}");
        let gate = Some(Box::new(Gate::new(cookies)));
        Forward { gate, ..Forward::with("x11-connection", what, Phase::New(target), None) }
    }

    /// To wherever somebody says on the channel by SOCKS, of what `permits` lists (PermitRemoteOpen).
    pub fn socks(permits: Permits) -> Forward {
        let caller = Some(Caller::new(permits));
        let kind = "forwarded-tcpip";
        Forward { caller, ..Forward::with(kind, "SOCKS".to_owned(), Phase::Asking, None) }
    }

    /// To an agent that is lent, which is told `bind` first.
    pub fn agent(path: Box<[u8]>, bind: Box<[u8]>) -> Forward {
        let target = Target::Path(path);
        let what = format!("agent at {target}");
        let forward = Forward::with(AGENT_CHANNEL, what, Phase::New(target), None);
        Forward { bind: Some(bind), ..forward }
    }

    /// A connection that was taken for the client, which is asked to open the channel.
    pub fn offered(kind: &'static str, what: String, socket: Fd) -> Forward {
        Forward::with(kind, what, Phase::Offered, Some(socket))
    }

    const fn with(kind: &'static str, what: String, phase: Phase, socket: Option<Fd>) -> Forward {
        Forward {
            kind,
            what,
            phase,
            input: Input::new(TAG_INPUT),
            output: Output::new(TAG_OUTPUT, None),
            socket,
            bind: None,
            named: false,
            gate: None,
            caller: None,
            lists: None,
            families: [true; 2],
            deadline: None,
            eof_heard: false,
            eof_sent: false,
            close_sent: false,
            gone: false,
            bytes_in: 0,
            bytes_out: 0,
            broken: None,
        }
    }

    /// Starts to connect. The channel is accepted or refused when that is over.
    pub fn begin(&mut self, io: &mut Io<'_>) {
        if matches!(self.phase, Phase::Asking) {
            return self.begin_asking(io);
        }
        let Phase::New(target) = std::mem::replace(&mut self.phase, Phase::LookingUp) else {
            return;
        };
        match target {
            Target::Tcp { host, port } => {
                let port = u16::try_from(port).unwrap_or_default();
                match host.parse::<IpAddr>() {
                    Ok(address) => self.race(vec![SocketAddr::new(address, port)], io),
                    Err(_) => {
                        self.named = true;
                        io.job(TAG_LOOK_UP, Job::Resolve { host, port, asker: "".into() });
                    }
                }
            }
            Target::Path(path) => io.job(
                TAG_LOOK_UP,
                match self.bind.take() {
                    Some(bind) => Job::ConnectAgent { path, bind },
                    None => Job::ConnectPath(path),
                },
            ),
        }
    }

    /// The client has opened the channel that it was offered.
    pub fn opened(&mut self, io: &mut Io<'_>) {
        if matches!(self.phase, Phase::Offered) {
            self.start(io);
        }
    }

    /// The client has refused it. The channel is gone.
    pub fn refused(&mut self, why: &str, io: &mut Io<'_>) {
        self.phase = Phase::Failed;
        let why = format!("the client refused it: {why}");
        io.note(Note::Failed { what: self.what.clone(), why });
    }

    /// The channel's type.
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// It is not connected yet.
    pub const fn is_pending(&self) -> bool {
        match self.phase {
            Phase::New(_)
            | Phase::Asking
            | Phase::LookingUp
            | Phase::Connecting(_)
            | Phase::Offered => true,
            Phase::Open | Phase::Failed => false,
        }
    }

    /// The channel is gone, and what it brought has not all been written.
    pub fn lingers(&self) -> bool {
        self.gone && self.deadline.is_some() && self.input.is_busy()
    }

    /// Bytes of the channel that have not been written.
    pub const fn unwritten(&self) -> u32 {
        self.input.unwritten()
    }

    // ---- Connecting --------------------------------------------------------------------------

    fn looked_up(&mut self, done: Done, io: &mut Io<'_>) {
        match done {
            Done::Connected(Ok(socket)) => {
                self.socket = Some(Fd(socket.into_raw_fd()));
                if !self.gone {
                    self.connected(io);
                }
            }
            _ if self.gone => {}
            Done::Resolved(Ok(addresses)) => self.found(addresses, io),
            Done::Resolved(Err(why)) => {
                self.end_early(why.to_string(), Outcome::HostUnknown, io);
            }
            Done::Connected(Err(why)) => self.end_early(why.to_string(), Outcome::Failed, io),
            _ => self.end_early("a worker failed".to_owned(), Outcome::Failed, io),
        }
    }

    /// A name that is listed may not lead to this machine or its neighbours by whoever answers for
    /// it: such addresses have to be listed themselves.
    fn found(&mut self, mut addresses: Vec<SocketAddr>, io: &mut Io<'_>) {
        if let Some(lists) = self.lists.take() {
            addresses.retain(|address| lists.permit(address.ip()));
            if addresses.is_empty() {
                let list = if self.caller.is_some() { "PermitRemoteOpen" } else { "PermitOpen" };
                let why = format!("{list} lists the name and not the address that it leads to");
                self.end_early(why, Outcome::Forbidden, io);
                return;
            }
        }
        self.race(addresses, io);
    }

    fn race(&mut self, mut addresses: Vec<SocketAddr>, io: &mut Io<'_>) {
        addresses.retain(|address| self.families[usize::from(address.is_ipv6())]);
        if addresses.is_empty() {
            let why = "AddressFamily does not allow addresses of this family".to_owned();
            self.end_early(why, Outcome::Failed, io);
            return;
        }
        self.phase = Phase::Connecting(Race::new(addresses, io.now()));
        self.run_race(io);
    }

    /// Begins and ends attempts as it is time.
    fn run_race(&mut self, io: &mut Io<'_>) {
        let Phase::Connecting(race) = &mut self.phase else { return };
        let now = io.now();
        while let Some(number) = race.next_late(now) {
            io.cancel(TAG_CONNECT + number);
        }
        while let Some((number, at)) = race.next(now) {
            io.connect(TAG_CONNECT + number, at);
        }
        if let Some(at) = race.wake_at() {
            io.wake_at(at);
        }
    }

    /// An attempt is over. The socket is ours again.
    fn attempted(&mut self, number: u16, fd: Fd, result: Result<u32, Errno>, io: &mut Io<'_>) {
        let Phase::Connecting(race) = &mut self.phase else {
            // Another was quicker.
            close_if_open(fd, io);
            return;
        };
        let Some((at, late)) = race.failed(number, io.now()) else {
            close_if_open(fd, io);
            return;
        };
        if self.gone {
            close_if_open(fd, io);
            return;
        }
        match result {
            Ok(_) => {
                race.running().for_each(|other| io.cancel(TAG_CONNECT + other));
                self.socket = Some(fd);
                self.connected(io);
            }
            Err(errno) => {
                close_if_open(fd, io);
                if !race.is_lost() {
                    self.run_race(io);
                    return;
                }
                let why = match late && errno.0 == libc::ECANCELED {
                    true => "no answer in time".to_owned(),
                    false => errno.to_string(),
                };
                let why = if self.named { format!("{at}: {why}") } else { why };
                self.end_early(why, Outcome::of(errno), io);
            }
        }
    }

    fn connected(&mut self, io: &mut Io<'_>) {
        if self.caller.is_none() {
            io.accept();
        }
        self.start(io);
        self.answer(Outcome::Connected, io);
    }

    /// The channel is open, and bytes may go.
    fn start(&mut self, io: &mut Io<'_>) {
        let Some(fd) = self.socket else { return };
        self.phase = Phase::Open;
        self.deadline = None;
        io.note(Note::Opened { what: self.what.clone() });
        self.input.open(fd, End::Socket);
        self.output.open(fd, End::Socket);
        // A caller may have said more than where to.
        self.input.resume(io);
        self.pump(io);
    }

    fn end_early(&mut self, why: String, outcome: Outcome, io: &mut Io<'_>) {
        io.note(Note::Failed { what: self.what.clone(), why });
        self.phase = Phase::Failed;
        if self.answer(outcome, io) {
            return;
        }
        let reason = match outcome {
            Outcome::Forbidden => open_failure::ADMINISTRATIVELY_PROHIBITED,
            _ => open_failure::CONNECT_FAILED,
        };
        io.reject(reason, outcome.words());
    }

    // ---- Ending ------------------------------------------------------------------------------

    fn pump(&mut self, io: &mut Io<'_>) {
        // Nothing comes before a caller is told that he is connected.
        if self.gone || !matches!(self.phase, Phase::Open) || self.caller.is_some() {
            return;
        }
        self.output.pump(io);
        if self.output.is_done() && !self.eof_sent {
            self.eof_sent = true;
            io.eof();
        }
        if self.eof_sent && self.input.is_done() && !self.close_sent {
            self.close_sent = true;
            io.close();
            // Nothing is in flight on it any more.
            if let Some(socket) = self.socket.take() {
                io.close_fd(socket);
            }
        }
    }

    /// Its first bytes are not what they have to be.
    fn turn_away(&mut self, why: &str, io: &mut Io<'_>) {
        self.gate = None;
        io.note(Note::Failed { what: self.what.clone(), why: why.to_owned() });
        self.close_sent = true;
        self.output.cancel(io);
        io.close();
    }

    /// What waits to be whole never will be.
    fn close_gate(&mut self, io: &mut Io<'_>) {
        if let Some(mut gate) = self.gate.take() {
            gate.give_back(io);
        }
    }

    fn note_end(&mut self, io: &mut Io<'_>) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let both = self.close_sent || (self.eof_heard && self.eof_sent);
        let reason = match (both, self.broken) {
            (_, Some(_)) => "the other end broke it off",
            (true, None) => "both sides were done",
            (false, None) => "the client closed it",
        };
        let (bytes_in, bytes_out) = (self.bytes_in, self.bytes_out);
        io.note(Note::Ended { what: self.what.clone(), bytes_in, bytes_out, reason });
    }
}

/// There may never have been one.
fn close_if_open(fd: Fd, io: &mut Io<'_>) {
    if fd.0 >= 0 {
        io.close_fd(fd);
    }
}

impl Service for Forward {
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        if self.gone || self.close_sent {
            io.give_back(data.lease);
        } else if extended.is_some() {
            io.discard(data);
        } else if matches!(self.phase, Phase::Asking) {
            self.hear_caller(data, io);
        } else if let Some(gate) = &mut self.gate {
            match gate.take(data, io) {
                Verdict::Wait => {}
                Verdict::Passes(chunks) => {
                    self.gate = None;
                    chunks.into_iter().for_each(|chunk| self.input.data(chunk, io));
                }
                Verdict::Refused(why) => self.turn_away(why, io),
            }
        } else {
            self.input.data(data, io);
        }
    }

    fn on_eof(&mut self, io: &mut Io<'_>) {
        self.eof_heard = true;
        self.close_gate(io);
        self.input.end(io);
        match self.phase {
            Phase::Asking => self.end_asking(io),
            _ => self.pump(io),
        }
    }

    fn on_completion(&mut self, tag: u16, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        match (tag, op) {
            (tag, Op::Connect { fd, .. }) => {
                self.attempted(tag.saturating_sub(TAG_CONNECT), fd, result, io);
            }
            (TAG_INPUT, Op::Write { from, .. }) => {
                self.bytes_in += u64::from(result.unwrap_or(0));
                self.note_error(result);
                let lost = self.gone && self.deadline.is_none();
                self.input.written(from, result, None, lost, io);
                self.pump(io);
            }
            (TAG_INPUT, Op::Writable { .. }) => {
                self.input.may_write(self.gone && self.deadline.is_none(), io);
                self.pump(io);
            }
            (TAG_OUTPUT, op) if self.gone => self.output.abandoned(op, io),
            (TAG_OUTPUT, op) => {
                if matches!(op, Op::Recv { .. }) {
                    self.bytes_out += u64::from(result.unwrap_or(0));
                    self.note_error(result);
                }
                self.output.completed(op, result, None, io);
                io.call_late();
            }
            _ => {}
        }
    }

    fn on_done(&mut self, tag: u16, done: Done, io: &mut Io<'_>) {
        if tag == TAG_LOOK_UP {
            self.looked_up(done, io);
        }
    }

    fn on_ready(&mut self, io: &mut Io<'_>) {
        let late = self.deadline.is_some_and(|deadline| deadline <= io.now());
        self.say(io);
        match &self.phase {
            Phase::Asking => self.give_caller_up(io),
            Phase::Connecting(_) if !self.gone => self.run_race(io),
            Phase::Open if late && self.gone => {
                self.deadline = None;
                self.input.abandon(io);
            }
            Phase::Open => {
                self.output.expire(io);
                io.call_late();
            }
            _ => {}
        }
    }

    /// What came together goes on together, with all the window that came meanwhile.
    fn on_turn_over(&mut self, io: &mut Io<'_>) {
        if matches!(self.phase, Phase::Open) {
            self.input.resume(io);
            self.pump(io);
        }
    }

    fn yield_memory(&mut self, io: &mut Io<'_>) {
        self.input.yield_memory(io);
        self.output.yield_memory(io);
    }

    /// What the channel brought is still written, for a while: a client may close right behind its
    /// last bytes.
    fn on_close(&mut self, io: &mut Io<'_>) {
        self.gone = true;
        self.caller = None;
        self.close_gate(io);
        match &self.phase {
            Phase::Connecting(race) => {
                race.running().for_each(|number| io.cancel(TAG_CONNECT + number));
            }
            Phase::Open => {
                self.output.cancel(io);
                if self.input.is_busy() {
                    let deadline = io.now().after(CHANNEL_LINGER_TIME);
                    self.deadline = Some(deadline);
                    io.wake_at(deadline);
                    self.input.write_out(io);
                }
            }
            _ => {}
        }
    }

    fn release(&mut self, io: &mut Io<'_>) {
        self.note_end(io);
        self.input.abandon(io);
        if let Some(socket) = self.socket.take() {
            io.close_fd(socket);
        }
    }
}

impl Forward {
    /// Errors that are not of our own making.
    fn note_error(&mut self, result: Result<u32, Errno>) {
        const OURS: [i32; 5] =
            [libc::ECANCELED, libc::EAGAIN, libc::EINTR, libc::ENOBUFS, libc::ENOMEM];
        if let Err(errno) = result
            && !OURS.contains(&errno.0)
        {
            self.broken.get_or_insert(errno);
        }
    }
}
