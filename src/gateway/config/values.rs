//! The values of keywords: yes and no, numbers, times, sizes, paths.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Surroundings, Wrong};

/// What stands behind a keyword, as words and as it was written.
pub struct Values<'a> {
    pub words: Vec<String>,
    /// Everything behind the keyword, blanks at both ends taken off: for keywords that take a
    /// command and do not read quotes or comments in it.
    pub rest: &'a str,
    pub surroundings: &'a Surroundings,
}

impl Values<'_> {
    /// The only word.
    pub fn one(&self) -> Result<&str, Wrong> {
        match self.words.as_slice() {
            [word] => Ok(word),
            [] => Err(missing()),
            several => {
                let wrong = Wrong::new(several.join(" "), "one value is expected");
                Err(wrong.help("quote a value that contains blanks: \"like this\""))
            }
        }
    }

    /// One word or more.
    pub fn many(&self) -> Result<&[String], Wrong> {
        if self.words.is_empty() { Err(missing()) } else { Ok(&self.words) }
    }

    /// The rest of the line, unread.
    pub fn line(&self) -> Result<&str, Wrong> {
        if self.rest.is_empty() { Err(missing()) } else { Ok(self.rest) }
    }

    pub fn flag(&self) -> Result<bool, Wrong> {
        let word = self.one()?;
        match word.to_ascii_lowercase().as_str() {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(Wrong::new(word, "neither yes nor no")),
        }
    }

    pub fn number(&self, range: RangeInclusive<u32>) -> Result<u32, Wrong> {
        number(self.one()?, range)
    }

    pub fn duration(&self) -> Result<Duration, Wrong> {
        duration(self.one()?)
    }

    /// A path; `~/` is the home directory and a relative one starts at the working directory.
    pub fn path(&self) -> Result<PathBuf, Wrong> {
        path(self.one()?, self.surroundings)
    }

    /// The same, or `none`.
    pub fn path_or_none(&self) -> Result<Option<PathBuf>, Wrong> {
        if is_none(self.one()?) { Ok(None) } else { self.path().map(Some) }
    }
}

pub fn is_none(word: &str) -> bool {
    word.eq_ignore_ascii_case("none")
}

pub fn number(word: &str, range: RangeInclusive<u32>) -> Result<u32, Wrong> {
    let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    match word.parse::<u32>() {
        _ if !digits => Err(Wrong::new(word, "not a number")),
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let (least, most) = range.into_inner();
            Err(Wrong::new(word, format!("outside of {least} to {most}")))
        }
    }
}

/// A TCP port, or the name of a service; 0 lets the kernel choose a free one, which is told in the
/// log.
pub fn port(word: &str, surroundings: &Surroundings) -> Result<u16, Wrong> {
    if let Some(port) = surroundings.service.and_then(|service| service(word)) {
        return Ok(port);
    }
    let number = number(word, 0..=u32::from(u16::MAX))?;
    u16::try_from(number).map_err(|_| Wrong::new(word, "not a port"))
}

/// sshd_config(5) TIME FORMATS: `90`, `90s`, `1h30m`, `2d`, `1w`; the parts are added up.
pub fn duration(word: &str) -> Result<Duration, Wrong> {
    let bad = || Wrong::new(word, "not a time").help("write seconds, or units: 90, 10m, 1h30m, 2d");
    let mut total: u64 = 0;
    let mut rest = word;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (count, tail) = rest.split_at(digits);
        let count: u64 = count.parse().map_err(|_| bad())?;
        let mut tail = tail.chars();
        let unit = match tail.next().map(|unit| unit.to_ascii_lowercase()) {
            None | Some('s') => 1,
            Some('m') => 60,
            Some('h') => 60 * 60,
            Some('d') => 24 * 60 * 60,
            Some('w') => 7 * 24 * 60 * 60,
            Some(_) => return Err(bad()),
        };
        total = count.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = tail.as_str();
    }
    // The kernel's and sshd's bound: a signed 32-bit count of seconds.
    if word.is_empty() || total > i32::MAX as u64 {
        Err(bad())
    } else {
        Ok(Duration::from_secs(total))
    }
}

/// The same with decimals in each part: `0.5`, `1.5m`.
pub fn fractional_duration(word: &str) -> Result<Duration, Wrong> {
    let bad =
        || Wrong::new(word, "not a time").help("write seconds, or units: 90, 0.5, 10m, 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let unit = tail.chars().next();
        let rest_behind = tail.get(unit.map_or(0, char::len_utf8)..).unwrap_or_default();
        let seconds = match unit.map(|unit| unit.to_ascii_lowercase()) {
            None | Some('s') => 1,
            Some('m') => 60,
            Some('h') => 60 * 60,
            Some('d') => 24 * 60 * 60,
            Some('w') => 7 * 24 * 60 * 60,
            Some(_) => return Err(bad()),
        };
        let micros = scaled(number, seconds * 1_000_000).ok_or_else(bad)?;
        total = total.checked_add(Duration::from_micros(micros)).ok_or_else(bad)?;
        rest = rest_behind;
    }
    if word.is_empty() || total.as_secs() > i32::MAX as u64 { Err(bad()) } else { Ok(total) }
}

/// Bytes: `1048576`, `1024K`, `1.5G`; also T, P and E.
pub fn size(word: &str) -> Result<u64, Wrong> {
    let bad = || Wrong::new(word, "not a size").help("write bytes, or K, M, G: 500M, 1.5G");
    let unit = word.as_bytes().last().map(u8::to_ascii_lowercase);
    let powers = [b'b', b'k', b'm', b'g', b't', b'p', b'e'];
    let power = powers.iter().position(|known| Some(*known) == unit);
    let digits = if power.is_some() { &word[..word.len() - 1] } else { word };
    let bytes = scaled(digits, 1 << (10 * power.unwrap_or(0))).ok_or_else(bad)?;
    if bytes > i64::MAX as u64 { Err(bad()) } else { Ok(bytes) }
}

/// A decimal number times `scale`, rounded down.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(decimals) || decimals.len() > 18 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if decimals.is_empty() {
        // `5.` is a slip.
        return (!number.ends_with('.')).then_some(whole);
    }
    let parts = u128::from(decimals.parse::<u64>().ok()?) * u128::from(scale);
    let parts = parts / 10_u128.pow(decimals.len() as u32);
    whole.checked_add(u64::try_from(parts).ok()?)
}

pub fn path(word: &str, surroundings: &Surroundings) -> Result<PathBuf, Wrong> {
    if word.is_empty() {
        return Err(Wrong::new(word, "an empty path"));
    }
    let home = word.strip_prefix("~/").zip(surroundings.home.as_ref());
    Ok(match home {
        Some((below, home)) => home.join(below),
        None => surroundings.directory.join(Path::new(word)),
    })
}

/// `address`, `host`, `address:port`, `host:port`, `[address]:port`: the host's part and the port.
pub fn host_and_port<'a>(
    word: &'a str,
    surroundings: &Surroundings,
) -> Result<(&'a str, Option<u16>), Wrong> {
    if let Some(rest) = word.strip_prefix('[') {
        let (host, behind) =
            rest.split_once(']').ok_or_else(|| Wrong::new(word, "a [ without its ]"))?;
        return match behind.strip_prefix(':') {
            Some(digits) => Ok((host, Some(port(digits, surroundings)?))),
            None if behind.is_empty() => Ok((host, None)),
            None => Err(Wrong::new(word, "only :port may follow the ]")),
        };
    }
    // More than one colon: an IPv6 address, which needs brackets before a port can follow.
    match word.rsplit_once(':') {
        Some((host, digits)) if !host.contains(':') => {
            Ok((host, Some(port(digits, surroundings)?)))
        }
        Some(_) if word.parse::<IpAddr>().is_err() => {
            let wrong = Wrong::new(word, "no IPv6 address");
            Err(wrong.help("with a port it is written [address]:port"))
        }
        _ => Ok((word, None)),
    }
}

fn missing() -> Wrong {
    Wrong::new("", "a value is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (word, seconds) in [
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5400),
            ("1m30", 90),
            ("2D", 172_800),
            ("1w", 604_800),
        ] {
            assert_eq!(duration(word), Ok(Duration::from_secs(seconds)), "{word}");
        }
        for bad in ["", "m", "1x", "1.5h", "-1", "9999999999", "99999999999999999999s", "3551w"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fractional_times() {
        for (word, millis) in [("1", 1000), ("0.5", 500), ("1.5m", 90_000), ("1h0.25s", 3_600_250)]
        {
            assert_eq!(fractional_duration(word), Ok(Duration::from_millis(millis)), "{word}");
        }
        for bad in ["", ".", "1.", ".5", "1..5", "1x", "-1", "1.5.5", "9999999999", "\u{e4}"] {
            assert!(fractional_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        let cases = [("0", 0), ("16", 16), ("1K", 1024), ("500m", 500 << 20), ("4G", 4_u64 << 30)];
        for (word, bytes) in cases {
            assert_eq!(size(word), Ok(bytes), "{word}");
        }
        for (word, bytes) in [("1.5G", 3 << 29), ("0.5k", 512), ("1t", 1 << 40), ("16b", 16)] {
            assert_eq!(size(word), Ok(bytes), "{word}");
        }
        for bad in ["", "K", "1Z", "1.5.5G", "-1", "99999999999G", "1 G", ".5G", "1.G", "\u{e4}"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let none = Surroundings::default();
        let service = |name: &str| (name == "ssh").then_some(22);
        let some = Surroundings { service: Some(service), ..Surroundings::default() };
        assert_eq!(host_and_port("[::1]:ssh", &some), Ok(("::1", Some(22))));
        assert_eq!((port("ssh", &some), port("23", &some)), (Ok(22), Ok(23)));
        assert!(port("telnet", &some).is_err() && port("ssh", &none).is_err());
        for (word, expected) in [
            ("127.0.0.1", ("127.0.0.1", None)),
            ("127.0.0.1:22", ("127.0.0.1", Some(22))),
            ("::1", ("::1", None)),
            ("[::1]", ("::1", None)),
            ("[::1]:2222", ("::1", Some(2222))),
            ("localhost:0", ("localhost", Some(0))),
        ] {
            assert_eq!(host_and_port(word, &none), Ok(expected), "{word}");
        }
        for bad in ["[::1", "[::1]22", "127.0.0.1:", "h:65536", "h:x", "::1:99999", "1:2:3"] {
            assert!(host_and_port(bad, &none).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_plain_digits_within_bounds() {
        assert_eq!(number("10", 1..=10), Ok(10));
        for bad in ["", "+1", "-1", "0x1", "11", "99999999999", "1 "] {
            assert!(number(bad, 1..=10).is_err(), "{bad}");
        }
    }
}
