//! Recordings as files: asciicast, version 3. A line of JSON about the session, then a line for each
//! event: the seconds since the last, a letter, and text.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::base::plain_json;
use crate::services::tape::Screen;

/// What a recording is called whose session had no terminal: players want a size.
const COLUMNS: u32 = 80;
const ROWS: u32 = 24;
/// What `x` says of a program that a signal ended: what ssh exits with.
const SIGNALLED: &str = "255";

/// Writes the lines of one recording.
#[derive(Debug)]
pub struct Writer {
    /// When the last event was, in microseconds since the start.
    last: u64,
    /// The beginning of a character whose rest has not come.
    begun: Vec<u8>,
}

impl Writer {
    /// Answers the first line too. `at`: seconds of the day's clock.
    pub fn begin(at: u64, screen: &Screen, title: &str, command: &str) -> (Writer, String) {
        let side = |given: u32, usual| if given == 0 { usual } else { given };
        let mut term = json!({
            "cols": side(screen.columns, COLUMNS),
            "rows": side(screen.rows, ROWS),
        });
        if !screen.terminal.is_empty() {
            term["type"] = screen.terminal.as_ref().into();
        }
        let mut header = json!({ "version": 3, "term": term, "timestamp": at, "title": title });
        if !command.is_empty() {
            header["command"] = command.into();
        }
        (Writer { last: 0, begun: Vec::new() }, first_line(&header))
    }

    /// Bytes that were shown. What is cut in a character waits for its rest; what is no UTF-8 becomes
    /// U+FFFD, for JSON has no other bytes.
    pub fn output(&mut self, after: Duration, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let whole = whole_characters(&all);
        self.begun = all.split_off(whole);
        match all.is_empty() {
            true => String::new(),
            false => self.event(after, 'o', &String::from_utf8_lossy(&all)),
        }
    }

    pub fn resize(&mut self, after: Duration, columns: u32, rows: u32) -> String {
        self.event(after, 'r', &format!("{columns}x{rows}"))
    }

    pub fn status(&mut self, after: Duration, code: u32) -> String {
        self.rest(after) + &self.event(after, 'x', &code.to_string())
    }

    pub fn signal(&mut self, after: Duration, name: &str) -> String {
        let comment = format!("# ended by signal {}\n", name.escape_default());
        self.rest(after) + &comment + &self.event(after, 'x', SIGNALLED)
    }

    /// What is left of a character that never became whole.
    pub fn rest(&mut self, after: Duration) -> String {
        let begun = std::mem::take(&mut self.begun);
        match begun.is_empty() {
            true => String::new(),
            false => self.event(after, 'o', &String::from_utf8_lossy(&begun)),
        }
    }

    fn event(&mut self, after: Duration, code: char, text: &str) -> String {
        let now = u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(self.last);
        let interval = now - std::mem::replace(&mut self.last, now);
        let (seconds, micros) = (interval / 1_000_000, interval % 1_000_000);
        format!("[{seconds}.{micros:06},\"{code}\",{}]\n", plain_json(&json!(text).to_string()))
    }
}

/// Whoever looks at a file as it is has a terminal that nothing in it reaches.
fn first_line(header: &Value) -> String {
    format!("{}\n", plain_json(&header.to_string()))
}

/// Bytes before a character at the end that is not whole yet.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let last = bytes.iter().enumerate().skip(tail).rev().find(|(_, byte)| **byte & 0xc0 != 0x80);
    let Some((at, first)) = last else { return bytes.len() };
    let len = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    if at + len > bytes.len() { at } else { bytes.len() }
}

/// The first line, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Header {
    pub version: u8,
    #[serde(default)]
    pub title: String,
}

impl Header {
    /// # Errors
    /// It is none, or of another version.
    pub fn parse(line: &[u8]) -> Result<Header, String> {
        let header: Header = serde_json::from_slice(line)
            .map_err(|why| format!("its first line is none of an asciicast file: {why}"))?;
        match header.version {
            3 => Ok(header),
            other => Err(format!("it is asciicast version {other}, and this plays version 3")),
        }
    }
}

/// One event of a recording.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// Since the last.
    pub after: Duration,
    /// `o` for what was shown, `r` for another size, `x` for the end; others are to be passed over.
    pub code: String,
    pub text: String,
}

impl Event {
    /// `None` for a line that is no event: a comment, or nothing.
    ///
    /// # Errors
    /// It is none that can be read.
    pub fn parse(line: &[u8]) -> Result<Option<Event>, String> {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(None);
        }
        let (after, code, text): (f64, String, String) =
            serde_json::from_slice(line).map_err(|why| why.to_string())?;
        let after = Duration::try_from_secs_f64(after).map_err(|why| why.to_string())?;
        Ok(Some(Event { after, code, text }))
    }
}

/// Writes the lines of version 2 for those of a recording: older players know no other.
#[derive(Debug)]
pub struct Older {
    /// Since the start: events of version 2 have no other time.
    at: Duration,
}

impl Older {
    /// Answers the first line too.
    ///
    /// # Errors
    /// `line` is not the first of a recording.
    pub fn begin(line: &[u8]) -> Result<(Older, String), String> {
        Header::parse(line)?;
        let header: Value = serde_json::from_slice(line).map_err(|why| why.to_string())?;
        let side = |name: &str, usual: u32| {
            header.pointer(name).and_then(Value::as_u64).unwrap_or(u64::from(usual))
        };
        let (columns, rows) = (side("/term/cols", COLUMNS), side("/term/rows", ROWS));
        let mut older = json!({ "version": 2, "width": columns, "height": rows });
        for name in ["timestamp", "title", "command"] {
            if let Some(value) = header.get(name) {
                older[name] = value.clone();
            }
        }
        if let Some(terminal) = header.pointer("/term/type") {
            older["env"] = json!({ "TERM": terminal });
        }
        Ok((Older { at: Duration::ZERO }, first_line(&older)))
    }

    /// Nothing for what version 2 does not have: how the session ended.
    pub fn event(&mut self, event: &Event) -> String {
        self.at = self.at.saturating_add(event.after);
        let Event { code, text, .. } = event;
        match matches!(&**code, "o" | "r") {
            true => {
                let (at, text) = (self.at.as_secs_f64(), json!(text).to_string());
                format!("[{at:.6},\"{code}\",{}]\n", plain_json(&text))
            }
            false => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let screen = Screen { columns: 100, rows: 30, terminal: "xterm".into() };
        let (mut writer, header) = Writer::begin(7, &screen, "ann at 192.0.2.1", "top \"x\"");
        assert_eq!(
            header,
            "{\"command\":\"top \\\"x\\\"\",\"term\":{\"cols\":100,\"rows\":30,\"type\":\"xterm\"},\
             \"timestamp\":7,\"title\":\"ann at 192.0.2.1\",\"version\":3}\n"
        );
        assert_eq!(Header::parse(header.as_bytes()).expect("it").title, "ann at 192.0.2.1");
        let lines = [
            writer.output(at(1_500_000), b"\x1b]0;x\x07$ "),
            writer.resize(at(1_500_001), 90, 20),
            writer.status(at(3_000_000), 4),
        ]
        .concat();
        assert_eq!(
            lines,
            "[1.500000,\"o\",\"\\u001b]0;x\\u0007$ \"]\n[0.000001,\"r\",\"90x20\"]\n[1.499999,\"x\",\"4\"]\n"
        );
        let first = lines.lines().next().expect("a line");
        let event = Event::parse(first.as_bytes()).expect("it").expect("an event");
        assert_eq!(
            event,
            Event { after: at(1_500_000), code: "o".into(), text: "\x1b]0;x\x07$ ".into() }
        );
        assert_eq!(Event::parse(b"# comment\n"), Ok(None));
        for bad in
            ["[-1,\"o\",\"\"]", "[1e300,\"o\",\"\"]", "{}", "[1,\"o\"]", "[1,\"o\",\"\\ud800\"]"]
        {
            assert!(Event::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Header::parse(b"{\"version\":2,\"width\":80}").is_err());
    }

    /// SECURITY case 130: C1 (CSI as one character) and DEL are escaped as ESC is, and come back when the file
    /// is read.
    #[test]
    fn case_130_a_file_moves_no_cursor() {
        let text = "\u{9b}2J\u{9d}0;x\u{9c}\u{7f}\u{e9}";
        let screen = Screen { columns: 80, rows: 24, terminal: text.into() };
        let (mut writer, header) = Writer::begin(7, &screen, text, text);
        let event = writer.output(at(1), text.as_bytes());
        let parsed = Event::parse(event.as_bytes()).expect("it").expect("an event");
        assert_eq!(parsed.text, text);
        let (mut older, first) = Older::begin(header.as_bytes()).expect("a recording");
        let again = older.event(&parsed);
        for line in [&header, &event, &first, &again] {
            assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
            assert!(line.contains("\\u009b2J\\u009d") && line.contains('\u{e9}'), "{line:?}");
        }
        assert_eq!(Header::parse(header.as_bytes()).expect("it").title, text);
    }

    #[test]
    fn older_players_hear_of_times_since_the_start() {
        let screen = Screen { columns: 100, rows: 30, terminal: "xterm".into() };
        let (mut writer, header) = Writer::begin(7, &screen, "ann", "");
        let (mut older, first) = Older::begin(header.as_bytes()).expect("a recording");
        assert_eq!(
            first,
            "{\"env\":{\"TERM\":\"xterm\"},\"height\":30,\"timestamp\":7,\"title\":\"ann\",\
             \"version\":2,\"width\":100}\n"
        );
        let lines = [
            writer.output(at(1_500_000), b"$ \""),
            writer.resize(at(1_750_001), 90, 20),
            writer.status(at(3_000_000), 4),
        ]
        .concat();
        let event = |line: &str| Event::parse(line.as_bytes()).expect("it").expect("an event");
        let lines: String = lines.lines().map(|line| older.event(&event(line))).collect();
        assert_eq!(lines, "[1.500000,\"o\",\"$ \\\"\"]\n[1.750001,\"r\",\"90x20\"]\n");
        assert!(Older::begin(first.as_bytes()).is_err(), "that is one already");
    }

    #[test]
    fn characters_are_not_cut_in_two_and_bytes_that_are_none_are_marked() {
        let screen = Screen::default();
        let text = "a\u{e9}\u{20ac}\u{1f600}z";
        for cut in 0..=text.len() {
            let (mut writer, _) = Writer::begin(0, &screen, "", "");
            let (one, two) = text.as_bytes().split_at(cut);
            let lines =
                writer.output(at(0), one) + &writer.output(at(0), two) + &writer.rest(at(0));
            let shown = |line: &str| Event::parse(line.as_bytes()).expect("it").expect("one").text;
            assert_eq!(lines.lines().map(shown).collect::<String>(), text, "{cut}");
        }
        let (mut writer, _) = Writer::begin(0, &screen, "", "");
        assert_eq!(writer.output(at(0), b"\xff\xe2\x82"), "[0.000000,\"o\",\"\u{fffd}\"]\n");
        assert_eq!(writer.output(at(0), b"x"), "[0.000000,\"o\",\"\u{fffd}x\"]\n");
        assert_eq!(writer.output(at(0), b"\xf0"), "");
        assert_eq!(
            writer.status(at(0), 0),
            "[0.000000,\"o\",\"\u{fffd}\"]\n[0.000000,\"x\",\"0\"]\n"
        );
    }
}
