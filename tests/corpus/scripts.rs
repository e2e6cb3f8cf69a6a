//! Programs for the targets that drive a whole connection; `src/fuzzing/script.rs` says what the
//! numbers mean.

use tidegate::crypto::KeyKind;
use tidegate::fuzzing::{fixtures, record_of_ours};
use tidegate::wire::auth::{
    AuthMethod, PublicKeyAttempt, PublicKeyOk, UserAuthBanner, UserAuthFailure, UserAuthRequest,
    UserAuthSuccess,
};
use tidegate::wire::transport::{
    Debug, Disconnect, ExtInfo, Ignore, KexEcdhInit, KexEcdhReply, NewKeys, Ping, ServiceAccept,
    ServiceRequest,
};
use tidegate::wire::{NameList, number};

use super::messages::{about_channel, about_connection, kexinit, open_answers};
use super::{Seed, payload, seed};

/// A program being written.
#[derive(Clone, Default)]
struct Program(Vec<u8>);

impl Program {
    fn with(mut self, bytes: &[u8]) -> Program {
        self.0.extend_from_slice(bytes);
        self
    }

    fn string(self, bytes: &[u8]) -> Program {
        let len = u16::try_from(bytes.len()).expect("short");
        self.with(&len.to_be_bytes()).with(bytes)
    }

    /// The peer says this payload.
    fn say(self, payload: &[u8]) -> Program {
        self.with(&[0]).string(payload)
    }

    /// The peer sends these bytes as they are.
    fn raw(self, bytes: &[u8]) -> Program {
        self.with(&[2]).string(bytes)
    }

    /// Sets what the owner does by itself.
    fn habits(self, bits: u8) -> Program {
        self.with(&[6, bits])
    }

    /// How many bytes more the subject sees at each look.
    fn pieces(self, step: u8) -> Program {
        self.with(&[5, step])
    }
}

/// An exchange begun by the peer, whole.
const EXCHANGE: [u8; 2] = [3, 4];
const IDENTIFY: [u8; 2] = [3, 3];
/// The subject begins a key exchange; the peer answers.
const REKEY: [u8; 3] = [8, 3, 4];
/// A session opened by the peer with a window of 2 MiB.
const OPEN: [u8; 6] = [10, 0, 3, 0, 2, 3];
const HAND_OVER: [u8; 1] = [9];

pub fn all() -> Vec<Seed> {
    let mut seeds = preauth();
    seeds.extend(logins());
    seeds.extend(postauth("server_postauth"));
    seeds.extend(postauth("client_postauth"));
    seeds.extend(owners());
    seeds.extend(sftp_server());
    for (kind, serves) in [(2, true), (3, false)] {
        let name = if serves { "server" } else { "client" };
        seeds.push(seed("handoff", name, [&[kind][..], &record_of_ours(serves)].concat()));
    }
    seeds.push(seed("handoff", "parcel-stop", [0, 6]));
    seeds.push(seed("handoff", "parcel-idle", [0, 5, 0, 0, 0, 0, 0, 0, 0, 9]));
    seeds
}

/// Scripts of [`tidegate::fuzzing::sftp_server`]: a handle is opened, then each kind of request.
fn sftp_server() -> Vec<Seed> {
    let mut seeds = Vec::new();
    // Kind, handle, attributes, 16 bits of length, one byte of offset; then the request's own.
    let ask = |kind: u8| [1, kind, 0, 1, 0, 9, 0];
    let open = [0].into_iter().chain(ask(0)).chain([0x1b]).collect::<Vec<u8>>();
    for kind in 0..32 {
        let program =
            [&open[..], &ask(kind), &[0, 0, 0, 9], &ask(kind), &[0, 0, 0x7f, 0xff]].concat();
        seeds.push(seed("sftp_server", &format!("kind-{kind:02}"), program));
    }
    let read = |len: [u8; 4]| [&ask(7)[..], &len].concat();
    let (all, some) = (read([0, 3, 0xfc, 0]), read([0, 0, 0x80, 0]));
    let frozen = [&open[..], &[11], &all, &some, &some, &[9, 2, 9, 0, 9, 0, 8, 10]].concat();
    seeds.push(seed("sftp_server", "reads-out-of-order", frozen));
    let failing =
        [&open[..], &[7, 200], &some, &ask(12), &ask(20), &[7, 70], &some, &ask(12)].concat();
    seeds.push(seed("sftp_server", "failing", failing));
    let rekey = [&open[..], &[13, 0], &some, &ask(18), &[13, 1], &some].concat();
    seeds.push(seed("sftp_server", "rekey", rekey));
    let starved =
        [&open[..], &[14, 2, 14, 2, 14, 2, 14, 2, 14, 2, 14, 2], &all, &[14, 255]].concat();
    seeds.push(seed("sftp_server", "starved", starved));
    let cut = [&open[..], &[11], &all, &ask(20), &[15, 1]].concat();
    seeds.push(seed("sftp_server", "cut-in-mid-read", cut));
    let end = [&open[..], &[11], &all, &[15, 0]].concat();
    seeds.push(seed("sftp_server", "end-of-input", end));
    let pieces = [&open[..], &[15, 2, 3], &ask(12), &ask(24), &all].concat();
    seeds.push(seed("sftp_server", "pieces", pieces));
    let small_packets =
        [&[1], &open[1..], &all, &[15, 3, 0, 0, 16, 0, 4], &open[1..], &all].concat();
    seeds.push(seed("sftp_server", "small-packets", small_packets));
    for request in super::messages::sftp_requests() {
        let len = u16::try_from(request.len()).expect("short");
        let packet = [&[0, 0][..], &len.to_be_bytes(), &request].concat();
        let program = [&[0, 0][..], &(len + 4).to_be_bytes(), &packet].concat();
        seeds.push(seed("sftp_server", &format!("raw-{:03}-{}", request[0], len), program));
    }
    seeds
}

fn preauth() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut space = [0; 64];
    let info = ExtInfo::build(&[(b"ping@openssh.com", b"0")], &mut space).expect("room");
    let reply = KexEcdhReply { host_key: b"K", server_public: b"Q", signature: b"S" };
    let messages = [
        payload(&kexinit("toy@tidegate.invalid")),
        payload(&KexEcdhInit { client_public: &[9; 32] }),
        payload(&reply),
        payload(&NewKeys),
        payload(&Ignore { data: b"x" }),
        payload(&Debug { always_display: false, message: b"x" }),
        payload(&Disconnect { reason: 11, description: b"bye" }),
        payload(&info),
        payload(&Ping { data: b"p" }),
        vec![number::UNIMPLEMENTED, 0, 0, 0, 0],
        vec![250],
    ];
    for target in ["server_preauth", "client_preauth"] {
        for (name, message) in [about_channel(0), about_connection(), open_answers(0)].concat() {
            let early = Program(vec![0]).say(&message);
            seeds.push(seed(target, &format!("early-{name}"), early.0));
        }
        let from_scratch = Program(vec![1]).with(&IDENTIFY);
        let whole = from_scratch.clone().with(&EXCHANGE).with(&EXCHANGE);
        seeds.push(seed(target, "exchange-twice", whole.0));
        let pieces = Program(vec![1]).pieces(1).with(&IDENTIFY).with(&EXCHANGE);
        seeds.push(seed(target, "exchange-in-pieces", pieces.0));
        let parts = from_scratch.clone().with(&[3, 0, 3, 1, 3, 2, 4, 10, 4, 20]);
        seeds.push(seed(target, "exchange-in-parts", parts.0));
        let late = Program(vec![1]).habits(16).with(&IDENTIFY).with(&[3, 5, 7, 3, 2, 4, 23]);
        seeds.push(seed(target, "exchange-answered-late", late.0));
        let junk = Program(vec![1]).raw(b"GET / HTTP/1.0\r\n\r\n");
        seeds.push(seed(target, "junk", junk.0));
        for message in &messages {
            let name = format!("{}-in-clear", message[0]);
            seeds.push(seed(target, &name, from_scratch.clone().say(message).0));
            let sealed = Program(vec![0]).say(message).with(&EXCHANGE);
            seeds.push(seed(target, &format!("{}-sealed", message[0]), sealed.0));
        }
    }
    seeds
}

fn logins() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let key = fixtures::private_key(KeyKind::Ed25519).public().clone();
    let attempt = PublicKeyAttempt {
        algorithm: "ssh-ed25519",
        key: key.blob(),
        host_key: None,
        signature: None,
    };
    let methods = [
        ("none", AuthMethod::None),
        ("probe", AuthMethod::PublicKey(attempt)),
        ("forged", AuthMethod::PublicKey(PublicKeyAttempt { signature: Some(b"S"), ..attempt })),
        ("bound", AuthMethod::PublicKey(PublicKeyAttempt { host_key: Some(b"H"), ..attempt })),
        ("password", AuthMethod::Password { password: b"p", new: None }),
        ("other", AuthMethod::Other { name: "keyboard-interactive", rest: &[0; 8] }),
    ];
    let service = payload(&ServiceRequest { name: b"ssh-userauth" });
    for (name, method) in methods {
        let request = UserAuthRequest { user: "me", service: "ssh-connection", method };
        let request = payload(&request);
        let twice = Program(vec![0]).say(&service).say(&request).with(&[4, 5]).say(&request);
        seeds.push(seed("server_preauth", &format!("login-{name}"), twice.0));
    }
    let login = Program(vec![0]).say(&service).with(&[15]).with(&OPEN).with(&EXCHANGE);
    seeds.push(seed("server_preauth", "login", login.0));
    let late = Program(vec![0]).habits(16).say(&service).with(&[15, 4, 4, 7, 4, 10]);
    seeds.push(seed("server_preauth", "login-answered-late", late.0));
    let refused = Program(vec![0]).habits(32).say(&service).with(&[15, 4, 6, 15, 4, 6]);
    seeds.push(seed("server_preauth", "login-refused", refused.0));
    let forever = Program(vec![0]).say(&service).with(&[4, 23, 4, 23]);
    seeds.push(seed("server_preauth", "grace", forever.0));

    let accept = payload(&ServiceAccept { name: b"ssh-userauth" });
    let ok = payload(&PublicKeyOk { algorithm: "ssh-ed25519", key: key.blob() });
    let success = payload(&UserAuthSuccess);
    let methods = NameList::new(b"publickey,password").expect("valid");
    let failure = payload(&UserAuthFailure { methods, partial: true });
    let banner = payload(&UserAuthBanner { text: "hello\r\n", language: "" });
    let start = Program(vec![0]).say(&accept);
    let programs = [
        ("login", start.clone().say(&banner).say(&ok).say(&success)),
        ("login-again", start.clone().say(&failure).say(&failure).say(&ok).say(&success)),
        ("login-unsigned", start.clone().habits(48).say(&ok).with(&[7]).say(&success)),
        ("success-too-soon", start.say(&success)),
        ("success-unasked", Program(vec![0]).say(&success)),
    ];
    seeds.extend(programs.map(|(name, program)| seed("client_preauth", name, program.0)));
    seeds
}

fn postauth(target: &'static str) -> Vec<Seed> {
    let mut seeds = Vec::new();
    // A client of ours opens channels itself.
    let open = match target {
        "server_postauth" => Program::default().with(&OPEN),
        _ => Program::default().with(&[13, 0]).say(&open_answers(0)[0].1),
    };
    for (name, message) in [about_channel(0), about_connection(), open_answers(0)].concat() {
        let program = open.clone().say(&message).with(&HAND_OVER).with(&REKEY).say(&message);
        seeds.push(seed(target, &name, program.0));
    }
    let pieces = open.clone().pieces(3).say(&about_channel(0)[1].1).with(&EXCHANGE);
    seeds.push(seed(target, "pieces", pieces.0));
    let flood = (0..70).fold(open.clone().habits(4), |flood, _| flood.with(&[10, 6, 0, 1]));
    seeds.push(seed(target, "window-overrun", flood.0));
    let in_exchange = open.clone().with(&[3, 0]).say(&about_channel(0)[1].1);
    seeds.push(seed(target, "data-in-exchange", in_exchange.0));
    let busy = open.clone().habits(0x4f);
    let busy = (0..20).fold(busy, |busy, _| busy.with(&[10, 15, 0, 0, 2]));
    seeds.push(seed(target, "requests-unanswered", busy.with(&[13, 5, 0, 13, 6, 0]).0));
    let time = open.with(&[4, 15, 4, 15, 4, 16, 4, 23]);
    seeds.push(seed(target, "silence", time.0));
    seeds
}

/// What our own side does, on a channel of each role.
fn owners() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for target in ["server_postauth", "client_postauth"] {
        let open = match target {
            "server_postauth" => Program::default().with(&OPEN),
            _ => Program::default().with(&[13, 0]).say(&open_answers(0)[0].1),
        };
        let acts: [(&str, &[u8]); 10] = [
            ("eof-close", &[13, 7, 0, 13, 8, 0]),
            ("exit", &[13, 9, 0, 13, 10, 0, 13, 8, 0]),
            ("write", &[13, 12, 0, 0, 200, 13, 13, 0, 0, 9]),
            ("write-much", &[13, 12, 0, 1, 13, 12, 0, 1, 13, 12, 0, 1]),
            ("plan-seal", &[13, 14, 0, 1, 2, 13, 16, 0, 1, 13, 16, 0, 0]),
            ("plan-short", &[13, 14, 0, 0, 3, 13, 16, 0, 5, 7]),
            ("plan-rekey-seal", &[13, 14, 0, 1, 2, 8, 13, 16, 0, 1, 3, 4, 13, 16, 0, 1]),
            ("plan-close-drop", &[13, 14, 0, 1, 2, 13, 8, 0, 13, 17, 0]),
            ("around", &[13, 15, 0, 5, 99, 13, 16, 0, 1]),
            ("request", &[13, 18, 0, 13, 19, 0, 2, 13, 1]),
        ];
        for (name, act) in acts {
            let program = open.clone().with(act).with(&HAND_OVER).with(act);
            seeds.push(seed(target, &format!("own-{name}"), program.0));
        }
        let many = (0..40).fold(Program::default(), |many, _| many.with(&OPEN).with(&[13, 0]));
        seeds.push(seed(target, "many-channels", many.0));
    }
    seeds
}
