//! Floor 8: configuration, policy, accounts, host keys, the process.

pub mod accounts;
pub mod authorized_keys;
pub mod broker;
pub mod config;
pub mod delegate;
pub mod desk;
pub mod directory;
pub mod drivers;
pub mod execute;
pub mod host_keys;
pub mod key_options;
pub mod listen;
pub mod parcel;
pub mod policy;
pub mod serve;
pub mod server;
pub mod socket;
pub mod startups;
pub mod workers;
