//! Where the lines stand that settings come from.

use super::diagnostic::Place;

/// The first line of each keyword, in each block and outside of them; a keyword that collects has
/// one for each of its lines that counts first. Two configurations that say the same are equal
/// wherever they say it.
#[derive(Clone, Debug, Default)]
pub struct Places {
    lines: Vec<(Option<usize>, &'static str, Place)>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Places) -> bool {
        true
    }
}

impl Places {
    /// A line with this keyword, outside of blocks or in the one of this number.
    pub fn note(&mut self, block: Option<usize>, keyword: &'static str, place: &Place) {
        if self.of(block, keyword).is_none() {
            self.lines.push((block, keyword, place.clone()));
        }
    }

    pub fn of(&self, block: Option<usize>, keyword: &str) -> Option<&Place> {
        let mut lines = self.lines.iter();
        let is_it =
            |(own, name, _): &&(Option<usize>, &str, Place)| *own == block && *name == keyword;
        lines.find(is_it).map(|(_, _, place)| place)
    }

    /// The first line with this keyword, wherever.
    pub fn first_of(&self, keyword: &str) -> Option<&Place> {
        let found = self.lines.iter().find(|(_, name, _)| *name == keyword);
        found.map(|(_, _, place)| place)
    }
}
