//! What a program says first to an X server that it reaches over us: it has a cookie of our making, and
//! the server gets its own in the same bytes.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use crate::limits::X11_PIECES_MAX;
use crate::reactor::Chunk;
use crate::services::Io;

/// The cookies of a display.
#[derive(Clone, Debug)]
pub struct Cookies {
    /// How they prove anything, as xauth names it.
    pub protocol: Box<str>,
    /// As long as the real one; from us alone.
    pub fake: Box<[u8]>,
    pub real: Zeroizing<Vec<u8>>,
}

/// The beginning of a connection, until it is whole.
#[derive(Debug)]
pub struct Gate {
    cookies: Cookies,
    held: Vec<Chunk>,
}

/// What becomes of what has come.
#[derive(Debug)]
pub enum Verdict {
    /// More is needed.
    Wait,
    /// It has the fake cookie, and the real one now.
    Passes(Vec<Chunk>),
    Refused(&'static str),
}

/// The fixed part: byte order, version, two lengths (X Window System Protocol, chapter 8).
const HEAD_BYTES: usize = 12;

impl Gate {
    pub const fn new(cookies: Cookies) -> Gate {
        Gate { cookies, held: Vec::new() }
    }

    /// Takes bytes from the front of a connection.
    pub fn take(&mut self, data: Chunk, io: &mut Io<'_>) -> Verdict {
        self.held.push(data);
        let mut head = Vec::new();
        for Chunk { lease, span } in &mut self.held {
            head.extend_from_slice(span.of(io.bytes(lease)).unwrap_or_default());
        }
        match self.cookies.swap(&mut head) {
            Ok(false) if self.held.len() < X11_PIECES_MAX => return Verdict::Wait,
            Ok(false) => return self.refuse("its first message comes in too many pieces", io),
            Err(why) => return self.refuse(why, io),
            Ok(true) => {}
        }
        let mut rest = head.as_slice();
        for Chunk { lease, span } in &mut self.held {
            let Some(place) = span.of_mut(io.bytes(lease)) else { continue };
            let (now, later) = rest.split_at(place.len().min(rest.len()));
            place.copy_from_slice(now);
            rest = later;
        }
        Verdict::Passes(std::mem::take(&mut self.held))
    }

    fn refuse(&mut self, why: &'static str, io: &mut Io<'_>) -> Verdict {
        self.give_back(io);
        Verdict::Refused(why)
    }

    /// Nothing more comes.
    pub fn give_back(&mut self, io: &mut Io<'_>) {
        for chunk in self.held.drain(..) {
            io.give_back(chunk.lease);
        }
    }
}

impl Cookies {
    /// Puts the real cookie in the fake one's place. False: the message is not whole yet.
    fn swap(&self, head: &mut [u8]) -> Result<bool, &'static str> {
        let Some(fixed) = head.first_chunk::<HEAD_BYTES>() else { return Ok(false) };
        let length = |at: [u8; 2]| match fixed[0] {
            b'B' => Ok(usize::from(u16::from_be_bytes(at))),
            b'l' => Ok(usize::from(u16::from_le_bytes(at))),
            _ => Err("its first message is none of X11"),
        };
        let protocol = length([fixed[6], fixed[7]])?;
        let cookie = length([fixed[8], fixed[9]])?;
        let wrong = Err("it has another cookie than it was told");
        if protocol != self.protocol.len() || cookie != self.fake.len() {
            return wrong;
        }
        let at = HEAD_BYTES + protocol.next_multiple_of(4);
        if head.len() < at + cookie.next_multiple_of(4) {
            return Ok(false);
        }
        let known = head.get(HEAD_BYTES..HEAD_BYTES + protocol) == Some(self.protocol.as_bytes());
        let Some(place) = head.get_mut(at..at + cookie) else { return wrong };
        if !known || verify_slices_are_equal(place, &self.fake).is_err() {
            return wrong;
        }
        match self.real.len() == place.len() {
            true => place.copy_from_slice(&self.real),
            false => return wrong,
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies() -> Cookies {
        let real = Zeroizing::new(vec![9; 16]);
        Cookies { protocol: "MIT-MAGIC-COOKIE-1".into(), fake: Box::new([7; 16]), real }
    }

    fn message(order: u8, protocol: &str, cookie: &[u8]) -> Vec<u8> {
        let number = |n: usize| match order {
            b'B' => (n as u16).to_be_bytes(),
            _ => (n as u16).to_le_bytes(),
        };
        let mut bytes = vec![order, 0];
        for n in [11, 0, protocol.len(), cookie.len(), 0] {
            bytes.extend(number(n));
        }
        for part in [protocol.as_bytes(), cookie] {
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_real_cookie_takes_the_place_of_the_fake_one() {
        for order in *b"Bl" {
            let whole = message(order, "MIT-MAGIC-COOKIE-1", &[7; 16]);
            for cut in 0..whole.len() {
                let mut part = whole[..cut].to_vec();
                assert_eq!((cookies().swap(&mut part), &part[..]), (Ok(false), &whole[..cut]));
            }
            let mut sent = [whole.as_slice(), b"more"].concat();
            assert_eq!(cookies().swap(&mut sent), Ok(true));
            let real = message(order, "MIT-MAGIC-COOKIE-1", &[9; 16]);
            assert_eq!(sent, [real.as_slice(), b"more"].concat());
        }
    }

    #[test]
    fn nothing_else_reaches_the_server() {
        let refused =
            |mut bytes: Vec<u8>| assert!(cookies().swap(&mut bytes).is_err(), "{bytes:?}");
        let mit = "MIT-MAGIC-COOKIE-1";
        refused(message(b'l', mit, &[9; 16]));
        refused(message(b'l', mit, &[7; 15]));
        refused(message(b'l', mit, &[]));
        refused(message(b'l', "", &[7; 16]));
        refused(message(b'l', "MIT-MAGIC-COOKIE-2", &[7; 16]));
        refused(message(b'x', mit, &[7; 16]));
        // It is not waited for what could not be right.
        refused(message(b'l', mit, &[7; 60_000])[..12].to_vec());
    }
}
