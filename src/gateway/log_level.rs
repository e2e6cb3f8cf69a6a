//! What is being talked about in the log: its level, for LogLevel in a Match block holds for the
//! connections that it applies to, and not for the rest of the process; and which connection it is.

use std::cell::Cell;

use super::config::LogLevel;

thread_local! {
    static OWN: Cell<Option<LogLevel>> = const { Cell::new(None) };
    static LINK: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Writes log lines about a connection: at its own level, if it has one.
pub fn under<T>(verbosity: Option<u8>, call: impl FnOnce() -> T) -> T {
    let before = OWN.replace(verbosity.and_then(LogLevel::of_number));
    let outcome = call();
    OWN.set(before);
    outcome
}

/// The same about the connection of this number. sshd has a process for each, by whose number ban lists
/// tell which lines belong together; here this number stands in its place.
pub fn about<T>(link: u64, verbosity: Option<u8>, call: impl FnOnce() -> T) -> T {
    let before = LINK.replace(Some(link));
    let outcome = under(verbosity, call);
    LINK.set(before);
    outcome
}

/// The connection that the line of this thread is about.
pub fn link() -> Option<u64> {
    LINK.get()
}

/// The level that holds for the line of this thread, where it is not that of the process.
pub fn own() -> Option<LogLevel> {
    OWN.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_holds_for_the_call_and_no_longer() {
        assert_eq!(own(), None);
        let number = Some(LogLevel::Verbose.number());
        under(number, || {
            assert_eq!(own(), Some(LogLevel::Verbose));
            under(None, || assert_eq!(own(), None));
            assert_eq!(own(), Some(LogLevel::Verbose));
        });
        under(Some(200), || assert_eq!(own(), None));
        about(7, number, || {
            assert_eq!((own(), link()), (Some(LogLevel::Verbose), Some(7)));
            about(8, None, || assert_eq!((own(), link()), (None, Some(8))));
            assert_eq!(link(), Some(7));
        });
        assert_eq!(link(), None);
        assert_eq!(own(), None);
    }
}
