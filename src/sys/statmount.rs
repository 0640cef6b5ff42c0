//! The mounts at and below a directory, listmount(2) and statmount(2), Linux 6.8: whatever else a host has mounted is not
//! written out as text first.

use std::ffi::{CStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};

use super::mountinfo::Mount;

/// The same numbers on every architecture.
const STATMOUNT: libc::c_long = 457;
const LISTMOUNT: libc::c_long = 458;
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
const STATMOUNT_MNT_POINT: u64 = 0x10;
const STATMOUNT_FS_TYPE: u64 = 0x20;
/// Ids asked for at once.
const IDS: usize = 256;
/// Bytes for the two strings; a longer mount point is left to mountinfo.
const STRINGS: usize = 4096;

/// struct mnt_id_req of linux/mount.h, as it was at first.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    /// What is wanted, or the last id that is known.
    parameter: u64,
}

/// struct statmount of linux/mount.h; offsets count from `strings`.
#[repr(C)]
struct Answer {
    unused_before: [u32; 9],
    kind: u32,
    unused_between: [u32; 17],
    point: u32,
    unused_behind: [u32; 100],
    strings: [u8; STRINGS],
}

const _: () = assert!(std::mem::offset_of!(Answer, kind) == 36);
const _: () = assert!(std::mem::offset_of!(Answer, point) == 108);
const _: () = assert!(std::mem::offset_of!(Answer, strings) == 512);

/// The mounts whose mount point is `directory`, which is open as `handle`, or lies below it. None: the kernel does not tell.
pub fn at_and_below(directory: &Path, handle: BorrowedFd<'_>) -> Option<Vec<Mount>> {
    let wanted = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
    let own = statx(handle, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    if own.stx_mask & STATX_MNT_ID_UNIQUE == 0 {
        return None;
    }
    let mut ids = below(own.stx_mnt_id)?;
    if own.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        ids.push(own.stx_mnt_id);
    }
    let mut found = Vec::new();
    for id in ids {
        // One that is unmounted meanwhile is none.
        let Some(mount) = look(id)? else { continue };
        if mount.point.starts_with(directory) {
            found.push(mount);
        }
    }
    Some(found)
}

/// Ids of the mounts below another.
fn below(mount: u64) -> Option<Vec<u64>> {
    let mut found: Vec<u64> = Vec::new();
    loop {
        let request = Request::new(mount, found.last().copied().unwrap_or(0));
        let mut ids = [0_u64; IDS];
        // SAFETY: the request has the size that it names, and the kernel writes no more ids than it is told there is room for.
        let count = unsafe { libc::syscall(LISTMOUNT, &raw const request, ids.as_mut_ptr(), IDS, 0) };
        let count = usize::try_from(count).ok()?;
        found.extend_from_slice(&ids[..count]);
        if count < IDS {
            return Some(found);
        }
    }
}

/// One mount; the inner none: it is gone.
fn look(mount: u64) -> Option<Option<Mount>> {
    let request = Request::new(mount, STATMOUNT_MNT_POINT | STATMOUNT_FS_TYPE);
    let mut answer = std::mem::MaybeUninit::<Answer>::zeroed();
    // SAFETY: the request has the size that it names, and the kernel writes no more than the size of the answer.
    let result = unsafe { libc::syscall(STATMOUNT, &raw const request, answer.as_mut_ptr(), size_of::<Answer>(), 0) };
    if result != 0 {
        let gone = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT);
        return gone.then_some(None);
    }
    // SAFETY: zeros and numbers are a valid answer.
    let answer = unsafe { answer.assume_init_ref() };
    let point = PathBuf::from(OsString::from_vec(answer.string(answer.point)?.to_bytes().to_vec()));
    Some(Some(Mount { point, kind: answer.string(answer.kind)?.to_string_lossy().into_owned() }))
}

impl Request {
    fn new(mount: u64, parameter: u64) -> Request {
        #[expect(clippy::cast_possible_truncation, reason = "24")]
        let size = size_of::<Request>() as u32;
        Request { size, spare: 0, mount, parameter }
    }
}

impl Answer {
    fn string(&self, offset: u32) -> Option<&CStr> {
        CStr::from_bytes_until_nul(self.strings.get(usize::try_from(offset).ok()?..)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::mountinfo;

    #[test]
    fn the_kernel_tells_what_its_text_tells() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let release: Vec<u32> = release.split(['.', '-']).take(2).map(|number| number.parse().unwrap()).collect();
        for directory in ["/", "/proc", "/sys", "/dev", "/usr"] {
            let handle = std::fs::File::open(directory).unwrap();
            let Some(mut told) = at_and_below(Path::new(directory), handle.as_fd()) else {
                assert!(release[..] < [6, 8][..], "Linux {release:?} has the calls");
                return;
            };
            let mut text = mountinfo::at_and_below(Path::new(directory)).unwrap();
            for mounts in [&mut told, &mut text] {
                // Only the text names a subtype.
                mounts.iter_mut().for_each(|m| m.kind.truncate(m.kind.find('.').unwrap_or(m.kind.len())));
                mounts.sort_by(|a, b| (&a.point, &a.kind).cmp(&(&b.point, &b.kind)));
            }
            // A mount of the whole namespace's root stands on a root of its own, which only the text tells.
            text.retain(|m| told.contains(m) || m.point != Path::new("/"));
            assert_eq!(told, text, "{directory}");
        }
    }
}
