//! Network interfaces, netdevice(7).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::error::{SysResult, check};

/// Sets IFF_UP on an interface.
pub fn interface_up(name: &str) -> SysResult<()> {
    // SAFETY: plain numbers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let fd = check(fd.into(), || "socket(AF_INET, SOCK_DGRAM)".to_owned())?;
    // SAFETY: the kernel just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) };
    // SAFETY: an ifreq of zeroes is a valid one with an empty name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *slot = byte.cast_signed();
    }
    // SAFETY: both requests take one ifreq, which outlives the calls; ifru_flags is what SIOCGIFFLAGS has filled in.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &raw mut request).into(), || {
            format!("ioctl(SIOCGIFFLAGS, {name})")
        })?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request).into(), || {
            format!("ioctl(SIOCSIFFLAGS, {name})")
        })?;
    }
    Ok(())
}
