//! SFTP with more files, larger files and stranger files than usual, on disks that fail: what the
//! client is told is so, and the session goes on.

mod support;

#[path = "files/client.rs"]
mod client;
#[path = "files/trouble.rs"]
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use client::{APPEND, BAD_MESSAGE, CREATE, EOF, FAILURE, NO_SUCH_FILE, OK, READ, Sftp, WRITE};
use support::{Gateway, noise, run_ok};

const GIB: u64 = 1 << 30;

/// Where files lie in memory: a hundred thousand of them are a matter of a second.
fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }
}

/// The most memory that the gateway has had at once, in bytes.
fn memory_peak(gateway: &Gateway) -> u64 {
    let path = format!("/proc/{}/status", gateway.serving());
    let status = fs::read_to_string(path).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

#[test]
fn a_hundred_thousand_names_are_listed_in_little_memory() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir_in(memory()).expect("a folder");
    let count = 100_000;
    for n in 0..count {
        fs::File::create(folder.path().join(format!("file {n:06}"))).expect("a file");
    }
    let mut sftp = Sftp::start(&gateway);
    let warm = fs::canonicalize(".").expect("a folder");
    sftp.list(warm.as_os_str().as_bytes()).expect("a listing");
    let before = memory_peak(&gateway);
    let mut names = BTreeSet::new();
    let mut replies = 0;
    let handle = sftp.open_directory(folder.path().as_os_str().as_bytes()).expect("a handle");
    loop {
        match sftp.read_directory(&handle) {
            Ok(some) => {
                assert!(!some.is_empty(), "a reply without names");
                replies += 1;
                for name in some {
                    assert!(names.insert(name), "a name twice");
                }
            }
            Err(status) => {
                assert_eq!(status, EOF);
                break;
            }
        }
    }
    assert_eq!(sftp.close(&handle), OK);
    // "." and ".." are listed too.
    assert_eq!(names.len(), count + 2);
    let (first, last) = (b"file 000000".to_vec(), b"file 099999".to_vec());
    assert!(names.contains(&first) && names.contains(&last));
    let grown = memory_peak(&gateway) - before;
    assert!(grown < 4 << 20, "listing took {grown} bytes of memory");
    // Some 200 names fit one reply; fewer would be round trips for nothing.
    assert!(replies < count / 100, "{replies} replies");
    sftp.end();
}

#[test]
fn names_are_bytes() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &[u8]| [folder.path().as_os_str().as_bytes(), b"/", name].concat();
    let odd: [&[u8]; 4] = [b"caf\xe9 \xff\xfe", b"new\nline", b"\xed\xa0\x80", b"*?[a] \\ '\""];
    let mut sftp = Sftp::start(&gateway);
    for name in odd {
        let handle = sftp.open(&path(name), WRITE | CREATE).expect("a handle");
        assert_eq!(sftp.write(&handle, 0, name), OK);
        assert_eq!(sftp.close(&handle), OK);
        assert_eq!(fs::read(Path::new(OsStr::from_bytes(&path(name)))).expect("a file"), name);
        assert_eq!(sftp.size(&path(name)), Ok(name.len() as u64));
    }
    let listed: BTreeSet<Vec<u8>> =
        sftp.list(folder.path().as_os_str().as_bytes()).expect("a listing").into_iter().collect();
    for name in odd {
        assert!(listed.contains(name), "{name:?} in {listed:?}");
        assert_eq!(sftp.rename(&path(name), &path(&[name, b".\xfe"].concat())), OK);
        assert_eq!(sftp.size(&path(name)), Err(NO_SUCH_FILE));
        assert_eq!(sftp.remove(&path(&[name, b".\xfe"].concat())), OK);
    }
    sftp.end();
}

#[test]
fn files_have_holes_and_more_than_four_gibibytes() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("large");
    let path = file.as_os_str().as_bytes();
    let mut sftp = Sftp::start(&gateway);
    let handle = sftp.open(path, READ | WRITE | CREATE).expect("a handle");
    let end = noise(100_000, 7);
    // Out of order, the last bytes first.
    assert_eq!(sftp.write(&handle, 5 * GIB + 123, &end), OK);
    assert_eq!(sftp.write(&handle, 4 * GIB - 2, b"edge"), OK);
    assert_eq!(sftp.size(path), Ok(5 * GIB + 123 + end.len() as u64));
    assert_eq!(sftp.read(&handle, 5 * GIB + 123, 100_000), Ok(end.clone()));
    assert_eq!(sftp.read(&handle, 4 * GIB - 3, 6), Ok(b"\0edge\0".to_vec()));
    assert_eq!(sftp.read(&handle, GIB, 1000), Ok(vec![0; 1000]));
    assert_eq!(sftp.read(&handle, 5 * GIB + 123 + end.len() as u64, 10), Err(EOF));
    assert_eq!(sftp.read(&handle, 5 * GIB + 123, 200_000), Ok(end));
    let on_disk = fs::metadata(&file).expect("a file").blocks() * 512;
    assert!(on_disk < 1 << 20, "a file with holes takes {on_disk} bytes");
    assert_eq!(sftp.sync(&handle), OK);
    // Shorter and longer again: what comes back is empty.
    assert_eq!(sftp.set_size(&handle, 4 * GIB), OK);
    assert_eq!(sftp.set_size(&handle, 6 * GIB), OK);
    assert_eq!(sftp.size(path), Ok(6 * GIB));
    assert_eq!(sftp.read(&handle, 4 * GIB - 3, 6), Ok(b"\0ed\0\0\0".to_vec()));
    assert_eq!(sftp.set_size(&handle, 0), OK);
    assert_eq!(sftp.read(&handle, 0, 1), Err(EOF));
    assert_eq!(sftp.close(&handle), OK);
    sftp.end();
}

#[test]
fn many_handles_are_used_at_once() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |n: usize| folder.path().join(format!("file{n}"));
    let bytes = |n: usize| noise(300_000 + n, n as u64);
    let mut sftp = Sftp::start(&gateway);
    let handles: Vec<Vec<u8>> = (0..20)
        .map(|n| {
            sftp.open(path(n).as_os_str().as_bytes(), READ | WRITE | CREATE).expect("a handle")
        })
        .collect();
    // Every file in pieces, the pieces of all files among one another, last pieces first.
    let mut sent = Vec::new();
    for piece in (0..10).rev() {
        for (n, handle) in handles.iter().enumerate() {
            let bytes = bytes(n);
            let at = piece * 32_768;
            let Some(some) = bytes.get(at..bytes.len().min(at + 32_768)) else { continue };
            sent.push(sftp.send_write(handle, at as u64, some));
        }
    }
    let mut answered = BTreeSet::new();
    for _ in &sent {
        let (id, status) = sftp.hear_status();
        assert_eq!(status, OK);
        assert!(answered.insert(id), "{id} is answered twice");
    }
    assert_eq!(answered, sent.into_iter().collect::<BTreeSet<u32>>());
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(fs::read(path(n)).expect("a file"), bytes(n), "file {n}");
        let read = sftp.read(handle, 200_000, 150_000).expect("bytes");
        assert_eq!(read, bytes(n)[200_000..], "file {n}");
        assert_eq!(sftp.close(handle), OK);
    }
    sftp.end();
}

/// Answers may come in any order; each bears the number of its request, and what was asked for.
#[test]
fn many_files_are_read_at_once() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let mut sftp = Sftp::start(&gateway);
    let files: Vec<(Vec<u8>, Vec<u8>)> = (0..8)
        .map(|n: usize| {
            let path = folder.path().join(format!("file{n}"));
            let bytes = noise(400_000 + n, n as u64);
            fs::write(&path, &bytes).expect("a file");
            (sftp.open(path.as_os_str().as_bytes(), READ).expect("a handle"), bytes)
        })
        .collect();
    // Pieces of all files among one another, the last first, and one behind the end of each.
    let mut asked = BTreeMap::new();
    for piece in (0..=8).rev() {
        for (n, (handle, _)) in files.iter().enumerate() {
            let at = piece * 60_000;
            asked.insert(sftp.send_read(handle, at as u64, 60_000), (n, at));
        }
    }
    while !asked.is_empty() {
        let (id, answer) = sftp.hear_data();
        let (n, at) = asked.remove(&id).expect("asked for, and not answered yet");
        let bytes = &files[n].1;
        let Some(wanted) = bytes.get(at..bytes.len().min(at + 60_000)) else {
            assert_eq!(answer, Err(EOF), "{at} of file {n}");
            continue;
        };
        let some = answer.expect("bytes");
        assert!(!some.is_empty() && wanted.starts_with(&some), "{at} of file {n}");
        if some.len() < wanted.len() {
            // Less than was asked for is allowed: the rest is asked for.
            let at = at + some.len();
            let left = (wanted.len() - some.len()) as u32;
            asked.insert(sftp.send_read(&files[n].0, at as u64, left), (n, at));
        }
    }
    for (handle, _) in &files {
        assert_eq!(sftp.close(handle), OK);
    }
    sftp.end();
}

#[test]
fn a_size_is_set_by_name_too() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    let path = file.as_os_str().as_bytes();
    fs::write(&file, b"0123456789").expect("a file");
    let mut sftp = Sftp::start(&gateway);
    assert_eq!(sftp.set_size_of(path, 4), OK);
    assert_eq!(fs::read(&file).expect("a file"), b"0123");
    assert_eq!(sftp.set_size_of(path, 6), OK);
    assert_eq!(fs::read(&file).expect("a file"), b"0123\0\0");
    assert_eq!(sftp.set_size_of(path, 5 * GIB), OK);
    assert_eq!(sftp.size(path), Ok(5 * GIB));
    // No file has more than 2^63 - 1 bytes.
    assert_eq!(sftp.set_size_of(path, u64::MAX), BAD_MESSAGE);
    assert_eq!(sftp.size(path), Ok(5 * GIB));
    assert_eq!(sftp.set_size_of(folder.path().as_os_str().as_bytes(), 0), FAILURE);
    assert_eq!(sftp.set_size_of(b"/nowhere/at/all", 0), NO_SUCH_FILE);
    assert_eq!(sftp.set_size_of(path, 0), OK);
    assert_eq!(fs::read(&file).expect("a file"), b"");
    sftp.end();
}

#[test]
fn appended_data_stays_in_order_wherever_it_is_sent_to() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log");
    fs::write(&file, b"before\n").expect("a file");
    let mut sftp = Sftp::start(&gateway);
    let handle = sftp.open(file.as_os_str().as_bytes(), WRITE | APPEND).expect("a handle");
    let lines: Vec<String> =
        (0..300).map(|n| format!("line {n} {}\n", "x".repeat(n * 7))).collect();
    // None waits for the answer to another, and all are sent to the beginning.
    for line in &lines {
        sftp.send_write(&handle, 0, line.as_bytes());
    }
    for _ in &lines {
        assert_eq!(sftp.hear_status().1, OK);
    }
    let whole = format!("before\n{}", lines.concat());
    assert!(fs::read(&file).expect("a file") == whole.as_bytes());
    assert_eq!(sftp.close(&handle), OK);
    sftp.end();
}

/// What has been acknowledged is in the file, wherever the client stops being there.
#[test]
fn what_a_killed_client_was_told_is_written_is_written() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = noise(8 << 20, 5);
    for (round, acknowledged) in [1, 5, 40, 120].into_iter().enumerate() {
        let file = folder.path().join(format!("file{round}"));
        let mut sftp = Sftp::start(&gateway);
        let handle = sftp.open(file.as_os_str().as_bytes(), WRITE | CREATE).expect("a handle");
        let pieces: Vec<&[u8]> = bytes.chunks(50_000).collect();
        let mut at_of = Vec::new();
        let mut written = Vec::new();
        let ahead = 16;
        for (n, piece) in pieces.iter().enumerate() {
            let at = n * 50_000;
            at_of.push((sftp.send_write(&handle, at as u64, piece), at, piece.len()));
            if n >= ahead {
                let (id, status) = sftp.hear_status();
                assert_eq!(status, OK);
                written.push(id);
            }
            if written.len() == acknowledged {
                break;
            }
        }
        sftp.kill();
        let there = fs::read(&file).expect("a file");
        for (_, at, len) in at_of.iter().filter(|(id, ..)| written.contains(id)) {
            assert!(there[*at..at + len] == bytes[*at..at + len], "{at} of file {round}");
        }
    }
    gateway.assert_alive();
}

/// A thousand, or `TIDEGATE_TEST_SMALL_FILES`.
#[test]
fn small_files_go_up_and_down_by_the_stock_client() {
    let count = std::env::var("TIDEGATE_TEST_SMALL_FILES");
    let count = count.map_or(1000, |count| count.parse().expect("a number"));
    let gateway = Gateway::start(&[]);
    let (near, far) = (gateway.path("near"), gateway.path("far"));
    fs::create_dir(&near).expect("a folder");
    for n in 0..count {
        fs::write(near.join(format!("file{n}")), noise(n * 3 % 5000, n as u64)).expect("a file");
    }
    let back = gateway.path("back");
    let batch = format!(
        "put -r {} {}\nget -r {} {}\n",
        near.display(),
        far.display(),
        far.display(),
        back.display()
    );
    let output = gateway.sftp(&[], &batch);
    assert!(output.status.success(), "{output:?}\n{}", gateway.log());
    for copy in [&far, &back] {
        run_ok(std::process::Command::new("diff").arg("-r").arg(&near).arg(copy));
    }
    assert_eq!(fs::read_dir(&back).expect("a folder").count(), count);
}
