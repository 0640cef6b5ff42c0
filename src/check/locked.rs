//! A lock file held against the mirrors: each locked file has to be there, with its hash.

use pep440_rs::VersionSpecifiers;

use super::Missing;
use super::compare::Indexes;
use crate::pypi::distribution::{self, normalized};
use crate::pypi::lock::{File, Locked};

/// What the mirrors lack of a lock. A package of which the lock has no file for this Python is not asked for here.
pub fn missing(locked: &[Locked], tags: &[String], indexes: &mut Indexes) -> Vec<Missing> {
    let mut found = Vec::new();
    for package in locked.iter().filter(|package| package.direct.is_none()) {
        let name = normalized(&package.name);
        let fits = |file: &&File| {
            distribution::parse(&file.name, Some(&name)).is_some_and(|d| distribution::rank(&d, tags).is_some())
        };
        let wanted: Vec<&File> = package.files.iter().filter(fits).collect();
        if wanted.is_empty() {
            continue;
        }
        let mut why = None;
        let there = wanted.iter().any(|file| match state(indexes, &name, file) {
            State::Same => true,
            State::Other(index) => {
                why = Some(format!("{} has another hash in {index}", file.name));
                false
            }
            State::Absent => false,
        });
        if !there {
            let version = package.version.as_deref().unwrap_or_default();
            found.push(Missing {
                requirement: format!("{name}=={version}"),
                needed_by: vec![format!("line {}", package.line)],
                build: false,
                why: why.unwrap_or_else(|| instead(indexes, &name)),
            });
        }
    }
    found
}

enum State {
    Same,
    Other(String),
    Absent,
}

fn state(indexes: &mut Indexes, name: &str, file: &File) -> State {
    let mut state = State::Absent;
    for place in 0..indexes.count() {
        let files = indexes.files(place, name);
        let Some(link) = files.and_then(|files| files.iter().find(|link| link.filename == file.name)) else { continue };
        let hash = link.hash.as_ref().filter(|(algorithm, _)| algorithm == "sha256").map(|(_, digest)| digest.clone());
        match (&file.sha256, hash) {
            (Some(wanted), Some(there)) if *wanted != there => state = State::Other(indexes.source(place).url.clone()),
            _ => return State::Same,
        }
    }
    state
}

fn instead(indexes: &mut Indexes, name: &str) -> String {
    let best = indexes.best(name, &VersionSpecifiers::empty());
    best.map_or_else(
        || "no index has the name for this Python".to_owned(),
        |(_, candidate)| {
            format!("the indexes have {} at best, and not the locked file", candidate.distribution.version)
        },
    )
}
