//! Connections that go on in another program with all that their channels are attached to: here in the same
//! shard, or in another one.

use tidegate::base::SeededEntropy;
use tidegate::services::Grant;
use tidegate::shard::{HandOver, Report, What};

use crate::chance::{one_in, pick};
use crate::draw::Weather;
use crate::tally::Tally;

/// What moves are like in one run.
#[derive(Clone, Debug, Default)]
pub struct Moving {
    /// Of a million, each turn of a shard: all that can is to move from now on.
    pub asked: u32,
    /// How often that is asked at most: it wakes the shard, whose turns it is drawn by.
    pub calls: u32,
    /// Of a million: connections that are taken.
    pub taken: u32,
    /// How many are at most: one that rests moves and moves again.
    pub most: u32,
    /// Of a million: luggage that is spoilt on its way.
    pub spoilt: u32,
    pub seed: u64,
}

impl Moving {
    pub fn draw(chance: &mut SeededEntropy, weather: Weather) -> Moving {
        let rough = weather == Weather::Rough && one_in(chance, 4);
        Moving {
            asked: pick(chance, [0, 20_000, 100_000, 400_000]),
            calls: pick(chance, [10, 50, 250]),
            taken: pick(chance, [100_000, 500_000, 900_000]),
            most: pick(chance, [10, 50, 250]),
            spoilt: if rough { 100_000 } else { 0 },
            seed: chance.next_u64(),
        }
    }
}

/// What a process boundary does to it.
pub fn across(mut connection: Box<HandOver>) -> Box<HandOver> {
    // The way on of a login travels by other means.
    let upstream = connection.grant.upstream.take();
    let grant = Grant::decode(&connection.grant.encode()).expect("a grant travels");
    assert_eq!(grant, *connection.grant);
    *connection.grant = Grant { upstream, ..grant };
    let luggage = connection.luggage.as_ref().expect("luggage");
    assert!(luggage.fits(), "more than can travel");
    connection
}

/// Its end does not arrive, or something that nobody knows comes behind it.
pub fn spoil(connection: &mut HandOver, chance: &mut SeededEntropy) {
    let Some(luggage) = &mut connection.luggage else { return };
    let cut = chance.below(luggage.bytes.len() as u64) as usize;
    match one_in(chance, 4) {
        true => luggage.bytes.push(0),
        false => luggage.bytes.truncate(cut),
    }
}

/// What is worth to be seen move.
pub fn kinds(connection: &HandOver) -> Vec<&'static str> {
    let luggage = connection.luggage.as_ref().map(|luggage| &luggage.bytes[..]).unwrap_or_default();
    let terminal = b"/dev/pts/";
    let kinds = [
        ("moved with bytes that were not opened", !connection.inbound.is_empty()),
        ("moved with bytes that were not sent", !connection.outbound.is_empty()),
        ("moved with bytes that were not written", luggage.len() > 2_000),
        ("moved with a terminal", luggage.windows(terminal.len()).any(|part| part == terminal)),
    ];
    kinds.into_iter().filter(|(_, is)| *is).map(|(what, _)| what).collect()
}

/// One run in so many has met with it at least.
pub const RUNS: [(&str, u64); 2] =
    [("run that moved sessions", 8), ("run that moved forwarded connections", 80)];

/// How many connections have moved, and with what.
pub fn count(reports: &[Report], tally: &mut Tally) {
    let (mut all, mut sessions, mut forwards) = (0, 0, 0);
    for report in reports {
        if let What::MovedOn { sessions: some, forwards: others, .. } = report.what {
            all += 1;
            sessions += u64::from(some > 0);
            forwards += u64::from(others > 0);
        }
    }
    let moved_in = |report: &&Report| matches!(report.what, What::MovedIn { .. });
    tally.count("moved on", all);
    tally.count("moved in", reports.iter().filter(moved_in).count() as u64);
    tally.count("moved with sessions", sessions);
    tally.count("moved with forwarded connections", forwards);
    tally.count("run that moved sessions", u64::from(sessions > 0));
    tally.count("run that moved forwarded connections", u64::from(forwards > 0));
}
