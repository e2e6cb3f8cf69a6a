//! What the fuzzer runs: one function a target, over any bytes at all.
//!
//! A target fails by panicking: by an assertion here, by one of the library's own, or by whatever a
//! sanitizer finds. None of them reads a file, a clock or the system's randomness where the result
//! could show it, so that what failed once fails again. `tests/fuzz` drives them with coverage
//! guidance; `tests/corpus.rs` replays every input kept in `tests/corpus` in an ordinary test run.
//!
//! Not part of the interface of this crate, and only there under feature `sim`.

#![forbid(unsafe_code)]

mod audit;
mod codec;
mod edge;
mod files;
pub mod fixtures;
mod greeting;
mod handoff;
mod input;
mod keys;
mod ledger;
mod nofiles;
mod packet;
mod puppet;
mod recording;
mod rig;
mod script;
mod sftp_client;
mod sftp_server;
mod socks;

pub use audit::audit;
pub use codec::{
    agent, channel, proxy_header, reader, sftp, terminal_modes, transport_messages, userauth,
};
pub use edge::edge;
pub use files::{accounts, authorized_keys, known_hosts, revoked_keys, sshd_config};
pub use greeting::{ident, kexinit};
pub use handoff::handoff;
pub use keys::{
    MESSAGE, PASSPHRASE, armoured, certificate, kex_public, private_key, public_key, signature,
};
pub use packet::packet;
pub use recording::recording;
pub use script::{client_postauth, client_preauth, server_postauth, server_preauth};
pub use sftp_client::sftp_client;
pub use sftp_server::sftp_server;
pub use socks::socks;

#[cfg(test)]
mod tests;

use input::Input;

/// A connection of ours behind its login, as [`handoff`] reads it.
pub fn record_of_ours(serves: bool) -> Vec<u8> {
    rig::Rig::authenticated(serves).record().expect("a quiet point")
}

/// A target: what to do with one input.
pub type Target = fn(&[u8]);

/// Every target by name. Each has a file in `tests/fuzz/fuzz_targets` and a folder in
/// `tests/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("accounts", accounts),
    ("agent", agent),
    ("audit", audit),
    ("authorized_keys", authorized_keys),
    ("certificate", certificate),
    ("channel", channel),
    ("client_postauth", client_postauth),
    ("client_preauth", client_preauth),
    ("edge", edge),
    ("handoff", handoff),
    ("ident", ident),
    ("kex_public", kex_public),
    ("kexinit", kexinit),
    ("known_hosts", known_hosts),
    ("packet", packet),
    ("private_key", private_key),
    ("proxy_header", proxy_header),
    ("public_key", public_key),
    ("reader", reader),
    ("recording", recording),
    ("revoked_keys", revoked_keys),
    ("server_postauth", server_postauth),
    ("server_preauth", server_preauth),
    ("sftp", sftp),
    ("sftp_client", sftp_client),
    ("sftp_server", sftp_server),
    ("signature", signature),
    ("socks", socks),
    ("sshd_config", sshd_config),
    ("terminal_modes", terminal_modes),
    ("transport_messages", transport_messages),
    ("userauth", userauth),
];
