//! Recordings: what is written of a session, read again, and shown on somebody's terminal.

use std::time::Duration;

use crate::gateway::recording::cast::{Event, Header, Writer};
use crate::gateway::recording::screen::Screen;
use crate::services::tape;
use crate::services::tape::frame::{Answer, Frame};

/// A file, and the same bytes as what a session shows and as what a process says to a recorder. What is
/// shown has no sequences that are not shown when it is shown again, and none of the dangerous ones.
pub fn recording(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n').take(64);
    let _ = lines.next().map(Header::parse);
    for line in lines {
        if let Ok(Some(event)) = Event::parse(line) {
            show(&event.text);
        }
    }
    let screen = tape::Screen::default();
    let (mut writer, header) = Writer::begin(0, &screen, "", "");
    assert!(Header::parse(header.as_bytes()).is_ok(), "{header}");
    let mut shown = String::new();
    for part in data.chunks(7) {
        shown += &writer.output(Duration::ZERO, part);
    }
    shown += &writer.status(Duration::ZERO, 0);
    let text = |line: &str| match Event::parse(line.as_bytes()) {
        Ok(Some(event)) if event.code == "o" => event.text,
        Ok(Some(_)) => String::new(),
        other => panic!("{line:?} is no event: {other:?}"),
    };
    let text: String = shown.lines().map(text).collect();
    show(&text);
    if let Ok(whole) = std::str::from_utf8(data) {
        assert_eq!(text, whole);
    }
    if let Ok(frame) = Frame::decode(data) {
        assert_eq!(*frame.encode(), *data);
    }
    if let Ok(answer @ Answer::Taken(_)) = Answer::decode(data) {
        assert_eq!(answer.encode(), data);
    }
}

fn show(text: &str) {
    let shown = Screen::new(false).show(text);
    assert_eq!(Screen::new(false).show(&shown), shown, "{text:?}");
    for dangerous in
        ["\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x1bZ", "\x05", "\x07", "\u{9b}"]
    {
        assert!(!shown.contains(dangerous), "{text:?} shows {dangerous:?}");
    }
    assert!(!Screen::new(true).show(text).contains('\x1b'), "{text:?}");
}
