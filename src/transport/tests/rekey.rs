//! SECURITY cases on later key exchanges, and what ends a connection while one runs.

use std::sync::Arc;
use std::time::Duration;

use super::harness::*;
use crate::base::Instant;
use crate::crypto::{CipherKind, Counters, KexKind, MacKind};
use crate::limits::{
    DEFERRED_BYTES_MAX, REKEY_BURST, REKEY_BYTES_DEFAULT, REKEY_BYTES_MIN,
    REKEY_CHACHA_BYTES_DEFAULT, REKEY_TIME_MAX,
};
use crate::transport::{Error, HostKey, RekeyLimits, ServerConfig};
use crate::wire::transport::ExtInfo;

fn authenticated() -> Pair {
    let mut pair = Pair::established();
    pair.client.transport.authenticated();
    pair.server.transport.authenticated();
    pair
}

#[test]
fn either_side_or_both_renew_the_keys_with_traffic_in_flight() {
    for (client, server) in [(true, false), (false, true), (true, true)] {
        let mut pair = authenticated();
        let session_id = pair.client.transport.session_id().to_vec();
        let mut sent = Vec::new();
        for round in 0..3u8 {
            let payload = [vec![94, round, 0], vec![7; 500]].concat();
            assert!(pair.client.seal(&payload) && pair.server.seal(&payload));
            sent.push(payload);
            if client {
                pair.client.rekey();
            }
            if server {
                pair.server.rekey();
            }
            assert_eq!(pair.client.transport.is_ready(), !client);
            // Data that was sealed before KEXINIT is still on its way; control messages queue.
            let late = vec![96, round];
            pair.client.send(&late).expect("kept");
            pair.server.send(&late).expect("kept");
            sent.push(late);
            pair.settle();
            pair.expect_alive();
        }
        // A message that queued leaves ahead of data sealed afterwards, behind data sealed before.
        assert_eq!(pair.server.delivered, sent);
        assert_eq!(pair.client.delivered, sent);
        assert_eq!(pair.client.transport.session_id(), session_id);
        assert_eq!(pair.client.transport.exchanges(), 4);
        assert_eq!((pair.client.queries, pair.server.queries), (1, 4));
    }
}

#[test]
fn data_flows_again_from_our_own_newkeys_on() {
    let mut pair = authenticated();
    pair.client.rekey();
    pair.deliver_to_server(usize::MAX);
    pair.deliver_to_client(usize::MAX);
    // The client has sent its public value; the server's reply and NEWKEYS come next.
    assert!(!pair.client.seal(&[94]) && !pair.server.seal(&[94]));
    pair.deliver_to_server(usize::MAX);
    assert!(pair.server.transport.is_ready() && pair.server.transport.is_exchanging());
    assert!(pair.server.seal(&[94, 1]));
    pair.deliver_to_client(usize::MAX);
    assert_eq!(pair.client.delivered, [[94, 1]]);
    pair.settle();
    pair.expect_alive();
}

/// How many key exchanges happen while `packets` of 1,000 bytes go to the server.
fn exchanges_during(limits: RekeyLimits, client_limits: bool, packets: u32) -> u32 {
    let (mut client, mut server) = (client_config(), server_config());
    let preferences = if client_limits { &mut client.preferences } else { &mut server.preferences };
    preferences.rekey = limits;
    let mut pair = Pair::new(client, server);
    pair.settle();
    pair.client.transport.authenticated();
    pair.server.transport.authenticated();
    for _ in 0..packets {
        assert!(pair.client.seal(&[94; 1000]));
        if let Some(at) = pair.client.transport.poll_timeout()
            && at <= pair.client.now
        {
            pair.client.call(|transport, env| transport.handle_timeout(env)).expect("alive");
        }
        pair.settle();
    }
    pair.expect_alive();
    assert_eq!(pair.server.delivered.len(), packets as usize);
    pair.client.transport.exchanges() - 1
}

#[test]
fn keys_are_renewed_by_bytes_and_by_packets_by_whoever_counts() {
    let bytes = RekeyLimits { bytes: Some(10_000), ..RekeyLimits::default() };
    let packets = RekeyLimits { packets: 10, ..RekeyLimits::default() };
    for client in [false, true] {
        // The peer is throttled, so no more than a burst of them.
        assert_eq!(exchanges_during(bytes, client, 50), 5);
        assert_eq!(exchanges_during(packets, client, 50), 5);
        assert_eq!(exchanges_during(RekeyLimits::default(), client, 50), 0);
    }
    assert_eq!(
        RekeyLimits { bytes: Some(1), ..bytes }.bytes_max(suite(CipherKind::Aes128Gcm)),
        REKEY_BYTES_MIN
    );
}

fn suite(cipher: CipherKind) -> crate::crypto::Suite {
    crate::crypto::Suite::new(cipher, MacKind::HmacSha256).expect("a suite")
}

#[test]
fn chacha_wears_out_sooner() {
    let limits = RekeyLimits::default();
    assert_eq!(limits.bytes_max(suite(CipherKind::Chacha20Poly1305)), REKEY_CHACHA_BYTES_DEFAULT);
    assert_eq!(limits.bytes_max(suite(CipherKind::Aes256Gcm)), REKEY_BYTES_DEFAULT);
    let mut client = client_config();
    client.preferences.ciphers = vec![CipherKind::Chacha20Poly1305];
    let mut pair = Pair::new(client, server_config());
    pair.settle();
    let wires = &pair.client.transport.wires;
    assert_eq!(wires.outbound.wear.bytes_max, REKEY_CHACHA_BYTES_DEFAULT);
    assert_eq!(wires.inbound.wear.bytes_max, REKEY_CHACHA_BYTES_DEFAULT);
}

#[test]
fn keys_are_renewed_by_age() {
    let mut server = server_config();
    server.preferences.rekey.time = Some(Duration::from_secs(60));
    let mut pair = Pair::new(client_config(), server);
    pair.settle();
    assert_eq!(pair.server.transport.poll_timeout(), None, "not before authentication");
    pair.server.transport.authenticated();
    let at = pair.server.transport.poll_timeout().expect("a timer");
    assert_eq!(at, pair.server.now.after(Duration::from_secs(60)));
    pair.set_now(at);
    pair.server.call(|transport, env| transport.handle_timeout(env)).expect("alive");
    pair.settle();
    pair.expect_alive();
    assert_eq!(pair.server.transport.exchanges(), 2);
    assert_eq!(pair.server.transport.poll_timeout(), Some(at.after(Duration::from_secs(60))));
}

#[test]
fn a_rekey_waits_for_room_in_the_outbox() {
    let mut pair = authenticated();
    let asked = pair.client.call_with_room(100, |transport, env| transport.rekey(env));
    assert_eq!((asked, pair.client.transport.is_exchanging()), (Ok(()), false));
    assert_eq!(pair.client.transport.poll_timeout(), None, "a timer would spin");
    pair.client.call(|transport, env| transport.flush(env)).expect("room");
    pair.settle();
    pair.expect_alive();
    assert_eq!(pair.client.transport.exchanges(), 2);
}

/// The server has sent a KEXINIT that the client's own answered; the client then misbehaves.
fn client_in_rekey() -> Pair {
    let mut pair = authenticated();
    pair.server.rekey();
    pair.deliver_to_client(usize::MAX);
    pair
}

#[test]
fn case_32_nothing_but_the_exchange_follows_the_peers_kexinit() {
    for intruder in
        [&[94, 0][..], &[5, 0, 0, 0, 0], &[80], &[7, 0, 0, 0, 0], &[192, 0, 0, 0, 0], &[15]]
    {
        let mut pair = client_in_rekey();
        let kexinit = unwrapped_len(&mut pair);
        pair.deliver_to_server(kexinit);
        pair.client.outbox.clear();
        pair.server.answers = false;
        // The client's public value is lost; whatever comes instead is too early.
        let mut pair = rewound(pair);
        pair.client.inject(intruder);
        pair.deliver_to_server(usize::MAX);
        assert!(pair.server.delivered.is_empty());
        let error = pair.server.fails_with(2);
        assert_eq!(error, Error::PeerMisbehaved("a message during a key exchange"), "{intruder:?}");
    }
    // What may always be said may be said here too (RFC 4253 §7.1).
    let mut pair = client_in_rekey();
    let kexinit = unwrapped_len(&mut pair);
    pair.deliver_to_server(kexinit);
    pair.client.outbox.clear();
    let mut pair = rewound(pair);
    pair.client.inject(&[2, 0, 0, 0, 0]);
    pair.client.inject(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    pair.deliver_to_server(usize::MAX);
    assert_eq!(pair.server.error, None);
}

/// Bytes of the first packet that is on its way to the server, under GCM.
fn unwrapped_len(pair: &mut Pair) -> usize {
    let length = pair.client.outbox.first_chunk::<4>().expect("a packet");
    u32::from_be_bytes(*length) as usize + 4 + 16
}

/// Takes back the client's last packet, which never left.
fn rewound(mut pair: Pair) -> Pair {
    let counters = &mut pair.client.transport.wires.outbound.wear.counters;
    let (seq, packets, blocks) = (counters.seq(), counters.packets(), counters.blocks());
    *counters = Counters::from_parts(seq - 1, packets - 1, blocks);
    pair
}

#[test]
fn case_32_data_before_the_peers_kexinit_is_still_welcome() {
    let mut pair = authenticated();
    assert!(pair.client.seal(&[94, 1]));
    pair.server.rekey();
    pair.settle();
    pair.expect_alive();
    assert_eq!(pair.server.delivered, [[94, 1]]);
}

#[test]
fn case_33_an_exchange_that_never_ends_is_bounded_in_time_and_space() {
    // The peer begins and never goes on; IGNORE is legal, and costs nothing.
    let mut pair = client_in_rekey();
    let kexinit = unwrapped_len(&mut pair);
    pair.deliver_to_server(kexinit);
    pair.client.outbox.clear();
    let mut pair = rewound(pair);
    let mut ignore = vec![2; 30_000];
    ignore[1..5].copy_from_slice(&(30_000u32 - 5).to_be_bytes());
    for _ in 0..100 {
        pair.client.call_with_room(40_000, |transport, env| {
            transport.wires.emit_payload(&ignore, env).expect("room");
        });
        pair.deliver_to_server(usize::MAX);
    }
    assert_eq!(pair.server.error, None);
    assert!(pair.server.transport.wires.backlog.is_none());
    let deadline = pair.server.transport.poll_timeout().expect("a deadline");
    assert_eq!(deadline, pair.server.now.after(REKEY_TIME_MAX));
    pair.server.now = deadline;
    let ended = pair.server.call(|transport, env| transport.handle_timeout(env));
    assert!(matches!(ended, Err(Error::Deadline(_))));

    // We begin, the peer asks on and on without taking part: answers queue up to a bound.
    let mut pair = authenticated();
    pair.server.rekey();
    let ping = [&[192, 0, 0, 2, 0][..], &[1; 512]].concat();
    let mut asked = 0;
    while pair.server.error.is_none() && asked < 1000 {
        assert!(pair.client.seal(&ping));
        pair.deliver_to_server(usize::MAX);
        asked += 1;
    }
    assert!((asked - 1) * (ping.len() + 4) <= DEFERRED_BYTES_MAX as usize);
    assert!(asked > 100);
    pair.server.fails_with(2);
}

#[test]
fn case_34_rekeys_back_to_back_are_throttled() {
    let mut pair = authenticated();
    for n in 0..REKEY_BURST {
        pair.client.rekey();
        pair.settle();
        pair.expect_alive();
        assert_eq!(pair.server.transport.exchanges(), n + 2);
    }
    pair.client.rekey();
    pair.settle();
    pair.server.fails_with(2);

    // One a second is fine, and so is a client that moves data between them.
    let mut pair = authenticated();
    for n in 0..50u64 {
        pair.set_now(Instant::from_nanos((10 + n) * 1_000_000_000));
        pair.client.rekey();
        pair.settle();
        pair.expect_alive();
    }
    let mut pair = authenticated();
    for _ in 0..50 {
        assert!(pair.client.seal(&[94; 10_000]));
        pair.client.rekey();
        pair.settle();
        pair.expect_alive();
    }
}

/// A pair whose server changes its mind about its configuration in mid-connection.
fn turncoat(change: impl FnOnce(&mut ServerConfig)) -> Pair {
    let mut pair = authenticated();
    let mut config = ServerConfig::clone(&pair.server.transport.config);
    change(&mut config);
    pair.server.transport.config = Arc::new(config);
    pair
}

#[test]
fn case_35_a_server_may_not_change_its_key_nor_weaken() {
    let mut pair = turncoat(|config| {
        config.host_keys = vec![HostKey::new(OTHER_KEY.public().clone())];
    });
    pair.server.signer = |_| &OTHER_KEY;
    pair.client.rekey();
    pair.settle();
    assert_eq!(pair.client.fails_with(9), Error::HostKey("the server changed its key"));
    assert_eq!(pair.client.queries, 1, "the user is asked once");

    for weaken in [
        (|config: &mut ServerConfig| config.preferences.ciphers = vec![CipherKind::Aes256Ctr])
            as fn(&mut ServerConfig),
        |config| config.preferences.kex = vec![KexKind::EcdhP256],
        |config| config.host_keys = config.host_keys.split_off(1),
    ] {
        let mut pair = turncoat(weaken);
        pair.client.rekey();
        pair.settle();
        let weaker = "weaker algorithms in a later key exchange";
        assert_eq!(pair.client.fails_with(2), Error::PeerMisbehaved(weaker));
    }

    // The same keys in another order: the client's order decides, and nothing changes.
    let mut pair = turncoat(|config| config.host_keys.rotate_left(1));
    pair.server.signer = |place| &HOST_KEYS[1 - place];
    pair.client.rekey();
    pair.settle();
    pair.expect_alive();
}

#[test]
fn case_36_what_queues_during_a_rekey_keeps_its_order() {
    let mut pair = authenticated();
    pair.server.rekey();
    let sent: Vec<Vec<u8>> = (0..100u8).map(|n| vec![93 + n % 6, n]).collect();
    for payload in &sent {
        pair.server.send(payload).expect("kept");
    }
    assert!(pair.server.transport.export().is_none(), "not quiet");
    // Too little room to flush at once: the rest leaves when there is room again.
    pair.settle();
    pair.expect_alive();
    assert_eq!(pair.client.delivered, sent);
}

#[test]
fn case_37_worn_keys_are_renewed_or_not_used() {
    let mut pair = authenticated();
    let seq = pair.client.transport.wires.outbound.wear.counters.seq();
    let nearly = Counters::from_parts(seq, (1 << 31) - 1, 0);
    pair.client.transport.wires.outbound.wear.counters = nearly.clone();
    pair.server.transport.wires.inbound.wear.counters = nearly;
    assert_eq!(pair.client.transport.poll_timeout(), None);
    pair.client.transport.wires.outbound.wear.counters = Counters::from_parts(seq, 1 << 31, 0);
    assert_eq!(pair.client.transport.poll_timeout(), Some(Instant::ZERO));

    // The very last nonce: then nothing is sealed until there are new keys.
    let mut pair = authenticated();
    let last = Counters::from_parts(seq, (1 << 32) - 1, 0);
    pair.client.transport.wires.outbound.wear.counters = last;
    assert!(pair.client.seal(&[94]));
    assert!(!pair.client.seal(&[94]), "no nonce is left");

    // A peer that never renews is left.
    let mut pair = authenticated();
    let end = Counters::from_parts(seq, 1 << 32, 0);
    pair.server.transport.wires.inbound.wear.counters = end;
    assert!(pair.client.seal(&[94]));
    pair.deliver_to_server(usize::MAX);
    pair.server.fails_with(2);
}

#[test]
fn case_38_extensions_come_twice_at_most_and_late_ones_are_ignored() {
    let ext_info = |names: &[u8]| {
        let mut space = [0; 256];
        let info = ExtInfo::build(&[(b"server-sig-algs", names)], &mut space);
        encoded(&info.expect("room"))
    };
    let mut pair = Pair::established();
    pair.server.inject(&ext_info(b"first"));
    pair.settle();
    assert_eq!(pair.client.transport.peer_server_sig_algs(), Some("first"));
    pair.server.inject(&ext_info(b"second"));
    pair.settle();
    pair.client.fails_with(2);

    let mut pair = Pair::established();
    pair.client.transport.authenticated();
    for _ in 0..10 {
        pair.server.inject(&ext_info(b"late"));
    }
    pair.settle();
    pair.expect_alive();
    assert_ne!(pair.client.transport.peer_server_sig_algs(), Some("late"));

    let mut pair = Pair::established();
    pair.server.inject(&[7, 0xff, 0xff, 0xff, 0xff]);
    pair.settle();
    assert!(matches!(pair.client.fails_with(2), Error::Malformed { message: 7, .. }));
}

#[test]
fn a_farewell_ends_both_ends() {
    let mut pair = authenticated();
    pair.client.call(|transport, env| transport.disconnect(11, "bye\u{1b}", env));
    pair.client.call(|transport, env| transport.disconnect(2, "again", env));
    assert_eq!(pair.client.send(&[90]), Err(Error::Closed));
    assert!(!pair.client.transport.is_ready());
    assert_eq!(pair.client.transport.poll_timeout(), None);
    pair.deliver_to_server(usize::MAX);
    let error = pair.server.error.clone().expect("told");
    assert_eq!(error, Error::Disconnected { code: 11, text: "bye\u{1b}".into() });
    assert!(pair.server.outbox.is_empty(), "the last word is not answered");
}

#[test]
fn a_farewell_may_leave_in_the_middle_of_a_key_exchange() {
    let mut pair = authenticated();
    pair.client.rekey();
    pair.client.call(|transport, env| transport.disconnect(11, "bye", env));
    pair.deliver_to_server(usize::MAX);
    assert!(matches!(pair.server.error, Some(Error::Disconnected { code: 11, .. })));

    let mut pair = Pair::new(client_config(), server_config());
    pair.deliver_to_server(usize::MAX);
    pair.server.call(|transport, env| transport.disconnect(12, "full", env));
    pair.deliver_to_client(usize::MAX);
    assert!(matches!(pair.client.error, Some(Error::Disconnected { code: 12, .. })));
}

#[test]
fn a_packet_cut_wrongly_is_our_mistake_and_fatal() {
    let mut pair = authenticated();
    let mut packet = [0; 100];
    let sealed = pair.client.transport.seal(&mut packet, 5, &mut pair.client.entropy);
    assert!(sealed.is_err());
    assert!(matches!(pair.client.send(&[90]), Err(Error::Invariant(_))));
}
