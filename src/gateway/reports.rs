//! The way of log lines from shards to the thread that writes them. Shards never wait for it: what there is no
//! room for is counted, and that is told as soon as there is room again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::shard::Report;

/// Where lines are put in. Its memory is that of the lines that wait.
#[derive(Clone, Debug)]
pub struct Lines {
    lines: Sender<Report>,
    most: usize,
    lost: Arc<AtomicU64>,
}

/// Where they come out.
#[derive(Debug)]
pub struct Reports {
    lines: Receiver<Report>,
    lost: Arc<AtomicU64>,
}

/// Room for so many lines.
pub fn channel(most: usize) -> (Lines, Reports) {
    let (sender, receiver) = unbounded();
    let lost = Arc::default();
    let reports = Reports { lines: receiver, lost: Arc::clone(&lost) };
    (Lines { lines: sender, most, lost }, reports)
}

impl Lines {
    /// Never waits. A line that there is no room for is counted as lost.
    pub fn put(&self, report: Report) {
        if self.lines.len() >= self.most || self.lines.try_send(report).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Reports {
    /// The next line, once there is one; `None`: nobody is there any more who puts lines in.
    pub fn next(&self) -> Option<Report> {
        self.lines.recv().ok()
    }

    /// Those that wait.
    pub fn waiting(&self) -> impl Iterator<Item = Report> {
        self.lines.try_iter()
    }

    /// How many were lost since this was last asked.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::desk::UNKNOWN;
    use crate::shard::What;

    #[test]
    fn what_there_is_no_room_for_is_counted_and_told_once() {
        let (lines, reports) = channel(4);
        let report = |serial| {
            let what = What::HandedOver { user: "ann".into() };
            Report { serial, peer: UNKNOWN, verbosity: None, what, grant: None, channel: None }
        };
        for burst in [7, 4, 5] {
            (0..burst).for_each(|serial| lines.put(report(serial)));
            let kept: Vec<u64> = reports.waiting().map(|report| report.serial).collect();
            assert_eq!(kept, [0, 1, 2, 3]);
            assert_eq!((reports.take_lost(), reports.take_lost()), (burst - 4, 0));
        }
        lines.put(report(9));
        drop(lines);
        assert_eq!(reports.next().map(|report| report.serial), Some(9));
        assert!(reports.next().is_none());
    }
}
