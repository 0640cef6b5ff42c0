//! Copies a tree exactly, by handles: contents with their holes, owners, modes, attributes, times, flags, hard links,
//! devices.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{FileType, Stat};

use super::marks;
use crate::error::{Doing, Result};
use crate::sys::fs::{self, Times};
use crate::sys::{process, volume, xattr};

/// Copies trees that may share hard links between them.
#[derive(Default)]
pub struct Copier {
    /// First copy of each inode with several names: its directory in the copy and its name there.
    seen: HashMap<(u64, u64), (Rc<OwnedFd>, Vec<u8>)>,
    /// `i` and `a` flags, set when all is copied: such a file takes no second name.
    protected: Vec<(OwnedFd, u32)>,
}

impl Copier {
    /// Copies `name` of `from` to the same name in `to`.
    pub fn tree(&mut self, from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>) -> Result<()> {
        let Some(stat) = fs::stat(from, name)? else { return Ok(()) };
        // A directory is held open for each level, and for each that has files with several names.
        process::raise_file_limit();
        let to = Rc::new(fs::open_dir(to, b".")?);
        self.entry(from, name, &stat, &to).doing(|| format!("cannot copy {}", name.escape_ascii()))
    }

    /// Copies what is in `from`, and its own attributes, to the existing directory `to`.
    pub fn contents(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
        process::raise_file_limit();
        let stat = fs::fstat(from)?;
        self.directory(from, &Rc::new(fs::open_dir(to, b".")?))?;
        self.attributes(from, b".", &stat, to)
    }

    /// Sets the flags that forbid changes. To be called when everything is copied.
    pub fn finish(self) -> Result<()> {
        for (file, flags) in &self.protected {
            let now = fs::flags(file.as_fd())?.unwrap_or(0);
            fs::set_flags(file.as_fd(), now | flags)?;
        }
        Ok(())
    }

    fn directory(&mut self, from: BorrowedFd<'_>, to: &Rc<OwnedFd>) -> Result<()> {
        for entry in fs::entries(from)? {
            let Some(stat) = fs::stat(from, &entry.name)? else { continue };
            self.entry(from, &entry.name, &stat, to)?;
        }
        Ok(())
    }

    fn entry(&mut self, from: BorrowedFd<'_>, name: &[u8], stat: &Stat, into: &Rc<OwnedFd>) -> Result<()> {
        let to = into.as_fd();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let several = stat.st_nlink > 1 && kind != FileType::Directory;
        if several && let Some((directory, first)) = self.seen.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(fs::link(directory.as_fd(), first, to, name)?);
        }
        match kind {
            FileType::Directory => {
                fs::mkdir(to, name, 0o700)?;
                let source = fs::open_dir(from, name)?;
                self.directory(source.as_fd(), &Rc::new(fs::open_dir(to, name)?))?;
            }
            FileType::RegularFile => {
                let (source, target) = (fs::open_read(from, name)?, fs::create(to, name, 0o600)?);
                fs::copy_data(source.as_fd(), target.as_fd(), stat.st_size.cast_unsigned())?;
            }
            FileType::Symlink => fs::symlink(&fs::readlink(from, name)?, to, name)?,
            _ => fs::mknod(to, name, stat.st_mode, stat.st_rdev)?,
        }
        self.attributes(from, name, stat, to)?;
        if several {
            self.seen.insert((stat.st_dev, stat.st_ino), (Rc::clone(into), name.to_vec()));
        }
        Ok(())
    }

    /// Owner first (chown clears set-uid bits and file capabilities), then mode and attributes, flags, times last.
    fn attributes(&mut self, from: BorrowedFd<'_>, name: &[u8], stat: &Stat, to: BorrowedFd<'_>) -> Result<()> {
        fs::chown(to, name, stat.st_uid, stat.st_gid)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Symlink {
            fs::chmod(to, name, stat.st_mode)?;
        }
        for attribute in xattr::list(from, name)?.iter().filter(|attribute| !marks::is_acl_view(attribute)) {
            let Some(value) = xattr::get(from, name, attribute)? else { continue };
            match xattr::set(to, name, attribute, &value) {
                Err(error) if error.errno == libc::EOPNOTSUPP && marks::is_of_one_file_system(attribute) => {}
                other => other?,
            }
        }
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            self.flags(fs::open_read(from, name)?, fs::open_read(to, name)?)?;
        }
        fs::set_times(to, name, Times::of(stat))?;
        Ok(())
    }

    fn flags(&mut self, source: OwnedFd, target: OwnedFd) -> Result<()> {
        let project = volume::project(source.as_fd());
        if project != 0 {
            volume::set_project(target.as_fd(), project)?;
        }
        let (Some(wanted), Some(now)) = (fs::flags(source.as_fd())?, fs::flags(target.as_fd())?) else {
            return Ok(());
        };
        let kept = marks::USER_FLAGS & !marks::PROTECTED_FLAGS;
        if wanted & kept & !now != 0 {
            fs::set_flags(target.as_fd(), now | wanted & kept)?;
        }
        if wanted & marks::PROTECTED_FLAGS != 0 {
            self.protected.push((target, wanted & marks::PROTECTED_FLAGS));
        }
        Ok(())
    }
}
