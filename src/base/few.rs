/// A first-in first-out queue of at most `N` items, stored inline. Full is an answer, not a panic.
#[derive(Debug)]
pub struct Few<T, const N: usize> {
    items: [Option<T>; N],
    head: u16,
    len: u16,
}

impl<T, const N: usize> Few<T, N> {
    pub const fn new() -> Few<T, N> {
        const { assert!(N > 0 && N <= u16::MAX as usize) };
        Few { items: [const { None }; N], head: 0, len: 0 }
    }

    pub const fn len(&self) -> usize {
        self.len as usize
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub const fn is_full(&self) -> bool {
        self.len as usize == N
    }

    /// Gives the item back when there is no room.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        let at = (self.head as usize + self.len as usize) % N;
        match self.items.get_mut(at) {
            Some(place) => *place = Some(item),
            None => return Err(item),
        }
        self.len += 1;
        Ok(())
    }

    pub fn pop(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let item = self.items.get_mut(self.head as usize).and_then(Option::take);
        self.head = ((self.head as usize + 1) % N) as u16;
        self.len -= 1;
        item
    }

    pub fn front(&self) -> Option<&T> {
        self.iter().next()
    }

    pub fn front_mut(&mut self) -> Option<&mut T> {
        if self.len == 0 {
            return None;
        }
        self.items.get_mut(self.head as usize).and_then(Option::as_mut)
    }

    pub fn back_mut(&mut self) -> Option<&mut T> {
        if self.len == 0 {
            return None;
        }
        let at = (self.head as usize + self.len as usize - 1) % N;
        self.items.get_mut(at).and_then(Option::as_mut)
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len as usize)
            .filter_map(|i| self.items.get((self.head as usize + i) % N).and_then(Option::as_ref))
    }

    pub fn clear(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<T, const N: usize> Default for Few<T, N> {
    fn default() -> Few<T, N> {
        Few::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_bounded_queue() {
        let mut few: Few<u8, 3> = Few::new();
        assert!(few.is_empty());
        for round in 0..5 {
            assert_eq!(few.push(round), Ok(()));
            assert_eq!(few.push(round + 10), Ok(()));
            assert_eq!(few.push(round + 20), Ok(()));
            assert_eq!(few.push(99), Err(99));
            assert_eq!(few.iter().copied().collect::<Vec<_>>(), [round, round + 10, round + 20]);
            assert_eq!(few.back_mut().copied(), Some(round + 20));
            assert_eq!(few.pop(), Some(round));
            assert_eq!(few.front(), Some(&(round + 10)));
            few.clear();
            assert_eq!(few.pop(), None);
        }
    }
}
