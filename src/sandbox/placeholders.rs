//! Mount points that a root lacks, made in it for as long as a step runs: empty files and directories that are gone again
//! afterwards, with the times of the directories they were in.

use std::os::fd::{AsFd, BorrowedFd};

use crate::error::{Doing, Result};
use crate::image::Inside;
use crate::plan::{Entry, Plan};
use crate::sandbox::scaffold::Ids;
use crate::sys::fs::{self, Times};

/// What was made, in order.
#[derive(Debug, Default)]
pub struct Placeholders(Vec<Made>);

#[derive(Debug)]
struct Made {
    path: Inside,
    inode: u64,
    directory: bool,
    /// Times of the directory it is in, before and after it was made.
    before: Times,
    after: Times,
}

impl Placeholders {
    /// Makes every entry of the scaffold that `root` lacks. What was made before an error is removed again.
    pub fn make(plan: &Plan, root: BorrowedFd<'_>) -> Result<Placeholders> {
        let mut made = Placeholders::default();
        let ids = Ids(plan.inner_maps.as_ref());
        for (path, entry) in &plan.scaffold.entries {
            if let Err(error) =
                made.one(path, entry, root, &ids).doing(|| format!("cannot make the mount point {path}"))
            {
                made.remove(root)?;
                return Err(error);
            }
        }
        Ok(made)
    }

    fn one(&mut self, path: &Inside, entry: &Entry, root: BorrowedFd<'_>, ids: &Ids<'_>) -> Result<()> {
        let Some((parent, name)) = path.split().filter(|_| *entry != Entry::Clone) else { return Ok(()) };
        let parent = fs::open_dir_below(root, parent.bytes())?;
        if fs::stat(parent.as_fd(), name)?.is_some() {
            return Ok(());
        }
        let before = Times::of(&fs::fstat(parent.as_fd())?);
        match entry {
            Entry::Directory { mode } => {
                fs::mkdir(parent.as_fd(), name, *mode)?;
                fs::chmod(parent.as_fd(), name, *mode)?;
            }
            _ => drop(fs::create(parent.as_fd(), name, 0o644)?),
        }
        ids.give(parent.as_fd(), name, (0, 0))?;
        let inode = fs::stat(parent.as_fd(), name)?.map_or(0, |s| s.st_ino);
        let after = Times::of(&fs::fstat(parent.as_fd())?);
        let directory = matches!(entry, Entry::Directory { .. });
        self.0.push(Made { path: path.clone(), inode, directory, before, after });
        Ok(())
    }

    /// Removes what is still as it was made. A directory in which the step left something stays.
    pub fn remove(self, root: BorrowedFd<'_>) -> Result<()> {
        for made in self.0.into_iter().rev() {
            let path = made.path.clone();
            made.remove(root).doing(|| format!("cannot remove the mount point {path}"))?;
        }
        Ok(())
    }
}

impl Made {
    fn remove(self, root: BorrowedFd<'_>) -> Result<()> {
        let Some((parent, name)) = self.path.split() else { return Ok(()) };
        let Ok(parent) = fs::open_dir_below(root, parent.bytes()) else { return Ok(()) };
        let Some(stat) = fs::stat(parent.as_fd(), name)?.filter(|s| s.st_ino == self.inode) else { return Ok(()) };
        let now = Times::of(&fs::fstat(parent.as_fd())?);
        if self.directory {
            match fs::rmdir(parent.as_fd(), name) {
                Err(error) if error.errno == libc::ENOTEMPTY => return Ok(()),
                other => other?,
            }
        } else if stat.st_size == 0 {
            fs::unlink(parent.as_fd(), name)?;
        } else {
            return Ok(());
        }
        // Unchanged since: nothing but the placeholder came and went. Else the step's own change is the last one.
        let times = if now.mtime == self.after.mtime { Times { mtime: self.before.mtime, ..now } } else { now };
        Ok(fs::set_times_of(parent.as_fd(), times)?)
    }
}
