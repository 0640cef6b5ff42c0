//! Copies the directories of a tree by several threads: each directory is one thread's, with the files in it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{FileType, Stat};

use super::Copier;
use crate::error::{Doing, Result};
use crate::sys::{fs, process};

/// So many entries are copied sooner than threads are started.
const ALONE: usize = 500;

/// A directory that is being copied. It gets its attributes when all below it has been: each new entry changes its times.
pub(super) struct Folder {
    from: OwnedFd,
    to: Arc<OwnedFd>,
    stat: Stat,
    above: Option<Arc<Folder>>,
    /// Directories in it that are not done, and one for itself.
    open: AtomicUsize,
}

impl Folder {
    /// The top of a tree.
    pub fn new(from: OwnedFd, to: OwnedFd, stat: Stat) -> Folder {
        Folder { from, to: Arc::new(to), stat, above: None, open: AtomicUsize::new(1) }
    }

    fn enter(above: Arc<Folder>, name: &[u8], stat: Stat) -> Result<Folder> {
        fs::mkdir(above.to.as_fd(), name, 0o700)?;
        let (from, to) = (fs::open_dir(above.from.as_fd(), name)?, fs::open_dir(above.to.as_fd(), name)?);
        Ok(Folder { above: Some(above), ..Folder::new(from, to, stat) })
    }
}

/// A directory that nobody works at yet.
struct Task {
    above: Arc<Folder>,
    name: Vec<u8>,
    stat: Stat,
}

#[derive(Default)]
struct Queue {
    /// Taken from the end, so that few directories are open at a time.
    tasks: Vec<Task>,
    /// Directories that some thread works at.
    busy: usize,
    failed: Option<anyhow::Error>,
}

struct Crew<'c> {
    copier: &'c Copier,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Entries copied.
    copied: AtomicUsize,
}

/// Copies the directory with all that is in it.
pub(super) fn copy(copier: &Copier, top: Folder) -> Result<()> {
    let queue = Mutex::new(Queue { busy: 1, ..Queue::default() });
    let crew = Crew { copier, queue, changed: Condvar::new(), copied: AtomicUsize::new(0) };
    thread::scope(|scope| {
        let mut helpers = 0;
        let mut result = crew.folder(top);
        loop {
            crew.done(result);
            if helpers == 0 && crew.copied.load(Ordering::Relaxed) >= ALONE {
                helpers = process::worth_threads();
                // As many processes as the user may have (setrlimit(2), RLIMIT_NPROC): then there are fewer.
                (1..helpers).for_each(|_| drop(thread::Builder::new().spawn_scoped(scope, || crew.work())));
            }
            let Some(task) = crew.next() else { break };
            result = crew.task(task);
        }
    });
    crew.queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed.map_or(Ok(()), Err)
}

impl Crew<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            self.done(self.task(task));
        }
    }

    /// The next directory; none: there comes no more.
    fn next(&self) -> Option<Task> {
        let waits = |queue: &mut Queue| queue.tasks.is_empty() && queue.busy > 0;
        let mut queue = self.changed.wait_while(self.queue(), waits).unwrap_or_else(PoisonError::into_inner);
        let task = queue.tasks.pop()?;
        queue.busy += 1;
        Some(task)
    }

    /// After the first error, nothing is begun any more.
    fn done(&self, result: Result<()>) {
        let mut queue = self.queue();
        queue.busy -= 1;
        if let Err(error) = result {
            queue.failed.get_or_insert(error);
        }
        if queue.failed.is_some() {
            queue.tasks.clear();
        }
        if queue.busy == 0 {
            self.changed.notify_all();
        }
    }

    fn task(&self, task: Task) -> Result<()> {
        let Task { above, name, stat } = task;
        Folder::enter(above, &name, stat)
            .and_then(|folder| self.folder(folder))
            .doing(|| format!("cannot copy what is in {}", name.escape_ascii()))
    }

    fn folder(&self, folder: Folder) -> Result<()> {
        let folder = Arc::new(folder);
        let mut below = Vec::new();
        for entry in fs::entries(folder.from.as_fd())? {
            let Some(stat) = fs::stat(folder.from.as_fd(), &entry.name)? else { continue };
            self.copied.fetch_add(1, Ordering::Relaxed);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                below.push(Task { above: Arc::clone(&folder), name: entry.name, stat });
            } else {
                self.copier.entry(folder.from.as_fd(), &entry.name, &stat, &folder.to)?;
            }
        }
        if !below.is_empty() {
            folder.open.fetch_add(below.len(), Ordering::Relaxed);
            self.queue().tasks.extend(below);
            self.changed.notify_all();
        }
        self.leave(folder)
    }

    /// Whoever is the last to leave a directory gives it its attributes, and leaves the one above.
    fn leave(&self, folder: Arc<Folder>) -> Result<()> {
        let mut next = Some(folder);
        while let Some(folder) = next {
            if folder.open.fetch_sub(1, Ordering::AcqRel) > 1 {
                break;
            }
            let target = fs::open_dir(folder.to.as_fd(), b".")?;
            self.copier.attributes(folder.from.as_fd(), &folder.stat, target)?;
            next = folder.above.clone();
        }
        Ok(())
    }
}
