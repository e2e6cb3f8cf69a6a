use std::net::{TcpListener, TcpStream};

use crossbeam::channel::{Receiver, bounded};

use super::*;
use crate::connection::{Chains, Method, Presence, SERVICE_CONNECTION};
use crate::crypto::{KeyKind, PrivateKey, SignatureAlgorithm};
use crate::gateway::audit::Outlet;
use crate::gateway::config::{AuditLog, Facility, HostList, parse};
use crate::gateway::signer;
use crate::gateway::socket::Messenger;
use crate::gateway::workers::Execute;
use crate::limits::{ANSWERS_HELD_BYTES_MAX, ANSWERS_HELD_MAX};
use crate::transport::samples;
use crate::wire::Writer;
use crate::wire::auth::PublicKeyAttempt;

/// Lets everybody in as himself, and the recent ones at once and not otherwise; accounts may be used on
/// connections before the tenth.
struct Generous;

const RECENT: &str = "recent";

impl Execute for Generous {
    fn run_at_once(&self, job: &Job) -> Option<Done> {
        match job {
            Job::FindKey { user, .. } if &**user == "defect" => panic!("a defect in a job"),
            Job::FindKey { user, key, .. } if &**user == RECENT => Some(let_in(user, key)),
            _ => None,
        }
    }

    fn run(&self, job: Job) -> Done {
        match job {
            Job::FindKey { user, .. } if &*user == RECENT => Done::Key(None),
            Job::FindKey { user, key, .. } => let_in(&user, &key),
            Job::Admit { from, .. } => {
                let (allowed, text) = (from.link < 10, "told".into());
                Done::Admitted(AccountAnswer { allowed, text })
            }
            _ => Done::Lost,
        }
    }
}

fn let_in(user: &str, key: &crate::crypto::PublicKey) -> Done {
    let mut grant = outline(&Grant {
        account: Account {
            name: user.into(),
            uid: 1000,
            gid: 1000,
            home: "/home".into(),
            shell: "/bin/sh".into(),
        },
        key: Some(key.clone()),
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
        demands: Demands::default(),
    });
    grant.demands.chains = Chains::any_of([Method::PublicKey]);
    Done::Key(Some(Box::new(grant)))
}

/// Root's side, and an edge that says what a test wants it to.
struct Scene {
    clerk: Arc<Clerk>,
    staff: Staff,
    /// Its first thread's end, and its only shard's.
    edge: Messenger,
    shard: Messenger,
    accounts: Receiver<Arrival>,
    host: PrivateKey,
    user: PrivateKey,
    client: TcpStream,
    server: OwnedFd,
    from: Origin,
}

const TICKET: Ticket = Ticket { shard: 0, token: Token { key: 1, generation: 2, tag: 3 } };

/// The ways to an edge of one shard, and its ends of them.
fn ways() -> (Ways, Messenger, Messenger) {
    let [(ours, edge), (to_shard, shard)] =
        [(); 2].map(|()| Messenger::pair().expect("a socket pair"));
    (Ways::new(&Arc::new(ours), vec![to_shard]), edge, shard)
}

fn heard(messenger: &Messenger) -> Tell {
    let mut buffer = vec![0; 65_536];
    let (len, _) = messenger.receive(&mut buffer).expect("an answer");
    Tell::decode(&buffer[..len]).expect("a message")
}

fn connection(link: u64) -> (TcpStream, OwnedFd, Origin) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("there");
    let (server, peer) = listener.accept().expect("a connection");
    let local = server.local_addr().expect("an address");
    (client, server.into(), Origin { link, peer, local, routing: Default::default() })
}

impl Scene {
    fn new() -> Scene {
        Scene::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Clerk)) -> Scene {
        let key = || PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        let (host, user) = (key(), key());
        let text = host.to_openssh("").expect("a file");
        let key = PrivateKey::from_openssh(text.as_bytes(), None).expect("a key");
        let (bureau, known) = signer::tests::on_a_thread(vec![key]);
        let (sender, accounts) = bounded(4);
        let config = parse(b"").expect("a configuration");
        let startups = Arc::new(Startups::new(&config.global));
        let mut clerk = Clerk::new(bureau, known, sender, startups);
        change(&mut clerk);
        let clerk = Arc::new(clerk);
        let workers = Arc::new(Workers::start(1, 8, Arc::new(Generous)).expect("threads"));
        let bench = Bench { workers, greeters: None };
        let staff = Staff::new(bench, Arc::new(Post::to(&clerk)));
        let (ways, edge, shard) = ways();
        let (client, server, from) = connection(7);
        let first = if clerk.is_single() { from.link } else { 1 };
        clerk.begin(ways, first);
        Scene { clerk, staff, edge, shard, accounts, host, user, client, server, from }
    }

    fn say(&mut self, ask: Ask, passenger: Option<OwnedFd>) -> Result<(), &'static str> {
        // As it comes out of the socket.
        let ask = Ask::decode(&ask.encode()).expect("a message");
        self.clerk.hear(&mut self.staff, ask, passenger).map_err(|lie| lie.0)
    }

    fn told(&self) -> Tell {
        heard(&self.shard)
    }

    fn sign(&self, host_key: u32, algorithm: SignatureAlgorithm, seed: u8) -> Ask {
        let exchange = samples::exchange(KeyAlgorithm::plain(algorithm), seed);
        Ask::Sign { ticket: TICKET, from: self.from, host_key, exchange }
    }

    /// The identifier of the session of that exchange.
    fn session(&self, seed: u8) -> [u8; 32] {
        let exchange = samples::exchange(samples::ED25519, seed);
        let hash = exchange.fields().expect("fields").hash(self.host.public().blob());
        hash.as_ref().try_into().expect("32 bytes")
    }

    fn shown(&self) -> ShownKey {
        ShownKey::of_blob(self.user.public().blob()).expect("a key")
    }

    fn login(&self, seed: u8) -> Ask {
        let session = self.session(seed);
        let shown = self.shown();
        let (algorithm, key) = shown.offer();
        let attempt = PublicKeyAttempt { algorithm, key, signature: Some(&[]), host_key: None };
        let mut message = vec![0; attempt.signed_bytes_max(&session, "ann", SERVICE_CONNECTION)];
        let mut out = Writer::new(&mut message);
        attempt.write_signed(&session, "ann", SERVICE_CONNECTION, &mut out).expect("room");
        let signature = self.user.sign(SignatureAlgorithm::Ed25519, out.written());
        let signature = signature.expect("signed").into();
        let proofs = vec![Proof::Key { shown, host_bound: false, signature }];
        Ask::HandOver {
            link: self.from.link,
            proofs,
            record: vec![1],
            inbound: vec![2],
            outbound: vec![3],
        }
    }

    /// Up to the point where the client has signed.
    fn exchange_and_find(&mut self, seed: u8) {
        let session = self.session(seed);
        let sign = self.sign(0, SignatureAlgorithm::Ed25519, seed);
        self.say(sign, None).expect("signed");
        let Tell::Signature { ticket, signature } = self.told() else { panic!("no signature") };
        assert_eq!(ticket, TICKET);
        let public = self.host.public();
        public.verify(SignatureAlgorithm::Ed25519, &session, &signature).expect("the host's");
        let (user, shown) = ("ann".into(), self.shown());
        let find =
            Ask::FindKey { ticket: TICKET, from: self.from, name: user, shown, signed: None };
        self.say(find, None).expect("asked");
        let Tell::Key { grant: Some(grant), .. } = self.told() else { panic!("not found") };
        assert_eq!(grant.account.name, "ann");
    }
}

#[test]
fn a_login_goes_where_it_belongs() {
    let mut scene = Scene::new();
    let session = 71;
    scene.exchange_and_find(session);
    let (login, socket) = (scene.login(session), scene.server.try_clone().expect("a copy"));
    scene.say(login, Some(socket)).expect("true");
    let Arrival { connection, kept } = scene.accounts.try_recv().expect("handed over");
    assert!(kept.is_none(), "nobody has asked PAM");
    assert_eq!((connection.serial, &*connection.grant.account.name), (7, "ann"));
    assert_eq!((&*connection.record, &*connection.inbound), (&[1][..], &[2][..]));
    porter::close(&connection);
}

/// A key that let somebody in a moment ago is found by the thread that hears the edge; a defect in that costs
/// nothing, for a worker finds it then.
#[test]
fn what_is_known_is_answered_without_a_worker() {
    for (seed, user) in [(91, RECENT), (92, "defect")] {
        let mut scene = Scene::new();
        let sign = scene.sign(0, SignatureAlgorithm::Ed25519, seed);
        scene.say(sign, None).expect("signed");
        assert!(matches!(scene.told(), Tell::Signature { .. }));
        let (from, shown) = (scene.from, scene.shown());
        let find = Ask::FindKey { ticket: TICKET, from, name: user.into(), shown, signed: None };
        scene.say(find, None).expect("asked");
        let Tell::Key { ticket, grant: Some(grant), .. } = scene.told() else { panic!("{user}") };
        assert_eq!((ticket, &*grant.account.name), (TICKET, user));
    }
}

/// While more is there to be heard answers wait, and go together.
#[test]
fn answers_of_one_moment_are_one_message() {
    let scene = Scene::new();
    let lost = Tell::Lost { ticket: TICKET };
    let tell = |count: usize| (0..count).for_each(|_| scene.clerk.state().tell(&lost));
    let several = |told: Tell| match told {
        Tell::Several(all) => all.len(),
        Tell::Lost { ticket } => usize::from(ticket == TICKET),
        other => panic!("{other:?}"),
    };
    scene.clerk.hold_back();
    assert!(!scene.clerk.holds_back());
    tell(3);
    assert!(scene.clerk.holds_back() && scene.shard.try_receive(&mut [0; 64]).is_err());
    scene.clerk.let_out();
    assert_eq!((scene.clerk.holds_back(), several(scene.told())), (false, 3));
    tell(2);
    assert_eq!([several(scene.told()), several(scene.told())], [1, 1]);
    // Nobody waits for more than some, nor for what is large.
    scene.clerk.hold_back();
    tell(ANSWERS_HELD_MAX + 1);
    assert_eq!(several(scene.told()), ANSWERS_HELD_MAX);
    let signature = vec![0; ANSWERS_HELD_BYTES_MAX];
    scene.clerk.state().tell(&Tell::Signature { ticket: TICKET, signature });
    assert_eq!(several(scene.told()), 1);
    assert!(scene.shard.try_receive(&mut [0; 64]).is_err());
    scene.clerk.let_out();
    let mut buffer = vec![0; 2 * ANSWERS_HELD_BYTES_MAX];
    let len = scene.shard.try_receive(&mut buffer).expect("a message");
    assert!(len > ANSWERS_HELD_BYTES_MAX && scene.shard.try_receive(&mut buffer).is_err());
}

/// What answers a shard's question is told that shard, and nobody else; the rest is told the edge's first thread.
#[test]
fn answers_go_to_the_shard_that_asked() {
    let [(ours, edge), (to_first, first), (to_second, second)] =
        [(); 3].map(|()| Messenger::pair().expect("a socket pair"));
    let mut ways = Ways::new(&Arc::new(ours), vec![to_first, to_second]);
    let of = |shard| Tell::Lost { ticket: Ticket { shard, ..TICKET } };
    ways.hold_back();
    for shard in [1, 0, 1, 2, u32::MAX] {
        ways.tell(&of(shard));
    }
    ways.tell(&Tell::Seated);
    assert!(matches!(heard(&edge), Tell::Seated) && ways.holds_back());
    ways.let_out();
    assert!(matches!(heard(&first), Tell::Lost { ticket: Ticket { shard: 0, .. } }));
    let Tell::Several(all) = heard(&second) else { panic!("not together") };
    assert!(all.iter().all(|tell| tell.ticket().is_some_and(|ticket| ticket.shard == 1)));
    assert_eq!(all.len(), 2);
    for nobody in [&edge, &first, &second] {
        assert!(nobody.try_receive(&mut [0; 64]).is_err());
    }
    // One that does not read is found out, and no other is held up for it.
    let long = vec![0; ANSWERS_HELD_BYTES_MAX];
    let full = |_: &u32| {
        ways.tell(&Tell::Signature { ticket: TICKET, signature: long.clone() });
        ways.is_stuck()
    };
    assert!((0..1000).find(full).is_some_and(|count| count > 0), "it is never full");
    ways.tell(&of(1));
    assert!(matches!(heard(&second), Tell::Lost { .. }));
}

/// Where PAM is asked, it was asked about the account of this very login, and has said yes.
#[test]
fn case_136_an_account_is_asked_about_before_its_login() {
    for (link, seed, asks, expected) in [
        (7, 79, false, Err("an account that was not asked about")),
        (8, 80, true, Ok(())),
        (10, 81, true, Err("an account that was not asked about")),
    ] {
        let (sender, _accounts) = bounded(1);
        let porter = Porter::start(sender, None).expect("threads");
        let mut scene = Scene::with(|clerk| clerk.porter = Some(Arc::new(porter)));
        scene.from.link = link;
        scene.exchange_and_find(seed);
        let (login, socket) = (scene.login(seed), scene.server.try_clone().expect("a copy"));
        let Ask::HandOver { proofs, .. } = &login else { panic!("a login") };
        let (user, from, mut proofs) = ("ann".to_owned(), scene.from, proofs.clone());
        if asks {
            let ask =
                Ask::Admit { ticket: TICKET, from, user: user.clone(), proofs: proofs.clone() };
            scene.say(ask, None).expect("it has proved itself");
            let Tell::Admitted { ticket, answer } = scene.told() else { panic!("no answer") };
            assert_eq!((ticket, answer.allowed, &*answer.text), (TICKET, link < 10, "told"));
        }
        let Some(Proof::Key { signature, .. }) = proofs.first_mut() else { panic!("a key") };
        signature[20] ^= 1;
        let ask = Ask::Admit { ticket: TICKET, from, user, proofs };
        if !asks {
            assert_eq!(scene.say(ask, None), Err("a signature that does not hold"));
        }
        assert_eq!(scene.say(login, Some(socket)), expected, "{link}");
    }
}

/// Root's process verifies what the client has signed in the edge's place, whether or not it has asked
/// about the key before.
#[test]
fn case_136_signatures_are_verified_by_root_alone() {
    for asked_before in [true, false] {
        let mut scene = Scene::new();
        let session = if asked_before { 84 } else { 85 };
        if asked_before {
            scene.exchange_and_find(session);
        } else {
            let sign = scene.sign(0, SignatureAlgorithm::Ed25519, session);
            scene.say(sign, None).expect("signed");
            scene.told();
        }
        let Ask::HandOver { proofs, .. } = scene.login(session) else { panic!("a login") };
        let [Proof::Key { signature, .. }] = &proofs[..] else { panic!("a signature") };
        for (bytes, holds) in [(vec![7; 83].into(), false), (signature.clone(), true)] {
            let (user, shown) = ("ann".into(), scene.shown());
            let signed = Some(Box::new(Signed { host_bound: false, signature: bytes }));
            let find = Ask::FindKey { ticket: TICKET, from: scene.from, name: user, shown, signed };
            scene.say(find, None).expect("asked");
            let Tell::Key { ticket, grant, .. } = scene.told() else { panic!("no answer") };
            assert_eq!((ticket, grant.is_some()), (TICKET, holds));
        }
        let (login, socket) = (scene.login(session), scene.server.try_clone().expect("a copy"));
        scene.say(login, Some(socket)).expect("true");
        assert!(scene.accounts.try_recv().is_ok());
    }
}

#[test]
fn case_136_a_lie_is_found_out() {
    // Another's socket under this connection's name.
    let mut scene = Scene::new();
    scene.exchange_and_find(72);
    let (_other, socket, _) = connection(8);
    let login = scene.login(72);
    assert_eq!(scene.say(login, Some(socket)), Err("a socket that is not the connection's"));
    // Ends that are made up, from the first message on.
    let mut scene = Scene::new();
    scene.from.peer = ([127, 0, 0, 1], 22).into();
    scene.exchange_and_find(73);
    let (login, socket) = (scene.login(73), scene.server.try_clone().expect("a copy"));
    assert_eq!(scene.say(login, Some(socket)), Err("a socket that is not the connection's"));
    // The same is a proxy's right.
    let networks = HostList::new("127.0.0.1").expect("a network");
    let mut scene =
        Scene::with(|clerk| clerk.proxies = Some(Proxies { networks, required: false }));
    scene.from.peer = ([192, 0, 2, 1], 22).into();
    scene.exchange_and_find(74);
    let (login, socket) = (scene.login(74), scene.server.try_clone().expect("a copy"));
    assert_eq!(scene.say(login, Some(socket)), Ok(()));
    assert!(scene.accounts.try_recv().is_ok());
    // What is no connection at all.
    let mut scene = Scene::new();
    scene.exchange_and_find(75);
    let login = scene.login(75);
    let (pipe, _end) = std::io::pipe().expect("a pipe");
    assert_eq!(scene.say(login, Some(pipe.into())), Ok(()));
    assert!(scene.accounts.try_recv().is_err(), "it goes nowhere");
    // A key that is not ours, and a way to sign that is not the key's.
    let mut scene = Scene::new();
    let sign = scene.sign(1, SignatureAlgorithm::Ed25519, 76);
    assert_eq!(scene.say(sign, None), Err("a host key that is not ours"));
    let sign = scene.sign(0, SignatureAlgorithm::RsaSha512, 76);
    assert_eq!(scene.say(sign, None), Err("an algorithm that is not the host key's"));
    let exchange = samples::exchange(KeyAlgorithm::certified(SignatureAlgorithm::Ed25519), 76);
    let sign = Ask::Sign { ticket: TICKET, from: scene.from, host_key: 0, exchange };
    assert_eq!(scene.say(sign, None), Err("a certificate that is not ours"));
    // Bytes that make no exchange: a hash to be signed as it is, or a text.
    for text in [&[1; 32][..], b"a text to be signed"] {
        let exchange = SignableExchange::from_bytes(text);
        let sign = Ask::Sign { ticket: TICKET, from: scene.from, host_key: 0, exchange };
        assert_eq!(scene.say(sign, None), Err("a key exchange that does not parse"));
    }
    // A login that never was.
    let (login, socket) = (scene.login(76), scene.server.try_clone().expect("a copy"));
    assert_eq!(scene.say(login, Some(socket)), Err("a login of no connection"));
    assert!(scene.accounts.try_recv().is_err());
    drop(scene.client);
}

/// SECURITY case 136: an edge that hears one connection says nothing of another, and begins none after it.
#[test]
fn case_136_an_edge_of_one_connection_speaks_of_no_other() {
    let time = Duration::from_secs(9);
    let guest = |seed: u8, expected: Result<(), &str>, change: &dyn Fn(&mut Scene)| {
        let mut scene =
            Scene::with(|clerk| clerk.single = Some(Single { grace: Some(time), asking: time }));
        let Origin { peer, local, routing, .. } = scene.from;
        let startups = Arc::clone(&scene.clerk.startups);
        startups.admit(peer.ip(), reactor::now()).expect("room");
        let place = Place::Client(Slot { startups, peer });
        scene.clerk.expect(Ends { peer, local, routing }, place);
        change(&mut scene);
        let sign = scene.sign(0, SignatureAlgorithm::Ed25519, seed);
        assert_eq!(scene.say(sign, None), expected);
        scene
    };
    let other = Err("a connection that it was not given");
    let ends: SocketAddr = ([127, 0, 0, 1], 22).into();
    guest(90, other, &|scene| scene.from.link = 8);
    guest(90, other, &|scene| scene.from.peer = ends);
    guest(90, other, &|scene| scene.from.local = ends);
    // Before it is given any, and once that has ended.
    guest(90, other, &|scene| drop(scene.clerk.forget()));
    guest(90, other, &|scene| scene.say(Ask::Over { link: 7 }, None).expect("its own"));
    let how = StartupEnd::Attempted;
    let earned = |peer| Ask::Earned { peer, how, unknown_user: false };
    let mut scene = guest(90, Ok(()), &|_| {});
    assert_eq!(scene.say(earned(ends), None), Err("what another's source has earned"));
    let own = scene.from.peer;
    scene.say(earned(own), None).expect("its own");
    let entry = |link| Ask::Audit(Box::new(Entry::new(Event::Connect, link, own)));
    assert_eq!(scene.say(entry(8), None), other);
    scene.say(entry(7), None).expect("its own");

    // Its place is free again when its login is over, or with it.
    let mut scene = guest(91, Ok(()), &|_| {});
    assert!(scene.clerk.startups.open() == 1 && !scene.clerk.is_late(reactor::now()));
    let late = reactor::now().after(time + 3 * HELPER_PING_INTERVAL);
    assert!(scene.clerk.is_late(late));
    scene.told();
    let (user, shown) = ("ann".into(), scene.shown());
    let find = Ask::FindKey { ticket: TICKET, from: scene.from, name: user, shown, signed: None };
    scene.say(find, None).expect("asked");
    scene.told();
    let (login, socket) = (scene.login(91), scene.server.try_clone().expect("a copy"));
    assert!(!scene.clerk.is_spent());
    scene.say(login, Some(socket)).expect("true");
    assert!(scene.clerk.is_spent() && scene.clerk.startups.open() == 0);
    assert!(scene.accounts.try_recv().is_ok() && !scene.clerk.is_late(late));
    let scene = guest(92, Ok(()), &|_| {});
    scene.clerk.end();
    assert_eq!(scene.clerk.startups.open(), 0);
}

/// SECURITY case 136: a proxy tells its edge once whose the connection is, and that client is counted; nothing
/// is done for it before.
#[test]
fn case_136_an_edge_announces_one_client_where_a_proxy_was_asked() {
    let asking = Duration::from_secs(3);
    let scene = || {
        let scene = Scene::with(|clerk| clerk.single = Some(Single { grace: None, asking }));
        let Origin { peer, local, routing, .. } = scene.from;
        scene.clerk.expect(Ends { peer, local, routing }, Place::Proxy(Arc::default()));
        scene
    };
    let client: SocketAddr = ([192, 0, 2, 1], 22).into();
    let other = Err("a connection that it was not given");
    let unasked = "whose a connection is that no proxy passes on";
    let announced = |scene: &Scene| scene.clerk.announced(client).map_err(|lie| lie.0);
    // It is nobody's yet: not the proxy's either.
    let mut early = scene();
    let sign = early.sign(0, SignatureAlgorithm::Ed25519, 93);
    assert_eq!((early.say(sign, None), early.clerk.startups.open()), (other, 0));
    let late = reactor::now().after(asking + 3 * HELPER_PING_INTERVAL);
    assert!(early.clerk.is_late(late) && !early.clerk.is_late(reactor::now()));
    let earned = Ask::Earned { peer: client, how: StartupEnd::Attempted, unknown_user: false };
    assert_eq!(early.say(earned, None), Err("what another's source has earned"));
    // Then it is the client's, whom the edge speaks for.
    let mut scene = scene();
    assert_eq!(announced(&scene), Ok(Ok(())));
    assert!(matches!(heard(&scene.edge), Tell::Seated) && !scene.clerk.is_late(late));
    assert_eq!((scene.clerk.startups.open(), scene.clerk.proxy()), (1, None));
    let sign = scene.sign(0, SignatureAlgorithm::Ed25519, 94);
    assert_eq!(scene.say(sign, None), other);
    scene.from.peer = client;
    let sign = scene.sign(0, SignatureAlgorithm::Ed25519, 94);
    assert_eq!(scene.say(sign, None), Ok(()));
    // Not another's as well, nor where no proxy was asked.
    assert_eq!(announced(&scene), Err(unasked));
    assert_eq!(scene.say(Ask::Announced { peer: client }, None), Err(unasked));
    scene.clerk.end();
    assert_eq!(scene.clerk.startups.open(), 0);
    assert_eq!(announced(&scene), Err(unasked));
    // One who may not come in leaves the edge nothing to do.
    let config = parse(b"MaxStartups 1:100:1").expect("a configuration");
    let full = Arc::new(Startups::new(&config.global));
    full.admit(client.ip(), reactor::now()).expect("room");
    let scene = Scene::with(|clerk| {
        (clerk.single, clerk.startups) = (Some(Single { grace: None, asking }), full);
    });
    let Origin { peer, local, routing, .. } = scene.from;
    scene.clerk.expect(Ends { peer, local, routing }, Place::Proxy(Arc::default()));
    assert_eq!(announced(&scene), Ok(Err(Refused::TooMany)));
    assert!(matches!(heard(&scene.edge), Tell::TurnedAway { penalised: false }));
    assert!(scene.clerk.is_spent());
    assert_eq!(announced(&scene), Err(unasked));
}

/// What an edge says of its connections goes into the audit; that somebody has logged in is not its to
/// say.
#[test]
fn case_136_an_edge_tells_of_no_login() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit");
    let outlet = Outlet::open(&AuditLog::File(path.clone()), Facility::Auth).expect("a file");
    let audit = Audit::start(outlet).expect("an audit");
    let mut scene = Scene::with(|clerk| clerk.audit = Some(Arc::clone(&audit)));
    let about = |event| Box::new(Entry::new(event, 7, ([192, 0, 2, 1], 9).into()));
    scene.say(Ask::Audit(about(Event::Connect)), None).expect("its own");
    scene.exchange_and_find(78);
    let (login, socket) = (scene.login(78), scene.server.try_clone().expect("a copy"));
    scene.say(login, Some(socket)).expect("a login");
    assert!(scene.accounts.try_recv().is_ok());
    // It is not its connection any more.
    scene.say(Ask::Audit(about(Event::Disconnect)), None).expect("not heard");
    let success = about(Event::Auth).of_user("root").text(Field::Result, "success");
    let lie = scene.say(Ask::Audit(Box::new(success)), None);
    assert_eq!(lie, Err("a login that nobody has checked"));
    audit.flush();
    let text = std::fs::read_to_string(path).expect("lines");
    let has = |line: &str, what: &str| line.contains(&format!("\"event\":\"{what}\""));
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 3 && has(lines[0], "connect") && has(lines[2], "lost"), "{text}");
    assert!(has(lines[1], "auth") && lines[1].contains("\"by\":\"gateway\""), "{text}");
    assert!(lines[1].contains("\"user\":\"ann\"") && lines[1].contains("success"), "{text}");
}

/// Answers to what an earlier edge has asked reach nobody.
#[test]
fn answers_are_for_the_edge_that_asked() {
    let mut scene = Scene::new();
    let sign = scene.sign(0, SignatureAlgorithm::Ed25519, 77);
    scene.say(sign, None).expect("signed");
    scene.told();
    let question = Question { ticket: TICKET, from: scene.from, about: Subject::Signature };
    let stale = {
        let mut state = scene.clerk.state();
        let key = state.questions.insert(question) as u32;
        Token { key, generation: state.number, tag: 0 }
    };
    let (ways, _edge, shard) = ways();
    scene.clerk.begin(ways, 1);
    Post::to(&scene.clerk).deliver(stale, Done::Signature(Some(Box::new([1]))));
    scene.clerk.end();
    assert_eq!(shard.receive(&mut [0; 64]).expect("the end").0, 0, "and nothing before it");
}
