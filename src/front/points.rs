//! Mount points that a root lacks, made in it while any command runs there, for all that run at the same time.
//!
//! A folder for the root in dropcloth's state directory has a list of each command that had to make some. Every command holds a
//! shared lock; whoever is the last removes what is still as it was made. A command that was killed is no longer a holder, so
//! the next one, or `dropcloth recover`, removes its points too.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Fault, Result, refuse};
use crate::image::{Image, Inside};
use crate::sys::fs;
use crate::sys::volume;
use crate::transaction::journal::remove_if_there;
use crate::transaction::points::{FILES, Journal, Points as List, Sync};

/// What has to be there: the mode of a directory, nothing for a file.
pub type Wanted = BTreeMap<Inside, Option<u32>>;

/// The points of a root, held by this process.
pub struct Points {
    folder: Folder,
    /// The shared lock.
    users: File,
}

impl Points {
    /// Makes what is `wanted` and `image` lacks, and holds it.
    pub fn take(state: &Path, image: &Image, wanted: &Wanted) -> Result<Points> {
        let folder = Folder(path(state, image));
        let _lock = loop {
            folder.make(state)?;
            if let Some(lock) = folder.lock()? {
                break lock;
            }
        };
        let users = folder.users()?;
        // Nobody else holds any: what is there is a dead one's.
        if fs::try_lock(users.as_fd(), true)? {
            folder.remove_points(image)?;
        }
        fs::lock_shared(users.as_fd())?;
        folder.make_points(image, wanted)?;
        Ok(Points { folder, users })
    }

    /// Lets go; the last one removes the points.
    pub fn release(self, image: &Image) -> Result<()> {
        let lock = self.folder.lock()?;
        if lock.is_some() && fs::try_lock(self.users.as_fd(), true)? {
            self.folder.remove_points(image)?;
            self.folder.remove()?;
        }
        Ok(())
    }

    /// Removes what dead commands left in `image`. Returns whether there was anything.
    pub fn recover(state: &Path, image: &Image) -> Result<bool> {
        let folder = Folder(path(state, image));
        let Some(_lock) = folder.lock()? else { return Ok(false) };
        let free = fs::try_lock(folder.users()?.as_fd(), true)?;
        let found = free && folder.remove_points(image)?;
        if free {
            folder.remove()?;
        }
        Ok(found)
    }
}

/// By what stays the same over a reboot where the file system can tell it.
fn path(state: &Path, image: &Image) -> PathBuf {
    let system = volume::file_system_id(image.directory()).unwrap_or_else(|| format!("{:x}", image.identity().device));
    let plain: String = system.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    state.join("points").join(format!("{plain}-{}", image.identity().inode))
}

/// The lists of one root.
struct Folder(PathBuf);

impl Folder {
    /// Makes it; one that somebody else could write to is refused.
    fn make(&self, state: &Path) -> Result<()> {
        let doing = || format!("cannot write to {}", state.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).doing(doing)?;
        for path in [state, &self.0] {
            let found = std::fs::symlink_metadata(path).doing(doing)?;
            if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
                return refuse(
                    Fault::new(format!("cannot keep a journal in {}", path.display()))
                        .because("somebody else owns it or may write to it")
                        .hint("Name a directory of yours in $XDG_STATE_HOME."),
                );
            }
        }
        Ok(())
    }

    /// Under the lock, without users.
    fn remove(&self) -> Result<()> {
        for name in ["users", "lock"] {
            std::fs::remove_file(self.0.join(name)).doing(|| format!("cannot remove {}", self.0.display()))?;
        }
        match std::fs::remove_dir(&self.0) {
            // Somebody came between, and has a lock of his own in it.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.doing(|| format!("cannot remove {}", self.0.display())),
        }
    }

    fn open(&self, name: &str) -> std::io::Result<File> {
        File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(self.0.join(name))
    }

    /// Against every other process that makes or removes points. None: the folder went while this process waited.
    fn lock(&self) -> Result<Option<File>> {
        let file = match self.open("lock") {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.doing(|| format!("cannot open {}", self.0.display()))?,
        };
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        let now = std::fs::metadata(self.0.join("lock")).ok().map(|now| (now.dev(), now.ino()));
        let held = file.metadata()?;
        Ok(Some(file).filter(|_| now == Some((held.dev(), held.ino()))))
    }

    fn users(&self) -> Result<File> {
        self.open("users").doing(|| format!("cannot open {}", self.0.display()))
    }

    /// The lists by their numbers.
    fn lists(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn make_points(&self, image: &Image, wanted: &Wanted) -> Result<()> {
        let list = List::wanted(wanted.iter().map(|(path, mode)| (path.clone(), *mode)), image.directory())
            .doing(|| "cannot prepare the mount points")?;
        if list.is_empty() {
            return Ok(());
        }
        let path = self.0.join((self.lists()?.last().unwrap_or(&0) + 1).to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        // A sync for each of a framework's calls costs more than the call, and after a power cut it builds anew.
        let journal = File::open(&path)?;
        let journal = Journal { directory: journal.as_fd(), sync: Sync::Never };
        list.make(Some(journal), &|_, _, _| Ok(())).map(drop)
    }

    /// Last made, first removed. Returns whether there was anything.
    fn remove_points(&self, image: &Image) -> Result<bool> {
        let lists = self.lists()?;
        for number in lists.iter().rev() {
            let path = self.0.join(number.to_string());
            let directory = File::open(&path)?;
            if let Some(list) = List::load(directory.as_fd())? {
                list.remove(image.directory(), Some(Journal { directory: directory.as_fd(), sync: Sync::Never }))?;
            }
            for name in FILES {
                remove_if_there(directory.as_fd(), name)?;
            }
            std::fs::remove_dir(&path).doing(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(!lists.is_empty())
    }
}
