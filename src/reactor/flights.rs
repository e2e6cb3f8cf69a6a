use super::Token;

/// Names a flight among a driver's own; never reused for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u64);

impl Id {
    const fn new(key: u32, generation: u32) -> Id {
        Id((generation as u64) << 32 | key as u64)
    }

    pub(super) const fn from_user_data(user_data: u64) -> Id {
        Id(user_data)
    }

    pub(super) const fn user_data(self) -> u64 {
        self.0
    }

    const fn key(self) -> u32 {
        self.0 as u32
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What an operation in flight is found by.
pub(super) trait Named {
    fn token(&self) -> Token;
}

/// The flights, in a slab that also finds them by token.
#[derive(Debug)]
pub(super) struct Flights<F> {
    slots: Vec<Slot<F>>,
    /// Head of the list of free slots.
    free: u32,
    /// Heads of the chains of flights whose tokens share a hash.
    buckets: Box<[u32]>,
    len: u32,
    max: u32,
}

#[derive(Debug)]
struct Slot<F> {
    generation: u32,
    /// The next free slot, or the next flight in the same bucket.
    next: u32,
    flight: Option<F>,
}

impl<F: Named> Flights<F> {
    /// Address space for `max` flights is reserved now; memory is used as they are.
    pub(super) fn new(max: u32) -> Flights<F> {
        let buckets = max.clamp(1, 1 << 14).next_power_of_two() as usize;
        Flights {
            slots: Vec::with_capacity(max as usize),
            free: NONE,
            buckets: vec![NONE; buckets].into_boxed_slice(),
            len: 0,
            max,
        }
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// All there are now, for who changes them one by one.
    pub(super) fn ids(&self) -> Vec<Id> {
        self.iter().map(|(id, _)| id).collect()
    }

    /// Ends every flight without a completion; `each` disposes of it.
    pub(super) fn end_all(&mut self, mut each: impl FnMut(F)) {
        for id in self.ids() {
            self.remove(id).map(&mut each);
        }
    }

    /// Gives the flight back when there is no room.
    pub(super) fn insert(&mut self, flight: F) -> Result<Id, F> {
        if self.len == self.max {
            return Err(flight);
        }
        let bucket = self.bucket(flight.token());
        let key = match self.free {
            NONE => {
                self.slots.push(Slot { generation: 0, next: NONE, flight: None });
                (self.slots.len() - 1) as u32
            }
            key => {
                self.free = self.slots[key as usize].next;
                key
            }
        };
        let slot = &mut self.slots[key as usize];
        slot.flight = Some(flight);
        slot.next = std::mem::replace(&mut self.buckets[bucket], key);
        self.len += 1;
        Ok(Id::new(key, slot.generation))
    }

    pub(super) fn get(&mut self, id: Id) -> Option<&mut F> {
        let slot = self.slots.get_mut(id.key() as usize)?;
        if slot.generation != id.generation() {
            return None;
        }
        slot.flight.as_mut()
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<F> {
        let token = self.get(id)?.token();
        let key = id.key();
        let next = self.slots[key as usize].next;
        let bucket = self.bucket(token);
        if self.buckets[bucket] == key {
            self.buckets[bucket] = next;
        } else {
            let mut at = self.buckets[bucket];
            while self.slots[at as usize].next != key {
                at = self.slots[at as usize].next;
            }
            self.slots[at as usize].next = next;
        }
        self.len -= 1;
        let slot = &mut self.slots[key as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = std::mem::replace(&mut self.free, key);
        slot.flight.take()
    }

    /// Collects the flights with this token.
    pub(super) fn find(&self, token: Token, found: &mut Vec<Id>) {
        let mut key = self.buckets[self.bucket(token)];
        while key != NONE {
            let slot = &self.slots[key as usize];
            if slot.flight.as_ref().is_some_and(|flight| flight.token() == token) {
                found.push(Id::new(key, slot.generation));
            }
            key = slot.next;
        }
    }

    /// All of them, for shutting down and for assertions.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &F)> {
        self.slots.iter().enumerate().filter_map(|(key, slot)| {
            Some((Id::new(key as u32, slot.generation), slot.flight.as_ref()?))
        })
    }

    fn bucket(&self, token: Token) -> usize {
        let word =
            u64::from(token.key) << 32 | u64::from(token.generation) << 16 | u64::from(token.tag);
        let mixed = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed as usize & (self.buckets.len() - 1)
    }
}

/// No slot. Also keeps user data of this key free for requests that are no flights.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Bare(Token);

    impl Named for Bare {
        fn token(&self) -> Token {
            self.0
        }
    }

    fn token(key: u32, tag: u16) -> Token {
        Token { key, generation: 1, tag }
    }

    #[test]
    fn ids_are_not_reused() {
        let mut flights = Flights::new(2);
        let first = flights.insert(Bare(token(1, 1))).unwrap();
        flights.remove(first).unwrap();
        let second = flights.insert(Bare(token(1, 1))).unwrap();
        assert_ne!(first, second);
        assert!(flights.get(first).is_none());
        assert!(flights.remove(first).is_none());
        assert!(flights.get(second).is_some());
        flights.insert(Bare(token(2, 2))).unwrap();
        assert!(flights.insert(Bare(token(3, 3))).is_err());
        assert_eq!(flights.len(), 2);
    }

    #[test]
    fn finds_every_flight_of_a_token_and_no_other() {
        let mut flights = Flights::new(64);
        let ids: Vec<Id> = (0..60)
            .map(|i| flights.insert(Bare(token(i % 20, (i % 20) as u16))).unwrap())
            .collect();
        for removed in (0..60).step_by(7) {
            flights.remove(ids[removed]).unwrap();
        }
        for key in 0..20usize {
            let mut found = Vec::new();
            flights.find(token(key as u32, key as u16), &mut found);
            let mut want: Vec<Id> =
                (0..60).filter(|i| i % 20 == key && i % 7 != 0).map(|i| ids[i]).collect();
            found.sort_by_key(|id| id.user_data());
            want.sort_by_key(|id| id.user_data());
            assert_eq!(found, want);
        }
        assert_eq!(flights.iter().count() as u32, flights.len());
    }
}
