//! A whole directory tree as plain data, so that two moments of it, or two trees, can be compared to the last detail.
//!
//! It shares no code with dropcloth: a mistake there must not hide itself here.

#![allow(dead_code, reason = "every test program takes in the whole module and uses its part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, Statx, StatxFlags};
use rustix::io::Errno;

/// The kernel's limit for one xattr's value and for a list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const XATTR_MAX: usize = 64 << 10;

/// The flags a person can set with chattr(1). The others of FS_IOC_GETFLAGS say how the file system stores the file
/// (extents, index, inline data), and differ between two files that nobody would call different.
const CHATTR_FLAGS: u32 = 0x0000_00ff // secrm unrm compr sync immutable append nodump noatime
    | 0x0000_0400 // nocomp
    | 0x0000_4000 // journal data
    | 0x0000_8000 // notail
    | 0x0001_0000 // dirsync
    | 0x0002_0000 // topdir
    | 0x0080_0000 // nocow
    | 0x0200_0000 // dax
    | 0x2000_0000 // project inherit
    | 0x4000_0000; // casefold

/// Everything below a directory, itself included under the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By path relative to the root, raw bytes as the kernel gave them.
    pub entries: BTreeMap<PathBuf, Entry>,
}

/// One name in the tree. Left out on purpose: atime and ctime, which reading and restoring change; a directory's size
/// and link count, which are the file system's book-keeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: FileType,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner as this process sees it.
    pub uid: u32,
    /// Group as this process sees it.
    pub gid: u32,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Major and minor of a device node, else zeros.
    pub rdev: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Where a symlink points.
    pub target: Option<PathBuf>,
    /// Hash of a file's content; the error's name where it cannot be read.
    pub content: Option<Result<u64, String>>,
    /// Names with values; all that the kernel shows this process (trusted.* needs CAP_SYS_ADMIN).
    pub xattrs: BTreeMap<String, String>,
    /// chattr(1) flags of files and directories; None where the file system has none or does not let us look.
    pub flags: Option<u32>,
    /// Project id (quota) of files and directories; None where the file system has none.
    pub project: Option<u32>,
    /// Link count of anything but a directory.
    pub nlink: u32,
    /// The paths of this tree that are the same inode, itself included, when there are several.
    pub same_inode: BTreeSet<PathBuf>,
    /// A directory on which something is mounted is not entered: it may be /proc.
    pub mount_point: bool,
    /// Why a directory's entries are not known.
    pub unlisted: Option<String>,
}

impl Snapshot {
    /// Drops a path and all below it, for what a test changes on purpose.
    pub fn without(mut self, path: impl AsRef<Path>) -> Self {
        self.entries.retain(|name, _| !name.starts_with(&path));
        self
    }

    /// Takes every mtime since `start` (seconds since 1970) as the same: the clock set it, and two runs of one command
    /// have two clocks. An older one was given by name or was there before, and must be exact.
    pub fn clock_times_alike(mut self, start: i64) -> Self {
        for entry in self.entries.values_mut().filter(|entry| (start..start + 86_400).contains(&entry.mtime.0)) {
            entry.mtime = (start, 0);
        }
        self
    }
}

/// Records the tree at `root`. Panics when `root` cannot be opened; what below it cannot be read is recorded as such.
pub fn snapshot(root: &Path) -> Snapshot {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty()).unwrap_or_else(|e| panic!("open {root:?}: {e}"));
    let mount = stat(directory.as_fd(), c".", root).stx_mnt_id;
    let mut walk = Walk { mount, entries: BTreeMap::new(), inodes: BTreeMap::new(), buffer: vec![0; XATTR_MAX] };
    walk.visit(directory.as_fd(), c".", PathBuf::new());
    walk.finish()
}

/// One line for each fact that is not the same in both, in the order of the paths.
pub fn diff(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let paths: BTreeSet<&PathBuf> = before.entries.keys().chain(after.entries.keys()).collect();
    paths.into_iter().flat_map(|path| diff_at(path, before.entries.get(path), after.entries.get(path))).collect()
}

/// Fails with every difference, or the first hundred: a root that vanished has thousands.
#[track_caller]
pub fn assert_same(before: &Snapshot, after: &Snapshot, what: &str) {
    let lines = diff(before, after);
    let shown = lines.iter().take(100).map(|line| format!("  {line}\n")).collect::<String>();
    assert!(lines.is_empty(), "{what}: {} differences\n{shown}", lines.len());
}

fn diff_at(path: &Path, before: Option<&Entry>, after: Option<&Entry>) -> Vec<String> {
    let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match (before, after) {
        (Some(old), None) => vec![format!("- {name:?} ({})", old.summary())],
        (None, Some(new)) => vec![format!("+ {name:?} ({})", new.summary())],
        (Some(old), Some(new)) if old != new => {
            changes(old, new).iter().map(|line| format!("! {name:?}: {line}")).collect()
        }
        _ => Vec::new(),
    }
}

fn changes(old: &Entry, new: &Entry) -> Vec<String> {
    let (old, new) = (old.facts(), new.facts());
    let shown = |fact: Option<&String>| fact.map_or("none", String::as_str).to_owned();
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differ = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    differ.map(|name| format!("{name} {} -> {}", shown(old.get(name)), shown(new.get(name)))).collect()
}

impl Entry {
    fn summary(&self) -> String {
        let Entry { kind, mode, uid, gid, size, .. } = self;
        format!("{kind:?} {mode:04o} {uid}:{gid} {size} bytes")
    }

    /// Every field as text under the name that a difference shows. The pattern is without `..`, so that a new field
    /// cannot be forgotten here and then differ in silence.
    fn facts(&self) -> BTreeMap<String, String> {
        let Entry {
            kind,
            mode,
            uid,
            gid,
            size,
            rdev,
            mtime,
            target,
            content,
            xattrs,
            flags,
            project,
            nlink,
            same_inode,
            mount_point,
            unlisted,
        } = self;
        let always = [
            ("type", format!("{kind:?}")),
            ("mode", format!("{mode:04o}")),
            ("owner", format!("{uid}:{gid}")),
            ("size", size.to_string()),
            ("device", format!("{}:{}", rdev.0, rdev.1)),
            ("mtime", format!("{}.{:09}", mtime.0, mtime.1)),
            ("link count", nlink.to_string()),
            ("hard links", format!("{same_inode:?}")),
            ("mount point", mount_point.to_string()),
        ];
        let sometimes = [
            ("target", target.as_ref().map(|target| format!("{target:?}"))),
            ("content", content.as_ref().map(|hash| hash.as_ref().map_or_else(String::clone, |h| format!("{h:016x}")))),
            ("flags", flags.map(|flags| format!("{flags:#x}"))),
            ("project", project.map(|project| project.to_string())),
            ("unlisted", unlisted.clone()),
        ];
        let sometimes = sometimes.into_iter().filter_map(|(name, fact)| Some((name, fact?)));
        let mut facts: BTreeMap<_, _> = always.into_iter().chain(sometimes).map(|(n, f)| (n.to_owned(), f)).collect();
        facts.extend(xattrs.iter().map(|(name, value)| (format!("xattr {name}"), format!("\"{value}\""))));
        facts
    }
}

/// Device and inode number.
type Inode = (u32, u32, u64);

struct Walk {
    mount: u64,
    entries: BTreeMap<PathBuf, Entry>,
    inodes: BTreeMap<Inode, BTreeSet<PathBuf>>,
    buffer: Vec<u8>,
}

impl Walk {
    /// From directory handle to directory handle: a test's tree may be deeper than PATH_MAX.
    fn visit(&mut self, parent: BorrowedFd<'_>, name: &CStr, path: PathBuf) {
        let stat = stat(parent, name, &path);
        let mut entry = self.entry(parent, name, &stat);
        if entry.kind != FileType::Directory && stat.stx_nlink > 1 {
            let inode = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
            self.inodes.entry(inode).or_default().insert(path.clone());
        }
        let opened = open(parent, name, entry.kind, entry.mount_point);
        let file = opened.as_ref().and_then(|file| file.as_ref().ok());
        entry.flags = file.and_then(chattr_flags);
        entry.project = file.and_then(project);
        match (entry.kind, opened) {
            (FileType::RegularFile, Some(file)) => entry.content = Some(content_hash(file)),
            (FileType::Directory, Some(Ok(directory))) => self.descend(&directory, &path),
            (FileType::Directory, Some(Err(e))) => entry.unlisted = Some(errno_name(e)),
            _ => {}
        }
        self.entries.insert(path, entry);
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, stat: &Statx) -> Entry {
        let kind = FileType::from_raw_mode(RawMode::from(stat.stx_mode));
        let directory = kind == FileType::Directory;
        Entry {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: if directory { 0 } else { stat.stx_size },
            rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            target: (kind == FileType::Symlink).then(|| readlink(parent, name)),
            content: None,
            xattrs: self.xattrs(parent, name),
            flags: None,
            project: None,
            nlink: if directory { 0 } else { stat.stx_nlink },
            same_inode: BTreeSet::new(),
            mount_point: stat.stx_mnt_id != self.mount,
            unlisted: None,
        }
    }

    fn descend(&mut self, directory: &OwnedFd, path: &Path) {
        let listing = Dir::read_from(directory).unwrap_or_else(|e| panic!("read {path:?}: {e}"));
        for found in listing {
            let found = found.unwrap_or_else(|e| panic!("read {path:?}: {e}"));
            let name = found.file_name();
            if name != c"." && name != c".." {
                self.visit(directory.as_fd(), name, path.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }

    /// By a path through the parent's handle: the call exists for paths and for opened files only, and a fifo, a device
    /// or a symlink must not be opened.
    fn xattrs(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> BTreeMap<String, String> {
        let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
        let path = CString::new(path).expect("a file name holds no NUL");
        let names = match rustix::fs::llistxattr(&path, &mut self.buffer[..]) {
            Ok(length) => self.buffer[..length].to_vec(),
            Err(Errno::NOTSUP) => return BTreeMap::new(),
            Err(e) => return BTreeMap::from([("(list)".to_owned(), errno_name(e))]),
        };
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        names.map(|name| (name.escape_ascii().to_string(), self.xattr(&path, name))).collect()
    }

    fn xattr(&mut self, path: &CStr, name: &[u8]) -> String {
        match rustix::fs::lgetxattr(path, name, &mut self.buffer[..]) {
            Ok(length) => self.buffer[..length].escape_ascii().to_string(),
            Err(e) => errno_name(e),
        }
    }

    fn finish(mut self) -> Snapshot {
        for group in self.inodes.into_values().filter(|group| group.len() > 1) {
            for path in &group {
                self.entries.get_mut(path).expect("every linked path was visited").same_inode = group.clone();
            }
        }
        Snapshot { entries: self.entries }
    }
}

/// The mount's number besides the device's: a bind mount of the same file system is a mount point as well.
fn stat(parent: BorrowedFd<'_>, name: &CStr, path: &Path) -> Statx {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(parent, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
        .unwrap_or_else(|e| panic!("statx {path:?}: {e}"))
}

/// None for what must not be opened: a fifo would wait for a writer, a device may act, a mount is not ours to enter.
fn open(parent: BorrowedFd<'_>, name: &CStr, kind: FileType, mount_point: bool) -> Option<Result<OwnedFd, Errno>> {
    let openable = matches!(kind, FileType::RegularFile | FileType::Directory) && !mount_point;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openable.then(|| rustix::fs::openat(parent, name, flags, Mode::empty()))
}

fn chattr_flags(file: &OwnedFd) -> Option<u32> {
    rustix::fs::ioctl_getflags(file).ok().map(|flags| flags.bits() & CHATTR_FLAGS)
}

/// `struct fsxattr` of FS_IOC_FSGETXATTR, ioctl_xfs_fsgetxattr(2), as words: the project id is the fourth.
fn project(file: &OwnedFd) -> Option<u32> {
    const GET: libc::c_ulong = 0x801c_581f;
    let mut words = [0_u32; 7];
    // SAFETY: the descriptor is open, and the request writes 28 bytes, for which `words` has room.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), GET, &raw mut words) };
    (result == 0).then_some(words[3])
}

/// A multiplicative hash by words, not std's SipHash: tests are built without optimisation, where that one takes two
/// seconds for a Debian root. Each round is one to one, so files that differ in a single word never collide.
fn content_hash(file: Result<OwnedFd, Errno>) -> Result<u64, String> {
    let mut content = Vec::new();
    File::from(file.map_err(errno_name)?).read_to_end(&mut content).map_err(|e| format!("unreadable: {e}"))?;
    let (words, rest) = content.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let round = |hash: u64, word: &[u8; 8]| {
        (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x517c_c1b7_2722_0a95)
    };
    Ok(round(words.iter().fold(0, round), &last))
}

fn readlink(parent: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    let target = rustix::fs::readlinkat(parent, name, Vec::new()).unwrap_or_else(|e| panic!("readlink {name:?}: {e}"));
    PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()))
}

fn errno_name(e: Errno) -> String {
    format!("unreadable: {e}")
}
