//! The summary of `ctl status`.

use std::collections::BTreeMap;

use super::figures::{Histogram, Process, Quantile, Status};
use super::text::{latency, table, uptime, word};
use crate::base::amount;

/// The lines that tell of one gateway.
pub fn summary(status: &Status) -> Vec<String> {
    let totals = &status.totals;
    let mut rows = vec![
        ("listens at", listeners(status)),
        (
            "connections",
            format!(
                "{} now, {} accepted, {} refused",
                totals.connections_active, totals.connections_accepted, totals.connections_refused
            ),
        ),
        ("key exchanges", format!("{}, {} rekeys", totals.key_exchanges, totals.rekeys)),
        ("logins", methods(&totals.logins)),
        ("failures", methods(&totals.failures)),
        (
            "sessions",
            format!(
                "{} now, {} started, {} passed on",
                totals.sessions_active, totals.sessions_started, totals.sessions_passed_on
            ),
        ),
        (
            "forwards",
            format!(
                "{} now, {} started, {} failed",
                totals.forwards_active, totals.forwards_started, totals.forwards_failed
            ),
        ),
        (
            "bytes",
            format!(
                "{} in, {} out",
                amount(totals.bytes_in as f64),
                amount(totals.bytes_out as f64)
            ),
        ),
        ("handshake", latencies(&status.handshake, &[0.5, 0.9, 0.99])),
        ("login", latencies(&status.login, &[0.5, 0.9, 0.99])),
    ];
    if status.generations > 1 {
        let older = status.generations - 1;
        rows.insert(
            1,
            (
                "configurations",
                format!("{} in use, {older} until its connections end", status.generations),
            ),
        );
    }
    // What should not be there is not shown where it is not.
    if totals.upstreams_failed > 0 {
        rows.push(("hosts behind", format!("{} not reached", totals.upstreams_failed)));
    }
    if totals.defects > 0 {
        rows.push(("defects", format!("{}; the log tells more", totals.defects)));
    }
    let mut lines = vec![title(status)];
    lines.extend(rows.into_iter().map(|(name, text)| format!("  {name:<14} {text}")));
    lines.push(String::new());
    lines.extend(processes(&status.processes).into_iter().map(|line| format!("  {line}")));
    lines
}

/// Who it is, and for how long.
pub fn title(status: &Status) -> String {
    let state = if status.state.is_empty() { "unknown" } else { &status.state };
    format!(
        "gateway {} ({}), {} for {}",
        status.pid,
        word(&status.version),
        word(state),
        uptime(status.uptime_seconds)
    )
}

fn listeners(status: &Status) -> String {
    let all: Vec<String> = status.listeners.iter().map(|address| word(address)).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

/// Those that there were any of.
fn methods(counts: &BTreeMap<String, u64>) -> String {
    let some = counts.iter().filter(|(_, count)| **count > 0);
    let all: Vec<String> =
        some.map(|(method, count)| format!("{count} {}", word(method))).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// Such as "p50 1.2 ms, p99 8.0 ms".
pub fn latencies(times: &Histogram, shares: &[f64]) -> String {
    let one = |share: &f64| {
        let time = match times.quantile(*share)? {
            Quantile::Seconds(seconds) => latency(seconds),
            Quantile::Beyond(seconds) => format!("over {}", latency(seconds)),
        };
        Some(format!("p{:.0} {time}", share * 100.0))
    };
    let all: Vec<String> = shares.iter().filter_map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// A table of processes, and all of them together.
fn processes(processes: &[Process]) -> Vec<String> {
    let header = ["process", "name", "pid", "CPU time", "memory", "connections", "in", "out"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(processes.iter().map(|one| {
        let mut row = vec![word(&one.role), word(&one.name), one.pid.to_string()];
        row.extend(spent(one));
        row
    }));
    if processes.len() > 1 {
        let mut row = vec!["all".to_owned(), String::new(), String::new()];
        row.extend(spent(&in_all(processes)));
        rows.push(row);
    }
    table(2, &rows)
}

fn spent(one: &Process) -> [String; 5] {
    [
        format!("{:.2} s", one.cpu_seconds),
        amount(one.memory_bytes as f64),
        one.connections.to_string(),
        amount(one.bytes_in as f64),
        amount(one.bytes_out as f64),
    ]
}

fn in_all(processes: &[Process]) -> Process {
    processes.iter().fold(Process::default(), |mut sum, one| {
        sum.cpu_seconds += one.cpu_seconds;
        sum.memory_bytes = sum.memory_bytes.saturating_add(one.memory_bytes);
        sum.connections = sum.connections.saturating_add(one.connections);
        sum.bytes_in = sum.bytes_in.saturating_add(one.bytes_in);
        sum.bytes_out = sum.bytes_out.saturating_add(one.bytes_out);
        sum
    })
}
