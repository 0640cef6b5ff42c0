//! The local mirror in the step's view: bound read-only, and where pages are missing, with those laid over it.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::error::Result;
use crate::image::Inside;
use crate::mirror::synthesise::Pages;
use crate::sys::fs;
use crate::sys::mount::{self, Attr, FsContext};

fn attributes() -> Attr {
    Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID
}

/// Puts the mirror with `pages` laid over it on `target`. Returns what is to be attached on top.
///
/// The layers of an overlay have to be attached somewhere themselves before Linux 6.15: here below the overlay, where the step
/// does not see them. A mirror that cannot be a layer (on some network file systems) stays as it is, with a warning.
pub fn completed(bound: &OwnedFd, pages: &Pages, target: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let above = tmpfs_of(pages)?;
    mount::attach(above.as_fd(), target)?;
    mount::attach(bound.as_fd(), target)?;
    let (above, mirror) = (fs::open_dir(above.as_fd(), b".")?, fs::open_dir(bound.as_fd(), b".")?);
    Ok(merged(above.as_fd(), mirror.as_fd()))
}

/// The same where the layers can be directories of the host: the pages are written into `transaction`.
pub fn completed_by(mirror: &Path, pages: &Pages, transaction: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    fs::mkdir(transaction, b"pages", 0o755)?;
    fs::chmod(transaction, b"pages", 0o755)?;
    let above = fs::open_dir(transaction, b"pages")?;
    write(pages, above.as_fd())?;
    // Its path may be a link, as that of any host directory.
    let mirror = fs::open_dir(mount::open_path(mirror)?.as_fd(), b".")?;
    Ok(merged(above.as_fd(), mirror.as_fd()))
}

fn merged(above: BorrowedFd<'_>, mirror: BorrowedFd<'_>) -> Option<OwnedFd> {
    match overlay(above, mirror) {
        Ok(merged) => Some(merged),
        Err(error) => {
            log::warn!(
                "the mirror lacks pages, and they cannot be laid over it ({error}): `dropcloth mirror index` writes them into it"
            );
            None
        }
    }
}

fn overlay(above: BorrowedFd<'_>, mirror: BorrowedFd<'_>) -> crate::sys::SysResult<OwnedFd> {
    let context = FsContext::open("overlay")?;
    context.set("source", "pypi")?;
    // KERNEL(6.5): "lowerdir+" is newer than the floor; by magic links in one string, the same is said.
    if context.set_fd("lowerdir+", above).is_ok() {
        context.set_fd("lowerdir+", mirror)?;
    } else {
        use std::os::fd::AsRawFd;
        let layers = format!("/proc/self/fd/{}:/proc/self/fd/{}", above.as_raw_fd(), mirror.as_raw_fd());
        context.set("lowerdir", &layers)?;
    }
    context.mount(attributes())
}

fn tmpfs_of(pages: &Pages) -> Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.set("source", "pages")?;
    context.set("mode", "0755")?;
    let mounted = context.mount(Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID)?;
    write(pages, fs::open_dir(mounted.as_fd(), b".")?.as_fd())?;
    Ok(mounted)
}

fn write(pages: &Pages, root: BorrowedFd<'_>) -> Result<()> {
    for (path, text) in pages {
        let Some(path) = Inside::lexical(path) else { continue };
        let Some((parent, name)) = path.split() else { continue };
        let mut directory = fs::open_dir(root, b".")?;
        for component in parent.components() {
            fs::mkdir_if_missing(directory.as_fd(), component, 0o755)?;
            fs::chmod(directory.as_fd(), component, 0o755)?;
            directory = fs::open_dir(directory.as_fd(), component)?;
        }
        let file = fs::create(directory.as_fd(), name, 0o644)?;
        fs::fchmod(file.as_fd(), 0o644)?;
        std::fs::File::from(file).write_all(text.as_bytes())?;
    }
    Ok(())
}
