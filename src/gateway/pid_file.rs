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

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}
