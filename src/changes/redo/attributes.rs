//! Owner, mode, attributes and flags of what a commit moves or merges into.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use super::super::marks::{self, Attribute, Prefix};
use crate::error::Result;
use crate::sys::{SysError, SysResult, fs, xattr};

/// Sets flags besides those that are there. One that the file system refuses is left out: a decided commit must not stop at
/// it for ever.
pub(super) fn add_flags(file: BorrowedFd<'_>, flags: u32) -> SysResult<()> {
    let Some(now) = fs::flags(file)?.filter(|now| now | flags != *now) else { return Ok(()) };
    match fs::set_flags(file, now | flags) {
        Err(error) if refused(&error) => {}
        other => return other,
    }
    let missing = flags & !now;
    let mut now = now;
    for flag in (0..u32::BITS).map(|bit| 1 << bit).filter(|flag| missing & flag != 0) {
        match fs::set_flags(file, now | flag) {
            Err(error) if refused(&error) => log::warn!("the file system refuses a flag: {error}"),
            Err(error) => return Err(error),
            Ok(()) => now |= flag,
        }
    }
    Ok(())
}

fn refused(error: &SysError) -> bool {
    [libc::EOPNOTSUPP, libc::EINVAL].contains(&error.errno)
}

/// Clears `i` and `a` of a directory about to be changed; the Meta or Protect record that follows sets the final flags.
pub(super) fn unprotect(directory: BorrowedFd<'_>) -> SysResult<()> {
    match fs::flags(directory)? {
        Some(flags) if flags & marks::PROTECTED_FLAGS != 0 => fs::set_flags(directory, flags & !marks::PROTECTED_FLAGS),
        _ => Ok(()),
    }
}

/// Lets entries with another project id (quota) into a directory: one that gives its own to new entries refuses them (EXDEV).
/// The Meta or Link record that follows sets the flag again.
pub(super) fn admit(directory: BorrowedFd<'_>) -> SysResult<()> {
    match fs::flags(directory)? {
        Some(flags) if flags & marks::PROJECT_INHERIT != 0 => fs::set_flags(directory, flags & !marks::PROJECT_INHERIT),
        _ => Ok(()),
    }
}

/// Clears `i` and `a` of an entry about to be renamed or replaced.
pub(super) fn clear_protection(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<()> {
    let Some(stat) = fs::stat(directory, name)? else { return Ok(()) };
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory) {
        return Ok(());
    }
    unprotect(fs::open_read(directory, name)?.as_fd())
}

/// What becomes of the attributes that are escaped in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escaped {
    /// They stay so: both directories are layers of an overlay.
    Kept,
    /// The target is the image, and gets those that the step set under their real names.
    Undone,
}

/// Owner, extended attributes (overlayfs's own aside) and mode, in the order in which none undoes another.
pub fn copy_directory_attributes(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    prefix: Prefix,
    escaped: Escaped,
) -> Result<()> {
    let (from, to) = (fs::fstat(source)?, fs::fstat(target)?);
    unprotect(target)?;
    if (from.st_uid, from.st_gid) != (to.st_uid, to.st_gid) {
        fs::chown(target, b".", from.st_uid, from.st_gid)?;
    }
    let wanted = wanted_attributes(source, target, prefix, escaped)?;
    for name in xattr::list(target, b"")? {
        let ours = match prefix.read(&name) {
            Attribute::Plain => !marks::is_acl_view(&name) && !marks::is_of_one_file_system(&name),
            Attribute::Escaped(_) => escaped == Escaped::Kept,
            Attribute::Overlay => false,
        };
        if ours && !wanted.contains_key(&name) {
            xattr::remove(target, b"", &name)?;
        }
    }
    for (name, value) in &wanted {
        if xattr::get(target, b"", name)?.as_ref() == Some(value) {
            continue;
        }
        match xattr::set(target, b"", name, value) {
            Err(error) if error.errno == libc::EOPNOTSUPP && marks::is_of_one_file_system(name) => {}
            other => other?,
        }
    }
    if fs::fstat(target)?.st_mode & 0o7777 != from.st_mode & 0o7777 {
        fs::fchmod(target, from.st_mode)?;
    }
    Ok(())
}

fn wanted_attributes(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    prefix: Prefix,
    escaped: Escaped,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut wanted = BTreeMap::new();
    for name in xattr::list(source, b"")?.into_iter().filter(|name| !marks::is_acl_view(name)) {
        let value = xattr::get(source, b"", &name)?.unwrap_or_default();
        match prefix.read(&name) {
            Attribute::Plain => drop(wanted.insert(name, value)),
            Attribute::Escaped(_) if escaped == Escaped::Kept => drop(wanted.insert(name, value)),
            // The image's own, which looks escaped and was copied up as it is.
            Attribute::Escaped(_) if xattr::get(target, b"", &name)?.as_ref() == Some(&value) => {}
            Attribute::Escaped(real) => drop(wanted.insert(real, value)),
            Attribute::Overlay => {}
        }
    }
    Ok(wanted)
}
