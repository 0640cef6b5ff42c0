//! The mount points of a plan that a root lacks, where the step works in that root itself and not in an overlay.

use std::os::fd::BorrowedFd;

use crate::error::{Doing, Result};
use crate::plan::{Entry, Plan};
use crate::sandbox::scaffold::Ids;
use crate::transaction::points::{Journal, Points};

/// Makes every entry of the scaffold that `root` lacks; with a `journal`, so that it is removed after a crash.
pub fn make(plan: &Plan, root: BorrowedFd<'_>, journal: Option<Journal<'_>>) -> Result<Points> {
    let places = plan.scaffold.entries.iter().filter(|(_, entry)| **entry != Entry::Clone).map(|(path, entry)| {
        let directory = if let Entry::Directory { mode } = entry { Some(*mode) } else { None };
        (path.clone(), directory)
    });
    let wanted = Points::wanted(places, root).doing(|| "cannot prepare the mount points")?;
    let ids = Ids(plan.inner_maps.as_ref());
    wanted.make(root, journal, &|directory, name, stat| match ids.outside((0, 0))? {
        owner if owner == (stat.st_uid, stat.st_gid) => Ok(()),
        _ => ids.give(directory, name, (0, 0)),
    })
}
