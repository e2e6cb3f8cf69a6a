//! What a seed stands for in the client's role.

use std::sync::Arc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::{ClientConnectionConfig, WindowBudget};
use tidegate::reactor::PoolSizes;
use tidegate::reactor::sim::Swarm;
use tidegate::services::sftp_client::Way;
use tidegate::transport::{ClientConfig, HostKey, Preferences, RekeyLimits, ServerConfig};

use crate::abroad::{TripPlan, WorkersPlan, may_fall_silent};
use crate::bytes::Flow;
use crate::calls::CallPlan;
use crate::chance::{one_in, pick, size, stream, up_to};
use crate::client::Vanish;
use crate::draw::{Weather, pool, preferences, reading, weather};
use crate::errand::{ErrandPlan, FilesPlan, Habit, MovePlan, SessionPlan};
use crate::forward::{self, Door, ForwardPlan};
use crate::host::{HostPlan, Lie, draw_lie};
use crate::keys;
use crate::line::{Meddle, Meddling};
use crate::shelf::{ShelfFile, ShelfLie};

#[derive(Clone, Debug)]
pub struct Journey {
    pub seed: u64,
    pub weather: Weather,
    pub swarm: Swarm,
    pub pool: PoolSizes,
    pub trips: Vec<TripPlan>,
    pub errands: Vec<ErrandPlan>,
    /// Of all hosts.
    pub files: Vec<ShelfFile>,
    pub workers: WorkersPlan,
    pub heals_at: Instant,
}

impl Journey {
    pub fn new(seed: u64) -> Journey {
        let mut chance = stream(seed, "journey");
        let repeats = seed % 10 != 9;
        let (weather, swarm) = weather(&mut chance);
        let pool = pool(&mut chance);
        let count = 1 + size(&mut chance, 4);
        let mut builder = Builder {
            preferences: preferences(&mut chance, repeats),
            chance: stream(seed, "hosts"),
            weather,
            errands: Vec::new(),
            files: Vec::new(),
            ports: 0,
            callers: stream(seed, "callers"),
        };
        let trips = (0..count).map(|_| builder.trip()).collect();
        let workers = builder.workers();
        let Builder { errands, files, .. } = builder;
        let start = Instant::from_nanos(1_000_000_000);
        let heals_at = start.after(up_to(&mut chance, Duration::from_secs(20)));
        Journey { seed, weather, swarm, pool, trips, errands, files, workers, heals_at }
    }
}

struct Builder {
    preferences: Preferences,
    chance: SeededEntropy,
    weather: Weather,
    errands: Vec<ErrandPlan>,
    files: Vec<ShelfFile>,
    /// Targets of callers.
    ports: u16,
    callers: SeededEntropy,
}

/// Bytes of one stream or file, at most; a few are longer.
const BYTES: u64 = 100_000;
const BYTES_LONG: u64 = 1_500_000;
/// What a host sends that takes no notice of windows.
const OVERRUN_BYTES: u64 = 700_000;

impl Builder {
    fn trip(&mut self) -> TripPlan {
        let mut host = self.host();
        if let Some((Lie::OverrunsWindow | Lie::Files(_), after)) = &mut host.lie {
            // Not so late that nothing may be sent any more, or is asked for.
            *after = 1;
        }
        let lie = host.lie.map(|(lie, _)| lie);
        let first = self.errands.len();
        match lie {
            Some(Lie::OverrunsWindow) => self.errands.push(overrun(&mut self.chance)),
            Some(Lie::Files(lie)) => {
                let mut plan = self.files(true);
                if matches!(lie, ShelfLie::TooMuch | ShelfLie::SuccessForData) {
                    plan.moves.retain(|one| one.way == Way::Get);
                }
                self.errands.push(ErrandPlan::Files(plan));
            }
            Some(_) => {
                let plan = self.session();
                self.errands.push(ErrandPlan::Session(plan));
            }
            None => {}
        }
        for _ in 0..1 + size(&mut self.chance, 5) {
            let errand = match one_in(&mut self.chance, 2) {
                true => ErrandPlan::Files(self.files(false)),
                false => ErrandPlan::Session(self.session()),
            };
            self.errands.push(errand);
        }
        let chance = &mut self.chance;
        let mut preferences = self.preferences.clone();
        if one_in(chance, 3) {
            let packets = 80 + chance.below(300) as u32;
            preferences.rekey = RekeyLimits { packets, ..RekeyLimits::default() };
        }
        let transport = Arc::new(ClientConfig::new(preferences));
        let mut config = ClientConnectionConfig::new(transport);
        config.window_bytes = pick(chance, [20_000, 70_000, 2 << 20, 2 << 20]);
        config.packet_bytes = pick(chance, [1_000, 32 << 10, 32 << 10]);
        config.takes_forwarded = !host.calls.is_empty();
        config.window_bytes_max = pick(chance, [config.window_bytes, 8 << 20]);
        let budget = pick(chance, [100_000, 16 << 20, 1 << 30]);
        config.window_budget = Arc::new(WindowBudget::new(budget));
        if lie == Some(Lie::OverrunsWindow) {
            (config.window_bytes, config.window_bytes_max) = (70_000, 70_000);
        }
        let rough = self.weather == Weather::Rough;
        if rough || may_fall_silent(&host) {
            let time = Duration::from_secs(15 + chance.below(20));
            config.server_alive = Some((time, 1 + chance.below(2) as u32));
        }
        TripPlan {
            starts_at: Instant::from_nanos(1_000_000_000)
                .after(up_to(chance, Duration::from_millis(300))),
            config: Arc::new(config),
            errands: (first, self.errands.len() - first),
            at_once: 1 + chance.below(5) as usize,
            rekeys: pick(chance, [0, 0, 5_000, 50_000]),
            host,
        }
    }

    fn workers(&mut self) -> WorkersPlan {
        let chance = &mut self.callers;
        let time = pick(chance, [0, 300, 40_000, 900_000]);
        let lost = self.weather == Weather::Rough && one_in(chance, 4);
        WorkersPlan { time: Duration::from_micros(time), lost: if lost { 200_000 } else { 0 } }
    }

    /// Who comes to the host's port, where the client has it listen.
    fn calls(&mut self) -> Vec<CallPlan> {
        let count = if one_in(&mut self.callers, 2) { 1 + self.callers.below(4) } else { 0 };
        (0..count).map(|_| self.call()).collect()
    }

    fn call(&mut self) -> CallPlan {
        self.ports += 1;
        let port = self.ports;
        let chance = &mut self.callers;
        let (up, down) = (size(chance, BYTES), size(chance, BYTES));
        let seed = chance.next_u64();
        let habit = match chance.below(5) {
            0 => forward::Habit::Reset { after: chance.below(up + 1) },
            1 | 2 => forward::Habit::Answer,
            _ => forward::Habit::Speak,
        };
        let door = pick(
            chance,
            [Door::Open, Door::Open, Door::Open, Door::Named, Door::Shut, Door::Silent],
        );
        let millis = Duration::from_millis;
        let to = ForwardPlan {
            door,
            habit,
            port,
            up: Flow::new(seed, up),
            down: Flow::new(!seed, down),
            // The host's own are used.
            piece: 0,
            gulp: 0,
            rests: pick(chance, [millis(0), millis(0), millis(5), millis(300)]),
            closes_after: one_in(chance, 8).then(|| chance.below(20_000)),
        };
        CallPlan::draw(to, chance)
    }

    fn host(&mut self) -> HostPlan {
        let calls = self.calls();
        let rough = self.weather == Weather::Rough;
        let chance = &mut self.chance;
        let mut preferences = self.preferences.clone();
        if one_in(chance, 4) {
            let packets = 80 + chance.below(300) as u32;
            preferences.rekey = RekeyLimits { packets, ..RekeyLimits::default() };
        }
        let key = HostKey::new(keys::host().public().clone());
        let lie = draw_lie(chance);
        let meddling = (rough && one_in(chance, 6)).then(|| Meddling {
            after: size(chance, 60_000),
            how: pick(
                chance,
                [Meddle::Flip, Meddle::Insert, Meddle::Lose, Meddle::Double, Meddle::Silence],
            ),
        });
        let vanishes = (rough && one_in(chance, 4)).then(|| {
            let most = pick(chance, [50, 500, 5_000]);
            let how = pick(chance, [Vanish::Close, Vanish::Reset, Vanish::HalfClose]);
            (up_to(chance, Duration::from_millis(most)), how)
        });
        HostPlan {
            config: Arc::new(ServerConfig::new(preferences, vec![key])),
            window: pick(chance, [2_000, 40_000, 300_000, 2 << 20]),
            packet: pick(chance, [256, 2_000, 32 << 10, 32 << 10]),
            piece: pick(chance, [500, 9_000, 32 << 10]),
            grants_at_once: one_in(chance, 2),
            reading: reading(chance),
            meddling,
            vanishes,
            rekeys: pick(chance, [0, 0, 5_000, 50_000]),
            shuffles: one_in(chance, 2),
            lie,
            calls,
            seed: chance.next_u64(),
        }
    }

    fn session(&mut self) -> SessionPlan {
        let chance = &mut self.chance;
        let most = if one_in(chance, 30) { BYTES_LONG } else { BYTES };
        let habit = pick(chance, [Habit::Echo, Habit::Talk, Habit::Leave]);
        SessionPlan {
            habit,
            seed: chance.next_u64(),
            input: size(chance, most),
            output: if habit == Habit::Echo { 0 } else { size(chance, most) },
            errors: if one_in(chance, 3) { size(chance, 20_000) } else { 0 },
            code: chance.below(4) as u32,
            gulp: pick(chance, [500, 9_000, 65_536]),
            rests: pick(chance, [0, 0, 3_000, 30_000]),
            rest_max: pick(chance, [Duration::from_millis(3), Duration::from_secs(1)]),
            hangs_up: one_in(chance, 8).then(|| chance.below(20_000)),
            sleeps: None,
        }
    }

    /// `fine`: nothing of it fails, and some of it is read.
    fn files(&mut self, fine: bool) -> FilesPlan {
        let count = 1 + size(&mut self.chance, 6);
        let mut moves: Vec<MovePlan> = (0..count).map(|_| self.one_file(fine)).collect();
        if fine {
            let one = self.one_file(true);
            moves.push(MovePlan { way: Way::Get, ..one });
        }
        for one in &moves {
            let MovePlan { seed, fails_at, .. } = *one;
            let len = if one.way == Way::Get { one.file_len } else { 0 };
            self.files.push(ShelfFile { seed, len, stored: Vec::new(), fails_at });
        }
        let first = self.files.len() - moves.len();
        for (n, one) in moves.iter_mut().enumerate() {
            one.number = (first + n) as u32;
        }
        let chance = &mut self.chance;
        let at_once = 1 + chance.below(4) as usize;
        let bytes_a_second = pick(chance, [None, None, None, Some(50_000)]);
        FilesPlan { moves, at_once, bytes_a_second }
    }

    fn one_file(&mut self, fine: bool) -> MovePlan {
        let chance = &mut self.chance;
        let most = if one_in(chance, 30) { BYTES_LONG } else { BYTES };
        let len = size(chance, most);
        let way = pick(chance, [Way::Get, Way::Put]);
        let there = if one_in(chance, 4) { chance.below(50_000) } else { 0 };
        let front = if way == Way::Get { there } else { 0 };
        let shorter = if one_in(chance, 5) { chance.below(len + 1) } else { 0 };
        let fails = !fine && one_in(chance, 8);
        let fails_at = fails.then(|| there + chance.below(len + 1));
        let seed = chance.next_u64();
        let file_len = front + len - shorter;
        MovePlan { way, number: 0, seed, len, there, file_len, fails_at }
    }
}

fn overrun(chance: &mut SeededEntropy) -> ErrandPlan {
    ErrandPlan::Session(SessionPlan {
        habit: Habit::Leave,
        seed: chance.next_u64(),
        input: 0,
        output: OVERRUN_BYTES,
        errors: 0,
        code: 0,
        gulp: 9_000,
        rests: 0,
        rest_max: Duration::ZERO,
        hangs_up: None,
        sleeps: Some(1 + chance.below(30_000)),
    })
}
