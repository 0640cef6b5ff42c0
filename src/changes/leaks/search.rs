//! Searches files and the targets of links for many texts at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aho_corasick::packed::{self, Searcher};
use aho_corasick::{AhoCorasick, BuildError, Input, Match, MatchKind, Span};

use super::{Leak, Needle};
use crate::changes::{Change, Kind};
use crate::error::{Doing, Result};
use crate::image::Inside;
use crate::sys::fs;

/// More hits than this in one file are the same hit.
const HITS_PER_FILE: usize = 5;
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

/// What is searched for.
pub(super) struct Pattern {
    needles: Vec<Needle>,
    finder: Finder,
    longest: usize,
}

/// The longest of those that begin first: the credentials in a URL are told, not the URL's beginning.
enum Finder {
    /// Sixteen bytes and more at a time, where processor and needles allow it.
    Packed(Searcher),
    Any(AhoCorasick),
}

impl Finder {
    fn new(needles: &[Needle]) -> std::result::Result<Finder, BuildError> {
        let texts = || needles.iter().map(|needle| &needle.text.0);
        let packed =
            packed::Config::new().match_kind(packed::MatchKind::LeftmostLongest).builder().extend(texts()).build();
        if let Some(searcher) = packed {
            return Ok(Finder::Packed(searcher));
        }
        AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts()).map(Finder::Any)
    }

    /// The first in `text` from `start` on.
    fn find(&self, text: &[u8], start: usize) -> Option<Match> {
        let span = Span { start, end: text.len() };
        match self {
            Finder::Packed(searcher) => searcher.find_in(text, span),
            Finder::Any(automaton) => automaton.find(Input::new(text).span(span)),
        }
    }
}

impl Pattern {
    /// None: there is nothing to search for.
    pub fn new(needles: Vec<Needle>) -> std::result::Result<Option<Pattern>, BuildError> {
        let Some(longest) = needles.iter().map(|n| n.text.0.len()).max() else { return Ok(None) };
        Ok(Some(Pattern { finder: Finder::new(&needles)?, needles, longest }))
    }

    pub fn begin(&self) -> Search<'_> {
        Search { pattern: self, buffer: vec![0; CHUNK + self.longest], found: Vec::new() }
    }
}

/// A search in one file after the other.
pub(super) struct Search<'p> {
    pattern: &'p Pattern,
    buffer: Vec<u8>,
    found: Vec<Leak>,
}

impl Search<'_> {
    /// The traces in these files and links of `upper`.
    pub fn all(&mut self, upper: BorrowedFd<'_>, changes: &[Change]) -> Result<Vec<Leak>> {
        let mut last: Option<(&[u8], OwnedFd)> = None;
        for change in changes {
            let Some((parent, name)) = change.path.split_bytes() else { continue };
            if last.as_ref().is_none_or(|(path, _)| *path != parent) {
                last = Some((parent, fs::open_dir_below(upper, parent)?));
            }
            let Some((_, directory)) = &last else { continue };
            match change.kind {
                Kind::Link => self.link(&change.path, &fs::readlink(directory.as_fd(), name)?),
                _ => self
                    .file(&change.path, fs::open_read(directory.as_fd(), name)?, change.bytes)
                    .doing(|| format!("cannot search {} for traces of the run", change.path))?,
            }
        }
        Ok(std::mem::take(&mut self.found))
    }

    fn link(&mut self, path: &Inside, target: &[u8]) {
        if let Some(hit) = self.pattern.finder.find(target, 0) {
            let what = format!("{}, in the target of the link", self.pattern.needles[hit.pattern().as_usize()].what);
            self.found.push(Leak { path: path.clone(), line: None, offset: hit.start() as u64, what });
        }
    }

    /// Chunk by chunk; the end of each is read again with the next, since a needle may lie across. The file has `size` bytes.
    fn file(&mut self, path: &Inside, file: OwnedFd, size: u64) -> Result<()> {
        let (mut kept, mut base, mut hits) = (0, 0_u64, 0);
        loop {
            let read = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut self.buffer[kept..]))?;
            if read == 0 {
                return Ok(());
            }
            let chunk = &self.buffer[..kept + read];
            let end = base + chunk.len() as u64;
            let mut done = 0;
            while let Some(hit) = self.pattern.finder.find(chunk, done) {
                if hits == HITS_PER_FILE {
                    return Ok(());
                }
                hits += 1;
                done = hit.end();
                let offset = base + hit.start() as u64;
                self.found.push(Leak {
                    path: path.clone(),
                    line: line(file.as_fd(), offset, end)?,
                    offset,
                    what: self.pattern.needles[hit.pattern().as_usize()].what.clone(),
                });
            }
            if end == size {
                return Ok(());
            }
            let start = (chunk.len() + 1).saturating_sub(self.pattern.longest).max(done);
            let (from, to) = (start, chunk.len());
            self.buffer.copy_within(from..to, 0);
            kept = to - from;
            base += from as u64;
        }
    }
}

/// The line of the byte at `offset` in a file that has been read up to `end`; none where that is no text. Read once more: few
/// files have a trace, and counting the lines of all takes ten times as long as searching them.
fn line(file: BorrowedFd<'_>, offset: u64, end: u64) -> Result<Option<u64>> {
    let (mut buffer, mut at, mut line) = (vec![0; CHUNK], 0, 1);
    while at < end {
        let wish = usize::try_from(end - at).map_or(CHUNK, |rest| rest.min(CHUNK));
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer[..wish], at))?;
        if read == 0 {
            break;
        }
        if buffer[..read].contains(&0) {
            return Ok(None);
        }
        let before = usize::try_from(offset.saturating_sub(at)).map_or(read, |before| before.min(read));
        line += buffer[..before].iter().filter(|byte| **byte == b'\n').count() as u64;
        at += read as u64;
    }
    Ok(Some(line))
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
        let pattern = Pattern::new(needles).unwrap().unwrap();
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
}
