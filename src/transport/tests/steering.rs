//! Which cipher a client is led to, in the first key exchange and in those after it.

use super::harness::*;
use crate::crypto::CipherKind;
use crate::limits::KEXINIT_WAIT_MAX;
use crate::transport::{Client, Server, ServerConfig, TransportRecord};
use crate::wire::Message;
use crate::wire::transport::KexInit;

const GCM_128: &str = "aes128-gcm@openssh.com";
const CHACHA: &str = "chacha20-poly1305@openssh.com";
/// A stock OpenSSH client's order.
const STOCK: &str = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,\
                     aes128-ctr,aes192-ctr,aes256-ctr";

fn steering() -> ServerConfig {
    ServerConfig { steers: true, ..server_config() }
}

/// A client that offers these ciphers for either direction.
fn offering(ciphers: [&'static str; 2], server: ServerConfig) -> Pair {
    let mut pair = Pair::new(client_config(), server);
    pair.client.reoffer(|offer| {
        offer.cipher_to_server = names(ciphers[0]);
        offer.cipher_to_client = names(ciphers[1]);
    });
    pair
}

fn agreed(pair: &Pair) -> [&'static str; 2] {
    pair.expect_alive();
    let negotiated = pair.server.transport.negotiated().expect("established");
    [negotiated.to_server.cipher().name(), negotiated.to_client.cipher().name()]
}

/// A server that has heard nothing but an identification.
fn patient() -> End<Server> {
    let mut server = End::<Server>::new(steering(), 3);
    server.feed(b"SSH-2.0-Client_1\r\n");
    server.outbox.clear();
    server
}

#[test]
fn whoever_knows_aes_gcm_is_led_to_it() {
    for (offer, expected) in [
        (STOCK, GCM_128),
        ("chacha20-poly1305@openssh.com,aes256-gcm@openssh.com", "aes256-gcm@openssh.com"),
        // Later clients with AES in counter mode first, as PuTTY has it.
        ("aes256-ctr,chacha20-poly1305@openssh.com,aes128-gcm@openssh.com", GCM_128),
        (CHACHA, CHACHA),
        ("chacha20-poly1305@openssh.com,aes128-ctr", CHACHA),
        ("aes256-ctr", "aes256-ctr"),
    ] {
        let mut pair = offering([offer; 2], steering());
        pair.settle();
        assert_eq!(agreed(&pair), [expected; 2], "{offer}");
        assert!(pair.server.transport.negotiated().expect("established").strict);
    }
    // Each direction by itself.
    let mut pair = offering([STOCK, CHACHA], steering());
    pair.settle();
    assert_eq!(agreed(&pair), [GCM_128, CHACHA]);
}

#[test]
fn nobody_is_led_to_what_the_server_does_not_offer_or_want() {
    let mut without = steering();
    without.preferences.ciphers = vec![CipherKind::Chacha20Poly1305, CipherKind::Aes128Ctr];
    for server in [without, server_config()] {
        let mut pair = offering([STOCK; 2], server);
        pair.settle();
        assert_eq!(agreed(&pair), [CHACHA; 2]);
    }
}

#[test]
fn a_client_that_waits_gets_every_cipher() {
    let mut server = patient();
    let at = server.transport.poll_timeout().expect("a timer");
    assert_eq!(at, server.now.after(KEXINIT_WAIT_MAX));
    server.now = at;
    server.call(|transport, env| transport.handle_timeout(env)).expect("on time");
    let offer = payload_of(&server.outbox);
    let offer = KexInit::parse(&offer).expect("an offer");
    assert!(offer.cipher_to_server.contains(CHACHA) && offer.cipher_to_client.contains(CHACHA));
    assert!(offer.cipher_to_server.contains(GCM_128));
}

/// The payload of one packet in clear.
fn payload_of(packet: &[u8]) -> Vec<u8> {
    let length = u32::from_be_bytes(packet[..4].try_into().expect("four")) as usize;
    packet[5..4 + length - packet[4] as usize].to_vec()
}

/// Whoever begins, and wherever the connection goes on, a later exchange stays with the family of
/// ciphers of the first.
#[test]
fn later_exchanges_keep_to_the_family() {
    // Served before its own KEXINIT came, this client has chosen by its own order.
    let mut late = Pair::new(client_config(), steering());
    late.client.preferences_of_stock();
    late.server.feed(b"SSH-2.0-Client_1\r\n");
    late.server.now = late.server.transport.poll_timeout().expect("a timer");
    late.server.call(|transport, env| transport.handle_timeout(env)).expect("on time");
    let line = late.client.outbox.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    late.client.outbox.drain(..line);
    late.settle();
    let mut led = Pair::new(client_config(), steering());
    led.client.preferences_of_stock();
    led.settle();
    for (mut pair, expected) in [(late, CHACHA), (led, GCM_128)] {
        assert_eq!(agreed(&pair), [expected; 2]);
        pair.client.transport.authenticated();
        pair.server.transport.authenticated();
        for round in 0..6 {
            match round % 3 {
                0 => pair.client.rekey(),
                1 => pair.server.rekey(),
                _ => {
                    pair.client.rekey();
                    pair.server.rekey();
                }
            }
            pair.settle();
            assert_eq!(agreed(&pair), [expected; 2], "round {round}");
            let record = pair.server.transport.export().expect("quiet");
            let record = TransportRecord::from_bytes(&record.to_bytes().expect("room"));
            let (config, now) = (pair.server.transport.config.clone(), pair.server.now);
            let moved = crate::transport::Transport::import(config, record.expect("whole"), now);
            pair.server.transport = moved.expect("imported");
        }
        assert_eq!(pair.server.transport.exchanges(), 7);
    }
}

impl End<Client> {
    /// Offers what OpenSSH does, in this exchange and in later ones.
    fn preferences_of_stock(&mut self) {
        self.reoffer(|offer| {
            offer.cipher_to_server = names(STOCK);
            offer.cipher_to_client = names(STOCK);
        });
        let config = std::sync::Arc::make_mut(&mut self.transport.config);
        let names = STOCK.split(',').map(|name| CipherKind::from_name(name).expect("known"));
        config.preferences.ciphers = names.collect();
    }
}

/// Strict key exchange holds while we wait: nothing comes before KEXINIT and nothing out of turn
/// behind it, and we answer nothing meanwhile.
#[test]
fn case_13_waiting_makes_strict_key_exchange_no_laxer() {
    for intruder in
        [&[2, 0, 0, 0, 0][..], &[21], &[30, 0, 0, 0, 1, 7], &[50, 0], &[192, 0, 0, 0, 0]]
    {
        let mut server = patient();
        server.feed(&plain(intruder));
        assert!(server.error.is_some() || server.outbox.is_empty(), "{intruder:?}");
        server.feed(&plain(&client_offer(|_| ())));
        server.fails_with(2);
    }
    let mut server = patient();
    server.answers = false;
    server.feed(&plain(&client_offer(|_| ())));
    assert_eq!((server.error.clone(), server.outbox[5]), (None, 20));
    server.feed(&plain(&[2, 0, 0, 0, 0]));
    server.fails_with(2);
}
