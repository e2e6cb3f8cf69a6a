//! Those who go on with their sessions where root's process is gone: processes of accounts, and the relay.
//! Each has a way to the signer, which nobody reads before. Their clients' later key exchanges are signed,
//! and nothing else.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zeroize::Zeroize;

use super::Signing;
use super::words::{Say, Signable, Tell};
use crate::base::Instant;
use crate::gateway::helper;
use crate::gateway::socket::Messenger;
use crate::limits::{HEIR_SIGNATURES_A_MILLI, HEIR_SIGNATURES_OWED_MAX, HEIRS_MAX};
use crate::reactor;

/// By their numbers.
#[derive(Default)]
pub(super) struct Heirs(BTreeMap<u64, Messenger>);

/// One that asks.
struct Heir {
    messenger: Messenger,
    signatures: u64,
}

impl Heirs {
    /// One for whom there is no descriptor left has sessions that end with their keys.
    pub(super) fn add(&mut self, number: u64, socket: Option<OwnedFd>) {
        if let Some(socket) = socket.filter(|_| self.0.len() < HEIRS_MAX) {
            self.0.insert(number, Messenger::from_fd(socket));
        }
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.0.remove(&number);
    }

    /// Signs for them until the last has ended. One that sends what no process of ours sends is heard no more.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn serve(self, signing: &Signing, buffer: &mut [u8]) -> anyhow::Result<()> {
        let since = reactor::now();
        let heir = |messenger| Heir { messenger, signatures: 0 };
        let mut heirs: Vec<Heir> = self.0.into_values().map(heir).collect();
        while !heirs.is_empty() {
            // One message each, then the next one's turn: nobody holds the others up.
            let ready = ready(&heirs)?;
            let mut ready = ready.into_iter();
            heirs.retain_mut(|heir| {
                !ready.next().unwrap_or(false) || heir.answer(signing, since, buffer)
            });
        }
        Ok(())
    }
}

/// Waits until some of them have something, and says which.
fn ready(heirs: &[Heir]) -> anyhow::Result<Vec<bool>> {
    let sockets = heirs.iter().map(|heir| heir.messenger.as_owned_fd().as_fd());
    let mut polled: Vec<PollFd<'_>> =
        sockets.map(|socket| PollFd::new(socket, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(why) => return Err(why).context("poll"),
        }
    }
    let told = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(polled.iter().map(told).collect())
}

impl Heir {
    /// `false`: it is gone, or asks for what it may not.
    fn answer(&mut self, signing: &Signing, since: Instant, buffer: &mut [u8]) -> bool {
        let Ok(Some((len, _))) = helper::next_message(&self.messenger, buffer) else {
            return false;
        };
        let bytes = buffer.get_mut(..len).unwrap_or_default();
        let tell = Tell::decode(bytes);
        // It has held a shared secret.
        bytes.zeroize();
        let Ok(Tell::Sign { ticket, order }) = tell else { return false };
        self.signatures += 1;
        let paid = u64::try_from(reactor::now().since(since).as_millis()).unwrap_or(u64::MAX);
        let most = paid.saturating_mul(HEIR_SIGNATURES_A_MILLI);
        let over = self.signatures > most.saturating_add(HEIR_SIGNATURES_OWED_MAX);
        let signature = match order.what {
            Signable::Exchange(_) if !over => signing.sign(&order, None),
            _ => Err("more than the sessions of one process have a use for"),
        };
        let say = match signature {
            Ok(signature) => Say::Signed { ticket, signature },
            Err(why) => Say::Refused { ticket, why: why.to_owned() },
        };
        // Who does not read is not waited for.
        self.messenger.try_send(&say.encode(), None).is_ok()
    }
}

#[cfg(test)]
mod tests;
