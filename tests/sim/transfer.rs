//! Files put and fetched over SFTP.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tidegate::base::SeededEntropy;
use tidegate::connection::{ChannelId, ChannelRequest, Connection};
use tidegate::transport::{Client as ClientRole, Env, Error};
use tidegate::wire::Writer;
use tidegate::wire::sftp::{
    Attributes, Extensions, Operation, Reply, Request, Response, StatusCode, VERSION, open,
};

use crate::bytes::{check_content, content};
use crate::office::Office;
use crate::tally::Tally;

#[derive(Clone, Debug)]
pub struct TransferPlan {
    pub files: Vec<FilePlan>,
    /// Requests kept unanswered.
    pub depth: usize,
    /// The largest piece of the byte stream sent at a time.
    pub piece: u32,
    /// Goes without EOF.
    pub rude: bool,
}

#[derive(Clone, Debug)]
pub struct FilePlan {
    pub path: String,
    pub act: FileAct,
    pub seed: u64,
    pub len: u64,
    /// Bytes of a READ or WRITE, at most.
    pub request: u32,
    pub fsync: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAct {
    Put,
    /// The file is there.
    Get,
    /// The file is there; it is copied by the server, to a name behind it.
    Copy,
    /// The file is not there.
    Miss,
    List,
}

#[derive(Debug)]
pub struct Transfer {
    plan: TransferPlan,
    office: Rc<RefCell<Office>>,
    files: VecDeque<FilePlan>,
    now: Option<Now>,
    next_id: u32,
    unanswered: BTreeMap<u32, Asked>,
    /// Encoded and not sent.
    queue: Vec<u8>,
    queue_at: usize,
    /// Received and not whole.
    partial: Vec<u8>,
    pub owed: u32,
    granted: bool,
    greeted: bool,
    refused: bool,
    eof_sent: bool,
    eof_seen: bool,
    closing: bool,
    exit: Option<u32>,
}

/// A file under way.
#[derive(Debug)]
struct Now {
    file: FilePlan,
    handle: Option<Vec<u8>>,
    second: Option<Vec<u8>>,
    step: Step,
    next: u64,
    /// Ranges to be asked for again.
    again: Vec<(u64, u32)>,
    /// Ranges the server said are written, or gave us.
    good: u64,
    written: Vec<(u64, u32)>,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    Move,
    Fsync,
    Stat,
    Close,
    CloseSecond,
    Over,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Open,
    OpenSecond,
    Read { at: u64, len: u32 },
    Write { at: u64, len: u32 },
    Copy,
    List,
    Fsync,
    Stat,
    Close,
}

impl Transfer {
    pub fn new(plan: TransferPlan, office: Rc<RefCell<Office>>) -> Transfer {
        let files = plan.files.iter().cloned().collect();
        Transfer {
            plan,
            office,
            files,
            now: None,
            next_id: 7,
            unanswered: BTreeMap::new(),
            queue: Vec::new(),
            queue_at: 0,
            partial: Vec::new(),
            owed: 0,
            granted: false,
            greeted: false,
            refused: false,
            eof_sent: false,
            eof_seen: false,
            closing: false,
            exit: None,
        }
    }

    pub fn opened(
        &mut self,
        id: ChannelId,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let sftp = ChannelRequest::Subsystem { name: "sftp".into() };
        let sent = conn.request(id, &sftp, true, env)?;
        assert!(sent, "an open channel takes requests");
        let extensions = Extensions::NONE;
        self.put(0, Operation::Init { version: VERSION, extensions });
        Ok(())
    }

    pub fn request_done(&mut self, ok: bool) {
        assert!(ok, "sftp was refused");
        self.granted = true;
    }

    pub fn data(&mut self, extended: Option<u32>, bytes: &[u8]) {
        assert_eq!(extended, None, "sftp has one output");
        assert!(!self.eof_seen, "data behind EOF");
        self.owed += bytes.len() as u32;
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(len) = self.partial[at..].first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            assert!(len < 300_000, "a reply of {len} bytes");
            let Some(packet) = self.partial.get(at + 4..at + 4 + len) else { break };
            let packet = packet.to_vec();
            at += 4 + len;
            let response = Response::parse(&packet).expect("a reply by the rules");
            self.reply(&response);
        }
        self.partial.drain(..at);
    }

    pub fn exited(&mut self, code: u32) {
        assert_eq!(self.exit, None, "sftp ends twice");
        self.exit = Some(code);
    }

    pub const fn ended(&mut self) {
        self.eof_seen = true;
    }

    pub const fn peer_closed(&mut self) {
        self.closing = true;
    }

    pub fn count(&self, tally: &mut Tally) {
        let begun = self.plan.files.len() - self.files.len();
        for file in &self.plan.files[..begun] {
            let what = match file.act {
                FileAct::Put => "file put",
                FileAct::Get => "file got",
                FileAct::Copy => "file copied",
                FileAct::Miss => "file missed",
                FileAct::List => "directory listed",
            };
            tally.count(what, 1);
        }
    }

    pub fn check_complete(&self) {
        if self.refused || self.plan.rude {
            return;
        }
        let arranged = self.office.borrow().arranged;
        if !self.greeted && arranged.lost + arranged.spoilt > 0 {
            // Whoever was to find out where it starts is gone.
            return;
        }
        assert!(self.granted && self.greeted, "sftp never began: {self:?}");
        assert!(self.files.is_empty() && self.now.is_none(), "files are missing: {self:?}");
        assert!(self.eof_sent && self.eof_seen, "sftp closed without EOF");
        assert_eq!(self.exit, Some(0), "sftp exits");
        assert!(self.partial.is_empty() && self.unanswered.is_empty(), "{self:?}");
    }

    pub fn pump(
        &mut self,
        id: ChannelId,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
        chance: &mut SeededEntropy,
    ) -> Result<bool, Error> {
        if self.owed > 0 && chance.below(2) == 0 {
            conn.consumed(id, std::mem::take(&mut self.owed), env)?;
        }
        if self.closing {
            return Ok(false);
        }
        let idle = self.queue.is_empty() && self.unanswered.is_empty();
        if self.greeted && self.files.is_empty() && self.now.is_none() && idle && !self.eof_sent {
            self.eof_sent = true;
            if self.plan.rude {
                self.closing = true;
                conn.close(id, env)?;
            } else {
                conn.send_eof(id, env)?;
            }
            return Ok(false);
        }
        if self.greeted && self.queue.len() - self.queue_at < 64 * 1024 {
            self.advance(chance);
        }
        self.send(id, conn, env, chance)
    }

    fn send(
        &mut self,
        id: ChannelId,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
        chance: &mut SeededEntropy,
    ) -> Result<bool, Error> {
        let rest = &self.queue[self.queue_at..];
        let most = (self.plan.piece.min(conn.credit(id)) as usize).min(rest.len());
        if most == 0 {
            return Ok(false);
        }
        let len = 1 + chance.below(most as u64) as usize;
        let written = conn.write_data(id, None, &rest[..len], env);
        if written {
            self.queue_at += len;
        }
        if self.queue_at == self.queue.len() {
            self.queue.clear();
            self.queue_at = 0;
        }
        Ok(written)
    }

    /// Asks for as much as the plan lets it.
    fn advance(&mut self, chance: &mut SeededEntropy) {
        let over = self.now.as_ref().is_some_and(|now| now.step == Step::Over);
        if over && self.unanswered.is_empty() {
            self.finish_file();
        }
        if self.now.is_none()
            && let Some(file) = self.files.pop_front()
        {
            self.begin(file);
        }
        while self.unanswered.len() < self.plan.depth && self.ask_next(chance) {}
    }

    fn begin(&mut self, file: FilePlan) {
        let path = file.path.clone();
        if file.act == FileAct::List {
            self.ask(Asked::Open, Operation::OpenDirectory { path: b"/home" });
        } else {
            let flags = match file.act {
                FileAct::Put => open::WRITE | open::CREATE | open::TRUNCATE,
                _ => open::READ,
            };
            let attributes = Attributes::EMPTY;
            self.ask(Asked::Open, Operation::Open { path: path.as_bytes(), flags, attributes });
        }
        if file.act == FileAct::Copy {
            let path = format!("{path}.copy");
            let flags = open::WRITE | open::CREATE | open::TRUNCATE;
            let attributes = Attributes::EMPTY;
            let open = Operation::Open { path: path.as_bytes(), flags, attributes };
            self.ask(Asked::OpenSecond, open);
        }
        self.now = Some(Now {
            file,
            handle: None,
            second: None,
            step: Step::Open,
            next: 0,
            again: Vec::new(),
            good: 0,
            written: Vec::new(),
            failed: false,
        });
    }

    /// False: nothing can be asked now.
    fn ask_next(&mut self, chance: &mut SeededEntropy) -> bool {
        let idle = self.unanswered.is_empty();
        let Some(now) = &mut self.now else { return false };
        let Some(handle) = now.handle.clone() else {
            // It could not be opened.
            if idle {
                now.step = Step::Over;
            }
            return false;
        };
        let handle = &handle[..];
        match now.step {
            Step::Open => now.step = Step::Move,
            Step::Move => return self.ask_move(handle, chance),
            Step::Fsync if idle => {
                now.step = Step::Stat;
                self.ask(Asked::Fsync, Operation::Fsync { handle });
            }
            Step::Stat if idle => {
                now.step = Step::Close;
                self.ask(Asked::Stat, Operation::HandleStat { handle });
            }
            Step::Close if idle => {
                now.step = Step::CloseSecond;
                self.ask(Asked::Close, Operation::Close { handle });
            }
            Step::CloseSecond if idle => {
                now.step = Step::Over;
                if let Some(handle) = now.second.take() {
                    self.ask(Asked::Close, Operation::Close { handle: &handle });
                }
            }
            _ => return false,
        }
        true
    }

    fn ask_move(&mut self, handle: &[u8], chance: &mut SeededEntropy) -> bool {
        let idle = self.unanswered.is_empty();
        let Some(now) = &mut self.now else { return false };
        let (at, len) = match now.again.pop() {
            Some(range) => range,
            None => {
                let most = u64::from(now.file.request).min(now.file.len - now.next);
                let at = now.next;
                let len = if most == 0 { 0 } else { 1 + chance.below(most) };
                now.next += len;
                (at, len as u32)
            }
        };
        let gives_up = now.failed;
        match now.file.act {
            FileAct::Put if len > 0 && !gives_up => {
                let mut data = vec![0; len as usize];
                content(now.file.seed, at, &mut data);
                let write = Operation::Write { handle, offset: at, data: &data };
                self.ask(Asked::Write { at, len }, write);
            }
            FileAct::Get if len > 0 && !gives_up => {
                self.ask(Asked::Read { at, len }, Operation::Read { handle, offset: at, len });
            }
            FileAct::List if idle && now.good == 0 => {
                self.ask(Asked::List, Operation::ReadDirectory { handle });
            }
            FileAct::Copy if idle && now.good == 0 && now.second.is_some() => {
                let to = now.second.clone().unwrap_or_default();
                let (from, to) = (handle, &to[..]);
                let copy = Operation::CopyData { from, from_offset: 0, len: 0, to, to_offset: 0 };
                now.good = 1;
                self.ask(Asked::Copy, copy);
            }
            _ if idle => {
                now.step = if now.file.fsync { Step::Fsync } else { Step::Stat };
            }
            _ => return false,
        }
        true
    }

    fn reply(&mut self, response: &Response<'_>) {
        if let Reply::Version { version, .. } = response.reply {
            assert_eq!((version, self.greeted), (VERSION, false));
            self.greeted = true;
            return;
        }
        let asked = self.unanswered.remove(&response.id);
        let asked = asked.unwrap_or_else(|| panic!("a reply to nothing: {response:?}"));
        let may_fail = self.may_fail();
        let Some(now) = &mut self.now else { panic!("a reply behind the last file") };
        let size = now.file.len;
        match (asked, response.reply) {
            (Asked::Open, Reply::Handle(handle)) => now.handle = Some(handle.to_vec()),
            (Asked::OpenSecond, Reply::Handle(handle)) => now.second = Some(handle.to_vec()),
            (Asked::Open, Reply::Status { code: StatusCode::NoSuchFile, .. })
                if now.file.act == FileAct::Miss => {}
            (Asked::Read { at, len }, Reply::Data(data)) => {
                assert!(!data.is_empty() && data.len() <= len as usize, "{} of {len}", data.len());
                check_content(now.file.seed, at, data, &now.file.path);
                let got = data.len() as u32;
                now.good += u64::from(got);
                if got < len {
                    now.again.push((at + u64::from(got), len - got));
                }
            }
            (Asked::Write { at, len }, Reply::Status { code: StatusCode::Ok, .. }) => {
                let is_write = |asked: &Asked| matches!(asked, Asked::Write { .. });
                let older = self.unanswered.range(..response.id).find(|(_, asked)| is_write(asked));
                assert!(older.is_none(), "the answer to {} overtook {older:?}", response.id);
                now.good += u64::from(len);
                now.written.push((at, len));
            }
            (Asked::List, Reply::Names(names)) => {
                assert_eq!(names.iter().count(), names.count() as usize);
            }
            (Asked::List, Reply::Status { code: StatusCode::Eof, .. }) => now.good = 1,
            (Asked::Stat, Reply::Attributes(attributes)) => {
                let whole = attributes.size == Some(size);
                let settled = matches!(now.file.act, FileAct::Put | FileAct::Get);
                assert!(whole || !settled || now.failed, "{attributes:?}: {now:?}");
            }
            // Directories have no attributes of their own.
            (Asked::Stat, Reply::Status { .. }) if now.file.act == FileAct::List => {}
            (
                Asked::Fsync | Asked::Close | Asked::Copy,
                Reply::Status { code: StatusCode::Ok, .. },
            ) => {}
            (Asked::Read { .. }, Reply::Status { code: StatusCode::Eof, .. }) => {
                panic!("{}: the file ends early", now.file.path)
            }
            (asked, reply) => {
                assert!(may_fail, "{asked:?} of {now:?} fails: {reply:?}");
                now.failed = true;
                if matches!(asked, Asked::List) {
                    now.good = 1;
                }
            }
        }
    }

    fn may_fail(&self) -> bool {
        self.office.borrow().files_may_fail()
    }

    /// What was said to be written is written.
    fn finish_file(&mut self) {
        let Some(Now { file, written, good, failed, .. }) = self.now.take() else { return };
        let moved = matches!(file.act, FileAct::Put | FileAct::Get);
        assert!(failed || !moved || good == file.len || self.may_fail(), "{file:?}: {good}");
        let office = self.office.borrow();
        if file.act == FileAct::Put
            && let Some(contents) = office.files.contents(&file.path, &office.world)
        {
            for (at, len) in written {
                let range = at as usize..at as usize + len as usize;
                let there = contents.get(range).unwrap_or_else(|| panic!("{file:?} is too short"));
                check_content(file.seed, at, there, &file.path);
            }
        }
        if file.act == FileAct::Copy && !failed {
            let path = format!("{}.copy", file.path);
            let copy = office.files.contents(&path, &office.world).expect("a copy");
            assert_eq!(copy.len() as u64, file.len);
            check_content(file.seed, 0, &copy, &path);
        }
    }

    fn ask(&mut self, asked: Asked, operation: Operation<'_>) {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        self.unanswered.insert(id, asked);
        self.put(id, operation);
    }

    fn put(&mut self, id: u32, operation: Operation<'_>) {
        let data = match operation {
            Operation::Write { data, .. } => data.len(),
            _ => 0,
        };
        let mut space = vec![0; data + 1024];
        let mut out = Writer::new(&mut space);
        Request { id, operation }.write(&mut out).expect("room for a request");
        self.queue.extend_from_slice(out.written());
    }
}
