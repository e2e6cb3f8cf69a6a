//! Connections that move from process to process, and the long random run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::harness::*;
use crate::crypto::keys::{CertificateKind, Certification, Extensions};
use crate::crypto::{
    CipherKind, KexKind, KeyAlgorithm, MacKind, Provider, SignatureAlgorithm, Suite,
};
use crate::transport::role::Role;
use crate::transport::{Client, Error, Server, Transport, TransportRecord};

#[test]
fn a_connection_goes_on_in_another_process() {
    for suite in Suite::all() {
        let mut client = client_config();
        client.preferences.ciphers = vec![suite.cipher()];
        client.preferences.macs = vec![suite.mac()];
        let mut server = server_config();
        server.preferences.macs = MacKind::ALL.to_vec();
        let mut pair = Pair::new(client.clone(), server);
        pair.settle();
        pair.server.transport.authenticated();
        let before = pair.server.transport.stats();
        let id = pair.server.transport.session_id().to_vec();
        for _ in 0..3 {
            hand_over(&mut pair.server);
            hand_over(&mut pair.client);
            pair.client.send(&[90, 1]).expect("sent");
            pair.server.send(&[91, 1]).expect("sent");
            pair.settle();
            pair.expect_alive();
            pair.client.rekey();
            pair.settle();
            pair.expect_alive();
        }
        assert_eq!(pair.server.transport.session_id(), id);
        assert_eq!(pair.server.transport.peer_ident(), b"SSH-2.0-Client_1");
        assert!(pair.client.transport.peer_extensions().expect("kept").ping);
        assert!(pair.server.transport.stats().bytes_in > before.bytes_in);
        assert_eq!((pair.client.delivered.len(), pair.server.delivered.len()), (3, 3));
    }
}

/// A host certificate is what the connection's logins are bound to, in whatever process.
#[test]
fn a_certificate_travels_along_and_is_shown_again() {
    let certification = Certification {
        kind: CertificateKind::Host,
        serial: 1,
        key_id: "host",
        principals: &["host"],
        valid_after: 0,
        valid_before: u64::MAX,
        force_command: None,
        source_address: None,
        verify_required: false,
        extensions: Extensions::default(),
    };
    let key = HOST_KEYS[0].public();
    let certificate = certification.issue(key, &OTHER_KEY).expect("certified");
    let mut server = server_config();
    server.host_keys[0].certificate = Some(certificate.clone());
    server.host_keys[0].algorithms = KeyAlgorithm::ALL.to_vec();
    let mut client = client_config();
    client.host_key_algorithms = KeyAlgorithm::ALL.to_vec();
    let mut pair = Pair::new(client, server);
    pair.settle();
    for _ in 0..2 {
        pair.expect_alive();
        for shown in
            [pair.client.transport.shown_host_key(), pair.server.transport.shown_host_key()]
        {
            let shown = shown.expect("a key");
            assert_eq!((&*shown.key, shown.blob()), (key, certificate.blob()));
        }
        let agreed = pair.client.transport.negotiated().expect("agreed").host_key;
        assert_eq!(agreed, KeyAlgorithm::certified(SignatureAlgorithm::Ed25519));
        hand_over(&mut pair.server);
        hand_over(&mut pair.client);
        pair.client.rekey();
        pair.settle();
    }
    // Case 35: a later exchange does not do without it.
    let mut without = (*pair.server.transport.config).clone();
    without.host_keys[0].certificate = None;
    pair.server.transport.config = Arc::new(without);
    pair.client.rekey();
    pair.settle();
    let weaker = "weaker algorithms in a later key exchange";
    assert_eq!(pair.client.fails_with(2), Error::PeerMisbehaved(weaker));
}

/// Exports, imports, and checks that the copy says the same.
fn hand_over<R: Role>(end: &mut End<R>) -> bool
where
    R::Config: Clone,
{
    let Some(record) = end.transport.export() else { return false };
    let bytes = record.to_bytes().expect("room");
    let record = TransportRecord::from_bytes(&bytes).expect("what was written");
    assert_eq!(*record.to_bytes().expect("room"), *bytes);
    let config = end.transport.config.clone();
    end.transport = Transport::import(config, record, end.now).expect("imported");
    true
}

/// Case 136, as far as the transport is concerned: damaged records are refused or harmless.
#[test]
fn damaged_records_do_not_panic_and_foreign_ones_are_refused() {
    let pair = Pair::established();
    let bytes = pair.server.transport.export().expect("quiet").to_bytes().expect("room");
    for len in 0..bytes.len() {
        assert!(TransportRecord::from_bytes(&bytes[..len]).is_err());
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(TransportRecord::from_bytes(&longer).is_err());
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0xff;
        if let Ok(record) = TransportRecord::from_bytes(&damaged) {
            let config = std::sync::Arc::new(server_config());
            let _ = Transport::<Server>::import(config, record, pair.server.now);
        }
    }
    let record = TransportRecord::from_bytes(&bytes).expect("a record");
    let config = std::sync::Arc::new(client_config());
    let other = Transport::<Client>::import(config, record, pair.server.now);
    assert_eq!(other.err(), Some(Error::Invariant("a record of the other role")));
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Seal { client: bool, len: usize },
    Send { client: bool, len: usize },
    Rekey { client: bool },
    HandOver { client: bool },
    Deliver { to_client: bool, bytes: usize },
    Wait { millis: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (any::<bool>(), 0usize..3000).prop_map(|(client, len)| Act::Seal { client, len }),
        2 => (any::<bool>(), 0usize..600).prop_map(|(client, len)| Act::Send { client, len }),
        1 => any::<bool>().prop_map(|client| Act::Rekey { client }),
        1 => any::<bool>().prop_map(|client| Act::HandOver { client }),
        8 => (any::<bool>(), 1usize..4000)
            .prop_map(|(to_client, bytes)| Act::Deliver { to_client, bytes }),
        1 => (0u64..2000).prop_map(|millis| Act::Wait { millis }),
    ]
}

/// One end's view of the run: what it sent, in the order it should arrive.
#[derive(Default)]
struct Sent {
    next: u32,
    payloads: VecDeque<Vec<u8>>,
}

impl Sent {
    fn payload(&mut self, len: usize) -> Vec<u8> {
        self.next += 1;
        let mut payload = vec![94];
        payload.extend_from_slice(&self.next.to_be_bytes());
        payload.resize(5 + len, self.next as u8);
        payload
    }
}

fn perform<R: Role>(end: &mut End<R>, sent: &mut Sent, act: Act)
where
    R::Config: Clone,
{
    match act {
        Act::Seal { len, .. } => {
            let payload = sent.payload(len);
            if end.seal(&payload) {
                sent.payloads.push_back(payload);
            }
        }
        Act::Send { len, .. } => {
            let payload = sent.payload(len);
            end.send(&payload).expect("kept");
            sent.payloads.push_back(payload);
        }
        Act::Rekey { .. } => end.rekey(),
        // Half a packet in the inbox is no obstacle: bytes belong to whoever owns the buffer.
        Act::HandOver { .. } => {
            hand_over(end);
        }
        Act::Deliver { .. } | Act::Wait { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Traffic, rekeys from either side, hand-overs and arbitrary cuts of the stream, in any order.
    #[test]
    fn random_runs_lose_nothing(
        acts in proptest::collection::vec(act(), 1..150),
        suite in 0usize..24,
        limit in 2000u64..40_000,
        steers in any::<bool>(),
    ) {
        let toy = Suite::new(CipherKind::Toy, MacKind::Implicit).expect("a suite");
        let suite = Suite::all().nth(suite).unwrap_or(toy);
        let (mut client, mut server) = (client_config(), server_config());
        for preferences in [&mut client.preferences, &mut server.preferences] {
            preferences.kex = vec![KexKind::Toy];
            preferences.ciphers = vec![suite.cipher()];
            preferences.macs = vec![suite.mac()];
            preferences.provider = if suite == toy { Provider::Toy } else { Provider::AwsLc };
            preferences.rekey.bytes = Some(limit);
        }
        server.steers = steers;
        let mut pair = Pair::new(client, server);
        pair.settle();
        pair.client.transport.authenticated();
        pair.server.transport.authenticated();
        let (mut from_client, mut from_server) = (Sent::default(), Sent::default());
        for act in acts {
            // Honest peers are slower than the throttle.
            let now = pair.client.now.after(Duration::from_secs(2));
            match act {
                Act::Wait { millis } => pair.set_now(now.after(Duration::from_millis(millis))),
                _ => pair.set_now(now),
            }
            match act {
                Act::Seal { client: true, .. }
                | Act::Send { client: true, .. }
                | Act::Rekey { client: true }
                | Act::HandOver { client: true } => {
                    perform(&mut pair.client, &mut from_client, act);
                }
                Act::Deliver { to_client: true, bytes } => pair.deliver_to_client(bytes),
                Act::Deliver { to_client: false, bytes } => pair.deliver_to_server(bytes),
                _ => perform(&mut pair.server, &mut from_server, act),
            }
            prop_assert_eq!((&pair.client.error, &pair.server.error), (&None, &None));
        }
        pair.settle();
        for _ in 0..3 {
            pair.client.call(|transport, env| transport.handle_timeout(env)).expect("alive");
            pair.server.call(|transport, env| transport.handle_timeout(env)).expect("alive");
            pair.settle();
        }
        pair.expect_alive();
        prop_assert_eq!(&pair.server.delivered, &Vec::from(from_client.payloads));
        prop_assert_eq!(&pair.client.delivered, &Vec::from(from_server.payloads));
    }
}
