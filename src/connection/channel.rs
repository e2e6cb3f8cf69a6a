use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::half::{RecvHalf, SendHalf};
use super::slots::Slots;
use super::tuning::{Share, Tuning, WindowBudget};
use super::window::{RecvWindow, SendWindow};
use super::{ChannelId, Event};
use crate::base::Instant;
use crate::limits::{
    CHANNEL_PACKET_BYTES_MAX, CHANNEL_PACKET_BYTES_MIN, CHANNELS_MAX, LINK_WINDOW_BYTES_MAX,
    WINDOW_BYTES, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN,
};
use crate::transport::Error;
use crate::wire::channel::ChannelNumber;

/// One channel, from the OPEN of either side to the CLOSE of both.
#[derive(Debug)]
pub(super) struct Channel {
    pub stage: Stage,
    /// What the peer calls it; not known while we wait for its confirmation.
    pub recipient: ChannelNumber,
    pub is_session: bool,
    /// Attached to something: no second shell, exec or subsystem (RFC 4254 §6.5).
    pub started: bool,
    pub send: SendHalf,
    pub recv: RecvHalf,
    pub send_window: SendWindow,
    pub recv_window: RecvWindow,
    /// Absent until the window is granted again for the first time.
    pub tuning: Option<Box<Tuning>>,
    /// Plans neither sealed nor dropped.
    pub plans: u16,
    /// Requests of ours that the peer has not answered.
    pub unanswered: u32,
    /// A request of the peer's that our owner has not answered.
    pub due: Option<Due>,
    /// Requests that came behind it, encoded.
    pub held: VecDeque<Box<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The peer has asked; our owner has not answered. The peer does not know its number yet.
    Asked,
    /// We have asked; the peer has not answered.
    Asking,
    Open,
}

/// An answer we owe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Granting it attaches the channel to something.
    pub starts: bool,
}

impl Channel {
    pub(super) fn new(stage: Stage, recipient: ChannelNumber, is_session: bool) -> Channel {
        Channel {
            stage,
            recipient,
            is_session,
            started: false,
            send: SendHalf::Open,
            recv: RecvHalf::Open,
            send_window: SendWindow::default(),
            recv_window: RecvWindow::default(),
            tuning: None,
            plans: 0,
            unanswered: 0,
            due: None,
            held: VecDeque::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Messages about the channel may leave: open, and our CLOSE has not.
    pub(super) fn may_speak(&self) -> bool {
        self.is_open() && self.send != SendHalf::Closed
    }

    /// Data of the peer's may still come.
    pub(super) fn hears_data(&self) -> bool {
        self.may_speak() && self.recv == RecvHalf::Open
    }

    /// New data may be laid out.
    pub(super) fn takes_data(&self) -> bool {
        self.is_open() && self.send.takes_data() && self.recv != RecvHalf::Closed
    }

    /// Data laid out before may be sealed: the peer would still take it.
    pub(super) fn seals_data(&self) -> bool {
        self.is_open() && self.send.seals_data() && self.recv != RecvHalf::Closed
    }

    /// The largest data packet either side would have us send.
    pub(super) fn open_sending(&mut self, window_bytes: u32, packet_bytes_max: u32) {
        let packet = packet_bytes_max.min(CHANNEL_PACKET_BYTES_MAX);
        self.send_window = SendWindow::new(window_bytes, packet);
    }
}

/// Global requests that take time. Answers have the order of the requests (RFC 4254 §4), so those
/// behind one that is being carried out wait.
#[derive(Debug, Default)]
pub(super) struct Globals {
    /// Whether the peer wants to hear what comes of the first one; `None` when none is under way.
    pub due: Option<bool>,
    pub held: VecDeque<Box<[u8]>>,
}

/// Every channel of a connection, and what they share.
#[derive(Debug)]
pub(super) struct Channels {
    pub slots: Slots<Channel>,
    sessions: u32,
    /// The sum of receive windows before they grew, for [`LINK_WINDOW_BYTES_MAX`].
    window_sum: u32,
    /// Bytes that channels brought which are gone, and that their owners still hold.
    lingering: u32,
    /// What they have grown by.
    share: Share,
    /// Channels that have one.
    windows: usize,
    /// The sum of [`Channel::held`], for [`crate::limits::HELD_REQUEST_BYTES_MAX`].
    pub held_bytes: usize,
    /// The client will open no more sessions (OpenSSH PROTOCOL §2.2).
    pub no_more_sessions: bool,
    /// Requests go to the owner as they came.
    pub relays: bool,
    /// The peer's requests for proofs of host keys so far.
    pub proofs_asked: u8,
    /// A global request that is being carried out, and those behind it.
    pub global: Option<Box<Globals>>,
    /// Channels whose EOF or CLOSE waited for their last plan, which is gone now.
    pub drained: Vec<ChannelId>,
    /// What happened outside `handle_input`.
    pub events: VecDeque<Event>,
}

impl Channels {
    pub(super) const fn new(budget: Arc<WindowBudget>) -> Channels {
        Channels {
            slots: Slots::new(),
            sessions: 0,
            window_sum: 0,
            lingering: 0,
            share: Share::new(budget),
            windows: 0,
            held_bytes: 0,
            no_more_sessions: false,
            relays: false,
            proofs_asked: 0,
            global: None,
            drained: Vec::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) const fn sessions(&self) -> u32 {
        self.sessions
    }

    pub(super) fn insert(&mut self, channel: Channel) -> Option<ChannelId> {
        let is_session = channel.is_session;
        let window = channel.recv_window.target();
        let id = self.slots.insert(channel)?;
        self.count(is_session, window);
        Some(id)
    }

    pub(super) fn restore(&mut self, id: ChannelId, channel: Channel) -> bool {
        let is_session = channel.is_session;
        let window = channel.recv_window.target();
        // One that had grown elsewhere keeps what the peer was told of.
        let left = LINK_WINDOW_BYTES_MAX.saturating_sub(self.window_sum);
        let floor = window.min(WINDOW_BYTES).min(left.max(WINDOW_BYTES_MIN));
        let mut channel = channel;
        if floor < window {
            self.share.insist(window - floor);
            channel.tuning = Some(Box::new(Tuning::new(floor)));
        }
        let restored = self.slots.restore(id, channel);
        if restored {
            self.count(is_session, floor);
        }
        restored
    }

    fn count(&mut self, is_session: bool, window: u32) {
        self.sessions += u32::from(is_session);
        self.count_window(window);
    }

    fn count_window(&mut self, window: u32) {
        self.windows += usize::from(window > 0);
        self.window_sum = self.window_sum.saturating_add(window);
    }

    /// Gives an open channel its receive window; answers what it came to.
    pub(super) fn grant(&mut self, id: ChannelId, window_bytes: u32, packet_bytes: u32) -> u32 {
        let packet = packet_bytes.clamp(CHANNEL_PACKET_BYTES_MIN, CHANNEL_PACKET_BYTES_MAX);
        let window = self.window_for(window_bytes);
        let Some(channel) = self.slots.get_mut(id) else { return 0 };
        channel.recv_window = RecvWindow::new(window, packet);
        self.count_window(window);
        window
    }

    /// The same for a channel whose peer may send only `bytes` of it at first.
    pub(super) fn grant_part(
        &mut self,
        id: ChannelId,
        window: u32,
        packet: u32,
        bytes: u32,
    ) -> u32 {
        self.grant(id, window, packet);
        self.slots.get_mut(id).map_or(0, |channel| channel.recv_window.begin_with(bytes))
    }

    /// The owner is done with that many bytes. `Some(n)`: send a WINDOW_ADJUST of `n`. The window may
    /// grow to `max`.
    pub(super) fn consumed(
        &mut self,
        id: ChannelId,
        bytes: u32,
        max: u32,
        now: Instant,
    ) -> Option<u32> {
        let channel = self.slots.get_mut(id)?;
        let window = &mut channel.recv_window;
        let grant = window.consume(bytes)?;
        let tuning = channel.tuning.get_or_insert_with(|| Box::new(Tuning::new(window.target())));
        let told = tuning.granted(grant, max, WINDOW_BYTES_MAX, (window, &mut self.share), now);
        (told > 0).then_some(told)
    }

    /// Much is about to come on the channel from a peer that is `turn` away. `Some(n)`: send a WINDOW_ADJUST of
    /// `n`. The window may grow to `max`.
    pub(super) fn expect(&mut self, id: ChannelId, turn: Duration, max: u32) -> Option<u32> {
        let channel = self.slots.get_mut(id)?;
        let window = &mut channel.recv_window;
        let tuning = channel.tuning.get_or_insert_with(|| Box::new(Tuning::new(window.target())));
        let told = tuning.expect(turn, (max, WINDOW_BYTES_MAX), (window, &mut self.share));
        (told > 0).then_some(told)
    }

    /// What all windows have grown by.
    #[cfg(feature = "sim")]
    pub(super) fn grown(&self) -> u64 {
        let by = |channel: &Channel| {
            channel.tuning.as_ref().map_or(0, |tuning| tuning.of_budget(&channel.recv_window))
        };
        self.slots.iter().map(|(_, channel)| u64::from(by(channel))).sum()
    }

    /// What a new channel gets: as much as it asks for while there is plenty, then a share of what
    /// is left over when every other channel there may be has the least there is.
    fn window_for(&self, wanted: u32) -> u32 {
        let others = CHANNELS_MAX.saturating_sub(self.windows) as u32;
        let held = self.window_sum.saturating_add(self.lingering);
        let left = LINK_WINDOW_BYTES_MAX.saturating_sub(held);
        let spare = left.saturating_sub(others.saturating_mul(WINDOW_BYTES_MIN));
        wanted.min(WINDOW_BYTES_MIN + spare / 16).max(1)
    }

    /// The owner of a channel that is gone still holds so many bytes of it.
    pub(super) const fn begin_lingering(&mut self, bytes: u32) {
        self.lingering = self.lingering.saturating_add(bytes);
    }

    /// It holds them no more.
    pub(super) const fn end_lingering(&mut self, bytes: u32) {
        self.lingering = self.lingering.saturating_sub(bytes);
    }

    /// The name is dead from now on.
    pub(super) fn remove(&mut self, id: ChannelId) {
        let Some(channel) = self.slots.remove(id) else { return };
        self.sessions -= u32::from(channel.is_session);
        let window = channel.recv_window.target();
        let grown = channel.tuning.map_or(0, |tuning| tuning.of_budget(&channel.recv_window));
        self.share.give_back(grown);
        self.windows -= usize::from(window > 0);
        self.window_sum = self.window_sum.saturating_sub(window - grown);
        self.forget_held(channel.held);
    }

    /// Requests that will not be answered any more.
    pub(super) fn forget_held(&mut self, held: VecDeque<Box<[u8]>>) {
        let bytes: usize = held.iter().map(|payload| payload.len()).sum();
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }

    pub(super) fn get(&self, id: ChannelId) -> Option<&Channel> {
        self.slots.get(id)
    }

    pub(super) fn get_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.slots.get_mut(id)
    }

    /// The channel a message from the peer is about. Case 83: messages about channels that are
    /// unknown, not open yet or closed by both end the connection.
    pub(super) fn open(
        &mut self,
        number: ChannelNumber,
    ) -> Result<(ChannelId, &mut Channel), Error> {
        let id = ChannelId::from_number(number.0);
        match self.slots.get_mut(id) {
            Some(channel) if channel.stage == Stage::Open => Ok((id, channel)),
            _ => Err(Error::PeerMisbehaved("a message about a channel that is not open")),
        }
    }

    /// The channel an answer to our OPEN is about.
    pub(super) fn asking(&mut self, number: ChannelNumber) -> Result<ChannelId, Error> {
        let id = ChannelId::from_number(number.0);
        match self.slots.get(id) {
            Some(channel) if channel.stage == Stage::Asking => Ok(id),
            _ => Err(Error::PeerMisbehaved("an answer to no open of ours")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_link_have_a_sum() {
        let mut channels = Channels::new(Arc::default());
        let mut sum = 0u64;
        let mut windows = Vec::new();
        let mut ids = Vec::new();
        while let Some(id) = channels.insert(Channel::new(Stage::Asked, ChannelNumber(0), true)) {
            ids.push(id);
        }
        for id in ids {
            let window = channels.grant(id, WINDOW_BYTES, CHANNEL_PACKET_BYTES_MAX);
            sum += u64::from(window);
            windows.push((id, window));
        }
        assert_eq!(windows.len(), CHANNELS_MAX);
        assert!(sum <= u64::from(LINK_WINDOW_BYTES_MAX), "{sum}");
        assert!(windows[..7].iter().all(|(_, window)| *window == WINDOW_BYTES));
        assert!(windows.iter().all(|(_, window)| *window >= WINDOW_BYTES_MIN));
        for (id, _) in windows {
            channels.remove(id);
        }
        assert_eq!((channels.window_sum, channels.windows, channels.sessions()), (0, 0, 0));
    }

    /// SECURITY case 86: channels that are closed full of what nobody takes make the next ones small, so that it comes
    /// to no more than open ones may hold.
    #[test]
    fn case_86_what_lingers_of_closed_channels_counts_among_the_windows() {
        let mut channels = Channels::new(Arc::default());
        let open = |channels: &mut Channels| {
            let channel = Channel::new(Stage::Asked, ChannelNumber(0), true);
            let id = channels.insert(channel).expect("room");
            let window = channels.grant(id, WINDOW_BYTES, CHANNEL_PACKET_BYTES_MAX);
            channels.remove(id);
            window
        };
        let mut held = Vec::new();
        for _ in 0..CHANNELS_MAX {
            let window = open(&mut channels);
            channels.begin_lingering(window);
            held.push(window);
        }
        assert!(held[..7].iter().all(|window| *window == WINDOW_BYTES));
        assert!(held.iter().all(|window| *window >= WINDOW_BYTES_MIN));
        let sum: u64 = held.iter().copied().map(u64::from).sum();
        assert!(sum <= 2 * u64::from(LINK_WINDOW_BYTES_MAX), "{sum}");
        held.into_iter().for_each(|bytes| channels.end_lingering(bytes));
        assert_eq!((channels.lingering, open(&mut channels)), (0, WINDOW_BYTES));
    }
}
