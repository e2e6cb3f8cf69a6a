//! RFC 4419: the group of a key exchange that negotiates one.

use super::Error;
use crate::crypto::kex::Group;
use crate::wire::transport::{KexDhGexGroup, KexDhGexRequest};
use crate::wire::{Message, NoSpace, Writer};

/// The group that was agreed on, and what of the agreement enters the exchange hash.
pub(super) struct Chosen {
    pub group: Group,
    /// RFC 4419 §3: min || n || max || p || g.
    pub hashed: Box<[u8]>,
}

impl Chosen {
    pub(super) fn new(request: &KexDhGexRequest, group: Group) -> Result<Chosen, Error> {
        let (prime, generator) = (group.prime(), group.generator());
        let mut hashed = vec![0; 12 + 2 * (4 + 1 + prime.len())];
        let mut out = Writer::new(&mut hashed);
        request
            .encode(&mut out)
            .and_then(|()| KexDhGexGroup { prime: &prime, generator: &generator }.encode(&mut out))
            .map_err(|NoSpace| Error::Invariant("a group too long"))?;
        let len = out.len();
        hashed.truncate(len);
        Ok(Chosen { group, hashed: hashed.into() })
    }
}
