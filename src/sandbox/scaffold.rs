//! Writes the scaffold and prepares the upper: the only files dropcloth makes before a step runs, all of them outside the image.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::changes::marks::Prefix;
use crate::changes::redo::{Escaped, copy_directory_attributes};
use crate::error::{Doing, Fault, Result, refuse};
use crate::host::ids::{self, Maps};
use crate::image::{Image, Inside};
use crate::plan::{Content, Entry, Plan};
use crate::sys::fs::{self, Times};
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::{SysError, xattr};

/// Gives the upper the attributes of the image's root, which the merged root shows.
pub fn prepare_upper(plan: &Plan, image: &Image, transaction: BorrowedFd<'_>) -> Result<()> {
    let upper = fs::open_dir(transaction, b"upper")?;
    clone_directory(image.directory(), upper.as_fd(), Layer::Upper, prefix(plan))
        .doing(|| "cannot copy the attributes of the image's root")
}

/// Writes the entries of the plan to `scaffold` in the transaction, from outside of the sandbox.
pub fn build(plan: &Plan, image: &Image, transaction: BorrowedFd<'_>) -> Result<()> {
    fs::mkdir_if_missing(transaction, b"scaffold", 0o700)?;
    fill(plan, image, fs::open_dir(transaction, b"scaffold")?.as_fd(), &Ids(plan.inner_maps.as_ref()))
}

/// The same for a step that gets the overrides bound over its files: their directories are nobody's.
pub fn build_files(plan: &Plan, transaction: BorrowedFd<'_>) -> Result<()> {
    fs::mkdir_if_missing(transaction, b"scaffold", 0o700)?;
    let scaffold = fs::open_dir(transaction, b"scaffold")?;
    write_all(plan, scaffold.as_fd(), &Ids(plan.inner_maps.as_ref()))
}

/// A scaffold in memory, in the sandbox; none where memory cannot have what the image's directories have (flags, attributes).
/// Its device is another one than the image's, so the overlay needs `xino`.
pub fn in_memory(plan: &Plan, image: &Image, point: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let tmpfs = FsContext::open("tmpfs")?;
    tmpfs.set("source", "scaffold")?;
    tmpfs.set("mode", "0755")?;
    let mounted = tmpfs.mount(Attr::MOUNT_ATTR_NODEV)?;
    mount::attach(mounted.as_fd(), point)?;
    let root = fs::open_dir(mounted.as_fd(), b".")?;
    match fill(plan, image, root.as_fd(), &Ids(None)) {
        Ok(()) => Ok(Some(root)),
        Err(error) if matches!(Fault::errno(&error), Some(libc::EOPNOTSUPP | libc::ENOTTY)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the entries.
pub fn fill(plan: &Plan, image: &Image, scaffold: BorrowedFd<'_>, ids: &Ids<'_>) -> Result<()> {
    write_all(plan, scaffold, ids)?;
    // Attributes last and deepest first: writing an entry changes the times of its directory.
    for (path, entry) in plan.scaffold.entries.iter().rev() {
        if *entry == Entry::Clone {
            clone_attributes(image, path, scaffold, prefix(plan))
                .doing(|| format!("cannot copy the attributes of {path} of the image"))?;
        }
    }
    Ok(())
}

fn write_all(plan: &Plan, scaffold: BorrowedFd<'_>, ids: &Ids<'_>) -> Result<()> {
    for (path, entry) in &plan.scaffold.entries {
        write(scaffold, path, entry, ids).doing(|| format!("cannot prepare the override of {path}"))?;
    }
    Ok(())
}

/// Where the overlay of this plan keeps its attributes.
pub fn prefix(plan: &Plan) -> Prefix {
    if plan.user_namespace { Prefix::User } else { Prefix::Trusted }
}

/// Owners as this process sees them: the image's ids can be those of a namespace inside.
pub struct Ids<'a>(pub Option<&'a Maps>);

impl Ids<'_> {
    /// Gives the entry of a directory to these ids of the image.
    pub fn give(&self, directory: BorrowedFd<'_>, name: &[u8], (uid, gid): (u32, u32)) -> Result<()> {
        let (uid, gid) = match self.0 {
            None => (Some(uid), Some(gid)),
            Some(maps) => (ids::outside(&maps.users, uid), ids::outside(&maps.groups, gid)),
        };
        match (uid, gid) {
            (Some(uid), Some(gid)) => Ok(fs::chown(directory, name, uid, gid)?),
            _ => refuse(Fault::new("an owner of the image has no place in the id map")),
        }
    }
}

fn write(scaffold: BorrowedFd<'_>, path: &Inside, entry: &Entry, ids: &Ids<'_>) -> Result<()> {
    let Some((parent, name)) = path.split() else { return Ok(()) };
    let directory = fs::open_dir_below(scaffold, parent.bytes())?;
    match entry {
        Entry::Clone => fs::mkdir(directory.as_fd(), name, 0o755)?,
        Entry::Directory { mode } => {
            fs::mkdir(directory.as_fd(), name, *mode)?;
            // The caller's umask does not count here.
            fs::chmod(directory.as_fd(), name, *mode)?;
            ids.give(directory.as_fd(), name, (0, 0))?;
        }
        Entry::Point => drop(fs::create(directory.as_fd(), name, 0o644)?),
        Entry::File { content, mode, owner, .. } => {
            let file = fs::create(directory.as_fd(), name, 0o600)?;
            write_content(&file, content)?;
            ids.give(directory.as_fd(), name, *owner)?;
            fs::fchmod(file.as_fd(), *mode)?;
        }
    }
    Ok(())
}

fn write_content(file: &OwnedFd, content: &Content) -> Result<()> {
    let bytes = match content {
        Content::Text(text) => text.as_bytes(),
        Content::Resolver(bytes) => bytes,
        Content::File(source) => {
            let from = std::fs::File::open(source).doing(|| format!("cannot read {}", source.display()))?;
            let size = from.metadata()?.len();
            return Ok(fs::copy_data(from.as_fd(), file.as_fd(), size)?);
        }
    };
    std::fs::File::from(rustix::io::fcntl_dupfd_cloexec(file, 0)?).write_all(bytes)?;
    Ok(())
}

fn clone_attributes(image: &Image, path: &Inside, scaffold: BorrowedFd<'_>, prefix: Prefix) -> Result<()> {
    let source = fs::open_dir_below_mounts(image.directory(), path.bytes())?;
    let target = fs::open_dir_below(scaffold, path.bytes())?;
    clone_directory(source.as_fd(), target.as_fd(), Layer::Scaffold, prefix)
}

/// Which layer a directory is in: overlayfs looks for `i` and `a` in the attribute `protattr` of the upper, and in the inode
/// itself of a lower.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Scaffold,
    Upper,
}

/// Owner, mode, attributes, times and flags, the last because `i` forbids the rest.
fn clone_directory(source: BorrowedFd<'_>, target: BorrowedFd<'_>, layer: Layer, prefix: Prefix) -> Result<()> {
    use crate::changes::marks::{COPIED_FLAGS, PROTECTED_FLAGS};
    match copy_directory_attributes(source, target, prefix, Escaped::Kept) {
        // An owner without a place in the user namespace: what is discarded can be shown without him.
        Err(error) if prefix == Prefix::User && Fault::errno(&error) == Some(libc::EINVAL) => {}
        other => other?,
    }
    let stat = fs::fstat(source)?;
    let (from, to) = (fs::flags(source)?.unwrap_or(0), fs::flags(target)?);
    let protected = from & PROTECTED_FLAGS;
    if protected != 0 && layer == Layer::Upper {
        let letters = [(fs::APPEND, b'a'), (fs::IMMUTABLE, b'i')];
        let value: Vec<u8> = letters.iter().filter(|(flag, _)| from & flag != 0).map(|(_, letter)| *letter).collect();
        xattr::set(target, b"", &prefix.name("protattr"), &value)?;
    }
    fs::set_times_of(target, Times::of(&stat))?;
    let wanted = from & COPIED_FLAGS | if layer == Layer::Scaffold { protected } else { 0 };
    match to {
        Some(to) if wanted & !to != 0 => Ok(fs::set_flags(target, to | wanted)?),
        None if wanted != 0 => Err(SysError::new("ioctl(FS_IOC_SETFLAGS)", libc::EOPNOTSUPP).into()),
        _ => Ok(()),
    }
}
