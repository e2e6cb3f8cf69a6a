//! What the rights of folders and a quota let through, whatever links and names are used.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::services::{Files, Folder, Quota};
use crate::wire::sftp::open;

struct Scene {
    folder: TempDir,
    root: Root,
}

impl Scene {
    fn new(folders: &[(&str, &str)], quota: Quota) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["in", "out/deep", "hidden", "free"] {
            fs::create_dir_all(folder.path().join(name)).expect("folders");
        }
        for name in ["in/old", "out/file", "out/deep/file", "hidden/file", "free/file"] {
            fs::write(folder.path().join(name), "12345").expect("a file");
        }
        let rights = |text| Rights::parse(text).expect("rights");
        let folders = folders.iter();
        let folders =
            folders.map(|(path, text)| Folder { path: (*path).into(), rights: rights(text) });
        let folders = folders.collect();
        let files = Files { root: folder.path().into(), service: None, folders, quota };
        let root = Root::Unopened(files.into()).opened().expect("it opens");
        Scene { folder, root }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn code(&self, job: FsJob) -> u32 {
        match run(&self.root, job) {
            FsDone::Failed(failure) => failure.code.number(),
            FsDone::Opened(opened) => {
                // SAFETY: the descriptor was just opened and is owned by nobody else.
                drop(unsafe { OwnedFd::from_raw_fd(opened.fd.0) });
                0
            }
            FsDone::OpenedDirectory(fd) => {
                // SAFETY: as above.
                drop(unsafe { OwnedFd::from_raw_fd(fd.0) });
                0
            }
            _ => 0,
        }
    }

    fn open(&self, path: &str, flags: u32) -> u32 {
        self.code(FsJob::Open { path: c(path), flags, permissions: 0o600, umask: None })
    }

    fn list(&self, path: &str) -> u32 {
        self.code(FsJob::OpenDirectory { path: c(path) })
    }

    fn rename(&self, from: &str, to: &str) -> u32 {
        let plain = self.code(FsJob::Rename { from: c(from), to: c(to), replace: false });
        match plain {
            0 => 0,
            _ => self.code(FsJob::Rename { from: c(from), to: c(to), replace: true }),
        }
    }

    fn make(&self, path: &str) -> u32 {
        self.code(FsJob::MakeDirectory { path: c(path), permissions: 0o700, umask: None })
    }

    fn remove(&self, path: &str) -> u32 {
        self.code(FsJob::Remove { path: c(path) })
    }

    fn size(&self, path: &str, size: u64) -> u32 {
        let attributes = Attributes { size: Some(size), ..Attributes::EMPTY };
        self.code(FsJob::SetStat { subject: Subject::Path(c(path)), attributes })
    }
}

fn c(path: &str) -> CString {
    CString::new(path).expect("no NUL")
}

const PUT: u32 = open::WRITE | open::CREATE | open::TRUNCATE;
const FOLDERS: [(&str, &str); 4] =
    [("/", "read,list"), ("/in", "write"), ("/hidden", "none"), ("/free", "all")];

#[test]
fn case_114_rights_are_those_of_the_folder_that_a_path_leads_to() {
    let scene = Scene::new(&FOLDERS, Quota::default());
    symlink("/in", scene.at("free/to_in")).expect("a link");
    symlink("/out", scene.at("free/to_out")).expect("a link");
    symlink("/out/new", scene.at("free/to_new")).expect("a link");
    symlink("/free", scene.at("out/to_free")).expect("a link");
    symlink("/hidden", scene.at("free/to_hidden")).expect("a link");
    // Read-only.
    for path in ["/out/file", "/free/../out/file", "/free/to_out/file"] {
        assert_eq!(scene.open(path, open::READ), 0, "{path}");
        assert_eq!(scene.open(path, open::WRITE), 3, "{path}");
        assert_eq!(scene.open(path, PUT), 3, "{path}");
        assert_eq!(scene.remove(path), 3, "{path}");
        assert_eq!(scene.size(path, 0), 3, "{path}");
        assert_eq!(scene.rename(path, "/free/stolen"), 3, "{path}");
    }
    for path in ["/out/new", "/free/to_out/new", "/free/to_new", "/out/to_free/../new", "/new"] {
        assert_eq!(scene.open(path, PUT), 3, "{path}");
        let link = FsJob::HardLink { existing: c("/free/file"), path: c(path) };
        assert_ne!(scene.code(link), 0, "{path}");
    }
    // Write-only: what comes is made, and then nobody sees it.
    for path in ["/in/new", "/free/to_in/newer"] {
        assert_eq!(scene.open(path, PUT), 0, "{path}");
        assert_eq!(scene.open(path, PUT), 3, "{path}: it is there now");
        assert_eq!(scene.open(path, open::READ), 3, "{path}");
        assert_eq!(scene.open(path, open::READ | open::WRITE), 3, "{path}");
        assert_eq!(scene.remove(path), 3, "{path}");
        assert_eq!(scene.rename(path, "/free/x"), 3, "{path}");
    }
    let exclusive = open::WRITE | open::CREATE | open::EXCLUSIVE;
    assert_eq!(scene.open("/in/old", exclusive), 4, "the kernel says that it exists");
    assert_eq!((scene.list("/in"), scene.list("/free/to_in"), scene.list("/")), (3, 3, 0));
    assert_eq!(scene.open("/in", open::READ), 3, "nor by opening it as a file");
    assert_eq!((scene.make("/in/made"), scene.make("/made"), scene.make("/free/made")), (0, 3, 0));
    // Hidden: as if nothing were there.
    for path in ["/hidden/file", "/hidden/none", "/free/to_hidden/file"] {
        for subject in [Subject::Path(c(path)), Subject::Link(c(path))] {
            assert_eq!(scene.code(FsJob::Stat { subject }), 2, "{path}");
        }
        assert_eq!(
            scene.code(FsJob::RealPath { base: Box::new(*b"/"), path: path.as_bytes().into() }),
            2
        );
    }
    assert_eq!((scene.open("/hidden/file", open::READ), scene.open("/hidden/x", PUT)), (2, 2));
    // A second name would be a way round the first one's rights.
    assert_eq!(scene.code(FsJob::HardLink { existing: c("/out/file"), path: c("/free/x") }), 3);
    // Free.
    assert_eq!(scene.open("/free/file", PUT), 0);
    assert_eq!(scene.rename("/free/file", "/free/moved"), 0);
    assert_eq!(scene.rename("/free/moved", "/in/moved"), 0, "given away");
    assert_eq!(scene.rename("/free", "/out/free"), 3, "a folder with rights of its own stays");
    assert_eq!(scene.rename("/in", "/free/in"), 3);
    assert_eq!(fs::read(scene.at("out/file")).expect("a file"), b"12345");
}

#[test]
fn quotas_are_kept_to_the_byte() {
    // Five files of five bytes and five folders are there.
    let quota = Quota { bytes: Some(40), files: Some(12) };
    let scene = Scene::new(&[], quota);
    let free = |bytes: u64| {
        let fits = scene.root.take_bytes(bytes).is_ok() && scene.root.take_bytes(1).is_err();
        assert!(fits, "{bytes} bytes are free");
        if let Some(ledger) = scene.root.judged().and_then(|fence| fence.ledger.as_ref()) {
            ledger.give_bytes(bytes);
        }
    };
    free(15);
    assert_eq!(scene.size("/in/old", 15), 0);
    free(5);
    assert_eq!(scene.size("/in/old", 21), 4, "as EDQUOT is answered");
    assert_eq!(fs::metadata(scene.at("in/old")).expect("a file").len(), 15);
    assert_eq!(scene.size("/in/old", 20), 0);
    free(0);
    assert_eq!(scene.size("/in/old", 2), 0);
    free(18);
    assert_eq!(scene.open("/out/file", open::WRITE | open::TRUNCATE), 0);
    free(23);
    assert_eq!(scene.remove("/free/file"), 0);
    free(28);
    // Nine names are left: three more may come.
    assert_eq!(scene.open("/a", PUT), 0);
    assert_eq!(scene.code(FsJob::SymbolicLink { target: c("x"), path: c("/b") }), 0);
    assert_eq!(scene.make("/c"), 0);
    for _ in 0..2 {
        assert_eq!(scene.make("/d"), 4);
        assert_eq!(scene.open("/d", PUT), 4);
        assert!(!scene.at("d").exists());
    }
    assert_eq!(scene.make("/c"), 4, "what fails takes nothing");
    assert_eq!(scene.rename("/out/deep/file", "/a"), 0, "in the place of another");
    assert_eq!(scene.open("/d", PUT), 0);
    assert_eq!(scene.open("/e", PUT), 4);
    assert_eq!(scene.code(FsJob::RemoveDirectory { path: c("/c") }), 0);
    assert_eq!(scene.open("/e", PUT), 0);
    // Others of the same account share it, and one that comes later counts anew.
    let files = Files { root: scene.folder.path().into(), quota, ..Files::default() };
    let other = Root::Unopened(files.clone().into()).opened().expect("it opens");
    assert_eq!(other.take_bytes(29), Err(Errno::EDQUOT));
    drop(other);
    let place = scene.folder;
    drop(scene.root);
    fs::write(place.path().join("e"), [0; 28]).expect("a file");
    let later = Root::Unopened(files.into()).opened().expect("it opens");
    assert_eq!(later.take_bytes(1), Err(Errno::EDQUOT));
}
