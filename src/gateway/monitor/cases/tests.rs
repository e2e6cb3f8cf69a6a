use super::*;
use crate::connection::{Chains, Presence};
use crate::crypto::{KeyKind, PrivateKey, SignatureAlgorithm};
use crate::services::{Account, Demands, Rules};

/// An edge that was taken over, and a client who has a key.
struct Scene {
    cases: Cases,
    key: PrivateKey,
}

const SESSION: [u8; 32] = [1; 32];

fn from(link: u64) -> Origin {
    Origin {
        link,
        peer: ([192, 0, 2, 7], 50_000).into(),
        local: ([192, 0, 2, 1], 22).into(),
        routing: Default::default(),
    }
}

fn grant(user: &str, chains: &[&[Method]]) -> Grant {
    Grant {
        account: Account {
            name: user.into(),
            uid: 1000,
            gid: 1000,
            home: "/home".into(),
            shell: "/bin/sh".into(),
        },
        key: None,
        forced_command: None,
        pty: true,
        accept_env: Vec::new(),
        set_env: Vec::new(),
        subsystems: Vec::new(),
        scp: true,
        open_files: None,
        limits: None,
        source: "test".into(),
        verbosity: None,
        rules: Rules::default(),
        presence: Presence::TOUCH,
        place: crate::services::Place::System,
        upstream: None,
        demands: Demands {
            chains: Chains::new(chains.iter().map(|chain| (*chain).into())),
            codes: false,
        },
    }
}

impl Scene {
    /// One connection has exchanged keys. Tests run side by side, so each has sessions of its own.
    fn new(session: u8) -> Scene {
        let mut cases = Cases::default();
        cases.sign(&from(1), &[session; 32]).expect("the first hash");
        assert!(cases.signed(1));
        Scene { cases, key: PrivateKey::generate(KeyKind::Ed25519).expect("a key") }
    }

    fn shown(&self) -> ShownKey {
        ShownKey::of_blob(self.key.public().blob()).expect("a key")
    }

    /// The key is asked about for `user`, and found.
    fn find(&mut self, link: u64, user: &str, chains: &[&[Method]]) {
        self.cases.ask(&from(link), user).expect("a question");
        let shown = self.shown();
        assert!(self.cases.key_found(link, &shown, Some(Arc::new(grant(user, chains)))));
    }

    fn proof(&self, session: &[u8], user: &str, host_key: Option<&[u8]>) -> Proof {
        let shown = self.shown();
        let (algorithm, key) = shown.offer();
        let attempt = PublicKeyAttempt { algorithm, key, signature: Some(&[]), host_key };
        let mut message = vec![0; attempt.signed_bytes_max(session, user, SERVICE_CONNECTION)];
        let mut out = Writer::new(&mut message);
        attempt.write_signed(session, user, SERVICE_CONNECTION, &mut out).expect("room");
        let signature = self.key.sign(SignatureAlgorithm::Ed25519, out.written()).expect("signed");
        Proof::Key { shown, host_bound: host_key.is_some(), signature: signature.into() }
    }

    /// The edge passes a signature on: whose login it is, if it holds. `None`: nobody's key.
    fn prove(&mut self, link: u64, proof: &Proof) -> Option<Option<String>> {
        let Proof::Key { shown, host_bound, signature } = proof else { return None };
        let signed = Signed { host_bound: *host_bound, signature: signature.clone() };
        let held = self.cases.statement(link)?.holds(shown, &signed, &[b"HOST".to_vec()]);
        let proved = self.cases.prove(link, shown, &signed, held)?;
        Some(proved.map(|grant| grant.account.name.clone()))
    }

    fn admit(&mut self, link: u64, proofs: &[Proof]) -> Result<String, &'static str> {
        let hosts = [b"HOST".to_vec()];
        let admitted = self.cases.admit(link, proofs, &hosts).map_err(|lie| lie.0);
        admitted.map(|admitted| admitted.grant.account.name)
    }
}

const KEY: &[&[Method]] = &[&[Method::PublicKey]];

#[test]
fn case_136_a_login_that_is_over_is_let_in_once() {
    let mut scene = Scene::new(10);
    scene.find(1, "ann", KEY);
    let proof = scene.proof(&[10; 32], "ann", None);
    assert_eq!(scene.admit(1, std::slice::from_ref(&proof)), Ok("ann".into()));
    assert_eq!(scene.admit(1, &[proof]), Err("a login of no connection"));
    assert!(scene.cases.open.is_empty());
}

/// `ann:style` is what a client signs then; who the user is, and which style, the edge cannot choose anew.
#[test]
fn case_136_a_style_is_signed_and_does_not_change() {
    for (session, signs, expected) in [
        (13, "ann:style", Ok("ann".into())),
        (14, "ann", Err("a signature that does not hold")),
        (15, "ann:other", Err("a signature that does not hold")),
    ] {
        let mut scene = Scene::new(session);
        scene.cases.ask_about_key(&from(1), "ann", ":style").expect("a question");
        let shown = scene.shown();
        assert!(scene.cases.key_found(1, &shown, Some(Arc::new(grant("ann", KEY)))));
        let proof = scene.proof(&[session; 32], signs, None);
        assert_eq!(scene.admit(1, &[proof]), expected, "{signs}");
    }
    let mut scene = Scene::new(16);
    scene.cases.ask_about_key(&from(1), "ann", ":style").expect("a question");
    let shown = scene.shown();
    assert!(scene.cases.key_found(1, &shown, None));
    let again = scene.cases.ask_about_key(&from(1), "ann", "").map(drop);
    assert_eq!(again, Err(Lie("the user's style has changed")));
}

#[test]
fn case_136_the_host_bound_method_is_bound_to_a_key_of_ours() {
    for (host, session, expected) in [
        (&b"HOST"[..], 11, Ok("ann".into())),
        (b"OTHER", 12, Err("a signature that does not hold")),
    ] {
        let mut scene = Scene::new(session);
        scene.find(1, "ann", KEY);
        let proof = scene.proof(&[session; 32], "ann", Some(host));
        assert_eq!(scene.admit(1, &[proof]), expected);
    }
}

#[test]
fn case_136_nothing_is_let_in_without_what_lets_it_in() {
    // No method at all.
    let mut scene = Scene::new(20);
    scene.find(1, "ann", KEY);
    assert_eq!(scene.admit(1, &[]), Err("a login that is not over"));
    // A key that was asked about and has signed nothing, or something else.
    let mut scene = Scene::new(21);
    scene.find(1, "ann", KEY);
    let proof = scene.proof(&[99; 32], "ann", None);
    assert_eq!(scene.admit(1, &[proof]), Err("a signature that does not hold"));
    // One that signed for another user.
    let mut scene = Scene::new(22);
    scene.find(1, "ann", KEY);
    let proof = scene.proof(&[22; 32], "root", None);
    assert_eq!(scene.admit(1, &[proof]), Err("a signature that does not hold"));
    // One that nobody has asked about, or that was refused.
    let mut scene = Scene::new(23);
    let proof = scene.proof(&[23; 32], "ann", None);
    assert_eq!(scene.admit(1, &[proof]), Err("a key that nobody has asked about"));
    let mut scene = Scene::new(24);
    scene.find(1, "ann", KEY);
    scene.cases.ask(&from(1), "ann").expect("a question");
    let shown = scene.shown();
    assert!(scene.cases.key_found(1, &shown, None));
    let proof = scene.proof(&[24; 32], "ann", None);
    assert_eq!(scene.admit(1, &[proof]), Err("a key that nobody has asked about"));
    // Passwords that were not told.
    let mut scene = Scene::new(25);
    scene.find(1, "ann", &[&[Method::Password]]);
    let proofs = [Proof::Secrets { interactive: false }];
    assert_eq!(scene.admit(1, &proofs), Err("secrets that were not told"));
    // A connection that there is not.
    assert_eq!(Scene::new(26).admit(7, &[]), Err("a login of no connection"));
}

/// A signature that a client made once opens nothing for anybody else, ever.
#[test]
fn case_136_what_was_signed_once_is_of_no_use_again() {
    let mut scene = Scene::new(30);
    scene.find(1, "ann", KEY);
    let other = Lie("the session of another connection");
    assert_eq!(scene.cases.sign(&from(2), &[30; 32]), Err(other), "while it is open");
    let proof = scene.proof(&[30; 32], "ann", None);
    assert_eq!(scene.admit(1, &[proof]), Ok("ann".into()));
    assert_eq!(scene.cases.sign(&from(3), &[30; 32]), Err(other), "after its login");
    let mut another = Cases::default();
    assert_eq!(another.sign(&from(3), &[30; 32]), Err(other), "in another edge");
    let mut scene = Scene::new(31);
    scene.find(1, "ann", KEY);
    scene.cases.over(1);
    assert_eq!(scene.cases.sign(&from(2), &[31; 32]), Err(other), "after it was given up");
    // A later exchange of the same connection is signed; it does not change the session.
    let mut scene = Scene::new(32);
    scene.cases.sign(&from(1), &[33; 32]).expect("another exchange");
    scene.find(1, "ann", KEY);
    let proof = scene.proof(&[33; 32], "ann", None);
    assert_eq!(scene.admit(1, &[proof]), Err("a signature that does not hold"));
}

/// What an edge passes on before a login is over is verified once; what it then says of the login is held
/// to that.
#[test]
fn case_136_a_signature_counts_once_it_was_verified_here() {
    let mut scene = Scene::new(90);
    let good = scene.proof(&[90; 32], "ann", None);
    assert_eq!(scene.prove(1, &good), None, "nobody has asked about the key");
    scene.find(1, "ann", KEY);
    for bad in [
        scene.proof(&[91; 32], "ann", None),
        scene.proof(&[90; 32], "root", None),
        scene.proof(&[90; 32], "ann", Some(b"OTHER")),
    ] {
        scene.cases.ask(&from(1), "ann").expect("a question");
        assert_eq!(scene.prove(1, &bad), Some(None));
        assert!(scene.cases.open[&1].keys[0].proved.is_none());
    }
    scene.cases.ask(&from(1), "ann").expect("the last was answered");
    assert_eq!(scene.prove(1, &good), Some(Some("ann".into())));
    // The key is taken away meanwhile: what it has signed goes with it.
    scene.cases.ask(&from(1), "ann").expect("a question");
    let shown = scene.shown();
    scene.cases.key_found(1, &shown, None);
    assert_eq!(scene.admit(1, &[good]), Err("a key that nobody has asked about"));
    // One that held, and another that is handed in.
    let mut scene = Scene::new(92);
    scene.find(1, "ann", KEY);
    let (good, other) = (scene.proof(&[92; 32], "ann", None), scene.proof(&[93; 32], "ann", None));
    assert_eq!(scene.prove(1, &good), Some(Some("ann".into())));
    assert_eq!(scene.admit(1, &[other]), Err("a signature that does not hold"));
}

/// SECURITY case 136: that a connection leaves which has only asked for methods is said of its own user, once, and
/// of none that has asked more.
#[test]
fn case_136_who_leaves_is_looked_up_once() {
    let mut cases = Scene::new(0x61).cases;
    assert!(cases.left(&from(2), "ann").is_err(), "no key exchange");
    assert!(matches!(cases.left(&from(1), "ann"), Ok(Some(_))));
    assert!(matches!(cases.left(&from(1), "ann"), Ok(None)));
    assert!(cases.ask(&from(1), "ann").is_err(), "it has left");
    // Who it is may have been asked before, but not who another is.
    let mut cases = Scene::new(0x62).cases;
    cases.ask(&from(1), "ann").expect("the first");
    assert!(matches!(cases.left(&from(1), "ann"), Ok(None)), "it is being asked");
    let mut cases = Scene::new(0x63).cases;
    cases.ask(&from(1), "ann").expect("the first");
    assert!(cases.greeted(1, About::default()));
    assert!(cases.left(&from(1), "bob").is_err());
    assert!(matches!(cases.left(&from(1), "ann"), Ok(Some(_))));
}

#[test]
fn case_136_questions_come_in_their_order() {
    let mut scene = Scene::new(40);
    let cases = &mut scene.cases;
    assert_eq!(cases.ask(&from(2), "ann").map(drop), Err(Lie("a login before its key exchange")));
    let elsewhere = Origin { peer: ([198, 51, 100, 1], 1).into(), ..from(1) };
    let moved = Lie("the ends of a connection have changed");
    assert_eq!(cases.ask(&elsewhere, "ann").map(drop), Err(moved));
    assert_eq!(cases.sign(&elsewhere, &SESSION), Err(moved));
    cases.ask(&from(1), "ann").expect("the first");
    assert_eq!(cases.ask(&from(1), "ann").map(drop), Err(Lie("more questions than a login has")));
    assert!(cases.lost(1));
    assert_eq!(cases.ask(&from(1), "root").map(drop), Err(Lie("the user's name has changed")));
    for n in 1..2 * AUTH_REQUESTS_MAX {
        cases.ask(&from(1), "ann").unwrap_or_else(|lie| panic!("{n}: {lie:?}"));
        assert!(cases.secrets_checked(1, (true, false), None));
    }
    assert_eq!(cases.ask(&from(1), "ann").map(drop), Err(Lie("more questions than a login has")));
    for n in 1..SIGNATURES_BEFORE_LOGIN_MAX {
        assert_eq!(cases.sign(&from(1), &SESSION), Ok(true), "{n}");
        let two = Err(Lie("two key exchanges of one connection"));
        assert_eq!(cases.sign(&from(1), &SESSION), two);
        assert!(cases.signed(1));
    }
    // A peer may ask for so many: that is no lie of the edge's.
    assert_eq!(cases.sign(&from(1), &SESSION), Ok(false));
    // What has ended meanwhile gets no answer.
    cases.over(1);
    assert!(!cases.greeted(1, About::default()) && !cases.lost(1) && !cases.signed(1));
}

#[test]
fn case_136_every_method_of_a_chain_is_asked_for() {
    let chains: &[&[Method]] = &[&[Method::PublicKey, Method::Password]];
    let (key, password) = (50, Proof::Secrets { interactive: false });
    let ready = |session| {
        let mut scene = Scene::new(session);
        scene.find(1, "ann", chains);
        scene.cases.ask(&from(1), "ann").expect("a question");
        assert!(scene.cases.secrets_checked(
            1,
            (true, false),
            Some(Arc::new(grant("ann", chains)))
        ));
        let proof = scene.proof(&[session; 32], "ann", None);
        (scene, proof)
    };
    let (mut scene, proof) = ready(key);
    assert_eq!(scene.admit(1, &[proof, password.clone()]), Ok("ann".into()));
    let (mut scene, proof) = ready(51);
    assert_eq!(scene.admit(1, &[proof]), Err("a login that is not over"));
    let (mut scene, proof) = ready(52);
    let swapped = [password.clone(), proof];
    assert_eq!(scene.admit(1, &swapped), Err("a method that was not asked for"));
    let (mut scene, proof) = ready(53);
    let more = [proof, password.clone(), password];
    assert_eq!(scene.admit(1, &more), Err("a method after the last"));
    let twice: &[&[Method]] = &[&[Method::PublicKey, Method::PublicKey]];
    let mut scene = Scene::new(54);
    scene.find(1, "ann", twice);
    let proof = scene.proof(&[54; 32], "ann", None);
    assert_eq!(scene.admit(1, &[proof.clone(), proof]), Err("a key that counts twice"));
}

#[test]
fn case_136_a_prompt_with_a_code_is_not_answered_by_a_password() {
    let chains: &[&[Method]] = &[&[Method::KeyboardInteractive]];
    let mut asking = grant("ann", chains);
    asking.demands.codes = true;
    for (session, told, expected) in [
        (60, (true, true), Ok("ann".into())),
        (61, (true, false), Err("secrets that were not told")),
        (62, (false, true), Err("secrets that were not told")),
    ] {
        let mut scene = Scene::new(session);
        scene.cases.ask(&from(1), "ann").expect("a question");
        assert!(scene.cases.secrets_checked(1, told, Some(Arc::new(asking.clone()))));
        assert_eq!(scene.admit(1, &[Proof::Secrets { interactive: true }]), expected);
    }
}
