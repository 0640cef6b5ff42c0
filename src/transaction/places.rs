//! Where transactions are found: beside their image, in the state directory, where `--scratch` says, and where one that outlives
//! its run was noted, so that its id and its name are known in every directory.
//!
//! A note is a symbolic link in `places` of the state directory: made and removed by one call each, and void when what it leads
//! to is gone.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Fault, Result, refuse};
use crate::sys::fs;

const PLACES: &str = "places";
/// Somebody can take the directory away between two of our calls, but not for ever.
const TRIES: usize = 100;

/// The directories in which transactions on `image` can be: beside it, the state directory, the chosen scratch directory.
pub fn places(image: &Path, state: &Path, scratch: Option<&Path>) -> Vec<PathBuf> {
    let beside = image.parent().map(|p| p.join(".dropcloth"));
    beside.into_iter().chain([state.to_owned()]).chain(scratch.map(Path::to_owned)).collect()
}

/// Notes that a transaction in `storage` outlives its run.
pub fn note(state: &Path, storage: &Path) -> Result<()> {
    let storage = std::fs::canonicalize(storage)?;
    if std::fs::canonicalize(state).is_ok_and(|state| state == storage) {
        return Ok(());
    }
    let name = super::new_id()?;
    for _ in 0..TRIES {
        let directory = match super::open_storage(&state.join(PLACES)) {
            Err(error) if super::vanished(&error) => continue,
            other => other?,
        };
        // Nobody takes a note away meanwhile.
        fs::lock_shared(directory.as_fd())?;
        if notes(directory.as_fd()).iter().any(|(_, target)| *target == storage) {
            return Ok(());
        }
        match fs::symlink(storage.as_os_str().as_bytes(), directory.as_fd(), name.as_bytes()) {
            Err(error) if error.errno == libc::ENOENT => {}
            other => return Ok(other?),
        }
    }
    refuse(Fault::new(format!("{} vanishes as soon as it is made", state.join(PLACES).display())))
}

/// The directories that were noted and are still there; the other notes are taken away.
pub fn noted(state: &Path) -> Vec<PathBuf> {
    let path = state.join(PLACES);
    let Ok(directory) = super::open_owned(&path) else { return Vec::new() };
    // One that cannot be looked at may be there.
    let gone = |target: &Path| target.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    let (void, there): (Vec<_>, Vec<_>) = notes(directory.as_fd()).into_iter().partition(|(_, target)| gone(target));
    // Somebody who notes one now may count on a note that is there.
    if fs::try_lock(directory.as_fd(), true) == Ok(true) {
        for (name, _) in void.iter().filter(|(_, target)| gone(target)) {
            let _ = fs::unlink(directory.as_fd(), name);
        }
        // What is not empty stays.
        let _ = std::fs::remove_dir(&path).and_then(|()| std::fs::remove_dir(state));
    }
    there.into_iter().map(|(_, target)| target).collect()
}

/// Names and targets.
fn notes(directory: BorrowedFd<'_>) -> Vec<(Vec<u8>, PathBuf)> {
    let entries = fs::entries(directory).unwrap_or_default().into_iter();
    let read =
        |name: Vec<u8>| fs::readlink(directory, &name).ok().map(|target| (name, OsString::from_vec(target).into()));
    entries.filter_map(|entry| read(entry.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_noted_once_for_as_long_as_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (state, storage) = (directory.path().join("state/dropcloth"), directory.path().join("storage"));
        assert_eq!(noted(&state), [] as [PathBuf; 0]);
        std::fs::create_dir(&storage).unwrap();
        for _ in 0..2 {
            note(&state, &storage).unwrap();
            assert_eq!(noted(&state), std::slice::from_ref(&storage));
        }
        note(&state, &state).unwrap();
        assert_eq!(noted(&state), std::slice::from_ref(&storage), "the state directory is looked into in any case");
        std::fs::remove_dir(&storage).unwrap();
        assert_eq!(noted(&state), [] as [PathBuf; 0]);
        assert!(!state.exists(), "nothing is left of it");
    }

    #[test]
    fn notes_of_somebody_else_are_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let storage = directory.path().join("storage");
        std::fs::create_dir(&storage).unwrap();
        note(directory.path(), &storage).unwrap();
        let places = directory.path().join(PLACES);
        std::fs::set_permissions(&places, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(noted(directory.path()), [] as [PathBuf; 0]);
        assert!(note(directory.path(), &storage).is_err());
    }
}
