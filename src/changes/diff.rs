//! What changed inside small text files, as a unified diff.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use similar::TextDiff;

use super::owners::Owner;
use super::{Changes, Kind, What};
use crate::error::Result;
use crate::image::Inside;
use crate::sys::fs;

/// Larger files are not compared.
const LARGEST: u64 = 16 * 1024;

/// The diffs of all modified small text files, and of new and removed ones that no package owns.
pub fn text(upper: BorrowedFd<'_>, image: BorrowedFd<'_>, changes: &Changes, owners: &[Owner]) -> Result<String> {
    let mut out = String::new();
    for (change, owner) in changes.list.iter().zip(owners).filter(|(c, _)| c.kind == Kind::File) {
        let lower = changes.origin(&change.path);
        let (old, new) = match (change.what, owner) {
            (What::Modified, _) => (read(image, &lower)?, read(upper, &change.path)?),
            (What::Added, Owner::Unowned) => (Some(String::new()), read(upper, &change.path)?),
            (What::Removed, Owner::Unowned) => (read(image, &lower)?, Some(String::new())),
            _ => continue,
        };
        let (Some(old), Some(new)) = (old, new) else { continue };
        let name =
            |side: &str, there: bool| if there { format!("{side}{}", change.path) } else { "/dev/null".to_owned() };
        let diff = TextDiff::from_lines(&old, &new);
        let (from, to) = (name("a", change.what != What::Added), name("b", change.what != What::Removed));
        out.push_str(&diff.unified_diff().context_radius(3).header(&from, &to).to_string());
    }
    Ok(out)
}

/// A small text; none when it is anything else.
fn read(layer: BorrowedFd<'_>, path: &Inside) -> Result<Option<String>> {
    let Some((parent, name)) = path.split() else { return Ok(None) };
    let Ok(directory) = fs::open_dir_below(layer, parent.bytes()) else { return Ok(None) };
    let small = |s: rustix::fs::Stat| Kind::of(s.st_mode) == Kind::File && s.st_size.cast_unsigned() <= LARGEST;
    if !fs::stat(directory.as_fd(), name)?.is_some_and(small) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fs::open_read(directory.as_fd(), name)?).take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')))
}
