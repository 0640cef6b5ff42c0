//! Copies of what is in a file: FICLONE, copy_file_range(2), and through memory.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::sys::SysResult;
use crate::sys::error::{Called, SysError};

/// Copies between two file systems, and remembers what has turned out not to work there.
#[derive(Default)]
pub struct Means {
    no_clone: AtomicBool,
    no_range: AtomicBool,
}

/// Copies the data of `from` to the new file `to`: a reflink where the file system can, copy_file_range(2) else, with holes
/// kept as holes.
pub fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> SysResult<()> {
    Means::default().copy(from, to, size)
}

impl Means {
    /// The same.
    pub fn copy(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> SysResult<()> {
        if size == 0 || self.reflink(from, to) {
            return Ok(());
        }
        let mut position = 0;
        // Most files have no hole, and are as long as what is written to them.
        let hole = |from, start| rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(start)).unwrap_or(size).min(size);
        if hole(from, 0) == size {
            position = self.copy_range(from, to, 0, size)?;
        }
        if position == size {
            return Ok(());
        }
        while position < size {
            let Ok(start) = rustix::fs::seek(from, rustix::fs::SeekFrom::Data(position)) else { break };
            let end = hole(from, start);
            self.copy_range(from, to, start, end)?;
            position = end;
        }
        rustix::fs::ftruncate(to, size).called(|| format!("ftruncate([{}])", to.as_raw_fd()))
    }

    fn reflink(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
        if self.no_clone.load(Ordering::Relaxed) {
            return false;
        }
        let result = rustix::fs::ioctl_ficlone(to, from);
        if matches!(result, Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY)) {
            self.no_clone.store(true, Ordering::Relaxed);
        }
        result.is_ok()
    }

    /// Copies from `start` to `end`, and says up to where there was something.
    fn copy_range(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> SysResult<u64> {
        let (mut source, mut target) = (start, start);
        while source < end && !self.no_range.load(Ordering::Relaxed) {
            let length = usize::try_from(end - source).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
                Ok(0) | Err(Errno::INVAL) => break,
                Ok(_) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP) => self.no_range.store(true, Ordering::Relaxed),
                Err(errno) => return Err(SysError::new("copy_file_range()", errno.raw_os_error())),
            }
        }
        copy_through_memory(from, to, source, end)
    }
}

/// The same by read and write.
fn copy_through_memory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> SysResult<u64> {
    let mut buffer = vec![0_u8; usize::try_from(end - start).unwrap_or(usize::MAX).min(1 << 17)];
    let mut position = start;
    while position < end {
        let wish = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
        let length = rustix::io::pread(from, &mut buffer[..wish], position).called(|| "pread64()")?;
        if length == 0 {
            break;
        }
        let mut done = 0;
        while done < length {
            done += rustix::io::pwrite(to, &buffer[done..length], position + done as u64).called(|| "pwrite64()")?;
        }
        position += length as u64;
    }
    Ok(position)
}
