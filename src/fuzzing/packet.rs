//! RFC 4253 §6 under every suite.

use super::Input;
use super::fixtures::{direction_keys, suites};
use crate::crypto::{Counters, Geometry, OpenKey, SealKey};

/// Hostile bytes to every suite's opener, and our own packets with one byte changed.
///
/// The first byte picks the suite, the next four the place of a change in a packet of ours, the
/// sixth what is changed; the rest is the packet, or its payload.
pub fn packet(data: &[u8]) {
    let mut input = Input::new(data);
    let all = suites();
    let (provider, suite) = all[usize::from(input.byte()) % all.len()];
    let (at, change) = (input.uint32(), input.byte());
    let keys = direction_keys(suite, 1);
    let open = OpenKey::new(provider, &keys).expect("keys of the right size");
    let seal = SealKey::new(provider, &keys).expect("keys of the right size");
    assert_eq!(open.geometry(), suite.geometry());
    hostile(&open, input.rest());
    ours(&seal, &open, input.rest(), (at, change));
}

/// Bytes that no key of ours has sealed are refused and wiped.
fn hostile(open: &OpenKey, bytes: &[u8]) {
    let mut counters = Counters::new();
    let mut packet = bytes.to_vec();
    if let Some(first) = packet.first_chunk::<4>() {
        let length = open.packet_length(&counters, *first);
        assert_eq!(length, open.packet_length(&counters, *first), "a look changes nothing");
    }
    let tag = u32::from(open.geometry().tag);
    let stamp = counters.stamp((packet.len() as u32).saturating_sub(tag)).expect("fresh keys");
    assert!(open.open(stamp, &mut packet).is_err(), "a packet out of nowhere opens");
    assert!(packet.iter().all(|byte| *byte == 0), "what was refused is wiped");
}

/// What we seal opens again; with a byte changed it does not.
fn ours(seal: &SealKey, open: &OpenKey, payload: &[u8], (at, change): (u32, u8)) {
    let clear = frame(seal.geometry(), payload);
    let unsealed = clear.len() as u32 - u32::from(seal.geometry().tag);
    let stamp = || Counters::new().stamp(unsealed).expect("fresh keys");
    let mut sealed = clear.clone();
    seal.seal(stamp(), &mut sealed);

    let mut packet = sealed.clone();
    let length = open.packet_length(&Counters::new(), *packet.first_chunk().expect("a length"));
    assert_eq!(length + 4, unsealed);
    assert!(open.geometry().fits(length));
    open.open(stamp(), &mut packet).expect("a packet of ours");
    assert_eq!(packet[..unsealed as usize], clear[..unsealed as usize]);

    let mut packet = sealed;
    let at = at as usize % packet.len();
    packet[at] ^= change.max(1);
    assert!(open.open(stamp(), &mut packet).is_err(), "a change went unnoticed");
    assert!(packet.iter().all(|byte| *byte == 0), "what was refused is wiped");
}

/// A packet in clear with room for its tag.
pub(super) fn frame(geometry: Geometry, payload: &[u8]) -> Vec<u8> {
    let padding = geometry.padding(payload.len() as u32);
    let mut packet = (1 + payload.len() as u32 + padding).to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend_from_slice(payload);
    packet.extend(vec![0; padding as usize + usize::from(geometry.tag)]);
    packet
}
