//! The line or block that a proxy sends before anything else, to tell whom it speaks for: HAProxy's
//! PROXY protocol, versions 1 (§2.1 of its specification) and 2 (§2.2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PROXY_HEADER_BYTES_MAX;

/// How version 1 begins; version 2 begins with bytes that no line of text has.
const TEXT: &[u8] = b"PROXY ";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A line of version 1, CR LF included.
const LINE_BYTES_MAX: usize = 107;
/// What precedes the addresses in version 2.
const FIXED_BYTES: usize = 16;
/// The version in the high half of its byte.
const VERSION_2: u8 = 0x20;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
/// Families and transports, as in one byte of version 2.
const UNSPEC: u8 = 0;
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;
const STREAM: u8 = 1;
/// Two addresses and two ports, and two paths.
const INET_BYTES: usize = 12;
const INET6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    One,
    Two,
}

/// Whom a proxy speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyOrigin {
    /// The proxy itself (a health check), or somebody without an IP address: the connection's own
    /// addresses stand.
    Itself,
    /// The client, and where it connected to. IPv4 addresses are never written as IPv6 ones here.
    Client { client: SocketAddr, server: SocketAddr },
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyScan {
    /// Too few to tell, or the rest of the header is to come.
    Need,
    /// No header: something else begins here.
    Absent,
    /// A header of this many bytes; what follows is the client's.
    Header { used: usize, origin: ProxyOrigin },
}

/// Why a header is none. The connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header: {0}")]
pub struct BadProxyHeader(pub &'static str);

/// Looks for a header at the beginning of what a connection has brought.
///
/// # Errors
/// It begins like a header and is none.
pub fn scan(bytes: &[u8]) -> Result<ProxyScan, BadProxyHeader> {
    if begins(bytes, BINARY) {
        return scan_block(bytes);
    }
    if begins(bytes, TEXT) {
        return scan_line(bytes);
    }
    Ok(ProxyScan::Absent)
}

/// The header that tells `origin`.
///
/// Version 1 has one family for both addresses, as version 2 has; an IPv4 address beside an IPv6 one
/// is written as IPv6.
pub fn encode(version: ProxyVersion, origin: &ProxyOrigin) -> Vec<u8> {
    match version {
        ProxyVersion::One => line(origin).into_bytes(),
        ProxyVersion::Two => block(origin),
    }
}

/// As far as both go, they are the same.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(one, other)| one == other)
}

// ---- Version 1 -----------------------------------------------------------------------------

fn scan_line(bytes: &[u8]) -> Result<ProxyScan, BadProxyHeader> {
    let window = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return match window.len() < LINE_BYTES_MAX {
            true => Ok(ProxyScan::Need),
            false => Err(BadProxyHeader("a line without an end")),
        };
    };
    let line = bytes.get(..end).unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| BadProxyHeader("not text"))?;
    let origin = origin_of(text.get(TEXT.len()..).unwrap_or_default())?;
    Ok(ProxyScan::Header { used: end + 2, origin })
}

fn origin_of(text: &str) -> Result<ProxyOrigin, BadProxyHeader> {
    let mut words = text.split(' ');
    let v6 = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => return Ok(ProxyOrigin::Itself),
        Some("TCP4") => false,
        Some("TCP6") => true,
        _ => return Err(BadProxyHeader("neither TCP4, TCP6 nor UNKNOWN")),
    };
    let [client, server] = [words.next(), words.next()].map(|word| address(word, v6));
    let [client_port, server_port] = [words.next(), words.next()].map(port);
    if words.next().is_some() {
        return Err(BadProxyHeader("more words than a header has"));
    }
    Ok(ProxyOrigin::Client {
        client: SocketAddr::new(client?, client_port?),
        server: SocketAddr::new(server?, server_port?),
    })
}

fn address(word: Option<&str>, v6: bool) -> Result<IpAddr, BadProxyHeader> {
    let word = word.unwrap_or_default();
    let read = match v6 {
        true => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        false => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    Ok(read.ok_or(BadProxyHeader("not an address of its family"))?.to_canonical())
}

fn port(word: Option<&str>) -> Result<u16, BadProxyHeader> {
    let word = word.unwrap_or_default();
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain).ok_or(BadProxyHeader("not a port"))
}

fn line(origin: &ProxyOrigin) -> String {
    let ProxyOrigin::Client { client, server } = origin else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let (client_ip, server_ip, family) = match pair(client.ip(), server.ip()) {
        Pair::V4(client, server) => (client.to_string(), server.to_string(), "TCP4"),
        Pair::V6(client, server) => (client.to_string(), server.to_string(), "TCP6"),
    };
    format!("PROXY {family} {client_ip} {server_ip} {} {}\r\n", client.port(), server.port())
}

// ---- Version 2 -----------------------------------------------------------------------------

fn scan_block(bytes: &[u8]) -> Result<ProxyScan, BadProxyHeader> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else {
        return Ok(ProxyScan::Need);
    };
    let [.., command, family, high, low] = fixed else { return Ok(ProxyScan::Need) };
    if command & 0xf0 != VERSION_2 {
        return Err(BadProxyHeader("an unknown version"));
    }
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let used = FIXED_BYTES + len;
    if used > PROXY_HEADER_BYTES_MAX {
        return Err(BadProxyHeader("longer than any header needs to be"));
    }
    let Some(body) = rest.get(..len) else { return Ok(ProxyScan::Need) };
    let origin = match command & 0x0f {
        // Whatever its addresses are, they are to be ignored.
        LOCAL => ProxyOrigin::Itself,
        PROXY => told(*family, body)?,
        _ => return Err(BadProxyHeader("an unknown command")),
    };
    Ok(ProxyScan::Header { used, origin })
}

fn told(family: u8, body: &[u8]) -> Result<ProxyOrigin, BadProxyHeader> {
    let short = BadProxyHeader("shorter than its addresses");
    let len = match family >> 4 {
        UNSPEC => return Ok(ProxyOrigin::Itself),
        INET => INET_BYTES,
        INET6 => INET6_BYTES,
        UNIX => UNIX_BYTES,
        _ => return Err(BadProxyHeader("an unknown family of addresses")),
    };
    if family & 0x0f != STREAM {
        return Err(BadProxyHeader("not a stream"));
    }
    let (addresses, fields) = body.split_at_checked(len).ok_or(short)?;
    skip_fields(fields)?;
    let (client, server) = match family >> 4 {
        INET => both::<4>(addresses).map(|(one, other)| (IpAddr::from(one), IpAddr::from(other))),
        INET6 => both::<16>(addresses).map(|(one, other)| (IpAddr::from(one), IpAddr::from(other))),
        _ => return Ok(ProxyOrigin::Itself),
    }
    .ok_or(short)?;
    let [.., a, b, c, d] = addresses else { return Err(short) };
    let [client_port, server_port] = [[*a, *b], [*c, *d]].map(u16::from_be_bytes);
    Ok(ProxyOrigin::Client {
        client: SocketAddr::new(client.to_canonical(), client_port),
        server: SocketAddr::new(server.to_canonical(), server_port),
    })
}

fn both<const N: usize>(bytes: &[u8]) -> Option<([u8; N], [u8; N])> {
    let (one, rest) = bytes.split_first_chunk::<N>()?;
    Some((*one, *rest.first_chunk::<N>()?))
}

/// Whatever else the proxy tells (§2.2.3 and following): a type, a length of two bytes, a value.
/// None of it concerns us, but it has to end where the header does.
fn skip_fields(mut bytes: &[u8]) -> Result<(), BadProxyHeader> {
    while !bytes.is_empty() {
        let cut = BadProxyHeader("a field that goes past its end");
        let ([_, high, low], rest) = bytes.split_first_chunk::<3>().ok_or(cut)?;
        bytes = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).ok_or(cut)?;
    }
    Ok(())
}

fn block(origin: &ProxyOrigin) -> Vec<u8> {
    let mut out = BINARY.to_vec();
    let ProxyOrigin::Client { client, server } = origin else {
        out.extend([VERSION_2 | LOCAL, UNSPEC << 4, 0, 0]);
        return out;
    };
    out.push(VERSION_2 | PROXY);
    match pair(client.ip(), server.ip()) {
        Pair::V4(client, server) => {
            out.extend([INET << 4 | STREAM, 0, INET_BYTES as u8]);
            out.extend(client.octets());
            out.extend(server.octets());
        }
        Pair::V6(client, server) => {
            out.extend([INET6 << 4 | STREAM, 0, INET6_BYTES as u8]);
            out.extend(client.octets());
            out.extend(server.octets());
        }
    }
    out.extend(client.port().to_be_bytes());
    out.extend(server.port().to_be_bytes());
    out
}

/// Two addresses of one family.
enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

fn pair(client: IpAddr, server: IpAddr) -> Pair {
    let six = |address| match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address),
        IpAddr::V6(address) => address,
    };
    match (client.to_canonical(), server.to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => Pair::V4(client, server),
        (client, server) => Pair::V6(six(client), six(server)),
    }
}

impl fmt::Display for ProxyVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ProxyVersion::One => "1",
            ProxyVersion::Two => "2",
        })
    }
}

const _: () = assert!(PROXY_HEADER_BYTES_MAX > FIXED_BYTES + UNIX_BYTES + LINE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(bytes: &[u8]) -> Option<ProxyOrigin> {
        match scan(bytes) {
            Ok(ProxyScan::Header { used, origin }) if used == bytes.len() => Some(origin),
            _ => None,
        }
    }

    fn client(client: &str, server: &str) -> ProxyOrigin {
        let [client, server] = [client, server].map(|text| text.parse().expect("an address"));
        ProxyOrigin::Client { client, server }
    }

    /// Version 2 with these last bytes of its fixed part, and a body of a true length.
    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = BINARY.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn lines_of_the_specification() {
        for (text, origin) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.2 65535 443",
                client("192.0.2.1:65535", "198.51.100.2:443"),
            ),
            ("PROXY TCP6 2001:db8::1 ::1 0 22", client("[2001:db8::1]:0", "[::1]:22")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2", client("192.0.2.1:1", "[::1]:2")),
            ("PROXY UNKNOWN", ProxyOrigin::Itself),
            ("PROXY UNKNOWN ffff::1 ::1 65535 65535", ProxyOrigin::Itself),
        ] {
            assert_eq!(header(format!("{text}\r\n").as_bytes()), Some(origin), "{text}");
        }
        for text in [
            "PROXY ",
            "PROXY TCP4",
            "PROXY TCP5 1.1.1.1 1.1.1.1 1 1",
            "PROXY tcp4 1.1.1.1 1.1.1.1 1 1",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 ",
            "PROXY TCP4  1.1.1.1 1.1.1.1 1 1",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 65536",
            "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1",
            "PROXY TCP4 1.1.1.1 1.1.1.1 01 1",
            "PROXY TCP4 01.1.1.1 1.1.1.1 1 1",
            "PROXY TCP4 ::1 ::1 1 1",
            "PROXY TCP6 1.1.1.1 1.1.1.1 1 1",
            "PROXY TCP6 fe80::1%eth0 ::1 1 1",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
        ] {
            assert!(scan(format!("{text}\r\n").as_bytes()).is_err(), "{text}");
        }
        assert!(scan(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()).is_err(), "no end");
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        for text in ["SSH-2.0-x\r\n", "PROXYTCP4", "\r\n\r\n\r\n", "GET / HTTP/1.1", "x"] {
            assert_eq!(scan(text.as_bytes()), Ok(ProxyScan::Absent), "{text}");
        }
        for text in ["", "P", "PROXY ", "\r\n", "\r\n\r\n\0\r\nQUIT\n"] {
            assert_eq!(scan(text.as_bytes()), Ok(ProxyScan::Need), "{text:?}");
        }
    }

    #[test]
    fn blocks_of_every_family() {
        let four = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0, 22];
        let told = Some(client("192.0.2.1:4660", "198.51.100.2:22"));
        assert_eq!(header(&binary(0x21, 0x11, &four)), told);
        // Fields that nobody asked for are skipped.
        let fields = [&four[..], &[4, 0, 0], &[0xee, 0, 2, 9, 9]].concat();
        assert_eq!(header(&binary(0x21, 0x11, &fields)), told);
        for itself in [
            binary(0x20, 0x00, &[]),
            binary(0x20, 0x11, &four),
            // Nobody reads what a proxy that speaks for itself says.
            binary(0x20, 0xff, &[1, 2, 3]),
            binary(0x21, 0x00, &[7; 40]),
            binary(0x21, 0x31, &[b'/'; 216]),
        ] {
            assert_eq!(header(&itself), Some(ProxyOrigin::Itself), "{itself:02x?}");
        }
        for bad in [
            binary(0x11, 0x11, &four),
            binary(0x31, 0x11, &four),
            binary(0x22, 0x11, &four),
            binary(0x21, 0x41, &four),
            binary(0x21, 0x12, &four),
            binary(0x21, 0x10, &four),
            binary(0x21, 0x11, &four[..11]),
            binary(0x21, 0x21, &four),
            binary(0x21, 0x31, &[0; 215]),
            binary(0x21, 0x11, &[&four[..], &[4, 0]].concat()),
            binary(0x21, 0x11, &[&four[..], &[4, 0, 1]].concat()),
            binary(0x21, 0x11, &[&four[..], &[4, 0xff, 0xff, 0]].concat()),
            binary(0x20, 0x00, &[0; PROXY_HEADER_BYTES_MAX]),
        ] {
            assert!(scan(&bad).is_err(), "{bad:02x?}");
        }
    }

    /// A length that lies is not waited for.
    #[test]
    fn long_headers_are_refused_by_their_length() {
        let mut bytes = binary(0x21, 0x11, &[]);
        bytes[14..].copy_from_slice(&[0xff, 0xff]);
        assert!(scan(&bytes).is_err());
    }

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        let four = any::<[u8; 4]>().prop_map(IpAddr::from);
        let six = any::<[u8; 16]>().prop_map(|bytes| IpAddr::from(bytes).to_canonical());
        (prop_oneof![four, six], any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(client in addresses(), server in addresses(), more: Vec<u8>) {
            let origin = ProxyOrigin::Client { client, server };
            for version in [ProxyVersion::One, ProxyVersion::Two] {
                let bytes = encode(version, &origin);
                prop_assert_eq!(header(&bytes), Some(origin));
                let used = bytes.len();
                let longer = [&bytes[..], &more].concat();
                prop_assert_eq!(scan(&longer), Ok(ProxyScan::Header { used, origin }));
                for cut in 0..used {
                    prop_assert_eq!(scan(&bytes[..cut]), Ok(ProxyScan::Need));
                }
                let itself = encode(version, &ProxyOrigin::Itself);
                prop_assert_eq!(header(&itself), Some(ProxyOrigin::Itself));
            }
        }

        /// Once something is told, more bytes change nothing of it.
        #[test]
        fn verdicts_are_final(bytes in proptest::collection::vec(any::<u8>(), 0..300), which in 0..3) {
            let front: &[u8] = [&b""[..], TEXT, BINARY][which as usize];
            let all = [front, &bytes].concat();
            let mut earlier = Ok(ProxyScan::Need);
            for len in 0..=all.len() {
                let now = scan(&all[..len]);
                if earlier != Ok(ProxyScan::Need) {
                    prop_assert_eq!(now, earlier);
                }
                earlier = now;
            }
        }
    }
}
