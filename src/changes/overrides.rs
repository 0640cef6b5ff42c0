//! What becomes of a step's version of the files that were laid over, and of directories that only the scaffold has.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::scan::{Found, Scan};
use super::{Digest, Kind, marks};
use crate::error::Result;
use crate::image::Inside;
use crate::settings::WhenChanged;
use crate::sys::{fs, xattr};

impl Scan<'_> {
    /// Whether the step's version of an override goes into the image.
    pub(super) fn overridden(&mut self, found: Found<'_>, at: &Inside, rule: WhenChanged) -> Result<bool> {
        let keep = match rule {
            WhenChanged::Keep => true,
            WhenChanged::KeepSymlink => FileType::from_raw_mode(found.stat.st_mode) == FileType::Symlink,
            WhenChanged::Drop | WhenChanged::Fail => false,
        };
        if keep || self.same_as_scaffold(found, at)? {
            return Ok(keep);
        }
        if rule == WhenChanged::Fail {
            self.changes.forbidden.push(at.clone());
        } else {
            self.changes.dropped.push(at.clone());
        }
        Ok(false)
    }

    fn same_as_scaffold(&self, found: Found<'_>, at: &Inside) -> Result<bool> {
        let Some(laid) = self.layers.policy.contents.get(at) else { return Ok(false) };
        if FileType::from_raw_mode(found.stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        std::fs::File::from(fs::open_read(found.upper, found.name)?).read_to_end(&mut bytes)?;
        Ok(Digest::of(&bytes) == *laid)
    }

    /// Does an upper directory that exists only over the scaffold hold anything of the step's own?
    pub(super) fn survives(&self, upper: BorrowedFd<'_>, at: &Inside) -> Result<bool> {
        for entry in fs::entries(upper)? {
            let Some(stat) = fs::stat(upper, &entry.name)? else { continue };
            let path = at.join(&entry.name);
            let kept = match self.layers.policy.overrides.get(&path) {
                Some(WhenChanged::Keep) => !marks::is_whiteout(&stat),
                Some(WhenChanged::KeepSymlink) => Kind::of(stat.st_mode) == Kind::Link,
                Some(_) => false,
                None if marks::is_whiteout(&stat) => false,
                None if Kind::of(stat.st_mode) == Kind::Directory && self.layers.policy.made.contains(&path) => {
                    let opaque = xattr::get(upper, &entry.name, &self.layers.prefix.name("opaque"))?;
                    let handle = fs::open_dir(upper, &entry.name)?;
                    opaque.as_deref() == Some(b"y") || self.survives(handle.as_fd(), &path)?
                }
                None => true,
            };
            if kept {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Overrides below a directory that is dropped: reported when they were changed.
    pub(super) fn note_dropped(&mut self, upper: BorrowedFd<'_>, at: &Inside) -> Result<()> {
        for entry in fs::entries(upper)? {
            let Some(stat) = fs::stat(upper, &entry.name)? else { continue };
            let path = at.join(&entry.name);
            if let Some(rule) = self.layers.policy.overrides.get(&path) {
                self.overridden(Found { upper, name: &entry.name, stat: &stat }, &path, *rule)?;
            } else if Kind::of(stat.st_mode) == Kind::Directory {
                let handle = fs::open_dir(upper, &entry.name)?;
                self.note_dropped(handle.as_fd(), &path)?;
            }
        }
        Ok(())
    }
}
