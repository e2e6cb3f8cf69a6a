//! A host's files by SFTP: answers in any order, short ones, refusals, and lies.

use std::cell::RefCell;
use std::rc::Rc;

use tidegate::base::SeededEntropy;
use tidegate::wire::Writer;
use tidegate::wire::sftp::{Extensions, Operation, Reply, Request, Response, StatusCode, VERSION};

use crate::bytes::content;
use crate::chance::one_in;

/// One file of a host.
#[derive(Clone, Debug, Default)]
pub struct ShelfFile {
    /// What is read, by its number and length.
    pub seed: u64,
    pub len: u64,
    /// What was written.
    pub stored: Vec<u8>,
    /// From this place on nothing can be read or written.
    pub fails_at: Option<u64>,
}

/// By their place; a path is its decimal.
pub type SharedFiles = Rc<RefCell<Vec<ShelfFile>>>;

/// What is wrong with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShelfLie {
    TooMuch,
    NothingAsked,
    SuccessForData,
    TooLong,
    VersionTwice,
}

impl ShelfLie {
    pub const fn told(self) -> &'static [&'static str] {
        match self {
            ShelfLie::TooMuch => &["another amount of data than was asked for"],
            ShelfLie::NothingAsked => &["an answer to what was not asked"],
            ShelfLie::SuccessForData => &["success in place of data"],
            ShelfLie::TooLong => &["a reply that is longer than any may be"],
            ShelfLie::VersionTwice => &["its version a second time"],
        }
    }
}

/// What is to be answered.
#[derive(Debug)]
enum Wanted {
    Handle(u32),
    Status(StatusCode),
    Data { file: u32, at: u64, len: u32 },
}

#[derive(Debug)]
pub struct Shelf {
    files: SharedFiles,
    shuffles: bool,
    chance: SeededEntropy,
    /// Received and not whole.
    partial: Vec<u8>,
    wanted: Vec<(u32, Wanted)>,
    /// Encoded and not sent.
    out: Vec<u8>,
    greeted: bool,
    lie: Option<ShelfLie>,
}

impl Shelf {
    pub fn new(files: SharedFiles, shuffles: bool, seed: u64) -> Shelf {
        let chance = SeededEntropy::new(seed);
        let (partial, wanted, out) = (Vec::new(), Vec::new(), Vec::new());
        Shelf { files, shuffles, chance, partial, wanted, out, greeted: false, lie: None }
    }

    /// Requests, cut anywhere.
    pub fn data(&mut self, data: &[u8]) {
        self.partial.extend_from_slice(data);
        let mut at = 0;
        while let Some(front) = self.partial.get(at..at + 4) {
            let len = u32::from_be_bytes(front.try_into().expect("four bytes")) as usize;
            let Some(packet) = self.partial.get(at + 4..at + 4 + len).map(<[u8]>::to_vec) else {
                break;
            };
            at += 4 + len;
            self.asked(&packet);
        }
        self.partial.drain(..at);
    }

    fn asked(&mut self, packet: &[u8]) {
        let request = Request::parse(packet).expect("a request that can be read");
        let wanted = match request.operation {
            Operation::Init { version, .. } => {
                assert!(version == VERSION && !self.greeted, "a greeting");
                self.greeted = true;
                return self.greet();
            }
            Operation::Open { path, .. } => {
                let number = String::from_utf8_lossy(path).parse().expect("a file's number");
                let known = (number as usize) < self.files.borrow().len();
                if known { Wanted::Handle(number) } else { Wanted::Status(StatusCode::NoSuchFile) }
            }
            Operation::Close { .. } => Wanted::Status(StatusCode::Ok),
            Operation::Read { handle, offset, len } => {
                Wanted::Data { file: number(handle), at: offset, len }
            }
            Operation::Write { handle, offset, data } => {
                Wanted::Status(self.store(number(handle), offset, data))
            }
            other => panic!("{other:?} is not asked for"),
        };
        self.wanted.push((request.id, wanted));
    }

    fn store(&self, file: u32, offset: u64, data: &[u8]) -> StatusCode {
        let mut files = self.files.borrow_mut();
        let file = files.get_mut(file as usize).expect("a file");
        let end = offset + data.len() as u64;
        if file.fails_at.is_some_and(|at| end > at) {
            return StatusCode::Failure;
        }
        let end = end as usize;
        if file.stored.len() < end {
            file.stored.resize(end, 0);
        }
        file.stored[offset as usize..end].copy_from_slice(data);
        StatusCode::Ok
    }

    fn greet(&mut self) {
        let reply = Reply::Version { version: VERSION, extensions: Extensions::NONE };
        self.reply(0, reply);
    }

    fn reply(&mut self, id: u32, reply: Reply<'_>) {
        let mut space = vec![0; 300 << 10];
        let mut out = Writer::new(&mut space);
        Response { id, reply }.write(&mut out).expect("room");
        self.out.extend_from_slice(out.written());
    }

    /// From now on something is wrong with what is said. False: there is no occasion.
    pub fn lie(&mut self, lie: ShelfLie) -> bool {
        let reads = self.wanted.iter().any(|(_, wanted)| matches!(wanted, Wanted::Data { .. }));
        let occasion = self.greeted
            && match lie {
                ShelfLie::TooMuch | ShelfLie::SuccessForData => reads,
                _ => true,
            };
        if !occasion {
            return false;
        }
        self.lie = Some(lie);
        let first = self.wanted.iter().position(|(_, one)| matches!(one, Wanted::Data { .. }));
        match (lie, first) {
            (ShelfLie::TooMuch, Some(first)) => {
                let (id, wanted) = self.wanted.remove(first);
                let Wanted::Data { len, .. } = wanted else { return false };
                self.reply(id, Reply::Data(&vec![0; len as usize + 1]));
            }
            (ShelfLie::SuccessForData, Some(first)) => {
                let (id, _) = self.wanted.remove(first);
                self.reply(id, Reply::Status { code: StatusCode::Ok, text: b"" });
            }
            (ShelfLie::NothingAsked, _) => {
                self.reply(4_000_000, Reply::Status { code: StatusCode::Ok, text: b"" });
            }
            (ShelfLie::TooLong, _) => self.out.extend_from_slice(&[0x7f; 16]),
            (ShelfLie::VersionTwice, _) => self.greet(),
            _ => return false,
        }
        true
    }

    /// Bytes to be sent, so many at most.
    pub fn take(&mut self, room: usize) -> Vec<u8> {
        while self.out.len() < room && !self.wanted.is_empty() && self.lie.is_none() {
            self.answer();
        }
        let len = room.min(self.out.len());
        self.out.drain(..len).collect()
    }

    fn answer(&mut self) {
        let count = self.wanted.len() as u64;
        let which = if self.shuffles { self.chance.below(count) as usize } else { 0 };
        let (id, wanted) = self.wanted.remove(which);
        match wanted {
            Wanted::Handle(number) => self.reply(id, Reply::Handle(&number.to_be_bytes())),
            Wanted::Status(code) => self.reply(id, Reply::Status { code, text: b"as it is" }),
            Wanted::Data { file, at, len } => {
                let file = self.files.borrow()[file as usize].clone_front();
                let left = file.len.saturating_sub(at);
                let mut len = u64::from(len).min(left);
                if len > 1 && one_in(&mut self.chance, 8) {
                    len = 1 + self.chance.below(len);
                }
                if len == 0 {
                    return self.reply(id, Reply::Status { code: StatusCode::Eof, text: b"" });
                }
                if file.fails_at.is_some_and(|fails| at + len > fails) {
                    let code = StatusCode::Failure;
                    return self.reply(id, Reply::Status { code, text: b"a bad place" });
                }
                let mut data = vec![0; len as usize];
                content(file.seed, at, &mut data);
                self.reply(id, Reply::Data(&data));
            }
        }
    }
}

impl ShelfFile {
    /// All but what was written.
    const fn clone_front(&self) -> ShelfFile {
        let ShelfFile { seed, len, fails_at, .. } = *self;
        ShelfFile { seed, len, stored: Vec::new(), fails_at }
    }
}

fn number(handle: &[u8]) -> u32 {
    u32::from_be_bytes(handle.try_into().expect("a handle that was given"))
}
