//! Names of one directory, a part of them at a time, so that it may have any number of them.

use std::collections::{HashSet, VecDeque};
use std::fs::ReadDir;

use anyhow::{Result, bail};

use super::file::{About, Kind, Side, Spot};
use super::own::Entry;
use super::place::is_plain;
use super::remote::Handle;
use super::trouble::Trouble;
use super::{Copy, own};

/// A directory that is being read.
pub struct Listing {
    waiting: VecDeque<Entry>,
    from: Source,
}

enum Source {
    Here(Option<ReadDir>),
    There {
        handle: Handle,
        /// Hashes of the names that were given out: a listing that is begun again because its session
        /// was lost goes on behind them.
        seen: HashSet<u64>,
    },
}

/// What a directory has next.
pub enum Next {
    Entry(Entry),
    /// Of a server: what is no name leads somewhere else.
    NoName(Box<[u8]>),
    End,
}

impl Listing {
    /// # Errors
    /// It cannot be read.
    pub async fn open(copy: &Copy, at: &Spot) -> Result<Listing> {
        let from = match &at.side {
            Side::Here => Source::Here(Some(own::list(copy, &at.path).await?)),
            Side::There(remote) => {
                let handle = remote.open_directory(&at.path).await?;
                Source::There { handle, seen: HashSet::new() }
            }
        };
        Ok(Listing { waiting: VecDeque::new(), from })
    }

    /// `at` is what it was opened with.
    ///
    /// # Errors
    /// It cannot be read to its end.
    pub async fn next(&mut self, copy: &Copy, at: &Spot) -> Result<Next> {
        loop {
            while let Some((name, about)) = self.waiting.pop_front() {
                if let Source::There { seen, .. } = &mut self.from
                    && !seen.insert(copy.hash(&name))
                {
                    continue;
                }
                match name.as_slice() {
                    b"." | b".." => {}
                    name if !is_plain(name) => return Ok(Next::NoName(name.into())),
                    _ => return Ok(Next::Entry((name, about))),
                }
            }
            if !self.more(copy, at).await? {
                return Ok(Next::End);
            }
        }
    }

    /// Reads more names. False: there are none.
    async fn more(&mut self, copy: &Copy, at: &Spot) -> Result<bool> {
        match (&mut self.from, &at.side) {
            (Source::Here(entries), _) => {
                let Some(rest) = entries.take() else { return Ok(false) };
                let (rest, found) = own::entries(copy, rest).await?;
                if !found.is_empty() {
                    *entries = Some(rest);
                }
                self.waiting.extend(found);
                Ok(!self.waiting.is_empty())
            }
            (Source::There { handle, .. }, Side::There(remote)) => {
                let names = match remote.read_directory(handle).await {
                    Err(Trouble::Lost(_)) => {
                        *handle = remote.open_directory(&at.path).await?;
                        return Ok(true);
                    }
                    other => other?,
                };
                let Some(names) = names else { return Ok(false) };
                if names.is_empty() {
                    bail!("the server lists nothing and does not come to an end")
                }
                let entry = |(name, attributes): (Box<[u8]>, _)| {
                    let told = About::told(&attributes).filter(|about| about.kind != Kind::Other);
                    (name.into_vec(), told)
                };
                self.waiting.extend(names.into_iter().map(entry));
                Ok(true)
            }
            (Source::There { .. }, Side::Here) => Ok(false),
        }
    }

    pub async fn close(&self, at: &Spot) {
        if let (Source::There { handle, .. }, Side::There(remote)) = (&self.from, &at.side) {
            // It was only read.
            let _ = remote.close(handle).await;
        }
    }
}
