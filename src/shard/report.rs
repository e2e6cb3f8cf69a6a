use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::outside::{Ends, StartupEnd};
use super::{News, Outside, Shard};
use crate::base::cut;
use crate::connection::{ChannelId, Conn};
use crate::crypto::{Certificate, PublicKey};
use crate::limits::SESSION_TEXT_BYTES_MAX;
use crate::reactor::Driver;
use crate::services::{FileEvent, Grant, Origin};
use crate::transport::{Error, OTHER_VERSION};

/// Something worth a log line. Texts that come from a peer are raw; the log escapes them.
#[derive(Debug)]
pub struct Report {
    /// Names the connection for its whole life, across hand-overs: process-unique.
    pub serial: u64,
    pub peer: SocketAddr,
    /// The number of the log level that holds for the connection, if it has its own.
    pub verbosity: Option<u8>,
    pub what: What,
    /// Of a connection that has logged in.
    pub grant: Option<Arc<Grant>>,
    /// The channel that it is about.
    pub channel: Option<u32>,
}

/// What is known of a key that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTold {
    /// As the log names it, and sshd's: its kind and fingerprint, or all that its certificate says.
    pub text: String,
    pub fingerprint: String,
    pub certificate: Option<CertificateTold>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateTold {
    /// What its authority wrote.
    pub id: String,
    pub serial: u64,
    /// The fingerprint of that authority.
    pub authority: String,
}

impl KeyTold {
    pub fn new(key: &PublicKey, certificate: Option<&Certificate>) -> KeyTold {
        let fingerprint = key.fingerprint();
        let plain = || format!("{} {fingerprint}", key.kind().family());
        let text = certificate.map_or_else(plain, Certificate::log_text);
        let certificate = certificate.map(|certificate| CertificateTold {
            id: certificate.key_id().to_owned(),
            serial: certificate.serial(),
            authority: certificate.authority().fingerprint(),
        });
        KeyTold { text, fingerprint, certificate }
    }
}

#[derive(Debug)]
pub enum What {
    Connected {
        local: SocketAddr,
    },
    /// A key exchange is over; `algorithms` names what it chose.
    KeyExchanged {
        first: bool,
        peer_ident: String,
        algorithms: String,
        /// Since the connection began.
        after: Duration,
    },
    AuthFailed {
        user: Box<str>,
        method: Box<str>,
        key: Option<Box<KeyTold>>,
        /// What is wrong, where the client is not told.
        why: Option<&'static str>,
    },
    /// That was the last attempt of the connection.
    TriesExceeded {
        user: Box<str>,
    },
    /// A method has succeeded, and others are still asked for.
    Partial {
        user: Box<str>,
        method: &'static str,
        key: Option<Box<KeyTold>>,
    },
    Authenticated {
        user: Box<str>,
        method: &'static str,
        key: Option<Box<KeyTold>>,
        source: String,
        /// Since the connection began.
        after: Duration,
    },
    /// The connection goes on in the process of its account, or in the relay.
    HandedOver {
        user: String,
    },
    /// The connection goes on in the program that has this one's place, with so many sessions and forwarded
    /// connections.
    MovedOn {
        user: String,
        sessions: u32,
        forwards: u32,
    },
    /// It has come from the program whose place this one has.
    MovedIn {
        user: String,
        sessions: u32,
        forwards: u32,
    },
    SessionStarted {
        user: String,
        what: String,
    },
    SessionEnded {
        what: String,
    },
    /// A connection was made for the client.
    Forwarding {
        user: String,
        what: String,
    },
    /// Connections are taken for the client, or not any more.
    Listening {
        user: String,
        what: String,
    },
    /// One could not be made.
    NotForwarded {
        user: String,
        what: String,
        why: String,
    },
    /// One is over; bytes from and to the client.
    Forwarded {
        user: String,
        what: String,
        bytes_in: u64,
        bytes_out: u64,
        reason: &'static str,
    },
    /// The login goes on at a host.
    Upstream {
        what: String,
    },
    /// A host could not be reached or used, or is lost.
    UpstreamFailed {
        host: String,
        why: String,
    },
    /// The recorder of its sessions fails: they end, or go on without.
    NotRecorded {
        why: String,
        continues: bool,
    },
    /// Something was done with a file over SFTP: only where somebody keeps an audit, and for that alone.
    File(FileEvent),
    Refused {
        what: String,
        why: String,
    },
    Disconnected {
        user: Option<String>,
        /// Whoever was named and has not logged in.
        asked: Option<String>,
        ending: Ending,
        reason: String,
        /// Our own doing (a defect or a lack of resources) rather than the peer's.
        ours: bool,
        bytes_in: u64,
        bytes_out: u64,
        after: Duration,
    },
}

/// How a connection has ended, as sshd tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer has closed or reset it; `greeted`: and had said who it is.
    Left {
        reset: bool,
        greeted: bool,
    },
    /// The peer has said so (RFC 4253 §11.1).
    Told {
        code: u32,
        text: Box<str>,
    },
    /// What came first was no identification, or that of another version of the protocol.
    Unidentified {
        other_version: bool,
    },
    NothingInCommon {
        what: &'static str,
        theirs: Box<str>,
    },
    /// The time for a login was over; our address.
    Late {
        local: IpAddr,
    },
    /// The peer was told why.
    Dismissed,
    /// There is no line of sshd's about it.
    Other,
}

impl Ending {
    pub(super) fn of(error: &Error, local: SocketAddr) -> Ending {
        match error {
            Error::Disconnected { code, text } => Ending::Told { code: *code, text: text.clone() },
            Error::NothingInCommon(lists) => {
                Ending::NothingInCommon { what: lists.what, theirs: lists.theirs.clone() }
            }
            Error::Identification(why) => {
                Ending::Unidentified { other_version: *why == OTHER_VERSION }
            }
            Error::Deadline(_) => Ending::Late { local: local.ip().to_canonical() },
            error if error.disconnect_code().is_some() => Ending::Dismissed,
            _ => Ending::Other,
        }
    }
}

impl What {
    /// Ordinary life: of interest to a log that is asked to tell all, and to no other.
    pub const fn is_routine(&self) -> bool {
        match self {
            What::AuthFailed { .. }
            | What::TriesExceeded { .. }
            | What::Refused { .. }
            | What::UpstreamFailed { .. }
            | What::NotRecorded { .. }
            | What::NotForwarded { .. } => false,
            What::Disconnected { ours, .. } => !*ours,
            _ => true,
        }
    }

    /// Lines wait in memory, and a command may be long: what no log shows is left out.
    pub fn shorten(&mut self) {
        let (What::SessionStarted { what, .. } | What::Refused { what, .. }) = self else { return };
        let (kept, left) = cut(what.as_bytes(), SESSION_TEXT_BYTES_MAX);
        let kept = kept.len();
        if left > 0 {
            what.truncate(kept);
            what.push_str(&format!("[+{left} bytes]"));
        }
    }
}

/// Why the log says a request was refused that had a string longer than any we take.
pub(super) const TOO_LONG: &str = "it is too long";

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn report(&mut self, key: u32, what: What) {
        self.report_on(key, None, what);
    }

    /// Reports that a client does not get something.
    pub(super) fn report_refused(&mut self, key: u32, what: &str, why: &str) {
        self.report(key, What::Refused { what: what.to_owned(), why: why.to_owned() });
    }

    /// Reports something about a channel.
    pub(super) fn report_on(&mut self, key: u32, id: Option<ChannelId>, what: What) {
        let Some(link) = self.links.get(key as usize) else { return };
        let (serial, peer, verbosity) = (link.serial, link.ends.peer, link.about.verbosity);
        let grant = link.grant.clone().filter(|_| link.authenticated);
        let channel = id.map(ChannelId::number);
        self.outside.report(Report { serial, peer, verbosity, what, grant, channel });
    }

    /// The line in the log that ends a connection; only the first reason counts. Unless `how` says
    /// otherwise, a peer that is not logged in is judged by whether it has tried.
    pub(super) fn report_end(
        &mut self,
        key: u32,
        reason: &str,
        ours: bool,
        (how, ending): (Option<StartupEnd>, Ending),
    ) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        if link.ended {
            return;
        }
        link.ended = true;
        if matches!(link.conn, Conn::Client(_)) {
            // The client's connection tells of it, or whoever made it hears of it.
            link.reason = Some(reason.to_owned());
            if self.is_client(key) {
                self.publish(key, News::Ended { reason: reason.to_owned() });
            }
            return;
        }
        let stats = link.conn.stats();
        let what = What::Disconnected {
            user: link.user(),
            asked: link.conn.user_asked().filter(|_| !link.authenticated).map(str::to_owned),
            ending,
            reason: reason.to_owned(),
            ours,
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            after: self.driver.now().since(link.since),
        };
        let tried = if link.attempted { StartupEnd::Attempted } else { StartupEnd::NoAttempt };
        let (ends, authenticated) = (link.ends, link.authenticated);
        if !authenticated {
            let Ends { peer, local, routing } = ends;
            let from = Origin { link: link.serial, peer, local, routing };
            if let Some(user) = link.conn.user_asked().filter(|_| !link.attempted) {
                self.outside.only_asked(user, from);
            }
            self.outside.startup_over(ends, how.unwrap_or(tried));
        }
        self.report(key, what);
    }
}
