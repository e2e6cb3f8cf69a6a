use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::unistd::mkdtemp;

use crate::limits::FORWARD_BACKLOG;
use crate::services::umask::with_umask;

/// Where sshd puts them, and programs look for them.
const DIRECTORY: &str = "/tmp/ssh-";
/// Characters behind it that are drawn by lot; mkdtemp(3) asks for as many X.
const DRAWN: usize = 10;

/// Makes a socket for the client's agent in a directory that the account alone can enter, and
/// listens there.
///
/// # Errors
/// The directory or the socket could not be made; nothing of them is left.
pub fn make_agent_socket() -> io::Result<(PathBuf, OwnedFd)> {
    let directory = mkdtemp(format!("{DIRECTORY}{}", "X".repeat(DRAWN)).as_str())?;
    let path = directory.join(format!("agent.{}", std::process::id()));
    match with_umask(Some(0o177), || listen_there(&path)) {
        Ok(socket) => Ok((path, socket)),
        Err(why) => {
            remove_agent_socket(&path);
            Err(why)
        }
    }
}

/// Takes the socket and its directory away.
pub fn remove_agent_socket(path: &Path) {
    // Whoever may write there may have done so before.
    let _ = std::fs::remove_file(path);
    if let Some(directory) = path.parent() {
        let _ = std::fs::remove_dir(directory);
    }
}

fn listen_there(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(FORWARD_BACKLOG)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_socket_is_its_owners_alone_and_goes() {
        let (path, _socket) = make_agent_socket().expect("a socket");
        let directory = path.parent().expect("a directory");
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode();
        assert_eq!((mode(directory) & 0o777, mode(&path) & 0o777), (0o700, 0o600));
        remove_agent_socket(&path);
        assert!(!directory.exists());
    }
}
