//! A socket pair that carries whole messages with at most one descriptor each.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};

use crate::limits::PARCEL_BYTES_MAX;

/// One end.
#[derive(Debug)]
pub struct Messenger {
    socket: OwnedFd,
}

impl Messenger {
    pub fn pair() -> io::Result<(Messenger, Messenger)> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        for end in [&one, &other] {
            // Root may pass the system's ceiling; for others the default has to do.
            let size = PARCEL_BYTES_MAX as usize;
            if setsockopt(end, sockopt::SndBufForce, &size).is_err() {
                let _ = setsockopt(end, sockopt::SndBuf, &size);
            }
        }
        Ok((Messenger { socket: one }, Messenger { socket: other }))
    }

    pub const fn from_fd(socket: OwnedFd) -> Messenger {
        Messenger { socket }
    }

    pub const fn as_owned_fd(&self) -> &OwnedFd {
        &self.socket
    }

    pub fn try_clone(&self) -> io::Result<Messenger> {
        Ok(Messenger { socket: self.socket.try_clone()? })
    }

    /// Blocks while the other end's queue is full.
    pub fn send(&self, bytes: &[u8], passenger: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let fds: Vec<i32> = passenger.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// The next message into `buffer`: its length, 0 when the other end is gone.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut control = cmsg_space!(i32);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Err(io::Error::other("a message over its limit"));
        }
        let mut passenger = None;
        for item in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = item {
                for fd in fds {
                    // SAFETY: the kernel has just made this descriptor for us alone.
                    passenger = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
        Ok((message.bytes, passenger))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_travels_beside_its_message() {
        let (one, other) = Messenger::pair().expect("socket pair");
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        one.send(b"hello", Some(writer.as_fd())).expect("send");
        drop(writer);
        let mut buffer = [0; 64];
        let (len, passenger) = other.receive(&mut buffer).expect("receive");
        assert_eq!(&buffer[..len], b"hello");
        let mut file = std::fs::File::from(passenger.expect("descriptor"));
        file.write_all(b"through").expect("write");
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
        let mut tiny = [0; 2];
        one.send(b"too long", None).expect("send");
        assert!(other.receive(&mut tiny).is_err());
        drop(one);
        assert_eq!(other.receive(&mut buffer).expect("end").0, 0);
    }
}
