//! A world in memory with its own clock, for running the production event loop under drawn faults.
//!
//! One [`SimWorld`] holds the sockets, pipes, files and listeners; any number of [`SimDriver`]s
//! share it on one thread. Nothing blocks: `wait` gives what is due and returns. The harness turns
//! drivers while the world is [`SimWorld::busy`] and otherwise moves the clock, after one more turn
//! in which every driver hears until when it may sleep:
//!
//! ```
//! # use tidegate::reactor::sim::SimWorld;
//! # let world = SimWorld::calm(7);
//! # let mut shards: Vec<()> = Vec::new();
//! # let done = |_: &[()]| true;
//! while !done(&shards) {
//!     if world.busy() {
//!         for shard in &mut shards { /* shard.turn() */ }
//!         continue;
//!     }
//!     for shard in &mut shards { /* shard.turn() */ }
//!     if !world.busy() && !world.advance_to_next_event() {
//!         panic!("nothing will ever happen again");
//!     }
//! }
//! world.check();
//! ```
//!
//! Everything that is drawn comes from one seed, so a run with the same seed and the same calls is
//! the same run ([`SimWorld::trace`]).

mod attempt;
mod driver;
mod handle;
mod stream;
mod swarm;
#[cfg(test)]
mod tests;
mod world;

pub use driver::SimDriver;
pub use handle::SimWorld;
pub use swarm::{Chance, Swarm};
pub use world::{Faults, FileId};

use super::Fd;

/// A descriptor of a simulated world, and none of this process.
pub const fn is_simulated(fd: Fd) -> bool {
    fd.0 >= world::FIRST_FD
}
