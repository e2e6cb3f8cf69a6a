use std::sync::Arc;
use std::time::Duration;

use super::exchange::Outcome;
use super::{Error, Negotiated};
use crate::base::Instant;
use crate::crypto::{Digest, ShownKey};
use crate::limits::{REKEY_BURST, REKEY_PAID_BYTES};
use crate::wire::transport::ExtInfo;
use crate::wire::{Message, number};

/// What outlives the key exchanges of a connection.
#[derive(Debug)]
pub(super) struct Session {
    /// The first exchange's hash; it names the connection and never changes (RFC 4253 §7.2).
    pub id: Digest,
    /// As sent: every later exchange hashes it again, in whatever process.
    pub our_ident: Arc<str>,
    pub peer_ident: Box<[u8]>,
    pub negotiated: Negotiated,
    /// The server's, on both sides, as it was shown in the first exchange.
    pub host_key: ShownKey,
    pub extensions: Option<Box<PeerExtensions>>,
    pub ext_infos: u8,
    pub exchanged_at: Instant,
    pub exchanges: u32,
    pub throttle: Throttle,
}

impl Session {
    pub(super) fn new(
        outcome: Outcome,
        our_ident: Arc<str>,
        peer_ident: Box<[u8]>,
        now: Instant,
    ) -> Session {
        Session {
            id: outcome.session_id,
            our_ident,
            peer_ident,
            negotiated: outcome.negotiated,
            host_key: outcome.host_key,
            extensions: None,
            ext_infos: 0,
            exchanged_at: now,
            exchanges: 1,
            throttle: Throttle::default(),
        }
    }

    /// A later exchange is over. The session identifier and the host key stay what they were.
    pub(super) fn renew(&mut self, outcome: &Outcome, now: Instant) {
        self.negotiated = outcome.negotiated;
        self.exchanged_at = now;
        self.exchanges = self.exchanges.saturating_add(1);
    }

    /// RFC 8308 §2.4: extensions come behind the first NEWKEYS and once more just before the end of
    /// authentication. Later ones change nothing.
    pub(super) fn take_ext_info(
        &mut self,
        payload: &[u8],
        authenticated: bool,
    ) -> Result<(), Error> {
        let info = ExtInfo::parse(payload).map_err(Error::malformed(number::EXT_INFO))?;
        if authenticated {
            return Ok(());
        }
        self.ext_infos = self.ext_infos.saturating_add(1);
        if self.ext_infos > EXT_INFOS_MAX {
            return Err(Error::PeerMisbehaved("more than two EXT_INFO messages"));
        }
        self.extensions.get_or_insert_default().take(&info);
        Ok(())
    }
}

/// What the peer said in EXT_INFO that we make use of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerExtensions {
    /// RFC 8308 §3.1: the signature algorithms it accepts from a user, as a name-list.
    pub server_sig_algs: Option<Box<str>>,
    /// OpenSSH PROTOCOL §1.9: it answers PING.
    pub ping: bool,
    /// OpenSSH PROTOCOL §2.1: it knows `publickey-hostbound-v00@openssh.com`.
    pub hostbound: bool,
}

impl PeerExtensions {
    fn take(&mut self, info: &ExtInfo<'_>) {
        for (name, value) in info.iter() {
            match name {
                SERVER_SIG_ALGS => {
                    self.server_sig_algs = std::str::from_utf8(value).ok().map(Into::into);
                }
                PING => self.ping = value == b"0",
                HOSTBOUND => self.hostbound = value == b"0",
                _ => {}
            }
        }
    }
}

/// RFC 8308 §3.1.
pub(super) const SERVER_SIG_ALGS: &[u8] = b"server-sig-algs";
/// OpenSSH PROTOCOL §1.9.
pub(super) const PING: &[u8] = b"ping@openssh.com";
/// OpenSSH PROTOCOL §2.1.
pub(super) const HOSTBOUND: &[u8] = b"publickey-hostbound@openssh.com";

/// What an exchange costs where time pays.
const PRICE_NANOS: u64 = 1_000_000_000;

/// RFC 8308 §2.4.
const EXT_INFOS_MAX: u8 = 2;

/// Lets a burst of [`REKEY_BURST`] through, then one a second or one for [`REKEY_PAID_BYTES`],
/// whichever comes first: exchanges that the traffic justifies pass, a flood of them does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Throttle {
    /// When everything let through so far is paid for.
    paid_at: Instant,
}

impl Throttle {
    /// `moved`: bytes under the present keys, in the busier direction.
    pub(super) fn admit(&mut self, moved: u64, now: Instant) -> bool {
        let burst = Duration::from_secs(u64::from(REKEY_BURST));
        let earned = moved.saturating_mul(PRICE_NANOS / REKEY_PAID_BYTES);
        let owed = self.paid_at.since(now).as_nanos() as u64;
        let owed = owed.saturating_add(PRICE_NANOS).saturating_sub(earned);
        let paid_at = now.after(Duration::from_nanos(owed));
        let admitted = paid_at <= now.after(burst);
        if admitted {
            self.paid_at = paid_at;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_34_a_burst_then_one_a_second() {
        let mut throttle = Throttle::default();
        let start = Instant::from_nanos(5_000_000_000);
        let at = |millis| start.after(Duration::from_millis(millis));
        assert_eq!((0..50).filter(|_| throttle.admit(0, at(0))).count(), 10);
        assert!(!throttle.admit(0, at(999)));
        assert!(throttle.admit(0, at(1000)) && !throttle.admit(0, at(1000)));
        assert_eq!((0..50).filter(|_| throttle.admit(0, at(60_000))).count(), 10);
    }

    #[test]
    fn case_34_data_pays_for_new_keys() {
        let now = Instant::from_nanos(5_000_000_000);
        let passed = |moved: &dyn Fn(u64) -> u64| {
            let mut throttle = Throttle::default();
            (0..1000).take_while(|n| throttle.admit(moved(*n), now)).count()
        };
        assert_eq!(passed(&|_| REKEY_PAID_BYTES), 1000);
        // Small and large packets in turn, as a terminal beside an upload.
        assert_eq!(passed(&|n| 40 + (n % 2) * 2 * REKEY_PAID_BYTES), 1000);
        // Half of the price buys twice the burst, and no more.
        assert!((19..=21).contains(&passed(&|_| REKEY_PAID_BYTES / 2)));
        // Nothing is saved up: much data pays for the burst once.
        assert_eq!(passed(&|n| if n == 0 { u64::MAX } else { 0 }), 11);
    }

    #[test]
    fn extensions_are_taken_by_name() {
        let mut space = [0; 256];
        let entries: [(&[u8], &[u8]); 4] = [
            (b"server-sig-algs", b"ssh-ed25519,rsa-sha2-512"),
            (b"ping@openssh.com", b"0"),
            (b"publickey-hostbound@openssh.com", b"1"),
            (b"elevation", b"d"),
        ];
        let info = ExtInfo::build(&entries, &mut space).expect("room");
        let mut extensions = PeerExtensions::default();
        extensions.take(&info);
        let algorithms = extensions.server_sig_algs.as_deref();
        assert_eq!(algorithms, Some("ssh-ed25519,rsa-sha2-512"));
        assert!(extensions.ping && !extensions.hostbound);
    }
}
