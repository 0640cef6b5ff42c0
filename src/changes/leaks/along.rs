//! Searches what the step changed while the list of it still grows, by several threads.

use std::cell::LazyCell;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use aho_corasick::BuildError;

use super::search::Pattern;
use super::{Leak, Needle};
use crate::changes::{Change, Kind, Policy, What};
use crate::error::Result;
use crate::sys::process;

/// So many changes are handed over at once; fewer are searched sooner than a thread is started.
const BATCH: usize = 500;

/// What makes the needles, once there is something to search.
pub type Needles<'n> = &'n (dyn Fn() -> Vec<Needle> + Sync);

/// Hands over the changes of a list that grows.
pub struct Feed<'f> {
    policy: &'f Policy,
    taken: usize,
    /// Takes a batch; `true`: there may be more.
    sink: &'f mut dyn FnMut(Vec<Change>, bool),
}

impl Feed<'_> {
    /// What is new in the list, as far as it is much.
    pub fn offer(&mut self, list: &[Change]) {
        while list.len() >= self.taken + BATCH {
            self.pass(&list[..self.taken + BATCH], true);
        }
    }

    /// All that is new in the list.
    pub fn rest(&mut self, list: &[Change]) {
        self.offer(list);
        self.pass(list, false);
    }

    fn pass(&mut self, list: &[Change], more: bool) {
        let wanted = |c: &&Change| {
            matches!(c.what, What::Added | What::Modified)
                && matches!(c.kind, Kind::File | Kind::Link)
                && !self.policy.overrides.contains_key(&c.path)
        };
        let batch: Vec<Change> = list[self.taken..].iter().filter(wanted).cloned().collect();
        self.taken = list.len();
        if !batch.is_empty() {
            (self.sink)(batch, more);
        }
    }
}

/// Searches every new and changed file and link of `upper` for the needles, while `scan` reads it and feeds them. The traces are
/// in the order in which they were fed; all threads have ended.
pub fn along<T>(
    upper: BorrowedFd<'_>,
    policy: &Policy,
    needles: Needles<'_>,
    scan: impl FnOnce(&mut Feed<'_>) -> Result<T>,
) -> Result<(T, Vec<Leak>)> {
    let hunt = Hunt { upper, needles, pattern: OnceLock::new(), queue: Mutex::default(), more: Condvar::new() };
    // Two on one processor: what a kept transaction holds may have to come from the disk.
    let threads = LazyCell::new(|| process::worth_threads().max(2));
    thread::scope(|scope| {
        let open = Open(&hunt);
        let mut helpers = Vec::new();
        let mut sink = |batch, more: bool| {
            hunt.add(batch);
            if more && helpers.len() + 1 < *threads {
                // As many processes as the user may have (setrlimit(2), RLIMIT_NPROC): then there are fewer.
                helpers.extend(thread::Builder::new().spawn_scoped(scope, || hunt.work()).ok());
            }
        };
        let scanned = scan(&mut Feed { policy, taken: 0, sink: &mut sink });
        if scanned.is_err() {
            hunt.queue().batches.clear();
        }
        drop(open);
        let scanned = scanned?;
        let mut found = hunt.work()?;
        for helper in helpers {
            found.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        found.sort_unstable_by_key(|(number, _)| *number);
        Ok((scanned, found.into_iter().flat_map(|(_, leaks)| leaks).collect()))
    })
}

/// What the threads share.
struct Hunt<'h> {
    upper: BorrowedFd<'h>,
    needles: Needles<'h>,
    /// Made by the first thread that has something to search: it costs more than most searches.
    pattern: OnceLock<std::result::Result<Option<Pattern>, BuildError>>,
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    /// With their numbers.
    batches: VecDeque<(usize, Vec<Change>)>,
    added: usize,
    /// No batch comes any more.
    closed: bool,
}

impl Hunt<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, batch: Vec<Change>) {
        let mut queue = self.queue();
        let number = queue.added;
        queue.added += 1;
        queue.batches.push_back((number, batch));
        self.more.notify_one();
    }

    /// The next batch; none: there comes no more.
    fn next(&self) -> Option<(usize, Vec<Change>)> {
        let waits = |queue: &mut Queue| queue.batches.is_empty() && !queue.closed;
        let queue = self.more.wait_while(self.queue(), waits);
        queue.unwrap_or_else(PoisonError::into_inner).batches.pop_front()
    }

    fn work(&self) -> Result<Vec<(usize, Vec<Leak>)>> {
        let (mut found, mut search) = (Vec::new(), None);
        while let Some((number, batch)) = self.next() {
            let pattern = self.pattern.get_or_init(|| Pattern::new((self.needles)()));
            let Some(pattern) = pattern.as_ref().map_err(Clone::clone)? else { continue };
            let search = search.get_or_insert_with(|| pattern.begin());
            found.push((number, search.all(self.upper, &batch)?));
        }
        Ok(found)
    }
}

/// While it lives, threads that find no batch wait for one.
struct Open<'h, 'n>(&'h Hunt<'n>);

impl Drop for Open<'_, '_> {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::image::Inside;

    /// A file for each number, and what is searched for in some of them.
    fn files(upper: &std::path::Path, count: usize) -> (Vec<Change>, Vec<Inside>) {
        let (mut list, mut expected) = (Vec::new(), Vec::new());
        for number in 0..count {
            let path = Inside::root().join(number.to_string().as_bytes());
            let text = if number % 400 == 399 { "file:///tmp/pypi" } else { "nothing" };
            std::fs::write(upper.join(path.as_path()), text).unwrap();
            if text != "nothing" {
                expected.push(path.clone());
            }
            list.push(Change { path, what: What::Added, kind: Kind::File, bytes: text.len() as u64, from: None });
        }
        (list, expected)
    }

    fn search(upper: &std::path::Path, list: &[Change]) -> Result<Vec<Leak>> {
        let directory = std::fs::File::open(upper).unwrap();
        let needles = || vec![Needle::new("the mirror", b"/tmp/pypi").unwrap()];
        let feed = |feed: &mut Feed<'_>| {
            (0..list.len()).for_each(|end| feed.offer(&list[..end]));
            feed.rest(list);
            Ok(())
        };
        Ok(along(directory.as_fd(), &Policy::default(), &needles, feed)?.1)
    }

    #[test]
    fn each_of_many_files_is_searched_and_told_in_the_order_of_the_list() {
        let upper = tempfile::tempdir().unwrap();
        let (mut list, expected) = files(upper.path(), BATCH * 8 + 7);
        let found = search(upper.path(), &list).unwrap();
        assert_eq!(found.into_iter().map(|leak| leak.path).collect::<Vec<_>>(), expected);
        // By whichever thread: a trace in a file that cannot be read would be committed.
        for number in [5, BATCH + 5, list.len() - 1] {
            let path = std::mem::replace(&mut list[number].path, Inside::root().join(b"missing"));
            assert!(search(upper.path(), &list).is_err(), "{number}");
            list[number].path = path;
        }
    }

    #[test]
    fn a_scan_that_fails_ends_the_search_with_its_error() {
        let upper = tempfile::tempdir().unwrap();
        let (list, _) = files(upper.path(), BATCH * 2);
        let directory = std::fs::File::open(upper.path()).unwrap();
        let failing = |feed: &mut Feed<'_>| {
            feed.offer(&list);
            crate::error::refuse::<()>(crate::error::Fault::new("the disk"))
        };
        let needles = || vec![Needle::new("the mirror", b"/tmp/pypi").unwrap()];
        let error = along(directory.as_fd(), &Policy::default(), &needles, failing).unwrap_err();
        assert!(error.to_string().contains("the disk"));
    }
}
