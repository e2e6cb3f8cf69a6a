use std::fmt;

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// Days of 400 years: the calendar repeats itself then.
const ERA_DAYS: u64 = 146_097;
/// Days from the first of March of the year 0 to the first of January 1970.
const EPOCH_DAYS: u64 = 719_468;

/// Seconds since 1970, shown as `2026-11-28T22:05:00Z`. Every number has a text; years past 9999
/// just have more digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc(pub u64);

impl Utc {
    /// Year, month and day of the proleptic Gregorian calendar. Years are counted from March, so
    /// that the day that comes and goes is the last one.
    const fn date(self) -> (u64, u64, u64) {
        let days = self.0 / DAY_SECONDS + EPOCH_DAYS;
        let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
        // Take the leap days away that have been so far, then every year has 365 days.
        let plain = day - day / 1460 + day / 36_524 - day / (ERA_DAYS - 1);
        let year = plain / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // Five months from March on have 153 days, whichever five they are.
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (carry, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
        (era * 400 + year + carry, month, day)
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        let second = self.0 % DAY_SECONDS;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_000_000_000, "2001-09-09T01:46:40Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, "10000-01-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
        }
        assert!(Utc(u64::MAX).to_string().ends_with('Z'));
    }
}
