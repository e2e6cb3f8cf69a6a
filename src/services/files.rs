//! Logins that have files and nothing else: where they are, and what may be done to them.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::limits::{ACCOUNT_FOLDERS_MAX, PARCEL_BYTES_MAX};
use crate::wire::Reader;

/// The files of a login that has nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The directory that is its root.
    pub root: PathBuf,
    /// The account of the system that does its work, where that is not its own.
    pub service: Option<String>,
    /// What may be done in folders; empty: whatever the account of the system may.
    pub folders: Vec<Folder>,
    pub quota: Quota,
}

/// What may be done in a folder and those below it that are not named themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// `/`, or a path without links, dots and doubled slashes: `/in/today`.
    pub path: String,
    pub rights: Rights,
}

/// What all files together may come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Sum of the sizes of files.
    pub bytes: Option<u64>,
    /// Names: of files, directories and links.
    pub files: Option<u64>,
}

/// A set of things that may be done in a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    pub const NONE: Rights = Rights(0);
    pub const READ: Rights = Rights(1);
    /// Make what is not there: files, directories, links.
    pub const WRITE: Rights = Rights(2);
    pub const LIST: Rights = Rights(4);
    pub const DELETE: Rights = Rights(8);
    pub const RENAME: Rights = Rights(16);
    /// Change what is there.
    pub const OVERWRITE: Rights = Rights(32);
    pub const ALL: Rights = Rights(63);

    pub const NAMES: [(&'static str, Rights); 6] = [
        ("read", Rights::READ),
        ("write", Rights::WRITE),
        ("list", Rights::LIST),
        ("delete", Rights::DELETE),
        ("rename", Rights::RENAME),
        ("overwrite", Rights::OVERWRITE),
    ];

    /// `read,list`, `all` or `none`; the word that is neither is the error.
    pub fn parse(text: &str) -> Result<Rights, &str> {
        match text {
            "all" => return Ok(Rights::ALL),
            "none" => return Ok(Rights::NONE),
            _ => {}
        }
        text.split(',').try_fold(Rights::NONE, |all, word| {
            let known = Rights::NAMES.iter().find(|(name, _)| *name == word);
            known.map(|(_, one)| all.and(*one)).ok_or(word)
        })
    }

    pub const fn and(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    pub const fn have(self, needed: Rights) -> bool {
        self.0 & needed.0 == needed.0
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Rights::ALL => out.write_str("all"),
            Rights::NONE => out.write_str("none"),
            some => {
                let names = Rights::NAMES.iter().filter(|(_, one)| some.have(*one));
                let names: Vec<&str> = names.map(|(name, _)| *name).collect();
                out.write_str(&names.join(","))
            }
        }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Files {
    /// Everything in this directory.
    pub fn all(root: PathBuf) -> Files {
        Files { root, ..Files::default() }
    }

    /// Something is asked for that the kernel does not see to.
    pub const fn is_judged(&self) -> bool {
        !self.folders.is_empty() || self.quota.bytes.is_some() || self.quota.files.is_some()
    }

    /// What may be done to what is in `folder`, a path without links and dots.
    pub fn rights_in(&self, folder: &[u8]) -> Rights {
        if self.folders.is_empty() {
            return Rights::ALL;
        }
        let holds = |one: &&Folder| is_in(folder, one.path.as_bytes());
        let named = self.folders.iter().filter(holds).max_by_key(|one| one.path.len());
        named.map_or(Rights::NONE, |one| one.rights)
    }

    /// A folder with rights of its own is this path, or below it.
    pub fn holds_a_named_folder(&self, path: &[u8]) -> bool {
        self.folders.iter().any(|one| one.path != "/" && is_in(one.path.as_bytes(), path))
    }

    /// For the way to the process that serves the login.
    pub(super) fn encode(&self, put: &mut impl FnMut(&[u8])) {
        put(self.root.as_os_str().as_bytes());
        put(self.service.as_deref().unwrap_or_default().as_bytes());
        for limit in [self.quota.bytes, self.quota.files] {
            put(&limit.map_or(Vec::new(), |limit| limit.to_be_bytes().to_vec()));
        }
        put(&(self.folders.len() as u32).to_be_bytes());
        for folder in &self.folders {
            put(folder.path.as_bytes());
            put(&[folder.rights.0]);
        }
    }

    /// What [`Files::encode`] wrote; `None` for anything else.
    pub(super) fn decode(r: &mut Reader<'_>) -> Option<Files> {
        let root = PathBuf::from(OsStr::from_bytes(r.string(PARCEL_BYTES_MAX).ok()?));
        let service = r.utf8(PARCEL_BYTES_MAX).ok()?.to_owned();
        let mut limit = || match r.string(8).ok()? {
            [] => Some(None),
            bytes => Some(Some(u64::from_be_bytes(bytes.try_into().ok()?))),
        };
        let quota = Quota { bytes: limit()?, files: limit()? };
        let count = u32::from_be_bytes(r.string(4).ok()?.try_into().ok()?) as usize;
        if count > ACCOUNT_FOLDERS_MAX {
            return None;
        }
        let mut folders = Vec::new();
        for _ in 0..count {
            let path = r.utf8(PARCEL_BYTES_MAX).ok()?.to_owned();
            let &[rights] = r.string(1).ok()? else { return None };
            folders.push(Folder { path, rights: Rights(rights & Rights::ALL.0) });
        }
        Some(Files { root, service: Some(service).filter(|name| !name.is_empty()), folders, quota })
    }
}

/// `path` is `folder` or below it.
fn is_in(path: &[u8], folder: &[u8]) -> bool {
    let below = path.strip_prefix(folder);
    folder == b"/" || below.is_some_and(|below| below.is_empty() || below.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_that_is_named_counts() {
        let folder = |path: &str, rights: &str| Folder {
            path: path.to_owned(),
            rights: Rights::parse(rights).expect("rights"),
        };
        let folders = vec![
            folder("/", "read,list"),
            folder("/in", "write"),
            folder("/in/open", "all"),
            folder("/hidden", "none"),
        ];
        let files = Files { folders, ..Files::default() };
        for (path, rights) in [
            ("/", "read,list"),
            ("/inner", "read,list"),
            ("/in", "write"),
            ("/in/other/deep", "write"),
            ("/in/open/deep", "all"),
            ("/hidden/x", "none"),
        ] {
            assert_eq!(files.rights_in(path.as_bytes()).to_string(), rights, "{path}");
        }
        for (path, holds) in
            [("/in", true), ("/in/open", true), ("/in/open/x", false), ("/i", false), ("/x", false)]
        {
            assert_eq!(files.holds_a_named_folder(path.as_bytes()), holds, "{path}");
        }
        assert_eq!(Files::default().rights_in(b"/x"), Rights::ALL);
        assert_eq!(Rights::parse("read,wriet"), Err("wriet"));
        assert_eq!(Rights::parse(""), Err(""));
    }

    #[test]
    fn files_travel_whole() {
        let folder = Folder { path: "/in".to_owned(), rights: Rights::READ.and(Rights::LIST) };
        let files = Files {
            root: "/srv/ann".into(),
            service: Some("files".to_owned()),
            folders: vec![folder],
            quota: Quota { bytes: Some(7), files: None },
        };
        let mut bytes = Vec::new();
        files.encode(&mut |part| {
            bytes.extend((part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        });
        assert_eq!(Files::decode(&mut Reader::new(&bytes)), Some(files));
        for cut in 0..bytes.len() {
            assert_eq!(Files::decode(&mut Reader::new(&bytes[..cut])), None, "{cut}");
        }
    }
}
