//! Copies a tree exactly, by handles: contents with their holes, owners, modes, attributes, times, flags, hard links,
//! devices.

mod crew;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Stat};

use super::marks;
use crate::error::{Doing, Result};
use crate::sys::fs::{self, Means, Times};
use crate::sys::{process, volume, xattr};
use crew::Folder;

/// An inode by device and number → the directory of its first copy, and the name there.
type Seen = HashMap<(u64, u64), (Arc<OwnedFd>, Vec<u8>)>;

/// Copies trees that may share hard links between them; large ones by several threads, which end with each call.
#[derive(Default)]
pub struct Copier {
    /// Inodes with several names.
    seen: Mutex<Seen>,
    /// `i` and `a` flags, set when all is copied: such a file takes no second name.
    protected: Mutex<Vec<(OwnedFd, u32)>>,
    means: Means,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copier {
    /// Copies `name` of `from` to the same name in `to`.
    pub fn tree(&self, from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>) -> Result<()> {
        let Some(stat) = fs::stat(from, name)? else { return Ok(()) };
        // A directory is held open for each level, and for each that has files with several names.
        process::raise_file_limit();
        let copied = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            fs::mkdir(to, name, 0o700)?;
            crew::copy(self, Folder::new(fs::open_dir(from, name)?, fs::open_dir(to, name)?, stat))
        } else {
            self.entry(from, name, &stat, &Arc::new(fs::open_dir(to, b".")?))
        };
        copied.doing(|| format!("cannot copy {}", name.escape_ascii()))
    }

    /// Copies what is in `from`, and its own attributes, to the existing directory `to`.
    pub fn contents(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
        process::raise_file_limit();
        let stat = fs::fstat(from)?;
        crew::copy(self, Folder::new(fs::open_dir(from, b".")?, fs::open_dir(to, b".")?, stat))
    }

    /// Sets the flags that forbid changes. To be called when everything is copied.
    pub fn finish(self) -> Result<()> {
        for (file, flags) in &*locked(&self.protected) {
            let now = fs::flags(file.as_fd())?.unwrap_or(0);
            fs::set_flags(file.as_fd(), now | flags)?;
        }
        Ok(())
    }

    /// Copies what is no directory.
    fn entry(&self, from: BorrowedFd<'_>, name: &[u8], stat: &Stat, into: &Arc<OwnedFd>) -> Result<()> {
        if stat.st_nlink < 2 {
            let made = make(from, name, stat, into.as_fd())?;
            return self.fill(from, name, stat, into.as_fd(), made);
        }
        // Held until the first copy has a name: two threads may come to two names of one file.
        let mut seen = locked(&self.seen);
        if let Some((directory, first)) = seen.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(fs::link(directory.as_fd(), first, into.as_fd(), name)?);
        }
        let made = make(from, name, stat, into.as_fd())?;
        seen.insert((stat.st_dev, stat.st_ino), (Arc::clone(into), name.to_vec()));
        drop(seen);
        self.fill(from, name, stat, into.as_fd(), made)
    }

    /// Content and attributes of a new entry.
    fn fill(
        &self,
        from: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        to: BorrowedFd<'_>,
        made: Option<(OwnedFd, OwnedFd)>,
    ) -> Result<()> {
        let Some((source, target)) = made else { return attributes_by_name(from, name, stat, to) };
        self.means.copy(source.as_fd(), target.as_fd(), stat.st_size.cast_unsigned())?;
        self.attributes(source.as_fd(), stat, target)
    }

    /// Attributes of an open file or directory: owner first (chown clears set-uid bits and file capabilities), then mode and
    /// attributes, flags, times last.
    fn attributes(&self, source: BorrowedFd<'_>, stat: &Stat, target: OwnedFd) -> Result<()> {
        let new = fs::fstat(target.as_fd())?;
        let owner = (new.st_uid, new.st_gid) != (stat.st_uid, stat.st_gid);
        if owner {
            fs::fchown(target.as_fd(), stat.st_uid, stat.st_gid)?;
        }
        if owner || new.st_mode != stat.st_mode {
            fs::fchmod(target.as_fd(), stat.st_mode)?;
        }
        copy_attributes(source, b"", target.as_fd())?;
        let (wanted, project) = (fs::flags(source)?.unwrap_or(0), volume::project(source));
        if project != 0 {
            volume::set_project(target.as_fd(), project)?;
        }
        let kept = wanted & marks::USER_FLAGS & !marks::PROTECTED_FLAGS;
        if kept != 0
            && let Some(now) = fs::flags(target.as_fd())?.filter(|now| kept & !now != 0)
        {
            fs::set_flags(target.as_fd(), now | kept)?;
        }
        fs::set_times_of(target.as_fd(), Times::of(stat))?;
        let protection = wanted & marks::PROTECTED_FLAGS;
        if protection != 0 && fs::flags(target.as_fd())?.is_some() {
            locked(&self.protected).push((target, protection));
        }
        Ok(())
    }
}

/// Makes the entry. A regular file is open then, in the original and in the copy.
fn make(from: BorrowedFd<'_>, name: &[u8], stat: &Stat, to: BorrowedFd<'_>) -> Result<Option<(OwnedFd, OwnedFd)>> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let source = fs::open_read(from, name)?;
            return Ok(Some((source, fs::create(to, name, stat.st_mode & 0o777)?)));
        }
        FileType::Symlink => fs::symlink(&fs::readlink(from, name)?, to, name)?,
        _ => fs::mknod(to, name, stat.st_mode, stat.st_rdev)?,
    }
    Ok(None)
}

/// Attributes of a link, device, fifo or socket, which cannot be opened.
fn attributes_by_name(from: BorrowedFd<'_>, name: &[u8], stat: &Stat, to: BorrowedFd<'_>) -> Result<()> {
    fs::chown(to, name, stat.st_uid, stat.st_gid)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        fs::chmod(to, name, stat.st_mode)?;
    }
    copy_attributes(from, name, to)?;
    Ok(fs::set_times(to, name, Times::of(stat))?)
}

/// Extended attributes of the entry; without a name, of the open file itself.
fn copy_attributes(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>) -> Result<()> {
    for attribute in xattr::list(from, name)?.iter().filter(|attribute| !marks::is_acl_view(attribute)) {
        let Some(value) = xattr::get(from, name, attribute)? else { continue };
        match xattr::set(to, name, attribute, &value) {
            Err(error) if error.errno == libc::EOPNOTSUPP && marks::is_of_one_file_system(attribute) => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::*;

    /// Sixty directories, one in the other by fives, with twenty files each; every seventh has a second name elsewhere.
    fn grow(top: &Path) {
        for number in 0..60 {
            let below: std::path::PathBuf = (0..=number % 5).map(|level| format!("{}-{level}", number / 5)).collect();
            let directory = top.join(below);
            std::fs::create_dir_all(&directory).unwrap();
            for file in 0..20 {
                let path = directory.join(format!("f{file}"));
                std::fs::write(&path, vec![b'x'; file * 997]).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o4600 | u32::try_from(file).unwrap()))
                    .unwrap();
                if file % 7 == 0 {
                    std::fs::hard_link(&path, top.join(format!("l{number}-{file}"))).unwrap();
                }
            }
            std::os::unix::fs::symlink(format!("f{number}"), directory.join("link")).unwrap();
            std::fs::File::create(directory.join("hole")).unwrap().write_all_at(b"end", 1 << 20).unwrap();
            // As many blocks as its size has, or more, and a hole all the same.
            let hole = std::fs::File::create(directory.join("preallocated")).unwrap();
            hole.write_all_at(&[b'x'; 4096], 1 << 16).unwrap();
            rustix::fs::fallocate(&hole, rustix::fs::FallocateFlags::KEEP_SIZE, 1 << 17, 1 << 17).unwrap();
        }
    }

    /// Path → mode, size, whether it has holes, times, content or target, and the first path of the same inode.
    fn told(top: &Path) -> BTreeMap<std::path::PathBuf, String> {
        let (mut all, mut todo, mut names) = (BTreeMap::new(), vec![top.to_owned()], BTreeMap::new());
        while let Some(path) = todo.pop() {
            let (data, name) = (path.symlink_metadata().unwrap(), path.strip_prefix(top).unwrap().to_owned());
            let content = match data.file_type() {
                kind if kind.is_dir() => {
                    let mut below: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
                    below.sort();
                    todo.extend(below);
                    Vec::new()
                }
                kind if kind.is_symlink() => path.read_link().unwrap().into_os_string().into_encoded_bytes(),
                _ => std::fs::read(&path).unwrap(),
            };
            let first = names.entry(data.ino()).or_insert_with(|| name.clone()).clone();
            let first_hole = (data.is_file() && data.len() > 0)
                .then(|| rustix::fs::seek(std::fs::File::open(&path).unwrap(), rustix::fs::SeekFrom::Hole(0)).unwrap());
            let holes = first_hole.is_some_and(|hole| hole < data.len());
            let times = (data.mtime(), data.mtime_nsec());
            let digest = crate::changes::Digest::of(&content);
            all.insert(name, format!("{:o} {} {holes} {times:?} {digest:?} {first:?}", data.mode(), data.len()));
        }
        all
    }

    #[test]
    fn a_large_tree_is_copied_by_several_threads_with_its_links_holes_and_times() {
        let directory = tempfile::tempdir().unwrap();
        let [original, copy] = ["original", "copy"].map(|name| directory.path().join(name));
        std::fs::create_dir(&original).unwrap();
        std::fs::create_dir(&copy).unwrap();
        grow(&original);
        let [from, to] = [&original, &copy].map(|path| std::fs::File::open(path).unwrap());
        let copier = Copier::default();
        copier.contents(from.as_fd(), to.as_fd()).unwrap();
        copier.finish().unwrap();
        let expected = told(&original);
        assert!(expected.len() > 1300 && expected.values().any(|told| told.contains(" true ")));
        assert_eq!(told(&copy), expected);
        // An error ends all threads: in a directory that is come to when there are several, a name is taken.
        let taken = directory.path().join("taken");
        std::fs::create_dir_all(taken.join("0-0")).unwrap();
        let to = std::fs::File::open(&taken).unwrap();
        for number in 0..400 {
            std::fs::write(original.join(format!("more{number}")), "").unwrap();
        }
        let error = Copier::default().contents(from.as_fd(), to.as_fd()).unwrap_err();
        assert!(format!("{error:#}").contains("EEXIST"), "{error:#}");
    }
}
