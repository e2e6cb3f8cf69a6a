//! `zlib@openssh.com`: when it begins, when it begins again, and what a hostile peer makes of it.

use super::harness::*;
use crate::limits::PACKET_LENGTH_MAX;
use crate::transport::{CompressionKind, Preferences};

/// What a server says when a user is in (RFC 4252 §5.1).
const SUCCESS: &[u8] = &[52];

fn pair_of(client: &[CompressionKind], server: &[CompressionKind]) -> Pair {
    let (mut ours, mut theirs) = (client_config(), server_config());
    ours.preferences.compression = client.to_vec();
    theirs.preferences.compression = server.to_vec();
    let mut pair = Pair::new(ours, theirs);
    pair.settle();
    pair.expect_alive();
    pair
}

/// Both sides past authentication, compressing.
fn compressed() -> Pair {
    let mut pair = pair_of(&[CompressionKind::Delayed], &CompressionKind::ALL);
    assert!(!pair.server.transport.packs() && !pair.client.transport.packs(), "too early");
    pair.server.send(SUCCESS).expect("sent");
    pair.server.transport.authenticated();
    pair.settle();
    assert_eq!(pair.client.delivered, [SUCCESS]);
    pair.client.delivered.clear();
    pair.client.transport.authenticated();
    assert!(pair.server.transport.packs() && pair.client.transport.packs());
    pair
}

/// Sends both ways, by both roads; answers the bytes that this took on the wire.
fn traffic(pair: &mut Pair) -> u64 {
    let before = pair.server.transport.stats();
    let payloads: Vec<Vec<u8>> =
        (1..20usize).map(|i| [vec![94], vec![i as u8; i * i * 20]].concat()).collect();
    for payload in &payloads {
        assert!(pair.client.seal(payload));
        pair.client.send(payload).expect("sent");
        pair.server.send(payload).expect("sent");
        assert!(pair.server.seal(payload));
        pair.settle();
    }
    pair.expect_alive();
    let twice: Vec<Vec<u8>> = payloads.iter().flat_map(|one| [one.clone(), one.clone()]).collect();
    assert_eq!(pair.server.delivered, twice);
    assert_eq!(pair.client.delivered, twice);
    pair.server.delivered.clear();
    pair.client.delivered.clear();
    let after = pair.server.transport.stats();
    after.bytes_in - before.bytes_in + after.bytes_out - before.bytes_out
}

#[test]
fn begins_behind_the_login_and_again_with_new_keys() {
    let mut pair = compressed();
    let plain = traffic(&mut Pair::established());
    assert!(traffic(&mut pair) * 10 < plain);
    for _ in 0..3 {
        pair.client.rekey();
        pair.settle();
        assert!(traffic(&mut pair) * 10 < plain);
        pair.server.rekey();
        pair.settle();
        assert!(traffic(&mut pair) * 10 < plain);
    }
}

#[test]
fn is_off_unless_both_sides_say_so() {
    assert_eq!(Preferences::default().compression, [CompressionKind::None]);
    let (none, delayed) = (CompressionKind::None, CompressionKind::Delayed);
    for (client, server, agreed) in [
        (&[none][..], &[none, delayed][..], none),
        (&[delayed, none], &[none], none),
        (&[none, delayed], &[delayed, none], none),
        (&[delayed, none], &[none, delayed], delayed),
    ] {
        let pair = pair_of(client, server);
        let negotiated = pair.server.transport.negotiated().expect("established");
        assert_eq!(negotiated.compression_to_client, agreed);
        assert_eq!(negotiated.compression_to_server, agreed);
        assert_eq!(negotiated.to_string().contains("compressed"), agreed == delayed);
    }
    // RFC 4253's own zlib would take bytes from strangers.
    assert_eq!(CompressionKind::from_name("zlib"), None);
}

/// A success that had to wait for a key exchange leaves uncompressed, and what waits behind it not.
#[test]
fn a_success_that_waited_is_still_the_last_plain_packet() {
    let mut pair = pair_of(&[CompressionKind::Delayed], &[CompressionKind::Delayed]);
    pair.client.rekey();
    pair.server.rekey();
    pair.server.send(SUCCESS).expect("kept");
    pair.server.transport.authenticated();
    pair.server.send(&[80, 1, 2, 3]).expect("kept");
    assert!(!pair.server.transport.packs());
    while pair.client.delivered.is_empty() {
        assert!(!(pair.client.outbox.is_empty() && pair.server.outbox.is_empty()), "stuck");
        pair.deliver_to_server(usize::MAX);
        // A byte at a time, to act upon the success before the next packet is opened.
        while !pair.server.outbox.is_empty() && pair.client.delivered.is_empty() {
            pair.deliver_to_client(1);
        }
    }
    pair.client.transport.authenticated();
    pair.settle();
    assert_eq!(pair.client.error, None);
    assert_eq!(pair.client.delivered, [SUCCESS, &[80, 1, 2, 3]]);
    pair.client.delivered.clear();
    traffic(&mut pair);
}

#[test]
fn case_49_a_bomb_ends_its_connection() {
    for len in [PACKET_LENGTH_MAX as usize + 1, 4 << 20] {
        let mut pair = compressed();
        let bomb = pair.client.transport.pack(&vec![0; len]).expect("packed");
        assert!(bomb.len() < 20_000, "{}", bomb.len());
        inject_raw(&mut pair, &bomb);
        let error = pair.server.fails_with(2).to_string();
        assert!(error.contains("too large"), "{error}");
    }
}

#[test]
fn case_50_packets_of_nothing_and_of_nonsense_end_it() {
    for payload in [&[0u8, 0, 0, 0xff, 0xff][..], &[0x78, 0x9c], &[94, 0, 0, 0, 0], &[0xff; 30]] {
        let mut pair = compressed();
        inject_raw(&mut pair, payload);
        let error = pair.server.fails_with(2).to_string();
        assert!(error.contains("damaged"), "{payload:02x?}: {error}");
    }
}

/// Sends a payload as it is, where the server expects a compressed one.
fn inject_raw(pair: &mut Pair, payload: &[u8]) {
    let packer = pair.client.transport.wires.outbound.packer.take();
    assert!(packer.is_some());
    pair.client.inject(payload);
    pair.deliver_to_server(usize::MAX);
}
