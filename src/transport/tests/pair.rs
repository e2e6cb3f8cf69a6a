//! Honest peers: every algorithm, every cut of the stream.

use proptest::prelude::*;

use super::harness::*;
use crate::crypto::{
    CipherKind, KexKind, KeyAlgorithm, MacKind, Provider, SignatureAlgorithm, Suite,
};
use crate::transport::{HostKey, Server, ServerConfig};

fn pair_of(kex: KexKind, suite: Suite, client: Provider, server: Provider) -> Pair {
    let (mut ours, mut theirs) = (client_config(), server_config());
    for (preferences, provider) in
        [(&mut ours.preferences, client), (&mut theirs.preferences, server)]
    {
        preferences.kex = vec![kex];
        preferences.ciphers = vec![suite.cipher()];
        preferences.macs = vec![suite.mac()];
        preferences.provider = provider;
    }
    Pair::new(ours, theirs)
}

fn toy() -> Suite {
    Suite::new(CipherKind::Toy, MacKind::Implicit).expect("a suite")
}

/// Sends packets of many lengths both ways, by both roads.
fn exchange_traffic(pair: &mut Pair) {
    let payloads: Vec<Vec<u8>> = (0..40usize)
        .map(|i| std::iter::once(94).chain((0..i * i * 7).map(|b| (b ^ i) as u8)).collect())
        .collect();
    for payload in &payloads {
        assert!(pair.client.seal(payload));
        pair.server.send(payload).expect("sent");
    }
    pair.settle();
    pair.expect_alive();
    assert_eq!(pair.server.delivered, payloads);
    assert_eq!(pair.client.delivered, payloads);
}

#[test]
fn every_key_exchange_method() {
    for kex in KexKind::ALL.iter().chain(&[KexKind::Toy]) {
        let mut pair = pair_of(*kex, toy(), Provider::Toy, Provider::Toy);
        pair.settle();
        pair.expect_alive();
        let negotiated = *pair.client.transport.negotiated().expect("established");
        assert_eq!(negotiated.kex, *kex);
        assert_eq!(negotiated.kex_name, kex.names()[0]);
        assert!(negotiated.strict);
        // Arithmetic that takes milliseconds is asked for, and then the signature.
        let server_queries = if kex.names()[0].starts_with("diffie") { 2 } else { 1 };
        assert_eq!((pair.client.queries, pair.server.queries), (1, server_queries));
        exchange_traffic(&mut pair);
        pair.client.rekey();
        pair.settle();
        pair.expect_alive();
    }
}

#[test]
fn every_suite_under_every_pair_of_providers() {
    for suite in Suite::all() {
        for client in Provider::ALL {
            for server in Provider::ALL {
                if client.supports(suite.cipher()) && server.supports(suite.cipher()) {
                    let mut pair = pair_of(KexKind::Curve25519, suite, *client, *server);
                    pair.settle();
                    pair.expect_alive();
                    let negotiated = pair.client.transport.negotiated().expect("established");
                    assert_eq!((negotiated.to_server, negotiated.to_client), (suite, suite));
                    exchange_traffic(&mut pair);
                }
            }
        }
    }
}

#[test]
fn every_kind_of_host_key_in_the_clients_order() {
    for (place, key) in HOST_KEYS.iter().enumerate() {
        for algorithm in SignatureAlgorithm::for_key(key.public().kind()) {
            let mut config = client_config();
            config.host_key_algorithms = vec![KeyAlgorithm::plain(*algorithm)];
            let mut pair = Pair::new(config, server_config());
            pair.settle();
            pair.expect_alive();
            assert_eq!(pair.client.transport.host_key(), Some(HOST_KEYS[place].public()));
            assert_eq!(pair.server.transport.host_key(), Some(HOST_KEYS[place].public()));
        }
    }
}

#[test]
fn identifications_and_extensions_arrive() {
    let pair = Pair::established();
    assert_eq!(pair.client.transport.peer_ident(), b"SSH-2.0-Server_1 test");
    assert_eq!(pair.server.transport.peer_ident(), b"SSH-2.0-Client_1");
    let extensions = pair.client.transport.peer_extensions().expect("EXT_INFO came");
    assert!(extensions.ping && extensions.hostbound);
    assert_eq!(
        pair.client.transport.peer_server_sig_algs(),
        Some(
            "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,\
             rsa-sha2-512,rsa-sha2-256"
        )
    );
    assert_eq!(pair.server.transport.peer_extensions(), None);
}

#[test]
fn ping_is_answered_and_unknown_numbers_are_not_understood() {
    let mut pair = Pair::established();
    pair.client.send(&[192, 0, 0, 0, 2, 7, 9]).expect("sent");
    pair.client.send(&[15]).expect("sent");
    pair.client.send(&[200, 1]).expect("sent");
    pair.deliver_to_server(usize::MAX);
    assert_eq!(pair.server.delivered, [[200, 1]]);
    pair.server.call(|transport, env| transport.unimplemented(env)).expect("sent");
    let stats = pair.client.transport.stats();
    pair.settle();
    pair.expect_alive();
    // A PONG and two UNIMPLEMENTED, all of them the transport's own.
    assert_eq!(pair.client.transport.stats().packets_in - stats.packets_in, 3);
    assert!(pair.client.delivered.is_empty());
}

#[test]
fn what_is_sent_early_leaves_behind_newkeys_in_order() {
    let mut pair = Pair::new(client_config(), server_config());
    for n in 0..5 {
        pair.client.send(&[5, n]).expect("kept");
        pair.server.send(&[80, n]).expect("kept");
    }
    assert!(!pair.client.transport.is_ready() && !pair.client.seal(&[94]));
    pair.settle();
    pair.expect_alive();
    assert_eq!(pair.server.delivered, (0..5).map(|n| vec![5, n]).collect::<Vec<_>>());
    assert_eq!(pair.client.delivered, (0..5).map(|n| vec![80, n]).collect::<Vec<_>>());
}

#[test]
fn a_full_outbox_keeps_order() {
    let mut pair = Pair::established();
    let sent: Vec<Vec<u8>> = (0..20u8).map(|n| [vec![90, n], vec![n; 500]].concat()).collect();
    for (n, payload) in sent.iter().enumerate() {
        let room = if n % 3 == 0 { 0 } else { 700 };
        let flushed = pair.server.call_with_room(room, |transport, env| {
            transport.send_payload(payload, env)?;
            transport.flush(env)
        });
        flushed.expect("kept");
    }
    assert!(!pair.server.seal(&[94]), "data may not overtake");
    pair.server.call(|transport, env| transport.flush(env)).expect("room");
    assert!(pair.server.seal(&[94]));
    pair.settle();
    assert_eq!(pair.client.delivered[..20], sent);
    assert_eq!(pair.client.delivered[20], [94]);
}

#[test]
fn a_server_may_wait_for_the_clients_offer() {
    let config = || ServerConfig { steers: true, ..server_config() };
    let mut pair = Pair::new(client_config(), config());
    assert_eq!(pair.server.outbox, b"SSH-2.0-Server_1 test\r\n");
    pair.settle();
    pair.expect_alive();
    assert!(pair.server.transport.negotiated().expect("established").strict);

    // A client that waits too gets the offer after a while.
    let mut server = End::<Server>::new(config(), 3);
    server.outbox.clear();
    server.feed(b"SSH-2.0-Patient\r\n");
    let at = server.transport.poll_timeout().expect("a timer");
    server.call(|transport, env| transport.handle_timeout(env)).expect("early");
    assert!(server.outbox.is_empty());
    server.now = at;
    server.call(|transport, env| transport.handle_timeout(env)).expect("on time");
    assert_eq!(server.outbox[5], 20);
    assert_eq!(server.transport.poll_timeout(), None);
}

#[test]
fn a_client_without_trust_leaves() {
    let mut pair = Pair::new(client_config(), server_config());
    pair.client.trusts = false;
    pair.settle();
    pair.client.fails_with(9);
    let told = pair.server.error.expect("told");
    assert!(matches!(told, crate::transport::Error::Disconnected { code: 9, .. }), "{told}");
}

#[test]
fn the_log_can_say_why_there_was_no_common_ground() {
    let mut config = client_config();
    config.preferences.kex = vec![KexKind::EcdhP256];
    let mut server = server_config();
    server.preferences.kex = vec![KexKind::Curve25519];
    let mut pair = Pair::new(config, server);
    pair.settle();
    let error = pair.server.fails_with(3);
    assert_eq!(
        error.to_string(),
        "no common key exchange method: the peer offers ecdh-sha2-nistp256,ext-info-c,\
         kex-strict-c-v00@openssh.com, we curve25519-sha256,curve25519-sha256@libssh.org,\
         kex-strict-s-v00@openssh.com"
    );
}

#[test]
fn a_server_without_a_fitting_key_is_incompatible() {
    let mut server = server_config();
    server.host_keys = vec![HostKey::new(HOST_KEYS[1].public().clone())];
    let mut client = client_config();
    client.host_key_algorithms = vec![KeyAlgorithm::plain(SignatureAlgorithm::Ed25519)];
    let mut pair = Pair::new(client, server);
    pair.settle();
    let error = pair.client.fails_with(3);
    assert!(error.to_string().starts_with("no common host key algorithm"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Case 10: cut anywhere, the stream means the same.
    #[test]
    fn case_10_any_split_gives_the_same_events(
        cuts in proptest::collection::vec(1usize..200, 1..200),
        suite in 0usize..16,
    ) {
        let suite = Suite::all().nth(suite).unwrap_or_else(toy);
        let provider = if suite == toy() { Provider::Toy } else { Provider::AwsLc };
        let mut pair = pair_of(KexKind::Toy, suite, provider, provider);
        let payloads: Vec<Vec<u8>> = (0..20).map(|n| vec![90 + n; 1 + 40 * n as usize]).collect();
        for payload in &payloads {
            pair.client.send(payload).expect("kept");
            pair.server.send(payload).expect("kept");
        }
        for cut in cuts.iter().cycle() {
            if pair.client.outbox.is_empty() && pair.server.outbox.is_empty() {
                break;
            }
            pair.deliver_to_server(*cut);
            pair.deliver_to_client(cut / 2 + 1);
        }
        pair.expect_alive();
        prop_assert_eq!(&pair.server.delivered, &payloads);
        prop_assert_eq!(&pair.client.delivered, &payloads);
    }
}

#[test]
fn case_10_byte_by_byte() {
    let mut pair = pair_of(
        KexKind::Curve25519,
        Suite::all().next().expect("one"),
        Provider::AwsLc,
        Provider::AwsLc,
    );
    pair.client.send(&[90; 300]).expect("kept");
    while !(pair.client.outbox.is_empty() && pair.server.outbox.is_empty()) {
        pair.deliver_to_server(1);
        pair.deliver_to_client(1);
    }
    pair.expect_alive();
    assert_eq!(pair.server.delivered, [[90; 300]]);
}
