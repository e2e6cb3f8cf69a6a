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
    Farewell, Manner, PLAIN, Peer, USER, Watch, channel_request, encode, open, probe_fields,
    user_key,
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
        assert!((allowed - 1..=allowed).contains(&said), "{what}: {said}");
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
    let owned = gateway.path("owned");
    let runs = [("$(", ")"), ("`", "`"), ("x;", ""), ("x\n", "\n")];
    let runs = runs.map(|(before, after)| format!("{before}touch {}{after}", owned.display()));
    let names = [
        "",
        "root\0",
        "root\nAccepted publickey for root from 1.2.3.4 port 5 ssh2",
        "\x1b[2Jroot\r",
        "-oProxyCommand=id",
        "../../root",
        "%u",
        "{} %s %n",
        &runs[0],
        &runs[1],
        &runs[2],
        &runs[3],
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
    assert!(!owned.exists(), "a name was run");
    gateway.tells("\\u{202e}");
    let log = gateway.tells("root\\nAccepted");
    let forged = |line: &str| line.contains("from 1.2.3.4") && !line.contains("root\\nAccepted");
    assert!(!log.lines().any(forged), "{log}");
    assert!(!log.contains('\u{202e}'), "{log}");
    assert!(log.lines().all(|line| line.len() < 2500), "a line is long");
}

/// USERAUTH_INFO_RESPONSE that nobody asked for, with counts that are none.
#[test]
fn case_60_answers_to_no_prompt() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let before = watch.growth();
    for body in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff", b"\0\0\0\x01\0\0\0\x01x"] {
        for tried in [false, true] {
            let mut peer = Peer::connect(&gateway);
            peer.ask_service();
            if tried {
                let rest = b"\0\0\0\0\0\0\0\0";
                let method = AuthMethod::Other { name: "keyboard-interactive", rest };
                peer.send(&request(USER, method));
                assert_eq!(peer.hear().expect("an answer")[0], number::USERAUTH_FAILURE);
            }
            peer.send(&[&[number::USERAUTH_INFO_RESPONSE], body].concat());
            peer.assert_dropped(PROTOCOL_ERROR, "an answer unasked");
        }
    }
    assert!(watch.growth().saturating_sub(before) < 4 << 20);
    watch.end();
}

/// Nobody comes in by a password, nor learns anything: the same bytes for whoever is asked for,
/// known, unknown or impossible.
#[test]
fn cases_63_65_passwords_and_who_is_known() {
    let gateway = Gateway::start(&["DenyUsers daemon"]);
    let watch = Watch::begin(&gateway);
    let stranger = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    let mut answers: Vec<Vec<u8>> = Vec::new();
    for user in [USER, "nobody", "daemon", "no-such-user-at-all", "", "a\0b"] {
        let mut peer = Peer::connect(&gateway);
        peer.ask_service();
        let signed = peer.signed(&stranger, user);
        for message in [
            request(user, AuthMethod::None),
            request(user, AuthMethod::Password { password: b"", new: None }),
            request(user, AuthMethod::Password { password: b"a\0", new: Some(b"") }),
            request(user, AuthMethod::Password { password: &[b'x'; 1024], new: None }),
            probe(user, &stranger),
            signed,
        ] {
            peer.send(&message);
            answers.push(peer.hear().expect("an answer"));
        }
    }
    assert_eq!(answers[0][0], number::USERAUTH_FAILURE);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    for user in [USER, "no-such-user-at-all"] {
        let mut peer = Peer::connect(&gateway);
        peer.ask_service();
        peer.send(&request(user, AuthMethod::Password { password: &[b'x'; 20_000], new: None }));
        peer.assert_dropped(PROTOCOL_ERROR, user);
    }
    watch.end();
}

/// Where passwords do let in: what is none does not, and hashes that are none are nobody's.
#[test]
fn case_63_where_passwords_let_in_others_do_not() {
    const RIGHT: &[u8] = b"correct horse";
    const HASH: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("passwords");
    let put =
        |own: &str| std::fs::write(&file, format!("{USER}:{own}\nnobody:\n")).expect("a file");
    put(HASH);
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).expect("a mode");
    let file_line = format!("TidegatePasswordFile {}", file.display());
    let lines = ["PasswordAuthentication yes", "PermitRootLogin yes", &file_line];
    let gateway = Gateway::start(&lines);
    let watch = Watch::begin(&gateway);
    let answers_to = |user: &str, passwords: &[&[u8]]| {
        let mut peer = Peer::connect(&gateway);
        peer.ask_service();
        let answer = |password: &&[u8]| {
            peer.send(&request(user, AuthMethod::Password { password, new: None }));
            peer.hear().expect("an answer")
        };
        passwords.iter().map(answer).collect::<Vec<_>>()
    };
    let cut = [RIGHT, b"\0"].concat();
    let odd: [&[u8]; 5] = [b"", &cut, b"\0", &[b'x'; 256], &[b'x'; 1024]];
    let answers: Vec<_> =
        [USER, "nobody", "no-such-user-at-all"].map(|user| answers_to(user, &odd)).concat();
    assert_eq!(answers[0][0], number::USERAUTH_FAILURE);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    // Locked, and none at all.
    for hash in [&*format!("!{HASH}"), "*", ""] {
        put(hash);
        let answers = answers_to(USER, &[RIGHT, b"", hash.as_bytes()]);
        assert!(answers.iter().all(|answer| answer[0] == number::USERAUTH_FAILURE), "{hash}");
    }
    put(HASH);
    assert_eq!(answers_to(USER, &[RIGHT]), [[number::USERAUTH_SUCCESS]], "the control");
    watch.end();
}

#[test]
fn case_68_a_second_login() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let key = user_key(&gateway);
    let again = peer.signed(&key, USER);
    for message in [again, probe("nobody", &key), request("nobody", AuthMethod::None)] {
        peer.send(&message);
        peer.assert_well();
    }
    peer.say(&ServiceRequest { name: b"ssh-userauth" });
    peer.say(&ServiceRequest { name: b"ssh-connection" });
    peer.assert_well();
    let channel = peer.exec(0, "id -u");
    assert_eq!(channel, 0);
    drop(peer);
    watch.end();
}

/// Everything a key's judgement needs may fail; what fails is a login refused.
#[test]
fn case_64_what_fails_lets_nobody_in() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let key = user_key(&gateway);
    let ready = || {
        let mut peer = Peer::connect(&gateway);
        peer.ask_service();
        peer
    };
    let refused = |peer: &mut Peer, what: &str| {
        let message = peer.signed(&key, USER);
        peer.send(&message);
        match peer.hear() {
            Ok(answer) => assert_eq!(answer[0], number::USERAUTH_FAILURE, "{what}"),
            Err(Farewell::Said(..)) => {}
            Err(end) => panic!("{what}: {end:?}"),
        }
    };
    // The file of keys is a directory, a pipe nobody writes to, a loop, empty, or gone.
    let file = gateway.path("authorized_keys");
    let kept = gateway.path("kept");
    std::fs::rename(&file, &kept).expect("moved");
    refused(&mut ready(), "gone");
    std::fs::create_dir(&file).expect("a directory");
    refused(&mut ready(), "a directory");
    std::fs::remove_dir(&file).expect("removed");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    refused(&mut ready(), "a pipe");
    std::fs::remove_file(&file).expect("removed");
    std::os::unix::fs::symlink(&file, &file).expect("a loop");
    refused(&mut ready(), "a loop");
    std::fs::remove_file(&file).expect("removed");
    std::fs::write(&file, "").expect("an empty file");
    refused(&mut ready(), "empty");
    std::fs::remove_file(&file).expect("removed");
    std::fs::rename(&kept, &file).expect("moved back");

    // No descriptor is left to open it with, nor a process to be had: the login waits for neither.
    let mut starved = ready();
    let mut live = Peer::login(&gateway);
    // It has arrived where it is served.
    live.assert_well();
    let pids = [gateway.child.id(), gateway.serving()];
    let pids = pids.map(|pid| nix::libc::pid_t::try_from(pid).expect("a pid"));
    let limits = |soft: u64| nix::libc::rlimit { rlim_cur: soft, rlim_max: 20_000 };
    let before = pids.map(|pid| limit(pid, Some(limits(1))));
    refused(&mut starved, "no descriptors");
    live.assert_well();
    let channel = live.open_session(0);
    assert!(!live.ask(channel, RequestBody::Exec { command: b"id" }), "no descriptors for a pipe");
    for (pid, before) in pids.into_iter().zip(before).rev() {
        limit(pid, Some(before));
    }
    live.assert_well();
    let channel = live.exec(1, "true");
    assert_ne!(channel, u32::MAX);
    drop((starved, live));
    watch.end();
}

/// Reads and, if asked to, sets how many descriptors a process may have.
fn limit(pid: nix::libc::pid_t, new: Option<nix::libc::rlimit>) -> nix::libc::rlimit {
    let mut old = nix::libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: two structures that live during the call, or none.
    let done = unsafe { nix::libc::prlimit(pid, nix::libc::RLIMIT_NOFILE, new, &raw mut old) };
    assert_eq!(done, 0);
    old
}

/// One packet of nothing much that would become far more than a packet may be.
#[test]
fn cases_49_50_compressed_packets() {
    let gateway = Gateway::start(&["Compression yes"]);
    let watch = Watch::begin(&gateway);
    let manner = Manner { compresses: true, ..PLAIN };
    let login = || {
        let mut peer = Peer::connect_as(&gateway, manner);
        peer.log_in(&gateway);
        peer
    };
    // What is honest passes, three to one and far better.
    let mut peer = login();
    let channel = peer.exec(0, "wc -c");
    let data = [b'a'; 30_000];
    for _ in 0..20 {
        peer.say(&ChannelData { recipient: ChannelNumber(channel), data: &data });
    }
    peer.assert_well();
    drop(peer);
    for len in [262_145, 290_000] {
        let mut peer = login();
        let mut bomb = vec![0; len];
        bomb[0] = number::IGNORE;
        bomb[1..5].copy_from_slice(&(len as u32 - 5).to_be_bytes());
        let travelling = peer.sealed(&bomb);
        assert!(travelling.len() < 2000, "{} bytes travel", travelling.len());
        peer.write(&travelling);
        peer.assert_dropped(PROTOCOL_ERROR, &format!("49: {len} bytes"));
    }
    assert!(watch.growth() < 16 << 20, "grew by {}", watch.growth());
    watch.end();
}
