//! Floor 9: log lines out of the shards' event queues.

pub mod lines;
