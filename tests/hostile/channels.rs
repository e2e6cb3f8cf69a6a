//! After the login: channels and what is asked of them.

use std::net::TcpStream;

use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelExtendedData, ChannelFailure, ChannelNumber,
    ChannelOpenConfirmation, ChannelOpenFailure, ChannelSuccess, ChannelWindowAdjust, GlobalBody,
    GlobalRequest, RequestFailure, RequestSuccess,
};
use tidegate::wire::request::RequestBody;
use tidegate::wire::{Message, number};

use crate::PROTOCOL_ERROR;
use crate::peer::{Farewell, Peer, Watch, channel_request, encode, open};
use crate::support::{Gateway, driver, wait_for};

const fn to(number: u32) -> ChannelNumber {
    ChannelNumber(number)
}

/// One of each message about a channel, all well formed.
fn about_channel(number: u32) -> Vec<Vec<u8>> {
    let recipient = to(number);
    let confirmation = ChannelOpenConfirmation {
        recipient,
        sender: to(0),
        window_bytes: 1 << 20,
        packet_bytes_max: 1 << 15,
        rest: &[],
    };
    vec![
        encode(&confirmation),
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

/// What a message after the login leads to whose body is `00 00 00 09`: good for nothing but what takes any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// Nothing is said.
    Silence,
    /// UNIMPLEMENTED (RFC 4253 §11.4).
    Unknown,
    /// DISCONNECT: it may not come, or its body is malformed.
    End,
}

/// What we owe a client that has logged in, by the number of its message.
fn duty(number: u8) -> Duty {
    match number {
        // RFC 4253 §11.2, §11.3, §11.4: whenever they come.
        number::IGNORE | number::UNIMPLEMENTED | number::DEBUG => Duty::Silence,
        // RFC 4252 §5.1: further requests after success are silently ignored.
        number::USERAUTH_REQUEST => Duty::Silence,
        // RFC 4254 §4: an answer to a request that we may have made, as keepalives are; its body is anything.
        number::REQUEST_SUCCESS => Duty::Silence,
        // PROTOCOL of OpenSSH, §1.9: its answer, with which nothing is to be done.
        number::PONG => Duty::Silence,
        // RFC 4253 §10: the service runs, and there is no other to ask for; as OpenSSH answers it.
        number::SERVICE_REQUEST => Duty::Unknown,
        // §10: a server's. RFC 8308 §2.3, RFC 4253 §7.1: malformed. §7.3: out of turn.
        number::SERVICE_ACCEPT | number::EXT_INFO | number::KEXINIT | number::NEWKEYS => Duty::End,
        // RFC 4250 §4.1.1: of a key exchange method, and none is under way.
        30..=49 => Duty::End,
        // RFC 4252 §6: a server's, or of an authentication method, and none is under way.
        51..=79 => Duty::End,
        // RFC 4254 §4: a malformed request, and an answer that has no body.
        number::GLOBAL_REQUEST | number::REQUEST_FAILURE => Duty::End,
        // §5.1: malformed. §5.1-§5.4: about a channel that is not open.
        number::CHANNEL_OPEN..=number::CHANNEL_FAILURE => Duty::End,
        number::PING => Duty::End,
        // RFC 4250 §4.1.1: nobody has given them a meaning.
        0 | 8..=19 | 22..=29 | 83..=89 | 101..=191 | 194..=255 => Duty::Unknown,
        number::DISCONNECT => Duty::End,
    }
}

#[test]
fn case_12_every_message_after_the_login() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let mut last = None;
    let numbers = (0..=255).filter(|number| *number != number::DISCONNECT);
    for (round, number) in numbers.enumerate() {
        peer.send(&[number, 0, 0, 0, 9]);
        peer.say(&GlobalRequest { want_reply: true, request: GlobalBody::KeepAlive });
        let heard = peer.hear();
        let duty = duty(number);
        if duty == Duty::End {
            let end = heard.expect_err("an end");
            assert!(matches!(end, Farewell::Said(PROTOCOL_ERROR, _)), "message {number}: {end:?}");
            assert!(peer.unimplemented.is_empty(), "message {number}");
            watch.last_line(peer.port());
            (peer, last) = (Peer::login(&gateway), None);
            continue;
        }
        let answer = heard.unwrap_or_else(|end| panic!("message {number}: {end:?}"));
        assert_eq!(answer[0], number::REQUEST_FAILURE, "message {number}");
        let unknown = std::mem::take(&mut peer.unimplemented);
        assert_eq!(unknown.len(), usize::from(duty == Duty::Unknown), "message {number}");
        // It names our packet: two of them went each time.
        if let ([sequence], Some((before, named))) = (&unknown[..], last) {
            let sent = 2 * (round as u32 - before);
            assert_eq!(sequence.wrapping_sub(named), sent, "message {number}");
        }
        last = unknown.first().map(|sequence| (round as u32, *sequence)).or(last);
    }
    drop(peer);
    watch.end();
}

#[test]
fn cases_80_to_82_windows() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    for packet in [0, 1, 100] {
        peer.say(&open(1, 1 << 20, packet));
        let answer = peer.hear().expect("an answer");
        assert_eq!(answer[0], number::CHANNEL_OPEN_FAILURE, "80: packets of {packet}");
    }
    peer.assert_well();
    peer.say(&open(2, u32::MAX, 1 << 15));
    let answer = peer.hear().expect("an answer");
    let channel = ChannelOpenConfirmation::parse(&answer).expect("a confirmation").sender;
    peer.say(&ChannelWindowAdjust { recipient: channel, bytes: u32::MAX });
    peer.assert_dropped(PROTOCOL_ERROR, "81");

    // A program that reads nothing: the window is not renewed.
    let mut peer = Peer::login(&gateway);
    let channel = peer.exec(0, "exec sleep 20");
    let data = encode(&ChannelData { recipient: to(channel), data: &[7; 32 << 10] });
    let mut sent = 0;
    while sent < 1000 && peer.send(&data) {
        sent += 1;
    }
    peer.assert_dropped(PROTOCOL_ERROR, "82: past the window");
    assert!(watch.growth() < 8 << 20, "grew by {}", watch.growth());
    let mut peer = Peer::login(&gateway);
    let channel = peer.open_session(0);
    peer.say(&ChannelData { recipient: to(channel), data: &[7; (32 << 10) + 1] });
    peer.assert_dropped(PROTOCOL_ERROR, "82: a packet too large");
    watch.end();
}

#[test]
fn cases_83_84_channels_that_are_not_open() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    for message in about_channel(5).into_iter().chain(about_channel(u32::MAX)) {
        let mut peer = Peer::login(&gateway);
        peer.send(&message);
        peer.assert_dropped(PROTOCOL_ERROR, &format!("83: unknown, message {}", message[0]));
    }
    for message in about_channel(0) {
        let mut peer = Peer::login(&gateway);
        let channel = peer.open_session(0);
        assert_eq!(channel, 0);
        peer.say(&ChannelClose { recipient: to(channel) });
        peer.send(&message);
        peer.assert_dropped(PROTOCOL_ERROR, &format!("83: closed, message {}", message[0]));
        watch.last_line(peer.port());
    }
    let mut peer = Peer::login(&gateway);
    let channel = peer.exec(0, "cat > /dev/null");
    peer.say(&ChannelEof { recipient: to(channel) });
    peer.say(&ChannelData { recipient: to(channel), data: b"x" });
    peer.assert_dropped(PROTOCOL_ERROR, "84: data after EOF");
    watch.end();
}

#[test]
fn cases_85_to_88_many_channels() {
    let gateway = Gateway::start(&["MaxSessions 10"]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let mut opened = Vec::new();
    for ours in 0..200 {
        peer.say(&open(ours, 1 << 20, 1 << 15));
        let answer = peer.hear().expect("an answer");
        if answer[0] == number::CHANNEL_OPEN_CONFIRMATION {
            opened.push(ChannelOpenConfirmation::parse(&answer).expect("whole").sender);
        } else {
            assert_eq!(answer[0], number::CHANNEL_OPEN_FAILURE);
        }
    }
    assert_eq!(opened.len(), 10, "85");
    for recipient in opened {
        peer.say(&ChannelClose { recipient });
        assert_eq!(peer.hear().expect("an answer")[0], number::CHANNEL_CLOSE);
    }
    let before = watch.growth();
    for round in 0..3000 {
        let channel = peer.open_session(round);
        peer.say(&ChannelClose { recipient: to(channel) });
        assert_eq!(peer.hear().expect("an answer")[0], number::CHANNEL_CLOSE);
    }
    let grown = watch.growth().saturating_sub(before);
    assert!(grown < 1 << 20, "86: grew by {grown}");

    let channel = peer.exec(0, "cat");
    let strays = [
        encode(&ChannelSuccess { recipient: to(channel) }),
        encode(&ChannelFailure { recipient: to(channel) }),
        encode(&RequestSuccess { rest: b"" }),
        encode(&RequestFailure),
    ];
    for stray in &strays {
        assert!(peer.flood(stray, 5000));
    }
    peer.assert_well();
    for body in [
        RequestBody::Exec { command: b"id" },
        RequestBody::Shell,
        RequestBody::Subsystem { name: "sftp" },
    ] {
        assert!(!peer.ask(channel, body), "88: {body:?}");
    }
    peer.assert_well();
    peer.send(&about_channel(channel)[0]);
    peer.assert_dropped(PROTOCOL_ERROR, "87: a confirmation unasked");
    watch.end();
}

#[test]
fn cases_89_to_91_requests() {
    let gateway = Gateway::start(&["AcceptEnv LANG", "AllowAgentForwarding no"]);
    let watch = Watch::begin(&gateway);
    let pty = |term: &'static str, modes: &'static [u8]| RequestBody::PtyReq {
        term,
        columns: u32::MAX,
        rows: u32::MAX,
        width_pixels: u32::MAX,
        height_pixels: 0,
        modes,
    };
    let refused = [
        RequestBody::Exec { command: b"id\0rm" },
        RequestBody::Env { name: b"LD_PRELOAD", value: b"/tmp/x.so" },
        RequestBody::Env { name: b"PATH", value: b"/tmp" },
        RequestBody::Env { name: b"LANG\0", value: b"C" },
        RequestBody::Env { name: b"LANG", value: b"C\0D" },
        RequestBody::Env { name: b"LANG=x", value: b"C" },
        RequestBody::Subsystem { name: "../../bin/sh" },
        RequestBody::Subsystem { name: "sftp\n" },
        RequestBody::Signal { name: "BOGUS\n" },
        RequestBody::Signal { name: "KILL" },
        RequestBody::Other { name: "x11-req", rest: b"\0\0\0\0\0" },
        RequestBody::Other { name: "auth-agent-req@openssh.com", rest: b"" },
        pty("xterm\x1b[2J", b"\0"),
    ];
    let mut peer = Peer::login(&gateway);
    for (ours, body) in refused.into_iter().enumerate() {
        let channel = peer.open_session(ours as u32);
        assert!(!peer.ask(channel, body), "{body:?}");
        peer.say(&ChannelClose { recipient: to(channel) });
        assert_eq!(peer.hear().expect("an answer")[0], number::CHANNEL_CLOSE);
    }
    let channel = peer.open_session(100);
    for _ in 0..1000 {
        peer.ask(channel, RequestBody::Env { name: b"LANG", value: &[b'v'; 4000] });
    }
    assert!(peer.ask(channel, pty("xterm", b"\0")), "90: a huge terminal");
    assert!(peer.ask(channel, RequestBody::Exec { command: b"stty size" }));
    drop(peer);
    for body in [
        RequestBody::Exec { command: &[b'x'; 200_000] },
        RequestBody::Env { name: b"LANG", value: &[b'v'; 200_000] },
        RequestBody::Subsystem { name: &"A".repeat(1000) },
        RequestBody::Signal { name: &"A".repeat(1000) },
    ] {
        let mut peer = Peer::login(&gateway);
        let channel = peer.open_session(0);
        assert!(!peer.ask(channel, body), "89: {}", body.name());
        gateway.tells(&format!("{}: it is too long", body.name()));
        // It costs the request and not the session.
        assert!(peer.ask(channel, RequestBody::Exec { command: b"true" }), "89: {}", body.name());
    }
    let mut peer = Peer::login(&gateway);
    let channel = peer.open_session(0);
    peer.send(&channel_request(channel, pty("xterm", b"\x03\0\0")));
    peer.assert_dropped(PROTOCOL_ERROR, "90: a list cut short");
    watch.last_line(peer.port());
    watch.end();
}

/// RFC 4254 §5.4: replies leave in the order of the requests, whatever each takes.
#[test]
fn case_95_replies_in_order() {
    let gateway = Gateway::start(&["AcceptEnv LANG"]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let channel = peer.open_session(3);
    let size =
        RequestBody::WindowChange { columns: 80, rows: 24, width_pixels: 0, height_pixels: 0 };
    let variable = RequestBody::Env { name: b"LANG", value: b"C" };
    let unknown = RequestBody::Other { name: "x@y", rest: b"" };
    let start = RequestBody::Exec { command: b"exec sleep 20" };
    let global = GlobalRequest { want_reply: true, request: GlobalBody::KeepAlive };
    let row = |number: usize| match number % 5 {
        0 if number < 500 => (channel_request(channel, variable), number::CHANNEL_SUCCESS),
        0 | 1 => (channel_request(channel, unknown), number::CHANNEL_FAILURE),
        2 => (encode(&global), number::REQUEST_FAILURE),
        3 => (encode(&open(9, 1 << 20, 0)), number::CHANNEL_OPEN_FAILURE),
        _ => (channel_request(channel, size), number::CHANNEL_FAILURE),
    };
    let mut check = |rows: &mut dyn Iterator<Item = (Vec<u8>, u8)>| {
        let (mut burst, mut expected) = (Vec::new(), Vec::new());
        for (payload, answer) in rows {
            burst.extend(peer.sealed(&payload));
            expected.push(answer);
        }
        assert!(peer.write(&burst));
        for (at, answer) in expected.into_iter().enumerate() {
            assert_eq!(peer.hear().map(|heard| heard[0]), Ok(answer), "answer {at}");
        }
    };
    for thousand in 0..10 {
        check(&mut (thousand * 1000..(thousand + 1) * 1000).map(row));
    }
    // Those behind a start wait for it.
    let start = (channel_request(channel, start), number::CHANNEL_SUCCESS);
    check(&mut std::iter::once(start).chain(std::iter::repeat_n(row(1), 12)));
    drop(peer);
    watch.end();
}

/// RFC 4254 §6.3.1: single connection, protocol, cookie, screen.
fn x11_fields(single: bool, protocol: &[u8], cookie: &[u8]) -> Vec<u8> {
    let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    [&[u8::from(single)][..], &string(protocol), &string(cookie), &[0; 4]].concat()
}

/// Where X11 is forwarded: what would be more than one word to xauth is refused, and one connection is
/// one.
#[test]
fn case_92_cookies_are_words_and_single_connections_single() {
    const PROTOCOL: &[u8] = b"MIT-MAGIC-COOKIE-1";
    const COOKIE: &[u8] = b"00112233445566778899aabbccddeeff";
    const fn request(rest: &[u8]) -> RequestBody<'_> {
        RequestBody::Other { name: "x11-req", rest }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let own = format!("SetEnv XAUTHORITY={}", folder.path().join("a").display());
    // The other driver's test may run beside this one, and a display that is let go may become its own.
    let least = if driver().is_some() { 450 } else { 400 };
    let offset = format!("X11DisplayOffset {least}");
    let gateway = Gateway::start(&["X11Forwarding yes", &offset, &own]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let channel = peer.open_session(0);
    for (protocol, cookie) in [
        (PROTOCOL, &b"00\r\nadd :0 . 11"[..]),
        (PROTOCOL, b"00\nsource /etc/passwd"),
        (PROTOCOL, b"00 11"),
        (PROTOCOL, b"`id`"),
        (PROTOCOL, b"00\x0011"),
        (PROTOCOL, b""),
        (b"", COOKIE),
        (b"MIT MAGIC", COOKIE),
        (b"x\nquit", COOKIE),
        (PROTOCOL, &[b'0'; 2000]),
        (&[b'x'; 100], COOKIE),
    ] {
        let fields = x11_fields(false, protocol, cookie);
        assert!(!peer.ask(channel, request(&fields)), "{cookie:?}");
    }
    let good = x11_fields(true, PROTOCOL, COOKIE);
    for cut in 0..good.len() {
        assert!(!peer.ask(channel, request(&good[..cut])), "cut at {cut}");
    }
    assert!(peer.ask(channel, request(&good)));
    assert!(!peer.ask(channel, request(&good)), "a second one");
    let started = RequestBody::Exec { command: b"echo $DISPLAY; exec sleep 60" };
    assert!(peer.ask(channel, started));
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        let message = peer.hear().expect("the display");
        if message[0] == number::CHANNEL_DATA {
            said.extend(ChannelData::parse(&message).expect("data").data);
        }
    }
    let said = String::from_utf8(said).expect("text");
    let display: u16 = said
        .trim_end()
        .trim_end_matches(".0")
        .rsplit(':')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    let connect = || TcpStream::connect(("127.0.0.1", 6000 + display));
    let _first = connect().expect("it listens");
    let mut opened = 0;
    while opened == 0 {
        opened += usize::from(peer.hear().expect("a channel")[0] == number::CHANNEL_OPEN);
    }
    wait_for("it to listen no more", || connect().is_err());
    peer.assert_well();
    let too_late = peer.ask(channel, request(&good));
    assert!(!too_late, "the session has started");
    drop(peer);
    watch.end();
}

#[test]
fn case_92_x11_is_refused() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let channel = peer.open_session(0);
    let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    for cookie in [&b"00112233445566778899aabbccddeeff"[..], b"00\r\nadd :0 . 11\r\n", b"`id`"] {
        let parts = x11_fields(false, b"MIT-MAGIC-COOKIE-1", cookie);
        assert!(!peer.ask(channel, RequestBody::Other { name: "x11-req", rest: &parts }));
    }
    // A channel of X11 is the server's to open, asked for or not.
    let origin = [string(b"127.0.0.1"), vec![0, 0, 0x17, 0x70]].concat();
    let numbers =
        [&7u32.to_be_bytes()[..], &(1u32 << 20).to_be_bytes(), &(1u32 << 15).to_be_bytes()];
    peer.send(&[&[number::CHANNEL_OPEN][..], &string(b"x11"), &numbers.concat(), &origin].concat());
    assert_eq!(peer.hear().expect("an answer")[0], number::CHANNEL_OPEN_FAILURE);
    peer.assert_well();
    drop(peer);
    watch.end();
}
