//! Files that an installer will want, downloaded before it asks, many at a time: by the best file of each name, as an installer
//! without a solver would take it. What was guessed wrong costs a download; the installer decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use pep508_rs::MarkerEnvironment;

use super::compare::{Candidate, Indexes};
use super::probe::{self, Facts};
use crate::error::Result;
use crate::mirror::relay::Seen;
use crate::mirror::source::Source;
use crate::mirror::{artifact, parallel};
use crate::pypi::distribution::{self, normalized};
use crate::pypi::requirement::{self, Wish};
use crate::pypi::simple_page::FileLink;
use crate::pypi::upload_time;

/// Requests at a time: an index answers after a tenth of a second, whatever one asks.
const AT_A_TIME: usize = 16;
/// More files than these are no request, but an index that never ends.
const MOST: usize = 5000;

/// What is known beforehand.
pub struct Wanted<'a> {
    /// The requirements, PEP 508.
    pub requirements: &'a [String],
    /// Versions of others, PEP 508.
    pub constraints: &'a [String],
    /// The requirements name their dependencies themselves.
    pub whole: bool,
    /// Nothing that was uploaded later, seconds since 1970.
    pub until: Option<i64>,
    /// A mirror whose files are not downloaded again.
    pub stock: &'a Path,
}

/// Walks ahead of the installer. Files go to `into`, by their SHA-256; `progress` gets how many there are. Returns the pages that
/// it has seen; nothing when an index did not answer, which is for the installer to say.
pub fn walk(
    urls: &[String],
    mirror: Option<(&Path, &crate::mirror::synthesise::Pages)>,
    facts: &Facts,
    wanted: &Wanted<'_>,
    into: &Path,
    progress: &dyn Fn(usize),
) -> Result<Option<Seen>> {
    let sources: Option<Vec<Source>> = urls.iter().map(|url| Source::open(url, mirror)).collect();
    let Some(sources) = sources else { return Ok(None) };
    let mut walk = Walk {
        indexes: Indexes::new(sources, facts)?,
        markers: facts.markers()?,
        limits: BTreeMap::new(),
        seen: BTreeSet::new(),
        pages: Seen::new(),
        until: wanted.until,
        stock: wanted.stock,
        into,
    };
    for text in wanted.constraints {
        walk.wish(text, &[]);
    }
    let mut next: Vec<Wish> = wanted.requirements.iter().filter_map(|text| walk.wish(text, &[])).collect();
    while !next.is_empty() && walk.seen.len() < MOST {
        if !walk.read_pages(&next) {
            return Ok(None);
        }
        let files = walk.choose(&next);
        progress(walk.seen.len());
        let described = walk.fetch(&files);
        next = match wanted.whole {
            true => Vec::new(),
            false => described.iter().flat_map(|(wish, texts)| walk.follow(wish, texts)).collect(),
        };
    }
    Ok(Some(walk.pages))
}

struct Walk<'a> {
    indexes: Indexes,
    markers: MarkerEnvironment,
    /// What all that were seen so far ask of a name.
    limits: BTreeMap<String, Vec<pep440_rs::VersionSpecifier>>,
    /// File names that were chosen.
    seen: BTreeSet<(String, Vec<String>)>,
    pages: Seen,
    until: Option<i64>,
    stock: &'a Path,
    into: &'a Path,
}

/// A chosen file, for whom, and in which index.
type Chosen = (Wish, usize, Candidate);

impl Walk<'_> {
    /// A requirement that counts, with its versions kept.
    fn wish(&mut self, text: &str, extras: &[pep508_rs::ExtraName]) -> Option<Wish> {
        let wish = requirement::wish(text).filter(|wish| probe::applies(wish, &self.markers, extras))?;
        let limits = self.limits.entry(normalized(wish.name.as_ref())).or_default();
        limits.extend(probe::versions(&wish).iter().cloned());
        Some(wish)
    }

    /// Asks all indexes for the pages of these names. Whether all of them answered.
    fn read_pages(&mut self, wishes: &[Wish]) -> bool {
        let names: BTreeSet<String> = wishes.iter().map(|wish| normalized(wish.name.as_ref())).collect();
        let all = names.iter().flat_map(|name| (0..self.indexes.count()).map(move |place| (place, name.clone())));
        let missing: Vec<(usize, String)> = all.filter(|key| !self.indexes.knows(key)).collect();
        let indexes = &self.indexes;
        let found = parallel::map_by(AT_A_TIME, &missing, |(place, name)| indexes.source(*place).files(name));
        for ((place, name), files) in missing.into_iter().zip(found) {
            let mut files = match files {
                Ok(files) => files,
                Err(error) => {
                    log::warn!("nothing is downloaded ahead of pip: {error:#}");
                    return false;
                }
            };
            if let (Some(until), Some(links)) = (self.until, &mut files) {
                let time = |link: &FileLink| link.upload_time.as_deref().and_then(upload_time::seconds);
                // Whoever serves the page has to say that.
                let known = links.iter().all(|link| time(link).is_some());
                links.retain(|link| time(link).is_some_and(|time| time <= until));
                if !known {
                    self.indexes.learn((place, name), None);
                    continue;
                }
            }
            if let Some(links) = &files {
                self.pages.insert((place, name.clone()), Arc::new(self.indexes.fitting(&name, links)));
            }
            self.indexes.learn((place, name), files);
        }
        true
    }

    /// The best file of each name, once.
    fn choose(&mut self, wishes: &[Wish]) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        for wish in wishes {
            let name = normalized(wish.name.as_ref());
            let limits = self.limits.get(&name).cloned().unwrap_or_default();
            let Some((place, candidate)) = self.indexes.best(&name, &limits.into_iter().collect()) else { continue };
            let extras = wish.extras.iter().map(ToString::to_string).collect();
            if self.seen.insert((candidate.link.filename.clone(), extras)) {
                chosen.push((wish.clone(), place, candidate));
            }
        }
        chosen
    }

    /// Downloads, and says what each file needs. What fails is left to the installer.
    fn fetch(&self, files: &[Chosen]) -> Vec<(Wish, Vec<String>)> {
        let described = parallel::map_by(AT_A_TIME, files, |(wish, place, candidate)| {
            let path = self.one(self.indexes.source(*place), &candidate.link).ok()?;
            let inside = artifact::of(&candidate.link.filename, File::open(path).ok()?).ok()?;
            let builds = inside.build_requires.clone();
            Some((wish.clone(), inside.parsed().requires_dist.into_iter().chain(builds).collect()))
        });
        described.into_iter().flatten().collect()
    }

    fn one(&self, source: &Source, link: &FileLink) -> Result<std::path::PathBuf> {
        let Some(("sha256", hash)) = link.hash.as_ref().map(|(name, hash)| (name.as_str(), hash.as_str())) else {
            return crate::error::refuse(crate::error::Fault::new("the index gives no sha256"));
        };
        // A page is not trusted with the name of a file.
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return crate::error::refuse(crate::error::Fault::new("the index gives a sha256 that is none"));
        }
        let path = self.into.join(hash);
        let there = distribution::parse(&link.filename, None).map(|d| self.stock.join(d.name).join(&link.filename));
        let there = there.filter(|there| artifact::sha256(there).is_ok_and(|(found, _)| found == hash));
        if let Some(found) = there.or_else(|| path.is_file().then(|| path.clone())) {
            return Ok(found);
        }
        let mut file = tempfile_beside(&path)?;
        let (mut stream, _) = source.stream(&link.url)?;
        std::io::copy(&mut stream, &mut file.0)?;
        file.0.flush()?;
        std::fs::rename(&file.1, &path)?;
        Ok(path)
    }

    fn follow(&mut self, wish: &Wish, texts: &[String]) -> Vec<Wish> {
        texts.iter().filter_map(|text| self.wish(text, &wish.extras)).collect()
    }
}

/// Two names may lead to one hash at the same time.
fn tempfile_beside(path: &Path) -> Result<(File, std::path::PathBuf)> {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let beside = path.with_extension(format!("{number}.part"));
    Ok((File::create(&beside)?, beside))
}
