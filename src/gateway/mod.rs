//! Floor 8: configuration, policy, accounts, host keys, the process.

pub mod accounts;
pub mod authorized_keys;
pub mod broker;
pub mod config;
pub mod daemon;
pub mod delegate;
pub mod desk;
pub mod directory;
pub mod drivers;
pub mod execute;
pub mod generation;
pub mod host_keys;
pub mod inetd;
pub mod key_options;
pub mod listen;
pub mod parcel;
pub mod pid_file;
pub mod policy;
pub mod serve;
pub mod server;
pub mod signals;
pub mod socket;
pub mod startups;
pub mod syslog;
pub mod systemd;
pub mod workers;
