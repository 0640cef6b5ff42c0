//! Reads the upper directory: the list of changes for people, and the records of the commit. The image is not touched.
//!
//! The walk goes top-down. Beside its path in the upper (which is its path in the committed image) each directory has the
//! path in the image on which it stands: another one below a renamed directory, none below a new one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Stat};

use super::marks::{self, Attribute, Prefix};
use super::record::{Attributes, Hex, Record, Restore};
use super::{Change, Changes, Kind, Policy, What, links};
use crate::error::{Doing, Result};
use crate::image::Inside;
use crate::settings::WhenChanged;
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
    /// The scaffold, to tell a changed override from one that was only touched.
    pub scaffold: Option<BorrowedFd<'a>>,
    /// Overrides and mount points.
    pub policy: &'a Policy,
    /// Where overlayfs keeps its attributes.
    pub prefix: Prefix,
}

/// Scans the upper. No records: there is nothing to commit.
pub fn scan(layers: &Layers<'_>) -> Result<(Changes, Vec<Record>)> {
    let mut scan = Scan::new(layers);
    scan.run().doing(|| "cannot read what the step changed")?;
    let mut records = scan.stages;
    // Deepest first: a directory inside another that is staged too must be out before its parent goes.
    records.sort_by_key(|r| std::cmp::Reverse(if let Record::Stage { from, .. } = r { from.depth() } else { 0 }));
    records.append(&mut scan.records);
    Ok((scan.changes, records))
}

/// One directory of the upper on its way down.
#[derive(Clone)]
pub(super) struct Spot {
    /// Path in the upper and in the committed image.
    pub path: Inside,
    /// Path in today's image on which it stands; none: it is new.
    pub lower: Option<Inside>,
}

pub(super) struct Scan<'a> {
    pub layers: &'a Layers<'a>,
    pub changes: Changes,
    pub records: Vec<Record>,
    stages: Vec<Record>,
    /// Image directory → where it is in the committed image.
    pub moved: BTreeMap<Inside, Inside>,
    protects: Vec<(u64, Record)>,
    slots: u32,
}

/// What one directory's children left of it.
#[derive(Default)]
struct Outcome {
    /// Something of the step's own is directly in it.
    own: bool,
    /// An override in it was touched, and that is dropped.
    dropped: bool,
}

impl<'a> Scan<'a> {
    fn new(layers: &'a Layers<'a>) -> Scan<'a> {
        Scan {
            layers,
            changes: Changes::default(),
            records: Vec::new(),
            stages: Vec::new(),
            moved: BTreeMap::from([(Inside::root(), Inside::root())]),
            protects: Vec::new(),
            slots: 0,
        }
    }

    fn run(&mut self) -> Result<()> {
        let root = Spot { path: Inside::root(), lower: Some(Inside::root()) };
        let upper = self.layers.upper;
        self.merged(upper, &root)?;
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

    fn slot(&mut self) -> u32 {
        self.slots += 1;
        self.slots
    }

    /// A directory that stands on one of the image: its children, then its own attributes.
    fn merged(&mut self, upper: BorrowedFd<'_>, spot: &Spot) -> Result<()> {
        let outcome = self.children(upper, spot)?;
        let lower = spot.lower.as_ref().expect("a merged directory stands on one of the image");
        let image = fs::open_dir_below(self.layers.image, lower.bytes())?;
        let (new, old) = (fs::fstat(upper)?, fs::fstat(image.as_fd())?);
        let attributes = self.attributes_differ(upper, &new, image.as_fd(), &old)?;
        let mut times = Times::of(&new);
        if outcome.dropped && !outcome.own {
            // The step only touched an override here: for the image, nothing happened.
            times.mtime = Times::of(&old).mtime;
        }
        if attributes {
            let change =
                Change { path: spot.path.clone(), what: What::Attributes, kind: Kind::Directory, bytes: 0, from: None };
            self.changes.list.push(change);
        }
        if attributes || times.mtime != Times::of(&old).mtime || outcome.own {
            self.records.push(Record::Meta { at: spot.path.clone(), times });
        }
        self.protect(upper, b"", &spot.path, new.st_ino)
    }

    fn attributes_differ(&self, upper: BorrowedFd<'_>, new: &Stat, image: BorrowedFd<'_>, old: &Stat) -> Result<bool> {
        if (new.st_uid, new.st_gid, new.st_mode) != (old.st_uid, old.st_gid, old.st_mode) {
            return Ok(true);
        }
        let prefix = self.layers.prefix;
        let plain = |fd: BorrowedFd<'_>, escaped: bool| -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
            let mut all = BTreeMap::new();
            for name in xattr::list(fd, b"")? {
                let kept = match prefix.read(&name) {
                    Attribute::Plain => name.clone(),
                    Attribute::Escaped(inner) if escaped => inner,
                    _ => continue,
                };
                all.insert(kept, xattr::get(fd, b"", &name)?.unwrap_or_default());
            }
            Ok(all)
        };
        if plain(upper, true)? != plain(image, false)? {
            return Ok(true);
        }
        let flags = |fd| -> Result<u32> { Ok(fs::flags(fd)?.unwrap_or(0)) };
        let protattr = xattr::get(upper, b"", &prefix.name("protattr"))?.unwrap_or_default();
        let (now, before) = (flags(upper)?, flags(image)?);
        Ok(now & marks::COPIED_FLAGS != before & marks::COPIED_FLAGS
            || now & marks::USER_FLAGS & !marks::COPIED_FLAGS & !before != 0
            || marks::protected(&protattr) != before & marks::PROTECTED_FLAGS)
    }

    fn children(&mut self, upper: BorrowedFd<'_>, spot: &Spot) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for entry in fs::entries(upper)? {
            let Some(stat) = fs::stat(upper, &entry.name)? else { continue };
            let path = spot.path.join(&entry.name);
            let lower = spot.lower.as_ref().map(|l| l.join(&entry.name));
            if let Some(rule) = lower.as_ref().and_then(|l| self.layers.policy.overrides.get(l)) {
                let kept = self.overridden(upper, &entry.name, &stat, lower.as_ref().expect("it has a rule"), *rule)?;
                if !kept {
                    outcome.dropped = true;
                    continue;
                }
            }
            outcome.own |= self.child(upper, &entry.name, &stat, path, lower, spot)?;
        }
        Ok(outcome)
    }

    /// Whether the step's version of an override goes into the image.
    fn overridden(
        &mut self,
        upper: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        at: &Inside,
        rule: WhenChanged,
    ) -> Result<bool> {
        let keep = match rule {
            WhenChanged::Keep => true,
            WhenChanged::KeepSymlink => FileType::from_raw_mode(stat.st_mode) == FileType::Symlink,
            WhenChanged::Drop | WhenChanged::Fail => false,
        };
        if keep || self.same_as_scaffold(upper, name, stat, at)? {
            return Ok(keep);
        }
        if rule == WhenChanged::Fail {
            self.changes.forbidden.push(at.clone());
        } else {
            self.changes.dropped.push(at.clone());
        }
        Ok(false)
    }

    fn same_as_scaffold(&self, upper: BorrowedFd<'_>, name: &[u8], stat: &Stat, at: &Inside) -> Result<bool> {
        use std::io::Read;
        let Some(scaffold) = self.layers.scaffold else { return Ok(false) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let directory = fs::open_dir_below(scaffold, at.parent().bytes())?;
        let Some((_, base)) = at.split() else { return Ok(false) };
        let mut bytes = [Vec::new(), Vec::new()];
        let files = [fs::open_read(upper, name)?, fs::open_read(directory.as_fd(), base)?];
        for (file, bytes) in files.into_iter().zip(&mut bytes) {
            std::fs::File::from(file).read_to_end(bytes)?;
        }
        Ok(bytes[0] == bytes[1])
    }

    /// One entry of the upper. Returns whether it changes the image.
    fn child(
        &mut self,
        upper: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        path: Inside,
        lower: Option<Inside>,
        parent: &Spot,
    ) -> Result<bool> {
        if marks::is_whiteout(stat) {
            return self.whiteout(path, lower);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.file(upper, name, stat, path, lower, parent)?;
            return Ok(true);
        }
        self.directory(upper, name, stat, path, lower, parent)
    }

    fn whiteout(&mut self, path: Inside, lower: Option<Inside>) -> Result<bool> {
        let Some(lower) = lower else { return Ok(false) };
        // A whiteout over a scaffold entry that the image does not have hides nothing of the image.
        let Some(old) = self.lower_stat(&lower)? else { return Ok(false) };
        let kind = Kind::of(old.st_mode);
        self.changes.list.push(Change { path: path.clone(), what: What::Removed, kind, bytes: 0, from: None });
        let slot = self.slot();
        self.records.push(Record::Trash { at: path, slot });
        Ok(true)
    }

    fn file(
        &mut self,
        upper: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        path: Inside,
        lower: Option<Inside>,
        parent: &Spot,
    ) -> Result<()> {
        let old = lower.as_ref().map(|l| self.lower_stat(l)).transpose()?.flatten();
        let kind = Kind::of(stat.st_mode);
        let bytes = if kind == Kind::File { stat.st_size.cast_unsigned() } else { 0 };
        let what = if old.is_some() { What::Modified } else { What::Added };
        self.changes.list.push(Change { path: path.clone(), what, kind, bytes, from: None });
        let trash = self.slot();
        self.records.push(Record::Move { at: path.clone(), inode: stat.st_ino, directory: false, trash });
        let origin = self.origin(upper, name, lower.as_ref())?;
        let (restore, overlaid) = self.restore(upper, name, stat, origin.as_ref(), parent)?;
        if overlaid || restore != Restore::default() {
            self.records.push(Record::Scrub { at: path.clone(), restore });
        }
        self.protect(upper, name, &path, stat.st_ino)
    }

    /// The image path that a copied-up file came from, where that is known: the same name below the same directory.
    fn origin(&self, upper: BorrowedFd<'_>, name: &[u8], lower: Option<&Inside>) -> Result<Option<Inside>> {
        let has = xattr::get(upper, name, &self.layers.prefix.name("origin"))?.is_some();
        Ok(if has { lower.cloned() } else { None })
    }

    fn directory(
        &mut self,
        upper: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        path: Inside,
        lower: Option<Inside>,
        parent: &Spot,
    ) -> Result<bool> {
        let prefix = self.layers.prefix;
        let redirect = xattr::get(upper, name, &prefix.name("redirect"))?;
        let opaque = xattr::get(upper, name, &prefix.name("opaque"))?.as_deref() == Some(b"y");
        let handle = fs::open_dir(upper, name)?;
        let stands_on = match &redirect {
            Some(redirect) => marks::redirect_source(redirect, parent.lower.as_ref()),
            None if opaque => None,
            None => lower.clone(),
        };
        let stands_on = match stands_on {
            Some(l) if self.is_directory(&l)? => Some(l),
            _ => None,
        };
        match stands_on {
            Some(from) if redirect.is_some() && from != path => self.renamed(handle.as_fd(), path, from)?,
            Some(on) => {
                self.moved.insert(on.clone(), path.clone());
                let before = self.records.len() + self.stages.len();
                self.merged(handle.as_fd(), &Spot { path, lower: Some(on) })?;
                // The times of a directory say whether its own entries changed, not those below it.
                let _ = before;
                return Ok(false);
            }
            None => {
                return self.fresh(
                    upper,
                    name,
                    stat,
                    handle.as_fd(),
                    path,
                    lower,
                    opaque || redirect.is_some(),
                    parent,
                );
            }
        }
        Ok(true)
    }

    /// A directory of the image that the step moved here.
    fn renamed(&mut self, upper: BorrowedFd<'_>, path: Inside, from: Inside) -> Result<()> {
        let inode = self.lower_stat(&from)?.map_or(0, |s| s.st_ino);
        let (slot, trash) = (self.slot(), self.slot());
        self.changes.list.push(Change {
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
        self.merged(upper, &Spot { path: path.clone(), lower: Some(from) })?;
        // Moving a directory changes the link count and `..` only; its times are those of the upper in any case.
        if !self.records[before..].iter().any(|r| matches!(r, Record::Meta { at, .. } if *at == path)) {
            let times = Times::of(&fs::fstat(upper)?);
            self.records.push(Record::Meta { at: path, times });
        }
        Ok(())
    }

    /// A directory that is new in the image.
    #[expect(clippy::too_many_arguments, reason = "one entry of the walk, as in `child`")]
    fn fresh(
        &mut self,
        parent_fd: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        upper: BorrowedFd<'_>,
        path: Inside,
        lower: Option<Inside>,
        replaces: bool,
        parent: &Spot,
    ) -> Result<bool> {
        let made = lower.as_ref().filter(|l| !replaces && self.layers.policy.made.contains(*l));
        if let Some(made) = made {
            if !self.survives(upper, made)? {
                self.note_dropped(upper, made)?;
                return Ok(false);
            }
            return self.piecewise(upper, path, Some(made.clone())).map(|()| true);
        }
        if self.has_redirect(upper)? {
            return self.piecewise(upper, path, None).map(|()| true);
        }
        let old = lower.as_ref().map(|l| self.lower_stat(l)).transpose()?.flatten();
        let what = if old.is_some() { What::Modified } else { What::Added };
        let trash = self.slot();
        self.records.push(Record::Move { at: path.clone(), inode: stat.st_ino, directory: true, trash });
        self.changes.list.push(Change { path: path.clone(), what, kind: Kind::Directory, bytes: 0, from: None });
        let (restore, overlaid) = self.restore(parent_fd, name, stat, None, parent)?;
        let inherited = Restore { set: Attributes::default(), ..restore.clone() };
        let mut tree = Tree { entries: Vec::new(), whiteouts: Vec::new(), inherited };
        if overlaid || restore != Restore::default() {
            tree.entries.push((Inside::root(), restore));
        }
        self.tree(upper, &path, &Inside::root(), &mut tree)?;
        if !tree.entries.is_empty() || !tree.whiteouts.is_empty() {
            self.records.push(Record::ScrubTree { at: path.clone(), entries: tree.entries, whiteouts: tree.whiteouts });
        }
        self.protect(parent_fd, name, &path, stat.st_ino)?;
        Ok(true)
    }

    /// A new directory that cannot be moved whole, because a directory of the image was moved into it or because it exists
    /// only in the scaffold: it is made empty and then merged into.
    fn piecewise(&mut self, upper: BorrowedFd<'_>, path: Inside, lower: Option<Inside>) -> Result<()> {
        let (slot, trash) = (self.slot(), self.slot());
        self.stages.push(Record::MakeStage { slot });
        self.records.push(Record::Place { slot, at: path.clone(), trash });
        self.changes.list.push(Change {
            path: path.clone(),
            what: What::Added,
            kind: Kind::Directory,
            bytes: 0,
            from: None,
        });
        let times = Times::of(&fs::fstat(upper)?);
        self.children(upper, &Spot { path: path.clone(), lower })?;
        self.records.push(Record::Meta { at: path.clone(), times });
        let inode = fs::fstat(upper)?.st_ino;
        self.protect(upper, b"", &path, inode)
    }

    /// Everything below a directory that is moved whole: reported, and where overlayfs left something, recorded.
    fn tree(&mut self, upper: BorrowedFd<'_>, top: &Inside, below: &Inside, tree: &mut Tree) -> Result<()> {
        // Only a directory marked impure can hold entries that were copied up or moved from the image; in every other one
        // no entry has an attribute of overlayfs, unless the step set one that was escaped: that shows in listxattr only.
        for entry in fs::entries(upper)? {
            let Some(stat) = fs::stat(upper, &entry.name)? else { continue };
            let relative = below.join(&entry.name);
            if marks::is_whiteout(&stat) {
                tree.whiteouts.push(relative);
                continue;
            }
            let path = top.join(relative.bytes());
            let kind = Kind::of(stat.st_mode);
            let bytes = if kind == Kind::File { stat.st_size.cast_unsigned() } else { 0 };
            self.changes.list.push(Change { path: path.clone(), what: What::Added, kind, bytes, from: None });
            let (attributes, overlaid) = self.escaped(upper, &entry.name)?;
            let restore = Restore { set: attributes, ..tree.inherited.clone() };
            if overlaid || restore != Restore::default() {
                tree.entries.push((relative.clone(), restore));
            }
            self.protect(upper, &entry.name, &path, stat.st_ino)?;
            if kind == Kind::Directory {
                let handle = fs::open_dir(upper, &entry.name)?;
                self.tree(handle.as_fd(), top, &relative, tree)?;
            }
        }
        Ok(())
    }

    /// What an entry must get back after overlayfs's attributes are stripped, and whether it has any of those.
    fn restore(
        &self,
        upper: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        origin: Option<&Inside>,
        parent: &Spot,
    ) -> Result<(Restore, bool)> {
        let (set, overlaid) = self.escaped(upper, name)?;
        let mut restore = Restore { set, flags: 0, project: 0 };
        let plain = matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory);
        match (origin, &parent.lower) {
            (Some(origin), _) if plain => {
                let directory = fs::open_dir_below(self.layers.image, origin.parent().bytes())?;
                let Some((_, base)) = origin.split() else { return Ok((restore, overlaid)) };
                let Ok(file) = fs::open_read(directory.as_fd(), base) else { return Ok((restore, overlaid)) };
                let lost = marks::USER_FLAGS & !marks::COPIED_FLAGS & !marks::PROTECTED_FLAGS;
                restore.flags = fs::flags(file.as_fd())?.unwrap_or(0) & lost;
                restore.project = fs::project(file.as_fd());
                self.keep_foreign(directory.as_fd(), base, &mut restore)?;
            }
            (None, Some(lower)) if plain => {
                let directory = fs::open_dir_below(self.layers.image, lower.bytes())?;
                let flags = fs::flags(directory.as_fd())?.unwrap_or(0) & marks::INHERITED_FLAGS;
                restore.flags = flags;
                // Project ids are inherited only where the directory says so (FS_PROJINHERIT_FL).
                if flags & 0x2000_0000 != 0 {
                    restore.project = fs::project(directory.as_fd());
                }
            }
            _ => {}
        }
        Ok((restore, overlaid))
    }

    /// Attributes below overlayfs's prefix that the image's own file has: invisible to the step, and lost at copy-up.
    fn keep_foreign(&self, directory: BorrowedFd<'_>, name: &[u8], restore: &mut Restore) -> Result<()> {
        for attribute in xattr::list(directory, name)? {
            let known = restore.set.0.iter().any(|(n, _)| n.0 == attribute);
            if self.layers.prefix.read(&attribute) != Attribute::Plain && !known {
                let value = xattr::get(directory, name, &attribute)?.unwrap_or_default();
                restore.set.0.push((Hex(attribute), Hex(value)));
            }
        }
        Ok(())
    }

    /// Attributes that the step set below overlayfs's prefix, under their real names; and whether overlayfs set any itself.
    pub(super) fn escaped(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(Attributes, bool)> {
        let mut set = Attributes::default();
        let mut overlaid = false;
        for attribute in xattr::list(directory, name)? {
            match self.layers.prefix.read(&attribute) {
                Attribute::Plain => {}
                Attribute::Overlay => overlaid = true,
                Attribute::Escaped(real) => {
                    overlaid = true;
                    let value = xattr::get(directory, name, &attribute)?.unwrap_or_default();
                    set.0.push((Hex(real), Hex(value)));
                }
            }
        }
        Ok((set, overlaid))
    }

    fn protect(&mut self, directory: BorrowedFd<'_>, name: &[u8], path: &Inside, inode: u64) -> Result<()> {
        if let Some(value) = xattr::get(directory, name, &self.layers.prefix.name("protattr"))? {
            let record = Record::Protect { at: path.clone(), flags: marks::protected(&value) };
            self.protects.push((inode, record));
        }
        Ok(())
    }

    /// Does an upper directory that exists only over the scaffold hold anything of the step's own?
    fn survives(&self, upper: BorrowedFd<'_>, at: &Inside) -> Result<bool> {
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
    fn note_dropped(&mut self, upper: BorrowedFd<'_>, at: &Inside) -> Result<()> {
        for entry in fs::entries(upper)? {
            let Some(stat) = fs::stat(upper, &entry.name)? else { continue };
            let path = at.join(&entry.name);
            if let Some(rule) = self.layers.policy.overrides.get(&path) {
                self.overridden(upper, &entry.name, &stat, &path, *rule)?;
            } else if Kind::of(stat.st_mode) == Kind::Directory {
                let handle = fs::open_dir(upper, &entry.name)?;
                self.note_dropped(handle.as_fd(), &path)?;
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

    pub(super) fn lower_stat(&self, path: &Inside) -> Result<Option<Stat>> {
        let Some((parent, name)) = path.split() else { return Ok(Some(fs::fstat(self.layers.image)?)) };
        match fs::open_dir_below(self.layers.image, parent.bytes()) {
            Ok(directory) => Ok(fs::stat(directory.as_fd(), name)?),
            Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&error.errno) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn is_directory(&self, path: &Inside) -> Result<bool> {
        Ok(self.lower_stat(path)?.is_some_and(|s| Kind::of(s.st_mode) == Kind::Directory))
    }
}

/// What the walk below a directory that is moved whole collects.
struct Tree {
    entries: Vec<(Inside, Restore)>,
    whiteouts: Vec<Inside>,
    /// Flags and project that new entries inherit all the way down.
    inherited: Restore,
}
