//! SECURITY cases 108 and 109: nothing leads out of a root, and nothing tells what is outside.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, io, thread};

use tempfile::TempDir;

use super::*;
use crate::wire::sftp::open;

const SECRET: &str = "outside";

/// A directory that is a root, with ways that seem to lead out, and a file beside it.
struct Scene {
    folder: TempDir,
    root: Root,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path();
        fs::create_dir_all(top.join("root/dir/deep")).expect("the root");
        fs::create_dir(top.join("closed")).expect("a folder outside");
        for name in ["secret", "closed/secret"] {
            fs::write(top.join(name), SECRET).expect("a file outside");
        }
        fs::write(top.join("root/file"), "inside").expect("a file");
        fs::write(top.join("root/dir/file"), "deeper").expect("a file");
        let outside = top.join("secret");
        for (target, link) in [
            (outside.as_path(), "to_secret"),
            (Path::new("../secret"), "up"),
            (Path::new("../../../../../../../../../../etc/passwd"), "high"),
            (top, "to_top"),
            (Path::new(".."), "parent"),
            (Path::new("/"), "slash"),
            (Path::new("/file"), "absolute"),
            (Path::new("/dir/../file"), "dotted"),
            (Path::new("../file"), "dir/relative"),
            (Path::new("/proc/self/root"), "magic"),
            (Path::new("/new"), "to_new"),
        ] {
            symlink(target, top.join("root").join(link)).expect("a link");
        }
        let root = Root::Unopened(crate::services::Files::all(top.join("root")).into())
            .opened()
            .expect("it opens");
        Scene { folder, root }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, job: FsJob) -> FsDone {
        run(&self.root, job)
    }

    /// Its content, or the number of the status.
    fn read(&self, path: &str) -> Result<String, u32> {
        self.open(path, open::READ).map(|file| io::read_to_string(file).expect("readable"))
    }

    fn open(&self, path: &str, flags: u32) -> Result<fs::File, u32> {
        let job = FsJob::Open { path: c(path), flags, permissions: 0o600, umask: None };
        match self.run(job) {
            // SAFETY: the descriptor was just opened and is owned by nobody else.
            FsDone::Opened(opened) => Ok(unsafe { OwnedFd::from_raw_fd(opened.fd.0) }.into()),
            other => Err(code(&other)),
        }
    }

    fn real(&self, path: &str) -> Result<String, u32> {
        let job = FsJob::RealPath { base: Box::new(*b"/dir"), path: path.as_bytes().into() };
        match self.run(job) {
            FsDone::Path(path) => Ok(String::from_utf8(path).expect("UTF-8")),
            other => Err(code(&other)),
        }
    }

    fn outside_is_untouched(&self) {
        for name in ["secret", "closed/secret"] {
            assert_eq!(fs::read_to_string(self.at(name)).expect("it is there"), SECRET);
        }
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .expect("a listing")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["closed", "root", "secret"]);
    }
}

use std::path::Path;

fn c(path: &str) -> CString {
    CString::new(path).expect("no NUL")
}

fn code(done: &FsDone) -> u32 {
    match done {
        FsDone::Failed(failure) => failure.code.number(),
        _ => 0,
    }
}

#[test]
fn case_108_links_and_dots_stay_inside() {
    let scene = Scene::new();
    for path in ["/file", "//file", "/../../file", "/dir/../file", "/absolute", "/dotted"] {
        assert_eq!(scene.read(path).as_deref(), Ok("inside"), "{path}");
    }
    for path in ["/dir/relative", "/parent/file", "/slash/file", "/slash/slash/parent/file"] {
        assert_eq!(scene.read(path).as_deref(), Ok("inside"), "{path}");
    }
    for (path, real) in [
        ("..", "/"),
        ("../../..", "/"),
        ("/parent/dir/../..", "/"),
        ("/slash/parent/dir/relative", "/file"),
        ("relative", "/file"),
        ("/absolute", "/file"),
        ("/up", "/secret"),
        ("/to_new", "/new"),
        ("/", "/"),
    ] {
        assert_eq!(scene.real(path).as_deref(), Ok(real), "{path}");
    }
    for path in ["/to_secret", "/up", "/high", "/to_top/secret", "/../secret", "/magic/etc/passwd"]
    {
        assert_eq!(scene.read(path), Err(2), "{path}");
    }
    let FsDone::Path(target) = scene.run(FsJob::ReadLink { path: c("/up") }) else {
        panic!("a link")
    };
    assert_eq!(target, b"../secret", "what a link says is its own affair");
    assert_eq!(code(&scene.run(FsJob::ReadLink { path: c("/file") })), 5);
    scene.outside_is_untouched();
}

#[test]
fn case_108_changes_stay_inside() {
    let scene = Scene::new();
    let run = |job| code(&scene.run(job));
    let mode = |name: &str| {
        fs::metadata(scene.at(name)).expect("it is there").permissions().mode() & 0o7777
    };
    let file =
        scene.open("/to_new", open::WRITE | open::CREATE).expect("made where the link leads");
    drop(file);
    assert!(scene.at("root/new").exists());
    assert!(scene.open("/to_secret", open::WRITE | open::TRUNCATE).is_err());
    let attributes = Attributes { permissions: Some(0o640), ..Attributes::EMPTY };
    let set = |path: &str, attributes| {
        run(FsJob::SetStat { subject: Subject::Path(c(path)), attributes })
    };
    assert_eq!((set("/absolute", attributes), mode("root/file")), (0, 0o640));
    assert_eq!(set("/up", attributes), 2);
    let size = Attributes { size: Some(2), times: Some((5, 6)), ..Attributes::EMPTY };
    assert_eq!(set("/absolute", size), 0);
    assert_eq!(fs::read(scene.at("root/file")).expect("a file"), b"in");
    let changed = fs::metadata(scene.at("root/file")).expect("a file").modified().expect("a time");
    assert_eq!(changed, std::time::UNIX_EPOCH + std::time::Duration::from_secs(6));
    assert_eq!(set("/dir", size), 4, "a directory has no size to set");
    let link = |attributes| FsJob::SetStat { subject: Subject::Link(c("/up")), attributes };
    assert_eq!(run(link(Attributes { times: Some((1, 2)), ..Attributes::EMPTY })), 0);
    assert_eq!(run(link(attributes)), 4, "links have no mode");
    let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    assert_eq!(set("/absolute", Attributes { owner: Some(owner), ..Attributes::EMPTY }), 0);

    let rename =
        |from: &str, to: &str, replace| run(FsJob::Rename { from: c(from), to: c(to), replace });
    assert_eq!(rename("/new", "/../../newer", false), 0);
    assert!(scene.at("root/newer").exists());
    assert_eq!(rename("/newer", "/to_top/x", true), 2);
    assert_eq!(rename("/../secret", "/x", true), 2);
    for root in ["/", "/..", "/dir/.."] {
        assert_eq!(rename(root, "/x", true), 4, "{root}");
        assert_eq!(rename("/newer", root, true), 4, "{root}");
        assert_ne!(run(FsJob::RemoveDirectory { path: c(root) }), 0, "{root}");
        assert_ne!(run(FsJob::Remove { path: c(root) }), 0, "{root}");
        let path = c(root);
        assert_eq!(run(FsJob::MakeDirectory { path, permissions: 0o700, umask: None }), 4);
    }
    let hard =
        |existing: &str, path: &str| run(FsJob::HardLink { existing: c(existing), path: c(path) });
    assert_eq!(hard("/../secret", "/x"), 2);
    assert_eq!(hard("/to_top/secret", "/x"), 2);
    assert_eq!((hard("/..", "/x"), hard("/dir/", "/x")), (3, 3), "a directory has one name");
    assert_eq!((hard("/file/", "/x"), hard("/file", "/../twin")), (2, 0));
    assert!(scene.at("root/twin").exists());
    let soft =
        |target: &str, path: &str| run(FsJob::SymbolicLink { target: c(target), path: c(path) });
    assert_eq!(soft("/secret", "/../../soft"), 0);
    assert!(scene.at("root/soft").is_symlink());
    assert_eq!(soft("x", "/to_top/soft"), 2);
    let path = c("/../made");
    assert_eq!(run(FsJob::MakeDirectory { path, permissions: 0o700, umask: None }), 0);
    assert_eq!(run(FsJob::RemoveDirectory { path: c("/made/") }), 0);
    assert_eq!(run(FsJob::Remove { path: c("/to_secret") }), 0, "the link, not the file");
    assert_eq!(run(FsJob::Remove { path: c("/../secret") }), 2);
    assert_eq!(code(&scene.run(FsJob::VfsStat { subject: Subject::Path(c("/up")) })), 2);
    assert_eq!(code(&scene.run(FsJob::VfsStat { subject: Subject::Path(c("/parent")) })), 0);
    scene.outside_is_untouched();
}

/// The answer is the same whether or not there is something outside, for every request.
#[test]
fn case_109_what_is_outside_is_not_told() {
    let scene = Scene::new();
    symlink("../missing", scene.at("root/up_missing")).expect("a link");
    symlink(scene.at("missing"), scene.at("root/to_missing")).expect("a link");
    symlink(scene.at("closed"), scene.at("root/to_closed")).expect("a link");
    let outside = scene.folder.path().display();
    let pairs = [
        ("/up".to_owned(), "/up_missing".to_owned()),
        ("/to_secret".to_owned(), "/to_missing".to_owned()),
        ("/../secret".to_owned(), "/../missing".to_owned()),
        ("/to_closed/secret".to_owned(), "/to_missing/secret".to_owned()),
        ("/to_closed/".to_owned(), "/to_missing/".to_owned()),
        (format!("{outside}/secret"), format!("{outside}/missing")),
        ("/etc/passwd".to_owned(), "/etc/missing".to_owned()),
    ];
    for (there, missing) in &pairs {
        for (number, (a, b)) in
            every_request(there).into_iter().zip(every_request(missing)).enumerate()
        {
            let (a, b) = (scene.run(a), scene.run(b));
            let (shown, other) = (format!("{a:?}"), format!("{b:?}"));
            assert_eq!(code(&a), code(&b), "{number} {there}: {shown} {other}");
            match (a, b) {
                (FsDone::Failed(a), FsDone::Failed(b)) => assert_eq!(a.text, b.text),
                // A name that does not exist: told as it was asked for.
                (FsDone::Path(a), FsDone::Path(b)) => {
                    let swapped = String::from_utf8_lossy(&a).replace("secret", "missing");
                    let swapped = swapped.replace("passwd", "missing").replace("closed", "missing");
                    assert_eq!(swapped, String::from_utf8_lossy(&b), "{there}");
                }
                (FsDone::Attributes(a), FsDone::Attributes(b)) => {
                    assert_eq!(a.permissions, b.permissions, "the links themselves");
                }
                _ => assert_eq!(shown, other),
            }
        }
    }
    // Nor who has an account here.
    for user in ["root", "no-such-user-here", ""] {
        let home = scene.run(FsJob::HomeDirectory { user: user.as_bytes().into() });
        assert_eq!(code(&home), 4, "{user}");
    }
    let expand = |path: &str| {
        let (base, path) = (Box::new(*b"/dir"), path.as_bytes().into());
        match scene.run(FsJob::ExpandPath { base, path }) {
            FsDone::Path(path) => Ok(String::from_utf8(path).expect("UTF-8")),
            FsDone::Failed(failure) => Err(failure.text),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(expand("~root"), expand("~no-such-user-here"));
    assert_eq!(expand("~/file").as_deref(), Ok("/dir/file"));
    let (users, groups) = (Box::from(0_u32.to_be_bytes()), Box::from(0_u32.to_be_bytes()));
    let FsDone::Names { users, groups } = scene.run(FsJob::NamesById { users, groups }) else {
        panic!("names")
    };
    assert_eq!((users, groups), (vec![0; 4], vec![0; 4]));
}

/// Requests that leave nothing behind when what they name is not there.
fn every_request(path: &str) -> Vec<FsJob> {
    let at = || c(path);
    let attributes = Attributes { permissions: Some(0o600), ..Attributes::EMPTY };
    vec![
        FsJob::Open { path: at(), flags: open::READ, permissions: 0, umask: None },
        FsJob::Open { path: at(), flags: open::WRITE, permissions: 0, umask: None },
        FsJob::OpenDirectory { path: at() },
        FsJob::Stat { subject: Subject::Path(at()) },
        FsJob::Stat { subject: Subject::Link(at()) },
        FsJob::VfsStat { subject: Subject::Path(at()) },
        FsJob::SetStat { subject: Subject::Path(at()), attributes },
        FsJob::ReadLink { path: c(&format!("{path}/x")) },
        FsJob::RealPath { base: Box::new(*b"/"), path: path.as_bytes().into() },
        FsJob::RealPath { base: Box::new(*b"/"), path: format!("{path}/x").into_bytes().into() },
        FsJob::Remove { path: c(&format!("{path}/x")) },
        FsJob::RemoveDirectory { path: c(&format!("{path}/x")) },
        FsJob::MakeDirectory { path: c(&format!("{path}/x")), permissions: 0o700, umask: None },
        FsJob::Rename { from: c(&format!("{path}/x")), to: c("/renamed"), replace: false },
        FsJob::Rename { from: c("/file"), to: c(&format!("{path}/x")), replace: true },
        FsJob::HardLink { existing: c(&format!("{path}/x")), path: c("/linked") },
        FsJob::HardLink { existing: c("/file"), path: c(&format!("{path}/x")) },
        FsJob::SymbolicLink { target: c("x"), path: c(&format!("{path}/x")) },
    ]
}

#[test]
fn case_109_the_parent_of_the_root_is_the_root() {
    let scene = Scene::new();
    fs::set_permissions(scene.folder.path(), fs::Permissions::from_mode(0o700)).expect("a mode");
    fs::set_permissions(scene.at("root"), fs::Permissions::from_mode(0o751)).expect("a mode");
    let FsDone::OpenedDirectory(fd) = scene.run(FsJob::OpenDirectory { path: c("/dir/..") }) else {
        panic!("a directory")
    };
    let done = scene.run(FsJob::ReadDirectory { fd, accounts: Box::default() });
    let FsDone::Entries { encoded, .. } = done else { panic!("entries") };
    let text = String::from_utf8_lossy(&encoded);
    assert_eq!(text.matches("drwxr-x--x").count(), 2, "both dots are the root: {text}");
    assert_eq!(text.matches("drwx------").count(), 0, "{text}");
    assert!(!text.contains("root "), "accounts have numbers: {text}");
    assert_eq!(code(&scene.run(FsJob::Close { fd })), 0);
}

/// Somebody swaps directories and links for one another as fast as he can, so that what was a directory
/// when it was looked at is a way out when it is used.
#[test]
fn case_108_a_race_for_the_way_out_is_lost() {
    const ROUNDS: usize = 6_000;
    let scene = Scene::new();
    let root = scene.at("root");
    fs::create_dir(root.join("swap")).expect("a folder");
    fs::write(root.join("swap/secret"), "inside").expect("a file");
    fs::create_dir_all(root.join("a/b")).expect("folders");
    symlink(scene.folder.path(), root.join("trap")).expect("a link");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let swapper = || {
            let at =
                |name: &str| CString::new(root.join(name).into_os_string().into_vec()).expect("-");
            let (swap, trap) = (at("swap"), at("trap"));
            let (deep, top) = (at("a/b"), at("b"));
            let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            let here = nix::fcntl::AT_FDCWD;
            while !over.load(Ordering::Relaxed) {
                let _ = nix::fcntl::renameat2(here, &*swap, here, &*trap, exchange);
                let _ = renameat(here, &*deep, here, &*top);
                let _ = renameat(here, &*top, here, &*deep);
            }
        };
        scope.spawn(swapper);
        scope.spawn(swapper);
        for round in 0..ROUNDS {
            let path = ["/swap/secret", "/a/b/../../swap/secret", "/trap/secret"][round % 3];
            if let Ok(content) = scene.read(path) {
                assert_eq!(content, "inside", "{path}");
            }
            let path = c(["/swap/new", "/a/b/../../../new", "/trap/new"][round % 3]);
            let (permissions, umask) = (0o777, None);
            scene.run(match round % 5 {
                0 => FsJob::Remove { path: c("/swap/secret2") },
                1 => FsJob::MakeDirectory { path, permissions, umask },
                2 => FsJob::RemoveDirectory { path },
                3 => FsJob::Rename { from: c("/swap/secret"), to: path, replace: true },
                _ => FsJob::SetStat {
                    subject: Subject::Path(c("/swap/secret")),
                    attributes: Attributes {
                        size: Some(6),
                        permissions: Some(0o666),
                        ..Attributes::EMPTY
                    },
                },
            });
            let _ = scene.real("/swap/../a/b/..");
        }
        over.store(true, Ordering::Relaxed);
    });
    scene.outside_is_untouched();
    let mode = fs::metadata(scene.at("secret")).expect("it is there").permissions().mode();
    assert_ne!(mode & 0o777, 0o666, "its mode was not set");
}
