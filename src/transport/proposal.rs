//! RFC 4253 §7.1: what we offer, and what comes of two offers.

use std::fmt;

use super::{CompressionKind, Error, Mismatch, Preferences};
use crate::base::Entropy;
use crate::crypto::{CipherKind, KexKind, KeyAlgorithm, MacKind, SignatureAlgorithm, Suite};
use crate::limits::KEXINIT_BYTES_MAX;
use crate::wire::transport::KexInit;
use crate::wire::{Message, NameList, NoSpace, Writer, number};

/// RFC 8308 §2.1.
pub(super) const EXT_INFO_CLIENT: &str = "ext-info-c";
/// RFC 8308 §2.1.
pub(super) const EXT_INFO_SERVER: &str = "ext-info-s";
/// OpenSSH PROTOCOL §1.10.
pub(super) const STRICT_CLIENT: &str = "kex-strict-c-v00@openssh.com";
/// OpenSSH PROTOCOL §1.10.
pub(super) const STRICT_SERVER: &str = "kex-strict-s-v00@openssh.com";

/// What a key exchange settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub kex: KexKind,
    /// The method's name as it was agreed: some have two.
    pub kex_name: &'static str,
    pub host_key: KeyAlgorithm,
    /// How the server signs with an RSA key, here or elsewhere: as agreed, or else as the client likes
    /// best among what it takes.
    pub rsa: SignatureAlgorithm,
    pub to_server: Suite,
    pub to_client: Suite,
    pub compression_to_server: CompressionKind,
    pub compression_to_client: CompressionKind,
    /// Both sides follow strict key exchange (OpenSSH PROTOCOL §1.10).
    pub strict: bool,
}

impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.kex_name, self.host_key.name())?;
        write_suite(f, self.to_server)?;
        if self.to_client != self.to_server {
            write!(f, " out ")?;
            write_suite(f, self.to_client)?;
        }
        let compression = [self.compression_to_server, self.compression_to_client];
        if compression.contains(&CompressionKind::Delayed) {
            write!(f, " compressed")?;
        }
        if !self.strict {
            write!(f, " without strict key exchange")?;
        }
        Ok(())
    }
}

fn write_suite(f: &mut fmt::Formatter<'_>, suite: Suite) -> fmt::Result {
    f.write_str(suite.cipher().name())?;
    match suite.mac() {
        MacKind::Implicit => Ok(()),
        mac => write!(f, "+{}", mac.name()),
    }
}

/// Ciphers that we have and do not offer this time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Narrowing {
    /// The peer would use ChaCha20-Poly1305 without strict key exchange.
    pub without_chacha: bool,
    /// AES-GCM alone, so that the client's order does not matter.
    pub steers_to_server: bool,
    pub steers_to_client: bool,
}

impl Preferences {
    /// The ciphers we can offer, most wanted first.
    fn offerable(&self) -> impl Iterator<Item = CipherKind> + Clone {
        let known = self.ciphers.iter().copied();
        known.filter(|cipher| self.provider.supports(*cipher))
    }

    /// Some AES-GCM of ours is in the peer's list.
    pub(super) fn shares_aes_gcm(&self, theirs: NameList<'_>) -> bool {
        let mut ours = self.offerable().filter(|cipher| cipher.is_aes_gcm());
        ours.any(|cipher| theirs.contains(cipher.name()))
    }
}

/// Builds our KEXINIT payload. `markers` are the names that only look like methods; they mean
/// something in a connection's first KEXINIT alone.
pub(super) fn offer<'n>(
    preferences: &Preferences,
    host_keys: impl Iterator<Item = &'n str> + Clone,
    markers: &[&'static str],
    narrowing: Narrowing,
    entropy: &mut dyn Entropy,
) -> Result<Box<[u8]>, NoSpace> {
    let ciphers = |steers: bool| {
        let offered = preferences.offerable().filter(move |cipher| match cipher {
            CipherKind::Chacha20Poly1305 if narrowing.without_chacha => false,
            cipher => !steers || cipher.is_aes_gcm(),
        });
        offered.map(CipherKind::name)
    };
    let macs = || preferences.macs.iter().map(|mac| mac.name());
    let compression = || preferences.compression.iter().map(|kind| kind.name());
    let kex = preferences.kex.iter().flat_map(|kex| kex.names()).copied();
    let mut payload = vec![0; KEXINIT_BYTES_MAX];
    let mut cookie = [0; 16];
    entropy.fill(&mut cookie);
    let mut out = Writer::new(&mut payload);
    out.byte(number::KEXINIT)?;
    out.bytes(&cookie)?;
    out.name_list(kex.chain(markers.iter().copied()))?;
    out.name_list(host_keys)?;
    out.name_list(ciphers(narrowing.steers_to_server))?;
    out.name_list(ciphers(narrowing.steers_to_client))?;
    out.name_list(macs())?;
    out.name_list(macs())?;
    out.name_list(compression())?;
    out.name_list(compression())?;
    out.name_list([])?;
    out.name_list([])?;
    // We never guess: a wrong guess costs a key generation and saves nothing on a fast path.
    out.boolean(false)?;
    out.uint32(0)?;
    let len = out.len();
    payload.truncate(len);
    Ok(payload.into_boxed_slice())
}

/// Reads a KEXINIT payload.
pub(super) fn parse(payload: &[u8]) -> Result<KexInit<'_>, Error> {
    KexInit::parse(payload).map_err(Error::malformed(number::KEXINIT))
}

/// The method of this name, and the name.
pub(super) fn kex_from_name(name: &str) -> Option<(KexKind, &'static str)> {
    let kind = KexKind::from_name(name)?;
    kind.names().iter().find(|known| **known == name).map(|known| (kind, *known))
}

/// Both offers, and whose is whose: errors say so.
#[derive(Clone, Copy)]
pub(super) struct Offers<'a> {
    pub client: KexInit<'a>,
    pub server: KexInit<'a>,
    pub we_serve: bool,
}

impl Offers<'_> {
    /// RFC 4253 §7.1: of each list the client's first name that the server has too.
    pub(super) fn settle(&self, strict: bool) -> Result<Negotiated, Error> {
        let (client, server) = (&self.client, &self.server);
        let (kex, kex_name) =
            self.common("key exchange method", client.kex, server.kex, kex_from_name)?;
        let host_key = self.common(
            "host key algorithm",
            client.host_key,
            server.host_key,
            KeyAlgorithm::from_name,
        )?;
        let to_server = self.suite(
            (client.cipher_to_server, server.cipher_to_server),
            (client.mac_to_server, server.mac_to_server),
        )?;
        let to_client = self.suite(
            (client.cipher_to_client, server.cipher_to_client),
            (client.mac_to_client, server.mac_to_client),
        )?;
        let compression =
            |client, server| self.common("compression", client, server, CompressionKind::from_name);
        Ok(Negotiated {
            kex,
            kex_name,
            host_key,
            rsa: rsa(host_key, client.host_key),
            to_server,
            to_client,
            compression_to_server: compression(
                client.compression_to_server,
                server.compression_to_server,
            )?,
            compression_to_client: compression(
                client.compression_to_client,
                server.compression_to_client,
            )?,
            strict,
        })
    }

    /// RFC 4253 §7: whether the packet that follows the peer's KEXINIT was sent on a wrong guess
    /// and is to be ignored.
    pub(super) fn guess_is_wrong(&self) -> bool {
        let (ours, theirs) =
            if self.we_serve { (&self.server, &self.client) } else { (&self.client, &self.server) };
        theirs.first_kex_packet_follows
            && (ours.kex.first() != theirs.kex.first()
                || ours.host_key.first() != theirs.host_key.first())
    }

    /// A cipher and, unless it authenticates itself, a MAC. Beside an AEAD the lists of MACs need
    /// not meet (RFC 5647 §5.1 as OpenSSH amends it).
    fn suite(
        &self,
        ciphers: (NameList<'_>, NameList<'_>),
        macs: (NameList<'_>, NameList<'_>),
    ) -> Result<Suite, Error> {
        let cipher = self.common("cipher", ciphers.0, ciphers.1, CipherKind::from_name)?;
        let mac = match cipher.is_aead() {
            true => MacKind::Implicit,
            false => self.common("MAC", macs.0, macs.1, MacKind::from_name)?,
        };
        Suite::new(cipher, mac).ok_or(Error::Invariant("a cipher without a tag"))
    }

    fn common<T>(
        &self,
        what: &'static str,
        client: NameList<'_>,
        server: NameList<'_>,
        known: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error> {
        // A name we do not know is not on our own list, except for the markers; those no peer may
        // turn into a method.
        let shared = client.iter().filter(|name| server.contains(name));
        shared.filter_map(known).next().ok_or_else(|| {
            let (ours, theirs) = if self.we_serve { (server, client) } else { (client, server) };
            let [theirs, ours] = [theirs, ours].map(|names| shortened(names.as_str()).into());
            Error::NothingInCommon(Box::new(Mismatch { what, theirs, ours }))
        })
    }
}

/// sshd's rule; a client that names neither way is believed to have forgotten the better one.
fn rsa(agreed: KeyAlgorithm, client: NameList<'_>) -> SignatureAlgorithm {
    let takes = |signature: SignatureAlgorithm| {
        let both = [KeyAlgorithm::plain(signature), KeyAlgorithm::certified(signature)];
        both.iter().any(|algorithm| client.contains(algorithm.name()))
    };
    match agreed.signature {
        SignatureAlgorithm::RsaSha256 | SignatureAlgorithm::RsaSha512 => agreed.signature,
        _ if takes(SignatureAlgorithm::RsaSha512) => SignatureAlgorithm::RsaSha512,
        _ if takes(SignatureAlgorithm::RsaSha256) => SignatureAlgorithm::RsaSha256,
        _ => SignatureAlgorithm::RsaSha512,
    }
}

/// Bytes of a name-list quoted in an error.
const QUOTED_BYTES_MAX: usize = 400;

fn shortened(names: &str) -> String {
    match names.get(..QUOTED_BYTES_MAX) {
        Some(front) if names.len() > QUOTED_BYTES_MAX => format!("{front}..."),
        _ if names.is_empty() => String::from("nothing"),
        _ => String::from(names),
    }
}
