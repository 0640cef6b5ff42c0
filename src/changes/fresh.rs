//! Directories that are new in the image: moved whole where that is possible.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::marks;
use super::record::{Record, Restore};
use super::restore::Inherited;
use super::scan::{Found, Scan, Spot};
use super::{Kind, What};
use crate::error::Result;
use crate::image::Inside;
use crate::sys::fs::{self, Times};
use crate::sys::xattr;

impl Scan<'_> {
    /// A directory that is new in the image. `replaces`: it hides what the layers below have there.
    pub(super) fn fresh(
        &mut self,
        found: Found<'_>,
        upper: BorrowedFd<'_>,
        here: Spot,
        replaces: bool,
    ) -> Result<bool> {
        let made = here.lower.as_ref().filter(|lower| !replaces && self.layers.policy.made.contains(*lower));
        if let Some(made) = made {
            if self.survives(upper, made)? {
                self.piecewise(found, upper, &here)?;
                return Ok(true);
            }
            self.note_dropped(upper, made)?;
            return Ok(false);
        }
        if self.has_redirect(upper)? {
            self.piecewise(found, upper, &Spot { lower: None, ..here })?;
            return Ok(true);
        }
        let what = self.what(&here)?;
        let (at, inode) = (here.path, found.stat.st_ino);
        let trash = self.slot();
        self.records.push(Record::Move { at: at.clone(), inode, directory: true, new: what == What::Added, trash });
        self.change(&at, what, Kind::Directory);
        let mut tree = Tree { entries: Vec::new(), whiteouts: Vec::new(), inherited: here.inherited };
        let (restore, overlaid) = self.restore(found, here.inherited)?;
        if overlaid || restore != Restore::default() {
            tree.entries.push((Inside::root(), restore));
        }
        self.tree(upper, &at, &at, &mut tree)?;
        self.protect(found.upper, found.name, &at, inode)?;
        let Tree { entries, whiteouts, .. } = tree;
        if !entries.is_empty() || !whiteouts.is_empty() {
            self.records.push(Record::ScrubTree { at, entries, whiteouts });
        }
        Ok(true)
    }

    /// A new directory that cannot be moved whole, because a directory of the image was moved into it or because it exists
    /// only in the scaffold: it is made empty and then merged into.
    fn piecewise(&mut self, found: Found<'_>, upper: BorrowedFd<'_>, here: &Spot) -> Result<()> {
        let (slot, trash) = (self.slot(), self.slot());
        let at = here.path.clone();
        self.stages.push(Record::MakeStage { slot });
        self.records.push(Record::Place { slot, at: at.clone(), trash });
        self.change(&at, What::Added, Kind::Directory);
        self.children(upper, here)?;
        let times = self.clamped(Times::of(found.stat));
        self.records.push(Record::Meta { at: at.clone(), times, flags: 0 });
        let (restore, _) = self.restore(found, here.inherited)?;
        if restore != Restore::default() {
            self.records.push(Record::Scrub { at: at.clone(), restore });
        }
        self.protect(found.upper, found.name, &at, found.stat.st_ino)
    }

    /// Everything below a directory that is moved whole (`top`): reported, and where overlayfs left something, recorded.
    fn tree(&mut self, upper: BorrowedFd<'_>, top: &Inside, here: &Inside, tree: &mut Tree) -> Result<()> {
        let times = self.clamped(Times::of(&fs::fstat(upper)?));
        for entry in fs::entries(upper)? {
            let Some(stat) = fs::stat(upper, &entry.name)? else { continue };
            let found = Found { upper, name: &entry.name, stat: &stat };
            let path = here.join(&entry.name);
            if marks::is_whiteout(&stat) {
                tree.whiteouts.push((path.relative_to(top), times));
                continue;
            }
            self.note(found.change(&path, What::Added));
            let (restore, overlaid) = self.restore(found, tree.inherited)?;
            if overlaid || restore != Restore::default() {
                tree.entries.push((path.relative_to(top), restore));
            }
            if overlaid {
                self.protect(upper, &entry.name, &path, stat.st_ino)?;
            }
            if Kind::of(stat.st_mode) == Kind::Directory {
                let handle = fs::open_dir(upper, &entry.name)?;
                self.tree(handle.as_fd(), top, &path, tree)?;
            }
        }
        Ok(())
    }

    fn has_redirect(&self, upper: BorrowedFd<'_>) -> Result<bool> {
        for entry in fs::entries(upper)?.iter().filter(|e| e.kind == FileType::Directory) {
            if xattr::get(upper, &entry.name, &self.layers.prefix.name("redirect"))?.is_some() {
                return Ok(true);
            }
            let handle = fs::open_dir(upper, &entry.name)?;
            if self.has_redirect(handle.as_fd())? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What the walk below a directory that is moved whole collects.
struct Tree {
    entries: Vec<(Inside, Restore)>,
    whiteouts: Vec<(Inside, Times)>,
    /// What new entries inherit, all the way down.
    inherited: Inherited,
}
