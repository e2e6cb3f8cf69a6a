/// Takes a fuzzer's bytes apart. It never runs dry: past the end everything is zero or empty, so
/// that every input means something and small changes keep their meaning.
#[derive(Clone, Debug)]
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) const fn new(data: &'a [u8]) -> Input<'a> {
        Input { rest: data }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(super) fn uint16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(super) fn uint32(&mut self) -> u32 {
        u32::from(self.uint16()) << 16 | u32::from(self.uint16())
    }

    /// Up to `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A 16-bit length and that many bytes, or as many as are left.
    pub(super) fn string(&mut self) -> &'a [u8] {
        let len = self.uint16();
        self.bytes(usize::from(len))
    }
}
