//! Which ciphers this CPU is fast at, found out by trying.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use super::config::Global;
use crate::crypto::{CipherKind, Counters, DirectionKeys, MacKind, Provider, SealKey, Suite};
use crate::limits::{CIPHER_TRIAL_BYTES, CIPHER_TRIAL_TIME, CIPHER_TRIALS_MAX, CIPHER_TRIALS_MIN};
use crate::reactor;

/// What is tried: the ciphers that every client of today has one of.
const TRIED: [CipherKind; 3] =
    [CipherKind::Aes128Gcm, CipherKind::Aes256Gcm, CipherKind::Chacha20Poly1305];

/// Bytes a second that one core seals, by cipher and library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CipherSpeeds {
    rows: Vec<(CipherKind, Provider, u64)>,
}

impl CipherSpeeds {
    /// Those of this CPU, measured at the first call, which takes about a millisecond.
    pub fn of_this_cpu() -> &'static CipherSpeeds {
        static SPEEDS: OnceLock<CipherSpeeds> = OnceLock::new();
        SPEEDS.get_or_init(CipherSpeeds::measure)
    }

    /// Either AES-GCM is faster than ChaCha20-Poly1305, each by the library that connections use.
    pub fn favour_aes_gcm(&self) -> bool {
        let [aes128, aes256, chacha] = TRIED.map(|cipher| self.in_use(cipher));
        aes128.min(aes256) > chacha
    }

    fn measure() -> CipherSpeeds {
        let mut rows = Vec::new();
        for cipher in TRIED {
            for provider in Provider::ALL.iter().filter(|provider| provider.supports(cipher)) {
                let speed = speed(cipher, *provider).unwrap_or(0);
                rows.push((cipher, *provider, speed));
            }
        }
        CipherSpeeds { rows }
    }

    fn in_use(&self, cipher: CipherKind) -> u64 {
        let library = Provider::Fastest.library(cipher);
        let row = self.rows.iter().find(|(of, by, _)| *of == cipher && *by == library);
        row.map_or(0, |(_, _, speed)| *speed)
    }
}

impl fmt::Display for CipherSpeeds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, cipher) in TRIED.into_iter().enumerate() {
            let library = Provider::Fastest.library(cipher);
            let name = cipher.name().split('@').next().unwrap_or_default();
            let comma = if n == 0 { "" } else { ", " };
            write!(
                out,
                "{comma}{name} {} MB/s ({}",
                self.in_use(cipher) / 1_000_000,
                library.name()
            )?;
            let others = self.rows.iter().filter(|(of, by, _)| *of == cipher && *by != library);
            for (_, other, speed) in others {
                write!(out, ", {} {}", other.name(), speed / 1_000_000)?;
            }
            out.write_str(")")?;
        }
        Ok(())
    }
}

/// What is done about ciphers here, and why, in one line.
pub fn summary(global: &Global) -> String {
    let speeds = CipherSpeeds::of_this_cpu();
    let steers = match (global.cipher_steering, speeds.favour_aes_gcm()) {
        (true, true) => "clients that know AES-GCM are led to it",
        (true, false) => "the client's order decides",
        (false, _) => "the client's order decides, TidegateCipherSteering or Ciphers says so",
    };
    format!("{speeds}; {steers}")
}

/// The best of a few packets, for whatever interrupts the others only makes them slower.
fn speed(cipher: CipherKind, provider: Provider) -> Option<u64> {
    let suite = Suite::new(cipher, MacKind::Implicit)?;
    let (key, iv) = ([1; 64], [2; 16]);
    let (key, iv) = (key.get(..cipher.key_bytes())?, iv.get(..cipher.iv_bytes())?);
    let key = SealKey::new(provider, &DirectionKeys::new(suite, key, iv, &[]).ok()?).ok()?;
    let mut packet = vec![3; key.geometry().wire_len(CIPHER_TRIAL_BYTES) as usize];
    let mut counters = Counters::new();
    let start = reactor::now();
    let (mut before, mut best) = (start, Duration::MAX);
    for n in 1..=CIPHER_TRIALS_MAX {
        key.seal(counters.stamp(packet.len() as u32).ok()?, &mut packet);
        let now = reactor::now();
        best = best.min(now.since(before));
        before = now;
        if n >= CIPHER_TRIALS_MIN && now.since(start) > CIPHER_TRIAL_TIME {
            break;
        }
    }
    Some(u64::from(CIPHER_TRIAL_BYTES) * 1_000_000_000 / (best.as_nanos() as u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speeds(aes128: u64, aes256: u64, chacha: u64) -> CipherSpeeds {
        let of = |cipher, speed| {
            let library = Provider::Fastest.library(cipher);
            let other = Provider::ALL.iter().find(|provider| **provider != library);
            let row = (cipher, library, speed);
            // A library that is not in use has no say.
            [Some(row), other.map(|other| (cipher, *other, 20_000_000_000 - speed))]
        };
        let rows = TRIED.into_iter().zip([aes128, aes256, chacha]);
        CipherSpeeds {
            rows: rows.flat_map(|(cipher, speed)| of(cipher, speed)).flatten().collect(),
        }
    }

    #[test]
    fn aes_gcm_is_favoured_where_both_of_it_are_faster() {
        let giga = 1_000_000_000;
        assert!(speeds(7 * giga, 5 * giga, 2 * giga).favour_aes_gcm());
        assert!(!speeds(7 * giga, 2 * giga, 3 * giga).favour_aes_gcm());
        assert!(!speeds(giga / 5, giga / 6, giga).favour_aes_gcm());
        assert!(!CipherSpeeds { rows: Vec::new() }.favour_aes_gcm(), "nothing known");
    }

    #[test]
    fn every_cipher_is_tried_with_every_library() {
        let speeds = CipherSpeeds::of_this_cpu();
        assert_eq!(speeds.rows.len(), 3 * Provider::ALL.len());
        assert!(speeds.rows.iter().all(|(_, _, speed)| *speed > 0), "{speeds:?}");
        let text = speeds.to_string();
        for word in ["aes128-gcm ", "aes256-gcm ", "chacha20-poly1305 ", " MB/s (aws-lc-rs"] {
            assert!(text.contains(word), "{text}");
        }
    }
}
