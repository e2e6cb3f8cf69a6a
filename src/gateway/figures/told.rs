//! What has been counted as administrators read it: a JSON document, and Prometheus' text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::{Map, Value, json};

use super::roll::Member;
use super::{BOUNDS, Figure, Sum};
use crate::base::Instant;
use crate::reactor;

/// What is known of the program as a whole.
#[derive(Clone, Debug)]
pub struct Program {
    pub since: Instant,
    /// It takes connections.
    pub serves: bool,
    pub listeners: Vec<String>,
    /// Configurations under which connections are open.
    pub generations: usize,
}

impl Program {
    fn uptime(&self) -> Duration {
        reactor::now().since(self.since)
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    cpu: f64,
    memory: u64,
}

impl Usage {
    fn of(pid: u32) -> Usage {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let memory = memory_in(&read("smaps_rollup"));
        Usage { cpu: cpu_in(&read("stat")).unwrap_or_default(), memory: memory.unwrap_or_default() }
    }
}

/// Seconds of CPU in a line of `/proc/PID/stat`. The name of the process, which may be anything, ends at the
/// last parenthesis.
fn cpu_in(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let a_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(ticks as f64 / a_second as f64)
}

/// Its share of memory, in bytes: pages that several processes have count in part for each.
fn memory_in(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// CPU of processes that have ended and were waited for.
fn cpu_of_the_ended() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return 0.0 };
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}

/// The document of `tidegate ctl status`.
pub fn status(program: &Program, members: &[Member], total: &Sum) -> Value {
    let processes = members.iter().map(|Member { role, name, pid, sum }| {
        let Usage { cpu, memory } = Usage::of(*pid);
        json!({
            "role": role, "name": name, "pid": pid, "cpu_seconds": cpu, "memory_bytes": memory,
            "connections": sum.of(Figure::Open),
            "bytes_in": sum.of(Figure::BytesIn), "bytes_out": sum.of(Figure::BytesOut),
        })
    });
    let methods = |figure| -> Map<String, Value> {
        total.by_method(figure).map(|(name, count)| (name.to_owned(), json!(count))).collect()
    };
    let bounds: Vec<f64> = bounds().collect();
    let times = |figure| {
        let (counts, sum) = total.times(figure);
        json!({ "bounds_seconds": bounds, "counts": counts, "sum_seconds": sum })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "state": if program.serves { "serving" } else { "leaving" },
        "uptime_seconds": program.uptime().as_secs_f64(),
        "listeners": program.listeners,
        "generations": program.generations,
        "processes": processes.collect::<Vec<_>>(),
        "totals": {
            "connections_accepted": total.of(Figure::Accepted),
            "connections_refused": total.of(Figure::Refused),
            "connections_active": total.of(Figure::Open),
            "key_exchanges": total.of(Figure::KeyExchanges),
            "rekeys": total.of(Figure::Rekeys),
            "logins": methods(Figure::Logins),
            "failures": methods(Figure::Failures),
            "sessions_started": total.of(Figure::SessionsStarted),
            "sessions_passed_on": total.of(Figure::SessionsPassedOn),
            "sessions_active": total.between(Figure::SessionsStarted, Figure::SessionsEnded),
            "forwards_started": total.of(Figure::ForwardsStarted),
            "forwards_active": total.between(Figure::ForwardsStarted, Figure::ForwardsEnded),
            "forwards_failed": total.of(Figure::ForwardsFailed),
            "upstreams_failed": total.of(Figure::UpstreamsFailed),
            "bytes_in": total.of(Figure::BytesIn),
            "bytes_out": total.of(Figure::BytesOut),
            "defects": total.of(Figure::Defects),
        },
        "handshake": times(Figure::Handshake),
        "login": times(Figure::Login),
    })
}

fn bounds() -> impl Iterator<Item = f64> {
    BOUNDS.iter().map(|micros| *micros as f64 / 1e6)
}

/// The page of `tidegate ctl metrics`. Labels have few values, whoever connects: no addresses, no names.
pub fn metrics(program: &Program, members: &[Member], total: &Sum) -> String {
    let mut page = Page(String::new());
    // Text in memory takes whatever is written.
    let _ = page.fill(program, members, total);
    page.0
}

struct Page(String);

impl Page {
    fn fill(&mut self, program: &Program, members: &[Member], total: &Sum) -> fmt::Result {
        self.family("build_info", "gauge", "The version of the program.")?;
        self.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1)?;
        self.plain(
            "uptime_seconds",
            "gauge",
            "Since the program has begun to serve.",
            program.uptime().as_secs_f64(),
        )?;
        self.plain(
            "serving",
            "gauge",
            "1 while the program takes connections.",
            u8::from(program.serves),
        )?;
        let open = total.of(Figure::Open);
        self.plain("connections_active", "gauge", "Connections that are open.", open)?;
        self.family("connections_total", "counter", "Connections that came.")?;
        for (result, figure) in [("accepted", Figure::Accepted), ("refused", Figure::Refused)] {
            self.sample("connections_total", &[("result", result)], total.of(figure))?;
        }
        let what = "From accepting a connection to its first keys.";
        self.histogram("handshake_seconds", what, total.times(Figure::Handshake))?;
        let what = "From accepting a connection to its login.";
        self.histogram("login_seconds", what, total.times(Figure::Login))?;
        self.plain(
            "rekeys_total",
            "counter",
            "Key exchanges after the first.",
            total.of(Figure::Rekeys),
        )?;
        self.family("auth_attempts_total", "counter", "Logins, and attempts that failed.")?;
        for (result, figure) in [("accepted", Figure::Logins), ("failed", Figure::Failures)] {
            for (method, count) in total.by_method(figure) {
                self.sample(
                    "auth_attempts_total",
                    &[("method", method), ("result", result)],
                    count,
                )?;
            }
        }
        let active = total.between(Figure::SessionsStarted, Figure::SessionsEnded);
        self.plain("sessions_active", "gauge", "Sessions that are served here now.", active)?;
        self.family("sessions_total", "counter", "Sessions that were started.")?;
        for (place, figure) in
            [("here", Figure::SessionsStarted), ("behind", Figure::SessionsPassedOn)]
        {
            self.sample("sessions_total", &[("served", place)], total.of(figure))?;
        }
        let active = total.between(Figure::ForwardsStarted, Figure::ForwardsEnded);
        self.plain("forwards_active", "gauge", "Forwarded connections that are open.", active)?;
        self.family("forwards_total", "counter", "Connections that clients had forwarded.")?;
        for (result, figure) in
            [("connected", Figure::ForwardsStarted), ("failed", Figure::ForwardsFailed)]
        {
            self.sample("forwards_total", &[("result", result)], total.of(figure))?;
        }
        let failed = total.of(Figure::UpstreamsFailed);
        self.plain(
            "upstream_failures_total",
            "counter",
            "Hosts behind the gateway that failed a login.",
            failed,
        )?;
        self.family("bytes_total", "counter", "Bytes on SSH connections, as they travel.")?;
        for (direction, figure) in [("in", Figure::BytesIn), ("out", Figure::BytesOut)] {
            self.sample("bytes_total", &[("direction", direction)], total.of(figure))?;
        }
        let what = "Connections that ended for a defect or a lack of the gateway's own.";
        self.plain("defects_total", "counter", what, total.of(Figure::Defects))?;
        self.processes(members)
    }

    fn processes(&mut self, members: &[Member]) -> fmt::Result {
        let (mut roles, mut cpu) = (BTreeMap::<&str, (u64, u64)>::new(), cpu_of_the_ended());
        for member in members {
            let usage = Usage::of(member.pid);
            let (count, memory) = roles.entry(member.role).or_default();
            (*count, *memory) = (*count + 1, *memory + usage.memory);
            cpu += usage.cpu;
        }
        let what = "CPU of all processes of the program, those that have ended included.";
        self.plain("cpu_seconds_total", "counter", what, cpu)?;
        self.family("processes", "gauge", "Processes of the program.")?;
        for (role, (count, _)) in &roles {
            self.sample("processes", &[("role", role)], count)?;
        }
        self.family("memory_bytes", "gauge", "Their share of memory (proportional set size).")?;
        for (role, (_, memory)) in &roles {
            self.sample("memory_bytes", &[("role", role)], memory)?;
        }
        Ok(())
    }

    fn family(&mut self, name: &str, kind: &str, what: &str) -> fmt::Result {
        writeln!(self.0, "# HELP tidegate_{name} {what}\n# TYPE tidegate_{name} {kind}")
    }

    /// Labels are words of ours.
    fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl fmt::Display,
    ) -> fmt::Result {
        write!(self.0, "tidegate_{name}")?;
        for (n, (label, text)) in labels.iter().enumerate() {
            write!(self.0, "{}{label}=\"{text}\"", if n == 0 { '{' } else { ',' })?;
        }
        writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" })
    }

    fn plain(
        &mut self,
        name: &str,
        kind: &str,
        what: &str,
        value: impl fmt::Display,
    ) -> fmt::Result {
        self.family(name, kind, what)?;
        self.sample(name, &[], value)
    }

    fn histogram(&mut self, name: &str, what: &str, (counts, sum): (Vec<u64>, f64)) -> fmt::Result {
        self.family(name, "histogram", what)?;
        let mut below = 0_u64;
        let limits = bounds().map(|bound| bound.to_string()).chain(["+Inf".to_owned()]);
        let bucket = format!("{name}_bucket");
        for (count, limit) in counts.iter().zip(limits) {
            below = below.saturating_add(*count);
            self.sample(&bucket, &[("le", &limit)], below)?;
        }
        self.sample(&format!("{name}_sum"), &[], sum)?;
        self.sample(&format!("{name}_count"), &[], below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_uses_is_read_whatever_it_is_called() {
        let ticks = sysconf(SysconfVar::CLK_TCK).expect("it is known").expect("it is");
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(cpu_in(stat), Some(200.0 / ticks as f64));
        assert_eq!([cpu_in("7 (a S 1"), cpu_in("7 (a) S 1 2"), cpu_in("")], [None; 3]);
        assert_eq!(memory_in("55-66 ---p\nRss:  9 kB\nPss:   12 kB\n"), Some(12 * 1024));
        assert_eq!([memory_in("Pss: x kB"), memory_in("")], [None; 2]);
        let own = Usage::of(std::process::id());
        assert!(own.memory > 0, "{own:?}");
    }

    #[test]
    fn a_histogram_ends_with_all_that_was_counted() {
        let mut page = Page(String::new());
        let mut counts = vec![0; BOUNDS.len() + 1];
        (counts[0], counts[2], counts[13]) = (1, 2, 4);
        page.histogram("x_seconds", "Some.", (counts, 1.5)).expect("text");
        let lines: Vec<&str> = page.0.lines().collect();
        assert_eq!(lines[2], "tidegate_x_seconds_bucket{le=\"0.001\"} 1");
        assert_eq!(lines[5], "tidegate_x_seconds_bucket{le=\"0.01\"} 3");
        let end = lines.get(lines.len() - 3..).expect("three");
        let all = "tidegate_x_seconds_bucket{le=\"+Inf\"} 7";
        assert_eq!(end, [all, "tidegate_x_seconds_sum 1.5", "tidegate_x_seconds_count 7"]);
    }
}
