//! Helpers of this floor's tests.

use super::{DirectionKeys, Geometry, Provider, Suite};
use crate::base::{Entropy, SeededEntropy};

/// Bytes from hexadecimal digits; white space between them is skipped.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2), "an odd number of digits");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Every suite under every provider that has it, the simulator's included.
pub(crate) fn every_suite() -> Vec<(Provider, Suite)> {
    let mut all = Vec::new();
    for provider in Provider::ALL.iter().chain([&Provider::Fastest]) {
        let supported = Suite::all().filter(|suite| provider.supports(suite.cipher()));
        all.extend(supported.map(|suite| (*provider, suite)));
    }
    #[cfg(feature = "sim")]
    {
        let toy = Suite::new(crate::crypto::CipherKind::Toy, crate::crypto::MacKind::Implicit);
        all.push((Provider::Toy, toy.expect("the toy authenticates")));
    }
    all
}

/// Keys that depend on `seed` alone.
pub(crate) fn keys_for(suite: Suite, seed: u64) -> DirectionKeys {
    let mut entropy = SeededEntropy::new(seed);
    let mut part = |len: usize| {
        let mut bytes = vec![0; len];
        entropy.fill(&mut bytes);
        bytes
    };
    let cipher_key = part(suite.cipher().key_bytes());
    let iv = part(suite.cipher().iv_bytes());
    let mac_key = part(suite.mac().key_bytes());
    DirectionKeys::new(suite, &cipher_key, &iv, &mac_key).expect("exact lengths")
}

/// A packet in clear with room for its tag; the padding counts up so that mistakes show.
pub(crate) fn frame(geometry: Geometry, payload: &[u8]) -> Vec<u8> {
    let payload_len = payload.len() as u32;
    let padding = geometry.padding(payload_len);
    let mut packet = (1 + payload_len + padding).to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend_from_slice(payload);
    packet.extend(1..=padding as u8);
    packet.extend(vec![0; usize::from(geometry.tag)]);
    assert_eq!(packet.len() as u32, geometry.wire_len(payload_len));
    packet
}
