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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::unhex;
    use crate::crypto::{CipherKind, MacKind};

    const K: &[u8] = &[0, 0, 0, 5, 0, 0xa1, 0xb2, 0xc3, 0xd4];

    fn derive(hash: HashKind, letter: u8, len: usize) -> Vec<u8> {
        let h: Vec<u8> = (0..hash.digest_bytes()).map(|i| (i * 3 + 1) as u8).collect();
        let session_id: Vec<u8> = (0..hash.digest_bytes()).map(|i| (i * 7 + 2) as u8).collect();
        let mut out = vec![0; len];
        derive_key(hash, K, &h, letter, &session_id, &mut out);
        out
    }

    /// Known answers from another implementation (OpenSSL's SSHKDF), each longer than its hash.
    #[test]
    fn known_keys() {
        let sha256 = "595d64bc56bff4cea1e33d114c4a81aa5f5debee16baa13b0ecbf218c2a90fb8
             9e45fcdd86fcc2e6195a28351e2dea49b1100dac26ba56017e24011419d5e12f
             31d67f88e4d330c019c39faa30da60c6fc41d5be419014a9c64ecde63287ecf5
             50c1f7deb97aab5ac6f376d6135a1cb3b4a7897618c9d9e302b9a23257dabea7
             50e2ebda2f92476d7df10252960a0781fcbba92606ee";
        let sha384 = "7f91cac309c5db69e21df7203ab9457d86f9ddb7efe5d2b6658079d924cc2e68
             a10531b50d9539382328e040c54c65bd26b1d0b4e2c4ae3f753b91847ece9ac3
             a4d29ebb7e6d8b2aa7d204c20cb2d786ff452308a8ef5dc940caa5a31745ad12
             16b4125b141ccbed5f7c49e82681ca38a759abd2e4720f92fc9161e0ba534e4f
             a04b2e8ca61d5cd670de335a15b5a314b94e1ec76fff";
        let sha512 = "7a17c6179f9dc61a7c7641c4606cb04886641ec1423cb9571554454a096e2c21
             f30c1f08d381a7a28e764d4dda1042c594c09eaac32b5338f29af1747c747bc9
             74bba09dcda0ad2fdb53a66c8dc56d198f454199b853a60ccc6039dc121264bc
             bcc07afbf4f0bd827bfc214a2663d35cccde90108c5e61e0e44900f777e96f93
             a1ce8b3f613920c57c49b058f3cd2099342ef8d63219";
        for (hash, expected) in
            [(HashKind::Sha256, sha256), (HashKind::Sha384, sha384), (HashKind::Sha512, sha512)]
        {
            let expected = unhex(expected);
            for len in [0, 1, 31, 32, 33, 48, 64, 65, 96, 128, 129, 150] {
                assert_eq!(derive(hash, b'C', len), expected[..len], "{hash:?} {len}");
            }
        }
        let iv = unhex("ff759bc0f3461cdbd18d9e0ec1ca8698");
        assert_eq!(derive(HashKind::Sha256, b'A', 16), iv);
        let mac_key = unhex(
            "ea15b1728528a57c822711a6585d1d3a09295bbc2fbd716a9c28e083dddc6f0d
             33c24f131e3b980b23ca382f3130c4cce73ce8a02463024111de6f38b30d66c1",
        );
        assert_eq!(derive(HashKind::Sha512, b'F', 64), mac_key);
    }

    #[test]
    fn each_direction_takes_its_own_letters() {
        for suite in Suite::all() {
            for (client_to_server, [iv, cipher_key, mac_key]) in [(true, b"ACE"), (false, b"BDF")] {
                let hash = HashKind::Sha256;
                let keys = derive_direction(hash, K, b"h", b"id", suite, client_to_server);
                let expect = |letter: &u8, part: &[u8]| {
                    let mut expected = vec![0; part.len()];
                    derive_key(hash, K, b"h", *letter, b"id", &mut expected);
                    assert_eq!(part, expected, "{suite:?}");
                };
                expect(iv, keys.iv());
                expect(cipher_key, keys.cipher_key());
                expect(mac_key, keys.mac_key());
            }
        }
        let suite = Suite::new(CipherKind::Aes256Ctr, MacKind::HmacSha512).expect("a MAC");
        let keys = derive_direction(HashKind::Sha256, K, b"h", b"id", suite, true);
        let lengths = [keys.cipher_key().len(), keys.iv().len(), keys.mac_key().len()];
        assert_eq!(lengths, [32, 16, 64]);
    }
}
