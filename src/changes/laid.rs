//! Overrides that are bound over the files of a root: what a step did to them, told by their time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;

use super::leaks::stat_below;
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Inside;
use crate::settings::WhenChanged;
use crate::sys::fs::{self, Times};
use crate::transaction::Transaction;

/// Where they are in the transaction.
const SCAFFOLD: &[u8] = b"scaffold";

/// A time that no write of a step can give, however coarse the clock of the file system: a whole second before the transaction
/// began.
pub fn laid_at(transaction: &Transaction) -> (i64, i64) {
    (transaction.state.begun.unwrap_or_default().0 - 1, 0)
}

/// The same by this moment, for overrides in memory.
pub fn before_now() -> (i64, i64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(now.as_secs()).unwrap_or_default() - 1, 0)
}

/// Gives every override its time. Once they are written and before they are bound.
pub fn date(transaction: &Transaction) -> Result<()> {
    let mtime = laid_at(transaction);
    let scaffold = fs::open_dir(transaction.directory(), SCAFFOLD)?;
    for path in transaction.state.policy.overrides.keys() {
        let Some((parent, name)) = path.split() else { continue };
        let parent = fs::open_dir_below(scaffold.as_fd(), parent.bytes())?;
        // A bare mount point is no file of the scaffold that anybody could write to.
        if let Some(stat) = fs::stat(parent.as_fd(), name)? {
            fs::set_times(parent.as_fd(), name, Times { mtime, ..Times::of(&stat) })?;
        }
    }
    Ok(())
}

/// The overrides that were written to, with their rules.
pub fn touched(transaction: &Transaction) -> Result<Vec<(Inside, WhenChanged)>> {
    let laid_at = laid_at(transaction);
    let scaffold = match fs::open_dir(transaction.directory(), SCAFFOLD) {
        Err(error) if error.errno == libc::ENOENT => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for (path, rule) in &transaction.state.policy.overrides {
        if stat_below(scaffold.as_fd(), path)?.is_some_and(|stat| Times::of(&stat).mtime != laid_at) {
            found.push((path.clone(), *rule));
        }
    }
    Ok(found)
}

/// Writes the step's version of the overrides that are kept into `root`, in place. Before the mount points are removed: one that
/// has contents stays.
pub fn keep(transaction: &Transaction, root: BorrowedFd<'_>) -> Result<()> {
    for (path, _) in touched(transaction)?.iter().filter(|(_, rule)| *rule == WhenChanged::Keep) {
        write_back(transaction, root, path).doing(|| format!("cannot keep the step's version of {path}"))?;
    }
    Ok(())
}

fn write_back(transaction: &Transaction, root: BorrowedFd<'_>, path: &Inside) -> Result<()> {
    let Some((parent, name)) = path.split() else { return Ok(()) };
    let scaffold = fs::open_dir(transaction.directory(), SCAFFOLD)?;
    let from = fs::open_read(fs::open_dir_below(scaffold.as_fd(), parent.bytes())?.as_fd(), name)?;
    let stat = fs::fstat(from.as_fd())?;
    let directory = fs::open_dir_below(root, parent.bytes())?;
    let to: OwnedFd = fs::open_write(directory.as_fd(), name)?;
    if FileType::from_raw_mode(fs::fstat(to.as_fd())?.st_mode) != FileType::RegularFile {
        return refuse(Fault::new(format!("{path} of the image is not a file any more")));
    }
    fs::truncate(to.as_fd())?;
    fs::copy_data(from.as_fd(), to.as_fd(), stat.st_size.cast_unsigned())?;
    fs::chown(directory.as_fd(), name, stat.st_uid, stat.st_gid)?;
    fs::fchmod(to.as_fd(), stat.st_mode)?;
    Ok(fs::set_times_of(to.as_fd(), Times::of(&stat))?)
}
