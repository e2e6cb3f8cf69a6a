use std::ffi::CString;

use nix::errno::Errno;
use nix::libc;

use crate::limits::SFTP_PATH_BYTES_MAX;
use crate::services::root::Root;

/// Symbolic links followed in one path; OpenSSH's figure on Linux.
const LINKS_MAX: u32 = 32;

/// The absolute path without links, dots and doubled slashes, starting from `base`, which is such a
/// path itself. The last component need not exist, so that a client can ask where a new file will
/// be (as OpenSSH's server answers it); one followed by a slash must.
pub fn real_path(root: &Root, base: &[u8], path: &[u8]) -> Result<Vec<u8>, Errno> {
    if path.contains(&0) {
        return Err(Errno::EINVAL);
    }
    let mut resolved = if path.starts_with(b"/") { Vec::new() } else { base.to_vec() };
    if resolved == b"/" {
        resolved.clear();
    }
    let mut rest = path.to_vec();
    let mut links = 0;
    while !rest.is_empty() {
        let slash = rest.iter().position(|byte| *byte == b'/');
        let component: Vec<u8> = rest.drain(..slash.unwrap_or(rest.len())).collect();
        if slash.is_some() {
            rest.remove(0);
        }
        match component.as_slice() {
            b"" | b"." => continue,
            b".." => {
                cut_last(&mut resolved);
                continue;
            }
            name => {
                resolved.push(b'/');
                resolved.extend_from_slice(name);
            }
        }
        if resolved.len() >= SFTP_PATH_BYTES_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        let here = CString::new(resolved.clone()).map_err(|_| Errno::EINVAL)?;
        let stat = match root.peek_stat(&here) {
            Err(Errno::ENOENT) if slash.is_none() => return Ok(resolved),
            stat => stat?,
        };
        if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::ELOOP);
        }
        rest = follow(root, (&here, slash.is_some()), &rest, &mut resolved)?;
    }
    if resolved.is_empty() {
        resolved.push(b'/');
    }
    Ok(resolved)
}

/// What is left to resolve after replacing the link at the end of `resolved` by its target.
fn follow(
    root: &Root,
    (link, more): (&CString, bool),
    rest: &[u8],
    resolved: &mut Vec<u8>,
) -> Result<Vec<u8>, Errno> {
    let mut target = root.read_link(link)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    if target.starts_with(b"/") {
        resolved.clear();
    } else {
        cut_last(resolved);
    }
    if more {
        target.push(b'/');
        target.extend_from_slice(rest);
    }
    if target.len() >= SFTP_PATH_BYTES_MAX as usize {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(target)
}

fn cut_last(resolved: &mut Vec<u8>) {
    let slash = resolved.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    resolved.truncate(slash);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn resolves_as_openssh_does() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path().canonicalize().expect("canonical");
        fs::create_dir(root.join("dir")).expect("dir");
        fs::write(root.join("file"), "x").expect("file");
        symlink("dir", root.join("link")).expect("link");
        symlink("nowhere", root.join("dangling")).expect("link");
        symlink(root.join("dir"), root.join("dir/absolute")).expect("link");
        symlink("loop2", root.join("loop")).expect("link");
        symlink("loop", root.join("loop2")).expect("link");
        let base = root.as_os_str().as_bytes();
        let inside = |path: &str| Ok([base, path.as_bytes()].concat());
        let table = [
            (".", inside("")),
            ("", inside("")),
            ("./dir//../dir/.", inside("/dir")),
            ("link", inside("/dir")),
            ("link/new", inside("/dir/new")),
            ("link/..", inside("")),
            ("dir/absolute/absolute/new", inside("/dir/new")),
            ("dangling", inside("/nowhere")),
            ("dangling/", Err(Errno::ENOENT)),
            ("new", inside("/new")),
            ("new/", Err(Errno::ENOENT)),
            ("new/er", Err(Errno::ENOENT)),
            ("file", inside("/file")),
            ("file/", inside("/file")),
            ("file/x", Err(Errno::ENOTDIR)),
            ("loop", Err(Errno::ELOOP)),
            ("/", Ok(b"/".to_vec())),
            ("/..", Ok(b"/".to_vec())),
            ("//./..//", Ok(b"/".to_vec())),
            ("a\0b", Err(Errno::EINVAL)),
        ];
        for (path, expected) in table {
            assert_eq!(real_path(&Root::System, base, path.as_bytes()), expected, "{path:?}");
        }
        let deep = "x/../".repeat(10_000);
        assert_eq!(real_path(&Root::System, base, deep.as_bytes()), Err(Errno::ENOENT));
        let long = "y".repeat(5000);
        assert_eq!(real_path(&Root::System, base, long.as_bytes()), Err(Errno::ENAMETOOLONG));
        assert_eq!(real_path(&Root::System, b"/", b"etc"), Ok(b"/etc".to_vec()));
    }
}
