//! Reads the upper directory: the list of changes for people, and the records of the commit. The image is not touched.
//!
//! The walk goes top-down. Beside its path in the upper (which is its path in the committed image) each directory has the
//! path in the image on which it stands: another one below a renamed directory, none below a new one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Stat};

use super::lower::Lower;
use super::marks::{self, Prefix};
use super::record::{Record, Restore};
use super::restore::Inherited;
use super::{Change, Changes, Kind, Policy, Stamp, What, links};
use crate::error::{Doing, Result};
use crate::image::Inside;
use crate::sys::fs::{self, Times};
use crate::sys::xattr;

/// What the walk works on.
pub struct Layers<'a> {
    /// The upper directory.
    pub upper: BorrowedFd<'a>,
    /// The work directory with the index of hard links, when there is one.
    pub work: Option<BorrowedFd<'a>>,
    /// The image.
    pub image: BorrowedFd<'a>,
    /// Overrides and mount points.
    pub policy: &'a Policy,
    /// Where overlayfs keeps its attributes.
    pub prefix: Prefix,
    /// When the transaction began, by the clock that stamps the image's files; none: conflicts are not looked for.
    pub begun: Option<Stamp>,
    /// No committed entry is newer, seconds since 1970.
    pub epoch: Option<i64>,
}

/// Scans the upper, and shows the list of changes after each. No records: there is nothing to commit.
pub fn scan(layers: &Layers<'_>, show: &mut dyn FnMut(&[Change])) -> Result<(Changes, Vec<Record>)> {
    let mut scan = Scan::new(layers, show);
    scan.run().doing(|| "cannot read what the step changed")?;
    let mut records = scan.stages;
    // Deepest first: a directory inside another that is staged too must be out before its parent goes.
    records.sort_by_key(|r| std::cmp::Reverse(if let Record::Stage { from, .. } = r { from.depth() } else { 0 }));
    records.append(&mut scan.records);
    Ok((scan.changes, records))
}

/// A place on the way down.
#[derive(Clone)]
pub(super) struct Spot {
    /// Path in the upper and in the committed image.
    pub path: Inside,
    /// Path in today's image on which it stands; none: it is new.
    pub lower: Option<Inside>,
    /// What a new entry gets there.
    pub inherited: Inherited,
}

impl Spot {
    fn join(&self, name: &[u8]) -> Spot {
        let lower = self.lower.as_ref().map(|lower| lower.join(name));
        Spot { path: self.path.join(name), lower, inherited: self.inherited }
    }
}

/// An entry of the upper: the open directory it is in, and its name there.
#[derive(Clone, Copy)]
pub(super) struct Found<'u> {
    pub upper: BorrowedFd<'u>,
    pub name: &'u [u8],
    pub stat: &'u Stat,
}

impl Found<'_> {
    pub fn change(self, path: &Inside, what: What) -> Change {
        let kind = Kind::of(self.stat.st_mode);
        let bytes = if kind == Kind::File { self.stat.st_size.cast_unsigned() } else { 0 };
        Change { path: path.clone(), what, kind, bytes, from: None }
    }
}

pub(super) struct Scan<'a> {
    pub layers: &'a Layers<'a>,
    pub changes: Changes,
    pub records: Vec<Record>,
    pub stages: Vec<Record>,
    /// Image directory → where it is in the committed image.
    pub moved: BTreeMap<Inside, Inside>,
    pub protects: Vec<(u64, Record)>,
    /// Entries of the image that go: where they stand in the committed image and in today's.
    pub replaced: Vec<(Inside, Inside)>,
    slots: u32,
    /// The directory of the image looked into last: neighbouring entries share it.
    last_lower: RefCell<Option<Lower>>,
    show: &'a mut dyn FnMut(&[Change]),
}

/// What one directory's children left of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// Something of the step's own is directly in it.
    own: bool,
    /// An override in it was touched, and that is dropped.
    dropped: bool,
}

impl<'a> Scan<'a> {
    fn new(layers: &'a Layers<'a>, show: &'a mut dyn FnMut(&[Change])) -> Scan<'a> {
        Scan {
            layers,
            changes: Changes::default(),
            records: Vec::new(),
            stages: Vec::new(),
            moved: BTreeMap::from([(Inside::root(), Inside::root())]),
            protects: Vec::new(),
            replaced: Vec::new(),
            slots: 0,
            last_lower: RefCell::new(None),
            show,
        }
    }

    fn run(&mut self) -> Result<()> {
        let root = Spot { path: Inside::root(), lower: Some(Inside::root()), inherited: Inherited::default() };
        let upper = self.layers.upper;
        self.merged(upper, &root)?;
        self.check_replaced()?;
        let links = links::plan(self)?;
        for record in &links {
            let Record::Link { inode, at, .. } = record else { continue };
            let flags = self.protects.iter().find_map(|(i, r)| match r {
                Record::Protect { flags, at: first } if i == inode && first != at => Some(*flags),
                _ => None,
            });
            if let Some(flags) = flags {
                self.protects.push((*inode, Record::Protect { at: at.clone(), flags }));
            }
        }
        self.records.extend(links);
        if !self.records.is_empty() || !self.stages.is_empty() {
            self.records.push(Record::DropWork);
            self.records.extend(std::mem::take(&mut self.protects).into_iter().map(|(_, record)| record));
        }
        Ok(())
    }

    pub(super) fn slot(&mut self) -> u32 {
        self.slots += 1;
        self.slots
    }

    /// A directory that stands on one of the image: its children, then its own attributes.
    fn merged(&mut self, upper: BorrowedFd<'_>, spot: &Spot) -> Result<()> {
        let lower = spot.lower.as_ref().expect("a merged directory stands on one of the image");
        let inherited = Inherited::from(fs::open_dir_below(self.layers.image, lower.bytes())?.as_fd())?;
        let outcome = self.children(upper, &Spot { inherited, ..spot.clone() })?;
        let image = fs::open_dir_below(self.layers.image, lower.bytes())?;
        let (new, old) = (fs::fstat(upper)?, fs::fstat(image.as_fd())?);
        let attributes = self.attributes_differ(upper, image.as_fd())?;
        let mut times = Times::of(&new);
        if outcome.dropped && !outcome.own {
            // The step only touched an override here: for the image, nothing happened.
            times.mtime = Times::of(&old).mtime;
        }
        if attributes {
            self.change(&spot.path, What::Attributes, Kind::Directory);
        }
        if attributes || outcome.own {
            self.check(&spot.path, &old);
        }
        if attributes || times.mtime != Times::of(&old).mtime || outcome.own {
            let times = self.clamped(times);
            let flags = fs::flags(image.as_fd())?.unwrap_or(0) & marks::PROJECT_INHERIT;
            self.records.push(Record::Meta { at: spot.path.clone(), times, flags });
        }
        self.protect(upper, b"", &spot.path, new.st_ino)
    }

    pub(super) fn children(&mut self, upper: BorrowedFd<'_>, spot: &Spot) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for entry in fs::entries(upper)? {
            let Some(stat) = fs::stat(upper, &entry.name)? else { continue };
            let found = Found { upper, name: &entry.name, stat: &stat };
            let here = spot.join(&entry.name);
            if let Some(lower) = &here.lower
                && let Some(rule) = self.layers.policy.overrides.get(lower)
                && !self.overridden(found, lower, *rule)?
            {
                outcome.dropped = true;
                continue;
            }
            outcome.own |= self.child(found, here)?;
        }
        Ok(outcome)
    }

    /// One entry of the upper. Returns whether it changes the directory it is in.
    fn child(&mut self, found: Found<'_>, here: Spot) -> Result<bool> {
        if marks::is_whiteout(found.stat) {
            return self.whiteout(here);
        }
        if FileType::from_raw_mode(found.stat.st_mode) != FileType::Directory {
            self.file(found, here)?;
            return Ok(true);
        }
        self.directory(found, here)
    }

    pub(super) fn note(&mut self, change: Change) {
        self.changes.list.push(change);
        (self.show)(&self.changes.list);
    }

    pub(super) fn change(&mut self, path: &Inside, what: What, kind: Kind) {
        self.note(Change { path: path.clone(), what, kind, bytes: 0, from: None });
    }

    fn whiteout(&mut self, here: Spot) -> Result<bool> {
        // A whiteout over a scaffold entry that the image does not have hides nothing of the image.
        let Some(old) = self.old(&here)? else { return Ok(false) };
        self.replaces(&here, &old);
        self.change(&here.path, What::Removed, Kind::of(old.st_mode));
        let slot = self.slot();
        self.records.push(Record::Trash { at: here.path, slot });
        Ok(true)
    }

    fn file(&mut self, found: Found<'_>, here: Spot) -> Result<()> {
        self.check_links(&here)?;
        let what = self.what(&here)?;
        let new = what == What::Added;
        let (path, inode) = (here.path, found.stat.st_ino);
        self.note(found.change(&path, what));
        let trash = self.slot();
        self.records.push(Record::Move { at: path.clone(), inode, directory: false, new, trash });
        let (restore, overlaid) = self.restore(found, here.inherited)?;
        if overlaid || restore != Restore::default() {
            self.records.push(Record::Scrub { at: path.clone(), restore });
        }
        // Without any attribute of overlayfs there is no `protattr` either.
        if overlaid { self.protect(found.upper, found.name, &path, inode) } else { Ok(()) }
    }

    fn directory(&mut self, found: Found<'_>, here: Spot) -> Result<bool> {
        let prefix = self.layers.prefix;
        let handle = fs::open_dir(found.upper, found.name)?;
        let redirect = xattr::get(handle.as_fd(), b"", &prefix.name("redirect"))?;
        let opaque = xattr::get(handle.as_fd(), b"", &prefix.name("opaque"))?.as_deref() == Some(b"y");
        let source = match &redirect {
            Some(redirect) => marks::redirect_source(redirect, here.lower.as_ref().map(Inside::parent).as_ref()),
            None if opaque => None,
            None => here.lower.clone(),
        };
        let stands_on = match source {
            Some(source) if self.is_directory(&source)? => source,
            _ => return self.fresh(found, handle.as_fd(), here, opaque || redirect.is_some()),
        };
        // Moved away and back to the same path is a move all the same when the directory above is another one now.
        if here.lower.as_ref() != Some(&stands_on) {
            if let Some(old) = self.old(&here)? {
                self.replaces(&here, &old);
            }
            self.renamed(handle.as_fd(), here.path, stands_on)?;
            return Ok(true);
        }
        self.moved.insert(stands_on, here.path.clone());
        self.merged(handle.as_fd(), &here)?;
        // The times of a directory say whether its own entries changed, not those below it.
        Ok(false)
    }

    /// A directory of the image that the step moved here.
    fn renamed(&mut self, upper: BorrowedFd<'_>, path: Inside, from: Inside) -> Result<()> {
        let inode = self.lower_stat(&from)?.map_or(0, |s| s.st_ino);
        let (slot, trash) = (self.slot(), self.slot());
        self.note(Change {
            path: path.clone(),
            what: What::Renamed,
            kind: Kind::Directory,
            bytes: 0,
            from: Some(from.clone()),
        });
        self.stages.push(Record::Stage { from: from.clone(), slot, inode });
        self.records.push(Record::Place { slot, at: path.clone(), trash });
        self.moved.insert(from.clone(), path.clone());
        let before = self.records.len();
        self.merged(upper, &Spot { path: path.clone(), lower: Some(from), inherited: Inherited::default() })?;
        // Moving a directory changes the link count and `..` only; its times are those of the upper in any case.
        if !self.records[before..].iter().any(|r| matches!(r, Record::Meta { at, .. } if *at == path)) {
            let times = self.clamped(Times::of(&fs::fstat(upper)?));
            self.records.push(Record::Meta { at: path, times, flags: 0 });
        }
        Ok(())
    }

    /// In a user namespace overlayfs has no index: a changed file takes leave of its other names.
    fn check_links(&mut self, here: &Spot) -> Result<()> {
        if self.layers.prefix != Prefix::User {
            return Ok(());
        }
        let Some(old) = self.old(here)? else { return Ok(()) };
        if old.st_nlink > 1 && Kind::of(old.st_mode) != Kind::Directory {
            self.changes.inexact.push(format!(
                "{} had {} names in the image; the others keep what they had, where the step wrote into the file",
                here.path, old.st_nlink
            ));
        }
        Ok(())
    }

    /// Whether the entry replaces one of the image.
    pub(super) fn what(&mut self, here: &Spot) -> Result<What> {
        let Some(old) = self.old(here)? else { return Ok(What::Added) };
        self.replaces(here, &old);
        Ok(What::Modified)
    }

    /// The image's entry goes, with everything below it.
    fn replaces(&mut self, here: &Spot, old: &Stat) {
        if marks::is_whiteout(old) {
            let what = "is a device 0:0 in the image, which overlayfs hides from the step";
            self.changes.inexact.push(format!("{} {what}", here.path));
        }
        if let (Some(lower), Some(_)) = (&here.lower, self.layers.begun) {
            self.replaced.push((here.path.clone(), lower.clone()));
        }
    }

    /// Times that are committed.
    pub(super) fn clamped(&self, times: Times) -> Times {
        self.layers.epoch.map_or(times, |epoch| times.not_after(epoch))
    }

    /// What the image has there now.
    fn old(&self, here: &Spot) -> Result<Option<Stat>> {
        Ok(here.lower.as_ref().map(|lower| self.lower_stat(lower)).transpose()?.flatten())
    }

    pub(super) fn lower_stat(&self, path: &Inside) -> Result<Option<Stat>> {
        let Some((parent, name)) = path.split() else { return Ok(Some(fs::fstat(self.layers.image)?)) };
        let mut last = self.last_lower.borrow_mut();
        if last.as_ref().is_none_or(|lower| lower.path != parent) {
            *last = Some(Lower::open(self.layers.image, parent)?);
        }
        last.as_mut().map_or(Ok(None), |lower| lower.stat(name))
    }

    fn is_directory(&self, path: &Inside) -> Result<bool> {
        Ok(self.lower_stat(path)?.is_some_and(|s| Kind::of(s.st_mode) == Kind::Directory))
    }
}
