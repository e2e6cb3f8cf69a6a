//! Clients whose slow arithmetic is done elsewhere.

use std::sync::Arc;

use tidegate::base::SeededEntropy;
use tidegate::connection::{Answer, ClientConnectionConfig, ConnectionConfig, Event};
use tidegate::crypto::{KexError, KexKind};
use tidegate::limits::LOGIN_GRACE_DEFAULT;
use tidegate::transport::Error;

use super::support::{Flavour, Pair, Setup, user_key};

/// The first exchange and later ones, with every kind
/// of method that has any.
#[test]
fn arithmetic_that_is_done_elsewhere_leads_to_the_same_keys() {
    let kinds = [KexKind::Sntrup761X25519, KexKind::DhGroup14, KexKind::DhGroupExchange];
    for (kind, pieces) in kinds.into_iter().zip([1, 2, 2]) {
        let setup = deferring(kind);
        let mut pair = Pair::new(&setup);
        pair.client.habits.computes = false;
        for exchange in 0..2 {
            for piece in 0..pieces {
                pair.run();
                assert_eq!(pair.client.tasks.len(), 1, "{kind:?}, {exchange}, {piece}");
                assert!(pair.client.conn.blocked());
                pair.client.compute(pair.now);
            }
            pair.run();
            assert_eq!((&pair.client.error, &pair.server.error), (&None, &None));
            let done = |event: &Event| matches!(event, Event::KeyExchanged { .. });
            assert_eq!(pair.client.saw(done), exchange + 1, "{kind:?}");
            if exchange == 0 {
                pair.authenticate(user_key().public());
                pair.run();
                assert!(pair.client.conn.is_authenticated(), "{kind:?}");
                pair.client.attempt(pair.now, |conn, env| conn.rekey(env));
            }
        }
        assert_eq!(pair.client.conn.session_id(), pair.server.conn.session_id());
    }
}

/// An answer to nothing, one to another question, and one that comes twice change nothing; one that says
/// no ends it. The clock runs meanwhile.
#[test]
fn arithmetic_that_comes_late_twice_or_not_at_all() {
    let now = Pair::new(&deferring(KexKind::DhGroup14)).now;
    let waiting = || {
        let mut pair = Pair::new(&deferring(KexKind::DhGroup14));
        pair.client.habits.computes = false;
        pair.run();
        pair
    };
    let answer = |pair: &mut Pair, answer| {
        pair.client.attempt(now, |conn, env| conn.answer(answer, env));
        pair.client.poll(now);
    };
    let task = |pair: &mut Pair| pair.client.tasks.pop_front().expect("a task");
    let refused = || Answer::Computed(Err(KexError::Invalid));

    let mut pair = waiting();
    let piece = task(&mut pair).run(&mut SeededEntropy::new(1));
    answer(&mut pair, Answer::Trust(true));
    answer(&mut pair, Answer::Signature(None));
    assert!(pair.client.conn.blocked(), "answers to other questions");
    answer(&mut pair, Answer::Computed(piece));
    assert!(!pair.client.conn.blocked());
    answer(&mut pair, refused());
    assert_eq!(pair.client.error, None, "the second answer");
    pair.run();
    let piece = task(&mut pair).run(&mut SeededEntropy::new(1));
    answer(&mut pair, Answer::Computed(piece));
    pair.run();
    answer(&mut pair, refused());
    assert_eq!((&pair.client.error, pair.client.conn.session_id().len()), (&None, 32));

    // A piece of another kind than was asked for is our own mistake, and costs the connection alone.
    let mut pair = waiting();
    pair.client.compute(now);
    pair.run();
    let mut other = waiting();
    let piece = task(&mut other).run(&mut SeededEntropy::new(1));
    answer(&mut pair, Answer::Computed(piece));
    assert!(matches!(pair.client.error, Some(Error::Invariant(_))), "{:?}", pair.client.error);

    let mut pair = waiting();
    answer(&mut pair, refused());
    assert_eq!(pair.client.error, Some(Error::KeyExchange(KexError::Invalid)));

    let mut pair = waiting();
    pair.advance(LOGIN_GRACE_DEFAULT);
    assert!(matches!(pair.client.error, Some(Error::Deadline(_))), "{:?}", pair.client.error);
}

fn deferring(kind: KexKind) -> Setup {
    let mut setup = Setup::new(Flavour::Gcm);
    let mut server = (*setup.server.transport).clone();
    server.preferences.kex = vec![kind];
    setup.server = ConnectionConfig::new(Arc::new(server));
    let mut client = (*setup.client.transport).clone();
    (client.preferences.kex, client.defers) = (vec![kind], true);
    setup.client = ClientConnectionConfig::new(Arc::new(client));
    setup
}
