//! Known answers from the standards.

use super::{
    KeyKind, PrivateKey, PublicKey, SignatureAlgorithm, curve::Curve, private::Pair,
    public::Numbers, signature,
};
use crate::crypto::testing::unhex;

/// RFC 8032 §7.1, tests 1 to 3: seed, public key, message, signature.
const ED25519: [[&str; 4]; 3] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555\
         fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da0\
         85ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac1\
         8ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

/// RFC 6979 §A.2.5 to §A.2.7, message "sample" under each curve's own hash: x, Ux, Uy, r, s.
const ECDSA: [(Curve, [&str; 5]); 3] = [
    (
        Curve::P256,
        [
            "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721",
            "60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6",
            "7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
            "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
            "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
        ],
    ),
    (
        Curve::P384,
        [
            "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D8\
             96D5724E4C70A825F872C9EA60D2EDF5",
            "EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64\
             DEF8F0EA9055866064A254515480BC13",
            "8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1\
             288B231C3AE0D4FE7344FD2533264720",
            "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C\
             81A648152E44ACF96E36DD1E80FABE46",
            "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94F\
             A329C145786E679E7B82C71A38628AC8",
        ],
    ),
    (
        Curve::P521,
        [
            "00FAD06DAA62BA3B25D2FB40133DA757205DE67F5BB0018FEE8C86E1B68C7E75\
             CAA896EB32F1F47C70855836A6D16FCC1466F6D8FBEC67DB89EC0C08B0E996B8\
             3538",
            "01894550D0785932E00EAA23B694F213F8C3121F86DC97A04E5A7167DB4E5BCD\
             371123D46E45DB6B5D5370A7F20FB633155D38FFA16D2BD761DCAC474B9A2F50\
             23A4",
            "00493101C962CD4D2FDDF782285E64584139C2F91B47F87FF82354D6630F746A\
             28A0DB25741B5B34A828008B22ACC23F924FAAFBD4D33F81EA66956DFEAA2BFD\
             FCF5",
            "00C328FAFCBD79DD77850370C46325D987CB525569FB63C5D3BC53950E6D4C5F\
             174E25A1EE9017B5D450606ADD152B534931D7D4E8455CC91F9B15BF05EC36E3\
             77FA",
            "00617CCE7CF5064806C467F678D3B4080D6F1CC50AF26CA209417308281B68AF\
             282623EAA63E5B5C0723D8B8C37FF0777B1A20F8CCB1DCCC43997F1EE0E44DA4\
             A67A",
        ],
    ),
];

#[test]
fn ed25519_signs_as_rfc_8032_says() {
    for [seed, point, message, answer] in ED25519.map(|vector| vector.map(unhex)) {
        let pair = Pair::ed25519(&seed, &point).expect("the halves fit");
        let key = PrivateKey::new(pair, "").expect("a key");
        let blob = key.sign(SignatureAlgorithm::Ed25519, &message).expect("signs");
        assert_eq!(blob, signature::wrap(SignatureAlgorithm::Ed25519, &answer).expect("fits"));
        assert_eq!(key.public().verify(SignatureAlgorithm::Ed25519, &message, &blob), Ok(()));
        assert_eq!(blob.len(), 4 + 11 + 4 + 64);
    }
}

#[test]
fn ecdsa_verifies_rfc_6979s_signatures() {
    for (curve, vector) in ECDSA {
        let [scalar, x, y, r, s] = vector.map(unhex);
        let point = [&[4][..], &x, &y].concat();
        let algorithm = SignatureAlgorithm::for_key(curve.kind())[0];
        let blob = Numbers::Ecdsa { curve, point: &point }.encode().expect("fits");
        let public = PublicKey::from_blob(&blob).expect("on the curve");
        let signature = signature::wrap(algorithm, &[r, s].concat()).expect("fits");
        assert_eq!(public.verify(algorithm, b"sample", &signature), Ok(()));
        assert!(public.verify(algorithm, b"simple", &signature).is_err());

        let key = PrivateKey::new(Pair::ecdsa(curve, &scalar, &point).expect("fits"), "");
        assert_eq!(key.expect("a key").public(), &public);
    }
}

/// RFC 5656 §3.1.2 and RFC 4251 §5: r and s keep no leading zeros and gain one when the top bit is
/// set; reading puts them back at full width.
#[test]
fn ecdsa_numbers_are_minimal_on_the_wire() {
    let mut raw = [0; 64];
    raw[31] = 0x7f;
    raw[32] = 0x80;
    let blob = signature::wrap(SignatureAlgorithm::EcdsaP256, &raw).expect("fits");
    let body = signature::unwrap(SignatureAlgorithm::EcdsaP256, &blob).expect("named");
    assert_eq!(body[..7], [0, 0, 0, 1, 0x7f, 0, 0]);
    assert_eq!(body[5..11], [0, 0, 0, 33, 0, 0x80]);
    assert_eq!(body.len(), 5 + 4 + 33);
}

/// The key and fingerprint that RFC 8709 and OpenSSH would show for RFC 8032's first key.
#[test]
fn text_forms_agree() {
    let point = unhex(ED25519[0][1]).try_into().expect("32 bytes");
    let blob = Numbers::Ed25519 { point: &point }.encode().expect("fits");
    let key = PublicKey::from_blob(&blob).expect("a key");
    let line = key.to_openssh_line("a b");
    let base64 = "AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
    assert_eq!(line, format!("ssh-ed25519 {base64} a b"));
    assert_eq!(PublicKey::from_text(&line), Ok((key.clone(), "a b")));
    assert_eq!(key.to_openssh_line(""), format!("ssh-ed25519 {base64}"));
    assert_eq!(key.to_openssh_line("a\nssh-rsa x"), format!("ssh-ed25519 {base64} a ssh-rsa x"));
    assert_eq!((key.bits(), key.kind()), (256, KeyKind::Ed25519));
    assert_eq!(format!("{key:?}"), format!("PublicKey(ssh-ed25519 {})", key.fingerprint()));
}
