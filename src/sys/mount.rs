//! Mounts as file descriptors: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).
//! See Documentation/filesystems/mount_api.rst.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::error::{Called, SysError, SysResult, check};

/// Attributes of a mount, see mount_setattr(2).
pub use rustix::mount::MountAttrFlags as Attr;

/// A file system being configured (an fsopen(2) context).
pub struct FsContext {
    fd: OwnedFd,
    name: String,
}

impl FsContext {
    /// Opens a context for the file system type `name`.
    pub fn open(name: &str) -> SysResult<FsContext> {
        let fd = rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).called(|| format!("fsopen({name:?})"))?;
        Ok(FsContext { fd, name: name.to_owned() })
    }

    /// Sets `key` to a string.
    pub fn set(&self, key: &str, value: &str) -> SysResult<()> {
        rustix::mount::fsconfig_set_string(self.fd.as_fd(), key, value)
            .called(|| format!("fsconfig({}, {key:?}, {value:?})", self.name))
            .map_err(|error| self.with_log(error))
    }

    /// Sets the flag `key`.
    pub fn flag(&self, key: &str) -> SysResult<()> {
        rustix::mount::fsconfig_set_flag(self.fd.as_fd(), key)
            .called(|| format!("fsconfig({}, {key:?})", self.name))
            .map_err(|error| self.with_log(error))
    }

    /// Sets a directory `key` by descriptor.
    pub fn set_fd(&self, key: &str, value: BorrowedFd<'_>) -> SysResult<()> {
        // KERNEL(6.13): overlayfs takes its layers by descriptor; before, FSCONFIG_SET_FD is EINVAL for them. A magic
        // link names the same directory and needs no escaping of `:`, `,` or `\`. See overlayfs.rst, "Multiple lower layers".
        match rustix::mount::fsconfig_set_fd(self.fd.as_fd(), key, value) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::INVAL) => self.set(key, &format!("/proc/self/fd/{}", value.as_raw_fd())),
            Err(errno) => Err(self.with_log(SysError::new(
                format!("fsconfig({}, {key:?}, [{}])", self.name, value.as_raw_fd()),
                errno.raw_os_error(),
            ))),
        }
    }

    /// Makes the superblock and a detached mount of it.
    pub fn mount(self, attributes: Attr) -> SysResult<OwnedFd> {
        rustix::mount::fsconfig_create(self.fd.as_fd())
            .called(|| format!("fsconfig({}, FSCONFIG_CMD_CREATE)", self.name))
            .map_err(|error| self.with_log(error))?;
        rustix::mount::fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .called(|| format!("fsmount({})", self.name))
            .map_err(|error| self.with_log(error))
    }

    fn with_log(&self, mut error: SysError) -> SysError {
        let mut lines = Vec::new();
        let mut buffer = [0_u8; 4096];
        while let Ok(length) = rustix::io::read(&self.fd, &mut buffer) {
            if length == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&buffer[..length]);
            // The log's first two characters are the level, "e " or "w ".
            lines.push(line.trim().get(2..).unwrap_or_default().to_owned());
        }
        error.kernel = (!lines.is_empty()).then(|| lines.join("; "));
        error
    }
}

/// Attaches the detached mount `mount` on the directory or file `target`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> SysResult<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
        .called(|| format!("move_mount([{}], [{}])", mount.as_raw_fd(), target.as_raw_fd()))
}

/// A detached bind mount of what `source` is open on.
pub fn clone_mount(source: BorrowedFd<'_>, recursive: bool) -> SysResult<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(source, "", flags).called(|| format!("open_tree([{}])", source.as_raw_fd()))
}

/// The same for what is at `path` below a directory of our own, where nobody makes links.
pub fn clone_mount_below(directory: BorrowedFd<'_>, path: &[u8]) -> SysResult<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    rustix::mount::open_tree(directory, path, flags)
        .called(|| format!("open_tree([{}], {})", directory.as_raw_fd(), super::error::quoted(path)))
}

/// Sets `attributes` on a mount, and on those below it when `recursive`.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attr, recursive: bool) -> SysResult<()> {
    let value = libc::mount_attr { attr_set: u64::from(attributes.bits()), attr_clr: 0, propagation: 0, userns_fd: 0 };
    set_attr(mount, &value, recursive, || format!("mount_setattr([{}], {attributes:?})", mount.as_raw_fd()))
}

/// Sets `attributes` on a mount, and clears nosuid, nodev, noexec and ro where they are not among them.
pub fn set_attributes_only(mount: BorrowedFd<'_>, attributes: Attr) -> SysResult<()> {
    let all = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC | Attr::MOUNT_ATTR_RDONLY;
    let value = libc::mount_attr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: u64::from(all.bits()),
        propagation: 0,
        userns_fd: 0,
    };
    set_attr(mount, &value, false, || format!("mount_setattr([{}], {attributes:?})", mount.as_raw_fd()))
}

fn set_attr(
    mount: BorrowedFd<'_>,
    value: &libc::mount_attr,
    recursive: bool,
    call: impl FnOnce() -> String,
) -> SysResult<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is borrowed for the call, the path is a NUL-terminated literal and `value` outlives the call
    // with its own size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(value),
            size_of::<libc::mount_attr>(),
        )
    };
    check(result, call).map(drop)
}

/// Makes a mount and those below it private: what happens to it is not done to the mounts that it was cloned from.
pub fn make_private(mount: BorrowedFd<'_>) -> SysResult<()> {
    let value = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set_attr(mount, &value, true, || format!("mount_setattr([{}], MS_PRIVATE)", mount.as_raw_fd()))
}

/// Whether `file` is open on the root of a mount, statx(2).
pub fn is_root(file: BorrowedFd<'_>) -> SysResult<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .called(|| format!("statx([{}])", file.as_raw_fd()))?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes away the mount on whose root `root` is open, also when it is in use.
pub fn unmount(root: BorrowedFd<'_>) -> SysResult<()> {
    // umount2(2) takes no descriptor; its magic link leads to this very mount, whatever its path leads to meanwhile.
    let link = format!("/proc/self/fd/{}", root.as_raw_fd());
    rustix::mount::unmount(&*link, UnmountFlags::DETACH).called(|| format!("umount2({link:?}, MNT_DETACH)"))
}

/// Makes every mount of this namespace private, so that nothing done here is seen outside and the other way round.
pub fn make_all_private() -> SysResult<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).called(|| "mount(\"/\", MS_REC|MS_PRIVATE)")
}

/// Makes every mount of this namespace follow the one it was copied from, and not the other way round.
pub fn make_all_slaves() -> SysResult<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).called(|| "mount(\"/\", MS_REC|MS_SLAVE)")
}

/// Takes the topmost mount at `path` away from this namespace.
pub fn detach(path: &std::path::Path) -> SysResult<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH).called(|| format!("umount2({:?}, MNT_DETACH)", path.display()))
}

/// Makes the directory `root` the root directory of the mount namespace and lets the old root go.
pub fn pivot_root(root: BorrowedFd<'_>) -> SysResult<()> {
    rustix::process::fchdir(root).called(|| "fchdir(root)")?;
    // With both arguments ".", the old root is stacked over the new one and is detached in the next call: no directory
    // of the image is needed to put it in. See pivot_root(2), "pivot_root(".", ".")".
    rustix::process::pivot_root(".", ".").called(|| "pivot_root(\".\", \".\")")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).called(|| "umount2(\".\", MNT_DETACH)")?;
    rustix::process::chdir("/").called(|| "chdir(\"/\")")
}

/// The mount attributes (nosuid, nodev, noexec) that the mount below `file` has.
pub fn attributes_of(file: BorrowedFd<'_>) -> SysResult<Attr> {
    let stat = rustix::fs::fstatvfs(file).called(|| format!("fstatvfs([{}])", file.as_raw_fd()))?;
    let pairs = [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ];
    let set = pairs.iter().filter(|(has, _)| stat.f_flag.contains(*has));
    Ok(set.fold(MountAttrFlags::empty(), |all, (_, attribute)| all | *attribute))
}

/// Whether the mount below `file` is read-only.
pub fn is_read_only(file: BorrowedFd<'_>) -> SysResult<bool> {
    let stat = rustix::fs::fstatvfs(file).called(|| format!("fstatvfs([{}])", file.as_raw_fd()))?;
    Ok(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// A new directory-less handle on a host path, never followed further than the path itself says.
pub fn open_path(path: &std::path::Path) -> SysResult<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .called(|| format!("openat({:?}, O_PATH)", path.display()))
}
