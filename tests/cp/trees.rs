//! Directories, and the names in them.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::server::{both, text};
use crate::{folder, here, run, run_well, there};

/// Every path below, with mode, modification time and contents.
fn listing(at: &Path) -> Vec<(Vec<u8>, u32, i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![at.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let about = fs::metadata(&path).expect("its attributes");
            let name = path.strip_prefix(at).expect("below").as_os_str().as_bytes().to_vec();
            let content = if about.is_file() { fs::read(&path).expect("it") } else { Vec::new() };
            all.push((name, about.mode() & 0o777, about.mtime(), content));
            if about.is_dir() {
                folders.push(path);
            }
        }
    }
    all.sort();
    all
}

fn plant(at: &Path) {
    for name in ["plain", "empty dir", "deep/er/st", "many"] {
        fs::create_dir_all(at.join(name)).expect("a folder");
    }
    let odd: [&[u8]; 6] = [b"\xff\xfe", b"a b", b"new\nline", b"..a", b"-r", b"*?[x]"];
    for (number, name) in odd.iter().enumerate() {
        fs::write(at.join("plain").join(OsStr::from_bytes(name)), [number as u8; 9]).expect("one");
    }
    for number in 0..150 {
        fs::write(at.join(format!("many/{number}")), format!("{number}")).expect("a file");
    }
    fs::write(at.join("deep/er/st/empty"), "").expect("a file");
    fs::write(at.join("deep/secret"), "x").expect("a file");
    fs::set_permissions(at.join("deep/secret"), Permissions::from_mode(0o400)).expect("a mode");
    fs::write(at.join("run"), "x").expect("a file");
    fs::set_permissions(at.join("run"), Permissions::from_mode(0o755)).expect("a mode");
    // Followed, as scp follows them.
    symlink("run", at.join("link")).expect("a link");
    fs::set_permissions(at.join("plain"), Permissions::from_mode(0o500)).expect("a mode");
    let times = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_007));
    for name in ["run", "plain", "deep/er/st", "deep"] {
        fs::File::open(at.join(name)).expect("it").set_times(times).expect("times");
    }
}

#[test]
fn trees_go_there_and_come_back() {
    both(&[], |server| {
        let from = folder(server, "tree");
        plant(&from);
        let expected = listing(&from);
        let place = folder(server, "place");
        run_well(server, &["-rpq", &here(&from), &there(&place)]);
        assert_eq!(listing(&place.join("tree")), expected);
        let back = folder(server, "back");
        run_well(server, &["-rpq", "--streams", "1", &there(&place.join("tree")), &here(&back)]);
        assert_eq!(listing(&back.join("tree")), expected);
        // A name that is not there yet becomes the copy's; what is there already is written over.
        run_well(server, &["-rpq", &there(&place.join("tree")), &here(&back.join("new"))]);
        run_well(server, &["-rpq", &there(&place.join("tree")), &there(&place.join("new"))]);
        run_well(server, &["-rpq", &here(&from), &there(&place)]);
        assert_eq!(listing(&back.join("new")), expected);
        assert_eq!(listing(&place.join("new")), expected);
        assert_eq!(listing(&place.join("tree")), expected);
    });
}

#[test]
fn parts_of_trees_dry_runs_and_json() {
    both(&[], |server| {
        let from = folder(server, "tree");
        plant(&from);
        let place = folder(server, "place");
        let words = ["-r", "--include", "7", "--exclude", "many/*", "--exclude", "plain"];
        let (from, to) = (here(&from), there(&place));
        let said = run_well(server, &[&words[..], &["--dry-run", &from, &to]].concat());
        assert!(said.contains("would copy") && fs::read_dir(&place).expect("it").count() == 0);
        let output = run(server, &[&words[..], &["--json", &from, &to]].concat());
        let lines: Vec<serde_json::Value> = text(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let summary = lines.last().expect("a summary");
        assert_eq!(summary["event"], "summary");
        // deep/er/st/empty, deep/secret, run, link and many/7.
        assert_eq!((&summary["files"], &summary["failed"]), (&5.into(), &0.into()));
        let tree = place.join("tree");
        assert!(tree.join("many/7").exists() && !tree.join("many/8").exists());
        assert!(!tree.join("plain").exists() && tree.join("deep/er/st/empty").exists());

        // A link that leads nowhere, and one that leads back, are errors; the rest is copied.
        let odd = folder(server, "odd");
        fs::write(odd.join("fine"), "x").expect("a file");
        symlink("nowhere", odd.join("gone")).expect("a link");
        fs::create_dir_all(odd.join("deep/er")).expect("a folder");
        symlink("../..", odd.join("deep/er/up")).expect("a link");
        symlink("er", odd.join("deep/aside")).expect("a link");
        for (source, target) in [(there(&odd), here(&place)), (here(&odd), there(&place))] {
            let output = run(server, &["-rq", &source, &target]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1));
            assert!(said.contains("a link that leads nowhere"), "{said}");
            assert!(said.contains("er/up: a link to a directory that it is in"), "{said}");
            assert!(place.join("odd/fine").exists() && place.join("odd/deep/aside").is_dir());
            assert!(!place.join("odd/deep/er/up").exists() && said.lines().count() == 3, "{said}");
            fs::remove_dir_all(place.join("odd")).expect("it");
        }
    });
}
