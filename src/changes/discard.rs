//! Removes a tree of dropcloth's own: never through a mount, never through a link, whatever flags are set in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;

use super::marks::PROTECTED_FLAGS;
use crate::error::{Doing, Result};
use crate::sys::{SysResult, fs};

/// Removes the directory `name` and everything below it. One that is not there is no error; another file system mounted
/// below it is.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let doing = || format!("cannot remove the transaction's directory {}", name.escape_ascii());
    let Some(stat) = fs::stat(parent, name).doing(doing)? else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return unlink_anyway(parent, name).doing(doing);
    }
    // openat2 with NO_XDEV: a mount point below is refused, not entered.
    let top = fs::open_dir_below(parent, name).doing(doing)?;
    empty(top).doing(doing)?;
    remove_directory(parent, name).doing(doing)
}

/// How many directories are held open on the way down; a deeper tree is cut there and the rest moved up.
const DEPTH: usize = 128;

struct Frame {
    directory: OwnedFd,
    name: Vec<u8>,
    /// Directories in it that were not empty.
    todo: Vec<Vec<u8>>,
}

impl Frame {
    /// Removes all but the directories that are not empty.
    fn enter(directory: OwnedFd, name: Vec<u8>) -> Result<Frame> {
        let mut todo = Vec::new();
        for entry in fs::entries(directory.as_fd())? {
            let kind = match entry.kind {
                FileType::Unknown => fs::stat(directory.as_fd(), &entry.name)?
                    .map_or(FileType::Unknown, |s| FileType::from_raw_mode(s.st_mode)),
                kind => kind,
            };
            if kind != FileType::Directory {
                unlink_anyway(directory.as_fd(), &entry.name)?;
            } else if remove_directory(directory.as_fd(), &entry.name).is_err() {
                todo.push(entry.name);
            }
        }
        Ok(Frame { directory, name, todo })
    }
}

/// Removes everything in `directory`, without recursion: a step can make trees deeper than any stack.
fn empty(directory: OwnedFd) -> Result<()> {
    let mut stack = vec![Frame::enter(directory, Vec::new())?];
    let mut moved = 0_u64;
    while let Some(frame) = stack.last_mut() {
        let Some(name) = frame.todo.pop() else {
            let done = stack.pop().map(|f| f.name).unwrap_or_default();
            if let Some(parent) = stack.last() {
                remove_directory(parent.directory.as_fd(), &done)?;
            }
            continue;
        };
        let next = fs::open_dir_below(frame.directory.as_fd(), &name)?;
        if stack.len() < DEPTH {
            stack.push(Frame::enter(next, name)?);
            continue;
        }
        moved += 1;
        let up = format!(".dropcloth-deep-{moved}").into_bytes();
        let last = stack.len() - 1;
        clear(stack[last].directory.as_fd(), &name);
        fs::rename(stack[last].directory.as_fd(), &name, stack[0].directory.as_fd(), &up)?;
        stack[0].todo.push(up);
    }
    Ok(())
}

fn unlink_anyway(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<()> {
    match fs::unlink(directory, name) {
        Err(error) if [libc::EPERM, libc::EACCES].contains(&error.errno) => {
            clear(directory, name);
            fs::unlink(directory, name)
        }
        other => other,
    }
}

fn remove_directory(directory: BorrowedFd<'_>, name: &[u8]) -> SysResult<()> {
    match fs::rmdir(directory, name) {
        Err(error) if [libc::EPERM, libc::EACCES].contains(&error.errno) => {
            clear(directory, name);
            fs::rmdir(directory, name)
        }
        other => other,
    }
}

/// Clears `i` and `a` of the entry and of its directory; the unlink that follows tells whether that was enough.
fn clear(directory: BorrowedFd<'_>, name: &[u8]) {
    let entry = fs::open_read(directory, name).ok();
    for file in entry.iter().map(AsFd::as_fd).chain(std::iter::once(directory)) {
        if let Ok(Some(flags)) = fs::flags(file)
            && flags & PROTECTED_FLAGS != 0
        {
            let _ = fs::set_flags(file, flags & !PROTECTED_FLAGS);
        }
    }
}
