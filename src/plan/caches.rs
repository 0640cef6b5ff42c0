//! Caches: directories of this machine that steps share, and what makes programs use them.

use std::path::{Path, PathBuf};

use super::{Content, Entry};
use crate::image::account::Account;
use crate::image::survey::Survey;
use crate::settings::{Cache, Settings, WhenChanged};

/// apt reads the files of this folder in the order of their names.
const APT_CONFIGURATION: &str = "/etc/apt/apt.conf.d/zz-dropcloth";
/// Container images of Debian and Ubuntu have this one: it empties the archives after every run of apt.
const APT_CLEANER: &str = "/etc/apt/apt.conf.d/docker-clean";
/// apt(8) removes what it has installed, apt-get(8) does not.
const APT_KEEPS: &str =
    "APT::Keep-Downloaded-Packages \"true\";\nBinary::apt::APT::Keep-Downloaded-Packages \"true\";\n";

/// Where a cache is in the step's view.
pub fn target(cache: &Cache, account: &Account) -> PathBuf {
    let own = || match cache.name.as_str() {
        "apt" => PathBuf::from("/var/cache/apt/archives"),
        name if account.home == Path::new("/") => Path::new("/root/.cache").join(name),
        name => account.home.join(".cache").join(name),
    };
    cache.target.clone().unwrap_or_else(own)
}

/// The paths inside the image that matter for the caches.
pub fn wanted(settings: &Settings, account: &Account) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = settings.caches.value.iter().map(|cache| target(cache, account)).collect();
    if has_apt(settings) {
        paths.extend([APT_CONFIGURATION, APT_CLEANER].map(PathBuf::from));
    }
    paths
}

/// The directory of this machine. Images of one distribution and release share it, each owner by himself: what is built on one
/// release need not run on another, and pip leaves a cache alone that is somebody else's.
pub fn source(cache: &Cache, settings: &Settings, survey: &Survey, owner: u32) -> PathBuf {
    let release = survey.release.as_deref().unwrap_or("other");
    let name = if owner == 0 { cache.name.clone() } else { format!("{}.{owner}", cache.name) };
    settings.cache_root.join(release).join(name)
}

/// Variables of the step.
pub fn variables(settings: &Settings, account: &Account) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    for cache in &settings.caches.value {
        let place = target(cache, account).display().to_string();
        match cache.name.as_str() {
            "pip" => all.push(("PIP_CACHE_DIR", place)),
            // The cache is another mount, and a hard link to it fails first.
            "uv" => all.extend([("UV_CACHE_DIR", place), ("UV_LINK_MODE", "copy".to_owned())]),
            _ => {}
        }
    }
    all
}

/// Files laid over so that what is in the cache stays there; the second only where the image has it.
pub fn overrides(settings: &Settings) -> Vec<(&'static Path, Entry, bool)> {
    if !has_apt(settings) {
        return Vec::new();
    }
    let file = |text: &str| Entry::File {
        content: Content::Text(text.to_owned()),
        mode: 0o644,
        owner: (0, 0),
        when_changed: WhenChanged::Drop,
        what: "apt keeps its archives in the cache".to_owned(),
    };
    vec![(Path::new(APT_CONFIGURATION), file(APT_KEEPS), false), (Path::new(APT_CLEANER), file(""), true)]
}

fn has_apt(settings: &Settings) -> bool {
    settings.caches.value.iter().any(|cache| cache.name == "apt" && cache.target.is_none())
}
