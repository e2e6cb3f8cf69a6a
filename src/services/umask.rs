use std::sync::OnceLock;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

/// What a process has when nobody says otherwise; used where the kernel does not tell.
const USUAL: u32 = 0o022;

/// Runs `call` with another umask in this thread alone; with none given, as things are.
///
/// Threads share a umask until they stop to. Where a sandbox does not let this one stop, the call
/// runs with the process's own.
pub fn with_umask<T>(mask: Option<u32>, call: impl FnOnce() -> T) -> T {
    let Some(mask) = mask.filter(|_| is_apart()) else { return call() };
    let _restore = Restore(umask(Mode::from_bits_truncate(mask)));
    call()
}

/// The umask of the process. It does not change once threads run.
pub fn process_umask() -> u32 {
    static MASK: OnceLock<u32> = OnceLock::new();
    *MASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(USUAL)
    })
}

/// Puts the umask back even if the call panics: worker threads outlive that.
struct Restore(Mode);

impl Drop for Restore {
    fn drop(&mut self) {
        umask(self.0);
    }
}

/// This thread has a umask (and a root and a directory) of its own from the first question on.
fn is_apart() -> bool {
    thread_local! {
        static APART: bool = unshare(CloneFlags::CLONE_FS).is_ok();
    }
    APART.with(|apart| *apart)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_umask_is_the_threads_own_and_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = |name: &str, mask| {
            let path = folder.path().join(name);
            with_umask(mask, || std::fs::write(&path, "")).expect("a file");
            std::fs::metadata(&path).expect("its mode").permissions().mode() & 0o777
        };
        let usual = 0o666 & !process_umask();
        assert_eq!(made("a", None), usual);
        if is_apart() {
            assert_eq!(made("b", Some(0o077)), 0o600);
            assert_eq!(made("c", Some(0)), 0o666);
        }
        let other = std::thread::scope(|scope| scope.spawn(|| made("d", None)).join());
        assert_eq!((made("e", None), other.expect("joined")), (usual, usual));
    }
}
