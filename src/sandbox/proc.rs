//! The step's /proc and /sys.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use super::dev;
use crate::error::Result;
use crate::plan::Plan;
use crate::sys::error::Called;
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::{SysResult, fs};

/// Parts of /proc that a step must not read, as runc masks them.
const MASKED: [&str; 9] =
    ["acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"];
/// Parts of /proc that a step may read and not write: writing there changes the host's kernel.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// A procfs of this pid namespace, CVE-2019-16884: a new one by fsopen, never something found in the image.
fn new_proc() -> SysResult<OwnedFd> {
    let context = FsContext::open("proc")?;
    context.set("source", "proc")?;
    context.mount(Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC)
}

/// In a user namespace the kernel makes a new procfs only where the old one is whole; a container masks parts of it. Then the
/// step sees the container's.
pub fn mount(plan: &Plan) -> SysResult<OwnedFd> {
    match new_proc() {
        Err(error) if error.errno == libc::EPERM && plan.user_namespace => {
            log::warn!(
                "the step sees the /proc of this container, its processes included: parts of it are masked, so the kernel makes no new one"
            );
            outer("/proc")
        }
        other => other,
    }
}

/// A sysfs belongs to a network namespace: one that this user namespace does not own gives none.
pub fn mount_sys(plan: &Plan) -> SysResult<OwnedFd> {
    match new_sys() {
        Err(error) if error.errno == libc::EPERM && plan.user_namespace => {
            let bound = outer("/sys")?;
            mount::set_attributes(bound.as_fd(), Attr::MOUNT_ATTR_RDONLY, true)?;
            Ok(bound)
        }
        other => other,
    }
}

/// What is mounted here in the namespace outside, with everything below it.
fn outer(path: &str) -> SysResult<OwnedFd> {
    mount::clone_mount(mount::open_path(path.as_ref())?.as_fd(), true)
}

/// Masks the parts of a step's /proc.
pub fn guard(proc: BorrowedFd<'_>, devices: &dev::Devices) -> Result<()> {
    for name in READ_ONLY {
        let Some(part) = below(proc, name)? else { continue };
        let bound = mount::clone_mount(part.as_fd(), false)?;
        mount::set_attributes(bound.as_fd(), Attr::MOUNT_ATTR_RDONLY, false)?;
        mount::attach(bound.as_fd(), part.as_fd())?;
    }
    for name in MASKED {
        let Some(part) = below(proc, name)? else { continue };
        let directory = rustix::fs::FileType::from_raw_mode(fs::fstat(part.as_fd())?.st_mode).is_dir();
        let mask = if directory { empty_directory(proc)? } else { devices.null_mask()? };
        mount::attach(mask.as_fd(), part.as_fd())?;
    }
    Ok(())
}

/// One of procfs itself, where it has that: a file system more costs a run as much as ten binds.
fn empty_directory(proc: BorrowedFd<'_>) -> Result<OwnedFd> {
    // KERNEL(2.6): it is kept for old programs, and nothing can be made in it; see proc_tty_init(), fs/proc/proc_tty.c.
    match below(proc, "tty/ldisc")? {
        Some(empty) => {
            let bound = mount::clone_mount(empty.as_fd(), false)?;
            mount::set_attributes(bound.as_fd(), Attr::MOUNT_ATTR_RDONLY, false)?;
            Ok(bound)
        }
        None => Ok(dev::tmpfs("0755", Attr::MOUNT_ATTR_RDONLY)?),
    }
}

fn below(proc: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match fs::try_openat2(proc, name.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW, resolve) {
        Ok(part) => Ok(Some(part)),
        // EXDEV: a container's procfs in which that part is masked already; nothing is mounted in a new one.
        Err(Errno::NOENT | Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno).called(|| format!("openat2(\"/proc/{name}\")")).map_err(Into::into),
    }
}

fn new_sys() -> SysResult<OwnedFd> {
    let attributes =
        Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC | Attr::MOUNT_ATTR_RDONLY;
    let context = FsContext::open("sysfs")?;
    context.set("source", "sysfs")?;
    context.mount(attributes)
}
