//! Tidegate: a hardware-accelerated, high-throughput SSH gateway.
//!
//! The crate is a house of floors; a module imports only from floors below its own.
//!
//! | floor | module | purpose |
//! | --- | --- | --- |
//! | 10 | [`cli`] | flags and subcommands |
//! | 9 | [`client`] | connections of our own to SSH servers: `tidegate ssh` and `cp` |
//! | 9 | [`observe`] | log and audit lines out of the shards' event queues |
//! | 8 | [`gateway`] | configuration, policy, accounts, workers, the process |
//! | 7 | [`shard`] | one thread: a driver, its connections, their timers |
//! | 6 | [`services`] | what a channel is attached to: commands, terminals, SFTP |
//! | 5 | [`reactor`] | completion-shaped I/O: io_uring, mio, the simulator, buffers |
//! | 4 | [`connection`] | RFC 4252 and RFC 4254 over a transport |
//! | 3 | [`transport`] | RFC 4253: identification, key exchange, packets, rekeying |
//! | 2 | [`crypto`] | suites, key exchange methods, keys and signatures |
//! | 1 | [`wire`] | the encodings of RFC 4251, one struct a message |
//! | 0 | [`base`], [`limits`] | time, spans, entropy, fixed-capacity queues, every bound |
//!
//! Floors 1 to 4 do no I/O and know no clock; floor 5 knows no SSH; floor 7 introduces them.

pub mod base;
pub mod cli;
pub mod client;
pub mod connection;
pub mod crypto;
pub mod gateway;
pub mod limits;
pub mod observe;
pub mod reactor;
pub mod services;
pub mod shard;
pub mod transport;
pub mod wire;

#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod fuzzing;
