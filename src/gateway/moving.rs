//! A connection between two processes of ours, with what its channels are attached to: messages of a socket pair,
//! one for each descriptor, and one for the rest.

mod case;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use aws_lc_rs::hmac;
use crossbeam::channel::Sender;
use tracing::error;
use zeroize::Zeroize;

use super::helper;
use super::pam::Dialogue;
use super::pam::porter::Arrival;
use super::parcel::{Parcel, address, flag, put, put_address};
use super::relay::Relays;
use super::relay::destination::{self, Destinations};
use super::socket::Messenger;
use crate::limits::{
    HAND_OVER_UNSENT_BYTES_MAX, LUGGAGE_DESCRIPTORS_MAX, LUGGAGE_INLINE_BYTES_MAX,
    PARCEL_BYTES_MAX, RELAY_LUGGAGE_BYTES_MAX, RELAY_ROOM_PAUSE, RELAY_ROOM_TRIES_MAX,
};
use crate::reactor::Fd;
use crate::services::{Grant, Luggage, RoutingDomain};
use crate::shard::{Ends, HandOver};
use crate::wire::{Malformed, Reader};

/// A connection as it travels; its socket and its pieces travel beside it.
#[derive(Debug, PartialEq, Eq)]
pub struct Moving {
    pub serial: u64,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The session's identifier, for whoever does not read the record.
    pub session: Vec<u8>,
    pub record: Vec<u8>,
    pub inbound: Vec<u8>,
    pub outbound: Vec<u8>,
    /// In its own encoding.
    pub grant: Vec<u8>,
    /// Where the login has gone on, if it does elsewhere; in its own encoding.
    pub upstream: Option<Vec<u8>>,
    pub token: Vec<u8>,
    /// What its channels are attached to, and how many descriptors that has.
    pub luggage: Option<(Vec<u8>, u32)>,
    /// The process that keeps its session through PAM. The way to it and what names it are the last two pieces.
    pub kept: Option<u32>,
    /// The bytes of the luggage are in the last of those.
    pub apart: bool,
}

impl Moving {
    /// Takes what is large out of `connection`.
    pub fn of(connection: &mut HandOver) -> Moving {
        let take = std::mem::take::<Vec<u8>>;
        let luggage = connection.luggage.as_mut();
        Moving {
            serial: connection.serial,
            peer: connection.ends.peer,
            local: connection.ends.local,
            session: connection.session.to_vec(),
            record: take(&mut connection.record),
            inbound: take(&mut connection.inbound),
            outbound: take(&mut connection.outbound),
            grant: connection.grant.encode(),
            upstream: connection.grant.upstream.as_deref().map(destination::encode),
            token: connection.token.to_vec(),
            luggage: luggage.map(|one| (take(&mut one.bytes), one.descriptors.len() as u32)),
            kept: None,
            apart: false,
        }
    }

    /// Puts back what [`Moving::of`] has taken.
    pub fn give_back(self, connection: &mut HandOver) {
        connection.record = self.record;
        connection.inbound = self.inbound;
        connection.outbound = self.outbound;
        if let (Some(luggage), Some((bytes, _))) = (&mut connection.luggage, self.luggage) {
            luggage.bytes = bytes;
        }
    }

    /// The connection, with its descriptors. `None`: its grant or luggage cannot be read, or logins go on nowhere
    /// else here, and they are closed.
    pub fn into_connection(
        self,
        (socket, mut pieces): (OwnedFd, Vec<OwnedFd>),
        known: Option<&Destinations>,
    ) -> Option<Box<HandOver>> {
        let mut grant = Grant::decode(&self.grant)?;
        if let Some(upstream) = &self.upstream {
            grant.upstream = Some(Arc::new(known?.read(upstream)?));
        }
        let apart = match self.apart {
            true => Some(case::open(&pieces.pop()?).ok()?),
            false => None,
        };
        let luggage = self.luggage.map(|(bytes, _)| {
            let bytes = apart.unwrap_or(bytes);
            let descriptors = pieces.into_iter().map(|fd| Fd(fd.into_raw_fd())).collect();
            Box::new(Luggage { bytes, descriptors })
        });
        Some(Box::new(HandOver {
            socket: Fd(socket.into_raw_fd()),
            ends: Ends { peer: self.peer, local: self.local, routing: RoutingDomain::default() },
            serial: self.serial,
            session: self.session.into(),
            record: self.record,
            inbound: self.inbound,
            outbound: self.outbound,
            grant: Box::new(grant),
            proofs: Vec::new(),
            token: self.token.into(),
            luggage,
        }))
    }

    /// The same with what keeps its session. `None`: some of it is missing.
    fn into_arrival(
        self,
        (socket, mut pieces): (OwnedFd, Vec<OwnedFd>),
        known: Option<&Destinations>,
    ) -> Option<Arrival> {
        let kept = match self.kept {
            Some(pid) => {
                let (process, line) = (pieces.pop()?, pieces.pop()?);
                Some(Dialogue::adopted(pid, process, line))
            }
            None => None,
        };
        Some(Arrival { connection: self.into_connection((socket, pieces), known)?, kept })
    }

    /// How many descriptors travel beside it.
    fn pieces(&self) -> u32 {
        let packed = self.luggage.as_ref().map_or(0, |(_, pieces)| *pieces);
        packed.saturating_add(if self.kept.is_some() { KEPT_PIECES } else { 0 })
    }

    /// As [`Parcel::Connection`]. `apart`: the bytes of the luggage are in one descriptor more than it has.
    pub fn message(&self, apart: bool) -> Vec<u8> {
        let Moving { record, inbound, outbound, grant, .. } = self;
        let inline = self.luggage.as_ref().filter(|_| !apart && !self.apart);
        let luggage = inline.map_or(0, |(bytes, _)| bytes.len());
        let luggage = luggage + self.upstream.as_ref().map_or(0, Vec::len);
        let parts = record.len() + inbound.len() + outbound.len() + grant.len() + luggage;
        let mut out = Vec::with_capacity(256 + parts);
        out.push(MESSAGE);
        out.extend(self.serial.to_be_bytes());
        put_address(&mut out, &self.peer);
        put_address(&mut out, &self.local);
        let parts = [&self.session, record, inbound, outbound, grant, &self.token];
        parts.into_iter().for_each(|part| put(&mut out, part));
        out.push(u8::from(self.upstream.is_some()));
        self.upstream.iter().for_each(|upstream| put(&mut out, upstream));
        match &self.luggage {
            Some((_, pieces)) if inline.is_none() => {
                out.push(LUGGAGE_APART);
                out.extend((pieces + u32::from(apart)).to_be_bytes());
            }
            luggage => put_luggage(&mut out, luggage.as_ref()),
        }
        out.push(u8::from(self.kept.is_some()));
        self.kept.iter().for_each(|pid| out.extend(pid.to_be_bytes()));
        out
    }

    pub fn decode(r: &mut Reader<'_>) -> Result<Moving, Malformed> {
        Ok(Moving {
            serial: r.uint64()?,
            peer: address(r)?,
            local: address(r)?,
            session: r.string(SESSION_BYTES_MAX)?.to_vec(),
            record: r.string(PARCEL_BYTES_MAX)?.to_vec(),
            inbound: r.string(PARCEL_BYTES_MAX)?.to_vec(),
            outbound: r.string(HAND_OVER_UNSENT_BYTES_MAX)?.to_vec(),
            grant: r.string(PARCEL_BYTES_MAX)?.to_vec(),
            token: r.string(TOKEN_BYTES_MAX)?.to_vec(),
            upstream: match flag(r)? {
                true => Some(r.string(PARCEL_BYTES_MAX)?.to_vec()),
                false => None,
            },
            apart: r.rest().first() == Some(&LUGGAGE_APART),
            luggage: luggage(r)?,
            kept: flag(r)?.then(|| r.uint32()).transpose()?,
        })
    }
}

/// A luggage's bytes, and how many descriptors it has.
pub fn put_luggage(out: &mut Vec<u8>, luggage: Option<&(Vec<u8>, u32)>) {
    out.push(u8::from(luggage.is_some()));
    if let Some((bytes, pieces)) = luggage {
        put(out, bytes);
        out.extend(pieces.to_be_bytes());
    }
}

pub fn luggage(r: &mut Reader<'_>) -> Result<Option<(Vec<u8>, u32)>, Malformed> {
    Ok(match r.byte()? {
        0 => None,
        1 => Some((r.string(PARCEL_BYTES_MAX)?.to_vec(), r.uint32()?)),
        LUGGAGE_APART => Some((Vec::new(), r.uint32()?)),
        _ => return Err(Malformed::Range),
    })
}

/// Descriptors that have come of a connection that is to follow.
#[derive(Debug, Default)]
pub struct Pieces {
    serial: u64,
    all: Vec<OwnedFd>,
}

impl Pieces {
    /// `false`: it does not follow what has come before, or is one too many.
    pub fn put(&mut self, (serial, number): (u64, u32), piece: Option<OwnedFd>) -> bool {
        if number == 0 {
            (self.serial, self.all) = (serial, Vec::new());
        }
        let next = serial == self.serial && number as usize == self.all.len();
        match piece.filter(|_| next && self.all.len() < PIECES_MAX) {
            Some(piece) => self.all.push(piece),
            None => return false,
        }
        true
    }

    /// Those of a connection that has come. `None`: some are missing.
    pub fn take(&mut self, moving: &Moving) -> Option<Vec<OwnedFd>> {
        self.take_for(moving.serial, moving.pieces())
    }

    /// The same by its number and how many there are.
    pub fn take_for(&mut self, serial: u64, count: u32) -> Option<Vec<OwnedFd>> {
        let all = std::mem::take(&mut self.all);
        match count as usize {
            0 => Some(Vec::new()),
            count => (self.serial == serial && all.len() == count).then_some(all),
        }
    }
}

/// The way of connections to the program that has this one's place, or to root's process, which passes them on.
#[derive(Debug)]
pub struct Exit {
    messenger: Arc<Messenger>,
    /// How much luggage travels in a message.
    inline_max: usize,
    /// The pieces of one connection come together.
    turn: Mutex<()>,
}

impl Exit {
    pub fn new(messenger: Arc<Messenger>) -> Exit {
        Exit { messenger, inline_max: LUGGAGE_INLINE_BYTES_MAX, turn: Mutex::new(()) }
    }

    /// One whose queue root has made, for who may make no files.
    pub fn of_a_relay(messenger: Arc<Messenger>) -> Exit {
        Exit { inline_max: RELAY_LUGGAGE_BYTES_MAX, ..Exit::new(messenger) }
    }

    /// Sends a connection on its way, never waiting. It comes back as it was where it cannot be sent.
    ///
    /// # Errors
    /// Nobody takes it, or not now.
    pub fn pass(&self, mut connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        let luggage = connection.luggage.as_ref();
        let pieces = luggage.map(|luggage| luggage.descriptors.clone()).unwrap_or_default();
        // SAFETY: whoever passes the connection on has given them up.
        let owned = |fd: Fd| unsafe { OwnedFd::from_raw_fd(fd.0) };
        let (socket, pieces) = (owned(connection.socket), pieces.into_iter().map(owned));
        let (moving, pieces) = (Moving::of(&mut connection), pieces.collect::<Vec<_>>());
        if self.send(&moving, &socket, &pieces).is_ok() {
            // The copies that travel count.
            return Ok(());
        }
        for fd in pieces.into_iter().chain([socket]) {
            let _ = fd.into_raw_fd();
        }
        moving.give_back(&mut connection);
        Err(connection)
    }

    /// The same of one that was received.
    ///
    /// # Errors
    /// As [`send`].
    pub fn send(&self, moving: &Moving, socket: &OwnedFd, pieces: &[OwnedFd]) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        send_within(&self.messenger, self.inline_max, moving, (socket, pieces))
    }
}

/// The way in for connections of an earlier program.
pub struct Doorway {
    pub to: Room,
    /// Where logins may go on elsewhere.
    pub destinations: Destinations,
}

/// Who serves them from then on.
pub enum Room {
    /// The processes of accounts, and a relay if there is one.
    Apart(Sender<Arrival>, Option<Arc<dyn Relays>>),
    /// The shards of this process.
    Here(Box<dyn Fn(Box<HandOver>) + Send>),
}

impl Doorway {
    /// `false`: nothing comes in any more.
    fn let_in(&self, Arrival { connection, kept }: Arrival) -> bool {
        match &self.to {
            Room::Apart(_, relays) if connection.grant.upstream.is_some() => match relays {
                Some(relays) => {
                    let crowded = |_: &u32| relays.is_crowded();
                    (0..RELAY_ROOM_TRIES_MAX)
                        .take_while(crowded)
                        .for_each(|_| thread::sleep(RELAY_ROOM_PAUSE));
                    relays.take(*connection).is_ok()
                }
                None => {
                    close(&connection);
                    false
                }
            },
            Room::Apart(accounts, _) => {
                let sent = accounts.send(Arrival { connection, kept });
                sent.map_err(|arrival| close(&arrival.0.connection)).is_ok()
            }
            Room::Here(doors) => {
                doors(connection);
                true
            }
        }
    }
}

/// Where connections of earlier programs come in: another way whenever the configuration changes.
pub type Porch = Arc<Mutex<Option<Doorway>>>;

/// Where those of one earlier program arrive.
#[derive(Debug)]
pub struct Entrance {
    messenger: Arc<Messenger>,
    thread: JoinHandle<()>,
}

impl Entrance {
    /// Answers with the other end as well.
    ///
    /// # Errors
    /// There is no descriptor or thread left.
    pub fn open(porch: &Porch) -> io::Result<(Entrance, OwnedFd)> {
        let (ours, theirs) = Messenger::pair()?;
        let (messenger, porch) = (Arc::new(ours), Arc::clone(porch));
        let heard = Arc::clone(&messenger);
        let thread = thread::Builder::new()
            .name("arrivals".to_owned())
            .spawn(move || receive(&heard, &porch))?;
        Ok((Entrance { messenger, thread }, theirs.into()))
    }

    /// The program at the other end has ended, or has nothing more to send.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Takes no more than what is on its way already, and waits until that has come in.
    pub fn close(self) {
        self.messenger.refuse_more();
        let _ = self.thread.join();
    }
}

/// Gives up what nobody takes.
fn close(connection: &HandOver) {
    let pieces = connection.luggage.iter().flat_map(|luggage| &luggage.descriptors);
    for fd in pieces.chain([&connection.socket]) {
        // SAFETY: they came with the connection, and nobody has taken them.
        drop(unsafe { OwnedFd::from_raw_fd(fd.0) });
    }
}

fn receive(messenger: &Messenger, porch: &Porch) {
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let mut pieces = Pieces::default();
    while let Ok(Some((len, passenger))) = helper::next_message(messenger, &mut buffer) {
        match (Parcel::decode(buffer.get(..len).unwrap_or_default()), passenger) {
            // Where some are missing, so is the connection.
            (Ok(Parcel::Piece { serial, number }), piece) => {
                let _ = pieces.put((serial, number), piece);
            }
            (Ok(Parcel::Connection(moving)), Some(socket)) => {
                let (link, its) = (moving.serial, pieces.take(&moving));
                let porch = porch.lock().unwrap_or_else(PoisonError::into_inner);
                let came = porch.as_ref().zip(its).is_some_and(|(doorway, its)| {
                    let known = Some(&doorway.destinations);
                    let arrival = moving.into_arrival((socket, its), known);
                    arrival.is_some_and(|arrival| doorway.let_in(arrival))
                });
                if !came {
                    error!(link, "a connection of the earlier program is lost");
                }
            }
            _ => error!("the earlier program passes on what is no connection"),
        }
        buffer.get_mut(..len).unwrap_or_default().zeroize();
    }
}

/// Sends the pieces of a connection, and then the connection. Never waits.
///
/// # Errors
/// The other end is gone, or its queue is full: what has come of it there is thrown away by what comes next.
pub fn send(
    messenger: &Messenger,
    moving: &Moving,
    socket: &OwnedFd,
    pieces: &[OwnedFd],
) -> io::Result<()> {
    send_within(messenger, LUGGAGE_INLINE_BYTES_MAX, moving, (socket, pieces))
}

fn send_within(
    messenger: &Messenger,
    inline_max: usize,
    moving: &Moving,
    (socket, pieces): (&OwnedFd, &[OwnedFd]),
) -> io::Result<()> {
    let large = moving.luggage.iter().find(|(bytes, _)| bytes.len() > inline_max);
    let apart = large.map(|(bytes, _)| case::close(bytes)).transpose()?;
    for (number, piece) in (0..).zip(pieces.iter().chain(&apart)) {
        let parcel = Parcel::Piece { serial: moving.serial, number };
        messenger.try_send(&parcel.encode(), Some(piece.as_fd()))?;
    }
    messenger.try_send(&moving.message(apart.is_some()), Some(socket.as_fd()))
}

/// Marks what root's process passes on to the process of an account, so that it knows it again: the account may
/// give back what it was given, and nothing else.
#[derive(Debug)]
pub struct Stamp(Option<hmac::Key>);

impl Default for Stamp {
    /// Without randomness nothing is known again.
    fn default() -> Stamp {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new());
        Stamp(key.ok())
    }
}

impl Stamp {
    /// Of what is known of a connection for the process of `uid`.
    pub fn token(&self, uid: u32, moving: &Moving) -> Vec<u8> {
        let tag = |key| hmac::sign(key, &Stamp::text(uid, moving)).as_ref().to_vec();
        self.0.as_ref().map(tag).unwrap_or_default()
    }

    /// It is one that was passed to that process.
    pub fn is_known(&self, uid: u32, moving: &Moving) -> bool {
        let tag = |key| hmac::verify(key, &Stamp::text(uid, moving), &moving.token);
        self.0.as_ref().is_some_and(|key| tag(key).is_ok())
    }

    fn text(uid: u32, moving: &Moving) -> Vec<u8> {
        let mut text = uid.to_be_bytes().to_vec();
        text.extend(moving.serial.to_be_bytes());
        put_address(&mut text, &moving.peer);
        put_address(&mut text, &moving.local);
        put(&mut text, &moving.session);
        put(&mut text, &moving.grant);
        text
    }
}

/// What two programs have to agree on for connections to move between them: how these messages, records, grants,
/// luggage and orders to whoever keeps a session are written. It changes with any of them.
pub const FORMAT: u32 = 1;

/// The first byte of [`Parcel::Connection`], and of [`Parcel::Piece`].
pub const MESSAGE: u8 = 2;
/// In the place of a luggage's bytes: they are in a descriptor.
const LUGGAGE_APART: u8 = 2;
pub const PIECE: u8 = 13;
/// As long as the largest hash.
const SESSION_BYTES_MAX: u32 = 64;
const TOKEN_BYTES_MAX: u32 = 32;
/// Of [`Moving::kept`].
const KEPT_PIECES: u32 = 2;
const PIECES_MAX: usize = LUGGAGE_DESCRIPTORS_MAX + KEPT_PIECES as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn moving() -> Moving {
        Moving {
            serial: 7,
            peer: "192.0.2.1:5".parse().expect("an address"),
            local: "[::1]:22".parse().expect("an address"),
            session: vec![8; 32],
            record: vec![1; 90],
            inbound: Vec::new(),
            outbound: Vec::new(),
            grant: vec![3; 20],
            upstream: None,
            token: Vec::new(),
            luggage: Some((vec![5; 99], 2)),
            kept: None,
            apart: false,
        }
    }

    fn pipe() -> OwnedFd {
        std::io::pipe().expect("a pipe").0.into()
    }

    /// SECURITY case 136: an account gives back what it was given, and nothing else.
    #[test]
    fn case_136_a_connection_is_known_again_and_no_other() {
        let stamp = Stamp::default();
        let token = stamp.token(7, &moving());
        let shown = |uid, change: &dyn Fn(&mut Moving)| {
            let mut one = Moving { token: token.clone(), ..moving() };
            change(&mut one);
            stamp.is_known(uid, &one)
        };
        assert!(shown(7, &|_| {}));
        // What it has become since is the account's own affair.
        assert!(shown(7, &|one| one.record = vec![2; 50]));
        assert!(!shown(8, &|_| {}), "another account's");
        assert!(!shown(7, &|one| one.serial = 8));
        assert!(!shown(7, &|one| one.peer.set_port(6)));
        assert!(!shown(7, &|one| one.local.set_port(6)));
        assert!(!shown(7, &|one| one.session[0] = 0));
        assert!(!shown(7, &|one| one.grant.push(0)));
        assert!(!shown(7, &|one| one.token.clear()));
        assert!(!Stamp::default().is_known(7, &Moving { token, ..moving() }));
    }

    /// Other versions read these bytes: whoever changes them changes [`FORMAT`].
    #[test]
    fn the_format_is_what_its_number_says() {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &moving().message(false));
        let digest: String =
            digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((FORMAT, &*digest), (1, "718a991921a0c1e0"));
    }

    #[test]
    fn pieces_belong_to_the_connection_that_follows() {
        let mut pieces = Pieces::default();
        assert!(pieces.take(&moving()).is_none(), "they are missing");
        assert!(pieces.put((7, 0), Some(pipe())) && pieces.put((7, 1), Some(pipe())));
        assert_eq!(pieces.take(&moving()).map(|all| all.len()), Some(2));
        assert!(pieces.take(&moving()).is_none(), "they were taken");
        // What came of one that was not sent whole is thrown away.
        assert!(pieces.put((9, 0), Some(pipe())) && pieces.put((7, 0), Some(pipe())));
        assert!(!pieces.put((9, 1), Some(pipe())) && !pieces.put((7, 2), Some(pipe())));
        assert!(!pieces.put((7, 1), None));
        assert!(pieces.put((7, 1), Some(pipe())));
        assert!(pieces.take(&Moving { serial: 8, ..moving() }).is_none());
        assert_eq!(
            pieces.take(&Moving { luggage: None, ..moving() }).map(|all| all.len()),
            Some(0)
        );
        // Whatever keeps its session comes last.
        assert!((0..4).all(|number| pieces.put((7, number), Some(pipe()))));
        let kept = Moving { kept: Some(9), ..moving() };
        assert_eq!(pieces.take(&kept).map(|all| all.len()), Some(4));
        for number in 0..PIECES_MAX as u32 {
            assert!(pieces.put((7, number), Some(pipe())));
        }
        assert!(!pieces.put((7, PIECES_MAX as u32), Some(pipe())), "one too many");
    }
}
