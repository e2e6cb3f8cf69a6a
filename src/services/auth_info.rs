//! ExposeAuthInfo: a file that tells sessions how their login proved itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::mkstemp;

use crate::crypto::{Certificate, PublicKey};

/// Where sshd puts it, and how many characters behind that are drawn by lot.
const PREFIX: &str = "/tmp/sshauth.";
const DRAWN_CHARS: usize = 15;

/// One line a method, in the order in which they succeeded: its name, and the key or certificate, as
/// sshd writes them. The file is made for the first session and goes with the last that knows of it.
#[derive(Clone, Debug, Default)]
pub struct AuthInfo {
    text: String,
    place: Arc<OnceLock<Place>>,
}

impl PartialEq for AuthInfo {
    fn eq(&self, other: &AuthInfo) -> bool {
        self.text == other.text
    }
}

impl Eq for AuthInfo {}

/// A file that is removed when this is dropped; `None` where it could not be made.
#[derive(Debug)]
struct Place(Option<PathBuf>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

impl AuthInfo {
    /// A login by one method.
    pub fn new(
        method: &str,
        key: Option<&PublicKey>,
        certificate: Option<&Certificate>,
    ) -> AuthInfo {
        let line = certificate.map(|certificate| certificate.to_openssh_line(""));
        let line = line.or_else(|| key.map(|key| key.to_openssh_line("")));
        let text = match line {
            Some(line) => format!("{method} {}\n", line.trim_end()),
            None => format!("{method}\n"),
        };
        AuthInfo::with(text)
    }

    pub(super) fn with(text: String) -> AuthInfo {
        AuthInfo { text, place: Arc::default() }
    }

    /// What was told `before` in the same login stands before.
    pub(super) fn after(&mut self, before: &AuthInfo) {
        self.text.insert_str(0, &before.text);
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file, which is made once, as the account that this process runs as.
    ///
    /// # Errors
    /// It could not be made, which is told once.
    pub fn file(&self) -> io::Result<Option<&Path>> {
        let mut outcome = Ok(());
        let place = self.place.get_or_init(|| {
            let made = make(&self.text);
            Place(made.map_err(|why| outcome = Err(why)).ok())
        });
        outcome.map(|()| place.0.as_deref())
    }
}

fn make(text: &str) -> io::Result<PathBuf> {
    let (file, path) = mkstemp(format!("{PREFIX}{}", "X".repeat(DRAWN_CHARS)).as_str())?;
    let flags = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
    let written = fcntl(&file, flags).map_err(io::Error::from);
    let written = written.and_then(|_| File::from(file).write_all(text.as_bytes()));
    if written.is_err() {
        let _ = fs::remove_file(&path);
    }
    written.map(|()| path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};

    #[test]
    fn a_file_says_how_somebody_logged_in_and_goes() {
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone();
        let mut info = AuthInfo::new("keyboard-interactive", None, None);
        info.after(&AuthInfo::new("publickey", Some(&key), None));
        let line = key.to_openssh_line("");
        let expected = format!("publickey {}\nkeyboard-interactive\n", line.trim_end());
        let copy = info.clone();
        let path = info.file().expect("a file").expect("a file").to_owned();
        assert_eq!(copy.file().expect("a file"), Some(&*path), "one for all sessions");
        assert_eq!(fs::read_to_string(&path).expect("its text"), expected);
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(info);
        assert!(path.exists(), "somebody may still read it");
        drop(copy);
        assert!(!path.exists());
    }
}
