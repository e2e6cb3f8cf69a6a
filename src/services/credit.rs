use super::Io;
use crate::base::Instant;
use crate::limits::CREDIT_TIME_MAX;

/// Waits for credit for a whole piece, because a piece that is cut costs the client a round trip. A
/// peer may grant anew only when half its window is used, so no more than that is waited for, and
/// what its window is shows in the credit that it has given. It may have become smaller since: a wait
/// in which nothing comes for [`CREDIT_TIME_MAX`] is over, and its end is what the peer gives now.
#[derive(Debug, Default)]
pub(super) struct CreditWait {
    /// The largest credit seen.
    most: u32,
    /// When to look again, and what there was at the last look.
    look: Option<(Instant, u32)>,
}

impl CreditWait {
    /// One that goes on elsewhere, where this much had been seen.
    pub const fn having_seen(most: u32) -> CreditWait {
        CreditWait { most, look: None }
    }

    /// The largest credit seen.
    pub const fn most(&self) -> u32 {
        self.most
    }

    /// Whether to go on with what there is of `want` bytes, of which at least `least` are needed.
    pub fn is_over(&mut self, want: u32, least: u32, io: &mut Io<'_>) -> bool {
        let credit = io.credit();
        self.most = self.most.max(credit);
        let enough = want.min((self.most / 2).max(least));
        if credit < enough && (credit < least || !self.is_vain(credit, io)) {
            return false;
        }
        self.look = None;
        true
    }

    fn is_vain(&mut self, credit: u32, io: &mut Io<'_>) -> bool {
        match self.look {
            Some((at, _)) if io.now() < at => return false,
            Some((_, before)) if before == credit => {
                self.most = credit;
                return true;
            }
            _ => {}
        }
        let at = io.now().after(CREDIT_TIME_MAX);
        self.look = Some((at, credit));
        io.wake_at(at);
        false
    }
}
