//! Terminals: pseudo-terminals of the sandbox's own devpts, raw mode, window size. See pty(7), ioctl_tty(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::error::{SysResult, check};

/// The size of a terminal.
pub type Size = libc::winsize;

/// Opens the master of a new pseudo-terminal, from the ptmx device `ptmx` of a devpts, and unlocks its slave.
pub fn unlock(master: BorrowedFd<'_>) -> SysResult<()> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    check(result.into(), || "ioctl(TIOCSPTLCK)".to_owned()).map(drop)
}

/// Opens the slave that belongs to `master`, by the master alone and by no path (CVE-2025-52565).
pub fn open_peer(master: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags as a number and returns a new descriptor.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let fd = check(fd.into(), || "ioctl(TIOCGPTPEER)".to_owned())?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// Makes `terminal` the controlling terminal of this session, whose leader this process is.
pub fn take_control(terminal: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: TIOCSCTTY takes a number.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    check(result.into(), || "ioctl(TIOCSCTTY)".to_owned()).map(drop)
}

/// Reads the window size.
pub fn size(terminal: BorrowedFd<'_>) -> Option<Size> {
    let mut size = Size { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some(size)
}

/// Sets the window size; the foreground process group gets SIGWINCH from the kernel.
pub fn set_size(terminal: BorrowedFd<'_>, size: Size) {
    // SAFETY: TIOCSWINSZ reads one winsize.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}

/// Makes `group` the foreground process group of this process's controlling terminal.
pub fn set_foreground(terminal: BorrowedFd<'_>, group: i32) -> SysResult<()> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::tcsetpgrp(terminal.as_raw_fd(), group) };
    check(result.into(), || format!("tcsetpgrp({group})")).map(drop)
}

/// Whether descriptor `number` is a terminal.
pub fn is_terminal(number: i32) -> bool {
    // SAFETY: isatty takes any number.
    unsafe { libc::isatty(number) == 1 }
}
