//! How answers are shown: nothing that a gateway says moves the cursor, and columns stand below each other.

use std::path::Path;

use crate::base::{clock, cut, escape};
use crate::limits::{CTL_LINE_BYTES_MAX, CTL_WORD_BYTES_MAX};

/// One word of an answer, such as a name.
pub fn word(text: &str) -> String {
    shown(text, CTL_WORD_BYTES_MAX)
}

/// An answer that is text, of one or more lines.
pub fn lines(text: &str) -> String {
    let lines = text.lines().map(|line| shown(line, CTL_LINE_BYTES_MAX));
    lines.collect::<Vec<_>>().join("\n")
}

pub fn path(path: &Path) -> String {
    shown(&path.to_string_lossy(), CTL_LINE_BYTES_MAX)
}

fn shown(text: &str, max: usize) -> String {
    let (kept, hidden) = cut(text.as_bytes(), max);
    let mut shown = harmless(&String::from_utf8_lossy(kept), "");
    if hidden > 0 {
        shown += &format!("[+{hidden} bytes]");
    }
    shown
}

/// With escapes, each behind `lead`, for what a terminal acts on or hides. Quotes and backslashes stay.
pub fn harmless(text: &str, lead: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() || c == ' ' {
            out.push(c);
            continue;
        }
        let (plain, escaped) = (c.to_string(), escape(c.to_string().as_bytes()).to_string());
        if plain != escaped {
            out += lead;
        }
        out += &escaped;
    }
    out
}

/// A time from microseconds to minutes.
pub fn latency(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// How long something runs already.
pub fn uptime(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e12);
    let days = (seconds / 86_400.0).floor();
    let rest = clock(seconds - days * 86_400.0);
    match days as u64 {
        0 => rest,
        1 => format!("1 day {rest}"),
        days => format!("{days} days {rest}"),
    }
}

/// Lines of a table: the first `texts` columns stand at the left, numbers at the right.
pub fn table(texts: usize, rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line += if at > 0 { "  " } else { "" };
            line += &match at < texts {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            };
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_120_130_answers_move_no_cursor() {
        assert_eq!(lines("a \"b\" \\c\n\x1b[2J\u{9b}1m"), "a \"b\" \\c\n\\x1b[2J\\u{9b}1m");
        assert_eq!(word("\u{202e}grüße"), "\\u{202e}grüße");
        assert_eq!(word(&"x".repeat(70)), format!("{}[+6 bytes]", "x".repeat(64)));
        assert_eq!(harmless("a\"\u{7}", "\\"), "a\"\\\\x07");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(
            [0.0, 0.000_85, 0.0123, 1.5].map(latency),
            ["0 us", "850 us", "12.3 ms", "1.50 s"]
        );
        assert_eq!(uptime(61.0), "1:01");
        assert_eq!(uptime(86_400.0 + 3_661.0), "1 day 1:01:01");
        assert_eq!(uptime(200_000.0), "2 days 7:33:20");
        assert_eq!(uptime(-1.0), "0:00");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["process", "name", "pid"]), row(["edge", "", "12345"])];
        assert_eq!(table(2, &rows), ["process  name    pid", "edge           12345"]);
    }
}
