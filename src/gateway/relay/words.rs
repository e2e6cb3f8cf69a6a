//! What a relay and root's process say to each other: one message a datagram of a socket pair, each of
//! one type, each field bounded. What a relay says is not believed; `clerk` checks it. A login is spoken
//! of by its number, and what it may have is in root's process alone: no message to it names a file, an
//! address or a user.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::super::moving::{MESSAGE, Moving, PIECE, luggage, put_luggage};
use super::super::parcel::{Parcel, address, flag, put, put_address};
use crate::connection::LoginSession;
use crate::crypto::{KeyAlgorithm, ShownKey, SignatureAlgorithm};
use crate::gateway::audit::Entry;
use crate::gateway::confine::Cell;
use crate::gateway::edge::words::{
    Ticket, algorithm, key_algorithm, put_shown, put_ticket, shown, ticket,
};
use crate::gateway::signer::words::Order;
use crate::gateway::terms::Terms;
use crate::limits::{
    HAND_OVER_UNSENT_BYTES_MAX, HOST_KEY_BYTES_MAX, PARCEL_BYTES_MAX, SESSION_ID_BYTES_MAX,
    SIGNATURE_BYTES_MAX, TROUBLE_BYTES_MAX, UPSTREAM_HOSTS_MAX, UPSTREAM_NAME_BYTES_MAX,
};
use crate::services::upstream::Trouble;
use crate::wire::{Malformed, Reader};

/// From a relay.
#[derive(Debug)]
pub enum Ask {
    /// It has given up what it does not need, and serves.
    Ready,
    /// The answer to [`Tell::Ping`].
    Pong,
    /// Which hosts does this login go on at?
    FindHosts { ticket: Ticket, link: u64 },
    /// Connect to the host of this number. `subject`: where logins are certified, the key of this one;
    /// empty else.
    FindWay { ticket: Ticket, link: u64, host: u32, subject: Vec<u8> },
    /// Is this the key of the host of this number? It has signed the session's identifier.
    JudgeHost {
        ticket: Ticket,
        link: u64,
        host: u32,
        shown: ShownKey,
        session: Vec<u8>,
        signature: Vec<u8>,
    },
    /// Have the login in this session signed.
    SignLogin { ticket: Ticket, link: u64, algorithm: SignatureAlgorithm, session: LoginSession },
    /// A later key exchange with a client, or a proof of a host key for one.
    Sign { ticket: u64, order: Order },
    /// The login's connection has ended.
    Over { link: u64 },
    /// Something for the audit.
    Audit(Box<Entry>),
    /// A descriptor of the login that moves next; attached.
    Piece { link: u64, number: u32 },
    /// A login is to go on in the program that has this one's place; its client's socket is attached. Of what it
    /// says of the login nothing is believed but what the login itself is to go on with.
    Moves(Box<Moving>),
}

/// To a relay.
#[derive(Debug)]
pub enum Tell {
    /// First: all that it is to know.
    Setup(Box<Setup>),
    /// Second: memory for what is counted; attached.
    Figures,
    /// A login that goes on elsewhere; its socket is attached.
    HandOver(Box<Handed>),
    /// The way to the recorder of the login that follows; attached.
    Recorder {
        link: u64,
    },
    Hosts {
        ticket: Ticket,
        found: Result<Found, Trouble>,
    },
    /// The connection to the host is attached.
    Way {
        ticket: Ticket,
        found: Result<Passage, Trouble>,
    },
    Judged {
        ticket: Ticket,
        verdict: Result<(), Trouble>,
    },
    /// Of a login; empty when it could not be signed.
    LoginSigned {
        ticket: Ticket,
        signature: Vec<u8>,
    },
    /// The answer to [`Ask::Sign`].
    Signed {
        ticket: u64,
        signature: Vec<u8>,
    },
    /// The question was lost, or comes too late.
    Lost {
        ticket: Ticket,
    },
    Ping,
    /// A descriptor of the login that follows; attached.
    Piece {
        link: u64,
        number: u32,
    },
    /// Logins are to go on in the program that has this one's place.
    MoveOn,
    /// No login comes any more.
    Retire,
    /// End every connection.
    Stop,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    pub terms: Terms,
    pub reactors: u32,
    pub cell: Cell,
    /// Ciphers may be chosen for this CPU.
    pub steers: bool,
}

/// A login that goes on elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    pub link: u64,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub record: Vec<u8>,
    pub inbound: Vec<u8>,
    pub outbound: Vec<u8>,
    /// [`crate::services::Grant::encode`]'s.
    pub grant: Vec<u8>,
    /// [`super::destination::encode`]'s.
    pub upstream: Vec<u8>,
    /// Of one that has gone on for a while: what its channels are coupled with, and how many descriptors that has.
    pub luggage: Option<(Vec<u8>, u32)>,
}

/// What a program has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub hosts: Vec<(String, u16)>,
    /// Who logs in there.
    pub user: String,
}

/// The way into a host that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    pub at: SocketAddr,
    /// What the host is to show, most wanted first.
    pub host_key_algorithms: Vec<KeyAlgorithm>,
    pub proof: Proof,
}

/// How the login shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By the client's agent.
    Agent,
    /// By the gateway's own key.
    Key(Vec<u8>),
    /// By the key that was made for it, in this certificate.
    Certificate(Vec<u8>),
}

impl Ask {
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        match self {
            Ask::Ready => out.push(1),
            Ask::Pong => out.push(10),
            Ask::FindHosts { ticket, link } => head(&mut out, 3, *ticket, *link),
            Ask::FindWay { ticket, link, host, subject } => {
                head(&mut out, 4, *ticket, *link);
                out.extend(host.to_be_bytes());
                put(&mut out, subject);
            }
            Ask::JudgeHost { ticket, link, host, shown, session, signature } => {
                head(&mut out, 5, *ticket, *link);
                out.extend(host.to_be_bytes());
                put_shown(&mut out, shown);
                put(&mut out, session);
                put(&mut out, signature);
            }
            Ask::SignLogin { ticket, link, algorithm, session } => {
                head(&mut out, 6, *ticket, *link);
                put(&mut out, algorithm.name().as_bytes());
                put(&mut out, &session.id);
                put(&mut out, &session.host_key);
            }
            Ask::Sign { ticket, order } => {
                // Grown once, so that no copy of a secret is left behind.
                out.reserve(order.bytes_max());
                out.push(7);
                out.extend(ticket.to_be_bytes());
                order.encode(&mut out);
            }
            Ask::Over { link } => {
                out.push(8);
                out.extend(link.to_be_bytes());
            }
            Ask::Audit(entry) => {
                out.push(9);
                entry.encode(&mut out);
            }
            // As whoever passes connections on sends them.
            Ask::Piece { link, number } => {
                out.extend(Parcel::Piece { serial: *link, number: *number }.encode());
            }
            Ask::Moves(moving) => return moving.message(false).into(),
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Ask, Malformed> {
        let mut r = Reader::new(bytes);
        let ask = match r.byte()? {
            1 => Ask::Ready,
            10 => Ask::Pong,
            3 => Ask::FindHosts { ticket: ticket(&mut r)?, link: r.uint64()? },
            4 => Ask::FindWay {
                ticket: ticket(&mut r)?,
                link: r.uint64()?,
                host: r.uint32()?,
                subject: r.string(HOST_KEY_BYTES_MAX)?.to_vec(),
            },
            5 => Ask::JudgeHost {
                ticket: ticket(&mut r)?,
                link: r.uint64()?,
                host: r.uint32()?,
                shown: shown(&mut r)?,
                session: r.string(SESSION_ID_BYTES_MAX)?.to_vec(),
                signature: r.string(SIGNATURE_BYTES_MAX)?.to_vec(),
            },
            6 => Ask::SignLogin {
                ticket: ticket(&mut r)?,
                link: r.uint64()?,
                algorithm: algorithm(&mut r)?,
                session: LoginSession {
                    id: r.string(SESSION_ID_BYTES_MAX)?.into(),
                    host_key: r.string(HOST_KEY_BYTES_MAX)?.into(),
                },
            },
            7 => Ask::Sign { ticket: r.uint64()?, order: Order::decode(&mut r)? },
            8 => Ask::Over { link: r.uint64()? },
            9 => Ask::Audit(Box::new(Entry::decode(&mut r)?)),
            MESSAGE => Ask::Moves(Box::new(Moving::decode(&mut r)?)),
            PIECE => Ask::Piece { link: r.uint64()?, number: r.uint32()? },
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(ask)
    }
}

impl Tell {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Tell::Setup(setup) => {
                out.push(1);
                setup.encode(&mut out);
            }
            Tell::HandOver(handed) => {
                out.push(2);
                handed.encode(&mut out);
            }
            Tell::Hosts { ticket, found } => {
                answer(&mut out, 3, *ticket, found.as_ref().err());
                found.iter().for_each(|found| found.encode(&mut out));
            }
            Tell::Way { ticket, found } => {
                answer(&mut out, 4, *ticket, found.as_ref().err());
                found.iter().for_each(|passage| passage.encode(&mut out));
            }
            Tell::Judged { ticket, verdict } => {
                answer(&mut out, 5, *ticket, verdict.as_ref().err());
            }
            Tell::LoginSigned { ticket, signature } => {
                out.push(6);
                put_ticket(&mut out, *ticket);
                put(&mut out, signature);
            }
            Tell::Signed { ticket, signature } => {
                out.push(7);
                out.extend(ticket.to_be_bytes());
                put(&mut out, signature);
            }
            Tell::Lost { ticket } => {
                out.push(8);
                put_ticket(&mut out, *ticket);
            }
            Tell::Recorder { link } => {
                out.push(12);
                out.extend(link.to_be_bytes());
            }
            Tell::Figures => out.push(13),
            Tell::Piece { link, number } => {
                out.push(14);
                out.extend(link.to_be_bytes());
                out.extend(number.to_be_bytes());
            }
            Tell::MoveOn => out.push(15),
            Tell::Ping => out.push(9),
            Tell::Retire => out.push(10),
            Tell::Stop => out.push(11),
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Tell, Malformed> {
        let mut r = Reader::new(bytes);
        let tell = match r.byte()? {
            1 => Tell::Setup(Box::new(Setup::decode(&mut r)?)),
            2 => Tell::HandOver(Box::new(Handed::decode(&mut r)?)),
            3 => {
                let (ticket, trouble) = answered(&mut r)?;
                let found = match trouble {
                    Some(trouble) => Err(trouble),
                    None => Ok(Found::decode(&mut r)?),
                };
                Tell::Hosts { ticket, found }
            }
            4 => {
                let (ticket, trouble) = answered(&mut r)?;
                let found = match trouble {
                    Some(trouble) => Err(trouble),
                    None => Ok(Passage::decode(&mut r)?),
                };
                Tell::Way { ticket, found }
            }
            5 => {
                let (ticket, trouble) = answered(&mut r)?;
                Tell::Judged { ticket, verdict: trouble.map_or(Ok(()), Err) }
            }
            6 => Tell::LoginSigned {
                ticket: ticket(&mut r)?,
                signature: r.string(SIGNATURE_BYTES_MAX)?.to_vec(),
            },
            7 => Tell::Signed {
                ticket: r.uint64()?,
                signature: r.string(SIGNATURE_BYTES_MAX)?.to_vec(),
            },
            8 => Tell::Lost { ticket: ticket(&mut r)? },
            13 => Tell::Figures,
            14 => Tell::Piece { link: r.uint64()?, number: r.uint32()? },
            15 => Tell::MoveOn,
            9 => Tell::Ping,
            10 => Tell::Retire,
            11 => Tell::Stop,
            12 => Tell::Recorder { link: r.uint64()? },
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(tell)
    }
}

impl Setup {
    fn encode(&self, out: &mut Vec<u8>) {
        self.terms.encode(out);
        out.extend(self.reactors.to_be_bytes());
        self.cell.encode(out);
        out.push(u8::from(self.steers));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Setup, Malformed> {
        Ok(Setup {
            terms: Terms::decode(r)?,
            reactors: r.uint32()?,
            cell: Cell::decode(r)?,
            steers: flag(r)?,
        })
    }
}

impl Handed {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.link.to_be_bytes());
        put_address(out, &self.peer);
        put_address(out, &self.local);
        [&self.record, &self.inbound, &self.outbound, &self.grant, &self.upstream]
            .into_iter()
            .for_each(|bytes| put(out, bytes));
        put_luggage(out, self.luggage.as_ref());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Handed, Malformed> {
        Ok(Handed {
            link: r.uint64()?,
            peer: address(r)?,
            local: address(r)?,
            record: r.string(PARCEL_BYTES_MAX)?.to_vec(),
            inbound: r.string(PARCEL_BYTES_MAX)?.to_vec(),
            outbound: r.string(HAND_OVER_UNSENT_BYTES_MAX)?.to_vec(),
            grant: r.string(PARCEL_BYTES_MAX)?.to_vec(),
            upstream: r.string(PARCEL_BYTES_MAX)?.to_vec(),
            luggage: luggage(r)?,
        })
    }
}

impl Found {
    fn encode(&self, out: &mut Vec<u8>) {
        put_hosts(out, &self.hosts);
        put(out, self.user.as_bytes());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Found, Malformed> {
        Ok(Found { hosts: hosts(r)?, user: r.utf8(UPSTREAM_NAME_BYTES_MAX)?.to_owned() })
    }
}

impl Passage {
    fn encode(&self, out: &mut Vec<u8>) {
        put_address(out, &self.at);
        out.extend((self.host_key_algorithms.len() as u32).to_be_bytes());
        self.host_key_algorithms.iter().for_each(|one| put(out, one.name().as_bytes()));
        let (kind, blob) = match &self.proof {
            Proof::Agent => (0, &[][..]),
            Proof::Key(blob) => (1, &**blob),
            Proof::Certificate(blob) => (2, &**blob),
        };
        out.push(kind);
        put(out, blob);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Passage, Malformed> {
        let at = address(r)?;
        let count = r.uint32()? as usize;
        if count > KeyAlgorithm::ALL.len() {
            return Err(Malformed::OverLimit);
        }
        let algorithms = (0..count).map(|_| key_algorithm(r)).collect::<Result<_, _>>()?;
        let (kind, blob) = (r.byte()?, r.string(HOST_KEY_BYTES_MAX)?.to_vec());
        let proof = match kind {
            0 if blob.is_empty() => Proof::Agent,
            1 => Proof::Key(blob),
            2 => Proof::Certificate(blob),
            _ => return Err(Malformed::Number),
        };
        Ok(Passage { at, host_key_algorithms: algorithms, proof })
    }
}

pub fn put_hosts(out: &mut Vec<u8>, hosts: &[(String, u16)]) {
    out.extend((hosts.len() as u32).to_be_bytes());
    for (name, port) in hosts {
        put(out, name.as_bytes());
        out.extend(u32::from(*port).to_be_bytes());
    }
}

pub fn hosts(r: &mut Reader<'_>) -> Result<Vec<(String, u16)>, Malformed> {
    let count = r.uint32()? as usize;
    if count > UPSTREAM_HOSTS_MAX {
        return Err(Malformed::OverLimit);
    }
    let one = |_| {
        let name = r.utf8(UPSTREAM_NAME_BYTES_MAX)?.to_owned();
        Ok((name, u16::try_from(r.uint32()?).map_err(|_| Malformed::Range)?))
    };
    (0..count).map(one).collect()
}

fn head(out: &mut Vec<u8>, kind: u8, ticket: Ticket, link: u64) {
    out.push(kind);
    put_ticket(out, ticket);
    out.extend(link.to_be_bytes());
}

/// The beginning of an answer: it has come to something, or to this.
fn answer(out: &mut Vec<u8>, kind: u8, ticket: Ticket, trouble: Option<&Trouble>) {
    out.push(kind);
    put_ticket(out, ticket);
    out.push(u8::from(trouble.is_some()));
    if let Some(Trouble { said, logged }) = trouble {
        put(out, cut(said));
        put(out, cut(logged));
    }
}

fn answered(r: &mut Reader<'_>) -> Result<(Ticket, Option<Trouble>), Malformed> {
    let (ticket, is_trouble) = (ticket(r)?, flag(r)?);
    let trouble = if is_trouble {
        let said = r.utf8(TROUBLE_BYTES_MAX)?.to_owned();
        Some(Trouble { said, logged: r.utf8(TROUBLE_BYTES_MAX)?.to_owned() })
    } else {
        None
    };
    Ok((ticket, trouble))
}

fn cut(text: &str) -> &[u8] {
    let mut end = text.len().min(TROUBLE_BYTES_MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.as_bytes().get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};
    use crate::gateway::signer::words::Signable;
    use crate::reactor::Token;

    const TICKET: Ticket = Ticket { shard: 1, token: Token { key: 2, generation: 3, tag: 4 } };

    #[test]
    fn what_a_relay_says_is_read_whole_or_not_at_all() {
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        let shown = ShownKey::of_blob(key.public().blob()).expect("a key");
        let algorithm = SignatureAlgorithm::Ed25519;
        let proof = Signable::Proof { algorithm, session: [5; 32].into() };
        for ask in [
            Ask::Ready,
            Ask::Pong,
            Ask::FindHosts { ticket: TICKET, link: 9 },
            Ask::FindWay { ticket: TICKET, link: 9, host: 1, subject: vec![1; 51] },
            Ask::JudgeHost {
                ticket: TICKET,
                link: 9,
                host: 1,
                shown,
                session: vec![7; 32],
                signature: vec![8; 83],
            },
            Ask::SignLogin {
                ticket: TICKET,
                link: 9,
                algorithm,
                session: LoginSession { id: [7; 32].into(), host_key: [6; 51].into() },
            },
            Ask::Sign { ticket: 3, order: Order { key: 0, what: proof } },
            Ask::Over { link: 9 },
            Ask::Audit(Box::new(Entry::lost(3))),
            Ask::Piece { link: 9, number: 1 },
            Ask::Moves(Box::new(Moving {
                serial: 9,
                peer: "192.0.2.1:5".parse().expect("an address"),
                local: "[::1]:22".parse().expect("an address"),
                session: vec![8; 32],
                record: vec![1; 90],
                inbound: vec![2],
                outbound: Vec::new(),
                grant: vec![3],
                upstream: Some(vec![4]),
                token: Vec::new(),
                luggage: Some((vec![5; 9], 1)),
                kept: None,
                apart: false,
            })),
        ] {
            let mut bytes = ask.encode().to_vec();
            assert_eq!(*Ask::decode(&bytes).expect("whole").encode(), bytes, "{ask:?}");
            for cut in 0..bytes.len() {
                assert!(Ask::decode(&bytes[..cut]).is_err(), "{ask:?} cut at {cut}");
            }
            bytes.push(0);
            assert!(Ask::decode(&bytes).is_err(), "{ask:?} with more");
        }
        assert!(Ask::decode(&[0]).is_err() && Ask::decode(&[11]).is_err());
    }

    #[test]
    fn what_a_relay_is_told_travels_whole() {
        let address = "192.0.2.1:5".parse().expect("an address");
        let trouble = Trouble { said: "no".into(), logged: "\u{e4}".repeat(20_000) };
        let found = Found { hosts: vec![("web1".into(), 22)], user: "deploy".into() };
        let passage =
            |proof| Passage { at: address, host_key_algorithms: KeyAlgorithm::ALL.to_vec(), proof };
        let handed = Handed {
            link: 9,
            peer: address,
            local: address,
            record: vec![1; 700],
            inbound: vec![2],
            outbound: vec![3; 60],
            grant: vec![3],
            upstream: vec![4],
            luggage: Some((vec![5; 9], 1)),
        };
        let terms = Terms { config: b"port 22".to_vec(), ..Terms::default() };
        let setup = Setup { terms, reactors: 2, ..Setup::default() };
        let way = |found| Tell::Way { ticket: TICKET, found };
        for tell in [
            Tell::Setup(Box::new(setup)),
            Tell::HandOver(Box::new(handed)),
            Tell::Hosts { ticket: TICKET, found: Ok(found) },
            Tell::Hosts { ticket: TICKET, found: Err(Trouble::plain("none")) },
            way(Ok(passage(Proof::Agent))),
            way(Ok(passage(Proof::Key(vec![1; 51])))),
            way(Ok(passage(Proof::Certificate(vec![2; 400])))),
            way(Err(Trouble::plain("nobody answers"))),
            Tell::Judged { ticket: TICKET, verdict: Ok(()) },
            Tell::Judged { ticket: TICKET, verdict: Err(Trouble::plain("changed")) },
            Tell::LoginSigned { ticket: TICKET, signature: vec![5; 83] },
            Tell::Signed { ticket: 3, signature: Vec::new() },
            Tell::Lost { ticket: TICKET },
            Tell::Figures,
            Tell::Piece { link: 9, number: 1 },
            Tell::MoveOn,
            Tell::Ping,
            Tell::Retire,
            Tell::Stop,
        ] {
            let bytes = tell.encode();
            let again = Tell::decode(&bytes).expect("whole");
            assert_eq!(format!("{again:?}"), format!("{tell:?}"));
            assert!(Tell::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
        // What is too long for a line is cut, and not within a letter.
        let bytes = Tell::Judged { ticket: TICKET, verdict: Err(trouble) }.encode();
        let Ok(Tell::Judged { verdict: Err(cut), .. }) = Tell::decode(&bytes) else {
            panic!("it cannot be read")
        };
        assert_eq!(cut.logged.len(), TROUBLE_BYTES_MAX as usize);
    }
}
