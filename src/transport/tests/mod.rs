//! Two transports in memory: what honest peers do, and what the rows of SECURITY.md do.

mod dh;
mod framing;
mod handoff;
mod harness;
mod keyexchange;
mod pair;
mod rekey;
mod steering;
mod zlib;
