/// The target is full: the message is over a limit, or the caller reserved too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no space left in the output buffer")]
pub struct NoSpace;

/// Writes the types of RFC 4251 §5 into a slice of fixed capacity.
#[derive(Debug)]
pub struct Writer<'a> {
    target: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub const fn new(target: &'a mut [u8]) -> Writer<'a> {
        Writer { target, at: 0 }
    }

    /// Bytes written so far.
    pub const fn len(&self) -> usize {
        self.at
    }

    pub const fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// What has been written so far.
    pub fn written(&self) -> &[u8] {
        self.target.get(..self.at).unwrap_or(&[])
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), NoSpace> {
        let end = self.at.checked_add(bytes.len()).ok_or(NoSpace)?;
        self.target.get_mut(self.at..end).ok_or(NoSpace)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    pub fn byte(&mut self, value: u8) -> Result<(), NoSpace> {
        self.bytes(&[value])
    }

    pub fn boolean(&mut self, value: bool) -> Result<(), NoSpace> {
        self.byte(value as u8)
    }

    pub fn uint32(&mut self, value: u32) -> Result<(), NoSpace> {
        self.bytes(&value.to_be_bytes())
    }

    pub fn uint64(&mut self, value: u64) -> Result<(), NoSpace> {
        self.bytes(&value.to_be_bytes())
    }

    pub fn string(&mut self, bytes: &[u8]) -> Result<(), NoSpace> {
        self.uint32(u32::try_from(bytes.len()).map_err(|_| NoSpace)?)?;
        self.bytes(bytes)
    }

    /// A non-negative mpint from a big-endian magnitude; leading zeros are dropped and one is
    /// added where the top bit is set (RFC 4251 §5).
    pub fn mpint(&mut self, magnitude: &[u8]) -> Result<(), NoSpace> {
        let zeros = magnitude.iter().take_while(|b| **b == 0).count();
        let magnitude = magnitude.get(zeros..).unwrap_or(&[]);
        let pad = magnitude.first().is_some_and(|b| b & 0x80 != 0);
        let len = magnitude.len() + pad as usize;
        self.uint32(u32::try_from(len).map_err(|_| NoSpace)?)?;
        if pad {
            self.byte(0)?;
        }
        self.bytes(magnitude)
    }

    /// Names joined by commas. The caller's names are ours, so they are not checked again.
    pub fn name_list<'n>(
        &mut self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<(), NoSpace> {
        let length_at = self.at;
        self.uint32(0)?;
        for (i, name) in names.into_iter().enumerate() {
            if i > 0 {
                self.byte(b',')?;
            }
            self.bytes(name.as_bytes())?;
        }
        let len = u32::try_from(self.at - length_at - 4).map_err(|_| NoSpace)?;
        self.patch_uint32(length_at, len)
    }

    /// Overwrites four bytes written earlier: lengths are known last.
    pub fn patch_uint32(&mut self, at: usize, value: u32) -> Result<(), NoSpace> {
        if at + 4 > self.at {
            return Err(NoSpace);
        }
        self.target.get_mut(at..at + 4).ok_or(NoSpace)?.copy_from_slice(&value.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reader;

    #[test]
    fn round_trips_and_respects_capacity() {
        let mut space = [0u8; 64];
        let mut w = Writer::new(&mut space);
        w.byte(7).expect("room");
        w.mpint(&[0, 0, 0x80, 1]).expect("room");
        w.name_list(["a", "bc"]).expect("room");
        w.uint64(9).expect("room");
        let mut r = Reader::new(w.written());
        assert_eq!(r.byte(), Ok(7));
        assert_eq!(r.mpint(8), Ok(&[0x80, 1][..]));
        assert_eq!(r.name_list(8).expect("list").as_str(), "a,bc");
        assert_eq!(r.uint64(), Ok(9));
        assert_eq!(r.end(), Ok(()));
        let mut tiny = [0u8; 3];
        assert_eq!(Writer::new(&mut tiny).uint32(1), Err(NoSpace));
        assert_eq!(Writer::new(&mut tiny).string(b""), Err(NoSpace));
    }
}
