//! pip's configuration file, pip documentation "Configuration".

use std::fmt::Write;

use super::Indexes;

/// Sections whose own index settings would win over `[global]`: pip ranks sections before files, so a command section of any
/// file of the image beats the `[global]` of ours.
const COMMANDS: [&str; 5] = ["install", "download", "wheel", "lock", "index"];

/// The whole file. Empty values are needed: they clear what a file of lower rank says in the same section.
pub fn text(indexes: &Indexes) -> String {
    let mut out = String::from("# Laid over by dropcloth for the length of one step.\n[global]\n");
    index_keys(&mut out, indexes);
    match &indexes.proxy {
        Some(proxy) => out.push_str(&format!("proxy = {proxy}\n")),
        None if indexes.offline => out.push_str("proxy =\n"),
        None => {}
    }
    if let Some(retries) = indexes.retries {
        let _ = writeln!(out, "retries = {retries}");
    }
    if let Some(timeout) = indexes.timeout {
        let _ = writeln!(out, "timeout = {timeout}");
    }
    // A cache would stay in the image, and nothing of it is needed beside a mirror.
    let no_cache = if indexes.pip_cache { "" } else { " true" };
    let _ = writeln!(out, "disable-pip-version-check = true\nno-cache-dir ={no_cache}");
    for command in COMMANDS.into_iter().chain(["list"]) {
        let _ = writeln!(out, "[{command}]");
        index_keys(&mut out, indexes);
    }
    out
}

fn index_keys(out: &mut String, indexes: &Indexes) {
    if let Some(links) = &indexes.links {
        // The index is cleared, not only switched off: a tool that reads the file itself must not find one of the image.
        let _ = writeln!(out, "index-url =\nextra-index-url =\nno-index = true\nfind-links = {links}");
        return;
    }
    let _ = writeln!(out, "index-url = {}", indexes.first());
    values(out, "extra-index-url", indexes.extra());
    values(out, "find-links", std::iter::empty());
    let hosts = indexes.trusted_hosts();
    if !hosts.is_empty() {
        values(out, "trusted-host", hosts.iter().map(String::as_str));
    }
}

/// A key once, its values one a line: pip's parser refuses a repeated key.
fn values<'a>(out: &mut String, key: &str, values: impl Iterator<Item = &'a str>) {
    let list: Vec<&str> = values.collect();
    match list.as_slice() {
        [] => {
            let _ = writeln!(out, "{key} =");
        }
        [one] => {
            let _ = writeln!(out, "{key} = {one}");
        }
        many => {
            let _ = writeln!(out, "{key} =");
            many.iter().for_each(|value| {
                let _ = writeln!(out, "    {value}");
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::indexes;
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// As Python's RawConfigParser reads it, which is strict about repeated keys.
    fn parse(text: &str) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
        let mut sections: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        let (mut section, mut key) = (String::new(), String::new());
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.to_owned();
                assert!(sections.insert(section.clone(), BTreeMap::new()).is_none(), "section {section} twice");
            } else if let Some(value) = line.strip_prefix("    ") {
                sections.get_mut(&section).unwrap().get_mut(&key).unwrap().push(value.to_owned());
            } else {
                let (name, value) = line.split_once(" =").unwrap();
                key = name.to_owned();
                let values: Vec<String> = Some(value.trim().to_owned()).into_iter().filter(|v| !v.is_empty()).collect();
                let old = sections.get_mut(&section).unwrap().insert(key.clone(), values);
                assert!(old.is_none(), "key {key} twice in {section}");
            }
        }
        sections
    }

    #[test]
    fn the_first_mirror_is_the_index_and_the_others_are_extra_in_order() {
        let all = parse(&text(&indexes(&["http://a/simple", "http://b/simple"], true)));
        for section in ["global", "install", "download", "wheel", "lock", "index", "list"] {
            assert_eq!(all[section]["index-url"], ["http://a/simple"], "{section}");
            assert_eq!(
                all[section]["extra-index-url"],
                ["http://b/simple", crate::settings::OFFICIAL_INDEX],
                "{section}"
            );
            assert_eq!(all[section]["trusted-host"], ["a", "b"], "{section}");
        }
    }

    #[test]
    fn the_strict_profile_has_no_index_in_any_section() {
        let all = parse(&text(&super::super::tests::strict()));
        for (name, section) in &all {
            assert_eq!(section["no-index"], ["true"], "{name}");
            assert_eq!(section["find-links"], ["file:///tmp/pypi/links.html"], "{name}");
            assert!(section["index-url"].is_empty() && section["extra-index-url"].is_empty(), "{name}");
        }
    }

    #[test]
    fn a_local_mirror_alone_clears_extras_links_and_proxy_and_trusts_no_host() {
        let all = parse(&text(&indexes(&["file:///tmp/pypi"], false)));
        assert_eq!(all["global"]["index-url"], ["file:///tmp/pypi"]);
        for key in ["extra-index-url", "find-links", "proxy"] {
            assert!(all["global"][key].is_empty(), "{key}");
        }
        let keys: BTreeSet<&String> = all.values().flat_map(BTreeMap::keys).collect();
        assert!(!keys.iter().any(|k| *k == "trusted-host" || *k == "log"));
        assert_eq!(all["global"]["no-cache-dir"], ["true"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_list_of_mirrors_comes_back_from_the_file(urls in proptest::collection::vec("(http|https|file)://[a-z0-9./%@:_+-]{1,30}", 1..6)) {
            let mut urls: Vec<&str> = urls.iter().map(String::as_str).collect();
            // One that is listed twice is asked once.
            let mut seen = BTreeSet::new();
            urls.retain(|url| seen.insert(*url));
            let all = parse(&text(&indexes(&urls, false)));
            let read: Vec<&String> = all["install"]["index-url"].iter().chain(&all["install"]["extra-index-url"]).collect();
            prop_assert_eq!(read, urls);
        }
    }
}
