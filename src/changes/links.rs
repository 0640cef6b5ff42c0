//! Hard links: overlayfs keeps a changed file with several names in `work/index`, under the file handle of the image's
//! inode. Names that the step did not touch show the change through the index only, so commit makes them again.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::marks;
use super::record::{Record, Restore};
use super::restore::Inherited;
use super::scan::{Found, Scan};
use crate::error::Result;
use crate::image::Inside;
use crate::sys::fs::{self, Times};
use crate::sys::handle;

struct Indexed {
    name: String,
    inode: u64,
    restore: Restore,
}

/// `struct ovl_fb` as hexadecimal text: version, magic, length, flags (a byte each), type (one byte), uuid (16), handle.
/// See fs/overlayfs/overlayfs.h.
fn key_of(name: &str) -> Option<(u8, String)> {
    let kind = u8::from_str_radix(name.get(8..10)?, 16).ok()?;
    Some((kind, name.get(42..)?.to_lowercase()))
}

/// The records that relink every name still visible of each changed file with several names.
pub(super) fn plan(scan: &Scan<'_>) -> Result<Vec<Record>> {
    let Some(work) = scan.layers.work else { return Ok(Vec::new()) };
    let Ok(index) = fs::open_dir(work, b"index") else { return Ok(Vec::new()) };
    let mut known: HashMap<(u8, String), Indexed> = HashMap::new();
    for entry in fs::entries(index.as_fd())? {
        let Some(stat) = fs::stat(index.as_fd(), &entry.name)? else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory || marks::is_whiteout(&stat) {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        if let Some(key) = key_of(&name) {
            let found = Found { upper: index.as_fd(), name: &entry.name, stat: &stat };
            let (restore, _) = scan.restore(found, Inherited::default())?;
            known.insert(key, Indexed { name, inode: stat.st_ino, restore });
        }
    }
    let mut records = Vec::new();
    if !known.is_empty() {
        walk(scan, scan.layers.image, &Inside::root(), &known, &mut records)?;
    }
    Ok(records)
}

fn walk(
    scan: &Scan<'_>,
    directory: BorrowedFd<'_>,
    path: &Inside,
    known: &HashMap<(u8, String), Indexed>,
    records: &mut Vec<Record>,
) -> Result<()> {
    let device = fs::fstat(directory)?.st_dev;
    for entry in fs::entries(directory)? {
        let here = path.join(&entry.name);
        if entry.kind == FileType::Directory {
            let below = fs::open_dir(directory, &entry.name)?;
            // A file system mounted there is none of the image's own.
            if fs::fstat(below.as_fd())?.st_dev == device {
                walk(scan, below.as_fd(), &here, known, records)?;
            }
            continue;
        }
        let Some(stat) = fs::stat(directory, &entry.name)? else { continue };
        if stat.st_nlink < 2 {
            continue;
        }
        let Some((kind, handle)) = handle::of(directory, &entry.name)? else { continue };
        let handle: String = handle.iter().map(|b| format!("{b:02x}")).collect();
        let Some(indexed) = known.get(&(kind, handle)) else { continue };
        if let Some(at) = visible(scan, &here)? {
            records.push(record(scan, indexed, at, path)?);
        }
    }
    Ok(())
}

/// Times and protection of the directory are taken now, since a redo would see changed ones.
fn record(scan: &Scan<'_>, indexed: &Indexed, at: Inside, lower: &Inside) -> Result<Record> {
    let image = fs::open_dir_below(scan.layers.image, lower.bytes())?;
    let all = fs::flags(image.as_fd())?.unwrap_or(0);
    let (times, flags) = match fs::open_dir_below(scan.layers.upper, at.parent().bytes()) {
        // Its Protect record comes later.
        Ok(directory) => (scan.clamped(Times::of(&fs::fstat(directory.as_fd())?)), all & marks::PROJECT_INHERIT),
        Err(_) => (Times::of(&fs::fstat(image.as_fd())?), all & (marks::PROTECTED_FLAGS | marks::PROJECT_INHERIT)),
    };
    Ok(Record::Link {
        index: indexed.name.clone(),
        inode: indexed.inode,
        at,
        times,
        flags,
        restore: Box::new(indexed.restore.clone()),
    })
}

/// Where a path of today's image shows in the merged tree when the step did not touch it; none: hidden there.
fn visible(scan: &Scan<'_>, lower: &Inside) -> Result<Option<Inside>> {
    if let Some(moved) = scan.moved.get(lower) {
        return Ok(Some(moved.clone()));
    }
    let Some((parent, name)) = lower.split() else { return Ok(Some(Inside::root())) };
    let Some(parent) = visible(scan, &parent)? else { return Ok(None) };
    let at = parent.join(name);
    // Something in the upper there: replaced, whited out, or the file itself.
    let there = match fs::open_dir_below(scan.layers.upper, parent.bytes()) {
        Ok(directory) => fs::stat(directory.as_fd(), name)?.is_some(),
        Err(_) => false,
    };
    Ok((!there).then_some(at))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_of_an_index_entry_is_its_handle_type_and_handle() {
        let name = format!("00fb1d00{}{}{}", "01", "00".repeat(16), "0A0b0000aabbccdd");
        assert_eq!(super::key_of(&name), Some((1, "0a0b0000aabbccdd".to_owned())));
        assert_eq!(super::key_of("short"), None);
    }
}
