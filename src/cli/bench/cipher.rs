//! `bench cipher`: sealing and opening packets, every suite, size and library.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::flags::BenchFlags;
use super::report::{Row, Unit};
use super::sample::{self, STRETCH_OPERATIONS_MAX, Sample, Work};
use crate::crypto::{Counters, DirectionKeys, OpenKey, Provider, SealKey, Suite};

/// Payload of a packet: from a key press to more than any packet we send.
const PAYLOAD_BYTES: [u32; 7] = [64, 256, 1024, 4096, 16 << 10, 32 << 10, 256 << 10];

/// Sealed packets that wait to be opened, together: they should still be in a cache, as what a
/// socket has just received is.
const BATCH_BYTES_MAX: u32 = 512 << 10;

/// Measures what the flags ask for.
///
/// # Errors
/// A library refused its keys, or a thread could not be started.
pub fn measure(flags: &BenchFlags) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (provider, suite) in every_suite() {
        for payload in PAYLOAD_BYTES {
            for threads in flags.threads() {
                for direction in [Direction::Seal, Direction::Open] {
                    let case = Case { provider, suite, payload, direction };
                    let name = case.name(threads);
                    if flags.wants(&name) {
                        rows.push(case.row(name, case.sample(threads, flags.time)?));
                    }
                }
            }
        }
    }
    Ok(rows)
}

fn every_suite() -> impl Iterator<Item = (Provider, Suite)> {
    Suite::all().flat_map(|suite| {
        let offered = Provider::ALL.iter().filter(move |p| p.supports(suite.cipher()));
        offered.map(move |provider| (*provider, suite))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Seal,
    Open,
}

#[derive(Clone, Copy)]
struct Case {
    provider: Provider,
    suite: Suite,
    payload: u32,
    direction: Direction,
}

impl Case {
    fn name(self, threads: usize) -> String {
        let (cipher, provider) = (self.suite.cipher(), self.provider.name());
        let suite = match cipher.is_aead() {
            true => cipher.name().to_owned(),
            false => format!("{}+{}", cipher.name(), self.suite.mac().name()),
        };
        let what = if self.direction == Direction::Seal { "seal" } else { "open" };
        format!("{what}/{suite}/{provider}/{}/{threads}", self.payload)
    }

    fn row(self, name: String, sample: Sample) -> Row {
        let gib = sample.per_second * f64::from(self.payload) / f64::from(1 << 30);
        Row::new(name, Unit::Packet, sample, Some(gib))
    }

    fn sample(self, threads: usize, time: Duration) -> Result<Sample> {
        match self.direction {
            Direction::Seal => sample::measure(threads, time, || Sealing::new(self)),
            Direction::Open => sample::measure(threads, time, || Opening::new(self)),
        }
    }
}

fn keys(suite: Suite) -> Result<DirectionKeys> {
    let cipher = suite.cipher();
    let (key, iv, mac) = ([1; 64], [2; 16], [3; 64]);
    let key = key.get(..cipher.key_bytes());
    let iv = iv.get(..cipher.iv_bytes());
    let mac = mac.get(..suite.mac().key_bytes());
    let keys = key.zip(iv).zip(mac).map(|((key, iv), mac)| DirectionKeys::new(suite, key, iv, mac));
    Ok(keys.ok_or_else(|| anyhow!("a key longer than any"))??)
}

/// One packet, sealed in place over and over.
struct Sealing {
    key: SealKey,
    counters: Counters,
    packet: Vec<u8>,
    /// Bytes of the packet without its tag.
    unsealed: u32,
}

impl Sealing {
    fn new(case: Case) -> Result<Sealing> {
        let key = SealKey::new(case.provider, &keys(case.suite)?)?;
        let geometry = key.geometry();
        let mut packet = vec![0x42; geometry.wire_len(case.payload) as usize];
        let unsealed = packet.len() as u32 - u32::from(geometry.tag);
        // RFC 4253 §6: the length of all behind this field but the tag, and that of the padding.
        let lengths = [&(unsealed - 4).to_be_bytes()[..], &[geometry.padding(case.payload) as u8]];
        packet.splice(..5, lengths.concat());
        Ok(Sealing { key, counters: Counters::new(), packet, unsealed })
    }

    fn seal(&mut self, packet: &mut [u8]) {
        // The keys are nobody's: worn out, they begin again.
        let stamp = self.counters.stamp(self.unsealed).or_else(|_| {
            self.counters = Counters::new();
            self.counters.stamp(self.unsealed)
        });
        if let Ok(stamp) = stamp {
            self.key.seal(stamp, packet);
        }
    }
}

impl Work for Sealing {
    fn prepare(&mut self, _: u32) {}

    fn run(&mut self, count: u32) {
        let mut packet = std::mem::take(&mut self.packet);
        for _ in 0..count {
            self.seal(std::hint::black_box(&mut packet));
        }
        self.packet = packet;
    }
}

/// Packets sealed beforehand, opened in place one after the other.
struct Opening {
    sealing: Sealing,
    key: OpenKey,
    packets: Vec<Vec<u8>>,
    /// Before the first of the packets was sealed.
    counters: Counters,
    refused: bool,
}

impl Opening {
    fn new(case: Case) -> Result<Opening> {
        let key = OpenKey::new(case.provider, &keys(case.suite)?)?;
        let (packets, counters) = (Vec::new(), Counters::new());
        Ok(Opening { sealing: Sealing::new(case)?, key, packets, counters, refused: false })
    }

    fn open(key: &OpenKey, counters: &mut Counters, packet: &mut [u8]) -> Option<()> {
        let length = key.packet_length(counters, *packet.first_chunk()?);
        let stamp = counters.stamp(4 + length).ok()?;
        key.open(stamp, packet).ok()
    }
}

impl Work for Opening {
    fn prepare(&mut self, count: u32) {
        self.counters = Counters::new();
        self.sealing.counters = Counters::new();
        self.packets.resize(count as usize, Vec::new());
        let mut packets = std::mem::take(&mut self.packets);
        for packet in &mut packets {
            packet.clone_from(&self.sealing.packet);
            self.sealing.seal(packet);
        }
        self.packets = packets;
    }

    fn run(&mut self, _: u32) {
        for packet in &mut self.packets {
            let opened = Opening::open(&self.key, &mut self.counters, packet);
            self.refused |= opened.is_none();
        }
        assert!(!self.refused, "what was sealed here is opened here");
    }

    fn batch_max(&self) -> u32 {
        let packet = self.sealing.packet.len().max(1) as u32;
        (BATCH_BYTES_MAX / packet).clamp(1, STRETCH_OPERATIONS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_opens_what_it_sealed_batch_after_batch() {
        for (provider, suite) in every_suite() {
            for payload in [64, 1024, 256 << 10] {
                let case = Case { provider, suite, payload, direction: Direction::Open };
                let mut work = Opening::new(case).expect("keys");
                for count in [1, work.batch_max().min(5)] {
                    work.prepare(count);
                    work.run(count);
                }
                assert_eq!(work.packets.len(), work.batch_max().min(5) as usize);
            }
        }
    }
}
