//! The overrides of a plan in the caller's own mount namespace, for frameworks that enter the image themselves.
//!
//! A mount is known again by what is mounted: the device and inode of its root. Its path alone says nothing: whoever is on the
//! machine may have taken it away meanwhile, or put something else over it.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use super::{Inputs, mirror, mounts};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::{Identity, Image, Inside};
use crate::plan::{Mount, Plan};
use crate::sys::{fs, mount};
use crate::transaction::Transaction;

const FILE: &[u8] = b"mounts";

/// What is mounted, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Attached {
    /// The boot of the machine in which it was: a later one has none of the mounts.
    boot: String,
    mounts: Vec<One>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct One {
    at: Inside,
    root: Identity,
}

/// What of a plan's mounts a framework does not make itself.
pub fn concerns(mount: &Mount) -> bool {
    matches!(mount, Mount::Bind { .. } | Mount::Mirror { .. } | Mount::Tmpfs)
}

/// Mounts everything. The list is on the disk before the first is there.
pub fn attach(plan: &Plan, image: &Image, transaction: &Transaction, inputs: &Inputs) -> Result<()> {
    let detached = prepare(plan, image, transaction, inputs)?;
    let mut attached = Attached { boot: boot()?, mounts: Vec::new() };
    for (at, mounted) in &detached {
        mount::make_private(mounted.as_fd())?;
        let root = Identity::of(&fs::fstat(mounted.as_fd())?);
        attached.mounts.push(One { at: at.clone(), root });
    }
    attached.save(transaction.directory())?;
    for (at, mounted) in &detached {
        let doing = || format!("cannot mount at {at} of the image");
        let target = mounts::place(image.directory(), at).doing(doing)?;
        mount::attach(mounted.as_fd(), target.as_fd()).doing(doing)?;
    }
    Ok(())
}

/// All mounts, not attached yet: overrides first, as in a run.
fn prepare(plan: &Plan, image: &Image, transaction: &Transaction, inputs: &Inputs) -> Result<Vec<(Inside, OwnedFd)>> {
    let scaffold = fs::open_dir(transaction.directory(), b"scaffold")?;
    let mut detached = Vec::new();
    for path in plan.scaffold.bound() {
        detached.push((path.clone(), mounts::bound_override(plan, scaffold.as_fd(), path)?));
    }
    for (wish, source) in plan.mounts.iter().zip(mounts::open_sources(plan, image, &[])?.into_mounts()) {
        let mounted = match (&wish.mount, source) {
            (Mount::Mirror { source: directory, completed: true }, Some(bound)) => {
                mirror::completed_by(directory, &inputs.pages, transaction.directory())?.unwrap_or(bound)
            }
            (_, Some(source)) => source,
            (_, None) => mounts::tmpfs()?,
        };
        detached.push((wish.at.clone(), mounted));
    }
    Ok(detached)
}

impl Attached {
    fn save(&self, directory: BorrowedFd<'_>) -> Result<()> {
        let mut file = std::fs::File::from(fs::create(directory, FILE, 0o600)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::fsync(file.as_fd())?;
        Ok(fs::fsync(directory)?)
    }

    /// The list of a transaction. None, or one that is not whole: nothing was mounted yet.
    pub fn load(directory: BorrowedFd<'_>) -> Result<Attached> {
        match fs::open_read(directory, FILE) {
            Ok(file) => {
                let read = std::io::read_to_string(std::fs::File::from(file))?;
                Ok(serde_json::from_str(&read).unwrap_or_default())
            }
            Err(error) if error.errno == libc::ENOENT => Ok(Attached::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether all of it is still mounted, in this namespace.
    pub fn is_there(&self, image: &Image) -> Result<bool> {
        for one in &self.mounts {
            if !matches!(one.found(image)?, Found::Ours(_)) {
                return Ok(false);
            }
        }
        Ok(self.boot == boot()?)
    }

    /// Takes away what is still mounted, and nothing else.
    pub fn unmount(&self, image: &Image) -> Result<()> {
        if self.boot != boot()? {
            return Ok(());
        }
        for one in self.mounts.iter().rev() {
            match one.found(image)? {
                Found::Nothing => {}
                Found::Ours(root) => {
                    mount::unmount(root.as_fd()).doing(|| format!("cannot unmount {} of the image", one.at))?;
                }
                Found::Foreign => return refuse(covered(image, &one.at)),
            }
        }
        Ok(())
    }
}

enum Found {
    Nothing,
    Ours(OwnedFd),
    Foreign,
}

impl One {
    /// What is mounted at its place now.
    fn found(&self, image: &Image) -> Result<Found> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let top = match fs::openat2(image.directory(), self.at.bytes(), flags, resolve) {
            Ok(top) => top,
            Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&error.errno) => {
                return Ok(Found::Nothing);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match mount::is_root(top.as_fd())? {
            false => Found::Nothing,
            true if Identity::of(&fs::fstat(top.as_fd())?) == self.root => Found::Ours(top),
            true => Found::Foreign,
        })
    }
}

fn covered(image: &Image, at: &Inside) -> Fault {
    let root = image.path().display();
    Fault::new(format!("something else is mounted at {root}{at} now")).hint(format!(
        "Unmount it with `umount {root}{at}`, then `dropcloth detach {root}`; `findmnt {root}{at}` shows what it is."
    ))
}

/// The kernel's number for this boot, random(4).
fn boot() -> Result<String> {
    let file =
        fs::open_read(CWD, b"/proc/sys/kernel/random/boot_id").doing(|| "cannot tell this boot of the machine")?;
    Ok(std::io::read_to_string(std::fs::File::from(file))?.trim().to_owned())
}
