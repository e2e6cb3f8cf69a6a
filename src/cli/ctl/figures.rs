//! What a gateway says of itself, and what two such answers say of the time between them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::text::lines;

/// The answer to `status`. What is missing is nothing, and what is not known is passed over: another
/// version may have answered.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub state: String,
    pub uptime_seconds: f64,
    pub listeners: Vec<String>,
    pub generations: u64,
    pub processes: Vec<Process>,
    pub totals: Totals,
    pub handshake: Histogram,
    pub login: Histogram,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Process {
    pub role: String,
    pub name: String,
    pub pid: u32,
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
    pub connections: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Counts since the start; what is `_active` is there now.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub connections_accepted: u64,
    pub connections_refused: u64,
    pub connections_active: u64,
    pub key_exchanges: u64,
    pub rekeys: u64,
    /// By method.
    pub logins: BTreeMap<String, u64>,
    pub failures: BTreeMap<String, u64>,
    pub sessions_started: u64,
    pub sessions_active: u64,
    /// That hosts behind the gateway serve.
    pub sessions_passed_on: u64,
    pub forwards_started: u64,
    pub forwards_active: u64,
    pub forwards_failed: u64,
    pub upstreams_failed: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub defects: u64,
}

/// Times, counted by size.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// The longest time of each bucket, growing; the last bucket has none.
    pub bounds_seconds: Vec<f64>,
    pub counts: Vec<u64>,
    pub sum_seconds: f64,
}

/// What a share of all does not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantile {
    Seconds(f64),
    /// More than the longest time that is told apart.
    Beyond(f64),
}

impl Histogram {
    /// How many there are.
    pub fn count(&self) -> f64 {
        self.counts.iter().map(|count| *count as f64).sum()
    }

    /// Times within a bucket are taken to lie evenly in it. `None`: there are no times.
    pub fn quantile(&self, share: f64) -> Option<Quantile> {
        let wanted = self.count() * share;
        if wanted <= 0.0 {
            return None;
        }
        let (mut seen, mut from) = (0.0, 0.0);
        for (count, to) in self.counts.iter().zip(&self.bounds_seconds) {
            let count = *count as f64;
            if count > 0.0 && seen + count >= wanted {
                return Some(Quantile::Seconds(from + (to - from) * (wanted - seen) / count));
            }
            (seen, from) = (seen + count, *to);
        }
        self.bounds_seconds.last().map(|last| Quantile::Beyond(*last))
    }

    /// The times since an earlier answer. Those of another shape count from the beginning.
    pub fn since(&self, before: &Histogram) -> Histogram {
        if self.bounds_seconds != before.bounds_seconds {
            return self.clone();
        }
        let earlier = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(earlier);
        Histogram {
            bounds_seconds: self.bounds_seconds.clone(),
            counts: counts.map(|(now, before)| now.saturating_sub(before)).collect(),
            sum_seconds: (self.sum_seconds - before.sum_seconds).max(0.0),
        }
    }
}

/// What happened a second between two answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    pub connections: f64,
    pub refused: f64,
    pub logins: f64,
    pub failures: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
    /// Of one CPU, in percent, by process.
    pub cpu_percent: BTreeMap<u32, f64>,
    /// The times of this while.
    pub handshake: Histogram,
    pub login: Histogram,
}

impl Rates {
    /// `seconds` lie between the two. What has become less has begun anew, and counts from nothing.
    pub fn between(before: &Status, now: &Status, seconds: f64) -> Rates {
        let seconds = seconds.max(1e-3);
        let rate = |before: u64, now: u64| {
            let more = now.checked_sub(before).unwrap_or(now);
            more as f64 / seconds
        };
        let (then, totals) = (&before.totals, &now.totals);
        let cpu = |process: &Process| {
            let earlier = before.processes.iter().find(|one| one.pid == process.pid);
            let earlier = earlier.map_or(0.0, |one| one.cpu_seconds);
            let used = process.cpu_seconds - earlier;
            (process.pid, 100.0 * used.max(0.0) / seconds)
        };
        Rates {
            connections: rate(then.connections_accepted, totals.connections_accepted),
            refused: rate(then.connections_refused, totals.connections_refused),
            logins: rate(sum(&then.logins), sum(&totals.logins)),
            failures: rate(sum(&then.failures), sum(&totals.failures)),
            bytes_in: rate(then.bytes_in, totals.bytes_in),
            bytes_out: rate(then.bytes_out, totals.bytes_out),
            cpu_percent: now.processes.iter().map(cpu).collect(),
            handshake: now.handshake.since(&before.handshake),
            login: now.login.since(&before.login),
        }
    }

    /// Of all processes together.
    pub fn cpu_in_all(&self) -> f64 {
        self.cpu_percent.values().sum()
    }
}

/// Of all methods together.
fn sum(methods: &BTreeMap<String, u64>) -> u64 {
    methods.values().fold(0, |sum, count| sum.saturating_add(*count))
}

/// Reads an answer that is an object.
///
/// # Errors
/// The gateway's own, or that this is no answer.
pub fn object(answer: &[u8]) -> Result<Value, String> {
    if answer.is_empty() {
        return Err("it said nothing".to_owned());
    }
    let value: Value =
        serde_json::from_slice(answer).map_err(|why| format!("its answer is no JSON: {why}"))?;
    match value.get("error") {
        Some(Value::String(why)) => Err(lines(why)),
        _ if value.is_object() => Ok(value),
        _ => Err("its answer is no object".to_owned()),
    }
}

/// Reads the answer to `status`.
///
/// # Errors
/// The gateway's own, or that this is no answer.
pub fn status(value: Value) -> Result<Status, String> {
    serde_json::from_value(value)
        .map_err(|why| format!("its answer is not understood: {}", lines(&why.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[u64]) -> Histogram {
        let bounds_seconds = vec![0.1, 0.2, 0.4];
        Histogram { bounds_seconds, counts: counts.to_vec(), sum_seconds: 1.0 }
    }

    #[test]
    fn quantiles_lie_evenly_within_their_buckets() {
        let seconds = |counts: &[u64], share| match histogram(counts).quantile(share) {
            Some(Quantile::Seconds(seconds)) => (seconds * 1e6).round() / 1e6,
            other => panic!("{other:?}"),
        };
        assert_eq!(seconds(&[10, 0, 0, 0], 0.5), 0.05);
        assert_eq!(seconds(&[0, 10, 0, 0], 0.5), 0.15);
        assert_eq!(seconds(&[50, 40, 10, 0], 0.5), 0.1);
        assert_eq!(seconds(&[50, 40, 10, 0], 0.9), 0.2);
        assert_eq!(seconds(&[50, 40, 10, 0], 0.99), 0.38);
        assert_eq!(seconds(&[1, 0, 1, 0], 0.5), 0.1);
    }

    #[test]
    fn quantiles_have_no_value_where_nothing_is_known() {
        assert_eq!(histogram(&[]).quantile(0.5), None);
        assert_eq!(histogram(&[0, 0, 0, 0]).quantile(0.5), None);
        assert_eq!(histogram(&[1, 0, 0, 99]).quantile(0.5), Some(Quantile::Beyond(0.4)));
        assert_eq!(Histogram { counts: vec![1], ..Histogram::default() }.quantile(0.5), None);
        // More buckets than an honest gateway has, and more in them than can be.
        let most = histogram(&[u64::MAX; 9]);
        assert!(most.quantile(0.01).is_some() && most.count() > 1e20);
    }

    #[test]
    fn a_histogram_since_another_has_what_was_added() {
        let since = histogram(&[5, 5, 5, 5]).since(&histogram(&[5, 4, 9]));
        assert_eq!(since.counts, [0, 1, 0, 5]);
        let other = Histogram { bounds_seconds: vec![1.0], ..histogram(&[5, 5]) };
        assert_eq!(histogram(&[5, 5, 5, 5]).since(&other).counts, [5, 5, 5, 5]);
    }

    fn told(json: &str) -> Status {
        status(object(json.as_bytes()).expect("an object")).expect("a status")
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let before = told(
            r#"{"processes":[{"pid":1,"cpu_seconds":1.0},{"pid":2,"cpu_seconds":9}],
            "totals":{"connections_accepted":10,"logins":{"publickey":1},"bytes_in":1000,"bytes_out":9}}"#,
        );
        let now = told(
            r#"{"processes":[{"pid":1,"cpu_seconds":2.0},{"pid":3,"cpu_seconds":0.5}],
            "totals":{"connections_accepted":14,"logins":{"publickey":2,"password":1},
            "failures":{"none":2},"bytes_in":3000,"bytes_out":4}}"#,
        );
        let rates = Rates::between(&before, &now, 2.0);
        assert_eq!((rates.connections, rates.logins, rates.failures), (2.0, 1.0, 1.0));
        // The second has begun anew.
        assert_eq!((rates.bytes_in, rates.bytes_out), (1000.0, 2.0));
        assert_eq!(rates.cpu_percent, BTreeMap::from([(1, 50.0), (3, 25.0)]));
        assert_eq!(rates.cpu_in_all(), 75.0);
        assert!(Rates::between(&before, &now, 0.0).connections.is_finite());
    }

    #[test]
    fn other_versions_are_understood() {
        assert_eq!(told("{}"), Status::default());
        let status =
            told(r#"{"version":"9","new":[1],"totals":{"logins":{"gssapi":3},"more":{}}}"#);
        assert_eq!((&*status.version, sum(&status.totals.logins)), ("9", 3));
        let error = object(b"{\"error\":\"a\\u001bb\"}").expect_err("an error");
        assert_eq!(error, "a\\x1bb");
        for (answer, part) in [(&b""[..], "nothing"), (b"[]", "no object"), (b"{\"a", "no JSON")] {
            assert!(object(answer).expect_err("no answer").contains(part), "{answer:?}");
        }
        let huge = Value::from("x".repeat(9000));
        let why = status_of_text(&huge).expect_err("no number");
        assert!(why.len() < 5000, "{}", why.len());
    }

    fn status_of_text(value: &Value) -> Result<Status, String> {
        status(serde_json::json!({ "pid": value }))
    }
}
