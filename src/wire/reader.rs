/// Why bytes from a peer could not be read as what they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("truncated")]
    Truncated,
    #[error("trailing data")]
    TrailingData,
    #[error("a length over its limit")]
    OverLimit,
    #[error("bad name-list")]
    NameList,
    #[error("bad mpint")]
    Mpint,
    #[error("not UTF-8")]
    Utf8,
    #[error("unexpected message number")]
    Number,
    #[error("a value outside its range")]
    Range,
}

/// Reads the types of RFC 4251 §5 off the front of a byte slice, never past its end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Every decoder ends here: trailing bytes are an error.
    pub const fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::TrailingData) }
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// RFC 4251 §5: every non-zero value is TRUE.
    pub fn boolean(&mut self) -> Result<bool, Malformed> {
        Ok(self.byte()? != 0)
    }

    pub fn uint32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn uint64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A length-prefixed string of at most `len_max` bytes.
    pub fn string(&mut self, len_max: u32) -> Result<&'a [u8], Malformed> {
        let len = self.uint32()?;
        if len > len_max {
            return Err(Malformed::OverLimit);
        }
        self.bytes(len as usize)
    }

    /// A string that must be UTF-8 (RFC 4251 §5 asks it of names and human-readable text).
    pub fn utf8(&mut self, len_max: u32) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string(len_max)?).map_err(|_| Malformed::Utf8)
    }

    /// A non-negative mpint's magnitude: big-endian, no leading zero, empty for zero.
    /// Negative and non-minimal encodings are refused (RFC 4251 §5).
    pub fn mpint(&mut self, len_max: u32) -> Result<&'a [u8], Malformed> {
        mpint_magnitude(self.string(len_max)?)
    }

    pub fn name_list(&mut self, len_max: u32) -> Result<NameList<'a>, Malformed> {
        NameList::new(self.string(len_max)?)
    }
}

/// The magnitude of an mpint's bytes, as [`Reader::mpint`] reads it.
pub fn mpint_magnitude(bytes: &[u8]) -> Result<&[u8], Malformed> {
    match bytes {
        [] => Ok(&[]),
        [0] => Err(Malformed::Mpint),
        [0, rest @ ..] if rest.first().is_some_and(|b| b & 0x80 != 0) => Ok(rest),
        [0, ..] => Err(Malformed::Mpint),
        [first, ..] if first & 0x80 != 0 => Err(Malformed::Mpint),
        magnitude => Ok(magnitude),
    }
}

/// A checked name-list: comma-separated, printable US-ASCII (RFC 4251 §5, §6). Empty names break
/// RFC 4251 and are passed over: libssh 0.10 ends its list of ciphers with a comma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameList<'a>(&'a str);

impl<'a> NameList<'a> {
    pub const EMPTY: NameList<'static> = NameList("");

    pub fn new(bytes: &'a [u8]) -> Result<NameList<'a>, Malformed> {
        let printable = bytes.iter().all(|b| (0x21..=0x7e).contains(b));
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NameList)?;
        if printable { Ok(NameList(text)) } else { Err(Malformed::NameList) }
    }

    pub const fn as_str(self) -> &'a str {
        self.0
    }

    pub fn iter(self) -> impl Iterator<Item = &'a str> + Clone {
        self.0.split(',').filter(|name| !name.is_empty())
    }

    pub fn first(self) -> Option<&'a str> {
        self.iter().next()
    }

    pub fn contains(self, name: &str) -> bool {
        self.iter().any(|n| n == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_before_believing() {
        let mut r = Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(r.string(u32::MAX - 1), Err(Malformed::OverLimit));
        let mut r = Reader::new(&[0, 0, 0, 2, 1]);
        assert_eq!(r.string(10), Err(Malformed::Truncated));
        assert_eq!(Reader::new(&[0]).end(), Err(Malformed::TrailingData));
    }

    #[test]
    fn mpints_are_minimal_and_positive() {
        // RFC 4251 §5: 0 is empty; 0x9a378f9b2e332a7; 0x80 needs a leading zero; negatives exist.
        let read = |b: &'static [u8]| Reader::new(b).mpint(64);
        assert_eq!(read(&[0, 0, 0, 0]), Ok(&[][..]));
        assert_eq!(read(&[0, 0, 0, 2, 0, 0x80]), Ok(&[0x80][..]));
        assert_eq!(read(&[0, 0, 0, 1, 0x80]), Err(Malformed::Mpint));
        assert_eq!(read(&[0, 0, 0, 2, 0, 0x7f]), Err(Malformed::Mpint));
        assert_eq!(read(&[0, 0, 0, 1, 0]), Err(Malformed::Mpint));
    }

    #[test]
    fn name_lists_are_printable_and_holes_in_them_are_no_names() {
        for bad in [&b"a b"[..], b"a\0", b"\xc3\xa9", b"a\n"] {
            assert_eq!(NameList::new(bad), Err(Malformed::NameList), "{bad:?}");
        }
        let rows: [(&[u8], &[&str]); 6] = [
            (b"", &[]),
            (b",", &[]),
            (b"a,b@c.d", &["a", "b@c.d"]),
            (b"a,", &["a"]),
            (b",a", &["a"]),
            (b"a,,b", &["a", "b"]),
        ];
        for (bytes, names) in rows {
            let list = NameList::new(bytes).expect("printable");
            assert_eq!(list.iter().collect::<Vec<_>>(), names, "{list:?}");
            assert!(!list.contains(""));
            assert_eq!(list.first(), names.first().copied());
        }
        let list = NameList::new(b"x,y").expect("valid");
        assert_eq!(list.iter().collect::<Vec<_>>(), ["x", "y"]);
        assert!(list.contains("y") && !list.contains("z"));
    }
}
