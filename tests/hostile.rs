//! Hostile clients against the real binary. Named by the cases of our list of attacks; each ends
//! with a gateway that has let go of everything and still serves.

#[path = "hostile/channels.rs"]
mod channels;
#[path = "hostile/defects.rs"]
mod defects;
#[path = "hostile/forwarding.rs"]
mod forwarding;
#[path = "hostile/hostkeys.rs"]
mod hostkeys;
#[path = "hostile/keyexchange.rs"]
mod keyexchange;
#[path = "hostile/load.rs"]
mod load;
#[path = "hostile/login.rs"]
mod login;
#[path = "support/peer.rs"]
mod peer;
#[path = "hostile/sftp.rs"]
mod sftp;
#[path = "hostile/signatures.rs"]
mod signatures;
mod support;
#[path = "hostile/variants.rs"]
mod variants;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use peer::{Farewell, Manner, PATIENCE, PLAIN, Peer, Watch, encode};
use support::Gateway;
use tidegate::crypto::{CipherKind, MacKind};
use tidegate::wire::request::RequestBody;
use tidegate::wire::transport::{Disconnect, KexInit, NewKeys, ServiceRequest};
use tidegate::wire::{Message, NameList, number};

const IDENT: &[u8] = b"SSH-2.0-Hostile_1\r\n";
const INVALID: &[u8] = b"Invalid SSH identification string.\r\n";

const PROTOCOL_ERROR: u32 = 2;
const KEY_EXCHANGE_FAILED: u32 = 3;
const MAC_ERROR: u32 = 5;

/// What a server said on a connection where keys were never in use.
struct Said {
    port: u16,
    bytes: Vec<u8>,
}

/// Writes `bytes` and reads to the end, which the server makes unless we do.
fn say(gateway: &Gateway, bytes: &[u8], hang_up: bool) -> Said {
    let mut stream = gateway.connect().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let port = stream.local_addr().expect("an address").port();
    let _ = stream.write_all(bytes);
    if hang_up {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "left open: {heard:?}\n{}", gateway.log());
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    Said { port, bytes: heard }
}

impl Said {
    /// The payloads behind the identification, as far as they are in clear.
    fn packets(&self) -> Vec<Vec<u8>> {
        let start = self.bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut rest = &self.bytes[start..];
        let mut found = Vec::new();
        while let Some(head) = rest.first_chunk::<5>() {
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if length > 35_000 || rest.len() < 4 + length || length < 2 + usize::from(head[4]) {
                break;
            }
            found.push(rest[5..4 + length - usize::from(head[4])].to_vec());
            rest = &rest[4 + length..];
        }
        found
    }

    fn farewell(&self) -> Farewell {
        let packets = self.packets();
        let Some(Ok(last)) = packets.last().map(|payload| Disconnect::parse(payload)) else {
            return Farewell::Closed;
        };
        Farewell::Said(last.reason, String::from_utf8_lossy(last.description).into_owned())
    }

    fn assert_dropped(&self, reason: u32, what: &str) {
        let end = self.farewell();
        assert!(matches!(end, Farewell::Said(said, _) if said == reason), "{what}: {end:?}");
    }
}

/// A packet of the time before there are keys.
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (5 + payload.len() + 4) % 8) % 8;
    framed((1 + payload.len() + padding) as u32, padding as u8, payload, padding)
}

fn framed(length: u32, padding: u8, payload: &[u8], room: usize) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[padding], payload, &vec![0; room]].concat()
}

fn kexinit(kex: &str, cipher: &str, follows: bool) -> Vec<u8> {
    let list = |names: &'static str| NameList::new(names.as_bytes()).expect("names");
    let cipher = NameList::new(cipher.as_bytes()).expect("names");
    encode(&KexInit {
        cookie: [7; 16],
        kex: NameList::new(kex.as_bytes()).expect("names"),
        host_key: list("ssh-ed25519"),
        cipher_to_server: cipher,
        cipher_to_client: cipher,
        mac_to_server: list("hmac-sha2-256"),
        mac_to_client: list("hmac-sha2-256"),
        compression_to_server: list("none"),
        compression_to_client: list("none"),
        language_to_server: NameList::EMPTY,
        language_to_client: NameList::EMPTY,
        first_kex_packet_follows: follows,
    })
}

fn good_kexinit() -> Vec<u8> {
    kexinit("curve25519-sha256", "aes256-gcm@openssh.com", false)
}

/// X25519's base point: a public value like any other.
fn half() -> Vec<u8> {
    let mut payload = vec![number::KEX_ECDH_INIT, 0, 0, 0, 32, 9];
    payload.resize(37, 0);
    payload
}

fn after_ident(parts: &[&[u8]]) -> Vec<u8> {
    [&[IDENT], parts].concat().concat()
}

#[test]
fn cases_1_to_6_identifications() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let long = |len: usize| [b"SSH-2.0-".to_vec(), vec![b'x'; len]].concat();
    let rows: [(&str, Vec<u8>); 9] = [
        ("1: an old protocol", b"SSH-1.5-x\r\n".to_vec()),
        ("2: a web browser", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("2: TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("3: 300 bytes", [long(300), b"\r\n".to_vec()].concat()),
        ("3: 64 KiB", long(64 << 10)),
        ("4: NUL", b"SSH-2.0-a\0b\r\n".to_vec()),
        ("4: ESC", b"SSH-2.0-a\x1b[2Jb\r\n".to_vec()),
        ("4: CR inside", b"SSH-2.0-a\rb\r\n".to_vec()),
        ("no software", b"SSH-2.0-\r\n".to_vec()),
    ];
    for (what, bytes) in rows {
        let said = say(&gateway, &bytes, false);
        assert!(said.bytes.starts_with(b"SSH-2.0-Tidegate_"), "{what}: {:?}", said.bytes);
        assert!(said.bytes.ends_with(INVALID), "{what}: {:?}", said.bytes);
        watch.last_line(said.port);
    }
    let mut peer = Peer::connect_as(&gateway, Manner { line_feed_only: true, ..PLAIN });
    peer.log_in(&gateway);
    peer.assert_well();
    drop(peer);
    watch.end();
}

#[test]
fn cases_7_8_lengths_and_padding_in_clear() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let lengths = [0, 1, 4, 5, 13, 27, 29, 35_001, 262_148, (1 << 31) - 1, u32::MAX - 15, u32::MAX];
    for length in lengths {
        let bytes = after_ident(&[&framed(length, 4, &[number::IGNORE], 27)]);
        let said = say(&gateway, &bytes, false);
        said.assert_dropped(PROTOCOL_ERROR, &format!("7: length {length}"));
        assert!(watch.last_line(said.port).contains("bad packet length"), "{length}");
    }
    let good = [number::IGNORE, 0, 0, 0, 0];
    let rows = [
        ("8: no padding", framed(12, 0, &good, 6)),
        ("8: three bytes of padding", framed(12, 3, &good, 6)),
        ("8: padding as long as the packet", framed(12, 12, &good, 6)),
        ("8: more padding than packet", framed(12, 255, &good, 6)),
        ("8: no payload", framed(12, 11, &[], 11)),
    ];
    for (what, bytes) in rows {
        let said = say(&gateway, &after_ident(&[&bytes]), false);
        said.assert_dropped(PROTOCOL_ERROR, what);
        assert!(watch.last_line(said.port).contains("bad padding"), "{what}");
    }
    assert!(watch.growth() < 8 << 20, "grew by {}", watch.growth());
    watch.end();
}

const SUITES: [(CipherKind, MacKind); 5] = [
    (CipherKind::Aes256Gcm, MacKind::HmacSha256),
    (CipherKind::Chacha20Poly1305, MacKind::HmacSha256),
    (CipherKind::Aes128Ctr, MacKind::HmacSha256Etm),
    (CipherKind::Aes256Ctr, MacKind::HmacSha512Etm),
    (CipherKind::Aes128Ctr, MacKind::HmacSha512),
];

/// Every way we protect a length is an exclusive or, so any other can be put in its place.
#[test]
fn case_9_lengths_under_keys() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    for (cipher, mac) in SUITES {
        for wanted in [0, 1, 4, 35_008, (1 << 31) - 8, u32::MAX - 15, u32::MAX] {
            let mut peer = Peer::connect_as(&gateway, Manner { cipher, mac, ..PLAIN });
            let tag = usize::from(peer.transport.geometry().tag);
            let mut bytes = peer.sealed(&encode(&ServiceRequest { name: b"ssh-userauth" }));
            let length = (bytes.len() - 4 - tag) as u32;
            for (byte, flip) in bytes.iter_mut().zip((length ^ wanted).to_be_bytes()) {
                *byte ^= flip;
            }
            peer.write(&bytes);
            peer.assert_dropped(PROTOCOL_ERROR, &format!("{cipher:?} {mac:?} {wanted}"));
            assert!(watch.last_line(peer.port()).contains("bad packet length"));
        }
    }
    assert!(watch.growth() < 8 << 20, "grew by {}", watch.growth());
    watch.end();
}

#[test]
fn case_39_flipped_bytes() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    for (cipher, mac) in SUITES {
        let mut at = 0;
        loop {
            let mut peer = Peer::connect_as(&gateway, Manner { cipher, mac, ..PLAIN });
            let mut bytes = peer.sealed(&encode(&ServiceRequest { name: b"ssh-userauth" }));
            if at >= bytes.len() {
                break;
            }
            bytes[at] ^= 1 << (at % 8);
            peer.write(&bytes);
            peer.half_close();
            match peer.hear() {
                Err(Farewell::Said(MAC_ERROR, _)) => {}
                // A length that became too long to be one, or longer than what came.
                Err(Farewell::Said(PROTOCOL_ERROR, _) | Farewell::Closed) if at < 4 => {}
                other => panic!("{cipher:?} {mac:?}, byte {at}: {other:?}"),
            }
            watch.last_line(peer.port());
            at += if at < 6 { 1 } else { 7 };
        }
    }
    watch.end();
}

#[test]
fn case_10_ends_at_every_place_and_single_bytes() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let newkeys = packet(&encode(&NewKeys));
    let whole = after_ident(&[&packet(&good_kexinit()), &packet(&half()), &newkeys, &[0x55; 40]]);
    for end in (0..whole.len()).step_by(5) {
        let said = say(&gateway, &whole[..end], true);
        watch.last_line(said.port);
    }
    // Behind the login too, in a channel's opening, its command and its input.
    let mut end = 0;
    loop {
        let mut peer = Peer::login(&gateway);
        let recipient = tidegate::wire::channel::ChannelNumber(0);
        let messages = [
            encode(&peer::open(0, 1 << 20, 1 << 15)),
            peer::channel_request(0, RequestBody::Exec { command: b"cat > /dev/null" }),
            encode(&tidegate::wire::channel::ChannelData { recipient, data: b"input" }),
            encode(&tidegate::wire::channel::ChannelEof { recipient }),
        ];
        let bytes: Vec<u8> = messages.iter().flat_map(|message| peer.sealed(message)).collect();
        if end > bytes.len() {
            break;
        }
        peer.write(&bytes[..end]);
        peer.half_close();
        while peer.hear().is_ok() {}
        watch.last_line(peer.port());
        end += 13;
    }
    let mut peer = Peer::connect_as(&gateway, Manner { dribbles: true, ..PLAIN });
    peer.log_in(&gateway);
    let channel = peer.open_session(0);
    peer.say(&tidegate::wire::channel::ChannelEof {
        recipient: tidegate::wire::channel::ChannelNumber(channel),
    });
    peer.assert_well();
    drop(peer);
    watch.end();
}

#[test]
fn cases_11_18_20_key_exchanges() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let init = good_kexinit();
    let newkeys = packet(&encode(&NewKeys));
    let trailing = [&init[..], &[0]].concat();
    let none = kexinit("diffie-hellman-group1-sha1", "aes256-ctr", false);
    let rows: [(&str, Vec<u8>, u32); 7] = [
        ("11: trailing byte", packet(&trailing), PROTOCOL_ERROR),
        ("18: KEXINIT twice", [packet(&init), packet(&init)].concat(), PROTOCOL_ERROR),
        ("18: early NEWKEYS", [packet(&init), newkeys.clone()].concat(), PROTOCOL_ERROR),
        ("18: NEWKEYS first", newkeys.clone(), PROTOCOL_ERROR),
        ("20: cut short", packet(&init[..init.len() - 1]), PROTOCOL_ERROR),
        ("20: cut to its cookie", packet(&init[..17]), PROTOCOL_ERROR),
        ("20: nothing in common", packet(&none), KEY_EXCHANGE_FAILED),
    ];
    for (what, bytes, reason) in rows {
        let said = say(&gateway, &after_ident(&[&bytes]), false);
        said.assert_dropped(reason, what);
        let line = watch.last_line(said.port);
        if reason == KEY_EXCHANGE_FAILED {
            let Farewell::Said(_, text) = said.farewell() else { unreachable!() };
            assert!(text.contains("curve25519-sha256"), "{text}");
            for shown in [&text, &line] {
                assert!(shown.contains("the peer offers diffie-hellman-group1-sha1"), "{shown}");
            }
        }
    }
    // Behind the server's NEWKEYS its last words are sealed: the log has them.
    let twice = after_ident(&[&packet(&init), &packet(&half()), &packet(&half())]);
    let said = say(&gateway, &twice, false);
    assert_eq!(said.packets().iter().filter(|payload| payload[0] == 31).count(), 1);
    assert!(watch.last_line(said.port).contains("out of turn"));
    let mut peer = Peer::connect(&gateway);
    peer.say(&NewKeys);
    peer.assert_dropped(PROTOCOL_ERROR, "18: NEWKEYS again");
    // A wrong guess: one packet is skipped, and no more.
    let guess = kexinit("curve25519-sha256", "aes256-gcm@openssh.com", true);
    let skipped = packet(&[number::KEX_ECDH_INIT, 1, 2, 3]);
    let said = say(&gateway, &after_ident(&[&packet(&guess), &skipped, &packet(&half())]), true);
    assert!(said.packets().iter().any(|payload| payload[0] == 31), "{:?}", said.farewell());
    let said = say(&gateway, &after_ident(&[&packet(&guess), &skipped, &skipped]), false);
    assert!(matches!(said.farewell(), Farewell::Said(..)));
    watch.end();
}

#[test]
fn case_12_every_message_in_clear() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    for number in 0..=255 {
        for first in [&[][..], &packet(&good_kexinit())] {
            let bytes = after_ident(&[first, &packet(&[number, 0, 0, 0, 0])]);
            let said = say(&gateway, &bytes, true);
            let heard: Vec<u8> = said.packets().iter().map(|payload| payload[0]).collect();
            let known = [number::KEXINIT, number::DISCONNECT];
            assert!(heard.iter().all(|heard| known.contains(heard)), "{number}: {heard:?}");
            let harmless = matches!(number, number::DISCONNECT..=number::DEBUG);
            let dropped = heard.last() == Some(&number::DISCONNECT);
            assert!(dropped || harmless, "{number} passed: {heard:?}");
        }
    }
    watch.end();
}
