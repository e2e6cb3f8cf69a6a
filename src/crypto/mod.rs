//! Floor 2: cipher suites, key exchange methods, hashes, key derivation, keys and signatures.
//!
//! Everything here is a function of its arguments: keys are immutable and `Sync`, and the place a
//! packet has in its direction arrives as a [`Stamp`]. Nothing on the packet path allocates.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::todo,
        clippy::unimplemented
    )
)]

mod cipher;
mod error;
mod hash;
mod kdf;
pub mod kex;
pub mod keys;
mod open;
mod provider;
mod random;
mod seal;
mod stamp;
mod suite;
#[cfg(test)]
mod testing;

pub use error::{BadTag, CryptoError, KexError};
pub use hash::{Digest, HashKind, Hasher};
pub use kdf::{derive_direction, derive_key};
pub use kex::{KexKind, KexPiece, KexSecret, KexTask, SharedSecret};
pub use keys::{
    Attestation, BadSignature, Certificate, CertificateError, KeyAlgorithm, KeyError, KeyKind,
    PrivateKey, PublicKey, ShownKey, SignatureAlgorithm,
};
pub use open::OpenKey;
pub use provider::Provider;
pub use random::RandomPool;
pub use seal::SealKey;
pub use stamp::{Counters, Exhausted, Stamp};
pub use suite::{CipherKind, DirectionKeys, Geometry, MacKind, Suite};
