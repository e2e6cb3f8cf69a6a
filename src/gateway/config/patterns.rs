//! Pattern lists of ssh_config(5) PATTERNS: wildcards, `!` negation, addresses with mask length.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::base::wildcard_match;

/// What a list says about a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No pattern matches.
    Silent,
    Matches,
    /// A negated pattern matches; that outweighs every other one.
    Denied,
}

/// Comma-separated name patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameList {
    items: Vec<(bool, String)>,
}

impl NameList {
    /// `None` when an item is empty: such a list is always a slip of the pen.
    pub fn new(text: &str) -> Option<NameList> {
        let items = text.split(',').map(negation).collect::<Vec<_>>();
        let hollow = items.iter().any(|(_, pattern)| pattern.is_empty());
        (!hollow).then(|| NameList {
            items: items.into_iter().map(|(negated, p)| (negated, p.to_owned())).collect(),
        })
    }

    pub fn verdict(&self, text: &str) -> Verdict {
        verdict(&self.items, |p| wildcard_match(p.as_bytes(), text.as_bytes()))
    }
}

impl fmt::Display for NameList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_items(&self.items, out)
    }
}

/// Comma-separated addresses: `192.0.2.0/24`, `2001:db8::1`, `192.0.2.*`, or a host name pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostList {
    items: Vec<(bool, HostPattern)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Net(IpNet),
    /// Lower case; matched against the address as text and against the host's name.
    Name(String),
}

/// Why a [`HostList`] was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct BadHost {
    pub item: String,
    pub problem: &'static str,
}

impl HostList {
    /// At most this many patterns: a list is walked for every connection.
    const ITEMS_MAX: usize = 1024;

    pub fn new(text: &str) -> Result<HostList, BadHost> {
        let mut items = Vec::new();
        for (negated, item) in text.split(',').map(negation) {
            let bad = |problem| BadHost { item: item.to_owned(), problem };
            if items.len() == HostList::ITEMS_MAX {
                return Err(bad("more than 1024 patterns in one list"));
            }
            items.push((negated, host_pattern(item).map_err(bad)?));
        }
        Ok(HostList { items })
    }

    /// No item is the pattern of a name.
    pub fn is_of_addresses(&self) -> bool {
        self.items.iter().all(|(_, pattern)| matches!(pattern, HostPattern::Net(_)))
    }

    /// `host` is the peer's name when one is known; an IPv4 address that arrived mapped into IPv6
    /// is judged as IPv4.
    pub fn verdict(&self, address: IpAddr, host: Option<&str>) -> Verdict {
        let address = address.to_canonical();
        let texts = [Some(address.to_string()), host.map(str::to_ascii_lowercase)];
        verdict(&self.items, |pattern| match pattern {
            HostPattern::Net(net) => net.contains(&address),
            HostPattern::Name(pattern) => texts
                .iter()
                .flatten()
                .any(|text| wildcard_match(pattern.as_bytes(), text.as_bytes())),
        })
    }
}

impl fmt::Display for HostList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_items(&self.items, out)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Net(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(out, "{}", net.addr())
            }
            HostPattern::Net(net) => write!(out, "{net}"),
            HostPattern::Name(name) => out.write_str(name),
        }
    }
}

/// One item of AllowUsers or DenyUsers: a user pattern, and where from when an `@` follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPattern {
    user: String,
    hosts: Option<HostList>,
}

impl UserPattern {
    pub fn new(text: &str) -> Result<UserPattern, BadHost> {
        let (user, hosts) = match text.rsplit_once('@') {
            Some((user, hosts)) => (user, Some(HostList::new(hosts)?)),
            None => (text, None),
        };
        Ok(UserPattern { user: user.to_owned(), hosts })
    }

    /// `host` is the peer's name when one is known.
    pub fn matches(&self, user: &str, address: IpAddr, host: Option<&str>) -> bool {
        wildcard_match(self.user.as_bytes(), user.as_bytes())
            && self.hosts.as_ref().is_none_or(|h| h.verdict(address, host) == Verdict::Matches)
    }
}

impl fmt::Display for UserPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Some(hosts) => write!(out, "{}@{hosts}", self.user),
            None => out.write_str(&self.user),
        }
    }
}

fn negation(item: &str) -> (bool, &str) {
    match item.strip_prefix('!') {
        Some(pattern) => (true, pattern),
        None => (false, item),
    }
}

fn verdict<T>(items: &[(bool, T)], matches: impl Fn(&T) -> bool) -> Verdict {
    let mut verdict = Verdict::Silent;
    for (negated, item) in items {
        if matches(item) {
            if *negated {
                return Verdict::Denied;
            }
            verdict = Verdict::Matches;
        }
    }
    verdict
}

fn host_pattern(item: &str) -> Result<HostPattern, &'static str> {
    if item.is_empty() {
        return Err("an empty pattern");
    }
    if let Ok(address) = item.parse::<IpAddr>() {
        return Ok(HostPattern::Net(IpNet::from(address.to_canonical())));
    }
    if item.contains('/') {
        let net: IpNet =
            item.parse().map_err(|_| "neither an address with a mask length nor a name")?;
        if net.addr() != net.network() {
            return Err("the address has bits set beyond its mask length");
        }
        return Ok(HostPattern::Net(net));
    }
    Ok(HostPattern::Name(item.to_ascii_lowercase()))
}

fn write_items<T: fmt::Display>(items: &[(bool, T)], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, (negated, item)) in items.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let mark = if *negated { "!" } else { "" };
        write!(out, "{comma}{mark}{item}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str, text: &str) -> Verdict {
        NameList::new(list).expect("a list").verdict(text)
    }

    fn hosts(list: &str, address: &str) -> Verdict {
        HostList::new(list).expect("a list").verdict(address.parse().expect("an address"), None)
    }

    #[test]
    fn a_negated_match_wins_wherever_it_stands() {
        assert_eq!(names("a,b*", "bob"), Verdict::Matches);
        assert_eq!(names("*,!bob", "bob"), Verdict::Denied);
        assert_eq!(names("!bob,*", "bob"), Verdict::Denied);
        assert_eq!(names("!bob", "anna"), Verdict::Silent);
        assert_eq!(NameList::new("a,,b"), None);
        assert_eq!(NameList::new(""), None);
        assert_eq!(NameList::new("!"), None);
    }

    #[test]
    fn addresses_by_mask_wildcard_and_name() {
        assert_eq!(hosts("192.0.2.0/24", "192.0.2.7"), Verdict::Matches);
        assert_eq!(hosts("192.0.2.0/24,!192.0.2.7", "192.0.2.7"), Verdict::Denied);
        assert_eq!(hosts("192.0.2.0/24", "::ffff:192.0.2.7"), Verdict::Matches);
        assert_eq!(hosts("192.0.2.*", "192.0.2.7"), Verdict::Matches);
        assert_eq!(hosts("2001:db8::/32", "2001:db8::1"), Verdict::Matches);
        assert_eq!(hosts("::1", "127.0.0.1"), Verdict::Silent);
        let list = HostList::new("*.Example.org").expect("a list");
        let address = "192.0.2.7".parse().expect("an address");
        assert_eq!(list.verdict(address, Some("A.example.ORG")), Verdict::Matches);
        assert_eq!(list.verdict(address, None), Verdict::Silent);
    }

    #[test]
    fn slips_in_host_lists_are_errors() {
        for bad in ["", "192.0.2.0/8", "192.0.2.0/33", "2001:db8::1/32", "a,,b", "x/24", "!"] {
            assert!(HostList::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn user_at_host() {
        let from = "192.0.2.7".parse().expect("an address");
        let matches =
            |p: &str, user| UserPattern::new(p).expect("a pattern").matches(user, from, None);
        assert!(matches("an*", "anna"));
        assert!(matches("anna@192.0.2.0/24", "anna"));
        assert!(!matches("anna@!192.0.2.7,192.0.2.0/24", "anna"));
        assert!(!matches("anna@198.51.100.1", "anna"));
        assert!(!matches("bob@192.0.2.7", "anna"));
        assert!(matches("a@b@192.0.2.7", "a@b"));
    }

    #[test]
    fn lists_print_as_they_were_written() {
        for text in ["a,!b,c*", "!x"] {
            assert_eq!(NameList::new(text).expect("a list").to_string(), text);
        }
        let text = "192.0.2.0/24,!192.0.2.7,2001:db8::/32,*.example.org";
        assert_eq!(HostList::new(text).expect("a list").to_string(), text);
        for text in ["anna", "anna@10.0.0.0/8,!10.1.0.0/16"] {
            assert_eq!(UserPattern::new(text).expect("a pattern").to_string(), text);
        }
    }
}
