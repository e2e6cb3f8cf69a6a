use crate::limits::REKEY_PACKETS_MAX;

/// RFC 4344 §3.2: with a 16-byte block, new keys are due within this many blocks.
const BLOCKS_MAX: u64 = 1 << 32;
/// ChaCha20's nonce is the sequence number, so no key ever protects more packets than there are
/// numbers. The other suites could go on; they do not need to.
const PACKETS_MAX: u64 = 1 << 32;

/// One packet's place in its direction: sequence number, AEAD invocation and CTR block.
///
/// Neither `Clone` nor `Copy`, and consumed by sealing: a nonce is spent once.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp {
    pub(super) seq: u32,
    pub(super) invocation: u64,
    pub(super) block: u64,
}

impl Stamp {
    /// The sequence number of RFC 4253 §6.4, as UNIMPLEMENTED quotes it.
    pub const fn seq(&self) -> u32 {
        self.seq
    }
}

/// The keys have protected every packet they may; nothing more is stamped until there are new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the keys of this direction are used up")]
pub struct Exhausted;

/// The running places of one direction. `Clone` so that a connection can be exported; whoever
/// clones must stop using one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    seq: u32,
    invocation: u64,
    block: u64,
}

impl Counters {
    pub const fn new() -> Counters {
        Counters { seq: 0, invocation: 0, block: 0 }
    }

    /// Places carried over from another process.
    pub const fn from_parts(seq: u32, packets: u64, blocks: u64) -> Counters {
        Counters { seq, invocation: packets, block: blocks }
    }

    /// Takes the next place, for a packet of `packet_len` bytes on the wire without its tag
    /// (length field included; CTR counts its whole 16-byte blocks).
    pub const fn stamp(&mut self, packet_len: u32) -> Result<Stamp, Exhausted> {
        if self.invocation >= PACKETS_MAX {
            return Err(Exhausted);
        }
        let stamp = Stamp { seq: self.seq, invocation: self.invocation, block: self.block };
        self.seq = self.seq.wrapping_add(1);
        self.invocation += 1;
        // With an EtM MAC the four length bytes are outside the keystream; the division drops them.
        self.block += (packet_len / 16) as u64;
        Ok(stamp)
    }

    /// The sequence number the next packet gets.
    pub const fn seq(&self) -> u32 {
        self.seq
    }

    /// Packets under the present keys.
    pub const fn packets(&self) -> u64 {
        self.invocation
    }

    /// 16-byte blocks under the present keys.
    pub const fn blocks(&self) -> u64 {
        self.block
    }

    /// RFC 4344 §3: new keys are overdue, whatever the configured limits say.
    pub const fn rekey_due(&self) -> bool {
        self.invocation >= REKEY_PACKETS_MAX as u64 || self.block >= BLOCKS_MAX
    }

    /// Strict key exchange: the sequence number starts again at zero after NEWKEYS.
    pub const fn reset_sequence(&mut self) {
        self.seq = 0;
    }

    /// New keys: invocations and blocks start again, the sequence number goes on.
    pub const fn new_keys(&mut self) {
        self.invocation = 0;
        self.block = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_advance_together() {
        let mut counters = Counters::new();
        let first = counters.stamp(32).expect("fresh keys");
        // 36 bytes: four of length in clear and two encrypted blocks.
        let second = counters.stamp(36).expect("fresh keys");
        assert_eq!((first.seq, first.invocation, first.block), (0, 0, 0));
        assert_eq!((second.seq, second.invocation, second.block), (1, 1, 2));
        assert_eq!((counters.seq(), counters.packets(), counters.blocks()), (2, 2, 4));
        counters.new_keys();
        assert_eq!((counters.seq(), counters.packets(), counters.blocks()), (2, 0, 0));
        counters.reset_sequence();
        assert_eq!(counters, Counters::new());
    }

    /// SECURITY case 37: at 2^31 packets or 2^32 blocks new keys are due, and past 2^32 packets no
    /// nonce can be had at all.
    #[test]
    fn case_37_keys_wear_out_before_a_nonce_repeats() {
        let mut counters = Counters::from_parts(u32::MAX, (1 << 31) - 1, 0);
        assert!(!counters.rekey_due());
        counters.stamp(16).expect("one more");
        assert!(counters.rekey_due());
        assert_eq!(counters.seq(), 0, "sequence numbers wrap, RFC 4253 §6.4");

        let mut counters = Counters::from_parts(0, 10, (1 << 32) - 2);
        counters.stamp(16).expect("one more");
        assert!(!counters.rekey_due());
        counters.stamp(16).expect("one more");
        assert!(counters.rekey_due());

        let mut counters = Counters::from_parts(0, (1 << 32) - 1, 0);
        counters.stamp(16).expect("the last nonce");
        let before = counters.clone();
        assert_eq!(counters.stamp(16), Err(Exhausted));
        assert_eq!(counters, before, "a refusal moves nothing");
        counters.new_keys();
        assert!(counters.stamp(16).is_ok());
    }
}
