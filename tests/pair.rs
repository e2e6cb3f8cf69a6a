//! Two connections, a client and a server, in memory.

#[path = "pair/computed.rs"]
mod computed;
#[path = "pair/kept.rs"]
mod kept;
#[path = "support/pair.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use support::{Flavour, Habits, Pair, Seen, Setup, Side, USER, toy, user_key};
use tidegate::base::SeededEntropy;
use tidegate::connection::{
    Answer, ChannelId, ChannelKind, ChannelRequest, Conn, Event, LoginMethod, Query, WindowBudget,
};
use tidegate::crypto::keys::{Extensions, LoginCertificate};
use tidegate::crypto::{KeyKind, PrivateKey, SignatureAlgorithm};
use tidegate::limits::{CHANNELS_MAX, WINDOW_BYTES, WINDOW_BYTES_OPENSSH_MAX};
use tidegate::transport::{ClientConfig, Preferences, RekeyLimits};

const FLAVOURS: [Flavour; 5] =
    [Flavour::Toy, Flavour::Gcm, Flavour::Chacha, Flavour::Ctr, Flavour::Zlib];

#[test]
fn logs_in_under_every_cipher() {
    for flavour in FLAVOURS {
        let pair = Pair::logged_in(&Setup::new(flavour));
        let named = |event: &Event| match event {
            Event::Authenticated { user, method, key, .. } => {
                **user == *USER
                    && *method == "publickey-hostbound-v00@openssh.com"
                    && key.as_deref() == Some(user_key().public())
            }
            _ => false,
        };
        assert_eq!((pair.client.saw(named), pair.server.saw(named)), (1, 1), "{flavour:?}");
        assert_eq!(pair.client.conn.session_id(), pair.server.conn.session_id());
    }
}

#[test]
fn a_wrong_key_is_refused_after_a_while_and_another_may_follow() {
    let mut pair = Pair::new(&toy());
    pair.run();
    let stranger = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    pair.authenticate(stranger.public());
    pair.run();
    assert!(pair.server.conn.blocked(), "the refusal is not due yet");
    assert_eq!(pair.client.saw(|event| matches!(event, Event::AuthFailed(_))), 0);
    pair.advance(Duration::from_millis(10));
    assert_eq!(pair.client.saw(|event| matches!(event, Event::AuthFailed(_))), 1);
    pair.authenticate(user_key().public());
    pair.run();
    assert!(pair.client.conn.is_authenticated() && pair.server.conn.is_authenticated());
}

/// The key inside the certificate signs, and whoever judges it sees the certificate.
#[test]
fn logs_in_with_a_certificate() {
    let authority = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    let login = LoginCertificate {
        principal: USER,
        key_id: "one login",
        serial: 1,
        source: None,
        now: 1_700_000_000,
        lifetime: Duration::from_secs(60),
        extensions: Extensions::USUAL,
    };
    let mut pair = Pair::new(&toy());
    pair.run();
    let certificate = Box::new(login.issue(user_key().public(), &authority).expect("issues"));
    let algorithm = SignatureAlgorithm::for_key(user_key().kind())[0];
    let shown = certificate.clone();
    pair.login(USER, LoginMethod::Certificate { certificate, algorithm });
    pair.run();
    let asked = |event: &Event| matches!(event, Event::Query(Query::FindKey { certificate: Some(own), .. }) if *own == shown);
    assert!(pair.server.saw(asked) >= 1);
    assert!(pair.client.conn.is_authenticated() && pair.server.conn.is_authenticated());
}

/// Where whoever judges keys verifies what they have signed, nobody does it twice: his word counts.
#[test]
fn signatures_that_are_verified_elsewhere_are_not_verified_here() {
    for holds in [true, false] {
        let mut setup = toy();
        setup.server.verifies_elsewhere = true;
        let mut pair = Pair::new(&setup);
        pair.server.habits.judges = false;
        pair.run();
        pair.authenticate(user_key().public());
        let mut asked = Vec::new();
        for _ in 0..2 {
            pair.run();
            let signed = pair.server.seen.iter().rev().find_map(|seen| match seen {
                Seen::Event(Event::Query(Query::FindKey { signed, .. })) => Some(signed.clone()),
                _ => None,
            });
            let signed = signed.expect("a question");
            let answer = Answer::Key(holds || signed.is_none());
            asked.push(signed.map(|signed| (signed.host_bound, signed.signature.len())));
            let now = pair.now;
            pair.server.attempt(now, |conn, env| conn.answer(answer, env));
        }
        assert_eq!(asked, [None, Some((true, 83))]);
        pair.run();
        pair.advance(Duration::from_millis(60));
        assert_eq!(pair.server.conn.is_authenticated(), holds);
        assert_eq!(pair.client.conn.is_authenticated(), holds);
    }
}

#[test]
fn a_banner_and_the_methods_are_told_first() {
    let mut setup = toy();
    setup.server.banner = Some("Keep off the grass\u{e9}\n".repeat(1000));
    let mut pair = Pair::new(&setup);
    pair.run();
    pair.login(USER, LoginMethod::None);
    pair.run();
    let texts = |event: &Event| matches!(event, Event::Banner { text } if text.len() > 8000);
    assert_eq!(pair.client.saw(texts), 1);
    let methods = |event: &Event| matches!(event, Event::AuthFailed(failed) if *failed.methods == *"publickey");
    assert_eq!(pair.client.saw(methods), 1);
    pair.authenticate(user_key().public());
    pair.run();
    assert!(pair.client.conn.is_authenticated());
}

#[test]
fn what_holds_for_a_user_is_asked_for_once_and_holds_from_the_first_answer_on() {
    let mut setup = toy();
    setup.server.banner = Some("for everybody".to_owned());
    setup.server.asks_users = true;
    let mut pair = Pair::new(&setup);
    pair.run();
    pair.login(USER, LoginMethod::None);
    pair.run();
    let asks =
        |event: &Event| matches!(event, Event::Query(Query::Greet { user }) if **user == *USER);
    assert_eq!(pair.server.saw(asks), 1);
    let refused = |event: &Event| matches!(event, Event::AuthFailed(_));
    assert!(pair.server.conn.blocked() && pair.client.saw(refused) == 0);
    // An answer to another question changes nothing.
    let now = pair.now;
    pair.server.attempt(now, |conn, env| conn.answer(Answer::Key(true), env));
    let mut own = setup.server.clone();
    (own.banner, own.auth_tries_max) = (Some("for you alone".to_owned()), 2);
    let answer = Answer::Greeted(Arc::new(own));
    pair.server.attempt(now, |conn, env| conn.answer(answer, env));
    pair.run();
    let banner =
        |event: &Event| matches!(event, Event::Banner { text } if **text == *"for you alone");
    assert_eq!(pair.client.saw(banner), 1);
    // The look-up shows in no time: the refusal leaves when every other would.
    assert_eq!(pair.client.saw(refused), 0);
    pair.advance(Duration::from_millis(60));
    assert_eq!(pair.client.saw(refused), 1);
    for failures in 1..=2 {
        let stranger = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        assert!(pair.server.error.is_none(), "{failures}");
        pair.authenticate(stranger.public());
        pair.run();
        pair.advance(Duration::from_millis(60));
    }
    let error = pair.server.error.as_ref().expect("the second failure is the last");
    assert!(error.to_string().contains("Too many authentication failures"), "{error}");
    assert_eq!(pair.server.saw(asks), 1);
}

#[test]
fn a_command_runs_with_data_both_ways() {
    for flavour in FLAVOURS {
        let mut pair = Pair::logged_in(&Setup::new(flavour));
        let (ours, theirs) = pair.session();
        let now = pair.now;
        let exec = ChannelRequest::Exec { command: (*b"cat").into() };
        pair.client.attempt(now, |conn, env| conn.request(ours, &exec, true, env));
        pair.run();
        let ran =
            |event: &Event| matches!(event, Event::Request { request, .. } if *request == exec);
        assert_eq!(pair.server.saw(ran), 1);
        let done = |event: &Event| matches!(event, Event::RequestDone { ok: true, .. });
        assert_eq!(pair.client.saw(done), 1);

        let up = pattern(1, 5_000_000);
        let down = pattern(2, 3_000_000);
        let (mut sent_up, mut sent_down) = (0, 0);
        while sent_up < up.len() || sent_down < down.len() {
            sent_up += pair.client.send_planned(ours, None, &up[sent_up..]);
            sent_down += pair.server.send_planned(theirs, None, &down[sent_down..]);
            pair.run();
        }
        pair.client.attempt(now, |conn, env| conn.send_eof(ours, env));
        assert_eq!(pair.server.send_planned(theirs, Some(1), b"oh no"), 5);
        pair.server.attempt(now, |conn, env| conn.exit_status(theirs, 3, env));
        pair.server.attempt(now, |conn, env| conn.close(theirs, env));
        pair.run();
        assert!(pair.server.received[&theirs] == up);
        assert!(pair.client.received[&ours] == [&down[..], b"oh no"].concat());
        let status = |event: &Event| {
            let exit = ChannelRequest::ExitStatus { code: 3 };
            matches!(event, Event::Request { request, .. } if *request == exit)
        };
        assert_eq!(pair.client.saw(status), 1);
        assert_eq!(closed(&pair), (1, 1));
        assert_eq!((pair.client.conn.channel_count(), pair.server.conn.channel_count()), (0, 0));
    }
}

#[test]
fn a_hundred_channels_do_not_mix() {
    let mut setup = toy();
    setup.server.sessions_max = 100;
    let mut pair = Pair::logged_in(&setup);
    let channels: Vec<_> = (0..100).map(|_| pair.session()).collect();
    let mut chance = SeededEntropy::new(9);
    let mut sent = vec![(Vec::new(), Vec::new()); channels.len()];
    for _ in 0..2000 {
        let which = chance.below(100) as usize;
        let len = chance.below(3000) as usize;
        let data = pattern(chance.next_u64(), len);
        let (ours, theirs) = channels[which];
        let (up, down) = &mut sent[which];
        if chance.below(2) == 0 {
            up.extend_from_slice(&data[..pair.client.send_planned(ours, None, &data)]);
        } else {
            let now = pair.now;
            let all = pair.server.call(now, |conn, env| conn.write_data(theirs, None, &data, env));
            down.extend_from_slice(if all { &data } else { &[] });
        }
        if chance.below(4) == 0 {
            pair.step();
        }
    }
    pair.run();
    for ((ours, theirs), (up, down)) in channels.into_iter().zip(sent) {
        let received = |end: &support::End, id| end.received.get(&id).cloned().unwrap_or_default();
        assert!(received(&pair.server, theirs) == up);
        assert!(received(&pair.client, ours) == down);
        assert!(!up.is_empty() && !down.is_empty());
    }
}

#[test]
fn case_85_sessions_and_channels_have_a_last_one() {
    let mut pair = Pair::logged_in(&toy());
    let now = pair.now;
    for _ in 0..CHANNELS_MAX {
        pair.client.attempt(now, |conn, env| conn.open_session(env));
    }
    let over = pair.client.attempt(now, |conn, env| conn.open_session(env));
    assert_eq!(over, Some(None), "we do not ask for more than we could hold");
    pair.run();
    let opened = |event: &Event| matches!(event, Event::Opened { .. });
    let refused = |event: &Event| matches!(event, Event::OpenFailed { reason: 4, .. });
    assert_eq!(pair.client.saw(opened), 10);
    assert_eq!(pair.client.saw(refused), CHANNELS_MAX - 10);
    assert_eq!(pair.client.conn.channel_count(), 10);
}

#[test]
fn case_86_names_and_memory_are_given_back() {
    let mut pair = Pair::logged_in(&toy());
    for _ in 0..2000 {
        let (ours, _) = pair.session();
        let now = pair.now;
        pair.client.attempt(now, |conn, env| conn.close(ours, env));
        pair.run();
        pair.client.seen.clear();
        pair.server.seen.clear();
    }
    assert_eq!((pair.client.conn.channel_count(), pair.server.conn.channel_count()), (0, 0));
}

#[test]
fn case_94_a_server_opens_nothing_unasked() {
    let mut pair = Pair::logged_in(&toy());
    let forwarded = ChannelKind::ForwardedTcpip {
        address: "".into(),
        port: 1,
        origin_host: "".into(),
        origin_port: 2,
    };
    for kind in [
        ChannelKind::Session,
        forwarded,
        ChannelKind::Other { name: "x11".into(), rest: Box::default() },
    ] {
        let now = pair.now;
        pair.server.attempt(now, |conn, env| conn.open(&kind, env));
        pair.run();
    }
    assert_eq!(pair.client.saw(|event| matches!(event, Event::Open { .. })), 0);
    assert_eq!(pair.server.saw(|event| matches!(event, Event::OpenFailed { .. })), 3);
}

#[test]
fn case_95_replies_come_in_order_even_when_one_is_late() {
    let mut pair = Pair::logged_in(&toy());
    let (ours, theirs) = pair.session();
    pair.server.habits.replies = false;
    let mut chance = SeededEntropy::new(3);
    let mut expected = Vec::new();
    for _ in 0..1600 {
        // A burst behind one request that stays unanswered for a while.
        let burst = 1 + chance.below(12);
        for _ in 0..burst {
            let known = chance.below(3) > 0;
            let name: Box<str> = if known { "NAME".into() } else { "nobody-knows".into() };
            let want_reply = chance.below(4) > 0;
            let request = match known {
                true => ChannelRequest::Env { name, value: (*b"v").into() },
                false => ChannelRequest::Other { name },
            };
            let now = pair.now;
            pair.client.attempt(now, |conn, env| conn.request(ours, &request, want_reply, env));
            if want_reply {
                expected.push(known);
            }
            if chance.below(3) == 0 {
                pair.run();
            }
        }
        pair.run();
        // Answers: what we can set an environment variable for is granted.
        loop {
            let granted = pair.server.seen.drain(..).find_map(|seen| match seen {
                Seen::Event(Event::Request { want_reply: true, request, .. }) => {
                    Some(matches!(request, ChannelRequest::Env { .. }))
                }
                _ => None,
            });
            let Some(granted) = granted else { break };
            let now = pair.now;
            pair.server.attempt(now, |conn, env| conn.reply(theirs, granted, env));
            pair.server.poll(now);
        }
        pair.run();
    }
    let answers: Vec<bool> = pair
        .client
        .seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Event(Event::RequestDone { ok, .. }) => Some(*ok),
            _ => None,
        })
        .collect();
    assert!(expected.len() > 7000, "of some 10,000 requests, three in four want an answer");
    assert_eq!(answers.len(), expected.len());
    assert!(answers == expected);
}

#[test]
fn case_88_a_channel_starts_once() {
    let mut pair = Pair::logged_in(&toy());
    let (ours, theirs) = pair.session();
    let now = pair.now;
    pair.server.habits.replies = false;
    let ask = |pair: &mut Pair, request: &ChannelRequest| {
        pair.client.attempt(now, |conn, env| conn.request(ours, request, true, env));
        pair.run();
    };
    let outcomes = |pair: &Pair| -> Vec<bool> {
        let outcome = |seen: &Seen| match seen {
            Seen::Event(Event::RequestDone { ok, .. }) => Some(*ok),
            _ => None,
        };
        pair.client.seen.iter().filter_map(outcome).collect()
    };
    // The first is refused by its owner; another may be tried. One behind it waits for its fate.
    ask(&mut pair, &ChannelRequest::Subsystem { name: "nope".into() });
    ask(&mut pair, &ChannelRequest::Shell);
    pair.server.attempt(now, |conn, env| conn.reply(theirs, false, env));
    pair.server.poll(now);
    pair.server.attempt(now, |conn, env| conn.reply(theirs, true, env));
    pair.run();
    ask(&mut pair, &ChannelRequest::Exec { command: (*b"id").into() });
    ask(&mut pair, &ChannelRequest::Shell);
    assert_eq!(outcomes(&pair), [false, true, false, false]);
    assert_eq!(pair.server.saw(|event| matches!(event, Event::Request { .. })), 2);
}

#[test]
fn keepalives_are_answered_and_missed() {
    let mut setup = toy();
    setup.server.client_alive = Some((Duration::from_secs(15), 3));
    setup.client.server_alive = Some((Duration::from_secs(20), 2));
    let mut pair = Pair::logged_in(&setup);
    pair.advance(Duration::from_secs(3600));
    assert!(pair.server.error.is_none() && pair.client.error.is_none());
    assert_eq!(pair.server.saw(|event| matches!(event, Event::GlobalDone { .. })), 0);
    // The client falls silent: nothing reaches it and nothing leaves it.
    for asked in 0..4u32 {
        assert!(pair.server.error.is_none(), "after {asked}");
        pair.now = pair.server.conn.poll_timeout().expect("a keepalive is due");
        let now = pair.now;
        pair.server.attempt(now, |conn, env| conn.handle_timeout(env));
    }
    let error = pair.server.error.expect("given up");
    assert_eq!(error.to_string(), "timed out: the peer does not answer");
}

/// Whoever goes on with the connection waits no longer than the first would have.
#[test]
fn a_silence_goes_on_in_another_process() {
    let mut setup = toy();
    setup.server.client_alive = Some((Duration::from_secs(15), 3));
    let mut pair = Pair::logged_in(&setup);
    let start = pair.now;
    for asked in 0..4u32 {
        assert!(pair.server.error.is_none(), "after {asked}");
        let due = pair.server.conn.poll_timeout().expect("a keepalive is due");
        // In the middle of an interval, and at its end.
        for at in [due.since(pair.now) / 2, due.since(pair.now)] {
            let now = pair.now.after(at);
            assert!(pair.server.hand_over(&setup, now));
        }
        pair.now = due;
        let last = pair.server.conn.deadline();
        assert_eq!(last.map(|(at, _)| at), (asked == 3).then_some(due));
        pair.server.attempt(due, |conn, env| conn.handle_timeout(env));
    }
    assert_eq!(pair.now.since(start), Duration::from_secs(60));
    let error = pair.server.error.expect("given up");
    assert_eq!(error.to_string(), "timed out: the peer does not answer");
}

#[test]
fn global_requests_are_answered_in_order() {
    let mut pair = Pair::logged_in(&toy());
    let now = pair.now;
    for name in ["keepalive@openssh.com", "nobody-knows@example.com"] {
        for side in [Side::Client, Side::Server] {
            let sent = pair.end(side).attempt(now, |conn, env| conn.send_global(name, true, env));
            assert_eq!(sent, Some(true));
        }
    }
    pair.run();
    for end in [&pair.client, &pair.server] {
        assert_eq!(end.saw(|event| matches!(event, Event::GlobalDone { ok: false, .. })), 2);
    }
}

/// OpenSSH PROTOCOL §2.2; sshd says yes to whoever wants to know.
#[test]
fn no_more_sessions_is_granted() {
    let mut pair = Pair::logged_in(&toy());
    let now = pair.now;
    for want_reply in [true, false] {
        pair.client.attempt(now, |conn, env| {
            conn.send_global("no-more-sessions@openssh.com", want_reply, env)
        });
    }
    pair.run();
    assert_eq!(pair.client.saw(|event| matches!(event, Event::GlobalDone { ok: true, .. })), 1);
    assert_eq!(pair.client.saw(|event| matches!(event, Event::GlobalDone { ok: false, .. })), 0);
}

#[test]
fn login_grace_ends_a_login_that_does_not_end() {
    let mut setup = toy();
    setup.server.login_grace = Some(Duration::from_secs(30));
    let mut pair = Pair::new(&setup);
    pair.advance(Duration::from_secs(29));
    assert!(pair.server.error.is_none());
    pair.advance(Duration::from_secs(1));
    assert!(pair.server.error.is_some());
    // Once in, time does not matter.
    let mut pair = Pair::logged_in(&setup);
    pair.advance(Duration::from_secs(3600));
    assert!(pair.server.error.is_none());
}

/// A plan is laid out, a key exchange comes between, then it is sealed.
#[test]
fn plans_survive_a_key_exchange() {
    let mut pair = Pair::logged_in(&Setup::new(Flavour::Ctr));
    let (_, theirs) = pair.session();
    let mut lease = vec![0; 264 * 1024];
    let data = pattern(4, 100_000);
    let room = lease.len() as u32;
    let plan = pair.server.conn.plan(theirs, None, 50, room, 120_000).expect("a plan");
    let mut rest = &data[..];
    for span in plan.spans(0).iter() {
        let (now, later) = rest.split_at((span.len as usize).min(rest.len()));
        lease[span.at as usize..][..now.len()].copy_from_slice(now);
        rest = later;
    }
    let now = pair.now;
    pair.server.attempt(now, |conn, env| conn.rekey(env));
    let deferred =
        pair.server.conn.seal_plan(&plan, 100_000, &mut lease, &mut SeededEntropy::new(1));
    assert!(deferred.is_err());
    pair.run();
    let span = pair
        .server
        .conn
        .seal_plan(&plan, 100_000, &mut lease, &mut SeededEntropy::new(1))
        .expect("ready again");
    pair.server.sent.extend(span.of(&lease).expect("inside"));
    pair.run();
    assert!(pair.client.error.is_none(), "{:?}", pair.client.error);
    assert!(pair.client.received.values().next() == Some(&data));
}

fn closed(pair: &Pair) -> (usize, usize) {
    let closed = |event: &Event| matches!(event, Event::Closed(_));
    (pair.client.saw(closed), pair.server.saw(closed))
}

/// Bytes that are not the same anywhere near one another.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    tidegate::base::Entropy::fill(&mut SeededEntropy::new(seed), &mut bytes);
    bytes
}

/// One thing an owner may do with a channel.
#[derive(Clone, Copy, Debug)]
enum Act {
    Send(u16),
    /// Lays data out and keeps it.
    Plan(u16),
    /// Seals or drops what was laid out first.
    Seal(bool),
    Eof,
    Close,
    Status,
    Move,
}

fn acts() -> impl Strategy<Value = Vec<(bool, Act)>> {
    let act = prop_oneof![
        3 => any::<u16>().prop_map(Act::Send),
        2 => any::<u16>().prop_map(Act::Plan),
        2 => any::<bool>().prop_map(Act::Seal),
        1 => Just(Act::Eof),
        1 => Just(Act::Close),
        1 => Just(Act::Status),
        3 => Just(Act::Move),
    ];
    prop::collection::vec((any::<bool>(), act), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the order of data, EOF and CLOSE on either side: no error, everything said before
    /// EOF arrives in order, one Closed on each side, and nothing after it.
    #[test]
    fn channels_close_in_every_order(acts in acts()) {
        let mut pair = Pair::logged_in(&toy());
        pair.client.habits = Habits { closes: false, ..Habits::ALL };
        pair.server.habits = Habits { closes: false, ..Habits::ALL };
        let (ours, theirs) = pair.session();
        let now = pair.now;
        let mut sent = [Vec::new(), Vec::new()];
        let mut plans: [Vec<_>; 2] = [Vec::new(), Vec::new()];
        let mut closed_by = [false; 2];
        for (client, act) in acts {
            let (side, id) = if client { (Side::Client, ours) } else { (Side::Server, theirs) };
            let which = usize::from(client);
            let end = pair.end(side);
            match act {
                Act::Send(len) => {
                    // In order with what is laid out, as the shard keeps it.
                    if plans[which].is_empty() {
                        let data = pattern(sent[which].len() as u64, usize::from(len));
                        let gone = end.send_planned(id, None, &data);
                        sent[which].extend_from_slice(&data[..gone]);
                    }
                }
                Act::Plan(len) => {
                    let plan = end.conn.plan(id, None, 50, 70_000, u32::from(len));
                    plans[which].extend(plan);
                }
                Act::Seal(keep) if !plans[which].is_empty() => {
                    let plan = plans[which].remove(0);
                    if keep {
                        // EOF and CLOSE of our own wait for it; only the peer's CLOSE voids it.
                        let sealed = seal(end, plan, &mut sent[which]);
                        let void = end.saw(|event| matches!(event, Event::PeerClosed(_))) > 0;
                        prop_assert!(sealed || void);
                    } else {
                        end.conn.drop_plan(plan);
                    }
                    end.attempt(now, |conn, env| conn.flush(env));
                    end.poll(now);
                }
                Act::Seal(_) => {}
                Act::Eof => { end.attempt(now, |conn, env| conn.send_eof(id, env)); }
                Act::Close => {
                    closed_by[which] = true;
                    end.attempt(now, |conn, env| conn.close(id, env));
                    end.poll(now);
                }
                Act::Status => { end.attempt(now, |conn, env| conn.exit_status(id, 0, env)); }
                Act::Move => pair.run(),
            }
        }
        let sides = [(Side::Client, ours), (Side::Server, theirs)];
        for (side, _) in sides {
            let which = usize::from(side == Side::Client);
            let end = pair.end(side);
            for plan in plans[which].drain(..) {
                seal(end, plan, &mut sent[which]);
            }
            end.attempt(now, |conn, env| conn.flush(env));
            end.poll(now);
        }
        pair.run();
        // Who has not closed has got everything.
        for (end, id, sent, closed) in [
            (&pair.client, ours, &sent[0], closed_by[1]),
            (&pair.server, theirs, &sent[1], closed_by[0]),
        ] {
            let received = end.received.get(&id).cloned().unwrap_or_default();
            prop_assert!(closed || received == *sent, "{} of {}", received.len(), sent.len());
        }
        for (side, id) in sides {
            let end = pair.end(side);
            end.attempt(now, |conn, env| conn.close(id, env));
            end.poll(now);
        }
        pair.run();
        prop_assert!(pair.client.error.is_none(), "{:?}", pair.client.error);
        prop_assert!(pair.server.error.is_none(), "{:?}", pair.server.error);
        prop_assert_eq!(closed(&pair), (1, 1));
        for (end, id, sent) in
            [(&pair.client, ours, &sent[0]), (&pair.server, theirs, &sent[1])]
        {
            // What the receiver had closed itself off from may be missing, at the end alone.
            let received = end.received.get(&id).cloned().unwrap_or_default();
            prop_assert!(sent.starts_with(&received));
            prop_assert!(matches!(end.seen.last(), Some(Seen::Event(Event::Closed(_)))));
            prop_assert_eq!(end.conn.channel_count(), 0);
        }
    }

    /// Window accounting: what one side may send and the other grants agree once all is quiet, and
    /// no window passes its target.
    #[test]
    fn windows_agree(
        steps in prop::collection::vec((0u8..4, 0usize..100_000), 1..60),
        window in 1u32..300_000,
    ) {
        let mut setup = toy();
        setup.client.window_bytes = window;
        let mut pair = Pair::logged_in(&setup);
        pair.client.habits.consumes = false;
        let (ours, theirs) = pair.session();
        let (mut sent, mut consumed) = (0usize, 0usize);
        for (what, amount) in steps {
            let now = pair.now;
            match what {
                0 | 1 => sent += pair.server.send_planned(theirs, None, &vec![7; amount]),
                2 => {
                    let received = pair.client.received.get(&ours).map_or(0, Vec::len);
                    let amount = amount.min(received - consumed);
                    consumed += amount;
                    pair.client.attempt(now, |c, env| c.consumed(ours, amount as u32, env));
                }
                _ => pair.run(),
            }
            prop_assert!(sent - consumed <= window as usize);
            prop_assert!(pair.server.conn.credit(theirs) <= window);
        }
        pair.run();
        prop_assert!(pair.client.error.is_none() && pair.server.error.is_none());
        let received = pair.client.received.get(&ours).map_or(0, Vec::len);
        prop_assert_eq!(received, sent);
        // Everything consumed comes back, in steps: half the window or three packets.
        let credit = pair.server.conn.credit(theirs) as usize;
        let step = (window as usize / 2).clamp(1, 3 * 32 * 1024);
        prop_assert!(credit <= window as usize - (sent - consumed));
        prop_assert!(credit + step > window as usize - (sent - consumed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The same bytes in any pieces give the same events.
    #[test]
    fn pieces_do_not_matter(seed in any::<u64>()) {
        for flavour in [Flavour::Toy, Flavour::Zlib] {
            let whole = scripted(flavour, seed, false, false);
            prop_assert!(whole == scripted(flavour, seed, true, false));
        }
    }

    /// Moving a connection to another process now and then changes nothing that either side sees.
    #[test]
    fn hand_overs_do_not_matter(seed in any::<u64>()) {
        let script = |moves| scripted(Flavour::Toy, seed, false, moves);
        let (still, moved) = (script(false), script(true));
        for (still, moved) in [(&still.0, &moved.0), (&still.1, &moved.1)] {
            let same = still.iter().zip(moved).take_while(|(a, b)| a == b).count();
            let at = |trace: &[String]| trace.get(same).map(|t| t.chars().take(120).collect::<String>());
            prop_assert!(still == moved, "at {}: {:?}, moved {:?}", same, at(still), at(moved));
        }
    }
}

/// Fills and seals a plan; false when the channel is past sending.
fn seal(end: &mut support::End, plan: tidegate::connection::Plan, sent: &mut Vec<u8>) -> bool {
    let mut lease = vec![0u8; 70_000];
    let data = pattern(sent.len() as u64, plan.total() as usize);
    let mut rest = &data[..];
    for span in plan.spans(0).iter() {
        let (now, later) = rest.split_at(span.len as usize);
        lease[span.range()].copy_from_slice(now);
        rest = later;
    }
    let got = plan.total();
    let span = end.conn.seal_plan(&plan, got, &mut lease, &mut end.entropy).expect("ready");
    end.sent.extend(span.of(&lease).expect("inside the lease"));
    if !span.is_empty() {
        sent.extend(&data);
    }
    !span.is_empty()
}

/// A conversation that depends on `seed` alone; answers what both sides saw.
fn scripted(flavour: Flavour, seed: u64, splits: bool, moves: bool) -> (Vec<String>, Vec<String>) {
    let setup = Setup::new(flavour);
    let mut pair = Pair::new(&setup);
    pair.splits = splits;
    pair.run();
    pair.authenticate(user_key().public());
    pair.run();
    let mut script = SeededEntropy::new(seed);
    let channels: Vec<_> = (0..3).map(|_| pair.session()).collect();
    for _ in 0..40 {
        let (ours, theirs) = channels[script.below(3) as usize];
        // Key exchanges are throttled.
        pair.now = pair.now.after(Duration::from_secs(1));
        let now = pair.now;
        let data = pattern(script.next_u64(), script.below(40_000) as usize);
        match script.below(6) {
            0 | 1 => {
                pair.client.send_planned(ours, None, &data);
            }
            2 | 3 => {
                pair.server.send_planned(theirs, Some(1), &data);
            }
            4 => {
                let shell = ChannelRequest::Shell;
                pair.client.attempt(now, |conn, env| conn.request(ours, &shell, true, env));
            }
            _ => {
                pair.server.attempt(now, |conn, env| conn.rekey(env));
            }
        }
        if script.below(3) == 0 {
            // What was sent is on its way; the one who sent it moves.
            let _ = moves && pair.client.hand_over(&setup, now);
        }
        pair.run();
        if script.below(3) == 0 && moves {
            assert!(pair.server.hand_over(&setup, now) && pair.client.hand_over(&setup, now));
        }
    }
    for (ours, _) in channels {
        let now = pair.now;
        pair.client.attempt(now, |conn, env| conn.close(ours, env));
        pair.run();
    }
    assert!(pair.client.error.is_none(), "{:?}", pair.client.error);
    assert!(pair.server.error.is_none(), "{:?}", pair.server.error);
    (pair.client.traces(), pair.server.traces())
}

/// Case 36: keys change every few packets with data, EOF and CLOSE queued; order and content hold.
#[test]
fn case_36_new_keys_every_few_packets() {
    for (flavour, packets) in [
        (Flavour::Toy, 20),
        (Flavour::Toy, 3),
        (Flavour::Gcm, 25),
        (Flavour::Ctr, 40),
        (Flavour::Zlib, 9),
    ] {
        let rekey = RekeyLimits { packets, ..RekeyLimits::default() };
        let mut pair = Pair::logged_in(&Setup::with_rekey(flavour, rekey));
        pair.splits = true;
        let (ours, theirs) = pair.session();
        let (up, down) = (pattern(1, 4_000_000), pattern(2, 4_000_000));
        let (mut sent_up, mut sent_down) = (0, 0);
        let mut turns = 0;
        while sent_up < up.len() || sent_down < down.len() {
            turns += 1;
            // Rekeys are throttled; time passes.
            pair.now = pair.now.after(Duration::from_secs(2));
            let end = (sent_up + 100_000).min(up.len());
            sent_up += pair.client.send_planned(ours, None, &up[sent_up..end]);
            let end = (sent_down + 60_000).min(down.len());
            sent_down += pair.server.send_planned(theirs, None, &down[sent_down..end]);
            pair.time_out();
            pair.run();
            assert!(turns < 100_000, "stuck");
            assert!(pair.client.error.is_none(), "{:?}", pair.client.error);
            assert!(pair.server.error.is_none(), "{:?}", pair.server.error);
        }
        // EOF and CLOSE in the middle of a key exchange wait for its end, in order.
        pair.advance(Duration::from_secs(20));
        let now = pair.now;
        let last = pattern(3, 100);
        assert_eq!(pair.client.send_planned(ours, None, &last), 100);
        pair.client.attempt(now, |conn, env| conn.rekey(env));
        pair.client.attempt(now, |conn, env| conn.send_eof(ours, env));
        pair.client.attempt(now, |conn, env| conn.close(ours, env));
        pair.advance(Duration::from_secs(2));
        assert!(pair.server.received[&theirs] == [&up[..], &last].concat());
        assert!(pair.client.received[&ours] == down);
        assert_eq!(closed(&pair), (1, 1));
        let order: Vec<_> = pair
            .server
            .seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Event(Event::Eof(_)) => Some("eof"),
                Seen::Event(Event::PeerClosed(_)) => Some("peer closed"),
                Seen::Event(Event::Closed(_)) => Some("closed"),
                _ => None,
            })
            .collect();
        assert_eq!(order, ["eof", "peer closed", "closed"]);
        let exchanged = pair.server.saw(|event| matches!(event, Event::KeyExchanged { .. }));
        assert!(exchanged > 5, "{exchanged} key exchanges with {flavour:?}");
    }
}

#[test]
fn a_window_shared_by_many_stays_within_the_link() {
    let mut setup = toy();
    setup.server.sessions_max = 200;
    let mut pair = Pair::logged_in(&setup);
    let windows: Vec<u32> = (0..200)
        .map(|_| {
            let (ours, _) = pair.session();
            pair.client.conn.credit(ours)
        })
        .collect();
    assert_eq!(windows[0], WINDOW_BYTES);
    let sum: u64 = windows.iter().map(|window| u64::from(*window)).sum();
    assert!(sum <= u64::from(tidegate::limits::LINK_WINDOW_BYTES_MAX));
}

/// A client of this name, and a server whose windows may grow to 16 MiB within the budget.
fn growing(software: &str, budget: &Arc<WindowBudget>) -> Setup {
    let mut setup = toy();
    let usual = &setup.client.transport.preferences;
    let mut preferences = Preferences::new(software).expect("a name");
    preferences.provider = usual.provider;
    (preferences.kex, preferences.ciphers) = (usual.kex.clone(), usual.ciphers.clone());
    setup.client.transport = Arc::new(ClientConfig::new(preferences));
    setup.server.window_bytes_max = 16 << 20;
    setup.server.window_budget = Arc::clone(budget);
    setup
}

/// Sends all that the window has at once, as from afar: what is granted again is used after `turn`.
/// Answers how much it was.
fn send_window(pair: &mut Pair, id: ChannelId, turn: Duration) -> u32 {
    static PIECE: [u8; 256 << 10] = [7; 256 << 10];
    let window = pair.client.conn.credit(id);
    let mut left = window as usize;
    while left > 0 {
        left -= pair.client.send_planned(id, None, &PIECE[..left.min(PIECE.len())]);
        pair.run();
        pair.server.seen.clear();
        pair.server.received.clear();
    }
    pair.now = pair.now.after(turn);
    window
}

#[test]
fn windows_grow_for_who_waits_for_them_and_for_openssh_not_past_its_input() {
    let far = Duration::from_millis(50);
    for (software, most) in [("Pair_1", 16 << 20), ("OpenSSH_10.0", WINDOW_BYTES_OPENSSH_MAX)] {
        let budget = Arc::new(WindowBudget::new(100 << 20));
        let setup = growing(software, &budget);
        let mut pair = Pair::logged_in(&setup);
        let (ours, theirs) = pair.session();
        let windows: Vec<u32> = (0..5).map(|_| send_window(&mut pair, ours, far)).collect();
        assert_eq!(windows[0], WINDOW_BYTES);
        let grown = windows[4];
        assert!((most - (200 << 10)..=most).contains(&grown), "{software}: {windows:?}");
        assert_eq!(budget.left(), (100 << 20) - u64::from(most - WINDOW_BYTES));
        // Another process goes on with what the client knows of.
        let now = pair.now;
        assert!(pair.server.hand_over(&setup, now));
        assert_eq!(budget.left(), (100 << 20) - u64::from(most - WINDOW_BYTES));
        // A client that uses little of it loses most of it again.
        for _ in 0..300 {
            assert!(pair.client.send_planned(ours, None, &[7; 200 << 10]) > 0);
            pair.run();
            pair.now = pair.now.after(far);
        }
        let shrunk = pair.client.conn.credit(ours);
        assert!((WINDOW_BYTES - (200 << 10)..3 * WINDOW_BYTES).contains(&shrunk), "{shrunk}");
        pair.server.attempt(now, |conn, env| conn.close(theirs, env));
        pair.run();
        assert_eq!(budget.left(), 100 << 20, "all of it has come back");
        assert!(pair.client.error.is_none() && pair.server.error.is_none());
    }
}

#[test]
fn all_windows_grow_within_one_budget() {
    const BUDGET: u64 = 5 << 20;
    let budget = Arc::new(WindowBudget::new(BUDGET));
    let setup = growing("Pair_1", &budget);
    let mut pairs = [Pair::logged_in(&setup), Pair::logged_in(&setup)];
    let channels = pairs.each_mut().map(|pair| pair.session().0);
    let mut sum = 0;
    for _ in 0..4 {
        let far = Duration::from_millis(50);
        let windows = pairs.iter_mut().zip(channels).map(|(pair, id)| send_window(pair, id, far));
        sum = windows.map(u64::from).sum();
        assert!(sum <= BUDGET + 2 * u64::from(WINDOW_BYTES), "{sum}");
    }
    assert!(sum > BUDGET / 2 + 2 * u64::from(WINDOW_BYTES), "{sum}");
    let [one, other] = pairs;
    drop(one);
    assert!(budget.left() > BUDGET / 2);
    drop(other);
    assert_eq!(budget.left(), BUDGET, "a connection that ends keeps nothing");
}

#[test]
fn only_quiet_connections_are_exported() {
    let mut pair = Pair::new(&toy());
    assert!(pair.server.conn.export().is_none(), "before the keys");
    pair.run();
    assert!(pair.server.conn.export().is_none(), "before the login");
    let mut pair = Pair::logged_in(&toy());
    assert!(pair.server.conn.export().is_some());
    let (ours, theirs) = pair.session();
    let plan = pair.server.conn.plan(theirs, None, 50, 70_000, 10).expect("a plan");
    assert!(pair.server.conn.export().is_none(), "a plan is out");
    pair.server.conn.drop_plan(plan);
    assert_eq!(pair.server.conn.reserve(theirs, 10), 10);
    assert!(pair.server.conn.export().is_none(), "credit is reserved");
    pair.server.conn.refund(theirs, 10);
    pair.server.habits.replies = false;
    let now = pair.now;
    pair.client.attempt(now, |conn, env| conn.request(ours, &ChannelRequest::Shell, true, env));
    pair.run();
    assert!(pair.server.conn.export().is_none(), "an answer is owed");
    assert!(pair.client.conn.export().is_some(), "it does not matter who is owed one");
    pair.server.attempt(now, |conn, env| conn.reply(theirs, true, env));
    pair.server.attempt(now, |conn, env| conn.rekey(env));
    assert!(pair.server.conn.export().is_none(), "a key exchange runs");
    pair.run();
    assert!(pair.server.conn.export().is_some());
}

/// A compressed connection can move until its first compressed packet, so that the process of an
/// account can take it over right after the login; and it works where it arrives.
#[test]
fn compressed_connections_move_before_their_first_packet() {
    let setup = Setup::new(Flavour::Zlib);
    let mut pair = Pair::logged_in(&setup);
    let now = pair.now;
    assert!(pair.server.hand_over(&setup, now) && pair.client.hand_over(&setup, now));
    let (ours, theirs) = pair.session();
    let data = vec![7; 200_000];
    assert_eq!(pair.client.send_planned(ours, None, &data), data.len());
    assert_eq!(pair.server.send_planned(theirs, None, &data), data.len());
    pair.run();
    assert!(pair.client.error.is_none() && pair.server.error.is_none());
    assert_eq!((&pair.server.received[&theirs], &pair.client.received[&ours]), (&data, &data));
    assert!(pair.server.conn.stats().bytes_in < 10_000, "it was not compressed");
    assert!(pair.server.conn.export().is_none() && pair.client.conn.export().is_none());
}

/// Shards run on threads, and connections move between them.
#[test]
fn connections_can_be_sent() {
    fn sent<T: Send>() {}
    sent::<Conn>();
}
