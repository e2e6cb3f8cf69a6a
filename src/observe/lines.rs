//! One log line an event of a connection. Wording follows sshd's where log shippers and ban lists
//! match on it.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::base::{Escaped, escape as escape_bytes, escape_word};
use crate::gateway::log_level;
use crate::gateway::reports::Reports;
use crate::limits::EVENTS_MAX;
use crate::shard::{Report, What};
use crate::wire::auth::{METHOD_PUBLIC_KEY, METHOD_PUBLIC_KEY_HOST_BOUND};

/// How long the log rests after it has caught up. A login makes several lines within moments;
/// writing them together wakes this thread once.
const REST: Duration = Duration::from_millis(10);

/// Writes lines until nobody has any more to give.
pub fn write_all(reports: &Reports) {
    while let Some(report) = reports.next() {
        write(&report);
        // In a storm that does not end too, what is lost is told now and then.
        reports.waiting().take(EVENTS_MAX).for_each(|report| write(&report));
        tell_lost(reports);
        std::thread::sleep(REST);
    }
    tell_lost(reports);
}

/// One line for all that were lost since the last.
fn tell_lost(reports: &Reports) {
    let lost = reports.take_lost();
    if lost > 0 {
        warn!(lost, "{lost} log lines were lost because the log was behind");
    }
}

/// Writes the line of one event.
pub fn write(report: &Report) {
    log_level::about(report.serial, report.verbosity, || write_line(report));
}

/// A method as sshd logs it: the host-bound one is the same to whoever reads.
fn familiar(method: &str) -> &str {
    if method == METHOD_PUBLIC_KEY_HOST_BOUND { METHOD_PUBLIC_KEY } else { method }
}

fn write_line(report: &Report) {
    let (link, ip, port) = (report.serial, report.peer.ip(), report.peer.port());
    match &report.what {
        What::Connected { local } => {
            info!(link, %ip, port, %local, "Connection from {ip} port {port} on {local}");
        }
        What::KeyExchanged { first, peer_ident, algorithms } => {
            let client = escape(peer_ident);
            let what = if *first { "Key exchange" } else { "Rekeyed" };
            info!(link, %ip, port, %client, algorithms, "{what}: {algorithms}, client {client}");
        }
        What::AuthFailed { .. }
        | What::TriesExceeded { .. }
        | What::Partial { .. }
        | What::Authenticated { .. } => login(report),
        What::HandedOver { user } => {
            info!(link, %ip, port, user, "Connection goes on in the process of {user}");
        }
        What::SessionStarted { user, what } => {
            let what = escape(what);
            info!(link, %ip, port, user, %what, "Starting session: {what} for {user}");
        }
        What::SessionEnded { what } => {
            let what = escape(what);
            info!(link, %ip, port, %what, "Session ended: {what}");
        }
        What::Forwarding { user, what } => {
            let what = escape(what);
            info!(link, %ip, port, user, %what, "Forwarding {what} for {user}");
        }
        What::Listening { user, what } => {
            let what = escape(what);
            info!(link, %ip, port, user, %what, "Listening for {user}: {what}");
        }
        What::NotForwarded { user, what, why } => {
            let (what, why) = (escape(what), escape(why));
            warn!(link, %ip, port, user, %what, %why, "Cannot forward {what} for {user}: {why}");
        }
        What::Forwarded { user, what, bytes_in, bytes_out, reason } => {
            let what = escape(what);
            info!(
                link, %ip, port, user, %what, bytes_in, bytes_out, reason,
                "Forwarded {what} for {user}: {bytes_in} bytes in, {bytes_out} out, {reason}"
            );
        }
        What::Refused { what, why } => {
            let what = escape(what);
            warn!(link, %ip, port, %what, why, "Refused {what}: {why}");
        }
        What::Upstream { .. } | What::UpstreamFailed { .. } => upstream(report),
        What::NotRecorded { why, continues } => {
            let why = escape(why);
            let then = if *continues { "sessions go on without" } else { "it ends" };
            error!(link, %ip, port, %why, "Cannot record {ip} port {port}: {why}; {then}");
        }
        // An audit's.
        What::File(_) => {}
        What::Disconnected { .. } => disconnected(report),
    }
}

/// In sshd's words, which ban lists look for.
fn login(report: &Report) {
    let (link, ip, port) = (report.serial, report.peer.ip(), report.peer.port());
    match &report.what {
        What::AuthFailed { user, method, key, why } => {
            let (user, method) = (word(user), word(familiar(method)));
            let key = key.as_deref().map_or("", |key| &*key.text);
            let colon = if key.is_empty() { "" } else { ": " };
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            warn!(
                link, %ip, port, %user, %method, key,
                "Failed {method} for {user} from {ip} port {port} ssh2{colon}{key}{why}"
            );
        }
        What::Partial { user, method, key } => {
            let (user, method) = (word(user), familiar(method));
            let key = key.as_deref().map_or("", |key| &*key.text);
            let colon = if key.is_empty() { "" } else { ": " };
            info!(
                link, %ip, port, %user, method, key,
                "Partial {method} for {user} from {ip} port {port} ssh2{colon}{key}"
            );
        }
        What::Authenticated { user, method, key, source } => {
            let (user, method) = (word(user), familiar(method));
            let key = key.as_deref().map_or("", |key| &*key.text);
            let colon = if key.is_empty() { "" } else { ": " };
            info!(
                link, %ip, port, %user, method, key, source,
                "Accepted {method} for {user} from {ip} port {port} ssh2{colon}{key} ({source})"
            );
        }
        What::TriesExceeded { user } => {
            let user = word(user);
            warn!(
                link, %ip, port, %user,
                "maximum authentication attempts exceeded for {user} from {ip} port {port} ssh2"
            );
        }
        _ => {}
    }
}

fn upstream(report: &Report) {
    let (link, ip, port) = (report.serial, report.peer.ip(), report.peer.port());
    match &report.what {
        What::Upstream { what } => {
            let what = escape(what);
            info!(link, %ip, port, %what, "Connection from {ip} port {port} goes on as {what}");
        }
        What::UpstreamFailed { host, why } => {
            let (host, why) = (escape(host), escape(why));
            warn!(link, %ip, port, %host, %why, "Upstream {host} for {ip} port {port}: {why}");
        }
        _ => {}
    }
}

fn disconnected(report: &Report) {
    let What::Disconnected { user, reason, ours, bytes_in, bytes_out, after } = &report.what else {
        return;
    };
    let (link, ip, port) = (report.serial, report.peer.ip(), report.peer.port());
    let user = user.as_deref().unwrap_or("-");
    let reason = escape(reason);
    let seconds = after.as_secs_f64();
    let text = format!("Disconnected {user} from {ip} port {port}: {reason}");
    if *ours {
        error!(link, %ip, port, user, %reason, bytes_in, bytes_out, seconds, "{text}");
    } else {
        info!(
            link, %ip, port, user, %reason, bytes_in, bytes_out, seconds,
            "{text}; {bytes_in} bytes in, {bytes_out} out, {seconds:.1} s"
        );
    }
}

fn escape(text: &str) -> Escaped<'_> {
    escape_bytes(text.as_bytes())
}

fn word(text: &str) -> String {
    escape_word(text.as_bytes())
}
