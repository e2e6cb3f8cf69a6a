use super::exchange::{Agreed, Context, Derived, ExchangeProven, Step};
use super::gex::Chosen;
use super::proposal::{EXT_INFO_CLIENT, STRICT_CLIENT, STRICT_SERVER};
use super::role::{Role, sealed};
use super::session::{HOSTBOUND, PING, SERVER_SIG_ALGS};
use super::{Answer, Error, HostKey, Preferences, Query, ServerConfig};
use crate::crypto::kex::{self, Group};
use crate::crypto::{KexKind, KeyAlgorithm, SharedSecret};
use crate::limits::EXT_INFO_VALUE_BYTES_MAX;
use crate::wire::transport::{
    ExtInfo, KexDhGexGroup, KexDhGexInit, KexDhGexReply, KexDhGexRequest, KexEcdhInit, KexEcdhReply,
};
use crate::wire::{Message, NoSpace, Writer, number};

/// The end that proves itself with a host key.
#[derive(Debug)]
pub struct Server;

impl Role for Server {}

/// What the client is to send next.
pub struct ExpectInit {
    agreed: Agreed,
    next: Next,
}

enum Next {
    Public,
    /// RFC 4419 §3: the sizes it takes, and then its public value.
    Request,
    PublicIn(Chosen),
}

/// What the server waits for somebody else to do.
pub enum Question {
    Agreement(Box<AwaitAgreement>),
    Signature(Box<AwaitSignature>),
}

/// The client's public value is being answered; it is in the query.
pub struct AwaitAgreement {
    query: Query,
    agreed: Agreed,
    chosen: Option<Chosen>,
}

/// The host key that is to sign, and everything the reply needs besides.
pub struct AwaitSignature {
    query: Query,
    agreed: Agreed,
    host_key: usize,
    server_public: Box<[u8]>,
    derived: Derived,
    /// The reply is that of a group exchange.
    in_chosen_group: bool,
}

impl sealed::Steps for Server {
    type Config = ServerConfig;
    type PeerHalf = ExpectInit;
    type Question = Question;

    const SERVER: bool = true;
    // We have no use for a client's EXT_INFO, so `ext-info-s` is not among them.
    const MARKERS: &'static [&'static str] = &[STRICT_SERVER];
    const STRICT: &'static str = STRICT_SERVER;
    const PEER_STRICT: &'static str = STRICT_CLIENT;
    const PEER_EXT_INFO: &'static str = EXT_INFO_CLIENT;

    fn preferences(config: &ServerConfig) -> &Preferences {
        &config.preferences
    }

    fn host_key_names(
        config: &ServerConfig,
    ) -> impl Iterator<Item = &'static str> + Clone + use<'_> {
        config.host_keys.iter().flat_map(HostKey::offered).map(KeyAlgorithm::name)
    }

    fn steers(config: &ServerConfig) -> bool {
        config.steers
    }

    fn expects(half: &ExpectInit) -> u8 {
        match half.next {
            Next::Public => number::KEX_ECDH_INIT,
            Next::Request => number::KEX_DH_GEX_REQUEST,
            Next::PublicIn(_) => number::KEX_DH_GEX_INIT,
        }
    }

    fn agreed(agreed: Agreed, _cx: &mut Context<'_, '_, Server>) -> Result<Step<Server>, Error> {
        let next = match agreed.negotiated.kex {
            KexKind::DhGroupExchange => Next::Request,
            _ => Next::Public,
        };
        Ok(Step::PeerHalf(ExpectInit { agreed, next }))
    }

    fn peer_half(
        half: ExpectInit,
        payload: &[u8],
        cx: &mut Context<'_, '_, Server>,
    ) -> Result<Step<Server>, Error> {
        let ExpectInit { agreed, next } = half;
        match next {
            Next::Request => {
                let chosen = choose(payload, cx)?;
                Ok(Step::PeerHalf(ExpectInit { agreed, next: Next::PublicIn(chosen) }))
            }
            Next::Public => {
                let init =
                    KexEcdhInit::parse(payload).map_err(Error::malformed(number::KEX_ECDH_INIT))?;
                if let Some(group) = agreed.negotiated.kex.group() {
                    return agree(agreed, None, group, init.client_public);
                }
                let kind = agreed.negotiated.kex;
                let (server_public, secret) =
                    kex::respond(kind, init.client_public, cx.env.entropy)?;
                sign(agreed, None, (init.client_public, &server_public), &secret, cx)
            }
            Next::PublicIn(chosen) => {
                let KexDhGexInit(init) = KexDhGexInit::parse(payload)
                    .map_err(Error::malformed(number::KEX_DH_GEX_INIT))?;
                let group = chosen.group.clone();
                agree(agreed, Some(chosen), group, init.client_public)
            }
        }
    }

    fn query(question: &Question) -> &Query {
        match question {
            Question::Agreement(question) => &question.query,
            Question::Signature(question) => &question.query,
        }
    }

    fn answer(
        question: Question,
        answer: Answer,
        cx: &mut Context<'_, '_, Server>,
    ) -> Result<Step<Server>, Error> {
        match (question, answer) {
            (Question::Agreement(question), Answer::Agreement(agreement)) => {
                let AwaitAgreement { query, agreed, chosen } = *question;
                let Query::Agree { client_public, .. } = query else {
                    return Err(Error::Invariant("another question than was asked"));
                };
                let (server_public, secret) = agreement?;
                sign(agreed, chosen.as_ref(), (&client_public, &server_public), &secret, cx)
            }
            (Question::Signature(question), Answer::Signature(signature)) => {
                reply(*question, &signature.ok_or(Error::Signer)?, cx)
            }
            _ => Err(Error::Invariant("an answer to another question")),
        }
    }
}

/// RFC 4419 §3: the client's sizes have come, and our group goes out.
fn choose(payload: &[u8], cx: &mut Context<'_, '_, Server>) -> Result<Chosen, Error> {
    let request =
        KexDhGexRequest::parse(payload).map_err(Error::malformed(number::KEX_DH_GEX_REQUEST))?;
    let sizes = [request.bits_min, request.bits_wanted, request.bits_max];
    let group = cx.config.moduli.choose(sizes, cx.env.entropy).ok_or_else(|| {
        let [least, wanted, most] = sizes;
        let why = format!("no Diffie-Hellman group has {least} to {most} bits, {wanted} wanted");
        Error::PeerIncompatible(why.into())
    })?;
    let (prime, generator) = (group.prime(), group.generator());
    cx.wires.emit(&KexDhGexGroup { prime: &prime, generator: &generator }, cx.env)?;
    Chosen::new(&request, group)
}

/// The arithmetic takes milliseconds and is done elsewhere; what is refused is refused first.
fn agree(
    agreed: Agreed,
    chosen: Option<Chosen>,
    group: Group,
    client_public: &[u8],
) -> Result<Step<Server>, Error> {
    group.check(client_public)?;
    let query = Query::Agree { group, client_public: client_public.into() };
    let question = AwaitAgreement { query, agreed, chosen };
    Ok(Step::Question(Question::Agreement(Box::new(question))))
}

/// Both public values and the secret are known: the hash, the keys, and the host key's signature.
fn sign(
    agreed: Agreed,
    chosen: Option<&Chosen>,
    publics: (&[u8], &[u8]),
    secret: &SharedSecret,
    cx: &mut Context<'_, '_, Server>,
) -> Result<Step<Server>, Error> {
    let algorithm = agreed.negotiated.host_key;
    let keys = &cx.config.host_keys;
    let (host_key, key) = keys
        .iter()
        .enumerate()
        .find(|(_, key)| key.offered().any(|offered| offered == algorithm))
        .ok_or(Error::Invariant("a host key algorithm without a key"))?;
    let fields = agreed.fields(cx, chosen, publics, secret);
    let hash = fields.hash(key.shown(algorithm).blob());
    let exchange = cx.config.signs_elsewhere.then(|| fields.encode());
    let derived = agreed.derive(cx, hash, secret)?;
    Ok(Step::Question(Question::Signature(Box::new(AwaitSignature {
        query: Query::Sign { host_key, algorithm: algorithm.signature, message: hash, exchange },
        server_public: publics.1.into(),
        agreed,
        host_key,
        derived,
        in_chosen_group: chosen.is_some(),
    }))))
}

/// Everything is there: the reply leaves, and our NEWKEYS behind it.
fn reply(
    question: AwaitSignature,
    signature: &[u8],
    cx: &mut Context<'_, '_, Server>,
) -> Result<Step<Server>, Error> {
    let host_key = cx.config.host_keys.get(question.host_key);
    let host_key = host_key.ok_or(Error::Invariant("a host key that is gone"))?;
    let host_key = host_key.shown(question.agreed.negotiated.host_key);
    let reply = KexEcdhReply {
        host_key: host_key.blob(),
        server_public: &question.server_public,
        signature,
    };
    match question.in_chosen_group {
        true => cx.wires.emit(&KexDhGexReply(reply), cx.env)?,
        false => cx.wires.emit(&reply, cx.env)?,
    }
    let proven = ExchangeProven::by_signature();
    let agreed = question.agreed;
    let step = question.derived.take_up(agreed.negotiated, host_key, proven, cx)?;
    if agreed.ext_info {
        send_ext_info(cx)?;
    }
    cx.wires.flush(cx.env);
    Ok(Step::NewKeys(step))
}

/// RFC 8308 §2.4: the first packet behind our first NEWKEYS.
fn send_ext_info(cx: &mut Context<'_, '_, Server>) -> Result<(), Error> {
    let mut names = [0; EXT_INFO_VALUE_BYTES_MAX as usize];
    let mut space = [0; EXT_INFO_VALUE_BYTES_MAX as usize + 256];
    let info = ext_info(cx.config, &mut names, &mut space)
        .map_err(|NoSpace| Error::Invariant("our EXT_INFO is too long"))?;
    cx.wires.emit(&info, cx.env)
}

fn ext_info<'a>(
    config: &ServerConfig,
    names: &mut [u8],
    space: &'a mut [u8],
) -> Result<ExtInfo<'a>, NoSpace> {
    let mut list = Writer::new(names);
    list.name_list(config.user_algorithms.iter().map(|algorithm| algorithm.name()))?;
    let algorithms = list.written().get(4..).unwrap_or(&[]);
    ExtInfo::build(&[(SERVER_SIG_ALGS, algorithms), (HOSTBOUND, b"0"), (PING, b"0")], space)
}
