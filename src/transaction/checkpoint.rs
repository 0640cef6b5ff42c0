//! Steps of one transaction: each begins with a copy of what the earlier ones wrote, which comes back when it fails.
//!
//! `before.new` is being written; `before` is complete: a step runs, or died. A transaction found with `before` is taken back
//! to it first. The copy costs what the earlier steps wrote; its files share their blocks where the file system can.
//!
//! The overlay syncs nothing, so after a power cut files may be there without their contents. Whatever stands for whole steps
//! is on the disk before it is called so: the copy before the step begins, the upper before the copy goes.

use std::os::fd::{AsFd, BorrowedFd};

use super::Transaction;
use crate::changes::copy::Copier;
use crate::changes::discard::remove_tree;
use crate::changes::marks::{PROTECTED_FLAGS, Prefix, USER_FLAGS};
use crate::changes::redo::{Escaped, copy_directory_attributes};
use crate::changes::replica;
use crate::error::{Doing, Result};
use crate::settings::Backend;
use crate::sys::fs::{self, Times};
use crate::sys::xattr;

impl Transaction {
    /// Saves upper and index before a step.
    pub fn checkpoint(&self) -> Result<()> {
        let doing = || "cannot save what the earlier steps of the transaction wrote";
        remove_tree(self.directory(), b"before.new").doing(doing)?;
        fs::mkdir(self.directory(), b"before.new", 0o700).doing(doing)?;
        let before = fs::open_dir(self.directory(), b"before.new").doing(doing)?;
        let copier = Copier::default();
        if self.state.backend == Backend::Copy {
            copier.tree(self.directory(), replica::TREE, before.as_fd()).doing(doing)?;
        } else {
            let work = fs::open_dir(self.directory(), b"work").doing(doing)?;
            // One copier for both: a changed file with several names is in the upper and in the index.
            copier.tree(self.directory(), b"upper", before.as_fd()).doing(doing)?;
            copier.tree(work.as_fd(), b"index", before.as_fd()).doing(doing)?;
        }
        copier.finish().doing(doing)?;
        fs::syncfs(self.directory()).doing(doing)?;
        fs::rename(self.directory(), b"before.new", self.directory(), b"before").doing(doing)?;
        // The step may write into files of the upper, and the disk may have that before the name.
        fs::fsync(self.directory()).doing(doing)
    }

    /// The step succeeded: what it wrote stays.
    pub fn keep_step(&self) -> Result<()> {
        fs::syncfs(self.directory())?;
        self.remove_before()?;
        Ok(fs::fsync(self.directory())?)
    }

    /// Renamed first: a half removed copy must not be taken for a whole one.
    fn remove_before(&self) -> Result<()> {
        fs::rename(self.directory(), b"before", self.directory(), b"before.new")?;
        remove_tree(self.directory(), b"before.new")
    }

    /// Takes back what a failed or killed step wrote, if there was one.
    pub fn take_back(&self) -> Result<()> {
        let doing = || "cannot take back what the last step of the transaction wrote";
        if fs::stat(self.directory(), b"before").doing(doing)?.is_none() {
            return remove_tree(self.directory(), b"before.new");
        }
        let before = fs::open_dir(self.directory(), b"before").doing(doing)?;
        if self.state.backend == Backend::Copy {
            return self.take_back_copy(before.as_fd()).doing(doing);
        }
        let work = fs::open_dir(self.directory(), b"work").doing(doing)?;
        let upper = fs::open_dir(self.directory(), b"upper").doing(doing)?;
        // The index remembers which directory the upper is, so both keep theirs and get the old contents back.
        let index = fs::open_dir(work.as_fd(), b"index").ok();
        let saved = fs::open_dir(before.as_fd(), b"upper").doing(doing)?;
        if fs::stat(before.as_fd(), b"emptied").doing(doing)?.is_none() {
            empty(upper.as_fd())?;
            index.iter().try_for_each(|index| empty(index.as_fd()))?;
            // Moving its entries out changes the saved directory's times: they are written down first.
            write_times(before.as_fd(), Times::of(&fs::fstat(saved.as_fd()).doing(doing)?)).doing(doing)?;
        }
        let times = read_times(before.as_fd()).doing(doing)?;
        move_all(saved.as_fd(), upper.as_fd()).doing(doing)?;
        copy_upper_root(saved.as_fd(), upper.as_fd(), times, self.state.prefix).doing(doing)?;
        if let (Some(index), Ok(saved)) = (&index, fs::open_dir(before.as_fd(), b"index")) {
            move_all(saved.as_fd(), index.as_fd()).doing(doing)?;
        }
        drop((before, saved));
        self.remove_before()
    }

    fn take_back_copy(&self, before: BorrowedFd<'_>) -> Result<()> {
        if fs::stat(before, replica::TREE)?.is_some() {
            remove_tree(self.directory(), replica::TREE)?;
            let saved = fs::open_dir(before, replica::TREE)?;
            let flags = fs::flags(saved.as_fd())?.unwrap_or(0);
            // A directory that cannot be changed cannot be renamed either.
            if flags & PROTECTED_FLAGS != 0 {
                fs::set_flags(saved.as_fd(), flags & !PROTECTED_FLAGS)?;
            }
            fs::rename(before, replica::TREE, self.directory(), replica::TREE)?;
            if flags & PROTECTED_FLAGS != 0 {
                fs::set_flags(saved.as_fd(), flags)?;
            }
        }
        self.remove_before()
    }

    /// Makes upper and work fit for another mount: overlayfs refuses a work directory whose last mount was volatile, and
    /// recovery never mounts, so nothing is lost with that mark. The scaffold's own directory stays: the upper remembers it as
    /// the layer below (`index=on`).
    pub fn prepare_mount(&self) -> Result<()> {
        let doing = || "cannot prepare the transaction for another step";
        let work = fs::open_dir(self.directory(), b"work").doing(doing)?;
        remove_tree(work.as_fd(), b"work")?;
        fs::open_dir(self.directory(), b"scaffold").map_or(Ok(()), |scaffold| empty(scaffold.as_fd()))
    }
}

fn empty(directory: BorrowedFd<'_>) -> Result<()> {
    for entry in fs::entries(directory)? {
        remove_tree(directory, &entry.name)?;
    }
    Ok(())
}

fn move_all(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    for entry in fs::entries(from)? {
        fs::rename(from, &entry.name, to, &entry.name)?;
    }
    Ok(())
}

fn write_times(before: BorrowedFd<'_>, times: Times) -> Result<()> {
    remove_tree(before, b"emptied.new")?;
    let file = std::fs::File::from(fs::create(before, b"emptied.new", 0o600)?);
    serde_json::to_writer(&file, &times)?;
    fs::fsync(file.as_fd())?;
    Ok(fs::rename(before, b"emptied.new", before, b"emptied")?)
}

fn read_times(before: BorrowedFd<'_>) -> Result<Times> {
    Ok(serde_json::from_reader(std::fs::File::from(fs::open_read(before, b"emptied")?))?)
}

/// Attributes and flags of the upper's root as they were, the mark of its protected flags among them.
fn copy_upper_root(from: BorrowedFd<'_>, to: BorrowedFd<'_>, times: Times, prefix: Prefix) -> Result<()> {
    copy_directory_attributes(from, to, prefix, Escaped::Kept)?;
    let name = prefix.name("protattr");
    match xattr::get(from, b"", &name)? {
        Some(value) => xattr::set(to, b"", &name, &value)?,
        None => xattr::remove(to, b"", &name)?,
    }
    if let (Some(saved), Some(now)) = (fs::flags(from)?, fs::flags(to)?) {
        let wanted = now & !USER_FLAGS | saved & USER_FLAGS;
        if wanted != now {
            fs::set_flags(to, wanted)?;
        }
    }
    Ok(fs::set_times_of(to, times)?)
}
