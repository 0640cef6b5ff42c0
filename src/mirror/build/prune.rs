//! `--prune`: what a mirror holds beside what it is for now goes, from the pages first.

use std::collections::BTreeSet;
use std::path::Path;

use super::requests::Requests;
use crate::error::{Doing, Result};
use crate::mirror::index;

/// Which files may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Those that earlier builds brought.
    Built,
    /// Those of others, too.
    All,
}

/// Removes what is not in `needed` (`PROJECT/FILE`), and returns that. Pages forget it before it goes: whoever reads the mirror
/// meanwhile finds every file that a page promises.
///
/// # Errors
/// A page cannot be written or a file not removed.
pub fn prune(directory: &Path, needed: &BTreeSet<String>, requests: &Requests, which: Prune) -> Result<Vec<String>> {
    let known = index::known::Known::read(directory);
    let goes = |place: &&String| !needed.contains(*place) && (which == Prune::All || requests.brought(place));
    let gone: BTreeSet<String> = known.files.keys().filter(goes).cloned().collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    index::index_without(directory, &gone)?;
    for place in &gone {
        let path = directory.join(place);
        std::fs::remove_file(&path).doing(|| format!("cannot remove {}", path.display()))?;
        let _ = std::fs::remove_file(index::known::metadata_path(&path));
        if let Some(folder) = path.parent() {
            // Fails where other files are left.
            let _ = std::fs::remove_dir(folder);
        }
    }
    Ok(gone.into_iter().collect())
}
