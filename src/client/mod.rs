//! Floor 9: connections of our own to SSH servers. [`Client`] owns a shard and gives out logged-in
//! links on which channels can be opened; [`session`] is what `tidegate ssh` does with one.

mod agent;
mod askpass;
pub mod background;
pub mod config;
mod connect;
pub mod copy;
mod forwards;
mod hosts;
mod identities;
mod learning;
mod link;
mod login;
mod options;
mod outside;
mod patience;
mod person;
pub mod session;
mod stdio;
mod terminal;
mod voice;
mod x11;

pub use forwards::{Form, Forward};
pub use identities::{Identity, Signer};
pub use link::{Client, connection_config};
pub use options::{AddKeys, Options, StrictHostKeys, UpdateHostKeys};
pub use outside::Lone;
pub use person::Person;
pub use terminal::Raw;
pub use voice::{Level, Voice};
