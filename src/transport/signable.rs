//! What is signed in a key exchange, field by field: for a signer that makes the exchange hash itself
//! and signs nothing that it was handed ready-made.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::ident;
use super::proposal::{self, Offers};
use crate::crypto::{Digest, KexKind, KeyAlgorithm};
use crate::limits::{
    EXCHANGE_GROUP_BYTES_MAX, EXCHANGE_SECRET_BYTES_MAX, IDENT_BYTES_MAX, KEX_PUBLIC_BYTES_MAX,
    NAME_BYTES_MAX, PACKET_LENGTH_PREAUTH_MAX,
};
use crate::wire::{Malformed, Reader};

/// All that enters the hash of a key exchange but the host key, which whoever signs knows himself
/// (RFC 4253 §8, RFC 4419 §3, RFC 5656 §4).
#[derive(Clone, Copy)]
pub struct ExchangeFields<'a> {
    pub kex: KexKind,
    /// How the host key is shown and signs.
    pub host_key: KeyAlgorithm,
    /// V_C and V_S, without their line ends.
    pub client_ident: &'a [u8],
    pub server_ident: &'a [u8],
    /// I_C and I_S: the payloads of both KEXINITs.
    pub client_init: &'a [u8],
    pub server_init: &'a [u8],
    /// min || n || max || p || g of a group exchange; empty otherwise.
    pub group: &'a [u8],
    pub client_public: &'a [u8],
    pub server_public: &'a [u8],
    /// K as it is hashed, its length field included.
    pub secret: &'a [u8],
}

impl<'a> ExchangeFields<'a> {
    /// H, for the host key that is shown as this.
    pub fn hash(&self, host_key: &[u8]) -> Digest {
        let mut hasher = self.kex.hash().hasher();
        let (idents, inits) =
            ([self.client_ident, self.server_ident], [self.client_init, self.server_init]);
        for part in idents.into_iter().chain(inits).chain([host_key]) {
            hasher.update_string(part);
        }
        hasher.update(self.group);
        hasher.update_string(self.client_public);
        hasher.update_string(self.server_public);
        hasher.update(self.secret);
        hasher.finish()
    }

    pub fn encode(&self) -> SignableExchange {
        let names = [self.kex.names().first().copied().unwrap_or(""), self.host_key.name()];
        let parts = [names[0].as_bytes(), names[1].as_bytes()].into_iter().chain(self.parts());
        // Made once at its length, so that no copy of the secret is left behind.
        let len = parts.clone().map(|part| 4 + part.len()).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        for part in parts {
            bytes.extend((part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        SignableExchange(Arc::new(bytes))
    }

    fn parts(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        [
            self.client_ident,
            self.server_ident,
            self.client_init,
            self.server_init,
            self.group,
            self.client_public,
            self.server_public,
            self.secret,
        ]
        .into_iter()
    }

    /// Reads what [`encode`](Self::encode) wrote. What the fields hold is unchecked:
    /// [`check`](Self::check) does that.
    pub fn decode(bytes: &'a [u8]) -> Result<ExchangeFields<'a>, Malformed> {
        let mut r = Reader::new(bytes);
        let kex = KexKind::from_name(r.utf8(NAME_BYTES_MAX)?).ok_or(Malformed::Number)?;
        let host_key = KeyAlgorithm::from_name(r.utf8(NAME_BYTES_MAX)?).ok_or(Malformed::Number)?;
        let fields = ExchangeFields {
            kex,
            host_key,
            client_ident: r.string(IDENT_BYTES_MAX as u32)?,
            server_ident: r.string(IDENT_BYTES_MAX as u32)?,
            client_init: r.string(PACKET_LENGTH_PREAUTH_MAX)?,
            server_init: r.string(PACKET_LENGTH_PREAUTH_MAX)?,
            group: r.string(EXCHANGE_GROUP_BYTES_MAX)?,
            client_public: r.string(KEX_PUBLIC_BYTES_MAX)?,
            server_public: r.string(KEX_PUBLIC_BYTES_MAX)?,
            secret: r.string(EXCHANGE_SECRET_BYTES_MAX)?,
        };
        r.end()?;
        Ok(fields)
    }

    /// Whether this can be an exchange of a server that identifies itself as `server_ident`: both offers
    /// lead to the method and the algorithm that are claimed, and each value has its form.
    ///
    /// # Errors
    /// It cannot; the text says what is wrong.
    pub fn check(&self, server_ident: &str) -> Result<(), &'static str> {
        if self.server_ident != server_ident.as_bytes() {
            return Err("the identification of another server");
        }
        if !ident::is_valid(self.client_ident) {
            return Err("an identification that no client has");
        }
        let parse = |payload| proposal::parse(payload).map_err(|_| "an offer that does not parse");
        let (client, server) = (parse(self.client_init)?, parse(self.server_init)?);
        let settled = Offers { client, server, we_serve: true }.settle(false);
        let settled = settled.map_err(|_| "offers that do not meet")?;
        if (settled.kex, settled.host_key) != (self.kex, self.host_key) {
            return Err("what these offers do not agree on");
        }
        if self.client_public.is_empty() || self.server_public.is_empty() {
            return Err("a public value that is missing");
        }
        self.check_numbers().map_err(|_| "values of no key exchange")
    }

    fn check_numbers(&self) -> Result<(), Malformed> {
        let mut r = Reader::new(self.secret);
        r.string(EXCHANGE_SECRET_BYTES_MAX)?;
        r.end()?;
        let mut r = Reader::new(self.group);
        if self.kex == KexKind::DhGroupExchange {
            // The sizes that the client takes, the prime and the generator.
            for _ in 0..3 {
                r.uint32()?;
            }
            r.mpint(KEX_PUBLIC_BYTES_MAX)?;
            r.mpint(KEX_PUBLIC_BYTES_MAX)?;
        }
        r.end()
    }
}

/// [`ExchangeFields`] as they travel. The shared secret is among them: wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SignableExchange(Arc<Zeroizing<Vec<u8>>>);

impl SignableExchange {
    /// As it came from another process; unchecked.
    pub fn from_bytes(bytes: &[u8]) -> SignableExchange {
        SignableExchange(Arc::new(Zeroizing::new(bytes.to_vec())))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// # Errors
    /// It is no such thing.
    pub fn fields(&self) -> Result<ExchangeFields<'_>, Malformed> {
        ExchangeFields::decode(&self.0)
    }
}

impl fmt::Debug for SignableExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignableExchange({} bytes)", self.0.len())
    }
}

/// Exchanges that signers' tests have signed.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::crypto::SignatureAlgorithm;
    use crate::wire::{Writer, number};

    pub const IDENT: &str = "SSH-2.0-Tidegate_test";

    /// A KEXINIT that offers one method and one algorithm.
    pub fn offer(kex: KexKind, host_key: KeyAlgorithm) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let mut out = Writer::new(&mut bytes);
        out.byte(number::KEXINIT).and_then(|()| out.bytes(&[7; 16])).expect("room");
        let cipher = ["aes256-gcm@openssh.com"];
        let kex = kex.names().iter().copied();
        out.name_list(kex).and_then(|()| out.name_list([host_key.name()])).expect("room");
        for list in [&cipher[..], &cipher, &[], &[], &["none"], &["none"], &[], &[]] {
            out.name_list(list.iter().copied()).expect("room");
        }
        out.byte(0).and_then(|()| out.uint32(0)).expect("room");
        let len = out.len();
        bytes.truncate(len);
        bytes
    }

    /// An exchange with curve25519-sha256, as a client of this name says. Differs by `seed`.
    pub fn exchange(host_key: KeyAlgorithm, seed: u8) -> SignableExchange {
        let offer = offer(KexKind::Curve25519, host_key);
        let secret = [&[0, 0, 0, 32][..], &[seed; 32]].concat();
        fields(host_key, &offer, &[seed; 32], &secret).encode()
    }

    pub fn fields<'a>(
        host_key: KeyAlgorithm,
        offer: &'a [u8],
        public: &'a [u8],
        secret: &'a [u8],
    ) -> ExchangeFields<'a> {
        ExchangeFields {
            kex: KexKind::Curve25519,
            host_key,
            client_ident: b"SSH-2.0-client",
            server_ident: IDENT.as_bytes(),
            client_init: offer,
            server_init: offer,
            group: &[],
            client_public: public,
            server_public: public,
            secret,
        }
    }

    pub const ED25519: KeyAlgorithm = KeyAlgorithm::plain(SignatureAlgorithm::Ed25519);
}

#[cfg(test)]
mod tests {
    use super::samples::{ED25519, IDENT, exchange, fields, offer};
    use super::*;

    const SECRET: [u8; 8] = [0, 0, 0, 4, 1, 2, 3, 4];

    #[test]
    fn fields_travel_whole_or_not_at_all() {
        let sample = exchange(ED25519, 3);
        let fields = sample.fields().expect("fields");
        assert_eq!(fields.encode(), sample);
        for cut in 0..sample.bytes().len() {
            assert!(ExchangeFields::decode(&sample.bytes()[..cut]).is_err(), "cut at {cut}");
        }
        assert!(ExchangeFields::decode(&[sample.bytes(), &[0]].concat()).is_err());
        let other = exchange(ED25519, 4);
        let other = other.fields().expect("fields").hash(b"key");
        assert_ne!(fields.hash(b"key"), other);
        assert_ne!(fields.hash(b"key"), fields.hash(b"another"));
        assert_eq!(
            format!("{sample:?}"),
            format!("SignableExchange({} bytes)", sample.bytes().len())
        );
    }

    /// SECURITY case 134: what cannot be a key exchange of this server is not signed.
    #[test]
    fn case_134_fields_of_no_exchange_of_ours_are_refused() {
        let ours = offer(KexKind::Curve25519, ED25519);
        let good = fields(ED25519, &ours, &[1; 32], &SECRET);
        assert_eq!(good.check(IDENT), Ok(()));
        let nistp = KeyAlgorithm::from_name("ecdsa-sha2-nistp256").expect("an algorithm");
        let other = offer(KexKind::EcdhP256, ED25519);
        let bad = [
            (
                ExchangeFields { server_ident: b"SSH-2.0-x", ..good },
                "the identification of another",
            ),
            (ExchangeFields { client_ident: b"GET /", ..good }, "an identification that no client"),
            (ExchangeFields { client_ident: b"SSH-2.0-a\nb", ..good }, "an identification that no"),
            (ExchangeFields { client_init: b"\x14", ..good }, "an offer that does not parse"),
            (ExchangeFields { server_init: &ours[1..], ..good }, "an offer that does not parse"),
            (ExchangeFields { client_init: &other, ..good }, "offers that do not meet"),
            (
                ExchangeFields { kex: KexKind::EcdhP256, ..good },
                "what these offers do not agree on",
            ),
            (ExchangeFields { host_key: nistp, ..good }, "what these offers do not agree on"),
            (ExchangeFields { client_public: b"", ..good }, "a public value that is missing"),
            (ExchangeFields { secret: b"", ..good }, "values of no key exchange"),
            (ExchangeFields { secret: &SECRET[..7], ..good }, "values of no key exchange"),
            (ExchangeFields { group: b"a text", ..good }, "values of no key exchange"),
        ];
        for (fields, expected) in bad {
            let why = fields.check(IDENT).expect_err(expected);
            assert!(why.starts_with(expected), "{why}, not {expected}");
        }
        // RFC 4419 §3: three sizes, a prime and a generator.
        let kex = KexKind::DhGroupExchange;
        let (offer, sizes) = (offer(kex, ED25519), [8; 12]);
        let group = [&sizes[..], &[0, 0, 0, 1, 23], &[0, 0, 0, 1, 5]].concat();
        let chosen = fields(ED25519, &offer, &[1; 32], &SECRET);
        let chosen = ExchangeFields { kex, group: &group, ..chosen };
        assert_eq!(chosen.check(IDENT), Ok(()));
        let cut = ExchangeFields { group: &group[..20], ..chosen };
        assert_eq!(cut.check(IDENT), Err("values of no key exchange"));
    }
}
