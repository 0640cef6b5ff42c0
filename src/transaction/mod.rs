//! The transaction: a directory beside the image with upper, work, scaffold and journal, held by locks while it is in use.

pub mod checkpoint;
pub mod journal;
mod places;
pub mod points;
pub mod recover;
pub mod through;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode as FileMode, OFlags};

use crate::changes::{self, discard, disinherit};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::{Identity, Image};
use crate::plan::Storage;
use crate::settings::Mode;
use crate::sys::{SysError, SysResult, fs};
use points::{FILES, Points};

pub use journal::State;
pub use places::{note, noted, places};

/// Directories that every transaction has.
const DIRECTORIES: [&[u8]; 2] = [b"upper", b"work"];

/// An open transaction that this process owns.
#[derive(Debug)]
pub struct Transaction {
    /// Locked for as long as somebody works on it; a free lock means that its owner is dead. Every file costs a run on ext4
    /// more than anything else it does, so there is none for the lock.
    directory: OwnedFd,
    path: PathBuf,
    /// What is on disk about it.
    pub state: State,
    /// The mount points that this process has made, which the lists on the disk have too.
    pub points: Option<Points>,
}

/// Takes the image's lock: exclusive for what may write to it, shared for what is discarded. It goes with the handle, and the
/// sandbox's first process holds it too: a step that outlives its runner still counts.
pub fn lock_image(image: &Image, mode: Mode) -> Result<()> {
    let exclusive = mode != Mode::Discard;
    if fs::try_lock(image.directory(), exclusive).doing(|| format!("cannot lock {}", image.path().display()))? {
        return Ok(());
    }
    refuse(
        Fault::new(format!("{} is in use by another run of dropcloth", image.path().display()))
            .hint("Wait until that run has ended (`dropcloth list` shows it), or work on a copy of the image."),
    )
}

impl Transaction {
    /// Makes the directory of a new transaction on `image` in `storage`; nothing of the image is touched.
    pub fn begin(image: &Image, storage: &Path, state: State) -> Result<Transaction> {
        let doing = || format!("cannot make a transaction in {}", storage.display());
        let name = format!("{}.{}", printable(image.path()), state.id);
        let result = Transaction::make(storage, &name, state).doing(doing);
        if result.is_err() {
            remove_begun(storage, name.as_bytes());
        }
        result
    }

    /// Until the state is written the storage is locked too: who gets that alone knows that nobody is just here.
    fn make(storage: &Path, name: &str, state: State) -> Result<Transaction> {
        let base = make_in_storage(storage, name.as_bytes())?;
        let directory = fs::open_dir(base.as_fd(), name.as_bytes())?;
        if !fs::try_lock(directory.as_fd(), true)? {
            return refuse(Fault::new("another process took the new transaction's lock"));
        }
        // What is made now has the time that the image's files get from now on.
        let stat = fs::fstat(directory.as_fd())?;
        let same_file_system = stat.st_dev == state.root.device;
        let state = State { begun: Some(changes::stamp(&stat)), same_file_system, ..state };
        let mut transaction = Transaction { directory, path: storage.join(name), state, points: None };
        transaction.state.begin(transaction.directory.as_fd())?;
        disinherit(transaction.directory())?;
        drop(base);
        if transaction.state.mode != Mode::Through {
            for name in DIRECTORIES {
                fs::mkdir(transaction.directory(), name, 0o700)?;
            }
        }
        Ok(transaction)
    }

    /// Opens an existing one whose owner is gone; `None` when somebody works on it.
    pub fn take(path: &Path) -> Result<Option<Transaction>> {
        let doing = || format!("cannot open the transaction {}", path.display());
        let directory = open_owned(path).doing(doing)?;
        if !fs::try_lock(directory.as_fd(), true).doing(doing)? {
            return Ok(None);
        }
        let state = State::load(directory.as_fd()).doing(doing)?;
        Ok(Some(Transaction { directory, path: path.to_owned(), state, points: None }))
    }

    /// The open directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Its host path, for messages and for the sandbox, which has to open it again in its own mount namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which directory it is.
    pub fn identity(&self) -> Result<Identity> {
        Ok(Identity::of(&fs::fstat(self.directory())?))
    }

    /// Removes it, and the storage directory when it was the last. It gets another name first: one that is half removed must
    /// not be taken for one that is kept, or for one that is not committed yet.
    pub fn remove(self) -> Result<()> {
        let doing = || format!("cannot remove the transaction {}", self.path.display());
        let (Some(storage), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let base = open_owned(storage).doing(doing)?;
        fs::lock_shared(base.as_fd()).doing(doing)?;
        let name = std::os::unix::ffi::OsStrExt::as_bytes(name);
        if self.is_of_one_step() && self.remove_empty(base.as_fd(), name).is_ok() {
            drop(base);
            let _ = std::fs::remove_dir(storage);
            return Ok(());
        }
        let waste = [name, WASTE.as_bytes()].concat();
        fs::rename(base.as_fd(), name, base.as_fd(), &waste).doing(doing)?;
        discard::remove_tree(base.as_fd(), &waste).doing(doing)?;
        drop(base);
        // Other transactions may be in it; then it stays.
        let _ = std::fs::remove_dir(storage);
        Ok(())
    }
}

impl Transaction {
    /// Whoever finds it half removed may finish that: it is not kept, and nothing of it is decided.
    fn is_of_one_step(&self) -> bool {
        let state = &self.state;
        !state.attached && state.name.is_none() && !state.kept && state.moved_to.is_none()
    }

    /// Removes one whose step left nothing in it, by the names that are in it then. The state goes last, so that its owner is
    /// known for as long as it is there. At the first name that is not as it should be it stops.
    fn remove_empty(&self, base: BorrowedFd<'_>, name: &[u8]) -> SysResult<()> {
        match self.state.mode {
            Mode::Through => self.remove_lists()?,
            _ => self.remove_layers()?,
        }
        fs::unlink(self.directory(), b"state")?;
        fs::rmdir(base, name)
    }

    /// What they stand for is cleared, and without the first the others say nothing.
    fn remove_lists(&self) -> SysResult<()> {
        // Overrides on the disk, of a step whose version of one is kept: then there is more.
        if fs::stat(self.directory(), b"scaffold")?.is_some() {
            return Err(SysError::new("rmdir()", libc::ENOTEMPTY));
        }
        FILES.iter().try_for_each(|list| match fs::unlink(self.directory(), list) {
            Err(error) if error.errno != libc::ENOENT => Err(error),
            _ => Ok(()),
        })
    }

    /// Overlayfs leaves the mark of a volatile mount and an empty index, see Documentation/filesystems/overlayfs.rst.
    fn remove_layers(&self) -> SysResult<()> {
        let directory = self.directory();
        // After a commit there is more, and the name that says that it is done goes with it.
        if fs::stat(directory, b"stage")?.is_some() {
            return Err(SysError::new("rmdir()", libc::ENOTEMPTY));
        }
        fs::rmdir(directory, b"upper")?;
        fs::unlink(directory, b"work/work/incompat/volatile/dirty")?;
        for left in [&b"work/work/incompat/volatile"[..], b"work/work/incompat", b"work/work"] {
            fs::rmdir(directory, left)?;
        }
        match fs::rmdir(directory, b"work/index") {
            Err(error) if error.errno != libc::ENOENT => Err(error),
            _ => fs::rmdir(directory, b"work"),
        }
    }
}

/// What the name of a transaction ends with when it is being removed.
const WASTE: &str = ".removed";

/// The image's base name with everything odd replaced: only for people, the id is what counts.
fn printable(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| "root".to_owned());
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).take(80).collect()
}

/// Whether it has the form of one.
pub fn is_id(text: impl AsRef<[u8]>) -> bool {
    let text = text.as_ref();
    text.len() == 8 && text.iter().all(u8::is_ascii_hexdigit)
}

/// Eight hexadecimal digits nobody can foresee.
pub fn new_id() -> Result<String> {
    let mut bytes = [0_u8; 4];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Takes away what a failed begin made. What cannot be removed now is found by the next run.
fn remove_begun(storage: &Path, name: &[u8]) {
    if let Ok(base) = open_owned(storage) {
        let _ = discard::remove_tree(base.as_fd(), name);
    }
    let _ = std::fs::remove_dir(storage);
}

/// Makes `name` in the directory that holds transactions. That directory goes with its last transaction, so another run can
/// take it away between our two calls: then it is made again.
fn make_in_storage(storage: &Path, name: &[u8]) -> Result<OwnedFd> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let base = match open_storage(storage) {
            Err(error) if vanished(&error) => continue,
            other => other?,
        };
        fs::lock_shared(base.as_fd())?;
        match fs::mkdir(base.as_fd(), name, 0o700) {
            Err(error) if error.errno == libc::ENOENT => {}
            other => return Ok(other.map(|()| base)?),
        }
    }
    refuse(Fault::new(format!("{} vanishes as soon as it is made", storage.display())))
}

fn vanished(error: &anyhow::Error) -> bool {
    error.downcast_ref::<SysError>().is_some_and(|error| error.errno == libc::ENOENT)
}

/// Opens the directory that holds transactions, made with mode 0700 when it is missing.
fn open_storage(path: &Path) -> Result<OwnedFd> {
    let make = || std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(path);
    let made = match make() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            make()
        }
        other => other,
    };
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => {
            other.map_err(|e| SysError::new(format!("mkdir({:?})", path.display()), e.raw_os_error().unwrap_or(0)))?
        }
    }
    open_owned(path)
}

/// Opens a directory that must be ours and closed to others: whoever could put entries into it could choose what a root
/// process renames into an image (the snap-confine family of races).
fn open_owned(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, FileMode::empty())
        .map_err(|e| SysError::new(format!("open({:?}, O_DIRECTORY|O_NOFOLLOW)", path.display()), e.raw_os_error()))?;
    let stat = fs::fstat(directory.as_fd())?;
    let mine = stat.st_uid == nix::unistd::geteuid().as_raw();
    if mine && stat.st_mode & 0o022 == 0 {
        return Ok(directory);
    }
    refuse(
        Fault::new(format!("{} belongs to or is writable by somebody else", path.display())).hint(format!(
            "Remove it if you do not know it (`ls -ld {}`), or keep transactions in a directory of your own with --scratch DIR.",
            path.display()
        )),
    )
}

/// The directory that a storage names; `None`: memory.
pub fn storage_path(storage: &Storage) -> Option<&Path> {
    match storage {
        Storage::Beside(path) | Storage::Elsewhere(path) => Some(path),
        Storage::Memory => None,
    }
}
