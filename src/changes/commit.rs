//! The commit: scan, decide, redo, finish. docs/commit.md describes the protocol and why each sync stands where it does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::leaks::{self, Needle, Needles, Remembered};
use super::record::Record;
use super::redo::Redo;
use super::scan::Layers;
use super::{Change, Changes, copy, discard, disinherit, replica, root_times};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Image;
use crate::settings::{Backend, Leaks};
use crate::sys::fs::{self, Times};
use crate::sys::process;
use crate::transaction::journal::{self, Progress};
use crate::transaction::recover::Recovered;
use crate::transaction::{self, State, Transaction};

/// What a commit has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// Nothing: the step changed nothing.
    Nothing,
    /// These records.
    Records(Vec<Record>),
    /// The exchange of the copy with the image.
    Exchange,
}

/// Reads what the step did, without changing anything.
pub fn scan(transaction: &Transaction, image: &Image) -> Result<(Changes, Pending)> {
    scan_showing(transaction, image, &mut |_| {})
}

fn scan_showing(
    transaction: &Transaction,
    image: &Image,
    show: &mut dyn FnMut(&[Change]),
) -> Result<(Changes, Pending)> {
    if transaction.state.backend == Backend::Copy {
        let (changes, something) = replica::scan(transaction, image)?;
        let pending = if something { Pending::Exchange } else { Pending::Nothing };
        return Ok((changes, pending));
    }
    let (changes, records) = scan_in(transaction.directory(), &transaction.state, image.directory(), show)?;
    Ok((changes, if records.is_empty() { Pending::Nothing } else { Pending::Records(records) }))
}

/// Reads what the step did, and searches it for traces of the run meanwhile: for the needles, and for what is left of the secrets
/// of earlier steps.
pub fn scan_and_search(transaction: &Transaction, image: &Image, needles: Needles<'_>) -> Result<(Changes, Pending)> {
    let state = &transaction.state;
    if state.rules.leaks == Leaks::Off {
        return scan(transaction, image);
    }
    let (mut changes, pending) = search(transaction, image, needles)?;
    let upper = written(transaction)?;
    for remembered in &state.secret_leaks {
        changes.leaks.extend(remembered.still(upper.as_fd())?);
    }
    Ok((changes, pending))
}

fn search(transaction: &Transaction, image: &Image, needles: Needles<'_>) -> Result<(Changes, Pending)> {
    let upper = written(transaction)?;
    let ((changes, pending), leaks) = leaks::along(upper.as_fd(), &transaction.state.policy, needles, |feed| {
        let scanned = scan_showing(transaction, image, &mut |list| feed.offer(list))?;
        feed.rest(&scanned.0.list);
        Ok(scanned)
    })?;
    Ok((Changes { leaks, ..changes }, pending))
}

/// The directory with what the step wrote, for the searches in it.
pub fn written(transaction: &Transaction) -> Result<OwnedFd> {
    let name = if transaction.state.backend == Backend::Copy { replica::TREE } else { b"upper" };
    Ok(fs::open_dir(transaction.directory(), name)?)
}

fn scan_in(
    directory: BorrowedFd<'_>,
    state: &State,
    image: BorrowedFd<'_>,
    show: &mut dyn FnMut(&[Change]),
) -> Result<(Changes, Vec<Record>)> {
    // The walk holds a directory open for each level of a tree, and a step can make it deep.
    process::raise_file_limit();
    let upper = fs::open_dir(directory, b"upper")?;
    let work = fs::open_dir(directory, b"work").ok();
    let layers = Layers {
        upper: upper.as_fd(),
        work: work.as_ref().map(AsFd::as_fd),
        image,
        policy: &state.policy,
        prefix: state.prefix,
        begun: state.begun,
        epoch: state.rules.epoch,
    };
    super::scan(&layers, show)
}

/// Lets the kernel write what the step wrote to the disk while that is looked at: the commit, or keeping it, waits for it in any
/// case. For a process that starts no other any more: it has a second thread then, which ends by itself or with it.
pub fn write_ahead(transaction: &Transaction, image: &Image) -> Result<()> {
    let upper = written(transaction)?;
    // To another file system it is copied.
    if fs::fstat(upper.as_fd())?.st_dev == image.identity().device {
        // Its errors are told by the sync that counts, and without a thread that has more to do.
        let _ = std::thread::Builder::new().spawn(move || drop(fs::syncfs(upper.as_fd())));
    }
    Ok(())
}

/// Searches for the secrets of a step whose transaction is committed later, without them. Returns what changed.
pub fn remember_secrets(transaction: &mut Transaction, image: &Image, secrets: &[Needle]) -> Result<Changes> {
    let (mut changes, _) = search(transaction, image, &|| secrets.to_vec())?;
    let upper = written(transaction)?;
    for leak in std::mem::take(&mut changes.leaks) {
        transaction.state.secret_leaks.extend(Remembered::new(upper.as_fd(), leak)?);
    }
    transaction.state.save(transaction.directory())?;
    Ok(changes)
}

/// Commits the transaction; on return the image has every change, on the disk, and the transaction is removed.
pub fn commit(mut transaction: Transaction, image: &Image, pending: Pending) -> Result<()> {
    let records = match pending {
        Pending::Nothing => return transaction.remove(),
        Pending::Exchange => return replica::commit(transaction, image),
        Pending::Records(records) => records,
    };
    match apply(&mut transaction, image, &records) {
        // Nobody will commit it any more, and its space may be what is missing.
        Err(error) if !transaction.state.kept && undecided(&transaction) => {
            let _ = transaction.remove();
            Err(error)
        }
        Err(error) => Err(error),
        Ok(()) => transaction.remove(),
    }
}

fn apply(transaction: &mut Transaction, image: &Image, records: &[Record]) -> Result<()> {
    let same = fs::fstat(transaction.directory())?.st_dev == image.identity().device;
    if same && rename_works(transaction, image)? {
        commit_here(transaction.directory(), &transaction.state, image, records)
    } else {
        commit_moved(transaction, image)
    }
}

fn undecided(transaction: &Transaction) -> bool {
    transaction.state.moved_to.is_none() && matches!(journal::progress(transaction.directory()), Ok(Progress::Open))
}

/// Whether one mount holds both: rename(2) between two mounts of one file system is EXDEV.
fn rename_works(transaction: &Transaction, image: &Image) -> Result<bool> {
    match fs::rename(transaction.directory(), b"upper", image.directory(), b".") {
        Err(error) if error.errno == libc::EXDEV => Ok(false),
        // The name "." can never be renamed to: any other error comes from a rename that could have been.
        Err(_) => Ok(true),
        Ok(()) => refuse(Fault::new("rename to \".\" succeeded")),
    }
}

fn commit_here(directory: BorrowedFd<'_>, state: &State, image: &Image, records: &[Record]) -> Result<()> {
    let doing = || format!("cannot commit to {}", image.path().display());
    // After the decision nothing may fail for want of room that could be made before.
    Redo::prepare(directory).doing(doing)?;
    journal::propose(directory, records).doing(doing)?;
    // The data of the upper and the records have to be on the disk before the decision is: the overlay was volatile and synced
    // nothing.
    fs::syncfs(directory).doing(doing)?;
    journal::decide(directory).doing(doing)?;
    redo_in(directory, state, image, records, true)
}

/// Applies a decided commit and marks it done.
pub fn redo(transaction: &Transaction, image: &Image, records: &[Record]) -> Result<()> {
    redo_in(transaction.directory(), &transaction.state, image, records, false)
}

pub(super) fn redo_in(
    directory: BorrowedFd<'_>,
    state: &State,
    image: &Image,
    records: &[Record],
    first: bool,
) -> Result<()> {
    // What is renamed from has to be on the image's file system, whatever number that has since the last mount.
    let here = fs::fstat(directory)?.st_dev == image.identity().device;
    if !here || state.root.inode != image.identity().inode {
        return refuse(
            Fault::new(format!("{} is not the directory that the transaction was begun on", image.path().display()))
                .hint("Move the image back to where it was, or remove the transaction with `dropcloth discard`."),
        );
    }
    let mut redo = Redo::new(image.directory(), directory, state.prefix)?;
    redo.first = first;
    redo.run(records).hint(
        || "The commit is decided and not finished: free what it asks for, then run `dropcloth recover` on the image.",
    )?;
    fs::syncfs(image.directory())?;
    journal::finish(directory)
}

/// What the name of the directory in the image's root begins with.
const MOVED: &str = ".dropcloth-";

/// The name also tells the root's time of modification, which the directory itself changes: a power cut can leave the directory
/// alone behind.
fn moved_name(id: &str, root: Times) -> String {
    let (seconds, nanoseconds) = root.mtime;
    format!("{MOVED}{id}-{seconds}.{nanoseconds:09}")
}

/// The id and the time of modification, seconds and nanoseconds, in such a name.
pub(super) fn parse_moved_name(name: &str) -> Option<(&str, (i64, i64))> {
    let (id, time) = name.strip_prefix(MOVED)?.split_once('-')?;
    let (seconds, nanoseconds) = time.split_once('.')?;
    let valid = transaction::is_id(id) && nanoseconds.len() == 9 && nanoseconds.bytes().all(|b| b.is_ascii_digit());
    Some((id, (seconds.parse().ok()?, nanoseconds.parse().ok()?))).filter(|_| valid)
}

/// Commits a transaction that is on another file system: everything is first copied to a directory in the image's root, so
/// that the commit itself is the same list of renames. The state says so beforehand, so that a crash is cleaned up.
fn commit_moved(transaction: &mut Transaction, image: &Image) -> Result<()> {
    let doing = || format!("cannot copy the changes to the file system of {}", image.path().display());
    let root_times = Times::of(&fs::fstat(image.directory()).doing(doing)?);
    let name = moved_name(&transaction.state.id, root_times);
    transaction.state.moved_to = Some(name.clone());
    transaction.state.root_times = Some(root_times);
    transaction.state.save_durably(transaction.directory()).doing(doing)?;
    let result = commit_copy(transaction, image, &name);
    if result.is_err() && !is_decided(image, &name) {
        take_back_moved(transaction, image, &name)?;
    }
    finish_moved(transaction, image, &name, &result?)
}

fn commit_copy(transaction: &Transaction, image: &Image, name: &str) -> Result<Vec<Record>> {
    let doing = || format!("cannot copy the changes to the file system of {}", image.path().display());
    let directory = copy_over(transaction, image, name).doing(doing)?;
    // The new directory changed them, and the scan asks whether the step did.
    if let Some(times) = transaction.state.root_times {
        fs::set_times_of(image.directory(), times).doing(doing)?;
    }
    // Scanned again: inode numbers of the copies are what the records have to name.
    let (_, records) = scan_in(directory.as_fd(), &transaction.state, image.directory(), &mut |_| {})?;
    commit_here(directory.as_fd(), &transaction.state, image, &records)?;
    Ok(records)
}

fn is_decided(image: &Image, name: &str) -> bool {
    let directory = fs::open_dir(image.directory(), name.as_bytes());
    directory.is_ok_and(|directory| !matches!(journal::progress(directory.as_fd()), Ok(Progress::Open)))
}

/// The commit is finished, and its directory in the image's root goes. Which times the root has without it is written down
/// before, since the records go with it; and it is gone from the disk before the transaction goes from the other one.
fn finish_moved(transaction: &mut Transaction, image: &Image, name: &str, records: &[Record]) -> Result<()> {
    transaction.state.root_times = last_times(records).or(transaction.state.root_times);
    // A kept one that is found without the directory was not committed.
    transaction.state.kept = false;
    leave(transaction, image, name)
}

/// Nothing is committed: the image's root is as it was, and the transaction as before it moved.
fn take_back_moved(transaction: &mut Transaction, image: &Image, name: &str) -> Result<()> {
    leave(transaction, image, name)?;
    transaction.state.moved_to = None;
    transaction.state.leaving = false;
    let _ = transaction.state.save_durably(transaction.directory());
    Ok(())
}

/// The state is for a crash in the middle: a disk that has no room for it must not keep the image from being put right.
fn leave(transaction: &mut Transaction, image: &Image, name: &str) -> Result<()> {
    transaction.state.leaving = true;
    let _ = transaction.state.save_durably(transaction.directory());
    remove_moved(image, name, transaction.state.root_times)
}

pub(super) fn last_times(records: &[Record]) -> Option<Times> {
    records.iter().find_map(|r| match r {
        Record::Meta { at, times, .. } if at.is_root() => Some(*times),
        _ => None,
    })
}

fn copy_over(transaction: &Transaction, image: &Image, name: &str) -> Result<OwnedFd> {
    fs::mkdir(image.directory(), name.as_bytes(), 0o700)?;
    if let Some(times) = transaction.state.root_times {
        fs::set_times_of(image.directory(), times)?;
    }
    let directory = fs::open_dir(image.directory(), name.as_bytes())?;
    disinherit(directory.as_fd())?;
    // Memory does not survive a power cut, and may be where the transaction is: then this is all there is to go on with.
    State { moved_to: None, same_file_system: true, ..transaction.state.clone() }.save(directory.as_fd())?;
    fs::mkdir(directory.as_fd(), b"work", 0o700)?;
    let copier = copy::Copier::default();
    copier.tree(transaction.directory(), b"upper", directory.as_fd())?;
    let work = fs::open_dir(transaction.directory(), b"work")?;
    if fs::stat(work.as_fd(), b"index")?.is_some() {
        let target = fs::open_dir(directory.as_fd(), b"work")?;
        copier.tree(work.as_fd(), b"index", target.as_fd())?;
    }
    copier.finish()?;
    Ok(directory)
}

pub(super) fn remove_moved(image: &Image, name: &str, root_times: Option<Times>) -> Result<()> {
    let remove = || discard::remove_tree(image.directory(), name.as_bytes());
    match root_times {
        Some(times) => root_times::keep(image, times, remove)?,
        None => remove()?,
    }
    Ok(fs::syncfs(image.directory())?)
}

/// Recovers a transaction whose commit had moved into the image's file system.
pub fn recover_moved(mut transaction: Transaction, image: &Image, name: &str) -> Result<Recovered> {
    let directory = match fs::open_dir(image.directory(), name.as_bytes()) {
        Err(error) if error.errno == libc::ENOENT => None,
        other => Some(other?),
    };
    let gone = directory.is_none();
    let progress = directory.as_ref().map(|d| journal::progress(d.as_fd())).transpose()?;
    let records = match (progress, &directory) {
        (Some(Progress::Decided(records)), Some(directory)) => {
            redo_in(directory.as_fd(), &transaction.state, image, &records, false)?;
            Some(records)
        }
        (Some(Progress::Done), Some(directory)) => Some(journal::finished(directory.as_fd())?),
        _ => None,
    };
    drop(directory);
    if let Some(records) = records {
        finish_moved(&mut transaction, image, name, &records)?;
        transaction.remove()?;
        return Ok(Recovered::Finished);
    }
    // Without the directory, somebody may have changed the root since.
    if gone && !transaction.state.leaving {
        transaction.state.root_times = None;
    }
    take_back_moved(&mut transaction, image, name)?;
    if transaction.state.kept {
        return Ok(Recovered::Kept);
    }
    transaction.remove()?;
    Ok(Recovered::Removed)
}
