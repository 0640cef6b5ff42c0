//! What the overlay could not carry: attributes below its own prefix, and the inode flags and project ids that are lost
//! when a file is copied up or made.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;

use super::marks::{self, Attribute};
use super::record::{Attributes, Hex, Record, Restore};
use super::scan::{Found, Scan};
use crate::error::Result;
use crate::image::Inside;
use crate::sys::fs::Times;
use crate::sys::{fs, handle, volume, xattr};

/// Takes from a directory of dropcloth's own what its parent gave it, so that nothing of that comes to what is made in it and
/// moved into the image: default ACLs, inheritable flags, a project id, the group of a set-gid directory.
pub fn disinherit(directory: BorrowedFd<'_>) -> Result<()> {
    for acl in [&b"system.posix_acl_default"[..], b"system.posix_acl_access"] {
        if xattr::get(directory, b"", acl)?.is_some() {
            xattr::remove(directory, b"", acl)?;
        }
    }
    fs::fchmod(directory, 0o700)?;
    if let Some(flags) = fs::flags(directory)?
        && flags & marks::INHERITED_FLAGS != 0
    {
        fs::set_flags(directory, flags & !marks::INHERITED_FLAGS)?;
    }
    if volume::project(directory) != 0 {
        volume::set_project(directory, 0)?;
    }
    Ok(())
}

/// What a new entry gets from its directory; all zeros where that has nothing to give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Inherited {
    flags: u32,
    project: u32,
}

impl Inherited {
    /// From an open directory of the image.
    pub(super) fn from(directory: BorrowedFd<'_>) -> Result<Inherited> {
        let mut flags = fs::flags(directory)?.unwrap_or(0) & marks::INHERITED_FLAGS;
        if flags != 0 {
            flags &= marks::inherited_on(fs::file_system(directory)?);
        }
        // Project ids are inherited only where the directory says so.
        let project = if flags & marks::PROJECT_INHERIT != 0 { volume::project(directory) } else { 0 };
        Ok(Inherited { flags, project })
    }
}

/// The flags and the project id that a file of the image loses at copy-up.
pub(super) fn lost(file: BorrowedFd<'_>) -> Result<Restore> {
    let lost = marks::USER_FLAGS & !marks::COPIED_FLAGS & !marks::PROTECTED_FLAGS;
    Ok(Restore { flags: fs::flags(file)?.unwrap_or(0) & lost, project: volume::project(file), ..Restore::default() })
}

impl Scan<'_> {
    /// What an entry must get back after overlayfs's attributes are stripped, and whether it has any of those.
    pub(super) fn restore(&self, found: Found<'_>, inherited: Inherited) -> Result<(Restore, bool)> {
        let (mut restore, overlaid) = self.lost_by_overlay(found, inherited)?;
        let times = Times::of(found.stat);
        restore.times = Some(self.clamped(times)).filter(|clamped| *clamped != times);
        Ok((restore, overlaid))
    }

    fn lost_by_overlay(&self, found: Found<'_>, inherited: Inherited) -> Result<(Restore, bool)> {
        let (set, overlaid) = self.escaped(found.upper, found.name)?;
        let kind = FileType::from_raw_mode(found.stat.st_mode);
        if overlaid
            && kind != FileType::Directory
            && let Some(origin) = self.origin(found)?
        {
            let mut restore = if kind == FileType::RegularFile { lost(origin.as_fd())? } else { Restore::default() };
            restore.set = set;
            restore.project = self.missing_project(found, restore.project)?;
            self.keep_foreign(origin.as_fd(), &mut restore)?;
            return Ok((restore, overlaid));
        }
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok((Restore { set, ..Restore::default() }, overlaid));
        }
        let project = self.missing_project(found, inherited.project)?;
        Ok((Restore { set, flags: inherited.flags, project, times: None }, overlaid))
    }

    /// The project id to set: none where the step has set one.
    fn missing_project(&self, found: Found<'_>, wanted: u32) -> Result<u32> {
        if wanted == 0 {
            return Ok(0);
        }
        let file = fs::open_read(found.upper, found.name)?;
        Ok(if volume::project(file.as_fd()) == 0 { wanted } else { 0 })
    }

    /// The image's file that this one was copied up from, wherever the step has moved the copy.
    fn origin(&self, found: Found<'_>) -> Result<Option<OwnedFd>> {
        let regular = FileType::from_raw_mode(found.stat.st_mode) == FileType::RegularFile;
        let value = xattr::get(found.upper, found.name, &self.layers.prefix.name("origin"))?.unwrap_or_default();
        match marks::handle(&value) {
            Some((kind, bytes)) => Ok(handle::open(self.layers.image, kind, bytes, regular)?),
            None => Ok(None),
        }
    }

    /// Attributes below overlayfs's prefix that the image's own file has: invisible to the step, and lost at copy-up.
    fn keep_foreign(&self, file: BorrowedFd<'_>, restore: &mut Restore) -> Result<()> {
        for attribute in xattr::list(file, b"")? {
            let whose = self.layers.prefix.read(&attribute);
            let known = restore.set.0.iter().any(|(n, _)| n.0 == attribute);
            if whose == Attribute::Plain || known {
                continue;
            }
            let value = xattr::get(file, b"", &attribute)?.unwrap_or_default();
            if let Attribute::Escaped(real) = whose {
                // Copied up as it is: the step did not set it.
                restore.set.0.retain(|(n, v)| (&n.0, &v.0) != (&real, &value));
            }
            restore.set.0.push((Hex(attribute), Hex(value)));
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

    /// Records the `i` and `a` flags that overlayfs keeps in an attribute.
    pub(super) fn protect(&mut self, directory: BorrowedFd<'_>, name: &[u8], path: &Inside, inode: u64) -> Result<()> {
        if let Some(value) = xattr::get(directory, name, &self.layers.prefix.name("protattr"))? {
            let record = Record::Protect { at: path.clone(), flags: marks::protected(&value) };
            self.protects.push((inode, record));
        }
        Ok(())
    }

    /// Whether a directory of the upper differs from the image's in more than its entries and times.
    pub(super) fn attributes_differ(&self, upper: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<bool> {
        let (new, old) = (fs::fstat(upper)?, fs::fstat(image)?);
        if (new.st_uid, new.st_gid, new.st_mode) != (old.st_uid, old.st_gid, old.st_mode) {
            return Ok(true);
        }
        let prefix = self.layers.prefix;
        let seen = |fd: BorrowedFd<'_>| -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
            let mut all = BTreeMap::new();
            for name in xattr::list(fd, b"")? {
                let view = marks::is_acl_view(&name) || marks::is_of_one_file_system(&name);
                if view || prefix.read(&name) == Attribute::Overlay {
                    continue;
                }
                let value = xattr::get(fd, b"", &name)?.unwrap_or_default();
                all.insert(name, value);
            }
            Ok(all)
        };
        if seen(upper)? != seen(image)? {
            return Ok(true);
        }
        let flags = |fd| -> Result<u32> { Ok(fs::flags(fd)?.unwrap_or(0)) };
        let protattr = xattr::get(upper, b"", &prefix.name("protattr"))?.unwrap_or_default();
        let (now, before) = (flags(upper)?, flags(image)?);
        let project = volume::project(upper);
        Ok(project != 0 && project != volume::project(image)
            || now & marks::COPIED_FLAGS != before & marks::COPIED_FLAGS
            || now & marks::USER_FLAGS & !marks::COPIED_FLAGS & !before != 0
            || marks::protected(&protattr) != before & marks::PROTECTED_FLAGS)
    }
}
