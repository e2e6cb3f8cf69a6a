use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::Target;
use super::display::DisplayRules;
use crate::base::wildcard_match;
use crate::limits::PERMITS_MAX;
use crate::services::Place;
use crate::wire::Reader;

/// What stands for any host in a [`Permit`].
const ANY: &str = "*";

/// What a login may have forwarded: its settings and its key's options taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// AllowTcpForwarding.
    pub tcp: Ways,
    /// AllowStreamLocalForwarding, and AllowTcpForwarding too.
    pub streamlocal: Ways,
    /// PermitOpen.
    pub open: Permits,
    /// The key's `permitopen`.
    pub key_open: Permits,
    /// PermitListen.
    pub listen: Permits,
    /// The key's `permitlisten`.
    pub key_listen: Permits,
    pub gateway_ports: GatewayPorts,
    /// AddressFamily: connections are made and taken over IPv4, over IPv6.
    pub inet: bool,
    pub inet6: bool,
    /// StreamLocalBindMask.
    pub bind_mask: u32,
    /// StreamLocalBindUnlink: a socket that is in the way is removed first.
    pub bind_unlink: bool,
    pub agent: bool,
    pub x11: bool,
    pub display: DisplayRules,
}

impl Forwarding {
    /// A login that has only a part of the file system gets no sockets outside of it: where its process
    /// is not in there itself none at all, and the X server's helpers are never in there.
    pub fn keep_to(&mut self, place: &Place) {
        self.x11 &= place.is_system();
        if place.is_files() {
            (self.streamlocal, self.agent) = (Ways::NONE, false);
        }
    }

    /// Nothing at all.
    pub const fn forbid(&mut self) {
        (self.tcp, self.streamlocal) = (Ways::NONE, Ways::NONE);
        (self.agent, self.x11) = (false, false);
    }
}

impl Default for Forwarding {
    fn default() -> Forwarding {
        Forwarding {
            tcp: Ways::BOTH,
            streamlocal: Ways::BOTH,
            open: Permits::ANY,
            key_open: Permits::ANY,
            listen: Permits::ANY,
            key_listen: Permits::ANY,
            gateway_ports: GatewayPorts::No,
            inet: true,
            inet6: true,
            bind_mask: BIND_MASK,
            bind_unlink: false,
            agent: true,
            x11: true,
            display: DisplayRules::default(),
        }
    }
}

/// StreamLocalBindMask unless set: sockets are their owner's alone.
pub const BIND_MASK: u32 = 0o177;

/// Where what listens for clients can be reached from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayPorts {
    /// From here alone.
    No,
    /// From everywhere.
    Yes,
    /// From where the client says.
    ClientSpecified,
}

impl GatewayPorts {
    pub const NAMES: [(&'static str, GatewayPorts); 3] = [
        ("no", GatewayPorts::No),
        ("yes", GatewayPorts::Yes),
        ("clientspecified", GatewayPorts::ClientSpecified),
    ];
}

/// Which way forwarded connections may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// From the client to elsewhere.
    pub local: bool,
    /// From here to the client.
    pub remote: bool,
}

impl Ways {
    pub const BOTH: Ways = Ways { local: true, remote: true };
    pub const LOCAL: Ways = Ways { local: true, remote: false };
    pub const REMOTE: Ways = Ways { local: false, remote: true };
    pub const NONE: Ways = Ways { local: false, remote: false };

    /// As PermitOpen's neighbours in sshd_config name them.
    pub const NAMES: [(&'static str, Ways); 5] = [
        ("yes", Ways::BOTH),
        ("all", Ways::BOTH),
        ("no", Ways::NONE),
        ("local", Ways::LOCAL),
        ("remote", Ways::REMOTE),
    ];

    /// Nothing, unless `permitted`.
    #[must_use]
    pub const fn only_if(self, permitted: bool) -> Ways {
        if permitted { self } else { Ways::NONE }
    }

    /// The ways that both permit.
    #[must_use]
    pub const fn and(self, other: Ways) -> Ways {
        Ways { local: self.local && other.local, remote: self.remote && other.remote }
    }
}

/// A list of places; `None` permits all of them, an empty one none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permits(pub Option<Vec<Permit>>);

/// What the addresses behind a name are judged by, where PermitOpen or the key names places.
#[derive(Debug)]
pub(super) struct Lists {
    port: u16,
    open: Permits,
    key_open: Permits,
}

impl Lists {
    /// `None`: whatever is found will do.
    pub fn about(target: &Target, rules: &Forwarding) -> Option<Box<Lists>> {
        let Target::Tcp { host, port } = target else { return None };
        let Forwarding { open, key_open, .. } = rules;
        let listed = open.0.is_some() || key_open.0.is_some();
        if !listed || is_address(host) || is_of_here(host) {
            return None;
        }
        let (open, key_open) = (open.clone(), key_open.clone());
        let port = u16::try_from(*port).ok()?;
        Some(Box::new(Lists { port, open, key_open }))
    }

    /// Whether the name may lead there: to anywhere but this machine and its neighbours, and there if
    /// the address is listed too.
    pub fn permit(&self, address: IpAddr) -> bool {
        let text = address.to_canonical().to_string();
        let lists = [&self.open, &self.key_open];
        !is_near(address) || lists.iter().all(|list| list.permits(&text, self.port))
    }
}

/// An address is compared with what is listed as it stands; one of a link with its zone.
fn is_address(host: &str) -> bool {
    let of_a_zone = host.split_once('%').map(|(address, _)| address.parse::<Ipv6Addr>());
    host.parse::<IpAddr>().is_ok() || matches!(of_a_zone, Some(Ok(_)))
}

/// Names that are meant to lead to this machine.
fn is_of_here(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let localhost =
        host.rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case("localhost"));
    let own = || nix::unistd::gethostname().is_ok_and(|own| own.eq_ignore_ascii_case(host));
    localhost || own()
}

/// Loopback, unspecified (which leads to this machine) and link-local addresses, of either family.
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.octets()[0] == 0 || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local(),
    }
}

/// A place that may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// A name or an address, or `*` for all of them.
    host: String,
    /// `None`: any.
    port: Option<u16>,
}

impl Permits {
    pub const ANY: Permits = Permits(None);
    pub const NONE: Permits = Permits(Some(Vec::new()));

    /// Whether a connection to this host, as the client wrote it, is permitted.
    ///
    /// As in sshd, names are compared and never looked up for this: a name that is not listed is
    /// refused wherever it may lead, and one that is leads where the system says. Addresses are
    /// compared as such, so an IPv4 address written as an IPv6 one is the same.
    pub fn permits(&self, host: &str, port: u16) -> bool {
        self.any(|permit| permit.port.is_none_or(|own| own == port) && permit.names(host))
    }

    /// Whether a connection to the socket at this path is permitted: by an item for any port only.
    pub fn permits_path(&self, path: &[u8]) -> bool {
        self.any(|permit| {
            permit.port.is_none() && (permit.host == ANY || permit.host.as_bytes() == path)
        })
    }

    /// Whether listening at this address, as the client wrote it, is permitted. Hosts are patterns
    /// here (sshd_config(5)); a port that is ours to choose is in no item but one for any port.
    pub fn permits_listening(&self, address: &str, port: u16) -> bool {
        let address = address.to_ascii_lowercase();
        let names = |permit: &Permit| wildcard_match(permit.host.as_bytes(), address.as_bytes());
        self.any(|permit| permit.port.is_none_or(|own| own == port) && names(permit))
    }

    fn any(&self, test: impl Fn(&Permit) -> bool) -> bool {
        self.0.as_ref().is_none_or(|list| list.iter().any(test))
    }

    pub(in crate::services) fn encode(&self, put: &mut impl FnMut(&[u8])) {
        let list = self.0.as_deref().unwrap_or_default();
        put(&[u8::from(self.0.is_some())]);
        put(&(list.len() as u32).to_be_bytes());
        for permit in list {
            put(permit.host.as_bytes());
            put(&permit.port.unwrap_or_default().to_be_bytes());
        }
    }

    pub(in crate::services) fn decode(r: &mut Reader<'_>) -> Option<Permits> {
        let some = r.string(1).ok()? == [1];
        let count = u32::from_be_bytes(r.string(4).ok()?.try_into().ok()?);
        let mut list = Vec::new();
        for _ in 0..Some(count as usize).filter(|count| *count <= PERMITS_MAX)? {
            let host = r.utf8(u32::from(u16::MAX)).ok()?.to_owned();
            let port = u16::from_be_bytes(r.string(2).ok()?.try_into().ok()?);
            list.push(Permit { host, port: Some(port).filter(|port| *port > 0) });
        }
        (some || list.is_empty()).then_some(Permits(some.then_some(list)))
    }
}

impl Permit {
    /// `host:port`, `address:port` or `[address]:port`, where host and port may be `*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Permit, &'static str> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or("no ]:port behind the address")?,
            None => text.rsplit_once(':').ok_or("no :port behind the host")?,
        };
        if !text.starts_with('[') && host.contains(':') && !host.starts_with('/') {
            return Err("an IPv6 address is written [address]:port");
        }
        if host.is_empty() || host.contains(['\0', '[', ']']) {
            return Err("neither a host nor an address");
        }
        let port = match port {
            ANY => None,
            digits if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                let port = digits.parse().ok().filter(|port| *port > 0);
                Some(port.ok_or("not a port: 1 to 65535, or *")?)
            }
            _ => return Err("not a port: 1 to 65535, or *"),
        };
        Ok(Permit { host: host.to_owned(), port })
    }

    /// What may be listened at: as [`Permit::parse`], or a port alone for every address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_listen(text: &str) -> Result<Permit, &'static str> {
        match text.contains(':') {
            true => Permit::parse(text),
            false => Permit::parse(&format!("{ANY}:{text}")),
        }
    }

    fn names(&self, host: &str) -> bool {
        if self.host == ANY || self.host.eq_ignore_ascii_case(host) {
            return true;
        }
        let address = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        address(host).is_some_and(|asked| address(&self.host) == Some(asked))
    }
}

impl fmt::Display for Permit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:", self.host)?,
            false => write!(out, "{}:", self.host)?,
        }
        match self.port {
            Some(port) => write!(out, "{port}"),
            None => out.write_str(ANY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(list: &[&str]) -> Permits {
        Permits(Some(list.iter().map(|text| Permit::parse(text).expect(text)).collect()))
    }

    #[test]
    fn names_and_addresses_are_taken_as_they_are_written() {
        for (list, host, port, permitted) in [
            (&["10.0.0.1:80"][..], "10.0.0.1", 80, true),
            (&["10.0.0.1:80"], "10.0.0.1", 81, false),
            (&["10.0.0.1:80"], "10.0.0.2", 80, false),
            (&["10.0.0.1:*"], "10.0.0.1", 9, true),
            (&["*:80"], "anything", 80, true),
            (&["*:80"], "anything", 81, false),
            (&["db.example:5432"], "DB.example", 5432, true),
            // A name is not listed by the address it leads to, nor an address by its name.
            (&["127.0.0.1:80"], "localhost", 80, false),
            (&["localhost:80"], "127.0.0.1", 80, false),
            (&["db.example:80"], "db.example.", 80, false),
            // One address in another family's clothes is the same address.
            (&["127.0.0.1:80"], "::ffff:127.0.0.1", 80, true),
            (&["127.0.0.1:80"], "::ffff:7f00:1", 80, true),
            (&["127.0.0.1:80"], "::ffff:127.0.0.2", 80, false),
            (&["[::1]:80"], "0:0:0:0:0:0:0:1", 80, true),
            (&["[::1]:80"], "::", 80, false),
            // What other programs read as 127.0.0.1.
            (&["127.0.0.1:80"], "2130706433", 80, false),
            (&["127.0.0.1:80"], "0x7f000001", 80, false),
            (&["127.0.0.1:80"], "0177.0.0.1", 80, false),
            (&["127.0.0.1:80"], "127.1", 80, false),
            (&["127.0.0.1:80"], "0.0.0.0", 80, false),
            (&["127.0.0.1:80"], "", 80, false),
            // Link-local addresses are listed like others, zone and all.
            (&["127.0.0.1:80"], "169.254.169.254", 80, false),
            (&["[fe80::1%eth0]:80"], "fe80::1%eth0", 80, true),
            (&["[fe80::1]:80"], "fe80::1%eth1", 80, false),
            (&[], "10.0.0.1", 80, false),
        ] {
            assert_eq!(permits(list).permits(host, port), permitted, "{list:?} {host} {port}");
        }
        assert!(Permits::ANY.permits("anything", 1));
    }

    /// SECURITY case 98: whoever answers for a name that is listed cannot make it lead here.
    #[test]
    fn case_98_names_that_lead_home_are_judged_by_their_address() {
        let lists = |host: &str, items: &[&str]| {
            let rules = Forwarding { open: permits(items), ..Forwarding::default() };
            Lists::about(&Target::Tcp { host: host.into(), port: 80 }, &rules)
        };
        let leads = |items: &[&str], address: &str| {
            let lists = lists("db.example", items).expect("there is a list");
            lists.permit(address.parse().expect("an address"))
        };
        let near = [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
        ];
        for address in near {
            assert!(!leads(&["db.example:80"], address), "{address}");
            assert!(!leads(&["db.example:80", "127.0.0.2:80", "[::2]:80"], address), "{address}");
            assert!(leads(&["db.example:80", "*:80"], address), "{address}");
            let listed = format!("[{address}]:80");
            assert!(leads(&["db.example:80", &listed], address), "{address}");
        }
        for address in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(leads(&["db.example:80"], address), "{address}");
        }
        // Both lists count.
        let key_open = permits(&["db.example:80"]);
        let open = permits(&["db.example:80", "127.0.0.1:80"]);
        let rules = Forwarding { open, key_open, ..Forwarding::default() };
        let target = Target::Tcp { host: "db.example".into(), port: 80 };
        let both = Lists::about(&target, &rules).expect("there are lists");
        assert!(!both.permit("127.0.0.1".parse().expect("an address")));
        // What means this machine may lead to it, and without lists everything goes.
        for host in ["localhost", "LOCALHOST.", "x.localhost", "127.0.0.1", "::1"] {
            assert!(lists(host, &["localhost:80"]).is_none(), "{host}");
        }
        // Addresses of a link are listed as they are asked for; a name with a zone is a name.
        assert!(lists("fe80::1%eth0", &["[fe80::1%eth0]:80"]).is_none());
        assert!(lists("db.example%eth0", &["db.example%eth0:80"]).is_some());
        assert!(Lists::about(&target, &Forwarding::default()).is_none());
    }

    #[test]
    fn paths_are_permitted_by_items_for_any_port() {
        assert!(Permits::ANY.permits_path(b"/run/x"));
        assert!(permits(&["*:*"]).permits_path(b"/run/x"));
        assert!(permits(&["/run/x:*"]).permits_path(b"/run/x"));
        for list in [&["*:80"][..], &["/run/x:1"], &["/run/y:*"], &["localhost:*"], &[]] {
            assert!(!permits(list).permits_path(b"/run/x"), "{list:?}");
        }
    }

    #[test]
    fn addresses_to_listen_at_are_patterns() {
        let permits = |list: &[&str]| {
            let items = list.iter().map(|text| Permit::parse_listen(text).expect(text));
            Permits(Some(items.collect()))
        };
        for (list, address, port, permitted) in [
            (&["8080"][..], "localhost", 8080, true),
            (&["8080"], "", 8080, true),
            (&["8080"], "localhost", 8081, false),
            (&["8080"], "localhost", 0, false),
            (&["*"], "localhost", 0, true),
            (&["localhost:8080"], "LocalHost", 8080, true),
            (&["localhost:8080"], "127.0.0.1", 8080, false),
            (&["127.0.0.*:8080"], "127.0.0.1", 8080, true),
            (&["[::1]:*"], "::1", 9, true),
            (&[], "localhost", 8080, false),
        ] {
            let found = permits(list).permits_listening(address, port);
            assert_eq!(found, permitted, "{list:?} {address} {port}");
        }
        for text in ["", "x", "0", "65536", "h:", "::1"] {
            assert!(Permit::parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn items_are_read_or_refused() {
        for text in ["10.0.0.1:80", "*:*", "[::1]:22", "h:*", "[fe80::1%eth0]:1"] {
            assert_eq!(Permit::parse(text).expect(text).to_string(), text);
        }
        for text in
            ["", "h", "h:", ":80", "h:0", "h:65536", "h:+1", "::1:80", "[::1]", "[::1]80", "h:x"]
        {
            assert!(Permit::parse(text).is_err(), "{text}");
        }
    }
}
