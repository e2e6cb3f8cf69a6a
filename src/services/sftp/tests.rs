mod hostile;
mod moving;
mod openssh;
mod rig;
mod stock;

use std::fs as files;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;
use rig::{Faults, Got, Rig, Setup, encode};
use tempfile::TempDir;

use super::*;
use crate::limits::{
    BULK_SLOTS_BUSY, CREDIT_TIME_MAX, SFTP_HANDLES_MAX, SFTP_NAMES_BYTES_MAX, WINDOW_BYTES,
    WINDOW_FAR_TIMES, WINDOW_TURN_FAR,
};
use crate::reactor::Class;
use crate::transport::RekeyLimits;
use crate::wire::Reader;
use crate::wire::sftp::{Attributes, Limits, Operation, VfsStatus, open};

const NEW: u32 = open::WRITE | open::CREATE | open::TRUNCATE;

fn home() -> TempDir {
    tempfile::tempdir().expect("home")
}

/// Bytes in which every place is told from its neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Reads the whole file with pipelined requests, asking again for what came short.
fn download(rig: &mut Rig, name: &str, size: u64, request: u32) -> Vec<u8> {
    let handle = rig.open(name, open::READ);
    let mut content = vec![0; size as usize];
    let mut wanted: Vec<(u64, u32)> = (0..size.div_ceil(request.into()))
        .map(|n| n * u64::from(request))
        .map(|at| (at, request.min((size - at) as u32)))
        .collect();
    let mut asked = Vec::new();
    while !wanted.is_empty() || !asked.is_empty() {
        for (offset, len) in wanted.drain(..) {
            let id = rig.ask(Operation::Read { handle: &handle, offset, len });
            asked.push((id, offset, len));
        }
        rig.settle();
        for (id, got) in rig.take_replies() {
            let at = asked.iter().position(|(of, ..)| *of == id).expect("asked for");
            let (_, offset, len) = asked.swap_remove(at);
            let Got::Data(data) = got else { panic!("{got:?} for {len} at {offset}") };
            assert!(!data.is_empty() && data.len() <= len as usize);
            content[offset as usize..][..data.len()].copy_from_slice(&data);
            if data.len() < len as usize {
                wanted.push((offset + data.len() as u64, len - data.len() as u32));
            }
        }
    }
    assert_eq!(rig.call(Operation::Close { handle: &handle }).code(), 0);
    content
}

/// Writes the whole file with pipelined requests in one stream of bytes cut into `piece`s.
fn upload(rig: &mut Rig, name: &str, content: &[u8], request: usize, piece: usize) {
    let handle = rig.open(name, NEW);
    let stream: Vec<u8> = content
        .chunks(request)
        .enumerate()
        .flat_map(|(n, data)| {
            let offset = (n * request) as u64;
            encode(1_000 + n as u32, Operation::Write { handle: &handle, offset, data })
        })
        .collect();
    rig.send_in(&stream, piece);
    rig.settle();
    let replies = rig.take_replies();
    assert_eq!(replies.len(), content.len().div_ceil(request));
    assert!(replies.iter().all(|(_, got)| got.code() == 0), "{replies:?}");
    assert_eq!(rig.call(Operation::Close { handle: &handle }).code(), 0);
}

#[test]
fn a_request_of_255_kib_is_answered_whole() {
    let home = home();
    let content = pattern(700_001);
    files::write(home.path().join("from"), &content).expect("written");
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("from", open::READ);
    let mut read = |offset, len| rig.call(Operation::Read { handle: &handle, offset, len });
    let Got::Data(data) = read(5, 261_120) else { panic!("no data") };
    assert!(data == content[5..][..261_120]);
    // Longer requests are capped, as OpenSSH caps them.
    let Got::Data(data) = read(0, u32::MAX) else { panic!("no data") };
    assert!(data == content[..261_120]);
    let Got::Data(data) = read(700_000, 100) else { panic!("no data") };
    assert_eq!(data, content[700_000..]);
    assert_eq!(read(700_001, 1).code(), 1);
    assert_eq!(read(1 << 62, 10).code(), 1);
    assert_eq!(read(0, 0), Got::Data(Vec::new()));
    // SECURITY 110.
    assert_eq!(read(1 << 63, 10).code(), 5);
    assert_eq!(read(u64::MAX, u32::MAX).code(), 5);
    assert_eq!(rig.leases_out(), 0);
}

/// How far away the client is shows in how long it takes to ask again.
#[test]
fn what_is_opened_for_writing_over_a_long_way_gets_a_window_for_it() {
    let home = home();
    files::write(home.path().join("from"), b"x").expect("written");
    let window = |rest, name, flags| {
        let mut rig = Rig::greeted(home.path());
        rig.rest(rest);
        rig.open(name, flags);
        rig.client_credit()
    };
    let (far, large) = (WINDOW_TURN_FAR, WINDOW_BYTES * (WINDOW_FAR_TIMES - 1));
    assert!(window(far, "to", NEW) > large);
    assert!(window(far, "from", open::READ) <= WINDOW_BYTES, "nothing comes");
    assert!(window(far / 2, "to", NEW) <= WINDOW_BYTES, "it is near");
}

#[test]
fn transfers_keep_every_byte() {
    let home = home();
    let content = pattern(1_200_017);
    files::write(home.path().join("from"), &content).expect("written");
    let mut rig = Rig::greeted(home.path());
    for request in [32_768, 261_120, 1_000_000] {
        assert!(download(&mut rig, "from", content.len() as u64, request) == content);
    }
    for (request, piece) in [(32_768, 32_768), (261_120, 32_768), (261_120, 5_000), (777, 24_576)] {
        upload(&mut rig, "to", &content, request, piece);
        assert!(files::read(home.path().join("to")).expect("read") == content);
    }
    assert_eq!(rig.leases_out(), 0);
}

/// SECURITY R13: short transfers, interruptions and any order of completion change nothing.
#[test]
fn transfers_survive_faults() {
    for seed in 0..8 {
        let home = home();
        let content = pattern(250_000 + seed as usize);
        files::write(home.path().join("from"), &content).expect("written");
        let mut rig = Rig::greeted_with(home.path(), Setup { seed, ..Setup::default() });
        rig.faults = Faults { short: true, interrupt: true, shuffle: true, ..Faults::default() };
        assert!(download(&mut rig, "from", content.len() as u64, 30_000) == content, "{seed}");
        upload(&mut rig, "to", &content, 20_000 + 3_000 * seed as usize, 9_999);
        assert!(files::read(home.path().join("to")).expect("read") == content, "{seed}");
        assert_eq!(rig.leases_out(), 0);
    }
}

#[test]
fn transfers_go_on_through_rekeying() {
    let home = home();
    let content = pattern(4_000_000);
    files::write(home.path().join("from"), &content).expect("written");
    let rekey = RekeyLimits { bytes: Some(900_000), ..RekeyLimits::default() };
    let mut rig = Rig::greeted_with(home.path(), Setup { rekey, ..Setup::default() });
    assert!(download(&mut rig, "from", content.len() as u64, 261_120) == content);
    upload(&mut rig, "to", &content, 261_120, 32_768);
    assert!(files::read(home.path().join("to")).expect("read") == content);
    assert_eq!(rig.leases_out(), 0);
}

/// Windows and packets much smaller than a reply: data comes in parts, other replies are cut.
#[test]
fn small_windows_get_everything_in_parts() {
    let home = home();
    let content = pattern(20_000);
    files::write(home.path().join("from"), &content).expect("written");
    for n in 0..40 {
        files::write(home.path().join(format!("file-{n:0200}")), "").expect("written");
    }
    for (window_bytes, packet_bytes) in [(16 << 10, 1 << 10), (4_000, 256), (300, 256)] {
        let setup = Setup { window_bytes, packet_bytes, ..Setup::default() };
        let mut rig = Rig::greeted_with(home.path(), setup);
        assert!(download(&mut rig, "from", 20_000, 32_768) == content, "{window_bytes}");
        assert_eq!(list(&mut rig, ".").len(), 43);
        upload(&mut rig, "to", &content[..10_000], 3_000, 500);
        files::remove_file(home.path().join("to")).expect("removed");
        assert_eq!(rig.leases_out(), 0);
    }
}

/// A client whose window has shrunk never grants what a whole reply needs. It gets parts then, after a
/// while.
#[test]
fn a_window_that_shrinks_ends_no_download() {
    let home = home();
    let content = pattern(20_000);
    files::write(home.path().join("from"), &content).expect("written");
    let setup = Setup { window_bytes: 6_000, packet_bytes: 256, ..Setup::default() };
    let mut rig = Rig::greeted_with(home.path(), setup);
    let handle = rig.open("from", open::READ);
    rig.withheld = 3_300;
    let (mut got, mut waits) = (Vec::new(), 0);
    while got.len() < content.len() {
        rig.ask(Operation::Read { handle: &handle, offset: got.len() as u64, len: 2_700 });
        rig.settle();
        let mut replies = rig.take_replies();
        if replies.is_empty() {
            assert_eq!(rig.sleep(), CREDIT_TIME_MAX);
            waits += 1;
            replies = rig.take_replies();
        }
        let [(_, Got::Data(data))] = replies.as_slice() else { panic!("{replies:?}") };
        got.extend_from_slice(data);
    }
    assert!(got == content);
    assert_eq!(waits, 1, "what the client gives is known now");
    assert_eq!(rig.leases_out(), 0);
}

/// DATA that has its credit never lands inside a reply that the window cut, wherever it cuts.
#[test]
fn replies_are_not_cut_while_data_is_on_its_way() {
    let home = home();
    files::write(home.path().join("file"), pattern(60)).expect("written");
    let mut met = false;
    for window_bytes in 80..140 {
        let setup = Setup { window_bytes, packet_bytes: 256, ..Setup::default() };
        let mut rig = Rig::greeted_with(home.path(), setup);
        let handle = rig.open("file", open::READ);
        rig.settle();
        (rig.deaf, rig.ops_frozen) = (true, true);
        let read = rig.ask(Operation::Read { handle: &handle, offset: 0, len: 20 });
        let stat = rig.ask(Operation::Stat { path: b"file" });
        rig.settle();
        let data_under_way = (rig.ops.len(), rig.jobs.len()) == (1, 0);
        rig.ops_frozen = false;
        rig.settle();
        rig.deaf = false;
        rig.settle();
        let mut replies = rig.take_replies();
        assert!(rig.received.is_empty(), "{window_bytes}");
        met |= data_under_way && replies.first().is_some_and(|(id, _)| *id == read);
        replies.sort_by_key(|(id, _)| *id);
        assert_eq!(replies.len(), 2, "{window_bytes}");
        assert_eq!(replies[0], (read, Got::Data(pattern(60)[..20].to_vec())), "{window_bytes}");
        assert!(matches!(replies[1], (id, Got::Attributes(_)) if id == stat), "{window_bytes}");
    }
    assert!(met, "a reply waits behind data at some of them");
}

fn list(rig: &mut Rig, path: &str) -> Vec<Vec<u8>> {
    let path = path.as_bytes();
    let Got::Handle(handle) = rig.call(Operation::OpenDirectory { path }) else {
        panic!("not opened")
    };
    let mut names = Vec::new();
    loop {
        match rig.call(Operation::ReadDirectory { handle: &handle }) {
            Got::Names(some) => names.extend(some.into_iter().map(|(name, ..)| name)),
            end => {
                assert_eq!(end.code(), 1);
                break;
            }
        }
    }
    assert_eq!(rig.call(Operation::ReadDirectory { handle: &handle }).code(), 1);
    assert_eq!(rig.call(Operation::Close { handle: &handle }).code(), 0);
    names
}

/// The draft, §4.1: the outcome is as if one request came after the other.
#[test]
fn pipelined_requests_keep_their_order() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    rig.faults.shuffle = true;
    let handle = rig.open("file", NEW | open::READ);
    let mut script = Vec::new();
    let mut expected = vec![0; 9_000];
    for n in 0..40u32 {
        // Overlapping writes, a look at the size, and a read of what was just written.
        let offset = u64::from(n % 7) * 1_000;
        let data = vec![n as u8; 2_000];
        expected[offset as usize..][..2_000].copy_from_slice(&data);
        script.extend(encode(10 * n, Operation::Write { handle: &handle, offset, data: &data }));
        if n % 3 == 0 {
            script.extend(encode(10 * n + 1, Operation::HandleStat { handle: &handle }));
            let read = Operation::Read { handle: &handle, offset, len: 2_000 };
            script.extend(encode(10 * n + 2, read));
        }
    }
    script.extend(encode(900, Operation::Close { handle: &handle }));
    script.extend(encode(901, Operation::Read { handle: &handle, offset: 0, len: 1 }));
    rig.send(&script);
    rig.settle();
    let mut size = 0;
    for (id, got) in rig.take_replies() {
        let n = id / 10;
        match id % 10 {
            _ if id == 900 => assert_eq!(got.code(), 0),
            _ if id == 901 => assert_eq!(got.code(), 4),
            0 => {
                assert_eq!(got.code(), 0);
                size = size.max(u64::from(n % 7) * 1_000 + 2_000);
            }
            1 => {
                let Got::Attributes(attributes) = got else { panic!("{got:?}") };
                assert_eq!(attributes.size, Some(size));
            }
            _ => assert_eq!(got, Got::Data(vec![n as u8; 2_000])),
        }
    }
    assert!(files::read(home.path().join("file")).expect("read") == expected[..8_000]);
}

/// paramiko drops an answer that overtakes another one and then waits for it for ever. Writes that
/// end last first, an empty one, one to no file and one that fails among them.
#[test]
fn writes_are_answered_in_the_order_in_which_they_came() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("file", NEW);
    let content = pattern(8_000);
    rig.ops_frozen = true;
    let mut script = Vec::new();
    for (n, data) in content.chunks(1_000).enumerate() {
        let (id, offset) = (10 * n as u32, 1_000 * n as u64);
        script.extend(encode(id, Operation::Write { handle: &handle, offset, data }));
        let (handle, data) = if n == 5 { (&b"gone"[..], data) } else { (&handle[..], &[][..]) };
        script.extend(encode(id + 1, Operation::Write { handle, offset, data }));
    }
    rig.send(&script);
    rig.settle();
    assert_eq!(rig.ops.len(), 8, "all are under way at once");
    assert_eq!(rig.take_replies(), [], "the first is not done");
    rig.faults.full_at = Some((6_500, nix::libc::ENOSPC));
    rig.ops.make_contiguous().reverse();
    rig.ops_frozen = false;
    rig.settle();
    let replies = rig.take_replies();
    let ids: Vec<u32> = replies.iter().map(|(id, _)| *id).collect();
    let expected: Vec<u32> = (0..8).flat_map(|n| [10 * n, 10 * n + 1]).collect();
    assert_eq!(ids, expected);
    let failed = replies.iter().filter(|(_, got)| got.code() != 0).map(|(id, _)| *id);
    assert_eq!(failed.collect::<Vec<_>>(), [51, 60, 70]);
    assert_eq!(rig.leases_out(), 0);
}

#[test]
fn appending_keeps_the_order_of_the_requests() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    rig.faults = Faults { short: true, interrupt: true, shuffle: true, ..Faults::default() };
    let handle = rig.open("log", open::WRITE | open::CREATE | open::APPEND);
    let content = pattern(50_000);
    // Offsets mean nothing when appending, not even impossible ones.
    let script: Vec<u8> = content
        .chunks(999)
        .enumerate()
        .flat_map(|(n, data)| {
            let offset = if n % 2 == 0 { 0 } else { u64::MAX };
            encode(n as u32, Operation::Write { handle: &handle, offset, data })
        })
        .collect();
    rig.send_in(&script, 2_000);
    rig.settle();
    assert!(rig.take_replies().iter().all(|(_, got)| got.code() == 0));
    assert!(files::read(home.path().join("log")).expect("read") == content);
}

/// SECURITY R11, R12: the failed request says so, the session goes on, and no OK is false.
#[test]
fn a_full_disk_fails_the_write_that_met_it() {
    for (errno, text) in [
        (nix::libc::ENOSPC, "No space left on device"),
        (nix::libc::EDQUOT, "Disk quota exceeded"),
        (nix::libc::EIO, "Input/output error"),
    ] {
        let home = home();
        let mut rig = Rig::greeted(home.path());
        rig.faults = Faults { full_at: Some((100_000, errno)), ..Faults::default() };
        let handle = rig.open("file", NEW);
        let content = pattern(300_000);
        let script: Vec<u8> = content
            .chunks(30_000)
            .enumerate()
            .flat_map(|(n, data)| {
                let offset = (n * 30_000) as u64;
                encode(n as u32, Operation::Write { handle: &handle, offset, data })
            })
            .collect();
        rig.send(&script);
        rig.settle();
        let replies = rig.take_replies();
        let codes: Vec<u32> = replies.iter().map(|(_, got)| got.code()).collect();
        assert_eq!(codes, [0, 0, 0, 4, 4, 4, 4, 4, 4, 4], "{errno}");
        assert_eq!(replies.last().map(|(_, got)| got), Some(&Got::Status(4, text.to_owned())));
        let on_disk = files::read(home.path().join("file")).expect("read");
        assert!(on_disk[..90_000] == content[..90_000], "what was confirmed is there");
        rig.faults = Faults::default();
        let again = Operation::Write { handle: &handle, offset: 0, data: b"works" };
        assert_eq!(rig.call(again).code(), 0);
        assert_eq!(rig.leases_out(), 0);
    }
}

#[test]
fn fsync_reports_what_the_disk_says() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("file", NEW);
    assert_eq!(rig.call(Operation::Fsync { handle: &handle }).code(), 0);
    rig.faults.interrupt = true;
    assert_eq!(rig.call(Operation::Fsync { handle: &handle }).code(), 0);
    rig.faults = Faults { sync: Some(nix::libc::EIO), ..Faults::default() };
    assert_eq!(rig.call(Operation::Fsync { handle: &handle }).code(), 4);
    assert_eq!(rig.call(Operation::Fsync { handle: b"gone" }).code(), 2);
}

#[test]
fn wrong_handles_and_modes_are_refused_as_openssh_refuses_them() {
    let home = home();
    files::write(home.path().join("file"), "content").expect("written");
    let mut rig = Rig::greeted(home.path());
    let reading = rig.open("file", open::READ);
    let writing = rig.open("file", open::WRITE);
    let path = b".";
    let Got::Handle(listing) = rig.call(Operation::OpenDirectory { path }) else { panic!() };
    let directory = rig.open(".", open::READ);
    let mut code = |operation| rig.call(operation).code();
    assert_eq!(code(Operation::Read { handle: &writing, offset: 0, len: 9 }), 2);
    assert_eq!(code(Operation::Write { handle: &reading, offset: 0, data: b"x" }), 2);
    assert_eq!(code(Operation::Write { handle: &reading, offset: 0, data: b"" }), 2);
    assert_eq!(code(Operation::Write { handle: &writing, offset: 0, data: b"" }), 0);
    assert_eq!(code(Operation::Write { handle: &writing, offset: 1 << 63, data: b"x" }), 5);
    assert_eq!(code(Operation::Read { handle: &directory, offset: 0, len: 9 }), 4);
    let attributes = Attributes { permissions: Some(0o600), ..Attributes::EMPTY };
    for wrong in [&listing[..], b"", b"\0\0\0\0", &[0xff; 8], &[0; 256]] {
        assert_eq!(code(Operation::Read { handle: wrong, offset: 0, len: 9 }), 4);
        assert_eq!(code(Operation::Write { handle: wrong, offset: 0, data: b"lost" }), 4);
        assert_eq!(code(Operation::HandleStat { handle: wrong }), 4);
        assert_eq!(code(Operation::HandleSetStat { handle: wrong, attributes }), 4);
        assert_eq!(code(Operation::HandleVfsStat { handle: wrong }), 4);
        assert_eq!(code(Operation::Fsync { handle: wrong }), 2);
    }
    assert_eq!(code(Operation::ReadDirectory { handle: &reading }), 4);
    assert_eq!(code(Operation::Close { handle: b"gone" }), 2);
    assert_eq!(code(Operation::Close { handle: &reading }), 0);
    assert_eq!(code(Operation::Close { handle: &reading }), 2);
    assert_eq!(code(Operation::Read { handle: &reading, offset: 0, len: 9 }), 4);
}

/// SECURITY 111.
#[test]
fn open_handles_are_capped() {
    let home = home();
    files::write(home.path().join("file"), "").expect("written");
    let mut rig = Rig::greeted(home.path());
    let attributes = Attributes::EMPTY;
    let open = Operation::Open { path: b"file", flags: open::READ, attributes };
    let mut handles = Vec::new();
    for _ in 0..SFTP_HANDLES_MAX {
        let Got::Handle(handle) = rig.call(open) else { panic!("refused too early") };
        handles.push(handle);
    }
    assert_eq!(rig.call(open).code(), 4);
    assert_eq!(rig.call(Operation::OpenDirectory { path: b"." }).code(), 4);
    assert_eq!(rig.call(Operation::Close { handle: &handles[500] }).code(), 0);
    assert!(matches!(rig.call(open), Got::Handle(_)));
    // Every one of them is closed at the end; the rig checks that none is closed twice.
    let open_now = || files::read_dir("/proc/self/fd").expect("listed").count();
    let before = open_now();
    rig.cut();
    assert!(before - open_now() > SFTP_HANDLES_MAX / 2);
}

#[test]
fn paths_start_at_the_home() {
    let home = home();
    let root = home.path().canonicalize().expect("canonical");
    let mut rig = Rig::greeted(home.path());
    let path = |got| match got {
        Got::Names(names) => {
            assert_eq!(names.len(), 1);
            assert_eq!(names[0].0, names[0].1, "the long name is the name");
            assert_eq!(names[0].2, Attributes::EMPTY);
            names[0].0.clone()
        }
        other => panic!("{other:?}"),
    };
    let root = root.as_os_str().as_bytes();
    assert_eq!(path(rig.call(Operation::RealPath { path: b"." })), root);
    assert_eq!(path(rig.call(Operation::RealPath { path: b"" })), root);
    assert_eq!(path(rig.call(Operation::RealPath { path: b"new" })), [root, b"/new"].concat());
    assert_eq!(path(rig.call(Operation::ExpandPath { path: b"~/x" })), [root, b"/x"].concat());
    let attributes = Attributes::EMPTY;
    assert_eq!(rig.call(Operation::MakeDirectory { path: b"sub", attributes }).code(), 0);
    assert!(home.path().join("sub").is_dir());
    let got = rig.call(Operation::SymbolicLink { target: b"sub", path: b"link" });
    assert_eq!(got.code(), 0);
    assert_eq!(files::read_link(home.path().join("link")).expect("link"), Path::new("sub"));
    assert_eq!(path(rig.call(Operation::ReadLink { path: b"link" })), b"sub");
    assert_eq!(rig.call(Operation::Stat { path: b"" }).code(), 2);
    assert_eq!(rig.call(Operation::Stat { path: b"a\0b" }).code(), 5);
    let Got::Status(2, text) = rig.call(Operation::ExpandPath { path: b"~nobody-such" }) else {
        panic!("found")
    };
    assert_eq!(text, "no such user");
}

#[test]
fn extensions_answer() {
    let home = home();
    files::write(home.path().join("file"), "content").expect("written");
    let mut rig = Rig::greeted(home.path());
    let Got::Extended(limits) = rig.call(Operation::Limits) else { panic!("no limits") };
    let limits = Limits::decode(&mut Reader::new(&limits)).expect("limits");
    let shown = (limits.packet_bytes, limits.read_bytes, limits.write_bytes);
    assert_eq!(shown, (256 << 10, 255 << 10, 255 << 10));
    assert_eq!(limits.open_handles, SFTP_HANDLES_MAX as u64);
    let handle = rig.open("file", open::READ);
    for got in [
        rig.call(Operation::VfsStat { path: b"file" }),
        rig.call(Operation::HandleVfsStat { handle: &handle }),
    ] {
        let Got::Extended(status) = got else { panic!("no status") };
        let status = VfsStatus::decode(&mut Reader::new(&status)).expect("status");
        assert_eq!(status.name_bytes_max, 255);
    }
    let Got::Extended(names) = rig.call(Operation::NamesById { users: &[0; 4], groups: &[] })
    else {
        panic!("no names")
    };
    assert_eq!(names, b"\0\0\0\x08\0\0\0\x04root\0\0\0\0");
    assert!(matches!(rig.call(Operation::HomeDirectory { user: b"root" }), Got::Names(_)));
    assert_eq!(rig.call(Operation::HardLink { existing: b"file", path: b"hard" }).code(), 0);
    assert_eq!(rig.call(Operation::Rename { from: b"hard", to: b"file" }).code(), 4);
    assert_eq!(rig.call(Operation::PosixRename { from: b"hard", to: b"moved" }).code(), 0);
    let attributes = Attributes { times: Some((7, 8)), ..Attributes::EMPTY };
    assert_eq!(rig.call(Operation::LinkSetStat { path: b"file", attributes }).code(), 0);
    assert_eq!(home.path().join("file").metadata().expect("stat").mtime(), 8);
    assert_eq!(rig.call(Operation::Extended { name: b"x@y", data: b"z" }).code(), 8);
    assert_eq!(rig.call(Operation::Unknown { kind: 99, data: b"z" }).code(), 8);
}

/// SECURITY 113.
#[test]
fn case_113_copies_are_made_in_pieces_and_not_onto_themselves() {
    let home = home();
    let from = files::File::create(home.path().join("from")).expect("made");
    from.write_all_at(b"start", 0).expect("written");
    from.write_all_at(b"end", 70 << 20).expect("written");
    let mut rig = Rig::greeted(home.path());
    let from = rig.open("from", open::READ);
    let same = rig.open("from", open::WRITE);
    let to = rig.open("to", NEW);
    let copy = |from, to, from_offset, len| Operation::CopyData {
        from,
        from_offset,
        len,
        to,
        to_offset: 0,
    };
    assert_eq!(rig.call(copy(&from, &to, 0, 0)).code(), 0);
    assert!(rig.jobs_peak >= 1);
    assert_eq!(home.path().join("to").metadata().expect("stat").len(), (70 << 20) + 3);
    assert_eq!(rig.call(copy(&from, &to, 70 << 20, 3)).code(), 0);
    assert_eq!(&files::read(home.path().join("to")).expect("read")[..5], b"endrt");
    assert_eq!(rig.call(copy(&from, &to, 70 << 20, 4)).code(), 1, "the source ended");
    assert_eq!(rig.call(copy(&from, &same, 0, 0)).code(), 4);
    assert_eq!(rig.call(copy(&from, &from, 0, 0)).code(), 4);
    let zero = rig.open("/dev/zero", open::READ);
    assert_eq!(rig.call(copy(&zero, &to, 0, 0)).code(), 4, "that has no end");
    // A client that leaves ends a long copy.
    rig.send(&encode(1, copy(&from, &to, 0, 0)));
    rig.turn();
    rig.cut();
    assert!(rig.jobs.is_empty());
}

#[test]
fn blocks_of_open_files_are_hashed_and_nothing_else_is() {
    let home = home();
    files::write(home.path().join("from"), pattern(3000)).expect("written");
    let mut rig = Rig::greeted(home.path());
    let ask =
        |handle, hashes, block| Operation::CheckFile { handle, hashes, offset: 0, len: 0, block };
    let handle = rig.open("from", open::READ);
    let Got::Extended(reply) = rig.call(ask(&handle, b"md5,sha256", 2048)) else {
        panic!("no hashes")
    };
    assert_eq!((&reply[..10], reply.len()), (&b"\0\0\0\x06sha256"[..], 10 + 2 * 32));
    assert_eq!(rig.call(ask(&handle, b"md5,crc32", 2048)).code(), 8, "no hash that is known");
    assert_eq!(rig.call(ask(&handle, b"sha256", 1)).code(), 4, "more hashes than there may be");
    assert_eq!(rig.call(ask(b"none", b"sha256", 0)).code(), 4);
    let zero = rig.open("/dev/zero", open::READ);
    assert_eq!(rig.call(ask(&zero, b"sha256", 0)).code(), 4, "that has no end");
}

#[test]
fn reads_run_side_by_side_within_the_credit() {
    let home = home();
    files::write(home.path().join("from"), pattern(3_000_000)).expect("written");
    for (request, expected) in [(32_768, SFTP_READS_MAX), (261_120, 4)] {
        let mut rig = Rig::greeted(home.path());
        let handle = rig.open("from", open::READ);
        rig.frozen = true;
        for n in 0..20u64 {
            rig.ask(Operation::Read { handle: &handle, offset: n * 9_000, len: request });
        }
        rig.settle();
        assert_eq!(rig.ops.len(), expected, "{request}");
        rig.frozen = false;
        rig.settle();
        assert_eq!(rig.take_replies().len(), 20);
        assert_eq!(rig.leases_out(), 0);
    }
}

/// Beside other bulk, what one link has under way is bounded by two pieces: the sum over all links is
/// what somebody who types has to wait for.
#[test]
fn reads_make_do_with_less_beside_other_bulk() {
    let home = home();
    files::write(home.path().join("from"), pattern(3_000_000)).expect("written");
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("from", open::READ);
    let others: Vec<_> =
        (0..=BULK_SLOTS_BUSY).filter_map(|_| rig.pool.take_spare(Class::Bulk)).collect();
    rig.frozen = true;
    for n in 0..20 {
        rig.ask(Operation::Read { handle: &handle, offset: n * 9_000, len: 261_120 });
    }
    rig.settle();
    assert_eq!(rig.ops.len(), 2);
    others.into_iter().for_each(|lease| rig.pool.give_back(lease));
    rig.frozen = false;
    rig.settle();
    assert_eq!(rig.take_replies().len(), 20);
    assert_eq!(rig.leases_out(), 0);
}

#[test]
fn looks_run_side_by_side_and_changes_alone() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    rig.frozen = true;
    for _ in 0..20 {
        rig.ask(Operation::Stat { path: b"." });
    }
    rig.settle();
    assert_eq!(rig.jobs.len(), SFTP_LOOKS_MAX);
    rig.frozen = false;
    rig.settle();
    assert_eq!(rig.take_replies().len(), 20);
    rig.frozen = true;
    for _ in 0..3 {
        rig.ask(Operation::Remove { path: b"gone" });
    }
    rig.ask(Operation::Stat { path: b"." });
    rig.settle();
    assert_eq!(rig.jobs.len(), 1);
    rig.frozen = false;
    rig.settle();
    let codes = rig.take_replies();
    assert_eq!(codes.len(), 4);
    assert!(codes[..3].iter().all(|(_, got)| got.code() == 2));
}

#[test]
fn the_session_ends_with_its_input() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("file", NEW);
    let script = encode(7, Operation::Write { handle: &handle, offset: 0, data: b"whole" });
    let cut = encode(8, Operation::Write { handle: &handle, offset: 5, data: &[1; 50_000] });
    rig.send(&script);
    rig.send(&cut[..30_000]);
    rig.end_of_input();
    rig.settle();
    assert_eq!(rig.take_replies(), [(7, Got::Status(0, "Success".into()))]);
    assert_eq!((rig.exit, rig.ended), (Some(0), true));
    assert!(files::read(home.path().join("file")).expect("read").starts_with(b"whole"));
    rig.cut();
}

/// Everything that was asked is done and answered, although the client said EOF right behind it.
#[test]
fn the_last_requests_before_the_end_are_served() {
    let home = home();
    let content = pattern(600_000);
    files::write(home.path().join("from"), &content).expect("written");
    let mut rig = Rig::greeted(home.path());
    let from = rig.open("from", open::READ);
    let to = rig.open("to", NEW);
    rig.frozen = true;
    for n in 0..3 {
        rig.ask(Operation::Read { handle: &from, offset: n * 200_000, len: 200_000 });
    }
    rig.ask(Operation::Write { handle: &to, offset: 0, data: &content[..200_000] });
    rig.end_of_input();
    rig.settle();
    assert_eq!(rig.exit, None);
    rig.frozen = false;
    rig.settle();
    assert_eq!(rig.take_replies().len(), 4);
    assert_eq!((rig.exit, rig.ended), (Some(0), true));
    assert!(files::read(home.path().join("to")).expect("read") == content[..200_000]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the bytes are cut into packets, the replies are the same.
    #[test]
    fn any_cut_of_the_stream_gives_the_same_replies(
        pieces in proptest::collection::vec(1usize..4_000, 1..40),
        request in 1usize..9_000,
    ) {
        let home = home();
        let content = pattern(30_000);
        let mut rig = Rig::greeted(home.path());
        let handle = rig.open("file", NEW | open::READ);
        let mut script = Vec::new();
        for (n, data) in content.chunks(request).enumerate() {
            let offset = (n * request) as u64;
            let write = Operation::Write { handle: &handle, offset, data };
            script.extend(encode(n as u32, write));
        }
        script.extend(encode(50_000, Operation::Read { handle: &handle, offset: 0, len: 30_000 }));
        script.extend(encode(50_001, Operation::Stat { path: b"file" }));
        let mut rest = script.as_slice();
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            rig.send_in(now, 4_000);
            rest = later;
        }
        rig.settle();
        let replies = rig.take_replies();
        prop_assert_eq!(replies.len(), content.len().div_ceil(request) + 2);
        let data = replies.iter().find(|(id, _)| *id == 50_000).map(|(_, got)| got.clone());
        prop_assert!(data == Some(Got::Data(content)));
        prop_assert_eq!(rig.leases_out(), 0);
        rig.cut();
    }
}

const _: () = assert!(SFTP_NAMES_BYTES_MAX < 32 * 1024);
