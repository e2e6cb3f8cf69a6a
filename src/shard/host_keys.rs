//! Proofs of host keys that clients ask for (OpenSSH PROTOCOL §2.5). Whoever holds the keys signs.

use super::*;
use crate::connection::HostKeyProofs;
use crate::services::Command;

impl<D: Driver, O: Outside> Shard<D, O> {
    pub(super) fn prove_host_keys(&mut self, key: u32, keys: HostKeyProofs) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let session = link.conn.session_id().into();
        let token = Token { key, generation: link.generation, tag: TAG_PROOFS };
        link.in_flight += 1;
        self.submit_job(token, Job::ProveHostKeys { session, keys });
    }

    /// Without a signature for each key the client learns none.
    pub(super) fn host_keys_proved(&mut self, key: u32, done: Done) {
        let open = |link: &Link| link.state == LinkState::Open;
        if !self.links.get(key as usize).is_some_and(open) {
            return;
        }
        let signatures = match done {
            Done::HostKeysProved(signatures) => signatures,
            _ => None,
        };
        self.command(key, Command::ProveHostKeys(signatures));
    }
}
