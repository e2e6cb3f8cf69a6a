//! Requests for proofs of host keys that no client of good will sends.

use super::*;
use tidegate::connection::host_key_proof;
use tidegate::crypto::{KeyKind, PrivateKey, PublicKey, SignatureAlgorithm};
use tidegate::wire::Reader;
use tidegate::wire::channel::{GlobalBody, GlobalRequest};

fn list(keys: &[&[u8]]) -> Vec<u8> {
    let mut list = Vec::new();
    for key in keys {
        list.extend((key.len() as u32).to_be_bytes());
        list.extend_from_slice(key);
    }
    list
}

fn strings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut body = Reader::new(bytes);
    let mut strings = Vec::new();
    while !body.is_empty() {
        strings.push(body.string(40_000).expect("a list").to_vec());
    }
    strings
}

/// What the server answers: signatures, or nothing.
fn proofs(peer: &mut Peer, rest: &[u8]) -> Option<Vec<Vec<u8>>> {
    let request = GlobalBody::Other { name: "hostkeys-prove-00@openssh.com", rest };
    peer.say(&GlobalRequest { want_reply: true, request });
    let answer = peer.hear().expect("an answer");
    match answer[0] {
        number::REQUEST_SUCCESS => Some(strings(&answer[1..])),
        number => {
            assert_eq!(number, number::REQUEST_FAILURE);
            None
        }
    }
}

fn told(peer: &mut Peer) -> Vec<Vec<u8>> {
    peer.assert_well();
    strings(peer.told.as_ref().expect("host keys"))
}

/// The proof holds for the key and this session, and the key has signed no other bytes of ours.
#[test]
fn host_keys_are_proved_to_their_session_alone_and_not_often() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let keys = told(&mut peer);
    assert_eq!(keys.len(), crate::support::HOST_KEYS.len());
    let blobs: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let signatures = proofs(&mut peer, &list(&blobs)).expect("signatures");
    assert_eq!(signatures.len(), keys.len());
    let mut other = Peer::login(&gateway);
    for (blob, signature) in keys.iter().zip(&signatures) {
        let key = PublicKey::from_blob(blob).expect("a key");
        let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
        let holds = |session: &[u8]| {
            key.verify(algorithm, &host_key_proof(session, &key), signature).is_ok()
        };
        assert!(holds(peer.transport.session_id()), "{:?}", key.kind());
        assert!(!holds(other.transport.session_id()), "{:?}", key.kind());
    }
    // What is left of it after that is refused, and nothing else is.
    assert!(proofs(&mut peer, &list(&blobs[..1])).is_some());
    assert_eq!(proofs(&mut peer, &list(&blobs[..1])), None);
    peer.assert_well();

    let stranger = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    let stranger = stranger.public().blob();
    let twice = [blobs.as_slice(), &blobs[..1]].concat();
    for rest in [list(&[blobs[0], stranger]), list(&twice), list(&[b""]), b"\0\0\0\x01".to_vec()] {
        let mut peer = Peer::login(&gateway);
        assert_eq!(proofs(&mut peer, &rest), None);
        peer.assert_well();
    }
    // Nobody is told who has not logged in, and nothing is signed where nobody waits for it.
    let request = GlobalBody::Other { name: "hostkeys-prove-00@openssh.com", rest: &list(&blobs) };
    other.say(&GlobalRequest { want_reply: false, request });
    other.assert_well();
    let mut early = Peer::connect(&gateway);
    early.say(&GlobalRequest { want_reply: true, request });
    early.assert_dropped(PROTOCOL_ERROR, "before the login");
    assert_eq!(early.told, None);
    drop((peer, other));
    watch.end();
}
