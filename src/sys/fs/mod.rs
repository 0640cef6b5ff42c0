//! File-system calls by directory handle and name. Nothing here follows a symbolic link in a name it is given.

mod content;
mod listing;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::path::Arg;

use super::error::{Called, SysError, SysResult, quoted};

pub use content::{Means, copy_data};
pub use listing::{Entry, entries};

/// FS_IMMUTABLE_FL, ioctl_iflags(2).
pub const IMMUTABLE: u32 = 0x10;
/// FS_APPEND_FL.
pub const APPEND: u32 = 0x20;

fn at(directory: BorrowedFd<'_>, name: &[u8]) -> String {
    format!("[{}], {}", directory.as_raw_fd(), quoted(name))
}

/// openat(2) for reading, which leaves the access time as it is where the caller has an owner's rights (O_NOATIME): that dropcloth
/// looked is not the image's business, and a time that moves has to be written to the disk.
pub fn open_quietly(directory: BorrowedFd<'_>, path: impl Arg, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    path.into_with_c_str(|path| quietly(flags, |flags| rustix::fs::openat(directory, path, flags, Mode::empty())))
}

/// Opens with O_NOATIME, and without it what is another's.
fn quietly(flags: OFlags, open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>) -> rustix::io::Result<OwnedFd> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}

/// Opens the directory `name`, for reading.
pub fn open_dir(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_quietly(directory, name, flags).called(|| format!("openat({}, O_DIRECTORY)", at(directory, name)))
}

/// Opens the directory at the relative path `path` below `base`, without crossing a mount, a symbolic link or `base` itself.
///
/// A path may be longer than PATH_MAX: it is walked in pieces.
pub fn open_dir_below(base: BorrowedFd<'_>, path: &[u8]) -> SysResult<OwnedFd> {
    try_open_dir_below(base, path).called(|| format!("openat2({}, {WITHIN:?})", at(base, path)))
}

const WITHIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// The same for a directory that may well be missing: no text is made for the error.
pub fn try_open_dir_below(base: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if path.is_empty() {
        return open_quietly(base, ".", flags);
    }
    let mut rest = path;
    let mut current: Option<OwnedFd> = None;
    while !rest.is_empty() {
        let (piece, tail) = split_piece(rest);
        let from = current.as_ref().map_or(base, AsFd::as_fd);
        let next = try_openat2(from, piece, flags, WITHIN)?;
        current = Some(next);
        rest = tail;
    }
    Ok(current.expect("the path is not empty"))
}

/// The same, but a mount on the way is entered: for reading attributes only.
pub fn open_dir_below_mounts(base: BorrowedFd<'_>, path: &[u8]) -> SysResult<OwnedFd> {
    if path.is_empty() {
        return open_dir(base, b".");
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    openat2(base, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// The longest leading part of whole components that fits a system call.
fn split_piece(path: &[u8]) -> (&[u8], &[u8]) {
    const LIMIT: usize = 4000;
    if path.len() <= LIMIT {
        return (path, b"");
    }
    let cut = path[..LIMIT].iter().rposition(|b| *b == b'/').unwrap_or(LIMIT);
    (&path[..cut], &path[cut + 1..])
}

/// openat2(2), repeated where a concurrent rename made the kernel ask for it.
pub fn openat2(from: BorrowedFd<'_>, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> SysResult<OwnedFd> {
    try_openat2(from, path, flags, resolve).called(|| format!("openat2({}, {resolve:?})", at(from, path)))
}

/// The same for a path that may well be missing: no text is made for the error.
pub fn try_openat2(
    from: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    for _ in 0..64 {
        let open = |flags| rustix::fs::openat2(from, path, flags, Mode::empty(), resolve);
        let flags = flags | OFlags::CLOEXEC;
        // A handle on the place alone reads nothing, and openat2(2) refuses both together.
        match if flags.contains(OFlags::PATH) { open(flags) } else { quietly(flags, open) } {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// lstat by handle; `None` when there is no such entry.
pub fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(SysError::new(format!("fstatat({})", at(directory, name)), errno.raw_os_error())),
    }
}

/// fstat.
pub fn fstat(file: BorrowedFd<'_>) -> SysResult<Stat> {
    rustix::fs::fstat(file).called(|| format!("fstat([{}])", file.as_raw_fd()))
}

/// The file system's magic number, statfs(2).
pub fn file_system(file: BorrowedFd<'_>) -> SysResult<u64> {
    let stat = rustix::fs::fstatfs(file).called(|| format!("fstatfs([{}])", file.as_raw_fd()))?;
    Ok(stat.f_type.cast_unsigned())
}

/// mkdirat; an existing entry is EEXIST.
pub fn mkdir(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> SysResult<()> {
    rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(mode))
        .called(|| format!("mkdirat({}, {mode:#o})", at(directory, name)))
}

/// Makes the directory unless there is one already.
pub fn mkdir_if_missing(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> SysResult<()> {
    match mkdir(directory, name, mode) {
        Err(error) if error.errno == libc::EEXIST => Ok(()),
        other => other,
    }
}

/// Makes a new file for writing; an existing entry is EEXIST.
pub fn create(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> SysResult<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode))
        .called(|| format!("openat({}, O_CREAT|O_EXCL)", at(directory, name)))
}

/// Opens a regular file or directory for reading; fifos and devices do not block.
pub fn open_read(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_quietly(directory, name, flags).called(|| format!("openat({}, O_RDONLY)", at(directory, name)))
}

/// Opens a file that is there for writing; fifos and devices do not block.
pub fn open_write(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
        .called(|| format!("openat({}, O_WRONLY)", at(directory, name)))
}

/// Empties an open file.
pub fn truncate(file: BorrowedFd<'_>) -> SysResult<()> {
    rustix::fs::ftruncate(file, 0).called(|| format!("ftruncate([{}], 0)", file.as_raw_fd()))
}

/// unlinkat for anything but a directory.
pub fn unlink(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<()> {
    rustix::fs::unlinkat(directory, name, AtFlags::empty()).called(|| format!("unlinkat({})", at(directory, name)))
}

/// unlinkat for an empty directory.
pub fn rmdir(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<()> {
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
        .called(|| format!("unlinkat({}, AT_REMOVEDIR)", at(directory, name)))
}

/// renameat2 without flags: replaces what is there.
pub fn rename(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> SysResult<()> {
    rustix::fs::renameat_with(from, name, to, new, RenameFlags::empty())
        .called(|| format!("renameat2({}, {})", at(from, name), at(to, new)))
}

/// Renames to a name that is not taken, rename(2) RENAME_NOREPLACE; EINVAL where the file system does not know that.
pub fn rename_new(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> SysResult<()> {
    rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE)
        .called(|| format!("renameat2({}, {}, RENAME_NOREPLACE)", at(from, name), at(to, new)))
}

/// Exchanges two names in one step, rename(2) RENAME_EXCHANGE.
pub fn exchange(one: BorrowedFd<'_>, name: &[u8], other: BorrowedFd<'_>, name_there: &[u8]) -> SysResult<()> {
    rustix::fs::renameat_with(one, name, other, name_there, RenameFlags::EXCHANGE)
        .called(|| format!("renameat2({}, {}, RENAME_EXCHANGE)", at(one, name), at(other, name_there)))
}

/// linkat; a symbolic link is linked itself.
pub fn link(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> SysResult<()> {
    rustix::fs::linkat(from, name, to, new, AtFlags::empty())
        .called(|| format!("linkat({}, {})", at(from, name), at(to, new)))
}

/// symlinkat.
pub fn symlink(target: &[u8], directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<()> {
    rustix::fs::symlinkat(target, directory, name).called(|| format!("symlinkat({})", at(directory, name)))
}

/// The target of a symbolic link.
pub fn readlink(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<Vec<u8>> {
    rustix::fs::readlinkat(directory, name, Vec::new())
        .map(std::ffi::CString::into_bytes)
        .called(|| format!("readlinkat({})", at(directory, name)))
}

/// mknodat with a full st_mode and st_rdev.
pub fn mknod(directory: BorrowedFd<'_>, name: &[u8], mode: u32, device: u64) -> SysResult<()> {
    rustix::fs::mknodat(
        directory,
        name,
        rustix::fs::FileType::from_raw_mode(mode),
        Mode::from_raw_mode(mode & 0o7777),
        device,
    )
    .called(|| format!("mknodat({}, {mode:#o})", at(directory, name)))
}

/// Changes the owner of an entry, not of what it links to.
pub fn chown(directory: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> SysResult<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .called(|| format!("fchownat({})", at(directory, name)))
}

/// Changes the owner of an open file or directory.
pub fn fchown(file: BorrowedFd<'_>, uid: u32, gid: u32) -> SysResult<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::fchown(file, Some(uid), Some(gid)).called(|| format!("fchown([{}])", file.as_raw_fd()))
}

/// Sets the permission bits (with set-uid, set-gid and sticky) of what `file` is open on.
pub fn fchmod(file: BorrowedFd<'_>, mode: u32) -> SysResult<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))
        .called(|| format!("fchmod([{}], {mode:#o})", file.as_raw_fd()))
}

/// Sets the permission bits of an entry that is not a symbolic link.
pub fn chmod(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> SysResult<()> {
    rustix::fs::chmodat(directory, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
        .called(|| format!("fchmodat({}, {mode:#o})", at(directory, name)))
}

/// Access and modification time of an entry or an open file: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Times {
    /// Access time.
    pub atime: (i64, i64),
    /// Modification time.
    pub mtime: (i64, i64),
}

impl Times {
    /// The times in `stat`.
    pub fn of(stat: &Stat) -> Times {
        Times {
            atime: (stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or_default()),
            mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        }
    }

    /// The same, but not later than `seconds` since 1970.
    pub fn not_after(self, seconds: i64) -> Times {
        let limit = (seconds, 0);
        Times { atime: self.atime.min(limit), mtime: self.mtime.min(limit) }
    }

    fn timestamps(self) -> Timestamps {
        let spec = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec };
        Timestamps { last_access: spec(self.atime), last_modification: spec(self.mtime) }
    }
}

/// Sets the times of an entry, not of what it links to.
pub fn set_times(directory: BorrowedFd<'_>, name: &[u8], times: Times) -> SysResult<()> {
    rustix::fs::utimensat(directory, name, &times.timestamps(), AtFlags::SYMLINK_NOFOLLOW)
        .called(|| format!("utimensat({})", at(directory, name)))
}

/// Whether this process has an owner's rights on a file or directory: O_NOATIME, open(2), is for the owner and for
/// CAP_FOWNER over his id. Changes nothing.
pub fn may_own(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).is_ok()
}

/// Sets the times of an open file or directory.
pub fn set_times_of(file: BorrowedFd<'_>, times: Times) -> SysResult<()> {
    rustix::fs::futimens(file, &times.timestamps()).called(|| format!("futimens([{}])", file.as_raw_fd()))
}

/// Sets the time of modification of an open file or directory, seconds and nanoseconds, and leaves the other.
pub fn set_mtime_of(file: BorrowedFd<'_>, (tv_sec, tv_nsec): (i64, i64)) -> SysResult<()> {
    let same = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: same, last_modification: Timespec { tv_sec, tv_nsec } };
    rustix::fs::futimens(file, &times).called(|| format!("futimens([{}])", file.as_raw_fd()))
}

/// Inode flags, ioctl_iflags(2); `None` where the file system has none.
pub fn flags(file: BorrowedFd<'_>) -> SysResult<Option<u32>> {
    match rustix::fs::ioctl_getflags(file) {
        Ok(flags) => Ok(Some(flags.bits())),
        Err(Errno::NOTTY | Errno::NOTSUP | Errno::INVAL | Errno::NOSYS) => Ok(None),
        Err(errno) => {
            Err(SysError::new(format!("ioctl([{}], FS_IOC_GETFLAGS)", file.as_raw_fd()), errno.raw_os_error()))
        }
    }
}

/// Sets the inode flags.
pub fn set_flags(file: BorrowedFd<'_>, flags: u32) -> SysResult<()> {
    rustix::fs::ioctl_setflags(file, rustix::fs::IFlags::from_bits_retain(flags))
        .called(|| format!("ioctl([{}], FS_IOC_SETFLAGS, {flags:#x})", file.as_raw_fd()))
}

/// Writes everything of the file system below `file` to the disk; reports write-back errors, syncfs(2).
pub fn syncfs(file: BorrowedFd<'_>) -> SysResult<()> {
    rustix::fs::syncfs(file).called(|| format!("syncfs([{}])", file.as_raw_fd()))
}

/// fsync(2).
pub fn fsync(file: BorrowedFd<'_>) -> SysResult<()> {
    rustix::fs::fsync(file).called(|| format!("fsync([{}])", file.as_raw_fd()))
}

/// Writes out the file's data, so that it is there when the file's size is: sync_file_range(2), all flags. The disk's own cache
/// and the names of the file are another matter.
pub fn write_out(file: BorrowedFd<'_>) -> SysResult<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is borrowed, and no memory is touched.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, all) };
    nix::errno::Errno::result(result)
        .map(drop)
        .map_err(|errno| SysError::new(format!("sync_file_range([{}])", file.as_raw_fd()), errno as i32))
}

/// Takes the flock(2) lock without waiting; false when another open file holds it against us.
pub fn try_lock(file: BorrowedFd<'_>, exclusive: bool) -> SysResult<bool> {
    use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingLockShared};
    let operation = if exclusive { NonBlockingLockExclusive } else { NonBlockingLockShared };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(SysError::new(format!("flock([{}])", file.as_raw_fd()), errno.raw_os_error())),
    }
}

/// Takes the shared flock(2) lock, and waits for it.
pub fn lock_shared(file: BorrowedFd<'_>) -> SysResult<()> {
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::LockShared) {
            Err(Errno::INTR) => {}
            other => return other.called(|| format!("flock([{}], LOCK_SH)", file.as_raw_fd())),
        }
    }
}
