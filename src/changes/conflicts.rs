//! What somebody else changed in the image since the transaction began: the step's version would hide it silently.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::Stat;

use super::Kind;
use super::scan::Scan;
use crate::error::Result;
use crate::image::Inside;
use crate::sys::fs;

/// A change time (`st_ctime`): seconds since 1970 and nanoseconds. The kernel stamps it, nobody can set it.
pub type Stamp = (i64, i64);

/// The change time in `stat`.
pub fn stamp(stat: &Stat) -> Stamp {
    (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or_default())
}

impl Scan<'_> {
    /// Notes a conflict when the image's entry that the step replaced or changed is younger than the transaction.
    pub(super) fn check(&mut self, path: &Inside, old: &Stat) {
        if self.layers.begun.is_some_and(|begun| stamp(old) > begun) {
            self.changes.conflicts.push(path.clone());
        }
    }

    /// The same for everything that goes. Directories of the image that the step moved away are not lost with the place
    /// where they stood, and only the whole walk knows them.
    pub(super) fn check_replaced(&mut self) -> Result<()> {
        for (path, lower) in std::mem::take(&mut self.replaced) {
            if self.moved.contains_key(&lower) {
                continue;
            }
            let Some(old) = self.lower_stat(&lower)? else { continue };
            self.check(&path, &old);
            if Kind::of(old.st_mode) == Kind::Directory {
                let directory = fs::open_dir_below_mounts(self.layers.image, lower.bytes())?;
                self.check_below(directory.as_fd(), &path, &lower, old.st_dev)?;
            }
        }
        Ok(())
    }

    fn check_below(&mut self, directory: BorrowedFd<'_>, path: &Inside, lower: &Inside, device: u64) -> Result<()> {
        for entry in fs::entries(directory)? {
            let (here, below) = (path.join(&entry.name), lower.join(&entry.name));
            let Some(stat) = fs::stat(directory, &entry.name)?.filter(|_| !self.moved.contains_key(&below)) else {
                continue;
            };
            self.check(&here, &stat);
            if Kind::of(stat.st_mode) == Kind::Directory && stat.st_dev == device {
                let handle = fs::open_dir(directory, &entry.name)?;
                self.check_below(handle.as_fd(), &here, &below, device)?;
            }
        }
        Ok(())
    }
}
