//! Floor 0: time, spans, entropy and fixed-capacity queues. Imports nothing of ours.

mod entropy;
mod few;
mod instant;
mod span;

pub use entropy::{Entropy, SeededEntropy};
pub use few::Few;
pub use instant::Instant;
pub use span::Span;
