//! The keywords about what stands before the gateway and how it leaves: TidegateProxyProtocol,
//! TidegateProxyProtocolTimeout and TidegateDrainTime; and where it is asked how it is, TidegateControl.

use std::time::Duration;

use super::diagnostic::Wrong;
use super::dump::{View, one};
use super::honour::{Done, bad_host, choice, first};
use super::keywords::Target;
use super::lexer::quote;
use super::patterns::HostList;
use super::settings::{ControlAt, Proxies};
use super::values::{self, Values, is_none};
use crate::limits::{DRAIN_TIME_MAX, PREFACE_TIME_MAX};

pub fn proxy_protocol(target: &mut Target, values: &Values<'_>) -> Done {
    let modes = [("required", true), ("optional", false)];
    let (word, required) = match values.many()? {
        [word] => (word, true),
        [word, mode] => (word, choice(mode, &modes)?),
        [_, _, extra, ..] => return Err(Wrong::new(extra, "at most two values are expected")),
        [] => return Ok(()),
    };
    if is_none(word) {
        return first(&mut target.global.proxies, None);
    }
    let networks = HostList::new(word).map_err(|bad| bad_host(word, &bad))?;
    if !networks.is_of_addresses() {
        let wrong = Wrong::new(word, "neither addresses nor networks");
        return Err(wrong.help("write the proxies' own, like 192.0.2.10 or 2001:db8:1::/64"));
    }
    first(&mut target.global.proxies, Some(Proxies { networks, required }))
}

pub fn dump_proxy_protocol(view: &View<'_>) -> Vec<String> {
    one(match &view.global.proxies {
        None => "none".to_owned(),
        Some(Proxies { networks, required: true }) => format!("{networks} required"),
        Some(Proxies { networks, required: false }) => format!("{networks} optional"),
    })
}

pub fn proxy_protocol_timeout(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let time = values.duration()?;
    if time.is_zero() || time > PREFACE_TIME_MAX {
        return Err(Wrong::new(word, "not a time from 1 second to 1 minute"));
    }
    first(&mut target.global.proxy_time, time)
}

pub fn dump_proxy_protocol_timeout(view: &View<'_>) -> Vec<String> {
    one(view.global.proxy_time.as_secs())
}

pub fn control(target: &mut Target, values: &Values<'_>) -> Done {
    let at = match values.one()? {
        word if is_none(word) => ControlAt::None,
        word if word.eq_ignore_ascii_case("auto") => ControlAt::Auto,
        word if word.starts_with('/') => ControlAt::Path(word.into()),
        word => return Err(Wrong::new(word, "neither an absolute path nor one of the words")),
    };
    first(&mut target.global.control, at)
}

pub fn dump_control(view: &View<'_>) -> Vec<String> {
    one(match &view.global.control {
        ControlAt::None => "none".to_owned(),
        ControlAt::Auto => "auto".to_owned(),
        ControlAt::Path(path) => quote(&path.to_string_lossy()),
    })
}

pub fn drain_time(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let time = if is_none(word) { Duration::ZERO } else { values::duration(word)? };
    if time > DRAIN_TIME_MAX {
        return Err(Wrong::new(word, "more than a week"));
    }
    first(&mut target.global.drain_time, time)
}

pub fn dump_drain_time(view: &View<'_>) -> Vec<String> {
    one(view.global.drain_time.as_secs())
}

const _: () = assert!(PREFACE_TIME_MAX.as_secs() == 60 && DRAIN_TIME_MAX.as_secs() == 604_800);
