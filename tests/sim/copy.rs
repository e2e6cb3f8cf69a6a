//! Files copied by scp's own protocol, which the gateway speaks in process.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tidegate::base::SeededEntropy;
use tidegate::connection::{ChannelId, ChannelRequest, Connection};
use tidegate::transport::{Client as ClientRole, Env, Error};

use crate::bytes::{Flow, check_content};
use crate::office::Office;
use crate::tally::Tally;

#[derive(Clone, Debug)]
pub struct CopyPlan {
    /// To the gateway (`scp -t`); otherwise from it (`scp -f`).
    pub sends: bool,
    pub recursive: bool,
    pub preserve: bool,
    /// What is asked for is not there.
    pub misses: bool,
    /// Of the file or directory on the gateway, below /home.
    pub name: String,
    pub files: Vec<CopyFile>,
    /// The largest piece sent at a time.
    pub piece: u32,
    /// The channel is closed once so many bytes have come or gone.
    pub leaves_after: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct CopyFile {
    pub name: String,
    pub path: String,
    pub seed: u64,
    pub len: u64,
}

#[derive(Debug)]
pub struct Copy {
    plan: CopyPlan,
    office: Rc<RefCell<Office>>,
    /// What a sender still has to do.
    script: VecDeque<Part>,
    coming: Coming,
    /// To be sent next.
    out: Vec<u8>,
    /// Received and not read.
    input: Vec<u8>,
    moved: u64,
    pub owed: u32,
    /// Files that went well, and complaints of the other side.
    good: usize,
    complaints: u32,
    eof_sent: bool,
    eof_seen: bool,
    closing: bool,
    left: bool,
    exit: Option<u32>,
}

#[derive(Debug)]
enum Part {
    Say(Vec<u8>),
    Data(Flow),
    /// The other side says how it went; so many parts make no sense if it could not.
    Answer {
        skips: usize,
        ends_file: bool,
    },
}

/// What a receiver waits for.
#[derive(Debug)]
enum Coming {
    Record,
    Data { file: usize, bytes: Vec<u8> },
    Status { file: usize, bytes: Vec<u8> },
}

impl Copy {
    pub fn new(plan: CopyPlan, office: Rc<RefCell<Office>>) -> Copy {
        let script = if plan.sends { script(&plan) } else { VecDeque::new() };
        let out = if plan.sends { Vec::new() } else { vec![0] };
        Copy {
            plan,
            office,
            script,
            coming: Coming::Record,
            out,
            input: Vec::new(),
            moved: 0,
            owed: 0,
            good: 0,
            complaints: 0,
            eof_sent: false,
            eof_seen: false,
            closing: false,
            left: false,
            exit: None,
        }
    }

    pub fn opened(
        &mut self,
        id: ChannelId,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let CopyPlan { sends, recursive, preserve, name, .. } = &self.plan;
        let flag = |on: bool, flag: &'static str| if on { flag } else { "" };
        let side = if *sends { "-t" } else { "-f" };
        let (recursive, preserve) = (flag(*recursive, " -r"), flag(*preserve, " -p"));
        let command = format!("scp{recursive}{preserve} {side} -- '/home/{name}'");
        let exec = ChannelRequest::Exec { command: command.as_bytes().into() };
        let sent = conn.request(id, &exec, true, env)?;
        assert!(sent, "an open channel takes requests");
        Ok(())
    }

    pub fn request_done(&self, ok: bool) {
        assert!(ok, "scp was refused: {self:?}");
    }

    pub fn data(&mut self, extended: Option<u32>, bytes: &[u8]) {
        assert_eq!(extended, None, "nobody asked scp to be verbose");
        assert!(!self.eof_seen, "data behind EOF");
        self.owed += bytes.len() as u32;
        self.moved += bytes.len() as u64;
        self.input.extend_from_slice(bytes);
    }

    pub fn exited(&mut self, code: u32) {
        assert_eq!(self.exit, None, "scp ends twice");
        self.exit = Some(code);
    }

    pub const fn ended(&mut self) {
        self.eof_seen = true;
    }

    pub const fn peer_closed(&mut self) {
        self.closing = true;
    }

    pub fn count(&self, tally: &mut Tally) {
        let what = match (self.plan.sends, self.plan.misses) {
            (true, _) => "scp to",
            (false, false) => "scp from",
            (false, true) => "scp missed",
        };
        tally.count(what, 1);
        tally.count("scp directory", u64::from(self.plan.recursive));
        tally.count("scp left", u64::from(self.left));
    }

    pub fn check_complete(&self) {
        if self.left {
            return;
        }
        let may_fail = self.office.borrow().files_may_fail();
        let whole = self.good == self.plan.files.len() && self.script.is_empty();
        let failed = self.complaints > 0 || !whole || self.plan.misses;
        assert!(!failed || may_fail || self.plan.misses, "scp failed: {self:?}");
        assert!(self.eof_seen, "scp closed without EOF");
        match self.exit {
            // A directory that cannot be read to its end ends there, as in OpenSSH.
            Some(0) if may_fail && self.plan.recursive && !self.plan.sends => {}
            Some(0) => assert!(!failed, "scp says that it went well: {self:?}"),
            Some(1) => assert!(failed || may_fail, "scp says that it failed: {self:?}"),
            _ => panic!("scp ends otherwise: {self:?}"),
        }
        if self.plan.sends && self.exit == Some(0) {
            let office = self.office.borrow();
            for CopyFile { path, seed, len, .. } in &self.plan.files {
                let there = office.files.contents(path, &office.world).expect("a copy");
                assert_eq!(there.len() as u64, *len, "{path}");
                check_content(*seed, 0, &there, path);
            }
        }
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
        if self.plan.leaves_after.is_some_and(|after| self.moved > after) {
            (self.closing, self.left) = (true, true);
            conn.close(id, env)?;
            return Ok(false);
        }
        match self.plan.sends {
            true => self.advance(),
            false => while self.receive() {},
        }
        let done = self.plan.sends && self.script.is_empty() && self.out.is_empty();
        if done && !self.eof_sent {
            self.eof_sent = true;
            conn.send_eof(id, env)?;
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
        let most = u64::from(self.plan.piece.min(conn.credit(id)));
        let data = match self.script.front() {
            Some(Part::Data(flow)) if self.out.is_empty() => flow.left().min(most),
            _ => 0,
        };
        let said = most.min(self.out.len() as u64);
        if data + said == 0 {
            return Ok(false);
        }
        let len = 1 + chance.below(data + said);
        let bytes = match self.script.front() {
            Some(Part::Data(flow)) if data > 0 => flow.peek(len),
            _ => self.out[..len as usize].to_vec(),
        };
        if !conn.write_data(id, None, &bytes, env) {
            return Ok(false);
        }
        self.moved += len;
        match self.script.front_mut() {
            Some(Part::Data(flow)) if data > 0 => flow.advance(bytes.len()),
            _ => drop(self.out.drain(..bytes.len())),
        }
        Ok(true)
    }

    /// As the sending side: what is to be said, and what was answered.
    fn advance(&mut self) {
        while self.out.is_empty() {
            match self.script.front_mut() {
                Some(Part::Say(line)) => {
                    self.out = std::mem::take(line);
                    self.script.pop_front();
                }
                Some(Part::Data(flow)) if flow.left() == 0 => {
                    self.script.pop_front();
                }
                Some(Part::Answer { skips, ends_file }) => {
                    let (skips, ends_file) = (*skips, *ends_file);
                    let Some(fine) = self.answer() else { return };
                    self.good += usize::from(ends_file && fine);
                    self.script.drain(..1 + if fine { 0 } else { skips });
                }
                Some(Part::Data(_)) | None => return,
            }
        }
    }

    /// Whether the other side is content, once it has said.
    fn answer(&mut self) -> Option<bool> {
        let fine = *self.input.first()? == 0;
        let len = match fine {
            true => 1,
            false => 1 + self.input.iter().position(|byte| *byte == b'\n')?,
        };
        assert!(self.input[0] <= 1, "scp cannot go on: {}", String::from_utf8_lossy(&self.input));
        self.complaints += u32::from(!fine);
        self.input.drain(..len);
        Some(fine)
    }

    /// As the receiving side: one record, some data, or how it went. False: more has to come.
    fn receive(&mut self) -> bool {
        match std::mem::replace(&mut self.coming, Coming::Record) {
            Coming::Record => return self.record(),
            Coming::Data { file, mut bytes } => {
                let left = self.plan.files[file].len as usize - bytes.len();
                let taken = left.min(self.input.len());
                bytes.extend(self.input.drain(..taken));
                self.coming = match taken == left {
                    true => Coming::Status { file, bytes },
                    false => Coming::Data { file, bytes },
                };
                return taken == left;
            }
            Coming::Status { file, bytes } => {
                let Some(fine) = self.answer() else {
                    self.coming = Coming::Status { file, bytes };
                    return false;
                };
                self.out.push(0);
                if fine {
                    let CopyFile { seed, path, .. } = &self.plan.files[file];
                    check_content(*seed, 0, &bytes, path);
                    self.good += 1;
                }
            }
        }
        true
    }

    fn record(&mut self) -> bool {
        if self.input.first().is_some_and(|byte| *byte <= 2) {
            return self.answer().is_some();
        }
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else { return false };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        let line = String::from_utf8(line).expect("a record is text");
        self.out.push(0);
        let words: Vec<&str> = line.trim_end().splitn(3, ' ').collect();
        match (&line[..1], &words[..]) {
            ("T", _) => assert!(self.plan.preserve && line == "T5 0 6 0\n", "{line:?}"),
            ("D", [_, "0", name]) => assert_eq!(*name, self.plan.name, "{line:?}"),
            ("E", ["E"]) => {}
            ("C", [mode, len, name]) => {
                assert_eq!(*mode, "C0644", "{line:?}");
                let file = self.plan.files.iter().position(|file| file.name == *name);
                let file = file.unwrap_or_else(|| panic!("nobody asked for {line:?}"));
                assert_eq!(len.parse(), Ok(self.plan.files[file].len), "{line:?}");
                self.coming = Coming::Data { file, bytes: Vec::new() };
            }
            _ => panic!("no record of scp: {line:?}"),
        }
        true
    }
}

/// What a sender says, and where it waits to be answered.
fn script(plan: &CopyPlan) -> VecDeque<Part> {
    let say = |text: String| Part::Say(text.into_bytes());
    let answer = |skips| Part::Answer { skips, ends_file: false };
    let mut script = VecDeque::from([answer(0)]);
    let per_file = if plan.preserve { 7 } else { 5 };
    if plan.recursive {
        // Without its directory nothing can be copied.
        script.extend([
            say(format!("D0755 0 {}\n", plan.name)),
            answer(2 + plan.files.len() * per_file),
        ]);
    }
    for CopyFile { name, seed, len, .. } in &plan.files {
        if plan.preserve {
            script.extend([say("T5 0 6 0\n".to_owned()), answer(0)]);
        }
        script.extend([
            say(format!("C0644 {len} {name}\n")),
            answer(3),
            Part::Data(Flow::new(*seed, *len)),
            Part::Say(vec![0]),
            Part::Answer { skips: 0, ends_file: true },
        ]);
    }
    if plan.recursive {
        script.extend([say("E\n".to_owned()), answer(0)]);
    }
    script
}
