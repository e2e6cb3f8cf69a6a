//! Before and during the login.

use tidegate::crypto::{KeyKind, PrivateKey, SignatureAlgorithm};
use tidegate::wire::auth::{
    AuthMethod, PublicKeyOk, UserAuthFailure, UserAuthRequest, UserAuthSuccess,
};
use tidegate::wire::channel::{ChannelData, ChannelNumber, GlobalBody, GlobalRequest};
use tidegate::wire::request::RequestBody;
use tidegate::wire::transport::{ServiceAccept, ServiceRequest};
use tidegate::wire::{NameList, number};

use crate::PROTOCOL_ERROR;
use crate::peer::{
    Farewell, Peer, USER, Watch, channel_request, encode, open, probe_fields, user_key,
};
use crate::support::Gateway;

fn request(user: &str, method: AuthMethod<'_>) -> Vec<u8> {
    encode(&UserAuthRequest { user, service: "ssh-connection", method })
}

fn probe(user: &str, key: &PrivateKey) -> Vec<u8> {
    request(user, AuthMethod::PublicKey(probe_fields(key, SignatureAlgorithm::Ed25519)))
}

#[test]
fn case_12_every_message_before_the_login() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::connect(&gateway);
    let mut asked = 0;
    for number in 0..=255 {
        if number == number::DISCONNECT {
            continue;
        }
        if asked == 30 {
            peer = Peer::connect(&gateway);
            asked = 0;
        }
        asked += 1;
        peer.send(&[number, 0, 0, 0, 0]);
        peer.say(&ServiceRequest { name: b"ssh-userauth" });
        // Malformed, out of turn, a server's, or the business of somebody who is logged in.
        let fatal =
            matches!(number, number::SERVICE_REQUEST..=number::SERVICE_ACCEPT | 20..=21 | 30..=100);
        match peer.hear() {
            Ok(answer) => {
                assert_eq!(answer[0], number::SERVICE_ACCEPT, "message {number}");
                assert!(!fatal, "message {number} passed");
            }
            Err(Farewell::Said(reason, _)) => {
                let expected = if number == number::SERVICE_REQUEST { 7 } else { PROTOCOL_ERROR };
                assert!(fatal && reason == expected, "message {number}: reason {reason}");
                watch.last_line(peer.port());
                peer = Peer::connect(&gateway);
                asked = 0;
            }
            Err(end) => panic!("message {number}: {end:?}"),
        }
    }
    drop(peer);
    watch.end();
}

#[test]
fn cases_51_52_nothing_runs_before_the_login() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let marker = gateway.path("marker");
    let command = format!("touch {}", marker.display());
    let recipient = ChannelNumber(0);
    let methods = NameList::new(b"publickey").expect("a list");
    let key = user_key(&gateway);
    let forward = GlobalBody::TcpipForward { address: "", port: 2222 };
    let messages = [
        encode(&open(0, 1 << 20, 1 << 15)),
        channel_request(0, RequestBody::Exec { command: command.as_bytes() }),
        encode(&ChannelData { recipient, data: b"id\n" }),
        encode(&GlobalRequest { want_reply: true, request: forward }),
        encode(&UserAuthSuccess),
        encode(&UserAuthFailure { methods, partial: false }),
        encode(&PublicKeyOk { algorithm: "ssh-ed25519", key: key.public().blob() }),
        encode(&ServiceAccept { name: b"ssh-userauth" }),
    ];
    for message in &messages {
        for step in 0..3 {
            let mut peer = Peer::connect(&gateway);
            if step > 0 {
                peer.ask_service();
            }
            if step > 1 {
                peer.send(&probe(USER, &key));
                assert_eq!(peer.hear().map(|answer| answer[0]), Ok(number::USERAUTH_PK_OK));
            }
            peer.send(message);
            peer.assert_dropped(PROTOCOL_ERROR, &format!("message {} at {step}", message[0]));
            watch.last_line(peer.port());
        }
    }
    // All of it in one breath, as the exploit of CVE-2025-32433 does.
    let mut peer = Peer::connect(&gateway);
    let burst: Vec<u8> = messages[..3].iter().flat_map(|message| peer.sealed(message)).collect();
    peer.write(&burst);
    peer.assert_dropped(PROTOCOL_ERROR, "the burst");
    watch.end();
    assert!(!marker.exists());
}

#[test]
fn case_11_trailing_bytes() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::connect(&gateway);
    peer.ask_service();
    let mut message = peer.signed(&user_key(&gateway), USER);
    message.push(0);
    peer.send(&message);
    peer.assert_dropped(PROTOCOL_ERROR, "USERAUTH_REQUEST");
    let mut peer = Peer::login(&gateway);
    let mut message = encode(&open(0, 1 << 20, 1 << 15));
    message.push(0);
    peer.send(&message);
    peer.assert_dropped(PROTOCOL_ERROR, "CHANNEL_OPEN");
    watch.end();
}

#[test]
fn case_59_tries_are_counted() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let stranger = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    let password = AuthMethod::Password { password: b"guess", new: None };
    let rows = [
        ("none", request(USER, AuthMethod::None), 7),
        ("password", request(USER, password), 6),
        ("strange keys", probe(USER, &stranger), 6),
        ("a key that would do", probe(USER, &user_key(&gateway)), 65),
    ];
    for (what, message, allowed) in rows {
        let mut peer = Peer::connect(&gateway);
        peer.ask_service();
        let mut said = 0;
        let end = loop {
            assert!(said < 100, "{what}: for ever");
            peer.send(&message);
            said += 1;
            if let Err(end) = peer.hear() {
                break end;
            }
        };
        assert!(matches!(end, Farewell::Said(..)), "{what}: {end:?}");
        assert!(said <= allowed, "{what}: {said}");
        watch.last_line(peer.port());
    }
    watch.end();
}

#[test]
fn cases_62_130_odd_names() {
    let gateway = Gateway::start(&["AuthorizedKeysCommand none"]);
    let watch = Watch::begin(&gateway);
    let key = user_key(&gateway);
    let long = "x".repeat(300);
    let huge = "x".repeat(30_000);
    let names = [
        "",
        "root\0",
        "root\nAccepted publickey for root from 1.2.3.4 port 5 ssh2",
        "\x1b[2Jroot\r",
        "-oProxyCommand=id",
        "../../root",
        "%u",
        "{} %s %n",
        "$(touch /tmp/owned)",
        "`id`",
        "ro\u{202e}ot",
        &long,
        &huge,
    ];
    for name in names {
        let mut peer = Peer::connect(&gateway);
        peer.ask_service();
        let message = peer.signed(&key, name);
        peer.send(&message);
        match peer.hear() {
            Ok(answer) => assert_eq!(answer[0], number::USERAUTH_FAILURE, "{name:?}"),
            Err(Farewell::Said(PROTOCOL_ERROR, _)) => assert!(name.len() > 255, "{name:?}"),
            Err(end) => panic!("{name:?}: {end:?}"),
        }
    }
    // 250 KB: more than anybody says before a login.
    let mut peer = Peer::connect(&gateway);
    peer.ask_service();
    peer.send(&request(&"x".repeat(250_000), AuthMethod::None));
    peer.assert_dropped(PROTOCOL_ERROR, "250 KB");
    assert!(watch.last_line(peer.port()).contains("bad packet length"));
    watch.end();
    let log = gateway.log();
    let forged = |line: &str| line.contains("from 1.2.3.4") && !line.contains("root\\nAccepted");
    assert!(!log.lines().any(forged), "{log}");
    assert!(log.contains("root\\nAccepted"), "{log}");
    assert!(log.contains("\\u{202e}") && !log.contains('\u{202e}'), "{log}");
    assert!(log.lines().all(|line| line.len() < 2500), "a line is long");
}
