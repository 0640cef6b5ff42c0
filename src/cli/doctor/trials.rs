//! What doctor tries and does not only look up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Fault, Result};
use crate::image::Image;
use crate::sys::fs;
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::process::{self, Forked};

/// Runs a trial in a child, whose namespaces are its own.
pub(super) fn in_child(trial: impl FnOnce() -> Result<()>) -> Result<()> {
    use std::io::{Read, Write};
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match process::fork()? {
        Forked::Child => {
            let said = trial().err().and_then(|error| serde_json::to_vec(&Fault::from_error(error)).ok());
            let _ = std::fs::File::from(write).write_all(&said.unwrap_or_default());
            process::exit_now(0)
        }
        Forked::Parent { pid, .. } => {
            drop(write);
            let mut said = Vec::new();
            std::fs::File::from(read).read_to_end(&mut said)?;
            let ended = process::wait_for(pid, 0)?;
            match (said.is_empty(), ended) {
                (true, Some((_, process::Ended::Exited(0)))) => Ok(()),
                (true, _) => Err(Fault::new("the trial ended without a word").into()),
                (false, _) => Err(serde_json::from_slice::<Fault>(&said)?.into()),
            }
        }
    }
}

pub(super) fn mount_tmpfs_on_tmp() -> Result<OwnedFd> {
    let tmpfs = FsContext::open("tmpfs")?.mount(Attr::MOUNT_ATTR_NODEV)?;
    mount::attach(tmpfs.as_fd(), mount::open_path(Path::new("/tmp"))?.as_fd())?;
    Ok(fs::open_dir(tmpfs.as_fd(), b".")?)
}

pub(super) fn overlay_below(base: BorrowedFd<'_>) -> Result<()> {
    for name in [&b"lower"[..], b"upper", b"work"] {
        fs::mkdir(base, name, 0o700)?;
    }
    overlay(fs::open_dir(base, b"lower")?.as_fd(), base)
}

/// As a run mounts it.
fn overlay(lower: BorrowedFd<'_>, base: BorrowedFd<'_>) -> Result<()> {
    let overlay = FsContext::open("overlay")?;
    overlay.set_fd("lowerdir+", lower)?;
    overlay.set_fd("upperdir", fs::open_dir(base, b"upper")?.as_fd())?;
    overlay.set_fd("workdir", fs::open_dir(base, b"work")?.as_fd())?;
    if crate::host::in_user_namespace() {
        overlay.flag("userxattr")?;
    } else {
        overlay.set("redirect_dir", "on")?;
        overlay.set("index", "on")?;
    }
    overlay.flag("volatile")?;
    overlay.mount(Attr::MOUNT_ATTR_NODEV)?;
    Ok(())
}

/// An overlay over the image with its upper beside it, in a directory that is gone again at the end.
pub(super) fn beside(above: &Path, image: &Path) -> Result<()> {
    let name = format!(".dropcloth-doctor-{}", std::process::id());
    let place: PathBuf = above.join(&name);
    std::fs::create_dir(&place).doing(|| format!("cannot make a directory in {}", above.display()))?;
    let parent = mount::open_path(above)?;
    let parent = fs::open_dir(parent.as_fd(), b".")?;
    let result = (|| {
        let base = fs::open_dir(parent.as_fd(), name.as_bytes())?;
        for below in [&b"upper"[..], b"work"] {
            fs::mkdir(base.as_fd(), below, 0o700)?;
        }
        let image = Image::open(image)?;
        overlay(image.directory(), base.as_fd())
    })();
    crate::changes::discard::remove_tree(parent.as_fd(), name.as_bytes())?;
    result
}
