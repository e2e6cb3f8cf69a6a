//! The processes of this program, with what each has counted. There is one for the program: generations, edges
//! and accounts come and go, what they have counted stays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Figure, Figures, Sum};

static ROLL: Roll = Roll::new();

/// The program's.
pub fn roll() -> &'static Roll {
    &ROLL
}

#[derive(Debug)]
pub struct Roll(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    present: Vec<Entry>,
    /// What those have counted that have ended.
    past: Option<Box<Sum>>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    role: &'static str,
    name: String,
    pid: u32,
    /// One that serves nobody counts nothing.
    figures: Option<Arc<Figures>>,
}

/// A process is there as long as this is.
#[derive(Debug)]
pub struct Presence {
    roll: &'static Roll,
    number: u64,
}

/// One of the processes, and what it has counted.
#[derive(Clone, Debug)]
pub struct Member {
    pub role: &'static str,
    /// Of the account it acts for, if it does.
    pub name: String,
    pub pid: u32,
    pub sum: Sum,
}

impl Roll {
    const fn new() -> Roll {
        Roll(Mutex::new(Entries { present: Vec::new(), past: None, next: 0 }))
    }

    pub fn enter(
        &'static self,
        role: &'static str,
        name: &str,
        pid: u32,
        figures: Option<Arc<Figures>>,
    ) -> Presence {
        let mut entries = self.entries();
        let number = entries.next;
        entries.next += 1;
        entries.present.push(Entry { number, role, name: name.to_owned(), pid, figures });
        Presence { roll: self, number }
    }

    /// Those that are there, each once, and what they and all before them have counted together.
    pub fn members(&self) -> (Vec<Member>, Sum) {
        let entries = self.entries();
        let mut total = entries.past.as_deref().cloned().unwrap_or_default();
        let mut members: Vec<Member> = Vec::new();
        for Entry { role, name, pid, figures, .. } in &entries.present {
            let sum = figures.as_ref().map(|figures| figures.sum()).unwrap_or_default();
            total.add(&sum);
            // Generations of one process.
            match members.iter_mut().find(|member| member.pid == *pid && member.role == *role) {
                Some(member) => member.sum.add(&sum),
                None => members.push(Member { role, name: name.clone(), pid: *pid, sum }),
            }
        }
        (members, total)
    }

    /// One more of what root's own process counts.
    pub fn count(&self, figure: Figure) {
        let entries = self.entries();
        let own = entries.present.iter().find(|entry| entry.role == ROOT);
        own.and_then(|entry| entry.figures.as_ref()).into_iter().for_each(|own| own.count(figure));
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The role of root's process beside others.
pub const ROOT: &str = "root";
/// The role of a process that does everything.
pub const GATEWAY: &str = "gateway";

impl Drop for Presence {
    fn drop(&mut self) {
        let mut entries = self.roll.entries();
        let at = entries.present.iter().position(|entry| entry.number == self.number);
        let Some(at) = at else { return };
        let entry = entries.present.swap_remove(at);
        if let Some(figures) = entry.figures {
            entries.past.get_or_insert_default().add(&figures.sum().ended());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::figures::Sheet;

    #[test]
    fn what_was_counted_stays_when_a_process_ends() {
        let roll: &'static Roll = Box::leak(Box::new(Roll::new()));
        let figures = Arc::new(Figures::own(1));
        let presence = roll.enter("account", "ann", 7, Some(Arc::clone(&figures)));
        let before = roll.members().1;
        let sheet = Sheet::new(figures, 0);
        sheet.count(Figure::SessionsStarted);
        sheet.turned((5, 6), 1);
        let (members, during) = roll.members();
        assert!(members.iter().any(|one| one.pid == 7 && one.sum.of(Figure::BytesOut) == 6));
        drop(presence);
        let (members, after) = roll.members();
        assert!(!members.iter().any(|one| one.pid == 7 && one.name == "ann"));
        let bytes = |sum: &Sum| sum.of(Figure::BytesIn);
        assert_eq!((bytes(&during), bytes(&after)), (bytes(&before) + 5, bytes(&before) + 5));
        let sessions = |sum: &Sum| sum.between(Figure::SessionsStarted, Figure::SessionsEnded);
        assert_eq!(sessions(&during), sessions(&after) + 1);
    }
}
