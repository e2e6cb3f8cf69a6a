//! The arithmetic of a key exchange, step by step: what the client does before and after, and what
//! the server does at once. Signatures and hashing of the exchange are elsewhere.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tidegate::crypto::{KexKind, KexSecret, RandomPool, kex};

fn exchange(c: &mut Criterion) {
    // Group exchange is one of the groups.
    for kind in KexKind::ALL.iter().filter(|kind| **kind != KexKind::DhGroupExchange) {
        let name = kind.names().first().expect("a name");
        let mut pool = RandomPool::secure();
        let generate =
            |pool: &mut RandomPool| KexSecret::generate(*kind, pool).expect("an ephemeral key");
        let (_, client_public) = generate(&mut pool);
        let mut group = c.benchmark_group(format!("kex/{name}"));
        group.bench_function("client_start", |b| b.iter(|| generate(&mut pool)));
        group.bench_function("server", |b| {
            b.iter(|| kex::respond(*kind, &client_public, &mut pool).expect("a reply"));
        });
        group.bench_function("client_finish", |b| {
            b.iter_batched(
                || {
                    let (secret, public) = generate(&mut pool);
                    let (reply, _) = kex::respond(*kind, &public, &mut pool).expect("a reply");
                    (secret, reply)
                },
                |(secret, reply)| secret.finish(&reply).expect("a shared secret"),
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, exchange);
criterion_main!(benches);
