//! `zlib@openssh.com` (RFC 4253 §6.2, started when the user is authenticated): a stream in each
//! direction, from one key exchange to the next, and flushed behind every packet. A copying path
//! beside the usual one, which works in place.

use std::fmt;

use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

use super::Error;
use crate::limits::PACKET_LENGTH_MAX;

/// A compression algorithm of RFC 4253 §6.2. There is no `zlib`: it would take bytes of whoever has
/// not logged in yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionKind {
    None,
    /// zlib, from the end of authentication on.
    Delayed,
}

impl CompressionKind {
    pub const ALL: [CompressionKind; 2] = [CompressionKind::None, CompressionKind::Delayed];

    /// The name used in negotiation.
    pub const fn name(self) -> &'static str {
        match self {
            CompressionKind::None => "none",
            CompressionKind::Delayed => "zlib@openssh.com",
        }
    }

    pub fn from_name(name: &str) -> Option<CompressionKind> {
        CompressionKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The sending direction's stream.
pub(super) struct Packer {
    state: Box<CompressorOxide>,
    used: bool,
}

impl Packer {
    pub(super) fn new() -> Packer {
        let state = CompressorOxide::new(create_comp_flags_from_zip_params(LEVEL, WINDOW_BITS, 0));
        Packer { state: Box::new(state), used: false }
    }

    /// The most that `len` bytes become: stored blocks of at least 16 KiB, the stream's header and
    /// the flush.
    pub(super) const fn bound(len: usize) -> usize {
        len + 5 * (len / (16 * 1024) + 1) + 16
    }

    /// A payload as it travels.
    pub(super) fn pack(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        self.used = true;
        let mut out = vec![0; Packer::bound(payload.len())];
        let (mut rest, mut written) = (payload, 0);
        loop {
            let room = out.get_mut(written..).unwrap_or_default();
            let step = deflate(&mut self.state, rest, room, MZFlush::Sync);
            step.status.map_err(|_| Error::Invariant("compression failed"))?;
            rest = rest.get(step.bytes_consumed..).unwrap_or(&[]);
            written += step.bytes_written;
            if rest.is_empty() && written < out.len() {
                out.truncate(written);
                return Ok(out);
            }
            out.resize(out.len() + 1024, 0);
        }
    }
}

/// The receiving direction's stream.
pub(super) struct Unpacker {
    state: Box<InflateState>,
    used: bool,
    /// The payload unpacked last, for whoever takes it.
    pub payload: Vec<u8>,
    /// Its length.
    pub len: u32,
}

impl Unpacker {
    pub(super) fn new() -> Unpacker {
        let state = InflateState::new_boxed(DataFormat::Zlib);
        Unpacker { state, used: false, payload: Vec::new(), len: 0 }
    }

    /// A packet's payload as its sender wrote it. Whatever the packet claims to hold, no more than
    /// [`PACKET_LENGTH_MAX`] bytes of it are made.
    pub(super) fn unpack(&mut self, packed: &[u8]) -> Result<Vec<u8>, Error> {
        self.used = true;
        let most = PACKET_LENGTH_MAX as usize;
        let mut out = vec![0; (4 * packed.len() + 64).min(most + 1)];
        let (mut rest, mut written) = (packed, 0);
        loop {
            let room = out.get_mut(written..).unwrap_or_default();
            let step = inflate(&mut self.state, rest, room, MZFlush::Sync);
            let moved = step.bytes_consumed + step.bytes_written > 0;
            match step.status {
                Ok(MZStatus::Ok) => {}
                // All of the packet is taken: what was still to come of it has come.
                Err(MZError::Buf) => {}
                _ => return Err(DAMAGED),
            }
            rest = rest.get(step.bytes_consumed..).unwrap_or(&[]);
            written += step.bytes_written;
            if written > most {
                return Err(Error::PeerMisbehaved("a compressed packet that is too large"));
            }
            if written == out.len() {
                out.resize((2 * out.len()).min(most + 1), 0);
            } else if !moved {
                break;
            }
        }
        if !rest.is_empty() || written == 0 {
            return Err(DAMAGED);
        }
        out.truncate(written);
        self.len = written as u32;
        Ok(out)
    }
}

/// A stream that has carried something cannot go on in another process.
pub(super) fn are_fresh(packer: Option<&Packer>, unpacker: Option<&Unpacker>) -> bool {
    packer.is_none_or(|packer| !packer.used) && unpacker.is_none_or(|unpacker| !unpacker.used)
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unpacker")
    }
}

/// Measured over 32 KiB packets: some 40 MB/s; OpenSSH's level 6 makes packets a tenth smaller at a
/// tenth of the speed, and level 1 does not leave alone what cannot be compressed.
const LEVEL: i32 = 2;
/// A window of 32 KiB behind a zlib header (RFC 1950).
const WINDOW_BITS: i32 = 15;

const DAMAGED: Error = Error::PeerMisbehaved("a compressed packet that is damaged");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let step = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(step).collect()
    }

    proptest! {
        #[test]
        fn payloads_come_back(
            payloads in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 1..600),
                    (any::<u8>(), 1usize..40_000).prop_map(|(byte, len)| vec![byte; len]),
                    (any::<u64>(), 1usize..40_000).prop_map(|(seed, len)| noise(len, seed)),
                ],
                1..12,
            ),
        ) {
            let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
            for payload in payloads {
                let packed = packer.pack(&payload).expect("packed");
                prop_assert!(packed.len() <= Packer::bound(payload.len()));
                prop_assert_eq!(unpacker.unpack(&packed).expect("unpacked"), payload);
            }
        }

        /// Nothing a peer sends makes more than a packet, spins or panics.
        #[test]
        fn damage_is_an_error_or_other_bytes(
            at in 0usize..400, flip in 1u8..=255, cut in 0usize..400,
        ) {
            let mut packed = Packer::new().pack(&noise(300, 5)).expect("packed");
            let at = at % packed.len();
            packed[at] ^= flip;
            packed.truncate(packed.len() - cut % packed.len());
            if let Ok(payload) = Unpacker::new().unpack(&packed) {
                prop_assert!(payload.len() <= PACKET_LENGTH_MAX as usize);
            }
        }
    }

    #[test]
    fn later_packets_lean_on_earlier_ones() {
        let mut packer = Packer::new();
        let payload = noise(2000, 7);
        let first = packer.pack(&payload).expect("packed").len();
        let second = packer.pack(&payload).expect("packed").len();
        assert!(first >= 2000 && second < 100, "{first} {second}");
    }

    /// What zlib makes of 32 KiB of zeros in a CHANNEL_DATA, four times over, with its partial flush
    /// as OpenSSH uses it.
    #[test]
    fn streams_of_zlib_itself() {
        let packets = [
            "789cecc1010d000008c0a027358bd1ddcc014c6f0300000000000000000000000000000000000000 \
             000000000000000000000000ea04",
            "60770e0d00004018867dca2d3b1dc1114c24a6b673c9eb0400000000000000000000000000000000 \
             000000000000000000000000000000b45801",
            "d89d430300001086619f72cb4e4770041389a9ed5cf23a0100000000000000000000000000000000 \
             0000000000000000000000000000002d56",
            "0076e7d00000008461d8a7dcb2d3111cc144626a3b97bc4e00000000000000000000000000000000 \
             000000000000000000000000000000408b15",
        ];
        let mut unpacker = Unpacker::new();
        let payload = [&[94, 0, 0, 0, 0, 0, 0, 0x80, 0][..], &[0; 32 * 1024]].concat();
        for packet in packets {
            let digits: Vec<u32> = packet.chars().filter_map(|c| c.to_digit(16)).collect();
            let packet: Vec<u8> = digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect();
            let unpacked = unpacker.unpack(&packet).expect("unpacked");
            assert!(unpacked == payload, "{} bytes", unpacked.len());
        }
    }

    /// SECURITY case 49: a few hundred bytes that would become megabytes.
    #[test]
    fn case_49_a_bomb_ends_at_the_packet_limit() {
        let most = PACKET_LENGTH_MAX as usize;
        for len in [most + 1, 8 << 20] {
            let packed = Packer::new().pack(&vec![0; len]).expect("packed");
            assert!(packed.len() < len / 100);
            let refused = Unpacker::new().unpack(&packed).expect_err("a bomb");
            assert!(refused.to_string().contains("too large"), "{refused}");
        }
        let packed = Packer::new().pack(&vec![0; most]).expect("packed");
        assert_eq!(Unpacker::new().unpack(&packed).expect("the largest").len(), most);
    }

    /// SECURITY case 50: a packet of nothing, one that ends its stream, one with more behind it.
    #[test]
    fn case_50_empty_and_ended_streams_are_refused() {
        let empty = Packer::new().pack(&[]).expect("packed");
        for packed in [&[][..], &empty, &[0x78], &[0x78, 0x9c], b"not zlib", &[0; 40]] {
            assert_eq!(Unpacker::new().unpack(packed), Err(DAMAGED), "{packed:02x?}");
        }
        let ended = miniz_oxide::deflate::compress_to_vec_zlib(b"the end", 6);
        assert_eq!(Unpacker::new().unpack(&ended), Err(DAMAGED));
        // Honest expansion is not cut short.
        let packed = Packer::new().pack(&[7; 30_000]).expect("packed");
        assert_eq!(Unpacker::new().unpack(&packed).expect("unpacked"), [7; 30_000]);
    }
}
