//! The pages of an index, from what is known of its files and what the pages of before say of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use url::Url;

use super::known::{Facts, Known};
use super::{Projects, Summary};
use crate::error::Result;
use crate::mirror::{parallel, replace};
use crate::pypi::simple_page::{self, FileLink};
use crate::pypi::{LINKS_PAGE, distribution};

/// What only a page can know of a file: yanked and why, time of upload.
pub type Markers = BTreeMap<String, (Option<String>, Option<String>)>;

/// Writes all pages that say something else than before, and returns the files with what the pages knew.
pub fn write(
    directory: &Path,
    projects: Projects,
    left: &BTreeSet<PathBuf>,
    known: &Known,
    summary: &mut Summary,
) -> Result<Projects> {
    let mut moved = Markers::new();
    for folder in left {
        moved.extend(markers(folder));
    }
    let listed: Vec<(String, Vec<(String, Facts)>)> = projects.into_iter().collect();
    let done = parallel::map(&listed, |(project, files)| one(directory, project, files.clone(), known, &moved));
    let mut projects = Projects::new();
    for ((project, _), one) in listed.into_iter().zip(done) {
        let (files, written) = one?;
        summary.written += written;
        projects.insert(project, files);
    }
    let links = projects.iter().flat_map(|(project, files)| {
        files.iter().map(move |(file, facts)| (link(file, facts), format!("{project}/{file}")))
    });
    let links: Vec<(FileLink, String)> = links.collect();
    let flat = simple_page::links_page(links.iter().map(|(link, place)| (link, place.clone())));
    let root = simple_page::root_page(projects.keys().map(String::as_str));
    for (page, text) in [(LINKS_PAGE, flat), ("index.html", root)] {
        summary.written += usize::from(replace::write(&directory.join(page), text.as_bytes())?);
    }
    Ok(projects)
}

/// The two pages of a project. How many were written.
fn one(
    directory: &Path,
    project: &str,
    mut files: Vec<(String, Facts)>,
    known: &Known,
    moved: &Markers,
) -> Result<(Vec<(String, Facts)>, usize)> {
    let folder = directory.join(project);
    let kept = |file: &str| known.files.get(&format!("{project}/{file}"));
    for (file, facts) in &mut files {
        if let Some(before) = kept(file) {
            (facts.yanked, facts.upload_time) = (before.yanked.clone(), before.upload_time.clone());
        } else if let Some((yanked, upload_time)) = moved.get(file) {
            (facts.yanked, facts.upload_time) = (yanked.clone(), upload_time.clone());
        }
    }
    sort(project, &mut files);
    let page = folder.join("index.html");
    // A page that says what we say has nothing more to tell; any other one may have been edited.
    if std::fs::read(&page).is_ok_and(|there| there != html(project, &files).as_bytes()) {
        let markers = markers(&folder);
        for (file, facts) in &mut files {
            if let Some((yanked, upload_time)) = markers.get(file) {
                (facts.yanked, facts.upload_time) = (yanked.clone(), upload_time.clone());
            }
        }
    }
    let json = simple_page::project_json(project, &links(&files), &|link| link.filename.clone());
    let mut written = usize::from(replace::write(&page, html(project, &files).as_bytes())?);
    written += usize::from(replace::write(&folder.join("index.json"), json.as_bytes())?);
    Ok((files, written))
}

/// By version, oldest first, as people look for the newest at the end.
fn sort(project: &str, files: &mut [(String, Facts)]) {
    files.sort_by_cached_key(|(file, _)| {
        let parsed = distribution::parse(file, Some(project));
        (parsed.map(|d| (d.version, d.kind)), file.clone())
    });
}

fn html(project: &str, files: &[(String, Facts)]) -> String {
    simple_page::project_page(project, &links(files), &|link| link.filename.clone())
}

fn links(files: &[(String, Facts)]) -> Vec<FileLink> {
    files.iter().map(|(file, facts)| link(file, facts)).collect()
}

fn link(file: &str, facts: &Facts) -> FileLink {
    let sha256 = |digest: &String| ("sha256".to_owned(), digest.clone());
    FileLink {
        filename: file.to_owned(),
        url: String::new(),
        hash: Some(sha256(&facts.sha256)),
        requires_python: facts.requires_python.clone(),
        yanked: facts.yanked.clone(),
        metadata: facts.metadata.as_ref().map(|(digest, _)| Some(sha256(digest))),
        size: Some(facts.look.size),
        upload_time: facts.upload_time.clone(),
    }
}

/// What the pages in `folder` say of the files that they link, wherever they link them to.
pub fn markers(folder: &Path) -> Markers {
    let mut markers = Markers::new();
    let Ok(base) = Url::parse("mirror://here/NAME/") else { return markers };
    let read = |page: &str| std::fs::read(folder.join(page)).map(|text| String::from_utf8_lossy(&text).into_owned());
    let json = read("index.json").ok().and_then(|text| simple_page::parse_json(&text, &base).ok());
    for link in json.unwrap_or_default() {
        markers.insert(link.filename, (link.yanked, link.upload_time));
    }
    let html = read("index.html").map(|text| simple_page::parse_html(&text, &base));
    for link in html.unwrap_or_default() {
        // HTML has no time of upload; of yanked files it is the page that people edit.
        markers.entry(link.filename).or_default().0 = link.yanked;
    }
    markers
}
