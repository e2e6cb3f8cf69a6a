use std::time::Duration;

use crate::base::wildcard_match;
use crate::limits::{AUDIT_PLACES_MAX, CHANNEL_TIMEOUTS_MAX, ENV_COUNT_MAX, PARCEL_BYTES_MAX};
use crate::services::AuthInfo;
use crate::services::forward::{DisplayRules, Forwarding, GatewayPorts, Permits, Ways};
use crate::wire::Reader;

/// The one channel type of ChannelTimeout that is not a type: all channels taken together.
const ALL_CHANNELS: &str = "global";
/// What most logins take that are written down.
pub(super) const USUAL_BYTES: usize = 512;

/// Which sessions are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recorded {
    #[default]
    No,
    /// Those that have a terminal.
    Shells,
    /// Those that run a program, with a terminal or without.
    Sessions,
}

/// TidegateRecord and what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub what: Recorded,
    /// Where recordings are kept.
    pub directory: String,
    /// Sessions go on that cannot be recorded.
    pub continues: bool,
}

impl Record {
    pub const fn is_on(&self) -> bool {
        !matches!(self.what, Recorded::No)
    }

    /// Whether a session is recorded in which a program is to run.
    pub const fn covers(&self, has_terminal: bool, is_subsystem: bool) -> bool {
        match self.what {
            Recorded::No => false,
            Recorded::Shells => has_terminal,
            Recorded::Sessions => has_terminal || !is_subsystem,
        }
    }

    fn encode(&self, put: &mut impl FnMut(&[u8])) {
        put(&[self.what as u8, u8::from(self.continues)]);
        put(self.directory.as_bytes());
    }

    fn decode(r: &mut Reader<'_>) -> Option<Record> {
        let &[what, continues] = r.string(2).ok()? else { return None };
        let all = [Recorded::No, Recorded::Shells, Recorded::Sessions];
        let what = *all.get(usize::from(what))?;
        Some(Record { what, continues: continues == 1, directory: text(r)? })
    }
}

/// What a login's settings and its key's options say about its sessions and channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `environment=` of the key, as far as PermitUserEnvironment lets it through.
    pub variables: Vec<(String, String)>,
    /// PermitUserEnvironment: the variables that `~/.ssh/environment` may set; `None`: it is not
    /// read.
    pub user_environment: Option<String>,
    /// The gateway's own TZ, which sessions inherit.
    pub time_zone: Option<String>,
    /// /etc/nologin: what every session is told in place of what it asks for.
    pub no_login: Option<String>,
    /// PrintLastLog.
    pub last_login: bool,
    /// PrintMotd.
    pub motd: bool,
    /// PermitUserRC and the key's options: `~/.ssh/rc` may run.
    pub user_rc: bool,
    /// The forced command is the administrator's (ForceCommand): `~/.ssh/rc` does not run.
    pub forced_by_settings: bool,
    /// ChannelTimeout in the order of the file: a pattern of channel types and a time, zero for
    /// never.
    pub channel_timeouts: Vec<(String, Duration)>,
    /// UnusedConnectionTimeout.
    pub unused_timeout: Option<Duration>,
    /// IPQoS: the byte that marks packets while somebody sits at a terminal, and otherwise; `None`
    /// leaves the system's.
    pub interactive_class: Option<u8>,
    pub bulk_class: Option<u8>,
    /// What may be forwarded.
    pub forwarding: Forwarding,
    /// ExposeAuthInfo: what sessions are told about the login.
    pub auth_info: Option<AuthInfo>,
    /// Somebody keeps an audit, and hears of files too.
    pub audited: bool,
    /// What PAM's modules put into the environment: `NAME=VALUE`, each.
    pub session_variables: Vec<Vec<u8>>,
    /// UsePAM: where mail lies is for modules to say.
    pub uses_pam: bool,
    /// What they tell the user where a shell starts at a terminal.
    pub session_text: String,
    /// A module denies sessions: what every one is told in place of what it asks for.
    pub no_session: Option<String>,
    /// The password has expired: sessions are for another, and for nothing else.
    pub must_change: bool,
    /// What is recorded of its sessions.
    pub record: Record,
    /// For an audit: keywords about sessions, and the lines that set them.
    pub places: Vec<(String, String)>,
}

impl Rules {
    /// How long a channel of this type (`session:shell`, `direct-tcpip`) may be without traffic;
    /// the first pattern that matches counts.
    pub fn channel_timeout(&self, kind: &str) -> Option<Duration> {
        let matches = |pattern: &str| {
            pattern != ALL_CHANNELS && wildcard_match(pattern.as_bytes(), kind.as_bytes())
        };
        let found = self.channel_timeouts.iter().find(|(pattern, _)| matches(pattern));
        found.map(|(_, time)| *time).filter(|time| !time.is_zero())
    }

    /// The lines that a refusal is due to, as far as what it says names them: keywords, and options of
    /// the key that was let in by `source`. `None`: it names none, or nobody asks.
    pub fn lines_of(&self, why: &str, source: &str) -> Option<String> {
        let named = self.places.iter().filter(|(keyword, _)| why.contains(&**keyword));
        let mut lines: Vec<_> =
            named.map(|(keyword, place)| format!("{place} {keyword}")).collect();
        if self.audited && why.contains("the key's") {
            lines.push(source.to_owned());
        }
        (!lines.is_empty()).then(|| lines.join(", "))
    }

    /// How long all channels together may be without traffic.
    pub fn all_channels_timeout(&self) -> Option<Duration> {
        let found = self.channel_timeouts.iter().find(|(pattern, _)| pattern == ALL_CHANNELS);
        found.map(|(_, time)| *time).filter(|time| !time.is_zero())
    }

    /// For the way to the process of the account.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL_BYTES);
        let mut put = |bytes: &[u8]| {
            out.extend((bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        put(&[self.last_login, self.motd, self.user_rc, self.forced_by_settings].map(u8::from));
        put(&[self.audited, self.must_change, self.uses_pam].map(u8::from));
        put(self.session_text.as_bytes());
        put(&(self.session_variables.len() as u32).to_be_bytes());
        self.session_variables.iter().for_each(|variable| put(variable));
        self.record.encode(&mut put);
        put(&(self.places.len() as u32).to_be_bytes());
        for (keyword, place) in &self.places {
            put(keyword.as_bytes());
            put(place.as_bytes());
        }
        for text in [&self.user_environment, &self.time_zone, &self.no_login, &self.no_session] {
            put(&[u8::from(text.is_some())]);
            put(text.as_deref().unwrap_or_default().as_bytes());
        }
        for class in [self.interactive_class, self.bulk_class] {
            put(class.as_slice());
        }
        put(&seconds(self.unused_timeout.unwrap_or_default()));
        put_forwarding(&self.forwarding, &mut put);
        put(self.auth_info.as_ref().map_or("", AuthInfo::text).as_bytes());
        put(&(self.variables.len() as u32).to_be_bytes());
        for (name, value) in &self.variables {
            put(name.as_bytes());
            put(value.as_bytes());
        }
        put(&(self.channel_timeouts.len() as u32).to_be_bytes());
        for (pattern, time) in &self.channel_timeouts {
            put(pattern.as_bytes());
            put(&seconds(*time));
        }
        out
    }

    /// What [`Rules::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Rules> {
        let mut r = Reader::new(bytes);
        let flags: [u8; 4] = r.string(4).ok()?.try_into().ok()?;
        let [last_login, motd, user_rc, forced_by_settings] = flags.map(|flag| flag == 1);
        let flags: [u8; 3] = r.string(3).ok()?.try_into().ok()?;
        let [audited, must_change, uses_pam] = flags.map(|flag| flag == 1);
        let session_text = text(&mut r)?;
        let mut session_variables = Vec::new();
        for _ in 0..count(&mut r, ENV_COUNT_MAX)? {
            session_variables.push(r.string(PARCEL_BYTES_MAX).ok()?.to_vec());
        }
        let record = Record::decode(&mut r)?;
        let mut places = Vec::new();
        for _ in 0..count(&mut r, AUDIT_PLACES_MAX)? {
            places.push((text(&mut r)?, text(&mut r)?));
        }
        let user_environment = maybe(&mut r)?;
        let time_zone = maybe(&mut r)?;
        let no_login = maybe(&mut r)?;
        let no_session = maybe(&mut r)?;
        let interactive_class = r.string(1).ok()?.first().copied();
        let bulk_class = r.string(1).ok()?.first().copied();
        let unused_timeout = Some(time(&mut r)?).filter(|time| !time.is_zero());
        let forwarding = forwarding_of(&mut r)?;
        let auth_info = Some(text(&mut r)?).filter(|text| !text.is_empty()).map(AuthInfo::with);
        let mut variables = Vec::new();
        for _ in 0..count(&mut r, ENV_COUNT_MAX)? {
            variables.push((text(&mut r)?, text(&mut r)?));
        }
        let mut channel_timeouts = Vec::new();
        for _ in 0..count(&mut r, CHANNEL_TIMEOUTS_MAX)? {
            channel_timeouts.push((text(&mut r)?, time(&mut r)?));
        }
        r.end().ok()?;
        Some(Rules {
            variables,
            user_environment,
            time_zone,
            no_login,
            last_login,
            motd,
            user_rc,
            forced_by_settings,
            channel_timeouts,
            unused_timeout,
            interactive_class,
            bulk_class,
            forwarding,
            auth_info,
            audited,
            session_variables,
            uses_pam,
            session_text,
            no_session,
            must_change,
            record,
            places,
        })
    }
}

fn put_forwarding(forwarding: &Forwarding, put: &mut impl FnMut(&[u8])) {
    let Forwarding { tcp, streamlocal, inet, inet6, bind_unlink, agent, x11, .. } = forwarding;
    let ways = [tcp.local, tcp.remote, streamlocal.local, streamlocal.remote];
    put(&ways.map(u8::from));
    put(&[*inet, *inet6, *bind_unlink, *agent, *x11].map(u8::from));
    put(&[forwarding.gateway_ports as u8]);
    put(&forwarding.bind_mask.to_be_bytes());
    let DisplayRules { offset, localhost, xauth } = &forwarding.display;
    put(&offset.to_be_bytes());
    put(&[u8::from(*localhost), u8::from(xauth.is_some())]);
    put(xauth.as_deref().unwrap_or_default().as_bytes());
    for permits in
        [&forwarding.open, &forwarding.key_open, &forwarding.listen, &forwarding.key_listen]
    {
        permits.encode(put);
    }
}

fn forwarding_of(r: &mut Reader<'_>) -> Option<Forwarding> {
    let ways: [u8; 4] = r.string(4).ok()?.try_into().ok()?;
    let [local, remote, path_local, path_remote] = ways.map(|flag| flag == 1);
    let flags: [u8; 5] = r.string(5).ok()?.try_into().ok()?;
    let [inet, inet6, bind_unlink, agent, x11] = flags.map(|flag| flag == 1);
    let which = usize::from(*r.string(1).ok()?.first()?);
    let (_, gateway_ports) = *GatewayPorts::NAMES.get(which)?;
    let bind_mask = u32::from_be_bytes(r.string(4).ok()?.try_into().ok()?);
    let offset = u16::from_be_bytes(r.string(2).ok()?.try_into().ok()?);
    let &[localhost, some] = r.string(2).ok()? else { return None };
    let xauth = Some(text(r)?).filter(|_| some == 1);
    let display = DisplayRules { offset, localhost: localhost == 1, xauth };
    Some(Forwarding {
        tcp: Ways { local, remote },
        streamlocal: Ways { local: path_local, remote: path_remote },
        open: Permits::decode(r)?,
        key_open: Permits::decode(r)?,
        listen: Permits::decode(r)?,
        key_listen: Permits::decode(r)?,
        gateway_ports,
        inet,
        inet6,
        bind_mask,
        bind_unlink,
        agent,
        x11,
        display,
    })
}

/// Whether a comma-separated list of patterns names `text`: one has to match, and none behind `!`
/// may.
pub fn is_listed(list: &str, text: &str) -> bool {
    let mut listed = false;
    for item in list.split(',') {
        let (denies, pattern) = item.strip_prefix('!').map_or((false, item), |rest| (true, rest));
        if wildcard_match(pattern.as_bytes(), text.as_bytes()) {
            if denies {
                return false;
            }
            listed = true;
        }
    }
    listed
}

fn seconds(time: Duration) -> [u8; 8] {
    time.as_secs().to_be_bytes()
}

fn time(r: &mut Reader<'_>) -> Option<Duration> {
    let bytes = r.string(8).ok()?.try_into().ok()?;
    Some(Duration::from_secs(u64::from_be_bytes(bytes)))
}

fn count(r: &mut Reader<'_>, most: usize) -> Option<usize> {
    let bytes = r.string(4).ok()?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes) as usize).filter(|count| *count <= most)
}

fn text(r: &mut Reader<'_>) -> Option<String> {
    Some(r.utf8(PARCEL_BYTES_MAX).ok()?.to_owned())
}

fn maybe(r: &mut Reader<'_>) -> Option<Option<String>> {
    let there = r.string(1).ok()? == [1];
    let text = text(r)?;
    Some(there.then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::forward::Permit;

    fn timeouts(items: &[(&str, u64)]) -> Rules {
        let items = items.iter().map(|(p, time)| ((*p).to_owned(), Duration::from_secs(*time)));
        Rules { channel_timeouts: items.collect(), ..Rules::default() }
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let rules = timeouts(&[("session:shell", 0), ("session:*", 60), ("*", 5), ("global", 9)]);
        assert_eq!(rules.channel_timeout("session:shell"), None);
        assert_eq!(rules.channel_timeout("session:command"), Some(Duration::from_secs(60)));
        assert_eq!(rules.channel_timeout("direct-tcpip"), Some(Duration::from_secs(5)));
        assert_eq!(rules.all_channels_timeout(), Some(Duration::from_secs(9)));
        let rules = timeouts(&[("*", 5)]);
        assert_eq!(rules.all_channels_timeout(), None, "wildcards do not mean it");
        assert_eq!(timeouts(&[("global", 9)]).channel_timeout("global"), None);
    }

    #[test]
    fn lists_allow_and_deny() {
        for (list, name, listed) in [
            ("*", "A", true),
            ("LANG,LC_*", "LC_ALL", true),
            ("LANG,LC_*", "PATH", false),
            ("*,!LD_*", "LD_PRELOAD", false),
            ("!LD_*,*", "LD_PRELOAD", false),
            ("!LD_*", "A", false),
        ] {
            assert_eq!(is_listed(list, name), listed, "{list} {name}");
        }
    }

    #[test]
    fn rules_travel_whole() {
        let rules = Rules {
            variables: vec![("A".into(), "b=c".into())],
            user_environment: Some("LC_*,!X".into()),
            time_zone: Some("UTC".into()),
            no_login: Some(String::new()),
            last_login: true,
            motd: true,
            user_rc: false,
            forced_by_settings: true,
            channel_timeouts: vec![("session:*".into(), Duration::from_secs(7))],
            unused_timeout: Some(Duration::from_secs(8)),
            interactive_class: Some(0),
            bulk_class: None,
            forwarding: Forwarding {
                tcp: Ways::LOCAL,
                streamlocal: Ways::REMOTE,
                open: Permits(Some(vec![Permit::parse("h:*").expect("an item")])),
                key_open: Permits::NONE,
                listen: Permits(Some(vec![Permit::parse_listen("80").expect("an item")])),
                gateway_ports: GatewayPorts::ClientSpecified,
                inet6: false,
                bind_mask: 0o22,
                bind_unlink: true,
                agent: true,
                x11: false,
                display: DisplayRules { offset: 7, localhost: false, xauth: None },
                ..Forwarding::default()
            },
            auth_info: Some(AuthInfo::with("password\n".to_owned())),
            audited: true,
            session_variables: vec![b"A=\xff".to_vec()],
            uses_pam: true,
            session_text: "hello\n".into(),
            no_session: Some("no\n".into()),
            must_change: true,
            record: Record {
                what: Recorded::Sessions,
                directory: "/srv/recordings".into(),
                continues: true,
            },
            places: vec![("PermitTTY".into(), "/etc/x:3".into())],
        };
        let lines = |why| rules.lines_of(why, "keys:1");
        assert_eq!(lines("no").as_deref(), None);
        assert_eq!(lines("PermitTTY says no").as_deref(), Some("/etc/x:3 PermitTTY"));
        let both = "PermitTTY, or the key's options";
        assert_eq!(lines(both).as_deref(), Some("/etc/x:3 PermitTTY, keys:1"));
        assert_eq!(Rules::default().lines_of(both, "keys:1"), None);
        let bytes = rules.encode();
        assert_eq!(Rules::decode(&bytes), Some(rules));
        for cut in 0..bytes.len() {
            assert_eq!(Rules::decode(&bytes[..cut]), None);
        }
        assert_eq!(Rules::decode(&Rules::default().encode()), Some(Rules::default()));
    }
}
