//! The links of all pages, held against what is there.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::Installer::{Pip, Uv, UvByHttp};
use super::inspect::{self, Inspected};
use super::{Finding, INDEX, Installer, Kind, Mirror};
use crate::mirror::artifact;
use crate::pypi::distribution::normalized;
use crate::pypi::simple_page::{self, FileLink};
use crate::pypi::{LINKS_PAGE, distribution};

/// A place that is no root, so that links that climb out of the mirror are seen to.
const HERE: &str = "file:///the/mirror/";
/// Digests in links that uv knows. With any other one it rejects the whole page.
const OF_UV: [&str; 5] = ["md5", "sha256", "sha384", "sha512", "blake2b"];

/// A page that could be read.
pub struct Page {
    /// Relative to the mirror.
    place: String,
    /// It has the older name of the attribute for metadata.
    old_name: bool,
    /// Its links, each with its place in the mirror where it has one.
    links: Vec<(FileLink, Option<String>)>,
}

impl Page {
    /// An index.html, the page that counts by file.
    pub fn is_project(&self) -> bool {
        self.place.ends_with("/index.html")
    }

    /// What it links in the mirror.
    pub fn local(&self) -> impl Iterator<Item = &str> {
        self.links.iter().filter_map(|(_, place)| place.as_deref())
    }
}

/// All pages.
pub fn read(mirror: &Mirror<'_>, faults: &mut BTreeSet<Finding>) -> Vec<Page> {
    let mut pages = Vec::new();
    for place in mirror.pages() {
        match page(mirror, &place) {
            Ok(page) => pages.push(page),
            Err(what) => {
                faults.insert(Finding {
                    fault: Kind::PageUnreadable,
                    page: None,
                    what,
                    breaks: vec![Pip, Uv],
                    next: INDEX.to_owned(),
                    place,
                });
            }
        }
    }
    pages
}

fn page(mirror: &Mirror<'_>, place: &str) -> Result<Page, String> {
    let text = std::fs::read(mirror.directory.join(place)).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&text);
    let base = Url::parse(HERE).and_then(|url| url.join(place)).map_err(|error| error.to_string())?;
    let links = if place.ends_with(".json") {
        simple_page::parse_json(&text, &base)?
    } else {
        simple_page::parse_html(&text, &base)
    };
    // A link to a folder or to a signature is for people.
    let links = links.into_iter().filter(|link| distribution::parse(&link.filename, None).is_some());
    Ok(Page {
        place: place.to_owned(),
        old_name: !place.ends_with(".json") && text.contains("data-dist-info-metadata"),
        links: links.map(|link| (within(&link.url), link)).map(|(place, link)| (link, place)).collect(),
    })
}

fn within(url: &str) -> Option<String> {
    let place = url.strip_prefix(HERE)?;
    Some(percent_encoding::percent_decode_str(place).decode_utf8().ok()?.into_owned())
}

/// Everything in the mirror that a page links.
pub fn places(pages: &[Page]) -> impl Iterator<Item = String> {
    pages.iter().flat_map(Page::local).map(str::to_owned)
}

/// What pages say that is not so. A fault that several pages share is told once, by the page that most installers read.
pub fn check(
    mirror: &Mirror<'_>,
    pages: &[Page],
    inspected: &BTreeMap<String, Inspected>,
    faults: &mut BTreeSet<Finding>,
) {
    let rank = |page: &Page| match page.place.as_str() {
        LINKS_PAGE => 2,
        place if place.ends_with(".json") => 1,
        _ => 0,
    };
    let mut sorted: Vec<&Page> = pages.iter().collect();
    sorted.sort_by_key(|page| rank(page));
    let mut told = BTreeSet::new();
    for page in sorted {
        for (link, place) in &page.links {
            for finding in one(mirror, page, link, place.as_deref(), inspected) {
                if told.insert((finding.fault, finding.place.clone())) {
                    faults.insert(finding);
                }
            }
        }
    }
}

fn one(
    mirror: &Mirror<'_>,
    page: &Page,
    link: &FileLink,
    place: Option<&str>,
    inspected: &BTreeMap<String, Inspected>,
) -> Vec<Finding> {
    let finding = |place: &str, fault, what: String, breaks: &[Installer], next: &str| Finding {
        place: place.to_owned(),
        fault,
        page: Some(page.place.clone()),
        what,
        breaks: breaks.to_vec(),
        next: next.to_owned(),
    };
    let Some(place) = place else {
        let next = "Put the file into the mirror, and write the pages anew: `dropcloth mirror index DIR`.";
        let what = if link.url.starts_with("file:") {
            "the link leads out of the mirror".to_owned()
        } else {
            format!("the link leads to {}: installers go there", link.url)
        };
        return vec![finding(&link.filename, Kind::LeadsElsewhere, what, &[Pip, Uv], next)];
    };
    let Some(file) = inspected.get(place) else {
        let what = "the page links it, and it is not there: installations fail late".to_owned();
        return vec![finding(place, Kind::FileMissing, what, &[Pip, Uv], INDEX)];
    };
    let mut found = Vec::new();
    if let Some((algorithm, digest)) = &link.hash {
        let path = mirror.directory.join(place);
        if inspect::digest(&path, algorithm, file).is_some_and(|there| there != *digest) {
            let what = format!("its {algorithm} is not the one of the page");
            let next =
                "Find out which is right. The file: `dropcloth mirror index DIR`. The page: download the file again.";
            found.push(finding(place, Kind::FileHash, what, &[Pip, Uv], next));
        }
        // By JSON installers choose among the hashes; in a fragment there is one.
        if !OF_UV.contains(&algorithm.as_str()) && !page.place.ends_with(".json") {
            let what = format!("uv rejects a page with {algorithm}");
            found.push(finding(place, Kind::UnknownHash, what, &[Uv], INDEX));
        }
    }
    let spelled = file.inside.as_ref().map(|inside| inside.parsed().name).unwrap_or_default();
    if page.old_name && link.metadata.is_some() && normalized(&spelled) != spelled {
        let what = format!(
            "pip 22.3 to 23.1 read data-dist-info-metadata, and refuse it for its name {spelled} unless it is asked for so"
        );
        found.push(finding(&format!("{place}.metadata"), Kind::MetadataOldName, what, &[Pip], INDEX));
    }
    if let Some(hash) = &link.metadata {
        found.extend(
            metadata(mirror, place, hash.as_ref(), file)
                .map(|(fault, what, breaks)| finding(&format!("{place}.metadata"), fault, what, breaks, INDEX)),
        );
    }
    found
}

type Wrong = (Kind, String, &'static [Installer]);

fn metadata(mirror: &Mirror<'_>, place: &str, hash: Option<&(String, String)>, file: &Inspected) -> Option<Wrong> {
    let beside = format!("{place}.metadata");
    let there = Some(&beside).filter(|beside| inspect::is_inside(mirror.directory, beside));
    let Some(bytes) = there.and_then(|beside| std::fs::read(mirror.directory.join(beside)).ok()) else {
        let what = "the page promises it, and it is not there".to_owned();
        return Some((Kind::MetadataMissing, what, &[Pip, UvByHttp]));
    };
    if hash.is_some_and(|(algorithm, digest)| algorithm == "sha256" && artifact::sha256_of(&bytes) != *digest) {
        let what = "its sha256 is not the one of the page".to_owned();
        return Some((Kind::MetadataHash, what, &[Pip, UvByHttp]));
    }
    let readable = Some(file).filter(|file| file.unreadable.is_none());
    let differs =
        readable.and_then(|file| file.inside.as_ref()).is_some_and(|inside| inside.parsed() != parsed(&bytes));
    differs.then(|| {
        let what = "it says something else than the wheel: dependencies come out wrong".to_owned();
        (Kind::MetadataContents, what, &[Pip, UvByHttp] as &[Installer])
    })
}

fn parsed(bytes: &[u8]) -> crate::pypi::metadata::Metadata {
    crate::pypi::metadata::Metadata::parse(&String::from_utf8_lossy(bytes))
}
