//! A peer made of keys alone: it says what it is told, when it is told, under the right keys, and
//! checks what it hears.

use super::fixtures::{HOST_KEY_ALGORITHM, private_key};
use super::ledger::Ledger;
use super::packet::frame;
use crate::base::SeededEntropy;
use crate::crypto::{
    CipherKind, Counters, Digest, DirectionKeys, KexKind, KexSecret, KeyKind, OpenKey, Provider,
    SealKey, SharedSecret, derive_direction, kex,
};
use crate::limits::{PACKET_LENGTH_MAX, PRE_IDENT_BYTES_MAX};
use crate::wire::channel::ChannelData;
use crate::wire::transport::{KexEcdhInit, KexEcdhReply, KexInit, NewKeys};
use crate::wire::{Message, NameList, Writer, number};

/// What the puppet calls itself.
pub(super) const IDENT: &[u8] = b"SSH-2.0-puppet";

/// One direction's keys and the place in it.
pub(super) struct Way<K> {
    key: K,
    raw: Option<DirectionKeys>,
    counters: Counters,
}

/// The hostile end of a connection.
pub(super) struct Puppet {
    /// It plays the server.
    serves: bool,
    strict: bool,
    sealing: Way<SealKey>,
    opening: Way<OpenKey>,
    entropy: SeededEntropy,
    session_id: Option<Digest>,
    subject_ident: Option<Vec<u8>>,
    own_offer: Vec<u8>,
    subject_offer: Vec<u8>,
    /// Playing the client: our half of the exchange under way.
    secret: Option<(KexSecret, Vec<u8>)>,
    /// Playing the server: the subject's half.
    subject_public: Option<Vec<u8>>,
    /// New keys to send and to receive under, from the next NEWKEYS of each side on.
    next_sealing: Option<DirectionKeys>,
    next_opening: Option<DirectionKeys>,
    /// Parts of the exchange under way that we have sent.
    parts: u8,
    /// Between the subject's KEXINIT and its NEWKEYS.
    subject_exchanges: bool,
    /// Bytes of the subject not understood yet.
    unread: Vec<u8>,
    /// The script has bent the exchange: what the subject says cannot be followed any more.
    pub astray: bool,
    /// It has said who it is.
    pub introduced: bool,
    pub ledger: Ledger,
    /// Channel data the subject has sent, of all channels together.
    pub data: Vec<u8>,
    /// The last payload the subject sent, and how many it has sent.
    pub last: Vec<u8>,
    pub heard: u64,
}

impl Puppet {
    pub(super) fn new(serves: bool) -> Puppet {
        Puppet {
            serves,
            strict: true,
            sealing: Way { key: SealKey::Plain, raw: None, counters: Counters::new() },
            opening: Way { key: OpenKey::Plain, raw: None, counters: Counters::new() },
            entropy: SeededEntropy::new(11),
            session_id: None,
            subject_ident: None,
            own_offer: Vec::new(),
            subject_offer: Vec::new(),
            secret: None,
            subject_public: None,
            next_sealing: None,
            next_opening: None,
            parts: 0,
            subject_exchanges: false,
            unread: Vec::new(),
            astray: false,
            introduced: false,
            ledger: Ledger::default(),
            data: Vec::new(),
            last: Vec::new(),
            heard: 0,
        }
    }

    /// The same peer at a quiet point of the same connection.
    pub(super) fn fork(&self) -> Puppet {
        let (sealing, opening) = (self.sealing.raw.clone(), self.opening.raw.clone());
        let (sealing, opening) = (sealing.expect("established"), opening.expect("established"));
        let sealing = Way {
            key: SealKey::new(Provider::Toy, &sealing).expect("keys"),
            raw: Some(sealing),
            counters: self.sealing.counters.clone(),
        };
        let opening = Way {
            key: OpenKey::new(Provider::Toy, &opening).expect("keys"),
            raw: Some(opening),
            counters: self.opening.counters.clone(),
        };
        Puppet {
            session_id: self.session_id,
            subject_ident: self.subject_ident.clone(),
            introduced: true,
            sealing,
            opening,
            ..Puppet::new(self.serves)
        }
    }

    pub(super) fn session_id(&self) -> &[u8] {
        self.session_id.as_ref().map_or(&[], |id| id.as_ref())
    }

    /// Frames and seals one payload under the keys of the moment.
    pub(super) fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        let geometry = self.sealing.key.geometry();
        let mut packet = frame(geometry, payload);
        let unsealed = packet.len() as u32 - u32::from(geometry.tag);
        let stamp = self.sealing.counters.stamp(unsealed).expect("few packets");
        self.sealing.key.seal(stamp, &mut packet);
        self.ledger.said(payload);
        packet
    }

    /// The same for what a script made up: it may break the exchange.
    pub(super) fn anything(&mut self, payload: &[u8]) -> Vec<u8> {
        self.astray |= payload.first().is_some_and(|number| (20..50).contains(number));
        self.packet(payload)
    }

    // ---- The key exchange, by the rules ------------------------------------------------------

    pub(super) fn identify(&mut self) -> Vec<u8> {
        self.introduced = true;
        [IDENT, b"\r\n"].concat()
    }

    /// Out of turn, a part of the exchange changes what the subject's answers are about.
    fn take_turn(&mut self, part: u8) {
        self.astray |= self.parts != part;
        self.parts = (part + 1) % 3;
    }

    /// Our KEXINIT.
    pub(super) fn offer(&mut self) -> Vec<u8> {
        self.take_turn(0);
        let list = |names: &'static str| NameList::new(names.as_bytes()).expect("valid");
        let kex = match (self.session_id, self.serves) {
            (Some(_), _) => "toy@tidegate.invalid",
            (None, false) => "toy@tidegate.invalid,ext-info-c,kex-strict-c-v00@openssh.com",
            (None, true) => "toy@tidegate.invalid,ext-info-s,kex-strict-s-v00@openssh.com",
        };
        let offer = KexInit {
            cookie: [3; 16],
            kex: list(kex),
            host_key: list(HOST_KEY_ALGORITHM.name()),
            cipher_to_server: list(CipherKind::Toy.name()),
            cipher_to_client: list(CipherKind::Toy.name()),
            mac_to_server: NameList::EMPTY,
            mac_to_client: NameList::EMPTY,
            compression_to_server: list("none"),
            compression_to_client: list("none"),
            language_to_server: NameList::EMPTY,
            language_to_client: NameList::EMPTY,
            first_kex_packet_follows: false,
        };
        self.own_offer = payload_of(&offer);
        let offer = self.own_offer.clone();
        self.packet(&offer)
    }

    /// Our half: KEX_ECDH_INIT, or the whole answer to one.
    pub(super) fn half(&mut self) -> Vec<u8> {
        self.take_turn(1);
        if !self.serves {
            let made = KexSecret::generate(KexKind::Toy, &mut self.entropy);
            let (secret, public) = made.expect("the toy makes keys");
            self.secret = Some((secret, public.clone()));
            return self.packet(&payload_of(&KexEcdhInit { client_public: &public }));
        }
        let client_public = self.subject_public.take().unwrap_or_default();
        let answer = kex::respond(KexKind::Toy, &client_public, &mut self.entropy);
        let Ok((server_public, secret)) = answer else { return Vec::new() };
        let host_key = private_key(KeyKind::Ed25519);
        let blob = host_key.public().blob();
        let hash = self.hash(blob, (&client_public, &server_public), &secret);
        let signature = host_key.sign(HOST_KEY_ALGORITHM, hash.as_ref()).expect("a working key");
        self.derive(hash, &secret);
        let reply =
            KexEcdhReply { host_key: blob, server_public: &server_public, signature: &signature };
        self.packet(&payload_of(&reply))
    }

    /// Our NEWKEYS; what follows is under the new keys, if there are any.
    pub(super) fn new_keys(&mut self) -> Vec<u8> {
        self.take_turn(2);
        let packet = self.packet(&payload_of(&NewKeys));
        match self.next_sealing.take() {
            None => self.astray = true,
            Some(raw) => {
                self.sealing.key = SealKey::new(Provider::Toy, &raw).expect("keys");
                self.sealing.raw = Some(raw);
                self.sealing.counters.new_keys();
                if self.strict {
                    self.sealing.counters.reset_sequence();
                }
            }
        }
        packet
    }

    fn hash(
        &self,
        host_key: &[u8],
        (client_public, server_public): (&[u8], &[u8]),
        secret: &SharedSecret,
    ) -> Digest {
        let subject_ident = self.subject_ident.as_deref().unwrap_or_default();
        let (ours, theirs) = ((IDENT, &self.own_offer), (subject_ident, &self.subject_offer));
        let (client, server) = if self.serves { (theirs, ours) } else { (ours, theirs) };
        let mut hasher = KexKind::Toy.hash().hasher();
        for part in [client.0, server.0, client.1, server.1, host_key, client_public, server_public]
        {
            hasher.update_string(part);
        }
        hasher.update(secret.encoded());
        hasher.finish()
    }

    fn derive(&mut self, hash: Digest, secret: &SharedSecret) {
        let id = *self.session_id.get_or_insert(hash);
        let (_, suite) = super::fixtures::suites()[0];
        let derive = |to_server| {
            let kind = KexKind::Toy.hash();
            derive_direction(kind, secret.encoded(), hash.as_ref(), id.as_ref(), suite, to_server)
        };
        let (out, back) = (derive(!self.serves), derive(self.serves));
        (self.next_sealing, self.next_opening) = (Some(out), Some(back));
    }

    // ---- What the subject says ---------------------------------------------------------------

    /// Takes bytes the subject has sent and checks all that can be checked about them.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if self.astray {
            return;
        }
        self.unread.extend_from_slice(bytes);
        let mut unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        while let Some(used) = self.hear_one(&mut unread[at..]) {
            at += used;
            if self.astray {
                return;
            }
        }
        unread.drain(..at);
        self.unread = unread;
    }

    /// One line or packet; how long it was.
    fn hear_one(&mut self, bytes: &mut [u8]) -> Option<usize> {
        if self.subject_ident.is_none() {
            assert!(bytes.len() < PRE_IDENT_BYTES_MAX as usize, "an endless line");
            let end = bytes.iter().position(|byte| *byte == b'\n')?;
            let line = bytes[..end].strip_suffix(b"\r").expect("CR LF ends a line");
            assert!(line.starts_with(b"SSH-2.0-Tidegate"));
            self.subject_ident = Some(line.to_vec());
            return Some(end + 1);
        }
        if self.session_id.is_none() && bytes.first().is_some_and(|byte| *byte != 0) {
            // Words instead of a packet: the subject thinks we speak no SSH, and leaves.
            self.astray = true;
            return None;
        }
        let way = &mut self.opening;
        let length = way.key.packet_length(&way.counters, *bytes.first_chunk()?);
        assert!(length <= PACKET_LENGTH_MAX, "a packet of {length} bytes");
        let unsealed = 4 + length;
        let whole = (unsealed + u32::from(way.key.geometry().tag)) as usize;
        let packet = bytes.get_mut(..whole)?;
        assert!(way.key.geometry().fits(length), "a packet cut to no block");
        let stamp = way.counters.stamp(unsealed).expect("few packets");
        way.key.open(stamp, packet).expect("the subject seals what we can open");
        let padding = usize::from(packet[4]);
        assert!(padding >= 4 && padding + 1 < length as usize, "padding of {padding} bytes");
        let payload = packet[5..unsealed as usize - padding].to_vec();
        self.understand(&payload);
        self.heard += 1;
        self.last = payload;
        Some(whole)
    }

    fn understand(&mut self, payload: &[u8]) {
        let number = payload[0];
        if self.subject_exchanges {
            // RFC 4253 §7.1.
            let allowed = matches!(number, 1..=4 | 20..=49);
            assert!(allowed, "message {number} in the middle of a key exchange");
        }
        match number {
            number::KEXINIT => {
                KexInit::parse(payload).expect("a KEXINIT");
                self.subject_exchanges = true;
                self.subject_offer = payload.to_vec();
            }
            number::KEX_ECDH_INIT => {
                let init = KexEcdhInit::parse(payload).expect("an init");
                self.subject_public = Some(init.client_public.to_vec());
            }
            number::KEX_ECDH_REPLY => self.finish(payload),
            number::NEWKEYS => {
                self.subject_exchanges = false;
                let raw = self.next_opening.take().expect("NEWKEYS behind an exchange");
                self.opening.key = OpenKey::new(Provider::Toy, &raw).expect("keys");
                self.opening.raw = Some(raw);
                self.opening.counters.new_keys();
                if self.strict {
                    self.opening.counters.reset_sequence();
                }
            }
            _ => {
                self.ledger.heard(payload);
                if let Ok(message) = ChannelData::parse(payload) {
                    self.data.extend_from_slice(message.data);
                }
            }
        }
    }

    fn finish(&mut self, payload: &[u8]) {
        let reply = KexEcdhReply::parse(payload).expect("a reply");
        let (secret, client_public) = self.secret.take().expect("an answer to our half");
        let secret = secret.finish(reply.server_public).expect("an honest half");
        let publics = (&*client_public, reply.server_public);
        let hash = self.hash(reply.host_key, publics, &secret);
        let host_key = private_key(KeyKind::Ed25519).public();
        assert_eq!(reply.host_key, host_key.blob());
        if self.session_id.is_none() {
            let signed = host_key.verify(HOST_KEY_ALGORITHM, hash.as_ref(), reply.signature);
            signed.expect("the exchange hash is signed");
        }
        self.derive(hash, &secret);
    }
}

/// A message's payload.
pub(super) fn payload_of<'m>(message: &impl Message<'m>) -> Vec<u8> {
    let mut space = [0; 512];
    let mut out = Writer::new(&mut space);
    if message.write(&mut out).is_ok() {
        return out.written().to_vec();
    }
    let mut space = vec![0; 72 * 1024];
    let mut out = Writer::new(&mut space);
    message.write(&mut out).expect("room");
    out.written().to_vec()
}
