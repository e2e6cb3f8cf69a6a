//! Sealing and opening a packet allocates nothing, neither here nor inside the crypto libraries.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "support/allocations.rs"]
mod allocations;

use allocations::allocations;
use tidegate::base::Entropy;
use tidegate::crypto::{
    Counters, DirectionKeys, OpenKey, Provider, RandomPool, SealKey, Stamp, Suite,
};

/// Every suite under every provider, the simulator's left out: it is not held to this.
fn every_suite() -> impl Iterator<Item = (Provider, Suite)> {
    Provider::ALL.iter().flat_map(|provider| {
        let supported = Suite::all().filter(|suite| provider.supports(suite.cipher()));
        supported.map(|suite| (*provider, suite))
    })
}

fn keys(suite: Suite) -> DirectionKeys {
    let cipher = suite.cipher();
    let (key, iv, mac) = ([1; 64], [2; 16], [3; 64]);
    let mac = &mac[..suite.mac().key_bytes()];
    DirectionKeys::new(suite, &key[..cipher.key_bytes()], &iv[..cipher.iv_bytes()], mac)
        .expect("exact lengths")
}

fn stamp(counters: &mut Counters, packet: &[u8], tag: u8) -> Stamp {
    counters.stamp(packet.len() as u32 - u32::from(tag)).expect("fresh keys")
}

#[test]
fn the_count_sees_rust_and_c() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7u64)))), 1);
    // A GCM key of aws-lc-rs is one block that C code allocates.
    let gcm = every_suite().next().expect("a suite").1;
    let keys = keys(gcm);
    assert!(allocations(|| drop(SealKey::new(Provider::AwsLc, &keys))) > 0);
}

#[test]
fn packets_allocate_nothing() {
    for (provider, suite) in every_suite() {
        let seal = SealKey::new(provider, &keys(suite)).expect("a key");
        let open = OpenKey::new(provider, &keys(suite)).expect("a key");
        let geometry = seal.geometry();
        for payload_len in [1, 100, 4096, 32 * 1024] {
            let clear = vec![0x42; geometry.wire_len(payload_len) as usize];
            let mut packet = clear.clone();
            let (mut sending, mut receiving) = (Counters::new(), Counters::new());
            let count = allocations(|| {
                for _ in 0..8 {
                    packet.copy_from_slice(&clear);
                    seal.seal(stamp(&mut sending, &packet, geometry.tag), &mut packet);
                    let first = *packet.first_chunk().expect("a length");
                    std::hint::black_box(open.packet_length(&receiving, first));
                    let place = stamp(&mut receiving, &packet, geometry.tag);
                    assert!(open.open(place, &mut packet).is_ok());
                }
            });
            assert_eq!(count, 0, "{provider:?} {suite:?} {payload_len}");
        }
    }
}

/// A forger cannot make us allocate either. The library keeps a record of errors for each thread,
/// made with the first.
#[test]
fn bad_tags_allocate_nothing() {
    let mut warm = false;
    for (provider, suite) in every_suite() {
        let open = OpenKey::new(provider, &keys(suite)).expect("a key");
        let mut counters = Counters::new();
        let mut forge = || {
            let mut packet = [0x42; 256];
            let place = stamp(&mut counters, &packet, open.geometry().tag);
            assert!(open.open(place, &mut packet).is_err());
        };
        if !warm {
            forge();
            warm = true;
        }
        assert_eq!(allocations(|| (0..50).for_each(|_| forge())), 0, "{provider:?} {suite:?}");
    }
}

#[test]
fn padding_allocates_nothing() {
    let mut pool = RandomPool::secure();
    let mut padding = [0; 19];
    pool.fill(&mut padding);
    let count = allocations(|| (0..1000).for_each(|_| pool.fill(&mut padding)));
    assert_eq!(count, 0);
}
