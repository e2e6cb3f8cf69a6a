//! Where data lies before it becomes packets.

use crate::base::tally::{self, Cost};
use crate::base::{Few, Span};
use crate::connection::ChannelId;
use crate::crypto::Geometry;
use crate::limits::{FRAMES_MAX, TAILROOM};
use crate::wire::channel::{DATA_HEADER_BYTES, EXTENDED_HEADER_BYTES};

/// Packets laid out back to back in a lease, with room left for everything but their data: read
/// into [`Plan::spans`], and the sealed result is one contiguous range of bytes.
///
/// It holds reserved credit. It ends in `seal_plan` or `drop_plan`; one that is forgotten keeps its
/// credit for the life of the channel.
#[must_use]
#[derive(Debug)]
pub struct Plan {
    pub channel: ChannelId,
    extended: Option<u32>,
    layout: Layout,
    total: u32,
}

impl Plan {
    pub(super) const fn new(
        channel: ChannelId,
        extended: Option<u32>,
        layout: Layout,
        total: u32,
    ) -> Plan {
        Plan { channel, extended, layout, total }
    }

    /// Data bytes planned for, and reserved.
    pub const fn total(&self) -> u32 {
        self.total
    }

    pub const fn extended(&self) -> Option<u32> {
        self.extended
    }

    /// Where the data bytes behind the first `skip` go, in order.
    pub fn spans(&self, skip: u32) -> Few<Span, FRAMES_MAX> {
        let mut spans = Few::new();
        let mut skip = skip;
        for frame in self.layout.frames(self.total) {
            let rest = frame.data.skip(skip);
            skip = skip.saturating_sub(frame.data.len);
            if !rest.is_empty() && spans.push(rest).is_err() {
                break;
            }
        }
        spans
    }

    /// One past the last byte that the packets may take.
    pub fn end(&self) -> u32 {
        self.layout.end(self.total)
    }

    pub(super) const fn layout(&self) -> Layout {
        self.layout
    }
}

/// The arithmetic of a plan: equal packets from `at`, the last one shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    at: u32,
    /// Bytes of payload before the data.
    header: u32,
    /// Data bytes of a full packet; not zero.
    packet: u32,
    geometry: Geometry,
}

/// One packet of a layout; spans count from the lease's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub packet: Span,
    pub data: Span,
}

impl Layout {
    pub(super) fn new(at: u32, extended: bool, packet: u32, geometry: Geometry) -> Layout {
        let header = if extended { EXTENDED_HEADER_BYTES } else { DATA_HEADER_BYTES };
        Layout { at, header, packet: packet.max(1), geometry }
    }

    /// One packet whose data lies at `data` already.
    pub(super) fn around(data: Span, extended: bool, geometry: Geometry) -> Layout {
        let layout = Layout::new(0, extended, data.len, geometry);
        Layout { at: data.at.saturating_sub(layout.lead()), ..layout }
    }

    /// The first packet's data is where `data` is.
    pub(super) const fn holds(&self, data: Span) -> bool {
        self.at + self.lead() == data.at
    }

    pub(super) const fn header(&self) -> u32 {
        self.header
    }

    /// The same packets cut for other keys.
    pub(super) const fn recut(self, geometry: Geometry) -> Layout {
        Layout { geometry, ..self }
    }

    /// Data bytes that fit `room` bytes of lease whatever the keys are when they are sealed.
    pub(super) fn capacity(&self, room: u32) -> u32 {
        let overhead = self.lead() + TAILROOM;
        let room = room.saturating_sub(self.at);
        let full = overhead.saturating_add(self.packet);
        let frames = (room / full).min(FRAMES_MAX as u32);
        let rest = match frames as usize == FRAMES_MAX {
            true => 0,
            false => (room - frames * full).saturating_sub(overhead),
        };
        frames * self.packet + rest
    }

    /// The packets that `total` data bytes take; at least none, at most [`FRAMES_MAX`].
    pub(super) fn frames(self, total: u32) -> impl Iterator<Item = Frame> {
        let stride = self.geometry.wire_len(self.header + self.packet);
        let mut left = total;
        let mut start = self.at;
        std::iter::from_fn(move || {
            let len = left.min(self.packet);
            if len == 0 {
                return None;
            }
            left -= len;
            let packet = Span::new(start, self.geometry.wire_len(self.header + len));
            let data = Span::new(start.saturating_add(self.lead()), len);
            start = start.saturating_add(stride);
            Some(Frame { packet, data })
        })
        .take(FRAMES_MAX)
    }

    pub(super) fn end(self, total: u32) -> u32 {
        self.frames(total).last().map_or(self.at, |frame| frame.packet.end())
    }

    /// All the packets as one range.
    pub(super) fn whole(self, total: u32) -> Span {
        Span::new(self.at, self.end(total) - self.at)
    }

    /// Moves the data of `total` bytes from where this layout has it to where `to` has it. Both
    /// start alike and have equal full packets, so all data moves the same way: the order of
    /// moving keeps it from running over itself. False when the buffer is too short.
    pub(super) fn shift(self, to: Layout, total: u32, buf: &mut [u8]) -> bool {
        let count = self.frames(total).count();
        let stride = |layout: Layout| layout.geometry.wire_len(layout.header + layout.packet);
        let backwards = stride(to) > stride(self);
        (0..count).all(|n| {
            let n = if backwards { count - 1 - n } else { n };
            match (self.frames(total).nth(n), to.frames(total).nth(n)) {
                (Some(from), Some(into)) => move_within(buf, from.data, into.data),
                _ => false,
            }
        })
    }

    /// Bytes between a packet's start and its data: length, padding length, header.
    const fn lead(&self) -> u32 {
        4 + 1 + self.header
    }
}

fn move_within(buf: &mut [u8], from: Span, to: Span) -> bool {
    if from.range().end > buf.len() || to.range().end > buf.len() {
        return false;
    }
    if from != to {
        buf.copy_within(from.range(), to.range().start);
        tally::add(Cost::Copied, u64::from(from.len));
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::Suite;
    use crate::limits::{BULK_SLOT, HEADROOM, PACKET_SLOT};

    const AT: u32 = HEADROOM - 14;

    fn geometries() -> Vec<Geometry> {
        let mut all: Vec<Geometry> = Suite::all().map(Suite::geometry).collect();
        all.push(Geometry { block: 8, tag: 16, length_is_padded: false });
        all
    }

    #[test]
    fn leases_hold_what_they_are_meant_to() {
        for geometry in geometries() {
            let layout = Layout::new(AT, false, 32 << 10, geometry);
            assert_eq!(layout.capacity(BULK_SLOT) / (32 << 10), 8, "{geometry:?}");
            assert!(layout.capacity(PACKET_SLOT) >= 32 << 10);
            let layout = Layout::new(AT, true, 16 << 10, geometry);
            assert_eq!(layout.capacity(BULK_SLOT), 16 * (16 << 10));
        }
        assert_eq!(Layout::new(AT, false, 100, geometries()[0]).capacity(AT), 0);
    }

    #[test]
    fn data_is_aligned_where_it_starts() {
        let layout = Layout::new(AT, false, 1000, geometries()[0]);
        assert_eq!(layout.frames(1).next().expect("one").data, Span::new(64, 1));
    }

    proptest! {
        #[test]
        fn packets_touch_and_never_overlap(
            which in 0usize..64,
            extended in any::<bool>(),
            packet in 1u32..40_000,
            room in 0u32..BULK_SLOT,
            part in 0.0f64..=1.0,
        ) {
            let all = geometries();
            let geometry = all[which % all.len()];
            let layout = Layout::new(AT, extended, packet, geometry);
            let capacity = layout.capacity(room);
            let total = (f64::from(capacity) * part) as u32;
            let mut next = AT;
            let mut data = 0;
            for frame in layout.frames(total) {
                prop_assert_eq!(frame.packet.at, next);
                prop_assert_eq!(frame.data.at, frame.packet.at + 5 + layout.header());
                prop_assert!(frame.data.end() + 4 + u32::from(geometry.tag) <= frame.packet.end());
                next = frame.packet.end();
                data += frame.data.len;
            }
            prop_assert_eq!(data, total);
            prop_assert_eq!(layout.whole(total).end(), next);
            // Whatever the keys turn out to be, the same data still fits.
            for other in all {
                if total > 0 {
                    prop_assert!(layout.recut(other).end(total) <= room);
                }
            }
        }

        #[test]
        fn data_survives_a_change_of_keys(
            (from, to) in (0usize..64, 0usize..64),
            packet in 1u32..3000,
            total in 1u32..20_000,
        ) {
            let all = geometries();
            let layout = Layout::new(AT, false, packet, all[from % all.len()]);
            let after = layout.recut(all[to % all.len()]);
            let total = total.min(layout.capacity(64 << 10));
            prop_assume!(total > 0);
            let mut buf = vec![0u8; 64 << 10];
            let mut n = 0u32;
            for frame in layout.frames(total) {
                for byte in &mut buf[frame.data.range()] {
                    *byte = (n % 251) as u8;
                    n += 1;
                }
            }
            prop_assert!(layout.shift(after, total, &mut buf));
            let moved: Vec<u8> =
                after.frames(total).flat_map(|frame| buf[frame.data.range()].to_vec()).collect();
            let expected: Vec<u8> = (0..total).map(|n| (n % 251) as u8).collect();
            prop_assert_eq!(moved, expected);
        }

        #[test]
        fn spans_skip_what_comes_first(
            packet in 1u32..500,
            total in 0u32..5000,
            skip in 0u32..6000,
        ) {
            let layout = Layout::new(AT, false, packet, geometries()[0]);
            let total = total.min(packet * FRAMES_MAX as u32);
            let id = ChannelId::from_number(0);
            let plan = Plan::new(id, None, layout, total);
            let all: Vec<u32> = plan.spans(0).iter().flat_map(|s| s.at..s.end()).collect();
            let rest: Vec<u32> = plan.spans(skip).iter().flat_map(|s| s.at..s.end()).collect();
            prop_assert_eq!(all.len() as u32, total);
            prop_assert_eq!(&all[(skip.min(total) as usize)..], &rest[..]);
        }
    }
}
