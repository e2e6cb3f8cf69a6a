//! What a gateway and the program that takes its place say to each other: one message a datagram of a
//! socket pair. The two may be of different versions: numbers and fields that there are stay as they
//! are, and whoever does not understand a word gives the upgrade up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::edge::words::{put_standings, standings};
use super::super::parcel::{address, flag, put, put_address};
use crate::gateway::config::Endpoint;
use crate::gateway::logbook::Login;
use crate::gateway::startups::Standing;
use crate::limits::{DEVICE_NAME_BYTES_MAX, TERMINAL_BYTES_MAX, UPGRADE_FAULT_BYTES_MAX};
use crate::wire::{Malformed, Reader};

/// From the program that serves to the one that is to take its place, unless it is told otherwise.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// First: generations that there have been, so that no two connections have the same number in the
    /// log. `given`: the sockets are a service manager's.
    Begin { generations: u64, given: bool },
    /// A listening socket, attached, and what it was opened for.
    Listener(Endpoint),
    /// What sources have earned.
    Standings(Vec<Standing>),
    /// The way to an earlier program that still has sessions, attached.
    Former { pid: u32 },
    /// The way to the process in front, attached.
    Line { front: u32 },
    /// That was all: serve.
    Serve,
    /// From the new program: it accepts.
    Ready,
    /// From the new program: why it does not.
    Failed(String),
    /// The old one accepts no more, and the names by which others know a gateway are the new one's.
    Yours,
    /// From the new program, later: end your sessions as this signal says, and let them take this long.
    End { signal: i32, drain: Duration },
    /// From the new program, later: files of logs were moved away.
    Reopen,
    /// From the new program, later, to one that has said that it knows this word: the way for its connections,
    /// attached, written in this format. It has host keys with these fingerprints. `onward`: it takes those too whose
    /// logins go on elsewhere.
    Moves { format: u32, host_keys: Vec<String>, onward: bool },
    /// From the old program, last: a session at a terminal that is recorded, and has moved. Its process is
    /// attached (a pidfd).
    Session(Login),
}

impl Word {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Word::Begin { generations, given } => {
                out.push(1);
                out.extend(generations.to_be_bytes());
                out.push(u8::from(*given));
            }
            Word::Listener(Endpoint { address, rdomain }) => {
                out.push(2);
                put_address(&mut out, address);
                put(&mut out, rdomain.as_deref().unwrap_or_default().as_bytes());
            }
            Word::Standings(all) => {
                out.push(3);
                put_standings(&mut out, all);
            }
            Word::Former { pid } => {
                out.push(4);
                out.extend(pid.to_be_bytes());
            }
            Word::Line { front } => {
                out.push(5);
                out.extend(front.to_be_bytes());
            }
            Word::Serve => out.push(6),
            Word::Ready => out.push(7),
            Word::Failed(why) => {
                out.push(8);
                let short: String =
                    why.chars().take(UPGRADE_FAULT_BYTES_MAX as usize / 4).collect();
                put(&mut out, short.as_bytes());
            }
            Word::Yours => out.push(9),
            Word::End { signal, drain } => {
                out.push(10);
                out.extend(signal.to_be_bytes());
                let drain = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
                out.extend(drain.to_be_bytes());
            }
            Word::Reopen => out.push(11),
            Word::Moves { format, host_keys, onward } => {
                out.push(12);
                out.extend(format.to_be_bytes());
                out.push(u8::from(*onward));
                out.extend((host_keys.len() as u32).to_be_bytes());
                host_keys.iter().for_each(|key| put(&mut out, key.as_bytes()));
            }
            Word::Session(Login { pid, line, user, uid, peer, host }) => {
                out.push(13);
                out.extend(pid.to_be_bytes());
                out.extend(uid.to_be_bytes());
                put(&mut out, line.as_bytes());
                put(&mut out, user.as_bytes());
                put_address(
                    &mut out,
                    &SocketAddr::new(peer.unwrap_or(NOBODY), u16::from(peer.is_some())),
                );
                put(&mut out, host.as_deref().unwrap_or_default().as_bytes());
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Word, Malformed> {
        let mut r = Reader::new(bytes);
        let word = match r.byte()? {
            1 => Word::Begin {
                generations: r.uint64()?,
                given: match r.byte()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed::Range),
                },
            },
            2 => {
                let address: SocketAddr = address(&mut r)?;
                let rdomain = r.utf8(DEVICE_NAME_BYTES_MAX)?;
                let rdomain = Some(rdomain.to_owned()).filter(|name| !name.is_empty());
                Word::Listener(Endpoint { address, rdomain })
            }
            3 => Word::Standings(standings(&mut r)?),
            4 => Word::Former { pid: r.uint32()? },
            5 => Word::Line { front: r.uint32()? },
            6 => Word::Serve,
            7 => Word::Ready,
            8 => Word::Failed(r.utf8(UPGRADE_FAULT_BYTES_MAX)?.to_owned()),
            9 => Word::Yours,
            10 => Word::End {
                signal: r.uint32()?.cast_signed(),
                drain: Duration::from_millis(r.uint64()?),
            },
            11 => Word::Reopen,
            12 => Word::Moves {
                format: r.uint32()?,
                onward: flag(&mut r)?,
                host_keys: {
                    let count = r.uint32()?;
                    let key = |_| Ok(r.utf8(UPGRADE_FAULT_BYTES_MAX)?.to_owned());
                    (0..count).map(key).collect::<Result<_, Malformed>>()?
                },
            },
            13 => {
                let (pid, uid) = (r.uint32()?, r.uint32()?);
                let line = r.utf8(TERMINAL_BYTES_MAX)?.to_owned();
                let user = r.utf8(UPGRADE_FAULT_BYTES_MAX)?.to_owned();
                let from: SocketAddr = address(&mut r)?;
                let peer = Some(from.ip()).filter(|_| from.port() != 0);
                let host = Some(r.utf8(UPGRADE_FAULT_BYTES_MAX)?).filter(|host| !host.is_empty());
                let host = host.map(Into::into);
                Word::Session(Login { pid, line, user, uid, peer, host })
            }
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(word)
    }
}

/// Whoever a session is of that nobody can vouch for.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;
    use crate::gateway::startups::REASONS;

    #[test]
    fn words_are_read_whole_or_not_at_all() {
        let address = "[::1]:22".parse().expect("an address");
        let source = "192.0.2.1".parse().expect("an address");
        let until = Instant::from_nanos(7);
        let words = [
            Word::Begin { generations: 3, given: true },
            Word::Listener(Endpoint { address, rdomain: Some("vrf-blue".to_owned()) }),
            Word::Listener(Endpoint { address, rdomain: None }),
            Word::Standings(vec![Standing { source, until, active: true, why: REASONS[1] }]),
            Word::Former { pid: 7 },
            Word::Line { front: 8 },
            Word::Serve,
            Word::Ready,
            Word::Failed("config:3: no".to_owned()),
            Word::Yours,
            Word::End { signal: 15, drain: Duration::from_millis(1500) },
            Word::Reopen,
            Word::Moves {
                format: 3,
                host_keys: vec!["SHA256:x".to_owned(), "y".to_owned()],
                onward: true,
            },
            Word::Session(Login {
                pid: 9,
                line: "pts/3".to_owned(),
                user: "ann".to_owned(),
                uid: 1000,
                peer: Some(source),
                host: Some("gate.example.org".into()),
            }),
            Word::Session(Login {
                pid: 9,
                line: "pts/3".to_owned(),
                user: "ann".to_owned(),
                uid: 1000,
                peer: None,
                host: None,
            }),
        ];
        for word in words {
            let mut bytes = word.encode();
            assert_eq!(Word::decode(&bytes), Ok(word));
            for cut in 0..bytes.len() {
                assert!(Word::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            bytes.push(0);
            assert!(Word::decode(&bytes).is_err(), "with more");
        }
        assert!(Word::decode(&[14]).is_err());
        let long = Word::Failed("ü".repeat(UPGRADE_FAULT_BYTES_MAX as usize)).encode();
        assert!(matches!(Word::decode(&long), Ok(Word::Failed(_))), "cut, not torn");
    }
}
