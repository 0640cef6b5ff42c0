//! Looks at one directory of the image for many names.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Stat;

use crate::error::Result;
use crate::image::Inside;
use crate::sys::fs;

/// A directory of the image, if it is there.
pub struct Lower {
    /// Where it is.
    pub path: Inside,
    directory: Option<OwnedFd>,
    /// Names looked for that were not there.
    missed: u32,
    /// All of its names, read when many were not there.
    names: Option<HashSet<Vec<u8>>>,
}

/// So many names that are not there cost as much as a look at all that are.
const MISSES: u32 = 8;
/// Bytes of a directory: a larger one costs more to read than what it saves.
const WIDE: i64 = 1 << 18;

impl Lower {
    /// Opens it.
    pub fn open(image: BorrowedFd<'_>, path: Inside) -> Result<Lower> {
        let directory = match fs::open_dir_below(image, path.bytes()) {
            Ok(directory) => Some(directory),
            Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&error.errno) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Lower { path, directory, missed: 0, names: None })
    }

    /// What `name` is in it.
    pub fn stat(&mut self, name: &[u8]) -> Result<Option<Stat>> {
        let Some(directory) = &self.directory else { return Ok(None) };
        if self.missed == MISSES && fs::fstat(directory.as_fd())?.st_size <= WIDE {
            self.names = Some(fs::entries(directory.as_fd())?.into_iter().map(|entry| entry.name).collect());
        }
        if self.names.as_ref().is_some_and(|names| !names.contains(name)) {
            self.missed += 1;
            return Ok(None);
        }
        let stat = fs::stat(directory.as_fd(), name)?;
        self.missed += u32::from(stat.is_none());
        Ok(stat)
    }
}
