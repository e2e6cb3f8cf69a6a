//! Floor 8: configuration, policy, accounts, host keys, the process.

pub mod accounts;
pub mod authorized_keys;
pub mod config;
pub mod host_keys;
pub mod policy;
