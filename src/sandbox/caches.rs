//! The directories of caches on this machine: made, and held as long as a run uses them.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Fault, Result, refuse};
use crate::host::caller;
use crate::plan::{Mount, Plan};
use crate::settings::Sharing;
use crate::sys::fs;

/// More private ones at a time are a mistake.
const MOST: usize = 64;

/// The locks of a run's caches; they end with it, however it ends.
pub type Held = Vec<File>;

/// Makes the directories of the plan's caches, and waits for those that one run has at a time. A private one that is taken is
/// replaced in the plan.
///
/// # Errors
/// A directory cannot be made, or is somebody else's.
pub fn hold(plan: &mut Plan) -> Result<Held> {
    let mut held = Held::new();
    for wish in &mut plan.mounts {
        let Mount::Cache { name, source, sharing, owner } = &mut wish.mount else { continue };
        let doing = || format!("cannot use the cache {name}");
        let above = source.parent().unwrap_or(Path::new("/"));
        caller::make_directory(above).doing(doing).hint(|| hint(above))?;
        held.push(match sharing {
            Sharing::Private => private(source, name)?,
            sharing => wait(source, name, *sharing == Sharing::Locked)?,
        });
        make(source, *owner).doing(doing).hint(|| hint(source))?;
        if name == "apt" {
            // apt of Debian 9 and before does not make it.
            make(&source.join("partial"), *owner).doing(doing)?;
        }
    }
    Ok(held)
}

fn hint(path: &Path) -> String {
    format!("Look whose it is with `ls -ld {}`, or name another place with XDG_CACHE_HOME.", path.display())
}

fn lock(source: &Path) -> Result<File> {
    let path = beside(source, "lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    file.doing(|| format!("cannot open {}", path.display())).hint(|| hint(&path))
}

fn beside(source: &Path, ending: &str) -> PathBuf {
    let mut name = source.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Shared runs keep one that needs it alone waiting, and it keeps them.
fn wait(source: &Path, name: &str, exclusive: bool) -> Result<File> {
    let file = lock(source)?;
    if !fs::try_lock(file.as_fd(), exclusive)? {
        log::warn!("waiting for the run that has the cache {name} ({})", source.display());
        let how = rustix::fs::FlockOperation::LockExclusive;
        let how = if exclusive { how } else { rustix::fs::FlockOperation::LockShared };
        rustix::fs::flock(&file, how).doing(|| format!("cannot wait for the cache {name}"))?;
    }
    Ok(file)
}

fn private(source: &mut PathBuf, name: &str) -> Result<File> {
    let first = source.clone();
    for number in 0..MOST {
        if number > 0 {
            *source = beside(&first, &format!("private-{number}"));
        }
        let file = lock(source)?;
        if fs::try_lock(file.as_fd(), true)? {
            return Ok(file);
        }
    }
    refuse(Fault::new(format!("{MOST} runs have the private cache {name} already")).hint("Wait until one has ended."))
}

/// Only a directory that is new gets an owner: what is in an old one is his already.
fn make(directory: &Path, owner: (u32, u32)) -> Result<()> {
    match std::fs::create_dir(directory) {
        Ok(()) => {
            std::os::unix::fs::chown(directory, Some(owner.0), Some(owner.1))?;
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // It is mounted in a step as what it is: a link would lead anywhere.
            let data = std::fs::symlink_metadata(directory)?;
            if data.is_dir() && data.uid() == owner.0 {
                return Ok(());
            }
            refuse(Fault::new(format!("{} is no directory of user {}", directory.display(), owner.0)))
        }
        Err(error) => Err(error.into()),
    }
}
