use std::io;
use std::num::{NonZeroU16, NonZeroUsize};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::base::Span;
use crate::limits::{
    BULK_SLOT, BULK_SLOTS, OUTBOX_SHARE, PACKET_SLOT, PACKET_SLOTS, SMALL_SLOT, SMALL_SLOTS,
    TRIM_RESERVE_SLOTS, TRIM_SLOTS_A_CALL,
};

/// Sizes of lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A shared receive buffer with margins, lent to the kernel while idle.
    Small,
    /// One large packet, or an outbox.
    Packet,
    /// Eight packets of 32 KiB as they travel.
    Bulk,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Small, Class::Packet, Class::Bulk];

    /// Size of a lease of this class.
    pub const fn bytes(self) -> u32 {
        match self {
            Class::Small => SMALL_SLOT,
            Class::Packet => PACKET_SLOT,
            Class::Bulk => BULK_SLOT,
        }
    }

    const fn index(self) -> usize {
        match self {
            Class::Small => 0,
            Class::Packet => 1,
            Class::Bulk => 2,
        }
    }
}

/// Classes of which somebody has found none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(u8);

impl Classes {
    pub const NONE: Classes = Classes(0);
    /// A packet lease to say something in, the last ones included.
    pub const OUTBOX: Classes = Classes(1 << 7);

    #[must_use]
    pub const fn with(self, class: Class) -> Classes {
        Classes(self.0 | 1 << class.index())
    }

    #[must_use]
    pub const fn and(self, other: Classes) -> Classes {
        Classes(self.0 | other.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn contains(self, class: Class) -> bool {
        self.0 & 1 << class.index() != 0
    }
}

/// Exclusive claim on a byte range of the shard's region. Move-only: moving it into an operation
/// gives the bytes to the kernel. It must go back through [`Pool::give_back`].
///
/// Dropping one while its pool lives is a bug: the slot stays taken for good. Debug and simulator
/// builds panic; release builds count it ([`leases_lost`]).
#[must_use]
#[derive(Debug)]
pub struct Lease {
    /// Which pool; two shards' leases are not interchangeable.
    home: NonZeroU16,
    slot: u16,
    at: u32,
    len: u32,
}

impl Lease {
    /// Bytes leased.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Nothing is leased; it must be given back all the same.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot's number within the pool; small slots come first.
    pub(super) const fn slot(&self) -> u16 {
        self.slot
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if std::thread::panicking() || !registry().contains(&self.home) {
            return;
        }
        LOST.fetch_add(1, Ordering::Relaxed);
        if cfg!(any(debug_assertions, feature = "sim")) {
            panic!("a lease was dropped instead of given back: {self:?}");
        }
    }
}

/// Leases dropped in this process while their pool lived. Anything but zero is a bug of ours.
pub fn leases_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// How many slots of each class a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    pub small: u32,
    pub packet: u32,
    pub bulk: u32,
}

impl Default for PoolSizes {
    /// What a shard in production has.
    fn default() -> PoolSizes {
        PoolSizes { small: SMALL_SLOTS, packet: PACKET_SLOTS, bulk: BULK_SLOTS }
    }
}

/// Counts since the pool was made. `taken + split == returned` when no lease is out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Leases handed out by [`Pool::take`].
    pub taken: u64,
    /// Further leases made by [`Pool::split`].
    pub split: u64,
    /// Leases given back.
    pub returned: u64,
    /// Times `take` had nothing to hand out.
    pub refused: u64,
    /// Bytes given back to the system by [`Pool::trim`].
    pub trimmed_bytes: u64,
}

impl PoolStats {
    /// Leases out now, halves counted apart.
    pub const fn outstanding(&self) -> u64 {
        self.taken + self.split - self.returned
    }
}

/// The shard's payload memory: one region, sized once, cut into slots of three classes.
///
/// The region is reserved at once and touched as slots are used. Free slots are handed out last in,
/// first out, so a lightly loaded shard keeps reusing the same warm ones.
#[derive(Debug)]
pub struct Pool {
    home: NonZeroU16,
    region: Region,
    shelves: [Shelf; 3],
    /// Leases out on each slot; a slot is free again at zero.
    parts: Box<[u16]>,
    /// Small slots that somebody owns, those on offer not counted.
    small_owned: u16,
    stats: PoolStats,
}

impl Pool {
    /// Reserves the address space. Fails when the system refuses it.
    pub fn new(sizes: PoolSizes) -> io::Result<Pool> {
        let counts = [sizes.small, sizes.packet, sizes.bulk];
        let slots: u32 = counts.iter().sum();
        if slots > u32::from(u16::MAX) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many pool slots"));
        }
        let (mut offset, mut first) = (0usize, 0u16);
        let shelves = Class::ALL.map(|class| {
            let count = counts[class.index()] as u16;
            let shelf = Shelf::new(class, first, count, offset);
            first += count;
            offset = shelf.end().next_multiple_of(PAGE_BYTES);
            shelf
        });
        let region = Region::new(offset)?;
        let parts = vec![0; slots as usize].into_boxed_slice();
        let stats = PoolStats::default();
        Ok(Pool { home: register(), region, shelves, parts, small_owned: 0, stats })
    }

    /// `None` is back-pressure, never an allocation.
    pub fn take(&mut self, class: Class) -> Option<Lease> {
        let Some(slot) = self.shelves[class.index()].pop() else {
            self.stats.refused += 1;
            return None;
        };
        debug_assert_eq!(self.parts[slot as usize], 0);
        self.parts[slot as usize] = 1;
        self.small_owned += u16::from(class == Class::Small);
        self.stats.taken += 1;
        Some(Lease { home: self.home, slot, at: 0, len: class.bytes() })
    }

    /// As [`Pool::take`], for whoever can wait: a few packet leases stay behind. Without them nobody
    /// could say anything any more, not even what would make others give leases back.
    pub fn take_spare(&mut self, class: Class) -> Option<Lease> {
        if !self.has_spare(class) {
            self.stats.refused += 1;
            return None;
        }
        self.take(class)
    }

    /// Cuts `lease` at `at` (from its first byte); it keeps the front, the rest is returned. The
    /// slot is free again when every part has been given back.
    ///
    /// # Panics
    /// When `at` lies behind the lease's end.
    pub fn split(&mut self, lease: &mut Lease, at: u32) -> Lease {
        self.check(lease);
        assert!(at <= lease.len, "split at {at} of a lease of {}", lease.len);
        let parts = &mut self.parts[lease.slot as usize];
        *parts = parts.checked_add(1).expect("a slot has fewer than 65,536 parts");
        self.stats.split += 1;
        let back =
            Lease { home: self.home, slot: lease.slot, at: lease.at + at, len: lease.len - at };
        lease.len = at;
        back
    }

    /// The leased bytes. Sound because leases never overlap.
    pub fn bytes<'a>(&'a self, lease: &'a mut Lease) -> &'a mut [u8] {
        let start = self.start(lease);
        // SAFETY: `start` checks that the lease is this pool's, so the range lies inside the mapped
        // region. Leases never overlap and `lease` is borrowed mutably for as long as the slice, so
        // nobody else can reach these bytes through safe code; the kernel has only bytes of leases
        // that were moved into an operation. The region is zeroed memory, valid for any u8.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), lease.len as usize) }
    }

    /// The leased bytes, to look at.
    pub fn view<'a>(&'a self, lease: &'a Lease) -> &'a [u8] {
        let start = self.start(lease);
        // SAFETY: as for `bytes`; the lease is borrowed shared, so no mutable slice of it exists.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), lease.len as usize) }
    }

    /// Ends a lease.
    ///
    /// # Panics
    /// When it is another pool's.
    pub fn give_back(&mut self, lease: Lease) {
        self.check(&lease);
        let slot = lease.slot;
        std::mem::forget(lease);
        self.stats.returned += 1;
        let parts = &mut self.parts[slot as usize];
        *parts -= 1;
        if *parts == 0 {
            let class = self.class_of_slot(slot);
            self.small_owned -= u16::from(class == Class::Small);
            self.shelves[class.index()].push(slot);
        }
    }

    /// Slots of this class that could be taken now.
    pub fn free(&self, class: Class) -> usize {
        self.shelves[class.index()].free.len()
    }

    /// A lease of one of these classes could be had now.
    pub fn has_any(&self, classes: Classes) -> bool {
        let outbox = classes.0 & Classes::OUTBOX.0 != 0 && self.free(Class::Packet) > 0;
        let spare = |class: &Class| classes.contains(*class) && self.has_spare(*class);
        outbox || Class::ALL.iter().any(spare)
    }

    fn has_spare(&self, class: Class) -> bool {
        self.free(class) > self.reserve(class)
    }

    /// Slots that only [`Pool::take`] gives.
    fn reserve(&self, class: Class) -> usize {
        match class {
            Class::Packet => self.slots(class).div_ceil(OUTBOX_SHARE),
            Class::Small | Class::Bulk => 0,
        }
    }

    /// Few slots of this class are left: what does not move should not hold any. Said while there
    /// are still some to spare, however small the pool is.
    pub fn is_scarce(&self, class: Class) -> bool {
        let slots = self.slots(class);
        match class {
            // Those on offer are not free, and are not gone either.
            Class::Small => usize::from(self.small_owned) + slots / 4 >= slots,
            Class::Packet => self.free(class) <= self.reserve(class) + slots / 8,
            Class::Bulk => self.free(class) < slots.div_ceil(4),
        }
    }

    /// Slots of this class in all.
    pub fn slots(&self, class: Class) -> usize {
        self.shelves[class.index()].count as usize
    }

    /// Counts since the pool was made.
    pub const fn stats(&self) -> PoolStats {
        self.stats
    }

    /// Gives the memory of packet and bulk slots that stayed free since the last call back to the
    /// system, beyond a small reserve, so that resident memory falls again after a burst. Returns
    /// the bytes given back. To be called about once a second; bounded work a call.
    pub fn trim(&mut self) -> u64 {
        let mut trimmed = 0;
        for class in [Class::Packet, Class::Bulk] {
            for slot in self.shelves[class.index()].idle_slots() {
                let start = self.region.at(self.shelves[class.index()].offset_of(slot));
                // SAFETY: the slot is free, so no lease, slice or kernel operation refers to its
                // pages; slots of these classes start and end at page boundaries.
                let advised = unsafe {
                    madvise(start.cast(), class.bytes() as usize, MmapAdvise::MADV_DONTNEED)
                };
                if advised.is_ok() {
                    trimmed += u64::from(class.bytes());
                }
            }
        }
        self.stats.trimmed_bytes += trimmed;
        trimmed
    }

    /// A small lease that a driver keeps on offer. It counts as taken only when bytes arrive in it
    /// and [`Pool::claim`] says so.
    pub(super) fn lend(&mut self) -> Option<Lease> {
        let slot = self.shelves[Class::Small.index()].pop()?;
        self.parts[slot as usize] = 1;
        Some(Lease { home: self.home, slot, at: 0, len: SMALL_SLOT })
    }

    /// A lent lease is about to be handed to an owner.
    pub(super) fn claim(&mut self, lease: &Lease) {
        self.check(lease);
        self.small_owned += 1;
        self.stats.taken += 1;
    }

    /// Takes back a lent lease that was never claimed.
    pub(super) fn unlend(&mut self, lease: Lease) {
        self.claim(&lease);
        self.give_back(lease);
    }

    /// Where `span` of the lease lies in memory; `None` when the lease has no such bytes.
    pub(super) fn place(&self, lease: &Lease, span: Span) -> Option<NonNull<u8>> {
        let end = span.at.checked_add(span.len)?;
        if end > lease.len {
            return None;
        }
        let start = self.start(lease);
        // SAFETY: `span` lies inside the lease, which lies inside the region.
        Some(unsafe { start.add(span.at as usize) })
    }

    /// Never unmaps the region: for a driver that had to give up on operations in flight.
    pub(super) fn leak_region(&mut self) {
        self.region.leaked = true;
    }

    fn class_of_slot(&self, slot: u16) -> Class {
        let [_, packet, bulk] = &self.shelves;
        match slot {
            slot if slot >= bulk.first => Class::Bulk,
            slot if slot >= packet.first => Class::Packet,
            _ => Class::Small,
        }
    }

    /// A lease from elsewhere would alias somebody's bytes: never go on.
    fn check(&self, lease: &Lease) {
        assert_eq!(lease.home, self.home, "a lease of another pool");
    }

    fn start(&self, lease: &Lease) -> NonNull<u8> {
        self.check(lease);
        let shelf = &self.shelves[self.class_of_slot(lease.slot).index()];
        self.region.at(shelf.offset_of(lease.slot) + lease.at as usize)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        registry().retain(|home| *home != self.home);
    }
}

/// The slots of one class and the free ones among them.
#[derive(Debug)]
struct Shelf {
    class: Class,
    first: u16,
    count: u16,
    /// Of the first slot, in the region.
    offset: usize,
    /// Last in, first out: the top is the warmest.
    free: Vec<u16>,
    /// Entries at the bottom of `free` whose memory the system has (never touched, or trimmed).
    clean: usize,
    /// The shortest `free` has been since the last trim: what lies below was not used.
    low_water: usize,
}

impl Shelf {
    fn new(class: Class, first: u16, count: u16, offset: usize) -> Shelf {
        let free: Vec<u16> = (first..first + count).rev().collect();
        let len = free.len();
        Shelf { class, first, count, offset, free, clean: len, low_water: len }
    }

    fn pop(&mut self) -> Option<u16> {
        let slot = self.free.pop()?;
        self.clean = self.clean.min(self.free.len());
        self.low_water = self.low_water.min(self.free.len());
        Some(slot)
    }

    fn push(&mut self, slot: u16) {
        debug_assert!(self.free.len() < self.count as usize);
        self.free.push(slot);
    }

    const fn end(&self) -> usize {
        self.offset + self.count as usize * self.class.bytes() as usize
    }

    const fn offset_of(&self, slot: u16) -> usize {
        self.offset + (slot - self.first) as usize * self.class.bytes() as usize
    }

    /// Touched slots that were free all the time since the last call, less the reserve; they count
    /// as clean from now on.
    fn idle_slots(&mut self) -> impl Iterator<Item = u16> + use<> {
        let until = self.low_water.saturating_sub(TRIM_RESERVE_SLOTS);
        let until = until.clamp(self.clean, self.clean + TRIM_SLOTS_A_CALL);
        let idle: Vec<u16> = self.free[self.clean..until].to_vec();
        self.clean = until;
        self.low_water = self.free.len();
        idle.into_iter()
    }
}

/// Anonymous memory that children do not inherit.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    len: NonZeroUsize,
    leaked: bool,
}

impl Region {
    fn new(len: usize) -> io::Result<Region> {
        let len = NonZeroUsize::new(len)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an empty pool"))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the system's choice.
        let start = unsafe { mmap_anonymous(None, len, access, flags) }?;
        let region = Region { start: start.cast(), len, leaked: false };
        // Huge pages would make the first byte of a slot cost two megabytes of memory, and forked
        // children have no business with payload bytes. Both are only advice.
        for advice in [MmapAdvise::MADV_NOHUGEPAGE, MmapAdvise::MADV_DONTFORK] {
            // SAFETY: the mapping is ours and nothing refers to it yet.
            let _ = unsafe { madvise(region.start.cast(), len.get(), advice) };
        }
        Ok(region)
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.len.get());
        // SAFETY: within the mapping or one past its end.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: mapped by `new` with this length; slices borrow the pool, which is going.
            let _ = unsafe { munmap(self.start.cast(), self.len.get()) };
        }
    }
}

/// A name no living pool has. Names repeat after 65,535 pools.
fn register() -> NonZeroU16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut living = registry();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % u64::from(u16::MAX);
        let home = NonZeroU16::MIN.saturating_add(number as u16);
        if !living.contains(&home) {
            living.push(home);
            return home;
        }
    }
}

fn registry() -> std::sync::MutexGuard<'static, Vec<NonZeroU16>> {
    LIVING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

static LIVING: Mutex<Vec<NonZeroU16>> = Mutex::new(Vec::new());
static LOST: AtomicU64 = AtomicU64::new(0);

/// Slots worth trimming are made of whole pages of this size.
const PAGE_BYTES: usize = 4096;

const _: () = assert!((PACKET_SLOT as usize).is_multiple_of(PAGE_BYTES));
const _: () = assert!((BULK_SLOT as usize).is_multiple_of(PAGE_BYTES));
const _: () = assert!(SMALL_SLOT.is_multiple_of(64), "small slots keep cache lines whole");
const _: () = assert!(SMALL_SLOTS + PACKET_SLOTS + BULK_SLOTS <= u16::MAX as u32);
const _: () = assert!(size_of::<Option<Lease>>() == 12);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(small: u32, packet: u32, bulk: u32) -> Pool {
        Pool::new(PoolSizes { small, packet, bulk }).unwrap()
    }

    #[test]
    fn empty_is_back_pressure() {
        let mut pool = pool(1, 2, 1);
        let first = pool.take(Class::Packet).unwrap();
        let second = pool.take(Class::Packet).unwrap();
        assert!(pool.take(Class::Packet).is_none());
        assert_eq!(pool.stats().refused, 1);
        pool.give_back(first);
        let third = pool.take(Class::Packet).unwrap();
        pool.give_back(second);
        pool.give_back(third);
        assert_eq!(pool.stats().outstanding(), 0);
        assert_eq!(pool.free(Class::Packet), 2);
    }

    #[test]
    fn the_warmest_slot_is_taken_first() {
        let mut pool = pool(4, 4, 4);
        let first = pool.take(Class::Bulk).unwrap();
        let slot = first.slot();
        pool.give_back(first);
        for _ in 0..10 {
            let again = pool.take(Class::Bulk).unwrap();
            assert_eq!(again.slot(), slot);
            pool.give_back(again);
        }
    }

    #[test]
    fn a_slot_is_free_after_its_last_part() {
        let mut pool = pool(1, 1, 1);
        let mut front = pool.take(Class::Bulk).unwrap();
        let mut middle = pool.split(&mut front, 1000);
        let back = pool.split(&mut middle, 0);
        assert_eq!((front.len(), middle.len(), back.len()), (1000, 0, BULK_SLOT - 1000));
        assert!(middle.is_empty());
        pool.give_back(front);
        pool.give_back(back);
        assert_eq!(pool.free(Class::Bulk), 0);
        pool.give_back(middle);
        assert_eq!(pool.free(Class::Bulk), 1);
    }

    #[test]
    fn what_is_on_offer_is_not_scarce() {
        let mut pool = pool(8, 8, 8);
        let mut offered: Vec<Lease> = (0..8).map(|_| pool.lend().unwrap()).collect();
        assert!(Class::ALL.iter().all(|class| !pool.is_scarce(*class)));
        for lease in &offered[..5] {
            pool.claim(lease);
        }
        assert!(!pool.is_scarce(Class::Small));
        pool.claim(&offered[5]);
        assert!(pool.is_scarce(Class::Small));
        let mut front = offered.swap_remove(5);
        let back = pool.split(&mut front, 10);
        pool.give_back(front);
        assert!(pool.is_scarce(Class::Small), "a part is still out");
        pool.give_back(back);
        assert!(!pool.is_scarce(Class::Small));
        for lease in offered.drain(5..) {
            pool.unlend(lease);
        }
        for lease in offered {
            pool.give_back(lease);
        }
        let large: Vec<Lease> = (0..6).map(|_| pool.take(Class::Packet).unwrap()).collect();
        assert!(pool.is_scarce(Class::Packet) && !pool.is_scarce(Class::Bulk));
        for lease in large {
            pool.give_back(lease);
        }
        assert_eq!(pool.stats().outstanding(), 0);
    }

    #[test]
    fn memory_is_scarce_before_there_is_none_to_spare() {
        for slots in 1..80 {
            let mut pool = pool(1, slots, slots);
            for class in [Class::Packet, Class::Bulk] {
                let mut taken = Vec::new();
                while !pool.is_scarce(class) {
                    taken.push(pool.take_spare(class).expect("said not to be scarce"));
                }
                let few = pool.slots(class) < OUTBOX_SHARE;
                assert!(few || pool.has_spare(class), "{slots} {class:?}");
                for lease in taken {
                    pool.give_back(lease);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a lease of another pool")]
    fn another_pools_lease_is_refused() {
        let mut ours = pool(1, 1, 1);
        let mut other = pool(1, 1, 1);
        let lease = other.take(Class::Packet).unwrap();
        ours.give_back(lease);
    }

    #[test]
    fn dropping_a_lease_trips_the_bomb_while_the_pool_lives() {
        let mut pool = pool(1, 1, 1);
        let lost = leases_lost();
        let lease = pool.take(Class::Small).unwrap();
        std::panic::catch_unwind(move || drop(lease)).unwrap_err();
        assert!(leases_lost() > lost);
        let late = pool.take(Class::Packet).unwrap();
        drop(pool);
        drop(late);
    }

    #[test]
    fn spans_outside_a_lease_have_no_place() {
        let mut pool = pool(1, 1, 1);
        let mut lease = pool.take(Class::Packet).unwrap();
        let back = pool.split(&mut lease, 100);
        assert!(pool.place(&lease, Span::new(0, 100)).is_some());
        assert!(pool.place(&lease, Span::new(100, 0)).is_some());
        assert!(pool.place(&lease, Span::new(1, 100)).is_none());
        assert!(pool.place(&lease, Span::new(u32::MAX, 2)).is_none());
        assert_eq!(
            pool.place(&back, Span::new(5, 1)).unwrap(),
            pool.place(&lease, Span::new(100, 0)).map(|end| further(end, 5)).unwrap()
        );
        pool.give_back(lease);
        pool.give_back(back);
    }

    fn further(at: NonNull<u8>, by: usize) -> NonNull<u8> {
        NonNull::new(at.as_ptr().wrapping_add(by)).unwrap()
    }

    /// Pages of the pool's region that are in memory.
    fn resident(pool: &Pool) -> usize {
        let pages = pool.region.len.get().div_ceil(PAGE_BYTES);
        let mut map = vec![0u8; pages];
        // SAFETY: `map` has a byte for each page of a mapping of ours.
        let done = unsafe {
            libc::mincore(
                pool.region.start.as_ptr().cast(),
                pool.region.len.get(),
                map.as_mut_ptr(),
            )
        };
        assert_eq!(done, 0);
        map.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn memory_returns_after_a_burst() {
        let mut pool = pool(4, 64, 64);
        assert_eq!(resident(&pool), 0);
        let leases: Vec<Lease> = (0..64).map(|_| pool.take(Class::Bulk).unwrap()).collect();
        let leases: Vec<Lease> = leases
            .into_iter()
            .map(|mut lease| {
                pool.bytes(&mut lease).fill(7);
                lease
            })
            .collect();
        let burst = resident(&pool);
        assert!(burst >= 64 * 66);
        leases.into_iter().for_each(|lease| pool.give_back(lease));
        assert_eq!(pool.trim(), 0, "freed a moment ago");
        let mut trimmed = pool.trim();
        while trimmed < u64::from(BULK_SLOT) * (64 - TRIM_RESERVE_SLOTS as u64) {
            let more = pool.trim();
            assert_ne!(more, 0);
            trimmed += more;
        }
        assert_eq!(pool.trim(), 0);
        assert_eq!(resident(&pool), TRIM_RESERVE_SLOTS * 66);
        assert_eq!(pool.stats().trimmed_bytes, trimmed);
        let all: Vec<Lease> = (0..64).map(|_| pool.take(Class::Bulk).unwrap()).collect();
        let zeroed =
            all.iter().filter(|lease| pool.view(lease).iter().all(|byte| *byte == 0)).count();
        assert_eq!(zeroed, 64 - TRIM_RESERVE_SLOTS);
        all.into_iter().for_each(|lease| pool.give_back(lease));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(u8),
        Split(usize, u32),
        Give(usize),
        Trim,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..3).prop_map(Step::Take),
            (any::<usize>(), any::<u32>()).prop_map(|(which, at)| Step::Split(which, at)),
            any::<usize>().prop_map(Step::Give),
            Just(Step::Trim),
        ]
    }

    proptest! {
        /// Each lease is filled with its own pattern; any overlap, or a trim that hits a lease in
        /// use, shows when it is given back.
        #[test]
        fn leases_never_overlap(steps in prop::collection::vec(step(), 1..80)) {
            let mut pool = pool(3, 3, 3);
            let mut out: Vec<(Lease, u8)> = Vec::new();
            let mut next = 0u8;
            let mut fill = |pool: &Pool, lease: &mut Lease| {
                next = next.wrapping_add(1).max(1);
                pool.bytes(lease).fill(next);
                next
            };
            for step in steps {
                match step {
                    Step::Take(class) => {
                        if let Some(mut lease) = pool.take(Class::ALL[class as usize]) {
                            let mark = fill(&pool, &mut lease);
                            out.push((lease, mark));
                        }
                    }
                    Step::Split(which, at) if !out.is_empty() => {
                        let which = which % out.len();
                        let (lease, _) = &mut out[which];
                        let at = at % (lease.len() + 1);
                        let mut back = pool.split(lease, at);
                        let mark = fill(&pool, &mut back);
                        out.push((back, mark));
                    }
                    Step::Give(which) if !out.is_empty() => {
                        let (lease, mark) = out.swap_remove(which % out.len());
                        prop_assert!(pool.view(&lease).iter().all(|byte| *byte == mark));
                        pool.give_back(lease);
                    }
                    Step::Trim => drop(pool.trim()),
                    _ => {}
                }
            }
            for (lease, mark) in out {
                prop_assert!(pool.view(&lease).iter().all(|byte| *byte == mark));
                pool.give_back(lease);
            }
            prop_assert_eq!(pool.stats().outstanding(), 0);
            for class in Class::ALL {
                prop_assert_eq!(pool.free(class), pool.slots(class));
            }
        }
    }
}
