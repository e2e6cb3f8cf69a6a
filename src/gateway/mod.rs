//! Floor 8: configuration, policy, accounts, host keys, the process.

pub mod config;
