//! Python packaging as text and data: which index comes first, and every file and variable that says so.
//!
//! Pure: nothing here reads a file, a variable or the clock. docs/python.md says which tool reads what.

pub mod environment;
pub mod overrides;
pub mod pdm_toml;
pub mod pip_conf;
pub mod pydistutils;
pub mod uv_toml;

use serde::Serialize;

use crate::settings::{Network, Settings};

/// Where the local mirror is bound inside the image.
pub const MIRROR_MOUNT: &str = "/tmp/pypi";
/// The local mirror as an index.
pub const MIRROR_URL: &str = "file:///tmp/pypi";
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
    /// No network.
    pub offline: bool,
    /// pip's `retries`.
    pub retries: Option<u32>,
    /// pip's `timeout`, seconds.
    pub timeout: Option<u32>,
}

impl Indexes {
    /// The indexes that `settings` ask for: the mirrors, and last the official index unless offline or unwanted.
    pub fn from(settings: &Settings) -> Indexes {
        let mirrors = match settings.indexes.value.as_slice() {
            [] => vec![MIRROR_URL.to_owned()],
            urls => urls.to_vec(),
        };
        let mut list: Vec<Index> = Vec::new();
        for url in mirrors {
            if !list.iter().any(|i| i.url == url) {
                list.push(Index { url, official: false });
            }
        }
        // Without a network the official index is out of reach, and pip would try it for half a minute a package.
        let offline = settings.offline.value || settings.network.value == Some(Network::None);
        let official = settings.use_official.value && !offline;
        let url = settings.official_index.value.clone();
        if official && !list.iter().any(|i| i.url.trim_end_matches('/') == url.trim_end_matches('/')) {
            list.push(Index { url, official: true });
        }
        let only_files = list.iter().all(|i| is_file(&i.url));
        Indexes {
            list,
            offline,
            // A file is there or not: waiting for it to come is only slow.
            retries: settings.retries.value.or(only_files.then_some(0)),
            timeout: settings.timeout.value,
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

    /// The one index of tools that know only one (easy_install, pdm): the last listed mirror, never the official index.
    pub fn single(&self) -> &str {
        self.list.iter().rev().find(|i| !i.official).map_or(MIRROR_URL, |i| &i.url)
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

fn is_file(url: &str) -> bool {
    url.starts_with("file:")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Indexes for the tests of this room.
    pub(crate) fn indexes(urls: &[&str], official: bool) -> Indexes {
        let mut list: Vec<Index> = urls.iter().map(|u| Index { url: (*u).to_owned(), official: false }).collect();
        if official {
            list.push(Index { url: crate::settings::OFFICIAL_INDEX.to_owned(), official: true });
        }
        Indexes { list, offline: !official, retries: None, timeout: None }
    }

    #[test]
    fn the_single_index_is_the_last_mirror_and_never_the_official_one() {
        assert_eq!(indexes(&["http://a/simple", "http://b/simple"], true).single(), "http://b/simple");
        assert_eq!(indexes(&[MIRROR_URL], true).single(), MIRROR_URL);
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
