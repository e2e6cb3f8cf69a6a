//! Bytes and times as people read them.

/// Minutes and seconds, or hours, minutes and seconds.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.min(359_999.0) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Bytes in a unit that people read.
pub fn amount(bytes: f64) -> String {
    if bytes == 1.0 {
        return "1 byte".to_owned();
    }
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut at = 0;
    while value >= 1024.0 && at + 1 < units.len() {
        value /= 1024.0;
        at += 1;
    }
    let unit = units.get(at).unwrap_or(&"");
    if at == 0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!((amount(0.0), amount(1.0)), ("0 bytes".to_owned(), "1 byte".to_owned()));
        assert_eq!((clock(61.9), clock(3600.0)), ("1:01".to_owned(), "1:00:00".to_owned()));
        assert_eq!(amount(1536.0), "1.5 KiB");
        assert_eq!(amount(5.0 * 1024.0 * 1024.0 * 1024.0), "5.0 GiB");
    }
}
