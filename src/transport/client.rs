use super::exchange::{Agreed, Context, Derived, ExchangeProven, Step};
use super::gex::Chosen;
use super::proposal::{EXT_INFO_CLIENT, EXT_INFO_SERVER, STRICT_CLIENT, STRICT_SERVER};
use super::role::{Role, sealed};
use super::{Answer, ClientConfig, Error, Negotiated, Preferences, Query};
use crate::crypto::kex::Group;
use crate::crypto::{
    KexError, KexKind, KexPiece, KexSecret, KexTask, MacKind, SharedSecret, ShownKey,
};
use crate::limits::{DH_BITS_MAX, DH_BITS_MIN, DH_BITS_WANTED};
use crate::wire::transport::{
    KexDhGexGroup, KexDhGexInit, KexDhGexReply, KexDhGexRequest, KexEcdhInit, KexEcdhReply,
};
use crate::wire::{Message, number};

/// The end that checks a host key.
#[derive(Debug)]
pub struct Client;

impl Role for Client {}

/// What the server is to send next.
pub enum ExpectServer {
    /// RFC 4419 §3: the group for the sizes that we asked for.
    Group(Box<(Agreed, KexDhGexRequest)>),
    Reply(Box<ExpectReply>),
}

/// Our public value has left; waits for the server's and its signature.
pub struct ExpectReply {
    agreed: Agreed,
    secret: Box<KexSecret>,
    client_public: Box<[u8]>,
    chosen: Option<Chosen>,
}

/// What the client waits for somebody else to do.
pub enum Question {
    Compute(Box<AwaitPiece>),
    Trust(Box<AwaitTrust>),
}

/// Arithmetic is done elsewhere.
pub struct AwaitPiece {
    query: Query,
    /// `None` once it was taken.
    task: Option<KexTask>,
    then: Then,
}

/// What is done with the piece of arithmetic that was waited for.
enum Then {
    /// Our public value goes out.
    Send { agreed: Agreed, chosen: Option<Chosen> },
    /// The server's reply is checked.
    Check(Box<Reply>),
}

/// The server's reply, and all that the exchange hash takes besides the secret.
struct Reply {
    agreed: Agreed,
    chosen: Option<Chosen>,
    client_public: Box<[u8]>,
    server_public: Box<[u8]>,
    host_key: ShownKey,
    /// As shown.
    host_key_blob: Box<[u8]>,
    signature: Box<[u8]>,
}

/// The signature holds; whether the key is the right one is for others to say.
pub struct AwaitTrust {
    query: Query,
    negotiated: Negotiated,
    host_key: ShownKey,
    derived: Derived,
    proven: ExchangeProven,
}

impl sealed::Steps for Client {
    type Config = ClientConfig;
    type PeerHalf = ExpectServer;
    type Question = Question;

    const SERVER: bool = false;
    const MARKERS: &'static [&'static str] = &[EXT_INFO_CLIENT, STRICT_CLIENT];
    const STRICT: &'static str = STRICT_CLIENT;
    const PEER_STRICT: &'static str = STRICT_SERVER;
    const PEER_EXT_INFO: &'static str = EXT_INFO_SERVER;

    fn preferences(config: &ClientConfig) -> &Preferences {
        &config.preferences
    }

    fn host_key_names(
        config: &ClientConfig,
    ) -> impl Iterator<Item = &'static str> + Clone + use<'_> {
        config.host_key_algorithms.iter().map(|algorithm| algorithm.name())
    }

    fn steers(_config: &ClientConfig) -> bool {
        false
    }

    fn expects(half: &ExpectServer) -> u8 {
        match half {
            ExpectServer::Group(_) => number::KEX_DH_GEX_GROUP,
            ExpectServer::Reply(half) if half.chosen.is_some() => number::KEX_DH_GEX_REPLY,
            ExpectServer::Reply(_) => number::KEX_ECDH_REPLY,
        }
    }

    fn agreed(agreed: Agreed, cx: &mut Context<'_, '_, Client>) -> Result<Step<Client>, Error> {
        if let Some(session) = cx.session {
            refuse_weaker(cx.config, &session.negotiated, &agreed.negotiated)?;
        }
        let kex = agreed.negotiated.kex;
        if kex == KexKind::DhGroupExchange {
            let request = KexDhGexRequest {
                bits_min: DH_BITS_MIN,
                bits_wanted: DH_BITS_WANTED,
                bits_max: DH_BITS_MAX,
            };
            cx.wires.emit(&request, cx.env)?;
            return Ok(Step::PeerHalf(ExpectServer::Group(Box::new((agreed, request)))));
        }
        compute(KexTask::Generate(kex), Then::Send { agreed, chosen: None }, cx)
    }

    fn peer_half(
        half: ExpectServer,
        payload: &[u8],
        cx: &mut Context<'_, '_, Client>,
    ) -> Result<Step<Client>, Error> {
        match half {
            ExpectServer::Group(half) => {
                let (agreed, request) = *half;
                group_came(agreed, &request, payload, cx)
            }
            ExpectServer::Reply(half) if half.chosen.is_some() => {
                let KexDhGexReply(reply) = KexDhGexReply::parse(payload)
                    .map_err(Error::malformed(number::KEX_DH_GEX_REPLY))?;
                reply_came(*half, &reply, cx)
            }
            ExpectServer::Reply(half) => {
                let reply = KexEcdhReply::parse(payload)
                    .map_err(Error::malformed(number::KEX_ECDH_REPLY))?;
                reply_came(*half, &reply, cx)
            }
        }
    }

    fn query(question: &Question) -> &Query {
        match question {
            Question::Compute(question) => &question.query,
            Question::Trust(question) => &question.query,
        }
    }

    fn take_task(question: &mut Question) -> Option<KexTask> {
        match question {
            Question::Compute(question) => question.task.take(),
            Question::Trust(_) => None,
        }
    }

    fn answer(
        question: Question,
        answer: Answer,
        cx: &mut Context<'_, '_, Client>,
    ) -> Result<Step<Client>, Error> {
        match (question, answer) {
            (Question::Compute(question), Answer::Computed(piece)) => {
                computed(piece, question.then, cx)
            }
            (Question::Trust(question), Answer::Trust(true)) => trusted(*question, cx),
            (Question::Trust(_), Answer::Trust(false)) => Err(Error::HostKeyRefused),
            _ => Err(Error::Invariant("an answer to another question")),
        }
    }
}

/// Does it here and goes on, or asks for it.
fn compute(
    task: KexTask,
    then: Then,
    cx: &mut Context<'_, '_, Client>,
) -> Result<Step<Client>, Error> {
    if cx.config.defers && task.is_slow() {
        let question = AwaitPiece { query: Query::Compute, task: Some(task), then };
        return Ok(Step::Question(Question::Compute(Box::new(question))));
    }
    let piece = task.run(cx.env.entropy);
    computed(piece, then, cx)
}

fn computed(
    piece: Result<KexPiece, KexError>,
    then: Then,
    cx: &mut Context<'_, '_, Client>,
) -> Result<Step<Client>, Error> {
    match (then, piece?) {
        (Then::Send { agreed, chosen }, KexPiece::Generated(secret, client_public)) => {
            let init = KexEcdhInit { client_public: &client_public };
            match chosen {
                Some(_) => cx.wires.emit(&KexDhGexInit(init), cx.env)?,
                None => cx.wires.emit(&init, cx.env)?,
            }
            let reply = ExpectReply { agreed, secret, client_public, chosen };
            Ok(Step::PeerHalf(ExpectServer::Reply(Box::new(reply))))
        }
        (Then::Check(reply), KexPiece::Shared(secret)) => check(*reply, &secret, cx),
        _ => Err(Error::Invariant("an answer to another question")),
    }
}

/// RFC 4419 §3: a group is believed only after a look at it. Its owner is not proven yet.
fn group_came(
    agreed: Agreed,
    request: &KexDhGexRequest,
    payload: &[u8],
    cx: &mut Context<'_, '_, Client>,
) -> Result<Step<Client>, Error> {
    let message =
        KexDhGexGroup::parse(payload).map_err(Error::malformed(number::KEX_DH_GEX_GROUP))?;
    let group = Group::new(message.prime, message.generator);
    let sizes = request.bits_min..=request.bits_max;
    let group = group.filter(|group| sizes.contains(&group.bits()));
    let group = group.ok_or(KexError::UnsafeGroup)?;
    let task = KexTask::GenerateIn(agreed.negotiated.kex, Box::new(group.clone()));
    let chosen = Some(Chosen::new(request, group)?);
    compute(task, Then::Send { agreed, chosen }, cx)
}

fn reply_came(
    half: ExpectReply,
    reply: &KexEcdhReply<'_>,
    cx: &mut Context<'_, '_, Client>,
) -> Result<Step<Client>, Error> {
    let host_key = ShownKey::read(half.agreed.negotiated.host_key, reply.host_key)
        .ok_or(Error::HostKey("the server's key is damaged or not of the agreed kind"))?;
    // RFC 4253 §9 leaves it open; a server that changes its key in mid-connection is not the
    // one the user accepted. A new certificate for the same key changes nothing.
    if cx.session.is_some_and(|session| session.host_key.key != host_key.key) {
        return Err(Error::HostKey("the server changed its key"));
    }
    let ExpectReply { agreed, secret, client_public, chosen } = half;
    let server_public: Box<[u8]> = reply.server_public.into();
    let task = KexTask::Finish { secret, server_public: server_public.clone() };
    let reply = Reply {
        agreed,
        chosen,
        client_public,
        server_public,
        host_key,
        host_key_blob: reply.host_key.into(),
        signature: reply.signature.into(),
    };
    compute(task, Then::Check(Box::new(reply)), cx)
}

/// The secret is known: does the server's signature hold?
fn check(
    reply: Reply,
    secret: &SharedSecret,
    cx: &mut Context<'_, '_, Client>,
) -> Result<Step<Client>, Error> {
    let Reply { agreed, chosen, host_key, host_key_blob, signature, .. } = reply;
    let publics = (&*reply.client_public, &*reply.server_public);
    let hash = agreed.fields(cx, chosen.as_ref(), publics, secret).hash(&host_key_blob);
    let ShownKey { key, algorithm, certificate } = &host_key;
    key.verify(*algorithm, hash.as_ref(), &signature)
        .map_err(|_| Error::HostKey("the server's signature does not verify"))?;
    let proven = ExchangeProven::by_signature();
    let session = hash.as_ref().into();
    let derived = agreed.derive(cx, hash, secret)?;
    let question = AwaitTrust {
        query: Query::TrustHostKey {
            key: (**key).clone(),
            algorithm: *algorithm,
            certificate: certificate.clone(),
            session,
            signature,
        },
        negotiated: agreed.negotiated,
        host_key,
        derived,
        proven,
    };
    match cx.session {
        None => Ok(Step::Question(Question::Trust(Box::new(question)))),
        Some(_) => trusted(question, cx),
    }
}

fn trusted(question: AwaitTrust, cx: &mut Context<'_, '_, Client>) -> Result<Step<Client>, Error> {
    let AwaitTrust { negotiated, host_key, derived, proven, .. } = question;
    let step = derived.take_up(negotiated, host_key, proven, cx)?;
    cx.wires.flush(cx.env);
    Ok(Step::NewKeys(step))
}

/// A later exchange may not end up further down our own lists than the one before it.
fn refuse_weaker(
    config: &ClientConfig,
    before: &Negotiated,
    after: &Negotiated,
) -> Result<(), Error> {
    fn falls<T: PartialEq>(list: &[T], before: T, after: T) -> bool {
        let rank = |wanted: &T| list.iter().position(|item| item == wanted);
        before != after && rank(&before) < rank(&after)
    }
    let Preferences { kex, ciphers, macs, .. } = &config.preferences;
    let suites = [(before.to_server, after.to_server), (before.to_client, after.to_client)];
    let suites_fall = suites.iter().any(|(before, after)| {
        let implicit = [before.mac(), after.mac()].contains(&MacKind::Implicit);
        falls(ciphers, before.cipher(), after.cipher())
            || (!implicit && falls(macs, before.mac(), after.mac()))
    });
    if suites_fall
        || falls(kex, before.kex, after.kex)
        || falls(&config.host_key_algorithms, before.host_key, after.host_key)
    {
        return Err(Error::PeerMisbehaved("weaker algorithms in a later key exchange"));
    }
    Ok(())
}
