//! The log of a process of ours: lines that come through a pipe and go where ours go. Whatever they say, each is
//! one line of printable text.

use std::io::{self, PipeReader, Read, Write};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::base::escape;
use crate::gateway::config::Facility;
use crate::gateway::log_level;
use crate::gateway::syslog::{GATEWAY, Severity, Syslog};
use crate::limits::EDGE_LINE_BYTES_MAX;

/// A login makes several lines within moments: they are read together.
const REST: Duration = Duration::from_millis(10);

/// Passes lines on until the other end is closed.
///
/// # Errors
/// There are no threads.
pub fn pass_on(pipe: PipeReader, facility: Option<Facility>) -> io::Result<JoinHandle<()>> {
    let syslog = facility.map(|facility| Syslog::new(GATEWAY, facility));
    thread::Builder::new().name("helper's log".to_owned()).spawn(move || run(pipe, syslog.as_ref()))
}

fn run(mut pipe: PipeReader, syslog: Option<&Syslog>) {
    let mut lines = Lines::default();
    let mut chunk = vec![0; 4 * EDGE_LINE_BYTES_MAX];
    loop {
        let len = match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => len,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        write(lines.take(chunk.get(..len).unwrap_or_default()), syslog);
        thread::sleep(REST);
    }
    write(lines.rest(), syslog);
}

fn write(lines: Vec<String>, syslog: Option<&Syslog>) {
    match syslog {
        Some(syslog) => {
            for line in lines {
                let (severity, link, text) = parts_of(&line);
                let send = || syslog.send(severity, text.as_bytes());
                match link {
                    Some(link) => log_level::about(link, None, send),
                    None => send(),
                }
            }
        }
        None => {
            let mut text = lines.join("\n");
            if !text.is_empty() {
                text.push('\n');
                let _ = io::stderr().write_all(text.as_bytes());
            }
        }
    }
}

/// `<3>text`, as a line for syslog begins, or `<3>7|text` where it is about connection 7. What has no such
/// beginning is a complaint.
fn parts_of(line: &str) -> (Severity, Option<u64>, &str) {
    for severity in [Severity::Error, Severity::Warning, Severity::Info, Severity::Debug] {
        if let Some(text) = line.strip_prefix(&*severity.mark()) {
            let about = text.split_once('|');
            let about = about.and_then(|(link, text)| Some((link.parse().ok()?, text)));
            return match about {
                Some((link, text)) => (severity, Some(link), text),
                None => (severity, None, text),
            };
        }
    }
    (Severity::Error, None, line)
}

/// Cuts a stream into lines.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = EDGE_LINE_BYTES_MAX.saturating_sub(self.begun.len());
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.begun.extend_from_slice(text.get(..room).unwrap_or(text));
            if piece.ends_with(b"\n") {
                lines.extend(self.rest());
            }
        }
        lines
    }

    /// The line that has no end yet.
    fn rest(&mut self) -> Vec<String> {
        let begun = std::mem::take(&mut self.begun);
        let printable = |text: &str| text.chars().all(|c| !c.is_control());
        match String::from_utf8(begun) {
            Ok(text) if text.is_empty() => Vec::new(),
            Ok(text) if printable(&text) => vec![text],
            Ok(text) => vec![escape(text.as_bytes()).to_string()],
            Err(bytes) => vec![escape(bytes.as_bytes()).to_string()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_where_they_end_and_printable() {
        let mut lines = Lines::default();
        assert!(lines.take(b"<6>one").is_empty());
        assert_eq!(lines.take(b" line\n\n<3>two\nthr"), ["<6>one line", "<3>two"]);
        assert_eq!(lines.take(b"ee\x1b[2J\n"), ["three\\x1b[2J"]);
        assert_eq!(lines.take(b"caf\xe9\n").len(), 1);
        let long = [b'x'; 3 * EDGE_LINE_BYTES_MAX];
        assert!(lines.take(&long).is_empty());
        assert_eq!(lines.take(b"y\nz\n"), ["x".repeat(EDGE_LINE_BYTES_MAX), "z".to_owned()]);
        assert_eq!(lines.rest(), Vec::<String>::new());
    }

    #[test]
    fn a_line_says_how_urgent_it_is() {
        assert_eq!(parts_of("<4>careful"), (Severity::Warning, None, "careful"));
        assert_eq!(parts_of("<6>a|b"), (Severity::Info, None, "a|b"));
        let mark = log_level::about(u64::MAX, None, || Severity::Info.mark());
        let line = format!("{mark}7|b");
        assert_eq!(parts_of(&line), (Severity::Info, Some(u64::MAX), "7|b"));
        assert_eq!(parts_of("thread panicked"), (Severity::Error, None, "thread panicked"));
    }
}
