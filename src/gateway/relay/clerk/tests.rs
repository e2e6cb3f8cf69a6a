use std::net::{IpAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;
use crate::connection::ClientConnectionConfig;
use crate::crypto::PrivateKey;
use crate::gateway::monitor::hear::Bench;
use crate::gateway::parcel::Parcel as Message;
use crate::gateway::recording::Received;
use crate::gateway::signer::tests::on_a_thread;
use crate::gateway::workers::{Execute, Workers};
use crate::limits::PARCEL_BYTES_MAX;
use crate::reactor::Fd;
use crate::services::upstream::{Finder, Fleet, HostKeyPolicy, LoginKey};
use crate::services::{Account, Demands, Grant, Place, Record, Recorded, RoutingDomain, Rules};
use crate::shard::Ends;
use crate::transport::{ClientConfig, Preferences};

const TICKET: Ticket = Ticket { shard: 1, token: Token { key: 2, generation: 3, tag: 4 } };
const PEER: &str = "192.0.2.1:5";

fn ed25519() -> PrivateKey {
    PrivateKey::generate(KeyKind::Ed25519).expect("a key")
}

/// Finds one host at one address, knows one key, and signs everything.
struct World {
    at: SocketAddr,
    known: PublicKey,
    opens: PublicKey,
}

impl Execute for World {
    fn run(&self, job: Job) -> Done {
        match job {
            Job::FindHosts { upstream, .. } => {
                let fleet = Arc::new(Fleet::new([("found".to_owned(), 22)]));
                let upstream = Upstream { fleet, finder: None, ..(*upstream).clone() };
                Done::Hosts(Ok(Box::new(upstream)))
            }
            Job::FindWay { upstream, .. } => {
                let key = LoginKey::Elsewhere(Box::new(self.opens.clone()));
                let (key, method) = crate::gateway::upstream::shown(key).expect("a login");
                let (addresses, config) = ([self.at].into(), Arc::clone(&upstream.config));
                Done::Way(Ok(Box::new(Way { addresses, socket: None, config, key, method })))
            }
            Job::JudgeHost { shown, .. } if *shown.key == self.known => Done::Judged(Ok(())),
            Job::JudgeHost { .. } => Done::Judged(Err(Trouble::plain("not known"))),
            Job::HaveLoginSigned { .. } => Done::Signature(Some([9; 83].into())),
            _ => Done::Lost,
        }
    }
}

struct Scene {
    clerk: Arc<Clerk>,
    staff: Staff,
    relay: Messenger,
    /// Of the host.
    key: PrivateKey,
    _listener: TcpListener,
    clients: Vec<UnixStream>,
    recorders: Arc<Received>,
}

impl Scene {
    fn new() -> Scene {
        let (bureau, _) = on_a_thread(vec![ed25519()]);
        let recorders = Arc::new(Received::default());
        let clerk = Clerk::new(bureau, None, Arc::clone(&recorders) as _).expect("a clerk");
        let clerk = Arc::new(clerk);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let key = ed25519();
        let at = listener.local_addr().expect("its address");
        let world = World { at, known: key.public().clone(), opens: ed25519().public().clone() };
        let workers = Arc::new(Workers::start(1, 8, Arc::new(world)).expect("a worker"));
        let bench = Bench { workers, greeters: None };
        let staff = Staff::new(bench, Arc::new(Post::to(&clerk)));
        let (ours, relay) = Messenger::pair().expect("a socket pair");
        clerk.begin(&Arc::new(ours));
        let clients = Vec::new();
        Scene { clerk, staff, relay, key, _listener: listener, clients, recorders }
    }

    /// A login with this number goes on at the only host; whoever has the session is its client.
    fn hand_over(&mut self, link: u64, upstream: &Upstream) -> Result<(), Lie> {
        self.hand_over_as(link, grant(upstream))
    }

    fn hand_over_as(&mut self, link: u64, grant: Grant) -> Result<(), Lie> {
        let (client, socket) = UnixStream::pair().expect("a socket pair");
        self.clients.push(client);
        let peer = PEER.parse().expect("an address");
        self.clerk.hand_over(HandOver {
            socket: Fd(OwnedFd::from(socket).into_raw_fd()),
            ends: Ends { peer, local: peer, routing: RoutingDomain::default() },
            serial: link,
            session: [link as u8; 32].into(),
            record: vec![1],
            inbound: Vec::new(),
            outbound: vec![3; 60],
            grant: Box::new(grant),
            proofs: Vec::new(),
            token: Box::default(),
            luggage: None,
        })
    }

    fn say(&mut self, ask: Ask) -> Result<(), &'static str> {
        let read = Ask::decode(&ask.encode()).expect("what a relay says can be read");
        self.clerk.hear(&mut self.staff, read).map_err(|lie| lie.0)
    }

    fn told(&self) -> (Tell, Option<OwnedFd>) {
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let (len, passenger) = self.relay.receive(&mut buffer).expect("told");
        (Tell::decode(&buffer[..len]).expect("a message"), passenger)
    }

    /// Asks about the host's key. `signer`: who has signed the session, if not that key.
    fn judge(&self, link: u64, host: u32, signer: Option<&PrivateKey>) -> Ask {
        let (algorithm, session) = (SignatureAlgorithm::Ed25519, vec![7; 32]);
        let signer = signer.unwrap_or(&self.key);
        let signature = signer.sign(algorithm, &session).expect("signed");
        let shown = ShownKey::of_blob(self.key.public().blob()).expect("a key");
        Ask::JudgeHost { ticket: TICKET, link, host, shown, session, signature }
    }
}

fn upstream(credential: Credential) -> Upstream {
    let preferences = Preferences::new("Test_1").expect("valid software");
    let config = ClientConnectionConfig::new(Arc::new(ClientConfig::new(preferences)));
    Upstream {
        fleet: Arc::new(Fleet::new([("web1".to_owned(), 22)])),
        finder: None,
        user: "deploy".into(),
        credential,
        on_behalf_of: "ann from 192.0.2.1".into(),
        client: IpAddr::from([192, 0, 2, 1]),
        known_hosts: "/known".into(),
        host_keys: HostKeyPolicy::Strict,
        ca_algorithms: vec![SignatureAlgorithm::Ed25519],
        announces: None,
        share: Some(Duration::from_secs(60)),
        config: Arc::new(config),
    }
}

fn by_key() -> Upstream {
    upstream(Credential::Identity("/key".into()))
}

fn grant(upstream: &Upstream) -> Grant {
    Grant {
        account: Account {
            name: "ann".into(),
            uid: 1000,
            gid: 1000,
            home: "/".into(),
            shell: "/bin/sh".into(),
        },
        key: None,
        forced_command: None,
        pty: true,
        accept_env: Vec::new(),
        set_env: Vec::new(),
        subsystems: Vec::new(),
        scp: false,
        open_files: None,
        limits: None,
        source: "keys:1".into(),
        verbosity: None,
        rules: Rules::default(),
        presence: crate::connection::Presence::TOUCH,
        place: Place::default(),
        upstream: Some(Arc::new(upstream.clone())),
        demands: Demands::default(),
    }
}

fn way(link: u64, host: u32, subject: &[u8]) -> Ask {
    Ask::FindWay { ticket: TICKET, link, host, subject: subject.to_vec() }
}

fn sign(link: u64, id: u8, host_key: &[u8]) -> Ask {
    let session = LoginSession { id: [id; 32].into(), host_key: host_key.into() };
    Ask::SignLogin { ticket: TICKET, link, algorithm: SignatureAlgorithm::Ed25519, session }
}

/// SECURITY case 136: what a relay may have is what the logins may have that it was given.
#[test]
fn case_136_a_relay_gets_what_its_logins_may_have_and_no_more() {
    let mut scene = Scene::new();
    let nobodys = Err("a login that it does not have");
    assert_eq!(scene.say(way(7, 0, b"")), nobodys);
    scene.hand_over(7, &by_key()).expect("handed over");
    let (Tell::HandOver(handed), Some(_)) = scene.told() else { panic!("no login") };
    assert_eq!((handed.link, handed.peer.to_string()), (7, PEER.to_owned()));
    // Whatever it asks for too early, for another login, or beside what this one may have.
    let host_key = scene.key.public().blob().to_vec();
    let made = ed25519().public().blob().to_vec();
    for (ask, lie) in [
        (way(8, 0, b""), "a login that it does not have"),
        (way(7, 1, b""), "a host that is none of its login's"),
        (way(7, u32::MAX, b""), "a host that is none of its login's"),
        (way(7, 0, &made), "a key that nobody certifies"),
        (Ask::FindHosts { ticket: TICKET, link: 7 }, "hosts that no program is asked for"),
        (scene.judge(7, 0, None), "the key of a host that it was not connected to"),
        (scene.judge(8, 0, None), "a login that it does not have"),
        (sign(7, 7, b""), "a session that no host of its login has proved"),
        (Ask::Over { link: 8 }, "the end of a login that it does not have"),
    ] {
        assert_eq!(scene.say(ask), Err(lie));
    }
    // The host of its login is connected for it.
    scene.say(way(7, 0, b"")).expect("its host");
    let (Tell::Way { ticket: TICKET, found: Ok(passage) }, Some(_)) = scene.told() else {
        panic!("no way")
    };
    assert!(matches!(passage.proof, Proof::Key(_)));
    // A session that the host has not signed is nobody's: what is signed for it could be of use elsewhere.
    let stranger = scene.judge(7, 0, Some(&ed25519()));
    assert_eq!(scene.say(stranger), Err("a host that has not signed its session"));
    let judge = scene.judge(7, 0, None);
    scene.say(judge).expect("the host's key");
    let (Tell::Judged { verdict: Ok(()), .. }, None) = scene.told() else { panic!("not known") };
    let again = scene.judge(7, 0, None);
    assert_eq!(scene.say(again), Err("the key of a host that it was not connected to"));
    let unproved = Err("a session that no host of its login has proved");
    assert_eq!(scene.say(sign(7, 8, b"")), unproved);
    assert_eq!(scene.say(sign(7, 7, b"another host's key")), unproved);
    scene.say(sign(7, 7, &host_key)).expect("its login");
    let (Tell::LoginSigned { signature, .. }, None) = scene.told() else { panic!("not signed") };
    assert_eq!(signature, [9; 83]);
    assert_eq!(scene.say(sign(7, 7, &host_key)), unproved, "once");
    // What comes behind its end was on its way.
    scene.say(Ask::Over { link: 7 }).expect("it is over");
    for ask in [way(7, 0, b""), sign(7, 7, b""), Ask::FindHosts { ticket: TICKET, link: 7 }] {
        scene.say(ask).expect("late");
        assert!(matches!(scene.told(), (Tell::Lost { ticket: TICKET }, None)));
    }
}

/// SECURITY case 136: a host that was refused is no reason to sign, and only a fresh key is certified.
#[test]
fn case_136_nothing_is_signed_for_hosts_that_are_not_known() {
    let mut scene = Scene::new();
    scene.hand_over(7, &by_key()).expect("handed over");
    scene.told();
    scene.say(way(7, 0, b"")).expect("its host");
    scene.told();
    let impostor = ed25519();
    let signature = impostor.sign(SignatureAlgorithm::Ed25519, &[7; 32]).expect("signed");
    let shown = ShownKey::of_blob(impostor.public().blob()).expect("a key");
    let session = vec![7; 32];
    let ask = Ask::JudgeHost { ticket: TICKET, link: 7, host: 0, shown, session, signature };
    scene.say(ask).expect("judged");
    let (Tell::Judged { verdict: Err(trouble), .. }, None) = scene.told() else { panic!("known") };
    assert_eq!(trouble.said, "not known");
    assert_eq!(scene.say(sign(7, 7, b"")), Err("a session that no host of its login has proved"));
    let certified = upstream(Credential::Authority("/ca".into()));
    scene.hand_over(8, &certified).expect("handed over");
    scene.told();
    let ecdsa = PrivateKey::generate(KeyKind::EcdsaP256).expect("a key");
    for subject in [&b""[..], b"x", ecdsa.public().blob()] {
        assert_eq!(scene.say(way(8, 0, subject)), Err("no key that was made for one login"));
    }
    // Where a program says which hosts there are, there are none before.
    let finder = Some(Finder { words: vec!["/find".into()], user: "nobody".into() });
    scene.hand_over(9, &Upstream { finder, ..by_key() }).expect("handed over");
    scene.told();
    assert_eq!(scene.say(way(9, 0, b"")), Err("a host that is none of its login's"));
    scene.say(Ask::FindHosts { ticket: TICKET, link: 9 }).expect("its program");
    let (Tell::Hosts { found: Ok(found), .. }, None) = scene.told() else { panic!("no hosts") };
    assert_eq!(found.hosts, [("found".to_owned(), 22)]);
    assert_eq!(
        scene.say(Ask::FindHosts { ticket: TICKET, link: 9 }),
        Err("hosts that no program is asked for"),
        "once"
    );
    scene.say(way(9, 0, b"")).expect("the host that was found");
    assert!(matches!(scene.told(), (Tell::Way { found: Ok(_), .. }, Some(_))));
}

/// SECURITY case 134: a relay has key exchanges and proofs for its own clients signed, and nothing else.
#[test]
fn case_134_a_relay_has_nothing_else_signed() {
    let mut scene = Scene::new();
    scene.hand_over(7, &by_key()).expect("handed over");
    scene.told();
    let proof = |session: u8| Signable::Proof {
        algorithm: SignatureAlgorithm::Ed25519,
        session: [session; 32].into(),
    };
    let mut order = |what| scene.say(Ask::Sign { ticket: 1, order: Order { key: 0, what } });
    let useless = Err("a signature that it has no use for");
    let session = LoginSession { id: [7; 32].into(), host_key: Box::default() };
    let (algorithm, user) = (SignatureAlgorithm::Ed25519, "root".into());
    assert_eq!(order(Signable::Login { algorithm, user, session }), useless);
    let text = || Box::<str>::from("x");
    let subject = ed25519().public().blob().into();
    let (user, key_id, sources) = (text(), text(), text());
    assert_eq!(order(Signable::Certificate { subject, user, key_id, sources }), useless);
    assert_eq!(order(proof(8)), useless, "another's session");
    assert_eq!(order(proof(7)), Ok(()));
    let (Tell::Signed { ticket: 1, signature }, None) = scene.told() else { panic!("unsigned") };
    assert!(!signature.is_empty());
}

/// A login that goes on elsewhere, and that lies about all it can.
fn moving(link: u64) -> Moving {
    let address = "192.0.2.66:6".parse().expect("an address");
    Moving {
        serial: link,
        peer: address,
        local: address,
        session: vec![66; 32],
        record: vec![1],
        inbound: vec![2],
        outbound: Vec::new(),
        grant: b"everything".to_vec(),
        upstream: Some(b"anywhere".to_vec()),
        token: Vec::new(),
        luggage: Some((vec![4], 1)),
        apart: false,
        kept: None,
    }
}

impl Scene {
    fn pass_on(&self, moving: Moving) -> Result<(), &'static str> {
        let (socket, piece) = UnixStream::pair().expect("a socket pair");
        self.clerk.pass_on(moving, (socket.into(), vec![piece.into()])).map_err(|lie| lie.0)
    }
}

/// SECURITY case 136: where a login goes on in another program, that is told what root's process knows of it, and
/// nothing that the relay says.
#[test]
fn case_136_a_login_goes_on_as_it_was_handed_over() {
    let mut scene = Scene::new();
    scene.hand_over(7, &by_key()).expect("handed over");
    scene.told();
    let untold = Err("a login that goes on, and nobody has told it to");
    assert_eq!(scene.pass_on(moving(7)), untold);
    assert!(!scene.clerk.may_pass_on());
    let (ours, next) = Messenger::pair().expect("a socket pair");
    scene.clerk.move_on(&Arc::new(Exit::new(Arc::new(ours))));
    assert!(matches!(scene.told(), (Tell::MoveOn, None)));
    assert_eq!(scene.pass_on(moving(8)), Err("a login that goes on, and is not here"));
    let early = Moving { luggage: None, ..moving(7) };
    assert_eq!(scene.pass_on(early), Err("a login that goes on before it has begun"));
    let kept = Moving { kept: Some(1), ..moving(7) };
    assert_eq!(scene.pass_on(kept), Err("a login that goes on before it has begun"));
    scene.pass_on(moving(7)).expect("its own");
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let mut came = || {
        let (len, passenger) = next.receive(&mut buffer).expect("it comes");
        assert!(passenger.is_some());
        Message::decode(&buffer[..len]).expect("a message")
    };
    assert_eq!(came(), Message::Piece { serial: 7, number: 0 });
    let peer = PEER.parse().expect("an address");
    let known = Moving {
        peer,
        local: peer,
        session: vec![7; 32],
        grant: grant(&by_key()).encode(),
        upstream: Some(destination::encode(&by_key())),
        ..moving(7)
    };
    assert_eq!(came(), Message::Connection(Box::new(known)));
    assert_eq!(scene.pass_on(moving(7)), Err("a login that goes on, and is not here"), "once");
    scene.say(Ask::Over { link: 7 }).expect("it has left");
    // Nobody takes it: it goes on where it was, and the end that the relay tells is none.
    scene.hand_over(9, &by_key()).expect("handed over");
    scene.told();
    drop(next);
    scene.pass_on(moving(9)).expect("its own");
    assert!(matches!(scene.told(), (Tell::Piece { link: 9, number: 0 }, Some(_))));
    let (Tell::HandOver(handed), Some(_)) = scene.told() else { panic!("it is lost") };
    assert_eq!((handed.record, handed.luggage), (vec![1], Some((vec![4], 1))));
    assert_eq!((handed.peer, handed.grant), (peer, grant(&by_key()).encode()));
    scene.say(Ask::Over { link: 9 }).expect("it came back");
    scene.say(way(9, 0, b"")).expect("it is there");
    scene.told();
    scene.say(Ask::Over { link: 9 }).expect("it is over");
}

/// SECURITY R2: what a relay was not given yet waits for the next, and nobody hears what another asked for.
#[test]
fn r2_logins_wait_for_the_next_relay() {
    let mut scene = Scene::new();
    scene.hand_over(7, &by_key()).expect("handed over");
    scene.told();
    assert_eq!(scene.hand_over(7, &by_key()), Err(Lie("the number of another login")));
    assert_eq!(scene.clerk.end(true), 1, "it is lost");
    scene.hand_over(8, &by_key()).expect("it waits");
    assert_eq!(scene.hand_over(8, &by_key()), Err(Lie("the number of another login")));
    let (ours, relay) = Messenger::pair().expect("a socket pair");
    scene.relay = relay;
    scene.clerk.begin(&Arc::new(ours));
    let (Tell::HandOver(handed), Some(_)) = scene.told() else { panic!("no login") };
    assert_eq!(handed.link, 8);
    assert_eq!(scene.say(way(7, 0, b"")), Err("a login that it does not have"));
    scene.clerk.retire();
    assert!(matches!(scene.told(), (Tell::Retire, None)));
    assert!(scene.clerk.is_done());
    // One that never served gives nobody anything to wait for.
    assert_eq!(scene.clerk.end(true), 1);
    scene.hand_over(9, &by_key()).expect("it waits");
    assert_eq!(scene.clerk.end(false), 0);
    assert!(scene.clerk.is_done());
}

/// A login that is to be recorded comes behind the way to its recorder, also where it has waited.
#[test]
fn a_recorder_comes_ahead_of_its_login() {
    let mut scene = Scene::new();
    scene.clerk.end(true);
    let record = Record { what: Recorded::Sessions, ..Record::default() };
    let recorded = Grant { rules: Rules { record, ..Rules::default() }, ..grant(&by_key()) };
    let (recorder, _kept) = UnixStream::pair().expect("a socket pair");
    scene.recorders.add(8, recorder.into());
    scene.hand_over_as(8, recorded.clone()).expect("it waits");
    let (ours, relay) = Messenger::pair().expect("a socket pair");
    scene.relay = relay;
    scene.clerk.begin(&Arc::new(ours));
    assert!(matches!(scene.told(), (Tell::Recorder { link: 8 }, Some(_))));
    assert!(matches!(scene.told(), (Tell::HandOver(_), Some(_))));
    // The relay finds none where there is none.
    scene.hand_over_as(9, recorded).expect("handed over");
    assert!(matches!(scene.told(), (Tell::HandOver(_), Some(_))));
}
