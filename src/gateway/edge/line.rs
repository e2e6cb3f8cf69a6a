//! The edge's way to root's process: questions of shards go out, and shards never wait for the answers.

use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use super::words::{Ask, Ticket};
use crate::crypto::ShownKey;
use crate::gateway::helper::Owed;
use crate::gateway::socket::Messenger;
use crate::reactor::Token;
use crate::services::{Job, Origin};
use crate::shard::{HandOver, Proof, StartupEnd, UNTOLD};

/// The edge's end. What does not fit into the socket's queue waits in the shard that asks; what must
/// not be lost waits here.
#[derive(Debug)]
pub struct Line {
    messenger: Arc<Messenger>,
    owed: Owed,
    single: bool,
}

impl Line {
    /// `single`: of an edge that ends with its only connection.
    pub fn new(messenger: Arc<Messenger>, single: bool) -> Line {
        Line { messenger, owed: Owed::default(), single }
    }

    pub const fn is_single(&self) -> bool {
        self.single
    }

    /// Whether a job is root's process's to do.
    pub const fn takes(job: &Job) -> bool {
        matches!(
            job,
            Job::Sign { .. }
                | Job::Greet { .. }
                | Job::FindKey { .. }
                | Job::CheckSecrets { .. }
                | Job::Converse { .. }
        )
    }

    /// Asks for what only root's process can do. The job comes back when that has no room for it.
    pub fn ask(&self, shard: usize, token: Token, job: Job) -> Result<(), Job> {
        if !self.pay() {
            return Err(job);
        }
        let ticket = Ticket { shard: shard as u32, token };
        let ask = match &job {
            Job::Sign { from, host_key, exchange: Some(exchange), .. } => Ask::Sign {
                ticket,
                from: *from,
                host_key: *host_key as u32,
                exchange: exchange.clone(),
            },
            Job::Greet { user, from } => {
                Ask::Greet { ticket, from: *from, user: user.as_ref().into() }
            }
            Job::FindKey { user, style, key, algorithm, certificate, signed, from, .. } => {
                let shown = ShownKey {
                    key: key.clone(),
                    algorithm: *algorithm,
                    certificate: certificate.clone(),
                };
                let (name, signed) = (format!("{user}{style}"), signed.clone());
                Ask::FindKey { ticket, from: *from, name, shown, signed }
            }
            Job::CheckSecrets { user, secrets, from, .. } => Ask::CheckSecrets {
                ticket,
                from: *from,
                user: user.as_ref().into(),
                secrets: (**secrets).clone(),
            },
            Job::Converse { user, answers, from, .. } => Ask::Converse {
                ticket,
                from: *from,
                user: user.as_ref().into(),
                answers: answers.clone(),
            },
            _ => return Err(job),
        };
        self.messenger.try_send(&ask.encode(), None).map_err(|_| job)
    }

    /// Asks whether the account of a login that has proved itself may be used. `false`: root's process does
    /// not listen.
    pub fn ask_account(&self, ticket: Ticket, user: &str, from: Origin, proofs: &[Proof]) -> bool {
        let ask = Ask::Admit { ticket, from, user: user.to_owned(), proofs: proofs.to_vec() };
        self.pay() && self.messenger.try_send(&ask.encode(), None).is_ok()
    }

    /// A login is over: its connection leaves. It comes back when root's process does not listen.
    pub fn hand_over(&self, mut connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        if !self.pay() {
            return Err(connection);
        }
        let HandOver { serial: link, record, inbound, outbound, proofs, .. } = &mut *connection;
        let ask = Ask::HandOver {
            link: *link,
            proofs: mem::take(proofs),
            record: mem::take(record),
            inbound: mem::take(inbound),
            outbound: mem::take(outbound),
        };
        // SAFETY: the shard gave this descriptor up when it handed the connection over.
        let socket = unsafe { OwnedFd::from_raw_fd(connection.socket.0) };
        match self.messenger.try_send(&ask.encode(), Some(socket.as_fd())) {
            // The copy that travels is the one that counts.
            Ok(()) => Ok(()),
            Err(_) => {
                let _ = socket.into_raw_fd();
                if let Ask::HandOver { record, inbound, outbound, proofs, .. } = ask {
                    *connection = HandOver { record, inbound, outbound, proofs, ..*connection };
                }
                Err(connection)
            }
        }
    }

    /// How a connection of this peer has ended before its login. Where there is no room for it, the next
    /// edge does not know.
    pub fn earned(&self, peer: SocketAddr, how: StartupEnd, unknown_user: bool) {
        if !matches!(how, StartupEnd::LoggedIn | StartupEnd::Ours) {
            let earned = Ask::Earned { peer, how, unknown_user };
            let _ = self.messenger.try_send(&earned.encode(), None);
        }
    }

    /// A client has left that has only asked for this user's methods: records of failed logins tell of users
    /// who do not exist. Where there is no room for it, they do not.
    pub fn left(&self, user: &str, from: Origin) {
        let left = Ask::Left { from, user: user.to_owned() };
        let _ = self.messenger.try_send(&left.encode(), None);
    }

    /// Asks whether the edge's only connection may come in, which is this client's. `false`: root's process
    /// does not listen.
    pub fn announce(&self, peer: SocketAddr) -> bool {
        self.messenger.try_send(&Ask::Announced { peer }.encode(), None).is_ok()
    }

    /// The edge's only connection is turned away: its proxy did not say whose it is.
    pub fn untold(&self, why: &str) {
        let why = UNTOLD.iter().position(|known| *known == why).unwrap_or(0) as u8;
        let _ = self.messenger.try_send(&Ask::Untold { why }.encode(), None);
    }

    /// Ends the edge.
    pub fn leave(&self) {
        self.messenger.hang_up();
    }

    /// A connection that root's process has heard of has ended.
    pub fn over(&self, link: u64) {
        self.owed.add(link);
        self.pay();
    }

    /// Tells what is owed. `false`: some is left.
    fn pay(&self) -> bool {
        self.owed.pay(&self.messenger, |link| Ask::Over { link }.encode())
    }
}
