//! What a handshake pays for keys: a signature, its verification, and reading a peer's key.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tidegate::crypto::{KeyKind, PrivateKey, PublicKey, SignatureAlgorithm};

/// An exchange hash and what surrounds it in a publickey request.
const MESSAGE: [u8; 256] = [0x5a; 256];

const PASSPHRASE: &[u8] = b"correct horse battery staple";

fn signatures(c: &mut Criterion) {
    let keys = KeyKind::ALL.map(|kind| PrivateKey::generate(kind).expect("generates"));
    let cases = SignatureAlgorithm::ALL.map(|algorithm| {
        let key = keys.iter().find(|key| key.kind() == algorithm.key_kind()).expect("made above");
        (algorithm, key, key.sign(algorithm, &MESSAGE).expect("signs"))
    });
    let mut group = c.benchmark_group("sign");
    for (algorithm, key, _) in &cases {
        group.bench_function(BenchmarkId::from_parameter(algorithm.name()), |b| {
            b.iter(|| key.sign(*algorithm, black_box(&MESSAGE)).expect("signs"));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("verify");
    for (algorithm, key, blob) in &cases {
        let public = key.public();
        group.bench_function(BenchmarkId::from_parameter(algorithm.name()), |b| {
            b.iter(|| public.verify(*algorithm, black_box(&MESSAGE), blob).expect("verifies"));
        });
    }
    group.finish();
}

fn reading(c: &mut Criterion) {
    let keys = KeyKind::ALL.map(|kind| PrivateKey::generate(kind).expect("generates"));
    let mut group = c.benchmark_group("read-public");
    for key in &keys {
        group.bench_function(BenchmarkId::from_parameter(key.public().type_name()), |b| {
            b.iter(|| PublicKey::from_blob(black_box(key.public().blob())).expect("reads"));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("read-private");
    for key in &keys {
        let file = key.to_openssh("").expect("writes");
        group.bench_function(BenchmarkId::from_parameter(key.public().type_name()), |b| {
            b.iter(|| PrivateKey::from_openssh(black_box(&*file), None).expect("reads"));
        });
    }
    let locked = keys[0].to_openssh_encrypted("", PASSPHRASE).expect("writes");
    group.sample_size(10);
    group.bench_function("encrypted, 24 rounds", |b| {
        b.iter(|| PrivateKey::from_openssh(black_box(&*locked), Some(PASSPHRASE)).expect("reads"));
    });
    group.finish();
}

criterion_group!(benches, signatures, reading);
criterion_main!(benches);
