//! Applies the records of a commit. Each looks at facts first, so that the whole list can be redone after any interruption:
//! nothing is exchanged (a second time would change it back), nothing is removed in place.

mod ahead;
mod attributes;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FileType;

use super::discard;
use super::marks::{self, Attribute, Prefix};
use super::record::{Record, Restore};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Inside;
use crate::sys::fs::{self, Times};
use crate::sys::{SysError, SysResult, volume, xattr};
pub use attributes::{Escaped, copy_directory_attributes};
use attributes::{add_flags, admit, clear_protection, unprotect};

/// The open directories of a commit.
pub struct Redo<'a> {
    /// The image.
    pub image: BorrowedFd<'a>,
    /// The transaction: holds upper, work, stage and trash.
    pub transaction: BorrowedFd<'a>,
    /// Where overlayfs keeps its attributes.
    pub prefix: Prefix,
    /// No record has been applied yet, by nobody.
    pub first: bool,
    upper: OwnedFd,
    stage: OwnedFd,
    trash: OwnedFd,
    /// The last directory used in the image and in the upper: neighbouring records mostly share it.
    last_image: Option<(Box<[u8]>, Rc<OwnedFd>)>,
    last_upper: Option<(Box<[u8]>, Rc<OwnedFd>)>,
}

/// Whether a directory on the way is gone, or is another kind of entry by now (ELOOP: a symbolic link).
fn missing(error: &SysError) -> bool {
    [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&error.errno)
}

impl<'a> Redo<'a> {
    /// Makes the directories that a commit needs in the transaction.
    pub fn prepare(transaction: BorrowedFd<'_>) -> Result<()> {
        fs::mkdir_if_missing(transaction, b"stage", 0o700)?;
        Ok(fs::mkdir_if_missing(transaction, b"trash", 0o700)?)
    }

    /// Opens the directories of the transaction.
    pub fn new(image: BorrowedFd<'a>, transaction: BorrowedFd<'a>, prefix: Prefix) -> Result<Redo<'a>> {
        Ok(Redo {
            image,
            transaction,
            prefix,
            first: false,
            upper: fs::open_dir(transaction, b"upper")?,
            stage: fs::open_dir(transaction, b"stage")?,
            trash: fs::open_dir(transaction, b"trash")?,
            last_image: None,
            last_upper: None,
        })
    }

    /// Applies all of them, in order.
    pub fn run(&mut self, records: &[Record]) -> Result<()> {
        let done = if self.first { ahead::moves(self, records) } else { Vec::new() };
        let left = |number| !done.get(number).is_some_and(|done: &AtomicBool| done.load(Ordering::Relaxed));
        for (_, record) in records.iter().enumerate().filter(|(number, _)| left(*number)) {
            self.apply(record).doing(|| format!("cannot commit {}", describe(record)))?;
        }
        Ok(())
    }

    fn apply(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Stage { from, slot, inode } => self.stage(from, *slot, *inode),
            Record::MakeStage { slot } => self.make_stage(*slot),
            Record::Trash { at, slot } => self.trash_entry(at, *slot),
            Record::Place { slot, at, trash } => self.place(*slot, at, *trash),
            Record::Move { at, new: true, directory, .. } if self.first && self.move_new(at, *directory)? => Ok(()),
            Record::Move { at, inode, directory, trash, .. } => self.move_entry(at, *inode, *directory, *trash),
            Record::Scrub { at, restore } => self.scrub_entry(at, restore),
            Record::ScrubTree { at, entries, whiteouts } => self.scrub_tree(at, entries, whiteouts),
            Record::Meta { at, times, flags } => self.meta(at, *times, *flags),
            Record::Link { index, inode, at, times, flags, restore } => {
                self.link(index, *inode, at, (*times, *flags), restore)
            }
            Record::DropWork => discard::remove_tree(self.transaction, b"work"),
            Record::Protect { at, flags } => self.protect(at, *flags),
        }
    }

    /// The directory above `at` in the image, and the name.
    fn above<'p>(&mut self, at: &'p Inside) -> SysResult<(Rc<OwnedFd>, &'p [u8])> {
        let (parent, name) = at.split_bytes().unwrap_or((b"", b"."));
        if self.last_image.as_ref().is_none_or(|(path, _)| **path != *parent) {
            let directory = fs::open_dir_below(self.image, parent)?;
            unprotect(directory.as_fd())?;
            self.last_image = Some((parent.into(), Rc::new(directory)));
        }
        let (_, directory) = self.last_image.as_ref().expect("just set");
        Ok((Rc::clone(directory), name))
    }

    fn above_in_upper<'p>(&mut self, at: &'p Inside) -> SysResult<(Rc<OwnedFd>, &'p [u8])> {
        let (parent, name) = at.split_bytes().unwrap_or((b"", b"."));
        if self.last_upper.as_ref().is_none_or(|(path, _)| **path != *parent) {
            let directory = fs::open_dir_below(self.upper.as_fd(), parent)?;
            self.last_upper = Some((parent.into(), Rc::new(directory)));
        }
        let (_, directory) = self.last_upper.as_ref().expect("just set");
        Ok((Rc::clone(directory), name))
    }

    /// A directory went or came: handles found by path may stand on another one now.
    fn forget(&mut self) {
        self.last_image = None;
        self.last_upper = None;
    }

    fn stage(&mut self, from: &Inside, slot: u32, inode: u64) -> Result<()> {
        let (directory, name) = match self.above(from) {
            Err(error) if missing(&error) => return Ok(()),
            other => other?,
        };
        if fs::stat(directory.as_fd(), name)?.is_none_or(|s| s.st_ino != inode) {
            return Ok(());
        }
        clear_protection(directory.as_fd(), name)?;
        fs::rename(directory.as_fd(), name, self.stage.as_fd(), &slot_name(slot))?;
        self.forget();
        Ok(())
    }

    /// A mark says that it was made once: after Place took it away, a redo must not make it again.
    fn make_stage(&mut self, slot: u32) -> Result<()> {
        let mark = [&slot_name(slot)[..], b".made"].concat();
        if fs::stat(self.stage.as_fd(), &mark)?.is_some() {
            return Ok(());
        }
        fs::mkdir_if_missing(self.stage.as_fd(), &slot_name(slot), 0o700)?;
        fs::create(self.stage.as_fd(), &mark, 0o600)?;
        Ok(())
    }

    fn move_to_trash(&mut self, directory: BorrowedFd<'_>, name: &[u8], slot: u32) -> Result<()> {
        let there = fs::stat(self.trash.as_fd(), &slot_name(slot))?.is_some();
        if there || fs::stat(directory, name)?.is_none() {
            return Ok(());
        }
        clear_protection(directory, name)?;
        fs::rename(directory, name, self.trash.as_fd(), &slot_name(slot))?;
        self.forget();
        Ok(())
    }

    fn trash_entry(&mut self, at: &Inside, slot: u32) -> Result<()> {
        match self.above(at) {
            Err(error) if missing(&error) => Ok(()),
            Err(error) => Err(error.into()),
            Ok((directory, name)) => self.move_to_trash(directory.as_fd(), name, slot),
        }
    }

    fn place(&mut self, slot: u32, at: &Inside, trash: u32) -> Result<()> {
        if fs::stat(self.stage.as_fd(), &slot_name(slot))?.is_none() {
            return Ok(());
        }
        let (directory, name) = self.above(at)?;
        self.move_to_trash(directory.as_fd(), name, trash)?;
        admit(directory.as_fd())?;
        fs::rename(self.stage.as_fd(), &slot_name(slot), directory.as_fd(), name)?;
        self.forget();
        Ok(())
    }

    /// The first time round, an entry that the image did not have is moved by one call, which fails when it has it by now.
    fn move_new(&mut self, at: &Inside, is_directory: bool) -> Result<bool> {
        let (Ok((source, name)), Ok((target, _))) = (self.above_in_upper(at), self.above(at)) else { return Ok(false) };
        let moved = fs::rename_new(source.as_fd(), name, target.as_fd(), name).is_ok();
        if moved && is_directory {
            self.forget();
        }
        Ok(moved)
    }

    /// The same by a second name, and the end of the first.
    fn link_new(&mut self, at: &Inside) -> bool {
        let (Ok((source, name)), Ok((target, _))) = (self.above_in_upper(at), self.above(at)) else { return false };
        fs::link(source.as_fd(), name, target.as_fd(), name).is_ok() && fs::unlink(source.as_fd(), name).is_ok()
    }

    fn move_entry(&mut self, at: &Inside, inode: u64, is_directory: bool, trash: u32) -> Result<()> {
        let (source, name) = match self.above_in_upper(at) {
            Err(error) if missing(&error) => return Ok(()),
            other => other?,
        };
        if fs::stat(source.as_fd(), name)?.is_none_or(|s| s.st_ino != inode) {
            return Ok(());
        }
        let (target, _) = self.above(at)?;
        if let Some(old) = fs::stat(target.as_fd(), name)? {
            if old.st_ino == inode {
                // rename(2) between two names of one file does nothing: the upper's name goes.
                return Ok(fs::unlink(source.as_fd(), name)?);
            }
            if is_directory || FileType::from_raw_mode(old.st_mode) == FileType::Directory {
                self.move_to_trash(target.as_fd(), name, trash)?;
            } else if FileType::from_raw_mode(old.st_mode) == FileType::RegularFile {
                clear_protection(target.as_fd(), name)?;
            }
        }
        admit(target.as_fd())?;
        fs::rename(source.as_fd(), name, target.as_fd(), name)?;
        if is_directory {
            self.forget();
        }
        Ok(())
    }

    fn scrub_entry(&mut self, at: &Inside, restore: &Restore) -> Result<()> {
        let (directory, name) = self.above(at)?;
        self.scrub(directory.as_fd(), name, restore)
    }

    fn scrub_tree(&mut self, at: &Inside, entries: &[(Inside, Restore)], whiteouts: &[(Inside, Times)]) -> Result<()> {
        for (below, times) in whiteouts {
            let path = at.join(below.bytes());
            let (directory, name) = self.above(&path)?;
            if fs::stat(directory.as_fd(), name)?.is_some_and(|s| marks::is_whiteout(&s)) {
                fs::unlink(directory.as_fd(), name)?;
            }
            fs::set_times_of(directory.as_fd(), *times)?;
        }
        for (below, restore) in entries {
            let path = at.join(below.bytes());
            let (directory, name) = self.above(&path)?;
            self.scrub(directory.as_fd(), name, restore)?;
        }
        Ok(())
    }

    /// Strips what overlayfs wrote and puts back what it could not carry.
    fn scrub(&self, directory: BorrowedFd<'_>, name: &[u8], restore: &Restore) -> Result<()> {
        let Some(stat) = fs::stat(directory, name)? else { return Ok(()) };
        // Set already where this is done again after the Protect records.
        clear_protection(directory, name)?;
        for attribute in xattr::list(directory, name)? {
            if self.prefix.read(&attribute) != Attribute::Plain {
                xattr::remove(directory, name, &attribute)?;
            }
        }
        for (attribute, value) in &restore.set.0 {
            xattr::set(directory, name, &attribute.0, &value.0)?;
        }
        if let Some(times) = restore.times {
            fs::set_times(directory, name, times)?;
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if (restore.flags == 0 && restore.project == 0) || !matches!(kind, FileType::RegularFile | FileType::Directory)
        {
            return Ok(());
        }
        let file = fs::open_read(directory, name)?;
        let useful = if kind == FileType::Directory { restore.flags } else { restore.flags & !marks::DIRECTORY_FLAGS };
        add_flags(file.as_fd(), useful)?;
        if restore.project != 0 && volume::project(file.as_fd()) != restore.project {
            volume::set_project(file.as_fd(), restore.project)?;
        }
        Ok(())
    }

    fn meta(&mut self, at: &Inside, times: Times, taken: u32) -> Result<()> {
        let source = fs::open_dir_below(self.upper.as_fd(), at.bytes())?;
        let target = fs::open_dir_below(self.image, at.bytes())?;
        copy_directory_attributes(source.as_fd(), target.as_fd(), self.prefix, Escaped::Undone)?;
        let wanted = fs::flags(source.as_fd())?.unwrap_or(0);
        fs::set_times_of(target.as_fd(), times)?;
        if let Some(flags) = fs::flags(target.as_fd())? {
            let kept = flags & !marks::COPIED_FLAGS | wanted & marks::COPIED_FLAGS;
            if kept != flags {
                fs::set_flags(target.as_fd(), kept)?;
            }
            add_flags(target.as_fd(), wanted & marks::USER_FLAGS & !marks::PROTECTED_FLAGS | taken)?;
        }
        let project = volume::project(source.as_fd());
        if project != 0 && project != volume::project(target.as_fd()) {
            volume::set_project(target.as_fd(), project)?;
        }
        Ok(())
    }

    fn link(
        &mut self,
        index: &str,
        inode: u64,
        at: &Inside,
        (times, flags): (Times, u32),
        restore: &Restore,
    ) -> Result<()> {
        // After DropWork every link has been made.
        let Ok(work) = fs::open_dir(self.transaction, b"work") else { return Ok(()) };
        let Ok(source) = fs::open_dir(work.as_fd(), b"index") else { return Ok(()) };
        // A journal that was found in an image may say anything: no way out of it by this name.
        if index.contains('/') || index.starts_with('.') {
            return refuse(Fault::new(format!("the journal names {index:?} as an entry of the index")));
        }
        let (directory, name) = self.above(at)?;
        let Some(old) = fs::stat(directory.as_fd(), name)? else { return Ok(()) };
        let temporary = format!(".dropcloth-{inode}").into_bytes();
        if old.st_ino != inode {
            clear_protection(directory.as_fd(), name)?;
            clear_protection(source.as_fd(), index.as_bytes())?;
            admit(directory.as_fd())?;
            match fs::link(source.as_fd(), index.as_bytes(), directory.as_fd(), &temporary) {
                Err(error) if error.errno == libc::EEXIST => {}
                other => other?,
            }
            fs::rename(directory.as_fd(), &temporary, directory.as_fd(), name)?;
        }
        match fs::unlink(directory.as_fd(), &temporary) {
            Err(error) if error.errno == libc::ENOENT => {}
            other => other?,
        }
        self.scrub(directory.as_fd(), name, restore)?;
        fs::set_times_of(directory.as_fd(), times)?;
        if flags != 0 {
            let now = fs::flags(directory.as_fd())?.unwrap_or(0);
            fs::set_flags(directory.as_fd(), now | flags)?;
            self.forget();
        }
        Ok(())
    }

    fn protect(&mut self, at: &Inside, flags: u32) -> Result<()> {
        let file = if at.is_root() {
            fs::open_dir(self.image, b".")?
        } else {
            let (parent, name) = at.split_bytes().unwrap_or((b"", b"."));
            let directory = fs::open_dir_below(self.image, parent)?;
            fs::open_read(directory.as_fd(), name)?
        };
        let now = fs::flags(file.as_fd())?.unwrap_or(0);
        if now | flags != now {
            fs::set_flags(file.as_fd(), now | flags)?;
        }
        Ok(())
    }
}

fn slot_name(slot: u32) -> Vec<u8> {
    slot.to_string().into_bytes()
}

fn describe(record: &Record) -> String {
    match record {
        Record::Stage { from, .. } => format!("the move of {from}"),
        Record::MakeStage { .. } => "a new directory".to_owned(),
        Record::DropWork => "the end of the work directory".to_owned(),
        Record::Trash { at, .. } => format!("the removal of {at}"),
        Record::Place { at, .. }
        | Record::Move { at, .. }
        | Record::Scrub { at, .. }
        | Record::ScrubTree { at, .. }
        | Record::Meta { at, .. }
        | Record::Link { at, .. }
        | Record::Protect { at, .. } => at.to_string(),
    }
}
