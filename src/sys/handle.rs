//! File handles: the name of an inode that no rename changes, name_to_handle_at(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::error::{SysError, SysResult, check, quoted};

/// MAX_HANDLE_SZ.
const MAX_HANDLE: usize = 128;

/// `struct file_handle` with its largest content.
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    data: [u8; MAX_HANDLE],
}

/// The file handle of an entry: type and bytes; `None` where the file system has none.
pub fn of(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<Option<(u8, Vec<u8>)>> {
    let path = std::ffi::CString::new(name).map_err(|_| SysError::new("name_to_handle_at()", libc::EINVAL))?;
    let mut handle = Handle { bytes: MAX_HANDLE as libc::c_uint, kind: 0, data: [0; MAX_HANDLE] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the name is NUL-terminated, `handle` has room for the number of bytes that its first field says, and both
    // outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            directory.as_raw_fd(),
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    };
    match check(result, || format!("name_to_handle_at([{}], {})", directory.as_raw_fd(), quoted(name))) {
        Ok(_) => Ok(Some((handle.kind.to_le_bytes()[0], handle.data[..handle.bytes as usize].to_vec()))),
        Err(error) if error.errno == libc::EOPNOTSUPP => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the file with this handle on the file system of `mount`, a regular one for reading, another (a device may act when
/// it is opened) for its attributes only; `None` when there is none any more, or when the caller may not open by handle (it
/// needs CAP_DAC_READ_SEARCH in the first user namespace).
pub fn open(mount: BorrowedFd<'_>, kind: u8, bytes: &[u8], regular: bool) -> SysResult<Option<OwnedFd>> {
    if bytes.len() > MAX_HANDLE {
        return Ok(None);
    }
    let mut handle = Handle { bytes: bytes.len() as libc::c_uint, kind: kind.into(), data: [0; MAX_HANDLE] };
    handle.data[..bytes.len()].copy_from_slice(bytes);
    let how = if regular { libc::O_RDONLY | libc::O_NONBLOCK } else { libc::O_PATH };
    let flags = how | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `handle` holds the number of bytes that its first field says and outlives the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw const handle, flags) };
    match check(result, || format!("open_by_handle_at([{}])", mount.as_raw_fd())) {
        // SAFETY: the kernel has just returned this descriptor, and nobody else knows it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })),
        Err(error) if [libc::ESTALE, libc::EPERM, libc::EINVAL, libc::EOPNOTSUPP].contains(&error.errno) => Ok(None),
        Err(error) => Err(error),
    }
}
