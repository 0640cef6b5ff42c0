//! What a dead runner left: finished when its commit was decided, removed when not.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode as OpenMode, OFlags};

use super::journal::{self, Progress};
use super::{State, Transaction};
use crate::changes::{commit, discard, orphan, replica};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Image;
use crate::settings::Mode;
use crate::sys::fs;

/// What was done with one transaction.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovered {
    /// An interrupted commit was finished.
    Finished,
    /// An uncommitted transaction was removed.
    Removed,
    /// What a run that wrote straight to the image had made in it for itself was removed.
    Cleared,
    /// It is kept on purpose.
    Kept,
    /// Somebody works on it.
    Busy,
}

/// The status of a transaction that somebody works at.
pub const RUNNING: &str = "running";

/// One transaction on disk.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Listed {
    /// Name in commands.
    pub id: String,
    /// Its directory.
    pub path: PathBuf,
    /// The image's path.
    pub image: PathBuf,
    /// `running`, `attached`, `kept`, `interrupted commit` or `left behind`.
    pub status: String,
    /// Process id of its runner.
    pub pid: u32,
    /// Seconds since 1970.
    pub started: u64,
}

/// The transactions in a storage, without those that are being removed.
fn directories(place: &Path) -> Vec<PathBuf> {
    entries(place).unwrap_or_default().into_iter().filter(|path| !is_waste(path)).collect()
}

/// What is called as a transaction in a storage, by name; `None`: there is no such storage.
fn entries(place: &Path) -> Option<Vec<PathBuf>> {
    let storage =
        rustix::fs::open(place, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, OpenMode::empty()).ok()?;
    let entries = fs::entries(storage.as_fd()).ok()?;
    let called = |name: &[u8]| {
        let name = name.strip_suffix(super::WASTE.as_bytes()).unwrap_or(name);
        name.rsplit(|b| *b == b'.').next().is_some_and(super::is_id)
    };
    Some(entries.iter().filter(|e| called(&e.name)).map(|e| place.join(OsStr::from_bytes(&e.name))).collect())
}

/// All transactions in `places`; of `image` only, when one is given.
pub fn list(places: &[PathBuf], image: Option<&Image>) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    for path in places.iter().flat_map(|p| directories(p)) {
        let Some(state) = peek(&path) else { continue };
        // One without a state is just being made or was killed in its first moments: nobody can name it yet.
        if state.id.is_empty() {
            continue;
        }
        if let Some(image) = image
            && !is_of(&state, &path, image)?
        {
            continue;
        }
        let status = match status(&path, &state) {
            Err(error) if super::vanished(&error) => continue,
            other => other?,
        };
        found.push(Listed {
            id: state.name.unwrap_or(state.id),
            path,
            image: state.image,
            status: status.to_owned(),
            pid: state.pid,
            started: state.started,
        });
    }
    Ok(found)
}

/// A shared lock tells whether somebody works at it, and keeps nobody from telling the same.
fn status(path: &Path, state: &State) -> Result<&'static str> {
    let directory = super::open_owned(path)?;
    if !fs::try_lock(directory.as_fd(), false)? {
        return Ok(RUNNING);
    }
    Ok(match state {
        State { attached: true, .. } => "attached",
        State { kept: true, .. } => "kept",
        _ if !matches!(journal::progress(directory.as_fd()), Ok(Progress::Open)) => "interrupted commit",
        _ => "left behind",
    })
}

/// One that vanishes while it is looked at is nobody's.
fn is_of(state: &State, path: &Path, image: &Image) -> Result<bool> {
    match super::open_owned(path) {
        Ok(directory) => state.is_of(directory.as_fd(), image),
        Err(_) => Ok(false),
    }
}

fn peek(path: &Path) -> Option<State> {
    let directory = super::open_owned(path).ok()?;
    State::load(directory.as_fd()).ok()
}

/// Recovers every transaction of `image` in `places`. The image's exclusive lock is held by the caller.
pub fn recover(places: &[PathBuf], image: &Image) -> Result<Vec<(PathBuf, Recovered)>> {
    let mut done = Vec::new();
    for place in places {
        let Some(entries) = entries(place) else { continue };
        let (waste, directories): (Vec<PathBuf>, _) = entries.into_iter().partition(|path| is_waste(path));
        sweep(place, &waste, image)?;
        for path in directories {
            let Some(state) = peek(&path) else { continue };
            if state.id.is_empty() {
                done.extend(recover_nameless(place, &path, image)?.map(|what| (path, what)));
            } else if is_of(&state, &path, image)? {
                let what = recover_one(&path, image)?;
                done.push((path, what));
            }
        }
        // A runner killed between two calls can leave the directory empty; with anything in it, it stays.
        let _ = std::fs::remove_dir(place);
    }
    let orphans = orphan::recover(image)?;
    done.extend(orphans.into_iter().map(|(name, what)| (image.path().join(name), what)));
    Ok(done)
}

/// The storage, locked so that nobody can be making or removing a transaction in it; `None` when somebody is.
fn alone_in(place: &Path) -> Result<Option<OwnedFd>> {
    let Ok(base) = super::open_owned(place) else { return Ok(None) };
    Ok(fs::try_lock(base.as_fd(), true)?.then_some(base))
}

/// Removes what was being removed already.
fn sweep(place: &Path, waste: &[PathBuf], image: &Image) -> Result<()> {
    if waste.is_empty() {
        return Ok(());
    }
    let Some(base) = alone_in(place)? else { return Ok(()) };
    for name in waste.iter().filter(|path| bears_the_name(path, image)).filter_map(|path| path.file_name()) {
        discard::remove_tree(base.as_fd(), name.as_bytes())?;
    }
    Ok(())
}

/// One without a state, or with one that a power cut tore: it was killed in its first moments, or never synced, and no image
/// has anything of it. A scratch directory may hold whatever its owner likes: only what has the name of a transaction of an
/// image so called, and nothing in it but what a transaction has, is taken for one.
fn recover_nameless(place: &Path, path: &Path, image: &Image) -> Result<Option<Recovered>> {
    if !bears_the_name(path, image) || !has_nothing_else(super::open_owned(path)?.as_fd())? {
        return Ok(None);
    }
    let Some(base) = alone_in(place)? else { return Ok(None) };
    let Some(transaction) = Transaction::take(path)? else { return Ok(None) };
    // Held from here on by the transaction's own lock.
    drop(base);
    if !transaction.state.id.is_empty() {
        return Ok(None);
    }
    transaction.remove()?;
    Ok(Some(Recovered::Removed))
}

fn is_waste(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(super::WASTE.as_bytes())
}

/// Whether `path` is called as a transaction of an image with the name of this one.
fn bears_the_name(path: &Path, image: &Image) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.strip_suffix(super::WASTE).unwrap_or(&name);
    name.strip_prefix(&format!("{}.", super::printable(image.path()))).is_some_and(super::is_id)
}

/// Whether all that is in the directory is what a transaction has that is not decided.
pub fn has_nothing_else(directory: BorrowedFd<'_>) -> Result<bool> {
    let known = [
        &b"state"[..],
        b"state.tmp",
        b"plan.tmp",
        b"before",
        b"before.new",
        b"scaffold",
        b"stage",
        b"trash",
        replica::TREE,
        b"probe",
        b"tick",
    ];
    let entries = fs::entries(directory)?;
    Ok(entries.iter().all(|e| known.contains(&&e.name[..]) || super::DIRECTORIES.contains(&&e.name[..])))
}

fn recover_one(path: &Path, image: &Image) -> Result<Recovered> {
    let Some(mut transaction) = Transaction::take(path)? else { return Ok(Recovered::Busy) };
    if transaction.state.attached {
        return Ok(Recovered::Kept);
    }
    if transaction.state.mode == Mode::Through {
        transaction.clear(image.directory())?;
        transaction.remove()?;
        return Ok(Recovered::Cleared);
    }
    if let Some(name) = transaction.state.moved_to.clone() {
        return commit::recover_moved(transaction, image, &name);
    }
    if replica::finish(&transaction.state, image)? {
        transaction.remove()?;
        return Ok(Recovered::Finished);
    }
    match journal::progress(transaction.directory())? {
        Progress::Done => {
            transaction.remove()?;
            Ok(Recovered::Finished)
        }
        Progress::Decided(records) => {
            commit::redo(&transaction, image, &records)
                .doing(|| format!("cannot finish the interrupted commit in {}", path.display()))?;
            transaction.remove()?;
            Ok(Recovered::Finished)
        }
        Progress::Open if transaction.state.kept => Ok(Recovered::Kept),
        Progress::Open => {
            transaction.remove()?;
            Ok(Recovered::Removed)
        }
    }
}

/// What is attached to `image`, or, when that is gone, what was attached at `path`.
pub fn attached(places: &[PathBuf], image: Option<&Image>, path: &Path) -> Result<Option<Transaction>> {
    let found =
        list(places, image)?.into_iter().find(|t| t.status == "attached" && (image.is_some() || t.image == path));
    found.map(|t| take(&t.path)).transpose()
}

/// Finds one transaction: by its directory, by its id or name in `near` or else in `noted` places, or as the only one of the
/// image that `what` names.
pub fn find((near, noted): (&[PathBuf], &[PathBuf]), state: &Path, what: &str) -> Result<Transaction> {
    let path = Path::new(what);
    // Of a run straight into an image it is the target of a link.
    if std::fs::symlink_metadata(path.join("state")).is_ok() {
        return take(&std::fs::canonicalize(path)?);
    }
    let called = |state: State| state.id == what || state.name.as_deref() == Some(what);
    let by_id = |path: &PathBuf| peek(path).is_some_and(called);
    if let Some(path) = near.iter().flat_map(|p| directories(p)).find(by_id) {
        return take(&path);
    }
    let elsewhere: Vec<PathBuf> = noted.iter().flat_map(|p| directories(p)).filter(by_id).collect();
    match &elsewhere[..] {
        [only] => return take(only),
        [] => {}
        several => {
            let directories: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            return refuse(
                Fault::new(format!("there are {} transactions called {what:?}", several.len()))
                    .hint(format!("Name one by its directory: {}.", directories.join(", "))),
            );
        }
    }
    if path.is_dir() {
        let image = Image::open(path)?;
        let places = [super::places(image.path(), state, None), noted.to_vec()].concat();
        return only_one(&list(&distinct(places), Some(&image))?, image.path());
    }
    refuse(
        Fault::new(format!("there is no transaction {what:?}"))
            .hint("Give the image's directory or the transaction's: `dropcloth list ROOT` shows them with their ids."),
    )
}

fn only_one(found: &[Listed], image: &Path) -> Result<Transaction> {
    if let [only] = found {
        return take(&only.path);
    }
    let ids: Vec<String> = found.iter().map(|t| format!("{} ({})", t.id, t.status)).collect();
    refuse(match ids.is_empty() {
        true => Fault::new(format!("there is no transaction on {}", image.display())),
        false => Fault::new(format!("there are {} transactions on {}", ids.len(), image.display()))
            .hint(format!("Name one of them: {}.", ids.join(", "))),
    })
}

/// Each place once, where it is first, however it is spelt.
pub fn distinct(places: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = std::collections::BTreeSet::new();
    let real = |place: &PathBuf| std::fs::canonicalize(place).unwrap_or_else(|_| place.clone());
    places.into_iter().filter(|place| seen.insert(real(place))).collect()
}

fn take(path: &Path) -> Result<Transaction> {
    const TRIES: usize = 10_000;
    for _ in 0..TRIES {
        if let Some(transaction) = Transaction::take(path)? {
            return Ok(transaction);
        }
        // Whoever only looks has a shared lock, for a moment.
        if !fs::try_lock(super::open_owned(path)?.as_fd(), false)? {
            break;
        }
        std::thread::yield_now();
    }
    refuse(
        Fault::new(format!("the transaction {} is in use by a running step", path.display()))
            .hint("Wait until that run has ended; `dropcloth list` shows it."),
    )
}
