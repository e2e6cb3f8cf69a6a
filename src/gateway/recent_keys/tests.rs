use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use super::*;

const KEY: &[u8] = b"the key";

struct Scene {
    folder: tempfile::TempDir,
    account: Account,
    recent: RecentKeys,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("home")).expect("a folder");
        let account = Account {
            name: "ann".to_owned(),
            uid: 1,
            gid: 1,
            home: folder.path().join("home"),
            shell: "/bin/sh".into(),
        };
        let scene = Scene { folder, account, recent: RecentKeys::default() };
        fs::write(scene.path(), "line").expect("a file");
        scene
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("home/keys")
    }

    fn reader(&self) -> Reader<'_> {
        Reader { account: &self.account, groups: &[1, 7] }
    }

    /// So many seconds after its last change.
    fn remember_after(&self, seconds: u64) {
        let seen = fs::metadata(self.path()).expect("it");
        let now = seen.ctime() as u64 + seconds;
        let line = KeyLine { number: 3, text: b"line".as_slice().into() };
        let about = (&seen, Instant::default(), now);
        self.recent.remember((&self.path(), KEY), self.reader(), line, about);
    }

    fn finds_at(&self, at: Instant) -> bool {
        let found = self.recent.find((&self.path(), KEY), self.reader(), at);
        found.is_some_and(|line| line.number == 3 && *line.text == *b"line")
    }

    fn finds(&self) -> bool {
        self.finds_at(Instant::default())
    }
}

#[test]
fn a_line_counts_again_for_a_moment_and_for_the_same_rights() {
    let scene = Scene::new();
    assert!(!scene.finds());
    scene.remember_after(2);
    assert!(scene.finds() && scene.finds());
    let path = scene.path();
    let find = |blob: &[u8], reader| scene.recent.find((&path, blob), reader, Instant::default());
    assert_eq!(find(b"another key", scene.reader()), None);
    assert_eq!(find(KEY, Reader { groups: &[1], ..scene.reader() }), None);
    let other = Account { gid: 2, ..scene.account.clone() };
    assert_eq!(find(KEY, Reader { account: &other, ..scene.reader() }), None);
    assert!(!scene.finds_at(Instant::default().after(RECENT_KEY_TIME)));
}

/// What was changed in the moment in which it was read could change once more and look the same.
#[test]
fn a_file_that_was_just_changed_is_not_remembered() {
    let scene = Scene::new();
    scene.remember_after(1);
    assert!(!scene.finds());
}

#[test]
fn whatever_changes_on_the_way_is_read_again() {
    let changes: [fn(&Scene); 8] = [
        |scene| fs::write(scene.path(), "else").expect("written"),
        |scene| fs::remove_file(scene.path()).expect("removed"),
        |scene| {
            let times = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
            let file = fs::File::options().write(true).open(scene.path()).expect("it");
            file.set_times(times).expect("times");
        },
        |scene| {
            let mode = fs::Permissions::from_mode(0o666);
            fs::set_permissions(scene.path(), mode).expect("a mode");
        },
        |scene| {
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(scene.path().parent().expect("it"), mode).expect("a mode");
        },
        // The same bytes and times, in another file.
        |scene| {
            let (path, other) = (scene.path(), scene.folder.path().join("other"));
            fs::copy(&path, &other).expect("a copy");
            fs::rename(other, path).expect("renamed");
        },
        |scene| {
            let (home, other) = (scene.account.home.clone(), scene.folder.path().join("other"));
            fs::rename(&home, &other).expect("renamed");
            symlink(other, home).expect("a link");
        },
        |scene| {
            let (home, other) = (scene.account.home.clone(), scene.folder.path().join("other"));
            fs::rename(home, other).expect("renamed");
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let scene = Scene::new();
        scene.remember_after(2);
        assert!(scene.finds());
        // A filesystem's clock ticks.
        std::thread::sleep(Duration::from_millis(10));
        change(&scene);
        assert!(!scene.finds(), "change {number}");
        assert!(scene.recent.lines().is_empty(), "and it is forgotten");
    }
}

#[test]
fn links_and_turns_are_followed_each_time() {
    let scene = Scene::new();
    symlink(scene.path(), scene.folder.path().join("link")).expect("a link");
    let turn = scene.folder.path().join("home/../home/keys");
    for path in [scene.folder.path().join("link"), turn, "keys".into(), "/".into()] {
        assert!(local_steps(&path).is_none(), "{}", path.display());
    }
    assert!(local_steps(Path::new("/proc/version")).is_none(), "no filesystem of files");
    let steps = local_steps(&scene.path()).expect("plain");
    assert_eq!(steps.len(), scene.path().ancestors().count());
}

#[test]
fn no_more_than_so_many_lines_are_remembered() {
    let scene = Scene::new();
    let seen = fs::metadata(scene.path()).expect("it");
    let remember = |blob: u32, at: Instant| {
        let line = KeyLine { number: 1, text: b"line".as_slice().into() };
        let about = (&seen, at, seen.ctime() as u64 + 2);
        let place = (&*scene.path(), &blob.to_be_bytes()[..]);
        scene.recent.remember(place, scene.reader(), line, about);
    };
    (0..RECENT_KEYS_MAX as u32 + 5).for_each(|blob| remember(blob, Instant::default()));
    assert_eq!(scene.recent.lines().len(), RECENT_KEYS_MAX);
    remember(u32::MAX, Instant::default().after(RECENT_KEY_TIME));
    assert_eq!(scene.recent.lines().len(), 1);
}
