//! System calls of others, told before the kernel makes them: seccomp_unotify(2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};

use super::error::{SysError, SysResult, check};
use super::seccomp;

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    id: u64,
    /// The thread that makes it, as the reader's pid namespace numbers it.
    pub thread: i32,
    address: u64,
    length: u64,
}

/// From now on every connect(2) of this process and its children, and every sendto(2) with an address, is told first to
/// whoever reads what this returns. Needs CAP_SYS_ADMIN, as [`seccomp::succeed`] does. EBUSY: somebody is told already.
pub fn tell_of_connections() -> SysResult<OwnedFd> {
    let mut program = seccomp::notifying();
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
    let install = |flags: libc::c_ulong| {
        // SAFETY: `filter` points at `program`, both outlive the call, and the kernel copies them.
        let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
        check(fd, || "seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER)".to_owned())
    };
    // KERNEL(5.19): without the second flag any signal begins the call again, and it is told twice.
    let killable = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let fd = match install(killable) {
        Err(error) if error.errno == libc::EINVAL => install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?,
        other => other?,
    };
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// Waits for the next call. `None`: whoever made it is gone already. An error: there is nobody left to make one.
pub fn next(listener: BorrowedFd<'_>) -> SysResult<Option<Told>> {
    let mut wait = [nix::poll::PollFd::new(listener, nix::poll::PollFlags::POLLIN)];
    let error = |errno: nix::errno::Errno| SysError::new("poll(seccomp)", errno as i32);
    nix::poll::poll(&mut wait, nix::poll::PollTimeout::NONE).map_err(error)?;
    if wait[0].revents().is_some_and(|events| !events.contains(nix::poll::PollFlags::POLLIN)) {
        return Err(SysError::new("poll(seccomp)", libc::EPIPE));
    }
    // SAFETY: the structure is plain data for which all zeroes is valid, and what the kernel asks for.
    let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request takes one such structure, which outlives the call.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut request) };
    match check(result.into(), || "ioctl(SECCOMP_IOCTL_NOTIF_RECV)".to_owned()) {
        Err(error) if [libc::ENOENT, libc::EINTR].contains(&error.errno) => return Ok(None),
        other => other?,
    };
    // connect(fd, address, length) and sendto(fd, buffer, length, flags, address, length).
    let first = if i64::from(request.data.nr) == libc::SYS_connect { 1 } else { 4 };
    Ok(Some(Told {
        id: request.id,
        thread: request.pid.cast_signed(),
        address: request.data.args[first],
        length: request.data.args[first + 1],
    }))
}

/// Lets the call happen. That the caller is gone meanwhile is no error.
pub fn go_on(listener: BorrowedFd<'_>, told: Told) {
    let answer = libc::seccomp_notif_resp {
        id: told.id,
        val: 0,
        error: 0,
        flags: u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or(1),
    };
    // SAFETY: the request takes one such structure, which outlives the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
}

/// The address of the internet that the call leads to. The caller may change it behind our back: good for telling, not for
/// allowing.
pub fn address(told: Told) -> Option<SocketAddr> {
    let mut bytes = [0_u8; 28];
    let length = usize::try_from(told.length).ok()?.min(bytes.len());
    let remote = RemoteIoVec { base: usize::try_from(told.address).ok()?, len: length };
    let local = std::io::IoSliceMut::new(&mut bytes[..length]);
    process_vm_readv(nix::unistd::Pid::from_raw(told.thread), &mut [local], &[remote]).ok()?;
    decode(&bytes[..length])
}

/// struct sockaddr_in, ip(7), and struct sockaddr_in6, ipv6(7).
fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}
