use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use std::sync::Arc;

use super::{Asking, Report};
use crate::connection::ConnectionConfig;
use crate::crypto::ShownKey;
use crate::reactor::{Fd, Token};
use crate::services::{Done, Grant, Job, Luggage, Origin, RoutingDomain};

/// The two ends of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Only told where somebody wants to know.
    pub routing: RoutingDomain,
}

/// What happens to a connection that a listener accepted.
#[derive(Debug)]
pub enum Admission {
    /// This shard serves it.
    Here(Ends),
    /// A proxy made it, which is asked first whose it is; then it is admitted by
    /// [`Outside::admit_as`].
    Ask(Ends, Asking),
    /// Another shard was given it.
    Elsewhere,
    /// The descriptor is to be closed; the reason has been counted and logged.
    Refused,
}

/// A live connection on its way to the process that acts for its account.
#[derive(Debug)]
pub struct HandOver {
    pub socket: Fd,
    pub ends: Ends,
    /// The connection's name in the log.
    pub serial: u64,
    /// The session's identifier.
    pub session: Box<[u8]>,
    /// [`crate::connection::Conn::export`]'s bytes.
    pub record: Vec<u8>,
    /// Received and not opened yet.
    pub inbound: Vec<u8>,
    /// Sealed and not sent yet.
    pub outbound: Vec<u8>,
    pub grant: Box<Grant>,
    /// How its user has logged in.
    pub proofs: Vec<Proof>,
    /// By what root's process knows it again that it has passed this connection on.
    pub token: Box<[u8]>,
    /// What its channels are attached to: it has gone on for a while.
    pub luggage: Option<Box<Luggage>>,
}

/// One method that has succeeded in a login, for whoever does not take our word for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The key has signed the session's identifier and the request; `host_bound`: the host key too.
    Key { shown: ShownKey, host_bound: bool, signature: Box<[u8]> },
    /// A password, or answers to prompts.
    Secrets { interactive: bool },
}

/// What reaches a shard from other threads.
#[derive(Debug)]
pub enum Mail {
    /// A job's outcome.
    Done { token: Token, done: Done },
    /// A connection that another shard accepted for this one, and what it has brought already.
    Accepted { socket: Fd, ends: Ends, inbound: Vec<u8> },
    /// A proxy's connection that was accepted elsewhere; the proxy is asked first whose it is.
    Passed { socket: Fd, ends: Ends, asking: Asking },
    /// An authenticated connection from the process that accepted it.
    HandOver(Box<HandOver>),
    /// End every connection with DISCONNECT (by application) and stop accepting.
    Stop,
    /// Accept no more. The shard is done when its last connection has ended by itself.
    Retire,
    /// Another program has this one's place: connections go on there as soon as they can.
    MoveOn,
}

/// How the time before a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupEnd {
    LoggedIn,
    /// The peer tried, and is gone without a login.
    Attempted,
    /// The peer is gone without an attempt.
    NoAttempt,
    /// The login took too long.
    Late,
    /// The configuration wants no such connection.
    Refused,
    /// Nothing the peer did.
    Ours,
}

/// The shard's one seam to the rest of the process: workers, other shards, policy and the log.
/// Calls never block.
pub trait Outside {
    /// Hands a job to the workers; its outcome arrives as [`Mail::Done`] with this token. Gives
    /// the job back when their queue is full.
    fn submit(&mut self, token: Token, job: Job) -> Result<(), Job>;

    /// Asks whether the account of a login may be used that has proved itself so; the answer arrives as
    /// that of a job. `false`: nobody can be asked.
    fn ask_account(
        &mut self,
        _token: Token,
        _user: &str,
        _from: Origin,
        _proofs: &[Proof],
    ) -> bool {
        false
    }

    /// Mail has arrived of which the driver says nothing: the shard's own jobs that took no worker.
    fn has_mail(&self) -> bool {
        false
    }

    /// Moves what has arrived since the last call into `mail`.
    fn collect(&mut self, mail: &mut Vec<Mail>);

    /// Where another process puts mail for this shard alone, if one does: readable when there is some.
    fn mailbox(&self) -> Option<Fd> {
        None
    }

    /// Moves some of what is there into `mail`. `false`: nothing comes there any more.
    fn empty_mailbox(&mut self, _mail: &mut Vec<Mail>) -> bool {
        false
    }

    /// What holds for connections between these ends before anybody has logged in, where that
    /// differs from the shard's own configuration.
    fn greeting(&mut self, ends: Ends) -> Option<Arc<ConnectionConfig>>;

    /// Decides about a freshly accepted socket and prepares it (no delay, keepalive).
    fn admit(&mut self, socket: Fd) -> Admission;

    /// Decides about a connection that a proxy passes on, with these ends. What it has brought goes
    /// with it if it goes elsewhere.
    fn admit_as(&mut self, _socket: Fd, _ends: Ends, _inbound: &mut Vec<u8>) -> Admission {
        Admission::Refused
    }

    /// The shard itself turns a connection away.
    fn dropped(&mut self, _socket: Fd, _why: &'static str) {}

    /// The connection of a proxy is gone before it has said whose it is.
    fn untold(&mut self) {}

    /// Connections were turned away; it is time to say how many, for the next second.
    fn tell_drops(&mut self) {}

    /// An unauthenticated connection has logged in or ended: its startup slot is free.
    fn startup_over(&mut self, ends: Ends, how: StartupEnd);

    /// A connection ends without a login that has asked for this user's methods and tried none.
    fn only_asked(&mut self, _user: &str, _from: Origin) {}

    /// A connection of this shard has ended or left: the one of this name, if it began.
    fn ended(&mut self, link: Option<u64>);

    /// This process acts for the account itself.
    fn serves(&self, grant: &Grant) -> bool;

    /// Passes a connection to the process that acts for its account. Gives it back when that
    /// process cannot be reached.
    fn hand_over(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>>;

    /// Passes a connection with all that belongs to it to the program that has this one's place. Gives it back
    /// where that program takes nothing now.
    fn move_on(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        Err(connection)
    }

    /// The way to the recorder of this connection's sessions (TidegateRecord).
    ///
    /// # Errors
    /// There is none; the text says why.
    fn recorder(
        &mut self,
        _link: u64,
        _peer: SocketAddr,
        _grant: &Grant,
    ) -> Result<OwnedFd, String> {
        Err("nothing is recorded here".to_owned())
    }

    /// Marks the packets that a socket sends: the byte of IP_TOS and IPV6_TCLASS. Where there is
    /// no network there is nothing to mark.
    fn set_class(&mut self, _socket: Fd, _class: u8) {}

    /// This shard was told to retire, and no connection of its listeners is on its way any more.
    fn accepting_is_over(&mut self) {}

    /// Something panicked while it was done for a connection of this shard, which ends for it.
    fn met_defect(&mut self);

    /// A turn is over, in which so many bytes have come and left on connections.
    fn turned(&mut self, _traffic: (u64, u64)) {}

    /// One line for the log. Dropped and counted when the log is behind.
    fn report(&mut self, report: Report);
}
