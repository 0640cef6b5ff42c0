//! `dropcloth mirror verify`: what is broken in a mirror, for which installer, and what mends it.
//!
//! Every rule is held against the real pip and uv by tests/mirror.rs.

mod inspect;
mod links;
mod text;
mod wanted;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::inspect::Inspected;
use super::layout::{self, Arrangement};
use crate::error::{Fault, Result, refuse};
use crate::pypi::distribution::{self, normalized};
use crate::pypi::requirements::Line;
use crate::pypi::{LINKS_PAGE, MIRROR_URL};

/// Who trips over a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Installer {
    /// pip; of 20 to 26 at least the newest, unless the fault says otherwise.
    Pip,
    /// uv.
    Uv,
    /// uv when the mirror is served: by file it reads the wheels themselves.
    UvByHttp,
}
use Installer::{Pip, Uv};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A page promises core metadata that is not there.
    MetadataMissing,
    /// Core metadata with another hash than the page says.
    MetadataHash,
    /// Core metadata that says something else than its wheel.
    MetadataContents,
    /// Core metadata that a page tells of by the older name, which pip 22.3 to 23.1 read: these refuse what is spelled in two ways.
    MetadataOldName,
    /// A file with another hash than the page says.
    FileHash,
    /// A page links a file that is not there.
    FileMissing,
    /// A wheel that cannot be read, or that is another one than its name says.
    FileUnreadable,
    /// A link that leads out of the mirror.
    LeadsElsewhere,
    /// A hash of an algorithm that an installer does not know.
    UnknownHash,
    /// A page that cannot be read.
    PageUnreadable,
    /// A folder whose name is not what installers ask for.
    NotNormalized,
    /// Files without a page.
    NoPage,
    /// A file that the page of its project does not link.
    NotLinked,
    /// The index is in a folder below.
    Nested,
    /// A requirement that nothing in the mirror satisfies.
    Missing,
}

/// A fault of the mirror.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file or page, relative to the mirror; a requirement where one is missing.
    pub place: String,
    /// What is wrong.
    pub fault: Kind,
    /// The page that says otherwise, where there is one.
    pub page: Option<String>,
    /// In words.
    pub what: String,
    /// Who cannot install because of it, or installs something else.
    pub breaks: Vec<Installer>,
    /// What mends it, a sentence.
    pub next: String,
}

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Version of this report's form.
    pub version: u32,
    /// Wheels and sdists.
    pub files: usize,
    /// Projects with a page or a file.
    pub projects: usize,
    /// What is broken, by place.
    pub faults: BTreeSet<Finding>,
}

/// A mirror while it is looked at.
struct Mirror<'a> {
    directory: &'a Path,
    /// Where the tree is, relative: empty, or `simple`.
    tree: PathBuf,
    /// Folders of the tree.
    folders: BTreeSet<String>,
    /// Distributions that stand in the tree or in a folder of it, by place.
    files: BTreeSet<String>,
}

/// Reads the whole mirror: every page, every file. `wanted`: lines of requirements files that it should satisfy.
pub fn verify(directory: &Path, wanted: &[Line]) -> Result<Report> {
    let Some(layout) = layout::look(directory) else {
        return refuse(
            Fault::new(format!("{} is no directory", directory.display())).hint("Name the mirror's directory."),
        );
    };
    let mut report = Report { version: 1, ..Report::default() };
    let tree = match layout.arrangement {
        Arrangement::Nested(below) => {
            report.faults.insert(nested(&below));
            below
        }
        _ => PathBuf::new(),
    };
    let mirror = Mirror::list(directory, tree)?;
    let pages = links::read(&mirror, &mut report.faults);
    let places: BTreeSet<String> = mirror.files.iter().cloned().chain(links::places(&pages)).collect();
    let inspected = inspect::all(directory, places);
    mirror.names(&pages, &mut report.faults);
    links::check(&mirror, &pages, &inspected, &mut report.faults);
    for (place, file) in &inspected {
        report.faults.extend(unreadable(place, file));
    }
    wanted::check(wanted, &inspected, &mut report.faults);
    report.files = inspected.len();
    let projects = inspected.keys().filter_map(|place| distribution::parse(inspect::name(place), None));
    report.projects = projects.map(|d| d.name).collect::<BTreeSet<_>>().len();
    Ok(report)
}

impl Report {
    /// Nothing is broken.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// For people; `directory` for the commands that help.
    pub fn text(&self, directory: &Path) -> String {
        text::text(self, directory)
    }
}

/// What `dropcloth mirror index` mends.
const INDEX: &str = "Write the pages anew: `dropcloth mirror index DIR`.";

fn nested(below: &Path) -> Finding {
    Finding {
        place: format!("{}/", below.display()),
        fault: Kind::Nested,
        page: None,
        what: "the index is in this folder, and not where the mirror is".to_owned(),
        breaks: vec![Pip, Uv],
        next: format!("dropcloth finds it there; give other tools the URL {MIRROR_URL}/{}.", below.display()),
    }
}

fn unreadable(place: &str, file: &Inspected) -> Option<Finding> {
    Some(Finding {
        place: place.to_owned(),
        fault: Kind::FileUnreadable,
        page: None,
        what: file.unreadable.clone()?,
        breaks: vec![Pip, Uv],
        next:
            "Remove the file and download it again: `dropcloth mirror build --for ROOT REQUIREMENT --into DIR --add`."
                .to_owned(),
    })
}

impl<'a> Mirror<'a> {
    fn list(directory: &'a Path, tree: PathBuf) -> Result<Mirror<'a>> {
        let mut mirror = Mirror { directory, tree, folders: BTreeSet::new(), files: BTreeSet::new() };
        let top = directory.join(&mirror.tree);
        for name in names(&top) {
            let inside = names(&top.join(&name));
            if top.join(&name).is_dir() {
                let files = inside.iter().filter(|file| {
                    distribution::parse(file, Some(&name)).or_else(|| distribution::parse(file, None)).is_some()
                });
                let files: Vec<String> = files.map(|file| mirror.place(&format!("{name}/{file}"))).collect();
                if !files.is_empty() || inside.iter().any(|file| ["index.html", "index.json"].contains(&file.as_str()))
                {
                    mirror.files.extend(files);
                    mirror.folders.insert(name);
                }
            } else if distribution::parse(&name, None).is_some() {
                // A flat folder of links into the tree is no second copy.
                if !top.join(&name).is_symlink() {
                    mirror.files.insert(mirror.place(&name));
                }
            }
        }
        Ok(mirror)
    }

    /// Relative to the mirror what is relative to its tree.
    fn place(&self, below: &str) -> String {
        self.tree.join(below).to_string_lossy().into_owned()
    }

    /// Where installers look for a project's page.
    fn page_of(&self, project: &str) -> String {
        self.place(&format!("{project}/index.html"))
    }

    /// Folders that nobody asks for, and files of which no page tells.
    fn names(&self, pages: &[links::Page], faults: &mut BTreeSet<Finding>) {
        let mut add = |place: String, fault, what: String, breaks: &[Installer]| {
            faults.insert(Finding { place, fault, page: None, what, breaks: breaks.to_vec(), next: INDEX.to_owned() });
        };
        for folder in &self.folders {
            let asked = normalized(folder);
            if asked != *folder && !self.directory.join(self.page_of(&asked)).is_file() {
                let what = format!("installers ask for {asked} (PEP 503)");
                add(self.place(&format!("{folder}/")), Kind::NotNormalized, what, &[Pip, Uv]);
            } else if !self.directory.join(self.page_of(folder)).is_file() && self.has_files(folder) {
                let what =
                    "there is no index.html, and nothing else is read of a folder (JSON by http only)".to_owned();
                add(self.place(&format!("{folder}/")), Kind::NoPage, what, &[Pip, Uv]);
            }
        }
        let linked: BTreeSet<&str> =
            pages.iter().filter(|page| page.is_project()).flat_map(links::Page::local).collect();
        for file in self.files.iter().filter(|file| !linked.contains(file.as_str())) {
            let folder = Path::new(file).parent().and_then(|f| f.file_name()).and_then(|f| f.to_str());
            let has_page = folder.is_some_and(|folder| self.directory.join(self.page_of(folder)).is_file());
            if has_page {
                let what = "the page of its project does not link it".to_owned();
                add(file.clone(), Kind::NotLinked, what, &[Pip, Uv]);
            } else if folder.is_none_or(|folder| !self.folders.contains(folder)) {
                let what =
                    "no page links it: as an index the mirror does not have it (as find-links it has)".to_owned();
                add(file.clone(), Kind::NoPage, what, &[Pip, Uv]);
            }
        }
    }

    fn has_files(&self, folder: &str) -> bool {
        let below = format!("{}/", self.place(folder));
        self.files.iter().any(|file| file.starts_with(&below))
    }

    /// The flat page and those of the projects.
    fn pages(&self) -> Vec<String> {
        let mut pages = vec![LINKS_PAGE.to_owned()];
        for folder in &self.folders {
            pages.extend(["index.html", "index.json"].map(|page| self.place(&format!("{folder}/{page}"))));
        }
        pages.retain(|page| self.directory.join(page).is_file());
        pages
    }
}

/// Names in a folder, hidden ones left out; none where it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}
