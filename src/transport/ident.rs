//! RFC 4253 §4.2: the lines before the first packet.

use super::Error;
use crate::limits::{IDENT_BYTES_MAX, PRE_IDENT_BYTES_MAX, PRE_IDENT_LINES_MAX};

/// Looks for the peer's identification line, one line at a time, without looking at a byte twice.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Bytes of the present line already known to hold no line feed.
    scanned: usize,
    lines: u32,
    bytes: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No whole line yet; at least this many bytes are needed.
    Need(u32),
    /// A line a server may send before its identification; it means nothing to us.
    Other { used: u32 },
    /// The identification, without its line end.
    Ident { used: u32, line: Box<[u8]> },
}

impl Scanner {
    /// Judges the line at the front of `buf`. Only a server may send others before its own
    /// (`others_allowed`).
    pub(super) fn next(&mut self, buf: &[u8], others_allowed: bool) -> Result<Found, Error> {
        let is_ident = buf.starts_with(PREFIX);
        if !others_allowed && !buf.iter().zip(PREFIX).all(|(have, want)| have == want) {
            return Err(INVALID);
        }
        let limit = if is_ident || !others_allowed {
            IDENT_BYTES_MAX
        } else {
            PRE_IDENT_BYTES_MAX.saturating_sub(self.bytes) as usize
        };
        let unseen = buf.get(self.scanned..).unwrap_or(&[]);
        let Some(end) = unseen.iter().position(|byte| *byte == b'\n') else {
            if buf.len() >= limit {
                return Err(TOO_LONG);
            }
            self.scanned = buf.len();
            return Ok(Found::Need(buf.len() as u32 + 1));
        };
        let used = self.scanned + end + 1;
        if used > limit {
            return Err(TOO_LONG);
        }
        self.scanned = 0;
        let line = buf.get(..used - 1).unwrap_or(&[]);
        // RFC 4253 §4.2 asks for CR LF; older implementations send LF alone, and all are read.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if is_ident {
            return check(line).map(|()| Found::Ident { used: used as u32, line: line.into() });
        }
        if line.iter().any(|byte| matches!(byte, 0 | b'\r')) {
            return Err(INVALID);
        }
        self.lines += 1;
        self.bytes += used as u32;
        if self.lines > PRE_IDENT_LINES_MAX {
            return Err(Error::Identification("too many lines before the identification"));
        }
        Ok(Found::Other { used: used as u32 })
    }
}

/// Whether `software` may stand in our own identification: what goes behind `SSH-2.0-`, comments
/// included (RFC 4253 §4.2: printable US-ASCII, the software version without spaces or minus).
pub(super) fn is_valid_software(software: &str) -> bool {
    let (version, comments) = software.split_once(' ').unwrap_or((software, ""));
    !version.is_empty()
        && version.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'-')
        && comments.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        && VERSION_2.len() + software.len() + 2 <= IDENT_BYTES_MAX
}

/// Whether a peer with this identification is OpenSSH's software. What a peer is known to do beyond the protocol
/// goes by that; nothing that is safe only if it is true may.
pub fn is_openssh(ident: &[u8]) -> bool {
    ident.starts_with(b"SSH-2.0-OpenSSH_")
}

/// Whether it is our own.
pub fn is_ours(ident: &[u8]) -> bool {
    ident.starts_with(b"SSH-2.0-Tidegate_")
}

const PREFIX: &[u8] = b"SSH-";
pub(super) const VERSION_2: &str = "SSH-2.0-";
/// RFC 4253 §5.1: a server that can still speak version 1 says so this way.
const VERSION_1_99: &str = "SSH-1.99-";

/// What an [`Error::Identification`] says of a peer of another version of the protocol.
pub const OTHER_VERSION: &str = "the peer does not speak SSH 2.0";
const INVALID: Error = Error::Identification("invalid SSH identification string");
const TOO_LONG: Error = Error::Identification("the SSH identification string is too long");

/// Whether a line, without its end, is an identification that we take.
pub(super) fn is_valid(line: &[u8]) -> bool {
    check(line).is_ok()
}

fn check(line: &[u8]) -> Result<(), Error> {
    if line.iter().any(u8::is_ascii_control) {
        return Err(INVALID);
    }
    let software =
        [VERSION_2, VERSION_1_99].iter().find_map(|version| line.strip_prefix(version.as_bytes()));
    match software {
        Some([]) => Err(INVALID),
        Some(_) => Ok(()),
        None => Err(Error::Identification(OTHER_VERSION)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(line: &[u8], others_allowed: bool) -> Result<Found, Error> {
        Scanner::default().next(line, others_allowed)
    }

    fn ident(used: u32, line: &str) -> Result<Found, Error> {
        Ok(Found::Ident { used, line: line.as_bytes().into() })
    }

    #[test]
    fn case_1_old_protocols_are_refused() {
        for old in ["SSH-1.5-x\r\n", "SSH-3.0-x\n", "SSH-2.00-x\r\n", "SSH-\n"] {
            assert!(matches!(scan(old.as_bytes(), false), Err(Error::Identification(_))), "{old}");
            assert!(scan(old.as_bytes(), true).is_err(), "{old}");
        }
        assert_eq!(scan(b"SSH-1.99-x\r\n", true), ident(12, "SSH-1.99-x"));
    }

    #[test]
    fn case_2_junk_is_refused_at_its_first_byte() {
        assert_eq!(scan(b"G", false), Err(INVALID));
        assert_eq!(scan(b"SSX", false), Err(INVALID));
        assert_eq!(scan(b"SS", false), Ok(Found::Need(3)));
    }

    #[test]
    fn case_3_long_lines_are_refused() {
        let line = |len: usize| [b"SSH-2.0-", &vec![b'x'; len - 10][..], b"\r\n"].concat();
        for client in [false, true] {
            assert!(scan(&line(255), client).is_ok());
            assert_eq!(scan(&line(256), client), Err(TOO_LONG));
            assert_eq!(scan(&line(256)[..254], client), Ok(Found::Need(255)));
            assert_eq!(scan(&line(256)[..255], client), Err(TOO_LONG));
        }
    }

    #[test]
    fn case_4_control_characters_are_refused() {
        for bad in
            [&b"SSH-2.0-a\0b\r\n"[..], b"SSH-2.0-\x1b[0m\n", b"SSH-2.0-a\rb\n", b"SSH-2.0-\n"]
        {
            assert_eq!(scan(bad, false), Err(INVALID));
        }
        assert_eq!(scan(b"hello\0\n", true), Err(INVALID));
    }

    #[test]
    fn case_5_lines_before_are_bounded() {
        let mut scanner = Scanner::default();
        for _ in 0..1024 {
            assert_eq!(scanner.next(b"x\n", true), Ok(Found::Other { used: 2 }));
        }
        assert!(scanner.next(b"x\n", true).is_err());

        let mut scanner = Scanner::default();
        let long = [&[b'y'; 4095][..], b"\n"].concat();
        assert_eq!(scanner.next(&long, true), Ok(Found::Other { used: 4096 }));
        assert_eq!(scanner.next(&long, true), Ok(Found::Other { used: 4096 }));
        assert_eq!(scanner.next(b"z", true), Err(TOO_LONG));
        assert_eq!(scanner.next(b"SSH-2.0-x\r\n", true), ident(11, "SSH-2.0-x"));
    }

    #[test]
    fn case_6_a_bare_line_feed_will_do() {
        assert_eq!(scan(b"SSH-2.0-x y\nrest", false), ident(12, "SSH-2.0-x y"));
    }

    #[test]
    fn case_10_cut_anywhere_the_answer_is_the_same() {
        let text = b"Welcome\r\nSSH-2.0-Peer_1 comment\r\nrest";
        for step in 1..text.len() {
            let (mut scanner, mut at, mut have, mut others) = (Scanner::default(), 0, 0, 0);
            let line = loop {
                match scanner.next(&text[at..have], true).expect("legal") {
                    Found::Need(total) => {
                        assert!(at + total as usize > have);
                        have = (have + step).min(text.len());
                    }
                    Found::Other { used } => {
                        at += used as usize;
                        others += 1;
                    }
                    Found::Ident { used, line } => {
                        assert_eq!(&text[at + used as usize..], b"rest");
                        break line;
                    }
                }
            };
            assert_eq!((others, &line[..]), (1, &b"SSH-2.0-Peer_1 comment"[..]));
        }
    }

    #[test]
    fn our_own_software_is_checked() {
        assert!(is_valid_software("Tidegate_0.1.0"));
        assert!(is_valid_software("Tidegate_0.1.0 on a good day - really"));
        for bad in ["", " x", "a-b", "a\r\n", "a b\0", "\u{e9}", &"x".repeat(246)] {
            assert!(!is_valid_software(bad), "{bad:?}");
        }
    }
}
