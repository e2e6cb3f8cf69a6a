//! A server's files: one request each, to be waited for.

use std::cell::Cell;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::desk::{Came, Desk, both};
use super::trouble::Trouble;
use crate::crypto::HashKind;
use crate::limits::{
    COPY_COMMAND_BYTES_A_SECOND, COPY_COMMAND_TIME, COPY_DATA_BYTES_PLAIN, COPY_HASH_BLOCK_BYTES,
};
use crate::reactor::Fd;
use crate::services::sftp_client::{Answer, Behind, Last, Moved, Offers, Stretch, Way};
use crate::wire::Reader;
use crate::wire::sftp::{Attributes, Operation, StatusCode, extension};

/// The files of a server, by one session.
#[derive(Clone)]
pub struct Remote {
    desk: Desk,
    pub station: usize,
}

/// An open file or directory of a server, and the session that it is good for.
#[derive(Clone, Debug)]
pub struct Handle {
    name: Box<[u8]>,
    epoch: u32,
    /// Its CLOSE has left, so its name may be another file's: it is never closed again.
    closed: Rc<Cell<bool>>,
}

type Entries = Vec<(Box<[u8]>, Attributes)>;

/// One that borrows what it owns.
macro_rules! ask {
    ($self:ident, [$($owned:ident),*], $operation:expr) => {{
        $(let $owned = $owned.to_vec();)*
        $self.answer(move |call: &mut dyn FnMut(&Operation<'_>)| {
            $(let $owned = &$owned[..];)*
            call(&$operation);
        })
    }};
}

impl Remote {
    pub const fn new(desk: Desk, station: usize) -> Remote {
        Remote { desk, station }
    }

    pub fn offers(&self) -> Offers {
        self.desk.station(self.station).offers
    }

    async fn answer(
        &self,
        with: impl FnOnce(&mut dyn FnMut(&Operation<'_>)) + 'static,
    ) -> Result<Answer, Trouble> {
        let desk = self.desk.clone();
        let coming = self.desk.order(self.station, move |ticket, client, io| {
            with(&mut |operation| {
                if !client.ask(ticket, operation, io) {
                    let text = b"a name that is too long for a request"[..].into();
                    let answer = Answer::Status { code: StatusCode::BadMessage, text };
                    desk.deliver(ticket, Came::Answer(answer));
                }
            });
        });
        match coming.await? {
            Came::Answer(answer) => Ok(answer),
            _ => Err(Trouble::Odd("an answer to something else")),
        }
    }

    /// Asks until there is an answer of a session that is not lost meanwhile. For what may be asked
    /// twice.
    async fn surely<T>(&self, ask: impl AsyncFn() -> Result<T, Trouble>) -> Result<T, Trouble> {
        loop {
            match ask().await {
                Err(Trouble::Lost(_)) => self.desk.any_of(&[self.station]).await?,
                other => return other,
            }
        }
    }

    /// What a handle is called, if it is one of the session that is there now.
    fn name<'a>(&self, handle: &'a Handle) -> Result<&'a [u8], Trouble> {
        match self.epoch() == handle.epoch {
            true => Ok(&handle.name),
            false => Err(Trouble::Lost("the session was another one".to_owned())),
        }
    }

    fn epoch(&self) -> u32 {
        self.desk.station(self.station).epoch
    }

    fn handle(&self, epoch: u32, answer: Answer) -> Result<Handle, Trouble> {
        match answer {
            Answer::Handle(name) if self.epoch() == epoch => {
                Ok(Handle { name, epoch, closed: Rc::default() })
            }
            Answer::Handle(_) => Err(Trouble::Lost("the session was another one".to_owned())),
            other => Err(unexpected(other)),
        }
    }

    pub async fn open(
        &self,
        path: &[u8],
        flags: u32,
        attributes: Attributes,
    ) -> Result<Handle, Trouble> {
        let epoch = self.epoch();
        let answer = ask!(self, [path], Operation::Open { path, flags, attributes }).await?;
        self.handle(epoch, answer)
    }

    /// Closes what is not closed yet.
    pub async fn close(&self, handle: &Handle) -> Result<(), Trouble> {
        let closed = handle.closed.replace(true);
        let handle = self.name(handle)?;
        if closed {
            return Ok(());
        }
        done(ask!(self, [handle], Operation::Close { handle }).await?)
    }

    /// The attributes of what a path leads to, links followed.
    pub async fn stat(&self, path: &[u8]) -> Result<Attributes, Trouble> {
        let stat = async || attributes(ask!(self, [path], Operation::Stat { path }).await?);
        self.surely(stat).await
    }

    pub async fn handle_stat(&self, handle: &Handle) -> Result<Attributes, Trouble> {
        let handle = self.name(handle)?;
        attributes(ask!(self, [handle], Operation::HandleStat { handle }).await?)
    }

    /// The attributes of a file that is closed with that, in one round trip: what is asked of one file is
    /// done in order (draft-ietf-secsh-filexfer-02 §6.1). `path` is where it is.
    pub async fn stat_and_close(
        &self,
        handle: &Handle,
        path: &[u8],
    ) -> Result<Attributes, Trouble> {
        let (told, closed) = both(self.handle_stat(handle), self.close(handle)).await;
        closed?;
        match told {
            // Not every server keeps to that.
            Err(Trouble::Refused { .. }) => self.stat(path).await,
            told => told,
        }
    }

    pub async fn set_stat(&self, path: &[u8], attributes: Attributes) -> Result<(), Trouble> {
        let set = async || done(ask!(self, [path], Operation::SetStat { path, attributes }).await?);
        self.surely(set).await
    }

    pub async fn handle_set_stat(
        &self,
        handle: &Handle,
        attributes: Attributes,
    ) -> Result<(), Trouble> {
        let handle = self.name(handle)?;
        done(ask!(self, [handle], Operation::HandleSetStat { handle, attributes }).await?)
    }

    pub async fn open_directory(&self, path: &[u8]) -> Result<Handle, Trouble> {
        self.surely(async || {
            let epoch = self.epoch();
            let answer = ask!(self, [path], Operation::OpenDirectory { path }).await?;
            self.handle(epoch, answer)
        })
        .await
    }

    /// The next entries; `None`: there are no more.
    pub async fn read_directory(&self, handle: &Handle) -> Result<Option<Entries>, Trouble> {
        let handle = self.name(handle)?;
        match ask!(self, [handle], Operation::ReadDirectory { handle }).await? {
            Answer::Names(names) => Ok(Some(names)),
            Answer::Status { code: StatusCode::Eof, .. } => Ok(None),
            other => Err(unexpected(other)),
        }
    }

    pub async fn make_directory(&self, path: &[u8], permissions: u32) -> Result<(), Trouble> {
        let attributes = Attributes { permissions: Some(permissions), ..Attributes::EMPTY };
        let make =
            async || done(ask!(self, [path], Operation::MakeDirectory { path, attributes }).await?);
        self.surely(make).await
    }

    pub async fn fsync(&self, handle: &Handle) -> Result<(), Trouble> {
        let handle = self.name(handle)?;
        done(ask!(self, [handle], Operation::Fsync { handle }).await?)
    }

    /// Where a path leads to; most servers follow links for that.
    pub async fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, Trouble> {
        match ask!(self, [path], Operation::RealPath { path }).await? {
            Answer::Names(names) => match names.into_iter().next() {
                Some((name, _)) => Ok(name.into_vec()),
                None => Err(Trouble::Odd("the server names no path")),
            },
            other => Err(unexpected(other)),
        }
    }

    pub async fn remove(&self, path: &[u8]) -> Result<(), Trouble> {
        done(ask!(self, [path], Operation::Remove { path }).await?)
    }

    /// Puts a file in the place of another. Without the extension that does it at once, the other is
    /// removed first.
    pub async fn replace(&self, from: &[u8], to: &[u8]) -> Result<(), Trouble> {
        if self.offers().posix_rename {
            return done(ask!(self, [from, to], Operation::PosixRename { from, to }).await?);
        }
        match self.remove(to).await {
            Err(trouble) if !trouble.is_no_such_file() => return Err(trouble),
            _ => {}
        }
        done(ask!(self, [from, to], Operation::Rename { from, to }).await?)
    }

    /// Up to `len` bytes; fewer at the end of the file alone.
    pub async fn read(&self, handle: &Handle, at: u64, len: usize) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let handle = self.name(handle)?;
            let offset = at + bytes.len() as u64;
            let len = ((len - bytes.len()) as u32).min(COPY_DATA_BYTES_PLAIN);
            match ask!(self, [handle], Operation::Read { handle, offset, len }).await? {
                Answer::Data(data) if !data.is_empty() && data.len() <= len as usize => {
                    bytes.extend_from_slice(&data);
                }
                Answer::Status { code: StatusCode::Eof, .. } => break,
                other => return Err(unexpected(other)),
            }
        }
        Ok(bytes)
    }

    /// SHA-256 of each block of a range; what is behind the end of the file has none, and neither has what the
    /// server does not hash after all, or in another way.
    pub async fn hashes(
        &self,
        handle: &Handle,
        (offset, len): (u64, u64),
        block: u32,
    ) -> Result<Vec<u8>, Trouble> {
        let handle = self.name(handle)?;
        let hashes = extension::CHECK_FILE_HASH;
        let operation =
            ask!(self, [handle], Operation::CheckFile { handle, hashes, offset, len, block });
        let Answer::Extended(data) = operation.await? else { return Ok(Vec::new()) };
        let mut reader = Reader::new(&data);
        let name = reader.string(hashes.len() as u32);
        let is_wanted = name.is_ok_and(|name| name == hashes);
        Ok(if is_wanted { reader.rest().to_vec() } else { Vec::new() })
    }

    /// SHA-256 of the first `len` bytes of a file and of each of so many blocks behind them, by sha256sum(1) there,
    /// for servers that cannot hash. None of the blocks where split(1) is not GNU's. `None`: the account may not run
    /// that, or there is none.
    pub async fn hash_by_command(
        &self,
        path: &[u8],
        (len, blocks): (u64, u64),
    ) -> Result<Option<Vec<Vec<u8>>>, Trouble> {
        let (block, rest) = (COPY_HASH_BLOCK_BYTES, blocks * u64::from(COPY_HASH_BLOCK_BYTES));
        let each = format!("head -c {rest} | split -b {block} --filter=sha256sum");
        let command = format!("sh -c 'head -c {len} | sha256sum; {each}; :' < ");
        let command = [command.into_bytes(), quoted(path)].concat();
        let bytes = len.saturating_add(rest);
        let patience = COPY_COMMAND_TIME + Duration::from_secs(bytes / COPY_COMMAND_BYTES_A_SECOND);
        match self.desk.command(self.station, command, patience).await? {
            Came::Said(said) => Ok(said.map(|said| hashes_in(&said)).filter(|all| !all.is_empty())),
            _ => Err(Trouble::Odd("an answer to something else")),
        }
    }

    /// Moves a stretch between a file there and one here, whose descriptor is given away.
    pub async fn relocate(
        &self,
        way: Way,
        handle: &Handle,
        fd: OwnedFd,
        stretch: (Stretch, &Rc<Cell<u64>>),
    ) -> Result<Moved, Trouble> {
        Ok(self.relocate_and(way, handle, (fd, &[]), stretch).await?.0)
    }

    /// The same, and what is asked right behind the last WRITE, with what comes of that if the move was whole.
    async fn relocate_and(
        &self,
        way: Way,
        handle: &Handle,
        (fd, last): (OwnedFd, &[Last]),
        (stretch, moved): (Stretch, &Rc<Cell<u64>>),
    ) -> Result<(Moved, Vec<Answer>), Trouble> {
        let (closed, moved) = (Rc::clone(&handle.closed), Rc::clone(moved));
        let handle: Box<[u8]> = self.name(handle)?.into();
        let last: Vec<_> =
            last.iter().map(|last| (self.desk.coming(self.station), *last)).collect();
        let asks = last.iter().map(|(coming, last)| (coming.ticket, *last)).collect();
        let behind = Behind { asks, closed };
        let coming = self.desk.order(self.station, move |ticket, client, io| {
            let fd = Fd(fd.into_raw_fd());
            client.start_move((ticket, behind), way, (&handle, fd), (stretch, moved), io);
        });
        let Came::Moved(moved) = coming.await? else {
            return Err(Trouble::Odd("an answer to something else"));
        };
        let mut answers = Vec::new();
        if moved == Moved::Whole {
            for (coming, _) in last {
                let Came::Answer(answer) = coming.await? else {
                    return Err(Trouble::Odd("an answer to something else"));
                };
                answers.push(answer);
            }
        }
        Ok((moved, answers))
    }

    /// Moves a stretch to a file there that is finished with it, in the same round trip: it is given `set`,
    /// flushed if that is wanted, looked at and closed. `path` is where it is.
    pub async fn put_last(
        &self,
        handle: &Handle,
        fd: OwnedFd,
        stretch: (Stretch, &Rc<Cell<u64>>),
        (set, fsync, path): (Attributes, bool, &[u8]),
    ) -> Result<(Moved, Attributes), Trouble> {
        let mut last = Vec::new();
        if set != Attributes::EMPTY {
            last.push(Last::SetStat(set));
        }
        if fsync {
            last.push(Last::Fsync);
        }
        last.extend([Last::Stat, Last::Close]);
        let (moved, answers) = self.relocate_and(Way::Put, handle, (fd, &last), stretch).await?;
        let mut told = Attributes::EMPTY;
        for (answer, last) in answers.into_iter().zip(last) {
            match last {
                Last::Stat => told = attributes(answer)?,
                _ => done(answer)?,
            }
        }
        // A server that does not keep the order has told how long it was before.
        if moved == Moved::Whole && told.size != Some(stretch.0.there + stretch.0.len) {
            told = self.stat(path).await?;
        }
        Ok((moved, told))
    }
}

/// One word of a shell's.
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in path {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            byte => word.push(*byte),
        }
    }
    word.push(b'\'');
    word
}

/// What sha256sum(1) says of its standard input, a line each time; nothing behind a line that it did not say.
fn hashes_in(said: &[u8]) -> Vec<Vec<u8>> {
    let hash = |line: &[u8]| {
        let digits = str::from_utf8(line).ok()?.strip_suffix("  -\n")?;
        let bytes = digits.as_bytes().chunks(2).map(|pair| {
            let pair = str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok().filter(|_| pair.len() == 2)
        });
        let hash = bytes.collect::<Option<Vec<u8>>>()?;
        (hash.len() == HashKind::Sha256.digest_bytes()).then_some(hash)
    };
    said.split_inclusive(|byte| *byte == b'\n').map_while(hash).collect()
}

fn attributes(answer: Answer) -> Result<Attributes, Trouble> {
    match answer {
        Answer::Attributes(attributes) => Ok(attributes),
        other => Err(unexpected(other)),
    }
}

fn done(answer: Answer) -> Result<(), Trouble> {
    match answer {
        Answer::Status { code: StatusCode::Ok, .. } => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn unexpected(answer: Answer) -> Trouble {
    match answer {
        Answer::Status { code: StatusCode::Ok, .. } => {
            Trouble::Odd("the server says it has done what it was not asked for")
        }
        Answer::Status { code, text } => Trouble::Refused { code, text },
        _ => Trouble::Odd("the server answers something else than was asked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell_and_what_it_says() {
        assert_eq!(quoted(b"it's"), b"'it'\\''s'");
        let said = [&b"0f".repeat(32)[..], b"  -\n"].concat();
        assert_eq!(hashes_in(&said), [vec![15; 32]]);
        for other in [&b"sh: no"[..], b"", b"  -\n", &said[2..], b"+f  -\n", &said[..66]] {
            assert_eq!(hashes_in(other), Vec::<Vec<u8>>::new(), "{other:?}");
            let some = [&said[..], &said, other, &said].concat();
            assert!(hashes_in(&some).len() <= 3, "{other:?}");
        }
    }
}
