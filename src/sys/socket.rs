//! Whole messages, with descriptors, over a pair of SOCK_SEQPACKET sockets, unix(7).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, sendmsg,
    socketpair,
};

use super::error::{Called, SysResult};

/// A connected pair.
pub fn pair() -> SysResult<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .called(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")
}

/// Sends one message, with a descriptor if there is one. A peer that is gone is EPIPE, never a signal.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> SysResult<()> {
    let fds: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
        .called(|| "sendmsg()")
        .map(drop)
}

/// How long the next message is; 0 when the peer is gone. A buffer for the longest would cost a page fault for each page of it.
fn length_of_next(socket: BorrowedFd<'_>) -> SysResult<usize> {
    loop {
        match recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            // A peer that ended with a message of ours unread: told once, before what it said itself. unix(7)
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            other => return other.called(|| "recv(MSG_PEEK|MSG_TRUNC)"),
        }
    }
}

/// Receives one message; empty when the peer is gone.
pub fn receive(socket: BorrowedFd<'_>) -> SysResult<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0_u8; length_of_next(socket)?];
    let mut space = nix::cmsg_space!(RawFd);
    let (length, descriptor) = {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let message = loop {
            match recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                other => break other.called(|| "recvmsg()")?,
            }
        };
        let mut descriptor = None;
        for control in message.cmsgs().called(|| "recvmsg()")? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                descriptor = fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
            }
        }
        (message.bytes, descriptor)
    };
    bytes.truncate(length);
    Ok((bytes, descriptor))
}
