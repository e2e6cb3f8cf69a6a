//! Opening one packet in place, length field first, for every suite and both crypto libraries. Each
//! run gets its own copy of a sealed packet; making it is not counted.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::crypto::{Counters, DirectionKeys, OpenKey, Provider, SealKey, Suite};

/// From a key press to more than any packet we accept.
const PAYLOAD_BYTES: [u32; 7] = [64, 256, 1024, 4096, 16 * 1024, 32 * 1024, 256 * 1024];

fn open(c: &mut Criterion) {
    for (provider, suite) in every_suite() {
        let key = OpenKey::new(provider, &keys(suite)).expect("a key");
        let mut group = c.benchmark_group(format!("open/{}", label(provider, suite)));
        for payload in PAYLOAD_BYTES {
            let packet = sealed(provider, suite, payload);
            let batch = if payload > 4096 { BatchSize::LargeInput } else { BatchSize::SmallInput };
            group.throughput(Throughput::Bytes(u64::from(payload)));
            group.bench_function(BenchmarkId::from_parameter(payload), |b| {
                b.iter_batched_ref(|| packet.clone(), |packet| open_first(&key, packet), batch);
            });
        }
        group.finish();
    }
}

fn open_first(key: &OpenKey, packet: &mut [u8]) -> u32 {
    let mut counters = Counters::new();
    let length = key.packet_length(&counters, *packet.first_chunk().expect("a length"));
    let stamp = counters.stamp(length).expect("fresh keys");
    key.open(stamp, packet).expect("an honest packet");
    length
}

fn sealed(provider: Provider, suite: Suite, payload: u32) -> Vec<u8> {
    let key = SealKey::new(provider, &keys(suite)).expect("a key");
    let mut packet = vec![0x42; key.geometry().wire_len(payload) as usize];
    key.seal(Counters::new().stamp(payload).expect("fresh keys"), &mut packet);
    packet
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

criterion_group!(benches, open);
criterion_main!(benches);
