//! What is told of a copy: lines for people, or JSON, one object a line.

use std::time::Duration;

use serde_json::{Value, json};

use super::file::{Copied, Spot};
use super::reach::Reached;
use super::resume::{How, Kept};
use super::survey::Found;
use super::{Copy, Host, Totals};
use crate::base::{amount, clock, escape, plain_json};

/// Of a file's name in the line that shows how far it is.
const NAME_CHARS_MAX: usize = 24;

/// A file has been copied. `None`: nobody asked to hear of each.
pub fn copied(copy: &Copy, from: &Spot, to: &Spot, copied: Copied) -> Option<String> {
    let (from, to) = (copy.shown(from), copy.shown(to));
    let dry = copy.plan.dry_run;
    if copy.plan.json {
        let event = if dry { "would-copy" } else { "copied" };
        let line = json!({
            "event": event, "from": from, "to": to,
            "bytes": copied.bytes, "resumed_at": copied.kept.bytes,
        });
        return Some(printed(&line));
    }
    let resumed = match copied.kept {
        Kept { bytes: 0, .. } => String::new(),
        Kept { bytes, how: How::Hashes } => {
            format!(", went on behind {bytes} bytes, whose hashes are the source's")
        }
        Kept { bytes, how: How::Hash } => {
            format!(", went on behind {bytes} bytes, whose hash is the source's")
        }
        Kept { bytes, how: How::Looks } => {
            format!(", went on behind {bytes} bytes, whose tail and samples are the source's")
        }
    };
    let would = if dry { "would copy " } else { "" };
    let wanted = dry || copy.plan.verbose || copied.kept.bytes > 0 && !copy.plan.quiet;
    wanted.then(|| format!("{would}{from} -> {to} ({} bytes{resumed})", copied.bytes))
}

/// What hosts say of their files moves no cursor.
fn printed(line: &Value) -> String {
    plain_json(&line.to_string()).into_owned()
}

pub fn failed(copy: &Copy, why: &anyhow::Error) -> String {
    match copy.plan.json {
        true => printed(&json!({ "event": "failed", "why": format!("{why:#}") })),
        false => format!("cp: {why:#}"),
    }
}

/// A host was lost; which try comes when.
pub fn lost(copy: &Copy, host: &Host, why: &str, (tries, wait): (u32, Duration)) -> Option<String> {
    let name = escape(host.destination.as_bytes());
    let (most, seconds) = (copy.plan.retries, wait.as_secs_f64());
    if copy.plan.json {
        let line = json!({
            "event": "lost", "host": name.to_string(), "why": why, "try": tries,
            "seconds": seconds,
        });
        return Some(printed(&line));
    }
    (!copy.plan.quiet).then(|| format!("cp: {name}: {why}; try {tries} of {most} in {seconds} s"))
}

pub fn reached_again(copy: &Copy, host: &Host) -> Option<String> {
    let name = escape(host.destination.as_bytes());
    if copy.plan.json {
        let line = json!({ "event": "reached-again", "host": name.to_string() });
        return Some(printed(&line));
    }
    (!copy.plan.quiet).then(|| format!("cp: {name}: connected again"))
}

/// The last line.
pub fn summary(copy: &Copy, hosts: &[Reached], seconds: f64) -> String {
    let Totals { files, bytes, kept, failed, .. } = copy.totals.get();
    let retries: u64 = hosts.iter().map(|host| host.reached_again).sum();
    let rate = if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 };
    if copy.plan.json {
        let line = json!({
            "event": "summary", "files": files, "bytes": bytes, "resumed_bytes": kept,
            "failed": failed, "seconds": seconds, "bytes_a_second": rate,
            "retries": retries, "hosts": hosts.iter().map(host).collect::<Vec<_>>(),
        });
        return printed(&line);
    }
    let would = if copy.plan.dry_run { "would be " } else { "" };
    let mut line = format!("{} {would}copied, {}", counted(files), amount(bytes as f64));
    if !copy.plan.dry_run {
        line += &format!(" in {seconds:.1} s, {}/s", amount(rate));
    }
    if kept > 0 {
        line += &format!("; {} were there from before", amount(kept as f64));
    }
    if retries > 0 {
        line += &format!("; {retries} {}", if retries == 1 { "retry" } else { "retries" });
    }
    if failed > 0 {
        line += &format!("; {failed} failed");
    }
    for one in hosts {
        line += &streams(one, copy.plan.streams);
    }
    line
}

fn host(one: &Reached) -> Value {
    json!({
        "host": escape(one.host.destination.as_bytes()).to_string(),
        "connections": one.connections, "sessions": one.stations.len(),
        "no_more_because": one.short,
    })
}

/// What became of `--streams`.
fn streams(one: &Reached, asked: Option<usize>) -> String {
    let (sessions, connections) = (one.stations.len(), one.connections);
    let Some(asked) = asked.filter(|asked| *asked > 1) else { return String::new() };
    let name = escape(one.host.destination.as_bytes());
    let why = match &one.short {
        Some(why) => format!(" ({asked} were asked for: {why})"),
        None => String::new(),
    };
    format!("; {name}: {sessions} sessions of {connections} connections{why}")
}

fn counted(files: u64) -> String {
    format!("{files} file{}", if files == 1 { "" } else { "s" })
}

/// One line that is written over by the next: of all there is to copy, and of the file that has been
/// under way longest.
pub fn progress(copy: &Copy, moved: u64, rate: f64) -> String {
    let Found { files, bytes, all } = copy.expected();
    let least = if all { "" } else { "at least " };
    let left = bytes.saturating_sub(moved) as f64;
    let eta =
        if rate > 0.0 { format!(", {least}{} left", clock(left / rate)) } else { String::new() };
    format!(
        "\r\x1b[K{} of {least}{}, {} of {least}{}, {}/s{eta}{}",
        copy.totals.get().files,
        counted(files),
        amount(moved as f64),
        amount(bytes as f64),
        amount(rate),
        oldest(copy),
    )
}

fn oldest(copy: &Copy) -> String {
    let all = copy.under_way.borrow();
    let Some(one) = all.first() else { return String::new() };
    let name: String = escape(&one.name).to_string().chars().take(NAME_CHARS_MAX).collect();
    let percent = one.moved.get() as f64 * 100.0 / one.bytes.max(1) as f64;
    let others = match all.len() {
        1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    format!("; {name} {percent:.0} %{others}")
}
