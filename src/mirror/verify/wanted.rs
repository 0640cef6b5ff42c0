//! Requirements that nothing in a mirror satisfies, without the Python that they are for: `dropcloth check` asks that one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::VersionOrUrl;

use super::inspect::{self, Inspected};
use super::{Finding, Installer, Kind};
use crate::pypi::distribution::{self, normalized};
use crate::pypi::requirement;
use crate::pypi::requirements::{Line, What};

/// More are no closure of a step.
const MOST: usize = 5000;

/// Files by project and version.
type Offers<'a> = BTreeMap<String, BTreeMap<Version, Vec<&'a Inspected>>>;

/// Walks from the lines through the newest version of each name, past whatever hangs on a marker.
pub fn check(lines: &[Line], inspected: &BTreeMap<String, Inspected>, faults: &mut BTreeSet<Finding>) {
    let mut offers = Offers::new();
    for (place, file) in inspected.iter().filter(|(_, file)| file.unreadable.is_none()) {
        if let Some(parsed) = distribution::parse(inspect::name(place), folder(place)) {
            offers.entry(parsed.name).or_default().entry(parsed.version).or_default().push(file);
        }
    }
    let named =
        lines.iter().filter_map(|line| if let What::Named(text) = &line.what { Some(text.clone()) } else { None });
    let mut next: VecDeque<(String, Option<String>)> = named.map(|text| (text, None)).collect();
    let mut seen = BTreeSet::new();
    while let Some((text, by)) = next.pop_front() {
        let Some(wish) = requirement::wish(&text) else { continue };
        if !wish.marker.is_true() || seen.len() >= MOST || !seen.insert(text.clone()) {
            continue;
        }
        let versions = match &wish.version_or_url {
            Some(VersionOrUrl::VersionSpecifier(versions)) => versions.clone(),
            Some(VersionOrUrl::Url(_)) => continue,
            None => VersionSpecifiers::empty(),
        };
        let name = normalized(wish.name.as_ref());
        let offered = offers.get(&name);
        let Some((_, files)) = offered.and_then(|offered| offered.iter().rfind(|(v, _)| versions.contains(v))) else {
            faults.insert(missing(&text, by, offered));
            continue;
        };
        for inside in files.iter().filter_map(|file| file.inside.as_ref()) {
            let needs = inside.parsed().requires_dist.into_iter().chain(inside.build_requires.clone());
            next.extend(needs.map(|need| (need, Some(name.clone()))));
        }
    }
}

fn folder(place: &str) -> Option<&str> {
    place.rsplit_once('/').map(|(above, _)| inspect::name(above))
}

fn missing(text: &str, by: Option<String>, offered: Option<&BTreeMap<Version, Vec<&Inspected>>>) -> Finding {
    let there = match offered {
        None => "the mirror has no file of that name".to_owned(),
        Some(offered) => {
            let versions: Vec<String> = offered.keys().rev().take(6).map(ToString::to_string).collect();
            format!("the mirror has {}", versions.join(", "))
        }
    };
    let by = by.map_or_else(String::new, |by| format!(", needed by {by}"));
    Finding {
        place: text.to_owned(),
        fault: Kind::Missing,
        page: None,
        what: format!("{there}{by}"),
        breaks: vec![Installer::Pip, Installer::Uv],
        next: "Add it, with what it needs in turn: `dropcloth mirror build --for ROOT REQUIREMENT --into DIR --add`."
            .to_owned(),
    }
}
