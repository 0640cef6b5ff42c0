//! Writes the scaffold and prepares the upper: the only files dropcloth makes before a step runs, all of them outside the image.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::mounts::overlay_attributes;
use crate::changes::marks::Prefix;
use crate::changes::redo::{Escaped, copy_directory_attributes};
use crate::error::{Doing, Fault, Result, refuse};
use crate::host::ids::{self, Maps};
use crate::image::inside::Directories;
use crate::image::{Image, Inside};
use crate::plan::{Content, Entry, Plan};
use crate::settings::{Mode, WhenChanged};
use crate::sys::fs::{self, Times};
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::{SysError, process, xattr};

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
    write_all(plan, scaffold.as_fd(), &Ids(plan.inner_maps.as_ref()), Place::Any)
}

/// A scaffold in memory, in the sandbox; none where memory cannot have what the image's directories have (flags, attributes).
/// Its device is another one than the image's, so the overlay needs `xino`.
pub fn in_memory(plan: &Plan, image: &Image, directories: &Directories) -> Result<Option<InMemory>> {
    let filled = with_given_modes(|| {
        let scaffold = InMemory::new(Attr::MOUNT_ATTR_NODEV)?;
        fill_memory(plan, image, directories, scaffold.root.as_fd())?;
        Ok(scaffold)
    });
    match filled {
        Ok(scaffold) => Ok(Some(scaffold)),
        Err(error) if matches!(Fault::errno(&error), Some(libc::EOPNOTSUPP | libc::ENOTTY)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the overrides of a step that writes straight to the image can be in memory: nobody wants them when it has ended.
pub fn binds_from_memory(plan: &Plan) -> bool {
    let keeps = |entry: &Entry| matches!(entry, Entry::File { when_changed: WhenChanged::Keep, .. });
    plan.mode == Mode::Through && !plan.scaffold.entries.values().any(keeps)
}

/// The overrides of such a step, with this time.
pub fn files_in_memory(plan: &Plan, laid_at: (i64, i64)) -> Result<InMemory> {
    let scaffold = with_given_modes(|| {
        let scaffold = InMemory::new(overlay_attributes(plan))?;
        write_all(plan, scaffold.root.as_fd(), &Ids(None), Place::Own)?;
        Ok(scaffold)
    })?;
    for path in files(plan) {
        fs::set_times(scaffold.root.as_fd(), path.bytes(), Times { atime: laid_at, mtime: laid_at })?;
    }
    Ok(scaffold)
}

/// Those of them that the step wrote to.
pub fn touched_in_memory(plan: &Plan, scaffold: BorrowedFd<'_>, laid_at: (i64, i64)) -> Result<Vec<Inside>> {
    let mut found = Vec::new();
    for path in files(plan) {
        if fs::stat(scaffold, path.bytes())?.is_some_and(|stat| Times::of(&stat).mtime != laid_at) {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn files(plan: &Plan) -> impl Iterator<Item = &Inside> {
    plan.scaffold.entries.iter().filter(|(_, entry)| matches!(entry, Entry::File { .. })).map(|(path, _)| path)
}

/// A scaffold in a file system of our own that is attached nowhere yet. What else the sandbox needs in memory has a directory in
/// it: each file system more takes a run as long as a dozen files.
pub struct InMemory {
    mount: OwnedFd,
    root: OwnedFd,
}

/// The directories of that file system.
const LAID: &[u8] = b"laid";
const DEV: &[u8] = b"dev";

impl InMemory {
    fn new(attributes: Attr) -> Result<InMemory> {
        let tmpfs = FsContext::open("tmpfs")?;
        tmpfs.set("source", "tmpfs")?;
        tmpfs.set("mode", "0700")?;
        let mount = tmpfs.mount(attributes)?;
        fs::mkdir(mount.as_fd(), LAID, NEW_DIRECTORY)?;
        fs::mkdir(mount.as_fd(), DEV, NEW_DIRECTORY)?;
        let root = fs::open_dir(mount.as_fd(), LAID)?;
        Ok(InMemory { mount, root })
    }

    /// Attaches it at `point`, where the step does not see it. Returns the scaffold's root, and an empty directory for its
    /// /dev, to be bound.
    pub fn attach(self, point: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd)> {
        mount::attach(self.mount.as_fd(), point)?;
        Ok((self.root, mount::clone_mount_below(self.mount.as_fd(), DEV)?))
    }
}

/// Writes the entries.
pub fn fill(plan: &Plan, image: &Image, scaffold: BorrowedFd<'_>, ids: &Ids<'_>) -> Result<()> {
    write_all(plan, scaffold, ids, Place::Any)?;
    // Attributes last and deepest first: writing an entry changes the times of its directory.
    for (path, entry) in plan.scaffold.entries.iter().rev() {
        if *entry == Entry::Clone {
            clone_attributes(image, path, scaffold, prefix(plan))
                .doing(|| format!("cannot copy the attributes of {path} of the image"))?;
        }
    }
    Ok(())
}

/// The same in an empty file system of our own, where a new entry has the mode and the owner that it is made with: a run makes
/// this on its way into the image, so each call counts.
fn fill_memory(plan: &Plan, image: &Image, directories: &Directories, scaffold: BorrowedFd<'_>) -> Result<()> {
    write_all(plan, scaffold, &Ids(None), Place::Own)?;
    let own = own_ids();
    for (path, entry) in plan.scaffold.entries.iter().rev() {
        if *entry == Entry::Clone {
            clone_to_memory(plan, image, directories, (path, own), scaffold)
                .doing(|| format!("cannot copy the attributes of {path} of the image"))?;
        }
    }
    Ok(())
}

/// Calls `make` while nothing is taken from the modes of new entries.
fn with_given_modes<T>(make: impl FnOnce() -> Result<T>) -> Result<T> {
    let caller = process::set_umask(0);
    let made = make();
    process::set_umask(caller);
    made
}

/// Most directories have nothing but an owner, a mode and times.
fn clone_to_memory(
    plan: &Plan,
    image: &Image,
    directories: &Directories,
    (path, own): (&Inside, (u32, u32)),
    scaffold: BorrowedFd<'_>,
) -> Result<()> {
    use crate::changes::marks::{COPIED_FLAGS, PROTECTED_FLAGS};
    let opened;
    let source = match directories.get(path) {
        Some(source) => source,
        None if path.is_root() => image.directory(),
        None => {
            opened = fs::open_dir_below_mounts(image.directory(), path.bytes())?;
            opened.as_fd()
        }
    };
    let stat = fs::fstat(source)?;
    let flags = fs::flags(source)?.unwrap_or(0) & (COPIED_FLAGS | PROTECTED_FLAGS);
    let ours = (stat.st_uid, stat.st_gid) == own;
    if !ours || flags != 0 || !xattr::list(source, b"")?.is_empty() {
        return clone_attributes(image, path, scaffold, prefix(plan));
    }
    if path.is_root() {
        // It has no name to be changed by.
        fs::fchmod(scaffold, stat.st_mode)?;
        return Ok(fs::set_times_of(scaffold, Times::of(&stat))?);
    }
    if stat.st_mode & 0o7777 != NEW_DIRECTORY {
        fs::chmod(scaffold, path.bytes(), stat.st_mode)?;
    }
    Ok(fs::set_times(scaffold, path.bytes(), Times::of(&stat))?)
}

/// The mode with which a directory of the image is made in the scaffold.
const NEW_DIRECTORY: u32 = 0o755;

/// Owner and group of whatever this process makes.
fn own_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Where a scaffold is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a file system made for it, with no umask: a new entry has the mode asked for, and the ids of this process.
    Own,
    /// In any directory.
    Any,
}

fn write_all(plan: &Plan, scaffold: BorrowedFd<'_>, ids: &Ids<'_>, place: Place) -> Result<()> {
    let own = own_ids();
    // Neighbours share their directory.
    let mut last: Option<(Inside, OwnedFd)> = None;
    for (path, entry) in &plan.scaffold.entries {
        if path.is_root() {
            continue;
        }
        let doing = || format!("cannot prepare the override of {path}");
        if place == Place::Own {
            // Nothing in it is a link, or anybody else's.
            let owner = write(scaffold, path.bytes(), entry).doing(doing)?;
            if let Some((owner, mode)) = owner.filter(|(owner, _)| *owner != own) {
                settle(scaffold, path.bytes(), mode, owner, ids).doing(doing)?;
            }
            continue;
        }
        let Some((parent, name)) = path.split() else { continue };
        if last.as_ref().is_none_or(|(known, _)| *known != parent) {
            let directory = fs::open_dir_below(scaffold, parent.bytes()).doing(doing)?;
            last = Some((parent, directory));
        }
        let Some((_, directory)) = &last else { continue };
        if let Some((owner, mode)) = write(directory.as_fd(), name, entry).doing(doing)? {
            settle(directory.as_fd(), name, mode, owner, ids).doing(doing)?;
        }
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
    pub fn give(&self, directory: BorrowedFd<'_>, name: &[u8], owner: (u32, u32)) -> Result<()> {
        let (uid, gid) = self.outside(owner)?;
        Ok(fs::chown(directory, name, uid, gid)?)
    }

    /// What these ids of the image are for this process.
    pub fn outside(&self, (uid, gid): (u32, u32)) -> Result<(u32, u32)> {
        let Some(maps) = self.0 else { return Ok((uid, gid)) };
        match (ids::outside(&maps.users, uid), ids::outside(&maps.groups, gid)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            _ => refuse(Fault::new("an owner of the image has no place in the id map")),
        }
    }
}

/// Makes one entry. Returns the owner and the mode that it has to have, where those matter.
fn write(directory: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<Option<((u32, u32), u32)>> {
    match entry {
        Entry::Clone => {
            fs::mkdir(directory, name, NEW_DIRECTORY)?;
            Ok(None)
        }
        Entry::Directory { mode } => {
            fs::mkdir(directory, name, *mode)?;
            Ok(Some(((0, 0), *mode)))
        }
        Entry::Point => {
            fs::create(directory, name, 0o644)?;
            Ok(None)
        }
        Entry::File { content, mode, owner, .. } => {
            write_content(&fs::create(directory, name, *mode)?, content)?;
            Ok(Some((*owner, *mode)))
        }
    }
}

/// Gives a new entry its owner and mode, where it has others: a directory can hand down its group, and the caller's umask and
/// the list of rights of a directory do not count here.
fn settle(directory: BorrowedFd<'_>, name: &[u8], mode: u32, owner: (u32, u32), ids: &Ids<'_>) -> Result<()> {
    let stat = fs::stat(directory, name)?;
    let wanted = ids.outside(owner)?;
    if stat.is_none_or(|stat| (stat.st_uid, stat.st_gid) != wanted) {
        fs::chown(directory, name, wanted.0, wanted.1)?;
    }
    // A change of the owner can take bits of the mode away.
    if stat.is_none_or(|stat| stat.st_mode & 0o7777 != mode || (stat.st_uid, stat.st_gid) != wanted) {
        fs::chmod(directory, name, mode)?;
    }
    Ok(())
}

fn write_content(file: &OwnedFd, content: &Content) -> Result<()> {
    let mut bytes = match content {
        Content::Text(text) => text.as_bytes(),
        Content::Resolver(bytes) => bytes,
        Content::File(source) => {
            let from = std::fs::File::open(source).doing(|| format!("cannot read {}", source.display()))?;
            let size = from.metadata()?.len();
            return Ok(fs::copy_data(from.as_fd(), file.as_fd(), size)?);
        }
    };
    while !bytes.is_empty() {
        bytes = &bytes[rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?..];
    }
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
