//! Copies a tree exactly, by handles: contents with their holes, owners, modes, attributes, times, hard links, devices.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};

use crate::error::{Doing, Result};
use crate::sys::fs::{self, Times};
use crate::sys::xattr;

/// Copies trees that may share hard links between them.
#[derive(Default)]
pub struct Copier {
    /// First copy of each inode with several names: its directory in the copy and its name there.
    seen: HashMap<(u64, u64), (OwnedFd, Vec<u8>)>,
}

impl Copier {
    /// Copies `name` of `from` to the same name in `to`.
    pub fn tree(&mut self, from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>) -> Result<()> {
        let Some(stat) = fs::stat(from, name)? else { return Ok(()) };
        self.entry(from, name, &stat, to).doing(|| format!("cannot copy {}", name.escape_ascii()))
    }

    fn entry(&mut self, from: BorrowedFd<'_>, name: &[u8], stat: &Stat, to: BorrowedFd<'_>) -> Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let several = stat.st_nlink > 1 && kind != FileType::Directory;
        if several && let Some((directory, first)) = self.seen.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(fs::link(directory.as_fd(), first, to, name)?);
        }
        match kind {
            FileType::Directory => {
                fs::mkdir(to, name, 0o700)?;
                let (source, target) = (fs::open_dir(from, name)?, fs::open_dir(to, name)?);
                for entry in fs::entries(source.as_fd())? {
                    let Some(stat) = fs::stat(source.as_fd(), &entry.name)? else { continue };
                    self.entry(source.as_fd(), &entry.name, &stat, target.as_fd())?;
                }
            }
            FileType::RegularFile => {
                let (source, target) = (fs::open_read(from, name)?, fs::create(to, name, 0o600)?);
                fs::copy_data(source.as_fd(), target.as_fd(), stat.st_size.cast_unsigned())?;
            }
            FileType::Symlink => fs::symlink(&fs::readlink(from, name)?, to, name)?,
            _ => fs::mknod(to, name, stat.st_mode, stat.st_rdev)?,
        }
        attributes(from, name, stat, to)?;
        if several {
            self.seen.insert((stat.st_dev, stat.st_ino), (fs::open_dir(to, b".")?, name.to_vec()));
        }
        Ok(())
    }
}

/// Owner first (chown clears set-uid bits and file capabilities), then mode and attributes, flags, times last.
fn attributes(from: BorrowedFd<'_>, name: &[u8], stat: &Stat, to: BorrowedFd<'_>) -> Result<()> {
    fs::chown(to, name, stat.st_uid, stat.st_gid)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Symlink {
        fs::chmod(to, name, stat.st_mode)?;
    }
    for attribute in xattr::list(from, name)? {
        if let Some(value) = xattr::get(from, name, &attribute)? {
            xattr::set(to, name, &attribute, &value)?;
        }
    }
    if matches!(kind, FileType::RegularFile | FileType::Directory) {
        let (source, target) = (fs::open_read(from, name)?, fs::open_read(to, name)?);
        if let (Some(wanted), Some(now)) = (fs::flags(source.as_fd())?, fs::flags(target.as_fd())?) {
            let kept = super::marks::USER_FLAGS & !super::marks::PROTECTED_FLAGS;
            if wanted & kept & !now != 0 {
                fs::set_flags(target.as_fd(), now | wanted & kept)?;
            }
        }
    }
    fs::set_times(to, name, Times::of(stat))?;
    Ok(())
}
