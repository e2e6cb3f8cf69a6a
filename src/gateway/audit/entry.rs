//! What an audit hears: an event of one connection, with fields of known names and types, each bounded.
//! The same form travels between processes.

use std::net::SocketAddr;

use crate::base::cut;
use crate::gateway::parcel::{address, put, put_address};
use crate::limits::{AUDIT_FIELDS_MAX, AUDIT_TEXT_BYTES_MAX, USER_BYTES_MAX};
use crate::wire::{Malformed, Reader};

/// A closed set of names, which are numbers where they travel.
macro_rules! names {
    ($(#[$about:meta])* $set:ident { $($name:ident = $text:literal),* $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $set {
            $($name),*
        }

        impl $set {
            pub const ALL: &[$set] = &[$($set::$name),*];

            /// As lines have it.
            pub const fn name(self) -> &'static str {
                match self {
                    $($set::$name => $text),*
                }
            }

            fn from_number(number: u8) -> Result<$set, Malformed> {
                $set::ALL.get(usize::from(number)).copied().ok_or(Malformed::Number)
            }
        }
    };
}

names! {
    /// What happened; docs/audit.md describes each.
    Event {
        Connect = "connect",
        KeyExchange = "kex",
        Auth = "auth",
        Denied = "denied",
        SessionStart = "session_start",
        SessionEnd = "session_end",
        ForwardStart = "forward_start",
        ForwardEnd = "forward_end",
        ForwardFailed = "forward_failed",
        Listen = "listen",
        Upstream = "upstream",
        UpstreamFailed = "upstream_failed",
        RecordStart = "record_start",
        RecordEnd = "record_end",
        RecordFailed = "record_failed",
        File = "file",
        Refused = "refused",
        Disconnect = "disconnect",
        Lost = "lost",
    }
}

names! {
    /// What is told of it.
    Field {
        LocalIp = "local_ip",
        LocalPort = "local_port",
        Client = "client",
        Algorithms = "algorithms",
        Result = "result",
        Method = "method",
        Fingerprint = "fingerprint",
        CertificateId = "certificate_id",
        CertificateSerial = "certificate_serial",
        Authority = "authority",
        Source = "source",
        Channel = "channel",
        What = "what",
        Host = "host",
        Operation = "operation",
        Path = "path",
        To = "to",
        Status = "status",
        Reason = "reason",
        Rule = "rule",
        BytesRead = "bytes_read",
        BytesWritten = "bytes_written",
        BytesIn = "bytes_in",
        BytesOut = "bytes_out",
        Fault = "fault",
        Count = "count",
    }
}

impl Field {
    const fn is_number(self) -> bool {
        matches!(
            self,
            Field::LocalPort
                | Field::Channel
                | Field::BytesRead
                | Field::BytesWritten
                | Field::BytesIn
                | Field::BytesOut
                | Field::Count
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(Vec<u8>),
    Number(u64),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub event: Event,
    /// The connection's number in the log; 0 for what is about none.
    pub link: u64,
    pub peer: SocketAddr,
    /// Who logs in or has; empty while nobody has been named.
    pub user: String,
    fields: Vec<(Field, Value)>,
}

impl Entry {
    pub const fn new(event: Event, link: u64, peer: SocketAddr) -> Entry {
        Entry { event, link, peer, user: String::new(), fields: Vec::new() }
    }

    /// So many events were not noted.
    pub fn lost(count: u64) -> Entry {
        Entry::new(Event::Lost, 0, super::NOBODY).number(Field::Count, count)
    }

    pub fn of_user(mut self, user: &str) -> Entry {
        user.clone_into(&mut self.user);
        self
    }

    /// Text that somebody else has chosen, or may have; what passes the bound is counted, not kept.
    pub fn text(mut self, field: Field, text: impl AsRef<[u8]>) -> Entry {
        let (kept, left) = cut(text.as_ref(), AUDIT_TEXT_BYTES_MAX);
        let mut kept = kept.to_vec();
        if left > 0 {
            kept.extend(format!("[+{left} bytes]").into_bytes());
        }
        self.fields.push((field, Value::Text(kept)));
        self
    }

    /// The same if there is one.
    pub fn some_text(self, field: Field, text: Option<&str>) -> Entry {
        match text {
            Some(text) => self.text(field, text),
            None => self,
        }
    }

    pub fn number(mut self, field: Field, number: u64) -> Entry {
        self.fields.push((field, Value::Number(number)));
        self
    }

    pub fn fields(&self) -> &[(Field, Value)] {
        &self.fields
    }

    pub fn get(&self, field: Field) -> Option<&Value> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, value)| value)
    }

    /// How many events were lost, of an entry that says so.
    pub fn count(&self) -> u64 {
        match self.get(Field::Count) {
            Some(Value::Number(count)) => *count,
            _ => 0,
        }
    }

    /// Says that a login succeeded.
    pub fn is_login(&self) -> bool {
        let result = self.get(Field::Result);
        self.event == Event::Auth
            && matches!(result, Some(Value::Text(text)) if text == super::SUCCESS.as_bytes())
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.event as u8);
        out.extend(self.link.to_be_bytes());
        put_address(out, &self.peer);
        put(out, self.user.as_bytes());
        out.push(self.fields.len() as u8);
        for (field, value) in &self.fields {
            out.push(*field as u8);
            match value {
                Value::Text(text) => put(out, text),
                Value::Number(number) => out.extend(number.to_be_bytes()),
            }
        }
    }

    pub fn decode(r: &mut Reader<'_>) -> Result<Entry, Malformed> {
        let event = Event::from_number(r.byte()?)?;
        let (link, peer) = (r.uint64()?, address(r)?);
        let user = r.utf8(USER_BYTES_MAX)?.to_owned();
        let count = r.byte()?;
        if count > AUDIT_FIELDS_MAX {
            return Err(Malformed::Range);
        }
        let mut fields = Vec::new();
        for _ in 0..count {
            let field = Field::from_number(r.byte()?)?;
            let value = match field.is_number() {
                true => Value::Number(r.uint64()?),
                // Room for what says how much was left out.
                false => Value::Text(r.string(AUDIT_TEXT_BYTES_MAX as u32 + 32)?.to_vec()),
            };
            fields.push((field, value));
        }
        Ok(Entry { event, link, peer, user, fields })
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any entry that some process may send.
    pub fn entries() -> impl Strategy<Value = Entry> {
        let field =
            (0..Field::ALL.len(), prop::collection::vec(any::<u8>(), 0..1500), any::<u64>());
        let fields = prop::collection::vec(field, 0..usize::from(AUDIT_FIELDS_MAX));
        let event = 0..Event::ALL.len();
        (event, any::<u64>(), "\\PC{0,30}", fields).prop_map(|(event, link, user, fields)| {
            let entry = Entry::new(Event::ALL[event], link, ([192, 0, 2, 7], 50_000).into());
            fields.into_iter().fold(entry.of_user(&user), |entry, (field, text, number)| {
                match Field::ALL[field] {
                    field if field.is_number() => entry.number(field, number),
                    field => entry.text(field, text),
                }
            })
        })
    }

    proptest! {
        #[test]
        fn an_entry_travels_whole_or_not_at_all(entry in entries(), cut in any::<usize>()) {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(Entry::decode(&mut r), Ok(entry));
            prop_assert!(r.end().is_ok());
            let cut = cut % bytes.len();
            prop_assert!(Entry::decode(&mut Reader::new(&bytes[..cut])).is_err());
        }

        #[test]
        fn no_bytes_are_more_than_an_entry(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            if let Ok(entry) = Entry::decode(&mut Reader::new(&bytes)) {
                prop_assert!(entry.fields.len() <= usize::from(AUDIT_FIELDS_MAX));
            }
        }
    }

    #[test]
    fn long_texts_are_cut_and_counted() {
        let entry = Entry::new(Event::File, 1, super::super::NOBODY);
        let entry = entry.text(Field::Path, "\u{e4}".repeat(AUDIT_TEXT_BYTES_MAX));
        let Some(Value::Text(text)) = entry.get(Field::Path) else { panic!("a text") };
        let text = std::str::from_utf8(text).expect("UTF-8");
        assert!(text.ends_with(&format!("\u{e4}[+{AUDIT_TEXT_BYTES_MAX} bytes]")), "{text}");
    }
}
