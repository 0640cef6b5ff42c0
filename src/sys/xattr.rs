//! Extended attributes of an entry named by directory handle and name, xattr(7). Symbolic links are never followed.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::error::{Called, SysError, SysResult, quoted};

// KERNEL(6.13): listxattrat(2) takes a directory handle and a name. Before, the only way to an entry that must not be opened
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

/// XATTR_LIST_MAX of linux/limits.h: a longer list cannot be read at all.
const LONGEST_LIST: usize = 1 << 16;

/// Names of all attributes that the caller may see. Without a name: of the open file itself.
pub fn list(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<Vec<Vec<u8>>> {
    // Most entries have none, or one or two.
    let mut small = [0; 256];
    let mut large = Vec::new();
    let (result, buffer) = match list_into(directory, name, &mut small) {
        Err(Errno::RANGE) => {
            large.resize(LONGEST_LIST, 0);
            (list_into(directory, name, &mut large), &large[..])
        }
        other => (other, &small[..]),
    };
    match result {
        Ok(length) => {
            let names = buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty());
            Ok(names.map(<[u8]>::to_vec).collect())
        }
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        Err(errno) => {
            Err(SysError::new(format!("llistxattr({})", quoted(&path(directory, name))), errno.raw_os_error()))
        }
    }
}

fn list_into(directory: BorrowedFd<'_>, name: &[u8], buffer: &mut [u8]) -> rustix::io::Result<usize> {
    if !name.is_empty() {
        return list_at(directory, name, buffer)
            .unwrap_or_else(|| rustix::fs::llistxattr(&path(directory, name)[..], buffer));
    }
    // The f-call refuses a handle that was opened for its path only; for every other it saves the walk through /proc.
    match rustix::fs::flistxattr(directory, &mut *buffer) {
        Err(Errno::BADF) => rustix::fs::listxattr(&magic_link(directory)[..], buffer),
        other => other,
    }
}

/// The same number on every architecture.
const LISTXATTRAT: libc::c_long = 465;
/// Whether it is worth asking: a kernel that did not know the call does not learn it.
static AT_CALLS: AtomicBool = AtomicBool::new(true);

/// listxattrat(2). None: the kernel, or who filters its calls, does not know it.
fn list_at(directory: BorrowedFd<'_>, name: &[u8], buffer: &mut [u8]) -> Option<rustix::io::Result<usize>> {
    if !AT_CALLS.load(Ordering::Relaxed) {
        return None;
    }
    let result = rustix::path::Arg::into_with_c_str(name, |name| {
        // SAFETY: the descriptor and the name live until the call returns, and the buffer has as many bytes as it says.
        let length = unsafe {
            libc::syscall(
                LISTXATTRAT,
                directory.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        nix::errno::Errno::result(length)
            .map(|length| usize::try_from(length).unwrap_or(0))
            .map_err(|errno| Errno::from_raw_os_error(errno as i32))
    });
    if matches!(result, Err(Errno::NOSYS | Errno::PERM)) {
        AT_CALLS.store(false, Ordering::Relaxed);
        return None;
    }
    Some(result)
}

/// The value of `attribute` (without a name: of the open file itself); `None` when it is not there or the file system has no attributes.
pub fn get(directory: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> SysResult<Option<Vec<u8>>> {
    let mut buffer = vec![0_u8; 256];
    loop {
        let result = match name.is_empty() {
            true => match rustix::fs::fgetxattr(directory, attribute, &mut buffer[..]) {
                Err(Errno::BADF) => rustix::fs::getxattr(&magic_link(directory)[..], attribute, &mut buffer[..]),
                other => other,
            },
            false => rustix::fs::lgetxattr(&path(directory, name)[..], attribute, &mut buffer[..]),
        };
        match result {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) => buffer.resize(buffer.len() * 16, 0),
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(errno) => {
                let call = format!("lgetxattr({}, {})", quoted(&path(directory, name)), quoted(attribute));
                return Err(SysError::new(call, errno.raw_os_error()));
            }
        }
    }
}

/// Sets `attribute`; without a name, of the open file itself.
pub fn set(directory: BorrowedFd<'_>, name: &[u8], attribute: &[u8], value: &[u8]) -> SysResult<()> {
    let flags = rustix::fs::XattrFlags::empty();
    if name.is_empty() {
        return match rustix::fs::fsetxattr(directory, attribute, value, flags) {
            Err(Errno::BADF) => rustix::fs::setxattr(&magic_link(directory)[..], attribute, value, flags),
            other => other,
        }
        .called(|| format!("fsetxattr([{}], {})", directory.as_raw_fd(), quoted(attribute)));
    }
    let path = path(directory, name);
    rustix::fs::lsetxattr(&path[..], attribute, value, flags)
        .called(|| format!("lsetxattr({}, {})", quoted(&path), quoted(attribute)))
}

/// Removes `attribute`; one that is not there is no error.
pub fn remove(directory: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> SysResult<()> {
    let path = path(directory, name);
    match rustix::fs::lremovexattr(&path[..], attribute) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(errno) => {
            let call = format!("lremovexattr({}, {})", quoted(&path), quoted(attribute));
            Err(SysError::new(call, errno.raw_os_error()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn with_and_without_the_newer_call_the_same_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
        let long: Vec<String> = (0..9).map(|n| format!("user.{}{n}", "x".repeat(60))).collect();
        for expected in [&[][..], &["user.one".to_owned()], &long] {
            for name in expected {
                set(handle.as_fd(), b"file", name.as_bytes(), b"1").unwrap();
            }
            let of = |name: &[u8]| {
                let names = list(handle.as_fd(), name).unwrap().into_iter().map(|n| String::from_utf8(n).unwrap());
                let mut names: Vec<String> = names.filter(|name| name.starts_with("user.")).collect();
                names.sort();
                names
            };
            let expected = expected.to_vec();
            for newer in [true, false] {
                AT_CALLS.store(newer, Ordering::Relaxed);
                assert_eq!((of(b"file"), of(b"link")), (expected.clone(), vec![]), "{newer}");
                assert_eq!(list(handle.as_fd(), b"missing").unwrap_err().errno, libc::ENOENT, "{newer}");
            }
            AT_CALLS.store(true, Ordering::Relaxed);
            expected.iter().for_each(|name| remove(handle.as_fd(), b"file", name.as_bytes()).unwrap());
        }
    }
}
