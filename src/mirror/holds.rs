//! What a mirror holds, read without changing anything: files by project, with their hashes and what the pages know of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::index::known::{Known, Look};
use super::index::pages;
use super::layout::{self, Arrangement};
use super::{artifact, parallel};
use crate::error::{Doing, Fault, Result, refuse};
use crate::pypi::distribution;

/// One file of a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Where, relative to the mirror.
    pub place: PathBuf,
    /// Lower case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Yanked, and why.
    pub yanked: Option<String>,
}

/// By normalized project and file name.
pub type Holds = BTreeMap<(String, String), Held>;

/// Reads the mirror `directory`, whatever its arrangement. Hashes that `dropcloth mirror index` keeps are not computed again.
///
/// # Errors
/// It is no directory, or a file cannot be read.
pub fn read(directory: &Path) -> Result<Holds> {
    let Some(layout) = layout::look(directory) else {
        return refuse(
            Fault::new(format!("{} is not a directory", directory.display())).hint("Name the directory of a mirror."),
        );
    };
    let below = if let Arrangement::Nested(below) = layout.arrangement { below } else { PathBuf::new() };
    let known = Known::read(directory);
    let places = places(directory, &below)?;
    let look = |(_, _, place): &(String, String, PathBuf)| one(directory, place, &known);
    let looked = parallel::map(&places, look);
    let mut holds = Holds::new();
    let mut folders = BTreeMap::new();
    for ((project, file, place), held) in places.into_iter().zip(looked) {
        let folder = place.parent().unwrap_or(Path::new("")).to_owned();
        // A flat folder has a page by project, and no page of its own.
        let folder = if folder == below { below.join(&project) } else { folder };
        let markers = folders.entry(folder.clone()).or_insert_with(|| pages::markers(&directory.join(&folder)));
        let yanked = markers.get(&file).and_then(|(yanked, _)| yanked.clone());
        holds.entry((project, file)).or_insert(Held { yanked, ..held? });
    }
    Ok(holds)
}

/// Project, name and place of every wheel and sdist in `below` of the mirror and in the folders there.
fn places(directory: &Path, below: &Path) -> Result<Vec<(String, String, PathBuf)>> {
    let mut found = Vec::new();
    for (name, path) in entries(&directory.join(below))? {
        if path.is_dir() {
            for (file, inside) in entries(&path)? {
                let parsed = distribution::parse(&file, Some(&name)).or_else(|| distribution::parse(&file, None));
                if let Some(parsed) = parsed.filter(|_| inside.is_file()) {
                    found.push((parsed.name, file.clone(), below.join(&name).join(file)));
                }
            }
        } else if let Some(parsed) = distribution::parse(&name, None).filter(|_| path.is_file()) {
            found.push((parsed.name, name.clone(), below.join(name)));
        }
    }
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let doing = || format!("cannot read {}", directory.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).doing(doing)? {
        let entry = entry.doing(doing)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with('.') {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn one(directory: &Path, place: &Path, known: &Known) -> Result<Held> {
    let path = directory.join(place);
    let data = std::fs::metadata(&path).doing(|| format!("cannot read {}", path.display()))?;
    let facts = place.to_str().and_then(|name| known.files.get(name)).filter(|facts| facts.look == Look::of(&data));
    let sha256 = match facts {
        Some(facts) => facts.sha256.clone(),
        None => artifact::sha256(&path)?.0,
    };
    Ok(Held { place: place.to_owned(), sha256, size: data.len(), yanked: None })
}
