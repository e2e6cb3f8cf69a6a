//! The same requests to us and to OpenSSH's sftp-server, where there is one: the replies are equal
//! byte for byte, but for handles, the present time, and what other programs change meanwhile.

use std::fs as files;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::rig::{Got, Rig, encode, init};
use super::*;
use crate::wire::sftp::Response;

const SERVERS: [&str; 4] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
];
/// Before this, a time was set by the script.
const LONG_AGO: u32 = 1_600_000_000;

struct OpenSsh(Child);

impl OpenSsh {
    fn start(home: &Path) -> Option<OpenSsh> {
        let program = SERVERS.iter().find(|path| Path::new(path).exists())?;
        let mut command = Command::new(program);
        command.current_dir(home).stdin(Stdio::piped()).stdout(Stdio::piped());
        Some(OpenSsh(command.spawn().expect("started")))
    }

    fn exchange(&mut self, packet: &[u8]) -> Got {
        let (to, from) = (self.0.stdin.as_mut(), self.0.stdout.as_mut());
        to.expect("piped").write_all(packet).expect("written");
        let from = from.expect("piped");
        let mut len = [0; 4];
        from.read_exact(&mut len).expect("a reply");
        let mut reply = vec![0; u32::from_be_bytes(len) as usize];
        from.read_exact(&mut reply).expect("all of it");
        Got::from(Response::parse(&reply).expect("a proper reply").reply)
    }
}

impl Drop for OpenSsh {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Puts the handle that the n-th successful open gave in the place of `#n`.
fn with_handles<'a>(operation: Operation<'a>, handles: &'a [Vec<u8>]) -> Operation<'a> {
    let real = |handle: &'a [u8]| match handle {
        [b'#', digit] => handles.get(usize::from(digit - b'0')).map_or(handle, Vec::as_slice),
        other => other,
    };
    match operation {
        Operation::Close { handle } => Operation::Close { handle: real(handle) },
        Operation::Read { handle, offset, len } => {
            Operation::Read { handle: real(handle), offset, len }
        }
        Operation::Write { handle, offset, data } => {
            Operation::Write { handle: real(handle), offset, data }
        }
        Operation::HandleStat { handle } => Operation::HandleStat { handle: real(handle) },
        Operation::HandleSetStat { handle, attributes } => {
            Operation::HandleSetStat { handle: real(handle), attributes }
        }
        Operation::ReadDirectory { handle } => Operation::ReadDirectory { handle: real(handle) },
        Operation::HandleVfsStat { handle } => Operation::HandleVfsStat { handle: real(handle) },
        Operation::Fsync { handle } => Operation::Fsync { handle: real(handle) },
        Operation::CopyData { from, from_offset, len, to, to_offset } => {
            Operation::CopyData { from: real(from), from_offset, len, to: real(to), to_offset }
        }
        other => other,
    }
}

/// Without what differs from one run to the next.
fn settled(got: Got) -> Got {
    match got {
        // We tell what has failed, and it does not.
        Got::Status(4, _) => Got::Status(4, String::new()),
        Got::Handle(_) => Got::Handle(Vec::new()),
        Got::Attributes(attributes) => Got::Attributes(settled_attributes(attributes)),
        Got::Names(names) => {
            let mut names: Vec<_> = names.into_iter().map(settled_entry).collect();
            names.sort_by(|a, b| a.0.cmp(&b.0));
            Got::Names(names)
        }
        Got::Extended(data) if data.len() == VfsStatus::ENCODED_BYTES => {
            let status = VfsStatus::decode(&mut Reader::new(&data)).expect("statvfs");
            // Other programs use the file system too.
            let fixed = [status.block_bytes, status.fragment_bytes, status.blocks, status.flags];
            let also = [status.file_system, status.name_bytes_max];
            Got::Extended(fixed.iter().chain(&also).flat_map(|n| n.to_be_bytes()).collect())
        }
        other => other,
    }
}

fn settled_attributes(attributes: Attributes) -> Attributes {
    let times = attributes.times.map(|(_, modified)| (0, modified.min(LONG_AGO)));
    Attributes { times, ..attributes }
}

fn settled_entry(
    (name, line, attributes): (Vec<u8>, Vec<u8>, Attributes),
) -> (Vec<u8>, Vec<u8>, Attributes) {
    if name == b".." {
        return (name, Vec::new(), Attributes::EMPTY);
    }
    let recent = attributes.times.is_some_and(|(_, modified)| modified > LONG_AGO);
    let date = "Jan  1 00:00 ".len();
    let line = match line.len().checked_sub(name.len() + date) {
        Some(cut) if recent => line[..cut].to_vec(),
        _ => line,
    };
    (name, line, settled_attributes(attributes))
}

fn prepare(home: &Path) {
    files::create_dir(home).expect("made");
    files::write(home.join("file"), pattern(100_000)).expect("written");
    files::write(home.join(std::ffi::OsStr::from_bytes(b"na\xffme\n")), "").expect("written");
    files::create_dir(home.join("full")).expect("made");
    files::write(home.join("full/x"), "").expect("written");
    std::os::unix::fs::symlink("file", home.join("link")).expect("link");
    std::os::unix::fs::symlink("nowhere", home.join("dangling")).expect("link");
    std::os::unix::fs::symlink("loop", home.join("loop")).expect("link");
}

const fn mode(permissions: u32) -> Attributes {
    Attributes { permissions: Some(permissions), ..Attributes::EMPTY }
}

const fn size(size: u64) -> Attributes {
    Attributes { size: Some(size), ..Attributes::EMPTY }
}

const fn times(time: u32) -> Attributes {
    Attributes { times: Some((time, time)), ..Attributes::EMPTY }
}

/// Changes nothing, but asks for it.
const SAME_OWNER: Attributes =
    Attributes { owner: Some((u32::MAX, u32::MAX)), ..Attributes::EMPTY };

fn script() -> Vec<Operation<'static>> {
    let mut all = opens();
    all.extend(odd_paths());
    all.extend(handles());
    all.extend(copies());
    all.extend(names());
    all.extend(resolutions());
    all.extend(listings());
    all
}

/// #0 to #5: reading, writing, both, appending, a directory listed, a directory as a file. #6 comes
/// of a directory among the odd paths, #7 and #8 are the listings at the end.
#[rustfmt::skip]
fn opens() -> Vec<Operation<'static>> {
    use Operation::*;
    let none = Attributes::EMPTY;
    let (read, write) = (open::READ, open::WRITE);
    let mut all = vec![Limits];
    for (path, flags) in [("file", read), ("made", NEW), ("file", read | write)] {
        all.push(Open { path: path.as_bytes(), flags, attributes: mode(0o640) });
    }
    all.push(Open { path: b"log", flags: write | open::CREATE | open::APPEND, attributes: none });
    all.push(OpenDirectory { path: b"." });
    all.push(Open { path: b".", flags: read, attributes: none });
    for flags in 0..64 {
        all.push(Open { path: b"gone", flags: flags & !open::CREATE, attributes: none });
        let flags = flags & !open::TRUNCATE | open::EXCLUSIVE | open::CREATE;
        all.push(Open { path: b"file", flags, attributes: none });
    }
    all
}

#[rustfmt::skip]
fn odd_paths() -> Vec<Operation<'static>> {
    use Operation::*;
    let none = Attributes::EMPTY;
    let mut all = Vec::new();
    for path in [&b""[..], b"file/", b"file/x", b"loop", b"dangling", &[b'y'; 300], b"full"] {
        all.push(Open { path, flags: open::WRITE, attributes: none });
        all.extend([Stat { path }, LinkStat { path }, OpenDirectory { path }, ReadLink { path }]);
        all.extend([RealPath { path }, ExpandPath { path }, VfsStat { path }]);
        all.extend([SetStat { path, attributes: size(3) }, SetStat { path, attributes: none }]);
        all.push(LinkSetStat { path, attributes: size(3) });
        all.extend([Rename { from: path, to: b"file" }, HardLink { existing: path, path: b"file" }]);
        all.push(MakeDirectory { path, attributes: none });
    }
    all
}

#[rustfmt::skip]
fn handles() -> Vec<Operation<'static>> {
    use Operation::*;
    const DATA: &[u8] = &[7; 70_000];
    let mut all = Vec::new();
    for handle in [&b"#0"[..], b"#1", b"#2", b"#3", b"#4", b"#5", b"", b"\0\0\xff\0", &[b'y'; 200]] {
        for (offset, len) in [(0, 100), (99_990, 100), (100_000, 1), (1 << 40, 5), (1 << 63, 5), (5, 0)] {
            all.push(Read { handle, offset, len });
        }
        for (offset, data) in [(0, &DATA[..10]), (50_000, &[]), (u64::MAX, &DATA[..1]), (70_000, DATA)] {
            all.push(Write { handle, offset, data });
        }
        all.extend([HandleStat { handle }, HandleVfsStat { handle }, Fsync { handle }]);
        for attributes in [mode(0o604), SAME_OWNER, size(120_000), times(5)] {
            all.push(HandleSetStat { handle, attributes });
        }
    }
    for handle in [&b"#0"[..], b"#1", b"#5", b""] {
        all.push(ReadDirectory { handle });
    }
    all
}

#[rustfmt::skip]
fn copies() -> Vec<Operation<'static>> {
    use Operation::*;
    let mut all = Vec::new();
    for (from, to) in [(b"#0", b"#1"), (b"#1", b"#0"), (b"#0", b"#0"), (b"#4", b"#1"), (b"#0", b"zz")] {
        for (from_offset, len) in [(0, 1_000), (119_990, 100), (0, 0), (1 << 63, 5)] {
            all.push(CopyData { from, from_offset, len, to, to_offset: 3 });
        }
    }
    all.extend([Stat { path: b"made" }, Stat { path: b"log" }]);
    all
}

#[rustfmt::skip]
fn names() -> Vec<Operation<'static>> {
    use Operation::*;
    let none = Attributes::EMPTY;
    let mut all = Vec::new();
    for (from, to) in [("made", "file"), ("made", "link"), ("made", "dangling"), ("made", "full"), ("full", "made"),
        ("made", "moved"), ("gone", "x"), ("moved", "gone/x"), ("full", "full/y"), ("full", "fuller"), ("link", "linked")] {
        all.push(Rename { from: from.as_bytes(), to: to.as_bytes() });
    }
    all.extend([PosixRename { from: b"moved", to: b"log" }, PosixRename { from: b"log", to: b"fuller" }]);
    all.extend([HardLink { existing: b"log", path: b"hard" }, HardLink { existing: b"fuller", path: b"h2" }]);
    all.extend([SymbolicLink { target: b"any/thing", path: b"sym" }, SymbolicLink { target: b"", path: b"empty" }]);
    all.extend([SymbolicLink { target: b"x", path: b"sym" }, ReadLink { path: b"sym" }, ReadLink { path: b"linked" }]);
    all.extend([MakeDirectory { path: b"new", attributes: mode(0o2750) }, MakeDirectory { path: b"new2", attributes: none }]);
    all.extend([RemoveDirectory { path: b"fuller" }, RemoveDirectory { path: b"new2" }, RemoveDirectory { path: b"file" }]);
    all.extend([Remove { path: b"new" }, Remove { path: b"gone" }, Remove { path: b"linked" }]);
    all.extend([LinkSetStat { path: b"sym", attributes: times(1_000) }, LinkSetStat { path: b"sym", attributes: mode(0o600) }]);
    all.extend([LinkSetStat { path: b"file", attributes: mode(0o7711) }, LinkSetStat { path: b"file", attributes: SAME_OWNER }]);
    all
}

#[rustfmt::skip]
fn resolutions() -> Vec<Operation<'static>> {
    use Operation::*;
    let mut all = Vec::new();
    for path in ["/", "//..", "./file/../new", "link", "sym", "new/none", "none/none", "fuller/", "/etc/none"] {
        all.extend([RealPath { path: path.as_bytes() }, ExpandPath { path: path.as_bytes() }]);
    }
    for path in ["~", "~/", "~/x", "~root", "~root/x", "~nobody-such", "~/none/none", "x~"] {
        all.push(ExpandPath { path: path.as_bytes() });
    }
    for user in [&b"root"[..], b"daemon", b"nobody-such", b""] {
        all.push(HomeDirectory { user });
    }
    all.push(NamesById { users: &[0, 0, 0, 0, 0, 0, 0, 1, 9, 9, 9, 9], groups: &[0, 0, 0, 0, 9, 9, 9, 9] });
    all.extend([NamesById { users: &[], groups: &[] }, Extended { name: b"none@such", data: b"" }]);
    all
}

#[rustfmt::skip]
fn listings() -> Vec<Operation<'static>> {
    use Operation::*;
    let mut all = Vec::new();
    for (path, time) in [("file", 1_000_000), ("log", 86_400 * 200), ("hard", 951_868_800), ("fuller", LONG_AGO - 1)] {
        all.push(SetStat { path: path.as_bytes(), attributes: times(time) });
    }
    all.extend([OpenDirectory { path: b"." }, OpenDirectory { path: b"fuller" }]);
    all.extend([ReadDirectory { handle: b"#7" }, ReadDirectory { handle: b"#7" }, ReadDirectory { handle: b"#8" }]);
    for handle in [b"#0", b"#1", b"#2", b"#3", b"#4", b"#5", b"#6", b"#7", b"#8", b"#0", b"#6"] {
        all.push(Close { handle });
    }
    all
}

/// Where we differ on purpose.
fn differs_on_purpose(operation: &Operation<'_>) -> bool {
    match operation {
        // How many handles may be open is each server's own affair.
        Operation::Limits => true,
        // 9.2 answers OK when the source ended early or could not be read, if one read would have
        // been enough.
        Operation::CopyData { from_offset, len, from, .. } => {
            (*len > 0 && *from_offset == 119_990) || *from == b"#1"
        }
        // 9.2 answers with the home of whoever asks.
        Operation::HomeDirectory { user } => *user == b"daemon",
        _ => false,
    }
}

fn run_script(
    script: &[Operation<'_>],
    mut exchange: impl FnMut(Operation<'_>) -> Got,
) -> Vec<(String, Got)> {
    let mut handles = Vec::new();
    let mut replies = Vec::new();
    for (n, operation) in script.iter().enumerate() {
        let got = exchange(with_handles(*operation, &handles));
        if let Got::Handle(handle) = &got {
            handles.push(handle.clone());
        }
        let mut shown = format!("{n}: {operation:?}");
        shown.truncate(200);
        replies.push((shown, settled(got)));
    }
    replies
}

#[test]
fn replies_are_those_of_openssh() {
    let place = home();
    let home = place.path().join("home");
    prepare(&home);
    let script = script();
    let Some(mut reference) = OpenSsh::start(&home) else {
        eprintln!("skipped: no sftp-server of OpenSSH is installed");
        return;
    };
    assert_eq!(reference.exchange(&init()), Got::Version);
    let expected = run_script(&script, |operation| reference.exchange(&encode(9, operation)));
    drop(reference);
    files::remove_dir_all(&home).expect("removed");
    prepare(&home);
    let mut rig = Rig::greeted(&home);
    let got = run_script(&script, |operation| rig.call(operation));
    let mut different = 0;
    let replies = expected.iter().zip(&got).zip(&script);
    for (((what, expected), (_, got)), operation) in replies {
        if expected != got && !differs_on_purpose(operation) {
            eprintln!("{what}\n    OpenSSH {expected:?}\n    we      {got:?}");
            different += 1;
        }
    }
    assert_eq!(different, 0, "of {} replies", script.len());
}
