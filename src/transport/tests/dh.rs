//! Finite-field Diffie-Hellman: what a hostile peer sends in it (SECURITY cases 21, 27, 28).

use super::harness::*;
use crate::crypto::kex::{Group, Moduli};
use crate::crypto::{KexError, KexKind, KexSecret};
use crate::transport::{Answer, Client, Error, Query, Server};
use crate::wire::transport::{
    KexDhGexGroup, KexDhGexInit, KexDhGexRequest, KexEcdhInit, KexEcdhReply,
};

/// Both ends have exchanged KEXINITs and agreed on `kex`; what the client says next is thrown away.
fn agreed(kex: KexKind) -> (End<Server>, End<Client>) {
    let (mut ours, mut theirs) = (client_config(), server_config());
    ours.preferences.kex = vec![kex];
    theirs.preferences.kex = vec![kex];
    let mut pair = Pair::new(ours, theirs);
    pair.server.answers = false;
    pair.deliver_to_server(usize::MAX);
    pair.deliver_to_client(usize::MAX);
    pair.client.outbox.clear();
    assert_eq!((&pair.server.error, &pair.client.error), (&None, &None));
    (pair.server, pair.client)
}

fn group_14() -> Group {
    KexKind::DhGroup14.group().expect("a group")
}

/// 0, 1, p - 1, p, p + 1, a number that is longer, a negative one, and 2 with a needless zero.
fn bad_publics() -> Vec<Vec<u8>> {
    let prime = [&[0], &group_14().prime()[..]].concat();
    let mut bad =
        vec![vec![], vec![1], prime.clone(), vec![0x7f; 300], vec![0xff; 256], vec![0, 2]];
    for last in [0xfe, 0xff] {
        let mut near = prime.clone();
        *near.last_mut().expect("bytes") = last;
        if last == 0xff {
            near[200] ^= 0xff;
            near[0] = 1;
        }
        bad.push(near);
    }
    bad
}

#[test]
fn case_27_a_server_spends_nothing_on_a_bad_public_value() {
    for client_public in bad_publics() {
        let (mut server, _) = agreed(KexKind::DhGroup14);
        server.feed(&plain(&encoded(&KexEcdhInit { client_public: &client_public })));
        assert!(server.transport.query().is_none(), "{client_public:02x?}");
        server.fails_with(3);
    }
}

#[test]
fn case_27_a_client_refuses_a_bad_public_value() {
    let host_key = HOST_KEYS[0].public().blob();
    for server_public in bad_publics() {
        let (_, mut client) = agreed(KexKind::DhGroup14);
        let server_public = &server_public;
        let reply = KexEcdhReply { host_key, server_public, signature: &[0; 64] };
        client.feed(&plain(&encoded(&reply)));
        let error = client.fails_with(3);
        assert!(matches!(error, Error::KeyExchange(_)), "{error}");
    }
}

#[test]
fn case_28_requests_that_no_group_meets() {
    for [bits_min, bits_wanted, bits_max] in
        [[4096, 4096, 2048], [8192, 2048, 8192], [0; 3], [1024; 3], [1 << 31; 3], [u32::MAX; 3]]
    {
        let (mut server, _) = agreed(KexKind::DhGroupExchange);
        server.outbox.clear();
        let request = KexDhGexRequest { bits_min, bits_wanted, bits_max };
        server.feed(&plain(&encoded(&request)));
        let error = server.fails_with(3).to_string();
        assert!(error.starts_with("no Diffie-Hellman group has"), "{error}");
    }
}

#[test]
fn case_28_a_client_takes_no_weak_group() {
    let prime = group_14().prime();
    let mut composite = prime.clone();
    composite[100] ^= 0x55;
    let mut even = prime.clone();
    even[255] ^= 1;
    let rows: [(&[u8], &[u8]); 7] = [
        (&prime[..128], &[2]),
        (&[], &[2]),
        (&[0x7f; 1025], &[2]),
        (&composite, &[2]),
        (&even, &[2]),
        (&prime, &[1]),
        (&prime, &[]),
    ];
    for (prime, generator) in rows {
        let (_, mut client) = agreed(KexKind::DhGroupExchange);
        client.feed(&plain(&encoded(&KexDhGexGroup { prime, generator })));
        let error = client.fails_with(2).to_string();
        assert!(error.contains("not safe"), "{error}");
        assert!(client.outbox.len() < 600, "it went on");
    }
}

/// Each step of group exchange takes its own message and no other.
#[test]
fn case_21_group_exchange_keeps_its_order() {
    let request =
        plain(&encoded(&KexDhGexRequest { bits_min: 2048, bits_wanted: 2048, bits_max: 8192 }));
    for number in [30, 31, 32, 33, 21, 20] {
        let (mut server, _) = agreed(KexKind::DhGroupExchange);
        server.feed(&plain(&[number, 0, 0, 0, 0]));
        server.fails_with(2);
    }
    for number in [30, 31, 33, 34, 21] {
        let (mut server, _) = agreed(KexKind::DhGroupExchange);
        server.feed(&request);
        assert_eq!(server.error, None);
        server.feed(&plain(&[number, 0, 0, 0, 0]));
        server.fails_with(2);
    }
    for number in [30, 32, 33, 34, 21] {
        let (_, mut client) = agreed(KexKind::DhGroupExchange);
        client.feed(&plain(&[number, 0, 0, 0, 0]));
        client.fails_with(2);
    }
    let group = plain(&encoded(&KexDhGexGroup { prime: &group_14().prime(), generator: &[2] }));
    for number in [30, 31, 32, 34, 21] {
        let (_, mut client) = agreed(KexKind::DhGroupExchange);
        client.feed(&group);
        assert_eq!(client.error, None);
        client.feed(&plain(&[number, 0, 0, 0, 0]));
        client.fails_with(2);
    }
    // The other methods know none of its numbers.
    for number in [31, 32, 33, 34] {
        let (mut server, _) = agreed(KexKind::DhGroup14);
        server.feed(&plain(&[number, 0, 0, 0, 0]));
        server.fails_with(2);
    }
}

/// The arithmetic is asked for with the group and the value, then the signature; an answer that
/// says no ends it without a signature.
#[test]
fn arithmetic_is_asked_for_and_may_fail() {
    let answer_of = |answer| {
        let (mut server, _) = agreed(KexKind::DhGroup14);
        let (_, public) = KexSecret::generate_in(KexKind::DhGroup14, &group_14()).expect("made");
        server.feed(&plain(&encoded(&KexEcdhInit { client_public: &public })));
        let Some(Query::Agree { group, client_public }) = server.transport.query() else {
            panic!("no question")
        };
        assert_eq!((group.bits(), &**client_public), (2048, &*public));
        let answered = server.call(|transport, env| transport.answer(answer, env));
        (server, answered)
    };
    let refusal = KexError::Invalid;
    let (server, answered) = answer_of(Answer::Agreement(Err(refusal)));
    assert_eq!(answered, Err(Error::KeyExchange(refusal)));
    assert!(server.transport.query().is_none());
    let (_, answered) = answer_of(Answer::Signature(None));
    assert!(matches!(answered, Err(Error::Invariant(_))));
}

#[test]
fn a_server_chooses_from_its_moduli() {
    let digits: String = group_14().prime().iter().map(|byte| format!("{byte:02x}")).collect();
    let (moduli, bad) = Moduli::parse(&format!("20260101000000 2 6 100 2047 5 {digits}\n"));
    assert_eq!(bad, []);
    let (mut ours, mut theirs) = (client_config(), server_config());
    ours.preferences.kex = vec![KexKind::DhGroupExchange];
    theirs.preferences.kex = vec![KexKind::DhGroupExchange];
    theirs.moduli = moduli.into();
    let mut pair = Pair::new(ours, theirs);
    pair.server.answers = false;
    pair.settle();
    let Some(Query::Agree { group, .. }) = pair.server.transport.query() else {
        panic!("{:?} {:?}", pair.server.error, pair.client.error)
    };
    assert_eq!((group.bits(), group.generator()), (2048, vec![5]));
    pair.server.answers = true;
    pair.settle();
    pair.expect_alive();
    // RFC 4419 §5: INIT has a number of its own.
    let init = encoded(&KexDhGexInit(KexEcdhInit { client_public: &[7] }));
    assert_eq!(init, [32, 0, 0, 0, 1, 7]);
}

/// A client that defers hands its work out once, and nothing is carved before the answer; what the work
/// refuses ends it with the same reason as in place.
#[test]
fn a_client_that_defers_hands_its_work_out_once() {
    let deferring = |kex| {
        let (mut ours, mut theirs) = (client_config(), server_config());
        (ours.preferences.kex, ours.defers) = (vec![kex], true);
        theirs.preferences.kex = vec![kex];
        let mut pair = Pair::new(ours, theirs);
        pair.client.answers = false;
        pair.settle();
        pair
    };
    for kex in [KexKind::Sntrup761X25519, KexKind::DhGroup14, KexKind::DhGroupExchange] {
        let mut pair = deferring(kex);
        assert!(matches!(pair.client.transport.query(), Some(Query::Compute)), "{kex:?}");
        pair.client.answers = true;
        pair.settle();
        pair.expect_alive();
        assert!(pair.client.transport.is_established(), "{kex:?}");
        assert!(pair.client.transport.take_task().is_none());
    }
    let pair = deferring(KexKind::Curve25519);
    assert!(matches!(pair.client.transport.query(), Some(Query::TrustHostKey { .. })));

    let mut pair = deferring(KexKind::DhGroup14);
    let client = &mut pair.client;
    assert!(client.transport.take_task().is_some() && client.transport.take_task().is_none());
    assert!(matches!(client.transport.query(), Some(Query::Compute)), "it is still open");
    let refusal = KexError::UnsafeGroup;
    let answer = Answer::Computed(Err(refusal));
    let answered = client.call(|transport, env| transport.answer(answer, env));
    assert_eq!(answered, Err(Error::KeyExchange(refusal)));
    assert_eq!(answered.map_err(|error| error.disconnect_code()), Err(Some(2)));
}
