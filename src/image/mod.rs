//! The target root: an open directory handle, and the only door into it.

pub mod account;
pub mod inside;
pub mod path;
pub mod pythons;
pub mod survey;

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Doing, Fault, Result, refuse};
use crate::sys::{SysError, fs};

pub use path::Inside;

/// Which directory it is, whatever its path: device and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// st_dev.
    pub device: u64,
    /// st_ino.
    pub inode: u64,
}

impl Identity {
    /// The identity in `stat`.
    pub fn of(stat: &rustix::fs::Stat) -> Identity {
        Identity { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// An image, known by an open directory.
#[derive(Debug)]
pub struct Image {
    directory: OwnedFd,
    path: PathBuf,
    identity: Identity,
}

impl Image {
    /// Opens the directory `path`, relative to the working directory, with symbolic links of the host resolved once.
    pub fn open(path: &Path) -> Result<Image> {
        let image = Image::open_as_named(path)?;
        let path = match path_of(image.directory()) {
            Some(path) => path,
            None => std::fs::canonicalize(path).doing(|| cannot_use(path))?,
        };
        Ok(Image { path, ..image })
    }

    fn open_as_named(path: &Path) -> Result<Image> {
        let doing = || cannot_use(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open_quietly(rustix::fs::CWD, path, flags)
            .map_err(|e| SysError::new(format!("open(\"{}\", O_DIRECTORY)", path.display()), e.raw_os_error()))
            .map_err(|error| with_hint(path, error))
            .doing(doing)?;
        let identity = Identity::of(&fs::fstat(directory.as_fd()).doing(doing)?);
        Ok(Image { directory, path: path.to_owned(), identity })
    }

    /// Opens the image again in a new mount namespace, where the old handle stands on mounts of the old one, and refuses when
    /// the path now leads to another directory.
    pub fn reopen(path: &Path, identity: Identity) -> Result<Image> {
        let image = Image::open_as_named(path)?;
        if image.identity == identity {
            return Ok(image);
        }
        refuse(Fault::new(format!("{} was replaced while dropcloth started", path.display())))
    }

    /// The directory handle.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Gives the handle away.
    pub fn into_directory(self) -> OwnedFd {
        self.directory
    }

    /// The absolute path, for messages and for finding the transaction; nothing inside is opened through it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode.
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

/// The path of an open directory as /proc has it, proc_pid_fd(5): one call, and sure to be this directory's. `None` where it has
/// none from here, or only an old one.
fn path_of(directory: BorrowedFd<'_>) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = PathBuf::from(OsString::from_vec(rustix::fs::readlink(link, Vec::new()).ok()?.into_bytes()));
    let odd = path.as_os_str().as_bytes().ends_with(b" (deleted)");
    (path.has_root() && !odd).then_some(path)
}

fn cannot_use(path: &Path) -> String {
    format!("cannot use {} as an image", path.display())
}

fn with_hint(path: &Path, error: SysError) -> Fault {
    let hint = match error.errno {
        libc::ENOENT => format!(
            "There is no such directory. Name the root of an unpacked image, such as `dropcloth run ./rootfs -- …`; {} has {}.",
            parent_of(path).display(),
            siblings(path)
        ),
        libc::ENOTDIR => {
            "An image is a directory. Unpack or mount the file first, for instance with `tar -xpf FILE -C DIR` or `mount -o loop FILE DIR`.".to_owned()
        }
        libc::EACCES => "Run dropcloth as the owner of the image, or with sudo.".to_owned(),
        _ => String::new(),
    };
    let mut fault = Fault::new(error.to_string());
    fault.call = Some((error.call_name().to_owned(), error.errno));
    if hint.is_empty() { fault } else { fault.hint(hint) }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn siblings(path: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(parent_of(path)) else { return "no directories that can be read".to_owned() };
    let names: Vec<String> = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| !n.starts_with('.'))
        .take(6)
        .collect();
    if names.is_empty() { "no directories".to_owned() } else { format!("the directories {}", names.join(", ")) }
}
