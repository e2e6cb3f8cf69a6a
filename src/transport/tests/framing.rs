//! SECURITY cases on identification, framing and integrity.

use super::harness::*;
use crate::crypto::{CipherKind, KexKind, Provider, Suite};
use crate::limits::{PACKET_LENGTH_PREAUTH_MAX, PREAUTH_BYTES_MAX};
use crate::transport::{Client, Error, Server};

fn server() -> End<Server> {
    let mut server = End::new(server_config(), 9);
    server.outbox.clear();
    server
}

#[test]
fn case_1_to_4_bad_identifications_are_answered_in_words() {
    let long = [b"SSH-2.0-", &[b'x'; 300][..], b"\r\n"].concat();
    let endless = [b"SSH-2.0-", &[b'x'; 64 * 1024][..]].concat();
    for bad in [
        &b"SSH-1.5-x\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &long,
        &endless,
        b"SSH-2.0-a\0b\r\n",
        b"SSH-2.0-\x1b]0;x\r\n",
        b"\r\nSSH-2.0-x\r\n",
    ] {
        let mut server = server();
        server.feed(bad);
        assert_eq!(server.outbox, b"Invalid SSH identification string.\r\n");
        let error = server.fails_with(8);
        assert!(matches!(error, Error::Identification(_)));
    }
}

#[test]
fn case_5_a_client_reads_so_many_lines_and_no_more() {
    let mut client = greeted_by(b"Welcome\r\nto a gateway\nSSH-2.0-x\r\n");
    assert_eq!((client.error.clone(), client.transport.peer_ident()), (None, &b"SSH-2.0-x"[..]));
    assert!(greeted_by(&b"x\n".repeat(1025)).error.is_some());
    client = greeted_by(&[b'y'; 8 * 1024]);
    client.fails_with(8);
    assert!(client.outbox.is_empty(), "a client leaves without a word");

    // A half line that trickles in is ended by the clock.
    let mut client = greeted_by(b"SSH-2.0-slo");
    client.now = client.transport.poll_timeout().expect("a deadline");
    let ended = client.call(|transport, env| transport.handle_timeout(env));
    assert!(matches!(ended, Err(Error::Deadline(_))));
}

fn greeted_by(text: &[u8]) -> End<Client> {
    let mut client = End::<Client>::new(client_config(), 10);
    client.outbox.clear();
    client.feed(text);
    client
}

#[test]
fn case_6_a_bare_line_feed_ends_an_identification() {
    let mut server = server();
    server.feed(b"SSH-2.0-x\n");
    assert_eq!((server.error.clone(), server.transport.peer_ident()), (None, &b"SSH-2.0-x"[..]));
}

#[test]
fn case_7_lengths_are_bounded_before_they_are_believed() {
    for length in [0, 1, 4, 5, 13, 35_004, 256 * 1024 + 4, 1 << 31, (1 << 31) - 1, u32::MAX] {
        let mut server = greeted_server();
        server.feed(&u32::to_be_bytes(length));
        assert_eq!(server.fails_with(2), Error::PeerMisbehaved("bad packet length"), "{length}");
        let mut client = greeted_client();
        client.feed(&u32::to_be_bytes(length));
        client.fails_with(2);
    }
    let mut server = greeted_server();
    let largest = PACKET_LENGTH_PREAUTH_MAX / 8 * 8 - 4;
    server.feed(&largest.to_be_bytes());
    assert_eq!(server.error, None);
}

#[test]
fn case_7_larger_packets_are_for_the_authenticated() {
    let payload = vec![94; 200_000];
    let mut pair = Pair::established();
    pair.client.seal(&payload);
    pair.deliver_to_server(usize::MAX);
    assert_eq!(pair.server.fails_with(2), Error::PeerMisbehaved("bad packet length"));

    let mut pair = Pair::established();
    pair.server.transport.authenticated();
    pair.client.seal(&payload);
    pair.deliver_to_server(usize::MAX);
    assert_eq!(pair.server.delivered, [payload]);
    pair.client.seal(&vec![94; 256 * 1024]);
    pair.deliver_to_server(usize::MAX);
    pair.server.fails_with(2);
}

#[test]
fn case_8_padding_leaves_a_payload_and_is_four_bytes_at_least() {
    for padding in [0, 1, 3, 11, 12, 255] {
        let mut packet = plain(&[2]);
        packet[4] = padding;
        let mut server = greeted_server();
        server.feed(&packet);
        assert_eq!(server.fails_with(2), Error::PeerMisbehaved("bad padding"), "{padding}");
    }
}

/// The length is in clear under GCM, the toy and EtM; under the others a flipped bit changes it.
#[test]
fn case_9_lengths_beside_a_tag_do_not_underflow() {
    for suite in Suite::all() {
        for length in [0u32, 1, 7, 8, 15, 0xffff_fff0, 0xffff_ffff] {
            let mut pair = pair_with(suite);
            let mut bytes = [0x5a; 256];
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            pair.server.feed(&bytes);
            if let Some(error) = &pair.server.error {
                let refused = matches!(error, Error::PeerMisbehaved(_) | Error::BadTag);
                assert!(refused, "{suite:?} {length}: {error}");
            }
            let in_clear = matches!(suite.cipher(), CipherKind::Aes128Gcm | CipherKind::Aes256Gcm)
                || suite.mac().is_etm();
            if in_clear && length != 0x5a5a_5a5a {
                let below = !(16..=PACKET_LENGTH_PREAUTH_MAX).contains(&length);
                assert_eq!(pair.server.error.is_some(), below, "{suite:?} {length}");
            }
        }
    }
}

fn pair_with(suite: Suite) -> Pair {
    let (mut client, mut server) = (client_config(), server_config());
    for preferences in [&mut client.preferences, &mut server.preferences] {
        preferences.kex = vec![KexKind::Toy];
        preferences.ciphers = vec![suite.cipher()];
        preferences.macs = vec![suite.mac()];
        preferences.provider = Provider::AwsLc;
    }
    let mut pair = Pair::new(client, server);
    pair.settle();
    pair.expect_alive();
    pair
}

#[test]
fn case_39_every_flipped_byte_is_noticed_and_nothing_released() {
    for suite in Suite::all() {
        let pair = pair_with(suite);
        let record = pair.client.transport.export().expect("quiet").to_bytes().expect("room");
        let server = pair.server.transport.export().expect("quiet").to_bytes().expect("room");
        let mut sender = End::<Client>::resumed(client_config(), &record);
        for payload in [vec![90; 5], vec![94; 40], vec![95; 100]] {
            assert!(sender.seal(&payload));
        }
        for at in 0..sender.outbox.len() {
            for bit in [0x01, 0x80] {
                let mut receiver = End::<Server>::resumed(server_config(), &server);
                let mut bytes = sender.outbox.clone();
                bytes[at] ^= bit;
                // Enough to complete whatever packet a changed length asks for.
                bytes.resize(bytes.len() + PACKET_LENGTH_PREAUTH_MAX as usize + 64, 0);
                receiver.feed(&bytes);
                let error = receiver.error.clone().expect("noticed");
                assert!(matches!(error.disconnect_code(), Some(2 | 5)), "{suite:?} {at}: {error}");
                for (given, sent) in receiver.delivered.iter().zip([vec![90; 5], vec![94; 40]]) {
                    assert_eq!(*given, sent, "only what came before");
                }
                assert!(receiver.delivered.len() < 3);
            }
        }
    }
}

#[test]
fn case_40_replayed_reordered_and_dropped_packets_are_noticed() {
    for suite in Suite::all() {
        let pair = pair_with(suite);
        let record = pair.client.transport.export().expect("quiet").to_bytes().expect("room");
        let server = pair.server.transport.export().expect("quiet").to_bytes().expect("room");
        let mut sender = End::<Client>::resumed(client_config(), &record);
        let mut packets = Vec::new();
        for n in 0..3 {
            assert!(sender.seal(&[90, n]));
            packets.push(std::mem::take(&mut sender.outbox));
        }
        for order in [&[0, 0][..], &[1], &[1, 0], &[0, 2], &[0, 1, 1], &[2, 1, 0]] {
            let mut receiver = End::<Server>::resumed(server_config(), &server);
            for packet in order {
                receiver.feed(&packets[*packet]);
            }
            receiver.feed(&[0; PACKET_LENGTH_PREAUTH_MAX as usize + 64]);
            let code = receiver.error.as_ref().and_then(Error::disconnect_code);
            assert!(matches!(code, Some(2 | 5)), "{suite:?} {order:?}: {:?}", receiver.error);
        }
    }
}

#[test]
fn floods_before_authentication_end() {
    let mut pair = Pair::established();
    let mut ignore = vec![2; 30_000];
    ignore[1..5].copy_from_slice(&(30_000u32 - 5).to_be_bytes());
    let mut sent = 0;
    while pair.server.error.is_none() {
        assert!(pair.client.seal(&ignore));
        pair.deliver_to_server(usize::MAX);
        sent += ignore.len() as u64;
        assert!(sent < PREAUTH_BYTES_MAX + 100_000);
    }
    assert!(sent >= PREAUTH_BYTES_MAX - 100_000);
    pair.server.fails_with(2);
}
