//! The mount points of a plan that a root lacks, where the step works in that root itself and not in an overlay.

use std::os::fd::BorrowedFd;

use super::scaffold::{self, Ids};
use crate::error::{Doing, Result};
use crate::plan::Plan;
use crate::transaction::points::{Journal, Points};

/// Makes every entry of the scaffold that `root` lacks; with a `journal`, so that it is removed after a crash.
pub fn make(plan: &Plan, root: BorrowedFd<'_>, journal: Option<Journal<'_>>) -> Result<Points> {
    let wanted = Points::wanted(plan.scaffold.points(), root)
        .doing(|| "cannot prepare the mount points")?
        .as_one_file(scaffold::binds_from_memory(plan));
    let ids = Ids(plan.inner_maps.as_ref());
    wanted.make(journal, &|directory, name, stat| match ids.outside((0, 0))? {
        owner if owner == (stat.st_uid, stat.st_gid) => Ok(()),
        _ => ids.give(directory, name, (0, 0)),
    })
}
