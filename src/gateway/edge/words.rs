//! What an edge and root's process say to each other: one message a datagram of a socket pair, each of
//! one type, each field bounded. What an edge says is not believed; `monitor` checks it.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::super::parcel::{address, flag, put, put_address};
use super::super::startups::{REASONS, Standing};
use crate::base::Instant;
use crate::connection::{
    Chains, LoginLimits, Method, Presence, Questions, Secret, Secrets, Signed,
};
use crate::crypto::{KeyAlgorithm, ShownKey, SignatureAlgorithm};
use crate::gateway::audit::Entry;
use crate::gateway::confine::Cell;
use crate::gateway::terms::Terms;
use crate::limits::{
    AUTH_CHAIN_METHODS_MAX, AUTH_CHAINS_MAX, AUTH_PROMPTS_MAX, BANNER_BYTES_MAX,
    EXCHANGE_BYTES_MAX, HAND_OVER_UNSENT_BYTES_MAX, NAME_BYTES_MAX, PACKET_LENGTH_PREAUTH_MAX,
    PAM_TEXT_BYTES_MAX, PARCEL_BYTES_MAX, PASSWORD_BYTES_MAX, PROMPT_BYTES_MAX, PROOFS_MAX,
    SIGNATURE_BYTES_MAX, STANDINGS_A_MESSAGE, USER_BYTES_MAX,
};
use crate::reactor::Token;
use crate::services::{AccountAnswer, Grant, Origin, RoutingDomain, decode_limits, encode_limits};
use crate::shard::{Proof, StartupEnd};
use crate::transport::SignableExchange;
use crate::wire::{Malformed, Reader};

/// Which question of which shard an answer is for. Root's process gives it back as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub shard: u32,
    pub token: Token,
}

/// From an edge.
#[derive(Debug)]
pub enum Ask {
    /// It has given up what it does not need, and serves.
    Ready,
    /// The answer to [`Tell::Ping`].
    Pong,
    /// Sign the hash of a key exchange of this connection, which these fields make.
    Sign { ticket: Ticket, from: Origin, host_key: u32, exchange: SignableExchange },
    /// What holds before the login of this user?
    Greet { ticket: Ticket, from: Origin, user: String },
    /// May this key log in as this user, and has it signed this?
    FindKey {
        ticket: Ticket,
        from: Origin,
        /// As it stands in the request, a style (`user:style`) too.
        name: String,
        shown: ShownKey,
        signed: Option<Box<Signed>>,
    },
    /// Are these this user's?
    CheckSecrets { ticket: Ticket, from: Origin, user: String, secrets: Secrets },
    /// What do modules want to know of this user, or: are these his answers right? `None`: he begins.
    Converse { ticket: Ticket, from: Origin, user: String, answers: Option<Vec<Secret>> },
    /// May the account of this login be used, which has proved itself so?
    Admit { ticket: Ticket, from: Origin, user: String, proofs: Vec<Proof> },
    /// The login is over, and how it went; the socket is attached.
    HandOver { link: u64, proofs: Vec<Proof>, record: Vec<u8>, inbound: Vec<u8>, outbound: Vec<u8> },
    /// The connection has ended without a login.
    Over { link: u64 },
    /// The connection ends, and all it has asked for is which methods this user has.
    Left { from: Origin, user: String },
    /// The edge's only connection is this client's, as the proxy says that passes it on: may it come in?
    Announced { peer: SocketAddr },
    /// That proxy did not say whose it is: which of [`UNTOLD`](crate::shard::UNTOLD).
    Untold { why: u8 },
    /// How a connection of this peer has ended before its login: the next edge is to know what its source
    /// has earned.
    Earned { peer: SocketAddr, how: StartupEnd, unknown_user: bool },
    /// Something for the audit.
    Audit(Box<Entry>),
}

/// To an edge.
#[derive(Debug)]
pub enum Tell {
    /// First: all that it is to know.
    Setup(Box<Setup>),
    /// A socket to accept from, attached.
    Listener,
    /// Where the next shard hears what it has asked for, attached.
    Mailbox,
    /// Memory for what is counted, attached.
    Figures,
    /// A connection that was accepted elsewhere, attached. `asks`: it is a proxy's, which is to say first whose
    /// it is.
    Adopt {
        asks: bool,
    },
    /// The client that was announced may come in.
    Seated,
    /// It may not. `penalised`: for what its source has earned.
    TurnedAway {
        penalised: bool,
    },
    /// What sources have earned with an earlier edge.
    Standings(Vec<Standing>),
    /// There are no more sockets: serve.
    Begin,
    /// Empty when it could not be signed.
    Signature {
        ticket: Ticket,
        signature: Vec<u8>,
    },
    /// `greeting`: none for whom no connection is wanted.
    Greeted {
        ticket: Ticket,
        greeting: Option<Box<Greeting>>,
        verbosity: Option<u8>,
    },
    /// What the login would be, or that there is none. `stranger`: the peer asked for a user who does
    /// not exist.
    Key {
        ticket: Ticket,
        grant: Option<Box<Grant>>,
        stranger: Option<SocketAddr>,
    },
    /// What the user is to be asked, or only told.
    Asks {
        ticket: Ticket,
        asks: Questions,
    },
    /// Whether the account may be used, and what its user is to be told.
    Admitted {
        ticket: Ticket,
        answer: AccountAnswer,
    },
    /// The question was lost.
    Lost {
        ticket: Ticket,
    },
    /// Answers for one shard that were there at the same time; none of them is several.
    Several(Vec<Tell>),
    Ping,
    /// Accept no more.
    Retire,
    /// End every connection.
    Stop,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    pub terms: Terms,
    /// What is shown before a login: its file is not there to be read.
    pub banner: Option<String>,
    /// Every algorithm that some login may use.
    pub algorithms: Vec<SignatureAlgorithm>,
    pub reactors: u32,
    pub first_serial: u64,
    pub cell: Cell,
    /// Ciphers may be chosen for this CPU.
    pub steers: bool,
    /// What holds before a login depends on who it is, or from where.
    pub asks_users: bool,
    /// Login names may name a target.
    pub takes_targets: bool,
    /// Somebody wants to know the routing domains of connections.
    pub routes: bool,
}

/// What holds before a user has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub banner: Option<String>,
    pub tries_max: u32,
    pub chains: Chains,
    pub codes: bool,
    pub talks: bool,
    pub limits: LoginLimits,
}

/// The number of [`Tell::Several`].
const SEVERAL: u8 = 17;

/// Ends of connections without a login, as they are numbered.
const ENDS: [StartupEnd; 4] =
    [StartupEnd::Attempted, StartupEnd::NoAttempt, StartupEnd::Late, StartupEnd::Refused];

pub(in crate::gateway) fn put_standings(out: &mut Vec<u8>, all: &[Standing]) {
    out.extend((all.len() as u32).to_be_bytes());
    for Standing { source, until, active, why } in all {
        put_address(out, &SocketAddr::new(*source, 0));
        out.extend(until.nanos().to_be_bytes());
        out.push(u8::from(*active));
        let at = REASONS.iter().position(|known| known == why);
        out.push(at.unwrap_or(REASONS.len()) as u8);
    }
}

pub(in crate::gateway) fn standings(r: &mut Reader<'_>) -> Result<Vec<Standing>, Malformed> {
    let count = r.uint32()? as usize;
    if count > STANDINGS_A_MESSAGE {
        return Err(Malformed::OverLimit);
    }
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(Standing {
            source: address(r)?.ip(),
            until: Instant::from_nanos(r.uint64()?),
            active: flag(r)?,
            why: REASONS.get(usize::from(r.byte()?)).ok_or(Malformed::Number)?,
        });
    }
    Ok(all)
}

fn put_secret(out: &mut Vec<u8>, secret: Option<&Secret>) {
    out.push(u8::from(secret.is_some()));
    put(out, secret.map_or(&[], Secret::bytes));
}

impl Ask {
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        match self {
            Ask::Ready => out.push(1),
            Ask::Pong => out.push(2),
            Ask::Sign { ticket, from, host_key, exchange } => {
                // Grown once, so that no copy of a secret is left behind.
                out.reserve(512 + exchange.bytes().len());
                head(&mut out, 3, *ticket);
                put_origin(&mut out, from);
                out.extend(host_key.to_be_bytes());
                put(&mut out, exchange.bytes());
            }
            Ask::Greet { ticket, from, user } => {
                head(&mut out, 4, *ticket);
                put_comer(&mut out, from, user);
            }
            Ask::FindKey { ticket, from, name, shown, signed } => {
                head(&mut out, 5, *ticket);
                put_comer(&mut out, from, name);
                put_shown(&mut out, shown);
                put_signed(&mut out, signed.as_deref());
            }
            Ask::CheckSecrets { ticket, from, user, secrets } => {
                let bytes =
                    |secret: &Option<Secret>| secret.as_ref().map_or(0, |s| s.bytes().len());
                // Grown once, so that no copy of a secret is left behind.
                out.reserve(512 + user.len() + bytes(&secrets.password) + bytes(&secrets.code));
                head(&mut out, 6, *ticket);
                put_comer(&mut out, from, user);
                for secret in [&secrets.password, &secrets.code] {
                    put_secret(&mut out, secret.as_ref());
                }
                out.push(u8::from(secrets.prompted));
            }
            Ask::HandOver { link, proofs, record, inbound, outbound } => {
                out.reserve(record.len() + inbound.len() + outbound.len() + 4096);
                out.push(7);
                out.extend(link.to_be_bytes());
                put_proofs(&mut out, proofs);
                put(&mut out, record);
                put(&mut out, inbound);
                put(&mut out, outbound);
            }
            Ask::Over { link } => put_over(&mut out, *link),
            Ask::Earned { peer, how, unknown_user } => {
                out.push(9);
                put_address(&mut out, peer);
                out.extend([number_of(*how), u8::from(*unknown_user)]);
            }
            Ask::Audit(entry) => {
                out.push(10);
                entry.encode(&mut out);
            }
            Ask::Converse { ticket, from, user, answers } => {
                put_answers(&mut out, (*ticket, from, user), answers.as_deref());
            }
            Ask::Admit { ticket, from, user, proofs } => {
                head(&mut out, 11, *ticket);
                put_comer(&mut out, from, user);
                put_proofs(&mut out, proofs);
            }
            Ask::Announced { peer } => {
                out.push(13);
                put_address(&mut out, peer);
            }
            Ask::Untold { why } => out.extend([14, *why]),
            Ask::Left { from, user } => {
                out.push(15);
                put_comer(&mut out, from, user);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Ask, Malformed> {
        let mut r = Reader::new(bytes);
        let ask = match r.byte()? {
            1 => Ask::Ready,
            2 => Ask::Pong,
            3 => Ask::Sign {
                ticket: ticket(&mut r)?,
                from: origin(&mut r)?,
                host_key: r.uint32()?,
                exchange: SignableExchange::from_bytes(r.string(EXCHANGE_BYTES_MAX)?),
            },
            4 => Ask::Greet { ticket: ticket(&mut r)?, from: origin(&mut r)?, user: user(&mut r)? },
            5 => Ask::FindKey {
                ticket: ticket(&mut r)?,
                from: origin(&mut r)?,
                name: user(&mut r)?,
                shown: shown(&mut r)?,
                signed: if flag(&mut r)? { Some(Box::new(signed(&mut r)?)) } else { None },
            },
            6 => Ask::CheckSecrets {
                ticket: ticket(&mut r)?,
                from: origin(&mut r)?,
                user: user(&mut r)?,
                secrets: Secrets {
                    password: secret(&mut r)?,
                    code: secret(&mut r)?,
                    prompted: flag(&mut r)?,
                },
            },
            7 => Ask::HandOver {
                link: r.uint64()?,
                proofs: proofs(&mut r)?,
                record: r.string(PARCEL_BYTES_MAX)?.to_vec(),
                inbound: r.string(PARCEL_BYTES_MAX)?.to_vec(),
                outbound: r.string(HAND_OVER_UNSENT_BYTES_MAX)?.to_vec(),
            },
            8 => Ask::Over { link: r.uint64()? },
            9 => Ask::Earned {
                peer: address(&mut r)?,
                how: *ENDS.get(usize::from(r.byte()?)).ok_or(Malformed::Number)?,
                unknown_user: flag(&mut r)?,
            },
            10 => Ask::Audit(Box::new(Entry::decode(&mut r)?)),
            13 => Ask::Announced { peer: address(&mut r)? },
            14 => Ask::Untold { why: r.byte()? },
            15 => Ask::Left { from: origin(&mut r)?, user: user(&mut r)? },
            12 => Ask::Converse {
                ticket: ticket(&mut r)?,
                from: origin(&mut r)?,
                user: user(&mut r)?,
                answers: answers(&mut r)?,
            },
            11 => Ask::Admit {
                ticket: ticket(&mut r)?,
                from: origin(&mut r)?,
                user: user(&mut r)?,
                proofs: proofs(&mut r)?,
            },
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(ask)
    }
}

impl Tell {
    /// Several that are encoded already.
    pub fn join<'a>(all: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut out = vec![SEVERAL];
        all.for_each(|tell| put(&mut out, tell));
        out
    }

    /// The question that it answers, if it does.
    pub const fn ticket(&self) -> Option<Ticket> {
        match self {
            Tell::Signature { ticket, .. }
            | Tell::Greeted { ticket, .. }
            | Tell::Key { ticket, .. }
            | Tell::Asks { ticket, .. }
            | Tell::Admitted { ticket, .. }
            | Tell::Lost { ticket } => Some(*ticket),
            _ => None,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Tell::Several(all) => {
                let all: Vec<Vec<u8>> = all.iter().map(Tell::encode).collect();
                return Tell::join(all.iter().map(Vec::as_slice));
            }
            Tell::Setup(setup) => {
                out.push(1);
                setup.encode(&mut out);
            }
            Tell::Listener => out.push(2),
            Tell::Mailbox => out.push(18),
            Tell::Figures => out.push(19),
            Tell::Adopt { asks } => out.extend([3, u8::from(*asks)]),
            Tell::Seated => out.push(15),
            Tell::TurnedAway { penalised } => out.extend([16, u8::from(*penalised)]),
            Tell::Begin => out.push(4),
            Tell::Signature { ticket, signature } => {
                head(&mut out, 5, *ticket);
                put(&mut out, signature);
            }
            Tell::Greeted { ticket, greeting, verbosity } => {
                head(&mut out, 6, *ticket);
                out.push(verbosity.unwrap_or(u8::MAX));
                out.push(u8::from(greeting.is_some()));
                if let Some(greeting) = greeting {
                    greeting.encode(&mut out);
                }
            }
            Tell::Key { ticket, grant, stranger } => {
                head(&mut out, 7, *ticket);
                out.push(u8::from(stranger.is_some()));
                if let Some(peer) = stranger {
                    put_address(&mut out, peer);
                }
                out.push(u8::from(grant.is_some()));
                if let Some(grant) = grant {
                    out.push(u8::from(grant.presence.touch));
                    out.push(u8::from(grant.presence.verify));
                    let grant = grant.encode();
                    out.reserve(4 + grant.len());
                    put(&mut out, &grant);
                }
            }
            Tell::Lost { ticket } => head(&mut out, 8, *ticket),
            Tell::Asks { ticket, asks: Questions { name, instruction, prompts } } => {
                head(&mut out, 14, *ticket);
                put(&mut out, name.as_bytes());
                put(&mut out, instruction.as_bytes());
                out.extend((prompts.len() as u32).to_be_bytes());
                for (text, echo) in prompts {
                    put(&mut out, text.as_bytes());
                    out.push(u8::from(*echo));
                }
            }
            Tell::Admitted { ticket, answer: AccountAnswer { allowed, text } } => {
                head(&mut out, 13, *ticket);
                out.push(u8::from(*allowed));
                put(&mut out, text.as_bytes());
            }
            Tell::Ping => out.push(9),
            Tell::Retire => out.push(10),
            Tell::Stop => out.push(11),
            Tell::Standings(all) => {
                out.push(12);
                put_standings(&mut out, all);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Tell, Malformed> {
        let Some((&SEVERAL, mut rest)) =
            bytes.split_first().map(|(first, rest)| (first, Reader::new(rest)))
        else {
            return Tell::decode_one(bytes);
        };
        let mut all = Vec::new();
        while !rest.is_empty() {
            all.push(Tell::decode_one(rest.string(PARCEL_BYTES_MAX)?)?);
        }
        Ok(Tell::Several(all))
    }

    fn decode_one(bytes: &[u8]) -> Result<Tell, Malformed> {
        let mut r = Reader::new(bytes);
        let tell = match r.byte()? {
            1 => Tell::Setup(Box::new(Setup::decode(&mut r)?)),
            2 => Tell::Listener,
            18 => Tell::Mailbox,
            19 => Tell::Figures,
            3 => Tell::Adopt { asks: flag(&mut r)? },
            4 => Tell::Begin,
            5 => Tell::Signature {
                ticket: ticket(&mut r)?,
                signature: r.string(SIGNATURE_BYTES_MAX)?.to_vec(),
            },
            6 => {
                let ticket = ticket(&mut r)?;
                let verbosity = Some(r.byte()?).filter(|level| *level != u8::MAX);
                let greeting = match flag(&mut r)? {
                    true => Some(Box::new(Greeting::decode(&mut r)?)),
                    false => None,
                };
                Tell::Greeted { ticket, greeting, verbosity }
            }
            7 => {
                let ticket = ticket(&mut r)?;
                let stranger = if flag(&mut r)? { Some(address(&mut r)?) } else { None };
                let grant = if flag(&mut r)? { Some(Box::new(grant(&mut r)?)) } else { None };
                Tell::Key { ticket, grant, stranger }
            }
            8 => Tell::Lost { ticket: ticket(&mut r)? },
            9 => Tell::Ping,
            10 => Tell::Retire,
            11 => Tell::Stop,
            12 => Tell::Standings(standings(&mut r)?),
            15 => Tell::Seated,
            16 => Tell::TurnedAway { penalised: flag(&mut r)? },
            14 => Tell::Asks { ticket: ticket(&mut r)?, asks: questions(&mut r)? },
            13 => {
                let (ticket, allowed) = (ticket(&mut r)?, flag(&mut r)?);
                let text = r.utf8(PAM_TEXT_BYTES_MAX as u32)?.into();
                Tell::Admitted { ticket, answer: AccountAnswer { allowed, text } }
            }
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(tell)
    }
}

impl Setup {
    fn encode(&self, out: &mut Vec<u8>) {
        self.terms.encode(out);
        put_text(out, self.banner.as_deref());
        out.extend((self.algorithms.len() as u32).to_be_bytes());
        self.algorithms.iter().for_each(|algorithm| put(out, algorithm.name().as_bytes()));
        out.extend(self.reactors.to_be_bytes());
        out.extend(self.first_serial.to_be_bytes());
        self.cell.encode(out);
        out.extend([self.steers, self.asks_users, self.takes_targets, self.routes].map(u8::from));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Setup, Malformed> {
        let (terms, banner, count) = (Terms::decode(r)?, text(r)?, r.uint32()?);
        Ok(Setup {
            terms,
            banner,
            algorithms: (0..count).map(|_| algorithm(r)).collect::<Result<_, _>>()?,
            reactors: r.uint32()?,
            first_serial: r.uint64()?,
            cell: Cell::decode(r)?,
            steers: flag(r)?,
            asks_users: flag(r)?,
            takes_targets: flag(r)?,
            routes: flag(r)?,
        })
    }
}

impl Greeting {
    fn encode(&self, out: &mut Vec<u8>) {
        put_text(out, self.banner.as_deref());
        out.extend(self.tries_max.to_be_bytes());
        out.extend((self.chains.iter().len() as u32).to_be_bytes());
        for chain in self.chains.iter() {
            out.extend((chain.len() as u32).to_be_bytes());
            chain.iter().for_each(|method| put(out, method.name().as_bytes()));
        }
        out.extend([self.codes, self.talks].map(u8::from));
        put(out, &encode_limits(Some(self.limits)));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Greeting, Malformed> {
        let banner = text(r)?;
        let tries_max = r.uint32()?;
        let mut chains = Vec::new();
        for _ in 0..count(r, AUTH_CHAINS_MAX)? {
            let methods = count(r, AUTH_CHAIN_METHODS_MAX)?;
            let chain = (0..methods).map(|_| method(r)).collect::<Result<Box<[Method]>, _>>()?;
            chains.push(chain);
        }
        let (codes, talks) = (flag(r)?, flag(r)?);
        let limits = decode_limits(r.string(64)?).flatten().ok_or(Malformed::Range)?;
        Ok(Greeting { banner, tries_max, chains: Chains::new(chains), codes, talks, limits })
    }
}

fn head(out: &mut Vec<u8>, number: u8, ticket: Ticket) {
    // Room for most of what follows.
    out.reserve(512);
    out.push(number);
    put_ticket(out, ticket);
}

pub fn put_ticket(out: &mut Vec<u8>, ticket: Ticket) {
    let Token { key, generation, tag } = ticket.token;
    out.extend(ticket.shard.to_be_bytes());
    out.extend(key.to_be_bytes());
    out.extend(generation.to_be_bytes());
    out.extend(tag.to_be_bytes());
}

pub fn ticket(r: &mut Reader<'_>) -> Result<Ticket, Malformed> {
    let (shard, key) = (r.uint32()?, r.uint32()?);
    let generation = u16::from_be_bytes(r.array()?);
    let tag = u16::from_be_bytes(r.array()?);
    Ok(Ticket { shard, token: Token { key, generation, tag } })
}

fn put_origin(out: &mut Vec<u8>, from: &Origin) {
    out.extend(from.link.to_be_bytes());
    put_address(out, &from.peer);
    put_address(out, &from.local);
    put(out, from.routing.name().unwrap_or_default().as_bytes());
}

fn origin(r: &mut Reader<'_>) -> Result<Origin, Malformed> {
    Ok(Origin {
        link: r.uint64()?,
        peer: address(r)?,
        local: address(r)?,
        routing: RoutingDomain::new(r.string(NAME_BYTES_MAX)?),
    })
}

pub fn put_shown(out: &mut Vec<u8>, shown: &ShownKey) {
    let (name, blob) = shown.offer();
    put(out, name.as_bytes());
    put(out, blob);
}

pub fn key_algorithm(r: &mut Reader<'_>) -> Result<KeyAlgorithm, Malformed> {
    KeyAlgorithm::from_name(r.utf8(NAME_BYTES_MAX)?).ok_or(Malformed::Range)
}

pub fn shown(r: &mut Reader<'_>) -> Result<ShownKey, Malformed> {
    let algorithm = key_algorithm(r)?;
    ShownKey::read(algorithm, r.string(PACKET_LENGTH_PREAUTH_MAX)?).ok_or(Malformed::Range)
}

fn put_signed(out: &mut Vec<u8>, signed: Option<&Signed>) {
    out.push(u8::from(signed.is_some()));
    if let Some(Signed { host_bound, signature }) = signed {
        out.push(u8::from(*host_bound));
        put(out, signature);
    }
}

fn signed(r: &mut Reader<'_>) -> Result<Signed, Malformed> {
    let host_bound = flag(r)?;
    Ok(Signed { host_bound, signature: r.string(PACKET_LENGTH_PREAUTH_MAX)?.into() })
}

fn put_proof(out: &mut Vec<u8>, proof: &Proof) {
    match proof {
        Proof::Key { shown, host_bound, signature } => {
            out.push(1 + u8::from(*host_bound));
            put_shown(out, shown);
            put(out, signature);
        }
        Proof::Secrets { interactive } => out.push(3 + u8::from(*interactive)),
    }
}

fn put_proofs(out: &mut Vec<u8>, proofs: &[Proof]) {
    out.extend((proofs.len() as u32).to_be_bytes());
    proofs.iter().for_each(|proof| put_proof(out, proof));
}

fn proofs(r: &mut Reader<'_>) -> Result<Vec<Proof>, Malformed> {
    (0..count(r, PROOFS_MAX)?)
        .map(|_| match r.byte()? {
            kind @ (1 | 2) => Ok(Proof::Key {
                shown: shown(r)?,
                host_bound: kind == 2,
                signature: r.string(PACKET_LENGTH_PREAUTH_MAX)?.into(),
            }),
            kind @ (3 | 4) => Ok(Proof::Secrets { interactive: kind == 4 }),
            _ => Err(Malformed::Number),
        })
        .collect()
}

fn secret(r: &mut Reader<'_>) -> Result<Option<Secret>, Malformed> {
    let there = flag(r)?;
    let bytes = r.string(PACKET_LENGTH_PREAUTH_MAX)?;
    Ok(there.then(|| Secret::copy(bytes)))
}

fn grant(r: &mut Reader<'_>) -> Result<Grant, Malformed> {
    let presence = Presence { touch: flag(r)?, verify: flag(r)? };
    let grant = Grant::decode(r.string(PARCEL_BYTES_MAX)?).ok_or(Malformed::Range)?;
    Ok(Grant { presence, ..grant })
}

fn put_answers(
    out: &mut Vec<u8>,
    (ticket, from, user): (Ticket, &Origin, &str),
    answers: Option<&[Secret]>,
) {
    let all = answers.unwrap_or_default();
    // Grown once, so that no copy of a secret is left behind.
    out.reserve(512 + user.len() + all.iter().map(|a| a.bytes().len() + 4).sum::<usize>());
    head(out, 12, ticket);
    put_origin(out, from);
    put(out, user.as_bytes());
    out.push(u8::from(answers.is_some()));
    out.extend((all.len() as u32).to_be_bytes());
    all.iter().for_each(|answer| put(out, answer.bytes()));
}

fn answers(r: &mut Reader<'_>) -> Result<Option<Vec<Secret>>, Malformed> {
    let (there, count) = (flag(r)?, count(r, AUTH_PROMPTS_MAX as usize)?);
    let answer = |_| r.string(PASSWORD_BYTES_MAX).map(Secret::copy);
    let answers = (0..count).map(answer).collect::<Result<Vec<_>, _>>()?;
    if there || answers.is_empty() { Ok(there.then_some(answers)) } else { Err(Malformed::Range) }
}

fn questions(r: &mut Reader<'_>) -> Result<Questions, Malformed> {
    let (name, instruction) = (r.utf8(PROMPT_BYTES_MAX)?.into(), r.utf8(PROMPT_BYTES_MAX)?.into());
    let mut prompts = Vec::new();
    for _ in 0..count(r, AUTH_PROMPTS_MAX as usize)? {
        prompts.push((r.utf8(PROMPT_BYTES_MAX)?.into(), flag(r)?));
    }
    Ok(Questions { name, instruction, prompts })
}

fn method(r: &mut Reader<'_>) -> Result<Method, Malformed> {
    Method::from_name(r.utf8(NAME_BYTES_MAX)?).ok_or(Malformed::Range)
}

pub fn algorithm(r: &mut Reader<'_>) -> Result<SignatureAlgorithm, Malformed> {
    SignatureAlgorithm::from_name(r.utf8(NAME_BYTES_MAX)?).ok_or(Malformed::Range)
}

fn user(r: &mut Reader<'_>) -> Result<String, Malformed> {
    Ok(r.utf8(USER_BYTES_MAX)?.to_owned())
}

/// Who asks.
fn put_comer(out: &mut Vec<u8>, from: &Origin, user: &str) {
    put_origin(out, from);
    put(out, user.as_bytes());
}

fn number_of(how: StartupEnd) -> u8 {
    ENDS.iter().position(|known| *known == how).unwrap_or(ENDS.len()) as u8
}

fn put_over(out: &mut Vec<u8>, link: u64) {
    out.push(8);
    out.extend(link.to_be_bytes());
}

/// A banner, if there is one.
fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    put(out, text.unwrap_or_default().as_bytes());
}

fn text(r: &mut Reader<'_>) -> Result<Option<String>, Malformed> {
    let there = flag(r)?;
    Ok(Some(r.utf8(BANNER_BYTES_MAX)?.to_owned()).filter(|_| there))
}

fn count(r: &mut Reader<'_>, most: usize) -> Result<u32, Malformed> {
    let count = r.uint32()?;
    if count as usize <= most { Ok(count) } else { Err(Malformed::Range) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};
    use crate::gateway::audit::{Event, Field};

    fn shown() -> ShownKey {
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone();
        ShownKey::of_blob(key.blob()).expect("a key")
    }

    fn asks() -> Vec<Ask> {
        let ticket = Ticket { shard: 1, token: Token { key: 2, generation: 3, tag: 4 } };
        let from = Origin {
            link: 9,
            peer: "192.0.2.1:5".parse().expect("address"),
            local: "[::1]:22".parse().expect("address"),
            routing: RoutingDomain::new(b"vrf-blue"),
        };
        let user = || "ann".to_owned();
        let password = Some(Secret::copy(b"secret"));
        let secrets = Secrets { password, code: None, prompted: true };
        let signature: Box<[u8]> = Box::new([7; 83]);
        let key =
            |host_bound| Proof::Key { shown: shown(), host_bound, signature: signature.clone() };
        let signed = Some(Box::new(Signed { host_bound: true, signature: signature.clone() }));
        vec![
            Ask::Ready,
            Ask::Pong,
            Ask::Sign {
                ticket,
                from,
                host_key: 1,
                exchange: SignableExchange::from_bytes(&[5; 32]),
            },
            Ask::Greet { ticket, from, user: user() },
            Ask::FindKey { ticket, from, name: user(), shown: shown(), signed: None },
            Ask::FindKey { ticket, from, name: user(), shown: shown(), signed },
            Ask::CheckSecrets { ticket, from, user: user(), secrets },
            Ask::HandOver {
                link: 9,
                proofs: vec![key(false), key(true), Proof::Secrets { interactive: true }],
                record: vec![1; 700],
                inbound: vec![2],
                outbound: vec![3; 60],
            },
            Ask::Over { link: 9 },
            Ask::Converse { ticket, from, user: user(), answers: None },
            Ask::Converse {
                ticket,
                from,
                user: user(),
                answers: Some(vec![Secret::copy(b"secret"), Secret::copy(b"")]),
            },
            Ask::Admit { ticket, from, user: user(), proofs: vec![key(false)] },
            Ask::Announced { peer: from.peer },
            Ask::Untold { why: 2 },
            Ask::Left { from, user: user() },
            Ask::Audit(Box::new(
                Entry::new(Event::Auth, 9, from.peer)
                    .of_user("ann")
                    .text(Field::Result, "failure")
                    .number(Field::Count, 3),
            )),
        ]
    }

    #[test]
    fn what_an_edge_says_is_read_whole_or_not_at_all() {
        for ask in asks() {
            let mut bytes = ask.encode().to_vec();
            let again = Ask::decode(&bytes).expect("whole");
            assert_eq!(*again.encode(), bytes, "{ask:?}");
            for cut in 0..bytes.len() {
                assert!(Ask::decode(&bytes[..cut]).is_err(), "{ask:?} cut at {cut}");
            }
            bytes.push(0);
            assert!(Ask::decode(&bytes).is_err(), "{ask:?} with more");
        }
        assert!(Ask::decode(&[0]).is_err() && Ask::decode(&[13]).is_err());
    }

    #[test]
    fn what_an_edge_is_told_travels_whole() {
        let ticket = Ticket { shard: 1, token: Token { key: 2, generation: 3, tag: 4 } };
        let greeting = Greeting {
            banner: Some("hello\n".into()),
            tries_max: 3,
            chains: Chains::new([[Method::PublicKey, Method::Password].into()]),
            codes: true,
            talks: true,
            limits: LoginLimits {
                sessions_max: 4,
                client_alive: None,
                rekey: crate::transport::RekeyLimits { bytes: Some(9), time: None, packets: 7 },
            },
        };
        let setup = Setup {
            terms: Terms {
                config: b"port 22".to_vec(),
                host_keys: vec![vec![1]],
                ..Terms::default()
            },
            algorithms: vec![SignatureAlgorithm::Ed25519],
            banner: Some("hello\n".into()),
            reactors: 2,
            first_serial: 3,
            steers: true,
            ..Setup::default()
        };
        let stranger = Some("[::1]:22".parse().expect("address"));
        for tell in [
            Tell::Setup(Box::new(setup)),
            Tell::Listener,
            Tell::Mailbox,
            Tell::Figures,
            Tell::Adopt { asks: false },
            Tell::Adopt { asks: true },
            Tell::Seated,
            Tell::TurnedAway { penalised: true },
            Tell::Begin,
            Tell::Signature { ticket, signature: vec![1; 83] },
            Tell::Greeted { ticket, greeting: Some(Box::new(greeting)), verbosity: Some(3) },
            Tell::Greeted { ticket, greeting: None, verbosity: None },
            Tell::Key { ticket, grant: None, stranger },
            Tell::Lost { ticket },
            Tell::Asks {
                ticket,
                asks: Questions {
                    name: "".into(),
                    instruction: "first\n".into(),
                    prompts: vec![("Name: ".into(), true), ("Code: ".into(), false)],
                },
            },
            Tell::Admitted { ticket, answer: AccountAnswer { allowed: true, text: "hi\n".into() } },
            Tell::Ping,
            Tell::Retire,
            Tell::Stop,
            Tell::Several(vec![
                Tell::Signature { ticket, signature: vec![1; 83] },
                Tell::Lost { ticket },
            ]),
        ] {
            let bytes = tell.encode();
            let again = Tell::decode(&bytes).expect("whole");
            assert_eq!(format!("{again:?}"), format!("{tell:?}"));
            assert!(Tell::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
        let nested = Tell::Several(vec![Tell::Several(Vec::new())]);
        assert!(Tell::decode(&nested.encode()).is_err(), "bounded depth");
    }
}
