//! The copy backend: the step works on a copy of the whole image, and a commit is one exchange of the two directories.
//!
//! Exact by construction, and atomic for whoever reads the image meanwhile. It costs a copy (a reflink where the file system
//! can), and the image gets another inode number.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::leaks::stat_below;
use super::marks::{PROTECTED_FLAGS, USER_FLAGS};
use super::{Changes, Kind, Stamp, What, copy, discard, stamp};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::{Identity, Image, Inside};
use crate::settings::WhenChanged;
use crate::sys::fs::{self, Times};
use crate::sys::{mount, process, xattr};
use crate::transaction::{State, Transaction};

/// The copy's name in the transaction.
pub const TREE: &[u8] = b"tree";

/// Copies the image into the transaction.
pub fn make(transaction: &Transaction, image: &Image) -> Result<()> {
    let doing = || format!("cannot copy {} for the copy backend", image.path().display());
    check_exchange(transaction, image)?;
    // A mount of its own shows what lies below the mounts on the image.
    let source = mount::clone_mount(image.directory(), false).doing(doing)?;
    let source = fs::open_dir(source.as_fd(), b".").doing(doing)?;
    fs::mkdir(transaction.directory(), TREE, 0o700).doing(doing)?;
    let tree = fs::open_dir(transaction.directory(), TREE).doing(doing)?;
    let copier = copy::Copier::default();
    copier.contents(source.as_fd(), tree.as_fd()).doing(doing)?;
    copier.finish().doing(doing)
}

/// Whether the image can be exchanged at the end, found out before the step: its rename over a directory that is not empty
/// fails in any case, and says by which error what stands against it.
fn check_exchange(transaction: &Transaction, image: &Image) -> Result<()> {
    let doing = || format!("cannot tell whether {} can be exchanged", image.path().display());
    let (above, name) = above(image)?;
    fs::mkdir(transaction.directory(), b"probe", 0o700).doing(doing)?;
    let probe = fs::open_dir(transaction.directory(), b"probe").doing(doing)?;
    fs::mkdir(probe.as_fd(), b"full", 0o700).doing(doing)?;
    let answer = fs::rename(above.as_fd(), &name, transaction.directory(), b"probe");
    discard::remove_tree(transaction.directory(), b"probe")?;
    match answer {
        Err(error) if error.errno == libc::EXDEV => refuse(
            Fault::new(format!("{} cannot be exchanged with a copy of it", image.path().display()))
                .because("its file system does not rename it: it comes from a lower layer of an overlay")
                .hint(format!(
                    "Make it a directory of its own first: `cp -a {0} {0}.new && mv {0} {0}.old && mv {0}.new {0}`.",
                    image.path().display()
                )),
        ),
        _ => Ok(()),
    }
}

/// The directory above the image, and the image's name in it.
fn above(image: &Image) -> Result<(OwnedFd, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    let (Some(above), Some(name)) = (image.path().parent(), image.path().file_name()) else {
        return refuse(Fault::new("the root directory of this machine cannot be exchanged"));
    };
    Ok((fs::open_dir(rustix::fs::CWD, above.as_os_str().as_bytes())?, name.as_bytes().to_vec()))
}

/// The time from which on every change in the copy is the step's: returns when the clock of the file system has moved on.
pub fn settle(transaction: &Transaction) -> Result<Stamp> {
    const TICK: Duration = Duration::from_millis(1);
    let now = || -> Result<Stamp> {
        let file = fs::create(transaction.directory(), b"tick", 0o600)?;
        let now = stamp(&fs::fstat(file.as_fd())?);
        fs::unlink(transaction.directory(), b"tick")?;
        Ok(now)
    };
    let first = now()?;
    loop {
        std::thread::sleep(TICK);
        if now()? > first {
            return Ok(first);
        }
    }
}

/// What the step did: the copy compared with the image where the kernel says that something was touched.
/// And whether there is anything to commit: times of a directory alone are in no list.
pub fn scan(transaction: &Transaction, image: &Image) -> Result<(Changes, bool)> {
    process::raise_file_limit();
    let state = &transaction.state;
    let tree = fs::open_dir(transaction.directory(), TREE)?;
    let mut compare = Compare {
        changes: Changes::default(),
        copied: state.copied.unwrap_or_default(),
        begun: state.begun,
        times: false,
    };
    overrides(transaction, &mut compare)?;
    compare
        .directory(tree.as_fd(), image.directory(), &Inside::root())
        .doing(|| "cannot read what the step changed")?;
    let something = compare.times || !compare.changes.list.is_empty();
    Ok((compare.changes, something))
}

/// An override was bound from the scaffold: the step has written to that file.
fn overrides(transaction: &Transaction, compare: &mut Compare) -> Result<()> {
    let scaffold = fs::open_dir(transaction.directory(), b"scaffold")?;
    for (path, rule) in &transaction.state.policy.overrides {
        let touched = stat_below(scaffold.as_fd(), path)?
            .is_some_and(|s| stamp(&s) > compare.copied && Times::of(&s).mtime > compare.copied);
        match rule {
            _ if !touched => {}
            WhenChanged::Keep => {}
            WhenChanged::Fail => compare.changes.forbidden.push(path.clone()),
            WhenChanged::Drop | WhenChanged::KeepSymlink => compare.changes.dropped.push(path.clone()),
        }
    }
    Ok(())
}

/// Puts the step's version of the overrides that are kept into the copy. Before the placeholders are removed.
pub fn keep_overrides(transaction: &Transaction, copied: Stamp) -> Result<()> {
    let scaffold = fs::open_dir(transaction.directory(), b"scaffold")?;
    let tree = fs::open_dir(transaction.directory(), TREE)?;
    for (path, rule) in &transaction.state.policy.overrides {
        let Some((parent, name)) = path.split().filter(|_| *rule == WhenChanged::Keep) else { continue };
        if stat_below(scaffold.as_fd(), path)?.is_none_or(|s| stamp(&s) <= copied) {
            continue;
        }
        let from = fs::open_dir_below(scaffold.as_fd(), parent.bytes())?;
        let to = fs::open_dir_below(tree.as_fd(), parent.bytes())?;
        fs::unlink(to.as_fd(), name)?;
        copy::Copier::default().tree(from.as_fd(), name, to.as_fd())?;
    }
    Ok(())
}

struct Compare {
    changes: Changes,
    copied: Stamp,
    begun: Option<Stamp>,
    /// A directory has other times.
    times: bool,
}

impl Compare {
    fn directory(&mut self, tree: BorrowedFd<'_>, image: BorrowedFd<'_>, path: &Inside) -> Result<()> {
        let (new, old) = (fs::fstat(tree)?, fs::fstat(image)?);
        self.check(path, &old);
        if stamp(&new) > self.copied {
            let flags = |file| fs::flags(file).map(|flags| flags.unwrap_or(0) & USER_FLAGS);
            if attributes(tree, b"")? != attributes(image, b"")? || flags(tree)? != flags(image)? {
                self.change(path, What::Attributes, Kind::Directory, 0);
            }
            self.times |= Times::of(&new).mtime != Times::of(&old).mtime;
        }
        for entry in fs::entries(tree)? {
            let Some(new) = fs::stat(tree, &entry.name)? else { continue };
            let here = path.join(&entry.name);
            let old = fs::stat(image, &entry.name)?;
            let (is, was) = (Kind::of(new.st_mode), old.map(|s| Kind::of(s.st_mode)));
            if (is, was) == (Kind::Directory, Some(Kind::Directory)) {
                let (tree, image) = (fs::open_dir(tree, &entry.name)?, fs::open_dir(image, &entry.name)?);
                self.directory(tree.as_fd(), image.as_fd(), &here)?;
                continue;
            }
            if let Some(old) = &old {
                self.check(&here, old);
            }
            let bytes = if is == Kind::File { new.st_size.cast_unsigned() } else { 0 };
            match old {
                None => self.change(&here, What::Added, is, bytes),
                Some(_) if stamp(&new) > self.copied && differs(tree, image, &entry.name)? => {
                    self.change(&here, What::Modified, is, bytes);
                }
                Some(_) => {}
            }
            if is == Kind::Directory {
                self.added(fs::open_dir(tree, &entry.name)?.as_fd(), &here)?;
            }
        }
        for entry in fs::entries(image)? {
            let Some(old) = fs::stat(image, &entry.name)? else { continue };
            if fs::stat(tree, &entry.name)?.is_none() {
                let here = path.join(&entry.name);
                self.check(&here, &old);
                self.change(&here, What::Removed, Kind::of(old.st_mode), 0);
            }
        }
        Ok(())
    }

    fn added(&mut self, tree: BorrowedFd<'_>, path: &Inside) -> Result<()> {
        for entry in fs::entries(tree)? {
            let Some(new) = fs::stat(tree, &entry.name)? else { continue };
            let (here, is) = (path.join(&entry.name), Kind::of(new.st_mode));
            let bytes = if is == Kind::File { new.st_size.cast_unsigned() } else { 0 };
            self.change(&here, What::Added, is, bytes);
            if is == Kind::Directory {
                self.added(fs::open_dir(tree, &entry.name)?.as_fd(), &here)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, path: &Inside, what: What, kind: Kind, bytes: u64) {
        self.changes.list.push(super::Change { path: path.clone(), what, kind, bytes, from: None });
    }

    /// The exchange takes everything that was changed in the image meanwhile, wherever it is.
    fn check(&mut self, path: &Inside, old: &rustix::fs::Stat) {
        if self.begun.is_some_and(|begun| stamp(old) > begun) {
            self.changes.conflicts.push(path.clone());
        }
    }
}

type Attributes = (u32, u32, u32, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn attributes(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Attributes> {
    let stat = if name.is_empty() { Some(fs::fstat(directory)?) } else { fs::stat(directory, name)? };
    let Some(stat) = stat else { return Ok((0, 0, 0, Vec::new())) };
    let mut all = Vec::new();
    for attribute in xattr::list(directory, name)? {
        let value = xattr::get(directory, name, &attribute)?;
        all.push((attribute, value));
    }
    all.sort();
    Ok((stat.st_mode, stat.st_uid, stat.st_gid, all))
}

/// Whether two entries that are not directories differ, in more than what a copy changes by itself.
fn differs(tree: BorrowedFd<'_>, image: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
    let (Some(new), Some(old)) = (fs::stat(tree, name)?, fs::stat(image, name)?) else { return Ok(true) };
    let facts = |s: &rustix::fs::Stat| (s.st_size, s.st_rdev, Times::of(s).mtime);
    if facts(&new) != facts(&old) || attributes(tree, name)? != attributes(image, name)? {
        return Ok(true);
    }
    match Kind::of(new.st_mode) {
        Kind::Link => Ok(fs::readlink(tree, name)? != fs::readlink(image, name)?),
        Kind::File => {
            let flags = |file: BorrowedFd<'_>| fs::flags(file).map(|f| f.unwrap_or(0) & USER_FLAGS);
            let (new, old) = (fs::open_read(tree, name)?, fs::open_read(image, name)?);
            Ok(flags(new.as_fd())? != flags(old.as_fd())? || !same_bytes(new.into(), old.into())?)
        }
        _ => Ok(false),
    }
}

fn same_bytes(mut one: std::fs::File, mut other: std::fs::File) -> Result<bool> {
    let (mut a, mut b) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = one.read(&mut a)?;
        if length == 0 {
            return Ok(other.read(&mut b)? == 0);
        }
        if other.read_exact(&mut b[..length]).is_err() || a[..length] != b[..length] {
            return Ok(false);
        }
    }
}

/// Commits: the copy becomes the image in one call, and what was the image goes with the transaction.
pub fn commit(mut transaction: Transaction, image: &Image) -> Result<()> {
    let doing = || format!("cannot put the copy in the place of {}", image.path().display());
    let (above, name) = above(image).doing(doing)?;
    let there = fs::stat(above.as_fd(), &name).doing(doing)?;
    if there.map(|s| Identity::of(&s)) != Some(image.identity()) {
        return refuse(
            Fault::new(format!("{} is not the directory that the transaction was begun on", image.path().display()))
                .hint("Move the image back to where it was, or remove the transaction with `dropcloth discard`."),
        );
    }
    let tree = fs::open_dir(transaction.directory(), TREE).doing(doing)?;
    clamp(&transaction.state, tree.as_fd(), image.directory()).doing(doing)?;
    fs::syncfs(tree.as_fd()).doing(doing)?;
    transaction.state.exchanged = Some(Identity::of(&fs::fstat(tree.as_fd()).doing(doing)?));
    let flags = |file| fs::flags(file).map(|flags| flags.unwrap_or(0) & PROTECTED_FLAGS);
    transaction.state.root_flags = (flags(image.directory()).doing(doing)?, flags(tree.as_fd()).doing(doing)?);
    transaction.state.save(transaction.directory()).doing(doing)?;
    fs::fsync(transaction.directory()).doing(doing)?;
    // A directory with these flags cannot be renamed.
    protect(image.directory(), 0).doing(doing)?;
    protect(tree.as_fd(), 0).doing(doing)?;
    let exchanged = fs::exchange(transaction.directory(), TREE, above.as_fd(), &name).doing(doing);
    let (before, after) = transaction.state.root_flags;
    if exchanged.is_err() {
        protect(image.directory(), before)?;
        return exchanged;
    }
    protect(tree.as_fd(), after).doing(doing)?;
    fs::fsync(above.as_fd()).doing(doing)?;
    fs::fsync(transaction.directory()).doing(doing)?;
    drop((tree, above));
    transaction.remove()
}

/// Puts back the flags of the image's root after an exchange that was interrupted. Returns whether it had taken place.
pub fn finish(state: &State, image: &Image) -> Result<bool> {
    let Some(exchanged) = state.exchanged else { return Ok(false) };
    // Both are on one file system, whose device number may be another one after a power cut.
    let done = exchanged.inode == image.identity().inode;
    protect(image.directory(), if done { state.root_flags.1 } else { state.root_flags.0 })?;
    Ok(done)
}

/// Makes the `i` and `a` flags of a directory these.
fn protect(directory: BorrowedFd<'_>, wanted: u32) -> Result<()> {
    match fs::flags(directory)? {
        Some(now) if now & PROTECTED_FLAGS != wanted => Ok(fs::set_flags(directory, now & !PROTECTED_FLAGS | wanted)?),
        _ => Ok(()),
    }
}

/// No entry that the step touched stays newer than the epoch.
fn clamp(state: &State, tree: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<()> {
    match (state.rules.epoch, state.copied) {
        (Some(epoch), Some(copied)) => clamp_below(tree, Some(image), epoch, copied),
        _ => Ok(()),
    }
}

fn clamp_below(tree: BorrowedFd<'_>, image: Option<BorrowedFd<'_>>, epoch: i64, copied: Stamp) -> Result<()> {
    for entry in fs::entries(tree)? {
        let Some(stat) = fs::stat(tree, &entry.name)? else { continue };
        if Kind::of(stat.st_mode) == Kind::Directory {
            let below = image.and_then(|image| fs::open_dir(image, &entry.name).ok());
            clamp_below(fs::open_dir(tree, &entry.name)?.as_fd(), below.as_ref().map(AsFd::as_fd), epoch, copied)?;
        } else if stamp(&stat) > copied {
            let (times, flagged) = (Times::of(&stat), Kind::of(stat.st_mode) == Kind::File);
            let file = if flagged { Some(fs::open_read(tree, &entry.name)?) } else { None };
            unprotected(file.as_ref().map(AsFd::as_fd), || {
                Ok(fs::set_times(tree, &entry.name, times.not_after(epoch))?)
            })?;
        }
    }
    let (times, old) = (Times::of(&fs::fstat(tree)?), image.map(fs::fstat).transpose()?);
    if old.is_none_or(|old| Times::of(&old).mtime != times.mtime) {
        unprotected(Some(tree), || Ok(fs::set_times_of(tree, times.not_after(epoch))?))?;
    }
    Ok(())
}

/// Does something to a file that its flags may forbid.
fn unprotected(file: Option<BorrowedFd<'_>>, work: impl Fn() -> Result<()>) -> Result<()> {
    let flags = file.map(fs::flags).transpose()?.flatten().unwrap_or(0);
    let protected = flags & PROTECTED_FLAGS != 0;
    let Some(file) = file.filter(|_| protected) else { return work() };
    fs::set_flags(file, flags & !PROTECTED_FLAGS)?;
    work()?;
    Ok(fs::set_flags(file, flags)?)
}
