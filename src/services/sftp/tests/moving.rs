//! Sessions that go on in another process, at any point.

use std::os::fd::{AsFd, IntoRawFd};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read};

use super::*;
use crate::reactor::Fd;
use crate::services::forward::Note;
use crate::services::{Files, Quota};

/// Requests of a script, on handles that are open from the beginning.
#[derive(Clone, Debug)]
enum Step {
    Read {
        at: u32,
        len: u32,
    },
    Write {
        at: u32,
        len: u32,
    },
    Append {
        len: u32,
    },
    /// To a handle that nobody has, or to one that is only read.
    Vain {
        len: u32,
        reading: bool,
    },
    /// A WRITE that is longer than its data.
    Trailing {
        len: u32,
        more: u32,
    },
    List,
    Look(u8),
    Make(u8),
    Copy {
        len: u32,
    },
    Flush,
    Unknown {
        len: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u32..300_000, 1u32..70_000).prop_map(|(at, len)| Step::Read { at, len }),
        4 => (0u32..100_000, 0u32..70_000).prop_map(|(at, len)| Step::Write { at, len }),
        2 => (0u32..20_000).prop_map(|len| Step::Append { len }),
        1 => (0u32..40_000, any::<bool>()).prop_map(|(len, reading)| Step::Vain { len, reading }),
        1 => (0u32..9_000, 1u32..3_000).prop_map(|(len, more)| Step::Trailing { len, more }),
        1 => Just(Step::List),
        3 => (0u8..7).prop_map(Step::Look),
        2 => (0u8..6).prop_map(Step::Make),
        1 => (0u32..50_000).prop_map(|len| Step::Copy { len }),
        1 => Just(Step::Flush),
        1 => (0u32..40_000).prop_map(|len| Step::Unknown { len }),
    ]
}

/// How a script is sent, cut into pieces: what happens around each.
#[derive(Clone, Copy, Debug)]
struct Piece {
    bytes: usize,
    frozen: bool,
    deaf: bool,
    moves: bool,
}

fn piece() -> impl Strategy<Value = Piece> {
    let bytes = prop_oneof![1usize..60, 60usize..5_000, 5_000usize..60_000];
    (bytes, any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(bytes, frozen, deaf, moves)| Piece { bytes, frozen, deaf, moves })
}

struct Session {
    home: TempDir,
    rig: Rig,
    from: Vec<u8>,
    to: Vec<u8>,
    log: Vec<u8>,
    list: Vec<u8>,
}

const SOURCE_BYTES: usize = 280_000;

fn session(setup: Setup) -> Session {
    let home = home();
    files::write(home.path().join("from"), pattern(SOURCE_BYTES)).expect("written");
    files::create_dir(home.path().join("many")).expect("made");
    for n in 0..400 {
        files::write(home.path().join(format!("many/{n}")), b"").expect("written");
    }
    let mut rig = Rig::greeted_with(home.path(), setup);
    // A place in the table that is free, so that places are no mere numbering.
    let gone = rig.open("from", open::READ);
    let from = rig.open("from", open::READ);
    let to = rig.open("to", NEW | open::READ);
    let log = rig.open("log", NEW | open::APPEND);
    let Got::Handle(list) = rig.call(Operation::OpenDirectory { path: b"many" }) else {
        panic!("no handle")
    };
    assert_eq!(rig.call(Operation::Close { handle: &gone }).code(), 0);
    Session { home, rig, from, to, log, list }
}

impl Session {
    fn encode(&self, id: u32, step: &Step) -> Vec<u8> {
        let Session { from, to, log, list, .. } = self;
        let data = |len: u32| pattern((len + id) as usize).split_off(id as usize);
        encode(
            id,
            match *step {
                Step::Read { at, len } => Operation::Read { handle: from, offset: at.into(), len },
                Step::Write { at, len } => {
                    let (offset, data) = (at.into(), &data(len));
                    return encode(id, Operation::Write { handle: to, offset, data });
                }
                Step::Append { len } => {
                    return encode(
                        id,
                        Operation::Write { handle: log, offset: 3, data: &data(len) },
                    );
                }
                Step::Vain { len, reading } => {
                    let handle = if reading { from } else { &b"none"[..] };
                    return encode(id, Operation::Write { handle, offset: 0, data: &data(len) });
                }
                Step::Trailing { len, more } => {
                    let write = Operation::Write { handle: to, offset: 9, data: &data(len) };
                    let mut request = encode(id, write);
                    request.resize(request.len() + more as usize, 7);
                    let whole = (request.len() - 4) as u32;
                    request[..4].copy_from_slice(&whole.to_be_bytes());
                    return request;
                }
                Step::List => Operation::ReadDirectory { handle: list },
                Step::Look(0) => Operation::Stat { path: b"to" },
                Step::Look(1) => Operation::LinkStat { path: b"missing" },
                Step::Look(2) => Operation::HandleStat { handle: to },
                Step::Look(3) => Operation::RealPath { path: b"many/../to" },
                Step::Look(4) => Operation::Stat { path: b"n\0ul" },
                Step::Look(5) => Operation::Limits,
                Step::Look(_) => Operation::ReadLink { path: b"link" },
                Step::Make(0) => {
                    Operation::MakeDirectory { path: b"made", attributes: Default::default() }
                }
                Step::Make(1) => Operation::RemoveDirectory { path: b"made" },
                Step::Make(2) => Operation::SymbolicLink { target: b"to", path: b"link" },
                Step::Make(3) => Operation::Remove { path: b"link" },
                Step::Make(4) => Operation::Rename { from: b"link", to: b"made" },
                Step::Make(_) => Operation::HandleSetStat {
                    handle: to,
                    attributes: Attributes { size: Some(7_000), ..Attributes::EMPTY },
                },
                Step::Copy { len } => {
                    Operation::CopyData { from, from_offset: 11, len: len.into(), to, to_offset: 5 }
                }
                Step::Flush => Operation::Fsync { handle: to },
                Step::Unknown { len } => {
                    return encode(id, Operation::Unknown { kind: 99, data: &data(len) });
                }
            },
        )
    }

    /// The replies by their requests, and what the files have become.
    fn run(mut self, steps: &[Step], pieces: &[Piece], moves: bool) -> Outcome {
        let numbered = || steps.iter().zip(1_000u32..);
        let script: Vec<u8> = numbered().flat_map(|(step, id)| self.encode(id, step)).collect();
        let mut rest = script.as_slice();
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(piece.bytes.min(rest.len()));
            rest = later;
            let roomy = self.rig.client_credit() as usize > 2 * now.len();
            (self.rig.frozen, self.rig.deaf) = (piece.frozen && roomy, piece.deaf && roomy);
            self.rig.send(now);
            if moves && piece.moves {
                self.rig.move_on();
            }
            (self.rig.frozen, self.rig.deaf) = (false, false);
        }
        self.rig.settle();
        let mut replies = Vec::new();
        for (id, got) in self.rig.take_replies() {
            let step = &steps[id as usize - 1_000];
            replies.push((id, settled(step, got)));
        }
        replies.sort_by_key(|(id, _)| *id);
        assert_eq!((self.rig.held(), self.rig.leases_out()), (0, 0));
        for handle in [&self.from, &self.to, &self.log, &self.list] {
            assert_eq!(self.rig.call(Operation::Close { handle }).code(), 0);
        }
        let read = |name| files::read(self.home.path().join(name)).expect("read");
        let files = (read("to"), read("log"));
        self.rig.cut();
        Outcome { replies, files }
    }
}

#[derive(Debug, PartialEq)]
struct Outcome {
    replies: Vec<(u32, Got)>,
    files: (Vec<u8>, Vec<u8>),
}

/// What does not depend on time, nor on how much of the window was there.
fn settled(step: &Step, got: Got) -> Got {
    match (step, got) {
        (Step::Read { at, len }, Got::Data(data)) => {
            let there = &pattern(SOURCE_BYTES)[*at as usize..];
            assert!(!data.is_empty() && data.len() <= *len as usize);
            assert!(data == there[..data.len()], "other bytes");
            Got::Data(Vec::new())
        }
        (_, Got::Attributes(attributes)) => {
            Got::Attributes(Attributes { times: None, ..attributes })
        }
        (Step::Look(3), Got::Names(names)) => {
            assert!(names[0].0.ends_with(b"/to"));
            Got::Names(Vec::new())
        }
        (_, Got::Names(names)) => {
            let short =
                |(name, _, _): &(Vec<u8>, _, _)| (name.clone(), Vec::new(), Attributes::EMPTY);
            Got::Names(names.iter().map(short).collect())
        }
        (_, got) => got,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_session_that_moves_answers_as_one_that_stays(
        steps in proptest::collection::vec(step(), 1..40),
        pieces in proptest::collection::vec(piece(), 1..20),
        window_bytes in 40_000u32..400_000,
        shuffle in any::<bool>(),
        short in any::<bool>(),
    ) {
        let run = |moves| {
            let mut session = session(Setup { window_bytes, ..Setup::default() });
            session.rig.faults = Faults { shuffle, short, ..Faults::default() };
            session.run(&steps, &pieces, moves)
        };
        prop_assert_eq!(run(true), run(false));
    }

    /// What makes no sense is an error, and what it brought along is closed.
    #[test]
    fn luggage_that_makes_no_sense_is_an_error(
        steps in proptest::collection::vec(step(), 0..12),
        cut in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        (truncate, forget) in (any::<bool>(), any::<bool>()),
    ) {
        let mut session = fenced();
        let script: Vec<u8> =
            steps.iter().zip(1_000..).flat_map(|(step, id)| session.encode(id, step)).collect();
        session.rig.frozen = true;
        session.rig.send(&script[..cut.index(script.len() + 1).min(1 << 20)]);
        let mut luggage = session.rig.pack();
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).expect("a pipe");
        // The first is the root's.
        for fd in luggage.descriptors.iter_mut().skip(1) {
            nix::unistd::close(fd.0).expect("closed");
            *fd = Fd(writer.as_fd().try_clone_to_owned().expect("another").into_raw_fd());
        }
        for (at, byte) in &changes {
            let at = at.index(luggage.bytes.len());
            luggage.bytes[at] = *byte;
        }
        if truncate {
            luggage.bytes.truncate(cut.index(luggage.bytes.len()));
        }
        if forget && let Some(fd) = luggage.descriptors.pop() {
            nix::unistd::close(fd.0).expect("closed");
        }
        match session.rig.unpack(&luggage) {
            Ok(()) => {
                session.rig.settle();
                session.rig.cut();
            }
            Err(_) => prop_assert!(truncate || forget || !changes.is_empty()),
        }
        drop(writer);
        prop_assert_eq!(read(&reader, &mut [0]), Ok(0), "a descriptor is open");
    }
}

fn fenced() -> Session {
    // The root is the home, where the session sees it as `/`.
    let home = home();
    files::write(home.path().join("from"), pattern(1_000)).expect("written");
    files::create_dir(home.path().join("many")).expect("made");
    let root = Root::Unopened(Arc::new(Files::all(home.path().to_owned())));
    let setup = Setup { root, ..Setup::default() };
    let mut rig = Rig::with(Path::new("/"), setup);
    rig.send(&rig::init());
    rig.settle();
    rig.take_replies();
    let from = rig.open("/from", open::READ);
    let to = rig.open("to", NEW | open::READ);
    let log = rig.open("log", NEW | open::APPEND);
    let Got::Handle(list) = rig.call(Operation::OpenDirectory { path: b"many" }) else {
        panic!("no handle")
    };
    Session { home, rig, from, to, log, list }
}

/// The root is the very directory that it was, whatever is found under its name by then.
#[test]
fn what_is_kept_in_a_directory_is_kept_there_elsewhere() {
    let mut session = fenced();
    let (home, rig) = (session.home.path(), &mut session.rig);
    let away = home.with_extension("away");
    files::rename(home, &away).expect("renamed");
    files::create_dir(home).expect("made");
    files::write(home.join("other"), b"").expect("written");
    std::os::unix::fs::symlink("/proc", away.join("out")).expect("linked");
    rig.move_on();
    for (path, found) in [
        ("/from", true),
        ("from", true),
        ("../../from", true),
        ("other", false),
        ("out/self", false),
    ] {
        let got = rig.call(Operation::Stat { path: path.as_bytes() });
        assert_eq!(matches!(got, Got::Attributes(_)), found, "{path}: {got:?}");
    }
    assert_eq!(rig.call(Operation::Read { handle: &session.from, offset: 999, len: 9 }), {
        Got::Data(pattern(1_000)[999..].to_vec())
    });
    rig.cut();
    files::remove_dir_all(away).expect("removed");
}

#[test]
fn a_session_moves_before_it_begins_and_none_that_has_a_quota() {
    let home = home();
    files::write(home.path().join("from"), b"x").expect("written");
    let mut rig = Rig::with(home.path(), Setup::default());
    let hello = rig::init();
    rig.send(&hello[..6]);
    rig.move_on();
    rig.send(&hello[6..]);
    rig.settle();
    assert!(matches!(rig.take_replies().as_slice(), [(0, Got::Version)]));
    rig.open("from", open::READ);
    rig.cut();

    let quota = Quota { bytes: Some(1_000), files: None };
    let all = Files { quota, ..Files::all(home.path().to_owned()) };
    let setup = Setup { root: Root::Unopened(Arc::new(all)), ..Setup::default() };
    let mut rig = Rig::with(Path::new("/"), setup);
    assert!(rig.sftp.may_move());
    rig.send(&hello);
    assert!(!rig.sftp.may_move());
    rig.settle();
    assert!(!rig.sftp.may_move());
    rig.cut();
}

/// As many requests as a client likes to have under way, and a move whenever something has come.
#[test]
fn transfers_at_full_speed_move_again_and_again() {
    let home = home();
    let content = pattern(3_000_000);
    files::write(home.path().join("from"), &content).expect("written");
    let mut rig =
        Rig::greeted_with(home.path(), Setup { window_bytes: 1 << 20, ..Setup::default() });
    let handle = rig.open("from", open::READ);
    let mut asked: Vec<(u32, u64)> = Vec::new();
    rig.frozen = true;
    for at in (0..content.len() as u64).step_by(30_000) {
        asked.push((rig.ask(Operation::Read { handle: &handle, offset: at, len: 30_000 }), at));
    }
    let (mut moved, mut most) = (0, 0);
    while !asked.is_empty() {
        rig.frozen = true;
        rig.turn();
        most = most.max(rig.ops.len());
        rig.move_on();
        moved += 1;
        for (id, got) in rig.take_replies() {
            let at = asked.iter().position(|(of, _)| *of == id).expect("asked for");
            let (_, offset) = asked.swap_remove(at);
            let Got::Data(data) = got else { panic!("{got:?}") };
            assert!(data == content[offset as usize..][..30_000]);
        }
    }
    assert!(moved > 4 && most > 4, "{moved} moves, {most} at once");
    let handle = rig.open("to", NEW);
    let writes = content.chunks(32 << 10).zip(0u32..);
    let stream: Vec<u8> = writes
        .flat_map(|(data, n)| {
            let offset = u64::from(n) * (32 << 10);
            encode(n, Operation::Write { handle: &handle, offset, data })
        })
        .collect();
    for piece in stream.chunks(100_000) {
        rig.frozen = rig.client_credit() > 300_000;
        rig.send(piece);
        rig.move_on();
    }
    rig.settle();
    let replies = rig.take_replies();
    assert_eq!(replies.len(), content.len().div_ceil(32 << 10));
    assert!(replies.iter().all(|(_, got)| got.code() == 0));
    assert!(files::read(home.path().join("to")).expect("read") == content);
    assert_eq!((rig.held(), rig.leases_out()), (0, 0));
    rig.cut();
}

/// More than can travel has come: what can be done is done first.
#[test]
fn what_is_too_much_to_carry_is_written_first() {
    let home = home();
    let content = pattern(1_500_000);
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("to", NEW);
    rig.ops_frozen = true;
    let stream: Vec<u8> = content
        .chunks(32 << 10)
        .zip(0u32..)
        .flat_map(|(data, n)| {
            let offset = u64::from(n) * (32 << 10);
            encode(n, Operation::Write { handle: &handle, offset, data })
        })
        .collect();
    rig.send(&stream);
    assert!(rig.sftp.input.held_bytes() > 500_000);
    rig.move_on();
    assert!(rig.sftp.input.held_bytes() < 200_000);
    rig.settle();
    assert_eq!(rig.take_replies().len(), content.len().div_ceil(32 << 10));
    assert!(files::read(home.path().join("to")).expect("read") == content);
    rig.cut();
}

#[test]
fn a_copy_goes_on_where_it_was() {
    let home = home();
    let size = 70 << 20;
    let file = files::File::create(home.path().join("from")).expect("made");
    file.set_len(size).expect("long");
    file.write_all_at(b"end", size - 3).expect("written");
    for len in [0, size - 5] {
        let mut rig = Rig::greeted(home.path());
        let (from, to) = (rig.open("from", open::READ), rig.open("to", NEW));
        rig.frozen = true;
        let ask = Operation::CopyData { from: &from, from_offset: 1, len, to: &to, to_offset: 2 };
        rig.ask(ask);
        rig.settle();
        assert_eq!(rig.jobs.len(), 1);
        rig.move_on();
        assert_eq!(rig.jobs.len(), 1, "there is more of it");
        rig.settle();
        let replies = rig.take_replies();
        assert!(matches!(replies.as_slice(), [(_, got)] if got.code() == 0), "{replies:?}");
        let (copied, end) = if len == 0 { (size - 1, "end") } else { (len, "\0\0\0") };
        let to = files::File::open(home.path().join("to")).expect("open");
        assert_eq!(to.metadata().expect("there").len(), 2 + copied);
        let mut last = [1; 3];
        to.read_exact_at(&mut last, 2 + copied - 3).expect("read");
        assert_eq!(last, end.as_bytes());
        rig.cut();
    }
}

/// An audit hears of a file what it has moved before and behind a move.
#[test]
fn an_audit_adds_up_what_was_moved_on_both_sides() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    rig.sftp.watch();
    let handle = rig.open("to", NEW | open::READ);
    let write = |rig: &mut Rig, offset, data: &[u8]| {
        assert_eq!(rig.call(Operation::Write { handle: &handle, offset, data }).code(), 0);
    };
    write(&mut rig, 0, &[1; 1_000]);
    rig.move_on();
    write(&mut rig, 1_000, &[2; 500]);
    rig.call(Operation::Read { handle: &handle, offset: 0, len: 70 });
    rig.move_on();
    assert_eq!(rig.call(Operation::Close { handle: &handle }).code(), 0);
    let told: Vec<_> = rig
        .notes
        .iter()
        .filter_map(|note| match note {
            Note::File(event) => Some((event.operation, event.path.clone(), event.moved)),
            _ => None,
        })
        .collect();
    let path = home.path().join("to").as_os_str().as_bytes().to_vec();
    assert_eq!(told, [("open_write", path.clone(), None), ("close", path, Some((70, 1_500)))]);
    rig.cut();
}

/// The one that could not leave goes on where it is.
#[test]
fn a_session_that_halts_goes_on() {
    let mut session = session(Setup::default());
    let rig = &mut session.rig;
    rig.frozen = true;
    let content = pattern(100_000);
    rig.send(
        &encode(7, Operation::Write { handle: &session.to, offset: 0, data: &content })[..50_000],
    );
    let luggage = rig.pack();
    assert_eq!(luggage.descriptors.len(), 4);
    rig.unpack(&luggage).expect("unpacked again");
    rig.send(
        &encode(7, Operation::Write { handle: &session.to, offset: 0, data: &content })[50_000..],
    );
    rig.settle();
    assert!(matches!(rig.take_replies().as_slice(), [(7, got)] if got.code() == 0));
    assert!(files::read(session.home.path().join("to")).expect("read") == content);
    rig.cut();
}
