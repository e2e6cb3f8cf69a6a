//! Sealing one packet in place, for every suite and both crypto libraries. The payload counts as
//! throughput; length, padding and tag are overhead.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::crypto::{Counters, DirectionKeys, Provider, SealKey, Suite};

/// From a key press to more than any packet we send.
const PAYLOAD_BYTES: [u32; 7] = [64, 256, 1024, 4096, 16 * 1024, 32 * 1024, 256 * 1024];

fn seal(c: &mut Criterion) {
    for (provider, suite) in every_suite() {
        let key = SealKey::new(provider, &keys(suite)).expect("a key");
        let mut group = c.benchmark_group(format!("seal/{}", label(provider, suite)));
        for payload in PAYLOAD_BYTES {
            let mut packet = vec![0x42; key.geometry().wire_len(payload) as usize];
            let mut counters = Counters::new();
            group.throughput(Throughput::Bytes(u64::from(payload)));
            group.bench_function(BenchmarkId::from_parameter(payload), |b| {
                b.iter(|| {
                    let stamp = counters.stamp(payload).expect("fresh keys");
                    key.seal(stamp, black_box(&mut packet));
                });
            });
        }
        group.finish();
    }
}

fn every_suite() -> impl Iterator<Item = (Provider, Suite)> {
    Suite::all().flat_map(|suite| {
        let offered = Provider::ALL.iter().filter(move |p| p.supports(suite.cipher()));
        offered.map(move |provider| (*provider, suite))
    })
}

fn label(provider: Provider, suite: Suite) -> String {
    let cipher = suite.cipher();
    match cipher.is_aead() {
        true => format!("{}/{}", cipher.name(), provider.name()),
        false => format!("{}+{}/{}", cipher.name(), suite.mac().name(), provider.name()),
    }
}

fn keys(suite: Suite) -> DirectionKeys {
    let cipher = suite.cipher();
    let (key, iv, mac) = ([1; 64], [2; 16], [3; 64]);
    let mac = &mac[..suite.mac().key_bytes()];
    DirectionKeys::new(suite, &key[..cipher.key_bytes()], &iv[..cipher.iv_bytes()], mac)
        .expect("exact lengths")
}

criterion_group!(benches, seal);
criterion_main!(benches);
