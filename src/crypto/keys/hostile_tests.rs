//! What an attacker sends: keys, signatures and files that must be refused.

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512, digest},
    encoding::AsBigEndian,
    rsa,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use crypto_bigint::{BoxedUint, NonZero, Odd};
use proptest::prelude::*;

use super::{
    BadSignature, KeyError, KeyKind, PrivateKey, PublicKey, SignatureAlgorithm, armour,
    curve::Curve,
    private::Pair,
    public::Numbers,
    rsa::{RsaNumbers, to_pkcs8},
    signature,
};
use crate::{
    crypto::testing::unhex,
    limits::{HOST_KEY_BYTES_MAX, KEY_FILE_ROUNDS_MAX},
    wire::{Malformed, Writer},
};

const MESSAGE: &[u8] = b"an exchange hash, say";

fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut space = vec![0; 128 * 1024];
    let mut out = Writer::new(&mut space);
    parts.iter().for_each(|part| out.string(part).expect("room"));
    out.written().to_vec()
}

fn mpints(parts: &[&[u8]]) -> Vec<u8> {
    let mut space = vec![0; 128 * 1024];
    let mut out = Writer::new(&mut space);
    parts.iter().for_each(|part| out.mpint(part).expect("room"));
    out.written().to_vec()
}

fn named(algorithm: SignatureAlgorithm, raw: &[u8]) -> Vec<u8> {
    strings(&[algorithm.name().as_bytes(), raw])
}

fn rsa_key() -> PrivateKey {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("generates");
    PrivateKey::new(Pair::Rsa(pair), "").expect("a key")
}

// ---- Keys ----------------------------------------------------------------------------------

#[test]
fn points_must_be_whole_and_on_their_curve() {
    for curve in [Curve::P256, Curve::P384, Curve::P521] {
        let kind = curve.kind();
        let good = PrivateKey::generate(kind).expect("generates").public().blob().to_vec();
        let prefix = strings(&[kind.name().as_bytes(), curve.name().as_bytes()]);
        let point = good[prefix.len() + 4..].to_vec();
        let verdict = |point: &[u8]| {
            let blob = [prefix.clone(), strings(&[point])].concat();
            PublicKey::from_blob(&blob).map(drop)
        };
        assert_eq!(verdict(&point), Ok(()));
        let width = curve.field_bytes();
        let compressed = [&[2 + (point[2 * width] & 1)], &point[1..=width]].concat();
        let mut off = point.clone();
        off[2 * width] ^= 1;
        let mut hybrid = point.clone();
        hybrid[0] = 6 + (point[2 * width] & 1);
        let zeros = [&[4][..], &vec![0; 2 * width]].concat();
        let ones = [&[4][..], &vec![0xff; 2 * width]].concat();
        let long = [&point[..], &[0]].concat();
        for bad in [&[][..], &[0], &compressed, &off, &hybrid, &zeros, &ones, &long, &point[1..]] {
            assert_eq!(verdict(bad), Err(KeyError::Point), "{curve:?} {bad:02x?}");
        }
    }
}

/// SECURITY case 45: a blob that names one curve and holds another.
#[test]
fn case_45_types_must_agree_with_contents() {
    let p256 = PrivateKey::generate(KeyKind::EcdsaP256).expect("generates");
    let p384 = PrivateKey::generate(KeyKind::EcdsaP384).expect("generates");
    let point = |key: &PrivateKey, at: usize| key.public().blob()[at..].to_vec();
    let (small, large) = (point(&p256, 4 + 19 + 4 + 8 + 4), point(&p384, 4 + 19 + 4 + 8 + 4));
    let verdict = |parts: &[&[u8]]| PublicKey::from_blob(&strings(parts)).map(drop);
    assert_eq!(verdict(&[b"ecdsa-sha2-nistp256", b"nistp256", &small]), Ok(()));
    let named_wrong = verdict(&[b"ecdsa-sha2-nistp256", b"nistp384", &large]);
    assert_eq!(named_wrong, Err(KeyError::TypeMismatch));
    let held_wrong = verdict(&[b"ecdsa-sha2-nistp256", b"nistp256", &large]);
    assert_eq!(held_wrong, Err(KeyError::Point));
    assert_eq!(verdict(&[b"ssh-ed25519", &small]), Err(KeyError::Point));
    let line = p256.public().to_openssh_line("");
    let relabelled = line.replacen("nistp256", "nistp384", 1);
    assert_eq!(PublicKey::from_text(&relabelled).map(drop), Err(KeyError::TypeMismatch));
}

#[test]
fn unknown_types_and_odd_ends_are_refused() {
    let key = PrivateKey::generate(KeyKind::Ed25519).expect("generates");
    let blob = key.public().blob();
    let long = [blob, &[0]].concat();
    let trailing = PublicKey::from_blob(&long).map(drop);
    assert_eq!(trailing, Err(KeyError::Malformed(Malformed::TrailingData)));
    for len in 0..blob.len() {
        assert!(PublicKey::from_blob(&blob[..len]).is_err(), "{len} bytes");
    }
    for name in ["ssh-dss", "webauthn-sk-x", "ssh-ed25519-cert-v01@openssh.com", ""] {
        let verdict = PublicKey::from_blob(&strings(&[name.as_bytes(), &[0; 32]])).map(drop);
        assert_eq!(verdict, Err(KeyError::UnsupportedType(name.into())));
    }
    let huge = vec![0; HOST_KEY_BYTES_MAX as usize + 1];
    assert_eq!(PublicKey::from_blob(&huge).map(drop), Err(KeyError::TooLarge));
    for text in ["", "ssh-ed25519", "ssh-ed25519 ", "ssh-ed25519\nAAAA", "# comment"] {
        assert!(PublicKey::from_text(text).is_err(), "{text:?}");
    }
}

/// Under a point of small order, signatures are made without any private key: R = 0·B, S = 0
/// verifies for the neutral element whatever the message.
#[test]
fn small_order_points_are_refused() {
    let verdict = |point: [u8; 32]| {
        PublicKey::from_blob(&Numbers::Ed25519 { point: &point }.encode().expect("fits")).map(drop)
    };
    let mut neutral = [0; 32];
    neutral[0] = 1;
    for sign in [0, 0x80] {
        let mut point = neutral;
        point[31] |= sign;
        assert_eq!(verdict(point), Err(KeyError::Point));
    }
    assert_eq!(verdict([0; 32]), Err(KeyError::Point));
    let forged = [neutral, [0; 32]].concat();
    let blob = named(SignatureAlgorithm::Ed25519, &forged);
    let raw = signature::unwrap(SignatureAlgorithm::Ed25519, &blob).expect("named");
    let numbers = Numbers::Ed25519 { point: &neutral };
    let verdict = signature::check(&numbers, SignatureAlgorithm::Ed25519, MESSAGE, raw);
    assert_eq!(verdict, Ok(()), "the reason for the check in from_blob");
}

/// SECURITY cases 43 and 44.
#[test]
fn cases_43_44_rsa_numbers_are_bounded() {
    let verdict = |exponent: &[u8], modulus: &[u8]| {
        let blob = Numbers::Rsa { exponent, modulus }.encode().expect("fits");
        PublicKey::from_blob(&blob).map(drop)
    };
    let modulus = |bits: usize| {
        let mut bytes = vec![0xff; bits.div_ceil(8)];
        bytes[0] = 0xff >> (bits.div_ceil(8) * 8 - bits);
        bytes
    };
    let common = [1, 0, 1];
    assert_eq!(verdict(&common, &modulus(2048)), Ok(()));
    assert_eq!(verdict(&common, &modulus(8192)), Ok(()));
    for bits in [1, 512, 1024, 2047, 8193, 16_384, 40_000] {
        let size = u32::try_from(bits).expect("small");
        assert_eq!(verdict(&common, &modulus(bits)), Err(KeyError::RsaSize(size)));
    }
    assert_eq!(verdict(&common, &[]), Err(KeyError::RsaSize(0)));
    let mut even = modulus(2048);
    even[255] = 0xfe;
    assert_eq!(verdict(&common, &even), Err(KeyError::RsaNumbers));
    for exponent in [&[][..], &[1], &[2], &[1, 0, 0], &[0x7f; 32]] {
        assert_eq!(verdict(exponent, &modulus(2048)), Err(KeyError::RsaNumbers));
    }
    assert_eq!(verdict(&[3], &modulus(2048)), Ok(()));
    // Negative and padded numbers (RFC 4251 §5).
    for modulus in [&modulus(2048)[..], &[&[0, 0][..], &modulus(2048)].concat()] {
        let blob = [strings(&[b"ssh-rsa", &common]), strings(&[modulus])].concat();
        let verdict = PublicKey::from_blob(&blob).map(drop);
        assert_eq!(verdict, Err(KeyError::Malformed(Malformed::Mpint)));
    }
}

// ---- Signatures ----------------------------------------------------------------------------

/// SECURITY cases 45 and 46: the algorithm asked for is the only one that counts.
#[test]
fn cases_45_46_algorithms_cannot_be_confused() {
    let keys = KeyKind::ALL.map(|kind| PrivateKey::generate(kind).expect("generates"));
    for key in &keys {
        for &made_with in SignatureAlgorithm::for_key(key.kind()) {
            let blob = key.sign(made_with, MESSAGE).expect("signs");
            let raw = signature::unwrap(made_with, &blob).expect("named");
            for asked in SignatureAlgorithm::ALL {
                let plain = key.public().verify(asked, MESSAGE, &blob);
                assert_eq!(plain.is_ok(), asked == made_with);
                let renamed = key.public().verify(asked, MESSAGE, &named(asked, raw));
                assert_eq!(renamed.is_ok(), asked == made_with);
                let sha1 = strings(&[b"ssh-rsa", raw]);
                assert_eq!(key.public().verify(asked, MESSAGE, &sha1), Err(BadSignature));
            }
            for other in keys.iter().filter(|other| other.public() != key.public()) {
                assert_eq!(other.public().verify(made_with, MESSAGE, &blob), Err(BadSignature));
            }
        }
    }
}

#[test]
fn signatures_end_where_they_should() {
    for kind in KeyKind::ALL {
        let key = PrivateKey::generate(kind).expect("generates");
        let algorithm = SignatureAlgorithm::for_key(kind)[0];
        let blob = key.sign(algorithm, MESSAGE).expect("signs");
        let raw = signature::unwrap(algorithm, &blob).expect("named");
        for len in 0..blob.len() {
            let verdict = key.public().verify(algorithm, MESSAGE, &blob[..len]);
            assert_eq!(verdict, Err(BadSignature), "{kind:?} cut to {len}");
        }
        let zeros = vec![0; raw.len()];
        for raw in [&[][..], &zeros, &[raw, &[0]].concat(), &[&[0], raw].concat(), &raw[1..]] {
            let blob = named(algorithm, raw);
            assert_eq!(key.public().verify(algorithm, MESSAGE, &blob), Err(BadSignature));
        }
        let long = [&blob[..], &[0]].concat();
        assert_eq!(key.public().verify(algorithm, MESSAGE, &long), Err(BadSignature));
    }
}

/// SECURITY case 42: S and S + L are the same number to the curve, not to RFC 8032 §5.1.7.
#[test]
fn case_42_ed25519_signatures_have_one_form() {
    let order = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let key = PrivateKey::generate(KeyKind::Ed25519).expect("generates");
    let blob = key.sign(SignatureAlgorithm::Ed25519, MESSAGE).expect("signs");
    let mut raw = signature::unwrap(SignatureAlgorithm::Ed25519, &blob).expect("named").to_vec();
    let mut carry = 0;
    for (byte, add) in raw[32..].iter_mut().zip(order) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert_eq!(carry, 0, "S + L fits in 32 bytes");
    let verdict = |raw: &[u8]| {
        let blob = named(SignatureAlgorithm::Ed25519, raw);
        key.public().verify(SignatureAlgorithm::Ed25519, MESSAGE, &blob)
    };
    assert_eq!(verdict(&raw), Err(BadSignature));
    assert_eq!(
        verdict(signature::unwrap(SignatureAlgorithm::Ed25519, &blob).expect("raw")),
        Ok(())
    );
}

const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

/// SECURITY case 43.
#[test]
fn case_43_ecdsa_numbers_lie_between_zero_and_the_order() {
    let algorithm = SignatureAlgorithm::EcdsaP256;
    let key = PrivateKey::generate(KeyKind::EcdsaP256).expect("generates");
    let verdict = |body: Vec<u8>| key.public().verify(algorithm, MESSAGE, &named(algorithm, &body));
    let Pair::Ecdsa(_, ref pair) = *key.pair() else { panic!("an ECDSA key") };
    let made = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), MESSAGE).expect("signs");
    let (r, s) = made.as_ref().split_at(32);
    assert_eq!(verdict(mpints(&[r, s])), Ok(()));

    let order = unhex(P256_ORDER);
    let wide = |number: &[u8]| {
        let sum = BoxedUint::from_be_slice(number, 320).expect("fits");
        let order = BoxedUint::from_be_slice(&order, 320).expect("fits");
        sum.wrapping_add(&order).to_be_bytes().into_vec()
    };
    let all_ones = [0xff; 32];
    let one = [1];
    for number in [&[][..], &order, &all_ones, &one, &wide(r), &[1; 33], &[0xff; 66]] {
        assert_eq!(verdict(mpints(&[number, s])), Err(BadSignature), "r = {number:02x?}");
        assert_eq!(verdict(mpints(&[number, number])), Err(BadSignature));
    }
    for number in [&[][..], &order, &all_ones, &one, &wide(s), &[1; 33], &[0xff; 66]] {
        assert_eq!(verdict(mpints(&[r, number])), Err(BadSignature), "s = {number:02x?}");
    }
    // Not minimal, negative, one number, three, ASN.1, fixed width.
    assert_eq!(verdict(strings(&[&[&[0, 0][..], r].concat(), s])), Err(BadSignature));
    assert_eq!(verdict(strings(&[&[0x80], s])), Err(BadSignature));
    assert_eq!(verdict(mpints(&[r])), Err(BadSignature));
    assert_eq!(verdict(mpints(&[r, s, s])), Err(BadSignature));
    assert_eq!(verdict([&[0x30, 68, 2, 32], r, &[2, 32], s].concat()), Err(BadSignature));
    assert_eq!(verdict(made.as_ref().to_vec()), Err(BadSignature));
}

const SHA1_INFO: &str = "3021300906052b0e03021a05000414";
const SHA256_INFO: &str = "3031300d060960864801650304020105000420";
const SHA512_INFO: &str = "3051300d060960864801650304020305000440";

/// What the private key makes of a block that nobody padded properly.
fn power(numbers: &RsaNumbers<'_>, block: &[u8]) -> Vec<u8> {
    let number = |bytes| BoxedUint::from_be_slice(bytes, 2048).expect("fits");
    let modulus = Odd::new(number(numbers.modulus)).expect("odd");
    number(block).pow_mod(&number(numbers.private_exponent), &modulus).to_be_bytes().into_vec()
}

/// RFC 8017 §9.2: `00 01 FF .. FF 00`, then the hash with its name in front.
fn padded(info: &[u8]) -> Vec<u8> {
    [&[0, 1][..], &vec![0xff; 256 - 3 - info.len()], &[0], info].concat()
}

/// SECURITY case 43: RSA padding is checked to the last byte.
#[test]
fn case_43_rsa_padding_has_one_form() {
    let key = rsa_key();
    let Pair::Rsa(ref pair) = *key.pair() else { panic!("an RSA key") };
    let document = to_pkcs8(pair).expect("encodes");
    let numbers = RsaNumbers::from_pkcs8(document.as_ref()).expect("decodes");
    let verdict = |block: &[u8]| {
        let blob = named(SignatureAlgorithm::RsaSha256, &power(&numbers, block));
        key.public().verify(SignatureAlgorithm::RsaSha256, MESSAGE, &blob)
    };
    let hash = digest(&SHA256, MESSAGE);
    let info = [&unhex(SHA256_INFO)[..], hash.as_ref()].concat();
    let good = padded(&info);
    assert_eq!(verdict(&good), Ok(()), "the forge itself works");

    let with = |at: usize, byte: u8| {
        let mut block = good.clone();
        block[at] = byte;
        block
    };
    let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, MESSAGE);
    let sha512 = digest(&SHA512, MESSAGE);
    // Bleichenbacher's: little padding and garbage behind the hash.
    let garbage = [&[0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0][..], &info].concat();
    let garbage = [&garbage[..], &vec![0xa5; 256 - garbage.len()]].concat();
    // The algorithm's parameters left out, and a length in the long form.
    let no_null = [&unhex("302f300b06096086480165030402010420")[..], hash.as_ref()].concat();
    let long_form =
        [&unhex("308131300d060960864801650304020105000420")[..], hash.as_ref()].concat();
    for (name, block) in [
        ("leading byte", with(0, 0x01)),
        ("block type 0", with(1, 0)),
        ("block type 2", with(1, 2)),
        ("hole in the padding", with(100, 0)),
        ("wrong padding", with(3, 0xfe)),
        ("other hash", with(255, good[255] ^ 1)),
        ("garbage behind", garbage),
        ("no parameters", padded(&no_null)),
        ("BER length", padded(&long_form)),
        ("bare hash", padded(hash.as_ref())),
        ("SHA-1", padded(&[&unhex(SHA1_INFO)[..], sha1.as_ref()].concat())),
        ("SHA-512", padded(&[&unhex(SHA512_INFO)[..], sha512.as_ref()].concat())),
        ("zero", vec![0; 256]),
    ] {
        assert_eq!(verdict(&block), Err(BadSignature), "{name}");
    }
}

/// The signature is a number below the modulus: equal and larger ones are refused, and leading
/// zeros may be missing (RFC 4253 §6.6) but not added.
#[test]
fn rsa_signatures_are_numbers_below_the_modulus() {
    let key = rsa_key();
    let Pair::Rsa(ref pair) = *key.pair() else { panic!("an RSA key") };
    let document = to_pkcs8(pair).expect("encodes");
    let modulus = RsaNumbers::from_pkcs8(document.as_ref()).expect("decodes").modulus;
    let algorithm = SignatureAlgorithm::RsaSha512;
    let verdict = |message: &[u8], raw: &[u8]| {
        key.public().verify(algorithm, message, &named(algorithm, raw))
    };
    for raw in [modulus, &[0xff; 256], &[1], &[0; 256]] {
        assert_eq!(verdict(MESSAGE, raw), Err(BadSignature));
    }
    // One signature in 256 begins with a zero.
    let short = (0_u32..10_000).find_map(|n| {
        let message = n.to_be_bytes();
        let blob = key.sign(algorithm, &message).expect("signs");
        let raw = signature::unwrap(algorithm, &blob).expect("named").to_vec();
        (raw[0] == 0).then_some((message, raw))
    });
    let (message, raw) = short.expect("a signature with a leading zero");
    assert_eq!(verdict(&message, &raw), Ok(()));
    assert_eq!(verdict(&message, &raw[1..]), Ok(()));
    assert_eq!(verdict(&message, &[&[0], &raw[..]].concat()), Err(BadSignature));
}

const P521_ORDER: &str = "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    a51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409";

/// SECURITY case 47: nonces recovered with the private key spread over the whole range. PuTTY's
/// always had nine zero bits on top, and fifty-eight signatures gave the key away.
#[test]
fn case_47_p521_nonces_are_not_short() {
    let key = PrivateKey::generate(KeyKind::EcdsaP521).expect("generates");
    let Pair::Ecdsa(_, ref pair) = *key.pair() else { panic!("an ECDSA key") };
    let number = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, 576).expect("fits");
    let order = number(&unhex(P521_ORDER));
    let odd = Odd::new(order.clone()).expect("odd");
    let order = NonZero::new(order).expect("not zero");
    let scalar = number(pair.private_key().as_be_bytes().expect("encodes").as_ref());
    let hash = number(digest(&SHA512, MESSAGE).as_ref());
    let mut high = [0_u32; 9];
    for _ in 0..ROUNDS {
        let made = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), MESSAGE).expect("signs");
        let (r, s) = made.as_ref().split_at(66);
        // k = (h + r d) / s
        let sum = number(r).mul_mod(&scalar, &order).add_mod(&hash, &order);
        let nonce = number(s).invert_odd_mod(&odd).expect("invertible").mul_mod(&sum, &order);
        for (count, bit) in high.iter_mut().zip((512..521).rev()) {
            *count += u32::from(nonce.bit_vartime(bit));
        }
    }
    // Half of them, give or take six standard deviations.
    for count in high {
        assert!(count.abs_diff(ROUNDS / 2) < 6 * 16, "{high:?} of {ROUNDS}");
    }

    const ROUNDS: u32 = 1024;
}

// ---- Files ---------------------------------------------------------------------------------

fn unarmoured(text: &str) -> Vec<u8> {
    armour::decode(text.as_bytes()).expect("armour").bytes.to_vec()
}

fn read(file: &[u8], passphrase: Option<&[u8]>) -> Result<(), KeyError> {
    let text = armour::encode_openssh(file).expect("fits");
    PrivateKey::from_openssh(&*text, passphrase).map(drop)
}

/// An unencrypted file around any private part.
fn file_around(public: &[u8], section: &[u8]) -> Vec<u8> {
    let head = strings(&[b"none", b"none", b""]);
    let tail = strings(&[public, section]);
    [&b"openssh-key-v1\0"[..], &head, &[0, 0, 0, 1], &tail].concat()
}

/// SECURITY case 122: the work a file asks for is bounded before it is done.
#[test]
fn case_122_rounds_are_bounded() {
    let key = PrivateKey::generate(KeyKind::Ed25519).expect("generates");
    let file = unarmoured(&key.to_openssh_encrypted("", b"secret").expect("writes"));
    let at = 15 + (4 + 10) + (4 + 6) + 4 + (4 + 16);
    assert_eq!(file[at..at + 4], [0, 0, 0, 24], "where the rounds are");
    for rounds in [0, KEY_FILE_ROUNDS_MAX + 1, 1 << 31, u32::MAX] {
        let mut file = file.clone();
        file[at..at + 4].copy_from_slice(&rounds.to_be_bytes());
        assert_eq!(read(&file, Some(b"secret")), Err(KeyError::Rounds(rounds)));
    }
    assert_eq!(read(&file, Some(b"secret")), Ok(()));
    assert_eq!(read(&file, Some(b"Secret")), Err(KeyError::WrongPassphrase));
    assert_eq!(read(&file, Some(b"")), Err(KeyError::PassphraseNeeded));
    assert_eq!(read(&file, None), Err(KeyError::PassphraseNeeded));
}

#[test]
fn envelopes_are_strict() {
    let key = PrivateKey::generate(KeyKind::Ed25519).expect("generates");
    let file = unarmoured(&key.to_openssh("").expect("writes"));
    assert_eq!(read(&file, None), Ok(()));
    assert!(read(&[&file[..], &[0]].concat(), None).is_err());
    for len in 0..file.len() {
        assert!(read(&file[..len], None).is_err(), "{len} bytes");
    }
    let mut two = file.clone();
    let count_at = 15 + (4 + 4) + (4 + 4) + 4;
    two[count_at + 3] = 2;
    assert_eq!(read(&two, None), Err(KeyError::Count(2)));
    let with = |cipher: &[u8], derivation: &[u8]| {
        let head = [b"openssh-key-v1\0", &strings(&[cipher, derivation, b""])[..]].concat();
        read(&[&head[..], &file[count_at..]].concat(), Some(b"secret"))
    };
    assert_eq!(with(b"none", b"none"), Ok(()));
    assert_eq!(with(b"none", b"bcrypt"), Err(KeyError::Inconsistent));
    assert_eq!(with(b"aes256-ctr", b"none"), Err(KeyError::Inconsistent));
    assert_eq!(with(b"3des-cbc", b"none"), Err(KeyError::UnsupportedCipher("3des-cbc".into())));
    let derivation = KeyError::UnsupportedDerivation("argon2".into());
    assert_eq!(with(b"aes256-ctr", b"argon2"), Err(derivation));
}

#[test]
fn private_parts_are_strict() {
    let key = PrivateKey::generate(KeyKind::Ed25519).expect("generates");
    let other = PrivateKey::generate(KeyKind::Ed25519).expect("generates");
    let file = unarmoured(&key.to_openssh("").expect("writes"));
    let public = key.public().blob();
    let section = &file[file_around(public, b"").len()..];
    let with = |at: usize, bytes: &[u8]| {
        let mut section = section.to_vec();
        section[at..at + bytes.len()].copy_from_slice(bytes);
        read(&file_around(public, &section), None)
    };
    assert_eq!(with(0, &[]), Ok(()));
    assert_eq!(with(0, &[!section[0]]), Err(KeyError::Inconsistent), "check numbers differ");
    assert_eq!(with(8 + 4, b"ssh-rsa"), Err(KeyError::UnsupportedType("ssh-rsa5519".into())));
    let point_at = 8 + (4 + 11) + 4;
    let seed_at = point_at + 32 + 4;
    assert_eq!(with(point_at, &[!section[point_at]]), Err(KeyError::Inconsistent));
    assert_eq!(with(seed_at, &[!section[seed_at]]), Err(KeyError::Inconsistent));
    assert_eq!(with(seed_at + 32, &[!section[point_at]]), Err(KeyError::Inconsistent));
    let last = section.len() - 1;
    let padding = Err(KeyError::Malformed(Malformed::TrailingData));
    assert_eq!(with(last, &[section[last] ^ 1]), padding);
    let foreign = read(&file_around(other.public().blob(), section), None);
    assert_eq!(foreign, Err(KeyError::Inconsistent), "halves of different keys");
}

#[test]
fn rsa_numbers_must_belong_together() {
    let key = rsa_key();
    let Pair::Rsa(ref pair) = *key.pair() else { panic!("an RSA key") };
    let document = to_pkcs8(pair).expect("encodes");
    let numbers = RsaNumbers::from_pkcs8(document.as_ref()).expect("decodes");
    assert!(numbers.key_pair().is_ok());
    let one = [1];
    let bent =
        |number: &[u8]| [&number[..number.len() - 1], &[number[number.len() - 1] ^ 2]].concat();
    let (d, p) = (bent(numbers.private_exponent), bent(numbers.p));
    let (q, coefficient) = (bent(numbers.q), bent(numbers.coefficient));
    for damaged in [
        RsaNumbers { private_exponent: &d, ..numbers },
        RsaNumbers { p: &p, ..numbers },
        RsaNumbers { q: &q, ..numbers },
        RsaNumbers { coefficient: &coefficient, ..numbers },
        RsaNumbers { p: numbers.q, q: numbers.p, ..numbers },
        RsaNumbers { p: &one, q: numbers.modulus, ..numbers },
        RsaNumbers { p: numbers.modulus, q: &one, ..numbers },
        RsaNumbers { p: &[], ..numbers },
        RsaNumbers { q: &[], ..numbers },
        RsaNumbers { private_exponent: &[], ..numbers },
        RsaNumbers { private_exponent: &one, ..numbers },
        RsaNumbers { public_exponent: &one, ..numbers },
        RsaNumbers { modulus: &[], ..numbers },
    ] {
        assert!(matches!(damaged.key_pair(), Err(KeyError::Inconsistent)));
    }
}

#[test]
fn pkcs8_is_read_and_names_its_algorithm() {
    for (key, _) in samples() {
        let base64 = STANDARD.encode(key.pair().to_der());
        let file = |label| format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
        let back = PrivateKey::from_openssh(file("PRIVATE KEY"), None).expect("reads");
        assert_eq!(back.public(), key.public());
        let other = PrivateKey::from_openssh(file("RSA PRIVATE KEY"), None).map(drop);
        assert_eq!(other, Err(KeyError::Unusable), "PKCS#8 is not PKCS#1");
    }
}

#[test]
fn debug_shows_no_secret() {
    let key = PrivateKey::generate(KeyKind::Ed25519).expect("generates");
    let shown = format!("{key:?}");
    assert_eq!(shown, format!("PrivateKey(of {:?})", key.public()));
}

// ---- Anything at all -----------------------------------------------------------------------

/// One file of every kind and form, as bytes without armour, made once.
fn samples() -> &'static [(PrivateKey, Vec<u8>)] {
    static SAMPLES: std::sync::OnceLock<Vec<(PrivateKey, Vec<u8>)>> = std::sync::OnceLock::new();
    SAMPLES.get_or_init(|| {
        let keys = KeyKind::ALL.map(|kind| PrivateKey::generate(kind).expect("generates"));
        let sample = |key: PrivateKey| {
            let file = unarmoured(&key.to_openssh("comment").expect("writes"));
            (key, file)
        };
        keys.into_iter().map(sample).collect()
    })
}

/// Overwrites, cuts, repeats: enough to reach every check.
fn mutate(bytes: &mut Vec<u8>, edits: &[(prop::sample::Index, u8, u8)]) {
    for (index, kind, value) in edits {
        if bytes.is_empty() {
            return;
        }
        let at = index.index(bytes.len());
        match kind % 4 {
            0 => bytes[at] = *value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => bytes.truncate(at),
            _ => bytes.insert(at, *value),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn mutated_files_never_panic(
        sample in 0..5_usize,
        edits in prop::collection::vec(any::<(prop::sample::Index, u8, u8)>(), 1..6),
    ) {
        let (_, file) = &samples()[sample];
        let mut file = file.clone();
        mutate(&mut file, &edits);
        let text = armour::encode_openssh(&file).expect("fits");
        // A file may survive: its comment is free. What it yields must be whole.
        if let Ok(key) = PrivateKey::from_openssh(&*text, None) {
            let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
            let blob = key.sign(algorithm, MESSAGE).expect("signs");
            prop_assert_eq!(key.public().verify(algorithm, MESSAGE, &blob), Ok(()));
        }
        let mut text = text.as_bytes().to_vec();
        mutate(&mut text, &edits);
        let _ = PrivateKey::from_openssh(&text, None);
        let _ = PrivateKey::public_of_openssh(&text);
    }

    #[test]
    fn mutated_der_never_panics(
        sample in 0..5_usize,
        edits in prop::collection::vec(any::<(prop::sample::Index, u8, u8)>(), 1..4),
    ) {
        let mut document = samples()[sample].0.pair().to_der();
        mutate(&mut document, &edits);
        let base64 = STANDARD.encode(&document);
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            let text = format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
            let _ = PrivateKey::from_openssh(&text, None);
        }
        let _ = RsaNumbers::from_pkcs8(&document);
    }

    #[test]
    fn mutated_blobs_are_whole_or_refused(
        sample in 0..5_usize,
        edits in prop::collection::vec(any::<(prop::sample::Index, u8, u8)>(), 1..4),
    ) {
        let mut blob = samples()[sample].0.public().blob().to_vec();
        mutate(&mut blob, &edits);
        if let Ok(key) = PublicKey::from_blob(&blob) {
            prop_assert_eq!(key.blob(), &blob[..]);
            let line = key.to_openssh_line("c");
            prop_assert_eq!(PublicKey::from_text(&line), Ok((key.clone(), "c")));
            for algorithm in SignatureAlgorithm::ALL {
                let _ = key.verify(algorithm, MESSAGE, &named(algorithm, &[7; 64]));
            }
        }
        let _ = PublicKey::from_text(&String::from_utf8_lossy(&blob));
    }

    #[test]
    fn mutated_signatures_do_not_verify(
        sample in 0..5_usize,
        edits in prop::collection::vec(any::<(prop::sample::Index, u8, u8)>(), 1..4),
    ) {
        let key = &samples()[sample].0;
        let algorithm = SignatureAlgorithm::for_key(key.kind())[0];
        let blob = key.sign(algorithm, MESSAGE).expect("signs");
        let mut mutated = blob.clone();
        mutate(&mut mutated, &edits);
        let verdict = key.public().verify(algorithm, MESSAGE, &mutated);
        prop_assert_eq!(verdict.is_ok(), mutated == blob);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(PublicKey::from_blob(&bytes).is_err());
        let _ = PublicKey::from_text(&String::from_utf8_lossy(&bytes));
        prop_assert!(PrivateKey::from_openssh(&bytes, None).is_err());
        prop_assert!(read(&[&b"openssh-key-v1\0"[..], &bytes].concat(), Some(b"x")).is_err());
    }
}
