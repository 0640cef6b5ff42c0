//! Pages that a mirror lacks: made from the names of its files, without reading a single artifact.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use url::Url;

use super::layout::{Arrangement, Layout};
use crate::error::{Doing, Result};
use crate::pypi::simple_page::{self, FileLink};
use crate::pypi::{LINKS_PAGE, distribution};

/// Texts by path relative to the mirror.
pub type Pages = BTreeMap<PathBuf, String>;

/// Files by normalized project, each link with its place relative to the mirror.
type Projects = BTreeMap<String, Vec<(FileLink, String)>>;

/// A larger page is none of an index.
const LARGEST_PAGE: u64 = 64 << 20;

/// The pages that `directory` lacks.
pub fn missing(directory: &Path, layout: &Layout) -> Result<Pages> {
    let doing = || format!("cannot read the mirror {}", directory.display());
    let mut pages = Pages::new();
    let tree = match &layout.arrangement {
        Arrangement::Nested(below) => below.clone(),
        _ => PathBuf::new(),
    };
    let mut projects = Projects::new();
    let mut flat = Projects::new();
    for entry in std::fs::read_dir(directory.join(&tree)).doing(doing)? {
        let Ok(name) = entry.doing(doing)?.file_name().into_string() else { continue };
        let at = tree.join(&name);
        if name.starts_with('.') {
        } else if directory.join(&at).is_dir() {
            let found = folder(directory, &at)?;
            let project = distribution::normalized(&name);
            let own_page = tree.join(&project).join("index.html");
            let all = projects.entry(project.clone()).or_default();
            all.extend(found);
            // Installers ask for the normalized name only, whatever the folder is called.
            if !directory.join(&own_page).is_file() && !all.is_empty() {
                pages.insert(own_page, page(&project, all, &tree));
            }
        } else if let Some(file) = distribution::parse(&name, None) {
            flat.entry(file.name).or_default().push((plain(&name), name));
        }
    }
    for (project, files) in flat {
        let at = tree.join(&project).join("index.html");
        let all = projects.entry(project.clone()).or_default();
        all.extend(files);
        pages.insert(at, page(&project, all, &tree));
    }
    if !layout.links_page {
        let all = projects.values().flatten().map(|(link, place)| (link, place.clone()));
        pages.insert(PathBuf::from(LINKS_PAGE), simple_page::links_page(all));
    }
    Ok(pages)
}

/// The files of a project's folder: what its page says, else what is in it.
fn folder(directory: &Path, at: &Path) -> Result<Vec<(FileLink, String)>> {
    let page = directory.join(at).join("index.html");
    let doing = || format!("cannot read {}", page.display());
    if std::fs::metadata(&page).is_ok_and(|data| data.is_file() && data.len() <= LARGEST_PAGE) {
        let text = std::fs::read(&page).doing(doing)?;
        // Links are resolved in an imagined server, so that none climbs out of the mirror.
        let base = Url::parse("mirror://here/").and_then(|url| url.join(&format!("{}/", at.display()))).doing(doing)?;
        let links = simple_page::parse_html(&String::from_utf8_lossy(&text), &base);
        let here = links.into_iter().filter_map(|link| {
            let place = link.url.strip_prefix("mirror://here/")?;
            let place = percent_encoding::percent_decode_str(place).decode_utf8().ok()?.into_owned();
            Some((link, place))
        });
        return Ok(here.collect());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory.join(at)).doing(doing)? {
        let Ok(name) = entry.doing(doing)?.file_name().into_string() else { continue };
        if distribution::parse(&name, None).is_some() {
            found.push((plain(&name), format!("{}/{name}", at.display())));
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(found)
}

/// A file of which only the name is known.
fn plain(name: &str) -> FileLink {
    FileLink { filename: name.to_owned(), ..FileLink::default() }
}

/// The page of a project, which stands in a directory of its own below `tree`.
fn page(project: &str, files: &[(FileLink, String)], tree: &Path) -> String {
    let links: Vec<FileLink> =
        files.iter().map(|(link, place)| FileLink { url: place.clone(), ..link.clone() }).collect();
    let up = "../".repeat(tree.components().count() + 1);
    simple_page::project_page(project, &links, &|link| format!("{up}{}", link.url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::layout;

    fn made(files: &[(&str, &str)]) -> Pages {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        missing(directory.path(), &layout::look(directory.path()).unwrap()).unwrap()
    }

    fn hrefs(page: &str) -> Vec<String> {
        let base = Url::parse("mirror://here/NAME/").unwrap();
        simple_page::parse_html(page, &base).into_iter().map(|link| link.url).collect()
    }

    #[test]
    fn a_flat_folder_gets_a_page_for_each_project_and_one_of_all() {
        let pages = made(&[("Flask-1-py3-none-any.whl", ""), ("flask-2.tar.gz", ""), ("doc_opt-1.tar.gz", "")]);
        let names: Vec<&str> = pages.keys().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(names, ["doc-opt/index.html", "flask/index.html", "links.html"]);
        let mut links = hrefs(&pages[Path::new("flask/index.html")]);
        links.sort();
        assert_eq!(links, ["mirror://here/Flask-1-py3-none-any.whl", "mirror://here/flask-2.tar.gz"]);
    }

    #[test]
    fn a_folder_whose_name_is_not_normalized_gets_a_page_where_installers_look() {
        let pages = made(&[("DC_Lib/index.html", "<a href='dc_lib-1.tar.gz'>x</a>"), ("DC_Lib/dc_lib-1.tar.gz", "")]);
        assert_eq!(hrefs(&pages[Path::new("dc-lib/index.html")]), ["mirror://here/DC_Lib/dc_lib-1.tar.gz"]);
    }

    #[test]
    fn only_what_is_missing_is_made_and_what_pages_say_is_kept() {
        let sha = "c".repeat(64);
        let page = format!(
            "<a href='../../packages/a-1.tar.gz#sha256={sha}' data-requires-python='>=3'>a</a><a href='https://elsewhere/a-2.tar.gz'>x</a>"
        );
        let pages = made(&[("simple/a/index.html", &page), ("packages/a-1.tar.gz", "")]);
        assert_eq!(pages.len(), 1);
        let text = &pages[Path::new("links.html")];
        let links = simple_page::parse_html(text, &Url::parse("mirror://here/").unwrap());
        assert_eq!(links.len(), 1, "a link to elsewhere leads past the mirror");
        assert_eq!(links[0].url, "mirror://here/packages/a-1.tar.gz");
        assert_eq!(
            (links[0].hash.as_ref().unwrap().1.as_str(), links[0].requires_python.as_deref()),
            (sha.as_str(), Some(">=3"))
        );
        assert!(made(&[("a/index.html", "x"), ("links.html", "x")]).is_empty());
    }
}
