//! The mount points of a plan that a root lacks, where the step works in that root itself and not in an overlay.

use std::os::fd::BorrowedFd;

use crate::error::{Doing, Result};
use crate::plan::Plan;
use crate::sandbox::scaffold::Ids;
use crate::transaction::points::Points;

/// Makes every entry of the scaffold that `root` lacks; with a `journal`, so that it is removed after a crash.
pub fn make(plan: &Plan, root: BorrowedFd<'_>, journal: Option<BorrowedFd<'_>>) -> Result<Points> {
    let wanted = Points::wanted(&plan.scaffold.entries, root).doing(|| "cannot prepare the mount points")?;
    let ids = Ids(plan.inner_maps.as_ref());
    wanted.make(root, journal, &|directory, name| ids.give(directory, name, (0, 0)))
}
