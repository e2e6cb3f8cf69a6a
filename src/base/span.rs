use std::ops::Range;

/// A range of bytes that somebody else owns. Ranges, not slices, cross floors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    pub at: u32,
    pub len: u32,
}

impl Span {
    pub const fn new(at: u32, len: u32) -> Span {
        Span { at, len }
    }

    /// One past the last byte. Saturates; a span that long fits no buffer and `of` answers `None`.
    pub const fn end(self) -> u32 {
        self.at.saturating_add(self.len)
    }

    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    pub const fn range(self) -> Range<usize> {
        self.at as usize..self.end() as usize
    }

    /// The bytes named by this span, if the buffer has them.
    pub fn of(self, bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(self.range())
    }

    /// The bytes named by this span, if the buffer has them.
    pub fn of_mut(self, bytes: &mut [u8]) -> Option<&mut [u8]> {
        bytes.get_mut(self.range())
    }

    /// The same bytes seen from a buffer that starts `by` bytes earlier.
    pub const fn shifted(self, by: u32) -> Span {
        Span { at: self.at.saturating_add(by), len: self.len }
    }

    /// Without the first `by` bytes; empty when there are fewer.
    pub const fn skip(self, by: u32) -> Span {
        let by = if by > self.len { self.len } else { by };
        Span { at: self.at + by, len: self.len - by }
    }
}
