//! What processes take: CPU, memory, descriptors. A server is a process and all that it has started.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

/// /proc/net/tcp: the state of a socket that listens.
const LISTENS: &str = "0A";

/// What is held, and what has been used since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu: Duration,
    pub memory_bytes: u64,
    pub descriptors: u64,
    pub processes: u64,
}

/// Between two looks: what was used, and what was held at the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    pub cpu_seconds: f64,
    /// What would be free without them (Pss), where that can be read; otherwise what is resident.
    pub memory_bytes: u64,
    pub descriptors: u64,
    pub processes: u64,
}

impl Usage {
    pub fn since(&self, before: &Usage) -> Spent {
        Spent {
            cpu_seconds: self.cpu.saturating_sub(before.cpu).as_secs_f64(),
            memory_bytes: self.memory_bytes,
            descriptors: self.descriptors,
            processes: self.processes,
        }
    }
}

/// Looks at ourselves, and at a server that runs here.
pub struct Meter {
    server: Option<u32>,
    ticks_a_second: f64,
}

impl Meter {
    pub fn new(server: Option<u32>) -> Meter {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        Meter { server, ticks_a_second: ticks as f64 }
    }

    pub fn own(&self) -> Usage {
        let own = std::process::id();
        let mut usage = self.of(own);
        // To the microsecond, where /proc counts in ticks.
        if let Ok(used) = getrusage(UsageWho::RUSAGE_SELF) {
            let times = [used.user_time(), used.system_time()];
            let micros = times.map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
            usage.cpu = Duration::from_micros(micros.iter().sum::<i64>().unsigned_abs());
        }
        usage
    }

    /// `None`: the server is not here, or it has ended.
    pub fn of_server(&self) -> Option<Usage> {
        let server = self.server.filter(|pid| Path::new(&format!("/proc/{pid}")).exists())?;
        let mut sum = Usage::default();
        for pid in family(server) {
            let one = self.of(pid);
            sum.cpu += one.cpu;
            sum.memory_bytes += one.memory_bytes;
            sum.descriptors += one.descriptors;
            sum.processes += 1;
        }
        Some(sum)
    }

    /// One process, with the CPU of its children that have ended.
    fn of(&self, pid: u32) -> Usage {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ticks = |skip, take| {
            let fields = stat_fields(&stat).skip(skip).take(take);
            let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
            Duration::from_secs_f64(ticks as f64 / self.ticks_a_second)
        };
        // Its threads that are still there to the nanosecond, its children that are not in ticks.
        let cpu = ticks(11, 2).max(of_threads(pid)) + ticks(13, 2);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Usage { cpu, memory_bytes: memory(pid), descriptors: descriptors as u64, processes: 1 }
    }
}

fn of_threads(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_one = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.filter_map(of_one).sum())
}

/// The fields of /proc/PID/stat behind the name, which may itself have blanks: the first is the state.
fn stat_fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

fn memory(pid: u32) -> u64 {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        kibibytes(&text, name)
    };
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:")).unwrap_or(0) << 10
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process and all that it has started, however indirectly.
fn family(first: u32) -> BTreeSet<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat_fields(&stat).nth(1)?.parse::<u32>().ok()
    };
    let parents: BTreeMap<u32, u32> =
        processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut all = BTreeSet::from([first]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| all.contains(parent) && !all.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// The process that listens at a TCP port of this machine: of several, the one that has been started
/// first. `None`: nobody does, or it is not ours to look at.
pub fn listener(port: u16) -> Option<u32> {
    let sockets: BTreeSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let has = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
    };
    let started = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let since: Option<u64> = stat_fields(&stat).nth(19).and_then(|field| field.parse().ok());
        (since.unwrap_or(u64::MAX), *pid)
    };
    (!sockets.is_empty()).then(|| processes().filter(has).min_by_key(started)).flatten()
}

/// Inodes of the sockets of a table of /proc/net that listen at this port.
fn listening(table: &str, port: u16) -> Vec<String> {
    let end = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = fields.as_slice() else { return None };
        (local.ends_with(&end) && *state == LISTENS).then(|| (*inode).to_owned())
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_found_with_what_he_takes() {
        let listener_here = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener_here.local_addr().expect("an address").port();
        assert_eq!(listener(port), Some(std::process::id()));
        let meter = Meter::new(Some(std::process::id()));
        let usage = meter.of_server().expect("ourselves");
        assert!(usage.memory_bytes > 1 << 20 && usage.descriptors > 2 && usage.processes > 0);
        let before = meter.own();
        let spent = meter.own().since(&before);
        assert!(spent.cpu_seconds >= 0.0 && spent.memory_bytes > 1 << 20);
    }

    #[test]
    fn tables_of_the_kernel_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid  timeout inode\n\
            0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1 0 100\n\
            1: 0100007F:0016 0100007F:1234 01 00000000:00000000 00:00000000 00000000 0 0 78 1 0 100\n\
            2: 0100007F:1600 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 79 1 0 100\n";
        assert_eq!(listening(table, 22), ["77"]);
        let fields: Vec<&str> = stat_fields("5 (a b) c) S 1 2").collect();
        assert_eq!(fields, ["S", "1", "2"]);
        assert_eq!(kibibytes("Rss: 9 kB\nPss:   12 kB\n", "Pss:"), Some(12));
    }
}
