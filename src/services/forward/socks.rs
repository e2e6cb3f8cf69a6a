//! What somebody says by SOCKS who wants to be connected, and what he is told (RFC 1928; SOCKS 4 and
//! 4a, which no RFC has). Bytes in, bytes out: whoever has the connection reads and writes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Target;
use crate::limits::HOST_BYTES_MAX;
use crate::reactor::Errno;

/// A conversation until it is said where to.
#[derive(Debug, Default)]
pub struct Socks {
    /// Of the message under way.
    held: Vec<u8>,
    /// The method is chosen; version 5 alone has some.
    greeted: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// So many more bytes are needed at least.
    Wait(usize),
    /// This is to be said, and what comes then is part of the conversation too.
    Say(&'static [u8]),
    /// What comes from now on belongs to the connection, once it is made.
    Asked(Target, Version),
}

/// The version that somebody speaks: answers are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Four,
    Five,
}

/// What somebody is told who has said where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Connected,
    Failed,
    Forbidden,
    NetworkUnreachable,
    HostUnreachable,
    HostUnknown,
    ConnectionRefused,
    NoSuchCommand,
    NoSuchAddress,
}

/// It leads nowhere: why, for us, and what is to be said before it ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub why: &'static str,
    pub say: &'static [u8],
}

/// What a message came to.
enum Read {
    Need(usize),
    Is(Step),
}

const CONNECT: u8 = 1;
/// RFC 1928 §3: methods.
const NO_LOGIN: u8 = 0;
/// The user's name and the host's, with their ends.
const NAMES_MAX: usize = 2 * (HOST_BYTES_MAX as usize + 1);

impl Socks {
    /// Nobody has said anything.
    pub fn is_silent(&self) -> bool {
        self.held.is_empty() && !self.greeted
    }

    /// Takes from the front of `bytes` what is part of the conversation, as far as the next step.
    ///
    /// # Errors
    /// It is none, or asks for what there is not.
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Step, Refused> {
        loop {
            let need = match self.read()? {
                Read::Need(need) => need,
                Read::Is(step) => {
                    self.held.clear();
                    return Ok(step);
                }
            };
            if bytes.is_empty() {
                return Ok(Step::Wait(need));
            }
            let (now, later) = bytes.split_at(need.min(bytes.len()));
            self.held.extend_from_slice(now);
            *bytes = later;
        }
    }

    fn read(&mut self) -> Result<Read, Refused> {
        match (self.held.as_slice(), self.greeted) {
            ([], _) => Ok(Read::Need(1)),
            ([4, rest @ ..], false) => version_4(rest),
            ([5, rest @ ..], false) => {
                let read = methods(rest)?;
                self.greeted = matches!(read, Read::Is(_));
                Ok(read)
            }
            ([5, rest @ ..], true) => version_5(rest),
            _ => Err(Refused { why: "it speaks no SOCKS", say: &[] }),
        }
    }
}

fn version_4(rest: &[u8]) -> Result<Read, Refused> {
    if rest.first().is_some_and(|command| *command != CONNECT) {
        return Err(refused(Version::Four, Outcome::NoSuchCommand));
    }
    // What is not there yet ends with a NUL at least.
    let [_, high, low, a, b, c, d, names @ ..] = rest else {
        return Ok(Read::Need(8 - rest.len()));
    };
    if names.len() > NAMES_MAX {
        let say = Version::Four.answer(Outcome::Failed);
        return Err(Refused { why: "a name is too long", say });
    }
    let Some((_user, behind)) = until_nul(names) else { return Ok(Read::Need(1)) };
    let host = match [*a, *b, *c, *d] {
        // 4a: an address that cannot be, and a name behind the user.
        [0, 0, 0, last] if last != 0 => {
            let Some((name, _)) = until_nul(behind) else { return Ok(Read::Need(1)) };
            text(name, Version::Four)?
        }
        address => Ipv4Addr::from(address).to_string(),
    };
    Ok(asked(host, [*high, *low], Version::Four))
}

/// What stands before the next NUL, and what behind it. `None`: it has not come yet.
fn until_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

/// RFC 1928 §3.
fn methods(rest: &[u8]) -> Result<Read, Refused> {
    let [count, methods @ ..] = rest else { return Ok(Read::Need(1)) };
    match usize::from(*count).saturating_sub(methods.len()) {
        0 if methods.contains(&NO_LOGIN) => Ok(Read::Is(Step::Say(&[5, NO_LOGIN]))),
        0 => Err(Refused { why: "it wants to log in by SOCKS", say: &[5, 0xff] }),
        need => Ok(Read::Need(need)),
    }
}

/// RFC 1928 §4.
fn version_5(rest: &[u8]) -> Result<Read, Refused> {
    if rest.first().is_some_and(|command| *command != CONNECT) {
        return Err(refused(Version::Five, Outcome::NoSuchCommand));
    }
    let [_, _, kind, behind @ ..] = rest else { return Ok(Read::Need(4 - rest.len())) };
    let length = match (kind, behind.first()) {
        (1, _) => 4,
        (4, _) => 16,
        (3, Some(length)) => 1 + usize::from(*length),
        (3, None) => return Ok(Read::Need(1)),
        _ => return Err(refused(Version::Five, Outcome::NoSuchAddress)),
    };
    let (Some(address), Some(&[high, low])) =
        (behind.get(..length), behind.get(length..length + 2))
    else {
        return Ok(Read::Need(length + 2 - behind.len()));
    };
    let host = match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address), kind) {
        (Ok(four), _, 1) => Ipv4Addr::from(four).to_string(),
        (_, Ok(six), 4) => Ipv6Addr::from(six).to_string(),
        _ => text(address.get(1..).unwrap_or_default(), Version::Five)?,
    };
    Ok(asked(host, [high, low], Version::Five))
}

fn text(name: &[u8], version: Version) -> Result<String, Refused> {
    match std::str::from_utf8(name) {
        Ok(name) if (1..=HOST_BYTES_MAX as usize).contains(&name.len()) && !name.contains('\0') => {
            Ok(name.to_owned())
        }
        _ => Err(Refused { why: "it names no host", say: version.answer(Outcome::Failed) }),
    }
}

fn asked(host: String, port: [u8; 2], version: Version) -> Read {
    let target = Target::Tcp { host: host.into(), port: u32::from(u16::from_be_bytes(port)) };
    Read::Is(Step::Asked(target, version))
}

const fn refused(version: Version, outcome: Outcome) -> Refused {
    let why = match outcome {
        Outcome::NoSuchAddress => "it names a host in a way that SOCKS does not know",
        _ => "it asks for something else than a connection",
    };
    Refused { why, say: version.answer(outcome) }
}

impl Outcome {
    /// Of an attempt that has failed so.
    pub const fn of(errno: Errno) -> Outcome {
        match errno.0 {
            libc::ECONNREFUSED => Outcome::ConnectionRefused,
            libc::ENETUNREACH => Outcome::NetworkUnreachable,
            // An attempt that was ended by us has had no answer.
            libc::EHOSTUNREACH | libc::ETIMEDOUT | libc::ECANCELED => Outcome::HostUnreachable,
            _ => Outcome::Failed,
        }
    }

    /// What a client is told of a connection that was not made, in sshd's words where they are known.
    pub const fn words(self) -> &'static str {
        match self {
            Outcome::Forbidden => "forwarding is not permitted",
            Outcome::ConnectionRefused => "Connection refused",
            Outcome::NetworkUnreachable => "Network is unreachable",
            Outcome::HostUnknown => "Name or service not known",
            Outcome::HostUnreachable => "no route to that host, or no answer in time",
            _ => "cannot connect there",
        }
    }
}

impl Version {
    /// What somebody is told of his connection. Where it leaves from is nobody's business: the address
    /// in it is zero.
    pub const fn answer(self, outcome: Outcome) -> &'static [u8] {
        match (self, outcome) {
            (Version::Four, Outcome::Connected) => &[0, 90, 0, 0, 0, 0, 0, 0],
            (Version::Four, _) => &[0, 91, 0, 0, 0, 0, 0, 0],
            // RFC 1928 §6.
            (Version::Five, Outcome::Connected) => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            (Version::Five, Outcome::Failed) => &[5, 1, 0, 1, 0, 0, 0, 0, 0, 0],
            (Version::Five, Outcome::Forbidden) => &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0],
            (Version::Five, Outcome::NetworkUnreachable) => &[5, 3, 0, 1, 0, 0, 0, 0, 0, 0],
            (Version::Five, Outcome::HostUnreachable | Outcome::HostUnknown) => {
                &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]
            }
            (Version::Five, Outcome::ConnectionRefused) => &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0],
            (Version::Five, Outcome::NoSuchCommand) => &[5, 7, 0, 1, 0, 0, 0, 0, 0, 0],
            (Version::Five, Outcome::NoSuchAddress) => &[5, 8, 0, 1, 0, 0, 0, 0, 0, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole conversation, in pieces of this size: what was said, where to, and what is left.
    fn converse(said: &[u8], piece: usize) -> (Vec<u8>, Result<Option<Target>, Refused>, Vec<u8>) {
        let (mut socks, mut answers) = (Socks::default(), Vec::new());
        let mut pieces = said.chunks(piece);
        let mut now: &[u8] = &[];
        loop {
            match socks.take(&mut now) {
                Ok(Step::Say(bytes)) => answers.extend_from_slice(bytes),
                Ok(Step::Wait(need)) => {
                    assert!(need > 0 && now.is_empty());
                    match pieces.next() {
                        Some(next) => now = next,
                        None => return (answers, Ok(None), Vec::new()),
                    }
                }
                Ok(Step::Asked(target, _)) => {
                    let left = [now, &pieces.collect::<Vec<_>>().concat()].concat();
                    return (answers, Ok(Some(target)), left);
                }
                Err(refused) => return (answers, Err(refused), Vec::new()),
            }
        }
    }

    fn to(host: &str, port: u32) -> Target {
        Target::Tcp { host: host.into(), port }
    }

    #[test]
    fn every_way_to_ask_is_heard_however_it_is_cut() {
        let four =
            |address: [u8; 4], behind: &[u8]| [&[4, 1, 0x1f, 0x90][..], &address, behind].concat();
        let five = |kind: u8, address: &[u8]| {
            [&[5, 2, 2, 0, 5, 1, 0, kind][..], address, &[0x1f, 0x90]].concat()
        };
        let mut six = [0; 16];
        six[15] = 1;
        for (said, target) in [
            (four([127, 0, 0, 1], b"user\0"), to("127.0.0.1", 8080)),
            (four([127, 0, 0, 1], b"\0"), to("127.0.0.1", 8080)),
            (four([0, 0, 0, 1], b"\0web.example\0"), to("web.example", 8080)),
            (five(1, &[127, 0, 0, 1]), to("127.0.0.1", 8080)),
            (five(4, &six), to("::1", 8080)),
            (five(3, b"\x0bweb.example"), to("web.example", 8080)),
        ] {
            let said = [&said[..], b"GET /"].concat();
            for piece in 1..=said.len() {
                let (answers, asked, left) = converse(&said, piece);
                assert_eq!(asked, Ok(Some(target.clone())), "{said:?} by {piece}");
                assert_eq!(left, b"GET /", "{said:?} by {piece}: nothing of the connection's");
                let greeting: &[u8] = if said[0] == 5 { &[5, 0] } else { &[] };
                assert_eq!(answers, greeting);
            }
        }
    }

    #[test]
    fn a_reader_that_waits_for_what_is_needed_reads_no_more() {
        for said in [
            &[4, 1, 0, 80, 127, 0, 0, 1, 0][..],
            b"\x04\x01\0\x50\0\0\0\x01u\0h\0",
            &[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 80],
            b"\x05\x01\0\x05\x01\0\x03\x01h\0\x50",
        ] {
            let mut socks = Socks::default();
            let (mut rest, mut now): (&[u8], &[u8]) = (said, &[]);
            loop {
                match socks.take(&mut now).expect("SOCKS") {
                    Step::Wait(need) => (now, rest) = rest.split_at(need),
                    Step::Say(_) => {}
                    Step::Asked(..) => break,
                }
            }
            assert!(rest.is_empty(), "{said:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_in_its_own_words() {
        let long = [&[4, 1, 0, 80, 1, 2, 3, 4][..], &vec![b'u'; 600]].concat();
        for (said, say) in [
            (&b"GET / HTTP/1.1\r\n"[..], &b""[..]),
            (&[0], b""),
            (&[5, 1, 2], &[5, 0xff]),
            (&[5, 0], &[5, 0xff]),
            (&[4, 2], &[0, 91, 0, 0, 0, 0, 0, 0]),
            (&long, &[0, 91, 0, 0, 0, 0, 0, 0]),
            (&[4, 1, 0, 80, 0, 0, 0, 9, 0, 0xff, 0], &[0, 91, 0, 0, 0, 0, 0, 0]),
            (&[4, 1, 0, 80, 0, 0, 0, 9, 0, 0], &[0, 91, 0, 0, 0, 0, 0, 0]),
            (&[5, 1, 0, 5, 2], &[5, 7, 0, 1, 0, 0, 0, 0, 0, 0]),
            (&[5, 1, 0, 5, 1, 0, 2], &[5, 8, 0, 1, 0, 0, 0, 0, 0, 0]),
            (&[5, 1, 0, 5, 1, 0, 3, 0, 0, 80], &[5, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
            (&[5, 1, 0, 5, 1, 0, 3, 1, 0, 0, 80], &[5, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
            (&[5, 1, 0, 4], b""),
        ] {
            for piece in 1..=said.len() {
                let (_, asked, _) = converse(said, piece);
                let refused = asked.expect_err("no request");
                assert_eq!(refused.say, say, "{said:?} by {piece}");
            }
        }
    }
}
