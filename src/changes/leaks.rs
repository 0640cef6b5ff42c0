//! Traces of the run in what would be committed: the mirror's path in a lock file, a password in a log, a copied secret.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aho_corasick::{AhoCorasick, MatchKind};
use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use super::record::Hex;
use super::{Change, Changes, Kind, Policy, What};
use crate::error::{Doing, Result};
use crate::image::Inside;
use crate::sys::fs::{self, Times};

/// Something that must not be in a committed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needle {
    /// What it is, in words.
    pub what: String,
    /// Its bytes.
    pub text: Hex,
}

impl Needle {
    /// A needle; none when the bytes are too few to mean anything.
    pub fn new(what: impl Into<String>, text: &[u8]) -> Option<Needle> {
        let text = text.trim_ascii();
        (text.len() >= SHORTEST)
            .then(|| Needle { what: what.into(), text: Hex(text[..text.len().min(LONGEST)].to_vec()) })
    }
}

/// Shorter texts are found everywhere by chance.
const SHORTEST: usize = 5;
/// The first bytes of a whole file are enough to know it again.
const LONGEST: usize = 256;
/// Shorter overrides are no trace: `#!/bin/sh` and an exit.
const SHORTEST_OVERRIDE: usize = 20;
/// More hits than this in one file are the same hit.
const HITS_PER_FILE: usize = 5;
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Fewer files are searched sooner than a thread is started.
const FILES_PER_THREAD: usize = 500;
const THREADS: usize = 4;

/// Where a trace was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// The file.
    pub path: Inside,
    /// Line, counted from 1; none in a file that is not text, and in a link.
    pub line: Option<u64>,
    /// Byte, counted from 0.
    pub offset: u64,
    /// What was found.
    pub what: String,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.what),
            None => write!(f, "{} (byte {}): {}", self.path, self.offset, self.what),
        }
    }
}

/// A trace of a secret, found right after the step that had it: the secret itself is not kept for the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    leak: Leak,
    /// The file as it was: a later step that wrote to it was searched too.
    size: i64,
    mtime: (i64, i64),
}

impl Remembered {
    /// Remembers `leak` in `upper`.
    pub fn new(upper: BorrowedFd<'_>, leak: Leak) -> Result<Option<Remembered>> {
        let stat = stat_below(upper, &leak.path)?;
        Ok(stat.map(|stat| Remembered { leak, size: stat.st_size, mtime: Times::of(&stat).mtime }))
    }

    /// The trace, if the file is still the same.
    pub fn still(&self, upper: BorrowedFd<'_>) -> Result<Option<Leak>> {
        let stat = stat_below(upper, &self.leak.path)?;
        let same = stat.is_some_and(|s| s.st_size == self.size && Times::of(&s).mtime == self.mtime);
        Ok(same.then(|| self.leak.clone()))
    }
}

/// What is at `path` below a directory, no link followed.
pub(super) fn stat_below(upper: BorrowedFd<'_>, path: &Inside) -> Result<Option<Stat>> {
    let Some((parent, name)) = path.split() else { return Ok(None) };
    match fs::open_dir_below(upper, parent.bytes()) {
        Ok(directory) => Ok(fs::stat(directory.as_fd(), name)?),
        Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP].contains(&error.errno) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The contents of an override: a step that copies it leaves them in the image.
pub fn override_needle(path: &Inside, text: &[u8]) -> Option<Needle> {
    let long = text.trim_ascii().len() >= SHORTEST_OVERRIDE;
    Needle::new(format!("the contents of {path}, which was laid over"), text).filter(|_| long)
}

/// Searches every new and changed file and link of `upper` for the needles, many of them by several threads, which end with it.
pub fn scan(upper: BorrowedFd<'_>, changes: &Changes, policy: &Policy, needles: &[Needle]) -> Result<Vec<Leak>> {
    let wanted = |c: &&Change| {
        matches!(c.what, What::Added | What::Modified)
            && matches!(c.kind, Kind::File | Kind::Link)
            && !policy.overrides.contains_key(&c.path)
    };
    let wanted: Vec<&Change> = changes.list.iter().filter(wanted).collect();
    // The automaton costs more than most searches.
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let Some(pattern) = &Pattern::new(needles)? else { return Ok(Vec::new()) };
    let threads = (wanted.len() / FILES_PER_THREAD).clamp(1, THREADS);
    let mut parts = wanted.chunks(wanted.len().div_ceil(threads));
    let own = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let start = |part| (part, std::thread::Builder::new().spawn_scoped(scope, move || pattern.search(upper, part)));
        let others: Vec<_> = parts.map(start).collect();
        let mut found = pattern.search(upper, own)?;
        for (part, other) in others {
            found.extend(match other {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
                // As many processes as the user may have (setrlimit(2), RLIMIT_NPROC).
                Err(_) => pattern.search(upper, part)?,
            });
        }
        Ok(found)
    })
}

/// What is searched for.
struct Pattern<'n> {
    needles: &'n [Needle],
    automaton: AhoCorasick,
    longest: usize,
}

impl<'n> Pattern<'n> {
    /// None: there is nothing to search for.
    fn new(needles: &'n [Needle]) -> Result<Option<Pattern<'n>>> {
        let Some(longest) = needles.iter().map(|n| n.text.0.len()).max() else { return Ok(None) };
        // The longest first: the credentials in a URL are told, not the URL's beginning.
        let automaton =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(needles.iter().map(|n| &n.text.0))?;
        Ok(Some(Pattern { needles, automaton, longest }))
    }

    fn begin(&self) -> Search<'_> {
        Search { pattern: self, buffer: vec![0; CHUNK + self.longest], found: Vec::new() }
    }

    fn search(&self, upper: BorrowedFd<'_>, changes: &[&Change]) -> Result<Vec<Leak>> {
        let mut search = self.begin();
        let mut last: Option<(Inside, OwnedFd)> = None;
        for change in changes {
            let Some((parent, name)) = change.path.split() else { continue };
            if last.as_ref().is_none_or(|(path, _)| *path != parent) {
                last = Some((parent.clone(), fs::open_dir_below(upper, parent.bytes())?));
            }
            let Some((_, directory)) = &last else { continue };
            match change.kind {
                Kind::Link => search.link(&change.path, &fs::readlink(directory.as_fd(), name)?),
                _ => search
                    .file(&change.path, fs::open_read(directory.as_fd(), name)?, change.bytes)
                    .doing(|| format!("cannot search {} for traces of the run", change.path))?,
            }
        }
        Ok(search.found)
    }
}

struct Search<'p> {
    pattern: &'p Pattern<'p>,
    buffer: Vec<u8>,
    found: Vec<Leak>,
}

impl Search<'_> {
    fn link(&mut self, path: &Inside, target: &[u8]) {
        if let Some(hit) = self.pattern.automaton.find(target) {
            let what = format!("{}, in the target of the link", self.pattern.needles[hit.pattern().as_usize()].what);
            self.found.push(Leak { path: path.clone(), line: None, offset: hit.start() as u64, what });
        }
    }

    /// Chunk by chunk; the end of each is read again with the next, since a needle may lie across. The file has `size` bytes.
    fn file(&mut self, path: &Inside, file: OwnedFd, size: u64) -> Result<()> {
        let (mut kept, mut base, mut lines, mut text, mut hits) = (0, 0_u64, 1_u64, true, 0);
        loop {
            let read = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut self.buffer[kept..]))?;
            if read == 0 {
                return Ok(());
            }
            let chunk = &self.buffer[..kept + read];
            text &= !chunk[kept..].contains(&0);
            let mut done = 0;
            let mut counted = 0;
            for hit in self.pattern.automaton.find_iter(chunk) {
                if hits == HITS_PER_FILE {
                    return Ok(());
                }
                hits += 1;
                lines += newlines(&chunk[counted..hit.start()]);
                counted = hit.start();
                done = hit.end();
                self.found.push(Leak {
                    path: path.clone(),
                    line: text.then_some(lines),
                    offset: base + hit.start() as u64,
                    what: self.pattern.needles[hit.pattern().as_usize()].what.clone(),
                });
            }
            if base + chunk.len() as u64 == size {
                return Ok(());
            }
            let start = (chunk.len() + 1).saturating_sub(self.pattern.longest).max(done).max(counted);
            lines += newlines(&chunk[counted..start]);
            let (from, to) = (start, chunk.len());
            self.buffer.copy_within(from..to, 0);
            kept = to - from;
            base += from as u64;
        }
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn found(contents: &[u8], needles: &[&str]) -> Vec<(Option<u64>, u64, String)> {
        let needles: Vec<Needle> = needles.iter().filter_map(|n| Needle::new(*n, n.as_bytes())).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let pattern = Pattern::new(&needles).unwrap().unwrap();
        let mut search = pattern.begin();
        search.file(&Inside::root(), file.into(), contents.len() as u64).unwrap();
        search.found.into_iter().map(|l| (l.line, l.offset, l.what)).collect()
    }

    #[test]
    fn a_trace_is_told_with_its_line_in_a_text_and_its_byte_in_anything_else() {
        let hit = |line, offset| vec![(line, offset, "/tmp/pypi".to_owned())];
        assert_eq!(found(b"a\nb file:///tmp/pypi/x\n", &["/tmp/pypi"]), hit(Some(2), 11));
        assert_eq!(found(b"\0\n/tmp/pypi", &["/tmp/pypi"]), hit(None, 2));
        assert_eq!(found(b"/tmp/pyp /tmp/PYPI", &["/tmp/pypi"]), []);
    }

    #[test]
    fn a_trace_across_the_end_of_a_chunk_is_found_once_at_its_line() {
        for before in CHUNK - 12..CHUNK + 12 {
            let mut text = vec![b'.'; before];
            text[10] = b'\n';
            text.extend_from_slice(b"/tmp/pypi\n\n");
            text.extend(vec![b'x'; CHUNK]);
            text.extend_from_slice(b"\n/tmp/pypi");
            let end = (text.len() - 9) as u64;
            let expected = [(Some(2), before as u64), (Some(5), end)].map(|(l, o)| (l, o, "/tmp/pypi".to_owned()));
            assert_eq!(found(&text, &["/tmp/pypi", "something much longer"]), expected, "{before}");
        }
    }

    #[test]
    fn the_longest_needle_is_told_and_not_a_hundred_times() {
        let hits = found(b"http://user:secret@host/", &["http://", "http://user:secret@"]);
        assert_eq!(hits, [(Some(1), 0, "http://user:secret@".to_owned())]);
        assert_eq!(found(&b"/tmp/pypi\n".repeat(100), &["/tmp/pypi"]).len(), HITS_PER_FILE);
    }

    #[test]
    fn each_of_many_files_is_searched_and_told_in_the_order_of_the_list() {
        let upper = tempfile::tempdir().unwrap();
        let (mut changes, mut expected) = (Changes::default(), Vec::new());
        for number in 0..FILES_PER_THREAD * THREADS + 7 {
            let path = Inside::root().join(number.to_string().as_bytes());
            let text = if number % 400 == 399 { "file:///tmp/pypi" } else { "nothing" };
            std::fs::write(upper.path().join(path.as_path()), text).unwrap();
            if text != "nothing" {
                expected.push(path.clone());
            }
            let bytes = text.len() as u64;
            changes.list.push(Change { path, what: What::Added, kind: Kind::File, bytes, from: None });
        }
        let directory = std::fs::File::open(upper.path()).unwrap();
        let needle = Needle::new("the mirror", b"/tmp/pypi").unwrap();
        let found = scan(directory.as_fd(), &changes, &Policy::default(), std::slice::from_ref(&needle)).unwrap();
        assert_eq!(found.into_iter().map(|leak| leak.path).collect::<Vec<_>>(), expected);
        changes.list[5].path = Inside::root().join(b"missing");
        assert!(scan(directory.as_fd(), &changes, &Policy::default(), &[needle]).is_err());
    }

    #[test]
    fn what_is_too_short_to_mean_anything_is_no_needle() {
        assert_eq!(Needle::new("a", b" abc\n"), None);
        assert_eq!(Needle::new("a", &[b'x'; 1000]).unwrap().text.0.len(), LONGEST);
    }
}
