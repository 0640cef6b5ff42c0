//! Mount points that a root lacks, made in it while any command runs there, for all that run at the same time.
//!
//! A journal in dropcloth's state directory names each before it is made. Every command holds a shared lock; whoever is the
//! last removes what is still as it was made. A command that was killed is no longer a holder, so the next one, or `dropcloth
//! recover`, removes its points too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};
use crate::image::{Image, Inside};
use crate::sys::fs::{self, Times};

/// One point.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Point {
    path: Inside,
    directory: bool,
    /// Inode number; 0: the maker may have died before or after it was made.
    inode: u64,
    /// Times of the directory it is in, before and after it was made.
    before: Times,
    after: Times,
}

/// What has to be there: the mode of a directory, nothing for a file.
pub type Wanted = BTreeMap<Inside, Option<u32>>;

/// The points of a root, held by this process.
pub struct Points {
    directory: PathBuf,
    name: String,
    /// The shared lock.
    users: File,
}

impl Points {
    /// Makes what is `wanted` and `image` lacks, and holds it.
    pub fn take(state: &Path, image: &Image, wanted: &Wanted) -> Result<Points> {
        let doing = || format!("cannot write to {}", state.display());
        let directory = state.join("points");
        std::fs::create_dir_all(&directory).doing(doing)?;
        let name = name(image);
        let mut journal = Journal::lock(&directory, &name)?;
        let users = open(&directory.join(format!("{name}.users")))?;
        // Nobody else holds any: what the journal still has is a dead one's.
        if fs::try_lock(users.as_fd(), true)? {
            journal.remove_all(image.directory())?;
        }
        fs::lock_shared(users.as_fd())?;
        journal.make(image, wanted)?;
        Ok(Points { directory, name, users })
    }

    /// Lets go; the last one removes the points.
    pub fn release(self, image: &Image) -> Result<()> {
        let mut journal = Journal::lock(&self.directory, &self.name)?;
        if fs::try_lock(self.users.as_fd(), true)? {
            journal.remove_all(image.directory())?;
            journal.forget(&self.directory, &self.name)?;
        }
        Ok(())
    }

    /// Removes what dead commands left in `image`. Returns whether there was anything.
    pub fn recover(state: &Path, image: &Image) -> Result<bool> {
        let (directory, name) = (state.join("points"), name(image));
        if !directory.join(format!("{name}.json")).exists() {
            return Ok(false);
        }
        let mut journal = Journal::lock(&directory, &name)?;
        let users = open(&directory.join(format!("{name}.users")))?;
        if !fs::try_lock(users.as_fd(), true)? {
            return Ok(false);
        }
        journal.remove_all(image.directory())?;
        journal.forget(&directory, &name)?;
        Ok(true)
    }
}

/// By what stays the same over a reboot where the file system can tell it.
fn name(image: &Image) -> String {
    let system = fs::file_system_id(image.directory()).unwrap_or_else(|| format!("{:x}", image.identity().device));
    let plain: String = system.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{plain}-{}", image.identity().inode)
}

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).doing(|| format!("cannot open {}", path.display()))
}

/// The journal, locked against every other process.
struct Journal {
    file: File,
    points: Vec<Point>,
}

impl Journal {
    fn lock(directory: &Path, name: &str) -> Result<Journal> {
        let path = directory.join(format!("{name}.json"));
        loop {
            let mut file = open(&path)?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
            // It may have been removed while this process waited.
            let same = |a: &rustix::fs::Stat, b: &rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
            match rustix::fs::stat(&path) {
                Ok(now) if same(&now, &fs::fstat(file.as_fd())?) => {}
                _ => continue,
            }
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            // Half a journal was written by somebody who had made nothing yet.
            let points = serde_json::from_slice(&text).unwrap_or_default();
            return Ok(Journal { file, points });
        }
    }

    fn save(&mut self) -> Result<()> {
        let text = serde_json::to_vec(&self.points)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        Ok(self.file.write_all(&text)?)
    }

    fn forget(self, directory: &Path, name: &str) -> Result<()> {
        for ending in ["users", "json"] {
            let path = directory.join(format!("{name}.{ending}"));
            std::fs::remove_file(&path).doing(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    fn make(&mut self, image: &Image, wanted: &Wanted) -> Result<()> {
        let known = self.points.len();
        for (path, directory) in wanted {
            let Some((parent, name)) = path.split() else { continue };
            let there = match fs::open_dir_below(image.directory(), parent.bytes()) {
                Ok(parent) => fs::stat(parent.as_fd(), name)?.is_some(),
                Err(_) => false,
            };
            if !there {
                let nothing = Times { atime: (0, 0), mtime: (0, 0) };
                let directory = directory.is_some();
                self.points.push(Point { path: path.clone(), directory, inode: 0, before: nothing, after: nothing });
            }
        }
        if self.points.len() == known {
            return Ok(());
        }
        self.save()?;
        for place in known..self.points.len() {
            let mode = wanted.get(&self.points[place].path).copied().flatten().unwrap_or(0o644);
            let point = &mut self.points[place];
            point.make(image.directory(), mode).doing(|| format!("cannot make the mount point {}", point.path))?;
        }
        self.save()
    }

    /// Last made, first removed.
    fn remove_all(&mut self, root: BorrowedFd<'_>) -> Result<()> {
        while let Some(point) = self.points.pop() {
            point.remove(root).doing(|| format!("cannot remove the mount point {}", point.path))?;
        }
        self.save()
    }
}

impl Point {
    fn make(&mut self, root: BorrowedFd<'_>, mode: u32) -> Result<()> {
        let Some((parent, name)) = self.path.split() else { return Ok(()) };
        let parent = fs::open_dir_below(root, parent.bytes())?;
        self.before = Times::of(&fs::fstat(parent.as_fd())?);
        if self.directory {
            fs::mkdir(parent.as_fd(), name, mode)?;
            fs::chmod(parent.as_fd(), name, mode)?;
        } else {
            drop(fs::create(parent.as_fd(), name, mode)?);
        }
        self.inode = fs::stat(parent.as_fd(), name)?.map_or(0, |stat| stat.st_ino);
        self.after = Times::of(&fs::fstat(parent.as_fd())?);
        Ok(())
    }

    /// Removes it while it is as it was made: a file with something in it, or a directory, is the command's own.
    fn remove(&self, root: BorrowedFd<'_>) -> Result<()> {
        let Some((parent, name)) = self.path.split() else { return Ok(()) };
        let Ok(parent) = fs::open_dir_below(root, parent.bytes()) else { return Ok(()) };
        let Some(stat) = fs::stat(parent.as_fd(), name)? else { return Ok(()) };
        if self.inode != 0 && stat.st_ino != self.inode {
            return Ok(());
        }
        let now = Times::of(&fs::fstat(parent.as_fd())?);
        let is_directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        let removed = match (self.directory, is_directory) {
            (true, true) => fs::rmdir(parent.as_fd(), name),
            (false, false) if stat.st_size == 0 => fs::unlink(parent.as_fd(), name),
            _ => return Ok(()),
        };
        match removed {
            // Filled by the command, or a mount of somebody else's: never through it.
            Err(error) if [libc::ENOTEMPTY, libc::EBUSY].contains(&error.errno) => return Ok(()),
            other => other?,
        }
        // Nothing came or went but the point: the directory is as old as before.
        if self.inode != 0 && now.mtime == self.after.mtime {
            fs::set_times_of(parent.as_fd(), Times { mtime: self.before.mtime, ..now })?;
        }
        Ok(())
    }
}
