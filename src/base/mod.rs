//! Floor 0: time, spans, entropy and fixed-capacity queues. Imports nothing of ours.

mod entropy;
mod escape;
mod few;
mod instant;
mod span;
mod wildcard;

pub use entropy::{Entropy, SeededEntropy};
pub use escape::{Escaped, escape};
pub use few::Few;
pub use instant::Instant;
pub use span::Span;
pub use wildcard::wildcard_match;
