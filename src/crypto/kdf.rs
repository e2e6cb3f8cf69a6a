use super::{Digest, DirectionKeys, HashKind, Suite};
use zeroize::Zeroize;

/// RFC 4253 §7.2: fills `out` with the key named by `letter`.
///
/// `k` is the shared secret as it is hashed (an mpint, or a string in the hybrid methods), `h` this
/// exchange's hash and `session_id` the first exchange's. A key longer than the hash goes on with
/// HASH(K || H || everything so far).
pub fn derive_key(
    hash: HashKind,
    k: &[u8],
    h: &[u8],
    letter: u8,
    session_id: &[u8],
    out: &mut [u8],
) {
    let mut base = hash.hasher();
    base.update(k);
    base.update(h);
    let mut first = base.clone();
    first.update(&[letter]);
    first.update(session_id);
    let mut part = first.finish();
    let mut so_far = base;
    let mut rest = out;
    while !rest.is_empty() {
        rest = copy_front(rest, &part);
        so_far.update(part.as_ref());
        part.zeroize();
        if !rest.is_empty() {
            part = so_far.clone().finish();
        }
    }
}

/// All the keys of one direction (RFC 4253 §7.2 letters A, C, E for client to server; B, D, F back).
pub fn derive_direction(
    hash: HashKind,
    k: &[u8],
    h: &[u8],
    session_id: &[u8],
    suite: Suite,
    client_to_server: bool,
) -> DirectionKeys {
    let [iv, cipher_key, mac_key] = if client_to_server { *b"ACE" } else { *b"BDF" };
    let mut keys = DirectionKeys::zeroed(suite);
    derive_key(hash, k, h, iv, session_id, keys.iv_mut());
    derive_key(hash, k, h, cipher_key, session_id, keys.cipher_key_mut());
    derive_key(hash, k, h, mac_key, session_id, keys.mac_key_mut());
    keys
}

/// Copies as much of `part` as fits and answers what is left to fill.
fn copy_front<'a>(out: &'a mut [u8], part: &Digest) -> &'a mut [u8] {
    let len = out.len().min(part.len()).max(1);
    let (front, rest) = out.split_at_mut_checked(len).unwrap_or_default();
    for (to, from) in front.iter_mut().zip(part.as_ref()) {
        *to = *from;
    }
    rest
}
