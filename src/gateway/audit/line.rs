use std::time::SystemTime;

use serde_json::Value as Json;

use super::entry::{Entry, Event, Value};
use super::{NOBODY, Speaker};
use crate::base::{Utc, cut, escape_up_to};
use crate::limits::{AUDIT_CUT_BYTES, AUDIT_LINE_BYTES_MAX};

/// What a connection is called.
pub fn session(run: u32, link: u64) -> String {
    format!("{run:08x}-{link:x}")
}

/// An event and its circumstances.
#[derive(Debug)]
pub struct Line {
    pub at: SystemTime,
    pub by: Speaker,
    pub entry: Entry,
}

impl Line {
    /// The event as one JSON object on one line. `run` tells the sessions of one start of the gateway
    /// from those of others.
    pub fn text(&self, run: u32) -> String {
        let text = self.text_with(run, usize::MAX);
        if text.len() <= AUDIT_LINE_BYTES_MAX { text } else { self.text_with(run, AUDIT_CUT_BYTES) }
    }

    /// The session's name; none is about no connection.
    pub fn session(&self, run: u32) -> Option<String> {
        (self.entry.link > 0).then(|| session(run, self.entry.link))
    }

    fn text_with(&self, run: u32, most: usize) -> String {
        let Entry { event, peer, user, .. } = &self.entry;
        let mut out = Object("{".to_owned());
        out.put("time", &time(self.at).into());
        out.put("event", &event.name().into());
        if let Some(session) = self.session(run) {
            out.put("session", &session.into());
        }
        if *peer != NOBODY {
            out.put("ip", &peer.ip().to_string().into());
            out.put("port", &peer.port().into());
        }
        if !user.is_empty() {
            out.put("user", &shown(user.as_bytes(), most));
        }
        let by = match &self.by {
            Speaker::Gateway => "gateway".into(),
            Speaker::Edge => "edge".into(),
            Speaker::Relay => "relay".into(),
            Speaker::Account(name) => shown(format!("account {name}").as_bytes(), most),
        };
        out.put("by", &by);
        for (field, value) in self.entry.fields() {
            let value = match value {
                Value::Text(text) => shown(text, most),
                Value::Number(number) => (*number).into(),
            };
            out.put(field.name(), &value);
        }
        if most < usize::MAX {
            out.put("cut", &true.into());
        }
        out.0 + "}"
    }

    pub fn event(&self) -> Event {
        self.entry.event
    }
}

struct Object(String);

impl Object {
    fn put(&mut self, name: &str, value: &Json) {
        let comma = if self.0.len() > 1 { "," } else { "" };
        self.0 += &format!("{comma}\"{name}\":{value}");
    }
}

/// As in the log: nothing in it can end a line, move a cursor or hide what is around it.
fn shown(text: &[u8], most: usize) -> Json {
    let (kept, left) = cut(text, most);
    let more = if left > 0 { format!("[+{left} bytes]") } else { String::new() };
    Json::String(format!("{}{more}", escape_up_to(kept, usize::MAX)))
}

/// `2026-11-28T22:05:00.123456Z`.
fn time(at: SystemTime) -> String {
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let second = Utc(at.as_secs()).to_string();
    format!("{}.{:06}Z", second.trim_end_matches('Z'), at.subsec_micros())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::entry::{Field, tests::entries};
    use super::*;
    use crate::limits::AUDIT_TEXT_BYTES_MAX;

    fn line(entry: Entry) -> Line {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_123);
        Line { at, by: Speaker::Account("ann".into()), entry }
    }

    #[test]
    fn a_line_has_its_fields_in_order() {
        let entry = Entry::new(Event::File, 0x2a, ([192, 0, 2, 7], 50_000).into())
            .of_user("ann")
            .text(Field::Path, b"/a \"b\"\n\xff\xe2\x80\xae\\")
            .number(Field::BytesRead, u64::MAX);
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.000123Z","event":"file","session":"00000007-2a","#,
            r#""ip":"192.0.2.7","port":50000,"user":"ann","by":"account ann","#,
            r#""path":"/a \\\"b\\\"\\n\\xff\\u{202e}\\\\","bytes_read":18446744073709551615}"#,
        );
        assert_eq!(line(entry).text(7), expected);
        let lost = Line { by: Speaker::Gateway, ..line(Entry::lost(3)) }.text(7);
        let expected =
            r#"{"time":"2023-11-14T22:13:20.000123Z","event":"lost","by":"gateway","count":3}"#;
        assert_eq!(lost, expected);
    }

    #[test]
    fn a_line_that_would_be_too_long_has_less_of_its_texts() {
        let long = vec![0x1b; AUDIT_TEXT_BYTES_MAX];
        let entry = Entry::new(Event::Refused, 1, NOBODY)
            .text(Field::What, &long)
            .text(Field::Reason, &long);
        let text = line(entry).text(7);
        assert!(text.len() < AUDIT_LINE_BYTES_MAX, "{}", text.len());
        let read: Json = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["cut"], true);
        assert!(read["what"].as_str().expect("text").ends_with("\\x1b[+896 bytes]"), "{text}");
    }

    proptest! {
        /// SECURITY case 130: whatever peers say, an event is one line of JSON that moves no cursor.
        #[test]
        fn case_130_hostile_texts_stay_in_their_fields(entry in entries()) {
            let line = line(entry);
            let text = line.text(7);
            prop_assert!(!text.chars().any(char::is_control));
            let read: Json = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(&read["event"], line.entry.event.name());
            for (field, value) in line.entry.fields() {
                let read = &read[field.name()];
                let typed = match value {
                    Value::Text(_) => read.is_string(),
                    Value::Number(_) => read.is_u64(),
                };
                prop_assert!(typed);
                let text = read.as_str().unwrap_or_default();
                let hides = text.chars().any(|c| c.is_control() || c == '\u{202e}');
                prop_assert!(!hides);
            }
        }
    }
}
