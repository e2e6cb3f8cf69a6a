//! The constructions again, written for plainness alone, for tests to compare with. Each primitive
//! is held to a published vector below.

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;

use crate::crypto::testing::unhex;

/// OpenSSH PROTOCOL.chacha20poly1305: what `packet` (with room for a tag) looks like sealed.
pub(super) fn chacha20_poly1305_openssh(key: &[u8], seq: u32, packet: &[u8]) -> Vec<u8> {
    let (body_key, length_key) = key.split_at(32);
    let nonce = u64::from(seq).to_be_bytes();
    let (length, rest) = packet.split_at(4);
    let body = &rest[..rest.len() - 16];
    let mut sealed = chacha20(length_key, 0, nonce, length);
    sealed.extend(chacha20(body_key, 1, nonce, body));
    let poly_key = chacha20(body_key, 0, nonce, &[0; 32]);
    let tag = poly1305(&poly_key, &sealed);
    sealed.extend(tag);
    sealed
}

/// The original ChaCha20: a 64-bit block counter and a 64-bit nonce.
fn chacha20(key: &[u8], counter: u64, nonce: [u8; 8], text: &[u8]) -> Vec<u8> {
    let blocks = (counter..).flat_map(|counter| {
        let tail = [counter.to_le_bytes(), nonce].concat();
        chacha20_block(key, &tail)
    });
    text.iter().zip(blocks).map(|(text, stream)| text ^ stream).collect()
}

fn chacha20_block(key: &[u8], tail: &[u8]) -> Vec<u8> {
    let start = [b"expand 32-byte k", key, tail].concat();
    let start: Vec<u32> =
        start.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("four"))).collect();
    let mut state = start.clone();
    for _ in 0..10 {
        for [a, b, c, d] in [
            [0, 4, 8, 12],
            [1, 5, 9, 13],
            [2, 6, 10, 14],
            [3, 7, 11, 15],
            [0, 5, 10, 15],
            [1, 6, 11, 12],
            [2, 7, 8, 13],
            [3, 4, 9, 14],
        ] {
            for (to, from, out, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]
            {
                state[to] = state[to].wrapping_add(state[from]);
                state[out] = (state[out] ^ state[to]).rotate_left(turn);
            }
        }
    }
    state.iter().zip(start).flat_map(|(a, b)| a.wrapping_add(b).to_le_bytes()).collect()
}

/// A number below 2^130 - 5, high and low part.
#[derive(Clone, Copy)]
struct Residue(u64, u128);

const POLY1305_PRIME: Residue = Residue(3, u128::MAX - 4);

impl Residue {
    fn add(self, other: Residue) -> Residue {
        let (low, carry) = self.1.overflowing_add(other.1);
        let mut sum = Residue(self.0 + other.0 + u64::from(carry), low);
        while (sum.0, sum.1) >= (POLY1305_PRIME.0, POLY1305_PRIME.1) {
            let (low, borrow) = sum.1.overflowing_sub(POLY1305_PRIME.1);
            sum = Residue(sum.0 - POLY1305_PRIME.0 - u64::from(borrow), low);
        }
        sum
    }

    fn multiply(self, by: u128) -> Residue {
        let mut product = Residue(0, 0);
        for bit in (0..128).rev() {
            product = product.add(product);
            if by >> bit & 1 == 1 {
                product = product.add(self);
            }
        }
        product
    }
}

fn poly1305(key: &[u8], message: &[u8]) -> [u8; 16] {
    let (r, s) = key.split_at(16);
    let number = |bytes: &[u8]| u128::from_le_bytes(bytes.try_into().expect("sixteen bytes"));
    let r = number(r) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let mut sum = Residue(0, 0);
    for chunk in message.chunks(16) {
        let mut bytes = [0; 17];
        bytes[..chunk.len()].copy_from_slice(chunk);
        bytes[chunk.len()] = 1;
        sum = sum.add(Residue(u64::from(bytes[16]), number(&bytes[..16]))).multiply(r);
    }
    sum.1.wrapping_add(number(s)).to_le_bytes()
}

/// AES-GCM with a 12-byte nonce (NIST SP 800-38D §7.1): ciphertext and tag.
pub(super) fn aes_gcm(key: &[u8], nonce: &[u8], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let counter = |n: u32| aes(key, &[nonce, &n.to_be_bytes()].concat());
    let stream = (2..).flat_map(counter);
    let mut sealed: Vec<u8> = plain.iter().zip(stream).map(|(p, s)| p ^ s).collect();
    let h = u128::from_be_bytes(aes(key, &[0; 16]));
    let lengths = ((aad.len() as u128 * 8) << 64) | (plain.len() as u128 * 8);
    let blocks = aad.chunks(16).chain(sealed.chunks(16)).map(|chunk| {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        u128::from_be_bytes(block)
    });
    let hash = blocks.chain([lengths]).fold(0, |hash, block| ghash_multiply(hash ^ block, h));
    let tag = hash ^ u128::from_be_bytes(counter(1));
    sealed.extend(tag.to_be_bytes());
    sealed
}

fn ghash_multiply(x: u128, y: u128) -> u128 {
    let (mut product, mut shifted) = (0, y);
    for bit in (0..128).rev() {
        if x >> bit & 1 == 1 {
            product ^= shifted;
        }
        let low = shifted & 1;
        shifted = (shifted >> 1) ^ (low * (0xe1 << 120));
    }
    product
}

/// One AES block, as the keystream of a counter that starts with it.
fn aes(key: &[u8], block: &[u8]) -> [u8; 16] {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let key = UnboundCipherKey::new(algorithm, key).expect("an AES key");
    let key = EncryptingKey::ctr(key).expect("an AES key");
    let block: [u8; 16] = block.try_into().expect("sixteen bytes");
    let mut out = [0; 16];
    key.less_safe_encrypt(&mut out, EncryptionContext::Iv128(FixedLength::from(&block)))
        .expect("a block");
    out
}

/// RFC 8439 §2.3.2 and §2.5.2.
#[test]
fn chacha20_and_poly1305_as_published() {
    let key: Vec<u8> = (0..32).collect();
    let tail = unhex("01000000 000000090000004a00000000");
    let block = unhex(
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e
         d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    );
    assert_eq!(chacha20_block(&key, &tail), block);
    let key = unhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b");
    let tag = unhex("a8061dc1305136c6c22b8baf0c0127a9");
    assert_eq!(poly1305(&key, b"Cryptographic Forum Research Group").to_vec(), tag);
}

/// Test cases 4 and 16 of the GCM specification (McGrew and Viega).
#[test]
fn aes_gcm_as_published() {
    let key = unhex("feffe9928665731c6d6a8f9467308308");
    let plain = unhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let aad = unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let nonce = unhex("cafebabefacedbaddecaf888");
    let narrow = unhex(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
         21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091
         5bc94fbc3221a5db94fae95ae7121a47",
    );
    let wide = unhex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
         76fc6ece0f4e1768cddf8853bb2d551b",
    );
    assert_eq!(aes_gcm(&key, &nonce, &aad, &plain), narrow);
    assert_eq!(aes_gcm(&[&key[..], &key].concat(), &nonce, &aad, &plain), wide);
}
