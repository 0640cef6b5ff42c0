//! Requests to the view: pages made from those of the index, and files passed on while they come.

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tiny_http::{Header, Method, Request, Response, StatusCode};

use super::record::{Kind, Record, Served, without_credentials};
use super::{Relay, Seen};
use crate::error::Result;
use crate::mirror::source::Source;
use crate::mirror::{artifact, serve};
use crate::pypi::distribution::{self, normalized};
use crate::pypi::simple_page::{self, FileLink};
use crate::pypi::upload_time;

/// Requests at a time: uv asks for fifty.
const THREADS: usize = 16;
const CHUNK: usize = 1 << 16;

/// What all requests need.
pub struct View {
    sources: Vec<Source>,
    record: Option<Record>,
    until: Option<i64>,
    stock: Option<PathBuf>,
    ahead: Option<PathBuf>,
    /// Where what somebody has to know is written, a line each.
    faults: Mutex<File>,
    /// What was asked for already.
    seen: Mutex<Seen>,
}

impl View {
    /// A view at work, and its listener if it has one already. What somebody has to know goes to `faults`, a line each.
    pub fn of(relay: Relay, record: Option<Record>, faults: File) -> (View, Option<TcpListener>) {
        let mirror = relay.mirror.as_deref().map(|mirror| (mirror, &relay.pages));
        let sources = relay.indexes.iter().filter_map(|url| Source::open(url, mirror)).collect();
        let (until, stock, ahead) = (relay.until, relay.stock, relay.ahead);
        let (faults, seen) = (Mutex::new(faults), Mutex::new(relay.seen));
        (View { sources, record, until, stock, ahead, faults, seen }, relay.listener)
    }
}

/// Answers until the process ends.
pub fn serve(listener: TcpListener, view: &View) -> Result<()> {
    let server = serve::server(listener)?;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Ok(request) = server.recv() {
                    view.answer(request);
                }
            });
        }
    });
    Ok(())
}

fn status(request: Request, code: u16) -> std::io::Result<()> {
    request.respond(Response::empty(code))
}

impl View {
    fn answer(&self, request: Request) {
        let path = request.url().split(['?', '#']).next().unwrap_or_default().to_owned();
        let path = percent_encoding::percent_decode_str(&path).decode_utf8_lossy().into_owned();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let get = matches!(request.method(), Method::Get | Method::Head);
        let index = parts.first().and_then(|number| number.parse::<usize>().ok()).filter(|n| *n < self.sources.len());
        let (Some(index), true) = (index, get) else {
            let _ = status(request, if get { 404 } else { 405 });
            return;
        };
        // A client that has gone away is no fault of ours.
        let _ = match parts.as_slice() {
            [number, project] | [number, project, ""] if !project.is_empty() => {
                if parts.len() == 3 && normalized(project) == *project {
                    self.page(request, index, project)
                } else {
                    moved(request, &format!("/{number}/{}/", normalized(project)))
                }
            }
            [_, project, file] => self.file(request, index, project, file),
            _ => status(request, 404),
        };
    }

    /// The links of a project that may be seen; `None`: the index does not have it.
    fn links(&self, index: usize, project: &str) -> Result<Option<Arc<Vec<FileLink>>>> {
        let key = (index, project.to_owned());
        let found = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if found.is_some() {
            return Ok(found);
        }
        let Some(mut links) = self.sources[index].files(project)? else { return Ok(None) };
        if let Some(until) = self.until {
            let time = |link: &FileLink| link.upload_time.as_deref().and_then(upload_time::seconds);
            if let Some(link) = links.iter().find(|link| time(link).is_none()) {
                let url = without_credentials(&self.sources[index].url);
                self.fault(&format!("{url} does not say when {} was uploaded", link.filename));
            }
            links.retain(|link| time(link).is_some_and(|time| time <= until));
        }
        let links = Arc::new(links);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&links));
        Ok(Some(links))
    }

    fn fault(&self, text: &str) {
        use std::io::Write;
        let mut file = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{text}");
    }

    fn page(&self, request: Request, index: usize, project: &str) -> std::io::Result<()> {
        let links = match self.links(index, project) {
            Ok(Some(links)) => links,
            Ok(None) => return status(request, 404),
            Err(error) => {
                self.fault(&format!("{error:#}"));
                return status(request, 502);
            }
        };
        let href = |link: &FileLink| link.filename.clone();
        let (text, content_type) = match serve::wants_json(&request) {
            true => (simple_page::project_json(project, &links, &href), serve::JSON),
            false => (simple_page::project_page(project, &links, &href), serve::HTML),
        };
        let url = format!("{}/{project}/", self.sources[index].url.trim_end_matches('/'));
        self.add(index, project, Kind::Page, None, &url, artifact::sha256_of(text.as_bytes()), text.len() as u64);
        let response = Response::from_string(text);
        request.respond(with(response, "Content-Type", content_type))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a line of the record")]
    fn add(
        &self,
        index: usize,
        project: &str,
        kind: Kind,
        link: Option<&FileLink>,
        url: &str,
        sha256: String,
        size: u64,
    ) {
        let Some(record) = &self.record else { return };
        record.add(Served {
            kind,
            index: without_credentials(&self.sources[index].url),
            project: project.to_owned(),
            file: link.map(|link| link.filename.clone()),
            url: without_credentials(url),
            sha256,
            size,
            yanked: link.and_then(|link| link.yanked.clone()),
            upload_time: link.and_then(|link| link.upload_time.clone()),
        });
    }

    fn file(&self, request: Request, index: usize, project: &str, name: &str) -> std::io::Result<()> {
        let links = self.links(index, project).ok().flatten().unwrap_or_default();
        let named = |name: &str| links.iter().find(|link| link.filename == name);
        let (link, kind) = match (named(name), name.strip_suffix(".metadata").and_then(named)) {
            (Some(link), _) => (link, Kind::File),
            (None, Some(link)) => (link, Kind::Metadata),
            (None, None) => return status(request, 404),
        };
        let url = if kind == Kind::Metadata { format!("{}.metadata", link.url) } else { link.url.clone() };
        if *request.method() == Method::Head {
            let size = link.size.filter(|_| kind == Kind::File).and_then(|size| usize::try_from(size).ok());
            return request.respond(Response::new(StatusCode(200), Vec::new(), std::io::empty(), size, None));
        }
        let (from, length) = match self.open(link, kind, index, &url) {
            Ok(opened) => opened,
            Err(error) => {
                self.fault(&format!("{error:#}"));
                return status(request, 502);
            }
        };
        let written = |sha256: String, size: u64| self.add(index, project, kind, Some(link), &url, sha256, size);
        let length = length.and_then(|length| usize::try_from(length).ok());
        let response = Response::new(StatusCode(200), Vec::new(), Stream::new(from, &written), length, None);
        let response = with(response, "Content-Type", "application/octet-stream");
        // Beyond the threshold tiny_http would send chunks, and installers show no progress without a length.
        request.respond(response.with_chunked_threshold(usize::MAX))
    }

    fn open(
        &self,
        link: &FileLink,
        kind: Kind,
        index: usize,
        url: &str,
    ) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
        if let (Kind::File, Some(("sha256", hash))) = (kind, link.hash.as_ref().map(|(a, h)| (a.as_str(), h)))
            && let Some(path) = self.here(&link.filename, hash)
        {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            return Ok((Box::new(file), Some(length)));
        }
        self.sources[index].stream(url)
    }
}

impl View {
    /// Where this machine has the file, with the same contents.
    fn here(&self, name: &str, hash: &str) -> Option<PathBuf> {
        let parsed = distribution::parse(name, None)?;
        let in_stock =
            self.stock.as_ref().and_then(|stock| Some(stock.join(parsed.name).join(Path::new(name).file_name()?)));
        let ahead = self.ahead.as_ref().filter(|_| !hash.contains('/')).map(|ahead| ahead.join(hash));
        let places = in_stock.into_iter().chain(ahead);
        { places }.find(|path| path.is_file() && artifact::sha256(path).is_ok_and(|(found, _)| found == *hash))
    }
}

fn moved(request: Request, to: &str) -> std::io::Result<()> {
    request.respond(with(Response::empty(301), "Location", to))
}

/// A value that cannot be sent is left out.
fn with<R: Read>(response: Response<R>, name: &str, value: &str) -> Response<R> {
    match Header::from_bytes(name, value) {
        Ok(header) => response.with_header(header),
        Err(()) => response,
    }
}

/// A stream that is hashed. What ends it is known before its last part is given away: a client that has everything may end
/// the whole run.
struct Stream<'a> {
    from: Box<dyn Read + Send>,
    now: Vec<u8>,
    place: usize,
    next: Option<Vec<u8>>,
    hasher: Sha256,
    size: u64,
    ended: bool,
    written: &'a dyn Fn(String, u64),
}

impl<'a> Stream<'a> {
    fn new(from: Box<dyn Read + Send>, written: &'a dyn Fn(String, u64)) -> Stream<'a> {
        Stream { from, now: Vec::new(), place: 0, next: None, hasher: Sha256::new(), size: 0, ended: false, written }
    }

    fn part(&mut self) -> std::io::Result<Vec<u8>> {
        let mut part = vec![0; CHUNK];
        let length = loop {
            match self.from.read(&mut part) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        part.truncate(length);
        self.hasher.update(&part);
        self.size += length as u64;
        Ok(part)
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.place == self.now.len() && !self.ended {
            self.now = match self.next.take() {
                Some(next) => next,
                None => self.part()?,
            };
            self.place = 0;
            let next = if self.now.is_empty() { Vec::new() } else { self.part()? };
            if next.is_empty() {
                self.ended = true;
                let digest = std::mem::take(&mut self.hasher).finalize();
                (self.written)(artifact::hex(&digest), self.size);
            }
            self.next = Some(next);
        }
        let length = buffer.len().min(self.now.len() - self.place);
        buffer[..length].copy_from_slice(&self.now[self.place..self.place + length]);
        self.place += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_end_of_a_stream_is_known_before_its_last_byte_is_given_away() {
        for size in [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let bytes = vec![7; size];
            let told = RefCell::new(None);
            let written = |sha256: String, size: u64| *told.borrow_mut() = Some((sha256, size));
            let mut seen = Stream::new(Box::new(std::io::Cursor::new(bytes.clone())), &written);
            let mut got = vec![0; size];
            seen.read_exact(&mut got).unwrap();
            if size == 0 {
                assert_eq!(seen.read(&mut [0]).unwrap(), 0);
            }
            assert_eq!(*told.borrow(), Some((artifact::sha256_of(&bytes), size as u64)));
            assert_eq!((got, seen.read(&mut [0]).unwrap()), (bytes, 0));
        }
    }
}
