//! A socket pair that carries whole messages with at most one descriptor each.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, sendmsg, setsockopt,
    shutdown, socketpair, sockopt,
};
use nix::sys::time::TimeVal;

use crate::limits::{PARCEL_BYTES_MAX, PARCEL_QUEUE_BYTES_MAX};

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
            if setsockopt(end, sockopt::SndBufForce, &PARCEL_QUEUE_BYTES_MAX).is_err() {
                let _ = setsockopt(end, sockopt::SndBuf, &PARCEL_QUEUE_BYTES_MAX);
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

    /// From now on [`Messenger::receive`] waits so long at most, and then says `WouldBlock`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_patience(&self, time: Duration) -> io::Result<()> {
        let time = TimeVal::new(time.as_secs() as i64, i64::from(time.subsec_micros()));
        Ok(setsockopt(&self.socket, sockopt::ReceiveTimeout, &time)?)
    }

    /// Blocks while the other end's queue is full.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_with(bytes, None, MsgFlags::empty())
    }

    /// Never waits for the other end to read.
    ///
    /// # Errors
    /// `WouldBlock` when its queue is full, `BrokenPipe` when it is gone.
    pub fn try_send(&self, bytes: &[u8], passenger: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_with(bytes, passenger, MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(
        &self,
        bytes: &[u8],
        passenger: Option<BorrowedFd<'_>>,
        how: MsgFlags,
    ) -> io::Result<()> {
        if bytes.len() > PARCEL_BYTES_MAX as usize {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let parts = [IoSlice::new(bytes)];
        let fds: Vec<i32> = passenger.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | how;
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None)?;
        Ok(())
    }

    /// Nothing that the other end sends from now on comes; it hears of that. What it has sent before is still
    /// there.
    pub fn refuse_more(&self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Read);
    }

    /// Ends the conversation: both ends receive what was sent before, then nothing more.
    pub fn hang_up(&self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// The next message into `buffer`: its length, 0 when the other end is gone. A descriptor that came
    /// with it is lost where this process may have no more, and so are several: nobody sends them.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        self.receive_with(buffer, 0)
    }

    /// The same of what is there; `WouldBlock` where nothing is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        self.receive_with(buffer, libc::MSG_DONTWAIT)
    }

    fn receive_with(
        &self,
        buffer: &mut [u8],
        how: libc::c_int,
    ) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut control = [0_u64; 4];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all zeroes are a header of nothing.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let flags = libc::MSG_CMSG_CLOEXEC | how;
        // SAFETY: the header names memory of ours, with its sizes, that outlives the call.
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, flags) };
        let len = Errno::result(len)? as usize;
        // First of all, so that none stays open whatever else is wrong.
        let mut passengers = taken(&header);
        if header.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(io::Error::other("a message over its limit"));
        }
        let passenger = passengers.pop();
        let alone = passengers.is_empty() && header.msg_flags & libc::MSG_CTRUNC == 0;
        Ok((len, passenger.filter(|_| alone)))
    }
}

/// The descriptors that came with a message, those included that came with others for which there was no
/// room: nix answers none then, and they would stay open.
fn taken(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // SAFETY: the kernel has filled in the header and what it names; each of its records is whole and
    // aligned, and each descriptor in one is ours alone.
    unsafe {
        let mut record = libc::CMSG_FIRSTHDR(header);
        while !record.is_null() {
            let libc::cmsghdr { cmsg_len, cmsg_level, cmsg_type, .. } = *record;
            if (cmsg_level, cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let bytes = cmsg_len - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(record).cast::<RawFd>();
                for at in 0..bytes / size_of::<RawFd>() {
                    taken.push(OwnedFd::from_raw_fd(first.add(at).read_unaligned()));
                }
            }
            record = libc::CMSG_NXTHDR(header, record);
        }
    }
    taken
}

impl From<Messenger> for OwnedFd {
    fn from(messenger: Messenger) -> OwnedFd {
        messenger.socket
    }
}

#[cfg(test)]
impl Messenger {
    /// Never waits: the length of the next message, if there is one.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        use nix::sys::socket::recv;
        Ok(recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
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
        one.try_send(b"hello", Some(writer.as_fd())).expect("send");
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
        one.send(b"too long").expect("send");
        assert!(other.receive(&mut tiny).is_err());
        drop(one);
        assert_eq!(other.receive(&mut buffer).expect("end").0, 0);
    }

    /// SECURITY case 136: nobody fills root's process with descriptors, and one that there is no room for
    /// takes nothing but itself along.
    #[test]
    fn case_136_descriptors_that_cannot_be_taken_are_closed_and_end_nothing() {
        let (one, other) = Messenger::pair().expect("socket pair");
        let mut buffer = [0; 4];
        for (count, text) in [(1, &b"too long"[..]), (2, b"two"), (9, b"nine")] {
            let (mut reader, writer) = std::io::pipe().expect("pipe");
            let fds = vec![writer.as_raw_fd(); count];
            let rights = [ControlMessage::ScmRights(&fds)];
            let socket = one.socket.as_raw_fd();
            let parts = [IoSlice::new(text)];
            sendmsg::<()>(socket, &parts, &rights, MsgFlags::empty(), None).expect("sent");
            drop(writer);
            match other.receive(&mut buffer) {
                Ok((len, passenger)) => assert!(len == text.len() && passenger.is_none()),
                Err(_) => assert!(text.len() > buffer.len()),
            }
            // All that had it open are gone.
            assert_eq!(reader.read(&mut [0]).expect("an end"), 0);
        }
        one.send(b"on").expect("send");
        assert_eq!(other.receive(&mut buffer).expect("receive").0, 2);
    }

    #[test]
    fn an_end_that_does_not_read_is_not_waited_for() {
        let (one, other) = Messenger::pair().expect("socket pair");
        let bytes = vec![7; PARCEL_BYTES_MAX as usize / 4];
        let full = (0..1000).find_map(|_| one.try_send(&bytes, None).err());
        assert_eq!(full.expect("full").kind(), io::ErrorKind::WouldBlock);
        assert!(one.send(&vec![0; PARCEL_BYTES_MAX as usize + 1]).is_err());
        one.hang_up();
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        assert_eq!(other.receive(&mut buffer).expect("queued").0, bytes.len());
        assert!(other.send(b"x").is_err());
        assert_eq!(one.receive(&mut buffer).expect("end").0, 0);
    }
}
