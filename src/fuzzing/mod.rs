//! What the fuzzer runs: one function a target, over any bytes at all.
//!
//! A target fails by panicking: by an assertion here, by one of the library's own, or by whatever a
//! sanitizer finds. None of them reads a file, a clock or the system's randomness where the result
//! could show it, so that what failed once fails again. `tests/fuzz` drives them with coverage
//! guidance; `tests/corpus.rs` replays every input kept in `tests/corpus` in an ordinary test run.
//!
//! Not part of the interface of this crate, and only there under feature `sim`.

#![forbid(unsafe_code)]

mod codec;
pub mod fixtures;
mod greeting;
mod input;
mod keys;
mod packet;

pub use codec::{channel, reader, sftp, terminal_modes, transport_messages, userauth};
pub use greeting::{ident, kexinit};
pub use keys::{MESSAGE, PASSPHRASE, armoured, kex_public, private_key, public_key, signature};
pub use packet::packet;

use input::Input;

/// A target: what to do with one input.
pub type Target = fn(&[u8]);

/// Every target by name. Each has a file in `tests/fuzz/fuzz_targets` and a folder in
/// `tests/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("channel", channel),
    ("ident", ident),
    ("kex_public", kex_public),
    ("kexinit", kexinit),
    ("packet", packet),
    ("private_key", private_key),
    ("public_key", public_key),
    ("reader", reader),
    ("sftp", sftp),
    ("signature", signature),
    ("terminal_modes", terminal_modes),
    ("transport_messages", transport_messages),
    ("userauth", userauth),
];
