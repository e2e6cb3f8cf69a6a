//! ChrootDirectory: the directory of a login, and whether it is safe to be in one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::config::{Config, Effective, expand_tokens};
use super::residents;
use crate::services::{self, Account, Files, Place};

/// Where the files of this login are: everywhere, or in its ChrootDirectory.
///
/// As root, the process of the account makes the directory its root. Otherwise nobody can do that, and
/// the login has files alone, kept in the directory by openat2(2).
///
/// # Errors
/// The directory is not there, or somebody else than root could change what is in it; in sshd's words.
pub fn place(login: &Effective, account: &Account, uid: u32) -> Result<Place, String> {
    let Some(template) = &login.chroot_directory else { return Ok(Place::System) };
    let path = expand_tokens(template, &account.home, &account.name, account.uid);
    if !path.is_absolute() {
        return Err(format!("chroot path \"{}\" does not begin at root", path.display()));
    }
    check(&path, uid)?;
    Ok(if uid == 0 { Place::Chroot(path) } else { Place::Files(Box::new(Files::all(path))) })
}

/// Every directory on the way is root's, or ours where we are not root, and nobody else writes to it:
/// whoever could replace one, or put files like /etc/passwd where programs look for them, would decide
/// about the login.
fn check(path: &Path, uid: u32) -> Result<(), String> {
    // Links on the way are looked through: what they lead to counts as well.
    let real = fs::canonicalize(path).map_err(|why| missing(path, &why))?;
    let mut parts: Vec<&Path> = path.ancestors().chain(real.ancestors()).collect();
    parts.reverse();
    for part in parts {
        let metadata = fs::metadata(part).map_err(|why| missing(part, &why))?;
        let what = if part == path || part == real { "" } else { "directory component " };
        let owned = metadata.uid() == 0 || metadata.uid() == uid;
        // A sticky directory of everybody's is not root's alone either, except to whoever is not root.
        let open = metadata.mode() & 0o022 != 0 && (uid == 0 || metadata.mode() & 0o1000 == 0);
        if !owned || open {
            let (part, mode) = (part.display(), metadata.mode() & 0o7777);
            return Err(format!(
                "bad ownership or modes for chroot {what}\"{part}\": it must belong to root, and nobody \
                 else may write to it (it belongs to uid {}, mode {mode:o})",
                metadata.uid()
            ));
        }
        if !metadata.is_dir() {
            return Err(format!("chroot path {what}\"{}\" is not a directory", part.display()));
        }
    }
    Ok(())
}

fn missing(part: &Path, why: &io::Error) -> String {
    format!("chroot path \"{}\": {why}", part.display())
}

/// Whether logins can be kept where this configuration says, and whether its own accounts make sense.
///
/// # Errors
/// The kernel cannot, or their file is wrong.
pub fn check_places(config: &Config) -> Result<(), Unusable> {
    if !config.confines() {
        return Ok(());
    }
    services::check_fences().map_err(Unusable::Fences)?;
    residents::check(config).map(drop).map_err(Unusable::Residents)
}

/// Why the gateway does not begin.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(
        "ChrootDirectory and TidegateAccounts need openat2(2) with RESOLVE_IN_ROOT (Linux 5.6 or later), \
         which this kernel or its sandbox does not have: {0}"
    )]
    Fences(io::Error),
    #[error("{0}")]
    Residents(String),
}

/// The directory that a login is to be in, as the configuration has it, for those who ask.
pub fn template_is_legal(template: &str) -> bool {
    template.starts_with('/') || template == "%h" || template.starts_with("%h/")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn folder(parent: &Path, name: &str, mode: u32) -> PathBuf {
        let path = parent.join(name);
        fs::create_dir(&path).expect("a folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        path
    }

    #[test]
    fn what_others_could_change_is_no_root() {
        let uid = nix::unistd::geteuid().as_raw();
        // Somewhere that everybody may write to is on the way to every temporary directory.
        let home = if uid == 0 { PathBuf::from("/var") } else { std::env::temp_dir() };
        let top = tempfile::tempdir_in(home).expect("a folder");
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let good = folder(top.path(), "good", 0o755);
        assert_eq!(check(&good, uid), Ok(()));
        let open = folder(&good, "open", 0o775);
        let said = check(&open, uid).expect_err("a group writes");
        let start = format!("bad ownership or modes for chroot \"{}\"", open.display());
        assert!(said.starts_with(&start), "{said}");
        let below = folder(&open, "below", 0o755);
        let said = check(&below, uid).expect_err("its parent");
        assert!(said.contains("chroot directory component"), "{said}");
        std::os::unix::fs::symlink(&below, good.join("link")).expect("a link");
        assert!(check(&good.join("link"), uid).is_err(), "where a link leads counts");
        fs::write(good.join("file"), "").expect("a file");
        let said = check(&good.join("file"), uid).expect_err("a file");
        assert!(said.contains("not a directory"), "{said}");
        assert!(check(&good.join("gone"), uid).is_err());
        if uid == 0 {
            std::os::unix::fs::chown(&good, Some(65_534), None).expect("given away");
            let said = check(&good, uid).expect_err("nobody's");
            assert!(said.contains("uid 65534"), "{said}");
            assert!(check(&std::env::temp_dir(), uid).is_err(), "everybody's");
        }
    }

    #[test]
    fn roots_begin_at_the_root() {
        for (template, legal) in
            [("/srv/%u", true), ("%h", true), ("%h/x", true), ("srv", false), ("%u", false)]
        {
            assert_eq!(template_is_legal(template), legal, "{template}");
        }
    }
}
