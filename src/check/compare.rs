//! Winners and losers: what each index has for a name, what pip takes, and what uv takes.

use std::collections::{BTreeMap, HashSet};

use pep440_rs::{Version, VersionSpecifiers};

use super::probe::{self, Facts, Item};
use super::{Offer, Row};
use crate::error::Result;
use crate::mirror::source::Source;
use crate::pypi::distribution::{self, Distribution, Kind, normalized};
use crate::pypi::requirement;
use crate::pypi::simple_page::FileLink;

/// A file that fits this Python.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its link.
    pub link: FileLink,
    /// Its name taken apart.
    pub distribution: Distribution,
    rank: usize,
}

/// The indexes with the pages asked so far.
pub struct Indexes {
    sources: Vec<Source>,
    python: Version,
    tags: Vec<String>,
    pages: BTreeMap<(usize, String), Option<Vec<FileLink>>>,
    /// What could not be asked.
    pub notes: Vec<String>,
}

impl Indexes {
    /// In the order of the settings.
    pub fn new(sources: Vec<Source>, facts: &Facts) -> Result<Indexes> {
        let python = facts.python_version()?;
        Ok(Indexes { sources, python, tags: facts.tags.clone(), pages: BTreeMap::new(), notes: Vec::new() })
    }

    /// The index at `place`.
    pub fn source(&self, place: usize) -> &Source {
        &self.sources[place]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sources.len()
    }

    /// Whether that index was asked for that name.
    pub fn knows(&self, key: &(usize, String)) -> bool {
        self.pages.contains_key(key)
    }

    /// What the index at a place has for a name, asked by somebody else.
    pub fn learn(&mut self, key: (usize, String), files: Option<Vec<FileLink>>) {
        self.pages.insert(key, files);
    }

    /// All files of a project in the index at `place`; `None`: it does not have the name, or did not answer.
    pub fn files(&mut self, place: usize, name: &str) -> Option<&Vec<FileLink>> {
        let key = (place, name.to_owned());
        if !self.pages.contains_key(&key) {
            let found = self.sources[place].files(name).unwrap_or_else(|error| {
                self.notes.push(format!("{} was not asked for {name}: {error:#}", self.sources[place].url));
                None
            });
            self.pages.insert(key.clone(), found);
        }
        self.pages.get(&key)?.as_ref()
    }

    /// Those of a project's files that an installer of this Python looks at twice. It reads each line of a page, most of which are
    /// wheels for others.
    pub fn fitting(&self, name: &str, links: &[FileLink]) -> Vec<FileLink> {
        let supported: HashSet<&String> = self.tags.iter().collect();
        let fits = |link: &&FileLink| {
            // What it cannot read is for it to tell.
            let Some(distribution) = distribution::parse(&link.filename, Some(name)) else { return true };
            let for_this =
                distribution.kind == Kind::Sdist || distribution.tags.iter().any(|tag| supported.contains(tag));
            for_this && distribution::allows_python(link.requires_python.as_deref(), &self.python)
        };
        links.iter().filter(fits).cloned().collect()
    }

    /// The files that fit this Python, best first: version, then wheel by its tags, then sdist. Pre-releases come last, yanked
    /// files only where nothing else is left.
    pub fn candidates(&mut self, place: usize, name: &str, versions: &VersionSpecifiers) -> Vec<Candidate> {
        let (python, tags) = (self.python.clone(), self.tags.clone());
        let Some(files) = self.files(place, name) else { return Vec::new() };
        let fits = |link: &FileLink| {
            let distribution = distribution::parse(&link.filename, Some(name))?;
            let rank = distribution::rank(&distribution, &tags)?;
            let allowed = distribution.name == normalized(name)
                && versions.contains(&distribution.version)
                && distribution::allows_python(link.requires_python.as_deref(), &python);
            allowed.then(|| Candidate { link: link.clone(), distribution, rank })
        };
        let mut found: Vec<Candidate> = files.iter().filter_map(fits).collect();
        if found.iter().any(|c| c.link.yanked.is_none()) {
            found.retain(|c| c.link.yanked.is_none());
        }
        let stable = |c: &Candidate| !c.distribution.version.any_prerelease();
        found.sort_by(|a, b| {
            stable(b)
                .cmp(&stable(a))
                .then(b.distribution.version.cmp(&a.distribution.version))
                .then(a.rank.cmp(&b.rank))
        });
        found
    }

    /// The best file of all indexes, and which has it: what pip takes.
    pub fn best(&mut self, name: &str, versions: &VersionSpecifiers) -> Option<(usize, Candidate)> {
        let mut best: Option<(usize, Candidate)> = None;
        for place in 0..self.count() {
            let Some(candidate) = self.candidates(place, name, versions).into_iter().next() else { continue };
            let better = best.as_ref().is_none_or(|(_, known)| {
                let key = |c: &Candidate| (!c.distribution.version.any_prerelease(), c.distribution.version.clone());
                key(&candidate) > key(known)
            });
            if better {
                best = Some((place, candidate));
            }
        }
        best
    }

    /// What uv takes: the first index that has the name at all.
    fn first(&mut self, name: &str, versions: &VersionSpecifiers) -> Option<Offer> {
        let place = (0..self.count()).find(|place| self.files(*place, name).is_some_and(|files| !files.is_empty()))?;
        Some(self.offer(place, name, versions))
    }

    fn offer(&mut self, place: usize, name: &str, versions: &VersionSpecifiers) -> Offer {
        let version = self.candidates(place, name, versions).first().map(|c| c.distribution.version.to_string());
        Offer { index: self.sources[place].url.clone(), version }
    }
}

/// Everything that is asked of each name: by the user, and by what pip would install.
pub fn asked(facts: &Facts, requirements: &[String]) -> Result<BTreeMap<String, Vec<VersionSpecifiers>>> {
    let markers = facts.markers()?;
    let mut asked: BTreeMap<String, Vec<VersionSpecifiers>> = BTreeMap::new();
    let dependencies = facts.items.iter().flat_map(|item| &item.requires);
    for wish in requirements.iter().chain(dependencies).filter_map(|text| requirement::wish(text)) {
        if probe::applies(&wish, &markers, &[]) {
            asked.entry(normalized(wish.name.as_ref())).or_default().push(probe::versions(&wish));
        }
    }
    Ok(asked)
}

fn joined(all: Option<&Vec<VersionSpecifiers>>) -> VersionSpecifiers {
    all.into_iter().flatten().flat_map(|specifiers| specifiers.iter().cloned()).collect()
}

/// The rows of the report.
pub fn rows(facts: &Facts, requirements: &[String], indexes: &mut Indexes) -> Result<Vec<Row>> {
    let asked = asked(facts, requirements)?;
    let uv = facts.uv_picks();
    let uv_answers = facts.uv.as_ref().is_some_and(|uv| uv.status == 0);
    let items = if facts.items.is_empty() { of_files(&facts.files, requirements) } else { facts.items.clone() };
    let mut rows = Vec::new();
    for item in &items {
        let name = normalized(&item.name);
        let versions = joined(asked.get(&name));
        let mut row = row(item, &name, indexes);
        for place in 0..indexes.count() {
            if row.index.as_deref() != Some(indexes.source(place).url.as_str()) && indexes.files(place, &name).is_some()
            {
                row.also.push(indexes.offer(place, &name, &versions));
            }
        }
        row.conflicts = conflicts(indexes, &name, &row.file);
        let of_uv = if uv_answers {
            uv.get(&name).map(|(version, index)| Offer {
                index: index.clone().unwrap_or_default(),
                version: Some(version.clone()),
            })
        } else {
            indexes.first(&name, &versions)
        };
        let same = |offer: &Offer| {
            let version = |text: &str| text.parse::<Version>().ok();
            offer.version.as_deref().and_then(version) == version(&row.version)
        };
        row.uv = of_uv.filter(|offer| !item.direct && !same(offer));
        rows.push(row);
    }
    rows.sort_by(|a, b| b.requested.cmp(&a.requested).then(a.name.cmp(&b.name)));
    Ok(rows)
}

/// What an old pip downloaded.
fn of_files(files: &[String], requirements: &[String]) -> Vec<Item> {
    let named: Vec<String> =
        requirements.iter().filter_map(|text| requirement::wish(text)).map(|w| normalized(w.name.as_ref())).collect();
    let item = |file: &String| {
        let found = distribution::parse(file, None)?;
        Some(Item {
            requested: named.contains(&found.name),
            version: found.version.to_string(),
            name: found.name,
            url: file.clone(),
            ..Item::default()
        })
    };
    files.iter().filter_map(item).collect()
}

fn row(item: &Item, name: &str, indexes: &mut Indexes) -> Row {
    let bare = item.url.split('#').next().unwrap_or(&item.url);
    let last = bare.rsplit('/').next().unwrap_or(bare);
    let file = percent_encoding::percent_decode_str(last).decode_utf8_lossy().into_owned();
    let serves = |indexes: &mut Indexes, place: usize, by_url: bool| {
        let same = |link: &FileLink| if by_url { link.url == bare } else { link.filename == file };
        indexes.files(place, name).and_then(|files| files.iter().find(|link| same(link))).cloned()
    };
    let found = [true, false]
        .into_iter()
        .find_map(|by_url| (0..indexes.count()).find_map(|place| Some((place, serves(indexes, place, by_url)?))));
    let kind = distribution::parse(&file, Some(name)).map_or(Kind::Sdist, |d| d.kind);
    let mut build_requires = Vec::new();
    if let (Kind::Sdist, Some((place, link))) = (kind, &found) {
        match indexes.source(*place).describe(link) {
            Ok(described) => build_requires = described.build_requires,
            Err(error) => indexes.notes.push(format!("the build requirements of {file} were not read: {error:#}")),
        }
    }
    Row {
        name: name.to_owned(),
        version: item.version.clone(),
        file,
        kind: if kind == Kind::Wheel { "wheel" } else { "sdist" },
        index: found.filter(|_| !item.direct).map(|(place, _)| indexes.source(place).url.clone()),
        requested: item.requested,
        build_requires,
        also: Vec::new(),
        uv: None,
        conflicts: Vec::new(),
    }
}

/// Indexes in which the file has another hash than in the first that has it.
fn conflicts(indexes: &mut Indexes, name: &str, file: &str) -> Vec<String> {
    let mut known: Option<(String, String)> = None;
    let mut found = Vec::new();
    for place in 0..indexes.count() {
        let files = indexes.files(place, name);
        let Some(hash) = files.and_then(|f| f.iter().find(|l| l.filename == file)).and_then(|l| l.hash.clone()) else {
            continue;
        };
        match &known {
            Some(first) if first.0 == hash.0 && first.1 != hash.1 => found.push(indexes.source(place).url.clone()),
            Some(_) => {}
            None => known = Some(hash),
        }
    }
    found
}
