//! The log level of what is being talked about: LogLevel in a Match block holds for the
//! connections that it applies to, and not for the rest of the process.

use std::cell::Cell;

use super::config::LogLevel;

thread_local! {
    static OWN: Cell<Option<LogLevel>> = const { Cell::new(None) };
}

/// Writes log lines about a connection: at its own level, if it has one.
pub fn under<T>(verbosity: Option<u8>, call: impl FnOnce() -> T) -> T {
    let before = OWN.replace(verbosity.and_then(LogLevel::of_number));
    let outcome = call();
    OWN.set(before);
    outcome
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
        assert_eq!(own(), None);
    }
}
