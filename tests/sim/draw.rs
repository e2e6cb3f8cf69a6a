//! What a seed stands for: a world, a gateway in it, and its clients.

use std::sync::Arc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::{ClientConnectionConfig, ConnectionConfig, WindowBudget};
use tidegate::crypto::{
    CipherKind, KexKind, KeyAlgorithm, PrivateKey, Provider, SignatureAlgorithm,
};
use tidegate::limits::OUTBOXES_UNSENT_MAX;
use tidegate::reactor::PoolSizes;
use tidegate::reactor::sim::Swarm;
use tidegate::transport::{
    ClientConfig, CompressionKind, HostKey, Preferences, RekeyLimits, ServerConfig,
};

use crate::bytes::Flow;
use crate::chance::{one_in, pick, size, stream, up_to};
use crate::child::Program;
use crate::client::{ClientPlan, Vanish};
use crate::copy::{CopyFile, CopyPlan};
use crate::forward::{Door, ForwardPlan, Habit};
use crate::hostile::{Crime, HostilePlan};
use crate::keys;
use crate::line::{Meddle, Meddling, Reading};
use crate::moving::Moving;
use crate::office::Manners;
use crate::onward::Onward;
use crate::task::{ExecPlan, TaskPlan};
use crate::times::Times;
use crate::transfer::{FileAct, FilePlan, TransferPlan};

/// What a run may blame a lost connection on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing goes wrong at all.
    Calm,
    /// Only what a correct program hides: everybody must get what they came for.
    Benign,
    Rough,
}

#[derive(Clone, Debug)]
pub struct Draw {
    pub seed: u64,
    pub weather: Weather,
    pub swarm: Swarm,
    pub pools: Vec<PoolSizes>,
    pub manners: Manners,
    pub gateway: Arc<ConnectionConfig>,
    pub host_keys: Arc<[Option<PrivateKey>]>,
    /// How logins go on at a host behind the gateway, where some do.
    pub onward: Option<Onward>,
    pub clients: Vec<ClientPlan>,
    pub hostiles: Vec<HostilePlan>,
    /// Files that are there from the start.
    pub files: Vec<(String, u64, u64)>,
    /// Of a million, each turn: quiet connections of the gateway move under their services.
    pub moves: u32,
    /// When the faults end.
    pub heals_at: Instant,
    /// The gateway is told to stop in the middle.
    pub stops_at: Option<Instant>,
}

impl Draw {
    pub fn new(seed: u64) -> Draw {
        let mut chance = stream(seed, "world");
        // Keys and randomness are the seed's: the same seed has the same trace.
        let repeats = seed % 10 != 9;
        let (weather, swarm) = weather(&mut chance);
        let shards = 1 + chance.below(2) as usize;
        let times = Times::draw(&mut stream(seed, "times"));
        let moving = Moving::draw(&mut stream(seed, "moving"), weather);
        let manners = Manners { moving, ..manners(&mut chance, weather, shards, times.clone()) };
        let mut pools: Vec<PoolSizes> = (0..shards).map(|_| pool(&mut chance)).collect();
        let mut builder = Builder {
            preferences: preferences(&mut chance, repeats),
            chance: stream(seed, "clients"),
            files: Vec::new(),
            shards,
            weather,
            times: times.clone(),
            crowd: one_in(&mut chance, 60),
            ports: 0,
            packets: 0,
        };
        let count = match builder.crowd {
            true => 10 + builder.chance.below(10),
            false => 1 + size(&mut builder.chance, 5),
        };
        let mut clients = Vec::new();
        let mut hostiles = Vec::new();
        for n in 0..count {
            if one_in(&mut builder.chance, 5) {
                hostiles.push(builder.hostile(n));
            } else {
                clients.push(builder.client(n));
            }
        }
        let Builder { files, preferences, packets, .. } = builder;
        // Whoever reads no answers holds so many; a shard has them for all it lets in.
        let held = hostiles.len() as u32 * (u32::from(OUTBOXES_UNSENT_MAX) + 2);
        for pool in &mut pools {
            pool.packet = pool.packet.max(8 + held);
        }
        let (gateway, host_keys) = gateway(&mut chance, preferences, repeats, packets, &times);
        let onward = onward(&mut stream(seed, "onward"), &times, &mut clients, &gateway, packets);
        if onward.is_some() {
            pools.iter_mut().for_each(widen);
        }
        let start = Instant::from_nanos(1_000_000_000);
        let heals_at = start.after(up_to(&mut chance, Duration::from_secs(20)));
        let stops_at = (weather == Weather::Rough && one_in(&mut chance, 12))
            .then(|| start.after(up_to(&mut chance, Duration::from_secs(3))));
        let moves = pick(&mut chance, [0, 3_000, 30_000]);
        Draw {
            seed,
            weather,
            swarm,
            pools,
            manners,
            gateway,
            host_keys,
            onward,
            clients,
            hostiles,
            files,
            moves,
            heals_at,
            stops_at,
        }
    }
}

pub fn weather(chance: &mut SeededEntropy) -> (Weather, Swarm) {
    let weather = pick(chance, [Weather::Calm, Weather::Benign, Weather::Rough]);
    let mut swarm = match weather {
        Weather::Calm => Swarm::calm(),
        Weather::Benign => Swarm::draw_benign(chance),
        Weather::Rough => Swarm::draw(chance),
    };
    // A key exchange behind a full backlog must still end in its minute.
    if swarm.socket_bytes < 10_000 {
        swarm.delay_max = swarm.delay_max.min(Duration::from_millis(1));
    }
    (weather, swarm)
}

/// What has become a longer packet on its way keeps both ends waiting for its rest, for ever where no
/// sign of life is asked for. Longer than everybody takes who gets what they came for.
const PATIENCE: Duration = Duration::from_secs(600);

fn manners(chance: &mut SeededEntropy, weather: Weather, shards: usize, times: Times) -> Manners {
    let rough = |chance: &mut SeededEntropy, most: u64| {
        let on = weather == Weather::Rough && one_in(chance, 4);
        if on { chance.below(most) as u32 } else { 0 }
    };
    let micros = Duration::from_micros;
    let jobs_max = pick(chance, [1, 3, 4096, 4096]);
    // Those who find no room look again every millisecond.
    let longest = micros(if jobs_max < 4096 { 100_000 } else { 900_000 });
    Manners {
        shards,
        job_time: pick(chance, [micros(0), micros(300), micros(40_000), longest]),
        jobs_max,
        dawdles: pick(chance, [micros(0), micros(500), micros(200_000)]),
        lost: rough(chance, 50_000),
        spawn_fails: rough(chance, 300_000),
        hand_over_fails: rough(chance, 300_000),
        refuses: rough(chance, 300_000),
        files_fail: rough(chance, 100_000),
        times,
        moving: Moving::default(),
    }
}

pub fn pool(chance: &mut SeededEntropy) -> PoolSizes {
    if one_in(chance, 4) {
        PoolSizes {
            small: 1 + chance.below(6) as u32,
            packet: 8 + chance.below(24) as u32,
            bulk: 1 + chance.below(4) as u32,
        }
    } else {
        PoolSizes { small: 32, packet: 96, bulk: 12 }
    }
}

pub fn preferences(chance: &mut SeededEntropy, toy: bool) -> Preferences {
    let mut preferences = Preferences::new("Sim_1").expect("valid software");
    if toy {
        preferences.provider = Provider::Toy;
        preferences.kex = vec![KexKind::Toy];
        preferences.ciphers = vec![CipherKind::Toy];
    } else {
        let cipher = pick(
            chance,
            [CipherKind::Aes256Gcm, CipherKind::Chacha20Poly1305, CipherKind::Aes128Ctr],
        );
        preferences.ciphers = vec![cipher];
        let kex = pick(chance, [KexKind::Curve25519, KexKind::MlKem768X25519, KexKind::EcdhP256]);
        // Agreed on by the workers, and expensive.
        preferences.kex = vec![if one_in(chance, 20) { KexKind::DhGroupExchange } else { kex }];
    }
    if one_in(chance, 5) {
        preferences.compression = vec![CompressionKind::Delayed, CompressionKind::None];
    }
    preferences
}

fn gateway(
    chance: &mut SeededEntropy,
    mut preferences: Preferences,
    repeats: bool,
    packets: u64,
    times: &Times,
) -> (Arc<ConnectionConfig>, Arc<[Option<PrivateKey>]>) {
    // A few key exchanges a connection, not more: clients take only so many in a second.
    if one_in(chance, 3) {
        let packets = (packets / (1 + chance.below(6))).max(60);
        preferences.rekey = RekeyLimits { packets: packets as u32, ..RekeyLimits::default() };
    }
    let slow = !repeats && one_in(chance, 4);
    let host_keys = keys::gateway(slow);
    let public = host_keys.iter().flatten().map(|key| HostKey::new(key.public().clone())).collect();
    let mut transport = ServerConfig::new(preferences, public);
    transport.steers = one_in(chance, 2);
    let mut config = ConnectionConfig::new(Arc::new(transport));
    config.window_bytes = pick(chance, [20_000, 70_000, 2 << 20, 2 << 20]);
    config.packet_bytes = pick(chance, [1_000, 32 << 10, 32 << 10]);
    config.banner = one_in(chance, 4).then(|| "Mind the tide.\n".repeat(20));
    config.client_alive = times.alive.filter(|_| !times.with_login);
    config.delay_secret = chance.next_u64();
    // By numbers of their own, so that the worlds of known seeds stay what they were.
    let mut chance = SeededEntropy::new(config.delay_secret);
    config.window_bytes_max = pick(&mut chance, [config.window_bytes, 8 << 20, 128 << 20]);
    let budget = pick(&mut chance, [100_000, 16 << 20, 1 << 30]);
    config.window_budget = Arc::new(WindowBudget::new(budget));
    (Arc::new(config), host_keys)
}

/// Three links where there is one elsewhere, and two of them wait for each other.
fn widen(pool: &mut PoolSizes) {
    let PoolSizes { small, packet, bulk } = *pool;
    *pool = PoolSizes { small: small.max(16), packet: packet.max(48), bulk: bulk.max(6) };
}

/// Some clients of some seeds are those of a proxy. What is timed is timed at the host, of which they
/// hear later, so not where anything is.
fn onward(
    chance: &mut SeededEntropy,
    times: &Times,
    clients: &mut [ClientPlan],
    gateway: &ConnectionConfig,
    packets: u64,
) -> Option<Onward> {
    if times.channel.is_some() || times.unused.is_some() || !one_in(chance, 3) {
        return None;
    }
    let mut preferences = gateway.transport.preferences.clone();
    preferences.rekey = RekeyLimits::default();
    for client in clients.iter_mut() {
        if !one_in(chance, 3) {
            client.user.replace_range(..1, "p");
        }
    }
    let onward = Onward::draw(chance, preferences, packets);
    if onward.share.is_some() {
        // They share with others of their own only.
        for client in clients.iter_mut().filter(|client| client.is_proxied()) {
            client.user.replace_range(3.., "s");
            for task in &mut client.tasks {
                if let TaskPlan::Exec(plan) = task {
                    plan.odd = one_in(chance, 5);
                }
            }
        }
    }
    Some(onward)
}

struct Builder {
    chance: SeededEntropy,
    preferences: Preferences,
    files: Vec<(String, u64, u64)>,
    shards: usize,
    weather: Weather,
    times: Times,
    /// Many come at once, each for little.
    crowd: bool,
    /// Targets of forwarded connections so far.
    ports: u16,
    /// About how many packets the busiest client exchanges.
    packets: u64,
}

/// Bytes of one stream, at most; a few are longer.
const STREAM_BYTES: u64 = 100_000;
const LONG_STREAM_BYTES: u64 = 1_500_000;

impl Builder {
    fn client(&mut self, n: u64) -> ClientPlan {
        let home = self.chance.below(self.shards as u64);
        let count = if self.crowd { 1 } else { 1 + size(&mut self.chance, 7) };
        let tasks: Vec<TaskPlan> = (0..count).map(|_| self.task(n)).collect();
        let packets = 200 + tasks.iter().map(packets).sum::<u64>();
        self.packets = self.packets.max(packets);
        let rough = self.weather == Weather::Rough;
        let chance = &mut self.chance;
        let mut preferences = self.preferences.clone();
        if one_in(chance, 3) {
            let packets = (packets / (1 + chance.below(4))).max(80);
            preferences.rekey = RekeyLimits { packets: packets as u32, ..RekeyLimits::default() };
        }
        let mut config = ClientConnectionConfig::new(Arc::new(client_config(preferences, chance)));
        config.window_bytes = pick(chance, [3_000, 40_000, 300_000, 2 << 20]);
        config.packet_bytes = pick(chance, [256, 2_000, 32 << 10, 32 << 10]);
        let mut vanishes = (rough && one_in(chance, 4)).then(|| {
            let most = pick(chance, [50, 500, 5_000]);
            let how = pick(chance, [Vanish::Close, Vanish::Reset, Vanish::HalfClose]);
            (up_to(chance, Duration::from_millis(most)), how)
        });
        let meddling = (rough && one_in(chance, 8)).then(|| Meddling {
            after: size(chance, 60_000),
            how: pick(
                chance,
                [Meddle::Flip, Meddle::Insert, Meddle::Lose, Meddle::Double, Meddle::Silence],
            ),
        });
        let silent = matches!(meddling, Some(Meddling { how: Meddle::Silence, .. }));
        if silent && self.times.alive.is_some() {
            // Nothing else ends it.
            vanishes = None;
        } else if silent || meddling.is_some() && self.times.alive.is_none() {
            // A gateway that asks for no sign of life would wait with it for ever: for what has become
            // a longer packet, too.
            let after = up_to(chance, Duration::from_secs(200));
            vanishes = vanishes.or(Some((after, Vanish::Close)));
        }
        ClientPlan {
            starts_at: Instant::from_nanos(1_000_000_000)
                .after(up_to(chance, Duration::from_millis(if self.crowd { 0 } else { 300 }))),
            user: format!("u{home}-{n}"),
            wrong_keys: chance.below(8).saturating_sub(5) as u32,
            asks_none_first: one_in(chance, 3),
            config: Arc::new(config),
            reading: reading(chance),
            meddling,
            vanishes,
            tasks,
            tasks_at_once: 1 + chance.below(6) as usize,
            rekeys: pick(chance, [0, 0, 5_000, 50_000]),
            rekeys_max: 4,
            moves: pick(chance, [0, 3_000, 30_000]),
            rude: one_in(chance, 3),
            lingers: self.times.unused.filter(|_| one_in(chance, 3)),
            silence_max: self.times.silence_max().filter(|_| silent),
            patience: (rough && self.times.alive.is_none()).then_some(PATIENCE),
            seed: chance.next_u64(),
        }
    }

    fn task(&mut self, client: u64) -> TaskPlan {
        match self.chance.below(8) {
            _ if self.crowd => TaskPlan::Exec(self.exec(2_000)),
            7 => TaskPlan::Forward(self.forward()),
            0 | 1 => TaskPlan::Sftp(self.transfer(client)),
            2 => TaskPlan::Scp(self.copy(client)),
            _ => {
                let most = match one_in(&mut self.chance, 40) {
                    true => LONG_STREAM_BYTES,
                    false => STREAM_BYTES,
                };
                let mut plan = self.exec(most);
                self.time(&mut plan);
                TaskPlan::Exec(plan)
            }
        }
    }

    /// Where something is timed, some commands are idle until they are closed for it, and some do
    /// a little for longer than anything may be idle.
    fn time(&mut self, plan: &mut ExecPlan) {
        let chance = &mut self.chance;
        let idle = self.times.command();
        let time = idle.map(|(time, _)| time).or(self.times.unused);
        let Some(time) = time.filter(|_| one_in(chance, 6)) else { return };
        let plain = ExecPlan {
            terminal: false,
            shell: false,
            signal: None,
            closes_after: None,
            ..plan.clone()
        };
        *plan = match idle.filter(|_| one_in(chance, 2)) {
            idle @ Some(_) => ExecPlan { program: Program::Wait, input: 0, idle, ..plain },
            None => ExecPlan {
                program: Program::Cat,
                input: 2 + chance.below(5),
                piece: 1,
                pace: time / 3,
                ..plain
            },
        };
    }

    fn exec(&mut self, most: u64) -> ExecPlan {
        let chance = &mut self.chance;
        let input = size(chance, most);
        let seed = chance.next_u64();
        let terminal = one_in(chance, 5);
        let code = chance.below(4) as u32;
        let output = Flow::new(seed, size(chance, most));
        let errors = if one_in(chance, 3) { size(chance, 20_000) } else { 0 };
        let (program, signal) = match (chance.below(12), terminal) {
            (0..=2, false) => (Program::Cat, None),
            (3, false) => (Program::Sink { input: Flow::new(seed, input) }, None),
            (4, false) => {
                let taken = chance.below(input + 1);
                (Program::Early { input: Flow::new(seed, taken), code }, None)
            }
            (5, false) => (Program::Leave { out: output, code }, None),
            (6, _) => (Program::Exit { code }, None),
            (7, _) => (Program::Die { name: pick(chance, ["TERM", "USR1", "KILL"]) }, None),
            (8, false) if one_in(chance, 2) => (Program::Deaf, Some("TERM")),
            (8, _) => (Program::Wait, Some(pick(chance, ["TERM", "INT", "HUP"]))),
            (9, false) if one_in(chance, 2) => (Program::Stubborn, Some("KILL")),
            (10, false) => (Program::Hush { out: output, code }, None),
            (11, false) => (Program::Shut, Some(pick(chance, ["TERM", "KILL"]))),
            _ => {
                let err = Flow::new(!seed, if terminal { 0 } else { errors });
                (Program::Source { out: output, err, code }, None)
            }
        };
        let reads = matches!(
            program,
            Program::Cat
                | Program::Sink { .. }
                | Program::Early { .. }
                | Program::Exit { .. }
                | Program::Deaf
                | Program::Shut
        );
        let gulp = pick(chance, [1, 500, 20_000]);
        let closes_after = (!terminal && one_in(chance, 10)).then(|| chance.below(5_000));
        ExecPlan {
            shell: matches!(program, Program::Cat) && one_in(chance, 4),
            program,
            seed,
            input: if reads && !terminal { input } else { 0 },
            piece: if input < 3_000 && one_in(chance, 4) {
                10
            } else {
                pick(chance, [1_000, 9_000, 32 << 10])
            },
            terminal,
            variables: chance.below(8).saturating_sub(5) as u32,
            want_reply: !one_in(chance, 4),
            eager: one_in(chance, 2),
            signal,
            closes_after,
            gulp,
            idle: None,
            pace: Duration::ZERO,
            odd: false,
        }
    }

    fn forward(&mut self) -> ForwardPlan {
        let chance = &mut self.chance;
        self.ports += 1;
        let most = if one_in(chance, 30) { LONG_STREAM_BYTES } else { STREAM_BYTES };
        let (up, down) = (size(chance, most), size(chance, most));
        let seed = chance.next_u64();
        let door = match chance.below(8) {
            0..=3 => Door::Open,
            4 => Door::Named,
            5 => Door::Path,
            6 => Door::Shut,
            _ => Door::Silent,
        };
        let habit = match chance.below(5) {
            0 => Habit::Reset { after: chance.below(up + 1) },
            1 | 2 => Habit::Answer,
            _ => Habit::Speak,
        };
        let millis = Duration::from_millis;
        ForwardPlan {
            door,
            habit,
            port: self.ports,
            up: Flow::new(seed, up),
            down: Flow::new(!seed, down),
            piece: pick(chance, [100, 9_000, 32 << 10]),
            gulp: pick(chance, [1, 500, 20_000]),
            rests: pick(chance, [millis(0), millis(0), millis(5), millis(300)]),
            closes_after: one_in(chance, 8).then(|| chance.below(20_000)),
        }
    }

    fn copy(&mut self, client: u64) -> CopyPlan {
        let chance = &mut self.chance;
        let name = format!("{client}-{:x}", chance.next_u64());
        let sends = one_in(chance, 2);
        let recursive = one_in(chance, 2);
        let count = if recursive { chance.below(4) } else { 1 };
        let mut files = Vec::new();
        for n in 0..count {
            let seed = chance.next_u64();
            let len = size(chance, STREAM_BYTES);
            let file = if recursive { format!("f{n}") } else { name.clone() };
            let path =
                if recursive { format!("/home/{name}/{file}") } else { format!("/home/{name}") };
            if !sends {
                self.files.push((path.clone(), seed, len));
            }
            files.push(CopyFile { name: file, path, seed, len });
        }
        CopyPlan {
            // A directory without files does not exist in a file system of names.
            recursive: recursive && (sends || count > 0),
            misses: !sends && files.is_empty(),
            sends,
            name,
            files,
            preserve: one_in(chance, 2),
            piece: pick(chance, [10, 1_000, 32 << 10]),
            leaves_after: one_in(chance, 10).then(|| chance.below(20_000)),
        }
    }

    fn transfer(&mut self, client: u64) -> TransferPlan {
        let count = 1 + size(&mut self.chance, 4);
        let files = (0..count).map(|_| self.file(client)).collect();
        let chance = &mut self.chance;
        TransferPlan {
            files,
            depth: pick(chance, [1, 4, 20, 64]),
            piece: pick(chance, [100, 9_000, 32 << 10, 32 << 10]),
            rude: one_in(chance, 6),
        }
    }

    fn file(&mut self, client: u64) -> FilePlan {
        let chance = &mut self.chance;
        let most = if one_in(chance, 30) { LONG_STREAM_BYTES } else { STREAM_BYTES };
        let len = size(chance, most);
        let seed = chance.next_u64();
        let act = match chance.below(12) {
            0..=4 => FileAct::Put,
            5..=8 => FileAct::Get,
            9 => FileAct::Copy,
            10 => FileAct::Miss,
            _ => FileAct::List,
        };
        let path = format!("/home/{client}-{seed:x}");
        if matches!(act, FileAct::Get | FileAct::Copy) {
            self.files.push((path.clone(), seed, len));
        }
        let request = if len < 5_000 {
            pick(chance, [100, 32 << 10])
        } else {
            pick(chance, [3_000, 32 << 10, 255 << 10])
        };
        let fsync = act != FileAct::List && one_in(chance, 4);
        FilePlan { path, act, seed, len, request, fsync }
    }

    fn hostile(&mut self, n: u64) -> HostilePlan {
        let chance = &mut self.chance;
        let crime = match chance.below(22) {
            0 => Crime::Silence,
            1 => Crime::Loiter,
            2 => Crime::AuthFlood,
            3 => Crime::EarlyChannel,
            4 => Crime::WindowOverrun,
            5 => Crime::PacketTooLarge,
            6 => Crime::UnknownChannel,
            7 => Crime::DataAfterEof,
            8 => Crime::CloseTwice,
            9 => Crime::AdjustPastEnd,
            10 => Crime::GlobalFlood,
            11 => Crime::PingFlood,
            12 => Crime::OpenFlood,
            13 => Crime::RequestFlood,
            14 => Crime::IgnoreFlood,
            15 => Crime::HalfRekey,
            16 => Crime::SftpNoise,
            17 => Crime::RandomMessages,
            18 => Crime::Hoard,
            19 => Crime::PingDrip,
            _ => {
                let (introduces, bytes) = (one_in(chance, 2), size(chance, 40_000) as u32);
                Crime::Noise { introduces, bytes }
            }
        };
        HostilePlan {
            starts_at: Instant::from_nanos(1_000_000_000)
                .after(up_to(chance, Duration::from_millis(500))),
            user: format!("u{}-{n}", chance.below(self.shards as u64)),
            config: Arc::new(client_config(self.preferences.clone(), chance)),
            reading: reading(chance),
            crime,
            patience: up_to(chance, Duration::from_secs(200)),
            seed: chance.next_u64(),
        }
    }
}

fn client_config(preferences: Preferences, chance: &mut SeededEntropy) -> ClientConfig {
    let mut config = ClientConfig::new(preferences);
    if one_in(chance, 2) {
        config.host_key_algorithms = vec![KeyAlgorithm::plain(SignatureAlgorithm::Ed25519)];
    }
    config
}

pub fn reading(chance: &mut SeededEntropy) -> Reading {
    Reading {
        bytes_max: pick(chance, [500, 5_000, 65_536, 65_536]),
        rests: pick(chance, [0, 0, 3_000, 30_000]),
        rest_max: pick(chance, [Duration::from_millis(3), Duration::from_secs(1)]),
    }
}

/// About how many packets a task makes.
fn packets(task: &TaskPlan) -> u64 {
    match task {
        TaskPlan::Exec(plan) => {
            let out = match &plan.program {
                Program::Cat => plan.input,
                Program::Source { out, err, .. } => out.len + err.len,
                Program::Leave { out, .. } => out.len,
                _ => 0,
            };
            plan.input / u64::from(plan.piece / 2 + 1) + out / 200 + 20
        }
        TaskPlan::Forward(plan) => {
            plan.up.len / u64::from(plan.piece / 2 + 1) + plan.down.len / 200 + 20
        }
        TaskPlan::Sftp(plan) => {
            let bytes: u64 = plan.files.iter().map(|file| file.len).sum();
            bytes / u64::from(plan.piece / 2 + 1) + bytes / 200 + 50
        }
        TaskPlan::Scp(plan) => {
            let bytes: u64 = plan.files.iter().map(|file| file.len).sum();
            bytes / u64::from(plan.piece / 2 + 1) + bytes / 200 + 50
        }
    }
}
