//! Patterns in the paths of a server: what they fit is looked up there, a directory at a time.

use anyhow::{Result, bail};

use super::place::is_plain;
use super::remote::Remote;
use crate::limits::{SCP_NAMES_BYTES_MAX, SCP_NAMES_MAX};
use crate::services::scp::Pattern;
use crate::wire::sftp::Attributes;

/// Whether a path may be a pattern.
pub fn is_one(path: &[u8]) -> bool {
    path.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// The paths that a pattern fits, as a shell has them, by name; a backslash takes away what the next
/// byte means. None: nothing is there. A path that is there as it is written is no pattern.
///
/// # Errors
/// A directory on the way cannot be listed, or there are more names than a command line may have.
pub async fn expand(remote: &Remote, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    if remote.stat(path).await.is_ok() {
        return Ok(vec![path.to_vec()]);
    }
    let word = unquoted(path);
    let mut found: Vec<Vec<u8>> = vec![Vec::new()];
    let mut plain_behind = false;
    for (at, component) in word.split(|(byte, _)| *byte == b'/').enumerate() {
        if at > 0 {
            found.iter_mut().for_each(|prefix| prefix.push(b'/'));
        }
        let pattern = Pattern::new(component);
        plain_behind = pattern.is_plain();
        if plain_behind {
            let name = component.iter().map(|(byte, _)| *byte);
            found.iter_mut().for_each(|prefix| prefix.extend(name.clone()));
            continue;
        }
        let mut deeper = Vec::new();
        for prefix in &found {
            list(remote, prefix, &pattern, &mut deeper).await?;
        }
        found = deeper;
    }
    if plain_behind {
        let mut there = Vec::new();
        for path in found {
            if remote.stat(&path).await.is_ok() {
                there.push(path);
            }
        }
        found = there;
    }
    Ok(found)
}

/// Adds what the pattern fits in the directory `prefix`. What is none has nothing in it.
async fn list(
    remote: &Remote,
    prefix: &[u8],
    pattern: &Pattern,
    found: &mut Vec<Vec<u8>>,
) -> Result<()> {
    let folder = if prefix.is_empty() { b"." } else { prefix };
    let is_folder = |about: &Attributes| {
        about.permissions.is_none_or(|mode| mode & libc::S_IFMT == libc::S_IFDIR)
    };
    if !remote.stat(folder).await.is_ok_and(|about| is_folder(&about)) {
        return Ok(());
    }
    let handle = remote.open_directory(folder).await?;
    let mut names: Vec<Vec<u8>> = Vec::new();
    while let Some(entries) = remote.read_directory(&handle).await? {
        if entries.is_empty() {
            bail!("the server lists nothing and does not come to an end");
        }
        for (name, _) in entries {
            if is_plain(&name) && pattern.fits(&name) {
                names.push([prefix, &name].concat());
            }
        }
        let all = found.iter().chain(&names);
        let bytes: usize = all.map(|name| name.len() + 1).sum();
        if found.len() + names.len() > SCP_NAMES_MAX || bytes > SCP_NAMES_BYTES_MAX {
            bail!(
                "the pattern fits more than {SCP_NAMES_MAX} names or {SCP_NAMES_BYTES_MAX} bytes"
            );
        }
    }
    // It was only read.
    let _ = remote.close(&handle).await;
    names.sort();
    found.append(&mut names);
    Ok(())
}

/// Bytes, and whether they mean nothing but themselves.
fn unquoted(path: &[u8]) -> Vec<(u8, bool)> {
    let mut word = Vec::new();
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => word.push((bytes.next().unwrap_or(byte), true)),
            byte => word.push((byte, false)),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_takes_away_what_follows_it() {
        assert_eq!(unquoted(b"a\\*\\"), [(b'a', false), (b'*', true), (b'\\', true)]);
        assert!(is_one(b"a[b]") && !is_one(b"a.b"));
        let fits = |text: &[u8], name: &[u8]| Pattern::new(&unquoted(text)).fits(name);
        assert!(fits(b"*.c", b"x.c") && !fits(b"*.c", b".c") && fits(b".*", b".c"));
        assert!(fits(b"\\*", b"*") && !fits(b"\\*", b"x"));
    }
}
