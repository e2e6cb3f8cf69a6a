//! Key exchanges: what is offered, what is answered, what it costs.

use std::io::{Read, Write};

use tidegate::crypto::KexKind;
use tidegate::wire::channel::{ChannelData, ChannelNumber};
use tidegate::wire::transport::{KexInit, ServiceRequest};
use tidegate::wire::{Message, NameList, number};

use crate::peer::{Farewell, Manner, PLAIN, Peer, Watch, encode};
use crate::support::{Gateway, noise, wait_for};
use crate::{
    KEY_EXCHANGE_FAILED, MAC_ERROR, PROTOCOL_ERROR, SUITES, Said, after_ident, good_kexinit, half,
    kexinit, packet, say,
};

const STRICT: &str = "curve25519-sha256,kex-strict-c-v00@openssh.com";
const GCM: &str = "aes256-gcm@openssh.com";

/// A client's first message of a key exchange: its public value as a string.
fn public(value: &[u8]) -> Vec<u8> {
    let length = (value.len() as u32).to_be_bytes();
    [&[number::KEX_ECDH_INIT][..], &length, value].concat()
}

fn exchange(gateway: &Gateway, kex: &str, messages: &[Vec<u8>]) -> Said {
    let mut bytes = after_ident(&[&packet(&kexinit(kex, GCM, false))]);
    bytes.extend(messages.iter().flat_map(|message| packet(message)));
    say(gateway, &bytes, false)
}

/// The server signs nothing and says that it ends.
fn assert_unsigned(said: &Said, what: &str) {
    let signed = [number::KEX_ECDH_REPLY, number::KEX_DH_GEX_REPLY];
    assert!(said.packets().iter().all(|heard| !signed.contains(&heard[0])), "{what}: signed");
    assert!(matches!(said.farewell(), Farewell::Said(..)), "{what}: {:?}", said.farewell());
}

#[test]
fn cases_13_14_nothing_fits_into_a_strict_exchange() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut messages: Vec<Vec<u8>> =
        [5, 6, 7, 50, 53, 80, 90, 94, 98, 192].map(|n| vec![n, 0, 0, 0, 0]).to_vec();
    messages.push(vec![number::IGNORE, 0, 0, 0, 0]);
    messages.push(vec![number::UNIMPLEMENTED, 0, 0, 0, 0]);
    messages.push(vec![number::DEBUG, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let strict = packet(&kexinit(STRICT, GCM, false));
    for message in &messages {
        let inside = say(&gateway, &after_ident(&[&strict, &packet(message)]), false);
        inside.assert_dropped(PROTOCOL_ERROR, &format!("13: message {} inside", message[0]));
        let before = say(&gateway, &after_ident(&[&packet(message), &strict]), false);
        before.assert_dropped(PROTOCOL_ERROR, &format!("14: message {} before", message[0]));
    }
    // Where nobody was strict, IGNORE is legal and the exchange goes on.
    let ignore = packet(&[number::IGNORE, 0, 0, 0, 0]);
    let bytes = after_ident(&[&ignore, &packet(&good_kexinit()), &ignore, &packet(&half())]);
    let said = say(&gateway, &bytes, true);
    assert!(said.packets().iter().any(|heard| heard[0] == number::KEX_ECDH_REPLY));
    watch.end();
}

#[test]
fn cases_17_22_49_what_is_never_agreed_on() {
    let gateway = Gateway::start(&["Compression yes"]);
    let watch = Watch::begin(&gateway);
    let rows = [
        ("17: ChaCha20 without strict exchange", "chacha20-poly1305@openssh.com"),
        ("17: CBC", "aes256-cbc"),
        ("22: no cipher", "none"),
        ("22: no cipher, twice", "none,none"),
    ];
    for (what, cipher) in rows {
        let safe = cipher.starts_with("chacha");
        let said = say(&gateway, &after_ident(&[&packet(&kexinit(STRICT, cipher, false))]), safe);
        if safe {
            assert!(matches!(said.farewell(), Farewell::Closed), "{what}");
        } else {
            said.assert_dropped(KEY_EXCHANGE_FAILED, what);
        }
        let lax = packet(&kexinit("curve25519-sha256", cipher, false));
        say(&gateway, &after_ident(&[&lax]), false).assert_dropped(KEY_EXCHANGE_FAILED, what);
    }
    // A cipher that needs a MAC, and none; and compression before the login.
    let list = |names: &'static str| NameList::new(names.as_bytes()).expect("names");
    for (cipher, mac, compression) in
        [("aes256-ctr", "none", "none"), (GCM, "hmac-sha2-256", "zlib")]
    {
        let offer = encode(&KexInit {
            cookie: [7; 16],
            kex: list(STRICT),
            host_key: list("ssh-ed25519"),
            cipher_to_server: list(cipher),
            cipher_to_client: list(cipher),
            mac_to_server: list(mac),
            mac_to_client: list(mac),
            compression_to_server: list(compression),
            compression_to_client: list(compression),
            language_to_server: NameList::EMPTY,
            language_to_client: NameList::EMPTY,
            first_kex_packet_follows: false,
        });
        let said = say(&gateway, &after_ident(&[&packet(&offer)]), false);
        said.assert_dropped(KEY_EXCHANGE_FAILED, &format!("{cipher} {mac} {compression}"));
        let packets = said.packets();
        let ours = KexInit::parse(&packets[0]).expect("an offer");
        assert_eq!(ours.compression_to_server.as_str(), "none,zlib@openssh.com");
        let offered = [ours.cipher_to_server, ours.mac_to_client, ours.mac_to_server];
        assert!(offered.iter().all(|names| !names.contains("none")));
    }
    watch.end();
}

#[test]
fn case_19_long_lists() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let before = cpu_ticks(&gateway);
    for filler in ["curve25519-sha256", "x", "none@example.org"] {
        let names = vec![filler; 34_000 / (filler.len() + 1)].join(",");
        for _ in 0..30 {
            let offer = packet(&kexinit(&format!("{names},curve25519-sha256"), GCM, false));
            let said = say(&gateway, &after_ident(&[&offer]), true);
            assert!(matches!(said.farewell(), Farewell::Said(..) | Farewell::Closed));
        }
    }
    // Ten milliseconds each at the very most, unoptimised and with the rest of a connection.
    let spent = cpu_ticks(&gateway) - before;
    assert!(spent <= 90, "{spent} hundredths of a second");
    watch.end();
}

/// Hundredths of a second of processor time that the gateway has used.
fn cpu_ticks(gateway: &Gateway) -> u64 {
    let ticks = |pid| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split(' ').collect();
        fields[12..14].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
    };
    gateway.processes().into_iter().map(ticks).sum()
}

/// p - 1 and its neighbours on Curve25519, and points of small order (RFC 7748 §6.1).
fn bad_x25519() -> Vec<Vec<u8>> {
    let number = |first: u8, middle: u8, last: u8| {
        let mut bytes = vec![middle; 32];
        (bytes[0], bytes[31]) = (first, last);
        bytes
    };
    let order_8 = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ];
    vec![
        number(0, 0, 0),
        number(1, 0, 0),
        number(0xec, 0xff, 0x7f),
        number(0xed, 0xff, 0x7f),
        number(0xee, 0xff, 0x7f),
        number(0, 0, 0x80),
        order_8.to_vec(),
        vec![],
        vec![9; 31],
        vec![9; 33],
    ]
}

#[test]
fn cases_24_25_26_bad_public_values() {
    let curves = "KexAlgorithms +ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521";
    let gateway = Gateway::start(&[curves]);
    let watch = Watch::begin(&gateway);
    let mut rows: Vec<(&str, Vec<u8>)> = Vec::new();
    rows.extend(bad_x25519().into_iter().map(|value| ("curve25519-sha256", value)));
    for (name, size) in
        [("ecdh-sha2-nistp256", 32), ("ecdh-sha2-nistp384", 48), ("ecdh-sha2-nistp521", 66)]
    {
        let point = |first: u8, fill: u8| [&[first][..], &vec![fill; 2 * size]].concat();
        let values = [
            vec![],
            vec![0],
            point(4, 0),
            point(4, 1),
            point(4, 0xff),
            point(2, 1)[..=size].to_vec(),
            point(6, 1),
            point(4, 1)[..2 * size].to_vec(),
        ];
        rows.extend(values.map(|value| (name, value)));
    }
    let x25519 = [&[9][..], &[0; 31]].concat();
    for (name, size) in [("mlkem768x25519-sha256", 1184), ("sntrup761x25519-sha512", 1158)] {
        let halves = [
            // ML-KEM's coefficients are below 3329; every string of sntrup761's length is a key.
            [vec![if size == 1184 { 0xff } else { 0 }; size], vec![0; 32]].concat(),
            [vec![0; size], vec![0; 32]].concat(),
            [vec![0; size - 1], x25519.clone()].concat(),
            [vec![0; size + 1], x25519.clone()].concat(),
            x25519.clone(),
        ];
        rows.extend(halves.map(|value| (name, value)));
    }
    rows.push(("mlkem768x25519-sha256", [vec![0xff; 1184], x25519].concat()));
    for (kex, value) in rows {
        let said = exchange(&gateway, kex, &[public(&value)]);
        let shown = &value[..value.len().min(8)];
        assert_unsigned(&said, &format!("{kex}, {} bytes {shown:02x?}", value.len()));
    }
    watch.end();
}

#[test]
fn cases_27_28_bad_finite_fields() {
    let methods =
        "KexAlgorithms +diffie-hellman-group14-sha256,diffie-hellman-group-exchange-sha256";
    let gateway = Gateway::start(&[methods]);
    let watch = Watch::begin(&gateway);
    let group = KexKind::from_name("diffie-hellman-group14-sha256").and_then(KexKind::group);
    let prime = group.expect("a fixed group").prime();
    let mut below = prime.clone();
    *below.last_mut().expect("bytes") -= 1;
    let positive = |bytes: &[u8]| [&[0][..], bytes].concat();
    let values = [
        vec![],
        vec![1],
        positive(&below),
        positive(&prime),
        positive(&[&prime[..], &[0]].concat()),
        vec![0xff],
        vec![0, 0, 2],
        vec![0, 2],
        vec![0],
    ];
    for value in values {
        let said = exchange(&gateway, "diffie-hellman-group14-sha256", &[public(&value)]);
        assert_unsigned(&said, &format!("27: {} bytes", value.len()));
    }
    let request = |sizes: [u32; 3]| {
        let sizes = sizes.map(u32::to_be_bytes).concat();
        [&[number::KEX_DH_GEX_REQUEST][..], &sizes].concat()
    };
    let gex = "diffie-hellman-group-exchange-sha256";
    for sizes in [[4096, 2048, 8192], [0, 0, 0], [1 << 31; 3], [0, 1024, 1024], [u32::MAX; 3]] {
        let said = exchange(&gateway, gex, &[request(sizes)]);
        assert_unsigned(&said, &format!("28: {sizes:?}"));
        assert_eq!(said.packets().len(), 2, "28: no group for {sizes:?}");
    }
    // A value before there is a group.
    let mut early = public(&[2]);
    early[0] = number::KEX_DH_GEX_INIT;
    assert_unsigned(&exchange(&gateway, gex, &[early]), "28: a value too early");
    watch.end();
}

/// CVE-2002-20001: a value costs its sender nothing and the server two exponentiations.
#[test]
fn case_29_exchanges_that_cost_the_server_alone() {
    let gateway = Gateway::start(&[]);
    let asked = packet(&kexinit("curve25519-sha256", GCM, false));
    let mut offered = say(&gateway, &after_ident(&[&asked]), true).packets();
    let ours = offered.swap_remove(0);
    let kex = KexInit::parse(&ours).expect("an offer").kex;
    assert!(kex.iter().all(|name| !name.starts_with("diffie-hellman")), "off unless configured");
    drop(gateway);

    let heavy = "diffie-hellman-group18-sha512";
    let added = format!("KexAlgorithms +{heavy}");
    let gateway = Gateway::start(&[&added, "MaxStartups 6:100:6"]);
    let mut live = Peer::login(&gateway);
    // Two would be refused at a glance; anything else looks like a public value.
    let value = packet(&public(&[&[0x11][..], &noise(1000, 29)].concat()));
    let begin = after_ident(&[&packet(&kexinit(heavy, GCM, false))]);
    let flood = || {
        let mut stream = gateway.connect().expect("a connection");
        let _ = stream.write_all(&begin);
        // All that comes first is read, or leaving would be a reset that takes the value along.
        let mut heard = Vec::new();
        let mut byte = [0];
        while !heard.ends_with(b"\n") && stream.read_exact(&mut byte).is_ok() {
            heard.push(byte[0]);
        }
        if !heard.starts_with(b"SSH-") {
            return false;
        }
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("an offer");
        let mut offer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut offer).expect("an offer");
        stream.write_all(&value).expect("written");
        true
    };
    // Leaving gives no place back while the arithmetic is to be done: so much of it can be ordered
    // and no more, whoever comes and goes.
    let served = (0..60).filter(|_| flood()).count();
    assert!((5..40).contains(&served), "{served} of 60 were served\n{}", gateway.log());
    // Sessions go on meanwhile, new keys and worker threads included.
    for _ in 0..5 {
        live.assert_well();
    }
    live.rekey().expect("new keys");
    let channel = live.exec(0, "exec cat");
    live.say(&ChannelData { recipient: ChannelNumber(channel), data: b"hello" });
    while live.hear().expect("an echo")[0] != number::CHANNEL_DATA {}
    // And the places come back.
    wait_for("a place", || {
        gateway
            .ssh(&["KexAlgorithms=curve25519-sha256"], &["true"])
            .status()
            .is_ok_and(|end| end.success())
    });
}

#[test]
fn case_32_data_behind_a_kexinit() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let channel = peer.exec(0, "cat > /dev/null");
    peer.send(&good_kexinit());
    peer.say(&ChannelData { recipient: ChannelNumber(channel), data: b"x" });
    let mut rest = Vec::new();
    let _ = peer.stream.read_to_end(&mut rest);
    assert!(watch.last_line(peer.port()).contains("during a key exchange"));
    watch.end();
}

#[allow(clippy::disallowed_methods, reason = "what is paid for depends on the real clock")]
#[test]
fn case_34_rekeys_back_to_back() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let (mut done, begun) = (0, std::time::Instant::now());
    let end = loop {
        // Ten, and one more for each second that they take.
        assert!(done <= 11 + begun.elapsed().as_secs(), "{done}, and it goes on");
        match peer.rekey() {
            Ok(()) => done += 1,
            Err(end) => break end,
        }
    };
    assert!(done >= 10, "{done} at once");
    assert!(matches!(end, Farewell::Said(PROTOCOL_ERROR, _)), "{end:?}");
    assert!(watch.last_line(peer.port()).contains("too quick succession"));
    // Data pays for them.
    let mut peer = Peer::login(&gateway);
    let channel = peer.exec(0, "cat > /dev/null");
    for _ in 0..40 {
        peer.say(&ChannelData { recipient: ChannelNumber(channel), data: &[7; 16 << 10] });
        peer.rekey().expect("new keys");
    }
    drop(peer);
    watch.end();
}

#[test]
fn case_38_extensions() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let info = |count: u32| [&[number::EXT_INFO][..], &count.to_be_bytes()].concat();
    let ask = ServiceRequest { name: b"ssh-userauth" };
    let mut peer = Peer::connect(&gateway);
    peer.send(&info(u32::MAX));
    peer.assert_dropped(PROTOCOL_ERROR, "more than there are");
    let mut peer = Peer::connect(&gateway);
    for _ in 0..3 {
        peer.send(&info(0));
    }
    peer.say(&ask);
    peer.assert_dropped(PROTOCOL_ERROR, "three of them");
    // Behind the login they change nothing, however many; they must still be whole.
    let mut peer = Peer::login(&gateway);
    assert!(peer.flood(&info(0), 2000));
    peer.assert_well();
    peer.send(&info(1));
    peer.assert_dropped(PROTOCOL_ERROR, "cut short");
    watch.end();
}

#[test]
fn case_40_replayed_reordered_and_dropped() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    for (cipher, mac) in SUITES {
        // Which of three packets arrive, in which order.
        for order in [&[0, 0][..], &[1], &[1, 0], &[0, 2]] {
            let mut peer = Peer::connect_as(&gateway, Manner { cipher, mac, ..PLAIN });
            let message = encode(&ServiceRequest { name: b"ssh-userauth" });
            let packets = [(); 3].map(|()| peer.sealed(&message));
            let bytes: Vec<u8> = order.iter().flat_map(|at| packets[*at].clone()).collect();
            peer.write(&bytes);
            peer.half_close();
            let mut answers = 0;
            let end = loop {
                match peer.hear() {
                    Ok(answer) => {
                        assert_eq!(answer[0], number::SERVICE_ACCEPT);
                        answers += 1;
                    }
                    Err(end) => break end,
                }
            };
            let what = format!("{cipher:?} {mac:?} {order:?}: {end:?}");
            // A length that is encrypted becomes another under the wrong place.
            let wrong_length = matches!(end, Farewell::Said(PROTOCOL_ERROR, _) | Farewell::Closed);
            assert!(matches!(end, Farewell::Said(MAC_ERROR, _)) || wrong_length, "{what}");
            assert_eq!(answers, usize::from(order[0] == 0), "{what}");
        }
    }
    watch.end();
}
