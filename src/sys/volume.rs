//! File systems: which one a file is on, what it can do, and numbers that it carries.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{Called, SysResult, check};
use super::fs::{file_system, fstat};

/// The type of a file's file system where it matters here, as mountinfo names it; `other` else. statfs(2).
pub fn kind(file: BorrowedFd<'_>) -> SysResult<&'static str> {
    let known: [(u64, &str); 10] = [
        (0x794c_7630, "overlay"),
        (0x6969, "nfs"),
        (0x6573_5546, "fuse"),
        (0x4d44, "vfat"),
        (0x2011_bab0, "exfat"),
        (0xfe53_4d42, "cifs"),
        (0x0102_1997, "9p"),
        (0xf15f, "ecryptfs"),
        (0x0102_1994, "tmpfs"),
        (0xef53, "ext4"),
    ];
    let found = file_system(file)?;
    Ok(known.iter().find(|(magic, _)| *magic == found).map_or("other", |(_, name)| name))
}

/// `struct fsxattr`, ioctl_xfs_fsgetxattr(2).
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `struct fsuuid2`, ioctl_fs(2): length and value.
type FsUuid = [u8; 17];

/// musl has requests of ioctl(2) as `int`.
#[allow(clippy::cast_possible_wrap, clippy::cast_lossless, reason = "all 32 bits count, whatever their type")]
const fn request(number: u32) -> libc::Ioctl {
    number as libc::Ioctl
}

const FS_IOC_GETFSUUID: libc::Ioctl = request(0x8011_1500);

/// The number that the file system carries itself, in hexadecimal: unlike its device number it stays with the next mount.
/// `None` where it has none, and before Linux 6.9.
pub fn file_system_id(file: BorrowedFd<'_>) -> Option<String> {
    let mut value: FsUuid = [0; 17];
    // SAFETY: the descriptor is borrowed and `value` is the 17-byte structure that this request writes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFSUUID, &raw mut value) };
    let uuid = value.get(1..1 + usize::from(value[0])).filter(|uuid| result == 0 && uuid.iter().any(|b| *b != 0))?;
    Some(uuid.iter().map(|b| format!("{b:02x}")).collect())
}

const FS_IOC_FSGETXATTR: libc::Ioctl = request(0x801c_581f);
const FS_IOC_FSSETXATTR: libc::Ioctl = request(0x401c_5820);

/// The project id (quota), 0 where there is none.
pub fn project(file: BorrowedFd<'_>) -> u32 {
    let mut value = FsXattr::default();
    // SAFETY: the descriptor is borrowed and `value` is the 28-byte structure that this request writes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut value) };
    if result == 0 { value.projid } else { 0 }
}

/// Sets the project id.
pub fn set_project(file: BorrowedFd<'_>, project: u32) -> SysResult<()> {
    let mut value = FsXattr::default();
    // SAFETY: as in `project`; the second request only reads the structure.
    let result = unsafe {
        match libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut value) {
            0 => {
                value.projid = project;
                libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const value)
            }
            failed => failed,
        }
    };
    check(result.into(), || format!("ioctl([{}], FS_IOC_FSSETXATTR)", file.as_raw_fd())).map(drop)
}

const EXT4_IOC_CHECKPOINT: libc::Ioctl = request(0x4004_662b);
const EXT4_IOC_CHECKPOINT_FLAG_DRY_RUN: u32 = 4;

/// Whether the file system is ext4 with a journal: after a power cut it has all changes of names, sizes and times up to some
/// call, and none after it. `false` also where the kernel does not say: root of the machine is told by `EXT4_IOC_CHECKPOINT`
/// (Linux 5.14), others by the directory that a journal inside the file system has in proc.
pub fn has_ext4_journal(file: BorrowedFd<'_>) -> bool {
    if kind(file) != Ok("ext4") {
        return false;
    }
    let flags = EXT4_IOC_CHECKPOINT_FLAG_DRY_RUN;
    // SAFETY: the descriptor is borrowed, and the request reads the one number; with this flag it does nothing.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_CHECKPOINT, &raw const flags) };
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        _ if result == 0 => true,
        Some(Errno::PERM) => journal_in_proc(file).unwrap_or(false),
        _ => false,
    }
}

fn journal_in_proc(file: BorrowedFd<'_>) -> Option<bool> {
    let device = fstat(file).ok()?.st_dev;
    let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let name = std::fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned();
    Some(std::path::Path::new(&format!("/proc/fs/jbd2/{name}-8")).exists())
}

/// Takes the file away from a loop device, loop(4) LOOP_CLR_FD.
pub fn detach_loop(device: &std::path::Path) -> SysResult<()> {
    const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
    let call = || format!("ioctl({}, LOOP_CLR_FD)", device.display());
    let file = rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).called(call)?;
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_CLR_FD, 0) };
    check(result.into(), call).map(drop)
}
