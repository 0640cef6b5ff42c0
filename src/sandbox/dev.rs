//! The step's /dev: a tmpfs with the nodes that every program expects, bound from the host's.
//!
//! The tmpfs is nodev and the nodes are binds: a step may keep CAP_MKNOD (package scripts use it) and still opens no device
//! but these. Each is opened on the host before the sandbox's root is entered, and has to be the device it is named for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, OFlags, ResolveFlags};

use crate::error::{Doing, Fault, Result, refuse};
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::{SysResult, fs, tty};

/// Name, major and minor number, see Documentation/admin-guide/devices.txt.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// The host's device nodes, each a detached mount.
pub struct Devices {
    nodes: Vec<(&'static str, OwnedFd)>,
    null: OwnedFd,
}

impl Devices {
    /// Opens and checks them.
    pub fn open() -> Result<Devices> {
        let mut nodes = Vec::with_capacity(NODES.len());
        for (name, major, minor) in NODES {
            let path = format!("/dev/{name}");
            let node =
                mount::clone_mount_below(CWD, path.as_bytes()).doing(|| format!("cannot use the host's {path}"))?;
            check(node.as_fd(), &path, (major, minor))?;
            nodes.push((name, node));
        }
        let path = "/dev/null";
        let null = mount::open_path(path.as_ref()).doing(|| format!("cannot use the host's {path}"))?;
        check(null.as_fd(), path, (1, 3))?;
        Ok(Devices { nodes, null })
    }

    /// A read-only mount of /dev/null, to put over a file.
    pub fn null_mask(&self) -> SysResult<OwnedFd> {
        let bound = mount::clone_mount(self.null.as_fd(), false)?;
        mount::set_attributes(bound.as_fd(), Attr::MOUNT_ATTR_RDONLY, false)?;
        Ok(bound)
    }
}

/// CVE-2025-31133: what stands there may be a link or another device.
fn check(node: BorrowedFd<'_>, path: &str, (major, minor): (u32, u32)) -> Result<()> {
    let stat = fs::fstat(node)?;
    let right = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(major, minor);
    if right {
        return Ok(());
    }
    refuse(
        Fault::new(format!("the host's {path} is not the character device {major}:{minor}"))
            .hint(format!("Make it right with `rm {path}; mknod -m 666 {path} c {major} {minor}`.")),
    )
}

/// The directory of the step's /dev, not attached yet: `given` where there is an empty one in memory.
pub fn directory(given: Option<OwnedFd>) -> SysResult<OwnedFd> {
    let attributes = Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID;
    let Some(given) = given else { return tmpfs("0755", attributes) };
    mount::set_attributes_only(given.as_fd(), attributes)?;
    Ok(given)
}

/// A new tmpfs, not attached yet.
pub fn tmpfs(mode: &str, attributes: Attr) -> SysResult<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.set("source", "tmpfs")?;
    context.set("mode", mode)?;
    context.mount(attributes)
}

/// Fills the mounted tmpfs. With `terminal`, a pseudo-terminal of its own devpts comes back: master, slave.
pub fn fill(dev: BorrowedFd<'_>, devices: &Devices, terminal: bool) -> Result<Option<(OwnedFd, OwnedFd)>> {
    for (name, node) in &devices.nodes {
        let point = fs::create(dev, name.as_bytes(), 0o666)?;
        mount::attach(node.as_fd(), point.as_fd())?;
    }
    for (target, name) in LINKS {
        fs::symlink(target.as_bytes(), dev, name.as_bytes())?;
    }
    fs::mkdir(dev, b"pts", 0o755)?;
    // In the tmpfs that is there already: each file system more costs a run as much as all these entries.
    fs::mkdir(dev, b"shm", 0o1777)?;
    fs::chmod(dev, b"shm", 0o1777)?;
    let pts = devpts()?;
    mount::attach(pts.as_fd(), open_point(dev, "pts")?.as_fd())?;
    if !terminal {
        return Ok(None);
    }
    let (master, slave) = pseudo_terminal(pts.as_fd())?;
    // The step's terminal is its console too: programs like to find one there.
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&slave));
    let device = clone_node(mount::open_path(name.as_ref())?.as_fd())?;
    fs::create(dev, b"console", 0o600)?;
    mount::attach(device.as_fd(), open_point(dev, "console")?.as_fd())?;
    Ok(Some((master, slave)))
}

fn clone_node(handle: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    mount::clone_mount(handle, false)
}

fn open_point(directory: BorrowedFd<'_>, name: &str) -> SysResult<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    fs::openat2(directory, name.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW, resolve)
}

fn devpts() -> SysResult<OwnedFd> {
    let context = FsContext::open("devpts")?;
    context.set("source", "devpts")?;
    context.set("mode", "0620")?;
    context.set("ptmxmode", "0666")?;
    // Group 5 is tty on every distribution; a user namespace may not have it, and then nothing but write(1) misses it.
    let _ = context.set("gid", "5");
    context.mount(Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC)
}

fn pseudo_terminal(pts: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let master = fs::openat2(pts, b"ptmx", flags, resolve)?;
    tty::unlock(master.as_fd())?;
    let slave = tty::open_peer(master.as_fd())?;
    Ok((master, slave))
}

/// A terminal when the host's /dev is bound: from its devpts.
pub fn host_terminal(dev: BorrowedFd<'_>) -> Result<Option<(OwnedFd, OwnedFd)>> {
    let resolve = ResolveFlags::IN_ROOT;
    let pts = fs::openat2(dev, b"pts", OFlags::PATH | OFlags::DIRECTORY, resolve)?;
    pseudo_terminal(pts.as_fd()).map(Some)
}
