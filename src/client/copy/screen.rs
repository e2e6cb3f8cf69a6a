//! What the user sees while a copy is under way.

use std::io::{IsTerminal, Write, stderr, stdout};

use super::{Copy, Plan, report};
use crate::base::Instant;
use crate::limits::COPY_PROGRESS_TIME;

/// Standard error, and standard output for JSON.
pub struct Screen {
    pub begun: Instant,
    quiet: bool,
    json: bool,
    /// When progress is shown next; `None`: it is not.
    next: Option<Instant>,
    last: (Instant, u64),
    /// Bytes a second, of late more than of long ago.
    rate: Option<f64>,
}

/// How much of the rate is what the last look saw.
const NEW_SHARE: f64 = 0.25;

impl Screen {
    pub fn new(plan: &Plan, now: Instant) -> Screen {
        let shows = stderr().is_terminal() && !plan.quiet && !plan.json && !plan.dry_run;
        let next = shows.then(|| now.after(COPY_PROGRESS_TIME));
        Screen { begun: now, quiet: plan.quiet, json: plan.json, next, last: (now, 0), rate: None }
    }

    /// Somebody looks at how far it is.
    pub const fn shows(&self) -> bool {
        self.next.is_some()
    }

    pub const fn next_look(&self) -> Option<Instant> {
        self.next
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|at| at <= now)
    }

    pub fn progress(&mut self, copy: &Copy, now: Instant) {
        let moved = copy.moved();
        let (before, had) = self.last;
        let seconds = now.since(before).as_secs_f64().max(0.001);
        let new = moved.saturating_sub(had) as f64 / seconds;
        let rate = self.rate.map_or(new, |old| old + NEW_SHARE * (new - old));
        self.rate = Some(rate);
        let line = report::progress(copy, moved, rate);
        // Whoever does not want to see it does not.
        let _ = stderr().lock().write_all(line.as_bytes());
        self.last = (now, moved);
        self.next = Some(now.after(COPY_PROGRESS_TIME));
    }

    pub fn tell(&self, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let clear = if self.next.is_some() { "\r\x1b[K" } else { "" };
        let text: String = lines.iter().map(|line| format!("{clear}{line}\n")).collect();
        // JSON is what the command is run for; everything else is about it.
        let _ = match self.json {
            true => stdout().lock().write_all(text.as_bytes()),
            false => stderr().lock().write_all(text.as_bytes()),
        };
    }

    pub fn end(&self, summary: &str) {
        if !self.quiet || self.json {
            self.tell(&[summary.to_owned()]);
        }
    }
}
