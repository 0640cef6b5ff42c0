//! What is in a directory: getdents64(2).

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::SysResult;
use crate::sys::error::Called;

/// One entry of a directory: name, and whether the kernel says it is a directory or a character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name, raw bytes.
    pub name: Vec<u8>,
    /// Type as readdir(3) gives it.
    pub kind: rustix::fs::FileType,
}

/// All entries but `.` and `..`, sorted by name. Reads through the open file itself, from the beginning.
pub fn entries(directory: BorrowedFd<'_>) -> SysResult<Vec<Entry>> {
    let call = || format!("getdents64([{}])", directory.as_raw_fd());
    // Two pages hold what most directories have; the rest of the stack would have to be touched page by page.
    let mut small = [const { MaybeUninit::uninit() }; 1 << 13];
    let mut found = Vec::new();
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0)).called(call)?;
    if !read_entries(directory, &mut small, ONCE, &mut found).called(call)? {
        let mut large = Vec::with_capacity(1 << 16);
        read_entries(directory, large.spare_capacity_mut(), usize::MAX, &mut found).called(call)?;
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Fillings of the buffer: one, and the one that says that there is no more.
const ONCE: usize = 2;

/// Reads on in the directory, as often as the buffer is filled `limit` times. `true`: to its end.
fn read_entries(
    directory: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    limit: usize,
    found: &mut Vec<Entry>,
) -> rustix::io::Result<bool> {
    let mut raw = rustix::fs::RawDir::new(directory, buffer);
    let mut fillings = 0;
    loop {
        if raw.is_buffer_empty() {
            if fillings == limit {
                return Ok(false);
            }
            fillings += 1;
        }
        let Some(entry) = raw.next() else { return Ok(true) };
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push(Entry { name: name.to_vec(), kind: entry.file_type() });
        }
    }
}
