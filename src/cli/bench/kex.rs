//! `bench kex`: key exchanges, signatures and whole logins, in memory.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::flags::BenchFlags;
use super::login::{self, Cost, Plan};
use super::report::{Row, Unit};
use super::sample::{self, Plain, Sample, Work};
use crate::crypto::{
    KexKind, KexSecret, KeyKind, PrivateKey, RandomPool, SharedSecret, SignatureAlgorithm, kex,
};

/// About what a publickey request signs: the session identifier, names and the key.
const MESSAGE: [u8; 256] = [0x5a; 256];
/// Key pairs that wait to be finished, at most.
const EXCHANGES_MAX: u32 = 64;
/// Logins of one kind, at least.
const LOGINS_MIN: usize = 5;

/// Measures what the flags ask for.
///
/// # Errors
/// A key could not be made, or two ends did not agree.
pub fn measure(flags: &BenchFlags) -> Result<Vec<Row>> {
    let keys = KeyKind::ALL.map(PrivateKey::generate);
    let keys = keys.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    for kind in fixed_methods() {
        exchange(kind, flags, &mut rows)?;
    }
    for algorithm in SignatureAlgorithm::ALL {
        signature(algorithm, key_for(&keys, algorithm)?, flags, &mut rows)?;
    }
    for (kind, host, user) in combinations(flags.all) {
        let plan = Plan {
            kex: kind,
            host_key: key_for(&keys, host)?,
            host_algorithm: host,
            user_key: key_for(&keys, user)?,
            user_algorithm: user,
        };
        whole_login(&plan, flags, &mut rows)?;
    }
    Ok(rows)
}

/// Group exchange is one of the groups.
fn fixed_methods() -> impl Iterator<Item = KexKind> {
    KexKind::ALL.iter().copied().filter(|kind| *kind != KexKind::DhGroupExchange)
}

fn name_of(kind: KexKind) -> &'static str {
    kind.names().first().copied().unwrap_or("unnamed")
}

fn key_for(keys: &[PrivateKey], algorithm: SignatureAlgorithm) -> Result<&PrivateKey> {
    let fits = |key: &&PrivateKey| key.kind() == algorithm.key_kind();
    keys.iter().find(fits).with_context(|| format!("no key for {}", algorithm.name()))
}

/// Every method with the usual keys and every key with the usual method, or all with all.
fn combinations(all: bool) -> Vec<(KexKind, SignatureAlgorithm, SignatureAlgorithm)> {
    let usual = (KexKind::Curve25519, SignatureAlgorithm::Ed25519, SignatureAlgorithm::Ed25519);
    let differences = |kind, host, user| {
        usize::from(kind != usual.0) + usize::from(host != usual.1) + usize::from(user != usual.2)
    };
    let mut found = Vec::new();
    for kind in fixed_methods() {
        for host in SignatureAlgorithm::ALL {
            for user in SignatureAlgorithm::ALL {
                if all || differences(kind, host, user) <= 1 {
                    found.push((kind, host, user));
                }
            }
        }
    }
    found
}

fn exchange(kind: KexKind, flags: &BenchFlags, rows: &mut Vec<Row>) -> Result<()> {
    let mut pool = RandomPool::secure();
    let (_, client_public) = KexSecret::generate(kind, &mut pool)?;
    let mut time = |role: &str, sample: &dyn Fn() -> Result<Sample>| -> Result<()> {
        let name = format!("kex/{}/{role}", name_of(kind));
        if flags.wants(&name) {
            rows.push(Row::new(name, Unit::Operation, sample()?, None));
        }
        Ok(())
    };
    time("client-start", &|| {
        sample::measure(1, flags.time, || {
            let mut pool = RandomPool::secure();
            Ok(Plain(move || KexSecret::generate(kind, &mut pool)))
        })
    })?;
    time("server", &|| {
        sample::measure(1, flags.time, || {
            let mut pool = RandomPool::secure();
            let public = client_public.clone();
            Ok(Plain(move || kex::respond(kind, &public, &mut pool)))
        })
    })?;
    time("client-finish", &|| sample::measure(1, flags.time, || Ok(Finishing::new(kind))))
}

/// Exchanges whose server has answered.
struct Finishing {
    kind: KexKind,
    pool: RandomPool,
    waiting: Vec<(KexSecret, Vec<u8>)>,
    finished: Vec<SharedSecret>,
}

impl Finishing {
    fn new(kind: KexKind) -> Finishing {
        let pool = RandomPool::secure();
        Finishing { kind, pool, waiting: Vec::new(), finished: Vec::new() }
    }

    fn answered(&mut self) -> Option<(KexSecret, Vec<u8>)> {
        let (secret, public) = KexSecret::generate(self.kind, &mut self.pool).ok()?;
        let (reply, _) = kex::respond(self.kind, &public, &mut self.pool).ok()?;
        Some((secret, reply))
    }
}

impl Work for Finishing {
    fn prepare(&mut self, count: u32) {
        self.finished.clear();
        self.waiting.clear();
        for _ in 0..count {
            let answered = self.answered();
            self.waiting.extend(answered);
        }
        assert_eq!(self.waiting.len(), count as usize, "an honest exchange");
    }

    fn run(&mut self, _: u32) {
        for (secret, reply) in self.waiting.drain(..) {
            self.finished.extend(secret.finish(&reply));
        }
    }

    fn batch_max(&self) -> u32 {
        EXCHANGES_MAX
    }
}

fn signature(
    algorithm: SignatureAlgorithm,
    key: &PrivateKey,
    flags: &BenchFlags,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let blob = key.sign(algorithm, &MESSAGE)?;
    let name = format!("sign/{}", algorithm.name());
    if flags.wants(&name) {
        let sign = || Ok(Plain(|| key.sign(algorithm, &MESSAGE)));
        let sample = sample::measure(1, flags.time, sign)?;
        rows.push(Row::new(name, Unit::Operation, sample, None));
    }
    let name = format!("verify/{}", algorithm.name());
    if flags.wants(&name) {
        let verify = || Ok(Plain(|| key.public().verify(algorithm, &MESSAGE, &blob)));
        let sample = sample::measure(1, flags.time, verify)?;
        rows.push(Row::new(name, Unit::Operation, sample, None));
    }
    Ok(())
}

fn whole_login(plan: &Plan<'_>, flags: &BenchFlags, rows: &mut Vec<Row>) -> Result<()> {
    let (host, user) = (plan.host_algorithm.name(), plan.user_algorithm.name());
    let name = |role| format!("login/{}/{host}/{user}/{role}", name_of(plan.kex));
    let (client, server) = (name("client"), name("server"));
    if !flags.wants(&client) && !flags.wants(&server) {
        return Ok(());
    }
    let run = || login::run(plan).with_context(|| name("").trim_end_matches('/').to_owned());
    run()?;
    let (mut costs, mut spent) = (Vec::new(), Duration::ZERO);
    while costs.len() < LOGINS_MIN || spent < flags.time {
        let cost = run()?;
        spent += cost.client + cost.server;
        costs.push(cost);
    }
    let mut row = |name: String, role: fn(&Cost) -> Duration| -> Result<()> {
        if flags.wants(&name) {
            let Some(sample) = median(costs.iter().map(role)) else { bail!("no login was made") };
            rows.push(Row::new(name, Unit::Operation, sample, None));
        }
        Ok(())
    };
    row(client, |cost| cost.client)?;
    row(server, |cost| cost.server)
}

/// The median, and as the spread the middle half.
fn median(times: impl Iterator<Item = Duration>) -> Option<Sample> {
    let mut nanos: Vec<f64> = times.map(|time| time.as_nanos() as f64).collect();
    nanos.sort_by(f64::total_cmp);
    let at = |numerator: usize| nanos.get(nanos.len() * numerator / 4).copied();
    let (low, median, high) = (at(1)?, at(2)?, at(3)?);
    let spread_percent = 100.0 * (high - low) / median.max(1.0);
    Some(Sample { nanos: median, spread_percent, per_second: 1e9 / median.max(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_and_key_logs_in() {
        let keys = KeyKind::ALL.map(|kind| PrivateKey::generate(kind).expect("a key"));
        for (kind, host, user) in combinations(false) {
            let plan = Plan {
                kex: kind,
                host_key: key_for(&keys, host).expect("a key"),
                host_algorithm: host,
                user_key: key_for(&keys, user).expect("a key"),
                user_algorithm: user,
            };
            let cost = login::run(&plan).expect("a login");
            assert!(cost.client > Duration::ZERO && cost.server > Duration::ZERO);
        }
        assert_eq!(combinations(false).len(), 9 + 5 + 5);
        assert_eq!(combinations(true).len(), 9 * 6 * 6);
    }

    #[test]
    fn medians() {
        let times = [5, 1, 9, 3, 7].map(Duration::from_nanos);
        let sample = median(times.into_iter()).expect("some");
        assert_eq!((sample.nanos, sample.spread_percent), (5.0, 80.0));
        assert!(median([].into_iter()).is_none());
    }
}
