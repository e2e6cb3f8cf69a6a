//! RFC 4253 §7 and §8: one key exchange, the first or a later one. Each step is a struct that holds
//! only what that step knows, and is left by value.

use super::gex::Chosen;
use super::packet::Ready;
use super::proposal::{self, Narrowing, Offers};
use super::role::Role;
use super::session::Session;
use super::signable::ExchangeFields;
use super::wires::Wires;
use super::{Env, Error, Negotiated};
use crate::base::Instant;
use crate::crypto::{
    CipherKind, Digest, KexError, OpenKey, SealKey, SharedSecret, ShownKey, Suite, derive_direction,
};
use crate::wire::NameList;
use crate::wire::transport::{KexInit, NewKeys};

/// What a step may look at and use.
pub struct Context<'c, 'e, R: Role> {
    pub(super) config: &'c R::Config,
    pub(super) wires: &'c mut Wires,
    pub(super) our_ident: &'c str,
    pub(super) peer_ident: &'c [u8],
    /// `None` in the first exchange.
    pub(super) session: Option<&'c Session>,
    pub(super) env: &'c mut Env<'e>,
}

/// A key exchange under way.
pub(super) struct Exchange<R: Role> {
    pub step: Step<R>,
    pub deadline: Option<Instant>,
    /// The next key exchange message was sent on a wrong guess.
    pub skip_guess: bool,
}

pub enum Step<R: Role> {
    Offered(Offered),
    PeerHalf(R::PeerHalf),
    Question(R::Question),
    NewKeys(ExpectNewKeys),
}

/// Waits for the peer's KEXINIT.
pub struct Offered {
    /// Our KEXINIT as sent; `None` while it is held back.
    pub(super) ours: Option<Box<[u8]>>,
}

/// Both KEXINITs are known and agree.
pub struct Agreed {
    pub(super) ours: Box<[u8]>,
    pub(super) theirs: Box<[u8]>,
    pub(super) negotiated: Negotiated,
    /// RFC 8308 §2.1: the peer reads EXT_INFO (first exchange only).
    pub(super) ext_info: bool,
}

/// New keys for both directions, bound to a checked exchange hash once `Outcome` exists.
pub(super) struct Derived {
    pub outbound: Ready<SealKey>,
    pub inbound: Ready<OpenKey>,
    pub hash: Digest,
}

/// Our NEWKEYS has left; waits for the peer's.
pub struct ExpectNewKeys {
    pub(super) inbound: Ready<OpenKey>,
    pub(super) outcome: Outcome,
}

/// What a finished exchange leaves behind.
pub struct Outcome {
    pub(super) session_id: Digest,
    pub(super) negotiated: Negotiated,
    pub(super) host_key: ShownKey,
    pub(super) _proven: ExchangeProven,
}

/// The exchange hash was signed by us or its signature checked by us. Made in those two places.
#[derive(Debug)]
pub struct ExchangeProven(());

impl ExchangeProven {
    pub(super) const fn by_signature() -> ExchangeProven {
        ExchangeProven(())
    }
}

impl<R: Role> Exchange<R> {
    pub(super) fn new(deadline: Option<Instant>) -> Exchange<R> {
        Exchange { step: Step::Offered(Offered { ours: None }), deadline, skip_guess: false }
    }

    /// Sends our KEXINIT unless it has left already. From here on until our NEWKEYS nothing else
    /// leaves (RFC 4253 §7.1).
    pub(super) fn begin(self, cx: &mut Context<'_, '_, R>) -> Result<Exchange<R>, Error> {
        match self.step {
            Step::Offered(Offered { ours: None }) => {
                let ours = Some(send_offer(cx, None)?);
                Ok(Exchange { step: Step::Offered(Offered { ours }), ..self })
            }
            _ => Ok(self),
        }
    }

    /// The peer's KEXINIT.
    pub(super) fn meet(
        self,
        theirs: &[u8],
        cx: &mut Context<'_, '_, R>,
    ) -> Result<Exchange<R>, Error> {
        let Step::Offered(offered) = self.step else { return Err(OUT_OF_STEP) };
        let (agreed, skip_guess) = offered.meet(theirs, cx)?;
        let step = R::agreed(agreed, cx)?;
        Ok(Exchange { step, skip_guess, ..self })
    }

    /// The peer's public value, or what comes before it.
    pub(super) fn half(
        self,
        payload: &[u8],
        cx: &mut Context<'_, '_, R>,
    ) -> Result<Exchange<R>, Error> {
        let Step::PeerHalf(half) = self.step else { return Err(OUT_OF_STEP) };
        Ok(Exchange { step: R::peer_half(half, payload, cx)?, ..self })
    }
}

impl Offered {
    fn meet<R: Role>(
        self,
        theirs: &[u8],
        cx: &mut Context<'_, '_, R>,
    ) -> Result<(Agreed, bool), Error> {
        let peer = proposal::parse(theirs)?;
        let ours = match self.ours {
            Some(ours) => ours,
            None => send_offer(cx, Some(&peer))?,
        };
        let mine = proposal::parse(&ours)?;
        let is_first = cx.session.is_none();
        if is_first && peer.kex.contains(R::PEER_STRICT) && mine.kex.contains(R::STRICT) {
            // OpenSSH PROTOCOL §1.10: nothing may have come before, and it counts from here on.
            cx.wires.strict = true;
            if cx.wires.inbound.wear.counters.packets() != 1 {
                return Err(Error::PeerMisbehaved("KEXINIT was not the first packet"));
            }
        }
        let offers = match R::SERVER {
            true => Offers { client: peer, server: mine, we_serve: true },
            false => Offers { client: mine, server: peer, we_serve: false },
        };
        let negotiated = offers.settle(cx.wires.strict)?;
        refuse_exposed(&negotiated, R::preferences(cx.config).allow_exposed_chacha)?;
        let skip_guess = offers.guess_is_wrong();
        let ext_info = is_first && peer.kex.contains(R::PEER_EXT_INFO);
        Ok((Agreed { negotiated, ext_info, theirs: theirs.into(), ours }, skip_guess))
    }
}

impl Agreed {
    /// What the exchange hash is made of.
    pub(super) fn fields<'f, R: Role>(
        &'f self,
        cx: &Context<'f, '_, R>,
        chosen: Option<&'f Chosen>,
        (client_public, server_public): (&'f [u8], &'f [u8]),
        secret: &'f SharedSecret,
    ) -> ExchangeFields<'f> {
        let ours = (cx.our_ident.as_bytes(), &*self.ours);
        let theirs = (cx.peer_ident, &*self.theirs);
        let (client, server) = if R::SERVER { (theirs, ours) } else { (ours, theirs) };
        ExchangeFields {
            kex: self.negotiated.kex,
            host_key: self.negotiated.host_key,
            client_ident: client.0,
            server_ident: server.0,
            client_init: client.1,
            server_init: server.1,
            group: chosen.map_or(&[], |chosen| &*chosen.hashed),
            client_public,
            server_public,
            secret: secret.encoded(),
        }
    }

    /// RFC 4253 §7.2: the keys that follow from the shared secret and H.
    pub(super) fn derive<R: Role>(
        &self,
        cx: &Context<'_, '_, R>,
        hash: Digest,
        secret: &SharedSecret,
    ) -> Result<Derived, Error> {
        let session_id = session_id(cx, hash);
        let provider = R::preferences(cx.config).provider;
        let derive = |suite, to_server| {
            derive_direction(
                self.negotiated.kex.hash(),
                secret.encoded(),
                hash.as_ref(),
                session_id.as_ref(),
                suite,
                to_server,
            )
        };
        let (to_server, to_client) = (self.negotiated.to_server, self.negotiated.to_client);
        let (to_server, to_client) = (derive(to_server, true), derive(to_client, false));
        let (out, back) = if R::SERVER { (to_client, to_server) } else { (to_server, to_client) };
        let inbound = Ready::open(provider, back).map_err(KexError::from)?;
        let outbound = Ready::seal(provider, out).map_err(KexError::from)?;
        Ok(Derived { outbound, inbound, hash })
    }
}

impl Derived {
    /// NEWKEYS leaves under the old keys and everything after it under the new ones.
    pub(super) fn take_up<R: Role>(
        self,
        negotiated: Negotiated,
        host_key: ShownKey,
        proven: ExchangeProven,
        cx: &mut Context<'_, '_, R>,
    ) -> Result<ExpectNewKeys, Error> {
        cx.wires.emit(&NewKeys, cx.env)?;
        let strict = cx.wires.strict;
        let outbound = &mut cx.wires.outbound;
        outbound.install(self.outbound, strict);
        outbound.blocked = false;
        let (to_server, to_client) =
            (negotiated.compression_to_server, negotiated.compression_to_client);
        cx.wires.awaits_keys = true;
        cx.wires.compress_outbound(if R::SERVER { to_client } else { to_server });
        let session_id = session_id(cx, self.hash);
        let outcome = Outcome { session_id, negotiated, host_key, _proven: proven };
        Ok(ExpectNewKeys { inbound: self.inbound, outcome })
    }
}

const OUT_OF_STEP: Error = Error::Invariant("a key exchange out of step");

fn session_id<R: Role>(cx: &Context<'_, '_, R>, hash: Digest) -> Digest {
    cx.session.map_or(hash, |session| session.id)
}

fn send_offer<R: Role>(
    cx: &mut Context<'_, '_, R>,
    peer: Option<&KexInit<'_>>,
) -> Result<Box<[u8]>, Error> {
    let preferences = R::preferences(cx.config);
    let markers: &[&'static str] = if cx.session.is_none() { R::MARKERS } else { &[] };
    let narrowing = narrowing(cx, peer);
    let host_keys = R::host_key_names(cx.config);
    let ours = proposal::offer(preferences, host_keys, markers, narrowing, cx.env.entropy)
        .map_err(|_| Error::Invariant("our KEXINIT is too long"))?;
    cx.wires.emit_payload(&ours, cx.env)?;
    cx.wires.outbound.blocked = true;
    Ok(ours)
}

/// What we leave out before a peer whose offer we have seen, or whose choice we remember: its
/// first common cipher counts, whatever our own order (RFC 4253 §7.1).
fn narrowing<R: Role>(cx: &Context<'_, '_, R>, peer: Option<&KexInit<'_>>) -> Narrowing {
    let preferences = R::preferences(cx.config);
    // It is not tempted with what we would have to refuse.
    let exposed =
        peer.is_some_and(|peer| cx.session.is_none() && !peer.kex.contains(R::PEER_STRICT));
    let agreed = cx.session.map(|session| &session.negotiated);
    // A later exchange keeps to the family of the first.
    let steers = |theirs: Option<NameList<'_>>, before: Option<Suite>| {
        R::steers(cx.config)
            && (theirs.is_some() || before.is_some())
            && theirs.is_none_or(|theirs| preferences.shares_aes_gcm(theirs))
            && before.is_none_or(|suite| suite.cipher().is_aes_gcm())
    };
    Narrowing {
        without_chacha: exposed && !preferences.allow_exposed_chacha,
        steers_to_server: steers(
            peer.map(|peer| peer.cipher_to_server),
            agreed.map(|agreed| agreed.to_server),
        ),
        steers_to_client: steers(
            peer.map(|peer| peer.cipher_to_client),
            agreed.map(|agreed| agreed.to_client),
        ),
    }
}

/// CVE-2023-48795: without strict key exchange, packets can be cut from the front of a
/// ChaCha20-Poly1305 stream unnoticed.
fn refuse_exposed(negotiated: &Negotiated, allowed: bool) -> Result<(), Error> {
    let chacha = [negotiated.to_server, negotiated.to_client]
        .iter()
        .any(|suite| suite.cipher() == CipherKind::Chacha20Poly1305);
    if chacha && !negotiated.strict && !allowed {
        let why = "the peer wants chacha20-poly1305@openssh.com without strict key exchange";
        return Err(Error::PeerIncompatible(why.into()));
    }
    Ok(())
}
