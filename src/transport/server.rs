use super::exchange::{Agreed, Context, Derived, ExchangeProven, Step};
use super::proposal::{EXT_INFO_CLIENT, STRICT_CLIENT, STRICT_SERVER};
use super::role::{Role, sealed};
use super::session::{HOSTBOUND, PING, SERVER_SIG_ALGS};
use super::{Answer, Error, Preferences, Query, ServerConfig};
use crate::crypto::kex;
use crate::limits::EXT_INFO_VALUE_BYTES_MAX;
use crate::wire::transport::{ExtInfo, KexEcdhInit, KexEcdhReply};
use crate::wire::{Message, NoSpace, Writer, number};

/// The end that proves itself with a host key.
#[derive(Debug)]
pub struct Server;

impl Role for Server {}

/// The host key that is to sign, and everything the reply needs besides.
pub struct AwaitSignature {
    query: Query,
    agreed: Agreed,
    host_key: usize,
    server_public: Box<[u8]>,
    derived: Derived,
}

impl sealed::Steps for Server {
    type Config = ServerConfig;
    type PeerHalf = Agreed;
    type Question = AwaitSignature;

    const SERVER: bool = true;
    const PEER_HALF: u8 = number::KEX_ECDH_INIT;
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
        config.host_keys.iter().flat_map(|key| &key.algorithms).map(|algorithm| algorithm.name())
    }

    fn holds_back(config: &ServerConfig) -> bool {
        !config.kexinit_first
    }

    fn agreed(agreed: Agreed, _cx: &mut Context<'_, '_, Server>) -> Result<Agreed, Error> {
        Ok(agreed)
    }

    fn peer_half(
        agreed: Agreed,
        payload: &[u8],
        cx: &mut Context<'_, '_, Server>,
    ) -> Result<Step<Server>, Error> {
        let init = KexEcdhInit::parse(payload).map_err(Error::malformed(number::KEX_ECDH_INIT))?;
        let algorithm = agreed.negotiated.host_key;
        let keys = &cx.config.host_keys;
        let (host_key, key) = keys
            .iter()
            .enumerate()
            .find(|(_, key)| key.algorithms.contains(&algorithm))
            .ok_or(Error::Invariant("a host key algorithm without a key"))?;
        let kind = agreed.negotiated.kex;
        let (server_public, secret) = kex::respond(kind, init.client_public, cx.env.entropy)?;
        let publics = (init.client_public, &*server_public);
        let hash = agreed.hash(cx, key.public.blob(), publics, &secret);
        let derived = agreed.derive(cx, hash, &secret)?;
        Ok(Step::Question(AwaitSignature {
            query: Query::Sign { host_key, algorithm, message: hash },
            server_public: server_public.into(),
            agreed,
            host_key,
            derived,
        }))
    }

    fn query(question: &AwaitSignature) -> &Query {
        &question.query
    }

    fn answer(
        question: AwaitSignature,
        answer: Answer,
        cx: &mut Context<'_, '_, Server>,
    ) -> Result<Step<Server>, Error> {
        let Answer::Signature(signature) = answer else {
            return Err(Error::Invariant("an answer to another question"));
        };
        let signature = signature.ok_or(Error::Signer)?;
        let host_key = cx.config.host_keys.get(question.host_key);
        let host_key = host_key.ok_or(Error::Invariant("a host key that is gone"))?.public.clone();
        let reply = KexEcdhReply {
            host_key: host_key.blob(),
            server_public: &question.server_public,
            signature: &signature,
        };
        cx.wires.emit(&reply, cx.env)?;
        let proven = ExchangeProven::by_signature();
        let agreed = question.agreed;
        let step = question.derived.take_up(agreed.negotiated, host_key, proven, cx)?;
        if agreed.ext_info {
            send_ext_info(cx)?;
        }
        cx.wires.flush(cx.env);
        Ok(Step::NewKeys(step))
    }
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
