//! The few shapes of DER that the crypto library hands us: definite lengths below 64 KiB, read
//! strictly (ITU-T X.690 §10.1). Not a parser for certificates.

use crate::wire::{Malformed, Reader};

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// The contents of the next element, which must carry `tag`.
pub(super) fn element<'a>(from: &mut Reader<'a>, tag: u8) -> Result<&'a [u8], Malformed> {
    if from.byte()? != tag {
        return Err(Malformed::Range);
    }
    let len = match from.byte()? {
        short @ 0..=0x7f => usize::from(short),
        0x81 => match from.byte()? {
            len @ 0x80.. => usize::from(len),
            _ => return Err(Malformed::Range),
        },
        0x82 => match u16::from_be_bytes(from.array()?) {
            len @ 0x100.. => usize::from(len),
            _ => return Err(Malformed::Range),
        },
        _ => return Err(Malformed::OverLimit),
    };
    from.bytes(len)
}

/// A non-negative INTEGER's magnitude, without leading zeros.
pub(super) fn integer<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    match element(from, INTEGER)? {
        [] => Err(Malformed::Range),
        [first, ..] if first & 0x80 != 0 => Err(Malformed::Range),
        [0] => Ok(&[]),
        [0, rest @ ..] if rest.first().is_some_and(|byte| byte & 0x80 != 0) => Ok(rest),
        [0, ..] => Err(Malformed::Range),
        magnitude => Ok(magnitude),
    }
}

/// The private key inside a PKCS#8 PrivateKeyInfo (RFC 5208 §5): what follows the version and the
/// algorithm. Attributes behind it are not looked at.
pub(super) fn pkcs8_private_key(document: &[u8]) -> Result<&[u8], Malformed> {
    let mut outer = Reader::new(document);
    let mut info = Reader::new(element(&mut outer, SEQUENCE)?);
    outer.end()?;
    integer(&mut info)?;
    element(&mut info, SEQUENCE)?;
    element(&mut info, OCTET_STRING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal_and_bounded() {
        let read = |bytes: &'static [u8]| element(&mut Reader::new(bytes), OCTET_STRING);
        assert_eq!(read(&[4, 2, 7, 8]), Ok(&[7, 8][..]));
        assert_eq!(read(&[4, 2, 7]), Err(Malformed::Truncated));
        assert_eq!(read(&[5, 0]), Err(Malformed::Range));
        assert_eq!(read(&[4, 0x81, 2, 7, 8]), Err(Malformed::Range));
        assert_eq!(read(&[4, 0x82, 0, 2, 7, 8]), Err(Malformed::Range));
        assert_eq!(read(&[4, 0x80, 0, 0]), Err(Malformed::OverLimit));
        assert_eq!(read(&[4, 0x83, 1, 0, 0]), Err(Malformed::OverLimit));
        assert_eq!(read(&[4, 0x82, 0xff, 0xff]), Err(Malformed::Truncated));
    }

    #[test]
    fn integers_are_minimal_and_positive() {
        let read = |bytes: &'static [u8]| integer(&mut Reader::new(bytes));
        assert_eq!(read(&[2, 1, 0]), Ok(&[][..]));
        assert_eq!(read(&[2, 2, 0, 0x80]), Ok(&[0x80][..]));
        assert_eq!(read(&[2, 2, 0, 0x7f]), Err(Malformed::Range));
        assert_eq!(read(&[2, 1, 0x80]), Err(Malformed::Range));
        assert_eq!(read(&[2, 0]), Err(Malformed::Range));
    }
}
