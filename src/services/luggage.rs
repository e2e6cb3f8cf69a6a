//! What a connection's channels are attached to, on its way to another process: as bytes, and the descriptors
//! that they speak of, in the same order.

use crate::limits::{LUGGAGE_BYTES_MAX, LUGGAGE_DESCRIPTORS_MAX};
use crate::reactor::Fd;
use crate::wire::{Malformed, Reader};

/// Packed. Whoever has it closes the descriptors, unless somebody unpacks it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Luggage {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<Fd>,
}

impl Luggage {
    pub fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub fn boolean(&mut self, value: bool) {
        self.byte(u8::from(value));
    }

    pub fn uint32(&mut self, value: u32) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub fn uint64(&mut self, value: u64) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub fn string(&mut self, bytes: &[u8]) {
        self.uint32(bytes.len() as u32);
        self.bytes.extend_from_slice(bytes);
    }

    /// `None` is a descriptor that is closed already.
    pub fn descriptor(&mut self, fd: Option<Fd>) {
        self.boolean(fd.is_some());
        self.descriptors.extend(fd);
    }

    /// It can travel. One more descriptor may be needed for its bytes.
    pub const fn fits(&self) -> bool {
        self.bytes.len() <= LUGGAGE_BYTES_MAX as usize
            && self.descriptors.len() < LUGGAGE_DESCRIPTORS_MAX
    }

    pub fn open(&self) -> Unpacking<'_> {
        Unpacking { bytes: Reader::new(&self.bytes), descriptors: self.descriptors.iter() }
    }
}

/// Reads what a [`Luggage`] has, in order.
#[derive(Clone, Debug)]
pub struct Unpacking<'a> {
    bytes: Reader<'a>,
    descriptors: std::slice::Iter<'a, Fd>,
}

impl<'a> Unpacking<'a> {
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.bytes.byte()
    }

    /// Strict, unlike RFC 4251 booleans: these bytes are our own.
    pub fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Range),
        }
    }

    pub fn uint32(&mut self) -> Result<u32, Malformed> {
        self.bytes.uint32()
    }

    pub fn uint64(&mut self) -> Result<u64, Malformed> {
        self.bytes.uint64()
    }

    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        // Longer than may travel it can only be one's own.
        self.bytes.string(u32::MAX)
    }

    /// As [`Luggage::descriptor`].
    pub fn descriptor(&mut self) -> Result<Option<Fd>, Malformed> {
        match self.boolean()? {
            true => self.descriptors.next().copied().map(Some).ok_or(Malformed::Range),
            false => Ok(None),
        }
    }

    /// One that has to be there.
    pub fn open_descriptor(&mut self) -> Result<Fd, Malformed> {
        self.descriptor()?.ok_or(Malformed::Range)
    }

    /// That was all.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.bytes.is_empty() && self.descriptors.as_slice().is_empty() {
            true => Ok(()),
            false => Err(Malformed::TrailingData),
        }
    }

    /// Descriptors that nothing has asked for.
    pub fn rest(self) -> impl Iterator<Item = Fd> {
        self.descriptors.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is too much to travel is unpacked where it was packed.
    #[test]
    fn too_much_is_not_lost() {
        let mut luggage = Luggage::default();
        let long = vec![7; LUGGAGE_BYTES_MAX as usize + 1];
        luggage.string(&long);
        assert!(!luggage.fits());
        assert_eq!(luggage.open().string(), Ok(&long[..]));
    }

    #[test]
    fn what_is_packed_is_unpacked_and_nothing_else() {
        let mut luggage = Luggage::default();
        luggage.byte(7);
        luggage.boolean(true);
        luggage.uint32(8);
        luggage.uint64(9);
        luggage.string(b"ten");
        luggage.descriptor(Some(Fd(11)));
        luggage.descriptor(None);
        let read = |from: &Luggage| {
            let mut from = from.open();
            let all = (from.byte()?, from.boolean()?, from.uint32()?, from.uint64()?);
            let rest = (from.string()?.to_vec(), from.open_descriptor()?, from.descriptor()?);
            from.end()?;
            Ok::<_, Malformed>((all, rest))
        };
        let all = ((7, true, 8, 9), (b"ten".to_vec(), Fd(11), None));
        assert_eq!(read(&luggage), Ok(all));
        luggage.descriptors.push(Fd(12));
        assert_eq!(read(&luggage), Err(Malformed::TrailingData));
        luggage.descriptors.clear();
        assert_eq!(read(&luggage), Err(Malformed::Range));
        luggage.descriptors.push(Fd(11));
        for cut in 0..luggage.bytes.len() {
            let bytes = luggage.bytes[..cut].to_vec();
            assert!(read(&Luggage { bytes, descriptors: vec![Fd(11)] }).is_err(), "cut at {cut}");
        }
    }
}
