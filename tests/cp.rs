//! `tidegate cp` against our own gateway and, where it can run, Debian's sshd.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "cp/holes.rs"]
mod holes;
#[path = "cp/hostile.rs"]
mod hostile;
#[path = "cp/lost.rs"]
mod lost;
#[path = "cp/rounds.rs"]
mod rounds;
#[path = "client/server.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod server;
mod support;
#[path = "cp/trees.rs"]
mod trees;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lost::{Then, cp_over, line_that};
use server::{Server, both, text};
use support::{noise, wait_for};

/// More than anything that is moved at once.
const BYTES: usize = 9 << 20;

/// Our client with a key that opens the server, and these words.
fn cp(server: &Server, words: &[&str]) -> Command {
    let key = format!("IdentityFile={}", server.path("user_ed25519").display());
    let mut command = server.client("cp", &[&key]);
    command.args(words);
    command
}

/// A place on the server.
fn there(path: &Path) -> String {
    format!("127.0.0.1:{}", path.display())
}

fn here(path: &Path) -> String {
    path.display().to_string()
}

fn run(server: &Server, words: &[&str]) -> Output {
    cp(server, words).output().expect("it runs")
}

fn run_well(server: &Server, words: &[&str]) -> String {
    let output = run(server, words);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
    said
}

/// What is left of copies that did not come to their end.
fn parts(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path());
    entries.filter(|path| path.to_string_lossy().ends_with(".tidegate-part")).collect()
}

fn folder(server: &Server, name: &str) -> PathBuf {
    let path = server.path(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).expect("a folder");
    path
}

#[test]
fn files_go_there_and_come_back_unharmed() {
    both(&[], |server| {
        let place = folder(server, "place");
        let from = server.path("from");
        for len in [0, 1, 32 << 10, BYTES + 13] {
            let bytes = noise(len, 3);
            fs::write(&from, &bytes).expect("a file");
            fs::set_permissions(&from, fs::Permissions::from_mode(0o640)).expect("a mode");
            let said = run_well(server, &[&here(&from), &there(&place.join("to"))]);
            assert!(said.contains("1 file copied"), "{said}");
            assert!(fs::read(place.join("to")).expect("a file") == bytes, "{len} there");
            let mode = fs::metadata(place.join("to")).expect("it").mode() & 0o777;
            assert_eq!(mode, 0o640);
            // Into a directory, under its own name; over what is there.
            let home = folder(server, "home");
            fs::write(home.join("to"), "older").expect("a file");
            run_well(server, &[&there(&place.join("to")), &here(&home)]);
            assert!(fs::read(home.join("to")).expect("a file") == bytes, "{len} here");
            assert!(parts(&place).is_empty() && parts(&home).is_empty());
        }
        // From there to there, through us; `sftp://` names the port itself.
        let uri = format!("sftp://127.0.0.1:{}/{}", server.port(), place.join("again").display());
        run_well(server, &["--fsync", &there(&place.join("to")), &uri]);
        assert!(fs::read(place.join("again")).expect("a file") == noise(BYTES + 13, 3));
    });
}

#[test]
fn what_cannot_be_copied_is_told_with_its_name() {
    both(&[], |server| {
        let place = folder(server, "place");
        let from = server.path("from");
        fs::write(&from, "some").expect("a file");
        fs::create_dir_all(place.join("inner")).expect("a folder");
        fs::create_dir_all(place.join("way/from")).expect("a folder");
        let fifo = nix::unistd::mkfifo(&place.join("fifo"), nix::sys::stat::Mode::S_IRWXU);
        fifo.expect("a fifo");
        for (words, expected) in [
            ([there(&place.join("none")), here(&place)], "none: No such file"),
            ([here(&server.path("none")), there(&place)], "none: No such file"),
            (
                [here(&from), there(&place.join("no/where"))],
                "where: making a part file beside it: No such file",
            ),
            ([there(&place.join("inner")), here(&place)], "it is a directory; -r"),
            ([there(&place.join("fifo")), here(&from)], "not a regular file"),
            ([here(&from), there(&place.join("fifo"))], "nothing is put in its place"),
            ([here(&from), format!("{}/", there(&place.join("no")))], "no/: no such directory"),
            ([here(&from), there(&place.join("way"))], "way/from: a directory is in its way"),
            ([there(&from), here(&place.join("way"))], "way/from: a directory is in its way"),
            // Nobody makes files there, not even root.
            ([here(&from), there(Path::new("/sys/from"))], "/sys/from: making a part file"),
            ([here(&from), there(Path::new("/sys/from"))], "the account there may not do that"),
            ([there(&from), "/sys/from".to_owned()], "this account may not do that here"),
        ] {
            let output = run(server, &[&words[0], &words[1]]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
            assert!(said.contains(expected), "{words:?}: {said}");
        }
        assert!(parts(&place).is_empty() && parts(&place.join("way")).is_empty());
        // One of two fails: the other is copied, and the status tells.
        let output = run(server, &[&here(&from), "/nonexistent", &there(&place)]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(fs::read(place.join("from")).expect("a file"), b"some");
        // No connection, and no sense.
        let mut command = server.client("cp", &["Port=1"]);
        let output = command.args([&here(&from), &there(&place)]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(255), "{}", text(&output.stderr));
        assert_eq!(run(server, &["a", "b"]).status.code(), Some(1));
    });
}

/// Where a file system is full, on either side, nothing is said to be copied.
#[test]
fn a_full_file_system_is_an_error() {
    let Some(small) = Small::mount() else { return };
    both(&[], |server| {
        let from = server.path("from");
        fs::write(&from, noise(3 << 20, 5)).expect("a file");
        for words in [[here(&from), there(small.path())], [there(&from), here(small.path())]] {
            let output = run(server, &[&words[0], &words[1]]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
            let hint = match (words[0].contains(':'), server) {
                (true, _) => "/from: No space left on device; no room is left here",
                (false, Server::Ours(_)) => "/from: No space left on device; no room is left there",
                // It says no more than Failure.
                (false, Server::Theirs(_)) => "/from: Failure; is there room left there",
            };
            assert!(said.contains("failed") && said.contains("from: "), "{words:?}: {said}");
            assert!(said.contains(hint), "{words:?}: {said}");
            assert!(!small.path().join("from").exists());
            parts(small.path()).iter().for_each(|part| fs::remove_file(part).expect("a part"));
        }
    });
}

/// As a shell has them; what is there under the very name is meant.
#[test]
fn patterns_fit_what_is_on_the_server() {
    both(&[], |server| {
        let (tree, home) = (folder(server, "tree"), folder(server, "home"));
        for name in ["a1/x.c", "a1/y.c", "a2/x.c", "b/x.c", "a1/.c", "a1/z[1].o", "a1/z1.o"] {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().expect("one")).expect("a folder");
            fs::write(path, name).expect("a file");
        }
        let copies = || {
            let names =
                fs::read_dir(&home).expect("it").map(|entry| entry.expect("one").file_name());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names.iter().for_each(|name| fs::remove_file(home.join(name)).expect("it"));
            names.iter().map(|name| name.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        for (pattern, expected) in [
            ("a1/*.c", &["x.c", "y.c"][..]),
            ("a?/y.c", &["y.c"]),
            ("[!a]/x.c", &["x.c"]),
            ("a1/z[1].o", &["z[1].o"]),
            ("a1/z[0-9].o", &["z1.o"]),
            ("*/y.c", &["y.c"]),
            ("a1/.*", &[".c"]),
        ] {
            let said = run_well(server, &[&there(&tree.join(pattern)), &here(&home)]);
            assert_eq!(copies(), expected, "{pattern}: {said}");
        }
        let output = run(server, &[&there(&tree.join("*.none")), &here(&home)]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("no file there fits the pattern"), "{said}");
        let output = run(server, &[&there(&tree.join("a?/x.c")), &here(&home)]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another source goes there under that name"), "{said}");
        assert_eq!(
            (fs::read(home.join("x.c")).expect("one"), copies().len()),
            (b"a1/x.c".to_vec(), 1)
        );
        // Several are no file.
        let output = run(server, &[&there(&tree.join("a1/*.c")), &here(&home.join("one"))]);
        assert!(text(&output.stderr).contains("several files go into a directory"));
    });
}

/// A file system of a mebibyte, for who may mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(folder.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Small(folder)),
            _ => {
                println!("not run: no file system can be mounted");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// A copy of 44 MiB that is killed with so much of it under way: its line stands still then, however fast or
/// slow the machine. `least`: so much of it is there, wherever.
fn interrupt_at(
    least: u64,
    server: &Server,
    carried: &'static [i64],
    words: &[&str],
    place: &Path,
) {
    let port = line_that(Then::StandsStill, server, carried);
    let mut child = cp_over(server, port, words).spawn().expect("it runs");
    wait_for("most of the file", || {
        assert!(child.try_wait().expect("its status").is_none(), "it is not over");
        let part = parts(place).pop();
        part.is_some_and(|part| fs::metadata(part).is_ok_and(|m| m.blocks() * 512 > least))
    });
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
}

fn interrupt(server: &Server, carried: &'static [i64], words: &[&str], place: &Path) {
    interrupt_at(36 << 20, server, carried, words, place);
}

/// A copy of 44 MiB each way, over so many sessions, that is killed and goes on by the same command; it says `why`.
fn goes_on(server: &Server, streams: &str, (least, carried): (u64, &'static [i64]), why: &str) {
    let place = folder(server, "place");
    let (from, to) = (server.path("from"), place.join("to"));
    let bytes = noise(44 << 20, 9);
    fs::write(&from, &bytes).expect("a file");
    for (source, target) in [(here(&from), there(&to)), (there(&from), here(&to))] {
        let _ = fs::remove_file(&to);
        let words = ["-q", "--streams", streams, &source, &target];
        interrupt_at(least, server, carried, &words, &place);
        assert!(!to.exists());
        let said = run_well(server, &words[1..]);
        assert!(said.contains("went on behind") && said.contains(why), "{said}");
        assert!(fs::read(&to).expect("a file") == bytes);
        assert!(parts(&place).is_empty());
    }
}

/// Early, with several sessions under way: what has come whole is found, where hashes can be had.
#[test]
fn a_copy_that_was_killed_early_goes_on() {
    both(&[], |server| {
        let carried: &[i64] = match server {
            Server::Ours(_) => &[30 << 20],
            Server::Theirs(_) => &[7 << 20],
        };
        goes_on(server, "4", (49 << 19, carried), "bytes, whose hash");
    });
}

/// A byte that was changed since is found wherever hashes can be had; where no command may be run, what is
/// looked at is told.
#[test]
fn a_part_file_that_was_tampered_with_is_not_believed() {
    let test = |server: &Server, why: &str, found: bool| {
        let place = folder(server, "place");
        let (from, to) = (server.path("from"), place.join("it's to"));
        let bytes = noise(44 << 20, 9);
        fs::write(&from, &bytes).expect("a file");
        let (source, target) = (here(&from), there(&to));
        interrupt(server, &[40 << 20], &["-q", &source, &target], &place);
        let part = parts(&place).pop().expect("a part");
        let part = fs::File::options().write(true).open(part).expect("it");
        // Between the first two samples.
        let at = 100 << 10;
        part.write_at(&[!bytes[at]], at as u64).expect("a byte");
        let said = run_well(server, &[&source, &target]);
        assert_eq!(said.contains("went on behind"), !found, "{said}");
        assert!(found || said.contains(why), "{said}");
        assert_eq!(fs::read(&to).expect("a file") == bytes, found, "{why}: {said}");
    };
    both(&[], |server| match server {
        Server::Ours(_) => test(server, "whose hashes are", true),
        Server::Theirs(_) => test(server, "whose hash is", true),
    });
    if let Some(server) = server::Theirs::start(&["ForceCommand internal-sftp"]) {
        test(&Server::Theirs(server), "whose tail and samples are", false);
    }
}

/// Killed in the middle, the same command goes on; where what is there differs, it starts anew.
#[test]
fn an_interrupted_copy_goes_on() {
    both(&[], |server| {
        // Over several sessions, in pieces.
        let (carried, why): (&[i64], _) = match server {
            Server::Ours(_) => (&[40 << 20], "bytes, whose hashes are"),
            Server::Theirs(_) => (&[20 << 20], "bytes, whose hash is"),
        };
        goes_on(server, "2", (36 << 20, carried), why);
    });
}
