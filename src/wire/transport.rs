//! The messages of the transport layer: RFC 4253, RFC 5656, RFC 8308 and OpenSSH's ping.

use super::{Malformed, Message, NameList, NoSpace, Reader, Writer, number};
use crate::limits::{
    DEBUG_TEXT_BYTES_MAX, DISCONNECT_TEXT_BYTES_MAX, EXT_INFO_COUNT_MAX, EXT_INFO_VALUE_BYTES_MAX,
    HOST_KEY_BYTES_MAX, KEX_PUBLIC_BYTES_MAX, LANGUAGE_BYTES_MAX, NAME_BYTES_MAX,
    NAME_LIST_BYTES_MAX, PING_BYTES_MAX, SIGNATURE_BYTES_MAX,
};

/// RFC 4253 §11.1: the sender ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    pub reason: u32,
    /// Meant to be UTF-8; not trusted to be, and escaped by whoever shows it.
    pub description: &'a [u8],
}

impl<'a> Message<'a> for Disconnect<'a> {
    const NUMBER: u8 = number::DISCONNECT;

    fn decode(body: &mut Reader<'a>) -> Result<Disconnect<'a>, Malformed> {
        let reason = body.uint32()?;
        let description = body.string(DISCONNECT_TEXT_BYTES_MAX)?;
        // Several implementations leave the language tag out; a farewell is not worth an argument.
        if !body.is_empty() {
            body.string(LANGUAGE_BYTES_MAX)?;
        }
        Ok(Disconnect { reason, description })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.reason)?;
        out.string(self.description)?;
        out.string(b"")
    }
}

/// RFC 4253 §11.2: to be discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignore<'a> {
    pub data: &'a [u8],
}

impl<'a> Message<'a> for Ignore<'a> {
    const NUMBER: u8 = number::IGNORE;

    fn decode(body: &mut Reader<'a>) -> Result<Ignore<'a>, Malformed> {
        Ok(Ignore { data: body.string(u32::MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.data)
    }
}

/// RFC 4253 §11.4: the packet with this sequence number was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unimplemented {
    pub sequence: u32,
}

impl<'a> Message<'a> for Unimplemented {
    const NUMBER: u8 = number::UNIMPLEMENTED;

    fn decode(body: &mut Reader<'a>) -> Result<Unimplemented, Malformed> {
        Ok(Unimplemented { sequence: body.uint32()? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.sequence)
    }
}

/// RFC 4253 §11.3: text for whoever debugs the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debug<'a> {
    pub always_display: bool,
    pub message: &'a [u8],
}

impl<'a> Message<'a> for Debug<'a> {
    const NUMBER: u8 = number::DEBUG;

    fn decode(body: &mut Reader<'a>) -> Result<Debug<'a>, Malformed> {
        let always_display = body.boolean()?;
        let message = body.string(DEBUG_TEXT_BYTES_MAX)?;
        body.string(LANGUAGE_BYTES_MAX)?;
        Ok(Debug { always_display, message })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.boolean(self.always_display)?;
        out.string(self.message)?;
        out.string(b"")
    }
}

/// RFC 4253 §10: asks for `ssh-userauth` or `ssh-connection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRequest<'a> {
    pub name: &'a [u8],
}

impl<'a> Message<'a> for ServiceRequest<'a> {
    const NUMBER: u8 = number::SERVICE_REQUEST;

    fn decode(body: &mut Reader<'a>) -> Result<ServiceRequest<'a>, Malformed> {
        Ok(ServiceRequest { name: body.string(NAME_BYTES_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.name)
    }
}

/// RFC 4253 §10: the service may be used from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceAccept<'a> {
    pub name: &'a [u8],
}

impl<'a> Message<'a> for ServiceAccept<'a> {
    const NUMBER: u8 = number::SERVICE_ACCEPT;

    fn decode(body: &mut Reader<'a>) -> Result<ServiceAccept<'a>, Malformed> {
        Ok(ServiceAccept { name: body.string(NAME_BYTES_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.name)
    }
}

/// RFC 8308 §2.3: extension names and values, in the order sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtInfo<'a> {
    count: u32,
    body: &'a [u8],
}

impl<'a> ExtInfo<'a> {
    /// Lays the entries out in `space`.
    pub fn build(entries: &[(&[u8], &[u8])], space: &'a mut [u8]) -> Result<ExtInfo<'a>, NoSpace> {
        let mut writer = Writer::new(space);
        for (name, value) in entries {
            writer.string(name)?;
            writer.string(value)?;
        }
        let len = writer.len();
        let count = u32::try_from(entries.len()).map_err(|_| NoSpace)?;
        Ok(ExtInfo { count, body: space.get(..len).ok_or(NoSpace)? })
    }

    /// Name and value pairs; the layout was checked when the message was decoded.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut body = Reader::new(self.body);
        std::iter::from_fn(move || {
            let name = body.string(NAME_BYTES_MAX).ok()?;
            Some((name, body.string(EXT_INFO_VALUE_BYTES_MAX).ok()?))
        })
    }
}

impl<'a> Message<'a> for ExtInfo<'a> {
    const NUMBER: u8 = number::EXT_INFO;

    fn decode(body: &mut Reader<'a>) -> Result<ExtInfo<'a>, Malformed> {
        let count = body.uint32()?;
        if count > EXT_INFO_COUNT_MAX {
            return Err(Malformed::OverLimit);
        }
        let entries = body.rest();
        for _ in 0..count {
            body.string(NAME_BYTES_MAX)?;
            body.string(EXT_INFO_VALUE_BYTES_MAX)?;
        }
        let used = entries.len() - body.rest().len();
        Ok(ExtInfo { count, body: entries.get(..used).unwrap_or(&[]) })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.count)?;
        out.bytes(self.body)
    }
}

/// RFC 4253 §7.1: what one side can do, most wanted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KexInit<'a> {
    pub cookie: [u8; 16],
    pub kex: NameList<'a>,
    pub host_key: NameList<'a>,
    pub cipher_to_server: NameList<'a>,
    pub cipher_to_client: NameList<'a>,
    pub mac_to_server: NameList<'a>,
    pub mac_to_client: NameList<'a>,
    pub compression_to_server: NameList<'a>,
    pub compression_to_client: NameList<'a>,
    pub language_to_server: NameList<'a>,
    pub language_to_client: NameList<'a>,
    pub first_kex_packet_follows: bool,
}

impl<'a> Message<'a> for KexInit<'a> {
    const NUMBER: u8 = number::KEXINIT;

    fn decode(body: &mut Reader<'a>) -> Result<KexInit<'a>, Malformed> {
        let message = KexInit {
            cookie: body.array()?,
            kex: body.name_list(NAME_LIST_BYTES_MAX)?,
            host_key: body.name_list(NAME_LIST_BYTES_MAX)?,
            cipher_to_server: body.name_list(NAME_LIST_BYTES_MAX)?,
            cipher_to_client: body.name_list(NAME_LIST_BYTES_MAX)?,
            mac_to_server: body.name_list(NAME_LIST_BYTES_MAX)?,
            mac_to_client: body.name_list(NAME_LIST_BYTES_MAX)?,
            compression_to_server: body.name_list(NAME_LIST_BYTES_MAX)?,
            compression_to_client: body.name_list(NAME_LIST_BYTES_MAX)?,
            language_to_server: body.name_list(NAME_LIST_BYTES_MAX)?,
            language_to_client: body.name_list(NAME_LIST_BYTES_MAX)?,
            first_kex_packet_follows: body.boolean()?,
        };
        // Reserved for a future extension: hashed as sent, otherwise without meaning.
        body.uint32()?;
        Ok(message)
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.bytes(&self.cookie)?;
        for list in [
            self.kex,
            self.host_key,
            self.cipher_to_server,
            self.cipher_to_client,
            self.mac_to_server,
            self.mac_to_client,
            self.compression_to_server,
            self.compression_to_client,
            self.language_to_server,
            self.language_to_client,
        ] {
            out.string(list.as_str().as_bytes())?;
        }
        out.boolean(self.first_kex_packet_follows)?;
        out.uint32(0)
    }
}

/// RFC 4253 §7.3: what the sender sends next is under the new keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewKeys;

impl<'a> Message<'a> for NewKeys {
    const NUMBER: u8 = number::NEWKEYS;

    fn decode(_body: &mut Reader<'a>) -> Result<NewKeys, Malformed> {
        Ok(NewKeys)
    }

    fn encode(&self, _out: &mut Writer<'_>) -> Result<(), NoSpace> {
        Ok(())
    }
}

/// RFC 5656 §4, RFC 8731 and the hybrid methods: the client's half of the exchange. RFC 4253 §8's
/// KEXDH_INIT looks the same: an mpint is a string of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KexEcdhInit<'a> {
    /// Q_C, the method's concatenation of public values, or the bytes of the mpint e.
    pub client_public: &'a [u8],
}

impl<'a> Message<'a> for KexEcdhInit<'a> {
    const NUMBER: u8 = number::KEX_ECDH_INIT;

    fn decode(body: &mut Reader<'a>) -> Result<KexEcdhInit<'a>, Malformed> {
        Ok(KexEcdhInit { client_public: body.string(KEX_PUBLIC_BYTES_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.client_public)
    }
}

/// RFC 5656 §4: the server's half, its host key and its signature of the exchange hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KexEcdhReply<'a> {
    /// K_S.
    pub host_key: &'a [u8],
    /// Q_S, and what corresponds to it in other methods.
    pub server_public: &'a [u8],
    pub signature: &'a [u8],
}

impl<'a> Message<'a> for KexEcdhReply<'a> {
    const NUMBER: u8 = number::KEX_ECDH_REPLY;

    fn decode(body: &mut Reader<'a>) -> Result<KexEcdhReply<'a>, Malformed> {
        Ok(KexEcdhReply {
            host_key: body.string(HOST_KEY_BYTES_MAX)?,
            server_public: body.string(KEX_PUBLIC_BYTES_MAX)?,
            signature: body.string(SIGNATURE_BYTES_MAX)?,
        })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.host_key)?;
        out.string(self.server_public)?;
        out.string(self.signature)
    }
}

/// RFC 4419 §3: the sizes of group that the client takes, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KexDhGexRequest {
    pub bits_min: u32,
    pub bits_wanted: u32,
    pub bits_max: u32,
}

impl<'a> Message<'a> for KexDhGexRequest {
    const NUMBER: u8 = number::KEX_DH_GEX_REQUEST;

    fn decode(body: &mut Reader<'a>) -> Result<KexDhGexRequest, Malformed> {
        let (bits_min, bits_wanted, bits_max) = (body.uint32()?, body.uint32()?, body.uint32()?);
        Ok(KexDhGexRequest { bits_min, bits_wanted, bits_max })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.bits_min)?;
        out.uint32(self.bits_wanted)?;
        out.uint32(self.bits_max)
    }
}

/// RFC 4419 §3: the group that the server chose. Magnitudes, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KexDhGexGroup<'a> {
    pub prime: &'a [u8],
    pub generator: &'a [u8],
}

impl<'a> Message<'a> for KexDhGexGroup<'a> {
    const NUMBER: u8 = number::KEX_DH_GEX_GROUP;

    fn decode(body: &mut Reader<'a>) -> Result<KexDhGexGroup<'a>, Malformed> {
        let prime = body.mpint(KEX_PUBLIC_BYTES_MAX)?;
        Ok(KexDhGexGroup { prime, generator: body.mpint(KEX_PUBLIC_BYTES_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.mpint(self.prime)?;
        out.mpint(self.generator)
    }
}

/// RFC 4419 §3: the client's half, once it has a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KexDhGexInit<'a>(pub KexEcdhInit<'a>);

impl<'a> Message<'a> for KexDhGexInit<'a> {
    const NUMBER: u8 = number::KEX_DH_GEX_INIT;

    fn decode(body: &mut Reader<'a>) -> Result<KexDhGexInit<'a>, Malformed> {
        KexEcdhInit::decode(body).map(KexDhGexInit)
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        self.0.encode(out)
    }
}

/// RFC 4419 §3: the server's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KexDhGexReply<'a>(pub KexEcdhReply<'a>);

impl<'a> Message<'a> for KexDhGexReply<'a> {
    const NUMBER: u8 = number::KEX_DH_GEX_REPLY;

    fn decode(body: &mut Reader<'a>) -> Result<KexDhGexReply<'a>, Malformed> {
        KexEcdhReply::decode(body).map(KexDhGexReply)
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        self.0.encode(out)
    }
}

/// OpenSSH PROTOCOL §1.9: asks for a [`Pong`] with the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping<'a> {
    pub data: &'a [u8],
}

impl<'a> Message<'a> for Ping<'a> {
    const NUMBER: u8 = number::PING;

    fn decode(body: &mut Reader<'a>) -> Result<Ping<'a>, Malformed> {
        Ok(Ping { data: body.string(PING_BYTES_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.data)
    }
}

/// OpenSSH PROTOCOL §1.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong<'a> {
    pub data: &'a [u8],
}

impl<'a> Message<'a> for Pong<'a> {
    const NUMBER: u8 = number::PONG;

    fn decode(body: &mut Reader<'a>) -> Result<Pong<'a>, Malformed> {
        Ok(Pong { data: body.string(PING_BYTES_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes, then decodes what was written.
    fn round_trip<'a, M>(message: &M, space: &'a mut [u8]) -> M
    where
        M: Message<'a> + PartialEq + std::fmt::Debug,
    {
        let mut writer = Writer::new(space);
        message.write(&mut writer).expect("room");
        let len = writer.len();
        let bytes: &'a [u8] = &space[..len];
        assert_eq!(bytes[0], M::NUMBER);
        M::parse(bytes).expect("what was written")
    }

    fn cuts_are_refused(payload: &[u8], parse: impl Fn(&[u8]) -> Option<Malformed>) {
        assert_eq!(parse(payload), None);
        for len in 0..payload.len() {
            assert!(parse(&payload[..len]).is_some(), "{len} of {}", payload.len());
        }
        let longer = [payload, &[0]].concat();
        assert_eq!(parse(&longer), Some(Malformed::TrailingData));
    }

    fn names(list: &'static str) -> NameList<'static> {
        NameList::new(list.as_bytes()).expect("valid")
    }

    fn kexinit() -> KexInit<'static> {
        KexInit {
            cookie: [7; 16],
            kex: names("a,b@c"),
            host_key: names("k"),
            cipher_to_server: names("c1"),
            cipher_to_client: names("c2"),
            mac_to_server: names("m1"),
            mac_to_client: names("m2"),
            compression_to_server: names("none"),
            compression_to_client: names("none,zlib"),
            language_to_server: NameList::EMPTY,
            language_to_client: NameList::EMPTY,
            first_kex_packet_follows: true,
        }
    }

    #[test]
    fn every_message_comes_back() {
        let mut a = [0; 512];
        assert_eq!(round_trip(&kexinit(), &mut a), kexinit());
        let mut a = [0; 64];
        let m = Disconnect { reason: 11, description: b"bye" };
        assert_eq!(round_trip(&m, &mut a), m);
        let mut a = [0; 64];
        let m = Debug { always_display: true, message: b"x" };
        assert_eq!(round_trip(&m, &mut a), m);
        let mut a = [0; 64];
        let m = KexEcdhReply { host_key: b"k", server_public: b"q", signature: b"s" };
        assert_eq!(round_trip(&m, &mut a), m);
        let mut a = [0; 64];
        assert_eq!(round_trip(&NewKeys, &mut a), NewKeys);
        let mut a = [0; 64];
        assert_eq!(round_trip(&Ping { data: b"p" }, &mut a), Ping { data: b"p" });
        let mut a = [0; 64];
        let m = Unimplemented { sequence: 9 };
        assert_eq!(round_trip(&m, &mut a), m);
    }

    #[test]
    fn case_11_and_20_kexinit_is_read_to_its_exact_end() {
        let mut space = [0; 512];
        let mut writer = Writer::new(&mut space);
        kexinit().write(&mut writer).expect("room");
        cuts_are_refused(writer.written(), |bytes| KexInit::parse(bytes).err());
        let reply = KexEcdhReply { host_key: b"k", server_public: b"q", signature: b"s" };
        let mut space = [0; 64];
        let mut writer = Writer::new(&mut space);
        reply.write(&mut writer).expect("room");
        cuts_are_refused(writer.written(), |bytes| KexEcdhReply::parse(bytes).err());
    }

    #[test]
    fn a_farewell_may_lack_its_language() {
        let short = [1, 0, 0, 0, 2, 0, 0, 0, 1, b'x'];
        let read = Disconnect::parse(&short);
        assert_eq!(read, Ok(Disconnect { reason: 2, description: b"x" }));
    }

    #[test]
    fn case_38_extensions_are_counted_before_they_are_read() {
        let mut space = [0; 256];
        let entries: [(&[u8], &[u8]); 2] = [(b"a", b"0"), (b"server-sig-algs", b"x,y")];
        let info = ExtInfo::build(&entries, &mut space).expect("room");
        let mut other = [0; 256];
        let back = round_trip(&info, &mut other);
        let pairs: Vec<_> = back.iter().collect();
        assert_eq!(pairs, [(&b"a"[..], &b"0"[..]), (b"server-sig-algs", b"x,y")]);
        assert_eq!(ExtInfo::parse(&[7, 0xff, 0xff, 0xff, 0xff]), Err(Malformed::OverLimit));
        assert_eq!(ExtInfo::parse(&[7, 0, 0, 0, 1]), Err(Malformed::Truncated));
        assert_eq!(ExtInfo::parse(&[7, 0, 0, 0, 0, 1]), Err(Malformed::TrailingData));
    }
}
