//! Mounts of the sandbox. Every target inside the image is opened without following a link, and mounted on by descriptor.

use std::cell::Cell;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, ResolveFlags};

use super::message::{ToInit, receive};
use super::scaffold::Ids;
use super::secrets::{self, Secret};
use super::{Bound, Ground, Inputs, Place, dev, mirror, proc, scaffold};
use crate::changes::{laid, replica};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::inside::Directories;
use crate::image::{Identity, Image, Inside};
use crate::mirror::synthesise::Pages;
use crate::plan::{Mount, MountPlan, Plan};
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::{SysResult, fs};
use crate::transaction::Transaction;

/// Host files and directories that were opened before anything was mounted: detached mounts, in the plan's order.
pub struct Sources {
    mounts: Vec<Option<OwnedFd>>,
    devices: dev::Devices,
}

impl Sources {
    /// The mounts of the plan, in its order.
    pub fn into_mounts(self) -> Vec<Option<OwnedFd>> {
        self.mounts
    }
}

/// Opens everything of the host that the plan mounts.
pub fn open_sources(plan: &Plan, image: &Image, secrets: &[Secret]) -> Result<Sources> {
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    for wish in &plan.mounts {
        let source = match &wish.mount {
            Mount::Bind { source, read_only } => Some(bind(source, *read_only)?),
            Mount::Cache { source, .. } => Some(bind(source, false)?),
            Mount::Mirror { source, .. } => Some(bind(source, true)?),
            Mount::Submount { read_only, .. } => Some(submount(image, &wish.at, *read_only)?),
            Mount::Secrets { .. } => Some(secrets::mount(secrets, &plan.account).doing(|| "cannot make the secrets")?),
            Mount::HostDev => Some(bind_recursive(Path::new("/dev"))?),
            Mount::Proc | Mount::Sys | Mount::Dev | Mount::Tmpfs => None,
        };
        mounts.push(source);
    }
    Ok(Sources { mounts, devices: dev::Devices::open()? })
}

fn bind(source: &Path, read_only: bool) -> Result<OwnedFd> {
    let doing = || format!("cannot bind {}", source.display());
    let handle = mount::open_path(source).doing(doing)?;
    let bound = mount::clone_mount(handle.as_fd(), true).doing(doing)?;
    let mut attributes = Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID;
    if read_only {
        attributes |= Attr::MOUNT_ATTR_RDONLY;
    }
    mount::set_attributes(bound.as_fd(), attributes, true).doing(doing)?;
    Ok(bound)
}

fn bind_recursive(source: &Path) -> Result<OwnedFd> {
    let doing = || format!("cannot bind {}", source.display());
    let handle = mount::open_path(source).doing(doing)?;
    mount::clone_mount(handle.as_fd(), true).doing(doing)
}

fn submount(image: &Image, at: &Inside, read_only: bool) -> Result<OwnedFd> {
    let doing = || format!("cannot show what is mounted at {at} of the image");
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let handle = fs::openat2(image.directory(), at.bytes(), OFlags::PATH | OFlags::NOFOLLOW, resolve).doing(doing)?;
    let bound = mount::clone_mount(handle.as_fd(), false).doing(doing)?;
    if read_only {
        mount::set_attributes(bound.as_fd(), Attr::MOUNT_ATTR_RDONLY, false).doing(doing)?;
    }
    Ok(bound)
}

/// The step's root, attached in this mount namespace.
pub struct Root {
    /// It.
    pub mount: OwnedFd,
    /// Overrides in memory that are bound over files.
    pub bound: Option<Bound>,
    /// An empty directory in memory for its /dev, as a detached mount.
    pub dev: Option<OwnedFd>,
}

/// The overlay of scaffold, image and upper.
pub fn merged_root(
    plan: &Plan,
    ground: &Ground,
    image: &Image,
    directories: &Directories,
    socket: BorrowedFd<'_>,
) -> Result<Root> {
    let doing = || format!("cannot lay the overlay over {}", plan.image.display());
    let in_memory = match ground.scaffold_in_memory {
        true => scaffold::in_memory(plan, image, directories)?,
        false => None,
    };
    let base = match ground.place {
        Place::Memory => transaction_in_memory(plan, image)?,
        _ => base(ground, socket)?,
    };
    let directory = |name: &[u8]| fs::open_dir(base.as_fd(), name);
    let (upper, work) = (directory(b"upper").doing(doing)?, directory(b"work").doing(doing)?);
    let xino = in_memory.is_some();
    let (scaffold, dev) = match in_memory {
        Some(scaffold) => {
            let (scaffold, dev) = scaffold.attach(base.as_fd())?;
            (scaffold, Some(dev))
        }
        None => {
            if ground.scaffold_in_memory {
                fs::mkdir_if_missing(base.as_fd(), b"scaffold", 0o700).doing(doing)?;
                let made = directory(b"scaffold").doing(doing)?;
                scaffold::fill(plan, image, made.as_fd(), &Ids(None))?;
            }
            (directory(b"scaffold").doing(doing)?, None)
        }
    };
    let layers = Layers { scaffold, upper, work, image: image.directory(), user_namespace: plan.user_namespace, xino };
    let attributes = overlay_attributes(plan);
    let merged = match layers.mount(attributes) {
        // KERNEL(6.5, 6.6): before, overlayfs has no "lowerdir+" and no "uuid=null". All layers in one string, by their
        // descriptors' magic links, mean the same. See overlayfs.rst, "Multiple lower layers".
        Err(error) if error.errno == libc::EINVAL => layers.mount_classic(attributes).map_err(|_| error),
        other => other,
    }
    .doing(doing)?;
    // KERNEL(6.15): mounts can be put onto a detached mount. Before, the root has to be attached somewhere first; in this
    // namespace nobody needs the transaction's own directory by its path.
    mount::attach(merged.as_fd(), base.as_fd()).doing(doing)?;
    Ok(Root { mount: merged, bound: None, dev })
}

/// The copy of the image as the root.
pub fn copied_root(plan: &Plan, ground: &Ground, socket: BorrowedFd<'_>) -> Result<Root> {
    let doing = || format!("cannot use the copy of {}", plan.image.display());
    let base = base(ground, socket)?;
    let tree = fs::open_dir(base.as_fd(), replica::TREE).doing(doing)?;
    let scaffold = fs::open_dir(base.as_fd(), b"scaffold").doing(doing)?;
    let root = bound_root(plan, base.as_fd(), tree.as_fd(), scaffold.as_fd(), false).doing(doing)?;
    Ok(Root { mount: root, bound: None, dev: None })
}

/// The image itself as the root, and the overrides where they are in memory.
pub fn direct_root(plan: &Plan, ground: &Ground, image: &Image, socket: BorrowedFd<'_>) -> Result<Root> {
    let doing = || format!("cannot work in {} itself", plan.image.display());
    if ground.scaffold_in_memory {
        let laid_at = laid::before_now();
        let scaffold = scaffold::files_in_memory(plan, laid_at).doing(doing)?;
        let base = base(ground, socket)?;
        let (files, dev) = scaffold.attach(base.as_fd()).doing(doing)?;
        let root = bound_root(plan, base.as_fd(), image.directory(), files.as_fd(), true).doing(doing)?;
        return Ok(Root { mount: root, bound: Some(Bound { files, laid_at }), dev: Some(dev) });
    }
    let base = base(ground, socket)?;
    let scaffold = fs::open_dir(base.as_fd(), b"scaffold").doing(doing)?;
    let root = bound_root(plan, base.as_fd(), image.directory(), scaffold.as_fd(), false).doing(doing)?;
    Ok(Root { mount: root, bound: None, dev: None })
}

/// The transaction's directory, once it is there.
fn base(ground: &Ground, socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let (path, identity) = match &ground.place {
        Place::There(path, identity) => (path.clone(), *identity),
        Place::Promised => promised(socket)?,
        Place::Memory => return refuse(Fault::new("overrides that are bound need a transaction on a disk")),
    };
    Ok(Image::reopen(&path, identity)?.into_directory())
}

/// Waits for the supervisor's word. One that could not make the transaction kills this process.
fn promised(socket: BorrowedFd<'_>) -> Result<(PathBuf, Identity)> {
    match receive::<ToInit>(socket)? {
        Some((ToInit::Place(path, identity), _)) => Ok((PathBuf::from(OsString::from_vec(path)), identity)),
        _ => refuse(Fault::new("the supervisor told no place for the transaction")),
    }
}

/// `tree` as the root, attached in this mount namespace over the transaction's own directory, with the overrides bound over its
/// files. Those in memory are in a mount that has the right attributes.
fn bound_root(
    plan: &Plan,
    base: BorrowedFd<'_>,
    tree: BorrowedFd<'_>,
    scaffold: BorrowedFd<'_>,
    in_memory: bool,
) -> Result<OwnedFd> {
    let root = mount::clone_mount(tree, false)?;
    mount::set_attributes(root.as_fd(), overlay_attributes(plan), false)?;
    mount::attach(root.as_fd(), base)?;
    for path in plan.scaffold.bound() {
        let doing = || format!("cannot lay {path} over");
        let bound = match in_memory {
            true => mount::clone_mount_below(scaffold, path.bytes()).doing(doing)?,
            false => bound_override(plan, scaffold, path)?,
        };
        mount::attach(bound.as_fd(), place(root.as_fd(), path)?.as_fd()).doing(doing)?;
    }
    Ok(root)
}

/// A detached bind of one override, or of the directory of several.
pub fn bound_override(plan: &Plan, scaffold: BorrowedFd<'_>, path: &Inside) -> Result<OwnedFd> {
    let doing = || format!("cannot lay {path} over");
    let file = mount::clone_mount(place(scaffold, path)?.as_fd(), false).doing(doing)?;
    mount::set_attributes(file.as_fd(), overlay_attributes(plan), false).doing(doing)?;
    Ok(file)
}

/// Opens a path of a root without following a link.
pub fn place(root: BorrowedFd<'_>, path: &Inside) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    fs::openat2(root, path.bytes(), OFlags::PATH | OFlags::NOFOLLOW, resolve)
        .doing(|| format!("cannot open {path} to lay a file over it"))
}

/// The directories of one overlay.
struct Layers<'a> {
    scaffold: OwnedFd,
    upper: OwnedFd,
    work: OwnedFd,
    image: BorrowedFd<'a>,
    user_namespace: bool,
    /// The scaffold is on another file system.
    xino: bool,
}

impl Layers<'_> {
    fn mount(&self, attributes: Attr) -> SysResult<OwnedFd> {
        let overlay = FsContext::open("overlay")?;
        overlay.set("source", "dropcloth")?;
        // The image is always the lowest layer: redirects in a middle layer would be followed (overlayfs.rst).
        overlay.set_fd("lowerdir+", self.scaffold.as_fd())?;
        overlay.set_fd("lowerdir+", self.image)?;
        overlay.set_fd("upperdir", self.upper.as_fd())?;
        overlay.set_fd("workdir", self.work.as_fd())?;
        overlay.set("uuid", "null")?;
        self.finish(overlay, attributes)
    }

    fn mount_classic(&self, attributes: Attr) -> SysResult<OwnedFd> {
        let link = |fd: BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let overlay = FsContext::open("overlay")?;
        overlay.set("source", "dropcloth")?;
        overlay.set("lowerdir", &format!("{}:{}", link(self.scaffold.as_fd()), link(self.image)))?;
        overlay.set("upperdir", &link(self.upper.as_fd()))?;
        overlay.set("workdir", &link(self.work.as_fd()))?;
        self.finish(overlay, attributes)
    }

    fn finish(&self, overlay: FsContext, attributes: Attr) -> SysResult<OwnedFd> {
        if self.user_namespace {
            // overlayfs.rst, "User xattr": redirect_dir=on contradicts it, and an index needs file handles, which need rights
            // in the first user namespace.
            overlay.flag("userxattr")?;
        } else {
            for (key, value) in [("redirect_dir", "on"), ("index", "on"), ("metacopy", "off")] {
                overlay.set(key, value)?;
            }
        }
        if self.xino {
            // Files of the image keep their inode numbers, and everything has one device number, as on one file system.
            overlay.set("xino", "on")?;
        }
        // Without it, the unmount syncs the whole upper file system; a transaction needs nothing on the disk before commit.
        overlay.flag("volatile")?;
        overlay.mount(attributes)
    }
}

/// Overlayfs does not take over the attributes of its layers' mounts. nodev: a device node can be made in the image and cannot
/// be opened there.
pub(super) fn overlay_attributes(plan: &Plan) -> Attr {
    let mut attributes = Attr::MOUNT_ATTR_NODEV;
    attributes.set(Attr::MOUNT_ATTR_NOSUID, plan.nosuid);
    attributes.set(Attr::MOUNT_ATTR_NOEXEC, plan.noexec);
    attributes
}

/// A tmpfs with the directories of a transaction, attached over the host's /tmp in this namespace only.
fn transaction_in_memory(plan: &Plan, image: &Image) -> Result<OwnedFd> {
    let doing = || "cannot make a transaction in memory";
    let tmpfs = FsContext::open("tmpfs").doing(doing)?;
    tmpfs.set("source", "dropcloth").doing(doing)?;
    tmpfs.set("mode", "0700").doing(doing)?;
    let mounted = tmpfs.mount(Attr::MOUNT_ATTR_NODEV).doing(doing)?;
    let point = mount::open_path(Path::new("/tmp")).doing(doing)?;
    mount::attach(mounted.as_fd(), point.as_fd()).doing(doing)?;
    let base = fs::open_dir(mounted.as_fd(), b".").doing(doing)?;
    for name in [&b"upper"[..], b"work", b"scaffold"] {
        fs::mkdir(base.as_fd(), name, 0o700).doing(doing)?;
    }
    scaffold::fill(plan, image, fs::open_dir(base.as_fd(), b"scaffold")?.as_fd(), &Ids(None))?;
    scaffold::prepare_upper(plan, image, base.as_fd())?;
    Ok(base)
}

/// Makes all mounts of the plan below `root`, its /dev of `dev` where that is there already. Returns the step's terminal when it gets one.
pub fn make_all(
    plan: &Plan,
    root: BorrowedFd<'_>,
    mut dev: Option<OwnedFd>,
    sources: &mut Sources,
    pages: &Pages,
) -> Result<Option<(OwnedFd, OwnedFd)>> {
    let mut terminal = None;
    for (wish, source) in plan.mounts.iter().zip(&mut sources.mounts) {
        let doing = || format!("cannot mount at {} of the image", wish.at);
        let target = target(root, wish)?;
        let mounted = match (&wish.mount, source.take()) {
            (Mount::Mirror { completed: true, .. }, Some(source)) => {
                match mirror::completed(&source, pages, target.as_fd()).doing(doing)? {
                    Some(merged) => merged,
                    None => continue,
                }
            }
            (_, Some(source)) => source,
            (Mount::Proc, None) => proc::mount(plan).doing(doing)?,
            (Mount::Sys, None) => proc::mount_sys(plan).doing(doing)?,
            (Mount::Tmpfs, None) => tmpfs().doing(doing)?,
            (_, None) => dev::directory(dev.take()).doing(doing)?,
        };
        mount::attach(mounted.as_fd(), target.as_fd()).doing(doing)?;
        match wish.mount {
            Mount::Proc => proc::guard(mounted.as_fd(), &sources.devices).doing(doing)?,
            Mount::Dev => terminal = dev::fill(mounted.as_fd(), &sources.devices, plan.terminal).doing(doing)?,
            Mount::HostDev if plan.terminal => terminal = dev::host_terminal(mounted.as_fd()).doing(doing)?,
            _ => {}
        }
    }
    Ok(terminal)
}

/// An empty tmpfs as for /tmp.
pub fn tmpfs() -> SysResult<OwnedFd> {
    dev::tmpfs("1777", Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID)
}

/// The mount point: its links were resolved in the plan, so a link now is a race and is refused.
fn target(root: BorrowedFd<'_>, wish: &MountPlan) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    fs::openat2(root, wish.at.bytes(), OFlags::PATH | OFlags::NOFOLLOW, resolve)
        .doing(|| format!("cannot open the mount point {} inside the image", wish.at))
}

/// The transaction's directory must be reachable by its path in the sandbox's namespace; kept here beside its one user.
pub fn ground(image: &Image, directories: Directories, place: Place, in_memory: bool, inputs: Inputs) -> Ground {
    let scaffold_in_memory = in_memory && place != Place::Memory;
    let image = (image.path().to_owned(), image.identity());
    let directories = Cell::new(directories);
    Ground { image, place, scaffold_in_memory, inputs, directories }
}

/// Where a transaction is that has begun.
pub fn place_of(transaction: &Transaction) -> Result<(PathBuf, Identity)> {
    let path = transaction.path();
    if !path.is_absolute() {
        return refuse(Fault::new(format!("the transaction's path {} is not absolute", path.display())));
    }
    Ok((path.to_owned(), transaction.identity()?))
}
