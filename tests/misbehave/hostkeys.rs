//! A server that tells of host keys and does not hold them all.

use super::*;
use tidegate::connection::{Conn, host_key_proof, host_keys_hold};

fn put(list: &mut Vec<u8>, bytes: &[u8]) {
    list.extend((bytes.len() as u32).to_be_bytes());
    list.extend_from_slice(bytes);
}

fn list(items: &[&[u8]]) -> Vec<u8> {
    let mut list = Vec::new();
    items.iter().for_each(|item| put(&mut list, item));
    list
}

fn tells(rest: &[u8]) -> Vec<u8> {
    let request = GlobalBody::Other { name: "hostkeys-00@openssh.com", rest };
    encode(&GlobalRequest { want_reply: false, request })
}

fn proof(key: &PrivateKey, session: &[u8], about: &PublicKey) -> Vec<u8> {
    let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
    key.sign(algorithm, &host_key_proof(session, about)).expect("signs")
}

/// To the session's identifier.
type Answer<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;

/// What the client makes of an answer to its question about both keys.
fn believed(answer: impl Fn(&[u8]) -> Option<Vec<u8>>) -> bool {
    let mut setup = toy();
    setup.client.hears_host_keys = true;
    let mut stage = Stage::client_logged_in(&setup);
    let keys = [host_key().public().clone(), stranger().public().clone()];
    stage.say_raw(&tells(&list(&[keys[0].blob(), keys[1].blob()])));
    let told = |event: &Event| matches!(event, Event::HostKeys { keys } if keys.len() == 2);
    assert_eq!((fate(&stage), stage.victim.saw(told)), (Fate::Ignores, 1));
    let now = stage.now;
    let asked = stage.victim.attempt(now, |conn, env| match conn {
        Conn::Client(client) => client.ask_proofs(&keys, env),
        Conn::Server(_) => unreachable!("a client"),
    });
    assert_eq!(asked, Some(true));
    stage.run();
    assert_eq!(stage.heard.pop().map(|message| message[0]), Some(number::GLOBAL_REQUEST));
    // Until the answer has come the connection does not move.
    assert!(stage.victim.conn.export().is_none());
    match answer(stage.rogue.session_id()) {
        Some(rest) => stage.say(&RequestSuccess { rest: &rest }),
        None => stage.say(&RequestFailure),
    }
    assert_eq!(fate(&stage), Fate::Ignores);
    let Some(Seen::Event(Event::HostKeysProved { answer })) = stage.victim.seen.last() else {
        panic!("no answer: {:?}", stage.victim.traces());
    };
    let Conn::Client(client) = &stage.victim.conn else { unreachable!("a client") };
    answer.as_ref().is_some_and(|answer| host_keys_hold(client, &keys, answer))
}

#[test]
fn case_123_host_keys_count_when_each_has_signed_for_this_session() {
    let keys = [host_key(), stranger()];
    let publics = keys.map(PrivateKey::public);
    let both = |session: &[u8]| keys.map(|key| proof(key, session, key.public()));
    assert!(believed(|session| Some(list(&both(session).each_ref().map(Vec::as_slice)))));
    let lies: [Answer<'_>; 7] = [
        &|_| None,
        &|_| Some(Vec::new()),
        &|session| Some(list(&[&both(session)[0]])),
        // The one that it holds signs for the other, and about itself in the other's place.
        &|session| Some(list(&[&both(session)[0], &proof(keys[0], session, publics[1])])),
        &|session| Some(list(&[&both(session)[0], &both(session)[0]])),
        // Signatures of another session, and more than was asked for.
        &|session| {
            let other = vec![7; session.len()];
            Some(list(&[&both(session)[0], &proof(keys[1], &other, publics[1])]))
        },
        &|session| Some(list(&[&both(session)[0], &both(session)[1], &both(session)[1]])),
    ];
    for (which, lie) in lies.iter().enumerate() {
        assert!(!believed(lie), "lie {which}");
    }
}

#[test]
fn lists_of_host_keys_that_no_server_sends_are_not_heard() {
    let mut setup = toy();
    let key = host_key().public().blob();
    for (hears, rest) in [
        (false, list(&[key])),
        (true, list(&[key; 17])),
        (true, list(&[key])[1..].to_vec()),
        (true, list(&[&[0; 40_000]])),
    ] {
        setup.client.hears_host_keys = hears;
        let mut stage = Stage::client_logged_in(&setup);
        stage.say_raw(&tells(&rest));
        let told = stage.victim.saw(|event| matches!(event, Event::HostKeys { .. }));
        assert_eq!((fate(&stage), told), (Fate::Ignores, 0));
    }
}
