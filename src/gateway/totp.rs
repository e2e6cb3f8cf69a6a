//! Codes for one time (RFC 6238): `name:secret` a line, the secret in base32, as apps take it. Six
//! digits, thirty seconds, HMAC-SHA-1.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::passwords::field_of;
use crate::limits::{
    TOTP_SECRET_BYTES_MAX, TOTP_SECRET_BYTES_MIN, TOTP_STEP_SECONDS, TOTP_STEPS_BESIDE,
};

const DIGITS: usize = 6;
/// Keys the code of a user who has none.
const NOBODYS: &[u8] = b"nobody's secret, of no user";

/// The last step whose code was used, of each user. A process remembers; one that is started anew
/// would take a code of the last minute again.
static USED: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);

/// Which step this code is of, near `now` (seconds since 1970), if it is the user's.
pub fn step_of(text: &str, user: &str, code: &[u8], now: u64) -> Option<u64> {
    let secret = field_of(text, user).and_then(decode);
    let own = secret.is_some();
    let key = secret.unwrap_or_else(|| Zeroizing::new(NOBODYS.to_vec()));
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let middle = now / TOTP_STEP_SECONDS;
    let mut found = None;
    for step in middle.saturating_sub(TOTP_STEPS_BESIDE)..=middle.saturating_add(TOTP_STEPS_BESIDE)
    {
        if verify_slices_are_equal(code_at(&key, step).as_bytes(), code).is_ok() {
            found = Some(step);
        }
    }
    found.filter(|_| own)
}

/// Marks a code as used; `false` if it, or a later one, has been (RFC 6238 §5.2).
pub fn spend(user: &str, step: u64) -> bool {
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let used = used.get_or_insert_default();
    if used.get(user).is_some_and(|last| *last >= step) {
        return false;
    }
    // Who is forgotten here could use no code again that old.
    let oldest = step.saturating_sub(2 * TOTP_STEPS_BESIDE + 1);
    used.retain(|_, last| *last >= oldest);
    used.insert(user.to_owned(), step);
    true
}

/// Base32 of at least ten bytes; nothing else makes codes.
pub fn check_secret(text: &str) -> Result<(), &'static str> {
    match decode(text) {
        Some(secret) if secret.len() >= TOTP_SECRET_BYTES_MIN => Ok(()),
        Some(_) => Err("a secret of less than ten bytes"),
        None => Err("a secret that is not base32 (A to Z and 2 to 7), or is longer than 128 bytes"),
    }
}

/// A new secret: twenty bytes, as RFC 4226 §4 wants them, in base32.
///
/// # Errors
/// The system has no randomness.
pub fn new_secret() -> Result<String, String> {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bytes = Zeroizing::new([0; 20]);
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| "the system has no randomness".to_owned())?;
    let five = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let letter = |group: u64, at: u32| LETTERS.get((group >> (35 - 5 * at)) as usize & 31).copied();
    let letters =
        bytes.chunks(5).map(five).flat_map(|group| (0..8).filter_map(move |at| letter(group, at)));
    Ok(letters.map(char::from).collect())
}

/// RFC 4226 §5.3.
fn code_at(key: &hmac::Key, step: u64) -> String {
    let tag = hmac::sign(key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag.last().copied().unwrap_or_default() & 0x0f);
    let word =
        tag.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes);
    format!("{:0DIGITS$}", (word & 0x7fff_ffff) % 1_000_000)
}

/// Base32 (RFC 4648 §6) without regard to case, blanks and padding.
fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.bytes().filter(|byte| !matches!(byte, b' ' | b'=')) {
        let value = match byte.to_ascii_uppercase() {
            letter @ b'A'..=b'Z' => letter - b'A',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        held = (held << 5 | u32::from(value)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    (!bytes.is_empty() && bytes.len() <= TOTP_SECRET_BYTES_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238's secret of twenty bytes.
    const FILE: &str = "ann:GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\nbad:0189\nempty:\n";

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (now, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (20_000_000_000, "353130"),
        ] {
            let step = now / 30;
            assert_eq!(step_of(FILE, "ann", code.as_bytes(), now), Some(step));
            assert_eq!(
                step_of(FILE, "ann", code.as_bytes(), now + 30),
                Some(step),
                "one step late"
            );
            assert_eq!(step_of(FILE, "ann", code.as_bytes(), now + 60), None, "two");
            for user in ["bob", "bad", "empty", ""] {
                assert_eq!(step_of(FILE, user, code.as_bytes(), now), None, "{user}");
            }
        }
        for wrong in ["", "28708", "2870820", "287083", " 287082"] {
            assert_eq!(step_of(FILE, "ann", wrong.as_bytes(), 59), None, "{wrong:?}");
        }
    }

    #[test]
    fn secrets_are_base32_of_a_length() {
        assert_eq!(check_secret("GEZD GNBV gy3t qojq===="), Ok(()), "as apps show them");
        for wrong in ["", "GEZDGNBVGY3T", "0189", "GEZDGNBVGY3TQOJ!"] {
            assert!(check_secret(wrong).is_err(), "{wrong:?}");
        }
        assert!(check_secret(&"A".repeat(300)).is_err());
    }

    #[test]
    fn a_code_is_used_once() {
        let user = "of-this-test";
        assert!(spend(user, 1_000_000));
        assert!(!spend(user, 1_000_000) && !spend(user, 999_999));
        assert!(spend(user, 1_000_001));
    }
}
