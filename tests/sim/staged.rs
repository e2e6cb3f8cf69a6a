//! Runs that are not drawn but staged, for what chance seldom brings together.

use std::sync::Arc;
use std::time::Duration;

use tidegate::base::Instant;
use tidegate::limits::ACCEPT_REST;
use tidegate::reactor::PoolSizes;
use tidegate::reactor::sim::Swarm;
use tidegate::services::upstream::Credential;
use tidegate::transport::{CompressionKind, Preferences};

use crate::abroad::Abroad;
use crate::bytes::Flow;
use crate::calls::{CallPlan, FOR_EVER, Version};
use crate::child::Program;
use crate::client::{Client, Outcome, Vanish};
use crate::draw::{Draw, Weather};
use crate::forward::{Door, ForwardPlan, Habit};
use crate::hostile::{Crime, HostilePlan};
use crate::journey::Journey;
use crate::moving::Moving;
use crate::onward::Onward;
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
    (manners.times, manners.moving) = (Times::default(), Moving::default());
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
        odd: false,
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

/// The first client so many times, whose logins go on at the host behind over one connection.
fn sharers(count: usize) -> Draw {
    let mut draw = calm(PoolSizes { small: 64, packet: 96, bulk: 24 });
    let preferences = draw.gateway.transport.preferences.clone();
    draw.onward = Some(Onward::sharing(preferences, Duration::from_secs(3)));
    draw.clients[0].user = "p0-s".to_owned();
    draw.clients = vec![draw.clients[0].clone(); count];
    draw
}

/// Runs it; logins that went on, and those of them for which no connection was made.
fn shared(draw: Draw) -> (u64, u64) {
    let done: Vec<bool> = draw.clients.iter().map(|client| client.vanishes.is_none()).collect();
    let mut run = Run::new(draw);
    run.until("everybody is done", Duration::from_secs(3 * 3600), |run| {
        run.clients.iter().all(Client::is_over)
    });
    for (client, done) in run.clients.iter().zip(done) {
        assert!(!done || client.outcome == Some(Outcome::Done), "{:?}", client.outcome);
    }
    let gone_on = run.gone_on();
    run.finish();
    gone_on
}

/// TidegateUpstreamShare: who meets a connection of the user, or one that is being made, goes on over
/// it, and a client that leaves in the middle takes nobody with it.
#[test]
fn logins_of_one_user_share_a_connection() {
    assert_eq!(shared(sharers(5)), (5, 4));
    let mut draw = sharers(5);
    for client in &mut draw.clients[..2] {
        client.vanishes = Some((Duration::from_millis(40), Vanish::Reset));
    }
    let (all, sharing) = shared(draw);
    assert!(
        all > 3 && sharing >= 2,
        "{all} logins, {sharing} of them on a connection that was there"
    );
    // Another's user's are not among them.
    let mut draw = sharers(4);
    draw.clients[3].user = "p0-t".to_owned();
    assert_eq!(shared(draw), (4, 2));
    // Nor is one that comes when the connection is not kept any more.
    let mut draw = sharers(2);
    draw.clients[1].starts_at = draw.clients[0].starts_at.after(Duration::from_secs(30));
    assert_eq!(shared(draw), (2, 0));
}

/// No login goes on over a connection whose certificate counts no more, or that is older than an hour,
/// while those that do go on.
#[test]
fn no_login_joins_a_connection_that_is_too_old() {
    let authority = || Credential::Authority("/key".into());
    let identity = || Credential::Identity("/key".into());
    for (credential, minutes, sharing) in
        [(authority(), 4, 1), (authority(), 6, 0), (identity(), 6, 1), (identity(), 61, 0)]
    {
        let mut draw = sharers(2);
        draw.onward.as_mut().expect("a way on").credential = credential;
        let time = Duration::from_secs(60 * minutes);
        if let TaskPlan::Exec(plan) = &mut draw.clients[0].tasks[0] {
            // Its pieces come as slowly as that.
            (plan.input, plan.piece, plan.pace) = (4, 1, time / 2);
        }
        draw.clients[1].starts_at = draw.clients[0].starts_at.after(time);
        assert_eq!(shared(draw), (2, sharing), "after {minutes} minutes");
    }
}

/// A host that opens so many sessions a connection is asked for the others on another one.
#[test]
fn sessions_that_a_host_refuses_on_a_shared_connection_get_another() {
    let mut draw = sharers(4);
    let mut gateway = (*draw.gateway).clone();
    gateway.sessions_max = 1;
    draw.gateway = Arc::new(gateway);
    let (all, sharing) = shared(draw);
    assert!(all - sharing > 1 && all - sharing <= 4, "{all} logins, {sharing} shared");
}

/// SECURITY case 107: what may be about the whole connection is asked for on one that is not shared;
/// what the session has asked for before is asked again, and answered once.
#[test]
fn case_107_sessions_that_ask_for_more_move_to_a_connection_of_their_own() {
    for (terminal, variables) in [(false, 0), (false, 2), (true, 1)] {
        let mut draw = sharers(3);
        if let TaskPlan::Exec(plan) = &mut draw.clients[2].tasks[0] {
            (plan.odd, plan.variables, plan.terminal) = (true, variables, terminal);
            let out = Flow::new(5, 700);
            let err = Flow::new(!5, 0);
            plan.program = Program::Source { out, err, code: 0 };
            plan.input = 0;
        }
        let (all, sharing) = shared(draw);
        assert_eq!(all - sharing, 2, "{all} logins, {sharing} shared");
    }
}

/// What was waited for and came wakes nobody later: not the time that a host had to answer in, nor that of
/// a login.
#[test]
fn sessions_that_rest_wake_nobody() {
    for onward in [false, true] {
        let mut draw =
            if onward { sharers(1) } else { calm(PoolSizes { small: 64, packet: 96, bulk: 24 }) };
        if let TaskPlan::Exec(plan) = &mut draw.clients[0].tasks[0] {
            (plan.input, plan.piece, plan.pace) = (2, 1, Duration::from_secs(1_000));
        }
        let from = draw.clients[0].starts_at;
        let mut run = Run::new(draw);
        let is_past =
            |seconds| move |run: &mut Run| run.now() > from.after(Duration::from_secs(seconds));
        run.until("something happens after its login", Duration::from_secs(60), is_past(3));
        let turns = run.turns;
        run.until("the session goes on", Duration::from_secs(2_000), is_past(900));
        assert_eq!(run.turns - turns, 0, "onward: {onward}");
        run.finish();
    }
}

/// A socket that was shut down fails each accept at once. Until its shard is told to stop it asks now and
/// then, and turns for nothing else.
#[test]
fn a_socket_that_listens_no_more_is_asked_now_and_then() {
    let mut run = Run::new(calm(PoolSizes { small: 64, packet: 96, bulk: 24 }));
    run.until("the client is done", Duration::from_secs(90), |run| {
        run.clients.iter().all(Client::is_over)
    });
    let (from, turns) = (run.now(), run.turns);
    run.silence();
    let time = 20 * ACCEPT_REST;
    run.until("time passes", 2 * time, |run| run.now() > from.after(time));
    assert!((10..=60).contains(&(run.turns - turns)), "{} turns", run.turns - turns);
    run.finish();
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

/// Whoever comes to a port that leads on by SOCKS has 30 s to say where to, to the nanosecond
/// (`judge_time` in abroad.rs), whatever he has said by then.
#[test]
fn callers_have_their_time_and_no_more() {
    let fits = |journey: &Journey| {
        journey.weather == Weather::Calm && journey.trips.iter().all(|trip| trip.host.lie.is_none())
    };
    let mut journey = (1..).map(Journey::new).find(fits).expect("one of many");
    journey.trips.truncate(1);
    let to = ForwardPlan {
        door: Door::Open,
        habit: Habit::Answer,
        port: 1,
        up: Flow::new(5, 3_000),
        down: Flow::new(6, 3_000),
        piece: 0,
        gulp: 0,
        rests: Duration::ZERO,
        closes_after: None,
    };
    let (mut calls, mut late) = (Vec::new(), 0);
    for version in [Version::Four, Version::Five] {
        let plan = CallPlan {
            to: to.clone(),
            version,
            hurries: true,
            mistake: None,
            rests: None,
            starts_after: Duration::ZERO,
        };
        for at in 0..plan.words().concat().len() {
            for rest in [Duration::from_secs(29), Duration::from_secs(31), FOR_EVER] {
                let mut call = CallPlan { rests: Some((at, rest)), ..plan.clone() };
                call.to.port = calls.len() as u16 + 1;
                late += u64::from(rest > Duration::from_secs(30));
                calls.push(call);
            }
        }
    }
    let all = calls.len() as u64;
    journey.trips[0].host.calls = calls;
    let mut config = (*journey.trips[0].config).clone();
    config.takes_forwarded = true;
    journey.trips[0].config = Arc::new(config);
    let tally = Abroad::new(journey).finish();
    assert_eq!((tally.times("call late"), tally.times("call connected")), (late, all - late));
}
