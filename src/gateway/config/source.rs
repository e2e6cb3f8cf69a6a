//! Where configuration text comes from, and the file names an Include stands for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::getuid;

use crate::limits::{CONFIG_FILES_MAX, CONFIG_NAMES_MAX};

const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Files, as far as reading a configuration needs them.
pub trait Source {
    /// The whole file; an error when it is longer than `bytes_max`.
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>>;

    /// The same of a file that only root or whoever reads it may have written.
    fn read_own(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        self.read(path, bytes_max)
    }

    /// The names in a directory, in any order; an error when there are too many of them.
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>>;

    /// Whether there is something of that name, be it a link to nothing.
    fn is_there(&self, _path: &Path) -> bool {
        false
    }
}

/// The file system.
pub struct Disk;

impl Source for Disk {
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        whole(open(path)?, bytes_max)
    }

    fn read_own(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        let file = open(path)?;
        let about = file.metadata()?;
        let owned = about.uid() == 0 || about.uid() == getuid().as_raw();
        if !owned || about.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(io::Error::other(
                "bad owner or permissions: others may write to it (chmod go-w)",
            ));
        }
        whole(file, bytes_max)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let entries = std::fs::read_dir(directory)?.map(|entry| entry.map(|e| e.file_name()));
        let names: Vec<_> = entries.take(CONFIG_NAMES_MAX + 1).collect::<Result<_, _>>()?;
        if names.len() > CONFIG_NAMES_MAX {
            return Err(io::Error::other(format!("it has more than {CONFIG_NAMES_MAX} names")));
        }
        Ok(names)
    }

    fn is_there(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }
}

fn open(path: &Path) -> io::Result<File> {
    if is_pipe_for_anybody(path) {
        return Err(io::Error::other("it is a pipe, and somebody may never write to it"));
    }
    File::open(path)
}

fn whole(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let why = format!("longer than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// A pipe with a name. One that a shell made for this program (`-f <(command)`) has none.
fn is_pipe_for_anybody(path: &Path) -> bool {
    let inherited = ["/dev/fd", "/dev/stdin", "/proc/self/fd"];
    let is_fifo = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    is_fifo && !inherited.iter().any(|folder| path.starts_with(folder))
}

/// No files at all: for text that comes from a test or a fuzzer.
pub struct NoFiles;

impl Source for NoFiles {
    fn read(&self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Err(io::Error::new(io::ErrorKind::NotFound, "no files here"))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Ok(Vec::new())
    }
}

/// The files a glob(7) pattern stands for, sorted, and no more than [`CONFIG_FILES_MAX`]. A pattern without `*`,
/// `?` or `[` stands for itself, whether it exists or not. As in a shell, a leading dot is only matched by a dot.
/// A directory whose names cannot be known is told to `unlisted`.
pub fn glob(
    pattern: &Path,
    source: &dyn Source,
    mut unlisted: impl FnMut(&Path, io::Error),
) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = match component {
            Component::Normal(name) => name,
            other => {
                found.iter_mut().for_each(|path| path.push(other));
                continue;
            }
        };
        if !is_pattern(name) {
            found.iter_mut().for_each(|path| path.push(name));
            continue;
        }
        let mut deeper = Vec::new();
        for directory in &found {
            let names = source.list(directory).unwrap_or_else(|why| {
                unlisted(directory, why);
                Vec::new()
            });
            for entry in names {
                if deeper.len() < CONFIG_FILES_MAX
                    && name_matches(name.as_encoded_bytes(), entry.as_encoded_bytes())
                {
                    deeper.push(directory.join(entry));
                }
            }
        }
        found = deeper;
    }
    found.sort();
    found
}

/// Whether a path contains characters that [`glob`] expands.
pub fn is_pattern(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let hidden = name.first() == Some(&b'.') && pattern.first() != Some(&b'.');
    !hidden && glob_match(pattern, name)
}

/// `*`, `?` and `[a-z]`, `[!a-z]`; the last star alone is retried.
fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_text < text.len() {
        if pattern.get(at_pattern) == Some(&b'*') {
            star = Some((at_pattern, at_text));
            at_pattern += 1;
            continue;
        }
        if let Some(used) = one_matches(&pattern[at_pattern..], text[at_text]) {
            at_pattern += used;
            at_text += 1;
            continue;
        }
        let Some((behind, taken)) = &mut star else { return false };
        *taken += 1;
        at_text = *taken;
        at_pattern = *behind + 1;
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}

/// How much of the pattern one character uses, when it matches.
fn one_matches(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            // A `]` right behind the opening stands for itself; without an end, `[` does.
            let end = pattern.iter().skip(2).position(|b| *b == b']').map(|at| at + 2);
            let Some(end) = end else { return (byte == b'[').then_some(1) };
            let inner = &pattern[1..end];
            let (negated, set) = match inner {
                [b'!' | b'^', rest @ ..] if !rest.is_empty() => (true, rest),
                _ => (false, inner),
            };
            (in_set(set, byte) != negated).then_some(end + 1)
        }
        plain => (*plain == byte).then_some(1),
    }
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    while let [low, rest @ ..] = set {
        if let [b'-', high, rest @ ..] = rest {
            if (*low..=*high).contains(&byte) {
                return true;
            }
            set = rest;
        } else {
            if *low == byte {
                return true;
            }
            set = rest;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_121_pipes_that_nobody_writes_to_are_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let why = Disk.read(&path, 100).expect_err("it is refused");
        assert!(why.to_string().contains("it is a pipe"), "{why}");
        let (reader, writer) = io::pipe().expect("a pipe");
        io::Write::write_all(&mut { writer }, b"Port 22\n").expect("room");
        let inherited = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(Disk.read(Path::new(&inherited), 100).expect("its text"), b"Port 22\n");
    }

    #[test]
    fn names_match_as_in_a_shell() {
        for (pattern, name) in [
            ("*.conf", "10-a.conf"),
            ("[0-9]?-*", "10-a"),
            ("[!a]*", "b"),
            ("a[]]b", "a]b"),
            ("a[b", "a[b"),
            (".*", ".hidden"),
        ] {
            assert!(name_matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.conf", "a.conf.bak"), ("*", ".hidden"), ("[0-9]", "a"), ("[!a]", "a"), ("?", "")]
        {
            assert!(!name_matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn globs_cross_directories_and_sort() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["b/2.conf", "b/1.conf", "a/9.conf", "a/x.txt", "c/.conf"] {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, "").expect("a file");
        }
        let glob = |pattern: &Path| glob(pattern, &Disk, |path, why| panic!("{path:?}: {why}"));
        let found = glob(&directory.path().join("[ab]/*.conf"));
        let expected = ["a/9.conf", "b/1.conf", "b/2.conf"].map(|n| directory.path().join(n));
        assert_eq!(found, expected);
        let plain = directory.path().join("absent.conf");
        assert_eq!(glob(&plain), [plain]);
    }

    #[test]
    fn a_file_over_its_limit_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("f");
        std::fs::write(&path, "12345").expect("a file");
        assert_eq!(Disk.read(&path, 5).expect("five bytes"), b"12345");
        assert!(Disk.read(&path, 4).is_err());
    }
}
