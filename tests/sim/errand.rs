//! What a client of ours is after at a host: sessions whose streams are ours, and files.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::{ChannelId, ChannelKind, ChannelRequest, Event};
use tidegate::reactor::Fd;
use tidegate::reactor::sim::{FileId, SimDriver, SimWorld};
use tidegate::services::Attached;
use tidegate::services::forward::Note;
use tidegate::services::local::Stdio;
use tidegate::services::sftp_client::{Answer, Behind, Moved, SftpClient, SftpNote, Stretch, Way};
use tidegate::shard::{ClientLink, Shard};
use tidegate::wire::sftp::{Attributes, Operation, open};

use crate::abroad::Alone;
use crate::bytes::{Flow, content};
use crate::chance::{hits, up_to};
use crate::program::{Program, Work};
use crate::shelf::SharedFiles;

pub type Loop = Shard<SimDriver, Alone>;

/// What a program at a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Says what it hears, and ends with its input.
    Echo,
    /// Says its part, and ends with its input.
    Talk,
    /// Says its part and ends, whatever comes.
    Leave,
}

#[derive(Clone, Debug)]
pub struct SessionPlan {
    pub habit: Habit,
    pub seed: u64,
    pub input: u64,
    pub output: u64,
    pub errors: u64,
    pub code: u32,
    /// Bytes that we write at a time, and read.
    pub gulp: usize,
    /// Of a million: chances of resting before that, and how long.
    pub rests: u32,
    pub rest_max: Duration,
    /// Our output is closed after so many bytes.
    pub hangs_up: Option<u64>,
    /// Our output is not read after so many bytes, until the connection is over.
    pub sleeps: Option<u64>,
}

impl SessionPlan {
    /// Input, output and errors.
    pub fn flows(&self) -> (Flow, Flow, Flow) {
        let input = Flow::new(self.seed, self.input);
        let output = match self.habit {
            Habit::Echo => input.clone(),
            _ => Flow::new(!self.seed, self.output),
        };
        (input, output, Flow::new(self.seed ^ 0xe220, self.errors))
    }
}

#[derive(Clone, Debug)]
pub struct MovePlan {
    pub way: Way,
    /// The host's file.
    pub number: u32,
    pub seed: u64,
    /// Of the stretch; the file that is read may be shorter.
    pub len: u64,
    pub there: u64,
    pub file_len: u64,
    pub fails_at: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct FilesPlan {
    pub moves: Vec<MovePlan>,
    pub at_once: usize,
    pub bytes_a_second: Option<u64>,
}

#[derive(Clone, Debug)]
pub enum ErrandPlan {
    Session(SessionPlan),
    Files(FilesPlan),
}

/// What the commands of a run mean.
#[derive(Debug)]
pub struct Orders(pub Vec<ErrandPlan>);

impl Orders {
    pub fn program(&self, number: usize) -> Work {
        match self.0.get(number) {
            Some(ErrandPlan::Session(plan)) => Work::Program(Box::new(Program::new(plan))),
            other => panic!("order {number}: {other:?}"),
        }
    }
}

#[derive(Debug)]
pub enum Errand {
    Session(Box<Session>),
    Files(Box<Files>),
}

#[derive(Debug)]
pub struct Session {
    plan: SessionPlan,
    number: usize,
    input: Flow,
    output: Flow,
    errors: Flow,
    /// Our ends of the pipes that the session has.
    feed: Option<Fd>,
    out: Option<Fd>,
    err: Option<Fd>,
    resting_until: Instant,
    status: Option<u32>,
    finished: bool,
    hung_up: bool,
}

#[derive(Debug)]
pub struct Files {
    plan: FilesPlan,
    ready: bool,
    moves: Vec<MoveState>,
    next: usize,
    pub broken: Option<String>,
    closing: bool,
    finished: bool,
}

#[derive(Debug)]
struct MoveState {
    ours: FileId,
    moved: Rc<Cell<u64>>,
    outcome: Option<Moved>,
    handle: Option<Box<[u8]>>,
    over: bool,
}

impl Errand {
    pub fn new(plan: &ErrandPlan, number: usize, world: &SimWorld) -> Errand {
        match plan {
            ErrandPlan::Session(plan) => {
                let (input, output, errors) = plan.flows();
                Errand::Session(Box::new(Session {
                    plan: plan.clone(),
                    number,
                    input,
                    output,
                    errors,
                    feed: None,
                    out: None,
                    err: None,
                    resting_until: Instant::ZERO,
                    status: None,
                    finished: false,
                    hung_up: false,
                }))
            }
            ErrandPlan::Files(plan) => {
                let moves = plan.moves.iter().map(|one| MoveState::new(one, world)).collect();
                Errand::Files(Box::new(Files {
                    plan: plan.clone(),
                    ready: false,
                    moves,
                    next: 0,
                    broken: None,
                    closing: false,
                    finished: false,
                }))
            }
        }
    }

    /// Asks for its channel. `None`: not now.
    pub fn begin(
        &mut self,
        link: ClientLink,
        shard: &mut Loop,
        world: &SimWorld,
    ) -> Option<ChannelId> {
        match self {
            Errand::Session(session) => session.begin(link, shard, world),
            Errand::Files(files) => {
                let service = Attached::files(SftpClient::new(files.plan.bytes_a_second));
                shard.open_channel(link, &ChannelKind::Session, Some(service))
            }
        }
    }

    pub fn hear(&mut self, (link, id): (ClientLink, ChannelId), event: &Event, shard: &mut Loop) {
        match (self, event) {
            (Errand::Session(session), Event::Opened { .. }) => {
                let command = session.number.to_string().into_bytes().into();
                shard.ask_channel(link, id, &ChannelRequest::Exec { command }, true);
            }
            (Errand::Session(_), Event::RequestDone { ok, .. }) => {
                assert!(ok, "the host starts everything");
                shard.with_channel(link, id, |service, io| service.read_locally(io));
            }
            (
                Errand::Session(session),
                Event::Request { request: ChannelRequest::ExitStatus { code }, .. },
            ) => session.status = Some(*code),
            (Errand::Files(_), Event::Opened { .. }) => {
                let request = ChannelRequest::Subsystem { name: "sftp".into() };
                shard.ask_channel(link, id, &request, true);
                with_files(shard, (link, id), SftpClient::greet);
            }
            _ => {}
        }
    }

    pub fn told(
        &mut self,
        at: (ClientLink, ChannelId),
        note: Note,
        shard: &mut Loop,
        world: &SimWorld,
    ) {
        match (self, note) {
            (Errand::Session(_), Note::Deaf) => {
                shard.ask_channel(at.0, at.1, &ChannelRequest::EndOfWrite, false);
            }
            (Errand::Files(files), Note::Sftp(note)) => files.told(at, *note, shard, world),
            _ => {}
        }
    }

    /// What was attached to its channel is over.
    pub fn finished(&mut self) {
        match self {
            Errand::Session(session) => session.finished = true,
            Errand::Files(files) => files.finished = true,
        }
    }

    /// Feeds and reads. `gone`: the connection is over.
    pub fn step(&mut self, gone: bool, world: &SimWorld, chance: &mut SeededEntropy) {
        if let Errand::Session(session) = self {
            session.step(gone, world, chance);
        }
    }

    /// It has got what it came for, or will not any more.
    pub fn is_over(&self) -> bool {
        match self {
            Errand::Session(session) => {
                session.finished && session.out.is_none() && session.err.is_none()
            }
            Errand::Files(files) => files.finished,
        }
    }

    /// Nothing of it is left here, whatever it came to.
    pub fn is_quiet(&self) -> bool {
        match self {
            Errand::Session(session) => session.out.is_none() && session.err.is_none(),
            Errand::Files(_) => true,
        }
    }

    /// It came to what it was to come to; otherwise what is missing. Panics when it says so and it is
    /// not so.
    pub fn verdict(&self, world: &SimWorld, there: &SharedFiles) -> Result<(), String> {
        match self {
            Errand::Session(session) => session.verdict(),
            Errand::Files(files) => files.verdict(world, there),
        }
    }

    pub fn count(&self, tally: &mut crate::tally::Tally) {
        match self {
            Errand::Session(session) => {
                tally.count(format!("abroad {:?}", session.plan.habit), 1);
                tally.count("abroad hung up", u64::from(session.hung_up));
            }
            Errand::Files(files) => {
                for (plan, one) in files.plan.moves.iter().zip(&files.moves) {
                    tally.count(format!("abroad {:?}", plan.way), u64::from(one.outcome.is_some()));
                    let refused = matches!(one.outcome, Some(Moved::There { .. }));
                    tally.count("abroad refused", u64::from(refused));
                    let short = matches!(one.outcome, Some(Moved::Short(_)));
                    tally.count("abroad short", u64::from(short));
                }
            }
        }
    }
}

fn with_files(
    shard: &mut Loop,
    (link, id): (ClientLink, ChannelId),
    call: impl FnOnce(&mut SftpClient, &mut tidegate::services::Io<'_>),
) {
    shard.with_channel(link, id, |service, io| {
        if let Some(client) = service.as_files() {
            call(client, io);
        }
    });
}

impl Session {
    fn begin(&mut self, link: ClientLink, shard: &mut Loop, world: &SimWorld) -> Option<ChannelId> {
        let (input, feed) = world.pipe();
        let (out, output) = world.pipe();
        let (err, errors) = world.pipe();
        let stdio = Stdio { input: Some(input), output: Some(output), errors: Some(errors) };
        let service = Attached::local(&stdio, None);
        let id = shard.open_channel(link, &ChannelKind::Session, Some(service));
        if id.is_none() {
            [input, feed, out, output, err, errors].into_iter().for_each(|fd| world.close(fd));
            return None;
        }
        (self.feed, self.out, self.err) = (Some(feed), Some(out), Some(err));
        id
    }

    fn step(&mut self, gone: bool, world: &SimWorld, chance: &mut SeededEntropy) {
        let now = world.now();
        if now < self.resting_until {
            return;
        }
        if hits(chance, self.plan.rests) {
            self.resting_until = now.after(up_to(chance, self.plan.rest_max));
            world.wake_at(self.resting_until);
            return;
        }
        if let Some(feed) = self.feed {
            let piece = self.input.peek(self.plan.gulp as u64);
            let over = match world.write(feed, &piece) {
                _ if piece.is_empty() => true,
                Ok(len) => {
                    self.input.advance(len);
                    self.input.left() == 0
                }
                Err(errno) => errno.0 != libc::EAGAIN,
            };
            if over || gone {
                world.close(feed);
                self.feed = None;
            }
        }
        let asleep = self.plan.sleeps.is_some_and(|at| self.output.at >= at) && !gone;
        if !asleep {
            let what = ("our output", self.plan.gulp);
            drain(&mut self.out, &mut self.output, what, world);
        }
        drain(&mut self.err, &mut self.errors, ("our errors", self.plan.gulp), world);
        if self.plan.hangs_up.is_some_and(|at| self.output.at >= at)
            && let Some(out) = self.out.take()
        {
            self.hung_up = true;
            world.close(out);
        }
    }

    fn verdict(&self) -> Result<(), String> {
        let whole = self.hung_up || self.output.left() == 0 && self.errors.left() == 0;
        match self.status {
            Some(code) if code == self.plan.code && whole => Ok(()),
            _ => Err(format!("{self:?}")),
        }
    }
}

/// Reads what is there and is to be what comes next.
fn drain(from: &mut Option<Fd>, flow: &mut Flow, (what, gulp): (&str, usize), world: &SimWorld) {
    let Some(fd) = *from else { return };
    let mut bytes = vec![0; gulp];
    match world.read(fd, &mut bytes) {
        Ok(0) => {
            world.close(fd);
            *from = None;
        }
        Ok(len) => flow.check(&bytes[..len], what),
        Err(errno) if errno.0 == libc::EAGAIN => {}
        Err(errno) => panic!("{what}: {errno}"),
    }
}

impl MoveState {
    fn new(plan: &MovePlan, world: &SimWorld) -> MoveState {
        let mut contents = Vec::new();
        if plan.way == Way::Put {
            contents.resize(plan.file_len as usize, 0);
            content(plan.seed, plan.there, &mut contents);
        }
        let (ours, moved) = (world.create_file(contents), Rc::default());
        MoveState { ours, moved, outcome: None, handle: None, over: false }
    }
}

const OPEN: u32 = 0;
const MOVE: u32 = 1;
const CLOSE: u32 = 2;
const STEPS: u32 = 3;

impl Files {
    fn told(
        &mut self,
        at: (ClientLink, ChannelId),
        note: SftpNote,
        shard: &mut Loop,
        world: &SimWorld,
    ) {
        match note {
            SftpNote::Ready(_) => self.ready = true,
            SftpNote::Answered { ticket, answer } => {
                let number = (ticket / STEPS) as usize;
                match (ticket % STEPS, answer) {
                    (OPEN, Answer::Handle(handle)) => {
                        self.moves[number].handle = Some(handle);
                        self.start(number, at, shard, world);
                    }
                    (CLOSE, Answer::Status { .. }) => self.moves[number].over = true,
                    (step, answer) => panic!("step {step} of {number}: {answer:?}"),
                }
            }
            SftpNote::Moved { ticket, moved } => {
                let number = (ticket / STEPS) as usize;
                self.moves[number].outcome = Some(moved);
                let handle = self.moves[number].handle.clone().expect("a handle");
                with_files(shard, at, |client, io| {
                    assert!(client.ask(ticket + 1, &Operation::Close { handle: &handle }, io));
                });
            }
            SftpNote::Ended => self.broken = Some("ended".to_owned()),
            SftpNote::Broken(why) => self.broken = Some(why.to_owned()),
        }
        self.go_on(at, shard);
    }

    /// Opens what may be opened; closes the channel when all is done.
    fn go_on(&mut self, at: (ClientLink, ChannelId), shard: &mut Loop) {
        if !self.ready || self.broken.is_some() || self.closing {
            return;
        }
        let over = self.moves.iter().filter(|one| one.over).count();
        while self.next < self.moves.len() && self.next - over < self.plan.at_once {
            let path = self.plan.moves[self.next].number.to_string();
            let ticket = self.next as u32 * STEPS + OPEN;
            self.next += 1;
            let flags = open::READ | open::WRITE;
            let operation =
                Operation::Open { path: path.as_bytes(), flags, attributes: Attributes::EMPTY };
            with_files(shard, at, |client, io| assert!(client.ask(ticket, &operation, io)));
        }
        if over == self.moves.len() {
            self.closing = true;
            shard.close_channel(at.0, at.1);
        }
    }

    fn start(
        &self,
        number: usize,
        at: (ClientLink, ChannelId),
        shard: &mut Loop,
        world: &SimWorld,
    ) {
        let (plan, one) = (&self.plan.moves[number], &self.moves[number]);
        let handle = one.handle.clone().expect("a handle");
        let fd = world.open_file(one.ours);
        let stretch = Stretch { there: plan.there, here: 0, len: plan.len };
        let (ticket, moved) = (number as u32 * STEPS + MOVE, Rc::clone(&one.moved));
        let mut taken = false;
        with_files(shard, at, |client, io| {
            let behind = Behind::default();
            client.start_move((ticket, behind), plan.way, (&handle, fd), (stretch, moved), io);
            taken = true;
        });
        if !taken {
            world.close(fd);
        }
    }

    fn verdict(&self, world: &SimWorld, there: &SharedFiles) -> Result<(), String> {
        for (plan, one) in self.plan.moves.iter().zip(&self.moves) {
            plan.check(one, world, there);
        }
        let expected = |(plan, one): (&MovePlan, &MoveState)| one.over && plan.expects(one);
        match self.plan.moves.iter().zip(&self.moves).all(expected) && self.broken.is_none() {
            true => Ok(()),
            false => Err(format!("{self:?}")),
        }
    }
}

impl MovePlan {
    /// Bytes that can be moved.
    fn bytes(&self) -> u64 {
        match self.way {
            Way::Get => self.len.min(self.file_len.saturating_sub(self.there)),
            Way::Put => self.len.min(self.file_len),
        }
    }

    fn expects(&self, one: &MoveState) -> bool {
        let fails = self.fails_at.is_some_and(|at| self.there + self.bytes() > at);
        match &one.outcome {
            Some(Moved::There { .. }) => fails,
            Some(Moved::Whole) => !fails && self.bytes() == self.len,
            Some(Moved::Short(at)) => !fails && *at == self.bytes() && *at < self.len,
            _ => false,
        }
    }

    /// What is said to be moved is, and nothing else was written anywhere.
    fn check(&self, one: &MoveState, world: &SimWorld, there: &SharedFiles) {
        let bytes = match self.way {
            Way::Get => world.contents(one.ours),
            Way::Put => {
                let files = there.borrow();
                let stored = &files[self.number as usize].stored;
                assert!(stored.iter().take(self.there as usize).all(|byte| *byte == 0));
                stored.get(self.there as usize..).unwrap_or_default().to_vec()
            }
        };
        assert!(bytes.len() as u64 <= self.bytes(), "{} bytes of {self:?}", bytes.len());
        let mut expected = vec![0; bytes.len()];
        content(self.seed, self.there, &mut expected);
        let whole = matches!(one.outcome, Some(Moved::Whole | Moved::Short(_)));
        let same = |(is, should): (&u8, &u8)| is == should || !whole && *is == 0;
        assert!(bytes.iter().zip(&expected).all(same), "{self:?}: {one:?}");
        let moved = one.moved.get();
        assert!(moved <= bytes.len() as u64, "{moved} are said to be moved, {one:?}");
        if whole {
            assert_eq!(
                (moved, bytes.len() as u64),
                (self.bytes(), self.bytes()),
                "{self:?}: {one:?}"
            );
        }
    }
}
