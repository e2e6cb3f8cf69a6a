use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::*;
use crate::connection::LoginSession;
use crate::crypto::{KeyKind, PrivateKey, SignatureAlgorithm};
use crate::gateway::signer::bureau::Bureau;
use crate::gateway::signer::words::{KnownKey, Order, Setup};
use crate::gateway::signer::{Keys, start_slow};
use crate::limits::PARCEL_BYTES_MAX;
use crate::transport::samples::{self, ED25519, IDENT};

fn signing(messenger: &Arc<Messenger>) -> (Signing, KnownKey) {
    let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    let known = KnownKey {
        public: key.public().blob().to_vec(),
        certificate: Vec::new(),
        is_agents: false,
    };
    let setup = Setup { ident: IDENT.into(), keys: vec![known.clone()], ..Setup::default() };
    let keys = Keys { host: vec![Some(key)], upstream: Vec::new() };
    (Signing::new(&setup, keys, messenger).expect("a key"), known)
}

/// A signer that knows of two who go on without root's process, and of one that has ended.
fn bequeath() -> (Messenger, [Messenger; 2], JoinHandle<anyhow::Result<()>>) {
    let (ours, theirs) = Messenger::pair().expect("a socket pair");
    let (signing, _) = signing(&Arc::new(theirs));
    let ways = [1, 2, 3].map(|number| {
        let (signers, its) = Messenger::pair().expect("a socket pair");
        let tell = Tell::Heir { number }.encode();
        ours.try_send(&tell, Some(signers.as_owned_fd().as_fd())).expect("told");
        its
    });
    ours.try_send(&Tell::NoHeir { number: 3 }.encode(), None).expect("told");
    let serve = move || {
        let signing = Arc::new(signing);
        let slow = start_slow(&signing, 1)?;
        signing.serve(&slow, &mut vec![0; PARCEL_BYTES_MAX as usize])
    };
    let thread = thread::Builder::new().name("a signer".to_owned()).spawn(serve);
    let [one, other, ended] = ways;
    let thread = thread.expect("a thread");
    drop(ended);
    (ours, [one, other], thread)
}

fn order(what: Signable) -> Tell {
    Tell::Sign { ticket: 7, order: Order { key: 0, what } }
}

fn exchange() -> Tell {
    order(Signable::Exchange(samples::exchange(ED25519, 1)))
}

fn asked(way: &Messenger, tell: &Tell) -> Option<Say> {
    way.send(&tell.encode()).expect("said");
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let (len, _) = helper::next_message(way, &mut buffer).expect("heard")?;
    Some(Say::decode(&buffer[..len]).expect("a message"))
}

/// SECURITY cases R3 and 134: whoever has sessions when root's process is killed has key exchanges signed,
/// and nothing else, for as long as it is there.
#[test]
fn case_134_and_r3_those_who_go_on_have_key_exchanges_signed_alone() {
    let (ours, [one, other], thread) = bequeath();
    // Nobody hears them before.
    one.send(&exchange().encode()).expect("said");
    ours.send(&Tell::Ping.encode()).expect("said");
    drop(ours);
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let (len, _) = one.receive(&mut buffer).expect("heard");
    assert!(matches!(Say::decode(&buffer[..len]), Ok(Say::Signed { ticket: 7, .. })));
    let algorithm = SignatureAlgorithm::Ed25519;
    let session = LoginSession { id: [9; 32].into(), host_key: Box::default() };
    for what in [
        Signable::Proof { algorithm, session: [9; 32].into() },
        Signable::Login { algorithm, user: "root".into(), session },
        Signable::Exchange(samples::exchange(ED25519, 1)),
    ] {
        let signed = matches!(what, Signable::Exchange(_));
        let said = asked(&one, &order(what));
        assert_eq!(matches!(said, Some(Say::Signed { .. })), signed, "{said:?}");
    }
    // What is root's process's to say ends the hearing of who says it, and of nobody else.
    assert_eq!(asked(&one, &Tell::Heir { number: 4 }), None);
    assert!(matches!(asked(&other, &exchange()), Some(Say::Signed { ticket: 7, .. })));
    drop(other);
    thread.join().expect("no panic").expect("its end");
}

/// A gateway that ends leaves no signer, whoever is there still.
#[test]
fn a_signer_that_is_told_to_end_stays_for_nobody() {
    let (ours, ways, thread) = bequeath();
    ours.send(&Tell::Stop.encode()).expect("said");
    ours.hang_up();
    thread.join().expect("no panic").expect("its end");
    assert!(ways.iter().all(|way| way.receive(&mut [0; 8]).is_ok_and(|(len, _)| len == 0)));
}

#[test]
fn a_process_has_as_many_signatures_as_its_sessions_have_a_use_for() {
    let (ours, theirs) = Messenger::pair().expect("a socket pair");
    let (signing, _) = signing(&Arc::new(ours));
    let (signers, its) = Messenger::pair().expect("a socket pair");
    let mut heir = Heir { messenger: signers, signatures: HEIR_SIGNATURES_OWED_MAX - 1 };
    let since = reactor::now().after(std::time::Duration::from_secs(60));
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    for signed in [true, false] {
        its.send(&exchange().encode()).expect("said");
        assert!(heir.answer(&signing, since, &mut buffer));
        let (len, _) = its.receive(&mut buffer).expect("heard");
        let say = Say::decode(&buffer[..len]).expect("a message");
        assert_eq!(matches!(say, Say::Signed { .. }), signed, "{say:?}");
    }
    drop(theirs);
}

/// The next signer hears of those that there are, and of none that has ended.
#[test]
fn every_signer_is_told_of_those_who_are_there() {
    let bureau = Arc::new(Bureau::new(Vec::new(), Vec::new()));
    let told = |signer: &Messenger| {
        let mut buffer = [0; 64];
        let (len, passenger) = signer.receive(&mut buffer).expect("told");
        match Tell::decode(&buffer[..len]).expect("a message") {
            Tell::Heir { number } => (number, passenger.is_some()),
            Tell::NoHeir { number } => (number, false),
            other => panic!("{other:?}"),
        }
    };
    let (_way, first) = bureau.heir().expect("a way");
    let signer = |bureau: &Bureau| {
        let (ours, signer) = Messenger::pair().expect("a socket pair");
        bureau.begin(&Arc::new(ours));
        signer
    };
    let one = signer(&bureau);
    assert_eq!(told(&one), (0, true));
    let (_other, _second) = bureau.heir().expect("a way");
    assert_eq!(told(&one), (1, true));
    drop(first);
    assert_eq!(told(&one), (0, false));
    bureau.end();
    bureau.give_up(false);
    let other = signer(&bureau);
    assert_eq!(told(&other), (1, true));
    assert!(other.try_receive(&mut [0; 8]).is_err(), "there is no other");
}
