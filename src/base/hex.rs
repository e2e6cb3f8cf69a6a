/// Hexadecimal digits as bytes; an odd digit stands first. `None`: there are others among them.
pub fn unhex(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let text = text.as_ref();
    let (first, rest) = text.split_at(text.len() % 2);
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(text.len().div_ceil(2));
    for byte in first {
        bytes.push(digit(*byte)?);
    }
    for [high, low] in rest.as_chunks::<2>().0 {
        bytes.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(bytes)
}
