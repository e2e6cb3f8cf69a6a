use std::fmt;

use super::cipher::chacha::ChachaOpenKey;
use super::cipher::ctr_mac::CtrMacKey;
use super::cipher::gcm::GcmKey;
#[cfg(feature = "sim")]
use super::cipher::toy::ToyKey;
use super::seal::{CHACHA_GEOMETRY, GCM_GEOMETRY};
use super::{BadTag, CipherKind, Counters, CryptoError, DirectionKeys, Geometry, Provider, Stamp};

/// The receiving half of one direction's keys. Immutable and `Sync`.
pub enum OpenKey {
    /// Before the first NEWKEYS.
    Plain,
    Gcm(GcmKey),
    Chacha(ChachaOpenKey),
    CtrMac(Box<CtrMacKey>),
    #[cfg(feature = "sim")]
    Toy(ToyKey),
}

impl OpenKey {
    /// Sets the keys up for use; the raw bytes are the caller's to keep or to drop.
    pub fn new(provider: Provider, keys: &DirectionKeys) -> Result<OpenKey, CryptoError> {
        let cipher = keys.suite().cipher();
        if !provider.supports(cipher) {
            return Err(CryptoError::Unsupported);
        }
        let provider = provider.library(cipher);
        Ok(match cipher {
            CipherKind::Aes128Gcm | CipherKind::Aes256Gcm => {
                OpenKey::Gcm(GcmKey::new(provider, keys)?)
            }
            CipherKind::Chacha20Poly1305 => OpenKey::Chacha(ChachaOpenKey::new(provider, keys)?),
            CipherKind::Aes128Ctr | CipherKind::Aes192Ctr | CipherKind::Aes256Ctr => {
                OpenKey::CtrMac(Box::new(CtrMacKey::new(provider, keys)?))
            }
            #[cfg(feature = "sim")]
            CipherKind::Toy => OpenKey::Toy(ToyKey::new(keys)?),
        })
    }

    /// How packets under this key are cut.
    pub const fn geometry(&self) -> Geometry {
        match self {
            OpenKey::Plain => Geometry::PLAIN,
            OpenKey::Gcm(_) => GCM_GEOMETRY,
            OpenKey::Chacha(_) => CHACHA_GEOMETRY,
            OpenKey::CtrMac(key) => key.geometry(),
            #[cfg(feature = "sim")]
            OpenKey::Toy(_) => CHACHA_GEOMETRY,
        }
    }

    /// The `packet_length` of the packet at `place`, from its first four bytes.
    ///
    /// Nothing has been authenticated yet: bound it, wait for that many bytes, and do nothing else
    /// with it. An attacker may have chosen it.
    pub fn packet_length(&self, place: &Counters, first: [u8; 4]) -> u32 {
        u32::from_be_bytes(match self {
            OpenKey::Plain | OpenKey::Gcm(_) => first,
            OpenKey::Chacha(key) => key.packet_length(place.seq(), first),
            OpenKey::CtrMac(key) => key.packet_length(place.blocks(), first),
            #[cfg(feature = "sim")]
            OpenKey::Toy(_) => first,
        })
    }

    /// Opens one packet in place: length field, ciphertext and tag in; length, padding length,
    /// payload and padding out, with the tag's bytes left behind them.
    ///
    /// After `Err` the packet is all zeros. Nothing of it was released, and the connection is over.
    pub fn open(&self, stamp: Stamp, packet: &mut [u8]) -> Result<(), BadTag> {
        let opened = match self {
            OpenKey::Plain => Ok(()),
            OpenKey::Gcm(key) => key.open(stamp, packet),
            OpenKey::Chacha(key) => key.open(stamp, packet),
            OpenKey::CtrMac(key) => key.open(stamp, packet),
            #[cfg(feature = "sim")]
            OpenKey::Toy(key) => key.open(stamp, packet),
        };
        if opened.is_err() {
            packet.fill(0);
        }
        opened
    }
}

impl fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenKey({:?})", self.geometry())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::testing::{every_suite, frame, keys_for};
    use crate::crypto::{SealKey, Suite};

    fn pair(provider: Provider, suite: Suite) -> (SealKey, OpenKey) {
        let keys = keys_for(suite, 1);
        let seal = SealKey::new(provider, &keys).expect("keys of the right size");
        let open = OpenKey::new(provider, &keys).expect("keys of the right size");
        (seal, open)
    }

    fn stamp(counters: &mut Counters, packet: &[u8], geometry: Geometry) -> Stamp {
        let len = packet.len() as u32 - u32::from(geometry.tag);
        counters.stamp(len).expect("fresh keys")
    }

    #[test]
    fn keys_may_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<SealKey>();
        shared::<OpenKey>();
    }

    #[test]
    fn a_key_cuts_packets_as_its_suite_does() {
        for (provider, suite) in every_suite() {
            let (seal, open) = pair(provider, suite);
            assert_eq!(seal.geometry(), suite.geometry(), "{suite:?}");
            assert_eq!(open.geometry(), suite.geometry(), "{suite:?}");
        }
        assert_eq!(SealKey::Plain.geometry(), Geometry::PLAIN);
    }

    #[test]
    fn a_provider_refuses_what_it_does_not_support() {
        for suite in Suite::all() {
            let keys = keys_for(suite, 1);
            #[cfg(feature = "ring")]
            {
                let ring = SealKey::new(Provider::Ring, &keys);
                assert_eq!(ring.is_ok(), suite.cipher().is_aead());
            }
            #[cfg(feature = "sim")]
            assert!(OpenKey::new(Provider::Toy, &keys).is_err());
            assert!(OpenKey::new(Provider::AwsLc, &keys).is_ok());
        }
    }

    /// One sealed packet, and the packet it was.
    fn sealed(provider: Provider, suite: Suite, payload_len: usize) -> (Vec<u8>, Vec<u8>) {
        let (seal, _) = pair(provider, suite);
        let payload: Vec<u8> = (0..payload_len).map(|i| i as u8).collect();
        let clear = frame(seal.geometry(), &payload);
        let mut packet = clear.clone();
        seal.seal(stamp(&mut Counters::new(), &packet, seal.geometry()), &mut packet);
        (packet, clear)
    }

    fn open_first(open: &OpenKey, packet: &mut [u8]) -> Result<(), BadTag> {
        open.open(stamp(&mut Counters::new(), packet, open.geometry()), packet)
    }

    /// SECURITY case 39: whichever byte is flipped, the packet is refused and none of it released.
    #[test]
    fn case_39_every_flipped_byte_is_refused() {
        for (provider, suite) in every_suite() {
            let (_, open) = pair(provider, suite);
            for payload_len in [1, 40, 1000] {
                let (packet, _) = sealed(provider, suite, payload_len);
                for at in 0..packet.len() {
                    let mut flipped = packet.clone();
                    flipped[at] ^= 1 << (at % 8);
                    assert_eq!(open_first(&open, &mut flipped), Err(BadTag), "{suite:?} {at}");
                    assert!(flipped.iter().all(|byte| *byte == 0), "{suite:?} released {at}");
                }
            }
        }
    }

    /// SECURITY case 40: a packet opens in its own place, under its own keys and nowhere else.
    #[test]
    fn case_40_replayed_reordered_or_foreign() {
        for (provider, suite) in every_suite() {
            let (seal, open) = pair(provider, suite);
            let mut sending = Counters::new();
            let packets: Vec<Vec<u8>> = (0..3)
                .map(|_| {
                    let mut packet = frame(seal.geometry(), b"the same payload");
                    seal.seal(stamp(&mut sending, &packet, seal.geometry()), &mut packet);
                    packet
                })
                .collect();
            for (place, from) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
                let mut receiving = Counters::new();
                for packet in &packets[..place] {
                    let mut packet = packet.clone();
                    let here = stamp(&mut receiving, &packet, open.geometry());
                    assert_eq!(open.open(here, &mut packet), Ok(()));
                }
                let mut packet = packets[from].clone();
                let here = stamp(&mut receiving, &packet, open.geometry());
                assert_eq!(open.open(here, &mut packet), Err(BadTag), "{suite:?} {from}");
            }
            let other = OpenKey::new(provider, &keys_for(suite, 2)).expect("other keys");
            assert_eq!(open_first(&other, &mut packets[0].clone()), Err(BadTag), "{suite:?}");
        }
    }

    /// SECURITY case 41: a tag counts whole or not at all.
    #[test]
    fn case_41_shortened_or_lengthened() {
        for (provider, suite) in every_suite() {
            let (_, open) = pair(provider, suite);
            let (packet, _) = sealed(provider, suite, 20);
            for len in 0..packet.len() {
                let mut cut = packet[..len].to_vec();
                let place = Counters::new().stamp(0).expect("fresh keys");
                assert_eq!(open.open(place, &mut cut), Err(BadTag), "{suite:?} {len}");
                assert!(cut.iter().all(|byte| *byte == 0));
            }
            let mut longer = [&packet[..], &[0]].concat();
            assert_eq!(open_first(&open, &mut longer), Err(BadTag), "{suite:?}");
        }
    }

    /// A packet cut wrongly is our mistake; it must not carry plaintext out.
    #[test]
    fn a_packet_too_short_to_seal_is_wiped() {
        for (provider, suite) in every_suite() {
            let (seal, _) = pair(provider, suite);
            let least = usize::from(seal.geometry().tag) + 4;
            let short = if suite.geometry().length_is_padded { least - 4 } else { least };
            for len in 0..short {
                let mut packet = vec![0x77; len];
                seal.seal(Counters::new().stamp(0).expect("fresh keys"), &mut packet);
                assert!(packet.iter().all(|byte| *byte == 0), "{suite:?} {len}");
            }
        }
    }

    /// Each library opens what the other sealed, and both seal to the same bytes.
    #[cfg(feature = "ring")]
    #[test]
    fn providers_agree() {
        for suite in Suite::all().filter(|suite| Provider::Ring.supports(suite.cipher())) {
            for payload_len in [0, 1, 15, 16, 17, 255, 256, 4096, 32_768] {
                let (aws, clear) = sealed(Provider::AwsLc, suite, payload_len);
                let (ring, _) = sealed(Provider::Ring, suite, payload_len);
                assert!(aws == ring, "{suite:?} {payload_len}");
                for (provider, mut packet) in [(Provider::AwsLc, ring), (Provider::Ring, aws)] {
                    let (_, open) = pair(provider, suite);
                    assert_eq!(open_first(&open, &mut packet), Ok(()));
                    let end = packet.len() - 16;
                    assert!(packet[..end] == clear[..end]);
                }
            }
        }
    }

    /// Sealing order is free: a packet's bytes depend on its place alone.
    #[test]
    fn packets_may_be_sealed_out_of_order() {
        for (provider, suite) in every_suite() {
            let (seal, _) = pair(provider, suite);
            let run = |order: [usize; 4]| {
                let mut counters = Counters::new();
                let mut packets: Vec<(Option<Stamp>, Vec<u8>)> = (0..4)
                    .map(|i| {
                        let packet = frame(seal.geometry(), &vec![i; 50 * usize::from(i)]);
                        (Some(stamp(&mut counters, &packet, seal.geometry())), packet)
                    })
                    .collect();
                for i in order {
                    let (stamp, packet) = &mut packets[i];
                    seal.seal(stamp.take().expect("sealed once"), packet);
                }
                packets.into_iter().map(|(_, packet)| packet).collect::<Vec<_>>()
            };
            assert!(run([0, 1, 2, 3]) == run([3, 1, 0, 2]), "{suite:?}");
        }
    }

    /// The budget of an idle connection counts on these.
    #[test]
    fn keys_stay_small() {
        assert!(size_of::<SealKey>() <= 72, "{}", size_of::<SealKey>());
        assert!(size_of::<OpenKey>() <= 72, "{}", size_of::<OpenKey>());
        assert!(size_of::<CtrMacKey>() <= 2048, "{}", size_of::<CtrMacKey>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// A conversation: each packet opens to what was sealed, and its length reads the same.
        #[test]
        fn what_is_sealed_opens(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..6)
        ) {
            for (provider, suite) in every_suite() {
                let (seal, open) = pair(provider, suite);
                let (mut sending, mut receiving) = (Counters::new(), Counters::new());
                for payload in &payloads {
                    let clear = frame(seal.geometry(), payload);
                    let mut packet = clear.clone();
                    seal.seal(stamp(&mut sending, &packet, seal.geometry()), &mut packet);
                    let first = *packet.first_chunk().expect("a length field");
                    let tag = usize::from(open.geometry().tag);
                    let expected = packet.len() - 4 - tag;
                    prop_assert_eq!(open.packet_length(&receiving, first) as usize, expected);
                    let place = stamp(&mut receiving, &packet, open.geometry());
                    prop_assert_eq!(open.open(place, &mut packet), Ok(()));
                    let end = packet.len() - tag;
                    prop_assert_eq!(&packet[..end], &clear[..end]);
                }
            }
        }
    }
}
