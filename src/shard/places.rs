//! Places where a connection listens for its client, on the way to another program: the sockets listen on all the
//! time, and whoever connects meanwhile waits in their queues until somebody accepts again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::agent::Agent;
use super::*;
use crate::connection::ChannelId;
use crate::services::forward::Place;
use crate::services::{Luggage, Unpacking};
use crate::wire::Malformed;

/// Whether somebody takes connections at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    /// An accept is in flight, or rests until there are descriptors again.
    On,
    /// It is in flight and was asked back.
    AskedBack,
    /// There is none, for the connection is to move.
    Off,
}

impl<D: Driver, O: Outside> Shard<D, O> {
    /// What listens for the link could listen for it elsewhere, and nobody has come whom the client does not know of.
    pub(super) fn places_may_move(&self, key: u32) -> bool {
        let Some(link) = self.links.get(key as usize) else { return false };
        let offered = self.offers.iter().any(|offer| offer.is_of(key));
        let asked = matches!(link.agent, Agent::Asked) || link.asked_to_listen.is_some();
        let own = |place: &Place| matches!(place, Place::Near(_));
        !offered && !asked && !self.listens_of(key).any(|(_, one)| own(one.place()))
    }

    /// Those of a link that were not told to end.
    fn listens_of(&self, key: u32) -> impl Iterator<Item = (usize, &Listener)> {
        self.listeners.iter().filter(move |(_, one)| one.is_of(key) && !one.ending)
    }

    /// Asks every accept of the link back. What is in a socket's queue stays there.
    pub(super) fn halt_places(&mut self, key: u32) {
        let numbers: Vec<usize> = self.listens_of(key).map(|(number, _)| number).collect();
        for number in numbers {
            let Some(one) = self.listeners.get_mut(number) else { continue };
            let token = one.token;
            let rests = self.resting_places.iter().position(|(of, _)| *of == token);
            if let Some(at) = rests {
                self.resting_places.swap_remove(at);
                one.taking = Taking::Off;
            } else if one.taking == Taking::On {
                one.taking = Taking::AskedBack;
                self.cancel(token);
            }
        }
    }

    /// It stays, or has come here: connections are accepted as before.
    pub(super) fn go_on_places(&mut self, key: u32) {
        let off = |(_, one): &(usize, &Listener)| one.taking == Taking::Off;
        let numbers: Vec<usize> = self.listens_of(key).filter(off).map(|(n, _)| n).collect();
        for number in numbers {
            let Some(one) = self.listeners.get_mut(number) else { continue };
            one.taking = Taking::On;
            let (token, listener) = (one.token, one.socket);
            self.submit(token, Op::Accept { listener });
        }
    }

    /// An accept that was asked back is over, whatever has become of it.
    pub(super) fn place_halted(&mut self, number: u32) {
        let Some(one) = self.listeners.get_mut(number as usize) else { return };
        one.taking = Taking::Off;
        let key = one.link;
        match self.links.get(key as usize).map(|link| link.state) {
            Some(LinkState::Packing) => self.mark_dirty(key),
            // It has been decided otherwise meanwhile.
            _ => self.go_on_places(key),
        }
    }

    /// Somebody came while the link was got ready to leave: the client is asked first, and it stays for that.
    pub(super) fn stay_for_offer(&mut self, key: u32) {
        let packing = |link: &Link| link.state == LinkState::Packing;
        if self.links.get(key as usize).is_some_and(packing) {
            self.timers.set(key, self.now());
        }
    }

    /// Nobody takes anything for the link any more.
    pub(super) fn places_have_halted(&self, key: u32) -> bool {
        self.listens_of(key).all(|(_, one)| one.taking == Taking::Off)
    }

    /// Packs what has halted. It is here still until [`Shard::leave_places`].
    pub(super) fn pack_places(&self, key: u32, out: &mut Luggage) {
        let agent = match self.links.get(key as usize).map(|link| &link.agent) {
            Some(Agent::At(path)) => Some(path.as_os_str().as_bytes()),
            _ => None,
        };
        out.boolean(agent.is_some());
        agent.into_iter().for_each(|path| out.string(path));
        out.uint32(self.listens_of(key).count() as u32);
        for (_, one) in self.listens_of(key) {
            pack_place(one.place(), out);
            out.uint32(u32::from(one.port));
            out.descriptor(Some(one.socket));
        }
    }

    /// Another program has the places: their sockets are neither ended nor closed, and the agent's stays in its
    /// directory.
    pub(super) fn leave_places(&mut self, key: u32) {
        let numbers: Vec<usize> = self.listens_of(key).map(|(number, _)| number).collect();
        for number in numbers {
            self.listeners.remove(number);
        }
        if let Some(link) = self.links.get_mut(key as usize) {
            link.agent = Agent::None;
        }
    }

    /// Listens at what [`Shard::pack_places`] packed.
    ///
    /// # Errors
    /// Nobody of ours has packed it; some places may listen already.
    pub(super) fn unpack_places(
        &mut self,
        key: u32,
        from: &mut Unpacking<'_>,
    ) -> Result<(), Malformed> {
        if from.boolean()? {
            let path = PathBuf::from(OsStr::from_bytes(from.string()?));
            let link = self.links.get_mut(key as usize).ok_or(Malformed::Range)?;
            link.agent = Agent::At(path);
        }
        for _ in 0..from.uint32()? {
            let place = unpack_place(from)?;
            let port = u16::try_from(from.uint32()?).map_err(|_| Malformed::Range)?;
            let socket = from.open_descriptor()?;
            self.accept_at(key, place, port, socket);
        }
        Ok(())
    }
}

const TCP: u8 = 0;
const PATH: u8 = 1;
const AGENT: u8 = 2;
const DISPLAY: u8 = 3;
const NOWHERE: u8 = 4;

fn pack_place(place: &Place, out: &mut Luggage) {
    match place {
        Place::Tcp { address, port } => {
            out.byte(TCP);
            out.string(address.as_bytes());
            out.uint32(*port);
        }
        Place::Path(path) => {
            out.byte(PATH);
            out.string(path);
        }
        Place::Agent(path) => {
            out.byte(AGENT);
            out.string(path.as_os_str().as_bytes());
        }
        Place::Display { number, channel, single } => {
            out.byte(DISPLAY);
            out.uint32(u32::from(*number));
            out.uint32(channel.number());
            out.boolean(*single);
        }
        // A client's own does not move.
        Place::Near(_) => out.byte(NOWHERE),
    }
}

fn unpack_place(from: &mut Unpacking<'_>) -> Result<Place, Malformed> {
    Ok(match from.byte()? {
        TCP => {
            let address = std::str::from_utf8(from.string()?).map_err(|_| Malformed::Range)?;
            Place::Tcp { address: address.into(), port: from.uint32()? }
        }
        PATH => Place::Path(from.string()?.into()),
        AGENT => Place::Agent(PathBuf::from(OsStr::from_bytes(from.string()?))),
        DISPLAY => Place::Display {
            number: u16::try_from(from.uint32()?).map_err(|_| Malformed::Range)?,
            channel: ChannelId::from_number(from.uint32()?),
            single: from.boolean()?,
        },
        _ => return Err(Malformed::Range),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_same_when_it_is_unpacked() {
        for place in [
            Place::Tcp { address: "".into(), port: 0 },
            Place::Tcp { address: "localhost".into(), port: 65_535 },
            Place::Path((*b"/run/\xffplace").into()),
            Place::Agent("/tmp/ssh-1/agent.2".into()),
            Place::Display { number: 10, channel: ChannelId::from_number(7), single: true },
        ] {
            let mut luggage = Luggage::default();
            pack_place(&place, &mut luggage);
            let mut from = luggage.open();
            let found = unpack_place(&mut from);
            assert_eq!((found, from.end()), (Ok(place), Ok(())));
            for cut in 0..luggage.bytes.len() {
                let bytes = luggage.bytes[..cut].to_vec();
                let part = Luggage { bytes, descriptors: Vec::new() };
                assert!(unpack_place(&mut part.open()).is_err(), "cut at {cut}");
            }
        }
    }
}
