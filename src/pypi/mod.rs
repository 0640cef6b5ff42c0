//! Python packaging as text and data: which index comes first, and every file and variable that says so.
//!
//! Pure: nothing here reads a file, a variable or the clock. docs/python.md says which tool reads what.

pub mod distribution;
pub mod effective;
pub mod environment;
pub mod lock;
pub mod metadata;
pub mod overrides;
pub mod pdm_toml;
pub mod pip_conf;
pub mod pydistutils;
pub mod requirement;
pub mod requirements;
pub mod simple_page;
pub mod upload_time;
pub mod uv_toml;

use std::path::Path;

use serde::Serialize;

use crate::settings::{Network, Settings};

/// Where the local mirror is bound inside the image.
pub const MIRROR_MOUNT: &str = "/tmp/pypi";
/// The local mirror as an index.
pub const MIRROR_URL: &str = "file:///tmp/pypi";
/// The page in the local mirror with a link to every file, for pip's `find-links`.
pub const LINKS_PAGE: &str = "links.html";
/// The proxy of a step in a network of its own with a door: squid's port, which people know.
pub const PROXY_PORT: u16 = 3128;
/// The same as a URL.
pub const PROXY_URL: &str = "http://127.0.0.1:3128";
/// Where dropcloth's own copies of the configuration are, for the variables that name one file.
pub const OWN_DIRECTORY: &str = "/run/dropcloth";

/// One index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Index {
    /// Its URL, as given.
    pub url: String,
    /// It is the official one.
    pub official: bool,
}

/// The indexes of a run, in order, with pip's settings that go with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Indexes {
    /// Mirrors in the order of the settings, then the official index when it is used.
    list: Vec<Index>,
    /// The one index of tools that know only one.
    #[serde(skip)]
    single: String,
    /// No network.
    pub offline: bool,
    /// The flat page of the local mirror's files, for the strict profile: then pip has no index at all, and no option of a
    /// requirements file can give it one.
    pub links: Option<String>,
    /// pip's `retries`.
    pub retries: Option<u32>,
    /// Attempts of uv after the first, where they were set.
    #[serde(skip)]
    uv_retries: Option<u32>,
    /// pip's `timeout`, seconds.
    pub timeout: Option<u32>,
    /// The proxy that is the step's only way to a network.
    pub proxy: Option<String>,
    /// pip has a cache that is not in the image.
    pub pip_cache: bool,
    /// uv has one.
    pub uv_cache: bool,
}

impl Indexes {
    /// The indexes that `settings` ask for: the mirrors, and last the official index unless offline or unwanted. `local`: the
    /// directory of the local mirror is there, and its tree is in this directory below (empty: in itself).
    pub fn from(settings: &Settings, local: Option<&Path>) -> Indexes {
        let mirrors = match settings.indexes.value.as_slice() {
            [] => vec![MIRROR_URL.to_owned()],
            urls => urls.to_vec(),
        };
        let mirrors: Vec<String> = mirrors.into_iter().map(|url| in_tree(url, local)).collect();
        let official_index = &settings.official_index.value;
        let single = mirrors.iter().rfind(|url| !same(url, official_index)).or(mirrors.last()).cloned();
        let mut list: Vec<Index> = Vec::new();
        for url in mirrors {
            if !list.iter().any(|i| i.url == url) {
                list.push(Index { url, official: false });
            }
        }
        // Without a network the official index is out of reach, and pip would try it for half a minute a package.
        let offline = settings.offline.value || settings.network.value == Some(Network::None);
        let official = settings.use_official.value && !offline && !official_index.is_empty();
        if official && !list.iter().any(|i| same(&i.url, official_index)) {
            list.push(Index { url: official_index.clone(), official: true });
        }
        let strict = local.is_some() && offline && list.len() == 1 && is_local(&list[0].url);
        let only_files = list.iter().all(|i| is_file(&i.url));
        let proxied = settings.network.value == Some(Network::Mirrors);
        // What the proxy refuses stays refused, and pip waits before every attempt after the second.
        let retries = if only_files { Some(0) } else { proxied.then_some(1) };
        Indexes {
            list,
            single: single.unwrap_or_else(|| MIRROR_URL.to_owned()),
            offline,
            links: strict.then(|| format!("{MIRROR_URL}/{LINKS_PAGE}")),
            // A file is there or not: waiting for it to come is only slow.
            retries: settings.retries.value.or(retries),
            uv_retries: settings.retries.value,
            timeout: settings.timeout.value,
            proxy: proxied.then(|| PROXY_URL.to_owned()),
            pip_cache: has_cache(settings, "pip"),
            uv_cache: has_cache(settings, "uv"),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Index> {
        self.list.iter()
    }

    /// pip's `index-url`.
    pub fn first(&self) -> &str {
        self.list.first().map_or(MIRROR_URL, |i| &i.url)
    }

    /// pip's `extra-index-url`.
    pub fn extra(&self) -> impl Iterator<Item = &str> {
        self.list.iter().skip(1).map(|i| i.url.as_str())
    }

    /// The one index of tools that know only one (easy_install, pdm): the last listed mirror, also where it is listed before,
    /// and never the official index while there is another.
    pub fn single(&self) -> &str {
        &self.single
    }

    /// Whether any of them is on the network.
    pub fn needs_network(&self) -> bool {
        self.list.iter().any(|i| !is_file(&i.url))
    }

    /// pip's `trusted-host`: `host[:port]` of every mirror on plain http, each once.
    pub fn trusted_hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = Vec::new();
        for index in &self.list {
            let Some(rest) = index.url.strip_prefix("http://") else { continue };
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default().to_owned();
            if !host.is_empty() && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }
}

fn has_cache(settings: &Settings, name: &str) -> bool {
    settings.caches.value.iter().any(|cache| cache.name == name)
}

/// The local mirror is asked where its tree is.
fn in_tree(url: String, local: Option<&Path>) -> String {
    match local {
        Some(below) if !below.as_os_str().is_empty() && same(&url, MIRROR_URL) => {
            format!("{MIRROR_URL}/{}", below.display())
        }
        _ => url,
    }
}

/// Whether `url` is in the local mirror as the step sees it.
pub fn is_local(url: &str) -> bool {
    url.strip_prefix("file://").is_some_and(|path| Path::new(path).starts_with(MIRROR_MOUNT))
}

/// The same index: a slash at the end makes no other.
fn same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn is_file(url: &str) -> bool {
    url.starts_with("file:")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::settings::OFFICIAL_INDEX;

    /// Settings with nothing but defaults, then `change`.
    fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
        let nowhere = Path::new("/nonexistent");
        let none = (Default::default(), Default::default(), Default::default());
        let mut settings = crate::settings::resolve(&none.0, &none.1, &none.2, nowhere, nowhere).unwrap();
        change(&mut settings);
        settings
    }

    /// Indexes for the tests of this room; offline when `official` is not wanted.
    pub(crate) fn indexes(urls: &[&str], official: bool) -> Indexes {
        Indexes::from(
            &settings(|s| {
                s.indexes.value = urls.iter().map(|u| (*u).to_owned()).collect();
                s.offline.value = !official;
            }),
            None,
        )
    }

    /// A local mirror that is a tree itself.
    fn here() -> Option<&'static Path> {
        Some(Path::new(""))
    }

    /// Indexes of the strict profile.
    pub(crate) fn strict() -> Indexes {
        Indexes::from(&settings(|s| s.offline.value = true), here())
    }

    fn urls(indexes: &Indexes) -> Vec<&str> {
        indexes.iter().map(|i| i.url.as_str()).collect()
    }

    #[test]
    fn the_single_index_is_the_last_mirror_and_never_the_official_one() {
        let (a, b) = ("http://a/simple", "http://b/simple");
        let with_slash = format!("{OFFICIAL_INDEX}/");
        let table = [
            (vec![a, b], b),
            (vec![a, b, a], a),
            (vec![a, OFFICIAL_INDEX], a),
            (vec![a, &with_slash], a),
            (vec![OFFICIAL_INDEX], OFFICIAL_INDEX),
            (vec![], MIRROR_URL),
        ];
        for (list, expected) in table {
            assert_eq!(indexes(&list, true).single(), expected, "{list:?}");
        }
    }

    #[test]
    fn the_official_index_comes_last_and_only_with_a_network() {
        let online = settings(|_| ());
        assert_eq!(urls(&Indexes::from(&online, here())), [MIRROR_URL, OFFICIAL_INDEX]);
        let without: [fn(&mut Settings); 4] = [
            |s| s.offline.value = true,
            |s| s.use_official.value = false,
            |s| s.network.value = Some(Network::None),
            |s| s.official_index.value.clear(),
        ];
        for change in without {
            let indexes = Indexes::from(&settings(change), here());
            assert_eq!((urls(&indexes), indexes.retries), (vec![MIRROR_URL], Some(0)));
        }
        let listed = [OFFICIAL_INDEX, "http://a/simple"];
        assert_eq!(urls(&indexes(&listed, true)), listed);
    }

    #[test]
    fn a_local_mirror_with_its_tree_below_is_asked_there() {
        let nested = Indexes::from(&settings(|s| s.offline.value = true), Some(Path::new("simple")));
        assert_eq!((urls(&nested), nested.single()), (vec!["file:///tmp/pypi/simple"], "file:///tmp/pypi/simple"));
        assert!(nested.links.is_some());
    }

    #[test]
    fn the_strict_profile_is_for_one_local_mirror_without_a_network() {
        assert_eq!(strict().links.as_deref(), Some("file:///tmp/pypi/links.html"));
        let of = |urls: &[&str], offline, local| {
            let change = |s: &mut Settings| {
                s.indexes.value = urls.iter().map(|u| (*u).to_owned()).collect();
                s.offline.value = offline;
            };
            Indexes::from(&settings(change), here().filter(|_| local)).links.is_some()
        };
        assert!(of(&["file:///tmp/pypi/"], true, true));
        assert!(!of(&[], false, true), "online");
        assert!(!of(&[], true, false), "no directory");
        assert!(!of(&["http://a/simple"], true, true), "on the network");
        assert!(!of(&[MIRROR_URL, "file:///srv/other"], true, true), "two");
        assert!(!of(&["file:///tmp/pypi-other"], true, true), "another directory");
    }

    #[test]
    fn retries_are_as_set_else_none_for_files_else_of_the_tool() {
        let retries = |urls: &[&str], official, set| {
            Indexes::from(
                &settings(|s| {
                    s.indexes.value = urls.iter().map(|u| (*u).to_owned()).collect();
                    s.use_official.value = official;
                    s.retries.value = set;
                }),
                here(),
            )
            .retries
        };
        assert_eq!(retries(&[], false, None), Some(0));
        assert_eq!(retries(&[], false, Some(7)), Some(7));
        assert_eq!(retries(&[], true, None), None);
        assert_eq!(retries(&["http://a/simple"], false, None), None);
    }

    #[test]
    fn only_plain_http_mirrors_are_trusted_hosts_with_their_port_and_without_credentials() {
        let all = [
            "http://user:secret@mirror.example:8080/simple",
            "https://safe.example/simple",
            "file:///tmp/pypi",
            "http://[::1]:3141/root/pypi/+simple/",
            "http://mirror.example:8080/other",
        ];
        assert_eq!(indexes(&all, true).trusted_hosts(), ["mirror.example:8080", "[::1]:3141"]);
    }
}
