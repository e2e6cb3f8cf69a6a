//! Channel data on its way out: credit first, then bytes, then packets.

use super::half::SendHalf;
use super::plan::{Frame, Layout};
use super::side::Side;
use super::{ChannelId, Connection, Plan};
use crate::base::tally::{self, Cost};
use crate::base::{Entropy, Span};
use crate::limits::{FRAMES_MAX, TAILROOM};
use crate::transport::{Deferred, Env};
use crate::wire::channel::{ChannelData, ChannelExtendedData};
use crate::wire::{Writer, number};

impl<R: Side> Connection<R> {
    /// Bytes the peer takes on this channel that are not reserved yet. Zero once EOF was asked for.
    pub fn credit(&self, id: ChannelId) -> u32 {
        match self.channels.get(id) {
            Some(channel) if channel.takes_data() => channel.send_window.remaining(),
            _ => 0,
        }
    }

    /// Credit that is set aside for plans and reads.
    #[cfg(feature = "sim")]
    pub fn set_aside(&self, id: ChannelId) -> u32 {
        self.channels.get(id).map_or(0, |channel| channel.send_window.reserved())
    }

    /// What the receive windows of all channels have grown by, in bytes.
    #[cfg(feature = "sim")]
    pub fn windows_grown(&self) -> u64 {
        self.channels.grown()
    }

    /// The largest data of one packet on this channel.
    pub fn packet_max(&self, id: ChannelId) -> u32 {
        self.channels.get(id).map_or(0, |channel| channel.send_window.packet_bytes_max())
    }

    /// What the peer may have sent on this channel and not been granted again, in bytes: the receive
    /// window as it is now. Zero for a channel that does not exist.
    pub fn receive_window(&self, id: ChannelId) -> u32 {
        self.channels.get(id).map_or(0, |channel| channel.recv_window.target())
    }

    /// Bytes of the channel that have come and are not consumed.
    #[cfg(test)]
    pub fn held(&self, id: ChannelId) -> u32 {
        self.channels.get(id).map_or(0, |channel| channel.recv_window.held())
    }

    /// Sets credit aside before bytes are read; answers how much of `want`.
    pub fn reserve(&mut self, id: ChannelId, want: u32) -> u32 {
        match self.channels.get_mut(id) {
            Some(channel) if channel.takes_data() => channel.send_window.reserve(want),
            _ => 0,
        }
    }

    /// Gives back credit that was set aside and is not needed.
    pub fn refund(&mut self, id: ChannelId, bytes: u32) {
        if let Some(channel) = self.channels.get_mut(id) {
            channel.send_window.refund(bytes);
        }
    }

    /// Lays out packets for up to `want` data bytes back to back from `at` in a lease of `room`
    /// bytes, and reserves their credit. `None` without credit, room or an open channel.
    ///
    /// The layout keeps enough slack for any cipher, so a key exchange before sealing does no harm.
    pub fn plan(
        &mut self,
        id: ChannelId,
        extended: Option<u32>,
        at: u32,
        room: u32,
        want: u32,
    ) -> Option<Plan> {
        let geometry = self.transport.geometry();
        let channel = self.channels.get_mut(id).filter(|channel| channel.takes_data())?;
        let packet = channel.send_window.packet_bytes_max();
        let layout = Layout::new(at, extended.is_some(), packet, geometry);
        let total = channel.send_window.reserve(want.min(layout.capacity(room)));
        if total == 0 {
            return None;
        }
        channel.plans = channel.plans.saturating_add(1);
        Some(Plan::new(id, extended, layout, total))
    }

    /// One packet around data that lies in memory already, with
    /// [`HEADROOM`](crate::limits::HEADROOM) bytes before it and [`TAILROOM`] behind it. Its credit must have been reserved, and it must fit one packet.
    pub fn plan_around(&mut self, id: ChannelId, extended: Option<u32>, data: Span) -> Plan {
        let layout = Layout::around(data, extended.is_some(), self.transport.geometry());
        if let Some(channel) = self.channels.get_mut(id) {
            channel.plans = channel.plans.saturating_add(1);
            let fits = data.len <= channel.send_window.packet_bytes_max();
            if !fits || !layout.holds(data) {
                self.fail_later("a packet over the peer's limit, or without headroom");
            }
        }
        Plan::new(id, extended, layout, data.len)
    }

    /// Makes packets of the first `got` data bytes of a plan: writes headers, shortens the last
    /// packet, seals all, refunds the rest. Answers where the packets lie in `buf`, which is the
    /// lease the plan was made for; an empty span when there is nothing to send, because `got` is
    /// zero or the channel is closed. `Deferred` during a key exchange: nothing has changed.
    pub fn seal_plan(
        &mut self,
        plan: &Plan,
        got: u32,
        buf: &mut [u8],
        entropy: &mut dyn Entropy,
    ) -> Result<Span, Deferred> {
        if self.failure().is_some() {
            return Ok(Span::default());
        }
        if !self.is_ready() {
            return Err(Deferred);
        }
        let Some(channel) = self.channels.get(plan.channel) else { return Ok(Span::default()) };
        let got = if channel.seals_data() { got.min(plan.total()) } else { 0 };
        let recipient = channel.recipient.0;
        self.settle(plan, got);
        if got == 0 {
            return Ok(Span::default());
        }
        let layout = plan.layout().recut(self.transport.geometry());
        let moved = layout == plan.layout() || plan.layout().shift(layout, got, buf);
        let header = (recipient, plan.extended(), layout.header());
        if self.transport.packs() {
            let packed =
                if moved { self.pack_plan(layout, got, header, buf, entropy) } else { None };
            if packed.is_none() {
                self.fail_later("a plan that does not fit its lease compressed");
            }
            return Ok(packed.unwrap_or_default());
        }
        let sealed = moved
            && layout
                .frames(got)
                .all(|frame| self.seal_frame(frame, header, buf, entropy).is_some());
        if !sealed {
            // Some packets may have taken their place in the sequence already: nothing can follow.
            self.fail_later("a plan outside its lease");
            return Ok(Span::default());
        }
        Ok(layout.whole(got))
    }

    /// Gives up a plan: nothing is sent, all its credit is refunded.
    pub fn drop_plan(&mut self, plan: Plan) {
        self.settle(&plan, 0);
    }

    /// Copies small data straight into the outbox as packets. False, and nothing done, when credit,
    /// readiness or room is lacking.
    pub fn write_data(
        &mut self,
        id: ChannelId,
        extended: Option<u32>,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> bool {
        let Ok(len) = u32::try_from(bytes.len()) else { return false };
        if self.credit(id) < len || !self.is_ready() || self.failure().is_some() {
            return false;
        }
        let packet = self.packet_max(id).max(1);
        let layout = Layout::new(0, extended.is_some(), packet, self.transport.geometry());
        let overhead = layout.header() + 4 + 1 + TAILROOM;
        let wire = u64::from(len) + u64::from(len.div_ceil(packet)) * u64::from(overhead);
        if wire > env.out.free() as u64 {
            return false;
        }
        let Some(channel) = self.channels.get_mut(id) else { return false };
        let reserved = channel.send_window.reserve(len);
        channel.send_window.spend(reserved);
        tally::add(Cost::Copied, u64::from(len));
        let recipient = channel.recipient;
        for data in bytes.chunks(packet as usize) {
            let sent = match extended {
                None => self.transport.send(&ChannelData { recipient, data }, env),
                Some(data_type) => {
                    self.transport.send(&ChannelExtendedData { recipient, data_type, data }, env)
                }
            };
            if let Err(error) = sent {
                self.fail(error, env);
                return false;
            }
        }
        true
    }

    fn seal_frame(
        &mut self,
        frame: Frame,
        header: (u32, Option<u32>, u32),
        buf: &mut [u8],
        entropy: &mut dyn Entropy,
    ) -> Option<()> {
        let packet = frame.packet.of_mut(buf)?;
        let payload_len = write_header(frame, header, packet)?;
        self.transport.seal(packet, payload_len, entropy).ok()
    }

    /// The same for packets that are compressed: they get other lengths, so all are packed before
    /// the first is laid over the place of the next.
    fn pack_plan(
        &mut self,
        layout: Layout,
        got: u32,
        header: (u32, Option<u32>, u32),
        buf: &mut [u8],
        entropy: &mut dyn Entropy,
    ) -> Option<Span> {
        let mut payloads = Vec::with_capacity(FRAMES_MAX);
        for frame in layout.frames(got) {
            let packet = frame.packet.of_mut(buf)?;
            let payload_len = write_header(frame, header, packet)?;
            let payload = packet.get(5..5 + payload_len as usize)?;
            payloads.push(self.transport.pack(payload).ok()?);
        }
        let whole = layout.whole(got);
        let mut end = whole.at;
        for payload in payloads {
            let len = payload.len() as u32;
            let span = Span::new(end, self.transport.geometry().wire_len(len));
            let packet = span.of_mut(buf)?;
            tally::copy(packet.get_mut(5..5 + payload.len())?, &payload);
            self.transport.seal(packet, len, entropy).ok()?;
            end = span.end();
        }
        Some(Span::new(whole.at, end - whole.at))
    }

    /// A plan has ended: `sent` of its bytes are spent, the rest comes back.
    fn settle(&mut self, plan: &Plan, sent: u32) {
        let Some(channel) = self.channels.get_mut(plan.channel) else { return };
        channel.send_window.spend(sent);
        channel.send_window.refund(plan.total() - sent);
        channel.plans = channel.plans.saturating_sub(1);
        let waits = matches!(channel.send, SendHalf::Draining | SendHalf::Closing);
        if waits && channel.plans == 0 {
            self.channels.drained.push(plan.channel);
        }
    }
}

/// Writes the channel header of a packet whose data lies in it; answers its payload's length.
fn write_header(
    frame: Frame,
    (recipient, extended, header): (u32, Option<u32>, u32),
    packet: &mut [u8],
) -> Option<u32> {
    let mut out = Writer::new(packet.get_mut(5..5 + header as usize)?);
    let number = match extended {
        None => number::CHANNEL_DATA,
        Some(_) => number::CHANNEL_EXTENDED_DATA,
    };
    out.byte(number).ok()?;
    out.uint32(recipient).ok()?;
    if let Some(data_type) = extended {
        out.uint32(data_type).ok()?;
    }
    out.uint32(frame.data.len).ok()?;
    Some(header + frame.data.len)
}
