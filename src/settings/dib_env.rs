//! The variables of diskimage-builder's pypi element, read as it reads them; where that surprises, a note says so. And
//! SOURCE_DATE_EPOCH.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Environment;
use super::layer::Layer;

/// reproducible-builds.org, the SOURCE_DATE_EPOCH specification: seconds since 1970.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// `$DIB_IMAGE_CACHE`, by default `~/.cache/image-create`.
pub fn image_cache(environment: &Environment, home: &Path) -> PathBuf {
    environment.get("DIB_IMAGE_CACHE").map_or_else(|| home.join(".cache/image-create"), PathBuf::from)
}

/// What the environment says: the values, for each field the variable it came from, and notes.
pub fn read(environment: &Environment) -> (Layer, BTreeMap<&'static str, String>, Vec<String>) {
    let mut layer = Layer::default();
    let mut origins = BTreeMap::new();
    let mut notes = Vec::new();
    let (urls, names) = mirrors(environment, &mut notes);
    if !urls.is_empty() {
        layer.indexes = Some(urls);
        origins.insert("indexes", names);
    }
    for (name, field) in [("DIB_OFFLINE", "offline"), ("DIB_NO_PYPI_PIP", "use_official")] {
        let Some(value) = environment.get(name) else { continue };
        if ["0", "false", "no"].contains(&value.as_str()) {
            notes.push(format!(
                "{name}={value} counts as set, as it does for diskimage-builder; unset it to turn it off."
            ));
        }
        origins.insert(field, name.to_owned());
        match field {
            "offline" => layer.offline = Some(true),
            _ => layer.use_official = Some(false),
        }
    }
    if let Some(retries) = environment.get("DIB_PIP_RETRIES") {
        match retries.parse() {
            Ok(number) => {
                layer.retries = Some(number);
                origins.insert("retries", "DIB_PIP_RETRIES".to_owned());
            }
            Err(_) => notes.push(format!("DIB_PIP_RETRIES={retries} is not a number and is passed over.")),
        }
    }
    if let Some(text) = environment.get(SOURCE_DATE_EPOCH) {
        match text.parse() {
            Ok(seconds) => {
                layer.source_date_epoch = Some(seconds);
                origins.insert("source_date_epoch", SOURCE_DATE_EPOCH.to_owned());
            }
            Err(_) => notes.push(format!("{SOURCE_DATE_EPOCH}={text} is not a number and is passed over.")),
        }
    }
    if environment.get("DIB_IMAGE_CACHE").is_some() {
        layer.mirror = Some(image_cache(environment, Path::new("/")).join("pypi/mirror"));
        origins.insert("mirror", "DIB_IMAGE_CACHE".to_owned());
    }
    (layer, origins, notes)
}

/// The mirror URLs of the current and then the older names, each group sorted by name as plain strings.
fn mirrors(environment: &Environment, notes: &mut Vec<String>) -> (Vec<String>, String) {
    let mut urls = Vec::new();
    let mut names = Vec::new();
    for (base, old) in [("DIB_PYPI_MIRROR_URL", false), ("PYPI_MIRROR_URL", true)] {
        let numbered = format!("{base}_");
        let mut found: Vec<(String, String)> = environment
            .0
            .keys()
            .filter_map(|name| name.to_str())
            .filter(|name| *name == base || name.starts_with(&numbered))
            .filter_map(|name| Some((name.to_owned(), environment.get(name)?)))
            .collect();
        found.sort();
        if found.is_empty() {
            continue;
        }
        if old {
            notes.push(format!("{base} is deprecated: use DIB_{base}."));
        }
        if found[0].0 != base {
            notes.push(format!(
                "{} is used although {base} is not set; diskimage-builder's own element would ignore it.",
                found[0].0
            ));
        }
        let numbers: Vec<u32> = found.iter().filter_map(|(n, _)| n.strip_prefix(&numbered)?.parse().ok()).collect();
        if !numbers.is_sorted() {
            let order: Vec<&str> = found.iter().map(|(n, _)| n.as_str()).collect();
            notes.push(format!("Mirrors are taken in the order of their names as strings: {}.", order.join(", ")));
        }
        for (name, url) in found {
            names.push(name);
            urls.push(url);
        }
    }
    (urls, names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(list: &[(&str, &str)]) -> Environment {
        Environment(list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    #[test]
    fn mirrors_come_in_string_order_the_older_names_last() {
        let environment = of(&[
            ("PYPI_MIRROR_URL", "http://old/"),
            ("DIB_PYPI_MIRROR_URL_2", "http://two/"),
            ("DIB_PYPI_MIRROR_URL_10", "http://ten/"),
            ("DIB_PYPI_MIRROR_URL", "http://base/"),
            ("DIB_PYPI_MIRROR_URL_3", ""),
        ]);
        let (layer, _, notes) = read(&environment);
        assert_eq!(layer.indexes.unwrap(), ["http://base/", "http://ten/", "http://two/", "http://old/"]);
        assert_eq!(notes.len(), 2, "{notes:#?}");
    }

    #[test]
    fn a_numbered_mirror_without_the_base_is_used_and_noted() {
        let (layer, _, notes) = read(&of(&[("DIB_PYPI_MIRROR_URL_1", "http://one/")]));
        assert_eq!(layer.indexes.unwrap(), ["http://one/"]);
        assert!(notes[0].contains("DIB_PYPI_MIRROR_URL is not set"));
    }

    #[test]
    fn any_value_but_the_empty_one_is_offline() {
        for (value, expected, count) in [("1", Some(true), 0), ("0", Some(true), 1), ("", None, 0)] {
            let (layer, _, notes) = read(&of(&[("DIB_OFFLINE", value)]));
            assert_eq!((layer.offline, notes.len()), (expected, count), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_sorted_names(suffixes in proptest::collection::btree_set("[0-9A-Z]{1,4}", 1..8)) {
            let list: Vec<(String, String)> =
                suffixes.iter().map(|s| (format!("DIB_PYPI_MIRROR_URL_{s}"), format!("http://{s}/"))).collect();
            let borrowed: Vec<(&str, &str)> = list.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let (layer, _, _) = read(&of(&borrowed));
            let expected: Vec<String> = suffixes.iter().map(|s| format!("http://{s}/")).collect();
            prop_assert_eq!(layer.indexes.unwrap(), expected);
        }
    }
}
