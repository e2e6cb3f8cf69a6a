//! One log line an event of a connection. Wording follows sshd's where log shippers and ban lists
//! match on it.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::base::{Escaped, escape as escape_bytes, escape_word};
use crate::gateway::log_level;
use crate::gateway::reports::Reports;
use crate::limits::EVENTS_MAX;
use crate::shard::{Ending, Report, What};
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
        What::KeyExchanged { first, peer_ident, algorithms, .. } => {
            let client = escape(peer_ident);
            let what = if *first { "Key exchange" } else { "Rekeyed" };
            info!(link, %ip, port, %client, algorithms, "{what}: {algorithms}, client {client}");
        }
        What::AuthFailed { .. }
        | What::TriesExceeded { .. }
        | What::Partial { .. }
        | What::Authenticated { .. } => login(report),
        // The account's, or the relay: whoever hands it over need not know.
        What::HandedOver { user } => {
            info!(link, %ip, port, user, "Connection of {user} goes on in another process");
        }
        What::MovedOn { user, .. } => {
            info!(link, %ip, port, user, "Connection of {user} goes on in the next program");
        }
        What::MovedIn { user, sessions, forwards } => {
            info!(
                link, %ip, port, user, sessions, forwards,
                "Connection of {user} has come from the program before: {sessions} sessions, \
                 {forwards} forwarded connections"
            );
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
        What::Authenticated { user, method, key, source, .. } => {
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
    let What::Disconnected { user, reason, ours, bytes_in, bytes_out, after, .. } = &report.what
    else {
        return;
    };
    let (link, ip, port) = (report.serial, report.peer.ip(), report.peer.port());
    for line in end_as_in_sshd(report) {
        info!(link, %ip, port, "{line}");
    }
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

/// What sshd says of such an end, which ban lists and other readers of logs look for.
fn end_as_in_sshd(report: &Report) -> Vec<String> {
    let What::Disconnected { user, asked, ending, reason, .. } = &report.what else {
        return Vec::new();
    };
    let (ip, port) = (report.peer.ip(), report.peer.port());
    let at = format!("{ip} port {port}");
    let inside = report.grant.is_some();
    let phase = if inside { "" } else { " [preauth]" };
    // Who exists is not known where strangers are heard.
    let whose = match (inside, user, asked) {
        (true, Some(user), _) => format!("user {} ", word(user)),
        (false, _, Some(asked)) => format!("authenticating user {} ", word(asked)),
        _ => String::new(),
    };
    match ending {
        Ending::Left { reset: false, greeted: false } => vec![
            "kex_exchange_identification: Connection closed by remote host".to_owned(),
            format!("Connection closed by {at}"),
        ],
        Ending::Left { reset: true, greeted: false } => vec![
            "kex_exchange_identification: read: Connection reset by peer".to_owned(),
            format!("Connection reset by {at}"),
        ],
        Ending::Left { reset: false, .. } if inside => vec![format!("Connection closed by {at}")],
        Ending::Left { reset: true, .. } if inside => {
            vec![format!("Read error from remote host {at}: {}", escape(reason))]
        }
        Ending::Left { reset, .. } => {
            let how = if *reset { "reset" } else { "closed" };
            vec![format!("Connection {how} by {whose}{at}{phase}")]
        }
        Ending::Told { code, text } => vec![
            format!("Received disconnect from {at}:{code}: {}{phase}", escape(text)),
            format!("Disconnected from {whose}{at}{phase}"),
        ],
        Ending::Unidentified { other_version } => {
            let why =
                if *other_version { "could not read protocol version" } else { "invalid format" };
            vec![format!("banner exchange: Connection from {at}: {why}")]
        }
        Ending::NothingInCommon { what, theirs } => {
            let what = match *what {
                "host key algorithm" => "host key type",
                "compression" => "compression method",
                what => what,
            };
            let theirs = escape(theirs);
            vec![format!(
                "Unable to negotiate with {at}: no matching {what} found. Their offer: {theirs}{phase}"
            )]
        }
        Ending::Late { local } if !inside => vec![format!(
            "Timeout before authentication for connection from {ip} to {local}, pid = {}",
            report.serial
        )],
        Ending::Late { .. } => vec![format!("Timeout, client not responding from {whose}{at}")],
        Ending::Dismissed => vec![format!("Disconnecting {whose}{at}: {}{phase}", escape(reason))],
        Ending::Other => Vec::new(),
    }
}

fn escape(text: &str) -> Escaped<'_> {
    escape_bytes(text.as_bytes())
}

fn word(text: &str) -> String {
    escape_word(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::services::Grant;

    fn end(ending: Ending, asked: Option<&str>, grant: Option<Arc<Grant>>) -> Report {
        let what = What::Disconnected {
            user: grant.as_ref().map(|grant| grant.account.name.clone()),
            asked: asked.map(str::to_owned),
            ending,
            reason: "why".to_owned(),
            ours: false,
            bytes_in: 1,
            bytes_out: 2,
            after: Duration::ZERO,
        };
        let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 40));
        Report { serial: 7, peer, verbosity: None, what, grant, channel: None }
    }

    /// In the words of OpenSSH 9.2 and, of a login that takes too long, 10.0. A name that lies is one word.
    #[test]
    fn ends_are_told_as_sshd_tells_them() {
        let left = |reset, greeted| Ending::Left { reset, greeted };
        let told = || Ending::Told { code: 11, text: "bye\n".into() };
        let rows: Vec<(Ending, Option<&str>, &[&str])> = vec![
            (
                left(false, false),
                None,
                &[
                    "kex_exchange_identification: Connection closed by remote host",
                    "Connection closed by 192.0.2.1 port 40",
                ],
            ),
            (left(false, true), None, &["Connection closed by 192.0.2.1 port 40 [preauth]"]),
            (
                left(true, true),
                Some("a from 1.1.1.1"),
                &[
                    "Connection reset by authenticating user a\\x20from\\x201.1.1.1 192.0.2.1 port 40 [preauth]",
                ],
            ),
            (
                told(),
                Some("ann"),
                &[
                    "Received disconnect from 192.0.2.1 port 40:11: bye\\n [preauth]",
                    "Disconnected from authenticating user ann 192.0.2.1 port 40 [preauth]",
                ],
            ),
            (
                Ending::NothingInCommon { what: "host key algorithm", theirs: "ssh-dss".into() },
                None,
                &["Unable to negotiate with 192.0.2.1 port 40: no matching host key type found. \
                   Their offer: ssh-dss [preauth]"],
            ),
            (
                Ending::Late { local: IpAddr::from([192, 0, 2, 9]) },
                Some("ann"),
                &[
                    "Timeout before authentication for connection from 192.0.2.1 to 192.0.2.9, pid = 7",
                ],
            ),
            (
                Ending::Dismissed,
                Some("ann"),
                &["Disconnecting authenticating user ann 192.0.2.1 port 40: why [preauth]"],
            ),
            (
                Ending::Unidentified { other_version: true },
                None,
                &[
                    "banner exchange: Connection from 192.0.2.1 port 40: could not read protocol version",
                ],
            ),
            (Ending::Other, None, &[]),
        ];
        for (ending, asked, lines) in rows {
            assert_eq!(end_as_in_sshd(&end(ending, asked, None)), lines);
        }
    }
}
