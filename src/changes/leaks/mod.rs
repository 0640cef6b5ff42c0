//! Traces of the run in what would be committed: the mirror's path in a lock file, a password in a log, a copied secret.

mod along;
mod search;

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use super::record::Hex;
use crate::error::Result;
use crate::image::Inside;
use crate::sys::fs::{self, Times};

pub use along::{Feed, Needles, along};

/// Something that must not be in a committed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needle {
    /// What it is, in words.
    pub what: String,
    /// Its bytes.
    pub text: Hex,
}

impl Needle {
    /// A needle; none when the bytes are too few to mean anything.
    pub fn new(what: impl Into<String>, text: &[u8]) -> Option<Needle> {
        let text = text.trim_ascii();
        (text.len() >= SHORTEST)
            .then(|| Needle { what: what.into(), text: Hex(text[..text.len().min(LONGEST)].to_vec()) })
    }
}

/// Shorter texts are found everywhere by chance.
const SHORTEST: usize = 5;
/// The first bytes of a whole file are enough to know it again.
const LONGEST: usize = 256;
/// Shorter overrides are no trace: `#!/bin/sh` and an exit.
const SHORTEST_OVERRIDE: usize = 20;

/// Where a trace was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// The file.
    pub path: Inside,
    /// Line, counted from 1; none in a file that is not text, and in a link.
    pub line: Option<u64>,
    /// Byte, counted from 0.
    pub offset: u64,
    /// What was found.
    pub what: String,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.what),
            None => write!(f, "{} (byte {}): {}", self.path, self.offset, self.what),
        }
    }
}

/// A trace of a secret, found right after the step that had it: the secret itself is not kept for the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    leak: Leak,
    /// The file as it was: a later step that wrote to it was searched too.
    size: i64,
    mtime: (i64, i64),
}

impl Remembered {
    /// Remembers `leak` in `upper`.
    pub fn new(upper: BorrowedFd<'_>, leak: Leak) -> Result<Option<Remembered>> {
        let stat = stat_below(upper, &leak.path)?;
        Ok(stat.map(|stat| Remembered { leak, size: stat.st_size, mtime: Times::of(&stat).mtime }))
    }

    /// The trace, if the file is still the same.
    pub fn still(&self, upper: BorrowedFd<'_>) -> Result<Option<Leak>> {
        let stat = stat_below(upper, &self.leak.path)?;
        let same = stat.is_some_and(|s| s.st_size == self.size && Times::of(&s).mtime == self.mtime);
        Ok(same.then(|| self.leak.clone()))
    }
}

/// What is at `path` below a directory, no link followed.
pub(super) fn stat_below(upper: BorrowedFd<'_>, path: &Inside) -> Result<Option<Stat>> {
    let Some((parent, name)) = path.split() else { return Ok(None) };
    match fs::open_dir_below(upper, parent.bytes()) {
        Ok(directory) => Ok(fs::stat(directory.as_fd(), name)?),
        Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&error.errno) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The contents of an override: a step that copies it leaves them in the image.
pub fn override_needle(path: &Inside, text: &[u8]) -> Option<Needle> {
    let long = text.trim_ascii().len() >= SHORTEST_OVERRIDE;
    Needle::new(format!("the contents of {path}, which was laid over"), text).filter(|_| long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_short_to_mean_anything_is_no_needle() {
        assert_eq!(Needle::new("a", b" abc\n"), None);
        assert_eq!(Needle::new("a", &[b'x'; 1000]).unwrap().text.0.len(), LONGEST);
    }
}
