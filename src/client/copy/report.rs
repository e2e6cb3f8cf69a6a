//! What is told of a copy: lines for people, or JSON, one object a line.

use serde_json::json;

use super::file::{Copied, Spot};
use super::{Copy, Totals};

/// A file has been copied. `None`: nobody asked to hear of each.
pub fn copied(copy: &Copy, from: &Spot, to: &Spot, copied: Copied) -> Option<String> {
    let (from, to) = (copy.shown(from), copy.shown(to));
    let dry = copy.plan.dry_run;
    if copy.plan.json {
        let event = if dry { "would-copy" } else { "copied" };
        let line = json!({
            "event": event, "from": from, "to": to,
            "bytes": copied.bytes, "resumed_at": copied.kept,
        });
        return Some(line.to_string());
    }
    let resumed = match copied.kept {
        0 => String::new(),
        kept => format!(", went on behind {kept} bytes, whose tail and samples are the source's"),
    };
    let would = if dry { "would copy " } else { "" };
    let wanted = dry || copy.plan.verbose || copied.kept > 0 && !copy.plan.quiet;
    wanted.then(|| format!("{would}{from} -> {to} ({} bytes{resumed})", copied.bytes))
}

pub fn failed(copy: &Copy, why: &anyhow::Error) -> String {
    match copy.plan.json {
        true => json!({ "event": "failed", "why": format!("{why:#}") }).to_string(),
        false => format!("cp: {why:#}"),
    }
}

/// The last line.
pub fn summary(copy: &Copy, totals: Totals, seconds: f64) -> String {
    let Totals { files, bytes, kept, failed } = totals;
    let rate = if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 };
    if copy.plan.json {
        let line = json!({
            "event": "summary", "files": files, "bytes": bytes, "resumed_bytes": kept,
            "failed": failed, "seconds": seconds, "bytes_a_second": rate,
        });
        return line.to_string();
    }
    let would = if copy.plan.dry_run { "would be " } else { "" };
    let mut line = format!("{files} files {would}copied, {}", amount(bytes as f64));
    if !copy.plan.dry_run {
        line += &format!(" in {seconds:.1} s, {}/s", amount(rate));
    }
    if kept > 0 {
        line += &format!("; {} were there from before", amount(kept as f64));
    }
    if failed > 0 {
        line += &format!("; {failed} failed");
    }
    line
}

/// One line that is written over by the next. `expected`: bytes of all files that have been begun.
pub fn progress(totals: Totals, moved: u64, expected: u64, rate: f64) -> String {
    let left = expected.saturating_sub(moved) as f64;
    let eta = if rate > 0.0 { format!(", {} left", clock(left / rate)) } else { String::new() };
    format!(
        "\r\x1b[K{} files, {} of {}, {}/s{eta}",
        totals.files,
        amount(moved as f64),
        amount(expected as f64),
        amount(rate),
    )
}

/// Minutes and seconds, or hours, minutes and seconds.
fn clock(seconds: f64) -> String {
    let seconds = seconds.min(359_999.0) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Bytes in a unit that people read.
fn amount(bytes: f64) -> String {
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
        assert_eq!(amount(0.0), "0 bytes");
        assert_eq!((clock(61.9), clock(3600.0)), ("1:01".to_owned(), "1:00:00".to_owned()));
        assert_eq!(amount(1536.0), "1.5 KiB");
        assert_eq!(amount(5.0 * 1024.0 * 1024.0 * 1024.0), "5.0 GiB");
    }
}
