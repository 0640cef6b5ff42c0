//! Mount points that a root lacks, made in it for as long as a step runs: empty files and directories that are gone again
//! afterwards, with the times of the directories they were in.
//!
//! A list is written before the first is made, and again before the first is removed, so that whoever finds it can finish:
//! *making*: no step has run yet, everything goes; *made*: what the step left in one stays; *leaving*: the times that the
//! directories are to have at the end are known. Each is a file of its own, so that one that a power cut tore leaves the one
//! before it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

use super::journal::{read_text, remove_if_there, write, write_as_name};
use crate::changes::marks::PROTECTED_FLAGS;
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Inside;
use crate::sys::fs::{self, Times};
use crate::sys::process;
use crate::sys::volume;

/// The names of the lists in the transaction, the newest first.
pub const FILES: [&[u8]; 3] = [b"points.leaving", b"points.made", b"points"];

/// Sets the owner of an entry: the directory, the name, and what it is now.
pub type Give<'a> = dyn Fn(BorrowedFd<'_>, &[u8], &Stat) -> Result<()> + 'a;

/// Seconds and nanoseconds.
type Time = (i64, i64);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    #[default]
    Making,
    Made,
    Leaving,
}

/// Where the lists are.
#[derive(Clone, Copy)]
pub struct Journal<'a> {
    /// A directory with nothing else of these names in it.
    pub directory: BorrowedFd<'a>,
    /// When they are on the disk.
    pub sync: Sync,
}

/// What a list is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Crashes of programs.
    Never,
    /// Power cuts: each is on the disk before anything is done.
    Each,
    /// The same, on a file system whose journal has every change in the order of the calls and that the root is in, too:
    /// nothing waits for the disk.
    Ordered,
}

impl Sync {
    /// What lasts a power cut.
    pub fn durable(directory: BorrowedFd<'_>, same_file_system: bool) -> Sync {
        if same_file_system && volume::has_ext4_journal(directory) { Sync::Ordered } else { Sync::Each }
    }
}

/// What is made, and where.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Points {
    phase: Phase,
    parents: BTreeMap<Inside, Parent>,
    made: Vec<Point>,
}

/// A directory in which one is made. Its names are short: a list of some dozens fits where nothing has to wait for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Parent {
    #[serde(rename = "i")]
    inode: u64,
    /// Its time without them, which it has while the step runs, too.
    #[serde(rename = "b")]
    before: Time,
    /// Its time at the end; none: the same.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    after: Option<Time>,
    /// `i` and `a` flags that the step gave it.
    #[serde(rename = "f", default, skip_serializing_if = "is_zero")]
    flags: u32,
}

fn is_zero(flags: &u32) -> bool {
    *flags == 0
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Point {
    #[serde(rename = "p")]
    path: Inside,
    /// The mode of a directory; none: a file.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    directory: Option<u32>,
    /// 0: not known yet.
    #[serde(rename = "i")]
    inode: u64,
}

impl Points {
    /// What has to be made in `root` so that these are there, each after the directory it is in: with a mode it is a directory,
    /// without one a file. Changes nothing.
    pub fn wanted(places: impl IntoIterator<Item = (Inside, Option<u32>)>, root: BorrowedFd<'_>) -> Result<Points> {
        let mut points = Points::default();
        let mut open = Open::of(root);
        for (path, directory) in places {
            let Some((above, name)) = path.split() else { continue };
            if !points.made.iter().any(|point| point.path == above) {
                let parent = open.at(&above)?;
                if fs::stat(parent, name)?.is_some() {
                    continue;
                }
                if let Entry::Vacant(place) = points.parents.entry(above) {
                    check_flags(parent, place.key(), &path)?;
                    place.insert(Parent::of(parent)?);
                }
            }
            points.made.push(Point { path, directory, inode: 0 });
        }
        Ok(points)
    }

    /// Whether there is nothing to make.
    pub fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// Makes them; `give` sets the owner of a new entry. The process must have one thread. With a `journal` the list is there before. What was made before an
    /// error is removed again.
    pub fn make(mut self, root: BorrowedFd<'_>, journal: Option<Journal<'_>>, give: &Give<'_>) -> Result<Points> {
        self.save(journal)?;
        let umask = process::set_umask(0);
        let made = self.make_all(root, give);
        process::set_umask(umask);
        match made.and_then(|()| self.save(journal)) {
            Ok(()) => Ok(self),
            Err(error) => {
                self.phase = Phase::Making;
                self.remove(root, journal)?;
                Err(error)
            }
        }
    }

    fn make_all(&mut self, root: BorrowedFd<'_>, give: &Give<'_>) -> Result<()> {
        let mut open = Open::of(root);
        for point in &mut self.made {
            let parent = open.at(&point.path.parent())?;
            point.make(parent, give).doing(|| format!("cannot make the mount point {}", point.path))?;
        }
        // While the step runs the directories look as they did; at the end any other time is the step's own.
        for (path, parent) in &self.parents {
            set_mtime(open.at(path)?, parent.before)?;
        }
        for point in self.made.iter().filter(|point| point.directory.is_some()) {
            self.parents.insert(point.path.clone(), Parent::of(open.at(&point.path)?)?);
        }
        self.phase = Phase::Made;
        Ok(())
    }

    /// Removes what is still as it was made: a file that is empty, a directory with nothing in it. Can be repeated after a
    /// crash at any point.
    pub fn remove(mut self, root: BorrowedFd<'_>, journal: Option<Journal<'_>>) -> Result<()> {
        let open = self.open(root)?;
        if self.phase == Phase::Made {
            for (path, parent) in &mut self.parents {
                let Some(directory) = open.get(path) else { continue };
                let time = Times::of(&fs::fstat(directory.as_fd())?).mtime;
                parent.after = Some(time).filter(|time| *time != parent.before);
                parent.flags = fs::flags(directory.as_fd())?.unwrap_or(0) & PROTECTED_FLAGS;
            }
            self.phase = Phase::Leaving;
            self.save(journal)?;
        }
        for (path, parent) in self.parents.iter().filter(|(_, parent)| parent.flags != 0) {
            open.get(path).map_or(Ok(()), |directory| protect(directory.as_fd(), 0, parent.flags))?;
        }
        for point in self.made.iter().rev() {
            // Those in directories that were made, too, are on no list of directories yet when the making was interrupted.
            let opened = match open.get(&point.path.parent()) {
                None if self.phase == Phase::Making => fs::open_dir_below(root, point.path.parent().bytes()).ok(),
                _ => None,
            };
            let Some(parent) = open.get(&point.path.parent()).or(opened.as_ref()) else { continue };
            point.remove(parent.as_fd()).doing(|| format!("cannot remove the mount point {}", point.path))?;
        }
        self.restore(&open)
    }

    /// Times and flags, the deepest first: a directory that stays gives its own time to the one it is in.
    fn restore(&self, open: &BTreeMap<Inside, OwnedFd>) -> Result<()> {
        for (path, parent) in self.parents.iter().rev() {
            let Some(directory) = open.get(path) else { continue };
            let mut time = parent.after.unwrap_or(parent.before);
            for point in self.made.iter().filter(|point| point.path.parent() == *path) {
                let Some((_, name)) = point.path.split() else { continue };
                let stayed = fs::stat(directory.as_fd(), name)?.filter(|_| time == parent.before);
                time = stayed.map_or(time, |stat| Times::of(&stat).mtime);
            }
            set_mtime(directory.as_fd(), time)?;
            if parent.flags != 0 {
                protect(directory.as_fd(), parent.flags, parent.flags)?;
            }
        }
        Ok(())
    }

    /// The directories, wherever the step has moved them.
    fn open(&self, root: BorrowedFd<'_>) -> Result<BTreeMap<Inside, OwnedFd>> {
        let mut found = BTreeMap::new();
        let mut lost = BTreeMap::new();
        for (path, parent) in &self.parents {
            match fs::open_dir_below(root, path.bytes()) {
                Ok(directory) if fs::fstat(directory.as_fd())?.st_ino == parent.inode => {
                    found.insert(path.clone(), directory);
                }
                Ok(_) => drop(lost.insert(parent.inode, path.clone())),
                Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&error.errno) => {
                    lost.insert(parent.inode, path.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        // A directory of ours can be found below its new place at once; the image is walked for those of it that were moved.
        if self.phase != Phase::Making && !lost.is_empty() {
            search(root, &mut lost, &mut found)?;
        }
        Ok(found)
    }

    fn save(&self, journal: Option<Journal<'_>>) -> Result<()> {
        let Some(Journal { directory, sync }) = journal else { return Ok(()) };
        let name = FILES[match self.phase {
            Phase::Leaving => 0,
            Phase::Made => 1,
            Phase::Making => 2,
        }];
        remove_if_there(directory, name)?;
        let text = serde_json::to_vec(self)?;
        if sync == Sync::Ordered && write_as_name(directory, name, &text)? {
            return Ok(());
        }
        let file = write(directory, name, &text)?;
        match sync {
            Sync::Never => {}
            Sync::Ordered if self.phase != Phase::Making => fs::write_out(file.as_fd())?,
            // The journal has the names of the transaction when it has this file.
            Sync::Ordered => fs::fsync(file.as_fd())?,
            Sync::Each => {
                fs::fsync(file.as_fd())?;
                fs::fsync(directory)?;
            }
        }
        Ok(())
    }

    /// The newest whole list in this directory; none: nothing was made.
    pub fn load(directory: BorrowedFd<'_>) -> Result<Option<Points>> {
        for name in FILES {
            if let Some(text) = read_text(directory, name)?
                && let Ok(points) = serde_json::from_slice(&text)
            {
                return Ok(Some(points));
            }
        }
        Ok(None)
    }
}

/// Directories of the root, each opened once.
struct Open<'a> {
    root: BorrowedFd<'a>,
    directories: BTreeMap<Inside, OwnedFd>,
}

impl<'a> Open<'a> {
    fn of(root: BorrowedFd<'a>) -> Open<'a> {
        Open { root, directories: BTreeMap::new() }
    }

    fn at(&mut self, path: &Inside) -> Result<BorrowedFd<'_>> {
        let open: &OwnedFd = match self.directories.entry(path.clone()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(fs::open_dir_below(self.root, path.bytes())?),
        };
        Ok(open.as_fd())
    }
}

impl Parent {
    fn of(directory: BorrowedFd<'_>) -> Result<Parent> {
        let stat = fs::fstat(directory)?;
        Ok(Parent { inode: stat.st_ino, before: Times::of(&stat).mtime, after: None, flags: 0 })
    }
}

impl Point {
    /// Without a umask.
    fn make(&mut self, parent: BorrowedFd<'_>, give: &Give<'_>) -> Result<()> {
        let Some((_, name)) = self.path.split() else { return Ok(()) };
        let mode = self.directory.unwrap_or(0o644);
        match self.directory {
            Some(mode) => fs::mkdir(parent, name, mode)?,
            None => drop(fs::create(parent, name, mode)?),
        }
        let Some(stat) = fs::stat(parent, name)? else { return Ok(()) };
        // The directory can hand down another, with its group or its default list of rights.
        if stat.st_mode & 0o7777 != mode {
            fs::chmod(parent, name, mode)?;
        }
        self.inode = stat.st_ino;
        give(parent, name, &stat)
    }

    fn remove(&self, parent: BorrowedFd<'_>) -> Result<()> {
        let Some((_, name)) = self.path.split() else { return Ok(()) };
        let ours = |stat: &Stat| self.inode == 0 || stat.st_ino == self.inode;
        let Some(stat) = fs::stat(parent, name)?.filter(ours) else { return Ok(()) };
        match (self.directory, FileType::from_raw_mode(stat.st_mode)) {
            (Some(_), FileType::Directory) => match fs::rmdir(parent, name) {
                // Filled by the step, or a mount of somebody else's: never through it.
                Err(error) if [libc::ENOTEMPTY, libc::EEXIST, libc::EBUSY].contains(&error.errno) => Ok(()),
                other => Ok(other?),
            },
            (None, FileType::RegularFile) if stat.st_size == 0 => Ok(fs::unlink(parent, name)?),
            _ => Ok(()),
        }
    }
}

/// In such a directory nothing can be made, or nothing removed again.
fn check_flags(parent: BorrowedFd<'_>, path: &Inside, point: &Inside) -> Result<()> {
    if fs::flags(parent)?.unwrap_or(0) & PROTECTED_FLAGS == 0 {
        return Ok(());
    }
    refuse(
        Fault::new(format!("{point} has to be made while the step runs, and {path} of the image cannot be changed"))
            .because("the directory has the flag i or a")
            .hint("Take it away first with `chattr -ia`, or use `--mode commit --backend overlay`, which makes nothing in the image."),
    )
}

/// Makes those of the flags `mask` that are in `wanted` the only ones of them that are set.
fn protect(directory: BorrowedFd<'_>, wanted: u32, mask: u32) -> Result<()> {
    match fs::flags(directory)? {
        Some(now) if now & mask != wanted => Ok(fs::set_flags(directory, now & !mask | wanted)?),
        _ => Ok(()),
    }
}

fn set_mtime(directory: BorrowedFd<'_>, mtime: Time) -> Result<()> {
    let stat = fs::fstat(directory)?;
    let now = Times::of(&stat);
    // One that was removed has no names left.
    if now.mtime == mtime || stat.st_nlink == 0 {
        Ok(())
    } else {
        Ok(fs::set_times_of(directory, Times { mtime, ..now })?)
    }
}

/// Looks for the lost directories below `directory`, on its own file system only.
fn search(
    directory: BorrowedFd<'_>,
    lost: &mut BTreeMap<u64, Inside>,
    found: &mut BTreeMap<Inside, OwnedFd>,
) -> Result<()> {
    for entry in fs::entries(directory)?.iter().filter(|entry| entry.kind == FileType::Directory) {
        // Another mount is not entered; what vanishes meanwhile is nobody's.
        let Ok(below) = fs::open_dir_below(directory, &entry.name) else { continue };
        if let Some(path) = lost.remove(&fs::fstat(below.as_fd())?.st_ino) {
            found.insert(path, fs::open_dir(below.as_fd(), b".")?);
        }
        if lost.is_empty() {
            return Ok(());
        }
        search(below.as_fd(), lost, found)?;
    }
    Ok(())
}
