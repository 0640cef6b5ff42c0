//! Mount points that a root lacks, made in it for as long as a step runs: empty files and directories that are gone again
//! afterwards, with the times of the directories they were in.
//!
//! A list is written before the first is made, and again before the first is removed, so that whoever finds it can finish:
//! *making*: no step has run yet, everything goes; *made*: what the step left in one stays; *leaving*: the times that the
//! directories are to have at the end are known. Each is a file of its own with what it adds to those before, so that one that a
//! power cut tore leaves the one before it.
//!
//! Where nobody will write into one, all files are names of one empty file, as far as the file system and the directories let
//! them: a name costs half of what a file does, twice.

mod lists;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::changes::marks::PROTECTED_FLAGS;
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Inside;
use crate::sys::error::Called;
use crate::sys::fs::{self, Times};
use crate::sys::process;

pub use lists::{FILES, Journal, Sync};

/// The mode of a file.
const EMPTY: u32 = 0o644;

/// Sets the owner of an entry: the directory, the name, and what it is now.
pub type Give<'a> = dyn Fn(BorrowedFd<'_>, &[u8], &Stat) -> Result<()> + 'a;

/// Seconds and nanoseconds.
type Time = (i64, i64);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Making,
    Made,
    Leaving,
}

/// What is made, and where.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Points {
    #[serde(skip)]
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
    #[serde(skip)]
    after: Option<Time>,
    /// `i` and `a` flags that the step gave it.
    #[serde(skip)]
    flags: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Point {
    #[serde(rename = "p")]
    path: Inside,
    /// The mode of a directory; none: a file.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    directory: Option<u32>,
    /// 0: not known yet.
    #[serde(skip)]
    inode: u64,
}

/// What has to be made in a root, with the directories that it is made in.
pub struct Wanted<'a> {
    points: Points,
    open: Open<'a>,
    one_file: bool,
}

impl Wanted<'_> {
    /// Whether there is nothing to make.
    pub fn is_empty(&self) -> bool {
        self.points.made.is_empty()
    }

    /// All files may be one: nobody writes into them, but over them.
    pub fn as_one_file(self, one_file: bool) -> Self {
        Wanted { one_file, ..self }
    }

    /// Makes it; `give` sets the owner of a new entry. The process must have one thread. With a `journal` the list is there
    /// before. What was made before an error is removed again.
    pub fn make(mut self, journal: Option<Journal<'_>>, give: &Give<'_>) -> Result<Points> {
        self.points.save(journal)?;
        let umask = process::set_umask(0);
        let made = self.points.make_all(&mut self.open, self.one_file, give);
        process::set_umask(umask);
        match made.and_then(|()| self.points.save(journal)) {
            Ok(()) => Ok(self.points),
            Err(error) => {
                self.points.phase = Phase::Making;
                self.points.remove(self.open.root, journal)?;
                Err(error)
            }
        }
    }
}

impl Points {
    /// What has to be made in `root` so that these are there, each after the directory it is in: with a mode it is a directory,
    /// without one a file. Changes nothing.
    pub fn wanted(places: impl IntoIterator<Item = (Inside, Option<u32>)>, root: BorrowedFd<'_>) -> Result<Wanted<'_>> {
        let mut points = Points::default();
        let mut open = Open::of(root);
        let mut directories = BTreeSet::new();
        for (path, directory) in places {
            let Some((above, name)) = path.split() else { continue };
            if !directories.contains(&above) {
                let parent = open.at(&above)?;
                if fs::stat(parent, name)?.is_some() {
                    continue;
                }
                if let Entry::Vacant(place) = points.parents.entry(above) {
                    check_flags(parent, place.key(), &path)?;
                    place.insert(Parent::of(parent)?);
                }
            }
            if directory.is_some() {
                directories.insert(path.clone());
            }
            points.made.push(Point { path, directory, inode: 0 });
        }
        Ok(Wanted { points, open, one_file: false })
    }

    fn make_all(&mut self, open: &mut Open<'_>, one_file: bool, give: &Give<'_>) -> Result<()> {
        let mut first: Option<(Inside, u64)> = None;
        for point in &mut self.made {
            let doing = || format!("cannot make the mount point {}", point.path);
            let Some((above, name)) = point.path.split() else { continue };
            if let Some(mode) = point.directory {
                fs::mkdir(open.at(&above)?, name, mode).doing(doing)?;
                let stat = fs::fstat(open.at(&point.path)?).doing(doing)?;
                settle(open.at(&above)?, name, (mode, &stat), give).doing(doing)?;
                point.inode = stat.st_ino;
            } else if let Some((file, inode)) = &first
                && open.link(file, &above, name)?
            {
                point.inode = *inode;
            } else {
                let parent = open.at(&above)?;
                let file = fs::create(parent, name, EMPTY).doing(doing)?;
                let stat = fs::fstat(file.as_fd()).doing(doing)?;
                settle(parent, name, (EMPTY, &stat), give).doing(doing)?;
                point.inode = stat.st_ino;
                first = one_file.then(|| (point.path.clone(), stat.st_ino));
            }
        }
        // While the step runs the directories look as they did; at the end any other time is the step's own.
        for (path, parent) in &self.parents {
            fs::set_mtime_of(open.at(path)?, parent.before)?;
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
                let Some((directory, stat)) = open.get(path) else { continue };
                parent.after = Some(Times::of(stat).mtime).filter(|time| *time != parent.before);
                parent.flags = fs::flags(directory.as_fd())?.unwrap_or(0) & PROTECTED_FLAGS;
            }
            self.phase = Phase::Leaving;
            self.save(journal)?;
        }
        for (path, parent) in self.parents.iter().filter(|(_, parent)| parent.flags != 0) {
            open.get(path).map_or(Ok(()), |(directory, _)| protect(directory.as_fd(), 0, parent.flags))?;
        }
        let (mut gone, mut left) = (BTreeSet::new(), Vec::new());
        for point in self.made.iter().rev() {
            let above = point.path.parent();
            // Those in directories that were made, too, are on no list of directories yet when the making was interrupted.
            let opened = match open.get(&above) {
                None if self.phase == Phase::Making => fs::open_dir_below(root, above.bytes()).ok(),
                _ => None,
            };
            let Some(parent) = open.get(&above).map(|(parent, _)| parent).or(opened.as_ref()) else { continue };
            if point.remove(parent.as_fd()).doing(|| format!("cannot remove the mount point {}", point.path))? {
                gone.insert(&point.path);
            } else {
                left.push((above, point));
            }
        }
        for (path, parent) in self.parents.iter().rev().filter(|(path, _)| !gone.contains(path)) {
            let Some((directory, _)) = open.get(path) else { continue };
            let left = left.iter().filter(|(above, _)| above == path).map(|(_, point)| *point);
            parent.restore(directory.as_fd(), left)?;
        }
        Ok(())
    }

    /// The directories, wherever the step has moved them, as they are.
    fn open(&self, root: BorrowedFd<'_>) -> Result<BTreeMap<Inside, (OwnedFd, Stat)>> {
        let mut found = BTreeMap::new();
        let mut lost = BTreeMap::new();
        for (path, parent) in &self.parents {
            match fs::try_open_dir_below(root, path.bytes()) {
                Ok(directory) => {
                    let stat = fs::fstat(directory.as_fd())?;
                    if stat.st_ino == parent.inode {
                        found.insert(path.clone(), (directory, stat));
                    } else {
                        lost.insert(parent.inode, path.clone());
                    }
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => drop(lost.insert(parent.inode, path.clone())),
                Err(errno) => Err(errno).called(|| format!("openat2({:?})", path.to_string()))?,
            }
        }
        // A directory of ours can be found below its new place at once; the image is walked for those of it that were moved.
        if self.phase != Phase::Making && !lost.is_empty() {
            search(root, &mut lost, &mut found)?;
        }
        Ok(found)
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

    /// Gives `file`, which was made here, the name `name` in `above` too. `false`: the file system, or a directory with a project
    /// of its own, does not let it.
    fn link(&mut self, file: &Inside, above: &Inside, name: &[u8]) -> Result<bool> {
        self.at(above)?;
        let open = |path: &Inside| self.directories.get(path).map(AsFd::as_fd);
        let Some((from, file_name)) = file.split() else { return Ok(false) };
        let (Some(from), Some(to)) = (open(&from), open(above)) else { return Ok(false) };
        match fs::link(from, file_name, to, name) {
            Ok(()) => Ok(true),
            Err(error) if CANNOT_LINK.contains(&error.errno) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

const CANNOT_LINK: [i32; 6] = [libc::EXDEV, libc::EMLINK, libc::EPERM, libc::EACCES, libc::EOPNOTSUPP, libc::ENOSYS];

impl Parent {
    fn of(directory: BorrowedFd<'_>) -> Result<Parent> {
        let stat = fs::fstat(directory)?;
        Ok(Parent { inode: stat.st_ino, before: Times::of(&stat).mtime, after: None, flags: 0 })
    }

    /// Times and flags, after those of the directories below: one that stays (`left`) gives its own time to the one it is in.
    fn restore<'p>(&self, directory: BorrowedFd<'_>, left: impl Iterator<Item = &'p Point>) -> Result<()> {
        let mut time = self.after.unwrap_or(self.before);
        for point in left {
            let Some((_, name)) = point.path.split() else { continue };
            let stayed = fs::stat(directory, name)?.filter(|_| time == self.before);
            time = stayed.map_or(time, |stat| Times::of(&stat).mtime);
        }
        fs::set_mtime_of(directory, time)?;
        if self.flags != 0 {
            protect(directory, self.flags, self.flags)?;
        }
        Ok(())
    }
}

/// Gives a new entry mode and owner where it has others: the directory can hand down its group or its default list of rights.
fn settle(parent: BorrowedFd<'_>, name: &[u8], (mode, stat): (u32, &Stat), give: &Give<'_>) -> Result<()> {
    if stat.st_mode & 0o7777 != mode {
        fs::chmod(parent, name, mode)?;
    }
    give(parent, name, stat)
}

impl Point {
    /// Returns whether nothing has its name any more.
    fn remove(&self, parent: BorrowedFd<'_>) -> Result<bool> {
        let Some((_, name)) = self.path.split() else { return Ok(true) };
        let Some(stat) = fs::stat(parent, name)? else { return Ok(true) };
        if self.inode != 0 && stat.st_ino != self.inode {
            return Ok(false);
        }
        match (self.directory, FileType::from_raw_mode(stat.st_mode)) {
            (Some(_), FileType::Directory) => match fs::rmdir(parent, name) {
                // Filled by the step, or a mount of somebody else's: never through it.
                Err(error) if [libc::ENOTEMPTY, libc::EEXIST, libc::EBUSY].contains(&error.errno) => Ok(false),
                other => Ok(other.map(|()| true)?),
            },
            (None, FileType::RegularFile) if stat.st_size == 0 => Ok(fs::unlink(parent, name).map(|()| true)?),
            _ => Ok(false),
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

/// Looks for the lost directories below `directory`, on its own file system only.
fn search(
    directory: BorrowedFd<'_>,
    lost: &mut BTreeMap<u64, Inside>,
    found: &mut BTreeMap<Inside, (OwnedFd, Stat)>,
) -> Result<()> {
    for entry in fs::entries(directory)?.iter().filter(|entry| entry.kind == FileType::Directory) {
        // Another mount is not entered; what vanishes meanwhile is nobody's.
        let Ok(below) = fs::open_dir_below(directory, &entry.name) else { continue };
        let stat = fs::fstat(below.as_fd())?;
        if let Some(path) = lost.remove(&stat.st_ino) {
            found.insert(path, (fs::open_dir(below.as_fd(), b".")?, stat));
        }
        if lost.is_empty() {
            return Ok(());
        }
        search(below.as_fd(), lost, found)?;
    }
    Ok(())
}
