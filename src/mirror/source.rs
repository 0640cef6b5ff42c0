//! An index as something to ask: the local mirror as the step sees it, or one on the network.

use std::io::Read;
use std::path::{Path, PathBuf};

use url::Url;

use super::synthesise::Pages;
use super::{artifact, client};
use crate::error::{Doing, Fault, Result, refuse};
use crate::pypi::distribution::normalized;
use crate::pypi::metadata::Metadata;
use crate::pypi::simple_page::{self, FileLink};
use crate::pypi::{MIRROR_MOUNT, is_local};

/// What installers ask for, PEP 691.
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// Larger pages and artifacts are refused, bytes.
const LARGEST: u64 = 1 << 30;

/// An index.
pub struct Source {
    /// Its URL, as the step has it.
    pub url: String,
    kind: Kind,
}

enum Kind {
    Directory { mirror: PathBuf, pages: Pages, base: Url },
    Network { base: Url, agent: ureq::Agent },
}

/// What an artifact says of itself, and what has to be there to build it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// Core metadata.
    pub metadata: Metadata,
    /// `build-system.requires`; empty for a wheel.
    pub build_requires: Vec<String>,
}

impl Source {
    /// The index at `url`; one in `/tmp/pypi` is in the directory `mirror`, with `pages` laid over. `None`: it cannot be asked
    /// from here, such as another `file://` of the image.
    pub fn open(url: &str, mirror: Option<(&Path, &Pages)>) -> Option<Source> {
        let base = Url::parse(&format!("{}/", url.trim_end_matches('/'))).ok()?;
        let kind = if is_local(url) {
            let (mirror, pages) = mirror?;
            Kind::Directory { mirror: mirror.to_owned(), pages: pages.clone(), base }
        } else if ["http", "https"].contains(&base.scheme()) {
            Kind::Network { base, agent: client::agent() }
        } else {
            return None;
        };
        Some(Source { url: url.to_owned(), kind })
    }

    /// The files of a project; `None`: the index does not have it.
    pub fn files(&self, project: &str) -> Result<Option<Vec<FileLink>>> {
        let name = normalized(project);
        let doing = || format!("cannot read the page of {name} in {}", self.url);
        match &self.kind {
            Kind::Directory { mirror, pages, base } => {
                let page = base.join(&format!("{name}/")).doing(doing)?;
                let Some(text) = self.local_page(mirror, pages, &page)? else { return Ok(None) };
                let mut links = simple_page::parse_html(&text, &page);
                complete(&mut links, mirror, &page);
                Ok(Some(links))
            }
            Kind::Network { base, agent } => {
                let page = base.join(&format!("{name}/")).doing(doing)?;
                network_page(agent, &page).doing(doing)
            }
        }
    }

    fn local_page(&self, mirror: &Path, pages: &Pages, page: &Url) -> Result<Option<String>> {
        let Some(place) = place(page) else { return Ok(None) };
        let index = place.join("index.html");
        if let Some(text) = pages.get(&index) {
            return Ok(Some(text.clone()));
        }
        match std::fs::read(mirror.join(&index)) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if [std::io::ErrorKind::NotFound, std::io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                Ok(None)
            }
            Err(error) => Err(error).doing(|| format!("cannot read {}", mirror.join(&index).display())),
        }
    }

    /// The bytes at `url` while they come, and how many there will be.
    pub fn stream(&self, url: &str) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
        if let Some(path) = self.local(url) {
            let file = std::fs::File::open(&path).doing(|| format!("cannot read {}", path.display()))?;
            let length = file.metadata()?.len();
            return Ok((Box::new(file), Some(length)));
        }
        let Kind::Network { agent, .. } = &self.kind else {
            return refuse(Fault::new(format!("{url} is not in the local mirror")));
        };
        let response = client::get(agent, &Url::parse(url)?, "*/*")?;
        if response.status().as_u16() != 200 {
            return refuse(Fault::new(format!("{url} answers {}", response.status())));
        }
        let body = response.into_body();
        let length = body.content_length();
        Ok((Box::new(body.into_reader()), length))
    }

    /// What an artifact says of itself: by its metadata file where the page promises one, else by the artifact.
    pub fn describe(&self, link: &FileLink) -> Result<Described> {
        let doing = || format!("cannot read the metadata of {}", link.filename);
        let wheel = link.filename.ends_with(".whl");
        if wheel && link.metadata.is_some() {
            let url = format!("{}.metadata", link.url);
            let text = self.fetch(&url).doing(doing)?;
            return Ok(Described {
                metadata: Metadata::parse(&String::from_utf8_lossy(&text)),
                build_requires: Vec::new(),
            });
        }
        let inside = match self.local(&link.url) {
            Some(path) => artifact::read(&path)?,
            None => {
                artifact::of(&link.filename, std::io::Cursor::new(self.fetch(&link.url).doing(doing)?)).doing(doing)?
            }
        };
        Ok(Described { metadata: inside.parsed(), build_requires: inside.build_requires })
    }

    /// Where a file of the local mirror is on this machine.
    pub fn local(&self, url: &str) -> Option<PathBuf> {
        match &self.kind {
            Kind::Directory { mirror, .. } => Some(mirror.join(place(&Url::parse(url).ok()?)?)),
            Kind::Network { .. } => None,
        }
    }

    /// The bytes at `url`.
    pub fn fetch(&self, url: &str) -> Result<Vec<u8>> {
        if let Some(path) = self.local(url) {
            return std::fs::read(&path).doing(|| format!("cannot read {}", path.display()));
        }
        let Kind::Network { agent, .. } = &self.kind else {
            return refuse(Fault::new(format!("{url} is not in the local mirror")));
        };
        let mut response = client::get(agent, &Url::parse(url)?, "*/*")?;
        if response.status().as_u16() != 200 {
            return refuse(Fault::new(format!("{url} answers {}", response.status())));
        }
        let mut bytes = Vec::new();
        response.body_mut().as_reader().take(LARGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Whether two URLs are of one server.
pub fn same_host(one: &str, other: &str) -> bool {
    match (Url::parse(one), Url::parse(other)) {
        (Ok(one), Ok(other)) => one.host().is_some() && one.origin() == other.origin(),
        _ => false,
    }
}

/// `url` with user and password of `index`.
pub fn with_credentials(url: &str, index: &str) -> String {
    let (Ok(mut parsed), Ok(index)) = (Url::parse(url), Url::parse(index)) else { return url.to_owned() };
    // Both fail only for URLs that have no host.
    let _ = parsed.set_username(index.username()).and_then(|()| parsed.set_password(index.password()));
    parsed.into()
}

/// HTML has neither time of upload nor size; the JSON page beside it may.
fn complete(links: &mut [FileLink], mirror: &Path, page: &Url) {
    let Some(place) = place(page) else { return };
    let text = std::fs::read_to_string(mirror.join(place).join("index.json")).unwrap_or_default();
    for known in simple_page::parse_json(&text, page).unwrap_or_default() {
        if let Some(link) = links.iter_mut().find(|link| link.url == known.url && link.hash == known.hash) {
            (link.size, link.upload_time) = (known.size, known.upload_time);
        }
    }
}

/// Where a `file:` URL of the step is in the mirror.
fn place(url: &Url) -> Option<PathBuf> {
    if url.scheme() != "file" {
        return None;
    }
    let path = percent_encoding::percent_decode_str(url.path()).decode_utf8().ok()?;
    let below = Path::new(path.as_ref()).strip_prefix(MIRROR_MOUNT).ok()?;
    let inside = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    inside.then(|| below.to_owned())
}

fn network_page(agent: &ureq::Agent, page: &Url) -> Result<Option<Vec<FileLink>>> {
    let mut response = client::get(agent, page, ACCEPT)?;
    match response.status().as_u16() {
        200 => {}
        404 | 410 => return Ok(None),
        _ => return refuse(Fault::new(format!("{page} answers {}", response.status()))),
    }
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let json = header("content-type").is_some_and(|kind| kind.contains("json"));
    let mut text = Vec::new();
    response.body_mut().as_reader().take(LARGEST).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // Links are relative to where redirects led.
    let base = Url::parse(&ureq::ResponseExt::get_uri(&response).to_string()).unwrap_or_else(|_| page.clone());
    if json {
        return simple_page::parse_json(&text, &base).map(Some).map_err(|why| Fault::new(why).into());
    }
    Ok(Some(simple_page::parse_html(&text, &base)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_mirror_is_asked_in_its_directory_and_never_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("flask")).unwrap();
        std::fs::write(directory.path().join("flask/index.html"), "<a href='Flask-1.tar.gz'>x</a>").unwrap();
        let pages =
            Pages::from([(PathBuf::from("docopt/index.html"), "<a href='../docopt-1.tar.gz'>x</a>".to_owned())]);
        let source = Source::open("file:///tmp/pypi", Some((directory.path(), &pages))).unwrap();
        let files = source.files("Flask").unwrap().unwrap();
        assert_eq!(files[0].url, "file:///tmp/pypi/flask/Flask-1.tar.gz");
        assert_eq!(source.local(&files[0].url).unwrap(), directory.path().join("flask/Flask-1.tar.gz"));
        assert_eq!(source.files("docopt").unwrap().unwrap()[0].url, "file:///tmp/pypi/docopt-1.tar.gz");
        assert_eq!(source.files("nothing").unwrap(), None);
        for url in [
            "file:///etc/passwd",
            "file:///tmp/pypi/../../etc/passwd",
            "file:///tmp/pypi/%2e%2e/x",
            "http://a/tmp/pypi/x",
        ] {
            assert_eq!(source.local(url), None, "{url}");
        }
        assert!(Source::open("file:///srv/other", None).is_none());
    }
}
