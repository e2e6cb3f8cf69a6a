//! Runs that are not drawn but staged, for what chance seldom brings together.

use std::sync::Arc;
use std::time::Duration;

use tidegate::base::Instant;
use tidegate::reactor::PoolSizes;
use tidegate::reactor::sim::Swarm;
use tidegate::transport::{CompressionKind, Preferences};

use crate::bytes::Flow;
use crate::child::Program;
use crate::client::{Client, Outcome};
use crate::draw::{Draw, Weather};
use crate::hostile::{Crime, HostilePlan};
use crate::run::Run;
use crate::task::{ExecPlan, TaskPlan};
use crate::times::Times;

/// A draw with at least one client, made calm, with one shard.
fn calm(pool: PoolSizes) -> Draw {
    let fits = |draw: &Draw| {
        let seldom = |preferences: &Preferences| {
            preferences.rekey.packets > 1 << 20
                && preferences.compression == [CompressionKind::None]
        };
        draw.manners.shards == 1
            && seldom(&draw.gateway.transport.preferences)
            && draw
                .clients
                .first()
                .is_some_and(|client| seldom(&client.config.transport.preferences))
    };
    let mut draw = (1..).map(Draw::new).find(fits).expect("one of many");
    (draw.weather, draw.swarm) = (Weather::Calm, Swarm::calm());
    (draw.pools, draw.files, draw.stops_at) = (vec![pool], Vec::new(), None);
    let manners = &mut draw.manners;
    (manners.job_time, manners.jobs_max, manners.dawdles) = (Duration::ZERO, 4096, Duration::ZERO);
    (manners.lost, manners.spawn_fails, manners.refuses, manners.files_fail) = (0, 0, 0, 0);
    manners.times = Times::default();
    let mut gateway = (*draw.gateway).clone();
    (gateway.window_bytes, gateway.packet_bytes) = (2 << 20, 32 << 10);
    gateway.client_alive = None;
    draw.gateway = Arc::new(gateway);
    draw.clients.truncate(1);
    draw.clients[0].tasks = vec![TaskPlan::Exec(ExecPlan {
        program: Program::Cat,
        seed: 5,
        input: 50_000,
        piece: 9_000,
        terminal: false,
        shell: false,
        variables: 0,
        want_reply: true,
        eager: false,
        signal: None,
        closes_after: None,
        gulp: 500,
        idle: None,
        pace: Duration::ZERO,
    })];
    let client = &mut draw.clients[0];
    (client.meddling, client.vanishes, client.lingers) = (None, None, None);
    (client.moves, client.rekeys, client.reading.rests) = (0, 0, 0);
    draw
}

fn hostile_like(draw: &Draw, crime: Crime) -> HostilePlan {
    let client = &draw.clients[0];
    HostilePlan {
        starts_at: Instant::from_nanos(1_000_000_000),
        user: client.user.clone(),
        config: Arc::clone(&client.config.transport),
        reading: client.reading.clone(),
        crime,
        patience: Duration::from_secs(300),
        seed: 11,
    }
}

/// Everybody receives in the small buffers. Those whom something keeps waiting must not hold them
/// all, whatever it is: here peers that do not read what they provoke, and programs that do not
/// read what they are sent.
#[test]
fn those_who_wait_leave_receive_buffers_to_others() {
    for crime in [Crime::PingFlood, Crime::PingDrip, Crime::Hoard] {
        let mut draw = calm(PoolSizes { small: 4, packet: 400, bulk: 24 });
        draw.hostiles = (0..6).map(|_| hostile_like(&draw, crime)).collect();
        draw.clients[0].starts_at = Instant::from_nanos(60_000_000_000);
        let mut run = Run::new(draw);
        run.until("the client is done", Duration::from_secs(90), |run| {
            run.clients.iter().all(Client::is_over)
        });
        assert!(run.hostiles.iter().all(|hostile| !hostile.over), "{crime:?} goes on");
        assert_eq!(run.clients[0].outcome, Some(Outcome::Done), "{crime:?}");
        run.finish();
    }
}

/// A program that reads nothing holds little memory with what it is sent, so that the connection
/// can still be read from, and its end be noticed.
#[test]
fn who_fills_a_window_for_nothing_does_not_fill_a_small_pool() {
    for (hoards, packet) in [(1, 8), (1, 11), (1, 17), (2, 20), (3, 30)] {
        let mut draw = calm(PoolSizes { small: 5, packet, bulk: 3 });
        draw.swarm.latency_max = Duration::from_millis(3);
        draw.swarm.pipe_bytes = 4_096;
        let hoard = hostile_like(&draw, Crime::Hoard);
        let hoard = HostilePlan { patience: Duration::from_secs(50), ..hoard };
        draw.hostiles = vec![hoard; hoards];
        draw.clients[0].starts_at = Instant::from_nanos(30_000_000_000);
        Run::new(draw).finish();
    }
}

/// Programs that read nothing, as many as there are leases: what they are sent must not keep others
/// from theirs, nor their own connections from being timed.
#[test]
fn programs_that_read_nothing_leave_memory_to_others() {
    for (crammers, packet, bulk) in [(1, 8, 1), (6, 14, 2), (20, 16, 4)] {
        let mut draw = calm(PoolSizes { small: 5, packet, bulk });
        draw.swarm.pipe_bytes = 4_096;
        draw.hostiles = vec![hostile_like(&draw, Crime::Cram); crammers];
        draw.clients[0].starts_at = Instant::from_nanos(30_000_000_000);
        let mut run = Run::new(draw);
        run.until("the client is done", Duration::from_secs(35), |run| {
            run.clients.iter().all(Client::is_over)
        });
        assert_eq!(run.clients[0].outcome, Some(Outcome::Done), "{crammers} crammers");
        assert!(run.hostiles.iter().all(|hostile| !hostile.over), "they are let be");
        run.finish();
    }
}

/// Peers that do not read what they ordered hold memory that cannot be had back. They are let be as
/// long as nobody needs it, and no longer than STARVED_TIME_MAX otherwise.
#[test]
fn peers_that_read_nothing_do_not_hold_memory_for_ever() {
    for (packet, bulk, scarce) in [(24, 2, true), (400, 60, false)] {
        let mut draw = calm(PoolSizes { small: 8, packet, bulk });
        draw.swarm.socket_bytes = 20_000;
        draw.hostiles = vec![hostile_like(&draw, Crime::Glut); 8];
        draw.clients[0].starts_at = Instant::from_nanos(10_000_000_000);
        let mut run = Run::new(draw);
        run.until("the client is done", Duration::from_secs(200), |run| {
            run.clients.iter().all(Client::is_over)
        });
        assert_eq!(run.clients[0].outcome, Some(Outcome::Done), "{packet} leases");
        let ended = run.ended_for("it held memory that others waited for");
        assert_eq!(ended > 0, scarce, "{ended} ended of 8");
        run.finish();
    }
}

#[test]
fn the_content_of_a_flow_is_the_same_from_any_place() {
    let mut flow = Flow::new(9, 100);
    let whole = flow.peek(100);
    for len in [1, 2, 5, 11, 30, 51] {
        let at = flow.at as usize;
        flow.check(&whole[at..at + len], "a piece");
    }
    assert_eq!(flow.left(), 0);
}
