//! The keywords about logins that go on at other hosts: their parsers and how they are dumped.

use std::path::PathBuf;

use super::diagnostic::Wrong;
use super::dump::{View, one, yes_no};
use super::honour::{Done, choice, first};
use super::keywords::Target;
use super::lexer::quote;
use super::values::{Values, host_and_port, is_none};
use crate::limits::{UPSTREAM_HOSTS_MAX, UPSTREAM_SHARE_KEPT, UPSTREAM_SHARE_TIME_MAX};
use crate::services::upstream::HostKeyPolicy;
use crate::wire::proxy::ProxyVersion;

const SSH_PORT: u16 = 22;

pub fn upstream(target: &mut Target, values: &Values<'_>) -> Done {
    let words = values.many()?;
    if let [only] = words
        && is_none(only)
    {
        return first(&mut target.login.upstream, Vec::new());
    }
    if words.len() > UPSTREAM_HOSTS_MAX {
        return Err(Wrong::new("", format!("more than {UPSTREAM_HOSTS_MAX} hosts")));
    }
    let mut hosts = Vec::with_capacity(words.len());
    for word in words {
        let (host, port) = host_and_port(word, values.surroundings)?;
        if host.is_empty() || host.contains(is_odd) || is_none(host) || port == Some(0) {
            return Err(Wrong::new(word, "not a host to connect to")
                .help("write none alone, or hosts like web1, web1:2222 or [::1]:22"));
        }
        hosts.push((host.to_ascii_lowercase(), port.unwrap_or(SSH_PORT)));
    }
    first(&mut target.login.upstream, hosts)
}

/// No host's name has this, and `-T` could not write it.
fn is_odd(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | '#')
}

pub fn dump_upstream(view: &View<'_>) -> Vec<String> {
    let hosts = view.login.upstream.iter().map(|(host, port)| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    });
    one(or_none(hosts.collect()))
}

pub fn upstream_targets(target: &mut Target, values: &Values<'_>) -> Done {
    let words = values.many()?;
    if let [only] = words
        && is_none(only)
    {
        return first(&mut target.login.upstream_targets, Vec::new());
    }
    if words.len() > UPSTREAM_HOSTS_MAX {
        return Err(Wrong::new("", format!("more than {UPSTREAM_HOSTS_MAX} patterns")));
    }
    if let Some(word) = words.iter().find(|word| word.is_empty() || is_none(word)) {
        return Err(Wrong::new(word, "not a pattern of hosts")
            .help("write none alone, or patterns like *.internal, web?:2222 or [10.0.0.*]:*"));
    }
    first(&mut target.login.upstream_targets, words.to_vec())
}

pub fn dump_upstream_targets(view: &View<'_>) -> Vec<String> {
    one(or_none(view.login.upstream_targets.iter().map(|word| quote(word)).collect()))
}

pub fn upstream_user(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    if is_none(word) {
        return first(&mut target.login.upstream_user, None);
    }
    let mut rest = word.split('%').skip(1);
    while let Some(behind) = rest.next() {
        if behind.is_empty() {
            // The second half of %%.
            if rest.next().is_none() {
                return Err(Wrong::new(word, "a lone % at the end; write %% for one"));
            }
        } else if !behind.starts_with('u') {
            return Err(Wrong::new(word, "only %u and %% have a meaning here"));
        }
    }
    first(&mut target.login.upstream_user, Some(word.to_owned()))
}

pub fn dump_upstream_user(view: &View<'_>) -> Vec<String> {
    one(view.login.upstream_user.as_deref().map_or_else(|| "none".to_owned(), quote))
}

pub fn upstream_agent(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.upstream_agent, values.flag()?)
}

pub fn dump_upstream_agent(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.upstream_agent))
}

pub fn upstream_identity(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.upstream_identity, values.path_or_none()?)
}

pub fn dump_upstream_identity(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.login.upstream_identity.as_ref()))
}

pub fn upstream_authority(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.upstream_authority, values.path_or_none()?)
}

pub fn dump_upstream_authority(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.login.upstream_authority.as_ref()))
}

pub fn upstream_known_hosts(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.upstream_known_hosts, values.path()?)
}

pub fn dump_upstream_known_hosts(view: &View<'_>) -> Vec<String> {
    one(quote(&view.login.upstream_known_hosts.to_string_lossy()))
}

pub fn upstream_host_keys(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.upstream_host_keys, choice(values.one()?, &HostKeyPolicy::NAMES)?)
}

pub fn dump_upstream_host_keys(view: &View<'_>) -> Vec<String> {
    let named = |(_, known): &&(&str, HostKeyPolicy)| *known == view.login.upstream_host_keys;
    one(HostKeyPolicy::NAMES.iter().find(named).map_or("strict", |(name, _)| *name))
}

const PROXY_VERSIONS: [(&str, Option<ProxyVersion>); 3] =
    [("none", None), ("v1", Some(ProxyVersion::One)), ("v2", Some(ProxyVersion::Two))];

pub fn upstream_proxy_protocol(target: &mut Target, values: &Values<'_>) -> Done {
    let version = choice(values.one()?, &PROXY_VERSIONS)?;
    first(&mut target.login.upstream_proxy_protocol, version)
}

pub fn dump_upstream_proxy_protocol(view: &View<'_>) -> Vec<String> {
    let version = view.login.upstream_proxy_protocol;
    let named = PROXY_VERSIONS.iter().find(|(_, known)| *known == version);
    one(named.map_or("none", |(name, _)| *name))
}

/// `yes` is this long.
pub fn upstream_share(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let kept = match word.to_ascii_lowercase().as_str() {
        "no" => None,
        "yes" => Some(UPSTREAM_SHARE_KEPT),
        _ => Some(values.duration()?),
    };
    if kept.is_some_and(|kept| kept > UPSTREAM_SHARE_TIME_MAX) {
        let most = UPSTREAM_SHARE_TIME_MAX.as_secs();
        return Err(Wrong::new(word, format!("longer than {most} seconds")));
    }
    first(&mut target.login.upstream_share, kept)
}

pub fn dump_upstream_share(view: &View<'_>) -> Vec<String> {
    let kept = view.login.upstream_share.map(|kept| kept.as_secs().to_string());
    one(kept.unwrap_or_else(|| "no".to_owned()))
}

fn path_or_none(path: Option<&PathBuf>) -> String {
    path.map_or_else(|| "none".to_owned(), |path| quote(&path.to_string_lossy()))
}

fn or_none(words: Vec<String>) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}
