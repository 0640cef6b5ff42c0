//! Extended attributes of an entry named by directory handle and name, xattr(7). Symbolic links are never followed.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::error::{Called, SysError, SysResult, quoted};

// KERNEL(6.13): getxattrat(2) takes a directory handle and a name. Before, the only way to an entry that must not be opened
// (fifo, device, symlink) is through the magic link of its directory; the l-calls do not follow the last component.
fn path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = [&magic_link(directory)[..], b"/"].concat();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    path
}

/// Leads to the open file itself, also to one that is a link or was opened for its path only (O_PATH), where the f-calls fail.
fn magic_link(file: BorrowedFd<'_>) -> Vec<u8> {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into_bytes()
}

/// Names of all attributes that the caller may see. Without a name: of the open file itself.
pub fn list(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<Vec<Vec<u8>>> {
    let path = path(directory, name);
    let mut buffer = vec![0_u8; 256];
    loop {
        let result = match name.is_empty() {
            // The f-call refuses a handle that was opened for its path only; for every other it saves the walk through /proc.
            true => match rustix::fs::flistxattr(directory, &mut buffer[..]) {
                Err(rustix::io::Errno::BADF) => rustix::fs::listxattr(&magic_link(directory)[..], &mut buffer[..]),
                other => other,
            },
            false => rustix::fs::llistxattr(&path[..], &mut buffer[..]),
        };
        match result {
            Ok(length) => {
                let names = buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty());
                return Ok(names.map(<[u8]>::to_vec).collect());
            }
            Err(rustix::io::Errno::RANGE) => buffer.resize(buffer.len() * 16, 0),
            Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
            Err(errno) => return Err(SysError::new(format!("llistxattr({})", quoted(&path)), errno.raw_os_error())),
        }
    }
}

/// The value of `attribute` (without a name: of the open file itself); `None` when it is not there or the file system has no attributes.
pub fn get(directory: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> SysResult<Option<Vec<u8>>> {
    let path = path(directory, name);
    let mut buffer = vec![0_u8; 256];
    loop {
        let result = match name.is_empty() {
            true => match rustix::fs::fgetxattr(directory, attribute, &mut buffer[..]) {
                Err(rustix::io::Errno::BADF) => {
                    rustix::fs::getxattr(&magic_link(directory)[..], attribute, &mut buffer[..])
                }
                other => other,
            },
            false => rustix::fs::lgetxattr(&path[..], attribute, &mut buffer[..]),
        };
        match result {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(rustix::io::Errno::RANGE) => buffer.resize(buffer.len() * 16, 0),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => return Ok(None),
            Err(errno) => {
                let call = format!("lgetxattr({}, {})", quoted(&path), quoted(attribute));
                return Err(SysError::new(call, errno.raw_os_error()));
            }
        }
    }
}

/// Sets `attribute`.
pub fn set(directory: BorrowedFd<'_>, name: &[u8], attribute: &[u8], value: &[u8]) -> SysResult<()> {
    let path = path(directory, name);
    rustix::fs::lsetxattr(&path[..], attribute, value, rustix::fs::XattrFlags::empty())
        .called(|| format!("lsetxattr({}, {})", quoted(&path), quoted(attribute)))
}

/// Removes `attribute`; one that is not there is no error.
pub fn remove(directory: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> SysResult<()> {
    let path = path(directory, name);
    match rustix::fs::lremovexattr(&path[..], attribute) {
        Ok(()) | Err(rustix::io::Errno::NODATA) => Ok(()),
        Err(errno) => {
            let call = format!("lremovexattr({}, {})", quoted(&path), quoted(attribute));
            Err(SysError::new(call, errno.raw_os_error()))
        }
    }
}
