use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::Instant;

/// Deadlines of the things a shard owns, one each, named by slab key.
///
/// Most deadlines are moved to later long before they expire (each packet postpones one), so moving
/// one to later costs two stores: the heap keeps the earlier entry and corrects it when it surfaces.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    keys: Vec<Deadline>,
    /// Keys with a deadline.
    live: usize,
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    /// The heap entry that stands for this key; others with it are stale.
    queued: Instant,
}

impl Timers {
    pub fn new() -> Timers {
        Timers::default()
    }

    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: u32, at: Instant) {
        let at = at.min(LATEST);
        let index = key as usize;
        if index >= self.keys.len() {
            self.keys.resize(index + 1, Deadline { at: NEVER, queued: NEVER });
        }
        let deadline = &mut self.keys[index];
        if deadline.at == NEVER {
            self.live += 1;
        }
        deadline.at = at;
        if at < deadline.queued {
            deadline.queued = at;
            self.heap.push(Reverse((at, key)));
            self.compact();
        }
    }

    /// Forgets the deadline of `key`, if it has one.
    pub fn clear(&mut self, key: u32) {
        if let Some(deadline) = self.keys.get_mut(key as usize)
            && deadline.at != NEVER
        {
            deadline.at = NEVER;
            self.live -= 1;
        }
    }

    /// The deadline of `key`.
    pub fn deadline(&self, key: u32) -> Option<Instant> {
        self.keys.get(key as usize).map(|deadline| deadline.at).filter(|at| *at != NEVER)
    }

    /// The earliest deadline.
    pub fn earliest(&mut self) -> Option<Instant> {
        while let Some(&Reverse((at, key))) = self.heap.peek() {
            if self.settle(at, key) {
                return Some(at);
            }
        }
        None
    }

    /// A key whose deadline is not after `now`, earliest first, equal ones by key. Its deadline is
    /// cleared.
    pub fn pop(&mut self, now: Instant) -> Option<u32> {
        while let Some(&Reverse((at, key))) = self.heap.peek() {
            if at > now {
                return None;
            }
            if self.settle(at, key) {
                self.heap.pop();
                self.keys[key as usize] = Deadline { at: NEVER, queued: NEVER };
                self.live -= 1;
                return Some(key);
            }
        }
        None
    }

    /// Keys with a deadline.
    pub const fn len(&self) -> usize {
        self.live
    }

    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Whether the entry on top of the heap is a true deadline; if not, removes or corrects it.
    fn settle(&mut self, at: Instant, key: u32) -> bool {
        let deadline = &mut self.keys[key as usize];
        if deadline.queued == at && deadline.at == at {
            return true;
        }
        self.heap.pop();
        if deadline.queued == at {
            deadline.queued = deadline.at;
            if deadline.at != NEVER {
                self.heap.push(Reverse((deadline.at, key)));
            }
        }
        false
    }

    /// Deadlines that keep moving to earlier leave stale entries behind; this bounds them.
    fn compact(&mut self) {
        if self.heap.len() <= 2 * self.live + 64 {
            return;
        }
        self.heap.clear();
        for (key, deadline) in self.keys.iter_mut().enumerate() {
            deadline.queued = deadline.at;
            if deadline.at != NEVER {
                self.heap.push(Reverse((deadline.at, key as u32)));
            }
        }
    }
}

const NEVER: Instant = Instant::from_nanos(u64::MAX);
const LATEST: Instant = Instant::from_nanos(u64::MAX - 1);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn expires_in_order_and_once() {
        let mut timers = Timers::new();
        timers.set(3, at(30));
        timers.set(1, at(10));
        timers.set(2, at(30));
        assert_eq!(timers.earliest(), Some(at(10)));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(timers.pop(at(30)), Some(1));
        assert_eq!(timers.pop(at(30)), Some(2));
        assert_eq!(timers.pop(at(30)), Some(3));
        assert_eq!(timers.pop(at(30)), None);
        assert!(timers.is_empty());
    }

    #[test]
    fn moving_to_later_leaves_one_entry() {
        let mut timers = Timers::new();
        for nanos in 0..10_000 {
            timers.set(0, at(100 + nanos));
        }
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.earliest(), Some(at(10_099)));
        assert_eq!(timers.pop(at(10_098)), None);
        assert_eq!(timers.pop(at(10_099)), Some(0));
    }

    #[test]
    fn moving_to_earlier_stays_bounded() {
        let mut timers = Timers::new();
        for nanos in (0..100_000).rev() {
            timers.set(7, at(nanos));
        }
        assert!(timers.heap.len() <= 66);
        assert_eq!(timers.pop(at(0)), Some(7));
        assert_eq!(timers.pop(at(u64::MAX)), None);
    }

    #[test]
    fn the_end_of_time_is_a_deadline() {
        let mut timers = Timers::new();
        timers.set(0, at(u64::MAX));
        assert!(timers.earliest().is_some());
        assert_eq!(timers.pop(at(u64::MAX)), Some(0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..8, 0u64..100).prop_map(|(key, delay)| Step::Set(key, delay)),
            1 => (0u32..8).prop_map(Step::Clear),
            2 => (0u64..40).prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..200)) {
            let mut timers = Timers::new();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Set(key, delay) => {
                        timers.set(key, at(now + delay));
                        model.insert(key, now + delay);
                    }
                    Step::Clear(key) => {
                        timers.clear(key);
                        model.remove(&key);
                    }
                    Step::Advance(by) => {
                        now += by;
                        let mut due: Vec<(u64, u32)> =
                            model.iter().filter(|(_, at)| **at <= now).map(|(k, a)| (*a, *k)).collect();
                        due.sort_unstable();
                        for (_, key) in due {
                            prop_assert_eq!(timers.pop(at(now)), Some(key));
                            model.remove(&key);
                        }
                        prop_assert_eq!(timers.pop(at(now)), None);
                    }
                }
                prop_assert_eq!(timers.earliest(), model.values().min().copied().map(at));
                prop_assert_eq!(timers.len(), model.len());
                for key in 0..8 {
                    prop_assert_eq!(timers.deadline(key), model.get(&key).copied().map(at));
                }
            }
        }
    }
}
