//! What arrives: found, opened, judged, and acted on.

use std::mem;

use super::exchange::{Offered, Step};
use super::ident::Found;
use super::machine::{Established, First, MOVING, Stage};
use super::packet::Opened;
use super::verdict::{Place, Verdict, verdict};
use super::{Carved, Env, Error, Role, Transport};
use crate::limits::{KEXINIT_WAIT_MAX, PREAUTH_BYTES_MAX};
use crate::wire::transport::{Disconnect, Ping, Pong};
use crate::wire::{Message, number};

impl<R: Role> Transport<R> {
    pub(super) fn try_carve(&mut self, env: &mut Env<'_>, buf: &mut [u8]) -> Result<Carved, Error> {
        match &mut self.stage {
            Err(error) => return Err(error.clone()),
            Ok(Stage::Fresh) => return Err(Error::Invariant("not started")),
            Ok(Stage::Greeting(greeting)) => {
                let found = greeting.scanner.next(buf, !R::SERVER)?;
                return self.greeted(found, env);
            }
            Ok(Stage::First(_) | Stage::Established(_)) => {}
        }
        if self.query().is_some() {
            return Err(Error::Invariant("carved while a question is open"));
        }
        let (used, payload) = match self.wires.inbound.open(buf)? {
            Opened::Need(total) => return Ok(Carved::Need { total }),
            Opened::Packet { used, payload } => (used, payload),
        };
        self.wires.stats.packets_in += 1;
        self.count_in(used)?;
        let bytes = payload.of(buf).unwrap_or(&[]);
        if let Some(unpacker) = &mut self.wires.inbound.unpacker {
            let bytes = unpacker.unpack(bytes)?;
            let is_ours = self.receive(&bytes, env)?;
            self.maintain(env)?;
            if is_ours {
                return Ok(Carved::Handled { used });
            }
            if let Some(unpacker) = &mut self.wires.inbound.unpacker {
                unpacker.payload = bytes;
            }
            return Ok(Carved::Unpacked { used });
        }
        let is_ours = self.receive(bytes, env)?;
        self.maintain(env)?;
        Ok(if is_ours { Carved::Handled { used } } else { Carved::Payload { used, payload } })
    }

    fn count_in(&mut self, used: u32) -> Result<(), Error> {
        self.wires.stats.bytes_in += u64::from(used);
        if !self.wires.authenticated && self.wires.stats.bytes_in > PREAUTH_BYTES_MAX {
            return Err(Error::PeerMisbehaved("too many bytes before authentication"));
        }
        Ok(())
    }

    fn greeted(&mut self, found: Found, env: &mut Env<'_>) -> Result<Carved, Error> {
        let (used, line) = match found {
            Found::Need(total) => return Ok(Carved::Need { total }),
            Found::Other { used } => (used, None),
            Found::Ident { used, line } => (used, Some(line)),
        };
        self.count_in(used)?;
        if let Some(peer_ident) = line {
            let stage = mem::replace(&mut self.stage, Err(MOVING))?;
            let Stage::Greeting(greeting) = stage else { return Err(Error::Invariant("greeted")) };
            let exchange = greeting.exchange;
            let held_back = matches!(exchange.step, Step::Offered(Offered { ours: None }));
            let offer_at = held_back.then(|| env.now.after(KEXINIT_WAIT_MAX));
            self.stage = Ok(Stage::First(Box::new(First { peer_ident, exchange, offer_at })));
        }
        Ok(Carved::Handled { used })
    }

    /// Judges a payload and acts on it. False: it belongs to the floors above.
    fn receive(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<bool, Error> {
        let number = payload.first().copied().unwrap_or(0);
        if number::is_kex_method(number) && self.skips_guess() {
            return Ok(true);
        }
        match verdict(self.place(), number, self.expected_half()) {
            Verdict::Deliver => return Ok(false),
            Verdict::Ignore => {}
            Verdict::Disconnect => return Err(farewell_of(payload)),
            Verdict::ExtInfo => {
                let authenticated = self.wires.authenticated;
                if let Ok(Stage::Established(established)) = &mut self.stage {
                    established.session.take_ext_info(payload, authenticated)?;
                }
            }
            Verdict::KexInit => self.peer_begins(payload, env)?,
            Verdict::Half => self.step(env, |exchange, cx| exchange.half(payload, cx))?,
            Verdict::NewKeys => self.finish(payload, env.now)?,
            Verdict::Ping => {
                let Ping { data } = Ping::parse(payload).map_err(Error::malformed(number))?;
                self.wires.send(&Pong { data }, env)?;
            }
            Verdict::Unimplemented => self.unimplemented(env)?,
            Verdict::Refuse(why) => return Err(Error::PeerMisbehaved(why)),
        }
        Ok(true)
    }

    fn place(&self) -> Place {
        let strict = self.wires.strict;
        match &self.stage {
            Ok(Stage::First(first)) => match first.exchange.step {
                Step::Offered(_) => Place::FirstInit,
                Step::PeerHalf(_) | Step::Question(_) => Place::FirstHalf { strict },
                Step::NewKeys(_) => Place::FirstNewKeys { strict },
            },
            Ok(Stage::Established(Established { exchange: Some(exchange), .. })) => {
                match exchange.step {
                    Step::Offered(_) => Place::Open,
                    Step::PeerHalf(_) | Step::Question(_) => Place::RekeyHalf,
                    Step::NewKeys(_) => Place::RekeyNewKeys,
                }
            }
            _ => Place::Open,
        }
    }

    /// The number of the key exchange message that is next; none has the number 0.
    fn expected_half(&self) -> u8 {
        match self.exchange().map(|exchange| &exchange.step) {
            Some(Step::PeerHalf(half)) => R::expects(half),
            _ => 0,
        }
    }

    /// RFC 4253 §7: true once, for the packet that was sent on a wrong guess.
    fn skips_guess(&mut self) -> bool {
        match &mut self.stage {
            Ok(Stage::First(first)) => mem::take(&mut first.exchange.skip_guess),
            Ok(Stage::Established(Established { exchange: Some(exchange), .. })) => {
                mem::take(&mut exchange.skip_guess)
            }
            _ => false,
        }
    }
}

fn farewell_of(payload: &[u8]) -> Error {
    match Disconnect::parse(payload) {
        Ok(Disconnect { reason, description }) => {
            Error::Disconnected { code: reason, text: String::from_utf8_lossy(description).into() }
        }
        Err(why) => Error::Malformed { message: number::DISCONNECT, why },
    }
}
