//! SECURITY cases on negotiation and the first key exchange.

use super::harness::*;
use crate::crypto::{
    CipherKind, KexError, KexKind, KeyAlgorithm, MacKind, PrivateKey, Provider, SignatureAlgorithm,
    kex,
};
use crate::limits::NAME_LIST_BYTES_MAX;
use crate::transport::proposal::Offers;
use crate::transport::{Answer, Client, ClientConfig, Error, HostKey, Query, Server, ServerConfig};
use crate::wire::transport::{KexEcdhInit, KexEcdhReply, KexInit, NewKeys};
use crate::wire::{Malformed, Message, NameList};

/// A server that has exchanged KEXINITs with an honest client, and the client.
fn offered() -> (End<Server>, End<Client>) {
    let mut pair = Pair::new(client_config(), server_config());
    pair.server.answers = false;
    // Identifications and KEXINITs, both ways; the client's public value stays on its way.
    pair.deliver_to_server(usize::MAX);
    pair.deliver_to_client(usize::MAX);
    assert_eq!((&pair.server.error, &pair.client.error), (&None, &None));
    (pair.server, pair.client)
}

/// Every message that is legal at another time, and some that never are.
const TWELVE: [&[u8]; 12] = [
    &[2, 0, 0, 0, 0],
    &[3, 0, 0, 0, 0],
    &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[5, 0, 0, 0, 0],
    &[6, 0, 0, 0, 0],
    &[7, 0, 0, 0, 0],
    &[21],
    &[31, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[50, 0],
    &[80, 0],
    &[94, 0],
    &[192, 0, 0, 0, 0],
];

#[test]
fn case_11_trailing_bytes_in_kexinit() {
    let mut offer = client_offer(|_| ());
    offer.push(0);
    let mut server = greeted_server();
    server.feed(&plain(&offer));
    let why = Malformed::TrailingData;
    assert_eq!(server.fails_with(2), Error::Malformed { message: 20, why });
}

/// Case 12: all 256 numbers in each state of a live transport; what is not expected ends it or goes
/// unheeded, and nothing is delivered before there are keys.
#[test]
fn case_12_every_number_in_every_state_of_both_roles() {
    for number in 0..=255u8 {
        for body in [&[][..], &[0; 40]] {
            let payload = [&[number][..], body].concat();
            let mut server = greeted_server();
            server.feed(&plain(&payload));
            let mut client = greeted_client();
            client.feed(&plain(&payload));
            assert_eq!(server.error.is_none(), (2..=4).contains(&number), "{number}");
            assert_eq!(client.error.is_none(), (2..=4).contains(&number), "{number}");

            let (mut server, mut client) = offered();
            server.feed(&plain(&payload));
            assert!(server.error.is_some() && server.delivered.is_empty(), "{number}");
            client.feed(&plain(&payload));
            assert!(client.error.is_some() && client.delivered.is_empty(), "{number}");
        }
    }
    for number in 0..=255u8 {
        let mut pair = Pair::established();
        pair.client.inject(&[number]);
        pair.server.inject(&[number]);
        pair.settle();
        let fatal = matches!(number, 1 | 7 | 20 | 21 | 30..=49 | 192);
        assert_eq!(pair.server.error.is_some(), fatal, "{number}");
        let delivered = matches!(number, 5 | 6 | 50..=191 | 194..=255);
        assert_eq!(pair.server.delivered.len(), usize::from(delivered), "{number}");
        if !fatal {
            assert_eq!(pair.client.delivered.len(), usize::from(delivered), "{number}");
            pair.expect_alive();
        }
    }
}

#[test]
fn case_13_terrapin_nothing_fits_before_or_inside_strict_key_exchange() {
    for intruder in TWELVE {
        // In front of KEXINIT.
        let mut server = greeted_server();
        server.feed(&plain(intruder));
        server.feed(&plain(&client_offer(|_| ())));
        server.fails_with(2);
        let mut client = greeted_client();
        client.feed(&plain(intruder));
        client.feed(&plain(&server_offer(|_| ())));
        client.fails_with(2);
        // Between KEXINIT and the public value.
        let (mut server, mut client) = offered();
        server.feed(&plain(intruder));
        server.fails_with(2);
        client.feed(&plain(intruder));
        assert!(client.error.is_some() && client.queries == 0, "{intruder:?}");
        // Between the public value and NEWKEYS.
        let (mut server, mut client) = offered();
        server.answers = true;
        server.feed(&client.outbox.split_off(0));
        let reply = server.outbox.split_off(0);
        let length = u32::from_be_bytes(reply[..4].try_into().expect("four")) as usize + 4;
        client.feed(&reply[..length]);
        if intruder != [21] {
            client.feed(&plain(intruder));
            client.fails_with(2);
            server.feed(&plain(intruder));
            server.fails_with(2);
        }
    }
}

#[test]
fn case_14_the_marker_counts_in_the_first_kexinit_alone() {
    // A peer without strict key exchange may say IGNORE first ..
    let plain_offer = client_offer(|offer| offer.kex = names("curve25519-sha256"));
    let mut server = greeted_server();
    server.feed(&plain(&[2, 0, 0, 0, 0]));
    server.feed(&plain(&plain_offer));
    assert_eq!(server.error, None);
    // .. and cannot become strict afterwards.
    let mut pair = lax_pair(|_| ());
    pair.settle();
    pair.expect_alive();
    assert!(!pair.server.transport.negotiated().expect("established").strict);
    let seq = pair.server.transport.wires.inbound.wear.counters.seq();
    assert!(seq >= 3, "sequence numbers go on: {seq}");
    pair.client.call(|transport, env| transport.rekey(env)).expect("alive");
    pair.settle();
    pair.expect_alive();
    assert!(pair.server.transport.wires.inbound.wear.counters.seq() > seq);
}

/// A client whose first offer says nothing of strict key exchange, against an ordinary server.
fn lax_pair(change: impl FnOnce(&mut KexInit<'_>)) -> Pair {
    let mut pair = Pair::new(client_config(), server_config());
    pair.client.reoffer(|offer| {
        offer.kex = names("curve25519-sha256,ext-info-c");
        change(offer);
    });
    pair
}

/// A proxy that inserts IGNORE early to be able to delete EXT_INFO later (CVE-2023-48795).
#[test]
fn case_15_prefix_truncation_fails() {
    for cipher in CipherKind::ALL {
        for strict in [true, false] {
            let (mut client, mut server) = (client_config(), server_config());
            client.preferences.ciphers = vec![*cipher];
            client.preferences.allow_exposed_chacha = true;
            server.preferences.allow_exposed_chacha = true;
            let mut pair = Pair::new(client, server);
            if !strict {
                pair.client.reoffer(|offer| offer.kex = names("curve25519-sha256,ext-info-c"));
            }
            pair.deliver_to_server(usize::MAX);
            // The server's line and KEXINIT, then one packet more than it sent.
            let first = pair.server.outbox.split_off(0);
            pair.client.feed(&first);
            pair.client.feed(&plain(&[2, 0, 0, 0, 0]));
            pair.deliver_to_server(usize::MAX);
            let rest = pair.server.outbox.split_off(0);
            // Reply and NEWKEYS pass; the first packet behind them is lost.
            let mut kept = 0;
            for _ in 0..2 {
                let length = rest[kept..].first_chunk::<4>().expect("a packet");
                kept += u32::from_be_bytes(*length) as usize + 4;
            }
            pair.client.feed(&rest[..kept]);
            pair.settle();
            if strict {
                assert!(pair.client.error.is_some(), "{cipher:?}");
                continue;
            }
            // Without strict key exchange it is the tag that notices, or under CTR the plaintext
            // that turns to noise, but not under ChaCha20, whose nonce is the sequence number:
            // case 17 refuses it.
            assert_eq!(pair.client.error, None);
            pair.server.send(&[90; 30]).expect("sent");
            pair.settle();
            let exposed = *cipher == CipherKind::Chacha20Poly1305;
            let fooled = pair.client.delivered.contains(&vec![90; 30]);
            assert_eq!(fooled, exposed, "{cipher:?}");
        }
    }
}

#[test]
fn case_16_strictness_begins_with_the_second_kexinit() {
    let mut server = greeted_server();
    server.feed(&plain(&client_offer(|_| ())));
    assert_eq!(server.error, None);
    server.feed(&plain(&[2, 0, 0, 0, 0]));
    server.fails_with(2);

    let mut lax = greeted_server();
    lax.feed(&plain(&client_offer(|offer| offer.kex = names("curve25519-sha256"))));
    lax.feed(&plain(&[2, 0, 0, 0, 0]));
    assert_eq!(lax.error, None);
}

#[test]
fn case_17_chacha_needs_strict_key_exchange() {
    let chacha = "chacha20-poly1305@openssh.com,aes128-ctr";
    let offer = |offer: &mut KexInit<'_>| {
        offer.cipher_to_server = names(chacha);
        offer.cipher_to_client = names(chacha);
    };
    let mut pair = lax_pair(offer);
    pair.settle();
    let error = pair.server.fails_with(3);
    assert!(matches!(error, Error::PeerIncompatible(_)), "{error}");

    // Unless somebody said so.
    let (mut client, mut server) = (client_config(), server_config());
    client.preferences.ciphers = vec![CipherKind::Chacha20Poly1305];
    client.preferences.allow_exposed_chacha = true;
    server.preferences.allow_exposed_chacha = true;
    let mut pair = Pair::new(client, server);
    pair.client.reoffer(|offer| offer.kex = names("curve25519-sha256"));
    pair.settle();
    pair.expect_alive();

    // A server that has seen the offer first leaves the cipher out and finds another.
    let server = ServerConfig { steers: true, ..server_config() };
    let mut pair = Pair::new(client_config(), server);
    pair.client.reoffer(|change| {
        change.kex = names("curve25519-sha256");
        offer(change);
    });
    pair.settle();
    pair.expect_alive();
    let negotiated = pair.server.transport.negotiated().expect("established");
    assert_eq!(negotiated.to_server.cipher(), CipherKind::Aes128Ctr);
}

#[test]
fn case_18_nothing_comes_twice_or_early() {
    // Two KEXINIT.
    let mut server = greeted_server();
    server.feed(&plain(&client_offer(|_| ())));
    server.feed(&plain(&client_offer(|_| ())));
    server.fails_with(2);
    // Early NEWKEYS.
    let mut server = greeted_server();
    server.feed(&plain(&[21]));
    server.fails_with(2);
    let (mut server, mut client) = offered();
    server.feed(&plain(&[21]));
    server.fails_with(2);
    client.feed(&plain(&[21]));
    client.fails_with(2);
    // Two public values.
    let (mut server, mut client) = offered();
    server.answers = true;
    let init = client.outbox.split_off(0);
    server.feed(&init);
    assert_eq!(server.error, None);
    server.feed(&init);
    server.fails_with(2);
    // Two NEWKEYS, and one out of nowhere.
    let mut pair = Pair::established();
    pair.client.inject_message(&NewKeys);
    pair.settle();
    pair.server.fails_with(2);
    // NEWKEYS with a body.
    let (mut server, mut client) = offered();
    server.answers = true;
    server.feed(&client.outbox.split_off(0));
    server.feed(&plain(&[21, 0]));
    server.fails_with(2);
}

#[test]
fn case_19_long_lists_are_read_once() {
    let thousand = vec!["aes128-gcm@openssh.com"; 700].join(",");
    let list = NameList::new(thousand.as_bytes()).expect("valid");
    let offer = client_offer(|_| ());
    let honest = KexInit::parse(&offer).expect("an offer");
    let message = KexInit { cipher_to_server: list, cipher_to_client: list, ..honest };
    let mut server = greeted_server();
    server.feed(&plain(&encoded(&message)));
    assert_eq!(server.error, None);

    // The worst there is room for: thousands of names nobody knows, in every list.
    let strange = vec!["a"; 1600].join(",");
    let strange = NameList::new(strange.as_bytes()).expect("valid");
    let all = KexInit {
        kex: strange,
        host_key: strange,
        cipher_to_server: strange,
        cipher_to_client: strange,
        mac_to_server: strange,
        mac_to_client: strange,
        compression_to_server: strange,
        compression_to_client: strange,
        ..honest
    };
    let mut server = greeted_server();
    server.feed(&plain(&encoded(&all)));
    let error = server.fails_with(3).to_string();
    assert!(error.len() < 1000, "errors quote in moderation: {}", error.len());

    let endless = vec![b'a'; NAME_LIST_BYTES_MAX as usize + 1];
    let list = NameList::new(&endless).expect("valid");
    let mut server = greeted_server();
    server.feed(&plain(&encoded(&KexInit { kex: list, ..honest })));
    let why = Malformed::OverLimit;
    assert_eq!(server.fails_with(2), Error::Malformed { message: 20, why });
}

#[test]
fn case_20_truncated_offers_and_no_common_ground() {
    let offer = client_offer(|_| ());
    for len in [1, 16, 17, 40, offer.len() - 1] {
        let mut server = greeted_server();
        server.feed(&plain(&offer[..len]));
        assert!(matches!(server.fails_with(2), Error::Malformed { message: 20, .. }));
    }
    type Change = fn(&mut KexInit<'_>);
    let rows: [(Change, &str); 8] = [
        (|offer| offer.kex = names("diffie-hellman-group1-sha1"), "key exchange method"),
        (|offer| offer.kex = names("kex-strict-s-v00@openssh.com"), "key exchange method"),
        (|offer| offer.kex = NameList::EMPTY, "key exchange method"),
        (|offer| offer.host_key = names("ssh-dss,ssh-rsa"), "host key algorithm"),
        (|offer| offer.cipher_to_server = names("none,aes128-cbc"), "cipher"),
        (|offer| offer.cipher_to_client = names("arcfour"), "cipher"),
        (
            |offer| {
                offer.cipher_to_server = names("aes128-ctr");
                offer.mac_to_server = names("none,hmac-md5");
            },
            "MAC",
        ),
        (|offer| offer.compression_to_client = names("zlib"), "compression"),
    ];
    for (change, what) in rows {
        let mut server = greeted_server();
        server.feed(&plain(&client_offer(change)));
        let error = server.fails_with(3).to_string();
        assert!(error.starts_with(&format!("no common {what}: the peer offers")), "{error}");
    }
}

#[test]
fn case_20_a_wrong_guess_costs_exactly_one_packet() {
    [false, true].into_iter().for_each(wrong_guesses);
}

/// Before a server that has sent its KEXINIT already, or waits for the client's.
fn wrong_guesses(steers: bool) {
    let greeted_server = || {
        let mut server = End::<Server>::new(ServerConfig { steers, ..server_config() }, 5);
        server.feed(b"SSH-2.0-Peer\r\n");
        server
    };
    let guess = plain(&[30, 0, 0, 0, 1, 7]);
    // Another first method: the guess is wrong, whatever is agreed in the end.
    let wrong = |offer: &mut KexInit<'_>| {
        offer.kex = names("ecdh-sha2-nistp256,kex-strict-c-v00@openssh.com");
        offer.first_kex_packet_follows = true;
    };
    let (_, public) = crate::crypto::KexSecret::generate(
        KexKind::EcdhP256,
        &mut End::<Client>::new(client_config(), 1).entropy,
    )
    .expect("a key");
    let init = plain(&encoded(&KexEcdhInit { client_public: &public }));
    let ready = |change: fn(&mut KexInit<'_>)| {
        let mut server = greeted_server();
        server.answers = false;
        server.feed(&plain(&client_offer(change)));
        server
    };
    let mut server = ready(wrong);
    server.feed(&guess);
    assert!(server.error.is_none() && server.transport.query().is_none());
    server.feed(&init);
    assert!(server.error.is_none() && server.transport.query().is_some());
    let mut server = ready(wrong);
    server.feed(&guess);
    server.feed(&guess);
    server.fails_with(3);
    // NEWKEYS is no guess.
    let mut server = ready(wrong);
    server.feed(&plain(&[21]));
    server.fails_with(2);

    // A right guess is the packet itself.
    let mut server = ready(|offer| offer.first_kex_packet_follows = true);
    server.feed(&guess);
    server.fails_with(3);

    // Another first host key algorithm spoils it too.
    let mut server = ready(|offer| {
        offer.first_kex_packet_follows = true;
        offer.host_key = names("ecdsa-sha2-nistp256");
    });
    server.feed(&guess);
    assert_eq!(server.error, None);
}

#[test]
fn case_21_roles_are_not_confused() {
    for number in [31, 32, 33, 34] {
        let (mut server, _) = offered();
        server.feed(&plain(&[number, 0, 0, 0, 0]));
        server.fails_with(2);
    }
    for number in [30, 32, 33, 34] {
        let (_, mut client) = offered();
        client.feed(&plain(&[number, 0, 0, 0, 0]));
        client.fails_with(2);
    }
}

/// Plays the server's half of a key exchange by hand.
struct Forger {
    client: End<Client>,
    offer: Vec<u8>,
}

impl Forger {
    fn new(config: ClientConfig) -> Forger {
        let mut client = End::<Client>::new(config, 12);
        client.feed(b"SSH-2.0-Server_1 test\r\n");
        let offer = server_offer(|_| ());
        client.feed(&plain(&offer));
        assert_eq!(client.error, None);
        Forger { client, offer }
    }

    /// Replies with this host key blob, signing the hash over `hashed` with `signer`.
    fn reply(
        &mut self,
        blob: &[u8],
        hashed: &[u8],
        signer: &PrivateKey,
        algorithm: SignatureAlgorithm,
        tamper: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>),
    ) {
        let sent = &self.client.outbox;
        let line = sent.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        let (theirs, rest) = unwrap(&sent[line..]);
        let (init, _) = unwrap(rest);
        let init = KexEcdhInit::parse(init).expect("an init");
        let offers = Offers {
            client: KexInit::parse(theirs).expect("an offer"),
            server: KexInit::parse(&self.offer).expect("an offer"),
            we_serve: true,
        };
        let kind = offers.settle(true).expect("common ground").kex;
        let (mut public, secret) =
            kex::respond(kind, init.client_public, &mut self.client.entropy).expect("honest");
        let mut hasher = kind.hash().hasher();
        for part in [
            &b"SSH-2.0-Client_1"[..],
            b"SSH-2.0-Server_1 test",
            theirs,
            &self.offer,
            hashed,
            init.client_public,
            &public,
        ] {
            hasher.update_string(part);
        }
        hasher.update(secret.encoded());
        let mut signature = signer.sign(algorithm, hasher.finish().as_ref()).expect("signed");
        tamper(&mut public, &mut signature);
        let reply = KexEcdhReply { host_key: blob, server_public: &public, signature: &signature };
        self.client.feed(&plain(&encoded(&reply)));
    }
}

fn unwrap(packet: &[u8]) -> (&[u8], &[u8]) {
    let length = u32::from_be_bytes(packet[..4].try_into().expect("four")) as usize;
    (&packet[5..4 + length - packet[4] as usize], &packet[4 + length..])
}

#[test]
fn case_23_the_host_key_is_of_the_agreed_kind_and_signed() {
    let ed25519 = &HOST_KEYS[0];
    let ecdsa = &HOST_KEYS[1];
    let blob = ed25519.public().blob();
    let algorithm = SignatureAlgorithm::Ed25519;
    let keep = |_: &mut Vec<u8>, _: &mut Vec<u8>| ();

    let mut forger = Forger::new(client_config());
    forger.reply(blob, blob, ed25519, algorithm, keep);
    assert_eq!((forger.client.error, forger.client.queries), (None, 1), "the forger can play fair");

    let other = ecdsa.public().blob();
    let mut forger = Forger::new(client_config());
    forger.reply(other, other, ecdsa, SignatureAlgorithm::EcdsaP256, keep);
    assert!(matches!(forger.client.fails_with(9), Error::HostKey(_)));
    assert_eq!(forger.client.queries, 0, "nobody is asked about a key that proves nothing");

    let mut forger = Forger::new(client_config());
    forger.reply(blob, other, ed25519, algorithm, keep);
    forger.client.fails_with(9);

    let mut forger = Forger::new(client_config());
    forger.reply(blob, blob, ed25519, algorithm, |_, signature| {
        *signature.last_mut().expect("bytes") ^= 1;
    });
    forger.client.fails_with(9);

    let mut forger = Forger::new(client_config());
    forger.reply(&blob[..blob.len() - 1], blob, ed25519, algorithm, keep);
    forger.client.fails_with(9);

    let mut forger = Forger::new(client_config());
    forger.reply(blob, blob, ed25519, algorithm, |public, _| public.truncate(31));
    assert!(matches!(forger.client.fails_with(3), Error::KeyExchange(_)));
}

/// Cases 24 to 26 and 31: the crypto floor judges the values; here nothing is signed for a bad one.
#[test]
fn case_24_to_26_no_signature_for_a_bad_public_value() {
    let mut low = vec![0; 32];
    low[0] = 1;
    type Check = fn(&Error) -> bool;
    let rows: [(&str, Vec<u8>, Check); 7] = [
        ("curve25519-sha256", vec![0; 32], |e| *e == Error::KeyExchange(KexError::LowOrder)),
        ("curve25519-sha256", low, |e| *e == Error::KeyExchange(KexError::LowOrder)),
        ("curve25519-sha256", vec![9; 31], |e| *e == Error::KeyExchange(KexError::Length)),
        ("curve25519-sha256", vec![], |e| *e == Error::KeyExchange(KexError::Length)),
        ("ecdh-sha2-nistp256", vec![4; 65], |e| matches!(e, Error::KeyExchange(_))),
        ("ecdh-sha2-nistp521", vec![0], |e| matches!(e, Error::KeyExchange(_))),
        ("mlkem768x25519-sha256", vec![0xff; 1216], |e| matches!(e, Error::KeyExchange(_))),
    ];
    for (method, public, expected) in rows {
        let mut server = greeted_server();
        server.feed(&plain(&client_offer(|offer| {
            offer.kex = NameList::new(method.as_bytes()).expect("valid");
        })));
        server.feed(&plain(&encoded(&KexEcdhInit { client_public: &public })));
        let error = server.fails_with(3);
        assert!(expected(&error), "{method}: {error}");
        assert_eq!(server.queries, 0, "{method}");
    }
}

#[test]
fn case_31_a_signer_that_fails_ends_one_connection() {
    let (mut server, mut client) = offered();
    server.feed(&client.outbox.split_off(0));
    assert!(matches!(server.transport.query(), Some(Query::Sign { host_key: 0, .. })));
    let answered = server.call(|transport, env| transport.answer(Answer::Signature(None), env));
    assert_eq!(answered, Err(Error::Signer));
    assert!(server.transport.query().is_none());
    let again = server.call(|transport, env| transport.answer(Answer::Signature(None), env));
    assert_eq!(again, Err(Error::Signer));
    client.feed(&server.outbox.split_off(0));
    assert!(matches!(client.error, Some(Error::Disconnected { code: 3, .. })));
}

#[test]
fn a_dead_line_ends_a_first_exchange_but_not_while_a_human_thinks() {
    let mut pair = Pair::new(client_config(), server_config());
    pair.client.answers = false;
    let deadline = pair.client.transport.poll_timeout().expect("a client watches the clock");
    pair.settle();
    assert!(matches!(pair.client.transport.query(), Some(Query::TrustHostKey { .. })));
    assert_eq!(pair.client.transport.poll_timeout(), None);
    pair.client.now = deadline;
    pair.client.call(|transport, env| transport.handle_timeout(env)).expect("patience");
    pair.client.answers = true;
    pair.settle();
    pair.expect_alive();

    let mut client = End::<Client>::new(client_config(), 4);
    client.now = deadline;
    let ended = client.call(|transport, env| transport.handle_timeout(env));
    assert!(matches!(ended, Err(Error::Deadline(_))));
}

#[test]
fn the_clients_order_decides_and_an_aead_needs_no_mac() {
    let offer = client_offer(|offer| {
        offer.kex = names("x,curve25519-sha256@libssh.org,mlkem768x25519-sha256");
        offer.host_key = names("rsa-sha2-512,ecdsa-sha2-nistp256,ssh-ed25519");
        offer.cipher_to_server = names("aes256-ctr,aes128-gcm@openssh.com");
        offer.cipher_to_client = names("aes256-gcm@openssh.com");
        offer.mac_to_server = names("hmac-sha2-512,hmac-sha2-256-etm@openssh.com");
        offer.mac_to_client = names("nothing");
    });
    let server = server_offer(|_| ());
    let offers = Offers {
        client: KexInit::parse(&offer).expect("an offer"),
        server: KexInit::parse(&server).expect("an offer"),
        we_serve: true,
    };
    let settled = offers.settle(false).expect("common ground");
    assert_eq!(settled.kex_name, "curve25519-sha256@libssh.org");
    assert_eq!(settled.host_key, KeyAlgorithm::plain(SignatureAlgorithm::EcdsaP256));
    assert_eq!(settled.to_server.cipher(), CipherKind::Aes256Ctr);
    assert_eq!(settled.to_server.mac(), MacKind::HmacSha512);
    assert_eq!(settled.to_client.cipher(), CipherKind::Aes256Gcm);
    assert_eq!(settled.to_client.mac(), MacKind::Implicit);
}

#[test]
fn only_what_the_provider_has_is_offered() {
    let mut config = server_config();
    config.preferences.provider = Provider::Toy;
    config.preferences.ciphers = vec![CipherKind::Aes128Ctr, CipherKind::Toy];
    let of_ed25519 = |a: &KeyAlgorithm| a.signature == SignatureAlgorithm::Ed25519;
    config.host_keys = vec![HostKey {
        public: HOST_KEYS[0].public().clone(),
        certificate: None,
        // Without a certificate the first of them is not to be had.
        algorithms: KeyAlgorithm::ALL.iter().copied().filter(of_ed25519).collect(),
    }];
    let server = End::<Server>::new(config, 1);
    let line = server.outbox.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    let (offer, rest) = unwrap(&server.outbox[line..]);
    let offer = KexInit::parse(offer).expect("an offer");
    assert!(rest.is_empty() && !offer.first_kex_packet_follows);
    assert_eq!(offer.cipher_to_client.as_str(), CipherKind::Toy.name());
    assert_eq!(offer.host_key.as_str(), "ssh-ed25519");
    assert_eq!(offer.compression_to_server.as_str(), "none");
    assert_eq!(offer.kex.iter().last(), Some("kex-strict-s-v00@openssh.com"));
}
