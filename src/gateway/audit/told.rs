//! What an audit tells of what shards report.

use std::net::SocketAddr;

use super::SUCCESS;
use super::entry::{Entry, Event, Field};
use crate::services::{FileEvent, Origin};
use crate::shard::{CertificateTold, KeyTold, Report, What};
use crate::wire::auth::{METHOD_PUBLIC_KEY, METHOD_PUBLIC_KEY_HOST_BOUND};

/// The event that a report is about; `None`: an audit has no interest in it.
pub fn entry_of(report: &Report) -> Option<Entry> {
    let entry = |event| about(event, report);
    Some(match &report.what {
        What::Connected { local } => entry(Event::Connect)
            .text(Field::LocalIp, local.ip().to_string())
            .number(Field::LocalPort, local.port().into()),
        What::KeyExchanged { first: true, peer_ident, algorithms, .. } => entry(Event::KeyExchange)
            .text(Field::Client, peer_ident)
            .text(Field::Algorithms, algorithms),
        // Nothing that somebody has done.
        What::KeyExchanged { .. }
        | What::HandedOver { .. }
        | What::MovedOn { .. }
        | What::MovedIn { .. } => return None,
        // Told as the reason of the end.
        What::TriesExceeded { .. } => return None,
        What::AuthFailed { user, method, key, why } => {
            attempt(entry(Event::Auth).of_user(user), "failure", method, key.as_deref())
                .some_text(Field::Reason, *why)
        }
        What::Partial { user, method, key } => {
            attempt(entry(Event::Auth).of_user(user), "partial", method, key.as_deref())
        }
        What::Authenticated { user, method, key, source, .. } => {
            attempt(entry(Event::Auth).of_user(user), SUCCESS, method, key.as_deref())
                .text(Field::Source, source)
        }
        What::SessionStarted { what, .. } => entry(Event::SessionStart).text(Field::What, what),
        What::SessionEnded { what } => entry(Event::SessionEnd).text(Field::What, what),
        What::Forwarding { what, .. } => entry(Event::ForwardStart).text(Field::What, what),
        What::Listening { what, .. } => entry(Event::Listen).text(Field::What, what),
        What::NotForwarded { what, why, .. } => {
            ruled(entry(Event::ForwardFailed).text(Field::What, what), report, why)
        }
        What::Forwarded { what, bytes_in, bytes_out, reason, .. } => entry(Event::ForwardEnd)
            .text(Field::What, what)
            .text(Field::Reason, reason)
            .number(Field::BytesIn, *bytes_in)
            .number(Field::BytesOut, *bytes_out),
        What::Upstream { what } => entry(Event::Upstream).text(Field::What, what),
        What::UpstreamFailed { host, why } => {
            entry(Event::UpstreamFailed).text(Field::Host, host).text(Field::Reason, why)
        }
        What::NotRecorded { why, continues } => {
            let result = if *continues { "continued" } else { "refused" };
            entry(Event::RecordFailed).text(Field::Result, result).text(Field::Reason, why)
        }
        What::File(event) => file(entry(Event::File), event),
        What::Refused { what, why } => {
            ruled(entry(Event::Refused).text(Field::What, what), report, why)
        }
        What::Disconnected { user, reason, ours, bytes_in, bytes_out, .. } => {
            entry(Event::Disconnect)
                .of_user(user.as_deref().unwrap_or_default())
                .text(Field::Reason, reason)
                .some_text(Field::Fault, ours.then_some("gateway"))
                .number(Field::BytesIn, *bytes_in)
                .number(Field::BytesOut, *bytes_out)
        }
    })
}

/// A login that was checked here.
pub fn login(
    from: &Origin,
    user: &str,
    method: &str,
    key: Option<&KeyTold>,
    source: &str,
) -> Entry {
    let entry = Entry::new(Event::Auth, from.link, from.peer).of_user(user);
    attempt(entry, SUCCESS, method, key).text(Field::Source, source)
}

/// Policy does not let somebody in. `what`: the key and what it is shown in, or that something was typed; never
/// the secret.
pub fn denied(
    (link, peer): (u64, SocketAddr),
    user: &str,
    (what, certificate): (&str, Option<&CertificateTold>),
    why: &str,
    rule: Option<&str>,
) -> Entry {
    let entry = Entry::new(Event::Denied, link, peer).of_user(user).text(Field::What, what);
    certified(entry, certificate).text(Field::Reason, why).some_text(Field::Rule, rule)
}

fn about(event: Event, report: &Report) -> Entry {
    let entry = Entry::new(event, report.serial, report.peer);
    let entry = match &report.grant {
        Some(grant) => entry.of_user(&grant.account.name),
        None => entry,
    };
    match report.channel {
        Some(channel) => entry.number(Field::Channel, channel.into()),
        None => entry,
    }
}

/// Why, and the line that says so.
fn ruled(entry: Entry, report: &Report, why: &str) -> Entry {
    let grant = report.grant.as_ref();
    let rule = grant.and_then(|grant| grant.rules.lines_of(why, &grant.source));
    entry.text(Field::Reason, why).some_text(Field::Rule, rule.as_deref())
}

fn attempt(entry: Entry, result: &str, method: &str, key: Option<&KeyTold>) -> Entry {
    // The host-bound method is the same to whoever reads.
    let is_key = method == METHOD_PUBLIC_KEY_HOST_BOUND;
    let method = if is_key { METHOD_PUBLIC_KEY } else { method };
    let entry = entry.text(Field::Result, result).text(Field::Method, method);
    let Some(key) = key else { return entry };
    certified(entry.text(Field::Fingerprint, &key.fingerprint), key.certificate.as_ref())
}

fn certified(entry: Entry, certificate: Option<&CertificateTold>) -> Entry {
    match certificate {
        // A number that large loses its end in many readers of JSON.
        Some(certificate) => entry
            .text(Field::CertificateId, &certificate.id)
            .text(Field::CertificateSerial, certificate.serial.to_string())
            .text(Field::Authority, &certificate.authority),
        None => entry,
    }
}

fn file(entry: Entry, event: &FileEvent) -> Entry {
    let mut entry = entry.text(Field::Operation, event.operation).text(Field::Path, &event.path);
    if !event.to.is_empty() {
        entry = entry.text(Field::To, &event.to);
    }
    if let Some((read, written)) = event.moved {
        entry = entry.number(Field::BytesRead, read).number(Field::BytesWritten, written);
    }
    entry.text(Field::Status, event.status.text())
}
