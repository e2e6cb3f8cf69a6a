use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;

/// PidFile; it goes when the gateway ends. As with sshd, one that cannot be written is told and
/// stops nothing.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    written: bool,
}

impl PidFile {
    pub fn write(path: &Path, pid: u32) -> PidFile {
        // Whoever can write the directory could have put a link there.
        let _ = fs::remove_file(path);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o644).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{pid}"));
        if let Err(why) = &written {
            let path = path.display();
            warn!(%path, %why, "PidFile {path}: {why}");
        }
        PidFile { path: path.to_owned(), written: written.is_ok() }
    }

    /// It is another's to take away.
    pub fn leave(mut self) {
        self.written = false;
    }

    /// Where it can be found from any directory; `None`: it could not be written.
    pub fn place(&self) -> Option<PathBuf> {
        self.written.then(|| std::path::absolute(&self.path).ok()).flatten()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes away what an earlier program has left that this one has no use for, if it has this number in it.
/// One that somebody else has written since stays.
pub fn remove_stale(path: &Path, pid: u32) {
    let text = fs::read_to_string(path).unwrap_or_default();
    if text.trim().parse() == Ok(pid)
        && let Err(why) = fs::remove_file(path)
    {
        let path = path.display();
        warn!(%path, %why, "PidFile {path} of the program before cannot be removed: {why}");
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_goes_and_another_number_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pid");
        PidFile::write(&path, 7).leave();
        remove_stale(&path, 8);
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "7\n");
        remove_stale(&path, 7);
        assert!(!path.exists());
        remove_stale(&path, 7);
        let unwritten = PidFile::write(&folder.path().join("none/pid"), 7);
        assert_eq!(unwritten.place(), None);
    }
}
