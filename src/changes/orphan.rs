//! Commits by copying whose transaction is gone: a power cut takes what was in memory. The directory in the image's root has
//! all that finishing or removing needs.

use std::os::fd::{AsFd, OwnedFd};

use super::commit::{last_times, parse_moved_name, redo_in, remove_moved};
use super::root_times;
use crate::error::{Doing, Result};
use crate::image::Image;
use crate::sys::fs::{self, Times};
use crate::sys::volume;
use crate::transaction::State;
use crate::transaction::journal::{self, Progress};
use crate::transaction::recover::{self, Recovered};

/// Recovers those in the root of `image`; what belongs to a transaction that is still there has been recovered before.
pub fn recover(image: &Image) -> Result<Vec<(String, Recovered)>> {
    let mut done = Vec::new();
    for entry in fs::entries(image.directory())? {
        let Ok(name) = String::from_utf8(entry.name) else { continue };
        if let Some((id, mtime)) = parse_moved_name(&name) {
            let what = recover_one(image, &name, id, mtime)
                .doing(|| format!("cannot recover the interrupted commit in {}/{name}", image.path().display()))?;
            done.extend(what.map(|what| (name, what)));
        }
    }
    root_times::recover(image)?;
    Ok(done)
}

/// The image is not trusted, and may have come with such a directory: it has to name this very directory of this file system
/// as its image. One that came by a copy names another, and is left alone.
fn recover_one(image: &Image, name: &str, id: &str, mtime: (i64, i64)) -> Result<Option<Recovered>> {
    let Some(directory) = open(image, name)? else { return Ok(None) };
    let state = State::load(directory.as_fd())?;
    // While the directory is being removed the state is gone first, and the commit may be done.
    let kept = root_times::kept(image)?;
    let right = kept.unwrap_or(Times { mtime, ..Times::of(&fs::fstat(image.directory())?) });
    if state.id.is_empty() {
        if !recover::has_nothing_else(directory.as_fd())? {
            return Ok(None);
        }
        drop(directory);
        remove_moved(image, name, Some(right))?;
        return Ok(Some(Recovered::Removed));
    }
    let same = state.file_system == volume::file_system_id(image.directory());
    if id != state.id || !same || !state.is_of(directory.as_fd(), image)? {
        return Ok(None);
    }
    let records = match journal::progress(directory.as_fd())? {
        Progress::Open => None,
        Progress::Done => Some(journal::finished(directory.as_fd())?),
        Progress::Decided(records) => {
            redo_in(directory.as_fd(), &state, image, &records, false)?;
            Some(records)
        }
    };
    drop(directory);
    let times = records.as_deref().and_then(last_times).unwrap_or(right);
    remove_moved(image, name, Some(times))?;
    Ok(Some(if records.is_some() { Recovered::Finished } else { Recovered::Removed }))
}

/// `None` for what is no directory, or not ours alone.
fn open(image: &Image, name: &str) -> Result<Option<OwnedFd>> {
    let Ok(directory) = fs::open_dir(image.directory(), name.as_bytes()) else { return Ok(None) };
    let stat = fs::fstat(directory.as_fd())?;
    let mine = stat.st_uid == nix::unistd::geteuid().as_raw() && stat.st_mode & 0o077 == 0;
    Ok((mine && stat.st_dev == image.identity().device).then_some(directory))
}
