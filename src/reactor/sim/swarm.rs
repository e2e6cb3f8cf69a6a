use std::time::Duration;

use crate::base::SeededEntropy;

/// How often something happens, of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance(pub u32);

impl Chance {
    /// Never happens.
    pub const NEVER: Chance = Chance(0);

    pub(super) const fn hits(self, entropy: &mut SeededEntropy) -> bool {
        self.0 > 0 && entropy.below(1_000_000) < self.0 as u64
    }
}

/// What a world is like and which faults happen in it. Drawn anew for each seed, so that different
/// worlds stress different things (swarm testing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swarm {
    /// One-way delay of a connection, at most; each connection draws its own.
    pub delay_max: Duration,
    /// What a connection carries; `None` is unlimited.
    pub bytes_per_second: Option<u64>,
    /// Bytes sent and not read that a socket holds, each way.
    pub socket_bytes: u32,
    /// The same of a pipe.
    pub pipe_bytes: u32,
    /// Time from asking for an operation to its first chance of completing, at most.
    pub latency_max: Duration,
    /// The same for files, on top.
    pub disk_delay_max: Duration,
    /// Bytes all files together may have.
    pub disk_bytes_max: u64,

    /// A transfer moves fewer bytes than it could.
    pub short: Chance,
    /// A send or receive finds the connection reset.
    pub reset: Chance,
    /// A reader stops reading for up to `stall_max`.
    pub stall: Chance,
    pub stall_max: Duration,
    /// A bit of received bytes flips.
    pub flip: Chance,
    /// A shared receive finds no buffer.
    pub starve: Chance,
    /// The driver has no room for an operation.
    pub full: Chance,
    /// An operation asked to end early runs on if it can.
    pub cancel_loses: Chance,
    /// A wait ends for no reason.
    pub interrupt: Chance,
    /// The process is out of descriptors.
    pub accept_error: Chance,
    pub connect_refused: Chance,
    pub disk_error: Chance,
    /// The disk is full for one write.
    pub disk_full: Chance,
}

impl Swarm {
    /// Quick, roomy and without faults.
    pub const fn calm() -> Swarm {
        Swarm {
            delay_max: Duration::from_micros(100),
            bytes_per_second: None,
            socket_bytes: 256 * 1024,
            pipe_bytes: 64 * 1024,
            latency_max: Duration::ZERO,
            disk_delay_max: Duration::from_micros(100),
            disk_bytes_max: u64::MAX,
            short: Chance::NEVER,
            reset: Chance::NEVER,
            stall: Chance::NEVER,
            stall_max: Duration::ZERO,
            flip: Chance::NEVER,
            starve: Chance::NEVER,
            full: Chance::NEVER,
            cancel_loses: Chance::NEVER,
            interrupt: Chance::NEVER,
            accept_error: Chance::NEVER,
            connect_refused: Chance::NEVER,
            disk_error: Chance::NEVER,
            disk_full: Chance::NEVER,
        }
    }

    /// Each trait of the world is ordinary or extreme, each fault off or more or less frequent.
    pub fn draw(entropy: &mut SeededEntropy) -> Swarm {
        let mut swarm = Swarm::draw_benign(entropy);
        swarm.reset = one_in(entropy, 3, 5_000);
        swarm.flip = one_in(entropy, 6, 2_000);
        swarm.accept_error = one_in(entropy, 4, 100_000);
        swarm.connect_refused = one_in(entropy, 4, 100_000);
        swarm.disk_error = one_in(entropy, 4, 20_000);
        swarm.disk_full = one_in(entropy, 4, 20_000);
        swarm
    }

    /// As [`Swarm::draw`], with only what a correct program hides from its user: everything asked
    /// for must still succeed.
    pub fn draw_benign(entropy: &mut SeededEntropy) -> Swarm {
        let micros = Duration::from_micros;
        Swarm {
            delay_max: pick(entropy, [micros(0), micros(100), micros(50_000)]),
            bytes_per_second: pick(entropy, [None, None, Some(100_000_000), Some(1_000_000)]),
            socket_bytes: pick(entropy, [2_000, 65_536, 262_144, 4_194_304]),
            pipe_bytes: pick(entropy, [4_096, 65_536]),
            latency_max: pick(entropy, [micros(0), micros(10), micros(3_000)]),
            disk_delay_max: pick(entropy, [micros(0), micros(200), micros(100_000)]),
            short: one_in(entropy, 2, 500_000),
            stall: one_in(entropy, 4, 2_000),
            stall_max: Duration::from_secs(5),
            starve: one_in(entropy, 3, 200_000),
            full: one_in(entropy, 3, 200_000),
            cancel_loses: one_in(entropy, 2, 1_000_000),
            interrupt: one_in(entropy, 3, 100_000),
            ..Swarm::calm()
        }
    }

    /// The same world with its faults off: what still goes must now finish.
    #[must_use]
    pub fn healed(&self) -> Swarm {
        Swarm {
            delay_max: self.delay_max,
            bytes_per_second: self.bytes_per_second,
            socket_bytes: self.socket_bytes,
            pipe_bytes: self.pipe_bytes,
            latency_max: self.latency_max,
            disk_delay_max: self.disk_delay_max,
            ..Swarm::calm()
        }
    }
}

/// Off in all but one of `n` worlds; else up to `most`.
const fn one_in(entropy: &mut SeededEntropy, n: u64, most: u32) -> Chance {
    if entropy.below(n) == 0 {
        Chance(1 + entropy.below(most as u64) as u32)
    } else {
        Chance::NEVER
    }
}

fn pick<T: Copy, const N: usize>(entropy: &mut SeededEntropy, from: [T; N]) -> T {
    from[entropy.below(N as u64) as usize]
}
