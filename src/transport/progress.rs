//! Key exchanges as they begin, go on, end and fall due.

use std::mem;
use std::sync::Arc;

use super::exchange::{Context, Exchange, Step};
use super::machine::{Established, First, Greeting, MOVING, Stage};
use super::session::Session;
use super::wires::Wires;
use super::{Env, Error, Role, Transport};
use crate::base::Instant;
use crate::limits::{KEXINIT_BYTES_MAX, REKEY_TIME_MAX, TAILROOM};
use crate::wire::transport::NewKeys;
use crate::wire::{Message, number};

/// What ends a connection whose key exchange does not end.
pub(crate) const EXCHANGE_TOO_LONG: &str = "a key exchange took too long";

impl<R: Role> Transport<R> {
    pub(super) fn peer_begins(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), Error> {
        if let Ok(Stage::Established(established)) = &mut self.stage
            && established.exchange.is_none()
        {
            // A long KEXINIT does not pay for itself.
            let heard = self.wires.inbound.wear.bytes.saturating_sub(payload.len() as u64);
            let moved = heard.max(self.wires.outbound.wear.bytes);
            if !established.session.throttle.admit(moved, env.now) {
                return Err(Error::PeerMisbehaved("key exchanges in too quick succession"));
            }
            let deadline = Some(env.now.after(REKEY_TIME_MAX));
            established.exchange = Some(Box::new(Exchange::new(deadline)));
        }
        if let Ok(Stage::First(first)) = &mut self.stage {
            first.offer_at = None;
        }
        self.step(env, |exchange, cx| exchange.meet(payload, cx))
    }

    /// Leaves the present step of the exchange by value and takes up the next.
    pub(super) fn step(
        &mut self,
        env: &mut Env<'_>,
        next: impl FnOnce(Exchange<R>, &mut Context<'_, '_, R>) -> Result<Exchange<R>, Error>,
    ) -> Result<(), Error> {
        let stage = mem::replace(&mut self.stage, Err(MOVING))?;
        let Transport { config, wires, .. } = self;
        let config = &**config;
        let our_ident = R::preferences(config).ident();
        let mut context = Context { config, wires, our_ident, peer_ident: &[], session: None, env };
        let stage = match stage {
            Stage::Fresh => return Err(Error::Invariant("a key exchange before the start")),
            Stage::Greeting(greeting) => {
                let Greeting { scanner, exchange } = *greeting;
                let exchange = next(exchange, &mut context)?;
                Stage::Greeting(Box::new(Greeting { scanner, exchange }))
            }
            Stage::First(first) => {
                let First { peer_ident, exchange, offer_at } = *first;
                let exchange = next(exchange, &mut Context { peer_ident: &peer_ident, ..context })?;
                Stage::First(Box::new(First { peer_ident, exchange, offer_at }))
            }
            Stage::Established(Established { session, exchange }) => {
                let exchange = exchange.ok_or(Error::Invariant("no key exchange runs"))?;
                context.our_ident = &session.our_ident;
                context.peer_ident = &session.peer_ident;
                context.session = Some(&session);
                let exchange = Some(Box::new(next(*exchange, &mut context)?));
                Stage::Established(Established { session, exchange })
            }
        };
        self.stage = Ok(stage);
        Ok(())
    }

    /// The peer's NEWKEYS: what it sends next is under its new keys (RFC 4253 §7.3).
    pub(super) fn finish(&mut self, payload: &[u8], now: Instant) -> Result<(), Error> {
        NewKeys::parse(payload).map_err(Error::malformed(number::NEWKEYS))?;
        let (before, exchange) = match mem::replace(&mut self.stage, Err(MOVING))? {
            Stage::First(first) => (Err(first.peer_ident), first.exchange),
            Stage::Established(Established { session, exchange: Some(exchange) }) => {
                (Ok(session), *exchange)
            }
            _ => return Err(Error::Invariant("no key exchange runs")),
        };
        let Step::NewKeys(step) = exchange.step else {
            return Err(Error::Invariant("NEWKEYS out of step"));
        };
        self.wires.inbound.install(step.inbound, self.wires.strict);
        let agreed = &step.outcome.negotiated;
        let (to_server, to_client) = (agreed.compression_to_server, agreed.compression_to_client);
        self.wires.awaits_keys = false;
        self.wires.compress_inbound(if R::SERVER { to_server } else { to_client });
        let session = match before {
            Ok(mut session) => {
                session.renew(&step.outcome, now);
                session
            }
            Err(peer_ident) => {
                let our_ident = Arc::clone(R::preferences(&self.config).ident());
                Session::new(step.outcome, our_ident, peer_ident, now)
            }
        };
        self.stage = Ok(Stage::Established(Established { session, exchange: None }));
        self.worn_in();
        Ok(())
    }

    /// Sets the limits that go with the suites in use.
    pub(super) fn worn_in(&mut self) {
        let limits = R::preferences(&self.config).rekey;
        let Wires { inbound, outbound, .. } = &mut self.wires;
        for (wear, raw) in [(&mut inbound.wear, &inbound.raw), (&mut outbound.wear, &outbound.raw)]
        {
            if let Some(raw) = raw {
                wear.bytes_max = limits.bytes_max(raw.suite());
                wear.packets_max = limits.packets_max();
            }
        }
    }

    /// When the keys want renewing on our account; a time long past means they are due.
    pub(super) fn rekey_at(&self, session: &Session) -> Option<Instant> {
        if !self.wires.authenticated {
            return None;
        }
        if self.wires.inbound.wear.is_due() || self.wires.outbound.wear.is_due() {
            return Some(Instant::ZERO);
        }
        let time = R::preferences(&self.config).rekey.time?;
        Some(session.exchanged_at.after(time))
    }

    /// What is owed after every call: queued messages leave, due keys are renewed.
    pub(super) fn maintain(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        if self.wires.backlog.is_some() {
            self.wires.flush(env);
        }
        let Ok(Stage::Established(established)) = &self.stage else { return Ok(()) };
        if established.exchange.is_some() {
            self.rekey_wanted = false;
            return Ok(());
        }
        let at = self.rekey_at(&established.session);
        if !self.rekey_wanted && at.is_none_or(|at| at > env.now) {
            return Ok(());
        }
        self.rekey_wanted = env.out.free() < KEXINIT_BYTES_MAX + TAILROOM as usize;
        if self.rekey_wanted {
            return Ok(());
        }
        if let Ok(Stage::Established(established)) = &mut self.stage {
            let deadline = Some(env.now.after(REKEY_TIME_MAX));
            established.exchange = Some(Box::new(Exchange::new(deadline)));
        }
        self.step(env, Exchange::begin)
    }

    pub(super) fn try_timeout(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        if self.deadline().is_some_and(|at| at <= env.now) {
            return Err(Error::Deadline(EXCHANGE_TOO_LONG));
        }
        if let Ok(Stage::First(first)) = &mut self.stage
            && first.offer_at.is_some_and(|at| at <= env.now)
        {
            first.offer_at = None;
            self.step(env, Exchange::begin)?;
        }
        self.maintain(env)
    }
}
