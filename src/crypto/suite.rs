use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::CryptoError;
use crate::limits::PADDING_MIN;

/// The longest cipher key: two ChaCha20 keys.
const CIPHER_KEY_BYTES_MAX: usize = 64;
/// The longest initialization vector: an AES block.
const IV_BYTES_MAX: usize = 16;
/// The longest MAC key: HMAC-SHA-512 (RFC 6668 §2).
const MAC_KEY_BYTES_MAX: usize = 64;

/// An encryption algorithm of RFC 4253 §6.3. There is no `none`: what has no name here cannot be
/// negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherKind {
    /// RFC 5647, as amended by OpenSSH's `aes128-gcm@openssh.com`.
    Aes128Gcm,
    /// RFC 5647, as amended by OpenSSH's `aes256-gcm@openssh.com`.
    Aes256Gcm,
    /// OpenSSH PROTOCOL.chacha20poly1305.
    Chacha20Poly1305,
    /// RFC 4344 §4.
    Aes128Ctr,
    /// RFC 4344 §4.
    Aes192Ctr,
    /// RFC 4344 §4.
    Aes256Ctr,
    /// Plaintext under a checksum, for the simulator alone.
    #[cfg(feature = "sim")]
    Toy,
}

impl CipherKind {
    /// Every cipher fit for a real connection, fastest first on a CPU with AES instructions.
    pub const ALL: &'static [CipherKind] = &[
        CipherKind::Aes128Gcm,
        CipherKind::Aes256Gcm,
        CipherKind::Chacha20Poly1305,
        CipherKind::Aes128Ctr,
        CipherKind::Aes192Ctr,
        CipherKind::Aes256Ctr,
    ];

    /// The name used in negotiation.
    pub const fn name(self) -> &'static str {
        match self {
            CipherKind::Aes128Gcm => "aes128-gcm@openssh.com",
            CipherKind::Aes256Gcm => "aes256-gcm@openssh.com",
            CipherKind::Chacha20Poly1305 => "chacha20-poly1305@openssh.com",
            CipherKind::Aes128Ctr => "aes128-ctr",
            CipherKind::Aes192Ctr => "aes192-ctr",
            CipherKind::Aes256Ctr => "aes256-ctr",
            #[cfg(feature = "sim")]
            CipherKind::Toy => "toy@tidegate.invalid",
        }
    }

    pub fn from_name(name: &str) -> Option<CipherKind> {
        #[cfg(feature = "sim")]
        if name == CipherKind::Toy.name() {
            return Some(CipherKind::Toy);
        }
        CipherKind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Bytes of key taken from key derivation (RFC 4253 §7.2).
    pub const fn key_bytes(self) -> usize {
        match self {
            CipherKind::Aes128Gcm | CipherKind::Aes128Ctr => 16,
            CipherKind::Aes192Ctr => 24,
            CipherKind::Aes256Gcm | CipherKind::Aes256Ctr => 32,
            CipherKind::Chacha20Poly1305 => 64,
            #[cfg(feature = "sim")]
            CipherKind::Toy => 16,
        }
    }

    /// Bytes of initial IV taken from key derivation; ChaCha20's nonce is the sequence number.
    pub const fn iv_bytes(self) -> usize {
        match self {
            CipherKind::Aes128Gcm | CipherKind::Aes256Gcm => 12,
            CipherKind::Aes128Ctr | CipherKind::Aes192Ctr | CipherKind::Aes256Ctr => 16,
            CipherKind::Chacha20Poly1305 => 0,
            #[cfg(feature = "sim")]
            CipherKind::Toy => 0,
        }
    }

    /// What packets are padded to a multiple of (RFC 4253 §6).
    pub const fn block_bytes(self) -> u8 {
        match self {
            CipherKind::Chacha20Poly1305 => 8,
            #[cfg(feature = "sim")]
            CipherKind::Toy => 8,
            _ => 16,
        }
    }

    /// One of the two that CPUs have instructions for.
    pub const fn is_aes_gcm(self) -> bool {
        matches!(self, CipherKind::Aes128Gcm | CipherKind::Aes256Gcm)
    }

    /// True where the cipher authenticates, so no MAC is negotiated beside it.
    pub const fn is_aead(self) -> bool {
        !matches!(self, CipherKind::Aes128Ctr | CipherKind::Aes192Ctr | CipherKind::Aes256Ctr)
    }
}

/// A MAC algorithm of RFC 4253 §6.4. As with ciphers, there is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MacKind {
    /// The cipher brings its own tag.
    Implicit,
    /// RFC 6668, over the plaintext packet.
    HmacSha256,
    /// RFC 6668, over the plaintext packet.
    HmacSha512,
    /// Over the ciphertext, with the length in clear (OpenSSH PROTOCOL §1.5).
    HmacSha256Etm,
    /// Over the ciphertext, with the length in clear (OpenSSH PROTOCOL §1.5).
    HmacSha512Etm,
    /// RFC 4253 §6.4, over the plaintext packet. SHA-1's collisions do not break it; it is for
    /// peers that have nothing newer.
    HmacSha1,
    /// Over the ciphertext, with the length in clear (OpenSSH PROTOCOL §1.5).
    HmacSha1Etm,
}

impl MacKind {
    /// What is offered unless configured otherwise, in our order of preference.
    pub const DEFAULT: &'static [MacKind] =
        &[MacKind::HmacSha256Etm, MacKind::HmacSha512Etm, MacKind::HmacSha256, MacKind::HmacSha512];

    /// Every MAC that can be negotiated.
    pub const ALL: &'static [MacKind] = &[
        MacKind::HmacSha256Etm,
        MacKind::HmacSha512Etm,
        MacKind::HmacSha256,
        MacKind::HmacSha512,
        MacKind::HmacSha1Etm,
        MacKind::HmacSha1,
    ];

    /// The name used in negotiation; `<implicit>` is for logs and is never sent.
    pub const fn name(self) -> &'static str {
        match self {
            MacKind::Implicit => "<implicit>",
            MacKind::HmacSha256 => "hmac-sha2-256",
            MacKind::HmacSha512 => "hmac-sha2-512",
            MacKind::HmacSha256Etm => "hmac-sha2-256-etm@openssh.com",
            MacKind::HmacSha512Etm => "hmac-sha2-512-etm@openssh.com",
            MacKind::HmacSha1 => "hmac-sha1",
            MacKind::HmacSha1Etm => "hmac-sha1-etm@openssh.com",
        }
    }

    pub fn from_name(name: &str) -> Option<MacKind> {
        MacKind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Bytes of key taken from key derivation: as long as the digest (RFC 6668 §2).
    pub const fn key_bytes(self) -> usize {
        self.tag_bytes() as usize
    }

    pub const fn tag_bytes(self) -> u8 {
        match self {
            MacKind::Implicit => 0,
            MacKind::HmacSha256 | MacKind::HmacSha256Etm => 32,
            MacKind::HmacSha512 | MacKind::HmacSha512Etm => 64,
            MacKind::HmacSha1 | MacKind::HmacSha1Etm => 20,
        }
    }

    /// Encrypt-then-MAC: the tag is checked before anything is decrypted.
    pub const fn is_etm(self) -> bool {
        matches!(self, MacKind::HmacSha256Etm | MacKind::HmacSha512Etm | MacKind::HmacSha1Etm)
    }
}

/// What protects one direction: a cipher and, unless it authenticates itself, a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suite {
    cipher: CipherKind,
    mac: MacKind,
}

impl Suite {
    /// `None` for a cipher without its own tag and no MAC: encryption is never unauthenticated.
    /// Beside an AEAD the MAC is ignored, as it is in negotiation.
    pub const fn new(cipher: CipherKind, mac: MacKind) -> Option<Suite> {
        match (cipher.is_aead(), mac) {
            (true, _) => Some(Suite { cipher, mac: MacKind::Implicit }),
            (false, MacKind::Implicit) => None,
            (false, _) => Some(Suite { cipher, mac }),
        }
    }

    /// Every pair of [`CipherKind::ALL`] and [`MacKind::ALL`], once each.
    pub fn all() -> impl Iterator<Item = Suite> {
        let macs = |cipher: CipherKind| match cipher.is_aead() {
            true => [MacKind::Implicit].as_slice(),
            false => MacKind::ALL,
        };
        CipherKind::ALL.iter().flat_map(move |cipher| {
            macs(*cipher).iter().filter_map(|mac| Suite::new(*cipher, *mac))
        })
    }

    pub const fn cipher(self) -> CipherKind {
        self.cipher
    }

    pub const fn mac(self) -> MacKind {
        self.mac
    }

    /// How packets of this suite are cut.
    pub const fn geometry(self) -> Geometry {
        let block = self.cipher.block_bytes();
        match self.cipher.is_aead() {
            true => Geometry { block, tag: AEAD_TAG_BYTES, length_is_padded: false },
            false => {
                Geometry { block, tag: self.mac.tag_bytes(), length_is_padded: !self.mac.is_etm() }
            }
        }
    }
}

/// The tag of every AEAD we have.
pub(super) const AEAD_TAG_BYTES: u8 = 16;

/// How a packet is cut: what it is padded to and how long its tag is (RFC 4253 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cipher block, or 8 where there is none.
    pub block: u8,
    /// Bytes of tag behind the padding.
    pub tag: u8,
    /// Whether the four length bytes count towards the multiple of `block`. They do where they are
    /// encrypted with the rest (and in clear packets), not beside an AEAD or an EtM MAC.
    pub length_is_padded: bool,
}

impl Geometry {
    /// Before the first NEWKEYS.
    pub const PLAIN: Geometry = Geometry { block: 8, tag: 0, length_is_padded: true };

    /// The least padding allowed: at least four bytes, up to a multiple of the block.
    pub const fn padding(self, payload_len: u32) -> u32 {
        let block = self.block as u32;
        let before = self.unpadded(payload_len) % block as u64;
        let padding = block - before as u32;
        if padding < PADDING_MIN { padding + block } else { padding }
    }

    /// Bytes on the wire: length, padding length, payload, padding and tag. Saturates far above
    /// every limit on a packet.
    pub const fn wire_len(self, payload_len: u32) -> u32 {
        let bytes = 4 + 1 + payload_len as u64 + self.padding(payload_len) as u64 + self.tag as u64;
        if bytes > u32::MAX as u64 { u32::MAX } else { bytes as u32 }
    }

    /// Whether a `packet_length` field fits the block (RFC 4253 §6): the first thing to check.
    pub const fn fits(self, packet_length: u32) -> bool {
        let covered = packet_length as u64 + if self.length_is_padded { 4 } else { 0 };
        covered.is_multiple_of(self.block as u64)
    }

    const fn unpadded(self, payload_len: u32) -> u64 {
        1 + payload_len as u64 + if self.length_is_padded { 4 } else { 0 }
    }
}

/// The raw keys of one direction, as key derivation made them. Kept so that a connection can be
/// handed to another process without a new key exchange; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DirectionKeys {
    #[zeroize(skip)]
    suite: Suite,
    cipher_key: [u8; CIPHER_KEY_BYTES_MAX],
    iv: [u8; IV_BYTES_MAX],
    mac_key: [u8; MAC_KEY_BYTES_MAX],
}

impl DirectionKeys {
    /// Fails unless each part has exactly the length the suite asks for.
    pub fn new(
        suite: Suite,
        cipher_key: &[u8],
        iv: &[u8],
        mac_key: &[u8],
    ) -> Result<DirectionKeys, CryptoError> {
        let mut keys = DirectionKeys::zeroed(suite);
        copy_exact(keys.cipher_key_mut(), cipher_key)?;
        copy_exact(keys.iv_mut(), iv)?;
        copy_exact(keys.mac_key_mut(), mac_key)?;
        Ok(keys)
    }

    pub const fn suite(&self) -> Suite {
        self.suite
    }

    pub fn cipher_key(&self) -> &[u8] {
        self.cipher_key.get(..self.suite.cipher.key_bytes()).unwrap_or(&[])
    }

    pub fn iv(&self) -> &[u8] {
        self.iv.get(..self.suite.cipher.iv_bytes()).unwrap_or(&[])
    }

    pub fn mac_key(&self) -> &[u8] {
        self.mac_key.get(..self.suite.mac.key_bytes()).unwrap_or(&[])
    }

    pub(super) const fn zeroed(suite: Suite) -> DirectionKeys {
        DirectionKeys {
            suite,
            cipher_key: [0; CIPHER_KEY_BYTES_MAX],
            iv: [0; IV_BYTES_MAX],
            mac_key: [0; MAC_KEY_BYTES_MAX],
        }
    }

    pub(super) fn cipher_key_mut(&mut self) -> &mut [u8] {
        self.cipher_key.get_mut(..self.suite.cipher.key_bytes()).unwrap_or(&mut [])
    }

    pub(super) fn iv_mut(&mut self) -> &mut [u8] {
        self.iv.get_mut(..self.suite.cipher.iv_bytes()).unwrap_or(&mut [])
    }

    pub(super) fn mac_key_mut(&mut self) -> &mut [u8] {
        self.mac_key.get_mut(..self.suite.mac.key_bytes()).unwrap_or(&mut [])
    }
}

/// Shows what the keys are for, never what they are.
impl fmt::Debug for DirectionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectionKeys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

fn copy_exact(to: &mut [u8], from: &[u8]) -> Result<(), CryptoError> {
    if to.len() != from.len() {
        return Err(CryptoError::Key);
    }
    to.copy_from_slice(from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::TAILROOM;

    fn geometries() -> Vec<Geometry> {
        let mut all: Vec<Geometry> = Suite::all().map(Suite::geometry).collect();
        all.push(Geometry::PLAIN);
        all
    }

    #[test]
    fn names_round_trip_and_are_distinct() {
        for (i, kind) in CipherKind::ALL.iter().enumerate() {
            assert_eq!(CipherKind::from_name(kind.name()), Some(*kind));
            assert!(CipherKind::ALL.iter().skip(i + 1).all(|other| other.name() != kind.name()));
        }
        for kind in MacKind::ALL {
            assert_eq!(MacKind::from_name(kind.name()), Some(*kind));
        }
        assert_eq!(Suite::all().count(), 3 + 3 * 6);
        assert!(MacKind::DEFAULT.iter().all(|kind| kind.key_bytes() >= 32), "SHA-1 by default");
    }

    /// SECURITY case 22: nothing called `none` can be chosen, nor a cipher left without a tag.
    #[test]
    fn case_22_no_cipher_without_a_tag() {
        for name in ["none", "", "<implicit>", "aes256-cbc", "hmac-sha1-96", "AES128-CTR"] {
            assert_eq!(CipherKind::from_name(name), None, "{name}");
            assert_eq!(MacKind::from_name(name), None, "{name}");
        }
        assert_eq!(Suite::new(CipherKind::Aes256Ctr, MacKind::Implicit), None);
        let gcm = Suite::new(CipherKind::Aes128Gcm, MacKind::HmacSha256).expect("an AEAD");
        assert_eq!(gcm.mac(), MacKind::Implicit);
        assert!(Suite::all().all(|suite| suite.geometry().tag >= 16));
    }

    #[test]
    fn known_packet_lengths() {
        // A NEWKEYS in clear: 4 + 1 + 1 + 10 = 16; under GCM: 4 + 1 + 1 + 14 + 16 = 36.
        assert_eq!(Geometry::PLAIN.wire_len(1), 16);
        let gcm = Suite::new(CipherKind::Aes256Gcm, MacKind::Implicit).expect("suite").geometry();
        assert_eq!((gcm.padding(1), gcm.wire_len(1)), (14, 36));
        let ctr = Suite::new(CipherKind::Aes256Ctr, MacKind::HmacSha256).expect("suite").geometry();
        assert_eq!((ctr.padding(1), ctr.wire_len(1)), (10, 48));
        let etm = Suite::new(CipherKind::Aes256Ctr, MacKind::HmacSha256Etm).expect("suite");
        assert_eq!((etm.geometry().padding(1), etm.geometry().wire_len(1)), (14, 52));
        assert_eq!(gcm.wire_len(u32::MAX), u32::MAX);
    }

    #[test]
    fn the_tail_always_fits_its_room() {
        for geometry in geometries() {
            let longest = (0..64).map(|len| geometry.padding(len)).max().unwrap_or(0);
            assert!(longest + u32::from(geometry.tag) <= TAILROOM);
        }
    }

    #[test]
    fn raw_keys_need_exact_lengths() {
        for suite in Suite::all() {
            let (key, iv, mac) =
                (suite.cipher().key_bytes(), suite.cipher().iv_bytes(), suite.mac().key_bytes());
            let new =
                |k, i, m| DirectionKeys::new(suite, &[7; 64][..k], &[8; 64][..i], &[9; 80][..m]);
            let keys = new(key, iv, mac).expect("exact lengths");
            assert_eq!(keys.cipher_key(), &[7; 64][..key]);
            assert_eq!(keys.iv(), &[8; 64][..iv]);
            assert_eq!(keys.mac_key(), &[9; 64][..mac]);
            assert!(new(key - 1, iv, mac).is_err());
            assert!(new(key, iv + 1, mac).is_err());
            assert!(new(key, iv, mac + 1).is_err());
            assert!(!format!("{keys:?}").contains('7'), "a key in a log");
        }
    }

    proptest! {
        /// RFC 4253 §6: at least four bytes of padding, and a whole number of blocks.
        #[test]
        fn padding_is_legal_and_least(payload_len in 0u32..=300_000) {
            for geometry in geometries() {
                let block = u32::from(geometry.block);
                let padding = geometry.padding(payload_len);
                prop_assert!(padding >= 4 && padding < block + 4 && padding <= 255);
                let wire_len = geometry.wire_len(payload_len);
                let packet_length = wire_len - 4 - u32::from(geometry.tag);
                prop_assert_eq!(packet_length, 1 + payload_len + padding);
                prop_assert!(geometry.fits(packet_length));
                prop_assert!((1..block).all(|less| !geometry.fits(packet_length - less)));
            }
        }
    }
}
