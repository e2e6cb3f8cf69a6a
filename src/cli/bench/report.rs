//! Figures and how they are told: tables, JSON, and beside an earlier run.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::flags::Thresholds;
use super::histogram::Latency;
use super::machine::Machine;
use super::sample::Sample;
use super::target::Told;
use super::usage::Spent;

/// The first field of the JSON; its number changes with the meaning of any field.
pub const SCHEMA: &str = "tidegate-bench/1";
/// A saved file is not longer than this.
const JSON_BYTES_MAX: usize = 16 << 20;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    Packet,
    Operation,
    Connection,
    Mebibyte,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The case, from the general to the particular, divided by slashes.
    pub name: String,
    pub unit: Unit,
    /// Nanoseconds a unit takes on one thread.
    pub nanos: f64,
    /// How far the measurements lie apart, in percent of `nanos`.
    pub spread_percent: f64,
    /// Units a second, of all threads together.
    pub per_second: f64,
    /// Payload, of all threads together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gib_per_second: Option<f64>,
    /// How it was distributed; `nanos` is the median then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

impl Row {
    pub fn new(name: String, unit: Unit, sample: Sample, gib_per_second: Option<f64>) -> Row {
        let Sample { nanos, spread_percent, per_second } = sample;
        Row { name, unit, nanos, spread_percent, per_second, gib_per_second, latency: None }
    }
}

/// What many connections came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The scenario.
    pub name: String,
    pub started: u64,
    pub completed: u64,
    /// Most connections at one time.
    pub live_max: u64,
    /// How often each thing went wrong, by the phase in which it did.
    pub errors: BTreeMap<String, u64>,
    pub seconds: f64,
    pub client: Spent,
    /// Where the server runs on this machine.
    pub server: Option<Spent>,
}

impl Run {
    /// A few lines for people.
    fn lines(&self) -> Vec<String> {
        let (name, seconds) = (&self.name, self.seconds);
        let rate = self.completed as f64 / seconds.max(1e-9);
        let mut lines = vec![format!(
            "{name}: {} of {} connections in {seconds:.2} s, {rate:.0} a second; {} at one time",
            self.completed, self.started, self.live_max
        )];
        let whose = [("client", Some(&self.client)), ("server", self.server.as_ref())];
        for (whose, spent) in whose.into_iter().filter_map(|(whose, spent)| Some((whose, spent?))) {
            let micros = 1e6 * spent.cpu_seconds / self.completed.max(1) as f64;
            lines.push(format!(
                "{name}, {whose}: {micros:.0} us of CPU a connection, {:.2} s in all; {:.1} MiB, \
                 {} descriptors, {}",
                spent.cpu_seconds,
                spent.memory_bytes as f64 / f64::from(1 << 20),
                spent.descriptors,
                match spent.processes {
                    1 => "1 process".to_owned(),
                    more => format!("{more} processes"),
                }
            ));
        }
        let failed = |(why, count): (&String, &u64)| format!("{name}, failed: {count} x {why}");
        lines.extend(self.errors.iter().map(failed));
        if self.name == "connect" && self.errors.keys().any(|why| why.starts_with("version: ")) {
            let why = "servers take only so much from an address that logs nobody in (MaxStartups, \
                       PerSourcePenalties and their like)";
            lines.push(format!("{name}: {why}"));
        }
        lines
    }
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub bench: String,
    pub machine: Machine,
    /// The server that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Told>,
    pub cases: Vec<Row>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
}

impl Report {
    pub fn new(bench: &str, machine: Machine, cases: Vec<Row>) -> Report {
        let (schema, bench) = (SCHEMA.to_owned(), bench.to_owned());
        Report { schema, bench, machine, target: None, cases, runs: Vec::new() }
    }

    /// # Errors
    /// A figure that JSON cannot say.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// # Errors
    /// Not a report, or one of another schema.
    pub fn from_json(text: &str) -> Result<Report> {
        if text.len() > JSON_BYTES_MAX {
            bail!("{} bytes are more than a report has", text.len());
        }
        let report: Report = serde_json::from_str(text).context("no report of `tidegate bench`")?;
        if report.schema != SCHEMA {
            bail!("schema {:?}, and this program reads {SCHEMA:?}", report.schema);
        }
        Ok(report)
    }

    pub fn to_text(&self) -> String {
        let machine = &self.machine;
        let mut text = format!("{}; {} CPUs; {}\n", machine.cpu, machine.cpus, machine.kernel);
        let _ = writeln!(text, "offers {}; load {}", machine.features.join(" "), machine.load);
        let commit = machine.commit.as_ref().map(|commit| format!(" ({commit})"));
        let commit = commit.unwrap_or_default();
        let libraries = machine.libraries.join(", ");
        let _ = writeln!(text, "tidegate {}{commit}; {libraries}", machine.tidegate);
        if let Some(target) = &self.target {
            let pid = target.pid.map(|pid| format!("; process {pid}")).unwrap_or_default();
            let _ = writeln!(text, "{} at {}{pid}", target.software, target.address);
            let _ = writeln!(text, "{}", target.algorithms);
        }
        let tables = self.tables();
        if tables.is_empty() {
            self.list(&mut text)
        } else {
            tables.iter().for_each(|t| t.write(&mut text))
        }
        let notes = self.notes();
        if !notes.is_empty() {
            let _ = writeln!(text, "\n{}", notes.join("\n"));
        }
        text
    }

    /// What there is to say beside the tables.
    pub fn notes(&self) -> Vec<String> {
        let transfers = self.cases.iter().any(|row| row.unit == Unit::Mebibyte);
        let about = transfers.then(|| "client, server: seconds of their CPU a GiB".to_owned());
        self.runs.iter().flat_map(Run::lines).chain(about).collect()
    }

    /// One line a case.
    fn list(&self, text: &mut String) {
        let width = self.cases.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let _ = writeln!(text, "\n{:<width$} {:>12} {:>12} {:>8}", "", "us", "a second", "spread");
        for row in &self.cases {
            let (us, spread) = (row.nanos / 1e3, row.spread_percent);
            let (name, rate) = (&row.name, row.per_second);
            let _ = writeln!(text, "{name:<width$} {us:>12.2} {rate:>12.0} {spread:>6.0} %");
        }
    }

    /// Latencies by phase; cases named `what/suite/library/bytes/threads`, sizes across; nothing for
    /// other names.
    pub fn tables(&self) -> Vec<Table> {
        if self.cases.iter().any(|row| row.latency.is_some()) {
            return self.latencies();
        }
        if self.cases.iter().any(|row| row.unit == Unit::Mebibyte) {
            return self.transfers();
        }
        let mut tables: Vec<Table> = Vec::new();
        for row in &self.cases {
            let parts: Vec<&str> = row.name.split('/').collect();
            let (&[what, suite, library, bytes, threads], Some(gib)) =
                (parts.as_slice(), row.gib_per_second)
            else {
                return Vec::new();
            };
            let threads =
                if threads == "1" { "one thread".into() } else { format!("{threads} threads") };
            let line = format!("{suite} {library}");
            let figures = [("GiB/s", gib), ("ns a packet", row.nanos)];
            for (unit, figure) in figures {
                let title = format!("{what}, {threads}, {unit}");
                add(&mut tables, title, &line, bytes, figure);
            }
        }
        tables
    }

    /// One table: what a case moves a second, and the CPU of both sides a GiB.
    fn transfers(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        for row in &self.cases {
            let title = "transfer".to_owned();
            let name = row.name.strip_prefix("transfer/").unwrap_or(&row.name);
            // Nanoseconds a MiB.
            let seconds_a_gib = 1024.0 * row.nanos / 1e9;
            let (case, column, figure) = match (row.gib_per_second, name.rsplit_once('/')) {
                (Some(gib), _) => (name, "GiB/s", gib),
                (None, Some((case, "cpu-client"))) => (case, "client", seconds_a_gib),
                (None, Some((case, _))) => (case, "server", seconds_a_gib),
                (None, None) => continue,
            };
            add(&mut tables, title, case, column, figure);
        }
        tables
    }

    /// A table for each scenario.
    fn latencies(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        for row in &self.cases {
            let Some(latency) = &row.latency else { continue };
            let (scenario, phase) = row.name.rsplit_once('/').unwrap_or(("", &row.name));
            let figures = [
                ("p50", latency.p50_nanos),
                ("p90", latency.p90_nanos),
                ("p99", latency.p99_nanos),
                ("p99.9", latency.p999_nanos),
                ("max", latency.max_nanos),
                ("mean", latency.mean_nanos),
            ];
            for (column, nanos) in figures {
                add(&mut tables, format!("{scenario}, ms"), phase, column, nanos / 1e6);
            }
        }
        tables
    }

    /// Beside an earlier run, case by case.
    pub fn compare(&self, before: &Report, thresholds: &Thresholds) -> Comparison {
        let mut comparison = Comparison {
            thresholds: *thresholds,
            elsewhere: self.machine.cpu != before.machine.cpu,
            ..Comparison::default()
        };
        for row in &self.cases {
            let Some(old) = before.cases.iter().find(|old| old.name == row.name) else {
                comparison.unmatched += 1;
                continue;
            };
            comparison.matched += 1;
            comparison.look(&row.name, (old.nanos, row.nanos), thresholds.median);
            let (Some(was), Some(is)) = (&old.latency, &row.latency) else { continue };
            for (figure, threshold, times) in [
                ("p99", thresholds.p99, (was.p99_nanos, is.p99_nanos)),
                ("p99.9", thresholds.p999, (was.p999_nanos, is.p999_nanos)),
            ] {
                match was.count.min(is.count) >= samples(figure) {
                    true => {
                        comparison.look(&format!("{}, {figure}", row.name), times, threshold);
                    }
                    false => *comparison.too_few.entry(figure).or_default() += 1,
                }
            }
        }
        comparison
    }
}

/// How many times a percentile has to be made of before it says anything: ten lie beyond it.
fn samples(figure: &str) -> u64 {
    if figure == "p99" { 1000 } else { 10_000 }
}

/// Puts a figure into the table of this title.
pub fn add(tables: &mut Vec<Table>, title: String, line: &str, column: &str, figure: f64) {
    let at = tables.iter().position(|table| table.title == title).unwrap_or_else(|| {
        tables.push(Table::new(title));
        tables.len() - 1
    });
    if let Some(table) = tables.get_mut(at) {
        table.add(line, column, figure);
    }
}

/// Figures by line and column.
pub struct Table {
    pub title: String,
    pub columns: Vec<String>,
    pub lines: Vec<(String, Vec<Option<f64>>)>,
}

impl Table {
    pub const fn new(title: String) -> Table {
        Table { title, columns: Vec::new(), lines: Vec::new() }
    }

    /// Every figure there is.
    pub fn figures(&self) -> impl Iterator<Item = f64> {
        self.lines.iter().flat_map(|(_, figures)| figures.iter().flatten().copied())
    }

    /// Some of its columns, under a title of their own.
    pub fn pick(&self, title: String, columns: &[&str]) -> Table {
        let mut table = Table::new(title);
        for (line, figures) in &self.lines {
            for (column, figure) in self.columns.iter().zip(figures) {
                if let Some(figure) = figure.filter(|_| columns.contains(&column.as_str())) {
                    table.add(line, column, figure);
                }
            }
        }
        table
    }

    /// Puts a figure in its place; lines and columns stand in the order in which they come.
    pub fn add(&mut self, line: &str, column: &str, figure: f64) {
        let column = match self.columns.iter().position(|known| known == column) {
            Some(at) => at,
            None => {
                self.columns.push(column.to_owned());
                self.columns.len() - 1
            }
        };
        let at = match self.lines.iter().position(|(known, _)| known == line) {
            Some(at) => at,
            None => {
                self.lines.push((line.to_owned(), Vec::new()));
                self.lines.len() - 1
            }
        };
        if let Some((_, figures)) = self.lines.get_mut(at) {
            figures.resize(figures.len().max(column + 1), None);
            if let Some(place) = figures.get_mut(column) {
                *place = Some(figure);
            }
        }
    }

    fn write(&self, text: &mut String) {
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let width = width.max(self.title.len());
        let _ = write!(text, "\n{:<width$}", self.title);
        for column in &self.columns {
            let _ = write!(text, " {column:>9}");
        }
        text.push('\n');
        for (name, figures) in &self.lines {
            let _ = write!(text, "{name:<width$}");
            for figure in figures {
                let _ = match figure {
                    Some(figure) if *figure < 100.0 => write!(text, " {figure:>9.2}"),
                    Some(figure) => write!(text, " {figure:>9.0}"),
                    None => write!(text, " {:>9}", "-"),
                };
            }
            text.push('\n');
        }
    }
}

/// What has changed since an earlier run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    thresholds: Thresholds,
    matched: usize,
    /// Cases that the earlier run has not.
    unmatched: usize,
    /// Measured on another CPU.
    elsewhere: bool,
    /// Percentiles of how many cases are made of too few times to be compared.
    too_few: BTreeMap<&'static str, usize>,
    /// Case, nanoseconds before and now, change in percent; those past the threshold alone.
    changes: Vec<(String, f64, f64, f64)>,
}

impl Comparison {
    /// A case takes longer than before by more than the threshold.
    pub fn is_slower(&self) -> bool {
        self.changes.iter().any(|(.., change)| *change > 0.0)
    }

    fn look(&mut self, name: &str, (before, now): (f64, f64), threshold: f64) {
        let change = 100.0 * (now / before.max(1e-3) - 1.0);
        if change.abs() > threshold {
            self.changes.push((name.to_owned(), before, now, change));
        }
    }

    pub fn to_text(&self) -> String {
        let (matched, Thresholds { median, p99, p999 }) = (self.matched, self.thresholds);
        let mut text = format!(
            "\ncompared {matched} cases; changes of more than {median} % (p99 {p99} %, p99.9 {p999} %):\n"
        );
        for (figure, cases) in &self.too_few {
            let least = samples(figure);
            let _ = writeln!(
                text,
                "{figure} of {cases} cases are of less than {least} times, and left out"
            );
        }
        if self.elsewhere {
            text.push_str("the earlier run was on another CPU\n");
        }
        if self.unmatched > 0 {
            let _ = writeln!(text, "{} cases are not in the earlier run", self.unmatched);
        }
        for (name, before, now, change) in &self.changes {
            let word = if *change > 0.0 { "slower" } else { "faster" };
            let _ =
                writeln!(text, "{change:+7.1} % {word} {name}: {before:.0} ns, now {now:.0} ns");
        }
        if self.changes.is_empty() {
            text.push_str("none\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cases: &[(&str, f64)]) -> Report {
        let row = |(name, nanos): &(&str, f64)| {
            let sample = Sample { nanos: *nanos, spread_percent: 1.0, per_second: 1e9 / nanos };
            Row::new((*name).to_owned(), Unit::Packet, sample, Some(2.5))
        };
        Report::new("cipher", Machine::look(), cases.iter().map(row).collect())
    }

    #[test]
    fn json_is_read_again_and_others_are_refused() {
        let told = report(&[("seal/a/b/64/1", 100.0)]);
        let json = told.to_json().expect("written");
        assert_eq!(Report::from_json(&json).expect("read"), told);
        let other = json.replace(SCHEMA, "tidegate-bench/0");
        assert!(Report::from_json(&other).expect_err("another").to_string().contains("schema"));
        assert!(Report::from_json("{}").is_err());
    }

    #[test]
    fn tables_have_sizes_across() {
        let told =
            report(&[("seal/a/b/64/1", 10.0), ("seal/a/b/256/1", 20.0), ("seal/a/c/256/1", 30.0)]);
        let tables = told.tables();
        assert_eq!(tables.len(), 2);
        assert_eq!(tables[1].title, "seal, one thread, ns a packet");
        assert_eq!(tables[1].columns, ["64", "256"]);
        assert_eq!(tables[1].lines[1], ("a c".to_owned(), vec![None, Some(30.0)]));
        let text = told.to_text();
        assert!(text.contains("20.00") && text.contains(" - "), "{text}");
    }

    #[test]
    fn slower_is_told_from_faster_and_from_noise() {
        let before = report(&[("a", 100.0), ("b", 100.0), ("c", 100.0)]);
        let now = report(&[("a", 109.0), ("b", 50.0), ("d", 1.0)]);
        let comparison = now.compare(&before, &Thresholds::default());
        assert!(!comparison.is_slower());
        assert_eq!((comparison.matched, comparison.unmatched), (2, 1));
        let text = comparison.to_text();
        assert!(text.contains("-50.0 % faster b") && !text.contains(" a:"), "{text}");
        assert!(report(&[("a", 111.0)]).compare(&before, &Thresholds::default()).is_slower());
    }

    #[test]
    fn whoever_is_not_heard_out_is_told_of_the_servers_limits() {
        let lines = |scenario: &str, why: &str| {
            let errors = BTreeMap::from([(why.to_owned(), 3)]);
            let (name, client) = (scenario.to_owned(), Spent::default());
            let (started, completed, live_max, seconds) = (10, 7, 2, 1.0);
            let run =
                Run { name, started, completed, live_max, errors, seconds, client, server: None };
            run.lines().join("\n")
        };
        let told = lines("connect", "version: connection closed by peer");
        assert!(told.contains("failed: 3 x version: ") && told.contains("MaxStartups"), "{told}");
        assert!(!lines("connect", "tcp: refused").contains("MaxStartups"));
        assert!(!lines("auth", "version: lost").contains("MaxStartups"));
    }

    #[test]
    fn percentiles_are_compared_where_there_are_enough_of_them() {
        let of = |count, p99_nanos, p999_nanos| {
            let mut one = report(&[("load/auth/total", 100.0)]);
            let latency = Latency { count, p99_nanos, p999_nanos, ..Latency::default() };
            one.cases[0].latency = Some(latency);
            one
        };
        let compare = |before: &Report, now: &Report| now.compare(before, &Thresholds::default());
        let before = of(20_000, 200.0, 300.0);
        assert!(!compare(&before, &of(20_000, 249.0, 449.0)).is_slower());
        let slower = compare(&before, &of(1000, 251.0, 1e6));
        let text = slower.to_text();
        assert!(slower.is_slower() && text.contains("slower load/auth/total, p99:"), "{text}");
        assert!(text.contains("p99.9 of 1 cases are of less than 10000"), "{text}");
        assert!(compare(&before, &of(10_000, 200.0, 451.0)).is_slower());
        assert!(!compare(&before, &of(999, 1e6, 1e6)).is_slower());
    }
}
