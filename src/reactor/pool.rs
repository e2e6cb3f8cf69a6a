use crate::limits::{BULK_SLOT, PACKET_SLOT, SMALL_SLOT};

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
    pub const fn bytes(self) -> u32 {
        match self {
            Class::Small => SMALL_SLOT,
            Class::Packet => PACKET_SLOT,
            Class::Bulk => BULK_SLOT,
        }
    }
}

/// Exclusive claim on a byte range of the shard's region. Move-only: moving it into an operation
/// gives the bytes to the kernel. It must go back through [`Pool::give_back`].
#[must_use]
#[derive(Debug)]
pub struct Lease {
    slot: u32,
    at: u32,
    len: u32,
}

impl Lease {
    pub const fn len(&self) -> u32 {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The shard's payload memory: one region, sized once, cut into slots of three classes.
#[derive(Debug)]
pub struct Pool {}

impl Pool {
    /// `None` is back-pressure, never an allocation.
    pub fn take(&mut self, _class: Class) -> Option<Lease> {
        todo!()
    }

    /// Cuts `lease` at `at` (from its first byte); it keeps the front, the rest is returned. The
    /// slot is free again when every part has been given back.
    pub fn split(&mut self, _lease: &mut Lease, _at: u32) -> Lease {
        todo!()
    }

    /// The leased bytes. Sound because leases never overlap.
    pub fn bytes<'a>(&'a self, _lease: &'a mut Lease) -> &'a mut [u8] {
        todo!()
    }

    pub fn give_back(&mut self, _lease: Lease) {
        todo!()
    }
}
