use std::ptr::null_mut;

use crate::base::Span;
use crate::limits::{FRAMES_MAX, GATHER_MAX};
use crate::reactor::system::each_place;
use crate::reactor::{Errno, Lease, Pool};

/// The memory that one system call reads or fills, in order. Lives on the stack of whoever makes
/// the call.
#[derive(Debug)]
pub(super) struct Places {
    list: [libc::iovec; FRAMES_MAX],
    count: usize,
    bytes: u32,
}

impl Places {
    /// The bytes of `pieces` without the first `skip`.
    pub(super) fn new<'a>(
        pool: &Pool,
        pieces: impl Iterator<Item = (&'a Lease, Span)>,
        skip: u32,
    ) -> Result<Places, Errno> {
        let mut places = Places { list: [NOWHERE; FRAMES_MAX], count: 0, bytes: 0 };
        each_place(pool, pieces, skip, |place| {
            places.list[places.count] = place;
            places.count += 1;
            places.bytes += place.iov_len as u32;
        })?;
        Ok(places)
    }

    pub(super) const fn bytes(&self) -> u32 {
        self.bytes
    }

    pub(super) fn list(&self) -> &[libc::iovec] {
        &self.list[..self.count]
    }

    /// Without the first `count` bytes.
    pub(super) fn skip(&mut self, count: u32) {
        let mut left = count.min(self.bytes) as usize;
        self.bytes -= left as u32;
        let mut gone = 0;
        for place in &mut self.list[..self.count] {
            let used = left.min(place.iov_len);
            place.iov_base = place.iov_base.wrapping_byte_add(used);
            place.iov_len -= used;
            left -= used;
            if place.iov_len > 0 {
                break;
            }
            gone += 1;
        }
        self.list.copy_within(gone..self.count, 0);
        self.count -= gone;
    }
}

const NOWHERE: libc::iovec = libc::iovec { iov_base: null_mut(), iov_len: 0 };

const _: () = assert!(GATHER_MAX <= FRAMES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Class, PoolSizes};

    #[test]
    fn a_list_leaves_out_what_is_done_and_what_is_empty() {
        let mut pool = Pool::new(PoolSizes { small: 0, packet: 1, bulk: 0 }).unwrap();
        let lease = pool.take(Class::Packet).unwrap();
        let base = pool.place(&lease, Span::new(0, 0)).unwrap().as_ptr() as usize;
        let spans = [(10, 5), (20, 0), (30, 7), (40, 1)].map(|(at, len)| Span::new(at, len));
        let seen = |places: &Places| -> Vec<(usize, usize)> {
            places.list().iter().map(|p| (p.iov_base as usize - base, p.iov_len)).collect()
        };
        let list = |skip| Places::new(&pool, spans.iter().map(|span| (&lease, *span)), skip);
        assert_eq!(seen(&list(0).unwrap()), [(10, 5), (30, 7), (40, 1)]);
        for skip in 0..=13 {
            let mut later = list(0).unwrap();
            later.skip(skip);
            assert_eq!(seen(&later), seen(&list(skip).unwrap()), "{skip}");
            assert_eq!(later.bytes(), 13 - skip);
        }
        assert!(list(13).unwrap().list().is_empty());
        pool.give_back(lease);
    }
}
