//! What kind of mirror a directory is, seen with a few looks.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType};
use serde::Serialize;

use crate::pypi::LINKS_PAGE;
use crate::pypi::distribution;
use crate::sys::fs;

/// How the files are arranged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrangement {
    /// `NAME/FILE`, as PEP 503 has it.
    Tree,
    /// Wheels and sdists in one folder.
    Flat,
    /// A tree in this directory below, as bandersnatch leaves it.
    Nested(PathBuf),
    /// Neither.
    Empty,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// How the files are arranged.
    pub arrangement: Arrangement,
    /// The page with a link to every file is there.
    pub links_page: bool,
    /// Project pages are missing.
    pub missing_pages: bool,
}

impl Layout {
    /// Whether pages have to be made for pip and uv to find all files.
    pub fn lacks_pages(&self) -> bool {
        self.missing_pages || !self.links_page
    }
}

/// Looks at `directory`; `None` when it is none.
pub fn look(directory: &Path) -> Option<Layout> {
    let handle = fs::open_dir(CWD, directory.as_os_str().as_bytes()).ok();
    // A link to a directory is one too.
    let handle = handle.or_else(|| std::fs::File::open(directory).ok().map(OwnedFd::from))?;
    let at = handle.as_fd();
    let (mut files, mut links_page, mut root_page, mut folders) = (false, false, false, Vec::new());
    for entry in fs::entries(at).ok()? {
        let Ok(name) = String::from_utf8(entry.name) else { continue };
        if name.starts_with('.') {
            continue;
        }
        if is(at, &name, entry.kind, FileType::Directory) {
            folders.push(name);
        } else if name == LINKS_PAGE {
            links_page = is(at, &name, entry.kind, FileType::RegularFile);
        } else if name == ROOT_PAGE {
            root_page = true;
        } else {
            files |= distribution::parse(&name, None).is_some();
        }
    }
    let simple = directory.join("simple");
    if folders.iter().any(|n| n == "simple") && !holds_files(&simple) && holds_projects(&simple) {
        return Some(Layout { arrangement: Arrangement::Nested("simple".into()), links_page, missing_pages: false });
    }
    let has_page = |name: &str| is(at, &format!("{name}/index.html"), FileType::Unknown, FileType::RegularFile);
    let mut missing_pages = files;
    let page = if root_page { root_page_of(at) } else { String::new() };
    let mut listed: Vec<&str> = listed_projects(&page).collect();
    listed.sort_unstable();
    if !sample(&listed).all(has_page) {
        listed.clear();
    }
    folders.retain(|name| {
        let normal = distribution::normalized(name);
        if normal == *name && listed.binary_search(&&name[..]).is_ok() {
            return true;
        }
        let own = has_page(name);
        let counts = own || holds_files(&directory.join(name));
        missing_pages |= counts && if normal == *name { !own } else { !has_page(&normal) };
        counts
    });
    let arrangement = match (files, folders.is_empty()) {
        (true, _) => Arrangement::Flat,
        (false, false) => Arrangement::Tree,
        (false, true) => Arrangement::Empty,
    };
    Some(Layout { arrangement, links_page, missing_pages })
}

/// The page of all projects, PEP 503.
const ROOT_PAGE: &str = "index.html";
/// A longer one is not read: of a million projects it has 60 MB.
const LONGEST_ROOT_PAGE: u64 = 1 << 26;

fn root_page_of(directory: BorrowedFd<'_>) -> String {
    let read = || {
        let mut page = std::fs::File::from(fs::open_read(directory, ROOT_PAGE.as_bytes()).ok()?);
        let found = page.metadata().ok().filter(|found| found.is_file() && found.len() <= LONGEST_ROOT_PAGE)?;
        let mut text = String::with_capacity(usize::try_from(found.len()).ok()? + 1);
        page.read_to_string(&mut text).ok().map(|_| text)
    };
    read().unwrap_or_default()
}

/// The projects that the page of all projects links to. Whoever wrote that wrote a page for each: looking for them would cost a
/// run on a mirror of thousands as many calls.
fn listed_projects(page: &str) -> impl Iterator<Item = &str> {
    let mut before = "";
    page.split('"').filter_map(move |piece| {
        let link = before.ends_with("href=").then_some(piece);
        before = piece;
        link?.strip_suffix('/')
    })
}

/// Some of them, for one that was written by somebody else.
fn sample<'a>(listed: &[&'a str]) -> impl Iterator<Item = &'a str> {
    [listed.first(), listed.get(listed.len() / 2), listed.last()].into_iter().flatten().copied()
}

/// Whether an entry, or what it links to, is of that kind; `listed` is what the directory says.
fn is(directory: BorrowedFd<'_>, name: &str, listed: FileType, wanted: FileType) -> bool {
    if matches!(listed, FileType::Directory | FileType::RegularFile) {
        return listed == wanted;
    }
    let found = rustix::fs::statat(directory, name, AtFlags::empty());
    found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == wanted)
}

/// Whether a folder in `directory` has a page.
fn holds_projects(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.flatten().any(|entry| entry.path().join("index.html").is_file())
}

/// Whether a wheel or sdist stands in `directory` itself.
fn holds_files(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.flatten().any(|e| e.file_name().to_str().is_some_and(|name| distribution::parse(name, None).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(files: &[&str]) -> Layout {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        look(directory.path()).unwrap()
    }

    #[test]
    fn folders_that_the_page_of_all_projects_does_not_name_are_looked_into() {
        let pages = ["a", "b", "c"].map(|name| (format!("{name}/index.html"), String::new()));
        let look_at = |root: &str, more: &str| {
            let directory = tempfile::tempdir().unwrap();
            let root = ("index.html".to_owned(), root.to_owned());
            let more = (more.to_owned(), String::new());
            for (path, text) in pages.iter().chain([&root, &more]) {
                let path = directory.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            look(directory.path()).unwrap().missing_pages
        };
        let listed = r#"<a href="a/">a</a><a href="b/">b</a><a href="c/">c</a>"#;
        assert!(!look_at(listed, "links.html"));
        assert!(look_at(listed, "d/d-1.tar.gz"));
        assert!(look_at(&format!(r#"{listed}<a href="d/">d</a>"#), "d/d-1.tar.gz"), "a page that is not there");
        assert!(look_at(r#"<a href="D/">D</a>"#, "D/index.html"), "no normal name");
    }

    #[test]
    fn every_arrangement_is_told_from_the_others() {
        let nested = Arrangement::Nested("simple".into());
        let table = [
            (&["flask/index.html", "flask/flask-1-py3-none-any.whl", "links.html"][..], Arrangement::Tree, false),
            (&["flask/index.html", "docopt/docopt-1.tar.gz"], Arrangement::Tree, true),
            (&["flask-1-py3-none-any.whl", "docopt-1.tar.gz"], Arrangement::Flat, true),
            (&["simple/flask/index.html", "packages/f/flask-1.tar.gz"], nested, false),
            (&["simple/simple-1.tar.gz", "simple/index.html"], Arrangement::Tree, false),
            (&["README"], Arrangement::Empty, false),
        ];
        for (files, arrangement, missing) in table {
            let found = layout(files);
            assert_eq!((found.arrangement, found.missing_pages), (arrangement, missing), "{files:?}");
        }
        assert!(layout(&["links.html"]).links_page);
        assert_eq!(look(Path::new("/nonexistent")), None);
    }
}
