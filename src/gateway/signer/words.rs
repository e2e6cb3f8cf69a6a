//! What a signer and root's process say to each other: one message a datagram of a socket pair, each of
//! one type, each field bounded. Nobody can hand a signer the bytes that it signs.

use zeroize::Zeroizing;

use crate::connection::LoginSession;
use crate::crypto::SignatureAlgorithm;
use crate::gateway::confine::Cell;
use crate::gateway::parcel::{flag, put};
use crate::limits::{
    CERTIFICATE_BYTES_MAX, EXCHANGE_BYTES_MAX, HOST_KEY_BYTES_MAX, IDENT_BYTES_MAX, NAME_BYTES_MAX,
    REFUSAL_BYTES_MAX, SESSION_ID_BYTES_MAX, SIGNER_KEYS_MAX, UPSTREAM_KEYS_MAX,
    UPSTREAM_NAME_BYTES_MAX,
};
use crate::transport::SignableExchange;
use crate::wire::{Malformed, Reader};

/// To a signer.
#[derive(Debug)]
pub enum Tell {
    /// First: all that it is to know.
    Setup(Box<Setup>),
    /// The file of the next key, attached: first those of host keys, then those of keys that open hosts.
    Key,
    /// The next key's file cannot be had now: nothing is signed with it.
    NoKey,
    /// There are no more: sign.
    Begin,
    /// Sign what these fields make. Where an agent has the key, a connection to it is attached.
    Sign {
        ticket: u64,
        order: Order,
    },
    Ping,
    /// A process of ours that has this number may ask for its key exchanges itself once nobody else does;
    /// the way to it is attached.
    Heir {
        number: u64,
    },
    /// That one has ended.
    NoHeir {
        number: u64,
    },
    /// Nothing is to be signed any more.
    Stop,
}

/// From a signer.
#[derive(Debug, PartialEq, Eq)]
pub enum Say {
    /// It has given up what it does not need, and signs.
    Ready,
    /// The answer to [`Tell::Ping`].
    Pong,
    Signed {
        ticket: u64,
        /// Or a certificate with it.
        signature: Vec<u8>,
    },
    /// Nobody of ours asks for that; or the key failed.
    Refused { ticket: u64, why: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    pub cell: Cell,
    /// The identification of the server (RFC 4253 §4.2), which is in all that it signs.
    pub ident: String,
    pub keys: Vec<KnownKey>,
    pub upstream_keys: Vec<UpstreamKey>,
    /// Threads for RSA signatures.
    pub slow_threads: u32,
}

/// A key that opens hosts behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamKey {
    /// Its public half.
    pub public: Vec<u8>,
    /// It certifies keys of logins, and signs nothing else; any other signs logins, and nothing else.
    pub certifies: bool,
}

/// A host key; its file follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownKey {
    /// Its public half, which that of the file must be.
    pub public: Vec<u8>,
    /// Empty where it has none.
    pub certificate: Vec<u8>,
    /// An agent has the private half; no file follows. Each order comes with a way to it.
    pub is_agents: bool,
}

/// Something to be signed with the key of this number: a host key, or one that opens hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub key: u32,
    pub what: Signable,
}

/// All that there is to be signed. The bytes are made of these by the signer alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signable {
    /// The hash of this key exchange.
    Exchange(SignableExchange),
    /// That we hold the key, for the client of this session ([`crate::connection::host_key_proof`]).
    Proof { algorithm: SignatureAlgorithm, session: Box<[u8]> },
    /// A login at a host as this user (RFC 4252 §7).
    Login { algorithm: SignatureAlgorithm, user: Box<str>, session: LoginSession },
    /// A certificate for this Ed25519 key, for one login that follows at once; its fields are those of
    /// `OneLogin`. What is answered is all of it.
    Certificate { subject: Box<[u8]>, user: Box<str>, key_id: Box<str>, sources: Box<str> },
}

impl Signable {
    /// It is for a key that opens hosts.
    pub const fn is_upstreams(&self) -> bool {
        matches!(self, Signable::Login { .. } | Signable::Certificate { .. })
    }
}

impl Tell {
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        match self {
            Tell::Setup(setup) => {
                out.push(1);
                setup.encode(&mut out);
            }
            Tell::Key => out.push(2),
            Tell::Begin => out.push(3),
            Tell::Sign { ticket, order } => {
                out.reserve(order.bytes_max());
                out.push(4);
                out.extend(ticket.to_be_bytes());
                order.encode(&mut out);
            }
            Tell::Ping => out.push(5),
            Tell::NoKey => out.push(6),
            Tell::Heir { number } => {
                out.push(7);
                out.extend(number.to_be_bytes());
            }
            Tell::NoHeir { number } => {
                out.push(8);
                out.extend(number.to_be_bytes());
            }
            Tell::Stop => out.push(9),
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Tell, Malformed> {
        let mut r = Reader::new(bytes);
        let tell = match r.byte()? {
            1 => Tell::Setup(Box::new(Setup::decode(&mut r)?)),
            2 => Tell::Key,
            3 => Tell::Begin,
            4 => Tell::Sign { ticket: r.uint64()?, order: Order::decode(&mut r)? },
            5 => Tell::Ping,
            6 => Tell::NoKey,
            7 => Tell::Heir { number: r.uint64()? },
            8 => Tell::NoHeir { number: r.uint64()? },
            9 => Tell::Stop,
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(tell)
    }
}

impl Order {
    /// The hash of an exchange. `None`: there is no such key, or nobody said what the hash is made of.
    pub fn exchange(host_key: usize, exchange: Option<SignableExchange>) -> Option<Order> {
        Some(Order { key: u32::try_from(host_key).ok()?, what: Signable::Exchange(exchange?) })
    }

    /// That we hold the key. `None`: there is no such key.
    pub fn proof(host_key: usize, algorithm: SignatureAlgorithm, session: &[u8]) -> Option<Order> {
        let what = Signable::Proof { algorithm, session: session.into() };
        Some(Order { key: u32::try_from(host_key).ok()?, what })
    }

    /// At least as many bytes as a message has with it: grown once, so that no copy of a secret is left
    /// behind.
    pub fn bytes_max(&self) -> usize {
        128 + match &self.what {
            Signable::Exchange(exchange) => exchange.bytes().len(),
            Signable::Proof { session, .. } => session.len(),
            Signable::Login { user, session, .. } => {
                user.len() + session.id.len() + session.host_key.len()
            }
            Signable::Certificate { subject, user, key_id, sources } => {
                subject.len() + user.len() + key_id.len() + sources.len()
            }
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.key.to_be_bytes());
        match &self.what {
            Signable::Exchange(exchange) => {
                out.push(1);
                put(out, exchange.bytes());
            }
            Signable::Proof { algorithm, session } => {
                out.push(2);
                put(out, algorithm.name().as_bytes());
                put(out, session);
            }
            Signable::Login { algorithm, user, session } => {
                out.push(3);
                put(out, algorithm.name().as_bytes());
                put(out, user.as_bytes());
                put(out, &session.id);
                put(out, &session.host_key);
            }
            Signable::Certificate { subject, user, key_id, sources } => {
                out.push(4);
                put(out, subject);
                [user, key_id, sources].into_iter().for_each(|text| put(out, text.as_bytes()));
            }
        }
    }

    pub fn decode(r: &mut Reader<'_>) -> Result<Order, Malformed> {
        let (key, kind) = (r.uint32()?, r.byte()?);
        let what = match kind {
            1 => Signable::Exchange(SignableExchange::from_bytes(r.string(EXCHANGE_BYTES_MAX)?)),
            2 => Signable::Proof {
                algorithm: algorithm(r)?,
                session: r.string(SESSION_ID_BYTES_MAX)?.into(),
            },
            3 => Signable::Login {
                algorithm: algorithm(r)?,
                user: r.utf8(UPSTREAM_NAME_BYTES_MAX)?.into(),
                session: LoginSession {
                    id: r.string(SESSION_ID_BYTES_MAX)?.into(),
                    host_key: r.string(HOST_KEY_BYTES_MAX)?.into(),
                },
            },
            4 => Signable::Certificate {
                subject: r.string(HOST_KEY_BYTES_MAX)?.into(),
                user: r.utf8(UPSTREAM_NAME_BYTES_MAX)?.into(),
                key_id: r.utf8(CERTIFICATE_BYTES_MAX)?.into(),
                sources: r.utf8(CERTIFICATE_BYTES_MAX)?.into(),
            },
            _ => return Err(Malformed::Number),
        };
        Ok(Order { key, what })
    }
}

fn algorithm(r: &mut Reader<'_>) -> Result<SignatureAlgorithm, Malformed> {
    SignatureAlgorithm::from_name(r.utf8(NAME_BYTES_MAX)?).ok_or(Malformed::Number)
}

impl Say {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Say::Ready => out.push(1),
            Say::Pong => out.push(2),
            Say::Signed { ticket, signature } => {
                out.push(3);
                out.extend(ticket.to_be_bytes());
                put(&mut out, signature);
            }
            Say::Refused { ticket, why } => {
                out.push(4);
                out.extend(ticket.to_be_bytes());
                put(&mut out, why.as_bytes());
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Say, Malformed> {
        let mut r = Reader::new(bytes);
        let say = match r.byte()? {
            1 => Say::Ready,
            2 => Say::Pong,
            3 => Say::Signed {
                ticket: r.uint64()?,
                signature: r.string(CERTIFICATE_BYTES_MAX)?.to_vec(),
            },
            4 => Say::Refused { ticket: r.uint64()?, why: r.utf8(REFUSAL_BYTES_MAX)?.to_owned() },
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(say)
    }
}

impl Setup {
    fn encode(&self, out: &mut Vec<u8>) {
        self.cell.encode(out);
        for number in [self.slow_threads, self.keys.len() as u32, self.upstream_keys.len() as u32] {
            out.extend(number.to_be_bytes());
        }
        put(out, self.ident.as_bytes());
        for KnownKey { public, certificate, is_agents } in &self.keys {
            put(out, public);
            put(out, certificate);
            out.push(u8::from(*is_agents));
        }
        for UpstreamKey { public, certifies } in &self.upstream_keys {
            put(out, public);
            out.push(u8::from(*certifies));
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Setup, Malformed> {
        let (cell, slow_threads) = (Cell::decode(r)?, r.uint32()?);
        let (count, upstream_count) = (r.uint32()?, r.uint32()?);
        if count as usize > SIGNER_KEYS_MAX || upstream_count as usize > UPSTREAM_KEYS_MAX {
            return Err(Malformed::OverLimit);
        }
        let ident = r.utf8(IDENT_BYTES_MAX as u32)?.to_owned();
        let mut keys = Vec::new();
        for _ in 0..count {
            let public = r.string(HOST_KEY_BYTES_MAX)?.to_vec();
            let certificate = r.string(HOST_KEY_BYTES_MAX)?.to_vec();
            keys.push(KnownKey { public, certificate, is_agents: flag(r)? });
        }
        let mut upstream_keys = Vec::new();
        for _ in 0..upstream_count {
            let public = r.string(HOST_KEY_BYTES_MAX)?.to_vec();
            upstream_keys.push(UpstreamKey { public, certifies: flag(r)? });
        }
        Ok(Setup { cell, ident, keys, upstream_keys, slow_threads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_whole<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, Malformed>) {
        assert!(decode(bytes).is_ok());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let more = [bytes, &[0]].concat();
        assert!(matches!(decode(&more), Err(Malformed::TrailingData)));
    }

    #[test]
    fn messages_round_trip_and_refuse_trailing_bytes() {
        let key = KnownKey { public: vec![1, 2], certificate: vec![3], is_agents: true };
        let setup = Setup {
            cell: Cell { uid: 1, gid: 2, root: "/empty".into() },
            ident: "SSH-2.0-x".into(),
            keys: vec![key, KnownKey::default()],
            upstream_keys: vec![UpstreamKey { public: vec![4], certifies: true }],
            slow_threads: 2,
        };
        let what = Signable::Exchange(SignableExchange::from_bytes(&[7; 40]));
        let order = Order { key: 1, what };
        let (algorithm, session) = (SignatureAlgorithm::RsaSha256, [5; 32].into());
        let proof = Signable::Proof { algorithm, session };
        let session = LoginSession { id: [5; 32].into(), host_key: [6; 51].into() };
        let login = Signable::Login { algorithm, user: "ann".into(), session };
        let certificate = Signable::Certificate {
            subject: [8; 51].into(),
            user: "ann".into(),
            key_id: "ann from 192.0.2.1".into(),
            sources: "192.0.2.9".into(),
        };
        let tells = [
            Tell::Setup(Box::new(setup.clone())),
            Tell::Key,
            Tell::Begin,
            Tell::Sign { ticket: 9, order: order.clone() },
            Tell::Sign { ticket: 8, order: Order { key: 0, what: proof } },
            Tell::Sign { ticket: 7, order: Order { key: 0, what: login } },
            Tell::Sign { ticket: 6, order: Order { key: 0, what: certificate } },
            Tell::Ping,
            Tell::NoKey,
        ];
        for tell in tells {
            let bytes = tell.encode();
            assert_whole(&bytes, Tell::decode);
            match Tell::decode(&bytes) {
                Ok(Tell::Setup(back)) => assert_eq!(*back, setup),
                Ok(Tell::Sign { ticket: 9, order: back }) => assert_eq!(back, order),
                back => assert_eq!(format!("{back:?}"), format!("Ok({tell:?})")),
            }
        }
        let says = [
            Say::Ready,
            Say::Pong,
            Say::Signed { ticket: 1, signature: vec![1; 83] },
            Say::Refused { ticket: 2, why: "no".into() },
        ];
        for say in says {
            let bytes = say.encode();
            assert_whole(&bytes, Say::decode);
            assert_eq!(Say::decode(&bytes), Ok(say));
        }
    }
}
