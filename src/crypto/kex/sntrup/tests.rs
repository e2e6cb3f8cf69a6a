use sntrup761::rand::SeedableRng;
use sntrup761::rand::rand_core::Rng as _;
use sntrup761::rand_chacha::ChaCha20Rng;

use super::*;
use crate::base::SeededEntropy;
use crate::crypto::testing::unhex;

type Keys = ([u8; KEY_BYTES], [u8; SECRET_BYTES]);

/// A pair of keys that the library made.
fn keys(seed: u8) -> Keys {
    let (key, secret) = sntrup761::generate_key_from_seed([seed; 32]);
    let exact = "the library's length";
    (key.as_ref().try_into().expect(exact), secret.as_ref().try_into().expect(exact))
}

/// The generator with which the library encapsulates from a seed.
struct Chacha(ChaCha20Rng);

impl Entropy for Chacha {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(4) {
            chunk.copy_from_slice(&self.0.next_u32().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[test]
fn known_answers_of_the_draft() {
    let text = include_str!("vectors.txt");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 6);
    for vector in lines.chunks(3) {
        let secret = unhex(vector[0]).try_into().expect("a decapsulation key");
        let shared = decapsulate(&secret, &unhex(vector[1]));
        assert_eq!(shared.as_slice(), unhex(vector[2]));
    }
}

#[test]
fn keys_are_the_librarys_from_the_same_randomness() {
    for seed in 0..4 {
        let (key, secret) = generate(&mut Chacha(ChaCha20Rng::from_seed([seed; 32])));
        assert_eq!((key, **secret), keys(seed));
    }
}

#[test]
fn encapsulates_as_the_library_does_from_the_same_randomness() {
    for seed in 0..4 {
        let (key, _) = keys(seed);
        let theirs = sntrup761::EncapsulationKey::from(key).encapsulate_deterministic([seed; 32]);
        let mut entropy = Chacha(ChaCha20Rng::from_seed([seed; 32]));
        let (ciphertext, shared) = encapsulate(&key, &mut entropy);
        assert_eq!(ciphertext, theirs.0.as_ref());
        assert_eq!(shared.as_slice(), theirs.1.as_ref());
    }
}

/// A key that no honest peer makes is encapsulated to as the reference code would.
#[test]
fn case_26_any_key_gives_what_the_library_gives() {
    for byte in [0x00, 0x5a, 0xff] {
        let key = [byte; KEY_BYTES];
        let theirs = sntrup761::EncapsulationKey::from(key).encapsulate_deterministic([7; 32]);
        let (ciphertext, shared) = encapsulate(&key, &mut Chacha(ChaCha20Rng::from_seed([7; 32])));
        assert_eq!(ciphertext, theirs.0.as_ref());
        assert_eq!(shared.as_slice(), theirs.1.as_ref());
    }
}

#[test]
fn decapsulates_what_it_and_the_library_encapsulated() {
    let (key, secret) = keys(9);
    let (ciphertext, ours) = encapsulate(&key, &mut SeededEntropy::new(1));
    assert_eq!(ciphertext.len(), CIPHERTEXT_BYTES);
    assert_eq!(decapsulate(&secret, &ciphertext), ours);
    let sealed = sntrup761::Ciphertext::try_from(ciphertext.as_slice()).expect("its length");
    let theirs = sntrup761::DecapsulationKey::from(secret).decapsulate(&sealed);
    assert_eq!(theirs.as_ref(), ours.as_slice());
    let (sealed, theirs) =
        sntrup761::EncapsulationKey::from(key).encapsulate_deterministic([3; 32]);
    assert_eq!(decapsulate(&secret, sealed.as_ref()).as_slice(), theirs.as_ref());
}

/// SECURITY case 26: every damage gives the one unrelated secret that the specification names.
#[test]
fn case_26_damaged_ciphertexts_are_rejected_as_the_library_rejects_them() {
    let (key, secret) = keys(2);
    let (honest, ours) = encapsulate(&key, &mut SeededEntropy::new(5));
    let mut damaged = vec![vec![0; CIPHERTEXT_BYTES], vec![0xff; CIPHERTEXT_BYTES]];
    for at in [0, 1, 500, ROUNDED_BYTES - 1, ROUNDED_BYTES, CIPHERTEXT_BYTES - 1] {
        let mut other = honest.clone();
        other[at] ^= 1;
        damaged.push(other);
    }
    for ciphertext in damaged {
        let shared = decapsulate(&secret, &ciphertext);
        let sealed = sntrup761::Ciphertext::try_from(ciphertext.as_slice()).expect("its length");
        let theirs = sntrup761::DecapsulationKey::from(secret).decapsulate(&sealed);
        assert_eq!(shared.as_slice(), theirs.as_ref());
        assert_ne!(shared, ours);
    }
}

/// What the vector instructions give is what the plain ones give.
#[test]
fn wide_and_plain_are_the_same() {
    let (key, secret) = keys(4);
    let seed = short::draw(&mut SeededEntropy::new(8));
    let short = run_wide(Short(&seed));
    assert_eq!(short, Short(&seed).run());
    let numbers = decode(&key, Q, P);
    let encrypt = || Encrypt { numbers: &numbers, short: &short };
    let counts = run_wide(encrypt());
    assert_eq!(counts, encrypt().run());
    let decrypt = || Decrypt {
        counts: counts.as_slice(),
        f: &secret[..SMALL_BYTES],
        g_inverse: &secret[SMALL_BYTES..2 * SMALL_BYTES],
    };
    assert_eq!(run_wide(decrypt()), short);
    assert_eq!(decrypt().run(), short);
    let wrong = Decrypt { counts: &[7; P], ..decrypt() };
    let fixed = Zeroizing::new(std::array::from_fn(|place| i16::from(place < WEIGHT)));
    assert_eq!(run_wide(wrong), fixed);
}
