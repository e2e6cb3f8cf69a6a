use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;
use crate::wire::sftp::{Names, open};

/// A scratch directory and paths in it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("temporary directory"))
    }

    fn path(&self, name: &str) -> CString {
        CString::new(self.0.path().join(name).into_os_string().into_vec()).expect("no NUL")
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn with(name: &str, content: &str) -> Place {
        let place = Place::new();
        fs::write(place.at(name), content).expect("written");
        place
    }
}

fn code(done: FsDone) -> u32 {
    match done {
        FsDone::Done => 0,
        FsDone::Failed(failure) => failure.code.number(),
        other => panic!("{other:?}"),
    }
}

fn open_as(path: CString, flags: u32, permissions: u32) -> Result<(fs::File, Opened), u32> {
    match run(&Root::System, FsJob::Open { path, flags, permissions, umask: None }) {
        FsDone::Opened(opened) => {
            // SAFETY: the descriptor was just opened and is owned by nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(opened.fd.0) };
            Ok((fs::File::from(fd), opened))
        }
        other => Err(code(other)),
    }
}

#[test]
fn open_flags_mean_what_the_draft_says() {
    let place = Place::with("old", "content");
    let (read, write, create) = (open::READ, open::WRITE, open::CREATE);
    assert_eq!(open_as(place.path("new"), read, 0o666).err(), Some(2));
    assert_eq!(open_as(place.path("new"), write, 0o666).err(), Some(2));
    let (mut file, _) = open_as(place.path("new"), write | create, 0o640).expect("made");
    file.write_all(b"x").expect("written");
    assert!(file.read(&mut [0]).is_err(), "write-only");
    assert_eq!(file.metadata().expect("stat").mode() & 0o7777 & !0o640, 0);

    let exclusive = write | create | open::EXCLUSIVE;
    assert_eq!(open_as(place.path("old"), exclusive, 0o666).err(), Some(4));
    let (mut file, _) = open_as(place.path("old"), read | write, 0o666).expect("opened");
    let mut content = String::new();
    file.read_to_string(&mut content).expect("read");
    assert_eq!(content, "content");
    let (mut file, _) = open_as(place.path("old"), write | open::APPEND, 0).expect("opened");
    file.write_all(b"+").expect("written");
    assert_eq!(fs::read(place.at("old")).expect("read"), b"content+");
    let truncate = write | create | open::TRUNCATE;
    open_as(place.path("old"), truncate, 0).expect("opened");
    assert_eq!(fs::read(place.at("old")).expect("read"), b"");
    assert_eq!(open_as(place.path("old/x"), read, 0).err(), Some(2));
    assert_eq!(open_as(CString::default(), read, 0).err(), Some(2));
    let long = CString::new("/y".repeat(3000)).expect("no NUL");
    assert_eq!(open_as(long, read, 0).err(), Some(5));
}

#[test]
fn open_tells_files_apart() {
    let place = Place::with("one", "");
    fs::hard_link(place.at("one"), place.at("same")).expect("link");
    fs::write(place.at("two"), "").expect("written");
    let id = |name| open_as(place.path(name), open::READ, 0).expect("opened").1;
    assert_eq!(id("one").file, id("same").file);
    assert_ne!(id("one").file, id("two").file);
    assert!(id("one").regular);
    let (_file, directory) = open_as(place.path("."), open::READ, 0).expect("as OpenSSH");
    assert!(!directory.regular);
    assert_eq!(open_as(place.path("."), open::WRITE, 0).err(), Some(4));
}

/// SECURITY 115: nothing that is not a plain file holds a worker.
#[test]
fn case_115_pipes_and_devices_do_not_wait() {
    let place = Place::new();
    mkfifo(&place.at("fifo"), Mode::from_bits_truncate(0o600)).expect("fifo");
    assert_eq!(open_as(place.path("fifo"), open::READ, 0).err(), Some(4));
    assert_eq!(open_as(place.path("fifo"), open::WRITE, 0).err(), Some(4));
    let socket = std::os::unix::net::UnixListener::bind(place.at("socket")).expect("socket");
    assert!(place.at("socket").metadata().expect("stat").file_type().is_socket());
    assert_eq!(open_as(place.path("socket"), open::READ, 0).err(), Some(4));
    drop(socket);
    let null = CString::new("/dev/null").expect("no NUL");
    let (mut file, opened) = open_as(null, open::READ | open::WRITE, 0).expect("opened");
    assert!(!opened.regular);
    file.write_all(b"x").expect("swallowed");
}

#[test]
fn case_115_this_process_is_not_a_file() {
    let path = |path: &str| CString::new(path).expect("no NUL");
    let (read, write) = (open::READ, open::READ | open::WRITE);
    for flags in [read, write] {
        assert_eq!(open_as(path("/proc/self/mem"), flags, 0).err(), Some(3));
        assert_eq!(open_as(path("/proc/thread-self/mem"), flags, 0).err(), Some(3));
    }
    let own = format!("/proc/{}/maps", std::process::id());
    assert_eq!(open_as(path(&own), read, 0).err(), Some(3));
    let (mut file, _) = open_as(path("/proc/version"), read, 0).expect("not ours");
    assert!(file.read(&mut [0; 16]).expect("read") > 0);
    // Our own descriptors cannot be opened again by number.
    let file = fs::File::open("/etc/passwd").expect("opened");
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    assert_eq!(open_as(path(&again), read, 0).err(), Some(2));
}

#[test]
fn close_reports() {
    let place = Place::with("file", "");
    let fd = Fd(fs::File::open(place.at("file")).expect("opened").into_raw_fd());
    assert_eq!(code(run(&Root::System, FsJob::Close { fd })), 0);
}

#[test]
fn stat_follows_or_not() {
    let place = Place::with("file", "12345");
    symlink("file", place.at("link")).expect("link");
    symlink("gone", place.at("dangling")).expect("link");
    let stat = |subject| match run(&Root::System, FsJob::Stat { subject }) {
        FsDone::Attributes(attributes) => Ok(attributes),
        other => Err(code(other)),
    };
    let file = stat(Subject::Path(place.path("link"))).expect("followed");
    let on_disk = place.at("file").metadata().expect("stat");
    assert_eq!(file.size, Some(5));
    assert_eq!(file.permissions, Some(on_disk.mode()));
    assert_eq!(file.owner, Some((on_disk.uid(), on_disk.gid())));
    assert_eq!(file.times, Some((on_disk.atime() as u32, on_disk.mtime() as u32)));
    let link = stat(Subject::Link(place.path("link"))).expect("itself");
    assert_eq!(link.permissions.map(|mode| mode & libc::S_IFMT), Some(libc::S_IFLNK));
    assert_eq!(stat(Subject::Path(place.path("dangling"))), Err(2));
    assert!(stat(Subject::Link(place.path("dangling"))).is_ok());
    assert_eq!(stat(Subject::Path(place.path("file/x"))), Err(2));
    let (_file, opened) = open_as(place.path("file"), open::READ, 0).expect("opened");
    assert_eq!(stat(Subject::Handle(opened.fd)), Ok(file));
}

#[test]
fn set_stat_sets_what_is_given() {
    let place = Place::with("file", "12345");
    symlink("file", place.at("link")).expect("link");
    let (_file, opened) = open_as(place.path("file"), open::WRITE, 0).expect("opened");
    let set =
        |subject, attributes| code(run(&Root::System, FsJob::SetStat { subject, attributes }));
    let all = Attributes {
        size: Some(3),
        owner: None,
        permissions: Some(0o100604),
        times: Some((1_000, 2_000)),
    };
    assert_eq!(set(Subject::Path(place.path("link")), all), 0);
    let file = place.at("file").metadata().expect("stat");
    let shown = (file.len(), file.mode() & 0o7777, file.atime(), file.mtime());
    assert_eq!(shown, (3, 0o604, 1_000, 2_000));
    let handle = Attributes { size: Some(7), permissions: Some(0o4711), ..all };
    assert_eq!(set(Subject::Handle(opened.fd), handle), 0);
    let file = place.at("file").metadata().expect("stat");
    assert_eq!((file.len(), file.mode() & 0o7777), (7, 0o4711));

    // The link's own times change, the file's do not; a link has no size to set.
    let times = Attributes { times: Some((5, 6)), ..Attributes::EMPTY };
    assert_eq!(set(Subject::Link(place.path("link")), times), 0);
    assert_eq!(place.at("link").symlink_metadata().expect("stat").mtime(), 6);
    assert_eq!(place.at("file").metadata().expect("stat").mtime(), 2_000);
    assert_eq!(set(Subject::Link(place.path("link")), all), 5);
    // Later settings are tried although an earlier one failed.
    let directory = Attributes { size: Some(1), permissions: Some(0o700), ..Attributes::EMPTY };
    fs::create_dir(place.at("dir")).expect("made");
    fs::set_permissions(place.at("dir"), fs::Permissions::from_mode(0o755)).expect("set");
    assert_eq!(set(Subject::Path(place.path("dir")), directory), 4);
    assert_eq!(place.at("dir").metadata().expect("stat").mode() & 0o7777, 0o700);
    let huge = Attributes { size: Some(u64::MAX), ..Attributes::EMPTY };
    assert_eq!(set(Subject::Path(place.path("file")), huge), 5);
    assert_eq!(set(Subject::Path(place.path("gone")), times), 2);
}

fn list(path: CString) -> Vec<(Vec<u8>, String, Attributes)> {
    let FsDone::OpenedDirectory(fd) = run(&Root::System, FsJob::OpenDirectory { path }) else {
        panic!("not opened")
    };
    let mut entries = Vec::new();
    let mut accounts = Box::<AccountNames>::default();
    loop {
        match run(&Root::System, FsJob::ReadDirectory { fd, accounts }) {
            FsDone::Entries { count, encoded, accounts: back } => {
                assert!(count > 0);
                assert!(encoded.len() + directory::NAME_HEADER_BYTES <= SFTP_NAMES_BYTES_MAX);
                let names = Names::from_encoded(count, &encoded);
                assert_eq!(names.iter().count(), count as usize);
                entries.extend(names.iter().map(|(name, line, attributes)| {
                    let line = String::from_utf8_lossy(line).into_owned();
                    (name.to_vec(), line, attributes)
                }));
                accounts = back;
            }
            FsDone::EndOfDirectory { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(code(run(&Root::System, FsJob::Close { fd })), 0);
    entries
}

#[test]
fn listings_show_every_entry_once() {
    let place = Place::new();
    let mut expected: BTreeSet<Vec<u8>> = [b".".to_vec(), b"..".to_vec()].into();
    for number in 0..2_000u32 {
        // One-byte names (the worst growth), long ones, and bytes that are not UTF-8.
        let name = match number {
            0..=200 if number as u8 != b'/' && number > 0 && number as u8 != b'.' => {
                vec![number as u8]
            }
            0..=1_000 => format!("{number:0250}").into_bytes(),
            _ => [b"n\xff\n".as_slice(), number.to_string().as_bytes()].concat(),
        };
        let path = Path::new(std::ffi::OsStr::from_bytes(&name));
        fs::write(place.0.path().join(path), "").expect("written");
        expected.insert(name);
    }
    let entries = list(place.path("."));
    assert_eq!(entries.len(), expected.len());
    let names: BTreeSet<Vec<u8>> = entries.iter().map(|(name, ..)| name.clone()).collect();
    assert_eq!(names, expected);
    for (name, line, attributes) in &entries {
        assert!(line.ends_with(&*String::from_utf8_lossy(name)), "{line}");
        assert!(attributes.size.is_some() && attributes.times.is_some());
    }
}

#[test]
fn directories_open_list_and_go() {
    let place = Place::with("file", "");
    let open = |name| code(run(&Root::System, FsJob::OpenDirectory { path: place.path(name) }));
    assert_eq!(open("file"), 2);
    assert_eq!(open("gone"), 2);
    let make = |name, permissions| {
        code(run(
            &Root::System,
            FsJob::MakeDirectory { path: place.path(name), permissions, umask: None },
        ))
    };
    assert_eq!(make("dir", 0o40700), 0);
    assert_eq!(place.at("dir").metadata().expect("stat").mode() & 0o7777, 0o700);
    assert_eq!(make("dir", 0o777), 4);
    assert_eq!(make("gone/dir", 0o777), 2);
    assert_eq!(list(place.path("dir")).len(), 2);
    let remove = |name| code(run(&Root::System, FsJob::RemoveDirectory { path: place.path(name) }));
    assert_eq!(remove("file"), 2);
    fs::write(place.at("dir/x"), "").expect("written");
    assert_eq!(remove("dir"), 4);
    assert_eq!(code(run(&Root::System, FsJob::Remove { path: place.path("dir/x") })), 0);
    assert_eq!(code(run(&Root::System, FsJob::Remove { path: place.path("dir/x") })), 2);
    assert_eq!(code(run(&Root::System, FsJob::Remove { path: place.path("dir") })), 4);
    assert_eq!(remove("dir"), 0);
}

#[test]
fn rename_of_version_three_replaces_nothing() {
    let place = Place::with("a", "a");
    fs::write(place.at("b"), "b").expect("written");
    fs::create_dir(place.at("dir")).expect("made");
    symlink("gone", place.at("dangling")).expect("link");
    let rename = |from, to, replace| {
        let (from, to) = (place.path(from), place.path(to));
        code(run(&Root::System, FsJob::Rename { from, to, replace }))
    };
    for taken in ["b", "dir", "dangling", "a"] {
        assert_eq!(rename("a", taken, false), 4, "{taken}");
    }
    assert_eq!(rename("dir", "b", false), 4);
    assert_eq!(rename("gone", "new", false), 2);
    assert_eq!(rename("a", "gone/new", false), 2);
    assert_eq!(rename("a", "new", false), 0);
    assert_eq!(rename("dir", "dir/below", false), 5);
    assert_eq!(rename("dir", "moved", false), 0);
    assert_eq!(fs::read(place.at("new")).expect("read"), b"a");
    // The extension replaces.
    assert_eq!(rename("new", "b", true), 0);
    assert_eq!(fs::read(place.at("b")).expect("read"), b"a");
    assert_eq!(rename("b", "moved", true), 4);
}

#[test]
fn links_are_made_and_read() {
    let place = Place::with("file", "x");
    let symbolic = |target: &str, path| {
        let target = CString::new(target).expect("no NUL");
        code(run(&Root::System, FsJob::SymbolicLink { target, path: place.path(path) }))
    };
    assert_eq!(symbolic("file", "link"), 0);
    assert_eq!(symbolic("file", "link"), 4);
    let read = |name| match run(&Root::System, FsJob::ReadLink { path: place.path(name) }) {
        FsDone::Path(path) => Ok(path),
        other => Err(code(other)),
    };
    assert_eq!(read("link"), Ok(b"file".to_vec()));
    assert_eq!(read("file"), Err(5));
    assert_eq!(read("gone"), Err(2));
    let hard = |existing, path| {
        let (existing, path) = (place.path(existing), place.path(path));
        code(run(&Root::System, FsJob::HardLink { existing, path }))
    };
    assert_eq!(hard("file", "hard"), 0);
    assert_eq!(place.at("hard").metadata().expect("stat").nlink(), 2);
    assert_eq!(hard("file", "hard"), 4);
    assert_eq!(hard("gone", "other"), 2);
}

#[test]
fn paths_expand() {
    let place = Place::new();
    let root = place.0.path().canonicalize().expect("canonical");
    let base: Box<[u8]> = root.as_os_str().as_bytes().into();
    let expand = |path: &str| {
        let job = FsJob::ExpandPath { base: base.clone(), path: path.as_bytes().into() };
        match run(&Root::System, job) {
            FsDone::Path(path) => Ok(String::from_utf8(path).expect("UTF-8")),
            FsDone::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    };
    let inside = |path: &str| Ok(format!("{}{path}", root.display()));
    assert_eq!(expand(""), inside(""));
    assert_eq!(expand("~"), inside(""));
    assert_eq!(expand("~/new"), inside("/new"));
    assert_eq!(expand("new"), inside("/new"));
    assert_eq!(expand("/"), Ok("/".into()));
    let daemon = User::from_name("root").ok().flatten().expect("root exists").dir;
    assert_eq!(expand("~root"), Ok(daemon.display().to_string()));
    assert_eq!(expand("~root/new"), Ok(format!("{}/new", daemon.display())));
    let failure = expand("~no-such-user-here/x").expect_err("nobody");
    assert_eq!(failure, Failure { code: StatusCode::NoSuchFile, text: "no such user" });
    assert_eq!(expand("~\0").expect_err("nobody").text, "no such user");
}

#[test]
fn the_base_is_the_home_or_the_root() {
    let place = Place::with("file", "");
    symlink(place.0.path(), place.at("link")).expect("link");
    let base = |home| match run(&Root::System, FsJob::Base { home, start: None }) {
        FsDone::Base(_, base) => base,
        other => panic!("{other:?}"),
    };
    let root = place.0.path().canonicalize().expect("canonical");
    assert_eq!(&*base(place.path("link")), root.as_os_str().as_bytes());
    assert_eq!(&*base(place.path("gone")), b"/");
    assert_eq!(&*base(place.path("file")), b"/");
}

#[test]
fn file_systems_tell_their_size() {
    let place = Place::with("file", "");
    let stat = |subject| match run(&Root::System, FsJob::VfsStat { subject }) {
        FsDone::VfsStatus(status) => Ok(status),
        other => Err(code(other)),
    };
    let by_path = stat(Subject::Path(place.path("."))).expect("statvfs");
    assert!(by_path.block_bytes > 0 && by_path.blocks >= by_path.blocks_free);
    assert_eq!(by_path.name_bytes_max, 255);
    let (_file, opened) = open_as(place.path("file"), open::READ, 0).expect("opened");
    let by_handle = stat(Subject::Handle(opened.fd)).expect("fstatvfs");
    assert_eq!(by_handle.file_system, by_path.file_system);
    assert_eq!(stat(Subject::Path(place.path("gone"))), Err(2));
}

#[test]
fn accounts_have_names() {
    let root = User::from_name("root").ok().flatten().expect("root exists");
    let home = |user: &[u8]| match run(&Root::System, FsJob::HomeDirectory { user: user.into() }) {
        FsDone::Path(path) => Ok(path),
        other => Err(code(other)),
    };
    assert_eq!(home(b"root"), Ok(root.dir.as_os_str().as_bytes().to_vec()));
    assert_eq!(home(b"no-such-user-here"), Err(4));
    assert_eq!(home(b"\xff"), Err(4));
    let names = |users: &[u32], groups: &[u8]| {
        let users = users.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<_>>();
        run(&Root::System, FsJob::NamesById { users: users.into(), groups: groups.into() })
    };
    let FsDone::Names { users, groups } = names(&[0, 4_000_000_001], &[0; 4]) else {
        panic!("no names")
    };
    assert_eq!(users, b"\0\0\0\x04root\0\0\0\0");
    assert_eq!(groups, b"\0\0\0\x04root");
    assert_eq!(code(names(&[], &[0; 3])), 5);
    // More than fits is left unnamed, or refused; never too long a reply.
    let FsDone::Names { users, .. } = names(&[0; 3_000], &[]) else { panic!("no names") };
    assert!(users.len() <= SFTP_NAMES_BYTES_MAX / 2);
    assert_eq!(code(names(&[0; 4_000], &[])), 5);
}

#[test]
fn copies_go_piece_by_piece() {
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let place = Place::new();
    fs::write(place.at("from"), &content).expect("written");
    let (_from, from) = open_as(place.path("from"), open::READ, 0).expect("opened");
    let flags = open::READ | open::WRITE | open::CREATE;
    let (_to, to) = open_as(place.path("to"), flags, 0o600).expect("opened");
    let copy = |from_offset, to_offset, len| {
        let copy = Copy { from: from.fd, from_offset, to: to.fd, to_offset, len };
        match run(&Root::System, FsJob::Copy(copy)) {
            FsDone::Copied { bytes, ended } => Ok((bytes, ended)),
            other => Err(code(other)),
        }
    };
    assert_eq!(copy(0, 0, 1_000), Ok((1_000, false)));
    assert_eq!(copy(1_000, 1_000, u64::MAX), Ok((399_000, true)));
    assert_eq!(fs::read(place.at("to")).expect("read"), content);
    assert_eq!(copy(400_000, 0, 10), Ok((0, true)));
    assert_eq!(copy(u64::MAX, 0, 10), Err(5));
    assert!(matches!(copy(0, i64::MAX as u64 - 5, 10), Err(4 | 5)));
    // Backwards: the target cannot be read, the source not be written.
    let copy = Copy { from: to.fd, from_offset: 0, to: from.fd, to_offset: 0, len: 4 };
    assert_eq!(code(run(&Root::System, FsJob::Copy(copy))), 2);
    // An appending target takes it at its end.
    let (_end, end) = open_as(place.path("to"), open::WRITE | open::APPEND, 0).expect("opened");
    let copy = Copy { from: from.fd, from_offset: 4, to: end.fd, to_offset: 0, len: 8 };
    assert!(matches!(
        run(&Root::System, FsJob::Copy(copy)),
        FsDone::Copied { bytes: 8, ended: false }
    ));
    let after = fs::read(place.at("to")).expect("read");
    assert_eq!(&after[400_000..], &content[4..12]);
    assert_eq!(after.len(), 400_008);
}
