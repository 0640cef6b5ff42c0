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

    /// The same for something that goes with everything below it.
    pub(super) fn check_all(&mut self, path: &Inside, lower: &Inside, old: &Stat) -> Result<()> {
        self.check(path, old);
        if self.layers.begun.is_none() || Kind::of(old.st_mode) != Kind::Directory {
            return Ok(());
        }
        let directory = fs::open_dir_below_mounts(self.layers.image, lower.bytes())?;
        self.check_below(directory.as_fd(), path, old.st_dev)
    }

    fn check_below(&mut self, directory: BorrowedFd<'_>, path: &Inside, device: u64) -> Result<()> {
        for entry in fs::entries(directory)? {
            let Some(stat) = fs::stat(directory, &entry.name)? else { continue };
            let here = path.join(&entry.name);
            self.check(&here, &stat);
            if Kind::of(stat.st_mode) == Kind::Directory && stat.st_dev == device {
                let below = fs::open_dir(directory, &entry.name)?;
                self.check_below(below.as_fd(), &here, device)?;
            }
        }
        Ok(())
    }
}
