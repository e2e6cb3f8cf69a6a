//! What other processes say for the audit.

use std::time::SystemTime;

use crate::gateway::audit::{Entry, Line, Speaker};
use crate::limits::AUDIT_LINE_BYTES_MAX;
use crate::wire::Reader;

/// An event of another process: it is written the same again, and its line in the log is one JSON object of
/// bounded length, whatever its texts are.
pub fn audit(data: &[u8]) {
    let mut reader = Reader::new(data);
    let Ok(entry) = Entry::decode(&mut reader) else { return };
    let mut again = Vec::new();
    entry.encode(&mut again);
    assert_eq!(Entry::decode(&mut Reader::new(&again)).as_ref(), Ok(&entry));
    let by = Speaker::Account(entry.user.as_str().into());
    let text = Line { at: SystemTime::UNIX_EPOCH, by, entry }.text(7);
    assert!(!text.contains('\n') && text.len() <= 2 * AUDIT_LINE_BYTES_MAX, "{text}");
    let read = serde_json::from_str::<serde_json::Value>(&text);
    assert!(read.is_ok_and(|line| line.is_object()), "{text}");
}
