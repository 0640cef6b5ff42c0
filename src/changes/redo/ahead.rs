//! Moves of many new files by several threads, before the other records.
//!
//! The kernel has one lock for all renames between directories of a file system (`s_vfs_rename_mutex`, filesystems/directory-locking
//! of its documentation): a second thread that renames only waits for the first. A second name by link(2) and the end of the
//! first by unlink(2) take a tenth longer than a rename and need no lock but those of their directories. So one thread renames,
//! and the others do that.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::Redo;
use crate::changes::record::Record;
use crate::image::Inside;
use crate::sys::process;

/// Fewer files are moved sooner than a thread is started.
const FEWEST: usize = 1000;

/// Moves the files that the image does not have into directories that it has, where that may be done before everything else.
/// Which records are done: what failed is not, and tells why when it is applied in its turn. An interruption leaves what one
/// between two records leaves, or a file with both names, of which a redo takes the upper's away.
pub fn moves(redo: &mut Redo<'_>, records: &[Record]) -> Vec<AtomicBool> {
    let moves = records.iter().filter(|record| file(record).is_some()).count();
    // A directory that is placed is not yet where the files below it go.
    if moves < FEWEST || records.iter().any(|record| matches!(record, Record::Place { .. })) {
        return Vec::new();
    }
    // Asked last: it reads files of the kernel.
    let threads = process::worth_threads();
    if threads < 2 {
        return Vec::new();
    }
    let done = records.iter().map(|_| AtomicBool::new(false)).collect();
    let list = List { records, parts: parts(records), next: AtomicUsize::new(0), done };
    let (image, transaction, prefix) = (redo.image, redo.transaction, redo.prefix);
    thread::scope(|scope| {
        let link = || {
            if let Ok(mut redo) = Redo::new(image, transaction, prefix) {
                list.work(|at| redo.link_new(at));
            }
        };
        // As many processes as the user may have (setrlimit(2), RLIMIT_NPROC): then there are fewer.
        (1..threads).for_each(|_| drop(thread::Builder::new().spawn_scoped(scope, link)));
        list.work(|at| redo.move_new(at, false).unwrap_or(false));
    });
    list.done
}

/// The place of a file that the image does not have.
fn file(record: &Record) -> Option<&Inside> {
    match record {
        Record::Move { at, new: true, directory: false, .. } => Some(at),
        _ => None,
    }
}

/// The records by the directory of their files: threads in one and the same wait for each other.
fn parts(records: &[Record]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut last = None;
    for (number, at) in records.iter().enumerate().filter_map(|(number, record)| Some((number, file(record)?))) {
        let directory = at.split_bytes().map(|(directory, _)| directory);
        match parts.last_mut().filter(|_| last == Some(directory)) {
            Some(part) => part.end = number + 1,
            None => parts.push(number..number + 1),
        }
        last = Some(directory);
    }
    parts
}

struct List<'r> {
    records: &'r [Record],
    parts: Vec<Range<usize>>,
    /// The first part that nobody works at.
    next: AtomicUsize,
    done: Vec<AtomicBool>,
}

impl List<'_> {
    /// Moves part after part until none is left.
    fn work(&self, mut act: impl FnMut(&Inside) -> bool) {
        while let Some(part) = self.parts.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            for number in part.clone() {
                if let Some(at) = file(&self.records[number]) {
                    self.done[number].store(act(at), Ordering::Relaxed);
                }
            }
        }
    }
}
