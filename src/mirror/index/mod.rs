//! `dropcloth mirror index`: any folder of wheels and sdists becomes an index (PEP 503, 592, 658, 691, 714), in place.

pub mod arrange;
pub mod known;
pub mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use self::arrange::Arranged;
use self::known::{Facts, Known};
use super::layout::{self, Arrangement};
use super::parallel;
use crate::error::{Doing, Fault, Result, refuse};
use crate::sys::fs;

/// What was done.
#[derive(Debug, Default)]
pub struct Summary {
    /// Wheels and sdists in the index.
    pub files: usize,
    /// Projects.
    pub projects: usize,
    /// Files whose hash and metadata were read, for they are new or changed.
    pub read: usize,
    /// Files that were moved to the folder of their project.
    pub moved: usize,
    /// Pages that were written; the others said the same already.
    pub written: usize,
    /// Files that are in no page, since they are not what their name says: path and reason.
    pub left_out: Vec<(String, String)>,
    /// What else somebody should know.
    pub notes: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Files by project: name and what is known.
type Projects = BTreeMap<String, Vec<(String, Facts)>>;

/// Makes `directory` an index. Installers may be reading it meanwhile: pages change in one call, files keep their contents.
pub fn index(directory: &Path) -> Result<Summary> {
    index_without(directory, &BTreeSet::new())
}

/// The same without the files at these places, `PROJECT/FILE`, as if they were gone already.
pub fn index_without(directory: &Path, gone: &BTreeSet<String>) -> Result<Summary> {
    let started = Instant::now();
    let handle = std::fs::File::open(directory).doing(|| format!("cannot open {}", directory.display())).hint(|| {
        "Name the folder with the wheels and source distributions, such as the one that `pip download --dest` wrote."
    })?;
    look_first(directory)?;
    if !fs::try_lock(handle.as_fd(), true)? {
        return refuse(
            Fault::new(format!("{} is being indexed by somebody else", directory.display()))
                .hint("Wait until that one has ended."),
        );
    }
    let known = Known::read(directory);
    let mut arranged = arrange::arrange(directory)?;
    arranged.files.retain(|(project, file)| !gone.contains(&format!("{project}/{file}")));
    let mut summary = Summary { moved: arranged.moved, notes: arranged.notes.clone(), ..Summary::default() };
    let (projects, unreadable) = facts(directory, &arranged, &known, &mut summary)?;
    let projects = pages::write(directory, projects, &arranged.left, &known, &mut summary)?;
    arranged.left.iter().for_each(|folder| arrange::clear(folder));
    forget(directory, &known, &projects)?;
    summary.projects = projects.len();
    summary.files = projects.values().map(Vec::len).sum();
    remember(directory, projects, unreadable)?;
    summary.took = started.elapsed();
    Ok(summary)
}

fn look_first(directory: &Path) -> Result<()> {
    match layout::look(directory).map(|layout| layout.arrangement) {
        Some(Arrangement::Nested(below)) => refuse(
            Fault::new(format!("{} has its index in {}/", directory.display(), below.display())).hint(format!(
                "Use it as it is: `dropcloth run --mirror {}` and `dropcloth mirror serve` find {0}/{}. To check it: `dropcloth mirror verify`.",
                directory.display(),
                below.display()
            )),
        ),
        None => refuse(
            Fault::new(format!("{} is not a directory", directory.display()))
                .hint("Name the folder with the wheels and source distributions."),
        ),
        _ => Ok(()),
    }
}

/// Hashes and metadata of all files, over the cores.
fn facts(
    directory: &Path,
    arranged: &Arranged,
    known: &Known,
    summary: &mut Summary,
) -> Result<(Projects, BTreeMap<String, Facts>)> {
    let files: Vec<(&String, String)> =
        arranged.files.iter().map(|(project, file)| (project, format!("{project}/{file}"))).collect();
    let looks = parallel::map(&files, |(_, place)| known::look(&directory.join(place), known.files.get(place)));
    let mut projects = Projects::new();
    let mut unreadable = BTreeMap::new();
    for ((project, place), look) in files.into_iter().zip(looks) {
        let (facts, read) = look?;
        summary.read += usize::from(read);
        if let Some(why) = &facts.unreadable {
            summary.left_out.push((place.clone(), why.clone()));
            unreadable.insert(place, facts);
        } else {
            let file = place[project.len() + 1..].to_owned();
            projects.entry(project.clone()).or_default().push((file, facts));
        }
    }
    Ok((projects, unreadable))
}

/// Removes what earlier runs made for files that are gone.
fn forget(directory: &Path, known: &Known, projects: &Projects) -> Result<()> {
    for place in known.files.keys() {
        let Some((project, _)) = place.split_once('/').filter(|(project, _)| arrange::is_project(project)) else {
            continue;
        };
        let path = directory.join(place);
        if !path.exists() {
            let _ = std::fs::remove_file(known::metadata_path(&path));
        }
        if !projects.contains_key(project) {
            arrange::clear(&directory.join(project));
        }
    }
    Ok(())
}

fn remember(directory: &Path, projects: Projects, unreadable: BTreeMap<String, Facts>) -> Result<()> {
    let mut known = Known { files: unreadable, ..Known::default() };
    for (project, files) in projects {
        known.files.extend(files.into_iter().map(|(file, facts)| (format!("{project}/{file}"), facts)));
    }
    known.write(directory)
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { files, projects, read, moved, written, .. } = self;
        write!(f, "indexed {files} files of {projects} projects in {:.2} s", self.took.as_secs_f64())?;
        write!(f, ": {read} read, {moved} moved, {written} pages written")
    }
}
