//! The keywords about sources of connections: PerSourceMaxStartups, PerSourceNetBlockSize,
//! PerSourcePenalties and PerSourcePenaltyExemptList.

use std::time::Duration;

use super::diagnostic::Wrong;
use super::dump::View;
use super::honour::{bad_host, choice, first};
use super::keywords::Target;
use super::lexer::quote;
use super::patterns::HostList;
use super::settings::{Overflow, PenaltiesDraft, SourceBlocks};
use super::values::{self, Values, is_none};
use crate::limits::{PENALTY_SOURCES_MAX, STARTUPS_MAX};

pub fn per_source_max_startups(target: &mut Target, values: &Values<'_>) -> Result<(), Wrong> {
    let word = values.one()?;
    let most = match is_none(word) {
        true => None,
        false => Some(values::number(word, 0..=STARTUPS_MAX as u32)?),
    };
    first(&mut target.global.per_source_startups, most)
}

pub fn per_source_net_block_size(target: &mut Target, values: &Values<'_>) -> Result<(), Wrong> {
    let word = values.one()?;
    let (ipv4, ipv6) = match word.split_once(':') {
        Some((ipv4, ipv6)) => (ipv4, values::number(ipv6, 0..=128)?),
        None => (word, 128),
    };
    let ipv4 = values::number(ipv4, 0..=32)?;
    // Both fit: the ranges above see to it.
    first(&mut target.global.source_blocks, SourceBlocks { ipv4: ipv4 as u8, ipv6: ipv6 as u8 })
}

pub fn per_source_penalties(target: &mut Target, values: &Values<'_>) -> Result<(), Wrong> {
    let words = values.many()?;
    let draft = &mut target.global.penalties;
    for word in words {
        let switch = [("yes", true), ("no", false)];
        if let Some((_, on)) = switch.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) {
            if words.len() > 1 {
                return Err(Wrong::new(word, "yes and no stand alone"));
            }
            first(&mut draft.enabled, *on)?;
            continue;
        }
        item(draft, word)?;
        // As with sshd, whoever sets a penalty wants them.
        first(&mut draft.enabled, true)?;
    }
    Ok(())
}

pub fn per_source_penalty_exempt_list(
    target: &mut Target,
    values: &Values<'_>,
) -> Result<(), Wrong> {
    let word = values.one()?;
    let list = match is_none(word) {
        true => None,
        false => Some(HostList::new(word).map_err(|bad| bad_host(word, &bad))?),
    };
    first(&mut target.global.penalty_exempt, list)
}

/// One `name:value`.
fn item(draft: &mut PenaltiesDraft, word: &str) -> Result<(), Wrong> {
    let modes = [("deny-all", Overflow::DenyAll), ("permissive", Overflow::Permissive)];
    let (name, value) =
        word.split_once(':').ok_or_else(|| Wrong::new(word, "not a name, a : and a value"))?;
    let time = match name {
        "crash" => &mut draft.crash,
        "authfail" => &mut draft.auth_failure,
        "invaliduser" => &mut draft.invalid_user,
        "noauth" => &mut draft.no_auth,
        "grace-exceeded" => &mut draft.grace,
        "refuseconnection" => &mut draft.refused,
        "max" => &mut draft.max,
        "min" => &mut draft.min,
        "max-sources4" => {
            return first(&mut draft.sources4, values::number(value, 0..=PENALTY_SOURCES_MAX)?);
        }
        "max-sources6" => {
            return first(&mut draft.sources6, values::number(value, 0..=PENALTY_SOURCES_MAX)?);
        }
        "overflow" => return first(&mut draft.overflow, choice(value, &modes)?),
        "overflow6" => return first(&mut draft.overflow6, Some(choice(value, &modes)?)),
        _ => return Err(Wrong::new(name, "there is no such penalty")),
    };
    first(time, values::fractional_duration(value)?)
}

pub fn dump_max_startups(view: &View<'_>) -> Vec<String> {
    let most = view.global.per_source_startups;
    vec![most.map_or("none".to_owned(), |most| most.to_string())]
}

pub fn dump_net_block_size(view: &View<'_>) -> Vec<String> {
    let SourceBlocks { ipv4, ipv6 } = view.global.source_blocks;
    vec![format!("{ipv4}:{ipv6}")]
}

pub fn dump_penalty_exempt_list(view: &View<'_>) -> Vec<String> {
    let list = view.global.penalty_exempt.as_ref();
    vec![list.map_or("none".to_owned(), |list| quote(&list.to_string()))]
}

pub fn dump_penalties(view: &View<'_>) -> Vec<String> {
    let p = &view.global.penalties;
    if !p.enabled {
        return vec!["no".to_owned()];
    }
    let mode = |mode| match mode {
        Overflow::DenyAll => "deny-all",
        Overflow::Permissive => "permissive",
    };
    let times = [
        ("crash", p.crash),
        ("authfail", p.auth_failure),
        ("noauth", p.no_auth),
        ("invaliduser", p.invalid_user),
        ("grace-exceeded", p.grace),
        ("refuseconnection", p.refused),
        ("max", p.max),
        ("min", p.min),
    ];
    let mut text: String =
        times.iter().map(|(name, time)| format!("{name}:{} ", seconds(*time))).collect();
    text += &format!(
        "max-sources4:{} max-sources6:{} overflow:{} overflow6:{}",
        p.sources4,
        p.sources6,
        mode(p.overflow),
        mode(p.overflow6.unwrap_or(p.overflow))
    );
    vec![text]
}

/// Seconds with as many decimals as they need.
fn seconds(time: Duration) -> String {
    match time.subsec_micros() {
        0 => time.as_secs().to_string(),
        micros => {
            let decimals = format!("{micros:06}");
            format!("{}.{}", time.as_secs(), decimals.trim_end_matches('0'))
        }
    }
}
