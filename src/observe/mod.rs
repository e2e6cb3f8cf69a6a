//! Floor 9: log lines out of the shards' event queues, and where they go.

pub mod lines;
pub mod log;
