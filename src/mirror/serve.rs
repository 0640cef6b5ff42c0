//! A mirror by http: HTML and JSON pages (PEP 503, PEP 691), files with ranges and conditions (RFC 9110).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::fs::{FileType, OFlags, ResolveFlags};
use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

use crate::error::{Fault, Result};
use crate::pypi::distribution::normalized;
use crate::sys::fs;

/// Requests at a time; pip asks with one connection, uv with many.
const THREADS: usize = 4;
/// Content type of pages, PEP 503.
pub const HTML: &str = "text/html; charset=utf-8";
/// PEP 691.
pub const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// A server on `listener`. An answer goes out as it is written, tcp(7) TCP_NODELAY, which connections have from the listener:
/// else its body waits until the client has acknowledged the head, and the client waits with that.
pub fn server(listener: TcpListener) -> Result<Server> {
    setsockopt(&listener, sockopt::TcpNoDelay, &true)?;
    Server::from_listener(listener, None).map_err(|error| Fault::new(error.to_string()).into())
}

/// Serves the directory `root` on `listener`; returns only when the listener fails. Starts threads: never in a process that
/// forks afterwards.
pub fn serve(listener: TcpListener, root: OwnedFd) -> Result<()> {
    let server = server(listener)?;
    let (server, root) = (Arc::new(server), Arc::new(root));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (server, root) = (Arc::clone(&server), Arc::clone(&root));
            scope.spawn(move || {
                while let Ok(request) = server.recv() {
                    answer(request, &root);
                }
            });
        }
    });
    Ok(())
}

/// What a request gets.
enum Answer {
    File { file: File, content_type: &'static str },
    Text { text: String, content_type: &'static str },
    Moved(String),
    Status(u16),
}

fn answer(request: Request, root: &OwnedFd) {
    let found = match request.method() {
        Method::Get | Method::Head => find(root, request.url(), wants_json(&request)),
        _ => Answer::Status(405),
    };
    // A client that has gone away is no fault of ours.
    let _ = match found {
        Answer::File { file, content_type } => respond_with_file(request, file, content_type),
        Answer::Text { text, content_type } => {
            let mut response = Response::from_string(text);
            header("Content-Type", content_type).into_iter().for_each(|h| response.add_header(h));
            request.respond(response)
        }
        Answer::Moved(to) => {
            let mut response = Response::empty(301);
            header("Location", &to).into_iter().for_each(|h| response.add_header(h));
            request.respond(response)
        }
        Answer::Status(code) => request.respond(Response::empty(code)),
    };
}

/// A value that cannot be sent is left out.
fn header(name: &str, value: &str) -> Option<Header> {
    Header::from_bytes(name, value).ok()
}

fn field(request: &Request, name: &'static str) -> Option<String> {
    request.headers().iter().find(|h| h.field.equiv(name)).map(|h| h.value.as_str().to_owned())
}

/// JSON where the client ranks it at least as high as HTML, RFC 9110 12.5.1.
pub fn wants_json(request: &Request) -> bool {
    let accept = field(request, "Accept").unwrap_or_default();
    let quality = |kind: &str| {
        let found =
            accept.split(',').map(str::trim).find(|part| part.split(';').next().map(str::trim) == Some(kind))?;
        let quality = found.split(';').find_map(|p| p.trim().strip_prefix("q=")?.parse::<f32>().ok());
        Some(quality.unwrap_or(1.0))
    };
    let html = quality("text/html").or_else(|| quality("*/*")).unwrap_or(0.0);
    quality(JSON).is_some_and(|json| json >= html)
}

fn find(root: &OwnedFd, url: &str, json: bool) -> Answer {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(path).collect::<Vec<u8>>();
    let asked = decoded.strip_prefix(b"/").unwrap_or(&decoded);
    // The usual place of an index on a server; the mirror may have a folder of that name itself.
    let (prefix, asked) = match asked.strip_prefix(b"simple/") {
        Some(rest) if open(root, b"simple").is_none() => ("/simple/", rest),
        _ => ("/", asked),
    };
    let trimmed = asked.strip_suffix(b"/").unwrap_or(asked);
    match open(root, trimmed) {
        Some((file, FileType::RegularFile)) => Answer::File { file, content_type: content_type(trimmed) },
        Some((_, FileType::Directory)) if !asked.is_empty() && !asked.ends_with(b"/") => {
            Answer::Moved(format!("{path}/"))
        }
        Some((_, FileType::Directory)) => page(root, trimmed, json),
        Some(_) => Answer::Status(404),
        None => {
            let asked = String::from_utf8_lossy(trimmed).into_owned();
            let (above, name) = asked.rsplit_once('/').map_or(("", asked.as_str()), |(above, name)| (above, name));
            let right = format!("{above}{}{}", if above.is_empty() { "" } else { "/" }, normalized(name));
            let elsewhere = right != asked && open(root, right.as_bytes()).is_some();
            if elsewhere { Answer::Moved(format!("{prefix}{right}/")) } else { Answer::Status(404) }
        }
    }
}

fn open(root: &OwnedFd, path: &[u8]) -> Option<(File, FileType)> {
    let path = if path.is_empty() { b"." } else { path };
    // Links stay possible, inside the mirror; NONBLOCK: a fifo there stops nobody.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = fs::openat2(root.as_fd(), path, flags, resolve).ok()?;
    let kind = FileType::from_raw_mode(fs::fstat(file.as_fd()).ok()?.st_mode);
    Some((File::from(file), kind))
}

fn page(root: &OwnedFd, directory: &[u8], json: bool) -> Answer {
    let below = |name: &[u8]| {
        let path = if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
        open(root, &path).filter(|(_, kind)| *kind == FileType::RegularFile).map(|(file, _)| file)
    };
    if json && let Some(file) = below(b"index.json") {
        return Answer::File { file, content_type: JSON };
    }
    match below(b"index.html") {
        Some(file) => Answer::File { file, content_type: HTML },
        None if directory.is_empty() => listing(root),
        None => Answer::Status(404),
    }
}

/// A root page where the mirror has none: its folders.
fn listing(root: &OwnedFd) -> Answer {
    // Its own handle: the threads share the root's, and with it the place up to which it is read.
    let read = fs::open_dir(root.as_fd(), b".").and_then(|own| fs::entries(own.as_fd()));
    let Ok(entries) = read else { return Answer::Status(404) };
    let names = entries.iter().filter(|e| e.kind == FileType::Directory).map(|e| String::from_utf8_lossy(&e.name));
    let mut names: Vec<String> = names.map(std::borrow::Cow::into_owned).collect();
    names.sort();
    let text = crate::pypi::simple_page::root_page(names.iter().map(String::as_str));
    Answer::Text { text, content_type: HTML }
}

fn content_type(path: &[u8]) -> &'static str {
    let ends = |ending: &[u8]| path.ends_with(ending);
    match () {
        () if ends(b".html") => HTML,
        () if ends(b".json") => JSON,
        () if ends(b".metadata") => "text/plain; charset=utf-8",
        () if ends(b".whl") || ends(b".zip") => "application/zip",
        () => "application/octet-stream",
    }
}

fn respond_with_file(request: Request, mut file: File, content_type: &str) -> std::io::Result<()> {
    let data = file.metadata()?;
    let (length, modified) = (data.len(), data.modified().unwrap_or(UNIX_EPOCH));
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let tag = format!("\"{:x}-{length:x}\"", since.as_nanos());
    let date = httpdate::fmt_http_date(modified);
    let headers = [
        header("Content-Type", content_type),
        header("ETag", &tag),
        header("Last-Modified", &date),
        header("Accept-Ranges", "bytes"),
        header("Vary", "Accept"),
    ];
    let mut headers: Vec<Header> = headers.into_iter().flatten().collect();
    if unchanged(&request, &tag, modified) {
        return request.respond(Response::new(StatusCode(304), headers, std::io::empty(), Some(0), None));
    }
    let range = field(&request, "Range").filter(|_| field(&request, "If-Range").is_none_or(|v| v == tag || v == date));
    let (status, start, count) = match range.and_then(|text| part(&text, length)) {
        Some(Some((start, count))) => {
            headers.extend(header("Content-Range", &format!("bytes {start}-{}/{length}", start + count - 1)));
            (206, start, count)
        }
        Some(None) => {
            headers.extend(header("Content-Range", &format!("bytes */{length}")));
            return request.respond(Response::new(StatusCode(416), headers, std::io::empty(), Some(0), None));
        }
        None => (200, 0, length),
    };
    file.seek(SeekFrom::Start(start))?;
    let count_here = usize::try_from(count).unwrap_or(usize::MAX);
    // Beyond the threshold tiny_http would send chunks, and installers show no progress without a length.
    let response = Response::new(StatusCode(status), headers, file.take(count), Some(count_here), None);
    request.respond(response.with_chunked_threshold(usize::MAX))
}

/// RFC 9110 13: a tag counts before a date.
fn unchanged(request: &Request, tag: &str, modified: SystemTime) -> bool {
    if let Some(tags) = field(request, "If-None-Match") {
        return tags.split(',').any(|t| [tag, "*"].contains(&t.trim().trim_start_matches("W/")));
    }
    let since = field(request, "If-Modified-Since").and_then(|text| httpdate::parse_http_date(&text).ok());
    since.is_some_and(|since| modified < since + Duration::from_secs(1))
}

/// One range of bytes, as start and count; `Some(None)`: it lies outside. Several ranges, or other units: everything.
fn part(text: &str, length: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => (length.saturating_sub(suffix.parse().ok()?), length),
        (first, "") => (first.parse().ok()?, length),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(length)),
    };
    Some((start < end).then(|| (start, end - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_the_rfc_has_it() {
        let table = [
            ("bytes=0-9", Some(Some((0, 10)))),
            ("bytes=90-", Some(Some((90, 10)))),
            ("bytes=-5", Some(Some((95, 5)))),
            ("bytes=95-200", Some(Some((95, 5)))),
            ("bytes=100-", Some(None)),
            ("bytes=1-2,5-6", None),
            ("lines=1-2", None),
        ];
        for (text, expected) in table {
            assert_eq!(part(text, 100), expected, "{text}");
        }
    }

    #[test]
    fn names_are_found_by_any_spelling_and_nothing_outside_the_mirror_is() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("m/flask")).unwrap();
        std::fs::write(directory.path().join("m/flask/index.html"), "x").unwrap();
        std::fs::write(directory.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", directory.path().join("m/link")).unwrap();
        let root: OwnedFd = File::open(directory.path().join("m")).unwrap().into();
        assert!(matches!(find(&root, "/flask/", false), Answer::File { .. }));
        assert!(matches!(find(&root, "/simple/flask/", true), Answer::File { .. }));
        assert!(matches!(find(&root, "/simple/Flask/", false), Answer::Moved(to) if to == "/simple/flask/"));
        assert!(matches!(find(&root, "/flask", false), Answer::Moved(to) if to == "/flask/"));
        assert!(matches!(find(&root, "/", false), Answer::Text { text, .. } if text.contains("flask/")));
        for url in ["/../secret", "/link", "/%2e%2e/secret", "/nothing", "/flask/nothing"] {
            assert!(matches!(find(&root, url, false), Answer::Status(404)), "{url}");
        }
    }
}
