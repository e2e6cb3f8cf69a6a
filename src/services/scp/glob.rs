//! What a shell makes of the paths on a command line: tildes and patterns (POSIX XCU 2.6.1, 2.13).

use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::command::{Tilde, Word};
use crate::limits::{SCP_ENTRIES_BYTES, SCP_NAMES_BYTES_MAX, SCP_NAMES_MAX};
use crate::reactor::Fd;
use crate::services::root::Root;
use crate::services::sftp::{absolute, account, directory_records};

/// One character, or a byte that is none.
type Unit = u32;

/// More names than a command line may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Expands words in order. `home` is what a bare tilde stands for, `base` where relative paths
/// start, in `root`. As in sh, a pattern that matches nothing stays as it is.
pub fn expand(
    root: &Root,
    words: &[Word],
    home: &[u8],
    base: &[u8],
) -> Result<Vec<Vec<u8>>, TooMany> {
    let mut names = Vec::new();
    for word in words {
        let bytes = untilded(root, word, home);
        let mut found = matches(root, &bytes, base)?;
        if found.is_empty() {
            found.push(bytes.iter().map(|(byte, _)| *byte).collect());
        }
        names.extend(found);
        check(&names)?;
    }
    Ok(names)
}

/// With the tilde replaced. What it stands for is no pattern, whatever it looks like.
fn untilded(root: &Root, word: &Word, home: &[u8]) -> Vec<(u8, bool)> {
    let replaced = word.tilde().and_then(|Tilde { user, below }| {
        let home = match user.is_empty() {
            true => home.to_vec(),
            false => account(root, &user)?.dir.into_os_string().into_vec(),
        };
        Some(home.into_iter().map(|byte| (byte, true)).chain(below.iter().copied()).collect())
    });
    replaced.unwrap_or_else(|| word.bytes().to_vec())
}

fn check(names: &[Vec<u8>]) -> Result<(), TooMany> {
    let bytes: usize = names.iter().map(|name| name.len() + 1).sum();
    if names.len() > SCP_NAMES_MAX || bytes > SCP_NAMES_BYTES_MAX { Err(TooMany) } else { Ok(()) }
}

/// The existing paths that a pattern matches; none for a word without a pattern in it.
fn matches(root: &Root, word: &[(u8, bool)], base: &[u8]) -> Result<Vec<Vec<u8>>, TooMany> {
    let components: Vec<&[(u8, bool)]> = word.split(|(byte, _)| *byte == b'/').collect();
    let patterns: Vec<Pattern> = components.iter().map(|one| Pattern::new(one)).collect();
    if patterns.iter().all(Pattern::is_plain) {
        return Ok(Vec::new());
    }
    let mut found: Vec<Vec<u8>> = vec![Vec::new()];
    for (at, (component, pattern)) in components.iter().zip(&patterns).enumerate() {
        if at > 0 {
            found.iter_mut().for_each(|prefix| prefix.push(b'/'));
        }
        if pattern.is_plain() {
            let plain = component.iter().map(|(byte, _)| *byte);
            found.iter_mut().for_each(|prefix| prefix.extend(plain.clone()));
            continue;
        }
        let mut deeper = Vec::new();
        for prefix in &found {
            list(root, (prefix, pattern), base, &mut deeper)?;
        }
        found = deeper;
    }
    found.retain(|path| exists(root, base, path));
    Ok(found)
}

/// Adds what `pattern` matches in the directory `prefix`.
fn list(
    root: &Root,
    (prefix, pattern): (&[u8], &Pattern),
    base: &[u8],
    found: &mut Vec<Vec<u8>>,
) -> Result<(), TooMany> {
    let directory = if prefix.is_empty() { base.to_vec() } else { joined(base, prefix) };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let path = CString::new(directory).unwrap_or_default();
    let Ok(directory) = root.open_at(&path, flags, Mode::empty()) else { return Ok(()) };
    let mut names = Vec::new();
    let mut space = vec![0; SCP_ENTRIES_BYTES];
    while let Ok(Some(entries)) = directory_records(Fd(directory.as_raw_fd()), &mut space) {
        for name in entries.map(CStr::to_bytes) {
            let is_dots = matches!(name, b"." | b"..");
            if !is_dots && pattern.fits(name) {
                names.push([prefix, name].concat());
                if names.len() > SCP_NAMES_MAX {
                    return Err(TooMany);
                }
            }
        }
    }
    names.sort();
    found.append(&mut names);
    check(found)
}

fn joined(base: &[u8], path: &[u8]) -> Vec<u8> {
    absolute(base, path).map(|path| path.into_bytes()).unwrap_or_default()
}

fn exists(root: &Root, base: &[u8], path: &[u8]) -> bool {
    absolute(base, path)
        .is_some_and(|path| !matches!(root.lstat(&path), Err(Errno::ENOENT | Errno::ENOTDIR)))
}

/// A pattern of one name, as a shell has it.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<Part>);

impl Pattern {
    /// Bytes, and whether they are quoted.
    pub fn new(component: &[(u8, bool)]) -> Pattern {
        Pattern(compile(component))
    }

    /// Whether it stands for itself alone.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Unit(_)))
    }

    /// A name with a dot in front fits a pattern with one alone.
    pub fn fits(&self, name: &[u8]) -> bool {
        let hidden = matches!(self.0.first(), Some(Part::Unit(unit)) if *unit == u32::from(b'.'));
        (hidden || !name.starts_with(b".")) && is_match(&self.0, &units(name))
    }
}

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Unit(Unit),
    /// `?`
    One,
    /// `*`
    Any,
    /// `[...]`: ranges, ends included.
    Set {
        negated: bool,
        ranges: Vec<(Unit, Unit)>,
    },
}

fn compile(component: &[(u8, bool)]) -> Vec<Part> {
    let units = quoted_units(component);
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some((unit, quoted)) = units.get(at) {
        at += 1;
        let byte = u8::try_from(*unit).ok().filter(|_| !quoted);
        parts.push(match byte {
            Some(b'?') => Part::One,
            Some(b'*') => Part::Any,
            Some(b'[') => match set(units.get(at..).unwrap_or(&[])) {
                Some((part, used)) => {
                    at += used;
                    part
                }
                None => Part::Unit(*unit),
            },
            _ => Part::Unit(*unit),
        });
    }
    parts
}

/// What stands behind `[`, and how much of it belongs to the set. `None` when nothing closes it.
fn set(units: &[(Unit, bool)]) -> Option<(Part, usize)> {
    let is = |at: usize, byte: u8| units.get(at) == Some(&(u32::from(byte), false));
    let negated = is(0, b'!') || is(0, b'^');
    let mut at = usize::from(negated);
    let first = at;
    let mut ranges = Vec::new();
    while at == first || !is(at, b']') {
        let (low, _) = *units.get(at)?;
        if is(at, b'[') && is(at + 1, b':') {
            let rest = units.get(at + 2..)?;
            let close = (0..rest.len()).find(|n| is(at + 2 + n, b':') && is(at + 3 + n, b']'));
            if let Some(close) = close {
                let name = rest.get(..close)?.iter().filter_map(|(unit, _)| char::from_u32(*unit));
                ranges.extend_from_slice(class(&name.collect::<String>()));
                at += 2 + close + 2;
                continue;
            }
        }
        let is_range = is(at + 1, b'-') && !is(at + 2, b']');
        match units.get(at + 2).filter(|_| is_range) {
            Some((high, _)) => {
                ranges.push((low, *high));
                at += 3;
            }
            None => {
                ranges.push((low, low));
                at += 1;
            }
        }
    }
    Some((Part::Set { negated, ranges }, at + 1))
}

/// The characters of a class, as the C locale has them.
fn class(name: &str) -> &'static [(Unit, Unit)] {
    match name {
        "alnum" => &[(48, 57), (65, 90), (97, 122)],
        "alpha" => &[(65, 90), (97, 122)],
        "blank" => &[(9, 9), (32, 32)],
        "cntrl" => &[(0, 31), (127, 127)],
        "digit" => &[(48, 57)],
        "graph" => &[(33, 126)],
        "lower" => &[(97, 122)],
        "print" => &[(32, 126)],
        "punct" => &[(33, 47), (58, 64), (91, 96), (123, 126)],
        "space" => &[(9, 13), (32, 32)],
        "upper" => &[(65, 90)],
        "xdigit" => &[(48, 57), (65, 70), (97, 102)],
        _ => &[],
    }
}

impl Part {
    fn takes(&self, unit: Unit) -> bool {
        match self {
            Part::Unit(wanted) => *wanted == unit,
            Part::One => true,
            Part::Any => false,
            Part::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&unit)) != *negated
            }
        }
    }
}

/// The last star alone is retried, so no text makes it slow.
fn is_match(pattern: &[Part], text: &[Unit]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(unit) = text.get(at_text) {
        match pattern.get(at_pattern) {
            Some(Part::Any) => {
                star = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(part) if part.takes(*unit) => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => {
                let Some((behind, taken)) = &mut star else { return false };
                *taken += 1;
                (at_pattern, at_text) = (*behind + 1, *taken);
            }
        }
    }
    pattern.get(at_pattern..).unwrap_or(&[]).iter().all(|part| *part == Part::Any)
}

/// Characters; bytes that are none count as one each, beyond all characters.
fn units(name: &[u8]) -> Vec<Unit> {
    let mut units = Vec::new();
    for chunk in name.utf8_chunks() {
        units.extend(chunk.valid().chars().map(u32::from));
        units.extend(chunk.invalid().iter().map(|byte| 0x11_0000 + u32::from(*byte)));
    }
    units
}

fn quoted_units(word: &[(u8, bool)]) -> Vec<(Unit, bool)> {
    let bytes: Vec<u8> = word.iter().map(|(byte, _)| *byte).collect();
    let mut at = 0;
    units(&bytes)
        .into_iter()
        .map(|unit| {
            let quoted = word.get(at).is_some_and(|(_, quoted)| *quoted);
            at += char::from_u32(unit).map_or(1, char::len_utf8);
            (unit, quoted)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::super::command::Command;
    use super::*;

    fn expanded(line: &str, home: &Path) -> Vec<String> {
        let command = Command::parse(format!("scp -f {line}").as_bytes()).expect(line);
        let home = home.as_os_str().as_bytes();
        let names = expand(&Root::System, &command.words, home, home).expect("few");
        names.into_iter().map(|name| String::from_utf8_lossy(&name).into_owned()).collect()
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path();
        fs::create_dir_all(home.join("d1/in")).expect("d1");
        fs::create_dir(home.join("d2")).expect("d2");
        for name in
            ["a1", "a2", "b1", ".hid", "a b", "\u{e9}", "x[1]", "d1/f", "d2/f", "d1/in/g", "-r"]
        {
            fs::write(home.join(name), "").expect(name);
        }
        fs::write(home.join(std::ffi::OsStr::from_bytes(b"\xff")), "").expect("odd");
        let show = home.display();
        for (line, names) in [
            ("a?", "a1|a2".to_owned()),
            ("[ab]1 none*", "a1|b1|none*".to_owned()),
            ("[!a]1", "b1|d1".to_owned()),
            ("[[:alpha:]]1", "a1|b1|d1".to_owned()),
            ("a[1-9]", "a1|a2".to_owned()),
            (".h*", ".hid".to_owned()),
            ("*/f", "d1/f|d2/f".to_owned()),
            ("d*/", "d1/|d2/".to_owned()),
            ("*/*/g", "d1/in/g".to_owned()),
            ("d1/../a?", "d1/../a1|d1/../a2".to_owned()),
            ("a*b", "a b".to_owned()),
            ("'a'*'1'", "a1".to_owned()),
            ("'a*'", "a*".to_owned()),
            ("x\\[*", "x[1]".to_owned()),
            ("x[1]", "x[1]".to_owned()),
            ("a[12", "a[12".to_owned()),
            ("[]a]1", "a1".to_owned()),
            ("~", format!("{show}")),
            ("~/b*", format!("{show}/b1")),
            ("~nosuchuser0/x", "~nosuchuser0/x".to_owned()),
            ("~root", "/root".to_owned()),
            ("a1 a1", "a1|a1".to_owned()),
        ] {
            assert_eq!(expanded(line, home).join("|"), names, "{line}");
        }
        let all = expanded("*", home);
        assert_eq!(all.len(), 10, "{all:?}");
        assert_eq!(expanded("?", home), ["\u{e9}", "\u{fffd}"]);
    }

    #[test]
    fn patterns_have_bounds_and_stay_cheap() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = "a".repeat(250);
        fs::write(folder.path().join(&long), "").expect("a file");
        let line = format!("{}b", "*a".repeat(60));
        assert_eq!(expanded(&line, folder.path()), [line]);
        let many = vec![vec![b'x'; 100]; SCP_NAMES_BYTES_MAX / 100];
        assert_eq!(check(&many), Err(TooMany));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics_and_plain_text_matches_itself(
            pattern in proptest::collection::vec(
                (proptest::sample::select(b"ab*?[]!^-:\xc3\xa9".to_vec()), proptest::bool::ANY),
                0..12,
            ),
            name in proptest::collection::vec(proptest::num::u8::ANY, 0..12),
        ) {
            is_match(&compile(&pattern), &units(&name));
            let quoted: Vec<(u8, bool)> = name.iter().map(|byte| (*byte, true)).collect();
            assert!(is_match(&compile(&quoted), &units(&name)));
        }
    }
}
