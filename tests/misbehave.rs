//! A peer that breaks the rules of RFC 4252 and RFC 4254: what it does and what becomes of it. Named
//! by the cases of our list of attacks.

#[path = "misbehave/hostkeys.rs"]
mod hostkeys;
#[path = "misbehave/names.rs"]
mod names;
#[path = "support/rogue.rs"]
mod rogue;
#[path = "support/pair.rs"]
mod support;

use std::time::Duration;

use rogue::{Stage, attempt, confirmation, encode, open};
use support::{Flavour, Habits, Seen, Setup, USER, host_key, toy, user_key};
use tidegate::connection::{
    Answer, Chains, ChannelRequest, Event, LoginMethod, Method, Query, Secret,
};
use tidegate::crypto::{KeyKind, PrivateKey, PublicKey, SignatureAlgorithm};
use tidegate::limits::{
    AUTH_REQUESTS_MAX, AUTH_ROUNDS_MAX, CHANNEL_PACKET_BYTES_MAX, GLOBALS_HELD_MAX, WINDOW_BYTES,
};
use tidegate::transport::Client;
use tidegate::wire::auth::{
    AuthMethod, PublicKeyAttempt, PublicKeyOk, UserAuthFailure, UserAuthRequest, UserAuthSuccess,
};
use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelExtendedData, ChannelFailure, ChannelNumber,
    ChannelOpenFailure, ChannelSuccess, ChannelWindowAdjust, GlobalBody, GlobalRequest, OpenKind,
    RequestFailure, RequestSuccess,
};
use tidegate::wire::request::{self, RequestBody};
use tidegate::wire::transport::{ServiceAccept, ServiceRequest};
use tidegate::wire::{Message, NameList, number};

const PROTOCOL_ERROR: Option<u32> = Some(2);
const SERVICE_NOT_AVAILABLE: Option<u32> = Some(7);

/// What is expected of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It ends the connection, and says why with this code.
    Drops(u32),
    /// It answers with a message of this number and goes on.
    Answers(u8),
    /// It goes on without a word.
    Ignores,
}

fn fate<R: tidegate::transport::Role>(stage: &Stage<R>) -> Fate {
    match (stage.code(), stage.heard.last()) {
        (Some(code), _) => Fate::Drops(code),
        (None, Some(message)) => Fate::Answers(message[0]),
        (None, None) => {
            assert!(stage.victim.error.is_none(), "left without a word");
            Fate::Ignores
        }
    }
}

fn stranger() -> &'static PrivateKey {
    static KEY: std::sync::OnceLock<PrivateKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(KeyKind::Ed25519).expect("a key"))
}

fn probe(key: &PrivateKey, user: &str) -> Vec<u8> {
    let method = AuthMethod::PublicKey(attempt(key, SignatureAlgorithm::Ed25519));
    encode(&UserAuthRequest { user, service: "ssh-connection", method })
}

fn request(user: &str, method: AuthMethod<'_>) -> Vec<u8> {
    encode(&UserAuthRequest { user, service: "ssh-connection", method })
}

fn trailing(mut payload: Vec<u8>) -> Vec<u8> {
    payload.push(0);
    payload
}

fn to(number: u32) -> ChannelNumber {
    ChannelNumber(number)
}

fn channel_request(number: u32, body: RequestBody<'_>) -> Vec<u8> {
    encode(&request::ChannelRequest { recipient: to(number), want_reply: true, body })
}

/// One of each message about a channel, all well formed.
fn about_channel(number: u32) -> Vec<Vec<u8>> {
    let recipient = to(number);
    vec![
        encode(&confirmation(number, 0, 1 << 20, 1 << 15)),
        encode(&ChannelOpenFailure { recipient, reason: 1, text: "", language: "" }),
        encode(&ChannelWindowAdjust { recipient, bytes: 1 }),
        encode(&ChannelData { recipient, data: b"x" }),
        encode(&ChannelExtendedData { recipient, data_type: 1, data: b"x" }),
        encode(&ChannelEof { recipient }),
        encode(&ChannelClose { recipient }),
        channel_request(number, RequestBody::Shell),
        encode(&ChannelSuccess { recipient }),
        encode(&ChannelFailure { recipient }),
    ]
}

// ---- Before and during the login ---------------------------------------------------------------

#[test]
fn case_51_nothing_runs_before_the_login() {
    let mut messages = about_channel(0);
    messages.push(encode(&open(0, 1 << 20, 1 << 15, OpenKind::Session)));
    messages.push(channel_request(0, RequestBody::Exec { command: b"id" }));
    messages.push(encode(&GlobalRequest {
        want_reply: true,
        request: GlobalBody::TcpipForward { address: "", port: 2222 },
    }));
    for message in messages {
        for asked_service in [false, true] {
            let mut stage = Stage::server(&toy());
            if asked_service {
                stage.ask_service();
            }
            let before = stage.victim.seen.len();
            stage.say_raw(&message);
            assert_eq!(fate(&stage), Fate::Drops(2), "message {}", message[0]);
            assert_eq!(stage.victim.seen.len(), before, "no event");
        }
    }
}

#[test]
fn case_52_messages_that_only_a_server_sends() {
    let methods = NameList::new(b"publickey").expect("a list");
    let messages = [
        encode(&UserAuthSuccess),
        encode(&UserAuthFailure { methods, partial: false }),
        encode(&PublicKeyOk { algorithm: "ssh-ed25519", key: user_key().public().blob() }),
        encode(&ServiceAccept { name: b"ssh-userauth" }),
        encode(&ServiceAccept { name: b"ssh-connection" }),
    ];
    for message in messages {
        let stages = [
            Stage::server(&toy()),
            {
                let mut stage = Stage::server(&toy());
                stage.ask_service();
                stage
            },
            Stage::server_logged_in(&toy()),
        ];
        for (which, mut stage) in stages.into_iter().enumerate() {
            let was_in = stage.victim.conn.is_authenticated();
            stage.say_raw(&message);
            assert_eq!(fate(&stage), Fate::Drops(2), "message {} at stage {which}", message[0]);
            assert_eq!(stage.victim.conn.is_authenticated(), was_in);
        }
    }
}

#[test]
fn case_53_a_server_that_lets_us_in_unasked() {
    // Before we ask for the service, before we try, and while the key is only being offered.
    for step in 0..3 {
        let mut stage = Stage::client(&toy());
        if step > 0 {
            stage.begin_login();
        }
        if step > 1 {
            stage.say(&ServiceAccept { name: b"ssh-userauth" });
        }
        stage.heard.clear();
        stage.say(&UserAuthSuccess);
        assert_eq!(fate(&stage), Fate::Drops(2), "step {step}");
        assert!(!stage.victim.conn.is_authenticated());
    }
    // Every other login message a server might invent.
    let methods = NameList::new(b"publickey").expect("a list");
    for message in [
        encode(&UserAuthFailure { methods, partial: false }),
        encode(&PublicKeyOk { algorithm: "ssh-ed25519", key: user_key().public().blob() }),
        encode(&ServiceAccept { name: b"ssh-userauth" }),
        encode(&ServiceRequest { name: b"ssh-userauth" }),
        probe(user_key(), USER),
    ] {
        let mut stage = Stage::client(&toy());
        stage.say_raw(&message);
        assert_eq!(fate(&stage), Fate::Drops(2), "message {}", message[0]);
        let mut stage = Stage::client_logged_in(&toy());
        stage.say_raw(&message);
        assert_eq!(fate(&stage), Fate::Drops(2), "message {} after the login", message[0]);
    }
}

#[test]
fn case_54_user_and_service_do_not_change() {
    let mut stage = Stage::server(&toy());
    stage.ask_service();
    stage.say_raw(&request(USER, AuthMethod::None));
    assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE));
    stage.say_raw(&request("you", AuthMethod::None));
    assert_eq!(stage.code(), PROTOCOL_ERROR);

    let mut stage = Stage::server(&toy());
    stage.ask_service();
    stage.say_raw(&request(USER, AuthMethod::None));
    let method = AuthMethod::None;
    stage.say(&UserAuthRequest { user: USER, service: "ssh-userauth", method });
    assert_eq!(stage.code(), SERVICE_NOT_AVAILABLE);

    let mut stage = Stage::server(&toy());
    stage.say(&ServiceRequest { name: b"ssh-connection" });
    assert_eq!(stage.code(), SERVICE_NOT_AVAILABLE);
}

#[test]
fn case_55_only_the_key_that_signed_is_judged() {
    let mut stage = Stage::server(&toy());
    stage.ask_service();
    stage.say_raw(&probe(user_key(), USER));
    assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_PK_OK));
    let request = stage.signed(stranger(), USER, "ssh-connection");
    stage.say_raw(&request);
    stage.wait(Duration::from_millis(20));
    assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE));
    // The accepted key's blob with the stranger's signature does not do either.
    let mut forged = stage.signed(user_key(), USER, "ssh-connection");
    let by_stranger = stage.signed(stranger(), USER, "ssh-connection");
    let signature_at = forged.len() - 64;
    forged.truncate(signature_at);
    forged.extend_from_slice(&by_stranger[by_stranger.len() - 64..]);
    stage.say_raw(&forged);
    stage.wait(Duration::from_millis(20));
    assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE));
    assert!(!stage.victim.conn.is_authenticated());
    let judged: Vec<_> = stage.victim.seen.iter().filter_map(asked_about).collect();
    assert_eq!(judged, [user_key().public(), stranger().public(), user_key().public()]);
}

fn asked_about(seen: &Seen) -> Option<&PublicKey> {
    match seen {
        Seen::Event(Event::Query(Query::FindKey { key, .. })) => Some(key),
        _ => None,
    }
}

#[test]
fn case_56_a_signature_over_something_else() {
    /// What is wrong, the session identifier signed, the user and service signed.
    type Row = (&'static str, fn(&[u8]) -> Vec<u8>, (&'static str, &'static str));
    let rows: [Row; 4] = [
        ("session", |id| id.iter().map(|byte| !byte).collect(), (USER, "ssh-connection")),
        ("no session", |_| Vec::new(), (USER, "ssh-connection")),
        ("user", <[u8]>::to_vec, ("you", "ssh-connection")),
        ("service", <[u8]>::to_vec, (USER, "ssh-userauth")),
    ];
    for (what, session, signed) in rows {
        let mut stage = Stage::server(&toy());
        stage.ask_service();
        let id = session(stage.rogue.session_id());
        let request = stage.signed_over(user_key(), USER, "ssh-connection", &id, signed);
        stage.say_raw(&request);
        assert_eq!(fate(&stage), Fate::Ignores, "{what}: not yet");
        stage.wait(Duration::from_millis(20));
        assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE), "{what}");
        assert!(!stage.victim.conn.is_authenticated(), "{what}");
    }
}

/// OpenSSH PROTOCOL §3.1: a signature bound to another server's host key is worth nothing here.
#[test]
fn a_host_bound_signature_for_another_host() {
    for (bound_to, lets_in) in [(host_key().public(), true), (stranger().public(), false)] {
        let mut stage = Stage::server(&toy());
        stage.ask_service();
        let algorithm = SignatureAlgorithm::Ed25519;
        let mut attempt = attempt(user_key(), algorithm);
        attempt.host_key = Some(bound_to.blob());
        let mut space = [0; 4096];
        let mut out = tidegate::wire::Writer::new(&mut space);
        let session_id = stage.rogue.session_id();
        attempt.write_signed(session_id, USER, "ssh-connection", &mut out).expect("room");
        let signature = user_key().sign(algorithm, out.written()).expect("signs");
        attempt.signature = Some(&signature);
        stage.say_raw(&request(USER, AuthMethod::PublicKey(attempt)));
        stage.wait(Duration::from_millis(20));
        assert_eq!(stage.victim.conn.is_authenticated(), lets_in);
    }
}

#[test]
fn case_58_answers_that_come_late_or_twice() {
    let mut stage = Stage::server(&toy());
    stage.victim.habits = Habits { judges: false, ..Habits::ALL };
    stage.ask_service();
    let now = stage.now;
    let say_yes = |stage: &mut Stage<Client>| {
        stage.victim.attempt(now, |conn, env| conn.answer(Answer::Key(true), env));
        stage.victim.poll(now);
        stage.run();
    };
    say_yes(&mut stage);
    assert!(!stage.victim.conn.is_authenticated(), "to nothing");
    let request = stage.signed(stranger(), USER, "ssh-connection");
    stage.say_raw(&request);
    assert!(stage.victim.conn.blocked());
    let signature = Answer::Signature(Some(Box::default()));
    stage.victim.attempt(now, |conn, env| conn.answer(signature, env));
    assert!(stage.victim.conn.blocked(), "an answer to another question");
    stage.victim.attempt(now, |conn, env| conn.answer(Answer::Key(false), env));
    say_yes(&mut stage);
    assert!(!stage.victim.conn.is_authenticated(), "the second answer");
    stage.wait(Duration::from_millis(20));
    assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE));
    // A yes without a signature is no login.
    stage.say_raw(&probe(user_key(), USER));
    say_yes(&mut stage);
    assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_PK_OK));
    say_yes(&mut stage);
    assert!(!stage.victim.conn.is_authenticated());
}

#[test]
fn case_59_tries_are_counted() {
    let tries = |message: &[u8], max: usize| {
        let mut stage = Stage::server(&toy());
        stage.ask_service();
        let mut said = 0;
        while stage.farewell.is_none() && said < max {
            stage.say_raw(message);
            stage.wait(Duration::from_millis(20));
            said += 1;
        }
        assert_eq!(stage.code(), PROTOCOL_ERROR);
        said
    };
    // The first `none` asks for the methods; six failures are one too many.
    assert_eq!(tries(&request(USER, AuthMethod::None), 30), 7);
    assert_eq!(tries(&probe(stranger(), USER), 60), 6);
    let password = AuthMethod::Password { password: b"guess", new: None };
    assert_eq!(tries(&request(USER, password), 60), 6);
    // A key that would do is no failure, but asking does not go on for ever.
    assert_eq!(tries(&probe(user_key(), USER), 1000), AUTH_REQUESTS_MAX as usize + 1);
}

#[test]
fn case_60_answers_to_no_prompt() {
    for body in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff", b"\0\0\0\x01\0\0\0\x01x"] {
        for tried in [false, true] {
            let mut stage = Stage::server(&toy());
            stage.ask_service();
            if tried {
                let rest = b"\0\0\0\0\0\0\0\0";
                let method = AuthMethod::Other { name: "keyboard-interactive", rest };
                stage.say_raw(&request(USER, method));
                stage.wait(Duration::from_millis(20));
            }
            stage.say_raw(&[&[number::USERAUTH_INFO_RESPONSE], body].concat());
            assert_eq!(stage.code(), PROTOCOL_ERROR);
        }
    }
}

/// With prompts there are as many answers as prompts, or none at all.
#[test]
fn case_60_other_answers_than_were_asked_for() {
    let mut setup = toy();
    setup.server.chains = Chains::any_of(Method::ALL);
    let rest = b"\0\0\0\0\0\0\0\0";
    let ask = request(USER, AuthMethod::Other { name: "keyboard-interactive", rest });
    for (body, fate_of_it) in [
        (&b"\0\0\0\x01\0\0\0\x01x"[..], Fate::Answers(number::USERAUTH_FAILURE)),
        (b"\0\0\0\0", Fate::Drops(2)),
        (b"\0\0\0\x02\0\0\0\x01x\0\0\0\x01x", Fate::Drops(2)),
        (b"\xff\xff\xff\xff", Fate::Drops(2)),
        (b"\0\0\0\x01\0\0\0\x01xx", Fate::Drops(2)),
        (b"\0\0\0\x01\xff\xff\xff\xffx", Fate::Drops(2)),
    ] {
        let mut stage = Stage::server(&setup);
        stage.ask_service();
        stage.say_raw(&ask);
        assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_INFO_REQUEST));
        let answers = [&[number::USERAUTH_INFO_RESPONSE], body].concat();
        stage.say_raw(&answers);
        stage.wait(Duration::from_millis(20));
        assert_eq!(fate(&stage), fate_of_it, "{body:?}");
        if fate_of_it == Fate::Answers(number::USERAUTH_FAILURE) {
            stage.say_raw(&answers);
            assert_eq!(stage.code(), PROTOCOL_ERROR, "once is enough");
        }
    }
}

#[test]
fn case_61_prompts_we_did_not_ask_for() {
    let endless = [&[number::USERAUTH_INFO_REQUEST][..], &[0; 12], &[0xff; 4]].concat();
    for step in 0..2 {
        let mut stage = Stage::client(&toy());
        if step > 0 {
            stage.begin_login();
            stage.say(&ServiceAccept { name: b"ssh-userauth" });
        }
        stage.say_raw(&endless);
        assert_eq!(stage.code(), PROTOCOL_ERROR);
    }
}

/// Questions are answered as long as somebody could be asking them, and no longer.
#[test]
fn case_61_questions_do_not_go_on_for_ever() {
    let mut stage = Stage::client(&toy());
    stage.begin_login_by(LoginMethod::Interactive);
    stage.say(&ServiceAccept { name: b"ssh-userauth" });
    let question = [&[number::USERAUTH_INFO_REQUEST][..], &[0; 12], &[0, 0, 0, 1]].concat();
    let question = [&question[..], &[0, 0, 0, 1, b'?', 0]].concat();
    for _ in 0..AUTH_ROUNDS_MAX {
        stage.say_raw(&question);
        let last = stage.heard.last().expect("an answer");
        let expected = [&[number::USERAUTH_INFO_RESPONSE, 0, 0, 0, 1, 0, 0, 0, 6][..], b"secret"];
        assert_eq!(*last, expected.concat());
    }
    stage.say_raw(&question);
    assert_eq!(stage.code(), PROTOCOL_ERROR);
    // A password is no conversation: whoever wants another one is not told the old one again.
    let mut stage = Stage::client(&toy());
    stage.begin_login_by(LoginMethod::Password(Secret::new(b"secret".to_vec().into())));
    stage.say(&ServiceAccept { name: b"ssh-userauth" });
    stage.say_raw(&question);
    assert!(stage.code().is_some(), "the client leaves");
}

#[test]
fn case_62_user_names_that_are_none() {
    for name in ["", "a\0b", "a\nb", "\u{1b}[2J", "\u{85}"] {
        for message in [probe(user_key(), name), request(name, AuthMethod::None)] {
            let mut stage = Stage::server(&toy());
            stage.ask_service();
            stage.say_raw(&message);
            stage.wait(Duration::from_millis(20));
            assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE), "{name:?}");
            assert_eq!(stage.victim.seen.iter().filter_map(asked_about).count(), 0, "{name:?}");
        }
    }
    // These are odd and somebody's to judge, whole and as they are.
    for name in ["-oProxyCommand=id", "../x", "%u", "$(id)"] {
        let mut stage = Stage::server(&toy());
        stage.ask_service();
        stage.say_raw(&probe(user_key(), name));
        stage.wait(Duration::from_millis(20));
        assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE), "{name:?}");
        let asked = stage.victim.saw(
            |event| matches!(event, Event::Query(Query::FindKey { user, .. }) if **user == *name),
        );
        assert_eq!(asked, 1, "{name:?}");
    }
    for name in ["x".repeat(256), "x".repeat(30_000)] {
        let mut stage = Stage::server(&toy());
        stage.ask_service();
        stage.say_raw(&request(&name, AuthMethod::None));
        assert_eq!(stage.code(), PROTOCOL_ERROR);
    }
    let mut stage = Stage::server(&toy());
    stage.ask_service();
    let mut not_text = request("x", AuthMethod::None);
    not_text[5] = 0xff;
    stage.say_raw(&not_text);
    assert_eq!(stage.code(), PROTOCOL_ERROR);
}

#[test]
fn case_63_passwords_do_not_help() {
    for password in [&b""[..], b"\0", &[b'x'; 256], &[b'x'; 1024]] {
        let mut stage = Stage::server(&toy());
        stage.ask_service();
        let method = AuthMethod::Password { password, new: None };
        stage.say_raw(&request(USER, method));
        assert_eq!(fate(&stage), Fate::Ignores, "not at once");
        stage.wait(Duration::from_millis(20));
        assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE));
    }
    let mut stage = Stage::server(&toy());
    stage.ask_service();
    let method = AuthMethod::Password { password: &[b'x'; 20_000], new: None };
    stage.say_raw(&request(USER, method));
    assert_eq!(stage.code(), PROTOCOL_ERROR);
}

/// Known, unknown and impossible users are refused with the same bytes at the same time, whatever
/// the method and however long the look-up took.
/// Whatever is tried, the refusal of one name is due after the same time.
#[test]
fn case_66_every_refusal_waits() {
    let mut setup = toy();
    setup.server.chains = Chains::any_of(Method::ALL);
    let other = |name| AuthMethod::Other { name, rest: b"\0\0\0\0\0\0\0\0" };
    let damaged =
        PublicKeyAttempt { key: b"damaged", ..attempt(stranger(), SignatureAlgorithm::Ed25519) };
    let password = AuthMethod::Password { password: b"guess", new: None };
    let rows = [
        ("a password", request(USER, password)),
        ("keyboard-interactive", request(USER, other("keyboard-interactive"))),
        ("a method that is none", request(USER, other("hostbased"))),
        ("a key", probe(stranger(), USER)),
        ("a damaged key", request(USER, AuthMethod::PublicKey(damaged))),
    ];
    let mut delays = Vec::new();
    for (what, message) in rows {
        let mut stage = Stage::server(&setup);
        stage.ask_service();
        stage.say_raw(&message);
        if fate(&stage) == Fate::Answers(number::USERAUTH_INFO_REQUEST) {
            let answers = b"\0\0\0\x01\0\0\0\x01x";
            stage.say_raw(&[&[number::USERAUTH_INFO_RESPONSE], &answers[..]].concat());
        }
        let heard = stage.heard.len();
        let due = stage.victim.conn.poll_timeout().expect(what).since(stage.now);
        stage.wait(due.saturating_sub(Duration::from_micros(1)));
        assert_eq!(stage.heard.len(), heard, "{what}: not at once");
        stage.wait(Duration::from_micros(1));
        assert_eq!(fate(&stage), Fate::Answers(number::USERAUTH_FAILURE), "{what}");
        delays.push(due);
    }
    assert!(delays[0] >= Duration::from_millis(5) && delays[0] < Duration::from_millis(9));
    assert!(delays.iter().all(|delay| *delay == delays[0]), "{delays:?}");
}

#[test]
fn case_65_and_66_users_cannot_be_told_apart() {
    let outcome = |key: &PrivateKey, user: &str, signed: bool, lookup: Duration| {
        let mut stage = Stage::server(&toy());
        stage.victim.habits = Habits { judges: false, ..Habits::ALL };
        stage.ask_service();
        let start = stage.now;
        let message =
            if signed { stage.signed(key, user, "ssh-connection") } else { probe(key, user) };
        stage.say_raw(&message);
        stage.now = stage.now.after(lookup);
        let now = stage.now;
        stage.victim.attempt(now, |conn, env| conn.answer(Answer::Key(false), env));
        let due = stage.victim.conn.poll_timeout().expect("a refusal is due");
        stage.wait(Duration::from_secs(1));
        (due.since(start), stage.heard)
    };
    let mut delays = Vec::new();
    for user in ["root", "nobody-of-that-name", "a"] {
        let quick = outcome(user_key(), user, false, Duration::ZERO);
        for lookup in [Duration::from_micros(10), Duration::from_millis(4)] {
            for signed in [false, true] {
                let slow = outcome(stranger(), user, signed, lookup);
                assert_eq!((quick.0, &quick.1), (slow.0, &slow.1), "{user}");
            }
        }
        assert!(quick.0 >= Duration::from_millis(5) && quick.0 < Duration::from_millis(9));
        delays.push(quick);
        // A look-up longer than the delay doubles it, and shows no more than that.
        let late = outcome(user_key(), user, false, Duration::from_millis(12));
        assert!(late.0 >= Duration::from_millis(12) && late.0 < Duration::from_millis(36));
    }
    assert!(delays.windows(2).all(|pair| pair[0].1 == pair[1].1), "the same bytes");
}

#[test]
fn case_68_a_second_login_is_ignored() {
    let mut stage = Stage::server_logged_in(&toy());
    let again = stage.signed(user_key(), USER, "ssh-connection");
    for message in [again, probe(stranger(), "you"), request("root", AuthMethod::None)] {
        stage.say_raw(&message);
        assert_eq!(fate(&stage), Fate::Ignores);
    }
    let packets = stage.rogue.stats().packets_in;
    stage.say(&ServiceRequest { name: b"ssh-userauth" });
    assert_eq!(fate(&stage), Fate::Ignores, "the rogue's transport swallows UNIMPLEMENTED");
    assert_eq!(stage.rogue.stats().packets_in, packets + 1);
    stage.open_session(0);
}

#[test]
fn case_11_trailing_bytes_end_the_connection() {
    let mut stage = Stage::server(&toy());
    stage.ask_service();
    stage.say_raw(&trailing(request(USER, AuthMethod::None)));
    assert_eq!(stage.code(), PROTOCOL_ERROR);
    let number = {
        let mut stage = Stage::server_logged_in(&toy());
        stage.open_session(0)
    };
    let mut messages = about_channel(number);
    messages.push(encode(&open(1, 1 << 20, 1 << 15, OpenKind::Session)));
    // The fields behind a confirmation belong to the channel's type and are none of ours.
    for message in messages.into_iter().filter(|m| m[0] != number::CHANNEL_OPEN_CONFIRMATION) {
        let mut stage = Stage::server_logged_in(&toy());
        stage.open_session(0);
        stage.say_raw(&trailing(message.clone()));
        assert_eq!(stage.code(), PROTOCOL_ERROR, "message {}", message[0]);
    }
}

/// Every message number, empty and with some bytes, wherever a login stands: never a panic, never
/// a login, and the connection protocol stays shut.
#[test]
fn case_12_every_number_in_every_state() {
    for message in (50..=255u8).chain([5, 6]) {
        for body in [&b""[..], &[0; 40], &[0xff; 40]] {
            let payload = [&[message], body].concat();
            let mut stage = Stage::server(&toy());
            stage.say_raw(&payload);
            assert!(!stage.victim.conn.is_authenticated());
            let mut stage = Stage::client(&toy());
            stage.say_raw(&payload);
            assert!(!stage.victim.conn.is_authenticated());
        }
    }
    for message in (50..=255u8).chain([5, 6]) {
        let mut stage = Stage::server_logged_in(&toy());
        stage.open_session(0);
        stage.say_raw(&[&[message][..], &[0; 40]].concat());
        let started =
            |event: &Event| matches!(event, Event::Request { request, .. } if request.starts());
        assert_eq!(stage.victim.saw(started), 0);
    }
}

// ---- Channels ----------------------------------------------------------------------------------

#[test]
fn case_80_packets_of_no_size() {
    for packet in [0, 1, 255] {
        let mut stage = Stage::server_logged_in(&toy());
        stage.say(&open(0, 1 << 20, packet, OpenKind::Session));
        assert_eq!(fate(&stage), Fate::Answers(number::CHANNEL_OPEN_FAILURE));
        assert_eq!(stage.victim.conn.channel_count(), 0);
        // A server that confirms with such a limit leaves us nothing to talk with.
        let mut stage = Stage::client_logged_in(&toy());
        let now = stage.now;
        let id = stage.victim.attempt(now, |conn, env| conn.open_session(env)).flatten();
        stage.run();
        stage.say(&confirmation(id.expect("asked").number(), 0, 1 << 20, packet));
        assert!(stage.victim.error.is_some());
    }
}

#[test]
fn case_81_windows_that_wrap() {
    let mut stage = Stage::server_logged_in(&toy());
    stage.say(&open(0, u32::MAX, 1 << 15, OpenKind::Session));
    stage.heard.clear();
    stage.say(&ChannelWindowAdjust { recipient: to(0), bytes: u32::MAX });
    assert_eq!(fate(&stage), Fate::Drops(2));
    let mut stage = Stage::server_logged_in(&toy());
    stage.say(&open(0, u32::MAX, 1 << 15, OpenKind::Session));
    stage.heard.clear();
    stage.say(&ChannelWindowAdjust { recipient: to(0), bytes: 0 });
    assert_eq!(fate(&stage), Fate::Ignores);
    stage.say(&ChannelWindowAdjust { recipient: to(0), bytes: 1 });
    assert_eq!(fate(&stage), Fate::Drops(2));
}

#[test]
fn case_82_data_past_the_window() {
    let mut stage = Stage::server_logged_in(&toy());
    stage.victim.habits.consumes = false;
    let number = stage.open_session(0);
    let data = vec![7; CHANNEL_PACKET_BYTES_MAX as usize];
    for _ in 0..WINDOW_BYTES / CHANNEL_PACKET_BYTES_MAX {
        stage.say(&ChannelData { recipient: to(number), data: &data });
    }
    assert_eq!(fate(&stage), Fate::Ignores);
    stage.say(&ChannelData { recipient: to(number), data: b"x" });
    assert_eq!(fate(&stage), Fate::Drops(2));
    let received: usize = stage.victim.received.values().map(Vec::len).sum();
    assert_eq!(received, WINDOW_BYTES as usize);

    let mut stage = Stage::server_logged_in(&toy());
    let number = stage.open_session(0);
    let data = vec![7; CHANNEL_PACKET_BYTES_MAX as usize + 1];
    stage.say(&ChannelData { recipient: to(number), data: &data });
    assert_eq!(fate(&stage), Fate::Drops(2));
}

#[test]
fn case_83_channels_that_are_not_open() {
    // Unknown to the server.
    for number in [0, 5, u32::MAX] {
        for message in about_channel(number) {
            let mut stage = Stage::server_logged_in(&toy());
            let before = stage.victim.seen.len();
            stage.say_raw(&message);
            assert_eq!(fate(&stage), Fate::Drops(2), "message {} to {number}", message[0]);
            assert_eq!(stage.victim.seen.len(), before, "no event");
        }
    }
    // Asked for and not answered: the peer cannot know the number.
    for message in about_channel(0) {
        let mut stage = Stage::server_logged_in(&toy());
        stage.victim.habits.accepts = false;
        stage.say(&open(0, 1 << 20, 1 << 15, OpenKind::Session));
        let before = stage.victim.seen.len();
        stage.say_raw(&message);
        assert_eq!(fate(&stage), Fate::Drops(2), "message {}", message[0]);
        assert_eq!(stage.victim.seen.len(), before, "no event");
    }
    // Closed by both; also when the slot has a new tenant.
    for reused in [false, true] {
        for message in about_channel(0) {
            let mut stage = Stage::server_logged_in(&toy());
            let number = stage.open_session(0);
            assert_eq!(number, 0);
            stage.say(&ChannelClose { recipient: to(number) });
            if reused {
                assert_ne!(stage.open_session(0), number);
            }
            let before = stage.victim.seen.len();
            stage.say_raw(&message);
            assert_eq!(fate(&stage), Fate::Drops(2), "message {}", message[0]);
            assert_eq!(stage.victim.seen.len(), before, "no event");
        }
    }
}

#[test]
fn case_83_at_the_client() {
    for message in about_channel(0) {
        let mut stage = Stage::client_logged_in(&toy());
        stage.say_raw(&message);
        assert_eq!(fate(&stage), Fate::Drops(2), "message {}", message[0]);
        // Asked for and not confirmed: only a confirmation or a failure may come.
        let mut stage = Stage::client_logged_in(&toy());
        let now = stage.now;
        stage.victim.attempt(now, |conn, env| conn.open_session(env));
        stage.run();
        stage.heard.clear();
        stage.say_raw(&message);
        let expected = match message[0] {
            number::CHANNEL_OPEN_CONFIRMATION | number::CHANNEL_OPEN_FAILURE => Fate::Ignores,
            _ => Fate::Drops(2),
        };
        assert_eq!(fate(&stage), expected, "message {}", message[0]);
    }
}

#[test]
fn case_84_after_eof_and_close() {
    let eof = |n: u32| encode(&ChannelEof { recipient: to(n) });
    let close = |n: u32| encode(&ChannelClose { recipient: to(n) });
    let data = |n: u32| encode(&ChannelData { recipient: to(n), data: b"x" });
    let exec = |n: u32| channel_request(n, RequestBody::Exec { command: b"id" });
    let rows: [(&str, Vec<Vec<u8>>, bool, Fate); 7] = [
        ("data after EOF", vec![eof(0), data(0)], true, Fate::Drops(2)),
        ("EOF twice", vec![eof(0), eof(0)], true, Fate::Ignores),
        ("request after EOF", vec![eof(0), exec(0)], true, Fate::Answers(99)),
        ("CLOSE twice, ours out", vec![close(0), close(0)], true, Fate::Drops(2)),
        ("CLOSE twice, ours not", vec![close(0), close(0)], false, Fate::Drops(2)),
        ("request after CLOSE", vec![close(0), exec(0)], false, Fate::Drops(2)),
        ("data after CLOSE", vec![close(0), data(0)], false, Fate::Drops(2)),
    ];
    for (what, messages, closes, expected) in rows {
        let mut stage = Stage::server_logged_in(&toy());
        stage.victim.habits.closes = closes;
        assert_eq!(stage.open_session(0), 0);
        for message in messages {
            stage.say_raw(&message);
        }
        assert_eq!(fate(&stage), expected, "{what}");
        assert!(stage.victim.saw(|event| matches!(event, Event::Eof(_))) <= 1, "{what}");
    }
    // A number is not given again before both have closed.
    let mut stage = Stage::server_logged_in(&toy());
    stage.victim.habits.closes = false;
    assert_eq!(stage.open_session(0), 0);
    stage.say(&ChannelClose { recipient: to(0) });
    assert_eq!(stage.open_session(1), 1);
}

#[test]
fn case_84_behind_our_own_close() {
    let mut stage = Stage::server_logged_in(&toy());
    assert_eq!(stage.open_session(0), 0);
    let id = stage.victim.seen.iter().find_map(|seen| match seen {
        Seen::Event(Event::Open { id, .. }) => Some(*id),
        _ => None,
    });
    let now = stage.now;
    stage.victim.attempt(now, |conn, env| conn.close(id.expect("open"), env));
    stage.run();
    assert_eq!(stage.heard.pop(), Some(encode(&ChannelClose { recipient: to(0) })));
    // What was on its way is legal, and nobody hears of it or answers it.
    let before = stage.victim.seen.len();
    stage.say(&ChannelData { recipient: to(0), data: b"late" });
    stage.say_raw(&channel_request(0, RequestBody::Shell));
    stage.say(&ChannelWindowAdjust { recipient: to(0), bytes: 1 });
    stage.say(&ChannelEof { recipient: to(0) });
    assert_eq!((fate(&stage), stage.victim.seen.len()), (Fate::Ignores, before));
    stage.say(&ChannelClose { recipient: to(0) });
    assert_eq!(stage.victim.saw(|event| matches!(event, Event::Closed(_))), 1);
    assert_eq!((fate(&stage), stage.victim.conn.channel_count()), (Fate::Ignores, 0));
    // But there is a window's worth of it and no more.
    let mut stage = Stage::server_logged_in(&toy());
    assert_eq!(stage.open_session(0), 0);
    let now = stage.now;
    stage.victim.attempt(now, |conn, env| conn.close(id.expect("open"), env));
    let data = vec![7; CHANNEL_PACKET_BYTES_MAX as usize];
    let mut packets = 0;
    while stage.farewell.is_none() && packets < 1000 {
        stage.say(&ChannelData { recipient: to(0), data: &data });
        packets += 1;
    }
    assert_eq!(packets, WINDOW_BYTES / CHANNEL_PACKET_BYTES_MAX + 1);
}

#[test]
fn case_86_opens_that_are_refused_leave_nothing() {
    let mut stage = Stage::server_logged_in(&toy());
    stage.victim.habits.accepts = false;
    for round in 0..5000 {
        stage.say(&open(round, 1 << 20, 1 << 15, OpenKind::Session));
        let seen = stage.victim.seen.pop();
        let Some(Seen::Event(Event::Open { id, .. })) = seen else { panic!("{seen:?}") };
        let now = stage.now;
        stage.victim.attempt(now, |conn, env| conn.reject_open(id, 1, "no", env));
        stage.run();
        let answer = stage.heard.pop().expect("an answer");
        assert_eq!(ChannelOpenFailure::parse(&answer).map(|f| f.recipient), Ok(to(round)));
    }
    assert_eq!(stage.victim.conn.channel_count(), 0);
}

#[test]
fn case_87_answers_to_no_question() {
    let mut stage = Stage::server_logged_in(&toy());
    let number = stage.open_session(0);
    for message in [
        encode(&confirmation(number, 3, 1 << 20, 1 << 15)),
        encode(&ChannelOpenFailure { recipient: to(number), reason: 1, text: "", language: "" }),
    ] {
        let mut stage = Stage::server_logged_in(&toy());
        stage.open_session(0);
        stage.say_raw(&message);
        assert_eq!(fate(&stage), Fate::Drops(2), "message {}", message[0]);
    }
    // Stray replies are let pass, however many.
    let before = stage.victim.seen.len();
    let strays = [
        encode(&ChannelSuccess { recipient: to(number) }),
        encode(&ChannelFailure { recipient: to(number) }),
        encode(&RequestSuccess { rest: b"" }),
        encode(&RequestFailure),
    ];
    for round in 0..20_000 {
        stage.queue(&strays[round % 4]);
        if round % 500 == 0 {
            stage.run();
        }
    }
    stage.run();
    assert_eq!((fate(&stage), stage.victim.seen.len()), (Fate::Ignores, before));
    assert_eq!(stage.open_session(1), 1, "all is well");
}

#[test]
fn case_89_commands_and_variables() {
    let rows = [
        (RequestBody::Exec { command: b"id\0rm" }, Fate::Answers(number::CHANNEL_FAILURE)),
        (RequestBody::Exec { command: &[b'x'; 200_000] }, Fate::Answers(number::CHANNEL_FAILURE)),
        (RequestBody::Env { name: b"A\0", value: b"1" }, Fate::Answers(number::CHANNEL_FAILURE)),
        (RequestBody::Env { name: b"A=B", value: b"1" }, Fate::Answers(number::CHANNEL_FAILURE)),
        (
            RequestBody::Env { name: &[b'A'; 300], value: b"1" },
            Fate::Answers(number::CHANNEL_FAILURE),
        ),
    ];
    for (body, expected) in rows {
        let mut stage = Stage::server_logged_in(&toy());
        let number = stage.open_session(0);
        stage.say_raw(&channel_request(number, body));
        assert_eq!(fate(&stage), expected, "{}", body.name());
        assert_eq!(stage.victim.saw(|event| matches!(event, Event::Request { .. })), 0);
    }
}

#[test]
fn case_90_terminals() {
    let pty = |term: &'static str, modes: &'static [u8]| RequestBody::PtyReq {
        term,
        columns: u32::MAX,
        rows: u32::MAX,
        width_pixels: 0,
        height_pixels: 0,
        modes,
    };
    let rows = [
        (pty("xterm", b"\x03\0\0"), Fate::Drops(2)),
        (pty("x\x1b[2J", b"\0"), Fate::Answers(number::CHANNEL_FAILURE)),
        (pty("xterm", b"\0"), Fate::Answers(number::CHANNEL_SUCCESS)),
        (pty("", b""), Fate::Answers(number::CHANNEL_SUCCESS)),
    ];
    for (body, expected) in rows {
        let mut stage = Stage::server_logged_in(&toy());
        let number = stage.open_session(0);
        stage.say_raw(&channel_request(number, body));
        assert_eq!(fate(&stage), expected, "{body:?}");
        for seen in &stage.victim.seen {
            if let Seen::Event(Event::Request { request, .. }) = seen {
                let ChannelRequest::PtyReq { size, .. } = request else { panic!("{request:?}") };
                assert!(size.columns <= 10_000 && size.rows <= 10_000);
            }
        }
    }
}

#[test]
fn case_93_an_exit_status_cut_short() {
    let mut stage = Stage::client_logged_in(&toy());
    let number = stage.open_session(0);
    let whole = channel_request(number, RequestBody::ExitStatus { code: 0 });
    stage.say_raw(&whole[..whole.len() - 1]);
    assert_eq!(fate(&stage), Fate::Drops(2));
}

#[test]
fn requests_of_the_wrong_end_or_kind_are_refused() {
    let mut stage = Stage::server_logged_in(&toy());
    let number = stage.open_session(0);
    stage.say_raw(&channel_request(number, RequestBody::ExitStatus { code: 0 }));
    assert_eq!(fate(&stage), Fate::Answers(number::CHANNEL_FAILURE));
    let (host, port, origin_host, origin_port) = ("h", 1, "o", 2);
    stage.say(&open(1, 9999, 9999, OpenKind::DirectTcpip { host, port, origin_host, origin_port }));
    stage.heard.clear();
    stage.say_raw(&channel_request(1, RequestBody::Exec { command: b"id" }));
    assert_eq!(fate(&stage), Fate::Answers(number::CHANNEL_FAILURE));
    let mut stage = Stage::client_logged_in(&toy());
    let number = stage.open_session(0);
    stage.say_raw(&channel_request(number, RequestBody::Exec { command: b"id" }));
    assert_eq!(fate(&stage), Fate::Answers(number::CHANNEL_FAILURE));
    assert_eq!(stage.victim.saw(|event| matches!(event, Event::Request { .. })), 0);
}

#[test]
fn requests_behind_a_late_answer_have_a_bound() {
    let mut stage = Stage::server_logged_in(&toy());
    stage.victim.habits.replies = false;
    let number = stage.open_session(0);
    let request = channel_request(number, RequestBody::Env { name: b"A", value: &[b'v'; 1000] });
    let mut said = 0;
    while stage.farewell.is_none() && said < 1000 {
        stage.say_raw(&request);
        said += 1;
    }
    assert_eq!(said, 18, "one under way, sixteen behind it");
    assert_eq!(stage.code(), PROTOCOL_ERROR);
}

#[test]
fn no_more_sessions_is_kept() {
    let mut stage = Stage::server_logged_in(&toy());
    stage.open_session(0);
    let request = GlobalBody::NoMoreSessions;
    stage.say(&GlobalRequest { want_reply: false, request });
    stage.say(&open(1, 1 << 20, 1 << 15, OpenKind::Session));
    assert_eq!(fate(&stage), Fate::Drops(2));
}

#[test]
fn forwards_are_the_owners_to_answer_and_answered_in_order() {
    let mut stage = Stage::server_logged_in(&toy());
    stage.victim.habits.replies = false;
    let request = GlobalBody::TcpipForward { address: "", port: 70_000 };
    stage.say(&GlobalRequest { want_reply: true, request });
    stage.say(&GlobalRequest { want_reply: true, request: GlobalBody::KeepAlive });
    assert_eq!(fate(&stage), Fate::Ignores);
    assert_eq!(
        stage.victim.saw(|event| matches!(event, Event::Global { want_reply: true, .. })),
        1
    );
    stage.victim.attempt(stage.now, |conn, env| conn.reply_global(true, Some(4464), env));
    stage.run();
    let said: Vec<u8> = stage.heard.iter().filter_map(|message| message.first().copied()).collect();
    let first = said.iter().position(|n| *n == number::REQUEST_SUCCESS).expect("an answer");
    assert_eq!(said.get(first + 1), Some(&number::REQUEST_FAILURE), "{said:?}");
    // What waits behind one that is under way has a bound.
    stage.say(&GlobalRequest { want_reply: false, request });
    for _ in 0..=GLOBALS_HELD_MAX {
        stage.say(&GlobalRequest { want_reply: true, request: GlobalBody::KeepAlive });
    }
    assert_eq!(fate(&stage), Fate::Drops(2));
}

/// Case 128, as far as one connection goes: what means nothing costs nothing that lasts.
#[test]
fn case_128_empty_data_and_small_adjustments() {
    let mut stage = Stage::server_logged_in(&Setup::new(Flavour::Toy));
    let number = stage.open_session(0);
    let events = stage.victim.seen.len();
    let empty = encode(&ChannelData { recipient: to(number), data: b"" });
    for _ in 0..20_000 {
        stage.queue(&empty);
    }
    stage.run();
    assert_eq!((fate(&stage), stage.victim.seen.len()), (Fate::Ignores, events));
}
