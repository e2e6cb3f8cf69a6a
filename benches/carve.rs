//! One packet through two transports in memory: framed and sealed at one end, carved and opened at
//! the other, both in place. What it costs beyond `seal` and `open` is the transport's own share;
//! the toy cipher, which hardly works, shows it bare.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::base::{Instant, SeededEntropy};
use tidegate::crypto::{
    CipherKind, KexKind, KeyKind, MacKind, PrivateKey, Provider, SignatureAlgorithm,
};
use tidegate::limits::{OUTBOX_RESERVE, REKEY_BYTES_MAX};
use tidegate::transport::{
    Answer, Carved, Client, ClientConfig, Env, HostKey, Outbox, Preferences, Query, Role, Server,
    ServerConfig, Transport,
};

/// A key press and a full data packet.
const PAYLOAD_BYTES: [u32; 2] = [32, 32 * 1024];

const CIPHERS: [CipherKind; 5] = [
    CipherKind::Toy,
    CipherKind::Aes128Gcm,
    CipherKind::Aes256Gcm,
    CipherKind::Chacha20Poly1305,
    CipherKind::Aes128Ctr,
];

fn round_trip(c: &mut Criterion) {
    for cipher in CIPHERS {
        let mut group = c.benchmark_group(format!("carve/{}", cipher.name()));
        for payload in PAYLOAD_BYTES {
            let (mut client, mut server) = established(cipher);
            let mut packet = vec![94; client.geometry().wire_len(payload) as usize];
            let mut space = vec![0; OUTBOX_RESERVE as usize];
            let mut entropy = SeededEntropy::new(3);
            group.throughput(Throughput::Bytes(u64::from(payload)));
            group.bench_function(BenchmarkId::from_parameter(payload), |b| {
                b.iter(|| {
                    client.seal(black_box(&mut packet), payload, &mut entropy).expect("ready");
                    let out = Outbox::new(&mut space, 0);
                    let mut env = Env { now: Instant::ZERO, entropy: &mut entropy, out };
                    let carved = server.carve(&mut env, black_box(&mut packet)).expect("honest");
                    assert!(matches!(carved, Carved::Payload { .. }));
                });
            });
        }
        group.finish();
    }
}

/// What a reader pays for calling too early: the answer to "is it all there yet".
fn partial(c: &mut Criterion) {
    let (mut client, mut server) = established(CipherKind::Aes128Gcm);
    let mut entropy = SeededEntropy::new(3);
    let mut packet = vec![94; client.geometry().wire_len(32 * 1024) as usize];
    client.seal(&mut packet, 32 * 1024, &mut entropy).expect("ready");
    let mut space = vec![0; OUTBOX_RESERVE as usize];
    c.bench_function("carve/partial", |b| {
        b.iter(|| {
            let out = Outbox::new(&mut space, 0);
            let mut env = Env { now: Instant::ZERO, entropy: &mut entropy, out };
            let half = black_box(&mut packet[..16 * 1024]);
            assert!(matches!(server.carve(&mut env, half), Ok(Carved::Need { .. })));
        });
    });
}

fn established(cipher: CipherKind) -> (Transport<Client>, Transport<Server>) {
    let mut preferences = Preferences::default();
    if cipher == CipherKind::Toy {
        preferences.provider = Provider::Toy;
    }
    preferences.kex = vec![KexKind::Toy];
    preferences.ciphers = vec![cipher];
    preferences.macs = vec![MacKind::HmacSha256Etm];
    preferences.rekey.bytes = Some(REKEY_BYTES_MAX);
    let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    let host_keys = vec![HostKey::new(key.public().clone())];
    let config = ServerConfig::new(preferences.clone(), host_keys);
    let mut server = Transport::new(Arc::new(config));
    let mut client = Transport::new(Arc::new(ClientConfig::new(preferences)));
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    call(&mut client, &mut to_server, |client, env| client.start(env).expect("started"));
    call(&mut server, &mut to_client, |server, env| server.start(env).expect("started"));
    while !(to_server.is_empty() && to_client.is_empty()) {
        feed(&mut server, &mut to_server, &mut to_client, &key);
        feed(&mut client, &mut to_client, &mut to_server, &key);
    }
    client.authenticated();
    server.authenticated();
    assert!(client.is_ready() && server.is_ready());
    (client, server)
}

fn feed<R: Role>(end: &mut Transport<R>, inbox: &mut Vec<u8>, out: &mut Vec<u8>, key: &PrivateKey) {
    loop {
        let answer = match end.query() {
            Some(Query::Sign { message, .. }) => {
                let signature = key.sign(SignatureAlgorithm::Ed25519, message.as_ref());
                Some(Answer::Signature(Some(signature.expect("signed").into())))
            }
            Some(Query::TrustHostKey { .. }) => Some(Answer::Trust(true)),
            Some(Query::Agree { .. } | Query::Compute) | None => None,
        };
        if let Some(answer) = answer {
            call(end, out, |end, env| end.answer(answer, env).expect("honest"));
        }
        match call(end, out, |end, env| end.carve(env, inbox).expect("honest")) {
            Carved::Need { .. } => return,
            Carved::Handled { used } | Carved::Payload { used, .. } | Carved::Unpacked { used } => {
                inbox.drain(..used as usize);
            }
        }
    }
}

fn call<R: Role, T>(
    end: &mut Transport<R>,
    out: &mut Vec<u8>,
    f: impl FnOnce(&mut Transport<R>, &mut Env<'_>) -> T,
) -> T {
    let mut space = vec![0; OUTBOX_RESERVE as usize];
    let mut entropy = SeededEntropy::new(1);
    let mut env =
        Env { now: Instant::ZERO, entropy: &mut entropy, out: Outbox::new(&mut space, 0) };
    let result = f(end, &mut env);
    let used = env.out.used();
    out.extend_from_slice(&space[..used]);
    result
}

criterion_group!(benches, round_trip, partial);
criterion_main!(benches);
