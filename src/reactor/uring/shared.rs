use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::base::Span;
use crate::limits::{HEADROOM, SMALL_BYTES};
use crate::reactor::{Class, Lease, Pool};

/// Small leases on offer to the kernel, which picks one when bytes arrive for a shared receive.
///
/// The buffer's number is its slot's number, so a completion finds its lease by index.
#[derive(Debug)]
pub(super) struct SharedBuffers {
    entries: NonNull<BufRingEntry>,
    bytes: NonZeroUsize,
    mask: u16,
    tail: u16,
    offered: Box<[Option<Lease>]>,
    count: usize,
    target: usize,
}

impl SharedBuffers {
    /// Registers an empty ring of offers. `None` when the kernel has none of these.
    pub(super) fn new(ring: &IoUring, pool: &Pool) -> io::Result<Option<SharedBuffers>> {
        let target = offers(pool);
        if target == 0 {
            return Ok(None);
        }
        let slots = target.next_power_of_two().min(1 << 15);
        let Some(bytes) = NonZeroUsize::new(slots * size_of::<BufRingEntry>()) else {
            return Ok(None);
        };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the system's choice.
        let entries = unsafe { mmap_anonymous(None, bytes, access, MapFlags::MAP_PRIVATE) }?;
        // SAFETY: the mapping is ours. A child that inherited it would write to pages it no longer
        // shares with the kernel.
        let _ = unsafe { madvise(entries, bytes.get(), MmapAdvise::MADV_DONTFORK) };
        let shared = SharedBuffers {
            entries: entries.cast(),
            bytes,
            mask: (slots - 1) as u16,
            tail: 0,
            offered: (0..pool.slots(Class::Small)).map(|_| None).collect(),
            count: 0,
            target: target.min(slots),
        };
        // SAFETY: the mapping holds `slots` entries, starts at a page, and is unmapped only after
        // the ring is gone (see the order of the driver's fields) or never registered.
        let registered = unsafe {
            ring.submitter().register_buf_ring_with_flags(
                shared.entries.as_ptr() as u64,
                slots as u16,
                GROUP,
                0,
            )
        };
        Ok(registered.is_ok().then_some(shared))
    }

    /// Buffers the kernel may pick now.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Offers small leases that have come back to the pool.
    pub(super) fn publish(&mut self, pool: &mut Pool) {
        let before = self.tail;
        while self.count < self.target {
            let Some(lease) = pool.lend() else { break };
            self.offer(lease, pool);
        }
        if self.tail != before {
            self.announce();
        }
    }

    /// The lease the kernel picked. `None` would be a buffer that was not on offer.
    pub(super) fn picked(&mut self, buffer: u16) -> Option<Lease> {
        let lease = self.offered.get_mut(buffer as usize)?.take()?;
        self.count -= 1;
        Some(lease)
    }

    /// Takes all offers back; the kernel must not have the ring any more.
    pub(super) fn withdraw(&mut self, pool: &mut Pool) {
        for lease in self.offered.iter_mut().filter_map(Option::take) {
            pool.unlend(lease);
        }
        self.count = 0;
    }

    fn offer(&mut self, lease: Lease, pool: &Pool) {
        let room = Span::new(HEADROOM, SMALL_BYTES);
        let place = pool.place(&lease, room).expect("a small lease has its margins");
        let index = (self.tail & self.mask) as usize;
        // SAFETY: `index` is below the number of entries. The kernel reads an entry only after the
        // tail has moved past it, and there are never more offers than entries.
        let entry = unsafe { self.entries.add(index).as_mut() };
        entry.set_addr(place.as_ptr() as u64);
        entry.set_len(SMALL_BYTES);
        entry.set_bid(lease.slot());
        self.tail = self.tail.wrapping_add(1);
        self.count += 1;
        let slot = lease.slot() as usize;
        debug_assert!(self.offered[slot].is_none());
        self.offered[slot] = Some(lease);
    }

    fn announce(&self) {
        // SAFETY: the ring's tail lies in the first entry's reserved field, aligned for u16; it is
        // shared with the kernel, hence the atomic store, which also publishes the entries.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for SharedBuffers {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length. A kernel that still knows the ring holds the
        // pages by reference of its own.
        let _ = unsafe { munmap(self.entries.cast(), self.bytes.get()) };
    }
}

/// Small leases kept on offer; the rest can be taken from the pool by name.
pub(super) fn offers(pool: &Pool) -> usize {
    let slots = pool.slots(Class::Small);
    slots - slots / 8
}

/// The only group of offers a ring has.
pub(super) const GROUP: u16 = 0;
