//! Floor 0: time, spans, entropy, fixed-capacity queues, hexadecimal digits, amounts for people, vector instructions.
//! Imports nothing of ours.

mod amount;
mod calendar;
mod entropy;
mod escape;
mod few;
mod hex;
mod instant;
mod span;
mod wide;
mod wildcard;

pub mod tally;

pub use amount::{amount, clock};
pub use calendar::Utc;
pub use entropy::{Entropy, SeededEntropy};
pub use escape::{Escaped, cut, escape, escape_up_to, escape_word, plain_json};
pub use few::Few;
pub use hex::unhex;
pub use instant::Instant;
pub use span::Span;
pub use wide::{Wide, run_wide};
pub use wildcard::wildcard_match;
