use std::sync::Mutex;
use std::sync::mpsc;

use super::bureau::Bureau;
use super::*;
use crate::crypto::{Certificate, KeyAlgorithm};
use crate::gateway::helper::keeper::Lie;
use crate::limits::{
    CERTIFICATE_CLOCK_SKEW, SIGNATURE_TRIES_MAX, SIGNATURES_WAITING_MAX, UPSTREAM_CERTIFICATE_TIME,
};
use crate::transport::samples::{self, ED25519, IDENT};

/// A signer with these keys on a thread of this process, and the way to it. It ends with the test's.
pub(in crate::gateway) fn on_a_thread(keys: Vec<PrivateKey>) -> (Arc<Bureau>, Vec<KnownKey>) {
    with_openers(keys, Vec::new())
}

/// The same with keys that open hosts, those that certify among them.
pub(in crate::gateway) fn with_openers(
    keys: Vec<PrivateKey>,
    openers: Vec<(PrivateKey, bool)>,
) -> (Arc<Bureau>, Vec<KnownKey>) {
    let publics: Vec<PublicKey> = keys.iter().map(|key| key.public().clone()).collect();
    let opening: Vec<PublicKey> = openers.iter().map(|(key, _)| key.public().clone()).collect();
    let upstream_keys = openers.iter().map(|(key, certifies)| UpstreamKey {
        public: key.public().blob().to_vec(),
        certifies: *certifies,
    });
    let upstream_keys = upstream_keys.collect();
    let upstream = openers.into_iter().map(|(key, _)| Some(key)).collect();
    let known = |key: &PublicKey| KnownKey {
        public: key.blob().to_vec(),
        certificate: Vec::new(),
        is_agents: false,
    };
    let known: Vec<KnownKey> = publics.iter().map(known).collect();
    let setup =
        Setup { ident: IDENT.into(), keys: known.clone(), upstream_keys, ..Setup::default() };
    let host = keys.into_iter().map(Some).collect();
    let (ours, theirs) = Messenger::pair().expect("a socket pair");
    let (ours, theirs) = (Arc::new(ours), Arc::new(theirs));
    let signing = Arc::new(Signing::new(&setup, Keys { host, upstream }, &theirs).expect("keys"));
    on_thread(move || {
        let slow = start_slow(&signing, 1).expect("a thread");
        signing.serve(&slow, &mut vec![0; PARCEL_BYTES_MAX as usize]).expect("served");
    });
    let bureau = Arc::new(Bureau::new(publics, opening));
    bureau.begin(&ours);
    let hearing = Arc::clone(&bureau);
    on_thread(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(Some((len, _))) = helper::next_message(&ours, &mut buffer) {
            let say = Say::decode(&buffer[..len]).expect("a message");
            hearing.hear(say).expect("true");
        }
    });
    (bureau, known)
}

fn on_thread(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name("a part".to_owned()).spawn(work).expect("a thread");
}

fn order(host_key: u32, exchange: SignableExchange) -> Order {
    Order { key: host_key, what: Signable::Exchange(exchange) }
}

fn ed25519() -> PrivateKey {
    PrivateKey::generate(KeyKind::Ed25519).expect("a key")
}

fn ask(bureau: &Bureau, order: Order) -> mpsc::Receiver<Option<Vec<u8>>> {
    let (sender, answer) = mpsc::channel();
    bureau.sign(order, Box::new(move |signature| drop(sender.send(signature))));
    answer
}

/// SECURITY case 134: the signer makes the hash itself, of what can be an exchange of its own server.
#[test]
fn case_134_a_signer_signs_exchanges_that_are_its_servers_alone() {
    let (key, rsa) = (ed25519(), PrivateKey::generate(KeyKind::Rsa).expect("a key"));
    let (public, rsa_public) = (key.public().clone(), rsa.public().clone());
    let (bureau, known) = on_a_thread(vec![key, rsa]);
    let exchange = samples::exchange(ED25519, 1);
    let hash = exchange.fields().expect("fields").hash(&known[0].public);
    let signature = ask(&bureau, order(0, exchange.clone())).recv().expect("an answer");
    let signature = signature.expect("signed");
    public.verify(SignatureAlgorithm::Ed25519, hash.as_ref(), &signature).expect("of the hash");
    // One that takes milliseconds.
    let sha512 = KeyAlgorithm::plain(SignatureAlgorithm::RsaSha512);
    let slow = samples::exchange(sha512, 2);
    let hash = slow.fields().expect("fields").hash(&known[1].public);
    let signature = ask(&bureau, order(1, slow)).recv().expect("an answer").expect("signed");
    rsa_public.verify(sha512.signature, hash.as_ref(), &signature).expect("of the hash");
    // Another key, another way to sign, a certificate that there is not, and what is no exchange.
    let certified = samples::exchange(KeyAlgorithm::certified(SignatureAlgorithm::Ed25519), 3);
    for (host_key, refused) in [
        (2, exchange.clone()),
        (1, exchange.clone()),
        (0, certified),
        (0, SignableExchange::from_bytes(b"a text to be signed")),
        (0, SignableExchange::from_bytes(&[1; 32])),
    ] {
        assert_eq!(ask(&bureau, order(host_key, refused)).recv().expect("an answer"), None);
    }
    assert!(ask(&bureau, order(0, exchange)).recv().expect("an answer").is_some());
    // The proof that it holds a key is made of the session alone.
    let what = Signable::Proof { algorithm: SignatureAlgorithm::Ed25519, session: [9; 32].into() };
    let signature = ask(&bureau, Order { key: 0, what }).recv().expect("an answer");
    let proof = host_key_proof(&[9; 32], &public);
    let signature = signature.expect("signed");
    public.verify(SignatureAlgorithm::Ed25519, &proof, &signature).expect("of the proof");
    let what = Signable::Proof { algorithm: SignatureAlgorithm::Ed25519, session: [9; 32].into() };
    assert_eq!(ask(&bureau, Order { key: 1, what }).recv().expect("an answer"), None);
}

/// SECURITY case 134: keys that open hosts sign logins, or certify for one, and nothing else.
#[test]
fn case_134_a_signer_opens_hosts_by_typed_fields_alone() {
    let openers = [(false, ed25519()), (true, ed25519())];
    let publics = openers.each_ref().map(|(_, key)| key.public().clone());
    let openers = openers.map(|(certifies, key)| (key, certifies)).into();
    let (bureau, _) = with_openers(vec![ed25519()], openers);
    let asked = |key, what| ask(&bureau, Order { key, what }).recv().expect("an answer");
    let login = |algorithm, host_key: &[u8]| {
        let session = LoginSession { id: [9; 32].into(), host_key: host_key.into() };
        Signable::Login { algorithm, user: "deploy".into(), session }
    };
    let ed25519_login = |host_key: &[u8]| login(SignatureAlgorithm::Ed25519, host_key);
    for host_key in [&b""[..], b"HOST"] {
        let signature = asked(0, ed25519_login(host_key)).expect("signed");
        let key = publics[0].blob();
        let host_key = Some(host_key).filter(|key| !key.is_empty());
        let attempt = PublicKeyAttempt { algorithm: "ssh-ed25519", key, host_key, signature: None };
        let message = attempt.signed_bytes(&[9; 32], "deploy", "ssh-connection").expect("room");
        let verified = publics[0].verify(SignatureAlgorithm::Ed25519, &message, &signature);
        verified.expect("a login and nothing else");
    }
    let made = ed25519();
    let certificate = |subject: &PublicKey| Signable::Certificate {
        subject: subject.blob().into(),
        user: "deploy".into(),
        key_id: "ann from 192.0.2.1".into(),
        sources: "192.0.2.9".into(),
    };
    let blob = asked(1, certificate(made.public())).expect("certified");
    let issued = Certificate::from_blob(&blob).expect("a certificate");
    assert_eq!((issued.key(), issued.authority()), (made.public(), &publics[1]));
    assert_eq!(issued.principals().collect::<Vec<_>>(), ["deploy"]);
    let counts = issued.valid_before() - issued.valid_after();
    let most = UPSTREAM_CERTIFICATE_TIME + CERTIFICATE_CLOCK_SKEW;
    assert_eq!(counts, most.as_secs());
    // Each is for its own purpose, as host keys are.
    assert_eq!(asked(1, ed25519_login(b"")), None);
    assert_eq!(asked(0, certificate(made.public())), None);
    assert_eq!(asked(2, ed25519_login(b"")), None);
    assert_eq!(asked(0, login(SignatureAlgorithm::RsaSha512, b"")), None);
    let other = PrivateKey::generate(KeyKind::EcdsaP256).expect("a key");
    assert_eq!(asked(1, certificate(other.public())), None);
    let proof = |algorithm| Signable::Proof { algorithm, session: [9; 32].into() };
    assert_eq!(asked(1, proof(SignatureAlgorithm::Ed25519)), None, "it is no host key");
}

/// A bureau, and what a test's signer is told.
struct Scene {
    bureau: Bureau,
    signer: Mutex<Messenger>,
}

impl Scene {
    fn new() -> Scene {
        let bureau = Bureau::new(vec![ed25519().public().clone()], Vec::new());
        let (ours, theirs) = Messenger::pair().expect("a socket pair");
        bureau.begin(&Arc::new(ours));
        Scene { bureau, signer: Mutex::new(theirs) }
    }

    /// The signer has ended and another is there.
    fn again(&self) {
        self.bureau.end();
        let (ours, theirs) = Messenger::pair().expect("a socket pair");
        self.bureau.begin(&Arc::new(ours));
        *self.signer.lock().expect("a lock") = theirs;
    }

    fn told(&self) -> u64 {
        let mut buffer = vec![0; 65_536];
        let (len, _) = self.signer.lock().expect("a lock").receive(&mut buffer).expect("told");
        match Tell::decode(&buffer[..len]) {
            Ok(Tell::Sign { ticket, .. }) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self) -> mpsc::Receiver<Option<Vec<u8>>> {
        ask(&self.bureau, order(0, samples::exchange(ED25519, 5)))
    }
}

/// SECURITY R3b: what a signer has not answered is asked of the next one; what ends each is given up.
#[test]
fn r3b_what_was_asked_for_outlives_the_signer() {
    let scene = Scene::new();
    let (first, second) = (scene.ask(), scene.ask());
    let (one, two) = (scene.told(), scene.told());
    scene.bureau.hear(Say::Signed { ticket: two, signature: vec![2] }).expect("asked for");
    assert_eq!(second.recv().expect("an answer"), Some(vec![2]));
    scene.again();
    assert_eq!(scene.told(), one, "told again, and no other");
    let third = scene.ask();
    assert_eq!(SIGNATURE_TRIES_MAX, 2);
    scene.again();
    assert_eq!(first.recv().expect("an answer"), None, "two signers ended with it");
    let three = scene.told();
    scene.bureau.hear(Say::Signed { ticket: three, signature: vec![3] }).expect("asked for");
    assert_eq!(third.recv().expect("an answer"), Some(vec![3]));
    // While there is none, and when there is none any more.
    scene.bureau.end();
    let waiting = scene.ask();
    assert!(waiting.try_recv().is_err());
    scene.bureau.give_up(false);
    assert_eq!(waiting.recv().expect("an answer"), None);
    scene.bureau.give_up(true);
    assert_eq!(scene.ask().recv().expect("an answer"), None);
}

/// SECURITY case 136: a signer that lies is found out.
#[test]
fn case_136_a_signer_that_lies_is_found_out() {
    let scene = Scene::new();
    let answer = scene.ask();
    let ticket = scene.told();
    let unasked = Err(Lie("a signature that nobody has asked for"));
    let signed = |ticket| Say::Signed { ticket, signature: vec![1] };
    assert_eq!(scene.bureau.hear(signed(ticket + 1)), unasked);
    let empty = Say::Signed { ticket, signature: Vec::new() };
    assert_eq!(scene.bureau.hear(empty), Err(Lie("an empty signature")));
    scene.bureau.hear(signed(ticket)).expect("asked for");
    assert!(answer.recv().expect("an answer").is_some());
    assert_eq!(scene.bureau.hear(signed(ticket)), unasked, "once");
    // What it was not told of yet.
    scene.bureau.end();
    let waiting = scene.ask();
    assert_eq!(scene.bureau.hear(signed(ticket + 1)), unasked);
    scene.bureau.give_up(true);
    assert_eq!(waiting.recv().expect("an answer"), None);
}

/// More than can wait are refused at once, and of slow ones a signer has a few at a time.
#[test]
fn what_waits_is_bounded() {
    let rsa = PrivateKey::generate(KeyKind::Rsa).expect("a key").public().clone();
    let bureau = Bureau::new(vec![rsa], Vec::new());
    let (ours, theirs) = Messenger::pair().expect("a socket pair");
    bureau.begin(&Arc::new(ours));
    let exchange = SignableExchange::from_bytes(&[1]);
    let answers: Vec<_> =
        (0..=SIGNATURES_WAITING_MAX).map(|_| ask(&bureau, order(0, exchange.clone()))).collect();
    assert_eq!(answers.last().expect("the last").try_recv(), Ok(None));
    assert!(answers[SIGNATURES_WAITING_MAX - 1].try_recv().is_err());
    let mut buffer = [0; 1024];
    let mut told = || {
        let message = theirs.try_receive(&mut buffer).ok()?;
        Some(Tell::decode(&buffer[..message]).expect("a message"))
    };
    let count = std::iter::from_fn(&mut told).count();
    assert_eq!(count, SLOW_SIGNATURES_MAX);
    bureau.hear(Say::Signed { ticket: 0, signature: vec![1] }).expect("asked for");
    assert_eq!(std::iter::from_fn(told).count(), 1, "one more");
}
