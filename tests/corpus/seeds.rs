//! Valid inputs of every target, made by our own encoders.

mod messages;
mod scripts;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::{Chains, LoginLimits, LoginSession, Method, Secret, Secrets};
use tidegate::crypto::keys::{CertificateKind, Certification, Extensions};
use tidegate::crypto::{
    KexKind, KexSecret, KeyAlgorithm, KeyKind, ShownKey, SignatureAlgorithm, kex,
};
use tidegate::fuzzing::{MESSAGE, fixtures};
use tidegate::gateway::audit::{Entry, Event, Field};
use tidegate::gateway::confine::Cell;
use tidegate::gateway::edge::words::{Ask, Greeting, Tell, Ticket};
use tidegate::gateway::relay::words as relay;
use tidegate::gateway::signer::words as signer;
use tidegate::gateway::startups::{REASONS, Standing};
use tidegate::gateway::terms::Terms;
use tidegate::reactor::Token;
use tidegate::services::upstream::Trouble;
use tidegate::services::{Origin, RoutingDomain};
use tidegate::shard::{Proof, StartupEnd};
use tidegate::transport::{ExchangeFields, RekeyLimits, SignableExchange};
use tidegate::wire::proxy::{self, ProxyOrigin, ProxyVersion};
use tidegate::wire::{Message, Writer};

/// Target, file name and bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// Every seed; the same in every run.
pub fn all() -> Vec<Seed> {
    let mut seeds = messages::all();
    seeds.extend(packets());
    seeds.extend(keys());
    seeds.extend(greetings());
    seeds.extend(scripts::all());
    seeds.extend(lines());
    seeds.extend(accounts());
    seeds.extend(known_hosts());
    seeds.extend(agents());
    seeds.extend(revoked());
    seeds.extend(proxy_headers());
    seeds.extend(socks());
    seeds.extend(edge());
    seeds.extend(relay());
    seeds.extend(audit());
    seeds
}

/// What a relay says, and what it hears.
fn relay() -> Vec<Seed> {
    let ticket = Ticket { shard: 1, token: Token { key: 2, generation: 3, tag: 4 } };
    let session = LoginSession { id: [7; 32].into(), host_key: [8; 51].into() };
    let (algorithm, link) = (SignatureAlgorithm::Ed25519, 9);
    let shown =
        ShownKey::of_blob(fixtures::private_key(KeyKind::Ed25519).public().blob()).expect("a key");
    let signable = signer::Signable::Proof { algorithm, session: [5; 32].into() };
    let order = signer::Order { key: 0, what: signable };
    let (session_id, signature) = (vec![7; 32], vec![6; 83]);
    let asks = [
        ("find_hosts", relay::Ask::FindHosts { ticket, link }),
        ("find_way", relay::Ask::FindWay { ticket, link, host: 1, subject: vec![1; 51] }),
        (
            "judge_host",
            relay::Ask::JudgeHost { ticket, link, host: 1, shown, session: session_id, signature },
        ),
        ("sign_login", relay::Ask::SignLogin { ticket, link, algorithm, session }),
        ("relay_order", relay::Ask::Sign { ticket: 3, order }),
        ("relay_over", relay::Ask::Over { link }),
        ("relay_piece", relay::Ask::Piece { link, number: 1 }),
    ];
    let at = "192.0.2.1:22".parse().expect("an address");
    let found = relay::Found { hosts: vec![("web1".into(), 22)], user: "deploy".into() };
    let passage = relay::Passage {
        at,
        host_key_algorithms: KeyAlgorithm::ALL.to_vec(),
        proof: relay::Proof::Key(vec![1; 51]),
    };
    let (record, inbound, grant, upstream) = (vec![1; 99], vec![2], vec![3; 9], vec![4; 9]);
    let (peer, local, outbound) = (at, at, vec![5; 60]);
    let luggage = Some((vec![6; 20], 1));
    let handed =
        relay::Handed { link, peer, local, record, inbound, outbound, grant, upstream, luggage };
    let trouble = Trouble { said: "no".into(), logged: "nobody answers".into() };
    let terms = Terms { config: b"port 22".to_vec(), ..Terms::default() };
    let setup = relay::Setup { terms, reactors: 2, ..Default::default() };
    let tells = [
        ("relay_setup", relay::Tell::Setup(Box::new(setup))),
        ("relay_recorder", relay::Tell::Recorder { link }),
        ("relay_login", relay::Tell::HandOver(Box::new(handed))),
        ("hosts", relay::Tell::Hosts { ticket, found: Ok(found) }),
        ("way", relay::Tell::Way { ticket, found: Ok(passage) }),
        ("no_way", relay::Tell::Way { ticket, found: Err(trouble) }),
        ("judged", relay::Tell::Judged { ticket, verdict: Ok(()) }),
        ("relay_move_on", relay::Tell::MoveOn),
    ];
    let asks = asks.into_iter().map(|(name, ask)| (name, 5, ask.encode().to_vec()));
    let tells = tells.into_iter().map(|(name, tell)| (name, 6, tell.encode()));
    let one = |(name, kind, bytes): (&str, u8, Vec<u8>)| {
        ("edge", name.to_owned(), [&[kind][..], &bytes].concat())
    };
    asks.chain(tells).map(one).collect()
}

/// What an edge says, and what it hears.
fn edge() -> Vec<Seed> {
    let ticket = Ticket { shard: 1, token: Token { key: 2, generation: 3, tag: 4 } };
    let from = Origin {
        link: 9,
        peer: ([192, 0, 2, 1], 50_000).into(),
        local: ([0, 0, 0, 0, 0, 0, 0, 1], 22).into(),
        routing: RoutingDomain::new(b"vrf-blue"),
    };
    let exchange = exchange();
    let secret = |bytes: &[u8]| Some(Secret::copy(bytes));
    let (password, code) = (secret(b"a password"), secret(b"123456"));
    let secrets = Secrets { password, code, prompted: true };
    let proofs = vec![Proof::Secrets { interactive: true }, Proof::Secrets { interactive: false }];
    let asks = [
        ("ready", Ask::Ready),
        ("pong", Ask::Pong),
        ("sign", Ask::Sign { ticket, from, host_key: 1, exchange: exchange.clone() }),
        ("greet", Ask::Greet { ticket, from, user: "ann".into() }),
        ("secrets", Ask::CheckSecrets { ticket, from, user: "ann".into(), secrets }),
        (
            "hand-over",
            Ask::HandOver {
                link: 9,
                proofs,
                record: vec![1; 40],
                inbound: vec![2; 9],
                outbound: vec![3; 60],
            },
        ),
        ("over", Ask::Over { link: 9 }),
        ("earned", Ask::Earned { peer: from.peer, how: StartupEnd::Attempted, unknown_user: true }),
    ];
    let chains = Chains::any_of([Method::PublicKey, Method::Password]);
    let rekey = RekeyLimits { bytes: Some(1 << 30), time: None, packets: 1 << 31 };
    let limits = LoginLimits { sessions_max: 10, client_alive: None, rekey };
    let greeting = Greeting {
        banner: Some("hello".into()),
        tries_max: 6,
        chains,
        codes: true,
        talks: true,
        limits,
    };
    let stranger = Some(from.peer);
    let (source, until) = (from.peer.ip(), Instant::from_nanos(1 << 40));
    let standing = Standing { source, until, active: true, why: REASONS[1] };
    let tells = [
        ("listener", Tell::Listener),
        ("signature", Tell::Signature { ticket, signature: vec![3; 83] }),
        ("greeted", Tell::Greeted { ticket, greeting: Some(Box::new(greeting)), verbosity: None }),
        ("stranger", Tell::Key { ticket, grant: None, stranger }),
        ("stop", Tell::Stop),
        ("standings", Tell::Standings(vec![standing])),
    ];
    let asks = asks.into_iter().map(|(name, ask)| (name, 0, ask.encode().to_vec()));
    let tells = tells.into_iter().map(|(name, tell)| (name, 1, tell.encode()));
    let framed = |(name, kind, bytes): (&str, u8, Vec<u8>)| {
        seed("edge", name, [&[kind][..], &bytes].concat())
    };
    asks.chain(tells).chain(signer(exchange)).map(framed).collect()
}

/// Events of other processes for the audit.
fn audit() -> Vec<Seed> {
    let peer = ([192, 0, 2, 1], 50_000).into();
    let refused = Entry::new(Event::Auth, 9, peer).of_user("ann");
    let file =
        Entry::new(Event::File, 9, peer).of_user("ann").text(Field::Path, b"/srv/\xff\n\"a\"");
    let entries = [
        ("lost", Entry::lost(7)),
        ("refused", refused.text(Field::Reason, "no such user").some_text(Field::Source, None)),
        ("file", file.number(Field::BytesRead, u64::MAX)),
        ("long", Entry::new(Event::File, 9, peer).text(Field::Path, [0x80; 1000])),
    ];
    let encoded = |entry: Entry| {
        let mut out = Vec::new();
        entry.encode(&mut out);
        out
    };
    entries.map(|(name, entry)| seed("audit", name, encoded(entry))).into()
}

/// What a signer says and hears, and the fields of a key exchange by themselves.
fn signer(exchange: SignableExchange) -> Vec<(&'static str, u8, Vec<u8>)> {
    let fields = ("exchange", 4, exchange.bytes().to_vec());
    let says = [
        ("signed", signer::Say::Signed { ticket: 1, signature: vec![3; 83] }),
        ("refused", signer::Say::Refused { ticket: 1, why: "no".into() }),
    ];
    let key = signer::KnownKey { public: vec![1; 51], certificate: vec![2; 9], is_agents: true };
    let setup = signer::Setup {
        cell: Cell { uid: 61_000, gid: 61_000, root: "/run/sshd".into() },
        ident: "SSH-2.0-x".into(),
        keys: vec![key],
        upstream_keys: vec![signer::UpstreamKey { public: vec![3; 51], certifies: false }],
        slow_threads: 2,
    };
    let session = LoginSession { id: [7; 32].into(), host_key: [8; 51].into() };
    let (algorithm, user) = (SignatureAlgorithm::Ed25519, "ann".into());
    let login = signer::Signable::Login { algorithm, user, session };
    let certificate = signer::Signable::Certificate {
        subject: [9; 51].into(),
        user: "ann".into(),
        key_id: "ann from 192.0.2.1".into(),
        sources: "192.0.2.9".into(),
    };
    let ordered = |what| signer::Order { key: 0, what };
    let order = ordered(signer::Signable::Exchange(exchange));
    let tells = [
        ("signer", signer::Tell::Setup(Box::new(setup))),
        ("order", signer::Tell::Sign { ticket: 1, order }),
        ("login", signer::Tell::Sign { ticket: 2, order: ordered(login) }),
        ("certify", signer::Tell::Sign { ticket: 3, order: ordered(certificate) }),
    ];
    let says = says.into_iter().map(|(name, say)| (name, 2, say.encode()));
    let tells = tells.into_iter().map(|(name, tell)| (name, 3, tell.encode().to_vec()));
    says.chain(tells).chain([fields]).collect()
}

fn exchange() -> SignableExchange {
    ExchangeFields {
        kex: KexKind::Curve25519,
        host_key: KeyAlgorithm::plain(SignatureAlgorithm::Ed25519),
        client_ident: b"SSH-2.0-client",
        server_ident: b"SSH-2.0-x",
        client_init: &[20; 64],
        server_init: &[20; 64],
        group: &[],
        client_public: &[1; 32],
        server_public: &[2; 32],
        secret: &[0, 0, 0, 1, 7],
    }
    .encode()
}

/// Whom a proxy speaks for, with something behind it.
fn proxy_headers() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let address = |text: &str| text.parse().expect("an address");
    let client =
        |client, server| ProxyOrigin::Client { client: address(client), server: address(server) };
    for (name, origin) in [
        ("itself", ProxyOrigin::Itself),
        ("four", client("192.0.2.1:50000", "198.51.100.2:22")),
        ("six", client("[2001:db8::1]:50000", "[::1]:22")),
    ] {
        for version in [ProxyVersion::One, ProxyVersion::Two] {
            let mut bytes = proxy::encode(version, &origin);
            bytes.extend(b"SSH-2.0-x\r\n");
            seeds.push(seed("proxy_header", &format!("{name}-{version}"), bytes));
        }
    }
    let mut fields = proxy::encode(ProxyVersion::Two, &client("192.0.2.1:1", "192.0.2.2:2"));
    fields[15] += 7;
    fields.extend(b"\x04\0\0\xee\0\x01x");
    seeds.push(seed("proxy_header", "fields", fields));
    seeds
}

/// Where somebody wants to be connected, with something behind it.
fn socks() -> Vec<Seed> {
    let asked: [(&str, &[u8]); 6] = [
        ("four", b"\x04\x01\x00\x50\xc0\x00\x02\x01me\0GET /"),
        ("four-a", b"\x04\x01\x00\x50\x00\x00\x00\x01me\0host.example\0GET /"),
        ("five", b"\x05\x02\x00\x02\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50GET /"),
        ("five-name", b"\x05\x01\x00\x05\x01\x00\x03\x0chost.example\x01\xbbGET /"),
        (
            "five-six",
            b"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50GET /",
        ),
        ("five-bind", b"\x05\x01\x00\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50"),
    ];
    asked.map(|(name, bytes)| seed("socks", name, bytes.to_vec())).to_vec()
}

/// Lines of authorized_keys; `KEY` stands for a key.
fn lines() -> Vec<Seed> {
    let lines = [
        ("plain", "KEY me@here"),
        ("options", "restrict,pty,from=\"192.0.2.0/24,!192.0.2.9\",command=\"ls \\\"x\\\"\" KEY"),
        ("many", "# keys\n\nno-pty KEY\n  from=\"*.example\" KEY\nssh-ed25519 AAAA x\nKEY\n"),
        ("unknown", "no-such-option KEY\ncommand=\"x KEY\nenvironment=\"A=b\" KEY"),
        ("other", "cert-authority,principals=\"a\" KEY\nexpiry-time=\"20300101\" KEY\r\n"),
    ];
    lines.map(|(name, text)| seed("authorized_keys", name, text)).to_vec()
}

/// Files of accounts; `KEY` stands for a key.
fn accounts() -> Vec<Seed> {
    let files = [
        (
            "plain",
            "# ours\nAccount ann\n  Home /srv/ann\n  Key KEY\n  Rights / read,list\n  Rights /in write\n",
        ),
        (
            "all",
            "account=bob\nhome \"/srv/a b\"\nPasswordHash !\nTotpSecret GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n\
                 QuotaBytes 10.5M\nQuotaFiles 7\nReadOnly yes\nExpires 20300101Z\n\
                 From 192.0.2.0/24,!192.0.2.7\nAllowTcpForwarding yes\n",
        ),
        (
            "twice",
            "Account a\nHome /\nKey from=\"10.0.0.0/8\" KEY\nAccount a\nHome /\nPasswordHash *\n",
        ),
        ("odd", "Account a\nHome x\nRights /../ read\nHom /\n"),
    ];
    files.map(|(name, text)| seed("accounts", name, text)).to_vec()
}

/// Files of known hosts; `KEY` stands for the key that the host shows.
fn known_hosts() -> Vec<Seed> {
    let other = fixtures::private_key(KeyKind::EcdsaP384).public().to_openssh_line("");
    let files = [
        ("plain", "# hosts\ngate,192.0.2.7 KEY\n[gate]:2222 KEY\r\n".to_owned()),
        ("patterns", format!("*.example.org,!a.example.org KEY x\n* {other}\n")),
        ("markers", "@cert-authority *.example.org KEY\n@revoked * KEY\n@x y KEY\n".to_owned()),
        (
            "hashed",
            "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= KEY\n|1|A|B KEY\n"
                .to_owned(),
        ),
        ("odd", "gate ssh-rsa AAAA\ngate ssh-dss AAAAB3NzaC1kc3MAAAAB\ngate 1024 35 12".to_owned()),
    ];
    files.map(|(name, text)| seed("known_hosts", name, text)).to_vec()
}

/// Lists of revoked keys: lines, and each section of a key revocation list.
fn revoked() -> Vec<Seed> {
    let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    let list = |kind: u8, body: &[u8]| {
        let head = [b"SSHKRL\n\0\0\0\0\x01".as_slice(), &[0; 3 * 8 + 2 * 4]].concat();
        [head, vec![kind], string(body)].concat()
    };
    let inner = |kind: u8, body: &[u8]| [&[0; 8][..], &[kind], &string(body)].concat();
    let seven = 7_u64.to_be_bytes();
    let key = fixtures::private_key(KeyKind::Ed25519).public();
    vec![
        seed(
            "revoked_keys",
            "lines",
            b"# gone\nKEY x\n\nssh-dss AAAAB3NzaC1kc3MAAAAB\n".as_slice(),
        ),
        seed("revoked_keys", "serials", list(1, &inner(0x20, &seven))),
        seed("revoked_keys", "range", list(1, &inner(0x21, &[seven, seven].concat()))),
        seed(
            "revoked_keys",
            "bitmap",
            list(1, &inner(0x22, &[&seven[..], &string(&[5])].concat())),
        ),
        seed("revoked_keys", "ids", list(1, &inner(0x23, &string(b"an id")))),
        seed("revoked_keys", "keys", list(2, &string(key.blob()))),
        seed("revoked_keys", "hashes", list(5, &string(&[7; 32]))),
        seed("revoked_keys", "extension", list(255, b"\0\0\0\x01x\0\0\0\0\0")),
    ]
}

/// Frames that an agent sends.
fn agents() -> Vec<Seed> {
    let frame = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
    let mut space = vec![0; 8192];
    let mut out = Writer::new(&mut space);
    let kinds = [KeyKind::Ed25519, KeyKind::Rsa];
    out.byte(12).and_then(|()| out.uint32(2)).expect("room");
    for kind in kinds {
        let key = fixtures::private_key(kind).public().blob();
        out.string(key).and_then(|()| out.string(b"me@here")).expect("room");
    }
    vec![
        seed("agent", "identities", frame(out.written())),
        seed("agent", "signature", frame(b"\x0e\0\0\0\x09signature")),
        seed("agent", "failure", frame(&[5])),
        seed("agent", "none", frame(&[12, 0, 0, 0, 0])),
    ]
}

/// Seeds that differ from run to run: written once, kept, and never compared.
pub fn kept() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (place, kind) in KeyKind::ALL.into_iter().enumerate() {
        let mut all = SignatureAlgorithm::ALL.into_iter();
        let at = all.position(|algorithm| algorithm.name() == kind.name());
        if let (Some(at), false) = (at, kind == KeyKind::Ed25519) {
            let key = fixtures::private_key(kind);
            let signature = key.sign(SignatureAlgorithm::ALL[at], MESSAGE).expect("a working key");
            let bytes = [&[place as u8, at as u8][..], &signature].concat();
            seeds.push(seed("signature", kind.name(), bytes));
        }
    }
    for kind in [KeyKind::Ed25519, KeyKind::EcdsaP256, KeyKind::Rsa] {
        for (word, kind_of, principals) in [
            ("user", CertificateKind::User, &["ada", "bob"]),
            ("host", CertificateKind::Host, &["*.example.org", "gate"]),
        ] {
            let user = kind_of == CertificateKind::User;
            let certification = Certification {
                kind: kind_of,
                serial: 7,
                key_id: "a seed",
                principals,
                valid_after: 0,
                valid_before: u64::MAX,
                force_command: user.then_some("ls"),
                source_address: user.then_some("192.0.2.0/24,2001:db8::1"),
                verify_required: false,
                extensions: Extensions::USUAL,
            };
            let authority = fixtures::private_key(KeyKind::Ed25519);
            let key = fixtures::private_key(match kind {
                KeyKind::Ed25519 => KeyKind::EcdsaP384,
                other => other,
            });
            let certificate = certification.issue(key.public(), authority).expect("issues");
            let name = format!("{word}-{}", key.kind().name());
            let line = certificate.to_openssh_line("seed");
            seeds.push(seed("certificate", &format!("{name}-line"), line));
            seeds.push(seed("certificate", &name, certificate.blob()));
        }
    }
    for folder in ["good", "bad"] {
        let folder = format!("{}/tests/config/{folder}", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(folder).expect("configurations").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".conf") || name.ends_with(".dump") {
                let text = std::fs::read(entry.path()).expect("a configuration");
                seeds.push(seed("sshd_config", &name, text));
            }
        }
    }
    let mut entropy = SeededEntropy::new(1);
    for (method, kind) in (0u8..).zip(KexKind::DEFAULT) {
        let name = kind.names()[0];
        let (_, public) = KexSecret::generate(*kind, &mut entropy).expect("a key");
        let (answer, _) = kex::respond(*kind, &public, &mut entropy).expect("a key of ours");
        for (side, public) in [(0, public), (1, answer)] {
            let bytes = [&[method * 2 + side][..], &public].concat();
            seeds.push(seed("kex_public", &format!("{name}-{side}"), bytes));
        }
    }
    seeds
}

/// A message's payload.
pub fn payload<'m>(message: &impl Message<'m>) -> Vec<u8> {
    let mut space = vec![0; 8192];
    let mut out = Writer::new(&mut space);
    message.write(&mut out).expect("room");
    out.written().to_vec()
}

fn seed(target: &'static str, name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
    (target, name.into(), bytes.into())
}

/// One input for each of the first suites, the toy among them.
fn packets() -> Vec<Seed> {
    let each = |suite: u8| {
        let front = [suite, 0, 0, 0, 5, 1];
        let body = [&[0, 0, 0, 12, 4][..], b"payload", &[0; 20]].concat();
        seed("packet", &format!("suite-{suite}"), [&front[..], &body].concat())
    };
    (0..16).map(each).collect()
}

fn keys() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (place, kind) in KeyKind::ALL.into_iter().enumerate() {
        let key = fixtures::private_key(kind);
        let name = kind.name();
        seeds.push(seed("public_key", &format!("blob-{name}"), key.public().blob()));
        let line = key.public().to_openssh_line("me@here");
        seeds.push(seed("public_key", &format!("line-{name}"), line));
        // The signatures of the other kinds differ from run to run; two are kept.
        if matches!(kind, KeyKind::Ed25519 | KeyKind::Rsa) {
            for algorithm in SignatureAlgorithm::for_key(kind) {
                let mut all = SignatureAlgorithm::ALL.into_iter();
                let at = all.position(|other| other == *algorithm).expect("one of all");
                let signature = key.sign(*algorithm, MESSAGE).expect("a working key");
                let bytes = [&[place as u8, at as u8][..], &signature].concat();
                seeds.push(seed("signature", algorithm.name(), bytes));
            }
        }
    }
    let generator = unhex(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
         4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    );
    let base_point = [&[9][..], &[0; 31]].concat();
    for side in 0..2 {
        let value = |method: u8, public: &[u8]| [&[method * 2 + side][..], public].concat();
        seeds.push(seed("kex_public", &format!("x25519-{side}"), value(2, &base_point)));
        seeds.push(seed("kex_public", &format!("p256-{side}"), value(3, &generator)));
    }
    seeds
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).expect("a hexadecimal digit") as u8;
    let digits: Vec<u8> = text.bytes().filter(|c| !c.is_ascii_whitespace()).map(digit).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn greetings() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let kexinit = payload(&messages::kexinit("toy@tidegate.invalid"));
    let packet = {
        let padding = 8 - (kexinit.len() + 5) % 8;
        let padding = if padding < 4 { padding + 8 } else { padding };
        let mut packet = (1 + kexinit.len() as u32 + padding as u32).to_be_bytes().to_vec();
        packet.push(padding as u8);
        packet.extend_from_slice(&kexinit);
        packet.extend(vec![0; padding]);
        packet
    };
    for (role, name) in [(0, "server"), (1, "client")] {
        let front = |step: u8| [role, step];
        let line = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n";
        seeds.push(seed("ident", name, [&front(1)[..], line].concat()));
        let whole = [&front(7)[..], line, &packet].concat();
        seeds.push(seed("ident", &format!("{name}-kexinit"), whole));
        let long = [&front(9)[..], b"Welcome\r\nto\r\nSSH-1.99-x\n"].concat();
        seeds.push(seed("ident", &format!("{name}-banner"), long));
    }
    for reader in 0..3u8 {
        for kex in ["toy@tidegate.invalid", "curve25519-sha256", "ecdh-sha2-nistp256"] {
            let bytes = [&[reader][..], &payload(&messages::kexinit(kex))].concat();
            seeds.push(seed("kexinit", &format!("{reader}-{kex}"), bytes));
        }
    }
    seeds
}
