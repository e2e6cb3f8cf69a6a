//! The keywords about what is forwarded for clients: their parsers and how they are dumped.

use super::diagnostic::Wrong;
use super::dump::{View, one, path_or_none, yes_no};
use super::honour::{Done, choice, first};
use super::keywords::Target;
use super::values::{Values, is_none};
use crate::limits::{PERMITS_MAX, X11_DISPLAYS_MAX};
use crate::services::forward::{GatewayPorts, Permit, Permits, Ways};

pub fn allow_agent_forwarding(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.allow_agent_forwarding, values.flag()?)
}

pub fn dump_allow_agent_forwarding(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.allow_agent_forwarding))
}

pub fn allow_streamlocal_forwarding(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.allow_streamlocal_forwarding, choice(values.one()?, &Ways::NAMES)?)
}

pub fn dump_allow_streamlocal_forwarding(view: &View<'_>) -> Vec<String> {
    ways(view.login.allow_streamlocal_forwarding)
}

pub fn allow_tcp_forwarding(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.allow_tcp_forwarding, choice(values.one()?, &Ways::NAMES)?)
}

pub fn dump_allow_tcp_forwarding(view: &View<'_>) -> Vec<String> {
    ways(view.login.allow_tcp_forwarding)
}

pub fn disable_forwarding(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.disable_forwarding, values.flag()?)
}

pub fn dump_disable_forwarding(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.disable_forwarding))
}

pub fn permit_open(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.permit_open, permits(values, Permit::parse)?)
}

pub fn dump_permit_open(view: &View<'_>) -> Vec<String> {
    places(&view.login.permit_open)
}

pub fn permit_listen(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.permit_listen, permits(values, Permit::parse_listen)?)
}

pub fn dump_permit_listen(view: &View<'_>) -> Vec<String> {
    places(&view.login.permit_listen)
}

pub fn gateway_ports(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.gateway_ports, choice(values.one()?, &GatewayPorts::NAMES)?)
}

pub fn dump_gateway_ports(view: &View<'_>) -> Vec<String> {
    let named = |(_, known): &&(&str, GatewayPorts)| *known == view.login.gateway_ports;
    one(GatewayPorts::NAMES.iter().find(named).map_or("no", |(name, _)| *name))
}

pub fn streamlocal_bind_mask(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let octal = !word.is_empty() && word.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mask = u32::from_str_radix(word, 8).ok().filter(|mask| octal && *mask <= 0o777);
    let mask = mask.ok_or_else(|| Wrong::new(word, "not an octal mask from 0 to 0777"))?;
    first(&mut target.login.streamlocal_bind_mask, mask)
}

pub fn dump_streamlocal_bind_mask(view: &View<'_>) -> Vec<String> {
    one(format!("0{:o}", view.login.streamlocal_bind_mask))
}

pub fn streamlocal_bind_unlink(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.streamlocal_bind_unlink, values.flag()?)
}

pub fn dump_streamlocal_bind_unlink(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.streamlocal_bind_unlink))
}

pub fn x11_display_offset(target: &mut Target, values: &Values<'_>) -> Done {
    let offset = values.number(0..=u32::from(X11_DISPLAYS_MAX - 1))?;
    first(&mut target.login.x11_display_offset, offset as u16)
}

pub fn dump_x11_display_offset(view: &View<'_>) -> Vec<String> {
    one(view.login.x11_display_offset)
}

pub fn x11_forwarding(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.x11_forwarding, values.flag()?)
}

pub fn dump_x11_forwarding(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.x11_forwarding))
}

pub fn x11_use_localhost(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.x11_use_localhost, values.flag()?)
}

pub fn dump_x11_use_localhost(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.x11_use_localhost))
}

pub fn xauth_location(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.xauth, values.path_or_none()?)
}

pub fn dump_xauth_location(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.global.xauth.as_deref()))
}

fn ways(ways: Ways) -> Vec<String> {
    one(Ways::NAMES.iter().find(|(_, known)| *known == ways).map_or("no", |(name, _)| *name))
}

fn places(permits: &Permits) -> Vec<String> {
    one(match permits.0.as_deref() {
        None => "any".to_owned(),
        Some([]) => "none".to_owned(),
        Some(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    })
}

fn permits(
    values: &Values<'_>,
    parse: fn(&str) -> Result<Permit, &'static str>,
) -> Result<Permits, Wrong> {
    let words = values.many()?;
    match words {
        [only] if only.eq_ignore_ascii_case("any") => return Ok(Permits::ANY),
        [only] if is_none(only) => return Ok(Permits::NONE),
        _ => {}
    }
    if words.len() > PERMITS_MAX {
        return Err(Wrong::new("", format!("more than {PERMITS_MAX} places")));
    }
    let read = |word: &String| {
        parse(word).map_err(|problem| {
            let wrong = Wrong::new(word, problem);
            wrong.help("write any or none alone, or places like 10.0.0.1:22, [::1]:22 or host:*")
        })
    };
    words.iter().map(read).collect::<Result<_, _>>().map(|list| Permits(Some(list)))
}
