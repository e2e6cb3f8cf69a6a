//! Channels by number. A number names one channel for as long as a peer could still mean it.

use crate::limits::CHANNELS_MAX;

/// Names one channel of one connection, for good: a slot and the generation of its tenant.
///
/// It is also the number we give the peer (RFC 4254 §5.1), so a message meant for a former tenant
/// of the slot is recognised as such. The peer's own number is a
/// [`crate::wire::channel::ChannelNumber`] and never stands for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(u32);

impl ChannelId {
    /// What the peer calls this channel. For logs and messages.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The channel of this number, if there is one: only [`Slots`] can tell.
    pub(crate) const fn from_number(number: u32) -> ChannelId {
        ChannelId(number)
    }

    const fn slot(self) -> usize {
        (self.0 % SLOTS) as usize
    }

    const fn generation(self) -> u32 {
        self.0 / SLOTS
    }
}

/// At most [`CHANNELS_MAX`] tenants. Memory grows with the most there ever were at one time.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// Free slots, the last one freed first.
    free: Vec<u16>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    tenant: Option<Box<T>>,
}

impl<T> Slots<T> {
    pub(super) const fn new() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= CHANNELS_MAX
    }

    /// `None` when there are as many as there may be.
    pub(super) fn insert(&mut self, tenant: T) -> Option<ChannelId> {
        if let Some(at) = self.free.pop() {
            let slot = self.slots.get_mut(usize::from(at))?;
            slot.tenant = Some(Box::new(tenant));
            return Some(ChannelId(slot.generation * SLOTS + u32::from(at)));
        }
        if self.slots.len() >= CHANNELS_MAX {
            return None;
        }
        let at = self.slots.len() as u32;
        if self.slots.is_empty() {
            // Most connections have one channel for life; growth by doubling starts at four.
            self.slots.reserve_exact(1);
        }
        self.slots.push(Slot { generation: 0, tenant: Some(Box::new(tenant)) });
        Some(ChannelId(at))
    }

    /// Puts a tenant back under the name it had elsewhere; false when the name is taken or no name.
    pub(super) fn restore(&mut self, id: ChannelId, tenant: T) -> bool {
        while self.slots.len() <= id.slot() {
            self.free.push(self.slots.len() as u16);
            self.slots.push(Slot { generation: 0, tenant: None });
        }
        match self.slots.get_mut(id.slot()) {
            Some(slot) if slot.tenant.is_none() => {
                *slot = Slot { generation: id.generation(), tenant: Some(Box::new(tenant)) };
                self.free.retain(|free| usize::from(*free) != id.slot());
                true
            }
            _ => false,
        }
    }

    pub(super) fn get(&self, id: ChannelId) -> Option<&T> {
        self.slots
            .get(id.slot())
            .filter(|slot| slot.generation == id.generation())
            .and_then(|slot| slot.tenant.as_deref())
    }

    pub(super) fn get_mut(&mut self, id: ChannelId) -> Option<&mut T> {
        self.slots
            .get_mut(id.slot())
            .filter(|slot| slot.generation == id.generation())
            .and_then(|slot| slot.tenant.as_deref_mut())
    }

    /// The name is dead from now on; the slot's next tenant gets another.
    pub(super) fn remove(&mut self, id: ChannelId) -> Option<Box<T>> {
        let slot = self.slots.get_mut(id.slot())?;
        if slot.generation != id.generation() {
            return None;
        }
        let tenant = slot.tenant.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(id.slot() as u16);
        Some(tenant)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ChannelId, &T)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| {
            let id = ChannelId(slot.generation * SLOTS + at as u32);
            slot.tenant.as_deref().map(|tenant| (id, tenant))
        })
    }
}

const SLOTS: u32 = CHANNELS_MAX as u32;
/// Numbers are 32 bits; what the slot leaves of them counts tenants.
const GENERATIONS: u32 = u32::MAX / SLOTS;

const _: () = assert!(CHANNELS_MAX <= u16::MAX as usize && GENERATIONS > 1 << 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_used_again() {
        let mut slots = Slots::new();
        let first = slots.insert('a').expect("room");
        let second = slots.insert('b').expect("room");
        assert_eq!((first.number(), second.number()), (0, 1));
        assert_eq!(slots.remove(first).as_deref(), Some(&'a'));
        assert_eq!(slots.remove(first), None);
        let third = slots.insert('c').expect("room");
        assert_eq!(third.slot(), first.slot());
        assert_ne!(third, first);
        assert_eq!((slots.get(first), slots.get(third)), (None, Some(&'c')));
        assert_eq!(slots.get(ChannelId::from_number(u32::MAX)), None);
        assert_eq!(slots.iter().map(|(id, _)| id).collect::<Vec<_>>(), [third, second]);
    }

    #[test]
    fn case_86_memory_is_flat_over_a_million_tenants() {
        let mut slots = Slots::new();
        for round in 0..1_000_000 {
            let id = slots.insert(round).expect("room");
            assert_eq!(slots.remove(id).as_deref(), Some(&round));
        }
        assert_eq!((slots.slots.capacity(), slots.len()), (1, 0));
    }

    #[test]
    fn case_85_there_is_a_last_one() {
        let mut slots = Slots::new();
        let ids: Vec<_> = (0..CHANNELS_MAX).map(|n| slots.insert(n).expect("room")).collect();
        assert!(slots.is_full());
        assert_eq!(slots.insert(0), None);
        assert!(slots.remove(ids[7]).is_some());
        assert!(slots.insert(0).is_some());
    }

    #[test]
    fn names_survive_a_move() {
        let mut slots = Slots::new();
        let id = ChannelId(5 * SLOTS + 3);
        assert!(slots.restore(id, 'x'));
        assert!(!slots.restore(ChannelId(6 * SLOTS + 3), 'y'), "the slot is taken");
        assert_eq!((slots.get(id), slots.len()), (Some(&'x'), 1));
        for _ in 0..3 {
            assert_ne!(slots.insert('z').expect("room").slot(), 3);
        }
        assert_eq!(slots.insert('z').map(ChannelId::slot), Some(4));
    }
}
