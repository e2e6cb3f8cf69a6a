use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::*;
use crate::base::{Few, SeededEntropy, Span};
use crate::limits::HEADROOM;
use crate::reactor::{
    Chunk, Class, Completion, Driver, Errno, Fd, Full, Gather, Lease, Op, PoolSizes, Spans, Target,
    Token,
};

const POOL: PoolSizes = PoolSizes { small: 16, packet: 64, bulk: 16 };

/// A program over a driver: asks again when the driver is full, keeps what completed.
struct Program {
    driver: SimDriver,
    refused: VecDeque<(Token, Op)>,
    out: Vec<Completion>,
}

impl Program {
    fn new(world: &SimWorld) -> Program {
        Program { driver: world.driver(POOL), refused: VecDeque::new(), out: Vec::new() }
    }

    fn submit(&mut self, key: u32, tag: u16, op: Op) {
        let token = Token { key, generation: 0, tag };
        if let Err(Full(op)) = self.driver.submit(token, op) {
            self.refused.push_back((token, op));
        }
    }

    fn turn(&mut self) -> Vec<Completion> {
        for _ in 0..self.refused.len() {
            if let Some((token, op)) = self.refused.pop_front() {
                self.submit(token.key, token.tag, op);
            }
        }
        self.driver.wait(None, &mut self.out).unwrap();
        std::mem::take(&mut self.out)
    }

    fn packet(&mut self, bytes: &[u8]) -> Gather {
        let mut lease = self.driver.pool().take(Class::Packet).unwrap();
        self.driver.pool().bytes(&mut lease)[..bytes.len()].copy_from_slice(bytes);
        gather(lease, Span::new(0, bytes.len() as u32))
    }

    fn room(&mut self, spans: &[(u32, u32)]) -> Target {
        let lease = self.driver.pool().take(Class::Packet).unwrap();
        Target::Owned { lease, spans: list(spans) }
    }

    fn bytes(&mut self, op: &Op, len: u32) -> Vec<u8> {
        let (Op::Recv { into: Target::Owned { lease, spans }, .. }
        | Op::Read { into: Target::Owned { lease, spans }, .. }
        | Op::ReadAt { lease, spans, .. }) = op
        else {
            return Vec::new();
        };
        let view = self.driver.pool().view(lease);
        let mut bytes = Vec::new();
        for span in spans.iter() {
            let left = len as usize - bytes.len();
            let part = span.of(view).unwrap();
            bytes.extend_from_slice(&part[..left.min(part.len())]);
        }
        bytes
    }

    /// Runs the world until something completes here.
    fn next(&mut self, world: &SimWorld) -> Completion {
        loop {
            let mut done = self.turn();
            if let Some(first) = done.pop() {
                self.out = done;
                return first;
            }
            assert!(world.busy() || world.advance_to_next_event(), "nothing will happen");
        }
    }

    fn dissolve(&mut self, done: Completion) {
        done.op.dissolve(self.driver.pool());
    }
}

fn list(spans: &[(u32, u32)]) -> Spans {
    let mut few = Spans::new();
    spans.iter().for_each(|(at, len)| few.push(Span::new(*at, *len)).unwrap());
    few
}

fn gather(lease: Lease, span: Span) -> Gather {
    let mut gather = Few::new();
    gather.push(Chunk { lease, span }).unwrap();
    gather
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::base::Entropy::fill(&mut SeededEntropy::new(seed), &mut bytes);
    bytes
}

const RECV: u16 = 0;
const SEND: u16 = 1;
const LISTENER: u32 = u32::MAX;

/// Sends back whatever comes, per connection one packet at a time.
struct Echo {
    program: Program,
    listener: Fd,
    conns: BTreeMap<u32, Fd>,
    next: u32,
    accepting: bool,
}

impl Echo {
    fn new(world: &SimWorld) -> Echo {
        let mut program = Program::new(world);
        let listener = world.listen();
        program.submit(LISTENER, RECV, Op::Accept { listener });
        Echo { program, listener, conns: BTreeMap::new(), next: 0, accepting: true }
    }

    fn turn(&mut self) {
        for done in self.program.turn() {
            if done.token.key == LISTENER {
                self.accepted(done);
            } else {
                self.moved(done);
            }
        }
    }

    fn accepted(&mut self, done: Completion) {
        match done.result {
            Ok(fd) => {
                let fd = Fd(fd as i32);
                self.conns.insert(self.next, fd);
                self.program.submit(self.next, RECV, Op::Recv { fd, into: Target::Shared });
                self.next += 1;
            }
            Err(Errno(libc::ECANCELED)) => {}
            Err(errno) => assert_eq!(errno, Errno(libc::EMFILE)),
        }
        if !done.more {
            self.accepting = false;
            if done.result != Err(Errno(libc::ECANCELED)) {
                self.accepting = true;
                self.program.submit(LISTENER, RECV, Op::Accept { listener: self.listener });
            }
        }
    }

    fn moved(&mut self, done: Completion) {
        let key = done.token.key;
        let fd = self.conns[&key];
        match (done.op, done.result) {
            (Op::Recv { into: Target::Owned { lease, spans }, .. }, Ok(len)) => {
                let span = *spans.front().unwrap();
                assert_eq!(span, Span::new(HEADROOM, len));
                self.program.submit(key, SEND, Op::Send { fd, from: gather(lease, span) });
            }
            (op @ Op::Send { .. }, Ok(_)) => {
                op.dissolve(self.program.driver.pool());
                self.program.submit(key, RECV, Op::Recv { fd, into: Target::Shared });
            }
            (op, _) => {
                op.dissolve(self.program.driver.pool());
                self.program.driver.close(fd);
                self.conns.remove(&key);
            }
        }
    }
}

/// Sends a pattern, ends its sending direction, and collects what comes back.
struct Caller {
    fd: Fd,
    sends: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
    in_flight: u32,
    over: Option<Result<(), Errno>>,
}

struct Callers {
    program: Program,
    entropy: SeededEntropy,
    callers: Vec<Caller>,
}

impl Callers {
    fn new(world: &SimWorld, listener: Fd, count: u64, seed: u64) -> Callers {
        let mut callers = Callers {
            program: Program::new(world),
            entropy: SeededEntropy::new(seed),
            callers: Vec::new(),
        };
        for number in 0..count {
            let Ok(fd) = world.connect(listener) else { continue };
            let len = callers.entropy.below(40_000) as usize;
            let sends = pattern(seed ^ number, len);
            let key = callers.callers.len();
            let caller = Caller { fd, sends, sent: 0, got: Vec::new(), in_flight: 0, over: None };
            callers.callers.push(caller);
            callers.send(key);
            callers.receive(key);
        }
        callers
    }

    fn send(&mut self, key: usize) {
        let Caller { fd, sent, .. } = self.callers[key];
        let left = self.callers[key].sends.len() - sent;
        if left == 0 {
            self.program.driver.shutdown_send(fd);
            return;
        }
        let len = left.min(1 + self.entropy.below(20_000) as usize);
        let bytes = self.callers[key].sends[sent..sent + len].to_vec();
        let from = self.program.packet(&bytes);
        self.callers[key].in_flight += 1;
        self.program.submit(key as u32, SEND, Op::Send { fd, from });
    }

    fn receive(&mut self, key: usize) {
        let fd = self.callers[key].fd;
        let into = if self.entropy.below(2) == 0 {
            Target::Shared
        } else {
            self.program.room(&[(10, 1), (100, 2_000), (5_000, 7)])
        };
        self.callers[key].in_flight += 1;
        self.program.submit(key as u32, RECV, Op::Recv { fd, into });
    }

    fn turn(&mut self) {
        for done in self.program.turn() {
            let key = done.token.key as usize;
            let (tag, result) = (done.token.tag, done.result);
            if let (RECV, Ok(len)) = (tag, result) {
                let bytes = self.program.bytes(&done.op, len);
                self.callers[key].got.extend(bytes);
            }
            self.program.dissolve(done);
            let caller = &mut self.callers[key];
            caller.in_flight -= 1;
            match (tag, result) {
                (_, Err(errno)) => caller.over = Some(Err(errno)),
                (RECV, Ok(0)) => caller.over = caller.over.or(Some(Ok(()))),
                _ if caller.over.is_some() => {}
                (SEND, Ok(len)) => {
                    caller.sent += len as usize;
                    self.send(key);
                }
                _ => self.receive(key),
            }
            let caller = &self.callers[key];
            if caller.over.is_some() && caller.in_flight == 0 {
                self.program.driver.close(caller.fd);
            } else if caller.over.is_some() {
                for tag in [RECV, SEND] {
                    let token = Token { key: key as u32, generation: 0, tag };
                    self.program.driver.cancel(token);
                    self.cancel_refused(token);
                }
            }
        }
    }

    /// What the driver never took needs no completion.
    fn cancel_refused(&mut self, token: Token) {
        let refused = &mut self.program.refused;
        if let Some(at) = refused.iter().position(|(waiting, _)| *waiting == token) {
            let (_, op) = refused.remove(at).unwrap();
            op.dissolve(self.program.driver.pool());
            let caller = &mut self.callers[token.key as usize];
            caller.in_flight -= 1;
            if caller.in_flight == 0 {
                self.program.driver.close(caller.fd);
            }
        }
    }

    fn done(&self) -> bool {
        self.callers.iter().all(|caller| caller.over.is_some() && caller.in_flight == 0)
    }
}

/// One world, echo server and callers, to the end. Answers the trace, the faults and how many
/// callers got everything back.
fn run(seed: u64, swarm: Swarm, heal_after: Option<Duration>) -> (u64, Faults, usize) {
    let intact = swarm.flip == Chance::NEVER;
    let world = SimWorld::new(seed, swarm);
    let mut echo = Echo::new(&world);
    let mut callers = Callers::new(&world, echo.listener, 12, seed);
    let heal_at = heal_after.map(|after| world.now().after(after));
    let mut steps = 0;
    while !(callers.done() && echo.conns.is_empty()) {
        steps += 1;
        assert!(steps < 2_000_000, "seed {seed} never ends");
        if heal_at.is_some_and(|at| at <= world.now()) {
            world.heal();
        }
        if world.busy() {
            echo.turn();
            callers.turn();
        } else {
            assert!(world.advance_to_next_event(), "seed {seed} is stuck: {:?}", world.faults());
        }
    }
    echo.program.driver.cancel(Token { key: LISTENER, generation: 0, tag: RECV });
    while echo.accepting && echo.program.refused.is_empty() {
        echo.turn();
        world.advance_to_next_event();
    }
    echo.program.refused.clear();
    echo.program.driver.close(echo.listener);
    world.check();
    echo.program.driver.check();
    callers.program.driver.check();
    assert_eq!(world.open_descriptors(), []);
    for caller in callers.callers.iter().filter(|_| intact) {
        assert!(caller.sends.starts_with(&caller.got), "seed {seed}: bytes changed");
        if caller.over == Some(Ok(())) && caller.sent == caller.sends.len() {
            assert_eq!(caller.got.len(), caller.sends.len(), "seed {seed}: bytes lost");
        }
    }
    let whole = callers.callers.iter().filter(|caller| caller.got == caller.sends).count();
    (world.trace(), world.faults(), whole)
}

#[test]
fn benign_faults_are_hidden_from_the_user() {
    let mut total = Faults::default();
    for seed in 0..60 {
        let swarm = Swarm::draw_benign(&mut SeededEntropy::new(seed));
        let (_, faults, whole) = run(seed, swarm, None);
        assert_eq!(whole, 12, "seed {seed}");
        total.shorts += faults.shorts;
        total.stalls += faults.stalls;
        total.starved += faults.starved;
        total.full += faults.full;
        total.interrupts += faults.interrupts;
    }
    println!("{total:?}");
    assert!(total.shorts > 0 && total.stalls > 0 && total.starved > 0);
    assert!(total.full > 0 && total.interrupts > 0);
}

#[test]
fn hostile_worlds_lose_connections_but_no_operation_and_no_lease() {
    let mut total = Faults::default();
    let mut whole = 0;
    for seed in 1000..1080 {
        let swarm = Swarm::draw(&mut SeededEntropy::new(seed));
        let (_, faults, survived) = run(seed, swarm, Some(Duration::from_secs(20)));
        total.resets += faults.resets;
        total.flips += faults.flips;
        total.accept_errors += faults.accept_errors;
        total.refused += faults.refused;
        total.cancels_lost += faults.cancels_lost;
        whole += survived;
    }
    println!("{total:?}, {whole} of 960 whole");
    assert!(total.resets > 0 && total.flips > 0 && total.accept_errors > 0 && total.refused > 0);
    assert!(whole > 480);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..8 {
        let swarm = Swarm::draw(&mut SeededEntropy::new(seed));
        let first = run(seed, swarm.clone(), None);
        assert_eq!(run(seed, swarm.clone(), None), first);
        assert_ne!(run(seed + 1, swarm, None).0, first.0);
    }
}

#[test]
fn delay_and_rate_take_their_time() {
    let swarm = Swarm {
        delay_max: Duration::ZERO,
        bytes_per_second: Some(1_000_000),
        socket_bytes: 1 << 20,
        ..Swarm::calm()
    };
    let world = SimWorld::new(1, swarm);
    let (near, far) = world.socket_pair();
    let start = world.now();
    assert_eq!(world.write(near, &[1; 500_000]), Ok(500_000));
    let (mut got, mut buffer) = (0, [0; 65_536]);
    while got < 500_000 {
        match world.read(far, &mut buffer) {
            Ok(len) => got += len,
            Err(errno) => {
                assert_eq!(errno, Errno(libc::EAGAIN));
                assert!(world.advance_to_next_event());
            }
        }
    }
    let taken = world.now().since(start);
    assert!(taken >= Duration::from_millis(490) && taken < Duration::from_millis(510), "{taken:?}");
}

#[test]
fn a_deadline_is_an_event() {
    let world = SimWorld::calm(1);
    let mut driver = world.driver(POOL);
    let until = world.now().after(Duration::from_secs(30));
    let mut out = Vec::new();
    driver.wait(Some(until), &mut out).unwrap();
    assert!(!world.busy());
    assert!(world.advance_to_next_event());
    assert_eq!(driver.now(), until);
    assert!(world.busy());
    driver.wait(Some(until), &mut out).unwrap();
    assert!(world.busy(), "it asked to be called again at once");
    driver.wait(None, &mut out).unwrap();
    assert!(!world.busy() && !world.advance_to_next_event());
}

#[test]
fn a_waker_makes_the_world_busy() {
    let world = SimWorld::calm(1);
    let mut driver = world.driver(POOL);
    driver.wait(None, &mut Vec::new()).unwrap();
    assert!(!world.busy());
    driver.waker().wake();
    assert!(world.busy());
    driver.wait(None, &mut Vec::new()).unwrap();
    assert!(!world.busy());
    assert_eq!(driver.stats().wakes, 1);
}

#[test]
fn sockets_half_close_and_reset() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (near, far) = world.socket_pair();
    world.write(far, b"last words").unwrap();
    world.shutdown_send(far);
    program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
    let done = program.next(&world);
    assert_eq!(program.bytes(&done.op, 10), b"last words");
    program.dissolve(done);
    program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
    let done = program.next(&world);
    assert_eq!(done.result, Ok(0));
    assert!(matches!(done.op, Op::Recv { into: Target::Shared, .. }));
    let from = program.packet(b"still open this way");
    program.submit(1, SEND, Op::Send { fd: near, from });
    let done = program.next(&world);
    assert_eq!(done.result, Ok(19));
    program.dissolve(done);

    world.reset(far);
    program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
    assert_eq!(program.next(&world).result, Err(Errno(libc::ECONNRESET)));
    let from = program.packet(b"too late");
    program.submit(1, SEND, Op::Send { fd: near, from });
    let done = program.next(&world);
    assert_eq!(done.result, Err(Errno(libc::EPIPE)));
    program.dissolve(done);
    program.driver.close(near);
    world.close(far);
    program.driver.check();
    world.check();
}

#[test]
fn closing_with_unread_bytes_resets() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (near, far) = world.socket_pair();
    world.write(near, b"never read").unwrap();
    world.advance_to_next_event();
    world.close(far);
    program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
    assert_eq!(program.next(&world).result, Err(Errno(libc::ECONNRESET)));
    program.driver.shutdown(near);
    program.driver.close(near);
    program.driver.check();
}

#[test]
fn shutting_down_ends_operations_in_flight() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (near, far) = world.socket_pair();
    program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
    assert!(program.turn().is_empty());
    program.driver.shutdown(near);
    assert_eq!(program.next(&world).result, Ok(0));
    world.advance_to_next_event();
    assert_eq!(world.read(far, &mut [0; 1]), Ok(0));
    world.advance_to_next_event();
    assert_eq!(world.write(far, b"x"), Err(Errno(libc::EPIPE)));
}

#[test]
fn a_full_stream_takes_up_again_when_a_quarter_is_free() {
    let world = SimWorld::calm(1);
    let (reader, writer) = world.pipe();
    assert_eq!(world.write(writer, &[1; 70_000]), Ok(65_536));
    let mut read = vec![0; 16_383];
    assert_eq!(world.read(reader, &mut read), Ok(16_383));
    assert_eq!(world.write(writer, &[2; 1]), Err(Errno(libc::EAGAIN)));
    assert_eq!(world.read(reader, &mut read[..1]), Ok(1));
    assert_eq!(world.write(writer, &[2; 70_000]), Ok(16_384));
    world.close(reader);
    world.close(writer);
}

#[test]
fn pipes_terminals_and_exits() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (reader, writer) = world.pipe();
    program.submit(1, RECV, Op::Read { fd: reader, into: Target::Shared });
    assert!(program.turn().is_empty());
    world.write(writer, b"output").unwrap();
    let done = program.next(&world);
    assert_eq!(program.bytes(&done.op, 6), b"output");
    program.dissolve(done);
    world.close(writer);
    program.submit(1, RECV, Op::Read { fd: reader, into: Target::Shared });
    assert_eq!(program.next(&world).result, Ok(0));

    let (gone, stdin) = world.pipe();
    let bytes = vec![7; 30_000];
    let (mut written, mut rounds) = (0, 0);
    while rounds < 3 {
        let from = program.packet(&bytes);
        program.submit(2, SEND, Op::Write { fd: stdin, from });
        let done = program.turn();
        rounds += 1;
        for done in done {
            written += done.result.unwrap();
            program.dissolve(done);
        }
    }
    assert_eq!(written, 65_536, "the pipe is full; the third write was short");
    let from = program.packet(&bytes);
    program.submit(2, SEND, Op::Write { fd: stdin, from });
    assert!(program.turn().is_empty());
    world.close(gone);
    let done = program.next(&world);
    assert_eq!(done.result, Err(Errno(libc::EPIPE)));
    program.dissolve(done);

    let (master, slave) = world.terminal();
    world.write(slave, b"$ ").unwrap();
    world.close(slave);
    program.submit(3, RECV, Op::Read { fd: master, into: Target::Shared });
    let done = program.next(&world);
    assert_eq!(done.result, Ok(2));
    program.dissolve(done);
    program.submit(3, RECV, Op::Read { fd: master, into: Target::Shared });
    assert_eq!(program.next(&world).result, Err(Errno(libc::EIO)));

    let child = world.exit_event();
    program.submit(4, RECV, Op::Readable { fd: child });
    assert!(program.turn().is_empty());
    world.exit(child);
    assert_eq!(program.next(&world).result, Ok(libc::POLLIN as u32));
    program.driver.check();
}

#[test]
fn files_read_write_and_fail() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let file = world.create_file(pattern(5, 10_000));
    let fd = world.open_file(file);
    let lease = program.driver.pool().take(Class::Packet).unwrap();
    let spans = list(&[(64, 3_000), (4_000, 3_000)]);
    program.submit(1, RECV, Op::ReadAt { fd, at: 5_000, lease, spans });
    let done = program.next(&world);
    assert_eq!(done.result, Ok(5_000));
    assert!(program.bytes(&done.op, 5_000) == pattern(5, 10_000)[5_000..]);
    program.dissolve(done);
    let from = program.packet(b"patched");
    program.submit(1, SEND, Op::WriteAt { fd, at: 12_000, from });
    let done = program.next(&world);
    assert_eq!(done.result, Ok(7));
    program.dissolve(done);
    program.submit(1, SEND, Op::Fsync { fd });
    assert_eq!(program.next(&world).result, Ok(0));
    let contents = world.contents(file);
    assert_eq!(contents.len(), 12_007);
    assert!(contents[10_000..12_000].iter().all(|byte| *byte == 0));
    assert_eq!(&contents[12_000..], b"patched");

    let tight = Swarm { disk_bytes_max: 100, ..Swarm::calm() };
    let world = SimWorld::new(2, tight);
    let mut program = Program::new(&world);
    let file = world.create_file(vec![0; 90]);
    let fd = world.open_file(file);
    for (at, result) in [(95, Ok(5)), (100, Err(Errno(libc::ENOSPC)))] {
        let from = program.packet(&[1; 20]);
        program.submit(1, SEND, Op::WriteAt { fd, at, from });
        let done = program.next(&world);
        assert_eq!(done.result, result);
        program.dissolve(done);
    }

    let broken = Swarm { disk_error: Chance(300_000), ..Swarm::calm() };
    let world = SimWorld::new(3, broken);
    let mut program = Program::new(&world);
    let file = world.create_file(pattern(6, 1_000));
    let fd = world.open_file(file);
    let (mut failed, mut partial) = (0, false);
    for _ in 0..100 {
        let lease = program.driver.pool().take(Class::Packet).unwrap();
        program.submit(1, RECV, Op::ReadAt { fd, at: 0, lease, spans: list(&[(0, 1_000)]) });
        let done = program.next(&world);
        match done.result {
            Ok(len) => {
                assert!(!partial, "the error behind a short read is told next");
                partial = len < 1_000;
            }
            Err(errno) => {
                assert_eq!(errno, Errno(libc::EIO));
                (failed, partial) = (failed + 1, false);
            }
        }
        program.dissolve(done);
    }
    assert!(failed > 10);
    program.driver.check();
}

#[test]
fn cancelling_wins_or_loses() {
    for cancel_loses in [Chance::NEVER, Chance(1_000_000)] {
        let world = SimWorld::new(1, Swarm { cancel_loses, ..Swarm::calm() });
        let mut program = Program::new(&world);
        let (near, far) = world.socket_pair();
        let token = Token { key: 1, generation: 0, tag: RECV };
        program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
        assert!(program.turn().is_empty());
        program.driver.cancel(token);
        assert_eq!(
            program.next(&world).result,
            Err(Errno(libc::ECANCELED)),
            "nothing to run on for"
        );
        world.write(far, b"x").unwrap();
        world.advance_to_next_event();
        program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
        program.driver.cancel(token);
        let done = program.next(&world);
        let lost = cancel_loses != Chance::NEVER;
        assert_eq!(done.result, if lost { Ok(1) } else { Err(Errno(libc::ECANCELED)) });
        assert_eq!(world.faults().cancels_lost, u64::from(lost));
        program.dissolve(done);
        program.driver.check();
    }
}

#[test]
fn shared_receives_wait_for_a_lease() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (near, far) = world.socket_pair();
    let held: Vec<Lease> =
        std::iter::from_fn(|| program.driver.pool().take(Class::Small)).collect();
    world.write(far, b"x").unwrap();
    program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
    for _ in 0..10 {
        assert!(program.turn().is_empty());
        assert!(world.advance_to_next_event());
    }
    assert!(program.driver.stats().enobufs > 0);
    held.into_iter().for_each(|lease| program.driver.pool().give_back(lease));
    let done = program.next(&world);
    assert_eq!(done.result, Ok(1));
    program.dissolve(done);
    program.driver.check();
}

#[test]
fn dropping_a_driver_gives_its_leases_back() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (near, far) = world.socket_pair();
    let into = program.room(&[(0, 10)]);
    program.submit(1, RECV, Op::Recv { fd: near, into });
    program.turn();
    drop(program);
    world.check();
    world.close(near);
    world.close(far);
}

#[test]
#[should_panic(expected = "closed with operations in flight")]
fn closing_under_an_operation_is_caught() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (near, _) = world.socket_pair();
    program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
    program.driver.close(near);
}

#[test]
#[should_panic(expected = "closed twice")]
fn closing_twice_is_caught() {
    let world = SimWorld::calm(1);
    let (near, _) = world.socket_pair();
    world.close(near);
    world.close(near);
}

#[test]
#[should_panic(expected = "second transfer in flight")]
fn mixing_two_sends_is_caught() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (near, _) = world.socket_pair();
    for tag in [1, 2] {
        program.submit(1, tag, Op::Send { fd: near, from: Gather::new() });
    }
}

#[test]
#[should_panic(expected = "in flight")]
fn the_ledger_misses_nothing() {
    let world = SimWorld::calm(1);
    let mut program = Program::new(&world);
    let (near, _) = world.socket_pair();
    program.submit(1, RECV, Op::Recv { fd: near, into: Target::Shared });
    program.turn();
    program.driver.check();
}
