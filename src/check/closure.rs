//! What the mirrors lack, all of it at once: pip ends at the first.

use std::collections::{BTreeSet, VecDeque};

use pep440_rs::VersionSpecifiers;
use pep508_rs::{ExtraName, MarkerEnvironment};

use super::Missing;
use super::compare::Indexes;
use super::probe::{self, Facts};
use crate::error::Result;
use crate::mirror::source::Described;
use crate::pypi::distribution::normalized;
use crate::pypi::requirement::{self, Wish};

/// More distributions than these are no closure of a step, but an index that never ends.
const MOST: usize = 5000;

struct Need {
    wish: Wish,
    by: Vec<String>,
    build: bool,
}

/// Walks from the requirements through the best file of each name, as an installer without a solver would, and gathers what
/// no index has. Requirements of build systems are walked too.
pub fn missing(facts: &Facts, requirements: &[String], indexes: &mut Indexes) -> Result<Vec<Missing>> {
    let markers = facts.markers()?;
    let wishes = requirements.iter().filter_map(|text| requirement::wish(text));
    let wishes = wishes.filter(|wish| probe::applies(wish, &markers, &[]));
    let mut next: VecDeque<Need> = wishes.map(|wish| Need { wish, by: Vec::new(), build: false }).collect();
    let (mut seen, mut missing) = (BTreeSet::new(), BTreeSet::new());
    while let Some(need) = next.pop_front() {
        let name = normalized(need.wish.name.as_ref());
        let mut extras: Vec<String> = need.wish.extras.iter().map(ToString::to_string).collect();
        extras.sort();
        if seen.len() >= MOST || !seen.insert((name.clone(), extras, probe::versions(&need.wish).to_string())) {
            continue;
        }
        match indexes.best(&name, &probe::versions(&need.wish)) {
            None => {
                let why = instead(indexes, &name);
                let requirement = without_marker(&need.wish);
                missing.insert(Missing { requirement, needed_by: need.by, build: need.build, why });
            }
            Some((place, candidate)) => match indexes.source(place).describe(&candidate.link) {
                Ok(described) => next.extend(follow(&need, &candidate.link.filename, &described, &markers)),
                Err(error) => {
                    indexes.notes.push(format!("what {} needs is not known: {error:#}", candidate.link.filename))
                }
            },
        }
    }
    Ok(missing.into_iter().collect())
}

/// As it is written on a command line.
fn without_marker(wish: &Wish) -> String {
    let extras: Vec<String> = wish.extras.iter().map(ToString::to_string).collect();
    let extras = if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) };
    format!("{}{extras}{}", wish.name, probe::versions(wish).to_string().replace(", ", ","))
}

fn follow(need: &Need, file: &str, described: &Described, markers: &MarkerEnvironment) -> Vec<Need> {
    let mut by = need.by.clone();
    by.push(file.to_owned());
    let extras: Vec<ExtraName> = need.wish.extras.clone();
    let of = |text: &String, build: bool| {
        let wish = requirement::wish(text)?;
        // A dependency of an extra counts when the extra was asked for.
        let counts = probe::applies(&wish, markers, if build { &[] } else { &extras });
        counts.then(|| Need { wish, by: by.clone(), build: build || need.build })
    };
    let requires = described.metadata.requires_dist.iter().filter_map(|text| of(text, false));
    let builds = described.build_requires.iter().filter_map(|text| of(text, true));
    requires.chain(builds).collect()
}

/// What the indexes have of a name, where it does not fit.
fn instead(indexes: &mut Indexes, name: &str) -> String {
    let mut versions = BTreeSet::new();
    let mut files = 0;
    for place in 0..indexes.count() {
        files += indexes.files(place, name).map_or(0, Vec::len);
        let fitting = indexes.candidates(place, name, &VersionSpecifiers::empty());
        versions.extend(fitting.into_iter().map(|c| c.distribution.version));
    }
    match (files, versions.is_empty()) {
        (0, _) => "no index has the name".to_owned(),
        (_, true) => "the indexes have it, but no file for this Python and platform".to_owned(),
        _ => {
            let all: Vec<String> = versions.iter().rev().take(6).map(ToString::to_string).collect();
            format!("the indexes have {}", all.join(", "))
        }
    }
}
