//! `~/.ssh/environment` (sshd(8), FILES): `NAME=value` lines, comments and empty lines.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::is_listed;
use super::process::is_variable;
use crate::limits::{USER_ENVIRONMENT_BYTES_MAX, USER_ENVIRONMENT_LINES_MAX};

const PLACE: &str = ".ssh/environment";

/// What a file sets, and what its owner is to be told about it, in sshd's words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UserEnvironment {
    pub variables: Vec<(String, Vec<u8>)>,
    pub complaints: Vec<String>,
}

/// Reads the file of the account whose home this is; of its variables those that `patterns` name
/// (PermitUserEnvironment) count. Without a file nothing is set.
pub(super) fn read(home: &Path, patterns: &str) -> UserEnvironment {
    let path = home.join(PLACE);
    let shown = path.display().to_string();
    match read_bytes(&path) {
        Ok(text) => parse(&text, &shown, patterns),
        Err(why) if why.kind() == io::ErrorKind::NotFound => UserEnvironment::default(),
        Err(why) => UserEnvironment {
            complaints: vec![format!("Cannot read {shown}: {why}\n")],
            ..UserEnvironment::default()
        },
    }
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Opening must not wait for the other end of a FIFO, nor make a terminal ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(USER_ENVIRONMENT_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > USER_ENVIRONMENT_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {USER_ENVIRONMENT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn parse(text: &[u8], path: &str, patterns: &str) -> UserEnvironment {
    let mut found = UserEnvironment::default();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let line = line.trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if number > USER_ENVIRONMENT_LINES_MAX {
            let complaint = format!("Too many lines in environment file {path}\n");
            return UserEnvironment { complaints: vec![complaint], variables: Vec::new() };
        }
        let mut halves = line.splitn(2, |byte| *byte == b'=');
        let name = halves.next().and_then(|name| std::str::from_utf8(name).ok());
        match (name, halves.next()) {
            (Some(name), Some(value)) if is_variable(name, value) => {
                if is_listed(patterns, name) {
                    found.variables.push((name.to_owned(), value.to_vec()));
                }
            }
            _ => found.complaints.push(format!("Bad line {number} in {path}\n")),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(found: &UserEnvironment) -> Vec<(&str, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        found.variables.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
    }

    #[test]
    fn lines_are_read_as_sshd_reads_them() {
        let text =
            b"# a comment\n\n  A=1\nB=two words # and more\nC=\nno sign\n=x\nA=2\nL\0=x\nE=a=b";
        let found = parse(text, "/f", "*");
        let expected =
            [("A", "1"), ("B", "two words # and more"), ("C", ""), ("A", "2"), ("E", "a=b")];
        assert_eq!(pairs(&found), expected);
        let bad = ["Bad line 6 in /f\n", "Bad line 7 in /f\n", "Bad line 9 in /f\n"];
        assert_eq!(found.complaints, bad);
        assert_eq!(
            pairs(&parse(b"A=1\nLD_X=2\nLANG=3", "/f", "*,!LD_*")),
            [("A", "1"), ("LANG", "3")]
        );
    }

    #[test]
    fn what_is_too_much_or_no_file_sets_nothing_and_says_so() {
        let many = b"A=1\n".repeat(USER_ENVIRONMENT_LINES_MAX + 1);
        let found = parse(&many, "/f", "*");
        assert!(found.variables.is_empty());
        assert_eq!(found.complaints, ["Too many lines in environment file /f\n"]);
        assert_eq!(parse(&many[4..], "/f", "*").variables.len(), USER_ENVIRONMENT_LINES_MAX);
        let home = tempfile::tempdir().unwrap();
        assert_eq!(read(home.path(), "*"), UserEnvironment::default());
        std::fs::create_dir_all(home.path().join(PLACE)).unwrap();
        let found = read(home.path(), "*");
        assert!(found.complaints[0].contains("not a regular file"), "{found:?}");
        std::fs::remove_dir(home.path().join(PLACE)).unwrap();
        let file = File::create(home.path().join(PLACE)).unwrap();
        file.set_len(1 << 30).unwrap();
        assert!(read(home.path(), "*").complaints[0].contains("larger than"));
    }
}
