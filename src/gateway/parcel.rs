//! Messages between the process that accepts connections as root and the process that acts for one
//! account. One message a datagram of a socket pair; a connection's socket travels beside it.

use std::net::{IpAddr, SocketAddr};

use super::audit::Entry;
use super::moving::{MESSAGE, Moving, PIECE};
use super::signer::words::Order;
use super::terms::Terms;
use crate::limits::{HOST_KEY_BYTES_MAX, SIGNATURE_BYTES_MAX, TERMINAL_BYTES_MAX};
use crate::wire::{Malformed, Reader};

/// What travels.
#[derive(Debug, PartialEq, Eq)]
pub enum Parcel {
    /// First message to a new process.
    Setup(Terms),
    /// The second: where its first shard hears of connections, attached.
    Mailbox,
    /// Third: memory for what is counted; attached.
    Figures,
    /// The way to the recorder of the connection that follows, attached.
    Recorder { serial: u64 },
    /// A descriptor of the connection that follows, attached; they are counted from 0.
    Piece { serial: u64, number: u32 },
    /// An authenticated connection, its socket attached. From the account's process: it is to go on in the
    /// program that has this one's place.
    Connection(Box<Moving>),
    /// Connections are to go on in the program that has this one's place.
    MoveOn,
    /// From the account's process: a rekey needs the host key, or a client wants to see that we hold one.
    Sign { ticket: u64, order: Order },
    /// The answer; empty when it could not be signed.
    Signature { ticket: u64, signature: Vec<u8> },
    /// From the account's process: nothing is open, and this many connections were received.
    Idle { received: u64 },
    /// From the account's process: a session at this terminal has begun, of this connection.
    Login { pid: u32, terminal: String, peer: SocketAddr },
    /// From the account's process: something for the audit.
    Audit(Box<Entry>),
    /// End all connections.
    Stop,
    /// No connection comes any more: end with the last.
    Retire,
}

impl Parcel {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Parcel::Setup(terms) => {
                out.push(1);
                terms.encode(&mut out);
            }
            Parcel::Connection(moving) => return moving.message(false),
            Parcel::Piece { serial, number } => {
                out.push(PIECE);
                out.extend(serial.to_be_bytes());
                out.extend(number.to_be_bytes());
            }
            Parcel::MoveOn => out.push(14),
            Parcel::Sign { ticket, order } => {
                out.reserve(order.bytes_max());
                out.push(3);
                out.extend(ticket.to_be_bytes());
                order.encode(&mut out);
            }
            Parcel::Signature { ticket, signature } => {
                out.push(4);
                out.extend(ticket.to_be_bytes());
                put(&mut out, signature);
            }
            Parcel::Idle { received } => {
                out.push(5);
                out.extend(received.to_be_bytes());
            }
            Parcel::Mailbox => out.push(11),
            Parcel::Figures => out.push(12),
            Parcel::Stop => out.push(6),
            Parcel::Retire => out.push(7),
            Parcel::Login { pid, terminal, peer } => {
                out.push(8);
                out.extend(pid.to_be_bytes());
                put(&mut out, terminal.as_bytes());
                put_address(&mut out, peer);
            }
            Parcel::Recorder { serial } => {
                out.push(10);
                out.extend(serial.to_be_bytes());
            }
            Parcel::Audit(entry) => {
                out.push(9);
                entry.encode(&mut out);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Parcel, Malformed> {
        let mut r = Reader::new(bytes);
        let parcel = match r.byte()? {
            1 => Parcel::Setup(Terms::decode(&mut r)?),
            MESSAGE => Parcel::Connection(Box::new(Moving::decode(&mut r)?)),
            PIECE => Parcel::Piece { serial: r.uint64()?, number: r.uint32()? },
            14 => Parcel::MoveOn,
            3 => Parcel::Sign { ticket: r.uint64()?, order: Order::decode(&mut r)? },
            4 => Parcel::Signature {
                ticket: r.uint64()?,
                signature: r.string(SIGNATURE_BYTES_MAX)?.to_vec(),
            },
            5 => Parcel::Idle { received: r.uint64()? },
            11 => Parcel::Mailbox,
            12 => Parcel::Figures,
            6 => Parcel::Stop,
            7 => Parcel::Retire,
            8 => Parcel::Login {
                pid: r.uint32()?,
                terminal: r.utf8(TERMINAL_BYTES_MAX)?.to_owned(),
                peer: address(&mut r)?,
            },
            10 => Parcel::Recorder { serial: r.uint64()? },
            9 => Parcel::Audit(Box::new(Entry::decode(&mut r)?)),
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(parcel)
    }
}

/// Keys or certificates.
pub(super) fn put_blobs(out: &mut Vec<u8>, blobs: &[Vec<u8>]) {
    out.extend((blobs.len() as u32).to_be_bytes());
    blobs.iter().for_each(|blob| put(out, blob));
}

pub(super) fn blobs(r: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    let count = r.uint32()?;
    let mut blobs = Vec::new();
    for _ in 0..count {
        blobs.push(r.string(HOST_KEY_BYTES_MAX)?.to_vec());
    }
    Ok(blobs)
}

/// One of two bytes, so that what is read is written the same again.
pub(super) fn flag(r: &mut Reader<'_>) -> Result<bool, Malformed> {
    match r.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Range),
    }
}

pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_address(out: &mut Vec<u8>, address: &SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => put(out, &ip.octets()),
        IpAddr::V6(ip) => put(out, &ip.octets()),
    }
    out.extend(u32::from(address.port()).to_be_bytes());
}

pub(super) fn address(r: &mut Reader<'_>) -> Result<SocketAddr, Malformed> {
    let ip = match r.string(16)? {
        v4 if v4.len() == 4 => IpAddr::from(<[u8; 4]>::try_from(v4).map_err(|_| Malformed::Range)?),
        v6 => IpAddr::from(<[u8; 16]>::try_from(v6).map_err(|_| Malformed::Range)?),
    };
    let port = u16::try_from(r.uint32()?).map_err(|_| Malformed::Range)?;
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::signer::words::Signable;
    use crate::transport::SignableExchange;

    #[test]
    fn parcels_round_trip_and_refuse_trailing_bytes() {
        let parcels = [
            Parcel::Setup(Terms {
                config: b"port 22".to_vec(),
                host_keys: vec![vec![1], vec![]],
                certificates: vec![vec![2]],
            }),
            Parcel::Connection(Box::new(Moving {
                serial: 7,
                peer: "192.0.2.1:5".parse().expect("address"),
                local: "[::1]:22".parse().expect("address"),
                session: vec![8; 32],
                record: vec![1; 900],
                inbound: vec![],
                outbound: vec![3; 60],
                grant: vec![3],
                upstream: Some(vec![6; 40]),
                token: vec![4; 32],
                luggage: None,
                kept: None,
                apart: false,
            })),
            Parcel::Connection(Box::new(Moving {
                serial: 7,
                peer: "192.0.2.1:5".parse().expect("address"),
                local: "[::1]:22".parse().expect("address"),
                session: vec![],
                record: vec![],
                inbound: vec![1; 70],
                outbound: vec![],
                grant: vec![],
                upstream: None,
                token: vec![],
                luggage: Some((vec![5; 99], 3)),
                kept: Some(77),
                apart: false,
            })),
            Parcel::Piece { serial: 7, number: 2 },
            Parcel::MoveOn,
            Parcel::Sign {
                ticket: 1,
                order: Order {
                    key: 2,
                    what: Signable::Exchange(SignableExchange::from_bytes(&[9; 64])),
                },
            },
            Parcel::Signature { ticket: 1, signature: vec![4; 83] },
            Parcel::Idle { received: 3 },
            Parcel::Recorder { serial: 5 },
            Parcel::Stop,
            Parcel::Retire,
            Parcel::Audit(Box::new(Entry::lost(3))),
            Parcel::Login {
                pid: 9,
                terminal: "/dev/pts/3".into(),
                peer: "[::1]:22".parse().expect("address"),
            },
        ];
        for parcel in parcels {
            let mut bytes = parcel.encode();
            assert_eq!(Parcel::decode(&bytes), Ok(parcel));
            for cut in 0..bytes.len() {
                assert!(Parcel::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            bytes.push(0);
            assert_eq!(Parcel::decode(&bytes), Err(Malformed::TrailingData));
        }
    }
}
