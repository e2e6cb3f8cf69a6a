//! Match: which block applies to whom.

use std::net::{IpAddr, SocketAddr};

use super::diagnostic::{Surroundings, Wrong, did_you_mean};
use super::honour::bad_host;
use super::patterns::{HostList, NameList, Verdict};
use super::values::port;

/// Whom a connection belongs to, as far as it is known. A criterion about something unknown does
/// not match.
#[derive(Clone, Copy, Debug, Default)]
pub struct Who<'a> {
    pub user: Option<&'a str>,
    /// The account of that name exists.
    pub account: Option<bool>,
    pub groups: &'a [String],
    pub peer: Option<IpAddr>,
    /// The peer's name; without look-ups its address as text.
    pub host: Option<&'a str>,
    pub local: Option<SocketAddr>,
    /// The routing domain of the connection.
    pub rdomain: Option<&'a str>,
}

/// All criteria of one Match line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    criteria: Vec<Criterion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Criterion {
    User(NameList),
    Group(NameList),
    /// Lower case.
    Host(NameList),
    Address(HostList),
    LocalAddress(HostList),
    LocalPort(Vec<u16>),
    RDomain(NameList),
    Version(NameList),
    /// The account does not exist.
    InvalidUser,
    /// A line that was in error; its block must apply to nobody.
    Never,
}

/// Criteria that take a value.
const WITH_VALUE: [&str; 8] =
    ["User", "Group", "Host", "Address", "LocalAddress", "LocalPort", "RDomain", "Version"];
/// Criteria that are refused, and why.
const REFUSED: [(&str, &str); 2] = [
    ("SessionType", "it is a criterion of ssh_config, not of sshd_config"),
    ("Command", "it is a criterion of ssh_config, not of sshd_config"),
];
const ALL_ALONE: &str = "all stands alone, without other criteria";
/// What Version is matched against, as sshd matches its own release.
const VERSION: &str = concat!("Tidegate_", env!("CARGO_PKG_VERSION"));

impl Condition {
    /// Matches everybody.
    pub const ALL: Condition = Condition { criteria: Vec::new() };

    pub fn never() -> Condition {
        Condition { criteria: vec![Criterion::Never] }
    }

    /// Reads the words behind Match.
    pub fn new(words: &[String], surroundings: &Surroundings) -> Result<Condition, Wrong> {
        let mut criteria = Vec::new();
        let mut all = false;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.as_str(), None),
            };
            if name.eq_ignore_ascii_case("all") && attached.is_none() {
                if all {
                    return Err(Wrong::new("all", ALL_ALONE));
                }
                all = true;
            } else if name.eq_ignore_ascii_case("invalid-user") && attached.is_none() {
                criteria.push(Criterion::InvalidUser);
            } else {
                let known = check_name(name)?;
                let value = attached.or_else(|| words.next().map(String::as_str));
                let value = value.filter(|value| !value.is_empty()).ok_or_else(|| {
                    Wrong::new(name, "a pattern list is missing behind the criterion")
                })?;
                criteria.push(criterion(known, value, surroundings)?);
            }
        }
        match (all, criteria.is_empty()) {
            (true, false) => Err(Wrong::new("all", ALL_ALONE)),
            (false, true) => {
                Err(Wrong::new("", "no criterion follows").help("Match all, perhaps?"))
            }
            _ => Ok(Condition { criteria }),
        }
    }

    /// It asks about nothing that only a login tells.
    pub fn is_about_addresses(&self) -> bool {
        !self.criteria.iter().any(|criterion| {
            matches!(criterion, Criterion::User(_) | Criterion::Group(_) | Criterion::InvalidUser)
        })
    }

    /// It asks about the routing domain.
    pub fn is_about_routing(&self) -> bool {
        self.criteria.iter().any(|criterion| matches!(criterion, Criterion::RDomain(_)))
    }

    /// It asks about nothing.
    pub fn is_all(&self) -> bool {
        self.criteria.is_empty()
    }

    pub fn applies(&self, who: &Who<'_>) -> bool {
        self.criteria.iter().all(|criterion| criterion.applies(who))
    }

    /// The first thing this condition asks about and `who` does not tell.
    pub fn lacks(&self, who: &Who<'_>) -> Option<&'static str> {
        self.criteria.iter().find_map(|criterion| match criterion {
            Criterion::User(_) | Criterion::Group(_) | Criterion::InvalidUser => {
                who.user.is_none().then_some("user")
            }
            Criterion::Host(_) => who.host.is_none().then_some("host"),
            Criterion::Address(_) => who.peer.is_none().then_some("addr"),
            Criterion::LocalAddress(_) => who.local.is_none().then_some("laddr"),
            Criterion::LocalPort(_) => who.local.is_none().then_some("lport"),
            Criterion::RDomain(_) => who.rdomain.is_none().then_some("rdomain"),
            Criterion::Version(_) | Criterion::Never => None,
        })
    }
}

impl Criterion {
    fn applies(&self, who: &Who<'_>) -> bool {
        match self {
            Criterion::User(list) => {
                who.user.is_some_and(|user| list.verdict(user) == Verdict::Matches)
            }
            Criterion::Group(list) => {
                let verdicts = who.groups.iter().map(|group| list.verdict(group));
                let mut matches = false;
                for verdict in verdicts {
                    match verdict {
                        Verdict::Denied => return false,
                        Verdict::Matches => matches = true,
                        Verdict::Silent => {}
                    }
                }
                matches
            }
            Criterion::Host(list) => host_matches(list, who),
            Criterion::Address(list) => {
                who.peer.is_some_and(|peer| list.verdict(peer, None) == Verdict::Matches)
            }
            Criterion::LocalAddress(list) => {
                who.local.is_some_and(|local| list.verdict(local.ip(), None) == Verdict::Matches)
            }
            Criterion::LocalPort(ports) => {
                who.local.is_some_and(|local| ports.contains(&local.port()))
            }
            Criterion::RDomain(list) => {
                who.rdomain.is_some_and(|name| list.verdict(name) == Verdict::Matches)
            }
            Criterion::Version(list) => list.verdict(VERSION) == Verdict::Matches,
            Criterion::InvalidUser => who.account == Some(false),
            Criterion::Never => false,
        }
    }
}

/// About the name alone; the address as text stands in for one that was not looked up.
fn host_matches(list: &NameList, who: &Who<'_>) -> bool {
    let name = match (who.host, who.peer) {
        (Some(host), _) => host.to_ascii_lowercase(),
        (None, Some(peer)) => peer.to_canonical().to_string(),
        (None, None) => return false,
    };
    list.verdict(&name) == Verdict::Matches
}

fn check_name(name: &str) -> Result<&'static str, Wrong> {
    let is = |known: &&str| known.eq_ignore_ascii_case(name);
    if let Some(known) = WITH_VALUE.iter().find(|known| is(known)) {
        return Ok(known);
    }
    if let Some((_, why)) = REFUSED.iter().find(|(known, _)| is(known)) {
        return Err(Wrong::new(name, *why));
    }
    let wrong = Wrong::new(name, format!("there is no criterion {name:?}"));
    let names = WITH_VALUE.into_iter().chain(["all", "invalid-user"]);
    Err(match did_you_mean(name, names) {
        Some(meant) => wrong.help(format!("did you mean {meant}?")),
        None => wrong,
    })
}

fn criterion(name: &str, value: &str, surroundings: &Surroundings) -> Result<Criterion, Wrong> {
    let names = |text| NameList::new(text).ok_or_else(|| Wrong::new(text, "an empty pattern"));
    let hosts = || HostList::new(value).map_err(|bad| bad_host(value, &bad));
    Ok(match name {
        "User" => Criterion::User(names(value)?),
        "Group" => Criterion::Group(names(value)?),
        "Host" => Criterion::Host(names(&value.to_ascii_lowercase())?),
        "Address" => Criterion::Address(hosts()?),
        "Version" => Criterion::Version(names(value)?),
        "RDomain" => Criterion::RDomain(names(value)?),
        "LocalAddress" => Criterion::LocalAddress(hosts()?),
        _ => {
            let ports = value.split(',').map(|word| port(word, surroundings));
            Criterion::LocalPort(ports.collect::<Result<_, _>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(line: &str) -> Result<Condition, Wrong> {
        let words = super::super::lexer::words(line).expect("words");
        Condition::new(&words, &Surroundings::default())
    }

    fn who() -> Who<'static> {
        Who {
            user: Some("anna"),
            account: Some(true),
            groups: &[],
            peer: Some("192.0.2.7".parse().expect("an address")),
            host: None,
            local: Some("198.51.100.1:2222".parse().expect("an address")),
            rdomain: Some("blue"),
        }
    }

    #[test]
    fn every_criterion_must_hold() {
        let groups = ["staff".to_owned(), "wheel".to_owned()];
        let who = Who { groups: &groups, ..who() };
        for line in [
            "all",
            "User anna",
            "user=an*,!bob",
            "Group wheel",
            "Address 192.0.2.0/24 User anna",
            "Host 192.0.2.*",
            "LocalAddress 198.51.100.1 LocalPort 22,2222",
            "Version Tidegate_*,!OpenSSH_*",
            "RDomain bl*",
        ] {
            assert!(condition(line).expect(line).applies(&who), "{line}");
        }
        for line in [
            "User bob",
            "User *,!anna",
            "Group *,!wheel",
            "Group users",
            "Address 192.0.2.0/24 User bob",
            "LocalPort 22",
            "RDomain red",
            "RDomain *,!blue",
            "invalid-user",
            "Version OpenSSH_*",
            // It is about names, and a name is no address.
            "Host 192.0.2.0/24",
        ] {
            assert!(!condition(line).expect(line).applies(&who), "{line}");
        }
    }

    #[test]
    fn what_is_unknown_matches_nothing() {
        let nobody = Who::default();
        assert!(condition("all").expect("all").applies(&nobody));
        let lines = [
            "User *",
            "Group *",
            "Address *",
            "Host *",
            "LocalAddress *",
            "invalid-user",
            "RDomain *",
        ];
        for line in lines {
            let condition = condition(line).expect(line);
            assert!(!condition.applies(&nobody), "{line}");
            assert_eq!(condition.lacks(&who()), if line == "Host *" { Some("host") } else { None });
            assert!(condition.lacks(&nobody).is_some(), "{line}");
        }
        assert!(!Condition::never().applies(&who()));
    }

    #[test]
    fn slips_are_errors() {
        for bad in [
            "",
            "user",
            "user a,,b",
            "all user anna",
            "all all",
            "Command uptime",
            "RDomain blue,,red",
            "Adress 10.0.0.0/8",
            "Address 10.0.0.1/8",
            "LocalPort ssh",
            "User= x",
        ] {
            assert!(condition(bad).is_err(), "{bad}");
        }
    }
}
