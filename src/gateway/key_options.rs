//! The options in front of a key in authorized_keys (sshd(8), AUTHORIZED_KEYS FILE FORMAT).

use std::net::IpAddr;

use super::authorized_keys::LineError;
use super::config::{HostList, Verdict, check_internal_sftp};
use crate::base::escape;
use crate::crypto::keys::VerifiedUser;
use crate::limits::ENV_COUNT_MAX;
use crate::limits::PERMITS_MAX;
use crate::services::forward::{Permit as Place, Permits};
use crate::services::is_variable;

/// What a line permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `command=`: runs instead of whatever the client asks for.
    pub command: Option<String>,
    /// `from=`: the addresses the key may be used from.
    pub from: Option<HostList>,
    /// `expiry-time=`, the earliest.
    pub expiry: Option<Expiry>,
    /// `cert-authority`: the key certifies others and lets nobody in itself.
    pub cert_authority: bool,
    /// `principals=`: the names that its certificates may be for, instead of the user's.
    pub principals: Option<Vec<String>>,
    /// `environment=`: variables for its sessions, for PermitUserEnvironment to let through.
    pub environment: Vec<(String, String)>,
    /// `no-touch-required`: a security key's signature counts although nobody touched it.
    pub no_touch: bool,
    /// `verify-required`: it counts if its user proved to it who he is.
    pub verify: bool,
    pub pty: bool,
    /// `~/.ssh/rc` may run.
    pub user_rc: bool,
    pub forwarding: Forwarding,
}

/// What a line permits to forward. All of it, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    pub ports: bool,
    pub agent: bool,
    pub x11: bool,
    /// `permitopen=`.
    pub open: Permits,
    /// `permitlisten=`.
    pub listen: Permits,
}

/// The last moment at which a key may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Seconds since 1970.
    pub at: u64,
    /// As it is written, for the log.
    pub text: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            command: None,
            from: None,
            expiry: None,
            cert_authority: false,
            principals: None,
            environment: Vec::new(),
            no_touch: false,
            verify: false,
            pty: true,
            user_rc: true,
            forwarding: Forwarding::default(),
        }
    }
}

impl Default for Forwarding {
    fn default() -> Forwarding {
        Forwarding { ports: true, agent: true, x11: true, open: Permits::ANY, listen: Permits::ANY }
    }
}

impl Options {
    /// Reads what stands in front of a key; nothing is an answer too. An option that is unknown or
    /// not enforced is an error: none is ever skipped.
    pub fn parse(text: &str) -> Result<Options, LineError> {
        let mut options = Options::default();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(['=', ',']).unwrap_or(rest.len());
            let (name, behind) = rest.split_at(end);
            let option = known(name)?;
            let (value, behind) = match behind.strip_prefix('=') {
                Some(behind) => dequote(option, behind).map(|(value, rest)| (Some(value), rest))?,
                None => (None, behind),
            };
            options.apply(option, value)?;
            rest = match behind.strip_prefix(',') {
                // A comma announces another option.
                Some("") => return Err(LineError::Separator),
                Some(behind) => behind,
                None if behind.is_empty() => behind,
                None => return Err(LineError::Separator),
            };
        }
        if options.principals.is_some() && !options.cert_authority {
            let problem = "it needs cert-authority beside it".to_owned();
            return Err(LineError::BadValue { name: "principals", problem });
        }
        Ok(options)
    }

    /// Whether the line counts now and for this peer.
    pub fn admit(&self, peer: IpAddr, host: Option<&str>, now: u64) -> Result<(), LineError> {
        if let Some(expiry) = self.expiry.as_ref().filter(|expiry| expiry.at < now) {
            return Err(LineError::Expired(expiry.text.clone()));
        }
        match &self.from {
            Some(from) if from.verdict(peer, host) != Verdict::Matches => {
                Err(LineError::WrongAddress(peer))
            }
            _ => Ok(()),
        }
    }

    /// What the line and a certificate both permit. As with sshd, two commands have to be the same.
    pub fn under(mut self, verified: &VerifiedUser) -> Result<Options, LineError> {
        if verified.verify_required() && !verified.certificate().key().kind().is_security() {
            return Err(LineError::VerifyRequired);
        }
        self.verify |= verified.verify_required();
        self.no_touch &= verified.extensions().no_touch_required;
        match (&self.command, verified.force_command()) {
            (Some(own), Some(forced)) if own != forced => return Err(LineError::TwoCommands),
            (None, Some(forced)) => {
                check_command("force-command", forced)?;
                self.command = Some(forced.to_owned());
            }
            _ => {}
        }
        let extensions = verified.extensions();
        self.pty &= extensions.pty;
        self.user_rc &= extensions.user_rc;
        self.forwarding.ports &= extensions.port_forwarding;
        self.forwarding.agent &= extensions.agent_forwarding;
        self.forwarding.x11 &= extensions.x11_forwarding;
        Ok(self)
    }

    fn apply(&mut self, (name, meaning): Known, value: Option<String>) -> Result<(), LineError> {
        match (meaning, value) {
            (Meaning::Value(valued), Some(value)) => self.apply_value(name, valued, value),
            (Meaning::Value(_), None) => Err(LineError::NoValue(name)),
            (_, Some(_)) => Err(LineError::NeedlessValue(name)),
            (Meaning::Permit(permit, permitted), None) => {
                self.permit(permit, permitted);
                Ok(())
            }
            (Meaning::Restrict, None) => {
                for permit in
                    [Permit::Pty, Permit::UserRc, Permit::Ports, Permit::Agent, Permit::X11]
                {
                    self.permit(permit, false);
                }
                Ok(())
            }
            (Meaning::NoTouch, None) => {
                self.no_touch = true;
                Ok(())
            }
            (Meaning::Verify, None) => {
                self.verify = true;
                Ok(())
            }
            (Meaning::CertAuthority, None) => {
                self.cert_authority = true;
                Ok(())
            }
            (Meaning::NotYet, None) => Err(LineError::NotYet(name)),
        }
    }

    const fn permit(&mut self, permit: Permit, permitted: bool) {
        match permit {
            Permit::Pty => self.pty = permitted,
            Permit::UserRc => self.user_rc = permitted,
            Permit::Ports => self.forwarding.ports = permitted,
            Permit::Agent => self.forwarding.agent = permitted,
            Permit::X11 => self.forwarding.x11 = permitted,
        }
    }

    fn apply_value(
        &mut self,
        name: &'static str,
        valued: Valued,
        value: String,
    ) -> Result<(), LineError> {
        let bad = |problem: String| LineError::BadValue { name, problem };
        match valued {
            Valued::Command if self.command.is_some() => return Err(LineError::Twice(name)),
            Valued::Command => {
                check_command(name, &value)?;
                self.command = Some(value);
            }
            Valued::Principals if self.principals.is_some() => return Err(LineError::Twice(name)),
            Valued::Principals => {
                let names = value.split(',').map(str::to_owned).collect::<Vec<_>>();
                if names.iter().any(String::is_empty) || names.len() > PERMITS_MAX {
                    return Err(bad(format!("1 to {PERMITS_MAX} names with commas between")));
                }
                self.principals = Some(names);
            }
            Valued::From if self.from.is_some() => return Err(LineError::Twice(name)),
            Valued::From => {
                let list = HostList::new(&value).map_err(|wrong| {
                    bad(format!("{}: {:?}", wrong.problem, escape(wrong.item.as_bytes())))
                })?;
                self.from = Some(list);
            }
            Valued::Expiry => {
                let at = seconds_of(&value).ok_or_else(|| bad(EXPIRY_FORM.to_owned()))?;
                if self.expiry.as_ref().is_none_or(|earlier| at < earlier.at) {
                    self.expiry = Some(Expiry { at, text: value });
                }
            }
            Valued::Listen => {
                let place = Place::parse_listen(&value);
                add_place(&mut self.forwarding.listen, place).map_err(bad)?;
            }
            Valued::Open => {
                add_place(&mut self.forwarding.open, Place::parse(&value)).map_err(bad)?
            }
            Valued::Environment => {
                let (variable, text) = variable_of(&value).map_err(|why| bad(why.to_owned()))?;
                if self.environment.len() >= ENV_COUNT_MAX {
                    return Err(bad(format!("more than {ENV_COUNT_MAX} variables")));
                }
                // As in sshd, the first of a name counts.
                if !self.environment.iter().any(|(known, _)| known == variable) {
                    self.environment.push((variable.to_owned(), text.to_owned()));
                }
            }
        }
        Ok(())
    }
}

const EXPIRY_FORM: &str = "not a time: write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z \
                           behind it for UTC";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Value(Valued),
    Permit(Permit, bool),
    Restrict,
    CertAuthority,
    NoTouch,
    Verify,
    /// It belongs to something that is not built yet.
    NotYet,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Valued {
    Command,
    Environment,
    Expiry,
    From,
    Listen,
    Open,
    Principals,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Permit {
    Pty,
    UserRc,
    Ports,
    Agent,
    X11,
}

type Known = (&'static str, Meaning);

/// Every option of sshd(8).
const OPTIONS: &[Known] = &[
    ("agent-forwarding", Meaning::Permit(Permit::Agent, true)),
    ("cert-authority", Meaning::CertAuthority),
    ("command", Meaning::Value(Valued::Command)),
    ("environment", Meaning::Value(Valued::Environment)),
    ("expiry-time", Meaning::Value(Valued::Expiry)),
    ("from", Meaning::Value(Valued::From)),
    ("no-agent-forwarding", Meaning::Permit(Permit::Agent, false)),
    ("no-port-forwarding", Meaning::Permit(Permit::Ports, false)),
    ("no-pty", Meaning::Permit(Permit::Pty, false)),
    ("no-touch-required", Meaning::NoTouch),
    ("no-user-rc", Meaning::Permit(Permit::UserRc, false)),
    ("no-X11-forwarding", Meaning::Permit(Permit::X11, false)),
    ("permitlisten", Meaning::Value(Valued::Listen)),
    ("permitopen", Meaning::Value(Valued::Open)),
    ("port-forwarding", Meaning::Permit(Permit::Ports, true)),
    ("principals", Meaning::Value(Valued::Principals)),
    ("pty", Meaning::Permit(Permit::Pty, true)),
    ("restrict", Meaning::Restrict),
    ("tunnel", Meaning::NotYet),
    ("user-rc", Meaning::Permit(Permit::UserRc, true)),
    ("verify-required", Meaning::Verify),
    ("X11-forwarding", Meaning::Permit(Permit::X11, true)),
];

fn known(name: &str) -> Result<Known, LineError> {
    let found = OPTIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    match found.copied() {
        Some((name, Meaning::NotYet)) => Err(LineError::NotYet(name)),
        Some(option) => Ok(option),
        None => Err(LineError::UnknownOption(format!("{:?}", escape(name.as_bytes())))),
    }
}

/// A value in double quotes, in which `\"` is a quote, and what follows it.
fn dequote((name, _): Known, text: &str) -> Result<(String, &str), LineError> {
    let text = text.strip_prefix('"').ok_or(LineError::NoValue(name))?;
    let mut value = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok((value, characters.as_str())),
            '\\' if characters.as_str().starts_with('"') => value.extend(characters.next()),
            _ => value.push(character),
        }
    }
    Err(LineError::NoValue(name))
}

fn check_command(name: &'static str, command: &str) -> Result<(), LineError> {
    let bad = |problem: String| LineError::BadValue { name, problem };
    if command.contains('\0') {
        return Err(bad("a NUL in the command".to_owned()));
    }
    check_internal_sftp(command, &mut Vec::new())
        .map_err(|wrong| bad(format!("{} {}", escape(wrong.value.as_bytes()), wrong.problem)))
}

fn add_place(to: &mut Permits, place: Result<Place, &'static str>) -> Result<(), String> {
    let places = to.0.get_or_insert_default();
    if places.len() >= PERMITS_MAX {
        return Err(format!("more than {PERMITS_MAX} places"));
    }
    places.push(place?);
    Ok(())
}

fn variable_of(text: &str) -> Result<(&str, &str), &'static str> {
    let (name, value) = text.split_once('=').ok_or("no = between name and value")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(plain) || !is_variable(name, value.as_bytes()) {
        return Err("not the name of a variable: letters, digits and _ make one");
    }
    Ok((name, value))
}

/// Seconds since 1970 of `YYYYMMDD[HHMM[SS]]`: local time, or UTC with `Z` or `UTC` behind it.
fn seconds_of(text: &str) -> Option<u64> {
    let upper = text.to_ascii_uppercase();
    let (digits, utc) = match upper.strip_suffix("UTC").or_else(|| upper.strip_suffix('Z')) {
        Some(digits) => (digits, true),
        None => (upper.as_str(), false),
    };
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| -> Option<i32> {
        digits.get(from..to).map_or(Some(0), |part| part.parse().ok())
    };
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year < 1970
        || !(1..=12).contains(&month)
        || !(1..=days).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    epoch_seconds([year, month, day, hour, minute, second], utc)
}

fn epoch_seconds([year, month, day, hour, minute, second]: [i32; 6], utc: bool) -> Option<u64> {
    // SAFETY: a broken-down time is numbers and a pointer that may be null.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    (time.tm_year, time.tm_mon, time.tm_mday) = (year - 1900, month - 1, day);
    (time.tm_hour, time.tm_min, time.tm_sec) = (hour, minute, second);
    // Whether summer time holds then is the library's to find out.
    time.tm_isdst = -1;
    // SAFETY: both calls read and complete the structure they are given and keep no pointer to it.
    let seconds = unsafe { if utc { libc::timegm(&mut time) } else { libc::mktime(&mut time) } };
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options, LineError> {
        Options::parse(text)
    }

    #[test]
    fn commands_keep_blanks_commas_and_quotes() {
        for (text, command) in [
            ("command=\"ls -l /tmp\"", "ls -l /tmp"),
            ("COMMAND=\"a,b\",no-pty", "a,b"),
            (r#"command="say \"hi there\"""#, r#"say "hi there""#),
            (r#"command="a \\n \b""#, r"a \\n \b"),
            ("command=\"\"", ""),
            ("command=\"x # y\"", "x # y"),
        ] {
            assert_eq!(options(text).expect(text).command.as_deref(), Some(command), "{text}");
        }
        // As sshd reads it: the backslash belongs to the quote, so the value never ends.
        assert!(options(r#"command="a\\""#).is_err());
    }

    #[test]
    fn restrictions_apply_in_order() {
        for (text, [pty, rc, ports, agent, x11]) in [
            ("", [true, true, true, true, true]),
            ("no-pty", [false, true, true, true, true]),
            ("restrict", [false; 5]),
            ("restrict,pty", [true, false, false, false, false]),
            ("pty,restrict", [false; 5]),
            (
                "no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-user-rc",
                [true, false, false, false, false],
            ),
            (
                "restrict,port-forwarding,x11-forwarding,agent-forwarding,user-rc",
                [false, true, true, true, true],
            ),
            ("no-user-rc,USER-RC,No-Port-Forwarding", [true, true, false, true, true]),
        ] {
            let found = options(text).expect(text);
            let forwarding = Forwarding { ports, agent, x11, ..Forwarding::default() };
            assert_eq!(
                (found.pty, found.user_rc, found.forwarding),
                (pty, rc, forwarding),
                "{text}"
            );
        }
    }

    #[test]
    fn variables_of_a_key() {
        let found = options("environment=\"A=1\",environment=\"B=a=b c\",environment=\"A=2\"");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(found.expect("variables").environment, [pair("A", "1"), pair("B", "a=b c")]);
        let many = |count: usize| vec!["environment=\"A=1\""; count].join(",");
        assert!(options(&many(1000)).is_ok(), "one name is one variable");
        let many = (0..=ENV_COUNT_MAX).map(|n| format!("environment=\"A{n}=1\""));
        assert!(options(&many.collect::<Vec<_>>().join(",")).is_err());
    }

    #[test]
    fn places_to_be_connected_to_add_up() {
        let found = options("permitopen=\"10.0.0.1:80\",permitopen=\"[::1]:*\"").expect("places");
        let open = found.forwarding.open;
        assert!(open.permits("10.0.0.1", 80) && open.permits("::1", 9));
        assert!(!open.permits("10.0.0.1", 81) && !open.permits("h", 80));
        let found = options("permitlisten=\"8080\",permitlisten=\"localhost:*\"");
        let listen = found.expect("places").forwarding.listen;
        assert!(listen.permits_listening("localhost", 9) && listen.permits_listening("", 8080));
        assert!(!listen.permits_listening("", 8081));
        let many = vec!["permitopen=\"h:1\""; PERMITS_MAX + 1].join(",");
        assert!(options(&many).is_err());
    }

    #[test]
    fn times_of_expiry() {
        for (text, at) in [
            ("19700102Z", Some(86_400)),
            ("20240229120000Z", Some(1_709_208_000)),
            ("202402291200utc", Some(1_709_208_000)),
            ("99991231235959Z", Some(253_402_300_799)),
            ("20230229Z", None),
            ("20241301Z", None),
            ("20240100Z", None),
            ("202401012460Z", None),
            ("2024010124Z", None),
            ("20240101T", None),
            ("2024-01-01", None),
            ("+2024010", None),
            ("19691231Z", None),
            ("Z", None),
            ("", None),
        ] {
            assert_eq!(seconds_of(text), at, "{text}");
        }
        // Local time is at most a day away from UTC.
        let local = seconds_of("20240229120000").expect("a time");
        assert!(local.abs_diff(1_709_208_000) <= 86_400);
        let both = options("expiry-time=\"20300101Z\",expiry-time=\"20290101Z\"").expect("times");
        assert_eq!(both.expiry.expect("a time").text, "20290101Z", "the earliest counts");
    }

    /// SECURITY case 77: what is unknown, misspelt or not built yet refuses the line.
    #[test]
    fn case_77_every_other_option_refuses_the_line() {
        for text in [
            "no-ptty",
            "no_pty",
            "permitopen=\"10.0.0.1:65536\"",
            "permitopen=\"10.0.0.1\"",
            "permitopen=\"\"",
            "permitopen",
            "permitlisten=\"4294967295\"",
            "permitlisten=\"h\"",
            "permitlisten",
            "environment=\"A\"",
            "environment=\"=b\"",
            "environment=\"A-B=c\"",
            "environment",
            "expiry-time=\"2030\"",
            "expiry-time",
            "cert-authority=\"x\"",
            "principals=\"a\"",
            "cert-authority,principals=\"a,,b\"",
            "cert-authority,principals=\"\"",
            "cert-authority,principals=\"a\",principals=\"b\"",
            "tunnel=\"1\"",
            "verify-required=\"yes\"",
            "no-touch-required=\"yes\"",
            "touch-required",
            "command",
            "command=ls",
            "command=\"ls",
            "command=\"a\",command=\"a\"",
            "command=\"internal-sftp -Z\"",
            "no-pty=\"yes\"",
            "restrict=\"\"",
            "no-restrict",
            "from=\"\"",
            "from=\"10.0.0.1/8\"",
            "from=\"::1\",from=\"::1\"",
            "no-pty,",
            ",no-pty",
            "no-pty,,pty",
            "command=\"a\"no-pty",
            "command=\"a\"x",
        ] {
            assert!(options(text).is_err(), "{text}");
        }
    }

    #[test]
    fn authorities_and_their_principals() {
        let options = options("principals=\"ada,ops\",no-pty,cert-authority").expect("options");
        assert!(options.cert_authority && !options.pty);
        assert_eq!(options.principals, Some(vec!["ada".to_owned(), "ops".to_owned()]));
        assert!(!Options::default().cert_authority && Options::default().principals.is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_option_text_makes_the_parser_panic(
            text in "(command|from|restrict|no-pty|environment|expiry-time|[a-z-]{1,5}|=|\"|\\\\|,| \
                     |é|\\*|!|[0-9]{8}|Z){0,20}"
        ) {
            let _ = options(&text);
        }

        #[test]
        fn any_quoted_command_comes_out_as_it_went_in(command in "[^\"\\\\\0\n]{0,40}") {
            proptest::prop_assume!(!command.starts_with("internal-sftp"));
            let read = options(&format!("command=\"{command}\""));
            proptest::prop_assert_eq!(read.map(|o| o.command), Ok(Some(command)));
        }

        #[test]
        fn no_time_makes_the_parser_panic(text in "[0-9]{8,14}(Z|UTC)?") {
            let _ = seconds_of(&text);
        }
    }
}
