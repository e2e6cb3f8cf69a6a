//! Variants of the listed attacks: what is odd and legal is served, what is illegal ends the
//! connection in words, and nothing else happens.

use std::os::unix::fs::PermissionsExt;

use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelExtendedData, ChannelNumber, ChannelWindowAdjust,
    GlobalBody, GlobalRequest,
};
use tidegate::wire::number;
use tidegate::wire::request::RequestBody;
use tidegate::wire::transport::ServiceRequest;

use crate::PROTOCOL_ERROR;
use crate::peer::{Farewell, Peer, USER, Watch, channel_request, encode, open, user_key};
use crate::support::account::Account;
use crate::support::{Gateway, noise};

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    GoesOn,
    Ends,
}
use Fate::{Ends, GoesOn};

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn fate(peer: &mut Peer, what: &str) -> Fate {
    peer.say(&GlobalRequest { want_reply: true, request: GlobalBody::KeepAlive });
    loop {
        match peer.hear() {
            Ok(message) if message[0] == number::REQUEST_FAILURE => return GoesOn,
            Ok(_) => {}
            Err(Farewell::Said(PROTOCOL_ERROR, _)) => return Ends,
            Err(end) => panic!("{what}: {end:?}"),
        }
    }
}

/// CHANNEL_OPEN of any type, with any numbers.
fn opening(kind: &[u8], numbers: [u32; 3], rest: &[u8]) -> Vec<u8> {
    let numbers = numbers.map(u32::to_be_bytes).concat();
    [&[number::CHANNEL_OPEN][..], &string(kind), &numbers, rest].concat()
}

/// CHANNEL_REQUEST of any type; no reply is wanted, so that none is waited for.
fn asking(channel: u32, kind: &[u8], rest: &[u8]) -> Vec<u8> {
    let recipient = channel.to_be_bytes();
    [&[number::CHANNEL_REQUEST][..], &recipient, &string(kind), &[0], rest].concat()
}

fn global(kind: &[u8], rest: &[u8]) -> Vec<u8> {
    [&[number::GLOBAL_REQUEST][..], &string(kind), &[0], rest].concat()
}

#[test]
fn odd_opens_and_global_requests() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let usual = [3, 1 << 20, 1 << 15];
    let long = vec![b'x'; 20_000];
    let rows: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("the largest number", opening(b"session", [u32::MAX, 1 << 20, 1 << 15], b""), GoesOn),
        ("no window", opening(b"session", [3, 0, 1 << 15], b""), GoesOn),
        ("all windows at their most", opening(b"session", [3, u32::MAX, u32::MAX], b""), GoesOn),
        ("trailing", opening(b"session", usual, b"x"), Ends),
        ("no type", opening(b"", usual, b""), GoesOn),
        ("a type with NUL", opening(b"session\0", usual, b""), GoesOn),
        ("a type with ESC", opening(b"\x1b[2J", usual, b""), GoesOn),
        ("a type that is no text", opening(b"\xff\xfe", usual, b""), Ends),
        ("a long type", opening(&long, usual, b""), Ends),
        (
            "a tunnel",
            opening(b"tun@openssh.com", usual, &[0, 0, 0, 1, 0x7f, 255, 255, 255]),
            GoesOn,
        ),
        ("X11", opening(b"x11", usual, b""), GoesOn),
        ("an agent", opening(b"auth-agent@openssh.com", usual, b""), GoesOn),
        ("forwarded-tcpip from a client", opening(b"forwarded-tcpip", usual, &[0; 16]), GoesOn),
        ("a global request with NUL", global(b"a\0b", b""), GoesOn),
        ("a long global request", global(&long, b""), Ends),
        ("a prompt proof", global(b"hostkeys-prove-00@openssh.com", &string(b"x")), GoesOn),
        ("host keys of a client", global(b"hostkeys-00@openssh.com", &string(b"x")), GoesOn),
        (
            "a cancel of nothing",
            global(b"cancel-tcpip-forward", &[&string(b"")[..], &[0; 4]].concat()),
            GoesOn,
        ),
        ("a cut forward", global(b"tcpip-forward", b"\0\0"), Ends),
        ("a cut request", vec![number::GLOBAL_REQUEST, 0, 0], Ends),
        (
            "a boolean of 255",
            [&[number::GLOBAL_REQUEST][..], &string(b"x@y"), &[0xff]].concat(),
            GoesOn,
        ),
    ];
    for (what, message, expected) in rows {
        let mut peer = Peer::login(&gateway);
        peer.send(&message);
        // A boolean may want a reply; then there is one more answer of the kind that ends the wait.
        assert_eq!(fate(&mut peer, what), expected, "{what}");
        if expected == Ends {
            watch.last_line(peer.port());
        }
    }
    watch.end();
}

#[test]
fn odd_requests_of_a_channel() {
    let gateway = Gateway::start(&["AcceptEnv *"]);
    let watch = Watch::begin(&gateway);
    let size = |columns: u32, rows: u32| [columns, rows, 0, 0].map(u32::to_be_bytes).concat();
    let pty = |modes: &[u8]| [string(b"vt100"), size(80, 24), string(modes)].concat();
    let every_mode: Vec<u8> =
        (1..160).flat_map(|op| [&[op][..], &u32::MAX.to_be_bytes()].concat()).collect();
    let variable = |name: &[u8], value: &[u8]| [string(name), string(value)].concat();
    let rows: Vec<(&str, &[u8], Vec<u8>, Fate)> = vec![
        ("no type", b"", vec![], GoesOn),
        ("a type with NUL", b"shell\0", vec![], GoesOn),
        ("exec of nothing", b"exec", string(b""), GoesOn),
        ("exec of 30 KB", b"exec", string(&vec![b'#'; 30_000]), GoesOn),
        ("exec, cut", b"exec", vec![0, 0, 0, 9, b'x'], Ends),
        ("exec, trailing", b"exec", [string(b"true"), vec![0]].concat(), Ends),
        ("shell, trailing", b"shell", vec![0], Ends),
        ("a subsystem without a name", b"subsystem", string(b""), GoesOn),
        ("a terminal with every mode", b"pty-req", pty(&every_mode), GoesOn),
        ("a list of modes that is too long", b"pty-req", pty(&[128; 1025]), GoesOn),
        ("exec, as long as can be", b"exec", string(&vec![b'#'; 128 * 1024 - 1]), GoesOn),
        ("exec, longer", b"exec", string(&vec![b'#'; 128 * 1024]), GoesOn),
        ("a length that is none", b"exec", vec![0xff; 4], GoesOn),
        ("a long variable", b"env", variable(b"LONG", &vec![b'x'; 200_000]), GoesOn),
        ("a long name", b"env", variable(&[b'x'; 300], b""), GoesOn),
        ("a long subsystem", b"subsystem", string(&[b'x'; 65]), GoesOn),
        ("a long signal", b"signal", string(&[b'X'; 33]), GoesOn),
        ("modes that end early", b"pty-req", pty(&[1, 0, 0]), Ends),
        ("modes of zeros", b"pty-req", pty(&[0; 1000]), GoesOn),
        ("modes of noise", b"pty-req", pty(&noise(500, 4)), GoesOn),
        ("a size without a terminal", b"window-change", size(u32::MAX, 0), GoesOn),
        ("a size, cut", b"window-change", vec![0; 15], Ends),
        ("a signal with NUL", b"signal", string(b"TERM\0"), GoesOn),
        ("a signal by number", b"signal", string(b"9"), GoesOn),
        ("a signal to nobody", b"signal", string(b"KILL"), GoesOn),
        ("a long break", b"break", u32::MAX.to_be_bytes().to_vec(), GoesOn),
        ("an exit status from a client", b"exit-status", vec![0; 4], GoesOn),
        ("a status, cut", b"exit-status", vec![0; 3], Ends),
        ("an exit signal from a client", b"exit-signal", vec![0; 13], GoesOn),
        ("the end of writing", b"eow@openssh.com", vec![], GoesOn),
        ("a variable without a name", b"env", variable(b"", b"x"), GoesOn),
        ("a variable that is no text", b"env", variable(b"\xff", b"\xff"), GoesOn),
        ("an empty variable", b"env", variable(b"A", b""), GoesOn),
        ("an agent", b"auth-agent-req@openssh.com", vec![], GoesOn),
        ("xon-xoff from a client", b"xon-xoff", vec![1], GoesOn),
    ];
    for (what, kind, rest, expected) in rows {
        let mut peer = Peer::login(&gateway);
        let channel = peer.open_session(0);
        peer.send(&asking(channel, kind, &rest));
        assert_eq!(fate(&mut peer, what), expected, "{what}");
    }
    // As often as anybody likes, before and after the start.
    let mut peer = Peer::login(&gateway);
    let channel = peer.open_session(0);
    assert!(peer.flood(&asking(channel, b"env", &variable(b"FLOOD", &[b'x'; 1000])), 10_000));
    for _ in 0..50 {
        peer.send(&asking(channel, b"pty-req", &pty(b"\0")));
    }
    assert_eq!(fate(&mut peer, "a flood of variables"), GoesOn);
    assert!(peer.ask(channel, RequestBody::Exec { command: b"exec cat" }));
    for kind in [&b"shell"[..], b"env", b"pty-req"] {
        let rest = if kind == b"env" { variable(b"A", b"b") } else { vec![] };
        let rest = if kind == b"pty-req" { pty(b"\0") } else { rest };
        peer.send(&asking(channel, kind, &rest));
    }
    assert!(peer.flood(&asking(channel, b"window-change", &size(0, 0)), 2000));
    assert_eq!(fate(&mut peer, "requests behind the start"), GoesOn);
    drop(peer);
    watch.end();
}

#[test]
fn data_at_the_edges() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    // Exactly the window, and one byte more.
    let mut peer = Peer::login(&gateway);
    peer.say(&open(0, 1 << 20, 1 << 15));
    let answer = peer.hear().expect("an answer");
    let field = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().expect("four"));
    let (channel, window, packet) = (field(5), field(9), field(13));
    assert!(peer.ask(channel, RequestBody::Exec { command: b"exec sleep 20" }));
    let recipient = ChannelNumber(channel);
    // A pipe of the system's takes some of it, and that much is granted anew.
    let chunk = vec![7; packet as usize];
    for _ in 0..window / packet {
        peer.say(&ChannelData { recipient, data: &chunk });
    }
    assert_eq!(fate(&mut peer, "a window full"), GoesOn);
    drop(peer);
    // Nothing, over and over; types of data that do not exist; both behind an EOF.
    let mut peer = Peer::login(&gateway);
    let channel = peer.exec(0, "exec cat > /dev/null");
    let recipient = ChannelNumber(channel);
    assert!(peer.flood(&encode(&ChannelData { recipient, data: b"" }), 5000));
    assert_eq!(fate(&mut peer, "empty data"), GoesOn);
    for data_type in [0, 1, 2, u32::MAX] {
        peer.say(&ChannelExtendedData { recipient, data_type, data: b"x" });
        assert_eq!(fate(&mut peer, "extended data"), GoesOn, "type {data_type}");
    }
    // Several windows full of it: nobody has asked for it, and nobody keeps it.
    let large = encode(&ChannelExtendedData { recipient, data_type: 1, data: &[7; 32 << 10] });
    for _ in 0..200 {
        assert!(peer.send(&large));
    }
    assert_eq!(fate(&mut peer, "much extended data"), GoesOn);
    assert!(watch.growth() < 8 << 20, "grew by {}", watch.growth());
    drop(peer);
    // Lengths that lie.
    for lie in [0u32, 4, 6, 1 << 31, u32::MAX] {
        let mut peer = Peer::login(&gateway);
        let channel = peer.exec(0, "exec cat > /dev/null");
        let message =
            [&[number::CHANNEL_DATA][..], &channel.to_be_bytes(), &lie.to_be_bytes(), b"hello"];
        peer.send(&message.concat());
        assert_eq!(fate(&mut peer, "a lie"), Ends, "{lie} for 5");
    }
    // Windows: nothing granted, all there is at once, and one more.
    let mut peer = Peer::login(&gateway);
    peer.say(&open(9, 0, 1 << 15));
    let answer = peer.hear().expect("an answer");
    let channel = u32::from_be_bytes(answer[5..9].try_into().expect("four"));
    let recipient = ChannelNumber(channel);
    peer.send(&channel_request(channel, RequestBody::Exec { command: b"echo hello" }));
    assert_eq!(fate(&mut peer, "no window"), GoesOn);
    peer.say(&ChannelWindowAdjust { recipient, bytes: 0 });
    peer.say(&ChannelWindowAdjust { recipient, bytes: u32::MAX });
    let data = loop {
        let message = peer.hear().expect("the session goes on");
        if message[0] == number::CHANNEL_DATA {
            break message;
        }
    };
    assert!(data.ends_with(b"hello\n"));
    // CLOSE without anything else, twice, and EOF behind it.
    for second in [encode(&ChannelClose { recipient }), encode(&ChannelEof { recipient })] {
        let mut peer = Peer::login(&gateway);
        assert_eq!(peer.exec(0, "exec cat"), channel);
        peer.say(&ChannelClose { recipient });
        peer.send(&second);
        assert_eq!(fate(&mut peer, "behind CLOSE"), Ends);
    }
    drop(peer);
    watch.end();
}

/// Well-framed noise in every message, with real channels open: whatever happens, it happens to
/// this connection alone.
#[test]
fn noise_in_every_message() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut neighbour = Peer::login(&gateway);
    let mut logins = 0;
    let mut peer = None;
    for round in 0..1500u64 {
        let bytes = noise(64, round);
        let mine = peer.get_or_insert_with(|| {
            logins += 1;
            let mut peer = Peer::login(&gateway);
            peer.exec(0, "exec cat > /dev/null");
            peer.open_session(1);
            peer
        });
        let kind = match bytes[0] % 4 {
            0 => number::CHANNEL_REQUEST,
            1 => number::CHANNEL_OPEN,
            2 => number::GLOBAL_REQUEST,
            _ => 80 + bytes[1] % 21,
        };
        // Mostly a channel that exists and a name that is known, then noise of any length.
        let names = [
            "exec",
            "env",
            "pty-req",
            "signal",
            "window-change",
            "session",
            "direct-tcpip",
            "subsystem",
            "tcpip-forward",
            "shell",
        ];
        let mut message = vec![kind];
        if !matches!(kind, number::CHANNEL_OPEN | number::GLOBAL_REQUEST) {
            message.extend(u32::from(bytes[2] % 2).to_be_bytes());
        }
        if !bytes[3].is_multiple_of(8) {
            message.extend(string(names[usize::from(bytes[4]) % names.len()].as_bytes()));
            message.push(bytes[5] % 2);
        }
        if bytes[6].is_multiple_of(2) {
            message.extend(string(&bytes[8..8 + usize::from(bytes[7] % 24)]));
        }
        message.extend(&bytes[32..32 + usize::from(bytes[7] % 32)]);
        mine.send(&message);
        if round % 5 == 4 || kind == number::CHANNEL_CLOSE {
            mine.say(&GlobalRequest { want_reply: true, request: GlobalBody::KeepAlive });
            let ended = loop {
                match mine.hear() {
                    Ok(answer) if answer[0] == number::REQUEST_FAILURE => break false,
                    Ok(_) => {}
                    Err(Farewell::Said(PROTOCOL_ERROR, _)) => break true,
                    Err(end) => panic!("round {round}, {message:02x?}: {end:?}"),
                }
            };
            if ended {
                peer = None;
            }
        }
    }
    assert!(logins > 20, "{logins} connections: nothing was wrong with the noise");
    neighbour.assert_well();
    drop((peer, neighbour));
    watch.end();
}

/// A client that waits for nothing: the login, a channel, a command and its input in one write. For
/// another account the connection is handed over in the middle of that.
#[test]
fn everything_at_once() {
    let gateway = Gateway::start(&[]);
    std::fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755))
        .expect("mode");
    let account = Account::new();
    let other = account.as_ref().map(|account| account.name.clone());
    for user in [Some(USER.to_owned()), other].into_iter().flatten() {
        for repeat in 0..4 {
            let mut peer = Peer::connect(&gateway);
            let recipient = ChannelNumber(0);
            let login = peer.signed(&user_key(&gateway), &user);
            let messages = [
                encode(&ServiceRequest { name: b"ssh-userauth" }),
                login,
                encode(&open(0, 1 << 20, 1 << 15)),
                channel_request(0, RequestBody::Exec { command: b"id -un; cat" }),
                encode(&ChannelData { recipient, data: b"all of it" }),
                encode(&ChannelEof { recipient }),
            ];
            let burst: Vec<u8> = messages.iter().flat_map(|message| peer.sealed(message)).collect();
            // In one piece, or with the end behind the login.
            let cut = if repeat % 2 == 0 { burst.len() } else { burst.len() - 80 };
            peer.write(&burst[..cut]);
            if repeat > 1 {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            peer.write(&burst[cut..]);
            let mut output: Vec<u8> = Vec::new();
            loop {
                let message = peer.hear().expect("the session");
                match message[0] {
                    number::CHANNEL_DATA => output.extend(&message[9..]),
                    number::CHANNEL_CLOSE => break,
                    _ => {}
                }
            }
            assert_eq!(output, format!("{user}\nall of it").into_bytes());
        }
    }
    drop(account);
    gateway.assert_alive();
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

/// New keys asked for while the login is judged, so that the login is over, and the connection about
/// to be handed over, in the middle of a key exchange.
#[test]
fn new_keys_while_the_login_is_judged() {
    let gateway = Gateway::start(&[]);
    std::fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755))
        .expect("mode");
    let account = Account::new();
    let other = account.as_ref().map(|account| account.name.clone());
    for user in [Some(USER.to_owned()), other].into_iter().flatten() {
        for repeat in 0..3 {
            let mut peer = Peer::connect(&gateway);
            peer.ask_service();
            if repeat > 0 {
                peer.rekey().expect("new keys before the login");
            }
            let login = peer.signed(&user_key(&gateway), &user);
            peer.send(&login);
            peer.rekey().expect("new keys");
            assert_eq!(peer.hear(), Ok(vec![number::USERAUTH_SUCCESS]), "{user}");
            peer.transport.authenticated();
            if repeat > 1 {
                peer.rekey().expect("new keys behind the login");
            }
            peer.exec(0, "id -un");
            loop {
                let message = peer.hear().expect("the session");
                if message[0] == number::CHANNEL_DATA {
                    assert_eq!(&message[9..], format!("{user}\n").as_bytes());
                    break;
                }
            }
        }
    }
    drop(account);
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

/// Noise behind the key exchange and before the login.
#[test]
fn noise_before_the_login() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    for round in 0..120u64 {
        let bytes = noise(600, round);
        let mut peer = Peer::connect(&gateway);
        if round % 4 > 0 {
            peer.ask_service();
        }
        let length = usize::from(bytes[1]) * 2;
        let mut message = vec![number::USERAUTH_REQUEST];
        if !bytes[0].is_multiple_of(4) {
            let methods = [
                "publickey",
                "password",
                "none",
                "hostbased",
                "keyboard-interactive",
                "publickey-hostbound-v00@openssh.com",
                "gssapi-with-mic",
            ];
            message.extend([string(USER.as_bytes()), string(b"ssh-connection")].concat());
            message.extend(string(methods[usize::from(bytes[2]) % methods.len()].as_bytes()));
            message.push(bytes[3] % 2);
            if bytes[4].is_multiple_of(2) {
                message.extend(string(b"ssh-ed25519"));
                message.extend(string(&bytes[8..8 + usize::from(bytes[5] % 64)]));
            }
        }
        message.extend(&bytes[20..20 + length]);
        peer.send(&message);
        match peer.hear() {
            Ok(answer) => assert_eq!(answer[0], number::USERAUTH_FAILURE, "round {round}"),
            Err(Farewell::Said(PROTOCOL_ERROR | 7, _)) => {}
            Err(end) => panic!("round {round}: {end:?}"),
        }
    }
    watch.end();
}
