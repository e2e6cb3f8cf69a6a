//! The control lines of a client (rcp's protocol, as OpenSSH's scp reads it).

use super::jobs::Times;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// `T`: of the file or directory that comes next. `None`: beyond what a clock can say.
    Times(Option<Times>),
    File {
        mode: u32,
        size: u64,
        name: Vec<u8>,
    },
    Directory {
        mode: u32,
        name: Vec<u8>,
    },
    /// `E`: the directory is over.
    End,
    /// `\x01`: the client could not read something.
    Warning,
    /// `\x02`: it cannot go on.
    Fatal,
}

/// Why a line is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It begins like no record.
    Unknown,
    Protocol(&'static str),
    /// A name that would lead elsewhere.
    Name(Vec<u8>),
}

const MICROS_MAX: u64 = 999_999;

impl Record {
    /// Reads a line without its line end.
    pub fn parse(line: &[u8]) -> Result<Record, Wrong> {
        let Some((first, rest)) = line.split_first() else {
            return Err(Wrong::Protocol("unexpected <newline>"));
        };
        match first {
            1 => Ok(Record::Warning),
            2 => Ok(Record::Fatal),
            b'E' => Ok(Record::End),
            b'T' => times(rest).map(Record::Times).map_err(Wrong::Protocol),
            b'C' => {
                let (mode, size, name) = entry(rest)?;
                Ok(Record::File { mode, size, name })
            }
            b'D' => {
                let (mode, _, name) = entry(rest)?;
                Ok(Record::Directory { mode, name })
            }
            _ => Err(Wrong::Unknown),
        }
    }
}

/// `0644 12 name`.
fn entry(line: &[u8]) -> Result<(u32, u64, Vec<u8>), Wrong> {
    let mut mode = 0;
    let (digits, rest) = line.split_at_checked(4).ok_or(Wrong::Protocol("bad mode"))?;
    for digit in digits {
        match digit {
            b'0'..=b'7' => mode = mode << 3 | u32::from(digit - b'0'),
            _ => return Err(Wrong::Protocol("bad mode")),
        }
    }
    let rest = rest.strip_prefix(b" ").ok_or(Wrong::Protocol("mode not delimited"))?;
    let (size, rest) = number(rest).ok_or(Wrong::Protocol("size not present"))?;
    let name = rest.strip_prefix(b" ").ok_or(Wrong::Protocol("size not delimited"))?;
    let in_range = i64::try_from(size).is_ok();
    if !in_range {
        return Err(Wrong::Protocol("size out of range"));
    }
    // A name is one name: nothing that leads out of the directory or into another.
    let leads_away = name.is_empty() || name == b"." || name == b"..";
    if leads_away || name.contains(&b'/') || name.contains(&0) {
        return Err(Wrong::Name(name.to_vec()));
    }
    Ok((mode, size, name.to_vec()))
}

/// `mtime 0 atime 0`: seconds and microseconds of both.
fn times(line: &[u8]) -> Result<Option<Times>, &'static str> {
    let (modified, rest) = number(line).ok_or("mtime.sec not present")?;
    let rest = rest.strip_prefix(b" ").ok_or("mtime.sec not delimited")?;
    let (modified_micros, rest) = micros(rest).ok_or("mtime.usec not delimited")?;
    let rest = rest.strip_prefix(b" ").ok_or("mtime.usec not delimited")?;
    let (read, rest) = number(rest).ok_or("atime.sec not present")?;
    let rest = rest.strip_prefix(b" ").ok_or("atime.sec not delimited")?;
    let (read_micros, rest) = micros(rest).ok_or("atime.usec not delimited")?;
    if !rest.is_empty() {
        return Err("atime.usec not delimited");
    }
    let both = i64::try_from(modified).ok().zip(i64::try_from(read).ok());
    Ok(both.map(|(modified, read)| Times {
        modified: (modified, modified_micros),
        read: (read, read_micros),
    }))
}

fn micros(line: &[u8]) -> Option<(i64, &[u8])> {
    let (micros, rest) = number(line)?;
    (micros <= MICROS_MAX).then_some((micros as i64, rest))
}

/// The number at the front; one that no 64 bits hold becomes the largest.
fn number(line: &[u8]) -> Option<(u64, &[u8])> {
    let end = line.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let add = |sum: u64, digit: &u8| {
        sum.checked_mul(10).and_then(|sum| sum.checked_add(u64::from(digit - b'0')))
    };
    let value = digits.iter().try_fold(0, add);
    Some((value.unwrap_or(u64::MAX), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let file = Record::File { mode: 0o4755, size: 12, name: b"a b ".to_vec() };
        assert_eq!(Record::parse(b"C4755 12 a b "), Ok(file));
        let directory = Record::Directory { mode: 0o700, name: b"..x".to_vec() };
        assert_eq!(Record::parse(b"D0700 0 ..x"), Ok(directory));
        let times = Times { modified: (12, 0), read: (34, 999_999) };
        assert_eq!(Record::parse(b"T12 0 34 999999"), Ok(Record::Times(Some(times))));
        assert_eq!(Record::parse(b"T99999999999999999999 0 3 0"), Ok(Record::Times(None)));
        assert_eq!(Record::parse(b"Exyz"), Ok(Record::End));
        assert_eq!(Record::parse(b"\x01no"), Ok(Record::Warning));
        assert_eq!(Record::parse(b"\x02no"), Ok(Record::Fatal));
    }

    #[test]
    fn hostile_records_are_refused_in_openssh_s_words() {
        for (line, why) in [
            (&b""[..], "unexpected <newline>"),
            (b"C", "bad mode"),
            (b"C064", "bad mode"),
            (b"C0888 1 x", "bad mode"),
            (b"C06440 1 x", "mode not delimited"),
            (b"C0644 -1 x", "size not present"),
            (b"C0644  x", "size not present"),
            (b"C0644 1", "size not delimited"),
            (b"C0644 9223372036854775808 x", "size out of range"),
            (b"C0644 99999999999999999999999 x", "size out of range"),
            (b"T-1 0 1 0", "mtime.sec not present"),
            (b"T1", "mtime.sec not delimited"),
            (b"T1 1000000 1 0", "mtime.usec not delimited"),
            (b"T1 0 x", "atime.sec not present"),
            (b"T1 0 1", "atime.sec not delimited"),
            (b"T1 0 1 0 ", "atime.usec not delimited"),
        ] {
            assert_eq!(Record::parse(line), Err(Wrong::Protocol(why)), "{}", line.escape_ascii());
        }
        for name in [&b""[..], b".", b"..", b"../x", b"a/b", b"/etc/passwd", b"a\0b"] {
            for front in [b"C0644 1 ", b"D0755 0 "] {
                let line = [&front[..], name].concat();
                assert_eq!(Record::parse(&line), Err(Wrong::Name(name.to_vec())));
            }
        }
        assert_eq!(Record::parse(b"bash: no such file"), Err(Wrong::Unknown));
    }

    proptest::proptest! {
        /// Whatever comes, a name that is accepted stays in its directory.
        #[test]
        fn accepted_names_are_single_names(
            first in proptest::sample::select(vec![b'C', b'D', b'T', b'E', 0, 1, 2, b'x']),
            rest in "[0-7]{0,5} ?[0-9]{0,21} ?[a-z./\\x00 -]{0,8}",
        ) {
            let line = [&[first][..], rest.as_bytes()].concat();
            if let Ok(Record::File { name, .. } | Record::Directory { name, .. }) =
                Record::parse(&line)
            {
                let path = std::path::PathBuf::from(String::from_utf8_lossy(&name).into_owned());
                let parts: Vec<_> = path.components().collect();
                assert!(matches!(parts.as_slice(), [std::path::Component::Normal(_)]), "{path:?}");
                assert!(!name.contains(&b'/') && !name.contains(&0));
            }
        }
    }
}
